"""Which tracks are heard; each test with a voice of its own in every track."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sound_tracks import N_FRAMES, Track, likeness, voice, write_tracks

from mit_builder.media.audio import read_samples
from mit_builder.media.audio_tracks import Sound, choose_sound, short_code

A, B, C = voice(1), voice(2), voice(3)
SILENT = np.zeros_like(A)
STEREO = {"layout": "stereo"}


def heard_of(path: Path, sound: Sound) -> np.ndarray[Any, Any]:
    return read_samples(path, 0, N_FRAMES, sound=sound.tracks)


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        ({"roles": ("visual_impaired",)}, {"roles": ("default", "original")}, "original, default"),
        ({}, {"roles": ("default",)}, "default"),
        ({"roles": ("default",), "language": "ger"}, {"roles": ("original",), "language": "eng"}, "original"),
        ({"roles": ("default", "dub")}, {}, "first"),
        ({"roles": ("default", "comment")}, {}, "first"),
        ({"roles": ("default", "hearing_impaired")}, {}, "first"),
        ({"roles": ("default",), "title": "Director's Commentary"}, {"title": "Stereo"}, "first"),
        ({"roles": ("default",), "title": "English AD"}, {"title": "English"}, "first"),
        ({"roles": ("default",), "title": "Deutsch (Synchronfassung)"}, {"title": "Original"}, "original"),
        ({"language": "qad", "title": "Audio description"}, {"language": "qaa"}, "original"),
        ({"title": "Music and effects"}, {}, "first"),
    ],
)
def test_the_second_track_is_heard_where_the_first_is_not_what_people_say(
    first: dict[str, Any], second: dict[str, Any], why: str, tmp_path: Path
) -> None:
    path = write_tracks(tmp_path / "a.mkv", Track({0: A}, **first), Track({0: B}, **second))
    sound = choose_sound(path)
    assert [track.weights for track in sound.tracks] == [(), (1.0,)]
    assert sound.tracks[1].why == why
    assert likeness(heard_of(path, sound), B) > 0.99


@pytest.mark.parametrize(
    ("first", "second"), [(STEREO, STEREO), ({"title": "Boom"}, {"title": "Interview"}), ({}, STEREO)]
)
def test_tracks_that_something_tells_apart_are_not_mixed(
    first: dict[str, Any], second: dict[str, Any], tmp_path: Path
) -> None:
    path = write_tracks(tmp_path / "a.mkv", Track({0: A}, **first), Track({0: B}, **second))
    sound = choose_sound(path)
    assert [bool(track.weights) for track in sound.tracks] == [True, False]
    assert sound.tracks[1].why == "not chosen"
    assert likeness(heard_of(path, sound), A) > 0.99


def test_a_track_of_another_length_is_no_microphone_of_the_same_camera(tmp_path: Path) -> None:
    path = write_tracks(tmp_path / "a.mov", Track({0: A}), Track({0: voice(2, n_s=1.5)}))
    assert [bool(track.weights) for track in choose_sound(path).tracks] == [True, False]


@pytest.mark.parametrize("asked", ["de", "deu", "ger", "DE-at"])
def test_a_language_that_is_asked_for_comes_first_by_any_of_its_codes(asked: str, tmp_path: Path) -> None:
    tracks = [
        Track({0: A}, language="eng", roles=("default", "original")),
        Track({0: B}, language="ger", roles=("comment",)),
        Track({0: C}, language="ger", roles=("dub",)),
    ]
    path = write_tracks(tmp_path / "a.mkv", *tracks)
    assert [bool(track.weights) for track in choose_sound(path).tracks] == [True, False, False]
    assert [track.language for track in choose_sound(path).tracks] == ["eng", "ger", "ger"]
    sound = choose_sound(path, asked)
    assert [bool(track.weights) for track in sound.tracks] == [False, False, True]
    assert sound.tracks[2].why == "of the language asked for"
    assert [bool(track.weights) for track in choose_sound(path, "fr").tracks] == [True, False, False]


def test_silent_tracks_are_passed_over_and_late_voices_are_not_missed(tmp_path: Path) -> None:
    late = np.concatenate([np.zeros(40_000, np.int16), B[:8_000]])
    dither = np.random.default_rng(0).integers(-1, 2, len(A)).astype(np.int16)
    tracks = [Track({0: SILENT}, roles=("default",)), Track({0: dither}, **STEREO), Track({0: late}, title="late")]
    path = write_tracks(tmp_path / "a.mkv", *tracks)
    sound = choose_sound(path)
    assert [(bool(t.weights), t.why) for t in sound.tracks] == [(False, "silent"), (False, "silent"), (True, "first")]
    assert likeness(heard_of(path, sound), late) > 0.99


def test_where_all_is_silent_the_first_choice_stays(tmp_path: Path) -> None:
    path = write_tracks(tmp_path / "a.mkv", Track({0: SILENT}, **STEREO), Track({0: SILENT}, roles=("default",)))
    sound = choose_sound(path)
    assert [(bool(t.weights), t.why, t.level_dbfs) for t in sound.tracks] == [
        (False, "silent", None),
        (True, "silent", None),
    ]
    assert sound.gain_db == 0
    assert not heard_of(path, sound).any()


@pytest.mark.parametrize(
    ("suffix", "titles"), [("mov", (None, None)), ("mxf", (None, None)), ("mkv", ("Lav 1", "Lav 2"))]
)
def test_microphones_of_one_camera_are_heard_together(
    suffix: str, titles: tuple[str | None, ...], tmp_path: Path
) -> None:
    # Broadcast files hold nothing but 48 kHz.
    rate_hz = 48_000 if suffix == "mxf" else 16_000
    tracks = [Track({0: wave}, title=title, rate_hz=rate_hz) for wave, title in zip((A, B), titles, strict=True)]
    path = write_tracks(tmp_path / f"a.{suffix}", *tracks, Track({0: SILENT}, title=titles[0], rate_hz=rate_hz))
    sound = choose_sound(path)
    assert [track.weights for track in sound.tracks] == [(0.5,), (0.5,), ()]
    assert [track.why for track in sound.tracks] == ["one of 2 microphones", "one of 2 microphones", "silent"]
    heard = heard_of(path, sound)
    # The 48 kHz are 16 repeated, which the resampler smooths.
    assert likeness(heard, A.astype(float) + B) > (0.999 if rate_hz == 16_000 else 0.8)
    assert min(likeness(heard, A), likeness(heard, B)) > 0.55


def test_a_microphone_wired_the_wrong_way_round_does_not_cancel_the_other(tmp_path: Path) -> None:
    path = write_tracks(tmp_path / "a.mov", Track({0: A}), Track({0: -A}))
    sound = choose_sound(path)
    assert [track.weights for track in sound.tracks] == [(0.5,), (-0.5,)]
    assert likeness(heard_of(path, sound), A) > 0.99


def test_the_voice_on_the_third_track_of_a_broadcast_file_is_heard(tmp_path: Path) -> None:
    tracks = [Track({0: wave}, rate_hz=48_000) for wave in (SILENT, SILENT, C)]
    path = write_tracks(tmp_path / "a.mxf", *tracks)
    sound = choose_sound(path)
    assert [track.weights for track in sound.tracks] == [(), (), (1.0,)]
    assert np.abs(heard_of(path, sound)).max() > 1000


def test_alternatives_stand_in_the_rows_with_what_the_file_says_of_them(tmp_path: Path) -> None:
    title = "Com\x07mentary  by\nX" + "x" * 200
    path = write_tracks(
        tmp_path / "a.mkv",
        Track({0: A}, language="eng", title="Main", roles=("default",)),
        Track({0: B, 1: B}, layout="stereo", language="fre", title=title, roles=("comment",)),
    )
    main, comment = choose_sound(path).tracks
    assert (main.stream, main.language, main.title, main.roles) == (1, "eng", "Main", ("default",))
    assert (main.level_dbfs, main.n_channels, main.rate_hz) == (pytest.approx(-23, abs=1.5), 1, 16_000)
    assert (comment.stream, comment.language, comment.roles, comment.level_dbfs) == (2, "fre", ("comment",), None)
    assert comment.title is not None
    assert len(comment.title) == 100
    assert comment.title.isprintable()


def test_choosing_is_repeatable(tmp_path: Path) -> None:
    path = write_tracks(tmp_path / "a.mkv", Track({0: A, 1: B}, codec="aac", **STEREO))
    assert choose_sound(path) == choose_sound(path)
    assert choose_sound(path).gain_db == pytest.approx(-23 - (choose_sound(path).tracks[0].level_dbfs or 0), abs=0.05)


def test_listening_for_days_takes_no_more_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = write_tracks(tmp_path / "a.mkv", Track({0: A, 1: -A}, **STEREO))
    whole = choose_sound(path)
    monkeypatch.setattr("mit_builder.media.audio_tracks._MOST_VALUES", 8)
    few = choose_sound(path)
    assert few.tracks[0].weights == whole.tracks[0].weights == (0.5, -0.5)
    assert few.gain_db == pytest.approx(whole.gain_db, abs=0.5)


def test_rows_of_before_choose_when_they_are_read(tmp_path: Path) -> None:
    # Old Video rows have no sound: audio.read_samples without one chooses as well.
    path = write_tracks(tmp_path / "a.mkv", Track({0: A}, roles=("comment",)), Track({0: B}))
    assert np.array_equal(read_samples(path, 0, N_FRAMES), heard_of(path, choose_sound(path)))
    muted = [replace(track, weights=()) for track in choose_sound(path).tracks]
    assert not read_samples(path, 0, N_FRAMES, sound=muted).any()


@pytest.mark.parametrize(
    ("language", "short"),
    [("eng", "en"), ("en-US", "en"), ("deu", "de"), ("ger", "de"), (" FRE_ca", "fr"), ("fil", "fil"), ("xyz", "xyz")],
)
def test_a_language_has_one_short_code(language: str, short: str) -> None:
    assert short_code(language) == short
