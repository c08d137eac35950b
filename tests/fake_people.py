"""A people detector for tests that finds squares of known colours, and videos that show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mit_builder.models.base import Detections

COLOURS = ((255, 0, 0), (0, 0, 255), (255, 255, 0))
"""Red, blue, yellow: far apart, so that encoding does not confuse them."""


class SquareFinder:
    """Each colour is one person's face, boxed by its pixels; bodies are twice as wide and three times as high."""

    def __init__(self, confidence: float = 0.4, batch: int = 1) -> None:
        self.looked_again = 0
        self.batch = batch
        self.calls: list[int] = []
        self.thorough: list[bool] = []

    def detect(self, images: Sequence[np.ndarray], *, thorough: Sequence[bool]) -> list[Detections]:
        self.calls.append(len(images))
        self.thorough += thorough
        assert len(thorough) == len(images)
        return [self._detect(image) for image in images]

    def _detect(self, image: np.ndarray) -> Detections:
        height, width = image.shape[:2]
        faces = []
        for colour in COLOURS:
            ys, xs = np.nonzero((np.abs(image.astype(int) - colour) < 70).all(axis=2))
            if len(xs) > 50:
                faces.append((xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))
        boxes = np.array(faces, np.float32).reshape(-1, 4)
        side = boxes[:, 2:3] - boxes[:, :1]
        reach = side * np.array([-0.5, 0, 0.5, 2], np.float32)
        limits = np.array([width, height, width, height], np.float32)
        return Detections(boxes, np.full(len(boxes), 0.9, np.float32), np.clip(boxes + reach, 0, limits))

    def look_again(self, image: np.ndarray, face_boxes_xyxy: np.ndarray) -> Detections:
        self.looked_again += len(face_boxes_xyxy)
        empty = np.empty((0, 4), np.float32)
        return Detections(empty, np.empty(0, np.float32), empty)

    def close(self) -> None:
        pass


def picture(background: np.ndarray, boxes_xyxy: Iterable[Sequence[int] | None]) -> np.ndarray:
    """The background with a square for every box that is not None, in the order of `COLOURS`."""
    image = background.copy()
    for colour, box in zip(COLOURS, boxes_xyxy, strict=False):
        if box is not None:
            left, top, right, bottom = box
            image[top:bottom, left:right] = colour
    return image


def texture(width_px: int, height_px: int, seed: int = 0) -> np.ndarray:
    """(h, w, 3) grey picture with corners everywhere, smooth enough to be followed."""
    blocks = np.random.default_rng(seed).integers(60, 190, (height_px // 8 + 1, width_px // 8 + 1), np.uint8)
    grey = np.kron(blocks, np.ones((8, 8), np.uint8))[:height_px, :width_px]
    return np.repeat(grey[..., None], 3, axis=2)
