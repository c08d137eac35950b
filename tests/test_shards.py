from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_dataset

import mit_builder.dataset.shard_file
from manifests.arrays import read_arrays, write_arrays
from manifests.rows import POSES, Bucket, Correction, Labelled, Video
from mit_builder.config.settings import ShardsSettings
from mit_builder.dataset.reader import read_rows
from mit_builder.dataset.validate import validate
from mit_builder.errors import MediaError
from mit_builder.media.audio_tracks import choose_sound
from stages.shards import WriteShard, split_of


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> tiny_dataset.Builder:
    return tiny_dataset.Builder(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def clips(builder: tiny_dataset.Builder) -> tuple[Labelled, ...]:
    return tuple(builder.labelled(plan) for plan in tiny_dataset.PLANS)


def test_a_row_joins_media_people_poses_and_speech(builder: tiny_dataset.Builder, clips: tuple[Labelled, ...]) -> None:
    shard = builder.shard(clips)
    assert shard.n_clips == 3
    assert shard.media == ()
    assert shard.parquet.key == "dataset/shard-00000-of-00004.01234567.parquet"
    rows = {row["clip_id"]: row for row in read_rows(builder.root / shard.parquet.key)}
    for labelled in clips:
        row = rows[labelled.clip.clip_id]
        poses = read_arrays(builder.root / labelled.pose.poses.key)
        speech = read_arrays(builder.root / labelled.speech.speech.key)
        assert row["clip"] == {
            "bytes": (builder.root / labelled.clip.mp4.key).read_bytes(),
            "path": f"clips/{labelled.clip.clip_id}.mp4",
        }
        assert row["audio"]["bytes"] == (builder.root / labelled.clip.flac.key).read_bytes()
        assert row["n_people"] == len(row["people"]) == labelled.clip.n_people
        assert row["end_s"] == labelled.clip.end_frame / 25
        np.testing.assert_array_equal(row["source_frame_index"], labelled.clip.source_frame_index)
        for person, pose, spoken in zip(row["people"], poses, speech, strict=True):
            np.testing.assert_array_equal(person["keypoints"], pose["keypoints"])
            np.testing.assert_array_equal(person["speaking_score"], spoken["speaking_score"])
            np.testing.assert_array_equal(person["speak_periods"], spoken["speak_periods"])
            assert list(person["face_box_source"]) == ["pose"] * row["n_frames"]
            assert person["talk_share"] == pytest.approx(np.mean(spoken["speaking"]), abs=1e-6)


def test_corrections_change_labels_and_what_follows_but_no_score(
    builder: tiny_dataset.Builder, clips: tuple[Labelled, ...]
) -> None:
    spans = (Correction(0, 20, 35, True, 0.0, 0.0), Correction(1, 0, 40, False, 0.0, 0.0))
    corrected = dataclasses.replace(clips[0], corrections=spans)
    (before,) = read_rows(builder.root / builder.shard(clips[:1], bucket=1).parquet.key)
    shard = builder.shard((corrected,), bucket=1)
    (row,) = read_rows(builder.root / shard.parquet.key)
    first, second = row["people"]
    assert first["human_periods"].tolist() == [[20, 35]]
    assert second["human_periods"].tolist() == [[0, 40]]
    assert first["speaking"][20:35].all()
    assert (row["n_turns"], row["overlap_ratio"]) == (0, 0.0)
    assert (second["talk_share"], second["speak_periods"].tolist()) == (0.0, [])
    assert second["listen_periods_merged"].tolist() == [[0, 40]]
    for now, then in zip(row["people"], before["people"], strict=True):
        np.testing.assert_array_equal(now["speaking_score"], then["speaking_score"])
        np.testing.assert_array_equal(now["keypoints"], then["keypoints"])
        assert then["human_periods"].tolist() == []
    assert (before["label_tier"], row["label_tier"]) == ("heuristic", "heuristic")
    builder.publish(shard)
    assert [problem for problem in validate(builder.root) if problem.where == row["clip_id"]] == []
    whole = tuple(dataclasses.replace(span, start_frame=0, end_frame=40) for span in spans)
    (human,) = read_rows(builder.root / builder.shard((dataclasses.replace(clips[0], corrections=whole),)).parquet.key)
    assert human["label_tier"] == "human"


def test_the_sound_of_a_row_is_what_its_clip_was_cut_with(
    builder: tiny_dataset.Builder, clips: tuple[Labelled, ...]
) -> None:
    (heard,) = choose_sound(builder.root / clips[0].video.media.key).tracks
    assert clips[0].video.sound is None, "as rows of older versions"
    clip = dataclasses.replace(clips[0].clip, sound=(dataclasses.replace(heard, title="of the source"),))
    (row,) = read_rows(builder.root / builder.shard((dataclasses.replace(clips[0], clip=clip),)).parquet.key)
    ((track,),) = (row["sound"],)
    assert (track["stream"], list(track["weights"]), track["title"]) == (1, [1.0], None)


def test_captions_are_cut_to_each_clip(builder: tiny_dataset.Builder, clips: tuple[Labelled, ...]) -> None:
    rows = {row["clip_id"]: row for row in read_rows(builder.root / builder.shard(clips).parquet.key)}
    told = [[(c["start_s"], c["end_s"], c["text"]) for c in rows[x.clip.clip_id]["captions"]] for x in clips]
    assert told == [
        [(0.2, 0.9, "Good <b>morning</b> | all"), (1.2, 1.6, "in both clips")],
        [(0, 0.24, "in both clips"), (0.74, 1.28, "to the end")],
        [],
    ]
    assert [(c["language"], c["automatic"]) for c in rows[clips[1].clip.clip_id]["captions"]] == [
        ("en", False),
        ("de", True),
    ]


def test_rows_are_ordered_and_bytes_do_not_depend_on_the_order_of_the_input(
    builder: tiny_dataset.Builder, clips: tuple[Labelled, ...]
) -> None:
    first = builder.shard(clips)
    again = builder.shard(clips[::-1])
    assert first.parquet.sha256 == again.parquet.sha256
    ids = [row["clip_id"] for row in read_rows(builder.root / first.parquet.key, ["clip_id"])]
    assert ids == sorted(ids)


def test_row_groups_are_written_as_they_fill(
    builder: tiny_dataset.Builder, clips: tuple[Labelled, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mit_builder.dataset.shard_file, "ROW_GROUP_BYTES", 1)
    shard = builder.shard(clips)
    with pq.ParquetFile(builder.root / shard.parquet.key) as file:
        assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [1, 1, 1]


def test_floats_are_split_by_bytes_compressed_and_without_dictionary(
    builder: tiny_dataset.Builder, clips: tuple[Labelled, ...]
) -> None:
    metadata = pq.read_metadata(builder.root / builder.shard(clips).parquet.key)
    columns = [metadata.row_group(0).column(i) for i in range(metadata.num_columns)]
    assert {column.compression for column in columns} == {"ZSTD"}
    assert not any(column.has_dictionary_page for column in columns)
    split = {c.path_in_schema for c in columns if "BYTE_STREAM_SPLIT" in c.encodings}
    assert split == {c.path_in_schema for c in columns if c.physical_type in ("FLOAT", "DOUBLE")}
    assert any("keypoints" in path for path in split)


def test_the_file_says_what_readers_need_without_our_code(
    builder: tiny_dataset.Builder, clips: tuple[Labelled, ...]
) -> None:
    metadata = pq.read_schema(builder.root / builder.shard(clips).parquet.key).metadata
    features = json.loads(metadata[b"huggingface"])["info"]["features"]
    assert features == {"clip": {"_type": "Video"}, "audio": {"_type": "Audio"}}
    assert len(json.loads(metadata[b"keypoint_names"])) == 133
    assert json.loads(metadata[b"fps"]) == 25
    assert json.loads(metadata[b"schema_version"]) >= 1
    assert {i for pair in json.loads(metadata[b"skeleton"]) for i in pair} <= set(range(133))


def test_media_that_is_not_embedded_lies_beside_the_shard(
    builder: tiny_dataset.Builder, clips: tuple[Labelled, ...]
) -> None:
    shard = builder.shard(clips, bucket=1, embed_media=False)
    assert len(shard.media) == 6
    for row in read_rows(builder.root / shard.parquet.key):
        for column in ("clip", "audio"):
            assert row[column]["bytes"] is None
            assert (builder.root / "dataset" / row[column]["path"]).is_file()
            assert row[column]["path"].startswith(f"clips/{row['clip_id']}.")
    # The workspace's own copies stay where they are.
    assert (builder.root / clips[0].clip.mp4.key).is_file()


def test_artifacts_that_name_different_people_are_refused(
    builder: tiny_dataset.Builder, clips: tuple[Labelled, ...], tmp_path: Path
) -> None:
    poses = read_arrays(builder.root / clips[0].pose.poses.key)
    path = tmp_path / "one.parquet"
    write_arrays(path, POSES, poses[:1])
    pose = dataclasses.replace(clips[0].pose, poses=builder.context().commit(path, "poses", "damaged"))
    with pytest.raises(MediaError, match="name different people"):
        builder.shard((dataclasses.replace(clips[0], pose=pose),))


def test_a_unit_is_named_after_its_bucket() -> None:
    assert WriteShard(ShardsSettings()).unit_id(Bucket(3, 16, ())) == "00003-of-00016"


def test_videos_of_one_channel_share_a_split(clips: tuple[Labelled, ...]) -> None:
    video = clips[0].video
    for n in range(50):
        first = dataclasses.replace(video, video_id="a", channel_id=f"channel {n}", uploader="x")
        second = dataclasses.replace(video, video_id="b", channel_id=f"channel {n}", uploader="y")
        assert split_of(first, 0.3, 0.3) == split_of(second, 0.3, 0.3)


def anonymous(video: Video, n: int) -> Video:
    return dataclasses.replace(video, video_id=f"video {n}", channel_id=None, uploader=None)


def test_splits_have_about_their_shares_and_growing_one_moves_few(clips: tuple[Labelled, ...]) -> None:
    videos = [anonymous(clips[0].video, n) for n in range(2000)]
    before = [split_of(video, 0.1, 0.2) for video in videos]
    assert before.count("val") / 2000 == pytest.approx(0.1, abs=0.03)
    assert before.count("test") / 2000 == pytest.approx(0.2, abs=0.03)
    grown = [split_of(video, 0.2, 0.2) for video in videos]
    moved = {(a, b) for a, b in zip(before, grown, strict=True) if a != b}
    assert moved == {("train", "val")}
    assert {split_of(video, 0, 0) for video in videos} == {"train"}
