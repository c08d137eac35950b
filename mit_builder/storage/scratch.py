"""Files of a workspace on this machine's own disk: unfinished ones, parts to go on with, copies of remote objects.

A local workspace keeps them in itself (one file system, so that a rename suffices); for object storage they lie below
the temporary folder. There copies of objects stay while there is room: one video is read by many units. A copy is
known by the digest of its content and held by a lock on its folder, which the kernel drops with the process.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import random
import secrets
import shutil
import stat
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mit_builder.console.wording import counted
from mit_builder.errors import DamagedError, WorkspaceError

SCRATCH = ".scratch"
"""Unfinished files: a folder a run, in it one a unit, `<pid>-...`."""
PARTIAL = ".partial"
"""What later attempts can go on with; outlives a run."""
COPIES = ".copies"
KEEP_PARTS_S = 2 * 24 * 3600
"""Older parts are not gone on with: a list that fails for days must not fill the disk."""
MAKE_ATTEMPTS = 1000
ROOM_WAIT_S = 120.0
"""For how long a copy waits for the copies and units of others to go."""
REMEMBERED = 4096
"""Files that are known to be whole: a worker reads few files again and again, a run of weeks reads millions."""
NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
"""Errors of the system that mean that there is nothing to read under a name."""
GONE = "is gone"
"""What is wrong with a file that is not there."""


class Scratch:
    """The folders of one workspace on this machine.

    Args:
        uri: of the workspace.
        root: its folder, where it is local.
        max_gb: where it is remote, copies are only made while everything here is smaller.
    """

    def __init__(self, uri: str, root: Path | None, max_gb: float) -> None:
        self._uri = uri
        self._is_remote = root is None
        self._max_bytes = max_gb * 1e9
        self._digests = Digests()
        self.base = root or temporary() / hashlib.sha256(uri.encode()).hexdigest()[:32]

    def run(self, name: str) -> Path:
        """A folder for unfinished files, made if need be."""
        self._prepare()
        return _made(self.base / SCRATCH / name)

    def _prepare(self) -> None:
        if self._is_remote:
            make_private(self.base.parent)

    def partial(self, name: str) -> Path:
        """The folder in which the unfinished files of a unit outlive a run."""
        self._prepare()
        return self.base / PARTIAL / name

    def sweep(self, keep_partial_s: float) -> None:
        """Remove what killed runs left; only while no other run holds the lease."""
        if self._is_remote:
            self.sweep_dead()
            self._evict(lambda: False)
        else:
            shutil.rmtree(self.base / SCRATCH, ignore_errors=True)
        for folder in _below(self.base / PARTIAL):
            if time.time() - folder.stat().st_mtime >= keep_partial_s:
                shutil.rmtree(folder, ignore_errors=True)

    def leave(self, run_name: str) -> None:
        """Remove a run's unfinished files, and copies that nobody uses."""
        shutil.rmtree(self.base / SCRATCH / run_name, ignore_errors=True)
        self._evict(lambda: False)

    def sweep_dead(self) -> None:
        """Remove unfinished files of processes of this machine that are no more."""
        for run in _below(self.base / SCRATCH):
            for folder in _below(run):
                pid = folder.name.partition("-")[0]
                if pid.isdigit() and not Path(f"/proc/{pid}").exists():
                    shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # others work there
                run.rmdir()

    @contextmanager
    def own(self, name: str) -> Iterator[Path]:
        """An empty folder of this process, removed afterwards."""
        self._prepare()
        folder = _made(self.base / SCRATCH / name / f"{os.getpid()}-{secrets.token_hex(8)}")
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def copy(self, name: str, sha256: str, n_bytes: int, fetch: Callable[[Path], None]) -> Iterator[Path]:
        """A file of this content, fetched unless it is here already; others leave it alone while the context is open.

        Raises:
            DamagedError: what was fetched has another content.
            WorkspaceError: there is no room for it.
        """
        self._prepare()
        folder = self.base / COPIES / f"{sha256[:32]}-{n_bytes}"
        path = folder / Path(name).name
        while True:
            with _locked(folder, fcntl.LOCK_SH):
                if self._digests.problem(path, sha256, n_bytes) is None:
                    os.utime(folder)
                    yield path
                    return
            try:
                with _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    path.unlink(missing_ok=True)
                    self._make_room(n_bytes)
                    self._fetch(path, name, sha256, fetch)
            except BlockingIOError:  # somebody else fetches it
                time.sleep(random.uniform(0.0, 0.05))

    def _fetch(self, path: Path, name: str, sha256: str, fetch: Callable[[Path], None]) -> None:
        part = path.with_name(f"part-{os.getpid()}")
        try:
            fetch(part)
            if sha256_of(part) != sha256:
                raise DamagedError(f"{name} holds other bytes than were written")
            part.rename(path)
            self._digests.note(path, sha256)
        finally:
            part.unlink(missing_ok=True)

    def _make_room(self, n_bytes: int) -> None:
        """Remove the copies that were used longest ago; wait for others where that is not enough."""
        until_s = time.monotonic() + ROOM_WAIT_S

        def fits() -> bool:
            return self.used_bytes() + n_bytes <= self._max_bytes and shutil.disk_usage(self.base).free > n_bytes

        while not fits():
            self._evict(fits)
            if fits():
                return
            if time.monotonic() > until_s or n_bytes > self._max_bytes:
                limit_gb = self._max_bytes / 1e9
                raise WorkspaceError(f"no room in {self.base} for {n_bytes / 1e9:.1f} GB: run.scratch_gb={limit_gb:g}")
            time.sleep(1.0)

    def _evict(self, enough: Callable[[], bool]) -> None:
        for folder in sorted(_below(self.base / COPIES), key=_age):
            if enough():
                return
            with suppress(OSError), _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(folder, ignore_errors=True)

    def used_bytes(self) -> int:
        """Bytes of all files here."""
        total = 0
        for folder, _, names in os.walk(self.base):
            for name in names:
                with suppress(OSError):  # gone by now
                    total += os.lstat(os.path.join(folder, name)).st_size
        return total


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    """Hold a folder, made if need be.

    Raises:
        BlockingIOError: others hold it, and `how` says not to wait for them.
    """
    while True:
        _made(folder)
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, how)
            if _is_at(folder, descriptor):  # else it was removed while we waited
                yield
                return
        finally:
            os.close(descriptor)


def _is_at(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(folder.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _made(folder: Path) -> Path:
    """Make a folder and those above it, while others may remove them as long as they are empty."""
    for _ in range(MAKE_ATTEMPTS):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileNotFoundError, FileExistsError):
            if os.path.lexists(folder) and not folder.is_dir():
                raise
        else:
            return folder
    raise FileNotFoundError(errno.ENOENT, "removed again and again", str(folder))


def temporary() -> Path:
    """This user's folder for temporary files, where the workspace is not on a local disk."""
    return Path(tempfile.gettempdir()) / f"mit-build-{os.getuid()}"


def make_private(folder: Path) -> None:
    """Make a folder that others cannot have prepared for us.

    Raises:
        WorkspaceError: it is there and belongs to somebody else.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise WorkspaceError(f"{folder} belongs to somebody else: set TMPDIR to a folder of your own")


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


class Digests:
    """Whether files on this machine are what was promised, and which of them were found to be so far.

    Hashing runs at 0.7 to 2 GB/s a core; a file that has not changed since it was compared is not read again.
    """

    def __init__(self) -> None:
        self._whole: OrderedDict[Path, tuple[object, ...]] = OrderedDict()

    def problem(self, path: Path, sha256: str, n_bytes: int) -> str | None:
        """What is wrong with a file, in words that follow its name; None where it is what was promised.

        Raises:
            OSError: it cannot be looked at, for a reason that says nothing about it.
        """
        try:
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):
                return "is no file"
            if found.st_size != n_bytes:
                return f"has {counted(found.st_size, 'byte')}, not {n_bytes}"
            if self._whole.get(path) != _seen(found, sha256) and sha256_of(path) != sha256:
                return "holds other bytes than were written"
        except OSError as error:
            if error.errno in NO_FILE:
                return GONE
            if error.errno == errno.EIO:
                return f"cannot be read ({os.strerror(errno.EIO)})"
            raise
        self._note(path, _seen(found, sha256))
        return None

    def note(self, path: Path, sha256: str) -> None:
        """Take a file for what was promised, without reading it: its bytes were compared just before."""
        self._note(path, _seen(path.stat(), sha256))

    def _note(self, path: Path, seen: tuple[object, ...]) -> None:
        self._whole[path] = seen
        self._whole.move_to_end(path)
        while len(self._whole) > REMEMBERED:
            self._whole.popitem(last=False)


def _seen(found: os.stat_result, sha256: str) -> tuple[object, ...]:
    """What changes with a file; the time of its inode's last change cannot be set, unlike that of its content."""
    return found.st_dev, found.st_ino, found.st_ctime_ns, sha256


def put_away(path: Path, target: Path) -> None:
    """Move whatever lies at `path`, if anything does, to `target`, in the place of what lies there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
    with suppress(FileNotFoundError, NotADirectoryError):
        path.rename(target)


def _below(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def _age(folder: Path) -> float:
    with suppress(OSError):
        return folder.stat().st_mtime
    return 0.0
