"""One run at a time in a workspace, and none that does not know that it is the one.

A local workspace is held by a file lock, which the kernel drops with the process. On object storage the lease is an
object created only if absent and renewed by compare-and-swap; one that was not renewed for `EXPIRY_S` is taken over.
A driver that is started right after a kill waits for that time; beside a live one it gives up at its next renewal.

Whoever holds a workspace may be stopped for longer than that (a closed laptop, a paused virtual machine, Ctrl-Z) or cut
off, and must notice that others may have been here: a lease that is gone or another's is lost, and so is one whose
holder stood still for longer than its life. Storage that does not answer is waited for instead: nothing can be written
to it, and where the lease is unchanged afterwards, to the byte, nobody was here. Every change asks first
(`Workspace.write`, `commit`, `delete`), and one that took long asks again.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO, Any, Literal

import obstore

from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.console.terminal import hears_signals
from mit_builder.errors import CannotContinue, LeaseLost, WorkspaceError
from mit_builder.storage.object_store import Changed, Version, first_line, persistently, put_if, version_of
from mit_builder.storage.workspace import Workspace

KEY = "lease.json"
CLOCK = "lease-clock"
"""Below it lie, for a moment, objects whose time of writing tells what time it is."""
RENEW_S = 15.0
EXPIRY_S = 60.0
_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Goes on while the machine sleeps; where there is no other, that of macOS does."""
_HERE = "another run was in this workspace meanwhile"


def _again() -> str:
    return f"to go on: {hints.say(Hint.AGAIN)}"


@contextmanager
def lease(workspace: Workspace, on_wait: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Hold the workspace while the context is open: this object of it changes nothing once that is lost.

    Args:
        workspace: what to hold.
        on_wait: called with a line where the holder may be dead and its time is waited for.

    Raises:
        CannotContinue: another run holds it.
        LeaseLost: it took it over in between.
        WorkspaceError: it cannot be written to.
    """
    if workspace.root is not None:
        with _file_lock(workspace.root) as lock:
            workspace.hold = lock
            try:
                yield
            finally:
                workspace.hold = None
        return
    try:
        held = _ObjectLease(workspace, on_wait)
    except (obstore.exceptions.BaseError, OSError) as error:
        raise WorkspaceError(f"cannot take hold of workspace {workspace.uri}: {first_line(error)}") from error
    workspace.hold = held
    with _told_by_signal(held) if hears_signals() else nullcontext():
        held.start()
        try:
            yield
        finally:
            if hears_signals():
                signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            held.release()
            workspace.hold = None


@contextmanager
def _told_by_signal(held: _ObjectLease) -> Iterator[None]:
    """A loss ends whatever the driver is at; in other threads than the first, its next change of the workspace does."""
    # A signal of its own: SIGINT is ignored by programs that a shell started in the background.
    before = signal.signal(signal.SIGUSR1, held.on_loss)
    held.tells_main_thread = True
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


class _FileLease:
    """A lock on `.lock`. Locks of network file systems can be lost as well, and files can be deleted by people."""

    is_fresh = True

    def __init__(self, path: Path, file: IO[str]) -> None:
        self._path, self._file = path, file

    def confirm(self) -> None:
        """See `Hold`."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except OSError:
            is_ours = False
        if not is_ours:
            raise LeaseLost(f"this run lost its lock {self._path}: {_HERE}, or the file was deleted: {_again()}")


@contextmanager
def _file_lock(root: Path) -> Iterator[_FileLease]:
    path = root / ".lock"
    try:
        opened = path.open("a+")
    except OSError as error:
        raise WorkspaceError(f"cannot write in workspace {root}: {error.strerror}") from error
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise CannotContinue(_taken(file.read() or "another process")) from error
        file.truncate(0)
        with suppress(OSError):  # a full disk: the lock holds without the name of its holder
            os.write(file.fileno(), _holder().encode())
        yield _FileLease(path, file)


def _holder() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _taken(holder: str) -> str:
    return f"another run uses this workspace ({holder}): wait for it, stop it, or choose another --workspace"


def _now_s() -> tuple[float, float]:
    """The time by two clocks: one goes on while the machine sleeps, one is set after a virtual machine's pause."""
    return time.clock_gettime(_BOOT_CLOCK), time.time()


def _passed_s(since_s: tuple[float, float]) -> float:
    return max(now_s - then_s for now_s, then_s in zip(_now_s(), since_s, strict=True))


@dataclass(frozen=True)
class _Found:
    """The lease as it lies there."""

    nonce: str
    holder: str
    version: Version


class _ObjectLease:
    """An object that names us, until it is gone or names another run."""

    def __init__(self, workspace: Workspace, on_wait: Callable[[str], None]) -> None:
        self._problem: str | None = None
        """How it was lost."""
        self.tells_main_thread = False
        self._store = workspace.impatient_store()
        self._patient_store = workspace.store
        self._nonce = secrets.token_hex(8)
        self._stop = threading.Event()
        self._asking = threading.Lock()
        self._renewed_at_s = _now_s()
        """When the last request was made that renewed it."""
        self._version = self._acquire(on_wait).version
        self._thread = threading.Thread(target=copy_context().run, args=(self._keep,), daemon=True)

    def start(self) -> None:
        """Renew it from now on."""
        self._thread.start()

    def _body(self) -> bytes:
        return json.dumps({"nonce": self._nonce, "holder": _holder(), "renewed_at": time.time()}).encode()

    def _acquire(self, on_wait: Callable[[str], None]) -> _Found:
        """Take the lease; where another run has it, wait until that renews it or its time is over."""
        found, said = self._create(), False
        while found.nonce != self._nonce:
            left_s = EXPIRY_S - self._age_s()
            if left_s <= 0:
                found = persistently(partial(self._claim, found.version)) or self._create()
                if found.nonce != self._nonce:
                    raise CannotContinue(_taken(found.holder))
                continue
            if not said:
                on_wait(f"this workspace was in use ({found.holder}): it is free in {left_s:.0f} s if that run is dead")
                said = True
            time.sleep(min(left_s, RENEW_S / 5))
            now = self._look() or self._create()
            if now.nonce not in (found.nonce, self._nonce) or (now.nonce == found.nonce and now != found):
                raise CannotContinue(_taken(now.holder))
            found = now
        return found

    def _create(self) -> _Found:
        """Put our name where none stands; whoever stands there now."""

        def create() -> _Found:
            found = self._claim("create")
            if found is None:
                raise obstore.exceptions.GenericError("another run let go of the workspace just now")
            return found

        return persistently(create)

    def _claim(self, mode: Version | Literal["create"]) -> _Found | None:
        """Put our name in the place of just what stood there; who stands there now, None where nobody does.

        A name whose answer was lost is recognised by its nonce.
        """
        asked_at_s = _now_s()
        try:
            version = put_if(self._store, KEY, self._body(), mode)
        except Changed:
            return self._look()
        self._renewed_at_s = asked_at_s
        return _Found(self._nonce, _holder(), version)

    def _look(self, store: Any = None) -> _Found | None:
        def read() -> _Found:
            got = obstore.get(store or self._store, KEY)
            body = json.loads(bytes(got.bytes()))
            return _Found(body["nonce"], body["holder"], version_of(got.meta))

        try:
            return persistently(read)
        except FileNotFoundError:
            return None

    def _age_s(self) -> float:
        """Since the lease was renewed, by the clock of the storage: those of two machines may differ."""
        probe = f"{CLOCK}/{self._nonce}"
        persistently(lambda: obstore.put(self._store, probe, b"", use_multipart=False))
        try:
            now, then = (persistently(partial(obstore.head, self._store, key)) for key in (probe, KEY))
        except FileNotFoundError:
            return 0.0
        finally:
            persistently(lambda: obstore.delete(self._store, probe))
        return float((now["last_modified"] - then["last_modified"]).total_seconds())

    def _keep(self) -> None:
        """Renew it until the run ends, or end the run: also where this fails in a way that nobody thought of."""
        problem: str | None = "this run could not renew its hold on the workspace (a bug of mit-build)"
        try:
            problem = self._until_lost()
        finally:
            if problem:
                self._problem = problem
                if (
                    self.tells_main_thread
                ):  # a signal, because the driver may be waiting in a call that looks at no flag
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def _until_lost(self) -> str | None:
        """Why it is lost; None where the run ends first."""
        since_s = _now_s()
        while not self._stop.wait(RENEW_S):
            stood_s = _passed_s(since_s)
            if stood_s > EXPIRY_S:
                return f"this run stood still for {stood_s:.0f} s, longer than it may hold the workspace: {_again()}"
            try:
                with self._asking:
                    problem = self._problem_of(self._claim(self._version))
            except (obstore.exceptions.BaseError, OSError):
                problem = None  # out of touch: the next turn tries again
            if problem:
                return problem
            since_s = _now_s()
        return None

    def _problem_of(self, found: _Found | None) -> str | None:
        """Remember the version of the lease that was found there; why it is lost, or None."""
        if found is None:
            return f"{_HERE}, while this one was stopped or out of touch: {_again()}"
        if found.nonce != self._nonce:
            return f"another run ({found.holder}) took over this workspace while this one was stopped or out of touch"
        self._version = found.version
        return None

    def on_loss(self, number: int, frame: FrameType | None) -> None:
        """End whatever the driver is at."""
        raise LeaseLost(self._problem or "somebody sent SIGUSR1")

    @property
    def is_fresh(self) -> bool:
        """See `Hold`; well before its end, because storage counts in whole seconds."""
        return _passed_s(self._renewed_at_s) < EXPIRY_S / 2

    def confirm(self) -> None:
        """See `Hold`."""
        if self._problem is None:
            with self._asking:
                problem = self._problem_of(self._asked_now())
                self._problem = self._problem or problem  # what the renewing thread has found meanwhile stays
        if self._problem is not None:
            raise LeaseLost(self._problem)

    def _asked_now(self) -> _Found | None:
        """The lease as it lies there; renewed where its time may be over, so that nobody takes it after the answer."""
        if self.is_fresh:
            return self._look(self._patient_store)
        return persistently(partial(self._claim, self._version))

    def release(self) -> None:
        """Give the lease up, unless another run has it by now; where storage is away it runs out by itself."""
        self._stop.set()
        self._thread.join()
        with suppress(obstore.exceptions.BaseError, OSError):
            found = self._look()
            if found and found.nonce == self._nonce:
                persistently(lambda: obstore.delete(self._store, KEY))
