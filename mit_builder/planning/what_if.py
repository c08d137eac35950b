"""What other thresholds would keep, without inference: the selection itself, run on the stored tracks.

One walk over the ledger as `mit-build status` makes it, working on nothing and writing nothing. Where the walk comes to
a shot's tracks, the real stage of `filter.select` judges them once with each selection asked for; the clips that any of
them keeps are followed through the ledger, which tells the labelled ones from those that would still need work.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from manifests.rows import TIMELINE_FPS, Artifact, Candidate, Pose, Source
from mit_builder.config.section import Section
from mit_builder.config.settings import Settings
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.driver.snapshot import Snapshot
from mit_builder.engine.worker import UnitContext, WorkerSpec
from mit_builder.errors import CannotContinue, UnitError
from mit_builder.labels.reviews import Reviews
from mit_builder.pipeline import CandidateTrail, PoseTrail, Route, Step, Unit, left_out, steps_of
from mit_builder.stage import Stage
from mit_builder.storage.tombstones import Tombstones
from mit_builder.storage.workspace import Workspace

BEFORE_SELECT = ("download", "shots", "filter.detect")
"""The steps whose results are taken as they are stored."""
AFTER_SELECT = ("filter.cut", "pose", "speech")
"""The steps of ours that a kept candidate goes through before it is labelled, in order."""

Name = tuple[str, tuple[int, ...]]
"""Clip id and face tracks: with other people the same frames are another clip."""


@dataclass
class Outlook:
    """What one choice of settings makes of a workspace.

    Attributes:
        kept_frames: length of every clip that selection keeps, by clip id.
        dropped: candidates by the reason that rejects them.
        dropped_frames: their length.
        due: for kept clips without labels the first step with work to do.
        failed: for kept clips that a step failed on, that step; they are not tried again without being asked.
        left_out: labelled clips that do not go into the dataset, with the reason.
    """

    kept_frames: dict[str, int] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_frames: Counter[str] = field(default_factory=Counter)
    due: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def labelled(self) -> set[str]:
        """Kept clips that have gone through every step."""
        return self.kept_frames.keys() - self.due.keys() - self.failed.keys()


@dataclass
class _Selection:
    """What filter.select makes of the shots seen so far with one section of settings."""

    stage: Stage[Any]
    kept: dict[Name, int] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_frames: Counter[str] = field(default_factory=Counter)

    def judge(self, row: Any, ctx: UnitContext, tombstones: Tombstones) -> Iterator[Candidate]:
        """The candidates that are kept; all are counted but those that were taken down, as in a run."""
        for candidate in tombstones.allowed(tuple(self.stage.process(row, ctx))):
            n_frames = candidate.end_frame - candidate.start_frame
            if candidate.verdict == "kept":
                self.kept[_name(candidate)] = n_frames
                yield candidate
            else:
                self.dropped[candidate.reason] += 1
                self.dropped_frames[candidate.reason] += n_frames


class WhatIf:
    """The outlooks of several settings that differ in what `filter.select` and the shards' verdicts read.

    Attributes:
        n_shots: shots whose tracks are stored.
        after_select: the steps that a kept candidate goes through before it is labelled, in order.
        pending: units by step that must be done before their shots can be judged.
    """

    def __init__(
        self,
        workspace: Workspace,
        settings: Settings,
        sources: Iterable[Source],
        variants: Sequence[Settings],
        steps: Sequence[Step] | None = None,
    ) -> None:
        """Walk over the workspace.

        Args:
            workspace: only read.
            settings: those of its last run.
            sources: all sources of the workspace.
            variants: settings to look at.
            steps: the pipeline, None for that of the settings; tests put fakes into it.

        Raises:
            CannotContinue: stored tracks cannot be read.
        """
        self.n_shots = 0
        self._workspace = workspace
        self._tombstones = Tombstones.of(workspace)
        self._reviews = Reviews(workspace)
        steps = steps_of(settings) if steps is None else steps
        self._select = next(step for step in steps if step.name == "filter.select")
        self.after_select = tuple(s.name for s in steps[steps.index(self._select) + 1 : -1])
        self._selections = {section: self._selection(section) for section in map(self._select.settings, variants)}
        self._furthest: dict[Name, str] = {}
        self._poses: dict[Name, Pose] = {}
        now = Snapshot(workspace, settings, steps=[self._watched(step) for step in steps])
        tally = now.follow(sources)
        self._failed = {entry.unit_id: step for step, entry in now.failures if step in self.after_select}
        self._rejected = {
            entry.unit_id: entry.reason or ""
            for step in steps
            for entry in (now.lanes[step.name].ledger.newest() if step.identity else ())
            if entry.status == "rejected"
        }
        self.pending = {name: tally.steps[name].pending for name in BEFORE_SELECT}

    def outlook(self, variant: Settings) -> Outlook:
        """What one of the variants would keep."""
        selection = self._selections[self._select.settings(variant)]
        found = Outlook(dropped=selection.dropped, dropped_frames=selection.dropped_frames)
        for name, n_frames in sorted(selection.kept.items()):
            clip_id = name[0]
            found.kept_frames[clip_id] = n_frames
            step = self._next_step(name)
            if step is not None and clip_id in self._rejected:
                found.left_out[clip_id] = self._rejected[clip_id]
            elif step is not None and clip_id in self._failed:
                found.failed[clip_id] = self._failed[clip_id]
            elif step is not None:
                found.due[clip_id] = step
            elif reason := left_out(variant, self._poses[name]) or self._reviews.left_out(clip_id):
                found.left_out[clip_id] = reason
        return found

    def _selection(self, section: Section) -> _Selection:
        return _Selection(WorkerSpec(self._select.stage, section, self._workspace.uri, "").load())

    def _next_step(self, name: Name) -> str | None:
        furthest = self._furthest.get(name)
        following = self.after_select.index(furthest) + 1 if furthest else 0
        return self.after_select[following] if following < len(self.after_select) else None

    def _watched(self, step: Step) -> Step:
        """A step whose route lets this walk see what it needs."""
        if step.name == "filter.detect":
            return replace(step, route=self._after_detect)
        is_after = step.name in self.after_select
        return replace(step, route=functools.partial(self._note, step.route)) if is_after else step

    def _after_detect(self, settings: Settings, unit: Unit, outputs: tuple[Any, ...]) -> Iterator[Unit]:
        """Every clip that any selection keeps, once."""
        for row in outputs:
            self.n_shots += 1
            kept = {_name(candidate): candidate for candidate in self._judge(row)}
            yield from self._select.route(settings, Unit("filter.select", row, unit.trail), tuple(kept.values()))

    def _judge(self, row: Any) -> Iterator[Candidate]:
        with ExitStack() as stack:
            ctx = _Reading(self._workspace, stack)
            try:
                for selection in self._selections.values():
                    yield from selection.judge(row, ctx, self._tombstones)
            except (pa.ArrowException, OSError, UnitError) as error:
                advice = f"{hints.say(Hint.VERIFY)} makes what is damaged anew"
                raise CannotContinue(f"cannot read the tracks of {row.video_id}: {error}; {advice}") from error

    def _note(self, route: Route, settings: Settings, unit: Unit, outputs: tuple[Any, ...]) -> Iterator[Unit]:
        assert isinstance(unit.trail, CandidateTrail)
        name = _name(unit.trail.candidate)
        self._furthest[name] = unit.step
        if isinstance(unit.trail, PoseTrail):
            self._poses[name] = unit.trail.pose
        yield from route(settings, unit, outputs)


class _Reading(UnitContext):
    """A context for looking at artifacts several times: what lies in object storage is fetched once."""

    def __init__(self, workspace: Workspace, stack: ExitStack) -> None:
        super().__init__(workspace, "", Path())
        self._stack = stack
        self._paths: dict[str, Path] = {}

    def local(self, artifact: Artifact) -> AbstractContextManager[Path]:  # type: ignore[override]
        if artifact.key not in self._paths:
            self._paths[artifact.key] = self._stack.enter_context(super().local(artifact))
        return nullcontext(self._paths[artifact.key])


def _name(candidate: Candidate) -> Name:
    return candidate.clip_id, candidate.track_ids


def hours(n_frames: int) -> float:
    """Length of frames of the clip timeline."""
    return n_frames / TIMELINE_FPS / 3600
