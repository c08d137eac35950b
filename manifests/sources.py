"""Source lists: from what a user names to `Source` rows."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from manifests.rows import Source, short_id
from manifests.signatures import object_of, unsigned

VIDEO_SUFFIXES = frozenset(
    [
        ".3gp",
        ".avi",
        ".flv",
        ".m2ts",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".mxf",
        ".ogv",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
    ]
)
"""Files with these endings are taken from a folder."""
_NAMES_ITSELF = (*VIDEO_SUFFIXES, ".m3u8", ".mpd")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


class SourceListError(ValueError):
    """A source list or an address cannot be used; the message is one line."""


def expand(addresses: Iterable[str], *, base: Path | None = None) -> Iterator[Source]:
    """Source rows of addresses: URLs, files, and folders (their video files, sorted, recursively, but no workspace's).

    Args:
        addresses: as given by the user.
        base: folder that relative paths start from; the current one by default.

    Raises:
        SourceListError: a path does not exist, or the scheme of a URL is not supported.
    """
    for address in addresses:
        if "://" in address:
            yield url_source(address)
            continue
        path = located(address, base)
        if path.is_dir() and is_workspace(path):
            raise SourceListError(f"{address} is a workspace, its videos are sources already: give what they came from")
        if path.is_dir():
            files = sorted(_videos_below(path))
            if not files:
                raise SourceListError(f"no video files in folder {address}")
            yield from (file_source(p) for p in files)
        elif path.is_file():
            yield file_source(path)
        elif path.exists():
            raise SourceListError(f"{address} is neither a file nor a folder")
        elif _SCHEME.match(address):
            yield url_source(address)
        elif address.startswith("-"):
            raise SourceListError(f"{address!r} begins with a dash: not an address, and no such file")
        else:
            raise SourceListError(f"no such file, folder or URL: {address}")


def _videos_below(folder: Path) -> Iterator[Path]:
    """Video files, but for those that a run has made: a workspace often lies beside the footage."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_workspace(Path(place, name))]
        found = (Path(place, name) for name in names)
        yield from (path for path in found if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())


def is_workspace(folder: Path) -> bool:
    """Whether a run has worked in a folder, or a dataset was rebuilt there."""
    marks = ("manifests/sources/*.parquet", "manifests/*/part-*.parquet", "rebuilt.json")
    return any(True for mark in marks for _ in folder.glob(mark))


def located(address: str, base: Path | None) -> Path:
    """The path of an address that is no URL: from `base`, or the current folder, or from somebody's home.

    Raises:
        SourceListError: no file can have such a name.
    """
    path = Path(address)
    with suppress(RuntimeError):  # "~x" of a user that there is not is a name like others
        path = path.expanduser()
    path = (base or Path.cwd()) / path
    try:
        path.exists()
    except OSError as error:
        raise SourceListError(f"cannot look for {address[:200]}: {error.strerror}") from error
    return path


def ending(path: Path) -> str:
    """The ending of a file's name with its dot, which the files that are made of it carry on; "" where there is none.

    In "Dr. Ann Smith on bees" nothing ends.
    """
    return path.suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,16}", path.suffix) else ""


def url_source(address: str) -> Source:
    """A URL's row; scheme and host are compared without case, neither the fragment nor a signature counts.

    Raises:
        SourceListError: no http(s) URL, or one with a login in it, which ledger and dataset would tell everybody.
    """
    text = _utf8(unicodedata.normalize("NFC", address.strip()))
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise SourceListError(f"cannot fetch {unsigned(text)}: {error}") from error
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise SourceListError(f"cannot fetch {unsigned(text)}: only http(s) URLs, files and folders are supported")
    if parts.username is not None:
        advice = "leave it out, and set download.cookies_file where the site asks for a login"
        raise SourceListError(f"an address at {parts.hostname} holds a user name or password: {advice}")
    named = urlsplit(object_of(text, path_names_it=parts.path.lower().endswith(_NAMES_ITSELF)))
    normal = urlunsplit((parts.scheme.lower(), parts.netloc.lower(), named.path or "/", named.query, ""))
    return Source(source_id=short_id("url", normal), address=text, kind="url")


def file_source(path: Path) -> Source:
    """A local file's row, named by its content: the same file under two names is one source.

    Raises:
        SourceListError: the file's name is no text.
    """
    address = _utf8(str(path.resolve()))
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return Source(source_id=short_id("file", digest.hexdigest()), address=address, kind="file")


def _utf8(text: str) -> str:
    """The text, which the ledger can hold: names of files may be any bytes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SourceListError(f"the name {text!r} is not valid UTF-8: rename it") from error
    return text
