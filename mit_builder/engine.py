"""Where units run: in this process, or on Ray. The only module that imports ray.

The driver decides (admission, attempts, what a crash means); Ray places workers and notices their death. Settings and
the reading of Ray's exceptions were measured on Ray 2.60.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from manifests.ledger import Entry
from mit_builder.engine_metrics import RayMeter
from mit_builder.errors import CannotContinue
from mit_builder.metrics import Meter
from mit_builder.pools import Crew, Pools, Room
from mit_builder.stage import Resources
from mit_builder.worker import Task, Worker, WorkerSpec

IDLE_S = 120.0
"""A worker without work for so long ends: its memory is worth more than the time to load its models again."""
STEAL_S = 1.0
"""A worker without work for so long gives its share of a GPU to a stage that has work."""
LOOK_S = 5.0
"""How often the engine looks at what there is: nodes come and go."""


@dataclass(frozen=True)
class Result:
    """What became of one call.

    Attributes:
        entries: one a task, or None when the worker died.
        lost: why there are no entries; all but "node" count as an attempt, "memory" ends as a failure of resources.
        message: one line about the loss.
    """

    stage: str
    tasks: list[Task]
    entries: list[Entry] | None = None
    lost: Literal["crash", "timeout", "memory", "node"] | None = None
    message: str = ""


@dataclass(frozen=True)
class Load:
    """Cores and GPUs: how many work, how many there are."""

    cpus_busy: float
    cpus: float
    gpus_busy: float = 0.0
    gpus: float = 0.0


class Engine(Protocol):
    """Runs calls of stages; see `SerialEngine` for the simplest one."""

    def offer(self, stage: str, n_calls: int = 1) -> bool:
        """Whether a call of this stage can start now; begins to start workers where that helps.

        Args:
            stage: name of the step.
            n_calls: calls that wait.

        Raises:
            StageUnavailable: its workers cannot be set up.
        """
        ...

    def load(self) -> Load:
        """What is used of what there is."""
        ...

    def meter(self) -> Meter | None:
        """Where figures for Prometheus go; None = nowhere."""
        ...

    def submit(self, stage: str, tasks: list[Task]) -> None: ...

    def wait(self, timeout_s: float) -> list[Result]:
        """Results that are ready, at least one unless the time is over."""
        ...

    def unavailable(self) -> dict[str, str]:
        """Stages whose setup failed since the start, with one line each."""
        ...

    def close(self) -> None: ...


class SerialEngine:
    """Everything in this process, one unit at a time: for debugging and tests."""

    def __init__(self, specs: dict[str, WorkerSpec]) -> None:
        self._specs = specs
        self._workers: dict[str, Worker] = {}
        self._unavailable: dict[str, str] = {}
        self._results: list[Result] = []

    def load(self) -> Load:
        return Load(1.0, 1.0)

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

    def unavailable(self) -> dict[str, str]:
        return self._unavailable

    def close(self) -> None:
        self._workers.clear()


@dataclass
class _Slot:
    """A Ray actor and what it is doing."""

    actor: Any
    starting: Any = None
    call: Any = None
    tasks: list[Task] = field(default_factory=list)
    deadline: float = 0.0
    timed_out: bool = False
    idle_since_s: float = 0.0


class RayEngine:
    """Actors on Ray, made on demand up to each stage's bound and within a budget of cores.

    Args:
        specs: how to build each stage's worker.
        resources: what each stage needs.
        cpus: cores to use; None = all.
        scratch: folder to work in, so that no package in the user's folder shadows ours in the workers.
    """

    def __init__(
        self,
        specs: dict[str, WorkerSpec],
        resources: dict[str, Resources],
        *,
        scratch: Path,
        cpus: int | None = None,
    ) -> None:
        self._specs = specs
        self._resources = resources
        self._scratch = scratch
        self._cpus_wanted = cpus
        self._slots: dict[str, list[_Slot]] = {name: [] for name in specs}
        self._unavailable: dict[str, str] = {}
        self._make: Callable[..., Any] | None = None
        self._pools = Pools(resources, Room(float(cpus or os.cpu_count() or 1)))
        self._looked_at_s = 0.0

    def _start(self) -> None:
        """Start Ray at the first unit that is due: a run with nothing to do never pays for it."""
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # Every actor starts a process of its own; the idle ones that Ray keeps ready would never have work.
        os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
        os.environ.setdefault("RAY_enable_worker_prestart", "0")
        # Ray takes loopback for a mistake and listens on all interfaces, unless it is told that no cluster will be.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # A checkout that is not installed works as well: the workers find what the driver runs.
        home = str(Path(sys.modules["mit_builder"].__file__ or "").resolve().parent.parent)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
        import ray

        users_folder, on_terminate = Path.cwd(), signal.getsignal(signal.SIGTERM)
        try:
            # Workers import from the folder that Ray is started in, and stay in it.
            os.chdir(self._scratch)
            ray.init(
                address="local",
                num_cpus=self._cpus_wanted,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=True,
                _node_ip_address="127.0.0.1",
            )
        except Exception as error:  # Ray raises it bare where a busy machine lets its node start too late
            first = (str(error) or type(error).__name__).splitlines()[0]
            raise CannotContinue(f"Ray does not start: {first}; try --engine serial") from error
        finally:
            os.chdir(users_folder)
            signal.signal(signal.SIGTERM, on_terminate)  # Ray's would end the program with an exit code of its own
        self._look()
        remote = ray.remote(Worker)

        def make(stage: str) -> Any:
            needs = self._resources[stage]
            # num_cpus=0: admission is the driver's, by cores; Ray places by GPU.
            options = {"num_cpus": 0, "num_gpus": needs.gpus, "max_restarts": 0, "max_task_retries": 0}
            return remote.options(**options).remote(self._specs[stage])

        self._make = make

    def _look(self) -> None:
        """Take in what there is by now."""
        import ray

        there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        self._pools.room = Room(float(self._cpus_wanted or there.get("CPU", 1.0)), there.get("GPU", 0.0))
        self._looked_at_s = time.monotonic()

    def _crews(self) -> dict[str, Crew]:
        crews = {name: Crew() for name in self._slots}
        for name, slots in self._slots.items():
            for slot in slots:
                crews[name].busy += slot.call is not None
                crews[name].starting += slot.starting is not None
                crews[name].idle += slot.call is None and slot.starting is None
        return crews

    def load(self) -> Load:
        crews, room = self._crews(), self._pools.room
        working = {name: Crew(crew.busy) for name, crew in crews.items()}
        return Load(self._pools.cpus_used(crews), room.cpus, self._pools.gpus_used(working), room.gpus)

    def meter(self) -> RayMeter:
        return RayMeter(lambda: self._make is not None)

    def offer(self, stage: str, n_calls: int = 1) -> bool:
        crews = self._crews()
        if stage in self._unavailable or not self._pools.fits(stage, crews):
            return False
        for _ in range(self._pools.to_start(stage, crews, n_calls)):
            if not (self._pools.has_gpu(stage, self._crews()) or self._free_gpu(stage)):
                break
            self._hire(stage)
        return crews[stage].idle > 0

    def _hire(self, stage: str) -> None:
        if self._make is None:
            self._start()
        assert self._make is not None
        actor = self._make(stage)
        self._slots[stage].append(_Slot(actor, starting=actor.ready.remote()))

    def _idle(self, longer_than_s: float) -> Iterator[tuple[str, _Slot]]:
        """Workers without work, the longest first."""
        idle = (
            (name, slot)
            for name, slots in self._slots.items()
            for slot in slots
            if slot.call is None and slot.starting is None
        )
        since_s = time.monotonic() - longer_than_s
        yield from sorted((x for x in idle if x[1].idle_since_s < since_s), key=lambda x: x[1].idle_since_s)

    def _free_gpu(self, stage: str) -> bool:
        """End workers of other stages that have had no work, until a share of a GPU is free; whether it is."""
        for name, slot in list(self._idle(STEAL_S)):
            if name != stage and self._pools.uses_gpu(name):
                self._drop(name, slot)
                if self._pools.has_gpu(stage, self._crews()):
                    return True
        return False

    def submit(self, stage: str, tasks: list[Task]) -> None:
        slot = next(s for s in self._slots[stage] if s.starting is None and s.call is None)
        slot.tasks = tasks
        slot.deadline = time.monotonic() + self._resources[stage].timeout_s * len(tasks)
        slot.call = slot.actor.run.remote(tasks)

    def wait(self, timeout_s: float) -> list[Result]:
        if self._make is None:
            return []
        import ray

        pending = {
            slot.call if slot.call is not None else slot.starting: (name, slot)
            for name, slots in self._slots.items()
            for slot in slots
            if slot.call is not None or slot.starting is not None
        }
        if not pending:
            return []
        ready, _ = ray.wait(list(pending), num_returns=1, timeout=timeout_s)
        if ready:
            ready, _ = ray.wait(list(pending), num_returns=len(pending), timeout=0)
        results = [self._finish(*pending[ref], ref) for ref in ready]
        self._kill_overdue()
        if time.monotonic() - self._looked_at_s > LOOK_S:
            self._look()
            for name, slot in list(self._idle(IDLE_S)):
                self._drop(name, slot)
        return [result for result in results if result is not None]

    def _finish(self, stage: str, slot: _Slot, ref: Any) -> Result | None:
        import ray

        try:
            value = ray.get(ref)
        except ray.exceptions.RayError as error:
            self._slots[stage].remove(slot)
            ray.kill(slot.actor)
            return self._loss(stage, slot, error)
        slot.idle_since_s = time.monotonic()
        if slot.starting is not None:
            slot.starting = None
            if value is not None:
                self._unavailable[stage] = value
                self._drop(stage, slot)
            return None
        result = Result(stage, slot.tasks, entries=value)
        slot.call, slot.tasks = None, []
        return result

    def _loss(self, stage: str, slot: _Slot, error: Exception) -> Result | None:
        import ray

        text = " ".join(str(error).split())
        if slot.starting is not None:
            if not _is_node_loss(text):
                self._unavailable[stage] = f"the worker died while it was set up: {text[:300]}"
            return None
        lost: Literal["crash", "timeout", "memory", "node"]
        if slot.timed_out:
            lost, text = "timeout", f"took longer than {self._resources[stage].timeout_s:g} s"
        elif isinstance(error, ray.exceptions.OutOfMemoryError):
            lost = "memory"
        elif _is_node_loss(text):
            lost = "node"
        else:
            lost = "crash"
        return Result(stage, slot.tasks, lost=lost, message=text[:300])

    def _kill_overdue(self) -> None:
        import ray

        now = time.monotonic()
        for slots in self._slots.values():
            for slot in slots:
                if slot.call is not None and now > slot.deadline and not slot.timed_out:
                    slot.timed_out = True
                    ray.kill(slot.actor)

    def _drop(self, stage: str, slot: _Slot) -> None:
        import ray

        self._slots[stage].remove(slot)
        ray.kill(slot.actor)

    def unavailable(self) -> dict[str, str]:
        return self._unavailable

    def close(self) -> None:
        if self._make is not None:
            import ray

            ray.shutdown()
            self._make = None


def _is_node_loss(text: str) -> bool:
    signs = ("node has died", "health check failed", "received SIGTERM", "Socket closed", "ActorUnavailable")
    return any(sign in text for sign in signs)


def check_layout() -> None:
    """The three packages must come from one place, or workers would run other code than the driver.

    Raises:
        CannotContinue: a foreign package named `stages` or `manifests` is in the way.
    """
    home = Path(sys.modules["mit_builder"].__file__ or "").resolve().parent.parent
    import manifests
    import stages

    for module in (manifests, stages):
        found = Path(module.__file__ or "").resolve().parent.parent
        if found != home:
            raise CannotContinue(f"a folder named {module.__name__} in {found} hides ours: start from another folder")
