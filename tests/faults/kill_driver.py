"""Kills the driver of a real run (real stages, real footage, Ray) again and again, and looks at what is left.

    python tests/faults/kill_driver.py --kills 25 --seed 1

Every round starts a run in a new workspace, sends SIGKILL to the driver after a random time, runs again until the end,
and compares the dataset with that of an undisturbed run: names and bytes of all shards. The processes of the killed
run are watched: its workers must be gone after 5 s, everything of it after 90 s. Prints a table, exits with 1 on a
difference.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from mit_builder.media.cut import cut_clip
from mit_builder.workspace import sha256_of

DEMO = Path(__file__).resolve().parents[2] / "manifests" / "demo" / "demo.mp4"
PARTS = ((100, 160), (660, 770))
"""Frames of the demo that the two short videos hold: a piece of a two-shot; the end of the panning shot and the start
of another two-shot."""
SETTINGS = ("filter.min_clip_s=2", "run.overlays=0", "shards.n_buckets=2", "pose.stride=5")
WORKERS_GONE_S, ALL_GONE_S = 5.0, 90.0
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Ray's own helpers on each node: they run nobody's code, and have as long as everything else."""


@dataclass
class Killed:
    """Processes of a killed run: (pid, start time in ticks) -> command."""

    at: float
    processes: dict[tuple[int, int], str]
    late_workers: list[str] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--within", type=float, help="latest kill in seconds; default: 90%% of an undisturbed run")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    print(f"seed {options.seed}, {options.kills} kills, engine ray, real stages")
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        base = Path(folder)
        videos = short_videos(base)
        started = time.monotonic()
        finish(base / "undisturbed", videos)
        whole_s = time.monotonic() - started
        wanted = dataset(base / "undisturbed")
        print(f"undisturbed: {whole_s:.1f} s, {len(wanted)} shards")
        killed: list[Killed] = []
        wrong = 0
        print("round  killed at s  units committed before  units run again  dataset equal  workers alive after 5 s")
        for i in range(options.kills):
            place = base / f"round-{i}"
            delay = rng.uniform(0.5, options.within or 0.9 * whole_s)
            while not (victim := kill_after(delay, place, videos)):
                shutil.rmtree(place)
                delay *= 0.7
            killed.append(victim)
            before, again = units(place), finish(place, videos, killed[-1])
            equal = dataset(place) == wanted
            wrong += not equal
            late = "; ".join(sorted(victim.late_workers)) or "none"
            print(f"{i:5d}  {delay:11.1f}  {before:22d}  {again:15d}  {equal!s:13}  {late}", flush=True)
        n_late = sum(bool(k.late_workers) for k in killed)
        time.sleep(max(0.0, ALL_GONE_S - (time.monotonic() - killed[-1].at)))
        left = [text for k in killed for text in alive(k.processes)]
    print(f"{options.kills} kills: {wrong} different datasets, {n_late} with a worker alive {WORKERS_GONE_S:g} s later")
    print(f"processes alive {ALL_GONE_S:g} s after their driver's death: {len(left)} {left[:3]}")
    return int(bool(wrong or n_late or left))


def short_videos(base: Path) -> list[Path]:
    """Two short videos cut from the demo."""
    videos = []
    for i, (start, end) in enumerate(PARTS):
        videos.append(base / f"part{i}.mp4")
        cut_clip(DEMO, start, end, videos[-1], base / f"part{i}.flac", crf=16, audio_kbps=128)
    return videos


def command(place: Path, videos: list[Path]) -> list[str]:
    overrides = [part for setting in SETTINGS for part in ("--set", setting)]
    program = [sys.executable, "-m", "mit_builder.cli"]
    return [*program, "run", "--stage", "all", "--workspace", str(place), *overrides, *map(str, videos)]


def finish(place: Path, videos: list[Path], killed: Killed | None = None) -> int:
    """Run to the end, at once after a kill, whose workers are looked for after 5 s; units that were worked on."""
    before = units(place)
    with (place.parent / "log").open("w+") as log:
        run = subprocess.Popen(command(place, videos), stdout=log, stderr=log)
        if killed:
            time.sleep(WORKERS_GONE_S)
            killed.late_workers = [text for text in alive(killed.processes) if is_worker(text)]
        if run.wait():
            log.seek(0)
            raise SystemExit(f"the run failed with {run.returncode}:\n{log.read()}")
    return units(place) - before


def units(place: Path) -> int:
    """Rows of all ledger parts."""
    import pyarrow.parquet as pq

    parts = list((place / "manifests").rglob("part-*.parquet"))
    return sum(pq.read_metadata(part).num_rows for part in parts)


def dataset(place: Path) -> dict[str, str]:
    """Digest of each file of the dataset that labels are in."""
    return {path.name: sha256_of(path) for path in sorted((place / "dataset").glob("*.parquet"))}


def kill_after(delay_s: float, place: Path, videos: list[Path]) -> Killed | None:
    """Start a run and kill its driver after a while; None if it was done before."""
    driver = subprocess.Popen(command(place, videos), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + delay_s
    seen: dict[tuple[int, int], str] = {}
    while time.monotonic() < deadline and driver.poll() is None:
        seen |= family(driver.pid)
        time.sleep(0.2)
    seen |= family(driver.pid)
    if driver.poll() is not None:
        return None
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    return Killed(time.monotonic(), seen)


def family(pid: int) -> dict[tuple[int, int], str]:
    """All descendants of a process, with their start times and what they call themselves."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        stat = _stat(int(name)) if name.isdigit() else None
        if stat:
            parents.setdefault(stat[0], []).append(int(name))
    found: dict[tuple[int, int], str] = {}
    waiting = [pid]
    while waiting:
        for child in parents.get(waiting.pop(), []):
            stat = _stat(child)
            if stat:
                found[child, stat[1]] = _command(child)
                waiting.append(child)
    return found


def alive(processes: dict[tuple[int, int], str]) -> list[str]:
    """Commands of those processes that still run."""
    found = []
    for pid, started in processes:
        stat = _stat(pid)
        if stat and stat[1] == started and stat[2] != "Z":
            found.append(_command(pid))
    return found


def is_worker(command: str) -> bool:
    """Whether a process works for a run: an actor, one of Ray's that is idle or being started, one that draws."""
    works = command.startswith("ray::") or "default_worker.py" in command or "multiprocessing" in command
    return works and not command.startswith(AGENTS)


def _stat(pid: int) -> tuple[int, int, str] | None:
    """Parent, start time and state of a process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return int(fields[1]), int(fields[19]), fields[0]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
