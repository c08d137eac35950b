"""Camera motion: how far the background moves between two frames, with the people masked."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Grey = npt.NDArray[np.uint8]
Affine = npt.NDArray[np.float64]

WIDTH_PX = 480
"""Frames are shrunk to this width: costs 4 ms a frame, and what is a pixel there is 0.2 % of the width."""
MIN_POINTS = 8
"""Fewer points that agree on one movement are no fit (DESIGN: the measure is null)."""
MAX_POINTS = 200
RANSAC_PX = 1.0
MASK_HALF_WIDTH = 1.6
"""A person's mask around the middle of the face, in widths of the face; it goes down to the picture's bottom."""
MASK_ABOVE = 0.6
"""How far the mask begins above the face, in heights of the face."""
_CORNER_QUALITY, _CORNER_DISTANCE_PX, _CORNER_BLOCK_PX = 0.01, 8, 5
_FLOW_WINDOW_WH, _FLOW_LEVELS = (15, 15), 3


@dataclass(frozen=True)
class Movement:
    """Movement of the background from one frame to the next.

    Attributes:
        pct: length of the movement at the picture's centre, in % of its width.
        affine: (2, 3) map from pixels of the earlier small frame to those of the later.
    """

    pct: float
    affine: Affine


def small_grey(image: npt.NDArray[np.uint8]) -> Grey:
    """(h, w, 3) RGB -> grey, at most `WIDTH_PX` wide."""
    height, width = image.shape[:2]
    if width > WIDTH_PX:
        size = (WIDTH_PX, max(1, round(height * WIDTH_PX / width)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)


def background_movement(before: Grey, after: Grey, faces_xyxy: npt.NDArray[np.float32]) -> Movement | None:
    """Fit a similarity to the background's corners (Lucas-Kanade, then RANSAC); None where it cannot be fitted.

    Args:
        before: (h, w) grey.
        after: the next frame, of the same size.
        faces_xyxy: (n, 4) faces in pixels of these frames; people are masked from there to the bottom.
    """
    height, width = before.shape
    corners = cv2.goodFeaturesToTrack(
        before,
        MAX_POINTS,
        _CORNER_QUALITY,
        _CORNER_DISTANCE_PX,
        mask=background_mask((width, height), faces_xyxy),
        blockSize=_CORNER_BLOCK_PX,
    )
    if corners is None or len(corners) < MIN_POINTS:
        return None
    moved, found, _ = cv2.calcOpticalFlowPyrLK(
        before, after, corners, np.empty_like(corners), winSize=_FLOW_WINDOW_WH, maxLevel=_FLOW_LEVELS
    )
    tracked = found.ravel() == 1
    if tracked.sum() < MIN_POINTS:
        return None
    # OpenCV seeds this RANSAC anew at every call, so equal frames give equal results.
    affine, agree = cv2.estimateAffinePartial2D(
        corners[tracked], moved[tracked], method=cv2.RANSAC, ransacReprojThreshold=RANSAC_PX
    )
    if affine is None or agree.sum() < MIN_POINTS:
        return None
    centre = np.array([width / 2, height / 2])
    shift = affine[:, :2] @ centre + affine[:, 2] - centre
    return Movement(float(100 * np.hypot(*shift) / width), affine)


def background_mask(wh: tuple[int, int], faces_xyxy: npt.NDArray[np.float32]) -> Grey:
    """(h, w) mask: 255 where nobody is, 0 in a column below and around each face."""
    width, height = wh
    mask = np.full((height, width), 255, np.uint8)
    for left, top, right, bottom in faces_xyxy.tolist():
        middle, reach = (left + right) / 2, MASK_HALF_WIDTH * (right - left)
        first_row = max(0, int(top - MASK_ABOVE * (bottom - top)))
        mask[first_row:, max(0, int(middle - reach)) : max(0, int(middle + reach))] = 0
    return mask
