from __future__ import annotations

import fake_people
import numpy as np
import pytest

from mit_builder.media.stillness import compose, face_change, invert

SCENE = fake_people.texture(400, 300)[..., 0]
FACE = np.array([150, 100, 214, 180], np.float32)


def test_a_photograph_does_not_change_under_a_still_camera() -> None:
    assert face_change(SCENE, SCENE, None, FACE) == 0


def test_a_photograph_does_not_change_under_a_moving_camera() -> None:
    moved = np.roll(SCENE, (2, 5), axis=(0, 1))
    background = np.array([[1, 0, 5], [0, 1, 2]], float)
    assert face_change(SCENE, moved, background, FACE) == pytest.approx(0, abs=0.01)
    assert face_change(SCENE, moved, None, FACE) > 5


def test_a_face_that_moves_by_itself_changes() -> None:
    alive = SCENE.copy()
    alive[140:170, 160:200] += 20
    change = face_change(SCENE, alive, np.array([[1, 0, 0.1], [0, 1, 0]], float), FACE)
    assert change == pytest.approx(20 * (30 * 40) / (64 * 80), rel=0.2)


def test_a_face_beyond_the_edge_can_be_compared() -> None:
    assert face_change(SCENE, SCENE, None, np.array([-20, -30, 40, 40], np.float32)) == 0


def test_maps_compose_and_invert() -> None:
    first, second = np.array([[2, 0, 1], [0, 2, -3]], float), np.array([[0, -1, 5], [1, 0, 0]], float)
    point = np.array([3, 4])
    after_first = first[:, :2] @ point + first[:, 2]
    np.testing.assert_allclose(compose(second, first) @ [*point, 1], second[:, :2] @ after_first + second[:, 2])
    np.testing.assert_allclose(compose(invert(first), first), np.eye(2, 3), atol=1e-9)
