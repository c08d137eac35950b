"""`mit-build takedown`: remove a video, clip, person or channel with all that derives from it, and keep it away.

Tombstones are written first, then everything they bar is deleted: whatever happens in between, the next takedown or run
in this workspace goes on with it. docs/TAKEDOWN.md says what a takedown of each kind means.
"""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from manifests.ledger import Ledger
from manifests.rows import Clip, Source, Video
from manifests.signatures import unsigned
from manifests.sources import SourceListError, url_source
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.dataset.index import FOLDER, parse_index
from mit_builder.dataset.publish import INDEX_KEY
from mit_builder.engine.specs import ledger_of
from mit_builder.errors import ConfigError, MitBuilderError
from mit_builder.exports import mit
from mit_builder.exports.folder import read_record, siblings, write_record
from mit_builder.exports.make import ExportRequest, NothingToExport, forget, known_exports, make_export
from mit_builder.removal.purge import purge
from mit_builder.storage.lease import lease
from mit_builder.storage.scratch import sha256_of
from mit_builder.storage.source_catalog import SourceCatalog
from mit_builder.storage.tombstones import KEY, Kind, Tombstone, Tombstones, clip_span, digest
from mit_builder.storage.workspace import Workspace

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


class Videos:
    """The videos that a workspace knows, each found at once by any of its names, however many there are."""

    def __init__(self, known: Iterable[Known]) -> None:
        self._by_name: dict[str, list[Known]] = defaultdict(list)
        self._by_channel: dict[str, list[Known]] = defaultdict(list)
        self._by_file: dict[str, list[Known]] = defaultdict(list)
        self._by_digest: dict[str, list[Known]] = defaultdict(list)
        for video in known:
            for name in {video.video_id} | video.sources | video.addresses:
                self._by_name[name].append(video)
            for name in video.channels:
                self._by_channel[name].append(video)
            if video.sha256:
                self._by_file[video.sha256].append(video)
            for found in _digests(video):
                self._by_digest[found].append(video)

    def named(self, name: str) -> list[Known]:
        """The videos with this id, source or address."""
        return self._by_name.get(name, [])

    def of_channel(self, name: str) -> list[Known]:
        """The videos of a channel."""
        return self._by_channel.get(name, [])

    def with_copies(self, videos: Iterable[Known]) -> list[Known]:
        """The videos, and others that are the same file under another id."""
        files = {video.video_id: self._by_file.get(video.sha256 or "", [video]) for video in videos}
        return list({same.video_id: same for found in files.values() for same in found}.values())

    def has_any(self, stones: Iterable[Tombstone]) -> bool:
        """Whether some video is what tombstones speak of."""
        return any(stone.digest in self._by_digest for stone in stones)

    def barred_by(self, stones: Iterable[Tombstone]) -> list[Known]:
        """The videos that tombstones bar as a whole, each once."""
        found = (video for stone in stones if stone.kind != "span" for video in self._by_digest.get(stone.digest, ()))
        return list({video.video_id: video for video in found}.values())


def _digests(video: Known) -> Iterator[str]:
    """Digests by which tombstones know a video; its spans have those of the video."""
    yield digest("video", video.video_id)
    yield from (digest("source", name) for name in video.sources)
    yield from (digest("channel", name) for name in video.channels)
    if video.sha256:
        yield digest("content", video.sha256)


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
        known = Videos(known_videos(workspace))
        before = Tombstones.of(workspace)
        new = {name: stones_for(name, known, before) for name in names}
        unknown = [name for name, stones in new.items() if not known.has_any(stones)]
        problems = finish(workspace, before + Tombstones(stone for stones in new.values() for stone in stones), exports)
        said = [f"{name}: nothing of it was here; it is barred from now on" for name in unknown]
        return Done([*said, f"{len(names)} taken down"], problems)


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
        SourceCatalog(workspace).save()


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
        return f"the export {folder} is out of reach: {away}, then {hints.say(Hint.AGAIN)}"
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
        return f"the export {folder} still holds what was taken down: {error}; delete it, then {hints.say(Hint.AGAIN)}"
    return None


def known_videos(workspace: Workspace) -> list[Known]:
    """Every video of the ledger and of the dataset."""
    found: dict[str, Known] = {}
    addresses = {s.source_id: s.address for s in SourceCatalog(workspace).sources()}
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
        if not workspace.exists(f"{FOLDER}/{shard.name}"):
            continue
        with workspace.local(f"{FOLDER}/{shard.name}") as path:
            columns = ["video_id", "source_url", "uploader", "channel_id"]
            if sha256_of(path) == shard.sha256:  # else it tells nothing, and is written anew
                yield from pq.read_table(path, columns=columns, use_threads=False).to_pylist()


def stones_for(name: str, known: Videos, before: Tombstones = _NONE) -> list[Tombstone]:
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
    videos = known.named(name) or known.named(unsigned(name))
    if not videos and known.of_channel(name):
        return _channel(name, known)
    stones = [stone for video in known.with_copies(videos) for stone in _video(video)]
    if "://" in name:
        try:
            stones.append(Tombstone("source", digest("source", url_source(name).source_id)))
        except SourceListError as error:
            raise ConfigError(str(error)) from error
    if not stones and not before.bars("video", name):
        if not _ID.fullmatch(name):
            message = f"nothing named {name!r} here: give the id of a video or clip, CLIP_ID/PERSON, an address,"
            raise ConfigError(f"{message} a file's name or channel:NAME ({hints.say(Hint.VIDEOS)} shows what there is)")
        stones = [Tombstone("video", digest("video", name)), Tombstone("source", digest("source", name))]
    return stones


def check_person(workspace: Workspace, name: str) -> None:
    """Raise `ConfigError` where a clip that is named with a person has no such person."""
    clip_id, _, person = name.partition("/")
    if clip_span(clip_id) is None or not person.isdecimal():
        return
    made = ledger_of(workspace, "filter.cut").newest(lambda unit_id: unit_id == clip_id)
    clip = next((row for entry in made for row in entry.outputs if isinstance(row, Clip)), None)
    if clip is not None and int(person) >= clip.n_people:
        raise ConfigError(f"{clip_id} has no person {person}: its people are 0 to {clip.n_people - 1}")


def _channel(name: str, known: Videos) -> list[Tombstone]:
    if not name:
        raise ConfigError("channel: wants a name, as in channel:UC123: column channel_id of the dataset has it")
    of_channel = known.of_channel(name)
    # Of a channel that was given by its id the name is not barred: others may have the same.
    names = {name}.union(*(k.channel_ids for k in of_channel))
    stones = [Tombstone("channel", digest("channel", alias)) for alias in sorted(names)]
    return stones + [stone for video in known.with_copies(of_channel) for stone in _video(video)]


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
