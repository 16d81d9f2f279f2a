"""Makes the py-libp2p host that a daemon runs, and closes it in the right order.

Decides what is offered: TCP and QUIC (both to dial, and to listen as asked), Noise and TLS, Yamux,
ping and identify; nothing else (R17, R18: py-libp2p would also offer secio, plaintext and mplex).
Never leaves a socket open: the host is closed before its tasks are cancelled (R19).
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing

import trio
from libp2p.abc import INetConn, ITransport
from libp2p.crypto.ed25519 import Ed25519PrivateKey
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.keys import PrivateKey as Libp2pPrivateKey
from libp2p.crypto.serialization import deserialize_private_key
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.config import ConnectionConfig
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.tls.transport import PROTOCOL_ID as TLS_PROTOCOL
from libp2p.security.tls.transport import TLSTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_PROTOCOL
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.tools.anyio_service import background_trio_service
from libp2p.transport.quic.config import QUICTransportConfig
from libp2p.transport.quic.transport import QUICTransport
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from codio_dht.crypto.keys import KeyType, PrivateKey
from codio_dht.errors import IdentityError, NetworkError, UsageError
from codio_dht.logger import get_logger
from codio_dht.net.libp2p_host.adapter import Libp2pHost
from codio_dht.net.libp2p_host.guards.apply import guard_host
from codio_dht.net.libp2p_host.guards.upstream import replace
from codio_dht.net.libp2p_host.limits import (
    CLOSE_TIMEOUT_S,
    HIGH_WATER_CONNECTIONS,
    LOW_WATER_CONNECTIONS,
    MAX_CONNECTIONS,
)
from codio_dht.net.libp2p_host.shielding import shielded
from codio_dht.net.listening import each_once, judge_failures
from codio_dht.net.name_servers import NameServers

_log = get_logger(__name__)

_ED25519_SEED_BYTES = 32


@asynccontextmanager
async def make_libp2p_host(
    private_key_protobuf: bytes,
    listen: Sequence[Multiaddr],
    announce: Sequence[Multiaddr] = (),
    *,
    append_announce: Sequence[Multiaddr] = (),
    agent: str | None = None,
    name_servers: NameServers | None = None,
) -> AsyncIterator[Libp2pHost]:
    """A running host for the identity, listening on ``listen``; closed when the block ends.

    ``announce``, if given, is told to others in place of the addresses listened on,
    ``append_announce`` in any case. ``agent`` replaces ours, ``name_servers`` answer in place of
    the system's.

    Raises:
        IdentityError: the key is not a libp2p private key.
        UsageError: an address that TCP and QUIC cannot listen on.
        NetworkError: none of the addresses can be listened on: each is in use, or this machine does
            not have it.
    """
    addrs = each_once(listen)
    for addr in addrs:
        _check_listen_addr(addr)
    ihost = _build(_key_pair(private_key_protobuf))
    swarm = ihost.get_network()
    assert isinstance(swarm, Swarm)
    failure: BaseException | None = None
    async with background_trio_service(swarm):
        try:
            await swarm.event_background_nursery_created.wait()
            guard_host(ihost)
            await _listen_all(swarm, addrs)
            async with Libp2pHost(
                ihost,
                announce=announce,
                append_announce=append_announce,
                agent=agent,
                name_servers=name_servers,
            ) as host:
                yield host
        except BaseException as error:  # noqa: BLE001 - raised below, past upstream's nursery
            failure = error
        finally:
            await _close(ihost, swarm)
    if failure is not None:
        raise failure


async def _close(ihost: BasicHost, swarm: Swarm) -> None:
    """Close all connections together, then the host: upstream closes them one after another, with
    pauses of 0.2 s, so that of many some would outlive the host."""
    with shielded(CLOSE_TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            for conn in swarm.get_connections():
                nursery.start_soon(_close_connection, conn)
    with shielded(CLOSE_TIMEOUT_S):
        await ihost.close()


async def _close_connection(conn: INetConn) -> None:
    try:
        await conn.close()
    except Exception as error:  # noqa: BLE001 - the outermost edge of its task; the host ends
        _log.debug("close failed", error=repr(error))


def _key_pair(private_key_protobuf: bytes) -> KeyPair:
    """The key as py-libp2p takes it: it wants an Ed25519 key's seed alone, where the specification
    has seed and public key.

    Raises:
        IdentityError: not a libp2p key, or of a type that py-libp2p cannot use (ECDSA).
    """
    key = PrivateKey.from_protobuf(private_key_protobuf)
    private_key: Libp2pPrivateKey
    if key.type is KeyType.ED25519:
        data = Libp2pPrivateKey.deserialize_from_protobuf(key.to_protobuf()).data
        private_key = Ed25519PrivateKey.from_bytes(data[:_ED25519_SEED_BYTES])
    else:
        try:
            private_key = deserialize_private_key(key.to_protobuf())
        except Exception as error:
            raise IdentityError(f"py-libp2p cannot use a key of type {key.type.name}") from error
    return KeyPair(private_key, private_key.get_public_key())


def _build(key_pair: KeyPair) -> BasicHost:
    peer_id = ID.from_pubkey(key_pair.public_key)
    peerstore = PeerStore()
    peerstore.add_key_pair(peer_id, key_pair)
    upgrader = TransportUpgrader(
        {
            NOISE_PROTOCOL: NoiseTransport(key_pair, create_new_x25519_key_pair().private_key),
            TLS_PROTOCOL: TLSTransport(key_pair),
        },
        {TProtocol(YAMUX_PROTOCOL): Yamux},
    )
    config = ConnectionConfig(
        max_connections=MAX_CONNECTIONS,
        min_connections=0,
        low_watermark=LOW_WATER_CONNECTIONS,
        high_watermark=HIGH_WATER_CONNECTIONS,
    )
    swarm = Swarm(peer_id, peerstore, upgrader, _transports(key_pair), connection_config=config)
    replace(swarm.auto_connector, "maybe_connect", _dial_nobody)
    return BasicHost(swarm, disable_identify_address_discovery=True)


async def _dial_nobody() -> None:
    """Do nothing, in place of upstream's auto-connector, which dials every known peer. The DHT
    decides which peers to dial."""


def _transports(key_pair: KeyPair) -> list[ITransport]:
    """Both, whatever is listened on: some peers can be dialled over one of them only."""
    quic_config = QUICTransportConfig(enable_draft29=False)
    return [TCP(), QUICTransport(key_pair.private_key, config=quic_config)]


def _check_listen_addr(addr: Multiaddr) -> None:
    names = [protocol.name for protocol in addr.protocols()]
    if names[:1] not in (["ip4"], ["ip6"]) or names[1:] not in (["tcp"], ["udp", "quic-v1"]):
        raise UsageError(
            f"listen: {addr} is neither /ip4|ip6/.../tcp/... nor /ip4|ip6/.../udp/.../quic-v1"
        )


async def _listen_all(swarm: Swarm, addrs: Sequence[Multiaddr]) -> None:
    failures = []
    for addr in addrs:
        try:
            await _listen(swarm, addr)
        except NetworkError as error:
            failures.append(error)
    judge_failures(failures, listens=len(failures) < len(addrs))


async def _listen(swarm: Swarm, addr: Multiaddr) -> None:
    _check_free(addr)
    try:
        listening = await swarm.listen(addr)
    except Exception as error:
        raise NetworkError(f"cannot listen on {addr}: {error}") from error
    if not listening:
        raise NetworkError(f"cannot listen on {addr}")


def _check_free(addr: Multiaddr) -> None:
    """py-libp2p listens with SO_REUSEPORT, so a second daemon would silently share the port."""
    names = [protocol.name for protocol in addr.protocols()]
    family = socket.AF_INET if names[0] == "ip4" else socket.AF_INET6
    kind = socket.SOCK_STREAM if names[1] == "tcp" else socket.SOCK_DGRAM
    host, port = addr.value_for_protocol(names[0]), int(addr.value_for_protocol(names[1]) or 0)
    with closing(socket.socket(family, kind)) as probe:
        if family == socket.AF_INET6:  # beside the same port on IPv4
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:  # as every TCP server: connections in TIME_WAIT are no user
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise NetworkError(f"cannot listen on {addr}: {error.strerror}") from error
