"""How well the driver keeps workers busy, with stages that sleep: what is measured is the engine, not the work.

    export PYTHONPATH=tests:benchmarks
    python benchmarks/scheduling.py pipeline     # six unequal stages, beside one stage after another
    python benchmarks/scheduling.py workers      # 1, 2, 4, 8 workers
    python benchmarks/scheduling.py small        # 10,000 items of 10 ms

Engine ray, fakes (benchmarks/sleepers.py). Cores are those that the driver is told of (`run.cpus`), and the GPU is one
that Ray is told of: a worker that sleeps needs neither. Ledger, queues, input keys, shards and the workers' processes
are the real ones. Workers are started by a first run, which is stated beside; times run from the start of the first
item to the end of the last.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import fakes
import sleepers

from mit_builder.config import settings as config
from mit_builder.driver.options import RunOptions
from mit_builder.driver.runner import Runner
from mit_builder.engine.ray_connect import only_here
from mit_builder.engine.ray_engine import RayEngine
from mit_builder.engine.specs import worker_specs
from mit_builder.pipeline import Step
from mit_builder.storage.workspace import Workspace

ROOT = Path(__file__).resolve().parent.parent
COSTS_S = {"download": 2.4, "shots": 0.3, "filter.detect": 1.0, "filter.cut": 0.4, "pose": 0.8, "speech": 0.3}
"""Of an item, on average: the network, three stages on cores, two on a GPU."""
SIX = {
    "download": "SleepDownload",
    "shots": "SleepShots",
    "filter.detect": "SleepDetect",
    "filter.cut": "SleepCut",
    "pose": "SleepGpuPose",
    "speech": "SleepGpuSpeech",
}
N_CORES = 4
LENGTH = "lengths=200"
"""One shot and one clip a video."""


@dataclass(frozen=True)
class Worked:
    """When a run worked.

    Attributes:
        start_s: from the call to the first item (Ray and the first workers start).
        span_s: from the start of the first item to the end of the last.
    """

    start_s: float
    span_s: float


def main() -> None:
    """Print the tables that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("pipeline", "workers", "small"))
    parser.add_argument("--items", type=int)
    options = parser.parse_args()
    if options.table == "pipeline":
        pipeline(options.items or 60)
    elif options.table == "workers":
        workers(options.items or 384, (1, 2, 4, 8))
    else:
        small(options.items or 10_000)


@contextmanager
def running(classes: dict[str, str], costs_s: dict[str, float], n_cores: int, n_gpus: int = 0) -> Iterator[Bench]:
    """A workspace and an engine that runs sleeping stages."""
    only_here()
    import ray

    steps = tuple(replace(s, stage=f"sleepers:{classes[s.name]}") if s.name in classes else s for s in fakes.steps())
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")])
    environment = {"SLEEP_S": json.dumps(costs_s), "PYTHONPATH": path}
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict(os.environ, environment),
        patch.object(ray, "init", partial(ray.init, num_gpus=n_gpus)),
    ):
        settings = config.load(None, [f"run.cpus={n_cores}", "shards.n_buckets=4"])
        workspace = Workspace(Path(folder) / "ws")
        specs = worker_specs(settings, workspace, "bench", steps)
        engine = RayEngine(specs, fakes.resources(specs), scratch=workspace.scratch("bench"), cpus=n_cores)
        try:
            yield Bench(workspace, settings, engine, steps)
        finally:
            engine.close()


@dataclass
class Bench:
    """What runs of sleeping stages share."""

    workspace: Workspace
    settings: config.Settings
    engine: RayEngine
    steps: Sequence[Step]

    def run(self, names: Sequence[str], only: Sequence[str] = tuple(SIX)) -> Worked:
        """Work on sources until nothing is due."""
        chosen = RunOptions(steps=frozenset([*only, "filter.select", "shards"]))
        started_s = time.time()
        runner = Runner(
            self.workspace,
            self.settings,
            run_id=f"run-{started_s:.3f}",
            choice=chosen,
            engine=self.engine,
            steps=self.steps,
        )
        runner.run(map(fakes.source, names))
        entries = [e for lane in runner.lanes.values() for e in lane.ledger.entries() if e.run_id == runner.run_id]
        first_s = min(entry.started_at_s for entry in entries)
        last_s = max(entry.started_at_s + entry.duration_s for entry in entries)
        return Worked(first_s - started_s, last_s - first_s)


def work_s(names: Sequence[str], costs_s: dict[str, float]) -> dict[str, float]:
    """What each stage sleeps for all items together."""
    with patch.dict(os.environ, {"SLEEP_S": json.dumps(costs_s)}):
        total = dict.fromkeys(SIX, 0.0)
        for source in map(fakes.source, names):
            video_id = fakes.short_id("content", source.address.rpartition("/")[2].partition("?")[0])
            for stage in SIX:
                total[stage] += sleepers.cost_s(stage, source.source_id if stage == "download" else video_id)
    return total


def ideal_s(names: Sequence[str], costs_s: dict[str, float], n_cores: int) -> float:
    """No schedule is faster: the busiest resource, and the way of the shortest item to it and from it."""
    total = work_s(names, costs_s)
    cores = sum(seconds for stage, seconds in total.items() if stage != "download") / n_cores
    before = sum(costs_s[stage] for stage in ("download", "shots", "filter.detect", "filter.cut")) * sleepers.SPREAD[0]
    on_gpu = before + total["pose"] + costs_s["speech"] * sleepers.SPREAD[0]
    on_cores = costs_s["download"] * sleepers.SPREAD[0] + cores
    return max(on_gpu, on_cores, total["download"] / 4)


def pipeline(n_items: int, scale: float = 1.0) -> dict[str, float]:
    """Six unequal stages; the efficiency of both ways."""
    names = [f"v{i}?{LENGTH}" for i in range(n_items)]
    costs_s = {stage: seconds * scale for stage, seconds in COSTS_S.items()}
    ideal = ideal_s(names, costs_s, N_CORES)
    print(f"{n_items} items, {N_CORES} cores and a GPU, seconds an item: {costs_s}\n")
    print("| | s | ideal / s |\n|---|---|---|")
    print(f"| ideal: the busiest resource, and the way to it and from it | {ideal:.1f} | 100% |", flush=True)
    with running(SIX, costs_s, N_CORES, n_gpus=1) as bench:
        warming = bench.run([f"warm{i}?{LENGTH}" for i in range(4 * N_CORES)])
        overlapping = bench.run(names)
        print(f"| stages overlap | {overlapping.span_s:.1f} | {ideal / overlapping.span_s:.0%} |", flush=True)
        later = [f"w{i}?{LENGTH}" for i in range(n_items)]
        started_s = time.time()
        for stage in SIX:
            bench.run(later, [stage])
        one_after_another_s = time.time() - started_s
    print(f"| one stage after another | {one_after_another_s:.1f} | {ideal / one_after_another_s:.0%} |")
    print(
        f"\nbefore: {warming.start_s:.1f} s until Ray and the first workers were there, {warming.span_s:.1f} s", end=" "
    )
    print(f"for {4 * N_CORES} items while the other workers started")
    return {"overlapping": ideal / overlapping.span_s, "one after another": ideal / one_after_another_s}


def workers(n_items: int, counts: Sequence[int], cost_s: float = 0.5) -> dict[int, float]:
    """One stage that computes on 1, 2, 4 ... workers; the efficiency of each against one."""
    spans: dict[int, float] = {}
    for n in counts:
        with running({"download": "SleepDownload", "pose": "SleepPose"}, {"pose": cost_s}, n) as bench:
            bench.run([f"warm{i}?{LENGTH}" for i in range(n)])
            spans[n] = bench.run([f"v{i}?{LENGTH}" for i in range(n_items)]).span_s
    work = work_s([f"v{i}?{LENGTH}" for i in range(n_items)], {"pose": cost_s})["pose"]
    print(f"{n_items} items of {cost_s} s on average\n\n| workers | work / workers, s | s | speed | of linear |")
    print("|---|---|---|---|---|")
    first = counts[0]
    share = {n: spans[first] * first / (spans[n] * n) for n in counts}
    for n in counts:
        print(f"| {n} | {work / n:.1f} | {spans[n]:.1f} | {spans[first] / spans[n]:.2f} | {share[n]:.0%} |")
    return share


def small(n_items: int, cost_s: float = 0.01, n_cores: int = 2) -> float:
    """Items of 10 ms; milliseconds of the engine an item."""
    with running({"download": "SleepReject"}, {"download": cost_s}, n_cores) as bench:
        bench.run([f"warm{i}" for i in range(4 * n_cores)])
        worked = bench.run([f"v{i}" for i in range(n_items)])
    work = work_s([f"v{i}" for i in range(n_items)], {"download": cost_s})["download"]
    overhead_ms = 1e3 * (worked.span_s - work / n_cores) / n_items
    print("| items | work s | workers | s | overhead, ms an item |\n|---|---|---|---|---|")
    print(f"| {n_items} of {cost_s * 1e3:.0f} ms | {work:.1f} | {n_cores} | {worked.span_s:.1f} | {overhead_ms:.2f} |")
    return overhead_ms


if __name__ == "__main__":
    main()
