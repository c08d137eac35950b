"""How far the speaking labels of two workspaces with the same clips agree, e.g. one run with lips, one with lr-asd.

    python benchmarks/agree.py WORKSPACE OTHER

Per clip: share of person-frames with the same label, share of frames in which the same person scores highest (where
either has a speaker), and the talk shares of the first and the other.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from mit_builder.dataset.reader import DatasetFiles

COLUMNS = (
    "clip_id",
    "title",
    "start_s",
    *(f"people.list.element.{c}.list.element" for c in ("speaking", "speaking_score_smoothed")),
)


def labels(workspace: Path) -> dict[str, tuple[str, np.ndarray, np.ndarray]]:
    """Clip -> its name, flags and smoothed scores (n_people, n_frames)."""
    found = {}
    for row in DatasetFiles(workspace).rows(COLUMNS):
        flags, scores = (np.stack([p[name] for p in row["people"]]) for name in ("speaking", "speaking_score_smoothed"))
        found[row["clip_id"]] = (f"{row['title']} {row['start_s']:.1f} s", flags.astype(bool), scores)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("other", type=Path)
    options = parser.parse_args()
    first, second = labels(options.workspace), labels(options.other)
    print("| clip | same label | same top person | talk share |\n|---|---|---|---|")
    for clip in sorted(first.keys() & second.keys(), key=lambda clip: first[clip][0]):
        (name, ours, our_scores), (_, theirs, their_scores) = first[clip], second[clip]
        spoken = (ours | theirs).any(axis=0)
        same_top = (our_scores.argmax(axis=0) == their_scores.argmax(axis=0))[spoken].mean()
        print(f"| {name} | {(ours == theirs).mean():.3f} | {same_top:.3f} | {ours.mean():.2f} / {theirs.mean():.2f} |")


if __name__ == "__main__":
    main()
