from __future__ import annotations

import errno
import io
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import fakes
import pyarrow.parquet as pq
import pytest
from walks import Recording, Wide, dataset, failed, index, look, settings_with, walk, walk_with, worked

from manifests.ids import new_run_id
from manifests.ledger import Entry
from manifests.rows import Artifact, Shard
from mit_builder.dataset.publish import INDEX_KEY, Publisher
from mit_builder.driver.counts import RunCounts
from mit_builder.driver.duplicates import Duplicates
from mit_builder.driver.labelled_clips import LabelledClips
from mit_builder.driver.options import RunOptions
from mit_builder.driver.runner import Runner
from mit_builder.driver.shard_plan import Buckets
from mit_builder.driver.step_queue import Files
from mit_builder.engine.base import Result
from mit_builder.engine.serial import SerialEngine
from mit_builder.engine.worker import Task, Worker, WorkerSpec, classify
from mit_builder.errors import CannotContinue, LeaseLost, MediaError, ModelError, SourceError, WorkspaceError
from mit_builder.labels.reviews import Reviews
from mit_builder.stage import Reject
from mit_builder.storage.tombstones import REMOVED
from mit_builder.storage.workspace import Workspace


@pytest.fixture
def workspace() -> Workspace:
    """In memory: faster, and it has neither rename nor append."""
    return Workspace(f"memory://{new_run_id()}")


@pytest.fixture
def another() -> Workspace:
    """For a run to compare with."""
    return Workspace(f"memory://{new_run_id()}")


def test_a_shard_is_written_when_its_bucket_is_quiet_not_after_each_clip(workspace: Workspace) -> None:
    _, engine = walk_with(Wide, workspace, ["a", "b", "c", "e"])
    shards = [task.row for stage, tasks in engine.calls if stage == "shards" for task in tasks]
    assert sorted((row.bucket, len(row.clips)) for row in shards) == [(0, 6), (1, 2)]


@pytest.mark.parametrize(("publish_s", "written"), [(3600.0, [2, 6]), (0.0, [2, 4, 6])])
def test_while_sources_arrive_a_shard_is_written_at_once_and_then_now_and_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, publish_s: float, written: list[int]
) -> None:
    monkeypatch.setattr("mit_builder.driver.shard_plan.PUBLISH_S", publish_s)
    monkeypatch.setattr("mit_builder.driver.shard_plan.PUBLISH_SHARE", math.inf)

    _, engine = walk_with(Recording, workspace, ["a", "b", "c"])
    assert [len(task.row.clips) for stage, tasks in engine.calls if stage == "shards" for task in tasks] == written


def test_what_is_published_loses_no_clips_while_all_downloads_are_done_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mit_builder.driver.step_queue.QUEUE_BOUND", 1)
    monkeypatch.setattr("mit_builder.driver.shard_plan.PUBLISH_S", 0.0)
    names = [f"v{i}?lengths=200" for i in range(12)]
    walk(workspace, names)
    n_clips: list[int] = []
    walk_with(
        SerialEngine,
        workspace,
        [*names, "new?lengths=200"],
        choice=RunOptions(forced=frozenset(("download",))),
        on_progress=lambda runner: n_clips.append(len(dataset(workspace))),
    )
    assert n_clips == sorted(n_clips)
    assert (n_clips[0], n_clips[-1], len(dataset(workspace))) == (12, 13, 13)


def test_readers_find_every_shard_of_the_index_at_any_time_and_stale_ones_go(workspace: Workspace) -> None:
    def check(runner: Runner) -> None:
        if workspace.exists(INDEX_KEY):
            assert all(workspace.exists(f"dataset/{shard.name}") for shard in index(workspace).shards)

    walk_with(SerialEngine, workspace, ["a", "b", "e"], on_progress=check)
    walk_with(SerialEngine, workspace, ["a", "b", "e"], "filter.min_clip_s=8", on_progress=check)
    named = {f"dataset/{shard.name}" for shard in index(workspace).shards}
    assert workspace.names("dataset") == named | {INDEX_KEY}
    assert len(named) == 2


def test_of_a_shard_that_is_written_again_and_again_two_versions_are_kept_and_no_more(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mit_builder.driver.shard_plan.PUBLISH_S", 0.0)
    monkeypatch.setattr("mit_builder.driver.shard_plan.PUBLISH_SHARE", math.inf)
    monkeypatch.setattr("mit_builder.driver.step_queue.QUEUE_BOUND", 1)
    seen: list[set[str]] = []

    def check(runner: Runner) -> None:
        if workspace.exists(INDEX_KEY):
            there = workspace.names("dataset") - {INDEX_KEY}
            assert {f"dataset/{shard.name}" for shard in index(workspace).shards} <= there
            seen.append(there)

    walk_with(
        SerialEngine,
        workspace,
        [f"v{i}?lengths=200" for i in range(12)],
        "shards.n_buckets=1",
        on_progress=check,
    )
    assert len(set().union(*seen)) > 5, "versions"
    assert max(map(len, seen)) == 2, "today's and the one before"
    assert workspace.names("dataset") == {INDEX_KEY, *(f"dataset/{shard.name}" for shard in index(workspace).shards)}


def test_the_files_that_go_when_a_shard_is_replaced_are_no_longer_taken_to_be_there(workspace: Workspace) -> None:
    def shard(version: str) -> Shard:
        key = f"dataset/shard-00000-of-00004.{version}.parquet"
        workspace.write(key, b"rows")
        return Shard(0, Artifact(key, version, 4), (), 1)

    publisher, first, second, third = Publisher(workspace, 4), *map(shard, "abc")
    assert publisher.take([first], write=True) == []
    assert publisher.key(0) == first.parquet.key
    assert publisher.take([second], write=True) == []
    assert publisher.take([third], write=True) == [first.parquet.key]
    assert (publisher.key(0), workspace.exists(first.parquet.key)) == (third.parquet.key, False)
    publisher.finish(None)
    assert workspace.names("dataset") == {INDEX_KEY, third.parquet.key}
    publisher.finish(set())
    assert (workspace.names("dataset"), list(index(workspace).shards)) == ({INDEX_KEY}, [])


def test_the_longer_a_shard_takes_the_less_often_it_is_written_while_sources_arrive() -> None:
    workspace = Workspace(f"memory://{new_run_id()}")
    publisher = Publisher(workspace, 4)
    buckets = Buckets(publisher, LabelledClips(settings_with(), Duplicates(), Reviews(workspace)))
    for bucket, took_s in ((0, 0.1), (1, 10.0)):
        buckets.wait(bucket, 1000.0)
        buckets.written(bucket, took_s)
    assert buckets.is_due(2, 0.0, growing=True), "never written"
    for bucket, due_s in ((0, 1060.0), (1, 1400.0)):  # 4 shards of 10 s in a tenth of the time: each once in 400 s
        assert not buckets.is_due(bucket, due_s - 1, growing=True)
        assert buckets.is_due(bucket, due_s, growing=True)
        assert buckets.is_due(bucket, 1000.0, growing=False)


def test_files_that_are_gone_are_not_taken_to_be_there(workspace: Workspace) -> None:
    def entry(name: str, run_id: str) -> Entry:
        return Entry("u", "k", "done", (Shard(0, Artifact(f"dataset/{name}", "", 0), (), 1),), run_id=run_id)

    workspace.write("dataset/a", b"")
    files = Files(workspace, "this-run")
    assert [files.has_all(entry(name, "before")) for name in "ab"] == [True, False]
    workspace.write("dataset/b", b"")
    assert [files.has_all(entry(name, "this-run")) for name in "abc"] == [True, True, False]
    workspace.delete(["dataset/a"])
    files.remove(["dataset/a", "dataset/never"])
    assert [files.has_all(entry("a", run_id)) for run_id in ("before", "this-run")] == [False, False]


def test_an_index_that_is_no_text_is_written_anew(workspace: Workspace) -> None:
    workspace.write(INDEX_KEY, b"\xff\xfe")
    assert walk(workspace, ["a"]).publisher.n_clips == len(dataset(workspace)) > 0


def test_a_bucket_without_clips_leaves_the_dataset(workspace: Workspace) -> None:
    walk(workspace, ["a", "e"])
    walk(workspace, ["a", "e"], "filter.min_clip_s=11")
    assert index(workspace).shards == ()
    assert workspace.names("dataset") == {INDEX_KEY}


def test_clips_with_hidden_bodies_are_left_out_and_come_back_without_new_labels(workspace: Workspace) -> None:
    everything = {row["clip_id"] for row in (walk(workspace, ["a", "e"]), dataset(workspace))[1]}
    hidden = {clip_id for clip_id in everything if "_000050to" in clip_id}
    assert hidden not in (set(), everything)

    stricter = walk(workspace, ["a", "e"], "shards.min_body_visible=0.5")
    assert worked(stricter).keys() == {"shards"}
    assert {row["clip_id"] for row in dataset(workspace)} == everything - hidden
    assert stricter.tally.left_out == {"body_not_visible": len(hidden)}
    assert {row.clip.clip_id for row in stricter.clips.kept()} == everything - hidden
    assert look(workspace, ["a", "e"], "shards.min_body_visible=0.5").tally.as_dict()["left_out"] == {
        "body_not_visible": len(hidden)
    }

    strictest = walk(workspace, ["a", "e"], "shards.min_body_visible=1")
    assert index(workspace).shards == ()
    assert strictest.tally.left_out == {"body_not_visible": len(everything)}
    assert not worked(strictest)

    assert worked(walk(workspace, ["a", "e"])).keys() == {"shards"}
    assert {row["clip_id"] for row in dataset(workspace)} == everything


def test_the_number_of_buckets_stays_as_first_published(workspace: Workspace) -> None:
    walk(workspace, ["a", "e"])
    assert worked(walk(workspace, ["a", "e"], "shards.n_buckets=7")).keys() == {"shards"}
    assert index(workspace).n_buckets == 2


def test_one_host_gets_no_more_downloads_at_once_than_set(workspace: Workspace) -> None:
    _, engine = walk_with(Wide, workspace, ["a", "b", "c", "d", "e"], "download.per_host=3")
    assert engine.most_at_once["download"] == 3


def test_two_files_under_one_video_id_are_worked_on_at_once(workspace: Workspace) -> None:
    runner, _ = walk_with(Wide, workspace, ["c?video=x&lengths=150", "d?video=x&lengths=200"])
    assert worked(runner)["shots"] == 2
    assert len(dataset(workspace)) == 1


@pytest.mark.parametrize("names", ["cd", "dc"])
def test_other_bytes_under_a_videos_id_take_no_clip_from_it_whatever_the_order(
    workspace: Workspace, names: str
) -> None:
    address = {"c": "c?video=x&lengths=150,40", "d": "d?video=x&lengths=150,200"}
    keeper = min(address.values(), key=lambda name: fakes.source(name).source_id)
    walk(workspace, [address[name] for name in names])
    assert [row["title"] for row in dataset(workspace)] == [keeper[0]] * (1 if keeper[0] == "c" else 2)
    there = dataset(workspace)
    for order in (names, names[::-1]):
        walk(workspace, [address[name] for name in order])
        assert dataset(workspace) == there


def test_small_units_share_a_call(workspace: Workspace) -> None:
    _, engine = walk_with(Wide, workspace, ["a"])
    assert [len(tasks) for stage, tasks in engine.calls if stage == "filter.select"] == [3]


class Accidents(SerialEngine):
    """Loses calls of pose: every one whose clip's text names a loss."""

    def submit(self, stage: str, tasks: list[Task]) -> None:
        if stage != "pose":
            return super().submit(stage, tasks)
        worker = self._workers[stage]
        for task in tasks:
            with worker._workspace.local(task.row.mp4.key) as path:
                told: dict[str, Any] = fakes.query(path.read_text())
            loss = told.get("lose")
            if loss:
                self._results.append(Result(stage, tasks, lost=loss, message=f"lost by {loss}"))
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
    runner, _ = walk_with(Accidents, workspace, ["a", bad, "e"], "run.max_crashes=2", steps=steps)
    ((step, entry),) = runner.failures
    assert (step, entry.failure_class, entry.attempts) == ("pose", failure_class, 2)
    assert entry.message == f"the worker died 2 times: lost by {loss}"
    assert {row["title"] for row in dataset(workspace)} == {"a", "e"}
    assert runner.tally.steps["pose"].done == 4


def test_units_that_shared_a_call_are_tried_one_by_one_before_any_is_blamed(workspace: Workspace) -> None:
    class Together(Wide, Accidents):
        pass

    steps = fakes.steps(pose="BatchedPose")
    runner, _ = walk_with(
        Together, workspace, ["a?lengths=200,200,200", "bad?lengths=200&lose=crash"], "run.max_crashes=1", steps=steps
    )
    assert [entry.failure_class for _, entry in runner.failures] == ["poison"]
    assert runner.tally.steps["pose"].done == 3


@pytest.mark.parametrize("lost", ["node", "silent"])
def test_the_loss_of_a_node_or_a_stopped_worker_is_nobodys_fault(
    workspace: Workspace, lost: Literal["node", "silent"]
) -> None:
    class NodeLost(SerialEngine):
        left = 4

        def submit(self, stage: str, tasks: list[Task]) -> None:
            if stage == "pose" and self.left:
                self.left -= 1
                self._results.append(Result(stage, tasks, lost=lost, message="why"))
            else:
                super().submit(stage, tasks)

    runner, engine = walk_with(NodeLost, workspace, ["a"], "run.max_crashes=1")
    assert engine.left == 0
    assert runner.tally.failed == 0
    assert runner.tally.steps["pose"].done == 2


def test_a_unit_that_takes_its_node_down_again_and_again_is_set_aside_and_what_went_down_with_it_is_not(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OneNode(Wide, Accidents):
        """Everything runs on one node: what takes it down takes everything down."""

        n_lost = 0

        def submit(self, stage: str, tasks: list[Task]) -> None:
            assert self.n_lost < 30, "for ever"
            super().submit(stage, tasks)

        def wait(self, timeout_s: float) -> list[Result]:
            if not any(result.lost for result in self._results):
                return super().wait(timeout_s)
            self.n_lost += 1
            lost, self._results = self._results, []
            return [replace(result, entries=None, lost="node", message="its node has died") for result in lost]

    monkeypatch.setattr("mit_builder.driver.runner.SUSPECT_WAIT_S", 0.01)
    sources = ["a", "bad?lengths=200&lose=node", "worse?lengths=200&lose=node", *"bcde"]
    runner, engine = walk_with(OneNode, workspace, sources, "run.max_crashes=1")
    assert [(step, entry.failure_class) for step, entry in runner.failures] == [("pose", "poison")] * 2
    assert {entry.message for _, entry in runner.failures} == {"its node was lost 5 times: its node has died"}
    assert {row["title"] for row in dataset(workspace)} == set("abcde")
    assert engine.n_lost <= 10


def test_poison_is_retried_only_when_asked_for(workspace: Workspace) -> None:
    sources = ["bad?lengths=200&lose=crash", "e"]
    walk_with(Accidents, workspace, sources)
    assert worked(walk(workspace, sources)) == {}
    assert worked(walk(workspace, sources, retry_failed=True)) == {"pose": 1, "speech": 1, "shards": 1}


def units(tally: RunCounts, kind: str) -> int:
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
    monkeypatch.setattr("mit_builder.driver.runner.CHECK_SPACE_S", 0.0)
    workspace = Workspace(tmp_path / "ws")
    with pytest.raises(CannotContinue, match="GB free"):
        walk(workspace, ["a"], "run.min_free_gb=1e9")
    assert workspace.names("manifests") != set()


def test_a_damaged_ledger_part_costs_its_own_units_alone(
    workspace: Workspace, another: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mit_builder.driver.runner.FLUSH_ROWS", 2)
    sources = ["a", "e", "b"]
    walk(workspace, sources)
    part = sorted(key for key in workspace.names("manifests/pose"))[1]
    n_units = pq.read_metadata(io.BytesIO(workspace.read(part))).num_rows
    workspace.write(part, workspace.read(part)[:-9])
    assert worked(walk(workspace, sources)) == {"pose": n_units}
    walk(another, sources)
    assert dataset(workspace) == dataset(another)


@pytest.mark.parametrize(
    ("error", "failure_class"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "resource"),
        (OSError(errno.EMFILE, "Too many open files"), "resource"),
        (OSError(errno.EROFS, "Read-only file system"), "resource"),
        (WorkspaceError("cannot write clips/a"), "resource"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory"), "transient"),
    ],
)
def test_a_worker_that_finds_no_room_for_its_files_says_so(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, error: OSError, failure_class: str
) -> None:
    def no_room(self: Workspace, run_id: str) -> Path:
        raise error

    monkeypatch.setattr(Workspace, "own", no_room)
    assert failed(walk(workspace, ["a"])) == {"download": {failure_class: 1}}


def test_a_unit_that_is_done_stays_done_where_its_unfinished_files_cannot_be_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workspace = Workspace(f"memory://{new_run_id()}")
    work = Worker._outcome

    def and_lose_the_disk(self: Worker, task: Task) -> dict[str, Any]:
        outcome = work(self, task)

        def is_gone(folder: Path) -> None:
            raise WorkspaceError(f"{folder} is gone")

        monkeypatch.setattr("mit_builder.storage.scratch.make_private", is_gone)
        return outcome

    worker = Worker(WorkerSpec("fakes:FakeDownload", settings_with().download, workspace.uri, "run"))
    assert worker.ready() is None
    monkeypatch.setattr(Worker, "_outcome", and_lose_the_disk)
    (entry,) = worker.run([Task("a", "0123456789abcdef", fakes.source("a"))])
    assert entry.status == "done"


@pytest.mark.parametrize(
    ("error", "comes_out"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (LeaseLost("another run took over"), LeaseLost),
        (ZeroDivisionError("a bug"), Reject),
        (None, Reject),
    ],
)
def test_what_ends_the_run_comes_out_of_a_unit_as_it_is_and_nothing_is_withdrawn_then(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, error: BaseException | None, comes_out: type[BaseException]
) -> None:
    """What the unit is about was taken down meanwhile."""
    withdrawn: list[str] = []

    def process(self: fakes.Fake, row: object, ctx: Any) -> Iterator[object]:
        fakes.write_text("a", ctx, "videos", "a")
        if error is not None:
            raise error
        yield from ()

    def withdraw(workspace: Workspace, keys: list[str], rows: object) -> bool:
        withdrawn.extend(keys)
        return True

    monkeypatch.setattr(fakes.FakeDownload, "process", process)
    monkeypatch.setattr("mit_builder.engine.worker.withdraw", withdraw)
    worker = Worker(WorkerSpec("fakes:FakeDownload", settings_with().download, workspace.uri, "run"))
    assert worker.ready() is None
    task = Task("a", "0123456789abcdef", fakes.source("a"))
    if comes_out is Reject:
        (entry,) = worker.run([task])
        assert (entry.status, entry.reason) == ("rejected", REMOVED)
        assert withdrawn == ["videos/a.01234567.txt"]
    else:
        with pytest.raises(comes_out) as caught:
            worker.run([task])
        assert caught.value is error
        assert withdrawn == []


@pytest.mark.parametrize(
    ("error", "failure_class"),
    [
        (MemoryError(), "resource"),
        (ConnectionResetError(), "transient"),
        (TimeoutError(), "transient"),
        (FileNotFoundError("videos/a.mp4"), "transient"),
        (OSError(errno.EIO, "Input/output error"), "transient"),
        (OSError("cannot identify the picture"), "permanent"),
        (ImportError("a library is gone"), "resource"),
        (CannotContinue("no weights"), "resource"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "resource"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "resource"),
        (RuntimeError("shapes do not fit"), "permanent"),
        (KeyError("x"), "permanent"),
        (MediaError("x"), "permanent"),
        (SourceError("x", failure_class="auth"), "auth"),
    ],
)
def test_an_exception_of_a_stage_has_a_failure_class(error: Exception, failure_class: str) -> None:
    assert classify(error) == failure_class


def test_a_file_that_could_not_be_opened_for_lack_of_descriptors_is_not_to_blame() -> None:
    error = MediaError("cannot read a.mp4")
    error.__cause__ = OSError(errno.EMFILE, "Too many open files")
    assert classify(error) == "resource"


@pytest.mark.parametrize(
    "cause",
    [
        OSError(errno.ESTALE, "Stale file handle"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
    ],
)
def test_what_a_disk_or_a_gpu_did_is_not_blamed_where_a_backend_words_it(cause: Exception) -> None:
    error = ModelError("yolo failed")
    error.__cause__ = cause
    assert classify(error) == "resource"


def test_finished_units_are_recorded_while_a_run_goes_on(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mit_builder.driver.runner.FLUSH_ROWS", 1)
    recorded: list[int] = []
    walk_with(
        SerialEngine, workspace, ["a"], on_progress=lambda runner: recorded.append(len(workspace.names("manifests")))
    )
    assert recorded == sorted(recorded)
    assert len(set(recorded)) > 5


KILLED_RUN = """
import sys
import walks
import mit_builder.driver.runner
from mit_builder.storage.workspace import Workspace
mit_builder.driver.runner.FLUSH_ROWS = 2
walks.walk(Workspace(sys.argv[1]), sys.argv[2:])
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
