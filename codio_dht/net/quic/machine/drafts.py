"""A packet that is being built: the frames that fit, and what is remembered of them.

Decides whether a frame fits: acknowledgements into the packet, everything else into what congestion
control leaves of it, too. What goes in is the builder's to decide.
"""

from __future__ import annotations

from typing import Any, Final

from codio_dht.net.quic.machine import frames
from codio_dht.net.quic.machine.frames import PacketLevel
from codio_dht.net.quic.machine.spaces import Fate, SentPacket, Space
from codio_dht.net.quic.varints import varint

_MICROSECONDS: Final = 1_000_000
_ACK_DELAY_EXPONENT: Final = 3
_PING_PERIOD: Final = 8
"""Of so many packets with gaps to tell of, one asks to be acknowledged itself, so that old ranges
can be forgotten."""


class FullError(Exception):
    """A frame does not fit; what does is sent."""


class PacketDraft:
    """A packet that is being built."""

    __slots__ = ("asks_path", "frames", "level", "may_fly", "record", "room")

    def __init__(self, level: PacketLevel, number: int, room: int, may_fly: int) -> None:
        self.level = level
        self.record = SentPacket(number)
        self.frames = bytearray()
        self.room = room
        """Bytes for frames."""
        self.may_fly = may_fly
        """The same for frames that congestion control counts."""
        self.asks_path = False
        """It challenges an address, or answers a challenge."""

    def add(self, frame: bytes, fate: Fate | None = None, *arguments: Any) -> None:
        """Put in a frame that asks for an acknowledgement.

        Raises:
            FullError: it does not fit.
        """
        if len(self.frames) + len(frame) > self.may_fly:
            raise FullError
        self.frames += frame
        record = self.record
        record.eliciting = record.in_flight = True
        if fate is not None:
            record.fates.append((fate, arguments))

    @property
    def left(self) -> int:
        """Bytes left for frames that congestion control counts."""
        return self.may_fly - len(self.frames)

    def pad(self, size: int) -> None:
        """Fill up to ``size`` bytes of frames. Padding is in flight (RFC 9002, section 3)."""
        missing = size - len(self.frames)
        if missing > 0:
            self.frames += bytes(missing)
            self.record.in_flight = True

    def add_ack(self, space: Space, now: float) -> None:
        """Name what was received in ``space``, the newest first, as far as there is room."""
        delay = max(0, int((now - space.largest_received_at) * _MICROSECONDS))
        ranges = space.received.descending()
        start, stop = next(ranges, (0, 0))
        if not stop:
            return
        parts = [
            varint(stop - 1),
            varint(delay >> _ACK_DELAY_EXPONENT),
            b"",
            varint(stop - 1 - start),
        ]
        left = self.room - len(self.frames) - sum(map(len, parts)) - 2
        if left < 0:
            return
        count = 0
        for first, last in ranges:
            more = varint(start - last - 1) + varint(last - 1 - first)
            left -= len(more)
            if left < 0:
                break
            parts.append(more)
            start = first
            count += 1
        parts[2] = varint(count)
        self.frames += bytes((frames.ACK,)) + b"".join(parts)
        self.record.fates.append((_on_ack_fate, (space, stop - 1)))
        space.on_ack_sent()
        if count and self.record.number % _PING_PERIOD == 0:
            self.add(bytes((frames.PING,)))


def _on_ack_fate(acknowledged: bool, space: Space, largest: int) -> None:
    if acknowledged:
        space.on_ack_of_ack(largest)
