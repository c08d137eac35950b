"""Drives a run: which units are due, where they run, what is recorded, what follows from them.

One walk does planning and execution alike: every source arrives as a unit of `download`; a unit that the ledger has
settled hands its rows on at once, any other is queued, and its rows are handed on when it is done. So a resumed run
costs one pass over the ledger, and stages overlap without a schedule.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from manifests.ledger import Entry
from manifests.rows import Bucket, Labelled, Shard, Source
from manifests.schema import artifacts, content, content_hash
from mit_builder.config import Settings
from mit_builder.duplicates import Duplicates
from mit_builder.engine import Engine, Result
from mit_builder.errors import FailureClass
from mit_builder.hosts import Hosts
from mit_builder.labelled import LabelledClips
from mit_builder.lanes import Lane, Waiting, lost_entry, stamped
from mit_builder.pipeline import STEPS, Step, Unit
from mit_builder.publish import Publisher
from mit_builder.retries import PASSES_BY_ITSELF, Clock, delay_s
from mit_builder.review.store import Reviews
from mit_builder.stop import Stop
from mit_builder.tally import Tally
from mit_builder.tombstones import REMOVED, Tombstones
from mit_builder.worker import Task
from mit_builder.workspace import Workspace

FLUSH_ROWS, FLUSH_S = 256, 5.0
"""A ledger part is written after so many units or seconds (one part costs 8-17 ms)."""
PUBLISH_S = 60.0
"""A shard is written again at most this often while downloads go on."""
QUEUE_BOUND = 64
"""Units that may wait for a step before the steps before it are held back."""
CHECK_SPACE_S = 5.0


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


class Runner:
    """One walk over the sources.

    Args:
        engine: None = look only, nothing is worked on or written (`mit-build status`).
        on_progress: called with this runner about every second.
        on_note: called with a line when a host or a stage is left alone for a while.
        steps: the pipeline; tests put fakes into it.
    """

    def __init__(
        self,
        workspace: Workspace,
        settings: Settings,
        *,
        run_id: str,
        choice: Choice = Choice(),
        engine: Engine | None = None,
        on_progress: Callable[[Runner], None] = lambda runner: None,
        on_note: Callable[[str], None] = lambda line: None,
        steps: Sequence[Step] = STEPS,
    ) -> None:
        self.workspace, self.settings, self.run_id = workspace, settings, run_id
        self.tally = Tally()
        self.lanes = {step.name: Lane.of(step, settings, workspace, run_id) for step in steps}
        self.hosts = Hosts(settings.download)
        self.publisher = Publisher(workspace, settings.shards.n_buckets)
        self._choice = choice
        self._engine, self.stop = engine, Stop(0.0)
        self._on_progress, self._on_note = on_progress, on_note
        self.clock = Clock()
        self._seen: dict[tuple[str, str], str] = {}
        self._duplicates = Duplicates()
        self.reviews = Reviews(workspace)
        self.clips = LabelledClips(settings, self._duplicates, self.reviews)
        self._changed: set[int] = set()
        self._live: Counter[int] = Counter()
        self._feeding = True
        self._existing: dict[str, set[str]] = {}
        self._flushed_at = self._space_checked_at = self.clock.monotonic_s()
        self._written_at: dict[int, float] = {}
        self.failures: list[tuple[str, Entry]] = []
        self.tombstones = Tombstones.of(workspace)

    def run(self, sources: Iterable[Source]) -> Tally:
        """Walk over the sources and work until nothing is due.

        Raises:
            CannotContinue: the disk is full.
        """
        feed = iter(sources)
        try:
            while True:
                self._feed(feed)
                self._admit()
                self._shards_when_quiet()
                self._absorb_all()
                self._housekeeping()
                self.stop.check(is_working=any(lane.running for lane in self.lanes.values()))
                if not self._busy() and not self._shards_when_quiet():
                    break
        finally:
            if self._engine is not None:
                self.lanes["download"].finished += self._duplicates.changed_verdicts()
            self._flush()
        if self._engine and "shards" in self._choice.steps:
            # Where units are pending nobody knows what a bucket will hold: what is published stays.
            self.publisher.finish(self.clips.filled() if self.tally.pending == 0 else None)
        self.tally.left_out, self.tally.n_dataset = self.clips.reasons(), self.publisher.n_clips
        for line in self.reviews.lines:
            self._on_note(line)
        return self.tally

    def labelled(self) -> list[Labelled]:
        """Every clip that has gone through speech and is not left out."""
        return self.clips.kept()

    def _busy(self) -> bool:
        return self._feeding or not all(lane.is_idle for lane in self.lanes.values())

    def _feed(self, feed: Iterator[Source]) -> None:
        while self._feeding and len(self.lanes["download"].queue) < QUEUE_BOUND:
            source = next(feed, None)
            self._feeding = source is not None
            if source is not None:
                self.tally.n_sources += 1
                self._arrive(Unit("download", source))

    def _key(self, lane: Lane, row: Any) -> str:
        settings = lane.step.settings(self.settings).key_values()
        what = content(row, everything=isinstance(row, Bucket))
        return content_hash(lane.step.name, lane.stage.version, settings, lane.backend, what)

    def _arrive(self, unit: Unit) -> bool:
        """Hand a unit on or queue it; whether it was queued."""
        if self.tombstones.bars_any((unit.row, unit.trail.video, unit.trail.candidate)):
            self.tally.steps[unit.step].rejected[REMOVED] += 1
            return False
        if isinstance(unit.row, Labelled):
            bucket = self.publisher.bucket(unit.row.video.video_id)
            self.clips.add(bucket, unit.row)
            self._changed.add(bucket)
            return False
        lane = self.lanes[unit.step]
        task = Task(lane.stage.unit_id(unit.row), self._key(lane, unit.row), unit.row)
        if self._seen.get((unit.step, task.unit_id)) == task.input_key:
            return False
        self._seen[unit.step, task.unit_id] = task.input_key
        entry = lane.ledger.find(task.unit_id, task.input_key)
        if entry is not None and not self._due(lane, entry):
            self._settle(unit, entry)
        elif unit.step in self._choice.steps and self._engine is not None:
            self._enqueue(lane, Waiting(unit, task, lane.stage.limit_key(unit.row)), entry)
            return True
        elif entry is not None and entry.status == "failed":
            self._settle(unit, entry)
        else:
            self._leave(unit)
        return False

    def _enqueue(self, lane: Lane, waiting: Waiting, before: Entry | None) -> None:
        """Queue a unit; what failed a short time ago waits for the rest of its pause, also in a later run."""
        self._count_live(waiting.unit, 1)
        left_s = 0.0
        if before is not None and before.status == "failed" and before.failure_class == "transient":
            waiting.n_before = before.attempts
            ended_s = before.started_at_s + before.duration_s
            left_s = ended_s + delay_s(before.unit_id, before.attempts, self.settings.run) - self.clock.wall_s()
        if left_s > 0 and not self._choice.at_once:
            lane.put_off(waiting, self.clock.monotonic_s() + min(left_s, self.settings.run.retry_max_s))
        else:
            lane.queue.append(waiting)

    def _leave(self, unit: Unit) -> None:
        """Count a unit that this run does not work on; the shard it belongs to stays as it is."""
        self.tally.steps[unit.step].pending += 1
        self._count_live(unit, 1)

    def _due(self, lane: Lane, entry: Entry) -> bool:
        if lane.step.name in self._choice.forced:
            return True
        if entry.status == "failed":
            changed = entry.failure_class == "auth" and entry.settings_key != lane.settings_key
            return changed or entry.failure_class in self._choice.retry
        return not all(self._exists(a.key) for row in entry.outputs for a in artifacts(row))

    def _exists(self, key: str) -> bool:
        folder = key.partition("/")[0]
        if folder not in self._existing:
            self._existing[folder] = self.workspace.names(folder)
        return key in self._existing[folder]

    def _count_live(self, unit: Unit, change: int) -> None:
        if unit.trail.video is not None and unit.step != "shards":
            self._live[self.publisher.bucket(unit.trail.video.video_id)] += change

    def _settle(self, unit: Unit, entry: Entry) -> None:
        if unit.step == "download":
            entry = self._resolve_duplicate(entry)
        self.tally.settle(unit.step, entry, self.settings.filter)
        if entry.status == "failed":
            self.failures.append((unit.step, entry))
        if entry.status != "done":
            return
        if unit.step == "shards":
            self._publish(entry)
        for follower in self.lanes[unit.step].step.route(self.settings, unit, entry.outputs):
            self._arrive(follower)

    def _resolve_duplicate(self, entry: Entry) -> Entry:
        entry, demoted = self._duplicates.arrive(entry)
        for video in demoted:
            self.tally.demote(video)
            self._changed.add(self.publisher.bucket(video.video_id))
        return entry

    def _admit(self) -> None:
        """Start what fits, from the last step backwards, so that work in progress drains first."""
        if self._engine is None or self.stop.is_asked:
            return
        blocked, now_s = False, self.clock.monotonic_s()
        for name, problem in self._engine.unavailable().items():
            self._give_up(self.lanes[name], problem, self.tally.unavailable)
        for lane in reversed(list(self.lanes.values())):
            lane.wake(now_s)
            if lane.stopped:
                self._give_up(lane, lane.stopped, self.tally.stopped)
            may_start = not blocked and now_s >= lane.paused_until_s
            while lane.queue and may_start and self._engine.offer(lane.step.name):
                batch = self._take(lane, now_s)
                if not batch:
                    break
                lane.running.update({w.task.unit_id: w for w in batch})
                self._engine.submit(lane.step.name, [w.task for w in batch])
            blocked = blocked or len(lane.queue) >= QUEUE_BOUND

    def _take(self, lane: Lane, now_s: float) -> list[Waiting]:
        batch: list[Waiting] = []
        for _ in range(len(lane.queue)):
            waiting = lane.queue.popleft()
            if waiting.limit and not self._goes_out(lane, waiting, waiting.limit, now_s):
                continue
            batch.append(waiting)
            if waiting.alone or len(batch) >= lane.stage.resources.batch or (lane.queue and lane.queue[0].alone):
                break
        return batch

    def _goes_out(self, lane: Lane, waiting: Waiting, host: str, now_s: float) -> bool:
        """Whether a unit may go to its host now; where not, it is queued again, put off or left to another run."""
        closed = self.hosts.closed(host)
        if closed:
            self._abandon(lane, waiting)
            self.tally.held_back[lane.step.name, closed] += 1
            return False
        ready_at_s = self.hosts.ready_at_s(host, now_s)
        if ready_at_s <= now_s:
            self.hosts.start(host, now_s)
            return True
        if ready_at_s == math.inf:
            lane.queue.append(waiting)
        else:
            lane.put_off(waiting, ready_at_s)
        return False

    def _abandon(self, lane: Lane, waiting: Waiting) -> None:
        """This run does not work on a queued unit after all: it stays as it was."""
        self._count_live(waiting.unit, -1)
        if waiting.last is not None:
            self._settle(waiting.unit, waiting.last)
        else:
            self._leave(waiting.unit)

    def _give_up(self, lane: Lane, problem: str, why: dict[str, str]) -> None:
        for waiting in lane.drain():
            self._abandon(lane, waiting)
            why[lane.step.name] = problem

    def _absorb_all(self) -> None:
        """Take in what the engine has; wait for it, or for the time at which something may start again."""
        if self._engine is None:
            return
        now_s = self.clock.monotonic_s()
        next_s = min((at_s for lane in self.lanes.values() for at_s in lane.next_start_s(now_s)), default=math.inf)
        patience_s = min(1.0, max(0.01, next_s - now_s))
        results = self._engine.wait(patience_s)
        for result in results:
            self._absorb(result)
        if not results and next_s < math.inf and not any(lane.running for lane in self.lanes.values()):
            self.clock.sleep(patience_s)

    def _absorb(self, result: Result) -> None:
        lane = self.lanes[result.stage]
        waiting = [lane.running.pop(task.unit_id) for task in result.tasks]
        for w in waiting:
            if w.limit:
                self.hosts.leave(w.limit)
        if result.entries is None:
            self._lost(lane, waiting, result)
            return
        for w, entry in zip(waiting, result.entries, strict=True):
            self._judge(lane, w, stamped(entry, w, lane))

    def _judge(self, lane: Lane, waiting: Waiting, entry: Entry) -> None:
        """Try a unit again or record how it ended; learn from it about its host and its stage."""
        now_s = self.clock.monotonic_s()
        lines = [lane.learn(entry, self.settings.run, now_s)]
        if waiting.limit:
            lines.append(self.hosts.learn(waiting.limit, entry, now_s))
        for line in filter(None, lines):
            self._on_note(line)
        if not lane.tries_again(waiting, entry, self.settings.run, now_s):
            self._record(lane, waiting, entry)

    def _record(self, lane: Lane, waiting: Waiting, entry: Entry) -> None:
        entry = replace(entry, outputs=self.tombstones.allowed(entry.outputs))
        lane.finished.append(entry)
        for artifact in (a for row in entry.outputs for a in artifacts(row)):
            self._exists(artifact.key)
            self._existing[artifact.key.partition("/")[0]].add(artifact.key)
        self.tally.worked_on(lane.step.name, entry)
        self._settle(waiting.unit, entry)
        self._count_live(waiting.unit, -1)

    def _lost(self, lane: Lane, waiting: list[Waiting], result: Result) -> None:
        """A worker died. Only a unit that was alone with it can be blamed, and not for the loss of a node."""
        if result.lost == "node":
            self._on_note(f"a node was lost: {lane.step.name} does {len(waiting)} units again, elsewhere")
        for w in waiting:
            blamed = len(waiting) == 1 and result.lost != "node"
            if not blamed or w.n_crashes + 1 < self.settings.run.max_crashes:
                w.n_crashes += blamed
                w.alone = True
                lane.queue.append(w)
                continue
            entry = stamped(lost_entry(w.task, result, w.n_crashes + 1, self.clock.wall_s()), w, lane)
            w.n_failed = self.settings.run.max_attempts  # that many dead workers are enough
            self._judge(lane, w, entry)

    def _shards_when_quiet(self) -> bool:
        """Queue the shards of changed buckets that no unit will add to for now; whether any was queued."""
        lane = self.lanes["shards"]
        growing = self._feeding or not self.lanes["download"].is_idle
        queued = False
        for bucket in sorted(self._changed):
            recent = self.clock.monotonic_s() - self._written_at.get(bucket, -PUBLISH_S) < PUBLISH_S
            if self._live[bucket] or (growing and recent) or lane.queue or lane.running:
                continue
            self._changed.remove(bucket)
            row = Bucket(bucket, self.publisher.n_buckets, tuple(self.clips.kept(bucket)))
            if row.clips and self._arrive(Unit("shards", row)):
                self._written_at[bucket] = self.clock.monotonic_s()
                queued = True
        return queued

    def _publish(self, entry: Entry) -> None:
        for shard in (row for row in entry.outputs if isinstance(row, Shard)):
            self.publisher.add(shard, write=self._engine is not None)

    def _housekeeping(self) -> None:
        now = self.clock.monotonic_s()
        if sum(len(x.finished) for x in self.lanes.values()) >= FLUSH_ROWS or now - self._flushed_at > FLUSH_S:
            self._flush()
        if self._engine and now - self._space_checked_at > CHECK_SPACE_S:
            self.workspace.check_space(self.settings.run.min_free_gb)
            self._space_checked_at = now
        self._on_progress(self)

    def _flush(self) -> None:
        for lane in self.lanes.values():
            lane.ledger.append(lane.finished, run_id=self.run_id)
            lane.finished = []
        self._flushed_at = self.clock.monotonic_s()
