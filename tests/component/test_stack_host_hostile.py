"""What hostile peers, and very many of them, do to the host on our own stack: nothing.

Limits by IP exempt loopback; their tests switch that off and come from many 127.x.y.z.
"""

from __future__ import annotations

import random
import resource
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from struct import Struct
from typing import Any

import pytest
import trio
import trio.lowlevel
from multiaddr import Multiaddr

from codio_dht.core.clock import Monotonic
from codio_dht.core.origins import Account, Flow, Stock
from codio_dht.core.peer import PeerId
from codio_dht.crypto.keys import PrivateKey
from codio_dht.errors import DialError, StreamError, UsageError
from codio_dht.net import inbound_links
from codio_dht.net.charging import STREAMS_STEP
from codio_dht.net.host import ConnectionInfo
from codio_dht.net.identify.message import IDENTIFY, IDENTIFY_PUSH
from codio_dht.net.inbound_links import Arrivals
from codio_dht.net.limits import ARRIVALS_PER_IP_PER_S, MAX_ARRIVALS_PER_IP
from codio_dht.net.link import now
from codio_dht.net.stack import connection as connection_module
from codio_dht.net.stack.channel import ChannelData, ChannelReset
from codio_dht.net.stack.connection import Established
from codio_dht.net.stack.multistream import HEADER, encode_message
from codio_dht.net.stack_host import Gate, Limits, StackHost, connections, pump
from codio_dht.net.targets import of_socket
from host_steps import ECHO, IDLE_S, Echo, Echoes, ask, connect, echo_of, identified, soon, until
from stack_hosts import RawPeer, made_host, quicken, quiet, raw_peer, raw_socket

FRAME = Struct(">BBHII")
DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8


def frame(kind: int, flags: int, stream_id: int, length: int, body: bytes = b"") -> bytes:
    return FRAME.pack(0, kind, flags, stream_id, length) + body


def opening(stream_id: int, plain: bytes) -> bytes:
    """A new stream and its first bytes."""
    return frame(DATA, SYN, stream_id, len(plain), plain)


def proposal(protocol: str) -> bytes:
    return HEADER + encode_message(protocol.encode())


@asynccontextmanager
async def echo_server(**options) -> AsyncGenerator[tuple[StackHost, Echoes]]:
    async with made_host(**options) as server:
        echoes = Echoes()
        server.serve(ECHO, echoes, idle_timeout_s=IDLE_S)
        yield server, echoes


async def is_well(server: StackHost) -> None:
    """A newcomer is served."""
    async with made_host() as client:
        await connect(client, server)
        assert b"hello" == await echo_of(client, server)


def rss_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


# --- garbage --------------------------------------------------------------------------------------


def garbage(seed: int) -> bytes:
    rng = random.Random(seed)
    return rng.randbytes(rng.choice((1, 17, 200, 5_000, 70_000)))


RAW_OPENINGS = {
    "nothing but garbage": b"",
    "behind the header": HEADER,
    "behind the proposal": proposal("/noise"),
    "in a noise frame": proposal("/noise") + b"\x00\x20",
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a huge length": b"\xff\xff\xff\xff\x0f",
    "not UTF-8": HEADER + b"\x05\xff\xfe\xff\xfe\n",
    "an endless list of proposals": HEADER + encode_message(b"/no") * 100,
}


@pytest.mark.parametrize("begin", RAW_OPENINGS.values(), ids=RAW_OPENINGS)
async def test_garbage_before_authentication_ends_its_connection_only(begin: bytes) -> None:
    async with echo_server() as (server, _), made_host() as client:
        await connect(client, server)
        before = await quiet()
        for seed in range(20):
            async with raw_socket(server) as sock:
                with suppress(trio.BrokenResourceError):
                    await sock.send_all(begin + garbage(seed))
                    if seed % 2:
                        await sock.send_eof()
                    with trio.move_on_after(0.02):
                        await sock.receive_some()
        await until(lambda: server.stats()["connections_pending"] == 0)
        assert before == await quiet()
        assert b"hello" == await echo_of(client, server)
        assert "connection_bugs" not in server.stats()


@pytest.mark.parametrize("protocol", ["/plaintext/2.0.0", "/plaintext/1.0.0", "/secio/1.0.0"])
async def test_nothing_is_spoken_but_noise_and_tls(protocol: str) -> None:
    """R17 of py-libp2p: a peer may choose to be neither encrypted nor authenticated."""
    async with echo_server() as (server, _), raw_socket(server) as sock:
        await sock.send_all(proposal(protocol))
        expected = HEADER + encode_message(b"na")
        answer = b""
        while len(answer) < len(expected):
            data = await sock.receive_some(1000)
            assert data, answer
            answer += data
        assert expected == answer


async def test_garbage_under_the_encryption_ends_its_connection_only() -> None:
    async with echo_server() as (server, _):
        for seed in range(10):
            async with raw_peer(server) as peer:
                with suppress(trio.BrokenResourceError):
                    await peer.sock.send_all(garbage(seed) + bytes(70_000))
                    await peer.receive_all()
        await until(lambda: server.stats()["connections_open"] == 0)
        assert "connection_bugs" not in server.stats()
        await is_well(server)


async def test_garbage_frames_end_their_connection_only() -> None:
    async with echo_server() as (server, _):
        for seed in range(10):
            async with raw_peer(server) as peer:
                with suppress(trio.BrokenResourceError):
                    await peer.send_plain(b"\x07" + garbage(seed) + bytes(12))
                    with trio.fail_after(30):
                        await peer.receive_all()
        await until(lambda: server.stats()["connections_open"] == 0)
        assert "connection_bugs" not in server.stats()
        await is_well(server)


STREAM_GARBAGE = {
    "not multistream": b"\x05hello",
    "not UTF-8": HEADER + b"\x05\xff\xfe\xff\xfe\n",
    "a huge length": b"\xff\xff\xff\xff\x0f",
    "behind identify": proposal(IDENTIFY) + b"\xff" * 500,
    "behind identify push": proposal(IDENTIFY_PUSH) + b"\xff" * 500,
    "behind ping": proposal("/ipfs/ping/1.0.0") + b"\xff" * 500,
}


@pytest.mark.parametrize("plain", STREAM_GARBAGE.values(), ids=STREAM_GARBAGE)
async def test_garbage_on_a_stream_ends_that_stream_only(plain: bytes) -> None:
    async with echo_server() as (server, _), raw_peer(server) as peer:
        await peer.send_plain(opening(101, plain) + frame(DATA, FIN, 101, 0))
        channel = peer.connection.streams.open([ECHO], Monotonic(0.0), b"hello")
        await peer.flush()
        with trio.fail_after(30):
            while not any(isinstance(e, ChannelData) and e.channel is channel for e in peer.events):
                assert await peer.receive()
        assert "connection_bugs" not in server.stats()


# --- many sockets ---------------------------------------------------------------------------------


@pytest.mark.deadline_s(60)
async def test_three_hundred_idle_sockets_keep_none_of_four_hundred_clients_out() -> None:
    async with echo_server() as (server, _), AsyncExitStack() as stack:
        before = await quiet()
        for _ in range(300):
            await stack.enter_async_context(raw_socket(server))
        await until(lambda: server.stats()["connections_pending"] == 300)
        served: list[bytes] = []
        all_there = trio.Event()

        async def client() -> None:
            async with raw_peer(server) as peer:
                channel = peer.connection.streams.open([ECHO], Monotonic(0.0), b"hello")
                await peer.flush()
                while not any(
                    isinstance(e, ChannelData) and e.channel is channel for e in peer.events
                ):
                    assert await peer.receive()
                served.append(b"hello")
                if len(served) == 400:
                    all_there.set()
                await all_there.wait()

        async with trio.open_nursery() as nursery:
            for _ in range(400):
                nursery.start_soon(client)
            with trio.fail_after(40):
                await all_there.wait()
        await stack.aclose()
        await until(lambda: server.stats()["connections_open"] == 0)
        assert before == await quiet()


async def test_a_socket_that_says_nothing_is_closed_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quicken(monkeypatch)
    monkeypatch.setattr(connection_module, "HANDSHAKE_STAGE_TIMEOUT_S", 0.1)
    async with echo_server() as (server, _):
        for sent in (b"", HEADER, proposal("/noise")):
            async with raw_socket(server) as sock:
                await sock.send_all(sent)
                with trio.fail_after(30):
                    while await sock.receive_some():
                        pass
        assert 0 == server.stats()["connections_pending"]


async def test_of_too_many_handshakes_the_oldest_makes_room() -> None:
    limits = Limits(max_pending=10)
    async with echo_server(limits=limits) as (server, _), AsyncExitStack() as stack:
        socks = [await stack.enter_async_context(raw_socket(server)) for _ in range(25)]
        await until(lambda: server.stats().get("inbound_pending_dropped") == 15)
        for sock in socks[:15]:
            assert b"" == await sock.receive_some()
        assert 10 == server.stats()["connections_pending"]
        await is_well(server)


@pytest.mark.deadline_s(60)
async def test_a_thousand_connections_that_come_and_go_leave_nothing_behind() -> None:
    async with echo_server() as (server, echoes):
        await is_well(server)
        await until(lambda: server.stats()["connections_open"] == 0)
        idle, before = await quiet(), rss_mib()
        limiter = trio.CapacityLimiter(20)

        async def visit(number: int) -> None:
            async with limiter, raw_peer(server) as peer:
                channel = peer.connection.streams.open([ECHO], Monotonic(0.0), b"hello")
                await peer.flush()
                while not any(
                    isinstance(e, ChannelData) and e.channel is channel for e in peer.events
                ):
                    assert await peer.receive()
                if number % 3 == 0:
                    peer.connection.close()
                    await peer.flush()

        async with trio.open_nursery() as nursery:
            for number in range(1_000):
                nursery.start_soon(visit, number)
        await until(lambda: server.stats()["connections_open"] == 0)
        assert idle == await quiet()
        stats = server.stats()
        assert {0} == {stats[name] for name in ("bytes_held", "streams_open", "peers_identified")}
        assert {1} == set(echoes.times_closed)
        assert rss_mib() - before < 20
        assert not server._connections._by_peer
        assert not server._admission._of_ip
        await is_well(server)


async def test_when_the_system_gives_no_more_sockets_accepting_pauses_and_goes_on() -> None:
    async with echo_server() as (server, _):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (500, hard))
        files = []
        try:
            with suppress(OSError):
                while True:
                    files.append(socket.socket())
            files.pop().close()
            async with raw_socket(server):  # which takes the last one
                await until(lambda: server.stats().get("accept_failed", 0) > 0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for file in files:
                file.close()
        await is_well(server)


# --- many streams ---------------------------------------------------------------------------------


async def test_ten_thousand_streams_of_one_peer_are_bounded_and_harm_nobody_else() -> None:
    async with echo_server() as (server, _), made_host() as client, raw_peer(server) as peer:
        await connect(client, server)
        before = rss_mib()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.receive_all)
            for batch in range(100):
                ids = range(1_001 + batch * 200, 1_001 + (batch + 1) * 200, 2)
                await peer.send_plain(b"".join(opening(i, proposal(ECHO) + b"x") for i in ids))
                await trio.lowlevel.checkpoint()
            await until(lambda: server.stats()["streams_open"] >= 512)
            assert b"hello" == await echo_of(client, server)
            assert server.stats()["streams_open"] <= 512 + 4
            assert rss_mib() - before < 20
            nursery.cancel_scope.cancel()


async def test_past_the_bound_on_all_streams_the_connection_with_most_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quicken(monkeypatch)
    async with (
        echo_server(limits=Limits(max_streams=100)) as (server, _),
        made_host() as client,
        raw_peer(server) as peer,
    ):
        await connect(client, server)
        ids = range(1_001, 1_301, 2)
        await peer.send_plain(b"".join(opening(i, proposal(ECHO) + b"x") for i in ids))
        await until(lambda: server.stats().get("connections_shed:streams") == 1)
        with trio.fail_after(30):
            await peer.receive_all()
        assert b"hello" == await echo_of(client, server)


@pytest.mark.deadline_s(60)
async def test_twelve_hundred_cancelled_opens_leave_the_connection_whole() -> None:
    async with echo_server() as (server, echoes), made_host() as client:
        await connect(client, server)
        await identified(client, server.peer_id)
        await identified(server, client.peer_id)
        await until(lambda: client.stats()["streams_open"] == 0)
        before = await quiet()

        async def use(patience_s: float, protocol: str) -> None:
            with trio.move_on_after(patience_s), suppress(StreamError):
                stream = await client.open_stream(server.peer_id, protocol, soon())
                try:
                    await ask(stream, b"x" * 3_000)
                finally:
                    await stream.reset()

        for batch in range(60):
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    protocol = ECHO if number % 4 else "/nobody/speaks/this"
                    nursery.start_soon(use, (batch * 20 + number) * 0.000_01, protocol)
        assert await client.ping(server.peer_id, soon()) > 0
        await until(lambda: server.stats()["streams_open"] == 0)
        await until(lambda: client.stats()["streams_open"] == 0)
        assert before == await quiet()
        assert 1 == len(client.connections())
        assert 0 == client.stats()["bytes_held"] == server.stats()["bytes_held"]
        assert {1} == set(echoes.times_closed)


@pytest.mark.parametrize("at", ["open", "write", "read", "close_write"])
async def test_a_call_cancelled_at_its_first_await_does_no_harm(at: str) -> None:
    async with echo_server() as (server, _), made_host() as client:
        await connect(client, server)
        stream = await client.open_stream(server.peer_id, ECHO, soon())
        with trio.CancelScope() as scope:
            scope.cancel()
            if at == "open":
                await client.open_stream(server.peer_id, ECHO, soon())
            elif at == "write":
                await stream.write(b"x")
            elif at == "read":
                await stream.read(1)
            else:
                await stream.close_write()
        assert scope.cancelled_caught
        if at == "write":
            with pytest.raises(StreamError):
                await stream.read(1)
        elif at == "close_write":
            assert b"" == await stream.read(1)
        else:
            assert b"hello" == await ask(stream, b"hello")
        await stream.close()
        assert b"hello" == await echo_of(client, server)
        await until(lambda: client.stats()["streams_open"] == 0)


# --- many bytes -----------------------------------------------------------------------------------


async def test_a_window_flood_ends_its_connection() -> None:
    async with echo_server() as (server, _), raw_peer(server) as peer:
        before = rss_mib()
        await peer.send_plain(opening(101, proposal(ECHO)))
        with suppress(trio.BrokenResourceError), trio.fail_after(30):
            for _ in range(2_000):
                await peer.send_plain(frame(DATA, 0, 101, 60_000, bytes(60_000)))
        await until(lambda: server.stats()["connections_open"] == 0)
        assert rss_mib() - before < 20
        assert 0 == server.stats()["bytes_held"]


async def test_what_nobody_reads_is_bounded_by_the_window_and_then_by_the_connection() -> None:
    async def hold(_) -> None:
        await trio.sleep_forever()

    async with made_host() as server, raw_peer(server) as peer:
        server.serve_stream("/hold", hold)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.receive_all)
            for stream_id in range(1_001, 1_041, 2):  # twenty windows of 256 KiB
                await peer.send_plain(opening(stream_id, proposal("/hold")))
                for _ in range(4):
                    await peer.send_plain(frame(DATA, 0, stream_id, 60_000, bytes(60_000)))
            await until(lambda: server.stats()["bytes_held"] > 3_900_000)
            assert server.stats()["bytes_held"] <= 4 * 1024 * 1024
            nursery.cancel_scope.cancel()


class Generous(Echo):
    """Answers each byte fifty times."""

    def feed(self, data, now):
        return fifty_times(data)


def fifty_times(data: bytes) -> bytes:
    return b"".join(bytes([byte]) * 50 for byte in data)


async def test_a_peer_that_does_not_read_is_answered_no_more_and_then_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pump, "WRITE_TIMEOUT_S", 2.5)
    async with made_host() as server, made_host() as client, raw_peer(server) as peer:
        server.serve("/generous", Echoes(Generous), idle_timeout_s=IDLE_S)
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        await connect(client, server)
        before = rss_mib()
        credit = frame(WINDOW_UPDATE, 0, 101, 1 << 30)
        await peer.send_plain(opening(101, proposal("/generous")) + credit)
        for _ in range(130):  # a window's worth, for 13 million bytes of answers
            await peer.send_plain(frame(DATA, 0, 101, 2_000, b"x" * 2_000))
        await until(lambda: server.stats()["bytes_held"] > 256 * 1024)
        await trio.sleep(0.1)
        assert server.stats()["bytes_held"] < 1024 * 1024
        assert rss_mib() - before < 30
        assert b"hello" == await echo_of(client, server)
        await until(lambda: server.stats()["connections_open"] == 1)
        assert 1 == server.stats()["connections_write_timeout"]


async def test_what_waits_for_a_peer_that_does_not_read_ends_its_connection_at_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pump, "MAX_BACKLOG_BYTES", 1024 * 1024)
    async with made_host() as server, raw_peer(server) as peer, trio.open_nursery() as nursery:
        peer_id = peer.key.peer_id()

        async def write() -> None:
            with suppress(StreamError):
                stream = await server.open_stream(peer_id, ECHO, soon())
                await stream.write(bytes(64 * 1024))

        await until(lambda: server.is_connected(peer_id))
        for _ in range(200):  # 13 million bytes, of which the system takes a few
            nursery.start_soon(write)
        await until(lambda: not server.is_connected(peer_id))
        assert 1 == server.stats()["connections_backlog_full"]
        nursery.cancel_scope.cancel()


async def test_who_proves_our_own_identity_is_not_let_in() -> None:
    key = PrivateKey.generate_ed25519()
    async with made_host(key=key) as server, raw_socket(server) as sock:
        peer = RawPeer(sock, key=key)
        await peer.handshake()
        await peer.receive_all()
        await until(lambda: server.stats().get("peers_refused:own identity") == 1)
        assert [] == server.connections()


async def test_a_peer_that_reads_late_gets_everything_in_order() -> None:
    async with made_host() as server, raw_peer(server) as peer:
        server.serve("/generous", Echoes(Generous), idle_timeout_s=IDLE_S)
        letters = bytes(range(65, 91)) * 8_000  # ten million bytes of answers
        await peer.send_plain(
            opening(101, proposal("/generous")) + frame(WINDOW_UPDATE, 0, 101, 1 << 30)
        )
        for at in range(0, len(letters), 50_000):
            piece = letters[at : at + 50_000]
            await peer.send_plain(frame(DATA, 0, 101, len(piece), piece))
        # More waits than the socket takes, and than is answered.
        await until(lambda: server.stats()["bytes_held"] > 100_000)
        expected = proposal("/generous") + fifty_times(letters)
        layer, bodies, received = peer.connection._layer, Bodies(), bytearray()
        assert layer is not None
        with trio.fail_after(30):
            while len(received) < len(expected):
                received += bodies.take(layer.receive(await peer.sock.receive_some(1 << 20)))
        assert expected == received
        await until(lambda: server.stats()["bytes_held"] == 0)


class Bodies:
    """What arrives on stream 101."""

    def __init__(self) -> None:
        self._frames = bytearray()

    def take(self, plain: bytes) -> bytes:
        self._frames += plain
        out, at = bytearray(), 0
        while len(self._frames) - at >= FRAME.size:
            _, kind, _, stream_id, length = FRAME.unpack_from(self._frames, at)
            end = at + FRAME.size + (length if kind == DATA else 0)
            if end > len(self._frames):
                break
            if stream_id == 101:
                out += self._frames[at + FRAME.size : end]
            at = end
        del self._frames[:at]
        return bytes(out)


async def test_past_the_bound_on_all_bytes_the_connection_that_holds_most_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quicken(monkeypatch)

    async def hold(_) -> None:
        await trio.sleep_forever()

    async with (
        echo_server(limits=Limits(max_buffered_bytes=150_000)) as (server, _),
        made_host() as client,
        raw_peer(server) as peer,
    ):
        server.serve_stream("/hold", hold)
        await connect(client, server)
        await peer.send_plain(opening(101, proposal("/hold")))
        for _ in range(4):
            await peer.send_plain(frame(DATA, 0, 101, 60_000, bytes(60_000)))
        await until(lambda: server.stats().get("connections_shed:bytes") == 1)
        assert b"hello" == await echo_of(client, server)
        assert 1 == server.stats()["connections_open"]


# --- limits by IP ---------------------------------------------------------------------------------


async def is_admitted(server: StackHost, stack: AsyncExitStack, source: str) -> bool:
    """Whether a connection from ``source`` is served; it stays open."""
    sock = await stack.enter_async_context(raw_socket(server, source))
    peer = RawPeer(sock)
    try:
        await peer.flush()
        return await peer.receive()
    except trio.BrokenResourceError:
        return False


async def test_connections_of_one_ip_and_of_one_subnet_are_limited_before_the_handshake() -> None:
    limits = Limits(per_ip=3, per_subnet=5, exempt_local=False)
    async with echo_server(limits=limits) as (server, _), AsyncExitStack() as stack:
        sources = ["127.1.1.1"] * 4 + ["127.1.1.2"] * 3 + ["127.1.2.1"] * 2
        admitted = [await is_admitted(server, stack, source) for source in sources]
        assert [True] * 3 + [False] + [True] * 2 + [False] + [True] * 2 == admitted
        stats = server.stats()
        assert 1 == stats["inbound_refused:too many of one IP"]
        assert 1 == stats["inbound_refused:too many of one subnet"]
        await stack.aclose()
        await until(lambda: server.stats()["connections_pending"] == 0)
        async with AsyncExitStack() as again:
            assert await is_admitted(server, again, "127.1.1.1")


async def test_limits_by_ip_hold_after_the_handshake_too() -> None:
    limits = Limits(per_ip=2, exempt_local=False)
    async with echo_server(limits=limits) as (server, _), AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(raw_peer(server, "127.1.1.1"))
        await until(lambda: server.stats()["connections_open"] == 2)
        assert not await is_admitted(server, stack, "127.1.1.1")
        assert await is_admitted(server, stack, "127.1.1.2")


async def test_an_origin_that_owes_much_time_begins_no_more_connections_and_others_do() -> None:
    limits = Limits(exempt_local=False)
    async with echo_server(limits=limits) as (server, _), AsyncExitStack() as stack:
        heavy = server.origins.subnet(bytes([127, 1, 1, 1]))
        server.origins.spend(heavy, Flow.CPU, 1_000.0, Monotonic(trio.current_time()))
        assert not await is_admitted(server, stack, "127.1.1.2")
        assert await is_admitted(server, stack, "127.2.1.1")
        assert 1 == server.stats()["inbound_refused:too much work for one origin"]


async def test_a_connection_that_holds_too_much_for_its_origin_is_closed_and_others_live() -> None:
    limits = Limits(exempt_local=False)
    async with echo_server(limits=limits) as (server, _), AsyncExitStack() as stack:
        heavy = await stack.enter_async_context(raw_peer(server, "127.1.1.1"))
        light = await stack.enter_async_context(raw_peer(server, "127.2.1.1"))
        await until(lambda: server.stats()["connections_open"] == 2)
        subnet = server.origins.subnet(bytes([127, 1, 1, 1]))
        server.origins.force(subnet, Stock.STREAMS, 1_000_000)
        for _ in range(2 * STREAMS_STEP):
            heavy.connection.streams.open([ECHO], now(), b"x")
        await heavy.flush()
        await until(lambda: server.stats()["connections_open"] == 1)
        assert 1 == server.stats()["connections_shed:streams of one origin"]
        assert server.is_connected(light.key.peer_id())


async def test_a_peer_tells_one_change_at_a_time_and_a_later_one_takes_its_place() -> None:
    async with echo_server() as (server, _), raw_peer(server) as peer:
        streams = peer.connection.streams
        first = streams.open([IDENTIFY_PUSH], now(), b"\x7f" + b"a" * 100)
        await peer.flush()
        await until(lambda: server.stats()["bytes_held"] == 101)
        streams.open([IDENTIFY_PUSH], now(), b"\x7f" + b"b" * 50)
        await peer.flush()
        await until(lambda: server.stats()["bytes_held"] == 152)
        streams.send(first, b"a")
        await peer.flush()
        await until(lambda: server.stats()["bytes_held"] == 51)
        assert 1 == server.stats()["stream_reset:a later push has begun"]


async def test_a_request_that_comes_with_the_end_of_the_handshake_is_charged_as_well() -> None:
    payers: list[object] = []

    class Asking(Echo):
        def feed(self, data: bytes, now: Monotonic) -> Any:
            payers.append(server.account(peer.key.peer_id()))
            return super().feed(data, now)

    async with echo_server(limits=Limits(exempt_local=False)) as (server, _):
        server.serve("/asking", lambda peer_id: Asking(), idle_timeout_s=IDLE_S)
        async with raw_socket(server, "127.1.1.1") as sock:
            peer = RawPeer(sock)
            while not any(isinstance(event, Established) for event in peer.events):
                await sock.send_all(peer.connection.data_to_send())
                assert await peer.receive()
            peer.connection.streams.open(["/asking"], now(), b"x")
            await peer.flush()
            await until(lambda: bool(payers))
        assert [True] == [isinstance(payer, Account) for payer in payers]
        assert {} == server._admitted


async def test_an_origin_pays_for_processor_time_and_not_for_time_that_passed() -> None:
    fed = 0

    class Waiting(Echo):
        def feed(self, data: bytes, now: Monotonic) -> Any:
            nonlocal fed
            time.sleep(0.3)  # as if the system ran something else
            fed += 1
            return super().feed(data, now)

    async with (
        echo_server(limits=Limits(exempt_local=False)) as (server, _),
        raw_peer(server, "127.1.1.1") as peer,
    ):
        server.serve("/waiting", lambda peer_id: Waiting(), idle_timeout_s=IDLE_S)
        for _ in range(3):
            peer.connection.streams.open(["/waiting"], now(), b"x")
        await peer.flush()
        await until(lambda: fed == 3)
        assert 0 == server.stats().get("turns_delayed", 0)


async def test_a_peer_that_tells_changes_all_the_time_is_not_heard() -> None:
    limits = Limits(exempt_local=False)
    async with echo_server(limits=limits) as (server, _), raw_peer(server, "127.1.1.1") as peer:
        for _ in range(100):
            channel = peer.connection.streams.open([IDENTIFY_PUSH], now(), b"\x00")
            peer.connection.streams.close_write(channel)
            await peer.flush()
        await until(lambda: "stream_reset:too many pushes" in server.stats())


async def test_loopback_is_not_limited_by_ip_unless_asked_for() -> None:
    async with echo_server(limits=Limits(per_ip=2)) as (server, _), AsyncExitStack() as stack:
        for _ in range(10):
            assert await is_admitted(server, stack, "127.0.0.1")


async def test_one_ip_that_comes_again_and_again_is_refused_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inbound_links, "MAX_ARRIVALS_PER_IP", 5)
    async with echo_server(limits=Limits(exempt_local=False)) as (server, _):
        admitted = []
        for _ in range(8):
            async with AsyncExitStack() as stack:
                admitted.append(await is_admitted(server, stack, "127.1.1.1"))
        async with AsyncExitStack() as stack:
            assert await is_admitted(server, stack, "127.1.1.2")
        assert server.stats()["inbound_refused:too often from one IP"] == admitted.count(False) > 0


def test_arrivals_are_counted_by_ip_refill_with_time_and_are_bounded() -> None:
    arrivals = Arrivals(capacity=3)
    most = MAX_ARRIVALS_PER_IP
    assert most == sum(arrivals.may_come(b"a", Monotonic(0.0)) for _ in range(most + 9))
    assert arrivals.may_come(b"b", Monotonic(0.0))
    later = Monotonic(2.0)
    refilled = int(2 * ARRIVALS_PER_IP_PER_S)
    assert refilled == sum(arrivals.may_come(b"a", later) for _ in range(most))
    for number in range(10):
        arrivals.may_come(bytes([number]), later)
    assert 3 == len(arrivals)


def test_an_ipv6_user_is_a_56_and_an_ipv4_user_an_address() -> None:
    one, two, three = (
        of_socket((text, 1, 0, 0)).ip
        for text in ("2606:1:2:3300::1", "2606:1:2:33ff::9", "2606:1:2:4400::1")
    )
    assert one.one == two.one != three.one
    assert one.subnet == three.subnet
    four, mapped = of_socket(("1.2.3.4", 1)), of_socket(("::ffff:1.2.3.4", 1, 0, 0))
    assert four == mapped
    assert (bytes([1, 2, 3, 4]), bytes([1, 2, 3])) == (four.ip.one, four.ip.subnet)


# --- the connection manager -----------------------------------------------------------------------


@asynccontextmanager
async def visitors(server: StackHost, count: int) -> AsyncGenerator[list[StackHost]]:
    """Hosts connected one after the other."""
    async with AsyncExitStack() as stack:
        hosts = []
        for _ in range(count):
            hosts.append(await stack.enter_async_context(made_host()))
            await connect(hosts[-1], server)
            await identified(server, hosts[-1].peer_id)
        yield hosts


async def test_above_high_water_the_idlest_go_and_protected_ones_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quicken(monkeypatch)
    limits = Limits(high_water=7, low_water=4, grace_s=0.0)
    async with echo_server(limits=limits) as (server, _), visitors(server, 7) as hosts:
        server.protect(hosts[1].peer_id, "table")
        await trio.sleep(0.1)
        assert 7 == len(server.connections())
        await echo_of(hosts[2], server)
        async with made_host() as last:
            await connect(last, server)
            await until(lambda: len(server.connections()) == 4)
            left = {info.peer_id for info in server.connections()}
        assert {hosts[1].peer_id, hosts[2].peer_id, hosts[6].peer_id, last.peer_id} == left
        assert 4 == server.stats()["connections_trimmed"]
        assert not server.unprotect(hosts[1].peer_id, "table")


async def test_young_connections_are_not_closed_to_make_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quicken(monkeypatch)
    limits = Limits(high_water=2, low_water=1, grace_s=30.0)
    async with echo_server(limits=limits) as (server, _), visitors(server, 4):
        await trio.sleep(0.2)
        assert 4 == len(server.connections())


async def test_at_the_maximum_an_old_one_makes_room_or_the_new_one_is_refused() -> None:
    limits = Limits(max_connections=4, grace_s=0.0)
    async with (
        echo_server(limits=limits) as (server, _),
        visitors(server, 4) as hosts,
        visitors(server, 1) as [another],
    ):
        assert server.is_connected(another.peer_id)
        assert not server.is_connected(hosts[0].peer_id)
        async with visitors(server, 4 - len(server.connections())) as more:
            for host in [*hosts, another, *more]:
                server.protect(host.peer_id, "test")
            async with made_host() as refused:
                with suppress(DialError):
                    await connect(refused, server)
                await until(lambda: not refused.connections())
                with pytest.raises(DialError, match="too many connections"):
                    await server.connect(refused.peer_id, refused.addrs, soon())


async def test_one_peer_has_a_bound_on_its_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS_PER_PEER", 3)
    key = PrivateKey.generate_ed25519()
    async with echo_server() as (server, _), AsyncExitStack() as stack:
        hosts = [await stack.enter_async_context(made_host(key=key)) for _ in range(5)]
        for host in hosts:
            with suppress(DialError):
                await connect(host, server)
        await until(lambda: server.stats().get("peers_refused:too many of one peer") == 2)
        assert 3 == len(server.connections())
        await until(lambda: sum(len(host.connections()) for host in hosts) == 3)


async def test_an_idle_connection_is_closed_unless_it_is_protected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quicken(monkeypatch)
    async with echo_server() as (server, _), visitors(server, 3) as (kept, used, idle):
        server.protect(kept.peer_id, "table")
        kept.protect(server.peer_id, "table")
        stream = await used.open_stream(server.peer_id, ECHO, soon())
        await ask(stream, b"x")
        monkeypatch.setattr(connections, "DUPLICATE_IDLE_S", 0.1)
        monkeypatch.setattr(connections, "IDLE_CONNECTION_S", 0.3)
        await until(lambda: not server.is_connected(idle.peer_id))
        await trio.sleep(0.3)
        assert server.is_connected(kept.peer_id)
        assert server.is_connected(used.peer_id)


def test_limits_are_cut_to_the_files_that_may_be_open() -> None:
    limits = Limits().within(1_024)
    assert limits.max_connections + limits.max_pending + limits.max_dials < 1_024
    assert limits.low_water < limits.high_water < limits.max_connections
    assert Limits() == Limits().within(1_000_000)


# --- deny and allow -------------------------------------------------------------------------------

FRIEND = PrivateKey.from_ed25519_seed(b"f" * 32)


def of(infos: list[ConnectionInfo]) -> set[PeerId]:
    return {info.peer_id for info in infos}


@pytest.mark.parametrize("deny", ["127.0.0.1", "127.0.0.0/8"])
async def test_a_denied_address_is_refused_in_both_directions(deny: str) -> None:
    async with made_host() as other, echo_server(gate=Gate(deny=[deny])) as (server, _):
        with pytest.raises(DialError):
            await connect(other, server)
        with pytest.raises(DialError, match="denied"):
            await server.connect(other.peer_id, other.addrs, soon())
        assert 1 == server.stats()["inbound_refused:denied"]


async def test_a_denied_peer_is_refused_before_anything_of_it_is_looked_at() -> None:
    async with (
        made_host(key=FRIEND) as other,
        echo_server(gate=Gate(deny=[str(FRIEND.peer_id())])) as (server, echoes),
    ):
        with suppress(DialError, StreamError):
            await connect(other, server)
            await echo_of(other, server)
        await until(lambda: not other.connections())
        with pytest.raises(DialError, match="denied"):
            await server.connect(other.peer_id, other.addrs, soon())
        assert [] == echoes.made
        assert 1 == server.stats()["peers_refused:denied"]


async def test_who_is_allowed_is_let_in_whatever_is_denied() -> None:
    everybody = ["0.0.0.0/0", "::/0"]
    for allow in ("127.0.0.1", "127.0.0.0/16", FRIEND.peer_id()):
        async with (
            made_host(key=FRIEND) as friend,
            echo_server(gate=Gate(deny=everybody, allow=[allow])) as (server, _),
        ):
            await connect(friend, server)
            assert b"hello" == await echo_of(friend, server)
    gate = Gate(everybody, [FRIEND.peer_id()])
    async with made_host() as stranger, echo_server(gate=gate) as (server, _):
        with suppress(DialError):
            await connect(stranger, server)
        await until(lambda: not stranger.connections())


async def test_who_is_allowed_is_not_limited_by_ip() -> None:
    limits = Limits(per_ip=1, exempt_local=False)
    gate = Gate(allow=["127.1.0.0/16"])
    async with (
        echo_server(limits=limits, gate=gate) as (server, _),
        AsyncExitStack() as stack,
    ):
        sources = ["127.1.1.1"] * 3 + ["127.2.1.1"] * 2
        admitted = [await is_admitted(server, stack, source) for source in sources]
    assert [True, True, True, True, False] == admitted


def test_an_entry_that_is_nothing_is_named() -> None:
    with pytest.raises(UsageError, match="'nonsense' is no IP, network or peer id"):
        Gate(deny=["nonsense"])


def test_lists_match_networks_of_both_families() -> None:
    gate = Gate(deny=["10.0.0.0/8", "2606::/16", "1.2.3.4", "::1"])
    texts = ["10.9.9.9", "11.0.0.1", "2606::1", "2607::1", "1.2.3.4", "1.2.3.5", "::1", "::2"]
    admitted = [gate.admits_ip(of_socket((text, 1)).ip) for text in texts]
    assert [False, True] * 4 == admitted


# --- slow and strange peers -----------------------------------------------------------------------


async def test_a_peer_that_is_gone_without_a_word_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from codio_dht.net.stack import connection
    from codio_dht.net.stack.yamux_stream import YamuxLimits

    quicken(monkeypatch)
    short = YamuxLimits(keep_alive_interval_s=0.1, keep_alive_timeout_s=0.1)
    original = connection.Yamux
    monkeypatch.setattr(
        connection, "Yamux", lambda **options: original(**{**options, "limits": short})
    )
    async with echo_server() as (server, _), raw_peer(server):
        await until(lambda: server.stats()["connections_open"] == 1)
        await until(lambda: server.stats()["connections_open"] == 0)


async def test_a_peer_that_goes_away_is_not_given_new_streams() -> None:
    async with made_host() as server, raw_peer(server) as peer:
        await until(lambda: server.stats()["connections_open"] == 1)
        peer_id = peer.key.peer_id()
        await peer.send_plain(frame(GO_AWAY, 0, 0, 0))
        await until(lambda: not server.is_connected(peer_id))
        with pytest.raises(StreamError):
            await server.open_stream(peer_id, ECHO, soon())


async def test_a_peer_that_stops_in_the_middle_of_everything_costs_its_stream_only() -> None:
    async with echo_server() as (server, _), raw_peer(server) as peer:
        await peer.send_plain(opening(101, proposal(ECHO)[:5]))
        await peer.send_plain(opening(103, proposal(ECHO) + b"x"))
        channel = peer.connection.streams.open([ECHO], Monotonic(0.0), b"hello")
        await peer.flush()
        with trio.fail_after(30):
            while not any(isinstance(e, ChannelData) and e.channel is channel for e in peer.events):
                assert await peer.receive()
        assert not any(isinstance(e, ChannelReset) for e in peer.events)


async def test_addresses_of_a_hostile_identify_are_kept_out() -> None:
    from codio_dht.net.identify.introduction import Introduction

    key, other = PrivateKey.generate_ed25519(), PrivateKey.generate_ed25519()
    good = Multiaddr("/ip4/192.0.2.1/tcp/4001")
    foreign = Multiaddr(f"/ip4/192.0.2.1/tcp/4002/p2p/{other.peer_id()}")

    class Bad:
        def to_bytes(self) -> bytes:
            return b"\xff\xff\xff\x01garbage"

    bad: list[Any] = [Bad(), good, foreign, Multiaddr(f"{good}/p2p/{key.peer_id()}")]
    lying = Introduction.of(other, addrs=bad, protocols=[], agent="", sequence=1)  # other's record

    async def tell(stream) -> None:
        await stream.write(lying.to(b""))

    async with made_host(key=key) as server, made_host() as client:
        server.serve_stream(IDENTIFY, tell)
        await connect(client, server)
        said = await identified(client, server.peer_id)
    assert (good,) == said.addrs
    assert said.observed_addr is None
