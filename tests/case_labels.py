"""`make cases`: every file of shared/cases through the whole program, and its labels beside those of base.mp4.

One run with the real stages over base and all cases; a table of what became of each. Exit code 1 where a clip's people,
frames or `speaking` are not base's as INDEX.md of the cases asks.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from manifests.ledger import Ledger
from manifests.rows import Candidate, Source, Video
from mit_builder.dataset.reader import DatasetFiles
from mit_builder.storage.workspace import Workspace

AS_BASE = 0.97
"""Share of person-frames whose `speaking` must be base's."""
NO_CLIP = {
    "photo_kenburns.mp4": "still_picture",
    "3d_side_by_side.mkv": "too_few_people",
    "interlaced_50i.ts": "too_short",  # it is 4.6 s long; that it has no combs is tested in tests/media
    # Cut where the times jump: two stretches of 3 s.
    "ts_jump_back_20s.ts": "too_short",
    "ts_jump_forward_17s.ts": "too_short",
}
"""Why nothing of a file is kept by the settings below."""


def main(shared: Path, place: Path) -> int:
    """Run over all cases; the exit code."""
    media = shared / "cases" / "media"
    command = [sys.executable, "-m", "mit_builder", "run", "--workspace", str(place), str(media)]
    options = ["--engine", "serial", "--set", "run.overlays=0", "--set", "filter.min_face_px=36"]
    subprocess.run([*command, *options], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    workspace = Workspace(place)
    names = {video.video_id: video.source_url.removeprefix("file:") for video in outputs(workspace, "download", Video)}
    rows: dict[str, list[dict[str, object]]] = {name: [] for name in names.values()}
    for row in DatasetFiles(place).rows(["video_id", "start_frame", "n_frames", "people"]):
        rows[names[str(row["video_id"])]].append(row)
    reasons: dict[str, set[str]] = {name: set() for name in rows}
    for candidate in outputs(workspace, "filter.select", Candidate):
        reasons[names[candidate.video_id]].add(candidate.reason or "kept")
    (base,) = rows["base.mp4"]
    problems = 0
    for name in sorted(rows):
        told, is_right = judged(name, rows[name], base, reasons[name])
        problems += not is_right
        print(f"| {name} | {told} | {'as it should be' if is_right else 'WRONG'} |")
    return min(1, problems)


def outputs(workspace: Workspace, step: str, kind: type) -> list:
    """The latest rows of one kind that a step has made."""
    entries = Ledger(workspace, step, (Video, Source) if kind is Video else (kind,)).newest()
    return [row for entry in entries for row in entry.outputs if isinstance(row, kind)]


def judged(name: str, rows: list, base: dict, reasons: set[str]) -> tuple[str, bool]:
    """What came of a file, and whether it is right."""
    if name in NO_CLIP:
        return ", ".join(sorted(reasons)), not rows and NO_CLIP[name] in reasons
    if len(rows) != 1:
        return f"{len(rows)} clips ({', '.join(sorted(reasons))})", False
    (row,) = rows
    people, others = row["people"], base["people"]
    n = min(row["n_frames"], base["n_frames"])
    if len(people) != len(others):
        return f"{len(people)} people", False
    same = np.mean([np.mean(p["speaking"][:n] == o["speaking"][:n]) for p, o in zip(people, others, strict=True)])
    told = f"{len(people)} people, {row['n_frames']} frames, speaking equal in {same:.3f}"
    return told, bool(same >= AS_BASE and abs(row["n_frames"] - base["n_frames"]) <= 1)


if __name__ == "__main__":
    shared = Path(os.environ.get("MIT_BUILDER_TEST_SHARED") or Path(__file__).resolve().parent.parent.parent / "shared")
    if not (shared / "cases").is_dir():
        sys.exit("no cases: set MIT_BUILDER_TEST_SHARED to the folder that holds cases/")
    with tempfile.TemporaryDirectory(prefix="cases-") as folder:
        sys.exit(main(shared, Path(sys.argv[1] if len(sys.argv) > 1 else folder) / "ws"))
