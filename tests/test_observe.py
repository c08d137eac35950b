"""Figures, logs and traces of a run of fakes."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fakes
import pytest
from walks import settings_with, walk

from manifests.ids import new_run_id
from mit_builder.cli.trace import read, trace, write
from mit_builder.driver.event_log import LOGS, Observer
from mit_builder.driver.metrics import METRICS
from mit_builder.driver.runner import Runner
from mit_builder.engine.metric import Metric
from mit_builder.engine.serial import SerialEngine
from mit_builder.engine.specs import worker_specs
from mit_builder.errors import ConfigError
from mit_builder.storage.workspace import Workspace

ROOT = Path(__file__).resolve().parent.parent
NAMES = ["a", "b?pose=fail", "c?shots=reject", "d?download=auth"]


class Collected:
    """A meter that keeps what it is told."""

    def __init__(self) -> None:
        self.told: dict[str, dict[tuple[str, ...], float]] = defaultdict(dict)

    def __call__(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        assert metric in METRICS
        assert set(tags) == set(metric.tags)
        key = tuple(tags[name] for name in metric.tags)
        before = self.told[metric.name].get(key, 0.0) if metric.kind == "counter" else 0.0
        self.told[metric.name][key] = before + value


@pytest.fixture
def workspace() -> Workspace:
    return Workspace(f"memory://{new_run_id()}")


def observed(workspace: Workspace, log: Any = "off") -> tuple[Runner, Collected]:
    settings, meter = settings_with(), Collected()
    engine = SerialEngine(worker_specs(settings, workspace, "watched", fakes.steps()))
    runner = Runner(workspace, settings, run_id="watched", engine=engine, steps=fakes.steps())
    runner.observer = Observer(workspace, "watched", log=log, meter=meter)
    runner.run(map(fakes.source, NAMES))
    runner.observer.flush()
    return runner, meter


def test_units_failures_queues_and_footage_are_counted(workspace: Workspace) -> None:
    runner, meter = observed(workspace)
    told = meter.told
    assert told["mit_builder_units"]["pose", "failed"] == told["mit_builder_failures"]["pose", "permanent"] == 2
    assert told["mit_builder_units"]["shots", "rejected"] == 1
    assert told["mit_builder_failures"]["download", "auth"] == 1
    for step in ("download", "filter.cut", "speech"):
        assert told["mit_builder_units"][step, "done"] == runner.tally.steps[step].done
    assert told["mit_builder_footage_seconds"]["in",] == pytest.approx(runner.tally.video_s)
    assert told["mit_builder_footage_seconds"]["accepted",] == pytest.approx(runner.tally.kept_s)
    assert ("pose", "waiting") in told["mit_builder_queue"]
    assert told["mit_builder_capacity"]["cpu",] == 1


def test_the_dashboard_asks_only_for_figures_that_there_are_and_for_all_of_them() -> None:
    board = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text())
    asked = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"ray_mit_builder_\w+", target["expr"])
    }
    there = {name for metric in METRICS for name in metric.exported}
    assert asked <= there
    assert all(asked & set(metric.exported) for metric in METRICS)
    tags = {"le", *(tag for metric in METRICS for tag in metric.tags)}
    for panel in board["panels"]:
        for target in panel["targets"]:
            for names in re.findall(r"by \(([^)]*)\)", target["expr"]):
                assert set(names.replace(" ", "").split(",")) <= tags
    documented = set(re.findall(r"ray_mit_builder_\w+", (ROOT / "docs" / "OBSERVABILITY.md").read_text()))
    assert documented - {"ray_mit_builder_unit_seconds_bucket"} <= there
    assert {metric.exported[0] for metric in METRICS} <= documented


def test_every_attempt_is_a_line_with_its_unit(workspace: Workspace) -> None:
    runner, _ = observed(workspace, "workspace")
    lines = [json.loads(line) for key in sorted(workspace.names(LOGS)) for line in workspace.read(key).splitlines()]
    assert {line["run_id"] for line in lines} == {"watched"}
    counted = Counter((line["stage"], line["status"]) for line in lines if line["event"] == "unit")
    assert counted["pose", "failed"] == 2
    assert counted["speech", "done"] == runner.tally.steps["speech"].done
    failure = next(line for line in lines if line["stage"] == "pose" and line["status"] == "failed")
    assert failure["message"] == "told to fail: fail"
    assert failure["failure_class"] == "permanent"
    assert failure["unit_id"].startswith(failure["video_id"])
    assert failure["source_id"] == fakes.source(NAMES[1]).source_id


def test_a_log_on_standard_error_leaves_the_workspace_alone(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    observed(workspace, "stderr")
    assert workspace.names(LOGS) == set()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert {line["stage"] for line in lines} >= {"download", "pose", "shards"}


def test_a_trace_has_every_unit_once_and_nothing_overlaps_in_a_row(workspace: Workspace, tmp_path: Path) -> None:
    runner, _ = observed(workspace)
    n = write(read(workspace), "watched", tmp_path / "trace.json")
    loaded = json.loads((tmp_path / "trace.json").read_text())
    units = [event for event in loaded["traceEvents"] if event["ph"] == "X"]
    names = {event["pid"]: event["args"]["name"] for event in loaded["traceEvents"] if event["name"] == "process_name"}
    worked = {step: tally.worked_on for step, tally in runner.tally.steps.items() if tally.worked_on}
    assert len(units) == n == sum(worked.values())
    assert Counter(names[event["pid"]] for event in units) == worked
    ends: dict[tuple[int, int], int] = {}
    for event in sorted(units, key=lambda e: e["ts"]):
        assert all(isinstance(event[name], int) for name in ("ts", "dur", "pid", "tid"))
        row = event["pid"], event["tid"]
        assert event["ts"] >= ends.get(row, 0)
        ends[row] = event["ts"] + event["dur"]


def test_a_trace_has_an_attempt_once_in_its_own_run_also_where_its_verdict_changed(
    workspace: Workspace, tmp_path: Path
) -> None:
    names = [f"{name}?video=x" for name in "abcd"]
    runners = [walk(workspace, given) for given in (names[1:], names)]
    for runner in runners:
        worked = sum(tally.worked_on for tally in runner.tally.steps.values())
        assert write(read(workspace), runner.run_id, tmp_path / "trace.json") == worked


def test_units_that_ran_at_once_lie_in_rows_of_their_own(tmp_path: Path) -> None:
    import pyarrow as pa

    from mit_builder.cli.trace import COLUMNS, events

    times = [(0.0, 2.0), (1.0, 2.0), (2.0, 1.0), (2.5, 1.0)]
    rows = [
        {**dict.fromkeys(COLUMNS), "unit_id": f"u{i}", "status": "done", "started_at_s": start, "duration_s": length}
        for i, (start, length) in enumerate(times)
    ]
    assert [event["tid"] for event in events(pa.Table.from_pylist(rows), 1)] == [1, 2, 1, 3]


def test_a_trace_of_a_run_that_was_not_is_one_line(tmp_path: Path) -> None:
    place = str(tmp_path / "ws")
    Workspace(place)
    with pytest.raises(ConfigError, match="nothing was run in"):
        trace(place, None, tmp_path / "trace.json")
    walk(Workspace(place), ["a"])
    with pytest.raises(ConfigError, match="no run other here; there are "):
        trace(place, "other", tmp_path / "trace.json")
    trace(place, None, tmp_path / "trace.json")
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
