"""One clock a file: picture and sound stay together whatever the container's times do."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from sync_matrix import N_FRAMES, STARTS_S, distances_ms, flash_and_click, worst_ms

from mit_builder.media import timeline as timeline_module
from mit_builder.media.audio import read_samples
from mit_builder.media.frames import read_frames
from mit_builder.media.jumps import find_clock
from mit_builder.media.timeline import read_timeline
from mit_builder.media.write import ffmpeg_executable

MPEG = ["-c:v", "mpeg2video", "-b:v", "800k", "-bf", "2", "-c:a", "mp2"]
H264 = ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-c:a", "aac"]
WIDTH_OF_CLOCK_S = Fraction(1 << 33, 90_000)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return flash_and_click(tmp_path_factory.mktemp("source"))


@pytest.mark.parametrize(
    ("container", "kind", "b_frames", "start_s"),
    [
        ("MP4", "trimmed", True, STARTS_S[0]),
        ("MOV", "trimmed", False, STARTS_S[3]),
        ("WebM", "joined", False, STARTS_S[1]),
        ("MKV, bytes joined", "joined", True, STARTS_S[2]),
        ("TS", "joined", True, STARTS_S[3]),
        ("M2TS", "joined", False, STARTS_S[1]),
        ("PS", "joined", True, STARTS_S[0]),
        ("AVI, H.264", "whole", False, STARTS_S[0]),
        ("AVI, H.264", "whole", True, STARTS_S[2]),
        ("AVI, MPEG-4", "joined", True, STARTS_S[1]),
        ("ASF, H.264", "whole", True, STARTS_S[0]),
        ("ASF, H.264", "trimmed", True, STARTS_S[1]),
        ("FLV", "joined", True, STARTS_S[3]),
        ("MXF", "whole", True, STARTS_S[1]),
    ],
)
def test_a_flash_and_a_click_of_one_moment_stay_together(
    source: tuple[Path, Path], tmp_path: Path, container: str, kind: str, b_frames: bool, start_s: Fraction
) -> None:
    # Also in those that count frames: `tests/sync_matrix.py` writes AVI whose sound needs no delay.
    assert abs(worst_ms(source, tmp_path, container, kind, b_frames, start_s)) <= 1.05


def ffmpeg(*arguments: Any) -> None:
    command = [ffmpeg_executable(), "-nostdin", "-y", "-v", "error", "-threads", "1", *map(str, arguments)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def halves(
    source: tuple[Path, Path], folder: Path, ending: str, coding: list[str], at_s: tuple[float, ...]
) -> list[Path]:
    """Both halves of the moments, each with times that begin where it is said."""
    made = []
    for k, start_s in enumerate(at_s):
        cut = ["-ss", 3 * k, "-t", 3]
        path = folder / f"half{k}.{ending}"
        ffmpeg(
            *cut,
            "-i",
            source[0],
            *cut,
            "-i",
            source[1],
            "-pix_fmt",
            "yuv420p",
            *coding,
            "-output_ts_offset",
            start_s,
            path,
        )
        made.append(path)
    return made


@pytest.mark.parametrize(
    ("ending", "at_s", "n_jumps", "cuts"),
    [
        ("ts", (0, 0), 1, []),
        ("ts", (1000, 0), 1, [75]),
        ("ts", (20, 0), 1, [75]),
        ("ts", (0, 6), 1, [75]),
        ("ts", (0, 1000), 1, [75]),
        ("ts", (float(WIDTH_OF_CLOCK_S) - 4.4, float(WIDTH_OF_CLOCK_S) - 1.4), 0, []),
        ("mpg", (1000, 0), 1, [75]),
        ("mpg", (0, 6), 1, [75]),
    ],
    ids=["restart", "back 997 s", "back 17 s", "ahead 3 s", "ahead 997 s", "wrap", "PS back", "PS ahead"],
)
def test_times_that_jump_lose_nothing_and_end_the_shot(
    source: tuple[Path, Path], tmp_path: Path, ending: str, at_s: tuple[float, ...], n_jumps: int, cuts: list[int]
) -> None:
    path = tmp_path / f"joined.{ending}"
    coding = H264 if ending == "ts" else MPEG
    path.write_bytes(b"".join(half.read_bytes() for half in halves(source, tmp_path, ending, coding, at_s)))
    timeline = read_timeline(path)
    assert timeline.n_frames == N_FRAMES
    assert [frame.source_index for frame in read_frames(path, timeline=timeline)] == list(range(N_FRAMES))
    assert (len(timeline.clock.jumps), timeline.cuts) == (n_jumps, cuts)
    found = distances_ms(path)
    assert len(found) == 4
    assert max(map(abs, found)) <= 1


def test_a_jump_ahead_that_was_copied_into_mp4_is_no_frozen_picture(source: tuple[Path, Path], tmp_path: Path) -> None:
    path, copied = tmp_path / "joined.ts", tmp_path / "copied.mp4"
    path.write_bytes(b"".join(half.read_bytes() for half in halves(source, tmp_path, "ts", H264, (0, 20))))
    ffmpeg("-i", path, "-c", "copy", "-copyts", copied)
    timeline = read_timeline(copied)
    assert (timeline.n_frames, timeline.cuts) == (N_FRAMES, [75])
    assert max(map(abs, distances_ms(copied))) <= 1


def join_flv(halves: list[bytes]) -> bytes:
    """The second without its header, as recorders go on after a break."""
    return halves[0] + halves[1][13:]


def join_asf(halves: list[bytes]) -> bytes:
    """The packets of both in the first one's data object."""
    name = bytes.fromhex("3626B2758E66CF11A6D900AA0062CE6C")
    packets = []
    for content in halves:
        at = content.rindex(name)
        (size,) = struct.unpack_from("<Q", content, at + 16)
        packets.append(content[at + 50 : at + size])
    at = halves[0].rindex(name)
    size_field = struct.pack("<Q", 50 + sum(map(len, packets)))
    return halves[0][: at + 16] + size_field + halves[0][at + 24 : at + 50] + b"".join(packets)


@pytest.mark.parametrize(
    ("ending", "join", "sound"),
    [("flv", join_flv, "aac"), ("asf", join_asf, "pcm_s16le"), ("avi", b"".join, "pcm_s16le")],
)
def test_recordings_joined_in_other_containers_go_on(
    source: tuple[Path, Path], tmp_path: Path, ending: str, join: Callable[[list[bytes]], bytes], sound: str
) -> None:
    parts = halves(source, tmp_path, ending, [*H264[:-1], sound], (0, 0))
    path = tmp_path / f"joined.{ending}"
    path.write_bytes(join([part.read_bytes() for part in parts]))
    timeline = read_timeline(path)
    assert (timeline.n_frames, timeline.cuts) == (N_FRAMES, [])
    found = distances_ms(path)
    assert len(found) == 4
    # ASF and FLV count milliseconds, and the second half's times are rounded anew.
    assert max(map(abs, found)) <= 1.5


def test_a_picture_that_stands_still_while_sound_goes_on_is_no_jump(source: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "still.mkv"
    ffmpeg("-i", source[0], "-i", source[1], "-vf", "select=lt(n\\,50)+gt(n\\,120)", "-fps_mode", "passthrough",
           "-pix_fmt", "yuv420p", *H264, path)  # fmt: skip
    timeline = read_timeline(path)
    assert timeline.n_frames == N_FRAMES
    assert not timeline.clock.jumps
    assert max(map(abs, distances_ms(path))) <= 1


@pytest.mark.parametrize("off_s", [-1, 17])
def test_one_packet_with_a_wrong_time_is_no_jump(source: tuple[Path, Path], tmp_path: Path, off_s: int) -> None:
    path = tmp_path / "outlier.flv"
    ffmpeg("-i", source[0], "-i", source[1], "-pix_fmt", "yuv420p", *H264, path)
    content, at, n_video = bytearray(path.read_bytes()), 13, 0
    while at < len(content):
        # A tag: kind, 3 bytes of size, 3 bytes of milliseconds.
        n_video += content[at] == 9
        if n_video == 60:
            time_ms = int.from_bytes(content[at + 4 : at + 7], "big") + 1000 * off_s
            content[at + 4 : at + 7] = time_ms.to_bytes(3, "big")
            break
        at += 15 + int.from_bytes(content[at + 1 : at + 4], "big")
    path.write_bytes(content)
    assert find_clock(path).outliers
    assert not find_clock(path).jumps
    assert read_timeline(path).n_frames == N_FRAMES
    assert max(map(abs, distances_ms(path))) <= 1


def test_frames_without_a_time_lie_evenly_between_those_that_have_one() -> None:
    times = timeline_module._between([None, 1000, None, None, 1120, None], [1000, 1120], Fraction(40))
    assert times.pts == [960, 1000, 1040, 1080, 1120, 1160]
    ntsc = timeline_module._between(
        [3003 * 5 * n // 5 if n % 5 == 0 else None for n in range(20)], [0, 15015, 30030, 45045], Fraction(3000)
    )
    assert ntsc.pts == [3003 * n for n in range(20)]


def test_sound_that_lies_a_little_beside_its_clock_for_long_is_moved(tmp_path: Path, source: tuple[Path, Path]) -> None:
    """Joined recordings leave a rest of a frame of sound; up to 10 ms of it once stayed for the rest of the file."""
    path, moved = tmp_path / "a.mkv", tmp_path / "moved.mkv"
    ffmpeg("-i", source[0], "-i", source[1], "-pix_fmt", "yuv420p", *H264, path)
    with av.open(str(path)) as opened, av.open(str(moved), "w") as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in opened.streams}
        for packet in opened.demux():
            if packet.size and packet.pts is not None:
                late = 8 if packet.stream.type == "audio" and packet.pts > 1500 else 0
                packet.pts, packet.dts = packet.pts + late, None if packet.dts is None else packet.dts + late
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    found = distances_ms(moved)
    assert np.abs(np.subtract(found, [0, 8, 8, 8])).max() <= 1


CASES = {
    "ts_times_restart.ts": (1, []),
    "ts_pts_on_every_5th_frame.ts": (0, []),
    "ts_jump_back_20s.ts": (1, [75]),
    "ts_jump_forward_17s.ts": (1, [75]),
    "h264_copied_600fps.avi": (0, []),
}


@pytest.mark.parametrize("name", CASES)
def test_public_bug_reports_give_picture_and_sound_of_their_base(name: str, shared_dir: Path) -> None:
    folder = shared_dir / "cases" / "media"
    path, base = folder / name, folder / "base.mp4"
    timeline = read_timeline(path)
    assert (timeline.n_frames, timeline.source_fps) == (150, 25)
    assert (len(timeline.clock.jumps), timeline.cuts) == CASES[name]
    pictures, sounds = zip(seen_and_heard(path), seen_and_heard(base), strict=True)
    assert np.abs(pictures[0] - pictures[1]).mean(axis=(1, 2)).max() < 4
    # MP3 in AVI cannot say by how much its encoder delays the sound (23 ms).
    limit_ms = 40 if path.suffix == ".avi" else 1
    for part in (slice(0, 48_000), slice(48_000, None)):
        assert abs(delay_ms(sounds[0][part], sounds[1][part])) <= limit_ms


@cache
def seen_and_heard(path: Path) -> tuple[Any, Any]:
    """(n_frames, h, w) grey levels of small pictures, and as many samples as 150 frames have."""
    pictures = np.array([frame.image.mean(axis=2) for frame in read_frames(path, max_side_px=64)])
    return pictures, read_samples(path, 0, 150).astype(float)


def delay_ms(later: Any, earlier: Any) -> float:
    """By how much one sound comes after another that is like it."""
    size = 1 << (len(later) + len(earlier)).bit_length()
    likeness = np.fft.irfft(np.fft.rfft(later, size) * np.conj(np.fft.rfft(earlier, size)), size)
    at = int(likeness.argmax())
    return (at if at < size // 2 else at - size) / 16
