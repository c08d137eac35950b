"""The contract tests run on every backend of our registries, and on the fakes of other tests."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fake_people
import pytest

from mit_builder.config import backends
from mit_builder.config.backends import Backend
from mit_builder.contract import plugin
from mit_builder.contract.plugin import Subject, backend, picture, scene, settings_of, speech  # noqa: F401 - fixtures
from mit_builder.models.weights import store

SQUARES = fake_people.picture(fake_people.texture(640, 360), ((100, 100, 160, 160), (400, 90, 460, 150)))


def yolo(of: Backend, weights: Path, patch: pytest.MonkeyPatch) -> None:
    """A network that knows the squares, instead of one with made-up weights."""
    import tiny_yolo

    from mit_builder.models.yolo import people

    (weights / store.entry(of.name).file_name).write_bytes(b"never read")
    patch.setattr(people, "load_network", lambda config, path: tiny_yolo.SquareNetwork())


def sapiens(of: Backend, weights: Path, patch: pytest.MonkeyPatch) -> None:
    from tiny_sapiens import checkpoint

    checkpoint(weights / store.entry(of.name).file_name)


def speaker(of: Backend, weights: Path, patch: pytest.MonkeyPatch) -> None:
    import speaker_shapes
    from filled_weights import save_filled

    file = store.entry(of.weights[0])
    path = save_filled(weights / file.file_name, speaker_shapes.OF[of.name]())
    store._record(file.name, store.digest_of(path))


MAKE: dict[str, Callable[[Backend, Path, pytest.MonkeyPatch], None]] = {
    "mit_builder.models.yolo.backend:load": yolo,
    "mit_builder.models.sapiens.backend:load": sapiens,
    "mit_builder.models.asd.backend:load": speaker,
}
"""By loader what puts made-up weights into a folder: the real ones are too large for tests."""


SIZES = {"mit_builder.models.yolo.backend:load", "mit_builder.models.sapiens.backend:load"}
"""Loaders of which one size stands for all: with made-up weights they are the same network."""


def load(of: Backend) -> Any:
    """A backend of ours by its registered loader, with made-up weights where it needs some."""
    for module, how in of.requires:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{of.name} needs {how}")
    settings = settings_of(of.role, of.name)
    if not of.weights:
        return of.load(settings)
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv(store.FOLDER_VARIABLE, folder)
        MAKE[of.loader](of, Path(folder), patch)
        return of.load(settings)


def subjects() -> Iterator[Subject]:
    families: set[str] = set()
    for of in backends.OURS:
        if of.loader in families:
            continue
        families |= {of.loader} & SIZES
        shown = SQUARES if of.role == "people" and of.weights else None
        yield Subject(of.name, of.role, lambda of=of: load(of), knows_people=not of.weights, picture=shown)
    yield Subject("squares", "people", fake_people.SquareFinder, picture=SQUARES)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    plugin.parametrize(metafunc, list(subjects()))
