"""How much a face changes: a photograph on a wall or a poster moves with the background and does not change."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from mit_builder.media.camera import Affine, Grey

PATCH_PX = 32
"""Side of the patch in which a face is compared."""


def face_change(before: Grey, after: Grey, background: Affine | None, face_xyxy: npt.NDArray[np.float32]) -> float:
    """Mean absolute difference of a face's pixels between two frames, grey levels, after undoing the camera's movement.

    Args:
        before: (h, w) grey.
        after: a later frame of the same size.
        background: (2, 3) movement of the background between them; None for none.
        face_xyxy: the face in the later frame, in pixels of these frames.
    """
    left, top, right, bottom = (float(value) for value in face_xyxy)
    # A half-size linear filter (INTER_AREA has no warp) is not needed: both patches are sampled in the same way.
    to_face = np.array([[(right - left) / PATCH_PX, 0, left], [0, (bottom - top) / PATCH_PX, top]])
    to_before = to_face if background is None else compose(invert(background), to_face)
    change = cv2.absdiff(_patch(before, to_before), _patch(after, to_face))
    return float(change.mean())


def compose(second: Affine, first: Affine) -> Affine:
    """(2, 3) maps: `first`, then `second`."""
    linear = second[:, :2] @ first[:, :2]
    shift = second[:, :2] @ first[:, 2] + second[:, 2]
    return np.column_stack([linear, shift])


def invert(affine: Affine) -> Affine:
    """Inverse of a (2, 3) map."""
    return np.asarray(cv2.invertAffineTransform(affine), np.float64)


def _patch(image: Grey, to_image: Affine) -> npt.NDArray[np.float32]:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    patch = cv2.warpAffine(
        image.astype(np.float32), to_image, (PATCH_PX, PATCH_PX), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(patch, np.float32)
