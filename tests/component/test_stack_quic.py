"""What the host on our own stack does over QUIC beyond the port, and sockets that are no peers."""

from __future__ import annotations

import os
import socket

import pytest
import trio
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from multiaddr import Multiaddr

from codio_dht.core.clock import Monotonic
from codio_dht.crypto.keys import PrivateKey
from codio_dht.errors import DeadlineError, DialError
from codio_dht.net.gate import Gate
from codio_dht.net.limits import Limits
from codio_dht.net.quic import connection
from codio_dht.net.quic import endpoint as quic_endpoint
from codio_dht.net.quic.limits import MAX_UNPROVEN_HANDSHAKES, MAX_UNPROVEN_PER_IP
from codio_dht.net.quic.link import QuicLink
from codio_dht.net.quic.transport import QuicTransport
from codio_dht.net.stack_host import StackHost, connections
from host_steps import ECHO, IDLE_S, QUIC, TCP, Echoes, connect, echo_of, identified, soon, until
from stack_hosts import made_host, quicken


def port_of(addr: Multiaddr) -> int:
    return int(str(addr).split("/")[4])


def transport_of(host: StackHost) -> QuicTransport:
    (found,) = (each for each in host.transports if isinstance(each, QuicTransport))
    return found


# --- connections and streams ----------------------------------------------------------------------


async def test_hundreds_of_streams_at_once_are_all_answered_and_leave_nothing() -> None:
    answers: list[bytes] = []
    async with made_host(QUIC) as server, made_host(QUIC) as client:
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        await connect(client, server)
        await identified(server, client.peer_id)

        async def one(number: int) -> None:
            answers.append(await echo_of(client, server, b"%d" % number))

        async with trio.open_nursery() as nursery:
            for number in range(400):  # more than a peer may have open
                nursery.start_soon(one, number)
        await until(
            lambda: all(
                host.stats()[what] == 0
                for host in (server, client)
                for what in ("streams_open", "bytes_held")
            )
        )

    assert {b"%d" % number for number in range(400)} == set(answers)


async def test_many_peers_come_and_go_and_leave_nothing() -> None:
    async with made_host(QUIC) as server:
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        for _ in range(15):
            async with made_host(QUIC) as client:
                await connect(client, server)
                assert b"hello" == await echo_of(client, server)
        await until(lambda: server.stats()["connections_open"] == 0)
        (endpoint,) = transport_of(server)._listening
        assert ({}, 0) == (endpoint._links, endpoint._unproven_total)
        assert "connection_bugs" not in server.stats()


# --- addresses ------------------------------------------------------------------------------------


async def test_a_connection_that_is_over_is_not_kept_for_its_timer() -> None:
    """Its time-out would keep it for half a minute, at a hundred kilobytes each."""
    async with made_host(QUIC) as server, made_host(QUIC) as client:
        (endpoint,) = transport_of(server)._listening
        for _ in range(quic_endpoint._MIN_TIMERS_TIDIED + 5):
            await connect(client, server)
            await client.disconnect(server.peer_id)
            await until(lambda: not endpoint.links)
        waiting = {link for *_, link in endpoint._timers}
    assert len(waiting) < quic_endpoint._MIN_TIMERS_TIDIED


async def test_quic_takes_the_port_that_tcp_got() -> None:
    async with made_host(TCP, QUIC) as host:
        tcp, quic = host.addrs
        assert ("tcp", "udp") == (str(tcp).split("/")[3], str(quic).split("/")[3])
        assert port_of(tcp) == port_of(quic)


async def test_a_peer_with_both_is_reached_by_quic_and_without_it_by_tcp() -> None:
    async with made_host(TCP, QUIC) as server, made_host(TCP, QUIC) as client:
        await connect(client, server)
        (info,) = client.connections()
        assert "/quic-v1" in str(info.addr)
    async with made_host(TCP) as server, made_host(TCP, QUIC) as client:
        dead = Multiaddr(f"/ip4/127.0.0.1/udp/{port_of(server.addrs[0])}/quic-v1")
        await client.connect(server.peer_id, [dead, *server.addrs], soon())
        (info,) = client.connections()
        assert "/tcp/" in str(info.addr)


async def test_a_host_that_listens_nowhere_dials_all_the_same() -> None:
    key = PrivateKey.generate_ed25519()
    async with made_host(QUIC) as server, made_host(TCP, key=key) as client:
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        await connect(client, server)
        assert b"hello" == await echo_of(client, server)


# --- refusals -------------------------------------------------------------------------------------


async def test_another_peer_than_expected_is_not_connected() -> None:
    stranger = PrivateKey.from_ed25519_seed(b"s" * 32).peer_id()
    async with made_host(QUIC) as server, made_host(QUIC) as client:
        with pytest.raises(DialError, match="another peer than expected"):
            await client.connect(stranger, server.addrs, soon())
        await until(lambda: server.stats()["connections_pending"] == 0)
        assert [] == server.connections()


async def test_nobody_at_the_address_ends_at_the_deadline() -> None:
    peer_id = PrivateKey.from_ed25519_seed(b"s" * 32).peer_id()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        addr = Multiaddr(f"/ip4/127.0.0.1/udp/{silent.getsockname()[1]}/quic-v1")
        async with made_host(QUIC) as client:
            with pytest.raises(DeadlineError):
                await client.connect(peer_id, [addr], soon(0.3))
            (endpoint,) = transport_of(client)._listening
            await until(lambda: not endpoint._links)


async def test_who_is_denied_is_told_at_once() -> None:
    async with (
        made_host(QUIC, gate=Gate(deny=["127.0.0.0/8"])) as server,
        made_host(QUIC) as client,
    ):
        began = trio.current_time()
        with pytest.raises(DialError, match="no more connections"):
            await connect(client, server)
        assert trio.current_time() - began < 2.0
        assert 1 <= server.stats()["inbound_refused:denied"]


async def test_limits_per_ip_hold_for_quic_too() -> None:
    limits = Limits(per_ip=2, exempt_local=False)
    async with made_host(QUIC, limits=limits) as server, made_host(QUIC) as first:
        await connect(first, server)
        async with made_host(QUIC) as second, made_host(QUIC) as third:
            await connect(second, server)
            with pytest.raises(DialError):
                await connect(third, server)
        await until(lambda: server.stats()["connections_open"] == 1)
        async with made_host(QUIC) as fourth:
            await connect(fourth, server)


class Dialler:
    """First packets of diallers that never go on, from an address of its own."""

    def __init__(self, server: StackHost, source: str) -> None:
        self.server = ("127.0.0.1", port_of(server.addrs[0]))
        self.sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.source = source

    async def first_packet(self) -> bytes:
        connection = QuicConnection(
            configuration=QuicConfiguration(alpn_protocols=["libp2p"], verify_mode=0)
        )
        connection.connect(self.server, 0.0)
        ((data, _), *_) = connection.datagrams_to_send(0.0)
        return data

    async def send(self, data: bytes) -> bytes:
        """What comes back first."""
        await self.sock.sendto(data, self.server)
        with trio.fail_after(5):
            answer: bytes = (await self.sock.recvfrom(2_048))[0]
            return answer

    async def __aenter__(self) -> Dialler:
        await self.sock.bind((self.source, 0))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.sock.close()


def is_retry(data: bytes) -> bool:
    return data[0] & 0xF0 == 0xF0


async def test_past_some_unproven_handshakes_a_dialler_proves_its_address_first() -> None:
    async with made_host(QUIC) as server:
        answers = []
        for _ in range(MAX_UNPROVEN_HANDSHAKES + 1):
            async with Dialler(server, "127.0.0.1") as dialler:
                answers.append(is_retry(await dialler.send(await dialler.first_packet())))
        assert [False] * MAX_UNPROVEN_HANDSHAKES + [True] == answers
        assert MAX_UNPROVEN_HANDSHAKES == server.stats()["connections_pending"]
        async with made_host(QUIC) as honest:  # which answers a Retry
            await connect(honest, server)
        assert 2 <= server.stats()["quic_retries"]


async def drain(sock: trio.socket.SocketType) -> None:
    while True:
        with trio.move_on_after(0.01) as scope:
            await sock.recvfrom(2_048)
        if scope.cancelled_caught:
            return


async def test_forged_sources_do_not_use_up_an_addresss_connections() -> None:
    limits = Limits(per_ip=4, exempt_local=False)
    async with made_host(QUIC, limits=limits) as server:
        answers = []
        for _ in range(21):
            # From a port each: a handshake before it may still be answered again and again.
            async with Dialler(server, "127.0.0.1") as dialler:
                answers.append(await dialler.send(await dialler.first_packet()))
        assert MAX_UNPROVEN_PER_IP == sum(not is_retry(answer) for answer in answers)
        async with made_host(QUIC) as honest:
            await connect(honest, server)


async def test_a_token_that_is_not_ours_is_worth_nothing() -> None:
    limits = Limits(exempt_local=False)
    async with made_host(QUIC, limits=limits) as server, Dialler(server, "127.0.0.1") as dialler:
        for _ in range(MAX_UNPROVEN_PER_IP):
            await dialler.send(await dialler.first_packet())
            await drain(dialler.sock)
        config = QuicConfiguration(alpn_protocols=["libp2p"], verify_mode=0, token=os.urandom(80))
        connection = QuicConnection(configuration=config)
        connection.connect(dialler.server, 0.0)
        ((data, _), *_) = connection.datagrams_to_send(0.0)
        assert is_retry(await dialler.send(data))


async def test_a_dialler_of_another_version_learns_ours_and_costs_nothing() -> None:
    async with made_host(QUIC) as server, Dialler(server, "127.0.0.1") as dialler:
        data = b"\xc0\xff\x00\x00\x1d\x08" + bytes(8) + b"\x08" + bytes(8) + bytes(1_200)
        answer = await dialler.send(data)
        assert (b"\x00\x00\x00\x00", b"\x00\x00\x00\x01") == (answer[1:5], answer[-4:])
        assert len(answer) < len(data)
        assert 0 == server.stats()["connections_pending"]


async def test_garbage_is_ignored_and_the_host_lives_on() -> None:
    async with made_host(QUIC) as server, made_host(QUIC) as client:
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        await connect(client, server)
        async with Dialler(server, "127.0.0.1") as dialler:
            first = await dialler.first_packet()
            for data in (
                b"",
                b"\x00",
                b"\x40" * 20,
                b"\xff" * 1_300,
                os.urandom(1_300),
                first[:1_199],
                first[:20] + os.urandom(1_200),
                b"\xc0\x00\x00\x00\x01\x02\x01\x02\x00" + bytes(1_200),
            ):
                await dialler.sock.sendto(data, dialler.server)
        assert b"hello" == await echo_of(client, server)
        assert "connection_bugs" not in server.stats()
        await until(lambda: server.stats()["connections_pending"] == 0)


async def test_a_quiet_pair_sends_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with made_host(QUIC) as server, made_host(QUIC) as client:
        await connect(client, server)
        await identified(server, client.peer_id)
        await identified(client, server.peer_id)
        await trio.sleep(0.3)
        (endpoint,) = transport_of(client)._listening
        sent: list[bytes] = []
        monkeypatch.setattr(
            endpoint, "send", lambda datagrams: sent.extend(data for data, _ in datagrams)
        )
        await trio.sleep(0.5)
        assert [] == sent


# --- first packets and timers ---------------------------------------------------------------------


async def test_a_first_datagram_that_is_too_short_gets_no_answer() -> None:
    """Else a forged source would be sent more than was sent in its name (RFC 9000, 14.1)."""
    unknown_version = b"\xc0\xba\xba\xba\xba\x08" + bytes(8) + b"\x08" + bytes(8)
    async with made_host(QUIC) as server, Dialler(server, "127.0.0.1") as dialler:
        await dialler.sock.sendto(unknown_version.ljust(1_199, b"\0"), dialler.server)
        await dialler.sock.sendto((await dialler.first_packet())[:1_199], dialler.server)
        with trio.move_on_after(0.3) as scope:
            await dialler.sock.recvfrom(2_048)
        assert scope.cancelled_caught
        assert 0 == server.stats()["connections_pending"]
        assert await dialler.send(unknown_version.ljust(1_200, b"\0"))  # the versions that we speak


async def test_keep_alives_are_no_use_of_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    quicken(monkeypatch)
    monkeypatch.setattr(connection, "QUIC_KEEP_ALIVE_INTERVAL_S", 0.05)
    monkeypatch.setattr(connections, "DUPLICATE_IDLE_S", 0.3)
    monkeypatch.setattr(connections, "IDLE_CONNECTION_S", 0.3)
    async with made_host(QUIC) as server, made_host(QUIC) as client:
        await connect(client, server)
        await until(lambda: not client.connections(), 5.0)
        assert 1 <= client.stats().get("connections_idle", 0) + server.stats()["connections_idle"]


async def test_a_timer_that_stays_due_lets_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    fired = 0

    def on_timeout(self: QuicLink, moment: float) -> None:
        nonlocal fired
        fired += 1
        assert fired < 10_000, "nobody else would run"

    async with made_host(QUIC) as server, made_host(QUIC) as client:
        await connect(client, server)
        monkeypatch.setattr(QuicLink, "on_timeout", on_timeout)
        monkeypatch.setattr(QuicLink, "next_timeout", lambda self: Monotonic(0.0))
        monkeypatch.setattr(QuicLink, "may_wait", lambda self, moment: False)
        [link] = client._connections
        assert isinstance(link, QuicLink)
        link._endpoint.keep(link)
        await trio.sleep(0.2)
        assert 1 <= fired <= 400
        monkeypatch.undo()
