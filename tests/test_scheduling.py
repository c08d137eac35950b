"""Short forms of benchmarks/scheduling.py, with limits that a busy machine keeps too."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import scheduling


def test_stages_overlap() -> None:
    found = scheduling.pipeline(12, scale=0.3)
    assert found["overlapping"] > 0.2


def test_small_items_cost_the_engine_little() -> None:
    assert scheduling.small(500) < 40.0  # milliseconds; 12.5 at a load of 10
