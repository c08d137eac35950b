from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import fakes
import pyarrow.parquet as pq
import pytest

from manifests.rows import Labelled, Source
from mit_builder import config
from mit_builder.config import Settings
from mit_builder.dataset import Index, parse_index
from mit_builder.engine import Result, SerialEngine
from mit_builder.errors import CannotContinue
from mit_builder.pipeline import Step
from mit_builder.publish import INDEX_KEY
from mit_builder.runner import Choice, Runner, worker_specs
from mit_builder.session import new_run_id
from mit_builder.tally import Tally
from mit_builder.worker import Task
from mit_builder.workspace import Workspace

TWO_BUCKETS = ("shards.n_buckets=2",)


def settings_with(*overrides: str) -> Settings:
    return config.load(None, [*TWO_BUCKETS, *overrides])


def walk(
    workspace: Workspace,
    sources: Iterable[str | Source],
    *overrides: str,
    steps: Sequence[Step] | None = None,
    only: Iterable[str] = fakes.CLASSES,
    **choice: Any,
) -> Runner:
    """Run the fakes over sources, as one `mit-build run --engine serial` would; the runner, after its run."""
    settings, run_id, steps = settings_with(*overrides), new_run_id(), steps or fakes.steps()
    engine = SerialEngine(worker_specs(settings, workspace, run_id, steps))
    chosen = Choice(steps=frozenset(only), **choice)
    runner = Runner(workspace, settings, run_id=run_id, choice=chosen, engine=engine, steps=steps)
    runner.run([s if isinstance(s, Source) else fakes.source(s) for s in sources])
    return runner


def look(workspace: Workspace, sources: Iterable[str], *overrides: str) -> Runner:
    """The same walk without an engine, as `mit-build status` does."""
    runner = Runner(workspace, settings_with(*overrides), run_id="look", steps=fakes.steps())
    runner.run([fakes.source(s) for s in sources])
    return runner


def worked(runner: Runner) -> dict[str, int]:
    return {name: tally.worked_on for name, tally in runner.tally.steps.items() if tally.worked_on}


def failed(runner: Runner) -> dict[str, dict[str, int]]:
    return {name: dict(tally.failed) for name, tally in runner.tally.steps.items() if tally.failed}


def index(workspace: Workspace) -> Index:
    return parse_index(workspace.read(INDEX_KEY).decode())


def dataset(workspace: Workspace) -> list[dict[str, Any]]:
    """All rows of the published dataset, by clip_id."""
    rows: list[dict[str, Any]] = []
    for shard in index(workspace).shards:
        with workspace.local(f"dataset/{shard.name}") as path:
            rows += pq.read_table(path).to_pylist()
    return sorted(rows, key=lambda row: str(row["clip_id"]))


def tree(workspace: Workspace) -> dict[str, bytes]:
    return {key: workspace.read(key) for key in workspace.names("")}


@pytest.fixture
def workspace() -> Workspace:
    """In memory: faster, and it has neither rename nor append."""
    return Workspace(f"memory://{new_run_id()}")


@pytest.fixture
def another() -> Workspace:
    """For a run to compare with."""
    return Workspace(f"memory://{new_run_id()}")


def test_a_run_takes_every_source_to_the_dataset(workspace: Workspace) -> None:
    runner = walk(workspace, ["a", "e"])
    # Two of the three shots of each video are long enough.
    assert worked(runner) == {
        "download": 2,
        "shots": 2,
        "filter.detect": 2,
        "filter.select": 6,
        "filter.cut": 4,
        "pose": 4,
        "speech": 4,
        "shards": len(index(workspace).shards),
    }
    assert [row["title"] for row in dataset(workspace)].count("a") == 2
    assert runner.tally.n_dataset == len(dataset(workspace)) == 4
    assert runner.tally.candidates == Counter(kept=4, too_short=2)
    assert runner.tally.failed == runner.tally.pending == 0


def test_storage_without_rename_or_append_gives_the_same_dataset_as_a_folder(
    workspace: Workspace, tmp_path: Path
) -> None:
    folder = Workspace(tmp_path / "ws")
    assert workspace.root is None
    for place in (workspace, folder):
        walk(place, ["a", "e"])
        assert worked(walk(place, ["a", "e"])) == {}
    assert index(workspace) == index(folder)
    assert dataset(workspace) == dataset(folder)
    assert workspace.names("clips") == folder.names("clips")


def test_a_second_run_works_on_nothing_and_changes_no_file(workspace: Workspace) -> None:
    walk(workspace, ["a", "e"])
    before = tree(workspace)
    again = walk(workspace, ["a", "e"])
    assert worked(again) == {}
    assert tree(workspace) == before
    assert again.tally.n_dataset == 4


def test_the_order_and_the_growth_of_the_list_redo_nothing(workspace: Workspace, another: Workspace) -> None:
    walk(workspace, ["a", "b", "c"])
    assert worked(walk(workspace, ["c", "a", "b"])) == {}
    grown = worked(walk(workspace, ["d", "c", "b", "a"]))
    assert grown == worked(walk(another, ["d"])) | {"shards": 1}


def test_without_the_pose_ledger_only_pose_runs_where_its_output_is_the_same(workspace: Workspace) -> None:
    walk(workspace, ["a", "e"])
    workspace.delete(sorted(workspace.names("manifests/pose")))
    assert worked(walk(workspace, ["a", "e"])) == {"pose": 4}


def test_a_changed_output_makes_what_follows_due(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    walk(workspace, ["a"])
    monkeypatch.setattr(fakes.FakePose, "version", 2)
    assert worked(walk(workspace, ["a"])) == {"pose": 2}
    monkeypatch.setattr(fakes.FakePose, "version", 3)
    monkeypatch.setattr(fakes.FakePose, "backend", lambda self: "another model")
    # The dataset names the backend, so its shard is written again; the keypoints are the same.
    assert worked(walk(workspace, ["a"])) == {"pose": 2, "shards": 1}


def test_a_raised_minimum_drops_clips_without_any_work_and_lowering_it_finds_them_again(workspace: Workspace) -> None:
    walk(workspace, ["a", "e"])
    raised = walk(workspace, ["a", "e"], "filter.min_clip_s=8")
    assert worked(raised) == {"filter.select": 6, "shards": len(index(workspace).shards)}
    assert len(dataset(workspace)) == raised.tally.n_dataset == 2
    lowered = walk(workspace, ["a", "e"])
    assert set(worked(lowered)) <= {"shards"}
    assert len(dataset(workspace)) == 4
    lower_still = worked(walk(workspace, ["a", "e"], "filter.min_clip_s=1"))
    assert {name: lower_still[name] for name in ("filter.cut", "pose", "speech")} == {
        "filter.cut": 2,
        "pose": 2,
        "speech": 2,
    }
    assert "filter.detect" not in lower_still
    assert len(dataset(workspace)) == 6


def test_settings_that_do_not_change_the_output_redo_nothing(workspace: Workspace) -> None:
    walk(workspace, ["a"])
    assert worked(walk(workspace, ["a"], "download.per_host=5", "download.timeout_s=3", "run.cpus=1")) == {}
    assert worked(walk(workspace, ["a"], "pose.stride=2")) == {"pose": 2}


@pytest.mark.parametrize("step", [name for name in fakes.CLASSES if name != "shards"])
@pytest.mark.parametrize("behaviour", ["fail", "bug"])
def test_a_video_that_fails_at_any_step_never_stops_the_others(
    workspace: Workspace, step: str, behaviour: str
) -> None:
    runner = walk(workspace, ["before", f"bad?{step}={behaviour}", "after"])
    assert failed(runner).keys() == {step}
    assert {row["title"] for row in dataset(workspace)} == {"before", "after"}
    assert all(entry.message and entry.traceback for _, entry in runner.failures)


def test_a_failed_shard_leaves_the_other_buckets_published(workspace: Workspace) -> None:
    names = [f"video-{i}" for i in range(4)]
    runner = walk(workspace, [*names, "bad?shards=fail"])
    assert failed(runner) == {"shards": {"permanent": 1}}
    assert 0 < len(dataset(workspace)) < 8
    assert worked(walk(workspace, [*names, "bad?shards=fail"])) == {}


def test_a_verdict_is_no_failure_and_is_not_asked_for_again(workspace: Workspace) -> None:
    runner = walk(workspace, ["a", "b?shots=reject"])
    assert runner.tally.failed == 0
    assert runner.tally.steps["shots"].rejected == Counter(told_to=1)
    assert worked(walk(workspace, ["a", "b?shots=reject"])) == {}


@pytest.mark.parametrize(
    ("failure", "plain", "asked"), [("fail", 0, 2), ("transient", 2, 2), ("resource", 2, 2), ("auth", 0, 2)]
)
def test_a_plain_run_retries_what_may_have_passed_and_retry_failed_everything(
    workspace: Workspace, tmp_path: Path, failure: str, plain: int, asked: int
) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    sources = ["a", f"b?pose={failure}&while={flag}"]
    walk(workspace, sources)
    flag.unlink()
    assert worked(look(workspace, sources)) == {}
    again = walk(workspace, sources)
    assert worked(again).get("pose", 0) == plain
    assert failed(again) == ({} if plain else {"pose": {fakes.FAILURES[failure]: 2}})
    if not plain:
        assert worked(walk(workspace, sources, retry_failed=True))["pose"] == asked
    assert len(dataset(workspace)) == 4
    assert worked(walk(workspace, sources, retry_failed=True)) == {}


def test_auth_failures_are_retried_when_the_settings_of_their_stage_change(workspace: Workspace) -> None:
    sources = ["a", "b?download=auth"]
    walk(workspace, sources)
    assert worked(walk(workspace, sources)) == {}
    assert worked(walk(workspace, sources, "pose.stride=2")) == {"pose": 2}
    # How a cookie is given changes nothing that is done, but it may help where a login was missing.
    assert worked(walk(workspace, sources, "pose.stride=2", "download.cookies_file=jar.txt")) == {"download": 1}


def test_only_the_chosen_stage_retries_its_failures(workspace: Workspace) -> None:
    sources = ["a?pose=fail", "b?speech=fail", "c"]
    walk(workspace, sources)
    assert worked(walk(workspace, sources, retry_failed=True)) == {"pose": 2, "speech": 2}
    assert worked(walk(workspace, sources, only={"pose"}, retry_failed=True)) == {"pose": 2}


def test_a_forced_stage_runs_again_and_nothing_else_does(workspace: Workspace) -> None:
    walk(workspace, ["a", "e"])
    before = index(workspace)
    assert worked(walk(workspace, ["a", "e"], forced=frozenset({"pose"}))) == {"pose": 4}
    assert worked(walk(workspace, ["a", "e"], forced=frozenset({"shards"}))) == {"shards": len(before.shards)}
    assert index(workspace) == before


def test_a_missing_artifact_is_made_again_and_nothing_else(workspace: Workspace) -> None:
    walk(workspace, ["a", "e"])
    for folder, step in (("videos", "download"), ("clips", "filter.cut"), ("poses", "pose"), ("dataset", "shards")):
        lost = min(key for key in workspace.names(folder) if not key.endswith(".json"))
        workspace.delete([lost])
        assert worked(walk(workspace, ["a", "e"])) == {step: 1}
        assert workspace.exists(lost)


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_sources_with_one_video_the_smallest_id_keeps_it_whatever_the_order(
    workspace: Workspace, order: int
) -> None:
    pair = sorted((fakes.source(f"{name}?video=same") for name in "xyz"), key=lambda s: s.source_id)
    sources = [fakes.source("a"), *pair][::order]
    runner = walk(workspace, sources)
    assert runner.tally.steps["download"].done == runner.tally.n_videos == 2
    assert runner.tally.steps["download"].rejected == Counter(duplicate=2)
    assert worked(runner)["pose"] == 4
    assert {row["url"] for row in dataset(workspace)} == {"http://fake.test/a", pair[0].address}
    ledger = walk(workspace, sources[::-1]).lanes["download"].ledger
    for source, status in zip(pair, ("done", "rejected", "rejected"), strict=True):
        entry = ledger.latest(source.source_id)
        assert entry is not None
        assert entry.status == status
        assert status == "done" or entry.message == f"same video as source {pair[0].source_id}"


@pytest.mark.parametrize("order", [1, -1])
def test_duplicates_are_settled_once_and_write_nothing_in_later_runs(workspace: Workspace, order: int) -> None:
    sources = [f"{name}?video=same" for name in "wxyz"][::order]
    walk(workspace, sources)
    before = tree(workspace)
    assert worked(walk(workspace, sources[::-1])) == {}
    assert worked(walk(workspace, sources)) == {}
    assert tree(workspace) == before


def test_a_duplicate_takes_over_when_the_other_source_leaves_the_list(workspace: Workspace) -> None:
    pair = sorted((fakes.source(f"{name}?video=same") for name in "xy"), key=lambda s: s.source_id)
    walk(workspace, pair)
    left = walk(workspace, pair[1:])
    # The shard is written again because its rows name another address.
    assert worked(left) == {"shards": 1}
    assert {row["url"] for row in dataset(workspace)} == {pair[1].address}
    assert left.lanes["download"].ledger.latest(pair[1].source_id).status == "done"  # type: ignore[union-attr]


def test_a_playlist_brings_its_entries_and_shares_those_of_the_list(workspace: Workspace) -> None:
    runner = walk(workspace, ["all?list=a,b", "b"])
    assert worked(runner)["download"] == 3
    assert {row["title"] for row in dataset(workspace)} == {"a", "b"}
    assert worked(walk(workspace, ["b", "all?list=a,b"])) == {}


def test_a_stage_without_weights_leaves_its_units_pending_and_the_others_run(workspace: Workspace) -> None:
    runner = walk(workspace, ["a", "e"], steps=fakes.steps(pose="BrokenPose"))
    assert runner.tally.unavailable == {"pose": "no weights: mit-build weights fetch nothing"}
    assert runner.tally.steps["pose"].pending == runner.tally.pending == 4
    assert worked(runner)["filter.cut"] == 4
    assert runner.tally.failed == 0
    assert worked(walk(workspace, ["a", "e"])) == {"pose": 4, "speech": 4, "shards": len(index(workspace).shards)}


def test_a_setup_that_raises_anything_stops_its_stage_with_one_line(workspace: Workspace) -> None:
    runner = walk(workspace, ["a"], steps=fakes.steps(pose="CarelessPose"))
    assert runner.tally.unavailable == {"pose": "the library found no device"}


def test_a_dataset_survives_a_run_whose_stage_is_unavailable(workspace: Workspace) -> None:
    walk(workspace, ["a", "e"])
    before = dataset(workspace)
    broken = walk(workspace, ["a", "e"], "pose.stride=2", steps=fakes.steps(pose="BrokenPose"))
    assert broken.tally.pending == 4
    assert dataset(workspace) == before
    assert broken.tally.n_dataset == 4


def test_a_dataset_survives_a_run_of_the_last_stage_alone_with_other_settings(workspace: Workspace) -> None:
    walk(workspace, ["a", "e"])
    before = dataset(workspace)
    only_shards = walk(workspace, ["a", "e"], "pose.stride=2", only={"shards"})
    assert worked(only_shards) == {}
    assert only_shards.tally.pending == 4
    assert dataset(workspace) == before
    walk(workspace, ["a", "e"], "download.max_file_gb=1", only={"shards"})
    assert dataset(workspace) == before


def test_status_looks_at_everything_and_writes_nothing(workspace: Workspace) -> None:
    walk(workspace, ["a", "e?pose=fail", "x?video=same", "y?video=same"])
    workspace.delete(sorted(workspace.names("manifests/speech")))
    before = tree(workspace)
    seen = look(workspace, ["a", "e?pose=fail", "x?video=same", "y?video=same", "new"])
    assert tree(workspace) == before
    assert worked(seen) == {}
    assert failed(seen) == {"pose": {"permanent": 2}}
    pending = {name: tally.pending for name, tally in seen.tally.steps.items() if tally.pending}
    assert pending == {"download": 1, "speech": 4}
    assert seen.tally.steps["download"].rejected == Counter(duplicate=1)
    assert seen.tally.n_dataset == len(dataset(workspace)) == 4


def test_a_workspace_that_was_never_run_is_all_pending(workspace: Workspace) -> None:
    seen = look(workspace, ["a", "e"])
    assert seen.tally.steps["download"].pending == seen.tally.n_sources == 2
    assert tree(workspace) == {}


class Wide(SerialEngine):
    """Starts whatever is offered and hands results back one at a time, in the order of the calls."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.calls: list[tuple[str, list[Task]]] = []
        self.most_at_once: Counter[str] = Counter()

    def offer(self, stage: str) -> bool:
        waiting, self._results = self._results, []
        fits = super().offer(stage)
        self._results = waiting
        return fits

    def submit(self, stage: str, tasks: list[Task]) -> None:
        self.calls.append((stage, tasks))
        super().submit(stage, tasks)
        at_once = sum(len(result.tasks) for result in self._results if result.stage == stage)
        self.most_at_once[stage] = max(self.most_at_once[stage], at_once)

    def wait(self, timeout_s: float) -> list[Result]:
        return [self._results.pop(0)] if self._results else []


def walk_with(
    kind: type[SerialEngine], workspace: Workspace, sources: Iterable[str], *overrides: str, **options: Any
) -> tuple[Runner, Any]:
    """A run on an engine of the test's own; the runner and the engine."""
    settings, run_id, steps = settings_with(*overrides), new_run_id(), options.pop("steps", fakes.steps())
    engine = kind(worker_specs(settings, workspace, run_id, steps))
    runner = Runner(workspace, settings, run_id=run_id, engine=engine, steps=steps, **options)
    runner.run(map(fakes.source, sources))
    return runner, engine


def test_a_shard_is_written_when_its_bucket_is_quiet_not_after_each_clip(workspace: Workspace) -> None:
    _, engine = walk_with(Wide, workspace, ["a", "b", "c", "e"])
    shards = [task.row for stage, tasks in engine.calls if stage == "shards" for task in tasks]
    assert sorted((row.bucket, len(row.clips)) for row in shards) == [(0, 6), (1, 2)]


@pytest.mark.parametrize(("publish_s", "written"), [(3600.0, [2, 6]), (0.0, [2, 4, 6])])
def test_while_sources_arrive_a_shard_is_written_at_once_and_then_now_and_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, publish_s: float, written: list[int]
) -> None:
    monkeypatch.setattr("mit_builder.runner.PUBLISH_S", publish_s)

    class Recording(SerialEngine):
        sizes: list[int] = []

        def submit(self, stage: str, tasks: list[Task]) -> None:
            self.sizes.extend(len(task.row.clips) for task in tasks if stage == "shards")
            super().submit(stage, tasks)

    _, engine = walk_with(Recording, workspace, ["a", "b", "c"])
    assert engine.sizes == written


def test_readers_find_every_shard_of_the_index_at_any_time_and_stale_ones_go(workspace: Workspace) -> None:
    def check(runner: Runner) -> None:
        if workspace.exists(INDEX_KEY):
            assert all(workspace.exists(f"dataset/{shard.name}") for shard in index(workspace).shards)

    walk_with(SerialEngine, workspace, ["a", "b", "e"], on_progress=check)
    walk_with(SerialEngine, workspace, ["a", "b", "e"], "filter.min_clip_s=8", on_progress=check)
    named = {f"dataset/{shard.name}" for shard in index(workspace).shards}
    assert workspace.names("dataset") == named | {INDEX_KEY}
    assert len(named) == 2


def test_a_bucket_without_clips_leaves_the_dataset(workspace: Workspace) -> None:
    walk(workspace, ["a", "e"])
    walk(workspace, ["a", "e"], "filter.min_clip_s=11")
    assert index(workspace).shards == ()
    assert workspace.names("dataset") == {INDEX_KEY}


def test_the_number_of_buckets_stays_as_first_published(workspace: Workspace) -> None:
    walk(workspace, ["a", "e"])
    assert worked(walk(workspace, ["a", "e"], "shards.n_buckets=7")).keys() == {"shards"}
    assert index(workspace).n_buckets == 2


def test_one_host_gets_no_more_downloads_at_once_than_set(workspace: Workspace) -> None:
    _, engine = walk_with(Wide, workspace, ["a", "b", "c", "d", "e"], "download.per_host=3")
    assert engine.most_at_once["download"] == 3


def test_small_units_share_a_call(workspace: Workspace) -> None:
    _, engine = walk_with(Wide, workspace, ["a"])
    assert [len(tasks) for stage, tasks in engine.calls if stage == "filter.select"] == [3]


class Accidents(SerialEngine):
    """Loses calls of pose: every one whose clip's text names a loss."""

    sizes: list[int]

    def submit(self, stage: str, tasks: list[Task]) -> None:
        if stage != "pose":
            return super().submit(stage, tasks)
        self.sizes = [*getattr(self, "sizes", []), len(tasks)]
        worker = self._workers[stage]
        for task in tasks:
            with worker._workspace.local(task.row.mp4.key) as path:
                loss = fakes.query(path.read_text()).get("lose")
            if loss:
                self._results.append(Result(stage, tasks, lost=loss, message=f"lost by {loss}"))  # type: ignore[arg-type]
                return None
        return super().submit(stage, tasks)


@pytest.mark.parametrize(
    ("loss", "failure_class"), [("crash", "poison"), ("timeout", "poison"), ("memory", "resource")]
)
def test_a_unit_that_takes_its_worker_down_is_set_aside_after_max_crashes_and_the_others_finish(
    workspace: Workspace, loss: str, failure_class: str
) -> None:
    steps = fakes.steps(pose="BatchedPose")
    bad = f"bad?lengths=200&lose={loss}"
    runner, engine = walk_with(Accidents, workspace, ["a", bad, "e"], "run.max_crashes=2", steps=steps)
    ((step, entry),) = runner.failures
    assert (step, entry.failure_class, entry.attempts) == ("pose", failure_class, 2)
    assert entry.message == f"the worker died 2 times: lost by {loss}"
    assert {row["title"] for row in dataset(workspace)} == {"a", "e"}
    assert runner.tally.steps["pose"].done == 4


def test_units_that_shared_a_call_are_tried_one_by_one_before_any_is_blamed(workspace: Workspace) -> None:
    class Together(Wide, Accidents):
        pass

    steps = fakes.steps(pose="BatchedPose")
    runner, engine = walk_with(
        Together, workspace, ["a?lengths=200,200,200", "bad?lengths=200&lose=crash"], "run.max_crashes=1", steps=steps
    )
    assert [entry.failure_class for _, entry in runner.failures] == ["poison"]
    assert runner.tally.steps["pose"].done == 3


def test_the_loss_of_a_node_is_nobodys_fault(workspace: Workspace) -> None:
    class NodeLost(SerialEngine):
        left = 5

        def submit(self, stage: str, tasks: list[Task]) -> None:
            if stage == "pose" and self.left:
                self.left -= 1
                self._results.append(Result(stage, tasks, lost="node", message="its node has died"))
            else:
                super().submit(stage, tasks)

    runner, engine = walk_with(NodeLost, workspace, ["a"], "run.max_crashes=1")
    assert engine.left == 0
    assert runner.tally.failed == 0
    assert runner.tally.steps["pose"].done == 2


def test_poison_is_retried_only_when_asked_for(workspace: Workspace) -> None:
    sources = ["bad?lengths=200&lose=crash", "e"]
    walk_with(Accidents, workspace, sources)
    assert worked(walk(workspace, sources)) == {}
    assert worked(walk(workspace, sources, retry_failed=True)) == {"pose": 1, "speech": 1, "shards": 1}


def units(tally: Tally, kind: str) -> int:
    """Units of one kind, without the shards: how often one is written depends on when its bucket was quiet."""
    return sum(getattr(counted, kind) for name, counted in tally.steps.items() if name != "shards")


def test_an_interrupted_run_keeps_what_is_done(workspace: Workspace, another: Workspace) -> None:
    n_calls = 0

    def interrupt(runner: Runner) -> None:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        walk_with(SerialEngine, workspace, ["a", "b", "e"], on_progress=interrupt)
    n_done = units(look(workspace, ["a", "b", "e"]).tally, "done")
    assert n_done >= 10
    n_all = units(walk(another, ["a", "b", "e"]).tally, "worked_on")
    assert units(walk(workspace, ["a", "b", "e"]).tally, "worked_on") == n_all - n_done
    assert index(workspace) == index(another)


def test_a_full_disk_stops_the_run_and_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mit_builder.runner.CHECK_SPACE_S", 0.0)
    workspace = Workspace(tmp_path / "ws")
    with pytest.raises(CannotContinue, match="GB free"):
        walk(workspace, ["a"], "run.min_free_gb=1e9")
    assert workspace.names("manifests") != set()


def test_finished_units_are_recorded_while_a_run_goes_on(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mit_builder.runner.FLUSH_ROWS", 1)
    recorded: list[int] = []
    walk_with(
        SerialEngine, workspace, ["a"], on_progress=lambda runner: recorded.append(len(workspace.names("manifests")))
    )
    assert recorded == sorted(recorded)
    assert len(set(recorded)) > 5


KILLED_RUN = """
import sys
import test_runner as tests
import mit_builder.runner
from mit_builder.workspace import Workspace
mit_builder.runner.FLUSH_ROWS = 2
tests.walk(Workspace(sys.argv[1]), sys.argv[2:])
"""


@pytest.mark.parametrize("step", ["download", "filter.cut", "shards"])
def test_a_killed_run_goes_on_where_it_was_and_ends_with_the_same_dataset(
    tmp_path: Path, another: Workspace, step: str
) -> None:
    flag, log = tmp_path / "flag", tmp_path / "log"
    flag.touch()
    sources = ["a", f"e?{step}=kill-driver&while={flag}", "b"]
    root = Path(__file__).resolve().parent.parent
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}", fakes.LOG: str(log)}
    command = [sys.executable, "-c", KILLED_RUN, str(tmp_path / "ws"), *sources]
    assert subprocess.run(command, env=environment, check=False).returncode == -9
    flag.unlink()
    workspace = Workspace(tmp_path / "ws")
    n_called = sum(not line.startswith("shards ") for line in log.read_text().splitlines())
    n_recorded = units(look(workspace, sources).tally, "done")
    # Of what was called, the unit that killed and at most what was not flushed is lost.
    assert 0 < n_called - n_recorded <= 3 or step == "shards"
    n_rest = units(walk(workspace, sources).tally, "worked_on")
    assert n_rest == units(walk(another, sources).tally, "worked_on") - n_recorded
    assert dataset(workspace) == dataset(another)
    assert index(workspace) == index(another)


def test_walking_over_settled_work_takes_time_in_proportion_to_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [f"video-{i}?lengths=150" for i in range(40)]
    walk(workspace, sources)
    calls: Counter[str] = Counter()
    original = Runner._key

    def counted(self: Runner, lane: Any, row: Any) -> str:
        calls[lane.step.name] += 1
        return original(self, lane, row)

    monkeypatch.setattr(Runner, "_key", counted)
    assert worked(walk(workspace, [*sources, "new?lengths=150"]))["pose"] == 1
    assert calls["pose"] == len(sources) + 1
    assert calls["shards"] <= 4
