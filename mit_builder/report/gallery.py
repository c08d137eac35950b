"""The gallery's files: a script of labels for each clip, and one that lists all clips.

`report/gallery.js` is also what the next report starts from: clips that it lists, and whose data lie there, are not
read again. So a report costs what is new.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from manifests.rows import Labelled
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.labels.corrections import DIGEST_DIGITS
from mit_builder.labels.reviews import Reviews
from mit_builder.report.clip_data import Measured, Shown, encode_clip, facts, shown
from mit_builder.report.processes import in_processes
from mit_builder.storage.tombstones import withdraw
from mit_builder.storage.workspace import Workspace

CLIPS = "report/data"
GALLERY_KEY = "report/gallery.js"
_CALL = "mitGallery("
POOL_FROM_CLIPS = 100
"""New clips from which other processes help: starting one takes as long as some dozens of clips."""
CLIPS_A_TASK = 25
N_WRITERS = 4
"""Files written at once, while the next clip is read: each waits for the disk."""

Listed = dict[str, Any]
"""A clip as the page lists it: `facts` and what was measured."""


@dataclass(frozen=True)
class _Task:
    workspace_uri: str
    clips: tuple[Shown, ...]


def update_gallery(
    workspace: Workspace, clips: Sequence[tuple[Labelled, str | None]], reviews: Reviews, *, n_processes: int | None
) -> list[Listed]:
    """Write the data of clips that have none, remove what no clip needs, and list all clips.

    Args:
        workspace: where the clips are and the report goes.
        clips: the clips to show, in order, each with why it is left out of the dataset, if it is.
        reviews: verdicts on them, and samples.
        n_processes: None = one a core.

    Raises:
        CannotContinue: a process that reads clips was killed.
    """
    there = {key.removeprefix(f"{CLIPS}/").removesuffix(".js") for key in workspace.names(CLIPS)}
    measured, all_shown = _read(workspace), [shown(row) for row, _ in clips]
    due = [clip for clip in all_shown if not (clip.state in measured and clip.name in there)]
    measured.update(_encode_all(workspace, due, n_processes or os.cpu_count() or 1))
    listed = [
        {**facts(clip), **measured[clip.state], "leftOut": reason, "review": _review(clip.row, reviews)}
        for clip, (_, reason) in zip(all_shown, clips, strict=True)
    ]
    samples = [{"id": sample.sample_id, "clips": sample.clip_ids} for sample in reviews.samples]
    parts = (json.dumps(part, separators=(",", ":")) for part in (listed, samples))
    text = f"{_CALL}{','.join(parts)});\n".encode()
    if _bytes(workspace) != text:
        workspace.write(GALLERY_KEY, text)
    workspace.delete([f"{CLIPS}/{name}.js" for name in sorted(there - {clip.name for clip in all_shown})])
    return listed


def _review(row: Labelled, reviews: Reviews) -> dict[str, Any] | None:
    """The verdict on a clip; whether its labels were checked counts only for the labels that it has."""
    review = reviews.find(row.clip.clip_id)
    if review is None:
        return None
    same = review.labels == row.speech.speech.sha256[:DIGEST_DIGITS]
    return {"verdict": review.verdict, "reason": review.reason, "checked": review.labels_checked and same}


def _bytes(workspace: Workspace) -> bytes:
    try:
        return workspace.read(GALLERY_KEY)
    except FileNotFoundError:
        return b""


def _read(workspace: Workspace) -> dict[str, Measured]:
    """What the last report listed, by the clips' states; nothing where it is damaged."""
    try:
        text = _bytes(workspace).decode().strip().removeprefix(_CALL).removesuffix(");")
        listed = json.loads(f"[{text}]")[0] if text else []
        return {row["state"]: {name: row[name] for name in _MEASURED} for row in listed}
    except (ValueError, KeyError, TypeError):
        return {}


_MEASURED = ("talk", "body", "turns", "overlap", "silence", "changed", "human", "scores")


def _encode_all(workspace: Workspace, due: Sequence[Shown], n_processes: int) -> dict[str, Measured]:
    tasks = [_Task(workspace.uri, tuple(due[i : i + CLIPS_A_TASK])) for i in range(0, len(due), CLIPS_A_TASK)]
    if len(due) < POOL_FROM_CLIPS or n_processes == 1:
        return _merged(map(_encode, tasks))
    died = f"a process that reads clips for the report died; to go on: {hints.say(Hint.REPORT)}"
    return _merged(in_processes(_encode, tasks, n_processes, died))


def _merged(parts: Iterable[dict[str, Measured]]) -> dict[str, Measured]:
    return {name: values for part in parts for name, values in part.items()}


def _encode(task: _Task) -> dict[str, Measured]:
    workspace = Workspace(task.workspace_uri)
    found, writes = {}, []
    with ThreadPoolExecutor(N_WRITERS) as writers:
        for clip in task.clips:
            script, found[clip.state] = encode_clip(clip, workspace.artifact)
            writes.append(writers.submit(workspace.write, f"{CLIPS}/{clip.name}.js", script.encode()))
        for write in writes:
            write.result()
    withdraw(workspace, [f"{CLIPS}/{clip.name}.js" for clip in task.clips])
    return found
