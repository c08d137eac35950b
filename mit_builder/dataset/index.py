"""The published dataset: its schema, the index that names its shards, and its rows.

A dataset is the shards that `index.json` names. Shards are written under new names and the index is replaced in one
step, so a reader sees the old dataset or the new one, never a mixture.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.arrays import to_numpy
from manifests.dataset_row import DatasetRow
from manifests.rows import TIMELINE_FPS, Artifact, Shard
from manifests.schema import arrow_schema
from mit_builder.errors import ConfigError
from mit_builder.models.coco_wholebody import KEYPOINT_NAMES, SKELETON

SCHEMA_VERSION = 3
"""Raised when a column of the dataset changes its name, type or meaning."""
FOLDER = "dataset"
"""Folder of the dataset in a workspace."""
INDEX_NAME = "index.json"
"""The index's name in the dataset's folder."""
ROWS_AT_ONCE = 4
"""Rows decoded together: bounds memory, whatever the size of a row group."""


@dataclass(frozen=True)
class IndexedShard:
    """One shard as the index names it.

    Attributes:
        bucket: number of the shard.
        name: file name in the dataset's folder.
        n_clips: rows in it.
        sha256: hex digest of the file.
        media: names of the media files that its rows refer to; empty where media is embedded.
    """

    bucket: int
    name: str
    n_clips: int
    sha256: str
    media: tuple[str, ...] = ()


@dataclass(frozen=True)
class Index:
    """What belongs to the dataset.

    Attributes:
        schema_version: `SCHEMA_VERSION` of the writer.
        n_buckets: how many shards the dataset may have; some can be empty and have no file.
        shards: ordered by bucket.
    """

    schema_version: int
    n_buckets: int
    shards: tuple[IndexedShard, ...]


def dataset_schema() -> pa.Schema:
    """Arrow schema of a shard, with the file's metadata.

    `huggingface` makes the `datasets` library read `clip` as Video and `audio` as Audio; the other keys are for
    readers without our code: version, frame rate, the keypoints' names and the pairs that a skeleton connects.
    """
    features = {"clip": {"_type": "Video"}, "audio": {"_type": "Audio"}}
    metadata = {
        "huggingface": {"info": {"features": features}},
        "schema_version": SCHEMA_VERSION,
        "fps": TIMELINE_FPS,
        "keypoint_names": list(KEYPOINT_NAMES),
        "skeleton": [list(pair) for pair in SKELETON],
    }
    return arrow_schema(DatasetRow).with_metadata({key: json.dumps(value) for key, value in metadata.items()})


def publish_index(shards: Iterable[Shard], n_buckets: int) -> str:
    """Text of `index.json` for the shards of a dataset; the runner puts it in place through the workspace."""
    entries = [
        IndexedShard(
            bucket=shard.bucket,
            name=_name(shard.parquet),
            n_clips=shard.n_clips,
            sha256=shard.parquet.sha256,
            media=tuple(_name(artifact) for artifact in shard.media),
        )
        for shard in sorted(shards, key=lambda shard: shard.bucket)
    ]
    return index_text(Index(SCHEMA_VERSION, n_buckets, tuple(entries)))


def index_text(index: Index) -> str:
    """Text of `index.json`; the inverse of `parse_index`."""
    return json.dumps(asdict(index), indent=1) + "\n"


def _name(artifact: Artifact) -> str:
    return artifact.key.removeprefix(f"{FOLDER}/")


def parse_index(text: str) -> Index:
    """The inverse of `publish_index`.

    Raises:
        ConfigError: the text is no index of a version that this code reads.
    """
    try:
        values = json.loads(text)
        version = values["schema_version"]
        shards = tuple(IndexedShard(**{**entry, "media": tuple(entry["media"])}) for entry in values["shards"])
        index = Index(version, values["n_buckets"], shards)
    except (ValueError, KeyError, TypeError) as error:
        message = f"{INDEX_NAME} is damaged ({error!r}); delete it, then mit-build run --stage shards writes it anew"
        raise ConfigError(message) from error
    for name in (name for shard in shards for name in (shard.name, *shard.media)):
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ConfigError(f"{INDEX_NAME} names {name!r}, which is outside the dataset's folder")
    if version != SCHEMA_VERSION:
        advice = f"to write the dataset anew, delete {INDEX_NAME}, then mit-build run --stage all"
        raise ConfigError(f"{INDEX_NAME} has schema version {version}, not {SCHEMA_VERSION}: {advice}")
    return index


def dataset_folder(folder: Path) -> Path:
    """The folder that holds the index: `folder` itself, or `dataset` in it where it is a workspace.

    Raises:
        ConfigError: neither holds an index.
    """
    for candidate in (folder, folder / FOLDER):
        if (candidate / INDEX_NAME).is_file():
            return candidate
    raise ConfigError(f"{folder} holds no {INDEX_NAME}: give a dataset's folder, or a workspace with a dataset")


def read_index(folder: Path) -> Index:
    """The index of a dataset's folder or of a workspace.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    try:
        return parse_index((dataset_folder(folder) / INDEX_NAME).read_text())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{INDEX_NAME} is no text") from error


def stale_shards(index: Index, names: Iterable[str]) -> list[str]:
    """Those of `names` (paths below the dataset's folder) that are shards or media, yet not in the index.

    The runner deletes them once the index is in place and no shard is being written, so that `*.parquet` means the
    dataset to any reader.
    """
    named = {shard.name for shard in index.shards} | {name for shard in index.shards for name in shard.media}
    return sorted(n for n in names if (n.endswith(".parquet") or n.startswith("clips/")) and n not in named)


def open_dataset(folder: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a dataset's folder or workspace, in the order of the index; see `read_rows`."""
    root = dataset_folder(folder)
    for shard in read_index(folder).shards:
        yield from read_rows(root / shard.name, columns)


def read_rows(parquet: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of one shard, a few at a time: lists as arrays, `people` as a list of dicts of arrays.

    Args:
        parquet: the file.
        columns: names or Parquet paths ("people.list.element.talk_share"); None for all, media included.
    """
    with pq.ParquetFile(parquet) as file:
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns, use_threads=False):
            for i in range(batch.num_rows):
                yield row_values(batch, i)


def row_values(batch: pa.RecordBatch, i: int) -> dict[str, Any]:
    """Row `i` of a batch of a shard: lists as arrays, `people` as a list of dicts of arrays."""
    return {name: _value(batch.column(name), i) for name in batch.schema.names}


def media_file(cell: dict[str, Any] | None, root: Path, scratch: Path) -> Path | None:
    """A `clip` or `audio` cell as a file: its bytes written to `scratch`, else the file below `root`, else None."""
    if cell is None:
        return None
    if cell["bytes"] is not None:
        scratch.write_bytes(cell["bytes"])
        return scratch
    path = (root / cell["path"]).resolve()
    return path if path.is_relative_to(root.resolve()) and path.is_file() else None


def _value(column: pa.Array, i: int) -> Any:
    value = column[i]
    if not pa.types.is_list(column.type) or not value.is_valid:
        return value.as_py()
    if not pa.types.is_struct(column.type.value_type):
        return to_numpy(value)
    structs = value.values
    return [{field.name: _value(structs.field(field.name), j) for field in structs.type} for j in range(len(structs))]
