"""Choose the constants of `lips` and of the voice gate on half A, and report both halves apart.

    python benchmarks/choose.py WORKSPACE [WORKSPACE=TRUTH.json …] [--times TIMES.json] [--report]

Every workspace is one that `mit-build run` finished; nothing is decoded again. A demo's workspace is given with what
scripts/build_demo.py wrote beside its video; --times names published speaking times; the others are by eye
(benchmarks/speaking_times.json). --report chooses nothing.

Objective: balanced accuracy (mean of the recalls of speech and of silence over person-frames), the mean over the videos
of half A of the mean over their clips that have both. A constant moves only if it alone gains more than 0.01 there, and
then to the nearest value that does; with half a dozen videos, the best of thousands of combinations is luck.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
from known_speech import Agreement, Flags, Floats, KnownClip, agreement, known_clips

from mit_builder.config.settings import SpeechSettings
from mit_builder.labels.speaking import is_speaking, smooth
from mit_builder.models.asd.lips import CHOSEN, UNSEEN_LOGIT, LipConstants, activity, lead

MARGIN = 0.01
VALUES: dict[str, tuple[float, ...]] = {
    "deviation_frames": (7, 9, 11, 15, 17),
    "activity_frames": (15, 21, 25, 37, 43),
    "noise": (0.001, 0.003, 0.004, 0.008),
    "max_lead": (0.0, 0.4, 0.8, 1.5),
    "intercept": tuple(CHOSEN.intercept + bias for bias in (-1.5, -1.0, -0.5, -0.25, 0.25, 0.5, 1.0, 1.5)),
}
GATES = (0.02, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.4)

RunOptions = tuple[LipConstants, float]
PRESENT: RunOptions = (CHOSEN, SpeechSettings().min_voice_activity)


def labels(clip: KnownClip, active: Floats, choice: RunOptions) -> tuple[Floats, Flags]:
    """Smoothed scores and flags as the speech stage makes them, from activities (n_people, n_frames)."""
    constants, gate = choice
    ahead = lead(np.asarray(active, np.float64), constants.max_lead)
    scores = constants.slope * (active + ahead) + constants.intercept
    smoothed = smooth(np.where(np.isnan(active), UNSEEN_LOGIT, scores))
    return smoothed, is_speaking(smoothed, clip.voice, gate)


def activities(clip: KnownClip, constants: LipConstants) -> Floats:
    return np.stack([activity(opening, constants) for opening in clip.openings])


def objective(clips: Sequence[KnownClip], measured: Sequence[Floats], choice: RunOptions) -> float:
    by_video: dict[str, list[float]] = {}
    for clip, active in zip(clips, measured, strict=True):
        found = agreement(clip, *labels(clip, active, choice)).balanced_accuracy
        if not np.isnan(found):
            by_video.setdefault(clip.clip_id.partition("_")[0], []).append(found)
    return float(np.mean([np.mean(values) for values in by_video.values()]))


def alternatives() -> Iterator[tuple[str, RunOptions]]:
    """Every other value of every constant, one at a time, the nearest to the present one first."""
    constants, gate = PRESENT
    for name, values in VALUES.items():
        now = getattr(constants, name)
        for value in sorted(set(values) - {now}, key=lambda value: abs(value - now)):
            yield f"{name} {value:g}", (replace(constants, **{name: value}), gate)
    for value in sorted(set(GATES) - {gate}, key=lambda value: abs(value - gate)):
        yield f"voice gate {value:g}", (constants, value)


def choose(clips: Sequence[KnownClip]) -> RunOptions:
    """The first alternative that is better by more than `MARGIN`, else the present constants."""
    present = _objective(clips, PRESENT)
    print(f"half A, {len(clips)} clips: {present:.4f} with {PRESENT}")
    found = [(name, _objective(clips, choice), choice) for name, choice in alternatives()]
    for name, value, _ in found:
        print(f"  {name}: {value:.4f}")
    return next((choice for _, value, choice in found if value > present + MARGIN), PRESENT)


def _objective(clips: Sequence[KnownClip], choice: RunOptions) -> float:
    return objective(clips, [activities(clip, choice[0]) for clip in clips], choice)


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
    choice = PRESENT if options.report else choose([clip for clip in clips if clip.half == "A"])
    found = [agreement(clip, *labels(clip, activities(clip, choice[0]), choice)) for clip in clips]
    report(f"lips with the {'present' if choice == PRESENT else 'chosen'} constants {choice}", clips, found)


if __name__ == "__main__":
    main()
