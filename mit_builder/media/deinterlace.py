"""Interlaced footage: whether a stream is, and its pictures without combs.

What a file says of itself is wrong both ways: films are broadcast as fields, and interlaced tapes are encoded as whole
pictures without a word. So a sample of its pictures is measured. A picture is combed if

- its two fields are of two moments: the lines of one fit the picture before better than the one after, those of the
  other the reverse (the measure of libavfilter's idet), and
- where it moves, neighbouring lines differ as lines of one field do not.

Each alone is fooled: the first by textures whose even lines differ from the odd ones, the second by noise. Combs are
removed by libavfilter's bwdif (the BBC's Weston filter where yadif finds motion), one picture for each picture.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from typing import Literal

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from mit_builder.media.probe import decoded_video, packets_of

Luma = npt.NDArray[np.int16]
FieldOrder = Literal["top", "bottom"]
"""Which field of a picture was taken first: that of the topmost line, or the other."""

SAMPLE_PLACES, SAMPLE_FRAMES = 4, 10
"""Pictures are measured in the head of the stream, and so many of them at so many places behind it."""
MIN_COMBED = 0.05
"""Share of the moving pictures that are combed in interlaced footage. Of 24 progressive clips (film, screen, generated;
also with noise) none had a single one; footage made interlaced had 0.22 (with noise) to 0.99, telecine 0.23 to 0.40."""
_FIELD_RATIO, _COMB_RATIO = 1.04, 0.9
"""idet's own ratio. The second was 0.34 to 0.85 in progressive footage, 1.0 in noise, 1 to 13 where interlaced."""
_MOVING_LEVELS, _MIN_MOVING, _MIN_MOVING_PICTURES = 8, 0.002, 5
"""A pixel moves if it changes by more grey levels; a picture, if so many of its pixels do. Where fewer pictures move,
what the stream says counts."""
_MAX_COLUMNS, _MIN_SIDE_PX = 480, 8
"""So many columns of a picture are measured: each shows the combs."""
_FLAGGED: dict[int, FieldOrder] = {2: "top", 3: "bottom", 4: "bottom", 5: "top"}
"""AVFieldOrder: TT, BB, TB, BT; the second letter is the field shown first."""
_PARITY: dict[FieldOrder, str] = {"top": "tff", "bottom": "bff"}


@dataclass(frozen=True)
class Fields:
    """What a sample of a stream's pictures shows.

    Attributes:
        n_moving: pictures with motion; of them alone it can be told.
        n_top_first: combed ones whose top field was first.
        n_bottom_first: combed ones whose bottom field was first.
    """

    n_moving: int
    n_top_first: int
    n_bottom_first: int

    @property
    def combed_share(self) -> float | None:
        """Share of the moving pictures that are combed alike, 0..1; None where too little moves."""
        if self.n_moving < _MIN_MOVING_PICTURES:
            return None
        return max(self.n_top_first, self.n_bottom_first) / self.n_moving

    def order(self, stated: FieldOrder | None) -> FieldOrder | None:
        """Order of the fields, None for progressive footage; as `stated` where too little moves."""
        if self.n_moving < _MIN_MOVING_PICTURES:
            return stated
        if max(self.n_top_first, self.n_bottom_first) < MIN_COMBED * self.n_moving:
            return None
        return "top" if self.n_top_first >= self.n_bottom_first else "bottom"


def stated_order(stream: VideoStream, frame: VideoFrame) -> FieldOrder | None:
    """What the stream says of itself."""
    return _FLAGGED.get(stream.codec_context.field_order, "top") if frame.interlaced_frame else None


def sampled(container: InputContainer, stream: VideoStream, times: Iterable[int]) -> Iterator[list[VideoFrame]]:
    """A few successive pictures from the keyframe before each of these times (ticks)."""
    for time in times:
        try:
            container.seek(time, stream=stream)
        except av.FFmpegError:
            continue
        yield list(islice(decoded_video(container, stream), SAMPLE_FRAMES))


def passed(container: InputContainer, stream: VideoStream, n_packets: int) -> Iterator[list[VideoFrame]]:
    """The same from keyframes spread over a stream of so many packets, read from its start: no time finds them."""
    packets = enumerate(packets_of(container, stream))
    for k in range(1, SAMPLE_PLACES + 1):
        due = n_packets * k // (SAMPLE_PLACES + 1)
        first = next((packet for n, packet in packets if n >= due and packet.is_keyframe), None)
        if first is None:
            return
        stream.codec_context.flush_buffers()
        following = chain((first,), (packet for _, packet in packets))
        yield list(islice(decoded_video(container, stream, following), SAMPLE_FRAMES))


def measure_fields(samples: Iterable[Iterable[VideoFrame]]) -> Fields:
    """Look at successive pictures of several places in a stream."""
    n_moving = 0
    combed: list[FieldOrder] = []
    for frames in samples:
        seen: deque[Luma] = deque(maxlen=3)
        for frame in frames:
            luma = _luma(frame)
            if seen and luma.shape != seen[-1].shape:
                seen.clear()
            seen.append(luma)
            if len(seen) < 3 or min(luma.shape) < _MIN_SIDE_PX:
                continue
            before, now, after = seen
            moving = np.abs(now - before)[2:-2] > _MOVING_LEVELS
            if moving.mean() >= _MIN_MOVING:
                n_moving += 1
                first = _first_field(before, now, after)
                if first is not None and _comb_ratio(now, moving) > _COMB_RATIO:
                    combed.append(first)
    return Fields(n_moving, combed.count("top"), combed.count("bottom"))


def deinterlaced(frames: Iterable[VideoFrame], order: FieldOrder, time_base: Fraction) -> Iterator[VideoFrame]:
    """Every frame without combs, with its own presentation time.

    A picture is made of itself, the one before and the one after; the first and the last do with one of them.

    Args:
        frames: decoded frames in display order.
        order: which field is first; that one is kept.
        time_base: seconds of a tick of the frames' times.
    """
    graph, shape = None, None
    times: deque[tuple[int | None, int | None]] = deque()
    for frame in frames:
        if shape != (shape := (frame.width, frame.height, frame.format.name)):
            yield from _rest(graph, times)
            graph = _bwdif(frame, order, time_base)
        assert graph is not None
        times.append((frame.pts, frame.dts))
        graph.vpush(frame)
        yield from _ready(graph, times)
    yield from _rest(graph, times)


def _bwdif(frame: VideoFrame, order: FieldOrder, time_base: Fraction) -> Graph:
    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=time_base)
    bwdif = graph.add("bwdif", mode="send_frame", parity=_PARITY[order], deint="all", threads="1")
    graph.link_nodes(source, bwdif, graph.add("buffersink")).configure()
    return graph


def _ready(graph: Graph, times: deque[tuple[int | None, int | None]]) -> Iterator[VideoFrame]:
    while True:
        try:
            made = graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return
        made.pts, made.dts = times.popleft()
        yield made


def _rest(graph: Graph | None, times: deque[tuple[int | None, int | None]]) -> Iterator[VideoFrame]:
    if graph is not None:
        graph.vpush(None)
        yield from _ready(graph, times)


def _luma(frame: VideoFrame) -> Luma:
    grey = np.asarray(frame.reformat(format="gray").to_ndarray())
    return grey[:, :: -(-grey.shape[1] // _MAX_COLUMNS)].astype(np.int16)


def _first_field(before: Luma, now: Luma, after: Luma) -> FieldOrder | None:
    """The field that was taken first, None where both seem to be of one moment."""
    between = now[1:-3] + now[3:-1]
    to_before, to_after = (np.abs(between - 2 * other[2:-2]).sum(axis=1, dtype=np.int64) for other in (before, after))
    top = int(to_before[::2].sum() + to_after[1::2].sum()) + 1
    bottom = int(to_before[1::2].sum() + to_after[::2].sum()) + 1
    if top > _FIELD_RATIO * bottom:
        return "top"
    return "bottom" if bottom > _FIELD_RATIO * top else None


def _comb_ratio(now: Luma, moving: npt.NDArray[np.bool_]) -> float:
    """How much a line differs from its neighbours, over how much from those of its own field, where it moves."""
    neighbours = np.abs(now[1:-3] + now[3:-1] - 2 * now[2:-2])[moving].sum(dtype=np.int64)
    own_field = np.abs(now[:-4] + now[4:] - 2 * now[2:-2])[moving].sum(dtype=np.int64)
    return float(neighbours + 1) / float(own_field + 1)
