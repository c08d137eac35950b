"""Which stage holds the others up, and what would help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mit_builder.driver.step_queue import StepQueue
from mit_builder.engine.base import Load

FULL = 0.9
"""Share of the cores or GPUs from which on there are none to spare."""


@dataclass(frozen=True)
class Bottleneck:
    """What to say about the stage that holds the others up.

    Attributes:
        step: its name.
        add: CPU workers, GPUs, or why nothing helps.
    """

    step: str
    n_running: int
    n_waiting: int
    add: str

    def __str__(self) -> str:
        return f"bottleneck: {self.step} ({self.n_running} running, {self.n_waiting} waiting): {self.add}"


def find_bottleneck(lanes: Sequence[StepQueue], load: Load) -> Bottleneck | None:
    """The stage with the most work in front of it; None where nothing waits.

    Args:
        lanes: in the order of the pipeline.
        load: what is used of what there is.
    """
    waiting = [lane for lane in lanes if lane.queue or lane.delayed]
    if not waiting:
        return None
    lane = max(waiting, key=_work_s)
    n_waiting = len(lane.queue) + len(lane.delayed)
    return Bottleneck(lane.step.name, len(lane.running), n_waiting, _add(lane, load))


def _work_s(lane: StepQueue) -> float:
    """Seconds of work that wait; a full queue outweighs any that is not."""
    full = len(lane.queue) >= lane.bound
    return (len(lane.queue) + len(lane.delayed)) * (lane.mean_s or 1.0) + (1e9 if full else 0.0)


def _add(lane: StepQueue, load: Load) -> str:
    needs = lane.stage.resources
    if lane.queue and lane.stage.limit_key(lane.queue[0].task.row):
        return "nothing to add: hosts are asked no faster (download.per_host, download.host_interval_s)"
    if lane.delayed and not lane.queue:
        return "nothing to add: failures wait for another attempt"
    if load.limit:
        return f"nothing to add: {load.limit}"
    if needs.gpus:
        return "add GPUs" if load.gpus_busy >= FULL * load.gpus or len(lane.running) else "GPUs are being waited for"
    if load.cpus_busy >= FULL * load.cpus:
        return "add CPU workers"
    if needs.max_workers is not None and len(lane.running) >= needs.max_workers:
        return f"nothing to add: at most {needs.max_workers} at once"
    return "workers start"
