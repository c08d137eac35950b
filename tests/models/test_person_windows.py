"""Where a person's body is searched, framed by box and mesh."""

from __future__ import annotations

import numpy as np
import pytest

from mit_builder.labels.face_boxes import ABOVE, BELOW, WIDTH_OF_HEIGHT
from mit_builder.models.mediapipe.person_windows import STEADY_FRAMES, Framing, around_bodies, steady

FACE = np.array([100, 50, 200, 180], np.float32)


def points_of(face_xyxy: np.ndarray) -> np.ndarray:
    """(68, 3) face points whose S3FD-like box is this one, up to its height."""
    left, top, right, _ = face_xyxy
    height = (right - left) / WIDTH_OF_HEIGHT
    points = np.full((68, 3), (left + right) / 2, np.float32)
    points[:, 1] = np.linspace(top + ABOVE * height, top + (1 + ABOVE) * height, 68)
    return points


def window_of(face_xyxy: np.ndarray) -> np.ndarray:
    face = face_xyxy[None, None]
    return steady(around_bodies(np.tile(face, (1, 1, 1)), face))[0, 0]


def test_a_box_of_another_size_gives_the_window_of_the_mesh() -> None:
    narrow = FACE + np.array([6, 9, -6, -5], np.float32)
    points = points_of(FACE)
    (true_box,) = np.array([[100, 50, 200, 50 + (1 + ABOVE + BELOW) * 100 / WIDTH_OF_HEIGHT]])
    expected = window_of(true_box)
    for box in (FACE, narrow):
        np.testing.assert_allclose(Framing().adjusted(window_of(box), box, points), expected, atol=12)
    assert np.abs(window_of(narrow) - window_of(FACE)).max() > 40


def test_without_points_the_window_stays_and_later_keeps_what_was_seen() -> None:
    framing, window = Framing(), window_of(FACE)
    np.testing.assert_array_equal(framing.adjusted(window, FACE, None), window)
    seen = framing.adjusted(window, FACE, points_of(FACE + 20))
    np.testing.assert_array_equal(framing.adjusted(window, FACE, None), seen)


def test_one_wrong_mesh_moves_the_window_little() -> None:
    framing, window = Framing(), window_of(FACE)
    before = framing.adjusted(window, FACE, points_of(FACE))
    after = framing.adjusted(window, FACE, points_of(FACE + 50))
    assert np.abs(after - before).max() == pytest.approx(50 / STEADY_FRAMES, abs=1)
