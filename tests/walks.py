"""Runs of the fake pipeline for tests, and engines that let tests see or break what goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import fakes
import pyarrow.parquet as pq

from manifests.ids import new_run_id
from manifests.rows import Source
from mit_builder.config import settings as config
from mit_builder.config.settings import Settings
from mit_builder.dataset.index import Index, parse_index
from mit_builder.dataset.publish import INDEX_KEY
from mit_builder.driver.options import RunOptions
from mit_builder.driver.retry_policy import ALL_CLASSES
from mit_builder.driver.runner import Runner
from mit_builder.driver.snapshot import Snapshot
from mit_builder.engine.base import Result
from mit_builder.engine.serial import SerialEngine
from mit_builder.engine.specs import worker_specs
from mit_builder.engine.worker import Task, WorkerSpec
from mit_builder.pipeline import Step
from mit_builder.storage.workspace import Workspace

QUICK = ("shards.n_buckets=2", "download.host_interval_s=0", "run.retry_base_s=0")


def settings_with(*overrides: str) -> Settings:
    return config.load(None, [*QUICK, *overrides])


def walk(
    workspace: Workspace,
    sources: Iterable[str | Source],
    *overrides: str,
    steps: Sequence[Step] | None = None,
    only: Iterable[str] = fakes.CLASSES,
    **choice: Any,
) -> Runner:
    """Run the fakes over sources, as one `mit-build run --engine serial` would; the runner, after its run."""
    settings, run_id, steps = settings_with(*overrides), new_run_id(), steps or fakes.steps()
    engine = SerialEngine(worker_specs(settings, workspace, run_id, steps))
    if choice.pop("retry_failed", False):
        choice["retry"] = ALL_CLASSES
    chosen = RunOptions(steps=frozenset(only), **choice)
    runner = Runner(workspace, settings, run_id=run_id, choice=chosen, engine=engine, steps=steps)
    runner.run([s if isinstance(s, Source) else fakes.source(s) for s in sources])
    return runner


def look(workspace: Workspace, sources: Iterable[str], *overrides: str) -> Snapshot:
    """The same sources without an engine, as `mit-build status` follows them."""
    seen = Snapshot(workspace, settings_with(*overrides), run_id="look", steps=fakes.steps())
    seen.follow([fakes.source(s) for s in sources])
    return seen


def worked(runner: Runner) -> dict[str, int]:
    return {name: tally.worked_on for name, tally in runner.tally.steps.items() if tally.worked_on}


def failed(runner: Runner) -> dict[str, dict[str, int]]:
    return {name: dict(tally.failed) for name, tally in runner.tally.steps.items() if tally.failed}


def index(workspace: Workspace) -> Index:
    return parse_index(workspace.read(INDEX_KEY).decode())


def dataset(workspace: Workspace) -> list[dict[str, Any]]:
    """All rows of the published dataset, by clip_id."""
    rows: list[dict[str, Any]] = []
    for shard in index(workspace).shards:
        with workspace.local(f"dataset/{shard.name}") as path:
            rows += pq.read_table(path).to_pylist()
    return sorted(rows, key=lambda row: str(row["clip_id"]))


def tree(workspace: Workspace) -> dict[str, bytes]:
    return {key: workspace.read(key) for key in workspace.names("")}


class Recording(SerialEngine):
    """Keeps the calls that were made."""

    def __init__(self, specs: dict[str, WorkerSpec]) -> None:
        super().__init__(specs)
        self.calls: list[tuple[str, list[Task]]] = []

    def submit(self, stage: str, tasks: list[Task]) -> None:
        self.calls.append((stage, tasks))
        super().submit(stage, tasks)


class Wide(Recording):
    """Starts whatever is offered and hands results back one at a time, in the order of the calls."""

    def __init__(self, specs: dict[str, WorkerSpec]) -> None:
        super().__init__(specs)
        self.most_at_once: Counter[str] = Counter()

    def offer(self, stage: str, n_calls: int = 1) -> bool:
        waiting, self._results = self._results, []
        fits = super().offer(stage, n_calls)
        self._results = waiting
        return fits

    def submit(self, stage: str, tasks: list[Task]) -> None:
        super().submit(stage, tasks)
        at_once = sum(len(result.tasks) for result in self._results if result.stage == stage)
        self.most_at_once[stage] = max(self.most_at_once[stage], at_once)

    def wait(self, timeout_s: float) -> list[Result]:
        return [self._results.pop(0)] if self._results else []


def walk_with(
    kind: type[SerialEngine], workspace: Workspace, sources: Iterable[str], *overrides: str, **options: Any
) -> tuple[Runner, Any]:
    """A run on an engine of the test's own; the runner and the engine."""
    settings, run_id, steps = settings_with(*overrides), new_run_id(), options.pop("steps", fakes.steps())
    engine = kind(worker_specs(settings, workspace, run_id, steps))
    runner = Runner(workspace, settings, run_id=run_id, engine=engine, steps=steps, **options)
    runner.run(map(fakes.source, sources))
    return runner, engine
