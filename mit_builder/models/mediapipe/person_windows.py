"""The parts of a frame in which one person's body and face are searched, from the boxes and from the face mesh."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from manifests.rows import TIMELINE_FPS
from mit_builder.labels.face_boxes import enlarged
from mit_builder.models.base import Floats

Windows = npt.NDArray[np.int64]
"""(…, 4) `xyxy`, whole pixels; may leave the picture."""

BODY_WINDOW = (2.2, 1.4, 5.5)
"""Reach of the body's window from the face's centre in face widths: to each side, up, down."""
TIGHT_REACH = 1.3
"""Reach to each side at the second attempt."""
FACE_WINDOW = 1.5
"""Side of the face's window in longer sides of the face box."""
STEADY_FRAMES = TIMELINE_FPS
"""Windows follow the mean box over this many frames: trackers expect a camera that does not jitter."""


def around_bodies(boxes_xyxy: Floats, faces_xyxy: Floats) -> Floats:
    """(n_people, n_frames, 4) windows that hold body box and the usual reach of arms."""
    centre = (faces_xyxy[..., :2] + faces_xyxy[..., 2:]) / 2
    width = faces_xyxy[..., 2] - faces_xyxy[..., 0]
    side, up, down = (reach * width for reach in BODY_WINDOW)
    low = centre - np.stack([side, up], axis=-1)
    high = centre + np.stack([side, down], axis=-1)
    return np.concatenate([np.minimum(low, boxes_xyxy[..., :2]), np.maximum(high, boxes_xyxy[..., 2:])], axis=-1)


def around_faces(faces_xyxy: Floats) -> Floats:
    """(n_people, n_frames, 4) squares around the faces."""
    centre = (faces_xyxy[..., :2] + faces_xyxy[..., 2:]) / 2
    half = FACE_WINDOW / 2 * (faces_xyxy[..., 2:] - faces_xyxy[..., :2]).max(axis=-1, keepdims=True)
    return np.concatenate([centre - half, centre + half], axis=-1)


def steady(windows: Floats) -> Windows:
    """Mean over `STEADY_FRAMES` around each frame (ends repeated), whole pixels: (n_people, n_frames, 4) int64."""
    half = STEADY_FRAMES // 2
    padded = np.pad(windows.astype(np.float64), ((0, 0), (half, half), (0, 0)), mode="edge")
    means = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1, axis=1).mean(axis=-1)
    whole: Windows = np.rint(means).astype(np.int64)
    return whole


def tighter(window: Windows, face_xyxy: Floats) -> Windows:
    """The window with less to the sides: where it still held another person's shoulders, it no longer does."""
    centre, reach = (face_xyxy[0] + face_xyxy[2]) / 2, TIGHT_REACH * (face_xyxy[2] - face_xyxy[0])
    left, top, right, bottom = window
    return np.array([max(left, round(centre - reach)), top, min(right, round(centre + reach)), bottom])


class Framing:
    """Frames one person's body by the face mesh instead of the face box.

    The body model's answer depends on what its window holds, and the detector's box on left and right: in a mirrored
    demo the box of a painted face was 6% narrower, which moved the shoulders by 0.2 face widths. The mesh hardly moves.
    """

    def __init__(self) -> None:
        self._offset: npt.NDArray[np.float64] | None = None

    def adjusted(self, window: Windows, face_xyxy: Floats, points: Floats | None) -> Windows:
        """The window moved and scaled as the face of the points is against the box's, averaged over `STEADY_FRAMES`.

        Args:
            window: (4,) around the face and the body.
            face_xyxy: (4,) the face box that the window was made from.
            points: (68, 3) face points; None where not seen.
        """
        centre, width = (face_xyxy[:2] + face_xyxy[2:]) / 2, face_xyxy[2] - face_xyxy[0]
        if points is not None:
            (seen,) = enlarged(points[None, :, :2])
            offset = np.array([*((seen[:2] + seen[2:]) / 2 - centre) / width, np.log((seen[2] - seen[0]) / width)])
            before = offset if self._offset is None else self._offset
            self._offset = before + (offset - before) / STEADY_FRAMES
        if self._offset is None:
            return window
        centre, scale = np.tile(centre, 2), np.exp(self._offset[2])
        moved = centre + np.tile(self._offset[:2], 2) * width + (window - centre) * scale
        return np.asarray(np.rint(moved), np.int64)
