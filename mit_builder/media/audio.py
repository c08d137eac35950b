"""Sound of a video on the clip timeline: zero is the first presented video frame, whatever the container's offsets.

Decoded frames are placed by their timestamps on a grid of the source's rate (gaps and broken packets are silence),
mixed down and resampled by libswresample. Decoding always begins at the start of the track, because lossy decoders
carry state (AAC's noise generator, overlapping windows): a range is bit-equal to the same range of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler

from manifests.rows import AUDIO_RATE_HZ, SAMPLES_PER_FRAME, TIMELINE_FPS
from mit_builder.errors import MediaError
from mit_builder.media.probe import audio_stream, decoded_audio, find_audio, open_media
from mit_builder.media.timeline import Timeline, read_timeline

Samples = npt.NDArray[np.int16]
Waves = npt.NDArray[np.int32]
Layout = Literal["mono", "stereo"]
Number = TypeVar("Number", np.int16, np.int32)

_JITTER_S = Fraction(1, 100)
"""Timestamps this close to the running clock are rounding (Matroska and FLV count milliseconds), not a gap; a lost
packet is at least 20 ms of Opus, MP3 or AAC."""
_PRE_ROLL_S = 1
"""Resampling begins this much and up to a second more before a range, at a whole second: there the filter's phase is
that of a resampler which began at zero, and its memory (some 50 samples) has run in."""
_WAVE_FORMAT = "s32p"
"""Format between mixing and resampling. libswresample makes the weights of a mix sum to 1 when it writes integers, so
that nothing clips: stereo to mono is (L + R) / 2; surround is mixed as in ITU-R BS.775 (centre 1, front 0.71, surround
0.5, no LFE; all divided by their sum)."""


def read_samples(
    path: Path,
    start_frame: int,
    n_frames: int,
    *,
    rate_hz: int = AUDIO_RATE_HZ,
    timeline: Timeline | None = None,
) -> Samples:
    """Mono samples of `n_frames` clip frames from `start_frame` on; zeros where there is no sound, or no track at all.

    Args:
        path: the video.
        start_frame: first frame on the clip timeline.
        n_frames: may reach past the video's end.
        rate_hz: sample rate of the result, a multiple of 25.
        timeline: the video's timeline, where it is known already.

    Returns:
        (rate_hz // 25 * n_frames,) int16.

    Raises:
        MediaError: the file cannot be read or has no video.
    """
    blocks = iter_audio(path, start_frame, start_frame + n_frames, rate_hz=rate_hz, layout="mono", timeline=timeline)
    return np.concatenate([np.zeros(0, np.int16), *(block[0] for block in blocks)])


def iter_samples(
    path: Path,
    start_frame: int,
    end_frame: int,
    *,
    chunk_frames: int = 250,
    timeline: Timeline | None = None,
) -> Iterator[Samples]:
    """Mono 16 kHz samples of [start_frame, end_frame) as (640 * chunk_frames,) int16 chunks, the last one shorter.

    Raises:
        MediaError: the file cannot be read or has no video.
    """
    blocks = iter_audio(path, start_frame, end_frame, rate_hz=AUDIO_RATE_HZ, layout="mono", timeline=timeline)
    size = SAMPLES_PER_FRAME * chunk_frames
    pending = np.zeros(0, np.int16)
    for block in blocks:
        pending = np.concatenate([pending, block[0]])
        while len(pending) >= size:
            yield pending[:size]
            pending = pending[size:]
    if len(pending):
        yield pending


def iter_audio(
    path: Path,
    start_frame: int,
    end_frame: int,
    *,
    rate_hz: int,
    layout: Layout,
    timeline: Timeline | None = None,
) -> Iterator[Samples]:
    """Sound of [start_frame, end_frame) as (n_channels, n) int16 blocks of up to about a second.

    The blocks hold exactly rate_hz // 25 samples a frame; `rate_hz` must be a multiple of 25.

    Raises:
        MediaError: the file cannot be read or has no video.
    """
    per_frame, rest = divmod(rate_hz, TIMELINE_FPS)
    if rest:
        raise ValueError(f"rate_hz must be a multiple of {TIMELINE_FPS}, got {rate_hz}")
    remaining = per_frame * (end_frame - start_frame)
    track = find_audio(path)
    if track is None:
        yield from _silence(1 if layout == "mono" else 2, remaining, rate_hz, np.int16)
        return
    zero_s = (timeline or read_timeline(path)).zero_s
    origin_s = start_frame // TIMELINE_FPS - _PRE_ROLL_S
    skipped = per_frame * start_frame - rate_hz * origin_s
    with open_media(path) as container:
        frames = decoded_audio(container, audio_stream(container, track.index))
        placed = _placed(frames, track.rate_hz, zero_s, origin_s, layout)
        for block in _resampled(placed, track.rate_hz, rate_hz, layout):
            wanted = block[:, skipped : skipped + remaining]
            skipped = max(0, skipped - block.shape[1])
            remaining -= wanted.shape[1]
            if wanted.size:
                yield wanted
            if remaining == 0:
                return


def read_flac(path: Path) -> Samples:
    """All samples of a clip's FLAC, (n,) int16 mono at 16 kHz.

    Raises:
        MediaError: unreadable, or not mono 16-bit at 16 kHz.
    """
    with open_media(path) as container:
        if not container.streams.audio:
            raise MediaError(f"{path.name} has no audio stream")
        frames = list(decoded_audio(container, container.streams.audio[0]))
    if any((f.sample_rate, f.layout.nb_channels, f.format.name) != (AUDIO_RATE_HZ, 1, "s16") for f in frames):
        raise MediaError(f"{path.name} is not mono 16-bit audio at {AUDIO_RATE_HZ} Hz")
    blocks = [np.asarray(frame.to_ndarray(), np.int16)[0] for frame in frames]
    return np.concatenate([np.zeros(0, np.int16), *blocks])


def _placed(
    frames: Iterable[AudioFrame], rate_hz: int, zero_s: Fraction, origin_s: int, layout: Layout
) -> Iterator[Waves]:
    """The track's sound from `origin_s` on as (n_channels, n) blocks at its own rate, without gaps and without end."""
    n_channels = 1 if layout == "mono" else 2
    mix = _Mixer(rate_hz, layout)
    given = origin_s * rate_hz  # grid sample that is due next
    clock: int | None = None  # grid sample after the last decoded one
    for frame in frames:
        at = _grid_position(frame, rate_hz, zero_s, clock)
        clock = at + round(Fraction(frame.samples * rate_hz, frame.sample_rate))
        if clock <= given:
            continue
        yield from _silence(n_channels, at - given, rate_hz, np.int32)
        given = max(given, at)
        wave = mix(frame)[:, given - at :]
        given += wave.shape[1]
        yield wave
    while True:
        yield np.zeros((n_channels, rate_hz), np.int32)


def _grid_position(frame: AudioFrame, rate_hz: int, zero_s: Fraction, clock: int | None) -> int:
    """Where a frame begins, in samples after zero; frames without a time follow the one before."""
    if frame.pts is None or frame.time_base is None:
        return clock or 0
    at = math.floor((frame.pts * frame.time_base - zero_s) * rate_hz + Fraction(1, 2))
    return clock if clock is not None and abs(at - clock) <= _JITTER_S * rate_hz else at


class _Mixer:
    """Mixes decoded frames of any format and channel layout to waves of one rate."""

    def __init__(self, rate_hz: int, layout: Layout) -> None:
        self._rate_hz = rate_hz
        self._layout = layout
        self._resamplers: dict[tuple[str, str], AudioResampler] = {}

    def __call__(self, frame: AudioFrame) -> Waves:
        frame.pts = None
        if frame.sample_rate != self._rate_hz:
            # A track that changes its rate: each such frame by itself, so that no delay builds up.
            resampler = self._new()
            parts = [*resampler.resample(frame), *resampler.resample(None)]
        else:
            key = (frame.format.name, frame.layout.name)
            if key not in self._resamplers:
                self._resamplers[key] = self._new()
            parts = self._resamplers[key].resample(frame)
        return _waves(parts)

    def _new(self) -> AudioResampler:
        return AudioResampler(format=_WAVE_FORMAT, layout=self._layout, rate=self._rate_hz)


def _resampled(waves: Iterable[Waves], rate_hz: int, wanted_hz: int, layout: Layout) -> Iterator[Samples]:
    """Change the rate and round to int16, in blocks of about a second (a call for every decoded frame costs more)."""
    resampler = AudioResampler(format="s16p", layout=layout, rate=wanted_hz)
    pending: list[Waves] = []
    for wave in waves:
        pending.append(wave)
        if sum(part.shape[1] for part in pending) < rate_hz:
            continue
        frame = AudioFrame.from_ndarray(np.concatenate(pending, axis=1), format=_WAVE_FORMAT, layout=layout)
        frame.sample_rate = rate_hz
        pending = []
        for part in resampler.resample(frame):
            yield np.asarray(part.to_ndarray(), np.int16)


def _waves(parts: Sequence[AudioFrame]) -> Waves:
    return np.concatenate([np.asarray(part.to_ndarray(), np.int32) for part in parts], axis=1)


def _silence(n_channels: int, n_samples: int, block: int, dtype: type[Number]) -> Iterator[npt.NDArray[Number]]:
    """(n_channels, n_samples) zeros in blocks; none where n_samples is not positive."""
    for start in range(0, n_samples, block):
        yield np.zeros((n_channels, min(block, n_samples - start)), dtype)
