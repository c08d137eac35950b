"""The workspace: where every artifact, ledger part and shard lies. The only door to storage.

A workspace is a folder or a URI (`s3://bucket/prefix`, `gs://`, `az://`, `memory://name`; see `object_store`). Nothing
outside this module may assume that storage can rename or append: files become visible only through
`Workspace.commit`, whole.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import obstore
from obstore.store import LocalStore, MemoryStore

from manifests.ledger import DAMAGED
from manifests.rows import Artifact
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.errors import CannotContinue, ConfigError, DamagedError, WorkspaceError
from mit_builder.storage.local_files import files_below, holds_other_things, move_durably
from mit_builder.storage.object_store import (
    ATTEMPTS,
    Hold,
    drop,
    first_line,
    is_remote,
    open_store,
    persistently,
    put_held,
)
from mit_builder.storage.scratch import KEEP_PARTS_S, NO_FILE, PARTIAL, SCRATCH, Digests, Scratch, put_away, sha256_of

FOLDERS = ("videos", "tracks", "clips", "poses", "speech", "dataset")
"""Folders that artifacts may be committed to."""
ASIDE = f"{DAMAGED}/files"
"""Folder for artifacts that were not what the ledger promises, for people to look at until `mit-build gc`."""
LONGEST_LIST = 1000
"""Keys that are listed or deleted by one request: S3 allows as many."""

_memory: dict[str, MemoryStore] = {}
T = TypeVar("T")


class Workspace:
    """Storage below one root.

    Args:
        uri: a folder or a URI of object storage.
        create: make the folder when it is missing.
        scratch_gb: where storage is remote, how much of this machine's disk its files may take.

    Attributes:
        hold: the lease of this program (lease.py): without it nothing is changed here. None where it has
            none: workers, which commit under names that say what is in them, and readers.

    Raises:
        ConfigError: the folder cannot be made or the URI is not understood.
    """

    def __init__(self, uri: str | Path, *, create: bool = True, scratch_gb: float = 50.0) -> None:
        text = str(uri)
        self.root: Path | None = None
        self.hold: Hold | None = None
        self.store: Any
        if text.startswith("memory://"):
            self.store = _memory.setdefault(text, MemoryStore())
        elif is_remote(text):
            self.store = open_store(text)
        else:
            try:
                self.root = Path(text).expanduser().resolve()
                self.store = LocalStore(self.root, mkdir=create)
            except (OSError, ValueError, obstore.exceptions.BaseError) as error:
                raise ConfigError(f"cannot use workspace {text}: {first_line(error)}") from error
        self.uri = text if self.root is None else str(self.root)
        self._scratch = Scratch(self.uri, self.root, scratch_gb)
        self._digests = Digests()

    def check_reachable(self, *, patient: bool = False) -> None:
        """Look at the storage once.

        Args:
            patient: as requests of a run are, which an outage of minutes does not end; else with an answer in seconds.

        Raises:
            WorkspaceError: it does not answer, or there is no such bucket.
        """
        if self.root is not None:
            return
        store, attempts = (self.store, ATTEMPTS) if patient else (self.impatient_store(), 2)
        try:
            persistently(
                lambda: next(iter(obstore.list(store, prefix="dataset", chunk_size=1)), None), attempts=attempts
            )
        except (OSError, obstore.exceptions.BaseError) as error:
            raise WorkspaceError(f"cannot reach workspace {self.uri}: {first_line(error)}") from error

    def impatient_store(self) -> Any:
        """The same storage, for requests that are better repeated later than waited for."""
        with_patience = self.root is not None or self.uri.startswith("memory://")
        return self.store if with_patience else open_store(self.uri, patient=False)

    def is_there(self, run_id: str) -> bool:
        """Whether this is the workspace of a run that goes on, and no folder of the same name on another machine."""
        return self.root is None or (self.root / SCRATCH / run_id).is_dir()

    def scratch(self, run_id: str) -> Path:
        """A folder on local disk for the unfinished files of a run; see `own` for those of one process."""
        with self._writing(run_id):
            return self._scratch.run(run_id)

    @contextmanager
    def own(self, run_id: str) -> Iterator[Path]:
        """An empty folder on local disk for unfinished files of this process, removed afterwards."""
        with ExitStack() as stack:
            with self._writing(run_id):
                folder = stack.enter_context(self._scratch.own(run_id))
            yield folder

    def partial(self, name: str) -> Path:
        """A folder on local disk that outlives a run, for the unfinished files of one unit."""
        folder = self._scratch.partial(name)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def drop_partial(self, name: str) -> None:
        """Remove the unfinished files of a unit, if there are any; what cannot be removed is swept later."""
        shutil.rmtree(self._scratch.base / PARTIAL / name, ignore_errors=True)

    def sweep(self, *, keep_partial_s: float = KEEP_PARTS_S) -> None:
        """Remove what killed runs left unfinished; only while no other run holds the lease."""
        self._scratch.sweep(keep_partial_s)

    def leave(self, run_id: str) -> None:
        """Remove a run's local files at its end; workers must be gone."""
        self._scratch.leave(run_id)

    def sweep_dead(self) -> None:
        """Remove what killed processes of this machine left unfinished; at any time, for remote storage."""
        if self.root is None:
            self._scratch.sweep_dead()

    def _confirm(self) -> None:
        if self.hold is not None:
            self.hold.confirm()

    @contextmanager
    def _writing(self, what: str, verb: str = "write") -> Iterator[None]:
        try:
            yield
        except (OSError, obstore.exceptions.BaseError) as error:
            raise WorkspaceError(f"cannot {verb} {what} in workspace {self.uri}: {first_line(error)}") from error

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        try:
            yield
        except obstore.exceptions.BaseError as error:
            raise WorkspaceError(f"cannot read {what} in workspace {self.uri}: {first_line(error)}") from error

    def commit(self, path: Path, key: str) -> Artifact:
        """Put the finished local file `path` in place as `key`, whole or not at all, and remove it from where it was.

        Committing again what is there already changes nothing; other bytes under the same key replace the file.

        Raises:
            WorkspaceError: the workspace does not take it.
        """
        artifact = Artifact(key=key, sha256=sha256_of(path), n_bytes=path.stat().st_size)
        self._confirm()
        with self._writing(key):
            if self.root:
                move_durably(path, self.root / key)
            else:
                persistently(lambda: obstore.put(self.store, key, path), may_be_missing=False)
        if not self.root:
            path.unlink()
        return artifact

    @contextmanager
    def artifact(self, artifact: Artifact) -> Iterator[Path]:
        """An artifact as a local file, not to be written to, while the context is open.

        Its size is compared with what was promised each time, its digest once in a process while it stays as it is. A
        remote one stays on this machine as long as there is room.

        Raises:
            DamagedError: it is gone, or its content is another.
            WorkspaceError: storage does not answer, or there is no room.
        """
        key = artifact.key
        with ExitStack() as stack:
            if self.root:
                path = self.root / key
                problem = self._digests.problem(path, artifact.sha256, artifact.n_bytes)
                if problem:
                    raise DamagedError(f"{key} {problem}")
            else:
                copy = self._scratch.copy(key, artifact.sha256, artifact.n_bytes, partial(self._download, key))
                try:
                    path = stack.enter_context(copy)
                except FileNotFoundError as error:
                    raise DamagedError(f"{key} is gone") from error
            yield path

    def problem(self, artifact: Artifact) -> str | None:
        """What is wrong with an artifact, in words that follow its key; None where it is what was promised.

        Raises:
            WorkspaceError: storage does not answer.
        """
        try:
            with self.artifact(artifact):
                return None
        except DamagedError as error:
            return str(error).removeprefix(f"{artifact.key} ")

    def state(self, key: str) -> tuple[int, float] | None:
        """Size of an object in bytes, and when it was last written, in seconds since 1970; None where there is none.

        Raises:
            WorkspaceError: storage does not answer.
        """
        try:
            if self.root:
                found = (self.root / key).stat()
                return (found.st_size, found.st_mtime) if stat.S_ISREG(found.st_mode) else None
            with self._reading(key):
                meta = persistently(lambda: obstore.head(self.store, key))
            return meta["size"], meta["last_modified"].timestamp()
        except OSError as error:
            if isinstance(error, FileNotFoundError) or error.errno in NO_FILE:
                return None
            raise WorkspaceError(f"cannot read {key} in workspace {self.uri}: {first_line(error)}") from error

    def set_aside(self, key: str) -> None:
        """Move what is damaged to `damaged/`, whatever it is, so that it can be made anew in its place.

        Raises:
            WorkspaceError: the workspace does not let go of it.
        """
        aside = f"{ASIDE}/{key}"
        self._confirm()
        with self._writing(key, "set aside"):
            if self.root is None:
                with suppress(FileNotFoundError):
                    persistently(lambda: obstore.rename(self.store, key, aside))
                return
            put_away(self.root / key, self.root / aside)

    @contextmanager
    def local(self, key: str) -> Iterator[Path]:
        """The object as it is now as a local file while the context is open.

        Raises:
            FileNotFoundError: there is no such object.
        """
        if self.root:
            path = self.root / key
            if not path.exists():
                raise FileNotFoundError(key)
            yield path
            return
        with self._scratch.own("read") as folder:
            path = folder / Path(key).name
            self._download(key, path)
            yield path

    def _download(self, key: str, path: Path) -> None:
        def fetch() -> None:
            with path.open("wb") as file:
                for chunk in obstore.get(self.store, key).stream():
                    file.write(chunk)

        with self._reading(key):
            persistently(fetch)

    def read(self, key: str) -> bytes:
        """The object's bytes.

        Raises:
            FileNotFoundError: there is no such object.
            WorkspaceError: storage does not answer.
        """
        with self._reading(key):
            return persistently(lambda: bytes(obstore.get(self.store, key).bytes()))

    def write(self, key: str, data: bytes) -> None:
        """Put a small object in place, replacing what was there.

        Raises:
            WorkspaceError: the workspace does not take it.
        """
        if self.root is None:
            with self._writing(key):
                if self.hold is not None:
                    put_held(self.store, key, data, self.hold)
                    return
                persistently(lambda: obstore.put(self.store, key, data, use_multipart=False), may_be_missing=False)
            return
        self._confirm()
        path = self.scratch("write") / f"{os.getpid()}-{secrets.token_hex(4)}"
        try:
            with self._writing(key):
                path.write_bytes(data)
                move_durably(path, self.root / key)
        except WorkspaceError:
            with suppress(OSError):
                path.unlink()
            raise

    def names(self, folder: str) -> set[str]:
        """Keys of all objects below a folder."""
        if self.root is None:
            return set(self._listed(folder, lambda meta: ""))
        return set(files_below(self.root, folder))  # a tenth of the time, for it asks for no sizes

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of every object below a folder, by key."""
        return self._listed(folder, lambda meta: int(meta["size"]))

    def states(self, folder: str) -> dict[str, tuple[int, float]]:
        """`state` of every object below a folder, by key."""
        return self._listed(folder, lambda meta: (int(meta["size"]), meta["last_modified"].timestamp()))

    def stamps(self, folder: str) -> dict[str, str]:
        """What changes when the bytes of an object do, by key: its size and its entity tag."""
        return self._listed(folder, lambda meta: f"{meta['size']} {meta['e_tag'] or meta['last_modified']}")

    def _listed(self, folder: str, what: Callable[[Any], T]) -> dict[str, T]:
        def listed() -> dict[str, T]:
            pages = obstore.list(self.store, prefix=folder, chunk_size=LONGEST_LIST)
            return {meta["path"]: what(meta) for page in pages for meta in page}

        with self._reading(folder):
            return persistently(listed)

    def date_back(self, key: str, written_s: float) -> None:
        """Give a local file the time at which it was written first, in seconds since 1970, where that is possible."""
        if self.root is not None:
            with suppress(OSError):
                os.utime(self.root / key, (written_s, written_s))

    def folder_time_ns(self, folder: str) -> int | None:
        """When a file came into a folder or left it; None where storage has no folders."""
        if self.root is None:
            return None
        path = self.root / folder
        return path.stat().st_mtime_ns if path.is_dir() else 0

    def exists(self, key: str) -> bool:
        """Whether there is an object of this name."""
        return self.state(key) is not None

    def delete(self, keys: list[str]) -> None:
        """Remove objects, many in one request where the service can; one that is gone already is no error.

        Raises:
            WorkspaceError: the workspace does not let go of them.
        """
        for start in range(0, len(keys), LONGEST_LIST):
            batch = keys[start : start + LONGEST_LIST]
            self._confirm()
            with self._writing(batch[0], "delete"):
                persistently(partial(drop, self.store, batch))

    def check_space(self, min_free_gb: float) -> None:
        """Raise `CannotContinue` when the disk of the workspace, or of its local files, is nearly full."""
        place = self.root or self.scratch("read")
        free_gb = shutil.disk_usage(place).free / 1e9
        if free_gb < min_free_gb:
            raise CannotContinue(
                f"only {free_gb:.1f} GB free on the disk of {place}, {min_free_gb:g} GB (run.min_free_gb) needed: "
                f"free some, for instance by {hints.say(Hint.GC)}"
            )


def existing(uri: str) -> Workspace:
    """A workspace that must be there already.

    Raises:
        ConfigError: there is no such folder, or it holds other things.
        WorkspaceError: its storage does not answer.
    """
    if not is_remote(uri) and not Path(uri).expanduser().is_dir():
        raise ConfigError(f"no workspace at {uri}: give --workspace, or start with {hints.say(Hint.RUN)}")
    if not is_remote(uri) and holds_other_things(Path(uri).expanduser()):
        raise ConfigError(f"{uri} is no workspace: give the --workspace of a run")
    workspace = Workspace(uri, create=False)
    workspace.check_reachable()
    return workspace
