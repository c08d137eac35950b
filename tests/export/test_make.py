from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_dataset

import mit_builder.exports.webdataset
from mit_builder.cli.main import main
from mit_builder.dataset.index import index_text
from mit_builder.dataset.reader import DatasetFiles
from mit_builder.errors import ConfigError
from mit_builder.exports.folder import Record, read_record, write_record
from mit_builder.exports.job import Job
from mit_builder.exports.make import ExportRequest, known_exports, make_export
from mit_builder.storage.scratch import sha256_of
from mit_builder.storage.tombstones import KEY, Tombstone, Tombstones, digest
from mit_builder.storage.workspace import Workspace


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_dataset.build(tmp_path_factory.mktemp("exported")).root


def labels(output: Path, form: str = "webdataset") -> ExportRequest:
    return ExportRequest(form, output, with_media=False)


def set_column(root: Path, name: str, value: str) -> str:
    """Give the first shard's rows a value; the name of its first clip."""
    path = root / "dataset" / DatasetFiles(root).index().shards[0].name
    table = pq.read_table(path)
    column = pa.array([value] * table.num_rows, table.schema.field(name).type)
    pq.write_table(table.set_column(table.schema.get_field_index(name), table.schema.field(name), column), path)
    index = DatasetFiles(root).index()
    (root / "dataset" / "index.json").write_text(index_text(index).replace(index.shards[0].sha256, sha256_of(path)))
    return str(table["clip_id"][0])


@pytest.mark.parametrize("form", ["manifest", "webdataset", "coco-wholebody", "hf"])
def test_footage_that_needed_a_login_is_never_exported(tmp_path: Path, form: str) -> None:
    root = tiny_dataset.build(tmp_path / "w").root
    withheld = set_column(root, "access", "authenticated")
    said = make_export(Workspace(root), ExportRequest(form, tmp_path / "out", with_media=form != "manifest"))
    assert "2 clips left out: the footage was fetched with a login and is not passed on" in said
    assert len(read_record(tmp_path / "out").clip_ids) == 1
    for path in (tmp_path / "out").rglob("*"):
        assert withheld not in path.name
        assert path.is_dir() or withheld.encode() not in path.read_bytes()


def test_nothing_but_footage_behind_a_login_is_an_error(tmp_path: Path) -> None:
    root = tiny_dataset.Builder(tmp_path / "w")
    root.publish(root.shard((root.labelled(tiny_dataset.PLANS[2]),)))
    set_column(root.root, "access", "authenticated")
    with pytest.raises(ConfigError, match="fetched with a login \\(1 clip\\)"):
        make_export(Workspace(root.root), labels(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["manifest", "mit", "webdataset", "coco-wholebody", "hf"])
def test_an_export_of_nothing_is_one_line_and_leaves_what_lies_there(tmp_path: Path, form: str) -> None:
    builder = tiny_dataset.Builder(tmp_path / "w")
    builder.publish(builder.shard((builder.labelled(tiny_dataset.PLANS[2]),)))
    request = ExportRequest(form, tmp_path / "out", form not in ("manifest", "hf"), only=frozenset())
    with pytest.raises(ConfigError, match="nothing to export"):
        make_export(Workspace(builder.root), request)
    (tmp_path / "out").mkdir()
    write_record(tmp_path / "out", Record(form, request.with_media, ("a clip",)))
    builder.publish()
    with pytest.raises(ConfigError, match="nothing to export: the dataset is empty"):
        make_export(Workspace(builder.root), dataclasses.replace(request, only=None))
    assert len(read_record(tmp_path / "out").clip_ids) == 1


def test_what_was_taken_down_is_not_exported_even_before_it_is_deleted(tmp_path: Path) -> None:
    root = tiny_dataset.build(tmp_path / "w").root
    first, *others = [row["clip_id"] for row in DatasetFiles(root).rows()]
    stone = Tombstone("span", digest("span", first[:16]), 0, 1)
    Workspace(root).write(KEY, Tombstones([stone]).dump())
    make_export(Workspace(root), labels(tmp_path / "out"))
    assert list(read_record(tmp_path / "out").clip_ids) == others


def test_a_dataset_that_is_written_anew_meanwhile_is_one_line(tmp_path: Path) -> None:
    root = tiny_dataset.build(tmp_path / "w").root
    (root / "dataset" / DatasetFiles(root).index().shards[1].name).unlink()
    with pytest.raises(ConfigError, match=r"\.parquet is gone: .*; export again"):
        make_export(Workspace(root), labels(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_licence_mix_is_said_with_footage(root: Path, tmp_path: Path) -> None:
    said = make_export(Workspace(root), ExportRequest("webdataset", tmp_path / "out", with_media=True))
    assert any("3 clips" in line and "CC0" in line for line in said)
    assert not any("CC0" in line for line in make_export(Workspace(root), labels(tmp_path / "out")))


def test_an_export_replaces_an_export_and_nothing_else(root: Path, tmp_path: Path) -> None:
    workspace, output = Workspace(root), tmp_path / "out"
    make_export(workspace, labels(output, "hf"))
    (output / "data" / "mine").write_text("")
    make_export(workspace, labels(output, "hf"))
    assert {path.name for path in output.rglob("*.*")} >= {"README.md", "export.json"}
    assert not (output / "data" / "mine").exists()
    other = tmp_path / "thesis"
    other.mkdir()
    make_export(workspace, labels(other))  # an empty folder is fine
    (other / "export.json").unlink()
    with pytest.raises(ConfigError, match="is no export of mit-build"):
        make_export(workspace, labels(other))
    assert (other / "shards.json").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is no export of mit-build"):
        make_export(workspace, labels(tmp_path / "file"))


@pytest.mark.parametrize("form", ["manifest", "hf", "coco-wholebody"])
def test_an_export_never_replaces_one_of_another_form(root: Path, tmp_path: Path, form: str) -> None:
    make_export(Workspace(root), labels(tmp_path / "out"))
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(ConfigError, match=f"holds an export of the form webdataset, which {form} does not replace"):
        make_export(Workspace(root), labels(tmp_path / "out", form))
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_came_to_the_place_while_an_export_was_made_stays(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, write = tmp_path / "out", mit_builder.exports.webdataset.write

    def slowly(job: Job) -> None:
        write(job)
        output.mkdir()
        (output / "thesis.txt").write_text("years of work")

    monkeypatch.setattr(mit_builder.exports.webdataset, "write", slowly)
    with pytest.raises(ConfigError, match="is no export of mit-build"):
        make_export(Workspace(root), labels(output))
    assert (output / "thesis.txt").read_text() == "years of work"


def test_an_export_does_not_go_into_the_workspace(root: Path) -> None:
    for place in (root, root / "dataset", root / "exports" / "new"):
        with pytest.raises(ConfigError, match="lies in the workspace"):
            make_export(Workspace(root), labels(place))
    assert not (root / "exports").exists()


def test_an_interrupted_export_leaves_the_old_one_or_none(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, output = Workspace(root), tmp_path / "out"
    calls: list[object] = []

    def stop(row: dict[str, object]) -> None:
        calls.append(row)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mit_builder.exports.webdataset, "sample", stop)
        with pytest.raises(KeyboardInterrupt):
            make_export(workspace, labels(output))
    assert calls
    assert not output.exists()
    unfinished = tmp_path / ".out.unfinished"
    assert unfinished.is_dir()
    with pytest.raises(ConfigError, match="no finished export"):
        read_record(unfinished)
    make_export(workspace, labels(output))
    assert not unfinished.exists()
    before = (output / "train-000000.tar").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(mit_builder.exports.webdataset, "sample", stop)
        with pytest.raises(KeyboardInterrupt):
            make_export(workspace, labels(output))
    assert (output / "train-000000.tar").read_bytes() == before


def test_the_workspace_remembers_where_exports_lie(tmp_path: Path) -> None:
    root = tiny_dataset.build(tmp_path / "w").root
    workspace = Workspace(root)
    assert known_exports(workspace) == []
    make_export(workspace, labels(tmp_path / "a"))
    make_export(workspace, labels(tmp_path / "a"))
    make_export(workspace, labels(tmp_path / "b"))
    assert sorted(known_exports(workspace)) == [tmp_path / "a", tmp_path / "b"]


def test_exports_come_from_object_storage_too(root: Path, tmp_path: Path) -> None:
    remote = Workspace("memory://export-remote")
    for path in (root / "dataset").iterdir():
        remote.write(f"dataset/{path.name}", path.read_bytes())
    make_export(remote, labels(tmp_path / "out"))
    local = {json.loads(c)["n"] for c in [json.dumps({"n": row["clip_id"]}) for row in DatasetFiles(root).rows()]}
    assert set(read_record(tmp_path / "out").clip_ids) == local


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "mit", "-o", "out"], "add --with-media"),
        (["--format", "manifest", "--with-media", "-o", "out"], "holds no footage"),
        (["--format", "tfrecord", "-o", "out"], "must be one of manifest, mit"),
        (["--format", "hf"], "give --output"),
        (["--format", "mit", "--with-media", "-o", "my_frames"], 'does not hold "frames"'),
        (["--format", "hf", "--audio-encoder", "a:B", "-o", "out"], "belongs to --format mit"),
    ],
)
def test_wrong_use_is_said_in_one_line(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["export", "-w", str(root), *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
