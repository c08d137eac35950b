"""A speaker backend without a model: how much the lower half of a face moves, against its upper half.

A baseline, calibrated on nothing: a head that moves as a whole does not count, a face that laughs does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import cv2
import numpy as np

from mit_builder.models.base import Floats, Image, SpeechInput

SIDE_PX = 32
"""Faces are compared at this size."""
NOISE = 1.0
"""Grey levels of difference that encoding makes by itself."""
WINDOW_FRAMES = 13
SLOPE = 4.0
"""Log-odds for lips that move by a factor of e more than the eyes."""


class MouthMotion:
    """See `SpeakerScorer`."""

    licence: ClassVar[str] = "Apache-2.0"
    label_tier: Literal["heuristic", "model"] = "heuristic"

    def __init__(self, settings: object) -> None:
        """Nothing to load."""

    def score(self, clip: SpeechInput) -> Floats:
        """(n_people, n_frames) float32."""
        faces = np.stack([[_face(image, box) for box in boxes] for image, boxes in _frames(clip)], axis=1)
        moved = np.abs(np.diff(faces, axis=1, prepend=faces[:, :1]))
        upper, lower = moved[:, :, : SIDE_PX // 2], moved[:, :, SIDE_PX // 2 :]
        ratio = np.log(lower.mean(axis=(2, 3)) + NOISE) - np.log(upper.mean(axis=(2, 3)) + NOISE)
        return np.stack([_smooth(SLOPE * (person - 0.25)) for person in ratio]).astype(np.float32)


def _frames(clip: SpeechInput) -> Iterator[tuple[Image, Floats]]:
    """Every picture with the people's face boxes."""
    return zip(clip.frames(), clip.face_boxes_xyxy.transpose(1, 0, 2), strict=True)


def _face(image: Image, box: Floats) -> Floats:
    """(SIDE_PX, SIDE_PX) grey levels."""
    height, width = image.shape[:2]
    left, top, right, bottom = np.clip(np.round(box), 0, (width, height, width, height)).astype(int)
    crop = image[top : max(bottom, top + 1), left : max(right, left + 1)]
    if crop.size == 0:
        return np.zeros((SIDE_PX, SIDE_PX), np.float32)
    grey = cv2.cvtColor(np.ascontiguousarray(crop), cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA).astype(np.float32)


def _smooth(values: Floats) -> Floats:
    padded = np.pad(values, WINDOW_FRAMES // 2, mode="edge")
    return np.convolve(padded, np.full(WINDOW_FRAMES, 1 / WINDOW_FRAMES), "valid")
