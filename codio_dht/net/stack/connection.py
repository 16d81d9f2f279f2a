"""One connection: multistream, a security layer, Yamux and the streams on it, stacked.

Decides the order of a connection's upgrade and when it is over; each layer decides the rest. No
I/O: the pump that owns the socket does, in one task::

    recv -> receive(data, now) -> events
         -> data_to_send() -> send        (everything of one turn, sealed together)
         -> while work_left: let others run; work(now); data_to_send() -> send

Stages, each with a deadline::

    SECURITY -> HANDSHAKE -> MUXER -> OPEN
        |           |          |        |
        +-----------+----------+--------+--> ENDED   (``ConnectionEnded`` is the last event)

A dialler that pipelines sends two flights: the proposal with the handshake's first message; then
the handshake's last, the muxer's proposal (left out when the handshake settled it), and whatever
streams are opened on ``Established``. ``Established`` then comes as soon as the peer is
authenticated. A listener that refuses a layer behind which something was pipelined has lost that
data: the connection ends with ``pipelining_refused``, and the caller dials again without it.

The pump's duties: it keeps what the socket did not take, calls ``hold`` when that is much and
``release`` when it is gone, and ends the connection when it is too much or too old. ``receive``
never raises on a peer's bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.crypto.keys import PublicKey
from codio_dht.errors import CapacityError, CodioError, DeadlineError, ProtocolError, StreamError
from codio_dht.net.stack.channel import ServedProtocols, StreamsEvent
from codio_dht.net.stack.limits import (
    HANDSHAKE_STAGE_TIMEOUT_S,
    MAX_UNAUTHENTICATED_NEGOTIATION_MESSAGE_BYTES,
    STREAM_SWEEP_INTERVAL_S,
)
from codio_dht.net.stack.multistream import Listener, Proposer, ProtocolTable, Refused
from codio_dht.net.stack.muxer import GoAway, Violation
from codio_dht.net.stack.security import Authenticated, Security, SecurityLayer
from codio_dht.net.stack.streams import Streams
from codio_dht.net.stack.yamux import YAMUX, Yamux
from codio_dht.net.stack.yamux_stream import YamuxLimits

_MUXERS: Final = (YAMUX,)
_MUXER_TABLE: Final = ProtocolTable(_MUXERS)
_NORMAL_END: Final = 0
_DEFAULT_LIMITS: Final = YamuxLimits()


class Stage(Enum):
    """How far the connection's upgrade has come."""

    SECURITY = auto()
    HANDSHAKE = auto()
    MUXER = auto()
    OPEN = auto()
    ENDED = auto()


@dataclass(frozen=True, slots=True)
class Established:
    """The peer is authenticated and streams may be opened."""

    peer_id: PeerId
    public_key: PublicKey
    security: str


@dataclass(frozen=True, slots=True)
class ConnectionEnded:
    """The connection is over: send what ``data_to_send`` still has, and close the socket.

    ``error`` is None after ``close``. ``pipelining_refused`` asks for another dial without
    pipelining.
    """

    error: CodioError | None
    pipelining_refused: bool = False


ConnectionEvent = Established | ConnectionEnded | StreamsEvent


class Connection:
    """One side of one connection. ``streams`` may be used from ``Established`` on."""

    __slots__ = (
        "_admit",
        "_deadline",
        "_events",
        "_expected",
        "_initiator",
        "_layer",
        "_limits",
        "_negotiation",
        "_next_sweep",
        "_out",
        "_pipeline",
        "_plain",
        "_securities",
        "_security",
        "_served",
        "_streams",
        "_wake",
        "_yamux",
        "stage",
    )

    def __init__(
        self,
        *,
        initiator: bool,
        securities: Sequence[Security],
        served: ServedProtocols,
        now: Monotonic,
        expected: PeerId | None = None,
        pipeline: bool = True,
        wake: Callable[[], None] = lambda: None,
        admit: Callable[[Authenticated], bool] = lambda _: True,
        limits: YamuxLimits = _DEFAULT_LIMITS,
    ) -> None:
        """A connection over a fresh socket.

        Args:
            initiator: this side dialled.
            securities: the security protocols offered, in order of preference.
            served: what streams of the peer may speak.
            now: the time.
            expected: the only peer accepted, if any.
            pipeline: as a dialler, send ahead of the listener's answers.
            wake: called when parked work became ready and ``work_left`` true, possibly from inside
                a method of this object.
            admit: asked once, when the peer has proved who it is and before anything else of it
                is looked at; False ends the connection.
            limits: of the muxer.
        """
        self.stage = Stage.SECURITY
        self._initiator = initiator
        self._securities = {security.protocol: security for security in securities}
        self._served = served
        self._expected = expected
        self._pipeline = pipeline and initiator
        self._wake = wake
        self._admit = admit
        self._limits = limits
        self._events: list[ConnectionEvent] = []
        self._out: list[bytes] = []  # as it goes to the socket
        self._plain: list[bytes] = []  # to be sealed; goes before what Yamux has
        self._layer: SecurityLayer | None = None
        self._security = ""
        self._yamux: Yamux | None = None
        self._streams: Streams | None = None
        self._negotiation: Proposer | Listener | None = None
        self._deadline = Monotonic(now + HANDSHAKE_STAGE_TIMEOUT_S)
        self._next_sweep = self._deadline
        self._start()

    def _start(self) -> None:
        limit = MAX_UNAUTHENTICATED_NEGOTIATION_MESSAGE_BYTES
        if not self._initiator:
            self._negotiation = Listener(ProtocolTable(self._securities), max_message_bytes=limit)
            return
        first = next(iter(self._securities.values()))
        pipelined = self._pipeline and first.opens_with_message
        proposals = (first.protocol,) if pipelined else tuple(self._securities)
        self._negotiation = Proposer(proposals, max_message_bytes=limit)
        self._out.append(self._negotiation.data_to_send())
        if pipelined:
            self._layer = first.factory(True, self._expected, _MUXERS)
            self._out.append(self._layer.data_to_send())

    # --- the pump's side --------------------------------------------------------------------------

    def receive(self, data: bytes, now: Monotonic) -> list[ConnectionEvent]:
        """Take what arrived; what it meant. Never raises; silent once the connection is over."""
        try:
            if self.stage is Stage.OPEN:
                layer, yamux, streams = self._layer, self._yamux, self._streams
                assert layer is not None
                assert yamux is not None
                assert streams is not None
                streams.handle(yamux.receive(layer.receive(data), now), now)
            elif self.stage is not Stage.ENDED:
                self._upgrade(data, now)
        except (ProtocolError, CapacityError) as error:
            self._end(error)
        return self._take_events()

    def work(self, now: Monotonic) -> list[ConnectionEvent]:
        """Do a turn of the work that was left over."""
        if self._streams is not None and self.stage is not Stage.ENDED:
            self._streams.work(now)
        return self._take_events()

    @property
    def work_left(self) -> bool:
        """Requests are waiting that were not answered, so as to let others run first."""
        return self._streams is not None and self._streams.work_left

    def data_to_send(self) -> bytes:
        """Everything to send since the last call, sealed together."""
        out = self._out
        layer = self._layer
        if layer is not None:
            own = layer.data_to_send()
            if own:
                out.append(own)
            if layer.authenticated is not None:
                plain = self._yamux.data_to_send() if self._yamux is not None else b""
                if self._plain:
                    plain = b"".join(self._plain) + plain
                    self._plain.clear()
                if plain:
                    try:
                        out.append(layer.seal(plain))
                    except CapacityError as error:  # nonces are used up: nothing more can be sent
                        self._end(error)
        if len(out) == 1:
            return out.pop()
        joined = b"".join(out)
        out.clear()
        return joined

    def hold(self) -> None:
        """The peer does not read what is sent: answer nothing more until ``release``."""
        if self._streams is not None:
            self._streams.hold()

    def release(self) -> None:
        """The peer reads again; see ``work_left``."""
        if self._streams is not None:
            self._streams.release()

    def next_timeout(self) -> Monotonic | None:
        """When ``on_timeout`` wants to be called; None when over."""
        match self.stage:
            case Stage.ENDED:
                return None
            case Stage.OPEN:
                assert self._yamux is not None
                return min(self._yamux.next_timeout(), self._next_sweep)
            case Stage.SECURITY | Stage.HANDSHAKE | Stage.MUXER:
                return self._deadline

    def on_timeout(self, now: Monotonic) -> list[ConnectionEvent]:
        """Deadlines of the upgrade, keep-alive, idle streams. Harmless when early."""
        if self.stage is Stage.OPEN:
            assert self._yamux is not None
            assert self._streams is not None
            if now >= self._next_sweep:
                self._next_sweep = Monotonic(now + STREAM_SWEEP_INTERVAL_S)
                self._streams.sweep(now)
            try:
                self._yamux.on_timeout(now)
            except DeadlineError as error:
                self._end(error)
        elif self.stage is not Stage.ENDED and now >= self._deadline:
            self._end(DeadlineError(f"upgrade stopped at stage {self.stage.name.lower()}"))
        return self._take_events()

    def peer_closed(self) -> list[ConnectionEvent]:
        """The socket reported the end of the peer's data, or failed."""
        self._end(StreamError("the peer closed the connection"))
        return self._take_events()

    def close(self) -> list[ConnectionEvent]:
        """End the connection from this side."""
        if self._yamux is not None and self.stage is not Stage.ENDED:
            self._yamux.go_away(_NORMAL_END)
        self._end(None)
        return self._take_events()

    # --- the node's side --------------------------------------------------------------------------

    @property
    def streams(self) -> Streams:
        """The connection's streams.

        Raises:
            StreamError: not yet established, or over.
        """
        if self._streams is None or self.stage is Stage.ENDED:
            raise StreamError("the connection is not open")
        return self._streams

    @property
    def authenticated(self) -> Authenticated | None:
        """Who the peer proved to be."""
        return None if self._layer is None else self._layer.authenticated

    @property
    def rtt(self) -> float | None:
        """The last keep-alive's round trip, seconds."""
        return None if self._yamux is None else self._yamux.rtt

    @property
    def held_bytes(self) -> int:
        """Bytes of all streams that wait for their protocols or for the peer's windows."""
        yamux = self._yamux
        return 0 if yamux is None else yamux.unread_bytes + yamux.unsent_bytes

    @property
    def stream_count(self) -> int:
        """Streams that are not over."""
        return 0 if self._yamux is None else self._yamux.stream_count

    # --- upgrade ----------------------------------------------------------------------------------

    def _upgrade(self, data: bytes, now: Monotonic) -> None:
        """Take ``data`` through as many stages as it reaches."""
        rest: bytes | None = data
        if self.stage is Stage.SECURITY:
            rest = self._agree_on_security(data, now)
        if rest is not None and self.stage is Stage.HANDSHAKE:
            layer = self._layer
            assert layer is not None
            rest = layer.receive(rest)
            if layer.authenticated is not None:
                self._on_authenticated(layer.authenticated, now)
        elif rest is not None and self.stage is Stage.MUXER:
            assert self._layer is not None
            rest = self._layer.receive(rest)
        if rest and self.stage is Stage.MUXER:
            rest = self._agree_on_muxer(rest, now)
        if rest and self.stage is Stage.OPEN:
            self._on_frames(rest, now)

    def _agree_on_security(self, data: bytes, now: Monotonic) -> bytes | None:
        negotiation = self._negotiation
        assert negotiation is not None
        try:
            outcome = negotiation.receive(data)
        finally:  # what was answered before a fault is still said
            self._out.append(negotiation.data_to_send())
        if outcome is None:
            return None
        if isinstance(outcome, Refused):
            self._end(
                ProtocolError("connection", "no security protocol in common"),
                pipelining_refused=self._layer is not None,
            )
            return None
        self._security = outcome.protocol
        if self._layer is None:
            factory = self._securities[outcome.protocol].factory
            self._layer = factory(self._initiator, self._expected, _MUXERS)
        self._enter(Stage.HANDSHAKE, now)
        return outcome.rest

    def _on_authenticated(self, authenticated: Authenticated, now: Monotonic) -> None:
        if not self._admit(authenticated):
            self._end(CapacityError("the peer was not admitted"))
            return
        if authenticated.muxer is not None:
            self._open_muxer(now)
            self._enter(Stage.OPEN, now)
            self._report_established(authenticated)
            return
        self._enter(Stage.MUXER, now)
        if not self._initiator:
            self._negotiation = Listener(_MUXER_TABLE)
            return
        self._negotiation = Proposer(_MUXERS)
        self._plain.append(self._negotiation.data_to_send())
        if self._pipeline:
            self._open_muxer(now)
            self._report_established(authenticated)

    def _agree_on_muxer(self, plain: bytes, now: Monotonic) -> bytes | None:
        negotiation = self._negotiation
        assert negotiation is not None
        try:
            outcome = negotiation.receive(plain)
        finally:  # as above
            self._plain.append(negotiation.data_to_send())
        if outcome is None:
            return None
        if isinstance(outcome, Refused):
            self._end(
                ProtocolError("connection", "no muxer in common"),
                pipelining_refused=self._pipeline,
            )
            return None
        self._enter(Stage.OPEN, now)
        if self._yamux is None:
            self._open_muxer(now)
            assert self.authenticated is not None
            self._report_established(self.authenticated)
        return outcome.rest

    def _open_muxer(self, now: Monotonic) -> None:
        assert self.authenticated is not None
        self._yamux = Yamux(client=self._initiator, now=now, limits=self._limits)
        self._streams = Streams(
            self._yamux,
            peer_id=self.authenticated.peer_id,
            served=self._served,
            wake=self._wake,
        )

    def _report_established(self, authenticated: Authenticated) -> None:
        self._events.append(
            Established(authenticated.peer_id, authenticated.public_key, self._security)
        )

    def _enter(self, stage: Stage, now: Monotonic) -> None:
        self.stage = stage
        self._deadline = Monotonic(now + HANDSHAKE_STAGE_TIMEOUT_S)
        self._next_sweep = Monotonic(now + STREAM_SWEEP_INTERVAL_S)
        if stage is Stage.OPEN:
            self._negotiation = None

    # --- open -------------------------------------------------------------------------------------

    def _on_frames(self, plain: bytes, now: Monotonic) -> None:
        yamux, streams = self._yamux, self._streams
        assert yamux is not None
        assert streams is not None
        streams.handle(yamux.receive(plain, now), now)

    def _take_events(self) -> list[ConnectionEvent]:
        if self._streams is not None and (told := self._streams.take_events()):
            self._collect(told)
        events, self._events = self._events, []
        return events

    def _collect(self, told: Sequence[StreamsEvent]) -> None:
        violation: ProtocolError | None = None
        for event in told:
            match event:
                case Violation(error):
                    violation = error
                case GoAway() | _:
                    self._events.append(event)
        if violation is not None:
            self._end(violation)

    def _end(self, error: CodioError | None, *, pipelining_refused: bool = False) -> None:
        """Close every layer; the last event."""
        if self.stage is Stage.ENDED:
            return
        self.stage = Stage.ENDED
        if self._streams is not None:
            self._streams.end("the connection ended")
            self._events.extend(
                event for event in self._streams.take_events() if not isinstance(event, Violation)
            )
        self._events.append(ConnectionEnded(error, pipelining_refused))
