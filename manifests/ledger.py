"""The ledger: what happened to every unit of every stage.

One folder a stage (`manifests/<stage>/part-<run>-<seq>.<digest>.parquet`), one row a finished unit, appended by the
driver only. A unit is settled when a `done` or `rejected` row has its id **and** its input key, so a setting that is
moved and moved back finds its old work. Of several rows with one id and key, the latest (`seq`) counts.

A part's name ends in a digest of its bytes. One that does not fit, or cannot be read, holds nothing: its units are due.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.schema import arrow_schema, from_dict, to_dict

Status = Literal["done", "rejected", "failed"]

DAMAGED = "damaged"
"""Folder of a workspace for parts that were set aside."""
_DIGEST = re.compile(r"\.([0-9a-f]{16})\.parquet$")

COMPACT_ABOVE_PARTS = 200
"""Parts of one stage that are merged into one when a run starts."""


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


def read_parquet(data: bytes) -> pa.Table:
    """A Parquet file from memory, read by this thread alone.

    Arrow's read-ahead threads may let go of Python's buffer while the interpreter shuts down, which aborts the process.
    """
    return pq.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(use_threads=False)


class Storage(Protocol):
    """What the ledger needs of a workspace."""

    def names(self, folder: str) -> set[str]: ...
    def read(self, key: str) -> bytes: ...
    def write(self, key: str, data: bytes) -> None: ...
    def delete(self, keys: list[str]) -> None: ...


class Ledger:
    """The rows of one stage.

    Args:
        storage: the workspace.
        stage: name of the stage, also of the folder.
        emits: row classes that the stage's units put out; each has a column `out_<class>`.

    Attributes:
        damaged: parts that were passed over.
    """

    def __init__(self, storage: Storage, stage: str, emits: Sequence[type]) -> None:
        self._storage = storage
        self.stage = stage
        self._emits = {f"out_{row.__name__.lower()}": row for row in emits}
        self.schema = pa.schema(
            [*_PLAIN, *(pa.field(name, pa.list_(pa.struct(list(arrow_schema(c))))) for name, c in self._emits.items())]
        )
        self._folder = f"manifests/{stage}"
        self.damaged: list[str]
        self.table = self._load_all()
        self._index: dict[tuple[str, str], int | Entry] = {}
        self._latest: dict[str, int | Entry] = {}
        self._appended: list[tuple[str, float, float, float]] = []
        self.next_seq = 0
        self._build_index()

    def _parts(self) -> list[str]:
        return sorted(key for key in self._storage.names(self._folder) if key.endswith(".parquet"))

    def _load_all(self) -> pa.Table:
        keys = self._parts()
        while True:
            try:
                return self._load(keys)
            except FileNotFoundError:  # a run that starts may merge parts while somebody looks
                before, keys = keys, self._parts()
                if keys == before:
                    raise

    def _load(self, keys: Iterable[str]) -> pa.Table:
        self.damaged = []
        tables = [table for key in keys if (table := self._read_part(key)) is not None]
        return pa.concat_tables(tables) if tables else self.schema.empty_table()

    def _read_part(self, key: str) -> pa.Table | None:
        data, promised = self._storage.read(key), _DIGEST.search(key)
        try:
            table = read_parquet(data) if promised is None or promised[1] == _digest(data) else None
        except (pa.ArrowException, OSError):  # a part of a version that gave no digests
            table = None
        if table is None:
            self.damaged.append(key)
            return None
        if table.schema.remove_metadata().equals(self.schema.remove_metadata()):
            return table.cast(self.schema)
        # Written by a version with other rows: the history stays readable, the units are due again.
        columns = []
        for field in self.schema:
            known = field.name in _PLAIN.names and field.name in table.schema.names and field.name != "input_key"
            columns.append(table[field.name] if known else pa.nulls(table.num_rows, field.type))
        return pa.Table.from_arrays(columns, schema=self.schema)

    def _build_index(self) -> None:
        ids, keys, seqs = (self.table[name].to_pylist() for name in ("unit_id", "input_key", "seq"))
        for row in sorted(range(len(ids)), key=seqs.__getitem__):
            self._index[(ids[row], keys[row])] = row
            self._latest[ids[row]] = row
        self.next_seq = max(seqs, default=-1) + 1

    def find(self, unit_id: str, input_key: str) -> Entry | None:
        """The latest entry of a unit with just this input."""
        found = self._index.get((unit_id, input_key))
        return self._entry(found) if isinstance(found, int) else found

    def latest(self, unit_id: str) -> Entry | None:
        """The latest entry of a unit, whatever its input was."""
        found = self._latest.get(unit_id)
        return self._entry(found) if isinstance(found, int) else found

    def ids(self) -> list[str]:
        """All units that were ever worked on."""
        return list(self._latest)

    def entries(self) -> Iterator[Entry]:
        """The latest entry of every unit and input."""
        for found in self._index.values():
            yield self._entry(found) if isinstance(found, int) else found

    def work(self) -> Iterator[tuple[str, float, float, float]]:
        """(unit_id, started_at_s, duration_s, cpu_s) of every attempt that was ever recorded.

        An attempt whose verdict was written again (a duplicate that is none any more) comes once.
        """
        columns = (self.table[name].to_pylist() for name in ("unit_id", "started_at_s", "duration_s", "cpu_s"))
        done = itertools.chain(zip(*columns, strict=True), self._appended)
        yield from {attempt[:2]: attempt for attempt in done}.values()

    def _entry(self, row: int) -> Entry:
        record = self.table.slice(row, 1).to_pylist()[0]
        outputs: tuple[Any, ...] = ()
        for name, row_class in self._emits.items():
            outputs += tuple(from_dict(row_class, value) for value in record.pop(name) or ())
        return Entry(**record, outputs=outputs)

    def append(self, entries: Iterable[Entry], *, run_id: str) -> None:
        """Write entries as one part; they count from now on. Sequence numbers are given here."""
        stamped = [replace(e, run_id=run_id, seq=self.next_seq + i) for i, e in enumerate(entries)]
        if not stamped:
            return
        table = pa.Table.from_pylist([self._record(entry) for entry in stamped], self.schema)
        self._write(f"part-{run_id}-{self.next_seq:08d}", table)
        self.next_seq += len(stamped)
        self._appended += [(e.unit_id, e.started_at_s, e.duration_s, e.cpu_s) for e in stamped]
        for entry in stamped:
            self._index[(entry.unit_id, entry.input_key)] = entry
            self._latest[entry.unit_id] = entry

    def _record(self, entry: Entry) -> dict[str, Any]:
        record = {name: getattr(entry, name) for name in _PLAIN.names}
        for name, row in self._emits.items():
            record[name] = [to_dict(o) for o in entry.outputs if type(o) is row]
        return record

    def _write(self, name: str, table: pa.Table) -> None:
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        data = buffer.getvalue()
        self._storage.write(f"{self._folder}/{name}.{_digest(data)}.parquet", data)

    def set_aside(self) -> list[str]:
        """Move damaged parts out of the ledger, for people to look at; their names as they were."""
        moved, self.damaged = self.damaged, []
        for key in moved:
            self._storage.write(f"{DAMAGED}/{key.partition('/')[2]}", self._storage.read(key))
        self._storage.delete(moved)
        return moved

    def compact(self, run_id: str) -> None:
        """Merge the parts into one when there are many; a crash in between leaves rows twice, which counts once."""
        parts = self._parts()
        if len(parts) > COMPACT_ABOVE_PARTS:
            merged = self._load(parts)
            self._write(f"part-{run_id}-compact", merged)
            self._storage.delete([key for key in parts if key not in self.damaged])


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
