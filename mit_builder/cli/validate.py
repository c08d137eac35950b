"""`mit-build validate`."""

from __future__ import annotations

from typing import Annotated

import typer

from mit_builder.cli.options import DEFAULT_WORKSPACE
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.console.waiting import waiting
from mit_builder.console.wording import counted
from mit_builder.dataset.reader import check_place
from mit_builder.driver.session import REBUILT
from mit_builder.storage.workspace import Workspace


def validate(
    given: Annotated[
        str | None, typer.Argument(metavar="[PLACE]", help="A dataset's folder or a workspace; also a URI.")
    ] = None,
    workspace: Annotated[
        str, typer.Option("--workspace", "-w", help="The same, as other commands take it.")
    ] = DEFAULT_WORKSPACE,
) -> None:
    """Check every row of a dataset against what the schema promises; of a workspace, also every file it was made of."""
    from mit_builder.dataset.validate import validate as find_problems

    place = given or workspace
    check_place(place)
    space = Workspace(place, create=False)
    is_of_runs = bool(space.names("manifests"))
    if is_of_runs:
        hints.stand_in(place)
    with waiting("reading the dataset"):
        problems = find_problems(place)
    for problem in problems:
        print(problem)
    print(counted(len(problems), "problem") if problems else "valid")
    if problems and is_of_runs and not space.exists(REBUILT):
        print(f"made again by: {hints.say(Hint.VERIFY)}")
    raise typer.Exit(1 if problems else 0)
