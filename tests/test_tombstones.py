"""What goes on while something is taken down: workers, which hold no lease, and whatever is being published."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from tiny_dataset import PLANS, Builder, build
from walks import walk

import mit_builder.report.clips
from manifests.ids import new_run_id
from manifests.rows import Artifact, Shard, clip_id, short_id
from mit_builder.dataset.publish import INDEX_KEY, Publisher
from mit_builder.engine.worker import UnitContext
from mit_builder.errors import LeaseLost, UnitError
from mit_builder.exports.make import ExportRequest, make_export
from mit_builder.removal.takedown import Known, Videos, stones_for
from mit_builder.storage.tombstones import KEY, Kind, Tombstone, Tombstones, clip_span, digest
from mit_builder.storage.workspace import Workspace

VIDEO = short_id("content", "a")
CLIP = clip_id(VIDEO, 0, 200)
FOLDERS = ("videos", "tracks", "clips", "poses", "speech", "dataset")


@pytest.fixture
def workspace() -> Workspace:
    return Workspace(f"memory://{new_run_id()}")


def bar(workspace: Workspace, name: str) -> None:
    """What another program does first that takes a video or clip down."""
    video, *frames = clip_span(name) or (name,)
    kind: Kind = "span" if frames else "video"
    Workspace(workspace.uri).write(KEY, Tombstones([Tombstone(kind, digest(kind, video), *frames)]).dump())


def bar_at_commit(patch: pytest.MonkeyPatch, name: str, folder: str, *, fails: bool = False) -> None:
    """Something is taken down just before the first file comes into a folder; all files that were there then go."""
    commit = UnitContext.commit

    def with_takedown(self: UnitContext, path: Path, place: str, file: str) -> Artifact:
        if place == folder and not self._workspace.exists(KEY):
            bar(self._workspace, name)
            self._workspace.delete(sorted(key for f in FOLDERS for key in self._workspace.names(f)))
        artifact = commit(self, path, place, file)
        if fails and place == folder:
            raise UnitError("fails with a file in place")
        return artifact

    patch.setattr(UnitContext, "commit", with_takedown)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(
    ("name", "folder"), [(name, f) for name in (VIDEO, CLIP) for f in FOLDERS if name == VIDEO or f not in FOLDERS[:2]]
)
def test_a_worker_takes_back_what_was_taken_down_while_it_worked(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, name: str, folder: str, fails: bool
) -> None:
    bar_at_commit(monkeypatch, name, folder, fails=fails)
    with pytest.raises(LeaseLost, match="something was taken down here meanwhile: start again"):
        walk(workspace, ["a?lengths=200"])
    assert [key for f in FOLDERS for key in workspace.names(f)] == []


def test_a_worker_keeps_what_others_take_down_does_not_concern(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    bar_at_commit(monkeypatch, clip_id(VIDEO, 200, 300), "poses")
    with pytest.raises(LeaseLost):
        walk(workspace, ["a?lengths=200"])
    assert len(workspace.names("poses")) == 1


def test_an_index_is_not_published_over_a_takedown(workspace: Workspace) -> None:
    publisher = Publisher(workspace, 2)
    shards = [Shard(i, Artifact(f"dataset/{i}.parquet", "", 0), (), 1) for i in range(2)]
    publisher.take(shards[:1], write=True)
    before = workspace.read(INDEX_KEY)
    bar(workspace, VIDEO)
    with pytest.raises(LeaseLost):
        publisher.take(shards[1:], write=True)
    with pytest.raises(LeaseLost):
        publisher.finish(set())
    assert workspace.read(INDEX_KEY) == before


def test_an_export_is_not_finished_over_a_takedown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path / "ws")
    write = mit_builder.exports.make.write_record

    def with_takedown(*arguments: Any) -> None:
        bar(Workspace(tmp_path / "ws"), VIDEO)
        write(*arguments)

    monkeypatch.setattr(mit_builder.exports.make, "write_record", with_takedown)
    request = ExportRequest("webdataset", tmp_path / "out" / "it", with_media=False)
    with pytest.raises(LeaseLost):
        make_export(Workspace(tmp_path / "ws"), request)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_picture_of_a_clip_that_was_taken_down_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, row = Workspace(tmp_path), Builder(tmp_path).labelled(PLANS[0])
    commit = Workspace.commit

    def with_takedown(self: Workspace, path: Path, key: str) -> Artifact:
        bar(workspace, row.clip.clip_id)
        return commit(self, path, key)

    monkeypatch.setattr(Workspace, "commit", with_takedown)
    mit_builder.report.clips.preview(workspace, row)
    assert workspace.names("report") == set()


def test_many_names_are_found_among_many_videos_at_once() -> None:
    n = 3000
    known = [
        Known(
            f"{i:016x}",
            f"{i // 2:064x}",  # each file under two ids
            frozenset((f"{n + i:016x}",)),
            frozenset((f"http://x.test/{i}",)),
            frozenset((f"UC{i}",)),
            frozenset(("everybody",)),
        )
        for i in range(n)
    ]
    started_s = time.process_time()
    videos = Videos(known)
    found = [stones_for(name, videos) for i in range(n) for name in (known[i].video_id, f"http://x.test/{i}", f"UC{i}")]
    assert all(videos.has_any(stones) for stones in found)
    assert not videos.has_any(stones_for("f" * 16, videos))
    assert time.process_time() - started_s < 3  # 0.2 s; one after another they were compared for minutes
    assert {len(set(stones)) for stones in found[::3]} == {5}, "both ids, both sources, the file"
    assert len(set(stones_for("channel:everybody", videos))) == 1 + n + 2 * n + n // 2
