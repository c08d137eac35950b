"""The workspace: where every artifact, ledger part and shard lies. The only door to storage.

A workspace is a folder or a URI (`s3://bucket/prefix`, `gs://`, `az://`, `memory://name`). Nothing outside this module
may assume that storage can rename or append: files become visible only through `Workspace.commit`, whole.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import obstore
from obstore.store import LocalStore, MemoryStore, from_url

from manifests.rows import Artifact
from mit_builder.errors import CannotContinue, ConfigError, WorkspaceError

FOLDERS = ("videos", "tracks", "clips", "poses", "speech", "dataset")
"""Folders that artifacts may be committed to."""
SCRATCH = ".scratch"
"""Folder of a local workspace in which unfinished files lie (same file system, so that a rename suffices)."""

PARTIAL = ".partial"
"""Folder in which what later attempts can go on with outlives a run."""
KEEP_PARTIAL_S = 2 * 24 * 3600
"""Older parts are not gone on with: a list that fails for days must not fill the disk."""

_memory: dict[str, MemoryStore] = {}


class Workspace:
    """Storage below one root.

    Args:
        uri: a folder, created when missing, or a URI of object storage.

    Raises:
        ConfigError: the folder cannot be made or the URI is not understood.
    """

    def __init__(self, uri: str | Path) -> None:
        text = str(uri)
        self.root: Path | None = None
        try:
            if text.startswith("memory://"):
                self.store: Any = _memory.setdefault(text, MemoryStore())
            elif "://" in text:
                self.store = from_url(text)
            else:
                self.root = Path(text).expanduser().resolve()
                self.store = LocalStore(self.root, mkdir=True)
        except (OSError, ValueError, obstore.exceptions.BaseError) as error:
            raise ConfigError(f"cannot use workspace {text}: {str(error).splitlines()[0]}") from error
        self.uri = text if self.root is None else str(self.root)

    def scratch(self, run_id: str) -> Path:
        """A folder on local disk for the unfinished files of one run; workers make subfolders of their own."""
        base = self.root / SCRATCH if self.root else _temporary()
        folder = base / run_id
        with self._writing(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def partial(self, name: str) -> Path:
        """A folder on local disk that outlives a run, for the unfinished files of one unit."""
        folder = self._partials() / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def drop_partial(self, name: str) -> None:
        """Remove the unfinished files of a unit, if there are any."""
        shutil.rmtree(self._partials() / name, ignore_errors=True)

    def _partials(self) -> Path:
        digest = hashlib.sha256(self.uri.encode()).hexdigest()
        return self.root / PARTIAL if self.root else _temporary() / PARTIAL / digest

    def sweep(self, *, keep_partial_s: float = KEEP_PARTIAL_S) -> None:
        """Remove what killed runs left unfinished; only while no other run holds the lease."""
        if self.root:
            shutil.rmtree(self.root / SCRATCH, ignore_errors=True)
        partials = self._partials()
        for folder in partials.iterdir() if partials.is_dir() else ():
            if time.time() - folder.stat().st_mtime >= keep_partial_s:
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, obstore.exceptions.BaseError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise WorkspaceError(f"cannot write {what} in workspace {self.uri}: {reason}") from error

    def commit(self, path: Path, key: str) -> Artifact:
        """Put the finished local file `path` in place as `key`, whole or not at all, and remove it from where it was.

        Committing again what is there already changes nothing; other bytes under the same key replace the file.

        Raises:
            WorkspaceError: the workspace does not take it.
        """
        artifact = Artifact(key=key, sha256=sha256_of(path), n_bytes=path.stat().st_size)
        with self._writing(key):
            if self.root:
                _move_durably(path, self.root / key)
            else:
                obstore.put(self.store, key, path)
        if not self.root:
            path.unlink()
        return artifact

    @contextmanager
    def local(self, key: str) -> Iterator[Path]:
        """The object as a local file while the context is open.

        Raises:
            FileNotFoundError: there is no such object.
        """
        if self.root:
            path = self.root / key
            if not path.exists():
                raise FileNotFoundError(key)
            yield path
            return
        with tempfile.TemporaryDirectory(prefix="mit-build-") as folder:
            path = Path(folder) / Path(key).name
            with path.open("wb") as file:
                for chunk in obstore.get(self.store, key).stream():
                    file.write(chunk)
            yield path

    def read(self, key: str) -> bytes:
        """The object's bytes.

        Raises:
            FileNotFoundError: there is no such object.
        """
        return bytes(obstore.get(self.store, key).bytes())

    def write(self, key: str, data: bytes) -> None:
        """Put a small object in place, replacing what was there.

        Raises:
            WorkspaceError: the workspace does not take it.
        """
        if self.root is None:
            with self._writing(key):
                obstore.put(self.store, key, data)
            return
        path = self.scratch("write") / f"{os.getpid()}-{secrets.token_hex(4)}"
        try:
            with self._writing(key):
                path.write_bytes(data)
                _move_durably(path, self.root / key)
        except WorkspaceError:
            with suppress(OSError):
                path.unlink()
            raise

    def names(self, folder: str) -> set[str]:
        """Keys of all objects below a folder."""
        return {meta["path"] for batch in obstore.list(self.store, prefix=folder) for meta in batch}

    def stamps(self, folder: str) -> dict[str, str]:
        """What changes when the bytes of an object do, by key: its size and its entity tag."""
        found = (meta for batch in obstore.list(self.store, prefix=folder) for meta in batch)
        return {meta["path"]: f"{meta['size']} {meta['e_tag'] or meta['last_modified']}" for meta in found}

    def folder_time_ns(self, folder: str) -> int | None:
        """When a file came into a folder or left it; None where storage has no folders."""
        if self.root is None:
            return None
        path = self.root / folder
        return path.stat().st_mtime_ns if path.is_dir() else 0

    def exists(self, key: str) -> bool:
        """Whether there is an object of this name."""
        try:
            obstore.head(self.store, key)
        except FileNotFoundError:
            return False
        return True

    def delete(self, keys: list[str]) -> None:
        """Remove objects; one that is gone already is no error."""
        for key in keys:
            try:
                obstore.delete(self.store, key)
            except FileNotFoundError:
                continue

    def check_space(self, min_free_gb: float) -> None:
        """Raise `CannotContinue` when the workspace's disk is nearly full (local workspaces only)."""
        if self.root is None:
            return
        free_gb = shutil.disk_usage(self.root).free / 1e9
        if free_gb < min_free_gb:
            raise CannotContinue(
                f"only {free_gb:.1f} GB free on the disk of {self.uri}: free some, run mit-build gc, "
                f"or lower --set run.min_free_gb={min_free_gb:g}"
            )


def _temporary() -> Path:
    """Of this user, where the workspace is not on a local disk."""
    return Path(tempfile.gettempdir()) / f"mit-build-{os.getuid()}"


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _move_durably(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    _fsync(path)
    os.replace(path, target)
    _fsync(target.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
