"""Sapiens as a backend of `pose.model`: loading it by its settings, and what rows call it."""

from __future__ import annotations

from pathlib import Path

from mit_builder.config import backends
from mit_builder.config.settings import PoseSettings
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.errors import StageUnavailable
from mit_builder.models.base import PoseEstimator
from mit_builder.models.devices import device_of
from mit_builder.models.weights import store


def load(settings: PoseSettings) -> PoseEstimator:
    """The estimator.

    Raises:
        StageUnavailable: torch or its weights are missing.
    """
    name, path = _weights(settings)
    if path is None:
        raise StageUnavailable(
            f"pose.model {settings.model} needs its weights: {hints.keep(Hint.WEIGHTS_FETCH, name=name)}, "
            f"or where the file is here already {hints.keep(Hint.WEIGHTS_IMPORT, path='FILE')}"
        )
    from mit_builder.models.sapiens.estimator import Sapiens

    device = device_of(settings.device)
    return Sapiens(
        path,
        script=store.entry(name).is_script,
        run_script=settings.torchscript,
        device=device,
        precision=settings.precision,
        flip_test=settings.flip_test,
        # On a CPU sums may come out differently in another batch, and no more crops a second.
        batch=1 if device == "cpu" else settings.batch,
        compiled=settings.compile,
    )


def label(settings: PoseSettings) -> str:
    """Size and weight digest, without loading it."""
    name, _ = _weights(settings)
    return store.label(name) + (" as a program" if settings.torchscript else "")


def _weights(settings: PoseSettings) -> tuple[str, Path | None]:
    """Name and place of the weights to use: the checkpoint, else the tensors of the program, where they are here."""
    checkpoint, program = backends.find("pose", settings.model).weights
    if settings.torchscript:
        return program, store.find(program)
    found = {name: store.find(name) for name in (checkpoint, program)}
    name = program if found[checkpoint] is None and found[program] is not None else checkpoint
    return name, found[name]
