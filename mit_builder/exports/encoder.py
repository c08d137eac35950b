"""Audio embeddings of the CovOG layout: what an encoder is, and how a user names one."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mit_builder.console import hints
from mit_builder.errors import ConfigError

LAYERS, CHANNELS = 12, 768
"""Hidden states and channels of wav2vec2-base, which CovOG's audio projection expects for every video frame."""


class AudioEncoder(Protocol):
    """Turns a clip's sound into embeddings, one for each video frame."""

    def encode(self, samples: npt.NDArray[np.float32], n_frames: int) -> npt.NDArray[np.float32]:
        """Embed a whole clip.

        Args:
            samples: (640 * n_frames,) mono, 16 kHz, -1..1.
            n_frames: video frames, 25 a second.

        Returns:
            (n_frames, 12, 768) float32: hidden states 1 to 12 of wav2vec2-base, resampled to the video frames.
        """
        ...


WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
"""Endings of checkpoints."""


def load_encoder(name: str) -> AudioEncoder:
    """wav2vec2 with the weights of a file, or what `module:Class` names; the class is called without arguments.

    Raises:
        ConfigError: there is no such file, module or class, or the encoder cannot be made of it.
    """
    if name.endswith(WEIGHTS):
        if not Path(name).is_file():
            raise ConfigError(f"--audio-encoder: no file {name}")
        try:
            from mit_builder.exports.wav2vec2 import Wav2Vec2
        except ImportError as error:
            raise ConfigError(f"--audio-encoder needs torch: {hints.pip('torch')}") from error
        return Wav2Vec2(Path(name))
    module, colon, attribute = name.partition(":")
    if not colon or not attribute:
        raise ConfigError(
            f"--audio-encoder {name!r} must be a checkpoint ({', '.join(WEIGHTS)}) or look like module:Class"
        )
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        encoder: AudioEncoder = getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError, OSError, RuntimeError, TypeError) as error:
        raise ConfigError(f"--audio-encoder {name}: {(str(error).splitlines() or [''])[0]}") from error
    return encoder


def embed(encoder: AudioEncoder, samples: npt.NDArray[np.int16], n_frames: int) -> npt.NDArray[np.float32]:
    """(n_frames, 12, 768) float32 of a clip's FLAC samples.

    Raises:
        ConfigError: the encoder returned another shape, or values that are not finite.
    """
    found = np.array(encoder.encode(samples.astype(np.float32) / 32768, n_frames), np.float32)
    if found.shape != (n_frames, LAYERS, CHANNELS) or not np.isfinite(found).all():
        expected = (n_frames, LAYERS, CHANNELS)
        raise ConfigError(f"the audio encoder gave {found.shape}, not finite values of shape {expected}")
    return found
