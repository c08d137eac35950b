"""From speaking scores to labels: smoothing, gating by voice, periods, and how the people of a clip interact.

Follows the MIT scripts (smoothing over i-3..i+2, a median filter of 5 frames before periods) with their flaws left
out: every frame has a score, windows end at the clip's ends instead of running into zeros, periods always partition the
clip, and merging looks at the periods as they grow. The sign of a median is the majority of the signs, so filtering the
flags gives the periods of the filtered scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Periods = npt.NDArray[np.int32]

SMOOTH_PAST_FRAMES, SMOOTH_FUTURE_FRAMES = 3, 2
"""Frames around i that its smoothed score is the mean of (MIT scripts)."""
MEDIAN_FRAMES = 5
"""Width of the median filter before periods (MIT scripts)."""
VOICE_FRAMES = 9
"""Frames over which the speech probability is averaged, so that a dropout within words does not end speech."""


def smooth(scores: npt.ArrayLike) -> Floats:
    """Mean over frames i-3 .. i+2, as far as they exist: (…, n_frames) -> (…, n_frames) float32."""
    return _windowed_mean(np.asarray(scores, np.float64), SMOOTH_PAST_FRAMES, SMOOTH_FUTURE_FRAMES)


def smooth_voice(probabilities: npt.ArrayLike) -> Floats:
    """Mean speech probability over the 9 frames around each, as far as they exist: (n_frames,) float32."""
    return _windowed_mean(np.asarray(probabilities, np.float64), VOICE_FRAMES // 2, VOICE_FRAMES // 2)


def _windowed_mean(values: npt.NDArray[np.float64], past: int, future: int) -> Floats:
    n_frames = values.shape[-1]
    totals = np.zeros((*values.shape[:-1], n_frames))
    counts = np.zeros(n_frames)
    for shift in range(-past, future + 1):
        to = slice(max(0, -shift), n_frames - max(0, shift))
        source = slice(max(0, shift), n_frames - max(0, -shift))
        if to.start < to.stop:
            totals[..., to] += values[..., source]
            counts[to] += 1
    return np.asarray(totals / counts, np.float32)


def is_speaking(smoothed: Floats, voice_activity: Floats, min_voice_activity: float) -> Flags:
    """Whether each person speaks: (n_people, n_frames) scores and (n_frames,) voice -> (n_people, n_frames) bool."""
    return (smoothed > 0) & (voice_activity >= np.float32(min_voice_activity))


def periods(flags: npt.ArrayLike) -> Periods:
    """Runs of true frames after a median filter of 5 frames: (n_frames,) bool -> (n, 2) int32 [start, end).

    The filter repeats the ends. `periods(flags)` and `periods(~flags)` together partition the clip.
    """
    return runs(_median(np.asarray(flags, bool)))


def merged_periods(flags: npt.ArrayLike, merge_below_frames: int) -> Periods:
    """As `periods`, with every run, true or false, that is shorter than the limit given to its neighbours.

    Shortest first, the earlier of two equals; a run grows by what it takes in, so nothing short is left but a clip that
    is itself too short. `merged_periods(flags, n)` and `merged_periods(~flags, n)` together partition the clip.
    """
    filtered = _median(np.asarray(flags, bool))
    while True:
        starts = np.flatnonzero(np.diff(filtered, prepend=~filtered[:1]))
        lengths = np.diff(starts, append=len(filtered))
        if len(starts) < 2 or lengths.min() >= merge_below_frames:
            return runs(filtered)
        shortest = int(lengths.argmin())
        run = slice(starts[shortest], starts[shortest] + lengths[shortest])
        filtered[run] = ~filtered[run]


def _median(flags: Flags) -> Flags:
    if not len(flags):
        return flags
    padded = np.pad(flags, MEDIAN_FRAMES // 2, mode="edge")
    votes = np.lib.stride_tricks.sliding_window_view(padded, MEDIAN_FRAMES).sum(axis=-1)
    return np.asarray(votes > MEDIAN_FRAMES // 2)


def runs(flags: Flags) -> Periods:
    """Runs of true frames as they are: (n_frames,) bool -> (n, 2) int32 [start, end)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]])))
    return edges.reshape(-1, 2).astype(np.int32)


@dataclass(frozen=True)
class InteractionLabels:
    """How the people of one clip talk with one another.

    Attributes:
        n_turns: how often the sole speaker differs from the sole speaker before; frames in which nobody or several
            speak are passed over.
        overlap_ratio: frames with at least two speakers / frames with at least one; None if nobody speaks.
        silence_ratio: frames without a speaker / all frames.
    """

    n_turns: int
    overlap_ratio: float | None
    silence_ratio: float


def interaction_labels(speaking: npt.ArrayLike) -> InteractionLabels:
    """Interaction labels from (n_people, n_frames) bool."""
    flags = np.asarray(speaking, bool)
    n_speakers = flags.sum(axis=0)
    sole_speakers = flags.argmax(axis=0)[n_speakers == 1]
    n_spoken = int((n_speakers > 0).sum())
    return InteractionLabels(
        n_turns=int((np.diff(sole_speakers) != 0).sum()),
        overlap_ratio=float((n_speakers > 1).sum() / n_spoken) if n_spoken else None,
        silence_ratio=float((n_speakers == 0).mean()),
    )
