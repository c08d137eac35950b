"""What every `SpeakerScorer` has to fulfil, and what `lips` makes of mouths of known movement."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from manifests.rows import N_KEYPOINTS
from mit_builder.models.base import SpeakerScorer, SpeechInput
from mit_builder.models.coco_wholebody import CHIN, FACE, INNER_LIP_LOWER, INNER_LIP_UPPER, NOSE_BRIDGE
from mit_builder.models.lips import CHOSEN, UNSEEN_LOGIT, Lips, lip_opening

N_FRAMES = 150
FACE_HEIGHT_PX = 100.0


def make_keypoints(opening: np.ndarray, score: float = 1.0) -> np.ndarray:
    """(n_frames,) lip opening -> (n_frames, 133, 3) with a face 100 px high."""
    keypoints = np.full((len(opening), N_KEYPOINTS, 3), np.nan, np.float32)
    keypoints[..., 2] = 0
    keypoints[:, FACE] = (200, 200, score)
    keypoints[:, NOSE_BRIDGE, 1] = 150
    keypoints[:, CHIN, 1] = 150 + FACE_HEIGHT_PX
    keypoints[:, INNER_LIP_UPPER, 1] = 220
    keypoints[:, INNER_LIP_LOWER, 1] = 220 + FACE_HEIGHT_PX * opening[:, None]
    return keypoints


def make_input(*openings: np.ndarray) -> SpeechInput:
    n_frames = len(openings[0])
    rng = np.random.default_rng(5)
    images = rng.integers(0, 255, (n_frames, 90, 160, 3), np.uint8)
    return SpeechInput(
        frames=lambda: iter(images),
        samples=rng.integers(-9000, 9000, 640 * n_frames, np.int16),
        voice_activity=np.ones(n_frames, np.float32),
        keypoints=np.stack([make_keypoints(opening) for opening in openings]),
        face_boxes_xyxy=np.tile(np.array([40, 10, 90, 70], np.float32), (len(openings), n_frames, 1)),
    )


def closed(n_frames: int = N_FRAMES) -> np.ndarray:
    """A closed mouth with the jitter of tracked points."""
    return 0.02 + np.random.default_rng(1).normal(0, 0.002, n_frames)


def talking(n_frames: int = N_FRAMES) -> np.ndarray:
    """Four syllables a second."""
    return closed(n_frames) + 0.06 * (1 + np.sin(2 * np.pi * 4 * np.arange(n_frames) / 25))


@pytest.fixture(params=["lips"])
def scorer(request: pytest.FixtureRequest) -> SpeakerScorer:
    return Lips()


@pytest.mark.parametrize("n_frames", [1, 7, N_FRAMES])
def test_every_person_and_frame_has_a_finite_float32_score(scorer: SpeakerScorer, n_frames: int) -> None:
    scores = scorer.score(make_input(talking(n_frames), closed(n_frames), closed(n_frames)))
    assert scores.shape == (3, n_frames)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()


def test_equal_input_gives_equal_scores(scorer: SpeakerScorer) -> None:
    given = make_input(talking(), closed())
    np.testing.assert_array_equal(scorer.score(given), scorer.score(given))


def test_label_tier_is_stated(scorer: SpeakerScorer) -> None:
    assert scorer.label_tier in ("heuristic", "model")


def test_moving_lips_speak_and_closed_ones_do_not() -> None:
    scores = Lips().score(make_input(talking(), closed()))
    assert (scores[0] > 0).all()
    assert (scores[1] < 0).all()


def test_turn_is_found_within_half_a_second() -> None:
    opening = np.concatenate([closed(75), talking(75)])
    score = Lips().score(make_input(opening))[0]
    onset = int(np.flatnonzero(score > 0)[0])
    assert 75 - 12 <= onset <= 75 + 12
    assert (score[onset:] > 0).all()


def test_a_smile_that_comes_or_goes_is_not_speech() -> None:
    smile = closed()
    smile[60:110] += 0.1
    assert (Lips().score(make_input(smile)) > 0).mean() < 0.05


def test_points_that_jump_from_frame_to_frame_are_not_speech() -> None:
    jumping = 0.06 + np.random.default_rng(3).normal(0, 0.02, N_FRAMES)
    assert (Lips().score(make_input(jumping)) > 0).mean() < 0.05
    assert (Lips().score(make_input(talking() + jumping)) > 0).all()


def test_scores_do_not_depend_on_voice() -> None:
    given = make_input(talking(), closed())
    silent = replace(given, samples=given.samples * 0, voice_activity=given.voice_activity * 0)
    np.testing.assert_array_equal(Lips().score(silent), Lips().score(given))


def test_whoever_moves_most_gains_and_the_others_lose_nothing() -> None:
    faint = closed() + 0.1 * (talking() - closed())
    alone, among_still, among_talkers = (
        Lips().score(make_input(faint, *others))[0] for others in ((), (closed() * 0,), (talking(), talking()))
    )
    gain = among_still - alone
    assert gain.max() <= CHOSEN.slope * CHOSEN.max_lead + 1e-4
    assert gain.min() > 1
    np.testing.assert_array_equal(among_talkers, alone)


def test_two_who_talk_at_once_both_speak() -> None:
    louder, softer = talking(), closed() + 0.7 * (talking() - closed())
    assert (Lips().score(make_input(louder, softer)) > 0).all()


def test_nobody_leads_over_lips_that_are_not_seen() -> None:
    given = make_input(closed() * 3, closed() * 0)
    keypoints = given.keypoints.copy()
    keypoints[1, :, FACE] = (np.nan, np.nan, 0)
    hidden = Lips().score(replace(given, keypoints=keypoints))
    np.testing.assert_array_equal(hidden[0], Lips().score(make_input(closed() * 3))[0])
    assert (hidden[1] == UNSEEN_LOGIT).all()


def test_scores_do_not_depend_on_the_size_of_the_face() -> None:
    given = make_input(talking())
    large = given.keypoints.copy()
    large[..., :2] *= 3
    np.testing.assert_allclose(Lips().score(replace(given, keypoints=large)), Lips().score(given), atol=1e-2)


def test_unseen_lips_are_probably_silent_with_little_confidence() -> None:
    given = make_input(talking())
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
    keypoints = make_keypoints(np.array([0.0, 0.05, 0.2]))
    np.testing.assert_allclose(lip_opening(keypoints), [0, 0.05, 0.2], atol=1e-6)
    assert np.isnan(lip_opening(make_keypoints(np.array([0.1]), score=0.1))).all()
