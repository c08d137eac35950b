"""Runs that pass over what is settled, against the same runs that walk over everything.

`SETTLED_SEEDS=40` has more histories played.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import fakes
import pyarrow as pa
import pytest
from walks import dataset, settings_with

from manifests.ids import id_of, new_run_id
from mit_builder.dataset.publish import INDEX_KEY
from mit_builder.driver import finished_store
from mit_builder.driver.counts import Count, RunCounts
from mit_builder.driver.finished_index import FinishedIndex
from mit_builder.driver.finished_store import Head, Row, Store
from mit_builder.driver.options import RunOptions
from mit_builder.driver.retry_policy import ALL_CLASSES
from mit_builder.driver.runner import Runner
from mit_builder.driver.snapshot import Snapshot
from mit_builder.engine.serial import SerialEngine
from mit_builder.engine.specs import worker_specs
from mit_builder.storage.source_catalog import SourceList
from mit_builder.storage.tombstones import KEY, Tombstone, Tombstones, clip_span, digest
from mit_builder.storage.workspace import FOLDERS, Workspace

BUCKETS = "shards.n_buckets=6"
RUNS = count()
"""Names of runs sort by time, so that the same parts come first in both workspaces of a pair."""


def listed(names: Sequence[str]) -> SourceList:
    sources = [vars(fakes.source(name)) for name in names]
    schema = pa.schema([(name, pa.string()) for name in ("source_id", "address", "kind")])
    return SourceList(pa.Table.from_pylist(sources, schema))


def run(
    workspace: Workspace,
    names: Sequence[str],
    *overrides: str,
    passing_over: bool = True,
    working: bool = True,
    to_the_end: bool = True,
    due_again: Any = None,
    **choice: Any,
) -> Snapshot:
    settings, run_id = settings_with(BUCKETS, "run.max_attempts=1", *overrides), f"run-{next(RUNS):06d}"
    chosen = RunOptions(steps=frozenset(choice.pop("only", fakes.CLASSES)), at_once=True, **choice)
    if not working:
        seen = Snapshot(workspace, settings, run_id=run_id, choice=chosen, steps=fakes.steps())
        if passing_over:
            seen.skip_finished()
        seen.follow(listed(names), due_again=due_again)
        return seen
    engine = SerialEngine(worker_specs(settings, workspace, run_id, fakes.steps()))
    runner = Runner(workspace, settings, run_id=run_id, choice=chosen, engine=engine, steps=fakes.steps())
    if passing_over:
        runner.skip_finished()
    runner.run(listed(names))
    if to_the_end:
        runner.finished.at_the_end()
    return runner


def worked(runner: Snapshot) -> dict[str, int]:
    return {name: tally.worked_on for name, tally in runner.tally.steps.items() if tally.worked_on}


def figures(runner: Runner) -> dict[str, Any]:
    """What a run found, without how long it took."""
    found = runner.tally.as_dict()
    empty = {"done": 0, "rejected": {}, "failed": {}, "pending": 0, "worked_on": 0}
    stages = {
        name: {key: stage[key] for key in empty}
        for name, stage in found["stages"].items()
        if any(stage[key] != nothing for key, nothing in empty.items())
    }
    near = {key: vars(value) for key, value in runner.tally.near_misses.items()}
    return {**found, "stages": stages, "near": near}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws")


NAMES = ["a", "b?lengths=200", "c?video=x", "d?video=x", "e?pose=fail", "f?shots=reject", "g?download=reject", "h"]


def test_a_finished_run_is_passed_over_whole(workspace: Workspace) -> None:
    run(workspace, NAMES)
    again = run(workspace, NAMES)
    assert again.finished.n_skipped == len(NAMES)
    assert worked(again) == {}
    slow = run(workspace, NAMES, passing_over=False)
    assert figures(again) == figures(slow)


def test_a_finished_run_reads_no_ledger_and_writes_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(workspace, NAMES)
    before = {key: workspace.read(key) for key in workspace.names("")}
    read: list[str] = []
    original = Workspace.read

    def reading(self: Workspace, key: str) -> bytes:
        read.append(key)
        return original(self, key)

    monkeypatch.setattr(Workspace, "read", reading)
    run(workspace, NAMES)
    folders = {key.split("/")[1] for key in read if key.startswith("manifests/")}
    assert folders == {"settled", "tombstones.json"}
    monkeypatch.undo()
    assert {key: workspace.read(key) for key in workspace.names("")} == before


def test_one_new_source_calls_back_only_those_that_share_its_shard(workspace: Workspace) -> None:
    names = [f"v{i}?lengths=200" for i in range(40)]
    run(workspace, names)
    grown = run(workspace, [*names, "new?lengths=200"])
    buckets = grown.publisher
    (new,) = {row.video.video_id for row in grown.clips.kept() if row.video.title == "new"}
    same = [row for row in grown.clips.kept() if buckets.bucket(row.video.video_id) == buckets.bucket(new)]
    assert len(same) == len(grown.clips.kept()) < 20
    assert worked(grown)["shards"] == 1
    assert worked(run(workspace, [*names, "new?lengths=200"])) == {}


def test_looking_counts_what_is_passed_over_and_lists_failures_when_asked(workspace: Workspace) -> None:
    run(workspace, NAMES)
    seen = run(workspace, NAMES, working=False, due_again=())
    assert figures(seen) == figures(run(workspace, NAMES, working=False, passing_over=False))
    assert (seen.finished.n_skipped, seen.failures) == (len(NAMES), [])
    asked = run(workspace, NAMES, working=False, due_again=ALL_CLASSES)
    assert [step for step, _ in asked.failures] == ["pose", "pose"]


def test_a_unit_that_is_worked_on_again_is_forgotten_before_the_ledger_knows(
    workspace: Workspace, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    names = ["a", f"b?pose=fail&while={flag}"]
    run(workspace, names)
    flag.unlink()
    # The run ends like one that is killed: the ledger has what was done, but no row says so.
    run(workspace, names, only=["pose"], retry=ALL_CLASSES, to_the_end=False)
    after = run(workspace, names)
    assert worked(after) == {"speech": 2, "shards": 1}
    assert len(dataset(workspace)) == 4


class Pair:
    """One history in two workspaces: one passes over what is settled, the other never does."""

    def __init__(self, place: Path | str, seed: int) -> None:
        self.chance = random.Random(seed)
        self.spaces = [Workspace(f"{place}/{name}") for name in ("fast", "slow")]
        self.flag = Path("/nonexistent")
        self.names: list[str] = []

    def grow(self) -> None:
        for _ in range(self.chance.randint(1, 6)):
            name = f"n{self.chance.randrange(40)}"
            options = [f"lengths={self.chance.choice(['200', '50,150', '40', '130,130,20'])}"]
            if self.chance.random() < 0.3:
                options = [f"video=v{self.chance.randrange(4)}", "lengths=150,150"]
            elif self.chance.random() < 0.15:
                entries = [f"n{self.chance.randrange(40)}x", f"n{self.chance.randrange(40)}?video=w&lengths=40"]
                entries += [name for name in self.names if "," not in name]
                options = ["list=" + ",".join(map(quote, self.chance.choices(entries, k=3)))]
            elif self.chance.random() < 0.35:
                step = self.chance.choice(["download", "shots", "filter.detect", "filter.select", "pose", "speech"])
                options.append(f"{step}={self.chance.choice(['fail', 'reject', 'transient', 'auth', 'bug'])}")
            self.names.append(f"{name}?{'&'.join(options)}")
        self.names = list(dict.fromkeys(self.names))

    def change(self) -> tuple[list[str], list[str], dict[str, Any]]:
        """Names, settings and choice of the next run, after something may have happened to the workspace."""
        names, overrides, choice = list(self.names), list[str](), dict[str, Any]()
        what = self.chance.randrange(13)
        if what in (0, 1, 2):
            self.grow()
            names = list(self.names)
        elif what == 3:
            self.chance.shuffle(names)
            names = names[: self.chance.randint(1, len(names))]
        elif what == 4:
            overrides = [self.chance.choice(["filter.min_clip_s=7", "shards.min_body_visible=0.5", "pose.stride=2"])]
        elif what == 5:
            choice = {"forced": frozenset([self.chance.choice(list(fakes.CLASSES))])}
        elif what == 6:
            choice = {"retry": ALL_CLASSES}
        elif what == 7:
            choice = {"only": self.chance.sample(list(fakes.CLASSES), 4)}
        elif what == 8:
            self.lose(self.chance.choice(["videos", "tracks", "clips", "poses", "speech", "dataset"]))
            if self.chance.random() < 0.5:
                names = names[: self.chance.randint(1, len(names))]
            elif self.chance.random() < 0.5:
                choice = {"only": self.chance.sample(list(fakes.CLASSES), 4)}
        elif what == 9:
            self.lose(f"manifests/{self.chance.choice(list(fakes.CLASSES))}")
        elif what == 10:
            self.damage()
        elif what == 11:
            self.cut_short(self.chance.choice(["videos", "tracks", "clips", "poses", "speech", "dataset"]))
        else:
            self.take_down()
        return names, overrides, choice

    def take_down(self) -> None:
        rows = dataset(self.spaces[0])
        if rows:
            video, start, end = clip_span(self.chance.choice(rows)["clip_id"]) or ("", 0, 0)
            stone = Tombstone("span", digest("span", video), start, end)
            for space in self.spaces:
                space.write(KEY, (Tombstones.of(space) + Tombstones([stone])).dump())

    def lose(self, folder: str) -> None:
        n = self.chance.random()
        for space in self.spaces:
            keys = sorted(key for key in space.names(folder) if "/settled/" not in key)
            if keys:
                space.delete([keys[int(n * len(keys))]] if "manifests" not in folder else keys)

    def cut_short(self, folder: str) -> None:
        n = self.chance.random()
        for space in self.spaces:
            keys = sorted(key for key in space.names(folder) if space.read(key) and "/tombstones" not in key)
            if keys:
                key = keys[int(n * len(keys))]
                space.write(key, space.read(key)[:-1])

    def damage(self) -> None:
        kind = self.chance.choice([*fakes.CLASSES, "settled"])
        for space in self.spaces:
            for key in sorted(space.names(f"manifests/{kind}"))[:1]:
                space.write(key, space.read(key)[:-1] + b"?")

    def step(self) -> None:
        names, overrides, choice = self.change()
        found = []
        dies = self.chance.random() < 0.15
        for space, fast in zip(self.spaces, (True, False), strict=True):
            found.append(run(space, names, *overrides, passing_over=fast, to_the_end=not dies, **choice))
        fast, slow = map(figures, found)
        for figure in (fast, slow):  # how often a shard is written depends on what arrives first
            figure["stages"].pop("shards", None)
        differing = {key: (fast[key], slow[key]) for key in fast if fast[key] != slow[key]}
        assert not differing, (differing, names, overrides, choice)
        seen = [run(s, names, *overrides, working=False, passing_over=s is self.spaces[0]) for s in self.spaces]
        fast, slow = map(figures, seen)
        assert {k: (fast[k], slow[k]) for k in fast if fast[k] != slow[k]} == {}, ("looking", names, overrides, choice)
        first, second = (dataset(space) for space in self.spaces)
        assert first == second
        assert self.files(0) == self.files(1)

    def files(self, which: int) -> set[str]:
        return {key for key in self.spaces[which].names("dataset") if key.endswith(".parquet")}


@pytest.mark.parametrize("seed", range(int(os.environ.get("SETTLED_SEEDS", "2"))))
@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_passing_over_finds_and_does_what_walking_does(kind: str, seed: int, tmp_path: Path) -> None:
    place = tmp_path if kind == "folder" else f"memory://{new_run_id()}"
    pair = Pair(place, seed)
    pair.grow()
    for _ in range(8):
        pair.step()


def test_rows_are_found_also_when_their_parts_were_merged_meanwhile(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finished_store, "MERGE_ABOVE_PARTS", 3)
    monkeypatch.setattr(finished_store, "PART_ROWS", 10)

    def rows(*names: str) -> list[Row]:
        return [Row(fakes.source(name), bucket=0, counts=(Count(f"done/{name}", 1),)) for name in names]

    store = Store(workspace, [])
    for first_seq, names in enumerate([["a"], [f"big{i}" for i in range(20)], ["b"], ["c"]]):
        store.write(rows(*names), id_of("plan"), 100 * first_seq)
    store.settle(Head(plan=id_of("plan")))

    settled = FinishedIndex(workspace, "plan", [])
    settled.choose(listed(["a", "b", "c"]), ())
    settled.touch(fakes.source("big3").source_id)
    settled.write_gone()  # the small parts become one, which comes after the large one
    assert sum("/rows-" in key for key in workspace.names("manifests/settled")) == 2
    tally = RunCounts()
    settled.add_to(tally)
    assert {step: counted.done for step, counted in tally.steps.items()} == {"a": 1, "b": 1, "c": 1}
    assert sorted(source.address for source in settled.in_bucket(0)) == [fakes.source(x).address for x in "abc"]


def test_a_source_that_is_gone_stays_due_and_is_told_until_it_is_back(workspace: Workspace, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    names = ["a", f"file?download=transient&while={gone}"]
    gone.touch()
    for _ in range(2):
        assert run(workspace, names).tally.steps["download"].failed == {"transient": 1}
    gone.unlink()
    assert run(workspace, names).tally.failed == 0
    assert run(workspace, names).finished.n_skipped == 2
    gone.touch()
    workspace.delete(sorted(workspace.names("videos")))  # of which the copies were lost as well
    for _ in range(2):
        assert run(workspace, names).tally.steps["download"].failed == {"transient": 1}


@pytest.mark.parametrize("between", ["of others", "without detect", "of others, forced", "of others, set anew"])
def test_files_that_are_gone_are_missed_also_after_a_run_that_did_not_look_for_them(
    workspace: Workspace, between: str
) -> None:
    names = ["a?lengths=200", "b?lengths=40"]
    run(workspace, names[:1])
    before = workspace.names("tracks")
    run(workspace, names)
    workspace.delete(sorted(workspace.names("tracks") - before))
    if between == "of others":
        run(workspace, names[:1])
    elif between == "without detect":
        run(workspace, names, only=["pose"])
    elif between == "of others, forced":
        run(workspace, names[:1], forced=frozenset(["pose"]))
    else:
        run(workspace, names[:1], "filter.min_clip_s=9")
    assert worked(run(workspace, names))["filter.detect"] == 1


@pytest.mark.parametrize("folder", ["videos", "tracks", "clips", "poses", "speech", "dataset"])
def test_a_file_that_was_changed_in_place_is_made_again_though_all_was_settled(
    workspace: Workspace, folder: str
) -> None:
    names = ["a?lengths=200", "b?lengths=210", "c?lengths=40"]
    run(workspace, names)
    before = {key: workspace.read(key) for f in FOLDERS for key in workspace.names(f)}
    key = next(key for key, data in sorted(before.items()) if key.startswith(folder) and data and "index" not in key)
    assert workspace.root is not None
    (workspace.root / key).write_bytes(bytes(len(before[key])))
    again = run(workspace, names)
    assert again.files.damaged == {key}
    assert again.finished.n_skipped == (2 if folder != "dataset" else again.finished.n_skipped)
    assert {key: workspace.read(key) for f in FOLDERS for key in workspace.names(f)} == before
    assert run(workspace, names).finished.n_skipped == 3


@pytest.mark.parametrize("broken", [b"{}", None])
def test_a_damaged_index_is_written_anew_though_all_was_settled(workspace: Workspace, broken: bytes | None) -> None:
    names = ["a?lengths=200", "b?lengths=210"]
    run(workspace, names)
    text = workspace.read(INDEX_KEY)
    workspace.write(INDEX_KEY, text.replace(b'"sha256": "', b'"sha256": "0', 1) if broken is None else broken)
    assert worked(run(workspace, names)) == {}
    assert workspace.read(INDEX_KEY) == text


@pytest.mark.parametrize("method", ["read", "stamps", "names"])
def test_who_looks_while_a_run_merges_parts_sees_all_that_is_settled(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(finished_store, "MERGE_ABOVE_PARTS", 2)
    names = ["a?lengths=40", "b?lengths=40"]
    for name in names:
        run(workspace, [name])
    real = getattr(Workspace, method)

    def meanwhile(self: Workspace, name: str) -> Any:
        found = real(self, name)
        if "settled" in name:
            monkeypatch.setattr(Workspace, method, real)
            run(workspace, ["c"])
        return found

    monkeypatch.setattr(Workspace, method, meanwhile)
    assert run(Workspace(workspace.uri), names, working=False).finished.n_skipped == 2


def same_as_a_walk(workspace: Workspace, names: Sequence[str]) -> Runner:
    """A run over sources, after which a walk over all of them finds just the same."""
    found = run(workspace, names)
    there = dataset(workspace)
    slow = run(workspace, names, passing_over=False)
    assert worked(slow) == {}
    for step in found.tally.steps.values():
        step.worked_on = 0
    assert figures(found) == figures(slow)
    assert there == dataset(workspace)
    return found


@pytest.mark.parametrize("video", ["x", "x&lengths=50"])
def test_sources_of_one_video_that_were_settled_apart_are_one_video(workspace: Workspace, video: str) -> None:
    names = [f"c?video={video}", f"d?video={video}", "e"]
    for name in names:
        run(workspace, [name])
    assert same_as_a_walk(workspace, names).tally.n_videos == 2
    assert run(workspace, names).finished.n_skipped == 3


@pytest.mark.parametrize("others", [("c",), ("c", "d"), ("d", "c", "c")])
def test_a_playlist_holds_a_video_that_other_sources_have(workspace: Workspace, others: Sequence[str]) -> None:
    address = {name: f"{name}?video=x%26lengths=50" for name in "cd"}
    for name in address.values():
        run(workspace, [unquote(name)])
    lists = [f"list{i}?list={quote(unquote(address[name]))}" for i, name in enumerate(others)]
    for names in (["c?video=x&lengths=50", *lists], [*lists, "d?video=x&lengths=50"], lists):
        assert same_as_a_walk(workspace, names).tally.n_videos == 1


def test_a_list_whose_later_look_failed_for_good_keeps_its_videos_and_is_walked_over(
    workspace: Workspace, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    names = [f"all?list=a,b&download=fail&while={flag}"]
    run(workspace, names)
    rows = dataset(workspace)
    flag.touch()
    run(workspace, names, refresh_s=0.0)
    for _ in range(2):
        again = run(workspace, names)
        assert again.tally.steps["download"].failed == {"permanent": 1}
        assert (again.tally.n_videos, again.tally.n_dataset) == (2, len(rows))
        assert dataset(workspace) == rows
    same_as_a_walk(workspace, names)


@pytest.mark.parametrize("others", [[], ["new?download=transient"]])
def test_a_video_that_is_gone_is_due_also_after_a_run_that_left_its_host_alone(
    workspace: Workspace, tmp_path: Path, others: Sequence[str]
) -> None:
    """The host is closed after an attempt of its own, or before."""
    flag = tmp_path / "flag"
    names = [f"{name}?download=transient&while={flag}" for name in "ab"]
    run(workspace, names)
    before = workspace.names("videos")
    rows = dataset(workspace)
    flag.touch()
    workspace.delete(sorted(before))
    closing = ("run.max_attempts=3", "run.retry_base_s=0", "download.host_failures=1", "download.host_rests=0")
    for _ in range(2):
        left = run(workspace, [*others, *names], *closing)
        assert left.tally.steps["download"].pending == 2
        assert sum(left.tally.held_back.values()) >= 2
        assert dataset(workspace) == rows
    flag.unlink()
    assert worked(run(workspace, names)) == {"download": 2}
    assert (workspace.names("videos"), dataset(workspace)) == (before, rows)
