"""One QUIC v1 connection: libp2p's identities, and streams that run as they do over Yamux.

Decides when a QUIC connection is open and when it is over. No I/O: who owns the UDP socket does, in
the shape of :mod:`connection`::

    datagram -> receive(data, addr, now) -> events       (or feed for each, and digest for all)
             -> datagrams_to_send(now) -> sendto        (once for all datagrams of a turn)
             -> while work_left: let others run; work(now); datagrams_to_send(now)
    at next_timeout(): on_timeout(now) -> events, and send

States::

    HANDSHAKE --both certificates judged--> OPEN --> ENDED   (``ConnectionEnded``: the last event)
        +----------------------------------------------^

TLS is in QUIC, so there is nothing to negotiate before streams: a dialler's first streams leave
with the end of its handshake. A certificate is judged while the handshake waits, so a wrong
listener does not learn who dials.

Besides its events a connection has ``ids``, the connection ids by which its datagrams are found,
and ``reset_token``, by which the peer's stateless reset is found (``forgotten``). Ask for both
after every call. When much of what was sent waits for the peer, no request is answered until it has
taken half of that. ``receive`` never raises on a peer's bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from enum import Enum, auto
from typing import Any, Final

from codio_dht.core.clock import Monotonic, UnixTime
from codio_dht.core.peer import PeerId
from codio_dht.crypto.certificate import make_certificate, verify_certificate
from codio_dht.crypto.keys import PrivateKey, PublicKey
from codio_dht.errors import CapacityError, CodioError, DeadlineError, ProtocolError, StreamError
from codio_dht.net.quic.limits import (
    QUIC_ACK_DELAY_S,
    QUIC_HOLD_BYTES,
    QUIC_KEEP_ALIVE_INTERVAL_S,
    QUIC_STREAM_BYTES,
)
from codio_dht.net.quic.machine.errors import CRYPTO_ERRORS, Code
from codio_dht.net.quic.machine.handshake import check_tls
from codio_dht.net.quic.machine.machine import Machine
from codio_dht.net.quic.machine.state import (
    Closure,
    Event,
    HandshakeComplete,
    IdIssued,
    IdRetired,
    PeerReset,
    Setup,
    StreamData,
    StreamStopped,
)
from codio_dht.net.quic.streams import QuicStreams
from codio_dht.net.quic.tokens import ResetTokens
from codio_dht.net.stack.channel import ServedProtocols
from codio_dht.net.stack.connection import ConnectionEnded, ConnectionEvent, Established
from codio_dht.net.stack.limits import HANDSHAKE_STAGE_TIMEOUT_S, STREAM_SWEEP_INTERVAL_S
from codio_dht.net.stack.muxer import MuxerEvent
from codio_dht.net.stack.security import Authenticated
from codio_dht.net.stack.streams import Streams

QUIC_V1: Final = "/quic-v1"
"""What carries and secures the connection, for people and counters."""

Address = tuple[Any, ...]
"""Where a datagram came from or goes to. Addresses are compared, and else left to the socket's
owner."""

Datagram = tuple[bytes, Address]

_LAYER: Final = "quic"
_CLOSED: Final = frozenset({Code.NO_ERROR, Code.APPLICATION_ERROR})
"""No fault of ours; the second stands for a reason that cannot be told in the handshake."""


_NO_ERROR: Final = 0
_RESOURCE_LIMIT: Final = 0x1001
_PROTOCOL_VIOLATION: Final = 0x1003
"""Codes by which libp2p says why it closes a QUIC connection (GO)."""


class QuicState(Enum):
    """The state of a QUIC connection: handshake, open or ended."""

    HANDSHAKE = auto()
    OPEN = auto()
    ENDED = auto()


class QuicIdentity:
    """What this node proves to every peer; made once, shared by all of its connections."""

    __slots__ = ("setup", "unix_now")

    def __init__(self, identity: PrivateKey, unix_now: Callable[[], UnixTime]) -> None:
        """A new certificate for ``identity``; ``unix_now`` tells whether others' are valid.

        Raises:
            TlsMismatchError: QUIC cannot be spoken with the aioquic that is installed.
        """
        check_tls()
        self.setup = Setup(make_certificate(identity), ResetTokens(identity))
        self.unix_now = unix_now

    def at(self, own: Address) -> QuicIdentity:
        """The same at the socket that is bound to ``own``, whose reset tokens are its own."""
        there = copy(self)
        there.setup = Setup(self.setup.own, self.setup.resets.at(own))
        return there


class Quic:
    """One side of one connection. ``streams`` may be used from ``Established`` on."""

    __slots__ = (
        "_admit",
        "_deadline",
        "_engine",
        "_events",
        "_expected",
        "_held",
        "_ids",
        "_key",
        "_mux",
        "_next_sweep",
        "_pinged",
        "_served",
        "_silent",
        "_streams",
        "_unix_now",
        "_wake",
        "authenticated",
        "state",
    )

    def __init__(
        self,
        identity: QuicIdentity,
        *,
        initiator: bool,
        served: ServedProtocols,
        now: Monotonic,
        expected: PeerId | None = None,
        wake: Callable[[], None] = lambda: None,
        admit: Callable[[Authenticated], bool] = lambda _: True,
        original_id: bytes | None = None,
        retry_id: bytes | None = None,
    ) -> None:
        """A connection; ``dial`` begins one of ours.

        Args:
            identity: own identity.
            initiator: this side dialled.
            served: what streams of the peer may speak.
            now: the time.
            expected: the only peer accepted, if any.
            wake: see :class:`~codio_dht.net.stack.connection.Connection`.
            admit: likewise.
            original_id: as a listener, the connection id of the dialler's first packet.
            retry_id: the one that a Retry gave it, if one did.
        """
        self._served = served
        self._expected = expected
        self._wake = wake
        self._admit = admit
        self._unix_now = identity.unix_now
        self._engine = Machine(
            identity.setup,
            self._judge,
            dialled=initiator,
            original_id=original_id or b"",
            retry_id=retry_id,
        )
        self._mux = QuicStreams(self._engine)
        self._streams: Streams | None = None
        self._key: PublicKey | None = None
        self._events: list[ConnectionEvent] = []
        self._ids = set(self._engine.own_ids)
        if original_id is not None and retry_id is None:
            self._ids.add(original_id)
        if retry_id is not None:
            self._ids.add(retry_id)
        self._held = False
        self._pinged = False
        self._silent = False
        self._deadline = Monotonic(now + HANDSHAKE_STAGE_TIMEOUT_S)
        self._next_sweep = self._deadline
        self.authenticated: Authenticated | None = None
        self.state = QuicState.HANDSHAKE

    # --- the socket's side ------------------------------------------------------------------------

    def dial(self, addr: Address, now: Monotonic) -> None:
        """Begin a connection to ``addr``; the first datagram waits to be sent."""
        self._engine.dial(addr, now)

    def receive(self, data: bytes, addr: Address, now: Monotonic) -> list[ConnectionEvent]:
        """Take a datagram; what it meant. Never raises; silent once the connection is over."""
        self.feed(data, addr, now)
        return self.digest(now)

    def feed(self, data: bytes, addr: Address, now: Monotonic) -> None:
        """Take a datagram; ``digest`` must follow when a turn's are all taken."""
        if self.state is QuicState.ENDED:
            return
        heard_at = self._engine.heard_at
        try:
            self._engine.receive(data, addr, now)
        except Exception as error:  # noqa: BLE001 - a fault of ours must end this connection only
            self._fail(ProtocolError(_LAYER, "malformed packet"), error)
        if self._engine.heard_at != heard_at:
            self._pinged = False
        if self.state is QuicState.HANDSHAKE and not self._engine.has_begun:
            self._end(ProtocolError(_LAYER, "no first packet"))

    def digest(self, now: Monotonic) -> list[ConnectionEvent]:
        """What the datagrams taken meant; requests in them are answered."""
        if self.state is not QuicState.ENDED:
            self._take_engine_events(now)
        return self.take_events()

    def work(self, now: Monotonic) -> list[ConnectionEvent]:
        """Do a turn of the work that was left over."""
        if self._streams is not None and self.state is QuicState.OPEN:
            self._streams.work(now)
        return self.take_events()

    @property
    def work_left(self) -> bool:
        """Requests are waiting that were not answered, so as to let others run first."""
        return self._streams is not None and self._streams.work_left

    def datagrams_to_send(self, now: Monotonic) -> list[Datagram]:
        """Everything to send now. Afterwards ``next_timeout`` may have changed, and parked work may
        have become ready (``wake``)."""
        if self._silent or (self.state is not QuicState.OPEN and not self._engine.has_begun):
            return []
        try:
            datagrams = self._engine.datagrams_to_send(now)
        except Exception as error:  # noqa: BLE001 - as in receive
            self._fail(ProtocolError(_LAYER, "broken state"), error)
            return []
        if self.state is QuicState.OPEN:
            self._settle(now)
        return datagrams

    def next_timeout(self) -> Monotonic | None:
        """When ``on_timeout`` wants to be called; None when over."""
        if self.state is QuicState.ENDED:
            return None
        due = self._deadline if self.state is QuicState.HANDSHAKE else self._next_sweep
        due = min(due, self._next_ping())
        timer = self._engine.next_timeout()
        return due if timer is None else Monotonic(min(due, timer))

    def may_wait(self, due: float, now: Monotonic) -> bool:
        """Whether a look at ``due`` is soon enough, without asking for ``next_timeout``. Most turns
        change no timer that would be due before the next acknowledgement."""
        return (
            self.state is QuicState.OPEN
            and due <= now + QUIC_ACK_DELAY_S
            and not self._engine.is_urgent
        )

    def on_timeout(self, now: Monotonic) -> list[ConnectionEvent]:
        """Loss, keep-alive, deadlines, idle streams. Harmless when early."""
        if self.state is QuicState.ENDED:
            return []
        timer = self._engine.next_timeout()
        if timer is not None and now >= timer:
            try:
                self._engine.on_timeout(now)
            except Exception as error:  # noqa: BLE001 - as in receive
                self._fail(ProtocolError(_LAYER, "broken state"), error)
            self._take_engine_events(now)
        if self.state is QuicState.HANDSHAKE and now >= self._deadline:
            self._end(DeadlineError("the handshake took too long"))
        elif self.state is QuicState.OPEN:
            self._look_after_streams(now)
        return self.take_events()

    def forgotten(self) -> list[ConnectionEvent]:
        """Note the peer's stateless reset: it knows nothing of this connection. It is over, and
        nothing more is sent (RFC 9000, section 10.3.1)."""
        self._silent = True
        self._end(StreamError("the peer forgot the connection"))
        return self.take_events()

    def close(self) -> list[ConnectionEvent]:
        """End the connection from this side."""
        self._end(None)
        return self.take_events()

    def take_events(self) -> list[ConnectionEvent]:
        """What sending brought about; the other methods return their events."""
        if self._streams is not None:
            self._events.extend(self._streams.take_events())
        events, self._events = self._events, []
        return events

    @property
    def ids(self) -> set[bytes]:
        """Connection ids that are this connection's; empty when over."""
        return self._ids

    @property
    def reset_token(self) -> bytes | None:
        """What the peer would end a stateless reset with; None if it promised none."""
        return self._engine.peer_reset_token

    # --- the node's side --------------------------------------------------------------------------

    @property
    def streams(self) -> Streams:
        """The connection's streams.

        Raises:
            StreamError: not yet established, or over.
        """
        if self._streams is None or self.state is not QuicState.OPEN:
            raise StreamError("the connection is not open")
        return self._streams

    @property
    def peer_address(self) -> Address | None:
        """Where datagrams go; a peer may move."""
        address: Address | None = self._engine.peer_address
        return address

    @property
    def rtt(self) -> float | None:
        """The smoothed round trip, seconds."""
        return self._engine.rtt_s

    @property
    def congested(self) -> bool:
        """Whether much of what was sent waits for the peer."""
        return self._held

    @property
    def held_bytes(self) -> int:
        """Bytes of all streams that wait for their protocols, for what was lost before them, or for
        the peer; and what streams take that only the machine knows: the peer wrote nothing on them,
        or does not finish them."""
        engine = self._engine
        unknown = max(0, engine.streams_kept - self._mux.stream_count)
        return engine.received_bytes + engine.kept_bytes + QUIC_STREAM_BYTES * unknown

    @property
    def stream_count(self) -> int:
        """Streams that are not over."""
        return self._mux.stream_count

    # --- the handshake ----------------------------------------------------------------------------

    def _judge(self, certificates: Sequence[bytes]) -> None:
        if len(certificates) != 1:
            raise ProtocolError(_LAYER, "not exactly one certificate")
        key = verify_certificate(certificates[0], self._unix_now())
        if self._expected is not None and key.peer_id() != self._expected:
            raise ProtocolError(_LAYER, "another peer than expected")
        self._key = key

    def _on_handshake(self, now: Monotonic) -> None:
        if self._key is None:
            self._end(ProtocolError(_LAYER, "no certificate"))
            return
        authenticated = Authenticated(self._key.peer_id(), self._key, QUIC_V1)
        if not self._admit(authenticated):
            self._end(CapacityError("the peer was not admitted"))
            return
        self.authenticated = authenticated
        self.state = QuicState.OPEN
        self._next_sweep = Monotonic(now + STREAM_SWEEP_INTERVAL_S)
        self._streams = Streams(
            self._mux, peer_id=authenticated.peer_id, served=self._served, wake=self._wake
        )
        self._events.append(Established(authenticated.peer_id, authenticated.public_key, QUIC_V1))

    # --- open -------------------------------------------------------------------------------------

    def _take_engine_events(self, now: Monotonic) -> None:
        told: list[MuxerEvent] = []
        engine = self._engine
        while self.state is not QuicState.ENDED and (event := engine.next_event()) is not None:
            self._on_engine_event(event, told, now)
        if self._streams is not None and self.state is QuicState.OPEN:
            if self._held:
                self._adjust_hold()
            if told or self._streams.work_left:
                self._streams.handle(told, now)
        ended = engine.ended
        if ended is not None:  # nothing more will come
            self._end(self._why(ended))

    def _on_engine_event(self, event: Event, told: list[MuxerEvent], now: Monotonic) -> None:
        match event:
            case StreamData():
                self._mux.on_data(event, told)
            case PeerReset():
                self._mux.on_reset(event, told)
            case StreamStopped():
                self._mux.on_stop(event)
            case HandshakeComplete():
                self._on_handshake(now)
            case IdIssued(connection_id):
                self._ids.add(connection_id)
            case IdRetired(connection_id):
                self._ids.discard(connection_id)

    def _settle(self, now: Monotonic) -> None:
        """Learn what left with the datagrams just built, and what they tell the peer."""
        assert self._streams is not None
        told: list[MuxerEvent] = []
        self._mux.on_sent(told)
        if self._mux.kept_bytes > QUIC_HOLD_BYTES:
            self._adjust_hold()
        if told:
            self._streams.handle(told, now)
        if self._streams.work_left:
            self._wake()

    def _adjust_hold(self) -> None:
        assert self._streams is not None
        kept = self._mux.kept_bytes
        if not self._held and kept > QUIC_HOLD_BYTES:
            self._held = True
            self._streams.hold()
        elif self._held and 2 * kept <= QUIC_HOLD_BYTES:
            self._held = False
            self._streams.release()

    def _look_after_streams(self, now: Monotonic) -> None:
        assert self._streams is not None
        if now >= self._next_sweep:
            self._next_sweep = Monotonic(now + STREAM_SWEEP_INTERVAL_S)
            self._streams.sweep(now)
        if now >= self._next_ping():
            self._pinged = True
            self._engine.ping()

    def _next_ping(self) -> Monotonic:
        """A quiet connection is pinged once; its own loss recovery sees to an answer."""
        if self._pinged or self.state is not QuicState.OPEN:
            return Monotonic(float("inf"))
        interval = min(QUIC_KEEP_ALIVE_INTERVAL_S, self._engine.idle_timeout_s / 2)
        return Monotonic(self._engine.heard_at + interval)

    # --- ends -------------------------------------------------------------------------------------

    def _why(self, ended: Closure) -> CodioError:
        """What ended it below; only codes are looked at, of what a peer may have written."""
        if self._engine.fault is not None:
            return self._engine.fault
        if ended.is_silence:
            return DeadlineError("the peer is silent")
        if ended.by_application or ended.code in _CLOSED:
            return StreamError("the peer closed the connection")
        if ended.code == Code.CONNECTION_REFUSED:
            return StreamError("the peer takes no more connections")
        if ended.code in CRYPTO_ERRORS:
            return ProtocolError(_LAYER, "handshake failed")
        return ProtocolError(_LAYER, "connection error")

    def _fail(self, error: ProtocolError, cause: Exception) -> None:
        error.__cause__ = cause
        self._end(error)

    def _end(self, error: CodioError | None) -> None:
        """The last event; ``datagrams_to_send`` then tells the peer, once."""
        if self.state is QuicState.ENDED:
            return
        self.state = QuicState.ENDED
        self._ids = set()
        if self._streams is not None:
            self._streams.end("the connection ended")
            self._events.extend(self._streams.take_events())
        self._engine.close(_close_code(error))
        self._events.append(ConnectionEnded(error))


def _close_code(error: CodioError | None) -> int:
    match error:
        case None:
            return _NO_ERROR
        case CapacityError():
            return _RESOURCE_LIMIT
        case _:
            return _PROTOCOL_VIOLATION
