"""Loss recovery and congestion control (RFC 9002): NewReno with pacing.

Decides what an acknowledgement settles, which packets count as lost, when the peer is probed, and
how much may leave now. It knows packets by number, time and size; what they carried is told of its
fate. Where it goes beyond the document, and why:

- Of packets that carry acknowledgements alone only the last are remembered: a peer owes no word
  about them, so one that only asks and never acknowledges would have us remember all.
- Pacing lets pass at once what the first window holds or what would leave within two ticks of a
  timer, whichever is more; else short paths would be paced by the timers.

Bounds: ``_MAX_BARE_PACKETS``; packets in flight by the congestion window.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from typing import Final

from codio_dht.net.quic.machine.frames import PacketLevel
from codio_dht.net.quic.machine.spaces import SentPacket, Space

INITIAL_RTT_S: Final = 0.1
"""Round trip before one was measured, seconds (GO; RFC 9002, section 6.2.2, recommends 333 ms, with
which a dialler whose first packet was lost is a second late)."""

_FIRST_WINDOW_PACKETS: Final = 10
_MIN_WINDOW_PACKETS: Final = 2
"""RFC 9002, section 7.2."""
_LOSS_FACTOR: Final = 0.5
_PACKET_THRESHOLD: Final = 3
_TIME_THRESHOLD: Final = 9 / 8
_GRANULARITY_S: Final = 0.001
"""RFC 9002, section 6.1."""
_PERSISTENT_PTOS: Final = 3
"""RFC 9002, section 7.6.1."""
_PROBES: Final = 2
"""Packets that probe the peer each time (RFC 9002, section 6.2.4)."""
_MAX_BACKOFF: Final = 10
"""Doublings of the probe time-out; the idle time-out ends the connection long before."""
_PACING_GAIN: Final = 1.25
"""Speed of sending, in congestion windows a round trip (RFC 9002, section 7.7)."""
_BURST_S: Final = 0.002
_ROUNDING_BYTES: Final = 1
"""Less than this is missing by rounding: at the very time told, the next datagram may leave."""
_MAX_BARE_PACKETS: Final = 256
"""Packets without data that are remembered until the peer says that it has them, or others after
them; the oldest is forgotten."""


class Pacer:
    """A bucket of bytes that fills with the pace. Nothing is held back until the first round trip
    was measured."""

    __slots__ = ("_burst", "_filled_at", "_first_burst", "_left", "_rate", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._first_burst = float(_FIRST_WINDOW_PACKETS * size)
        self._left = self._burst = self._first_burst
        self._filled_at = 0.0
        self._rate = math.inf

    def next_send_time(self, now: float) -> float | None:
        """When the next datagram may leave; None for now."""
        if self._left >= self._size or self._rate == math.inf:
            return None
        self._fill(now)
        missing = self._size - self._left
        return None if missing < _ROUNDING_BYTES else now + missing / self._rate

    def on_sent(self, now: float) -> None:
        """A datagram leaves."""
        if self._rate != math.inf:
            self._fill(now)
            self._left -= self._size

    def _fill(self, now: float) -> None:
        if now > self._filled_at:
            self._left = min(self._burst, self._left + (now - self._filled_at) * self._rate)
            self._filled_at = now

    def set_pace(self, window: int, rtt: float) -> None:
        """The window or the round trip changed."""
        self._rate = _PACING_GAIN * window / max(rtt, _GRANULARITY_S)
        self._burst = max(self._first_burst, self._rate * _BURST_S)


class Recovery:
    """What is in flight on one connection, and what becomes of it."""

    __slots__ = (
        "_bare",
        "_dialled",
        "_recovery_since",
        "_size",
        "_threshold",
        "bytes_in_flight",
        "first_sample_at",
        "handshake_confirmed",
        "latest_rtt",
        "max_ack_delay_s",
        "min_rtt",
        "pacer",
        "peer_is_validated",
        "pto_count",
        "rtt_variance",
        "smoothed_rtt",
        "spaces",
        "window",
    )

    def __init__(self, spaces: Sequence[Space], *, dialled: bool, size: int) -> None:
        """Nothing sent yet; ``size`` is that of a full datagram, bytes."""
        self.spaces = spaces
        self._dialled = dialled
        self._size = size
        self._bare: deque[tuple[Space, int]] = deque()
        self.window = _FIRST_WINDOW_PACKETS * size
        self._threshold: float = math.inf
        self._recovery_since = -math.inf
        self.bytes_in_flight = 0
        self.pacer = Pacer(size)
        self.latest_rtt = 0.0
        self.min_rtt = math.inf
        self.smoothed_rtt = INITIAL_RTT_S
        self.rtt_variance = INITIAL_RTT_S / 2
        self.first_sample_at: float | None = None
        self.max_ack_delay_s = 0.025
        self.pto_count = 0
        self.handshake_confirmed = False
        self.peer_is_validated = not dialled
        """The peer is known to have validated our address, or needs not to."""

    # --- sent -------------------------------------------------------------------------------------

    def on_sent(self, packet: SentPacket, space: Space, now: float) -> None:
        """A packet leaves."""
        packet.sent_at = now
        space.sent[packet.number] = packet
        if packet.in_flight:
            self.bytes_in_flight += packet.size
            if packet.eliciting:
                space.eliciting_in_flight += 1
                space.eliciting_at = now
            return
        self._bare.append((space, packet.number))
        if len(self._bare) > _MAX_BARE_PACKETS:
            of_space, oldest = self._bare.popleft()
            of_space.sent.pop(oldest, None)

    def discard(self, space: Space) -> None:
        """Forget a space whose keys are gone (RFC 9002, section 6.4)."""
        for packet in space.sent.values():
            if packet.in_flight:
                self.bytes_in_flight -= packet.size
        space.sent.clear()
        space.eliciting_in_flight = 0
        space.loss_at = None
        space.ack_at = None
        space.probes = 0
        self.pto_count = 0

    def restart(self) -> None:
        """The peer is at another address: nothing is known of the path to it (RFC 9000, section
        9.4)."""
        self.window = _FIRST_WINDOW_PACKETS * self._size
        self._threshold = math.inf
        self.latest_rtt = 0.0
        self.min_rtt = math.inf
        self.smoothed_rtt = INITIAL_RTT_S
        self.rtt_variance = INITIAL_RTT_S / 2
        self.first_sample_at = None
        self.pacer = Pacer(self._size)

    # --- acknowledged -----------------------------------------------------------------------------

    def on_acked(
        self, space: Space, ranges: Sequence[tuple[int, int]], delay_s: float, now: float
    ) -> None:
        """The peer has the packets of ``ranges``: first and last, from the highest down."""
        sent = space.sent
        largest = ranges[0][1]
        space.largest_acked = max(space.largest_acked, largest)
        acked = _in_ranges(sent, ranges)
        if not acked:
            return
        full = 2 * self.bytes_in_flight >= self.window
        eliciting = False
        for packet in acked:
            del sent[packet.number]
            if packet.in_flight:
                self.bytes_in_flight -= packet.size
                if packet.eliciting:
                    eliciting = True
                    space.eliciting_in_flight -= 1
                if full:
                    self._grow(packet)
            for fate, arguments in packet.fates:
                fate(True, *arguments)
        newest = acked[-1]
        if eliciting and newest.number == largest:
            self._on_round_trip(now - newest.sent_at, delay_s, space, now)
        if sent and next(iter(sent)) < space.largest_acked:
            self._detect_loss(space, now)
        else:
            space.loss_at = None
        if self.peer_is_validated:
            self.pto_count = 0

    def _grow(self, packet: SentPacket) -> None:
        """RFC 9002, appendix B.5. A window that is not used does not grow (section 7.8)."""
        if packet.sent_at <= self._recovery_since:
            return
        if self.window < self._threshold:
            self.window += packet.size
        else:
            self.window += self._size * packet.size // self.window

    def _on_round_trip(self, took_s: float, delay_s: float, space: Space, now: float) -> None:
        """RFC 9002, section 5.3."""
        latest = self.latest_rtt = max(took_s, _GRANULARITY_S)
        self.min_rtt = min(self.min_rtt, latest)
        if self.first_sample_at is None:
            self.first_sample_at = now
            self.smoothed_rtt = latest
            self.rtt_variance = latest / 2
        else:
            if space.level is PacketLevel.ONE_RTT:
                delay_s = min(delay_s, self.max_ack_delay_s)
                if latest >= self.min_rtt + delay_s:
                    latest -= delay_s
            self.rtt_variance += (abs(self.smoothed_rtt - latest) - self.rtt_variance) / 4
            self.smoothed_rtt += (latest - self.smoothed_rtt) / 8
        self.pacer.set_pace(self.window, self.smoothed_rtt)

    # --- lost -------------------------------------------------------------------------------------

    def _detect_loss(self, space: Space, now: float) -> None:
        """RFC 9002, appendix A.10."""
        space.loss_at = None
        wait = max(_TIME_THRESHOLD * max(self.latest_rtt, self.smoothed_rtt), _GRANULARITY_S)
        lost = []
        for packet in space.sent.values():
            if packet.number > space.largest_acked:
                break
            too_old = packet.sent_at <= now - wait
            if too_old or packet.number <= space.largest_acked - _PACKET_THRESHOLD:
                lost.append(packet)
            else:
                due = packet.sent_at + wait
                space.loss_at = due if space.loss_at is None else min(space.loss_at, due)
        if lost:
            self._on_lost(space, lost, now)

    def _on_lost(self, space: Space, lost: Sequence[SentPacket], now: float) -> None:
        last_at = -math.inf
        for packet in lost:
            del space.sent[packet.number]
            if packet.in_flight:
                self.bytes_in_flight -= packet.size
                last_at = packet.sent_at
                if packet.eliciting:
                    space.eliciting_in_flight -= 1
            for fate, arguments in packet.fates:
                fate(False, *arguments)
        if last_at > self._recovery_since:
            self._recovery_since = now
            smallest = _MIN_WINDOW_PACKETS * self._size
            self.window = max(int(self.window * _LOSS_FACTOR), smallest)
            self._threshold = self.window
        if self._is_persistent(lost):
            self.window = _MIN_WINDOW_PACKETS * self._size
            self._recovery_since = -math.inf
        self.pacer.set_pace(self.window, self.smoothed_rtt)

    def _is_persistent(self, lost: Sequence[SentPacket]) -> bool:
        """Whether nothing got through for so long that the path must be another (RFC 9002, section
        7.6): the packets between two lost ones are lost, too."""
        if self.first_sample_at is None:
            return False
        period = self.pto_s(PacketLevel.ONE_RTT) * _PERSISTENT_PTOS
        first: SentPacket | None = None
        previous = -2
        for packet in lost:
            if packet.sent_at <= self.first_sample_at:
                continue
            if first is None or packet.number != previous + 1:
                first = packet if packet.eliciting else None
            elif packet.eliciting and packet.sent_at - first.sent_at > period:
                return True
            previous = packet.number
        return False

    # --- timers -----------------------------------------------------------------------------------

    def pto_s(self, level: PacketLevel) -> float:
        """The probe time-out before any doubling (RFC 9002, section 6.2.1)."""
        pto = self.smoothed_rtt + max(4 * self.rtt_variance, _GRANULARITY_S)
        return pto + self.max_ack_delay_s if level is PacketLevel.ONE_RTT else pto

    def next_timeout(self, now: float) -> float | None:
        """When ``on_timeout`` wants to be called; None if nothing is in flight."""
        loss = min(
            (space.loss_at for space in self.spaces if space.loss_at is not None), default=None
        )
        if loss is not None:
            return loss
        found = self._next_probe(now)
        return None if found is None else found[0]

    def _next_probe(self, now: float) -> tuple[float, Space] | None:
        """RFC 9002, appendix A.8."""
        backoff = 1 << min(self.pto_count, _MAX_BACKOFF)
        earliest: tuple[float, Space] | None = None
        waiting = False
        for space in self.spaces:
            if not space.eliciting_in_flight:
                continue
            waiting = True
            if space.level is PacketLevel.ONE_RTT and not self.handshake_confirmed:
                continue
            due = space.eliciting_at + self.pto_s(space.level) * backoff
            if earliest is None or due < earliest[0]:
                earliest = due, space
        if earliest is None and not self.peer_is_validated:
            if not waiting:
                space = self._handshake_space()
                return max(space.eliciting_at, 0.0) + self.pto_s(space.level) * backoff, space
            return self._first_of_data(now, backoff)
        return earliest

    def _first_of_data(self, now: float, backoff: int) -> tuple[float, Space] | None:
        """Only data is in flight, and the peer may not have our last flight of the handshake."""
        space = self._handshake_space()
        return self.spaces[PacketLevel.ONE_RTT].eliciting_at + self.pto_s(
            space.level
        ) * backoff, space

    def _handshake_space(self) -> Space:
        """The space in which a dialler shows that it lives; its listener may wait for that."""
        handshake = self.spaces[PacketLevel.HANDSHAKE]
        return handshake if handshake.next_number else self.spaces[PacketLevel.INITIAL]

    def on_timeout(self, now: float) -> None:
        """Declare losses, or have a probe sent (``Space.probes``). Harmless when early."""
        for space in self.spaces:
            if space.loss_at is not None and space.loss_at <= now:
                self._detect_loss(space, now)
                return
        found = self._next_probe(now)
        if found is not None and found[0] <= now:
            self.pto_count += 1
            self._probe(found[1])

    def _probe(self, space: Space) -> None:
        """Have the peer probed, with what it is most likely to miss: what the oldest packet carried
        is sent again, although the packet does not count as lost (RFC 9002, section 6.2.4)."""
        space.probes = _PROBES
        for packet in space.sent.values():
            if packet.eliciting and packet.fates:
                fates, packet.fates = packet.fates, []
                for fate, arguments in fates:
                    fate(False, *arguments)
                return

    @property
    def room(self) -> int:
        """Bytes that may leave now, by the congestion window."""
        return self.window - self.bytes_in_flight


def _in_ranges(sent: dict[int, SentPacket], ranges: Sequence[tuple[int, int]]) -> list[SentPacket]:
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
