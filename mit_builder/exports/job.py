"""What an export reads: the clips of a workspace's dataset that may leave it, one at a time, as streams of rows."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.rows import TIMELINE_FPS
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.dataset.index import Index, dataset_schema
from mit_builder.dataset.plugged import plugged_fields
from mit_builder.dataset.reader import DatasetFiles, row_values
from mit_builder.errors import ConfigError, MediaError
from mit_builder.exports.encoder import AudioEncoder
from mit_builder.storage.scratch import sha256_of
from mit_builder.storage.tombstones import Tombstones
from mit_builder.storage.workspace import Workspace

Media = Literal["clip", "audio"]
MEDIA: tuple[Media, ...] = ("clip", "audio")
"""Columns that hold footage."""
NO_FOOTAGE = "authenticated"
"""`access` of footage that was fetched with a login: it never leaves."""
_LIGHT = ("clip_id", "video_id", "channel_id", "uploader", "access", "licence", "n_frames")


@dataclass(frozen=True)
class ExportedClip:
    """One clip of the dataset.

    Attributes:
        table: its row, as it stands in the shard; without the media columns where footage was not asked for.
        files: of the dataset, with the media that is not embedded.
        sha256: digests of such media, by name.
    """

    table: pa.Table
    files: DatasetFiles
    sha256: Mapping[str, str]

    @cached_property
    def values(self) -> dict[str, Any]:
        """The row: lists as arrays, `people` as a list of dicts of arrays; media columns as they are."""
        return row_values(self.table.to_batches()[0], 0)

    @property
    def clip_id(self) -> str:
        return str(self.table["clip_id"][0])

    @property
    def split(self) -> str:
        return str(self.table["split"][0])

    def media(self, column: Media) -> bytes:
        """The MP4 or the FLAC.

        Raises:
            MediaError: it is neither in the row nor beside the dataset.
            ConfigError: it is damaged.
        """
        cell = self.table[column][0].as_py()
        if cell["bytes"] is not None:
            return bytes(cell["bytes"])
        try:
            data = self.files.read_beside_shards(cell["path"])
            _check(cell["path"], hashlib.sha256(data).hexdigest(), self.sha256.get(cell["path"]))
            return data
        except FileNotFoundError as error:
            raise MediaError(
                f"{self.clip_id}: {cell['path']} is missing: {hints.say(Hint.LABEL)} writes it anew"
            ) from error


@dataclass(frozen=True)
class Plan:
    """Which clips leave.

    Attributes:
        clip_ids: in the order of the dataset.
        n_withheld: clips left out because a login was needed for their footage.
        hours: of the clips.
        licences: clips and hours by licence as the sources state it.
    """

    clip_ids: tuple[str, ...]
    n_withheld: int
    hours: float
    licences: Mapping[str, tuple[int, float]]


@dataclass
class Job:
    """One export that is being made.

    Attributes:
        workspace: with the dataset.
        folder: an empty folder to write into.
        with_media: whether footage goes along.
        encoder: makes audio embeddings; None where there is none.
        only: names of the clips that may leave; None for all.
        notes: lines for the user, filled by the format's writer.
    """

    workspace: Workspace
    folder: Path
    with_media: bool
    encoder: AudioEncoder | None = None
    only: Collection[str] | None = None
    notes: list[str] = field(default_factory=list)
    _whole: set[str] = field(default_factory=set)
    """Shards whose digest was compared."""

    @cached_property
    def files(self) -> DatasetFiles:
        """The dataset's files.

        Raises:
            ConfigError: there is no dataset.
        """
        return DatasetFiles(self.workspace)

    @cached_property
    def index(self) -> Index:
        """The dataset's index.

        Raises:
            ConfigError: there is no dataset, or its index is damaged.
        """
        return self.files.index()

    @cached_property
    def tombstones(self) -> Tombstones:
        """What may not leave, as it was when somebody first asked."""
        return Tombstones.of(self.workspace)

    @cached_property
    def plan(self) -> Plan:
        """Which clips leave, from the small columns alone."""
        stones = self.tombstones
        clip_ids: list[str] = []
        n_withheld, frames, by_licence = 0, 0, Counter[str]()
        n_by_licence: Counter[str] = Counter()
        for row in (row_values(batch, i) for batch in self._batches(_LIGHT, 256) for i in range(batch.num_rows)):
            if (self.only is not None and row["clip_id"] not in self.only) or stones.bars_row(row):
                continue
            if row["access"] == NO_FOOTAGE:
                n_withheld += 1
                continue
            clip_ids.append(row["clip_id"])
            frames += row["n_frames"]
            by_licence[row["licence"] or "not stated"] += row["n_frames"]
            n_by_licence[row["licence"] or "not stated"] += 1
        mix = {name: (n_by_licence[name], _hours(n)) for name, n in sorted(by_licence.items())}
        return Plan(tuple(clip_ids), n_withheld, _hours(frames), mix)

    def clips(self, *, media: bool) -> Iterator[ExportedClip]:
        """The planned clips, one held at a time; `media` reads the columns with footage as well."""
        planned = set(self.plan.clip_ids)
        sha256 = {n: digest for s in self.index.shards for n, digest in zip(s.media, s.media_sha256, strict=False)}
        for table in self._tables(None if media else self.columns(media=False), planned):
            yield ExportedClip(table, self.files, sha256)

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The planned clips' values in some columns (Parquet paths), `clip_id` among them."""
        planned = set(self.plan.clip_ids)
        for table in self._tables(["clip_id", *columns], planned):
            yield row_values(table.to_batches()[0], 0)

    @cached_property
    def schema(self) -> pa.Schema:
        """The dataset's schema, with the columns of other packages' stages that its first shard has."""
        for shard in self.index.shards:
            with self.files.local(shard.name) as path:
                return dataset_schema(plugged_fields(pq.read_schema(path)))
        return dataset_schema()

    def columns(self, *, media: bool) -> list[str]:
        """Names of the dataset's columns."""
        return [name for name in self.schema.names if media or name not in MEDIA]

    def _tables(self, columns: Sequence[str] | None, planned: set[str]) -> Iterator[pa.Table]:
        for batch in self._batches(columns, 1):
            if batch.column("clip_id")[0].as_py() in planned:
                yield pa.Table.from_batches([batch])

    def _batches(self, columns: Sequence[str] | None, n_rows: int) -> Iterator[pa.RecordBatch]:
        for shard in self.index.shards:
            with ExitStack() as stack:
                try:
                    path = stack.enter_context(self.files.local(shard.name))
                except FileNotFoundError as error:
                    message = f"{shard.name} is gone: a run or takedown wrote the dataset anew meanwhile; export again"
                    raise ConfigError(message) from error
                if shard.name not in self._whole:
                    _check(shard.name, sha256_of(path), shard.sha256)
                    self._whole.add(shard.name)
                file = stack.enter_context(pq.ParquetFile(path))
                yield from file.iter_batches(batch_size=n_rows, columns=columns, use_threads=False)


def _check(name: str, found: str, promised: str | None) -> None:
    if promised not in (None, found):
        raise ConfigError(f"{name} is damaged: {hints.say(Hint.VERIFY)} makes it again; then export")


def _hours(n_frames: int) -> float:
    return n_frames / TIMELINE_FPS / 3600
