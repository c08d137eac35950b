from __future__ import annotations

from pathlib import Path

import pytest
from faults.web_run import COUNTS, trial

TAKE_LONG = {"stalled", "endless-page", "busy"}


@pytest.mark.timeout(1800)  # 35 s on a quiet machine, much of it waiting; ten minutes were seen under a load of 20
def test_each_address_ends_as_it_should_and_a_second_run_asks_only_where_it_helps(tmp_path: Path) -> None:
    report, problems = trial(tmp_path, {kind: 1 for kind in COUNTS if kind not in TAKE_LONG}, engine="serial", seed=1)
    assert problems == []
    assert sum(line.startswith("| ") for line in report) > 38
