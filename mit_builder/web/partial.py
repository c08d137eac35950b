"""Going on with a file that an earlier attempt fetched a part of, unless it has changed since.

yt-dlp goes on wherever a part of the right name lies, and asks for the rest of whatever is there now. Here the rest is
asked for under the condition that the file is still the one that the part came from (`If-Range`, RFC 9110), and an
answer that is of another file is not taken: then the whole is asked for.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PART, NOTE = ".part", ".json"
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_TOTAL = re.compile(r"bytes \d+-\d+/(\d+)")


@dataclass(frozen=True)
class Identity:
    """What tells one version of a file at a server from another. Each is None where the server does not say.

    Attributes:
        etag: strong ones only.
        modified: the date of the last change, as the server writes it.
        n_bytes: of the whole file.
    """

    etag: str | None
    modified: str | None
    n_bytes: int | None

    @classmethod
    def of(cls, response: Any) -> Identity:
        """Read the identity from a response that carries the file or a part of it."""
        etag, length = response.headers.get("ETag") or "", response.headers.get("Content-Length") or ""
        if response.status == 206:
            found = _TOTAL.fullmatch(response.headers.get("Content-Range") or "")
            length = found[1] if found else ""
        return cls(
            None if not etag or etag.startswith("W/") else etag,
            response.headers.get("Last-Modified"),
            int(length) if length.isdecimal() and not response.headers.get("Content-Encoding") else None,
        )

    @property
    def condition(self) -> str | None:
        """The value of `If-Range`; None where the file could not be known again."""
        return (self.etag or self.modified) if self.n_bytes else None

    def fits(self, other: Identity) -> bool:
        """Whether a part with this identity can belong to the file of the other: all that both say is equal."""
        pairs = ((self.etag, other.etag), (self.modified, other.modified))
        return self.n_bytes == other.n_bytes and all(a == b or None in (a, b) for a, b in pairs)


class Partial:
    """The unfinished files of one source.

    Args:
        folder: holds them and nothing else; what cannot be gone on with is removed from it.
        kept: files in it that are somebody else's.
    """

    def __init__(self, folder: Path, kept: Collection[Path] = ()) -> None:
        self._left: dict[int, Identity] = {}
        """What earlier attempts left, by the number of bytes that are there."""
        self._seen: dict[str, Identity] = {}
        self._going: dict[str, Identity] = {}
        kept = set(kept)
        for note in folder.glob(f"*{PART}{NOTE}"):
            part, identity = note.with_suffix(""), _read(note)
            _reopen(part)
            if identity and part.is_file() and part.stat().st_size:
                self._left[part.stat().st_size] = identity
                kept |= {note, part}
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path not in kept:
                path.unlink()

    def progress(self, status: dict[str, Any]) -> None:
        """A progress hook for yt-dlp: writes down, once a file, which one a part is of."""
        info, part = status.get("info_dict") or {}, status.get("tmpfilename") or ""
        url = str(info.get("url"))
        # Of fragments the whole list has to be the same: see `Fragments`.
        if url in self._going or not part.endswith(PART) or info.get("protocol") not in ("http", "https"):
            return
        self._going[url] = self._seen.get(url, Identity(None, None, None))
        Path(part + NOTE).write_text(json.dumps(asdict(self._going[url])))

    def ask(self, send: Callable[[Any], Any], request: Any) -> Any:
        """Send a request; one for the rest of a file under the condition that it is still the same."""
        found = _RANGE.fullmatch(request.headers.get("Range") or "")
        start = int(found[1]) if found else 0
        going = self._going.get(request.url)
        if going is None and start in self._left:
            response = _rest(send, request, self._left.pop(start))
        elif going is not None and going.condition and found and start and not found[2]:
            response = _rest(send, request, going)
        else:
            response = send(request)
        self._seen[request.url] = Identity.of(response)
        return response


def _rest(send: Callable[[Any], Any], request: Any, expected: Identity) -> Any:
    from yt_dlp.networking.exceptions import HTTPError

    if expected.condition:
        conditional = request.copy()
        conditional.headers["If-Range"] = expected.condition
        try:
            response = send(conditional)
        except HTTPError as error:
            if error.status != 416:
                raise
            error.close()
        else:
            if response.status != 206 or Identity.of(response).fits(expected):
                return response
            response.close()
    whole = request.copy()
    del whole.headers["Range"]
    return send(whole)


def _reopen(part: Path) -> None:
    """A file that was finished, while another that belongs to it was not, is asked for its last byte again."""
    finished = part.with_suffix("")
    if finished.is_file() and not part.exists():
        os.truncate(finished, max(0, finished.stat().st_size - 1))
        finished.rename(part)


def _read(note: Path) -> Identity | None:
    try:
        return Identity(**json.loads(note.read_text()))
    except (ValueError, TypeError):
        return None
