from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sourced_dataset
import tiny_dataset
from web_folder import WebFolder, serve_folder

from mit_builder.cli import main
from mit_builder.dataset import open_dataset
from mit_builder.export.make import ExportRequest, make_export
from mit_builder.media.cut import cut_native
from mit_builder.takedown import take_down
from mit_builder.tombstones import KEY, Tombstone, Tombstones, digest
from mit_builder.validate import validate
from mit_builder.workspace import Workspace

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
    found, expected = list(open_dataset(tmp_path / "again")), list(open_dataset(original))
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
    expected = list(open_dataset(request.getfixturevalue("original")))
    assert {row["media_fps"] for row in expected} == {"source"}
    assert rebuild(tmp_path, *ALLOW) == 0
    found = list(open_dataset(tmp_path / "again"))
    for name in ("clip_id", "clip", "media_fps", "media_frame_index"):
        assert_equal([row[name] for row in expected], [row[name] for row in found])


def test_sources_that_are_gone_or_changed_are_named_and_the_others_rebuilt(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = [row["video_id"] for row in open_dataset(original)]
    talk1 = tmp_path / "web" / "talk1.mp4"
    before = talk1.read_bytes()
    talk1.write_bytes((tmp_path / "web" / "talk0.mp4").read_bytes())
    assert rebuild(tmp_path, *ALLOW) == 1
    said = capsys.readouterr().out
    (changed,) = {name for name in videos if f"{name} (1 clips): changed" in said}
    assert [row["video_id"] for row in open_dataset(tmp_path / "again")] == [n for n in videos if n != changed]
    talk1.unlink()
    assert rebuild(tmp_path, *ALLOW) == 1
    assert f"{changed} (1 clips): gone" in capsys.readouterr().out
    talk1.write_bytes(before)
    assert rebuild(tmp_path, *ALLOW) == 0
    assert [row["video_id"] for row in open_dataset(tmp_path / "again")] == videos


def test_what_was_taken_down_is_neither_fetched_nor_rebuilt(
    original: Path, tmp_path: Path, web: WebFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = list(open_dataset(original))
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
    assert [row["clip_id"] for row in open_dataset(tmp_path / "again")] == [pairs[1]["clip_id"]]
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
    rows = list(open_dataset(original))
    (gone,) = (row for row in rows if row["source_url"].endswith("talk1.mp4"))
    assert len(in_workspace(tmp_path, gone["video_id"])) > 2
    take_down(Workspace(original), [gone["video_id"]])
    assert rebuild(tmp_path, *ALLOW) == 0, "the manifest was written anew, and no longer names it"
    kept = [row["clip_id"] for row in rows if row is not gone]
    assert [row["clip_id"] for row in open_dataset(tmp_path / "again")] == kept
    assert in_workspace(tmp_path, gone["video_id"]) == []
    assert json.loads((tmp_path / "tars" / "export.json").read_text())["clip_ids"] == kept
    assert validate(tmp_path / "again") == []


def test_tombstones_put_beside_an_old_manifest_count_too(original: Path, tmp_path: Path) -> None:
    assert rebuild(tmp_path, *ALLOW) == 0
    (gone,) = (row for row in open_dataset(original) if row["source_url"].endswith("talk1.mp4"))
    stones = Tombstones([Tombstone("video", digest("video", gone["video_id"]))])
    (tmp_path / "manifest" / "tombstones.json").write_bytes(stones.dump(published=True))
    assert rebuild(tmp_path, *ALLOW) == 1
    assert gone["clip_id"] not in [row["clip_id"] for row in open_dataset(tmp_path / "again")]
    assert in_workspace(tmp_path, gone["video_id"]) == []


def test_the_rebuild_of_another_manifest_is_left_alone(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rebuild(tmp_path, *ALLOW) == 0
    names = [row["clip_id"] for row in open_dataset(original)]
    other = ExportRequest("manifest", tmp_path / "manifest", with_media=False, only=frozenset(names[:1]))
    make_export(Workspace(original), other)
    assert rebuild(tmp_path, *ALLOW) == 2
    assert "holds the rebuild of another manifest" in capsys.readouterr().err
    assert [row["clip_id"] for row in open_dataset(tmp_path / "again")] == names


def test_a_lost_ledger_costs_nothing_also_where_the_sources_are_gone(
    original: Path, tmp_path: Path, web: WebFolder
) -> None:
    assert rebuild(tmp_path, *ALLOW) == 0
    before, n_asked = list(open_dataset(tmp_path / "again")), len(web.asked)
    shutil.rmtree(tmp_path / "again" / "manifests")
    (tmp_path / "web" / "talk1.mp4").unlink()
    assert rebuild(tmp_path, *ALLOW) == 0
    assert len(web.asked) == n_asked
    assert_equal(list(open_dataset(tmp_path / "again")), before)


def test_a_ledger_lost_before_the_dataset_was_written_leaves_out_what_is_gone(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rebuild(tmp_path, *ALLOW) == 0
    rows = list(open_dataset(original))
    for folder in ("manifests", "dataset"):
        shutil.rmtree(tmp_path / "again" / folder)
    (tmp_path / "web" / "talk1.mp4").unlink()
    assert rebuild(tmp_path, *ALLOW) == 1
    assert "(1 clips): gone" in capsys.readouterr().out
    kept = [row["clip_id"] for row in rows if not row["source_url"].endswith("talk1.mp4")]
    assert [row["clip_id"] for row in open_dataset(tmp_path / "again")] == kept


def test_a_takedown_outlives_a_lost_ledger(original: Path, tmp_path: Path) -> None:
    assert rebuild(tmp_path, *ALLOW) == 0
    names = [row["clip_id"] for row in open_dataset(original)]
    take_down(Workspace(tmp_path / "again"), [names[0]])
    shutil.rmtree(tmp_path / "again" / "manifests")
    assert rebuild(tmp_path, *ALLOW) == 1
    assert [row["clip_id"] for row in open_dataset(tmp_path / "again")] == names[1:]
    assert Tombstones.of(Workspace(tmp_path / "again")).bars_clip(names[0])


def test_local_files_are_found_by_name_and_known_by_content(tmp_path: Path) -> None:
    sources = sourced_dataset.write_sources(tmp_path / "talks")
    sourced_dataset.build(tmp_path / "original", sources, [f"http://unused.test/{p.name}" for p in sources])
    make_export(Workspace(tmp_path / "original"), ExportRequest("manifest", tmp_path / "manifest", with_media=False))
    local_addresses(tmp_path / "manifest")
    assert rebuild(tmp_path) == 1
    assert rebuild(tmp_path, "--files", str(tmp_path / "talks")) == 0
    assert len(list(open_dataset(tmp_path / "again"))) == 3


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
    assert len(list(open_dataset(tmp_path / "again"))) == 3


def test_clips_that_keep_the_frames_of_their_source_are_rebuilt_and_exported(tmp_path: Path) -> None:
    sources = sourced_dataset.write_sources(tmp_path / "talks", fps=24)
    addresses = [f"http://unused.test/{path.name}" for path in sources]
    sourced_dataset.build(tmp_path / "original", sources, addresses, native=True)
    make_export(Workspace(tmp_path / "original"), ExportRequest("manifest", tmp_path / "manifest", with_media=False))
    local_addresses(tmp_path / "manifest")
    assert rebuild(tmp_path, "--files", str(tmp_path / "talks")) == 0
    rows = list(open_dataset(tmp_path / "again"))
    for ours, theirs in zip(open_dataset(tmp_path / "original"), rows, strict=True):
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
    place = table.schema.get_field_index("source_url")
    pq.write_table(table.set_column(place, table.schema.field(place), pa.array(names)), path)
    head = json.loads((manifest / "manifest.json").read_text())
    head["fingerprint"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (manifest / "manifest.json").write_text(json.dumps(head))


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
    assert len(list(open_dataset(tmp_path / "again"))) == 3
