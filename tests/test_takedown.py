"""After a takedown nothing of what was taken down is left, and nothing brings it back."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pyarrow.parquet as pq
import pytest
import sourced_dataset
from object_storage import S3Server
from walks import dataset, walk
from web_folder import WebFolder, serve_folder

from manifests.ledger import Entry, Ledger
from manifests.rows import Candidate, Labelled, Review, Source, Video
from manifests.sources import url_source
from mit_builder.cli.main import main
from mit_builder.config.settings import DownloadSettings
from mit_builder.dataset.index import index_text
from mit_builder.dataset.reader import DatasetFiles
from mit_builder.dataset.validate import validate
from mit_builder.engine.worker import UnitContext
from mit_builder.errors import CannotContinue, ConfigError
from mit_builder.exports import make, mit
from mit_builder.exports.folder import read_record
from mit_builder.exports.make import ExportRequest, known_exports, make_export
from mit_builder.labels.reviews import Reviews
from mit_builder.removal import preview
from mit_builder.removal import takedown as removal
from mit_builder.removal.takedown import Known, Videos, bar_sources, finish_pending, take_down
from mit_builder.stage import Reject
from mit_builder.storage.lease import lease
from mit_builder.storage.source_catalog import SourceCatalog
from mit_builder.storage.tombstones import KEY, Tombstone, Tombstones, clip_span, digest
from mit_builder.storage.workspace import Workspace
from stages.download import Download


class Built:
    """A workspace of two videos that a local server has, with reports, leftovers and exports."""

    def __init__(self, tmp_path: Path, web: WebFolder) -> None:
        self.root, self.web = tmp_path / "w", web
        self.sources = sorted((tmp_path / "web").iterdir())
        self.addresses = [f"{web.url}/{path.name}" for path in self.sources]
        self.clips = sourced_dataset.build(self.root, self.sources, self.addresses)
        self.workspace = Workspace(self.root)
        for clip in self.clips:
            for suffix in ("png", "mp4"):
                self.workspace.write(f"report/{clip.clip.clip_id}.abcdef01.{suffix}", self.read(clip.clip.mp4.key))
        self.workspace.write("report/index.html", self.clips[0].video.title.encode())  # type: ignore[union-attr]
        self.workspace.write("report/funnel.json", b"{}")
        self.workspace.write("damaged/pose/part-1.parquet", self.read(self.clips[0].pose.poses.key)[:-9])
        partial = self.workspace.partial("0123") / "video.part"
        partial.write_bytes(self.sources[0].read_bytes())
        (self.workspace.scratch("killed") / "video.mp4").write_bytes(self.sources[0].read_bytes())
        self._review()

    def read(self, key: str) -> bytes:
        return self.workspace.read(key)

    def _review(self) -> None:
        reviews = Reviews(self.workspace)
        names = [c.clip.clip_id for c in self.clips]
        verdicts = [Review(n, "reject", f"looks at {n}", (), True, "0" * 16, "1" * 16) for n in names]
        reviews.save(verdicts)
        reviews.draw(names, 3, seed=1)

    def of_video(self, n: int) -> list[Labelled]:
        return [c for c in self.clips if c.video.source_url == self.addresses[n]]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    folder = tmp_path_factory.mktemp("template")
    sourced_dataset.write_sources(folder / "web")
    with serve_folder(folder / "web") as served:
        yield Built(folder, served)


@pytest.fixture
def built(template: Built, tmp_path: Path) -> Built:
    """A copy for a test of its own, of the same server."""
    copy = object.__new__(Built)
    copy.__dict__.update(template.__dict__)
    copy.root = tmp_path / "w"
    shutil.copytree(template.root, copy.root)
    copy.workspace = Workspace(copy.root)
    template.web.asked.clear()
    return copy


def evidence(built: Built, clips: list[Labelled], *, of_video: bool) -> dict[str, bytes]:
    """Bytes that would betray something of these clips (and of their video) anywhere."""
    found: dict[str, bytes] = {}
    for c in clips:
        for artifact in (c.clip.mp4, c.clip.flac):
            data = built.read(artifact.key)
            found[f"{artifact.key} (middle)"] = data[len(data) // 2 :][:64]
            found[f"{artifact.key} (sha256)"] = artifact.sha256.encode()
        found[f"{c.clip.clip_id} (name)"] = c.clip.clip_id.encode()
    if of_video:
        video = clips[0].video
        data = built.read(video.media.key)
        pieces = {place: data[place : place + 64] for place in range(4000, len(data) - 64, 4000)}
        # Tables of a container repeat a few values and are alike in all files; coded pictures and sound are not.
        coded = {f"video at {place}": piece for place, piece in pieces.items() if len(set(piece)) > 40}
        assert len(coded) > 5
        found |= coded
        said = sourced_dataset.SECRETS[3].format(built.addresses.index(video.source_url))
        texts = (video.video_id, video.source_id, video.media.sha256, video.source_url, video.title, video.channel_id)
        found |= {str(text): str(text).encode() for text in (*texts, video.uploader, said)}
    return found


def everything(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below a folder with its path; of Parquet, which is compressed, the texts and the media as well."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        yield str(path), str(path).encode() + path.read_bytes()
        if path.suffix == ".parquet" and "damaged" not in path.parts:
            table = pq.read_table(path)
            texts = table.drop_columns([name for name in NUMBERS if name in table.column_names])
            yield f"{path} (values)", "\n".join(map(str, texts.to_pylist())).encode()
            media = [name for name in ("clip", "audio") if name in table.column_names]
            cells = [cell["bytes"] for row in table.select(media).to_pylist() for cell in row.values()]
            yield f"{path} (media)", b"".join(cell for cell in cells if cell)


NUMBERS = ("people", "clip", "audio", "keypoints", "boxes_xyxy", "face_boxes_xyxy", "source_frame_index")


def betrayed(folder: Path, found: dict[str, bytes]) -> list[str]:
    return [f"{what} in {where}" for where, data in everything(folder) for what, mark in found.items() if mark in data]


def labels_of(built: Built, clip: Labelled) -> np.ndarray:
    """Keypoints of a clip: values that no other clip has."""
    rows = pq.read_table(built.root / clip.pose.poses.key).to_pylist()
    return np.array([row["keypoints"] for row in rows], np.float32)[:, :, 1:]


def has_labels(folder: Path, wanted: np.ndarray) -> bool:
    """Whether a table below a folder holds these keypoints for as many frames."""
    for path in (p for p in folder.rglob("*.parquet") if "damaged" not in p.parts):
        for row in pq.read_table(path).to_pylist():
            people = row.get("people") or [row]
            for person in people if isinstance(people, list) else ():
                points = np.array(person.get("keypoints") or [], np.float32)
                if points.ndim == 3 and any(np.array_equal(points[:, 1:], w) for w in wanted):
                    return True
    return False


def takedown(built: Built, *arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["takedown", "-w", str(built.root), *arguments])
    return int(stopped.value.code or 0)


@pytest.mark.parametrize("named_by", ["video_id", "source_url", "source_id"])
def test_no_byte_of_a_video_is_left_anywhere(built: Built, named_by: str) -> None:
    taken, kept = built.of_video(0), built.of_video(1)
    marks, labels = evidence(built, taken, of_video=True), [labels_of(built, c) for c in taken]
    assert len(betrayed(built.root, marks)) >= len(marks), "the search finds what is there"
    assert all(has_labels(built.root, wanted) for wanted in labels)
    staying = evidence(built, kept, of_video=True)
    assert takedown(built, getattr(taken[0].video, named_by)) == 0
    assert betrayed(built.root, marks) == []
    assert not any(has_labels(built.root, wanted) for wanted in labels)
    found = " ".join(betrayed(built.root, staying))
    assert [what for what in staying if f"{what} in" not in found] == []
    assert [row["clip_id"] for row in DatasetFiles(built.root).rows()] == [c.clip.clip_id for c in kept]
    assert validate(built.root) == []
    assert {p.name for p in (built.root / "report").iterdir()} == {
        f"{c.clip.clip_id}.abcdef01.{suffix}" for c in kept for suffix in ("png", "mp4")
    }
    reviews = Reviews(built.workspace)
    assert [review.clip_id for review in reviews.all()] == [c.clip.clip_id for c in kept]
    assert [sample.clip_ids for sample in reviews.samples] == [tuple(c.clip.clip_id for c in kept)]


def test_tombstones_hold_hashes_alone(built: Built) -> None:
    video = built.of_video(0)[0].video
    takedown(built, video.video_id)
    text = built.read(KEY).decode()
    assert set(json.loads(text)[0]) == {"kind", "digest", "start_frame", "end_frame", "pending"}
    assert not any(stone["pending"] for stone in json.loads(text))
    for name in (video.video_id, video.source_id, video.media.sha256, video.source_url, video.title):
        assert str(name) not in text
    assert json.loads((built.root / "dataset" / "tombstones.json").read_text()) == json.loads(text)


def test_a_run_over_the_same_list_does_not_fetch_it(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    taken, kept = built.of_video(0)[0].video, built.of_video(1)[0].video
    takedown(built, taken.video_id)
    (built.root / kept.media.key).unlink()  # so that the run has something to fetch
    with pytest.raises(SystemExit) as stopped:
        main(["run", "-w", str(built.root), "--engine", "serial", "--stage", "download", *built.addresses,
              "--set", "download.host_interval_s=0", "--set", "download.allow_private_addresses=true"])  # fmt: skip
    assert stopped.value.code == 0
    assert any(kept.source_url.endswith(path) for path in built.web.asked)
    assert not any(taken.source_url.endswith(path) for path in built.web.asked)
    assert "removed" in capsys.readouterr().out
    assert betrayed(built.root, {"address": taken.source_url.encode(), "id": taken.video_id.encode()}) == []
    with pytest.raises(SystemExit) as stopped:
        main(["why", taken.source_url, "-w", str(built.root)])
    assert "taken down" in capsys.readouterr().out


def test_the_same_file_under_another_address_is_not_kept(built: Built) -> None:
    taken = built.of_video(0)[0].video
    marks = evidence(built, built.of_video(0), of_video=True)
    takedown(built, taken.video_id)
    again = built.sources[0].with_name("again.mp4")
    shutil.copyfile(built.sources[0], again)
    for address in (f"{built.web.url}/again.mp4", str(again)):
        with pytest.raises(SystemExit):
            main(["run", "-w", str(built.root), "--engine", "serial", "--stage", "download", address,
                  "--set", "download.host_interval_s=0", "--set", "download.allow_private_addresses=true"])  # fmt: skip
        assert betrayed(built.root, marks | {"address": address.encode()}) == []


def test_taking_down_a_clip_keeps_the_others_and_bars_its_span(built: Built) -> None:
    taken, other = sorted(built.of_video(0), key=lambda c: c.clip.start_frame)
    marks, labels = evidence(built, [taken], of_video=False), labels_of(built, taken)
    assert takedown(built, taken.clip.clip_id) == 0
    assert betrayed(built.root, marks) == []
    assert not has_labels(built.root, labels)
    assert has_labels(built.root, labels_of(built, other))
    assert {row["clip_id"] for row in DatasetFiles(built.root).rows()} == {
        c.clip.clip_id for c in built.clips if c is not taken
    }
    assert (built.root / taken.video.media.key).exists()
    stones = Tombstones.of(built.workspace)
    video, start, end = taken.video.video_id, taken.clip.start_frame, taken.clip.end_frame
    assert stones.bars_clip(f"{video}_{end - 1:06d}to{end + 200:06d}")
    assert not stones.bars_clip(f"{video}_{end:06d}to{end + 200:06d}")
    assert stones.bars_span(video, 0, start + 1)
    assert not stones.bars_span("0" * 16, start, end)
    assert not stones.bars_video(video)


def test_a_person_is_taken_down_with_the_clip_that_shows_it(built: Built) -> None:
    taken = built.of_video(1)[0]
    assert takedown(built, f"{taken.clip.clip_id}/2") == 0
    assert betrayed(built.root, evidence_after(taken)) == []
    assert taken.clip.clip_id not in {row["clip_id"] for row in DatasetFiles(built.root).rows()}


def evidence_after(clip: Labelled) -> dict[str, bytes]:
    return {"name": clip.clip.clip_id.encode(), "mp4": clip.clip.mp4.sha256.encode()}


@pytest.mark.parametrize("name", ["UC-channel-0", "Uploader number 0", "channel:UC-channel-0"])
def test_a_channel_goes_with_its_videos_and_later_ones_are_not_kept(built: Built, name: str) -> None:
    marks = evidence(built, built.of_video(0), of_video=True)
    assert takedown(built, name) == 0
    assert betrayed(built.root, marks) == []
    stones = Tombstones.of(built.workspace)
    assert stones.bars("channel", "UC-channel-0")
    assert not stones.bars("channel", "UC-channel-1")
    assert stones.bars("channel", "Uploader number 0") == name.startswith("Uploader"), "others may be called the same"
    assert not stones.bars_video(built.of_video(1)[0].video.video_id, channels=("UC-channel-1", None))
    assert stones.bars_video("f" * 16, channels=("UC-channel-0",))


def test_exports_are_written_anew_without_it(built: Built, tmp_path: Path) -> None:
    taken = built.of_video(0)
    marks = evidence(built, taken, of_video=False)
    forms = ("manifest", "webdataset", "coco-wholebody", "hf")
    for form in forms:
        make_export(built.workspace, ExportRequest(form, tmp_path / "out" / form, with_media=form != "manifest"))
    moved = tmp_path / "out" / "moved"
    (tmp_path / "out" / "webdataset").rename(moved)
    (tmp_path / "out" / ".hf.unfinished").mkdir()
    (tmp_path / "out" / ".hf.unfinished" / "x").write_bytes(built.read(taken[0].clip.mp4.key))
    assert betrayed(tmp_path / "out", marks)
    assert takedown(built, taken[0].video.video_id, "--export", str(moved)) == 0
    assert betrayed(tmp_path / "out", marks) == []
    for form in (*forms[:1], *forms[2:], "moved"):
        record = read_record(tmp_path / "out" / form)
        assert record.clip_ids == tuple(c.clip.clip_id for c in built.of_video(1)), form
    assert sorted(known_exports(built.workspace)) == sorted(
        tmp_path / "out" / f for f in (*forms[:1], *forms[2:], "moved")
    )
    assert takedown(built, built.of_video(1)[0].video.video_id) == 0
    assert [p.name for p in (tmp_path / "out").iterdir()] == []
    assert known_exports(built.workspace) == []


def test_the_mit_form_loses_the_clip_and_keeps_the_rest_as_it_is(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, kept = built.of_video(0), built.of_video(1)[0].clip.clip_id
    marks = evidence(built, taken, of_video=False)
    output = tmp_path / "out" / "mit"
    chosen = {kept, taken[0].clip.clip_id}
    with monkeypatch.context() as patch:  # what is drawn does not matter here, and takes long
        patch.setattr(mit, "_write_png", lambda path, image: path.write_bytes(image[::90].tobytes()))
        make_export(built.workspace, ExportRequest("mit", output, with_media=True, only=chosen))
    before = {path: path.stat().st_mtime_ns for path in (output / "clips" / kept).rglob("*")}
    assert betrayed(output, marks)
    with monkeypatch.context() as patch:
        patch.setattr(removal, "write_record", lambda folder, record: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            take_down(built.workspace, [taken[0].video.video_id])
    with lease(built.workspace):
        assert finish_pending(built.workspace) == []
    assert betrayed(output, marks) == []
    assert {path: path.stat().st_mtime_ns for path in (output / "clips" / kept).rglob("*")} == before
    assert read_record(output).clip_ids == (kept,)
    samples = [s for name in ("train", "val", "test") if (output / f"{name}.json").exists()
               for s in json.loads((output / f"{name}.json").read_text())]  # fmt: skip
    assert [sample["image_dir"] for sample in samples] == [f"clips/{kept}/frames"]


def test_what_a_killed_export_left_goes_too(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = built.of_video(0)
    marks = evidence(built, taken, of_video=False)

    def killed(folder: Path, record: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(make, "write_record", killed)
        with pytest.raises(Killed):
            make_export(built.workspace, ExportRequest("webdataset", tmp_path / "out" / "tars", with_media=True))
    assert betrayed(tmp_path / "out", marks)
    assert takedown(built, taken[0].video.video_id) == 0
    assert list((tmp_path / "out").iterdir()) == []
    assert known_exports(built.workspace) == []


def test_an_export_whose_other_clips_left_the_dataset_is_deleted(built: Built, tmp_path: Path) -> None:
    """There is nothing to write it anew from; the other exports are not forgotten over it."""
    gone, kept = built.of_video(0), built.of_video(1)
    for form in ("hf", "webdataset", "coco-wholebody", "manifest"):
        make_export(built.workspace, ExportRequest(form, tmp_path / form, with_media=False))
    index = DatasetFiles(built.root).index()
    names = {
        shard.name: pq.read_table(built.root / "dataset" / shard.name, columns=["clip_id"]) for shard in index.shards
    }
    others = {c.clip.clip_id for c in kept}
    left = [s for s in index.shards if others.isdisjoint(names[s.name]["clip_id"].to_pylist())]
    built.workspace.write("dataset/index.json", index_text(dataclasses.replace(index, shards=tuple(left))).encode())
    assert takedown(built, gone[0].video.video_id) == 0
    for form in ("hf", "webdataset", "coco-wholebody", "manifest"):
        assert not (tmp_path / form).exists()
    assert known_exports(built.workspace) == []


def test_an_export_on_a_disk_that_is_away_is_named_and_stays_due(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "disk"
    make_export(built.workspace, ExportRequest("webdataset", disk / "tars", with_media=True))
    disk.rename(tmp_path / "unplugged")
    name = built.of_video(0)[0].video.video_id
    assert takedown(built, name) == 1
    assert f"the export {disk / 'tars'} is out of reach" in capsys.readouterr().out
    (tmp_path / "unplugged").rename(disk)
    assert finish_pending(built.workspace) == []
    assert not any(clip.startswith(name) for clip in read_record(disk / "tars").clip_ids)


def test_an_export_that_cannot_be_written_anew_is_named_and_stays_due(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_export(built.workspace, ExportRequest("webdataset", tmp_path / "tars", with_media=True))

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(removal, "make_export", full)
        assert takedown(built, built.of_video(0)[0].video.video_id) == 1
    assert "still holds what was taken down" in capsys.readouterr().out
    assert Tombstones.of(built.workspace).is_pending
    assert finish_pending(built.workspace) == []
    assert not Tombstones.of(built.workspace).is_pending
    assert len(read_record(tmp_path / "tars").clip_ids) == 1


class Killed(BaseException):
    """Stands for a kill: nothing in the product catches it."""


@pytest.mark.parametrize("n_writes", range(0, 40, 3))
def test_a_takedown_that_is_killed_is_finished_by_the_next(
    built: Built, monkeypatch: pytest.MonkeyPatch, n_writes: int
) -> None:
    taken = built.of_video(0)
    marks = evidence(built, taken, of_video=True)
    left = [n_writes]

    def counted(method: Any) -> Any:
        def call(self: Workspace, *arguments: Any, **options: Any) -> Any:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return method(self, *arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("write", "commit", "delete"):
            patch.setattr(Workspace, name, counted(getattr(Workspace, name)))
        with contextlib.suppress(Killed):
            take_down(built.workspace, [taken[0].video.video_id])
    stones = Tombstones.of(built.workspace)
    if n_writes == 0:
        assert not stones
        return
    assert stones.bars_video(taken[0].video.video_id)
    assert {row["clip_id"] for row in DatasetFiles(built.root).rows()} >= {c.clip.clip_id for c in built.of_video(1)}
    with lease(built.workspace):
        assert finish_pending(built.workspace) == []
    assert betrayed(built.root, marks) == []
    assert not Tombstones.of(built.workspace).is_pending
    assert validate(built.root) == []


def test_it_works_on_object_storage_and_on_copies_that_this_machine_keeps(
    built: Built, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "local"))
    (tmp_path / "local").mkdir()
    remote = Workspace(f"{s3.bucket('takedown')}/w")
    for path in sourced_dataset.files(built.root):
        key = path.relative_to(built.root).as_posix()
        if not key.startswith((".scratch", ".partial", ".lock")):
            remote.write(key, path.read_bytes())
    taken = built.of_video(0)
    marks = evidence(built, taken, of_video=True)
    with remote.artifact(taken[0].clip.mp4):
        pass  # as a worker reads it
    (remote.partial("0123") / "video.part").write_bytes(built.sources[0].read_bytes())
    assert betrayed(tmp_path / "local", marks)
    take_down(remote, [taken[0].video.video_id])
    assert betrayed(tmp_path / "local", marks) == []
    copy = tmp_path / "copy"
    for key in remote.names(""):
        (copy / key).parent.mkdir(parents=True, exist_ok=True)
        (copy / key).write_bytes(remote.read(key))
    assert betrayed(copy, marks) == []
    assert [row["clip_id"] for row in DatasetFiles(copy).rows()] == [c.clip.clip_id for c in built.of_video(1)]


def test_taking_down_everything_leaves_an_empty_dataset(built: Built) -> None:
    listed = built.root.parent / "list.txt"
    listed.write_text("# asked for by mail\n" + "\n".join({c.video.video_id for c in built.clips}) + "\n")
    assert takedown(built, "--from", str(listed)) == 0
    assert DatasetFiles(built.root).index().shards == ()
    assert list(DatasetFiles(built.root).rows()) == []
    assert not list((built.root / "dataset").glob("*.parquet"))


def test_what_cannot_be_taken_down_is_said_and_changes_nothing(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in sourced_dataset.files(built.root)}
    for arguments, message in (
        (["Nobody of this name"], "nothing named 'Nobody of this name'"),
        ([], "name what to take down"),
        (["channel:"], "channel: wants a name"),
        (["0" * 16, "--export", str(tmp_path)], "is no finished export"),
        (["--from", str(tmp_path / "none.txt")], "cannot read"),
    ):
        assert takedown(built, *arguments) == 2
        assert message in capsys.readouterr().err
    assert {p: d for p, d in before.items() if p.name != ".lock"} == {
        p: p.read_bytes() for p in sourced_dataset.files(built.root) if p.name != ".lock"
    }


def test_it_waits_for_no_run(built: Built) -> None:
    with lease(built.workspace), pytest.raises(CannotContinue, match="another run uses this workspace"):
        take_down(built.workspace, [built.of_video(0)[0].video.video_id])


def test_damaged_tombstones_stop_everything(built: Built) -> None:
    built.workspace.write(KEY, b"[{")
    with pytest.raises(ConfigError, match="what was taken down would come back"):
        make_export(built.workspace, ExportRequest("hf", built.root.parent / "out", with_media=False))


def test_what_is_not_here_yet_can_be_barred(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    takedown(built, f"{built.web.url}/not-yet.mp4", "channel:never seen", "0" * 16, built.clips[0].clip.clip_id)
    said = capsys.readouterr().out
    assert said.count("nothing of it was here; it is barred from now on") == 3
    assert "4 taken down" in said
    stones = Tombstones.of(built.workspace)
    assert stones.bars("source", url_source(f"{built.web.url}/not-yet.mp4").source_id)
    assert stones.bars("channel", "never seen")
    assert len(list(DatasetFiles(built.root).rows())) == 2


def test_a_playlist_forgets_an_entry_that_was_taken_down(built: Built) -> None:
    taken = built.of_video(0)[0].video
    ledger = Ledger(built.workspace, "download", (Video, Source))
    children = (Source(taken.source_id, taken.source_url, "url"), Source("a" * 16, "http://x.test/other", "url"))
    ledger.append([Entry("b" * 16, "key", "done", children)], run_id="20260102T000000-abcdef")
    takedown(built, taken.video_id)
    entry = Ledger(built.workspace, "download", (Video, Source)).latest("b" * 16)
    assert entry is not None
    assert entry.outputs == children[1:]


def test_a_run_finishes_what_a_killed_takedown_left(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = built.of_video(0)
    marks = evidence(built, taken, of_video=True)

    def killed(*arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(removal, "purge", killed)
        with pytest.raises(Killed):
            take_down(built.workspace, [taken[0].video.video_id])
    assert betrayed(built.root, marks)
    with pytest.raises(SystemExit):
        main(["run", "-w", str(built.root), "--engine", "serial", "--stage", "shots"])
    assert betrayed(built.root, marks) == []


def test_a_later_selection_does_not_bring_a_span_back() -> None:
    workspace = Workspace("memory://takedown-reselect")
    before = walk(workspace, ["http://fake.test/a", "http://fake.test/b"])
    taken, *others = sorted(row["clip_id"] for row in dataset(workspace))
    video, start, end = clip_span(taken) or ("", 0, 0)
    workspace.write(KEY, Tombstones([Tombstone("span", digest("span", video), start, end)]).dump())
    again = walk(
        workspace, ["http://fake.test/a", "http://fake.test/b"], "filter.min_face_px=1", forced={"filter.select"}
    )
    assert before.tally.n_clips == len(others) + 1
    assert [row["clip_id"] for row in dataset(workspace)] == others
    assert again.tally.n_clips == len(others)
    entries = [entry for lane in again.lanes.values() for entry in lane.ledger.entries()]
    kept = [row for entry in entries if entry.run_id == again.run_id for row in entry.outputs]
    candidates = [row for row in kept if isinstance(row, Candidate) and row.video_id == video]
    assert candidates or not [name for name in others if name.startswith(video)]
    assert not any(c.start_frame < end and start < c.end_frame for c in candidates)


def test_a_source_that_comes_later_is_not_walked_over() -> None:
    workspace = Workspace("memory://takedown-later")
    barred = fakes.source("http://fake.test/a").source_id
    workspace.write(KEY, Tombstones([Tombstone("source", digest("source", barred))]).dump())
    runner = walk(workspace, ["http://fake.test/a", "http://fake.test/b"])
    assert runner.tally.steps["download"].rejected == {"removed": 1}
    assert runner.tally.steps["download"].done == 1


def test_a_barred_channel_is_refused_before_its_media_are_fetched(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    take_down(workspace, ["channel:UC-bad"])
    context = UnitContext(workspace, "0" * 16, tmp_path)
    stage = Download(DownloadSettings())
    with pytest.raises(Reject, match="removed"):
        stage._judge({"id": "x", "extractor_key": "Generic", "channel_id": "UC-bad", "duration": 3}, ctx=context)
    stage._judge({"id": "x", "extractor_key": "Generic", "channel_id": "UC-good", "duration": 3}, ctx=context)


def test_a_source_that_proved_barred_leaves_the_source_book(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    book = SourceCatalog(workspace)
    book.add(["http://fake.test/a", "http://fake.test/b"])
    book.save()
    bar_sources(workspace, [url_source("http://fake.test/a").source_id])
    assert [source.address for source in SourceCatalog(workspace).sources()] == ["http://fake.test/b"]
    bar_sources(workspace, [])
    assert len(Tombstones.of(workspace).stones) == 1


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_dry_run_says_what_would_go_and_leaves_everything(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken, kept = built.of_video(0), built.of_video(1)
    for name, only in (("part", None), ("whole", frozenset(c.clip.clip_id for c in taken))):
        make_export(built.workspace, ExportRequest("webdataset", tmp_path / name, with_media=False, only=only))
    before = contents(tmp_path)
    names = taken[0].video.video_id, kept[0].clip.clip_id, "https://elsewhere.test/x"
    assert takedown(built, "--dry-run", *names) == 0
    said = capsys.readouterr().out.splitlines()
    n = len(taken)
    assert said[:3] == [
        f"{names[0]}: 1 video and {n} clip{'s' * (n > 1)}, with all that was made of it",
        f"{names[1]}: 1 clip, with all that was made of it",
        f"{names[2]}: nothing of it is here; it would be barred from now on",
    ]
    assert f"export {tmp_path / 'whole'}: deleted" in said
    assert any(line.startswith(f"export {tmp_path / 'part'}: ") for line in said)
    assert takedown(built, "--dry-run", "nobody") == 2
    assert contents(tmp_path) == before


def video_of(n: int, **others: Any) -> Known:
    """What a workspace knows of its n-th video, which has two clips."""
    address = f"https://site.test/{n}"
    names = frozenset((f"{n:016x}"[::-1],)), frozenset((address,)), frozenset((f"UC{n // 2}",)), frozenset(("Talks",))
    return dataclasses.replace(Known(f"{n:016x}", f"file {n}", *names), **others)


def previewed(videos: list[Known], names: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of a preview, without the words that are the same in all."""
    workspace = Workspace("memory://previewed")
    monkeypatch.setattr(preview, "known_videos", lambda workspace: videos)
    clips = [f"clips/{k.video_id}_{start:06d}to{start + 50:06d}.ab.mp4" for k in videos for start in (0, 100)]
    monkeypatch.setattr(workspace, "names", lambda folder: clips if folder == "clips" else [])
    return [line.replace(", with all that was made of it", "") for line in preview.what_goes(workspace, names)]


def test_a_preview_finds_videos_by_every_name_and_their_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    videos = [video_of(n) for n in range(6)]
    videos[5] = video_of(5, sha256="file 0")  # the same file under another id
    video, other = videos[0].video_id, videos[2].video_id
    for name, found in (
        (video, "2 videos and 4 clips"),
        ("https://site.test/5", "2 videos and 4 clips"),
        ("channel:UC1", "2 videos and 4 clips"),
        ("channel:Talks", "6 videos and 12 clips"),
        (other, "1 video and 2 clips"),
        (next(iter(videos[2].sources)), "1 video and 2 clips"),
        (f"{other}_000000to000050", "1 clip"),
        (f"{other}_000000to000050/1", "1 clip"),
        (f"{other}_000040to000120", "2 clips"),
        (f"{other}_000060to000090", "nothing of it is here; it would be barred from now on"),
        ("https://elsewhere.test/x", "nothing of it is here; it would be barred from now on"),
    ):
        assert previewed(videos, [name], monkeypatch) == [f"{name}: {found}"]


def test_the_work_of_a_preview_grows_with_the_names_and_not_with_their_square(monkeypatch: pytest.MonkeyPatch) -> None:
    def n_calls(n: int) -> int:
        """Functions that are called for as many names in as many videos: work, whatever the machine does besides."""
        count = itertools.count()
        sys.setprofile(lambda frame, event, argument: next(count) if event == "call" else None)
        try:
            assert len(previewed([video_of(k) for k in range(n)], [f"{k:016x}" for k in range(n)], monkeypatch)) == n
        finally:
            sys.setprofile(None)
        return next(count)

    previewed([video_of(0)], ["0" * 16], monkeypatch)  # what is imported or read at first
    assert n_calls(200) < 20 * n_calls(20)


def test_videos_that_tombstones_bar_as_a_whole_are_told_once() -> None:
    videos = [video_of(n) for n in range(4)]
    known = Videos(videos)
    source = next(iter(videos[1].sources))
    stones = [
        Tombstone("video", digest("video", videos[1].video_id)),
        Tombstone("source", digest("source", source)),
        Tombstone("content", digest("content", "file 3")),
        Tombstone("span", digest("span", videos[0].video_id), 0, 50),
    ]
    assert known.barred_by(stones) == [videos[1], videos[3]]
    assert all(known.has_any([stone]) for stone in stones)
    assert not known.has_any([Tombstone("source", digest("source", "another"))])


@pytest.mark.parametrize(("answer", "goes"), [("y\n", True), ("n\n", False), ("\n", False), ("", False)])
def test_at_a_terminal_it_asks_first(
    built: Built, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str, goes: bool
) -> None:
    typed = io.StringIO(answer)
    typed.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdin", typed)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    video = built.of_video(0)[0].video.video_id
    assert takedown(built, video) == (0 if goes else 1)
    assert f"{video}: 1 video and " in capsys.readouterr().out
    assert Tombstones.of(built.workspace).bars("video", video) == goes


def test_it_does_not_ask_where_it_is_told_not_to(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    video = built.of_video(0)[0].video.video_id
    assert takedown(built, "--yes", video) == 0
    assert Tombstones.of(built.workspace).bars("video", video)
