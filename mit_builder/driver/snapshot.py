"""A workspace as it stands: every source is followed through the steps, along what the ledger holds of it.

Looking and running share this: a unit to which the ledger has an answer hands its rows on at once; any other is left as
it is here, and is worked on where a run follows the sources (mit_builder/driver/runner.py). So `status` and `report`
see what the next run will see, and a resumed run costs one pass over the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from manifests.ids import new_run_id
from manifests.ledger import Entry
from manifests.rows import Bucket, Labelled, Source
from manifests.schema import content_hash
from mit_builder.config.settings import Settings
from mit_builder.dataset.publish import Publisher
from mit_builder.driver.counts import RunCounts
from mit_builder.driver.duplicates import Duplicates
from mit_builder.driver.finished_index import FROM_SOURCES
from mit_builder.driver.finished_sources import FinishedSources, open_finished_index
from mit_builder.driver.labelled_clips import LabelledClips
from mit_builder.driver.options import EVERYTHING, RunOptions
from mit_builder.driver.playlists import listed
from mit_builder.driver.retry_policy import Clock
from mit_builder.driver.session import settings_of
from mit_builder.driver.shard_plan import Buckets
from mit_builder.driver.step_queue import StepQueue, Waiting
from mit_builder.engine.base import Load
from mit_builder.engine.worker import Task
from mit_builder.errors import FailureClass
from mit_builder.labels.reviews import Reviews
from mit_builder.pipeline import Step, Unit, steps_of
from mit_builder.storage.damaged_files import Files
from mit_builder.storage.source_catalog import SourceCatalog, SourceList
from mit_builder.storage.tombstones import Tombstones
from mit_builder.storage.workspace import Workspace

MEET = ("download", "shots", "shards")
"""Steps at which a unit may arrive twice: as a source, as the video of two. What follows comes from one unit each."""

TELL_EVERY = 256
"""Sources after which a look says how far it is."""


class Snapshot:
    """What a workspace holds, once `follow` or `run` has gone over its sources; nothing is worked on or written.

    Args:
        workspace: what to look at.
        settings: those by which units are found in the ledger.
        run_id: of the run that this is part of; None makes one up.
        choice: which steps and failures are due.
        mends: whether damaged files will be made again; otherwise they are only named.
        on_settled: called with every unit whose outcome is known, and its ledger entry.
        on_note: called with a line when there is something to say.
        steps: the pipeline, None for that of the settings; tests put fakes into it.

    Attributes:
        tally: the counts.
        lanes: by step its ledger and what is queued.
        clips: the labelled clips.
        reviews: verdicts of people.
        failures: step and ledger entry of every failed unit.
        trees: sources whose whole way through the pipeline is known.
    """

    def __init__(
        self,
        workspace: Workspace,
        settings: Settings,
        *,
        run_id: str | None = None,
        choice: RunOptions = EVERYTHING,
        mends: bool = False,
        on_settled: Callable[[Unit, Entry], None] = lambda unit, entry: None,
        on_note: Callable[[str], None] = lambda line: None,
        steps: Sequence[Step] | None = None,
    ) -> None:
        self.workspace, self.settings, self.tally = workspace, settings, RunCounts()
        self.run_id = run_id or new_run_id()
        pipeline = steps or steps_of(settings)
        self.lanes = {s.name: StepQueue.of(s, settings, workspace, self.run_id, looks_only=not mends) for s in pipeline}
        written = self.lanes["shards"].written
        self.publisher = Publisher(workspace, settings.shards.n_buckets, written=written, tell=on_note)
        self._choice, self._mends, self._on_note, self._on_settled = choice, mends, on_note, on_settled
        self.clock, self._duplicates = Clock(), Duplicates()
        self._seen: dict[int, int] = {}  # hashes: by step and unit the input key that it came with last
        self.reviews, self.tombstones = Reviews(workspace), Tombstones.of(workspace)
        self.clips = LabelledClips(settings, self._duplicates, self.reviews)
        self.buckets = Buckets(self.publisher, self.clips)
        self.finished = FinishedSources(settings, self._duplicates, self.buckets, None)
        looks = {"mends": mends, "verify": choice.verify}
        self.files = Files(workspace, self.run_id, **looks, tell=on_note, expects=self.publisher.expects)
        self._feeding = True
        self.failures: list[tuple[str, Entry]] = []

    @classmethod
    def of(
        cls,
        workspace: Workspace,
        *,
        whole: bool = True,
        due_again: Collection[FailureClass] = (),
        on_settled: Callable[[Unit, Entry], None] = lambda unit, entry: None,
        on_note: Callable[[str], None] = lambda line: None,
        on_progress: Callable[[int, int], None] = lambda n, n_sources: None,
    ) -> Snapshot:
        """A workspace as its last run left it, with the settings of that run.

        Args:
            workspace: where to look.
            whole: follow every source; otherwise what is complete is only counted.
            due_again: failures of these classes are looked at one by one all the same.
            on_settled: called with every unit whose outcome is known, and its ledger entry.
            on_note: takes what there is to say, of damaged files for example.
            on_progress: takes how many sources of how many were followed so far.

        Raises:
            ConfigError: nothing was ever run here.
        """
        settings = settings_of(workspace, workspace.uri)
        sources = SourceCatalog(workspace).sources()
        found = cls(workspace, settings, on_settled=on_settled, on_note=on_note)
        if not whole and len(sources) >= FROM_SOURCES:
            found.skip_finished()
        found.follow(sources, due_again=due_again, on_progress=on_progress)
        return found

    def skip_finished(self) -> None:
        """From now on, `follow` skips the sources that earlier runs with this plan finished."""
        said = content_hash(sorted(map(repr, self.reviews.all())), self.tombstones.dump().decode())
        index = open_finished_index(self.workspace, self.settings, self.lanes, self.publisher, said)
        self.finished = FinishedSources(
            self.settings, self._duplicates, self.buckets, index, looks_only=not self._mends
        )

    def follow(
        self,
        sources: Iterable[Source],
        *,
        due_again: Collection[str] | None = None,
        on_progress: Callable[[int, int], None] = lambda n, n_sources: None,
    ) -> RunCounts:
        """Follow the sources through the steps.

        Args:
            sources: all sources of the workspace.
            due_again: classes of failures whose sources are not skipped; None = those that are tried again.
            on_progress: takes how many sources of how many were followed so far.
        """
        sources = list(sources) if not isinstance(sources, SourceList) else sources
        of = len(sources)
        feed = self._begin(sources, due_again)
        while self._is_busy() or self._shards_when_quiet():
            self._feed(feed, lambda: on_progress(self.tally.n_sources, of))
            self._shards_when_quiet()
        self._count_outcome()
        return self._end()

    def _begin(self, sources: Iterable[Source], due_again: Collection[str] | None = None) -> Iterator[Source]:
        if isinstance(sources, SourceList) and not (self._choice.forced or self._choice.verify):
            sources = self.finished.skip(sources, self._choice.retry if due_again is None else due_again)
        return iter(sources)

    def _count_outcome(self) -> set[int]:
        """Count what became of the clips and what was skipped; the buckets that hold clips of the dataset."""
        filled, self.tally.left_out = self.clips.outcome()
        self.finished.add_to(self.tally)
        return filled

    def _end(self) -> RunCounts:
        self.tally.n_dataset = self.publisher.n_clips
        self.files.end()
        for line in self.reviews.lines:
            self._on_note(line)
        return self.tally

    @property
    def load(self) -> Load:
        """What is used of what there is."""
        return Load(0.0, 0.0)

    def _is_busy(self) -> bool:
        return self._feeding or self._duplicates.n_held > 0 or not all(lane.is_idle for lane in self.lanes.values())

    def _feed(self, feed: Iterator[Source], tell: Callable[[], None] = lambda: None) -> None:
        while self._feeding and self.lanes["download"].has_room:
            source = next(feed, None)
            self._feeding = source is not None
            if source is not None:
                self.tally.n_sources += 1
                self._arrive(Unit("download", source))
                if self.tally.n_sources % TELL_EVERY == 0:
                    tell()
        for held in self._duplicates.let_in() if not self._feeding and self.lanes["download"].is_idle else ():
            self._settle(*held)

    def _arrive(self, unit: Unit) -> bool:
        """Hand a unit on or queue it; whether it was queued."""
        if self.tombstones.bars_any(unit.origins):
            self.finished.removed(unit, self.tally)
            return False
        if isinstance(unit.row, Labelled):
            self.finished.changed(self.buckets.take(unit.row))
            self.finished.labelled(unit.row)
            return False
        if unit.step == "download" and self.finished.skips(unit.row):
            return False
        lane = self.lanes[unit.step]
        task = Task(lane.stage.unit_id(unit.row), lane.key(unit.row, self.settings), unit.row)
        if unit.step in MEET:
            name, key = hash((unit.step, task.unit_id)), hash(task.input_key)
            if self._seen.get(name) == key:
                return False
            self._seen[name] = key
        entry = lane.ledger.find(task.unit_id, task.input_key)
        if entry is not None and not lane.is_due(entry, self._choice, self.files, self.clock.wall_s()):
            self._settle(unit, entry)
        elif self._takes(lane, Waiting(unit, task, lane.stage.limit_key(unit.row)), entry):
            return True
        elif entry is not None and entry.status == "failed":
            self._settle(unit, entry)
        else:
            self._leave(unit)
        return False

    def _takes(self, lane: StepQueue, waiting: Waiting, before: Entry | None) -> bool:
        """Whether a unit that is due will be worked on."""
        return False

    def _leave(self, unit: Unit) -> None:
        """Count a unit that this run does not work on; the shard it belongs to stays as it is."""
        self.tally.steps[unit.step].pending += 1
        self.buckets.count_live(unit, 1)
        self.finished.left(unit)

    def _settle(self, unit: Unit, entry: Entry) -> None:
        if unit.step == "download":
            for source in self.finished.same_video(entry):
                self._arrive(Unit("download", source))
            if self._duplicates.holds(unit, entry):
                return
            entry, demoted = self._duplicates.arrive(entry)
            for video in demoted:
                self.tally.demote(video)
                self.finished.changed(self.publisher.bucket(video.video_id))
            for held in self._duplicates.released(entry):
                self._settle(*held)
        self.tally.settle(unit.step, entry, self.settings.filter)
        self._on_settled(unit, entry)
        self.finished.count(unit, entry)
        if entry.status == "failed":
            self.failures.append((unit.step, replace(entry, traceback=None)))
        if entry.status != "done" and not listed(entry):
            return
        if unit.step == "shards":
            self.files.remove(self.publisher.take(entry.outputs, write=self._mends))
            self.buckets.written(unit.row.bucket, entry.duration_s)
        for follower in self.lanes[unit.step].step.route(self.settings, unit, entry.outputs):
            self._arrive(follower)

    def _shards_when_quiet(self) -> bool:
        """Queue the shard of a changed bucket that no unit will add to for now; whether one was queued."""
        growing = self._feeding or not self.lanes["download"].is_idle
        return any(self._shard_when_quiet(bucket, growing=growing) for bucket in sorted(self.buckets.changed))

    def _shard_when_quiet(self, bucket: int, *, growing: bool) -> bool:
        lane, now_s = self.lanes["shards"], self.clock.monotonic_s()
        if lane.queue or lane.running or not self.buckets.is_due(bucket, now_s, growing=growing):
            return False
        if self.finished.holds(bucket):
            self.buckets.changed.remove(bucket)
            self.finished.intact.add(bucket)
            return False
        for source in self.finished.in_bucket(bucket):
            self._arrive(Unit("download", source))
        if self.buckets.live[bucket]:
            return True
        row = Bucket(bucket, self.publisher.n_buckets, self.buckets.rows(bucket))
        if growing and len(row.clips) < self.publisher.n_in(bucket):  # the others may be still to come
            self.buckets.wait(bucket, now_s)
            return False
        self.buckets.changed.remove(bucket)
        if not row.clips:
            self.finished.emptied(bucket)
        elif self._arrive(Unit("shards", row)):
            self.buckets.wait(bucket, now_s)
            return True
        return False
