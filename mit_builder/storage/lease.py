"""One run at a time in a workspace.

A local workspace is held by a file lock, which the kernel drops with the process. On object storage the lease is an
object created only if absent and renewed by compare-and-swap; one that was not renewed for `EXPIRY_S` is taken over.
A driver that is started right after a kill waits for that time; beside a live one it gives up at its next renewal.
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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import obstore

from mit_builder.errors import CannotContinue, WorkspaceError
from mit_builder.object_store import first_line, persistently
from mit_builder.workspace import Workspace

KEY = "lease.json"
CLOCK = "lease-clock"
"""Below it lie, for a moment, objects whose time of writing tells what time it is."""
RENEW_S = 15.0
EXPIRY_S = 60.0


@contextmanager
def lease(workspace: Workspace, on_wait: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Hold the workspace while the context is open.

    Args:
        workspace: what to hold.
        on_wait: called with a line where the holder may be dead and its time is waited for.

    Raises:
        CannotContinue: another run holds it, or took it over in between.
        WorkspaceError: it cannot be written to.
    """
    if workspace.root is not None:
        with _file_lock(workspace.root):
            yield
        return
    # A signal of its own: SIGINT is ignored by programs that a shell started in the background.
    before = signal.signal(signal.SIGUSR1, _on_loss)
    try:
        held = _ObjectLease(workspace, on_wait)
    except (obstore.exceptions.BaseError, OSError) as error:
        raise WorkspaceError(f"cannot take hold of workspace {workspace.uri}: {first_line(error)}") from error
    try:
        yield
    finally:
        held.release()
        signal.signal(signal.SIGUSR1, before)


def _on_loss(number: int, frame: FrameType | None) -> None:
    raise CannotContinue("another run took over this workspace while this one could not reach it")


@contextmanager
def _file_lock(root: Path) -> Iterator[None]:
    try:
        opened = (root / ".lock").open("a+")
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
        yield


def _holder() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _taken(holder: str) -> str:
    return f"another run uses this workspace ({holder}): wait for it, stop it, or choose another --workspace"


@dataclass(frozen=True)
class _Found:
    """The lease as it lies there."""

    nonce: str
    holder: str
    tag: Any


class _ObjectLease:
    """An object that names us; `lost` once it names another run."""

    def __init__(self, workspace: Workspace, on_wait: Callable[[str], None]) -> None:
        self.lost = False
        self._store = workspace.impatient_store()
        self._nonce = secrets.token_hex(8)
        self._stop = threading.Event()
        self._tag = self._acquire(on_wait).tag
        self._thread = threading.Thread(target=self._renew_until_stopped, daemon=True)
        self._thread.start()

    def _body(self) -> bytes:
        return json.dumps({"nonce": self._nonce, "holder": _holder(), "renewed_at": time.time()}).encode()

    def _acquire(self, on_wait: Callable[[str], None]) -> _Found:
        """Take the lease; where another run has it, wait until that renews it or its time is over."""
        found, said = persistently(lambda: self._claim("create")), False
        while found.nonce != self._nonce:
            left_s = EXPIRY_S - self._age_s()
            if left_s <= 0:
                found = persistently(partial(self._claim, {"e_tag": found.tag}))
                if found.nonce != self._nonce:
                    raise CannotContinue(_taken(found.holder))
                continue
            if not said:
                on_wait(f"this workspace was in use ({found.holder}): it is free in {left_s:.0f} s if that run is dead")
                said = True
            time.sleep(min(left_s, RENEW_S / 5))
            now = self._look() or persistently(lambda: self._claim("create"))
            if now.nonce not in (found.nonce, self._nonce) or (now.nonce == found.nonce and now.tag != found.tag):
                raise CannotContinue(_taken(now.holder))
            found = now
        return found

    def _claim(self, mode: Any) -> _Found:
        """Put our name there; whoever stands there now. A name whose answer was lost is recognised by its nonce."""
        try:
            tag = obstore.put(self._store, KEY, self._body(), mode=mode)["e_tag"]
        except (obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError):
            found = self._look()
        else:
            return _Found(self._nonce, _holder(), tag)
        if found is None:
            raise obstore.exceptions.GenericError("another run let go of the workspace just now")
        return found

    def _look(self) -> _Found | None:
        def read() -> _Found:
            got = obstore.get(self._store, KEY)
            body = json.loads(bytes(got.bytes()))
            return _Found(body["nonce"], body["holder"], got.meta["e_tag"])

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

    def _renew_until_stopped(self) -> None:
        while not self._stop.wait(RENEW_S):
            try:
                self._renew()
            except (obstore.exceptions.BaseError, OSError):
                continue  # out of touch: the next turn tries again
            if self.lost:
                # A signal, because the driver may be waiting in a call that looks at no flag.
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                return

    def _renew(self) -> None:
        found = self._claim({"e_tag": self._tag})
        self._tag, self.lost = found.tag, found.nonce != self._nonce

    def release(self) -> None:
        """Give the lease up, unless another run has it by now; where storage is away it runs out by itself."""
        self._stop.set()
        self._thread.join()
        with suppress(obstore.exceptions.BaseError, OSError):
            found = None if self.lost else self._look()
            if found and found.nonce == self._nonce:
                persistently(lambda: obstore.delete(self._store, KEY))
