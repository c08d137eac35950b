"""Source lists as people have them: text in any encoding, tables with any separator, rows without an address."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from manifests.sources import SourceListError

COLUMNS = ("url", "address", "source", "path", "link")
"""Names under which a table may hold the addresses; of those with a value in a row the first counts."""
SEPARATORS = ",;\t|"
"""Between the cells of a table."""
LONGEST_CELL = 1 << 28
"""Characters of a cell, of a transcript for instance; Python's reader takes 131,072 unless told."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""How a file begins that says its encoding; those of UTF-32 begin with those of UTF-16."""
WESTERN = "windows-1252"
"""What text of Western Europe is that is not UTF-8; it holds all that can be seen of Latin-1."""
_UNREADABLE = (OSError, ValueError, OverflowError, RecursionError, yaml.YAMLError, csv.Error, pa.ArrowException)
"""What readers of lists raise; dates that there are not, and brackets thousands deep, are among it."""
LEAST_ZEROS = 10
"""One byte of so many is zero in UTF-16; in ASCII every second is, in other text none but by accident."""
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class ListRow:
    """A row of a list.

    Attributes:
        number: of its first line in a text file, of the row or item elsewhere; from 1.
        address: None where it has none.
    """

    number: int
    address: str | None


def read_list(path: Path) -> Iterator[str]:
    """The addresses of a list; see `read_rows`."""
    return (row.address for row in read_rows(path) if row.address is not None)


def read_rows(path: Path) -> Iterator[ListRow]:
    """Rows of a .txt (an address a line, # comments), .csv, .tsv, .jsonl, .parquet or .yaml list, streamed.

    Text may be UTF-8, UTF-16, UTF-32 or, where it is none of them, Windows-1252. A table's separator is the one of
    `SEPARATORS` that makes a column of `COLUMNS` appear in its header. Empty lines and comments are no rows.

    Raises:
        SourceListError: the file cannot be read, has another ending, or has no column of `COLUMNS`.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise SourceListError(f"{path}: a source list ends in one of {', '.join(sorted(_READERS))}")
    try:
        yield from read(path)
    except SourceListError:
        raise
    except _UNREADABLE as error:
        first = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise SourceListError(f"cannot read source list {path}: {first}") from error


def is_list(address: str) -> bool:
    """Whether an address is a file that `read_rows` reads."""
    path = Path(address).expanduser()
    return path.suffix.lower() in _READERS and path.is_file()


def row_word(path: Path) -> str:
    """What the numbers of a list's rows count."""
    return {".parquet": "row", ".yaml": "item", ".yml": "item"}.get(path.suffix.lower(), "line")


def encoding_of(path: Path) -> str:
    """The encoding of a text file, by its first bytes, its zeros and whether it is valid UTF-8 to the end."""
    with path.open("rb") as file:
        piece = file.read(_PIECE_BYTES)
        for mark, name in _BOMS:
            if piece.startswith(mark):
                return name
        # UTF-16 without a mark: of each pair of bytes one is zero in addresses, separators and line ends.
        if piece.count(0) * LEAST_ZEROS > len(piece):
            return "utf-16-le" if piece[1::2].count(0) >= piece[::2].count(0) else "utf-16-be"
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            while piece:
                decoder.decode(piece)
                piece = file.read(_PIECE_BYTES)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return WESTERN
    return "utf-8"


def _lines(path: Path, encoding: str | None = None) -> Iterator[str]:
    encoding = encoding or encoding_of(path)
    # Of Windows-1252 five bytes are undefined: they stay visible as U+FFFD.
    with path.open(encoding=encoding, newline="", errors="replace" if encoding == WESTERN else "strict") as file:
        yield from file


def _from_text(path: Path) -> Iterator[ListRow]:
    for number, line in enumerate(_lines(path), 1):
        address = line.strip()
        if address and not address.startswith("#"):
            yield ListRow(number, address)


def _from_table(path: Path) -> Iterator[ListRow]:
    encoding = encoding_of(path)
    rows = _cells(path, encoding, _separator(path, encoding))
    header = _header(rows)
    places = [place for name in COLUMNS for place, found in enumerate(header) if found == name]
    for number, cells in rows:
        found = (cells[place].strip() for place in places if place < len(cells))
        yield ListRow(number, next(filter(None, found), None))


def _separator(path: Path, encoding: str) -> str:
    """The separator with which the header has a column of addresses; of several the one that gives most columns."""
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    headers = {separator: _header(_cells(path, encoding, separator)) for separator in SEPARATORS}
    found = [(len(cells), s == usual, s) for s, cells in headers.items() if not set(COLUMNS).isdisjoint(cells)]
    if found:
        return max(found)[2]
    longest = max(headers.values(), key=len)
    if not longest:
        return usual
    raise SourceListError(f"{path}: no column is named {column_names()}; its first line is: {', '.join(longest)[:200]}")


def _header(rows: Iterator[tuple[int, list[str]]]) -> list[str]:
    """The first row that holds anything, as names are compared."""
    return next((list(map(_plain, cells)) for _, cells in rows if any(map(str.strip, cells))), [])


def _cells(path: Path, encoding: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table but empty lines, each with the number of its first line.

    Raises:
        SourceListError: a quotation mark is not closed, so that all that follows it would be one cell.
    """
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_CELL))
    end = ["the end"]
    table = csv.reader(chain(_lines(path, encoding), end), delimiter=separator, skipinitialspace=True)
    first, (number, cells) = 1, (0, end)
    for row in table:
        if number:
            yield number, cells
        is_hint = first == 1 and row[:1] and row[0].lower().startswith("sep=")  # Excel's, before the header
        is_empty = is_hint or (len(row) < 2 and not "".join(row).strip())
        number, cells = (0, end) if is_empty else (first, row)
        first = table.line_num + 1
    if cells != end:
        raise SourceListError(f"{path}: a quotation mark in the row of line {number} is not closed")


def _from_json_lines(path: Path) -> Iterator[ListRow]:
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise SourceListError(
                    f"cannot read source list {path}: line {number} is no JSON: {error.msg}"
                ) from error
            yield ListRow(number, _address(row))


def _from_yaml(path: Path) -> Iterator[ListRow]:
    loaded = yaml.safe_load("".join(_lines(path)))
    entries = loaded.get("sources") if isinstance(loaded, dict) else loaded
    if not isinstance(entries, list):
        raise SourceListError(f"{path} must be a YAML list, or hold one under 'sources:'")
    yield from (ListRow(number, _address(entry)) for number, entry in enumerate(entries, 1))


def _from_parquet(path: Path) -> Iterator[ListRow]:
    """Only the columns that may hold addresses are read: another one may be of any size."""
    file = pq.ParquetFile(path)
    names = [name for name in file.schema_arrow.names if _plain(name) in COLUMNS]
    if not names:
        raise SourceListError(f"{path}: no column is named {column_names()}")
    rows: Iterable[Any] = chain.from_iterable(batch.to_pylist() for batch in file.iter_batches(columns=names))
    yield from (ListRow(number, _address(row)) for number, row in enumerate(rows, 1))


def _address(row: Any) -> str | None:
    """The address in a row that is one, or names its cells."""
    values = {_plain(str(name)): value for name, value in row.items()} if isinstance(row, dict) else {COLUMNS[0]: row}
    found = (values.get(name) for name in COLUMNS)
    return next((value for value in found if isinstance(value, str) and value.strip()), None)


def _plain(name: str) -> str:
    return name.strip().lower()


def column_names() -> str:
    """`COLUMNS`, as said to people."""
    return ", ".join(COLUMNS[:-1]) + f" or {COLUMNS[-1]}"


_READERS = {
    ".txt": _from_text,
    ".csv": _from_table,
    ".tsv": _from_table,
    ".jsonl": _from_json_lines,
    ".parquet": _from_parquet,
    ".yaml": _from_yaml,
    ".yml": _from_yaml,
}
