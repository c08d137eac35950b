"""The Python API: `import mit_builder as mb`.

    result = mb.run(["a.mp4", "urls.txt"], workspace="talks", settings={"filter.min_face_px": 36}, progress=True)
    clips = mb.open_dataset("talks")

Every function may be called from any thread, from a notebook, and from a script without `__main__` guard. Nothing is
printed unless asked for, and nothing ends the program. What goes wrong is raised as in mit_builder/errors.py; a message
that advises a command names it as it is typed into a terminal.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from mit_builder.console import hints
from mit_builder.dataset.clips import Dataset, shown_video
from mit_builder.dataset.publish import INDEX_KEY
from mit_builder.driver.listing import failed_and_rejected
from mit_builder.driver.notebook import NotebookBars, is_notebook
from mit_builder.driver.progress import Reporter, funnel, make_reporter
from mit_builder.driver.retry_policy import ALL_CLASSES, PASSES_BY_ITSELF
from mit_builder.driver.snapshot import Snapshot
from mit_builder.errors import CannotContinue, ConfigError, MitBuilderError
from mit_builder.exports.make import ExportRequest, make_export
from mit_builder.pipeline_run import RunRequest, run_pipeline
from mit_builder.report.preview import draw_preview
from mit_builder.storage.settings_file import Changes
from mit_builder.storage.workspace import Workspace, existing

DEFAULT_WORKSPACE = "mit-workspace"
Place = str | Path
Rows = list[dict[str, Any]]

_running = threading.Lock()
"""One run a process: Ray, signals and the environment of workers belong to it."""


@dataclass(frozen=True)
class Status:
    """What a workspace holds.

    Attributes:
        workspace: folder or URI.
        counts: the funnel in numbers: sources, videos, shots, candidates, clips, dataset_clips, and units of each stage
            by what became of them; the same as `mit-build status --json`.
        funnel: the same in words, a line each.
        notes: what the run, or the look, had to say.
    """

    workspace: str
    counts: dict[str, Any]
    funnel: tuple[str, ...]
    notes: tuple[str, ...]

    @cached_property
    def _records(self) -> tuple[Rows, Rows]:
        with _for_workspace(self.workspace):
            return failed_and_rejected(existing(self.workspace))

    @property
    def failures(self) -> Rows:
        """A record for every unit that failed: stage, unit_id, source (address), failure_class, message, attempts.

        Read from the workspace when first asked for.
        """
        return self._records[0]

    @property
    def rejected(self) -> Rows:
        """A record for everything that was looked at and not taken: stage, unit_id, source (address), reason; for
        candidates of the filter also start_s and end_s in the video, and what was measured.

        Read from the workspace when first asked for.
        """
        return self._records[1]

    def __str__(self) -> str:
        return "\n".join(self.funnel)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


@dataclass(frozen=True)
class RunResult(Status):
    """What came of a run.

    Attributes:
        is_whole: whether nothing failed, and nothing was left for a later run.
        clip_ids: the clips that belong into the dataset, as far as this run looked at them.
        pictures: paths or URIs of the overlay videos and contact sheets.
    """

    is_whole: bool
    clip_ids: tuple[str, ...]
    pictures: tuple[str, ...]


@dataclass(frozen=True)
class Preview:
    """Pictures of one clip, or of a candidate that the filter rejected; a notebook shows the video.

    Attributes:
        clip_id: its name.
        video: path or URI of an MP4 with boxes, skeletons, scores and sound.
        picture: path or URI of a PNG, the contact sheet.
        note: why it is not in the dataset; None where it is.
    """

    clip_id: str
    video: str
    picture: str
    note: str | None

    def _repr_html_(self) -> str:
        folder, _, name = self.video.rpartition("/")
        note = f"<div>{html.escape(self.note)}</div>" if self.note else ""
        return note + shown_video(Workspace(folder, create=False).read(name), name)


def run(  # noqa: PLR0913 - what the command has as options
    sources: Place | Sequence[Place] = (),
    workspace: Place = DEFAULT_WORKSPACE,
    *,
    settings: Mapping[str, Any] | None = None,
    unset: Sequence[str] = (),
    fresh_settings: bool = False,
    stages: Sequence[str] = ("all",),
    force_stages: Sequence[str] = (),
    forget: Sequence[str] = (),
    limit: int | None = None,
    retry_failed: bool = False,
    refresh: bool = False,
    verify: bool = False,
    engine: Literal["ray", "serial"] = "ray",
    progress: bool = False,
) -> RunResult:
    """Run the pipeline, as `mit-build run` does: what is done already is not done again.

    One run at a time in a process; other threads may look at workspaces meanwhile. While Ray starts, a few seconds, the
    process's current folder is another. Ctrl-C ends a run of the first thread in order.

    Args:
        sources: URLs, files, folders, and lists of them (.txt .csv .tsv .jsonl .parquet .yaml). None: the run goes on
            with those of the workspace; where it has none, with the bundled demo.
        workspace: folder or URI that holds everything made.
        settings: by name ("filter.min_face_px") what is changed of the settings that the workspace keeps.
        unset: names of settings, or of sections, that go back to their defaults first.
        fresh_settings: begin from the defaults, not from what the workspace keeps.
        stages: "all", or names of stages to work on.
        force_stages: stages to do again, whatever is done.
        forget: sources to leave out from now on, by address or file.
        limit: only the first so many sources; the dataset then holds their clips only.
        retry_failed: also what failed for good, and without waiting.
        refresh: look at playlists and channels again now.
        verify: read every file, and make again what is damaged.
        engine: "ray", or "serial": in this process, one unit after another.
        progress: show it: bars in a terminal or a notebook, lines elsewhere.

    Returns:
        What came of it. Failed units do not raise: they are in `failures`.

    Raises:
        ConfigError: a source, a setting or a name is wrong.
        CannotContinue: weights, disk or the workspace are missing, a stage cannot start, or another run is going on.
    """
    request = RunRequest(
        addresses=[str(source) for source in ([sources] if isinstance(sources, str | Path) else sources)],
        lists=[],
        workspace=str(workspace),
        changes=Changes.given(settings or {}, unset, fresh=fresh_settings),
        stages=_names(stages),
        forced=_names(force_stages),
        limit=limit,
        retry=ALL_CLASSES if retry_failed else PASSES_BY_ITSELF,
        at_once=retry_failed,
        engine=engine,
        go_on=["run"],
        refresh=refresh,
        forget=_names(forget),
        verify=verify,
    )
    return _carry_out(request, shows=progress)


def _carry_out(request: RunRequest, *, shows: bool) -> RunResult:
    if request.limit is not None and request.limit < 1:
        raise ConfigError("limit is at least 1, or None")
    if not _running.acquire(blocking=False):
        raise CannotContinue("another run is going on in this process: wait for it, or start a process for this one")
    try:
        with _for_workspace(request.workspace):
            reporter = _reporter(shows=shows)
            outcome = run_pipeline(request, reporter)
            lines = funnel(outcome.tally)
            reporter.end(outcome.tally, lines, {})
            outcome.check()
    finally:
        _running.release()
    uri = outcome.runner.workspace.uri
    return RunResult(
        workspace=uri,
        counts=outcome.tally.as_dict(),
        funnel=tuple(lines),
        notes=tuple(reporter.notes),
        is_whole=outcome.is_whole,
        clip_ids=tuple(sorted(row.clip.clip_id for row in outcome.runner.clips.kept())),
        pictures=tuple(f"{uri}/{key}" for key in outcome.pictures),
    )


def status(workspace: Place = DEFAULT_WORKSPACE) -> Status:
    """What a workspace holds as of its last run, as `mit-build status` tells it.

    Args:
        workspace: folder or URI.

    Raises:
        ConfigError: there is no such workspace, or nothing was run in it.
        WorkspaceError: storage does not answer.
    """
    with _for_workspace(str(workspace)):
        space, notes = existing(str(workspace)), list[str]()
        seen = Snapshot.of(space, whole=False, on_note=notes.append)
        return Status(space.uri, seen.tally.as_dict(), tuple(funnel(seen.tally)), tuple(map(hints.shown, notes)))


def open_dataset(place: Place = DEFAULT_WORKSPACE) -> Dataset:
    """The clips of a dataset, read when they are asked for.

    Args:
        place: a dataset or a workspace, as a folder or a URI.

    Raises:
        ConfigError: there is no dataset.
        WorkspaceError: storage does not answer.
    """
    with _for_workspace(str(place)):
        return Dataset(place)


def export(
    workspace: Place,
    output: Place,
    form: Literal["manifest", "mit", "webdataset", "coco-wholebody", "hf"] = "manifest",
    *,
    with_media: bool = False,
    audio_encoder: str | None = None,
) -> list[str]:
    """Write the dataset in a form that other tools read, as `mit-build export` does.

    Args:
        workspace: folder or URI with the dataset.
        output: folder to write; an export like it is replaced.
        form: see docs/EXPORT.md.
        with_media: footage goes along; read its licences first.
        audio_encoder: for "mit", a wav2vec2-base checkpoint or module:Class.

    Returns:
        Lines that say what went into it and what did not.

    Raises:
        ConfigError: there is no dataset or nothing that may leave, or the place is taken.
        MediaError: a clip's media is missing or cannot be read.
    """
    with _for_workspace(str(workspace)):
        space = existing(str(workspace))
        if not space.exists(INDEX_KEY):
            raise ConfigError(f"no dataset in {workspace} yet: {hints.say(hints.Hint.LABEL)}")
        if audio_encoder and form != "mit":
            raise ConfigError('audio_encoder belongs to form="mit"')
        lines = make_export(space, ExportRequest(form, Path(output), with_media, audio_encoder))
        return [hints.shown(line) for line in lines]


def preview(workspace: Place, clip_id: str) -> Preview:
    """Draw one clip, or a candidate that the filter rejected, with its labels.

    Args:
        workspace: folder or URI.
        clip_id: of the dataset, or of `rejected`.

    Raises:
        ConfigError: there is nothing of this name, or a file is gone.
        MediaError: the video cannot be read.
    """
    with _for_workspace(str(workspace)):
        space = existing(str(workspace))
        drawn = draw_preview(space, Snapshot.of(space), clip_id)
        return Preview(clip_id, f"{space.uri}/{drawn.video_key}", f"{space.uri}/{drawn.picture_key}", drawn.note)


@contextmanager
def _for_workspace(workspace: str) -> Iterator[None]:
    """Commands that messages advise are for this workspace, and are whole."""
    with hints.for_workspace(workspace):
        try:
            yield
        except MitBuilderError as error:
            error.args = (hints.shown(str(error)), *error.args[1:])
            raise


def _names(names: Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _reporter(*, shows: bool) -> Reporter:
    if not shows:
        return Reporter()
    if is_notebook():
        return NotebookBars()
    return make_reporter(as_json=False, console=Console(highlight=False))
