from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.frame import VideoFrame
from numbered_video import write_numbered

from mit_builder.errors import MediaError
from mit_builder.media.frames import read_frames
from mit_builder.media.probe import probe
from mit_builder.media.timeline import read_timeline

ONE = 1 << 16
"""1 in the fixed point numbers of MP4."""

CORNERS = {"top left": (220, 20, 20), "top right": (20, 200, 20), "bottom left": (20, 20, 220)}


def corner_image() -> np.ndarray[Any, Any]:
    image = np.full((96, 160, 3), 235, np.uint8)
    image[:48, :80], image[:48, 80:], image[48:, :80] = CORNERS.values()
    return image


def corners_of(image: np.ndarray[Any, Any]) -> list[str]:
    """Names of the colours at top left, top right, bottom left, bottom right."""
    height, width = image.shape[:2]
    names = [*CORNERS, "bottom right"]
    colours = np.array([*CORNERS.values(), (235, 235, 235)])
    points = [(height // 4, width // 4), (height // 4, 3 * width // 4), (3 * height // 4, width // 4)]
    points.append((3 * height // 4, 3 * width // 4))
    return [names[int(np.abs(colours - image[point].astype(int)).sum(axis=1).argmin())] for point in points]


def write_turned(path: Path, degrees: int, mirrored: bool, sar: Fraction = Fraction(1)) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.codec_context.sample_aspect_ratio = sar
        stream.set_display_rotation(degrees, hflip=mirrored)
        for _ in range(3):
            container.mux(stream.encode(VideoFrame.from_ndarray(corner_image())))
        container.mux(stream.encode(None))
    return path


# What ffmpeg's own autorotation makes of the same files.
UPRIGHT = {
    (0, False): ["top left", "top right", "bottom left", "bottom right"],
    (180, False): ["bottom right", "bottom left", "top right", "top left"],
    (90, False): ["top right", "bottom right", "top left", "bottom left"],
    (-90, False): ["bottom left", "top left", "bottom right", "top right"],
    (0, True): ["top right", "top left", "bottom right", "bottom left"],
    (90, True): ["bottom right", "top right", "bottom left", "top left"],
}


@pytest.mark.parametrize(("degrees", "mirrored"), UPRIGHT)
def test_turned_and_mirrored_pictures_come_out_upright(degrees: int, mirrored: bool, tmp_path: Path) -> None:
    path = write_turned(tmp_path / "a.mp4", degrees, mirrored)
    image = next(read_frames(path)).image
    info = probe(path)
    assert corners_of(image) == UPRIGHT[degrees, mirrored]
    assert image.shape == (info.height_px, info.width_px, 3)
    assert image.flags.c_contiguous


def test_pixels_that_are_not_square_widen_the_stored_picture_before_turning(tmp_path: Path) -> None:
    flat = write_turned(tmp_path / "flat.mp4", 0, False, Fraction(4, 3))
    turned = write_turned(tmp_path / "turned.mp4", -90, False, Fraction(4, 3))
    assert (probe(flat).width_px, probe(flat).height_px) == (213, 96)
    assert (probe(turned).width_px, probe(turned).height_px) == (96, 213)
    assert probe(turned).rotation_deg == 90
    assert next(read_frames(turned)).image.shape == (213, 96, 3)


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
@pytest.mark.parametrize(("sar", "scaled"), [(Fraction(4, 3), (213, 96)), (Fraction(1, 2), (160, 192))])
def test_no_side_gets_shorter_than_it_is_stored(
    degrees: int, sar: Fraction, scaled: tuple[int, int], tmp_path: Path
) -> None:
    path = write_turned(tmp_path / "a.mp4", degrees, False, sar)
    info = probe(path)
    assert (info.width_px, info.height_px) == (scaled if degrees % 180 == 0 else scaled[::-1])
    assert corners_of(next(read_frames(path)).image) == UPRIGHT[degrees, False]


@pytest.mark.parametrize("turned", [False, True])
def test_a_display_matrix_that_stretches_widens_the_stored_picture(turned: bool, tmp_path: Path) -> None:
    path = write_turned(tmp_path / "a.mp4", -90 if turned else 0, False)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    doubled = struct.pack(">6i", *((0, 2 * ONE, 0, -ONE, 0, 0) if turned else (2 * ONE, 0, 0, 0, ONE, 0)))
    data[matrix : matrix + 24] = doubled
    path.write_bytes(without_pixel_aspect(data))
    info = probe(path)
    assert (info.width_px, info.height_px) == ((96, 320) if turned else (320, 96))
    assert corners_of(next(read_frames(path)).image) == UPRIGHT[-90 if turned else 0, False]


def test_a_container_that_gives_the_size_after_turning_squeezes_nothing(tmp_path: Path) -> None:
    path = write_turned(tmp_path / "a.mp4", -90, False)
    data = bytearray(path.read_bytes())
    size = data.index(b"tkhd") + 4 + 76
    data[size : size + 8] = struct.pack(">2I", 96 * ONE, 160 * ONE)
    path.write_bytes(without_pixel_aspect(data))
    assert (probe(path).width_px, probe(path).height_px) == (96, 160)


def without_pixel_aspect(data: bytearray) -> bytes:
    """An MP4 whose container says nothing of the shape of pixels (a `free` box stands for `pasp`)."""
    return bytes(data.replace(b"pasp", b"free"))


def write_streams(path: Path, *streams: tuple[int, int, int], default: int | None) -> Path:
    """A stream for each (width, grey level, pictures); `default` is the one flagged so."""
    with av.open(str(path), "w") as container:
        made: list[Any] = []
        for i, (width, _, _) in enumerate(streams):
            stream: Any = container.add_stream("libx264", rate=25, options={"crf": "10"})
            stream.width, stream.height, stream.pix_fmt = width, 64, "yuv420p"
            stream.disposition = Disposition.default if i == default else Disposition(0)
            made.append(stream)
        for stream, (width, level, n_frames) in zip(made, streams, strict=True):
            for _ in range(n_frames):
                picture = VideoFrame.from_ndarray(np.full((64, width, 3), level, np.uint8))
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "streams", "default", "level"),
    [
        ("a.mkv", [(64, 20, 5), (64, 200, 5)], 1, 200),
        ("a.mkv", [(64, 20, 5), (64, 200, 5)], 0, 20),
        ("a.mkv", [(320, 20, 5), (64, 200, 5)], 1, 200),
        ("a.ts", [(64, 20, 5), (160, 200, 5)], None, 200),
        ("a.ts", [(64, 20, 5), (64, 200, 5)], None, 20),
        ("a.mp4", [(320, 20, 1), (64, 200, 5)], 0, 200),
    ],
    ids=["second is default", "first is default", "default is smaller", "larger", "equal", "one picture"],
)
def test_of_several_streams_the_one_that_players_show_is_read(
    name: str, streams: list[tuple[int, int, int]], default: int | None, level: int, tmp_path: Path
) -> None:
    path = write_streams(tmp_path / name, *streams, default=default)
    assert abs(int(next(read_frames(path)).image[5, 5, 0]) - level) < 6


def test_the_default_stream_of_the_case_file_is_read(shared_dir: Path) -> None:
    base, second = (shared_dir / "cases" / "media" / name for name in ("base.mp4", "default_video_second.mkv"))
    assert read_timeline(second).n_frames == 150
    np.testing.assert_array_equal(*(next(read_frames(path, 70)).image for path in (base, second)))


def test_probe_names_rates_and_codecs(tmp_path: Path) -> None:
    sound = np.zeros(48_000, np.int16)
    path = write_numbered(
        tmp_path / "a.mov", [i * 1001 for i in range(60)], Fraction(1, 30000), sound=sound, sound_rate_hz=44_100
    )
    info = probe(path)
    assert info.source_fps == Fraction(30000, 1001)
    assert info.duration_s == pytest.approx(60 * 1001 / 30000, abs=1e-3)
    assert (info.has_audio, info.audio_rate_hz) == (True, 44_100)
    assert (info.video_codec, info.audio_codec) == ("h264", "pcm_s16le")
    assert (info.rotation_deg, info.width_px, info.height_px) == (0, 240, 64)


def test_a_length_that_the_header_lacks_is_taken_from_the_packets(tmp_path: Path) -> None:
    whole = write_numbered(tmp_path / "a.mkv", [i * 40 for i in range(50)], Fraction(1, 1000))
    piped = tmp_path / "b.mkv"
    with av.open(str(whole)) as source, av.open(str(piped), "w", options={"live": "1"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    assert probe(piped).duration_s == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("keep", [0, 40, 3000])
def test_a_truncated_header_is_one_line(keep: int, tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "a.mp4", list(range(50)), Fraction(1, 25))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(MediaError, match=r"a\.mp4") as caught:
        probe(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="No such file"):
        probe(tmp_path / "none.mp4")


def test_playlists_are_not_followed(tmp_path: Path) -> None:
    write_numbered(tmp_path / "a.ts", [i * 3600 for i in range(50)], Fraction(1, 90000))
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\na.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(MediaError):
        probe(playlist)
