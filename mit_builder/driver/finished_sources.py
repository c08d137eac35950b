"""What a run learns about each source as a whole: its video, and all units that follow from it.

Where nothing of a source is due any more, it becomes a row that lets later runs skip it
(mit_builder/driver/finished_index.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from manifests.ids import id_of
from manifests.ledger import Entry
from manifests.rows import Bucket, Labelled, Shard, Source, Video
from manifests.schema import artifacts, content, content_hash
from mit_builder.config.section import Section
from mit_builder.config.settings import Settings
from mit_builder.dataset.publish import Publisher
from mit_builder.driver.counts import Count, RunCounts
from mit_builder.driver.duplicates import Duplicates
from mit_builder.driver.finished_index import FinishedIndex
from mit_builder.driver.finished_store import File, Published, Row
from mit_builder.driver.playlists import listed
from mit_builder.driver.shard_plan import Buckets
from mit_builder.driver.step_queue import StepQueue
from mit_builder.pipeline import Unit
from mit_builder.storage.damaged_files import ended_s
from mit_builder.storage.source_catalog import SourceList
from mit_builder.storage.tombstones import REMOVED
from mit_builder.storage.workspace import Workspace
from mit_builder.version import __version__

LASTING = frozenset(("permanent", "poison"))
"""Failures that are tried again only when somebody asks for it."""
WRITE_ROWS, WRITE_S = 128, 60.0
"""Rows are written after so many sources or seconds, and at the end."""


@dataclass
class _VideoState:
    """All units of one video together."""

    tally: RunCounts = field(default_factory=RunCounts)
    artifacts: list[File] = field(default_factory=list)
    clips: list[str] = field(default_factory=list)
    n_open: int = 0
    is_due: bool = False
    """Whether something is left to another run."""


def clip_digest(row: Labelled) -> int:
    """64 bits over everything that the dataset's row of a clip is made from."""
    return id_of(content_hash(content(row, everything=True)))


class FinishedSources:
    """The sources of one run, and which of them are finished.

    Args:
        index: None = no source is skipped and nothing is written about any.
        looks_only: sources are skipped, but nothing is written.
    """

    def __init__(
        self,
        settings: Settings,
        duplicates: Duplicates,
        buckets: Buckets,
        index: FinishedIndex | None,
        *,
        looks_only: bool = False,
    ) -> None:
        self._settings = settings
        self._duplicates = duplicates
        self._buckets = buckets
        self._index = index
        self._keeps = index is not None and not looks_only
        self._videos: dict[str, _VideoState] = {}
        self._downloads: dict[str, tuple[Source, Entry]] = {}
        self._written_at_s = 0.0
        self.intact: set[int] = set()
        """Shards that are as they should be, with clips of skipped sources."""

    def _state(self, unit: Unit) -> _VideoState | None:
        if not self._keeps or unit.video is None:
            return None
        return self._videos.setdefault(unit.video.video_id, _VideoState())

    def skip(self, sources: SourceList, avoid: Collection[str]) -> SourceList:
        """Skip finished sources; the others are returned."""
        if self._index is None:
            return sources
        left = self._index.choose(sources, avoid)
        published, totals = self._index.published, self._index.totals()
        self.intact = {b for b, total in totals.items() if self._is_published(b, total)}
        self._buckets.changed |= (published.keys() | totals.keys()) - self.intact
        return left

    def skips(self, source: Source) -> bool:
        """Whether a source that a playlist holds is skipped."""
        bucket = self._index.arrives(source.source_id) if self._index else None
        if bucket is not None and bucket >= 0:
            self.changed(bucket)
        return bucket is not None

    def same_video(self, entry: Entry) -> list[Source]:
        """Sources skipped so far that have the video of a download: they can be skipped no more."""
        video = next((row for row in entry.outputs if isinstance(row, Video)), None)
        if self._index is None or video is None:
            return []
        return self._index.same_video(video.video_id, video.media.sha256)

    def in_bucket(self, bucket: int) -> list[Source]:
        """Sources skipped so far with clips in a shard that has to be written: they can be skipped no more."""
        return [] if self._index is None else self._index.in_bucket(bucket)

    def holds(self, bucket: int) -> bool:
        """Whether a shard with clips of skipped sources holds just the clips that it should."""
        if self._index is None or not self._index.has_part_in(bucket):
            return False
        others = sum(clip_digest(row) for row in self._buckets.rows(bucket))
        return self._is_published(bucket, (self._index.total(bucket) + others) % 2**64)

    def _is_published(self, bucket: int, total: int) -> bool:
        """Whether the file of a shard looks whole, and the digests of the clips in it have this sum."""
        known = self._index.published.get(bucket) if self._index else None
        return known is not None and known.total == total and self._buckets.publisher.is_as_written(bucket, *known.file)

    def changed(self, bucket: int) -> None:
        """A clip has come into a shard, or left it."""
        self._buckets.changed.add(bucket)
        self.intact.discard(bucket)

    def opened(self, unit: Unit, *, again: bool) -> None:
        """A unit is due; `again` where the ledger had an answer to it."""
        state = self._state(unit)
        if state is not None:
            state.n_open += 1
        if again:
            self._touch(unit)

    def _touch(self, unit: Unit) -> None:
        if self._index is not None and self._keeps and unit.step != "shards":
            self._index.touch(unit.row.source_id if unit.video is None else unit.video.source_id)

    def closed(self, unit: Unit) -> None:
        """A unit that was due is no longer."""
        state = self._state(unit)
        if state is not None:
            state.n_open -= 1

    def left(self, unit: Unit) -> None:
        """A unit is left to another run."""
        state = self._state(unit)
        if state is not None:
            state.is_due = True
        if unit.step == "download":  # what holds its video has no row then either
            self._downloads.pop(unit.row.source_id, None)
        self._touch(unit)

    def removed(self, unit: Unit, tally: RunCounts) -> None:
        """A unit is of what was taken down."""
        tally.steps[unit.step].rejected[REMOVED] += 1
        state = self._state(unit)
        if state is not None:
            state.tally.steps[unit.step].rejected[REMOVED] += 1

    def labelled(self, row: Labelled) -> None:
        """A clip has all its labels."""
        if self._keeps:
            self._videos[row.video.video_id].clips.append(row.clip.clip_id)

    def count(self, unit: Unit, entry: Entry) -> None:
        """A unit has an answer."""
        if not self._keeps:
            return
        if unit.step == "download":
            self._downloads[entry.unit_id] = (unit.row, entry)
        elif unit.step == "shards":
            self._published(unit.row, entry)
        elif (state := self._state(unit)) is not None:
            state.tally.settle(unit.step, entry, self._settings.filter)
            state.artifacts += _files(entry)
            state.is_due |= entry.status == "failed" and entry.failure_class not in LASTING

    def _published(self, bucket: Bucket, entry: Entry) -> None:
        assert self._index is not None
        for shard in (row for row in entry.outputs if isinstance(row, Shard)):
            total = sum(map(clip_digest, bucket.clips)) % 2**64
            file = File(shard.parquet.key, shard.parquet.n_bytes, ended_s(entry))
            self._index.published[bucket.bucket] = Published(total, file)

    def emptied(self, bucket: int) -> None:
        """A shard has no clips any more."""
        if self._index is not None:
            self._index.published.pop(bucket, None)

    def merged(self, old: list[str], new: list[str]) -> None:
        """Parts of a ledger were merged and are about to go."""
        if self._index is not None:
            self._index.merged(old, new)

    def before_the_ledger(self) -> None:
        """Called when entries are about to be written."""
        if self._index is not None:
            self._index.write_gone()

    def after_the_ledger(self, now_s: float) -> None:
        """Called when entries were written: sources that are finished by now may be written to the index."""
        if self._index is None or now_s - self._written_at_s < WRITE_S:
            return
        self._written_at_s = now_s
        self._collect()
        if self._index.n_waiting >= WRITE_ROWS:
            self._index.write(self._buckets.publisher.digest, at_rest=False)

    def at_the_end(self) -> None:
        """Write every finished source to the index, once nothing is worked on and all entries are written."""
        if self._index is not None:
            self._collect()
            self._index.write(self._buckets.publisher.digest, at_rest=True)

    def add_to(self, tally: RunCounts) -> None:
        """Add what the skipped sources hold to the counts of a run."""
        if self._index is not None:
            self._index.add_to(tally)
            tally.n_sources += self._index.n_listed
            self.intact = {bucket for bucket in self.intact if not self._buckets.live[bucket]}
            tally.steps["shards"].done += len(self.intact)

    @property
    def n_skipped(self) -> int:
        """How many sources are skipped."""
        return 0 if self._index is None else int(self._index.chosen.sum())

    @property
    def plan(self) -> int:
        """Hash of all that the keys of units depend on besides their rows; 0 where nothing is skipped."""
        return 0 if self._index is None else self._index.plan

    def _collect(self) -> None:
        assert self._index is not None
        for source_id in list(self._downloads):
            for row in self._rows(source_id):
                self._index.add(row)

    def _rows(self, source_id: str) -> Iterator[Row]:
        """The rows of a source and of all others with its video, once all of them are finished."""
        if source_id not in self._downloads:
            return
        source, entry = self._downloads[source_id]
        video = next((row for row in entry.outputs if isinstance(row, Video)), None)
        if video is not None:
            yield from self._group(video)
        elif not listed(entry) and (
            entry.status == "rejected" or (entry.status == "failed" and entry.failure_class in LASTING)
        ):
            del self._downloads[source_id]
            tally = RunCounts()
            tally.settle("download", entry, self._settings.filter)
            yield Row(source, failed=_classes(tally), counts=tuple(tally.counts()))

    def _group(self, video: Video) -> Iterator[Row]:
        assert self._index is not None
        entries = self._duplicates.group(video)
        members = [entry.unit_id for entry in entries]
        if not all(member in self._downloads for member in members):
            # The row of one was written before another source turned out to have the same video.
            for member in members:
                self._index.touch(member)
                self._downloads.pop(member, None)
            return
        state = self._videos.get(video.video_id, _VideoState())
        videos = [next(row for row in entry.outputs if isinstance(row, Video)) for entry in entries]
        alike = {(v.video_id, v.media.sha256) for v in videos}
        if state.n_open or state.is_due or len(alike) > 1:
            return
        self._videos.pop(video.video_id, None)
        keeper = min(members)
        for entry, own in zip(entries, videos, strict=True):
            source, _ = self._downloads.pop(entry.unit_id)
            yield self._row(source, own, entry, keeper, len(entries), state)

    def _row(self, source: Source, video: Video, entry: Entry, keeper: str, n: int, state: _VideoState) -> Row:
        plain = Row(source, id_of(video.video_id), id_of(video.media.sha256), id_of(keeper), n)
        if source.source_id != keeper:
            count = Count("rejected/download/duplicate", 1)
            return replace(plain, counts=(count,), artifacts=tuple(_files(entry)))
        bucket = self._buckets.publisher.bucket(video.video_id)
        clips = list(self._buckets.clips.some(bucket, state.clips, video.media.sha256))
        kept = [row for row, reason in clips if reason is None]
        counts = [Count("done/download", 1), Count("videos", 1, video.duration_s), *state.tally.counts()]
        reasons = Counter(reason for _, reason in clips if reason is not None)
        counts += [Count(f"left_out/{reason}", n) for reason, n in reasons.items()]
        return replace(
            plain,
            bucket=bucket if kept else -1,
            digest=sum(map(clip_digest, kept)) % 2**64,
            failed=_classes(state.tally),
            counts=tuple(counts),
            artifacts=(*_files(entry), *state.artifacts),
        )


def open_finished_index(
    workspace: Workspace,
    settings: Settings,
    lanes: Mapping[str, StepQueue],
    publisher: Publisher,
    people_said: str = "",
) -> FinishedIndex:
    """The index of the sources that earlier runs finished; the ledgers learn from it which of their parts are whole.

    Args:
        workspace: where to look.
        settings: of this run.
        lanes: its steps.
        publisher: knows the shards of the dataset.
        people_said: hash of what people decided about clips and videos.
    """
    said = {name: getattr(settings, name) for name in type(settings).model_fields}
    read = {name: s.key_values() for name, s in said.items() if isinstance(s, Section) and name != "plugins"}
    read |= {lane.step.name: lane.step.settings(settings).key_values() for lane in lanes.values() if lane.step.identity}
    made = [(lane.step.name, lane.step.stage, lane.stage.version, lane.backend) for lane in lanes.values()]
    plan = content_hash(__version__, made, read, settings.filter.run_s, publisher.n_buckets, people_said)
    index = FinishedIndex(workspace, plan, [lane.ledger.folder for lane in lanes.values()], publisher.digest)
    for lane in lanes.values():
        lane.ledger.trusted = index.trusted
    return index


def _files(entry: Entry) -> list[File]:
    named = (artifact for row in entry.outputs for artifact in artifacts(row))
    return [File(artifact.key, artifact.n_bytes, ended_s(entry)) for artifact in named]


def _classes(tally: RunCounts) -> tuple[str, ...]:
    return tuple(sorted({name for step in tally.steps.values() for name in step.failed}))
