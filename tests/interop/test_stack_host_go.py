"""The host on our own stack with real go-libp2p peers, both directions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from multiaddr import Multiaddr

from codio_dht import DHTManager
from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.crypto.keys import PrivateKey
from codio_dht.errors import DialError, StreamError, UnsupportedProtocolError
from codio_dht.formats.protobuf import bytes_field, uint_field
from codio_dht.formats.varint import encode_varint
from codio_dht.net.host import PeerIdentified
from codio_dht.net.stack.noise import NoiseIdentity
from codio_dht.net.stack_host import StackHost, make_stack_host
from peers import Peer, PeerLauncher, RawReply, until

pytestmark = pytest.mark.interop

KAD = "/ipfs/kad/1.0.0"
TCP = Multiaddr("/ip4/127.0.0.1/tcp/0")
FIND_NODE = uint_field(1, 4) + bytes_field(2, b"x" * 34)
CID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"


def soon(seconds: float = 10.0) -> Monotonic:
    return Monotonic(trio.current_time() + seconds)


def framed(message: bytes) -> bytes:
    return encode_varint(len(message)) + message


def id_of(peer: Peer) -> PeerId:
    return PeerId.from_base58(peer.peer_id)


def addr_of(host: StackHost) -> str:
    return f"{host.addrs[0]}/p2p/{host.peer_id}"


@asynccontextmanager
async def made_host(*listen: Multiaddr, **options: Any) -> AsyncGenerator[StackHost]:
    key = PrivateKey.generate_ed25519()
    async with make_stack_host(key, listen or [TCP], **options) as host:
        yield host


async def connect(host: StackHost, peer: Peer) -> None:
    await host.connect(id_of(peer), [Multiaddr(addr) for addr in peer.addrs], soon())


async def identified(host: StackHost, peer: Peer) -> PeerIdentified:
    with trio.fail_after(10):
        async with host.events() as events:
            async for event in events:
                if isinstance(event, PeerIdentified) and event.peer_id == id_of(peer):
                    return event
    raise AssertionError("the host ended")


class Kad:
    """Answers every framed request with itself."""

    def __init__(self, peer_id: PeerId) -> None:
        pass

    def feed(self, data, now):
        return data

    def eof(self, now):
        return b""

    def closed(self):
        pass


@pytest.mark.parametrize("listen", ["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0"])
async def test_we_dial_go_know_it_and_are_answered(go: PeerLauncher, listen: str) -> None:
    async with (
        go.start(security="noise", refresh=False, listen=[listen]) as (peer,),
        made_host(Multiaddr(listen)) as host,
    ):
        await connect(host, peer)
        stream = await host.open_stream(id_of(peer), KAD, soon())
        await stream.write(framed(FIND_NODE))
        assert (await stream.read(1 << 16))[1:3] == uint_field(1, 4)
        said = await identified(host, peer)
        assert "codio-dht-test-go-peer" == said.agent
        assert {KAD, "/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0", "/ipfs/ping/1.0.0"} == said.protocols
        assert [f"{addr}/p2p/{peer.peer_id}" for addr in said.addrs] == list(peer.addrs)
        assert said.observed_addr is not None
        assert str(said.observed_addr).startswith(listen.rpartition("/")[0])
        assert await host.ping(id_of(peer), soon()) > 0
        with pytest.raises(UnsupportedProtocolError):
            await host.open_stream(id_of(peer), "/nobody/speaks/this", soon())
        await stream.write(framed(FIND_NODE))
        assert (await stream.read(1 << 16))[1:3] == uint_field(1, 4)


async def test_go_dials_us_knows_us_and_is_answered(go: PeerLauncher) -> None:
    async with go.start(refresh=False) as (peer,), made_host(TCP) as host:
        host.serve(KAD, Kad, idle_timeout_s=60.0)
        await peer.connect(addr_of(host))
        own = str(host.peer_id)

        async def known() -> bool:
            return bool((await peer.view_of(own)).agent)

        await until(known, 10, "go has identified us")
        view = await peer.view_of(own)
        assert "codio-dht/" in view.agent
        assert set(host._served.protocols()) == set(view.protocols)
        assert [str(addr) for addr in host.addrs] == list(view.addrs)
        assert [("/noise", "/yamux/1.0.0")] == [(c.security, c.muxer) for c in view.connections]
        assert await peer.ping(own) > 0
        assert await host.ping(id_of(peer), soon()) > 0
        assert RawReply("reply", FIND_NODE) == await peer.raw_rpc(own, FIND_NODE, half_close=True)
        assert RawReply("reply", FIND_NODE) == await peer.hold_stream(own, "kept", FIND_NODE)
        for _ in range(3):
            assert RawReply("reply", FIND_NODE) == await peer.request_on("kept", FIND_NODE)
        [info] = host.connections()
        assert (id_of(peer), True, view.connections[0].addr) == (
            info.peer_id,
            info.inbound,
            str(host.addrs[0]),
        )


async def test_go_hears_of_what_we_begin_and_cease_to_serve(go: PeerLauncher) -> None:
    async with go.start(refresh=False) as (peer,), made_host() as host:
        await connect(host, peer)
        await identified(host, peer)

        async def go_sees(*, kad: bool) -> None:
            async def sees() -> bool:
                return kad == (KAD in (await peer.view_of(str(host.peer_id))).protocols)

            await until(sees, 10, f"kad is {'' if kad else 'not '}seen")

        await go_sees(kad=False)
        host.serve(KAD, Kad, idle_timeout_s=60.0)
        await go_sees(kad=True)
        host.unserve(KAD)
        await go_sees(kad=False)


async def test_we_hear_when_go_is_gone_and_find_it_again(go: PeerLauncher) -> None:
    async with go.start(refresh=False) as (peer,), made_host() as host:
        for _ in range(3):
            await connect(host, peer)
            stream = await host.open_stream(id_of(peer), KAD, soon())
            await stream.write(framed(FIND_NODE))
            await stream.read(1 << 16)
            await peer.disconnect(str(host.peer_id))
            with pytest.raises(StreamError):
                await stream.read(1)
            with trio.fail_after(5):
                while host.is_connected(id_of(peer)):
                    await trio.sleep(0.01)


async def test_hundreds_of_gos_streams_leave_nothing_behind(go: PeerLauncher) -> None:
    async with go.start(refresh=False) as (peer,), made_host() as host:
        host.serve(KAD, Kad, idle_timeout_s=60.0)
        await peer.connect(addr_of(host))

        async def ask() -> None:
            for _ in range(25):
                reply = await peer.raw_rpc(str(host.peer_id), FIND_NODE, half_close=True)
                assert RawReply("reply", FIND_NODE) == reply

        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(ask)
        with trio.fail_after(10):
            while host.stats()["streams_open"] > 1:  # go's own kad stream may be kept
                await trio.sleep(0.01)
        assert 0 == host.stats()["bytes_held"]


async def test_a_go_peer_without_noise_is_dialled_again_with_tls(go: PeerLauncher) -> None:
    async with go.start(security="tls", refresh=False) as (peer,), made_host() as host:
        for _ in range(2):
            await connect(host, peer)
            assert await host.ping(id_of(peer), soon()) > 0
            view = await peer.view_of(str(host.peer_id))
            assert "/tls/1.0.0" in [connection.security for connection in view.connections]
            await host.disconnect(id_of(peer))
        assert 1 == host.stats()["dials_without_pipelining"]


async def test_a_go_peer_with_no_security_in_common_is_a_dial_error(go: PeerLauncher) -> None:
    key = PrivateKey.generate_ed25519()
    noise = [NoiseIdentity(key).security()]
    async with (
        go.start(security="tls", refresh=False) as (peer,),
        made_host(securities=noise) as host,
    ):
        with pytest.raises(DialError, match="no security protocol in common"):
            await connect(host, peer)


async def test_both_that_dial_each_other_at_once_can_ask_each_other(go: PeerLauncher) -> None:
    async with go.start(refresh=False) as (peer,), made_host() as host:
        host.serve(KAD, Kad, idle_timeout_s=60.0)
        for _ in range(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connect, host, peer)
                nursery.start_soon(peer.connect, addr_of(host))
            reply = await peer.raw_rpc(str(host.peer_id), FIND_NODE)
            assert RawReply("reply", FIND_NODE) == reply
            assert await host.ping(id_of(peer), soon()) > 0
            await host.disconnect(id_of(peer))
            await peer.disconnect(str(host.peer_id))


async def test_a_node_on_this_host_and_go_nodes_are_in_each_others_tables(
    go: PeerLauncher,
) -> None:
    async with go.start(count=4) as swarm:
        boot = swarm[0].addr
        for peer in swarm[1:]:
            await peer.connect(boot)
        async with made_host() as host, DHTManager(host, bootstrap=[boot], mode="server") as node:
            await swarm[0].until_it_knows(str(host.peer_id))

            async def complete() -> bool:
                return {id_of(peer) for peer in swarm} == set(node.routing_table_peers())

            await until(complete, 20, "all go peers in our table")
            await node.provide(CID)
            found = await swarm[3].find_providers(CID, count=1)
            assert [str(host.peer_id)] == [provider.peer_id for provider in found]
            await node.stop_providing(CID)
            other = CID[:-2] + "za"
            await swarm[2].provide(other)
            [provider] = await node.find_providers(other, count=1)
            assert id_of(swarm[2]) == provider.peer_id
