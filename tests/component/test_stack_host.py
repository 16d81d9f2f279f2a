"""The host on our own stack as a ``Host``: two of them on loopback."""

from __future__ import annotations

import subprocess
import sys
from contextlib import AsyncExitStack, suppress

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from multiaddr import Multiaddr

from codio_dht import DHTManager, __version__
from codio_dht.core.peer import PeerId
from codio_dht.crypto.keys import PrivateKey
from codio_dht.crypto.peer_record import open_peer_record, seal_peer_record
from codio_dht.crypto.protobuf import uvarint
from codio_dht.errors import (
    DeadlineError,
    NetworkError,
    NotRunningError,
    StreamError,
    UnsupportedProtocolError,
    UsageError,
)
from codio_dht.net import event_bus
from codio_dht.net.host import AddrsChanged, Parked, PeerGone, PeerIdentified, Reset, Stream
from codio_dht.net.ping import PING
from codio_dht.net.stack.identify_message import (
    IDENTIFY,
    IDENTIFY_PUSH,
    IdentifyMessage,
    encode_identify,
)
from codio_dht.net.stack_host import StackHost, identifying, reaper, stream_tasks
from codio_dht.net.stack_host import host as host_module
from codio_dht.net.stack_host.identify import Introduction, Parts
from libp2p_hosts import Echo, Echoes
from stack_hosts import (
    ECHO,
    IDLE_S,
    TCP,
    TCP6,
    ask,
    connect,
    echo_of,
    identified,
    made_host,
    next_event,
    soon,
    until,
)

LISTENS = pytest.mark.parametrize("listen", [TCP, TCP6], ids=["ip4", "ip6"])


# --- streams --------------------------------------------------------------------------------------


@LISTENS
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
        faults = [name for name in server.stats() if "reset" in name or "error" in name]

    assert (b"hello", b"bye", b"") == (answer, farewell, end)
    assert [client.peer_id] == echoes.peers
    assert echoes.made[0].got_eof
    assert [] == faults


async def test_large_messages_pass_in_both_directions() -> None:
    message = bytes(range(256)) * 16 * 1024  # 4 MiB, sixteen first windows
    async with made_host() as server, made_host() as client:
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        await connect(client, server)
        stream = await client.open_stream(server.peer_id, ECHO, soon())
        received = bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.write, message)
            while len(received) < len(message):
                received += await stream.read(1 << 20)

    assert message == bytes(received)


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
        faults = [name for name in server.stats() if "reset" in name or "error" in name]

    assert (b"", []) == (end, faults)


async def test_a_reset_by_the_peer_is_an_error_and_not_an_end() -> None:
    class Resetting(Echo):
        def feed(self, data, now):
            return Reset("test")

    echoes = Echoes(Resetting)
    async with made_host() as server, made_host() as client:
        server.serve(ECHO, echoes, idle_timeout_s=IDLE_S)
        await connect(client, server)
        stream = await client.open_stream(server.peer_id, ECHO, soon())
        await stream.write(b"x")
        with pytest.raises(StreamError, match="reset by peer"):
            await stream.read(1)
        with pytest.raises(StreamError):
            await stream.write(b"y")
        assert [1] == echoes.times_closed
        assert 1 == server.stats()["stream_reset:test"]


async def test_what_arrived_before_a_reset_is_still_read() -> None:
    async def half(stream: Stream) -> None:
        await stream.write(b"half")
        await trio.sleep(0.02)
        raise RuntimeError("half way")

    async with made_host() as server, made_host() as client:
        server.serve_stream("/half", half)
        await connect(client, server)
        stream = await client.open_stream(server.peer_id, "/half", soon())
        await stream.write(b"x")
        await trio.sleep(0.1)
        assert b"half" == await stream.read(10)
        with pytest.raises(StreamError):
            await stream.read(1)


async def test_a_stream_is_over_with_its_connection() -> None:
    echoes = Echoes()
    async with made_host() as server, made_host() as client, trio.open_nursery() as nursery:
        server.serve(ECHO, echoes, idle_timeout_s=IDLE_S)
        await connect(client, server)
        stream = await client.open_stream(server.peer_id, ECHO, soon())
        await ask(stream, b"x")
        errors: list[str] = []

        async def read() -> None:
            try:
                await stream.read(1)
            except StreamError as error:
                errors.append(str(error))

        nursery.start_soon(read)
        await trio.sleep(0.01)
        await server.disconnect(client.peer_id)
        await until(lambda: bool(errors))
        with pytest.raises(StreamError):
            await stream.write(b"y")
        await stream.close()
        await stream.reset()

    assert ["the stream was reset: reset by peer"] == errors
    assert [1] == echoes.times_closed


async def test_a_parked_stream_waits_alone_and_goes_on() -> None:
    wakers: list[object] = []

    class Parking(Echo):
        def feed(self, data, now):
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
        wake()
        second = await parked.read(100)

    assert (b"first ", b"other", b"second") == (first, meanwhile, second)


async def test_a_handler_may_park_for_a_turn_many_times() -> None:
    class Turns(Echo):
        turns = 0

        def feed(self, data, now):
            self.turns += 1
            return Parked(b".", lambda wake: wake()) if self.turns < 50 else b"!"

    async with made_host() as server, made_host() as client:
        server.serve(ECHO, Echoes(Turns), idle_timeout_s=IDLE_S)
        await connect(client, server)
        stream = await client.open_stream(server.peer_id, ECHO, soon())
        await stream.write(b"go")
        answer = b""
        while not answer.endswith(b"!"):
            answer += await stream.read(100)

    assert b"." * 49 + b"!" == answer


@pytest.mark.parametrize("where", ["factory", "feed", "eof", "closed"])
async def test_a_handler_that_raises_ends_its_stream_only(where: str) -> None:
    class Broken(Echo):
        def feed(self, data, now):
            if where == "feed":
                raise RuntimeError("feed")
            return data

        def eof(self, now):
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
        with suppress(StreamError):
            await stream.write(b"x")
            await stream.close_write()
        await until(lambda: server.stats().get("stream_handler_errors") == 1)
        answer = await ask(healthy, b"still here")

    assert b"still here" == answer
    assert ([] if where == "factory" else [1]) == broken.times_closed


@pytest.mark.conformance("c04")
async def test_an_idle_stream_is_reset_and_a_busy_one_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quicken(monkeypatch)
    echoes = Echoes()
    async with made_host() as server, made_host() as client:
        server.serve(ECHO, echoes, idle_timeout_s=0.3)
        await connect(client, server)
        stream = await client.open_stream(server.peer_id, ECHO, soon())
        answers = []
        for number in range(5):
            await trio.sleep(0.15)
            answers.append(await ask(stream, b"%d" % number))
        with pytest.raises(StreamError):
            await stream.read(1)
        assert 1 == server.stats()["stream_reset:idle"]

    assert [b"0", b"1", b"2", b"3", b"4"] == answers
    assert [1] == echoes.times_closed


def quicken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at deadlines all the time."""
    from codio_dht.net.stack import connection

    monkeypatch.setattr(reaper, "REAP_INTERVAL_S", 0.02)
    monkeypatch.setattr(reaper, "REAP_ROUNDS", 1)
    monkeypatch.setattr(connection, "STREAM_SWEEP_INTERVAL_S", 0.02)


async def test_forty_peers_that_hold_their_streams_open_are_all_still_answered() -> None:
    answers: list[bytes] = []
    async with made_host() as server, trio.open_nursery() as nursery:
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        held = trio.Event()
        opened: list[int] = []

        async def hold(number: int) -> None:
            async with made_host() as client:
                await connect(client, server)
                stream = await client.open_stream(server.peer_id, ECHO, soon())
                await ask(stream, b"opened")
                opened.append(number)
                await held.wait()
                answers.append(await ask(stream, b"%d" % number))

        for number in range(40):
            nursery.start_soon(hold, number)
        await until(lambda: len(opened) == 40, 30)
        held.set()

    assert sorted(b"%d" % number for number in range(40)) == sorted(answers)


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
        await until(lambda: server.stats()["stream_tasks"] == 0)

    assert (b"ABC", b"") == (answer, end)


async def test_streams_with_a_task_past_the_bounds_are_reset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream_tasks, "MAX_STREAM_TASKS_PER_PEER", 3)
    monkeypatch.setattr(stream_tasks, "MAX_STREAM_TASKS", 5)

    async def hold(stream: Stream) -> None:
        await stream.write(await stream.read(1))
        await trio.sleep_forever()

    async with made_host() as server, made_host() as one, made_host() as two:
        server.serve_stream("/hold", hold)
        answered = []
        for client in (one, two):
            await connect(client, server)
            count = 0
            for _ in range(4):
                stream = await client.open_stream(server.peer_id, "/hold", soon())
                try:
                    await ask(stream, b"x")
                except StreamError:
                    continue
                count += 1
            answered.append(count)
        assert 3 == server.stats()["stream_tasks_refused"]

    assert [3, 2] == answered


# --- opening --------------------------------------------------------------------------------------


async def test_a_protocol_that_the_peer_does_not_speak_is_told() -> None:
    async with made_host() as server, made_host() as client:
        await connect(client, server)
        stream = await client.open_stream(server.peer_id, "/nobody/speaks/this", soon())
        await stream.write(b"hello")
        with pytest.raises(UnsupportedProtocolError):
            await stream.read(1)
        await identified(client, server.peer_id)
        with pytest.raises(UnsupportedProtocolError):
            await client.open_stream(server.peer_id, "/nobody/speaks/this", soon())
        assert await client.ping(server.peer_id, soon()) > 0
        await until(lambda: client.stats()["streams_open"] == 0)


async def test_a_peer_that_says_less_than_it_speaks_is_asked() -> None:
    async with made_host() as server, made_host() as client:
        await connect(client, server)
        await identified(client, server.peer_id)
        server._served.add(host_module.Served(ECHO, Echoes()))  # behind identify's back
        assert b"hello" == await echo_of(client, server)


async def test_opening_a_stream_needs_a_connection() -> None:
    async with made_host() as server, made_host() as client:
        with pytest.raises(StreamError):
            await client.open_stream(server.peer_id, ECHO, soon())
        with pytest.raises(StreamError):
            await client.ping(server.peer_id, soon())


async def test_opening_waits_for_room_and_ends_at_its_deadline() -> None:
    async with made_host() as server, made_host() as client:
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        await connect(client, server)
        await identified(client, server.peer_id)
        await identified(server, client.peer_id)
        streams = []
        for _ in range(384):  # MAX_OUTBOUND_STREAMS
            streams.append(await client.open_stream(server.peer_id, ECHO, soon()))
            await ask(streams[-1], b"x")
        with pytest.raises(DeadlineError):
            await client.open_stream(server.peer_id, ECHO, soon(0.05))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo_of, client, server)
            await trio.sleep(0.02)
            await streams[0].close()


async def test_a_hundred_streams_at_once_are_all_answered() -> None:
    async with made_host() as server, made_host() as client:
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        await connect(client, server)
        answers: list[bytes] = []

        async def one(number: int) -> None:
            answers.append(await echo_of(client, server, b"%d" % number))

        for _ in range(3):
            async with trio.open_nursery() as nursery:
                for number in range(100):
                    nursery.start_soon(one, number)
        await until(lambda: client.stats()["streams_open"] == 0)
        await until(lambda: server.stats()["streams_open"] == 0)

    assert 300 == len(answers)


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
        server.unserve(ECHO)
        with pytest.raises(StreamError), trio.fail_after(5):
            await stream.read(1)
        after = await next_event(
            client, lambda e: isinstance(e, PeerIdentified) and ECHO not in e.protocols
        )
        with pytest.raises(UnsupportedProtocolError):
            await client.open_stream(server.peer_id, ECHO, soon())

    assert [1] == echoes.times_closed
    assert ECHO in before.protocols
    assert isinstance(after, PeerIdentified)
    assert before.protocols - {ECHO} == after.protocols


async def test_unserve_ends_the_tasks_of_a_protocol() -> None:
    ended = trio.Event()

    async def hold(stream: Stream) -> None:
        try:
            await stream.read(1)
            await trio.sleep_forever()
        finally:
            ended.set()

    async with made_host() as server, made_host() as client:
        server.serve_stream("/hold", hold)
        await connect(client, server)
        stream = await client.open_stream(server.peer_id, "/hold", soon())
        await stream.write(b"x")
        await until(lambda: server.stats()["stream_tasks"] == 1)
        server.unserve("/hold")
        with pytest.raises(StreamError):
            await stream.read(1)
        await ended.wait()


async def test_a_protocol_served_later_is_pushed_to_who_is_connected() -> None:
    async with made_host() as server, made_host() as client:
        await connect(client, server)
        before = await identified(client, server.peer_id)
        await identified(server, client.peer_id)
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        after = await next_event(
            client, lambda e: isinstance(e, PeerIdentified) and ECHO in e.protocols
        )
        await until(lambda: server.stats()["streams_open"] == 0)

    assert isinstance(after, PeerIdentified)
    assert before.protocols | {ECHO} == after.protocols


# --- identify -------------------------------------------------------------------------------------


@LISTENS
async def test_both_ends_of_a_connection_identify_each_other(listen: Multiaddr) -> None:
    async with made_host(listen) as server, made_host(listen) as client:
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        await connect(client, server)
        of_server = await identified(client, server.peer_id)
        of_client = await identified(server, client.peer_id)
        again = await identified(client, server.peer_id)  # a late subscriber hears it too
        [incoming] = server.connections()
        server_addrs, client_addrs = server.addrs, client.addrs

    base = {IDENTIFY, IDENTIFY_PUSH, PING}
    assert base | {ECHO} == of_server.protocols
    assert base == of_client.protocols
    assert server_addrs == of_server.addrs
    assert client_addrs == of_client.addrs
    assert {f"codio-dht/{__version__}"} == {of_server.agent, of_client.agent}
    assert server_addrs[0] == of_client.observed_addr
    assert incoming.addr == of_server.observed_addr
    assert of_server == again


async def test_a_peer_is_gone_with_its_last_connection() -> None:
    async with made_host() as server, made_host() as client:
        await connect(client, server)
        await identified(client, server.peer_id)
        await identified(server, client.peer_id)
        async with server.events() as of_server, client.events() as of_client:
            await client.disconnect(server.peer_id)
            seen = [await anext(of_server), await anext(of_server)]
            assert PeerGone(server.peer_id) != await anext(of_client)
            assert PeerGone(server.peer_id) == await anext(of_client)
        await connect(client, server)
        again = await identified(client, server.peer_id)

    assert PeerGone(client.peer_id) == seen[1]
    assert server.peer_id == again.peer_id


async def raw_identify(client: StackHost, peer_id: PeerId) -> IdentifyMessage:
    stream = await client.open_stream(peer_id, IDENTIFY, soon())
    parts = Parts()
    while data := await stream.read(1 << 16):
        parts.feed(data)
    return parts.message()


async def test_identify_tells_real_addresses_and_the_signed_record_tells_the_same() -> None:
    wildcards = [Multiaddr("/ip4/0.0.0.0/tcp/0"), Multiaddr("/ip6/::/tcp/0")]
    async with made_host(*wildcards) as server, made_host() as client:
        await connect(client, server)
        message = await raw_identify(client, server.peer_id)
        addrs = server.addrs

    assert message.signed_peer_record is not None
    record = open_peer_record(message.signed_peer_record)
    told = tuple(addr.to_bytes() for addr in addrs)
    assert (told, told) == (message.listen_addrs, record.addrs)
    assert server.peer_id == record.peer_id
    texts = [str(addr) for addr in addrs]
    assert any(text.startswith("/ip4/127.0.0.1/tcp/") for text in texts)
    assert any(text.startswith("/ip6/::1/tcp/") for text in texts)
    assert not [text for text in texts if "/0.0.0.0/" in text or text.endswith("/tcp/0")]


async def test_announced_addresses_take_the_place_of_those_listened_on() -> None:
    announced = [Multiaddr("/ip4/192.0.2.7/tcp/4001")]
    async with made_host(announce=announced) as server, made_host() as client:
        await client.connect(server.peer_id, server._listening, soon())
        said = await identified(client, server.peer_id)

    assert (tuple(announced), tuple(announced)) == (server.addrs, said.addrs)


async def test_addresses_that_change_are_told_to_everybody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with made_host() as server, made_host() as client:
        await connect(client, server)
        await identified(client, server.peer_id)
        await identified(server, client.peer_id)
        moved = Multiaddr("/ip4/192.0.2.9/tcp/4001")
        monkeypatch.setattr(host_module, "told_addresses", lambda *_: (moved,))
        async with server.events() as events:
            await anext(events)
            server._look_at_own_addresses()
            assert AddrsChanged((moved,)) == await anext(events)
        said = await next_event(
            client, lambda e: isinstance(e, PeerIdentified) and e.addrs == (moved,)
        )

    assert (moved,) == server.addrs
    assert isinstance(said, PeerIdentified)


@pytest.mark.parametrize(
    "answer",
    [b"", b"\xff" * 40, b"\x05abc", b"\x03\x0a\x7f\x01", b"\x80\x80\x08" + b"a" * 200_000],
    ids=["empty", "bad length", "cut short", "not protobuf", "too long"],
)
async def test_an_identify_message_that_is_none_is_counted_and_nothing_else(answer: bytes) -> None:
    async def rubbish(stream: Stream) -> None:
        await stream.write(answer)

    async with made_host() as server, made_host() as client:
        server.serve_stream(IDENTIFY, rubbish)
        await connect(client, server)
        await until(lambda: client.stats().get("identify_failed") == 1)
        rtt = await client.ping(server.peer_id, soon())

    assert rtt > 0


async def test_a_peer_that_never_says_who_it_is_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(identifying, "IDENTIFY_TIMEOUT_S", 0.1)
    quicken(monkeypatch)

    async def mute(stream: Stream) -> None:
        await trio.sleep_forever()

    async with made_host() as server, made_host() as client:
        server.serve_stream(IDENTIFY, mute)
        await connect(client, server)
        await until(lambda: client.stats().get("identify_failed") == 1)
        assert 0 == client.stats()["streams_open"]
        assert await client.ping(server.peer_id, soon()) > 0


async def test_rubbish_pushed_is_counted_and_nothing_else() -> None:
    async with made_host() as server, made_host() as client:
        await connect(client, server)
        said = await identified(server, client.peer_id)
        for rubbish in (b"\xff" * 100, b"\x80\x80\x04" + b"a" * 100_000):
            stream = await client.open_stream(server.peer_id, IDENTIFY_PUSH, soon())
            with suppress(StreamError):
                await stream.write(rubbish)
            await stream.close()
        await until(lambda: server.stats().get("identify_push_failed") == 2)
        after = await identified(server, client.peer_id)

    assert said == after


async def test_what_identify_says_is_bounded() -> None:
    key = PrivateKey.generate_ed25519()
    protocols = [f"/p/{number:03}" for number in range(600)] + ["/" + "x" * 300]
    addrs = [Multiaddr(f"/ip4/192.0.2.1/tcp/{port}") for port in range(1, 100)]
    much = Introduction.of(key, addrs=addrs, protocols=protocols, agent="agent\n" * 40, sequence=1)

    async def tell(stream: Stream) -> None:
        await stream.write(much.to(addrs[0].to_bytes()))

    async with made_host(key=key) as server, made_host() as client:
        server.serve_stream(IDENTIFY, tell)
        await connect(client, server)
        said = await identified(client, server.peer_id)

    assert 256 == len(said.protocols)
    assert tuple(addrs[:32]) == said.addrs
    assert "agent?" * 40 == said.agent


@pytest.mark.parametrize("own", [True, False], ids=["its own", "another's"])
async def test_addresses_that_are_only_in_the_signed_record_count_if_it_is_the_peers(
    own: bool,
) -> None:
    key = PrivateKey.generate_ed25519()
    addrs = [Multiaddr("/ip4/192.0.2.1/tcp/4001").to_bytes()]
    record = seal_peer_record(
        key if own else PrivateKey.generate_ed25519(), sequence=1, addrs=addrs
    )
    message = encode_identify(IdentifyMessage(protocols=("/p",), signed_peer_record=record))

    async def tell(stream: Stream) -> None:
        await stream.write(uvarint(len(message)) + message)

    async with made_host(key=key) as server, made_host() as client:
        server.serve_stream(IDENTIFY, tell)
        await connect(client, server)
        said = await identified(client, server.peer_id)

    assert tuple(map(Multiaddr, addrs if own else [])) == said.addrs
    assert {"/p"} == said.protocols


async def test_a_slow_subscriber_loses_the_oldest_events_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_bus, "MAX_EVENTS_PER_SUBSCRIBER", 2)
    async with made_host() as host:
        peers = [PrivateKey.generate_ed25519().peer_id() for _ in range(5)]
        async with host.events() as slow:
            for peer_id in peers:
                host._bus.emit(PeerGone(peer_id))
            seen = [await anext(slow), await anext(slow)]
        assert 3 == host.stats()["events_dropped"]

    assert [PeerGone(peers[3]), PeerGone(peers[4])] == seen


# --- the host -------------------------------------------------------------------------------------


@LISTENS
async def test_ping_works_both_ways(listen: Multiaddr) -> None:
    async with made_host(listen) as server, made_host(listen) as client:
        await connect(client, server)
        there = await client.ping(server.peer_id, soon())
        await until(lambda: server.is_connected(client.peer_id))
        back = await server.ping(client.peer_id, soon())

    assert there > 0
    assert back > 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: rsa.generate_private_key(65537, 2048),
        lambda: ec.generate_private_key(ec.SECP256K1()),
        lambda: ec.generate_private_key(ec.SECP256R1()),
    ],
    ids=["RSA", "SECP256K1", "ECDSA"],
)
async def test_other_kinds_of_keys_work_too(make) -> None:
    async with made_host(key=PrivateKey(make())) as server, made_host() as client:
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        await connect(client, server)
        assert b"hello" == await echo_of(client, server)
        said = await identified(client, server.peer_id)
        assert server.addrs == said.addrs


async def test_connections_tell_who_where_and_which_way() -> None:
    async with made_host() as server, made_host() as client:
        await connect(client, server)
        await identified(client, server.peer_id)
        await identified(server, client.peer_id)
        [outgoing], [incoming] = client.connections(), server.connections()
        server_addr = server.addrs[0]

    assert (server.peer_id, False, server_addr) == (
        outgoing.peer_id,
        outgoing.inbound,
        outgoing.addr,
    )
    assert (client.peer_id, True) == (incoming.peer_id, incoming.inbound)
    assert str(incoming.addr).startswith("/ip4/127.0.0.1/tcp/")
    assert incoming.addr not in client.addrs
    assert PING in outgoing.protocols


async def test_disconnect_ends_the_connection_at_both_ends() -> None:
    async with made_host() as server, made_host() as client:
        await connect(client, server)
        await until(lambda: bool(server.connections()))
        await client.disconnect(server.peer_id)
        assert [] == client.connections()
        await until(lambda: not server.connections())
        await client.disconnect(server.peer_id)  # nothing to do


async def test_a_port_in_use_is_a_clear_error_of_ours() -> None:
    async with made_host() as host:
        [taken] = host.addrs
        with pytest.raises(NetworkError, match=f"cannot listen on {taken}: Address already in use"):
            async with made_host(taken):
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
        async with made_host(Multiaddr(listen)):
            raise AssertionError("listening")


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


async def test_a_host_that_ends_closes_its_connections_at_the_other_end_too() -> None:
    async with made_host() as client:
        async with made_host() as server:
            await connect(client, server)
        await until(lambda: not client.connections())


@pytest.mark.deadline_s(60)
async def test_twenty_five_nodes_on_this_host_provide_to_twenty_and_find() -> None:
    cid = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
    async with AsyncExitStack() as stack:
        nodes: list[DHTManager] = []
        for _ in range(25):
            host = await stack.enter_async_context(made_host())
            boot = [f"{nodes[0].addrs[0]}/p2p/{nodes[0].peer_id}"] if nodes else []
            nodes.append(
                await stack.enter_async_context(DHTManager(host, bootstrap=boot, mode="server"))
            )
        await until(lambda: all(len(node.routing_table_peers()) >= 20 for node in nodes), 50)
        provider = nodes[7].peer_id
        result = await nodes[7].provide(cid, quorum=20)
        holders = [node for node in nodes if await node.provider_records(cid)]
        found = await nodes[3].find_providers(cid)

    assert (20, 20, 20) == (result.holders, result.confirmed, len(holders))
    assert [provider] == [info.peer_id for info in found]


def test_running_a_host_imports_no_py_libp2p() -> None:
    program = """
import sys, trio
from multiaddr import Multiaddr
from codio_dht.crypto.keys import PrivateKey
from codio_dht.net.stack_host import make_stack_host

async def main():
    tcp = Multiaddr("/ip4/127.0.0.1/tcp/0")
    async with (
        make_stack_host(PrivateKey.generate_ed25519(), [tcp]) as one,
        make_stack_host(PrivateKey.generate_ed25519(), [tcp]) as two,
    ):
        await one.connect(two.peer_id, two.addrs, trio.current_time() + 5)
        await one.ping(two.peer_id, trio.current_time() + 5)

trio.run(main)
print([name for name in sys.modules if name.partition(".")[0] == "libp2p"])
"""
    run = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=30
    )
    assert ("[]\n", 0) == (run.stdout, run.returncode), run.stderr
