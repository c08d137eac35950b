"""Files of a folder on this machine: listing them fast, putting them in place durably."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mit_builder.errors import WorkspaceError
from mit_builder.storage.object_store import first_line


def files_below(root: Path, folder: str) -> Iterator[str]:
    """Every file below a folder of a workspace, named from the workspace's root.

    Raises:
        WorkspaceError: a folder cannot be read.
    """

    def look(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise WorkspaceError(f"cannot read {folder} in workspace {root}: {first_line(error)}") from error

    for place, _, names in os.walk(root / folder, onerror=look, followlinks=True):
        below = os.path.relpath(place, root)
        prefix = "" if below == "." else f"{below}/"
        yield from (f"{prefix}{name}" for name in names)


def move_durably(path: Path, target: Path) -> None:
    """Put a finished file in place, so that a loss of power leaves it there whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _fsync(path)
    os.replace(path, target)
    _fsync(target.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


OURS = {"manifests", "dataset", "mit-build.yaml", "rebuilt.json"}
"""Of these at least one lies in every workspace."""


def holds_other_things(folder: Path) -> bool:
    """Whether a folder holds files, and none of a workspace."""
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    return bool(names) and not names & OURS
