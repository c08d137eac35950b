"""`mit-build takedown`: remove a video, clip, person or channel with all that derives from it, and keep it away.

Tombstones are written first, then everything they bar is deleted: whatever happens in between, the next takedown or run
in this workspace goes on with it. docs/TAKEDOWN.md says what a takedown of each kind means.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from manifests.ledger import Ledger
from manifests.rows import Source, Video
from manifests.sources import SourceListError, url_source
from mit_builder.dataset import FOLDER, parse_index
from mit_builder.errors import ConfigError, MitBuilderError
from mit_builder.export import mit
from mit_builder.export.folder import read_record, siblings, write_record
from mit_builder.export.make import ExportRequest, NothingToExport, forget, known_exports, make_export
from mit_builder.lease import lease
from mit_builder.publish import INDEX_KEY
from mit_builder.purge import purge
from mit_builder.source_book import SourceBook
from mit_builder.tombstones import KEY, Kind, Tombstone, Tombstones, clip_span, digest
from mit_builder.workspace import Workspace

_ID = re.compile(r"[0-9a-f]{16}")
_CHANNEL = "channel:"
_NONE = Tombstones()


@dataclass(frozen=True)
class Known:
    """What a workspace knows of a video.

    Attributes:
        video_id: its name.
        sha256: of its file; None where only the dataset knows it.
        sources: ids of the sources that gave it.
        addresses: of these sources, and the canonical one.
        channel_ids: the site's ids of its channel.
        uploaders: what its channel is called, which others may be as well.
    """

    video_id: str
    sha256: str | None
    sources: frozenset[str]
    addresses: frozenset[str]
    channel_ids: frozenset[str]
    uploaders: frozenset[str]

    @property
    def channels(self) -> frozenset[str]:
        """Everything that a channel can be named by."""
        return self.channel_ids | self.uploaders


@dataclass(frozen=True)
class Done:
    """What a takedown did, and what it could not do and stays due; lines for the user."""

    lines: list[str]
    problems: list[str]


def take_down(workspace: Workspace, names: Sequence[str], exports: Iterable[Path] = ()) -> Done:
    """Take down everything named.

    Raises:
        ConfigError: a name fits nothing, or an export folder is none; nothing was removed then.
        CannotContinue: a run goes on here.
    """
    for folder in exports:
        read_record(folder)
    with lease(workspace):
        known = known_videos(workspace)
        before = Tombstones.of(workspace)
        new = {name: stones_for(name, known, before) for name in names}
        unknown = [name for name, stones in new.items() if not _is_of_any(stones, known)]
        problems = finish(workspace, before + Tombstones(stone for stones in new.values() for stone in stones), exports)
        said = [f"{name}: nothing of it was here; it is barred from now on" for name in unknown]
        return Done([*said, f"{len(names)} taken down"], problems)


def _is_of_any(stones: Iterable[Tombstone], known: Iterable[Known]) -> bool:
    """Whether some video of the workspace is what tombstones speak of."""
    digests = {stone.digest for stone in stones}
    return any(digests & {digest("video", k.video_id), *(digest("channel", c) for c in k.channels)} for k in known)


def finish_pending(workspace: Workspace) -> list[str]:
    """Go on with a takedown that was interrupted; the caller holds the lease."""
    stones = Tombstones.of(workspace)
    return finish(workspace, stones) if stones.is_pending else []


def bar_sources(workspace: Workspace, source_ids: Iterable[str]) -> None:
    """Bar sources that turned out to give something barred, and forget their addresses; the caller holds the lease."""
    before = Tombstones.of(workspace)
    new = [Tombstone("source", digest("source", name)) for name in sorted(source_ids)]
    if any(stone not in before.stones for stone in new):
        workspace.write(KEY, (before + Tombstones(new)).dump())
        SourceBook(workspace).save()


def finish(workspace: Workspace, stones: Tombstones, exports: Iterable[Path] = ()) -> list[str]:
    """Write tombstones, delete what they bar, write exports anew; what could not be done stays pending."""
    workspace.write(KEY, Tombstones(replace(stone, pending=True) for stone in stones.stones).dump())
    purge(workspace, stones)
    problems: list[str] = []
    for folder in dict.fromkeys([*known_exports(workspace), *(e.expanduser().absolute() for e in exports)]):
        problem = _update_export(workspace, folder, stones)
        problems += [problem] if problem else []
    pending = bool(problems)
    workspace.write(KEY, Tombstones(replace(stone, pending=pending) for stone in stones.stones).dump())
    return problems


def _update_export(workspace: Workspace, folder: Path, stones: Tombstones) -> str | None:
    """Rid an export of what is barred; None, or why that was not possible."""
    for beside in siblings(folder):
        shutil.rmtree(beside, ignore_errors=True)
    if not folder.parent.exists():
        away = f"bring its disk back, or make the empty folder {folder.parent} where it was deleted"
        return f"the export {folder} is out of reach: {away}, then mit-build takedown again"
    if not folder.exists():
        forget(workspace, folder)
        return None
    try:
        record = read_record(folder)
        kept = {name for name in record.clip_ids if not stones.bars_clip(name)}
        if len(kept) == len(record.clip_ids):
            return None
        if kept and record.format == "mit":  # far larger than the others, and a folder a clip
            mit.remove(folder, [name for name in record.clip_ids if name not in kept])
            write_record(folder, replace(record, clip_ids=tuple(n for n in record.clip_ids if n in kept)))
            return None
        with suppress(NothingToExport):  # what else was in it is in the dataset no longer
            if kept:
                request = ExportRequest(record.format, folder, record.with_media, only=frozenset(kept))
                make_export(workspace, request)
                return None
        shutil.rmtree(folder)
        forget(workspace, folder)
    except (MitBuilderError, OSError) as error:
        return f"the export {folder} still holds what was taken down: {error}; delete it, then mit-build takedown again"
    return None


def known_videos(workspace: Workspace) -> list[Known]:
    """Every video of the ledger and of the dataset."""
    found: dict[str, Known] = {}
    addresses = {s.source_id: s.address for s in SourceBook(workspace).sources()}
    for entry in Ledger(workspace, "download", (Video, Source)).entries():
        for row in entry.outputs:
            if isinstance(row, Source):
                addresses.setdefault(row.source_id, row.address)
        for row in (row for row in entry.outputs if isinstance(row, Video)):
            _merge(
                found,
                Known(
                    row.video_id,
                    row.media.sha256,
                    frozenset((row.source_id, entry.unit_id)),
                    frozenset((row.source_url, addresses.get(entry.unit_id, row.source_url))),
                    frozenset(filter(None, (row.channel_id,))),
                    frozenset(filter(None, (row.uploader,))),
                ),
            )
    for values in _dataset_rows(workspace):
        names = (frozenset(filter(None, (values[name],))) for name in ("source_url", "channel_id", "uploader"))
        _merge(found, Known(values["video_id"], None, frozenset(), *names))
    return list(found.values())


def _merge(found: dict[str, Known], new: Known) -> None:
    old = found.get(new.video_id, new)
    found[new.video_id] = Known(
        new.video_id,
        old.sha256 or new.sha256,
        old.sources | new.sources,
        old.addresses | new.addresses,
        old.channel_ids | new.channel_ids,
        old.uploaders | new.uploaders,
    )


def _dataset_rows(workspace: Workspace) -> Iterable[dict[str, Any]]:
    if not workspace.exists(INDEX_KEY):
        return
    for shard in parse_index(workspace.read(INDEX_KEY).decode(errors="replace")).shards:
        with workspace.local(f"{FOLDER}/{shard.name}") as path:
            columns = ["video_id", "source_url", "uploader", "channel_id"]
            yield from pq.read_table(path, columns=columns, use_threads=False).to_pylist()


def stones_for(name: str, known: Sequence[Known], before: Tombstones = _NONE) -> list[Tombstone]:
    """Tombstones for what a user named; none where it is barred already and nothing of it is known.

    Raises:
        ConfigError: it names nothing.
    """
    clip, _, person = name.partition("/")
    span = clip_span(clip)
    if span is not None and (not person or person.isdecimal()):
        return [Tombstone("span", digest("span", span[0]), span[1], span[2])]
    if name.startswith(_CHANNEL):
        return _channel(name.removeprefix(_CHANNEL), known)
    videos = [k for k in known if name == k.video_id or name in k.sources or name in k.addresses]
    if not videos and any(name in k.channels for k in known):
        return _channel(name, known)
    stones = [stone for video in _with_copies(videos, known) for stone in _video(video)]
    if "://" in name:
        try:
            stones.append(Tombstone("source", digest("source", url_source(name).source_id)))
        except SourceListError as error:
            raise ConfigError(str(error)) from error
    if not stones and not before.bars("video", name):
        if not _ID.fullmatch(name):
            message = f"nothing named {name!r} here: give the id of a video or clip, CLIP_ID/PERSON, an address, or"
            raise ConfigError(f"{message} channel:NAME (mit-build why ID shows what is known)")
        stones = [Tombstone("video", digest("video", name)), Tombstone("source", digest("source", name))]
    return stones


def _with_copies(videos: Sequence[Known], known: Sequence[Known]) -> list[Known]:
    """The videos, and others that are the same file under another id."""
    files = {video.sha256 for video in videos if video.sha256}
    return [k for k in known if k in videos or k.sha256 in files]


def _channel(name: str, known: Sequence[Known]) -> list[Tombstone]:
    if not name:
        raise ConfigError("channel: wants a name, as in channel:UC123 (mit-build why VIDEO_ID shows it)")
    of_channel = [k for k in known if name in k.channels]
    # Of a channel that was given by its id the name is not barred: others may have the same.
    names = {name}.union(*(k.channel_ids for k in of_channel))
    stones = [Tombstone("channel", digest("channel", alias)) for alias in sorted(names)]
    return stones + [stone for video in _with_copies(of_channel, known) for stone in _video(video)]


def _video(video: Known) -> list[Tombstone]:
    stones = [Tombstone("video", digest("video", video.video_id))]
    stones += [Tombstone("source", digest("source", name)) for name in sorted(video.sources)]
    if video.sha256:
        stones.append(Tombstone("content", digest("content", video.sha256)))
    return stones


def is_removed(workspace: Workspace, name: str) -> bool:
    """Whether a name was taken down, for `mit-build why`."""
    stones = Tombstones.of(workspace)
    names = [name]
    if "://" in name:
        try:
            names.append(url_source(name).source_id)
        except SourceListError:
            return False
    kinds: tuple[Kind, ...] = ("video", "source", "channel")
    return stones.bars_clip(name) or any(stones.bars(kind, n) for kind in kinds for n in names)
