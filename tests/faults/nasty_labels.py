"""Labels of media that lie: one scene in every form that can be read, through the whole pipeline, against itself.

    python tests/faults/nasty_labels.py [--only WORD]

The scene is the first two-shot of the bundled demo. Each form of it is a video of one run of the installed command
(embedded profile, serial engine, no fakes). A form's labels are compared with those of the plain file at equal times:
where the nose is, and who speaks. What the form itself takes away (no sound, half a second of it) gives another
verdict, which the table names.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from nasty_media import DEMO, ENCODED, H264, ffmpeg

from manifests.ledger import Ledger
from manifests.rows import Candidate, Source, Video
from manifests.sources import file_source
from mit_builder.dataset.reader import DatasetFiles
from mit_builder.labels.keypoints import KEYPOINT_NAMES
from mit_builder.storage.workspace import Workspace

FORMS = {
    **ENCODED,
    "timestamps_wrap.ts": "-c:v libx264 -c:a aac -output_ts_offset 95440",
}
NOSE = KEYPOINT_NAMES.index("nose")


def make(folder: Path, only: str) -> Iterator[Path]:
    """The plain file, then its forms."""
    base = folder / "base.mp4"
    ffmpeg(DEMO, f"-t 6 -vf scale=640:360 {H264} -crf 12 -g 12 -c:a aac", base)
    yield base
    for name, arguments in FORMS.items():
        if only in name:
            ffmpeg(base, arguments, folder / name)
            yield folder / name


def noses(row: dict[str, Any]) -> np.ndarray:
    """(people, frames, 2) float, as shares of the picture's width and height."""
    size = np.array([row["width_px"], row["height_px"]])
    return np.stack([np.asarray(p["keypoints"])[:, NOSE, :2] for p in row["people"]]) / size


def speaking(row: dict[str, Any]) -> np.ndarray:
    """(people, frames) bool."""
    return np.stack([np.asarray(p["speaking"], bool) for p in row["people"]])


def compared(row: dict[str, Any], base: dict[str, Any]) -> str:
    """How far a form's labels are from the plain file's, at equal times."""
    start = round((row["start_s"] - base["start_s"]) * 25)
    n = min(row["n_frames"], base["n_frames"] - max(start, 0))
    ours, theirs = slice(max(-start, 0), max(-start, 0) + n), slice(max(start, 0), max(start, 0) + n)
    n = min(len(range(*ours.indices(row["n_frames"]))), len(range(*theirs.indices(base["n_frames"]))))
    ours, theirs = slice(ours.start, ours.start + n), slice(theirs.start, theirs.start + n)
    if row["n_people"] != base["n_people"]:
        return f"{row['n_people']} people, not {base['n_people']}"
    away = np.linalg.norm(noses(row)[:, ours] - noses(base)[:, theirs], axis=-1) * 100
    same = (speaking(row)[:, ours] == speaking(base)[:, theirs]).mean()
    return (
        f"{n} frames; nose {np.nanmedian(away):.2f} (worst {np.nanmax(away):.2f}) % of the picture away; "
        f"speaking equal in {same:.1%}"
    )


def verdicts(workspace: Workspace) -> dict[str, str]:
    """What became of each video, by its title, or by its source where it was not taken."""
    found: dict[str, str] = {}
    titles: dict[str, str] = {}
    for entry in Ledger(workspace, "download", (Video, Source)).entries():
        for video in entry.outputs:
            titles[video.video_id] = video.title
        if entry.status != "done":
            found[entry.unit_id] = entry.reason or entry.message
    for entry in Ledger(workspace, "filter.select", (Candidate,)).entries():
        for candidate in entry.outputs:
            name = titles[candidate.video_id]
            found[name] = "; ".join(sorted({found.get(name, ""), candidate.reason or "kept"} - {""}))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="forms that hold this word")
    only = parser.parse_args().only
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "media"
        folder.mkdir()
        files = list(make(folder, only))
        command = [
            sys.executable,
            "-m",
            "mit_builder",
            "run",
            "--engine",
            "serial",
            "--workspace",
            name + "/ws",
        ]
        command += ["--set", "filter.min_face_px=36", *map(str, files)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in DatasetFiles(Path(name) / "ws").rows():
            rows.setdefault(row["title"], []).append(row)
        why = verdicts(Workspace(name + "/ws"))
        (base,) = rows["base"]
        print(f"exit code {done.returncode}; plain file: {base['n_frames']} frames from {base['start_s']} s\n")
        print("| form | made by | clips | against the plain file |\n|---|---|---|---|")
        for path in files:
            mine = rows.get(path.stem, [])
            text = (
                "; ".join(compared(row, base) for row in mine)
                or why.get(path.stem)
                or why.get(file_source(path).source_id, "")
            )
            print(f"| {path.name} | {json.dumps(FORMS.get(path.name, ''))[1:-1]} | {len(mine)} | {text} |")


if __name__ == "__main__":
    main()
