from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from av.audio.frame import AudioFrame
from av.audio.layout import AudioLayout
from sound_tracks import N_FRAMES, RATE_HZ, Array, Track, likeness, voice, write_tracks

from mit_builder.media.audio import _Mixer, iter_audio, read_samples
from mit_builder.media.audio_tracks import choose_sound
from mit_builder.media.cut import cut_clip
from mit_builder.media.downmix import Weights, ear_weights, mono_weights, plain_weights
from mit_builder.media.probe import audio_tracks

A, B, C = voice(1), voice(2), voice(3)
STEREO = ("FL", "FR")


def names(layout: str) -> tuple[str, ...]:
    return tuple(channel.name for channel in AudioLayout(layout).channels)


def mix_of(*channels: Array, layout: tuple[str, ...] = STEREO) -> Weights:
    """What is chosen for int16 channels, in windows of 0.4 s."""
    size = round(0.4 * RATE_HZ)
    waves = np.stack(channels).astype(float) / 32768
    windows = [waves[:, at : at + size] for at in range(0, waves.shape[1] - size + 1, size)]
    return mono_weights(layout, np.array([window @ window.T / size for window in windows]))


@pytest.mark.parametrize(
    ("layout", "centre", "front", "surround"),
    [("5.1", 1, 0.71, 0.5), ("5.1(side)", 1, 0.71, 0.5), ("7.1", 1, 0.71, 0.5), ("3.0", 1, 0.71, None)],
)
def test_surround_is_weighed_as_bs_775_says(layout: str, centre: float, front: float, surround: float | None) -> None:
    weights = dict(zip(names(layout), plain_weights(names(layout)), strict=True))
    assert weights["FL"] / weights["FC"] == pytest.approx(front, abs=0.01)
    assert weights.get("LFE", 0) == 0
    for name in {"BL", "BR", "SL", "SR"} & set(weights):
        assert weights[name] / weights["FC"] == pytest.approx(surround, abs=0.01)
    assert sum(weights.values()) == pytest.approx(1, abs=1e-3)


def test_every_layout_that_ffmpeg_knows_has_weights() -> None:
    for layout in ("mono", "stereo", "2.1", "quad", "4.0", "6.1", "7.1(wide)", "5.1.4", "22.2", "downmix", "hexagonal"):
        weights = plain_weights(names(layout))
        assert np.abs(weights).sum() == pytest.approx(1, abs=2e-3)
        assert all((share == 0) == name.startswith("LFE") for name, share in zip(names(layout), weights, strict=True))
    assert plain_weights(names("ambisonic 2")) == (1.0, *[0.0] * 8)
    assert plain_weights(names("20 channels")) == (0.05,) * 20


def test_ears_hear_left_and_right_and_the_centre_on_both() -> None:
    left, right = np.array(ear_weights(names("5.1")))
    assert left[[0, 2, 4]] / left[0] == pytest.approx([1, 0.71, 0.71], abs=0.01)
    assert left[[1, 3, 5]].tolist() == [0, 0, 0]
    assert right[[0, 3, 4]].tolist() == [0, 0, 0]
    assert left.sum() == pytest.approx(1)
    assert ear_weights(("NONE", "NONE")) is not None
    for layout in ("mono", "ambisonic 1", "20 channels"):
        assert ear_weights(names(layout)) is None


@pytest.mark.parametrize(
    ("left", "right", "mix"),
    [
        (A, A, (0.5, 0.5)),
        (A, B, (0.5, 0.5)),
        (A, np.zeros_like(A), (0.5, 0.5)),
        (A, -A, (0.5, -0.5)),
        (A, -A // 2, (0.5, 0.5)),  # less of it, but there
        (A, -A + B // 10, (0.5, -0.5)),
        (np.zeros_like(A), np.zeros_like(A), (0.5, 0.5)),
    ],
)
def test_stereo_is_added_unless_that_cancels(left: Array, right: Array, mix: Weights) -> None:
    assert mix_of(left, right) == mix


def test_where_only_a_part_is_turned_round_one_channel_is_heard_alone() -> None:
    turned = np.where(np.arange(len(A)) < len(A) // 2, 1, -1)
    assert mix_of(A, A * turned) in ((1.0, 0.0), (0.0, 1.0))


def test_a_voice_turned_round_under_music_that_is_not_is_heard() -> None:
    talk = A * np.where(np.arange(len(A)) % 12_800 < 6_400, 1, 0)
    assert mix_of(talk + B // 6, -talk + B // 6) in ((1.0, 0.0), (0.0, 1.0))


def test_short_effects_that_are_turned_round_change_nothing() -> None:
    waves = [np.tile(voice(seed), 50) for seed in (1, 2)]
    waves[1][:6400] = -waves[0][:6400]
    assert mix_of(*waves) == (0.5, 0.5)


def test_unnamed_channels_count_alike_without_the_silent_ones() -> None:
    channels = [np.zeros_like(A)] * 8
    channels[3], channels[6] = A, -A
    weights = mix_of(*channels, layout=("NONE",) * 8)
    assert weights[3] == -weights[6] == pytest.approx(0.5)
    assert sum(map(abs, weights)) == 1


def test_names_that_leave_out_all_there_is_are_not_believed() -> None:
    channels = [np.zeros_like(A)] * 8
    channels[3] = A
    assert mix_of(*channels, layout=names("7.1")) == (0, 0, 0, 1, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("suffix", "codec", "layout", "places"),
    [
        ("mov", "pcm_s16le", "20 channels", {3: A, 7: -A}),
        ("mkv", "pcm_s16le", "20 channels", {19: A}),
        ("mxf", "pcm_s16le", "8 channels", {3: A}),
        ("mkv", "libopus", "ambisonic 1", {0: A, 1: A // 2, 2: -A // 2}),
        ("mov", "pcm_s16le", "4.0", {3: A}),
        ("mkv", "pcm_s16le", "4 channels", {3: A}),
        ("mkv", "flac", "stereo", {0: A, 1: -A}),
        ("mp4", "aac", "5.1", {2: A, 3: B}),
        ("mp4", "aac", "7.1", {2: A}),
        ("mkv", "flac", "7.1", {2: A}),
    ],
)
def test_a_voice_in_any_channel_is_heard_in_both_files_of_the_clip(
    suffix: str, codec: str, layout: str, places: dict[int, Array], tmp_path: Path
) -> None:
    options = {"mapping_family": "2"} if layout.startswith("ambisonic") else {}
    rate_hz = 48_000 if codec == "libopus" or suffix == "mxf" else 16_000
    track = Track(places, layout=layout, codec=codec, options=options, rate_hz=rate_hz)
    path = write_tracks(tmp_path / f"a.{suffix}", track)
    reference = read_samples(write_tracks(tmp_path / "mono.mkv", Track({0: A}, rate_hz=rate_hz)), 0, N_FRAMES)
    heard = read_samples(path, 0, N_FRAMES)
    # Lossy codecs do not hold noise well; another voice or none gives less than 0.1.
    least = 0.999 if codec in ("pcm_s16le", "flac") else 0.8
    assert likeness(heard, reference) > least
    mp4 = tmp_path / "clip.mp4"
    cut_clip(path, 10, 60, mp4, tmp_path / "clip.flac", crf=30, audio_kbps=192)
    (track_of_clip,) = audio_tracks(mp4)
    assert track_of_clip.n_channels == 2
    ears = np.concatenate(list(iter_audio(mp4, 0, 50, rate_hz=16_000, layout="stereo")), axis=1)
    assert max(likeness(channel, reference[6_400:]) for channel in ears) > 0.7


def test_floats_that_are_no_numbers_are_silence(tmp_path: Path) -> None:
    path = write_tracks(tmp_path / "a.mkv", Track({0: A, 1: A}, layout="stereo", codec="pcm_f32le"))
    before = read_samples(path, 0, N_FRAMES)
    data = bytearray(path.read_bytes())
    at = data.index(np.float32(A[20_000:20_004].repeat(2) / 32768).tobytes())
    data[at : at + 8] = np.array([np.nan, np.inf], np.float32).tobytes()
    path.write_bytes(data)
    assert choose_sound(path).tracks[0].weights == (0.5, 0.5)
    after = read_samples(path, 0, N_FRAMES)
    assert np.flatnonzero(before != after).tolist() == [20_000]
    assert after[20_000] == 0


@pytest.mark.parametrize(("layout", "levels", "mono"), [("stereo", [8000, 4000], 6000), ("mono", [5000], 5000)])
def test_frames_of_another_layout_than_the_tracks_are_mixed_by_their_names(
    layout: str, levels: list[int], mono: int
) -> None:
    frame = AudioFrame.from_ndarray(np.tile(np.array(levels, np.int16), 500)[None], format="s16", layout=layout)
    frame.sample_rate = RATE_HZ
    mixed = _Mixer(RATE_HZ, "mono", plain_weights(names("5.1")))(frame)
    assert mixed.shape == (1, 500)
    assert (mixed >> 16 == mono).all()
