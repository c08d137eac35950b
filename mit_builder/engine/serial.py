"""The simplest engine: no Ray, no other process."""

from __future__ import annotations

from mit_builder.engine.base import Load, Result
from mit_builder.engine.worker import Task, Worker, WorkerSpec


class SerialEngine:
    """Everything in this process, one unit at a time: for debugging and tests."""

    def __init__(self, specs: dict[str, WorkerSpec]) -> None:
        self._specs = specs
        self._workers: dict[str, Worker] = {}
        self._unavailable: dict[str, str] = {}
        self._results: list[Result] = []

    def load(self) -> Load:
        return Load(1.0, 1.0, limit="the serial engine works on one unit at a time")

    def meter(self) -> None:
        return None

    def offer(self, stage: str, n_calls: int = 1) -> bool:
        if stage not in self._workers and stage not in self._unavailable:
            worker = Worker(self._specs[stage])
            problem = worker.ready()
            if problem:
                self._unavailable[stage] = problem
            else:
                self._workers[stage] = worker
        return stage in self._workers and not self._results

    def submit(self, stage: str, tasks: list[Task]) -> None:
        self._results.append(Result(stage, tasks, entries=self._workers[stage].run(tasks)))

    def wait(self, timeout_s: float) -> list[Result]:
        results, self._results = self._results, []
        return results

    def recall(self) -> None:
        """Every call begins at once."""

    def unavailable(self) -> dict[str, str]:
        return self._unavailable

    def close(self) -> None:
        self._workers.clear()
