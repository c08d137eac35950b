from __future__ import annotations

import gc
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered_video import number_in, shown_at, write_numbered

from mit_builder.errors import MediaError
from mit_builder.media import timeline as timeline_module
from mit_builder.media.frames import read_frames
from mit_builder.media.timeline import nearest_frames, read_timeline
from mit_builder.media.write import ffmpeg_executable

SEED = 5


def regular(n: int, tick: int) -> list[int]:
    return [i * tick for i in range(n)]


def variable(n: int, low: int, high: int) -> list[int]:
    steps = np.random.default_rng(SEED).integers(low, high, n)
    return [int(t) for t in np.cumsum(steps)]


SOURCES = {
    "23.976": (regular(90, 1001), Fraction(1, 24000)),
    "24": (regular(90, 512), Fraction(1, 12288)),
    "25": (regular(90, 1), Fraction(1, 25)),
    "29.97": (regular(110, 1001), Fraction(1, 30000)),
    "50": (regular(150, 256), Fraction(1, 12800)),
    "59.94": (regular(200, 1001), Fraction(1, 60000)),
    "variable": (variable(90, 300, 9000), Fraction(1, 90000)),
    "late": ([137_137 + i * 1001 for i in range(90)], Fraction(1, 30000)),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_frame_of_a_whole_read_is_the_one_the_oracle_names(kind: str, tmp_path: Path) -> None:
    ticks, base = SOURCES[kind]
    path = write_numbered(tmp_path / "a.mp4", ticks, base)
    timeline = read_timeline(path)
    frames = list(read_frames(path))
    expected = shown_at([tick * base for tick in ticks], last_duration_s(path))
    assert timeline.source_frame_index.tolist() == expected
    assert [number_in(frame.image) for frame in frames] == expected
    assert [frame.source_index for frame in frames] == expected
    assert [frame.index for frame in frames] == list(range(timeline.n_frames))
    assert not timeline.is_counted


@pytest.mark.parametrize("kind", ["23.976", "59.94", "variable", "late"])
def test_every_range_starts_and_ends_with_the_frames_the_oracle_names(kind: str, tmp_path: Path) -> None:
    ticks, base = SOURCES[kind]
    path = write_numbered(tmp_path / "a.mp4", ticks, base)
    expected = shown_at([tick * base for tick in ticks], last_duration_s(path))
    random = np.random.default_rng(SEED)
    for start in random.integers(0, len(expected), 15).tolist():
        end = min(len(expected), start + int(random.integers(1, 20)))
        assert [number_in(frame.image) for frame in read_frames(path, start, end)] == expected[start:end]


@pytest.mark.parametrize(
    ("name", "codec", "base"),
    [
        ("a.mkv", "libx264", Fraction(1, 1000)),
        ("a.ts", "libx264", Fraction(1, 90000)),
        ("a.webm", "libvpx-vp9", Fraction(1, 1000)),
        ("vp8.webm", "libvpx", Fraction(1, 1000)),
        ("a.mov", "mpeg4", Fraction(1, 600)),
    ],
)
def test_other_containers_show_the_same_frames_in_any_range(
    name: str, codec: str, base: Fraction, tmp_path: Path
) -> None:
    ticks = [round(i * Fraction(1001, 30000) / base) for i in range(90)]
    path = write_numbered(tmp_path / name, ticks, base, codec=codec)
    timeline = read_timeline(path)
    expected = shown_at([tick * base for tick in ticks], last_duration_s(path))
    assert timeline.source_frame_index.tolist() == expected[: timeline.n_frames]
    assert timeline.n_frames >= len(expected) - 1
    assert [number_in(frame.image) for frame in read_frames(path)] == expected[: timeline.n_frames]
    for start in (3, 17, 40, 66):
        assert [number_in(f.image) for f in read_frames(path, start, start + 4)] == expected[start : start + 4]


def test_a_file_without_presentation_times_is_counted_at_its_average_rate(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "a.avi", regular(60, 1), Fraction(1, 30))
    timeline = read_timeline(path)
    expected = shown_at([Fraction(i, 30) for i in range(60)], Fraction(1, 30))
    assert [number_in(frame.image) for frame in read_frames(path)] == expected
    assert [number_in(frame.image) for frame in read_frames(path, 20, 30)] == expected[20:30]
    assert timeline.is_counted
    assert timeline.zero_s == 0


def test_frames_cut_off_by_an_edit_list_do_not_count(tmp_path: Path) -> None:
    whole = write_numbered(tmp_path / "whole.mp4", regular(90, 1), Fraction(1, 25))
    part = tmp_path / "part.mp4"
    command = [ffmpeg_executable(), "-v", "error", "-ss", "0.8", "-i", str(whole), "-c", "copy", str(part)]
    subprocess.run(command, check=True)
    with av.open(str(part)) as container:
        assert any(packet.is_discard for packet in container.demux(video=0)), "the file has no edit list"
    numbers = [number_in(frame.image) for frame in read_frames(part)]
    assert numbers == list(range(20, 90))
    assert read_timeline(part).source_frame_index.tolist() == list(range(70))
    assert [number_in(frame.image) for frame in read_frames(part, 5, 9)] == numbers[5:9]


def test_open_groups_of_pictures_are_entered_at_the_right_keyframe(tmp_path: Path) -> None:
    options = {"x264-params": "open-gop=1:keyint=12:min-keyint=12:bframes=3:b-adapt=0:scenecut=0"}
    path = write_numbered(tmp_path / "a.mp4", regular(90, 1), Fraction(1, 25), options=options)
    whole = [frame.image for frame in read_frames(path)]
    for start in range(0, 90, 7):
        frame = next(read_frames(path, start))
        assert np.array_equal(frame.image, whole[start])


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_packet_times_alone_and_a_full_decode_give_one_timeline(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_numbered(tmp_path / name, variable(90, 3, 90), Fraction(1, 1000))
    with monkeypatch.context() as patch:
        patch.setattr(timeline_module, "_decoded_times", None)
        by_packets = read_timeline(path)
    monkeypatch.setattr(timeline_module, "_packet_times", lambda *_: None)
    by_frames = read_timeline(path)
    assert by_packets.source_pts.tolist() == by_frames.source_pts.tolist()
    assert by_packets.source_frame_index.tolist() == by_frames.source_frame_index.tolist()
    assert by_packets.keyframes.tolist() == by_frames.keyframes.tolist()


def test_equally_near_frames_resolve_to_the_later() -> None:
    assert nearest_frames([0, 2, 4], Fraction(1, 50), 2).tolist() == [0, 1, 2]
    assert nearest_frames([0, 1, 3, 5], Fraction(1, 50), 1).tolist() == [0, 2, 3]


@pytest.mark.parametrize("base", [Fraction(1, 90000), Fraction(1, 10**9), Fraction(1001, 10**9 + 7)])
def test_long_videos_and_fine_clocks_do_not_overflow(base: Fraction) -> None:
    pts = [round((4 * 3600 + Fraction(i, 24)) / base) for i in range(48)]
    assert nearest_frames(pts, base, None).tolist() == shown_at([p * base for p in pts], (pts[-1] - pts[-2]) * base)


def test_one_frame_without_a_duration_lasts_one_frame() -> None:
    assert nearest_frames([7], Fraction(1, 90000), None).tolist() == [0]


@pytest.mark.parametrize("content", [b"", b"just text\n" * 50, bytes(range(256)) * 40, b"#EXTM3U\n#EXTINF:1,\na.ts\n"])
def test_files_that_are_no_video_fail_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"a\.mp4") as caught:
        read_timeline(path)
    assert "\n" not in str(caught.value)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with av.open(str(path), "w") as container:
        container.add_stream("pcm_s16le", rate=16000, layout="mono")
    with pytest.raises(MediaError):
        read_timeline(path)


def last_duration_s(path: Path) -> Fraction:
    """Duration that the container gives to the last frame (MP4 stores that of decoding order), else the last step."""
    with av.open(str(path)) as container:
        packets = sorted((p for p in container.demux(video=0) if p.pts is not None), key=lambda p: p.pts or 0)
        return ((packets[-1].duration or 0) or (packets[-1].pts or 0) - (packets[-2].pts or 0)) * packets[-1].time_base


RATES = st.one_of(
    st.sampled_from([Fraction(n, 1001) for n in (24000, 30000, 48000, 60000, 120000)]),
    st.integers(1, 240).map(Fraction),
    st.fractions(min_value=Fraction(1, 3), max_value=240, max_denominator=5000),
)
CLOCKS = st.sampled_from(
    [Fraction(1, n) for n in (600, 1000, 1001, 12800, 15360, 24000, 30000, 60000, 90000, 705600, 10**6, 10**9)]
)


@settings(deadline=None, max_examples=100)
@given(RATES, CLOCKS, st.integers(1, 30), st.integers(-(10**6), 10**9), st.lists(st.floats(-0.49, 0.49), min_size=30))
def test_any_rate_clock_start_and_jitter_give_the_frames_the_oracle_names(
    rate: Fraction, clock: Fraction, n_frames: int, start: int, jitter: list[float]
) -> None:
    times = sorted({start + round((i + Fraction(jitter[i])) / rate / clock) for i in range(n_frames)})
    last = (times[-1] - times[-2]) if len(times) > 1 else round(1 / rate / clock) or 1
    assert nearest_frames(times, clock, last).tolist() == shown_at([t * clock for t in times], last * clock)


def test_no_decoded_frame_outlives_its_use(demo_video: Path) -> None:
    def n_frames() -> int:
        # isinstance would ask each object for its class, and some of torch's warn then.
        return sum(type(thing) is av.VideoFrame for thing in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = n_frames()
        read_timeline(demo_video)
        next(iter(read_frames(demo_video)))
        assert n_frames() == before
    finally:
        gc.enable()
