"""A packet number space (RFC 9000, section 12.3): what was sent and received, and what of it is to
be acknowledged.

Decides when an acknowledgement is due and what it names; whether a packet came before. A packet
that asks for an acknowledgement gets one with the second of its kind, or after
``QUIC_ACK_DELAY_S``; at once in the handshake, and if it came out of order (section 13.2.1). With
anything else that is sent, acknowledgements go along.

Bounds: ``MAX_ACK_RANGES`` ranges of received numbers; what is below them counts as received.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from codio_dht.net.quic.limits import QUIC_ACK_DELAY_S
from codio_dht.net.quic.machine.frames import PacketLevel
from codio_dht.net.quic.machine.ranges import Ranges

MAX_ACK_RANGES: Final = 64
"""Ranges of received packets that are remembered and named to the peer; the lowest is forgotten."""
_PACKETS_PER_ACK: Final = 2
"""As RFC 9000, section 13.2.2, recommends."""

Fate = Callable[..., None]
"""Told what became of something that was sent: ``fate(acknowledged, *arguments)``; else it is lost
for good."""


class SentPacket:
    """A packet that was sent, until it is acknowledged or lost."""

    __slots__ = ("eliciting", "fates", "in_flight", "number", "sent_at", "size")

    def __init__(self, number: int) -> None:
        self.number = number
        self.sent_at = 0.0
        self.size = 0
        self.eliciting = False
        self.in_flight = False
        self.fates: list[tuple[Fate, tuple[Any, ...]]] = []


class Space:
    """One packet number space."""

    __slots__ = (
        "_floor",
        "_unacknowledged",
        "ack_at",
        "eliciting_at",
        "eliciting_in_flight",
        "expected",
        "largest_acked",
        "largest_received_at",
        "level",
        "loss_at",
        "next_number",
        "probes",
        "received",
        "sent",
    )

    def __init__(self, level: PacketLevel) -> None:
        self.level = level
        self.next_number = 0
        self.sent: dict[int, SentPacket] = {}
        """By number, lowest first."""
        self.largest_acked = -1
        self.loss_at: float | None = None
        """When packets before the largest acknowledged one count as lost."""
        self.eliciting_in_flight = 0
        self.eliciting_at = 0.0
        """When a packet that asks for an acknowledgement was sent last."""
        self.probes = 0
        """Packets that have to be sent whatever congestion control says."""
        self.received = Ranges()
        self.expected = 0
        """One more than the largest number received."""
        self.largest_received_at = 0.0
        self.ack_at: float | None = None
        self._floor = 0
        self._unacknowledged = 0

    def is_new(self, number: int) -> bool:
        """Whether no packet with this number was received."""
        return number >= self.expected or (number >= self._floor and number not in self.received)

    def on_received(self, number: int, eliciting: bool, now: float) -> None:
        """A packet was read."""
        in_order = number == self.expected
        if number >= self.expected:
            self.expected = number + 1
            self.largest_received_at = now
        received = self.received
        received.add(number, number + 1)
        if len(received) > MAX_ACK_RANGES:
            _, self._floor = received.pop_first()
        if not eliciting:
            return
        self._unacknowledged += 1
        if self.level is not PacketLevel.ONE_RTT or not in_order:
            self.ack_at = now
        elif self._unacknowledged >= _PACKETS_PER_ACK:
            self.ack_at = now if self.ack_at is None else min(self.ack_at, now)
        elif self.ack_at is None:
            self.ack_at = now + QUIC_ACK_DELAY_S

    @property
    def owes_ack(self) -> bool:
        """Whether packets wait to be acknowledged, due or not."""
        return self._unacknowledged > 0

    def on_ack_sent(self) -> None:
        """Everything received so far was acknowledged."""
        self.ack_at = None
        self._unacknowledged = 0

    def on_ack_of_ack(self, largest: int) -> None:
        """The peer knows that we have what is up to ``largest``: it is not named any more
        (RFC 9000, section 13.2.4)."""
        if largest >= self._floor:
            self._floor = largest + 1
            self.received.drop_below(largest + 1)

    def is_worth_sending(self, now: float) -> bool:
        """Whether an acknowledgement is due."""
        return self.ack_at is not None and self.ack_at <= now
