"""Nothing that a run started lives on after it was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mit_builder.engine.orphan_reaper import MARK, guarded, marked

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system cannot watch processes")

DRIVER = """
import os, subprocess, sys, time
from mit_builder.engine.orphan_reaper import MARK, guarded
with guarded():
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    print(os.environ[MARK], flush=True)
    time.sleep(60 if sys.argv[1] == "stay" else 0)
"""


@contextmanager
def driver(what: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process with a child in a session of its own, and its mark."""
    with subprocess.Popen([sys.executable, "-c", DRIVER, what], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()


def left_of(mark: str, *, until: int, limit_s: float = 5.0) -> list[int]:
    """Marked processes, as soon as there are `until` of them."""
    deadline = time.monotonic() + limit_s
    while len(found := list(marked(mark))) != until and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def test_what_a_killed_driver_started_is_gone_within_five_seconds() -> None:
    with driver("stay") as (process, mark):
        assert len(left_of(mark, until=1)) == 1
        process.kill()
        assert left_of(mark, until=0) == []


def test_a_driver_that_ends_by_itself_takes_its_guardian_along() -> None:
    with driver("end") as (process, mark):
        assert process.wait(timeout=30) == 0
        (child,) = left_of(mark, until=1)
        time.sleep(0.5)
        assert list(marked(mark)) == [child]
        os.kill(child, 9)


def test_the_mark_is_there_only_while_it_is_guarded() -> None:
    with guarded():
        value = os.environ[MARK]
        assert os.getpid() == int(value.partition("-")[0])
    assert MARK not in os.environ
