"""Sapiens as an estimator of COCO-WholeBody's 133 keypoints: the paper's pose model.

Each person of each frame is a crop; crops of all people and of following frames form batches, never of two clips. A
thread decodes the next frames while the device works, crops are taken and heatmaps read on the device, and the next
batch is handed over before the points of the last one are waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from manifests.rows import N_KEYPOINTS
from mit_builder.errors import StageUnavailable
from mit_builder.labels.keypoints import SWAP
from mit_builder.models.base import Floats, Image
from mit_builder.models.read_ahead import read_ahead
from mit_builder.models.sapiens.crops import Batch, Regions, batch_of, regions_of
from mit_builder.models.sapiens.heatmaps import decode, in_picture, mirrored_back
from mit_builder.models.sapiens.network import Size, load_network, lower_precision, size_of
from mit_builder.models.torch_backend import Precision, Tensor, autocast, open_script, pick_device, torch

BATCHES_AHEAD = 2
"""Batches of frames that are decoded before they are needed."""


class Prepared(NamedTuple):
    """A batch on the CPU, ready for the device.

    Attributes:
        regions: of the crops that are wanted; those of the batch beyond them are there to keep its shape.
        batch: the crops to take.
    """

    regions: Regions
    batch: Batch


class Sapiens:
    """133 keypoints by one of the Sapiens networks; implements `mit_builder.models.base.PoseEstimator`.

    Args:
        weights: a checkpoint, see `mit_builder.models.sapiens.network.load_network`.
        script: the file is a TorchScript program, and one that is trusted.
        run_script: run that program rather than our network with its tensors; at fp32 only.
        device: where to run, as torch names it.
        precision: number format of the network's products.
        flip_test: average with the heatmaps of the mirrored crop, as in the official evaluation.
        batch: crops that go through the network together.
        compiled: let torch compile the network, which takes minutes; on CUDA only.

    Raises:
        StageUnavailable: the file, the device or this combination cannot be used.
    """

    def __init__(
        self,
        weights: Path,
        *,
        script: bool = False,
        run_script: bool = False,
        device: str = "cpu",
        precision: Precision = "fp32",
        flip_test: bool = False,
        batch: int = 1,
        compiled: bool = False,
    ) -> None:
        self.device = pick_device(device)
        if compiled and self.device.type != "cuda":
            raise StageUnavailable("pose.compile needs a CUDA device")
        if run_script and (precision != "fp32" or not script):
            raise StageUnavailable("pose.torchscript needs a TorchScript file, and pose.precision fp32")
        self.precision: Precision = precision
        self._flip_test = flip_test
        self.batch = batch
        self._compiled = compiled
        load = _load_script if run_script else _load_network
        self.size, network = load(weights, script, precision)
        if self.size.n_keypoints != N_KEYPOINTS:
            raise StageUnavailable(f"weights {weights.name} have {self.size.n_keypoints} keypoints, not {N_KEYPOINTS}")
        network = network.to(self.device)
        self._network: Callable[[Tensor], Tensor] = torch.compile(network, dynamic=False) if compiled else network
        self._swap = torch.from_numpy(SWAP).to(self.device)

    def estimate(self, frames: Iterable[Image], boxes_xyxy: Floats, face_boxes_xyxy: Floats) -> Iterator[Floats]:
        """See `PoseEstimator`; only the bodies' boxes are looked at.

        Scores are the heatmaps' highest values, kept within 0..1. A point may lie outside the picture.
        """
        rows = self._points(read_ahead(self.prepare(frames, boxes_xyxy), BATCHES_AHEAD))
        while of_frame := list(islice(rows, len(boxes_xyxy))):
            yield np.stack(of_frame)

    def close(self) -> None:
        """Give the network's memory back."""
        del self._network

    def prepare(self, frames: Iterable[Image], boxes_xyxy: Floats) -> Iterator[Prepared]:
        """Batches of crops, frame by frame and in each person by person."""
        wanted = ((image, boxes[i]) for i, image in enumerate(frames) for boxes in boxes_xyxy)
        while chosen := list(islice(wanted, self.batch)):
            images, boxes = zip(*chosen, strict=True)
            regions = regions_of(np.stack(boxes))
            missing = self.batch - len(images) if self._compiled else 0
            images += images[-1:] * missing
            shape_kept = Regions(*(np.pad(values, ((0, missing), (0, 0)), mode="edge") for values in regions))
            batch = batch_of(images, shape_kept, self.size.input_hw)
            yield Prepared(regions, batch.map(Tensor.pin_memory) if self.device.type == "cuda" else batch)

    def heatmaps(self, crops: Tensor) -> Tensor:
        """Normalised crops (n, 3, height, width) to (n, 133, height / 4, width / 4) float32."""
        with autocast(self.device, self.precision):
            maps = self._network(crops).float()
            if self._flip_test:
                mirrored = self._network(crops.flip(3)).float()
                maps = (maps + mirrored_back(mirrored, self._swap)) / 2
        return maps

    def _points(self, batches: Iterable[Prepared]) -> Iterator[Floats]:
        """(133, 3) of crop after crop."""
        last: _Handed | None = None
        for prepared in batches:
            handed = self._hand_over(prepared)
            if last is not None:
                yield from last.points()
            last = handed
        if last is not None:
            yield from last.points()

    def _hand_over(self, prepared: Prepared) -> _Handed:
        """Let the device do everything for a batch, without waiting for it."""
        with torch.inference_mode():
            batch = prepared.batch.map(lambda tensor: tensor.to(self.device, non_blocking=True))
            decoded = decode(self.heatmaps(batch.crops())).to("cpu", non_blocking=True)
        done = torch.cuda.Event() if self.device.type == "cuda" else None
        if done is not None:
            done.record(torch.cuda.current_stream(self.device))
        return _Handed(prepared.regions, decoded, done)


class _Handed(NamedTuple):
    """A batch that the device works on."""

    regions: Regions
    decoded: Tensor
    done: Any

    def points(self) -> Floats:
        """(n, 133, 3) keypoints in their pictures, once they are there."""
        if self.done is not None:
            self.done.synchronize()
        wanted = self.decoded.numpy()[: len(self.regions.centre_xy)]
        return in_picture(wanted, self.regions)


def _load_network(weights: Path, script: bool, precision: Precision) -> tuple[Size, Any]:
    network = load_network(weights, script=script)
    if precision != "fp32":
        lower_precision(network, torch.bfloat16 if precision == "bf16" else torch.float16)
    return network.size, network


def _load_script(weights: Path, script: bool, precision: Precision) -> tuple[Size, Any]:
    program = open_script(weights)
    return size_of(program.state_dict()), program.eval()
