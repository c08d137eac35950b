from __future__ import annotations

import math
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
from mit_builder.media.audio import read_flac, read_samples
from mit_builder.media.cut import CutResult, cut_clip, loudness_dbfs
from mit_builder.media.frames import read_frames
from mit_builder.media.probe import probe
from mit_builder.media.timeline import read_timeline

N_SOURCE = 120
RATES = {
    "23.976": Fraction(24000, 1001),
    "24": Fraction(24),
    "29.97": Fraction(30000, 1001),
    "50": Fraction(50),
    "59.94": Fraction(60000, 1001),
}


def noise(seconds: float, rate_hz: int = 48_000) -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).integers(-8000, 8000, round(seconds * rate_hz)).astype(np.int16)


def cut(source: Path, start: int, end: int, folder: Path, name: str = "clip") -> CutResult:
    return cut_clip(source, start, end, folder / f"{name}.mp4", folder / f"{name}.flac", crf=16, audio_kbps=192)


@pytest.mark.parametrize("late_s", [Fraction(0), Fraction(1001, 1000)])
@pytest.mark.parametrize("kind", RATES)
def test_every_frame_of_a_cut_is_the_one_the_oracle_names(kind: str, late_s: Fraction, tmp_path: Path) -> None:
    rate = RATES[kind]
    base = Fraction(1, 60_000)
    ticks = [round((late_s + i / rate) / base) for i in range(N_SOURCE)]
    source = write_numbered(tmp_path / "a.mov", ticks, base, sound=noise(6))
    expected = shown_at([tick * base for tick in ticks], (ticks[-1] - ticks[-2]) * base)[13:47]
    result = cut(source, 13, 47, tmp_path)
    assert [number_in(frame.image) for frame in read_frames(tmp_path / "clip.mp4")] == expected
    assert list(result.source_frame_index) == expected
    assert result.n_frames == 34
    assert result.source_fps == read_timeline(source).source_fps


def test_the_flac_holds_the_labels_samples_exactly(tmp_path: Path) -> None:
    source = write_numbered(
        tmp_path / "a.mov", list(range(100)), Fraction(1, 25), sound=noise(4), sound_start_s=Fraction(1, 3)
    )
    result = cut(source, 5, 77, tmp_path)
    samples = read_flac(tmp_path / "clip.flac")
    assert len(samples) == 640 * 72
    assert np.array_equal(samples, read_samples(source, 5, 72))
    assert result.loudness_dbfs == pytest.approx(loudness_dbfs(samples))


def test_sound_in_the_mp4_stays_with_the_picture_at_the_sources_rate(tmp_path: Path) -> None:
    sound = np.zeros(44_100 * 4, np.int16)
    sound[round(44_100 * 2.2)] = 30_000
    source = write_numbered(
        tmp_path / "a.mov", list(range(100)), Fraction(1, 25), sound=sound, sound_rate_hz=44_100
    )  # fmt: skip
    cut(source, 30, 80, tmp_path)
    assert probe(tmp_path / "clip.mp4").audio_rate_hz == 44_100
    heard = np.abs(read_samples(tmp_path / "clip.mp4", 0, 50).astype(int)).argmax()
    assert abs(int(heard) - round((2.2 - 1.2) * 16_000)) <= 1


@pytest.mark.parametrize("with_sound", [True, False])
def test_a_cut_again_has_the_same_bytes(with_sound: bool, tmp_path: Path) -> None:
    source = write_numbered(
        tmp_path / "a.mov", list(range(60)), Fraction(1, 25), sound=noise(2.4) if with_sound else None
    )  # fmt: skip
    assert cut(source, 7, 40, tmp_path, "one") == cut(source, 7, 40, tmp_path, "two")
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()
    assert (tmp_path / "one.flac").read_bytes() == (tmp_path / "two.flac").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mov", "one.flac", "one.mp4", "two.flac", "two.mp4"]


def test_a_video_without_sound_gives_a_silent_flac_and_an_mp4_without_sound(tmp_path: Path) -> None:
    source = write_numbered(tmp_path / "a.mp4", list(range(60)), Fraction(1, 25))
    result = cut(source, 0, 30, tmp_path)
    assert result.loudness_dbfs == -120
    assert not read_flac(tmp_path / "clip.flac").any()
    assert not probe(tmp_path / "clip.mp4").has_audio


def test_keyframes_come_at_least_every_25_frames(tmp_path: Path) -> None:
    source = write_numbered(tmp_path / "a.mp4", list(range(90)), Fraction(1, 25))
    cut(source, 3, 83, tmp_path)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        keys = [
            round(p.pts * p.time_base * 25) for p in container.demux(video=0) if p.is_keyframe and p.pts is not None
        ]
    assert keys[0] == 0
    assert max(np.diff([*keys, 80])) <= 25


def test_a_clip_that_lacks_frames_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_numbered(tmp_path / "a.mp4", list(range(60)), Fraction(1, 25))
    whole = cut_module.write_video

    def forgetful(path: Path, frames: Any, **settings: Any) -> None:
        whole(path, list(frames)[:-1], **settings)

    monkeypatch.setattr(cut_module, "write_video", forgetful)
    with pytest.raises(MediaError, match="29 frames in place of 30"):
        cut(source, 0, 30, tmp_path)


@pytest.mark.parametrize(("start", "end"), [(10, 10), (10, 5), (50, 70)])
def test_ranges_that_are_no_clip_are_refused(start: int, end: int, tmp_path: Path) -> None:
    source = write_numbered(tmp_path / "a.mp4", list(range(60)), Fraction(1, 25))
    with pytest.raises(MediaError, match=f"frames {start}..{end}"):
        cut(source, start, end, tmp_path)


def test_loudness_is_the_root_mean_square_below_full_scale() -> None:
    assert loudness_dbfs(np.full(100, -32768, np.int16)) == 0
    assert loudness_dbfs(np.full(100, 3277, np.int16)) == pytest.approx(-20, abs=0.01)
    sine = (32_767 * np.sin(np.arange(16_000) * 0.3)).astype(np.int16)
    assert loudness_dbfs(sine) == pytest.approx(10 * math.log10(0.5), abs=0.01)
    assert loudness_dbfs(np.zeros(100, np.int16)) == -120


@settings(max_examples=8, deadline=None)
@given(
    st.fractions(min_value=8, max_value=121, max_denominator=1001),
    st.fractions(min_value=0, max_value=3, max_denominator=60_000),
    st.integers(0, 44_000),
    st.sampled_from((16_000, 44_100, 48_000)),
    st.data(),
)
def test_any_cut_shows_the_oracles_frames_and_its_sound_lies_within_one_sample(
    tmp_path_factory: pytest.TempPathFactory,
    rate: Fraction,
    late_s: Fraction,
    click: int,
    sound_rate_hz: int,
    data: st.DataObject,
) -> None:
    folder, base = tmp_path_factory.mktemp("drawn"), Fraction(1, 60_000)
    n_source = round(Fraction(12, 5) * rate)
    ticks = [round((late_s + i / rate) / base) for i in range(n_source)]
    expected = shown_at([tick * base for tick in ticks], (ticks[-1] - ticks[-2]) * base)
    start = data.draw(st.integers(0, len(expected) - 10), label="start")
    end = data.draw(st.integers(start + 8, len(expected)), label="end")
    heard_s = Fraction(start, 25) + Fraction(click, 44_000) * Fraction(end - start, 25)
    sound = np.zeros(sound_rate_hz * 3, np.int16)
    at = min(round(heard_s * sound_rate_hz), sound_rate_hz * 3 - 1)
    sound[at] = 30_000
    source = write_numbered(
        folder / "a.mov", ticks, base, sound=sound, sound_rate_hz=sound_rate_hz, sound_start_s=ticks[0] * base
    )
    result = cut(source, start, end, folder)
    assert list(result.source_frame_index) == expected[start:end]
    assert [number_in(frame.image) for frame in read_frames(folder / "clip.mp4")] == expected[start:end]
    samples = read_flac(folder / "clip.flac").astype(int)
    assert len(samples) == 640 * (end - start)
    wanted = float((Fraction(at, sound_rate_hz) - Fraction(start, 25)) * 16_000)
    if wanted < len(samples) - 2:
        assert abs(int(np.abs(samples).argmax()) - wanted) <= 1.5
