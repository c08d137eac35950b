from __future__ import annotations

import cv2
import fake_people
import numpy as np
import pytest

from mit_builder.media.stillness import compose, face_changes, invert, stillness

SCENE = fake_people.texture(400, 300)[..., 0]
FACE = np.array([[150, 100, 214, 180]], np.float32)


def moved(zoom: float, dx: float, dy: float) -> np.ndarray:
    matrix = np.array([[zoom, 0, dx], [0, zoom, dy]], np.float64)
    return cv2.warpAffine(SCENE, matrix, (400, 300), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


@pytest.mark.parametrize("after", [SCENE, moved(1, 5, 2), moved(1.03, -4, -3)], ids=["still", "pan", "zoom"])
def test_a_photograph_does_not_change_by_itself(after: np.ndarray) -> None:
    (change,) = face_changes(SCENE, after, FACE)
    assert stillness([change], [0]) < 0.5


def test_a_photograph_laid_over_a_moving_background_does_not_change() -> None:
    overlay = moved(1, 5, 2)
    overlay[90:190, 140:224] = SCENE[90:190, 140:224]
    assert face_changes(SCENE, overlay, FACE) == 0


def test_a_face_that_moves_by_itself_does_by_as_much_as_it_moves() -> None:
    alive = SCENE.copy()
    alive[100:180, 152:216] = SCENE[100:180, 150:214]  # two of 64 pixels to the right
    assert stillness(face_changes(SCENE, alive, FACE), [0.0]) == pytest.approx(100 * 2 / 64, rel=0.25)


def test_what_close_frames_differ_by_is_noise() -> None:
    assert stillness([3.0, 5.0], [1.0, 1.0]) == pytest.approx(100 * np.sqrt(3) / 32)
    assert stillness([1.0], [1.5]) == 0


def test_light_that_changes_everywhere_is_no_movement() -> None:
    assert face_changes(SCENE, SCENE + 20, FACE) == pytest.approx(0, abs=1e-6)


def test_of_a_face_across_the_edge_what_is_in_the_picture_is_compared() -> None:
    assert face_changes(SCENE, SCENE, np.array([[-10, 30, 40, 80]], np.float32)) == 0


def test_a_face_that_was_not_in_the_picture_has_no_value() -> None:
    left = np.array([[0, 100, 24, 130]], np.float32)
    assert np.isnan(face_changes(SCENE, moved(1, 16, 0), left))


def test_maps_compose_and_invert() -> None:
    first, second = np.array([[2, 0, 1], [0, 2, -3]], float), np.array([[0, -1, 5], [1, 0, 0]], float)
    point = np.array([3, 4])
    after_first = first[:, :2] @ point + first[:, 2]
    np.testing.assert_allclose(compose(second, first) @ [*point, 1], second[:, :2] @ after_first + second[:, 2])
    np.testing.assert_allclose(compose(invert(first), first), np.eye(2, 3), atol=1e-9)
