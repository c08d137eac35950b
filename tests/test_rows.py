from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa
import pytest

import manifests.rows
from manifests.dataset_row import DatasetRow
from manifests.fields import doc
from manifests.rows import (
    Artifact,
    Bucket,
    Candidate,
    CutJob,
    Shot,
    ShotRun,
    Source,
    Video,
    clip_id,
    short_id,
)
from manifests.schema import arrow_schema, arrow_type, artifacts, content, content_hash, from_dict, to_dict

MEDIA = Artifact("videos/v.01234567.mp4", "ab" * 32, 1000)
VIDEO = Video(
    "v", "s", "http://host/a", "Title", None, None, None, None, "public", MEDIA, 4.0, 100, "30000/1001", 640, 360, True
)
CANDIDATE = Candidate(
    "v_000000to000100",
    "v",
    0,
    100,
    (3, 1),
    2,
    Artifact("tracks/t", "cd" * 32, 5),
    "kept",
    None,
    80.5,
    0.9,
    None,
    0.5,
    1.0,
    0,
    None,
    100.0,
    12.0,
    "detector 1",
)
ROWS = [
    MEDIA,
    Source("s", "http://host/a", "url"),
    VIDEO,
    ShotRun(VIDEO, (Shot("v", 0, 40), Shot("v", 40, 100))),
    ShotRun(VIDEO, ()),
    CANDIDATE,
    CutJob(VIDEO, CANDIDATE),
    Bucket(1, 4, ()),
]


def row_classes() -> list[type]:
    return [
        kind
        for _, kind in inspect.getmembers(manifests.rows, inspect.isclass)
        if dataclasses.is_dataclass(kind) and kind.__module__ == manifests.rows.__name__
    ]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_a_row_survives_arrow(row: Any) -> None:
    table = pa.Table.from_pylist([to_dict(row)], schema=arrow_schema(type(row)))
    assert from_dict(type(row), table.to_pylist()[0]) == row


def test_a_newer_file_opens_in_older_code() -> None:
    values = to_dict(VIDEO) | {"added_later": 3}
    assert from_dict(Video, values) == VIDEO


@pytest.mark.parametrize("kind", row_classes(), ids=lambda kind: kind.__name__)
def test_every_row_is_frozen_and_every_field_has_a_type_and_says_what_it_is(kind: type) -> None:
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert kind.__doc__
    for field in arrow_schema(kind):
        assert field.metadata[b"doc"]


def test_optional_fields_are_nullable_and_the_others_are_not() -> None:
    schema = arrow_schema(Video)
    assert schema.field("title").nullable
    assert not schema.field("video_id").nullable
    assert not schema.field("media").nullable


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (str, pa.string()),
        (int, pa.int64()),
        (float, pa.float64()),
        (bool, pa.bool_()),
        (str | None, pa.string()),
        (Literal["a", "b"], pa.string()),
        (Literal["a", "b"] | None, pa.string()),
        (tuple[int, ...], pa.list_(pa.int64())),
    ],
    ids=str,
)
def test_annotations_have_arrow_types(annotation: Any, expected: pa.DataType) -> None:
    assert arrow_type(annotation) == expected


def test_nested_rows_are_structs_and_other_annotations_are_refused() -> None:
    assert arrow_type(tuple[Artifact, ...]) == pa.list_(pa.struct(list(arrow_schema(Artifact))))
    with pytest.raises(TypeError, match="no Arrow type"):
        arrow_type(complex)


def test_titles_places_and_timings_do_not_change_the_content() -> None:
    moved = replace(VIDEO, title="Other", source_id="t", media=replace(MEDIA, key="videos/v.89abcdef.mp4", n_bytes=1))
    assert content_hash(moved) == content_hash(VIDEO)
    assert content_hash(replace(CANDIDATE, min_face_px=1.0, verdict="rejected")) == content_hash(CANDIDATE)


@pytest.mark.parametrize(
    "other",
    [
        replace(VIDEO, video_id="w"),
        replace(VIDEO, media=replace(MEDIA, sha256="cd" * 32)),
    ],
)
def test_what_a_video_is_changes_the_content(other: Video) -> None:
    assert content_hash(other) != content_hash(VIDEO)


def test_a_candidates_people_and_frames_are_its_content() -> None:
    for other in (
        replace(CANDIDATE, end_frame=99),
        replace(CANDIDATE, track_ids=(1, 3)),
        replace(CANDIDATE, tracks=replace(CANDIDATE.tracks, sha256="ef" * 32)),
    ):
        assert content_hash(other) != content_hash(CANDIDATE)


def test_with_everything_only_the_place_of_artifacts_does_not_count() -> None:
    bucket = CutJob(VIDEO, CANDIDATE)
    whole = content(bucket, everything=True)
    assert content(CutJob(replace(VIDEO, title="Other"), CANDIDATE), everything=True) != whole
    assert content(CutJob(replace(VIDEO, media=replace(MEDIA, key="x")), CANDIDATE), everything=True) == whole
    assert content(CutJob(replace(VIDEO, media=replace(MEDIA, sha256="x")), CANDIDATE), everything=True) != whole


def test_a_field_that_came_later_counts_as_content_only_where_it_is_set() -> None:
    assert "sound" not in content(VIDEO)
    assert content(replace(VIDEO, sound=()))["sound"] == []
    assert content_hash(replace(VIDEO, gain_db=1.0)) != content_hash(VIDEO)


def test_hashes_keep_their_value_from_version_to_version() -> None:
    # Every workspace would be done again if these changed.
    assert content_hash("a", 1, None, 0.1, [True], VIDEO) == "a6da044c40ffcbff1c561362f99c3f76"
    assert short_id("file", "abc") == "40eb29fe4dafad4e"
    assert clip_id("v", 7, 123456) == "v_000007to123456"


def test_parts_of_an_id_do_not_run_into_each_other() -> None:
    assert short_id("ab", "c") != short_id("a", "bc")
    assert content_hash("ab", "c") != content_hash("a", "bc")
    assert content_hash(1) != content_hash("1")
    assert content_hash(1.0) != content_hash(1.5)


def test_artifacts_are_found_however_deep() -> None:
    assert list(artifacts(CutJob(VIDEO, CANDIDATE))) == [MEDIA, CANDIDATE.tracks]
    assert list(artifacts((Shot("v", 0, 1), [VIDEO]))) == [MEDIA]
    assert list(artifacts("text")) == []


def test_a_row_of_a_stage_of_ones_own_works_alike() -> None:
    @dataclass(frozen=True)
    class Mood:
        clip_id: str = doc("the clip")
        scores: tuple[float, ...] = doc("a score a frame")
        note: str | None = doc("a remark", identity=False)

    row = Mood("c", (0.5, 0.25), None)
    table = pa.Table.from_pylist([to_dict(row)], schema=arrow_schema(Mood))
    assert from_dict(Mood, table.to_pylist()[0]) == row
    assert content_hash(row) == content_hash(replace(row, note="x"))


def test_the_dataset_says_what_unit_a_column_has() -> None:
    names = set(arrow_schema(DatasetRow).names)
    assert {"start_s", "end_s", "width_px", "height_px", "loudness_dbfs", "n_frames"} <= names


def test_captions_make_the_dataset_due_and_nothing_else() -> None:
    captioned = dataclasses.replace(VIDEO, captions=Artifact("videos/x.parquet", "1" * 64, 10))
    assert content(captioned) == content(VIDEO)
    assert content(captioned, everything=True) != content(VIDEO, everything=True)
    for video in (captioned, VIDEO):
        table = pa.Table.from_pylist([to_dict(video)], arrow_schema(Video))
        assert from_dict(Video, table.to_pylist()[0]) == video
