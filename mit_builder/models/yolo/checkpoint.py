"""Tensors out of ultralytics' .pt files without running anything in them.

Such a file is a pickle of a whole model. torch's restricted reader makes objects of allowed classes alone, but it does
call them: were ultralytics' own classes allowed, a file could build `PoseModel(config)`, which evaluates the config's
`activation` as Python. So each allowed name is read as a stand-in that keeps tensors and forgets everything else; the
network is built anew from the configuration inside the ultralytics package. ultralytics is not imported here.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mit_builder.errors import StageUnavailable
from mit_builder.models.torch_backend import Ignored, Tensor, read_restricted, torch

_LAYERS = {
    "torch.nn.modules": (
        "activation.SiLU",
        "activation.Tanh",
        "batchnorm.BatchNorm2d",
        "container.ModuleList",
        "container.Sequential",
        "conv.Conv2d",
        "linear.Identity",
        "linear.Linear",
        "pooling.MaxPool2d",
        "upsampling.Upsample",
    ),
    "ultralytics.nn": (
        "modules.block.Attention",
        "modules.block.Bottleneck",
        "modules.block.C2PSA",
        "modules.block.C3k",
        "modules.block.C3k2",
        "modules.block.PSABlock",
        "modules.block.RealNVP",
        "modules.block.SPPF",
        "modules.conv.Concat",
        "modules.conv.Conv",
        "modules.conv.DWConv",
        "modules.head.Pose26",
        "tasks.PoseModel",
    ),
}
"""What a YOLO26 pose model consists of (listed from files saved by ultralytics 8.4.190, sizes n to x)."""
_DATA = (
    "builtins.getattr",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "pathlib.PosixPath",
    "ultralytics.utils.IterableSimpleNamespace",
)
"""What its published files may hold beside the model (by the allow-list that ultralytics has for them)."""


class _Layer:
    """Stands for a module: the tensors and modules in it."""

    tensors: Mapping[str, Tensor] = {}
    layers: Mapping[str, _Layer] = {}

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, Mapping):
            raise pickle.UnpicklingError("the state of a module is a mapping")
        held = {**_part(state, "_parameters"), **_part(state, "_buffers")}
        self.tensors = {name: value for name, value in held.items() if isinstance(value, Tensor)}
        self.layers = {name: value for name, value in _part(state, "_modules").items() if isinstance(value, _Layer)}


def _part(state: Mapping[Any, Any], kind: str) -> dict[str, Any]:
    part = state.get(kind)
    return {str(name): value for name, value in part.items()} if isinstance(part, Mapping) else {}


_STAND_INS: list[Any] = [
    *((_Layer, f"{package}.{name}") for package, names in _LAYERS.items() for name in names),
    *((Ignored, name) for name in _DATA),
]


def read_yolo(path: Path) -> dict[str, Tensor]:
    """The state dict of the model in an ultralytics checkpoint, on the CPU; nothing in the file is executed.

    Raises:
        StageUnavailable: no file, or it is none of a YOLO26 pose model.
    """
    with torch.serialization.safe_globals(_STAND_INS):
        loaded = read_restricted(path)
    model = (loaded.get("ema") or loaded.get("model")) if isinstance(loaded, Mapping) else None
    if not isinstance(model, _Layer):
        raise StageUnavailable(f"weights {path.name} are refused: they hold no model of ultralytics")
    try:
        return dict(_named(model, "", set()))
    except RecursionError as error:
        raise StageUnavailable(f"weights {path.name} are refused: {error}") from error


def _named(layer: _Layer, prefix: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """Tensors under their names in a state dict. A part met twice would make a small file endless."""
    for name, tensor in layer.tensors.items():
        yield prefix + name, tensor
    for name, inner in layer.layers.items():
        if inner.tensors or inner.layers:
            if id(inner) in seen:
                raise RecursionError(f"{prefix}{name} occurs twice")
            seen.add(id(inner))
            yield from _named(inner, f"{prefix}{name}.", seen)
