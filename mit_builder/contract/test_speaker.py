"""What every `SpeakerScorer` has to fulfil."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mit_builder.contract.plugin import closed, mouths, talking
from mit_builder.models.base import SpeakerScorer

ROLE = "speaker"
N_SCORED = 60


@pytest.mark.parametrize("n_frames", [1, 7, N_SCORED])
def test_every_person_and_frame_has_a_finite_float32_score(backend: SpeakerScorer, n_frames: int) -> None:
    """However short the clip is."""
    scores = backend.score(mouths(talking(n_frames), closed(n_frames), closed(n_frames)))
    assert scores.shape == (3, n_frames)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()


def test_equal_input_gives_equal_scores_whatever_came_between(backend: SpeakerScorer) -> None:
    """Nothing is remembered: a resumed run would label otherwise."""
    given = mouths(talking(N_SCORED), closed(N_SCORED))
    first = backend.score(given)
    backend.score(mouths(closed(7)))
    np.testing.assert_array_equal(backend.score(given), first)


def test_scores_go_with_their_person(backend: SpeakerScorer) -> None:
    """Whoever stands first."""
    given = mouths(talking(N_SCORED), closed(N_SCORED))
    other = replace(given, keypoints=given.keypoints[::-1].copy(), face_boxes_xyxy=given.face_boxes_xyxy[::-1].copy())
    np.testing.assert_allclose(backend.score(other)[::-1], backend.score(given), atol=1e-4)


def test_what_is_given_is_not_changed(backend: SpeakerScorer) -> None:
    """It becomes part of the dataset."""
    given, same = mouths(talking(N_SCORED), closed(N_SCORED)), mouths(talking(N_SCORED), closed(N_SCORED))
    backend.score(given)
    for name in ("samples", "voice_activity", "keypoints", "face_boxes_xyxy"):
        np.testing.assert_array_equal(getattr(given, name), getattr(same, name), err_msg=name)


def test_a_person_without_keypoints_has_scores_too(backend: SpeakerScorer) -> None:
    """A turned head has no lips."""
    given = mouths(talking(N_SCORED), closed(N_SCORED))
    keypoints = given.keypoints.copy()
    keypoints[1] = (np.nan, np.nan, 0)
    assert np.isfinite(backend.score(replace(given, keypoints=keypoints))).all()


def test_label_tier_is_stated(backend: SpeakerScorer) -> None:
    """Rows say how far to trust their labels."""
    assert backend.label_tier in ("heuristic", "model")
