from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sourced_dataset
import tiny_dataset
from web_folder import WebFolder, serve_folder

from mit_builder.cli.main import main
from mit_builder.dataset.reader import DatasetFiles
from mit_builder.dataset.validate import validate
from mit_builder.exports.make import ExportRequest, make_export
from mit_builder.media.audio_tracks import Sound, choose_sound
from mit_builder.media.cut import cut_native
from mit_builder.removal.takedown import take_down
from mit_builder.storage.tombstones import KEY, Tombstone, Tombstones, digest
from mit_builder.storage.workspace import Workspace
from stages import download

ALLOW = ("--set", "download.allow_private_addresses=true")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebFolder]:
    sourced_dataset.write_sources(tmp_path / "web")
    with serve_folder(tmp_path / "web") as served:
        yield served


@pytest.fixture
def original(tmp_path: Path, web: WebFolder) -> Path:
    """A workspace whose two videos came from the server, with its manifest beside it."""
    sources = sorted((tmp_path / "web").iterdir())
    sourced_dataset.build(tmp_path / "original", sources, [f"{web.url}/{path.name}" for path in sources])
    make_export(Workspace(tmp_path / "original"), ExportRequest("manifest", tmp_path / "manifest", with_media=False))
    return tmp_path / "original"


def rebuild(tmp_path: Path, *arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["rebuild", str(tmp_path / "manifest"), "-w", str(tmp_path / "again"), *arguments])
    return int(stopped.value.code or 0)


def assert_equal(one: Any, two: Any) -> None:
    if isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, two)
    elif isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_equal(one[key], two[key])
    elif isinstance(one, list):
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            assert_equal(a, b)
    else:
        assert one == two


def test_a_rebuilt_dataset_equals_the_original_but_for_what_the_source_no_longer_says(
    original: Path, tmp_path: Path, web: WebFolder
) -> None:
    assert rebuild(tmp_path, *ALLOW) == 0
    found, expected = list(DatasetFiles(tmp_path / "again").rows()), list(DatasetFiles(original).rows())
    assert len(found) == 3
    for ours, theirs in zip(expected, found, strict=True):
        told = ("title", "uploader", "channel_id", "captions")
        assert_equal(
            {k: v for k, v in ours.items() if k not in told}, {k: v for k, v in theirs.items() if k not in told}
        )
        assert theirs["title"] in ("talk0", "talk1")  # what a plain file's address says
    assert validate(tmp_path / "again") == []
    assert "3 clips" in (tmp_path / "again" / "dataset" / "README.md").read_text()
    assert not list((tmp_path / "again" / ".scratch").glob("20*")), "what was unfinished is cleared away"
    n_asked = len(web.asked)
    assert rebuild(tmp_path, *ALLOW) == 0
    assert len(web.asked) == n_asked, "what is there is not fetched again"


def test_clips_that_keep_the_sources_frames_are_cut_like_that_again(
    tmp_path: Path, web: WebFolder, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(tiny_dataset, "cut_clip", cut_native)
    expected = list(DatasetFiles(request.getfixturevalue("original")).rows())
    assert {row["media_fps"] for row in expected} == {"source"}
    assert rebuild(tmp_path, *ALLOW) == 0
    found = list(DatasetFiles(tmp_path / "again").rows())
    for name in ("clip_id", "clip", "media_fps", "media_frame_index"):
        assert_equal([row[name] for row in expected], [row[name] for row in found])


def test_clips_are_cut_with_the_sound_that_their_labels_were_made_for(
    tmp_path: Path, web: WebFolder, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    plain = choose_sound(tmp_path / "web" / "talk0.mp4").tracks
    other = Sound((replace(plain[0], weights=(-1.0,), title="a title of the source"),), 3.0)
    monkeypatch.setattr(sourced_dataset, "choose_sound", lambda path: other)
    expected = list(DatasetFiles(request.getfixturevalue("original")).rows())
    assert rebuild(tmp_path, *ALLOW) == 0
    found = list(DatasetFiles(tmp_path / "again").rows())
    for name in ("audio", "clip", "sound", "gain_db"):
        assert_equal([row[name] for row in expected], [row[name] for row in found])
    assert {row["sound"][0]["title"] for row in found} == {None}
    assert {row["sound"][0]["weights"][0] for row in found} == {-1.0}


@pytest.mark.parametrize(
    "change",
    [{"sound": [[]] * 3}, {"source_sha256": [None] * 3}],
    ids=["no sound is named", "no source is promised"],
)
def test_else_they_are_cut_with_the_sound_that_the_download_chose(
    change: dict[str, Any],
    tmp_path: Path,
    web: WebFolder,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    (plain,) = choose_sound(tmp_path / "web" / "talk0.mp4").tracks
    chosen = Sound((replace(plain, weights=(-1.0,)),), 3.0)
    monkeypatch.setattr(sourced_dataset, "choose_sound", lambda path: chosen)
    monkeypatch.setattr(download, "choose_sound", lambda *_: chosen)
    expected = list(DatasetFiles(request.getfixturevalue("original")).rows())
    rewrite(tmp_path / "manifest", **change)
    assert rebuild(tmp_path, *ALLOW) == 0
    found = list(DatasetFiles(tmp_path / "again").rows())
    for name in ("audio", "clip"):
        assert_equal([row[name] for row in expected], [row[name] for row in found])


def test_sources_that_are_gone_or_changed_are_named_and_the_others_rebuilt(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = [row["video_id"] for row in DatasetFiles(original).rows()]
    talk1 = tmp_path / "web" / "talk1.mp4"
    before = talk1.read_bytes()
    talk1.write_bytes((tmp_path / "web" / "talk0.mp4").read_bytes())
    assert rebuild(tmp_path, *ALLOW) == 1
    said = capsys.readouterr().out
    (changed,) = {name for name in videos if f"{name} (1 clip): changed" in said}
    assert [row["video_id"] for row in DatasetFiles(tmp_path / "again").rows()] == [n for n in videos if n != changed]
    talk1.unlink()
    assert rebuild(tmp_path, *ALLOW) == 1
    assert f"{changed} (1 clip): gone" in capsys.readouterr().out
    talk1.write_bytes(before)
    assert rebuild(tmp_path, *ALLOW) == 0
    assert [row["video_id"] for row in DatasetFiles(tmp_path / "again").rows()] == videos


def test_what_was_taken_down_is_neither_fetched_nor_rebuilt(
    original: Path, tmp_path: Path, web: WebFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = list(DatasetFiles(original).rows())
    pairs = [row for row in rows if row["source_url"].endswith("talk0.mp4")]
    (single,) = (row for row in rows if row["source_url"].endswith("talk1.mp4"))
    frames = [round(pairs[0][name] * 25) for name in ("start_s", "end_s")]
    stones = Tombstones(
        [
            Tombstone("video", digest("video", single["video_id"])),
            Tombstone("span", digest("span", pairs[0]["video_id"]), frames[1] - 1, frames[1] + 1),
        ]
    )
    Workspace(tmp_path / "again").write(KEY, stones.dump())
    assert rebuild(tmp_path, *ALLOW) == 1
    assert f"{single['clip_id']}: taken down" in capsys.readouterr().out
    assert [row["clip_id"] for row in DatasetFiles(tmp_path / "again").rows()] == [pairs[1]["clip_id"]]
    assert not any("talk1" in path for path in web.asked)
    assert (tmp_path / "again" / "dataset" / "tombstones.json").exists()


def in_workspace(tmp_path: Path, name: str) -> list[Path]:
    """Files of the rebuilt workspace that are named after something."""
    return [path for path in (tmp_path / "again").rglob("*") if name in path.name]


def test_a_later_takedown_at_the_manifests_maker_reaches_what_was_rebuilt(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rebuild(tmp_path, *ALLOW) == 0
    make_export(Workspace(tmp_path / "again"), ExportRequest("webdataset", tmp_path / "tars", with_media=True))
    rows = list(DatasetFiles(original).rows())
    (gone,) = (row for row in rows if row["source_url"].endswith("talk1.mp4"))
    assert len(in_workspace(tmp_path, gone["video_id"])) > 2
    take_down(Workspace(original), [gone["video_id"]])
    assert rebuild(tmp_path, *ALLOW) == 0, "the manifest was written anew, and no longer names it"
    kept = [row["clip_id"] for row in rows if row is not gone]
    assert [row["clip_id"] for row in DatasetFiles(tmp_path / "again").rows()] == kept
    assert in_workspace(tmp_path, gone["video_id"]) == []
    assert json.loads((tmp_path / "tars" / "export.json").read_text())["clip_ids"] == kept
    assert validate(tmp_path / "again") == []


def test_tombstones_put_beside_an_old_manifest_count_too(original: Path, tmp_path: Path) -> None:
    assert rebuild(tmp_path, *ALLOW) == 0
    (gone,) = (row for row in DatasetFiles(original).rows() if row["source_url"].endswith("talk1.mp4"))
    stones = Tombstones([Tombstone("video", digest("video", gone["video_id"]))])
    (tmp_path / "manifest" / "tombstones.json").write_bytes(stones.dump(published=True))
    assert rebuild(tmp_path, *ALLOW) == 1
    assert gone["clip_id"] not in [row["clip_id"] for row in DatasetFiles(tmp_path / "again").rows()]
    assert in_workspace(tmp_path, gone["video_id"]) == []


def test_the_rebuild_of_another_manifest_is_left_alone(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rebuild(tmp_path, *ALLOW) == 0
    names = [row["clip_id"] for row in DatasetFiles(original).rows()]
    other = ExportRequest("manifest", tmp_path / "manifest", with_media=False, only=frozenset(names[:1]))
    make_export(Workspace(original), other)
    assert rebuild(tmp_path, *ALLOW) == 2
    assert "holds the rebuild of another manifest" in capsys.readouterr().err
    assert [row["clip_id"] for row in DatasetFiles(tmp_path / "again").rows()] == names


def test_a_lost_ledger_costs_nothing_also_where_the_sources_are_gone(
    original: Path, tmp_path: Path, web: WebFolder
) -> None:
    assert rebuild(tmp_path, *ALLOW) == 0
    before, n_asked = list(DatasetFiles(tmp_path / "again").rows()), len(web.asked)
    shutil.rmtree(tmp_path / "again" / "manifests")
    (tmp_path / "web" / "talk1.mp4").unlink()
    assert rebuild(tmp_path, *ALLOW) == 0
    assert len(web.asked) == n_asked
    assert_equal(list(DatasetFiles(tmp_path / "again").rows()), before)


def test_a_ledger_lost_before_the_dataset_was_written_leaves_out_what_is_gone(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rebuild(tmp_path, *ALLOW) == 0
    rows = list(DatasetFiles(original).rows())
    for folder in ("manifests", "dataset"):
        shutil.rmtree(tmp_path / "again" / folder)
    (tmp_path / "web" / "talk1.mp4").unlink()
    assert rebuild(tmp_path, *ALLOW) == 1
    assert "(1 clip): gone" in capsys.readouterr().out
    kept = [row["clip_id"] for row in rows if not row["source_url"].endswith("talk1.mp4")]
    assert [row["clip_id"] for row in DatasetFiles(tmp_path / "again").rows()] == kept


def test_a_takedown_outlives_a_lost_ledger(original: Path, tmp_path: Path) -> None:
    assert rebuild(tmp_path, *ALLOW) == 0
    names = [row["clip_id"] for row in DatasetFiles(original).rows()]
    take_down(Workspace(tmp_path / "again"), [names[0]])
    shutil.rmtree(tmp_path / "again" / "manifests")
    assert rebuild(tmp_path, *ALLOW) == 1
    assert [row["clip_id"] for row in DatasetFiles(tmp_path / "again").rows()] == names[1:]
    assert Tombstones.of(Workspace(tmp_path / "again")).bars_clip(names[0])


def test_local_files_are_found_by_name_and_known_by_content(tmp_path: Path) -> None:
    sources = sourced_dataset.write_sources(tmp_path / "talks")
    sourced_dataset.build(tmp_path / "original", sources, [f"http://unused.test/{p.name}" for p in sources])
    make_export(Workspace(tmp_path / "original"), ExportRequest("manifest", tmp_path / "manifest", with_media=False))
    local_addresses(tmp_path / "manifest")
    assert rebuild(tmp_path) == 1
    assert rebuild(tmp_path, "--files", str(tmp_path / "talks")) == 0
    assert len(list(DatasetFiles(tmp_path / "again").rows())) == 3


def test_of_local_files_with_one_name_each_is_found_by_its_content(tmp_path: Path) -> None:
    sources = []
    for source in sourced_dataset.write_sources(tmp_path / "talks"):
        (tmp_path / "talks" / source.stem).mkdir()
        sources.append(source.rename(tmp_path / "talks" / source.stem / "talk.mp4"))
    sourced_dataset.build(
        tmp_path / "original", sources, [f"http://unused.test/{p.parent.name}/talk.mp4" for p in sources]
    )
    make_export(Workspace(tmp_path / "original"), ExportRequest("manifest", tmp_path / "manifest", with_media=False))
    local_addresses(tmp_path / "manifest")
    assert rebuild(tmp_path, "--files", str(tmp_path / "talks")) == 0
    assert len(list(DatasetFiles(tmp_path / "again").rows())) == 3


def test_clips_that_keep_the_frames_of_their_source_are_rebuilt_and_exported(tmp_path: Path) -> None:
    sources = sourced_dataset.write_sources(tmp_path / "talks", fps=24)
    addresses = [f"http://unused.test/{path.name}" for path in sources]
    sourced_dataset.build(tmp_path / "original", sources, addresses, native=True)
    make_export(Workspace(tmp_path / "original"), ExportRequest("manifest", tmp_path / "manifest", with_media=False))
    local_addresses(tmp_path / "manifest")
    assert rebuild(tmp_path, "--files", str(tmp_path / "talks")) == 0
    rows = list(DatasetFiles(tmp_path / "again").rows())
    for ours, theirs in zip(DatasetFiles(tmp_path / "original").rows(), rows, strict=True):
        assert theirs["media_fps"] == "source"
        assert ours["clip"] == theirs["clip"]
        assert_equal(ours["media_frame_index"], theirs["media_frame_index"])
    make_export(Workspace(tmp_path / "again"), ExportRequest("coco-wholebody", tmp_path / "coco", with_media=True))
    for row in rows:
        assert len(list((tmp_path / "coco" / "images" / row["clip_id"]).iterdir())) == row["n_frames"]
        assert max(row["media_frame_index"]) + 1 < row["n_frames"]


def local_addresses(manifest: Path) -> None:
    """Make every address of a manifest that of a local file."""
    path = manifest / "clips-00000.parquet"
    table = pq.read_table(path)
    names = [f"file:{address.as_py().rpartition('/')[2]}" for address in table["source_url"]]
    rewrite(manifest, source_url=names)


def rewrite(manifest: Path, order: tuple[int, ...] = (), head: dict[str, Any] | None = None, **columns: Any) -> None:
    """Write a manifest anew with other columns, as somebody does who knows how: its fingerprint fits."""
    path = manifest / "clips-00000.parquet"
    table = pq.read_table(path)
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), pa.array(values, table.schema.field(place).type))
    pq.write_table(table.take(list(order)) if order else table, path)
    values = json.loads((manifest / "manifest.json").read_text()) | (head or {})
    values["fingerprint"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (manifest / "manifest.json").write_text(json.dumps(values))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest whose sources are local files."""
    folder = tmp_path_factory.mktemp("sound")
    sources = sourced_dataset.write_sources(folder / "talks")
    sourced_dataset.build(folder / "original", sources, [f"http://unused.test/{p.name}" for p in sources])
    make_export(Workspace(folder / "original"), ExportRequest("manifest", folder / "manifest", with_media=False))
    local_addresses(folder / "manifest")
    return folder


def first(sound: Path, column: str, change: Callable[[Any], Any]) -> dict[str, list[Any]]:
    values = pq.read_table(sound / "manifest" / "clips-00000.parquet")[column].to_pylist()
    return {column: [change(values[0]), *values[1:]]}


@pytest.mark.parametrize(
    ("column", "change", "says"),
    [
        ("clip_id", lambda v: f"../../{v}", "this is no clip's id"),
        ("clip_id", lambda v: f"{v[:16]}/{v[17:]}", "this is no clip's id"),
        ("clip_id", lambda v: v.replace("_000", "_0000"), "this is no clip's id"),
        ("clip_id", lambda v: f"{v[:16]}_000040to000010", "this is no clip's id"),
        ("clip_id", lambda v: "f" * 16 + v[16:], "video_id is another one"),
        ("video_id", lambda v: "f" * 16, "video_id is another one"),
        ("n_frames", lambda v: v + 1, "start_s, end_s and n_frames are not those of its id"),
        ("start_s", lambda v: v + 0.04, "start_s, end_s and n_frames are not those of its id"),
        ("end_s", lambda v: float("nan"), "start_s, end_s and n_frames are not those of its id"),
        ("clip_sha256", lambda v: f"../../{v[6:]}", "clip_sha256 is no sha256"),
        ("audio_sha256", lambda v: v[:8], "audio_sha256 is no sha256"),
        ("audio_sha256", lambda v: None, "audio_sha256 is missing"),
        ("source_sha256", lambda v: v.upper(), "source_sha256 is no sha256"),
        ("source_sha256", lambda v: "0" * 64, "video_id does not follow from source_sha256"),
        ("source_frame_index", lambda v: v[:-1], "source_frame_index has not a frame for each of n_frames"),
        ("media_fps", lambda v: "../25", "media_fps, width_px or height_px cannot be"),
    ],
)
def test_a_foreign_manifest_is_checked_before_anything_is_made_of_it(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], column: str, change: Any, says: str
) -> None:
    shutil.copytree(sound / "manifest", tmp_path / "manifest")
    rewrite(tmp_path / "manifest", **first(sound, column, change))
    assert rebuild(tmp_path, "--files", str(sound / "talks")) == 2
    said = capsys.readouterr().err
    assert "row 1 (" in said
    assert says in said
    assert said.count("\n") == 1
    assert not [path for path in (tmp_path / "again").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"order": (0, 1, 2, 0)}, "the clip is in it twice"),
        ({"head": {"n_buckets": 0}}, "manifest.json is damaged"),
        ({"head": {"n_buckets": "many"}}, "manifest.json is damaged"),
        ({"head": {"n_buckets": "16"}}, "manifest.json is damaged"),
        ({"head": {"crf": -7}}, "manifest.json is damaged"),
        ({"head": {"files": ["../talks/talk0.mp4"]}}, "are missing"),
    ],
)
def test_a_foreign_manifest_is_checked_as_a_whole(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, says: str
) -> None:
    shutil.copytree(sound / "manifest", tmp_path / "manifest")
    rewrite(tmp_path / "manifest", **change)
    assert rebuild(tmp_path, "--files", str(sound / "talks")) == 2
    assert says in capsys.readouterr().err


def test_a_source_without_a_hash_must_give_the_video_that_is_named(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(sound / "manifest", tmp_path / "manifest")
    (tmp_path / "talks").mkdir()
    one, other = sorted(path.name for path in (sound / "talks").iterdir())[:2]
    shutil.copy(sound / "talks" / other, tmp_path / "talks" / one)
    rewrite(tmp_path / "manifest", source_sha256=[None] * 3)
    assert rebuild(tmp_path, "--files", str(tmp_path / "talks")) == 1
    assert "changed: its address gives another video" in capsys.readouterr().out
    assert list(DatasetFiles(tmp_path / "again").rows()) == []


def test_a_damaged_manifest_and_a_foreign_workspace_are_refused(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["rebuild", str(tmp_path / "manifest"), "-w", str(original)])
    assert stopped.value.code == 2
    assert "holds a dataset of its own" in capsys.readouterr().err
    path = tmp_path / "manifest" / "clips-00000.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert rebuild(tmp_path) == 2
    assert "do not fit its manifest.json" in capsys.readouterr().err


def test_a_run_keeps_out_of_a_rebuilt_workspace(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rebuild(tmp_path, *ALLOW) == 0
    with pytest.raises(SystemExit) as stopped:
        main(["run", "-w", str(tmp_path / "again"), "--engine", "serial"])
    assert stopped.value.code == 2
    assert "rebuilt from a manifest" in capsys.readouterr().err
    assert len(list(DatasetFiles(tmp_path / "again").rows())) == 3
