"""What every `PoseEstimator` has to fulfil, the real one on frames of the bundled demo."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from tiny_sapiens import checkpoint

from manifests.rows import N_KEYPOINTS
from mit_builder.models.base import PoseEstimator
from mit_builder.models.coco_wholebody import BODY, FACE, KEYPOINT_NAMES, SKELETON, SWAP, mirrored

N_FRAMES = 6


class Scene(NamedTuple):
    """Two people side by side: Mona Lisa at the left, Grace Hopper at the right."""

    frames: list[np.ndarray]
    boxes_xyxy: np.ndarray
    face_boxes_xyxy: np.ndarray


@pytest.fixture(scope="module")
def scene(demo_video: Path) -> Scene:
    from mit_builder.media.frames import read_frames

    frames = [frame.image for frame in read_frames(demo_video, 0, N_FRAMES)]
    faces = np.array([(200, 106, 400, 362), (866, 150, 1067, 407)], np.float32)
    bodies = np.array([(0, 0, 740, 720), (524, 24, 1280, 720)], np.float32)
    return Scene(frames, *(np.repeat(boxes[:, None], N_FRAMES, axis=1) for boxes in (bodies, faces)))


@pytest.fixture(scope="module", params=["mediapipe", "sapiens"])
def estimator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoseEstimator]:
    """Every backend; the networks with made-up weights."""
    made = mediapipe() if request.param == "mediapipe" else tiny_sapiens(tmp_path_factory.mktemp("weights"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def trained() -> Iterator[PoseEstimator]:
    """A backend that knows what people look like."""
    made = mediapipe()
    yield made
    made.close()


def mediapipe() -> PoseEstimator:
    pytest.importorskip("mediapipe")
    from mit_builder.models.mediapipe_pose import MediaPipePose

    return MediaPipePose()


def tiny_sapiens(folder: Path) -> PoseEstimator:
    pytest.importorskip("torch")
    from mit_builder.models.sapiens import Sapiens

    return Sapiens(checkpoint(folder / "tiny.pth"), batch=5)


@pytest.fixture(scope="module")
def found(estimator: PoseEstimator, scene: Scene) -> np.ndarray:
    return estimate(estimator, scene)


@pytest.fixture(scope="module")
def seen(trained: PoseEstimator, scene: Scene) -> np.ndarray:
    return estimate(trained, scene)


def estimate(estimator: PoseEstimator, scene: Scene) -> np.ndarray:
    """(n_people, n_frames, 133, 3)."""
    return np.stack(list(estimator.estimate(iter(scene.frames), scene.boxes_xyxy, scene.face_boxes_xyxy)), axis=1)


def flipped(scene: Scene) -> Scene:
    width = scene.frames[0].shape[1]
    frames = [np.ascontiguousarray(frame[:, ::-1]) for frame in scene.frames]
    boxes = [
        (boxes[..., [2, 1, 0, 3]] * [-1, 1, -1, 1] + [width, 0, width, 0]).astype(np.float32)
        for boxes in (scene.boxes_xyxy, scene.face_boxes_xyxy)
    ]
    return Scene(frames, *boxes)


def test_one_float32_array_of_133_points_a_frame(found: np.ndarray) -> None:
    assert found.shape == (2, N_FRAMES, N_KEYPOINTS, 3)
    assert found.dtype == np.float32


def test_scores_lie_in_0_to_1_and_points_without_an_estimate_score_0(found: np.ndarray) -> None:
    score, is_missing = found[..., 2], np.isnan(found[..., :2]).any(axis=-1)
    assert np.isfinite(score).all()
    assert score.min() >= 0
    assert score.max() <= 1
    assert (score[is_missing] == 0).all()
    assert np.isnan(found[..., :2]).all(axis=-1)[is_missing].all()


def test_points_outside_the_picture_are_not_seen(seen: np.ndarray, scene: Scene) -> None:
    height, width = scene.frames[0].shape[:2]
    x, y, score = np.moveaxis(seen, -1, 0)
    is_outside = (x < 0) | (x > width) | (y < 0) | (y > height)
    assert (score[is_outside] < 0.3).all()


def test_each_person_gets_its_own_face(seen: np.ndarray, scene: Scene) -> None:
    faces = scene.face_boxes_xyxy
    width = faces[..., 2] - faces[..., 0]
    centre_x = (faces[..., 0] + faces[..., 2]) / 2
    assert (np.abs(seen[:, :, 0, 0] - centre_x) < width / 4).all()
    inside = (seen[:, :, FACE, :2] > faces[:, :, None, :2] - width[0, 0] / 4).all(axis=-1)
    inside &= (seen[:, :, FACE, :2] < faces[:, :, None, 2:] + width[0, 0] / 4).all(axis=-1)
    assert inside.mean() > 0.95


def test_left_is_the_subjects_left(seen: np.ndarray) -> None:
    for left in (1, 3, 5):
        assert (seen[:, :, left, 0] > seen[:, :, left + 1, 0]).all(), KEYPOINT_NAMES[left]


def test_face_points_are_in_ibug_order(seen: np.ndarray) -> None:
    face = seen[:, :, FACE, :2]
    assert (np.diff(face[:, :, 0:17, 0].mean(axis=(0, 1))) > 0).all(), "the jaw runs from the left of the image"
    assert (face[:, :, 8, 1] > face[:, :, 57, 1]).all(), "chin below the lower lip"
    assert (face[:, :, 57, 1] > face[:, :, 51, 1]).all(), "lower lip below the upper"
    assert (face[:, :, 33, 1] > face[:, :, 27, 1]).all(), "nostrils below the bridge"
    assert (face[:, :, 19, 1] < face[:, :, 37, 1]).all(), "brow above the eye"
    assert (face[:, :, 36, 0] < face[:, :, 45, 0]).all(), "eyes from the left of the image"


def test_mirrored_pictures_give_mirrored_keypoints(trained: PoseEstimator, seen: np.ndarray, scene: Scene) -> None:
    width = scene.frames[0].shape[1]
    back = mirrored(estimate(trained, flipped(scene)), width)
    distance = np.linalg.norm(back[..., :2] - seen[..., :2], axis=-1) / 200
    assert np.nanmedian(distance[:, :, FACE]) < 0.05
    assert np.nanmedian(distance[:, :, [5, 6]], axis=1).max() < 0.1, "each person's each shoulder"
    assert np.nanmax(np.nanmedian(distance[:, :, FACE], axis=(0, 1))) < 0.1, (
        "one point of the face is exchanged wrongly"
    )


def test_nothing_is_remembered_between_calls(estimator: PoseEstimator, found: np.ndarray, scene: Scene) -> None:
    np.testing.assert_array_equal(estimate(estimator, scene), found)


def test_a_person_that_is_not_there_gets_no_points(trained: PoseEstimator) -> None:
    empty = Scene(
        [np.full((180, 320, 3), 90, np.uint8)] * 3,
        np.tile(np.array([10, 5, 150, 175], np.float32), (1, 3, 1)),
        np.tile(np.array([60, 20, 100, 70], np.float32), (1, 3, 1)),
    )
    found = estimate(trained, empty)
    assert (found[..., 2] == 0).all()
    assert np.isnan(found[..., :2]).all()


def test_a_face_box_beyond_the_picture_is_no_error(estimator: PoseEstimator) -> None:
    outside = Scene(
        [np.zeros((90, 160, 3), np.uint8)],
        np.array([[[150, 5, 160, 90]]], np.float32),
        np.array([[[158, -30, 190, 10]]], np.float32),
    )
    assert estimate(estimator, outside).shape == (1, 1, N_KEYPOINTS, 3)


def test_swap_table_is_its_own_inverse_and_follows_the_names() -> None:
    np.testing.assert_array_equal(SWAP[SWAP], np.arange(N_KEYPOINTS))
    for i, name in enumerate(KEYPOINT_NAMES):
        if name.startswith(("left_", "right_")):
            side, _, part = name.partition("_")
            assert KEYPOINT_NAMES[SWAP[i]] == f"{'right' if side == 'left' else 'left'}_{part}"


def test_skeleton_links_each_hand_and_foot_to_its_own_side() -> None:
    assert len(SKELETON) == 65
    assert {(SWAP[a], SWAP[b]) for a, b in SKELETON} | {(SWAP[b], SWAP[a]) for a, b in SKELETON} >= set(SKELETON)
    assert BODY.stop == 17


def test_another_process_gives_the_same_bits(seen: np.ndarray, scene: Scene, tmp_path: Path) -> None:
    given, result = tmp_path / "scene.npz", tmp_path / "found.npy"
    np.savez(given, frames=np.stack(scene.frames), boxes=scene.boxes_xyxy, faces=scene.face_boxes_xyxy)
    program = (
        "import sys, numpy as np\n"
        "from mit_builder.models.mediapipe_pose import MediaPipePose\n"
        "s = np.load(sys.argv[1])\n"
        "np.save(sys.argv[2], np.stack(list(MediaPipePose().estimate(s['frames'], s['boxes'], s['faces'])), axis=1))\n"
    )
    subprocess.run([sys.executable, "-c", program, str(given), str(result)], check=True, capture_output=True)
    np.testing.assert_array_equal(np.load(result), seen)
