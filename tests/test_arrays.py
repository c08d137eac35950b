from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.arrays import float_leaves, read_arrays, to_arrow, to_numpy, write_arrays, write_columns
from manifests.rows import KEYPOINTS, POSES, SIGNALS, SPEECH, TRACK, VOICE

RNG = np.random.default_rng(3)
RATIOS = [name for name in POSES.names if name.endswith("_visible_ratio")]


def pose(person_id: int, n_frames: int) -> dict[str, Any]:
    keypoints = RNG.random((n_frames, 133, 3), np.float32)
    keypoints[:, 91:] = (np.nan, np.nan, 0)
    return {"person_id": person_id, "keypoints": keypoints, **dict.fromkeys(RATIOS, 0.5)}


def speech(n_frames: int, periods: list[tuple[int, int]]) -> dict[str, Any]:
    return {
        "person_id": 0,
        "face_boxes_xyxy": RNG.random((n_frames, 4), np.float32),
        "face_box_source": ["pose"] * n_frames,
        "speaking_score": RNG.random(n_frames, np.float32),
        "speaking_score_smoothed": RNG.random(n_frames, np.float32),
        "speaking": np.arange(n_frames) % 2 == 0,
        "speak_periods": np.array(periods, np.int32).reshape(-1, 2),
        "listen_periods": np.empty((0, 2), np.int32),
        "speak_periods_merged": np.array(periods, np.int32).reshape(-1, 2),
        "listen_periods_merged": np.empty((0, 2), np.int32),
    }


def assert_equal(found: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    for one, other in zip(found, rows, strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            np.testing.assert_array_equal(one[name], value)


def test_people_with_different_numbers_of_frames_survive_bit_for_bit(tmp_path: Path) -> None:
    rows = [pose(0, 7), pose(1, 3)]
    write_arrays(tmp_path / "p.parquet", POSES, rows)
    found = read_arrays(tmp_path / "p.parquet")
    assert_equal(found, rows)
    assert found[0]["keypoints"].dtype == np.float32
    assert found[0]["keypoints"].shape == (7, 133, 3)
    assert found[1]["person_id"] == 1


def test_flags_texts_and_periods_survive_empty_ones_too(tmp_path: Path) -> None:
    rows = [speech(6, [(0, 2), (4, 6)]), speech(4, [])]
    write_arrays(tmp_path / "s.parquet", SPEECH, rows)
    found = read_arrays(tmp_path / "s.parquet")
    assert_equal(found, rows)
    assert found[0]["speaking"].dtype == bool
    assert found[0]["speak_periods"].dtype == np.int32
    assert found[1]["speak_periods"].shape == (0, 2)
    assert list(found[0]["face_box_source"]) == ["pose"] * 6


@pytest.mark.parametrize(
    "schema", [TRACK, POSES, SPEECH, SIGNALS, VOICE], ids=["track", "poses", "speech", "signals", "voice"]
)
def test_a_file_without_rows_survives(tmp_path: Path, schema: pa.Schema) -> None:
    write_arrays(tmp_path / "e.parquet", schema, [])
    assert read_arrays(tmp_path / "e.parquet") == []
    assert pq.read_schema(tmp_path / "e.parquet").equals(schema)


def test_plain_values_may_be_missing(tmp_path: Path) -> None:
    rows = [
        {"frame": 0, "camera_motion_pct": None, "voice_activity": 0.5, "brightness": 1.0, "sharpness": 2.0},
        {"frame": 1, "camera_motion_pct": 0.25, "voice_activity": None, "brightness": 1.0, "sharpness": 2.0},
    ]
    write_arrays(tmp_path / "s.parquet", SIGNALS, rows)
    assert read_arrays(tmp_path / "s.parquet") == rows


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    rows = [speech(6, [(0, 2)])]
    for name in ("one", "two"):
        write_arrays(tmp_path / name, SPEECH, rows)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_lists_of_python_values_may_stand_for_arrays() -> None:
    column = to_arrow([[[0.0, 1.0, 2.0, 3.0]], []], TRACK.field("boxes_xyxy").type)
    assert to_numpy(column[0]).tolist() == [[0.0, 1.0, 2.0, 3.0]]
    assert len(column[1]) == 0


def test_an_array_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises((ValueError, pa.ArrowInvalid)):
        pa.table({"k": to_arrow([np.zeros((2, 133, 2), np.float32)], KEYPOINTS)}).validate(full=True)


def test_a_slice_of_a_column_gives_its_own_values() -> None:
    arrays = [np.full((n, 4), n, np.float32) for n in (1, 2, 3)]
    column = to_arrow(arrays, TRACK.field("boxes_xyxy").type).slice(1)
    assert to_numpy(column[0]).tolist() == [[2.0] * 4] * 2
    assert to_numpy(column[1]).shape == (3, 4)


def test_all_floats_and_nothing_else_are_stored_by_bytes(tmp_path: Path) -> None:
    assert float_leaves(POSES) == ["keypoints.list.element.list.element.list.element", *RATIOS]
    write_arrays(tmp_path / "s.parquet", SPEECH, [speech(50, [(0, 2)])])
    group = pq.read_metadata(tmp_path / "s.parquet").row_group(0)
    for i in range(group.num_columns):
        column = group.column(i)
        assert ("BYTE_STREAM_SPLIT" in column.encodings) is (column.physical_type == "FLOAT")
        assert column.compression == "ZSTD"


def test_columns_are_written_as_rows_would_be_and_unknown_values_are_null(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("frame", pa.int32(), nullable=False), pa.field("motion", pa.float32())])
    motion = np.array([0.5, np.nan, 2.0], np.float32)
    write_columns(tmp_path / "columns", schema, {"frame": np.arange(3), "motion": motion})
    rows = [{"frame": i, "motion": None if np.isnan(v) else float(v)} for i, v in enumerate(motion)]
    write_arrays(tmp_path / "rows", schema, rows)
    assert (tmp_path / "columns").read_bytes() == (tmp_path / "rows").read_bytes()
    assert pq.read_table(tmp_path / "columns").to_pylist() == rows
