"""Files from the wild: the nasty ones and real footage, where they are at hand."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from numbered_video import shown_at

from mit_builder.media.audio import read_flac
from mit_builder.media.cut import cut_clip
from mit_builder.media.frames import read_frames
from mit_builder.media.probe import probe
from mit_builder.media.timeline import read_timeline

NASTY = [
    "n01_no_duration_vp9_opus.webm", "n02_rotate90_metadata.mp4", "n03_vfr_drop3_noaudio.mp4", "n04_rot180_vfr.mp4",
    "n05_delayed_start.mp4", "n06_hevc10_noaudio.mp4", "n07_av1_noaudio.mkv", "n08_multitrack_audio.mp4",
    "n09_sar_2by3.mp4", "n10_cover_art_stream.mp4", "n11_failing_audio.mp4",
]  # fmt: skip
REAL = [
    "r02_datajuicer_video3_2p_vertical.mp4", "r03_visualvoice_interview_2p_split.mp4", "r05_datajuicer_video4_2p.mp4",
    "r07_l2l_standup_2p_overlap.mp4", "r10_pyscene_195_multishot_2p.mp4", "r11_hamilton_whitehouse_multishot.mp4",
]  # fmt: skip
FILES = [*(f"nasty/{name}" for name in NASTY), *(f"real/{name}" for name in REAL)]
SIZES = {"n02": (544, 1280), "n04": (1280, 720), "n08": (768, 576), "n09": (640, 540), "r10": (1024, 576)}
SILENT = {"n03", "n05", "n06", "n07"}


@pytest.fixture(params=FILES, ids=[name[6:9] if name.startswith("nasty") else name[5:8] for name in FILES])
def sample(request: pytest.FixtureRequest, shared_dir: Path) -> Path:
    return shared_dir / "samples" / str(request.param)


def decoded_times_s(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]  # type: ignore[operator]


def test_the_timeline_names_the_frames_that_a_full_decode_gives(sample: Path) -> None:
    times = decoded_times_s(sample)
    timeline = read_timeline(sample)
    assert [int(pts) * timeline.time_base for pts in timeline.source_pts] == times
    longest = max(b - a for a, b in pairwise(times))
    shown = shown_at(times, 1 + longest)
    assert timeline.source_frame_index.tolist() == shown[: timeline.n_frames]
    span = times[-1] - times[0]
    assert span < timeline.n_frames * Fraction(1, 25) < span + longest + Fraction(1, 25)


def test_probe_sees_upright_pictures_and_the_sound_that_decodes(sample: Path) -> None:
    info = probe(sample)
    name = sample.name[:3]
    assert (info.width_px, info.height_px) == SIZES.get(name, (info.width_px, info.height_px))
    assert info.has_audio == (name not in SILENT)
    assert (info.audio_codec is not None) == info.has_audio


def test_a_cut_from_the_middle_holds_what_was_asked_for(sample: Path, tmp_path: Path) -> None:
    timeline = read_timeline(sample)
    start, end = timeline.n_frames // 2, min(timeline.n_frames, timeline.n_frames // 2 + 12)
    mp4, flac = tmp_path / "clip.mp4", tmp_path / "clip.flac"
    result = cut_clip(sample, start, end, mp4, flac, crf=16, audio_kbps=192)
    assert list(result.source_frame_index) == timeline.source_frame_index[start:end].tolist()
    assert len(read_flac(flac)) == 640 * (end - start)
    width, height = timeline.geometry.upright_wh
    before = [frame.image for frame in read_frames(sample, start, end, timeline=timeline)]
    after = [frame.image[:height, :width] for frame in read_frames(mp4)]
    assert {image.shape for image in before} == {(height, width, 3)}
    for a, b in zip(before, after, strict=True):
        assert np.abs(a.mean(axis=(0, 1)) - b.mean(axis=(0, 1))).max() < 3
        assert np.abs(a.astype(np.int16) - b).mean() < 6


def test_every_frame_of_a_short_file_is_read(sample: Path) -> None:
    timeline = read_timeline(sample)
    if timeline.n_frames > 130:
        pytest.skip("long: other tests read a part of it")
    frames = [(frame.index, frame.source_index) for frame in read_frames(sample, timeline=timeline, max_side_px=64)]
    assert frames == list(enumerate(timeline.source_frame_index.tolist()))
