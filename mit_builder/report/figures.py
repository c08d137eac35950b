"""The numbers of the report's page, from what a walk over the workspace has counted and what the gallery lists."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests.rows import TIMELINE_FPS, Sample
from mit_builder.console import hints
from mit_builder.driver.counts import RunCounts
from mit_builder.driver.retry_policy import advice
from mit_builder.driver.snapshot import Snapshot
from mit_builder.driver.step_queue import StepQueue
from mit_builder.report.clip_data import GROUPS
from mit_builder.report.gallery import Listed
from mit_builder.report.intervals import clustered, wilson

Figures = dict[str, Any]
CLOSE = (0.05, 0.10, 0.20)
"""Shares of a threshold within which rejected candidates are counted."""
N_RESOLUTIONS = 8
N_MESSAGES = 50

PUBLISHED = (
    {"name": "MIT (the paper's dataset)", "hours": "12", "people": "2-4", "kept": ""},
    {"name": "TalkVid", "hours": "", "people": "", "kept": "18.3 %"},
    {"name": "SpeakerVid-5M", "hours": "", "people": "", "kept": "13.7 %"},
)
"""What others publish of theirs; empty where there is nothing to compare with. Share of the hours collected."""


def figures(seen: Snapshot, clips: Sequence[Listed]) -> Figures:
    """Everything that the page states, as JSON-ready values."""
    dataset = [clip for clip in clips if not clip["leftOut"]]
    seconds = sum(clip["frames"] for clip in dataset) / TIMELINE_FPS
    return {
        "clips": len(dataset),
        "hours": seconds / 3600,
        "videos": len({clip["id"].partition("_")[0] for clip in dataset}),
        "funnel": _funnel(seen.tally, len(clips), seconds),
        "drops": _drops(seen, clips),
        "margins": _margins(seen.tally),
        "distributions": distributions(dataset),
        "averages": _averages(dataset),
        "compared": _compared(seen.tally, dataset, seconds),
        "costs": costs(seen.lanes.values(), seconds),
        "failures": _failures(seen),
        "quality": quality(clips, seen.reviews.samples),
        "reviewed": _reviewed(clips),
        "models": _models(seen.lanes),
        "tiers": dict(sorted(Counter(clip["tier"] for clip in dataset).items())),
        "settings": seen.settings.filter.model_dump(mode="json"),
        "worked_until": _worked_until(seen.lanes.values()),
    }


def _funnel(tally: RunCounts, n_labelled: int, seconds: float) -> list[dict[str, Any]]:
    n_candidates, candidate_s = sum(tally.candidates.values()), sum(tally.candidate_s.values())
    steps = (
        ("sources", tally.n_sources, None),
        ("videos", tally.n_videos, tally.video_s),
        ("shots", tally.n_shots, tally.shot_s),
        ("candidates", n_candidates, candidate_s),
        ("kept by filter", tally.candidates["kept"], tally.kept_s),
        ("labelled clips", n_labelled, None),
        ("in the dataset", tally.n_dataset, seconds),
    )
    return [{"name": name, "count": n, "hours": None if s is None else s / 3600} for name, n, s in steps]


def _drops(seen: Snapshot, clips: Sequence[Listed]) -> list[dict[str, Any]]:
    """Every reason for which something is not in the dataset, with how near to the threshold it was."""
    tally, rows = seen.tally, []
    for step, counted in tally.steps.items():
        rows += [_drop(step, reason, n) for reason, n in sorted(counted.rejected.items())]
        rows += [_drop(step, f"failed: {name}", n) for name, n in sorted(counted.failed.items())]
        rows += [_drop(step, "pending", counted.pending)] if counted.pending else []
    ratios = {reason: (setting, np.array(found)) for (reason, setting), found in tally.margins.items()}
    for reason, n in sorted(tally.candidates.items(), key=lambda item: -item[1]):
        if reason == "kept":
            continue
        row = _drop("filter.select", reason, n, tally.candidate_s[reason] / 3600)
        if reason in ratios:
            setting, found = ratios[reason]
            row |= {
                "setting": setting,
                "limit": getattr(seen.settings.filter, setting),
                "median": float(np.median(found)),
                "close": [int((np.abs(found - 1) <= share).sum()) for share in CLOSE],
            }
        rows.append(row)
    for reason, n in sorted(tally.left_out.items()):
        frames = sum(clip["frames"] for clip in clips if clip["leftOut"] == reason)
        rows.append(_drop("shards", reason, n, frames / TIMELINE_FPS / 3600))
    return rows


def _drop(step: str, reason: str, count: int, hours: float | None = None) -> dict[str, Any]:
    return {"step": step, "reason": reason, "count": count, "hours": hours}


def _margins(tally: RunCounts) -> dict[str, Any]:
    """A histogram for each reason: measured value / threshold, from 0 to 2 in steps of 0.1; above 2 in the last bin."""
    edges = np.linspace(0, 2, 21)
    return {reason: histogram(np.clip(found, 0, 2), edges) for (reason, _), found in sorted(tally.margins.items())}


def histogram(values: Iterable[float] | npt.NDArray[Any], edges: npt.NDArray[Any]) -> dict[str, list[float]]:
    """Counts between edges; the last bin holds its upper edge as well."""
    counts, _ = np.histogram(np.asarray(list(values), np.float64), edges)
    return {"edges": [round(float(e), 6) for e in edges], "counts": counts.tolist()}


def distributions(clips: Sequence[Listed]) -> dict[str, Any]:
    """Histograms and counts of the dataset's clips."""
    lengths = [clip["frames"] / TIMELINE_FPS for clip in clips]
    turns = [60 * clip["turns"] * TIMELINE_FPS / clip["frames"] for clip in clips]
    shares = np.linspace(0, 1, 21)
    sizes = Counter(f"{clip['width']}x{clip['height']}" for clip in clips).most_common(N_RESOLUTIONS)
    return {
        "length_s": histogram(lengths, _edges(lengths)),
        "people": dict(sorted(Counter(str(clip["people"]) for clip in clips).items())),
        "resolution": dict(sizes),
        "talk_share": histogram((share for clip in clips for share in clip["talk"]), shares),
        "turns_per_min": histogram(turns, _edges(turns)),
        "overlap": histogram((clip["overlap"] for clip in clips if clip["overlap"] is not None), shares),
        "silence": histogram((clip["silence"] for clip in clips), shares),
        "body_visible": histogram((share for clip in clips for share in clip["body"]), shares),
        "pose_scores": {name: _five([clip["scores"][name] for clip in clips]) for name in GROUPS},
    }


def _edges(values: Sequence[float], n_bins: int = 20) -> npt.NDArray[Any]:
    """About `n_bins` bins of a round width from 0 to above the largest value."""
    top = max(values, default=1.0) or 1.0
    width = next(w for w in (0.5, 1, 2, 5, 10, 20, 50, 100, 1e9) if top / w <= n_bins)
    return np.arange(0, np.floor(top / width) + 2) * width


def _five(values: Sequence[float]) -> list[float] | None:
    """5th, 25th, 50th, 75th and 95th percentile."""
    return [round(float(v), 4) for v in np.percentile(values, (5, 25, 50, 75, 95))] if values else None


def _averages(clips: Sequence[Listed]) -> dict[str, float | None]:
    """Averages over clips (over people for talk share and visibility); None where nothing was measured."""
    values: dict[str, list[float]] = defaultdict(list)
    for clip in clips:
        seconds = clip["frames"] / TIMELINE_FPS
        values["length_s"].append(seconds)
        values["people"].append(clip["people"])
        values["turns_per_min"].append(60 * clip["turns"] / seconds)
        values["silence"].append(clip["silence"])
        values["talk_share"] += clip["talk"]
        values["body_visible"] += clip["body"]
        if clip["overlap"] is not None:
            values["overlap"].append(clip["overlap"])
    names = ("length_s", "people", "turns_per_min", "silence", "talk_share", "body_visible", "overlap")
    return {name: float(np.mean(values[name])) if values[name] else None for name in names}


def _compared(tally: RunCounts, clips: Sequence[Listed], seconds: float) -> list[dict[str, str]]:
    counts = sorted({clip["people"] for clip in clips})
    people = "" if not counts else f"{counts[0]}-{counts[-1]}" if len(counts) > 1 else str(counts[0])
    kept = f"{100 * seconds / tally.video_s:.1f} %" if tally.video_s else ""
    ours = {"name": "this dataset", "hours": f"{seconds / 3600:.3g}", "people": people, "kept": kept}
    return [ours, *PUBLISHED]


def costs(lanes: Iterable[StepQueue], accepted_s: float) -> list[dict[str, Any]]:
    """Work of each step over all runs, failed attempts and work that settings made obsolete included.

    `gpu_h` is a unit's time times the GPUs that the step reserves as it is set now.
    """
    rows = []
    for lane in lanes:
        work = [(wall_s, cpu_s) for _, _, wall_s, cpu_s in lane.ledger.work()]
        wall_s, cpu_s = (sum(pair[i] for pair in work) for i in (0, 1))
        rows.append(
            {
                "step": lane.step.name,
                "attempts": len(work),
                "wall_h": wall_s / 3600,
                "cpu_h": cpu_s / 3600,
                "gpu_h": wall_s * lane.stage.resources.gpus / 3600,
                "per_accepted_s": wall_s / accepted_s if accepted_s else None,
            }
        )
    return rows


def _failures(seen: Snapshot) -> list[dict[str, Any]]:
    """Failures by class, step and message, the most frequent first."""
    say = partial(hints.on_page, seen.workspace.uri)
    groups: Counter[tuple[str, str, str]] = Counter()
    for step, entry in seen.failures:
        message = hints.shown_on_page(seen.workspace.uri, entry.message or "")
        groups[entry.failure_class or "?", step, message[:300]] += 1
    return [
        {"class": kind, "step": step, "message": message, "count": n, "advice": advice(kind, say)}
        for (kind, step, message), n in groups.most_common(N_MESSAGES)
    ]


def quality(clips: Sequence[Listed], samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Precision of the filter and accuracy of who-speaks labels, from each random sample that somebody has begun.

    Precision: accepted / (accepted + rejected) clips. Accuracy: frames and people whose label the reviewer left as it
    was, over the clips whose labels were checked in the whole; see `mit_builder.report.intervals`.
    """
    by_id = {clip["id"]: clip for clip in clips}
    found = []
    for sample in samples:
        drawn = [by_id[name] for name in sample.clip_ids if name in by_id]
        judged = [clip for clip in drawn if clip["review"] and clip["review"]["verdict"]]
        checked = [clip for clip in drawn if clip["review"] and clip["review"]["checked"]]
        if not judged and not checked:
            continue
        accepted = sum(clip["review"]["verdict"] == "accept" for clip in judged)
        totals = [clip["frames"] * clip["people"] for clip in checked]
        right = [total - clip["changed"] for total, clip in zip(totals, checked, strict=True)]
        found.append(
            {
                "sample": sample.sample_id,
                "drawn": len(sample.clip_ids),
                "judged": len(judged),
                "accepted": accepted,
                "precision": vars(wilson(accepted, len(judged))) if judged else None,
                "checked": len(checked),
                "labels": sum(totals),
                "accuracy": vars(clustered(right, totals)) if checked else None,
            }
        )
    return found


def _reviewed(clips: Sequence[Listed]) -> dict[str, int]:
    verdicts = Counter(clip["review"]["verdict"] for clip in clips if clip["review"])
    corrected = sum(bool(clip["corrections"]) for clip in clips)
    return {"accepted": verdicts["accept"], "rejected": verdicts["reject"], "corrected": corrected}


def _models(lanes: dict[str, StepQueue]) -> dict[str, str]:
    return {lane.step.name: lane.backend for lane in lanes.values() if lane.backend}


def _worked_until(lanes: Iterable[StepQueue]) -> str:
    """When the latest unit was begun, in UTC; the report itself has no clock."""
    latest_s = max((start_s for lane in lanes for _, start_s, _, _ in lane.ledger.work()), default=0.0)
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(latest_s)) if latest_s else ""
