"""Choose the constants of `lips` and of the voice gate on half A, and report both halves apart.

    python benchmarks/choose.py WORKSPACE [WORKSPACE=TRUTH.json …] [--times TIMES.json] [--report]

Every workspace is one that `mit-build run` finished; nothing is decoded again. A demo's workspace is given with what
scripts/build_demo.py wrote beside its video; --times names published speaking times; the others are by eye
(benchmarks/speaking_times.json). --report chooses nothing.

Objective: balanced accuracy (mean of the recalls of speech and of silence over person-frames), the mean over the videos
of half A of the mean over their clips that have both. Present constants stay unless others are better by more than
0.01 there; then those are taken that change the fewest constants, and these least, and come within 0.01 of the best.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
from known_speech import Agreement, Flags, Floats, KnownClip, agreement, known_clips

from mit_builder.config import SpeechSettings
from mit_builder.models.lips import CHOSEN, UNSEEN_LOGIT, LipConstants, activity, lead
from mit_builder.speaking import is_speaking, smooth

MARGIN = 0.01
DEVIATION_FRAMES = (9, 13, 17)
ACTIVITY_FRAMES = (15, 21, 25, 31, 37)
NOISE = (0.001, 0.002, 0.004, 0.008)
MAX_LEADS = (0.0, 0.4, 0.8, 1.1, 1.5)
BIASES = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
"""Added to the present intercept: how far zero log-odds move."""
GATES = (0.02, 0.05, 0.1, 0.15, 0.25, 0.4)

Choice = tuple[LipConstants, float]
PRESENT: Choice = (CHOSEN, SpeechSettings().min_voice_activity)


def labels(clip: KnownClip, active: Floats, choice: Choice) -> tuple[Floats, Flags]:
    """Smoothed scores and flags as the speech stage makes them, from activities (n_people, n_frames)."""
    constants, gate = choice
    ahead = lead(np.asarray(active, np.float64), constants.max_lead)
    scores = constants.slope * (active + ahead) + constants.intercept
    smoothed = smooth(np.where(np.isnan(active), UNSEEN_LOGIT, scores))
    return smoothed, is_speaking(smoothed, clip.voice, gate)


def activities(clip: KnownClip, constants: LipConstants) -> Floats:
    return np.stack([activity(opening, constants) for opening in clip.openings])


def objective(clips: Sequence[KnownClip], measured: Sequence[Floats], choice: Choice) -> float:
    by_video: dict[str, list[float]] = {}
    for clip, active in zip(clips, measured, strict=True):
        found = agreement(clip, *labels(clip, active, choice)).balanced_accuracy
        if not np.isnan(found):
            by_video.setdefault(clip.clip_id.partition("_")[0], []).append(found)
    return float(np.mean([np.mean(values) for values in by_video.values()]))


def search(clips: Sequence[KnownClip]) -> Iterator[tuple[float, Choice]]:
    """Objective of every combination."""
    for deviation, mean, noise in itertools.product(DEVIATION_FRAMES, ACTIVITY_FRAMES, NOISE):
        windows = replace(CHOSEN, deviation_frames=deviation, activity_frames=mean, noise=noise)
        measured = [activities(clip, windows) for clip in clips]
        for limit, bias, gate in itertools.product(MAX_LEADS, BIASES, GATES):
            choice = (replace(windows, max_lead=limit, intercept=CHOSEN.intercept + bias), gate)
            yield objective(clips, measured, choice), choice


def report(title: str, clips: Sequence[KnownClip], found: Sequence[Agreement]) -> None:
    """A Markdown table: every clip, and the means of both halves."""
    print(f"\n{title}\n\n| clip | half | truth | who speaks | balanced accuracy | speech P / R | silence P / R |")
    print("|---|---|---|---|---|---|---|")
    for clip, result in sorted(zip(clips, found, strict=True), key=lambda pair: (pair[0].half, pair[0].name)):
        print(f"| {clip.name} | {clip.half} | {clip.truth} | {_cells(astuple(result))} |")
    for half in "AB":
        mine = [astuple(result) for clip, result in zip(clips, found, strict=True) if clip.half == half]
        if mine:
            print(f"| mean of {len(mine)} clips | {half} | | {_cells(np.nanmean(mine, axis=0))} |")


def _cells(values: Sequence[float] | Floats) -> str:
    who, balanced, *rest = ("-" if np.isnan(value) else f"{value:.3f}" for value in values)
    return f"{who} | {balanced} | {rest[0]} / {rest[1]} | {rest[2]} / {rest[3]}"


def _chosen(half_a: Sequence[KnownClip]) -> Choice:
    measured = [activities(clip, CHOSEN) for clip in half_a]
    present = objective(half_a, measured, PRESENT)
    found = list(search(half_a))
    best, best_choice = max(found, key=lambda item: item[0])
    print(f"half A, {len(half_a)} clips, {len(found)} combinations")
    print(f"  present {present:.4f} {PRESENT}\n  best {best:.4f} {best_choice}")
    for gate in GATES:
        print(f"  present with voice gate {gate}: {objective(half_a, measured, (CHOSEN, gate)):.4f}")
    if best <= present + MARGIN:
        return PRESENT
    value, choice = min((item for item in found if item[0] >= best - MARGIN), key=lambda item: _change(item[1]))
    print(f"  least changed within {MARGIN} of the best {value:.4f}")
    return choice


def _change(choice: Choice) -> tuple[int, float]:
    """How many constants differ from the present ones, and by how much in logarithms (intercept: as it is)."""
    ours, theirs = (np.array([*astuple(constants), gate]) for constants, gate in (choice, PRESENT))
    amounts = np.abs(np.log((ours + 0.05) / (theirs + 0.05)))
    amounts[5] = abs(ours[5] - theirs[5])
    return int((ours != theirs).sum()), float(amounts.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspaces", nargs="+", metavar="WORKSPACE[=TRUTH.json]")
    parser.add_argument("--times", type=Path, help="published speaking times")
    parser.add_argument("--report", action="store_true", help="choose nothing")
    options = parser.parse_args()
    clips: list[KnownClip] = []
    for given in options.workspaces:
        place, _, truth = given.partition("=")
        clips += known_clips(Path(place), Path(truth) if truth else None, options.times)
    report("As labelled", clips, [agreement(clip, clip.scores, clip.labelled) for clip in clips])
    choice = PRESENT if options.report else _chosen([clip for clip in clips if clip.half == "A"])
    found = [agreement(clip, *labels(clip, activities(clip, choice[0]), choice)) for clip in clips]
    report(f"lips with the {'present' if choice == PRESENT else 'chosen'} constants {choice}", clips, found)


if __name__ == "__main__":
    main()
