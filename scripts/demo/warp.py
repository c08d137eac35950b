"""Moves a portrait's head, jaw, lips and lids (numpy only).

Every warp is a function from where a point is seen to where its colour lies in the still picture, so a frame needs one
look-up a pixel; `forward` inverts it for landmarks. Coordinates are the portrait's pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float64]

# Points of MediaPipe's face mesh; left and right are the subject's.
OUTER_CORNERS = (61, 291)
INNER_UPPER_LIP = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
INNER_LOWER_LIP = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
RIGHT_EYE = ((33, 246, 161, 160, 159, 158, 157, 173, 133), (33, 7, 163, 144, 145, 153, 154, 155, 133))
LEFT_EYE = ((362, 398, 384, 385, 386, 387, 388, 466, 263), (362, 382, 381, 380, 374, 373, 390, 249, 263))
FOREHEAD, CHIN = 10, 152

# Lengths in mouth widths, at full opening; chosen by eye.
LOWER_LIP_DROP = 0.32
UPPER_LIP_RISE = 0.05
UPPER_LIP_REACH = 0.25
CHIN_DROP = 0.26
WIDTH_CHANGE = 0.15


@dataclass(frozen=True)
class Pose:
    """A head at one instant."""

    turn_rad: float = 0.0
    """In the picture's plane, about the base of the neck."""
    shift_x_px: float = 0.0
    shift_y_px: float = 0.0
    yaw_px: float = 0.0
    """How far the nose moves sideways against the head's outline."""
    opening: float = 0.0
    width: float = 0.0
    blink: float = 0.0
    """0 open .. 1 closed."""


@dataclass(frozen=True)
class Inside:
    """Where the points lie with regard to the open mouth, in mouth widths."""

    u: Field
    """Across: -1 and 1 at the corners."""
    v: Field
    """Down, from the middle of the closed mouth."""
    below_upper_lip: Field
    above_lower_lip: Field
    line: Field
    """`v` of the closed mouth at this `u`."""


def _smoothstep(x: Field) -> Field:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _lip_profile(u: Field) -> Field:
    return np.maximum(0, 1 - np.abs(u) ** 2.2)


class FaceWarp:
    """The warps of one portrait.

    Args:
        landmarks: (468, 2) face mesh.
        pivot_xy: base of the neck.
        neck_y: heights between which the head's movement fades out.
    """

    def __init__(self, landmarks: Field, pivot_xy: tuple[float, float], neck_y: tuple[float, float]) -> None:
        self.landmarks = landmarks
        self._pivot = np.array(pivot_xy)
        self._neck_y = neck_y
        low, high = landmarks.min(0), landmarks.max(0)
        self._centre, self._radii = (low + high) / 2, (high - low) * 0.62
        self.mouth_width_px = float(np.linalg.norm(landmarks[OUTER_CORNERS[1]] - landmarks[OUTER_CORNERS[0]]))
        self._set_mouth_frame()

    def _set_mouth_frame(self) -> None:
        points = self.landmarks
        across = (points[OUTER_CORNERS[1]] - points[OUTER_CORNERS[0]]) / self.mouth_width_px
        self._axes = np.stack([across, [-across[1], across[0]]])
        self._mouth = (points[13] + points[14]) / 2
        upper, lower = (self._mouth_px(points[list(lip)]) for lip in (INNER_UPPER_LIP, INNER_LOWER_LIP))
        line = (upper + lower) / 2
        # A head in half profile has one half of the mouth longer than the other.
        self._half_widths = (-line[0, 0], line[-1, 0])
        self._line_u = self._u(line[:, 0])
        self._line_v = line[:, 1] / self.mouth_width_px
        self._chin_v = float(self._mouth_px(points[[CHIN]])[0, 1]) / self.mouth_width_px

    def _mouth_px(self, xy: Field) -> Field:
        across_down: Field = (xy - self._mouth) @ self._axes.T
        return across_down

    def _u(self, across_px: Field) -> Field:
        return np.where(across_px < 0, across_px / self._half_widths[0], across_px / self._half_widths[1])

    def lips_apart_px(self, opening: float) -> float:
        """Distance of the inner lips in the middle of the mouth."""
        return opening * (LOWER_LIP_DROP + UPPER_LIP_RISE) * self.mouth_width_px

    def head(self, x: Field, y: Field, pose: Pose) -> tuple[Field, Field]:
        """Undo the head's movement."""
        low, high = self._neck_y
        weight = 1 - _smoothstep((y - low) / (high - low))
        cos, sin = np.cos(pose.turn_rad), np.sin(pose.turn_rad)
        dx, dy = x - self._pivot[0] - pose.shift_x_px, y - self._pivot[1] - pose.shift_y_px
        turned_x, turned_y = cos * dx + sin * dy + self._pivot[0], cos * dy - sin * dx + self._pivot[1]
        distance = ((x - self._centre[0]) / self._radii[0]) ** 2 + ((y - self._centre[1]) / self._radii[1]) ** 2
        bulge = np.maximum(0, 1 - distance)
        return x + (turned_x - x) * weight - pose.yaw_px * bulge, y + (turned_y - y) * weight

    def eyes(self, x: Field, y: Field, blink: float) -> tuple[Field, Field]:
        """Undo the lids' closing: the skin above the eye is stretched over it."""
        if blink <= 0:
            return x, y
        for upper, lower in (RIGHT_EYE, LEFT_EYE):
            top, bottom = self.landmarks[list(upper)], self.landmarks[list(lower)]
            lid = np.interp(x, top[:, 0], top[:, 1])
            gap = np.maximum(np.interp(x, bottom[:, 0], bottom[:, 1]) - lid, 0)
            start, reach = lid - 1.2 * gap, 1.2 * gap
            along = (y - start) / np.maximum(reach + blink * gap, 1e-6)
            y = np.where((gap > 0.5) & (along > 0) & (along < 1), start + along * reach, y)
        return x, y

    def mouth(self, x: Field, y: Field, opening: float, width: float) -> tuple[Field, Field, Inside]:
        """Undo the movement of lips, cheeks and chin; points inside the open mouth keep a place without meaning."""
        scale = self.mouth_width_px
        points = self._mouth_px(np.stack([x, y], -1))
        seen_u, v = self._u(points[..., 0]), points[..., 1] / scale
        near = np.exp(-((seen_u / 1.7) ** 2) - (v / 0.6) ** 2)
        u = seen_u * (1 - WIDTH_CHANGE * width * near)
        line = np.interp(u, self._line_u, self._line_v)
        rise, drop = (opening * amount * _lip_profile(u) for amount in (UPPER_LIP_RISE, LOWER_LIP_DROP))
        above, below = line - rise - v, v - line - drop
        up = rise * np.exp(-((above / UPPER_LIP_REACH) ** 2))
        jaw = opening * CHIN_DROP * np.maximum(0, 1 - (u / 2.4) ** 2)
        towards_chin = _smoothstep(below / (0.85 * self._chin_v))
        past_chin = 1 - _smoothstep((below / self._chin_v - 0.9) / 1.2)
        down = (drop + (jaw - drop) * towards_chin) * past_chin
        still_v = np.where(above >= 0, v + up, np.where(below >= 0, v - down, line))
        across = np.where(u < 0, u * self._half_widths[0], u * self._half_widths[1])
        still = np.stack([across, still_v * scale], -1) @ self._axes + self._mouth
        return still[..., 0], still[..., 1], Inside(seen_u, v, -above, -below, line)

    def forward(self, xy: Field, pose: Pose) -> Field:
        """Where points of the still picture are seen; (n, 2) to (n, 2), to a tenth of a pixel off the lips' edges."""
        seen = xy.copy()
        for _ in range(12):
            x, y = self.head(seen[:, 0], seen[:, 1], pose)
            x, y, _inside = self.mouth(x, y, pose.opening, pose.width)
            seen += xy - np.stack([x, y], -1)
        return seen
