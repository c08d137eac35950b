"""Speaking labels of a workspace against known speaking times, as a Markdown table.

    python benchmarks/labels.py WORKSPACE TRUTH.json [TITLE]

TRUTH.json is what scripts/build_demo.py writes beside its video, or a list of speaking times in the form
`{"NAME.mp4": {"left": [[start_s, end_s], …], "right": […]}}`; of the latter, the entry counts whose name a clip's
title ends in (before "_gt"). TITLE limits the clips to those whose video's title contains it. Agreement is that of the
highest smoothed score in frames with one true speaker; precision and recall are of person-frames.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from mit_builder.dataset.reader import DatasetFiles

sys.path += [str(Path(__file__).resolve().parent.parent / "tests" / "e2e")]
import demo_truth

COLUMNS = (
    "title",
    "start_s",
    "fps",
    "n_frames",
    "width_px",
    *(
        f"people.list.element.{name}"
        for name in ("face_boxes_xyxy", "keypoints", "speaking", "speaking_score_smoothed")
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("title", nargs="?", default="")
    options = parser.parse_args()
    columns = [leaf for name in COLUMNS for leaf in _leaves(name)]
    rows = [row for row in DatasetFiles(options.workspace).rows(columns) if options.title in (row["title"] or "")]
    record = json.loads(options.truth.read_text())
    print("| clip | who speaks | balanced accuracy | speech P / R | silence P / R | talk share |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        clip = demo_truth.read_clip(row)
        truth = demo_truth.load_truth(options.truth) if "shots" in record else _from_times(record, row, clip)
        if truth:
            s, share = demo_truth.score_speech([clip], truth), demo_truth.talk_share([clip])
            print(
                f"| {row['title']} {row['start_s']:.1f} s | {s.who_speaks:.3f} | {s.balanced_accuracy:.3f} "
                f"| {s.speech_precision:.3f} / {s.speech_recall:.3f} | {s.silence_precision:.3f} / "
                f"{s.silence_recall:.3f} | {share:.2f} |"
            )


def _leaves(name: str) -> list[str]:
    inner = {"face_boxes_xyxy": ".list.element.list.element", "keypoints": ".list.element.list.element.list.element"}
    column = name.rpartition(".")[2]
    return [name + inner.get(column, ".list.element" if name.startswith("people.") else "")]


def _from_times(record: dict[str, Any], row: dict[str, Any], clip: demo_truth.Clip) -> tuple[demo_truth.TrueShot, ...]:
    """One shot with the clip's own faces and the known speaking times, people from left to right."""
    title = f"_{row['title'].removesuffix('_gt')}"
    times = next((v for k, v in record.items() if title.endswith(f"_{Path(k).stem}")), None)
    if times is None or len(times) != len(clip.people):
        return ()
    now_s = (clip.start_frame + np.arange(clip.n_frames) + 0.5) / row["fps"]
    people = {
        side: demo_truth.TruePerson(
            person.face_boxes_xyxy, np.array([any(a <= t < b for a, b in times[side]) for t in now_s]), {}
        )
        for side, person in zip(sorted(times), clip.people, strict=True)
    }
    return (demo_truth.TrueShot("known times", clip.start_frame, clip.end_frame, True, None, people),)


if __name__ == "__main__":
    main()
