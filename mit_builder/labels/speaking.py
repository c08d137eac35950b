"""From speaking scores to labels: smoothing, gating by voice, periods, and how the people of a clip interact.

Follows the MIT scripts (smoothing over i-3..i+2, a median filter of 5 frames before periods) with their flaws left
out: every frame has a score, windows end at the clip's ends instead of running into zeros, periods always partition the
clip, and merging looks at the periods as they grow. The sign of a median is the majority of the signs, so filtering the
flags gives the periods of the filtered scores. Both filters are there for a model's flicker: frames that a reviewer has
set stay as they were set, however few they are.
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


def filtered(flags: npt.ArrayLike, human: Flags | None = None) -> Flags:
    """Flags after a median filter of 5 frames that repeats the ends: (n_frames,) bool -> the same.

    Args:
        flags: of one person.
        human: (n_frames,) bool, frames whose flag a reviewer has set: it stays.
    """
    given = np.asarray(flags, bool)
    return _median(given) if human is None else np.where(human, given, _median(given))


def periods(flags: npt.ArrayLike, human: Flags | None = None) -> Periods:
    """Runs of true frames after `filtered`: (n_frames,) bool -> (n, 2) int32 [start, end).

    `periods(flags)` and `periods(~flags)` together partition the clip.
    """
    return runs(filtered(flags, human))


def merged_periods(flags: npt.ArrayLike, merge_below_frames: int, human: Flags | None = None) -> Periods:
    """The same as `periods`, after every run (true or false) that is shorter than the limit has joined its neighbours.

    Shortest first, the earlier of two equals; a run grows by what it takes in, so nothing short is left but runs that
    hold a frame of `human`, and a clip that is itself too short. `merged_periods(flags, n)` and `merged_periods(~flags,
    n)` together partition the clip.
    """
    merged = filtered(flags, human)
    n_human = np.concatenate([[0], np.cumsum(human)]) if human is not None else np.zeros(len(merged) + 1, int)
    while True:
        starts = np.flatnonzero(np.diff(merged, prepend=~merged[:1]))
        ends = np.append(starts[1:], len(merged))
        is_short = (ends - starts < merge_below_frames) & (n_human[ends] == n_human[starts])
        if len(starts) < 2 or not is_short.any():
            return runs(merged)
        shortest = int(np.where(is_short, ends - starts, len(merged) + 1).argmin())
        merged[starts[shortest] : ends[shortest]] ^= True


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
        n_turns: how often the sole speaker differs from the sole speaker before, by the filtered labels that
            `speak_periods` are made of; frames in which nobody or several speak are passed over.
        overlap_ratio: frames with at least two speakers / frames with at least one; None if nobody speaks.
        silence_ratio: frames without a speaker / all frames.
    """

    n_turns: int
    overlap_ratio: float | None
    silence_ratio: float


def interaction_labels(speaking: npt.ArrayLike, human: Flags | None = None) -> InteractionLabels:
    """Interaction labels from (n_people, n_frames) bool.

    Args:
        speaking: who speaks.
        human: of the same shape, where a reviewer has set it; None for nowhere.
    """
    flags = np.asarray(speaking, bool)
    n_speakers = flags.sum(axis=0)
    masks = [None] * len(flags) if human is None else human
    steady = np.stack([filtered(person, mask) for person, mask in zip(flags, masks, strict=True)])
    sole_speakers = steady.argmax(axis=0)[steady.sum(axis=0) == 1]
    n_spoken = int((n_speakers > 0).sum())
    return InteractionLabels(
        n_turns=int((np.diff(sole_speakers) != 0).sum()),
        overlap_ratio=float((n_speakers > 1).sum() / n_spoken) if n_spoken else None,
        silence_ratio=float((n_speakers == 0).mean()),
    )
