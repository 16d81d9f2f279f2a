"""Our host over QUIC, and go-libp2p over QUIC: both ways, on IPv4 and IPv6."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from multiaddr import Multiaddr

from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.crypto.keys import PrivateKey
from codio_dht.errors import DialError
from codio_dht.formats.protobuf import bytes_field, read_fields, uint_field
from codio_dht.formats.varint import encode_varint
from codio_dht.net.host import PeerIdentified
from codio_dht.net.quic import strangers
from codio_dht.net.stack_host import StackHost, make_stack_host
from peers import Peer, PeerError, PeerLauncher, RawReply, until

pytestmark = pytest.mark.interop

KAD = "/ipfs/kad/1.0.0"
FIND_NODE = uint_field(1, 4)
REQUEST = FIND_NODE + bytes_field(2, b"x" * 38)
PLACES = pytest.mark.parametrize("place", ["/ip4/127.0.0.1", "/ip6/::1"], ids=["ip4", "ip6"])


def soon() -> Monotonic:
    return Monotonic(trio.current_time() + 10.0)


def framed(message: bytes) -> bytes:
    return encode_varint(len(message)) + message


class Kad:
    """Answers every framed request with an empty FIND_NODE reply."""

    def feed(self, data, now):
        count = 0
        while data:
            data = data[1 + data[0] :]
            count += 1
        return framed(FIND_NODE) * count

    def eof(self, now):
        return b""

    def closed(self):
        pass


@asynccontextmanager
async def our_host(place: str = "/ip4/127.0.0.1") -> AsyncGenerator[StackHost]:
    listen = Multiaddr(f"{place}/udp/0/quic-v1")
    async with make_stack_host(PrivateKey.generate_ed25519(), [listen]) as host:
        host.serve(KAD, lambda peer_id: Kad(), idle_timeout_s=60.0)
        yield host


async def connect(host: StackHost, peer: Peer) -> PeerId:
    peer_id = PeerId.from_string(peer.peer_id)
    addr = Multiaddr(peer.addr.rpartition("/p2p/")[0])
    await host.connect(peer_id, [addr], soon())
    return peer_id


async def identified(host: StackHost) -> PeerIdentified:
    async with host.events() as events:
        async for event in events:
            if isinstance(event, PeerIdentified):
                return event
    raise AssertionError("the host ended")


@PLACES
async def test_we_dial_go_identify_it_ping_it_and_get_kad_replies(
    go: PeerLauncher, place: str
) -> None:
    listen = [f"{place}/udp/0/quic-v1"]
    async with go.start(listen=listen, refresh=False) as (peer,), our_host(place) as host:
        peer_id = await connect(host, peer)
        said = await identified(host)
        assert KAD in said.protocols
        assert "codio-dht-test-go-peer" == said.agent
        assert 0.0 < await host.ping(peer_id, soon()) < 5.0
        for _ in range(3):
            stream = await host.open_stream(peer_id, KAD, soon())
            await stream.write(framed(REQUEST))
            reply = await stream.read(64 * 1024)
            fields = dict(read_fields(reply[1:], max_fields=64, layer="test"))
            assert 4 == fields[1]
            await stream.close()


@PLACES
async def test_go_dials_us_identifies_us_pings_us_and_gets_kad_replies(
    go: PeerLauncher, place: str
) -> None:
    listen = [f"{place}/udp/0/quic-v1"]
    async with go.start(listen=listen, refresh=False) as (peer,), our_host(place) as host:
        own = str(host.peer_id)
        await peer.connect(f"{host.addrs[0]}/p2p/{own}")
        await peer.until_it_knows(own)  # identified, probed, and in its routing table
        view = await peer.view_of(own)
        assert KAD in view.protocols
        assert [(str(host.addrs[0]), False)] == [(c.addr, c.inbound) for c in view.connections]
        assert await peer.ping(own) < 5.0
        assert RawReply("reply", FIND_NODE) == await peer.hold_stream(own, "kept", REQUEST)
        for _ in range(3):
            assert RawReply("reply", FIND_NODE) == await peer.request_on("kept", REQUEST)
        assert RawReply("reply", FIND_NODE) == await peer.raw_rpc(own, REQUEST, half_close=True)
        await peer.close_stream("kept")


async def test_hundreds_of_gos_streams_leave_nothing_behind(go: PeerLauncher) -> None:
    listen = ["/ip4/127.0.0.1/udp/0/quic-v1"]
    async with go.start(listen=listen, refresh=False) as (peer,), our_host() as host:
        own = str(host.peer_id)
        await peer.connect(f"{host.addrs[0]}/p2p/{own}")

        async def ask() -> None:
            for _ in range(25):
                reply = await peer.raw_rpc(own, REQUEST, half_close=True)
                assert RawReply("reply", FIND_NODE) == reply

        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(ask)

        async def quiet() -> bool:
            stats = host.stats()  # one stream of go's own, for kad, may be kept
            return stats["streams_open"] <= 1 and not stats["bytes_held"]

        await until(quiet, 10, "all streams are over, and go has everything")
        assert "connection_bugs" not in host.stats()


async def test_go_answers_our_retry(go: PeerLauncher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "MAX_UNPROVEN_HANDSHAKES", 0)
    listen = ["/ip4/127.0.0.1/udp/0/quic-v1"]
    async with go.start(listen=listen, refresh=False) as (peer,), our_host() as host:
        await peer.connect(f"{host.addrs[0]}/p2p/{host.peer_id}")
        assert 1 <= host.stats()["quic_retries"]
        assert RawReply("reply", FIND_NODE) == await peer.raw_rpc(str(host.peer_id), REQUEST)


async def test_neither_side_takes_another_identity(go: PeerLauncher) -> None:
    stranger = PrivateKey.from_ed25519_seed(b"s" * 32).peer_id()
    listen = ["/ip4/127.0.0.1/udp/0/quic-v1"]
    async with go.start(listen=listen, refresh=False) as (peer,), our_host() as host:
        with pytest.raises(PeerError, match="peer id mismatch"):
            await peer.connect(f"{host.addrs[0]}/p2p/{stranger}")
        addr = Multiaddr(peer.addr.rpartition("/p2p/")[0])
        with pytest.raises(DialError, match="another peer than expected"):
            await host.connect(stranger, [addr], soon())
        assert [] == host.connections()
