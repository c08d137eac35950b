from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from mit_builder.errors import ModelError
from mit_builder.models.asd import inputs


def specs(shared_dir: Path, name: str):
    path = shared_dir / "specs" / name
    if not path.exists():
        pytest.skip(f"no {name} beside the checkout")
    return np.load(path)


def test_parity_mfcc_of_talknet_preproc_parity(shared_dir: Path) -> None:
    fixture = specs(shared_dir, "talknet_preproc_parity.npz")
    names = [key.split("/")[1] for key in fixture.files if key.startswith("mfcc/") and key.endswith("/audio")]
    assert names
    for name in names:
        rows = inputs.mfcc(fixture[f"mfcc/{name}/audio"])
        np.testing.assert_allclose(rows, fixture[f"mfcc/{name}/mfcc"], rtol=0, atol=1e-8, err_msg=name)


def test_parity_mfcc_of_lr_asd_parity(shared_dir: Path) -> None:
    fixture = specs(shared_dir, "lr_asd_parity.npz")
    np.testing.assert_allclose(inputs.mfcc(fixture["face/audio"]), fixture["face/mfcc"], rtol=0, atol=1e-8)


def test_parity_crops_of_talknet_preproc_parity(shared_dir: Path) -> None:
    fixture = specs(shared_dir, "talknet_preproc_parity.npz")
    path = inputs.smooth_boxes(fixture["crop/boxes_xyxy"])
    for ours, theirs in ((path.half_side, "s"), (path.centre_x, "x"), (path.centre_y, "y")):
        np.testing.assert_allclose(ours, fixture[f"crop/smoothed_{theirs}"], rtol=0, atol=1e-9, err_msg=theirs)
    bgr = fixture["crop/frame_bgr"]
    rgb = np.ascontiguousarray(bgr[..., ::-1])
    for frame, grey in enumerate(fixture["crop/grey112"]):
        ours = inputs.crop_face(rgb, path, frame)
        assert np.abs(ours.astype(int) - grey.astype(int)).max() <= 1, frame
    for frame, crop in zip((0, 13, 25), fixture["crop/crop224_bgr_at_0_13_25"], strict=True):
        ours = inputs.crop_square(bgr, path.half_side[frame], path.centre_x[frame], path.centre_y[frame])
        assert np.abs(ours.astype(int) - crop.astype(int)).max() <= 1, frame


def slow_mfcc_row(window: np.ndarray) -> list[float]:
    """One row by the definition, sum by sum."""
    bins = np.arange(257)
    turns = np.exp(-2j * np.pi * np.outer(bins, np.arange(400)) / 512)
    power = np.abs(turns @ window) ** 2 / 512
    mel = [2595 * math.log10(1 + 8000 / 700) * i / 27 for i in range(28)]
    corner = [math.floor(513 * 700 * (10 ** (m / 2595) - 1) / 16000) for m in mel]
    bands = []
    for low, middle, high in zip(corner, corner[1:], corner[2:], strict=False):
        rising = sum(power[k] * (k - low) / (middle - low) for k in range(low, middle))
        bands.append(math.log(rising + sum(power[k] * (high - k) / (high - middle) for k in range(middle, high))))
    row = []
    for n in range(13):
        cosine = sum(band * math.cos(math.pi * n * (2 * i + 1) / 52) for i, band in enumerate(bands))
        row.append(cosine * math.sqrt((1 if n == 0 else 2) / 26) * (1 + 11 * math.sin(math.pi * n / 22)))
    return [math.log(power.sum()), *row[1:]]


def some_sound(n_samples: int) -> np.ndarray:
    time_s = np.arange(n_samples) / 16000
    noise = np.random.default_rng(5).normal(0, 300, n_samples)
    return (6000 * np.sin(2 * np.pi * 220 * time_s) + noise).astype(np.int16)


def test_mfcc_follows_its_definition() -> None:
    sound = some_sound(880)
    emphasised = np.concatenate([[float(sound[0])], sound[1:] - 0.97 * sound[:-1]])
    rows = inputs.mfcc(sound)
    assert rows.shape == (4, 13)
    for row, start in zip(rows, (0, 160, 320, 480), strict=True):
        np.testing.assert_allclose(row, slow_mfcc_row(emphasised[start : start + 400]), atol=1e-9)


@pytest.mark.parametrize(("n_samples", "n_rows"), [(0, 1), (400, 1), (401, 2), (560, 2), (561, 3), (16000, 99)])
def test_last_window_is_filled_with_zeros(n_samples: int, n_rows: int) -> None:
    assert inputs.mfcc(some_sound(n_samples)).shape == (n_rows, 13)


@pytest.mark.parametrize("n_frames", [1, 2, 7])
def test_every_frame_gets_four_rows(n_frames: int) -> None:
    assert inputs.mfcc_of_frames(some_sound(640 * n_frames), 0, n_frames).shape == (4 * n_frames, 13)


def test_rows_of_a_stretch_equal_those_of_the_whole_sound() -> None:
    sound = some_sound(640 * 20)
    whole = inputs.mfcc_of_frames(sound, 0, 20)
    pieces = [inputs.mfcc_of_frames(sound, 0, 9), inputs.mfcc_of_frames(sound, 9, 20)]
    np.testing.assert_allclose(np.concatenate(pieces), whole, rtol=0, atol=1e-10)
    padded = np.concatenate([sound, np.zeros(240, np.int16)])
    np.testing.assert_allclose(inputs.mfcc(padded), whole, rtol=0, atol=1e-10)


def test_sound_that_ends_early_counts_as_silence() -> None:
    rows = inputs.mfcc_of_frames(some_sound(640), 0, 3)
    np.testing.assert_array_equal(rows[8:, 0], np.log(np.finfo(np.float64).eps))
    assert np.isfinite(rows).all()


def coordinates_image(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.zeros_like(x)], axis=2).astype(np.uint8)


def test_crop_shows_the_face_with_its_margins() -> None:
    crop = inputs.crop_square(coordinates_image(240, 250), half_side=40, centre_x=120, centre_y=100)
    assert crop.shape == (224, 224, 3)
    left, right = crop[100, 0, 0], crop[100, -1, 0]
    top, bottom = crop[0, 100, 1], crop[-1, 100, 1]
    # x from 120 - 1.4 * 40 to 120 + 1.4 * 40; y from 100 - 40 to 100 + 1.8 * 40.
    assert (left, right, top, bottom) == (64, 175, 60, 171)


def test_crop_is_grey_outside_of_the_picture() -> None:
    crop = inputs.crop_square(np.zeros((100, 100, 3), np.uint8), half_side=30, centre_x=0, centre_y=100)
    assert set(np.unique(crop[:, :100])) == {inputs.PAD_GREY}
    assert crop[10, 140].tolist() == [0, 0, 0]
    far_away = inputs.crop_square(np.zeros((100, 100, 3), np.uint8), half_side=30, centre_x=-500, centre_y=900)
    assert (far_away == inputs.PAD_GREY).all()


def test_crop_reads_colours_as_rgb() -> None:
    red = np.zeros((200, 200, 3), np.uint8)
    red[..., 0] = 255
    path = inputs.smooth_boxes(np.tile([80.0, 80.0, 120.0, 120.0], (7, 1)))
    assert np.abs(inputs.crop_face(red, path, 3).astype(int) - 76).max() <= 1  # 0.299 * 255


def test_smoothing_drops_outliers_and_treats_the_outside_as_zero() -> None:
    boxes = np.tile([100.0, 50.0, 140.0, 110.0], (30, 1))
    boxes[15] += 500
    boxes[3, [0, 2]] -= 60
    path = inputs.smooth_boxes(boxes)
    assert path.half_side.tolist() == [30.0] * 30
    assert path.centre_x[4:].tolist() == [120.0] * 26
    assert path.centre_x[0] == 60.0  # the smallest of its seven


@pytest.mark.parametrize("n_frames", range(1, 7))
def test_track_shorter_than_half_the_kernel_keeps_its_place(n_frames: int) -> None:
    path = inputs.smooth_boxes(np.tile([100.0, 50.0, 140.0, 110.0], (n_frames, 1)))
    assert path.half_side.tolist() == [30.0] * n_frames
    assert path.centre_y.tolist() == [80.0] * n_frames


def two_people(n_frames: int) -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (120, 160, 3), dtype=np.uint8) for _ in range(n_frames)]
    boxes = np.tile(np.float32([[20, 30, 60, 70], [90, 30, 130, 75]])[:, None], (1, n_frames, 1))
    return images, boxes + rng.normal(0, 2, boxes.shape).astype(np.float32)


def test_blocks_hold_the_crops_of_all_people() -> None:
    images, boxes = two_people(23)
    blocks = list(inputs.face_crops(iter(images), boxes, 10))
    assert [block.shape[:2] for block in blocks] == [(2, 10), (2, 10), (2, 3)]
    crops = np.concatenate(blocks, axis=1)
    for person in range(2):
        path = inputs.smooth_boxes(boxes[person])
        for frame, image in enumerate(images):
            np.testing.assert_array_equal(crops[person, frame], inputs.crop_face(image, path, frame))


@pytest.mark.parametrize("n_images", [0, 22, 24])
def test_as_many_images_as_boxes_are_asked_for(n_images: int) -> None:
    images, boxes = two_people(24)
    with pytest.raises(ModelError, match="23 face boxes"):
        list(inputs.face_crops(images[:n_images], boxes[:, :23], 10))


def test_boxes_that_are_not_finite_are_refused() -> None:
    images, boxes = two_people(5)
    boxes[1, 2, 0] = np.nan
    with pytest.raises(ModelError, match="finite"):
        list(inputs.face_crops(images, boxes, 10))
