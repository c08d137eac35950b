from __future__ import annotations

from collections.abc import Sequence

import fake_people
import numpy as np
import pytest

from mit_builder.config.settings import DetectSettings
from mit_builder.models.base import Detections
from stages.filter.shot_scan import ShotScan

SCENE = fake_people.texture(700, 400)
LEFT, RIGHT = (100, 100, 160, 160), (400, 120, 450, 170)


def scan(images: list[np.ndarray], detector: fake_people.SquareFinder | None = None) -> ShotScan:
    made = ShotScan(detector or fake_people.SquareFinder(), DetectSettings(), 1000)
    for image in images:
        made.add(image)
    return made


def test_tracks_carry_the_frames_of_the_video_and_one_box_a_frame() -> None:
    images = [fake_people.picture(SCENE[:360, :640], (tuple(np.add(LEFT, i)), RIGHT)) for i in range(21)]
    tracks, looks, signals = scan(images).finish()
    assert [(t.start_frame, t.end_frame) for t in tracks] == [(1000, 1021), (1000, 1021)]
    np.testing.assert_allclose(tracks[0].face_boxes_xyxy, [np.add(LEFT, i) for i in range(21)])
    np.testing.assert_allclose(tracks[1].face_boxes_xyxy, [RIGHT] * 21)
    assert len(looks) == 2
    assert {len(values) for values in vars(signals).values()} == {21}


def test_camera_motion_has_no_value_in_the_first_frame_and_the_pan_in_the_others() -> None:
    _, _, signals = scan([np.ascontiguousarray(SCENE[:360, i : 640 + i]) for i in range(8)]).finish()
    assert np.isnan(signals.camera_motion_pct[0])
    np.testing.assert_allclose(signals.camera_motion_pct[1:], 100 / 640, rtol=0.1)


def test_repeated_pictures_of_a_slow_source_share_the_movement() -> None:
    shown = [i // 3 * 3 for i in range(10)]
    _, _, signals = scan([np.ascontiguousarray(SCENE[:360, i : 640 + i]) for i in shown]).finish()
    np.testing.assert_allclose(signals.camera_motion_pct[1:], 100 / 640, rtol=0.1)


def test_a_frozen_face_is_still_and_a_living_one_is_not() -> None:
    images = []
    for i in range(40):
        image = fake_people.picture(SCENE[:360, :640], (LEFT, RIGHT))
        image[140 + i // 2 :, 405:445][:15, :] = 40  # a mouth that wanders
        images.append(image)
    tracks, looks, _ = scan(images).finish()
    assert [t.face_boxes_xyxy[0, 0] for t in tracks] == [100, 400]
    assert looks[0].stillness == 0
    assert looks[1].stillness is not None
    assert looks[1].stillness > 2


def test_grain_on_a_frozen_face_is_no_life() -> None:
    rng = np.random.default_rng(3)
    plain = fake_people.picture(SCENE[:360, :640], (LEFT, RIGHT)).astype(int)
    plain[120:140, 110:150] = 90
    images = [np.clip(plain + rng.normal(0, 8, (360, 640, 1)), 0, 255).astype(np.uint8) for _ in range(40)]
    _, looks, _ = scan(images).finish()
    assert looks[0].stillness is not None
    assert looks[0].stillness < 0.5


class LeftHalfFinder(fake_people.SquareFinder):
    def detect(self, images: Sequence[np.ndarray], *, thorough: Sequence[bool]) -> list[Detections]:
        return super().detect([image[:, : image.shape[1] // 2] for image in images], thorough=thorough)


@pytest.mark.parametrize("is_twice", [True, False])
def test_a_face_that_is_shown_twice_is_found_in_the_other_half(is_twice: bool) -> None:
    view = fake_people.picture(SCENE[:360, :320], (LEFT,))
    other = view if is_twice else fake_people.texture(320, 360, seed=5)
    _, (looks,), _ = scan([np.concatenate([view, other], axis=1)] * 8, LeftHalfFinder()).finish()
    assert looks.similarity_beside is not None
    assert (looks.similarity_beside > 0.95) == is_twice


def test_a_lost_face_is_searched_again_at_its_last_place() -> None:
    detector = fake_people.SquareFinder()
    plain, both = (fake_people.picture(SCENE[:360, :640], boxes) for boxes in ((LEFT,), (LEFT, RIGHT)))
    scan([both] * 4 + [plain] * 4, detector)
    assert detector.looked_again == 2


def test_faces_below_sixteen_pixels_are_not_followed() -> None:
    images = [fake_people.picture(SCENE[:360, :640], ((50, 50, 65, 65), (200, 50, 216, 66)))] * 8
    tracks, _, _ = scan(images).finish()
    assert [t.face_boxes_xyxy[0, 0] for t in tracks] == [200]


@pytest.mark.parametrize("batch", [3, 8, 100])
def test_a_detector_that_takes_several_frames_at_once_changes_nothing(batch: int) -> None:
    rng = np.random.default_rng(2)
    images = []
    for i in range(41):
        boxes = (tuple(np.add(LEFT, i)), RIGHT if i % 10 < 6 else None)
        image = fake_people.picture(SCENE[:360, i // 5 : 640 + i // 5], boxes)
        image[130:165, 405:445] = np.clip(image[130:165, 405:445] + rng.integers(0, 60, (35, 40, 1)), 0, 255)
        images.append(image)
    one, several = fake_people.SquareFinder(), fake_people.SquareFinder(batch=batch)
    plain, batched = scan(images, one).finish(), scan(images, several).finish()
    for first, second in zip(plain[0], batched[0], strict=True):
        for name, values in vars(first).items():
            np.testing.assert_array_equal(values, getattr(second, name), err_msg=name)
    np.testing.assert_array_equal(plain[1], batched[1])
    for name, values in vars(plain[2]).items():
        np.testing.assert_array_equal(values, getattr(batched[2], name), err_msg=name)
    assert one.calls == [1] * 21
    assert several.calls == [batch] * (21 // batch) + [21 % batch] * (21 % batch > 0)
    assert one.thorough == several.thorough == [True, False, False] * 7
    assert one.looked_again == several.looked_again > 0


def test_brightness_and_sharpness_are_those_of_the_luma() -> None:
    flat = np.full((90, 160, 3), 120, np.uint8)
    _, _, signals = scan([flat, flat]).finish()
    assert signals.brightness.tolist() == [120, 120]
    assert signals.sharpness.tolist() == [0, 0]
    assert scan([SCENE[:360, :640]]).finish()[2].sharpness[0] > 100
