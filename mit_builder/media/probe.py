"""What a media file holds: its picture upright and with square pixels, its rates, its codecs. PyAV only, no ffprobe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Discard, Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from mit_builder.errors import MediaError
from mit_builder.media.stereo import n_views_wh, unsqueezed

Decoded = TypeVar("Decoded", VideoFrame, AudioFrame)

FALLBACK_FPS = Fraction(25)
"""Rate assumed where neither the container nor the codec states one."""
_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
_PLAYLISTS = frozenset({"hls", "dash", "concat", "sdp", "rtsp", "imf", "tty"})
"""Demuxers that read other files or addresses than the one named (or draw text): never from downloaded data."""
_SAR_LIMIT = 4
"""Pixels more than four times as wide as high (or the reverse) are taken for damaged metadata."""
_MIN_STRETCH = 0.01
"""A display matrix whose scales differ by less only turns (libavformat's limit)."""
_SWAPPED_TOLERANCE = 0.02
"""A picture to be turned whose container gives width and height as they are after turning would seem to have pixels of
(height / width)^2: those are square."""
_PIXEL = np.dtype("V3")
"""RGB as one item: numpy turns a picture 2.6 times faster than with three bytes a pixel."""
MAX_FRAME_PX = 8192 * 8192
"""Decoders refuse larger pictures before they allocate them, also in the middle of a stream: 8K has half of it."""
_MAX_RATE_RATIO = 4
"""An average rate so many times the codec's own is a clock's: pairs of fields explain two."""
_TRIAL_PACKETS = 100
"""Audio packets tried before a track counts as not decodable (about 2 s of AAC)."""


@dataclass(frozen=True)
class MediaInfo:
    """A video file as its header and first frame describe it."""

    width_px: int
    """Width of the upright picture with square pixels."""
    height_px: int
    """Height of the upright picture."""
    source_fps: Fraction
    """Average rate of the source's frames."""
    start_s: float
    """When the earliest stream starts, which players show as 0."""
    duration_s: float
    """Length that the header states; where it states none, the end of the last video packet."""
    has_audio: bool
    """Whether an audio track can be decoded."""
    audio_rate_hz: int | None
    """Sample rate of the decoded audio."""
    rotation_deg: int
    """Clockwise turn that makes the stored picture upright: 0, 90, 180 or 270."""
    video_codec: str
    audio_codec: str | None


@dataclass(frozen=True)
class AudioTrack:
    """An audio stream that decodes, as its first samples describe it."""

    index: int
    """Index of the stream in the file."""
    rate_hz: int
    n_channels: int
    codec: str


@dataclass(frozen=True)
class Geometry:
    """How a stored picture becomes upright with square pixels: scale, take the first view, then mirror, then turn."""

    scaled_wh: tuple[int, int]
    """Size with square pixels of what is shown, before turning; no side is shorter than it is stored."""
    clockwise_turns: int
    """Quarter turns, 0..3."""
    is_mirrored: bool
    """Whether left and right are exchanged before turning."""
    views_wh: tuple[int, int] = (1, 1)
    """Views of stereoscopic 3D in the stored picture, across and down; the first is shown."""

    @property
    def upright_wh(self) -> tuple[int, int]:
        """Width and height of the upright picture, pixels."""
        width, height = self.scaled_wh
        return (height, width) if self.clockwise_turns % 2 else (width, height)

    def upright(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Mirror and turn a scaled (h, w, 3) image; the result is contiguous."""
        pixels = image.view(_PIXEL)[..., 0]
        if self.is_mirrored:
            pixels = pixels[:, ::-1]
        turned = np.ascontiguousarray(np.rot90(pixels, -self.clockwise_turns))
        return turned.view(np.uint8).reshape(*turned.shape, 3)


@contextmanager
def open_media(path: Path, **demuxer: str) -> Iterator[InputContainer]:
    """An opened media file; whatever libav reports inside the block becomes a `MediaError` of one line.

    `demuxer` are options of libavformat.

    Raises:
        MediaError: the file cannot be read, or it is a playlist.
    """
    try:
        # The absolute path keeps a file's name from being read as a protocol ("concat:...").
        options = {"protocol_whitelist": "file", "max_pixels": str(MAX_FRAME_PX), **demuxer}
        with av.open(str(path.absolute()), options=options) as container:
            if _PLAYLISTS & set(container.format.name.split(",")):
                raise MediaError(f"{path.name}: a {container.format.name} playlist is not a video file")
            yield container
    except (av.FFmpegError, OSError) as error:
        reason = " ".join(str(error.strerror or error).split())
        raise MediaError(f"cannot read {path.name}: {reason}") from error


def video_stream(container: InputContainer, path: Path) -> VideoStream:
    """The stream of moving pictures that players show: the default one, else the largest; of equal ones the first.

    Cover art and thumbnails are passed over, and streams of one picture where there is another.

    It decodes in one thread: with frame threads a damaged stream gives other pixels at every run (measured), and units
    run in parallel anyway.

    Raises:
        MediaError: there is none, or none whose frames have a size that may be decoded (`MAX_FRAME_PX`).
    """
    streams = [s for s in container.streams.video if not s.disposition & _PICTURES and s.codec_context is not None]
    if not streams:
        raise MediaError(f"{path.name} has no video stream")
    fitting = [s for s in streams if 0 < s.codec_context.width * s.codec_context.height <= MAX_FRAME_PX]
    if not fitting:
        raise MediaError(f"{path.name}: frames of no size, or of more than {MAX_FRAME_PX / 1e6:.0f} megapixels")
    stream = max(fitting, key=_preference)
    stream.thread_count = 1
    stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PX)}
    return stream


def _preference(stream: VideoStream) -> tuple[bool, bool, int]:
    """Sort key of a stream: the one with the greatest is shown; `frames` is 0 where the container does not say."""
    codec = stream.codec_context
    return stream.frames != 1, bool(stream.disposition & Disposition.default), codec.width * codec.height


def audio_tracks(path: Path) -> Iterator[AudioTrack]:
    """The audio tracks that give samples, in the order of the file.

    Raises:
        MediaError: the file cannot be read.
    """
    with open_media(path) as container:
        indices = [stream.index for stream in container.streams.audio if stream.codec_context is not None]
    yield from (track for track in (_try_audio(path, index) for index in indices) if track is not None)


def audio_stream(container: InputContainer, index: int) -> AudioStream:
    """The audio stream of this index."""
    return next(stream for stream in container.streams.audio if stream.index == index)


def packets_of(container: InputContainer, stream: Stream) -> Iterator[Packet[Stream]]:
    """The stream's packets that hold data; a file cut short ends where it ends."""
    return demuxed(container, [stream])


def demuxed(container: InputContainer, streams: Sequence[Stream]) -> Iterator[Packet[Stream]]:
    """The packets of some streams that hold data, in the order of the file."""
    wanted = {stream.index for stream in streams}
    for other in container.streams:
        other.discard = Discard.default if other.index in wanted else Discard.all
    try:
        yield from (packet for packet in container.demux(*streams) if packet.size)
    except (av.error.InvalidDataError, av.error.EOFError):
        return


def decoded_video(
    container: InputContainer, stream: VideoStream, packets: Iterable[Packet[Stream]] | None = None
) -> Iterator[VideoFrame]:
    """Frames in display order from where the container stands; packets that cannot be decoded are passed over.

    `packets` are the stream's, with other times than the file's (`Clock.packets`).
    """
    return _decoded(packets_of(container, stream) if packets is None else packets, stream.decode)


def decoded_audio(
    container: InputContainer, stream: AudioStream, packets: Iterable[Packet[Stream]] | None = None
) -> Iterator[AudioFrame]:
    """Audio frames, as `decoded_video` gives pictures."""
    return _decoded(packets_of(container, stream) if packets is None else packets, stream.decode)


def _decoded(packets: Iterable[Packet[Stream]], decode: Callable[[Any], list[Decoded]]) -> Iterator[Decoded]:
    for packet in chain(packets, (None,)):  # None makes the decoder give what it holds back
        try:
            frames = decode(packet)
        except av.FFmpegError:
            continue
        yield from frames


def source_rate(stream: VideoStream) -> Fraction:
    """Average frame rate as the container states it; as the codec does where the container's is another's clock.

    AVI that was made by copying counts in ticks of the file it came from, 600 a second for example. A true average is
    below the codec's rate, or up to twice as high where that counts pairs of fields.
    """
    stated, coded = stream.average_rate, stream.codec_context.framerate
    if stated and coded and stream.guessed_rate and stated > _MAX_RATE_RATIO * max(coded, stream.guessed_rate):
        return coded
    return stated or stream.guessed_rate or FALLBACK_FPS


def geometry(stream: VideoStream, frame: VideoFrame) -> Geometry:
    """How frames of this stream are made upright."""
    turns, is_mirrored, stretch = _orientation(frame)
    sar = stretch or stream.sample_aspect_ratio or Fraction(1)
    is_swapped = turns % 2 == 1 and abs(float(sar) * (frame.width / frame.height) ** 2 - 1) < _SWAPPED_TOLERANCE
    if is_swapped or not Fraction(1, _SAR_LIMIT) <= sar <= _SAR_LIMIT:
        sar = Fraction(1)
    across, down = views = n_views_wh(frame)
    width, height = max(1, frame.width // across), max(1, frame.height // down)
    scaled = (round(width * sar), height) if sar >= 1 else (width, round(height / sar))
    return Geometry(unsqueezed(scaled, views), turns, is_mirrored, views)


def probe(path: Path) -> MediaInfo:
    """Look into a media file: header, first video frame, first audio samples.

    Raises:
        MediaError: unreadable, no video stream, or no frame can be decoded.
    """
    with open_media(path) as container:
        stream = video_stream(container, path)
        frame = next(decoded_video(container, stream), None)
        if frame is None:
            raise MediaError(f"{path.name}: no video frame can be decoded")
        shape = geometry(stream, frame)
        fps, codec = source_rate(stream), stream.codec_context.codec.canonical_name
        start_s, duration_s = (container.start_time or 0) / av.time_base, _stated_duration_s(container, stream)
    width, height = shape.upright_wh
    audio = next(audio_tracks(path), None)
    return MediaInfo(
        width_px=width,
        height_px=height,
        source_fps=fps,
        start_s=start_s,
        duration_s=_last_end_s(path) if duration_s is None else duration_s,
        has_audio=audio is not None,
        audio_rate_hz=audio.rate_hz if audio else None,
        rotation_deg=90 * shape.clockwise_turns,
        video_codec=codec,
        audio_codec=audio.codec if audio else None,
    )


def _orientation(frame: VideoFrame) -> tuple[int, bool, Fraction | None]:
    """The display matrix: clockwise quarter turns, whether the picture is mirrored before, and its pixels' aspect.

    libavformat makes an aspect of a matrix that stretches, but of the turned picture's sides; None where it does not.
    """
    # frame.side_data would make a cycle: frames, and what the decoder holds for them, would stay until Python looks.
    side_data: Any = SideDataContainer(frame)  # type: ignore[call-arg]  # PyAV's stub knows motion vectors alone
    if SideDataType.DISPLAYMATRIX not in side_data:
        return 0, False, None
    matrix = np.frombuffer(bytes(side_data[SideDataType.DISPLAYMATRIX]), np.int32).reshape(3, 3)
    # ISO 14496-12: (x, y) -> (a x + c y, b x + d y), y down; a mirrored picture has a negative determinant.
    a, b, c, d = (int(value) for value in matrix[:2, :2].ravel())
    wide, high = round(float(np.hypot(a, b))), round(float(np.hypot(c, d)))
    stretch = Fraction(wide, high) if wide and high and abs(wide / high - 1) > _MIN_STRETCH else None
    is_mirrored = a * d - b * c < 0
    if is_mirrored:
        a, b = -a, -b
    return round(float(np.degrees(np.arctan2(b, a))) / 90) % 4, is_mirrored, stretch


def _try_audio(path: Path, index: int) -> AudioTrack | None:
    with open_media(path) as container:
        stream = audio_stream(container, index)
        frame = next(_decoded(islice(packets_of(container, stream), _TRIAL_PACKETS), stream.decode), None)
        if frame is None:
            return None
        codec = stream.codec_context
        return AudioTrack(index, frame.sample_rate, frame.layout.nb_channels, codec.codec.canonical_name)


def _stated_duration_s(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base


def _last_end_s(path: Path) -> float:
    """Time from the first packet's start to the last one's end."""
    with open_media(path) as container:
        stream = video_stream(container, path)
        spans = [(p.pts, p.pts + (p.duration or 0)) for p in packets_of(container, stream) if p.pts is not None]
        tick = stream.time_base or Fraction(1)
    return float((max(end for _, end in spans) - min(start for start, _ in spans)) * tick) if spans else 0.0
