"""Drives a run: which units are due, where they run, what is recorded, what follows from them.

One walk does planning and execution alike: every source arrives as a unit of `download`; a unit that the ledger has
settled hands its rows on at once, any other is queued, and its rows are handed on when it is done. So a resumed run
costs one pass over the ledger, and stages overlap without a schedule.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from manifests.ledger import Entry, Ledger
from manifests.rows import Bucket, Labelled, Shard, Source, Video, artifacts, content, content_hash
from mit_builder.config import Settings
from mit_builder.engine import Engine, Result
from mit_builder.pipeline import STEPS, Step, Unit, left_out
from mit_builder.publish import Publisher
from mit_builder.stage import Stage
from mit_builder.tally import Tally
from mit_builder.worker import Task, WorkerSpec
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
        retry_failed: also retry permanent and poison failures.
    """

    steps: frozenset[str] = frozenset(step.name for step in STEPS)
    forced: frozenset[str] = frozenset()
    retry_failed: bool = False


@dataclass
class _Waiting:
    unit: Unit
    task: Task
    limit: str | None
    attempts: int = 0
    alone: bool = False


@dataclass
class _Lane:
    """One step with everything the driver keeps about it."""

    step: Step
    stage: Stage[Any]
    ledger: Ledger
    settings_key: str
    backend: str
    queue: deque[_Waiting] = field(default_factory=deque)
    running: dict[str, _Waiting] = field(default_factory=dict)
    finished: list[Entry] = field(default_factory=list)


def worker_specs(
    settings: Settings, workspace: Workspace, run_id: str, steps: Sequence[Step] = STEPS
) -> dict[str, WorkerSpec]:
    """How a worker of each step is built."""
    return {s.name: WorkerSpec(s.stage, s.settings(settings), workspace.uri, run_id) for s in steps}


class Runner:
    """One walk over the sources.

    Args:
        engine: None = look only, nothing is worked on or written (`mit-build status`).
        on_progress: called with this runner about every second.
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
        steps: Sequence[Step] = STEPS,
    ) -> None:
        self.workspace = workspace
        self.settings = settings
        self.run_id = run_id
        self.tally = Tally()
        self.lanes = {step.name: self._lane(step) for step in steps}
        self.publisher = Publisher(workspace, settings.shards.n_buckets)
        self._choice = choice
        self._engine = engine
        self._on_progress = on_progress
        self._seen: dict[tuple[str, str], str] = {}
        self._videos: dict[str, Video] = {}
        self._copies: dict[str, list[Entry]] = defaultdict(list)
        self._labelled: dict[int, dict[str, Labelled]] = defaultdict(dict)
        self._changed: set[int] = set()
        self._live: Counter[int] = Counter()
        self._feeding = True
        self._existing: dict[str, set[str]] = {}
        self._limits: Counter[str] = Counter()
        self._flushed_at = self._space_checked_at = time.monotonic()
        self._written_at: dict[int, float] = {}
        self.failures: list[tuple[str, Entry]] = []

    def _lane(self, step: Step) -> _Lane:
        section = step.settings(self.settings)
        stage = WorkerSpec(step.stage, section, self.workspace.uri, self.run_id).load()
        ledger = Ledger(self.workspace, step.name, stage.emits)
        return _Lane(step, stage, ledger, content_hash(section.model_dump(mode="json")), stage.backend())

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
                for result in self._engine.wait(1.0) if self._engine else ():
                    self._absorb(result)
                self._housekeeping()
                if not self._busy() and not self._shards_when_quiet():
                    break
        finally:
            if self._engine is not None:
                self.lanes["download"].finished += self._changed_verdicts()
            self._flush()
        if self._engine and "shards" in self._choice.steps:
            # Where units are pending nobody knows what a bucket will hold: what is published stays.
            filled = {bucket for bucket, clips in self._labelled.items() if any(self._kept(clips))}
            self.publisher.finish(filled if self.tally.pending == 0 else None)
        reasons = (left_out(self.settings, row) for clips in self._labelled.values() for row in self._current(clips))
        self.tally.left_out = Counter(reason for reason in reasons if reason)
        self.tally.n_dataset = self.publisher.n_clips
        return self.tally

    def labelled(self) -> list[Labelled]:
        """Every clip that has gone through speech and is not left out."""
        return [row for clips in self._labelled.values() for row in self._kept(clips)]

    def _busy(self) -> bool:
        return self._feeding or any(lane.queue or lane.running for lane in self.lanes.values())

    def _feed(self, feed: Iterator[Source]) -> None:
        while self._feeding and len(self.lanes["download"].queue) < QUEUE_BOUND:
            source = next(feed, None)
            if source is None:
                self._feeding = False
            else:
                self.tally.n_sources += 1
                self._arrive(Unit("download", source))

    def _key(self, lane: _Lane, row: Any) -> str:
        settings = lane.step.settings(self.settings).key_values()
        what = content(row, everything=isinstance(row, Bucket))
        return content_hash(lane.step.name, lane.stage.version, settings, lane.backend, what)

    def _arrive(self, unit: Unit) -> bool:
        """Hand a unit on or queue it; whether it was queued."""
        if isinstance(unit.row, Labelled):
            bucket = self.publisher.bucket(unit.row.video.video_id)
            self._labelled[bucket][unit.row.clip.clip_id] = unit.row
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
            lane.queue.append(_Waiting(unit, task, lane.stage.limit_key(unit.row)))
            self._count_live(unit, 1)
            return True
        elif entry is not None and entry.status == "failed":
            self._settle(unit, entry)
        else:
            self._leave(unit)
        return False

    def _leave(self, unit: Unit) -> None:
        """Count a unit that this run does not work on; the shard it belongs to stays as it is."""
        self.tally.steps[unit.step].pending += 1
        self._count_live(unit, 1)

    def _due(self, lane: _Lane, entry: Entry) -> bool:
        if lane.step.name in self._choice.forced:
            return True
        if entry.status == "failed":
            if entry.failure_class == "auth":
                return self._choice.retry_failed or entry.settings_key != lane.settings_key
            return self._choice.retry_failed or entry.failure_class in ("transient", "resource")
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
        """Of several sources with one video, the smallest source_id keeps it, whatever the order of the list."""
        video = next((row for row in entry.outputs if isinstance(row, Video)), None)
        if video is None:
            return entry
        known = self._videos.get(video.video_id)
        self._copies[video.video_id].append(entry)
        if known and known.source_id < video.source_id:
            return _verdict(entry, duplicate_of=known.source_id)
        self._videos[video.video_id] = video
        if known:
            self.tally.demote(known)
            self._changed.add(self.publisher.bucket(video.video_id))
        return _verdict(entry, duplicate_of=None)

    def _changed_verdicts(self) -> Iterator[Entry]:
        """Downloads that are duplicates, or no longer: known for sure only when all sources have arrived."""
        for video_id, entries in self._copies.items():
            keeper = self._videos[video_id].source_id
            for entry in entries:
                changed = _verdict(entry, duplicate_of=None if entry.unit_id == keeper else keeper)
                if changed != entry:
                    yield changed

    def _admit(self) -> None:
        """Start what fits, from the last step backwards, so that work in progress drains first."""
        if self._engine is None:
            return
        blocked = False
        for lane in reversed(list(self.lanes.values())):
            while lane.queue and not blocked and self._engine.offer(lane.step.name):
                batch = self._take(lane)
                if not batch:
                    break
                lane.running.update({w.task.unit_id: w for w in batch})
                self._engine.submit(lane.step.name, [w.task for w in batch])
            blocked = blocked or len(lane.queue) >= QUEUE_BOUND
        for name, problem in self._engine.unavailable().items():
            self._give_up(self.lanes[name], problem)

    def _take(self, lane: _Lane) -> list[_Waiting]:
        batch: list[_Waiting] = []
        for _ in range(len(lane.queue)):
            waiting = lane.queue.popleft()
            if waiting.limit and self._limits[waiting.limit] >= self.settings.download.per_host:
                lane.queue.append(waiting)
                continue
            if waiting.limit:
                self._limits[waiting.limit] += 1
            batch.append(waiting)
            if waiting.alone or len(batch) >= lane.stage.resources.batch or (lane.queue and lane.queue[0].alone):
                break
        return batch

    def _give_up(self, lane: _Lane, problem: str) -> None:
        while lane.queue:
            waiting = lane.queue.popleft()
            self._count_live(waiting.unit, -1)
            self._leave(waiting.unit)
            self.tally.unavailable[lane.step.name] = problem

    def _absorb(self, result: Result) -> None:
        lane = self.lanes[result.stage]
        waiting = [lane.running.pop(task.unit_id) for task in result.tasks]
        for w in waiting:
            if w.limit:
                self._limits[w.limit] -= 1
        if result.entries is None:
            self._lost(lane, waiting, result)
            return
        for w, entry in zip(waiting, result.entries, strict=True):
            self._record(lane, w, replace(entry, attempts=w.attempts + 1))

    def _record(self, lane: _Lane, waiting: _Waiting, entry: Entry) -> None:
        entry = replace(entry, settings_key=lane.settings_key)
        lane.finished.append(entry)
        for artifact in (a for row in entry.outputs for a in artifacts(row)):
            self._exists(artifact.key)
            self._existing[artifact.key.partition("/")[0]].add(artifact.key)
        self.tally.worked_on(lane.step.name, entry)
        self._settle(waiting.unit, entry)
        self._count_live(waiting.unit, -1)

    def _lost(self, lane: _Lane, waiting: list[_Waiting], result: Result) -> None:
        """A worker died. Only a unit that was alone with it can be blamed, and not for the loss of a node."""
        for w in waiting:
            blamed = len(waiting) == 1 and result.lost != "node"
            w.attempts += blamed
            if w.attempts < self.settings.run.max_crashes:
                w.alone = True
                lane.queue.append(w)
                continue
            memory = result.lost == "memory"
            entry = Entry(
                unit_id=w.task.unit_id,
                input_key=w.task.input_key,
                status="failed",
                failure_class="resource" if memory else "poison",
                message=f"the worker died {w.attempts} times: {result.message}",
                attempts=w.attempts,
                started_at_s=time.time(),
            )
            self._record(lane, w, entry)

    def _shards_when_quiet(self) -> bool:
        """Queue the shards of changed buckets that no unit will add to for now; whether any was queued."""
        lane = self.lanes["shards"]
        downloads = self.lanes["download"]
        growing = self._feeding or bool(downloads.queue or downloads.running)
        queued = False
        for bucket in sorted(self._changed):
            recent = time.monotonic() - self._written_at.get(bucket, -PUBLISH_S) < PUBLISH_S
            if self._live[bucket] or (growing and recent) or lane.queue or lane.running:
                continue
            self._changed.remove(bucket)
            row = Bucket(bucket, self.publisher.n_buckets, tuple(self._kept(self._labelled.get(bucket, {}))))
            if row.clips and self._arrive(Unit("shards", row)):
                self._written_at[bucket] = time.monotonic()
                queued = True
        return queued

    def _current(self, clips: dict[str, Labelled]) -> Iterator[Labelled]:
        for _, row in sorted(clips.items()):
            video = self._videos[row.video.video_id]
            if video.media.sha256 == row.video.media.sha256:
                yield replace(row, video=video)

    def _kept(self, clips: dict[str, Labelled]) -> Iterator[Labelled]:
        return (row for row in self._current(clips) if left_out(self.settings, row) is None)

    def _publish(self, entry: Entry) -> None:
        for row in entry.outputs:
            if isinstance(row, Shard):
                self.publisher.add(row, write=self._engine is not None)

    def _housekeeping(self) -> None:
        now = time.monotonic()
        rows = sum(len(lane.finished) for lane in self.lanes.values())
        if rows >= FLUSH_ROWS or now - self._flushed_at > FLUSH_S:
            self._flush()
        if self._engine and now - self._space_checked_at > CHECK_SPACE_S:
            self.workspace.check_space(self.settings.run.min_free_gb)
            self._space_checked_at = now
        self._on_progress(self)

    def _flush(self) -> None:
        for lane in self.lanes.values():
            lane.ledger.append(lane.finished, run_id=self.run_id)
            lane.finished = []
        self._flushed_at = time.monotonic()


def _verdict(entry: Entry, *, duplicate_of: str | None) -> Entry:
    """A download's entry as rejected duplicate of another source, or as done."""
    if duplicate_of is None:
        return replace(entry, status="done", reason=None, message=None)
    return replace(entry, status="rejected", reason="duplicate", message=f"same video as source {duplicate_of}")
