"""What every `VoiceDetector` has to fulfil."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from manifests.rows import SAMPLES_PER_FRAME
from mit_builder.models.base import VoiceDetector

ROLE = "voice"
Samples = npt.NDArray[np.int16]


def test_one_probability_for_every_whole_frame(backend: VoiceDetector, speech: Samples) -> None:
    """640 samples each; what is left over has none."""
    found = backend.probabilities(speech[: 100 * SAMPLES_PER_FRAME + 639])
    assert found.shape == (100,)
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1
    assert backend.probabilities(speech[:0]).shape == (0,)
    assert backend.probabilities(speech[:639]).shape == (0,)


def test_speech_is_heard_and_silence_and_noise_are_not(backend: VoiceDetector, speech: Samples) -> None:
    """Above and below `filter.voice_threshold`."""
    noise = np.random.default_rng(0).normal(0, 300, len(speech)).astype(np.int16)
    assert backend.probabilities(speech).max() > 0.9
    assert backend.probabilities(np.zeros_like(speech)).max() < 0.25
    assert (backend.probabilities(noise) > 0.25).mean() < 0.1


def test_nothing_is_carried_over_from_one_call_to_the_next(backend: VoiceDetector, speech: Samples) -> None:
    """A resumed run would label otherwise."""
    first = backend.probabilities(speech)
    backend.probabilities(speech[::-1].copy())
    np.testing.assert_array_equal(backend.probabilities(speech), first)


def test_a_stream_in_pieces_of_any_length_gives_the_same(backend: VoiceDetector, speech: Samples) -> None:
    """A signal is longer than memory."""
    pieces = np.split(speech, [1, 700, 701, 5000, 33333])
    np.testing.assert_array_equal(backend.stream(pieces), backend.probabilities(speech))
