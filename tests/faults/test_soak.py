from __future__ import annotations

import pytest
from soak import Series, report


def series(mb_a_minute: float, files_a_minute: float = 0.0) -> Series:
    """Half an hour, a sample every ten seconds; the first five minutes grow fast in any case."""
    at_s = [10.0 * i for i in range(180)]
    extra = [min(s, 300.0) for s in at_s]
    return Series(
        at_s,
        [100 + e + mb_a_minute * s / 60 for s, e in zip(at_s, extra, strict=True)],
        [40 + files_a_minute * s / 60 for s in at_s],
        [1] * len(at_s),
    )


def test_growth_after_the_warm_up_is_named_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    kinds = {
        "driver": series(0.9),
        "worker: pose": series(1.1),
        "worker: shots": series(0.0, files_a_minute=0.3),
        "Ray: raylet": series(5.0),
    }
    assert report(kinds, 300.0) == ["worker: pose", "worker: shots"]
    assert "| worker: pose | 1 | 406 | 433 | +1.10 | 40 | 40 |" in capsys.readouterr().out
