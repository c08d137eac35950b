"""What a worker process owes to its driver; what it does with units is tested through the runner."""

from __future__ import annotations

import subprocess
import sys

BUSY = """
import sys, time
from mit_builder.worker import die_with
die_with(int(sys.argv[1]))
print("working", flush=True)
time.sleep(60)
"""


def _worker_of(pid: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", BUSY, str(pid)], stdout=subprocess.PIPE, text=True)


def test_a_worker_ends_in_the_middle_of_its_work_when_the_driver_is_killed() -> None:
    with subprocess.Popen(["sleep", "60"]) as driver, _worker_of(driver.pid) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "working\n"
        assert worker.poll() is None
        driver.kill()
        assert worker.wait(timeout=5) == 1


def test_a_worker_whose_driver_is_gone_already_does_not_begin() -> None:
    with subprocess.Popen(["true"]) as driver:
        driver.wait()
    with _worker_of(driver.pid) as worker:
        assert worker.wait(timeout=30) == 1
        assert worker.stdout is not None
        assert worker.stdout.read() == ""
