"""Speed and memory of the pipeline on this machine, as Markdown tables.

    python benchmarks/run.py speed [VIDEO ...]      wall seconds per video-second of each stage, and the engine's share
    python benchmarks/run.py memory [VIDEO]         peak memory on a long video against a short one
    python benchmarks/run.py                        both, on the bundled demo

All figures come from real stages and real decoding. `speed` runs the installed command with Ray. `memory` runs one
stage at a time, each in a process of its own, on videos made by repeating VIDEO without re-encoding.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from manifests.arrays import read_arrays, write_arrays
from manifests.rows import PEOPLE, Clip, ShotRun, Video
from manifests.sources import file_source
from mit_builder.config import settings
from mit_builder.config.settings import Settings
from mit_builder.driver.snapshot import Snapshot
from mit_builder.engine.specs import worker_specs
from mit_builder.engine.worker import Task, Worker
from mit_builder.labels.tracking import sweep
from mit_builder.media.write import ffmpeg_executable
from mit_builder.pipeline import STEPS, shot_runs
from mit_builder.storage.workspace import Workspace

DEMO = Path(__file__).resolve().parent.parent / "manifests" / "demo" / "demo.mp4"
SHORT_S, LONG_S, LONG_POSE_S = 120, 1800, 480
MEMORY_SETTINGS = ("filter.detect_stride=12", "filter.tile_stride=48", "pose.stride=5")
"""Memory does not depend on how often a frame is looked at; without these the long videos take most of an hour."""


WALL = (
    "whole command",
    "some stage at work",
    "before the first unit (imports, Ray)",
    "between units (workers start, models load)",
    "after the last unit (pictures)",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("speed", "memory", "all"), default="all")
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    videos = options.videos or [DEMO]
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start\n")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        if options.what in ("speed", "all"):
            speed(Path(folder), videos, options.overrides)
        if options.what in ("memory", "all"):
            memory(Path(folder), videos[0])


def speed(base: Path, videos: list[Path], overrides: list[str]) -> None:
    """Table of seconds per video-second, one column a video."""
    columns = [measure(base / f"speed{i}", video, overrides) for i, video in enumerate(videos)]
    print("| stage, engine ray | " + " | ".join(f"{v.name}: wall s / video s (CPU s / video s)" for v in videos) + " |")
    print("|---|" + "---|" * len(videos))
    for step in STEPS:
        cells = [f"{c[step.name][0]:.3f} ({c[step.name][1]:.3f})" for c in columns]
        print(f"| {step.name} | " + " | ".join(cells) + " |")
    for name in WALL:
        print(f"| {name} | " + " | ".join(f"{c[name][0]:.3f}" for c in columns) + " |")
    shares = [1 - c[WALL[1]][0] / c[WALL[0]][0] for c in columns]
    print("| engine's share: wall without a stage at work / wall | " + " | ".join(f"{s:.0%}" for s in shares) + " |\n")


def measure(place: Path, video: Path, overrides: list[str]) -> dict[str, tuple[float, float]]:
    """Seconds per video-second: (wall, CPU) of each step, and the parts of the whole command's wall."""
    sets = [part for override in overrides for part in ("--set", override)]
    program = [
        sys.executable,
        "-m",
        "mit_builder",
        "run",
        "--workspace",
        str(place),
        "--json",
        *sets,
        str(video),
    ]
    started_s = time.time()
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    ended_s = time.time()
    end = json.loads(done.stdout.splitlines()[-1])
    length_s = end["video_s"]
    table = {step.name: (0.0, 0.0) for step in STEPS}
    for name, stage in end["stages"].items():
        table[name] = (stage["duration_s"] / length_s, stage["cpu_s"] / length_s)
    lanes = Snapshot.of(Workspace(place)).lanes.values()
    units = {
        (lane.step.name, entry.unit_id): (entry.started_at_s, entry.started_at_s + entry.duration_s)
        for lane in lanes
        for entry in lane.ledger.entries()
    }
    at_work = [span for span, present in sweep(units, (started_s, ended_s)) if present]
    first_s, last_s = at_work[0][0], at_work[-1][1]
    working_s = sum(end_s - start_s for start_s, end_s in at_work)
    walls = (
        ended_s - started_s,
        working_s,
        first_s - started_s,
        last_s - first_s - working_s,
        ended_s - last_s,
    )
    return table | {name: (wall_s / length_s, 0.0) for name, wall_s in zip(WALL, walls, strict=True)}


def memory(base: Path, video: Path) -> None:
    """Table of peak memory, one row a stage."""
    print(f"settings: {', '.join(MEMORY_SETTINGS)}; video: {video.name}\n")
    print("| stage, engine none | short | long | peak MB short | peak MB long | ratio |")
    print("|---|---|---|---|---|---|")
    lengths = {SHORT_S: base / "short.mp4", LONG_S: base / "long.mp4"}
    peaks: dict[str, list[float]] = {}
    for length_s, path in lengths.items():
        repeat(video, path, length_s)
        for name, peak in in_process(_peaks_until_cut, path, base / f"memory{length_s}").items():
            peaks.setdefault(name, []).append(peak)
    for name, (short, long) in peaks.items():
        print(f"| {name} | {SHORT_S} s | {LONG_S} s | {short:.0f} | {long:.0f} | {long / short:.2f} |")
    clip, place = demo_clip(base)
    short, long = (in_process(_peak_of_pose, place, clip, s) for s in (SHORT_S, LONG_POSE_S))
    print(f"| pose | {SHORT_S} s | {LONG_POSE_S} s | {short:.0f} | {long:.0f} | {long / short:.2f} |\n")


def repeat(video: Path, target: Path, length_s: float) -> None:
    """Repeat a video without re-encoding until it is `length_s` long."""
    options = ["-y", "-v", "error", "-stream_loop", "-1", "-i", str(video), "-t", str(length_s), "-c", "copy"]
    subprocess.run([ffmpeg_executable(), *options, str(target)], check=True)


def in_process(function: Any, *arguments: Any) -> Any:
    """Call in a fresh process, so that the peak is this call's alone."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(function, arguments)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@cache
def loaded(place: Path, step: str) -> Worker:
    """A worker that is ready: one a step in a process, as in a run, so that models are loaded once."""
    worker = Worker(worker_specs(memory_settings(), Workspace(place), "bench")[step])
    problem = worker.ready()
    if problem:
        raise SystemExit(f"{step}: {problem}")
    return worker


def memory_settings() -> Settings:
    return settings.load(None, MEMORY_SETTINGS)


def work(place: Path, step: str, row: Any) -> tuple[Any, ...]:
    """Output rows of one unit."""
    entry = loaded(place, step).run([Task("bench", "0" * 32, row)])[0]
    if entry.status != "done":
        raise SystemExit(f"{step}: {entry.message or entry.reason}")
    return entry.outputs


def _peaks_until_cut(path: Path, place: Path) -> dict[str, float]:
    """Peak memory after download, shots and filter, MB; a peak includes those before it."""
    peaks = {}
    video: Video = work(place, "download", file_source(path))[0]
    peaks["download"] = peak_mb()
    shots = work(place, "shots", video)
    peaks["download, shots"] = peak_mb()
    for run in shot_runs(shots, run_s=memory_settings().filter.run_s):
        for tracks in work(place, "filter.detect", ShotRun(video, run)):
            work(place, "filter.select", tracks)
    peaks["download, shots, filter"] = peak_mb()
    return peaks


def demo_clip(base: Path) -> tuple[Clip, Path]:
    """A kept clip of the demo, and its workspace."""
    place = base / "demo"
    stages = ["--stage", "download", "--stage", "shots", "--stage", "filter"]
    command = [sys.executable, "-m", "mit_builder", "run", *stages, "--workspace", str(place), str(DEMO)]
    subprocess.run(command, check=True, capture_output=True)
    clips = [
        row for entry in Snapshot.of(Workspace(place)).lanes["filter.cut"].ledger.entries() for row in entry.outputs
    ]
    return clips[0], place


def _peak_of_pose(place: Path, clip: Clip, length_s: int) -> float:
    """Peak memory of pose on the clip repeated to `length_s`, MB."""
    workspace = Workspace(place)
    times = length_s * 25 // clip.n_frames
    with tempfile.TemporaryDirectory() as folder, workspace.local(clip.mp4.key) as mp4:
        repeat(mp4, Path(folder) / "long.mp4", times * clip.n_frames / 25)
        media = workspace.commit(Path(folder) / "long.mp4", f"clips/bench{length_s}.mp4")
        with workspace.local(clip.people.key) as path:
            rows = read_arrays(path)
        arrays = ("boxes_xyxy", "face_boxes_xyxy", "face_detected")
        tiled = [{**row, **{name: np.concatenate([row[name]] * times) for name in arrays}} for row in rows]
        write_arrays(Path(folder) / "people.parquet", PEOPLE, tiled)
        people = workspace.commit(Path(folder) / "people.parquet", f"clips/bench{length_s}.parquet")
    work(place, "pose", replace(clip, mp4=media, people=people, n_frames=times * clip.n_frames))
    return peak_mb()


if __name__ == "__main__":
    main()
