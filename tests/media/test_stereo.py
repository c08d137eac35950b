from __future__ import annotations

import subprocess
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
import pytest

from mit_builder.media.frames import read_frames
from mit_builder.media.probe import probe
from mit_builder.media.stereo import half_similarity

FACE = np.array([60, 70, 110, 130], np.float32)


def view(seed: int = 0, wh: tuple[int, int] = (200, 200)) -> np.ndarray:
    blocks = np.random.default_rng(seed).integers(40, 210, (wh[1] // 10, wh[0] // 10), np.uint8)
    return cv2.resize(blocks, wh, interpolation=cv2.INTER_CUBIC)


def second_view(first: np.ndarray, shift_px: float) -> np.ndarray:
    """What the other eye sees: everything shifted, the face (nearer) twice as far; a little brighter."""
    x, y = np.meshgrid(np.arange(first.shape[1], dtype=np.float32), np.arange(first.shape[0], dtype=np.float32))
    nearer = np.exp(-(((x - 85) / 40) ** 2) - ((y - 100) / 50) ** 2)
    seen = cv2.remap(first, (x + shift_px * (1 + nearer)).astype(np.float32), y, cv2.INTER_LINEAR, borderMode=2)
    return np.clip(seen * 1.05 + 4, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("shift_px", [0, 2, 4])
@pytest.mark.parametrize("turn", [None, 0, 1], ids=["both upright", "upside down", "mirrored"])
def test_a_face_is_found_in_the_other_view_with_parallax_and_mirrored(shift_px: float, turn: int | None) -> None:
    first = view()
    second = second_view(first, shift_px)
    if turn is not None:
        second = cv2.flip(second, turn)
    beside, above = np.concatenate([first, second], axis=1), np.concatenate([first, second], axis=0)
    if turn != 0:
        assert half_similarity(beside, FACE)["beside"] > 0.85
        assert half_similarity(np.concatenate([second, first], axis=1), np.add(FACE, [200, 0, 200, 0]))["beside"] > 0.85
    if turn != 1:
        assert half_similarity(above, FACE)["above"] > 0.85


def test_another_face_is_not_found_and_a_face_across_the_border_has_no_value() -> None:
    two = np.concatenate([view(1), view(2)], axis=1)
    assert half_similarity(two, FACE)["beside"] < 0.7
    assert "beside" not in half_similarity(two, np.array([180, 70, 230, 130], np.float32))


def write(path: Path, picture: np.ndarray, *options: str) -> Path:
    height, width = picture.shape
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "gray"]
    command += ["-s", f"{width}x{height}", "-r", "25", "-i", "-", "-pix_fmt", "yuv420p", "-c:v", "libx264", "-crf", "8"]
    subprocess.run([*command, *options, str(path)], input=picture.tobytes() * 5, check=True)
    return path


def mkv(mode: str) -> tuple[str, ...]:
    return "-metadata:s:v", f"stereo_mode={mode}"


TAGGED = {
    "side by side": (1, "a.mkv", (200, 200), (200, 200), mkv("left_right")),
    "right eye first": (1, "a.mkv", (200, 200), (200, 200), mkv("right_left")),
    "half width": (1, "a.mkv", (160, 200), (320, 200), mkv("left_right")),
    "in the H.264 stream": (1, "a.mp4", (200, 200), (200, 200), ("-x264opts", "frame-packing=3")),
    "top-bottom": (0, "a.mkv", (320, 180), (320, 180), mkv("top_bottom")),
    "half height": (0, "a.mkv", (320, 90), (320, 180), mkv("top_bottom")),
    "top-bottom in the H.264 stream": (0, "a.mp4", (320, 180), (320, 180), ("-x264opts", "frame-packing=4")),
}


@pytest.mark.parametrize("case", TAGGED)
def test_tagged_footage_shows_its_first_view_alone(case: str, tmp_path: Path) -> None:
    axis, name, stored_wh, shown_wh, options = TAGGED[case]
    first = view(wh=stored_wh)
    path = write(tmp_path / name, np.concatenate([first, second_view(first, 2)], axis=axis), *options)
    info = probe(path)
    assert (info.width_px, info.height_px) == shown_wh
    for max_side_px in (None, 100):
        image = next(read_frames(path, max_side_px=max_side_px)).image[..., 1]
        expected = cv2.resize(first, image.shape[::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(image.astype(int) - expected).mean() < 8


def test_a_tag_that_the_picture_contradicts_is_not_believed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", np.concatenate([view(1), view(2)], axis=1), *mkv("left_right"))
    assert probe(path).width_px == 400


def test_a_black_first_picture_says_nothing_against_the_tag(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", np.zeros((200, 400), np.uint8), *mkv("left_right"))
    assert probe(path).width_px == 200
