"""What the tests of the py-libp2p adapter share: hosts with and without guards, and handlers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import trio
from libp2p import generate_new_ed25519_identity, new_host
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.config import ConnectionConfig
from libp2p.network.swarm import Swarm
from libp2p.peer.peerinfo import PeerInfo as Libp2pPeerInfo
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.crypto.keys import PrivateKey
from codio_dht.net.host import HostEvent, Parked, PeerIdentified, Reset
from codio_dht.net.libp2p_host import Libp2pHost, make_libp2p_host
from codio_dht.net.libp2p_host.guards.apply import guard_host

TCP = Multiaddr("/ip4/127.0.0.1/tcp/0")
QUIC = Multiaddr("/ip4/127.0.0.1/udp/0/quic-v1")
ECHO = "/echo/1.0.0"
IDLE_S = 30.0


def soon(seconds: float = 10.0) -> Monotonic:
    """A deadline that is not meant to pass."""
    return Monotonic(trio.current_time() + seconds)


def new_key() -> bytes:
    return PrivateKey.generate_ed25519().to_protobuf()


@asynccontextmanager
async def made_host(
    *listen: Multiaddr, announce: Sequence[Multiaddr] = (), key: bytes | None = None
) -> AsyncGenerator[Libp2pHost]:
    """A host of ours on loopback."""
    async with make_libp2p_host(key or new_key(), listen or (TCP,), announce) as host:
        yield host


@asynccontextmanager
async def upstream_host(
    *, guarded: bool, config: ConnectionConfig | None = None, listen: Multiaddr = TCP
) -> AsyncGenerator[BasicHost]:
    """A host as py-libp2p's own factory makes it, as a program would bring it."""
    host = new_host(
        key_pair=generate_new_ed25519_identity(), connection_config=config, listen_addrs=[listen]
    )
    assert isinstance(host, BasicHost)
    swarm = host.get_network()
    async with background_trio_service(swarm):
        try:
            await swarm.listen(listen)
            if guarded:
                guard_host(host)
            yield host
        finally:
            with trio.move_on_after(2) as scope:
                scope.shield = True
                await host.close()


def swarm_of(host: BasicHost) -> Swarm:
    swarm = host.get_network()
    assert isinstance(swarm, Swarm)
    return swarm


def info_of(host: BasicHost) -> Libp2pPeerInfo:
    return Libp2pPeerInfo(host.get_id(), host.get_transport_addrs())


def serve_upstream(host: BasicHost, protocol: str, handler: StreamHandlerFn) -> None:
    host.set_stream_handler(TProtocol(protocol), handler)


class Echo:
    """Answers with what it is fed; says goodbye at the end."""

    def __init__(self, farewell: bytes = b"") -> None:
        self.farewell = farewell
        self.times_closed = 0
        self.got_eof = False

    def feed(self, data: bytes, now: Monotonic) -> bytes | Parked | Reset:
        return data

    def eof(self, now: Monotonic) -> bytes | Parked | Reset:
        self.got_eof = True
        return self.farewell

    def closed(self) -> None:
        self.times_closed += 1


class Echoes:
    """A factory that remembers its handlers."""

    def __init__(self, make: Callable[[], Echo] = Echo) -> None:
        self.made: list[Echo] = []
        self.peers: list[PeerId] = []
        self._make = make

    def __call__(self, peer_id: PeerId) -> Echo:
        self.peers.append(peer_id)
        self.made.append(self._make())
        return self.made[-1]

    @property
    def times_closed(self) -> list[int]:
        return [echo.times_closed for echo in self.made]


async def identified(host: Libp2pHost, peer_id: PeerId) -> PeerIdentified:
    """What the peer says of itself, once it has."""
    async with host.events() as events:
        async for event in events:
            if isinstance(event, PeerIdentified) and event.peer_id == peer_id:
                return event
    raise AssertionError("the host ended")


async def next_event(host: Libp2pHost, wanted: Callable[[HostEvent], bool]) -> HostEvent:
    async with host.events() as events:
        async for event in events:
            if wanted(event):
                return event
    raise AssertionError("the host ended")


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for what another task is about to do."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.005)


@contextmanager
def silent_listener() -> Iterator[Multiaddr]:
    """A TCP port that accepts connections and never says anything."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        yield Multiaddr(f"/ip4/127.0.0.1/tcp/{listener.getsockname()[1]}")


def dead_address() -> Multiaddr:
    """A TCP port on which nobody listens."""
    import socket

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return Multiaddr(f"/ip4/127.0.0.1/tcp/{unused.getsockname()[1]}")
