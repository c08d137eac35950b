"""`mit-build settings`: what the next run will use, and where each value came from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from mit_builder.cli.options import DEFAULT_WORKSPACE, JsonOption, WorkspaceOption
from mit_builder.config.settings import Settings
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.storage.object_store import is_remote
from mit_builder.storage.settings_file import Kept, flat, kept_in, secret_names
from mit_builder.storage.workspace import existing


@dataclass(frozen=True)
class Line:
    """One setting.

    Attributes:
        value: what the next run uses.
        origin: who chose it: default, given, decided (by the program, in the place of "auto"), or kept: it was the
            default of another version, or was written into the file by hand.
        by: how and when, where that is known.
    """

    setting: str
    value: Any
    default: Any
    origin: str
    by: str | None = None


def settings(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    changed: Annotated[bool, typer.Option(help="Only what is not at its default.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show every setting of a workspace: its value, the default, and where the value came from."""
    there = is_remote(workspace) or Path(workspace).expanduser().is_dir()
    kept = kept_in(existing(workspace)) if there else None
    lines = [line for line in listed(kept) if not changed or line.origin != "default"]
    if as_json:
        print(json.dumps([asdict(line) for line in lines]))
        return
    if kept is None:
        print(f"nothing was run in {workspace} yet: these are the defaults")
    for text in _table(lines):
        print(text)
    other = 0.75 * (kept or Kept(Settings())).settings.filter.min_face_px
    print(f"to change one, for instance: {hints.say(Hint.RUN_WITH, setting=f'filter.min_face_px={other:g}')}")


def listed(kept: Kept | None) -> Iterator[Line]:
    """Every setting in the order of the settings file."""
    kept, standard, secret = kept or Kept(Settings()), flat(Settings()), secret_names()
    for name, value in flat(kept.settings).items():
        if name in kept.given:
            shown = "(not kept: may hold a password)" if name in secret else value
            yield Line(name, shown, standard[name], "given", kept.given[name])
        elif name in kept.decided:
            yield Line(name, value, standard[name], "decided", kept.decided[name])
        else:
            yield Line(name, value, standard[name], "default" if value == standard[name] else "kept")


def _table(lines: list[Line]) -> Iterator[str]:
    cells = [(line.setting, _short(line.value), _short(line.default), _origin(line)) for line in lines]
    heads = ("setting", "value", "default", "from")
    widths = [max(len(row[i]) for row in [heads, *cells]) for i in range(3)]
    for row in [heads, *cells]:
        yield "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]])


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
    return text if len(text) <= 32 else f"{text[:31]}…"


def _origin(line: Line) -> str:
    said = {
        "given": f"given: {line.by}",
        "decided": f"decided for auto: {line.by}",
        "kept": "kept: no default of this version",
    }
    return said.get(line.origin, line.origin)
