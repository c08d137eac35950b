"""Strikes a run at an exact point of a commit: at the n-th file of a kind that is put in place.

Python imports this module by itself in every process whose PYTHONPATH names this folder; `KILLS_POINT` says what to do
(see `Point` in ../kills.py). It wraps `os.replace`, through which every commit into a local workspace goes.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
from typing import Any


def count(path: str, key: str) -> int:
    """Write down one more file; how many there are by now, over all processes of the run."""
    with open(path, "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(f"{key}\n")
        file.seek(0)
        return len(file.readlines())


def strike(action: str, workspace: str) -> None:
    """End this process, or make the workspace read-only for everybody."""
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    subprocess.run(["mount", "--bind", workspace, workspace], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", workspace], check=True)


def install(point: dict[str, Any]) -> None:
    """Wrap `os.replace`."""
    replace, root = os.replace, point["workspace"] + os.sep

    def watched(source: Any, target: Any, **options: Any) -> None:
        key = str(target).removeprefix(root)
        hit = bool(re.match(point["what"], key)) and count(point["counter"], key) == point["n"]
        if hit and point["moment"] == "half":
            os.truncate(source, os.path.getsize(source) // 2)
        if hit and point["moment"] != "after":
            strike(point["action"], point["workspace"])
        replace(source, target, **options)
        if hit and point["moment"] == "after":
            strike(point["action"], point["workspace"])

    os.replace = watched  # type: ignore[assignment]


if "KILLS_POINT" in os.environ:
    install(json.loads(os.environ["KILLS_POINT"]))
