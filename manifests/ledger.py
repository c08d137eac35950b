"""The ledger: what happened to every unit of every stage.

One folder a stage (`manifests/<stage>/part-<run>-<seq>.<digest>.parquet`), one row a finished unit, appended by the
driver only. A unit is settled when a `done` or `rejected` row has its id **and** its input key, so a setting that is
moved and moved back finds its old work. Of several rows with one id and key, the latest (`seq`) counts.

A part's name ends in a digest of its bytes. One that does not fit, or cannot be read, holds nothing: its units are due.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.parts import ROW_GROUP_ROWS, Parts, Storage, digest
from manifests.schema import arrow_schema, from_dict, to_dict

Status = Literal["done", "rejected", "failed"]

DAMAGED = "damaged"
"""Folder of a workspace for parts that were set aside."""
COMPACT_ABOVE_PARTS = 200
"""More small parts of one stage than this are merged."""
PART_ROWS = 1 << 17
"""Rows from which on a part is no small one (of the widest stage, filter.cut: about 80 MB)."""
MERGE_TABLES = 16
"""Small tables that are held at once while merging: each costs tens of KB besides its rows."""

Found = TypeVar("Found")


@dataclass(frozen=True)
class Entry:
    """One row of the ledger: a unit that was worked on."""

    unit_id: str
    input_key: str
    status: Status
    outputs: tuple[Any, ...] = ()
    failure_class: str | None = None
    reason: str | None = None
    message: str | None = None
    traceback: str | None = None
    measurements: str | None = None
    attempts: int = 1
    settings_key: str = ""
    started_at_s: float = 0.0
    duration_s: float = 0.0
    cpu_s: float = 0.0
    run_id: str = ""
    seq: int = 0
    retry_after_s: float | None = None
    """Pause that a host asked for; from the worker to the driver, not written down."""
    damaged: Mapping[str, str] = field(default_factory=dict)
    """Artifacts that could not be read, by key what is wrong with them; likewise not written down."""


_PLAIN = pa.schema(
    [
        pa.field("unit_id", pa.string()),
        pa.field("input_key", pa.string()),
        pa.field("status", pa.string()),
        pa.field("failure_class", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("message", pa.string()),
        pa.field("traceback", pa.string()),
        pa.field("measurements", pa.string()),
        pa.field("attempts", pa.int32()),
        pa.field("settings_key", pa.string()),
        pa.field("started_at_s", pa.float64()),
        pa.field("duration_s", pa.float64()),
        pa.field("cpu_s", pa.float64()),
        pa.field("run_id", pa.string()),
        pa.field("seq", pa.int64()),
    ]
)


def _any(unit_id: str) -> bool:
    return True


class Ledger:
    """The rows of one stage.

    Args:
        storage: the workspace.
        stage: name of the stage, also of the folder.
        emits: row classes that the stage's units put out; each has a column `out_<class>`.

    Attributes:
        folder: where the parts are.
        trusted: parts that somebody has seen whole before, and whose files have not changed since.
    """

    def __init__(self, storage: Storage, stage: str, emits: Sequence[type]) -> None:
        self._storage = storage
        self.stage = stage
        self._emits = {f"out_{row.__name__.lower()}": row for row in emits}
        self.schema = pa.schema(
            [*_PLAIN, *(pa.field(name, pa.list_(pa.struct(list(arrow_schema(c))))) for name, c in self._emits.items())]
        )
        self.folder = f"manifests/{stage}"
        self.trusted: frozenset[str] = frozenset()
        self._loaded: Parts | None = None
        self._next_seq = 0

    def _keys(self) -> list[str]:
        return sorted(key for key in self._storage.names(self.folder) if key.endswith(".parquet"))

    def _parts(self) -> Parts:
        """What storage held when somebody first asked, and what was appended since."""
        keys = self._keys() if self._loaded is None else []
        while self._loaded is None:
            parts = Parts(self._storage, self.schema, _PLAIN.names)
            try:
                parts.load(keys, self.trusted)
            except FileNotFoundError:  # a run that starts may merge parts while somebody looks
                before, keys = keys, self._keys()
                if keys == before:
                    raise
                continue
            self._loaded = parts
            self._next_seq = max(self._next_seq, int(parts.seqs.max(initial=-1)) + 1)
        return self._loaded

    def _row(self, parts: Parts, row: int) -> Entry:
        record = parts.record(row)
        outputs: tuple[Any, ...] = ()
        for name, row_class in self._emits.items():
            outputs += tuple(from_dict(row_class, value) for value in record.pop(name) or ())
        return Entry(**record, outputs=outputs)

    def _again(self, ask: Callable[[], Found]) -> Found:
        """Ask, and once more where a run has merged the parts meanwhile."""
        try:
            return ask()
        except FileNotFoundError:
            self._loaded = None
            return ask()

    def find(self, unit_id: str, input_key: str) -> Entry | None:
        """The latest entry of a unit with just this input."""
        return self._again(lambda: self._find(unit_id, input_key))

    def _find(self, unit_id: str, input_key: str) -> Entry | None:
        parts = self._parts()
        entries = (self._row(parts, row) for row in parts.candidates(input_key))
        return next((e for e in entries if (e.unit_id, e.input_key) == (unit_id, input_key)), None)

    def latest(self, unit_id: str) -> Entry | None:
        """The latest entry of a unit, whatever its input was."""
        return next(self.newest(unit_id.__eq__), None)

    def attempts(self, names: list[str]) -> pa.Table:
        """Some of the plain columns of every attempt that was written, each once.

        Where the verdict of an attempt was written again (a duplicate, or one that is none any more), the first counts.
        """
        columns = list(dict.fromkeys(["unit_id", "started_at_s", "seq", *names]))
        table = self._again(lambda: self._parts().columns(columns)).sort_by("seq")
        rows = table.append_column("row", pa.array(np.arange(table.num_rows)))
        first = rows.group_by(["unit_id", "started_at_s"]).aggregate([("row", "min")])["row_min"]
        return table.select(names).take(np.sort(first.to_numpy()))

    def entries(self) -> Iterator[Entry]:
        """The latest entry of every unit and input."""
        yield from self._latest_of(["unit_id", "input_key"], _any)

    def artifact_keys(self) -> pa.Array:
        """Keys of all artifacts that `entries` name, without making rows of them; some twice, some null."""

        def ask() -> pa.Array:
            parts = self._parts()
            rows = np.sort(np.fromiter(_last_rows(parts, ["unit_id", "input_key"], -1, self.next_seq, _any), np.int64))
            return pa.concat_arrays([pa.array([], pa.string()), *parts.artifact_keys(rows)])

        return self._again(ask)

    def newest(self, wanted: Callable[[str], bool] = _any) -> Iterator[Entry]:
        """The latest entry of every unit that is wanted, whatever its input was."""
        yield from self._latest_of(["unit_id"], wanted)

    def _latest_of(self, names: Sequence[str], wanted: Callable[[str], bool]) -> Iterator[Entry]:
        """The latest of the entries with equal values, as they are now; older ones come first."""
        end, told = self.next_seq, -1
        while told < end:
            try:
                parts = self._parts()
                for row in _last_rows(parts, names, told, end, wanted):
                    entry = self._row(parts, row)
                    yield entry
                    told = entry.seq
                told = end
            except FileNotFoundError:  # a run has merged the parts meanwhile
                self._loaded = None

    def work(self) -> Iterator[tuple[str, float, float, float]]:
        """(unit_id, started_at_s, duration_s, cpu_s) of every attempt that was ever recorded; see `attempts`."""
        written = self.attempts(["unit_id", "started_at_s", "duration_s", "cpu_s"])
        yield from zip(*(column.to_pylist() for column in written.columns), strict=True)

    @property
    def next_seq(self) -> int:
        """Sequence number of the next entry."""
        self._parts()
        return self._next_seq

    @next_seq.setter
    def next_seq(self, value: int) -> None:
        self._next_seq = value

    @property
    def damaged(self) -> list[str]:
        """Parts that are passed over."""
        if self._loaded is None and self.trusted and self.trusted >= set(self._keys()):
            return []
        return self._parts().damaged

    def append(self, entries: Iterable[Entry], *, run_id: str) -> None:
        """Write entries as one part; they count from now on. Sequence numbers are given here."""
        waiting = list(entries)
        if not waiting:
            return
        parts = self._parts()
        stamped = [replace(e, run_id=run_id, seq=self._next_seq + i) for i, e in enumerate(waiting)]
        table = pa.Table.from_pylist([self._record(entry) for entry in stamped], self.schema)
        self._write(f"part-{run_id}-{self._next_seq:08d}", [table], parts)
        self._next_seq += len(stamped)

    def _record(self, entry: Entry) -> dict[str, Any]:
        record = {name: getattr(entry, name) for name in _PLAIN.names}
        for name, row in self._emits.items():
            record[name] = [to_dict(o) for o in entry.outputs if type(o) is row]
        return record

    def _write(self, name: str, tables: Sequence[pa.Table], parts: Parts) -> str:
        """Write a part, and add it to those that are known; its key."""
        buffer = io.BytesIO()
        with pq.ParquetWriter(buffer, self.schema, compression="zstd") as writer:
            for table in tables:
                writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        data = buffer.getvalue()
        key = f"{self.folder}/{name}.{digest(data)}.parquet"
        self._storage.write(key, data)
        parts.add(key, tables)
        return key

    def set_aside(self) -> list[str]:
        """Move damaged parts out of the ledger, for people to look at; their names as they were."""
        moved = list(self.damaged)
        for key in moved:
            self._storage.write(f"{DAMAGED}/{key.partition('/')[2]}", self._storage.read(key))
        self._storage.delete(moved)
        self.damaged.clear()
        return moved

    @property
    def is_crowded(self) -> bool:
        """Whether there are so many small parts that merging them pays."""
        return self._loaded is not None and sum(n < PART_ROWS for n in self._loaded.n_rows) > COMPACT_ABOVE_PARTS

    def compact(self, run_id: str, merged: Callable[[list[str], list[str]], None] = lambda old, new: None) -> None:
        """Merge small parts when there are many; a crash in between leaves rows twice, which counts once.

        Args:
            run_id: goes into the names of the new parts.
            merged: called with the old parts and the new ones when both are there.
        """
        keys = self._keys()
        if len(keys) <= COMPACT_ABOVE_PARTS:
            return
        if {*keys} != {*self._parts().keys, *self.damaged}:  # another program has written here
            self._loaded = None
        parts = self._parts()
        small = [key for key, n in zip(parts.keys, parts.n_rows, strict=True) if n < PART_ROWS]
        if len(small) <= COMPACT_ABOVE_PARTS and len(small) < len(parts.keys):
            return
        kept = parts.without(small)
        new = [self._write(f"part-{run_id}-compact", tables, kept) for tables in _batches(parts, small)]
        merged(small, new)
        self._storage.delete(sorted(set(small) - set(new)))
        self._loaded = kept
        pa.default_memory_pool().release_unused()  # Arrow keeps what it frees: 20 MB (measured) until the run ends


def _batches(parts: Parts, keys: list[str]) -> Iterator[list[pa.Table]]:
    """The rows of parts, about `PART_ROWS` together in tables of whole row groups."""
    done: list[pa.Table] = []
    waiting: list[pa.Table] = []
    for table in (table for key in keys for table in parts.tables(key)):
        waiting.append(table)
        is_full = sum(t.num_rows for t in waiting) >= ROW_GROUP_ROWS
        if is_full or len(waiting) == MERGE_TABLES:
            waiting = [pa.concat_tables(waiting).combine_chunks()]
        if is_full:
            done += waiting
            waiting = []
        if sum(t.num_rows for t in done) >= PART_ROWS:
            yield done
            done = []
    if waiting:
        done.append(pa.concat_tables(waiting).combine_chunks())
    if done:
        yield done


def _last_rows(
    parts: Parts, names: Sequence[str], after: int, end: int, wanted: Callable[[str], bool]
) -> Iterator[int]:
    """The last row for each set of values in some columns, of rows numbered below `end`; by number, from `after` on."""
    table, group = parts.names(), np.zeros(len(parts.seqs), np.int64)
    for name in names:
        values = table[name].combine_chunks().dictionary_encode()
        n = len(values.dictionary)
        group = group * (n + 1) + values.indices.fill_null(n).to_numpy()
    order = np.lexsort((-parts.seqs, group))
    order = order[parts.seqs[order] < end]
    last = order[np.unique(group[order], return_index=True)[1]]
    last = last[parts.seqs[last] > after]
    last = last[np.argsort(parts.seqs[last], kind="stable")]
    ids = table["unit_id"].take(pa.array(last)).to_pylist()
    return (row for row, unit_id in zip(last.tolist(), ids, strict=True) if wanted(unit_id))
