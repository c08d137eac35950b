from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest

import mit_builder.storage.lease
import mit_builder.storage.object_store
from manifests.ids import new_run_id
from mit_builder.console import hints
from mit_builder.errors import CannotContinue, LeaseLost, WorkspaceError
from mit_builder.storage.lease import KEY, lease
from mit_builder.storage.object_store import put_if
from mit_builder.storage.workspace import Workspace


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
    monkeypatch.setattr(mit_builder.storage.lease, "RENEW_S", 0.02)
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
        "import sys, time\nfrom mit_builder.storage.lease import lease\n"
        "from mit_builder.storage.workspace import Workspace\n"
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
    monkeypatch.setattr(mit_builder.storage.lease, "EXPIRY_S", 0.5)
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
    monkeypatch.setattr(mit_builder.storage.lease, "EXPIRY_S", 0.05)
    hold(in_memory)
    time.sleep(0.1)
    said: list[str] = []
    with lease(in_memory, said.append):
        assert holder(in_memory) != "process 7 on elsewhere"
    assert said == []


def test_a_run_that_was_let_go_of_while_we_waited_is_no_hindrance(
    in_memory: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mit_builder.storage.lease, "RENEW_S", 0.1)
    hold(in_memory)
    with lease(in_memory, lambda line: in_memory.delete([KEY])):
        assert holder(in_memory) != "process 7 on elsewhere"


def test_a_lease_is_renewed_while_it_is_held(in_memory: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mit_builder.storage.lease, "RENEW_S", 0.01)
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
    monkeypatch.setattr(mit_builder.storage.lease, "RENEW_S", 0.01)
    with pytest.raises(CannotContinue, match="took over"):
        work_while_another_takes_over(in_memory)
    assert holder(in_memory) == "process 7 on elsewhere"


def test_storage_that_fails_for_a_while_does_not_end_the_lease(
    in_memory: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mit_builder.storage.lease, "RENEW_S", 0.01)
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
    monkeypatch.setattr(mit_builder.storage.lease, "RENEW_S", 0.01)
    with lease(in_memory):
        ours = json.loads(in_memory.read(KEY))
        obstore.put(in_memory.store, KEY, json.dumps(ours | {"renewed_at": 0.0}).encode())
        deadline = time.monotonic() + 10
        while json.loads(in_memory.read(KEY))["renewed_at"] == 0.0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert json.loads(in_memory.read(KEY))["nonce"] == ours["nonce"]
        assert json.loads(in_memory.read(KEY))["renewed_at"] > 0.0
    assert not in_memory.exists(KEY)


def let_go(workspace: Workspace) -> None:
    """Another run took over, ended and let go."""
    obstore.delete(workspace.store, KEY)


def works_on(workspace: Workspace) -> None:
    with lease(workspace):
        time.sleep(10)


@pytest.mark.parametrize("does", [hold, let_go])
@pytest.mark.parametrize("change", ["write", "replace", "commit", "delete"])
def test_nothing_is_changed_once_another_run_was_here(
    in_memory: Workspace, tmp_path: Path, change: str, does: Callable[[Workspace], None]
) -> None:
    in_memory.write("old", b"theirs")
    (tmp_path / "file").write_bytes(b"ours")
    changes: dict[str, Callable[[], object]] = {
        "write": lambda: in_memory.write("new", b"ours"),
        "replace": lambda: in_memory.write("old", b"ours"),
        "commit": lambda: in_memory.commit(tmp_path / "file", "new"),
        "delete": lambda: in_memory.delete(["old"]),
    }
    with lease(in_memory):
        does(in_memory)
        for _ in range(2):
            with pytest.raises(LeaseLost, match=r"meanwhile, while this one|took over this workspace while this one"):
                changes[change]()
    assert in_memory.names("") - {KEY} == {"old"}
    assert in_memory.read("old") == b"theirs"
    assert in_memory.exists(KEY) == (does is hold), "the lease of another stays"


def test_a_lease_that_is_gone_ends_the_run_at_its_next_renewal(
    in_memory: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mit_builder.storage.lease, "RENEW_S", 0.05)
    threading.Timer(0.2, let_go, [in_memory]).start()
    started = time.monotonic()
    with pytest.raises(LeaseLost, match=r"another run was in this workspace meanwhile.*to go on: mit-build run"):
        works_on(in_memory)
    assert time.monotonic() - started < 5


def test_in_another_thread_than_the_first_a_loss_is_learnt_at_the_next_change(
    in_memory: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mit_builder.storage.lease, "RENEW_S", 0.05)
    before, raised = signal.getsignal(signal.SIGUSR1), list[BaseException]()

    def works() -> None:
        hints.begin("talks")
        try:
            with lease(in_memory):
                in_memory.write("mine", b"ours")
                let_go(in_memory)
                time.sleep(0.3)
                in_memory.write("late", b"ours")
        except LeaseLost as error:
            raised.append(error)

    thread = threading.Thread(target=works)
    thread.start()
    thread.join()
    assert str(raised[0]).endswith("to go on: mit-build run --workspace talks")
    assert in_memory.names("") == {"mine"}
    assert signal.getsignal(signal.SIGUSR1) is before


@pytest.mark.parametrize("clock", ["boot", "day"])
def test_a_run_that_stood_still_for_longer_than_its_lease_lives_ends(
    in_memory: Workspace, monkeypatch: pytest.MonkeyPatch, clock: str
) -> None:
    slept_s, now_s = [0.0, 0.0], mit_builder.storage.lease._now_s
    monkeypatch.setattr(
        mit_builder.storage.lease, "_now_s", lambda: tuple(map(sum, zip(now_s(), slept_s, strict=True)))
    )
    monkeypatch.setattr(mit_builder.storage.lease, "RENEW_S", 0.3)
    threading.Timer(0.1, slept_s.__setitem__, [["boot", "day"].index(clock), 600.0]).start()
    with pytest.raises(
        LeaseLost, match="stood still for 600 s, longer than it may hold the workspace: to go on: mit-build run"
    ):
        works_on(in_memory)
    assert not in_memory.exists(KEY)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_the_renewal_ends_the_run(in_memory: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mit_builder.storage.lease, "RENEW_S", 0.05)
    monkeypatch.setattr(mit_builder.storage.lease._ObjectLease, "_problem_of", lambda *arguments: 1 / 0)
    with pytest.raises(LeaseLost, match="could not renew its hold on the workspace"):
        works_on(in_memory)


def test_storage_that_is_away_for_longer_than_the_lease_lives_is_waited_for(
    in_memory: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mit_builder.storage.lease, "RENEW_S", 0.02)
    monkeypatch.setattr(mit_builder.storage.lease, "EXPIRY_S", 0.5)
    back_s = time.monotonic() + 1.0

    def away(*arguments: Any, **options: Any) -> Any:
        if time.monotonic() < back_s:
            raise obstore.exceptions.GenericError("no route to host")
        return put_if(*arguments, **options)

    with lease(in_memory):
        monkeypatch.setattr(mit_builder.storage.lease, "put_if", away)
        time.sleep(1.2)
        in_memory.write("new", b"1")
    assert in_memory.read("new") == b"1"


class Nap:
    """The program is stopped just before a request to write, and others have the workspace meanwhile."""

    def __init__(self, workspace: Workspace, patch: pytest.MonkeyPatch, meanwhile: Callable[[], object]) -> None:
        self._workspace, self._meanwhile, self._slept_s, self._now_s = (
            workspace,
            meanwhile,
            0.0,
            mit_builder.storage.lease._now_s,
        )
        patch.setattr(
            mit_builder.storage.lease, "_now_s", lambda: tuple(now_s + self._slept_s for now_s in self._now_s())
        )
        patch.setattr(mit_builder.storage.object_store, "put_if", self.put_if)

    def put_if(self, *arguments: Any) -> Any:
        if not self._slept_s:
            self._slept_s = 600.0
            let_go(self._workspace)
            self._meanwhile()
        return put_if(*arguments)


def test_what_another_run_wrote_is_not_replaced_after_a_nap(
    in_memory: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory.write("index", b"before")
    other = Workspace(in_memory.uri)
    with lease(in_memory):
        Nap(in_memory, monkeypatch, lambda: other.write("index", b"theirs"))
        with pytest.raises(LeaseLost):
            in_memory.write("index", b"ours")
    assert in_memory.read("index") == b"theirs"


def test_a_new_object_that_was_written_after_a_nap_is_taken_back(
    in_memory: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lease(in_memory):
        Nap(in_memory, monkeypatch, lambda: None)
        with pytest.raises(LeaseLost):
            in_memory.write("manifests/pose/part-1.parquet", b"ours")
    assert in_memory.names("") == set()


def test_how_a_lease_was_lost_stays_what_the_renewal_found_also_while_somebody_asks(
    in_memory: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lease(in_memory):
        held: Any = in_memory.hold
        look = held._look

        def meanwhile(*arguments: Any) -> Any:
            held._problem = "this run stood still"
            return look(*arguments)

        monkeypatch.setattr(held, "_look", meanwhile)
        for _ in range(2):
            with pytest.raises(LeaseLost, match=r"^this run stood still$"):
                held.confirm()
        monkeypatch.undo()


def test_a_lock_that_was_deleted_is_lost(tmp_path: Path) -> None:
    ours, other = Workspace(tmp_path), Workspace(tmp_path)
    with lease(ours):
        ours.write("a", b"1")
        (tmp_path / ".lock").unlink()
        with pytest.raises(LeaseLost, match=r"lost its lock \S+/\.lock: another run was in this workspace"):
            ours.write("b", b"1")
        with lease(other):
            other.write("c", b"1")
            with pytest.raises(LeaseLost):
                ours.delete(["a"])
    assert ours.names("") >= {"a", "c"}
    assert not ours.exists("b")
    ours.write("b", b"1")
