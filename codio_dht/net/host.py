"""The ``Host`` port: all that the node needs of libp2p, and all it may use.

Decides nothing; it is the contract that every libp2p stack under the node keeps.

Inbound request-response protocols are served by the objects of :mod:`codio_dht.net.handlers`.

Addresses are ``multiaddr.Multiaddr``; deadlines are absolute times of the host's monotonic clock
(``trio.current_time()``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from multiaddr import Multiaddr

from codio_dht.core.addresses import AddressFilter
from codio_dht.core.clock import Monotonic
from codio_dht.core.origins import Account, OriginLedger
from codio_dht.core.peer import PeerId
from codio_dht.crypto.keys import PrivateKey
from codio_dht.net.handlers import StreamHandlerFactory

# --- streams --------------------------------------------------------------------------------------


class Stream(Protocol):
    """A bidirectional stream. Not safe for two readers or two writers at once.

    Every method may raise ``StreamError``. A cancelled ``write`` leaves the stream unusable (it is
    reset) but never harms its connection.
    """

    @property
    def peer_id(self) -> PeerId: ...

    @property
    def protocol(self) -> str: ...

    async def read(self, max_bytes: int) -> bytes:
        """At least one byte, at most ``max_bytes``; ``b""`` when the peer has finished sending."""
        ...

    async def write(self, data: bytes) -> None:
        """Send all of ``data``."""
        ...

    async def close_write(self) -> None:
        """Finish sending; reading goes on."""
        ...

    async def close(self) -> None:
        """End the stream normally. Idempotent, never raises."""
        ...

    async def reset(self) -> None:
        """Abort the stream. Idempotent, never raises, safe under cancellation."""
        ...


# --- events ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PeerIdentified:
    """A connected peer said (identify or identify push) what it speaks and where it listens."""

    peer_id: PeerId
    protocols: frozenset[str]
    addrs: tuple[Multiaddr, ...]
    agent: str
    observed_addr: Multiaddr | None = None
    new_connection: bool = field(default=False, compare=False)
    """It answered identify on a connection that has just begun: it is alive now, whatever failed on
    an older connection. Told of each new connection, also if it says the same as before."""


@dataclass(frozen=True, slots=True)
class PeerGone:
    """The last connection to a peer ended."""

    peer_id: PeerId


@dataclass(frozen=True, slots=True)
class AddrsChanged:
    """The host's own addresses changed, or the machine's network did: its addresses or routes. Then
    ``addrs`` may be what they were."""

    addrs: tuple[Multiaddr, ...]
    unproven: tuple[Multiaddr, ...] = ()
    """Where enough peers say that they see the host, beside ``addrs``. They are told to nobody: it
    takes a dial-back to prove that the host is there."""


HostEvent = PeerIdentified | PeerGone | AddrsChanged


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """One open connection, for people to look at."""

    peer_id: PeerId
    addr: Multiaddr | None
    inbound: bool
    agent: str
    protocols: frozenset[str]
    said_addrs: tuple[Multiaddr, ...] = ()
    """Where the peer says that it is (identify), without ``/p2p``; none before it has said so."""


# --- the port -------------------------------------------------------------------------------------


class Host(Protocol):
    """A libp2p host: identity, connections, streams."""

    @property
    def peer_id(self) -> PeerId:
        """Own identity."""
        ...

    @property
    def private_key(self) -> PrivateKey | None:
        """The key of the identity, which signs this node's IPNS records. None if the host does not
        hand it out."""
        ...

    @property
    def addrs(self) -> tuple[Multiaddr, ...]:
        """Own addresses as told to others, without a trailing ``/p2p``: what was asked to be
        announced; else listened on (wildcards expanded), and proven by a dial-back."""
        ...

    async def connect(
        self,
        peer_id: PeerId,
        addrs: Sequence[Multiaddr],
        deadline: Monotonic,
        *,
        retry_failed: bool = False,
        stranger_filter: AddressFilter | None = None,
        later: Callable[[], Sequence[Multiaddr]] | None = None,
    ) -> None:
        """Make sure that there is a connection to the peer; all of ``addrs`` are tried.

        Returns at once if connected, unless nothing came back on the connection when it was last
        used. Concurrent calls for one peer share one dial.

        ``retry_failed``: a person asks for it, so addresses that failed a moment ago are dialled
        all the same. ``stranger_filter``: the addresses are what strangers say, and this says which
        of them may be dialled, also of those that a name stands for. Such a word must not lead into
        this node's own network, nor make it knock at any machine as often as they like. Without it
        all may, as for an address that a person gave. ``later`` tells the addresses that are known
        at a later time: they join the dial while it lasts.

        Raises:
            DialError: no address led to this peer; ``local`` if for reasons of this node's own.
            DeadlineError: the deadline passed first.
        """
        ...

    async def peers_named_by(self, addr: Multiaddr, deadline: Monotonic) -> list[Multiaddr]:
        """The addresses, each with ``/p2p/<id>`` at its end, that the TXT records of a
        ``/dnsaddr/HOST`` without a peer id list.

        Raises:
            NetworkError: the name lists no peer, or cannot be resolved.
            DeadlineError: the deadline passed first.
        """
        ...

    async def open_stream(self, peer_id: PeerId, protocol: str, deadline: Monotonic) -> Stream:
        """A new stream to a connected peer.

        Raises:
            UnsupportedProtocolError: the peer does not speak ``protocol``.
            StreamError: not connected, or the connection ended.
            DeadlineError: the deadline passed first.
        """
        ...

    async def disconnect(self, peer_id: PeerId) -> None:
        """Close every connection to the peer, if any."""
        ...

    def set_denied(self, entries: Sequence[str | PeerId]) -> None:
        """From now on, have no connection to the peers, IP addresses and networks (CIDR) of
        ``entries``, in place of those that were given before; those that are open are closed.

        Raises:
            UsageError: an entry is none of these, or there are too many.
        """
        ...

    async def ping(self, peer_id: PeerId, deadline: Monotonic) -> float:
        """One round trip of ``/ipfs/ping/1.0.0`` to a connected peer, in seconds.

        Raises as ``open_stream``.
        """
        ...

    def protect(self, peer_id: PeerId, tag: str) -> None:
        """Never close connections to the peer for being too many or idle, for the reason ``tag``.

        Idempotent; connected or not, it holds until :meth:`unprotect`. Never raises.
        """
        ...

    def unprotect(self, peer_id: PeerId, tag: str) -> bool:
        """The reason ``tag`` is gone; whether another remains. Never raises."""
        ...

    def is_reached(self, peer_id: PeerId) -> bool:
        """Whether the peer gave a sign of life: it is connected, or somebody took a connection at
        an address where it is being dialled."""
        ...

    def is_connected(self, peer_id: PeerId) -> bool:
        """Whether a connection to the peer is open."""
        ...

    def remote_addrs(self, peer_id: PeerId) -> list[Multiaddr]:
        """Where the open connections to the peer come from or lead to, without ``/p2p``: unlike
        what it says of itself, this it cannot choose."""
        ...

    @property
    def origins(self) -> OriginLedger:
        """Who caused which cost."""
        ...

    def account(self, peer_id: PeerId) -> Account | None:
        """The account that pays for what the connected peer causes. None if it is not connected,
        or exempt from limits."""
        ...

    def connections(self) -> list[ConnectionInfo]:
        """Every open connection."""
        ...

    def serve(self, protocol: str, factory: StreamHandlerFactory, *, idle_timeout_s: float) -> None:
        """Answer ``protocol`` and advertise it in identify. A stream on which nothing arrives for
        ``idle_timeout_s`` is reset."""
        ...

    def serve_stream(self, protocol: str, handler: Callable[[Stream], Awaitable[None]]) -> None:
        """Answer ``protocol`` with a task per stream, for what is not request-response."""
        ...

    def unserve(self, protocol: str) -> None:
        """Stop answering and advertising ``protocol``; its inbound streams are reset."""
        ...

    def events(self) -> AbstractAsyncContextManager[AsyncIterator[HostEvent]]:
        """Subscribe. The first events describe the peers already identified. A subscriber that
        falls behind gets the latest of each peer and of the host itself, not every change; see
        :mod:`codio_dht.net.event_bus`.
        """
        ...

    def stats(self) -> dict[str, int]:
        """Counters of the host, by name: what it refused, dropped, guarded."""
        ...
