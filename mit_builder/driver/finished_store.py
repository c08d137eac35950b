"""The files of the index of finished sources: parts in `manifests/settled`, and a head that says when they count.

Parts only grow in number: a row counts when it is the last of its source and plan, and no later row says that it is
gone. The files that trees name lie in parts of their own, which are read only where folders have changed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.ids import id_of
from manifests.parts import digest, is_whole, open_parquet
from manifests.rows import Source
from mit_builder.driver.counts import Count
from mit_builder.storage.workspace import Workspace

FOLDER = "manifests/settled"
HEAD_KEY = f"{FOLDER}/head.json"
TRIES = 5
"""So often somebody looks for parts that go while a run merges them."""
MERGE_ABOVE_PARTS, PART_ROWS = 32, 1 << 17
"""More parts than this, of fewer rows than that, are written as one."""

COUNT = pa.struct(
    [
        pa.field("what", pa.string()),
        pa.field("n", pa.int64()),
        pa.field("seconds", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
    ]
)
ROWS = pa.schema(
    [
        pa.field("seq", pa.int64()),
        pa.field("source", pa.uint64()),
        pa.field("plan", pa.uint64()),
        pa.field("gone", pa.bool_()),
        pa.field("video", pa.uint64()),
        pa.field("media", pa.uint64()),
        pa.field("keeper", pa.uint64()),
        pa.field("n_group", pa.int32()),
        pa.field("bucket", pa.int32()),
        pa.field("digest", pa.uint64()),
        pa.field("failed", pa.string()),
        pa.field("source_id", pa.string()),
        pa.field("address", pa.string()),
        pa.field("kind", pa.string()),
        pa.field("counts", pa.list_(COUNT)),
    ]
)
NUMBERS = ROWS.names[:10]
"""Columns that planning reads of every row."""
FILES = pa.schema(
    [
        pa.field("seq", pa.int64()),
        pa.field("artifacts", pa.list_(pa.string())),
        pa.field("n_bytes", pa.list_(pa.int64())),
        pa.field("ended_s", pa.list_(pa.float64())),
    ]
)

Array = np.ndarray[Any, Any]


class File(NamedTuple):
    """A file that a tree names: its size, and when the unit that made it had ended (seconds since 1970)."""

    key: str
    n_bytes: int
    ended_s: float


class Published(NamedTuple):
    """A shard of the dataset: the sum of the digests of the clips in it modulo 2^64, and its file."""

    total: int
    file: File


@dataclass(frozen=True)
class Row:
    """One settled source.

    Attributes:
        video: id of its video as a number, 0 = it has none; `media` likewise the video's bytes.
        keeper: the source, of those with this video, that keeps it; `n_group` is how many have it.
        bucket: the shard with its clips; -1 = none.
        digest: sum modulo 2^64 of the digests of its clips in the dataset.
        failed: classes of the failures in its tree.
        gone: nothing of this; what was written about the source before no longer holds.
    """

    source: Source
    video: int = 0
    media: int = 0
    keeper: int = 0
    n_group: int = 1
    bucket: int = -1
    digest: int = 0
    failed: tuple[str, ...] = ()
    counts: tuple[Count, ...] = ()
    artifacts: tuple[File, ...] = ()
    gone: bool = False


@dataclass
class Head:
    """What the rows rest on, as it was when they were last written."""

    plan: int = 0
    parts: dict[str, str] = field(default_factory=dict)
    """Parts of all ledgers and of the rows, with their stamps."""
    folders: dict[str, int | None] = field(default_factory=dict)
    """When artifacts last came and went."""
    buckets: dict[int, Published] = field(default_factory=dict)
    """The shards of the dataset by number."""
    index: str = ""
    """Digest of the dataset's index."""

    def dump(self) -> bytes:
        """The head as JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def load(cls, data: bytes) -> Head | None:
        """The inverse; None where it is no head."""
        try:
            values = json.loads(data)
            shards = values["buckets"].items()
            buckets = {
                int(b): Published(int(total), File(str(k), int(n), float(s))) for b, (total, (k, n, s)) in shards
            }
            plain = int(values["plan"]), dict(values["parts"]), dict(values["folders"])
            return cls(*plain, buckets, str(values["index"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


def tables_of(rows: Sequence[Row], plan: int, first_seq: int) -> tuple[pa.Table, pa.Table]:
    """Rows as tables of `ROWS` and `FILES`."""
    plain = ("video", "media", "keeper", "n_group", "bucket", "digest", "gone")
    values = [
        {
            **{name: getattr(row, name) for name in plain},
            "seq": first_seq + i,
            "source": id_of(row.source.source_id),
            "plan": plan,
            "failed": ",".join(row.failed),
            **asdict(row.source),
            "counts": [asdict(count) for count in row.counts],
        }
        for i, row in enumerate(rows)
    ]
    files = [
        {"seq": first_seq + i, **dict(zip(FILES.names[1:], zip(*row.artifacts, strict=True), strict=True))}
        for i, row in enumerate(rows)
        if row.artifacts
    ]
    return pa.Table.from_pylist(values, ROWS), pa.Table.from_pylist(files, FILES)


class Store:
    """The parts and the head in a workspace.

    Args:
        ledgers: folders of the ledgers.

    Attributes:
        head: as it was read; an empty one where the rows cannot be trusted, and then there are no rows either.
    """

    def __init__(self, workspace: Workspace, ledgers: Collection[str]) -> None:
        self._workspace = workspace
        self._folders = [*ledgers, FOLDER]
        self.head = Head()
        self._rows: dict[str, pq.ParquetFile] = {}
        self._files: dict[str, pq.ParquetFile] = {}
        self._untrusted: list[str] = []
        """Parts that do not count any more; they go before anything is written beside them."""
        if not self._open():
            self._rows, self._files = {}, {}
            self._untrusted = [key for key in workspace.names(f"{FOLDER}/") if key.endswith(".parquet")]

    def _open(self) -> bool:
        """Read the head and all parts, again where a run merges parts meanwhile; whether they can be trusted."""
        data = self._head_data()
        for _ in range(TRIES):
            self._rows, self._files = {}, {}
            head, before = Head.load(data), data
            with suppress(FileNotFoundError):
                if head is not None and self._is_true(head) and self._open_parts():
                    self.head = head
                    return True
                data = self._head_data()
                if data == before:
                    return False
            data = self._head_data()
        return False

    def stamps(self) -> dict[str, str]:
        """Every part of the ledgers and of the rows, with what changes when its bytes do."""
        found: dict[str, str] = {}
        for folder in self._folders:
            found |= self._workspace.stamps(f"{folder}/")
        return {key: stamp for key, stamp in found.items() if key.endswith(".parquet")}

    def _head_data(self) -> bytes:
        try:
            return self._workspace.read(HEAD_KEY)
        except FileNotFoundError:
            return b""

    def _is_true(self, head: Head) -> bool:
        """Whether all that a head names is there as it was."""
        now = self.stamps()
        return all(key in now and (now[key] == stamp or self._is_whole(key)) for key, stamp in head.parts.items())

    def _is_whole(self, key: str) -> bool:
        return is_whole(key, self._workspace.read(key))

    def _open_parts(self) -> bool:
        for key in sorted(self._workspace.names(f"{FOLDER}/")):
            if not key.endswith(".parquet"):
                continue
            data = self._workspace.read(key)
            if not is_whole(key, data):
                return False
            (self._rows if "/rows-" in key else self._files)[key] = open_parquet(data)
        return True

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of all rows."""
        found = [file.read(columns=[name], use_threads=False)[name] for file in self._rows.values()]
        return pa.chunked_array([c for column in found for c in column.chunks], ROWS.field(name).type)

    def some(self, names: list[str], seqs: Array) -> Iterator[pa.Table]:
        """Columns of the rows with these sequence numbers, those of a row group at a time, wherever they lie by now."""
        wanted = np.sort(seqs)
        for file in self._rows.values():
            for group in range(file.metadata.num_row_groups):
                there = file.read_row_group(group, columns=["seq"], use_threads=False)["seq"].to_numpy()
                here = np.searchsorted(wanted, there, "left") < np.searchsorted(wanted, there, "right")
                if here.any():
                    yield file.read_row_group(group, columns=names, use_threads=False).filter(pa.array(here))

    def artifacts(self) -> Iterator[pa.Table]:
        """Tables of `FILES`, a row group at a time."""
        for file in self._files.values():
            for group in range(file.metadata.num_row_groups):
                yield file.read_row_group(group, use_threads=False)

    @property
    def n_files(self) -> int:
        """How many files `artifacts` names."""
        groups = [f.metadata.row_group(i) for f in self._files.values() for i in range(f.metadata.num_row_groups)]
        return sum(group.column(1).num_values for group in groups)

    def write(self, rows: Sequence[Row], plan: int, first_seq: int) -> None:
        """Write rows as parts; small parts are written anew together with them."""
        self._drop_untrusted()
        made, files = tables_of(rows, plan, first_seq)
        self._write("files", files, self._files)
        self._write("rows", made, self._rows)

    def _drop_untrusted(self) -> None:
        self._workspace.delete(self._untrusted)
        self._untrusted = []

    def _write(self, kind: str, table: pa.Table, known: dict[str, pq.ParquetFile]) -> None:
        small = [key for key, file in known.items() if file.metadata.num_rows < PART_ROWS]
        small = small if len(small) >= MERGE_ABOVE_PARTS else []
        whole = pa.concat_tables([*(known[key].read(use_threads=False) for key in small), table]).combine_chunks()
        if not whole.num_rows:
            return
        buffer = io.BytesIO()
        pq.write_table(whole, buffer, compression="zstd", row_group_size=1 << 14)
        data = buffer.getvalue()
        key = f"{FOLDER}/{kind}-{int(whole['seq'][0].as_py()):010d}.{digest(data)}.parquet"
        self._workspace.write(key, data)
        known[key] = open_parquet(data)
        obsolete = [k for k in small if k != key]
        if obsolete:
            # The head must never name a part that is gone.
            stamps = self.stamps()
            parts = {k: s for k, s in self.head.parts.items() if k not in obsolete}
            self.write_head(replace(self.head, parts=parts | {key: stamps[key]}))
            self._workspace.delete(obsolete)
            for gone in obsolete:
                del known[gone]

    def settle(self, head: Head) -> None:
        """Write the head, resting on all parts that there are."""
        self._drop_untrusted()
        self.write_head(replace(head, parts=self.stamps()))

    def write_head(self, head: Head) -> None:
        """Write the head where it has changed."""
        if head != self.head:
            self._drop_untrusted()
            self._workspace.write(HEAD_KEY, head.dump())
            self.head = head
