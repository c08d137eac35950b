"""How much a face moves by itself: in a photograph it moves as the whole picture does, whatever camera and zoom do.

A face is compared with itself half a second ago, at the same place and where the movement of the whole picture takes
it. What differs is the face's own movement, and what any two pictures differ by (grain, coding). The second is as large
from one frame to the next but one, the first is not, so the difference of both is the movement alone. Divided by how
steep the face's grey levels are, it is a length, whatever the light, the contrast and the size.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from mit_builder.media.camera import Affine, Grey, background_movement

LAG_FRAMES = 12
"""Half a second: a listener's head has moved by then, and what a moving camera shows is still in the picture."""
SHORT_FRAMES = 2
"""What differs between frames so close is taken for noise."""
PATCH_PX = 32
"""Side of the patch in which a face is compared."""
_NOISE_PERCENTILE = 20
"""Of all differences between close frames: somebody who never stops moving makes most of them large."""
_INSIDE, _MIN_SEEN = 0.99, 0.5
"""A pixel of a patch is in the picture; so many of them must be, in both pictures."""
_NOBODY = np.empty((0, 4), np.float32)


def face_changes(before: Grey, after: Grey, faces_xyxy: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(n,) mean square shift that would explain how each face differs from an earlier frame, square patch pixels.

    The smaller of two: at the same place (also a photograph that is laid over moving footage), and along the movement
    of the whole picture. NaN where less than half of the face was in the earlier picture.

    Args:
        before: (h, w) grey.
        after: a later frame of the same size.
        faces_xyxy: (n, 4) faces in the later frame, in pixels of these frames.
    """
    movement = background_movement(before, after, _NOBODY)
    origins = [np.eye(2, 3)] if movement is None else [np.eye(2, 3), invert(movement.affine)]
    return np.array([_change(before, after, face, origins) for face in faces_xyxy], np.float64)


def stillness(long: Sequence[float], short: Sequence[float]) -> float:
    """Root mean square of a face's own movement in half a second, % of its size.

    Args:
        long: `face_changes` over `LAG_FRAMES`.
        short: the same over `SHORT_FRAMES`.
    """
    moved_px2 = max(0.0, float(np.mean(long) - np.percentile(short, _NOISE_PERCENTILE)))
    return 100 * float(np.sqrt(moved_px2)) / PATCH_PX


def compose(second: Affine, first: Affine) -> Affine:
    """(2, 3) maps: `first`, then `second`."""
    linear = second[:, :2] @ first[:, :2]
    shift = second[:, :2] @ first[:, 2] + second[:, 2]
    return np.column_stack([linear, shift])


def invert(affine: Affine) -> Affine:
    """Inverse of a (2, 3) map."""
    return np.asarray(cv2.invertAffineTransform(affine), np.float64)


def _change(before: Grey, after: Grey, face_xyxy: npt.NDArray[np.float32], origins: Sequence[Affine]) -> float:
    left, top, right, bottom = (float(value) for value in face_xyxy)
    place = np.array([[(right - left) / PATCH_PX, 0, left], [0, (bottom - top) / PATCH_PX, top]])
    face = _patch(after, place)
    inside = _patch(np.ones_like(after), place, cv2.BORDER_CONSTANT) > _INSIDE
    changes = []
    for origin in origins:
        there = compose(origin, place)
        seen = inside & (_patch(np.ones_like(before), there, cv2.BORDER_CONSTANT) > _INSIDE)
        # The variance: light that changes everywhere alike is no movement.
        changes.append(float(np.var((face - _patch(before, there))[seen])) if seen.mean() >= _MIN_SEEN else np.nan)
    across, down = face[1:-1, 2:] - face[1:-1, :-2], face[2:, 1:-1] - face[:-2, 1:-1]
    steepness = float(np.mean(across**2 + down**2)) / 4
    return float(np.min(changes)) / max(steepness, 1e-6)


def _patch(image: Grey, to_image: Affine, border: int = cv2.BORDER_REPLICATE) -> npt.NDArray[np.float32]:
    """(32, 32) pixels of the image at the places to which a map takes the patch's."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    patch = cv2.warpAffine(image.astype(np.float32), to_image, (PATCH_PX, PATCH_PX), flags=flags, borderMode=border)
    return np.asarray(patch, np.float32)
