"""`mit-build review`."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mit_builder.cli.options import DEFAULT_WORKSPACE, WorkspaceOption
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.console.waiting import waiting
from mit_builder.console.wording import counted
from mit_builder.labels.reviews import REJECTED

if TYPE_CHECKING:
    from mit_builder.driver.snapshot import Snapshot
    from mit_builder.storage.workspace import Workspace


def review(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    sample: Annotated[int | None, typer.Option(min=1, help="Draw so many clips at random, and show those.")] = None,
    seed: Annotated[int, typer.Option(help="Of the drawing: the same seed and clips give the same sample.")] = 0,
    imported: Annotated[
        Path | None, typer.Option("--import", help="Take in verdicts that were exported from a report; no server.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
    browse: Annotated[bool, typer.Option(help="Open the page in this machine's browser.")] = False,
) -> None:
    """Accept or reject clips and correct who speaks, in the report; the next run puts it into the dataset."""
    from mit_builder.cli.looking import looked_at
    from mit_builder.storage.workspace import existing

    space = existing(workspace)
    seen = looked_at(space)
    if imported is not None:
        _take_in(seen, imported)
    else:
        _serve(space, seen, sample, seed, port, browse=browse)


def _n_people(seen: Snapshot) -> dict[str, int]:
    return {row.clip.clip_id: row.clip.n_people for row, _ in seen.clips.all()}


def _kept_by_filter(seen: Snapshot) -> list[str]:
    """Clips that are in the dataset, or would be but for a reviewer: what a sample is drawn from."""
    return [row.clip.clip_id for row, reason in seen.clips.all() if reason in (None, REJECTED)]


def _take_in(seen: Snapshot, path: Path) -> None:
    from mit_builder.review.documents import read_export

    found, known = read_export(path), _n_people(seen)
    here = [review for review in found if review.clip_id in known]
    seen.reviews.save(here)
    print(f"{counted(len(here), 'verdict')} taken in; {hints.say(Hint.SHARDS)} puts them into the dataset")
    for review in (review for review in found if review.clip_id not in known):
        print(f"passed over: there is no clip {review.clip_id} here")


def _serve(space: Workspace, seen: Snapshot, size: int | None, seed: int, port: int, *, browse: bool) -> None:
    from mit_builder.errors import ConfigError
    from mit_builder.report.write import write_report
    from mit_builder.review.server import Site, address_of, make_server

    population = _kept_by_filter(seen)
    if not population:
        raise ConfigError(f"there are no clips with labels here: {hints.say(Hint.LABEL)} makes them")
    drawn = None if size is None else seen.reviews.draw(population, size, seed)
    with waiting("reading and drawing clips"):
        write_report(space, seen, n_processes=None)
    site = Site(space, seen.reviews, _n_people(seen), drawn)
    with make_server(site, port) as server:
        address = address_of(site)
        print(f"review at {address}")
        print("verdicts are kept as they are given; Ctrl-C ends this, and the next run takes them in", flush=True)
        if browse:
            webbrowser.open(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print(f"ended: {hints.say(Hint.SHARDS)} puts the verdicts into the dataset")
