"""Units on Ray. Only modules of this package import ray.

The driver decides (admission, attempts, what a crash means); Ray places workers and notices their death. Settings and
the reading of Ray's exceptions were measured on Ray 2.60.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mit_builder.engine import memory
from mit_builder.engine.base import NOBODYS_FAULT, Load, Lost, Result
from mit_builder.engine.ray_connect import check_nodes, connect
from mit_builder.engine.ray_metrics import RayMeter
from mit_builder.engine.ray_nodes import Suspects, ask_node, kind_of_loss, node_known
from mit_builder.engine.ray_slots import Call, Slot
from mit_builder.engine.worker import Task, Worker, WorkerSpec, problem_here
from mit_builder.engine.worker_pools import Pools, Room, WorkerCounts
from mit_builder.models.devices import n_gpus
from mit_builder.stage import Resources
from mit_builder.version import __version__

IDLE_S = 120.0
"""A worker without work for so long ends: its memory is worth more than the time to load its models again."""
STEAL_S = 1.0
"""A worker without work for so long gives its share of a GPU to a stage that has work."""
LOOK_S = 5.0
"""How often the engine looks at what there is: nodes come and go."""


STOPPED_S = 10.0
"""A driver waits for results every second; one that did not for so long was stopped itself, as its workers were."""
MAX_ILL = 10
"""Workers of a stage that cannot be set up on a cluster before it stops."""
LOOK_AGAIN_S = 0.5
"""How often it is asked what became of a node."""
START_S = 900.0
"""A worker that has not loaded its models by then never had a node: the largest take minutes."""
SHORT_S = 2.0
"""Above it, what the driver needs between two calls weighs little, and others should not wait for one more."""
TRIFLE_CPUS = 0.01
"""Of a core, that Ray reserves for each worker on a cluster."""


class RayEngine:
    """Actors on Ray, made on demand up to each stage's bound and within a budget of cores.

    Args:
        specs: how to build each stage's worker.
        resources: what each stage needs.
        cpus: cores to use; None = all.
        scratch: folder to work in, so that no package in the user's folder shadows ours in the workers.
        address: of a cluster to join; None = a Ray of this run alone.
    """

    def __init__(
        self,
        specs: dict[str, WorkerSpec],
        resources: dict[str, Resources],
        *,
        scratch: Path,
        cpus: int | None = None,
        address: str | None = None,
    ) -> None:
        self._specs = specs
        self._resources = resources
        self._scratch = scratch
        self._cpus_wanted = cpus
        self._address = address
        self._elsewhere = False
        self._slots: dict[str, list[Slot]] = {name: [] for name in specs}
        self._unavailable: dict[str, str] = {}
        self._n_ill: Counter[str] = Counter()
        self._suspects = Suspects[Result]()
        self._make: Callable[..., Any] | None = None
        self._pools = Pools(resources, Room(float(cpus or os.cpu_count() or 1)))
        self._looked_at_s = 0.0
        self._waited_at_s = time.monotonic()
        self._refused: set[str] = set()
        """Stages whose calls found no worker since results were waited for."""
        self._took_s: dict[str, float] = {}
        """How long the last call of each stage took."""

    def _start(self) -> None:
        """Start or join Ray at the first unit that is due: a run with nothing to do never pays for it."""
        there = connect(self._address, cpus=self._cpus_wanted, scratch=self._scratch)
        self._elsewhere = there.is_cluster
        if there.is_cluster:
            check_nodes(problem_here, next(iter(self._specs.values())), __version__)
        import ray

        self._look()
        remote = ray.remote(Worker)

        def make(stage: str) -> Any:
            needs = self._resources[stage]
            # num_cpus=0: admission is the driver's, by cores; Ray places by GPU.
            options: dict[str, Any] = {"num_cpus": 0, "num_gpus": needs.gpus, "max_restarts": 0, "max_task_retries": 0}
            if self._elsewhere:
                # A trifle of a core keeps workers away from nodes that are to do none of the work (--num-cpus=0).
                options |= {"scheduling_strategy": "SPREAD", "num_cpus": TRIFLE_CPUS}
            return remote.options(**options).remote(self._specs[stage])

        self._make = make

    def _look(self) -> None:
        """Take in what there is by now."""
        import ray

        there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = there.get("GPU", 0.0)
        if self._elsewhere:  # a cluster that grows on demand has to be asked for more than it has
            gpus = max(gpus, float(n_gpus()))
        self._pools.room = Room(float(self._cpus_wanted or there.get("CPU", 1.0)), gpus)
        self._looked_at_s = time.monotonic()

    def _counted(self) -> dict[str, WorkerCounts]:
        counts = {name: WorkerCounts() for name in self._slots}
        for name, slots in self._slots.items():
            for slot in slots:
                counts[name].busy += bool(slot.calls)
                counts[name].starting += slot.starting is not None
                counts[name].idle += slot.is_idle
        return counts

    def load(self) -> Load:
        counts, room = self._counted(), self._pools.room
        working = {name: WorkerCounts(count.busy) for name, count in counts.items()}
        return Load(self._pools.cpus_used(counts), room.cpus, self._pools.gpus_used(working), room.gpus)

    def meter(self) -> RayMeter:
        return RayMeter(lambda: self._make is not None)

    def offer(self, stage: str, n_calls: int = 1) -> bool:
        counts = self._counted()
        if stage in self._unavailable:
            return False
        if self._pools.fits(stage, counts):
            for _ in range(self._pools.to_start(stage, counts, n_calls)):
                if not (self._pools.has_gpu(stage, self._counted()) or self._free_gpu(stage)):
                    break
                self._hire(stage)
        many = 2 * (counts[stage].n - 1)  # else what is given early could wait behind a long unit while others idle
        if self._next(stage) is not None and (counts[stage].idle > 0 or n_calls > many):
            return True
        self._refused.add(stage)
        return False

    def _next(self, stage: str) -> Slot | None:
        """The worker for the next call: an idle one, or one that is given it before its last call ends."""
        slots, counts = self._slots[stage], self._counted()
        if self._pools.fits(stage, counts):
            idle = next((slot for slot in slots if slot.is_idle), None)
            if idle is not None:
                return idle
        early = self._pools.uses_gpu(stage) or self._goes_on(stage, counts)
        return next((s for s in slots if early and len(s.calls) == 1 and not s.timed_out), None)

    def _goes_on(self, stage: str, counts: dict[str, WorkerCounts]) -> bool:
        """Whether workers on cores go from one short call to the next: where nothing else has a use for the core."""
        is_wanted = self._refused - {stage} or not self._pools.has_cores_alone(stage, counts)
        return not is_wanted and self._took_s.get(stage, math.inf) < SHORT_S

    def _hire(self, stage: str) -> None:
        if self._make is None:
            self._start()
        assert self._make is not None
        actor = self._make(stage)
        where = ask_node(actor) if self._elsewhere else None
        ready = actor.ready.remote(elsewhere=self._elsewhere)
        self._slots[stage].append(Slot(actor, starting=ready, deadline=time.monotonic() + START_S, where=where))

    def _idle(self, longer_than_s: float) -> Iterator[tuple[str, Slot]]:
        """Workers without work, the longest first."""
        idle = ((name, slot) for name, slots in self._slots.items() for slot in slots if slot.is_idle)
        since_s = time.monotonic() - longer_than_s
        yield from sorted((x for x in idle if x[1].idle_since_s < since_s), key=lambda x: x[1].idle_since_s)

    def _free_gpu(self, stage: str) -> bool:
        """End workers of other stages that have had no work, until a share of a GPU is free; whether it is."""
        for name, slot in list(self._idle(STEAL_S)):
            if name != stage and self._pools.uses_gpu(name):
                self._drop(name, slot)
                if self._pools.has_gpu(stage, self._counted()):
                    return True
        return False

    def submit(self, stage: str, tasks: list[Task]) -> None:
        slot = self._next(stage)
        assert slot is not None, "offer comes first"
        slot.calls.append(Call(slot.actor.run.remote(tasks), tasks))
        if len(slot.calls) == 1:
            self._begins(stage, slot)

    def _begins(self, stage: str, slot: Slot) -> None:
        slot.is_recalled, slot.begun_s = False, time.monotonic()
        slot.deadline = slot.begun_s + self._resources[stage].timeout_s * len(slot.calls[0].tasks)

    def recall(self) -> None:
        if self._make is None:
            return
        import ray

        for slot in (slot for slots in self._slots.values() for slot in slots if len(slot.calls) > 1):
            if not slot.is_recalled:
                slot.is_recalled = True
                ray.cancel(slot.calls[1].ref)

    def wait(self, timeout_s: float) -> list[Result]:
        self._refused.clear()
        self._allow_for_a_stop()
        if self._make is None:
            return []
        import ray

        slots = [(name, slot) for name, slots in self._slots.items() for slot in slots]
        pending = [slot.starting for _, slot in slots if slot.starting is not None]
        pending += [call.ref for _, slot in slots for call in slot.calls]
        cleared = list(self._cleared())
        if cleared:
            return cleared
        patience_s = min(timeout_s, LOOK_AGAIN_S) if self._suspects else timeout_s
        if not pending:
            time.sleep(patience_s if self._suspects else 0.0)
            return []
        ready, _ = ray.wait(pending, num_returns=1, timeout=patience_s)
        if ready:
            ready, _ = ray.wait(pending, num_returns=len(pending), timeout=0)
        there = set(ready)
        results = [result for name, slot in slots for result in self._finished(name, slot, there)]
        self._kill_overdue()
        if time.monotonic() - self._looked_at_s > LOOK_S:
            self._look()
            for name, slot in list(self._idle(IDLE_S)):
                self._drop(name, slot)
        return results

    def _allow_for_a_stop(self) -> None:
        """Time in which this process was stopped, as by Ctrl-Z, is taken from no worker."""
        now_s = time.monotonic()
        away_s, self._waited_at_s = now_s - self._waited_at_s, now_s
        if away_s > STOPPED_S:
            for slot in (slot for slots in self._slots.values() for slot in slots):
                slot.deadline += away_s

    def _finished(self, stage: str, slot: Slot, ready: set[Any]) -> Iterator[Result]:
        """What a worker's promises that are kept or broken come to."""
        import ray

        if slot.starting in ready:
            self._started(stage, slot)
        if slot.is_recalled and len(slot.calls) > 1 and slot.calls[1].ref in ready:
            yield Result(stage, slot.calls.pop(1).tasks, lost="unstarted")
        while slot.calls and slot.calls[0].ref in ready:
            try:
                entries = ray.get(slot.calls[0].ref)
            except ray.exceptions.TaskCancelledError:
                yield Result(stage, slot.calls.pop(0).tasks, lost="unstarted")
                continue
            except ray.exceptions.RayError as error:
                yield from self._lost(stage, slot, error)
                return
            yield Result(stage, slot.calls.pop(0).tasks, entries=entries)
            slot.idle_since_s = time.monotonic()
            self._took_s[stage] = slot.idle_since_s - slot.begun_s
            if slot.calls:
                self._begins(stage, slot)
            elif any(entry.failure_class == "resource" for entry in entries):
                self._drop(stage, slot)  # what it ran out of, or a GPU's error, may be its process's for good

    def _started(self, stage: str, slot: Slot) -> None:
        import ray

        try:
            problem = ray.get(slot.starting)
        except ray.exceptions.RayError as error:
            list(self._lost(stage, slot, error))
            return
        slot.starting, slot.idle_since_s = None, time.monotonic()
        if problem is not None:
            self._drop(stage, slot)
            self._set_aside(stage, problem)

    def _lost(self, stage: str, slot: Slot, error: Exception) -> Iterator[Result]:
        """A worker is gone: its call is lost with it, the one behind had not begun."""
        import ray

        self._slots[stage].remove(slot)
        ray.kill(slot.actor)
        result = self._loss(stage, slot, error)
        if result is not None:
            yield result
        for call in slot.calls[1:]:
            yield Result(stage, call.tasks, lost="unstarted")

    def _loss(self, stage: str, slot: Slot, error: Exception) -> Result | None:
        lost: Lost = kind_of_loss(error)
        text = memory.WAS_FULL if lost == "memory" else " ".join(str(error).split())[:300]
        node_id = node_known(slot.where) if slot.where is not None else None
        if slot.starting is not None and node_id is None and lost not in NOBODYS_FAULT:
            self._set_aside(stage, _while_set_up(text), is_sure=False)
            return None
        if slot.timed_out:
            lost, text = "timeout", f"took longer than {self._resources[stage].timeout_s:g} s"
        result = Result(stage, slot.calls[0].tasks if slot.calls else [], lost=lost, message=text)
        if lost in ("crash", "timeout", "silent") and node_id is not None:
            self._suspects.add(result, node_id)
            return None
        return self._known(result)

    def _cleared(self) -> Iterator[Result]:
        """Calls whose workers died, once it is known whether with their nodes."""
        for result, is_node_lost in self._suspects.settled():
            known = self._known(replace(result, lost="node") if is_node_lost else result)
            if known is not None:
                yield known

    def _known(self, result: Result) -> Result | None:
        """A loss that is understood; where nothing was being worked on, the worker died while it was set up."""
        if result.tasks:
            return result
        if result.lost not in NOBODYS_FAULT:
            self._set_aside(result.stage, _while_set_up(result.message))
        return None

    def _kill_overdue(self) -> None:
        import ray

        now = time.monotonic()
        overdue = [(name, slot) for name, slots in self._slots.items() for slot in slots if now > slot.deadline]
        for name, slot in overdue:
            if slot.starting is not None:
                self._drop(name, slot)
                self._set_aside(name, f"no worker came up within {START_S:g} s: {self._wants(name)}")
            elif slot.calls and not slot.timed_out:
                slot.timed_out = True
                ray.kill(slot.actor)

    def _wants(self, stage: str) -> str:
        gpus = self._resources[stage].gpus
        return f"it needs a node with {gpus:g} GPU free" if gpus else "is there a node with room?"

    def _set_aside(self, stage: str, problem: str, *, is_sure: bool = True) -> None:
        """A worker cannot be set up; on a cluster its node may be ill, or lost where nothing is sure."""
        self._n_ill[stage] += 1
        is_patient = self._elsewhere and (bool(self._slots[stage]) or not is_sure)
        if not (is_patient and self._n_ill[stage] < MAX_ILL):
            self._unavailable[stage] = problem

    def _drop(self, stage: str, slot: Slot) -> None:
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


def _while_set_up(text: str) -> str:
    return f"the worker died while it was set up: {text}"
