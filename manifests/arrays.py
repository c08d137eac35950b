"""Numpy arrays in and out of Parquet artifacts, without a Python object per number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def to_arrow(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """A column of `kind` from one value per row; numpy arrays become nested lists.

    A value for a list type may be an array of shape (n,), or (n, …) where the inner types are fixed-size lists.
    """
    is_nested = pa.types.is_list(kind) and any(isinstance(v, np.ndarray) for v in values)
    if not is_nested:
        return pa.array(list(values), kind)
    arrays = [np.asarray(v) for v in values]
    offsets = np.concatenate([[0], np.cumsum([len(a) for a in arrays])]).astype(np.int32)
    inner = kind.value_type
    flat = np.concatenate([a.reshape(-1) for a in arrays]) if arrays else np.empty(0)
    return pa.ListArray.from_arrays(pa.array(offsets), _fixed(flat, inner), type=kind)


def _fixed(flat: np.ndarray[Any, Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(_fixed(flat, kind.value_type), type=kind)
    return pa.array(flat, kind, from_pandas=False)


def to_numpy(column: pa.ListScalar | pa.FixedSizeListScalar) -> np.ndarray[Any, Any]:
    """One row's nested list as an array of shape (n, …).

    Raises:
        ValueError: a fixed-size list inside is missing.
    """
    shape: list[int] = [len(column)] if column.is_valid else [0]
    values = column.values
    if values is None:
        return np.empty(0)
    while pa.types.is_fixed_size_list(values.type):
        shape.append(values.type.list_size)
        values = values.flatten()
    flat = np.asarray(values.to_numpy(zero_copy_only=False))
    if flat.size != math.prod(shape):
        raise ValueError(f"{flat.size} values where {math.prod(shape)} are expected: a list inside is missing")
    return flat.reshape(shape)


def write_arrays(path: Path, schema: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows (arrays for list columns, plain values for the others) as one Parquet file.

    Floats are stored as they are: zstd over split bytes, no dictionary (measured in the toolchain notes).
    """
    _write(path, schema, [to_arrow([row[field.name] for row in rows], field.type) for field in schema])


def write_columns(path: Path, schema: pa.Schema, columns: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Write (n_rows,) arrays, one a column, in the same way; NaN is stored as null where the schema has nulls."""
    _write(path, schema, [pa.array(columns[field.name], field.type, from_pandas=field.nullable) for field in schema])


def _write(path: Path, schema: pa.Schema, columns: Sequence[pa.Array]) -> None:
    table = pa.Table.from_arrays(columns, schema=schema)
    pq.write_table(table, path, compression="zstd", use_dictionary=False, use_byte_stream_split=float_leaves(schema))


def float_leaves(schema: pa.Schema) -> list[str]:
    """Parquet column paths of all floats in a schema: those that gain from BYTE_STREAM_SPLIT."""

    def leaves(name: str, kind: pa.DataType) -> list[str]:
        if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
            return leaves(f"{name}.list.element", kind.value_type)
        if pa.types.is_struct(kind):
            return [leaf for child in kind for leaf in leaves(f"{name}.{child.name}", child.type)]
        return [name] if pa.types.is_floating(kind) else []

    return [leaf for field in schema for leaf in leaves(field.name, field.type)]


def read_arrays(path: Path) -> list[dict[str, Any]]:
    """The inverse of `write_arrays`: list columns as arrays (strings as object arrays), others as plain values."""
    with pq.ParquetFile(path) as file:
        table = file.read(use_threads=False)  # artifacts are small: threads of Arrow's cost more than they save
    rows: list[dict[str, Any]] = []
    for i in range(table.num_rows):
        row: dict[str, Any] = {}
        for field in table.schema:
            value = table[field.name][i]
            row[field.name] = to_numpy(value) if pa.types.is_list(field.type) else value.as_py()
        rows.append(row)
    return rows
