"""Make README's two pictures out of a finished workspace: a clip with boxes, skeletons and score strips.

    make demo
    .venv/bin/python scripts/make_readme_pictures.py mit-workspace

Writes docs/pictures/clip.png, one frame, and docs/pictures/clip.webp, three seconds that play in a loop. Both are taken
from the overlay video that the report has of the same clip.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from manifests.rows import TIMELINE_FPS
from mit_builder.dataset.reader import DatasetFiles
from mit_builder.media.write import ffmpeg_executable
from mit_builder.report.overlay import write_overlay
from mit_builder.report.view import view_of_row

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "pictures"
WIDTH_PX = 720
MOVING_S, MOVING_FPS = 3.2, 12.5


def busiest_window(speaking: npt.NDArray[np.bool_], n_frames: int) -> int:
    """The first frame of the window in which the person who speaks least speaks longest.

    Args:
        speaking: (n_people, frames of the clip).
        n_frames: frames of the window; the whole clip where it is shorter.
    """
    spoken = np.pad(speaking.cumsum(axis=1), ((0, 0), (1, 0)))
    n_frames = min(n_frames, speaking.shape[1])
    return int((spoken[:, n_frames:] - spoken[:, :-n_frames]).min(axis=0).argmax())


def make_pictures(workspace: Path, output: Path) -> list[Path]:
    """Draw the dataset's first clip.

    Args:
        workspace: a workspace with a finished dataset.
        output: an existing folder.

    Returns:
        The two files.
    """
    still, moving = output / "clip.png", output / "clip.webp"
    with tempfile.TemporaryDirectory() as scratch:
        row = next(iter(DatasetFiles(workspace).rows()))
        view = view_of_row(row, DatasetFiles(workspace), Path(scratch))
        overlay = Path(scratch) / "overlay.mp4"
        write_overlay(view, overlay)
        n_frames = round(MOVING_S * TIMELINE_FPS)
        start = busiest_window(view.speaking, n_frames)
        spoken = np.flatnonzero(view.speaking.any(axis=0))
        shown = int(spoken[np.abs(spoken - (start + n_frames // 2)).argmin()]) if len(spoken) else start
        _ffmpeg(overlay, shown, ["-frames:v", "1", "-vf", f"scale={WIDTH_PX}:-2:flags=area", str(still)])
        filters = f"fps={MOVING_FPS},scale={WIDTH_PX}:-2:flags=area"
        moves = ["-t", str(MOVING_S), "-an", "-vf", filters, "-c:v", "libwebp_anim", "-q:v", "60", "-loop", "0"]
        _ffmpeg(overlay, start, [*moves, str(moving)])
    return [still, moving]


def _ffmpeg(video: Path, start_frame: int, options: list[str]) -> None:
    seek = ["-ss", str(start_frame / TIMELINE_FPS), "-i", str(video)]
    subprocess.run([ffmpeg_executable(), "-y", "-loglevel", "error", *seek, *options], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make README's pictures out of a finished workspace.")
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--output", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for path in make_pictures(arguments.workspace, arguments.output):
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
