"""The sources that a workspace remembers, as columns: a list of a million lines is no object a line here."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import manifests
from manifests.ids import ids_of
from manifests.parts import read_parquet
from manifests.rows import Source
from manifests.signatures import is_signed
from manifests.source_lists import WESTERN, ListRow, column_names, encoding_of, read_rows, row_word
from manifests.sources import SourceListError, expand, file_source, located, url_source
from mit_builder.console.wording import counted
from mit_builder.errors import ConfigError
from mit_builder.storage.tombstones import Tombstones
from mit_builder.storage.workspace import Workspace

SOURCES_KEY = "manifests/sources/sources.parquet"
DEMO = Path(manifests.__file__).resolve().with_name("demo") / "demo.mp4"
BATCH = 1 << 18
"""Lines of a list that are looked at together."""
MOST_NAMED = 10
"""Lines of a list that are named of those without an address."""

_BOOK = pa.schema(
    [
        pa.field("address", pa.string(), nullable=False),
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("n_bytes", pa.int64()),
        pa.field("mtime_ns", pa.int64()),
    ]
)
_HOST = r"^[A-Za-z]+://(?:[^/?#]*@)?(?P<host>\[[^\]]*\]|[^/:?#]*)"

Row = tuple[str, str, str, int | None, int | None]
"""As `_BOOK`."""


class SourceList(Sequence[Source]):
    """Sources in their order; a row of Python exists only while somebody looks at it.

    Args:
        table: columns source_id, address, kind.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table.select(["source_id", "address", "kind"])

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[Source]:
        for batch in self.table.to_batches(max_chunksize=4096):
            yield from (Source(**row) for row in batch.to_pylist())

    @overload
    def __getitem__(self, index: int) -> Source: ...
    @overload
    def __getitem__(self, index: slice) -> SourceList: ...
    def __getitem__(self, index: int | slice) -> Source | SourceList:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            return SourceList(self.table.take(np.arange(start, stop, step)))
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return Source(**self.table.slice(index % len(self), 1).to_pylist()[0])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(Source.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def ids(self) -> np.ndarray[Any, Any]:
        """(n,) uint64: the sources' ids as numbers."""
        return ids_of(self.table["source_id"])

    def where(self, mask: np.ndarray[Any, Any]) -> SourceList:
        """The sources at which `mask`, (n,) bool, is true."""
        return SourceList(self.table.filter(pa.array(mask)))

    @property
    def any_remote(self) -> bool:
        """Whether one of them is an address on the net."""
        return bool(pc.any(pc.equal(self.table["kind"], "url")).as_py())

    def hosts(self) -> set[str]:
        """Hosts of the addresses on the net, in small letters."""
        remote = self.table.filter(pc.equal(self.table["kind"], "url"))["address"]
        found = pc.struct_field(pc.extract_regex(remote, _HOST), "host") if len(remote) else pa.array([], pa.string())
        return {str(host).lower() for host in pc.unique(found).to_pylist() if host}


class SourceCatalog:
    """All sources that were ever given to a workspace; a run without sources goes on with these.

    Attributes:
        notes: lines about the lists that were taken in: rows without an address, an encoding that was guessed.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self.notes: list[str] = []
        self._is_new = False
        self._files: dict[str, Row] | None = None
        try:
            self._table = read_parquet(workspace.read(SOURCES_KEY)).cast(_BOOK)
        except FileNotFoundError:
            self._table, self._is_new = _BOOK.empty_table(), True
        except (pa.ArrowException, OSError, ValueError) as error:
            advice = "delete it and give the sources again; nothing that is done is done again"
            raise ConfigError(f"{SOURCES_KEY} in the workspace is damaged: {advice}") from error

    def add(self, addresses: Iterable[str], lists: Iterable[Path] = ()) -> int:
        """Take in addresses and source lists; how many sources they hold.

        The bundled demo leaves as soon as there are sources of the user's own.

        Raises:
            ConfigError: an address or a list cannot be used.
        """
        found: list[pa.Table] = []
        try:
            found += self._read((ListRow(0, address) for address in addresses), None)
            for path in lists:
                found += self._read(self._rows(path), path)
        except (SourceListError, OSError) as error:
            raise ConfigError(str(error)) from error
        given = _last_of_each(pa.concat_tables([_BOOK.empty_table(), *found]))
        known = self._table
        if given.num_rows and not pc.any(pc.equal(given["address"], str(DEMO))).as_py():
            has_demo = known.num_rows
            known = known.filter(pc.not_equal(known["address"], str(DEMO)))
            if known.num_rows < has_demo:
                self.notes.append("the bundled demo is no source here any more: its clips leave the dataset")
        table = _last_of_each(pa.concat_tables([known, given]))
        self._is_new = self._is_new or not table.equals(self._table)
        self._table, self._files = table, None
        return int(given.num_rows)

    def _rows(self, path: Path) -> Iterator[ListRow]:
        """The rows of a list that have an address; of the others a note is taken."""
        skipped, n_taken = [], 0
        for row in read_rows(path):
            if row.address is None:
                skipped.append(row.number)
            else:
                n_taken += 1
                yield row
        if skipped and not n_taken:
            raise SourceListError(f"{path}: no row has an address in a column named {column_names()}")
        if skipped:
            what, places = counted(len(skipped), "row"), f"{row_word(path)}{'s'[: len(skipped) != 1]}"
            shown = ", ".join(map(str, skipped[:MOST_NAMED]))
            more = f" and {len(skipped) - MOST_NAMED} more" if len(skipped) > MOST_NAMED else ""
            self.notes.append(f"{path.name}: {what} without an address skipped: {places} {shown}{more}")
        if row_word(path) == "line" and encoding_of(path) == WESTERN:
            self.notes.append(
                f"{path.name} is not UTF-8: read as {WESTERN}; save it as UTF-8 where names come out wrong"
            )

    def _read(self, rows: Iterable[ListRow], path: Path | None) -> Iterator[pa.Table]:
        lines = iter(rows)
        while batch := list(islice(lines, BATCH)):
            same = np.zeros(len(batch), bool)
            if len(batch) > 1 and self._table.num_rows:
                # Names that are no text are refused below, with their line.
                texts = [str(row.address).encode(errors="backslashreplace").decode() for row in batch]
                addresses = pa.array(texts, pa.string())
                same = pc.is_in(addresses, value_set=self._table["address"]).to_numpy(False)
                known = self._table.filter(pc.is_in(self._table["address"], value_set=addresses))
                yield known.filter(pc.equal(known["kind"], "url"))
            new = (
                row for row, is_known in zip(batch, same, strict=True) if not (is_known and "://" in str(row.address))
            )
            found = [source for row in new for source in self._sources_of(row, path)]
            yield (
                pa.Table.from_arrays(
                    [pa.array(c, f.type) for c, f in zip(zip(*found, strict=True), _BOOK, strict=True)], schema=_BOOK
                )
                if found
                else _BOOK.empty_table()
            )

    def _sources_of(self, row: ListRow, path: Path | None) -> Iterator[Row]:
        """What a row of a list stands for, or of no list where there is no path."""
        try:
            yield from self._expand(str(row.address), path.resolve().parent if path else None)
        except (SourceListError, OSError) as error:
            where = f"{path.name}, {row_word(path)} {row.number}: " if path else ""
            raise SourceListError(f"{where}{error}") from error

    def _expand(self, address: str, base: Path | None) -> Iterator[Row]:
        if "://" in address:
            source = url_source(address)
            yield source.address, source.source_id, source.kind, None, None
            return
        path = located(address, base)
        if path.is_file():
            yield self._file(path.resolve())
            return
        for source in expand([address], base=base):
            yield self._file(Path(source.address))

    def _file(self, path: Path) -> Row:
        stat = path.stat()
        if self._files is None:
            files = self._table.filter(pc.equal(self._table["kind"], "file")).to_pylist()
            self._files = {row["address"]: tuple(row[name] for name in _BOOK.names) for row in files}
        known = self._files.get(str(path))
        if known is not None and known[3:] == (stat.st_size, stat.st_mtime_ns):
            return known
        source = file_source(path)
        return str(path), source.source_id, source.kind, stat.st_size, stat.st_mtime_ns

    def sources(self, limit: int | None = None) -> SourceList:
        """The sources in the order they were given; of files with equal content that are there, the smallest path."""
        table = self._table
        if pc.count_distinct(table["source_id"]).as_py() < table.num_rows:
            rows = table.append_column("row", pa.array(np.arange(table.num_rows)))
            rows = rows.append_column("place", _places(table))
            named = rows.group_by("source_id").aggregate([("place", "min"), ("row", "min")]).sort_by("row_min")
            addresses, kinds = pc.utf8_slice_codeunits(named["place_min"], 1), table["kind"].take(named["row_min"])
            table = pa.table([named["source_id"], addresses, kinds], ["source_id", "address", "kind"])
        return SourceList(table if limit is None else table.slice(0, limit))

    def remove(self, source_id: str) -> None:
        """Let a source, and every file with its bytes, be none any more."""
        self._table, self._files = self._table.filter(pc.not_equal(self._table["source_id"], source_id)), None
        self._is_new = True

    def copies(self) -> dict[str, list[str]]:
        """Addresses of files that hold the same bytes, by the source that they are."""
        n_each = self._table.group_by("source_id").aggregate([("address", "count"), ("address", "list")])
        several = n_each.filter(pc.greater(n_each["address_count"], 1)).to_pylist()
        return {row["source_id"]: row["address_list"] for row in several}

    def save(self) -> None:
        """Write the book into the workspace where it has changed, without what was taken down."""
        stones = Tombstones.of(self._workspace)
        if any(stone.kind == "source" for stone in stones.stones):
            barred = [stones.bars("source", source_id) for source_id in self._table["source_id"].to_pylist()]
            self._is_new = self._is_new or any(barred)
            self._table = self._table.filter(pa.array(np.logical_not(barred), pa.bool_()))
        if self._is_new:
            buffer = io.BytesIO()
            pq.write_table(self._table, buffer, compression="zstd")
            self._workspace.write(SOURCES_KEY, buffer.getvalue())
            self._is_new = False


def _places(table: pa.Table) -> pa.Array:
    """Addresses behind a digit: 1 for a file that is gone, where another row has its content; else 0."""
    n_each = table.group_by("source_id").aggregate([("address", "count")])
    several = n_each.filter(pc.greater(n_each["address_count"], 1))["source_id"]
    alike = pc.is_in(table["source_id"], value_set=several).to_pylist()
    addresses = table["address"].to_pylist()
    return pa.array([f"{int(a and not Path(text).exists())}{text}" for a, text in zip(alike, addresses, strict=True)])


def _last_of_each(table: pa.Table) -> pa.Table:
    """The last of the rows with one address, in the place of the first.

    An address that was signed anew, or is given without its signature now, takes the place of the one before.
    """
    of_urls = table.filter(pc.equal(table["kind"], "url"))
    several = pc.value_counts(of_urls["source_id"])
    several = several.field("values").filter(pc.greater(several.field("counts"), 1))
    alike = of_urls.filter(pc.is_in(of_urls["source_id"], value_set=several)).select(["source_id", "address"])
    signed = {row["source_id"] for row in alike.to_pylist() if is_signed(row["address"])}
    is_signed_anew = pc.is_in(table["source_id"], value_set=pa.array(sorted(signed), pa.string()))
    keys = pc.if_else(is_signed_anew, table["source_id"], table["address"])
    if pc.count_distinct(keys).as_py() == table.num_rows:
        return table
    rows = table.append_column("key", keys).append_column("row", pa.array(np.arange(table.num_rows)))
    of_each = rows.group_by("key").aggregate([("row", "min"), ("row", "max")]).sort_by("row_min")
    return table.take(of_each["row_max"])
