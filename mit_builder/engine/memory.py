"""How much memory is free for a run on this machine, and for how many cores' workers that is enough.

Ray ends workers when a machine's memory is full to 95%, whoever filled it, again and again: a run that starts beside
programs that hold it would burn its attempts. So it waits, or takes fewer cores, and says so first.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mit_builder.console.wording import counted
from mit_builder.errors import CannotContinue

RAY_GB = 1.0
"""Ray's own processes and the driver (measured: docs/RELIABILITY.md, "Memory over time")."""
CORE_GB = 2.0
"""A worker of every stage for one core, as they are alive together: pose takes 1.2 of it (docs/PERFORMANCE.md)."""
FULL = 0.95
"""Ray's `memory_usage_threshold`: what is left above it is not to be had."""
WAIT_S, LOOK_S = 120.0, 2.0
"""For how long others are waited for, and how often it is looked."""
_SERIAL = "or take --engine serial, which needs about 2 GB"
WAS_FULL = "its machine's memory was full, so Ray ended it: free some, lower --set run.cpus, or take --engine serial"
_NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class Memory:
    """What a machine, or the container or slice that this process is in, has.

    Attributes:
        total_gb: all of it.
        free_gb: what programs can have without others giving any up.
    """

    total_gb: float
    free_gb: float

    @property
    def n_cores(self) -> int:
        """The number of cores whose workers fit into memory; 0 = not even one."""
        room_gb = self.free_gb - (1 - FULL) * self.total_gb - RAY_GB
        return max(0, int(room_gb / CORE_GB))

    @property
    def is_too_small(self) -> bool:
        """Whether it would not do either if nobody else had any of it."""
        return Memory(self.total_gb, self.total_gb).n_cores == 0

    def __str__(self) -> str:
        return f"{self.free_gb:.1f} of {self.total_gb:.1f} GB of memory are free"


def look(root: Path = Path("/")) -> Memory | None:
    """The tightest of what bounds this process; None where the system does not tell (it is no Linux).

    Args:
        root: where `proc` and `sys` are.
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kb = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    bounds = [(kb["MemTotal"] * 1024, kb.get("MemAvailable", kb["MemFree"]) * 1024), *_groups(root)]
    total = min(total for total, _ in bounds)
    return Memory(total / 1e9, min(free for _, free in bounds) / 1e9)


def _groups(root: Path) -> Iterator[tuple[int, int]]:
    """Bytes in all and free of the control groups around this process, in both versions of Linux's files."""
    own = [line.split(":", 2) for line in _text(root / "proc/self/cgroup").splitlines()]
    for kinds, base, limit, used, cached in (
        ("", root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        (
            "memory",
            root / "sys/fs/cgroup/memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ):
        path = next((Path(p.lstrip("/")) for _, names, p in own if kinds in names.split(",")), Path())
        for folder in (base / path, *(base / parent for parent in path.parents), base):
            most, now = _text(folder / limit), _text(folder / used)
            if not (most.isdigit() and now.isdigit()) or int(most) >= _NO_LIMIT:
                continue
            stats = dict(line.split() for line in _text(folder / "memory.stat").splitlines())
            yield int(most), max(0, int(most) - int(now) + int(stats.get(cached, "0")))


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def said(cpus: int | None) -> tuple[bool, str]:
    """Whether there is memory for the workers of so many cores (None = all), and what a run does about it.

    Where `cpus` was set by the user it stays.
    """
    there, wanted = look(), cpus or os.cpu_count() or 1
    if there is None:
        return True, "not known on this system"
    if there.n_cores >= wanted:
        return True, f"{there}: workers for {wanted} of {counted(wanted, 'core')}"
    if there.n_cores == 0:
        does = "too little" if there.is_too_small else f"a run waits {WAIT_S:g} s for more"
        return (
            False,
            f"{there}, Ray and the workers of one core want {_needed_gb(there):.1f}: {does}; free some, {_SERIAL}",
        )
    if cpus is not None:
        return False, f"{there}: workers for {there.n_cores} of {counted(cpus, 'core')}; lower run.cpus, {_SERIAL}"
    workers = f"workers for {there.n_cores} of {counted(wanted, 'core')}"
    return False, f"{there}: {workers}, the others stay idle; run.cpus decides otherwise"


def _needed_gb(there: Memory) -> float:
    return RAY_GB + CORE_GB + (1 - FULL) * there.total_gb


def cores(cpus: int | None) -> int | None:
    """How many cores to use, as set or as memory allows; waits where others have nearly all of it.

    Raises:
        CannotContinue: there is not enough for one.
    """
    until_s = time.monotonic() + WAIT_S
    while (there := look()) is not None and there.n_cores == 0:
        if there.is_too_small or time.monotonic() > until_s:
            raise CannotContinue(
                f"{there}, and Ray with the workers of one core wants {_needed_gb(there):.1f}: free some, {_SERIAL}"
            )
        time.sleep(LOOK_S)
    if cpus is not None or there is None:
        return cpus
    return min(there.n_cores, os.cpu_count() or 1)
