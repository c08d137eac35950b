"""Draws people into pictures, and says where they are in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from demo.backdrops import Canvas, draw_desk, landscape, studio
from demo.motion import Motion
from demo.portrait import Portrait
from demo.scenes import HEIGHT_PX, WIDTH_PX, Seat, ShotPlan, pan_offset_px
from demo.warp import LEFT_EYE, RIGHT_EYE, FaceWarp, Inside, Pose

CAVITY_RGB = (46, 18, 22)
TONGUE_RGB = (136, 66, 68)
GRAIN = 0.6
"""Standard deviation of the camera's noise in grey levels."""


@dataclass(frozen=True)
class Truth:
    """Where one person is, in picture pixels; one row a frame."""

    face_boxes_xyxy: npt.NDArray[np.float64]
    """(n, 4) extent of the face mesh's points."""
    mouth_open: npt.NDArray[np.float64]
    """(n,) distance of the inner lips / height of the face box."""
    left_eye_xy: npt.NDArray[np.float64]
    right_eye_xy: npt.NDArray[np.float64]
    nose_xy: npt.NDArray[np.float64]
    left_shoulder_xy: npt.NDArray[np.float64]
    right_shoulder_xy: npt.NDArray[np.float64]
    """(n, 2) each; left and right are the subject's."""


class Actor:
    """A portrait that can be drawn at a seat."""

    def __init__(self, portrait: Portrait) -> None:
        sitter, zoom = portrait.sitter, portrait.sitter.enlarge
        self.portrait = portrait
        self.warp = FaceWarp(
            portrait.landmarks,
            (sitter.pivot_xy[0] * zoom, sitter.pivot_xy[1] * zoom),
            (sitter.neck_y[0] * zoom, sitter.neck_y[1] * zoom),
        )
        self._head_bottom = sitter.neck_y[1] * zoom
        self._low, self._high = portrait.landmarks.min(0), portrait.landmarks.max(0)
        self.face_width_px = float(self._high[0] - self._low[0])

    def pose(self, motion: Motion, frame: int) -> Pose:
        """The head at a frame."""
        sitter, pose = self.portrait.sitter, motion.pose(frame, self.face_width_px)
        return replace(
            pose,
            yaw_px=pose.yaw_px + sitter.facing * self.face_width_px,
            opening=pose.opening * sitter.mouth_gain,
        )

    def draw(self, canvas: Canvas, origin_xy: npt.NDArray[np.float64], scale: float, pose: Pose) -> None:
        """Draw into the canvas; the portrait's upper left corner lies at `origin_xy`."""
        height_px, width_px = self.portrait.image.shape[:2]
        x0, y0 = np.maximum(np.floor(origin_xy), 0).astype(int)
        x1 = min(canvas.shape[1], int(origin_xy[0] + width_px * scale))
        y1 = min(canvas.shape[0], int(origin_xy[1] + height_px * scale))
        x, y = np.meshgrid((np.arange(x0, x1) - origin_xy[0]) / scale, (np.arange(y0, y1) - origin_xy[1]) / scale)
        head = slice(0, int(np.searchsorted(y[:, 0], self._head_bottom)))
        x[head], y[head] = self.warp.head(x[head], y[head], pose)
        face, inside = self._warp_face(x, y, pose)
        colour = cv2.remap(
            self.portrait.image, x.astype(np.float32), y.astype(np.float32), cv2.INTER_CUBIC, None, cv2.BORDER_REPLICATE
        ).astype(np.float32)
        alpha = cv2.remap(self.portrait.alpha, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR)[..., None]
        colour[face] = self._paint_inside(colour[face], inside, scale)
        canvas[y0:y1, x0:x1] += (colour - canvas[y0:y1, x0:x1]) * alpha

    def _warp_face(
        self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], pose: Pose
    ) -> tuple[tuple[slice, slice], Inside]:
        """Move lids and lips in place, within the part of the grid that shows the face and the throat."""
        margin = 0.45 * self.face_width_px
        seen = (x > self._low[0] - margin) & (x < self._high[0] + margin)
        seen &= (y > self._low[1]) & (y < self._high[1] + 1.5 * margin)
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        face = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        x[face], y[face] = self.warp.eyes(x[face], y[face], pose.blink)
        x[face], y[face], inside = self.warp.mouth(x[face], y[face], pose.opening, pose.width)
        return face, inside

    def _paint_inside(self, colour: Canvas, inside: Inside, scale: float) -> Canvas:
        """Teeth, tongue and dark between the lips; thresholds in mouth widths, chosen by eye."""
        pixel = 1 / (self.warp.mouth_width_px * scale)
        mask = np.clip(np.minimum(inside.below_upper_lip, inside.above_lower_lip) / pixel, 0, 1)
        mask = np.where(np.abs(inside.u) < 1, mask, 0)[..., None]
        if not mask.any():
            return colour
        round_arch = np.clip(1.4 * (1 - (inside.u / 0.85) ** 2), 0, 1)
        teeth = (np.clip((0.07 - (inside.v - inside.line)) / 0.025, 0, 1) * round_arch)[..., None]
        tongue = (np.clip((0.09 - inside.above_lower_lip) / 0.05, 0, 1) * np.clip(1 - (inside.u / 0.6) ** 2, 0, 1))[
            ..., None
        ]
        paint = np.array(CAVITY_RGB) * (1 - tongue) + np.array(TONGUE_RGB) * tongue
        paint = paint * (1 - teeth) + np.array(self.portrait.sitter.teeth_rgb) * teeth
        paint *= np.clip(0.45 + inside.below_upper_lip / 0.1, 0.45, 1)[..., None]
        painted: Canvas = (colour * (1 - mask) + paint * mask).astype(np.float32)
        return painted

    def where(self, origin_xy: npt.NDArray[np.float64], scale: float, pose: Pose) -> dict[str, npt.NDArray[np.float64]]:
        """Fields of `Truth` for one frame."""
        sitter = self.portrait.sitter
        points = self.warp.forward(self.portrait.landmarks, pose) * scale + origin_xy
        low, high = points.min(0), points.max(0)
        still = {"left_shoulder_xy": sitter.left_shoulder_xy, "right_shoulder_xy": sitter.right_shoulder_xy}
        return {
            "face_boxes_xyxy": np.concatenate([low, high]),
            "mouth_open": np.array(self.warp.lips_apart_px(pose.opening) * scale / (high[1] - low[1])),
            "left_eye_xy": points[list(LEFT_EYE[0] + LEFT_EYE[1])].mean(0),
            "right_eye_xy": points[list(RIGHT_EYE[0] + RIGHT_EYE[1])].mean(0),
            "nose_xy": points[1],
            **{name: np.array(xy) * sitter.enlarge * scale + origin_xy for name, xy in still.items()},
        }


def _origin(seat: Seat, motion: Motion, frame: int, plan: ShotPlan, face_width_px: float) -> npt.NDArray[np.float64]:
    width = face_width_px * seat.scale
    sway = np.array([motion.sway_x[frame], motion.sway_y[frame]]) * width
    origin: npt.NDArray[np.float64] = np.array([seat.x_px - pan_offset_px(plan, frame), seat.y_px]) + sway
    return origin


def draw_shot(
    plan: ShotPlan, actors: Mapping[str, Actor], motions: Mapping[str, Motion], n_frames: int, seed: int
) -> Iterator[npt.NDArray[np.uint8]]:
    """The shot's frames, RGB uint8 (720, 1280, 3)."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((8, HEIGHT_PX, WIDTH_PX, 1), dtype=np.float32) * GRAIN
    if plan.backdrop == "landscape":
        picture, sky, clouds = landscape(WIDTH_PX, HEIGHT_PX, rng)
    else:
        picture = studio(WIDTH_PX + int(np.ceil(plan.pan_px)), HEIGHT_PX, plan.wall_rgb, rng)
    for frame in range(n_frames):
        if plan.backdrop == "landscape":
            canvas = picture + np.where(sky, np.roll(clouds, -frame, axis=1), 0)[..., None]
        else:
            shift = np.array([[1, 0, -pan_offset_px(plan, frame)], [0, 1, 0]])
            canvas = cv2.warpAffine(picture, shift, (WIDTH_PX, HEIGHT_PX), flags=cv2.INTER_LINEAR)
        for seat in plan.seats:
            actor, motion = actors[seat.person], motions[seat.person]
            origin = _origin(seat, motion, frame, plan, actor.face_width_px)
            actor.draw(canvas, origin, seat.scale, actor.pose(motion, frame))
        if plan.desk:
            draw_desk(canvas)
        yield np.clip(canvas + noise[frame % len(noise)], 0, 255).astype(np.uint8)


def shot_truth(
    plan: ShotPlan, actors: Mapping[str, Actor], motions: Mapping[str, Motion], n_frames: int
) -> dict[str, Truth]:
    """Where every person of the shot is."""
    truth = {}
    for seat in plan.seats:
        actor, motion = actors[seat.person], motions[seat.person]
        rows = [
            actor.where(
                _origin(seat, motion, frame, plan, actor.face_width_px),
                seat.scale,
                actor.pose(motion, frame),
            )
            for frame in range(n_frames)
        ]
        truth[seat.person] = Truth(**{name: np.stack([row[name] for row in rows]) for name in rows[0]})
    return truth
