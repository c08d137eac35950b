"""Counting what a run knows: units by status, the funnel, and the candidates that fell just short."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from manifests.ledger import Entry
from manifests.rows import TIMELINE_FPS, Candidate, Clip, Shot, Video
from mit_builder.config import SelectSettings
from mit_builder.tombstones import REMOVED

NEAR = 0.2
"""A candidate within this share of a threshold is a near miss."""
N_BORDERLINE = 100
"""Rejected candidates kept for each reason: those nearest to their threshold."""


@dataclass
class NearMisses:
    """Values that missed one threshold narrowly: how many, and the outermost."""

    n: int = 0
    lowest: float = math.inf
    highest: float = -math.inf

    def add(self, other: NearMisses) -> None:
        """Take in others."""
        self.n += other.n
        self.lowest, self.highest = min(self.lowest, other.lowest), max(self.highest, other.highest)


@dataclass(frozen=True)
class Count:
    """One figure of a tally by its name, so that tallies can be stored and added up as columns."""

    what: str
    n: int
    seconds: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass
class StepTally:
    """Units of one step."""

    done: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    pending: int = 0
    worked_on: int = 0
    duration_s: float = 0.0
    cpu_s: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "done": self.done,
            "rejected": dict(sorted(self.rejected.items())),
            "failed": dict(sorted(self.failed.items())),
            "pending": self.pending,
            "worked_on": self.worked_on,
            "duration_s": round(self.duration_s, 3),
            "cpu_s": round(self.cpu_s, 3),
        }


@dataclass
class Tally:
    """Everything the end of a run reports."""

    steps: dict[str, StepTally] = field(default_factory=lambda: defaultdict(StepTally))
    n_sources: int = 0
    n_videos: int = 0
    n_shots: int = 0
    video_s: float = 0.0
    shot_s: float = 0.0
    kept_s: float = 0.0
    candidates: Counter[str] = field(default_factory=Counter)
    candidate_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    near_misses: dict[tuple[str, str], NearMisses] = field(default_factory=lambda: defaultdict(NearMisses))
    margins: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    """By reason and setting: measured value / threshold of every rejected candidate that has one."""
    borderline: dict[str, list[tuple[float, int, Candidate]]] = field(default_factory=lambda: defaultdict(list))
    """By reason: heaps of (-distance to the threshold, a running number, row), the `N_BORDERLINE` nearest."""
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    n_clips: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    n_dataset: int = 0
    unavailable: dict[str, str] = field(default_factory=dict)
    """Stages whose setup failed."""
    stopped: dict[str, str] = field(default_factory=dict)
    """Stages that stopped because disk or memory ran out."""
    held_back: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Units by stage and reason whose host is not asked any more in this run."""

    removed_sources: set[str] = field(default_factory=set)
    """Sources that turned out to give what was taken down."""

    def settle(self, step: str, entry: Entry, select: SelectSettings) -> None:
        """Count a finished unit and its output rows."""
        tally = self.steps[step]
        if entry.status == "done":
            tally.done += 1
        elif entry.status == "rejected":
            tally.rejected[entry.reason or "?"] += 1
            self.removed_sources |= {entry.unit_id} if entry.reason == REMOVED and step == "download" else set()
        else:
            tally.failed[entry.failure_class or "?"] += 1
        for row in entry.outputs if entry.status == "done" else ():
            if isinstance(row, Video):
                self.n_videos += 1
                self.video_s += row.duration_s
            elif isinstance(row, Shot):
                self.n_shots += 1
                self.shot_s += (row.end_frame - row.start_frame) / TIMELINE_FPS
            elif isinstance(row, Candidate):
                self._candidate(row, select)
            elif isinstance(row, Clip):
                self.n_clips += 1

    def worked_on(self, step: str, entry: Entry) -> None:
        """Count the work that a unit took in this run."""
        tally = self.steps[step]
        tally.worked_on += 1
        tally.duration_s += entry.duration_s
        tally.cpu_s += entry.cpu_s

    def demote(self, video: Video) -> None:
        """A video that was counted turns out to be a duplicate of another source's."""
        self.steps["download"].done -= 1
        self.steps["download"].rejected["duplicate"] += 1
        self.n_videos -= 1
        self.video_s -= video.duration_s

    def _candidate(self, row: Candidate, select: SelectSettings) -> None:
        length_s = (row.end_frame - row.start_frame) / TIMELINE_FPS
        name = row.reason or "kept"
        self.candidates[name] += 1
        self.candidate_s[name] += length_s
        if row.verdict == "kept":
            self.kept_s += length_s
        missed = margin(row, select)
        if missed is None:
            return
        self.margins[missed.reason, missed.setting].append(missed.ratio)
        if missed.is_near:
            self.near_misses[missed.reason, missed.setting].add(NearMisses(1, missed.value, missed.value))
        nearest = self.borderline[missed.reason]
        heapq.heappush(nearest, (-missed.distance, next(self._numbers), row))
        if len(nearest) > N_BORDERLINE:
            heapq.heappop(nearest)

    def counts(self) -> Iterator[Count]:
        """The figures about units and footage, without those of this run alone."""
        for step, tally in self.steps.items():
            if tally.done:
                yield Count(f"done/{step}", tally.done)
            yield from (Count(f"rejected/{step}/{reason}", n) for reason, n in tally.rejected.items())
            yield from (Count(f"failed/{step}/{name}", n) for name, n in tally.failed.items())
        if self.n_videos:
            yield Count("videos", self.n_videos, self.video_s)
        if self.n_shots:
            yield Count("shots", self.n_shots, self.shot_s)
        if self.n_clips:
            yield Count("clips", self.n_clips)
        yield from (Count(f"candidates/{name}", n, self.candidate_s[name]) for name, n in self.candidates.items())
        yield from (Count(f"left_out/{reason}", n) for reason, n in self.left_out.items())
        for (reason, setting), missed in self.near_misses.items():
            yield Count(f"near/{reason}/{setting}", missed.n, None, missed.lowest, missed.highest)

    def add(self, count: Count) -> None:
        """Take in a figure of another tally."""
        what, _, rest = count.what.partition("/")
        step, _, name = rest.partition("/")
        if what == "done":
            self.steps[step].done += count.n
        elif what in ("rejected", "failed"):
            getattr(self.steps[step], what)[name] += count.n
        elif what == "videos":
            self.n_videos, self.video_s = self.n_videos + count.n, self.video_s + (count.seconds or 0.0)
        elif what == "shots":
            self.n_shots, self.shot_s = self.n_shots + count.n, self.shot_s + (count.seconds or 0.0)
        elif what == "clips":
            self.n_clips += count.n
        elif what == "left_out":
            self.left_out[rest] += count.n
        elif what == "candidates":
            self.candidates[rest] += count.n
            self.candidate_s[rest] += count.seconds or 0.0
            self.kept_s += (count.seconds or 0.0) if rest == "kept" else 0.0
        elif count.low is not None and count.high is not None:
            self.near_misses[step, name].add(NearMisses(count.n, count.low, count.high))

    @property
    def failed(self) -> int:
        """Units that failed, over all steps."""
        return sum(sum(t.failed.values()) for t in self.steps.values())

    @property
    def pending(self) -> int:
        """Units that were not worked on."""
        return sum(t.pending for t in self.steps.values())

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "sources": self.n_sources,
            "videos": self.n_videos,
            "video_s": round(self.video_s, 3),
            "shots": self.n_shots,
            "candidates": dict(sorted(self.candidates.items())),
            "candidate_s": {k: round(v, 3) for k, v in sorted(self.candidate_s.items())},
            "clips": self.n_clips,
            "left_out": dict(sorted(self.left_out.items())),
            "dataset_clips": self.n_dataset,
            "held_back": [[step, why, count] for (step, why), count in sorted(self.held_back.items())],
            "stages": {name: tally.as_dict() for name, tally in self.steps.items()},
        }


@dataclass(frozen=True)
class Margin:
    """By how much a rejected candidate missed the threshold of the test that it failed first.

    Attributes:
        reason: why it was rejected.
        setting: name of the threshold in `filter`.
        value: what was measured.
        limit: the threshold.
        is_lower: whether values below the threshold are rejected.
    """

    reason: str
    setting: str
    value: float
    limit: float
    is_lower: bool

    @property
    def ratio(self) -> float:
        """Measured value / threshold; 0 where the threshold is 0."""
        return self.value / self.limit if self.limit else 0.0

    @property
    def distance(self) -> float:
        """How far the value is on the wrong side, as a share of the threshold."""
        return abs(self.value - self.limit) / self.limit if self.limit else abs(self.value)

    @property
    def is_near(self) -> bool:
        """Whether the threshold was missed by less than `NEAR`."""
        nearest = self.limit * (1 - NEAR if self.is_lower else 1 + NEAR)
        return self.value >= nearest if self.is_lower else self.value <= nearest


def margin(row: Candidate, select: SelectSettings) -> Margin | None:
    """The miss of a rejected candidate; None where its reason is no threshold, or nothing was measured."""
    length_s = (row.end_frame - row.start_frame) / TIMELINE_FPS
    tests = {
        "face_too_small": ("min_face_px", row.min_face_px),
        "face_sizes_differ": ("min_face_area_ratio", row.face_area_ratio),
        "too_short": ("min_clip_s", length_s),
        "no_speech": ("min_voice_activity", row.voice_activity),
        "still_picture": ("min_stillness", row.stillness),
        "camera_motion": ("max_camera_motion_pct", row.camera_motion_pct),
        "bystander": ("max_bystander_area", row.bystander_area),
    }
    if row.reason not in tests:
        return None
    setting, value = tests[row.reason]
    if value is None:
        return None
    return Margin(row.reason, setting, float(value), float(getattr(select, setting)), setting.startswith("min_"))
