"""The DHT's messages as values: six requests, one reply, and why a reply may be missing.

The unions are closed and consumed with ``match``.

Addresses are binary multiaddrs (``bytes``): the hot path neither parses nor prints them. A trailing
``/p2p/<own id>`` is already stripped by the codec. What a message means is decided in
:mod:`codio_dht.core.responder` and :mod:`codio_dht.core.lookup`; how it looks on the wire only
:mod:`codio_dht.wire.codec` knows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum

from codio_dht.core.peer import PeerId


class MessageType(IntEnum):
    """``Message.MessageType`` (SPEC)."""

    PUT_VALUE = 0
    GET_VALUE = 1
    ADD_PROVIDER = 2
    GET_PROVIDERS = 3
    FIND_NODE = 4
    PING = 5


class ConnectionType(IntEnum):
    """``Message.ConnectionType``: what the sender says of its connection to the peer."""

    NOT_CONNECTED = 0
    CONNECTED = 1
    CAN_CONNECT = 2
    CANNOT_CONNECT = 3


@dataclass(frozen=True, slots=True)
class PeerEntry:
    """A peer as it stands in a message: id, binary multiaddrs, the sender's connection to it."""

    peer_id: PeerId
    addrs: tuple[bytes, ...] = ()
    connection: ConnectionType = ConnectionType.NOT_CONNECTED
    encoded: bytes | None = field(default=None, init=False, compare=False, repr=False)
    """The codec's cache of this entry's bytes; nobody else reads or writes it."""
    shortest: tuple[bytes, int] | None = field(default=None, init=False, compare=False, repr=False)
    """The same with the shortest address only, for replies that are full, and its place."""


@dataclass(frozen=True, slots=True)
class Record:
    """A value record. ``time_received`` is the RFC 3339 text of the wire, never trusted."""

    key: bytes
    value: bytes
    time_received: str = ""


@dataclass(frozen=True, slots=True)
class FindNode:
    """FIND_NODE: the peers closest to ``key``; any bytes, not only a peer id."""

    key: bytes
    cluster_level: int = 0


@dataclass(frozen=True, slots=True)
class GetProviders:
    """GET_PROVIDERS: who provides the multihash ``key``."""

    key: bytes
    cluster_level: int = 0


@dataclass(frozen=True, slots=True)
class AddProvider:
    """ADD_PROVIDER: the sender provides ``key``. Never answered."""

    key: bytes
    providers: tuple[PeerEntry, ...]
    cluster_level: int = 0


@dataclass(frozen=True, slots=True)
class GetValue:
    """GET_VALUE: the record under ``key``."""

    key: bytes
    cluster_level: int = 0


@dataclass(frozen=True, slots=True)
class PutValue:
    """PUT_VALUE: keep ``record`` under ``key``."""

    key: bytes
    record: Record | None
    cluster_level: int = 0


@dataclass(frozen=True, slots=True)
class Ping:
    """PING (deprecated): answered with itself, peer lists stripped."""

    key: bytes = b""
    record: Record | None = None
    cluster_level: int = 0


Request = FindNode | GetProviders | AddProvider | GetValue | PutValue | Ping


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a request. ``cluster_level`` repeats the request's."""

    type: MessageType
    key: bytes = b""
    record: Record | None = None
    closer_peers: tuple[PeerEntry, ...] = ()
    provider_peers: tuple[PeerEntry, ...] = ()
    cluster_level: int = 0


class FailureReason(Enum):
    """Why a request got no answer."""

    UNREACHABLE = "unreachable"
    """There is no connection to the peer, and none could be made."""
    TIMEOUT = "timeout"
    """No answer came in time, over a connection or without one."""
    UNSUPPORTED = "unsupported"
    """The peer is connected and does not speak the protocol."""
    BROKEN = "broken"
    """The peer is connected; the stream ended, or what came was no answer."""
    CAPACITY = "capacity"
    """This node had no room for the request, which was never sent: it says nothing of the peer."""

    @property
    def reached(self) -> bool:
        """Whether the peer was there all the same."""
        return self in (FailureReason.UNSUPPORTED, FailureReason.BROKEN)
