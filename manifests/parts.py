"""The parts of a stage's ledger: which there are, which are whole, and where in them the row of a unit lies.

Of every part only two columns are read at first, and of these numbers are kept: 24 bytes a row. The rows themselves
are read a row group at a time, when somebody asks for one, and kept up to a bound. So a ledger of ten million rows can
be asked about a few of them.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.ids import id_of, ids_of
from manifests.schema import artifact_columns, texts_below

KEEP_BYTES = 256 << 20
"""Rows that were read, and bytes of parts, that are kept in memory for the next question (each)."""
ROW_GROUP_ROWS = 8192
"""Rows that are read together; 1.5 MB for the widest stage (measured on rows of filter.cut)."""

_DIGEST = re.compile(r"\.([0-9a-f]{16})\.parquet$")

Array = np.ndarray[Any, Any]


class Storage(Protocol):
    """What the ledger needs of a workspace."""

    def names(self, folder: str) -> set[str]: ...
    def read(self, key: str) -> bytes: ...
    def write(self, key: str, data: bytes) -> None: ...
    def delete(self, keys: list[str]) -> None: ...


def open_parquet(data: bytes) -> pq.ParquetFile:
    """A Parquet file in memory, to be read by this thread alone.

    Arrow's read-ahead threads may let go of Python's buffer while the interpreter shuts down, which aborts the process.
    """
    return pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)


def read_parquet(data: bytes) -> pa.Table:
    """All of a Parquet file from memory."""
    return open_parquet(data).read(use_threads=False)


def digest(data: bytes) -> str:
    """What a part's name ends in."""
    return hashlib.sha256(data).hexdigest()[:16]


def is_whole(key: str, data: bytes) -> bool:
    """Whether a part's bytes are those that its name promises; names of an early version promise nothing."""
    promised = _DIGEST.search(key)
    return promised is None or promised[1] == digest(data)


class _Recent:
    """The values that were asked for last, up to `KEEP_BYTES` of them and one more."""

    def __init__(self) -> None:
        self._values: OrderedDict[Any, tuple[Any, int]] = OrderedDict()
        self._n_bytes = 0

    def get(self, key: Any) -> Any:
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def put(self, key: Any, value: Any, n_bytes: int) -> None:
        self._values[key] = (value, n_bytes)
        self._n_bytes += n_bytes
        while self._n_bytes > KEEP_BYTES and len(self._values) > 1:
            _, (_, freed) = self._values.popitem(last=False)
            self._n_bytes -= freed


def _offsets(n_rows: Iterable[int]) -> Array:
    """Numbers of the rows at which row groups begin, and at which the last ends."""
    return np.concatenate([[0], np.cumsum(list(n_rows), dtype=np.int64)])


@dataclass
class Parts:
    """Parts as they were when this was made, and those that were added to it.

    Attributes:
        keys: those that are whole.
        damaged: those that are not.
        n_rows: rows of each whole part.
        seqs: (n,) int64, sequence number of every row, part after part.
    """

    storage: Storage
    schema: pa.Schema
    plain: Sequence[str]
    keys: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    n_rows: list[int] = field(default_factory=list)

    def load(self, keys: Sequence[str], trusted: Collection[str] = ()) -> None:
        """Look into parts.

        Args:
            keys: names of the parts.
            trusted: parts whose bytes are known to be those that their names promise.

        Raises:
            FileNotFoundError: a part has gone.
        """
        self._bytes, self._starts = _Recent(), list[Array]()
        found, seqs = [], []
        for key in keys:
            columns = self._look(key, key in trusted)
            if columns is None:
                self.damaged.append(key)
                continue
            self.keys.append(key)
            self.n_rows.append(len(columns[1]))
            found.append(columns[0])
            seqs.append(columns[1])
        self._index(np.concatenate([np.empty(0, np.uint64), *found]), np.concatenate([np.empty(0, np.int64), *seqs]))

    def _index(self, hashed: Array, seqs: Array) -> None:
        self.seqs, self._groups = seqs, _Recent()
        self._order = np.argsort(hashed, kind="stable")
        self._hashed = hashed[self._order]
        self._ends = np.cumsum(self.n_rows, dtype=np.int64)

    def _look(self, key: str, trusted: bool) -> tuple[Array, Array] | None:
        data = self.storage.read(key)
        try:
            if not (trusted or is_whole(key, data)):
                return None
            file = open_parquet(data)
            if _DIGEST.search(key) is None:  # a part of a version that gave no digests: it is read to know
                file.read(use_threads=False)
            names = [name for name in ("input_key", "seq") if name in file.schema_arrow.names]
            table = file.read(columns=names, use_threads=False)
        except (pa.ArrowException, OSError):
            return None
        self._bytes.put(key, data, len(data))
        self._starts.append(_offsets(file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)))
        n = table.num_rows
        same = "input_key" in names and self._is_current(file)
        seqs = table["seq"].to_numpy() if "seq" in names else np.arange(n)
        return (ids_of(table["input_key"]) if same else np.zeros(n, np.uint64)), seqs.astype(np.int64)

    def add(self, key: str, tables: Sequence[pa.Table]) -> None:
        """Take in a part that was just written, table by table: where its rows lie, not the rows."""
        first, n = len(self.seqs), sum(table.num_rows for table in tables)
        hashed = np.concatenate([ids_of(table["input_key"]) for table in tables])
        order = np.argsort(hashed, kind="stable")
        places = np.searchsorted(self._hashed, hashed[order], "right")
        self._hashed = np.insert(self._hashed, places, hashed[order])
        self._order = np.insert(self._order, places, first + order)
        self.seqs = np.concatenate([self.seqs, *(table["seq"].to_numpy() for table in tables)])
        self.keys.append(key)
        self.n_rows.append(n)
        self._ends = np.append(self._ends, first + n)
        groups = (min(ROW_GROUP_ROWS, t.num_rows - at) for t in tables for at in range(0, t.num_rows, ROW_GROUP_ROWS))
        self._starts.append(_offsets(groups))

    def without(self, keys: Collection[str]) -> Parts:
        """The other parts; nothing is read for it."""
        stay = [key not in keys for key in self.keys]
        rows = np.repeat(np.array(stay, bool), self.n_rows)
        hashed = np.empty_like(self._hashed)
        hashed[self._order] = self._hashed
        kept = list(itertools.compress(self.keys, stay))
        other = Parts(self.storage, self.schema, self.plain, kept, self.damaged)
        other.n_rows = list(itertools.compress(self.n_rows, stay))
        other._bytes, other._starts = _Recent(), list(itertools.compress(self._starts, stay))
        other._index(hashed[rows], self.seqs[rows])
        return other

    def _is_current(self, file: pq.ParquetFile) -> bool:
        return bool(file.schema_arrow.remove_metadata().equals(self.schema.remove_metadata()))

    def candidates(self, input_key: str) -> Iterator[int]:
        """Rows whose input key may be this one, the latest first."""
        wanted = np.uint64(id_of(input_key))
        low, high = np.searchsorted(self._hashed, wanted, "left"), np.searchsorted(self._hashed, wanted, "right")
        rows = self._order[low:high]
        yield from (int(row) for row in rows[np.argsort(-self.seqs[rows], kind="stable")])

    def record(self, row: int) -> dict[str, Any]:
        """One row as plain values."""
        part = int(np.searchsorted(self._ends, row, "right"))
        inside = row - (int(self._ends[part - 1]) if part else 0)
        starts = self._starts[part]
        group = int(np.searchsorted(starts, inside, "right")) - 1
        table = self._groups.get((part, group))
        if table is None:
            table = self._current(self._file(self.keys[part]).read_row_group(group, use_threads=False))
            self._groups.put((part, group), table, table.nbytes)
        record: dict[str, Any] = table.slice(inside - int(starts[group]), 1).to_pylist()[0]
        return record

    def _file(self, key: str) -> pq.ParquetFile:
        # Not the open file: its metadata are several times as large as a part of some hundred rows.
        data = self._bytes.get(key)
        if data is None:
            data = self.storage.read(key)
            self._bytes.put(key, data, len(data))
        return open_parquet(data)

    def names(self) -> pa.Table:
        """unit_id and input_key of every row, in the order of the rows."""
        columns = ["unit_id", "input_key"]
        tables = [self.schema.empty_table().select(columns)]
        for key in self.keys:
            file = self._file(key)
            found = file.read(columns=[c for c in columns if c in file.schema_arrow.names], use_threads=False)
            if not self._is_current(file):
                found = pa.table([found["unit_id"], pa.nulls(found.num_rows, pa.string())], columns)
            tables.append(found.cast(tables[0].schema))
        return pa.concat_tables(tables)

    def columns(self, names: list[str]) -> pa.Table:
        """Plain columns of every row, null where a part of another version has them not."""
        tables = [self.schema.empty_table().select(names)]
        for key in self.keys:
            file = self._file(key)
            found = file.read(columns=[n for n in names if n in file.schema_arrow.names], use_threads=False)
            missing = {n: pa.nulls(found.num_rows, self.schema.field(n).type) for n in names}
            whole = {n: found[n] if n in found.column_names else missing[n] for n in names}
            tables.append(pa.table(whole).cast(tables[0].schema))
        return pa.concat_tables(tables)

    def artifact_keys(self, rows: Array) -> Iterator[pa.Array]:
        """Keys of the artifacts that rows name, read a column at a time.

        Args:
            rows: ascending.
        """
        columns, start = artifact_columns(self.schema), 0
        for key, n in zip(self.keys, self.n_rows, strict=True):
            mine = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + n)] - start
            start += n
            file = self._file(key)
            if not (columns and len(mine) and self._is_current(file)):
                continue
            table = file.read(columns=columns, use_threads=False).take(pa.array(mine))
            for chunk in (chunk for column in table.columns for chunk in column.chunks):
                yield from texts_below(chunk)

    def tables(self, key: str) -> Iterator[pa.Table]:
        """The row groups of a part, as rows of today."""
        file = self._file(key)
        for group in range(file.metadata.num_row_groups):
            yield self._current(file.read_row_group(group, use_threads=False))

    def _current(self, table: pa.Table) -> pa.Table:
        if table.schema.remove_metadata().equals(self.schema.remove_metadata()):
            return table.cast(self.schema)
        # Written by a version with other rows: the history stays readable, the units are due again.
        columns = []
        for column in self.schema:
            known = column.name in self.plain and column.name in table.schema.names and column.name != "input_key"
            columns.append(table[column.name] if known else pa.nulls(table.num_rows, column.type))
        return pa.Table.from_arrays(columns, schema=self.schema)
