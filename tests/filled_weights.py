"""Weights made from the names of the tensors, so that fixtures need no checkpoint (specs: parity_recipe.md)."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt


def filled(name: str, shape: Sequence[int], salt: int = 0) -> npt.NDArray[np.float32 | np.int64]:
    """The tensor that belongs to a name: reproducible on every platform."""
    kind = name.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    n_values = math.prod(shape)
    uniform = np.random.RandomState(zlib.crc32(name.encode()) ^ salt).random_sample(n_values).reshape(shape)
    if kind in ("running_var", "gamma"):
        values = 0.5 + uniform
    elif kind in ("running_mean", "in_proj_bias", "beta", "pos_embed") or kind.startswith("bias"):
        values = 0.4 * (uniform - 0.5)
    elif kind == "weight" and n_values == 1:
        values = 0.1 + 0.3 * uniform
    elif kind == "weight" and len(shape) == 1:
        values = 0.5 + uniform
    else:
        fan_in = math.prod(shape[1:]) if len(shape) > 1 else n_values
        values = (2 * uniform - 1) * math.sqrt(3 / fan_in)
    return values.astype(np.float32)


def save_filled(path: Path, shapes: Mapping[str, Sequence[int]], salt: int = 0, prefix: str = "") -> Path:
    """A checkpoint file with filled tensors, the names of its tensors behind `prefix`."""
    import torch

    tensors = {prefix + name: torch.from_numpy(np.array(filled(name, shape, salt))) for name, shape in shapes.items()}
    torch.save(tensors, path)
    return path
