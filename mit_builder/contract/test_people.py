"""What every `PeopleDetector` has to fulfil."""

from __future__ import annotations

import numpy as np
import pytest

from mit_builder.labels.tracking import overlaps
from mit_builder.models.base import Detections, Floats, Image, PeopleDetector

ROLE = "people"


def detect(detector: PeopleDetector, image: Image, *, thorough: bool = False) -> Detections:
    """What is found in one image."""
    (found,) = detector.detect([image], thorough=[thorough])
    return found


def by_column(found: Detections) -> Floats:
    """Face boxes from left to right."""
    return found.face_boxes_xyxy[np.argsort(found.face_boxes_xyxy[:, 0])]


@pytest.mark.parametrize("thorough", [False, True])
def test_two_people_are_found_once_each(backend: PeopleDetector, picture: Image, thorough: bool) -> None:
    """Also where it searches thoroughly."""
    found = detect(backend, picture, thorough=thorough)
    assert found.face_boxes_xyxy.shape == found.boxes_xyxy.shape == (2, 4)
    assert found.scores.shape == (2,)
    assert {found.face_boxes_xyxy.dtype, found.boxes_xyxy.dtype, found.scores.dtype} == {np.dtype(np.float32)}
    assert 0 < found.scores.min() <= found.scores.max() <= 1


def test_bodies_contain_their_face_and_lie_in_the_picture(backend: PeopleDetector, picture: Image) -> None:
    """Within a pixel."""
    found = detect(backend, picture)
    height, width = picture.shape[:2]
    faces, bodies = found.face_boxes_xyxy, found.boxes_xyxy
    assert (bodies[:, :2] >= 0).all()
    assert (bodies[:, 2:] <= (width, height)).all()
    assert (bodies[:, :2] <= faces[:, :2] + 1).all()
    assert (bodies[:, 2:] >= faces[:, 2:] - 1).all()


def test_an_empty_picture_has_nobody(backend: PeopleDetector) -> None:
    """The arrays have their shapes all the same."""
    found = detect(backend, np.full((180, 320, 3), 127, np.uint8), thorough=True)
    assert found.face_boxes_xyxy.shape == found.boxes_xyxy.shape == (0, 4)
    assert found.scores.shape == (0,)


def test_equal_pictures_give_equal_boxes_whatever_came_between(backend: PeopleDetector, picture: Image) -> None:
    """Nothing is remembered: a resumed run would label otherwise."""
    first = detect(backend, picture, thorough=True)
    detect(backend, picture[:, ::-1].copy(), thorough=True)
    again = detect(backend, picture, thorough=True)
    np.testing.assert_array_equal(first.face_boxes_xyxy, again.face_boxes_xyxy)
    np.testing.assert_array_equal(first.scores, again.scores)


def test_several_pictures_in_one_call_give_what_each_gives_alone(backend: PeopleDetector, picture: Image) -> None:
    """And no picture gives nothing."""
    images = [picture, np.ascontiguousarray(picture[:, ::-1]), np.full_like(picture, 127)] * 2
    thorough = [False, True, False, True, False, True]
    together = backend.detect(images, thorough=thorough)
    assert [len(found.scores) for found in together] == [2, 2, 0] * 2
    for image, tiled, found in zip(images, thorough, together, strict=True):
        alone = detect(backend, image, thorough=tiled)
        for name, values in vars(alone).items():
            np.testing.assert_array_equal(values, getattr(found, name), err_msg=name)
    assert backend.detect([], thorough=[]) == []
    assert backend.batch >= 1


def test_a_mirrored_picture_gives_mirrored_faces(backend: PeopleDetector, picture: Image) -> None:
    """The right way round and in RGB."""
    width = picture.shape[1]
    plain = by_column(detect(backend, picture))
    back = by_column(detect(backend, np.ascontiguousarray(picture[:, ::-1])))[::-1].copy()
    back[:, [0, 2]] = width - back[:, [2, 0]]
    assert overlaps(plain, back).diagonal().min() > 0.8


def test_looking_again_gives_boxes_in_the_whole_picture(backend: PeopleDetector, picture: Image) -> None:
    """Not in the part that was searched; finding nothing is allowed."""
    found = detect(backend, picture)
    again = backend.look_again(picture, found.face_boxes_xyxy)
    assert again.face_boxes_xyxy.shape == again.boxes_xyxy.shape
    if len(again.scores):
        assert overlaps(found.face_boxes_xyxy, again.face_boxes_xyxy).max(axis=1).min() > 0.6
        order = overlaps(found.face_boxes_xyxy, again.face_boxes_xyxy).argmax(axis=1)
        assert overlaps(found.boxes_xyxy, again.boxes_xyxy[order]).diagonal().min() > 0.6
    assert len(backend.look_again(picture, np.empty((0, 4), np.float32)).scores) == 0
