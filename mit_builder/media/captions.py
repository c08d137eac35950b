"""Captions of a video: read from WebVTT and SRT files, kept as one table, cut to a clip.

The files come from anybody: their number, size, cues and texts are bounded, and a text is one line without markup.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import av
import pyarrow.parquet as pq

from manifests.arrays import write_arrays
from manifests.rows import Caption
from manifests.schema import arrow_schema, from_dict, to_dict
from manifests.sources import ending

FORMATS = {".vtt": "webvtt", ".srt": "srt"}
"""Endings that are read, and libav's names of the formats."""
MAX_FILES = 20
MAX_BYTES = 4 << 20
"""Of one file: ten hours of speech are about 1 MB."""
MAX_CUES = 20_000
MAX_CHARACTERS = 500
"""Of one text; broadcasters allow 2 lines of 42."""
UNKNOWN = "und"
"""A language that is not told (ISO 639-2)."""

_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")
_MARKUP = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")


@dataclass(frozen=True)
class CaptionFile:
    """A file with captions.

    Attributes:
        language: as the site names it.
        automatic: whether a machine wrote them.
    """

    path: Path
    language: str
    automatic: bool = False


def beside(video: Path) -> list[CaptionFile]:
    """`NAME.vtt`, `NAME.LANGUAGE.vtt` and the same with .srt, which lie beside a local video file."""
    found, title = [], video.name.removesuffix(ending(video))
    for path in sorted(path for path in video.parent.iterdir() if path.suffix.lower() in FORMATS):
        name, _, language = path.stem.partition(f"{title}.")
        if not path.is_file():
            continue
        if path.stem == title:
            found.append(CaptionFile(path, UNKNOWN))
        elif not name and _LANGUAGE.fullmatch(language):
            found.append(CaptionFile(path, language))
    return found


def write_captions(
    files: Iterable[CaptionFile],
    path: Path,
    *,
    zero_s: float,
    duration_s: float,
    stills_s: Sequence[tuple[float, float]] = (),
) -> bool:
    """Write the captions of the files as one Parquet file, in order of time; False where there are none.

    The other arguments are those of `read_captions`.
    """
    read = (
        read_captions(file, zero_s=zero_s, duration_s=duration_s, stills_s=stills_s) for file in list(files)[:MAX_FILES]
    )
    found = [caption for captions in read for caption in captions]
    if found:
        found.sort(key=lambda c: (c.start_s, c.end_s, c.language, c.automatic, c.text))
        write_arrays(path, arrow_schema(Caption), [to_dict(caption) for caption in found])
    return bool(found)


def read_captions(
    file: CaptionFile, *, zero_s: float = 0.0, duration_s: float, stills_s: Sequence[tuple[float, float]] = ()
) -> list[Caption]:
    """The captions in a file; none where it is too large or cannot be read.

    Args:
        file: its times count from the start that players show.
        zero_s: when the first frame is shown then; times that are returned count from it.
        duration_s: length of the video from its first frame.
        stills_s: what the timeline leaves out of what players show (`Timeline.stills_s`).
    """
    if file.path.stat().st_size > MAX_BYTES:
        return []
    language = file.language if _LANGUAGE.fullmatch(file.language) else UNKNOWN
    try:
        cues = list(_cues(file.path))
    except (av.FFmpegError, OSError):
        return []
    if file.automatic:
        cues = list(_unrolled(cues))
    spans = (
        (_on_timeline(start_s - zero_s, stills_s), _on_timeline(end_s - zero_s, stills_s)) for start_s, end_s, _ in cues
    )
    captions = (
        Caption(max(start_s, 0), min(end_s, duration_s), _one_line(text), language, file.automatic)
        for (start_s, end_s), (_, _, text) in zip(spans, cues, strict=True)
    )
    return [c for c in captions if c.start_s < c.end_s and c.text]


def _on_timeline(shown_s: float, stills_s: Sequence[tuple[float, float]]) -> float:
    """Time on the clip timeline for that of a player, which lets pictures stand still where times jump ahead."""
    left_out_s = 0.0
    for at_s, still_s in stills_s:
        left_out_s += min(max(shown_s - left_out_s - at_s, 0.0), still_s)
    return shown_s - left_out_s


def _cues(path: Path) -> Iterator[tuple[float, float, str]]:
    """Start, end and raw text of each cue, the first `MAX_CUES` of them."""
    with av.open(str(path), format=FORMATS[path.suffix.lower()]) as container:
        for n, packet in enumerate(container.demux()):
            if n >= MAX_CUES or packet.pts is None or packet.time_base is None:
                return
            start, end = packet.pts * packet.time_base, (packet.pts + (packet.duration or 0)) * packet.time_base
            yield float(start), float(end), bytes(packet)[: 8 * MAX_CHARACTERS].decode(errors="replace")


def _unrolled(cues: list[tuple[float, float, str]]) -> Iterator[tuple[float, float, str]]:
    """Cues without the line that still stands from the cue before: automatic captions roll up."""
    standing = ""
    for start_s, end_s, text in cues:
        lines = [line for line in map(_one_line, text.splitlines()) if line]
        new = lines[1:] if lines and lines[0] == standing else lines
        standing = lines[-1] if lines else standing
        yield start_s, end_s, " ".join(new)


def _one_line(text: str) -> str:
    plain = html.unescape(_MARKUP.sub("", text))
    return " ".join("".join(c if c.isprintable() else " " for c in plain).split())[:MAX_CHARACTERS].strip()


def load_captions(path: Path) -> list[Caption]:
    """The inverse of `write_captions`."""
    return [from_dict(Caption, row) for row in pq.read_table(path).to_pylist()]


def cut_captions(captions: Iterable[Caption], start_s: float, end_s: float) -> tuple[Caption, ...]:
    """The captions shown between two times of the video, timed from the first of them; texts stay whole."""
    shown = (
        replace(c, start_s=round(max(c.start_s, start_s) - start_s, 3), end_s=round(min(c.end_s, end_s) - start_s, 3))
        for c in captions
        if c.start_s < end_s and c.end_s > start_s
    )
    return tuple(c for c in shown if c.start_s < c.end_s)
