"""What the halves of a QUIC connection share. Decides nothing; :mod:`receiving`, :mod:`building`
and :mod:`machine` write it.

The states of a connection (RFC 9000, section 10; RFC 9001, section 4.1)::

    HANDSHAKE --TLS is complete--> COMPLETE --the peer knows it--> CONFIRMED
        +-------------------+-----------------------+--closed by either side, or idle--> ENDED

A listener goes from HANDSHAKE to CONFIRMED at once: its dialler's last message says it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

from codio_dht.crypto.certificate import OwnCertificate
from codio_dht.net.quic.limits import QUIC_DATAGRAM_BYTES
from codio_dht.net.quic.machine.buffers import Ledger, ReceiveBuffer, SendBuffer
from codio_dht.net.quic.machine.flow import Windows
from codio_dht.net.quic.machine.frames import PacketLevel
from codio_dht.net.quic.machine.handshake import Judge, LateMessages, TlsHandshake
from codio_dht.net.quic.machine.ids import Ids
from codio_dht.net.quic.machine.key_phases import KeyPhases
from codio_dht.net.quic.machine.parameters import Parameters
from codio_dht.net.quic.machine.paths import Paths
from codio_dht.net.quic.machine.recovery import Recovery
from codio_dht.net.quic.machine.spaces import Space
from codio_dht.net.quic.protection import Keys
from codio_dht.net.quic.tokens import ResetTokens


class Progress(IntEnum):
    """How far a connection is."""

    HANDSHAKE = 0
    COMPLETE = 1
    CONFIRMED = 2
    ENDED = 3


class StreamData(NamedTuple):
    """Bytes of a stream, its end, or both."""

    stream_id: int
    data: bytes
    fin: bool


class PeerReset(NamedTuple):
    """The peer gave up what it sends on a stream."""

    stream_id: int
    code: int


class StreamStopped(NamedTuple):
    """The peer wants no more of a stream of ours, which is reset."""

    stream_id: int


class HandshakeComplete(NamedTuple):
    """Streams may be used."""


class IdIssued(NamedTuple):
    """The connection is found under one more id."""

    id: bytes


class IdRetired(NamedTuple):
    """It is no longer found under this id."""

    id: bytes


Event = StreamData | PeerReset | StreamStopped | HandshakeComplete | IdIssued | IdRetired


@dataclass(frozen=True, slots=True)
class Closure:
    """Why a connection is over."""

    code: int
    by_peer: bool
    by_application: bool = False
    """It was closed from above QUIC, on either side."""
    is_silence: bool = False
    """The peer was silent for too long."""
    frame_type: int = 0


@dataclass(frozen=True, slots=True)
class Setup:
    """What all connections of a node share."""

    own: OwnCertificate
    resets: ResetTokens


class State:
    """Everything that a connection knows."""

    __slots__ = (
        "close_untold",
        "crypto_in",
        "crypto_out",
        "datagram_bytes",
        "dialled",
        "ended",
        "events",
        "first_id",
        "flow",
        "handshake",
        "handshake_done_untold",
        "has_begun",
        "has_begun_reading",
        "heard_at",
        "idle_since",
        "ids",
        "keys_acked_from",
        "late",
        "pacing_at",
        "paths",
        "peer",
        "phases",
        "ping_wanted",
        "receive_keys",
        "recovery",
        "retry_id",
        "send_keys",
        "sent_since_heard",
        "spaces",
        "stage",
        "token",
    )

    def __init__(
        self, setup: Setup, judge: Judge, *, dialled: bool, parameters: Parameters
    ) -> None:
        """A connection that nothing was sent on yet. ``parameters`` are what this side allows,
        without the ids of this connection."""
        self.dialled = dialled
        self.stage = Progress.HANDSHAKE
        self.ids = Ids(setup.resets)
        self.spaces = [Space(level) for level in PacketLevel]
        self.recovery = Recovery(self.spaces, dialled=dialled, size=QUIC_DATAGRAM_BYTES)
        self.flow = Windows(dialled=dialled)
        self.phases = KeyPhases()
        self.send_keys: list[Keys | None] = [None, None]
        """Of Initial and Handshake packets."""
        self.receive_keys: list[Keys | None] = [None, None]
        ledger = Ledger()
        self.crypto_out = [SendBuffer(level, ledger) for level in PacketLevel]
        self.crypto_in = [ReceiveBuffer(level, ledger) for level in PacketLevel]
        parameters.initial_id = self.ids.own[0].id
        if not dialled:
            parameters.reset_token = self.ids.reset_token(self.ids.own[0])
        self.handshake: TlsHandshake | None = TlsHandshake(
            setup.own, judge, dialled=dialled, parameters=parameters.encode()
        )
        """Dropped when it is over."""
        self.late: LateMessages | None = None
        self.datagram_bytes = QUIC_DATAGRAM_BYTES
        """The longest datagram that is sent."""
        self.paths = Paths(None, is_proven=dialled)
        self.peer: Parameters | None = None
        """What the peer allows, once it said so."""
        self.first_id = self.token = b""
        """The id that the dialler's first packet was for."""
        self.retry_id: bytes | None = None
        """The id that a Retry gave, if one did."""
        self.events: deque[Event] = deque()
        self.ended: Closure | None = None
        self.close_untold = False
        self.has_begun = dialled
        """The peer's first packet was genuine, or this side dialled."""
        self.has_begun_reading = False
        """A packet of the peer was genuine."""
        self.heard_at = 0.0
        """When the last genuine packet came. What anybody may write is no sign of the peer."""
        self.idle_since = 0.0
        self.sent_since_heard = False
        self.pacing_at: float | None = None
        self.ping_wanted = False
        self.handshake_done_untold = False
        self.keys_acked_from = 0
        """The first packet that was sealed with the present keys."""

    def end(self, ended: Closure, *, tell: bool) -> None:
        """The connection is over; ``tell`` the peer, once."""
        if self.ended is None:
            self.ended = ended
            self.stage = Progress.ENDED
            self.close_untold = tell

    def has_keys_to_send(self, level: PacketLevel) -> bool:
        """Whether packets of this level can be sent."""
        if level is PacketLevel.ONE_RTT:
            return self.phases.send is not None
        return self.send_keys[level] is not None

    def discard(self, level: PacketLevel) -> None:
        """Give up the keys of a level, and what was sent with them (RFC 9001, section 4.9)."""
        if self.send_keys[level] is not None or self.receive_keys[level] is not None:
            self.send_keys[level] = self.receive_keys[level] = None
            self.recovery.discard(self.spaces[level])

    def confirm(self) -> None:
        """The handshake is confirmed (RFC 9001, section 4.1.2)."""
        self.stage = Progress.CONFIRMED
        self.recovery.handshake_confirmed = True
        self.recovery.peer_is_validated = True
        self.discard(PacketLevel.INITIAL)
        self.discard(PacketLevel.HANDSHAKE)

    def address(self) -> Any:
        """Where datagrams go."""
        return self.paths.current.address
