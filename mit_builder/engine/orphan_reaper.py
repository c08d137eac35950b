"""Ends what a killed run leaves behind: a small process beside the driver that outlives it by a moment.

Ray's workers notice a killed driver after seconds, on a loaded machine after many; its agents take a minute, and the
processes of a pool never notice. Until then they work on, in a workspace that the next run may hold. All of them
inherit the driver's environment, and are known by a mark in it.
"""

from __future__ import annotations

import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MARK = "MIT_BUILDER_RUN"
WATCH_S = 10.0
"""For how long after the driver's death processes are looked for: one that was being forked may come late."""


@contextmanager
def guarded() -> Iterator[Callable[[], Iterator[int]]]:
    """Whatever this process starts while the context is open ends with it if it is killed.

    Yields:
        What tells which processes it has started so far, and those that they have started.
    """
    value = f"{os.getpid()}-{secrets.token_hex(8)}"
    # This very file, isolated: it must start fast and needs the standard library alone. A session of its own, so that a
    # signal to the run's process group leaves it.
    command = [sys.executable, "-I", "-S", __file__, str(os.getpid()), value]
    nowhere = subprocess.DEVNULL
    guardian = subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)
    before = os.environ.get(MARK)
    os.environ[MARK] = value
    try:
        yield lambda: (pid for pid in marked(value) if pid != os.getpid())
    finally:
        if before is None:
            del os.environ[MARK]
        else:
            os.environ[MARK] = before
        guardian.terminate()
        guardian.wait()


def marked(value: str) -> Iterator[int]:
    """Processes of this user in whose environment the mark stands."""
    wanted = f"{MARK}={value}".encode()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if wanted in file.read().split(b"\0"):
                    yield int(name)
        except OSError:
            continue


def guard(pid: int, value: str) -> None:
    """Wait for a process to end, then kill what it left. Where the system cannot watch processes, Ray has to."""
    try:
        select.select([os.pidfd_open(pid)], [], [])
    except ProcessLookupError:
        pass
    except (AttributeError, OSError):
        return
    deadline = time.monotonic() + WATCH_S
    while time.monotonic() < deadline:
        for left in marked(value):
            try:
                os.kill(left, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)


if __name__ == "__main__":
    guard(int(sys.argv[1]), sys.argv[2])
