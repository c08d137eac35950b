"""`mit-build report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    workspace: Annotated[
        str, typer.Option("--workspace", "-w", help="Folder or URI that holds everything made.")
    ] = "mit-workspace",
    processes: Annotated[int | None, typer.Option(min=1, help="Processes that read new clips; default: cores.")] = None,
) -> None:
    """Write report/index.html: what is in the dataset, what was dropped and why, and the clips with their labels."""
    from mit_builder.explain import look
    from mit_builder.report.write import write_report
    from mit_builder.workspace import Workspace, existing

    space: Workspace = existing(workspace)
    key = write_report(space, look(space), n_processes=processes)
    print(f"{space.uri}/{key}" if space.root is None else Path(space.uri) / key)
