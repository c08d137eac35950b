"""A toy model with the inputs of CovOG, trained from a dataset: how `ClipDataset` is used, not how people are animated.

    python examples/train.py talks --steps 50

It paints each frame of a window from the window's first frame, the pose maps and, inside every face, the sound of that
moment gated by the person's speaking score. The loss it prints falls as the network learns to copy and shift.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mit_builder import ClipDataset

SIZE_HW = (96, 160)
N_FRAMES = 8


class ToyModel(nn.Module):
    """First frame, summed poses and gated sound -> frames, each for itself."""

    def __init__(self, channels: int = 12) -> None:
        super().__init__()
        self.pose = nn.Conv2d(3, channels, 3, padding=1)
        self.sound = nn.Linear(640, channels)
        self.gate = nn.Linear(1, channels)
        self.paint = nn.Sequential(
            nn.Conv2d(3 + channels, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, 3, 3, padding=1),
        )
        nn.init.zeros_(self.paint[2].weight)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """A batch of `ClipDataset` -> (batch, frames, 3, h, w) in 0..1."""
        first = batch["video"][:, :1].float() / 255
        poses = (batch["pose_maps"].float() / 255) * batch["body_masks"][:, :, :, None]
        guided = self.pose(poses.flatten(0, 2)).unflatten(0, poses.shape[:3]).sum(1)
        sound = self.sound(batch["audio"].unflatten(1, (-1, 640)))
        gate = torch.sigmoid(self.gate(batch["speaking_score"][..., None] / 3))
        heard = torch.einsum("bpfc,bfc,bpfhw->bfchw", gate, sound, batch["face_masks"].float())
        reference = first.expand(-1, guided.shape[1], -1, -1, -1)
        painted = self.paint(torch.cat([reference, guided + heard], 2).flatten(0, 1))
        return reference + painted.unflatten(0, guided.shape[:2])


def train(dataset: str, n_steps: int, *, batch_size: int = 2, n_workers: int = 0, seed: int = 0) -> list[float]:
    """Mean absolute error of each step."""
    torch.manual_seed(seed)
    clips = ClipDataset(dataset, n_frames=N_FRAMES, size_hw=SIZE_HW, seed=seed)
    loader = DataLoader(clips, batch_size=batch_size, num_workers=n_workers)
    model = ToyModel()
    optimizer, losses = torch.optim.Adam(model.parameters(), 3e-3), []
    while len(losses) < n_steps:
        for batch in loader:
            loss = (model(batch) - batch["video"].float() / 255).abs().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        clips.set_epoch(clips.epoch + 1)
    return losses[:n_steps]


def main() -> None:
    """Train on the dataset that was named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="a workspace, or a dataset's folder or URI")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    for step, loss in enumerate(train(options.dataset, options.steps, n_workers=options.workers)):
        print(f"step {step:4d}  mean absolute error {loss:.4f}")


if __name__ == "__main__":
    main()
