"""The sans-I/O stack against real go-libp2p peers, through the plainest of pumps."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from codio_dht.core.clock import Monotonic, UnixTime
from codio_dht.core.peer import PeerId
from codio_dht.crypto.keys import PrivateKey
from codio_dht.crypto.peer_record import open_peer_record
from codio_dht.formats.protobuf import bytes_field, read_fields, uint_field
from codio_dht.formats.varint import encode_varint
from codio_dht.net.identify.message import (
    IDENTIFY,
    IdentifyMessage,
    decode_identify,
    encode_identify,
)
from codio_dht.net.stack.channel import (
    Channel,
    ChannelAccepted,
    ChannelData,
    ChannelEof,
    ChannelRefused,
    Served,
    ServedProtocols,
)
from codio_dht.net.stack.connection import Connection, ConnectionEnded, Established
from codio_dht.net.stack.noise import NoiseIdentity
from codio_dht.net.stack.tls import TlsIdentity
from peers import Peer, PeerError, PeerLauncher, RawReply, until

pytestmark = pytest.mark.interop

KAD = "/ipfs/kad/1.0.0"
IDENTITY = PrivateKey.from_ed25519_seed(b"i" * 32)
NOISE = NoiseIdentity(IDENTITY).security()
TLS = TlsIdentity(IDENTITY, lambda: UnixTime(time.time())).security()
SECURITIES = {"noise": NOISE, "tls": TLS}
FIND_NODE = uint_field(1, 4)
IDENTIFY_MESSAGE = encode_identify(
    IdentifyMessage(
        public_key=IDENTITY.public_key().to_protobuf(),
        protocols=(IDENTIFY, KAD),
        agent="codio-dht/test",
    )
)


def framed(message: bytes) -> bytes:
    return encode_varint(len(message)) + message


def now() -> Monotonic:
    return Monotonic(trio.current_time())


class Kad:
    """Answers every framed request with an empty FIND_NODE reply."""

    requests = 0

    def feed(self, data, now):
        count = 0
        while data:
            data = data[1 + data[0] :]
            count += 1
        Kad.requests += count
        return framed(FIND_NODE) * count

    def eof(self, now):
        return b""

    def closed(self):
        pass


class Pump:
    """Runs a connection over a socket; remembers what happened."""

    def __init__(
        self, sock: trio.socket.SocketType, security: str = "noise", **options: Any
    ) -> None:
        self.sock = sock
        securities = [SECURITIES[name] for name in security.split(",")]
        self.served = ServedProtocols([Served(IDENTIFY), Served(KAD, lambda peer: Kad())])
        self.connection = Connection(
            securities=securities, served=self.served, now=now(), **options
        )
        self.events: list[Any] = []
        self.received: dict[Channel, bytes] = {}
        self.changed = trio.Event()

    async def run(self) -> None:
        connection = self.connection
        await self.flush()
        while True:
            try:
                data = await self.sock.recv(65_536)
            except OSError:
                data = b""
            events = connection.receive(data, now()) if data else connection.peer_closed()
            while connection.work_left:
                events += connection.work(now())
            for event in events:
                self.on_event(event)
            self.events += events
            try:
                await self.flush()
            except OSError:
                events += connection.peer_closed()
            self.changed.set()
            self.changed = trio.Event()
            if events and isinstance(events[-1], ConnectionEnded):
                return

    def on_event(self, event: Any) -> None:
        match event:
            case ChannelAccepted(channel):
                self.connection.streams.send(channel, framed(IDENTIFY_MESSAGE))
                self.connection.streams.close(channel, now())
            case ChannelData(channel, data):
                self.received[channel] = self.received.get(channel, b"") + data
                self.connection.streams.consume(channel, len(data))

    async def flush(self) -> None:
        data = self.connection.data_to_send()
        while data:
            data = data[await self.sock.send(data) :]

    async def until(self, condition: Callable[[], object]) -> None:
        with trio.fail_after(10):
            while not condition():
                await self.changed.wait()

    def kinds(self) -> list[type]:
        return [type(event) for event in self.events]

    def held(self) -> tuple[int, int, int]:
        mux = self.connection._yamux
        assert mux is not None
        return mux.unread_bytes, mux.unsent_bytes, len(list(mux.streams()))


@asynccontextmanager
async def dialled(peer: Peer, **options: Any) -> AsyncGenerator[Pump]:
    host, port = peer.addr.split("/")[2], int(peer.addr.split("/")[4])
    with trio.socket.socket() as sock:
        await sock.connect((host, port))
        pump = Pump(sock, initiator=True, expected=PeerId.from_base58(peer.peer_id), **options)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.run)
            yield pump
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def dialled_by(peer: Peer, security: str) -> AsyncGenerator[Pump]:
    with trio.socket.socket() as listening:
        await listening.bind(("127.0.0.1", 0))
        listening.listen()
        addr = f"/ip4/127.0.0.1/tcp/{listening.getsockname()[1]}/p2p/{IDENTITY.peer_id()}"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.connect, addr)
            sock, _ = await listening.accept()
            with sock:
                pump = Pump(sock, security, initiator=False)
                nursery.start_soon(pump.run)
                yield pump
                nursery.cancel_scope.cancel()


@pytest.mark.parametrize("pipeline", [True, False])
@pytest.mark.parametrize("security", SECURITIES)
async def test_we_dial_go_identify_it_and_get_kad_replies(
    go: PeerLauncher, security: str, pipeline: bool
) -> None:
    async with (
        go.start(security=security, refresh=False) as (peer,),
        dialled(peer, security=security, pipeline=pipeline) as pump,
    ):
        await pump.until(lambda: Established in pump.kinds())
        streams = pump.connection.streams
        identify = streams.open([IDENTIFY], now())
        kad = streams.open([KAD], now(), framed(FIND_NODE + bytes_field(2, bytes(32))))
        streams.close_write(kad)
        await pump.flush()
        await pump.until(lambda: {ChannelEof(identify), ChannelEof(kad)} <= set(pump.events))
        message = decode_identify(pump.received[identify][2:])
        assert KAD in message.protocols
        assert message.signed_peer_record is not None
        record = open_peer_record(message.signed_peer_record)
        assert peer.peer_id == str(record.peer_id)
        fields = dict(read_fields(pump.received[kad][1:], max_fields=64, layer="test"))
        assert 4 == fields[1]
        refused = streams.open(["/nobody/speaks/this"], now(), b"hello")
        again = streams.open([KAD], now(), framed(FIND_NODE + bytes_field(2, b"x" * 38)))
        await pump.flush()
        await pump.until(lambda: ChannelRefused(refused) in pump.events)
        await pump.until(lambda: again in pump.received)


@pytest.mark.parametrize("security", SECURITIES)
async def test_go_dials_us_identifies_us_and_gets_kad_replies(
    go: PeerLauncher, security: str
) -> None:
    async with (
        go.start(security=security, refresh=False) as (peer,),
        dialled_by(peer, security) as pump,
    ):
        await pump.until(lambda: Established in pump.kinds())
        own = str(IDENTITY.peer_id())

        async def identified() -> bool:
            return bool((await peer.view_of(own)).agent)

        await until(identified, 10, "go has identified us")
        view = await peer.view_of(own)
        assert ("codio-dht/test", {IDENTIFY, KAD}) == (view.agent, set(view.protocols))
        assert [(SECURITIES[security].protocol, "/yamux/1.0.0")] == [
            (c.security, c.muxer) for c in view.connections
        ]
        request = FIND_NODE + bytes_field(2, b"x" * 38)
        assert RawReply("reply", FIND_NODE) == await peer.hold_stream(own, "kept", request)
        for _ in range(3):
            assert RawReply("reply", FIND_NODE) == await peer.request_on("kept", request)
        assert RawReply("reply", FIND_NODE) == await peer.raw_rpc(own, request, half_close=True)
        await peer.close_stream("kept")


@pytest.mark.parametrize("security", SECURITIES)
async def test_hundreds_of_gos_streams_leave_nothing_behind(
    go: PeerLauncher, security: str
) -> None:
    async with (
        go.start(security=security, refresh=False) as (peer,),
        dialled_by(peer, security) as pump,
    ):
        await pump.until(lambda: Established in pump.kinds())
        own = str(IDENTITY.peer_id())

        async def ask() -> None:
            for _ in range(25):
                reply = await peer.raw_rpc(own, FIND_NODE + bytes_field(2, b"x"), half_close=True)
                assert RawReply("reply", FIND_NODE) == reply

        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(ask)
        await pump.until(lambda: pump.held()[2] <= 1)  # go's own kad stream may be kept
        assert (0, 0) == pump.held()[:2]


async def test_a_go_peer_without_noise_asks_for_an_ordinary_dial(go: PeerLauncher) -> None:
    async with go.start(security="tls", refresh=False) as (peer,), dialled(peer) as pump:
        await pump.until(lambda: ConnectionEnded in pump.kinds())
        (ended,) = pump.events
        assert ended.pipelining_refused


async def test_a_go_peer_without_noise_takes_tls_after_it_refused_noise(go: PeerLauncher) -> None:
    async with (
        go.start(security="tls", refresh=False) as (peer,),
        dialled(peer, security="noise,tls", pipeline=False) as pump,
    ):
        await pump.until(lambda: Established in pump.kinds())
        assert TLS.protocol == pump.events[0].security


async def test_go_refuses_another_identity_than_it_dialled(go: PeerLauncher) -> None:
    """Our certificate proves our identity, and nobody else's."""
    stranger = PrivateKey.from_ed25519_seed(b"s" * 32).peer_id()
    async with go.start(security="tls", refresh=False) as (peer,):
        with trio.socket.socket() as listening:
            await listening.bind(("127.0.0.1", 0))
            listening.listen()
            addr = f"/ip4/127.0.0.1/tcp/{listening.getsockname()[1]}/p2p/{stranger}"
            async with trio.open_nursery() as nursery:

                async def answer() -> None:
                    sock, _ = await listening.accept()
                    with sock:
                        await Pump(sock, "tls", initiator=False).run()

                nursery.start_soon(answer)
                with pytest.raises(PeerError, match="peer id mismatch"):
                    await peer.connect(addr)
                nursery.cancel_scope.cancel()
