"""Heatmaps to points, in batch on the device, as the official code does ("UDP" with distribution-aware refinement).

The place of the highest value is moved by one Newton step on the logarithm of the blurred map. The mixed second
derivative is the official one, which is not symmetric.
"""

from __future__ import annotations

import numpy as np

from mit_builder.models.base import Floats
from mit_builder.models.sapiens.crops import Doubles, Regions
from mit_builder.models.torch_backend import Tensor, functional, torch

BLUR_SIZE = 11
BLUR_SIGMA = 2.0
"""Pixels of the heatmap; what OpenCV takes for a kernel of 11 where no sigma is given."""
LOG_RANGE = (1e-3, 50.0)
"""Values are kept within before the logarithm is taken."""
EPSILON = torch.finfo(torch.float32).eps
"""Added to the diagonal of the second derivatives."""


def mirrored_back(heatmaps: Tensor, swap: Tensor) -> Tensor:
    """Heatmaps (n, keypoints, h, w) of mirrored pictures as those of the pictures; channel i was `swap[i]`."""
    return heatmaps.flip(3)[:, swap]


def decode(heatmaps: Tensor) -> Tensor:
    """Points in the network's input.

    Args:
        heatmaps: (n, keypoints, h, w) float32.

    Returns:
        (n, keypoints, 3) float64: x and y as shares of the input's width and height, and the highest value as it is.
        x and y mean nothing where it is not positive.
    """
    height, width = heatmaps.shape[2:]
    score, place = heatmaps.flatten(2).max(dim=2)
    x, y = place % width, place // width
    step = _newton_step(_around(_log_of_blurred(heatmaps, score), x, y))
    step_x, step_y = step.unbind(2)
    return torch.stack([(x - step_x) / (width - 1), (y - step_y) / (height - 1), score.double()], dim=2)


def _log_of_blurred(heatmaps: Tensor, highest: Tensor) -> Tensor:
    """Logarithm of the maps, blurred with zeros around them and brought back to their highest value; same shape."""
    offsets = torch.arange(BLUR_SIZE, dtype=torch.float64, device=heatmaps.device) - BLUR_SIZE // 2
    kernel = torch.exp(-(offsets**2) / (2 * BLUR_SIGMA**2))
    kernel = (kernel / kernel.sum()).to(heatmaps.dtype)
    maps = heatmaps.flatten(0, 1)[:, None]
    maps = functional.conv2d(maps, kernel[None, None, None, :], padding=(0, BLUR_SIZE // 2))
    maps = functional.conv2d(maps, kernel[None, None, :, None], padding=(BLUR_SIZE // 2, 0)).view_as(heatmaps)
    blurred = maps * (highest / maps.amax(dim=(2, 3)))[..., None, None]
    return blurred.clamp(*LOG_RANGE).log()


def _around(maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(3, 3, n, keypoints) float64: values at and around a place, by y and x; the border is repeated outwards."""
    height, width = maps.shape[2:]
    flat = maps.flatten(2)
    near_y, near_x = ([(p + d).clamp(0, size - 1) for d in (-1, 0, 1)] for p, size in ((y, height), (x, width)))
    values = [flat.gather(2, (v * width + u)[..., None])[..., 0] for v in near_y for u in near_x]
    return torch.stack(values).unflatten(0, (3, 3)).double()


def _newton_step(near: Tensor) -> Tensor:
    """(n, keypoints, 2): inverse second derivatives times the first; zero where there is no inverse."""
    up_left, up, left, centre = near[0, 0], near[0, 1], near[1, 0], near[1, 1]
    right, down, down_right = near[1, 2], near[2, 1], near[2, 2]
    dx, dy = (right - left) / 2, (down - up) / 2
    dxx = right - 2 * centre + left + EPSILON
    dyy = down - 2 * centre + up + EPSILON
    dxy = (down_right - right - down + 2 * centre - left - up + up_left) / 2
    determinant = dxx * dyy - dxy**2
    step = torch.stack([dyy * dx - dxy * dy, dxx * dy - dxy * dx], dim=-1) / determinant[..., None]
    return torch.where(step.isfinite(), step, torch.zeros_like(step))


def in_picture(decoded: Doubles, regions: Regions) -> Floats:
    """Keypoints in pixels of the pictures that the crops were taken from.

    Args:
        decoded: (n, keypoints, 3) float64 of `decode`.
        regions: of the n crops.

    Returns:
        (n, keypoints, 3) float32: x, y and the score within 0..1 (the network's may leave this range a little); (NaN,
        NaN, 0) where the score is not positive.
    """
    low = regions.centre_xy - regions.scale_wh / 2
    points = decoded[..., :2] * regions.scale_wh[:, None] + low[:, None]
    score = np.clip(decoded[..., 2:], 0, 1)
    keypoints = np.concatenate([points, score], axis=2).astype(np.float32)
    keypoints[~np.isfinite(keypoints).all(axis=2) | (score[..., 0] <= 0)] = (np.nan, np.nan, 0)
    return keypoints
