"""`mit-build weights`: what models need, what is here, and getting it here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.errors import CannotContinue
from mit_builder.models.weights import store
from mit_builder.models.weights.table import TABLE, WeightsFile

app = typer.Typer(help="Weights of the models: list, fetch, verify, import.", no_args_is_help=True)

Names = Annotated[list[str] | None, typer.Argument(help="names as in `weights list`; none: all")]


@app.command("list")
def list_weights() -> None:
    """Show every file of weights: its licence, whether it is here, and what it is for."""
    table = Table("name", "here", "MB", "licence", "for", caption=f"kept in {store.folder()}")
    for file in TABLE:
        size = f"{file.n_bytes / 1e6:.1f}" if file.n_bytes else "?"
        table.add_row(file.name, store.state(file), size, file.licence, file.purpose)
    Console().print(table)


@app.command()
def fetch(names: Annotated[list[str], typer.Argument(help="names as in `weights list`")]) -> None:
    """Download weights into the cache; an interrupted download goes on where it stopped."""
    for file in _chosen(names):
        with _bar() as bar:
            task = bar.add_task(file.name, total=file.n_bytes)

            def show(n_bytes: int, total: int | None, task: TaskID = task, bar: Progress = bar) -> None:
                bar.update(task, completed=n_bytes, total=total)

            path = store.fetch(file, progress=show)
        typer.echo(f"{file.name}: {path} ({file.licence})")


@app.command()
def verify(names: Names = None) -> None:
    """Compare the digests of the files that are here with the registered ones."""
    states = {file.name: store.state(file) for file in _chosen(names)}
    for name, state in states.items():
        typer.echo(f"{name}: {state}")
    damaged = [name for name, state in states.items() if state == "damaged"]
    if damaged:
        raise CannotContinue(
            f"damaged: {', '.join(damaged)}; to get them again: {hints.say(Hint.WEIGHTS_FETCH, name=damaged[0])}"
        )


@app.command("import")
def import_weights(
    path: Annotated[Path, typer.Argument(help="a file downloaded by other means")],
    name: Annotated[str | None, typer.Option(help="which weights it is, where several fit")] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="take it although its digest is another, or it is a program")
    ] = False,
) -> None:
    """Put a file into the cache; it is recognised by its digest, else by its tensors."""
    file = store.import_file(path, name=name, trust=trust)
    typer.echo(f"{path.name} is {file.name} ({file.licence}); now in {store.folder()}")


def _chosen(names: list[str] | None) -> list[WeightsFile]:
    return [store.entry(name) for name in names] if names else list(TABLE)


def _bar() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
