from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from asd_parity import spec_file
from tiny_sapiens import boxes, picture

pytest.importorskip("torch", reason="Sapiens needs torch, which the embedded environment does not have")

from mit_builder.models.sapiens.crops import Regions, batch_of, crop_matrices, cut_out, normalised, regions_of

SMALL_FIXTURE = Path(__file__).parent / "data" / "sapiens_small.npz"
NORMALISED_TOLERANCE = 1e-5
"""Of normalised pixels (about -2..3). Pixels themselves must be equal: not one grey level off."""


def crops_of(image: np.ndarray, regions: Regions, input_hw: tuple[int, int]) -> np.ndarray:
    """(n, h, w, 3) whole numbers."""
    batch = batch_of([image] * len(regions.centre_xy), regions, input_hw)
    return cut_out(batch.frames, batch.frame_of, batch.rows, batch.columns).numpy()


def test_parity_with_sapiens_decode_parity_crops(shared_dir: Path) -> None:
    theirs = np.load(spec_file(shared_dir, "sapiens_decode_parity.npz"))
    names = sorted({key.split("/")[1] for key in theirs.files if key.startswith("pre/")})
    assert names
    for name in names:
        image = theirs[f"pre/{name}/image_bgr"][:, :, ::-1].copy()
        regions = regions_of(theirs[f"pre/{name}/boxes_xyxy"])
        crops = crops_of(image, regions, (1024, 768))
        for i, crop in enumerate(crops):
            at = f"pre/{name}/{i}"
            np.testing.assert_allclose(regions.centre_xy[i], theirs[f"{at}/full_center"], rtol=1e-12)
            np.testing.assert_allclose(regions.scale_wh[i], theirs[f"{at}/full_scale"], rtol=1e-12)
            seen = batch_of([image], Regions(*(values[i : i + 1] for values in regions)), (1024, 768)).crops()[0]
            every16 = theirs[f"{at}/full_input_chw_every16"]
            np.testing.assert_allclose(
                seen[:, 8::16, 8::16], every16, rtol=0, atol=NORMALISED_TOLERANCE, err_msg=f"{at} {crop.shape}"
            )


def test_parity_with_sapiens_decode_parity_matrices_and_bytes(shared_dir: Path) -> None:
    theirs = np.load(spec_file(shared_dir, "sapiens_decode_parity.npz"))
    n_compared = 0
    for key in theirs.files:
        found = re.fullmatch(r"pre/(\w+)/(\d)/full_matrix_(\d+)x(\d+)", key)
        if found:
            name, i, width, height = found[1], int(found[2]), int(found[3]), int(found[4])
            region = Regions(*(values[i : i + 1] for values in regions_of(theirs[f"pre/{name}/boxes_xyxy"])))
            np.testing.assert_allclose(crop_matrices(region, (height, width))[0], theirs[key], rtol=1e-6)
            bytes_key = f"pre/{name}/{i}/full_crop_bgr_{width}x{height}"
            if bytes_key in theirs:
                crop = crops_of(theirs[f"pre/{name}/image_bgr"], region, (height, width))[0]
                np.testing.assert_array_equal(crop, theirs[bytes_key], err_msg=bytes_key)
                n_compared += 1
    assert n_compared


def test_parity_with_the_small_fixture_of_this_repository() -> None:
    crops = crops_of(picture(0), regions_of(boxes(1)[:, 0]), (128, 96))
    np.testing.assert_array_equal(crops, np.load(SMALL_FIXTURE)["crops"])


@pytest.mark.skipif(not cv2.__version__.startswith("4."), reason="OpenCV 5 computes places in another way than 4")
@pytest.mark.parametrize("seed", range(4))
def test_crops_are_those_of_opencv_4(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*rng.integers(60, 300, 2), 3), dtype=np.uint8)
    centres, sides = rng.uniform(0, image.shape[1::-1], (6, 2)), rng.uniform(3, 400, (6, 2))
    regions = regions_of(np.round(np.concatenate([centres - sides / 2, centres + sides / 2], axis=1), seed))
    for crop, matrix in zip(crops_of(image, regions, (256, 192)), crop_matrices(regions, (256, 192)), strict=True):
        np.testing.assert_array_equal(crop, cv2.warpAffine(image, matrix, (192, 256), flags=cv2.INTER_LINEAR))


def test_crops_are_within_a_32nd_of_a_pixel_of_any_opencv() -> None:
    y, x = np.mgrid[:120, :160]
    image = np.stack([x, y, x + y], axis=2).astype(np.uint8)  # one grey level a pixel
    regions = regions_of(np.array([[30.5, 20.2, 90.7, 100.9]]))
    matrix = crop_matrices(regions, (256, 192))[0]
    theirs = cv2.warpAffine(image, matrix, (192, 256), flags=cv2.INTER_LINEAR).astype(float)
    assert np.abs(crops_of(image, regions, (256, 192))[0] - theirs).max() <= 1


def test_corners_of_a_region_go_to_the_centres_of_corner_pixels() -> None:
    regions = regions_of(np.array([[10.0, 20.0, 40.0, 60.0]]))
    low, high = (regions.centre_xy + side * regions.scale_wh / 2 for side in (-1, 1))
    matrix = crop_matrices(regions, (1024, 768))[0]
    np.testing.assert_allclose(matrix[:, :2] @ low[0] + matrix[:, 2], (0, 0), atol=1e-3)
    np.testing.assert_allclose(matrix[:, :2] @ high[0] + matrix[:, 2], (767, 1023), atol=1e-3)


@pytest.mark.parametrize(
    ("box", "scale"),
    [
        ((0, 0, 30, 40), (37.5, 50)),
        ((0, 0, 60, 40), (75, 100)),
        ((0, 0, 10, 40), (37.5, 50)),
        ((5, 5, 5, 5), (1.25, 5 / 3)),
    ],
)
def test_boxes_grow_by_a_quarter_and_to_three_quarters(box: tuple[float, ...], scale: tuple[float, float]) -> None:
    np.testing.assert_allclose(regions_of(np.array([box], np.float32)).scale_wh[0], scale)


def test_what_lies_outside_the_picture_is_black() -> None:
    image = np.full((20, 20, 3), 255, np.uint8)
    (crop,) = crops_of(image, regions_of(np.array([[100.0, 100, 130, 140]])), (128, 96))
    assert (crop == 0).all()


def test_frames_are_handed_over_once_for_all_their_people() -> None:
    first, second = picture(1), picture(2)
    regions = regions_of(np.tile(np.float32([5, 5, 40, 60]), (4, 1)))
    batch = batch_of([first, first, second, second], regions, (128, 96))
    assert batch.frames.shape == (2, *first.shape)
    assert batch.frame_of.tolist() == [0, 0, 1, 1]


def test_normalised_pixels_are_red_first() -> None:
    import torch

    pixel = torch.tensor([[[[123.675, 116.28 + 57.12, 103.53 - 57.375]]]])
    assert normalised(pixel).flatten().tolist() == pytest.approx([0, 1, -1], abs=1e-6)
