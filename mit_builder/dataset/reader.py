"""Reads a published dataset, wherever it lies: a folder, a workspace, or either of them on object storage.

Training, Python, `validate` and whoever else reads a dataset does it through `DatasetFiles`; of object storage only
what is needed is fetched, and nothing is written beside the dataset.
"""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.arrays import to_numpy
from mit_builder.dataset.index import FOLDER, INDEX_NAME, Index, inside, is_below, no_dataset, parse_index
from mit_builder.errors import ConfigError, MediaError, WorkspaceError
from mit_builder.storage.object_store import first_line, is_remote, persistently
from mit_builder.storage.tombstones import BESIDE_DATASET, KEY, Tombstones
from mit_builder.storage.workspace import Workspace

GIVE = "give a dataset's folder, or a workspace in which a run made one"
ROWS_AT_ONCE = 4
"""Rows decoded together: bounds memory, whatever the size of a row group."""


def check_place(place: str | Path) -> None:
    """Raise `ConfigError` where the folder of a dataset is not there."""
    if not is_remote(str(place)) and not Path(place).expanduser().is_dir():
        raise ConfigError(f"no folder {place}: {GIVE}")


class DatasetFiles:
    """The files of a dataset. Storage has one client a process, made by the first that asks.

    Args:
        place: a dataset's folder or a workspace, as a path or a URI; or a workspace that somebody has opened.

    Attributes:
        root: the dataset's folder; None on object storage.

    Raises:
        ConfigError: there is no index.
        WorkspaceError: storage does not answer.
    """

    def __init__(self, place: str | Path | Workspace) -> None:
        self._below = ""
        self._client: tuple[int, Workspace] | None = None
        if isinstance(place, Workspace):
            self._uri, self._client = place.uri, (os.getpid(), place)
        else:
            check_place(place)
            self._uri = str(place)
            self._storage().check_reachable()
        storage = self._storage()
        found = [below for below in ("", f"{FOLDER}/") if storage.exists(f"{below}{INDEX_NAME}")]
        if not found:
            raise no_dataset(self._uri, is_workspace=bool(storage.names("manifests")))
        self._below = found[0]
        self.root: Path | None = None if storage.root is None else storage.root / self._below

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_client": None}

    def _storage(self) -> Workspace:
        """The storage, through this process's client: after a fork another's would wait for ever."""
        if self._client is None:
            self._client = os.getpid(), Workspace(self._uri, create=False)
        pid, storage = self._client
        if pid != os.getpid():
            raise ConfigError('object storage cannot be read after a fork: DataLoader(multiprocessing_context="spawn")')
        return storage

    def index(self) -> Index:
        """The dataset's index.

        Raises:
            ConfigError: it is damaged.
            FileNotFoundError: it is gone.
            WorkspaceError: storage does not answer.
        """
        try:
            return parse_index(self.read(INDEX_NAME).decode())
        except UnicodeDecodeError as error:
            raise ConfigError(f"{INDEX_NAME} is no text") from error

    def names(self) -> list[str]:
        """Paths of all files below the dataset's folder."""
        return sorted(key.removeprefix(self._below) for key in self._storage().names(self._below.rstrip("/")))

    def read(self, name: str) -> bytes:
        """A small file.

        Raises:
            FileNotFoundError: there is none of this name.
            WorkspaceError: storage does not answer.
        """
        if self.root is not None:
            return (self.root / name).read_bytes()
        return self._storage().read(f"{self._below}{name}")

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """A file of the dataset on this machine while the context is open.

        Raises:
            FileNotFoundError: there is none of this name.
            WorkspaceError: storage does not answer.
        """
        with self._storage().local(f"{self._below}{name}") as path:
            yield path

    def media(self, cell: dict[str, Any] | None, scratch: Path) -> Path | None:
        """A `clip` or `audio` cell as a file: its bytes in `scratch`, else the file beside the shards; None without.

        Raises:
            MediaError: the name leads out of the dataset's folder.
            WorkspaceError: storage does not answer.
        """
        if cell is None:
            return None
        if cell["bytes"] is not None:
            scratch.write_bytes(cell["bytes"])
            return scratch
        found = self._beside(cell["path"])
        if found is not None:
            return found if found.is_file() else None
        with suppress(FileNotFoundError):
            scratch.write_bytes(self.read(cell["path"]))
            return scratch
        return None

    def read_beside_shards(self, name: object) -> bytes:
        """A media file that a row names.

        Raises:
            FileNotFoundError: there is none of this name.
            MediaError: the name leads out of the dataset's folder.
            WorkspaceError: storage does not answer.
        """
        found = self._beside(name)
        if found is not None and not found.is_file():
            raise FileNotFoundError(name)
        return self.read(str(name)) if found is None else found.read_bytes()

    def _beside(self, name: object) -> Path | None:
        """The path of a media file that a row names; None on object storage. `MediaError` where it leads out."""
        found = inside(self.root, name) if self.root is not None else None
        if not is_below(name) or (self.root is not None and found is None):
            raise MediaError(f"the media path {name!r} leads out of the dataset {self._uri}: nothing is read there")
        return found

    def tombstones(self) -> Tombstones:
        """Tombstones that lie beside the dataset, and those of the workspace that holds it."""
        stones = Tombstones()
        for name, read in ((BESIDE_DATASET, self.read), (KEY, self._read_beside)):
            with suppress(FileNotFoundError):
                stones += Tombstones.parse(read(name), name)
        return stones

    def _read_beside(self, name: str) -> bytes:
        """A file of the workspace that the dataset lies in."""
        if self.root is not None:
            return (self.root.parent / name).read_bytes()
        if self._below:
            return self._storage().read(name)
        address, mark, options = self._uri.partition("?")
        folder, _, last = address.rstrip("/").rpartition("/")
        if last != FOLDER:
            raise FileNotFoundError(name)
        try:
            return Workspace(f"{folder}{mark}{options}").read(name)
        except WorkspaceError as error:  # who may read the dataset alone
            raise FileNotFoundError(name) from error

    def parquet(self, name: str) -> pq.ParquetFile:
        """A shard.

        Raises:
            FileNotFoundError: there is none of this name.
            WorkspaceError: storage does not answer.
        """
        if self.root is not None:
            return pq.ParquetFile(self.root / name)
        file = _Ranges(self._storage(), f"{self._below}{name}")
        return pq.ParquetFile(pa.PythonFile(file, mode="r"), pre_buffer=False)

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """All rows, in the order of the index; see `read_rows`.

        Raises:
            ConfigError: the index is damaged.
            FileNotFoundError: a shard is gone.
            WorkspaceError: storage does not answer.
        """
        for shard in self.index().shards:
            with self.parquet(shard.name) as file:
                yield from _rows(file, columns)


def read_rows(parquet: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of one shard, a few at a time: lists as arrays, `people` as a list of dicts of arrays.

    Args:
        parquet: the file.
        columns: names or Parquet paths ("people.list.element.talk_share"); None for all, media included.
    """
    with pq.ParquetFile(parquet) as file:
        yield from _rows(file, columns)


def _rows(file: pq.ParquetFile, columns: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns, use_threads=False):
        for i in range(batch.num_rows):
            yield row_values(batch, i)


def row_values(batch: pa.RecordBatch, i: int) -> dict[str, Any]:
    """Row `i` of a batch of a shard: lists as arrays, `people` as a list of dicts of arrays."""
    return {name: _value(batch.column(name), i) for name in batch.schema.names}


def _value(column: pa.Array, i: int) -> Any:
    value = column[i]
    if not pa.types.is_list(column.type) or not value.is_valid:
        return value.as_py()
    if not pa.types.is_struct(column.type.value_type):
        return to_numpy(value)
    structs = value.values
    return [{field.name: _value(structs.field(field.name), j) for field in structs.type} for j in range(len(structs))]


class RowReader:
    """Rows of shards by their place; keeps the row groups that were read last.

    Args:
        files: of the dataset.
        columns: names or Parquet paths of what is read.
        n_groups: row groups that are kept.
    """

    def __init__(self, files: DatasetFiles, columns: Sequence[str], n_groups: int) -> None:
        self._files, self._columns, self._n_groups = files, list(columns), n_groups
        self._tables: OrderedDict[tuple[str, int], pa.Table] = OrderedDict()

    def row(self, shard: str, group: int, row: int) -> dict[str, Any]:
        """One row: lists as arrays, `people` as a list of dicts of arrays.

        Raises:
            FileNotFoundError: the shard is gone.
            WorkspaceError: storage does not answer.
        """
        key = shard, group
        if key not in self._tables:
            while len(self._tables) >= self._n_groups:
                self._tables.popitem(last=False)
            with self._files.parquet(shard) as file:
                self._tables[key] = file.read_row_group(group, columns=self._columns, use_threads=False)
        self._tables.move_to_end(key)
        return row_values(self._tables[key].slice(row, 1).combine_chunks().to_batches()[0], 0)


class _Ranges(io.RawIOBase):
    """An object of storage as Arrow wants files to be; what is read is fetched, again where an answer breaks off."""

    def __init__(self, storage: Workspace, key: str) -> None:
        self._store, self._key, self._uri, self._at = storage.store, key, storage.uri, 0
        self._n_bytes = int(self._asked(partial(obstore.head, self._store, key))["size"])

    def _asked(self, request: Any) -> Any:
        try:
            return persistently(request)
        except obstore.exceptions.BaseError as error:
            raise WorkspaceError(f"cannot read {self._key} in {self._uri}: {first_line(error)}") from error

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        end = self._n_bytes if size < 0 else min(self._n_bytes, self._at + size)
        if end <= self._at:
            return b""
        data = self._asked(partial(obstore.get_range, self._store, self._key, start=self._at, end=end))
        self._at = end
        return bytes(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + {0: 0, 1: self._at, 2: self._n_bytes}[whence]
        return self._at

    def tell(self) -> int:
        return self._at
