"""Runs identify and identify push on a host: who is connected, and what they say of themselves.

Takes the place of py-libp2p's own identify on that host while the adapter is mounted, and feeds
its peer store as upstream does. Upstream asks a peer once and never again while its peer store
remembers it, tells nobody of the answer, reads a push without a bound, and sends wildcards and
``/p2p``.

Each connection that comes is identified, ``MAX_CONCURRENT_IDENTIFIES`` at once.
"""

# ruff: noqa: SLF001 - stands in for parts of BasicHost that have no public switch

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import trio
from libp2p.abc import INetConn, INetStream, INetwork, INotifee
from libp2p.crypto.keys import PrivateKey as Libp2pPrivateKey
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.identity.update import update_peerstore_from_identify
from libp2p.transport.quic.connection import QUICConnection
from multiaddr import Multiaddr

from codio_dht.core.peer import PeerId
from codio_dht.crypto.keys import PublicKey
from codio_dht.errors import CodioError
from codio_dht.formats.multiaddr import usable_addresses
from codio_dht.logger import get_logger
from codio_dht.net.event_bus import EventBus
from codio_dht.net.host import AddrsChanged
from codio_dht.net.identify.introduction import Introduction
from codio_dht.net.identify.known import KnownPeers
from codio_dht.net.identify.limits import IDENTIFY_ATTEMPTS, IDENTIFY_TIMEOUT_S
from codio_dht.net.identify.message import (
    IDENTIFY,
    IDENTIFY_PUSH,
    IdentifyMessage,
    MessageParts,
    encode_identify,
)
from codio_dht.net.libp2p_host.guards.counters import Counters
from codio_dht.net.libp2p_host.guards.upstream import Symbol
from codio_dht.net.libp2p_host.guards.upstream import replace as replace_method
from codio_dht.net.libp2p_host.limits import (
    MAX_CONCURRENT_IDENTIFIES,
    MAX_PUSHES,
    READ_CHUNK_BYTES,
    RECONCILE_INTERVAL_S,
)
from codio_dht.net.libp2p_host.stream import Libp2pStream
from codio_dht.net.own_addresses import network_state
from codio_dht.params import MAX_ADDRS_PER_PEER

_log = get_logger(__name__)

SYMBOLS = (
    Symbol("libp2p.host.basic_host", "BasicHost._schedule_identify", ("self", "peer_id", "reason")),
    Symbol("libp2p.host.basic_host", "BasicHost._push_identify_to_all_peers", ("self",)),
    Symbol(
        "libp2p.identity.update",
        "update_peerstore_from_identify",
        ("peerstore", "peer_id", "identify_msg"),
    ),
)


class ConnectionWatch(INotifee):
    """Tells the identifier of connections that come and go."""

    def __init__(self, identifier: Libp2pIdentifier) -> None:
        self._identifier = identifier

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        self._identifier.connected(conn)

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        self._identifier.disconnected(PeerId.coerce(conn.muxed_conn.peer_id))

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None:
        pass

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None:
        pass

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None:
        self._identifier.self_changed()

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None:
        pass


class Libp2pIdentifier:
    """Identify, both ways, for one host."""

    def __init__(
        self,
        ihost: BasicHost,
        nursery: trio.Nursery,
        bus: EventBus,
        counters: Counters,
        *,
        addrs: Callable[[], tuple[Multiaddr, ...]],
        agent: str,
        open_stream: Callable[[INetConn, str], Awaitable[Libp2pStream]],
        adopt: Callable[[INetStream, str], Libp2pStream],
    ) -> None:
        self._ihost = ihost
        self._nursery = nursery
        self._bus = bus
        self._counters = counters
        self._addrs = addrs
        self._agent = agent
        self._open_stream = open_stream
        self._adopt = adopt
        self._limiter = trio.CapacityLimiter(MAX_CONCURRENT_IDENTIFIES)
        self._pushes = trio.CapacityLimiter(MAX_PUSHES)
        self._push_due = False
        self._watch = ConnectionWatch(self)
        self._replaced: dict[str, StreamHandlerFn | None] = {}
        self.known = KnownPeers(bus, self._is_connected)

    # --- mounting ---------------------------------------------------------------------------------

    def mount(self) -> None:
        """Take over from py-libp2p's identify, and identify who is connected already."""
        handlers: dict[Any, Any] = self._ihost.multiselect.handlers
        for protocol, handler in (
            (IDENTIFY, self._answer),
            (IDENTIFY_PUSH, self._take_push),
        ):
            self._replaced[protocol] = handlers.get(TProtocol(protocol))
            handlers[TProtocol(protocol)] = handler
        replace_method(self._ihost, "_schedule_identify", _leave_to_us)
        replace_method(self._ihost, "_push_identify_to_all_peers", self._push_soon)
        self._network.register_notifee(self._watch)
        for conn in self._network.get_connections():
            self.connected(conn)

    def unmount(self) -> None:
        """Give identify back to py-libp2p."""
        handlers: dict[Any, Any] = self._ihost.multiselect.handlers
        for protocol, handler in self._replaced.items():
            if handler is None:
                handlers.pop(TProtocol(protocol), None)
            else:
                handlers[TProtocol(protocol)] = handler
        del self._ihost._schedule_identify
        del self._ihost._push_identify_to_all_peers
        self._network.remove_notifee(self._watch)

    @property
    def _network(self) -> Any:
        return self._ihost.get_network()

    # --- connections ------------------------------------------------------------------------------

    def connected(self, conn: INetConn) -> None:
        """Ask whoever is at the other end."""
        self._nursery.start_soon(self._contained, self._identify, conn)

    async def run(self) -> None:
        """For as long as the host lives, notice what no notification told of: peers that left
        without one, and addresses of our own that changed with the machine's interfaces."""
        told, network = self._addrs(), network_state()
        while True:
            await trio.sleep(RECONCILE_INTERVAL_S)
            for peer in self.known:
                self.disconnected(peer.peer_id)
            before, told = told, self._addrs()
            network_before, network = network, network_state()
            if told != before or network != network_before:
                self._bus.emit(AddrsChanged(told))
            if told != before:
                self.self_changed()

    async def _contained(self, work: Callable[..., Awaitable[None]], *args: Any) -> None:
        try:
            await work(*args)
        except Exception as error:  # noqa: BLE001 - the outermost edge of a task of the host
            self._counters.add("identify_errors")
            _log.warning("identify raised", exc_info=error)

    def disconnected(self, peer_id: PeerId) -> None:
        """Note that a connection ended; the peer is gone with its last."""
        if not self._is_connected(peer_id):
            self.known.gone(peer_id)

    def _is_connected(self, peer_id: PeerId) -> bool:
        connections = self._network.get_connections(peer_id.to_libp2p())
        return any(not conn.is_closed for conn in connections)

    async def _identify(self, conn: INetConn) -> None:
        peer_id = PeerId.coerce(conn.muxed_conn.peer_id)
        for _ in range(IDENTIFY_ATTEMPTS):
            async with self._limiter:
                if conn.is_closed:
                    return
                try:
                    with trio.fail_after(IDENTIFY_TIMEOUT_S):
                        said = await self._ask(conn)
                except (CodioError, trio.TooSlowError) as error:
                    self._counters.add("identify_failed")
                    _log.debug("identify failed", peer=str(peer_id), error=repr(error))
                else:
                    await self._learn(peer_id, said, new_connection=True)
                    self._observe(conn, said)
                    return

    async def _ask(self, conn: INetConn) -> IdentifyMessage:
        stream = await self._open_stream(conn, IDENTIFY)
        try:
            return await _read_message(stream)
        finally:
            await stream.close()

    async def _learn(
        self, peer_id: PeerId, said: IdentifyMessage, *, new_connection: bool = False
    ) -> None:
        addrs = usable_addresses(said.listen_addrs, peer_id.to_bytes(), MAX_ADDRS_PER_PEER)
        upstream = Identify.FromString(encode_identify(replace(said, listen_addrs=addrs)))
        await update_peerstore_from_identify(
            self._ihost.get_peerstore(), peer_id.to_libp2p(), upstream
        )
        self.known.learn(peer_id, said, new_connection=new_connection)

    def _observe(self, conn: INetConn, said: IdentifyMessage) -> None:
        """What upstream's identify does with the address under which a peer sees us."""
        manager = self._ihost._observed_addr_manager
        if manager is None or said.observed_addr is None:
            return
        try:
            manager.record_observation(
                conn, Multiaddr(said.observed_addr), self._ihost.get_transport_addrs()
            )
        except Exception as error:  # noqa: BLE001 - fed with a peer's bytes, as upstream guards it
            _log.debug("observed address not recorded", error=repr(error))

    # --- answering --------------------------------------------------------------------------------

    async def _answer(self, net_stream: INetStream) -> None:
        stream = self._adopt(net_stream, IDENTIFY)
        try:
            with trio.fail_after(IDENTIFY_TIMEOUT_S):
                await stream.write(self._message(_remote_addr(net_stream)))
        finally:
            await stream.close()

    def _message(self, observed_addr: Multiaddr | None = None) -> bytes:
        protocols = (str(name) for name in self._ihost.get_mux().get_protocols() if name)
        introduction = Introduction.of(
            _HostKey(self._ihost.get_private_key()),
            addrs=self._addrs(),
            protocols=protocols,
            agent=self._agent,
        )
        return introduction.to(observed_addr.to_bytes() if observed_addr else None)

    async def _take_push(self, net_stream: INetStream) -> None:
        stream = self._adopt(net_stream, IDENTIFY_PUSH)
        try:
            with trio.fail_after(IDENTIFY_TIMEOUT_S):
                said = await _read_message(stream)
        except (CodioError, trio.TooSlowError) as error:
            self._counters.add("identify_push_failed")
            _log.debug("identify push failed", peer=str(stream.peer_id), error=repr(error))
            await stream.reset()
            return
        await stream.close()
        await self._learn(stream.peer_id, said)

    # --- pushing ----------------------------------------------------------------------------------

    def self_changed(self) -> None:
        """Our protocols or addresses changed: tell everyone connected, once for all changes that
        come together."""
        if self._push_due:
            return
        self._push_due = True
        self._nursery.start_soon(self._contained, self._push_soon)

    async def _push_soon(self) -> None:
        await trio.lowlevel.checkpoint()
        self._push_due = False
        message = self._message()
        async with trio.open_nursery() as nursery:
            for peer in self.known:
                if IDENTIFY_PUSH in peer.protocols:
                    conns = self._network.get_connections(peer.peer_id.to_libp2p())
                    if conns:
                        nursery.start_soon(self._push, conns[0], message)

    async def _push(self, conn: INetConn, message: bytes) -> None:
        async with self._pushes:
            try:
                with trio.fail_after(IDENTIFY_TIMEOUT_S):
                    stream = await self._open_stream(conn, IDENTIFY_PUSH)
                    try:
                        await stream.write(message)
                    finally:
                        await stream.close()
            except (CodioError, trio.TooSlowError) as error:
                self._counters.add("identify_push_failed")
                _log.debug("identify push not sent", error=repr(error))


class _HostKey:
    """The key of a py-libp2p host, which signs for it; a ``SigningKey``."""

    def __init__(self, key: Libp2pPrivateKey) -> None:
        self._key = key

    def public_key(self) -> PublicKey:
        """The public half."""
        return PublicKey.from_protobuf(self._key.get_public_key().serialize())

    def sign(self, data: bytes) -> bytes:
        """A signature over ``data``."""
        return self._key.sign(data)


def _leave_to_us(peer_id: Any, *, reason: str) -> None:
    """Stands in for ``BasicHost._schedule_identify``: every connection is identified anyway."""


async def _read_message(stream: Libp2pStream) -> IdentifyMessage:
    parts = MessageParts()
    while data := await stream.read(READ_CHUNK_BYTES):
        parts.feed(data)
    return parts.message()


def _remote_addr(net_stream: INetStream) -> Multiaddr | None:
    """Where the peer comes from, for its ``observedAddr``."""
    try:
        return remote_addr(net_stream)
    except Exception:  # noqa: BLE001 - a missing observedAddr is better than no answer
        return None


def remote_addr(conn: Any) -> Multiaddr | None:
    """Where the peer of a connection comes from or was dialled, if it is known.

    Not upstream's ``get_transport_addresses``, which for TCP tells what the peer store knows.
    """
    muxed_conn: Any = conn.muxed_conn
    endpoint: tuple[str, int] | None = muxed_conn.get_remote_address()
    if endpoint is None:
        return None
    host, port = endpoint
    family = "ip6" if ":" in host else "ip4"
    if isinstance(muxed_conn, QUICConnection):
        return Multiaddr(f"/{family}/{host}/udp/{port}/quic-v1")
    return Multiaddr(f"/{family}/{host}/tcp/{port}")
