"""`mit-build report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mit_builder.cli.options import DEFAULT_WORKSPACE, WorkspaceOption
from mit_builder.console.waiting import waiting


def report(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    processes: Annotated[int | None, typer.Option(min=1, help="Processes that read new clips; default: cores.")] = None,
) -> None:
    """Write report/index.html: what is in the dataset, what was dropped and why, and the clips with their labels."""
    from mit_builder.cli.looking import looked_at
    from mit_builder.report.write import write_report
    from mit_builder.storage.workspace import Workspace, existing

    space: Workspace = existing(workspace)
    seen = looked_at(space)
    with waiting("reading and drawing clips"):
        key = write_report(space, seen, n_processes=processes)
    print(f"{space.uri}/{key}" if space.root is None else Path(space.uri) / key)
