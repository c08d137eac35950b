"""A pose backend without a model: the mean shape of a person, put into the boxes.

What a model must beat. All scores are 0.25, below the 0.3 from which on a point counts as seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

import numpy as np

from mit_builder.config.settings import PoseSettings
from mit_builder.labels.keypoints import BODY, FACE, FEET, LEFT_HAND, RIGHT_HAND
from mit_builder.models.base import Floats, Image

SCORE = 0.25
FLAT = 4.0
"""A box whose pixels differ by less (standard deviation, 0..255) holds nobody."""


def _mirrored(right: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(1 - x, y) for x, y in right]


def _face() -> Floats:
    """(68, 2) in shares of the face box, in the order of iBUG 300-W."""
    jaw = [(0.5 - 0.45 * np.cos(a), 0.35 + 0.62 * np.sin(a)) for a in np.linspace(0, np.pi, 17)]
    brow = [(0.16, 0.22), (0.22, 0.17), (0.29, 0.16), (0.36, 0.17), (0.42, 0.20)]
    nose = [(0.5, y) for y in (0.30, 0.38, 0.46, 0.54)]
    nostrils = [(0.42, 0.60), (0.46, 0.61), (0.5, 0.62), (0.54, 0.61), (0.58, 0.60)]
    eye = [(0.22, 0.32), (0.27, 0.29), (0.33, 0.29), (0.38, 0.32), (0.33, 0.34), (0.27, 0.34)]
    other_eye = [_mirrored(eye)[i] for i in (3, 2, 1, 0, 5, 4)]
    outer = [(0.5 - 0.17 * np.cos(a), 0.76 - 0.06 * np.sin(a)) for a in np.arange(12) * np.pi / 6]
    inner = [(0.5 - 0.13 * np.cos(a), 0.76 - 0.02 * np.sin(a)) for a in np.arange(8) * np.pi / 4]
    points = [*jaw, *brow, *_mirrored(brow)[::-1], *nose, *nostrils, *eye, *other_eye, *outer, *inner]
    return np.array(points, np.float32)


def _body() -> Floats:
    """(17, 2) of COCO: the first five in shares of the face box, the others of the body box; left is at the right."""
    right = [
        (0.30, 0.32),
        (0.05, 0.42),
        (0.20, 0.30),
        (0.10, 0.55),
        (0.15, 0.75),
        (0.30, 0.75),
        (0.30, 0.88),
        (0.30, 0.98),
    ]
    pairs = [point for pair in zip(_mirrored(right), right, strict=True) for point in pair]
    return np.array([(0.5, 0.56), *pairs], np.float32)


def _within(points: Floats, box: Floats) -> Floats:
    return box[:2] + points * (box[2:] - box[:2])


class TemplatePose:
    """See `PoseEstimator`."""

    licence: ClassVar[str] = "Apache-2.0"

    def __init__(self, settings: PoseSettings) -> None:
        self._face, self._body = _face(), _body()

    def estimate(self, frames: Iterable[Image], boxes_xyxy: Floats, face_boxes_xyxy: Floats) -> Iterator[Floats]:
        """One (n_people, 133, 3) a frame."""
        for i, image in enumerate(frames):
            yield np.stack(
                [self._person(image, boxes_xyxy[p, i], face_boxes_xyxy[p, i]) for p in range(len(boxes_xyxy))]
            )

    def _person(self, image: Image, box: Floats, face: Floats) -> Floats:
        points = np.full((133, 3), np.nan, np.float32)
        points[:, 2] = 0
        height, width = image.shape[:2]
        left, top, right, bottom = np.clip(face, 0, (width, height, width, height)).astype(int)
        if right - left < 2 or bottom - top < 2 or image[top:bottom, left:right].std() < FLAT:
            return points
        points[FACE, :2] = _within(self._face, face)
        points[BODY, :2] = np.concatenate([_within(self._body[:5], face), _within(self._body[5:], box)])
        points[FEET, :2] = points[[15, 15, 15, 16, 16, 16], :2]
        points[LEFT_HAND, :2], points[RIGHT_HAND, :2] = points[9, :2], points[10, :2]
        inside = ((points[:, :2] >= 0) & (points[:, :2] < (width, height))).all(axis=1)
        points[:, 2] = np.where(inside, SCORE, 0.0)
        points[~inside, :2] = np.nan
        return points

    def close(self) -> None:
        """Nothing is held."""
