from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
from av.video.frame import VideoFrame

from mit_builder.media.cut import cut_clip, cut_native
from mit_builder.media.deinterlace import MIN_COMBED, Fields, deinterlaced, measure_fields
from mit_builder.media.frames import read_frames
from mit_builder.media.timeline import read_timeline

N_FRAMES = 50


def scene(moment: float) -> np.ndarray:
    """A picture with smooth texture that slides and a disc that moves, at 50 moments a second."""
    blocks = np.random.default_rng(0).integers(50, 200, (24, 80), np.uint8)
    still = cv2.resize(blocks, (800, 240), interpolation=cv2.INTER_CUBIC)
    shift = np.array([[1, 0, -2.3 * moment], [0, 1, 0]], np.float64)
    picture = cv2.warpAffine(still, shift, (320, 240), borderMode=cv2.BORDER_REFLECT)
    cv2.circle(picture, (round(60 + 3 * moment) % 320, 120), 30, 235, -1, cv2.LINE_AA)
    return picture


def interlaced(order: str, kind: str) -> Iterator[np.ndarray]:
    """Pictures of 25 a second: of two fields, of film at 24 in the pattern 3:2, or whole ones."""
    rng = np.random.default_rng(1)
    for i in range(N_FRAMES):
        first, second = scene(2 * i), scene(2 * i + 1)
        if kind == "telecine":
            fields = [scene(2 * film) for film in (i - i // 5, i - i // 5 + (i % 5 in (1, 2)))]
            first, second = fields
        picture = first.copy()
        if kind != "whole":
            odd = slice(1, None, 2) if order == "top" else slice(0, None, 2)
            picture[odd] = second[odd]
        if kind == "grain":
            picture = np.clip(picture + rng.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)
        yield picture


def encode(path: Path, pictures: Iterator[np.ndarray], *options: str) -> Path:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "gray"]
    command += ["-s", "320x240", "-r", "25", "-i", "-", "-pix_fmt", "yuv420p", "-g", "12", *options, str(path)]
    subprocess.run(command, input=b"".join(picture.tobytes() for picture in pictures), check=True)
    return path


H264 = ("-c:v", "libx264", "-crf", "20", "-preset", "ultrafast", "-threads", "1")
MBAFF = ("-flags", "+ildct+ilme")
CASES = {
    "50i H.264 MBAFF": ("top", "fields", "a.mp4", (*H264, *MBAFF, "-x264opts", "tff=1")),
    "bottom field first": ("bottom", "fields", "a.mp4", (*H264, *MBAFF, "-x264opts", "bff=1")),
    "tag says the other field": ("bottom", "fields", "a.mp4", (*H264, *MBAFF, "-x264opts", "tff=1")),
    "no tag": ("top", "fields", "a.mkv", H264),
    "no tag, grain": ("bottom", "grain", "a.mp4", H264),
    "MPEG-2 in TS": ("top", "fields", "a.ts", ("-vf", "setfield=tff", "-c:v", "mpeg2video", "-q:v", "3", *MBAFF)),
    "telecine": ("top", "telecine", "a.mp4", H264),
}


@pytest.mark.parametrize("case", CASES)
def test_combs_are_found_and_removed_whatever_the_tags_say(case: str, tmp_path: Path) -> None:
    order, kind, name, options = CASES[case]
    path = encode(tmp_path / name, interlaced(order, kind), *options)
    timeline = read_timeline(path)
    assert timeline.field_order == order
    assert timeline.combed_share is not None
    assert MIN_COMBED < 0.2 < timeline.combed_share <= 1
    made = [frame.image[..., 1].astype(int) for frame in read_frames(path, timeline=timeline)]
    raw = [f.image[..., 1].astype(int) for f in read_frames(path, timeline=replace(timeline, field_order=None))]
    assert len(made) == len(raw) == timeline.n_frames
    assert combs(made) < 0.75 * combs(raw)


def combs(pictures: list[np.ndarray]) -> float:
    return float(np.mean([np.abs(p[1:-1:2] * 2 - p[:-2:2] - p[2::2]).mean() for p in pictures[5:45]]))


@pytest.mark.parametrize("options", [H264, (*H264, *MBAFF, "-x264opts", "tff=1")], ids=["plain", "tagged interlaced"])
def test_whole_pictures_stay_as_they_are(options: tuple[str, ...], tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", interlaced("top", "whole"), *options)
    timeline = read_timeline(path)
    assert (timeline.field_order, timeline.combed_share) == (None, 0)


def whole_then_fields() -> Iterator[np.ndarray]:
    yield from interlaced("top", "whole")
    yield from interlaced("top", "fields")


def still_then_fields() -> Iterator[np.ndarray]:
    yield from [scene(0)] * N_FRAMES
    yield from interlaced("top", "fields")


@pytest.mark.parametrize("first", [whole_then_fields, still_then_fields])
@pytest.mark.parametrize("name", ["a.ts", "a.avi"])
def test_fields_behind_a_progressive_start_are_found_where_no_keyframe_is_known(
    name: str, first: Callable[[], Iterator[np.ndarray]], tmp_path: Path
) -> None:
    path = encode(tmp_path / name, first(), *H264, "-bf", "2")
    if path.suffix == ".ts":  # whose times begin again
        path.write_bytes(path.read_bytes() + encode(tmp_path / "b.ts", interlaced("top", "fields"), *H264).read_bytes())
    timeline = read_timeline(path)
    assert len(timeline.keyframes) == 0
    assert timeline.field_order == "top"


def test_a_picture_is_the_same_wherever_reading_began_and_the_index_too(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", interlaced("top", "fields"), *H264)
    timeline = read_timeline(path)
    whole = list(read_frames(path, timeline=timeline))
    assert [frame.source_index for frame in whole] == list(range(N_FRAMES))
    for start in (1, 11, 12, 13, 24, 37, 49):
        first = next(read_frames(path, start, timeline=timeline))
        assert first.source_index == start
        np.testing.assert_array_equal(first.image, whole[start].image)


@pytest.mark.parametrize("cut", [cut_clip, cut_native])
def test_clips_hold_one_progressive_picture_for_each_of_the_source(cut: object, tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", interlaced("top", "fields"), *H264)
    mp4, flac = tmp_path / "c.mp4", tmp_path / "c.flac"
    result = cut(path, 10, 40, mp4, flac, crf=16, audio_kbps=64)  # type: ignore[operator]
    assert result.source_frame_index == tuple(range(10, 40))
    assert read_timeline(mp4).field_order is None


def test_every_frame_keeps_its_time_also_where_the_size_changes() -> None:
    frames = []
    for pts, side in enumerate([64, 64, 64, 96, 96, 48]):
        frame = VideoFrame.from_ndarray(np.full((side, side), 90, np.uint8), format="gray").reformat(format="yuv420p")
        frame.pts = 7 * pts
        frames.append(frame)
    made = list(deinterlaced(frames, "top", Fraction(1, 90_000)))
    assert [(frame.pts, frame.width) for frame in made] == [(frame.pts, frame.width) for frame in frames]


def test_where_nothing_moves_the_stream_is_believed() -> None:
    frame = VideoFrame.from_ndarray(scene(0), format="gray")
    assert measure_fields([[frame] * 9]) == Fields(0, 0, 0)
    assert Fields(0, 0, 0).order("bottom") == "bottom"
    assert Fields(0, 0, 0).order(None) is None
    assert Fields(50, 0, 0).order("top") is None
    assert [fields.combed_share for fields in (Fields(4, 4, 0), Fields(50, 3, 10))] == [None, 0.2]


def test_the_case_file(shared_dir: Path) -> None:
    timeline = read_timeline(shared_dir / "cases" / "media" / "interlaced_50i.ts")
    assert (timeline.field_order, timeline.n_frames) == ("top", 114)


def test_none_of_the_progressive_samples_is_taken_for_interlaced(shared_dir: Path) -> None:
    names = ("real/r11_*.mp4", "real/r05_*.mp4", "nasty/n06_*.mp4", "nasty/n03_*.mp4")
    paths = [path for name in names for path in (shared_dir / "samples").glob(name)]
    assert len(paths) == len(names)
    assert [read_timeline(path).field_order for path in paths] == [None] * len(paths)
