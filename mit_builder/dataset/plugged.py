"""The columns that stages of other packages add to the dataset: one struct each, named by the stage.

Which columns of a file they are stands in its metadata, under `plugins`; a dataset without such has no such key.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import pyarrow as pa

from manifests.dataset_row import DatasetRow
from manifests.rows import Labelled
from manifests.schema import arrow_schema, to_dict

KEY = b"plugins"
MADE_BY = pa.field("made_by", pa.string(), nullable=False)
"""Field of every such column: the package and version."""

_OURS = frozenset(field.name for field in fields(DatasetRow))


def plugged_columns(row: Labelled) -> dict[str, dict[str, Any]]:
    """Their values for a clip, by stage."""
    return {one.stage: to_dict(one.row) | {MADE_BY.name: one.made_by} for one in row.plugged or ()}


def fields_of(row: Labelled) -> list[pa.Field]:
    """The columns that a clip has; every clip of a shard has the same."""
    kinds = ((one.stage, arrow_schema(type(one.row))) for one in row.plugged or ())
    return [pa.field(name, pa.struct([*kind, MADE_BY])) for name, kind in kinds]


def plugged_fields(schema: pa.Schema) -> list[pa.Field]:
    """The columns of a shard or manifest that come from stages of other packages."""
    try:
        names = json.loads((schema.metadata or {}).get(KEY, b"[]"))
    except ValueError:
        return []
    known = [name for name in (names if isinstance(names, list) else []) if isinstance(name, str)]
    return [schema.field(name) for name in known if name not in _OURS and schema.names.count(name) == 1]


def with_plugged(schema: pa.Schema, more: Sequence[pa.Field]) -> pa.Schema:
    """A schema with these columns at its end, and its metadata; the same without any."""
    if not more:
        return schema
    told = {KEY: json.dumps([field.name for field in more])}
    return pa.schema([*schema, *more], {**(schema.metadata or {}), **told})


def column_of(table: pa.Table, field: pa.Field) -> pa.ChunkedArray:
    """A column of a row; nulls where it was written before another package's stage was there."""
    return (
        table[field.name] if field.name in table.schema.names else pa.chunked_array([pa.nulls(len(table), field.type)])
    )
