"""The program as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mit_builder.storage.workspace import Workspace

ROOT = Path(__file__).resolve().parent.parent


def program(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mit_builder", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_bug_of_ours_is_one_line_unless_asked_for_more(tmp_path: Path) -> None:
    Workspace(tmp_path / "ws").write("mit-build.yaml", b"profile: embedded\n")
    # A table that is no part of a ledger: nobody but us writes there.
    (tmp_path / "ws" / "manifests" / "pose").mkdir(parents=True)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "ws" / "manifests" / "pose" / "part-x.parquet")
    done = program("why", "x", "-w", "ws", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("mit-build: internal error: KeyError: ")
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" in program("--debug", "why", "x", "-w", "ws", folder=tmp_path).stderr


def test_a_users_folder_named_stages_is_reported_not_imported(tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "__init__.py").write_text("")
    done = program("run", "-w", "ws", folder=tmp_path)
    assert done.returncode == 3
    assert done.stderr == f"mit-build: a folder named stages in {tmp_path} hides ours: start from another folder\n"
