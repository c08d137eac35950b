"""Speed of the paper's models on a GPU, with random weights (speed does not depend on them).

    python benchmarks/gpu.py                                                     # Sapiens-2B, TalkNet, LR-ASD; bf16
    python benchmarks/gpu.py --size 0.3b --batches 8 16 32 --compile
    python benchmarks/gpu.py --device cpu --size 0.3b --batches 1 --crops 2 --track-s 2   # shows that it works

Three figures for each batch of Sapiens, in crops (one person in one frame) a second:

- network: the network alone, on crops that are on the device already;
- end to end: from the file of the bundled demo video to keypoints in memory, decoding, crops and heatmaps included;
- of peak: the network's products (2 x the multiplications of one crop) as a share of what the device reaches in a large
  matrix product of the same number format, measured here.

The speaker models are given one face track; figures are seconds of track a second.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from mit_builder.media.frames import read_frames
from mit_builder.models.asd import lr_asd, talknet
from mit_builder.models.asd.windows import WindowedScorer
from mit_builder.models.sapiens.estimator import Sapiens
from mit_builder.models.sapiens.network import N_HEADS, SapiensNetwork, Size
from mit_builder.models.weights.store import entry

TERA_MACS = {"0.3b": 1.61, "0.6b": 2.94, "1b": 4.88, "2b": 8.52}
"""Multiplications of one crop, attention included (counted on the official modules)."""
LAYERS = {"0.3b": 24, "0.6b": 32, "1b": 40, "2b": 48}
DEMO = Path(__file__).resolve().parent.parent / "manifests" / "demo" / "demo.mp4"
BODIES = ((0, 0, 740, 720), (524, 24, 1280, 720))
"""The two people of the demo."""
FPS = 25
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of `work` until the device is done."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Tera-operations a second of the best of a few large products."""
    side, n = (8192, 20) if device.type == "cuda" else (1536, 3)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    a @ b
    return max(2 * side**3 * n / seconds(lambda: [a @ b for _ in range(n)], device) for _ in range(3)) / 1e12


def random_sapiens(size: str, path: Path) -> Path:
    """A checkpoint of the published shapes."""
    width = entry(f"sapiens-{size}").tensors["backbone.patch_embed.projection.weight"][0]
    with torch.device("meta"):
        network = SapiensNetwork(Size(width, LAYERS[size], N_HEADS[width], 4 * width, 768, 133, (64, 48)))
    random = torch.Generator().manual_seed(0)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    tensors = {name: (torch.randn(shape, generator=random) / 50).bfloat16() for name, shape in shapes.items()}
    torch.save({"state_dict": tensors}, path)
    return path


def demo_frames(n: int) -> Iterator[np.ndarray]:
    """The first n frames, decoded while they are asked for; from the start again where the video ends."""
    while n > 0:
        for frame in islice(read_frames(DEMO), n):
            n -= 1
            yield frame.image


def network_alone(estimator: Sapiens, n_batches: int) -> float:
    """Crops a second."""
    crops = torch.randn(estimator.batch, 3, *estimator.size.input_hw, device=estimator.device)

    def work() -> None:
        with torch.inference_mode():
            for _ in range(n_batches):
                estimator.heatmaps(crops)

    return n_batches * estimator.batch / seconds(work, estimator.device)


def end_to_end(estimator: Sapiens, n_crops: int) -> float:
    """Crops a second."""
    n_frames = max(1, n_crops // len(BODIES))
    boxes = np.repeat(np.array(BODIES, np.float32)[:, None], n_frames, axis=1)
    work = estimator.estimate(demo_frames(n_frames), boxes, boxes)
    return n_frames * len(BODIES) / seconds(lambda: list(work), estimator.device)


def sapiens_rows(args: argparse.Namespace, weights: Path, peak: float) -> Iterator[str]:
    for batch in args.batches:
        estimator = Sapiens(
            weights, device=args.device, precision=args.precision, batch=batch, compiled=args.compile, flip_test=False
        )
        on_gpu = estimator.device.type == "cuda"
        if on_gpu:  # algorithms are chosen, the network is compiled
            network_alone(estimator, 2)
            end_to_end(estimator, 2 * batch)
        pure = network_alone(estimator, max(1, args.crops // batch))
        whole = end_to_end(estimator, args.crops)
        share = pure * 2 * TERA_MACS[args.size] / peak
        memory = f"{torch.cuda.max_memory_allocated(estimator.device) / 1e9:.1f}" if on_gpu else "-"
        yield f"| {batch} | {pure:.3g} | {whole:.3g} | {whole / pure:.0%} | {share:.0%} | {memory} |"
        estimator.close()


def speaker_rows(args: argparse.Namespace) -> Iterator[str]:
    random = np.random.default_rng(0)
    video = random.integers(0, 256, (FPS * args.track_s, 112, 112), dtype=np.uint8)
    mfcc = random.normal(0, 8, (4 * FPS * args.track_s, 13))
    kinds: tuple[tuple[str, type[WindowedScorer], type[torch.nn.Module]], ...] = (
        ("TalkNet", talknet.TalkNet, talknet.TalkNetNetwork),
        ("LR-ASD", lr_asd.LrAsd, lr_asd.LrAsdNetwork),
    )
    for name, scorer_class, network in kinds:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "random.model"
            torch.save(network().state_dict(), path)
            for precision in dict.fromkeys(("fp32", args.precision)):
                scorer = scorer_class(path, device=args.device, precision=precision)  # type: ignore[call-arg]
                scorer.score_block(video, mfcc)
                took = seconds(lambda: scorer.score_block(video, mfcc), scorer.device)  # noqa: B023
                yield f"| {name} | {precision} | {args.track_s / took:.3g} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=list(TERA_MACS), default="2b")
    parser.add_argument("--precision", choices=list(DTYPES), default="bf16")
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--crops", type=int, default=512, help="crops that each figure is measured on")
    parser.add_argument("--compile", action="store_true", help="let torch compile Sapiens")
    parser.add_argument("--track-s", type=int, default=30, help="length of the face track, at most 60")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device here; --device cpu --size 0.3b --batches 1 --crops 2 --track-s 2 shows that it works")
    torch.set_num_threads(1)  # as workers have it
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, one thread"
    peak = matmul_peak(device, DTYPES[args.precision])
    compiled = ", compiled" if args.compile else ""
    print(f"{name}, torch {torch.__version__}: {peak:.3g} Tflop/s in a large product at {args.precision}\n")
    print(f"Sapiens {args.size} ({args.precision}{compiled}), crops a second:\n")
    print("| batch | network | end to end | of network | network of peak | GB |\n|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for row in sapiens_rows(args, random_sapiens(args.size, Path(folder) / "random.pth"), peak):
            print(row, flush=True)
    print("\nSeconds of face track a second:\n\n| model | products | track-s / s |\n|---|---|---|", flush=True)
    for row in speaker_rows(args):
        print(row, flush=True)


if __name__ == "__main__":
    main()
