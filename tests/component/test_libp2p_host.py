"""The py-libp2p adapter as a ``Host``: two of them on loopback, over TCP and over QUIC."""

from __future__ import annotations

import gc
from contextlib import AsyncExitStack, suppress
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from libp2p.custom_types import TProtocol
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.peer.envelope import consume_envelope
from multiaddr import Multiaddr

import libp2p_hosts as lh
from codio_dht import __version__
from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.crypto.keys import PrivateKey
from codio_dht.errors import (
    DeadlineError,
    DialError,
    IdentityError,
    MessageError,
    NetworkError,
    NotRunningError,
    StreamError,
    UnsupportedProtocolError,
    UsageError,
)
from codio_dht.net import event_bus
from codio_dht.net.host import AddrsChanged, Parked, PeerGone, PeerIdentified, Reset, Stream
from codio_dht.net.libp2p_host import Libp2pHost, identifying, inbound, make_libp2p_host
from codio_dht.net.libp2p_host.guards.upstream import replace
from codio_dht.net.libp2p_host.identify import (
    IDENTIFY_PROTOCOL,
    IDENTIFY_PUSH_PROTOCOL,
    build_message,
    read_message,
)
from codio_dht.net.libp2p_host.negotiation import Answer, question
from libp2p_hosts import (
    ECHO,
    IDLE_S,
    QUIC,
    TCP,
    Echo,
    Echoes,
    dead_address,
    identified,
    made_host,
    next_event,
    silent_listener,
    soon,
    until,
    upstream_host,
)

TRANSPORTS = pytest.mark.parametrize("listen", [TCP, QUIC], ids=["tcp", "quic"])


async def connect(client: Libp2pHost, server: Libp2pHost) -> None:
    await client.connect(server.peer_id, server.addrs, soon())


async def ask(stream: Stream, data: bytes) -> bytes:
    await stream.write(data)
    answer = b""
    while len(answer) < len(data):
        answer += await stream.read(64 * 1024)
    return answer


# --- streams --------------------------------------------------------------------------------------


@TRANSPORTS
async def test_a_request_is_answered_and_the_stream_ends_cleanly(listen: Multiaddr) -> None:
    echoes = Echoes(lambda: Echo(b"bye"))
    async with made_host(listen) as server, made_host(listen) as client:
        server.serve(ECHO, echoes, idle_timeout_s=IDLE_S)
        await connect(client, server)
        stream = await client.open_stream(server.peer_id, ECHO, soon())
        answer = await ask(stream, b"hello")
        await stream.close_write()
        farewell = await stream.read(100)
        end = await stream.read(100)
        await stream.close()
        await until(lambda: echoes.times_closed == [1])
        broken = server.stats().get("inbound_streams_broken", 0)

    assert (answer, farewell, end) == (b"hello", b"bye", b"")
    assert echoes.peers == [client.peer_id]
    assert echoes.made[0].got_eof
    assert broken == 0


@TRANSPORTS
async def test_large_messages_pass_in_both_directions(listen: Multiaddr) -> None:
    message = bytes(range(256)) * 4096  # 1 MiB, four first windows
    async with made_host(listen) as server, made_host(listen) as client:
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        await connect(client, server)
        stream = await client.open_stream(server.peer_id, ECHO, soon())
        received = bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.write, message)
            while len(received) < len(message):
                received += await stream.read(1 << 20)

    assert bytes(received) == message


@pytest.mark.conformance("c05")
async def test_an_end_right_after_opening_is_a_graceful_close_and_no_error() -> None:
    echoes = Echoes()
    async with made_host() as server, made_host() as client:
        server.serve(ECHO, echoes, idle_timeout_s=IDLE_S)
        await connect(client, server)
        stream = await client.open_stream(server.peer_id, ECHO, soon())
        await stream.close_write()
        end = await stream.read(1)
        await until(lambda: echoes.times_closed == [1])
        stats = server.stats()

    errors = {"inbound_streams_broken", "inbound_streams_reset", "stream_handler_errors"}
    assert end == b""
    assert errors & set(stats) == set()


@TRANSPORTS
async def test_a_reset_by_the_peer_is_an_error_and_not_an_end(listen: Multiaddr) -> None:
    class Resetting(Echo):
        def feed(self, data: bytes, now: Monotonic) -> bytes | Parked | Reset:
            return Reset("test")

    echoes = Echoes(Resetting)
    async with made_host(listen) as server, made_host(listen) as client:
        server.serve(ECHO, echoes, idle_timeout_s=IDLE_S)
        await connect(client, server)
        stream = await client.open_stream(server.peer_id, ECHO, soon())
        await stream.write(b"x")
        with pytest.raises(StreamError):
            await stream.read(1)
        await until(lambda: echoes.times_closed == [1])


async def test_a_parked_stream_waits_alone_and_goes_on() -> None:
    wakers: list[object] = []

    class Parking(Echo):
        parked = False

        def feed(self, data: bytes, now: Monotonic) -> bytes | Parked | Reset:
            if data == b"load":
                return Parked(b"first ", wakers.append)
            return data or b"second"

    async with made_host() as server, made_host() as client:
        server.serve(ECHO, Echoes(Parking), idle_timeout_s=IDLE_S)
        await connect(client, server)
        parked = await client.open_stream(server.peer_id, ECHO, soon())
        other = await client.open_stream(server.peer_id, ECHO, soon())
        await parked.write(b"load")
        first = await parked.read(100)
        meanwhile = await ask(other, b"other")
        wake = wakers[0]
        assert callable(wake)
        wake()
        second = await parked.read(100)

    assert (first, meanwhile, second) == (b"first ", b"other", b"second")


@pytest.mark.parametrize("where", ["factory", "feed", "eof", "closed"])
async def test_a_handler_that_raises_ends_its_stream_only(where: str) -> None:
    class Broken(Echo):
        def feed(self, data: bytes, now: Monotonic) -> bytes | Parked | Reset:
            if where == "feed":
                raise RuntimeError("feed")
            return data

        def eof(self, now: Monotonic) -> bytes | Parked | Reset:
            if where == "eof":
                raise RuntimeError("eof")
            return b""

        def closed(self) -> None:
            super().closed()
            if where == "closed":
                raise RuntimeError("closed")

    broken = Echoes(Broken)

    def factory(peer_id: PeerId) -> Echo:
        if where == "factory":
            raise RuntimeError("factory")
        return broken(peer_id)

    async with made_host() as server, made_host() as client:
        server.serve("/broken", factory, idle_timeout_s=IDLE_S)
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        await connect(client, server)
        healthy = await client.open_stream(server.peer_id, ECHO, soon())
        stream = await client.open_stream(server.peer_id, "/broken", soon())
        with suppress(StreamError):  # it may be reset before it is written to
            await stream.write(b"x")
            await stream.close_write()
        await until(lambda: server.stats().get("stream_handler_errors") == 1)
        answer = await ask(healthy, b"still here")

    assert answer == b"still here"
    assert broken.times_closed == ([] if where == "factory" else [1])


@pytest.mark.conformance("c04")
async def test_an_idle_stream_is_reset_and_a_busy_one_is_not() -> None:
    echoes = Echoes()
    async with made_host() as server, made_host() as client:
        server.serve(ECHO, echoes, idle_timeout_s=0.3)
        await connect(client, server)
        stream = await client.open_stream(server.peer_id, ECHO, soon())
        answers = []
        for number in range(5):
            await trio.sleep(0.1)
            answers.append(await ask(stream, b"%d" % number))
        with trio.fail_after(5), pytest.raises(StreamError):
            await stream.read(1)
        idle = server.stats()["inbound_streams_idle"]

    assert answers == [b"0", b"1", b"2", b"3", b"4"]
    assert idle == 1
    assert echoes.times_closed == [1]


async def test_forty_peers_that_hold_their_streams_open_are_all_still_answered() -> None:
    answers: list[bytes] = []

    async with made_host() as server, trio.open_nursery() as nursery:
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        held = trio.Event()

        async def hold(number: int) -> None:
            async with made_host() as client:
                await connect(client, server)
                stream = await client.open_stream(server.peer_id, ECHO, soon())
                await ask(stream, b"opened")
                opened.append(number)
                await held.wait()
                answers.append(await ask(stream, b"%d" % number))

        opened: list[int] = []
        for number in range(40):
            nursery.start_soon(hold, number)
        await until(lambda: len(opened) == 40, 30)
        held.set()

    assert sorted(answers) == sorted(b"%d" % number for number in range(40))


async def test_streams_past_the_bounds_are_reset_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inbound, "MAX_INBOUND_STREAMS_PER_PEER", 3)
    monkeypatch.setattr(inbound, "MAX_INBOUND_STREAMS", 5)
    async with made_host() as server, made_host() as one, made_host() as two:
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        answered: list[int] = []
        for client in (one, two):
            await connect(client, server)
            count = 0
            for _ in range(4):
                stream = await client.open_stream(server.peer_id, ECHO, soon())
                try:
                    await ask(stream, b"x")
                except StreamError:
                    continue
                count += 1
            answered.append(count)
        refused = server.stats()["inbound_streams_refused"]

    assert answered == [3, 2]
    assert refused == 3


async def test_a_stream_handler_of_its_own_gets_a_task_and_may_raise() -> None:
    async def upper(stream: Stream) -> None:
        while data := await stream.read(100):
            if data == b"raise":
                raise RuntimeError(data)
            await stream.write(data.upper())

    async with made_host() as server, made_host() as client:
        server.serve_stream("/upper", upper)
        await connect(client, server)
        good = await client.open_stream(server.peer_id, "/upper", soon())
        bad = await client.open_stream(server.peer_id, "/upper", soon())
        await bad.write(b"raise")
        with pytest.raises(StreamError):
            await bad.read(1)
        await good.write(b"abc")
        answer = await good.read(100)
        await good.close_write()
        end = await good.read(1)

    assert (answer, end) == (b"ABC", b"")


# --- opening --------------------------------------------------------------------------------------


@TRANSPORTS
async def test_a_protocol_that_the_peer_does_not_speak_is_told_when_opening(
    listen: Multiaddr,
) -> None:
    async with made_host(listen) as server, made_host(listen) as client:
        await connect(client, server)
        with pytest.raises(UnsupportedProtocolError):
            await client.open_stream(server.peer_id, "/nobody/speaks/this", soon())
        rtt = await client.ping(server.peer_id, soon())

    assert rtt > 0


async def test_a_peer_that_stopped_speaking_a_protocol_is_told_when_reading() -> None:
    async with made_host() as server, made_host() as client:
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        await connect(client, server)
        await identified(client, server.peer_id)
        server._ihost.remove_stream_handler(TProtocol(ECHO))  # behind identify's back
        stream = await client.open_stream(server.peer_id, ECHO, soon())
        await stream.write(b"x")
        with pytest.raises(UnsupportedProtocolError):
            await stream.read(1)


async def test_opening_a_stream_needs_a_connection() -> None:
    async with made_host() as server, made_host() as client:
        with pytest.raises(StreamError):
            await client.open_stream(server.peer_id, ECHO, soon())


async def test_opening_a_stream_ends_at_its_deadline() -> None:
    async with made_host() as server, made_host() as client:
        await connect(client, server)
        await identified(client, server.peer_id)
        replace(server._ihost.multiselect, "negotiate", _never)
        with pytest.raises(DeadlineError):
            await client.open_stream(server.peer_id, ECHO, soon(0.1))


async def _never(*_: object) -> None:
    await trio.sleep_forever()


@TRANSPORTS
async def test_cancelled_opens_writes_and_reads_never_harm_the_connection(
    listen: Multiaddr,
) -> None:
    async with made_host(listen) as server, made_host(listen) as client:
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        await connect(client, server)
        await identified(client, server.peer_id)

        async def use(patience_s: float) -> None:
            with trio.move_on_after(patience_s):
                stream = await client.open_stream(server.peer_id, ECHO, soon())
                try:
                    await ask(stream, b"x" * 3_000)
                finally:
                    await stream.reset()

        for batch in range(20):
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(use, (batch * 20 + number) * 0.000_05)
        connection = client._swarm.get_connections()[0].muxed_conn
        rtt = await client.ping(server.peer_id, soon())
        await until(lambda: server.stats()["inbound_streams_open"] == 0)
        one_connection = len(client.connections()) == 1

    assert rtt > 0
    assert one_connection
    if listen == TCP:
        assert connection.stream_backlog_semaphore.value >= 255  # type: ignore[attr-defined]


# --- serving and not serving ----------------------------------------------------------------------


@pytest.mark.conformance("c30")
async def test_unserve_resets_the_streams_and_stops_advertising_the_protocol() -> None:
    echoes = Echoes()
    async with made_host() as server, made_host() as client:
        server.serve(ECHO, echoes, idle_timeout_s=IDLE_S)
        await connect(client, server)
        before = await identified(client, server.peer_id)
        stream = await client.open_stream(server.peer_id, ECHO, soon())
        await ask(stream, b"x")
        server.unserve(ECHO)
        with trio.fail_after(5), pytest.raises(StreamError):
            await stream.read(1)
        with trio.fail_after(5):
            after = await next_event(
                client, lambda e: isinstance(e, PeerIdentified) and ECHO not in e.protocols
            )
        with pytest.raises(UnsupportedProtocolError):
            await client.open_stream(server.peer_id, ECHO, soon())
        await until(lambda: echoes.times_closed == [1])

    assert ECHO in before.protocols
    assert isinstance(after, PeerIdentified)
    assert after.protocols == before.protocols - {ECHO}


async def test_a_protocol_served_later_is_pushed_to_who_is_connected() -> None:
    async with made_host() as server, made_host() as client:
        await connect(client, server)
        before = await identified(client, server.peer_id)
        await identified(server, client.peer_id)
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        after = await next_event(
            client, lambda e: isinstance(e, PeerIdentified) and ECHO in e.protocols
        )

    assert isinstance(after, PeerIdentified)
    assert after.protocols == before.protocols | {ECHO}


# --- connecting -----------------------------------------------------------------------------------


@TRANSPORTS
async def test_concurrent_connects_to_one_peer_share_one_connection(listen: Multiaddr) -> None:
    async with made_host(listen) as server, made_host(listen) as client:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(connect, client, server)
        await until(lambda: len(server.connections()) == 1)
        connections = len(client.connections())

    assert connections == 1


async def test_another_peer_at_the_address_is_a_dial_error() -> None:
    stranger = PrivateKey.generate_ed25519().peer_id()
    for listen in (TCP, QUIC):
        async with made_host(listen) as server, made_host(listen) as client:
            with pytest.raises(DialError):
                await client.connect(stranger, server.addrs, soon())
            assert not client.is_connected(stranger)
            assert not client.is_connected(server.peer_id)


async def test_every_address_is_tried_until_one_leads_to_the_peer() -> None:
    with silent_listener() as silent:
        async with made_host(TCP, QUIC) as server, made_host() as client:
            dead = [dead_address() for _ in range(12)]
            await client.connect(server.peer_id, [*dead, silent, *server.addrs], soon())
            assert client.is_connected(server.peer_id)


async def test_a_failed_dial_may_be_repeated_at_once() -> None:
    async with made_host() as server, made_host() as client:
        with pytest.raises(DialError):
            await client.connect(server.peer_id, [dead_address()], soon())
        await connect(client, server)
        assert client.is_connected(server.peer_id)


async def test_a_dial_ends_at_its_deadline_and_takes_nobody_with_it() -> None:
    with silent_listener() as silent:
        async with made_host() as server, made_host() as client:
            addrs = [silent, *server.addrs]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_expect_deadline, client, server.peer_id, silent)
                await trio.sleep(0.05)
                await client.connect(server.peer_id, addrs, soon())
            assert client.is_connected(server.peer_id)


async def _expect_deadline(client: Libp2pHost, peer_id: PeerId, addr: Multiaddr) -> None:
    try:
        await client.connect(peer_id, [addr], soon(0.02))
    except DeadlineError:
        return
    raise AssertionError("connected to a silent listener")


async def test_dead_peers_do_not_hold_up_a_good_one() -> None:
    with silent_listener() as silent:
        async with made_host() as server, made_host() as client, trio.open_nursery() as nursery:

            async def dial_dead() -> None:
                dead = PrivateKey.generate_ed25519().peer_id()
                with pytest.raises((DialError, DeadlineError)):
                    await client.connect(dead, [silent], soon(30))

            for _ in range(60):
                nursery.start_soon(dial_dead)
            await trio.sleep(0.05)
            await client.connect(server.peer_id, server.addrs, soon(5))
            assert client.is_connected(server.peer_id)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "addrs",
    [
        [],
        [Multiaddr("/ip4/0.0.0.0/tcp/4001")],
        [Multiaddr("/ip4/127.0.0.1/tcp/4001/ws")],
        [Multiaddr("/ip4/127.0.0.1/tcp/1/p2p/QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN")],
        [Multiaddr("/p2p/QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN/p2p-circuit")],
    ],
    ids=["none", "unspecified", "websocket", "another peer's", "relay"],
)
async def test_addresses_that_cannot_be_dialled_are_a_dial_error(addrs: list[Multiaddr]) -> None:
    async with made_host() as client:
        with pytest.raises(DialError):
            await client.connect(PrivateKey.generate_ed25519().peer_id(), addrs, soon())


async def test_connecting_to_itself_is_a_dial_error() -> None:
    async with made_host() as host:
        with pytest.raises(DialError):
            await host.connect(host.peer_id, host.addrs, soon())


async def test_an_address_may_end_with_the_peers_own_id() -> None:
    async with made_host(TCP, QUIC) as server, made_host() as client:
        addrs = [Multiaddr(f"{addr}/p2p/{server.peer_id}") for addr in server.addrs]
        for addr in addrs:
            await client.connect(server.peer_id, [addr], soon())
            await client.disconnect(server.peer_id)
            await until(lambda: not client.is_connected(server.peer_id))


# --- identify -------------------------------------------------------------------------------------


@TRANSPORTS
async def test_both_ends_of_a_connection_identify_each_other(listen: Multiaddr) -> None:
    async with made_host(listen) as server, made_host(listen) as client:
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        await connect(client, server)
        of_server = await identified(client, server.peer_id)
        of_client = await identified(server, client.peer_id)
        again = await identified(client, server.peer_id)  # a late subscriber hears it too
        server_addrs, client_addrs = server.addrs, client.addrs

    base = {IDENTIFY_PROTOCOL, IDENTIFY_PUSH_PROTOCOL, "/ipfs/ping/1.0.0"}
    assert of_server.protocols == base | {ECHO}
    assert of_client.protocols == base
    assert of_server.addrs == server_addrs
    assert of_client.addrs == client_addrs
    assert {of_server.agent, of_client.agent} == {f"codio-dht/{__version__}"}
    assert of_client.observed_addr == server_addrs[0]
    assert again == of_server


async def test_a_peer_is_gone_with_its_last_connection() -> None:
    async with made_host() as server, made_host() as client:
        await connect(client, server)
        await identified(client, server.peer_id)
        await identified(server, client.peer_id)
        async with server.events() as events_of_server, client.events() as events_of_client:
            await client.disconnect(server.peer_id)
            seen = [await anext(events_of_server), await anext(events_of_server)]
            assert await anext(events_of_client) != PeerGone(server.peer_id)
            assert await anext(events_of_client) == PeerGone(server.peer_id)
        reconnected = connect(client, server)
        await reconnected
        again = await identified(client, server.peer_id)

    assert seen[1] == PeerGone(client.peer_id)
    assert again.peer_id == server.peer_id


async def test_identify_tells_real_addresses_and_the_signed_record_tells_the_same() -> None:
    wildcards = [Multiaddr("/ip4/0.0.0.0/tcp/0"), Multiaddr("/ip4/0.0.0.0/udp/0/quic-v1")]
    async with made_host(*wildcards) as server, made_host() as client:
        await connect(client, server)
        message = await _raw_identify(client, server.peer_id)
        addrs = server.addrs

    _, record = consume_envelope(message.signedPeerRecord, "libp2p-peer-record")
    listed = tuple(Multiaddr(data) for data in message.listen_addrs)
    assert listed == addrs
    assert tuple(record.addrs) == addrs
    assert any("/ip4/127.0.0.1/tcp/" in str(addr) for addr in addrs)
    assert any("/ip4/127.0.0.1/udp/" in str(addr) for addr in addrs)
    assert not [addr for addr in addrs if "0.0.0.0" in str(addr) or "/p2p/" in str(addr)]
    assert not [addr for addr in addrs if "/tcp/0" in str(addr) or "/udp/0" in str(addr)]


async def _raw_identify(client: Libp2pHost, peer_id: PeerId) -> Identify:
    stream = await client.open_stream(peer_id, IDENTIFY_PROTOCOL, soon())
    reader = identifying.MessageReader()
    while data := await stream.read(1 << 16):
        reader.feed(data)
    return reader.finish()


async def test_announced_addresses_take_the_place_of_those_listened_on() -> None:
    announced = [Multiaddr("/ip4/192.0.2.7/tcp/4001")]
    async with made_host(announce=announced) as server, made_host() as client:
        await client.connect(server.peer_id, server._ihost.get_transport_addrs(), soon())
        said = await identified(client, server.peer_id)

    assert server.addrs == tuple(announced)
    assert said.addrs == tuple(announced)


@pytest.mark.parametrize(
    "answer",
    [b"", b"\xff" * 40, b"\x05abc", b"\x04\x00\x01\x02\x03", b"\x80\x80\x08" + b"a" * 200_000],
    ids=["empty", "bad length", "cut short", "not protobuf", "too long"],
)
async def test_an_identify_message_that_is_none_is_counted_and_nothing_else(answer: bytes) -> None:
    async def rubbish(stream: Stream) -> None:
        await stream.write(answer)

    async with made_host() as server, made_host() as client:
        server.serve_stream(IDENTIFY_PROTOCOL, rubbish)
        await connect(client, server)
        await until(lambda: client.stats().get("identify_failed") == 2)  # it is asked twice
        rtt = await client.ping(server.peer_id, soon())

    assert rtt > 0


async def test_rubbish_pushed_is_counted_and_nothing_else() -> None:
    async with made_host() as server, made_host() as client:
        await connect(client, server)
        said = await identified(server, client.peer_id)
        stream = await client.open_stream(server.peer_id, IDENTIFY_PUSH_PROTOCOL, soon())
        await stream.write(b"\xff" * 100)
        await stream.close()
        await until(lambda: server.stats().get("identify_push_failed") == 1)
        after = await identified(server, client.peer_id)

    assert after == said


async def test_what_identify_says_is_bounded() -> None:
    key = PrivateKey.generate_ed25519()
    protocols = [f"/p/{number}" for number in range(600)] + ["/" + "x" * 300]
    addrs = [Multiaddr(f"/ip4/192.0.2.1/tcp/{port}") for port in range(1, 100)]

    async with made_host(key=key.to_protobuf()) as server, made_host() as client:
        private_key = server._ihost.get_private_key()
        message = build_message(private_key, addrs, protocols, "agent\n" * 100)

        async def much(stream: Stream) -> None:
            await stream.write(message)

        server.serve_stream(IDENTIFY_PROTOCOL, much)
        await connect(client, server)
        said = await identified(client, server.peer_id)

    assert len(said.protocols) == 512
    assert said.addrs == tuple(addrs[:32])
    assert len(said.agent) == 256
    assert "\n" not in said.agent


async def test_a_slow_subscriber_loses_the_oldest_events_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_bus, "MAX_EVENTS_PER_SUBSCRIBER", 2)
    async with made_host() as host:
        peers = [PrivateKey.generate_ed25519().peer_id() for _ in range(5)]
        async with host.events() as slow:
            for peer_id in peers:
                host._state.bus.emit(PeerGone(peer_id))
            seen = [await anext(slow), await anext(slow)]
        dropped = host.stats()["events_dropped"]

    assert seen == [PeerGone(peers[3]), PeerGone(peers[4])]
    assert dropped == 3


# --- the host -------------------------------------------------------------------------------------


@TRANSPORTS
async def test_ping_works_both_ways(listen: Multiaddr) -> None:
    async with made_host(listen) as server, made_host(listen) as client:
        await connect(client, server)
        there = await client.ping(server.peer_id, soon())
        await until(lambda: server.is_connected(client.peer_id))
        back = await server.ping(client.peer_id, soon())

    assert there > 0
    assert back > 0


async def test_connections_tell_who_where_and_which_way() -> None:
    async with made_host() as server, made_host() as client:
        await connect(client, server)
        await identified(client, server.peer_id)
        await identified(server, client.peer_id)
        [outgoing], [incoming] = client.connections(), server.connections()
        server_addr = server.addrs[0]

    assert (outgoing.peer_id, outgoing.inbound, outgoing.addr) == (
        server.peer_id,
        False,
        server_addr,
    )
    assert (incoming.peer_id, incoming.inbound) == (client.peer_id, True)
    assert str(incoming.addr).startswith("/ip4/127.0.0.1/tcp/")
    assert incoming.addr not in client.addrs
    assert "/ipfs/ping/1.0.0" in outgoing.protocols


@TRANSPORTS
async def test_disconnect_ends_the_connection_at_both_ends(listen: Multiaddr) -> None:
    async with made_host(listen) as server, made_host(listen) as client:
        await connect(client, server)
        await client.disconnect(server.peer_id)
        await until(lambda: not client.connections())
        await until(lambda: not server.connections())
        await client.disconnect(server.peer_id)  # nothing to do


@TRANSPORTS
async def test_a_port_in_use_is_a_clear_error_of_ours(listen: Multiaddr) -> None:
    async with made_host(listen) as host:
        [taken] = host.addrs
        with pytest.raises(NetworkError, match=f"cannot listen on {taken}: Address already in use"):
            async with make_libp2p_host(lh.new_key(), [taken]):
                raise AssertionError("listening twice")


@pytest.mark.parametrize(
    "listen",
    [
        "/ip4/127.0.0.1/tcp/0/ws",
        "/dns4/localhost/tcp/0",
        "/ip4/127.0.0.1/udp/0",
        "/ip4/127.0.0.1/udp/0/quic",
    ],
)
async def test_an_address_that_cannot_be_listened_on_is_named(listen: str) -> None:
    with pytest.raises(UsageError, match=listen):
        async with make_libp2p_host(lh.new_key(), [Multiaddr(listen)]):
            raise AssertionError("listening")


async def test_a_key_that_is_none_is_an_identity_error() -> None:
    with pytest.raises(IdentityError):
        async with make_libp2p_host(b"\x08\x01\x12\x03abc", [TCP]):
            raise AssertionError("running")


async def test_what_the_block_raises_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with made_host():
            raise KeyError("mine")


async def test_outside_its_block_the_host_says_that_it_is_not_running() -> None:
    async with made_host() as host:
        pass
    with pytest.raises(NotRunningError):
        await host.connect(host.peer_id, [], soon())
    with pytest.raises(NotRunningError):
        host.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)


async def test_mounting_on_a_programs_host_leaves_its_protocols_alone() -> None:
    async def greet(stream: object) -> None:
        await stream.write(b"program")  # type: ignore[attr-defined]
        await stream.close()  # type: ignore[attr-defined]

    async with upstream_host(guarded=False) as ihost, made_host() as client:
        lh.serve_upstream(ihost, "/program", greet)
        before = dict(ihost.multiselect.handlers)
        async with Libp2pHost(ihost) as host:
            host.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
            await client.connect(host.peer_id, host.addrs, soon())
            ours = await ask(await client.open_stream(host.peer_id, ECHO, soon()), b"ours")
            theirs = await client.open_stream(host.peer_id, "/program", soon())
            greeting = await theirs.read(100)
        after = dict(ihost.multiselect.handlers)
        theirs = await client.open_stream(host.peer_id, "/program", soon())
        greeting_after = await theirs.read(100)
        async with Libp2pHost(ihost) as host:  # and again
            rtt = await client.ping(host.peer_id, soon())

    assert (ours, greeting, greeting_after) == (b"ours", b"program", b"program")
    assert after == before
    assert rtt > 0


async def test_a_protocol_that_the_program_served_is_its_own_again_afterwards() -> None:
    async def greet(stream: object) -> None:
        await stream.write(b"program")  # type: ignore[attr-defined]
        await stream.close()  # type: ignore[attr-defined]

    async with upstream_host(guarded=False) as ihost, made_host() as client:
        lh.serve_upstream(ihost, ECHO, greet)
        async with Libp2pHost(ihost) as host:
            await client.connect(host.peer_id, host.addrs, soon())
            for _ in range(2):  # serving twice replaces ours, not the program's
                host.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
            ours = await ask(await client.open_stream(host.peer_id, ECHO, soon()), b"ours")
            host.unserve(ECHO)
            theirs = await (await client.open_stream(host.peer_id, ECHO, soon())).read(100)

    assert (ours, theirs) == (b"ours", b"program")


async def test_a_host_is_mounted_on_once_at_a_time() -> None:
    async with upstream_host(guarded=False) as ihost, Libp2pHost(ihost):
        with pytest.raises(UsageError, match="mounted already"):
            async with Libp2pHost(ihost):
                raise AssertionError("mounted twice")


async def test_a_peer_that_left_without_notice_is_found_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(identifying, "RECONCILE_INTERVAL_S", 0.05)
    async with made_host() as server, made_host() as client:
        await connect(client, server)
        await identified(client, server.peer_id)
        client._swarm.notifees.clear()  # nobody is told of anything any more
        async with client.events() as of_client:
            await client.disconnect(server.peer_id)
            with trio.fail_after(5):
                while await anext(of_client) != PeerGone(server.peer_id):
                    pass


async def test_addresses_that_change_are_told_and_pushed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identifying, "RECONCILE_INTERVAL_S", 0.05)
    new = Multiaddr("/ip4/192.0.2.9/tcp/4001")
    async with made_host() as server, made_host() as client:
        await connect(client, server)
        await identified(client, server.peer_id)
        await identified(server, client.peer_id)
        async with server.events() as of_server:
            server._announce = (new,)  # as if the machine's interfaces had changed
            with trio.fail_after(5):
                while not isinstance(event := await anext(of_server), AddrsChanged):
                    pass
        pushed = await next_event(
            client, lambda e: isinstance(e, PeerIdentified) and e.addrs == (new,)
        )

    assert event == AddrsChanged((new,))
    assert isinstance(pushed, PeerIdentified)


async def test_a_peer_whose_identify_fails_is_asked_once_more() -> None:
    asked: list[int] = []

    async with made_host() as server, made_host() as client:
        answer = server._state.identifier._answer

        async def fail_first(stream: Stream) -> None:
            asked.append(1)
            if len(asked) == 1:
                raise RuntimeError("not now")
            await answer(stream._net_stream)  # type: ignore[attr-defined]

        server.serve_stream(IDENTIFY_PROTOCOL, fail_first)
        await connect(client, server)
        said = await identified(client, server.peer_id)

    assert len(asked) == 2
    assert said.agent == f"codio-dht/{__version__}"


async def test_a_host_that_is_not_py_libp2ps_is_refused() -> None:
    with pytest.raises(UsageError, match="ihost"):
        Libp2pHost(object())  # type: ignore[arg-type]


async def test_connections_that_come_and_go_leave_nothing_behind() -> None:
    rounds, at_once = 25, 10

    def measure() -> tuple[int, int]:
        gc.collect()
        tasks = trio.lowlevel.current_statistics().tasks_living
        return tasks, len(list(Path("/proc/self/fd").iterdir()))

    async with made_host() as server, AsyncExitStack() as stack:
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        clients = [await stack.enter_async_context(made_host()) for _ in range(at_once)]

        async def visit(client: Libp2pHost) -> None:
            await connect(client, server)
            stream = await client.open_stream(server.peer_id, ECHO, soon())
            await ask(stream, b"x")
            await client.disconnect(server.peer_id)

        async def visits(times: int) -> tuple[int, int]:
            for _ in range(times):
                async with trio.open_nursery() as nursery:
                    for client in clients:
                        nursery.start_soon(visit, client)
                await until(lambda: not server._swarm.get_connections())
            await trio.sleep(0.5)  # upstream's own closing pauses
            return measure()

        before = await visits(2)
        after = await visits(rounds)
        stats = server.stats()
        borrowed = server._swarm._inbound_limiter.borrowed_tokens

    assert after == before
    assert borrowed == 0
    assert stats["connections_open"] == 0
    assert stats["inbound_streams_open"] == 0
    assert stats["peers_identified"] == 0


# --- laws -----------------------------------------------------------------------------------------


@given(st.binary(max_size=300))
def test_no_bytes_make_identify_raise_anything_but_a_message_error(data: bytes) -> None:
    sender = PrivateKey.generate_ed25519().peer_id()
    reader = identifying.MessageReader()
    with suppress(MessageError):
        reader.feed(data)
        read_message(reader.finish(), sender)


@given(
    st.builds(
        Identify,
        listen_addrs=st.lists(st.binary(max_size=40), max_size=50),
        observed_addr=st.binary(max_size=40),
        protocols=st.lists(st.text(max_size=400), max_size=5),
        agent_version=st.text(max_size=400),
        signedPeerRecord=st.binary(max_size=100),
    )
)
def test_whatever_identify_says_what_is_kept_is_within_its_bounds(message: Identify) -> None:
    sender = PrivateKey.generate_ed25519().peer_id()
    said = read_message(message, sender).as_event(sender)

    assert len(said.addrs) <= 32
    assert len(said.agent) <= 256
    assert all(len(protocol) <= 256 for protocol in said.protocols)


@given(st.binary(max_size=100), st.lists(st.integers(0, 100), max_size=5))
def test_no_bytes_make_a_negotiation_raise_anything_but_a_stream_error(
    data: bytes, cuts: list[int]
) -> None:
    answer = Answer(ECHO)
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    with suppress(StreamError):
        for start, stop in pairwise(places):
            answer.feed(data[start:stop])


@given(st.binary(max_size=50), st.lists(st.integers(0, 120), max_size=6))
def test_an_answer_is_read_however_it_is_cut(rest: bytes, cuts: list[int]) -> None:
    wire = question(ECHO) + rest
    places = [0, *sorted(cut for cut in cuts if cut < len(wire)), len(wire)]
    answer, after = Answer(ECHO), b""
    for start, stop in pairwise(places):
        after += answer.feed(wire[start:stop])

    assert answer.is_done
    assert after == rest
