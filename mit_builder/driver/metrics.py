"""What a run tells Prometheus: the names, and what they count. Ray's exporter serves them (engine/ray_metrics.py).

The exporter puts `ray_` before every name and `_total` after those of counters, and adds tags of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from manifests.ledger import Entry
from manifests.rows import TIMELINE_FPS, Clip, Video
from mit_builder.engine.metric import Meter, Metric

if TYPE_CHECKING:
    from mit_builder.driver.step_queue import StepQueue
    from mit_builder.engine.base import Load


UNITS = Metric("mit_builder_units", "counter", "units that ended, by verdict", ("stage", "status"))
FAILURES = Metric("mit_builder_failures", "counter", "failed attempts, by class", ("stage", "failure_class"))
SECONDS = Metric(
    "mit_builder_unit_seconds",
    "histogram",
    "how long a unit took",
    ("stage",),
    (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3600),
)
QUEUE = Metric("mit_builder_queue", "gauge", "units that wait or run", ("stage", "state"))
FOOTAGE = Metric("mit_builder_footage_seconds", "counter", "footage that came in, and that became clips", ("kind",))
BUSY = Metric("mit_builder_busy", "gauge", "cores and GPUs that work", ("resource",))
CAPACITY = Metric("mit_builder_capacity", "gauge", "cores and GPUs that there are", ("resource",))
METRICS = (UNITS, FAILURES, SECONDS, QUEUE, FOOTAGE, BUSY, CAPACITY)


def count_unit(record: Meter, step: str, entry: Entry) -> None:
    """A unit has ended, or an attempt at it."""
    record(UNITS, 1, {"stage": step, "status": entry.status})
    record(SECONDS, entry.duration_s, {"stage": step})
    if entry.status == "failed":
        record(FAILURES, 1, {"stage": step, "failure_class": entry.failure_class or "unknown"})
    for row in entry.outputs if entry.status == "done" else ():
        if isinstance(row, Video):
            record(FOOTAGE, row.duration_s, {"kind": "in"})
        elif isinstance(row, Clip):
            record(FOOTAGE, row.n_frames / TIMELINE_FPS, {"kind": "accepted"})


def count_state(record: Meter, lanes: Mapping[str, StepQueue], load: Load) -> None:
    """How things stand."""
    for step, lane in lanes.items():
        record(QUEUE, len(lane.queue) + len(lane.delayed), {"stage": step, "state": "waiting"})
        record(QUEUE, len(lane.running), {"stage": step, "state": "running"})
    for resource, busy, there in (("cpu", load.cpus_busy, load.cpus), ("gpu", load.gpus_busy, load.gpus)):
        record(BUSY, busy, {"resource": resource})
        record(CAPACITY, there, {"resource": resource})
