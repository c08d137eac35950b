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
from mit_builder.config.settings import SelectSettings
from mit_builder.storage.tombstones import REMOVED

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
class StepCounts:
    """Units of one step."""

    done: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    pending: int = 0
    worked_on: int = 0
    duration_s: float = 0.0
    cpu_s: float = 0.0

    def stays_due(self) -> None:
        """A unit that counts as done is still due."""
        self.done, self.pending = self.done - 1, self.pending + 1

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
class RunCounts:
    """Everything the end of a run reports."""

    steps: dict[str, StepCounts] = field(default_factory=lambda: defaultdict(StepCounts))
    n_sources: int = 0
    n_videos: int = 0
    n_shots: int = 0
    video_s: float = 0.0
    shot_s: float = 0.0
    kept_s: float = 0.0
    candidates: Counter[str] = field(default_factory=Counter)
    candidate_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    near_misses: dict[tuple[str, str], NearMisses] = field(default_factory=lambda: defaultdict(NearMisses))
    """By the settings that must move together to let candidates in, joined by "+", and each of them."""
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

    unmended: int = 0
    """Damaged files that were in the way of a unit, and were not made again."""

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

    def add_work(self, earlier: RunCounts) -> None:
        """Take in the work of an earlier walk of this run."""
        for step, tally in earlier.steps.items():
            self.steps[step].worked_on += tally.worked_on
            self.steps[step].duration_s += tally.duration_s
            self.steps[step].cpu_s += tally.cpu_s
        self.removed_sources |= earlier.removed_sources

    def kept(self, step: str, failed: Entry) -> None:
        """A unit that counts as done has failed when it was to be done again."""
        self.steps[step].done -= 1
        self.steps[step].failed[failed.failure_class or "?"] += 1

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
        self._near(row, misses(row, select))
        nearest = self.borderline[missed.reason]
        heapq.heappush(nearest, (-missed.distance, next(self._numbers), row))
        if len(nearest) > N_BORDERLINE:
            heapq.heappop(nearest)

    def _near(self, row: Candidate, missed: list[Margin]) -> None:
        """A near miss is narrow in every test that fails: to move one threshold alone would not let it in."""
        is_silent = row.voice_activity is None  # without sound it fails a test that has no threshold
        if is_silent or not all(miss.is_near for miss in missed):
            return
        together = "+".join(miss.setting for miss in missed)
        for miss in missed:
            self.near_misses[together, miss.setting].add(NearMisses(1, miss.value, miss.value))

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
        for (together, setting), missed in self.near_misses.items():
            yield Count(f"near/{together}/{setting}", missed.n, None, missed.lowest, missed.highest)

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
            "damaged_files": self.unmended,
            "held_back": [[step, why, count] for (step, why), count in sorted(self.held_back.items())],
            "stages": {name: tally.as_dict() for name, tally in self.steps.items()},
        }


@dataclass(frozen=True)
class Margin:
    """By how much a rejected candidate missed the threshold of a test that it failed.

    Attributes:
        reason: what the test rejects for.
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
    def fails(self) -> bool:
        """Whether the value is on the wrong side."""
        return self.value < self.limit if self.is_lower else self.value > self.limit

    def __str__(self) -> str:
        sign = "<" if self.is_lower else ">"
        return f"{self.reason} ({self.value:.4g} {sign} {self.setting} {self.limit:g})"

    @property
    def is_near(self) -> bool:
        """Whether the threshold was missed by less than `NEAR`."""
        nearest = self.limit * (1 - NEAR if self.is_lower else 1 + NEAR)
        return self.value >= nearest if self.is_lower else self.value <= nearest


_TESTS = {
    "face_too_small": ("min_face_px", "min_face_px"),
    "face_sizes_differ": ("min_face_area_ratio", "face_area_ratio"),
    "camera_motion": ("max_camera_motion_pct", "camera_motion_pct"),
    "too_short": ("min_clip_s", None),
    "no_speech": ("min_voice_activity", "voice_activity"),
    "still_picture": ("min_stillness", "stillness"),
    "bystander": ("max_bystander_area", "bystander_area"),
}
"""By reason, in the order of `Reason`: the threshold, and where a candidate has the value; None is its length."""


def misses(row: Candidate, select: SelectSettings) -> list[Margin]:
    """Every threshold that a rejected candidate is on the wrong side of, that of its reason first.

    Empty where its reason is no threshold, or nothing was measured.
    """
    first = margin(row, select)
    if first is None:
        return []
    found = [_margin(reason, row, select) for reason in _TESTS if reason != row.reason]
    return [first, *(miss for miss in found if miss is not None and miss.fails)]


def margin(row: Candidate, select: SelectSettings) -> Margin | None:
    """The miss of a rejected candidate; None where its reason is no threshold, or nothing was measured."""
    return _margin(row.reason, row, select) if row.reason in _TESTS else None


def _margin(reason: str, row: Candidate, select: SelectSettings) -> Margin | None:
    setting, field_name = _TESTS[reason]
    value = getattr(row, field_name) if field_name else (row.end_frame - row.start_frame) / TIMELINE_FPS
    if value is None:
        return None
    return Margin(reason, setting, float(value), float(getattr(select, setting)), setting.startswith("min_"))
