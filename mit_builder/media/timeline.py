"""The clip timeline: constant 25 frames a second laid over a source of any rate, in exact arithmetic.

Frame k is the source frame whose presentation time is nearest k/25 s after the first presented frame, ties to the
later, for every k/25 before the end of the last frame. The packets' times are read without decoding; where they cannot
be trusted (missing, or not what the decoder shows in the first frames) the whole stream is decoded once instead. All
times are those of the file's clock (`mit_builder.media.clock`), which the sound is placed by too: whatever has to be
guessed here keeps the container's first time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice, pairwise
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from manifests.rows import TIMELINE_FPS
from mit_builder.errors import MediaError
from mit_builder.media.clock import Clock
from mit_builder.media.deinterlace import SAMPLE_PLACES, FieldOrder, measure_fields, passed, sampled, stated_order
from mit_builder.media.file_cache import kept_by_file
from mit_builder.media.jumps import find_clock
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
    are of no use or come twice, and reading has to begin at the start."""
    is_counted: bool
    """Whether frames are known by counting them from the start of the file, not by their times."""
    source_fps: Fraction
    """Average rate of the source's frames."""
    geometry: Geometry
    """How the source's pictures become upright; taken from the first frame, so one size holds for the whole video."""
    clock: Clock
    """What makes one rising time of the file's times."""
    edit_s: Fraction = Fraction(0)
    """How much later the picture is shown than its times say: libavformat lets it begin where an edit list does."""
    field_order: FieldOrder | None = None
    """Which field of interlaced pictures is first; None where the source is progressive."""
    combed_share: float | None = None
    """Share of the moving pictures looked at that are combed, 0..1; None where too little moves."""

    @property
    def n_frames(self) -> int:
        """Frames on the clip timeline."""
        return len(self.source_frame_index)

    @property
    def zero_s(self) -> Fraction:
        """Presentation time of the first frame in the file: zero of the clip timeline."""
        return int(self.source_pts[0]) * self.time_base + self.edit_s

    @property
    def cuts(self) -> list[int]:
        """Frames of the clip timeline before which the file's times jump, other than where recordings were joined."""
        ranks = []
        for jump in (jump for jump in self.clock.jumps if not jump.is_restart):
            if self.is_counted and jump.first_packet is not None:
                ranks.append(jump.first_packet)
            else:
                ranks.append(int(np.searchsorted(self.source_pts, -int(-jump.at_s // self.time_base))))
        return [int(frame) for frame in np.searchsorted(self.source_frame_index, ranks)]

    @property
    def stills_s(self) -> list[tuple[float, float]]:
        """When the timeline leaves out how long a picture that players show: seconds on the timeline, seconds."""
        return [(float(jump.at_s - self.zero_s), float(jump.skipped_s)) for jump in self.clock.jumps if jump.skipped_s]


@dataclass(frozen=True)
class _Times:
    """Presentation times of a stream's frames, ascending and distinct, with the duration of the last one (ticks)."""

    pts: list[int]
    last_duration: int | None
    keyframes: list[Entry]
    is_counted: bool = False
    edit_s: Fraction = Fraction(0)


@kept_by_file
def read_timeline(path: Path, *, is_progressive: bool = False) -> Timeline:
    """Lay the clip timeline over a video file; its arrays are shared, and not to be written to.

    Args:
        path: the video.
        is_progressive: it is known not to be interlaced (a clip of ours), so that no pictures are sampled.

    Raises:
        MediaError: unreadable, no video stream, no frame can be decoded, or its timestamps span days.
    """
    clock = find_clock(path)
    with open_media(path) as container:
        stream = video_stream(container, path)
        head = list(islice(decoded_video(container, stream, clock.packets(container, stream)), _HEAD_FRAMES))
        if not head:
            raise MediaError(f"{path.name}: no video frame can be decoded")
        shape = geometry(stream, head[0])
        time_base = stream.time_base or 1 / source_rate(stream)
        fps = source_rate(stream)
        has_hidden = stream.codec_context.codec.canonical_name in _HIDDEN_FRAME_CODECS
    times = None if has_hidden else _packet_times(path, clock, [frame.pts for frame in head])
    if times is None:
        times = _decoded_times(path, clock, time_base, fps)
    order, combed_share = (None, None) if is_progressive else _fields(path, head, times)
    return Timeline(
        source_frame_index=nearest_frames(times.pts, time_base, times.last_duration),
        source_pts=np.array(times.pts, np.int64),
        time_base=time_base,
        keyframes=np.array(times.keyframes, np.int64).reshape(-1, 2),
        is_counted=times.is_counted,
        source_fps=fps,
        geometry=shape,
        clock=clock,
        edit_s=times.edit_s,
        field_order=order,
        combed_share=combed_share,
    )


def _fields(path: Path, head: Sequence[VideoFrame], times: _Times) -> tuple[FieldOrder | None, float | None]:
    """Order of the fields and share of combed pictures, measured in the head and at places spread over the file.

    Where the timeline names no keyframes, as after a jump, the file's times may be there twice: it is read through.
    """
    with open_media(path) as container:
        stream = video_stream(container, path)
        stated = stated_order(stream, head[0])
        if times.keyframes:
            entries = [seek_to for _, seek_to in times.keyframes[1:]]
            places = sorted({len(entries) * i // SAMPLE_PLACES for i in range(SAMPLE_PLACES)} if entries else ())
            samples = sampled(container, stream, [entries[place] for place in places])
        else:
            samples = passed(container, stream, len(times.pts))
        fields = measure_fields(chain((head,), samples))
    return fields.order(stated), fields.combed_share


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


def _packet_times(path: Path, clock: Clock, head: Sequence[int | None]) -> _Times | None:
    """Times by demuxing alone; None where they do not name the frames that the decoder shows first (`head`)."""
    durations: dict[int, int | None] = {}
    keyframes: list[Entry] = []
    is_edited = False
    with open_media(path) as container:
        stream = video_stream(container, path)
        for packet in clock.packets(container, stream):
            if packet.is_discard:
                is_edited = True
                continue
            if packet.pts is None or packet.pts in durations:
                return None
            durations[packet.pts] = packet.duration or None
            if packet.is_keyframe and not packet.is_corrupt:
                keyframes.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
        may_seek = clock.runs_on(stream.index)
        is_edited &= "mov" in container.format.name
    pts = sorted(durations)
    # What lies before the first decoded frame (a stream that starts between keyframes) is never presented.
    first = head[0] if head[0] in durations else None
    pts = [] if first is None else pts[pts.index(first) :]
    if not keyframes or list(head) != pts[:_HEAD_FRAMES]:
        return None
    edit_s = _edit_s(path, pts[0], *pts[1:2]) if is_edited else Fraction(0)
    return _Times(pts, durations[pts[-1]], sorted(keyframes) if may_seek else [], edit_s=edit_s)


def _edit_s(path: Path, first: int, second: int | None = None) -> Fraction:
    """How much later the first frame is shown than the time that libavformat gives it, at most until the second.

    Where an edit list begins between two frames, as in an MP4 that was trimmed without encoding it anew, libavformat
    lets the second begin there, up to a frame early, but cuts the sound exactly. Without its handling of edit lists it
    states the times of all packets from where the first edit begins.
    """
    with open_media(path) as container:
        packets = packets_of(container, video_stream(container, path))
        place = next((packet.pos for packet in packets if packet.pts == first and not packet.is_discard), None)
    with open_media(path, advanced_editlist="0") as container:
        stream = video_stream(container, path)
        packets = packets_of(container, stream)
        shown = next((packet.pts for packet in packets if packet.pos == place and packet.pts is not None), first)
        tick_s = stream.time_base or Fraction(0)
    is_within_a_frame = first <= shown and (second is None or shown <= second)
    return (shown - first) * tick_s if is_within_a_frame else Fraction(0)


def _decoded_times(path: Path, clock: Clock, time_base: Fraction, fps: Fraction) -> _Times:
    """Times by decoding everything.

    Frames without a time lie evenly between those that have one. Where times go back and forth, those of decoding are
    left, and where these do not rise either, the average rate.
    """
    with open_media(path) as container:
        stream = video_stream(container, path)
        packets = [(p.pts, p.dts, p.is_keyframe) for p in clock.packets(container, stream)]
        first = next((time for pts, dts, _ in packets for time in (pts, dts) if time is not None), stream.start_time)
        may_seek = clock.runs_on(stream.index)
    keyframes = [
        (pts, pts if dts is None else dts) for pts, dts, is_keyframe in packets if is_keyframe and pts is not None
    ]
    with open_media(path) as container:
        stream = video_stream(container, path)
        frames = decoded_video(container, stream, clock.packets(container, stream))
        times = [(frame.pts, frame.dts, frame.duration or None) for frame in frames]
    known = [pts for pts, _, _ in times if pts is not None]
    rising = _rising(known)
    if keyframes and len(rising) >= (_MIN_RISING if may_seek and not clock.is_decode_timed else 1) * len(times):
        last_duration = next(duration for pts, _, duration in reversed(times) if pts == rising[-1])
        return _Times(rising, last_duration, sorted(keyframes) if may_seek else [])
    tick = 1 / (fps * time_base)
    if rising and len(rising) >= _MIN_RISING * len(known) and not clock.is_decode_timed:
        return _between([pts for pts, _, _ in times], rising, tick)
    stored = [dts for _, dts, _ in packets if dts is not None]
    if len(stored) == len(packets) and len(_rising(stored)) == len(stored):
        return _as_decoded([dts for _, dts, _ in times], stored, clock.is_shown_late, tick)
    return _Times([(first or 0) + round(rank * tick) for rank in range(len(times))], max(1, round(tick)), [], True)


def _between(times: Sequence[int | None], rising: Sequence[int], tick: Fraction) -> _Times:
    """Frames without a time, or with one that does not rise, lie evenly between those of the `rising` times.

    Before the first and after the last they lie as far apart as frames usually do: libavformat reads no times below
    zero from Matroska, and some broadcasters give every fifth frame one.
    """
    wanted = deque(rising)
    marks = [(n, wanted.popleft()) for n, time in enumerate(times) if wanted and time == wanted[0]]
    steps: list[Fraction] = [Fraction(b - a, m - n) for (n, a), (m, b) in pairwise(marks)]
    step = max(1, round(median(steps or [tick])))
    (first, start), (last, end) = marks[0], marks[-1]
    pts = [start - (first - n) * step for n in range(first)]
    for (n, a), (m, b) in pairwise(marks):
        pts += [round(a + Fraction((b - a) * k, m - n)) for k in range(m - n)]
    pts += [end + k * step for k in range(len(times) - last)]
    return _Times(pts, step, [], is_counted=True)


def _as_decoded(times: Sequence[int | None], stored: Sequence[int], is_shown_late: bool, tick: Fraction) -> _Times:
    """Frames are shown in the order in which they come, at the times at which packets are decoded.

    Args:
        times: (n_frames,) decoding time of the packet that made the decoder give each frame; None at the end.
        stored: (n_packets,) decoding times of all packets, rising.
        is_shown_late: whether a frame is shown when the decoder gives it; else as much earlier as the decoder delays
            frames, so that the first is shown when it is decoded.
        tick: ticks of a frame at the average rate.
    """
    steps: list[Fraction] = [Fraction(b - a) for a, b in pairwise(stored)]
    step = max(1, round(median(steps or [tick])))
    delay = sum(1 for time in times if time is None)
    shown = [*stored, *(stored[-1] + n * step for n in range(1, delay + 1))]
    place = {time: n for n, time in enumerate(stored)}
    places: list[int] = []
    for time in times:
        following = places[-1] + 1 if places else 0
        places.append(min(len(shown) - 1, following if time is None else place.get(time, following)))
    pts = [shown[max(0, n if is_shown_late else n - delay)] for n in places]
    if len(_rising(pts)) < len(pts):
        pts = [pts[0] + rank * step for rank in range(len(pts))]
    return _Times(pts, step, [], is_counted=True)


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
