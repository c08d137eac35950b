from __future__ import annotations

import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny_dataset

from mit_builder.dataset.reader import DatasetFiles
from mit_builder.errors import ConfigError
from mit_builder.exports.check import check_export
from mit_builder.exports.make import ExportRequest, make_export
from mit_builder.exports.mit import CANVAS_WH, Fit, instance_boxes
from mit_builder.storage.workspace import Workspace

ENCODER = "test_mit_encoder:Encoder"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_dataset.build(tmp_path_factory.mktemp("exported")).root


@pytest.fixture(scope="module")
def made(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("mit") / "export"
    clip_ids = {row["clip_id"] for row in DatasetFiles(root).rows()}
    chosen = {name for name in clip_ids if not name.endswith("000044to000076")}  # two suffice: frames are large
    make_export(Workspace(root), ExportRequest("mit", output, with_media=True, only=chosen))
    return output


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def test_export_is_complete_but_for_audio_embeddings(made: Path) -> None:
    verdict = check_export(made)
    assert verdict.problems == ()
    assert verdict.summary == "complete but for audio embeddings (2 of 2 clips)"


def test_poses_are_matched_to_people_as_covog_does(made: Path, copy: Path) -> None:
    assert check_export(made).matched == 1
    for path in (copy / "clips").iterdir():
        speakers = path / "speaker_info_with_instance_bbox.json"
        edit(speakers, lambda people: people[0].update(instance_bbox=people[1]["instance_bbox"]))
    matched = check_export(copy).matched
    assert matched is not None
    assert 0.5 <= matched < 0.7, "of 2 and of 3 people, one is taken for another"


def check_periods(speaker: dict[str, Any], person: dict[str, Any], merged: str) -> None:
    """Half-open frames; speaking and listening share out the clip."""
    assert speaker["speak"] == person[f"speak_periods{merged}"].tolist()
    assert speaker["listen"] == person[f"listen_periods{merged}"].tolist()
    assert speaker["period_num"] == len(speaker["speak"]) + len(speaker["listen"])
    frames = [frame for start, end in speaker["speak"] + speaker["listen"] for frame in range(start, end)]
    assert sorted(frames) == list(range(len(person["speaking"])))


def test_the_other_speaker_infos_say_the_same_and_the_merged_periods(root: Path, made: Path) -> None:
    for row in (row for row in DatasetFiles(root).rows() if (made / "clips" / row["clip_id"]).exists()):
        for merged in ("", "_merged"):
            speakers = json.loads((made / "clips" / row["clip_id"] / f"speaker_info{merged}.json").read_text())
            for speaker, person in zip(speakers, row["people"], strict=True):
                check_periods(speaker, person, merged)
                assert np.float32(speaker["speaking_score"]).tolist() == person["speaking_score_smoothed"].tolist()


def test_the_masks_that_covog_makes_hold_the_person_that_they_are_of(root: Path, made: Path) -> None:
    """A person's box mask and face mask, built as the training code does, against the dataset's own boxes."""
    for row in (row for row in DatasetFiles(root).rows() if (made / "clips" / row["clip_id"]).exists()):
        clip, fit = made / "clips" / row["clip_id"], Fit.of(row["width_px"], row["height_px"])
        speakers = json.loads((clip / "speaker_info_with_instance_bbox.json").read_text())
        poses = [json.loads(path.read_text())["instance_info"] for path in sorted((clip / "pose").iterdir())]
        for p, (speaker, person) in enumerate(zip(speakers, row["people"], strict=True)):
            x0, y0, x1, y1 = speaker["instance_bbox"]
            bodies = fit.boxes(person["boxes_xyxy"])
            assert (y0, y1) == (bodies[:, 1].min().clip(0), bodies[:, 3].max().clip(max=1080))
            faces = fit.boxes(person["face_boxes_xyxy"])
            middles = (faces[:, :2] + faces[:, 2:]) / 2
            assert ((middles >= (x0, y0)) & (middles <= (x1, y1))).all()
            for other in (q for q in range(len(speakers)) if q != p):
                x0_other, _, x1_other, _ = speakers[other]["instance_bbox"]
                assert x1 <= x0_other or x1_other <= x0
            for frame in (0, len(poses) // 2, len(poses) - 1):
                shown = fit.points(person["keypoints"][frame, [23, 31, 39, 53], :2])
                corners = np.array(poses[frame][p]["keypoints"])[[23, 31, 39, 53]]
                np.testing.assert_allclose(corners, shown, rtol=1e-6)
                mask = np.zeros((1080, 1920), np.uint8)
                cv2.fillConvexPoly(mask, cv2.convexHull(corners.round().astype(np.int32)), 1)
                ys, xs = np.nonzero(mask)
                assert ((xs >= x0) & (xs <= x1) & (ys >= y0) & (ys <= y1)).all()


def test_files_hold_the_values_of_the_parquet(root: Path, made: Path) -> None:
    samples = [s for path in made.glob("*.json") if path.name != "export.json" for s in json.loads(path.read_text())]
    places = {Path(sample["image_dir"]).parent.name: sample for sample in samples}
    assert len(places) == 2
    for row in (row for row in DatasetFiles(root).rows() if row["clip_id"] in places):
        sample = places[row["clip_id"]]
        fit = Fit.of(row["width_px"], row["height_px"])
        speakers = json.loads((made / sample["speak_info_path"]).read_text())
        for speaker, person in zip(speakers, row["people"], strict=True):
            assert np.float32(speaker["speaking_score"]).tolist() == person["speaking_score_smoothed"].tolist()
            check_periods(speaker, person, "")
            assert speaker["clip_range"] == [1, row["n_frames"]]
            np.testing.assert_allclose(speaker["face_track"], fit.boxes(person["face_boxes_xyxy"]))
        paths = sorted((made / sample["image_dir"].replace("frames", "pose")).iterdir())
        assert len(paths) == row["n_frames"]
        for frame in (0, 7, row["n_frames"] - 1):
            instances = json.loads(paths[frame].read_text())["instance_info"]
            for instance, person in zip(instances, row["people"], strict=True):
                points = person["keypoints"][frame]
                known = np.isfinite(points[:, 0])
                expected = np.where(known[:, None], fit.points(points[:, :2]), 0)
                np.testing.assert_allclose(instance["keypoints"], expected, rtol=1e-6)
                np.testing.assert_array_equal(np.float32(instance["keypoint_scores"]), points[:, 2])
        meta = json.loads((made / sample["image_dir"]).parent.joinpath("meta.json").read_text())
        assert (meta["num_speaker"], meta["period"]) == (row["n_people"], [row["start_s"], row["end_s"]])


def test_frames_and_poses_lie_on_one_canvas(made: Path) -> None:
    """The block of the 160x120 source moves a pixel a frame from 10; it is 9 canvas pixels wide, 240 from the left."""
    clip = next(path for path in (made / "clips").iterdir() if path.name.endswith("000000to000040"))
    image = cv2.imread(str(clip / "frames" / "output_0021.png"))
    assert image.shape == (CANVAS_WH[1], CANVAS_WH[0], 3)
    assert not image[:, :235].any()
    bright = np.argwhere(image[:, :, 2] > 190)
    assert abs(bright[:, 1].min() - (240 + 9 * 30)) <= 12
    assert abs(bright[:, 0].min() - 9 * 40) <= 12
    pose = cv2.imread(str(clip / "pose_frame" / "output_0021.png"))
    instances = json.loads((clip / "pose" / "output_0021.json").read_text())["instance_info"]
    for instance in instances:
        for point in (5, 10, 60, 95, 112, 120, 132):  # shoulder, right wrist, face, left and right hand
            x, y = (round(v) for v in instance["keypoints"][point])
            assert pose[y, x].any(), "a point is drawn where its keypoint is"


@pytest.mark.parametrize(("width_px", "height_px"), [(1920, 1080), (640, 360), (1080, 1920), (3840, 1600), (7, 3)])
def test_a_picture_of_any_shape_fits_the_canvas(width_px: int, height_px: int) -> None:
    fit = Fit.of(width_px, height_px)
    corners = fit.points(np.array([[0, 0], [width_px, height_px]]))
    assert (corners >= -1e-9).all()
    assert (corners <= np.array(CANVAS_WH) + 1e-9).all()
    assert np.isclose(corners[1] - corners[0], CANVAS_WH).any()
    assert fit.image(np.full((height_px, width_px, 3), 255, np.uint8)).shape == (1080, 1920, 3)


def test_boxes_of_neighbours_part_in_the_middle_of_their_overlap() -> None:
    boxes = np.array([[[900, 10, 1700, 1000]], [[100, 0, 1000, 2000]]], float)
    assert instance_boxes(boxes).tolist() == [[950, 10, 1700, 1000], [100, 0, 950, 1080]]


def damage(name: str) -> Callable[[Path], None]:
    def change(clip: Path) -> None:
        pose, image = clip / "pose" / "output_0003.json", clip / "frames" / "output_0002.png"
        speakers = clip / "speaker_info_with_instance_bbox.json"
        actions: dict[str, Callable[[], Any]] = {
            "a frame is gone": image.unlink,
            "a frame is cut short": lambda: image.write_bytes(image.read_bytes()[:-40]),
            "a frame has a flipped byte": lambda: image.write_bytes(flipped(image.read_bytes())),
            "a frame has another size": lambda: cv2.imwrite(str(image), np.zeros((720, 1280, 3), np.uint8)),
            "a frame is grey": lambda: cv2.imwrite(str(image), np.zeros((1080, 1920), np.uint8)),
            "another file in pose_frame": lambda: (clip / "pose_frame" / "Thumbs.db").write_bytes(b""),
            "a pose is gone": pose.unlink,
            "a pose is no JSON": lambda: pose.write_text(pose.read_text()[:-5]),
            "a pose has nobody": lambda: pose.write_text('{"instance_info": []}'),
            "a pose has 132 points": lambda: pose.write_text(shortened(pose.read_text())),
            "a pose is NaN": lambda: pose.write_text(pose.read_text().replace("0.0,", "NaN,", 1)),
            "a score is missing": lambda: edit(speakers, lambda s: s[0]["speaking_score"].pop()),
            "clip_range begins at 0": lambda: edit(speakers, lambda s: s[0].update(clip_range=[0, 39])),
            "no instance_bbox": lambda: edit(speakers, lambda s: s[1].pop("instance_bbox")),
            "a box beyond the canvas": lambda: edit(speakers, lambda s: s[1].update(instance_bbox=[0, 0, 1921, 9])),
            "speaker info is gone": speakers.unlink,
            "poses are gone": lambda: shutil.rmtree(clip / "pose"),
            "an embedding that is none": lambda: (clip / "audio_embeding.pt").write_bytes(b"x"),
            "an embedding of a frame less": lambda: embedding(clip, n_frames=39),
            "an embedding of half precision": lambda: embedding(clip, n_frames=20),
            "the index lost a clip": lambda: edit(index_of(clip), lambda s: s.pop()),
            "the index is damaged": lambda: index_of(clip).write_text("["),
            "a path leads out": lambda: edit(index_of(clip), lambda s: s[0].update(pose_dir="../elsewhere")),
            "a link leads out": lambda: (
                (clip / "pose").rename(clip.parent.parent.with_name("elsewhere"))
                and (clip / "pose").symlink_to(clip.parent.parent.with_name("elsewhere"))
            ),
        }
        actions[name]()

    return change


def embedding(clip: Path, n_frames: int) -> None:
    """A file as torch.save writes it, in what a reader without torch sees of it."""
    with zipfile.ZipFile(clip / "audio_embeding.pt", "w") as file:
        file.writestr("archive/data.pkl", b"")
        file.writestr("archive/data/0", bytes(n_frames * 12 * 768 * 4))


def index_of(clip: Path) -> Path:
    files = (clip.parent.parent / f"{split}.json" for split in ("train", "val", "test"))
    return next(path for path in files if path.exists() and clip.name in path.read_text())


def flipped(data: bytes) -> bytes:
    place = len(data) // 2
    return data[:place] + struct.pack("B", data[place] ^ 1) + data[place + 1 :]


def shortened(text: str) -> str:
    values = json.loads(text)
    values["instance_info"][0]["keypoints"].pop()
    return json.dumps(values)


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


DAMAGES = (
    *("a frame is gone", "a frame is cut short", "a frame has a flipped byte", "a frame has another size"),
    *("a frame is grey", "another file in pose_frame", "a pose is gone", "a pose is no JSON", "a pose has nobody"),
    *("a pose has 132 points", "a pose is NaN", "a score is missing", "clip_range begins at 0", "no instance_bbox"),
    *("a box beyond the canvas", "speaker info is gone", "poses are gone", "an embedding that is none"),
    *("an embedding of a frame less", "an embedding of half precision"),
    *("the index lost a clip", "the index is damaged", "a path leads out", "a link leads out"),
)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_export_fails_the_check(copy: Path, name: str) -> None:
    clip = next(path for path in sorted((copy / "clips").iterdir()) if path.name.endswith("000000to000040"))
    damage(name)(clip)
    verdict = check_export(copy)
    assert verdict.problems
    assert verdict.summary.startswith("broken")


def test_what_is_no_mit_export_is_not_checked(tmp_path: Path, root: Path) -> None:
    with pytest.raises(ConfigError, match=r"no export\.json"):
        check_export(tmp_path)
    make_export(Workspace(root), ExportRequest("webdataset", tmp_path / "tars", with_media=False))
    with pytest.raises(ConfigError, match="knows mit alone"):
        check_export(tmp_path / "tars")


def test_an_encoder_makes_the_export_complete(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="torch writes the embeddings")
    program = (
        "import numpy as np\n"
        "class Encoder:\n"
        "    def encode(self, samples, n_frames):\n"
        "        means = samples.reshape(n_frames, 640).mean(1, dtype='f4')\n"
        "        return np.broadcast_to(means[:, None, None], (n_frames, 12, 768))\n"
    )
    (tmp_path / "test_mit_encoder.py").write_text(program)
    monkeypatch.syspath_prepend(str(tmp_path))
    row = next(DatasetFiles(root).rows())
    output = tmp_path / "out"
    make_export(Workspace(root), ExportRequest("mit", output, True, ENCODER, only={row["clip_id"]}))
    assert check_export(output).summary == "complete: 1 clip"
    path = output / "clips" / row["clip_id"] / "audio_embeding.pt"
    assert torch.load(path, weights_only=True).shape == (row["n_frames"], 12, 768)
    torch.save(torch.zeros(row["n_frames"] - 1, 12, 768), path)
    assert "audio_embeding.pt" in check_export(output).problems[0]
    path.unlink()
    assert "audio embeddings are gone from 1 clip" in check_export(output).problems[0]


def test_an_encoder_that_is_not_there_is_said(root: Path, tmp_path: Path) -> None:
    for name, message in (
        ("nowhere", "must be a checkpoint"),
        ("none.safetensors", "no file"),
        ("nowhere_at_all:Encoder", "nowhere_at_all"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_export(Workspace(root), ExportRequest("mit", tmp_path / "out", True, name))
    assert not (tmp_path / "out").exists()
