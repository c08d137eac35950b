"""`mit-build takedown`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mit_builder.errors import ConfigError


def takedown(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="ID...", help="Video, clip, CLIP/PERSON, address, channel:NAME.")
    ] = None,
    listed: Annotated[Path | None, typer.Option("--from", help="File with one of these a line; # comments.")] = None,
    workspace: Annotated[str, typer.Option("--workspace", "-w", help="Folder or URI that holds everything made.")] = (
        "mit-workspace"
    ),
    export: Annotated[
        list[Path] | None, typer.Option(help="An export that the workspace does not know (moved); may be repeated.")
    ] = None,
) -> None:
    """Remove a video, clip, person or channel and all that derives from it, and keep it away."""
    from mit_builder.takedown import take_down
    from mit_builder.workspace import existing

    wanted = [*(names or []), *(_read(listed) if listed else [])]
    if not wanted:
        raise ConfigError("name what to take down, or give --from FILE")
    done = take_down(existing(workspace), wanted, export or [])
    for line in [*done.problems, *done.lines]:
        print(line)
    raise typer.Exit(1 if done.problems else 0)


def _read(path: Path) -> list[str]:
    try:
        lines = [line.partition(" #")[0].strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'no text'}") from error
    return [line for line in lines if line and not line.startswith("#")]
