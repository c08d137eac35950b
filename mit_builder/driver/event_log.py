"""What a run leaves behind besides its work: figures for Prometheus, and a log with the unit in every line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from manifests.ledger import Entry
from mit_builder.driver.metrics import count_state, count_unit
from mit_builder.engine.metric import Meter, Metric
from mit_builder.storage.workspace import Workspace

if TYPE_CHECKING:
    from mit_builder.driver.step_queue import StepQueue
    from mit_builder.engine.base import Load
    from mit_builder.pipeline import Unit

LOGS = "logs"
LOOK_S = 1.0
"""Figures about queues are taken at most this often."""
LINES = 1000
"""So many lines of a log in the workspace are written together, and what there is every `WRITE_S`."""
WRITE_S = 10.0


class Observer:
    """Told by the runner what happens.

    Args:
        run_id: stands in every line.
        log: where lines go.
        meter: where figures go; None = nowhere.
    """

    def __init__(
        self,
        workspace: Workspace,
        run_id: str,
        *,
        log: Literal["off", "stderr", "workspace"] = "off",
        meter: Meter | None = None,
    ) -> None:
        self._workspace = workspace
        self._run_id = run_id
        self._log = log
        self._record: Meter = meter or _nowhere
        self._lines: list[str] = []
        self._n_parts = 0
        self._looked_at_s = 0.0
        self._written_at_s = time.monotonic()

    def unit(self, unit: Unit, entry: Entry) -> None:
        """An attempt at a unit has ended."""
        count_unit(self._record, unit.step, entry)
        video = unit.video
        self._say(
            level="info" if entry.status != "failed" else "error",
            event="unit",
            stage=unit.step,
            unit_id=entry.unit_id,
            source_id=unit.row.source_id if unit.step == "download" else video and video.source_id,
            video_id=video and video.video_id,
            status=entry.status,
            attempt=entry.attempts,
            started_at_s=round(entry.started_at_s, 3),
            duration_s=round(entry.duration_s, 3),
            cpu_s=round(entry.cpu_s, 3),
            **{name: value for name in ("reason", "failure_class", "message") if (value := getattr(entry, name))},
        )

    def note(self, text: str) -> None:
        """Something that a person should know."""
        self._say(level="warning", event="note", message=text)

    def state(self, lanes: Mapping[str, StepQueue], load: Load) -> None:
        """How things stand; called often."""
        now_s = time.monotonic()
        if now_s - self._looked_at_s >= LOOK_S:
            self._looked_at_s = now_s
            count_state(self._record, lanes, load)
        if len(self._lines) >= LINES or (self._lines and now_s - self._written_at_s >= WRITE_S):
            self.flush()

    def _say(self, **values: Any) -> None:
        if self._log == "off":
            return
        line = json.dumps({"time": round(time.time(), 3), "run_id": self._run_id, **values}, ensure_ascii=True)
        if self._log == "stderr":
            print(line, file=sys.stderr, flush=True)
        else:
            self._lines.append(line)

    def flush(self) -> None:
        """Write the lines that wait: storage cannot append, so that each time makes a file."""
        lines, self._lines = self._lines, []
        if lines:
            key = f"{LOGS}/{self._run_id}/{self._n_parts:06d}.jsonl"
            self._workspace.write(key, ("\n".join(lines) + "\n").encode())
            self._n_parts += 1
        self._written_at_s = time.monotonic()


def _nowhere(metric: Metric, value: float, tags: Mapping[str, str]) -> None:
    """Nobody looks."""
