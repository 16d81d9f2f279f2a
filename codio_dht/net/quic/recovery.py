"""Loss recovery and congestion control of a QUIC connection (RFC 9002), on aioquic's state.

Decides what an acknowledgement settles, how much may be in flight and how fast it may leave. Timers
and what a loss sends again stay aioquic's. What is different, and why:

- An acknowledgement looks at the packets up to the largest it names, once, and at losses only
  where a packet before it is missing; aioquic lists and searches all of them for each.
- Slow start ends with the first loss, as RFC 9002 has it; congestion control is not told of round
  trips. aioquic's ends it when they grow by a quarter, which on short paths they do with every
  batch of requests: a few milliseconds of a busy peer then leave a window of a dozen datagrams.
- Pacing is a quarter faster than the window a round trip (RFC 9002, section 7.7), and lets pass at
  once what the first window holds or what would leave within two ticks of a timer, whichever is
  more; else short paths would be paced by the timers.
- Of packets that carry acknowledgements alone only the last are remembered. A peer owes no word
  about them, so one that only asks and never acknowledges would have us remember all.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from aioquic.quic.congestion.base import K_INITIAL_WINDOW
from aioquic.quic.packet_builder import QuicDeliveryState, QuicSentPacket
from aioquic.quic.recovery import QuicPacketPacer, QuicPacketRecovery, QuicPacketSpace

_PACING_GAIN: Final = 1.25
"""Speed of sending, in congestion windows a round trip (RFC 9002, section 7.7)."""

_BURST_S: Final = 0.002
"""What would leave within this time may leave at once, seconds: two of the host's timer ticks."""

_ROUNDING_BYTES: Final = 1
"""Less than this is missing by rounding: at the very time told, the next datagram may leave."""

_MIN_RTT_S: Final = 0.001
"""Shorter round trips are taken for this, as aioquic does, seconds: clocks and timers are no
finer."""

_MAX_BARE_PACKETS: Final = 256
"""Packets without data that are remembered until the peer says that it has them, or others after
them; the oldest is forgotten."""

_ACKED: Final = QuicDeliveryState.ACKED


class Pacer(QuicPacketPacer):
    """A bucket of bytes that fills with the pace. ``packet_time`` is None until the first round
    trip was measured; nothing is held back so long."""

    def __init__(self, *, max_datagram_size: int) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self._size = max_datagram_size
        self._first_burst = float(K_INITIAL_WINDOW * max_datagram_size)
        self._left = self._burst = self._first_burst
        self._filled_at = 0.0
        self._rate = math.inf

    def next_send_time(self, now: float) -> float | None:  # type: ignore[override] # it may be None
        """When the next datagram may leave; None for now."""
        if self._left >= self._size or self.packet_time is None:
            return None
        self._fill(now)
        missing = self._size - self._left
        return None if missing < _ROUNDING_BYTES else now + missing / self._rate

    def update_after_send(self, now: float) -> None:
        """A datagram was built."""
        if self.packet_time is not None:
            self._fill(now)
            self._left -= self._size

    def _fill(self, now: float) -> None:
        if now > self._filled_at:
            self._left = min(self._burst, self._left + (now - self._filled_at) * self._rate)
            self._filled_at = now

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        """The window or the round trip changed."""
        self._rate = _PACING_GAIN * congestion_window / max(smoothed_rtt, _MIN_RTT_S)
        self._burst = max(self._first_burst, self._rate * _BURST_S)
        self.packet_time = self._size / self._rate


class Recovery(QuicPacketRecovery):
    """Loss recovery and congestion control of one connection (RFC 9002)."""

    def __init__(self, **options: Any) -> None:
        """See ``QuicPacketRecovery``."""
        super().__init__(**options)
        self._pacer = Pacer(max_datagram_size=options["max_datagram_size"])
        self._bare: deque[tuple[QuicPacketSpace, int]] = deque()

    def on_packet_sent(self, *, packet: QuicSentPacket, space: QuicPacketSpace) -> None:
        """See ``QuicPacketRecovery``."""
        super().on_packet_sent(packet=packet, space=space)
        if not packet.in_flight:
            self._bare.append((space, packet.packet_number))
            if len(self._bare) > _MAX_BARE_PACKETS:
                of_space, oldest = self._bare.popleft()
                of_space.sent_packets.pop(oldest, None)

    def on_ranges_acked(
        self, ranges: Sequence[tuple[int, int]], delay_s: float, now: float, space: QuicPacketSpace
    ) -> None:
        """The peer has the packets of ``ranges``: first and last, from the highest down."""
        sent = space.sent_packets
        largest = ranges[0][1]
        space.largest_acked_packet = max(space.largest_acked_packet, largest)
        acked = _in_ranges(sent, ranges)
        if not acked:
            return
        eliciting = False
        for packet in acked:
            del sent[packet.packet_number]
            if packet.is_ack_eliciting:
                eliciting = True
                space.ack_eliciting_in_flight -= 1
            if packet.in_flight:
                self._cc.on_packet_acked(packet=packet, now=now)
            for handler, args in packet.delivery_handlers:
                handler(_ACKED, *args)
        newest = acked[-1]
        if eliciting and newest.packet_number == largest:
            assert newest.sent_time is not None
            self._on_round_trip(now - newest.sent_time, delay_s, now)
        if sent and next(iter(sent)) < space.largest_acked_packet:
            self._detect_loss(now=now, space=space)
        else:
            space.loss_time = None
        if self.peer_completed_address_validation:
            self._pto_count = 0

    def _on_round_trip(self, took_s: float, delay_s: float, now: float) -> None:
        """RFC 9002, section 5.3, as aioquic computes it."""
        latest = max(took_s, _MIN_RTT_S)
        self._rtt_min = min(self._rtt_min, latest)
        delay_s = min(delay_s, self.max_ack_delay)
        if latest >= self._rtt_min + delay_s:
            latest -= delay_s
        self._rtt_latest = latest
        if self._rtt_initialized:
            self._rtt_variance += (abs(self._rtt_smoothed - latest) - self._rtt_variance) / 4
            self._rtt_smoothed += (latest - self._rtt_smoothed) / 8
        else:
            self._rtt_first_sample_time = now
            self._rtt_initialized = True
            self._rtt_variance = took_s / 2
            self._rtt_smoothed = took_s
        self._pacer.update_rate(self._cc.congestion_window, self._rtt_smoothed)


def _in_ranges(
    sent: dict[int, QuicSentPacket], ranges: Sequence[tuple[int, int]]
) -> list[QuicSentPacket]:
    """The packets with numbers of ``ranges``; ``sent`` is in the order of numbers. The peer chooses
    how many ranges there are: each costs a search, not a walk."""
    if len(ranges) == 1:
        first, last = ranges[0]
        found = []
        for number, packet in sent.items():
            if number > last:
                break
            if number >= first:
                found.append(packet)
        return found
    numbers = list(sent)
    return [
        sent[number]
        for first, last in reversed(ranges)
        for number in numbers[bisect_left(numbers, first) : bisect_right(numbers, last)]
    ]
