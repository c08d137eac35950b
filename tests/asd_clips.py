"""Small made-up inputs of the speaker models, and the plain way to score them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

DURATIONS_S = (1, 2, 3, 4, 5, 6)


def made_up_clip(n_frames: int, seed: int = 0) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Crops (n, 112, 112) and MFCC (4 * n, 13) with some structure in space and time, the same on every platform."""
    random = np.random.RandomState(seed)
    coarse = random.randint(0, 256, (n_frames, 14, 14))
    video = np.kron(coarse, np.ones((1, 8, 8), np.int64)).astype(np.uint8)
    return video, (random.random_sample((4 * n_frames, 13)) * 20 - 10).astype(np.float32)


def window_by_window(score: Callable[[int, int], npt.NDArray[np.float32]], n_frames: int) -> npt.NDArray[np.float32]:
    """(6, n_frames): the loop of the demo; `score(start, end)` runs the whole network on one window."""
    rows = []
    for duration in DURATIONS_S:
        starts = range(0, n_frames, 25 * duration)
        rows.append(np.concatenate([score(start, min(start + 25 * duration, n_frames)) for start in starts]))
    return np.stack(rows)
