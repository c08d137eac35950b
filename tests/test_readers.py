"""The dataset opens in other people's tools, without our code, with equal values."""

from __future__ import annotations

import importlib
import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
import tiny_dataset

from mit_builder.dataset.reader import DatasetFiles

N_KEYPOINTS = 133


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_dataset.build(tmp_path_factory.mktemp("readers")).root / "dataset"


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["clip_id"]: row for row in DatasetFiles(folder).rows()}


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """One row as plain Python values (lists, dicts) against our reader's."""
    assert found["n_turns"] == expected["n_turns"]
    assert found["camera_motion_pct"] is None or np.isnan(found["camera_motion_pct"])
    assert bytes(found["clip"]["bytes"]) == expected["clip"]["bytes"]
    np.testing.assert_array_equal(np.array(list(found["voice_activity"]), np.float32), expected["voice_activity"])
    assert len(found["people"]) == len(expected["people"])
    for ours, theirs in zip(expected["people"], found["people"], strict=True):
        points = nested(theirs["keypoints"]).astype(np.float32)
        assert points.shape == (expected["n_frames"], N_KEYPOINTS, 3)
        assert np.isnan(points[:, 0, :2]).all()
        np.testing.assert_array_equal(points, ours["keypoints"])
        np.testing.assert_array_equal(nested(theirs["boxes_xyxy"]).astype(np.float32), ours["boxes_xyxy"])
        np.testing.assert_array_equal(nested(theirs["speak_periods"]).reshape(-1, 2), ours["speak_periods"])
        assert [bool(flag) for flag in theirs["speaking"]] == ours["speaking"].tolist()


def nested(values: Any) -> np.ndarray:
    """Lists or object arrays of arrays, as readers give them, as one array."""
    if isinstance(values, np.ndarray) and values.dtype != object:
        return values
    return np.array([nested(v) if isinstance(v, list | tuple | np.ndarray) else v for v in values], float)


def test_pyarrow_opens_the_shards(folder: Path, expected: dict[str, dict[str, Any]]) -> None:
    rows = pads.dataset(sorted(folder.glob("*.parquet"))).to_table().to_pylist()
    assert {row["clip_id"] for row in rows} == set(expected)
    for row in rows:
        assert_same(row, expected[row["clip_id"]])


def test_pandas_opens_the_shards(folder: Path, expected: dict[str, dict[str, Any]]) -> None:
    pandas = pytest.importorskip("pandas")
    frames = [pandas.read_parquet(path) for path in sorted(folder.glob("*.parquet"))]
    rows = pandas.concat(frames).to_dict(orient="records")
    assert {row["clip_id"] for row in rows} == set(expected)
    for row in rows:
        assert_same(row, expected[row["clip_id"]])


def test_polars_opens_the_shards(folder: Path, expected: dict[str, dict[str, Any]]) -> None:
    polars = pytest.importorskip("polars")
    table = polars.read_parquet(folder / "*.parquet")
    person = table.schema["people"].inner
    assert {field.name: field.dtype for field in person.fields}["keypoints"] == polars.List(
        polars.Array(polars.Float32, (N_KEYPOINTS, 3))
    )
    assert {row["clip_id"] for row in table.to_dicts()} == set(expected)
    for row in table.to_dicts():
        assert_same(row, expected[row["clip_id"]])


def test_duckdb_opens_the_shards(folder: Path, expected: dict[str, dict[str, Any]]) -> None:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as connection:
        found = connection.execute(f"select * from read_parquet('{folder}/*.parquet')")
        names = [column[0] for column in found.description]
        rows = [dict(zip(names, values, strict=True)) for values in found.fetchall()]
        people = f"select clip_id, unnest(people) as p from '{folder}/*.parquet'"
        shares = connection.execute(f"select clip_id, max(p.talk_share) from ({people}) group by 1").fetchall()
    assert {row["clip_id"] for row in rows} == set(expected)
    for row in rows:
        assert_same(row, expected[row["clip_id"]])
    for name, share in shares:
        assert share == max(person["talk_share"] for person in expected[name]["people"])


@pytest.fixture
def loaded(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    files = str(folder / "shard-*.parquet")
    return datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))


def test_datasets_types_the_media_columns_and_pyav_decodes_them(
    loaded: Any, expected: dict[str, dict[str, Any]]
) -> None:
    import datasets

    assert isinstance(loaded.features["clip"], datasets.Video)
    assert isinstance(loaded.features["audio"], datasets.Audio)
    plain = loaded.cast_column("clip", datasets.Video(decode=False)).cast_column("audio", datasets.Audio(decode=False))
    assert {row["clip_id"] for row in plain} == set(expected)
    for row in plain:
        assert_same(row, expected[row["clip_id"]])
        with av.open(io.BytesIO(row["clip"]["bytes"])) as container:
            assert sum(1 for _ in container.decode(video=0)) == row["n_frames"]
        with av.open(io.BytesIO(row["audio"]["bytes"])) as container:
            assert sum(frame.samples for frame in container.decode(audio=0)) == 640 * row["n_frames"]


def test_datasets_decodes_the_clips_itself(loaded: Any) -> None:
    try:
        importlib.import_module("torchcodec")
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"the decoder of `datasets`, torchcodec, cannot be imported: {str(error).splitlines()[0]}")
    row = loaded[0]
    assert len(row["clip"]) == row["n_frames"]
    assert row["audio"].get_all_samples().data.shape[-1] == 640 * row["n_frames"]


def test_a_row_group_can_be_read_without_its_media(folder: Path) -> None:
    path = sorted(folder.glob("*.parquet"))[0]
    table = pq.ParquetFile(path).read(columns=["clip_id", "people.list.element.talk_share"])
    assert table.column_names == ["clip_id", "people"]
    assert table["people"][0][0].as_py().keys() == {"talk_share"}
