"""Each guard: the defect of py-libp2p 0.8.1 shows without it, and is gone with it.

The first of each pair documents upstream; should it fail after an upgrade, the guard can go.
"""

from __future__ import annotations

import gc
import socket
import warnings
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from libp2p import new_host
from libp2p.abc import INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.host.basic_host import BasicHost
from libp2p.host.exceptions import StreamFailure
from libp2p.host.ping import PingService
from libp2p.network import swarm as upstream_swarm
from libp2p.network.config import ConnectionConfig
from libp2p.network.exceptions import SwarmDialAllFailedError, SwarmException
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.network.stream.exceptions import StreamError as Libp2pStreamError
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.peer.peerstore import PeerStore, PeerStoreError
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.tools.anyio_service.exceptions import LifecycleError
from multiaddr import Multiaddr

from codio_dht.core.peer import PeerId
from codio_dht.errors import StreamError, UsageError
from codio_dht.net.libp2p_host.guards import (
    dialing,
    frame_gate,
    frame_writer,
    inbound,
    upstream,
    yamux,
)
from codio_dht.net.libp2p_host.guards.apply import guard_host
from codio_dht.net.libp2p_host.guards.frame_gate import FrameGate, FrameViolationError
from codio_dht.net.libp2p_host.guards.upstream import Symbol, UpstreamMismatchError
from codio_dht.net.libp2p_host.stream import Libp2pStream, Lingering
from host_steps import ECHO, QUIC, TCP, dead_address, silent_listener, soon, until
from libp2p_hosts import info_of, made_host, serve_upstream, swarm_of, upstream_host

PATIENCE_S = 30.0
"""How long a test waits for what must happen, seconds. What upstream alone never does is waited for
briefly: the machine's speed does not make it happen."""

BOTH = pytest.mark.parametrize("guarded", [False, True], ids=["without", "with"])

pytestmark = pytest.mark.filterwarnings(  # hosts that upstream's defects stopped
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def _no_sockets_left_for_the_next_test() -> Generator[None]:
    """R19: what a stopped host leaves open is closed when it is collected, with a warning."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


def new_id() -> ID:
    return ID.from_pubkey(create_new_key_pair().public_key)


async def comes_true(condition: Callable[[], bool], *, expected: bool = True) -> bool:
    """Whether the condition comes to hold. One that is not expected is watched only briefly."""
    try:
        await until(condition, PATIENCE_S if expected else 0.5)
    except trio.TooSlowError:
        return False
    return True


async def ping(client: BasicHost, server: BasicHost, *, expected: bool = True) -> bool:
    """Whether the server answers a ping over the connection there is."""
    with trio.move_on_after(PATIENCE_S if expected else 2):
        try:
            return bool(await PingService(client).ping(server.get_id()) is not None)
        except Exception:  # noqa: BLE001 - upstream raises anything
            return False
    return False


async def echo(stream: INetStream) -> None:
    while True:
        try:
            await stream.write(await stream.read(1024))
        except Exception:  # noqa: BLE001 - upstream raises anything
            return


@asynccontextmanager
async def pair(
    *, guarded: bool, listen: Multiaddr = TCP, config: ConnectionConfig | None = None
) -> AsyncGenerator[tuple[BasicHost, BasicHost]]:
    """A server with or without guards, and a guarded client that is connected to it."""
    async with (
        upstream_host(guarded=guarded, listen=listen, config=config) as server,
        upstream_host(guarded=True, listen=listen) as client,
    ):
        await client.connect(info_of(server))
        yield server, client


def only_connection(host: BasicHost) -> Any:
    [conn] = swarm_of(host).get_connections()
    return conn


async def no_streams(host: BasicHost) -> None:
    """Wait until the host's connection has no stream."""
    muxed_conn = only_connection(host).muxed_conn
    await until(lambda: not muxed_conn.streams)


@asynccontextmanager
async def full_socket(muxed_conn: Any) -> AsyncGenerator[None]:
    """Whoever writes to the connection's socket waits, as if it took no more."""
    session = muxed_conn.secured_conn
    held, release = trio.Event(), trio.Event()

    async def hold() -> None:
        async with session.conn.read_writer.read_write_closer.stream.write_lock:
            held.set()
            await release.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        await held.wait()
        yield
        release.set()


async def fails_within(seconds: float, call: Any, *args: Any) -> bool:
    """Whether the call ends with upstream's error; False if it is still pending."""
    with trio.move_on_after(seconds):
        try:
            await call(*args)
        except SwarmException:
            return True
        raise AssertionError("it succeeded")
    return False


# --- R1 -------------------------------------------------------------------------------------------


@BOTH
async def test_r1_the_hosts_own_keys_survive_a_full_peer_store(guarded: bool) -> None:
    async with upstream_host(guarded=guarded) as host:
        peerstore = host.get_peerstore()
        assert isinstance(peerstore, PeerStore)
        peerstore.max_peers = 10
        for _ in range(12):
            peerstore.add_addrs(new_id(), [dead_address()], 60)
        peerstore._cleanup_expired_records()
        known = len(peerstore.peer_ids())
        try:
            found = host.get_private_key() is not None
        except PeerStoreError:
            found = False

    assert found is guarded
    assert known <= 11


# --- R2, R3 ---------------------------------------------------------------------------------------


async def _alive_after(guarded: bool, harm: Any) -> bool:
    """Whether a host still answers after a client did ``harm(client, server)``."""
    alive = False
    try:
        async with pair(guarded=guarded) as (server, client):
            serve_upstream(server, ECHO, _raise)
            await harm(client, server)
            manager = swarm_of(server).manager
            stopped = await comes_true(lambda: not manager.is_running, expected=not guarded)
            alive = not stopped and await ping(client, server)
    except* (RuntimeError, UnicodeDecodeError, LifecycleError):
        assert not guarded
    return alive


async def _raise(_: INetStream) -> None:
    raise RuntimeError("a defect in a handler")


@BOTH
async def test_r2_a_handler_that_raises_does_not_stop_the_host(guarded: bool) -> None:
    async def harm(client: BasicHost, server: BasicHost) -> None:
        with suppress(StreamFailure):  # its reset may be faster than the answer
            await client.new_stream(server.get_id(), [ECHO])  # type: ignore[list-item]

    assert await _alive_after(guarded, harm) is guarded


@BOTH
async def test_r2_a_connections_task_that_raises_does_not_stop_the_host(guarded: bool) -> None:
    async def harm(client: BasicHost, server: BasicHost) -> None:
        swarm_of(server).manager.run_task(_raise, None)

    assert await _alive_after(guarded, harm) is guarded


@BOTH
async def test_r3_bytes_that_are_not_utf8_fail_their_negotiation_only(guarded: bool) -> None:
    async def harm(client: BasicHost, server: BasicHost) -> None:
        stream = await only_connection(client).new_stream()
        await stream.write(b"\x05\xff\xfe\xfd\xfc\n")

    assert await _alive_after(guarded, harm) is guarded


@pytest.mark.parametrize(
    "message", [b"\xff\xff\xff\x7f" + b"a" * 100, b"\x00", b"\x03abc", b"\x80\x80\x80\x80\x01"]
)
async def test_r3_no_message_of_a_negotiation_is_unbounded(message: bytes) -> None:
    async with pair(guarded=True) as (server, client):
        stream = await only_connection(client).new_stream()
        await stream.write(message)
        counters = guard_host(server).counters.counts
        await until(lambda: counters["multistream_errors"] == 1)
        assert await ping(client, server)


# --- R4, R12, R16 ---------------------------------------------------------------------------------

TWO_INBOUND = ConnectionConfig(
    max_connections=3, min_connections=1, low_watermark=1, high_watermark=3
)


@BOTH
async def test_r4_an_inbound_connection_gives_its_place_back(guarded: bool) -> None:
    async with upstream_host(guarded=guarded, config=TWO_INBOUND) as server:
        connected = 0
        for _ in range(4):
            async with upstream_host(guarded=True) as client:
                try:
                    await client.connect(info_of(server))
                except SwarmException:
                    continue
                connected += 1
            await until(lambda: not swarm_of(server).get_connections())
        limiter = swarm_of(server)._inbound_limiter
        await until(lambda: limiter.borrowed_tokens == (0 if guarded else 2))

    assert connected == (4 if guarded else 2)


@BOTH
async def test_r12_idle_sockets_take_no_place(guarded: bool) -> None:
    async with (
        upstream_host(guarded=guarded, config=TWO_INBOUND) as server,
        upstream_host(guarded=True) as client,
    ):
        port = int(server.get_transport_addrs()[0].value_for_protocol("tcp") or 0)
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        limiter = swarm_of(server)._inbound_limiter
        await comes_true(lambda: limiter.borrowed_tokens == 2, expected=not guarded)
        try:
            await client.connect(info_of(server))
            connected = True
        except SwarmException:
            connected = False
        for one in idle:
            one.close()

    assert connected is guarded


async def test_r12_handshakes_have_a_bound_and_the_oldest_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inbound, "MAX_PENDING_INBOUND", 2)
    async with upstream_host(guarded=True) as server:
        port = int(server.get_transport_addrs()[0].value_for_protocol("tcp") or 0)
        streams = []
        for _ in range(3):
            streams.append(await trio.open_tcp_stream("127.0.0.1", port))
            await streams[-1].receive_some(64)  # its handshake has begun
        with trio.fail_after(PATIENCE_S):
            while await streams[0].receive_some(64):
                pass
        dropped = guard_host(server).counters.counts["inbound_handshakes_dropped"]
        for stream in streams:
            await stream.aclose()

    assert dropped == 1


@BOTH
async def test_r16_a_denied_ipv6_peer_stays_outside(guarded: bool) -> None:
    config = ConnectionConfig(deny_list=["::1/128"])
    listen = Multiaddr("/ip6/::1/tcp/0")
    async with (
        upstream_host(guarded=guarded, listen=listen, config=config) as server,
        upstream_host(guarded=True, listen=listen) as client,
    ):
        try:
            await client.connect(info_of(server))
            connections = swarm_of(server).get_connections
            let_in = await comes_true(lambda: bool(connections()), expected=not guarded)
        except SwarmException:
            let_in = False

    assert let_in is not guarded


# --- R5, R14, R15 ---------------------------------------------------------------------------------


@BOTH
async def test_r5_a_cancelled_write_leaves_the_connection_whole(guarded: bool) -> None:
    async with upstream_host(guarded=True) as server, upstream_host(guarded=guarded) as client:
        serve_upstream(server, ECHO, echo)
        await client.connect(info_of(server))
        await no_streams(client)  # identify is done
        stream = await client.new_stream(server.get_id(), [ECHO])  # type: ignore[list-item]
        connection = only_connection(client)
        async with full_socket(connection.muxed_conn):
            with trio.move_on_after(0.1):
                await stream.write(b"cancelled")
        alive = await ping(client, server, expected=guarded) and not connection.is_closed

    assert alive is guarded


async def test_a_socket_that_takes_nothing_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frame_writer, "CONNECTION_WRITE_TIMEOUT_S", 0.2)
    async with pair(guarded=True) as (_, client):
        connection = only_connection(client)
        async with full_socket(connection.muxed_conn):
            stream = await connection.new_stream()
            with pytest.raises(Libp2pStreamError), trio.fail_after(PATIENCE_S):
                await stream.write(b"x" * 1_000_000)
        await until(lambda: not swarm_of(client).get_connections())
        counts = guard_host(client).counters.counts

    assert counts["connection_write_errors"] == 1


async def test_a_peer_that_answers_nothing_any_more_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(yamux, "KEEPALIVE_TIMEOUT_S", 0.2)
    async with pair(guarded=False) as (server, client):
        server_conn, client_conn = only_connection(server), only_connection(client)
        server_conn.muxed_conn._write_frame = _unsaid  # it reads on, and says nothing
        with trio.fail_after(PATIENCE_S):
            await client_conn.event_closed.wait()
        counts = guard_host(client).counters.counts

    assert counts["connections_timed_out"] == 1


async def _unsaid(_: bytes) -> None:
    await trio.lowlevel.checkpoint()


async def test_r5_a_connection_that_was_there_before_the_guards_is_guarded_too() -> None:
    async with upstream_host(guarded=True) as server, upstream_host(guarded=False) as client:
        serve_upstream(server, ECHO, echo)
        await client.connect(info_of(server))
        stream = await client.new_stream(server.get_id(), [ECHO])  # type: ignore[list-item]
        guard_host(client)
        connection = only_connection(client)
        async with full_socket(connection.muxed_conn):
            with trio.move_on_after(0.1):
                await stream.write(b"cancelled")
        await stream.reset()
        assert await ping(client, server)
        assert not connection.is_closed


@BOTH
async def test_r14_a_cancelled_open_keeps_no_slot(guarded: bool) -> None:
    async with upstream_host(guarded=True) as server, upstream_host(guarded=guarded) as client:
        await client.connect(info_of(server))
        await no_streams(client)  # identify is done
        muxed_conn = only_connection(client).muxed_conn
        free = muxed_conn.stream_backlog_semaphore.value
        async with full_socket(muxed_conn):
            with trio.move_on_after(0.1):
                stream = await muxed_conn.open_stream()
                await stream.reset()
        lost = free - muxed_conn.stream_backlog_semaphore.value

    assert lost == (0 if guarded else 1)


async def test_r15_a_reset_reads_as_an_end_upstream_and_as_an_error_here() -> None:
    async def reset(stream: INetStream) -> None:
        await stream.read(1)
        await stream.reset()

    async with pair(guarded=True) as (server, client):
        serve_upstream(server, ECHO, reset)
        theirs, ours = [
            await client.new_stream(server.get_id(), [ECHO])  # type: ignore[list-item]
            for _ in range(2)
        ]
        for stream in (theirs, ours):
            await stream.write(b"x")
        await until(lambda: all(s.muxed_stream.reset_received for s in (theirs, ours)))  # type: ignore[attr-defined]
        with pytest.raises(StreamEOF):
            await theirs.read(1)
        wrapped = Libp2pStream(ours, PeerId.coerce(server.get_id()), ECHO, Lingering())
        with pytest.raises(StreamError):
            await wrapped.read(1)


# --- R6 to R9 -------------------------------------------------------------------------------------


@BOTH
async def test_r6_a_dial_to_a_silent_listener_ends(
    guarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialing, "DIAL_ATTEMPT_TIMEOUT_S", 0.2)
    with silent_listener() as silent:
        async with upstream_host(guarded=guarded) as client:
            patience_s = PATIENCE_S if guarded else 1.0
            ended = await fails_within(patience_s, client.connect, PeerInfo(new_id(), [silent]))

    assert ended is guarded


@BOTH
async def test_r7_forty_dead_peers_do_not_hold_up_a_good_one(guarded: bool) -> None:
    with silent_listener() as silent:
        async with (
            upstream_host(guarded=True) as server,
            upstream_host(guarded=guarded) as client,
            trio.open_nursery() as nursery,
        ):
            for _ in range(40):
                nursery.start_soon(client.connect, PeerInfo(new_id(), [silent]))
            await trio.sleep(0.1)
            with trio.move_on_after(PATIENCE_S if guarded else 1.5) as scope:
                await client.connect(info_of(server))
            nursery.cancel_scope.cancel()

    assert scope.cancelled_caught is not guarded


@BOTH
async def test_r8_a_good_address_behind_a_dead_one_is_found(guarded: bool) -> None:
    async with upstream_host(guarded=True) as server, upstream_host(guarded=guarded) as client:
        addrs = [dead_address(), *server.get_transport_addrs()]
        try:
            await client.connect(PeerInfo(server.get_id(), addrs))
            found = True
        except SwarmDialAllFailedError:
            found = False

    assert found is guarded


@BOTH
async def test_r8_a_failure_is_not_held_against_the_peer(guarded: bool) -> None:
    async with upstream_host(guarded=True) as server, upstream_host(guarded=guarded) as client:
        with pytest.raises(SwarmException):
            await client.connect(PeerInfo(server.get_id(), [dead_address()]))
        client.get_peerstore().clear_addrs(server.get_id())
        try:
            await client.connect(info_of(server))
            connected = True
        except SwarmException:
            connected = False

    assert connected is guarded


@BOTH
async def test_r9_a_dial_that_succeeded_waits_for_nothing(
    guarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream_swarm, "_HAPPY_EYEBALLS_DELAY", 60.0)
    async with upstream_host(guarded=True) as server, upstream_host(guarded=guarded) as client:
        with trio.move_on_after(PATIENCE_S if guarded else 2) as scope:
            await client.connect(info_of(server))

    assert scope.cancelled_caught is not guarded


async def test_a_dial_whose_owner_gives_up_goes_on_for_the_others() -> None:
    async with upstream_host(guarded=True) as server, upstream_host(guarded=True) as client:
        with silent_listener() as silent:
            dialer = guard_host(client).dialer
            peer_id = server.get_id()
            async with trio.open_nursery() as nursery:

                async def impatient() -> None:
                    with trio.move_on_after(0.1):
                        await dialer.dial(peer_id, [silent])

                nursery.start_soon(impatient)
                await trio.sleep(0.02)
                with trio.fail_after(PATIENCE_S):
                    conn = await dialer.dial(peer_id, server.get_transport_addrs())
            assert conn.muxed_conn.peer_id == peer_id


# --- R10, R11, R13 --------------------------------------------------------------------------------


@BOTH
async def test_r10_a_peer_that_ignores_its_window_is_cut_off(guarded: bool) -> None:
    async with pair(guarded=guarded) as (server, client):
        serve_upstream(server, ECHO, _idle)
        stream: Any = await client.new_stream(server.get_id(), [ECHO])  # type: ignore[list-item]
        stream.muxed_stream.send_window = 1 << 30

        def buffered() -> int:
            connections: list[Any] = swarm_of(server).get_connections()
            buffers = [one.muxed_conn.stream_buffers.values() for one in connections]
            return max((len(each) for some in buffers for each in some), default=0)

        with suppress(Exception):  # the connection may go away under it
            await stream.write(b"\x00" * (2 << 20))
        if guarded:
            await until(lambda: not swarm_of(server).get_connections(), PATIENCE_S)
        else:
            await until(lambda: buffered() > frame_gate.INITIAL_WINDOW_BYTES, PATIENCE_S)


async def _idle(_: INetStream) -> None:
    await trio.sleep_forever()


@BOTH
async def test_r11_a_peer_has_a_bound_on_its_streams(
    guarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yamux, "MAX_STREAMS_PER_CONNECTION", 8)
    async with pair(guarded=guarded) as (server, client):
        await no_streams(client)  # identify is done
        await no_streams(server)
        muxed_conn = only_connection(client).muxed_conn
        for _ in range(30):
            await muxed_conn.open_stream()
        opened = only_connection(server).muxed_conn.streams
        more = await comes_true(lambda: len(opened) > 8, expected=not guarded)
        await until(lambda: len(opened) == (8 if guarded else 30))

    assert more is not guarded


@BOTH
async def test_r13_an_end_beside_an_acknowledgement_is_seen(guarded: bool) -> None:
    async def answer_at_once(stream: Any) -> None:
        await stream.read(1)
        flags = frame_gate.ACK | frame_gate.FIN
        frame = frame_gate.header(frame_gate.DATA, flags, stream.muxed_stream.stream_id, 3)
        await stream.muxed_stream.conn.secured_conn.write(frame + b"end")

    async with upstream_host(guarded=False) as server, upstream_host(guarded=guarded) as client:
        serve_upstream(server, ECHO, answer_at_once)
        await client.connect(info_of(server))
        stream = await client.new_stream(server.get_id(), [ECHO])  # type: ignore[list-item]
        await stream.write(b"x")
        data = await stream.read(3)
        patience_s = PATIENCE_S if guarded else 0.5
        with trio.move_on_after(patience_s) as scope, pytest.raises(StreamEOF):
            await stream.read(1)

    assert data == b"end"
    assert scope.cancelled_caught is not guarded


def gate(*, may_open: bool = True) -> FrameGate:
    return FrameGate(peer_ids_are_odd=True, may_open=lambda: may_open, is_open=lambda _: False)


def passed(under_test: FrameGate, data: bytes) -> bytes:
    """What upstream reads after ``data`` has arrived."""
    under_test.receive(data)
    return b"".join(iter(under_test.next_frame, None))


def test_the_gate_passes_frames_on_in_the_pieces_in_which_they_arrive() -> None:
    frame = frame_gate.header(frame_gate.DATA, frame_gate.SYN | frame_gate.FIN, 1, 5) + b"hello"
    under_test = gate()
    out = [passed(under_test, frame[start:stop]) for start, stop in ((0, 7), (7, 14), (14, 17))]

    assert out == [
        b"",
        frame_gate.header(frame_gate.DATA, frame_gate.SYN, 1, 2) + b"he",
        frame_gate.header(frame_gate.DATA, 0, 1, 3)
        + b"llo"
        + frame_gate.header(frame_gate.WINDOW_UPDATE, frame_gate.FIN, 1, 0),
    ]


def test_the_gate_drops_a_refused_stream_with_its_data() -> None:
    under_test = gate(may_open=False)
    out = passed(under_test, frame_gate.header(frame_gate.DATA, frame_gate.SYN, 1, 3) + b"abc")

    assert out == b""
    assert under_test.refused == [1]


@pytest.mark.parametrize(
    "frame",
    [
        b"\x01" + frame_gate.header(frame_gate.DATA, 0, 1, 0)[1:],
        frame_gate.header(4, 0, 1, 0),
        frame_gate.header(frame_gate.WINDOW_UPDATE, frame_gate.SYN, 2, 0),
        frame_gate.header(frame_gate.WINDOW_UPDATE, frame_gate.SYN, 0, 0),
        frame_gate.header(frame_gate.DATA, frame_gate.SYN, 1, (256 << 10) + 1),
        frame_gate.header(frame_gate.DATA, 0, 7, (1 << 20) + 1),
    ],
    ids=["version", "type", "our number", "zero", "window", "unknown stream"],
)
def test_the_gate_stops_what_no_conforming_peer_sends(frame: bytes) -> None:
    with pytest.raises(FrameViolationError):
        passed(gate(), frame)


def test_the_gate_gives_credit_in_steps_and_never_past_the_bound() -> None:
    under_test = gate()
    passed(
        under_test,
        frame_gate.header(frame_gate.DATA, frame_gate.SYN, 1, 100_000) + bytes(100_000),
    )
    unread = under_test.grant(1, frame_gate.INITIAL_WINDOW_BYTES, 100_000)
    half_read = under_test.grant(1, frame_gate.INITIAL_WINDOW_BYTES, 50_000)
    read = under_test.grant(1, frame_gate.INITIAL_WINDOW_BYTES, 0)
    greedy = under_test.grant(1, 16 << 20, 0)

    assert (unread, half_read, read) == (0, 0, 100_000)
    assert greedy == (1 << 20) - frame_gate.INITIAL_WINDOW_BYTES


# --- R17, R19 -------------------------------------------------------------------------------------


async def test_r17_only_noise_tls_and_yamux_are_offered() -> None:
    async with upstream_host(guarded=True) as theirs, made_host() as ours:
        upgraders = [swarm_of(theirs).upgrader, ours._swarm.upgrader]
        security = [{*upgrader.security_multistream.transports} for upgrader in upgraders]
        muxers = [{*upgrader.muxer_multistream.transports} for upgrader in upgraders]

    assert {"/plaintext/2.0.0", "/secio/1.0.0"} <= security[0]
    assert security[1] == {"/noise", "/tls/1.0.0"}
    assert muxers[1] == {"/yamux/1.0.0"}


async def test_r19_a_closed_host_leaves_no_socket_open() -> None:
    async with AsyncExitStack() as stack:
        others = [await stack.enter_async_context(upstream_host(guarded=True)) for _ in range(25)]
        async with made_host() as host:
            for other in others:
                peer_id = PeerId.coerce(other.get_id())
                await host.connect(peer_id, other.get_transport_addrs(), soon())
            [addr] = host.addrs
        await until(lambda: not any(swarm_of(other).get_connections() for other in others))
        with pytest.raises(OSError, match="failed"):
            await trio.open_tcp_stream("127.0.0.1", int(addr.value_for_protocol("tcp") or 0))


# --- R20, R21, R22 --------------------------------------------------------------------------------


@BOTH
async def test_r20_a_quic_connection_has_streams_left_after_many_resets(guarded: bool) -> None:
    async with (
        upstream_host(guarded=guarded, listen=QUIC) as server,
        upstream_host(guarded=guarded, listen=QUIC) as client,
    ):
        serve_upstream(server, ECHO, echo)
        await client.connect(info_of(server))
        opened = 0
        for _ in range(140):
            with trio.move_on_after(PATIENCE_S if guarded else 2) as scope:
                stream = await client.new_stream(server.get_id(), [ECHO])  # type: ignore[list-item]
                await stream.write(b"x")
                await stream.read(1)
            if scope.cancelled_caught:
                break
            await stream.reset()
            opened += 1

    assert (opened == 140) is guarded


@BOTH
async def test_r21_what_follows_a_wish_to_receive_no_more_is_still_read(guarded: bool) -> None:
    async def answer_as_go_does(stream: Any) -> None:
        await stream.read(1)
        quic, stream_id = stream.muxed_conn._quic, int(stream.muxed_stream.stream_id)
        quic.stop_stream(stream_id, 0)
        await stream.muxed_conn._transmit()
        await trio.sleep(0.2)
        quic.send_stream_data(stream_id, b"answer", end_stream=True)
        await stream.muxed_conn._transmit()

    async with pair(guarded=True, listen=QUIC) as (server, _):
        serve_upstream(server, ECHO, answer_as_go_does)
        async with upstream_host(guarded=guarded, listen=QUIC) as client:
            await client.connect(info_of(server))
            stream = await client.new_stream(server.get_id(), [ECHO])  # type: ignore[list-item]
            await stream.write(b"x")
            await until(lambda: stream.muxed_stream._write_closed)  # type: ignore[attr-defined]
            try:
                answer = await stream.read(100)
            except Exception:  # noqa: BLE001 - upstream raises anything
                answer = b""

    assert (answer == b"answer") is guarded


@BOTH
async def test_r22_an_answer_that_comes_with_its_end_is_not_lost(guarded: bool) -> None:
    async with pair(guarded=True, listen=QUIC) as (server, _):
        serve_upstream(server, ECHO, _idle)
        async with upstream_host(guarded=guarded, listen=QUIC) as client:
            await client.connect(info_of(server))
            stream: Any = await client.new_stream(server.get_id(), [ECHO])  # type: ignore[list-item]
            quic_stream = stream.muxed_stream
            answers: list[bytes] = []

            async def read() -> None:
                try:
                    answers.append(await quic_stream.read(100))
                except Exception:  # noqa: BLE001 - upstream raises anything
                    answers.append(b"")

            async with trio.open_nursery() as nursery, quic_stream._state_lock:
                nursery.start_soon(read)  # upstream's looks, and then waits for the lock
                await trio.testing.wait_all_tasks_blocked(0.01)
                quic_stream._receive_buffer.extend(b"answer")
                quic_stream._read_closed = True
                quic_stream._receive_event.set()

    assert answers == [b"answer" if guarded else b""]


@BOTH
async def test_r23_streams_are_written_to_in_any_order(guarded: bool) -> None:
    async with pair(guarded=True, listen=QUIC) as (server, _):
        serve_upstream(server, ECHO, echo)
        async with upstream_host(guarded=guarded, listen=QUIC) as client:
            await client.connect(info_of(server))
            muxed_conn = only_connection(client).muxed_conn
            first, second = [await muxed_conn.open_stream() for _ in range(2)]
            await second.write(b"second")
            try:
                await first.write(b"first")
                written = True
            except ValueError:
                written = False

    assert written is guarded


# --- what the guards ask of upstream --------------------------------------------------------------


def test_another_release_of_the_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "installed_version", lambda: "0.9.0")
    with pytest.raises(UpstreamMismatchError, match=r"py-libp2p 0\.9\.0 .* libp2p==0\.8\.1"):
        upstream.check([])


@pytest.mark.parametrize(
    ("symbol", "message"),
    [
        (Symbol("libp2p.network.swarm", "Swarm.no_such"), "has no libp2p.network.swarm.Swarm.no_s"),
        (Symbol("libp2p.network.swarm", "Swarm.dial_peer", ("self",)), "takes .*peer_id.*expected"),
    ],
)
def test_a_symbol_that_changed_is_named(symbol: Symbol, message: str) -> None:
    with pytest.raises(UpstreamMismatchError, match=message):
        upstream.check([symbol])


async def test_guards_are_applied_once() -> None:
    async with upstream_host(guarded=False) as host:
        guards = guard_host(host)
        swarm = swarm_of(host)
        dial_peer, add_conn = swarm.dial_peer, swarm.add_conn
        again = guard_host(host)

        assert again is guards
        assert (swarm.dial_peer, swarm.add_conn) == (dial_peer, add_conn)


async def test_a_host_that_is_not_running_is_refused() -> None:
    host = new_host(key_pair=create_new_key_pair())
    assert isinstance(host, BasicHost)
    with pytest.raises(UsageError, match="host: not running"):
        guard_host(host)


async def test_a_guarded_connection_is_a_yamux_connection_still() -> None:
    async with pair(guarded=True) as (_, client):
        muxed_conn = only_connection(client).muxed_conn
        assert type(muxed_conn) is yamux.GuardedYamux
        assert isinstance(muxed_conn, Yamux)


# --- laws -----------------------------------------------------------------------------------------

_FRAMES = st.lists(
    st.tuples(
        st.sampled_from([1, 3, 5]),
        st.sampled_from([0, frame_gate.ACK, frame_gate.FIN, frame_gate.ACK | frame_gate.FIN]),
        st.binary(max_size=40),
    ),
    max_size=8,
)


def _meaning(wire: bytes) -> list[tuple[int, int, bytes]]:
    """Frames as upstream understands them: data of one stream joined, flags in their order."""
    meaning: list[tuple[int, int, bytes]] = []
    while wire:
        flags, stream_id = int.from_bytes(wire[2:4], "big"), int.from_bytes(wire[4:8], "big")
        length = int.from_bytes(wire[8:12], "big") if wire[1] == frame_gate.DATA else 0
        data, wire = wire[12 : 12 + length], wire[12 + length :]
        if meaning and meaning[-1][0] == stream_id and not flags and not meaning[-1][1] & 0xC:
            data = meaning[-1][2] + data
            flags = meaning.pop()[1]
        meaning.append((stream_id, flags, data))
    return meaning


@given(frames=_FRAMES, cuts=st.lists(st.integers(0, 400), max_size=10))
def test_how_frames_are_cut_by_the_network_changes_nothing(
    frames: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    wire = b"".join(
        frame_gate.header(frame_gate.DATA, flags, stream_id, len(data)) + data
        for stream_id, flags, data in frames
    )
    places = [0, *sorted(cut for cut in cuts if cut < len(wire)), len(wire)]
    under_test = gate()
    pieces = b"".join(passed(under_test, wire[a:b]) for a, b in pairwise(places))

    assert _meaning(pieces) == _meaning(passed(gate(), wire))


@given(st.binary(max_size=200))
def test_no_bytes_make_the_gate_raise_anything_but_a_violation(wire: bytes) -> None:
    with suppress(FrameViolationError):
        passed(gate(), wire)
