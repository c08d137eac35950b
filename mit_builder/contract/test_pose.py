"""What every `PoseEstimator` has to fulfil: the first tests whatever its weights are, the others once it is trained."""

from __future__ import annotations

import numpy as np
import pytest

from manifests.rows import N_KEYPOINTS
from mit_builder.contract.plugin import N_FRAMES, Scene, Subject
from mit_builder.labels.keypoints import FACE, KEYPOINT_NAMES, mirrored
from mit_builder.models.base import Floats, PoseEstimator

ROLE = "pose"


def estimate(estimator: PoseEstimator, scene: Scene) -> Floats:
    """(n_people, n_frames, 133, 3)."""
    return np.stack(list(estimator.estimate(iter(scene.frames), scene.boxes_xyxy, scene.face_boxes_xyxy)), axis=1)


@pytest.fixture(scope="module")
def found(backend: PoseEstimator, scene: Scene) -> Floats:
    """What it finds in the scene."""
    return estimate(backend, scene)


@pytest.fixture(scope="module")
def seen(subject: Subject, found: Floats) -> Floats:
    """The same, of a backend that knows what people look like."""
    if not subject.knows_people:
        pytest.skip("its weights are made up: it does not know what people look like")
    return found


def flipped(scene: Scene) -> Scene:
    """The scene in a mirror."""
    width = scene.frames[0].shape[1]
    frames = [np.ascontiguousarray(frame[:, ::-1]) for frame in scene.frames]
    boxes = [
        (boxes[..., [2, 1, 0, 3]] * [-1, 1, -1, 1] + [width, 0, width, 0]).astype(np.float32)
        for boxes in (scene.boxes_xyxy, scene.face_boxes_xyxy)
    ]
    return Scene(frames, *boxes)


def test_one_float32_array_of_133_points_a_frame(found: Floats) -> None:
    """The array has one row a person."""
    assert found.shape == (2, N_FRAMES, N_KEYPOINTS, 3)
    assert found.dtype == np.float32


def test_scores_lie_in_0_to_1_and_points_without_an_estimate_score_0(found: Floats) -> None:
    """Such a point is (NaN, NaN, 0)."""
    score, is_missing = found[..., 2], np.isnan(found[..., :2]).any(axis=-1)
    assert np.isfinite(score).all()
    assert score.min() >= 0
    assert score.max() <= 1
    assert (score[is_missing] == 0).all()
    assert np.isnan(found[..., :2]).all(axis=-1)[is_missing].all()


def test_nothing_is_remembered_between_calls(backend: PoseEstimator, found: Floats, scene: Scene) -> None:
    """A resumed run would label otherwise."""
    np.testing.assert_array_equal(estimate(backend, scene), found)


def test_frames_are_a_stream(backend: PoseEstimator, scene: Scene) -> None:
    """A clip is longer than memory: frames come once, and none is changed."""
    frames = [frame.copy() for frame in scene.frames]
    list(backend.estimate((frame for frame in frames), scene.boxes_xyxy, scene.face_boxes_xyxy))
    for frame, given in zip(frames, scene.frames, strict=True):
        np.testing.assert_array_equal(frame, given)


def test_a_face_box_beyond_the_picture_is_no_error(backend: PoseEstimator) -> None:
    """A tracked face may leave the picture."""
    outside = Scene(
        [np.zeros((90, 160, 3), np.uint8)],
        np.array([[[150, 5, 160, 90]]], np.float32),
        np.array([[[158, -30, 190, 10]]], np.float32),
    )
    assert estimate(backend, outside).shape == (1, 1, N_KEYPOINTS, 3)


def test_points_outside_the_picture_are_not_seen(seen: Floats, scene: Scene) -> None:
    """Their score is below 0.3, from which on a point counts as visible."""
    height, width = scene.frames[0].shape[:2]
    x, y, score = np.moveaxis(seen, -1, 0)
    is_outside = (x < 0) | (x > width) | (y < 0) | (y > height)
    assert (score[is_outside] < 0.3).all()


def test_each_person_gets_its_own_face(seen: Floats, scene: Scene) -> None:
    """The nose lies in the middle of the face's box, the 68 points within it."""
    faces = scene.face_boxes_xyxy
    width = faces[..., 2] - faces[..., 0]
    centre_x = (faces[..., 0] + faces[..., 2]) / 2
    assert (np.abs(seen[:, :, 0, 0] - centre_x) < width / 4).all()
    inside = (seen[:, :, FACE, :2] > faces[:, :, None, :2] - width[0, 0] / 4).all(axis=-1)
    inside &= (seen[:, :, FACE, :2] < faces[:, :, None, 2:] + width[0, 0] / 4).all(axis=-1)
    assert inside.mean() > 0.95


def test_left_is_the_subjects_left(seen: Floats) -> None:
    """The left eye of somebody who looks at us is at the right of the picture."""
    for left in (1, 3, 5):
        assert (seen[:, :, left, 0] > seen[:, :, left + 1, 0]).all(), KEYPOINT_NAMES[left]


def test_face_points_are_in_ibug_order(seen: Floats) -> None:
    """The 68 points of iBUG 300-W."""
    face = seen[:, :, FACE, :2]
    assert (np.diff(face[:, :, 0:17, 0].mean(axis=(0, 1))) > 0).all(), "the jaw runs from the left of the image"
    assert (face[:, :, 8, 1] > face[:, :, 57, 1]).all(), "chin below the lower lip"
    assert (face[:, :, 57, 1] > face[:, :, 51, 1]).all(), "lower lip below the upper"
    assert (face[:, :, 33, 1] > face[:, :, 27, 1]).all(), "nostrils below the bridge"
    assert (face[:, :, 19, 1] < face[:, :, 37, 1]).all(), "brow above the eye"
    assert (face[:, :, 36, 0] < face[:, :, 45, 0]).all(), "eyes from the left of the image"


def test_mirrored_pictures_give_mirrored_keypoints(backend: PoseEstimator, seen: Floats, scene: Scene) -> None:
    """Left and right change their places, and nothing else."""
    width = scene.frames[0].shape[1]
    back = mirrored(estimate(backend, flipped(scene)), width)
    distance = np.linalg.norm(back[..., :2] - seen[..., :2], axis=-1) / 200
    assert np.nanmedian(distance[:, :, FACE]) < 0.05
    assert np.nanmedian(distance[:, :, [5, 6]], axis=1).max() < 0.1, "each person's each shoulder"
    assert np.nanmax(np.nanmedian(distance[:, :, FACE], axis=(0, 1))) < 0.1, (
        "one point of the face is exchanged wrongly"
    )


def test_a_person_that_is_not_there_gets_no_points(backend: PoseEstimator, seen: Floats) -> None:
    """A box around a wall holds nobody."""
    empty = Scene(
        [np.full((180, 320, 3), 90, np.uint8)] * 3,
        np.tile(np.array([10, 5, 150, 175], np.float32), (1, 3, 1)),
        np.tile(np.array([60, 20, 100, 70], np.float32), (1, 3, 1)),
    )
    found = estimate(backend, empty)
    assert (found[..., 2] == 0).all()
    assert np.isnan(found[..., :2]).all()
