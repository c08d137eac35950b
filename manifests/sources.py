"""Source lists: from what a user names to `Source` rows."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from manifests.rows import Source, short_id

VIDEO_SUFFIXES = frozenset(
    [
        ".3gp",
        ".avi",
        ".flv",
        ".m2ts",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".mxf",
        ".ogv",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
    ]
)
"""Files with these endings are taken from a folder."""
LIST_SUFFIXES = frozenset((".txt", ".csv", ".tsv", ".jsonl", ".parquet", ".yaml", ".yml"))
COLUMNS = ("url", "address", "source", "path", "link")
"""Names under which a table may hold the addresses; the first that is there counts."""

_UNREADABLE = (OSError, ValueError, OverflowError, RecursionError, yaml.YAMLError, csv.Error, pa.ArrowException)
"""What readers of lists raise; dates that there are not, and brackets thousands deep, are among it."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


class SourceListError(ValueError):
    """A source list or an address cannot be used; the message is one line."""


def expand(addresses: Iterable[str], *, base: Path | None = None) -> Iterator[Source]:
    """Source rows of addresses: URLs, files, and folders (their video files, sorted, recursively).

    Args:
        addresses: as given by the user.
        base: folder that relative paths start from; the current one by default.

    Raises:
        SourceListError: a path does not exist, or the scheme of a URL is not supported.
    """
    for address in addresses:
        if "://" in address:
            yield url_source(address)
            continue
        path = Path(address).expanduser()
        path = path if path.is_absolute() else (base or Path.cwd()) / path
        if path.is_dir():
            files = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file()]
            if not files:
                raise SourceListError(f"no video files in folder {address}")
            yield from (file_source(p) for p in files)
        elif path.is_file():
            yield file_source(path)
        elif path.exists():
            raise SourceListError(f"{address} is neither a file nor a folder")
        elif _SCHEME.match(address):
            yield url_source(address)
        elif address.startswith("-"):
            raise SourceListError(f"{address!r} begins with a dash: not an address, and no such file")
        else:
            raise SourceListError(f"no such file, folder or URL: {address}")


def url_source(address: str) -> Source:
    """A URL's row; scheme and host are compared without case, the fragment does not count.

    Raises:
        SourceListError: no http(s) URL, or one with a login in it, which ledger and dataset would tell everybody.
    """
    text = _utf8(unicodedata.normalize("NFC", address.strip()))
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise SourceListError(f"cannot fetch {text}: {error}") from error
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise SourceListError(f"cannot fetch {text}: only http(s) URLs, files and folders are supported")
    if parts.username is not None:
        advice = "leave it out, and set download.cookies_file where the site asks for a login"
        raise SourceListError(f"an address at {parts.hostname} holds a user name or password: {advice}")
    normal = urlunsplit((parts.scheme.lower(), parts.netloc.lower(), parts.path or "/", parts.query, ""))
    return Source(source_id=short_id("url", normal), address=text, kind="url")


def file_source(path: Path) -> Source:
    """A local file's row, named by its content: the same file under two names is one source.

    Raises:
        SourceListError: the file's name is no text.
    """
    address = _utf8(str(path.resolve()))
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return Source(source_id=short_id("file", digest.hexdigest()), address=address, kind="file")


def _utf8(text: str) -> str:
    """The text, which the ledger can hold: names of files may be any bytes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SourceListError(f"the name {text!r} is not valid UTF-8: rename it") from error
    return text


def read_list(path: Path) -> Iterator[str]:
    """Addresses of a .txt (one a line, # comments), .csv, .tsv, .jsonl, .parquet or .yaml list, streamed.

    Raises:
        SourceListError: the file cannot be read, has another ending, or has no column of `COLUMNS`.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".txt":
            with path.open(encoding="utf-8-sig") as file:
                stripped = (line.strip() for line in file)
                yield from (line for line in stripped if line and not line.startswith("#"))
        elif suffix in (".csv", ".tsv"):
            with path.open(encoding="utf-8-sig", newline="") as file:
                yield from _from_table(csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ","), path)
        elif suffix == ".jsonl":
            with path.open(encoding="utf-8-sig") as file:
                yield from _from_table((json.loads(line) for line in file if line.strip()), path)
        elif suffix == ".parquet":
            yield from _from_parquet(path)
        elif suffix in (".yaml", ".yml"):
            loaded = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
            entries = loaded.get("sources") if isinstance(loaded, dict) else loaded
            if not isinstance(entries, list):
                raise SourceListError(f"{path} must be a YAML list, or hold one under 'sources:'")
            yield from _from_table(entries, path)
        else:
            raise SourceListError(f"{path}: a source list ends in one of {', '.join(sorted(LIST_SUFFIXES))}")
    except SourceListError:
        raise
    except _UNREADABLE as error:
        first = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise SourceListError(f"cannot read source list {path}: {first}") from error


def _from_parquet(path: Path) -> Iterator[str]:
    """Only the columns that may hold addresses are read: another one may be of any size."""
    file = pq.ParquetFile(path)
    names = [name for name in file.schema_arrow.names if name.lower() in COLUMNS]
    rows = (row for batch in file.iter_batches(columns=names) for row in batch.to_pylist())
    yield from _from_table(rows, path)


def _from_table(rows: Iterable[Any], path: Path) -> Iterator[str]:
    for row in rows:
        if isinstance(row, str):
            yield row
            continue
        values = {str(k).lower(): v for k, v in row.items()} if isinstance(row, dict) else {}
        address = next((values[name] for name in COLUMNS if values.get(name)), None)
        if not isinstance(address, str):
            raise SourceListError(f"{path}: a row has no address in a column named {', '.join(COLUMNS)}")
        yield address
