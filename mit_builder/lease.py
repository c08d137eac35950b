"""One run at a time in a workspace.

A local workspace is held by a file lock, which the kernel drops with the process. On object storage the lease is an
object created only if absent and renewed by compare-and-swap; one that was not renewed for `EXPIRY_S` is taken over.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import obstore

from mit_builder.errors import CannotContinue
from mit_builder.workspace import Workspace

KEY = "lease.json"
RENEW_S = 15.0
EXPIRY_S = 60.0


@contextmanager
def lease(workspace: Workspace) -> Iterator[None]:
    """Hold the workspace while the context is open.

    Raises:
        CannotContinue: another run holds it.
    """
    if workspace.root is not None:
        with _file_lock(workspace.root):
            yield
        return
    held = _ObjectLease(workspace)
    try:
        yield
    finally:
        held.release()


@contextmanager
def _file_lock(root: Path) -> Iterator[None]:
    with (root / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise CannotContinue(_taken(file.read() or "another process")) from error
        file.truncate(0)
        file.write(_holder())
        file.flush()
        yield


def _holder() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _taken(holder: str) -> str:
    return f"another run uses this workspace ({holder}): wait for it, stop it, or choose another --workspace"


class _ObjectLease:
    def __init__(self, workspace: Workspace) -> None:
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
            self._tag = obstore.put(self._store, KEY, self._body(), mode={"e_tag": self._tag})["e_tag"]

    def release(self) -> None:
        self._stop.set()
        self._thread.join()
        obstore.delete(self._store, KEY)
