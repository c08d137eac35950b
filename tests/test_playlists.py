"""Playlists and channels are looked at again, their videos are not fetched again, and nothing is lost by it."""

from __future__ import annotations

from pathlib import Path

import fakes
import pytest
from test_duplicates import calls
from walks import dataset, failed, look, settings_with, tree, walk, worked

from manifests.ledger import Entry
from manifests.rows import Source
from mit_builder.driver.options import RunOptions
from mit_builder.driver.playlists import is_stale, with_earlier
from mit_builder.driver.runner import Runner
from mit_builder.engine.serial import SerialEngine
from mit_builder.engine.specs import worker_specs
from mit_builder.storage.workspace import Workspace

AGAIN = {"refresh_s": 0.0}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws")


class Playlist:
    """A list whose entries change, and that can be made to fail."""

    def __init__(self, folder: Path) -> None:
        self._file, self.flag = folder / "entries", folder / "flag"
        self.holds("a", "b")

    def holds(self, *names: str) -> None:
        self._file.write_text(",".join(names))

    def name(self, failure: str = "transient") -> str:
        return f"all?list={self._file}&download={failure}&while={self.flag}"


@pytest.fixture
def playlist(tmp_path: Path) -> Playlist:
    return Playlist(tmp_path)


def titles(workspace: Workspace) -> set[str]:
    return {row["title"] for row in dataset(workspace)}


def test_a_list_is_looked_at_again_when_its_time_has_come_and_only_what_is_new_is_fetched(
    workspace: Workspace, playlist: Playlist, log: Path
) -> None:
    walk(workspace, [playlist.name()])
    playlist.holds("c", "a", "b")
    calls(log)
    assert worked(walk(workspace, [playlist.name()], refresh_s=3600.0)) == {}
    assert titles(workspace) == {"a", "b"}
    assert worked(walk(workspace, [playlist.name()], **AGAIN))["download"] == 2
    made = calls(log)
    assert (made["download"], made["shots"], made["filter.cut"]) == (2, 1, 2)
    assert titles(workspace) == {"a", "b", "c"}
    assert worked(walk(workspace, [playlist.name()], **AGAIN)) == {"download": 1}


def test_a_list_that_was_empty_is_looked_at_again(workspace: Workspace, playlist: Playlist) -> None:
    playlist.holds()
    walk(workspace, [playlist.name()])
    playlist.holds("a")
    walk(workspace, [playlist.name()], **AGAIN)
    assert titles(workspace) == {"a"}


def test_a_video_that_is_not_listed_any_more_stays(workspace: Workspace, playlist: Playlist) -> None:
    walk(workspace, [playlist.name()])
    playlist.holds("c")
    for _ in range(2):
        walk(workspace, [playlist.name()], **AGAIN)
        assert titles(workspace) == {"a", "b", "c"}


@pytest.mark.parametrize("failure", fakes.FAILURES)
def test_where_a_list_cannot_be_looked_at_again_its_videos_stay(
    workspace: Workspace, playlist: Playlist, failure: str
) -> None:
    walk(workspace, [playlist.name(failure)])
    rows = dataset(workspace)
    playlist.flag.touch()
    for _ in range(2):
        again = walk(workspace, [playlist.name(failure)], "run.max_attempts=2", **AGAIN)
        assert failed(again) == {"download": {fakes.FAILURES[failure]: 1}}
        assert dataset(workspace) == rows
        assert (again.tally.n_dataset, again.tally.pending) == (4, 0)
    assert worked(walk(workspace, [playlist.name(failure)], only={"pose"}, **AGAIN)) == {}
    seen = look(workspace, [playlist.name(failure)])
    assert (seen.tally.n_videos, seen.tally.pending) == (2, 0)
    playlist.flag.unlink()
    playlist.holds("a", "b", "c")
    assert failed(walk(workspace, [playlist.name(failure)], **AGAIN)) == {}
    assert titles(workspace) == {"a", "b", "c"}


def test_where_its_host_is_left_alone_a_list_is_what_it_was(workspace: Workspace, playlist: Playlist) -> None:
    """The host refuses three others first."""
    names = [*(f"x{i}?download=auth" for i in range(3)), playlist.name()]
    walk(workspace, [playlist.name()])
    rows = dataset(workspace)
    settings = settings_with()
    engine = SerialEngine(worker_specs(settings, workspace, "run-2", fakes.steps()))
    runner = Runner(workspace, settings, run_id="run-2", choice=RunOptions(**AGAIN), engine=engine, steps=fakes.steps())
    for name in names[:3]:
        runner.hosts.learn("fake.test", Entry(name, "", "failed", failure_class="auth"), 0.0)
    runner.run([fakes.source(playlist.name())])
    assert sum(runner.tally.held_back.values()) == 1
    assert (runner.tally.n_videos, runner.tally.pending) == (2, 0)
    assert dataset(workspace) == rows


def test_looking_and_other_stages_take_a_list_as_it_was_and_write_nothing(
    workspace: Workspace, playlist: Playlist
) -> None:
    walk(workspace, [playlist.name()])
    before = tree(workspace)
    playlist.holds("c")
    again = walk(workspace, [playlist.name()], only={"shots", "pose", "shards"}, **AGAIN)
    assert worked(again) == {}
    for tally in (again.tally, look(workspace, [playlist.name()]).tally):
        assert (tally.n_videos, tally.pending) == (2, 0)
    assert tree(workspace) == before


def test_forcing_downloads_keeps_what_a_list_held(workspace: Workspace, playlist: Playlist) -> None:
    walk(workspace, [playlist.name()])
    playlist.holds("c")
    walk(workspace, [playlist.name()], forced=frozenset({"download"}))
    assert titles(workspace) == {"a", "b", "c"}


SOURCES = tuple(fakes.source(name) for name in "abc")


def entry(*outputs: Source, status: str = "done", ended_s: float = 1000.0) -> Entry:
    return Entry("u", "k", status, outputs, started_at_s=ended_s - 5, duration_s=5)  # type: ignore[arg-type]


def test_a_list_grows_old_by_the_time_at_which_it_was_looked_at() -> None:
    assert not is_stale(entry(*SOURCES), 86400.0, 1000.0 + 86400.0)
    assert is_stale(entry(*SOURCES), 86400.0, 1001.0 + 86400.0)
    assert is_stale(entry(), 10.0, 1011.0)
    assert is_stale(entry(*SOURCES, status="failed"), 10.0, 1011.0)
    assert not is_stale(entry(status="failed"), 10.0, 2000.0)
    assert not is_stale(entry(status="rejected"), 10.0, 2000.0)
    assert not is_stale(entry(*SOURCES), float("inf"), 1e12)


def test_what_a_list_holds_comes_behind_what_it_held_once_each() -> None:
    a, b, c = SOURCES
    assert with_earlier(entry(c, b), entry(a, b)).outputs == (a, b, c)
    assert with_earlier(entry(status="failed"), entry(a, b)).outputs == (a, b)
    assert with_earlier(entry(status="rejected"), entry(a, b)).outputs == ()
    assert with_earlier(entry(c), None).outputs == (c,)
