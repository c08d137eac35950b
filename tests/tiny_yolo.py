"""YOLO networks for tests: a small random one, saved as ultralytics does, and a fake that sees coloured squares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fake_people
import numpy as np
import torch

from mit_builder.models.yolo import people

HEAD = np.array([[0, 0], [0.15, -0.2], [-0.15, -0.2], [0.4, -0.1], [-0.4, -0.1]], np.float32)
"""Nose, eyes, ears of a face from the front, in widths of its square and from its centre; a person's left is on the
right of the picture."""


def config() -> dict[str, Any]:
    """The layers of YOLO26-pose with a sixteenth of their channels."""
    return {**people.architecture("yolo26n-pose"), "scales": {"n": [0.5, 0.0625, 256]}}


def network(seed: int = 0, size: dict[str, Any] | None = None) -> Any:
    torch.manual_seed(seed)
    made = people._tasks().PoseModel(size or config(), verbose=False)
    made.names, made.task, made.args = {0: "person"}, "pose", {"imgsz": 640}
    for layer in made.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        made.train()(torch.rand(2, 3, 8, 8).repeat_interleave(16, 2).repeat_interleave(16, 3))
        for branch in made.model[-1].one2one_cv3:
            branch[-1].bias.fill_(-1)  # so that scores depend on the picture
    made.eval()
    return made


def save(path: Path, model: Any) -> Path:
    """As ultralytics leaves its published files: half precision, without what only training needs."""
    rest = {"ema": None, "optimizer": None, "epoch": -1, "train_args": {"imgsz": 640}, "version": "8.4.190"}
    torch.save({**rest, "model": model.half()}, path)
    return path


class SquareNetwork(torch.nn.Module):
    """Output of an end-to-end pose network: the squares of `SquareFinder` as people, the others as scores of 0.1."""

    def __init__(self) -> None:
        super().__init__()
        self.finder = fake_people.SquareFinder()
        self.batches: list[int] = []

    def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor]:
        self.batches.append(len(batch))
        assert 0 <= batch.min() <= batch.max() <= 1
        images = (batch * 255).round().byte().permute(0, 2, 3, 1).numpy()
        rows = np.zeros((len(images), 300, 57), np.float32)
        rows[:, :, 4] = 0.1
        for image, out in zip(images, rows, strict=True):
            found = self.finder._detect(image)
            for row, face, body, score in zip(out, found.face_boxes_xyxy, found.boxes_xyxy, found.scores, strict=False):
                points = np.zeros((17, 3), np.float32)
                points[:5, :2] = (face[:2] + face[2:]) / 2 + HEAD * (face[2] - face[0])
                points[:5, 2] = 0.95
                row[:] = [*body, score, 0, *points.ravel()]
        return (torch.from_numpy(rows),)
