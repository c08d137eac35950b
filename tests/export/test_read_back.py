"""Every form is read by the library that its users use, and holds the values of the Parquet."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_dataset
import yaml

from manifests.rows import Correction
from mit_builder.dataset.reader import DatasetFiles, read_rows
from mit_builder.exports.make import ExportRequest, make_export
from mit_builder.labels.keypoints import SEEN_SCORE
from mit_builder.storage.workspace import Workspace

ARRAYS = ("boxes_xyxy", "face_boxes_xyxy", "keypoints", "speaking_score", "speaking_score_smoothed", "speaking")
PERIODS = ("speak_periods", "listen_periods", "speak_periods_merged", "listen_periods_merged", "human_periods")
PARTS = {
    "keypoints": (0, 17),
    "foot_kpts": (17, 23),
    "face_kpts": (23, 91),
    "lefthand_kpts": (91, 112),
    "righthand_kpts": (112, 133),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_dataset.build(tmp_path_factory.mktemp("exported")).root


@pytest.fixture(scope="module")
def rows(root: Path) -> dict[str, dict[str, Any]]:
    return {row["clip_id"]: row for row in DatasetFiles(root).rows()}


def exported(root: Path, tmp_path: Path, form: str, *, with_media: bool = True) -> Path:
    make_export(Workspace(root), ExportRequest(form, tmp_path / form, with_media))
    return tmp_path / form


@pytest.mark.filterwarnings("default::pytest.PytestUnraisableExceptionWarning")  # it leaves its files open
def test_webdataset_reads_the_tars(root: Path, rows: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    folder = exported(root, tmp_path, "webdataset")
    tars = sorted(map(str, folder.glob("*.tar")))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode())
    assert {sample["__key__"] for sample in samples} == set(rows)
    for sample in samples:
        row = rows[sample["__key__"]]
        arrays = np.load(io.BytesIO(sample["npz"])) if isinstance(sample["npz"], bytes) else sample["npz"]
        assert sample["mp4"] == row["clip"]["bytes"]
        assert sample["flac"] == row["audio"]["bytes"]
        meta = sample["json"]
        assert meta["source_url"] == row["source_url"]
        assert meta["n_turns"] == row["n_turns"]
        assert [c["text"] for c in meta["captions"]] == [c["text"] for c in row["captions"]]
        np.testing.assert_array_equal(arrays["voice_activity"], row["voice_activity"])
        np.testing.assert_array_equal(arrays["source_frame_index"], row["source_frame_index"])
        for i, person in enumerate(row["people"]):
            for name in ARRAYS:
                np.testing.assert_array_equal(arrays[f"people_{name}"][i], person[name])
            assert arrays["people_face_box_source"][i].tolist() == person["face_box_source"].tolist()
            for name in PERIODS:
                assert meta["people"][i][name] == person[name].tolist()
            assert meta["people"][i]["talk_share"] == person["talk_share"]


def test_pycocotools_reads_the_annotations(root: Path, rows: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    folder = exported(root, tmp_path, "coco-wholebody")
    n_images = 0
    for path in (folder / "annotations").iterdir():
        loaded = coco.COCO(str(path))
        for image in loaded.loadImgs(loaded.getImgIds()):
            row = rows[image["clip_id"]]
            assert path.stem == f"coco_wholebody_{row['split']}"
            assert (image["width"], image["height"]) == (row["width_px"], row["height_px"])
            assert (folder / "images" / image["file_name"]).is_file()
            found = loaded.loadAnns(loaded.getAnnIds(imgIds=image["id"]))
            assert [annotation["person_id"] for annotation in found] == list(range(row["n_people"]))
            for annotation in found:
                assert_annotation(annotation, row["people"][annotation["person_id"]], image["frame"])
            n_images += 1
    assert n_images == sum(row["n_frames"] for row in rows.values())


def assert_annotation(annotation: dict[str, Any], person: dict[str, Any], frame: int) -> None:
    points = person["keypoints"][frame]
    x0, y0, x1, y1 = person["boxes_xyxy"][frame].astype(float)
    assert annotation["bbox"] == [x0, y0, x1 - x0, y1 - y0]
    assert annotation["speaking"] == person["speaking"][frame]
    assert annotation["speaking_score"] == person["speaking_score_smoothed"][frame]
    np.testing.assert_array_equal(np.float32(annotation["keypoint_scores"]), points[:, 2])
    for name, (start, end) in PARTS.items():
        triples = np.reshape(annotation[name], (-1, 3))
        known = np.isfinite(points[start:end, 0])
        np.testing.assert_array_equal(triples[known, :2].astype(np.float32), points[start:end][known, :2])
        np.testing.assert_array_equal(triples[known, 2] == 2, points[start:end][known, 2] >= SEEN_SCORE)
        assert not triples[~known].any()
    assert annotation["num_keypoints"] == 16
    for name in ("face", "lefthand", "righthand"):
        x, y, _ = np.reshape(annotation[f"{name}_kpts"], (-1, 3)).T
        assert annotation[f"{name}_valid"]
        assert annotation[f"{name}_box"] == [x.min(), y.min(), x.max() - x.min(), y.max() - y.min()]


def test_coco_images_show_the_frames(root: Path, rows: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    import cv2

    folder = exported(root, tmp_path, "coco-wholebody")
    clip_id = next(name for name in rows if name.endswith("000000to000040"))
    image = cv2.imread(str(folder / "images" / clip_id / "000020.jpg")).astype(int)
    bright = np.argwhere(image[:, :, 2] > 190)
    assert abs(bright[:, 1].min() - 30) <= 2  # source_frames moves its block a pixel a frame, from 10
    assert abs(bright[:, 0].min() - 40) <= 2


def test_datasets_loads_the_hub_folder(root: Path, rows: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    folder = exported(root, tmp_path, "hf")
    front = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    files = {entry["split"]: entry["path"] for entry in front["configs"][0]["data_files"]}
    assert set(files) == {row["split"] for row in rows.values()}
    assert f'split="{min(files)}"' in (folder / "README.md").read_text()
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    n_rows = 0
    for split, part in loaded.items():
        assert isinstance(part.features["clip"], datasets.Video)
        assert isinstance(part.features["audio"], datasets.Audio)
        plain = part.cast_column("clip", datasets.Video(decode=False))
        plain = plain.cast_column("audio", datasets.Audio(decode=False))
        for found in plain:
            row = rows[found["clip_id"]]
            assert row["split"] == split
            assert found["clip"]["bytes"] == row["clip"]["bytes"]
            assert found["audio"]["bytes"] == row["audio"]["bytes"]
            for ours, theirs in zip(row["people"], found["people"], strict=True):
                for name in ARRAYS:
                    np.testing.assert_array_equal(np.array(theirs[name], ours[name].dtype), ours[name])
            n_rows += 1
    assert n_rows == len(rows)


def test_hub_folder_without_footage_has_no_media_columns(root: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    folder = exported(root, tmp_path, "hf", with_media=False)
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert all({"clip", "audio"}.isdisjoint(part.column_names) for part in loaded.values())


def test_hub_folder_embeds_media_that_lies_beside_the_dataset(tmp_path: Path) -> None:
    apart = tiny_dataset.build(tmp_path / "apart", embed_media=False).root
    folder = exported(apart, tmp_path, "hf")
    cells = [row for path in sorted((folder / "data").iterdir()) for row in pq.read_table(path).to_pylist()]
    for cell in cells:
        lies = next((apart / "dataset" / "clips").glob(f"{cell['clip_id']}.*.mp4"))
        assert cell["clip"]["bytes"] == lies.read_bytes()


def test_manifest_holds_labels_and_hashes_and_neither_footage_nor_names(
    root: Path, rows: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    folder = exported(root, tmp_path, "manifest", with_media=False)
    found = pq.read_table(folder / "clips-00000.parquet").to_pylist()
    assert [row["clip_id"] for row in found] == list(rows)
    for row in found:
        expected = rows[row["clip_id"]]
        assert row["clip_sha256"] == hashlib.sha256(expected["clip"]["bytes"]).hexdigest()
        assert row["audio_sha256"] == hashlib.sha256(expected["audio"]["bytes"]).hexdigest()
        for ours, theirs in zip(expected["people"], row["people"], strict=True):
            for name in ARRAYS:
                np.testing.assert_array_equal(np.array(theirs[name], ours[name].dtype), ours[name])
    everything = b"".join(path.read_bytes() for path in folder.iterdir())
    for secret in (b"Two | discs", b"morning", b"channel-a", next(iter(rows.values()))["clip"]["bytes"][:64]):
        assert secret not in everything


@pytest.mark.parametrize("form", ["manifest", "webdataset", "coco-wholebody", "hf"])
def test_equal_datasets_give_equal_bytes(root: Path, tmp_path: Path, form: str) -> None:
    trees = []
    for place in ("one", "two"):
        folder = exported(root, tmp_path / place, form, with_media=form != "manifest")
        files = (path for path in folder.rglob("*") if path.is_file())
        trees.append({str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files})
    assert trees[0] == trees[1]
    assert json.loads((tmp_path / "one" / form / "export.json").read_text())["format"] == form


def test_a_reviewers_correction_is_in_the_exports(tmp_path: Path) -> None:
    builder = tiny_dataset.Builder(tmp_path / "w")
    clip = builder.labelled(tiny_dataset.PLANS[0])
    before = builder.shard((clip,))
    spoken = next(read_rows(builder.root / before.parquet.key))["people"][1]["speaking"]
    quiet = int(np.flatnonzero(~spoken)[0])
    correction = Correction(1, quiet, quiet + 6, True, 0.0, 0.0)
    builder.publish(builder.shard((dataclasses.replace(clip, corrections=(correction,)),)))
    (row,) = DatasetFiles(builder.root).rows()
    assert row["people"][1]["speaking"][quiet : quiet + 6].all()
    tars = exported(builder.root, tmp_path, "webdataset", with_media=False)
    with tarfile.open(next(tars.glob("*.tar"))) as tar:
        files = {member.name.partition(".")[2]: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    arrays = np.load(io.BytesIO(files["npz"]))
    np.testing.assert_array_equal(arrays["people_speaking"][1], row["people"][1]["speaking"])
    assert json.loads(files["json"])["people"][1]["human_periods"] == [[quiet, quiet + 6]]
    coco = json.loads(next((exported(builder.root, tmp_path, "coco-wholebody") / "annotations").iterdir()).read_text())
    said = [a["speaking"] for a in coco["annotations"] if a["person_id"] == 1]
    assert said == row["people"][1]["speaking"].tolist()
