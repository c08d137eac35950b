from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from numbered_video import write_numbered

from mit_builder.errors import MediaError
from mit_builder.media.frames import read_frames
from mit_builder.media.probe import probe

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
