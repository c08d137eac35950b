"""`mit-build doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import typer

from mit_builder.cli.options import DEFAULT_WORKSPACE, JsonOption, WorkspaceOption
from mit_builder.config.settings import Settings
from mit_builder.console import hints
from mit_builder.console.waiting import waiting
from mit_builder.driver.preflight import Check, check_all, check_engine, check_writable
from mit_builder.driver.session import resolve
from mit_builder.storage.object_store import is_remote
from mit_builder.storage.settings_file import last_settings
from mit_builder.storage.source_catalog import SourceCatalog
from mit_builder.storage.workspace import existing


def doctor(workspace: WorkspaceOption = DEFAULT_WORKSPACE, as_json: JsonOption = False) -> None:
    """Check beforehand what would make a run fail."""
    folder = None if is_remote(workspace) else Path(workspace).expanduser().resolve()
    space = existing(workspace) if folder is None or folder.exists() else None
    last = last_settings(space) if space else None
    settings, _ = resolve(last or Settings(), last)
    with waiting("checking", quiet=as_json):
        checks = check_all(folder, settings, SourceCatalog(space).sources() if space else ())
        checks += [*check_writable(space or Path(workspace).expanduser().resolve()), *check_engine(settings)]
    _print(checks, as_json=as_json)
    raise typer.Exit(3 if any(check.verdict == "failed" for check in checks) else 0)


def _print(found: list[Check], *, as_json: bool) -> None:
    found = [replace(check, text=hints.shown(check.text)) for check in found]
    if as_json:
        print(json.dumps([asdict(check) for check in found]))
        return
    for check in found:
        print(f"{check.verdict:8} {check.name:16} {check.text}")
