"""Random but smooth movement of heads and lids (numpy only)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from demo.mouth import FPS, Curve, MouthCurves, smooth
from demo.warp import Pose


@dataclass(frozen=True)
class Motion:
    """Everything that moves on one person, a value a frame; lengths in face widths."""

    turn_rad: Curve
    shift_x: Curve
    shift_y: Curve
    yaw: Curve
    sway_x: Curve
    sway_y: Curve
    """Of the whole person."""
    blink: Curve
    mouth: MouthCurves

    def pose(self, frame: int, face_width_px: float) -> Pose:
        """The head at a frame, for a portrait whose face is this wide."""
        return Pose(
            turn_rad=float(self.turn_rad[frame]),
            shift_x_px=float(self.shift_x[frame]) * face_width_px,
            shift_y_px=float(self.shift_y[frame]) * face_width_px,
            yaw_px=float(self.yaw[frame]) * face_width_px,
            opening=float(self.mouth.opening[frame]),
            width=float(self.mouth.width[frame]),
            blink=float(self.blink[frame]),
        )


def random_motion(mouth: MouthCurves, rng: np.random.Generator) -> Motion:
    """Slow drift at all times, quicker gestures while talking, a blink every few seconds."""
    n_frames = len(mouth.opening)

    def drift(period_s: float, amount: float) -> Curve:
        margin = FPS * 4
        noise = smooth(rng.standard_normal(n_frames + 2 * margin), period_s * FPS / 5)[margin : margin + n_frames]
        curve: Curve = amount * noise / (noise.std() + 1e-9)
        return curve

    def gesture(period_s: float, amount: float) -> Curve:
        return drift(period_s, amount) * mouth.activity

    return Motion(
        turn_rad=drift(3.0, 0.012) + gesture(1.2, 0.008),
        shift_x=drift(3.5, 0.008) + gesture(1.0, 0.004),
        shift_y=drift(1.6, 0.003) + gesture(0.7, 0.004),
        yaw=drift(4.0, 0.012) + gesture(1.4, 0.006),
        sway_x=drift(5.0, 0.006),
        sway_y=drift(3.8, 0.003),
        blink=_blinks(n_frames, rng),
        mouth=mouth,
    )


def _blinks(n_frames: int, rng: np.random.Generator) -> Curve:
    closing = np.array([0.5, 1.0, 0.9, 0.35])
    lids = np.zeros(n_frames)
    frame = int(rng.integers(15, 50))
    while frame + len(closing) <= n_frames:
        lids[frame : frame + len(closing)] = closing
        frame += int(rng.integers(55, 120))
    return lids
