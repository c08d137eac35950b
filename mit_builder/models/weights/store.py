"""Weights on this machine: where they lie, whether they are what they should be, and how they get here.

A file is used only if its digest is the registered one. Where the registry has none, the first digest seen is recorded
beside the files and required from then on.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import platformdirs

from mit_builder.config.backends import SETTINGS, Backend
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.errors import CannotContinue, ConfigError, StageUnavailable
from mit_builder.models.weights.http_file import DownloadFailed, Progress, download
from mit_builder.models.weights.table import TABLE, WeightsFile
from mit_builder.storage.scratch import sha256_of

FOLDER_VARIABLE = "MIT_BUILDER_WEIGHTS"
RECORD_NAME = "digests.json"
"""Digests recorded on first use or accepted with `trust`, by name."""

State = Literal["missing", "ok", "damaged", "untrusted"]
"""Untrusted: a program of which neither the registry nor the user said that it may be run."""


def folder() -> Path:
    """The folder of weights: the variable MIT_BUILDER_WEIGHTS, else the platform's cache."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("mit-builder") / "weights"


def entry(name: str, table: Sequence[WeightsFile] = TABLE) -> WeightsFile:
    """The registry's entry.

    Raises:
        ConfigError: unknown name; the message lists all.
    """
    for file in table:
        if file.name == name:
            return file
    raise ConfigError(f"unknown weights {name!r}; there are: {', '.join(file.name for file in table)}")


def state(file: WeightsFile) -> State:
    """Whether the file is in the cache and its digest is right; records the digest of one that has none yet."""
    path = folder() / file.file_name
    if not path.is_file():
        return "missing"
    digest, wanted = digest_of(path), _wanted(file)
    if wanted is None:
        if file.is_script:
            return "untrusted"
        _record(file.name, digest)
    return "ok" if wanted in (None, digest) else "damaged"


def digest_of(path: Path) -> str:
    """Hex digest of a file of weights; computed once for a file that does not change (the largest take a minute)."""
    status = path.stat()
    return _digest(path, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest(path: Path, inode: int, n_bytes: int, mtime_ns: int) -> str:
    return sha256_of(path)


def label(name: str) -> str:
    """Name and digest of a file of weights as they stand in rows."""
    path = find(name)
    return f"{name} {'(missing)' if path is None else digest_of(path)[:12]}"


def missing_for(backend: Backend) -> str | None:
    """What a backend lacks on this machine, as the command that helps; None where nothing is missing."""
    install = [hints.pip(*what.split()) for name, what in backend.requires if importlib.util.find_spec(name) is None]
    names = backend.weights
    fetch = [hints.keep(Hint.WEIGHTS_FETCH, name=name) for name in names[:1] if all(find(n) is None for n in names)]
    return ", then ".join(install + fetch) or None


def file_for(backend: Backend) -> Path:
    """The verified weights of a backend that has one file.

    Raises:
        StageUnavailable: they or a package are missing; the line says what gets them.
    """
    missing, path = missing_for(backend), find(backend.weights[0])
    if missing or path is None:
        raise StageUnavailable(f"{SETTINGS[backend.role]} {backend.name} needs: {missing}")
    return path


def find(name: str) -> Path | None:
    """The verified file, or None where it is not in the cache.

    Raises:
        ConfigError: unknown name.
        CannotContinue: the file is there but its digest is wrong, or it is a program that nobody trusts.
    """
    file = entry(name)
    found = state(file)
    if found == "untrusted":
        raise CannotContinue(f"weights {name} are a program of unknown origin: {_trusting(file)}")
    if found == "damaged":
        raise CannotContinue(f"weights {name} are damaged; get them again: {hints.keep(Hint.WEIGHTS_FETCH, name=name)}")
    return folder() / file.file_name if found == "ok" else None


def fetch(file: WeightsFile, *, progress: Progress | None = None, pause_s: float = 0.5) -> Path:
    """Download a file into the cache unless it is there; resumes, retries, verifies, then puts it in place.

    Args:
        file: the entry.
        progress: called with the bytes there and the bytes expected.
        pause_s: see `mit_builder.models.weights.http_file.download`.

    Raises:
        CannotContinue: no address gave the right file, or the disk is full; the line says what to do.
    """
    target = folder() / file.file_name
    if state(file) == "ok":
        return target
    if file.is_script and _wanted(file) is None:
        raise CannotContinue(f"{file.name} is a program without a published digest: {_trusting(file)}")
    if file.sha256 is None:
        import mit_builder.models.torch_backend  # noqa: F401 - says before the download that torch is needed
    part = target.with_name(target.name + ".part")
    reasons = []
    for url in file.urls:
        with _writing():
            try:
                download(url, part, progress=progress, pause_s=pause_s)
                _accept_download(file, part)
                _put_in_place(part, target)
            except DownloadFailed as error:
                reasons.append(str(error))
            else:
                return target
    by_hand = f"get {file.urls[0]} by hand, then: {hints.keep(Hint.WEIGHTS_IMPORT, path=_saved_as(file))}"
    raise CannotContinue(f"cannot fetch {file.name}: {'; '.join(reasons)}; {by_hand}")


def _trusting(file: WeightsFile) -> str:
    return f"get {file.urls[0]} by hand, then: {hints.keep(Hint.WEIGHTS_TRUST, path=_saved_as(file))}"


def _saved_as(file: WeightsFile) -> str:
    """The name under which a browser saves it."""
    return Path(urlsplit(file.urls[0]).path).name


def _accept_download(file: WeightsFile, part: Path) -> None:
    """Record what came, or throw it away."""
    digest = sha256_of(part)
    right = digest == file.sha256 if file.sha256 else _wanted(file) in (None, digest) and _is_checkpoint_of(file, part)
    if not right:
        part.unlink()
        raise DownloadFailed(f"another file than expected came (sha256 {digest[:16]}…)")
    _record(file.name, None if file.sha256 else digest)


def _is_checkpoint_of(file: WeightsFile, path: Path) -> bool:
    try:
        return _fits(file, _shapes(path, script=False))
    except StageUnavailable:
        return False


def import_file(
    path: Path, *, name: str | None = None, trust: bool = False, table: Sequence[WeightsFile] = TABLE
) -> WeightsFile:
    """Copy a file that was brought here by other means into the cache.

    It is recognised by its digest, else by its tensors' names and shapes.

    Args:
        path: the file.
        name: which entry it is, where its tensors fit several.
        trust: take a file with the right tensors although its digest is not the registered one, and require this
            digest from now on. A TorchScript program is opened with this only.
        table: the registry.

    Raises:
        ConfigError: unknown name.
        CannotContinue: no such file, of no known kind, or of another digest than registered.
    """
    if not path.is_file():
        raise CannotContinue(f"no such file: {path}")
    digest = digest_of(path)
    choice = [entry(name, table)] if name else list(table)
    by_digest = [file for file in choice if digest == _wanted(file)]
    file = by_digest[0] if by_digest else _by_tensors(path, choice, trust=trust)
    target = folder() / file.file_name
    part = target.with_name(target.name + ".import")
    with _writing():
        shutil.copyfile(path, part)
        _put_in_place(part, target)
    _record(file.name, None if digest == file.sha256 else digest)
    return file


def _by_tensors(path: Path, choice: Sequence[WeightsFile], *, trust: bool) -> WeightsFile:
    script = is_script(path)
    if script and not trust:
        raise StageUnavailable(f"weights {path.name} are refused: a program of unknown origin; --trust opens it anyway")
    shapes = _shapes(path, script=script)
    fitting = [file for file in choice if file.is_script == script and _fits(file, shapes)]
    if not fitting:
        raise CannotContinue(
            f"{path.name} is none of the weights that are used here; see {hints.keep(Hint.WEIGHTS_LIST)}"
        )
    new = [file for file in fitting if _wanted(file) is None or trust]
    if not new:
        names = " and ".join(file.name for file in fitting)
        raise CannotContinue(f"{path.name} has the tensors of {names} but another digest; --trust takes it anyway")
    if len(new) > 1:
        names = " or ".join(file.name for file in new)
        raise CannotContinue(f"{path.name} fits {names}: say which with --name")
    return new[0]


def is_script(path: Path) -> bool:
    """Whether the file looks like a TorchScript program, for the reader of which it would be one."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError):
        return False  # read as tensors then, which runs nothing and says what is wrong with it


def _shapes(path: Path, *, script: bool) -> dict[str, tuple[int, ...]]:
    from mit_builder.models.torch_backend import read_tensors
    from mit_builder.models.yolo.checkpoint import read_yolo

    try:
        tensors = read_tensors(path, script=script)
    except StageUnavailable:
        if script:
            raise
        tensors = read_yolo(path)
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _fits(file: WeightsFile, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return all(shapes.get(name) == shape for name, shape in file.tensors.items())


def _wanted(file: WeightsFile) -> str | None:
    return _recorded().get(file.name, file.sha256)


def _recorded() -> dict[str, str]:
    path = folder() / RECORD_NAME
    if not path.is_file():
        return {}
    try:
        return {str(name): str(digest) for name, digest in json.loads(path.read_text()).items()}
    except (ValueError, AttributeError) as error:
        raise CannotContinue(f"{path} is damaged; delete it to record the digests anew") from error


def _record(name: str, digest: str | None) -> None:
    """Require this digest from now on; None: only the registry's counts."""
    before = _recorded()
    after = {other: known for other, known in before.items() if other != name}
    if digest is not None:
        after[name] = digest
    if after != before:
        with _writing():
            with tempfile.NamedTemporaryFile("w", dir=folder(), suffix=".json", delete=False) as file:
                json.dump(after, file, indent=2, sort_keys=True)
            os.replace(file.name, folder() / RECORD_NAME)


@contextmanager
def _writing() -> Iterator[None]:
    """Makes the folder, and one line of what goes wrong while writing to it."""
    try:
        folder().mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        reason = f"{error.strerror}; {FOLDER_VARIABLE} names another place"
        raise CannotContinue(f"cannot write to {folder()}: {reason}") from error


def _put_in_place(part: Path, target: Path) -> None:
    with part.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(part, target)
