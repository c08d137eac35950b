"""Forecasts from 4 of 40 files against the finished run.

    python benchmarks/forecast.py --draws 10

Makes 40 files of 2 to 20 seconds (log-uniform, 10:1), runs the real stages download and shots over all of them, and
then forecasts their work from the ledger's entries of 4 files, for each seed other ones. That is what `mit-build plan
--probe 4` and a later run do, as the sample's work is part of the run. Engine serial; real stages, no fakes.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from mit_builder.config.settings import Settings
from mit_builder.planning.sample_plan import KINDS, forecast, measure, sample
from mit_builder.storage.settings_file import last_settings
from mit_builder.storage.source_catalog import SourceCatalog
from mit_builder.storage.workspace import Workspace

STAGES = ("download", "shots")


@dataclass(frozen=True)
class Outcome:
    """Of all draws, for one kind of work.

    Attributes:
        n_inside: intervals that contain what the run took.
        error: median of |forecast - run| / run.
        width: median of half the interval / run.
    """

    n_inside: int
    error: float
    width: float


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=40)
    parser.add_argument("--probe", type=int, default=4)
    parser.add_argument("--draws", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = finished(Path(folder), options.files, shortest_s=2.0)
        outcomes = draws(place, options.probe, options.draws)
    print(f"{options.files} files, 10:1, {options.probe} probed, {options.draws} draws, stages {', '.join(STAGES)}\n")
    print("| kind | inside | median error | median half width |\n|---|---|---|---|")
    for kind, o in outcomes.items():
        print(f"| {kind} | {o.n_inside} of {options.draws} | {o.error:.0%} | {o.width:.0%} |")


def finished(folder: Path, n_files: int, *, shortest_s: float) -> Workspace:
    """A workspace in which all files have gone through the stages."""
    random = np.random.default_rng(0)
    lengths_s = shortest_s * 10 ** random.permutation(np.linspace(0, 1, n_files))
    (folder / "videos").mkdir()
    for i, length_s in enumerate(lengths_s.tolist()):
        write_video(folder / "videos" / f"{i:03d}.mp4", round(length_s * 25), random)
    stages = [part for stage in STAGES for part in ("--stage", stage)]
    program = [sys.executable, "-m", "mit_builder", "run", *stages, "--engine", "serial"]
    subprocess.run([*program, "-w", str(folder / "ws"), str(folder / "videos")], check=True, capture_output=True)
    return Workspace(folder / "ws")


def write_video(path: Path, n_frames: int, random: np.random.Generator) -> None:
    """A film of drifting noise with a cut now and then."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        for i in range(n_frames):
            if i % 60 == 0:
                scene = np.kron(random.integers(0, 255, (12, 20, 3), dtype=np.uint8), np.ones((15, 16, 1), np.uint8))
            picture = np.roll(scene, i, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def draws(place: Workspace, n: int, n_draws: int) -> dict[str, Outcome]:
    """Forecast with as many seeds, and compare with what the ledger holds of all sources."""
    took = measure(place, last_settings(place) or Settings())
    sources = SourceCatalog(place).sources()
    ids = [source.source_id for source in sources]
    found = {}
    forecasts = []
    for seed in range(n_draws):
        chosen, sizes, by = sample(sources, n, seed)
        forecasts.append(forecast(place, ids, {s.source_id for s in chosen}, sizes, by).total)
    for kind in KINDS:
        actual = sum(getattr(work, kind) for stages in took.values() for work in stages.values())
        if actual:
            estimates = [total[kind] for total in forecasts]
            found[kind] = Outcome(
                sum(e.contains(actual) for e in estimates),
                statistics.median(abs(e.value - actual) / actual for e in estimates),
                statistics.median((e.high - e.low) / 2 / actual for e in estimates),
            )
    return found


if __name__ == "__main__":
    main()
