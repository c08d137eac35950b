"""Clips that keep the source's frames: which frames, when they are due, and what the timeline makes of them."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered_video import number_in, shown_at, write_numbered

from mit_builder.errors import MediaError
from mit_builder.media import cut as cut_module
from mit_builder.media.audio import read_samples
from mit_builder.media.clip import read_clip
from mit_builder.media.cut import CutResult, cut_clip, cut_native
from mit_builder.media.frames import read_frames
from mit_builder.media.probe import probe
from mit_builder.media.timeline import read_timeline
from mit_builder.media.write import write_timed_video

N_SOURCE = 150
VARIES = [0, 7, 9, 30, 31, 33, 70, 71, 100, 140, 141, 150, 190, 195, 240, 260, 300, 301, 302, 340, 341, 400]
"""Frames of a source whose rate varies, in hundredths of a second."""
KINDS = {
    "12.5": (Fraction(25, 2), Fraction(1, 12_800)),
    "23.976": (Fraction(24000, 1001), Fraction(1, 24_000)),
    "25": (Fraction(25), Fraction(1, 25)),
    "29.97": (Fraction(30000, 1001), Fraction(1, 30_000)),
    "30 in milliseconds": (Fraction(30), Fraction(1, 1000)),
    "50": (Fraction(50), Fraction(1, 90_000)),
    "59.94": (Fraction(60000, 1001), Fraction(1, 60_000)),
    "60": (Fraction(60), Fraction(1, 15_360)),
}


def ticks_of(kind: str, late_s: Fraction = Fraction(0)) -> tuple[list[int], Fraction]:
    if kind == "varies":
        return [3 * tick for tick in VARIES], Fraction(1, 300)
    rate, base = KINDS[kind]
    return [round((late_s + i / rate) / base) for i in range(N_SOURCE)], base


def native(source: Path, start: int, end: int, folder: Path, name: str = "clip") -> CutResult:
    return cut_native(source, start, end, folder / f"{name}.mp4", folder / f"{name}.flac", crf=16, audio_kbps=192)


def due_s(path: Path) -> list[tuple[Fraction, int]]:
    """When every frame of a file is due after the first, with the number it shows."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [(f.pts * stream.time_base, number_in(f.to_ndarray(format="rgb24"))) for f in container.decode(stream)]
    return [(due - frames[0][0], number) for due, number in frames]


def noise(seconds: float, rate_hz: int = 48_000) -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).integers(-8000, 8000, round(seconds * rate_hz)).astype(np.int16)


def check(ticks: Sequence[int], base: Fraction, start: int, end: int, result: CutResult, folder: Path) -> None:
    """All that a clip with the source's frames promises."""
    times = [(tick - ticks[0]) * base for tick in ticks]
    shown = shown_at(times, times[-1] - times[-2])[start:end]
    assert list(result.source_frame_index) == shown
    media = due_s(folder / "clip.mp4")
    assert [number for _, number in media] == list(range(shown[0], shown[-1] + 1)), "every frame of the source, once"
    zero = Fraction(start, 25)
    assert [due for due, _ in media[1:]] == [times[number] - zero for _, number in media[1:]], "at its own time"
    assert [media[place][1] for place in result.media_frame_index] == shown
    read = list(read_clip(folder / "clip.mp4", end - start, result.media_frame_index))
    assert [frame.index for frame in read] == list(range(end - start))
    assert [number_in(frame.image) for frame in read] == shown, "the labels' frames"


@pytest.mark.parametrize(
    ("kind", "late_s"), [*((kind, Fraction(0)) for kind in (*KINDS, "varies")), ("29.97", Fraction(1001, 1000))]
)
def test_every_frame_of_the_source_is_there_at_its_time_and_the_timeline_shows_the_right_ones(
    kind: str, late_s: Fraction, tmp_path: Path
) -> None:
    ticks, base = ticks_of(kind, late_s)
    source = write_numbered(tmp_path / "a.mov", ticks, base, sound=noise(6))
    result = native(source, 13, 47, tmp_path)
    check(ticks, base, 13, 47, result, tmp_path)
    assert result.n_frames == 34


@pytest.mark.parametrize("kind", ["12.5", "29.97", "60", "varies"])
def test_the_timeline_shows_the_same_source_frames_as_a_clip_at_25(kind: str, tmp_path: Path) -> None:
    ticks, base = ticks_of(kind)
    source = write_numbered(tmp_path / "a.mov", ticks, base)
    steady = cut_clip(source, 5, 40, tmp_path / "b.mp4", tmp_path / "b.flac", crf=16, audio_kbps=192)
    result = native(source, 5, 40, tmp_path)
    numbers = [number_in(frame.image) for frame in read_frames(tmp_path / "b.mp4")]
    assert [number_in(f.image) for f in read_clip(tmp_path / "clip.mp4", 35, result.media_frame_index)] == numbers
    assert result.source_frame_index == steady.source_frame_index
    assert (tmp_path / "b.flac").read_bytes() == (tmp_path / "clip.flac").read_bytes()


def test_no_frame_after_the_last_one_shown_is_taken(tmp_path: Path) -> None:
    """A shot that begins between two frames of the timeline is a neighbour's."""
    ticks, base = ticks_of("60")
    source = write_numbered(tmp_path / "a.mp4", ticks, base)
    result = native(source, 0, 11, tmp_path)
    assert result.source_frame_index[-1] == 24
    assert due_s(tmp_path / "clip.mp4")[-1][1] == 24


def test_sound_stays_with_the_picture(tmp_path: Path) -> None:
    sound = np.zeros(48_000 * 4, np.int16)
    sound[round(48_000 * 2.2)] = 30_000
    ticks, base = ticks_of("29.97")
    source = write_numbered(tmp_path / "a.mov", ticks, base, sound=sound)
    native(source, 30, 80, tmp_path)
    heard = np.abs(read_samples(tmp_path / "clip.mp4", 0, 50).astype(int)).argmax()
    assert abs(int(heard) - round((2.2 - 1.2) * 16_000)) <= 1


def test_a_cut_again_has_the_same_bytes(tmp_path: Path) -> None:
    ticks, base = ticks_of("varies")
    source = write_numbered(tmp_path / "a.mov", ticks, base, sound=noise(4))
    assert native(source, 7, 40, tmp_path, "one") == native(source, 7, 40, tmp_path, "two")
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mov", "one.flac", "one.mp4", "two.flac", "two.mp4"]


def test_a_clip_of_one_frame(tmp_path: Path) -> None:
    source = write_numbered(tmp_path / "a.mp4", list(range(60)), Fraction(1, 25))
    result = native(source, 30, 31, tmp_path)
    assert (result.media_frame_index, result.source_frame_index) == ((0,), (30,))


def test_a_clip_that_lacks_frames_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks, base = ticks_of("50")
    source = write_numbered(tmp_path / "a.mp4", ticks, base)

    def forgetful(path: Path, frames: Any, **options: Any) -> None:
        write_timed_video(path, list(frames)[:-1], **options)

    monkeypatch.setattr(cut_module, "write_timed_video", forgetful)
    with pytest.raises(MediaError, match="58 frames in place of 59"):
        native(source, 0, 30, tmp_path)


@pytest.mark.parametrize(("start", "end"), [(10, 10), (10, 5), (50, 70), (-1, 5)])
def test_ranges_that_are_no_clip_are_refused(start: int, end: int, tmp_path: Path) -> None:
    source = write_numbered(tmp_path / "a.mp4", list(range(60)), Fraction(1, 25))
    with pytest.raises(MediaError, match=f"frames {start}..{end}"):
        native(source, start, end, tmp_path)


def test_a_source_damaged_in_the_middle_keeps_what_decodes(tmp_path: Path) -> None:
    ticks, base = ticks_of("50")
    whole = write_numbered(tmp_path / "whole.mp4", ticks, base)
    data = bytearray(whole.read_bytes())
    with av.open(str(whole)) as container:
        packet = next(p for p in container.demux(video=0) if p.is_keyframe and p.pts * p.time_base > 1)
        data[packet.pos + 5 : packet.pos + packet.size] = bytes(packet.size - 5)
    source = tmp_path / "a.mp4"
    source.write_bytes(data)
    result = native(source, 10, 60, tmp_path)
    shown = [frame.source_index for frame in read_frames(source, 10, 60)]
    assert list(result.source_frame_index) == shown
    ranks = sorted(set(range(shown[0], shown[-1] + 1)))
    assert len(due_s(tmp_path / "clip.mp4")) <= len(ranks)
    assert len(list(read_clip(tmp_path / "clip.mp4", 50, result.media_frame_index))) == 50


@pytest.mark.parametrize("index", [range(40), (0,) * 29, (0, 1) * 15])
def test_an_index_that_does_not_fit_the_file_is_refused(index: Sequence[int], tmp_path: Path) -> None:
    write_timed_video(
        tmp_path / "a.mp4",
        ((n * 2, np.full((32, 32, 3), n, np.uint8)) for n in range(30)),
        ticks_per_s=50,
        width_px=32,
        height_px=32,
    )
    with pytest.raises(MediaError, match=r"frames in place of|values for"):
        read_clip(tmp_path / "a.mp4", 30, index)
    assert len(list(read_clip(tmp_path / "a.mp4", 30))) == 30


def test_an_odd_picture_gets_one_more_column_and_row(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (33, 31, 3), np.uint8)
    write_timed_video(tmp_path / "a.mp4", [(0, picture), (9, picture)], ticks_per_s=90, width_px=31, height_px=33)
    info = probe(tmp_path / "a.mp4")
    assert (info.width_px, info.height_px) == (32, 34)


def test_what_ffmpeg_says_is_the_error_and_nothing_is_left(tmp_path: Path) -> None:
    frames = ((n, np.zeros((480, 640, 3), np.uint8)) for n in range(200))
    place = tmp_path / "missing" / "a.mp4"
    with pytest.raises(MediaError, match=r"cannot write a\.mp4: ffmpeg says"):
        write_timed_video(place, frames, ticks_per_s=25, width_px=640, height_px=480)
    with pytest.raises(ValueError, match="frames must be"):
        write_timed_video(
            tmp_path / "b.mp4", [(0, np.zeros((4, 4, 3), np.uint8))], ticks_per_s=25, width_px=8, height_px=8
        )
    assert not (tmp_path / "b.mp4").exists()


def test_a_killed_ffmpeg_is_short_of_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def frames() -> Any:
        for n in range(400):
            if n == 20:
                for process in started:
                    process.kill()
            yield n, np.zeros((480, 640, 3), np.uint8)

    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def noting(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(start(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", noting)
    with pytest.raises(MediaError) as caught:
        write_timed_video(tmp_path / "a.mp4", frames(), ticks_per_s=25, width_px=640, height_px=480)
    assert caught.value.failure_class == "resource"
    assert not (tmp_path / "a.mp4").exists()


@settings(max_examples=6, deadline=None)
@given(
    st.lists(st.integers(300, 4000), min_size=30, max_size=60),
    st.sampled_from((Fraction(1, 1000), Fraction(1, 12_800), Fraction(1, 30_000), Fraction(1, 90_000))),
    st.integers(0, 5000),
    st.data(),
)
def test_any_cut_of_any_source(
    tmp_path_factory: pytest.TempPathFactory, gaps: list[int], base: Fraction, late: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("drawn")
    gaps = [max(1, int(gap * Fraction(1, 30_000) / base)) for gap in gaps]
    ticks = np.cumsum([late, *gaps]).tolist()
    times = [(tick - ticks[0]) * base for tick in ticks]
    source = write_numbered(folder / "a.mov", ticks, base)
    # The muxer may make the last frame last as long as another one: what comes after its start is not looked at.
    n_frames = min(read_timeline(source).n_frames, len(shown_at(times, base)))
    start = data.draw(st.integers(0, n_frames - 2), label="start")
    end = data.draw(st.integers(start + 1, n_frames), label="end")
    check(ticks, base, start, end, native(source, start, end, folder), folder)
