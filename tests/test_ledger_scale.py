"""The benchmark of a million sources, over a few thousand."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("mediapipe", reason="the embedded backends are not installed")

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import ledger_scale


def test_a_finished_workspace_of_thousands_is_planned_without_a_walk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.fspath(Path(__file__).resolve().parent.parent))
    found = ledger_scale.measure(tmp_path, ledger_scale.Size(3000, 5, 20))
    assert "settled before, with all that came of it: 3,000 sources" in found["run, nothing to do"].output
    for measured in found.values():
        # A walk over the 100,000 units would take more than 10 s and 500 MB.
        assert measured.cpu_s < 10
        assert measured.peak_mb < 450
    assert "3,000 sources -> 3,000 videos" in found["status"].output
    assert "15,000 clips in the dataset" in found["status"].output
