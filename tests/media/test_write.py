from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pytest
from numbered_video import HEIGHT_PX, WIDTH_PX, number_in, numbered_image

from mit_builder.errors import MediaError
from mit_builder.media import write as write_module
from mit_builder.media.frames import read_frames
from mit_builder.media.write import ffmpeg_executable, write_video


@pytest.fixture(params=["bundled", "system"])
def any_ffmpeg(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both the ffmpeg that comes with imageio-ffmpeg and the system's."""
    if request.param == "system":
        found = shutil.which("ffmpeg")
        if found is None:
            pytest.skip("no ffmpeg on this system")
        monkeypatch.setattr(write_module, "ffmpeg_executable", lambda: found)


def numbers(n: int) -> Iterator[np.ndarray[Any, Any]]:
    return (numbered_image(number) for number in range(n))


@pytest.mark.usefixtures("any_ffmpeg")
def test_every_frame_is_written_once_in_closed_groups_with_bt709_tags(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, numbers(60), width_px=WIDTH_PX, height_px=HEIGHT_PX)
    assert [number_in(frame.image) for frame in read_frames(path)] == list(range(60))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 25)
        assert (stream.colorspace, stream.color_primaries, stream.color_trc, stream.color_range) == (1, 1, 1, 1)
        keys = [packet.pts * packet.time_base for packet in container.demux(stream) if packet.is_keyframe]
    assert [float(time) for time in keys] == [0, 1, 2]
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.usefixtures("any_ffmpeg")
def test_the_same_frames_give_the_same_bytes_without_a_clock_in_them(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, numbers(30), width_px=WIDTH_PX, height_px=HEIGHT_PX)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert not {"encoder", "creation_time"} & set(container.metadata)


def test_odd_sides_get_one_pixel_that_repeats_the_edge(tmp_path: Path) -> None:
    image = np.full((63, 101, 3), 40, np.uint8)
    image[:, -9:], image[-9:] = 220, 130
    write_video(tmp_path / "a.mp4", [image] * 5, width_px=101, height_px=63, crf=10)
    read = next(read_frames(tmp_path / "a.mp4")).image
    assert read.shape == (64, 102, 3)
    assert np.abs(read[20, 101].astype(int) - 220).max() < 8
    assert np.abs(read[63, 20].astype(int) - 130).max() < 8


@pytest.mark.usefixtures("any_ffmpeg")
@pytest.mark.parametrize("colour", [(200, 40, 60), (30, 180, 90), (20, 60, 210), (180, 140, 120), (255, 255, 255)])
def test_colours_survive_writing_and_reading(colour: tuple[int, int, int], tmp_path: Path) -> None:
    image = np.full((64, 64, 3), colour, np.uint8)
    write_video(tmp_path / "a.mp4", [image] * 3, width_px=64, height_px=64, crf=10)
    read = next(read_frames(tmp_path / "a.mp4")).image
    assert np.abs(read.reshape(-1, 3).mean(axis=0) - colour).max() <= 3


def test_what_ffmpeg_reports_last_is_the_error(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="No such file or directory") as caught:
        write_video(tmp_path / "none" / "a.mp4", numbers(500), width_px=WIDTH_PX, height_px=HEIGHT_PX)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_not_the_clips_fault_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.symlink_to("/dev/full")
    with pytest.raises(MediaError) as refused:
        write_video(path, [numbered_image(1)] * 3, width_px=WIDTH_PX, height_px=HEIGHT_PX)
    assert refused.value.failure_class == "resource"
    assert list(tmp_path.iterdir()) == []


def test_an_ffmpeg_that_was_killed_is_not_the_clips_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "ffmpeg"
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(write_module, "ffmpeg_executable", lambda: str(script))
    with pytest.raises(MediaError) as refused:
        write_video(tmp_path / "a.mp4", [numbered_image(1)] * 3, width_px=WIDTH_PX, height_px=HEIGHT_PX)
    assert refused.value.failure_class == "resource"


def test_an_ffmpeg_that_floods_its_error_stream_blocks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = tmp_path / "ffmpeg"
    noisy.write_text(
        "#!/bin/sh\nhead -c 1000000 /dev/zero | tr '\\0' 'x' >&2\necho >&2\necho 'out of luck' >&2\nexit 1\n"
    )
    noisy.chmod(0o755)
    monkeypatch.setattr(write_module, "ffmpeg_executable", lambda: str(noisy))
    with pytest.raises(MediaError, match="out of luck"):
        write_video(tmp_path / "a.mp4", numbers(200), width_px=WIDTH_PX, height_px=HEIGHT_PX)


def test_nothing_is_left_behind_when_the_frames_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            started.append(self)

    def failing() -> Iterator[np.ndarray[Any, Any]]:
        yield from numbers(10)
        raise MediaError("source went away")

    monkeypatch.setattr(subprocess, "Popen", Noted)
    with pytest.raises(MediaError, match="went away"):
        write_video(tmp_path / "a.mp4", failing(), width_px=WIDTH_PX, height_px=HEIGHT_PX)
    assert [process.returncode is None for process in started] == [False]
    assert list(tmp_path.iterdir()) == []


def test_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frames must be"):
        write_video(tmp_path / "a.mp4", numbers(1), width_px=WIDTH_PX, height_px=HEIGHT_PX + 2)


def test_the_bundled_ffmpeg_comes_before_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE", raising=False)
    assert "imageio_ffmpeg" in ffmpeg_executable()


def test_without_any_ffmpeg_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise RuntimeError("no ffmpeg exe could be found")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    with pytest.raises(MediaError, match="pip install imageio-ffmpeg"):
        ffmpeg_executable()
