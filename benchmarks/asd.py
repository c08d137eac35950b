"""CPU time of the speaker models on one thread: ours beside the plain loop over windows.

    python benchmarks/asd.py                                # both networks, made-up weights, a track of 30 s
    python benchmarks/asd.py --model lr-asd --weights FILE  # real weights

The plain loop is the specification word by word: every window of every duration goes through the whole network by
itself, as in the official demos. Both read the same tensors; scores must agree within 1e-4.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from mit_builder.models.asd import lr_asd, talknet
from mit_builder.models.asd.windows import DURATIONS_S, WindowedScorer

FPS = 25
TOLERANCE = 1e-4
Network = lr_asd.LrAsdNetwork | talknet.TalkNetNetwork


def window_logits(network: Network, video: torch.Tensor, mfcc: torch.Tensor) -> torch.Tensor:
    """(n,) logits of one window, all of the network run on it alone."""
    if isinstance(network, lr_asd.LrAsdNetwork):
        visual = network.model.visualEncoder(video[None])
    else:
        visual = network.model.visualFrontend(video)[None]
    return network(visual, mfcc[None])[0, :, 1]


def plain_loop(network: Network, video: torch.Tensor, mfcc: torch.Tensor) -> np.ndarray:
    """(n,) float32: the mean over durations, window by window."""
    rows = []
    with torch.inference_mode():
        for duration in DURATIONS_S:
            windows = [slice(start, start + FPS * duration) for start in range(0, len(video), FPS * duration)]
            logits = [window_logits(network, video[w], mfcc[4 * w.start : 4 * w.stop]) for w in windows]
            rows.append(torch.cat(logits).numpy())
    return np.stack(rows).mean(axis=0)


def cpu_s(work: Callable[[], np.ndarray], repetitions: int) -> tuple[float, np.ndarray]:
    """Least CPU time of a few runs, and the last result."""
    times = []
    for _ in range(repetitions):
        start = time.process_time()
        result = work()
        times.append(time.process_time() - start)
    return min(times), result


def measure(module: ModuleType, scorer_class: type[WindowedScorer], weights: Path, seconds: int, n: int) -> dict:
    network, scorer = module.load_network(weights), scorer_class(weights)
    random = np.random.default_rng(0)
    video = random.integers(0, 256, (FPS * seconds, 112, 112), dtype=np.uint8)
    mfcc = random.normal(0, 8, (4 * FPS * seconds, 13))
    tensors = torch.from_numpy(video), torch.from_numpy(mfcc.astype(np.float32))
    scorer.score_block(video[: 2 * FPS], mfcc[: 8 * FPS])  # first calls choose their algorithms
    ours_s, ours = cpu_s(lambda: scorer.score_block(video, mfcc), n)
    plain_s, plain = cpu_s(lambda: plain_loop(network, *tensors), n)
    difference = float(np.abs(ours - plain).max())
    if difference > TOLERANCE:
        raise SystemExit(f"scores differ by {difference:.2g}, more than {TOLERANCE:g}")
    return {
        "track_s": seconds,
        "ours_cpu_s": round(ours_s, 2),
        "plain_loop_cpu_s": round(plain_s, 2),
        "ratio": round(plain_s / ours_s, 2),
        "ours_cpu_s_per_track_s": round(ours_s / seconds, 3),
        "largest_score_difference": difference,
    }


def made_up_weights(network: torch.nn.Module, path: Path) -> Path:
    torch.save(network.state_dict(), path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["lr-asd", "talknet", "both"], default="both")
    parser.add_argument("--weights", type=Path, help="checkpoint of the one model; else random weights")
    parser.add_argument("--seconds", type=int, default=30, help="length of the track, at most 60")
    parser.add_argument("--repetitions", type=int, default=2)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    models = {
        "lr-asd": (lr_asd, lr_asd.LrAsd, lr_asd.LrAsdNetwork),
        "talknet": (talknet, talknet.TalkNet, talknet.TalkNetNetwork),
    }
    for name, (module, scorer, network) in models.items():
        if args.model in (name, "both"):
            with tempfile.TemporaryDirectory() as folder:
                weights = args.weights or made_up_weights(network(), Path(folder) / "random.model")
                result = measure(module, scorer, weights, args.seconds, args.repetitions)
            print(json.dumps({"model": name} | result), flush=True)


if __name__ == "__main__":
    main()
