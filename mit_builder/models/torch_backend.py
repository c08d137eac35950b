"""What every backend on torch shares: the import with a helpful error, devices, and safe reading of checkpoints."""

from __future__ import annotations

import contextlib
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mit_builder.config.settings import Precision
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.errors import StageUnavailable

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
except ModuleNotFoundError as error:
    raise StageUnavailable("this model needs torch: pip install 'mit-builder[paper]' (or torch alone)") from error

__all__ = [
    "Precision",
    "Tensor",
    "autocast",
    "check_fit",
    "functional",
    "load_strictly",
    "nn",
    "open_script",
    "pick_device",
    "read_restricted",
    "read_tensors",
    "torch",
]

_UNREADABLE = (
    pickle.UnpicklingError,
    struct.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What torch's readers of archives and pickles raise on files that are damaged or hold other things than tensors."""

_LEFT_BY_MMENGINE = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
)
"""Classes in the training logs that mmengine saves beside the tensors: read as `Ignored`, whoever wrote them."""


def pick_device(name: str) -> torch.device:
    """The device, made ready for reproducible float32: one thread on CPU, no TF32 on CUDA.

    Workers run side by side on the CPU, so one thread each is also what uses it best.

    Raises:
        StageUnavailable: the device does not exist here.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise StageUnavailable(f"torch cannot use device {name!r} on this machine") from error
    if device.type == "cpu":
        torch.set_num_threads(1)
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    return device


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Context in which a network's matrix products have `precision`; weights and scores stay float32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    context: contextlib.AbstractContextManager[Any] = torch.autocast(
        device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16
    )
    return context


def read_restricted(path: Path) -> Any:
    """What a checkpoint file holds, on the CPU, by torch's reader that makes objects of allowed classes alone.

    Tensors of torch's usual kind of file stay on disk until they are used.

    Raises:
        StageUnavailable: no file, damaged, or it holds other things.
    """
    with _refusing(path):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)


class Ignored:
    """Stands in for whatever a training run left in a checkpoint: takes everything, keeps and does nothing."""

    def __new__(cls, *args: object) -> Ignored:
        return super().__new__(cls)

    def __init__(self, *args: object) -> None:
        """Drop the arguments."""

    def __setstate__(self, state: object) -> None:
        """Drop the state."""


def read_tensors(path: Path, *, script: bool = False) -> dict[str, Tensor]:
    """The state dict in a checkpoint file, alone or under the name `state_dict`, on the CPU.

    Nothing in the file is executed, unless it is said to be a TorchScript program. A leading `module.` of every name
    (left by DataParallel) is removed.

    Args:
        path: the file.
        script: open it as a TorchScript program, which must be one that is trusted.

    Raises:
        StageUnavailable: no file, or it holds anything else than named tensors.
    """
    with torch.serialization.safe_globals([(Ignored, name) for name in _LEFT_BY_MMENGINE]):
        loaded = open_script(path).state_dict() if script else read_restricted(path)
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise StageUnavailable(f"weights {path.name} are refused: not a mapping of names to tensors")
    return {str(name).removeprefix("module."): value for name, value in loaded.items()}


def open_script(path: Path) -> Any:
    """A TorchScript program, loaded on the CPU.

    Raises:
        StageUnavailable: no file, or it is no such program.
    """
    with _refusing(path):
        program = torch.jit.load(path, map_location="cpu")
        if not isinstance(program, nn.Module):
            raise TypeError("a program without tensors")
        return program


@contextlib.contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Makes one line of what torch's readers raise."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on unusual files that it then refuses
            yield
    except FileNotFoundError as error:
        raise StageUnavailable(f"weights {path} do not exist; see {hints.keep(Hint.WEIGHTS_LIST)}") from error
    except _UNREADABLE as error:
        raise StageUnavailable(f"weights {path.name} are refused: not a plain file of tensors, or damaged") from error


def load_strictly(
    network: nn.Module,
    path: Path,
    *,
    unused: Iterable[str],
    read: Callable[[Path], dict[str, Tensor]] = read_tensors,
) -> None:
    """Put a checkpoint into `network`: every tensor that it uses must be there, and no stranger.

    Args:
        network: its state dict has the checkpoint's names.
        path: the checkpoint.
        unused: beginnings of names that the file may have and the network does not use.
        read: reader of this kind of file.

    Raises:
        StageUnavailable: names or shapes differ.
    """
    skip = tuple(unused)
    tensors = {name: value for name, value in read(path).items() if not name.startswith(skip)}
    check_fit(network, tensors, path.name, unused=skip)
    network.load_state_dict(tensors, strict=False)


def check_fit(
    network: nn.Module, tensors: Mapping[str, Tensor], file_name: str, *, unused: tuple[str, ...] = ()
) -> None:
    """See that a checkpoint has every tensor that the network uses in its shape, and no stranger.

    Raises:
        StageUnavailable: names or shapes differ.
    """
    wanted = {name: value for name, value in network.state_dict().items() if not name.startswith(unused)}
    missing, strange = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    shapes = [name for name in wanted.keys() & tensors.keys() if wanted[name].shape != tensors[name].shape]
    problems = [("missing", missing), ("unknown", strange), ("of another shape", sorted(shapes))]
    for what, names in problems:
        if names:
            raise StageUnavailable(f"weights {file_name} do not fit: {len(names)} tensors {what}, first {names[0]}")
