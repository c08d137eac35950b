"""Who speaks, from the lips alone: a face whose mouth keeps opening and closing is speaking.

The measure is the lip opening (distance between the inner lips / height of the face), its standard deviation over
0.36 s, and the mean logarithm of that over 1 s. The mean of the logarithm asks for movement that lasts: a smile that
comes or goes moves the lips once. Two numbers turn it into log-odds. They were fitted by logistic regression, classes
weighted equally, on the voiced frames of four clips (the first two-shot of the prototype demo with its rendered truth,
three generated conversations labelled by eye). On four others (the demo's second two-shot, a generated clip with
published speaking times, two labelled by eye) it finds 96% of the speech and 94% of the silence, and the highest score
is the speaker's in 99% of the frames with one speaker.

Known to fail: long laughter and chewing count as speech, speech with hardly opened or unseen lips does not, and on
faces below about 50 px the noise of the points looks like movement.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from mit_builder.models.base import Floats, SpeechInput
from mit_builder.models.coco_wholebody import CHIN, FACE, INNER_LIP_LOWER, INNER_LIP_UPPER, NOSE_BRIDGE, SEEN_SCORE

NAME = "lips 1"
"""Name and version; the version rises with any change of the scores."""
DEVIATION_FRAMES = 9
"""Width of the window whose standard deviation is taken."""
ACTIVITY_FRAMES = 25
"""Width of the window over which its logarithm is averaged."""
NOISE = 0.003
"""Standard deviation of the opening of a closed mouth: added before the logarithm."""
SLOPE, INTERCEPT = 6.0, 24.9
"""Log-odds = SLOPE * mean log(deviation + NOISE) + INTERCEPT; zero at a deviation of 0.013."""
UNSEEN_LOGIT = -0.5
"""Log-odds where the lips were not seen: probably not speaking, with little confidence."""
MAX_GAP_FRAMES = 12
"""Longer stretches without lips are not bridged."""


class Lips:
    """See `SpeakerScorer`."""

    label_tier: Literal["heuristic", "model"] = "heuristic"

    def score(self, clip: SpeechInput) -> Floats:
        """(n_people, n_frames) float32 log-odds from `clip.keypoints` alone."""
        return np.stack([_log_odds(lip_opening(person)) for person in clip.keypoints])


def lip_opening(keypoints: Floats) -> Floats:
    """Mean distance of the inner lips / distance from nose bridge to chin: (…, 133, 3) -> (…,), NaN where not seen."""
    points = keypoints.astype(np.float64)
    lips = np.linalg.norm(points[..., INNER_LIP_UPPER, :2] - points[..., INNER_LIP_LOWER, :2], axis=-1).mean(axis=-1)
    height = np.linalg.norm(points[..., NOSE_BRIDGE, :2] - points[..., CHIN, :2], axis=-1)
    is_seen = (points[..., FACE, 2].mean(axis=-1) >= SEEN_SCORE) & (height > 0)
    return np.asarray(np.where(is_seen, lips / np.where(height > 0, height, 1), np.nan), np.float32)


def _log_odds(opening: Floats) -> Floats:
    """(n_frames,) lip opening, NaN where not seen -> (n_frames,) log-odds."""
    is_seen = np.isfinite(opening)
    if not is_seen.any():
        return np.full(len(opening), UNSEEN_LOGIT, np.float32)
    frames = np.arange(len(opening))
    bridged = np.interp(frames, frames[is_seen], opening[is_seen]).astype(np.float64)
    deviation = np.sqrt(
        np.maximum(_mean(np.square(bridged), DEVIATION_FRAMES) - np.square(_mean(bridged, DEVIATION_FRAMES)), 0)
    )
    activity = _mean(np.log(deviation + NOISE), ACTIVITY_FRAMES)
    return np.where(_near_seen(is_seen), SLOPE * activity + INTERCEPT, UNSEEN_LOGIT).astype(np.float32)


def _mean(values: npt.NDArray[np.float64], width: int) -> npt.NDArray[np.float64]:
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
