"""Writing video through ffmpeg: H.264 in MP4, the same bytes at every run with one ffmpeg."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import tempfile
import types
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av
import ffmpeg
import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from manifests.rows import TIMELINE_FPS
from mit_builder.errors import FailureClass, MediaError

Image = npt.NDArray[np.uint8]

_GOP_FRAMES = 25
"""A keyframe at least every second of the clip timeline, so that any frame is reached quickly."""

_SHORT = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOMEM))
"""What ffmpeg reports where the file is not to blame; often not in its last line."""

_PRESET = "veryfast"
"""A third of the time of x264's default for a file a few per cent larger at the same quality setting."""


def ffmpeg_executable() -> str:
    """The binary that imageio-ffmpeg brings, the system's where it brings none.

    The pinned one comes first: libx264's pixels differ between versions, and a dataset must not depend on the machine.

    Raises:
        MediaError: there is neither.
    """
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise MediaError("no ffmpeg: pip install imageio-ffmpeg, or install ffmpeg with libx264") from error


def write_video(
    path: Path,
    frames: Iterable[Image],
    *,
    fps: int = TIMELINE_FPS,
    width_px: int,
    height_px: int,
    audio: Path | None = None,
    crf: int = 23,
    audio_kbps: int = 192,
) -> None:
    """Encode RGB frames as H.264 (yuv420p, BT.709, closed groups of at most 25 frames) with AAC sound in an MP4.

    Args:
        path: the file to write; nothing is left there when writing fails.
        frames: (height_px, width_px, 3) uint8 each; consumed once, as a stream.
        fps: frames a second.
        width_px: width of the frames; an odd side gets one more pixel that repeats the edge.
        height_px: height of the frames.
        audio: any file with sound to go along, from its beginning.
        crf: constant rate factor, smaller is better.
        audio_kbps: bit rate of the sound.

    Raises:
        MediaError: ffmpeg failed; the message is the last line of what it reported. Of class resource where it found
            no room, or was killed.
    """
    wh = (width_px + width_px % 2, height_px + height_px % 2)
    source = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{wh[0]}x{wh[1]}", framerate=fps)
    recipe = _recipe(path, source, audio, crf, audio_kbps)

    def feed(pipe: IO[bytes]) -> None:
        for frame in frames:
            pipe.write(np.ascontiguousarray(_even(frame, (height_px, width_px, 3))).data)

    _encode(path, recipe, feed)


def write_timed_video(
    path: Path,
    frames: Iterable[tuple[int, Image]],
    *,
    ticks_per_s: int,
    width_px: int,
    height_px: int,
    audio: Path | None = None,
    crf: int = 23,
    audio_kbps: int = 192,
) -> None:
    """The same as `write_video` for frames that come with their times in ticks, from 0 on; the MP4 keeps them exactly.

    Raises:
        MediaError: as for `write_video`.
    """
    timing = {"fps_mode": "passthrough", "enc_time_base": f"1:{ticks_per_s}", "video_track_timescale": ticks_per_s}
    recipe = _recipe(path, ffmpeg.input("pipe:", format="nut"), audio, crf, audio_kbps, timing)

    def feed(pipe: IO[bytes]) -> None:
        time_base, to = Fraction(1, ticks_per_s), _Stream(pipe)
        with av.open(to, "w", format="nut") as container:
            stream = container.add_stream("rawvideo", width=width_px + width_px % 2, height=height_px + height_px % 2)
            stream.pix_fmt, stream.codec_context.time_base = "rgb24", time_base
            for ticks, image in frames:
                if to.is_broken:
                    return
                frame = VideoFrame.from_ndarray(_even(image, (height_px, width_px, 3)), format="rgb24")
                frame.pts, frame.time_base = ticks, time_base
                container.mux(stream.encode(frame))

    _encode(path, recipe, feed)


class _Stream:
    """A pipe as PyAV takes it: it cannot seek, and what nobody reads any more is no error."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self.is_broken = False

    def write(self, data: bytes) -> int:
        try:
            self._pipe.write(data)
        except BrokenPipeError:
            self.is_broken = True
        return len(data)


def _encode(path: Path, recipe: Any, feed: Callable[[IO[bytes]], None]) -> None:
    """Run ffmpeg; where it goes away while it is fed, its exit status tells why."""
    arguments = ffmpeg.compile(recipe, cmd=ffmpeg_executable())
    # A file takes what ffmpeg reports: a pipe that nobody reads would fill up and stop it.
    with tempfile.TemporaryFile() as report:
        process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=report)
        assert process.stdin is not None
        try:
            with suppress(BrokenPipeError):
                feed(process.stdin)
        except BaseException:
            process.kill()
            path.unlink(missing_ok=True)
            raise
        finally:
            with suppress(BrokenPipeError):
                process.communicate()
        if process.returncode != 0:
            path.unlink(missing_ok=True)
            says = _lines(report)
            # Killed from outside: most likely by the system, for memory.
            is_short = process.returncode == -signal.SIGKILL or any(
                reason in line for line in says for reason in _SHORT
            )
            failure_class: FailureClass = "resource" if is_short else "permanent"
            last = says[-1] if says else "nothing"
            raise MediaError(f"cannot write {path.name}: ffmpeg says: {last}", failure_class=failure_class)


def _recipe(
    path: Path,
    source: Any,
    audio: Path | None,
    crf: int,
    audio_kbps: int,
    timing: Mapping[str, Any] = types.MappingProxyType({}),
) -> Any:
    bt709 = {"color_primaries": "bt709", "color_trc": "bt709", "colorspace": "bt709"}
    picture = (
        source.filter("scale", out_color_matrix="bt709", out_range="tv", flags="bicubic+accurate_rnd+full_chroma_int")
        .filter("format", "yuv420p")
        .filter("setparams", range="tv", **bt709)  # newer ffmpegs take the tags from here, older ones from the output
    )
    streams = [picture] if audio is None else [picture, ffmpeg.input(f"file:{audio.absolute()}").audio]
    sound = {} if audio is None else {"acodec": "aac", "audio_bitrate": f"{audio_kbps}k", "flags:a": "+bitexact"}
    output = ffmpeg.output(
        *streams,
        f"file:{path.absolute()}",
        format="mp4",
        vcodec="libx264",
        crf=crf,
        preset=_PRESET,
        g=_GOP_FRAMES,
        threads=1,  # libx264's pixels change with the number of threads
        color_range="tv",
        movflags="+faststart",
        map_metadata=-1,
        fflags="+bitexact",
        **{"flags:v": "+bitexact+cgop"},
        **bt709,
        **sound,
        **timing,
    )
    return output.global_args("-nostdin", "-hide_banner", "-loglevel", "error").overwrite_output()


def _even(frame: Image, shape: tuple[int, int, int]) -> Image:
    """A frame with its edge repeated where a side is odd.

    Raises:
        ValueError: it has another shape than it should.
    """
    if frame.shape != shape:
        raise ValueError(f"frames must be {shape}, got {frame.shape}")
    odd = ((0, shape[0] % 2), (0, shape[1] % 2), (0, 0))
    return np.pad(frame, odd, mode="edge") if odd != ((0, 0),) * 3 else frame


def _lines(report: IO[bytes]) -> list[str]:
    report.seek(0)
    return report.read().decode(errors="replace").strip().splitlines()
