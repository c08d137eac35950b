from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import fakes
import pytest
from walks import dataset, failed, index, look, tree, walk, worked

from manifests.ids import new_run_id
from mit_builder.config.settings import Settings
from mit_builder.driver.step_queue import StepQueue
from mit_builder.storage.workspace import Workspace


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
def test_a_video_that_fails_at_any_step_never_stops_the_others(workspace: Workspace, step: str, behaviour: str) -> None:
    runner = walk(workspace, ["before", f"bad?{step}={behaviour}", "after"])
    assert failed(runner).keys() == {step}
    assert {row["title"] for row in dataset(workspace)} == {"before", "after"}
    for name, entry in runner.failures:
        recorded = runner.lanes[name].ledger.find(entry.unit_id, entry.input_key)
        assert recorded is not None
        assert recorded.traceback
        assert entry.message == recorded.message != ""


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
    assert {row["source_url"] for row in dataset(workspace)} == {"http://fake.test/a", pair[0].address}
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
    assert {row["source_url"] for row in dataset(workspace)} == {pair[1].address}
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


def test_walking_over_settled_work_takes_time_in_proportion_to_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [f"video-{i}?lengths=150" for i in range(40)]
    walk(workspace, sources)
    calls: Counter[str] = Counter()
    original = StepQueue.key

    def counted(self: StepQueue, row: Any, settings: Settings) -> str:
        calls[self.step.name] += 1
        return original(self, row, settings)

    monkeypatch.setattr(StepQueue, "key", counted)
    assert worked(walk(workspace, [*sources, "new?lengths=150"]))["pose"] == 1
    assert calls["pose"] == len(sources) + 1
    assert calls["shards"] <= 4
