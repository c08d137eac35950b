"""`mit-build gc`."""

from __future__ import annotations

import re
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
import typer

from manifests.sources import is_workspace
from mit_builder.cli.options import DEFAULT_WORKSPACE, WorkspaceOption
from mit_builder.config.settings import Settings
from mit_builder.console.waiting import waiting
from mit_builder.console.wording import counted
from mit_builder.engine.specs import ledger_of
from mit_builder.errors import ConfigError
from mit_builder.pipeline import steps_of
from mit_builder.storage.lease import lease
from mit_builder.storage.settings_file import last_settings
from mit_builder.storage.workspace import ASIDE, FOLDERS, existing

_OURS = re.compile(r"\.[0-9a-f]{8}(-[0-9a-f]{8})?(\.\w+)?$")
"""How names of artifacts end: somebody else's files in the same folders are left alone."""
MOST_NAMED = 20
"""Files that `gc --dry-run` names."""


def gc(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    dry_run: Annotated[bool, typer.Option(help="Only say what would go.")] = False,
) -> None:
    """Remove files that no ledger row names, damaged ones, and what killed runs and failed downloads left."""
    space = existing(workspace)
    if space.root is not None and not is_workspace(space.root):
        raise ConfigError(f"{space.uri} is no workspace: nothing was removed")
    with lease(space), waiting("looking for files that nothing names"):
        settings = last_settings(space) or Settings()
        named = [ledger_of(space, step.name, settings).artifact_keys() for step in steps_of(settings)]
        folders = [ASIDE, *(folder for folder in FOLDERS if folder != "dataset")]
        there = pa.array([key for folder in folders for key in space.names(folder)], pa.string())
        is_named = pc.is_in(there, value_set=pa.concat_arrays(named))
        unnamed = there.filter(pc.invert(is_named)).to_pylist()
        orphans = sorted(key for key in unnamed if key.startswith(f"{ASIDE}/") or _OURS.search(key))
        if not dry_run:
            space.delete(orphans)
            space.sweep(keep_partial_s=0)
    for key in orphans[:MOST_NAMED] if dry_run else ():
        print(key)
    if dry_run and len(orphans) > MOST_NAMED:
        print("…")
    print(f"{counted(len(orphans), 'file')} {'would go' if dry_run else 'removed'}")
