"""Faces by MediaPipe's full-range detector, bodies by proportion. The weights come inside mediapipe's wheel.

mediapipe's own `FaceDetection(min_detection_confidence=…)` has no effect on the full-range model: its graph keeps a
threshold of 0.6 (checked in 0.10.21). Here the option of the graph's node is set: from 0.6 to 0.4, the frames that miss
a person fell from 23 % to 1 % on a real clip of two with a face in profile, and from 18 % to none on one of four.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np

from mit_builder.config.settings import DetectSettings
from mit_builder.errors import ModelError
from mit_builder.labels.tracking import suppress
from mit_builder.models.base import Detections, Floats, Image, PeopleDetector
from mit_builder.models.mediapipe.runtime import load_graph

_GRAPH = "mediapipe/modules/face_detection/face_detection_full_range_cpu.binarypb"
_WEIGHTS = "mediapipe/modules/face_detection/face_detection_full_range_sparse.tflite"
_THRESHOLD = "facedetectionfullrange__facedetection__TensorsToDetectionsCalculator.min_score_thresh"

UPWARD = 0.28
"""Share of its height by which MediaPipe's face box is extended upward to be like S3FD's (measured)."""
BODY_HALF_WIDTH, BODY_ABOVE, BODY_BELOW = 2.2, 1.4, 5.5
"""Body around the centre of MediaPipe's face box, in widths of the face."""
TILE_WH = (0.55, 0.7)
"""Size of a tile, in shares of the picture; four of them overlap."""
WINDOW_FACES, MIN_WINDOW_PX = 4.0, 128.0
"""Side of the square in which a lost face is searched again, in sides of the face; and at least."""
MAX_IOU = 0.3
MAX_INSIDE = 0.6
"""Two boxes that share more belong to one face (found in the whole picture and in a tile)."""
_EDGE_PX = 2
"""How close to a part's inner edge a face counts as touching it."""
_NO_FACES = np.empty((0, 5), np.float32)

Part = tuple[int, int, int, int]
"""x, y, right, bottom of a part of an image, whole pixels."""


class MediapipePeople:
    """Face detection on CPU (see `PeopleDetector`); images are judged one by one, so equal ones give equal boxes."""

    batch = 1

    def __init__(self, confidence: float) -> None:
        """Load the graph.

        Args:
            confidence: detections with a lower score are dropped.

        Raises:
            StageUnavailable: mediapipe is not installed.
        """
        self._graph = load_graph(
            _GRAPH,
            options={_THRESHOLD: confidence},
            outputs=["detections"],
            first={"image": np.zeros((192, 192, 3), np.uint8)},
        )

    def detect(self, images: Sequence[Image], *, thorough: Sequence[bool]) -> list[Detections]:
        """Faces as S3FD frames them (forehead to chin); `thorough` also looks into four tiles.

        Face boxes may leave the picture, body boxes do not.
        """
        return [self._detect(image, with_tiles) for image, with_tiles in zip(images, thorough, strict=True)]

    def _detect(self, image: Image, with_tiles: bool) -> Detections:
        height, width = image.shape[:2]
        whole = self._faces(image, (0, 0, width, height))
        parts = [self._faces(image, tile) for tile in tiles(width, height)] if with_tiles else []
        return _detections(whole, parts, (width, height))

    def look_again(self, image: Image, face_boxes_xyxy: Floats) -> Detections:
        """Faces in a square around each box; the same kinds of boxes as `detect`."""
        height, width = image.shape[:2]
        windows = [window(box, width, height) for box in face_boxes_xyxy]
        return _detections(_NO_FACES, [self._faces(image, part) for part in windows], (width, height))

    def close(self) -> None:
        """Free the graph."""
        self._graph.close()

    def _faces(self, image: Image, part: Part) -> Floats:
        """(n, 5) float32: MediaPipe's boxes of a part of the image, in pixels of the whole, and their scores.

        Faces that touch an edge of the part that is none of the image are left out: they may be cut.
        """
        x, y, right, bottom = part
        try:
            result = self._graph.process({"image": np.ascontiguousarray(image[y:bottom, x:right])})
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"mediapipe's face detector failed: {' '.join(str(error).split())}") from error
        rows = []
        for detection in result.detections or ():
            box = detection.location_data.relative_bounding_box
            left, top = x + box.xmin * (right - x), y + box.ymin * (bottom - y)
            size = box.width * (right - x), box.height * (bottom - y)
            rows.append((left, top, left + size[0], top + size[1], detection.score[0]))
        faces = np.array(rows, np.float32).reshape(-1, 5)
        low = np.where(np.array(part[:2]) > 0, np.array(part[:2]) + _EDGE_PX, -np.inf)
        high = np.where(np.array(part[2:]) < image.shape[1::-1], np.array(part[2:]) - _EDGE_PX, np.inf)
        return np.asarray(faces[(faces[:, :2] >= low).all(axis=1) & (faces[:, 2:4] <= high).all(axis=1)])


def _detections(whole: Floats, parts: list[Floats], wh: tuple[int, int]) -> Detections:
    """Each face once. Parts frame a face a little differently: one that the whole image shows keeps that box."""
    found = np.concatenate([whole, *parts])
    rank = found[:, 4] + (np.arange(len(found)) < len(whole))
    found = found[suppress(found[:, :4], rank, max_iou=MAX_IOU, max_inside=MAX_INSIDE)]
    return Detections(s3fd_like(found[:, :4]), found[:, 4].copy(), body_boxes(found[:, :4], *wh))


def s3fd_like(faces_xyxy: Floats) -> Floats:
    """(n, 4) MediaPipe face boxes -> (n, 4) boxes that start higher, as S3FD's do."""
    extended = faces_xyxy.copy()
    extended[:, 1] -= UPWARD * (faces_xyxy[:, 3] - faces_xyxy[:, 1])
    return extended


def body_boxes(faces_xyxy: Floats, width_px: int, height_px: int) -> Floats:
    """(n, 4) MediaPipe face boxes -> (n, 4) bodies inside the picture."""
    centre = (faces_xyxy[:, :2] + faces_xyxy[:, 2:]) / 2
    face_width = faces_xyxy[:, 2:3] - faces_xyxy[:, :1]
    reach = np.array([-BODY_HALF_WIDTH, -BODY_ABOVE, BODY_HALF_WIDTH, BODY_BELOW], np.float32)
    bodies = np.concatenate([centre, centre], axis=1) + face_width * reach
    limits = np.array([width_px, height_px, width_px, height_px], np.float32)
    return np.asarray(np.clip(bodies, 0, limits))


def tiles(width_px: int, height_px: int) -> list[Part]:
    """Four overlapping tiles that cover the picture."""
    width, height = round(TILE_WH[0] * width_px), round(TILE_WH[1] * height_px)
    return [(x, y, x + width, y + height) for y in (0, height_px - height) for x in (0, width_px - width)]


def window(face_xyxy: Floats, width_px: int, height_px: int) -> Part:
    """The square around a face, as far as it lies in the picture; at least one pixel."""
    side = max(MIN_WINDOW_PX, WINDOW_FACES * float(max(face_xyxy[2:] - face_xyxy[:2])))
    centre = (face_xyxy[:2] + face_xyxy[2:]) / 2
    x, y = (int(v) for v in np.clip(centre - side / 2, 0, (width_px - 1, height_px - 1)))
    right, bottom = (int(v) for v in np.clip(centre + side / 2, (x + 1, y + 1), (width_px, height_px)))
    return x, y, right, bottom


def load(settings: DetectSettings) -> PeopleDetector:
    """The detector of `filter.detector` mediapipe.

    Raises:
        StageUnavailable: mediapipe is not installed.
    """
    return MediapipePeople(settings.face_confidence)


def label(settings: DetectSettings) -> str:
    """What rows call it."""
    return backend_name()


@cache
def backend_name() -> str:
    """Name, version and weight digest, without importing mediapipe."""
    try:
        package = distribution("mediapipe")
    except PackageNotFoundError:
        return "mediapipe (missing)"
    digest = hashlib.sha256(Path(str(package.locate_file(_WEIGHTS))).read_bytes()).hexdigest()
    return f"mediapipe {package.version} face_detection_full_range {digest[:12]}"
