"""Whether a workspace takes what a run writes, asked before there is work that could be lost."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import obstore

from mit_builder.errors import WorkspaceError
from mit_builder.storage.object_store import first_line
from mit_builder.storage.scratch import SCRATCH
from mit_builder.storage.workspace import FOLDERS, Workspace


def check_folder(folder: Path) -> None:
    """Look at the folder of a workspace and those in it, or at the one that it would be made in; nothing is written.

    Raises:
        WorkspaceError: one of them cannot be written to.
    """
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not place.is_dir():  # a file: opening the workspace says so
        return
    folders = [place]
    if place == folder:
        manifests = folder / "manifests"
        steps = sorted(manifests.iterdir()) if manifests.is_dir() else []
        below = [folder / name for name in (*FOLDERS, "manifests", "report", SCRATCH)] + steps
        folders += [path for path in below if path.is_dir()]
    for path in folders:
        if not os.access(path, os.W_OK | os.X_OK):
            raise WorkspaceError(f"cannot write in {path}: change its owner or its rights, or give another --workspace")


def check_storage(workspace: Workspace) -> None:
    """Put a small object into remote storage and delete it; of a folder see `check_folder`.

    Raises:
        WorkspaceError: storage does not take it, or does not let go of it.
    """
    if workspace.root is not None:
        check_folder(workspace.root)
        return
    store, key = workspace.impatient_store(), f"write-test-{secrets.token_hex(4)}"
    try:
        obstore.put(store, key, b"", use_multipart=False)
        obstore.delete(store, key)
    except (OSError, obstore.exceptions.BaseError) as error:
        advice = "a run must be allowed to put and delete objects there"
        raise WorkspaceError(f"cannot write in workspace {workspace.uri}: {first_line(error)}; {advice}") from error
