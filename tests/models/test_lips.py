"""What `lips` makes of mouths of known movement."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mit_builder.contract.plugin import closed, mouth, mouths, talking
from mit_builder.labels.keypoints import FACE
from mit_builder.models.asd.lips import CHOSEN, UNSEEN_LOGIT, Lips, lip_opening

N_FRAMES = 150


def test_moving_lips_speak_and_closed_ones_do_not() -> None:
    scores = Lips().score(mouths(talking(N_FRAMES), closed(N_FRAMES)))
    assert (scores[0] > 0).all()
    assert (scores[1] < 0).all()


def test_turn_is_found_within_half_a_second() -> None:
    opening = np.concatenate([closed(75), talking(75)])
    score = Lips().score(mouths(opening))[0]
    onset = int(np.flatnonzero(score > 0)[0])
    assert 75 - 12 <= onset <= 75 + 12
    assert (score[onset:] > 0).all()


def test_a_smile_that_comes_or_goes_is_not_speech() -> None:
    smile = closed(N_FRAMES)
    smile[60:110] += 0.1
    assert (Lips().score(mouths(smile)) > 0).mean() < 0.05


def test_points_that_jump_from_frame_to_frame_are_not_speech() -> None:
    jumping = 0.06 + np.random.default_rng(3).normal(0, 0.02, N_FRAMES)
    assert (Lips().score(mouths(jumping)) > 0).mean() < 0.05
    assert (Lips().score(mouths(talking(N_FRAMES) + jumping)) > 0).all()


def test_scores_do_not_depend_on_voice() -> None:
    given = mouths(talking(N_FRAMES), closed(N_FRAMES))
    silent = replace(given, samples=given.samples * 0, voice_activity=given.voice_activity * 0)
    np.testing.assert_array_equal(Lips().score(silent), Lips().score(given))


def test_whoever_moves_most_gains_and_the_others_lose_nothing() -> None:
    faint = closed(N_FRAMES) + 0.1 * (talking(N_FRAMES) - closed(N_FRAMES))
    alone, among_still, among_talkers = (
        Lips().score(mouths(faint, *others))[0]
        for others in ((), (closed(N_FRAMES) * 0,), (talking(N_FRAMES), talking(N_FRAMES)))
    )
    gain = among_still - alone
    assert gain.max() <= CHOSEN.slope * CHOSEN.max_lead + 1e-4
    assert gain.min() > 1
    np.testing.assert_array_equal(among_talkers, alone)


def test_two_who_talk_at_once_both_speak() -> None:
    louder, softer = talking(N_FRAMES), closed(N_FRAMES) + 0.7 * (talking(N_FRAMES) - closed(N_FRAMES))
    assert (Lips().score(mouths(louder, softer)) > 0).all()


def test_nobody_leads_over_lips_that_are_not_seen() -> None:
    given = mouths(closed(N_FRAMES) * 3, closed(N_FRAMES) * 0)
    keypoints = given.keypoints.copy()
    keypoints[1, :, FACE] = (np.nan, np.nan, 0)
    hidden = Lips().score(replace(given, keypoints=keypoints))
    np.testing.assert_array_equal(hidden[0], Lips().score(mouths(closed(N_FRAMES) * 3))[0])
    assert (hidden[1] == UNSEEN_LOGIT).all()


def test_scores_do_not_depend_on_the_size_of_the_face() -> None:
    given = mouths(talking(N_FRAMES))
    large = given.keypoints.copy()
    large[..., :2] *= 3
    np.testing.assert_allclose(Lips().score(replace(given, keypoints=large)), Lips().score(given), atol=1e-2)


def test_unseen_lips_are_probably_silent_with_little_confidence() -> None:
    given = mouths(talking(N_FRAMES))
    keypoints = given.keypoints.copy()
    keypoints[:, 40:90, FACE] = (np.nan, np.nan, 0)
    keypoints[:, 120:126, FACE] = (np.nan, np.nan, 0)
    score = Lips().score(replace(given, keypoints=keypoints))[0]
    assert (score[40:90] == UNSEEN_LOGIT).all()
    assert (score[120:126] > 0).all(), "a short gap is bridged"
    nothing = np.full_like(keypoints, np.nan)
    nothing[..., 2] = 0
    assert (Lips().score(replace(given, keypoints=nothing)) == UNSEEN_LOGIT).all()


def test_lip_opening_is_measured_in_face_heights() -> None:
    keypoints = mouth(np.array([0.0, 0.05, 0.2]))
    np.testing.assert_allclose(lip_opening(keypoints), [0, 0.05, 0.2], atol=1e-6)
    assert np.isnan(lip_opening(mouth(np.array([0.1]), score=0.1))).all()
