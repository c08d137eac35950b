"""One channel out of many for the labels, two for the ears.

Channels with names are weighed as ITU-R BS.775-4 (table 2) mixes surround to stereo: centre 1, front 0.71, surround 0.5
in mono, no LFE. Of ambisonics the omnidirectional channel (W) is taken. Channels without names count alike, silent
ones not at all. Where the signal shows that such a mix cancels what is heard (a microphone wired the wrong way round
gives right = -left), signs are turned, and where no signs help, one channel is taken alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler

Doubles = npt.NDArray[np.float64]
Names = tuple[str, ...]
Weights = tuple[float, ...]

UNNAMED: Names = ("NONE",)
"""A channel of which the file does not say where it belongs, in FFmpeg's words."""

_FRONT = frozenset({"FL", "FR", "FC", "FLC", "FRC", "DL", "DR", "BIL", "BIR", "AMBI0"})
_MINUS_3_DB = 0.5**0.5
LOST = 0.1
"""A mix that keeps less than a tenth of the power (-10 dB) of the loudest channel that it holds has lost the sound.
Uncorrelated channels keep all of it, sound in one surround channel of 5.1 a quarter."""
MAX_LOST_SHARE = 0.01
"""Share of the windows with sound that a mix may lose."""
_SOUNDING = 10 ** (-25 / 10)
"""Windows within 25 dB of the loudest count: speech, not the noise between words."""
_UNUSED = 10 ** (-60 / 10)
"""A channel without a name that stays 60 dB below the loudest holds nothing."""


def channel_names(frame: AudioFrame) -> Names:
    """FFmpeg's names of a frame's channels."""
    return tuple(channel.name for channel in frame.layout.channels)


class Channels:
    """Decoded frames as arrays of their channels."""

    def __init__(self) -> None:
        self._converters: dict[tuple[str, str, int], AudioResampler] = {}

    def __call__(self, frame: AudioFrame) -> Doubles:
        """(n_channels, n) samples of a frame of any format, full scale 1.

        PyAV reads planes past the end where there are eight or more: libswresample interleaves them first.
        """
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind not in self._converters:
            self._converters[kind] = AudioResampler("dbl", frame.layout, frame.sample_rate)
        frame.pts = None
        parts = [np.asarray(part.to_ndarray(), np.float64) for part in self._converters[kind].resample(frame)]
        interleaved = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        return interleaved.reshape(-1, frame.layout.nb_channels).T


def is_named(names: Names) -> bool:
    """Whether every channel has a place around the listener (or is ambisonic)."""
    return all(name.startswith(("LFE", "AMBI")) or name[-1:] in "LRC" for name in names) and "" not in names


def ear_weights(names: Names) -> Doubles | None:
    """(2, n_channels) shares of left and right, rows of at most 1; None where a mono mix is all there is."""
    if len(names) == 2:
        return np.eye(2)
    if len(names) == 1 or not is_named(names) or any(name.startswith("AMBI") for name in names):
        return None
    gains = np.array([_ear_gains(name) for name in names]).T
    return np.asarray(gains / max(gains.sum(axis=1).max(), 1e-9))


def plain_weights(names: Names) -> Weights:
    """What each channel counts in mono by its name alone; the sizes sum to 1."""
    gains = [sum(_ear_gains(name)) for name in names] if is_named(names) else [1.0] * len(names)
    return _scaled(gains if any(gains) else [1.0] * len(names))


def mono_weights(names: Names, windows: Doubles) -> Weights:
    """What each channel counts in mono, after listening: the plain mix unless it loses what can be heard.

    Args:
        names: of the channels.
        windows: (n_windows, n_channels, n_channels) covariance of the channels in each stretch of time.

    Returns:
        (n_channels,) shares whose sizes sum to 1, negative where a channel is turned round.
    """
    plain = np.array(plain_weights(names))
    powers = np.diagonal(windows, axis1=1, axis2=2)
    used = powers.max(axis=0, initial=0.0) >= _UNUSED * max(powers.max(initial=0.0), 1e-30)
    if used.any() and not (is_named(names) and (used & (plain > 0)).any()):
        # Without names, or with names that leave out all there is (eight microphones are often called 7.1).
        plain = used.astype(np.float64)
    loudest = np.where(plain, powers, 0.0).max(axis=1, initial=0.0)
    sounding = loudest >= _SOUNDING * loudest.max(initial=0.0)
    heard, loudest = windows[sounding & (loudest > 0)], loudest[sounding & (loudest > 0)]
    if not len(heard) or np.count_nonzero(plain) < 2:
        return _scaled(plain)
    total = heard.sum(axis=0)
    alone = [np.where(np.arange(len(names)) == i, 1.0, 0.0) for i in np.argsort(-total.diagonal(), kind="stable")]
    candidates = [plain, plain * _signs(plain, total), *(one for one in alone if plain[one > 0][0])]
    lost = [_lost_share(mix, heard, loudest) for mix in candidates]
    enough = next((i for i, share in enumerate(lost) if share <= MAX_LOST_SHARE), int(np.argmin(lost)))
    return _scaled(candidates[enough])


def _ear_gains(name: str) -> tuple[float, float]:
    """BS.775: what a channel adds to left and right."""
    if name.startswith("LFE") or (name.startswith("AMBI") and name != "AMBI0"):
        return 0.0, 0.0
    gain = 1.0 if name in _FRONT else _MINUS_3_DB
    if name.endswith("L") or name == "FLC":
        return gain, 0.0
    if name.endswith("R") or name == "FRC":
        return 0.0, gain
    return gain * _MINUS_3_DB, gain * _MINUS_3_DB


def _signs(plain: Doubles, covariance: Doubles) -> Doubles:
    """Signs with which every channel adds to the louder ones before it."""
    signs = np.zeros(len(plain))
    for i in np.argsort(-covariance.diagonal() * plain**2, kind="stable"):
        signs[i] = 1.0 if (signs * plain) @ covariance[i] >= 0 else -1.0
    return np.asarray(signs * signs[np.flatnonzero(plain)[0]])


def _lost_share(mix: Doubles, windows: Doubles, loudest: Doubles) -> float:
    kept = np.einsum("i,wij,j->w", mix, windows, mix) / (np.abs(mix).max() ** 2 * loudest)
    return float(np.mean(kept < LOST))


def _scaled(gains: Sequence[float] | Doubles) -> Weights:
    shares = np.asarray(gains, np.float64)
    return tuple(round(float(share), 4) for share in shares / np.abs(shares).sum())
