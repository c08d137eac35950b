from __future__ import annotations

from dataclasses import replace
from typing import Any

import fakes
import pytest
from hypothesis import given
from hypothesis import strategies as st
from walks import settings_with

from manifests.ledger import Entry
from mit_builder.driver.bottleneck import find_bottleneck
from mit_builder.driver.step_queue import CALL_S, MOST_WAITING, QUEUE_BOUND, StepQueue, Waiting
from mit_builder.engine.base import Load
from mit_builder.engine.serial import SerialEngine
from mit_builder.engine.worker import Task
from mit_builder.engine.worker_pools import Pools, Room, WorkerCounts
from mit_builder.pipeline import STEPS, Unit
from mit_builder.stage import Resources
from mit_builder.storage.workspace import Workspace

NEEDS = {
    "net": Resources(cpus=0.25, max_workers=4),
    "core": Resources(cpus=1.0),
    "gpu": Resources(cpus=1.0, gpus=0.5, max_workers=2),
    "other gpu": Resources(cpus=1.0, gpus=0.5, max_workers=2),
}


def counts(**known: WorkerCounts) -> dict[str, WorkerCounts]:
    return {name: known.get(name.replace(" ", "_"), WorkerCounts()) for name in NEEDS}


def test_all_workers_that_have_work_and_room_start_at_once() -> None:
    pools = Pools(NEEDS, Room(cpus=8))
    assert pools.to_start("core", counts(), 3) == 3
    assert pools.to_start("core", counts(), 30) == 8
    assert pools.to_start("core", counts(core=WorkerCounts(busy=2, starting=1, idle=1)), 30) == 4
    assert pools.to_start("core", counts(gpu=WorkerCounts(busy=2)), 30) == 6
    assert pools.to_start("net", counts(gpu=WorkerCounts(busy=2)), 30) == 4
    assert pools.to_start("gpu", counts(), 30) == 2


def test_a_stage_that_needs_more_than_there_is_has_one_worker() -> None:
    pools = Pools({"large": Resources(cpus=4)}, Room(cpus=2))
    assert pools.to_start("large", {"large": WorkerCounts()}, 5) == 1
    assert pools.fits("large", {"large": WorkerCounts()})
    assert not pools.fits("large", {"large": WorkerCounts(busy=1)})


def test_what_waits_for_the_net_takes_no_core_from_what_computes() -> None:
    pools = Pools(NEEDS, Room(cpus=2))
    assert pools.fits("net", counts(core=WorkerCounts(busy=2)))
    assert not pools.fits("core", counts(core=WorkerCounts(busy=2)))
    assert not pools.fits("net", counts(net=WorkerCounts(busy=4)))


def test_a_gpu_is_shared_by_fractions_and_never_given_twice() -> None:
    pools = Pools(NEEDS, Room(cpus=8, gpus=1))
    assert pools.has_gpu("gpu", counts(gpu=WorkerCounts(idle=1)))
    assert not pools.has_gpu("gpu", counts(gpu=WorkerCounts(idle=1), other_gpu=WorkerCounts(busy=1)))
    assert pools.has_gpu("core", counts(gpu=WorkerCounts(idle=2)))
    assert pools.gpus_used(counts(gpu=WorkerCounts(idle=1), other_gpu=WorkerCounts(busy=1))) == 1.0


def test_a_stage_has_the_cores_alone_where_no_other_computes_or_is_about_to() -> None:
    pools = Pools(NEEDS, Room(cpus=2, gpus=1))
    assert pools.has_cores_alone(
        "core", counts(core=WorkerCounts(busy=2), net=WorkerCounts(busy=3), gpu=WorkerCounts(idle=1))
    )
    assert not pools.has_cores_alone("core", counts(core=WorkerCounts(busy=1), gpu=WorkerCounts(busy=1)))
    assert not pools.has_cores_alone("core", counts(core=WorkerCounts(busy=1), gpu=WorkerCounts(starting=1)))
    assert not pools.has_cores_alone("net", counts(net=WorkerCounts(busy=1)))


def test_more_cores_that_join_are_used() -> None:
    pools = Pools(NEEDS, Room(cpus=2))
    full = counts(core=WorkerCounts(busy=2))
    assert pools.to_start("core", full, 9) == 0
    pools.room = Room(cpus=6)
    assert pools.to_start("core", full, 9) == 4


@given(
    cpus=st.integers(1, 16),
    busy=st.integers(0, 8),
    starting=st.integers(0, 8),
    idle=st.integers(0, 8),
    n_calls=st.integers(0, 50),
)
def test_no_worker_is_started_without_work_and_room(
    cpus: int, busy: int, starting: int, idle: int, n_calls: int
) -> None:
    count = WorkerCounts(busy, starting, idle)
    n = Pools(NEEDS, Room(cpus=cpus)).to_start("core", counts(core=count), n_calls)
    assert n >= 0
    assert n <= max(0, n_calls - idle - starting)
    assert n == 0 or count.n + n <= cpus


def lane(step: str = "shots") -> StepQueue:
    (chosen,) = (s for s in fakes.steps() if s.name == step)
    return StepQueue.of(chosen, settings_with(), Workspace("memory://pools"), "run")


def waiting(i: int, row: Any = None) -> Waiting:
    row = row if row is not None else fakes.source(f"v{i}")
    return Waiting(Unit("download", row), Task(f"u{i}", f"k{i}", row), None)


def done(seconds: float) -> Entry:
    return Entry("u", "k", "done", duration_s=seconds)


def test_small_units_share_a_call_and_long_ones_do_not() -> None:
    short, long = lane(), lane()
    for i in range(QUEUE_BOUND):
        short.queue.append(waiting(i))
        long.queue.append(waiting(i))
    assert short.batch(2) == 1
    short.timed(done(0.01))
    long.timed(done(3.0))
    assert short.batch(1.0) == int(CALL_S / 0.01)
    assert short.batch(8.0) == 4
    assert long.batch(1.0) == 1
    assert short.n_calls(8.0) == 16


def test_units_that_fail_say_nothing_about_how_long_they_take_and_go_one_by_one_while_resources_run_out() -> None:
    failing = lane()
    failing.queue.extend(waiting(i) for i in range(50))
    failing.timed(Entry("u", "k", "failed", duration_s=0.001))
    assert failing.mean_s is None
    failing.timed(Entry("u", "k", "rejected", duration_s=0.001))
    assert failing.batch(1) > 1
    failing.n_short = 1
    assert failing.batch(1) == 1


def test_more_may_wait_where_units_are_small_but_never_without_bound() -> None:
    stage = lane()
    assert stage.bound == QUEUE_BOUND
    stage.timed(done(10.0))
    assert stage.bound == QUEUE_BOUND
    stage.mean_s = 0.01
    assert QUEUE_BOUND < stage.bound <= MOST_WAITING
    stage.mean_s = 1e-9
    assert stage.bound == MOST_WAITING


def test_the_longest_of_what_waits_is_begun_first_where_a_step_says_how_long() -> None:
    stage = lane()
    stage.step = replace(stage.step, cost=float)
    stage.queue.extend(waiting(i, row) for i, row in enumerate([3, 9, 5]))
    assert [stage.take().task.row for _ in range(3)] == [9, 5, 3]
    stage.queue.extend(waiting(i, row) for i, row in enumerate([9, 3, 5]))
    stage.queue[1].alone = True
    assert stage.take().task.row == 3


def test_detection_and_pose_say_how_long_their_units_are() -> None:
    assert {step.name for step in STEPS if step.cost} == {"filter.detect", "pose"}


@pytest.mark.parametrize(
    ("step", "needs", "load", "says"),
    [
        ("shots", Resources(cpus=1.0), Load(2.0, 2.0), "add CPU workers"),
        ("shots", Resources(cpus=1.0), Load(1.0, 2.0), "workers start"),
        ("shots", Resources(cpus=1.0), SerialEngine([]).load(), "nothing to add: the serial engine works on one"),
        ("shots", Resources(cpus=1.0, gpus=0.5), Load(1.0, 8.0, 1.0, 1.0), "add GPUs"),
        ("download", Resources(cpus=0.25), Load(0.0, 2.0), "nothing to add: hosts are asked no faster"),
    ],
)
def test_the_bottleneck_is_named_with_what_to_add(step: str, needs: Resources, load: Load, says: str) -> None:
    lanes = [lane(name) for name in ("download", "shots", "pose")]
    assert find_bottleneck(lanes, load) is None
    (busy,) = (one for one in lanes if one.step.name == step)
    busy.stage.resources = needs  # type: ignore[misc]
    busy.queue.extend(waiting(i) for i in range(3))
    found = find_bottleneck(lanes, load)
    assert found is not None
    assert (found.step, found.n_waiting) == (step, 3)
    assert str(found).startswith(f"bottleneck: {step} (0 running, 3 waiting): {says}")
