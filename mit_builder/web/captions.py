"""Which captions are taken of those that a site offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mit_builder.media.captions import FORMATS, MAX_FILES, UNKNOWN

ALL = "all"
"""In the setting: whatever people wrote, in any language."""


@dataclass(frozen=True)
class Track:
    """Captions on offer: `entry` is what yt-dlp knows of their file."""

    language: str
    automatic: bool
    suffix: str
    entry: dict[str, Any]


def choose(info: dict[str, Any], wanted: Sequence[str]) -> list[Track]:
    """The tracks to fetch, at most `MAX_FILES`.

    `ALL` takes what people wrote. A language takes what people wrote in it and its variants ("en": en, en-GB); where
    there is nothing, what a machine wrote, one track. `ALL` takes nothing of machines, because sites offer their
    translations into a hundred languages.
    """
    named = [language for language in wanted if language != ALL]
    by_people = _readable(info.get("subtitles"), automatic=False)
    by_machines = _readable(info.get("automatic_captions"), automatic=True)
    chosen = [track for track in by_people if ALL in wanted or any(_is(track, language) for language in named)]
    for language in named:
        if not any(_is(track, language) for track in chosen):
            chosen += sorted((t for t in by_machines if _is(t, language)), key=lambda t: _rank(t, language))[:1]
    return chosen[:MAX_FILES]


def _readable(offered: dict[Any, list[dict[str, Any]]] | None, *, automatic: bool) -> list[Track]:
    """One track a language, in the first format that is read."""
    by_language = {str(language or UNKNOWN): entries for language, entries in (offered or {}).items()}
    tracks = (_first(language, entries, automatic) for language, entries in sorted(by_language.items()))
    return [track for track in tracks if track]


def _first(language: str, entries: list[dict[str, Any]], automatic: bool) -> Track | None:
    by_suffix = {f".{entry.get('ext')}": entry for entry in reversed(entries)}
    suffix = next((suffix for suffix in FORMATS if suffix in by_suffix), None)
    return Track(language, automatic, suffix, by_suffix[suffix]) if suffix else None


def _is(track: Track, language: str) -> bool:
    return track.language == language or track.language.startswith(f"{language}-")


def _rank(track: Track, language: str) -> tuple[bool, bool, str]:
    """What was spoken comes before what was translated."""
    return track.language != f"{language}-orig", track.language != language, track.language
