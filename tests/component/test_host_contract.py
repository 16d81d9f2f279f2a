"""What every ``Host`` keeps, whatever stack carries it: two of them on loopback.

Each promise of ``codio_dht/net/host.py`` is checked once, on every implementation and (where it
may matter) every transport. What one implementation does beyond the port is checked in its own
file: ``test_stack_host.py``, ``test_stack_quic.py``, ``test_libp2p_host.py``.
"""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from libp2p.peer.envelope import consume_envelope
from multiaddr import Multiaddr

from codio_dht import __version__
from codio_dht.core.peer import PeerId
from codio_dht.crypto.keys import PrivateKey
from codio_dht.crypto.peer_record import seal_peer_record
from codio_dht.errors import (
    DeadlineError,
    DialError,
    NetworkError,
    NotRunningError,
    StreamError,
    UnsupportedProtocolError,
    UsageError,
)
from codio_dht.formats.varint import encode_varint, length_prefixed
from codio_dht.net import event_bus
from codio_dht.net.handlers import Parked, Reset
from codio_dht.net.host import AddrsChanged, Host, HostEvent, PeerGone, PeerIdentified, Stream
from codio_dht.net.identify.limits import (
    IDENTIFY_ATTEMPTS,
    MAX_IDENTIFY_PROTOCOLS,
    MAX_IDENTIFY_TEXT_BYTES,
)
from codio_dht.net.identify.message import (
    IDENTIFY,
    IDENTIFY_PUSH,
    IdentifyMessage,
    MessageParts,
    encode_identify,
)
from codio_dht.net.ping import PING
from host_steps import (
    ECHO,
    IDLE_S,
    QUIC,
    TCP,
    UNDIALLABLE,
    Echo,
    Echoes,
    ask,
    connect,
    dead_address,
    echo_of,
    identified,
    next_event,
    silent_listener,
    soon,
    until,
)
from host_subjects import BOTH, BUT_PY_QUIC, EVERYWHERE, EVERYWHERE_AND_IP6, Relay, Subject

STRANGER = PrivateKey.from_ed25519_seed(b"s" * 32).peer_id()


def faults(host: Host) -> list[str]:
    """What the host counted that a peer which behaves does not cause."""
    return [name for name in host.stats() if {"reset", "error", "broken"} & set(words(name))]


def words(name: str) -> list[str]:
    return [word.rstrip("s") for word in name.replace(":", "_").split("_")]


# --- streams --------------------------------------------------------------------------------------


@EVERYWHERE_AND_IP6
async def test_a_request_is_answered_and_the_stream_ends_cleanly(subject: Subject) -> None:
    echoes = Echoes(lambda: Echo(b"bye"))
    async with subject.pair(echoes) as (server, client):
        stream = await client.open_stream(server.peer_id, ECHO, soon())
        answer = await ask(stream, b"hello")
        await stream.close_write()
        farewell = await stream.read(100)
        end = await stream.read(100)
        await stream.close()
        await until(lambda: echoes.times_closed == [1])
        await until(lambda: subject.streams_open(server) == 0)
        faults_of_server = faults(server)

    assert (b"hello", b"bye", b"") == (answer, farewell, end)
    assert (server.peer_id, ECHO) == (stream.peer_id, stream.protocol)
    assert [client.peer_id] == echoes.peers
    assert echoes.made[0].got_eof
    assert [1] == echoes.times_closed
    assert [] == faults_of_server


@EVERYWHERE
async def test_large_messages_pass_in_both_directions(subject: Subject) -> None:
    message = bytes(range(256)) * (subject.implementation.large_message_bytes // 256)
    async with subject.pair() as (server, client):
        stream = await client.open_stream(server.peer_id, ECHO, soon())
        received = bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.write, message)
            while len(received) < len(message):
                piece = await stream.read(1 << 20)
                assert 0 < len(piece) <= 1 << 20
                received += piece

    assert message == bytes(received)


@EVERYWHERE
async def test_a_read_takes_no_more_than_it_asked_for(subject: Subject) -> None:
    async with subject.pair() as (server, client):
        stream = await client.open_stream(server.peer_id, ECHO, soon())
        await stream.write(b"hello")
        pieces = [await stream.read(2) for _ in range(3)]

    assert [b"he", b"ll", b"o"] == pieces


@pytest.mark.conformance("c05")
@EVERYWHERE
async def test_an_end_right_after_opening_is_a_graceful_close_and_no_error(
    subject: Subject,
) -> None:
    echoes = Echoes()
    async with subject.pair(echoes) as (server, client):
        stream = await client.open_stream(server.peer_id, ECHO, soon())
        await stream.close_write()
        end = await stream.read(1)
        await until(lambda: echoes.times_closed == [1])
        faults_of_server = faults(server)

    assert (b"", []) == (end, faults_of_server)


@EVERYWHERE
async def test_a_reset_by_the_peer_is_an_error_and_not_an_end(subject: Subject) -> None:
    class Resetting(Echo):
        def feed(self, data, now):
            return Reset("test")

    echoes = Echoes(Resetting)
    async with subject.pair(echoes) as (server, client):
        stream = await client.open_stream(server.peer_id, ECHO, soon())
        await stream.write(b"x")
        with pytest.raises(StreamError, match=r"(?i)reset"):
            await stream.read(1)
        with pytest.raises(StreamError):
            await stream.write(b"y")
        await until(lambda: echoes.times_closed == [1])
        assert 1 == server.stats()[subject.counters.reset]

    assert [1] == echoes.times_closed


@EVERYWHERE
async def test_a_stream_is_over_with_its_connection(subject: Subject) -> None:
    echoes = Echoes()
    async with subject.pair(echoes) as (server, client), trio.open_nursery() as nursery:
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
        await until(lambda: len(errors) == 1)
        await until(lambda: not client.is_connected(server.peer_id))
        with pytest.raises(StreamError):
            await stream.write(b"y")
        await stream.close()
        await stream.close()
        await stream.reset()
        await until(lambda: echoes.times_closed == [1])

    assert [1] == echoes.times_closed


@EVERYWHERE
async def test_a_parked_stream_waits_alone_and_goes_on(subject: Subject) -> None:
    wakers: list[object] = []

    class Parking(Echo):
        def feed(self, data, now):
            if data == b"load":
                return Parked(b"first ", wakers.append)
            return data or b"second"

    async with subject.pair(Echoes(Parking)) as (server, client):
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


@EVERYWHERE
async def test_a_handler_may_park_for_a_turn_many_times(subject: Subject) -> None:
    class Turns(Echo):
        turns = 0

        def feed(self, data, now):
            self.turns += 1
            return Parked(b".", lambda wake: wake()) if self.turns < 50 else b"!"

    async with subject.pair(Echoes(Turns)) as (server, client):
        stream = await client.open_stream(server.peer_id, ECHO, soon())
        await stream.write(b"go")
        answer = b""
        while not answer.endswith(b"!"):
            answer += await stream.read(100)

    assert b"." * 49 + b"!" == answer


@pytest.mark.parametrize("where", ["factory", "feed", "eof", "closed"])
@BUT_PY_QUIC
async def test_a_handler_that_raises_ends_its_stream_only(subject: Subject, where: str) -> None:
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

    async with subject.host() as server, subject.host() as client:
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        server.serve("/broken", factory, idle_timeout_s=IDLE_S)
        await connect(client, server)
        healthy = await client.open_stream(server.peer_id, ECHO, soon())
        stream = await client.open_stream(server.peer_id, "/broken", soon())
        with suppress(StreamError):  # it may be reset before it is written to
            await stream.write(b"x")
            await stream.close_write()
        await until(lambda: server.stats().get("stream_handler_errors") == 1)
        answer = await ask(healthy, b"still here")

    assert b"still here" == answer
    assert ([] if where == "factory" else [1]) == broken.times_closed


@pytest.mark.conformance("c04")
@EVERYWHERE
async def test_an_idle_stream_is_reset_and_a_busy_one_is_not(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject.implementation.quicken(monkeypatch)
    echoes = Echoes()
    async with subject.pair() as (server, client):
        server.serve("/hasty", echoes, idle_timeout_s=1.2)
        stream = await client.open_stream(server.peer_id, "/hasty", soon())
        answers = []
        for number in range(5):
            await trio.sleep(0.3)
            answers.append(await ask(stream, b"%d" % number))
        with trio.fail_after(30), pytest.raises(StreamError):
            await stream.read(1)
        await until(lambda: echoes.times_closed == [1])
        assert 1 == server.stats()[subject.counters.idle]

    assert [b"0", b"1", b"2", b"3", b"4"] == answers


@BUT_PY_QUIC
async def test_forty_peers_that_hold_their_streams_open_are_all_still_answered(
    subject: Subject,
) -> None:
    answers: list[bytes] = []
    async with subject.host() as server, trio.open_nursery() as nursery:
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        held = trio.Event()
        opened: list[int] = []

        async def hold(number: int) -> None:
            async with subject.host() as client:
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


@BUT_PY_QUIC
async def test_a_hundred_streams_at_once_are_all_answered(subject: Subject) -> None:
    answers: list[bytes] = []
    async with subject.pair() as (server, client):

        async def one(number: int) -> None:
            answers.append(await echo_of(client, server, b"%d" % number))

        for _ in range(3):
            async with trio.open_nursery() as nursery:
                for number in range(100):
                    nursery.start_soon(one, number)
        await until(lambda: subject.streams_open(client) == 0)
        await until(lambda: subject.streams_open(server) == 0)

    assert sorted(3 * [b"%d" % number for number in range(100)]) == sorted(answers)


@EVERYWHERE
async def test_a_stream_handler_of_its_own_gets_a_task_and_may_raise(subject: Subject) -> None:
    async def upper(stream: Stream) -> None:
        while data := await stream.read(100):
            if data == b"raise":
                raise RuntimeError(data)
            await stream.write(data.upper())

    async with subject.pair() as (server, client):
        server.serve_stream("/upper", upper)
        good = await client.open_stream(server.peer_id, "/upper", soon())
        bad = await client.open_stream(server.peer_id, "/upper", soon())
        await bad.write(b"raise")
        with pytest.raises(StreamError):
            await bad.read(1)
        await good.write(b"abc")
        answer = await good.read(100)
        await good.close_write()
        end = await good.read(1)
        await until(lambda: subject.streams_open(server) == 0)

    assert (b"ABC", b"") == (answer, end)


@BOTH
async def test_streams_with_a_task_past_the_bounds_are_reset_and_counted(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject.implementation.bound_stream_tasks(monkeypatch, 3, 5)

    async def hold(stream: Stream) -> None:
        await stream.write(await stream.read(1))
        await trio.sleep_forever()

    async with subject.host() as server, subject.host() as one, subject.host() as two:
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
        refused = server.stats()[subject.counters.refused]

    assert ([3, 2], 3) == (answered, refused)


# --- opening --------------------------------------------------------------------------------------


@EVERYWHERE
async def test_a_protocol_that_the_peer_does_not_speak_is_told(subject: Subject) -> None:
    unspoken = "/nobody/speaks/this"
    async with subject.pair() as (server, client):
        with pytest.raises(UnsupportedProtocolError):  # by the first read at the latest
            await ask(await client.open_stream(server.peer_id, unspoken, soon()), b"hello")
        await identified(client, server.peer_id)
        with pytest.raises(UnsupportedProtocolError):  # and now by opening it
            await client.open_stream(server.peer_id, unspoken, soon())
        rtt = await client.ping(server.peer_id, soon())
        await until(lambda: subject.streams_open(client) == 0)

    assert rtt > 0


async def tell_protocols(stream: Stream, *protocols: str) -> None:
    """Answer identify."""
    message = encode_identify(IdentifyMessage(protocols=protocols))
    await stream.write(encode_varint(len(message)) + message)


@EVERYWHERE
async def test_a_peer_that_stopped_speaking_a_protocol_is_told_when_reading(
    subject: Subject,
) -> None:
    async def boast(stream: Stream) -> None:
        await tell_protocols(stream, PING, "/no more")

    async with subject.host() as server, subject.host() as client:
        server.serve_stream(IDENTIFY, boast)
        await connect(client, server)
        said = await identified(client, server.peer_id)
        stream = await client.open_stream(server.peer_id, "/no more", soon())
        await stream.write(b"x")
        with pytest.raises(UnsupportedProtocolError):
            await stream.read(1)

    assert {PING, "/no more"} == said.protocols


@EVERYWHERE
async def test_a_peer_that_says_less_than_it_speaks_is_asked(subject: Subject) -> None:
    async def understate(stream: Stream) -> None:
        await tell_protocols(stream, PING)

    async with subject.host() as server, subject.host() as client:
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        server.serve_stream(IDENTIFY, understate)
        await connect(client, server)
        said = await identified(client, server.peer_id)
        answer = await echo_of(client, server)

    assert ({PING}, b"hello") == (said.protocols, answer)


@EVERYWHERE
async def test_opening_a_stream_needs_a_connection(subject: Subject) -> None:
    async with subject.host() as server, subject.host() as client:
        with pytest.raises(StreamError):
            await client.open_stream(server.peer_id, ECHO, soon())
        with pytest.raises(StreamError):
            await client.ping(server.peer_id, soon())


@EVERYWHERE
async def test_asking_a_peer_that_fell_silent_ends_at_the_deadline(subject: Subject) -> None:
    async with (
        subject.host() as server,
        subject.host() as client,
        Relay(server).running() as relay,
    ):
        await client.connect(server.peer_id, [relay.addr], soon())
        await identified(client, server.peer_id)
        assert await client.ping(server.peer_id, soon()) > 0
        relay.silent = True
        with trio.fail_after(30):
            with pytest.raises(DeadlineError):  # it said that it does not speak this: it is asked
                await client.open_stream(server.peer_id, ECHO, soon(0.1))
            with pytest.raises(DeadlineError):
                await client.ping(server.peer_id, soon(0.1))
        assert client.is_connected(server.peer_id)


@EVERYWHERE
async def test_cancelled_opens_writes_and_reads_never_harm_the_connection(
    subject: Subject,
) -> None:
    async with subject.pair() as (server, client):
        await identified(client, server.peer_id)

        async def use(patience_s: float) -> None:
            with trio.move_on_after(patience_s):
                stream = await client.open_stream(server.peer_id, ECHO, soon())
                try:
                    await ask(stream, b"x" * 3_000)
                finally:
                    await stream.reset()

        for batch in range(20):
            await use(0)
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(use, (batch * 20 + number) * 0.000_05)
        rtt = await client.ping(server.peer_id, soon())
        answer = await echo_of(client, server, b"y" * 100_000)
        await until(lambda: subject.streams_open(server) == 0)
        await until(lambda: subject.streams_open(client) == 0)
        connections = (len(client.connections()), len(server.connections()))
        await until(lambda: subject.implementation.places_held(client) == 0)
        await until(lambda: subject.implementation.places_held(server) == 0)

    assert rtt > 0
    assert b"y" * 100_000 == answer
    assert (1, 1) == connections


# --- serving and not serving ----------------------------------------------------------------------


@pytest.mark.conformance("c30")
@EVERYWHERE
async def test_unserve_resets_the_streams_and_stops_advertising_the_protocol(
    subject: Subject,
) -> None:
    echoes = Echoes()
    async with subject.pair(echoes) as (server, client):
        before = await identified(client, server.peer_id)
        stream = await client.open_stream(server.peer_id, ECHO, soon())
        await ask(stream, b"x")
        server.unserve(ECHO)
        server.unserve(ECHO)
        with trio.fail_after(30), pytest.raises(StreamError):
            await stream.read(1)
        with trio.fail_after(30):
            after = await next_event(
                client, lambda e: isinstance(e, PeerIdentified) and ECHO not in e.protocols
            )
        with pytest.raises(UnsupportedProtocolError):
            await client.open_stream(server.peer_id, ECHO, soon())
        await until(lambda: echoes.times_closed == [1])

    assert [1] == echoes.times_closed
    assert ECHO in before.protocols
    assert isinstance(after, PeerIdentified)
    assert before.protocols - {ECHO} == after.protocols


@EVERYWHERE
async def test_unserve_ends_the_tasks_of_a_protocol(subject: Subject) -> None:
    began, ended = trio.Event(), trio.Event()

    async def hold(stream: Stream) -> None:
        try:
            await stream.read(1)
            began.set()
            await trio.sleep_forever()
        finally:
            ended.set()

    async with subject.pair() as (server, client):
        server.serve_stream("/hold", hold)
        stream = await client.open_stream(server.peer_id, "/hold", soon())
        await stream.write(b"x")
        with trio.fail_after(30):
            await began.wait()
            server.unserve("/hold")
            with pytest.raises(StreamError):
                await stream.read(1)
            await ended.wait()


@EVERYWHERE
async def test_a_protocol_served_later_is_pushed_to_who_is_connected(subject: Subject) -> None:
    later = "/later"
    async with subject.pair() as (server, client):
        before = await identified(client, server.peer_id)
        await identified(server, client.peer_id)
        server.serve(later, Echoes(), idle_timeout_s=IDLE_S)
        after = await next_event(
            client, lambda e: isinstance(e, PeerIdentified) and later in e.protocols
        )
        await until(lambda: subject.streams_open(server) == 0)

    assert isinstance(after, PeerIdentified)
    assert before.protocols | {later} == after.protocols


# --- connecting -----------------------------------------------------------------------------------


@EVERYWHERE
async def test_concurrent_connects_to_one_peer_share_one_connection(subject: Subject) -> None:
    async with subject.host() as server, subject.host() as client:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(connect, client, server)
        await connect(client, server)  # which is there already
        await until(lambda: len(server.connections()) == 1)
        connections = len(client.connections())

    assert 1 == connections


@EVERYWHERE
async def test_another_peer_at_the_address_is_a_dial_error(subject: Subject) -> None:
    async with subject.host() as server, subject.host() as client:
        with pytest.raises(DialError):
            await client.connect(STRANGER, server.addrs, soon())
        assert not client.is_connected(STRANGER)
        assert not client.is_connected(server.peer_id)
        assert [] == client.connections()
        await until(lambda: not server.connections())
        await connect(client, server)  # which says nothing against the one who is there


@BOTH
async def test_every_address_is_tried_until_one_leads_to_the_peer(subject: Subject) -> None:
    with silent_listener() as silent:
        async with (
            subject.host(TCP, QUIC) as server,
            subject.host() as other,
            subject.host() as client,
        ):
            dead = [dead_address() for _ in range(12)]
            await client.connect(
                server.peer_id, [*dead, silent, *other.addrs, *server.addrs], soon()
            )
            assert client.is_connected(server.peer_id)
            assert not client.is_connected(other.peer_id)


@BOTH
async def test_a_failed_dial_may_be_repeated_at_once(subject: Subject) -> None:
    async with subject.host() as server, subject.host() as client:
        with pytest.raises(DialError):
            await client.connect(server.peer_id, [dead_address()], soon())
        await connect(client, server)
        assert client.is_connected(server.peer_id)


@EVERYWHERE
async def test_a_dial_ends_at_its_deadline_and_takes_nobody_with_it(subject: Subject) -> None:
    with silent_listener() as silent:
        async with subject.host() as server, subject.host() as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.connect, server.peer_id, [silent], soon())
                with trio.fail_after(30), pytest.raises(DeadlineError):
                    await client.connect(server.peer_id, [silent], soon(0.05))
                with trio.fail_after(30):
                    await client.connect(server.peer_id, [silent, *server.addrs], soon())
            assert client.is_connected(server.peer_id)


@EVERYWHERE
async def test_dead_peers_do_not_hold_up_a_good_one(subject: Subject) -> None:
    with silent_listener() as silent:
        async with (
            subject.host() as server,
            subject.host() as client,
            trio.open_nursery() as nursery,
        ):
            ended: list[PeerId] = []

            async def dial_dead() -> None:
                dead = PrivateKey.generate_ed25519().peer_id()
                with pytest.raises((DialError, DeadlineError)):
                    await client.connect(dead, [silent], soon())
                ended.append(dead)

            for _ in range(60):
                nursery.start_soon(dial_dead)
            await trio.testing.wait_all_tasks_blocked(0.01)
            await client.connect(server.peer_id, server.addrs, soon())
            assert client.is_connected(server.peer_id)
            assert [] == ended  # none of them had to end first
            nursery.cancel_scope.cancel()


@UNDIALLABLE
@BOTH
async def test_addresses_that_cannot_be_dialled_are_a_dial_error(
    subject: Subject, addrs: list[str]
) -> None:
    async with subject.host() as client:
        with pytest.raises(DialError):
            await client.connect(STRANGER, [Multiaddr(addr) for addr in addrs], soon())


@EVERYWHERE
async def test_connecting_to_itself_is_a_dial_error(subject: Subject) -> None:
    async with subject.host() as host:
        with pytest.raises(DialError):
            await host.connect(host.peer_id, host.addrs, soon())
        with pytest.raises(DialError):
            await host.connect(STRANGER, host.addrs, soon())
        await until(lambda: not host.connections())


@EVERYWHERE
async def test_an_address_may_end_with_the_peers_own_id(subject: Subject) -> None:
    async with subject.host() as server, subject.host() as client:
        [addr] = server.addrs
        await client.connect(server.peer_id, [Multiaddr(f"{addr}/p2p/{server.peer_id}")], soon())
        assert client.is_connected(server.peer_id)


# --- identify -------------------------------------------------------------------------------------


@EVERYWHERE_AND_IP6
async def test_both_ends_of_a_connection_identify_each_other(subject: Subject) -> None:
    async with subject.pair() as (server, client):
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


@BOTH
async def test_identify_on_each_new_connection_is_told_also_if_it_says_the_same(
    subject: Subject,
) -> None:
    key = PrivateKey.generate_ed25519()
    announced = [Multiaddr("/ip4/192.0.2.7/tcp/4001")]
    async with (
        subject.host() as server,
        server.events() as events,
        subject.host(key=key, announce=announced) as first,
    ):
        await first.connect(server.peer_id, server.addrs, soon())
        seen = [await _identified_in(events)]
        # The same peer again: as if it had died without a word and come back.
        async with subject.host(key=key, announce=announced) as second:
            await second.connect(server.peer_id, server.addrs, soon())
            seen.append(await _identified_in(events))

    assert seen[0] == seen[1]
    assert [event.new_connection for event in seen] == [True, True]


async def _identified_in(events: AsyncIterator[HostEvent]) -> PeerIdentified:
    with trio.fail_after(30):
        while not isinstance(event := await anext(events), PeerIdentified):
            pass
    return event


async def _gone_in(events: AsyncIterator[HostEvent]) -> PeerGone:
    """The next end of a peer, which may have introduced itself once more before."""
    with trio.fail_after(30):
        while not isinstance(event := await anext(events), PeerGone):
            pass
    return event


@BUT_PY_QUIC
async def test_a_peer_is_gone_with_its_last_connection(subject: Subject) -> None:
    async with subject.host() as server, subject.host() as client:
        await connect(client, server)
        await identified(client, server.peer_id)
        await identified(server, client.peer_id)
        async with server.events() as of_server, client.events() as of_client:
            introduced = [await _identified_in(of_server), await _identified_in(of_client)]
            await client.disconnect(server.peer_id)
            gone = [await _gone_in(of_server), await _gone_in(of_client)]
        await connect(client, server)
        again = await identified(client, server.peer_id)

    assert [client.peer_id, server.peer_id] == [event.peer_id for event in introduced]
    assert [PeerGone(client.peer_id), PeerGone(server.peer_id)] == gone
    assert server.peer_id == again.peer_id


@BOTH
async def test_identify_tells_real_addresses_and_the_signed_record_tells_the_same(
    subject: Subject,
) -> None:
    wildcards = ["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1", "/ip6/::/tcp/0"]
    async with subject.host(*map(Multiaddr, wildcards)) as server, subject.host() as client:
        await connect(client, server)
        stream = await client.open_stream(server.peer_id, IDENTIFY, soon())
        parts = MessageParts()
        while data := await stream.read(1 << 16):
            parts.feed(data)
        message = parts.message()
        addrs = server.addrs

    # Read by py-libp2p, which is not the one that our own stack wrote it with.
    assert message.signed_peer_record is not None
    _, record = consume_envelope(message.signed_peer_record, "libp2p-peer-record")
    assert addrs == tuple(map(Multiaddr, message.listen_addrs))
    assert addrs == tuple(record.addrs)
    assert str(server.peer_id) == str(record.peer_id)
    texts = [str(addr) for addr in addrs]
    for start in ("/ip4/127.0.0.1/tcp/", "/ip4/127.0.0.1/udp/", "/ip6/::1/tcp/"):
        assert any(text.startswith(start) for text in texts), start
    for part in ("/0.0.0.0/", "/::/", "/tcp/0", "/udp/0", "/p2p/"):
        assert not [text for text in texts if part in text], part


@EVERYWHERE
async def test_announced_addresses_take_the_place_of_those_listened_on(subject: Subject) -> None:
    announced = [Multiaddr("/ip4/192.0.2.7/tcp/4001")]
    async with subject.host(announce=announced) as server, subject.host() as client:
        await client.connect(server.peer_id, subject.implementation.listening(server), soon())
        said = await identified(client, server.peer_id)

    assert (tuple(announced), tuple(announced)) == (server.addrs, said.addrs)


@BOTH
async def test_addresses_that_change_are_told_to_everybody(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject.implementation.quicken(monkeypatch)
    moved = Multiaddr("/ip4/192.0.2.9/tcp/4001")
    async with subject.pair() as (server, client):
        await identified(client, server.peer_id)
        await identified(server, client.peer_id)
        async with server.events() as of_server:
            # As if the machine's interfaces had changed.
            monkeypatch.setattr(server, "_announce", (moved,))
            with trio.fail_after(30):
                while not isinstance(event := await anext(of_server), AddrsChanged):
                    pass
        with trio.fail_after(30):
            said = await next_event(
                client, lambda e: isinstance(e, PeerIdentified) and e.addrs == (moved,)
            )
        told = server.addrs

    assert AddrsChanged((moved,)) == event
    assert (moved,) == told
    assert isinstance(said, PeerIdentified)


@BOTH
async def test_a_change_of_the_machines_network_is_told_also_if_own_addresses_stay(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject.implementation.quicken(monkeypatch)
    subject.implementation.set_network(monkeypatch, "offline")
    async with subject.host(announce=[Multiaddr("/ip4/192.0.2.7/tcp/4001")]) as host:
        async with host.events() as events:
            with trio.move_on_after(0.3) as quiet:
                await anext(events)
            subject.implementation.set_network(monkeypatch, "online")
            with trio.fail_after(30):
                event = await anext(events)
        addrs = host.addrs

    assert quiet.cancelled_caught
    assert AddrsChanged(addrs) == event


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff" * 40,
        b"\x05abc",
        b"\x04\x00\x01\x02\x03",
        b"\x03\x0a\x7f\x01",
        b"\x80\x80\x08" + b"a" * 200_000,
    ],
    ids=["empty", "bad length", "cut short", "not protobuf", "bad field", "too long"],
)
@BOTH
async def test_an_identify_message_that_is_none_is_counted_and_nothing_else(
    subject: Subject, answer: bytes
) -> None:
    async def rubbish(stream: Stream) -> None:
        await stream.write(answer)

    attempts = IDENTIFY_ATTEMPTS
    async with subject.host() as server, subject.host() as client:
        server.serve_stream(IDENTIFY, rubbish)
        await connect(client, server)
        await until(lambda: client.stats().get("identify_failed") == attempts)
        rtt = await client.ping(server.peer_id, soon())

    assert rtt > 0


@BOTH
async def test_a_peer_that_never_says_who_it_is_is_given_up(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject.implementation.bound_identify_time(monkeypatch, 0.1)
    subject.implementation.quicken(monkeypatch)

    async def mute(stream: Stream) -> None:
        await trio.sleep_forever()

    attempts = IDENTIFY_ATTEMPTS
    async with subject.host() as server, subject.host() as client:
        server.serve_stream(IDENTIFY, mute)
        await connect(client, server)
        await until(lambda: client.stats().get("identify_failed") == attempts)
        rtt = await client.ping(server.peer_id, soon())
        await until(lambda: subject.streams_open(client) == 0)

    assert rtt > 0


@BOTH
async def test_rubbish_pushed_is_counted_and_nothing_else(subject: Subject) -> None:
    async with subject.host() as server, subject.host() as client:
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


@pytest.mark.parametrize("agent_words", [40, 100])
@BOTH
async def test_what_identify_says_is_bounded(subject: Subject, agent_words: int) -> None:
    key = PrivateKey.generate_ed25519()
    protocols = ["/" + "!" * 300] + [f"/p/{number:03}" for number in range(600)]
    addrs = [Multiaddr(f"/ip4/192.0.2.1/tcp/{port}") for port in range(1, 100)]
    much = encode_identify(
        IdentifyMessage(
            listen_addrs=tuple(addr.to_bytes() for addr in addrs),
            protocols=tuple(protocols),
            agent="agent\n" * agent_words,
        )
    )

    async def tell(stream: Stream) -> None:
        await stream.write(length_prefixed(much))

    async with subject.host(key=key) as server, subject.host() as client:
        server.serve_stream(IDENTIFY, tell)
        await connect(client, server)
        said = await identified(client, server.peer_id)

    kept = min(len("agent?") * agent_words, MAX_IDENTIFY_TEXT_BYTES)
    assert set(protocols[1 : 1 + MAX_IDENTIFY_PROTOCOLS]) == said.protocols
    assert tuple(addrs[:32]) == said.addrs
    assert ("agent?" * 100)[:kept] == said.agent


@pytest.mark.parametrize("own", [True, False], ids=["its own", "another's"])
@BOTH
async def test_addresses_that_are_only_in_the_signed_record_count_if_it_is_the_peers(
    subject: Subject, own: bool
) -> None:
    key = PrivateKey.generate_ed25519()
    addrs = [Multiaddr("/ip4/192.0.2.1/tcp/4001").to_bytes()]
    record = seal_peer_record(
        key if own else PrivateKey.generate_ed25519(), sequence=1, addrs=addrs
    )
    message = encode_identify(IdentifyMessage(protocols=("/p",), signed_peer_record=record))

    async def tell(stream: Stream) -> None:
        await stream.write(encode_varint(len(message)) + message)

    async with subject.host(key=key) as server, subject.host() as client:
        server.serve_stream(IDENTIFY, tell)
        await connect(client, server)
        said = await identified(client, server.peer_id)

    assert tuple(map(Multiaddr, addrs if own else [])) == said.addrs
    assert {"/p"} == said.protocols


@BOTH
async def test_a_slow_subscriber_loses_the_oldest_ends_of_unknown_peers_only(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_bus, "MAX_UNTOLD_ENDS", 2)
    async with subject.host() as host:
        peers = [PrivateKey.generate_ed25519().peer_id() for _ in range(5)]
        async with host.events() as slow:
            for peer_id in peers:
                subject.implementation.bus(host).emit(PeerGone(peer_id))
            seen = [await anext(slow), await anext(slow)]
        dropped = host.stats()["events_dropped"]

    assert [PeerGone(peers[3]), PeerGone(peers[4])] == seen
    assert 3 == dropped


# --- the host -------------------------------------------------------------------------------------


@EVERYWHERE_AND_IP6
async def test_ping_works_both_ways(subject: Subject) -> None:
    async with subject.host() as server, subject.host() as client:
        await connect(client, server)
        there = await client.ping(server.peer_id, soon())
        await until(lambda: server.is_connected(client.peer_id))
        back = await server.ping(client.peer_id, soon())

    assert 0.0 < there < 5.0
    assert 0.0 < back < 5.0


@BOTH
async def test_a_ping_that_is_answered_with_other_bytes_is_no_sign_of_life(
    subject: Subject,
) -> None:
    async def answer_with_zeros(stream: Stream) -> None:
        await stream.read(32)
        await stream.write(bytes(32))

    async with subject.host() as server, subject.host() as client:
        server.serve_stream(PING, answer_with_zeros)
        await connect(client, server)
        with pytest.raises(StreamError, match="other bytes"):
            await client.ping(server.peer_id, soon())


@EVERYWHERE_AND_IP6
async def test_connections_tell_who_where_and_which_way(subject: Subject) -> None:
    async with subject.pair() as (server, client):
        await identified(client, server.peer_id)
        await identified(server, client.peer_id)
        [outgoing], [incoming] = client.connections(), server.connections()
        [server_addr], [client_addr] = server.addrs, client.addrs
        reached = (client.is_reached(server.peer_id), client.is_reached(STRANGER))

    assert (server.peer_id, False, server_addr) == (
        outgoing.peer_id,
        outgoing.inbound,
        outgoing.addr,
    )
    assert (client.peer_id, True) == (incoming.peer_id, incoming.inbound)
    assert str(client_addr).split("/")[:4] == str(incoming.addr).split("/")[:4]
    assert subject.dials_from_its_listener == (client_addr == incoming.addr)
    assert {IDENTIFY, IDENTIFY_PUSH, PING, ECHO} == outgoing.protocols
    assert {IDENTIFY, IDENTIFY_PUSH, PING} == incoming.protocols
    assert {f"codio-dht/{__version__}"} == {outgoing.agent, incoming.agent}
    assert ((server_addr,), (client_addr,)) == (outgoing.said_addrs, incoming.said_addrs)
    assert (True, False) == reached


@EVERYWHERE
async def test_disconnect_ends_the_connection_at_both_ends(subject: Subject) -> None:
    async with subject.pair() as (server, client):
        await until(lambda: bool(server.connections()))
        await client.disconnect(server.peer_id)
        assert [] == client.connections()
        assert not client.is_connected(server.peer_id)
        await until(lambda: not server.connections())
        await client.disconnect(server.peer_id)  # nothing to do
        await client.disconnect(STRANGER)


@BUT_PY_QUIC
async def test_a_host_that_ends_closes_its_connections_at_the_other_end_too(
    subject: Subject,
) -> None:
    async with subject.host() as client:
        async with subject.host() as server:
            await connect(client, server)
        await until(lambda: not client.connections())


@BOTH
async def test_a_protected_peer_is_so_for_each_of_its_reasons(subject: Subject) -> None:
    async with subject.host() as host:
        for tag in ("one", "two", "two"):
            host.protect(STRANGER, tag)
        left = [host.unprotect(STRANGER, tag) for tag in ("one", "one", "two", "two")]

    assert [True, True, False, False] == left


@EVERYWHERE
async def test_a_port_in_use_is_a_clear_error_of_ours(subject: Subject) -> None:
    async with subject.host() as host:
        [taken] = host.addrs
        with pytest.raises(NetworkError, match=f"cannot listen on {taken}: Address already in use"):
            async with subject.host(taken):
                raise AssertionError("listening twice")


@EVERYWHERE
async def test_one_address_that_cannot_be_listened_on_or_stands_twice_keeps_no_host_down(
    subject: Subject,
) -> None:
    async with subject.host() as host:
        [taken] = host.addrs
    async with subject.host(taken, taken, Multiaddr("/ip4/203.0.113.1/tcp/4001")) as host:
        assert [taken] == list(host.addrs)


@pytest.mark.parametrize(
    "listen",
    [
        "/ip4/127.0.0.1/tcp/0/ws",
        "/dns4/localhost/tcp/0",
        "/ip4/127.0.0.1/udp/0",
        "/ip4/127.0.0.1/udp/0/quic",
    ],
)
@BOTH
async def test_an_address_that_cannot_be_listened_on_is_named(
    subject: Subject, listen: str
) -> None:
    with pytest.raises(UsageError, match=listen):
        async with subject.host(Multiaddr(listen)):
            raise AssertionError("listening")


@BOTH
async def test_what_the_block_raises_comes_out_as_it_is(subject: Subject) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with subject.host():
            raise KeyError("mine")


@BOTH
async def test_outside_its_block_the_host_says_that_it_is_not_running(subject: Subject) -> None:
    async with subject.host() as host:
        pass
    with pytest.raises(NotRunningError):
        await host.connect(host.peer_id, [], soon())
    with pytest.raises(NotRunningError):
        await host.open_stream(host.peer_id, ECHO, soon())
    with pytest.raises(NotRunningError):
        await host.ping(host.peer_id, soon())
    with pytest.raises(NotRunningError):
        host.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
    with pytest.raises(NotRunningError):
        host.connections()
    with pytest.raises(NotRunningError):
        async with host.events():
            raise AssertionError("subscribed")


@BUT_PY_QUIC
async def test_connections_that_come_and_go_leave_nothing_behind(subject: Subject) -> None:
    rounds, at_once = 8, 10

    def measure() -> tuple[int, int]:
        gc.collect()
        tasks = trio.lowlevel.current_statistics().tasks_living
        return tasks, len(list(Path("/proc/self/fd").iterdir()))

    async with subject.host() as server, AsyncExitStack() as stack:
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        clients = [await stack.enter_async_context(subject.host()) for _ in range(at_once)]

        async def visit(client: Host) -> None:
            await connect(client, server)
            await echo_of(client, server, b"x")
            await client.disconnect(server.peer_id)

        async def visits(times: int) -> None:
            for _ in range(times):
                async with trio.open_nursery() as nursery:
                    for client in clients:
                        nursery.start_soon(visit, client)
                await until(lambda: server.stats()["connections_open"] == 0)

        await visits(2)
        await trio.sleep(0.5)  # closing pauses
        before = measure()
        await visits(rounds)
        await until(lambda: all(now <= then for now, then in zip(measure(), before, strict=True)))
        stats = server.stats()
        held = subject.implementation.places_held(server)

    assert 0 == held
    assert (0, 0, 0) == (
        stats["connections_open"],
        stats[subject.counters.streams_open],
        stats["peers_identified"],
    )
