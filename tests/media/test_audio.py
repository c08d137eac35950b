from __future__ import annotations

import subprocess
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.audio.frame import AudioFrame
from numbered_video import number_in, write_numbered

from mit_builder.errors import MediaError
from mit_builder.media import audio
from mit_builder.media.audio import iter_audio, iter_samples, read_flac, read_samples
from mit_builder.media.frames import read_frames
from mit_builder.media.timeline import read_timeline
from mit_builder.media.write import ffmpeg_executable

FPS_TICKS, BASE = [i * 2 for i in range(100)], Fraction(1, 50)
"""4 s of video at 25 frames a second."""
CLICKS_S = [Fraction(n, 1000) for n in (413, 1000, 1777, 2503, 3250)]
"""Seconds after the first video frame."""


def clicks(rate_hz: int, times_s: Sequence[Fraction], n_s: int = 4) -> np.ndarray[Any, Any]:
    sound = np.zeros(rate_hz * n_s, np.int16)
    sound[[round(time * rate_hz) for time in times_s if 0 <= time < n_s]] = 30_000
    return sound


def click_positions(samples: np.ndarray[Any, Any], times_s: Sequence[Fraction]) -> list[int]:
    """Sample of the greatest excursion within 20 ms of each time."""
    found = []
    for time in times_s:
        low = max(0, round(time * 16_000) - 320)
        found.append(low + int(np.abs(samples[low : low + 640].astype(int)).argmax()))
    return found


@pytest.mark.parametrize(
    ("name", "codec", "rate_hz"),
    [
        ("a.mov", "pcm_s16le", 48_000),
        ("a.mov", "pcm_s16le", 44_100),
        ("a.mov", "pcm_s16le", 16_000),
        ("a.mov", "alac", 48_000),
        ("a.mp4", "flac", 48_000),
        ("a.mp4", "aac", 48_000),
        ("a.mp4", "aac", 44_100),
        ("a.ts", "aac", 48_000),
    ],
)
@pytest.mark.parametrize(("video_s", "sound_s"), [(0, 0), (Fraction(3, 2), Fraction(9, 10)), (0, Fraction(7, 20))])
def test_clicks_lie_within_one_sample_whatever_the_start_offsets(
    name: str, codec: str, rate_hz: int, video_s: Fraction, sound_s: Fraction, tmp_path: Path
) -> None:
    sound = clicks(rate_hz, [time + video_s - sound_s for time in CLICKS_S])
    ticks = [round(video_s / BASE) + tick for tick in FPS_TICKS]
    path = write_numbered(
        tmp_path / name, ticks, BASE, sound=sound, sound_rate_hz=rate_hz, sound_codec=codec, sound_start_s=sound_s
    )
    samples = read_samples(path, 0, 100)
    heard = [time for time in CLICKS_S if time + video_s - sound_s < 4]
    assert len(samples) == 64_000
    expected = [round(time * 16_000) for time in heard]
    assert np.abs(np.subtract(click_positions(samples, heard), expected)).max() <= 1


def test_matroska_places_clicks_within_its_millisecond(tmp_path: Path) -> None:
    path = write_numbered(
        tmp_path / "a.mkv", [i * 40 for i in range(100)], Fraction(1, 1000), sound=clicks(48_000, CLICKS_S)
    )
    found = click_positions(read_samples(path, 0, 100), CLICKS_S)
    assert np.abs(np.subtract(found, [round(time * 16_000) for time in CLICKS_S])).max() <= 8


def test_matroska_whose_times_begin_below_zero_is_heard_as_it_is_seen(tmp_path: Path) -> None:
    plain, early = tmp_path / "plain.mkv", tmp_path / "early.mkv"
    write_numbered(plain, [i * 40 for i in range(100)], Fraction(1, 1000), sound=clicks(48_000, CLICKS_S))
    shift = ["-output_ts_offset", "-1", "-avoid_negative_ts", "disabled"]
    subprocess.run([ffmpeg_executable(), "-v", "error", "-i", str(plain), "-c", "copy", *shift, str(early)], check=True)
    assert read_timeline(early).zero_s == -1
    assert [number_in(frame.image) for frame in read_frames(early)] == list(range(100))
    found = click_positions(read_samples(early, 0, 100), CLICKS_S)
    assert np.abs(np.subtract(found, [round(time * 16_000) for time in CLICKS_S])).max() <= 16


def test_sound_at_16_khz_comes_through_unchanged(tmp_path: Path) -> None:
    sound = np.random.default_rng(1).integers(-32768, 32768, 64_000).astype(np.int16)
    path = write_numbered(tmp_path / "a.mov", FPS_TICKS, BASE, sound=sound, sound_rate_hz=16_000)
    assert np.array_equal(read_samples(path, 0, 100), sound)


@pytest.mark.parametrize(("codec", "rate_hz"), [("aac", 44_100), ("pcm_s16le", 48_000), ("libmp3lame", 22_050)])
def test_any_range_equals_the_same_range_of_the_whole(codec: str, rate_hz: int, tmp_path: Path) -> None:
    noise = np.random.default_rng(2).integers(-9000, 9000, rate_hz * 4).astype(np.int16)
    path = write_numbered(
        tmp_path / "a.mov", FPS_TICKS, BASE, sound=noise, sound_rate_hz=rate_hz, sound_codec=codec,
        sound_start_s=Fraction(1, 7),
    )  # fmt: skip
    whole = read_samples(path, 0, 100)
    for start, n in ((0, 100), (1, 3), (24, 2), (25, 50), (61, 39), (90, 20)):
        expected = np.concatenate([whole, read_samples(path, 100, 20)])[640 * start : 640 * (start + n)]
        assert np.array_equal(read_samples(path, start, n), expected)
    chunks = list(iter_samples(path, 5, 100, chunk_frames=30))
    assert [len(chunk) for chunk in chunks] == [19_200, 19_200, 19_200, 3_200]
    assert np.array_equal(np.concatenate(chunks), whole[3_200:])


def test_other_rates_have_as_many_samples_a_frame_as_fit(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "a.mov", FPS_TICKS, BASE, sound=clicks(48_000, CLICKS_S))
    assert len(read_samples(path, 10, 20, rate_hz=44_100)) == 1764 * 20
    assert len(read_samples(path, 10, 20, rate_hz=8_000)) == 320 * 20
    with pytest.raises(ValueError, match="multiple of 25"):
        read_samples(path, 10, 20, rate_hz=22_049)


def test_no_track_and_the_time_after_the_end_are_zeros(tmp_path: Path) -> None:
    silent = write_numbered(tmp_path / "silent.mp4", FPS_TICKS, BASE)
    assert not read_samples(silent, 0, 100).any()
    assert len(read_samples(silent, 3, 7)) == 640 * 7
    short = write_numbered(tmp_path / "short.mov", FPS_TICKS, BASE, sound=np.full(48_000, 5_000, np.int16))
    samples = read_samples(short, 0, 120)
    assert len(samples) == 640 * 120
    assert samples[8_000:15_900].min() > 4_900
    assert not samples[16_100:].any()


def test_a_gap_in_the_timestamps_is_silence_and_what_follows_stays_in_place(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    write_numbered(path, [i * 40 for i in range(100)], Fraction(1, 1000), sound=clicks(48_000, CLICKS_S))
    gapped = tmp_path / "gapped.mkv"
    with av.open(str(path)) as source, av.open(str(gapped), "w") as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            is_hole = packet.stream.type == "audio" and packet.pts is not None and 900 <= packet.pts < 2000
            if packet.size and not is_hole:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    samples = read_samples(gapped, 0, 100)
    kept = [CLICKS_S[0], *CLICKS_S[3:]]
    assert np.abs(np.subtract(click_positions(samples, kept), [round(time * 16_000) for time in kept])).max() <= 16
    assert not samples[round(1.0 * 16_000) : round(1.95 * 16_000)].any()


def test_broken_packets_are_silence_and_what_follows_stays_in_place(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "a.mp4", FPS_TICKS, BASE, sound=clicks(48_000, CLICKS_S), sound_codec="flac")
    damaged = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        spans = [(p.pos, p.size, p.pts * p.time_base) for p in container.demux(audio=0) if p.size and p.pts is not None]
    for position, size, time in spans:
        if Fraction(9, 10) < time < Fraction(21, 10):
            assert position is not None
            damaged[position : position + size] = bytes(size)
    path.write_bytes(damaged)
    samples = read_samples(path, 0, 100)
    kept = [CLICKS_S[0], *CLICKS_S[3:]]
    assert len(samples) == 64_000
    assert np.abs(np.subtract(click_positions(samples, kept), [round(time * 16_000) for time in kept])).max() <= 1
    assert not samples[round(1.1 * 16_000) : round(2.0 * 16_000)].any()


def write_channels(path: Path, levels: Sequence[int], layout: str) -> Path:
    """Two seconds of constant levels in a WAV-like MOV with a video beside."""
    write_numbered(path.with_suffix(".mp4"), FPS_TICKS[:50], BASE)
    with av.open(str(path.with_suffix(".mp4"))) as source, av.open(str(path), "w") as target:
        video = target.add_stream_from_template(source.streams.video[0])
        audio: Any = target.add_stream("pcm_s16le", rate=16_000, layout=layout)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = video
                target.mux(packet)
        block = np.tile(np.array(levels, np.int16), 32_000)[None]
        frame = AudioFrame.from_ndarray(block, format="s16", layout=layout)
        frame.sample_rate = 16_000
        target.mux(audio.encode(frame))
        target.mux(audio.encode(None))
    return path


@pytest.mark.parametrize(
    ("layout", "levels", "mono"),
    [
        ("stereo", [10_000, 2_000], 6_000),
        ("stereo", [32_000, 32_000], 32_000),
        ("5.1", [0, 0, 20_000, 0, 0, 0], 20_000 / (1 + 2 * 0.7071 + 2 * 0.5)),
        ("5.1", [30_000, 30_000, 30_000, 0, 30_000, 30_000], 30_000),
    ],
)
def test_channels_are_mixed_by_weights_that_sum_to_one(
    layout: str, levels: list[int], mono: float, tmp_path: Path
) -> None:
    path = write_channels(tmp_path / "a.mov", levels, layout)
    assert np.abs(read_samples(path, 5, 20).astype(float) - mono).max() <= 0.02 * mono


def test_stereo_keeps_its_channels_apart(tmp_path: Path) -> None:
    path = write_channels(tmp_path / "a.mov", [10_000, -2_000], "stereo")
    blocks = list(iter_audio(path, 0, 40, rate_hz=16_000, layout="stereo"))
    both = np.concatenate(blocks, axis=1)
    assert both.shape == (2, 640 * 40)
    assert (both[0] == 10_000).all()
    assert (both[1] == -2_000).all()


@pytest.mark.parametrize(
    ("rate_hz", "late", "moved"),
    [(44_100, 44, 0), (44_100, 45, 45), (44_100, 441, 441), (44_100, -44, 0), (44_100, -45, -45), (22_050, 22, 0)],
)
def test_sound_is_moved_where_it_stays_more_than_a_millisecond_beside_its_clock(
    rate_hz: int, late: int, moved: int
) -> None:
    frame = AudioFrame(format="s16", layout="mono", samples=1024)
    ahead = [(frame, late + 1024 * n, 1024) for n in range(12)]
    assert audio._lasting_error(ahead, 0, rate_hz) == moved
    assert audio._lasting_error(ahead[:11], 0, rate_hz) == 0, "not for long enough"


def test_a_flac_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("flac", rate=8_000, layout="mono", format="s16")
        frame = AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(MediaError, match="16000 Hz"):
        read_flac(path)
