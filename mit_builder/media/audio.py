"""Sound of a video on the clip timeline: zero is the first presented video frame, whatever the container's offsets.

What is heard, and how it is mixed, says mit_builder/media/audio_tracks.py. Decoded frames are placed by time on a
grid of the source's rate (gaps and broken packets are silence), mixed, and resampled by libswresample. Decoding always
begins at the start of the track, because lossy decoders carry state (AAC's noise generator, overlapping windows): a
range is bit-equal to the same range of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from itertools import chain, repeat
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler

from manifests.rows import AUDIO_RATE_HZ, SAMPLES_PER_FRAME, TIMELINE_FPS
from manifests.sound_track import SoundTrack
from mit_builder.errors import MediaError
from mit_builder.media.audio_tracks import choose_sound
from mit_builder.media.downmix import Channels, Doubles, Weights, channel_names, ear_weights, plain_weights
from mit_builder.media.probe import audio_stream, decoded_audio, open_media
from mit_builder.media.timeline import Timeline, read_timeline

Samples = npt.NDArray[np.int16]
Waves = npt.NDArray[np.int32]
Layout = Literal["mono", "stereo"]
Number = TypeVar("Number", np.int16, np.int32)

_JITTER_S = Fraction(1, 100)
"""A time further than this from the running clock is a gap: a lost packet is at least 20 ms of Opus, MP3 or AAC."""
_ROUNDING_S = Fraction(1, 1000)
"""Matroska, FLV and ASF count milliseconds."""
_LASTING = 12
"""Frames (a quarter of a second of AAC) that must agree on a smaller distance, such as that of joined recordings."""
_MIN_STATED = 3
"""Of these, frames with a time: some streams have one every few frames."""
_PRE_ROLL_S = 1
"""Resampling begins this much and up to a second more before a range, at a whole second: there the filter's phase is
that of a resampler which began at zero, and its memory (some 50 samples) has run in."""
_WAVE_FORMAT = "s32p"
"""Format between mixing and resampling."""


def read_samples(
    path: Path,
    start_frame: int,
    n_frames: int,
    *,
    rate_hz: int = AUDIO_RATE_HZ,
    timeline: Timeline | None = None,
    sound: Sequence[SoundTrack] | None = None,
) -> Samples:
    """Mono samples of `n_frames` clip frames from `start_frame` on; zeros where there is no sound, or no track at all.

    Args:
        path: the video.
        start_frame: first frame on the clip timeline.
        n_frames: may reach past the video's end.
        rate_hz: sample rate of the result, a multiple of 25.
        timeline: the video's timeline, where it is known already.
        sound: the video's sound tracks with their weights, where they are chosen already.

    Returns:
        (rate_hz // 25 * n_frames,) int16.

    Raises:
        MediaError: the file cannot be read or has no video.
    """
    end_frame = start_frame + n_frames
    blocks = iter_audio(path, start_frame, end_frame, rate_hz=rate_hz, layout="mono", timeline=timeline, sound=sound)
    return np.concatenate([np.zeros(0, np.int16), *(block[0] for block in blocks)])


def iter_samples(
    path: Path,
    start_frame: int,
    end_frame: int,
    *,
    chunk_frames: int = 250,
    timeline: Timeline | None = None,
    sound: Sequence[SoundTrack] | None = None,
) -> Iterator[Samples]:
    """Mono 16 kHz samples of [start_frame, end_frame) as (640 * chunk_frames,) int16 chunks, the last one shorter.

    Raises:
        MediaError: the file cannot be read or has no video.
    """
    blocks = iter_audio(
        path, start_frame, end_frame, rate_hz=AUDIO_RATE_HZ, layout="mono", timeline=timeline, sound=sound
    )
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
    sound: Sequence[SoundTrack] | None = None,
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
    heard = [track for track in (choose_sound(path).tracks if sound is None else sound) if track.weights]
    if not heard:
        yield from _silence(1 if layout == "mono" else 2, remaining, rate_hz, np.int16)
        return
    timeline = timeline or read_timeline(path)
    origin_s = start_frame // TIMELINE_FPS - _PRE_ROLL_S
    skipped = per_frame * start_frame - rate_hz * origin_s
    with ExitStack() as opened:
        placed = []
        for track in heard:
            container = opened.enter_context(open_media(path))
            stream = audio_stream(container, track.stream)
            frames = decoded_audio(container, stream, timeline.clock.packets(container, stream))
            mix = _Mixer(track.rate_hz, layout, track.weights)
            placed.append(_placed(frames, mix, timeline.zero_s, origin_s))
        for block in _resampled(_together(placed), heard[0].rate_hz, rate_hz, layout):
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


def _placed(frames: Iterable[AudioFrame], mix: _Mixer, zero_s: Fraction, origin_s: int) -> Iterator[Waves]:
    """The track's sound from `origin_s` on as (n_channels, n) blocks at its own rate, without gaps and without end."""
    rate_hz, n_channels = mix.rate_hz, mix.n_channels
    given = origin_s * rate_hz  # grid sample that is due next
    for frame, at, end in _on_grid(frames, rate_hz, zero_s):
        if end <= given:
            continue
        yield from _silence(n_channels, at - given, rate_hz, np.int32)
        given = max(given, at)
        wave = mix(frame)[:, given - at :]
        given += wave.shape[1]
        yield wave
    while True:
        yield np.zeros((n_channels, rate_hz), np.int32)


def _on_grid(frames: Iterable[AudioFrame], rate_hz: int, zero_s: Fraction) -> Iterator[tuple[AudioFrame, int, int]]:
    """Frames with where they begin and end, in samples after zero; those without a time follow the one before.

    A time beside the running clock is rounding, unless it lies on one side of it for `_LASTING` frames.
    """
    ahead: list[tuple[AudioFrame, int | None, int]] = []
    clock: int | None = None
    for frame in chain(frames, repeat(None)):
        if frame is not None:
            length = round(Fraction(frame.samples * rate_hz, frame.sample_rate))
            ahead.append((frame, _stated(frame, rate_hz, zero_s), length))
        if not ahead:
            return
        if len(ahead) < _LASTING and frame is not None:
            continue
        due = _first_due(ahead) if clock is None else clock + _lasting_error(ahead, clock, rate_hz)
        first, _, length = ahead.pop(0)
        clock = due + length
        yield first, due, clock


def _stated(frame: AudioFrame, rate_hz: int, zero_s: Fraction) -> int | None:
    if frame.pts is None or frame.time_base is None:
        return None
    return math.floor((frame.pts * frame.time_base - zero_s) * rate_hz + Fraction(1, 2))


def _first_due(ahead: Iterable[tuple[AudioFrame, int | None, int]]) -> int:
    """Where a track begins, by the first time that it states."""
    passed = 0
    for _, stated, length in ahead:
        if stated is not None:
            return stated - passed
        passed += length
    return 0


def _lasting_error(ahead: Sequence[tuple[AudioFrame, int | None, int]], clock: int, rate_hz: int) -> int:
    """How much later than the running clock the next frame begins, where those that follow agree or there is a gap."""
    errors: list[int] = []
    jitter, rounding = int(_JITTER_S * rate_hz), int(_ROUNDING_S * rate_hz)  # this runs for every frame of sound
    for n, (_, stated, length) in enumerate(ahead):
        error = 0 if stated is None else stated - clock
        if abs(error) > jitter:
            return 0 if n else error
        if stated is not None:
            errors.append(error)
        clock += length
    least = min(errors, key=abs, default=0)
    agrees = len(ahead) == _LASTING and len(errors) >= _MIN_STATED and all(error * least > 0 for error in errors)
    return least if agrees and abs(least) > rounding else 0


class _Mixer:
    """Mixes decoded frames of any format and channel layout to waves of one rate.

    Args:
        rate_hz: of the track; frames of another rate are resampled.
        layout: mono is the mix that labels are computed from; stereo is for ears.
        weights: of the track's channels in mono. Frames of another number of channels are mixed by their names.
    """

    def __init__(self, rate_hz: int, layout: Layout, weights: Weights) -> None:
        self.rate_hz = rate_hz
        self.n_channels = 1 if layout == "mono" else 2
        self._layout = layout
        self._weights = weights
        self._channels_of = Channels()
        self._shares: dict[str, list[tuple[int, Doubles]]] = {}

    def __call__(self, frame: AudioFrame) -> Waves:
        """(n_channels, n) of one frame."""
        layout = frame.layout.name
        if layout not in self._shares:
            self._shares[layout] = self._mix_of(frame)
        channels = self._channels_of(frame)
        mixed = np.zeros((self.n_channels, channels.shape[1]))
        for i, shares in self._shares[layout]:
            mixed += shares * channels[i]
        if not np.isfinite(mixed.sum()):
            # Floats of a damaged track.
            mixed = np.nan_to_num(mixed, nan=0.0, posinf=0.0, neginf=0.0)
        mixed *= 2.0**31
        np.minimum(np.rint(mixed, out=mixed), 2.0**31 - 1, out=mixed)
        wave = np.maximum(mixed, -(2.0**31), out=mixed).astype(np.int32)
        return wave if frame.sample_rate == self.rate_hz else self._at_rate(wave, frame.sample_rate)

    def _mix_of(self, frame: AudioFrame) -> list[tuple[int, Doubles]]:
        """The channels of such a frame that are heard, each with its (n_channels, 1) shares."""
        names = channel_names(frame)
        weights = self._weights if len(self._weights) == len(names) else plain_weights(names)
        ears = ear_weights(names) if self._layout == "stereo" else None
        shares = np.repeat([weights], self.n_channels, axis=0) if ears is None else ears
        return [(i, shares[:, i : i + 1]) for i in range(len(names)) if shares[:, i].any()]

    def _at_rate(self, wave: Waves, rate_hz: int) -> Waves:
        """A frame whose rate is not the track's, by itself, so that no delay builds up."""
        frame = AudioFrame.from_ndarray(wave, format=_WAVE_FORMAT, layout=self._layout)
        frame.sample_rate = rate_hz
        resampler = AudioResampler(format=_WAVE_FORMAT, layout=self._layout, rate=self.rate_hz)
        return _waves([*resampler.resample(frame), *resampler.resample(None)])


def _together(placed: Sequence[Iterator[Waves]]) -> Iterator[Waves]:
    """The sum of tracks of one rate that all begin at the same moment and never end."""
    if len(placed) == 1:
        yield from placed[0]
        return
    rests = [next(waves) for waves in placed]
    while True:
        n_samples = min(rest.shape[1] for rest in rests)
        summed = sum(rest[:, :n_samples].astype(np.int64) for rest in rests)
        yield np.clip(summed, -(2**31), 2**31 - 1).astype(np.int32)
        rests = [
            rest[:, n_samples:] if rest.shape[1] > n_samples else next(waves)
            for rest, waves in zip(rests, placed, strict=True)
        ]


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
