from __future__ import annotations

import numpy as np
import pytest

from manifests.rows import N_KEYPOINTS
from mit_builder.labels.face_boxes import speech_face_boxes
from mit_builder.labels.keypoints import FACE

DETECTOR_XYXY = np.array([90, 40, 210, 195], np.float32)


def make_keypoints(n_frames: int, score: float = 0.9) -> np.ndarray:
    """Face points that fill (100, 90) to (200, 190)."""
    keypoints = np.full((n_frames, N_KEYPOINTS, 3), np.nan, np.float32)
    keypoints[..., 2] = 0
    corners = np.array([(100, 90), (200, 90), (200, 190), (100, 190)], np.float32)
    keypoints[:, FACE, :2] = corners[np.arange(68) % 4]
    keypoints[:, FACE, 2] = score
    return keypoints


def test_box_is_made_of_the_face_points_where_they_are_trusted() -> None:
    boxes, sources = speech_face_boxes(make_keypoints(2), np.tile(DETECTOR_XYXY, (2, 1)), np.ones(2, bool))
    assert sources == ["pose", "pose"]
    np.testing.assert_allclose(boxes[0], [93, 43, 207, 189], atol=0.5)
    assert boxes.dtype == np.float32


def test_untrusted_points_leave_the_box_to_the_detector() -> None:
    keypoints = make_keypoints(3)
    keypoints[1, FACE, 2] = 0.29
    keypoints[2, FACE] = (np.nan, np.nan, 0)
    detector = np.tile(DETECTOR_XYXY, (3, 1))
    boxes, sources = speech_face_boxes(keypoints, detector, np.array([True, True, False]))
    assert sources == ["pose", "detector", "interpolated"]
    np.testing.assert_array_equal(boxes[1:], detector[1:])


@pytest.mark.parametrize("moved_px", [150, -15000])
def test_points_of_another_face_leave_the_box_to_the_detector(moved_px: float) -> None:
    keypoints = make_keypoints(2)
    keypoints[1, FACE, 0] += moved_px
    detector = np.tile(DETECTOR_XYXY, (2, 1))
    boxes, sources = speech_face_boxes(keypoints, detector, np.ones(2, bool))
    assert sources == ["pose", "detector"]
    np.testing.assert_array_equal(boxes[1], detector[1])


def test_points_all_over_the_picture_leave_the_box_to_the_detector() -> None:
    keypoints = make_keypoints(1)
    keypoints[0, FACE, :2] = (keypoints[0, FACE, :2] - [150, 140]) * 12 + [150, 140]
    boxes, sources = speech_face_boxes(keypoints, DETECTOR_XYXY[None], np.ones(1, bool))
    assert sources == ["detector"]
    np.testing.assert_array_equal(boxes[0], DETECTOR_XYXY)


def test_no_box_is_nan_although_single_points_are() -> None:
    keypoints = make_keypoints(1)
    keypoints[0, FACE.start] = (np.nan, np.nan, 0)
    boxes, sources = speech_face_boxes(keypoints, DETECTOR_XYXY[None], np.ones(1, bool))
    assert np.isfinite(boxes).all()
    assert sources == ["detector"]


def test_detector_boxes_are_not_changed() -> None:
    detector = np.tile(DETECTOR_XYXY, (2, 1))
    speech_face_boxes(make_keypoints(2), detector, np.ones(2, bool))
    np.testing.assert_array_equal(detector, np.tile(DETECTOR_XYXY, (2, 1)))


def test_frames_and_flags_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="zip"):
        speech_face_boxes(make_keypoints(2), np.tile(DETECTOR_XYXY, (2, 1)), np.ones(3, bool))
