"""Exact cuts: the clip's own video for eyes and models, and the FLAC that labels are computed from."""

from __future__ import annotations

import math
import tempfile
import wave
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.codec.context import Flags

from manifests.rows import AUDIO_RATE_HZ, SAMPLES_PER_FRAME
from mit_builder.errors import MediaError
from mit_builder.media.audio import Layout, Samples, iter_audio, read_flac, read_samples
from mit_builder.media.frames import Frame, read_frames
from mit_builder.media.probe import AudioTrack, decoded_video, find_audio, open_media, video_stream
from mit_builder.media.timeline import Timeline, read_timeline
from mit_builder.media.write import write_video

_AAC_RATES_HZ = frozenset({8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000})
"""Rates of ISO 14496-3, table 1.18, that are whole numbers of samples a clip frame."""
_OTHER_RATE_HZ = 48_000
"""AAC's rate where the source's is none of these."""
_SILENCE_DBFS = -120.0
"""Stands for digital silence, which has no level in dB."""


@dataclass(frozen=True)
class CutResult:
    """What a cut made."""

    n_frames: int
    """Frames in the MP4."""
    width_px: int
    """Width of the clip's picture, even."""
    height_px: int
    """Height of the clip's picture, even."""
    source_frame_index: tuple[int, ...]
    """(n_frames,) rank of the source frame that each clip frame shows."""
    source_fps: Fraction
    """Average rate of the source's frames."""
    loudness_dbfs: float
    """Root mean square of the FLAC in dB below full scale; -120 for silence."""


def cut_clip(
    source: Path,
    start_frame: int,
    end_frame: int,
    mp4: Path,
    flac: Path,
    *,
    crf: int,
    audio_kbps: int,
    timeline: Timeline | None = None,
) -> CutResult:
    """Cut [start_frame, end_frame) of the clip timeline into an MP4 and a FLAC of exactly 640 samples a frame.

    The MP4 carries the source's sound in at most two channels at the source's rate; none where the source has none.

    Args:
        source: the video.
        start_frame: first frame on the clip timeline.
        end_frame: frame after the last.
        mp4: written: H.264, yuv420p, BT.709, 25 frames a second.
        flac: written: mono, 16 kHz, 16 bit.
        crf: constant rate factor of the picture.
        audio_kbps: bit rate of the MP4's sound.
        timeline: the source's timeline, where it is known already.

    Raises:
        MediaError: the source cannot be read, or what was written does not decode to exactly these frames and samples.
    """
    timeline = timeline or read_timeline(source)
    n_frames = end_frame - start_frame
    if n_frames <= 0:
        raise MediaError(f"{source.name}: frames {start_frame}..{end_frame} make no clip")
    width, height = timeline.geometry.upright_wh
    shown: list[int] = []
    frames = read_frames(source, start_frame, end_frame, timeline=timeline)
    track = find_audio(source)
    with tempfile.TemporaryDirectory(dir=mp4.parent) as folder:
        sound = None
        if track is not None:
            sound = Path(folder) / "sound.wav"
            _write_wav(sound, source, start_frame, end_frame, track, timeline)
        images = _noting(frames, shown)
        write_video(mp4, images, width_px=width, height_px=height, audio=sound, crf=crf, audio_kbps=audio_kbps)
    samples = read_samples(source, start_frame, n_frames, timeline=timeline)
    _write_flac(flac, samples)
    _check(mp4, flac, n_frames, samples)
    return CutResult(
        n_frames=n_frames,
        width_px=width + width % 2,
        height_px=height + height % 2,
        source_frame_index=tuple(shown),
        source_fps=timeline.source_fps,
        loudness_dbfs=loudness_dbfs(samples),
    )


def loudness_dbfs(samples: Samples) -> float:
    """Root mean square of int16 samples in dB below full scale (32768); -120 for silence."""
    power = float(np.mean(np.square(samples.astype(np.float64) / 32768))) if len(samples) else 0.0
    return max(_SILENCE_DBFS, 10 * math.log10(power)) if power > 0 else _SILENCE_DBFS


def _noting(frames: Iterable[Frame], shown: list[int]) -> Iterator[npt.NDArray[np.uint8]]:
    for frame in frames:
        shown.append(frame.source_index)
        yield frame.image


def _write_wav(
    path: Path, source: Path, start_frame: int, end_frame: int, track: AudioTrack, timeline: Timeline
) -> None:
    """The source's sound on the clip's timeline, at a rate that AAC has, for ffmpeg to encode."""
    layout: Layout = "mono" if track.n_channels == 1 else "stereo"
    rate = track.rate_hz if track.rate_hz in _AAC_RATES_HZ else _OTHER_RATE_HZ
    with wave.open(str(path), "wb") as wav:
        wav.setnchannels(1 if layout == "mono" else 2)
        wav.setsampwidth(2)
        wav.setframerate(rate)
        for block in iter_audio(source, start_frame, end_frame, rate_hz=rate, layout=layout, timeline=timeline):
            wav.writeframes(np.ascontiguousarray(block.T, "<i2").tobytes())


def _write_flac(path: Path, samples: Samples) -> None:
    with av.open(str(path), "w", format="flac", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("flac", rate=AUDIO_RATE_HZ, layout="mono", format="s16")
        stream.codec_context.flags |= Flags.bitexact
        frame = AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = AUDIO_RATE_HZ
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _check(mp4: Path, flac: Path, n_frames: int, samples: Samples) -> None:
    with open_media(mp4) as container:
        decoded = sum(1 for _ in decoded_video(container, video_stream(container, mp4)))
    if decoded != n_frames:
        raise MediaError(f"{mp4.name} holds {decoded} frames in place of {n_frames}")
    if not np.array_equal(read_flac(flac), samples):
        raise MediaError(f"{flac.name} does not hold the {SAMPLES_PER_FRAME * n_frames} samples written")
