"""The short form of `make cluster`: fakes, three nodes, a workspace on S3 that fails, one node killed and one added."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def test_a_node_that_dies_in_mid_run_costs_time_and_nothing_else() -> None:
    path = os.pathsep.join(map(str, (HERE.parents[1], HERE.parent, HERE)))
    # A process of its own: what Ray reads from the environment it reads once.
    done = subprocess.run(
        [sys.executable, str(HERE / "cluster.py"), "--s3", "--share", "0.05"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "equal to the run on one machine, nobody blamed" in done.stdout
