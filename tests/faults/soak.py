"""Half an hour of one run over a list of thousands of small videos: does memory grow, do open files?

    python tests/faults/soak.py --minutes 30

Engine ray. Media are real (local files, shots, decoding, cutting, encoding, Parquet); models are fixed answers
(soak_stages.py). Every ten seconds memory (VmRSS) and open files of the driver, of every worker and of Ray's own
processes are read from /proc. Prints a table; exits with 1 where the memory of the driver or of a stage's workers
grows by 1 MB a minute or more after the first five minutes, or their open files by more than two. Figures of several
processes of one kind are means, so that one that starts later does not look like growth.
"""

from __future__ import annotations

import argparse
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from bench import AS_THE_DRIVER, DEMO
from processes import command_of, family
from soak_stages import CLASSES, PIDS

from mit_builder.media.cut import cut_clip
from mit_builder.media.frames import read_frames
from mit_builder.media.write import write_video

HERE = Path(__file__).resolve().parent
EVERY_S, WARM_UP_S = 10.0, 300.0
MAX_MB_A_MINUTE, MAX_MORE_FILES = 1.0, 2
RAYS_OWN = ("gcs_server", "raylet", "DashboardAgent", "RuntimeEnvAgent", "log_monitor")
FRAMES = (100, 230)
"""Of the demo: five seconds of a two-shot."""
ZOOM = 4
SETTINGS = (
    "filter.min_face_px=0",
    "filter.min_voice_activity=0",
    "filter.min_stillness=0",
    "filter.max_camera_motion_pct=100",
    "shards.n_buckets=256",
    "run.overlays=0",
)
"""256 shards, of few clips each: their worker holds up to 64 MB of one, and growing towards that is no leak."""


@dataclass
class Series:
    """What the processes of one kind had, sample by sample."""

    at_s: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    n_files: list[float] = field(default_factory=list)
    n_processes: list[int] = field(default_factory=list)

    def after(self, start_s: float) -> Series:
        first = next((i for i, at_s in enumerate(self.at_s) if at_s >= start_s), len(self.at_s))
        return Series(self.at_s[first:], self.rss_mb[first:], self.n_files[first:], self.n_processes[first:])

    def mb_a_minute(self) -> float:
        """Slope of a line through the samples."""
        return float(np.polyfit(np.array(self.at_s) / 60, self.rss_mb, 1)[0]) if len(self.at_s) > 2 else 0.0

    def more_files(self) -> float:
        """Median of the last third against that of the first."""
        third = max(1, len(self.n_files) // 3)
        return float(np.median(self.n_files[-third:]) - np.median(self.n_files[:third])) if self.n_files else 0.0


def main() -> int:
    if sys.argv[1:2] == ["--driver"]:
        return drive(sys.argv[2:])
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--videos", type=int, default=6000, help="length of the list: more than the time is enough for")
    options = parser.parse_args()
    # Programs that a shell starts in the background ignore SIGINT.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        base = Path(folder)
        videos = many_videos(base / "videos", options.videos)
        (base / "pids").mkdir()
        began = time.monotonic()
        run = start(base, videos)
        kinds: dict[str, Series] = defaultdict(Series)
        with suppress(KeyboardInterrupt):
            sample(kinds, run, base / "pids", until=began + options.minutes * 60)
        took_s = time.monotonic() - began
        early = run.poll()
        run.send_signal(signal.SIGTERM)
        run.wait()
        n_clips = len(list((base / "workspace" / "speech").glob("*.parquet"))) // 2
        said = (base / "log").read_text()
    if early not in (None, 0) or "Traceback" in said:
        raise SystemExit(f"the run ended with {early}: {said[-2000:]}")
    load = os.getloadavg()[0]
    print(
        f"{took_s / 60:.1f} minutes, {n_clips} clips labelled ({n_clips * 60 / took_s:.0f} a minute), load {load:.0f}"
    )
    bad = report(kinds, WARM_UP_S if took_s > 2 * WARM_UP_S else took_s / 6)
    print(f"{len(bad)} kinds grow: {', '.join(bad)}" if bad else "nothing grows")
    return int(bool(bad))


def drive(arguments: list[str]) -> int:
    """`mit-build` with the stages of the soak."""
    from mit_builder import pipeline

    stages = {name: f"soak_stages:{kind.__name__}" for name, kind in CLASSES.items()}
    pipeline.STEPS = tuple(replace(step, stage=stages[step.name]) for step in pipeline.STEPS)
    from mit_builder.cli import main as cli

    cli.main(arguments)
    return 0


def many_videos(folder: Path, n_videos: int) -> Path:
    """Files that differ in a box that no player reads; their folder."""
    folder.mkdir()
    large, sound = folder.parent / "large.mp4", folder.parent / "sound.flac"
    cut_clip(DEMO, *FRAMES, large, sound, crf=16, audio_kbps=128)
    frames = [frame.image[::ZOOM, ::ZOOM] for frame in read_frames(large)]
    height_px, width_px = frames[0].shape[:2]
    write_video(folder / "0.mp4", frames, width_px=width_px, height_px=height_px, audio=sound)
    base = (folder / "0.mp4").read_bytes()
    for i in range(1, n_videos):
        (folder / f"{i}.mp4").write_bytes(base + struct.pack(">I4sQ", 16, b"free", i))
    return folder


def start(base: Path, videos: Path) -> subprocess.Popen[bytes]:
    path = [str(HERE.parents[1]), str(HERE.parent), str(HERE)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path), PIDS: str(base / "pids"), **AS_THE_DRIVER}
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    command = [sys.executable, __file__, "--driver", "run", *sets, "--workspace", str(base / "workspace"), str(videos)]
    with (base / "log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def sample(kinds: dict[str, Series], run: subprocess.Popen[bytes], pids: Path, *, until: float) -> None:
    """Add memory and open files of each kind of process, means over its processes, until the time is over."""
    began = time.monotonic()
    while time.monotonic() < until and run.poll() is None:
        found: dict[str, list[tuple[float, int]]] = defaultdict(list)
        for pid in (run.pid, *(pid for pid, _ in family(run.pid))):
            with suppress(OSError):  # it has just ended
                found[kind_of(pid, run.pid, pids)].append(measured(pid))
        for kind, values in found.items():
            kinds[kind].at_s.append(time.monotonic() - began)
            kinds[kind].rss_mb.append(float(np.mean([rss_mb for rss_mb, _ in values])))
            kinds[kind].n_files.append(float(np.mean([n_files for _, n_files in values])))
            kinds[kind].n_processes.append(len(values))
        time.sleep(EVERY_S)


def measured(pid: int) -> tuple[float, int]:
    status = Path(f"/proc/{pid}/status").read_text()
    rss_kb = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0)
    return rss_kb / 1024, len(os.listdir(f"/proc/{pid}/fd"))


def kind_of(pid: int, driver: int, pids: Path) -> str:
    """Driver, stage of a worker, or a process of Ray's."""
    if pid == driver:
        return "driver"
    if (pids / str(pid)).is_file():
        return f"worker: {(pids / str(pid)).read_text()}"
    command = command_of(pid)
    if (command.startswith("ray::") and "Agent" not in command) or "default_worker" in command:
        return "Ray: workers being started"
    program = next(
        (word for word in ("gcs_server", "raylet", "Agent", "orphan_reaper", "log_monitor") if word in command), ""
    )
    return {"orphan_reaper": "orphan reaper"}.get(program, f"Ray: {program or 'other'}")


def report(kinds: dict[str, Series], warm_up_s: float) -> list[str]:
    """Print the table; kinds of ours that grow."""
    print("| process | how many | MB at the start of the count | at the end | MB a minute | open files, start | end |")
    print("|---|---|---|---|---|---|---|")
    bad = []
    for kind, series in sorted(kinds.items()):
        late = series.after(warm_up_s)
        if len(late.at_s) < 3:
            continue
        slope = late.mb_a_minute()
        files, how_many = f"{late.n_files[0]:.0f} | {late.n_files[-1]:.0f}", late.n_processes[-1]
        print(f"| {kind} | {how_many} | {late.rss_mb[0]:.0f} | {late.rss_mb[-1]:.0f} | {slope:+.2f} | {files} |")
        if not kind.startswith("Ray") and (slope >= MAX_MB_A_MINUTE or late.more_files() > MAX_MORE_FILES):
            bad.append(kind)
    return bad


if __name__ == "__main__":
    sys.exit(main())
