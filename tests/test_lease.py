from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import obstore
import pytest

import mit_builder.lease
from mit_builder.errors import CannotContinue, WorkspaceError
from mit_builder.lease import KEY, lease
from mit_builder.session import new_run_id
from mit_builder.workspace import Workspace


@pytest.fixture(params=["folder", "memory"])
def workspace(request: pytest.FixtureRequest, tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws" if request.param == "folder" else f"memory://{new_run_id()}")


@pytest.fixture
def in_memory() -> Workspace:
    return Workspace(f"memory://{new_run_id()}")


def hold(workspace: Workspace) -> None:
    """Put another run's lease in place."""
    body = {"nonce": "of another", "holder": "process 7 on elsewhere", "renewed_at": 0.0}
    obstore.put(workspace.store, KEY, json.dumps(body).encode())


def holder(workspace: Workspace) -> str:
    return str(json.loads(workspace.read(KEY))["holder"])


def test_one_run_at_a_time_holds_a_workspace(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Workspace(workspace.uri)
    message = r"another run uses this workspace \(process \d+ on "
    monkeypatch.setattr(mit_builder.lease, "RENEW_S", 0.02)
    with lease(workspace), pytest.raises(CannotContinue, match=message), lease(other):
        pass
    with lease(other):
        pass


def test_a_run_that_fails_lets_go(workspace: Workspace) -> None:
    with pytest.raises(ZeroDivisionError), lease(workspace):
        _ = 1 / 0
    with lease(workspace):
        pass


def test_a_folder_that_cannot_be_written_to_is_said_in_one_line(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    (tmp_path / "ws" / ".lock").mkdir()
    with pytest.raises(WorkspaceError, match=r"^cannot write in workspace \S+: Is a directory$"), lease(workspace):
        pass


def test_a_full_disk_does_not_hinder_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    workspace = Workspace(tmp_path / "ws")
    with lease(workspace), pytest.raises(CannotContinue, match="another process"), lease(workspace):
        pass


def test_a_killed_process_lets_go_of_a_folder_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom mit_builder.lease import lease\nfrom mit_builder.workspace import Workspace\n"
        "with lease(Workspace(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    root = Path(__file__).resolve().parent.parent
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=root, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(CannotContinue, match=f"process {process.pid} "), lease(Workspace(tmp_path)):
            pass
        process.kill()
    with lease(Workspace(tmp_path)):
        pass


def test_a_killed_run_on_object_storage_is_waited_for_until_its_time_is_over(
    in_memory: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mit_builder.lease, "EXPIRY_S", 0.5)
    hold(in_memory)
    said: list[str] = []
    started = time.monotonic()
    with lease(in_memory, said.append):
        assert time.monotonic() - started > 0.4
        assert holder(in_memory) != "process 7 on elsewhere"
    assert len(said) == 1
    assert "process 7 on elsewhere" in said[0]
    assert in_memory.names("lease-clock") == set()
    assert not in_memory.exists(KEY)


def test_a_lease_that_ran_out_long_ago_is_taken_at_once(in_memory: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mit_builder.lease, "EXPIRY_S", 0.05)
    hold(in_memory)
    time.sleep(0.1)
    said: list[str] = []
    with lease(in_memory, said.append):
        assert holder(in_memory) != "process 7 on elsewhere"
    assert said == []


def test_a_run_that_was_let_go_of_while_we_waited_is_no_hindrance(
    in_memory: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mit_builder.lease, "RENEW_S", 0.1)
    hold(in_memory)
    with lease(in_memory, lambda line: in_memory.delete([KEY])):
        assert holder(in_memory) != "process 7 on elsewhere"


def test_a_lease_is_renewed_while_it_is_held(in_memory: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mit_builder.lease, "RENEW_S", 0.01)
    with lease(in_memory):
        first = in_memory.read(KEY)
        deadline = time.monotonic() + 10
        while in_memory.read(KEY) == first and time.monotonic() < deadline:
            time.sleep(0.01)
        assert in_memory.read(KEY) != first


def work_while_another_takes_over(workspace: Workspace) -> None:
    with lease(workspace):
        hold(workspace)
        time.sleep(10)


def test_a_run_whose_lease_was_taken_over_stops_and_leaves_the_other_its_own(
    in_memory: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mit_builder.lease, "RENEW_S", 0.01)
    with pytest.raises(CannotContinue, match="took over"):
        work_while_another_takes_over(in_memory)
    assert holder(in_memory) == "process 7 on elsewhere"


def test_storage_that_fails_for_a_while_does_not_end_the_lease(
    in_memory: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mit_builder.lease, "RENEW_S", 0.01)
    put = obstore.put
    failures: list[int] = []

    def failing(*arguments: Any, **options: Any) -> Any:
        if len(failures) < 3 and options.get("mode") != "create":
            failures.append(1)
            raise obstore.exceptions.GenericError("no route to host")
        return put(*arguments, **options)

    with lease(in_memory):
        monkeypatch.setattr(obstore, "put", failing)
        first = in_memory.read(KEY)
        deadline = time.monotonic() + 10
        while in_memory.read(KEY) == first and time.monotonic() < deadline:
            time.sleep(0.01)
        assert in_memory.read(KEY) != first
    assert len(failures) == 3


def test_a_renewal_whose_answer_was_lost_is_recognised_as_our_own(
    in_memory: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mit_builder.lease, "RENEW_S", 0.01)
    with lease(in_memory):
        ours = json.loads(in_memory.read(KEY))
        obstore.put(in_memory.store, KEY, json.dumps(ours | {"renewed_at": 0.0}).encode())
        deadline = time.monotonic() + 10
        while json.loads(in_memory.read(KEY))["renewed_at"] == 0.0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert json.loads(in_memory.read(KEY))["nonce"] == ours["nonce"]
        assert json.loads(in_memory.read(KEY))["renewed_at"] > 0.0
    assert not in_memory.exists(KEY)
