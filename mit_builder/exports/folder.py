"""The folder an export lies in: written beside its place, put there in one step, known again by `export.json`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mit_builder.dataset.index import SCHEMA_VERSION
from mit_builder.errors import ConfigError, LeaseLost, WorkspaceError
from mit_builder.version import __version__

RECORD = "export.json"
"""Written last: a folder without it is no finished export."""


@dataclass(frozen=True)
class Record:
    """What an export says of itself.

    Attributes:
        format: mit, webdataset, coco-wholebody, hf or manifest.
        with_media: whether footage is in it.
        clip_ids: what is in it.
        schema_version: of the dataset it was made from.
        made_by: program and version.
        audio_encoder: what made its audio embeddings, as given; None where it has none.
    """

    format: str
    with_media: bool
    clip_ids: tuple[str, ...]
    schema_version: int = SCHEMA_VERSION
    made_by: str = f"mit-builder {__version__}"
    audio_encoder: str | None = None


def read_record(folder: Path) -> Record:
    """The record of a finished export.

    Raises:
        ConfigError: the folder is none.
    """
    try:
        values: dict[str, Any] = json.loads((folder / RECORD).read_text())
        return Record(**{**values, "clip_ids": tuple(values["clip_ids"])})
    except FileNotFoundError as error:
        raise ConfigError(f"{folder} is no finished export: it has no {RECORD}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder / RECORD} is damaged: export again into another folder") from error


def check_place(output: Path, form: str) -> None:
    """Look whether an export may go there: a folder that is new, empty, or an export of ours of the same form.

    Raises:
        ConfigError: something else lies there.
    """
    advice = "give another --output, or delete it first"
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not output.is_dir() or not (output / RECORD).is_file():
        raise ConfigError(f"{output} exists and is no export of mit-build: {advice}")
    there = read_record(output).format
    if there != form:
        raise ConfigError(f"{output} holds an export of the form {there}, which {form} does not replace: {advice}")


def siblings(output: Path) -> tuple[Path, Path]:
    """What lies beside an export while it is made: the unfinished one, and the one that it replaces."""
    return output.parent / f".{output.name}.unfinished", output.parent / f".{output.name}.old"


@contextmanager
def replacing(output: Path, form: str) -> Iterator[Path]:
    """An empty folder beside `output` that takes its place when the context ends well.

    A program that is killed leaves `.NAME.unfinished`, without a record; the next export into this place removes it.

    Raises:
        ConfigError: something that may not be replaced lies there, or came there meanwhile.
        WorkspaceError: the disk does not take it.
    """
    check_place(output, form)
    unfinished, old = siblings(output)
    try:
        for folder in (unfinished, old):
            if folder.exists():
                shutil.rmtree(folder)
        unfinished.mkdir(parents=True)
        yield unfinished
        check_place(output, form)
        if output.exists():
            output.rename(old)
        unfinished.rename(output)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise WorkspaceError(f"cannot write {output}: {error.strerror or error}") from error
    except LeaseLost:  # it holds what was taken down meanwhile
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def write_record(folder: Path, record: Record) -> None:
    """Declare an export finished: everything else is on the disk by then."""
    path = folder / f"{RECORD}.new"
    with path.open("w") as file:
        file.write(json.dumps(asdict(record), indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    path.replace(folder / RECORD)
