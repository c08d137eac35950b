"""Pictures of the clips of a run, the dataset card and its statistics."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.rows import Artifact, Labelled
from manifests.schema import content_hash
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.dataset.index import FOLDER
from mit_builder.dataset.reader import DatasetFiles
from mit_builder.errors import CannotContinue
from mit_builder.report.card import dataset_card
from mit_builder.report.contact_sheet import write_contact_sheet
from mit_builder.report.overlay import write_overlay
from mit_builder.report.processes import in_processes
from mit_builder.report.statistics import COLUMNS, summarise
from mit_builder.report.view import open_view
from mit_builder.storage.tombstones import withdraw
from mit_builder.storage.workspace import Workspace

REPORT = "report"


@dataclass(frozen=True)
class _Drawing:
    workspace_uri: str
    row: Labelled
    key: str


def report_clips(
    workspace: Workspace,
    labelled: Sequence[Labelled],
    *,
    n_overlays: int,
    n_processes: int | None,
    these_alone: bool = False,
) -> list[str]:
    """Draw what is new and remove pictures of clips that are gone.

    Args:
        workspace: where the clips are and the pictures go.
        labelled: the dataset's clips in order.
        n_overlays: the first so many clips get an overlay video besides their contact sheet.
        n_processes: None = one a core.
        these_alone: the dataset has more clips than these; pictures of others stay.

    Returns:
        Keys of all pictures: overlays first.

    Raises:
        CannotContinue: a process that draws was killed, or found no room.
    """
    overlays = [_key(row, "mp4") for row in labelled[:n_overlays]]
    wanted = {_key(row, "png"): row for row in labelled} | dict(zip(overlays, labelled, strict=False))
    drawn = {key for key in workspace.names(REPORT) if key.endswith((".png", ".mp4"))}
    if not these_alone:
        workspace.delete(sorted(drawn - wanted.keys()))
    due = [_Drawing(workspace.uri, wanted[key], key) for key in sorted(wanted.keys() - drawn)]
    if due:
        n_workers = n_processes or os.cpu_count() or 1
        try:
            in_processes(_draw, due, n_workers, f"a process that draws pictures died: {_advice()}")
        except OSError as error:
            raise CannotContinue(f"cannot draw pictures: {error.strerror}: {_advice()}") from error
    return overlays + sorted(wanted.keys() - set(overlays))


def _advice() -> str:
    return f"the dataset is written; to draw what is missing: {hints.say(Hint.AGAIN)}"


def preview(workspace: Workspace, labelled: Labelled) -> list[str]:
    """Draw one clip's overlay and contact sheet anew; their keys."""
    keys = [_key(labelled, "mp4"), _key(labelled, "png")]
    for key in keys:
        _draw(_Drawing(workspace.uri, labelled, key))
    return keys


def _key(row: Labelled, suffix: str) -> str:
    version = content_hash(row.clip, row.pose, row.speech, row.corrections)[:8]
    return f"{REPORT}/{row.clip.clip_id}.{version}.{suffix}"


def _draw(drawing: _Drawing) -> None:
    workspace, row = Workspace(drawing.workspace_uri), drawing.row

    @contextmanager
    def local(artifact: Artifact) -> Iterator[Path]:
        with workspace.artifact(artifact) as path:
            yield path

    write = write_contact_sheet if drawing.key.endswith(".png") else write_overlay
    with (
        open_view(row, local) as view,
        workspace.own(REPORT) as folder,
    ):
        path = folder / Path(drawing.key).name
        write(view, path)
        workspace.commit(path, drawing.key)
        withdraw(workspace, [drawing.key])


def write_summary(workspace: Workspace, tally: dict[str, Any], *, contact: str | None) -> None:
    """Write the dataset card (README.md) and statistics.json beside the shards, and the run's funnel to report/."""
    write_card(workspace, contact=contact)
    workspace.write(f"{REPORT}/funnel.json", (json.dumps(tally, indent=1) + "\n").encode())


def write_card(workspace: Workspace, *, contact: str | None) -> None:
    """Write what stands beside the shards: the dataset card (README.md) and statistics.json."""
    figures = summarise(DatasetFiles(workspace).rows(COLUMNS))
    workspace.write(f"{FOLDER}/statistics.json", (json.dumps(figures, indent=1) + "\n").encode())
    workspace.write(f"{FOLDER}/README.md", dataset_card(figures, contact=contact).encode())
