"""What Sapiens looks at: each person cut out of the frame, scaled to 1024 x 768 and normalised, in batch on the device.

The crop follows the training code ("UDP": corners map to the centres of corner pixels) and gives the very bytes of
`warpAffine` in OpenCV 4 (bilinear, zeros outside), where places are multiples of 1/32 pixel, whatever OpenCV is here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mit_builder.models.base import Floats, Image
from mit_builder.models.torch_backend import Tensor, torch

ASPECT = 3 / 4
"""Width / height of every crop (the training's and the evaluation's; the "lite" demo takes the source picture's)."""
BOX_SCALE = 1.25
"""A crop's sides over those of the person's box."""
MEAN_RGB = (123.675, 116.28, 103.53)
STD_RGB = (58.395, 57.12, 57.375)
"""Of the training's pixels, 0..255 (full repository; the "lite" demo has others)."""
_STEPS = 32
"""Parts of a pixel that OpenCV tells apart, and how far it scales coordinates before it rounds them to these."""
_FIXED_POINT = 1024

Doubles = npt.NDArray[np.float64]


class Regions(NamedTuple):
    """Pieces of pictures, one a crop.

    Attributes:
        centre_xy: (n, 2) in pixels of the picture.
        scale_wh: (n, 2) sides in pixels of the picture, in the proportion `ASPECT`.
    """

    centre_xy: Doubles
    scale_wh: Doubles


class Taps(NamedTuple):
    """The two rows, or columns, of a picture that every row, or column, of a crop is mixed from.

    Attributes:
        places: (2, n, length) int64, inside the picture.
        weight: (2, n, length) float32, whole numbers 0..32; 0 for what lies outside the picture.
    """

    places: Tensor
    weight: Tensor


def regions_of(boxes_xyxy: Floats | Doubles) -> Regions:
    """What to look at for each of (n, 4) boxes: around their centres, larger, and of the right proportion."""
    boxes = np.asarray(boxes_xyxy, np.float64)
    low, high = boxes[:, :2], boxes[:, 2:]
    width, height = (np.maximum(high - low, 1) * BOX_SCALE).T
    is_wide = width > height * ASPECT
    scale = np.where(is_wide, (width, width / ASPECT), (height * ASPECT, height)).T
    return Regions((low + high) / 2, scale)


def crop_matrices(regions: Regions, input_hw: tuple[int, int]) -> Floats:
    """(n, 2, 3) float32: pixels of the picture to pixels of the crop."""
    height, width = input_hw
    factor = (np.array([width, height]) - 1) / regions.scale_wh
    matrices = np.zeros((len(factor), 2, 3), np.float32)
    matrices[:, 0, 0], matrices[:, 1, 1] = factor.T
    matrices[:, :, 2] = factor * (regions.scale_wh / 2 - regions.centre_xy)
    return matrices


def taps_of(matrices: Floats, input_hw: tuple[int, int], frame_hw: tuple[int, int]) -> tuple[Taps, Taps]:
    """Rows and columns that `warpAffine` reads for these matrices, which must neither turn nor shear; on the CPU."""
    exact = matrices.astype(np.float64)
    step = 1 / exact[:, [1, 0], [1, 0]]
    start = -step * exact[:, [1, 0], 2]
    down, along = (np.arange(length) for length in input_hw)
    # OpenCV rounds the start and the way along a row apart, but the way down together with its start.
    rows = np.rint((start[:, :1] + step[:, :1] * down) * _FIXED_POINT)
    columns = np.rint(start[:, 1:] * _FIXED_POINT) + np.rint(step[:, 1:] * along * _FIXED_POINT)
    return _taps(rows, frame_hw[0]), _taps(columns, frame_hw[1])


def _taps(fixed_point: Doubles, length: int) -> Taps:
    unit = _FIXED_POINT // _STEPS
    first, share = np.divmod((fixed_point.astype(np.int64) + unit // 2) // unit, _STEPS)
    index, weight = np.stack([first, first + 1]), np.stack([_STEPS - share, share])
    inside = np.clip(index, 0, length - 1)
    weight = np.where(index == inside, weight, 0).astype(np.float32)
    return Taps(torch.from_numpy(inside), torch.from_numpy(weight))


def cut_out(frames: Tensor, frame_of: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """Crops of whole frames.

    Args:
        frames: (n_frames, h, w, 3) uint8.
        frame_of: (n,) which frame each crop is taken from.
        rows: of each crop, as `taps_of` gives them.
        columns: the same.

    Returns:
        (n, height, width, 3) float32 of whole numbers 0..255.
    """
    total = torch.zeros(1, device=frames.device)
    for y, y_weight in zip(rows.places, rows.weight, strict=True):
        line = torch.zeros(1, device=frames.device)
        for x, x_weight in zip(columns.places, columns.weight, strict=True):
            pixels = frames[frame_of[:, None, None], y[:, :, None], x[:, None, :]]
            line = line + pixels * x_weight[:, None, :, None]
        total = total + line * y_weight[:, :, None, None]
    # Whole numbers below 2^24: exact in float32.
    return torch.floor((total + _STEPS**2 / 2) / _STEPS**2)


def normalised(crops: Tensor) -> Tensor:
    """(n, height, width, 3) RGB 0..255 to the network's input (n, 3, height, width)."""
    channels = zip(crops.unbind(3), MEAN_RGB, STD_RGB, strict=True)
    return torch.stack([(values - mean) / std for values, mean, std in channels], dim=1)


class Batch(NamedTuple):
    """Crops to take, and everything that is needed for it, as tensors.

    Attributes:
        frames: (n_frames, h, w, 3) uint8.
        frame_of: (n,) int64, the frame of each crop.
        rows: of the crops.
        columns: of the crops.
    """

    frames: Tensor
    frame_of: Tensor
    rows: Taps
    columns: Taps

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same with every tensor changed."""
        rows, columns = (Taps(change(taps.places), change(taps.weight)) for taps in (self.rows, self.columns))
        return Batch(change(self.frames), change(self.frame_of), rows, columns)

    def crops(self) -> Tensor:
        """(n, 3, height, width) float32, normalised."""
        return normalised(cut_out(self.frames, self.frame_of, self.rows, self.columns))


def batch_of(images: Sequence[Image], regions: Regions, input_hw: tuple[int, int]) -> Batch:
    """One crop for each image and region, on the CPU; images that follow each other may be the same."""
    is_new = [i == 0 or image is not images[i - 1] for i, image in enumerate(images)]
    frames = np.stack([image for image, new in zip(images, is_new, strict=True) if new])
    frame_of = np.cumsum(is_new, dtype=np.int64) - 1
    height, width = frames.shape[1:3]
    rows, columns = taps_of(crop_matrices(regions, input_hw), input_hw, (height, width))
    return Batch(torch.from_numpy(frames), torch.from_numpy(frame_of), rows, columns)
