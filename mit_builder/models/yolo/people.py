"""People by ultralytics' YOLO26 pose networks: a box and 17 COCO points each, and from those of the head a face box.

The networks are end-to-end: their output needs no suppression of boxes, hence no torchvision. ultralytics is AGPL-3.0
and is imported here alone, offline, without its settings file, its installer and its usage statistics; only its
networks and its resizing are used. Its .pt files never reach its own loader (see `yolo_file`).

Somebody seen from behind has no face, but is there: the box of the head comes from the shoulders then, and its score is
the low confidence of nose and eyes, so that selection counts a bystander and no person. A person without head and
shoulders in the picture is left out.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

from mit_builder.errors import ModelError, StageUnavailable
from mit_builder.labels.tracking import suppress
from mit_builder.models.base import Detections, Floats, Image
from mit_builder.models.torch_backend import load_strictly, nn, pick_device, torch
from mit_builder.models.yolo.checkpoint import read_yolo

SIDE_PX = 640
"""Longer side of the picture as the network sees it: what it was trained on (ultralytics)."""
SEEN = 0.5
"""Confidence from which a point counts as seen."""
NOSE_AND_EYES, HEAD, SHOULDERS = slice(0, 3), slice(0, 5), slice(5, 7)
"""Points in COCO's order: nose, eyes, ears, shoulders; left ones first."""

FACE_OF_DISTANCE = np.array(
    [
        [0, 3.53, 3.53, 1.84, 1.84],
        [3.53, 0, 3.15, 2.94, 1.80],
        [3.53, 3.15, 0, 1.80, 2.94],
        [1.84, 2.94, 1.80, 0, 1.63],
        [1.84, 1.80, 2.94, 1.63, 0],
    ],
    np.float32,
)
"""Height of the face box / distance of two head points where the head's turn shortens it least. Turning shortens some
distances and not others, so the largest product is the height.

This and the numbers below were measured on 1093 faces of eleven clips (six real, five generated; see
docs/VALIDATION.md): S3FD-like boxes of MediaPipe's face detector against the points of MediaPipe's pose, as the
weights of YOLO were not at hand. The boxes then overlap the detector's by an IoU of 0.83 in the median, 0.77
without the far ear."""
CENTRE_BELOW = np.array([-0.12, 0.046, 0.046, -0.037, -0.037], np.float32)
"""Centre of the face box below each head point / height of the box."""
WIDTH_OF_HEIGHT = 0.78
FACE_OF_SHOULDERS, HEAD_ABOVE_SHOULDERS = 0.77, 0.64
"""Height of the box, and its centre above the middle of the shoulders / distance of the shoulders."""
MAX_IOU, MAX_INSIDE = 0.3, 0.6
"""Face boxes that share more belong to one person, as in `mediapipe_people`."""


class YoloPeople:
    """See `PeopleDetector`. Every picture is seen whole: `thorough` makes no difference, `look_again` finds nothing.

    On a GPU several pictures go through the network at once. On the CPU it is one by one, so that equal pictures give
    equal boxes to the last bit.
    """

    def __init__(self, weights: Path, model: str, *, confidence: float, device: str, batch: int) -> None:
        """Load the network.

        Args:
            weights: ultralytics' .pt file.
            model: its name, e.g. "yolo26x-pose".
            confidence: people with a lower score are dropped.
            device: as torch names it.
            batch: pictures a GPU takes at once.

        Raises:
            StageUnavailable: torch, ultralytics or the device is missing, or the file is none of this model's.
        """
        self._device = pick_device(device)
        self._network = load_network(architecture(model), weights).to(self._device)
        self._confidence = confidence
        self.batch = 1 if self._device.type == "cpu" else batch

    def detect(self, images: Sequence[Image], *, thorough: Sequence[bool]) -> list[Detections]:
        found: list[Detections] = []
        for start in range(0, len(images), self.batch):
            found += self._detect(images[start : start + self.batch])
        return found

    def look_again(self, image: Image, face_boxes_xyxy: Floats) -> Detections:
        return people([], [], np.empty((0, 17, 3), np.float32), image.shape[1::-1])

    def close(self) -> None:
        """Free the network."""
        del self._network

    def _detect(self, images: Sequence[Image]) -> list[Detections]:
        """Pictures of one size."""
        from ultralytics.data.augment import LetterBox
        from ultralytics.utils import ops

        small = np.stack([LetterBox(SIDE_PX, auto=True, stride=32)(image=image) for image in images])
        try:
            with torch.inference_mode():
                batch = torch.from_numpy(small).to(self._device).permute(0, 3, 1, 2).float() / 255
                rows = self._network(batch)[0].float().cpu()
        except RuntimeError as error:
            raise ModelError(f"yolo failed: {' '.join(str(error).split())}") from error
        found = []
        for image, all_rows in zip(images, rows, strict=True):
            kept = all_rows[all_rows[:, 4] >= self._confidence]
            boxes = ops.scale_boxes(small.shape[1:3], kept[:, :4], image.shape)
            points = ops.scale_coords(small.shape[1:3], kept[:, 6:].reshape(-1, 17, 3), image.shape)
            found.append(people(boxes.numpy(), kept[:, 4].numpy(), points.numpy(), image.shape[1::-1]))
        return found


def people(boxes_xyxy: npt.ArrayLike, scores: npt.ArrayLike, points: Floats, wh: Sequence[int]) -> Detections:
    """Faces and bodies of the people in a picture of size `wh`, each once, the best score first.

    Args:
        boxes_xyxy: (n, 4) people.
        scores: (n,) their scores.
        points: (n, 17, 3) x, y, confidence.
        wh: width and height, pixels.
    """
    bodies, faces = np.asarray(boxes_xyxy, np.float32).reshape(-1, 4), head_boxes(points)
    face_scores = np.asarray(scores, np.float32).reshape(-1) * points[:, NOSE_AND_EYES, 2].max(axis=1, initial=0)
    there = np.flatnonzero(np.isfinite(faces).all(axis=1))
    chosen = there[suppress(faces[there], face_scores[there], max_iou=MAX_IOU, max_inside=MAX_INSIDE)]
    faces, bodies = faces[chosen], bodies[chosen]
    low, high = np.minimum(bodies[:, :2], faces[:, :2]), np.maximum(bodies[:, 2:], faces[:, 2:])
    whole = np.clip(np.concatenate([low, high], axis=1), 0, np.array([*wh, *wh], np.float32))
    return Detections(faces, face_scores[chosen], whole)


def head_boxes(points: Floats) -> Floats:
    """(n, 17, 3) points -> (n, 4) S3FD-like face boxes; of the head's place where the face is turned away, else NaN."""
    places, seen = points[..., :2], points[..., 2] >= SEEN
    height, centre = _from_face(places[:, HEAD], seen[:, HEAD])
    behind = _from_shoulders(places[:, SHOULDERS])
    has_face = seen[:, NOSE_AND_EYES].any(axis=1) & (height > 0)
    has_shoulders = seen[:, SHOULDERS].all(axis=1)
    height = np.where(has_face, height, np.where(has_shoulders, behind[0], np.nan))[:, None]
    centre = np.where(has_face[:, None], centre, behind[1])
    reach = np.concatenate([height * WIDTH_OF_HEIGHT, height], axis=1) / 2
    return np.asarray(np.concatenate([centre - reach, centre + reach], axis=1), np.float32)


def _from_face(places_xy: Floats, seen: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Heights (n,) and centres (n, 2) from the head points (n, 5, 2) that are seen (n, 5)."""
    distances = np.linalg.norm(places_xy[:, :, None] - places_xy[:, None], axis=-1) * FACE_OF_DISTANCE
    height = np.where(seen[:, :, None] & seen[:, None], distances, 0).max(axis=(1, 2), initial=0)
    centres = places_xy + np.stack([0 * CENTRE_BELOW, CENTRE_BELOW], axis=1) * height[:, None, None]
    n_seen = np.maximum(seen.sum(axis=1), 1)[:, None]
    return height, (centres * seen[..., None]).sum(axis=1) / n_seen


def _from_shoulders(places_xy: Floats) -> tuple[Floats, Floats]:
    """Heights (n,) and centres (n, 2) from the shoulders (n, 2, 2)."""
    distance = np.linalg.norm(places_xy[:, 0] - places_xy[:, 1], axis=1)
    above = np.stack([0 * distance, HEAD_ABOVE_SHOULDERS * distance], axis=1)
    return FACE_OF_SHOULDERS * distance, places_xy.mean(axis=1) - above


def architecture(model: str) -> dict[str, Any]:
    """The network's configuration inside the ultralytics package, for one class: people.

    Raises:
        StageUnavailable: ultralytics is not installed.
    """
    return {**_tasks().yaml_model_load(f"{model}.yaml"), "nc": 1}


def load_network(config: dict[str, Any], weights: Path) -> nn.Module:
    """The network for inference on the CPU, with its end-to-end head alone.

    Raises:
        StageUnavailable: ultralytics is not installed, or the file is none of this network's.
    """
    network = _tasks().PoseModel(config, verbose=False)
    head = f"model.{len(network.model) - 1}."
    # Head of the other kind of output, and what only training needs: not in every file, and dropped by `fuse`.
    unused = ("cv2.", "cv3.", "cv4.", "cv4_kpts.", "cv4_sigma.", "one2one_cv4_sigma.", "flow_model.")
    load_strictly(network, weights, unused=[head + name for name in unused], read=read_yolo)
    network.eval().requires_grad_(False)
    network.model[-1].end2end = True
    return network.fuse(verbose=False)


@cache
def _tasks() -> Any:
    """Ultralytics' module of networks."""
    try:
        with _quietly():
            from ultralytics.nn import tasks
            from ultralytics.utils import SETTINGS

            SETTINGS.update(sync=False)
    except ModuleNotFoundError as error:
        hint = "pip install 'mit-builder[paper]' (ultralytics is AGPL-3.0)"
        raise StageUnavailable(f"this model needs {error.name}: {hint}") from error
    return tasks


@contextmanager
def _quietly() -> Iterator[None]:
    """Importing ultralytics asks for torchvision's version, looks for the internet and writes settings: not here."""
    version = metadata.version

    def version_or_none(name: str) -> str:
        try:
            return version(name)
        except metadata.PackageNotFoundError:
            if name != "torchvision":
                raise
            return "0.0.0"

    with tempfile.TemporaryDirectory() as folder:
        switches = {
            "YOLO_OFFLINE": "true",
            "YOLO_AUTOINSTALL": "false",
            "YOLO_VERBOSE": "false",
            "YOLO_CONFIG_DIR": folder,
        }
        with mock.patch.dict(os.environ, switches), mock.patch.object(metadata, "version", version_or_none):
            yield
