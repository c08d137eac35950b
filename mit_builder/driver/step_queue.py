"""The queue of one step, with everything that the driver keeps about the step, and what it does about failures."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from manifests.ledger import Entry, Ledger
from manifests.rows import Bucket
from manifests.schema import content, content_hash
from mit_builder.config.settings import RunSettings, Settings
from mit_builder.console.wording import counted
from mit_builder.driver.login_changes import settings_key
from mit_builder.driver.options import RunOptions
from mit_builder.driver.playlists import is_stale, listed
from mit_builder.driver.retry_policy import PASSES_BY_ITSELF, Clock, delay_s
from mit_builder.engine.base import NOBODYS_FAULT, Result
from mit_builder.engine.worker import Task, WorkerSpec
from mit_builder.engine.worker_pools import LIGHT_CPUS
from mit_builder.pipeline import Step, Unit
from mit_builder.stage import Stage
from mit_builder.storage.damaged_files import Files
from mit_builder.storage.workspace import Workspace

QUEUE_BOUND = 64
"""Units that may wait for a step before the steps before it are held back."""
WAITING_S, MOST_WAITING = 4.0, 1024
"""So much work of one core may wait where units take no time, and never more units."""
MOST_PUT_OFF = 1 << 14
"""So many units of a step may wait for their host, or to be tried again, before no more of the list are taken up."""
CALL_S = 0.25
"""Work of one call where units are small: a call costs the driver and Ray 5-10 ms."""
MOST_NODES, SUSPECT_NODES = 5, 2
"""A unit lost with so many nodes is set aside; one lost with some runs only while no other such unit does."""
LEARN = 0.2
"""Share that a unit has in the mean of how long they take."""


@dataclass
class Waiting:
    """A unit that is due."""

    unit: Unit
    task: Task
    limit: str | None
    answer: Entry | None = None
    """What the ledger has, where the unit is due only because a file of it is gone or damaged."""
    n_before: int = 0
    """Failed attempts of earlier runs in a row."""
    n_failed: int = 0
    """Failed attempts of this run, those with a dead worker aside."""
    n_crashes: int = 0
    n_nodes: int = 0
    """Nodes of this run that were lost, or workers that fell silent, while it was alone with a worker there."""
    alone: bool = False
    """Shares no call with others, so that it can be blamed."""
    last: Entry | None = None
    """How the latest failed attempt of this run ended."""
    before: Entry | None = None
    """What came of it in an earlier run."""

    @property
    def n_attempts(self) -> int:
        """Attempts that failed, in this run and before."""
        return self.n_before + self.n_failed + self.n_crashes

    @property
    def outcome(self) -> Entry | None:
        """How the unit ends where this run works on it no more: as it was, where it had an answer or is a list."""
        return self.answer or self.last or (self.before if listed(self.before) else None)

    @property
    def is_suspect(self) -> bool:
        """Whether it may be what takes nodes down."""
        return self.n_nodes >= SUSPECT_NODES


@dataclass
class StepQueue:
    """Units of one step: queued, put off, running, finished but not yet in the ledger; all times are monotonic."""

    step: Step
    stage: Stage[Any]
    ledger: Ledger
    settings_key: str
    backend: str
    queue: deque[Waiting] = field(default_factory=deque)
    delayed: list[tuple[float, Waiting]] = field(default_factory=list)
    running: dict[str, Waiting] = field(default_factory=dict)
    """By input key: of one video's id two files may be worked on at once."""
    finished: list[Entry] = field(default_factory=list)
    paused_until_s: float = 0.0
    mean_s: float | None = None
    """How long a unit takes: the last ones count most."""
    n_short: int = 0
    """Failures of resources in a row."""
    stopped: str | None = None
    """Why nothing of this step is started any more in this run."""

    @classmethod
    def of(
        cls, step: Step, settings: Settings, workspace: Workspace, run_id: str, *, looks_only: bool = False
    ) -> StepQueue:
        """The lane of a step, with its ledger; where nothing is worked on, without what tells failed logins apart."""
        section = step.settings(settings)
        stage = WorkerSpec(step.stage, section, workspace.uri, run_id, identity=step.identity).load()
        ledger = Ledger(workspace, step.name, stage.emits)
        key = "" if looks_only else settings_key(section, workspace, run_id)
        return cls(step, stage, ledger, key, stage.backend())

    def key(self, row: Any, settings: Settings) -> str:
        """The input key of a unit: hash of all that its output may depend on."""
        what = content(row, everything=isinstance(row, Bucket))
        values = self.step.settings(settings).key_values()
        return content_hash(self.step.name, self.stage.version, values, self.backend, what)

    def is_due(self, entry: Entry, choice: RunOptions, files: Files, wall_s: float) -> bool:
        """Whether a unit is worked on although the ledger has an answer to it."""
        name, is_of_earlier = self.step.name, entry.run_id != files.run_id
        if name in choice.forced and is_of_earlier:
            return True
        looks_again = name == "download" and name in choice.steps and is_of_earlier
        if looks_again and is_stale(entry, choice.refresh_s, wall_s):
            return True
        if entry.status == "failed":
            changed = entry.failure_class == "auth" and entry.settings_key != self.settings_key
            return is_of_earlier and (changed or entry.failure_class in choice.retry)
        return not files.has_all(entry)

    def written(self) -> Iterator[Any]:
        """What every unit put out last."""
        return (row for entry in self.ledger.newest() if entry.status == "done" for row in entry.outputs)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued, put off or running."""
        return not (self.queue or self.delayed or self.running)

    def timed(self, entry: Entry) -> None:
        """Learn how long a unit took."""
        if entry.status != "failed":
            known = entry.duration_s if self.mean_s is None else self.mean_s
            self.mean_s = known + (entry.duration_s - known) * LEARN

    @property
    def bound(self) -> int:
        """Units that may wait here before the steps before it are held back; more of those that take no time."""
        if not self.mean_s:
            return QUEUE_BOUND
        return int(min(MOST_WAITING, max(QUEUE_BOUND, WAITING_S / self.mean_s)))

    @property
    def has_room(self) -> bool:
        """Whether more of the list may be taken up."""
        return len(self.queue) < self.bound and len(self.delayed) < MOST_PUT_OFF

    def batch(self, cpus: float) -> int:
        """Units for one call: about `CALL_S` of work, and some for every worker; one where resources run out.

        Args:
            cpus: cores that there are for workers.
        """
        if self.n_short:
            return 1
        if self.mean_s is None:
            return self.stage.resources.batch
        n_workers = max(1, int(cpus / max(self.stage.resources.cpus, LIGHT_CPUS)))
        some = math.ceil(len(self.queue) / n_workers)
        return max(1, min(int(CALL_S / max(self.mean_s, 1e-4)), some))

    def n_calls(self, cpus: float) -> int:
        """Calls that what waits would make."""
        return math.ceil(len(self.queue) / self.batch(cpus))

    def take(self) -> Waiting:
        """The next unit: the first, or the longest where a step says how long they are, after those to run alone."""
        cost = self.step.cost
        if cost is None or self.queue[0].alone:
            return self.queue.popleft()
        longest = max(range(len(self.queue)), key=lambda i: (self.queue[i].alone, cost(self.queue[i].task.row)))
        waiting = self.queue[longest]
        del self.queue[longest]
        return waiting

    def wake(self, now_s: float) -> None:
        """Queue what was put off until now."""
        due = sorted((item for item in self.delayed if item[0] <= now_s), key=lambda item: item[0])
        if due:
            self.delayed = [item for item in self.delayed if item[0] > now_s]
            self.queue.extend(waiting for _, waiting in due)

    def next_start_s(self, now_s: float) -> Iterator[float]:
        """Times at which something here may become due."""
        if self.delayed:
            yield min(at_s for at_s, _ in self.delayed)
        if self.queue and self.paused_until_s > now_s:
            yield self.paused_until_s

    def put_off(self, waiting: Waiting, until_s: float) -> None:
        """Queue a unit later."""
        self.delayed.append((until_s, waiting))

    def drain(self) -> Iterator[Waiting]:
        """Take out all that is queued or put off."""
        while self.queue:
            yield self.queue.popleft()
        delayed, self.delayed = self.delayed, []
        yield from (waiting for _, waiting in delayed)

    def tries_again(self, waiting: Waiting, entry: Entry, settings: RunSettings, now_s: float) -> bool:
        """Put a failed unit off where another attempt may help; whether it was put off."""
        if entry.status != "failed" or entry.failure_class not in PASSES_BY_ITSELF or self.stopped:
            return False
        if waiting.n_failed + 1 >= settings.max_attempts:
            return False
        waiting.n_failed += 1
        waiting.last = entry
        self.put_off(waiting, now_s + delay_s(entry.unit_id, waiting.n_attempts, settings))
        self.finished += [entry] if waiting.answer is None else []
        return True

    def enqueue(
        self, waiting: Waiting, before: Entry | None, settings: RunSettings, clock: Clock, choice: RunOptions
    ) -> None:
        """Queue a unit; what failed a short time ago waits for the rest of its pause, also in a later run.

        Args:
            waiting: the unit.
            before: what came of it last.
            settings: say how long the pauses are.
            clock: now.
            choice: says whether there is no pause, and what is forced.
        """
        left_s, waiting.before = 0.0, before
        is_due_for_files = before is not None and before.status == "done" and self.step.name not in choice.forced
        waiting.answer = before if is_due_for_files and not listed(before) else None
        if before is not None and before.status == "failed" and before.failure_class == "transient":
            waiting.n_before = before.attempts
            ended_s = before.started_at_s + before.duration_s
            left_s = ended_s + delay_s(before.unit_id, before.attempts, settings) - clock.wall_s()
        if left_s > 0 and not choice.at_once:
            self.put_off(waiting, clock.monotonic_s() + min(left_s, settings.retry_max_s))
        else:
            self.queue.append(waiting)

    def news_of(self, result: Result) -> Iterator[str]:
        """What a run says of a call that was lost through nobody's fault."""
        n_units = counted(len(result.tasks), "unit")
        if result.lost == "node":
            yield f"a node was lost: {self.step.name} does {n_units} again, elsewhere"
        if result.lost == "silent":
            yield f"a worker of {self.step.name} was stopped, or hangs: another does {n_units} again"

    def lost(self, waiting: Waiting, result: Result, settings: RunSettings, clock: Clock) -> Entry | None:
        """Queue a unit again whose worker died, or the entry that it ends with.

        Only a unit that was alone with its worker can be blamed, and for the loss of nodes after `MOST_NODES` alone.
        """
        if result.lost == "unstarted":
            self.queue.appendleft(waiting)
            return None
        is_alone, by_node = len(result.tasks) == 1, result.lost in NOBODYS_FAULT
        waiting.alone = True
        waiting.n_nodes += is_alone and by_node
        n_lost, most = waiting.n_crashes + 1, settings.max_crashes
        if by_node:
            n_lost, most = waiting.n_nodes, MOST_NODES
        if not is_alone or n_lost < most:
            waiting.n_crashes += is_alone and not by_node
            pause_s = delay_s(waiting.task.unit_id, waiting.n_nodes, settings) if waiting.is_suspect else 0.0
            # After a pause: nodes that go one after another take no unit along each time.
            self.put_off(waiting, clock.monotonic_s() + pause_s)
            return None
        entry = stamped(lost_entry(waiting.task, result, n_lost, clock.wall_s()), waiting, self)
        waiting.n_failed = settings.max_attempts  # that many dead workers are enough
        return entry

    def learn(self, entry: Entry, settings: RunSettings, now_s: float) -> str | None:
        """Pause where disk or memory ran out, and stop where pauses do not help; one line when that happens."""
        if entry.failure_class != "resource":
            self.n_short = 0 if entry.status == "done" else self.n_short
            return None
        self.n_short += 1
        if self.stopped or now_s < self.paused_until_s:
            return None
        # One unit may be too large for this machine; two in a row, each tried to the end, are no accident.
        if self.n_short >= 2 * settings.max_attempts:
            self.stopped = entry.message or "resources ran out"
            return f"{self.step.name} stops, what is left stays pending: {entry.message}"
        pause_s = delay_s(self.step.name, self.n_short, settings)
        self.paused_until_s = now_s + pause_s
        return f"{self.step.name} pauses for {pause_s:.0f} s: {entry.message}"


def stamped(entry: Entry, waiting: Waiting, lane: StepQueue) -> Entry:
    """An entry of a worker with what only the driver knows."""
    return replace(entry, attempts=waiting.n_attempts + 1, settings_key=lane.settings_key)


def lost_entry(task: Task, result: Result, n_lost: int, wall_s: float) -> Entry:
    """The entry of a unit whose worker died for the last time; running out of memory is not the unit's poison."""
    what = {"node": "its node was lost", "silent": "its worker fell silent"}.get(str(result.lost), "the worker died")
    return Entry(
        unit_id=task.unit_id,
        input_key=task.input_key,
        status="failed",
        failure_class="resource" if result.lost == "memory" else "poison",
        message=f"{what} {counted(n_lost, 'time')}: {result.message}",
        started_at_s=wall_s,
    )
