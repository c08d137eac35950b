"""The two people: pictures in the public domain that ship in Python packages, with landmarks and outline.

A is Leonardo's Mona Lisa (painted about 1503; from the tests of the `Wand` source distribution), B is Grace Hopper
(1906-1992), official portrait by James S. Davis, U.S. Navy, 1984 (matplotlib's sample data).
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from demo.voice import Voice

Points = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]

WAND = "Wand==0.7.2"
MONA_LISA = "tests/assets/mona-lisa.jpg"


@dataclass(frozen=True)
class Sitter:
    """What is known by hand about a picture; lengths in pixels of the file."""

    title: str
    file: str
    sha256: str
    voice: Voice
    enlarge: int
    """Factor by which the picture is enlarged before anything else."""
    pivot_xy: tuple[float, float]
    """Where the head turns: the base of the neck."""
    neck_y: tuple[float, float]
    """The head's movement fades out from the first to the second height."""
    left_shoulder_xy: tuple[float, float]
    """The subject's left, so at the larger x."""
    right_shoulder_xy: tuple[float, float]
    facing: float
    """Share of the face's width by which the still face is turned to the picture's right."""
    mouth_gain: float
    """How much wider than the usual this mouth opens."""
    teeth_rgb: tuple[int, int, int]


SITTERS = {
    "A": Sitter(
        title="Mona Lisa, Leonardo da Vinci, about 1503",
        file="mona-lisa.jpg",
        sha256="8217b583b9396d03d65f24db114d1b056426e9ab06dfa051940e84c577230dcb",
        voice=Voice("en-us+f3", 150, 55),
        enlarge=2,
        pivot_xy=(190, 262),
        neck_y=(216, 282),
        left_shoulder_xy=(299, 280),
        right_shoulder_xy=(128, 289),
        facing=0.06,  # her nose is a fifth of the face's width off the middle otherwise
        mouth_gain=1.35,  # a small mouth in thin paint: otherwise face meshes see half of its opening
        teeth_rgb=(160, 138, 92),
    ),
    "B": Sitter(
        title="Grace Hopper, James S. Davis for the U.S. Navy, 1984",
        file="grace_hopper.jpg",
        sha256="a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130",
        voice=Voice("en-gb-x-rp+f2", 140, 32),
        enlarge=1,
        pivot_xy=(268, 365),
        neck_y=(338, 402),
        left_shoulder_xy=(448, 398),
        right_shoulder_xy=(88, 398),
        facing=0.0,
        mouth_gain=1.0,
        teeth_rgb=(204, 190, 164),
    ),
}


@dataclass(frozen=True)
class Portrait:
    """A sitter's picture, enlarged, with everything the renderer needs, in its pixels."""

    sitter: Sitter
    image: Image
    """(h, w, 3) RGB."""
    alpha: npt.NDArray[np.float32]
    """(h, w) 1 on the person, 0 on the background."""
    landmarks: Points
    """(468, 2) MediaPipe's face mesh."""


def load_portraits(people: Collection[str], folder: Path | None = None) -> dict[str, Portrait]:
    """The portraits of these people; `folder` may hold mona-lisa.jpg, which is fetched otherwise.

    Raises:
        SystemExit: a picture is not the expected one.
    """
    pictures = {"A": lambda: _mona_lisa(folder), "B": _hopper}
    return {person: _portrait(SITTERS[person], pictures[person]()) for person in sorted(people)}


def _hopper() -> bytes:
    import matplotlib.cbook

    return Path(str(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))).read_bytes()


def _mona_lisa(folder: Path | None) -> bytes:
    return (folder / SITTERS["A"].file).read_bytes() if folder else fetch_mona_lisa()


def fetch_mona_lisa() -> bytes:
    """The JPEG out of the source distribution of `Wand`, through pip."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*command, "--dest", folder, WAND], check=True)
        (archive,) = Path(folder).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            name = next(n for n in tar.getnames() if n.endswith(MONA_LISA))
            member = tar.extractfile(name)
            if member is None:
                raise SystemExit(f"{name} in {WAND} is not a file")
            return member.read()


def _portrait(sitter: Sitter, data: bytes) -> Portrait:
    digest = hashlib.sha256(data).hexdigest()
    if digest != sitter.sha256:
        raise SystemExit(f"{sitter.file} has sha256 {digest}, expected {sitter.sha256}")
    image = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    if sitter.enlarge > 1:
        image = cv2.fastNlMeansDenoisingColored(image, None, 3, 5, 5, 15)
        image = cv2.resize(image, None, fx=sitter.enlarge, fy=sitter.enlarge, interpolation=cv2.INTER_CUBIC)
    still: Image = image.astype(np.uint8)
    return Portrait(sitter, still, _outline(still), _landmarks(still))


def _landmarks(image: Image) -> Points:
    import mediapipe

    with mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=True, min_detection_confidence=0.3) as mesh:
        found = mesh.process(image).multi_face_landmarks
    height_px, width_px = image.shape[:2]
    return np.array([[point.x * width_px, point.y * height_px] for point in found[0].landmark])


def _outline(image: Image) -> npt.NDArray[np.float32]:
    """The person's matte: MediaPipe's selfie segmentation, hardened so that the old background does not show."""
    import mediapipe

    with mediapipe.solutions.selfie_segmentation.SelfieSegmentation(model_selection=0) as segmentation:
        probability = segmentation.process(image).segmentation_mask
    matte = np.clip((probability - 0.6) / 0.35, 0, 1)
    n_parts, parts, statistics, _ = cv2.connectedComponentsWithStats((matte > 0.5).astype(np.uint8))
    largest = 1 + int(np.argmax(statistics[1:n_parts, cv2.CC_STAT_AREA]))
    near = cv2.dilate((parts == largest).astype(np.uint8), np.ones((7, 7), np.uint8))
    soft: npt.NDArray[np.float32] = cv2.GaussianBlur(matte * near, (0, 0), 0.8).astype(np.float32)
    return soft
