"""Small networks of Sapiens' kind, with weights made from the names of their tensors."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from filled_weights import save_filled

SHAPE = (64, 2, 1, 128, 32, 133, (8, 6))
"""Width, layers, heads, feed-forward width, head width, keypoints, grid: pictures of 128 x 96 pixels."""


def shapes(*size: object) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a network, by default the one of `SHAPE`."""
    import torch

    from mit_builder.models.sapiens.network import SapiensNetwork, Size

    with torch.device("meta"):
        network = SapiensNetwork(Size(*(size or SHAPE)))
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def checkpoint(path: Path, salt: int = 0) -> Path:
    """A `.pth` file as mmengine nests it."""
    import torch

    save_filled(path, shapes(), salt=salt)
    torch.save({"meta": {"epoch": 7, "seed": None}, "state_dict": torch.load(path)}, path)
    return path


def program(path: Path, salt: int = 0) -> Path:
    """The network of `checkpoint`, traced; with the tensors that tracing official code leaves in such a file."""
    import torch

    from mit_builder.models.sapiens.network import load_network

    network = load_network(checkpoint(path, salt))
    preprocessor = torch.nn.Module()
    preprocessor.register_buffer("mean", torch.zeros(3, 1, 1))
    network.data_preprocessor = preprocessor
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated
        torch.jit.trace(network, torch.zeros(2, 3, 128, 96)).save(str(path))
    return path


def picture(seed: int, height: int = 90, width: int = 160) -> np.ndarray:
    """(h, w, 3) uint8: smooth colours with some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x * a + y * b + c) for a, b, c in rng.uniform(-0.2, 0.2, (3, 3))]
    noise = rng.integers(-20, 21, (height, width, 3))
    return np.clip(np.stack(waves, axis=2) * 90 + 128 + noise, 0, 255).astype(np.uint8)


def boxes(n_frames: int) -> np.ndarray:
    """(2, n_frames, 4) float32: two people who walk, one of them out of the picture."""
    start = np.array([[10.3, 8.1, 60.7, 80.2], [80.5, 5.0, 171.25, 84.5]])
    steps = np.arange(n_frames)[:, None] * np.array([1.7, 0.3, 1.7, 0.3])
    return (start[:, None] + steps).astype(np.float32)


def heatmaps(seed: int, n: int = 2, height: int = 64, width: int = 48) -> np.ndarray:
    """(n, 12, h, w) float32: one hill a map, noise, and hills at the border, too high, and below zero."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    maps = np.empty((n, 12, height, width), np.float32)
    for each in maps:
        for k, hill in enumerate(each):
            cx, cy = rng.uniform([0, 0], [width - 1, height - 1]) if k else (0, height - 1)
            spread = rng.uniform(1.5, 4)
            slanted = (x - cx) ** 2 + 1.3 * (y - cy) ** 2 - 0.4 * (x - cx) * (y - cy)
            hill[:] = np.exp(-slanted / (2 * spread**2)) + rng.uniform(0, 0.05, hill.shape)
        each[1] *= 70
        each[2] -= 2
    return maps
