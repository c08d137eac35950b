"""Going on with media that come in fragments (HLS, DASH), of which an earlier attempt fetched some.

yt-dlp counts the fragments that it has joined in a file of its own, which is not told when a site changes the list, nor
how many bytes belong to the count: a worker that dies between joining and counting would leave a fragment twice. Here a
note says which list it was, how many fragments are joined and how many bytes these are; what fits no note is dropped.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PART, NOTE, COUNT = ".part", ".fragments", ".ytdl"
HLS, DASH = ("m3u8", "m3u8_native"), ("http_dash_segments",)
_DEPENDS_ON_EARLIER = re.compile(r"#EXT-X-KEY:METHOD=(?!NONE)|#EXT-X-BYTERANGE")
"""yt-dlp counts keys and places on from fragment to fragment, but not over those it passes over."""


@dataclass(frozen=True)
class _Note:
    """What a part holds: the digest of the list of fragments, how many of them are joined, and their bytes."""

    digest: str
    n_fragments: int
    n_bytes: int


class Fragments:
    """The unfinished fragmented files of one source.

    Args:
        folder: in which they lie.
        in_turn: whether one fragment is fetched after the other; else nothing is noted.
    """

    def __init__(self, folder: Path, *, in_turn: bool = True) -> None:
        self._in_turn = in_turn
        self._left: dict[Path, _Note] = {}
        self._going: dict[Path, str] = {}
        self._noted: dict[Path, _Note] = {}
        for path in folder.glob(f"*{PART}{NOTE}"):
            note, part = _read(path), path.with_suffix("")
            held = part if part.is_file() else part.with_suffix("")
            if note and held.is_file() and held.stat().st_size >= note.n_bytes > 0:
                held.rename(part)
                self._left[part] = note

    def kept(self) -> set[Path]:
        """Files that another attempt can go on with."""
        return {path for part in self._left for path in (part, _noted_at(part))}

    def start(self, name: str, info: dict[str, Any], fetch: Callable[[str], Any]) -> None:
        """Before yt-dlp fetches a format to the file `name`: leave it what of the same list is there, or nothing.

        Args:
            name: the path that the finished file will have.
            info: of the format; of HLS, the list that was compared is put into it, so that no other is used.
            fetch: gets the answer to a request for an address.
        """
        digest = _digest(info, fetch)
        part = Path(name + PART)
        left = self._left.pop(part, None)
        if digest is not None:
            self._going[part] = digest
        if left is None:
            return
        if left.digest == digest:
            os.truncate(part, left.n_bytes)
            count = {"downloader": {"current_fragment": {"index": left.n_fragments}}}
            Path(name + COUNT).write_text(json.dumps(count))
        else:
            part.unlink()
            _noted_at(part).unlink()

    def progress(self, status: dict[str, Any]) -> None:
        """A progress hook for yt-dlp: writes down what is joined while the next fragment comes."""
        part = Path(status.get("tmpfilename") or "")
        digest = self._going.get(part)
        if digest is None or not self._in_turn:
            return
        n_fragments = _count(part)
        if not n_fragments or n_fragments == getattr(self._noted.get(part), "n_fragments", 0):
            return
        note = self._noted[part] = _Note(digest, n_fragments, part.stat().st_size)
        _noted_at(part).write_text(json.dumps(asdict(note)))


def _digest(info: dict[str, Any], fetch: Callable[[str], Any]) -> str | None:
    """Digest of the list of a format's fragments; None where it has none, or none that can be resumed."""
    if info.get("protocol") in HLS:
        text = info.get("hls_media_playlist_data")
        if not text:
            response = fetch(info["url"])
            text = response.read().decode("utf-8", "ignore")
            info.update(url=response.url, hls_media_playlist_data=text)
        return None if _DEPENDS_ON_EARLIER.search(text) else hashlib.sha256(text.encode()).hexdigest()
    fragments = info.get("fragments")
    if info.get("protocol") not in DASH or not isinstance(fragments, list):
        return None
    names = [fragment.get("url") or fragment.get("path") for fragment in fragments]
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def _noted_at(part: Path) -> Path:
    return part.with_name(part.name + NOTE)


def _count(part: Path) -> int:
    try:
        count = json.loads(part.with_suffix(COUNT).read_text())
        return int(count["downloader"]["current_fragment"]["index"])
    except (OSError, ValueError, KeyError):
        return 0


def _read(path: Path) -> _Note | None:
    try:
        return _Note(**json.loads(path.read_text()))
    except (ValueError, TypeError):
        return None
