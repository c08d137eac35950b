"""Drives a run: where units that are due are worked on, what is recorded, what follows from them.

A run follows its sources as a look does (mit_builder/driver/snapshot.py), and works on what it finds due: units are
queued, and their rows are handed on when they are done. So stages overlap without a schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from manifests.ledger import Entry
from manifests.rows import Source
from mit_builder.config.settings import Settings
from mit_builder.driver.counts import RunCounts
from mit_builder.driver.event_log import Observer
from mit_builder.driver.host_limits import Hosts
from mit_builder.driver.options import EVERYTHING, RunOptions
from mit_builder.driver.playlists import with_earlier
from mit_builder.driver.shutdown import Stop
from mit_builder.driver.snapshot import Snapshot
from mit_builder.driver.step_queue import StepQueue, Waiting, stamped
from mit_builder.engine.base import Engine, Load, Result
from mit_builder.pipeline import Step
from mit_builder.storage.workspace import Workspace

FLUSH_ROWS, FLUSH_S = 256, 5.0
"""A ledger part is written after so many units or seconds (one part costs 8-17 ms)."""
CHECK_SPACE_S, SUSPECT_WAIT_S = 5.0, 1.0


class Runner(Snapshot):
    """One pass over the sources that works on what is due.

    Args:
        engine: where units are worked on.
        on_progress: called with this runner about every second.
        on_note: called with a line when a host or a stage is left alone for a while.
        steps: the pipeline, None for that of the settings; tests put fakes into it.

    Attributes:
        observer: told of every attempt and of how things stand.
    """

    def __init__(
        self,
        workspace: Workspace,
        settings: Settings,
        *,
        engine: Engine,
        run_id: str,
        choice: RunOptions = EVERYTHING,
        on_progress: Callable[[Runner], None] = lambda runner: None,
        on_note: Callable[[str], None] = lambda line: None,
        steps: Sequence[Step] | None = None,
    ) -> None:
        super().__init__(workspace, settings, run_id=run_id, choice=choice, mends=True, on_note=on_note, steps=steps)
        self.hosts = Hosts(settings.download)
        self._engine, self.stop = engine, Stop(0.0)
        self._on_progress = on_progress
        self.observer: Observer | None = None
        self._flushed_at = self._space_checked_at = self.clock.monotonic_s()

    def run(self, sources: Iterable[Source]) -> RunCounts:
        """Follow the sources and work until nothing is due.

        Raises:
            CannotContinue: the disk is full.
        """
        feed = self._begin(sources)
        try:
            while True:
                self._feed(feed)
                self._admit()
                self._shards_when_quiet()
                self._absorb_all()
                self._housekeeping()
                self.stop.check(is_working=any(lane.running for lane in self.lanes.values()))
                if not self._is_busy() and not self._shards_when_quiet():
                    break
        finally:
            self.lanes["download"].finished += self._duplicates.changed_verdicts()
            self._flush()
        filled = self._count_outcome()
        if "shards" in self._choice.steps:
            # Where units are pending nobody knows what a bucket will hold: what is published stays.
            self.publisher.finish(filled | self.finished.intact if self.tally.pending == 0 else None)
        return self._end()

    @property
    def load(self) -> Load:
        """What is used of what there is."""
        return self._engine.load()

    def _takes(self, lane: StepQueue, waiting: Waiting, before: Entry | None) -> bool:
        if lane.step.name not in self._choice.steps:
            return False
        self.buckets.count_live(waiting.unit, 1)
        self.finished.opened(waiting.unit, again=before is not None)
        lane.enqueue(waiting, before, self.settings.run, self.clock, self._choice)
        return True

    def _admit(self) -> None:
        """Start what fits, from the last step backwards, so that work in progress drains first."""
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

    def _take(self, lane: StepQueue, now_s: float) -> list[Waiting]:
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

    def _goes_out(self, lane: StepQueue, waiting: Waiting, host: str, now_s: float) -> bool:
        """Whether a unit may go to its host now; where not, it is queued again, put off or left to another run."""
        closed = self.hosts.closed(host)
        if closed:
            self._abandon(lane, waiting)
            self.tally.held_back[lane.step.name, closed] += 1
            return False
        return self.hosts.starts(host, now_s, lane, waiting)

    def _abandon(self, lane: StepQueue, waiting: Waiting) -> None:
        """This run does not work on a queued unit after all: it stays as it was."""
        self.buckets.count_live(waiting.unit, -1)
        self.finished.closed(waiting.unit)
        if waiting.outcome is None:
            self._leave(waiting.unit)
        else:
            self._settle(waiting.unit, waiting.outcome)
        if waiting.answer is not None:
            self.tally.steps[lane.step.name].stays_due()
            self.finished.left(waiting.unit)

    def _give_up(self, lane: StepQueue, problem: str, why: dict[str, str]) -> None:
        for waiting in lane.drain():
            self._abandon(lane, waiting)
            why[lane.step.name] = problem

    def _absorb_all(self) -> None:
        """Take in what the engine has; wait for it, or for the time at which something may start again."""
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

    def _judge(self, lane: StepQueue, waiting: Waiting, entry: Entry) -> None:
        """Try a unit again or record how it ended; learn from it about its host and its stage."""
        if self.observer is not None:
            self.observer.unit(waiting.unit, entry)
        if entry.damaged:
            self.files.found(entry.damaged)
            waiting.last = None
            self._abandon(lane, waiting)
            return
        now_s, entry = self.clock.monotonic_s(), with_earlier(entry, waiting.before)
        lines = [lane.learn(entry, self.settings.run, now_s)]
        if waiting.limit:
            lines.append(self.hosts.learn(waiting.limit, entry, now_s))
        for line in filter(None, lines):
            self._on_note(line)
        if not lane.tries_again(waiting, entry, self.settings.run, now_s):
            self._record(lane, waiting, entry)

    def _record(self, lane: StepQueue, waiting: Waiting, entry: Entry) -> None:
        entry = replace(entry, outputs=self.tombstones.allowed(entry.outputs))
        self.tally.worked_on(lane.step.name, entry)
        if entry.status == "failed" and waiting.answer is not None:  # a file of it is gone: it stays due, in the ledger
            self.failures.append((lane.step.name, replace(entry, traceback=None)))
            self._on_note(f"{entry.unit_id} failed, what was made of it before stays: {entry.message}")
            self._settle(waiting.unit, waiting.answer)
            self.tally.kept(lane.step.name, entry)
            self.finished.left(waiting.unit)
        else:
            lane.finished.append(entry)
            self._settle(waiting.unit, entry)
        self.buckets.count_live(waiting.unit, -1)
        self.finished.closed(waiting.unit)

    def _lost(self, lane: StepQueue, waiting: list[Waiting], result: Result) -> None:
        """A worker died or fell silent."""
        for line in lane.news_of(result):
            self._on_note(line)
        for w in waiting:
            entry = lane.lost(w, result, self.settings.run, self.clock)
            if entry is not None:
                self._judge(lane, w, entry)

    def _housekeeping(self) -> None:
        now, n_finished = self.clock.monotonic_s(), sum(len(lane.finished) for lane in self.lanes.values())
        if n_finished >= FLUSH_ROWS or now - self._flushed_at > FLUSH_S:
            self._flush()
        if now - self._space_checked_at > CHECK_SPACE_S:
            self.workspace.check_space(self.settings.run.min_free_gb)
            self._space_checked_at = now
        if self.observer is not None:
            self.observer.state(self.lanes, self.load)
        self._on_progress(self)

    def _flush(self) -> None:
        self.finished.before_the_ledger()
        for lane in self.lanes.values():
            lane.ledger.append(lane.finished, run_id=self.run_id)
            lane.finished = []
            if lane.ledger.is_crowded:
                lane.ledger.compact(self.run_id, self.finished.merged)
        self._flushed_at = self.clock.monotonic_s()
        self.finished.after_the_ledger(self._flushed_at)
