"""Exact cuts: the clip's own video for eyes and models, and the FLAC that labels are computed from."""

from __future__ import annotations

import math
import tempfile
import wave
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.codec.context import Flags

from manifests.rows import AUDIO_RATE_HZ, TIMELINE_FPS
from manifests.sound_track import SoundTrack
from mit_builder.errors import MediaError
from mit_builder.media.audio import Layout, Samples, iter_audio, read_flac, read_samples
from mit_builder.media.audio_tracks import choose_sound
from mit_builder.media.frames import Frame, read_frames, read_source_frames
from mit_builder.media.probe import decoded_video, open_media, video_stream
from mit_builder.media.timeline import Timeline, read_timeline
from mit_builder.media.write import write_timed_video, write_video

_AAC_RATES_HZ = frozenset({8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000})
"""Rates of ISO 14496-3, table 1.18, that are whole numbers of samples a clip frame."""
_OTHER_RATE_HZ = 48_000
"""AAC's rate where the source's is none of these."""
_MAX_CLOCK_HZ, _OTHER_CLOCK_HZ = 2**31 - 1, 90_000
"""ffmpeg takes an MP4's clock as a signed number of 32 bits; where the exact one does not fit, times are rounded to
MPEG's."""
_SILENCE_DBFS = -120.0
"""Stands for digital silence, which has no level in dB."""


@dataclass(frozen=True)
class CutResult:
    """What a cut made."""

    n_frames: int
    """Frames on the clip's timeline."""
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
    media_frame_index: tuple[int, ...] = ()
    """(n_frames,) the MP4's frame that each clip frame shows; empty where that is frame k for k."""


def cut_clip(
    source: Path,
    start_frame: int,
    end_frame: int,
    mp4: Path,
    flac: Path,
    *,
    crf: int,
    audio_kbps: int,
    sound: Sequence[SoundTrack] | None = None,
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
        sound: the source's sound tracks with their weights, where they are chosen already.

    Raises:
        MediaError: the source cannot be read, or what was written does not decode to exactly these frames and samples.
    """
    job = _Cut.of(source, start_frame, end_frame, sound)
    shown: list[int] = []
    frames = read_frames(source, start_frame, end_frame, timeline=job.timeline)
    with job.sound_file(mp4.parent) as sound_file:
        images = _noting(frames, shown)
        write_video(mp4, images, **job.size, audio=sound_file, crf=crf, audio_kbps=audio_kbps)
    return job.finish(mp4, flac, shown)


def cut_native(
    source: Path,
    start_frame: int,
    end_frame: int,
    mp4: Path,
    flac: Path,
    *,
    crf: int,
    audio_kbps: int,
    sound: Sequence[SoundTrack] | None = None,
) -> CutResult:
    """The same as `cut_clip`, but the MP4 keeps the source's frames and their times.

    It holds every frame from the one that the clip's first frame shows to the one that its last frame shows, so none
    of a neighbouring shot, which may begin between two frames of the timeline. Times count from the clip's start, so
    that picture and sound stay as they were; the first frame, which may be due up to half a frame before or after it,
    is shown from there on.

    Raises:
        MediaError: as for `cut_clip`.
    """
    job = _Cut.of(source, start_frame, end_frame, sound)
    wanted = job.timeline.source_frame_index[start_frame:end_frame]
    ranks: list[int] = []
    frames = read_source_frames(source, int(wanted[0]), int(wanted[-1]), timeline=job.timeline)
    with job.sound_file(mp4.parent) as sound_file:
        timed = _timed(frames, ranks, job)
        write_timed_video(
            mp4, timed, ticks_per_s=job.ticks_per_s, **job.size, audio=sound_file, crf=crf, audio_kbps=audio_kbps
        )
    places = np.maximum(np.searchsorted(ranks, wanted, side="right") - 1, 0)
    cut = job.finish(mp4, flac, np.array(ranks)[places].tolist(), n_media_frames=len(ranks))
    return replace(cut, media_frame_index=tuple(places.tolist()))


@dataclass(frozen=True)
class _Cut:
    """Frames of a source that become a clip.

    Raises:
        MediaError: there are none.
    """

    source: Path
    start_frame: int
    end_frame: int
    timeline: Timeline
    sound: Sequence[SoundTrack]

    @classmethod
    def of(cls, source: Path, start_frame: int, end_frame: int, sound: Sequence[SoundTrack] | None) -> _Cut:
        """Read what is missing: the source's timeline, and its sound where that is not chosen yet."""
        timeline = read_timeline(source)
        return cls(source, start_frame, end_frame, timeline, choose_sound(source).tracks if sound is None else sound)

    def __post_init__(self) -> None:
        if not 0 <= self.start_frame < self.end_frame <= self.timeline.n_frames:
            raise MediaError(f"{self.source.name}: frames {self.start_frame}..{self.end_frame} make no clip")

    @property
    def size(self) -> dict[str, int]:
        """Width and height of the source's picture."""
        width_px, height_px = self.timeline.geometry.upright_wh
        return {"width_px": width_px, "height_px": height_px}

    @property
    def ticks_per_s(self) -> int:
        """A clock that every time of the source, counted from the clip's start, falls on."""
        exact = math.lcm(self.timeline.time_base.denominator, TIMELINE_FPS)
        return exact if exact <= _MAX_CLOCK_HZ else _OTHER_CLOCK_HZ

    def ticks(self, rank: int) -> int:
        """When a frame of the source is due after the clip's start."""
        pts = self.timeline.source_pts
        due_s = int(pts[rank] - pts[0]) * self.timeline.time_base - Fraction(self.start_frame, TIMELINE_FPS)
        return round(due_s * self.ticks_per_s)

    @contextmanager
    def sound_file(self, folder: Path) -> Iterator[Path | None]:
        """The source's sound as a file that lasts as long as the context; None where it has none."""
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            path = Path(scratch) / "sound.wav"
            heard = [track for track in self.sound if track.weights]
            if heard:
                self._write_wav(path, heard)
            yield path if heard else None

    def _write_wav(self, path: Path, heard: Sequence[SoundTrack]) -> None:
        """The sound on the clip's timeline, at a rate that AAC has, for ffmpeg to encode."""
        is_mono = len(heard) > 1 or heard[0].n_channels == 1
        rate_hz = heard[0].rate_hz if heard[0].rate_hz in _AAC_RATES_HZ else _OTHER_RATE_HZ
        layout: Layout = "mono" if is_mono else "stereo"
        with wave.open(str(path), "wb") as wav:
            wav.setnchannels(1 if is_mono else 2)
            wav.setsampwidth(2)
            wav.setframerate(rate_hz)
            for block in iter_audio(
                self.source,
                self.start_frame,
                self.end_frame,
                rate_hz=rate_hz,
                layout=layout,
                timeline=self.timeline,
                sound=heard,
            ):
                wav.writeframes(np.ascontiguousarray(block.T, "<i2").tobytes())

    def finish(self, mp4: Path, flac: Path, shown: Sequence[int], n_media_frames: int | None = None) -> CutResult:
        """Write the FLAC and look whether both files hold what they should."""
        n_frames = self.end_frame - self.start_frame
        samples = read_samples(self.source, self.start_frame, n_frames, timeline=self.timeline, sound=self.sound)
        _write_flac(flac, samples)
        _check(mp4, flac, n_frames if n_media_frames is None else n_media_frames, samples)
        width, height = self.timeline.geometry.upright_wh
        return CutResult(
            n_frames=n_frames,
            width_px=width + width % 2,
            height_px=height + height % 2,
            source_frame_index=tuple(shown),
            source_fps=self.timeline.source_fps,
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


def _timed(
    frames: Iterable[tuple[int, npt.NDArray[np.uint8]]], ranks: list[int], job: _Cut
) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Frames with their times, which rise; their ranks are noted."""
    last = -1
    for rank, image in frames:
        last = max(job.ticks(rank), last + 1) if ranks else 0
        ranks.append(rank)
        yield last, image


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
        raise MediaError(f"{flac.name} does not hold the {len(samples)} samples written")
