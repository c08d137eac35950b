from __future__ import annotations

import random
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from numbered_video import number_in, write_numbered

from mit_builder.errors import MediaError
from mit_builder.media.frames import RgbConverter, read_frames
from mit_builder.media.probe import Geometry, decoded_video
from mit_builder.media.timeline import read_timeline


@pytest.fixture
def slow_video(tmp_path: Path) -> Path:
    """60 frames at 12.5 a second: every one is shown twice."""
    return write_numbered(tmp_path / "slow.mp4", [i * 2 for i in range(60)], Fraction(1, 25))


def test_repeated_source_frames_are_converted_once(slow_video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    convert = RgbConverter.image

    def counted(converter: RgbConverter, frame: VideoFrame) -> Any:
        calls.append(1)
        return convert(converter, frame)

    monkeypatch.setattr(RgbConverter, "image", counted)
    n_frames = sum(1 for _ in read_frames(slow_video))
    assert (n_frames, len(calls)) == (120, 60)


def test_images_cannot_be_changed_in_place(slow_video: Path) -> None:
    image = next(read_frames(slow_video)).image
    with pytest.raises(ValueError, match="read-only"):
        image[0, 0] = 0


def test_images_shrink_to_the_longest_side_asked_for(slow_video: Path) -> None:
    small = next(read_frames(slow_video, 20, max_side_px=120)).image
    assert small.shape == (32, 120, 3)
    assert number_in(small) == 10
    assert next(read_frames(slow_video, max_side_px=5000)).image.shape == (64, 240, 3)


@pytest.mark.parametrize(("start", "end"), [(-1, 3), (5, 4), (0, 121)])
def test_ranges_outside_the_timeline_are_refused(start: int, end: int, slow_video: Path) -> None:
    with pytest.raises(MediaError, match=r"not within 0\.\.120"):
        next(read_frames(slow_video, start, end))


def test_an_empty_range_gives_nothing(slow_video: Path) -> None:
    assert list(read_frames(slow_video, 7, 7)) == []


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "a.ts"])
def test_reading_from_a_keyframe_decodes_nothing_before_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_numbered(tmp_path / name, [i * 40 for i in range(90)], Fraction(1, 1000))
    timeline = read_timeline(path)
    decoded: list[VideoFrame] = []

    def noting(*arguments: Any) -> Iterator[VideoFrame]:
        for frame in decoded_video(*arguments):
            decoded.append(frame)
            yield frame

    monkeypatch.setattr("mit_builder.media.frames.decoded_video", noting)
    for start in (12, 24, 60, 67):
        decoded.clear()
        assert number_in(next(read_frames(path, start, timeline=timeline)).image) == start
        # One more shows that the frame is no longer due; in MPEG-TS another has said that the seek went too far.
        assert len(decoded) <= start % 12 + (3 if name == "a.ts" else 2)


def test_a_damaged_stretch_shows_earlier_frames_and_every_run_the_same(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "a.mp4", list(range(240)), Fraction(1, 25))
    damaged = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        spans = [(p.pos, p.size) for p in container.demux(video=0) if p.size and p.pos is not None]
    for position, size in spans[84:120]:
        damaged[position + 4 : position + size] = random.Random(position).randbytes(size - 4)
    path.write_bytes(damaged)
    frames = list(read_frames(path))
    assert [frame.index for frame in frames] == list(range(240))
    sources = [frame.source_index for frame in frames]
    assert sources == sorted(sources)
    assert all(source <= frame.index for source, frame in zip(sources, frames, strict=True))
    assert [number_in(frame.image) for frame in frames[:80]] == list(range(80))
    assert [number_in(frame.image) for frame in frames[130:]] == list(range(130, 240))
    assert next(read_frames(path, 100)).source_index == sources[100]
    again = [frame.image for frame in read_frames(path)]
    assert all(np.array_equal(a.image, b) for a, b in zip(frames, again, strict=True))


def test_a_file_cut_short_ends_where_its_packets_end(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "a.mkv", [i * 40 for i in range(100)], Fraction(1, 1000))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    timeline = read_timeline(path)
    frames = list(read_frames(path))
    assert 10 < timeline.n_frames < 100
    assert len(frames) == timeline.n_frames
    assert [number_in(frame.image) for frame in frames[:-3]] == list(range(len(frames) - 3))


@pytest.mark.parametrize(
    ("size", "matrix", "tag"), [((320, 240), 5, 5), ((320, 240), 1, 1), ((320, 240), 5, 2), ((1280, 720), 1, 2)]
)
def test_colours_follow_the_matrix_that_the_stream_names_or_players_assume(
    size: tuple[int, int], matrix: int, tag: int
) -> None:
    colours = np.zeros((size[1], size[0], 3), np.uint8)
    colours[:, : size[0] // 2], colours[:, size[0] // 2 :] = (200, 40, 60), (30, 180, 90)
    coded = VideoFrame.from_ndarray(colours).reformat(format="yuv420p", dst_colorspace=matrix, dst_color_range=1)
    coded.colorspace, coded.color_range = tag, 1
    image = RgbConverter(Geometry(size, 0, False)).image(coded)
    assert np.abs(image[10, 10].astype(int) - (200, 40, 60)).max() <= 3
    assert np.abs(image[10, -10].astype(int) - (30, 180, 90)).max() <= 3


@pytest.mark.skipif(int(av.__version__.split(".")[0]) < 18, reason="PyAV 17 only labels the converted frame")
def test_hdr_pictures_are_brought_to_the_ordinary_curve() -> None:
    coded = VideoFrame.from_ndarray(np.full((64, 64, 3), 125, np.uint8)).reformat(format="yuv420p10le")
    coded.colorspace, coded.color_range, coded.color_primaries = 9, 1, 9
    converter = RgbConverter(Geometry((64, 64), 0, False))
    coded.color_trc = 1
    ordinary = converter.image(coded)[5, 5]
    coded.color_trc = 16
    mapped = converter.image(coded)[5, 5]
    assert np.ptp(mapped.astype(int)) <= 3
    assert mapped.astype(int).mean() > ordinary.astype(int).mean() + 5
