"""One side of a QUIC v1 connection, as the rest of the package uses it.

Decides nothing but the order: :mod:`receiving` reads, :mod:`building` sends, and timers are looked
at here. Use it so::

    receive(datagram, address, now) -> next_event() until None; ``ended``
    datagrams_to_send(now)          -> send them
    at next_timeout(): on_timeout(now), and send

``receive`` never raises on a peer's bytes. The states are in :mod:`state`.
"""

from __future__ import annotations

import os
from typing import Any, Final

from codio_dht.errors import ProtocolError
from codio_dht.net.quic.headers import MIN_FIRST_ID_BYTES
from codio_dht.net.quic.limits import (
    MAX_QUIC_STREAMS,
    QUIC_CONNECTION_WINDOW_BYTES,
    QUIC_IDLE_TIMEOUT_S,
    QUIC_STREAM_WINDOW_BYTES,
)
from codio_dht.net.quic.machine.building import Builder
from codio_dht.net.quic.machine.errors import Code, QuicError
from codio_dht.net.quic.machine.frames import PacketLevel
from codio_dht.net.quic.machine.handshake import Judge
from codio_dht.net.quic.machine.ids import PEER_IDS, PeerCid
from codio_dht.net.quic.machine.parameters import Parameters
from codio_dht.net.quic.machine.paths import Paths
from codio_dht.net.quic.machine.receiving import Reader
from codio_dht.net.quic.machine.state import Closure, Event, Progress, Setup, State
from codio_dht.net.quic.protection import dialler_initial_keys, listener_initial_keys

_MILLISECONDS: Final = 1_000
_MIN_IDLE_PTOS: Final = 3
"""A connection is not idle before so many probe time-outs (RFC 9000, section 10.1)."""
_MAX_UDP_BYTES: Final = 1_500
"""Longest datagram that is read whole."""
PACKETS_PER_KEY: Final = 1 << 22
"""Keys are changed after so many, half of what AES-GCM allows (RFC 9001, section 6.6)."""


class Machine:
    """One side of a QUIC v1 connection."""

    __slots__ = ("_builder", "_handshake_fault", "_keys_end_at", "_receiver", "_s")

    def __init__(
        self,
        setup: Setup,
        judge: Judge,
        *,
        dialled: bool,
        original_id: bytes = b"",
        retry_id: bytes | None = None,
    ) -> None:
        """A connection.

        Args:
            setup: the node's.
            judge: gets the peer's certificates and raises ``ProtocolError`` unless they will do.
            dialled: this side begins.
            original_id: as a listener, the id that the dialler's first packet was for.
            retry_id: the id that a Retry gave it, if one did.
        """
        parameters = Parameters(
            original_id=None if dialled else original_id,
            retry_id=retry_id,
            idle_timeout_ms=int(QUIC_IDLE_TIMEOUT_S * _MILLISECONDS),
            max_udp_bytes=_MAX_UDP_BYTES,
            max_data=QUIC_CONNECTION_WINDOW_BYTES,
            max_stream_data_bidi_local=QUIC_STREAM_WINDOW_BYTES,
            max_stream_data_bidi_remote=QUIC_STREAM_WINDOW_BYTES,
            max_streams_bidi=MAX_QUIC_STREAMS,
            id_limit=PEER_IDS,
        )
        s = self._s = State(setup, judge, dialled=dialled, parameters=parameters)
        self._keys_end_at = PACKETS_PER_KEY
        if not dialled:
            s.first_id = original_id
            seen = original_id if retry_id is None else retry_id
            s.receive_keys[PacketLevel.INITIAL] = dialler_initial_keys(seen)
            s.send_keys[PacketLevel.INITIAL] = listener_initial_keys(seen)
            s.retry_id = retry_id
        self._receiver = Reader(s)
        self._builder = Builder(s)

    # --- datagrams --------------------------------------------------------------------------------

    def dial(self, address: Any, now: float) -> None:
        """Begin a connection to ``address``."""
        s = self._s
        s.paths = Paths(address, is_proven=True)
        s.first_id = s.ids.peer.id = os.urandom(MIN_FIRST_ID_BYTES)
        s.send_keys[PacketLevel.INITIAL] = dialler_initial_keys(s.first_id)
        s.receive_keys[PacketLevel.INITIAL] = listener_initial_keys(s.first_id)
        s.idle_since = s.heard_at = now
        assert s.handshake is not None
        s.handshake.start()
        self._receiver.take_output()

    def receive(self, data: bytes, address: Any, now: float) -> None:
        """Take a datagram."""
        s = self._s
        if s.stage is Progress.ENDED:
            return
        if s.paths.current.address is None:
            s.paths = Paths(address, is_proven=s.retry_id is not None)
            s.idle_since = s.heard_at = now
        try:
            self._receiver.receive(data, address, now)
        except QuicError as error:
            ended = Closure(error.code, by_peer=False, frame_type=error.frame_type)
            s.end(ended, tell=True)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        """Everything to send now."""
        s = self._s
        if s.paths.current.address is None:
            return []
        if s.spaces[PacketLevel.ONE_RTT].next_number >= self._keys_end_at:
            self._keys_end_at += PACKETS_PER_KEY
            self.update_keys()
        return self._builder.datagrams(now)

    def next_event(self) -> Event | None:
        """What happened, in order; None if that is all."""
        events = self._s.events
        return events.popleft() if events else None

    # --- timers -----------------------------------------------------------------------------------

    def next_timeout(self, now: float = 0.0) -> float | None:
        """When ``on_timeout`` wants to be called; None when over."""
        s = self._s
        if s.stage is Progress.ENDED or s.paths.current.address is None:
            return None
        due = s.idle_since + self.idle_timeout_s
        ack_at = s.spaces[PacketLevel.ONE_RTT].ack_at
        if ack_at is not None and not self._builder.may_send:
            ack_at = None
        for each in (s.recovery.next_timeout(now), ack_at, s.pacing_at, s.paths.next_timeout()):
            if each is not None and each < due:
                due = each
        return due

    def on_timeout(self, now: float) -> None:
        """Losses, probes, silence, an address that does not answer. Harmless when early."""
        s = self._s
        if s.stage is Progress.ENDED:
            return
        if now >= s.idle_since + self.idle_timeout_s:
            s.end(Closure(Code.NO_ERROR, by_peer=False, is_silence=True), tell=False)
            return
        s.paths.on_timeout(now)
        due = s.recovery.next_timeout(now)
        if due is not None and now >= due:
            s.recovery.on_timeout(now)
            for level in (PacketLevel.INITIAL, PacketLevel.HANDSHAKE):
                if s.spaces[level].probes:
                    s.crypto_out[level].send_again()

    @property
    def is_urgent(self) -> bool:
        """Whether the next timer may be due sooner than an acknowledgement or a probe would."""
        s = self._s
        return s.pacing_at is not None or s.spaces[PacketLevel.ONE_RTT].loss_at is not None

    @property
    def idle_timeout_s(self) -> float:
        """Silence after which the connection ends, by what both sides said, seconds."""
        s = self._s
        timeout = QUIC_IDLE_TIMEOUT_S
        if s.peer is not None and s.peer.idle_timeout_ms:
            timeout = min(timeout, s.peer.idle_timeout_ms / _MILLISECONDS)
        return max(timeout, _MIN_IDLE_PTOS * s.recovery.pto_s(PacketLevel.ONE_RTT))

    # --- what is asked of it ----------------------------------------------------------------------

    def ping(self) -> None:
        """Ask whether the peer is there."""
        self._s.ping_wanted = True

    def update_keys(self) -> bool:
        """Change the keys; False if the peer has not used the present ones yet (RFC 9001, section
        6.1). A ping goes along: what else leaves may never be acknowledged, and the peer has to
        hear of the new keys."""
        s = self._s
        space = s.spaces[PacketLevel.ONE_RTT]
        if s.stage is not Progress.CONFIRMED or space.largest_acked < s.keys_acked_from:
            return False
        s.phases.update()
        s.keys_acked_from = space.next_number
        s.ping_wanted = True
        return True

    def close(self, code: int) -> None:
        """End the connection from above, with an error code of the application. The peer is told
        with the next datagram. Idempotent."""
        self._s.end(Closure(code, by_peer=False, by_application=True), tell=True)

    # --- what it knows ----------------------------------------------------------------------------

    @property
    def ended(self) -> Closure | None:
        """Why it is over; None: it is not."""
        return self._s.ended

    @property
    def fault(self) -> ProtocolError | None:
        """What ``judge`` said against the peer."""
        handshake = self._s.handshake
        return None if handshake is None else handshake.fault

    @property
    def has_begun(self) -> bool:
        """Whether the peer's first packet was genuine, or this side dialled."""
        return self._s.has_begun

    @property
    def heard_at(self) -> float:
        """When the last genuine packet came."""
        return self._s.heard_at

    @property
    def own_ids(self) -> list[bytes]:
        """The ids by which the peer knows this side."""
        return [own.id for own in self._s.ids.own]

    @property
    def peer_reset_token(self) -> bytes | None:
        """The peer's stateless reset token for the id that its packets carry now."""
        return self._peer_cid.stateless_reset_token

    @property
    def _peer_cid(self) -> PeerCid:
        return self._s.ids.peer

    @property
    def peer_address(self) -> Any:
        """Where datagrams go."""
        return self._s.paths.current.address

    @property
    def rtt_s(self) -> float | None:
        """The smoothed round trip, seconds; None before one was measured."""
        recovery = self._s.recovery
        return None if recovery.first_sample_at is None else recovery.smoothed_rtt

    # --- streams ----------------------------------------------------------------------------------

    def open_stream(self) -> int:
        """The id of a new stream of ours."""
        return self._s.flow.open().id

    @property
    def streams_allowed(self) -> int:
        """Own streams that the peer lets us open now."""
        return self._s.flow.streams_allowed

    @property
    def streams_kept(self) -> int:
        """Streams whose ends are not settled with the peer yet."""
        return len(self._s.flow.streams)

    def write(self, stream_id: int, data: bytes, *, fin: bool = False) -> None:
        """Send on a stream that takes data (``can_write``)."""
        self._s.flow.streams[stream_id].sender.write(data, fin=fin)

    def can_write(self, stream_id: int) -> bool:
        """Whether the stream takes data: neither finished nor reset, by us or by the peer."""
        stream = self._s.flow.streams.get(stream_id)
        return stream is not None and stream.sender.can_write

    def abort(self, stream_id: int) -> None:
        """End both directions of a stream, as far as they have not ended."""
        stream = self._s.flow.streams.get(stream_id)
        if stream is not None:
            stream.sender.reset(0)
            stream.receiver.stop(0)

    def stop(self, stream_id: int) -> None:
        """Ask the peer to send no more on a stream."""
        stream = self._s.flow.streams.get(stream_id)
        if stream is not None:
            stream.receiver.stop(0)

    def unsent(self, stream_id: int) -> int:
        """Bytes of a stream that have not left yet."""
        stream = self._s.flow.streams.get(stream_id)
        return 0 if stream is None else stream.sender.unsent

    def kept(self, stream_id: int) -> int:
        """Bytes of a stream that are kept until the peer has them."""
        stream = self._s.flow.streams.get(stream_id)
        return 0 if stream is None else stream.sender.kept

    @property
    def kept_bytes(self) -> int:
        """Bytes of all streams that are kept until the peer has them."""
        return self._s.flow.ledger.kept

    def received(self, stream_id: int) -> int:
        """Bytes of a stream that count against the connection's window so far."""
        stream = self._s.flow.streams.get(stream_id)
        return 0 if stream is None else stream.receiver.highest_offset

    @property
    def received_bytes(self) -> int:
        """Bytes of the connection's window in use."""
        return self._s.flow.received_bytes

    def grant(self, count: int) -> None:
        """The peer may send ``count`` more bytes on the connection."""
        self._s.flow.grant(count)

    def grant_stream(self, stream_id: int, count: int) -> None:
        """The peer may send ``count`` more bytes on a stream."""
        self._s.flow.grant_stream(stream_id, count)
