"""How much a face changes: a photograph on a wall or a poster moves with the background and does not change."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from mit_builder.media.camera import Affine, Grey

PATCH_PX = 32
"""Side of the patch in which a face is compared."""


def face_change(before: Grey, after: Grey, background: Affine | None, face_xyxy: npt.NDArray[np.float32]) -> float:
    """Mean absolute difference of a face's pixels between two frames, grey levels.

    The smaller of two: at the same place, and where the background went (a picture on a wall under a moving camera).

    Args:
        before: (h, w) grey.
        after: a later frame of the same size.
        background: (2, 3) movement of the background between them; None where unknown.
        face_xyxy: the face in the later frame, in pixels of these frames.
    """
    left, top, right, bottom = (float(value) for value in face_xyxy)
    place = np.array([[(right - left) / PATCH_PX, 0, left], [0, (bottom - top) / PATCH_PX, top]])
    face = _patch(after, place)
    places = [place] if background is None else [place, compose(invert(background), place)]
    return min(float(cv2.absdiff(_patch(before, origin), face).mean()) for origin in places)


def compose(second: Affine, first: Affine) -> Affine:
    """(2, 3) maps: `first`, then `second`."""
    linear = second[:, :2] @ first[:, :2]
    shift = second[:, :2] @ first[:, 2] + second[:, 2]
    return np.column_stack([linear, shift])


def invert(affine: Affine) -> Affine:
    """Inverse of a (2, 3) map."""
    return np.asarray(cv2.invertAffineTransform(affine), np.float64)


def _patch(image: Grey, to_image: Affine) -> npt.NDArray[np.float32]:
    """(32, 32) pixels of the image at the places to which a map takes the patch's."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    patch = cv2.warpAffine(
        image.astype(np.float32), to_image, (PATCH_PX, PATCH_PX), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(patch, np.float32)
