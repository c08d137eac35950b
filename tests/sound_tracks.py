"""Videos with sound tracks of any kind, and voices to tell them apart by."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.stream import Disposition
from numbered_video import write_numbered

RATE_HZ = 16_000
N_FRAMES = 75

Array = np.ndarray[Any, Any]


@cache
def voice(seed: int, level_dbfs: float = -23.0, n_s: float = N_FRAMES / 25) -> Array:
    """Noise that comes and goes like syllables, another one for each seed, (n,) int16."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(n_s * RATE_HZ)) / RATE_HZ
    wave = rng.standard_normal(len(time_s)) * (1.2 + np.sin(2 * np.pi * (3 + seed / 7) * time_s + seed))
    made: Array = np.clip(np.rint(wave / wave.std() * 32768 * 10 ** (level_dbfs / 20)), -32768, 32767).astype(np.int16)
    return made


@dataclass(frozen=True)
class Track:
    """A sound track: int16 channels of one length by their places, other channels silent."""

    channels: dict[int, Array]
    layout: str = "mono"
    codec: str = "pcm_s16le"
    language: str | None = None
    title: str | None = None
    roles: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)
    rate_hz: int = RATE_HZ


def write_tracks(path: Path, *tracks: Track) -> Path:
    """A numbered video of three seconds with these sound tracks, in any container."""
    video_only = write_numbered(path.with_name("video_only.mp4"), [i * 2 for i in range(N_FRAMES)], Fraction(1, 50))
    with av.open(str(video_only)) as source, av.open(str(path), "w") as target:
        if path.suffix == ".mxf":
            pictures: Any = target.add_stream("mpeg2video", rate=25)
            pictures.width, pictures.height, pictures.pix_fmt = 240, 64, "yuv420p"
        else:
            pictures = target.add_stream_from_template(source.streams.video[0])
        streams = [_add(target, track) for track in tracks]
        if path.suffix == ".mxf":
            packets = [p for frame in source.decode(video=0) for p in pictures.encode(frame.reformat(format="yuv420p"))]
            packets += pictures.encode(None)
        else:
            packets = [packet for packet in source.demux(video=0) if packet.size]
            for packet in packets:
                packet.stream = pictures
        sounds = [packet for stream, track in zip(streams, tracks, strict=True) for packet in _encoded(stream, track)]
        for packet in sorted([*packets, *sounds], key=lambda p: (p.dts or 0) * (p.time_base or 1)):
            target.mux(packet)
    return path


def _add(target: Any, track: Track) -> Any:
    stream = target.add_stream(track.codec, rate=track.rate_hz, layout=track.layout, options=track.options)
    names = {"language": track.language, "title": track.title, "handler_name": track.title}
    stream.metadata.update({name: value for name, value in names.items() if value})
    for role in track.roles:
        stream.disposition = Disposition(stream.disposition | Disposition[role])
    return stream


def _encoded(stream: Any, track: Track) -> list[Any]:
    n_channels = stream.layout.nb_channels
    (n_samples,) = {len(wave) for wave in track.channels.values()}
    samples = np.zeros((n_samples, n_channels), np.int16)
    for place, wave in track.channels.items():
        samples[:, place] = wave
    samples = np.repeat(samples, track.rate_hz // RATE_HZ, axis=0)
    packets: list[Any] = []
    for at in range(0, len(samples), 960):
        block = np.ascontiguousarray(samples[at : at + 960]).reshape(1, -1)
        frame = AudioFrame.from_ndarray(block, format="s16", layout=track.layout)
        frame.sample_rate, frame.time_base, frame.pts = track.rate_hz, Fraction(1, track.rate_hz), at
        packets += stream.encode(frame)
    return [*packets, *stream.encode(None)]


def likeness(heard: Array, said: Array, lag: int = 0) -> float:
    """Size of the correlation of two waves, the first `lag` samples later; of unlike voices it is near 0."""
    first, second = heard[lag:].astype(float), said.astype(float)
    n = min(len(first), len(second))
    if not first[:n].any() or not second[:n].any():
        return 0.0
    return float(abs(np.corrcoef(first[:n], second[:n])[0, 1]))
