"""wav2vec2-base as CovOG's line of models uses it: hidden states of the transformer at the rate of the video.

Own network for published checkpoints (`facebook/wav2vec2-base-960h`: model.safetensors or pytorch_model.bin), shapes
taken from the file. As in Hallo: the sound is normalised, its convolutional features are interpolated linearly to one
step a video frame, and the transformer runs on these. Parity with the transformers library is tested on small weights.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mit_builder.errors import ConfigError

STRIDES = (5, 2, 2, 2, 2, 2, 2)
"""Of the convolutions (Baevski et al. 2020): 320 samples a step."""
HEAD_CHANNELS = 64
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Wav2Vec2:
    """See the module's text; an `AudioEncoder`.

    Raises:
        ConfigError: the file is no checkpoint of a wav2vec2 of the base form.
    """

    def __init__(self, checkpoint: Path) -> None:
        weights = {name.removeprefix("wav2vec2."): value for name, value in _load(checkpoint).items()}
        try:
            self._conv = [
                weights[f"feature_extractor.conv_layers.{i}.conv.weight"].float() for i in range(len(STRIDES))
            ]
            self._first_norm = _pair(weights, "feature_extractor.conv_layers.0.layer_norm")
            self._norm_in = _pair(weights, "feature_projection.layer_norm")
            self._project = _pair(weights, "feature_projection.projection")
            self._position = _positional(weights)
            self._norm = _pair(weights, "encoder.layer_norm")
            n_layers = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.layers."))
            self._layers = [_Layer(weights, f"encoder.layers.{i}") for i in range(n_layers)]
        except (KeyError, ValueError) as error:
            raise ConfigError(f"{checkpoint} is no checkpoint of wav2vec2-base: {error} is missing") from error

    def encode(self, samples: npt.NDArray[np.float32], n_frames: int) -> npt.NDArray[np.float32]:
        """(n_frames, n_layers, channels) float32 of (n,) samples at 16 kHz."""
        with torch.inference_mode():
            return np.asarray(self._states(samples, n_frames).numpy(), np.float32)

    def _states(self, samples: npt.NDArray[np.float32], n_frames: int) -> Tensor:
        sound = torch.from_numpy(np.ascontiguousarray(samples))
        sound = (sound - sound.mean()) / torch.sqrt(sound.var(correction=0) + 1e-7)
        steps = F.interpolate(self._features(sound[None, None]), size=n_frames, mode="linear", align_corners=True)
        hidden = F.linear(F.layer_norm(steps.transpose(1, 2), self._norm_in[0].shape, *self._norm_in), *self._project)
        weight, bias = self._position
        placed = F.conv1d(
            hidden.transpose(1, 2),
            weight,
            bias,
            padding=weight.shape[2] // 2,
            groups=hidden.shape[2] // weight.shape[1],
        )
        placed = placed[..., : placed.shape[2] - (weight.shape[2] % 2 == 0)]
        hidden = F.layer_norm(hidden + F.gelu(placed).transpose(1, 2), self._norm[0].shape, *self._norm)
        states = []
        for layer in self._layers:
            hidden = layer(hidden)
            states.append(hidden[0])
        return torch.stack(states, dim=1)

    def _features(self, sound: Tensor) -> Tensor:
        for i, (weight, stride) in enumerate(zip(self._conv, STRIDES, strict=True)):
            sound = F.conv1d(sound, weight, stride=stride)
            if i == 0:
                sound = F.group_norm(sound, sound.shape[1], *self._first_norm)
            sound = F.gelu(sound)
        return sound


class _Layer:
    """One block of the transformer, normalised after each of its halves."""

    def __init__(self, weights: dict[str, Tensor], name: str) -> None:
        self._q, self._k, self._v, self._out = (
            _pair(weights, f"{name}.attention.{part}") for part in ("q_proj", "k_proj", "v_proj", "out_proj")
        )
        self._norm = _pair(weights, f"{name}.layer_norm")
        self._wide = _pair(weights, f"{name}.feed_forward.intermediate_dense")
        self._narrow = _pair(weights, f"{name}.feed_forward.output_dense")
        self._final_norm = _pair(weights, f"{name}.final_layer_norm")

    def __call__(self, hidden: Tensor) -> Tensor:
        q, k, v = (
            F.linear(hidden, *pair).unflatten(2, (-1, HEAD_CHANNELS)).transpose(1, 2)
            for pair in (self._q, self._k, self._v)
        )
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        hidden = F.layer_norm(hidden + F.linear(attended, *self._out), self._norm[0].shape, *self._norm)
        fed = F.linear(F.gelu(F.linear(hidden, *self._wide)), *self._narrow)
        return F.layer_norm(hidden + fed, self._final_norm[0].shape, *self._final_norm)


def _pair(weights: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    return weights[f"{name}.weight"].float(), weights[f"{name}.bias"].float()


def _positional(weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The positional convolution, its weight norm (over all but the kernel's axis) resolved; both spellings of it."""
    name = "encoder.pos_conv_embed.conv"
    new = f"{name}.parametrizations.weight.original1" in weights
    g, v = (
        ("parametrizations.weight.original0", "parametrizations.weight.original1") if new else ("weight_g", "weight_v")
    )
    gain, direction = weights[f"{name}.{g}"].float(), weights[f"{name}.{v}"].float()
    weight = direction * (gain / direction.norm(dim=(0, 1), keepdim=True))
    return weight, weights[f"{name}.bias"].float()


def _load(checkpoint: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file, or of one that torch reads without running anything."""
    try:
        if checkpoint.suffix == ".safetensors":
            return _safetensors(checkpoint.read_bytes())
        loaded: Any = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
        raise ConfigError(f"cannot read {checkpoint}: {(str(error).splitlines() or [''])[0]}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{checkpoint} holds no tensors by name")
    return loaded


def _safetensors(data: bytes) -> dict[str, Tensor]:
    """The format is a length, a JSON of names, types, shapes and places, and the bytes."""
    size = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + size])
    head.pop("__metadata__", None)
    tensors = {}
    for name, values in head.items():
        start, end = (8 + size + place for place in values["data_offsets"])
        flat = torch.frombuffer(bytearray(data[start:end]), dtype=_DTYPES[values["dtype"]])
        tensors[name] = flat.reshape(values["shape"])
    return tensors
