"""READ FIRST. The pipeline, step by step: what each eats, what it makes, and where that goes next.

    Source ──download──> Video ──shots──> Shot ──filter.detect──> Tracks ──filter.select──> Candidate
        a line of the list     one file       frames between cuts     faces, voice          people × interval, verdict

    kept Candidate ──filter.cut──> Clip ──pose──> Pose ──speech──> Speech ──shards──> dataset/*.parquet
                       own mp4, flac     133 keypoints   who speaks            one row a clip

A unit is one call of a step's stage with one row. Its name comes from the row (`Stage.unit_id`), its key from the
content of the row, the settings that the stage reads, its version and its backends. The runner asks the ledger for the
key; only a unit without an answer is worked on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from itertools import zip_longest
from typing import Any, TypeVar

from manifests.plugin_rows import PluginJob, PluginRow
from manifests.rows import (
    TIMELINE_FPS,
    Candidate,
    Clip,
    CutJob,
    Labelled,
    Pose,
    Shot,
    ShotRun,
    Source,
    Speech,
    SpeechJob,
    Tracks,
    Video,
)
from mit_builder.config.plugged_stages import PluggedStage, plugged_stages
from mit_builder.config.section import Section
from mit_builder.config.settings import CutSettings, DetectSettings, SelectSettings, Settings


@dataclass(frozen=True)
class Trail:
    """The rows a unit descends from; they are joined into the dataset's row. A source descends from none."""


@dataclass(frozen=True)
class VideoTrail(Trail):
    """What units that come from a video descend from."""

    video: Video


@dataclass(frozen=True)
class CandidateTrail(VideoTrail):
    """What units that come from a kept candidate descend from."""

    candidate: Candidate


@dataclass(frozen=True)
class ClipTrail(CandidateTrail):
    """What units that come from a clip descend from. `plugged`: what stages of other packages said of it."""

    clip: Clip
    plugged: tuple[PluginRow, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True)
class PoseTrail(ClipTrail):
    """What units that come from a clip with keypoints descend from."""

    pose: Pose


@dataclass(frozen=True)
class SpeechTrail(PoseTrail):
    """What a clip with all its labels descends from."""

    speech: Speech


TrailOf = TypeVar("TrailOf", bound=Trail)


@dataclass(frozen=True)
class Unit:
    """Work that may be due: a row for a step."""

    step: str
    row: Any
    trail: Trail = Trail()

    @property
    def video(self) -> Video | None:
        """The video it descends from; sources and shards have none."""
        return self.trail.video if isinstance(self.trail, VideoTrail) and self.step != "shards" else None

    @property
    def origins(self) -> tuple[Any, ...]:
        """What it goes with when it is taken down: its own row, its video, its candidate."""
        video = (self.trail.video,) if isinstance(self.trail, VideoTrail) else ()
        candidate = (self.trail.candidate,) if isinstance(self.trail, CandidateTrail) else ()
        return (self.row, *video, *candidate)


Route = Callable[[Settings, Unit, tuple[Any, ...]], Iterable[Unit]]


@dataclass(frozen=True)
class Step:
    """One step of the pipeline.

    Attributes:
        name: as in `--stage`, in the ledger and in reports; "filter.cut" belongs to stage "filter".
        stage: `module:Class`.
        settings: picks what the stage reads.
        route: units that follow from a finished unit and its output rows.
        cost: how much work a row is, in any unit; of those that wait the longest is begun first, so that none is left
            over at the end. None where they are alike or short.
        identity: package and version of another package's stage; empty for ours.
    """

    name: str
    stage: str
    settings: Callable[[Settings], Section]
    route: Route
    cost: Callable[[Any], float] | None = None
    identity: str = ""


def _after_download(settings: Settings, unit: Unit, outputs: tuple[Any, ...]) -> Iterator[Unit]:
    for row in outputs:
        if isinstance(row, Source):
            yield Unit("download", row)
        else:
            yield Unit("shots", row, VideoTrail(row))


def _after_shots(settings: Settings, unit: Unit, outputs: tuple[Shot, ...]) -> Iterator[Unit]:
    for run in shot_runs(outputs, run_s=settings.filter.run_s):
        yield Unit("filter.detect", ShotRun(unit.row, run), unit.trail)


def _after_detect(settings: Settings, unit: Unit, outputs: tuple[Tracks, ...]) -> Iterator[Unit]:
    for row in outputs:
        yield Unit("filter.select", row, unit.trail)


def _after_select(settings: Settings, unit: Unit, outputs: tuple[Candidate, ...]) -> Iterator[Unit]:
    video = _trail(unit, VideoTrail).video
    for row in outputs:
        if row.verdict == "kept":
            yield Unit("filter.cut", CutJob(video, row), CandidateTrail(video, row))


def _after_cut(settings: Settings, unit: Unit, outputs: tuple[Clip, ...]) -> Iterator[Unit]:
    known = _trail(unit, CandidateTrail)
    for row in outputs:
        yield _to_pose(ClipTrail(known.video, known.candidate, row))


def _after_pose(settings: Settings, unit: Unit, outputs: tuple[Pose, ...]) -> Iterator[Unit]:
    known = _trail(unit, ClipTrail)
    for row in outputs:
        yield _to_speech(PoseTrail(known.video, known.candidate, known.clip, row, plugged=known.plugged))


def _after_speech(settings: Settings, unit: Unit, outputs: tuple[Speech, ...]) -> Iterator[Unit]:
    known = _trail(unit, PoseTrail)
    for row in outputs:
        yield _to_shards(SpeechTrail(known.video, known.candidate, known.clip, known.pose, row, plugged=known.plugged))


def _to_pose(trail: ClipTrail) -> Unit:
    return Unit("pose", trail.clip, trail)


def _to_speech(trail: PoseTrail) -> Unit:
    return Unit("speech", SpeechJob(trail.clip, trail.pose), trail)


def _to_shards(trail: SpeechTrail) -> Unit:
    plugged = tuple(sorted(trail.plugged, key=lambda one: one.stage)) or None
    row = Labelled(trail.video, trail.candidate, trail.clip, trail.pose, trail.speech, plugged=plugged)
    return Unit("shards", row, trail)


def _trail(unit: Unit, kind: type[TrailOf]) -> TrailOf:
    assert isinstance(unit.trail, kind), f"a unit of {unit.step} comes without a {kind.__name__}"
    return unit.trail


def _nowhere(settings: Settings, unit: Unit, outputs: tuple[Any, ...]) -> Iterator[Unit]:
    yield from ()


def _run_frames(row: ShotRun) -> float:
    return row.shots[-1].end_frame - row.shots[0].start_frame


def _person_frames(row: Clip) -> float:
    return row.n_frames * row.n_people


STEPS: tuple[Step, ...] = (
    Step("download", "stages.download:Download", lambda s: s.download, _after_download),
    Step("shots", "stages.shots:DetectShots", lambda s: s.shots, _after_shots),
    Step(
        "filter.detect",
        "stages.filter.detect:DetectTracks",
        lambda s: part(s.filter, DetectSettings),
        _after_detect,
        _run_frames,
    ),
    Step(
        "filter.select",
        "stages.filter.select:SelectCandidates",
        lambda s: part(s.filter, SelectSettings),
        _after_select,
    ),
    Step("filter.cut", "stages.filter.cut:CutClips", lambda s: part(s.filter, CutSettings), _after_cut),
    Step("pose", "stages.pose:EstimatePose", lambda s: s.pose, _after_pose, _person_frames),
    Step("speech", "stages.speech:ScoreSpeech", lambda s: s.speech, _after_speech),
    Step("shards", "stages.shards:WriteShard", lambda s: s.shards, _nowhere),
)

_FOLLOWS: Mapping[str, Callable[[Any], Unit]] = {
    "filter.cut": _to_pose,
    "pose": _to_speech,
    "speech": _to_shards,
}
"""What follows a step that stages of other packages may stand after."""


def steps_of(settings: Settings) -> tuple[Step, ...]:
    """The pipeline of these settings: `STEPS`, with the stages of other packages where they say that they stand.

    Raises:
        ConfigError: a stage that the settings name is unknown or none.
    """
    taken = {name for step in STEPS for name in (step.name, step.name.partition(".")[0])}
    found = plugged_stages(settings, taken)
    steps: list[Step] = []
    for step in STEPS:
        here = [stage for stage in found if stage.kind.after == step.name]
        if not here:
            steps.append(step)
            continue
        steps.append(replace(step, route=partial(_into, step.route, here[0].name)))
        for stage, after in zip_longest(here, here[1:]):
            route = partial(_onward, stage, after.name if after else None, _FOLLOWS[step.name])
            steps.append(Step(stage.name, stage.plugin.path, stage.section, route, None, stage.plugin.identity))
    return tuple(steps)


def _into(route: Route, first: str, settings: Settings, unit: Unit, outputs: tuple[Any, ...]) -> Iterator[Unit]:
    """What follows from a unit goes through a stage of another package before."""
    for following in route(settings, unit, outputs):
        yield _plugin_unit(first, _trail(following, ClipTrail))


def _onward(
    stage: PluggedStage,
    following: str | None,
    follows: Callable[[Any], Unit],
    settings: Settings,
    unit: Unit,
    outputs: tuple[Any, ...],
) -> Iterator[Unit]:
    """Hand on to the next stage of another package that stands here, else to the step of ours that follows."""
    made = tuple(PluginRow(stage.name, stage.plugin.identity, row) for row in outputs)
    known = _trail(unit, ClipTrail)
    trail = replace(known, plugged=(*known.plugged, *made))
    yield follows(trail) if following is None else _plugin_unit(following, trail)


def _plugin_unit(step: str, trail: ClipTrail) -> Unit:
    pose = trail.pose if isinstance(trail, PoseTrail) else None
    speech = trail.speech if isinstance(trail, SpeechTrail) else None
    return Unit(step, PluginJob(trail.clip, pose, speech), trail)


STAGES = tuple(dict.fromkeys(step.name.partition(".")[0] for step in STEPS))
"""What `--stage` takes besides "all"."""


LEFT_OUT_BY = ("min_body_visible",)
"""Settings of shards that `left_out` reads."""


def left_out(settings: Settings, pose: Pose) -> str | None:
    """Why a labelled clip does not go into the dataset, judged by what its rows hold; None where it does."""
    if pose.min_body_visible_ratio < settings.shards.min_body_visible:
        return "body_not_visible"
    return None


def part(section: Section, kind: type[Section]) -> Section:
    """The fields of `section` that `kind` declares: a stage sees nothing else."""
    return kind(**{name: getattr(section, name) for name in kind.model_fields})


def shot_runs(shots: Iterable[Shot], *, run_s: float) -> Iterator[tuple[Shot, ...]]:
    """Group consecutive shots until a group is `run_s` long; a long shot is a group of its own."""
    limit = Fraction(run_s) * TIMELINE_FPS
    group: list[Shot] = []
    for shot in sorted(shots, key=lambda s: s.start_frame):
        if group and shot.end_frame - group[0].start_frame > limit:
            yield tuple(group)
            group = []
        group.append(shot)
    if group:
        yield tuple(group)
