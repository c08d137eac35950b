from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_dataset

from manifests.rows import Artifact, Shard, short_id
from mit_builder.dataset.index import (
    INDEX_NAME,
    SCHEMA_VERSION,
    Index,
    IndexedShard,
    bucket_of,
    inside,
    parse_index,
    publish_index,
    stale_shards,
)
from mit_builder.dataset.reader import DatasetFiles
from mit_builder.errors import ConfigError, MediaError
from mit_builder.exports.make import ExportRequest, make_export
from mit_builder.report.view import view_of_row
from mit_builder.storage.workspace import Workspace


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


def test_digests_of_media_are_in_the_index_for_all_files_of_a_shard_or_for_none() -> None:
    without = shard(0, "clips/x.mp4", "clips/x.flac")
    some = replace(without, media=(replace(without.media[0], sha256="ab"), without.media[1]))
    every = replace(without, media=tuple(replace(artifact, sha256="ab") for artifact in without.media))
    for written, digests in ((without, ()), (some, ()), (every, ("ab", "ab"))):
        (found,) = parse_index(publish_index([written], 4)).shards
        assert (found.media, found.media_sha256) == (("clips/x.mp4", "clips/x.flac"), digests)


def test_the_shard_of_a_video_is_told_by_its_id_alone() -> None:
    assert bucket_of("0000000affffffff", 4) == 2
    names = [short_id(str(n)) for n in range(400)]
    n_in = Counter(bucket_of(name, 4) for name in names)
    assert n_in.keys() == {0, 1, 2, 3}
    assert min(n_in.values()) > 60


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 1, "n_buckets": 1, "shards": [{}]}'])
def test_a_damaged_index_is_refused_with_what_to_do(text: str) -> None:
    with pytest.raises(ConfigError, match="mit-build run --stage all"):
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
        next(DatasetFiles(tmp_path).rows())


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose dataset keeps media beside its shards, with links and a file outside of it."""
    root = tiny_dataset.build(tmp_path_factory.mktemp("beside"), embed_media=False).root
    (clip, *_) = (root / "dataset" / "clips").glob("*.mp4")
    shutil.copy(clip, root / "outside.mp4")
    (clip.parent / "link.mp4").symlink_to(root / "outside.mp4")
    (clip.parent / "loop.mp4").symlink_to("loop.mp4")
    return root


def test_a_dataset_is_opened_by_a_path_or_its_name(beside: Path) -> None:
    names = {row["clip_id"] for row in DatasetFiles(beside).rows()}
    assert names
    assert {row["clip_id"] for row in DatasetFiles(str(beside)).rows()} == names


@pytest.mark.parametrize(
    "where",
    ["../outside.mp4", "{root}/outside.mp4", "clips/../../outside.mp4", "clips/link.mp4", "clips/loop.mp4", "", "a\0b"],
)
def test_media_outside_of_the_dataset_is_opened_by_no_reader(beside: Path, tmp_path: Path, where: str) -> None:
    root = beside
    tiny_dataset.point_clips_at(root, where.format(root=root))
    row = next(DatasetFiles(root).rows())
    with pytest.raises(MediaError, match="leads out of the dataset"):
        DatasetFiles(root).media(row["clip"], tmp_path / "scratch")
    with pytest.raises(MediaError, match="leads out of the dataset"):
        view_of_row(row, DatasetFiles(root), tmp_path)
    with pytest.raises(MediaError, match="leads out of the dataset"):
        make_export(Workspace(root), ExportRequest("webdataset", tmp_path / "out", with_media=True))


@pytest.mark.parametrize("name", ["../outside.mp4", "/outside.mp4", ""])
def test_media_on_storage_is_below_the_dataset_too(tmp_path: Path, name: str) -> None:
    storage = Workspace("memory://outside")
    storage.write("dataset/index.json", publish_index([], 4).encode())
    storage.write("outside.mp4", b"private")
    with pytest.raises(MediaError, match="leads out of the dataset"):
        DatasetFiles("memory://outside").media({"bytes": None, "path": name}, tmp_path / "scratch")


def test_names_are_found_inside_a_folder_that_is_a_link_itself(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "dataset").symlink_to(tmp_path / "disk")
    assert inside(tmp_path / "dataset", "clips/a.mp4") == tmp_path / "disk" / "clips" / "a.mp4"
