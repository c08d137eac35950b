"""A picture and a video of one clip, or of a candidate that the filter rejected."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from manifests.rows import Candidate, Video
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.console.wording import counted
from mit_builder.driver.listing import is_called
from mit_builder.driver.snapshot import Snapshot
from mit_builder.engine.specs import ledger_of
from mit_builder.errors import ConfigError, DamagedError
from mit_builder.report import clips
from mit_builder.report.candidates import preview_candidate
from mit_builder.storage.source_catalog import SourceCatalog
from mit_builder.storage.workspace import Workspace


@dataclass(frozen=True)
class Drawn:
    """What was drawn.

    Attributes:
        video_key: key of an MP4 with boxes, skeletons, scores and sound.
        picture_key: key of a PNG, the contact sheet.
        note: why it is not in the dataset; None where it is.
    """

    video_key: str
    picture_key: str
    note: str | None


def draw_preview(workspace: Workspace, seen: Snapshot, clip_id: str) -> Drawn:
    """Draw one clip, or a candidate that has none from its video.

    Raises:
        ConfigError: there is nothing of this name, or a file is gone.
    """
    labelled = {row.clip.clip_id: (row, reason) for row, reason in seen.clips.all()}
    try:
        if clip_id not in labelled:
            return _draw_candidate(workspace, clip_id, sorted(labelled))
        row, reason = labelled[clip_id]
        video, picture = clips.preview(workspace, row)
    except DamagedError as error:
        raise ConfigError(f"{error}: {hints.say(Hint.VERIFY)} makes it again") from error
    return Drawn(video, picture, f"left out of the dataset: {reason}" if reason else None)


def _draw_candidate(workspace: Workspace, clip_id: str, labelled: Sequence[str]) -> Drawn:
    row, source = find_candidate(workspace, clip_id)
    if row is None or source is None:
        if _is_source(workspace, clip_id):
            raise ConfigError(f"{clip_id} is a source, of which {hints.say(Hint.WHY, name=clip_id)} names the clips")
        others = f"; of {counted(len(labelled), 'clip')} with labels the first: {labelled[0]}" if labelled else ""
        raise ConfigError(f"no clip or candidate {clip_id}{others} ({hints.say(Hint.VIDEOS)} shows what there is)")
    video, picture = preview_candidate(workspace, row, source)
    is_rejected = row.verdict == "rejected"
    return Drawn(
        video, picture, f"rejected by the filter: {row.reason}" if is_rejected else "kept, it has no labels yet"
    )


def _is_source(workspace: Workspace, name: str) -> bool:
    sources, copies = SourceCatalog(workspace).sources(), SourceCatalog(workspace).copies()
    return any(is_called(source, name, copies) for source in sources)


def find_candidate(workspace: Workspace, clip_id: str) -> tuple[Candidate | None, Video | None]:
    """A candidate and its video, as the ledger has them last."""
    video_id = clip_id.partition("_")[0]

    def rows(step: str, wanted: Callable[[str], bool]) -> Iterator[Any]:
        for entry in ledger_of(workspace, step).newest(wanted):
            yield from entry.outputs

    selected = rows("filter.select", lambda unit_id: unit_id.partition("_")[0] == video_id)
    candidates = (row for row in selected if isinstance(row, Candidate))
    videos = (row for row in rows("download", lambda unit_id: True) if isinstance(row, Video))
    found = next((row for row in candidates if row.clip_id == clip_id), None)
    return found, next((row for row in videos if row.video_id == video_id), None) if found else None
