"""Drives a run: which units are due, where they run, what is recorded, what follows from them.

One walk does planning and execution alike: every source arrives as a unit of `download`; a unit that the ledger has
settled hands its rows on at once, any other is queued, and its rows are handed on when it is done. So a resumed run
costs one pass over the ledger, and stages overlap without a schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from manifests.ledger import Entry
from manifests.rows import Bucket, Labelled, Source
from manifests.schema import content_hash
from mit_builder.buckets import Buckets
from mit_builder.config import Settings
from mit_builder.duplicates import Duplicates
from mit_builder.engine import Engine, Load, Result
from mit_builder.hosts import Hosts
from mit_builder.labelled import LabelledClips
from mit_builder.lanes import EVERYTHING, Choice, Files, Lane, Waiting, stamped
from mit_builder.observe import Observer
from mit_builder.pipeline import STEPS, Step, Unit
from mit_builder.publish import Publisher
from mit_builder.retries import Clock
from mit_builder.review.store import Reviews
from mit_builder.source_book import SourceList
from mit_builder.stop import Stop
from mit_builder.tally import Tally
from mit_builder.tombstones import Tombstones
from mit_builder.trees import Trees, open_settled
from mit_builder.worker import Task
from mit_builder.workspace import Workspace

__all__ = ["Choice", "Runner"]

FLUSH_ROWS, FLUSH_S = 256, 5.0
"""A ledger part is written after so many units or seconds (one part costs 8-17 ms)."""
CHECK_SPACE_S = 5.0
MEET = ("download", "shots", "shards")
"""Steps at which a unit may arrive twice: as a source, as the video of two. What follows comes from one unit each."""
SUSPECT_WAIT_S = 1.0


class Runner:
    """One walk over the sources.

    Args:
        engine: None = look only, nothing is worked on or written (`mit-build status`).
        on_progress: called with this runner about every second.
        on_note: called with a line when a host or a stage is left alone for a while.
        steps: the pipeline; tests put fakes into it.

    Attributes:
        observer: told of every attempt and of how things stand.
    """

    def __init__(
        self,
        workspace: Workspace,
        settings: Settings,
        *,
        run_id: str,
        choice: Choice = EVERYTHING,
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
        self.observer: Observer | None = None
        self.clock, self._duplicates = Clock(), Duplicates()
        self._seen: dict[int, int] = {}
        """Hashes: by step and unit the input key that it came with last."""
        self.reviews, self.tombstones = Reviews(workspace), Tombstones.of(workspace)
        self.clips = LabelledClips(settings, self._duplicates, self.reviews)
        self.buckets = Buckets(self.publisher, self.clips)
        self.trees = Trees(settings, self._duplicates, self.buckets, None)
        self._feeding, self._files = True, Files(workspace, run_id)
        self.failures: list[tuple[str, Entry]] = []
        self._flushed_at = self._space_checked_at = self.clock.monotonic_s()

    def pass_over_settled(self) -> None:
        """From now on, `run` passes over what earlier runs with this plan settled, and adds to it."""
        said = content_hash(sorted(map(repr, self.reviews.all())), self.tombstones.dump().decode())
        settled = open_settled(self.workspace, self.settings, self.lanes, self.publisher.n_buckets, said)
        looks_only = self._engine is None
        self.trees = Trees(self.settings, self._duplicates, self.buckets, settled, looks_only=looks_only)

    def run(self, sources: Iterable[Source], *, due_again: Collection[str] | None = None) -> Tally:
        """Walk over the sources and work until nothing is due.

        Args:
            sources: all sources of the run.
            due_again: classes of failures whose sources are not passed over; None = those that are tried again.

        Raises:
            CannotContinue: the disk is full.
        """
        if isinstance(sources, SourceList) and not self._choice.forced:
            sources = self.trees.pass_over(sources, self._choice.retry if due_again is None else due_again)
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
        filled, self.tally.left_out = self.clips.outcome()
        self.trees.add_to(self.tally)
        if self._engine and "shards" in self._choice.steps:
            # Where units are pending nobody knows what a bucket will hold: what is published stays.
            self.publisher.finish(filled | self.trees.intact if self.tally.pending == 0 else None)
        self.tally.n_dataset = self.publisher.n_clips
        for line in self.reviews.lines:
            self._on_note(line)
        return self.tally

    @property
    def has_changed(self) -> bool:
        """Whether anything was worked on, or another dataset published."""
        return self.publisher.has_written or any(t.worked_on for t in self.tally.steps.values())

    @property
    def load(self) -> Load:
        """What is used of what there is."""
        return self._engine.load() if self._engine else Load(0.0, 0.0)

    def labelled(self) -> list[Labelled]:
        """Every clip that was walked over, has gone through speech and is not left out."""
        return self.clips.kept()

    def _busy(self) -> bool:
        return self._feeding or not all(lane.is_idle for lane in self.lanes.values())

    def _feed(self, feed: Iterator[Source]) -> None:
        while self._feeding and self.lanes["download"].has_room:
            source = next(feed, None)
            self._feeding = source is not None
            if source is not None:
                self.tally.n_sources += 1
                self._arrive(Unit("download", source))

    def _arrive(self, unit: Unit) -> bool:
        """Hand a unit on or queue it; whether it was queued."""
        if self.tombstones.bars_any((unit.row, unit.trail.video, unit.trail.candidate)):
            self.trees.removed(unit, self.tally)
            return False
        if isinstance(unit.row, Labelled):
            self.trees.changed(self.buckets.take(unit.row))
            self.trees.labelled(unit.row)
            return False
        if unit.step == "download" and self.trees.passes_over(unit.row):
            return False
        lane = self.lanes[unit.step]
        task = Task(lane.stage.unit_id(unit.row), lane.key(unit.row, self.settings), unit.row)
        if unit.step in MEET:
            name, key = hash((unit.step, task.unit_id)), hash(task.input_key)
            if self._seen.get(name) == key:
                return False
            self._seen[name] = key
        entry = lane.ledger.find(task.unit_id, task.input_key)
        if entry is not None and not lane.is_due(entry, self._choice, self._files):
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
        self.buckets.count_live(waiting.unit, 1)
        self.trees.opened(waiting.unit, again=before is not None)
        lane.enqueue(waiting, before, self.settings.run, self.clock, at_once=self._choice.at_once)

    def _leave(self, unit: Unit) -> None:
        """Count a unit that this run does not work on; the shard it belongs to stays as it is."""
        self.tally.steps[unit.step].pending += 1
        self.buckets.count_live(unit, 1)
        self.trees.left(unit)

    def _settle(self, unit: Unit, entry: Entry) -> None:
        if unit.step == "download":
            for source in self.trees.same_video(entry):
                self._arrive(Unit("download", source))
            entry, demoted = self._duplicates.arrive(entry)
            for video in demoted:
                self.tally.demote(video)
                self.trees.changed(self.publisher.bucket(video.video_id))
        self.tally.settle(unit.step, entry, self.settings.filter)
        self.trees.count(unit, entry)
        if entry.status == "failed":
            self.failures.append((unit.step, replace(entry, traceback=None)))
        if entry.status != "done":
            return
        if unit.step == "shards":
            self._files.remove(self.publisher.take(entry.outputs, write=self._engine is not None))
            self.buckets.written(unit.row.bucket, entry.duration_s)
        for follower in self.lanes[unit.step].step.route(self.settings, unit, entry.outputs):
            self._arrive(follower)

    def _admit(self) -> None:
        """Start what fits, from the last step backwards, so that work in progress drains first."""
        if self._engine is None:
            return
        if self.stop.is_asked:
            self._engine.recall()
            return
        blocked, now_s = False, self.clock.monotonic_s()
        for name, problem in self._engine.unavailable().items():
            self._give_up(self.lanes[name], problem, self.tally.unavailable)
        for lane in reversed(list(self.lanes.values())):
            lane.wake(now_s)
            if lane.stopped:
                self._give_up(lane, lane.stopped, self.tally.stopped)
            may_start = not blocked and now_s >= lane.paused_until_s
            while lane.queue and may_start and self._engine.offer(lane.step.name, lane.n_calls(self.load.cpus)):
                batch = self._take(lane, now_s)
                if not batch:
                    break
                lane.running.update({w.task.input_key: w for w in batch})
                self._engine.submit(lane.step.name, [w.task for w in batch])
            blocked = blocked or len(lane.queue) >= lane.bound

    def _take(self, lane: Lane, now_s: float) -> list[Waiting]:
        batch: list[Waiting] = []
        size = lane.batch(self.load.cpus)
        for _ in range(len(lane.queue)):
            waiting = lane.take()
            if waiting.is_suspect and any(w.is_suspect for x in self.lanes.values() for w in x.running.values()):
                lane.put_off(waiting, now_s + SUSPECT_WAIT_S)
                continue
            if waiting.limit and not self._goes_out(lane, waiting, waiting.limit, now_s):
                continue
            batch.append(waiting)
            if waiting.alone or waiting.limit or len(batch) >= size or (lane.queue and lane.queue[0].alone):
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
        self.buckets.count_live(waiting.unit, -1)
        self.trees.closed(waiting.unit)
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
        waiting = [lane.running.pop(task.input_key) for task in result.tasks]
        for w in waiting:
            if w.limit:
                self.hosts.leave(w.limit)
        if result.entries is None:
            self._lost(lane, waiting, result)
            return
        for w, entry in zip(waiting, result.entries, strict=True):
            lane.timed(entry)
            self._judge(lane, w, stamped(entry, w, lane))

    def _judge(self, lane: Lane, waiting: Waiting, entry: Entry) -> None:
        """Try a unit again or record how it ended; learn from it about its host and its stage."""
        if self.observer is not None:
            self.observer.unit(waiting.unit, entry)
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
        self.tally.worked_on(lane.step.name, entry)
        self._settle(waiting.unit, entry)
        self.buckets.count_live(waiting.unit, -1)
        self.trees.closed(waiting.unit)

    def _lost(self, lane: Lane, waiting: list[Waiting], result: Result) -> None:
        """A worker died."""
        if result.lost == "node":
            self._on_note(f"a node was lost: {lane.step.name} does {len(waiting)} units again, elsewhere")
        for w in waiting:
            entry = lane.lost(w, result, self.settings.run, self.clock)
            if entry is not None:
                self._judge(lane, w, entry)

    def _shards_when_quiet(self) -> bool:
        """Queue the shard of a changed bucket that no unit will add to for now; whether one was queued."""
        growing = self._feeding or not self.lanes["download"].is_idle
        return any(self._shard_when_quiet(bucket, growing=growing) for bucket in sorted(self.buckets.changed))

    def _shard_when_quiet(self, bucket: int, *, growing: bool) -> bool:
        lane, now_s = self.lanes["shards"], self.clock.monotonic_s()
        if lane.queue or lane.running or not self.buckets.is_due(bucket, now_s, growing=growing):
            return False
        if self.trees.holds(bucket):
            self.buckets.changed.remove(bucket)
            self.trees.intact.add(bucket)
            return False
        for source in self.trees.in_bucket(bucket):
            self._arrive(Unit("download", source))
        if self.buckets.live[bucket]:
            return True
        row = Bucket(bucket, self.publisher.n_buckets, self.buckets.rows(bucket))
        if growing and len(row.clips) < self.publisher.n_in(bucket):  # the others may be still to come
            self.buckets.wait(bucket, now_s)
            return False
        self.buckets.changed.remove(bucket)
        if not row.clips:
            self.trees.emptied(bucket)
        elif self._arrive(Unit("shards", row)):
            self.buckets.wait(bucket, now_s)
            return True
        return False

    def _housekeeping(self) -> None:
        now, n_finished = self.clock.monotonic_s(), sum(len(lane.finished) for lane in self.lanes.values())
        if self._engine and (n_finished >= FLUSH_ROWS or now - self._flushed_at > FLUSH_S):
            self._flush()
        if self._engine and now - self._space_checked_at > CHECK_SPACE_S:
            self.workspace.check_space(self.settings.run.min_free_gb)
            self._space_checked_at = now
        if self.observer is not None:
            self.observer.state(self)
        self._on_progress(self)

    def _flush(self) -> None:
        self.trees.before_the_ledger()
        for lane in self.lanes.values():
            lane.ledger.append(lane.finished, run_id=self.run_id)
            lane.finished = []
            if lane.ledger.is_crowded:
                lane.ledger.compact(self.run_id, self.trees.merged)
        self._flushed_at = self.clock.monotonic_s()
        self.trees.after_the_ledger(self._flushed_at)
