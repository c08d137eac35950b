from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from asd_parity import spec_file
from tiny_sapiens import heatmaps

pytest.importorskip("torch", reason="Sapiens needs torch, which the embedded environment does not have")

import torch

from mit_builder.labels.keypoints import SWAP
from mit_builder.models.sapiens.crops import Regions
from mit_builder.models.sapiens.heatmaps import decode, in_picture, mirrored_back

SMALL_FIXTURE = Path(__file__).parent / "data" / "sapiens_small.npz"
TOLERANCE_PX = 1e-3
"""Of points where the score is positive (sapiens.md)."""


def test_parity_with_sapiens_decode_parity_points(shared_dir: Path) -> None:
    theirs = np.load(spec_file(shared_dir, "sapiens_decode_parity.npz"))
    regions = Regions(theirs["decode_map/center"][None], theirs["decode_map/scale"][None])
    names = sorted(
        {key.split("/")[0] for key in theirs.files if key.endswith("/heatmaps") and key.startswith("decode")}
    )
    assert names
    for name in names:
        maps = theirs[f"{name}/heatmaps"]
        decoded = decode(torch.from_numpy(maps)[None]).numpy()
        scores = theirs[f"{name}/scores"]
        np.testing.assert_array_equal(decoded[0, :, 2], scores)
        found = scores > 0
        input_wh = 4 * np.array(maps.shape[:0:-1])
        in_input = decoded[0, :, :2] * input_wh
        for ours, wanted in ((in_input, "keypoints_input_px"), (in_picture(decoded, regions)[0], "keypoints_image_px")):
            np.testing.assert_allclose(
                ours[found, :2],
                theirs[f"{name}/{wanted}"][found],
                rtol=0,
                atol=TOLERANCE_PX,
                err_msg=f"{name} {wanted}",
            )


def test_parity_with_the_small_fixture_of_this_repository() -> None:
    wanted = np.load(SMALL_FIXTURE)["points"]
    decoded = decode(torch.from_numpy(heatmaps(0))).numpy()
    np.testing.assert_array_equal(decoded[..., 2], wanted[..., 2].astype(np.float32))
    found = wanted[..., 2] > 0
    np.testing.assert_allclose((decoded * (192, 256, 1))[found], (wanted * (192, 256, 1))[found], atol=TOLERANCE_PX)


def step_by_step(heatmap: np.ndarray) -> np.ndarray:
    """x, y of one map in its pixels, as the specification words it."""
    y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
    blurred = cv2.GaussianBlur(np.pad(heatmap, 5), (11, 11), 0)[5:-5, 5:-5]
    logs = np.pad(np.log(np.clip(blurred * (heatmap.max() / blurred.max()), 1e-3, 50)), 1, mode="edge").astype(float)

    def at(right: int, down: int) -> float:
        return float(logs[y + 1 + down, x + 1 + right])

    slope = np.array([at(1, 0) - at(-1, 0), at(0, 1) - at(0, -1)]) / 2
    dxx, dyy = at(1, 0) - 2 * at(0, 0) + at(-1, 0), at(0, 1) - 2 * at(0, 0) + at(0, -1)
    dxy = (at(1, 1) - at(1, 0) - at(0, 1) + 2 * at(0, 0) - at(-1, 0) - at(0, -1) + at(-1, -1)) / 2
    hessian = np.array([[dxx, dxy], [dxy, dyy]]) + np.finfo(np.float32).eps * np.eye(2)
    return np.array([x, y]) - np.linalg.inv(hessian) @ slope


@pytest.mark.parametrize("seed", [3, 4])
def test_points_are_those_of_the_specification_step_by_step(seed: int) -> None:
    maps = heatmaps(seed, n=3)
    decoded = decode(torch.from_numpy(maps)).numpy() * (47, 63, 1)
    for each, points in zip(maps, decoded, strict=True):
        for heatmap, (x, y, score) in zip(each, points, strict=True):
            assert score == heatmap.max()
            if score > 0:
                np.testing.assert_allclose((x, y), step_by_step(heatmap), atol=2e-3)


def test_of_two_equal_maxima_the_first_counts() -> None:
    maps = torch.zeros(1, 1, 16, 12)
    maps[0, 0, 3, 4] = maps[0, 0, 12, 2] = 0.5
    x, y, score = (decode(maps)[0, 0] * torch.tensor([11, 15, 1])).tolist()
    assert score == 0.5
    assert (round(x), round(y)) == (4, 3)


def test_an_empty_map_has_a_place_but_no_score() -> None:
    assert decode(torch.zeros(1, 1, 16, 12))[0, 0].tolist() == [0, 0, 0]


def test_scores_are_kept_within_0_to_1_and_none_without_a_positive_one() -> None:
    decoded = np.array([[[0.5, 0.5, 1.2], [0.5, 0.5, 0.4], [0.1, 0.1, 0], [0.2, 0.2, -0.1], [np.inf, 0.3, 0.7]]])
    points = in_picture(decoded, Regions(np.array([[50.0, 60.0]]), np.array([[30.0, 40.0]])))
    assert points.dtype == np.float32
    np.testing.assert_allclose(points[0, :2], [(50, 60, 1), (50, 60, 0.4)])
    np.testing.assert_array_equal(points[0, 2:], [(np.nan, np.nan, 0)] * 3)


def test_points_of_a_batch_are_those_of_single_maps() -> None:
    maps = torch.from_numpy(heatmaps(9, n=4))
    singly = torch.cat([decode(one[None]) for one in maps])
    np.testing.assert_array_equal(decode(maps), singly)


def test_mirrored_heatmaps_come_back_with_left_and_right_exchanged() -> None:
    maps = torch.rand(2, 133, 8, 6)
    back = mirrored_back(maps, torch.from_numpy(SWAP))
    left_wrist, right_wrist, nose = 9, 10, 0
    assert torch.equal(back[:, left_wrist], maps[:, right_wrist].flip(2))
    assert torch.equal(back[:, nose, 2, 1], maps[:, nose, 2, 4])
