from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import pytest
from numbered_video import write_numbered
from sound_tracks import Track, voice, write_tracks

from mit_builder.errors import MediaError
from mit_builder.media import audio_tracks
from mit_builder.media.audio_tracks import choose_sound
from mit_builder.media.file_cache import kept_by_file
from mit_builder.media.timeline import read_timeline


class Reader:
    """Reads files, and notes which."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def __call__(self, path: Path, *, upper: bool = False) -> str:
        self.read.append(path.name)
        text = path.read_text()
        return text.upper() if upper else text


@pytest.fixture
def reader() -> Reader:
    return Reader()


def test_a_file_is_read_once_for_each_option(reader: Reader, tmp_path: Path) -> None:
    path, look = tmp_path / "a", kept_by_file(reader.__call__)
    path.write_text("one")
    assert [look(path), look(path), look(path, upper=True), look(path, upper=True)] == ["one", "one", "ONE", "ONE"]
    assert reader.read == ["a", "a"]


@pytest.mark.parametrize("change", ["size", "time", "place"])
def test_a_file_that_changed_is_read_again(change: str, reader: Reader, tmp_path: Path) -> None:
    path, look = tmp_path / "a", kept_by_file(reader.__call__)
    path.write_text("one")
    look(path)
    state = path.stat()
    if change == "size":
        path.write_text("three")
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    elif change == "time":
        path.write_text("two")
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000))
    else:
        other = tmp_path / "b"
        other.write_text("two")
        os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))
        other.replace(path)
    assert look(path) == path.read_text() != "one"


def test_the_last_four_files_are_kept_and_no_more(reader: Reader, tmp_path: Path) -> None:
    look = kept_by_file(reader.__call__)
    for name in "abcde":
        (tmp_path / name).write_text(name)
        look(tmp_path / name)
    for name in "edcb":
        look(tmp_path / name)
    assert reader.read == list("abcde")
    look(tmp_path / "a")
    assert reader.read == list("abcdea")


def test_a_file_that_is_gone_is_asked_for_each_time(reader: Reader, tmp_path: Path) -> None:
    path, look = tmp_path / "a", kept_by_file(reader.__call__)
    path.write_text("one")
    look(path)
    path.unlink()
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            look(path)
    with pytest.raises(MediaError):
        read_timeline(path)


def test_timelines_and_sound_follow_the_file_and_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n_listened = 0
    listen = audio_tracks._listen

    def counted(*args: object) -> object:
        nonlocal n_listened
        n_listened += 1
        return listen(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(audio_tracks, "_listen", counted)
    path = write_tracks(tmp_path / "a.mkv", Track({0: voice(1)}))
    first = read_timeline(path), choose_sound(path)
    assert read_timeline(path) is first[0]
    assert choose_sound(path) is first[1]
    assert n_listened == 1
    assert choose_sound(path, "de") == first[1]
    write_tracks(path, Track({0: voice(1)}), Track({0: voice(2)}))
    assert len(choose_sound(path).tracks) == 2
    write_numbered(path, [i * 2 for i in range(50)], Fraction(1, 50))
    assert (read_timeline(path).n_frames, choose_sound(path).tracks) == (50, ())
