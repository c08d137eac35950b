from __future__ import annotations

import errno
import os
from pathlib import Path

import obstore
import pytest
from walks import failed, walk

import mit_builder.storage.object_store
from manifests.ids import new_run_id
from manifests.rows import Artifact
from mit_builder.engine.worker import UnitContext
from mit_builder.errors import CannotContinue, ConfigError, WorkspaceError
from mit_builder.storage.scratch import SCRATCH, sha256_of
from mit_builder.storage.workspace import FOLDERS, Workspace

HELLO = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
"""sha256 of "hello"."""


@pytest.fixture(params=["folder", "memory"])
def workspace(request: pytest.FixtureRequest, tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws" if request.param == "folder" else f"memory://{new_run_id()}")


def file_with(folder: Path, text: str, name: str = "new.txt") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text)
    return path


def test_a_committed_file_is_moved_and_described(workspace: Workspace, tmp_path: Path) -> None:
    path = file_with(tmp_path, "hello")
    assert workspace.commit(path, "clips/a.txt") == Artifact("clips/a.txt", HELLO, 5)
    assert not path.exists()
    assert workspace.read("clips/a.txt") == b"hello"
    with workspace.local("clips/a.txt") as local:
        assert local.read_text() == "hello"


def test_committing_the_same_again_changes_nothing_and_other_bytes_replace(
    workspace: Workspace, tmp_path: Path
) -> None:
    first = workspace.commit(file_with(tmp_path, "hello"), "clips/a.txt")
    assert workspace.commit(file_with(tmp_path, "hello"), "clips/a.txt") == first
    assert workspace.names("clips") == {"clips/a.txt"}
    workspace.commit(file_with(tmp_path, "other"), "clips/a.txt")
    assert workspace.read("clips/a.txt") == b"other"


def test_a_reader_never_sees_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(tmp_path / "ws")
    workspace.commit(file_with(tmp_path, "old"), "clips/a.txt")
    replaced: list[bytes] = []
    replace = os.replace

    def watched(source: Path, target: Path) -> None:
        replaced.append(workspace.read("clips/a.txt") + b" -> " + Path(source).read_bytes())
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    workspace.commit(file_with(tmp_path, "new"), "clips/a.txt")
    workspace.write("clips/a.txt", b"written")
    assert replaced == [b"old -> new", b"new -> written"]
    assert workspace.read("clips/a.txt") == b"written"


def test_what_is_not_there_says_so(workspace: Workspace) -> None:
    assert not workspace.exists("clips/none.mp4")
    assert workspace.names("clips") == set()
    with pytest.raises(FileNotFoundError):
        workspace.read("clips/none.mp4")
    with pytest.raises(FileNotFoundError), workspace.local("clips/none.mp4"):
        pass
    workspace.delete(["clips/none.mp4"])


def test_names_are_those_below_one_folder(workspace: Workspace) -> None:
    for key in ("clips/a", "clips/deep/b", "clips2/c", "poses/d"):
        workspace.write(key, b"12345")
    assert workspace.names("clips") == {"clips/a", "clips/deep/b"}
    workspace.delete(["clips/a"])
    assert workspace.names("clips") == {"clips/deep/b"}
    assert workspace.exists("clips/deep/b")


def test_two_workspaces_of_one_uri_share_their_content(tmp_path: Path) -> None:
    for uri in (str(tmp_path / "ws"), f"memory://{new_run_id()}"):
        Workspace(uri).write("a", b"1")
        assert Workspace(Workspace(uri).uri).read("a") == b"1"


def test_an_artifact_is_named_by_its_input_key(workspace: Workspace, tmp_path: Path) -> None:
    context = UnitContext(workspace, "0123456789abcdef", tmp_path)
    artifact = context.commit(file_with(tmp_path, "hello", "out.flac"), "clips", "a_000000to000125")
    assert artifact.key == "clips/a_000000to000125.01234567.flac"
    with context.local(artifact) as path:
        assert sha256_of(path) == artifact.sha256 == HELLO


def test_another_result_of_one_input_replaces_nothing_that_a_row_may_name(workspace: Workspace, tmp_path: Path) -> None:
    context = UnitContext(workspace, "0123456789abcdef", tmp_path)
    first = context.commit(file_with(tmp_path, "hello", "out.txt"), "clips", "a")
    assert context.commit(file_with(tmp_path, "hello", "out.txt"), "clips", "a") == first
    other = context.commit(file_with(tmp_path, "hallo", "out.txt"), "clips", "a")
    assert other.key == f"clips/a.01234567-{other.sha256[:8]}.txt"
    assert workspace.read(first.key) == b"hello"
    assert workspace.read(other.key) == b"hallo"


def test_artifacts_go_to_known_folders_only(workspace: Workspace, tmp_path: Path) -> None:
    context = UnitContext(workspace, "0123456789abcdef", tmp_path)
    for folder in ("manifests", "..", "report"):
        with pytest.raises(ValueError, match=f"folder must be one of {', '.join(FOLDERS)}"):
            context.commit(file_with(tmp_path, "x"), folder, "a")


@pytest.mark.parametrize("name", ["../../x", "a/../b", "/etc/x", "", "..", "a//b", "a\n", "<b>"])
def test_names_that_could_lead_elsewhere_are_refused(workspace: Workspace, tmp_path: Path, name: str) -> None:
    context = UnitContext(workspace, "0123456789abcdef", tmp_path)
    with pytest.raises(ValueError, match="an artifact's name is made of plain words"):
        context.commit(file_with(tmp_path, "x"), "clips", name)


def test_unfinished_files_lie_beside_the_finished_ones_and_are_swept(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    folder = workspace.scratch("run-1")
    assert folder == tmp_path / "ws" / SCRATCH / "run-1"
    file_with(folder / "unit", "half a file")
    workspace.write("clips/a", b"1")
    workspace.sweep()
    assert not folder.exists()
    assert workspace.exists("clips/a")


def test_a_worker_that_starts_takes_no_folder_from_a_unit_that_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    workspace = Workspace(f"memory://{new_run_id()}")
    make, swept = os.mkdir, []

    def and_be_swept(path: Path, mode: int = 0o777) -> None:
        make(path, mode)
        if Path(path).parent.name == SCRATCH and len(swept) < 20:
            swept.append(path)
            Workspace(workspace.uri).sweep_dead()

    monkeypatch.setattr(os, "mkdir", and_be_swept)
    assert failed(walk(workspace, ["a", "b"])) == {}
    assert len(swept) == 20


@pytest.mark.parametrize("uri", ["nonsense://bucket/x", "s3://"])
def test_a_workspace_that_cannot_be_is_a_setting_to_correct(uri: str) -> None:
    with pytest.raises(ConfigError, match="cannot use workspace"):
        Workspace(uri)


def test_a_file_in_the_place_of_a_workspace_is_refused(tmp_path: Path) -> None:
    path = file_with(tmp_path, "x")
    with pytest.raises(ConfigError, match="cannot use workspace"):
        Workspace(path)
    with pytest.raises(ConfigError, match="cannot use workspace"):
        Workspace(path / "below")


def test_a_workspace_that_takes_nothing_says_so_in_one_line_and_keeps_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path / "ws")
    workspace.write("clips", b"a file in the place of a folder")
    message = f"cannot write clips/a.txt in workspace {workspace.uri}: File exists"
    with pytest.raises(WorkspaceError, match=f"^{message}$"):
        workspace.write("clips/a.txt", b"1")
    with pytest.raises(WorkspaceError, match=f"^{message}$"):
        workspace.commit(file_with(tmp_path, "hello"), "clips/a.txt")
    assert [path for path in (workspace.root / SCRATCH).rglob("*") if path.is_file()] == []  # type: ignore[operator]

    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WorkspaceError, match="No space left on device"):
        workspace.write("poses/a", b"1")


def test_unfinished_files_have_no_place_where_the_workspace_takes_nothing(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    (tmp_path / "ws" / SCRATCH).touch()
    with pytest.raises(WorkspaceError, match="cannot write"):
        workspace.scratch("run")


def test_object_storage_that_cannot_be_reached_is_an_error_of_the_workspace(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_reach(*arguments: object, **options: object) -> None:
        raise obstore.exceptions.GenericError("no route\nto the store")

    if workspace.root is not None:
        pytest.skip("a folder")
    monkeypatch.setattr(obstore, "put", out_of_reach)
    monkeypatch.setattr(mit_builder.storage.object_store, "PAUSE_S", 0.001)
    path = file_with(tmp_path, "hello")
    for write in (lambda: workspace.write("clips/a", b"1"), lambda: workspace.commit(path, "clips/a")):
        with pytest.raises(WorkspaceError, match=r"^cannot write clips/a in workspace memory://\S+: no route$"):
            write()
    assert path.exists()


def test_a_full_disk_stops_the_run_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CannotContinue, match=r"GB free on the disk of .*/mit-build-"):
        Workspace(f"memory://{new_run_id()}").check_space(1e9)
    workspace = Workspace(tmp_path)
    workspace.check_space(0.0)
    with pytest.raises(CannotContinue, match="mit-build gc"):
        workspace.check_space(1e9)


@pytest.mark.parametrize("method", ["names", "stamps"])
def test_a_list_that_breaks_off_is_asked_for_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    workspace.write("clips/a", b"hello")
    real, problems = obstore.list, iter([obstore.exceptions.GenericError("connection reset")])

    def flaky(*arguments: object, **options: object) -> object:
        for problem in problems:
            raise problem
        return real(*arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(obstore, "list", flaky)
    assert set(getattr(workspace, method)("clips")) == {"clips/a"}
