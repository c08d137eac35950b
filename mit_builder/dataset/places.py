"""A dataset's files as training reads them: a folder, or object storage, of which only what is needed is fetched."""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq

from mit_builder.dataset.index import FOLDER, INDEX_NAME, dataset_folder, inside, is_below, no_dataset, row_values
from mit_builder.errors import ConfigError, MediaError, WorkspaceError
from mit_builder.storage.object_store import first_line, is_remote, persistently
from mit_builder.storage.tombstones import BESIDE_DATASET, KEY, Tombstones
from mit_builder.storage.workspace import Workspace


class DatasetPlace:
    """Where a dataset lies. Storage has one client a process, made by the first that asks.

    Args:
        uri: a dataset or a workspace, as a folder or a URI.

    Raises:
        ConfigError: there is no index.
        WorkspaceError: storage does not answer.
    """

    def __init__(self, uri: str | Path) -> None:
        self.root: Path | None = None
        self._uri, self._prefix = str(uri), ""
        self._client: tuple[int, Workspace] | None = None
        if not is_remote(self._uri):
            self.root = dataset_folder(Path(uri))
            return
        storage = self._storage()
        storage.check_reachable()
        self._prefix = f"{FOLDER}/" if storage.exists(f"{FOLDER}/{INDEX_NAME}") else ""
        if not storage.exists(f"{self._prefix}{INDEX_NAME}"):
            raise no_dataset(uri, is_workspace=bool(storage.names("manifests")))

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_client": None}

    def _storage(self) -> Workspace:
        """The storage, through this process's client: after a fork another's would wait for ever."""
        if self._client is None:
            self._client = os.getpid(), Workspace(self._uri)
        pid, storage = self._client
        if pid != os.getpid():
            raise ConfigError('object storage cannot be read after a fork: DataLoader(multiprocessing_context="spawn")')
        return storage

    def read(self, name: str) -> bytes:
        """A small file.

        Raises:
            FileNotFoundError: there is none of this name.
            WorkspaceError: storage does not answer.
        """
        if self.root is not None:
            return (self.root / name).read_bytes()
        return self._storage().read(f"{self._prefix}{name}")

    def media(self, cell: dict[str, Any], scratch: Path) -> Path:
        """A `clip` or `audio` cell as a file: its bytes in `scratch`, else the file beside the shards.

        Raises:
            FileNotFoundError: there is none of this name.
            MediaError: the name leads out of the dataset's folder.
            WorkspaceError: storage does not answer.
        """
        name = cell["path"]
        if cell["bytes"] is not None:
            scratch.write_bytes(cell["bytes"])
            return scratch
        found = (inside(self.root, name) if self.root is not None else scratch) if is_below(name) else None
        if found is None:
            raise MediaError(
                f"the row's media path {name!r} leads out of the dataset {self._uri}: nothing is read there"
            )
        if self.root is None:
            scratch.write_bytes(self.read(name))
        return found

    def tombstones(self) -> Tombstones:
        """Those beside the dataset, and those of the workspace that it lies in."""
        stones = Tombstones()
        for name, read in ((BESIDE_DATASET, self.read), (KEY, self._read_beside)):
            with suppress(FileNotFoundError):
                stones += Tombstones.parse(read(name), name)
        return stones

    def _read_beside(self, name: str) -> bytes:
        """A file of the workspace that the dataset lies in."""
        if self.root is not None:
            return (self.root.parent / name).read_bytes()
        if self._prefix:
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
        file = _Ranges(self._storage(), f"{self._prefix}{name}")
        return pq.ParquetFile(pa.PythonFile(file, mode="r"), pre_buffer=False)


class RowReader:
    """Rows of shards by their place; keeps the row groups that were read last.

    Args:
        place: the dataset.
        columns: names or Parquet paths of what is read.
        n_groups: row groups that are kept.
    """

    def __init__(self, place: DatasetPlace, columns: Sequence[str], n_groups: int) -> None:
        self._place, self._columns, self._n_groups = place, list(columns), n_groups
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
            with self._place.parquet(shard) as file:
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
