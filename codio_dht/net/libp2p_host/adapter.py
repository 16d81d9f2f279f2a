"""The ``Host`` port over a running py-libp2p host.

Mounts beside whatever else the program does on that host: protocols of the program stay served,
its connections are used, and what is mounted is taken off again at the end. The guards
(``guards/``) stay. States::

    NEW --enter--> RUNNING --exit--> ENDED

Outside RUNNING every call that needs the network raises ``NotRunningError``.
"""

# ruff: noqa: SLF001 - opens streams on a connection of its own choice

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self

import trio
from libp2p.abc import IHost, INetConn, INetStream
from libp2p.crypto.keys import KeyType as Libp2pKeyType
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.swarm import Swarm
from libp2p.rcmgr import Direction
from multiaddr import Multiaddr

from codio_dht import __version__
from codio_dht.core.addresses import AddressFilter
from codio_dht.core.clock import Monotonic
from codio_dht.core.origins import Account, OriginLedger
from codio_dht.core.peer import PeerId
from codio_dht.crypto.keys import PrivateKey
from codio_dht.errors import (
    DeadlineError,
    DialError,
    IdentityError,
    NotRunningError,
    StreamError,
    UnsupportedProtocolError,
    UsageError,
)
from codio_dht.formats.multiaddr import ip_of, is_private
from codio_dht.net.dnsaddr import peers_named_by
from codio_dht.net.event_bus import EventBus
from codio_dht.net.gate import Gate
from codio_dht.net.handlers import StreamHandlerFactory
from codio_dht.net.host import ConnectionInfo, HostEvent, Stream
from codio_dht.net.libp2p_host import identifying
from codio_dht.net.libp2p_host.connecting import connect
from codio_dht.net.libp2p_host.guards.apply import Guards, guard_host
from codio_dht.net.libp2p_host.guards.dialing import is_open
from codio_dht.net.libp2p_host.guards.upstream import check
from codio_dht.net.libp2p_host.identifying import Libp2pIdentifier, remote_addr
from codio_dht.net.libp2p_host.inbound import ActiveStreams, Budget, serve
from codio_dht.net.libp2p_host.limits import CLOSE_TIMEOUT_S
from codio_dht.net.libp2p_host.negotiation import question
from codio_dht.net.libp2p_host.stream import Libp2pStream, Lingering, foreign_errors, reset_quietly
from codio_dht.net.name_servers import NameServers, SystemNameServers, for_strangers
from codio_dht.net.own_addresses import told_addresses
from codio_dht.net.ping import PING, round_trip
from codio_dht.net.targets import Ip, parse

_MOUNTED: Final = "_codio_dht_mounted"
AGENT: Final = f"codio-dht/{__version__}"


class Libp2pHost:
    """See ``codio_dht.net.host.Host``. Use as ``async with Libp2pHost(ihost) as host:``.

    Raises:
        UsageError: ``ihost`` is not a running py-libp2p host, or the library is another release.
    """

    def __init__(
        self,
        ihost: IHost,
        *,
        announce: Sequence[Multiaddr] = (),
        append_announce: Sequence[Multiaddr] = (),
        agent: str | None = None,
        name_servers: NameServers | None = None,
    ) -> None:
        if not isinstance(ihost, BasicHost):
            raise UsageError(f"ihost: expected a py-libp2p BasicHost, got {ihost!r}")
        swarm = ihost.get_network()
        if not isinstance(swarm, Swarm):
            raise UsageError(f"ihost: expected a host on a py-libp2p Swarm, got {swarm!r}")
        self._ihost = ihost
        self._swarm = swarm
        self._announce = tuple(announce)
        self._append_announce = tuple(append_announce)
        self._agent = agent or AGENT
        self._name_servers = name_servers or SystemNameServers()
        self._strangers_servers = for_strangers(self._name_servers)
        self._peer_id = PeerId.coerce(ihost.get_id())
        self._private_key = _private_key(ihost, self._peer_id)
        self._active = ActiveStreams()
        self._budget = Budget()
        self._gate = Gate()
        self._origins = OriginLedger()
        self._lingering = Lingering()
        self._served: dict[str, StreamHandlerFn | None] = {}
        self._stack = AsyncExitStack()
        self._running: _Running | None = None

    async def __aenter__(self) -> Self:
        if self._running is not None or getattr(self._ihost, _MOUNTED, False):
            raise UsageError("the host is mounted already")
        guards = guard_host(self._ihost)
        check(identifying.SYMBOLS)
        setattr(self._ihost, _MOUNTED, True)
        nursery = await self._stack.enter_async_context(trio.open_nursery())
        bus = EventBus(guards.counters.counts)
        identifier = Libp2pIdentifier(
            self._ihost,
            nursery,
            bus,
            guards.counters,
            addrs=lambda: self.addrs,
            agent=self._agent,
            open_stream=self._open_on,
            adopt=self._adopt,
        )
        self._running = _Running(guards, nursery, bus, identifier)
        nursery.start_soon(self._lingering.run)
        nursery.start_soon(identifier.run)
        identifier.mount()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        running = self._state
        running.identifier.unmount()
        setattr(self._ihost, _MOUNTED, False)
        for protocol in list(self._served):
            self._unserve(protocol)
        self._running = None
        running.bus.end()
        running.nursery.cancel_scope.cancel()
        await self._stack.aclose()  # without the exception, which the nursery would wrap
        return None

    @property
    def _state(self) -> _Running:
        if self._running is None:
            raise NotRunningError("the host is not mounted; use it as `async with`")
        return self._running

    # --- who and where ----------------------------------------------------------------------------

    @property
    def peer_id(self) -> PeerId:
        """Own identity."""
        return self._peer_id

    @property
    def private_key(self) -> PrivateKey | None:
        """The key of the identity; None if it is of a type that signs no IPNS records."""
        return self._private_key

    @property
    def addrs(self) -> tuple[Multiaddr, ...]:
        """Own addresses as told to others."""
        factory = self._ihost._addrs_factory
        if not self._announce and factory is not None:  # the program's own choice
            return told_addresses((), self._ihost.get_addrs())
        return told_addresses(
            self._ihost.get_transport_addrs(),
            self._announce,
            append_announce=self._append_announce,
        )

    # --- connections ------------------------------------------------------------------------------

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
        """Make sure that there is a connection to the peer; all of ``addrs`` are tried."""
        dialer = self._state.guards.dialer
        if self.is_connected(peer_id):
            return
        if peer_id == self._peer_id:
            raise DialError("that peer is this node itself")
        addrs = [addr for addr in addrs if self._admits(peer_id, addr)]
        servers = self._name_servers if stranger_filter is None else self._strangers_servers
        await connect(dialer, peer_id, addrs, deadline, servers, stranger_filter)

    async def peers_named_by(self, addr: Multiaddr, deadline: Monotonic) -> list[Multiaddr]:
        """The peers that a ``/dnsaddr/HOST`` without a peer id lists."""
        return await peers_named_by(addr, deadline, servers=self._name_servers)

    async def disconnect(self, peer_id: PeerId) -> None:
        """Close every connection to the peer, if any."""
        for conn in self._connections_to(peer_id):
            with trio.move_on_after(CLOSE_TIMEOUT_S), foreign_errors("cannot close"):
                await conn.close()

    def protect(self, peer_id: PeerId, tag: str) -> None:
        """Never close connections to the peer for being too many (upstream's pruner heeds it)."""
        self._swarm.protect(peer_id.to_libp2p(), tag)

    def unprotect(self, peer_id: PeerId, tag: str) -> bool:
        """The reason ``tag`` is gone; whether another remains."""
        return self._swarm.unprotect(peer_id.to_libp2p(), tag)

    def set_denied(self, entries: Sequence[str | PeerId]) -> None:
        """Make no connection to what ``entries`` name, and close those that are open. What
        py-libp2p accepts later cannot be refused here."""
        self._gate.set_denied(entries)
        for info in self.connections():
            if not self._admits(info.peer_id, info.addr) and self._running is not None:
                self._running.nursery.start_soon(self.disconnect, info.peer_id)

    def _admits(self, peer_id: PeerId, addr: Multiaddr | None) -> bool:
        ip = None if addr is None else ip_of(addr.to_bytes())
        local = addr is not None and is_private(addr.to_bytes())
        return self._gate.admits(Ip(ip or b"", local), peer_id)

    def is_reached(self, peer_id: PeerId) -> bool:
        """Whether the peer is connected: py-libp2p shows nothing of a dial under way."""
        return self.is_connected(peer_id)

    def is_connected(self, peer_id: PeerId) -> bool:
        """Whether a connection to the peer is open."""
        return bool(self._connections_to(peer_id))

    @property
    def origins(self) -> OriginLedger:
        """Who caused which cost: what this node keeps and reads for others. What connections cost
        is up to the host that the program brought."""
        return self._origins

    def account(self, peer_id: PeerId) -> Account | None:
        """The account that pays for what the connected peer causes."""
        for addr in self.remote_addrs(peer_id):
            target = parse(addr.to_bytes())
            if target is not None and not target.ip.local:
                return self._origins.peer(target.ip.packed, peer_id.to_bytes())
        return None

    def remote_addrs(self, peer_id: PeerId) -> list[Multiaddr]:
        """Where the open connections to the peer come from or lead to."""
        addrs = [remote_addr(conn) for conn in self._connections_to(peer_id)]
        return [addr for addr in addrs if addr is not None]

    def connections(self) -> list[ConnectionInfo]:
        """Every open connection."""
        known = self._state.identifier.known
        infos = []
        for conn in self._swarm.get_connections():
            if conn.is_closed:
                continue
            peer_id = PeerId.coerce(conn.muxed_conn.peer_id)
            said = known.get(peer_id)
            infos.append(
                ConnectionInfo(
                    peer_id=peer_id,
                    addr=remote_addr(conn),
                    inbound=getattr(conn, "direction", None) is Direction.INBOUND,
                    agent=said.agent if said else "",
                    protocols=said.protocols if said else frozenset(),
                    said_addrs=said.addrs if said else (),
                )
            )
        return infos

    def _connections_to(self, peer_id: PeerId) -> list[INetConn]:
        connections = self._swarm.get_connections(peer_id.to_libp2p())
        return [conn for conn in connections if is_open(conn)]

    # --- outgoing streams -------------------------------------------------------------------------

    async def open_stream(self, peer_id: PeerId, protocol: str, deadline: Monotonic) -> Stream:
        """A new stream to a connected peer.

        If identify says that the peer speaks ``protocol``, the negotiation rides with the first
        write; should it have changed its mind, the first read raises ``UnsupportedProtocolError``.
        """
        said = self._state.identifier.known.get(peer_id)
        failure = StreamError(f"not connected to {peer_id}")
        try:
            with trio.fail_at(deadline):
                for conn in reversed(self._connections_to(peer_id)):  # the newest first
                    try:
                        stream = await self._open_on(conn, protocol)
                        if said is None or protocol not in said.protocols:
                            await self._negotiate(stream)
                        return stream
                    except UnsupportedProtocolError:
                        raise
                    except StreamError as error:
                        failure = error
        except trio.TooSlowError as error:
            raise DeadlineError(f"no stream to {peer_id} before the deadline") from error
        raise failure

    async def _open_on(self, conn: INetConn, protocol: str) -> Libp2pStream:
        swarm_conn: Any = conn
        with foreign_errors("cannot open a stream"):
            muxed_stream = await swarm_conn.muxed_conn.open_stream()
            try:
                net_stream: INetStream = await swarm_conn._add_stream(muxed_stream)
            except BaseException:
                await reset_quietly(muxed_stream)
                raise
        net_stream.set_protocol(TProtocol(protocol))
        return Libp2pStream(
            net_stream,
            PeerId.coerce(swarm_conn.muxed_conn.peer_id),
            protocol,
            self._lingering,
            question=question(protocol),
        )

    async def _negotiate(self, stream: Libp2pStream) -> None:
        try:
            await stream.negotiate()
        except BaseException:
            await stream.reset()
            raise

    async def ping(self, peer_id: PeerId, deadline: Monotonic) -> float:
        """One round trip of ``/ipfs/ping/1.0.0`` to a connected peer, in seconds."""
        return await round_trip(await self.open_stream(peer_id, PING, deadline), deadline)

    # --- serving ----------------------------------------------------------------------------------

    def serve(self, protocol: str, factory: StreamHandlerFactory, *, idle_timeout_s: float) -> None:
        """Answer ``protocol`` and advertise it in identify."""
        counters = self._state.guards.counters

        async def handle(stream: Libp2pStream) -> None:
            await serve(stream, factory, idle_timeout_s, counters)

        self._mount(protocol, handle)

    def serve_stream(self, protocol: str, handler: Callable[[Stream], Awaitable[None]]) -> None:
        """Answer ``protocol`` with a task per stream. A handler that returns leaves its stream
        closed; one that raises leaves it reset."""

        async def handle(stream: Libp2pStream) -> None:
            try:
                await handler(stream)
            except BaseException:
                await stream.reset()
                raise
            await stream.close()

        self._mount(protocol, handle)

    def unserve(self, protocol: str) -> None:
        """Stop answering and advertising ``protocol``; its inbound streams are reset."""
        if protocol in self._served:
            self._unserve(protocol)
            self._state.identifier.self_changed()

    def _mount(self, protocol: str, handle: Callable[[Libp2pStream], Awaitable[None]]) -> None:
        running = self._state

        async def handle_stream(net_stream: INetStream) -> None:
            stream = self._adopt(net_stream, protocol)
            if not self._budget.take(stream.peer_id):
                running.guards.counters.add("inbound_streams_refused")
                await stream.reset()
                return
            try:
                with self._active.entered(protocol):
                    await handle(stream)
            finally:
                self._budget.give_back(stream.peer_id)

        handlers: dict[Any, Any] = self._ihost.multiselect.handlers
        self._served.setdefault(protocol, handlers.get(TProtocol(protocol)))
        self._ihost.set_stream_handler(TProtocol(protocol), handle_stream)
        running.identifier.self_changed()

    def _unserve(self, protocol: str) -> None:
        before = self._served.pop(protocol)  # a protocol that the program served is its again
        self._ihost.remove_stream_handler(TProtocol(protocol))
        if before is not None:
            self._ihost.set_stream_handler(TProtocol(protocol), before)
        self._active.end(protocol)

    def _adopt(self, net_stream: INetStream, protocol: str) -> Libp2pStream:
        peer_id = PeerId.coerce(net_stream.muxed_conn.peer_id)
        return Libp2pStream(net_stream, peer_id, protocol, self._lingering)

    # --- events and counters ----------------------------------------------------------------------

    def events(self) -> AbstractAsyncContextManager[AsyncIterator[HostEvent]]:
        """Subscribe; the first events describe the peers already identified."""
        return self._events()

    @asynccontextmanager
    async def _events(self) -> AsyncIterator[AsyncIterator[HostEvent]]:
        running = self._state
        with running.bus.subscribed(running.identifier.known) as events:
            yield events

    def stats(self) -> dict[str, int]:
        """Counters of the host and its guards, and what is open now."""
        running = self._state
        return {
            **running.guards.counters.as_dict(),
            "connections_open": len(self._swarm.get_connections()),
            "inbound_streams_open": self._budget.total,
            "streams_lingering": len(self._lingering),
            "peers_identified": len(running.identifier.known),
        }


class _Running:
    """What exists between entering and leaving."""

    __slots__ = ("bus", "guards", "identifier", "nursery")

    def __init__(
        self, guards: Guards, nursery: trio.Nursery, bus: EventBus, identifier: Libp2pIdentifier
    ) -> None:
        self.guards = guards
        self.nursery = nursery
        self.bus = bus
        self.identifier = identifier


def _private_key(ihost: BasicHost, peer_id: PeerId) -> PrivateKey | None:
    """The host's key. py-libp2p writes an Ed25519 key as its seed alone, where the specification
    has seed and public key."""
    key = ihost.get_private_key()
    try:
        if key.get_type() is Libp2pKeyType.Ed25519:
            found = PrivateKey.from_ed25519_seed(key.to_bytes())
        else:
            found = PrivateKey.from_protobuf(key.serialize())
    except IdentityError:
        return None
    return found if found.peer_id() == peer_id else None
