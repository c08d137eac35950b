"""README's pictures: there, small, and made by the script that says so."""

from __future__ import annotations

from pathlib import Path

import cv2
import make_readme_pictures
import numpy as np
import pytest
import tiny_dataset

README = Path(__file__).resolve().parents[1] / "README.md"
MAX_BYTES = {"clip.png": 600_000, "clip.webp": 1_500_000}


@pytest.mark.parametrize("name", MAX_BYTES)
def test_readme_shows_pictures_that_are_there_and_small(name: str) -> None:
    assert f"](docs/pictures/{name})" in README.read_text()
    assert 10_000 < (README.parent / "docs" / "pictures" / name).stat().st_size < MAX_BYTES[name]


def test_readme_has_one_picture_that_moves_for_three_seconds() -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    with image.open(README.parent / "docs" / "pictures" / "clip.webp") as moving:
        assert moving.n_frames / make_readme_pictures.MOVING_FPS == pytest.approx(3, abs=0.5)


def test_pictures_are_made_of_any_finished_dataset(tmp_path: Path) -> None:
    tiny_dataset.build(tmp_path)
    still, moving = make_readme_pictures.make_pictures(tmp_path, tmp_path)
    assert cv2.imread(str(still)).shape[1] == make_readme_pictures.WIDTH_PX
    assert moving.read_bytes()[8:12] == b"WEBP"
    assert b"ANIM" in moving.read_bytes()[:64]


@pytest.mark.parametrize(("n_frames", "start"), [(4, 4), (8, 0), (50, 0)])
def test_the_window_is_where_both_speak(n_frames: int, start: int) -> None:
    speaking = np.array([[1, 1, 1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1, 1]], bool)
    assert make_readme_pictures.busiest_window(speaking, n_frames) == start
