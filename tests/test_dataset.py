from __future__ import annotations

import json

import pytest

from manifests.rows import Artifact, Shard
from mit_builder.dataset import (
    INDEX_NAME,
    SCHEMA_VERSION,
    Index,
    IndexedShard,
    open_dataset,
    parse_index,
    publish_index,
    stale_shards,
)
from mit_builder.errors import ConfigError


def shard(bucket: int, *media: str) -> Shard:
    parquet = Artifact(f"dataset/shard-{bucket:05d}-of-00004.aa.parquet", f"sha{bucket}", 10)
    return Shard(bucket, parquet, tuple(Artifact(f"dataset/{name}", "", 0) for name in media), n_clips=bucket + 1)


def test_an_index_comes_back_as_it_was_written_ordered_by_bucket() -> None:
    text = publish_index([shard(2, "clips/x.mp4"), shard(0)], 4)
    assert parse_index(text) == Index(
        SCHEMA_VERSION,
        4,
        (
            IndexedShard(0, "shard-00000-of-00004.aa.parquet", 1, "sha0"),
            IndexedShard(2, "shard-00002-of-00004.aa.parquet", 3, "sha2", ("clips/x.mp4",)),
        ),
    )
    assert text == publish_index([shard(0), shard(2, "clips/x.mp4")], 4)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 1, "n_buckets": 1, "shards": [{}]}'])
def test_a_damaged_index_is_refused_with_what_to_do(text: str) -> None:
    with pytest.raises(ConfigError, match="mit-build run --stage shards"):
        parse_index(text)


def test_an_index_of_another_schema_version_is_refused() -> None:
    values = {**json.loads(publish_index([], 4)), "schema_version": 99}
    with pytest.raises(ConfigError, match="schema version 99"):
        parse_index(json.dumps(values))


@pytest.mark.parametrize("name", ["../other.parquet", "/etc/passwd", "clips/../../x"])
def test_an_index_that_points_outside_its_folder_is_refused(name: str) -> None:
    values = json.loads(publish_index([shard(1)], 4))
    values["shards"][0]["name"] = name
    with pytest.raises(ConfigError, match="outside the dataset's folder"):
        parse_index(json.dumps(values))


def test_only_unnamed_shards_and_media_are_stale() -> None:
    index = parse_index(publish_index([shard(1, "clips/kept.bb.mp4")], 4))
    names = [
        "README.md",
        "statistics.json",
        INDEX_NAME,
        "shard-00001-of-00004.aa.parquet",
        "shard-00001-of-00004.bb.parquet",
        "clips/kept.bb.mp4",
        "clips/old.aa.mp4",
    ]
    assert stale_shards(index, names) == ["clips/old.aa.mp4", "shard-00001-of-00004.bb.parquet"]


def test_opening_a_folder_that_is_no_dataset_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="holds no"):
        next(open_dataset(tmp_path))
