"""Tombstones: hashes of what was taken down, so that nothing fetches, builds, exports or loads it again.

A tombstone says neither address nor title: only who knows the name can ask whether it is barred. It bars a source, a
video (by id or by the file's bytes), a channel, or a span of a video's timeline: a clip that was taken down stays away
in whatever cut a later selection would make.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from manifests.rows import Candidate, Clip, Source, Video
from mit_builder.errors import ConfigError, LeaseLost
from mit_builder.storage.workspace import Workspace

KEY = "manifests/tombstones.json"
"""In the workspace."""
BESIDE_DATASET = "tombstones.json"
"""The same in the dataset's folder and in manifests, for loaders and rebuilds."""
REMOVED = "removed"
"""Status and reason of what is barred."""

Kind = Literal["source", "video", "content", "channel", "span"]
CLIP_ID = re.compile(r"([0-9a-f]{16})_(\d{6,})to(\d{6,})")
_NAME = re.compile(r"(?<![0-9a-f])[0-9a-f]{16}(?![0-9a-f])(_\d{6,}to\d{6,})?")
"""Ids of sources and videos, and names of clips."""
_OF_SHOTS = ("manifests/shots/", "manifests/filter.detect/", "manifests/filter.select/", "tracks/", "videos/")
"""Where a name like a clip's is that of a shot or a run: it goes with its video, not with a span of it."""


@dataclass(frozen=True)
class Tombstone:
    """One bar.

    Attributes:
        kind: what was hashed: source_id, video_id (also of a span), sha256 of a video's file, a channel's name or id.
        digest: sha256 of kind and name.
        start_frame: of a span, on the video's timeline.
        end_frame: frame after the last.
        pending: whether what it bars may still lie in the workspace.
    """

    kind: Kind
    digest: str
    start_frame: int | None = None
    end_frame: int | None = None
    pending: bool = False


@lru_cache(maxsize=1 << 16)
def digest(kind: Kind, name: str) -> str:
    """What a tombstone keeps of a name."""
    return hashlib.sha256(f"mit-builder tombstone\0{'video' if kind == 'span' else kind}\0{name}".encode()).hexdigest()


def clip_span(clip_id: str) -> tuple[str, int, int] | None:
    """Video, first frame and frame after the last of a clip's name; None where it is none."""
    found = CLIP_ID.fullmatch(clip_id)
    return (found[1], int(found[2]), int(found[3])) if found else None


class Tombstones:
    """A set of tombstones, asked by name."""

    def __init__(self, stones: Iterable[Tombstone] = ()) -> None:
        self.stones = tuple(dict.fromkeys(stones))
        self._digests = {(stone.kind, stone.digest) for stone in self.stones}
        self._spans: dict[str, list[tuple[int, int]]] = {}
        for stone in self.stones:
            if stone.kind == "span" and stone.start_frame is not None and stone.end_frame is not None:
                self._spans.setdefault(stone.digest, []).append((stone.start_frame, stone.end_frame))

    @classmethod
    def of(cls, workspace: Workspace) -> Tombstones:
        """The tombstones of a workspace.

        Raises:
            ConfigError: the file is damaged: what was taken down would come back.
        """
        try:
            return cls.parse(workspace.read(KEY), KEY)
        except FileNotFoundError:
            return cls()

    @classmethod
    def at(cls, path: Path) -> Tombstones:
        """The tombstones in a file; none where there is no file.

        Raises:
            ConfigError: it is damaged.
        """
        return cls.parse(path.read_bytes(), str(path)) if path.exists() else cls()

    @classmethod
    def parse(cls, data: bytes, where: str) -> Tombstones:
        """The inverse of `dump`.

        Raises:
            ConfigError: it cannot be read.
        """
        try:
            return cls(Tombstone(**values) for values in json.loads(data))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{where} is damaged: without it what was taken down would come back") from error

    def dump(self, *, published: bool = False) -> bytes:
        """The tombstones as text; `published`: without what only the workspace needs."""
        rows = [asdict(stone) | ({"pending": False} if published else {}) for stone in self.stones]
        return (json.dumps(rows, indent=1) + "\n").encode()

    def __bool__(self) -> bool:
        return bool(self.stones)

    def __add__(self, other: Tombstones) -> Tombstones:
        return Tombstones((*self.stones, *other.stones))

    @property
    def is_pending(self) -> bool:
        """Whether a takedown was begun and not finished."""
        return any(stone.pending for stone in self.stones)

    def bars(self, kind: Kind, name: str | None) -> bool:
        """Whether a name is barred."""
        return bool(name) and (kind, digest(kind, str(name))) in self._digests

    def bars_video(
        self, video_id: str | None, *, sha256: str | None = None, channels: Iterable[str | None] = ()
    ) -> bool:
        """Whether a video may not be here, by its id, its bytes or its channel."""
        return (
            self.bars("video", video_id)
            or self.bars("content", sha256)
            or any(self.bars("channel", name) for name in channels)
        )

    def bars_span(self, video_id: str, start_frame: int, end_frame: int) -> bool:
        """Whether a stretch of a video is barred: the whole video, or a span that shares a frame with it."""
        if self.bars("video", video_id):
            return True
        spans = self._spans.get(digest("span", video_id), ()) if self._spans else ()
        return any(start < end_frame and start_frame < end for start, end in spans)

    def bars_clip(self, clip_id: str) -> bool:
        """Whether a clip is barred, by its name."""
        span = clip_span(clip_id)
        return span is not None and self.bars_span(*span)

    def bars_name_in(self, text: str, place: str = "") -> bool:
        """Whether a text names something barred.

        Args:
            text: the name of a file, or what stands in one.
            place: key of the object that it stands in or is the name of.
        """
        of_shots = place.startswith(_OF_SHOTS)
        for found in _NAME.finditer(text):
            name = found[0]
            if self.bars("video", name[:16]) or self.bars("source", name[:16]):
                return True
            if found[1] and not of_shots and self.bars_clip(name):
                return True
        return False

    def bars_row(self, row: Mapping[str, Any]) -> bool:
        """Whether a dataset's row is barred, by as many of its columns as it has."""
        return self.bars_clip(row["clip_id"]) or any(
            self.bars("channel", row.get(name)) for name in ("channel_id", "uploader")
        )

    def bars_output(self, row: Any) -> bool:
        """Whether a row that a stage makes is barred."""
        if isinstance(row, Source):
            return self.bars("source", row.source_id)
        if isinstance(row, Video):
            channels = (row.channel_id, row.uploader)
            barred = self.bars_video(row.video_id, sha256=row.media.sha256, channels=channels)
            return barred or self.bars("source", row.source_id)
        if isinstance(row, Candidate | Clip):
            return self.bars_span(row.video_id, row.start_frame, row.end_frame)
        video_id, clip_id = getattr(row, "video_id", None), getattr(row, "clip_id", None)
        return self.bars("video", video_id) or (clip_id is not None and self.bars_clip(clip_id))

    def bars_any(self, rows: Iterable[Any]) -> bool:
        """Whether one of some stage rows is barred."""
        return bool(self) and any(map(self.bars_output, rows))

    def allowed(self, outputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """What a stage made, without what is barred."""
        return tuple(row for row in outputs if not self.bars_output(row)) if self else outputs


def check_unchanged(workspace: Workspace, known: Tombstones) -> None:
    """Look whether something was taken down since somebody looked; whoever publishes asks first.

    Raises:
        LeaseLost: it was, which nobody can do who does not hold the workspace.
    """
    before = {replace(stone, pending=False) for stone in known.stones}
    if not before.issuperset(replace(stone, pending=False) for stone in Tombstones.of(workspace).stones):
        raise LeaseLost("something was taken down here meanwhile: start again to go on without it")


def withdraw(workspace: Workspace, keys: Sequence[str], rows: Iterable[Any] = ()) -> bool:
    """Delete what was just committed where it is of something that was taken down meanwhile; whether it was.

    A takedown writes its tombstones first and then looks for files. So whoever commits without the lease and then looks
    for tombstones leaves nothing behind, whichever of the two comes first.

    Args:
        workspace: where they were committed.
        keys: of the files.
        rows: what they were made from or belong to: where one is barred all files go.
    """
    stones = Tombstones.of(workspace) if keys else Tombstones()
    barred = keys if stones.bars_any(rows) else [key for key in keys if stones.bars_name_in(Path(key).name, key)]
    workspace.delete(list(barred))
    return bool(barred)
