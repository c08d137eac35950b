"""Processes of a run, as the kernel lists them: who descends from whom, who still lives, who works."""

from __future__ import annotations

import os
from pathlib import Path

AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Ray's own helpers on each node: they run nobody's code, and have as long as everything else."""

Family = dict[tuple[int, int], str]
"""(pid, start time in ticks) -> command."""


def family(pid: int) -> Family:
    """All descendants of a process, with their start times and what they call themselves."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        stat = _stat(int(name)) if name.isdigit() else None
        if stat:
            parents.setdefault(stat[0], []).append(int(name))
    found: Family = {}
    waiting = [pid]
    while waiting:
        for child in parents.get(waiting.pop(), []):
            stat = _stat(child)
            if stat:
                found[child, stat[1]] = command_of(child)
                waiting.append(child)
    return found


def alive(processes: Family) -> list[str]:
    """Commands of those processes that still run."""
    found = []
    for pid, started in processes:
        stat = _stat(pid)
        if stat and stat[1] == started and stat[2] != "Z":
            found.append(command_of(pid))
    return found


def is_worker(command: str) -> bool:
    """Whether a process works for a run: an actor, one of Ray's that is idle or being started, one that draws."""
    works = command.startswith("ray::") or "default_worker.py" in command or "multiprocessing" in command
    return works and not command.startswith(AGENTS)


def command_of(pid: int) -> str:
    """What a process calls itself; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _stat(pid: int) -> tuple[int, int, str] | None:
    """Parent, start time and state of a process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return int(fields[1]), int(fields[19]), fields[0]
