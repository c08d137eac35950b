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

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

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
from mit_builder.config import CutSettings, DetectSettings, Section, SelectSettings, Settings


@dataclass(frozen=True)
class Trail:
    """The rows a unit descends from; they are joined into the dataset's row."""

    video: Video | None = None
    candidate: Candidate | None = None
    clip: Clip | None = None
    pose: Pose | None = None


@dataclass(frozen=True)
class Unit:
    """Work that may be due: a row for a step."""

    step: str
    row: Any
    trail: Trail = Trail()


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
    """

    name: str
    stage: str
    settings: Callable[[Settings], Section]
    route: Route
    cost: Callable[[Any], float] | None = None


def _after_download(settings: Settings, unit: Unit, outputs: tuple[Any, ...]) -> Iterator[Unit]:
    for row in outputs:
        if isinstance(row, Source):
            yield Unit("download", row)
        else:
            yield Unit("shots", row, Trail(video=row))


def _after_shots(settings: Settings, unit: Unit, outputs: tuple[Shot, ...]) -> Iterator[Unit]:
    for run in shot_runs(outputs, run_s=settings.filter.run_s):
        yield Unit("filter.detect", ShotRun(unit.row, run), unit.trail)


def _after_detect(settings: Settings, unit: Unit, outputs: tuple[Tracks, ...]) -> Iterator[Unit]:
    for row in outputs:
        yield Unit("filter.select", row, unit.trail)


def _after_select(settings: Settings, unit: Unit, outputs: tuple[Candidate, ...]) -> Iterator[Unit]:
    assert unit.trail.video is not None
    for row in outputs:
        if row.verdict == "kept":
            yield Unit("filter.cut", CutJob(unit.trail.video, row), replace(unit.trail, candidate=row))


def _after_cut(settings: Settings, unit: Unit, outputs: tuple[Clip, ...]) -> Iterator[Unit]:
    for row in outputs:
        yield Unit("pose", row, replace(unit.trail, clip=row))


def _after_pose(settings: Settings, unit: Unit, outputs: tuple[Pose, ...]) -> Iterator[Unit]:
    for row in outputs:
        yield Unit("speech", SpeechJob(unit.row, row), replace(unit.trail, pose=row))


def _after_speech(settings: Settings, unit: Unit, outputs: tuple[Speech, ...]) -> Iterator[Unit]:
    trail = unit.trail
    parts = (trail.video, trail.candidate, trail.clip, trail.pose)
    assert None not in parts
    for row in outputs:
        yield Unit("shards", Labelled(*parts, row), trail)  # type: ignore[arg-type]


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
        "stages.filter:DetectTracks",
        lambda s: part(s.filter, DetectSettings),
        _after_detect,
        _run_frames,
    ),
    Step("filter.select", "stages.filter:SelectCandidates", lambda s: part(s.filter, SelectSettings), _after_select),
    Step("filter.cut", "stages.filter:CutClips", lambda s: part(s.filter, CutSettings), _after_cut),
    Step("pose", "stages.pose:EstimatePose", lambda s: s.pose, _after_pose, _person_frames),
    Step("speech", "stages.speech:ScoreSpeech", lambda s: s.speech, _after_speech),
    Step("shards", "stages.shards:WriteShard", lambda s: s.shards, _nowhere),
)

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
