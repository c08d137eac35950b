from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filled_weights import save_filled
from tiny_sapiens import boxes, checkpoint, picture, program, shapes

pytest.importorskip("torch", reason="Sapiens needs torch, which the embedded environment does not have")

import torch

from mit_builder.errors import MediaError, StageUnavailable
from mit_builder.labels.keypoints import SWAP
from mit_builder.models.sapiens.crops import batch_of, regions_of
from mit_builder.models.sapiens.estimator import Sapiens
from mit_builder.models.sapiens.heatmaps import decode, in_picture
from mit_builder.models.sapiens.network import load_network

torch.set_num_threads(1)  # as in production
N_FRAMES = 5
TOLERANCE_PX = 1e-3


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pth")


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    return [picture(seed) for seed in range(N_FRAMES)]


def estimate(weights: Path, frames: list[np.ndarray], **options: Any) -> np.ndarray:
    """(2, n_frames, 133, 3)."""
    where = boxes(len(frames))
    return np.stack(list(Sapiens(weights, **options).estimate(iter(frames), where, where)), axis=1)


def one_by_one(weights: Path, frames: list[np.ndarray]) -> np.ndarray:
    """The plain way: one crop after another through the network and the decoder."""
    network, points = load_network(weights), []
    for person in boxes(len(frames)):
        for image, box in zip(frames, person, strict=True):
            regions = regions_of(box[None])
            with torch.inference_mode():
                maps = network(batch_of([image], regions, (128, 96)).crops())
            points.append(in_picture(decode(maps).numpy(), regions)[0])
    return np.stack(points).reshape(2, len(frames), 133, 3)


@pytest.mark.parametrize("batch", [1, 3, 4, 64])
def test_batches_of_frames_read_ahead_give_what_the_plain_way_gives(
    weights: Path, frames: list[np.ndarray], batch: int
) -> None:
    plain = one_by_one(weights, frames)
    found = estimate(weights, frames, batch=batch)
    assert np.ptp(plain[..., :2]) > 100
    np.testing.assert_allclose(found, plain, rtol=0, atol=TOLERANCE_PX)


def test_points_come_frame_by_frame_while_frames_are_read(weights: Path) -> None:
    read: list[int] = []

    def source() -> Iterator[np.ndarray]:
        for i in range(40):
            read.append(i)
            yield picture(i)

    points = Sapiens(weights, batch=2).estimate(source(), boxes(40), boxes(40))
    next(points)
    assert len(read) < 10
    points.close()  # type: ignore[attr-defined]
    assert not any(thread.name.startswith("read-ahead") for thread in threading.enumerate())


def test_clips_do_not_mix(weights: Path, frames: list[np.ndarray]) -> None:
    estimator = Sapiens(weights, batch=4)
    expected = estimate(weights, frames[:3], batch=4)
    for _ in range(2):
        found = list(estimator.estimate(iter(frames[:3]), boxes(3), boxes(3)))
        np.testing.assert_array_equal(np.stack(found, axis=1), expected)
        list(estimator.estimate(iter(frames[3:]), boxes(2), boxes(2)))


def test_frames_that_end_early_end_the_points(weights: Path, frames: list[np.ndarray]) -> None:
    assert len(list(Sapiens(weights, batch=3).estimate(iter(frames[:2]), boxes(5), boxes(5)))) == 2


def test_what_is_wrong_with_the_frames_is_said(weights: Path) -> None:
    def source() -> Iterator[np.ndarray]:
        yield picture(0)
        raise MediaError("the file ends here")

    with pytest.raises(MediaError, match="the file ends here"):
        list(Sapiens(weights).estimate(source(), boxes(3), boxes(3)))


def test_flip_test_is_the_mean_with_the_mirrored_picture(weights: Path) -> None:
    crops = torch.randn(2, 3, 128, 96)
    with torch.inference_mode():
        plain, tested = Sapiens(weights), Sapiens(weights, flip_test=True)
        once, mirrored = plain.heatmaps(crops).numpy(), plain.heatmaps(crops.flip(3)).numpy()
        found, found_mirrored = tested.heatmaps(crops).numpy(), tested.heatmaps(crops.flip(3)).numpy()
    np.testing.assert_allclose(found, (once + mirrored[:, SWAP, :, ::-1]) / 2, atol=1e-5)
    np.testing.assert_allclose(found_mirrored[:, SWAP, :, ::-1], found, atol=1e-5)
    assert np.abs(found - once).max() > 0.1


def test_the_program_itself_gives_what_our_network_gives(tmp_path: Path, frames: list[np.ndarray]) -> None:
    path = program(tmp_path / "tiny.pt2")
    ours = estimate(path, frames[:2], script=True)
    np.testing.assert_allclose(
        estimate(path, frames[:2], script=True, run_script=True), ours, rtol=0, atol=TOLERANCE_PX
    )


def test_half_precision_stays_close(weights: Path) -> None:
    crops = torch.randn(1, 3, 128, 96)
    with torch.inference_mode():
        exact = Sapiens(weights).heatmaps(crops)
        for precision in ("bf16", "fp16"):
            rough = Sapiens(weights, precision=precision).heatmaps(crops)  # type: ignore[arg-type]
            assert rough.dtype == torch.float32
            assert 0 < (rough - exact).abs().max() < 0.1 * exact.abs().max()


def test_compiled_batches_keep_their_shape(weights: Path, frames: list[np.ndarray]) -> None:
    estimator = Sapiens(weights, batch=4)
    estimator._compiled = True
    prepared = list(estimator.prepare(iter(frames), boxes(N_FRAMES)))
    assert [len(each.regions.centre_xy) for each in prepared] == [4, 4, 2]
    assert [len(each.batch.frame_of) for each in prepared] == [4, 4, 4]
    found = np.stack(list(estimator.estimate(iter(frames), boxes(N_FRAMES), boxes(N_FRAMES))), axis=1)
    np.testing.assert_allclose(found, one_by_one(weights, frames), rtol=0, atol=TOLERANCE_PX)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compiled": True}, "pose.compile needs a CUDA device"),
        ({"run_script": True}, "pose.torchscript needs a TorchScript file"),
        ({"run_script": True, "script": True, "precision": "bf16"}, "pose.precision fp32"),
        ({"device": "nonsense"}, "device 'nonsense'"),
    ],
)
def test_what_cannot_be_done_is_refused(weights: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(StageUnavailable, match=message):
        Sapiens(weights, **options)


def test_a_network_of_other_keypoints_is_refused(tmp_path: Path) -> None:
    path = save_filled(tmp_path / "goliath.pth", shapes(64, 1, 1, 64, 8, 308, (8, 6)))
    with pytest.raises(StageUnavailable, match=r"goliath.pth have 308 keypoints, not 133"):
        Sapiens(path)


def test_equal_input_gives_equal_bytes(weights: Path, frames: list[np.ndarray]) -> None:
    np.testing.assert_array_equal(estimate(weights, frames), estimate(weights, frames))
