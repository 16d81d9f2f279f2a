"""What the tests of the py-libp2p adapter share: hosts with and without guards."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import trio
from libp2p import generate_new_ed25519_identity, new_host
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.config import ConnectionConfig
from libp2p.network.swarm import Swarm
from libp2p.peer.peerinfo import PeerInfo as Libp2pPeerInfo
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from codio_dht.crypto.keys import PrivateKey
from codio_dht.net.libp2p_host import Libp2pHost, make_libp2p_host
from codio_dht.net.libp2p_host.guards.apply import guard_host
from host_steps import TCP


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
