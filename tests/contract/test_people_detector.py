"""What every `PeopleDetector` has to fulfil, the fake of the other tests included."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import fake_people
import numpy as np
import pytest

from mit_builder.media.frames import read_frames
from mit_builder.models.base import Detections, PeopleDetector
from mit_builder.models.mediapipe_people import body_boxes, s3fd_like, tiles, window
from mit_builder.tracking import overlaps


class Backend(NamedTuple):
    """A detector and a picture of two people that it knows."""

    detector: PeopleDetector
    image: np.ndarray


@pytest.fixture(scope="module", params=["mediapipe", "yolo", "squares"])
def backend(request: pytest.FixtureRequest, demo_video: Path) -> Iterator[Backend]:
    squares = fake_people.picture(fake_people.texture(640, 360), ((100, 100, 160, 160), (400, 90, 460, 150)))
    if request.param == "squares":
        yield Backend(fake_people.SquareFinder(), squares)
        return
    if request.param == "yolo":
        if importlib.util.find_spec("torch") is None or importlib.util.find_spec("ultralytics") is None:
            pytest.skip("YOLO needs torch and ultralytics (extra paper)")
        import tiny_yolo

        from mit_builder.models import yolo

        with pytest.MonkeyPatch.context() as patch:  # its weights are not here: a network that knows the squares
            patch.setattr(yolo, "load_network", lambda config, weights: tiny_yolo.SquareNetwork())
            yield Backend(yolo.YoloPeople(Path(), "yolo26n-pose", confidence=0.25, device="cpu", batch=4), squares)
        return
    pytest.importorskip("mediapipe")
    from mit_builder.models.mediapipe_people import MediapipePeople

    made = MediapipePeople(0.4)
    yield Backend(made, next(read_frames(demo_video)).image)
    made.close()


def detect(detector: PeopleDetector, image: np.ndarray, *, thorough: bool = False) -> Detections:
    (found,) = detector.detect([image], thorough=[thorough])
    return found


def by_column(found: Detections) -> np.ndarray:
    return found.face_boxes_xyxy[np.argsort(found.face_boxes_xyxy[:, 0])]


@pytest.mark.parametrize("thorough", [False, True])
def test_two_people_are_found_once_each(backend: Backend, thorough: bool) -> None:
    found = detect(backend.detector, backend.image, thorough=thorough)
    assert found.face_boxes_xyxy.shape == found.boxes_xyxy.shape == (2, 4)
    assert found.scores.shape == (2,)
    assert {found.face_boxes_xyxy.dtype, found.boxes_xyxy.dtype, found.scores.dtype} == {np.dtype(np.float32)}
    assert 0 < found.scores.min() <= found.scores.max() <= 1


def test_bodies_contain_their_face_and_lie_in_the_picture(backend: Backend) -> None:
    found = detect(backend.detector, backend.image, thorough=False)
    height, width = backend.image.shape[:2]
    faces, bodies = found.face_boxes_xyxy, found.boxes_xyxy
    assert (bodies[:, :2] >= 0).all()
    assert (bodies[:, 2:] <= (width, height)).all()
    assert (bodies[:, :2] <= faces[:, :2] + 1).all()
    assert (bodies[:, 2:] >= faces[:, 2:] - 1).all()


def test_an_empty_picture_has_nobody(backend: Backend) -> None:
    found = detect(backend.detector, np.full((180, 320, 3), 127, np.uint8), thorough=True)
    assert found.face_boxes_xyxy.shape == found.boxes_xyxy.shape == (0, 4)
    assert found.scores.shape == (0,)


def test_equal_pictures_give_equal_boxes_whatever_came_between(backend: Backend) -> None:
    first = detect(backend.detector, backend.image, thorough=True)
    detect(backend.detector, backend.image[:, ::-1].copy(), thorough=True)
    again = detect(backend.detector, backend.image, thorough=True)
    np.testing.assert_array_equal(first.face_boxes_xyxy, again.face_boxes_xyxy)
    np.testing.assert_array_equal(first.scores, again.scores)


def test_several_pictures_in_one_call_give_what_each_gives_alone(backend: Backend) -> None:
    images = [backend.image, np.ascontiguousarray(backend.image[:, ::-1]), np.full_like(backend.image, 127)] * 2
    thorough = [False, True, False, True, False, True]
    together = backend.detector.detect(images, thorough=thorough)
    assert [len(found.scores) for found in together] == [2, 2, 0] * 2
    for image, tiled, found in zip(images, thorough, together, strict=True):
        alone = detect(backend.detector, image, thorough=tiled)
        for name, values in vars(alone).items():
            np.testing.assert_array_equal(values, getattr(found, name), err_msg=name)
    assert backend.detector.detect([], thorough=[]) == []
    assert backend.detector.batch >= 1


def test_a_mirrored_picture_gives_mirrored_faces(backend: Backend) -> None:
    width = backend.image.shape[1]
    plain = by_column(detect(backend.detector, backend.image, thorough=False))
    mirrored = detect(backend.detector, np.ascontiguousarray(backend.image[:, ::-1]), thorough=False)
    back = by_column(mirrored)[::-1].copy()
    back[:, [0, 2]] = width - back[:, [2, 0]]
    assert overlaps(plain, back).diagonal().min() > 0.8


def test_looking_again_gives_boxes_in_the_whole_picture(backend: Backend) -> None:
    found = detect(backend.detector, backend.image, thorough=False)
    again = backend.detector.look_again(backend.image, found.face_boxes_xyxy)
    assert again.face_boxes_xyxy.shape == again.boxes_xyxy.shape
    if len(again.scores):
        assert overlaps(found.face_boxes_xyxy, again.face_boxes_xyxy).max(axis=1).min() > 0.6
        order = overlaps(found.face_boxes_xyxy, again.face_boxes_xyxy).argmax(axis=1)
        assert overlaps(found.boxes_xyxy, again.boxes_xyxy[order]).diagonal().min() > 0.6
    assert len(backend.detector.look_again(backend.image, np.empty((0, 4), np.float32)).scores) == 0


def test_lower_confidence_finds_at_least_as_much(demo_video: Path) -> None:
    pytest.importorskip("mediapipe")
    from mit_builder.models.mediapipe_people import MediapipePeople

    image = next(read_frames(demo_video)).image
    counts = []
    for confidence in (0.1, 0.4, 0.99):
        detector = MediapipePeople(confidence)
        counts.append(len(detect(detector, image).scores))
        detector.close()
    assert counts[0] >= counts[1] == 2
    assert counts[2] == 0, "the threshold reaches the graph"


def test_loading_and_detecting_prints_nothing(demo_video: Path) -> None:
    pytest.importorskip("mediapipe")
    code = (
        "import numpy as np; from mit_builder.models.mediapipe_people import MediapipePeople;"
        "d = MediapipePeople(0.4); d.detect([np.zeros((360, 640, 3), np.uint8)], thorough=[True]); d.close()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_mediapipe_is_not_imported_by_the_module() -> None:
    code = (
        "import sys, mit_builder.models.mediapipe_people as m; m.backend_name(); assert 'mediapipe' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_face_boxes_are_extended_upward_and_bodies_derived_from_the_face() -> None:
    face = np.array([[100, 100, 150, 150]], np.float32)
    np.testing.assert_allclose(s3fd_like(face), [[100, 86, 150, 150]])
    np.testing.assert_allclose(body_boxes(face, 1000, 350), [[15, 55, 235, 350]])


def test_tiles_cover_the_picture_and_overlap() -> None:
    covered = np.zeros((361, 641), int)
    for x, y, right, bottom in tiles(641, 361):
        covered[y:bottom, x:right] += 1
    assert covered.min() == 1
    assert covered.max() == 4


def test_windows_lie_in_the_picture() -> None:
    assert window(np.array([300, 100, 350, 160], np.float32), 640, 360) == (205, 10, 445, 250)
    assert window(np.array([-30, -40, 10, 10], np.float32), 640, 360) == (0, 0, 90, 85)
    x, y, right, bottom = window(np.array([900, 900, 910, 910], np.float32), 640, 360)
    assert (x, y, right, bottom) == (639, 359, 640, 360)
