"""A lane: one step with everything that the driver keeps about it, and what it does about failures."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from manifests.ledger import Entry, Ledger
from manifests.rows import Bucket
from manifests.schema import artifacts, content, content_hash
from mit_builder.config import RunSettings, Settings
from mit_builder.engine import Result
from mit_builder.errors import FailureClass
from mit_builder.pipeline import STEPS, Step, Unit
from mit_builder.pools import LIGHT_CPUS
from mit_builder.retries import PASSES_BY_ITSELF, Clock, delay_s
from mit_builder.stage import Stage
from mit_builder.worker import Task, WorkerSpec
from mit_builder.workspace import Workspace

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


@dataclass(frozen=True)
class Choice:
    """What a run was asked to do.

    Attributes:
        steps: names of the steps to work on; the others only hand on what the ledger has.
        forced: steps whose units are due whatever the ledger says.
        retry: classes of failures that are tried again.
        at_once: do not wait for what failed a short time ago.
    """

    steps: frozenset[str] = frozenset(step.name for step in STEPS)
    forced: frozenset[str] = frozenset()
    retry: frozenset[FailureClass] = PASSES_BY_ITSELF
    at_once: bool = False


EVERYTHING = Choice()


@dataclass
class Waiting:
    """A unit that is due."""

    unit: Unit
    task: Task
    limit: str | None
    n_before: int = 0
    """Failed attempts of earlier runs in a row."""
    n_failed: int = 0
    """Failed attempts of this run, those with a dead worker aside."""
    n_crashes: int = 0
    n_nodes: int = 0
    """Nodes of this run that were lost while it was alone with a worker there."""
    alone: bool = False
    """Shares no call with others, so that it can be blamed."""
    last: Entry | None = None
    """How the latest failed attempt of this run ended."""

    @property
    def n_attempts(self) -> int:
        """Attempts that failed, in this run and before."""
        return self.n_before + self.n_failed + self.n_crashes

    @property
    def is_suspect(self) -> bool:
        """Whether it may be what takes nodes down."""
        return self.n_nodes >= SUSPECT_NODES


@dataclass
class Lane:
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
    def of(cls, step: Step, settings: Settings, workspace: Workspace, run_id: str) -> Lane:
        """The lane of a step, with its ledger."""
        section = step.settings(settings)
        stage = WorkerSpec(step.stage, section, workspace.uri, run_id).load()
        ledger = Ledger(workspace, step.name, stage.emits)
        return cls(step, stage, ledger, content_hash(section.shown_values()), stage.backend())

    def key(self, row: Any, settings: Settings) -> str:
        """The input key of a unit: hash of all that its output may depend on."""
        what = content(row, everything=isinstance(row, Bucket))
        values = self.step.settings(settings).key_values()
        return content_hash(self.step.name, self.stage.version, values, self.backend, what)

    def is_due(self, entry: Entry, choice: Choice, files: Files) -> bool:
        """Whether a unit is worked on although the ledger has an answer to it."""
        if self.step.name in choice.forced:
            return True
        if entry.status == "failed":
            changed = entry.failure_class == "auth" and entry.settings_key != self.settings_key
            return changed or entry.failure_class in choice.retry
        return not files.has_all(entry)

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
        self.finished.append(entry)
        return True

    def enqueue(
        self, waiting: Waiting, before: Entry | None, settings: RunSettings, clock: Clock, *, at_once: bool
    ) -> None:
        """Queue a unit; what failed a short time ago waits for the rest of its pause, also in a later run.

        Args:
            waiting: the unit.
            before: what came of it last.
            settings: say how long the pauses are.
            clock: now.
            at_once: whether there is no pause.
        """
        left_s = 0.0
        if before is not None and before.status == "failed" and before.failure_class == "transient":
            waiting.n_before = before.attempts
            ended_s = before.started_at_s + before.duration_s
            left_s = ended_s + delay_s(before.unit_id, before.attempts, settings) - clock.wall_s()
        if left_s > 0 and not at_once:
            self.put_off(waiting, clock.monotonic_s() + min(left_s, settings.retry_max_s))
        else:
            self.queue.append(waiting)

    def lost(self, waiting: Waiting, result: Result, settings: RunSettings, clock: Clock) -> Entry | None:
        """Queue a unit again whose worker died, or the entry that it ends with.

        Only a unit that was alone with its worker can be blamed, and for the loss of nodes after `MOST_NODES` alone.
        """
        if result.lost == "unstarted":
            self.queue.appendleft(waiting)
            return None
        is_alone, by_node = len(result.tasks) == 1, result.lost == "node"
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


def worker_specs(
    settings: Settings, workspace: Workspace, run_id: str, steps: Sequence[Step] = STEPS
) -> dict[str, WorkerSpec]:
    """How a worker of each step is built."""
    place = (workspace.uri, run_id, settings.run.scratch_gb)
    return {s.name: WorkerSpec(s.stage, s.settings(settings), *place) for s in steps}


class Files:
    """Which artifacts there are; a folder is listed once, and of names hashes are kept: there are millions."""

    def __init__(self, workspace: Workspace, run_id: str) -> None:
        self._workspace = workspace
        self._run_id = run_id
        self._folders: dict[str, set[int]] = {}

    def has_all(self, entry: Entry) -> bool:
        """Whether the artifacts that an entry names are there; what this run made is asked for by itself."""
        has = self._workspace.exists if entry.run_id == self._run_id else self._has
        return all(has(artifact.key) for row in entry.outputs for artifact in artifacts(row))

    def _has(self, key: str) -> bool:
        return hash(key) in self._folder(key)

    def remove(self, keys: Iterable[str]) -> None:
        """Take note that some are gone."""
        for key in keys:
            self._folders.get(key.partition("/")[0], set()).discard(hash(key))

    def _folder(self, key: str) -> set[int]:
        folder = key.partition("/")[0]
        if folder not in self._folders:
            self._folders[folder] = set(map(hash, self._workspace.names(folder)))
        return self._folders[folder]


def stamped(entry: Entry, waiting: Waiting, lane: Lane) -> Entry:
    """An entry of a worker with what only the driver knows."""
    return replace(entry, attempts=waiting.n_attempts + 1, settings_key=lane.settings_key)


def lost_entry(task: Task, result: Result, n_lost: int, wall_s: float) -> Entry:
    """The entry of a unit whose worker died for the last time; running out of memory is not the unit's poison."""
    what = "its node was lost" if result.lost == "node" else "the worker died"
    return Entry(
        unit_id=task.unit_id,
        input_key=task.input_key,
        status="failed",
        failure_class="resource" if result.lost == "memory" else "poison",
        message=f"{what} {n_lost} times: {result.message}",
        started_at_s=wall_s,
    )
