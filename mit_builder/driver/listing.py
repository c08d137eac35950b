"""What a workspace holds, by the names that a person knows: sources as they were given, with state and clips."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from manifests.ledger import Entry
from manifests.rows import TIMELINE_FPS, Candidate, Source, Video
from manifests.signatures import unsigned
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.console.wording import counted
from mit_builder.driver.snapshot import Snapshot
from mit_builder.engine.specs import ledger_of
from mit_builder.errors import ConfigError
from mit_builder.pipeline import Unit
from mit_builder.storage.source_catalog import SourceCatalog
from mit_builder.storage.workspace import Workspace

_STORED = re.compile(r"(?:videos/)?\b([0-9a-f]{16})\.[0-9a-f]{8}[\w.-]*")
"""The name under which a workspace keeps the file of a video."""
_COPY = re.compile(r"(?<= )video\.\w+(?=: )")
"""The name of the copy that download looks at."""
MOST_NAMED = 20
"""Sources that are named where a name fits several."""


@dataclass(frozen=True)
class Listed:
    """A source, or one video of it.

    Attributes:
        id: of the video, else of the source; every command takes it.
        address: the source as it was given, or as a playlist names it.
        state: what download made of it, and how many later units failed.
        title: of the video; the name of a file; empty where there is none.
        n_clips: clips of it that belong into the dataset.
    """

    id: str
    address: str
    state: str
    title: str = ""
    n_clips: int = 0

    def __str__(self) -> str:
        clips = counted(self.n_clips, "clip") if self.n_clips else ""
        return f"  {self.id}  {self.state:<18} {clips:>9}  {self.title or self.address}"


def listed(workspace: Workspace, seen: Snapshot) -> Iterator[Listed]:
    """Every source in its order, with what it gave; sources of playlists follow those of the list.

    Args:
        workspace: only read.
        seen: after a walk over every source.
    """
    entries = {entry.unit_id: entry for entry in ledger_of(workspace, "download").newest()}
    n_clips = Counter(row.clip.video_id for row in seen.clips.kept())
    n_failed = Counter(entry.unit_id.partition("_")[0] for step, entry in seen.failures if step != "download")
    for source in _sources(workspace, entries):
        entry = entries.get(source.source_id)
        videos = [row for row in entry.outputs if isinstance(row, Video)] if entry and entry.status == "done" else []
        address = unsigned(source.address)
        for video in videos:
            failed = n_failed[video.video_id]
            state = f"{failed} failed" if failed else "downloaded"
            title = video.title if source.kind == "url" and video.title else Path(_path(address)).name
            yield Listed(video.video_id, address, state, title, n_clips[video.video_id])
        if not videos:
            yield Listed(source.source_id, address, _state(entry))


def _state(entry: Entry | None) -> str:
    if entry is None:
        return "pending"
    if entry.status == "failed":
        return f"failed ({entry.failure_class})"
    if entry.status == "rejected":
        return entry.reason or "rejected"
    return "playlist"


def _sources(workspace: Workspace, entries: Mapping[str, Entry]) -> Iterator[Source]:
    known = set[str]()
    for source in SourceCatalog(workspace).sources():
        known.add(source.source_id)
        yield source
    open_lists = list(known)
    while open_lists:  # a channel holds playlists
        entry = entries.get(open_lists.pop())
        for row in entry.outputs if entry else ():
            if isinstance(row, Source) and row.source_id not in known:
                known.add(row.source_id)
                open_lists.append(row.source_id)
                yield row


def addresses(workspace: Workspace) -> dict[str, str]:
    """What a person calls each source and each video: the address by the id."""
    entries = {entry.unit_id: entry for entry in ledger_of(workspace, "download").newest()}
    found: dict[str, str] = {}
    for source in _sources(workspace, entries):
        found[source.source_id] = address = unsigned(source.address)
        entry = entries.get(source.source_id)
        for row in entry.outputs if entry else ():
            if isinstance(row, Video):
                found.setdefault(row.video_id, address)
    return found


def in_known_names(text: str, known: Mapping[str, str]) -> str:
    """A message with the address of a video in the place of the name of its stored file; of a copy, "the file"."""
    return _COPY.sub("the file", _STORED.sub(lambda stored: known.get(stored[1], stored[0]), text))


def is_called(source: Source, name: str, copies: Mapping[str, Sequence[str]]) -> bool:
    """Whether a person may mean a source by this: its id, its address, a path to its file, or the end of one.

    Its `copies` (`SourceCatalog.copies`) count as well.
    """
    addresses = [unsigned(address) for address in (source.address, *copies.get(source.source_id, ()))]
    ending = f"/{name.removeprefix('./')}"
    is_end = bool(name) and any(_path(address).endswith(ending) for address in addresses)
    return is_end or unsigned(name) in (source.source_id, *addresses) or _whole(name) in addresses


def forget_source(book: SourceCatalog, name: str) -> str:
    """Take a source out of the catalog; a line that says so. What was made of it stays, its clips leave the dataset.

    Raises:
        ConfigError: there is no such source, or several are meant.
    """
    copies = book.copies()
    found = [source for source in book.sources() if is_called(source, name, copies)]
    if len(found) != 1:
        many = f"{counted(len(found), 'source')} fit {name!r}, give the address of one"
        raise ConfigError(many if found else f"no source {name!r}: {hints.say(Hint.VIDEOS)} shows what there is")
    if len(book.sources()) == 1:
        raise ConfigError(f"{name} is the only source here: give others first, or another --workspace")
    book.remove(found[0].source_id)
    return f"{unsigned(found[0].address)} is no source here any more: its clips leave the dataset"


def _path(address: str) -> str:
    """The path of an address; in the name of a file any sign stands for itself."""
    return urlsplit(address).path if "://" in address else address


def _whole(name: str) -> str:
    return os.path.abspath(os.path.expanduser(name))


def source_called(workspace: Workspace, name: str) -> Source | None:
    """The one source whose file has this name or path; None where no source has.

    Raises:
        ConfigError: several have.
    """
    if "://" in name or not name.strip("./"):
        return None
    entries = {entry.unit_id: entry for entry in ledger_of(workspace, "download").newest()}
    copies = SourceCatalog(workspace).copies()
    found = [source for source in _sources(workspace, entries) if is_called(source, name, copies)]
    exact = [source for source in found if _whole(name) in (source.address, *copies.get(source.source_id, ()))]
    if len(found) > 1 and len(exact) != 1:
        lines = "".join(f"\n  {source.source_id}  {unsigned(source.address)}" for source in found[:MOST_NAMED])
        lines += "\n  …" if len(found) > MOST_NAMED else ""
        raise ConfigError(f"{counted(len(found), 'source')} fit {name!r}, give the id or the address of one:{lines}")
    return next(iter(exact or found), None)


_MEASURED = (
    *("n_people", "min_face_px", "face_area_ratio", "camera_motion_pct", "voice_activity", "stillness"),
    *("n_bystanders", "bystander_area", "brightness", "sharpness", "view_similarity"),
)
"""What the filter measures of a candidate."""


def failed_and_rejected(workspace: Workspace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A record for every unit that failed, and one for everything that was rejected.

    The first have stage, unit_id, source (address), failure_class, message and attempts; the others stage, unit_id,
    source, reason and what was measured, candidates of the filter start_s and end_s as well.

    Raises:
        ConfigError: nothing was ever run here.
    """
    known, failed, rejected = addresses(workspace), list[dict[str, Any]](), list[dict[str, Any]]()

    def take(unit: Unit, entry: Entry) -> None:
        source = known.get(entry.unit_id.partition("_")[0], "")
        record = {"stage": unit.step, "unit_id": entry.unit_id, "source": source}
        if entry.status == "failed":
            said = hints.shown(in_known_names(entry.message or "", known))
            failed.append({**record, "failure_class": entry.failure_class, "message": said, "attempts": entry.attempts})
        elif entry.status == "rejected":
            rejected.append({**record, "reason": entry.reason, **json.loads(entry.measurements or "{}")})
        for row in entry.outputs if entry.status == "done" else ():
            if isinstance(row, Candidate) and row.verdict == "rejected":
                times = {"start_s": row.start_frame / TIMELINE_FPS, "end_s": row.end_frame / TIMELINE_FPS}
                measured = {name: getattr(row, name) for name in _MEASURED}
                rejected.append({**record, "unit_id": row.clip_id, "reason": row.reason, **times, **measured})

    Snapshot.of(workspace, on_settled=take)
    return failed, rejected
