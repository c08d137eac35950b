"""One run at a time in a workspace.

A local workspace is held by a file lock, which the kernel drops with the process. On object storage the lease is an
object created only if absent and renewed by compare-and-swap; one that was not renewed for `EXPIRY_S` is taken over.
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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import obstore

from mit_builder.errors import CannotContinue, WorkspaceError
from mit_builder.workspace import Workspace

KEY = "lease.json"
RENEW_S = 15.0
EXPIRY_S = 60.0


@contextmanager
def lease(workspace: Workspace) -> Iterator[None]:
    """Hold the workspace while the context is open.

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
    held = _ObjectLease(workspace)
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


class _ObjectLease:
    """An object that names us; `lost` once it names another run."""

    def __init__(self, workspace: Workspace) -> None:
        self.lost = False
        self._store = workspace.store
        self._nonce = secrets.token_hex(8)
        self._stop = threading.Event()
        self._tag = self._acquire()
        self._thread = threading.Thread(target=self._renew_until_stopped, daemon=True)
        self._thread.start()

    def _body(self) -> bytes:
        return json.dumps({"nonce": self._nonce, "holder": _holder(), "renewed_at": time.time()}).encode()

    def _acquire(self) -> Any:
        try:
            return obstore.put(self._store, KEY, self._body(), mode="create")["e_tag"]
        except obstore.exceptions.AlreadyExistsError:
            found = obstore.get(self._store, KEY)
            tag, other = found.meta["e_tag"], json.loads(bytes(found.bytes()))
        # A create that was applied but whose answer was lost comes back as "already exists", with our own nonce.
        if other["nonce"] == self._nonce:
            return tag
        if time.time() - other["renewed_at"] < EXPIRY_S:
            raise CannotContinue(_taken(other["holder"]))
        try:
            return obstore.put(self._store, KEY, self._body(), mode={"e_tag": tag})["e_tag"]
        except obstore.exceptions.PreconditionError as error:
            raise CannotContinue(_taken("another run took it over just now")) from error

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
        try:
            self._tag = obstore.put(self._store, KEY, self._body(), mode={"e_tag": self._tag})["e_tag"]
        except obstore.exceptions.PreconditionError:
            self.lost = not self._refresh_tag()

    def _refresh_tag(self) -> bool:
        """Whether the lease is ours: a renewal that was applied but whose answer was lost looks like another's."""
        try:
            found = obstore.get(self._store, KEY)
        except FileNotFoundError:
            return False
        self._tag = found.meta["e_tag"]
        return bool(json.loads(bytes(found.bytes()))["nonce"] == self._nonce)

    def release(self) -> None:
        """Give the lease up, unless another run has it by now."""
        self._stop.set()
        self._thread.join()
        if not self.lost and self._refresh_tag():
            obstore.delete(self._store, KEY)
