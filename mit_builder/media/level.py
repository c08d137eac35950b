"""How loud a video's speech is, and the gain with which voice and speaker models listen to it.

These models were trained on speech at ordinary levels; 30 dB below them they begin to miss words (docs/SOUND.md). The
files of a clip keep the source's level: only what the models hear is amplified, by one gain a video.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.int16]

WINDOW_S = 0.4
"""Length of the windows whose power is measured (ITU-R BS.1770-5: 400 ms)."""
NOTHING_DBFS = -90.0
"""Windows below this are digital silence or the dither of 16 bits (-96 dBFS)."""
SILENT_DBFS = -80.0
"""A track that never gets louder is silent: other tracks are tried before it."""
_RELATIVE_GATE = 0.1
"""Windows more than 10 dB below the mean of all do not count (BS.1770-5): pauses."""
TARGET_DBFS = -23.0
"""Level of speech after the gain: that of EBU R 128, and the middle of the samples that were measured."""
MIN_GAIN_DB, MAX_GAIN_DB = -20.0, 60.0
"""With more than 60 dB the rounding of the FLAC's 16 bits would be as loud as the voice."""


def gated_dbfs(powers: npt.ArrayLike) -> float | None:
    """Level of what is said, by the gates of BS.1770 without its frequency weighting; None where all is silence.

    Args:
        powers: (n_windows,) mean square of each window, full scale 1.
    """
    values = np.asarray(powers, np.float64)
    values = values[values >= 10 ** (NOTHING_DBFS / 10)]
    if not len(values):
        return None
    return round(float(10 * np.log10(values[values >= _RELATIVE_GATE * values.mean()].mean())), 1)


def gain_for(level_dbfs: float | None, target_dbfs: float = TARGET_DBFS) -> float:
    """Gain in dB that brings this level to a target, within bounds; 0 for silence."""
    if level_dbfs is None:
        return 0.0
    return round(min(MAX_GAIN_DB, max(MIN_GAIN_DB, target_dbfs - level_dbfs)), 1)


def amplified(samples: Samples, gain_db: float) -> Samples:
    """The samples with a gain, rounded; what does not fit into 16 bits is clipped."""
    if not gain_db:
        return samples
    louder = np.rint(samples * 10 ** (gain_db / 20))
    return np.asarray(np.clip(louder, -32768, 32767), np.int16)
