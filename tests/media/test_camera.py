from __future__ import annotations

import cv2
import fake_people
import numpy as np
import pytest

from mit_builder.media.camera import background_mask, background_movement, small_grey

NOBODY = np.empty((0, 4), np.float32)
SCENE = fake_people.texture(900, 600)


def view(x: float, y: float, zoom: float = 1.0) -> np.ndarray:
    """(360, 640) grey window into the scene."""
    to_scene = np.array([[zoom, 0, x], [0, zoom, y]], np.float64)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return small_grey(cv2.warpAffine(SCENE, to_scene, (640, 360), flags=flags))


def test_pictures_are_shrunk_to_480_pixels_of_width() -> None:
    assert view(0, 0).shape == (270, 480)
    assert small_grey(SCENE[:200, :300]).shape == (200, 300)


def test_a_still_camera_measures_nothing() -> None:
    movement = background_movement(view(50, 50), view(50, 50), NOBODY)
    assert movement is not None
    assert movement.pct == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(("dx", "dy"), [(4, 0), (0, -3), (-6, 8)])
def test_a_pan_is_measured_in_percent_of_the_width(dx: float, dy: float) -> None:
    movement = background_movement(view(100, 100), view(100 + dx, 100 + dy), NOBODY)
    assert movement is not None
    assert movement.pct == pytest.approx(100 * np.hypot(dx, dy) / 640, rel=0.05)
    np.testing.assert_allclose(movement.affine[:, 2], [-dx * 0.75, -dy * 0.75], atol=0.1)


def test_a_zoom_about_the_centre_is_no_movement_of_it() -> None:
    movement = background_movement(view(100, 100), view(100 + 3.2, 100 + 1.8, 0.99), NOBODY)
    assert movement is not None
    assert movement.pct < 0.03


def test_people_who_move_in_front_of_a_still_background_are_masked() -> None:
    before, after = view(50, 50), view(50, 50)
    after[60:, 40:340] = view(42, 50)[60:, 40:340]
    face = np.array([[150, 80, 230, 160]], np.float32)
    masked = background_movement(before, after, face)
    unmasked = background_movement(before, after, NOBODY)
    assert masked is not None
    assert unmasked is not None
    assert masked.pct < 0.02 < 1 < unmasked.pct


def test_what_cannot_be_fitted_is_none() -> None:
    blank = np.full((270, 480), 90, np.uint8)
    assert background_movement(blank, blank, NOBODY) is None
    everywhere = np.array([[-100, -400, 580, 270]], np.float32)
    assert background_movement(view(0, 0), view(5, 0), everywhere) is None


def test_the_mask_reaches_from_above_the_face_to_the_bottom() -> None:
    mask = background_mask((200, 100), np.array([[80, 40, 100, 60]], np.float32))
    assert mask[28:, 58:122].max() == 0
    assert mask[:28].min() == 255
    assert mask[:, :58].min() == 255
    assert mask[:, 122:].min() == 255


def test_equal_frames_give_equal_results() -> None:
    first, second = (background_movement(view(10, 10), view(13, 11), NOBODY) for _ in range(2))
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.affine, second.affine)
