"""The clock of a file: what makes one rising time, for all its streams, of times that jump, restart or wrap.

`mit_builder.media.jumps` finds it in the file's packets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from mit_builder.media.probe import packets_of

REORDERED = 32
"""Packets beside a jump among which the last or first shown lies: twice the deepest reordering of H.264 and HEVC."""
MAX_TICKS = 1 << 55
"""Times beyond it (a year in nanoseconds) are damage."""


@dataclass(frozen=True)
class Stretch:
    """Packets of a stream whose times run on."""

    first_packet: int
    """Its place among the stream's packets, in the order of the file."""
    shift: int
    """What their times get added, in ticks of the stream."""
    longest_delay: int
    """How long after its decoding a packet before this stretch can be shown, ticks."""
    starts_at: int | None = None
    """Shifted time at which it takes over from the stretch before; None where that ends by itself."""


@dataclass(frozen=True)
class Jump:
    """A place where a file's times jump or begin anew, other than by wrapping."""

    at_s: Fraction
    """Time of the first picture after it, on the clock that rises."""
    skipped_s: Fraction
    """For how long players show the picture before it: how far the times jump ahead, 0 where they go back."""
    first_packet: int | None
    """The video's packet at which it is, among those of the stream; None where only sound jumps."""
    is_restart: bool
    """Whether all streams begin again where the file began: recordings joined end to end, which is no cut."""


@dataclass(frozen=True)
class Clock:
    """What makes one rising time of a file's times. A clock without stretches leaves every time as it is."""

    stretches: dict[int, tuple[Stretch, ...]] = field(default_factory=dict)
    """By the stream's index; streams whose times run on have none."""
    outliers: dict[int, frozenset[int]] = field(default_factory=dict)
    """By the stream's index: single packets whose times the others do not go on from."""
    jumps: tuple[Jump, ...] = ()
    is_decode_timed: bool = False
    """Whether the container has decoding times alone."""
    is_shown_late: bool = False
    """Whether it counts on pictures being shown as late after these as the decoder gives them. AVI, in which times
    begin at 0, does not: muxers leave this delay out of the sound's times too."""

    def packets(self, container: InputContainer, stream: Stream) -> Iterator[Packet[Stream]]:
        """The stream's packets, their times on the clock that rises; without `runs_on`, to be read from the start.

        Pictures of a container that has decoding times alone have these as the times at which they are shown.
        """
        packets = packets_of(container, stream)
        if self.is_decode_timed and stream.type == "video":
            packets = _shown_when_decoded(packets)
        if not self.runs_on(stream.index):
            packets = _without_times(packets, self.outliers.get(stream.index, frozenset()))
            packets = _shifted(packets, self.stretches.get(stream.index, ()))
        return packets

    def runs_on(self, index: int) -> bool:
        """Whether the file's own times of this stream rise."""
        return not self.stretches.get(index) and not self.outliers.get(index)


def _shown_when_decoded(packets: Iterable[Packet[Stream]]) -> Iterator[Packet[Stream]]:
    for packet in packets:
        packet.pts = packet.dts
        yield packet


def _without_times(packets: Iterable[Packet[Stream]], outliers: frozenset[int]) -> Iterator[Packet[Stream]]:
    for n, packet in enumerate(packets):
        if n in outliers:
            packet.pts = packet.dts = None
        yield packet


def _shifted(packets: Iterable[Packet[Stream]], stretches: Sequence[Stretch]) -> Iterator[Packet[Stream]]:
    """Packets on the rising clock, without those of a stretch that belong where the next one has taken over."""
    following = deque(stretches)
    shift = 0
    for n, packet in enumerate(packets):
        if following and following[0].first_packet - n <= REORDERED and _is_guess(packet, following[0].longest_delay):
            packet.pts = None
        while following and n >= following[0].first_packet:
            shift = following.popleft().shift
        packet.pts = None if packet.pts is None or abs(packet.pts) > MAX_TICKS else packet.pts + shift
        packet.dts = None if packet.dts is None or abs(packet.dts) > MAX_TICKS else packet.dts + shift
        border = following[0].starts_at if following else None
        if border is None or packet.pts is None or packet.pts < border:
            yield packet


def _is_guess(packet: Packet[Stream], longest_delay: int) -> bool:
    """Whether libavformat made a packet's time of the packets after a jump, as it does with MPEG-2."""
    return packet.pts is not None and packet.dts is not None and abs(packet.pts - packet.dts) > longest_delay
