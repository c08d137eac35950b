"""Who speaks, from the lips alone: a face whose mouth keeps opening and closing is speaking.

The measure, `activity`, is the mean logarithm over 1.2 s of the standard deviation over 0.5 s of the lip opening
(distance of the inner lips / height of the face), which is first averaged over three frames (1-2-1): the points of a
face that the mesh sees badly jump from frame to frame, lips do not. The mean of the logarithm asks for movement that
lasts: a smile that comes or goes moves the lips once. Somebody whose lips move more than those of all others is
likelier to be the one who speaks, so the lead over the others counts as well, up to a limit; those behind lose nothing,
as people do speak at once.

Slope and intercept, which make log-odds of it, were fitted by logistic regression on three synthetic demos, three
generated conversations and half a real interview. Later the constants were compared with some ten thousand others on
half A of the development videos (benchmarks/choose.py) and kept where A did not clearly prefer others; what half B
gives is in docs/VALIDATION.md.

Known to fail: long laughter and chewing count as speech, speech with hardly opened or unseen lips does not, a narrator
outside the picture may be given to a face that moves, and on faces below about 50 px jitter looks like movement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from mit_builder.config.settings import SpeechSettings
from mit_builder.labels.keypoints import CHIN, FACE, INNER_LIP_LOWER, INNER_LIP_UPPER, NOSE_BRIDGE, SEEN_SCORE
from mit_builder.models.base import Floats, SpeakerScorer, SpeechInput

Doubles = npt.NDArray[np.float64]

NAME = "lips 2"
"""Name and version; the version rises with any change of the scores."""


@dataclass(frozen=True)
class LipConstants:
    """What turns lip openings into log-odds; benchmarks/choose.py compares others with these.

    Attributes:
        deviation_frames: width of the window whose standard deviation is taken (odd).
        activity_frames: width of the window over which its logarithm is averaged (odd).
        noise: added to the standard deviation before the logarithm: the jitter of the points of a closed mouth.
        max_lead: limit of the lead over the others' activity. With all of it, a deviation of 0.005 is enough for
            log-odds of zero.
        slope: log-odds = slope * (activity + lead) + intercept.
        intercept: without a lead the log-odds are zero at a deviation of 0.019.
    """

    deviation_frames: int = 13
    activity_frames: int = 31
    noise: float = 0.002
    max_lead: float = 1.1
    slope: float = 3.3
    intercept: float = 12.8


CHOSEN = LipConstants()
UNSEEN_LOGIT = -0.5
"""Log-odds where the lips were not seen: probably not speaking, with little confidence."""
MAX_GAP_FRAMES = 12
"""Longer stretches without lips are not bridged."""


class Lips:
    """See `SpeakerScorer`."""

    label_tier: Literal["heuristic", "model"] = "heuristic"

    def score(self, clip: SpeechInput) -> Floats:
        """(n_people, n_frames) float32 log-odds from `clip.keypoints` alone."""
        return log_odds(lip_opening(clip.keypoints), CHOSEN)


def load(settings: SpeechSettings) -> SpeakerScorer:
    """The scorer of `speech.model` lips."""
    return Lips()


def label(settings: SpeechSettings) -> str:
    """What rows call it."""
    return NAME


def log_odds(openings: Floats, constants: LipConstants) -> Floats:
    """(n_people, n_frames) lip openings, NaN where not seen -> (n_people, n_frames) float32 log-odds of speaking."""
    active = np.stack([activity(opening, constants) for opening in openings])
    scores = constants.slope * (active + lead(active, constants.max_lead)) + constants.intercept
    return np.where(np.isnan(active), UNSEEN_LOGIT, scores).astype(np.float32)


def lip_opening(keypoints: Floats) -> Floats:
    """Mean distance of the inner lips / distance from nose bridge to chin: (…, 133, 3) -> (…,), NaN where not seen."""
    points = keypoints.astype(np.float64)
    lips = np.linalg.norm(points[..., INNER_LIP_UPPER, :2] - points[..., INNER_LIP_LOWER, :2], axis=-1).mean(axis=-1)
    height = np.linalg.norm(points[..., NOSE_BRIDGE, :2] - points[..., CHIN, :2], axis=-1)
    is_seen = (points[..., FACE, 2].mean(axis=-1) >= SEEN_SCORE) & (height > 0)
    return np.asarray(np.where(is_seen, lips / np.where(height > 0, height, 1), np.nan), np.float32)


def activity(opening: Floats, constants: LipConstants) -> Doubles:
    """(n_frames,) lip opening -> (n_frames,) mean log deviation; NaN where the lips were not seen for long."""
    is_seen = np.isfinite(opening)
    if not is_seen.any():
        return np.full(len(opening), np.nan)
    frames = np.arange(len(opening))
    padded = np.pad(np.interp(frames, frames[is_seen], opening[is_seen]).astype(np.float64), 1, mode="edge")
    bridged = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    width = constants.deviation_frames
    variance = _mean(np.square(bridged), width) - np.square(_mean(bridged, width))
    active = _mean(np.log(np.sqrt(np.maximum(variance, 0)) + constants.noise), constants.activity_frames)
    return np.asarray(np.where(_near_seen(is_seen), active, np.nan))


def lead(active: Doubles, limit: float) -> Doubles:
    """How much each is ahead of all others, 0 .. `limit`: (n_people, n_frames) -> (n_people, n_frames).

    Nobody is ahead of somebody whose lips are not seen, or of nobody.
    """
    if len(active) < 2:
        return np.zeros_like(active)
    known = np.where(np.isnan(active), np.inf, active)
    others = np.stack([np.delete(known, person, axis=0).max(axis=0) for person in range(len(known))])
    return np.asarray(np.clip(active - others, 0, limit))


def _mean(values: Doubles, width: int) -> Doubles:
    """Centred mean over an odd number of frames, ends repeated."""
    padded = np.pad(values, width // 2, mode="edge")
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, width).mean(axis=-1))


def _near_seen(is_seen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """True where lips are seen, and in gaps of at most `MAX_GAP_FRAMES`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], ~is_seen, [False]])))
    near = np.ones(len(is_seen), bool)
    for start, end in edges.reshape(-1, 2):
        near[start:end] = end - start <= MAX_GAP_FRAMES
    return near
