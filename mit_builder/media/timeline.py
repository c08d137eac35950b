"""The clip timeline: constant 25 frames a second laid over a source of any rate, in exact arithmetic.

Frame k is the source frame whose presentation time is nearest k/25 s after the first presented frame, ties to the
later, for every k/25 before the end of the last frame. The packets' times are read without decoding; where they cannot
be trusted (missing, or not what the decoder shows in the first frames) the whole stream is decoded once instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

from manifests.rows import TIMELINE_FPS
from mit_builder.errors import MediaError
from mit_builder.media.probe import Geometry, decoded_video, geometry, open_media, packets_of, source_rate, video_stream

Entry = tuple[int, int]
"""Presentation time of a keyframe, and the time to seek to: that of its decoding where it is known (ticks)."""
Indices = npt.NDArray[np.int64]

MAX_DURATION_S = 48 * 3600
"""Two days at most: timestamps that span more are taken for damage, because a timeline is as long as they say."""
_HEAD_FRAMES = 32
"""Frames decoded to compare with the packets' times: past the deepest reordering of H.264 and HEVC (16)."""
_MIN_RISING = 0.95
"""Share of a decoder's times that must rise for them to be believed; the rest (glitches of a stream) is passed over."""
_HIDDEN_FRAME_CODECS = frozenset({"vp8"})
"""Codecs that store frames nobody sees (alternate references) as packets of their own."""


@dataclass(frozen=True, eq=False)
class Timeline:
    """Which source frame is seen at every 1/25 s, and what is needed to find it in the file."""

    source_frame_index: Indices
    """(n_frames,) rank, in display order, of the source frame shown at each clip frame."""
    source_pts: Indices
    """(n_source_frames,) presentation times in ticks, ascending; entry i belongs to the frame of rank i."""
    time_base: Fraction
    """Seconds of one tick."""
    keyframes: Indices
    """(n_keyframes, 2) `Entry` of every packet where decoding can begin, ascending; empty where the file's own times
    are of no use, and reading has to count frames from the start."""
    source_fps: Fraction
    """Average rate of the source's frames."""
    geometry: Geometry
    """How the source's pictures become upright; taken from the first frame, so one size holds for the whole video."""

    @property
    def n_frames(self) -> int:
        """Frames on the clip timeline."""
        return len(self.source_frame_index)

    @property
    def is_counted(self) -> bool:
        """Whether frames are known by counting them from the start of the file, not by their times."""
        return len(self.keyframes) == 0

    @property
    def zero_s(self) -> Fraction:
        """Presentation time of the first frame in the file: zero of the clip timeline."""
        return int(self.source_pts[0]) * self.time_base


@dataclass(frozen=True)
class _Times:
    """Presentation times of a stream's frames, ascending and distinct, with the duration of the last one (ticks)."""

    pts: list[int]
    last_duration: int | None
    keyframes: list[Entry]


def read_timeline(path: Path) -> Timeline:
    """Lay the clip timeline over a video file.

    Raises:
        MediaError: unreadable, no video stream, no frame can be decoded, or its timestamps span days.
    """
    with open_media(path) as container:
        stream = video_stream(container, path)
        head = list(islice(decoded_video(container, stream), _HEAD_FRAMES))
        if not head:
            raise MediaError(f"{path.name}: no video frame can be decoded")
        shape = geometry(stream, head[0])
        time_base = stream.time_base or 1 / source_rate(stream)
        fps = source_rate(stream)
        has_hidden = stream.codec_context.codec.canonical_name in _HIDDEN_FRAME_CODECS
    times = None if has_hidden else _packet_times(path, [frame.pts for frame in head])
    if times is None:
        times = _decoded_times(path, time_base, fps)
    return Timeline(
        source_frame_index=nearest_frames(times.pts, time_base, times.last_duration),
        source_pts=np.array(times.pts, np.int64),
        time_base=time_base,
        keyframes=np.array(times.keyframes, np.int64).reshape(-1, 2),
        source_fps=fps,
        geometry=shape,
    )


def nearest_frames(pts: Sequence[int], time_base: Fraction, last_duration: int | None) -> Indices:
    """Rank of the frame nearest to every k/25 s after the first, ties to the later; Python's integers, so exact.

    Args:
        pts: ascending, distinct presentation times, ticks.
        time_base: seconds of one tick.
        last_duration: ticks for which the last frame is shown; None: as long as the one before, or 1/25 s.

    Returns:
        (n_frames,) int64.

    Raises:
        MediaError: the times span more than `MAX_DURATION_S`.
    """
    ticks_per_frame = 1 / (TIMELINE_FPS * time_base)
    if last_duration is None:
        last_duration = pts[-1] - pts[-2] if len(pts) > 1 else None
    shown = Fraction(last_duration) if last_duration is not None else ticks_per_frame
    end = pts[-1] - pts[0] + shown
    n_frames = max(1, -int(-end // ticks_per_frame))
    if n_frames > MAX_DURATION_S * TIMELINE_FPS:
        raise MediaError(f"timestamps span {float(end * time_base):.0f} s, more than {MAX_DURATION_S} s: damaged?")
    up, down = ticks_per_frame.numerator, ticks_per_frame.denominator
    # Frame i takes over at the first k with k * up / down >= (pts[i-1] + pts[i]) / 2 - pts[0].
    takeovers = [-((2 * pts[0] - before - after) * down // (2 * up)) for before, after in pairwise(pts)]
    return np.searchsorted(np.array(takeovers, np.int64), np.arange(n_frames), side="right").astype(np.int64)


def _packet_times(path: Path, head: Sequence[int | None]) -> _Times | None:
    """Times by demuxing alone; None where they do not name the frames that the decoder shows first (`head`)."""
    durations: dict[int, int | None] = {}
    keyframes: list[Entry] = []
    with open_media(path) as container:
        for packet in packets_of(container, video_stream(container, path)):
            if packet.size == 0 or packet.is_discard:
                continue
            if packet.pts is None or packet.pts in durations:
                return None
            durations[packet.pts] = packet.duration or None
            if packet.is_keyframe and not packet.is_corrupt:
                keyframes.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
    pts = sorted(durations)
    # What lies before the first decoded frame (a stream that starts between keyframes) is never presented.
    first = head[0] if head[0] in durations else None
    pts = [] if first is None else pts[pts.index(first) :]
    if not keyframes or list(head) != pts[:_HEAD_FRAMES]:
        return None
    return _Times(pts, durations[pts[-1]], sorted(keyframes))


def _decoded_times(path: Path, time_base: Fraction, fps: Fraction) -> _Times:
    """Times by decoding everything.

    AVI knows decoding times alone, and libavformat makes presentation times of them that go back and forth where frames
    are reordered. There the decoding times count from zero, or the average rate where those are of no use either.
    """
    with open_media(path) as container:
        packets = packets_of(container, video_stream(container, path))
        keyframes = [(p.pts, p.pts if p.dts is None else p.dts) for p in packets if p.is_keyframe and p.pts is not None]
    with open_media(path) as container:
        frames = decoded_video(container, video_stream(container, path))
        times = [(frame.pts, frame.dts, frame.duration or None) for frame in frames]
    rising = _rising([pts for pts, _, _ in times])
    if keyframes and len(rising) >= _MIN_RISING * len(times):
        last_duration = next(duration for pts, _, duration in reversed(times) if pts == rising[-1])
        return _Times(rising, last_duration, sorted(keyframes))
    stored = _rising([dts for _, dts, _ in times])
    tick = 1 / (fps * time_base)
    n_early = next((i for i, (pts, _, _) in enumerate(times) if pts is not None), 0)
    if n_early and len(rising) == len(times) - n_early:
        # libavformat reads no times below zero from Matroska: counted back from the first that there is.
        step = max(1, round(median([float(after - before) for before, after in pairwise(rising)] or [float(tick)])))
        early = [rising[0] - (n_early - i) * step for i in range(n_early)]
        return _Times(early + rising, step, [])
    if len(stored) == len(times):
        return _Times([dts - stored[0] for dts in stored], max(1, round(tick)), [])
    return _Times([round(rank * tick) for rank in range(len(times))], max(1, round(tick)), [])


def _rising(ticks: Iterable[int | None]) -> list[int]:
    """The ticks that exceed all before them."""
    rising: list[int] = []
    for tick in ticks:
        if tick is not None and (not rising or tick > rising[-1]):
            rising.append(tick)
    return rising


def entry_points(timeline: Timeline, rank: int) -> Iterator[Entry | None]:
    """Keyframes from which the frame of this rank can be reached, the nearest first; None is the start.

    Each further one lies twice as far back, so that a damaged stretch costs no more than a multiple of its length.
    """
    usable = int(np.searchsorted(timeline.keyframes[:, 0], timeline.source_pts[rank], side="right"))
    back = 1
    while back < usable:
        pts, seek_to = (int(value) for value in timeline.keyframes[usable - back])
        yield pts, seek_to
        back *= 2
    yield None
