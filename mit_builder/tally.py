"""Counting what a run knows: units by status, the funnel, and the candidates that fell just short."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from manifests.ledger import Entry
from manifests.rows import TIMELINE_FPS, Candidate, Clip, Shot, Video
from mit_builder.config import SelectSettings
from mit_builder.tombstones import REMOVED

NEAR = 0.2
"""A candidate within this share of a threshold is a near miss."""


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
    near_misses: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
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
        miss = near_miss(row, select)
        if miss:
            self.near_misses[miss[:2]].append(miss[2])

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


def near_miss(row: Candidate, select: SelectSettings) -> tuple[str, str, float] | None:
    """(reason, setting, measured value) where the test that rejected the candidate was missed by less than `NEAR`."""
    length_s = (row.end_frame - row.start_frame) / TIMELINE_FPS
    at_least = {
        "face_too_small": ("min_face_px", row.min_face_px),
        "face_sizes_differ": ("min_face_area_ratio", row.face_area_ratio),
        "too_short": ("min_clip_s", length_s),
        "no_speech": ("min_voice_activity", row.voice_activity),
        "still_picture": ("min_stillness", row.stillness),
    }
    at_most = {
        "camera_motion": ("max_camera_motion_pct", row.camera_motion_pct),
        "bystander": ("max_bystander_area", row.bystander_area),
    }
    if row.reason in at_least:
        setting, value = at_least[row.reason]
        close = value is not None and value >= getattr(select, setting) * (1 - NEAR)
    elif row.reason in at_most:
        setting, value = at_most[row.reason]
        close = value is not None and value <= getattr(select, setting) * (1 + NEAR)
    else:
        return None
    return (row.reason, setting, float(value)) if close and value is not None else None
