"""The published dataset: its schema, the index that names its shards, and its rows.

A dataset is the shards that `index.json` names. Shards are written under new names and the index is replaced in one
step, so a reader sees the old dataset or the new one, never a mixture.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa

from manifests.dataset_row import DatasetRow
from manifests.rows import TIMELINE_FPS, Artifact, Shard
from manifests.schema import arrow_schema
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.dataset.plugged import with_plugged
from mit_builder.errors import ConfigError, DamagedIndexError
from mit_builder.labels.keypoints import KEYPOINT_NAMES, SKELETON

SCHEMA_VERSION = 4
"""Raised when a column of the dataset changes its name, type or meaning."""
FOLDER = "dataset"
"""Folder of the dataset in a workspace."""
INDEX_NAME = "index.json"
"""The index's name in the dataset's folder."""


@dataclass(frozen=True)
class IndexedShard:
    """One shard as the index names it.

    Attributes:
        bucket: number of the shard.
        name: file name in the dataset's folder.
        n_clips: rows in it.
        sha256: hex digest of the file.
        media: names of the media files that its rows refer to; empty where media is embedded.
        media_sha256: hex digests of these files, in the same order; empty where an earlier version wrote the index.
    """

    bucket: int
    name: str
    n_clips: int
    sha256: str
    media: tuple[str, ...] = ()
    media_sha256: tuple[str, ...] = ()


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


def dataset_schema(plugged: Sequence[pa.Field] = ()) -> pa.Schema:
    """Arrow schema of a shard, with the file's metadata, and the columns of other packages' stages at its end.

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
    schema = arrow_schema(DatasetRow).with_metadata({key: json.dumps(value) for key, value in metadata.items()})
    return with_plugged(schema, plugged)


def bucket_of(video_id: str, n_buckets: int) -> int:
    """The shard that holds a video's clips; `video_id` is a hash in hex already."""
    return int(video_id[:8], 16) % n_buckets


def publish_index(shards: Iterable[Shard], n_buckets: int) -> str:
    """Text of `index.json` for the shards of a dataset; the runner puts it in place through the workspace."""
    entries = [
        IndexedShard(
            bucket=shard.bucket,
            name=_name(shard.parquet),
            n_clips=shard.n_clips,
            sha256=shard.parquet.sha256,
            media=tuple(_name(artifact) for artifact in shard.media),
            media_sha256=_digests(shard.media),
        )
        for shard in sorted(shards, key=lambda shard: shard.bucket)
    ]
    return index_text(Index(SCHEMA_VERSION, n_buckets, tuple(entries)))


def _digests(media: Sequence[Artifact]) -> tuple[str, ...]:
    """Digests of all files, or none at all where an earlier version wrote some files without."""
    digests = tuple(artifact.sha256 for artifact in media)
    return digests if all(digests) else ()


def index_text(index: Index) -> str:
    """Text of `index.json`; the inverse of `parse_index`."""
    values = asdict(index)
    for shard in values["shards"]:
        if not shard["media_sha256"]:
            del shard["media_sha256"]
    return json.dumps(values, indent=1) + "\n"


def _name(artifact: Artifact) -> str:
    return artifact.key.removeprefix(f"{FOLDER}/")


def parse_index(text: str) -> Index:
    """The inverse of `publish_index`.

    Raises:
        DamagedIndexError: the text is no index.
        ConfigError: it is one of a version that this code does not read.
    """
    try:
        values = json.loads(text)
        version = values["schema_version"]
        lists = ("media", "media_sha256")
        shards = tuple(
            IndexedShard(**{**entry, **{name: tuple(entry.get(name, ())) for name in lists}})
            for entry in values["shards"]
        )
        index = Index(version, values["n_buckets"], shards)
        names = [name for shard in shards for name in (shard.name, *shard.media)]
        outside = [name for name in names if not is_below(name)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"{INDEX_NAME} is damaged ({error!r}): {hints.keep(Hint.LABEL)} writes it anew"
        raise DamagedIndexError(message) from error
    if outside:
        raise DamagedIndexError(f"{INDEX_NAME} names {outside[0]!r}, which is outside the dataset's folder")
    if version != SCHEMA_VERSION:
        advice = f"to write the dataset anew, delete {INDEX_NAME}, then {hints.keep(Hint.LABEL)}"
        raise ConfigError(f"{INDEX_NAME} has schema version {version}, not {SCHEMA_VERSION}: {advice}")
    return index


def no_dataset(place: str | Path, *, is_workspace: bool) -> ConfigError:
    """The error of a place that holds no dataset."""
    if is_workspace:
        return ConfigError(f"no dataset in {place} yet: {hints.say(Hint.LABEL)}")
    give = "give a dataset's folder, or a workspace in which a run made one"
    return ConfigError(f"no dataset at {place} (it holds no {INDEX_NAME}): {give}")


def stale_shards(index: Index, names: Iterable[str]) -> list[str]:
    """The shards and media files among `names` (paths below the dataset's folder) that the index does not name.

    The runner deletes them once the index is in place and no shard is being written, so that `*.parquet` means the
    dataset to any reader.
    """
    named = {shard.name for shard in index.shards} | {name for shard in index.shards for name in shard.media}
    return sorted(n for n in names if (n.endswith(".parquet") or n.startswith("clips/")) and n not in named)


def is_below(name: object) -> bool:
    """Whether what a row or an index says is the name of a file below the dataset's folder, links left aside."""
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def inside(root: Path, name: object) -> Path | None:
    """The file below `root` that somebody else's text names; None where that leads out of it, be it by a link.

    Every reader of media paths, and the server of the report, finds its files by this function.
    """
    if not is_below(name):
        return None
    try:
        path = (root / str(name)).resolve()
    except (OSError, RuntimeError):  # a circle of links
        return None
    return path if path.is_relative_to(root.resolve()) else None
