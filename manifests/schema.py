"""What every row of manifests/rows.py can do: its Arrow schema, its plain values, its content and the hash of that."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar

import pyarrow as pa

from manifests.rows import Artifact

Row = TypeVar("Row")


def arrow_type(annotation: Any) -> pa.DataType:
    """Arrow type of a row field's annotation (str, int, float, bool, Literal, X | None, tuple[X, ...], dataclass)."""
    plain = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    if annotation in plain:
        return plain[annotation]
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return pa.string()
    if origin in (typing.Union, types.UnionType):
        return arrow_type(next(a for a in args if a is not type(None)))
    if origin is tuple:
        return pa.list_(arrow_type(args[0]))
    if dataclasses.is_dataclass(annotation):
        return pa.struct(list(arrow_schema(typing.cast(type, annotation))))
    raise TypeError(f"no Arrow type for {annotation!r}")


def _optional(annotation: Any) -> bool:
    return type(None) in typing.get_args(annotation)


def arrow_schema(row: type) -> pa.Schema:
    """Arrow schema of a row class, field docs as field metadata."""
    hints = typing.get_type_hints(row)
    return pa.schema(
        [
            pa.field(
                f.name,
                f.metadata["arrow"] or arrow_type(hints[f.name]),
                nullable=_optional(hints[f.name]) or f.metadata["arrow"] is not None,
                metadata={"doc": f.metadata["doc"]},
            )
            for f in dataclasses.fields(row)
        ]
    )


def to_dict(row: Any) -> dict[str, Any]:
    """A row as plain Python values, ready for `pa.Table.from_pylist(…, schema=arrow_schema(type(row)))`."""
    return dataclasses.asdict(row)


def from_dict(row: type[Row], values: Mapping[str, Any]) -> Row:
    """The inverse of `to_dict`; unknown keys are ignored, so older readers open newer files."""
    hints = _hints(typing.cast(Any, row))
    fields = dataclasses.fields(row)  # type: ignore[arg-type]
    return row(**{f.name: _restore(hints[f.name], values[f.name]) for f in fields})


@functools.cache
def _hints(row: type) -> dict[str, Any]:
    """Annotations of a row class, evaluated once: a ledger has one row of it for each unit."""
    return typing.get_type_hints(row)


def _restore(annotation: Any, value: Any) -> Any:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if value is None:
        return None
    if origin in (typing.Union, types.UnionType):
        return _restore(next(a for a in args if a is not type(None)), value)
    if origin is tuple:
        return tuple(_restore(args[0], v) for v in value)
    if dataclasses.is_dataclass(annotation):
        return from_dict(typing.cast(type, annotation), value)
    return value


def content(row: Any, *, everything: bool = False) -> Any:
    """The part of a row that counts as its content, as JSON-ready values (see manifests/rows.py).

    With `everything`, all fields count except where artifacts lie: for a unit whose output is a copy of the whole row.
    """
    if dataclasses.is_dataclass(row) and not isinstance(row, type):
        whole = everything and not isinstance(row, Artifact)
        kinds = {f.name: f.metadata.get("identity", True) for f in dataclasses.fields(row)}
        values = {name: getattr(row, name) for name, kind in kinds.items() if whole or kind}
        unset = {name for name, value in values.items() if value is None and kinds[name] == "where set"}
        return {name: content(value, everything=everything) for name, value in values.items() if name not in unset}
    if isinstance(row, tuple | list):
        return [content(v, everything=everything) for v in row]
    return row


def artifacts(row: Any) -> Iterator[Artifact]:
    """All artifacts that a row names."""
    if isinstance(row, Artifact):
        yield row
    elif dataclasses.is_dataclass(row) and not isinstance(row, type):
        for f in dataclasses.fields(row):
            yield from artifacts(getattr(row, f.name))
    elif isinstance(row, tuple | list):
        for value in row:
            yield from artifacts(value)


def artifact_columns(schema: pa.Schema) -> list[str]:
    """Paths in a Parquet file of the columns with the keys of artifacts, however deep they lie in rows."""
    return [path for field in schema for path in _key_paths(field.name, field.type)]


def _key_paths(path: str, kind: pa.DataType) -> Iterator[str]:
    if pa.types.is_list(kind):
        yield from _key_paths(f"{path}.list.element", kind.value_type)
    elif _is_artifact(kind):
        yield f"{path}.key"
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from _key_paths(f"{path}.{field.name}", field.type)


def _is_artifact(kind: pa.DataType) -> bool:
    return bool(kind.equals(arrow_type(Artifact)))


def texts_below(column: pa.Array) -> Iterator[pa.Array]:
    """All strings in a column of nested lists and structs, a flat array for each that lies in it."""
    if pa.types.is_list(column.type):
        yield from texts_below(column.flatten())
    elif pa.types.is_struct(column.type):
        for child in column.flatten():
            yield from texts_below(child)
    else:
        yield column


def content_hash(*values: Any) -> str:
    """32 hex digits over the content of rows and plain values; floats count by their shortest repr."""
    text = json.dumps([content(v) for v in values], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
