from __future__ import annotations

import io
import resource
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from manifests.rows import TIMELINE_FPS
from manifests.sources import file_source
from mit_builder.config.settings import DownloadSettings
from mit_builder.engine.worker import UnitContext
from mit_builder.errors import MediaError
from mit_builder.media import probe as probing
from mit_builder.media import timeline as timelines
from mit_builder.media.frames import read_frames
from mit_builder.media.probe import MAX_FRAME_PX, probe
from mit_builder.media.timeline import MAX_DURATION_S, nearest_frames, read_timeline
from mit_builder.stage import Reject
from mit_builder.storage.workspace import Workspace
from stages.download import Download


def jpeg(width_px: int, height_px: int) -> bytes:
    with av.open(io.BytesIO(), "w", format="mjpeg") as out:
        stream = out.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuvj420p"
        frame = av.VideoFrame(width_px, height_px, "yuvj420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        return b"".join(bytes(packet) for packet in (*stream.encode(frame), *stream.encode()))


def mux(path: Path, sizes_wh: Sequence[tuple[int, int]], *, pts: Sequence[int] | None = None) -> Path:
    """JPEG pictures of these sizes in one stream, at these 1/25 s."""
    pictures = {wh: jpeg(*wh) for wh in set(sizes_wh)}
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mjpeg", rate=25)
        (stream.width, stream.height), stream.pix_fmt = sizes_wh[0], "yuvj420p"
        for pts_25, wh in zip(pts or range(len(sizes_wh)), sizes_wh, strict=True):
            packet = av.Packet(pictures[wh])
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 25), True
            packet.pts = packet.dts = pts_25
            out.mux(packet)
    return path


def download(path: Path, tmp_path: Path, **settings: Any) -> list[Any]:
    (tmp_path / "tmp").mkdir()
    context = UnitContext(Workspace(tmp_path / "ws"), "0123456789abcdef", tmp_path / "tmp")
    return list(Download(DownloadSettings(**settings)).process(file_source(path), context))


def test_8k_passes(tmp_path: Path) -> None:
    path = mux(tmp_path / "x.mkv", [(7680, 4320)])
    (video,) = download(path, tmp_path)
    assert (video.width_px, video.height_px) == (7680, 4320)
    assert [frame.image.shape for frame in read_frames(path, max_side_px=64)] == [(36, 64, 3)]


def test_pictures_above_the_limit_are_never_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = jpeg(64, 48)
    marker = small.index(b"\xff\xc0")  # start of frame: length, bits, height, width
    bomb = small[: marker + 5] + struct.pack(">HH", 8192, 16384) + small[marker + 9 :]
    monkeypatch.setitem(globals(), "jpeg", lambda *wh: bomb)
    path = mux(tmp_path / "x.mkv", [(16384, 8192)] * 3)
    assert path.stat().st_size < 10_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (probe, read_timeline):
        with pytest.raises(MediaError, match="more than 67 megapixels"):
            read(path)
    with pytest.raises(MediaError, match="more than 67 megapixels"):
        download(path, tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100e3  # kB; one picture has 201 MB
    assert 8192 * 8192 == MAX_FRAME_PX <= DownloadSettings().max_frame_megapixels * 1e6


def test_opening_a_file_decodes_nothing_above_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of a PNG is known from its picture alone, so libav decodes one to find it: 16000x8000 took 367 MB."""
    with av.open(str(tmp_path / "x.mov"), "w") as out:
        stream = out.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "rgb24"
        out.mux([*stream.encode(av.VideoFrame(640, 480, "rgb24")), *stream.encode()])
    with probing.open_media(tmp_path / "x.mov") as container:
        assert container.streams.video[0].codec_context.pix_fmt == "rgb24"
    monkeypatch.setattr(probing, "MAX_FRAME_PX", 100 * 100)
    with probing.open_media(tmp_path / "x.mov") as container:
        assert container.streams.video[0].codec_context.pix_fmt is None
    with pytest.raises(MediaError, match="frames of no size"):
        probe(tmp_path / "x.mov")


@pytest.mark.parametrize(
    ("n_before", "seen"),
    [
        (3, [2, 2, 2, 5, 6, 7]),  # within what the first look decodes
        (40, [39, 39, 39, 42, 43, 44]),
    ],
)
def test_pictures_that_grow_in_the_middle_are_passed_over(
    n_before: int, seen: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mux(tmp_path / "x.mkv", [(64, 48)] * n_before + [(640, 480)] * 2 + [(64, 48)] * 3)
    assert [frame.source_index for frame in read_frames(path)] == list(range(n_before + 5))
    monkeypatch.setattr(probing, "MAX_FRAME_PX", 100 * 100)
    assert [frame.source_index for frame in read_frames(path)][-6:] == seen


def test_a_lower_limit_is_a_verdict(tmp_path: Path) -> None:
    path = mux(tmp_path / "x.mkv", [(64, 48)] * 3)
    with pytest.raises(Reject) as verdict:
        download(path, tmp_path, max_frame_megapixels=0.003)
    assert verdict.value.reason == "too_large"
    assert verdict.value.measurements == {"width_px": 64, "height_px": 48}


@pytest.mark.parametrize("last", [1 << 62, 10**15, (MAX_DURATION_S + 1) * 90_000])
def test_one_frame_far_away_allocates_nothing(last: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate(*arguments: Any) -> None:
        raise AssertionError("allocated before it was judged")

    monkeypatch.setattr(timelines.np, "arange", allocate)
    with pytest.raises(MediaError, match="timestamps span"):
        nearest_frames([0, 3600, last], Fraction(1, 90_000), 3600)


def test_the_longest_timeline_passes() -> None:
    n_frames = MAX_DURATION_S * TIMELINE_FPS
    assert len(nearest_frames([0, n_frames - 1], Fraction(1, 25), 1)) == n_frames
    with pytest.raises(MediaError):
        nearest_frames([0, n_frames], Fraction(1, 25), 1)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_file_whose_timestamps_jump_by_hours_is_too_long(suffix: str, tmp_path: Path) -> None:
    path = mux(tmp_path / f"x{suffix}", [(64, 48)] * 3, pts=[0, 1, 25 * 3600 * 5])
    with pytest.raises(Reject) as verdict:
        download(path, tmp_path)
    assert verdict.value.reason == "too_long"
    assert np.isclose(verdict.value.measurements["duration_s"], 5 * 3600, atol=1)


def test_timestamps_are_measured_where_the_header_says_nothing_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mux(tmp_path / "x.mkv", [(64, 48)] * 3, pts=[0, 1, 25 * 3600 * 5])
    monkeypatch.setattr(probing, "_stated_duration_s", lambda *found: 0.12)
    with pytest.raises(Reject) as verdict:
        download(path, tmp_path)
    assert verdict.value.reason == "too_long"
