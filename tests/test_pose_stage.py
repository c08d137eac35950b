from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_dataset
import tiny_sapiens

from manifests.arrays import read_arrays
from manifests.rows import N_KEYPOINTS, Clip, Pose
from mit_builder.config import backends
from mit_builder.config.settings import PoseSettings
from mit_builder.errors import CannotContinue, MediaError, StageUnavailable
from mit_builder.labels.keypoints import BODY_PARTS, KEYPOINT_NAMES, visible_ratios
from mit_builder.models import devices
from mit_builder.models.mediapipe import pose as mediapipe_pose
from mit_builder.models.weights import store
from mit_builder.stage import Resources
from mit_builder.storage.scratch import sha256_of
from stages.pose import EstimatePose, between, posed_frames


class FaceCentres:
    """An estimator whose points all lie in the face's centre, the last of the body's without an estimate."""

    def estimate(
        self, frames: Iterable[np.ndarray], boxes_xyxy: np.ndarray, face_boxes_xyxy: np.ndarray
    ) -> Iterator[np.ndarray]:
        for i, image in enumerate(frames):
            assert image.shape == (tiny_dataset.HEIGHT_PX, tiny_dataset.WIDTH_PX, 3)
            keypoints = np.full((len(face_boxes_xyxy), N_KEYPOINTS, 3), 0.8, np.float32)
            centre = (face_boxes_xyxy[:, i, :2] + face_boxes_xyxy[:, i, 2:]) / 2
            keypoints[:, :, :2] = centre[:, None]
            keypoints[:, 16] = (np.nan, np.nan, 0)
            yield keypoints

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> tiny_dataset.Builder:
    return tiny_dataset.Builder(tmp_path_factory.mktemp("pose"))


@pytest.fixture(scope="module")
def clip(builder: tiny_dataset.Builder) -> Clip:
    return builder.labelled(tiny_dataset.PLANS[0]).clip


@pytest.fixture
def fake_estimator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mediapipe_pose, "MediaPipePose", FaceCentres)


def run(builder: tiny_dataset.Builder, clip: Clip, stride: int = 1) -> tuple[Pose, list[dict[str, np.ndarray]]]:
    stage = EstimatePose(PoseSettings(stride=stride))
    stage.setup()
    (pose,) = stage.process(clip, builder.context(f"{stride:08d}"))
    return pose, read_arrays(builder.root / pose.poses.key)


def test_every_person_has_keypoints_in_every_frame(
    builder: tiny_dataset.Builder, clip: Clip, fake_estimator: None
) -> None:
    pose, rows = run(builder, clip)
    faces = [p["face_boxes_xyxy"] for p in read_arrays(builder.root / clip.people.key)]
    assert [row["person_id"] for row in rows] == [0, 1]
    for row, face in zip(rows, faces, strict=True):
        assert row["keypoints"].shape == (clip.n_frames, N_KEYPOINTS, 3)
        assert row["keypoints"].dtype == np.float32
        np.testing.assert_allclose(row["keypoints"][:, 0, :2], (face[:, :2] + face[:, 2:]) / 2)
        assert row["body_visible_ratio"] == pytest.approx(16 / 17)
        assert row["legs_visible_ratio"] == pytest.approx(3 / 4)
        assert row["hands_visible_ratio"] == 1
    assert pose.poses.key == f"poses/{clip.clip_id}.00000001.parquet"
    assert pose.clip_id == clip.clip_id
    assert pose.min_body_visible_ratio == pytest.approx(16 / 17)
    assert pose.mean_keypoint_score == pytest.approx(0.8 * 16 / 17)


def test_strided_pose_follows_slow_movement_and_keeps_the_last_frame(
    builder: tiny_dataset.Builder, clip: Clip, fake_estimator: None
) -> None:
    _, dense = run(builder, clip)
    _, strided = run(builder, clip, stride=3)
    for every, some in zip(dense, strided, strict=True):
        assert some["keypoints"].shape == every["keypoints"].shape
        np.testing.assert_array_equal(some["keypoints"][-1], every["keypoints"][-1])
        np.testing.assert_array_equal(some["keypoints"][::3], every["keypoints"][::3])
        np.testing.assert_allclose(some["keypoints"][..., :2], every["keypoints"][..., :2], atol=0.1)


def test_media_with_too_few_frames_is_an_error(
    builder: tiny_dataset.Builder, clip: Clip, fake_estimator: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = builder.labelled(tiny_dataset.PLANS[0]).clip
    shorter = builder.labelled(tiny_dataset.PLANS[1]).clip
    with pytest.raises(MediaError, match="32 frames in place of 40"):
        run(builder, replace(longer, mp4=shorter.mp4))


def test_equal_clips_give_equal_files(builder: tiny_dataset.Builder, clip: Clip, fake_estimator: None) -> None:
    first, _ = run(builder, clip)
    second, _ = run(builder, clip)
    assert first == second


def test_posed_frames_end_with_the_last() -> None:
    assert posed_frames(10, 1) == list(range(10))
    assert posed_frames(10, 4) == [0, 4, 8, 9]
    assert posed_frames(1, 3) == [0]


def test_points_without_an_estimate_stay_so_up_to_the_next_posed_frame() -> None:
    posed = np.zeros((1, 3, N_KEYPOINTS, 3), np.float32)
    posed[0, :, 0] = [(0, 0, 1), (np.nan, np.nan, 0), (8, 4, 1)]
    posed[0, :, 1] = [(0, 0, 1), (2, 4, 0.5), (10, 0, 1)]
    keypoints = between(posed, [0, 2, 4])
    assert keypoints.shape == (1, 5, N_KEYPOINTS, 3)
    np.testing.assert_array_equal(np.isnan(keypoints[0, :, 0, 0]), [False, True, True, True, False])
    np.testing.assert_array_equal(keypoints[0, :, 0, 2], [1, 0, 0, 0, 1])
    np.testing.assert_allclose(keypoints[0, 1, 1], (1, 2, 0.75))
    np.testing.assert_allclose(keypoints[0, 3, 1], (6, 2, 0.75))


def test_body_points_count_as_visible_inside_the_picture_with_a_score_of_at_least_three_tenths() -> None:
    keypoints = np.zeros((2, N_KEYPOINTS, 3), np.float32)
    keypoints[:, :17] = (50, 50, 0.3)
    keypoints[:, 0] = (np.nan, np.nan, 0)
    keypoints[:, 1] = (-1, 50, 0.9)
    keypoints[:, 2] = (50, 101, 0.9)
    keypoints[0, 3] = (50, 50, 0.29)
    ratios = visible_ratios(keypoints, 100, 100)
    assert ratios["body_visible_ratio"] == pytest.approx((13 + 14) / 34)
    assert ratios["head_visible_ratio"] == pytest.approx((1 + 2) / 10)
    assert ratios["hands_visible_ratio"] == 0


@pytest.mark.parametrize(
    ("part", "points"),
    [
        ("head", ["nose", "left_eye", "right_ear"]),
        ("torso", ["left_shoulder", "right_hip"]),
        ("arms", ["left_elbow", "right_wrist"]),
        ("hands", ["left_hand_root", "right_hand_pinky_4"]),
        ("legs", ["left_knee", "right_ankle"]),
    ],
)
def test_each_part_of_the_body_counts_its_own_points(part: str, points: list[str]) -> None:
    keypoints = np.zeros((1, N_KEYPOINTS, 3), np.float32)
    keypoints[0, [KEYPOINT_NAMES.index(name) for name in points]] = (5, 5, 0.9)
    ratios = visible_ratios(keypoints, 10, 10)
    assert ratios.pop("body_visible_ratio") == pytest.approx(0 if part == "hands" else len(points) / 17)
    assert {name for name, ratio in ratios.items() if ratio} == {f"{part}_visible_ratio"}
    assert ratios[f"{part}_visible_ratio"] == pytest.approx(len(points) / len(BODY_PARTS[part]))


def test_backend_names_version_and_weights_without_loading_them() -> None:
    pytest.importorskip("mediapipe")
    backend = EstimatePose(PoseSettings()).backend()
    assert backend.startswith("mediapipe 0.10")
    assert len(backend.split()[-1]) == 12


def test_sapiens_without_weights_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIT_BUILDER_WEIGHTS", str(tmp_path))
    for settings, name in (
        (PoseSettings(model="sapiens-2b"), "sapiens-2b"),
        (PoseSettings(model="sapiens-1b", torchscript=True), "sapiens-1b-torchscript"),
    ):
        stage = EstimatePose(settings)
        assert stage.backend().startswith(f"{name} (missing)")
        with pytest.raises(
            StageUnavailable, match=rf"`mit-build weights fetch {name}`, .* `mit-build weights import FILE`"
        ) as caught:
            stage.setup()
        assert "\n" not in str(caught.value)


@pytest.fixture
def tiny_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of weights where a tiny network lies in the place of Sapiens 0.3b."""
    pytest.importorskip("torch", reason="Sapiens needs torch, which the embedded environment does not have")
    monkeypatch.setenv("MIT_BUILDER_WEIGHTS", str(tmp_path))
    return tiny_sapiens.checkpoint(tmp_path / store.entry("sapiens-0.3b").file_name)


def test_sapiens_labels_a_clip_and_its_rows_name_its_weights(
    builder: tiny_dataset.Builder, clip: Clip, tiny_weights: Path
) -> None:
    stage = EstimatePose(PoseSettings(model="sapiens-0.3b", stride=5, device="cpu"))
    stage.setup()
    (pose,) = stage.process(clip, builder.context("5a91e45000000000"))
    rows = read_arrays(builder.root / pose.poses.key)
    assert pose.pose_backend == stage.backend() == f"sapiens-0.3b {sha256_of(tiny_weights)[:12]}"
    for row in rows:
        keypoints = row["keypoints"]
        assert keypoints.shape == (clip.n_frames, N_KEYPOINTS, 3)
        is_missing = np.isnan(keypoints[..., 0])
        assert (keypoints[..., 2][is_missing] == 0).all()
        assert 0 <= keypoints[..., 2].min() <= keypoints[..., 2].max() <= 1
        assert not is_missing.all()
    assert pose.min_body_visible_ratio == pytest.approx(min(row["body_visible_ratio"] for row in rows))
    (again,) = stage.process(clip, builder.context("5a91e45000000000"))
    assert again == pose


def test_sapiens_program_is_used_where_it_is_what_there_is(tmp_path: Path, tiny_weights: Path) -> None:
    tiny_weights.unlink()
    settings = PoseSettings(model="sapiens-0.3b", device="cpu")
    file = store.entry("sapiens-0.3b-torchscript")
    path = tiny_sapiens.program(tmp_path / file.file_name)
    with pytest.raises(CannotContinue, match="a program of unknown origin"):
        EstimatePose(settings).backend()
    (tmp_path / store.RECORD_NAME).write_text(json.dumps({file.name: sha256_of(path)}))
    for torchscript, ending in ((False, ""), (True, " as a program")):
        stage = EstimatePose(settings.model_copy(update={"torchscript": torchscript}))
        stage.setup()
        assert stage.backend() == f"sapiens-0.3b-torchscript {sha256_of(path)[:12]}{ending}"


@pytest.mark.parametrize(
    ("settings", "n_gpus", "expected"),
    [
        ({}, 2, Resources(cpus=1.0)),
        ({"model": "sapiens-2b"}, 2, Resources(cpus=1.0, gpus=0.5, max_workers=2)),
        ({"model": "sapiens-2b", "device": "cuda:1"}, 2, Resources(cpus=1.0, max_workers=1)),
        ({"model": "sapiens-2b", "device": "cpu"}, 2, Resources(cpus=1.0, timeout_s=backends.WEEK_S)),
        ({"model": "sapiens-2b"}, 0, Resources(cpus=1.0, timeout_s=backends.WEEK_S)),
    ],
)
def test_sapiens_asks_for_half_a_gpu_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], n_gpus: int, expected: Resources
) -> None:
    monkeypatch.setattr(devices, "n_gpus", lambda: n_gpus)
    assert EstimatePose(PoseSettings(**settings)).resources == expected


def test_only_what_changes_the_points_belongs_to_the_key() -> None:
    values = PoseSettings().key_values()
    assert values.keys() == {"model", "stride", "precision", "flip_test", "torchscript"}
    with pytest.raises(ValueError, match="should match pattern"):
        PoseSettings(device="gpu0")
