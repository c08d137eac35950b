from __future__ import annotations

from pathlib import Path

import pytest
import tiny_dataset

torch = pytest.importorskip("torch", reason="the example trains with torch")

import train  # noqa: E402


def test_the_example_learns_from_a_dataset(tmp_path: Path) -> None:
    root = tiny_dataset.build(tmp_path).root
    losses = train.train(str(root), 8, batch_size=3)
    assert len(losses) == 8
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
    assert losses[:2] == train.train(str(root), 2, batch_size=3), "the same seed gives the same losses"
