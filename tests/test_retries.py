from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import fakes
import pytest
from walks import dataset, failed, look, settings_with, walk, worked

from manifests.ids import new_run_id
from manifests.sources import url_source
from mit_builder.driver import step_queue
from mit_builder.driver.host_limits import Hosts
from mit_builder.driver.options import RunOptions
from mit_builder.driver.progress import PlainLines
from mit_builder.driver.retry_policy import Clock
from mit_builder.driver.runner import Runner
from mit_builder.driver.step_queue import StepQueue, Waiting
from mit_builder.engine.serial import SerialEngine
from mit_builder.engine.specs import worker_specs
from mit_builder.errors import CannotContinue
from mit_builder.pipeline_run import RunRequest, run_pipeline
from mit_builder.storage.settings_file import Changes
from mit_builder.storage.workspace import Workspace

PLAIN = RunOptions()


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
    workspace: Workspace, names: Iterable[str], *overrides: str, choice: RunOptions = PLAIN
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
    hurry = RunOptions(at_once=True)
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
        "later mit-build run",
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
        assert {row["source_url"] for row in dataset(place)} == {pair[0].address}


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
    monkeypatch.setattr(step_queue, "QUEUE_BOUND", 4)
    monkeypatch.setattr(step_queue, "MOST_WAITING", 4)
    monkeypatch.setattr(step_queue, "MOST_PUT_OFF", 10)
    put_off: list[int] = []
    original = StepQueue.put_off

    def noted(lane: StepQueue, waiting: Waiting, until_s: float) -> None:
        original(lane, waiting, until_s)
        put_off.append(len(lane.delayed))

    monkeypatch.setattr(StepQueue, "put_off", noted)
    names = [f"v{i}?lengths=40" for i in range(40)]
    runner, clock, _ = timed(workspace, names, "download.host_interval_s=10")
    assert runner.tally.n_videos == 40
    assert sum(clock.slept_s) == pytest.approx(390)
    assert max(put_off) <= 14


CLOSING = ("download.host_failures=1", "download.host_rests=0", "shards.n_buckets=1")
"""One failure, and the host is not asked any more in this run."""


@pytest.mark.parametrize("is_asked", [True, False])
def test_clips_stay_where_a_video_that_is_gone_is_not_fetched_again_because_its_host_is_left(
    workspace: Workspace, tmp_path: Path, is_asked: bool
) -> None:
    flag = tmp_path / "flag"
    old, new = f"old?download=transient&while={flag}", url_source("http://other.test/new")
    walk(workspace, [old], *CLOSING)
    workspace.delete(sorted(workspace.names("videos")))
    flag.touch()
    first = [] if is_asked else ["first?download=transient"]
    left = walk(workspace, [*first, old, new], *CLOSING)  # the one shard is written for the new clips
    assert {row["title"] for row in dataset(workspace)} == {"old", "new"}
    tally = left.tally.steps["download"]
    assert (tally.done, tally.pending, sum(tally.failed.values())) == (1, 1, len(first))
    flag.unlink()
    again = walk(workspace, [old, new], *CLOSING)
    assert (worked(again), again.tally.pending) == ({"download": 1}, 0)


def test_another_walk_of_a_run_repeats_no_failed_download_and_asks_no_closed_host(
    workspace: Workspace, log: Path
) -> None:
    names = [f"v{i}?download=transient" for i in range(3)]
    settings, steps = settings_with(*CLOSING, "run.max_attempts=1"), fakes.steps()
    hosts = Hosts(settings.download)
    for n_calls, run_id in enumerate(["run-1", "run-1", "run-2"]):
        engine = SerialEngine(worker_specs(settings, workspace, run_id, steps))
        runner = Runner(workspace, settings, run_id=run_id, choice=RunOptions(at_once=True), engine=engine, steps=steps)
        runner.hosts = hosts if run_id == "run-1" else Hosts(settings.download)
        runner.run(map(fakes.source, names))
        assert len(log.read_text().splitlines()) == max(1, n_calls)
        assert (runner.tally.failed, runner.tally.pending) == (1, 2)


def test_a_failure_of_this_run_is_not_due_in_its_next_walk(workspace: Workspace, log: Path) -> None:
    for n_calls, run_id in ((1, "run-1"), (1, "run-1"), (2, "run-2")):
        settings, steps = settings_with("run.max_attempts=1"), fakes.steps()
        engine = SerialEngine(worker_specs(settings, workspace, run_id, steps))
        choice = RunOptions(at_once=True)
        runner = Runner(workspace, settings, run_id=run_id, choice=choice, engine=engine, steps=steps)
        runner.run([fakes.source("v?download=transient")])
        assert len(log.read_text().splitlines()) == n_calls
        assert failed(runner) == {"download": {"transient": 1}}


def test_all_walks_of_a_run_share_what_is_known_of_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts: list[Hosts] = []

    def walk_twice(make_runner: Callable[[], Runner], *rest: object) -> Runner:
        hosts.extend(make_runner().hosts for _ in range(2))
        raise CannotContinue("enough")

    monkeypatch.setattr("mit_builder.pipeline_run.walk_until_whole", walk_twice)
    monkeypatch.setattr("mit_builder.pipeline_run.check_all", lambda *arguments: [])
    monkeypatch.setattr("mit_builder.pipeline_run.resolve", lambda wanted, pinned: (wanted, []))
    request = RunRequest(
        addresses=["http://fake.test/a"],
        lists=[],
        workspace=str(tmp_path / "ws"),
        changes=Changes.asked(None, []),
        stages=["all"],
        forced=[],
        limit=None,
        retry=RunOptions().retry,
        at_once=False,
        engine="serial",
        go_on=["run"],
    )
    with pytest.raises(CannotContinue, match="enough"):
        run_pipeline(request, PlainLines())
    assert len({id(known) for known in hosts}) == 1
