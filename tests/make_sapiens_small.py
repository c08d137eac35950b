"""Writes tests/models/data/sapiens_small.npz: heatmaps, points and crops of a made-up network and picture.

Run it only when the parity tests against the official outputs pass: the file stands in for them where those are absent.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from tiny_sapiens import boxes, checkpoint, heatmaps, picture

from mit_builder.models.sapiens.crops import batch_of, cut_out, regions_of
from mit_builder.models.sapiens.heatmaps import decode
from mit_builder.models.sapiens.network import load_network

POINTS = slice(0, 133, 19)
"""Keypoints of which the heatmaps are stored."""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        network = load_network(checkpoint(Path(folder) / "tiny.pth"))
    image, regions = picture(0), regions_of(boxes(1)[:, 0])
    batch = batch_of([image, image], regions, (128, 96))
    with torch.inference_mode():
        found = network(batch.crops())[:, POINTS].numpy()
        points = decode(torch.from_numpy(heatmaps(0))).numpy()
    crops = cut_out(batch.frames, batch.frame_of, batch.rows, batch.columns).numpy().astype(np.uint8)
    path = Path(__file__).parent / "models" / "data" / "sapiens_small.npz"
    np.savez_compressed(path, heatmaps=found, points=points, crops=crops)


if __name__ == "__main__":
    main()
