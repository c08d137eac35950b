"""Videos whose frames carry their number, sounds with clicks at known times, and what the timeline must be."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame

Array = np.ndarray[Any, Any]

N_BITS = 10
BLOCK_PX = 24
WIDTH_PX, HEIGHT_PX = N_BITS * BLOCK_PX, 64


def numbered_image(number: int) -> Array:
    """Number as ten black or white blocks in the upper half, its complement in the lower half."""
    bits = [(number >> bit) & 1 for bit in range(N_BITS)]
    row = np.repeat(np.array(bits, np.uint8) * 200 + 28, BLOCK_PX)
    half = np.repeat(row[None], HEIGHT_PX // 2, axis=0)
    return np.repeat(np.concatenate([half, 255 - half])[..., None], 3, axis=2)


def number_in(image: Array) -> int:
    """The number of a `numbered_image` after any codec; fails where the two halves disagree."""
    scale = image.shape[1] / WIDTH_PX
    centres = ((np.arange(N_BITS) + 0.5) * BLOCK_PX * scale).astype(int)
    upper, lower = (image[int(HEIGHT_PX * scale * part), centres].mean(axis=1) > 128 for part in (0.25, 0.75))
    assert (upper != lower).all(), "unreadable number"
    return int(sum(1 << bit for bit in range(N_BITS) if upper[bit]))


def shown_at(times_s: Sequence[Fraction], last_s: Fraction) -> list[int]:
    """The rule of the clip timeline, word by word: for every k/25 the nearest frame after the first, ties later."""
    relative = [time - times_s[0] for time in times_s]
    shown: list[int] = []
    while Fraction(len(shown), 25) < relative[-1] + last_s:
        target = Fraction(len(shown), 25)
        after = bisect_left(relative, target)
        near = range(max(0, after - 2), min(len(relative), after + 2))
        shown.append(min(near, key=lambda i: (abs(relative[i] - target), -i)))
    return shown


def write_numbered(
    path: Path,
    ticks: Sequence[int],
    time_base: Fraction,
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    sound: Array | None = None,
    sound_rate_hz: int = 48_000,
    sound_codec: str = "pcm_s16le",
    sound_start_s: Fraction = Fraction(0),
) -> Path:
    """Write frames 0, 1, ... at the given ticks, with B-frames where the codec has them, a keyframe every 12 frames."""
    # MP4 rounds start offsets to its movie clock: by default milliseconds, too coarse for samples.
    muxer = {"movie_timescale": "705600"} if path.suffix in {".mp4", ".mov"} else {}
    with av.open(str(path), "w", options=muxer) as container:
        video: Any = container.add_stream(codec, rate=30, options=options or {})
        video.width, video.height, video.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        video.codec_context.time_base = time_base
        video.codec_context.gop_size = 12
        video.codec_context.max_b_frames = 3 if codec == "libx264" else 0
        audio: Any = None
        if sound is not None:
            audio = container.add_stream(sound_codec, rate=sound_rate_hz, layout="mono")
        for packet in _video_packets(video, ticks, time_base):
            container.mux(packet)
        if sound is not None:
            for packet in _audio_packets(audio, sound, sound_rate_hz, sound_start_s):
                container.mux(packet)
    return path


def _video_packets(stream: Any, ticks: Sequence[int], time_base: Fraction) -> Iterator[Any]:
    """Every frame lasts until the next, the last one as long as the one before it."""
    ends = [*ticks[1:], 2 * ticks[-1] - ticks[-2]]
    durations = {tick: end - tick for tick, end in zip(ticks, ends, strict=True)}
    packets: list[Any] = []
    for number, tick in enumerate(ticks):
        frame = VideoFrame.from_ndarray(numbered_image(number), format="rgb24")
        frame.pts, frame.time_base = tick, time_base
        packets += stream.encode(frame)
    for packet in [*packets, *stream.encode(None)]:
        packet.duration = durations[packet.pts]
        yield packet


def _audio_packets(stream: Any, sound: Any, rate_hz: int, start_s: Fraction) -> Iterator[Any]:
    for at in range(0, len(sound), 1024):
        frame = AudioFrame.from_ndarray(sound[None, at : at + 1024].astype(np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.time_base = rate_hz, Fraction(1, rate_hz)
        frame.pts = round(start_s * rate_hz) + at
        yield from stream.encode(frame)
    yield from stream.encode(None)
