"""From phonemes to what the mouth does and to when somebody counts as speaking (numpy only)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from demo.voice import Phoneme

Curve = npt.NDArray[np.float64]

FPS = 25
CURVE_HZ = 200
SPEECH_PAUSE_S = 0.5
"""A pause of at least this length ends a speech segment; espeak-ng's pause between sentences is 0.43 s."""
COARTICULATION_S = 0.03
"""Standard deviation of the smoothing between neighbouring sounds."""
LEAD_S = 0.02
"""Lips prepare a sound before it is heard; half a frame."""

# (opening 0..1, width -1 rounded .. 1 spread) of the sounds, by letter of espeak-ng's notation.
_SHAPES = {
    **dict.fromkeys("aA0", (0.95, 0.1)),
    **dict.fromkeys("VE&", (0.65, 0.2)),
    **dict.fromkeys("e3@", (0.45, 0.1)),
    **dict.fromkeys("IijY", (0.32, 0.7)),
    **dict.fromkeys("Oo", (0.62, -0.7)),
    **dict.fromkeys("uUwW", (0.22, -1.0)),
    **dict.fromkeys("pbm", (0.0, 0.0)),
    **dict.fromkeys("fv", (0.06, 0.1)),
    **dict.fromkeys("TDtdnlsz*", (0.2, 0.25)),
    **dict.fromkeys("SZ", (0.24, -0.5)),
    **dict.fromkeys("rR", (0.26, -0.4)),
    **dict.fromkeys("kgNhx?", (0.3, 0.1)),
}
_OTHER_SOUND = (0.3, 0.0)


@dataclass(frozen=True)
class MouthCurves:
    """One person's mouth over the frames of a shot."""

    opening: Curve
    """(n_frames,) 0 closed .. 1 wide open."""
    width: Curve
    """(n_frames,) -1 rounded .. 1 spread, 0 at rest."""
    activity: Curve
    """(n_frames,) 0..1, slow measure of talking; drives the gestures of the head."""


def smooth(curve: Curve, sigma: float) -> Curve:
    """Convolve with a Gaussian of `sigma` samples; the ends are extended."""
    reach = max(1, round(4 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.convolve(np.pad(curve, reach, mode="edge"), kernel / kernel.sum(), mode="valid")


def letters(phoneme: str) -> str:
    """The sounds of a phoneme: diphthongs and affricates have two, digits after the first sign are mere variants."""
    return phoneme[:1] + "".join(c for c in phoneme[1:] if not c.isdigit() and c not in "#-")


def mouth_curves(lines: Sequence[tuple[float, Sequence[Phoneme]]], n_frames: int) -> MouthCurves:
    """Mouth of one person who speaks these lines, each given with its start in the shot (s)."""
    n = n_frames * CURVE_HZ // FPS
    opening, width, activity = np.zeros(n), np.zeros(n), np.zeros(n)
    for start_s, phonemes in lines:
        for phoneme in phonemes:
            sounds = letters(phoneme.name)
            edges = np.linspace(start_s + phoneme.start_s, start_s + phoneme.end_s, len(sounds) + 1) - LEAD_S
            for sound, a, b in zip(sounds, edges[:-1], edges[1:], strict=True):
                span = slice(round(a * CURVE_HZ), round(b * CURVE_HZ))
                opening[span], width[span] = _SHAPES.get(sound, _OTHER_SOUND)
                activity[span] = 1
    sigma = COARTICULATION_S * CURVE_HZ
    step = CURVE_HZ // FPS
    middle = slice(step // 2, None, step)
    return MouthCurves(
        smooth(opening, sigma)[middle], smooth(width, sigma)[middle], smooth(activity, 0.16 * CURVE_HZ)[middle]
    )


def speech_segments(phonemes: Sequence[Phoneme]) -> list[tuple[float, float]]:
    """Stretches of speech (start_s, end_s) of a line; a pause below `SPEECH_PAUSE_S` belongs to both."""
    segments: list[tuple[float, float]] = []
    for phoneme in phonemes:
        if not phoneme.name:
            continue
        if segments and phoneme.start_s - segments[-1][1] < SPEECH_PAUSE_S:
            segments[-1] = (segments[-1][0], phoneme.end_s)
        else:
            segments.append((phoneme.start_s, phoneme.end_s))
    return segments
