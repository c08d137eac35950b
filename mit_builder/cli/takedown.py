"""`mit-build takedown`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from manifests.signatures import unsigned
from manifests.sources import is_workspace
from mit_builder.cli.options import DEFAULT_WORKSPACE, WorkspaceOption
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.console.waiting import waiting
from mit_builder.driver.listing import source_called
from mit_builder.errors import ConfigError
from mit_builder.storage.tombstones import clip_span
from mit_builder.storage.workspace import Workspace, existing


def takedown(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID...", help="Video, clip, CLIP/PERSON, address, file name, channel:NAME."),
    ] = None,
    listed: Annotated[Path | None, typer.Option("--from", help="File with one of these a line; # comments.")] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    export: Annotated[
        list[Path] | None, typer.Option(help="An export that the workspace does not know (moved); may be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, at a terminal either.")] = False,
) -> None:
    """Remove a video, clip, person or channel and all that derives from it, and keep it away."""
    from mit_builder.removal.preview import what_goes
    from mit_builder.removal.takedown import check_person, take_down

    wanted = [*(names or []), *(_read(listed) if listed else [])]
    if not wanted:
        raise ConfigError("name what to take down, or give --from FILE")
    space = existing(workspace)
    if space.root is not None and not is_workspace(space.root):
        raise ConfigError(f"nothing was run in {workspace} yet, so nothing was removed: {hints.say(Hint.RUN)}")
    for name in wanted:
        check_person(space, name)
    wanted = [_by_id(space, name) for name in wanted]
    asks = not yes and sys.stdin.isatty() and sys.stdout.isatty()
    if dry_run or asks:
        with waiting("looking for it"):
            going = list(what_goes(space, wanted, export or []))
        for line in going:
            print(line)
    if dry_run:
        return
    if asks and not typer.confirm("This cannot be undone. Remove it?"):
        print("nothing was removed")
        raise typer.Exit(1)
    hints.go_on(["takedown", *wanted])
    with waiting("removing it"):
        done = take_down(space, wanted, export or [])
    for line in [*done.problems, *done.lines]:
        print(line)
    raise typer.Exit(1 if done.problems else 0)


def _by_id(space: Workspace, name: str) -> str:
    """The id of the source whose file has this name; any other name as it is."""
    source = None if clip_span(name.partition("/")[0]) else source_called(space, name)
    if source is None:
        return name
    print(f"{name}: source {source.source_id}, {unsigned(source.address)}")
    return source.source_id


def _read(path: Path) -> list[str]:
    try:
        lines = [line.partition(" #")[0].strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'no text'}") from error
    return [line for line in lines if line and not line.startswith("#")]
