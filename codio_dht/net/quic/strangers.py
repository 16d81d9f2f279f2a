"""What a QUIC socket answers to datagrams that belong to none of its connections.

Decides whether a datagram begins a connection, and what a stranger is told otherwise. Nothing is
built or kept for a datagram before its Initial was opened with the keys that its own header gives:
garbage costs one attempt, and a counter. The answer is always shorter than the datagram::

    long header, another version          -> the versions spoken
    Initial that is not genuine           -> nothing
    Initial, and many are unproven        -> Retry: the dialler has to show that it gets our answers
    Initial with a token that is ours     -> a connection, whose dialler is where it says
    Initial                               -> a connection, unproven until its handshake is over
    short header, long enough, of no
      connection                          -> a stateless reset, as far as their number allows
    anything else                         -> nothing

No I/O, no clock. Never raises on what anybody sent.

Bounds: of handshakes not proven, ``MAX_UNPROVEN_HANDSHAKES`` and ``MAX_UNPROVEN_PER_IP``; past them
diallers get a Retry. Of resets, ``MAX_RESETS_PER_S`` in a second and ``MAX_RESETS_PER_IP_PER_S`` of
them for one address.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Final, NamedTuple

from codio_dht.core.clock import Monotonic
from codio_dht.net.quic.headers import (
    FIXED_BIT,
    LONG_HEADER,
    MIN_FIRST_DATAGRAM_BYTES,
    MIN_FIRST_ID_BYTES,
    VERSION_1,
    LongHeader,
    LongKind,
    initial_header,
    read_long_header,
    retry_packet,
    versions_packet,
)
from codio_dht.net.quic.limits import (
    CONNECTION_ID_BYTES,
    MAX_FORGED_INITIALS_PER_S,
    MAX_RESETS_PER_IP_PER_S,
    MAX_RESETS_PER_S,
    MAX_UNPROVEN_HANDSHAKES,
    MAX_UNPROVEN_PER_IP,
)
from codio_dht.net.quic.protection import TAG_BYTES, dialler_initial_keys, listener_initial_keys
from codio_dht.net.quic.tokens import RESET_TOKEN_BYTES, ResetTokens, RetryTokens
from codio_dht.net.quic.varints import varint
from codio_dht.net.targets import Ip, SocketName

MIN_RESET_BYTES: Final = 5 + RESET_TOKEN_BYTES
"""A shorter packet cannot be a stateless reset (RFC 9000, section 10.3)."""
_USUAL_RESET_BYTES: Final = 42
"""Of a reset that is free in its length: a short packet with an id of any length and a little data
is as long (RFC 9000, section 10.3)."""
_TRANSPORT_CLOSE: Final = 0x1C
_CONNECTION_REFUSED: Final = 0x02
_NUMBER_BYTES: Final = 1
_MIN_PAYLOAD_BYTES: Final = 4 - _NUMBER_BYTES
"""Header protection samples past the longest packet number (RFC 9001, section 5.4.2)."""


class Opening(NamedTuple):
    """A datagram that begins a connection."""

    original_id: bytes
    """The id that the dialler's first packet was for."""
    retry_id: bytes | None
    """The id that a Retry gave the dialler; None if it got none, and its address is not proven."""
    header: LongHeader

    def refusal(self) -> bytes:
        """The answer to a dialler that will not be had: the connection is refused, so that the
        dialler need not wait."""
        header = self.header
        payload = bytes([_TRANSPORT_CLOSE]) + varint(_CONNECTION_REFUSED) + varint(0) + varint(0)
        assert len(payload) >= _MIN_PAYLOAD_BYTES
        head = initial_header(
            source=header.destination,
            destination=header.source,
            number=0,
            number_bytes=_NUMBER_BYTES,
            length=_NUMBER_BYTES + len(payload) + TAG_BYTES,
        )
        return listener_initial_keys(header.destination).seal(head, 0, payload)


class Strangers:
    """Answers datagrams that belong to no connection of a QUIC socket."""

    def __init__(
        self, resets: ResetTokens, counters: Counter[str], *, listens: bool, exempt_local: bool
    ) -> None:
        """Answers under one identity.

        Args:
            resets: the identity's stateless reset tokens.
            counters: the host's; what was answered is counted in it.
            listens: connections may be begun; else only resets are sent.
            exempt_local: local addresses have no limit of their own.
        """
        self._resets = resets
        self._counters = counters
        self._listens = listens
        self._exempt_local = exempt_local
        self._retries = RetryTokens()
        self._unproven: Counter[bytes] = Counter()
        self._unproven_total = 0
        self._second = float("-inf")  # the one that the counts below are of
        self._forged = 0
        self._forged_before = 0
        self._resets_sent = 0
        self._resets_to: Counter[bytes] = Counter()

    # --- handshakes under way ---------------------------------------------------------------------

    def begun(self, ip: Ip) -> None:
        """A handshake began whose dialler's address is not proven."""
        self._unproven_total += 1
        self._unproven[ip.one] += 1

    def settled(self, ip: Ip) -> None:
        """Such a handshake is over, one way or the other."""
        self._unproven_total -= 1
        self._unproven[ip.one] -= 1
        if self._unproven[ip.one] <= 0:
            del self._unproven[ip.one]

    @property
    def unproven(self) -> int:
        """Handshakes whose diallers' addresses are not proven."""
        return self._unproven_total

    # --- answers ----------------------------------------------------------------------------------

    def judge(
        self, data: bytes, where: SocketName, ip: Ip, now: Monotonic
    ) -> Opening | bytes | None:
        """What to do about a datagram of no connection: begin one, send this answer, or nothing."""
        if int(now) != self._second:
            self._next_second(int(now))
        if not data[0] & LONG_HEADER:
            return self._reset_for(data, ip)
        if not self._listens or len(data) < MIN_FIRST_DATAGRAM_BYTES:
            return None
        header = read_long_header(data)
        if header is None or not header.version:
            return None
        if header.version != VERSION_1:
            self._counters["quic_other_versions"] += 1
            return versions_packet(source=header.destination, destination=header.source)
        if header.kind is not LongKind.INITIAL or len(header.destination) < MIN_FIRST_ID_BYTES:
            return None
        return self._judge_initial(data, header, where, ip, now)

    def _next_second(self, second: int) -> None:
        follows = second == self._second + 1
        self._forged_before, self._forged = (self._forged if follows else 0), 0
        self._resets_sent = 0
        self._resets_to.clear()
        self._second = second

    def _judge_initial(
        self, data: bytes, header: LongHeader, where: SocketName, ip: Ip, now: Monotonic
    ) -> Opening | bytes | None:
        keys = dialler_initial_keys(header.destination)
        if keys.open(data[: header.end], header.number_at, 0) is None:
            self._forged += 1
            self._counters["quic_forged_initials"] += 1
            return None
        proof = None
        if header.token:
            proof = self._retries.check(header.token, where, header.destination, now)
        if proof is None and self._must_prove(ip):
            self._counters["quic_retries"] += 1
            return self._retry(header, where, now)
        return Opening(
            original_id=header.destination if proof is None else proof.original_id,
            retry_id=None if proof is None else header.destination,
            header=header,
        )

    def _must_prove(self, ip: Ip) -> bool:
        if self._unproven_total >= MAX_UNPROVEN_HANDSHAKES:
            return True
        if max(self._forged, self._forged_before) >= MAX_FORGED_INITIALS_PER_S:
            return True
        exempt = ip.local and self._exempt_local
        return not exempt and self._unproven[ip.one] >= MAX_UNPROVEN_PER_IP

    def _retry(self, header: LongHeader, where: SocketName, now: Monotonic) -> bytes:
        source = os.urandom(CONNECTION_ID_BYTES)
        return retry_packet(
            original=header.destination,
            source=source,
            destination=header.source,
            token=self._retries.make(where, header.destination, source, now),
        )

    def _reset_for(self, data: bytes, ip: Ip) -> bytes | None:
        """A stateless reset for a packet of a connection that is gone. It is shorter than the
        packet, so that two nodes that both lost a connection do not answer each other for ever."""
        size = min(len(data) - 1, _USUAL_RESET_BYTES)
        if size < MIN_RESET_BYTES or not data[0] & FIXED_BIT:
            return None
        counts = self._resets_to
        if self._resets_sent >= MAX_RESETS_PER_S or counts[ip.one] >= MAX_RESETS_PER_IP_PER_S:
            self._counters["quic_resets_withheld"] += 1
            return None
        counts[ip.one] += 1
        self._resets_sent += 1
        self._counters["quic_resets_sent"] += 1
        noise = bytearray(os.urandom(size - RESET_TOKEN_BYTES))
        noise[0] = FIXED_BIT | noise[0] & ~LONG_HEADER
        return bytes(noise) + self._resets.of(data[1 : 1 + CONNECTION_ID_BYTES])
