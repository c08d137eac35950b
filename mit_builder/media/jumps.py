"""Finds the clock of a file: where its times jump, restart or wrap.

All packets are looked at once, in the order of the file, by their decoding times, which only rise where a clock runs.
Where they do not, a new stretch begins. A jump that several streams make is one jump: they are shifted alike, by what
makes the picture go on, so that picture and sound lie as the file has them before and after. Times that wrap at the
clock's width (MPEG: 33 bits) go on by themselves and are no jump.

A gap ahead is a jump only where no stream goes on in it: a picture that stands still while somebody speaks is none.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
from av.packet import Packet
from av.stream import Stream

from mit_builder.media.clock import MAX_TICKS, REORDERED, Clock, Jump, Stretch
from mit_builder.media.probe import demuxed, open_media, video_stream

Ticks = npt.NDArray[np.int64]

GAP_S = Fraction(7, 10)
"""A longer gap in the times of all streams is a jump: MPEG's streams have a time at least that often (ISO/IEC 13818-1,
2.7.4)."""
BACK_S = Fraction(1, 5)
"""Decoding times never go back; muxers of millisecond clocks let sound do so by less than this."""
_GAP_STEPS = 4
"""A gap is also longer than this many of the steps before it, for pictures that change once a second."""
_TOGETHER_S = 10
"""Streams that jump together do so within this much of their own time (how far ffmpeg's muxer lets them drift apart)
and to times no further apart."""
_RESTART_S = 1
"""A jump back this near to where the file began is another recording, joined to the one before."""
_WRAPPING = {"mpegts": 1 << 33, "mpeg": 1 << 33}
"""Clocks that begin anew after so many ticks."""
_DECODE_TIMED = frozenset({"avi", "asf"})
"""Containers that say when a picture is decoded, not when it is shown; what libavformat makes of that is a guess."""
_NO_TIME = -(1 << 62)


def find_clock(path: Path) -> Clock:
    """Read the packets of picture and sound once and find where their times do not run on.

    Raises:
        MediaError: the file cannot be read, or has no video.
    """
    with open_media(path) as container:
        names = container.format.name.split(",")
        video = video_stream(container, path)
        modulus = next((_WRAPPING[name] for name in names if name in _WRAPPING), None)
        is_decode_timed = not _DECODE_TIMED.isdisjoint(names)
        leading = video.index
        streams = [stream for stream in (video, *container.streams.audio) if stream.codec_context is not None]
        logs = {stream.index: _Log(stream.time_base or Fraction(1), modulus, is_decode_timed) for stream in streams}
        for order, packet in enumerate(demuxed(container, streams)):
            logs[packet.stream.index].add(order, packet)
    for log in logs.values():
        log.close()
    jumps, moves = _jumps(logs, leading, may_jump=modulus is not None, takes_over=not is_decode_timed)
    stretches = {index: log.stretches(moves[index]) for index, log in logs.items()}
    late = logs[leading].late_start() if "avi" in names else None
    if late is not None and not stretches[leading]:
        stretches[leading] = (Stretch(0, late, 0), Stretch(1, 0, 0))
    return Clock(
        {index: found for index, found in stretches.items() if found},
        {index: log.outliers for index, log in logs.items() if log.outliers},
        tuple(jumps),
        is_decode_timed=is_decode_timed,
        is_shown_late="asf" in names or late is not None,
    )


@dataclass
class _Break:
    """A packet at which the times of one stream do not run on; times in seconds, wraps undone."""

    stream: int
    order: int
    """Of the packet, among all of the file."""
    first_packet: int
    """The packet, among those of the stream."""
    before_s: Fraction
    """Decoding time that was due."""
    after_s: Fraction
    """Decoding time that came."""
    shown_until_s: Fraction
    """End of what was shown last before."""
    shown_from_s: Fraction
    """Start of what is shown first afterwards."""

    @property
    def is_back(self) -> bool:
        return self.after_s < self.before_s


@dataclass
class _Move:
    """What a jump means for one stream."""

    first_packet: int
    shift_s: Fraction
    starts_at_s: Fraction | None


class _Log:
    """The times of one stream's packets in the order of the file."""

    def __init__(self, tick_s: Fraction, modulus: int | None, is_decode_timed: bool) -> None:
        self.tick_s = tick_s
        self._modulus = modulus
        self._is_decode_timed = is_decode_timed
        self._columns = tuple(array("q") for _ in range(4))

    def add(self, order: int, packet: Packet[Stream]) -> None:
        for column, value in zip(self._columns, (order, packet.dts, packet.pts, packet.duration or 0), strict=True):
            column.append(_NO_TIME if value is None or abs(value) > MAX_TICKS else value)

    def close(self) -> None:
        """Undo wraps; no more packets follow."""
        self.order, self.dts, self.pts, self._duration = (np.array(column, np.int64) for column in self._columns)
        self._timed = np.flatnonzero(self.dts != _NO_TIME)
        self._wrapped = np.zeros(len(self.dts), np.int64)
        if self._modulus is not None and len(self._timed):
            turns = np.rint(np.diff(self.dts[self._timed]) / self._modulus).astype(np.int64)
            at = np.zeros(len(self.dts), np.int64)
            at[self._timed[1:]] = -self._modulus * turns
            self._wrapped = np.cumsum(at)
            self.dts[self._timed] += self._wrapped[self._timed]
            self.pts[self.pts != _NO_TIME] += self._wrapped[self.pts != _NO_TIME]
        if self._is_decode_timed:
            self.pts = self.dts
        self._drop_outliers()
        self._timed_order = self.order[self._timed]
        self.usual = max(0, int(np.median(np.diff(self.dts[self._timed])))) if len(self._timed) > 1 else 0

    def _drop_outliers(self) -> None:
        """Forget times of single packets that those around them do not go on to."""
        self.outliers: frozenset[int] = frozenset()
        times = self.dts[self._timed]
        if len(times) > 2:
            off = ~self._runs_on(times)
            back_again = off[:-1] & off[1:] & self._runs_on(times, apart=2)
            places = np.flatnonzero(back_again) + 1
            self.outliers = frozenset(self._timed[places].tolist())
            self._timed = np.delete(self._timed, places)

    def _runs_on(self, times: Ticks, apart: int = 1) -> npt.NDArray[np.bool_]:
        """Whether each time may follow the one that stands `apart` places before it; the first ones are left out."""
        steps = np.diff(times)
        usual = np.maximum(np.median(steps), np.concatenate([steps[:1], steps[:-1]]))
        usual = np.minimum(usual, float(GAP_S / self.tick_s) * _GAP_STEPS)
        if apart == 2:
            steps, usual = times[2:] - times[:-2], 2 * usual[:-1]
        longest = np.maximum(float(GAP_S / self.tick_s), _GAP_STEPS * usual)
        runs_on: npt.NDArray[np.bool_] = (steps >= -float(BACK_S / self.tick_s)) & (steps <= longest)
        return runs_on

    @property
    def first_s(self) -> Fraction:
        """First decoding time; 0 where there is none."""
        return int(self.dts[self._timed[0]]) * self.tick_s if len(self._timed) else Fraction(0)

    def late_start(self) -> int | None:
        """How much too early the first packet is: AVI's first picture stands at 0, and a gap tells when it is due."""
        steps = np.diff(self.dts[self._timed])
        usual = float(np.median(steps)) if len(steps) else 0.0
        return int(steps[0] - usual) if len(steps) > 1 and steps[0] > _GAP_STEPS * usual else None

    def n_before(self, order: int) -> int:
        """Packets before a place in the file."""
        return int(np.searchsorted(self.order, order))

    def around_s(self, order: int) -> tuple[Fraction | None, Fraction | None]:
        """Decoding times of the last packet before a place in the file and of the first after it."""
        at = int(np.searchsorted(self._timed_order, order))
        near = [self._timed[i] if 0 <= i < len(self._timed) else None for i in (at - 1, at)]
        before, after = (None if n is None else int(self.dts[n]) * self.tick_s for n in near)
        return before, after

    def breaks(self, stream: int) -> Iterator[_Break]:
        """The places at which the times do not go on from those before."""
        times = self.dts[self._timed]
        if len(times) < 2:
            return
        places = np.flatnonzero(~self._runs_on(times)) + 1
        borders = [0, *self._timed[places].tolist(), len(self.dts)]
        for k, place in enumerate(places.tolist(), 1):
            first = borders[k]
            shown_until = self._shown_until(max(borders[k - 1], first - REORDERED), first)
            shown = self.pts[first : min(borders[k + 1], first + REORDERED)]
            shown = shown[shown != _NO_TIME]
            yield _Break(
                stream=stream,
                order=int(self.order[first]),
                first_packet=first,
                before_s=(int(times[place - 1]) + self.usual) * self.tick_s,
                after_s=int(times[place]) * self.tick_s,
                shown_until_s=shown_until * self.tick_s,
                shown_from_s=int(shown.min() if len(shown) else times[place]) * self.tick_s,
            )

    def _shown_until(self, first: int, end: int) -> int:
        """End of what packets [first, end) show; those without a time last as long as they say after the last one.

        MP4 says that a packet before a gap lasts as long as that: it counts as a usual one.
        """
        pts, duration = self.pts[first:end], self._duration[first:end]
        duration = np.where(duration > _GAP_STEPS * self.usual, self.usual, duration)
        is_timed = pts != _NO_TIME
        is_guess = is_timed & (self.dts[first:end] != _NO_TIME)
        is_guess &= np.abs(pts - self.dts[first:end]) > REORDERED * self.usual
        timed = np.flatnonzero(is_timed & ~is_guess)
        if not len(timed):
            return int(self.dts[self._timed[self._timed < end][-1]])
        rest = int(duration[timed[-1] + 1 :].sum()) + self.usual * int(is_guess[: timed[-1]].sum())
        return int((pts + duration)[timed].max()) + rest

    def stretches(self, moves: Sequence[_Move]) -> tuple[Stretch, ...]:
        """Wraps and moves together."""
        by_packet = {move.first_packet: move for move in moves}
        wraps = (np.flatnonzero(np.diff(self._wrapped)) + 1).tolist()
        made: list[Stretch] = []
        shift = 0
        for n in sorted({*wraps, *by_packet}):
            starts_at = None
            if n in by_packet:
                shift, starts_s = round(by_packet[n].shift_s / self.tick_s), by_packet[n].starts_at_s
                starts_at = None if starts_s is None else round(starts_s / self.tick_s)
            wrapped = int(self._wrapped[n]) if n < len(self._wrapped) else 0
            made.append(Stretch(n, wrapped + shift, REORDERED * self.usual, starts_at))
        return tuple(made)


def _jumps(
    logs: dict[int, _Log], video: int, *, may_jump: bool, takes_over: bool
) -> tuple[list[Jump], dict[int, list[_Move]]]:
    """The jumps of a file, and what they mean for each stream.

    Args:
        logs: closed, by the stream's index.
        video: the stream that the others follow.
        may_jump: whether a gap is a jump in a file of one stream.
        takes_over: whether it is known when the picture after a jump is shown, so that sound from before it ends there.
    """
    jumps: list[Jump] = []
    moves: dict[int, list[_Move]] = {index: [] for index in logs}
    for group in _groups(logs):
        lead = group.get(video) or next(iter(group.values()))
        around = {index: log.around_s(lead.order) for index, log in logs.items() if index not in group}
        is_back = any(found.is_back for found in group.values())
        places = {index: found.first_packet for index, found in group.items()}
        stays = []
        for index, (last, following) in around.items():
            if following is None:
                continue
            if _moves_too(last, following, lead, is_back):
                places[index] = logs[index].n_before(lead.order)
            elif last is not None:
                stays.append(index)
        if not is_back and (stays or not (may_jump or len(places) > 1)):
            continue
        before = moves[lead.stream][-1].shift_s if moves[lead.stream] else Fraction(0)
        shift_s = before + lead.shown_until_s - lead.shown_from_s
        at_s = lead.shown_from_s + shift_s
        for index, first_packet in places.items():
            moves[index].append(_Move(first_packet, shift_s, at_s if takes_over and index != video else None))
        nears_start = abs(lead.after_s - logs[lead.stream].first_s) <= _RESTART_S
        skipped_s = Fraction(0) if is_back else lead.shown_from_s - lead.shown_until_s
        jumps.append(Jump(at_s, skipped_s, places.get(video), is_back and nears_start and not stays))
    return jumps, moves


def _moves_too(last_s: Fraction | None, following_s: Fraction, lead: _Break, is_back: bool) -> bool:
    """Whether a stream jumps unnoticed, because it began, ended or was silent on the way: its times around tell."""
    if is_back:
        return abs(following_s - lead.after_s) < abs(following_s - lead.before_s)
    return following_s >= lead.after_s - GAP_S and (last_s is None or last_s <= lead.before_s + GAP_S)


def _groups(logs: dict[int, _Log]) -> Iterator[dict[int, _Break]]:
    """Breaks that are one jump, by their streams, in the order of the file."""
    breaks = sorted((found for index, log in logs.items() for found in log.breaks(index)), key=lambda b: b.order)
    group: dict[int, _Break] = {}
    for found in breaks:
        if group and not _is_together(next(iter(group.values())), found, group, logs[found.stream]):
            yield group
            group = {}
        group[found.stream] = found
    if group:
        yield group


def _is_together(first: _Break, found: _Break, group: dict[int, _Break], log: _Log) -> bool:
    if found.stream in group or abs(found.after_s - first.after_s) > _TOGETHER_S:
        return False
    last_s, _ = log.around_s(first.order)
    return last_s is None or found.before_s - last_s <= _TOGETHER_S
