"""Figures of a dataset, from one pass over its small columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from manifests.rows import TIMELINE_FPS
from mit_builder.labels.keypoints import BODY_PARTS

COLUMNS = (
    "video_id",
    "n_frames",
    "n_people",
    "split",
    "licence",
    "access",
    "n_turns",
    "overlap_ratio",
    "silence_ratio",
    "label_tier",
    "detector",
    "pose_backend",
    "speech_backend",
    "captions.list.element.language",
    "people.list.element.talk_share",
    *(f"people.list.element.{part}_visible_ratio" for part in ("body", *BODY_PARTS)),
)
"""What is read: no media and no arrays over frames."""

Statistics = dict[str, Any]


def summarise(rows: Iterable[Mapping[str, Any]]) -> Statistics:
    """Figures of rows that have at least `COLUMNS`; values per clip are kept, nothing that grows with its frames.

    Distributions are `{"min", "p25", "median", "p75", "max", "mean"}`, None where there is nothing to count.
    """
    counts: dict[str, Counter[str]] = {name: Counter() for name in _COUNTED}
    by_split: dict[str, Counter[str]] = {}
    values: dict[str, list[float]] = {name: [] for name in _MEASURED}
    videos: set[str] = set()
    captioned: Counter[str] = Counter()
    seconds = speech_person_seconds = 0.0
    for row in rows:
        for name, counter in counts.items():
            counter[str(row[name]) if row[name] is not None else "unknown"] += 1
        duration_s = row["n_frames"] / TIMELINE_FPS
        videos.add(row["video_id"])
        captioned.update({caption["language"] for caption in row["captions"]})
        by_split.setdefault(row["split"], Counter())[str(row["n_people"])] += 1
        seconds += duration_s
        speech_person_seconds += duration_s * sum(person["talk_share"] for person in row["people"])
        for name, measured in values.items():
            measured.extend(_measure(name, row))
    return {
        "n_clips": len(values["clip_s"]),
        "n_videos": len(videos),
        "hours": round(seconds / 3600, 6),
        "speech_person_hours": round(speech_person_seconds / 3600, 6),
        **{f"clips_by_{name}": dict(sorted(counter.items())) for name, counter in counts.items()},
        "clips_by_caption_language": dict(sorted(captioned.items())),
        "clips_by_split_and_n_people": {split: dict(sorted(c.items())) for split, c in sorted(by_split.items())},
        **{name: _distribution(measured) for name, measured in values.items()},
    }


_COUNTED = ("n_people", "split", "licence", "access", "label_tier", "detector", "pose_backend", "speech_backend")
_OF_PEOPLE = ("talk_share", *(f"{part}_visible_ratio" for part in ("body", *BODY_PARTS)))
_MEASURED = ("clip_s", "turns_per_minute", *_OF_PEOPLE, "overlap_ratio", "silence_ratio")


def _measure(name: str, row: Mapping[str, Any]) -> list[float]:
    duration_s = row["n_frames"] / TIMELINE_FPS
    if name == "clip_s":
        return [duration_s]
    if name == "turns_per_minute":
        return [60 * row["n_turns"] / duration_s]
    if name in _OF_PEOPLE:
        return [person[name] for person in row["people"]]
    return [] if row[name] is None else [row[name]]


def _distribution(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    quartiles = np.percentile(values, (0, 25, 50, 75, 100))
    named = {**dict(zip(("min", "p25", "median", "p75", "max"), quartiles, strict=True)), "mean": np.mean(values)}
    return {name: round(float(value), 4) for name, value in named.items()}
