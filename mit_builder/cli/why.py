"""`mit-build why`: what happened to a source, a video or a clip at each step, and what became of its clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer

from manifests.ledger import Entry
from manifests.rows import Candidate, Pose, Video
from manifests.signatures import unsigned
from mit_builder.cli import options
from mit_builder.cli.options import DEFAULT_WORKSPACE, WorkspaceOption
from mit_builder.config import settings as config
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.console.waiting import waiting
from mit_builder.console.wording import counted
from mit_builder.dataset.index import FOLDER, bucket_of, parse_index
from mit_builder.dataset.publish import INDEX_KEY
from mit_builder.driver.counts import misses
from mit_builder.driver.listing import is_called
from mit_builder.driver.retry_policy import advice
from mit_builder.engine.specs import ledger_of
from mit_builder.errors import ConfigError
from mit_builder.labels.reviews import Reviews
from mit_builder.pipeline import left_out, steps_of
from mit_builder.removal.takedown import is_removed
from mit_builder.storage.settings_file import last_settings
from mit_builder.storage.source_catalog import SourceCatalog
from mit_builder.storage.tombstones import Tombstones
from mit_builder.storage.workspace import Workspace, existing

LABELLED_BY = ("filter.cut", "pose", "speech")
"""Steps whose units are clips; a clip that has gone through all of them has its labels."""


@dataclass
class _Found:
    """What the ledger holds of the names that were asked for."""

    candidates: dict[str, Candidate] = field(default_factory=dict)
    steps: dict[tuple[str, str], Entry] = field(default_factory=dict)
    """By step and clip."""
    duplicates: dict[str, str] = field(default_factory=dict)
    """By video the message of the download that was a duplicate, where no other download has the video."""


def why(
    unit: Annotated[str, typer.Argument(metavar="ID", help="Source, video or clip id, or an address.")],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
) -> None:
    """The story of one source, video or clip: what happened at each step, and why."""
    space = existing(workspace)
    with waiting("reading the ledger") as shown:
        for line in _story(space, unit, tracebacks=options.is_debugging()):
            shown.say(line)


def _story(workspace: Workspace, wanted: str, *, tracebacks: bool) -> Iterator[str]:
    book = SourceCatalog(workspace)
    copies = book.copies()
    sources = [source for source in book.sources() if is_called(source, wanted, copies)]
    names = {wanted, *(s.source_id for s in sources)}
    for source in sources:
        yield f"source {source.source_id}: {unsigned(source.address)}"
    found, any_entry, settings = _Found(), False, last_settings(workspace) or config.Settings()
    for step in steps_of(settings):
        for entry in ledger_of(workspace, step.name, settings).newest(_may_be_about(step.name, names)):
            if not (entry.unit_id in names or _about(entry.unit_id, entry, names)):
                continue
            any_entry = True
            if entry.unit_id in names:
                names |= {row.video_id for row in entry.outputs if isinstance(row, Video)}
            yield from _tell(step.name, entry, names, settings, tracebacks=tracebacks)
            _take(found, step.name, entry, names)
    if is_removed(workspace, wanted):
        yield f"{wanted}: removed: taken down, so it is neither fetched nor built again"
    elif not (any_entry or sources):
        raise ConfigError(f"nothing named {wanted} here; {hints.say(Hint.VIDEOS)} shows what there is")
    yield from _fates(workspace, found)


def _may_be_about(step: str, names: Collection[str]) -> Callable[[str], bool]:
    """Whether a unit of a step is worth a look; after download, what is of a video is named after it."""
    videos = {name.partition("_")[0] for name in names}
    return lambda unit_id: step == "download" or unit_id.partition("_")[0] in videos


def _about(unit_id: str, entry: Entry, names: set[str]) -> bool:
    if any(unit_id.startswith(f"{name}_") or name.startswith(f"{unit_id}_") for name in names):
        return True
    videos = {name.partition("_")[0] for name in names}
    if any(isinstance(row, Video) and row.video_id in videos for row in entry.outputs):
        return True
    rows = (vars(row) for row in entry.outputs)
    return any(row.get("clip_id") in names or row.get("source_id") in names for row in rows)


def _tell(step: str, entry: Entry, names: set[str], settings: config.Settings, *, tracebacks: bool) -> Iterator[str]:
    took = f"{entry.duration_s:.1f} s" + (f", attempt {entry.attempts}" if entry.attempts > 1 else "")
    line = f"{step} {entry.unit_id}: {entry.status}"
    if entry.status == "failed":
        line += f" ({entry.failure_class}): {hints.shown(entry.message or '')}"
        took += f"; {advice(entry.failure_class)}"
    elif entry.reason:
        line += f": {entry.reason} {entry.measurements or entry.message or ''}".rstrip()
    yield f"{line}  [{took}]"
    for row in entry.outputs:
        if isinstance(row, Video):
            yield from _sound(row)
        if isinstance(row, Candidate) and names & {row.clip_id, row.video_id}:
            values: dict[str, Any] = asdict(row)
            measured = ", ".join(f"{name} {value:.4g}" for name, value in values.items() if isinstance(value, float))
            yield f"  {row.clip_id}: {row.verdict}{f' {row.reason}' if row.reason else ''}: {measured}"
            yield f"    {_people(row)}"
            if failing := misses(row, settings.filter):
                yield f"    fails {', '.join(map(str, failing))}"
    if tracebacks and entry.traceback:
        yield entry.traceback


def _sound(video: Video) -> Iterator[str]:
    """Which of a video's sound tracks are heard, and why."""
    for track in video.sound or ():
        said = ", ".join(word for word in (track.language, track.title, *track.roles) if word)
        heard = f"heard ({track.why})" if track.weights else f"not heard ({track.why})"
        level = "" if track.level_dbfs is None else f", {track.level_dbfs:g} dBFS"
        yield f"  sound track {track.stream}{f' [{said}]' if said else ''}: {heard}{level}"
    if video.gain_db:
        yield f"  the models listen with a gain of {video.gain_db:+g} dB"


def _people(row: Candidate) -> str:
    """How many people selection saw in a candidate."""
    said = f"{counted(len(row.track_ids), 'person', 'people')} found"
    if row.n_people != len(row.track_ids):
        said += f", {row.n_people} of them with a face of filter.min_face_px or more"
    return said + (f"; beside them {counted(row.n_bystanders, 'bystander')}" if row.n_bystanders else "")


def _take(found: _Found, step: str, entry: Entry, names: set[str]) -> None:
    for row in entry.outputs:
        if isinstance(row, Candidate) and names & {row.clip_id, row.video_id}:
            found.candidates[row.clip_id] = row
        if isinstance(row, Video):
            if entry.reason == "duplicate":
                found.duplicates.setdefault(row.video_id, entry.message or "")
            else:
                found.duplicates[row.video_id] = ""
    if step in LABELLED_BY:
        found.steps[step, entry.unit_id] = entry


def _fates(workspace: Workspace, found: _Found) -> Iterator[str]:
    """A line for each clip; candidates that the filter rejected share one where there are several."""
    rejected = [row for row in found.candidates.values() if row.verdict == "rejected"]
    judge = _Judge(workspace, found)
    for name, row in sorted(found.candidates.items()):
        if row.verdict == "kept" or len(rejected) == 1 or judge.shard_of(name):
            yield f"fate of {name}: {judge.fate(row)}"
    if len(rejected) > 1:
        reasons = Counter(row.reason for row in rejected).most_common()
        yield f"rejected by the filter: {', '.join(f'{n} {reason}' for reason, n in reasons)}"


class _Judge:
    """Says what became of clips."""

    def __init__(self, workspace: Workspace, found: _Found) -> None:
        self._found, self._workspace = found, workspace
        self._settings = last_settings(workspace) or config.Settings()
        self._reviews, self._stones = Reviews(workspace), Tombstones.of(workspace)
        self._published = _published(workspace, {row.video_id for row in found.candidates.values()})

    def shard_of(self, clip_id: str) -> str | None:
        """The file that holds a clip, with its split; None where the dataset does not have it."""
        return self._published.get(clip_id)

    def fate(self, row: Candidate) -> str:
        """Where a clip is, or what keeps it out of the dataset."""
        shard, out = self.shard_of(row.clip_id), self._out(row)
        if shard and out:
            return f"still in the dataset ({shard}): {out}; taken out by {hints.say(Hint.SHARDS)}"
        if shard:
            return f"in the dataset: {shard}{self._reviewed(row)}"
        return out or f"labelled, not in the dataset yet: {hints.say(Hint.SHARDS)}"

    def _out(self, row: Candidate) -> str | None:
        """What keeps a clip out of the dataset that is built next."""
        if self._stones.bars_clip(row.clip_id) or self._stones.bars("video", row.video_id):
            return "taken down"
        if row.verdict == "rejected":
            return f"rejected by the filter: {row.reason}"
        if copy_of := self._found.duplicates.get(row.video_id):
            return f"not built: {copy_of}"
        for step in LABELLED_BY:
            entry = self._found.steps.get((step, row.clip_id))
            if entry is None:
                return f"no labels yet, {step} comes next: {hints.say(Hint.LABEL)}"
            if entry.status != "done":
                return f"no labels: {step} {entry.status} ({entry.failure_class or entry.reason}), see above"
        if self._reviews.left_out(row.clip_id):
            return f"rejected by a reviewer{self._reviewed(row)}"
        poses = (pose for pose in self._found.steps["pose", row.clip_id].outputs if isinstance(pose, Pose))
        reason = next((reason for pose in poses if (reason := left_out(self._settings, pose))), None)
        return f"left out of the dataset: {reason}" if reason else None

    def _reviewed(self, row: Candidate) -> str:
        review = self._reviews.find(row.clip_id)
        if review is None:
            return ""
        said = [] if review.verdict == "reject" else [f"reviewed: {review.verdict or 'no verdict'}"]
        said += [review.reason] if review.reason else []
        said += [f"{counted(len(review.corrections), 'correction')} of who speaks"] if review.corrections else []
        return f" ({', '.join(said)})" if said else ""


def _published(workspace: Workspace, video_ids: Collection[str]) -> dict[str, str]:
    """Clips of some videos in the dataset: each with its shard and split."""
    if not video_ids or not workspace.exists(INDEX_KEY):
        return {}
    index = parse_index(workspace.read(INDEX_KEY).decode())
    buckets = {bucket_of(video_id, index.n_buckets) for video_id in video_ids}
    found: dict[str, str] = {}
    for shard in (shard for shard in index.shards if shard.bucket in buckets):
        try:
            with workspace.local(f"{FOLDER}/{shard.name}") as path:
                rows = pq.read_table(path, columns=["clip_id", "split"]).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise ConfigError(f"{FOLDER}/{shard.name} cannot be read; {hints.say(Hint.VERIFY)} mends it") from error
        found |= {row["clip_id"]: f"{FOLDER}/{shard.name}, split {row['split']}" for row in rows}
    return found
