"""Samples a second of `ClipDataset`, beside the `datasets` library on the same shards.

    python benchmarks/loader.py talks

Both give windows of 15 frames of 640x384 with their sound and labels. `datasets` reads rows and leaves the rest to its
user, so its column decodes the same windows with PyAV and cv2, and draws nothing. In seconds of one process; "workers"
are torch's. Needs torch and datasets.
"""

from __future__ import annotations

import argparse
import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader

import mit_builder.dataset.torch_dataset
from mit_builder.dataset.reader import DatasetFiles
from mit_builder.dataset.torch_dataset import ClipDataset

N_FRAMES, SIZE_HW = 15, (384, 640)


def rate(make: Callable[[int], Iterator[Any]], measure_s: float) -> float:
    """Samples a second, pass after pass until enough time has gone; the first sample is not counted."""
    n_samples, began, epoch = -1, 0.0, 0
    while True:
        for _ in make(epoch):
            n_samples += 1
            if n_samples == 0:
                began = time.perf_counter()
            elif time.perf_counter() - began > measure_s:
                return n_samples / (time.perf_counter() - began)
        epoch += 1


def ours(folder: Path, n_workers: int, **options: Any) -> Callable[[int], Iterator[Any]]:
    clips = ClipDataset(folder, n_frames=N_FRAMES, size_hw=SIZE_HW, **options)
    loader = DataLoader(clips, batch_size=None, num_workers=n_workers, persistent_workers=n_workers > 0)

    def make(epoch: int) -> Iterator[Any]:
        clips.set_epoch(epoch)
        return iter(loader)

    return make


def plain(folder: Path, *, decode: bool) -> Callable[[int], Iterator[Any]]:
    """Rows as `datasets` streams them; with `decode`, the first frames of the clip and its sound."""
    files = sorted(map(str, folder.glob("*.parquet")))
    rows = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    rows = rows.cast_column("clip", datasets.Video(decode=False)).cast_column("audio", datasets.Audio(decode=False))

    def make(epoch: int) -> Iterator[Any]:
        for row in rows.with_format("numpy"):
            if decode:
                _window(row["clip"]["bytes"])
                with av.open(io.BytesIO(row["audio"]["bytes"])) as container:
                    np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
            yield row

    return make


def _window(data: bytes) -> np.ndarray:
    images = []
    with av.open(io.BytesIO(data)) as container:
        for frame in container.decode(video=0):
            images.append(cv2.resize(frame.to_ndarray(format="rgb24"), SIZE_HW[::-1], interpolation=cv2.INTER_AREA))
            if len(images) == N_FRAMES:
                break
    return np.stack(images)


def without_drawing(folder: Path, measure_s: float) -> float:
    """Ours with blank pose maps: what drawing costs."""
    drawn = mit_builder.dataset.torch_dataset.pose_map
    blank = np.zeros((*SIZE_HW, 3), np.uint8)
    mit_builder.dataset.torch_dataset.pose_map = lambda keypoints, size_wh: blank
    try:
        return rate(ours(folder, 0), measure_s)
    finally:
        mit_builder.dataset.torch_dataset.pose_map = drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="a workspace or a dataset's folder")
    parser.add_argument("--seconds", type=float, default=10.0, help="of measuring, for each line")
    options = parser.parse_args()
    folder, measure_s = DatasetFiles(options.dataset).root, options.seconds
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    datasets.disable_progress_bars()
    print(f"windows of {N_FRAMES} frames, {SIZE_HW[1]}x{SIZE_HW[0]}; {os.cpu_count()} cores")
    print("| reader | samples/s |\n|---|---|")
    print(f"| datasets, rows alone | {rate(plain(folder, decode=False), measure_s):.2f} |")
    print(f"| datasets, first window decoded, nothing drawn | {rate(plain(folder, decode=True), measure_s):.2f} |")
    print(f"| ClipDataset, pose maps blank | {without_drawing(folder, measure_s):.2f} |")
    print(f"| ClipDataset | {rate(ours(folder, 0), measure_s):.2f} |")
    print(f"| ClipDataset, 2 workers | {rate(ours(folder, 2), measure_s):.2f} |")


if __name__ == "__main__":
    main()
