"""`mit-build export` and `mit-build rebuild`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mit_builder.cli.options import DEFAULT_WORKSPACE, WorkspaceOption
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.console.waiting import waiting
from mit_builder.console.wording import counted
from mit_builder.errors import ConfigError


def export(
    form: Annotated[
        str, typer.Option("--format", help="manifest, mit, webdataset, coco-wholebody or hf; docs/EXPORT.md.")
    ] = "manifest",
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write; an export like it is replaced.")
    ] = None,
    with_media: Annotated[bool, typer.Option("--with-media", help="Footage too: read its licences first.")] = False,
    audio_encoder: Annotated[
        str | None, typer.Option(help="wav2vec2-base checkpoint for CovOG's audio embeddings, or module:Class (mit).")
    ] = None,
    check: Annotated[Path | None, typer.Option(help="Write nothing: check an export of the mit form.")] = None,
) -> None:
    """Write the dataset in a form that other tools read; for sharing without footage by default."""
    if check is not None:
        raise typer.Exit(_check(check))
    from mit_builder.dataset.publish import INDEX_KEY
    from mit_builder.exports.make import ExportRequest, make_export
    from mit_builder.storage.workspace import existing

    if output is None:
        raise ConfigError("give --output, the folder to write")
    if audio_encoder and form != "mit":
        raise ConfigError("--audio-encoder belongs to --format mit")
    space = existing(workspace)
    if not space.exists(INDEX_KEY):
        raise ConfigError(f"no dataset in {workspace} yet: {hints.say(Hint.LABEL)}")
    with waiting("writing the export"):
        lines = make_export(space, ExportRequest(form, output, with_media, audio_encoder))
    for line in lines:
        print(line)


def _check(folder: Path) -> int:
    from mit_builder.exports.check import check_export

    with waiting("reading the export"):
        verdict = check_export(folder)
    for problem in verdict.problems:
        print(problem)
    print(verdict.summary)
    if verdict.matched is not None:
        print(f"CovOG's rule gives the right pose to the person in {100 * verdict.matched:.1f}% of persons and frames")
    return 1 if verdict.problems else 0


def rebuild(
    manifest: Annotated[Path, typer.Argument(help="Folder made by mit-build export --format manifest.")],
    workspace: WorkspaceOption,
    files: Annotated[Path | None, typer.Option(help="Folder with the sources that are local files.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="download.key=value; may be repeated.")] = None,
) -> None:
    """Make a dataset out of a manifest: fetch its sources again, cut the same clips, join the labels."""
    from mit_builder.config import settings
    from mit_builder.engine.orphan_reaper import guarded
    from mit_builder.removal.rebuild import head_of
    from mit_builder.removal.rebuild import rebuild as make
    from mit_builder.storage.workspace import Workspace

    with guarded(), waiting("fetching sources and cutting clips"):
        outcome = make(head_of(manifest), Workspace(workspace), settings.load(None, overrides or []), files)
    for line in [*outcome.problems, *outcome.missing]:
        print(line)
    print(f"{counted(outcome.n_clips, 'clip')} rebuilt in {workspace}, missing: {len(outcome.missing)}")
    if outcome.n_other_bytes:
        print(f"{outcome.n_other_bytes} of them have the same frames in other bytes: another build of the encoder")
    raise typer.Exit(1 if outcome.missing or outcome.problems else 0)
