"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mit_builder.console import hints

DEFAULT_WORKSPACE = "mit-workspace"
WorkspaceOption = Annotated[
    str,
    typer.Option(
        "--workspace",
        "-w",
        help="Folder or URI that holds everything made.",
        callback=hints.stand_in,
    ),
]
AddressesArgument = Annotated[list[str] | None, typer.Argument(help="URLs, files, folders, or lists of them.")]
SourcesOption = Annotated[list[Path] | None, typer.Option(help="List: txt, csv, tsv, jsonl, parquet or yaml.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
EngineOption = Annotated[str, typer.Option(help="ray, or serial for debugging.")]
StageOption = Annotated[list[str], typer.Option(help="all, or stages to work on; may be repeated.")]
ProfileOption = Annotated[str | None, typer.Option(help="auto, embedded or paper.")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Settings file, see mit-build init; what it does not name stays.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="section.key=value, kept for later runs; may be repeated.")
]
UnsetOption = Annotated[
    list[str] | None, typer.Option("--unset", help="section.key or section: back to the default; may be repeated.")
]
FreshOption = Annotated[bool, typer.Option("--fresh-settings", help="Start from the defaults, not from what is kept.")]

_given = {"debug": False}


def debug(wanted: bool) -> None:
    """Show tracebacks from now on, or no more."""
    _given["debug"] = wanted


def is_debugging() -> bool:
    """Whether somebody gave --debug."""
    return _given["debug"]


def split_names(names: list[str]) -> list[str]:
    """Split the values of an option that may be repeated and may hold several names, with commas between."""
    return [part.strip() for name in names for part in name.split(",") if part.strip()]
