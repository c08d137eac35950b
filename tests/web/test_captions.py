from __future__ import annotations

from typing import Any

import pytest

from mit_builder.media.captions import MAX_FILES
from mit_builder.web.captions import choose


def offered(*languages: str | None, exts: tuple[str, ...] = ("json3", "vtt")) -> dict[Any, list[dict[str, str]]]:
    return {language: [{"ext": ext, "url": f"https://host/{language}.{ext}"} for ext in exts] for language in languages}


@pytest.mark.parametrize(
    ("people", "machines", "wanted", "chosen"),
    [
        (("de", "en-GB"), ("en", "fr"), ["all"], ["de", "en-GB"]),
        (("de", "en-GB"), ("en", "fr"), ["en"], ["en-GB"]),
        (("de",), ("en", "en-orig", "fr"), ["en"], ["en-orig*"]),
        (("de",), ("en", "en-x", "fr"), ["en"], ["en*"]),
        (("de",), ("en-US",), ["all", "en", "fr"], ["de", "en-US*"]),
        (("eng", "english"), (), ["en"], []),
        ((None,), (), ["all"], ["und"]),
        ((), ("en",), ["all"], []),
        (("en",), ("en",), [], []),
    ],
)
def test_people_come_first_and_machines_only_where_their_language_is_named(
    people: tuple[str, ...], machines: tuple[str, ...], wanted: list[str], chosen: list[str]
) -> None:
    info = {"subtitles": offered(*people), "automatic_captions": offered(*machines)}
    tracks = choose(info, wanted)
    assert [track.language + "*" * track.automatic for track in tracks] == chosen
    assert {track.suffix for track in tracks} <= {".vtt"}


def test_formats_that_are_not_read_are_not_fetched() -> None:
    info = {"subtitles": {**offered("en", exts=("ttml", "json3")), **offered("de", exts=("srt", "ttml"))}}
    assert [(track.language, track.suffix) for track in choose(info, ["all"])] == [("de", ".srt")]
    assert choose({}, ["all", "en"]) == []


def test_there_are_not_too_many() -> None:
    assert len(choose({"subtitles": offered(*(f"x{n}" for n in range(100)))}, ["all"])) == MAX_FILES
