from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import fakes
import pytest
from walks import dataset, failed, look, settings_with, walk, worked

from mit_builder import lanes
from mit_builder.engine import SerialEngine
from mit_builder.hosts import Hosts
from mit_builder.lanes import Lane, Waiting, worker_specs
from mit_builder.retries import Clock
from mit_builder.runner import Choice, Runner
from mit_builder.session import new_run_id
from mit_builder.workspace import Workspace

PLAIN = Choice()


@dataclass(frozen=True)
class FakeClock(Clock):
    """Jumps where ours would wait."""

    now_s: list[float]
    slept_s: list[float]

    def monotonic_s(self) -> float:
        return self.now_s[0]

    def wall_s(self) -> float:
        return super().wall_s() + self.now_s[0]

    def sleep(self, seconds: float) -> None:
        self.now_s[0] += seconds
        self.slept_s.append(seconds)


@pytest.fixture
def workspace() -> Workspace:
    return Workspace(f"memory://{new_run_id()}")


def timed(
    workspace: Workspace, names: Iterable[str], *overrides: str, choice: Choice = PLAIN
) -> tuple[Runner, FakeClock, list[str]]:
    settings, run_id, steps = settings_with(*overrides), new_run_id(), fakes.steps()
    engine = SerialEngine(worker_specs(settings, workspace, run_id, steps))
    notes: list[str] = []
    runner = Runner(workspace, settings, run_id=run_id, choice=choice, engine=engine, on_note=notes.append, steps=steps)
    runner.clock = clock = FakeClock([0.0], [])
    runner.run(map(fakes.source, names))
    return runner, clock, notes


def calls_of(monkeypatch: pytest.MonkeyPatch, kind: type[fakes.Fake], succeed_at: int) -> list[int]:
    """Make a fake fail as told until its n-th call; the numbers of its calls."""
    original, counter, calls = kind.obey, itertools.count(1), []

    def obey(self: fakes.Fake, text: str) -> None:
        calls.append(next(counter))
        if calls[-1] < succeed_at:
            original(self, text)

    monkeypatch.setattr(kind, "obey", obey)
    return calls


def test_what_passes_is_tried_again_in_the_same_run_with_growing_pauses(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = calls_of(monkeypatch, fakes.FakeDownload, succeed_at=3)
    runner, clock, _ = timed(workspace, ["b?download=transient"], "run.retry_base_s=10")
    assert calls == [1, 2, 3]
    assert runner.tally.failed == 0
    assert 5 + 10 <= sum(clock.slept_s) <= 10 + 20 + 2
    entry = runner.lanes["download"].ledger.latest(fakes.source("b?download=transient").source_id)
    assert entry is not None
    assert (entry.status, entry.attempts) == ("done", 3)


def test_attempts_are_bounded_and_the_failure_is_recorded(workspace: Workspace) -> None:
    runner, _, _ = timed(workspace, ["a", "b?pose=transient&lengths=200"], "run.max_attempts=4")
    assert failed(runner) == {"pose": {"transient": 1}}
    assert runner.failures[0][1].attempts == 4
    assert {row["title"] for row in dataset(workspace)} == {"a"}


def test_a_later_run_keeps_what_is_left_of_the_pause_unless_asked_to_hurry(workspace: Workspace) -> None:
    bad = ["b?download=transient"]
    timed(workspace, bad, "run.retry_base_s=10", "run.max_attempts=1")
    _, clock, _ = timed(workspace, bad, "run.retry_base_s=10", "run.max_attempts=1")
    assert sum(clock.slept_s) >= 4
    hurry = Choice(at_once=True)
    _, clock, _ = timed(workspace, bad, "run.retry_base_s=10", "run.max_attempts=1", choice=hurry)
    assert sum(clock.slept_s) == 0


def test_a_stage_that_runs_out_of_resources_pauses_and_then_stops_instead_of_burning_the_list(
    workspace: Workspace,
) -> None:
    names = [f"v{i}?shots=resource" for i in range(20)]
    runner, clock, notes = timed(workspace, names, "run.retry_base_s=10")
    assert sum(clock.slept_s) > 10
    assert notes[0].startswith("shots pauses for ")
    assert notes[-1].startswith("shots stops, what is left stays pending: told to fail")
    assert runner.tally.stopped == {"shots": "told to fail: resource"}
    assert runner.tally.steps["shots"].pending >= 14
    assert sum(runner.tally.steps["shots"].failed.values()) <= 6


def test_one_unit_that_is_too_large_stops_nothing(workspace: Workspace) -> None:
    runner, _, _ = timed(workspace, ["a", "big?shots=resource", "c", "d"])
    assert runner.tally.stopped == {}
    assert failed(runner) == {"shots": {"resource": 1}}
    assert {row["title"] for row in dataset(workspace)} == {"a", "c", "d"}


def test_a_host_that_asks_for_a_login_is_left_to_the_next_run(workspace: Workspace) -> None:
    names = [f"v{i}?download=auth" for i in range(9)]
    runner, _, notes = timed(workspace, names)
    assert failed(runner) == {"download": {"auth": 3}}
    assert runner.tally.steps["download"].pending == 6
    ((step, why),) = runner.tally.held_back
    assert (step, runner.tally.held_back[step, why], notes) == ("download", 6, [why])


def test_a_host_that_does_not_answer_is_rested_and_then_left(workspace: Workspace) -> None:
    names = [f"v{i}?download=transient" for i in range(30)]
    runner, clock, notes = timed(workspace, names, "download.host_rest_s=30", "download.host_rests=2")
    assert sum(clock.slept_s) >= 90
    assert [note.rpartition(": ")[2] for note in notes] == [
        "left alone for 30 s",
        "left alone for 60 s",
        "run again later",
    ]
    tally = runner.tally.steps["download"]
    assert tally.pending + sum(tally.failed.values()) == 30
    assert tally.pending >= 20


def test_only_the_classes_asked_for_are_tried_again(workspace: Workspace) -> None:
    names = ["p?pose=fail&lengths=200", "t?pose=transient&lengths=200", "r?pose=resource&lengths=200"]
    walk(workspace, names, "run.max_attempts=1")
    for wanted in ("permanent", "transient", "resource"):
        again = walk(workspace, names, "run.max_attempts=1", retry=frozenset({wanted}), at_once=True)
        assert worked(again) == {"pose": 1}
    assert worked(look(workspace, names)) == {}


def test_equal_bytes_under_two_ids_are_one_video(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = sorted((fakes.source(f"{name}?video=same") for name in "xy"), key=lambda s: s.source_id)
    original = fakes.short_id
    for order in (1, -1):
        count = itertools.count()
        place = Workspace(f"{workspace.uri}{order}")
        monkeypatch.setattr(fakes, "short_id", lambda *parts, n=count: original(*parts, f"{next(n)}"))
        runner = walk(place, pair[::order])
        assert runner.tally.steps["download"].rejected == {"duplicate": 1}
        assert {row["url"] for row in dataset(place)} == {pair[0].address}


def test_downloads_start_no_more_often_than_set(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    starts_s, start = [], Hosts.start

    def record(self: Hosts, host: str, now_s: float) -> None:
        starts_s.append(now_s)
        start(self, host, now_s)

    monkeypatch.setattr(Hosts, "start", record)
    timed(workspace, ["a", "b", "c"], "download.host_interval_s=10")
    assert len(starts_s) == 3
    assert all(10 <= after - before < 12 for before, after in itertools.pairwise(starts_s))


def test_a_list_of_one_host_is_taken_up_no_faster_than_the_host_allows(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "QUEUE_BOUND", 4)
    monkeypatch.setattr(lanes, "MOST_WAITING", 4)
    monkeypatch.setattr(lanes, "MOST_PUT_OFF", 10)
    put_off: list[int] = []
    original = Lane.put_off

    def noted(lane: Lane, waiting: Waiting, until_s: float) -> None:
        original(lane, waiting, until_s)
        put_off.append(len(lane.delayed))

    monkeypatch.setattr(Lane, "put_off", noted)
    names = [f"v{i}?lengths=40" for i in range(40)]
    runner, clock, _ = timed(workspace, names, "download.host_interval_s=10")
    assert runner.tally.n_videos == 40
    assert sum(clock.slept_s) == pytest.approx(390)
    assert max(put_off) <= 14
