"""Writing Parquet whose row groups stay small enough for any reader to hold."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.arrays import float_leaves

ROW_GROUP_BYTES = 64 << 20
"""Uncompressed size above which a row group is not filled further: what a reader holds at once."""

FILE_BYTES = 500 << 20
"""Uncompressed size at which `ShardFiles` begins another file; the Hub's own converter makes them as large."""


class ShardFile:
    """Streams rows into a Parquet file, a row group whenever the next row would make it too large.

    Encoding as measured for keypoints: float32, zstd, BYTE_STREAM_SPLIT, no dictionary (44.5 MB of 63.8 MB raw).

    Attributes:
        n_bytes: uncompressed size of what was added.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.n_bytes = 0
        self._waiting: list[pa.Table] = []
        self._stack = ExitStack()
        self._writer = self._stack.enter_context(
            pq.ParquetWriter(
                path, schema, compression="zstd", use_dictionary=False, use_byte_stream_split=float_leaves(schema)
            )
        )

    def __enter__(self) -> ShardFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is None:
            self._flush()
        self._stack.close()

    def add(self, table: pa.Table) -> None:
        """Take in rows of the file's schema."""
        if sum(waiting.nbytes for waiting in self._waiting) + table.nbytes > ROW_GROUP_BYTES:
            self._flush()
        self._waiting.append(table)
        self.n_bytes += table.nbytes

    def _flush(self) -> None:
        if self._waiting:
            table = pa.concat_tables(self._waiting)
            self._writer.write_table(table, row_group_size=table.num_rows)
            self._waiting = []


class ShardFiles:
    """Streams rows into several such files, the next once one has grown large; one is open at a time.

    Args:
        folder: made where it is missing.
        name: the n-th file's name.
        schema: of the rows.

    Attributes:
        names: of the files so far.
    """

    def __init__(self, folder: Path, name: Callable[[int], str], schema: pa.Schema) -> None:
        folder.mkdir(exist_ok=True)
        self.names: list[str] = []
        self._folder, self._name, self._schema = folder, name, schema
        self._stack = ExitStack()
        self._file: ShardFile | None = None

    def __enter__(self) -> ShardFiles:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def add(self, table: pa.Table) -> None:
        """Take in one row."""
        if self._file is None or self._file.n_bytes >= FILE_BYTES:
            self._stack.close()
            self.names.append(self._name(len(self.names)))
            self._file = self._stack.enter_context(ShardFile(self._folder / self.names[-1], self._schema))
        self._file.add(table)
