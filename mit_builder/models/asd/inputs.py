"""What TalkNet and LR-ASD look at and listen to: grey face crops and MFCC.

Both follow the published preprocessing of TalkNet-ASD (crop of its demo, `python_speech_features` 0.6), which
LR-ASD shares, without its lossy intermediate files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from manifests.rows import AUDIO_RATE_HZ, SAMPLES_PER_FRAME
from mit_builder.errors import ModelError
from mit_builder.models.base import Floats, Image

Doubles = npt.NDArray[np.float64]

CROP_PX = 112
"""Side of the grey square that the networks see: the middle of a crop resized to twice that."""
CROP_MARGIN = 0.4
"""Share of the face box's half side that the crop adds on the sides and below (TalkNet demo)."""
PAD_GREY = 110
"""Value outside of the picture (TalkNet demo)."""
MEDIAN_FRAMES = 13
"""Kernel of the median filter over a track's boxes (TalkNet demo)."""

ROWS_PER_FRAME = 4
"""MFCC rows of one video frame: 100 a second."""
N_CEPSTRA = 13
HOP_SAMPLES = 160
WINDOW_SAMPLES = 400
FFT_SAMPLES = 512
N_MEL_BANDS = 26
PRE_EMPHASIS = 0.97
LIFTER = 22
LOOKAHEAD_SAMPLES = WINDOW_SAMPLES - HOP_SAMPLES
"""Samples after the last frame that the window of its last MFCC row needs."""


@dataclass(frozen=True)
class CropPath:
    """Where the face is in every frame of a track, smoothed.

    Attributes:
        half_side: (n_frames,) half of the box's longer side, pixels.
        centre_x: (n_frames,) pixels.
        centre_y: (n_frames,) pixels.
    """

    half_side: Doubles
    centre_x: Doubles
    centre_y: Doubles


def smooth_boxes(boxes_xyxy: npt.NDArray[np.floating[Any]]) -> CropPath:
    """Median-filtered centre and half side of one face's boxes, (n_frames, 4) pixels.

    Frames before and after the track count as zero, as in the demo. A track so short that zeros would win
    (fewer than half the kernel) gets its plain median.
    """
    boxes = np.asarray(boxes_xyxy, np.float64)
    x1, y1, x2, y2 = boxes.T
    half_side, centre_x, centre_y = np.maximum(y2 - y1, x2 - x1) / 2, (x1 + x2) / 2, (y1 + y2) / 2
    return CropPath(_median_filter(half_side), _median_filter(centre_x), _median_filter(centre_y))


def _median_filter(values: Doubles) -> Doubles:
    half = MEDIAN_FRAMES // 2
    if len(values) <= half:
        return np.full(len(values), np.median(values)) if len(values) else values
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, half), MEDIAN_FRAMES)
    filtered: Doubles = np.median(windows, axis=1)
    return filtered


def crop_square(image: Image, half_side: float, centre_x: float, centre_y: float) -> Image:
    """The face with its margins as a 224 x 224 image (channel order as given); grey outside of the picture."""
    reach = half_side * (1 + 2 * CROP_MARGIN)
    pad = int(reach)
    top, bottom = int(centre_y + pad - half_side) - pad, int(centre_y + pad + reach) - pad
    side = half_side * (1 + CROP_MARGIN)
    left, right = int(centre_x + pad - side) - pad, int(centre_x + pad + side) - pad
    square = np.full((max(bottom - top, 1), max(right - left, 1), 3), PAD_GREY, np.uint8)
    height, width = image.shape[:2]
    seen_y, seen_x = slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))
    if seen_y.start < seen_y.stop and seen_x.start < seen_x.stop:
        inside = square[seen_y.start - top :, seen_x.start - left :]
        inside[: seen_y.stop - seen_y.start, : seen_x.stop - seen_x.start] = image[seen_y, seen_x]
    return np.asarray(cv2.resize(square, (2 * CROP_PX, 2 * CROP_PX)), np.uint8)


def crop_face(image: Image, path: CropPath, frame: int) -> npt.NDArray[np.uint8]:
    """(112, 112) grey crop of one RGB image at `frame` of the path."""
    square = crop_square(image, path.half_side[frame], path.centre_x[frame], path.centre_y[frame])
    middle = slice(CROP_PX // 2, CROP_PX // 2 + CROP_PX)
    return np.asarray(cv2.cvtColor(square, cv2.COLOR_RGB2GRAY), np.uint8)[middle, middle]


def face_crops(images: Iterable[Image], face_boxes_xyxy: Floats, block_frames: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Crops of all people from one pass over the images, in blocks, so that memory does not grow with the clip.

    Args:
        images: n_frames RGB images.
        face_boxes_xyxy: (n_people, n_frames, 4) pixels, one box for every frame.
        block_frames: most frames in a block.

    Yields:
        (n_people, up to block_frames, 112, 112) uint8, blocks in order.

    Raises:
        ModelError: boxes are not finite, or there are fewer or more images than boxes.
    """
    n_people, n_frames = face_boxes_xyxy.shape[:2]
    if not np.isfinite(face_boxes_xyxy).all():
        raise ModelError("face boxes must be finite in every frame of the clip")
    paths = [smooth_boxes(boxes) for boxes in face_boxes_xyxy]
    block = np.empty((n_people, min(block_frames, n_frames), CROP_PX, CROP_PX), np.uint8)
    n_read = 0
    for frame, image in enumerate(images):
        n_read = frame + 1
        if n_read > n_frames:
            break
        for person, path in enumerate(paths):
            block[person, frame % block_frames] = crop_face(image, path, frame)
        if n_read % block_frames == 0 or n_read == n_frames:
            yield block[:, : frame % block_frames + 1]
            block = np.empty_like(block)
    if n_read != n_frames:
        raise ModelError(f"the clip has {n_frames} face boxes a person but {n_read} or more images")


def mfcc(samples: npt.NDArray[np.int16]) -> Doubles:
    """MFCC of raw 16 kHz samples: (1 + ceil((n_samples - 400) / 160), 13) float64, 100 rows a second.

    The samples are not scaled to +-1; the last window is filled with zeros; column 0 is the log energy.
    """
    signal = np.asarray(samples, np.float64)
    return _cepstra(np.concatenate([signal[:1], signal[1:] - PRE_EMPHASIS * signal[:-1]]))


def mfcc_of_frames(samples: npt.NDArray[np.int16], start_frame: int, end_frame: int) -> Doubles:
    """Exactly four MFCC rows for every frame of [start_frame, end_frame), (4 * n, 13) float64.

    Args:
        samples: (n,) int16, sample 0 at the start of frame 0; what lies beyond their end counts as silence.
        start_frame: first frame.
        end_frame: frame after the last.

    Rows equal those of the whole signal: the window of the last row reaches 240 samples past `end_frame`.
    """
    start, stop = start_frame * SAMPLES_PER_FRAME, end_frame * SAMPLES_PER_FRAME + LOOKAHEAD_SAMPLES
    before = samples[max(start - 1, 0) : start]
    stretch = np.concatenate([before, samples[start:stop]]).astype(np.float64)
    silence = np.zeros(stop - start + len(before) - len(stretch))
    signal = np.concatenate([stretch, silence])
    emphasised = signal[1:] - PRE_EMPHASIS * signal[:-1]
    return _cepstra(emphasised if len(before) else np.concatenate([signal[:1], emphasised]))


def _cepstra(emphasised: Doubles) -> Doubles:
    n_rows = 1 + max(-(-(len(emphasised) - WINDOW_SAMPLES) // HOP_SAMPLES), 0)
    padded = np.zeros((n_rows - 1) * HOP_SAMPLES + WINDOW_SAMPLES)
    padded[: len(emphasised)] = emphasised
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_SAMPLES)[::HOP_SAMPLES]
    power = np.abs(np.fft.rfft(windows, FFT_SAMPLES)) ** 2 / FFT_SAMPLES
    rows: Doubles = np.log(_not_zero(power @ _mel_bank().T)) @ _cosines().T
    rows *= 1 + LIFTER / 2 * np.sin(np.pi * np.arange(N_CEPSTRA) / LIFTER)
    rows[:, 0] = np.log(_not_zero(power.sum(axis=1)))
    return rows


def _not_zero(values: Doubles) -> Doubles:
    return np.where(values == 0, np.finfo(np.float64).eps, values)


def _mel_bank() -> Doubles:
    """(26, 257) triangles, evenly spaced in mel between 0 and 8000 Hz, corners on whole bins of the spectrum."""
    highest_mel = 2595 * np.log10(1 + AUDIO_RATE_HZ / 2 / 700)
    corners_hz = 700 * (10 ** (np.linspace(0, highest_mel, N_MEL_BANDS + 2) / 2595) - 1)
    corners = np.floor((FFT_SAMPLES + 1) * corners_hz / AUDIO_RATE_HZ)
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    bins = np.arange(FFT_SAMPLES // 2 + 1)
    bank: Doubles = np.where(bins < middle, (bins - low) / (middle - low), (high - bins) / (high - middle))
    return np.where((bins >= low) & (bins < high), bank, 0.0)


def _cosines() -> Doubles:
    """(13, 26) first rows of the orthonormal cosine transform (type II)."""
    order, band = np.arange(N_CEPSTRA)[:, None], np.arange(N_MEL_BANDS)
    matrix: Doubles = np.cos(np.pi * order * (2 * band + 1) / (2 * N_MEL_BANDS)) * np.sqrt(2 / N_MEL_BANDS)
    matrix[0] /= np.sqrt(2)
    return matrix
