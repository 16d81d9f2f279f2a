"""What the host on our own stack does over QUIC beyond the port, and sockets that are no peers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from multiaddr import Multiaddr

from codio_dht.core.clock import Monotonic
from codio_dht.crypto.keys import PrivateKey
from codio_dht.errors import DeadlineError, DialError, StreamError
from codio_dht.net.gate import Gate
from codio_dht.net.limits import Limits
from codio_dht.net.quic import connection
from codio_dht.net.quic import endpoint as quic_endpoint
from codio_dht.net.quic.limits import (
    MAX_UNPROVEN_HANDSHAKES,
    MAX_UNPROVEN_PER_IP,
    STRANGERS_PER_TURN,
)
from codio_dht.net.quic.link import QuicLink
from codio_dht.net.quic.transport import QuicTransport
from codio_dht.net.quic.udp_socket import Datagram
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
        assert ({}, 0) == (endpoint._links, endpoint._strangers.unproven)
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
        with pytest.raises(DialError, match="no more connections"):
            await connect(client, server)
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


def first_packet(server: tuple[str, int]) -> bytes:
    connection = QuicConnection(
        configuration=QuicConfiguration(alpn_protocols=["libp2p"], verify_mode=0)
    )
    connection.connect(server, 0.0)
    ((data, _), *_) = connection.datagrams_to_send(0.0)
    return data


class Dialler:
    """First packets of diallers that never go on, from an address of its own."""

    def __init__(self, server: StackHost, source: str) -> None:
        self.server = ("127.0.0.1", port_of(server.addrs[0]))
        self.sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.source = source

    async def first_packet(self) -> bytes:
        return first_packet(self.server)

    async def send(self, data: bytes) -> bytes:
        """What comes back first."""
        await self.sock.sendto(data, self.server)
        with trio.fail_after(30):
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
        (endpoint,) = transport_of(client)._listening
        sent, send = 0, endpoint.send

        def count(datagrams: Any) -> None:
            nonlocal sent
            sent += len(datagrams)
            send(datagrams)

        monkeypatch.setattr(endpoint, "send", count)
        with trio.fail_after(30):
            before = -1
            while sent != before:  # until half a second has passed without a word
                before = sent
                await trio.sleep(0.5)
        assert sent < 20


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
        await until(lambda: not client.connections())
        assert 1 <= sum(host.stats().get("connections_idle", 0) for host in (client, server))


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
        await until(lambda: fired >= 1)
        await trio.sleep(0.2)
        assert fired <= 400
        monkeypatch.undo()


# --- hosts with several addresses -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("wildcard", "asked", "asker"),
    [("/ip4/0.0.0.0", "127.0.0.2", "127.0.0.1"), ("/ip6/::", "::1", "::1")],
)
async def test_answers_leave_from_the_address_that_was_asked(
    wildcard: str, asked: str, asker: str
) -> None:
    family = socket.AF_INET6 if ":" in asked else socket.AF_INET
    other_version = b"\xc0\xba\xba\xba\xba\x08" + bytes(8) + b"\x08" + bytes(1_300)
    forgotten = b"\x40" + bytes(60)
    async with made_host(Multiaddr(f"{wildcard}/udp/0/quic-v1")) as server:
        sock = trio.socket.socket(family, socket.SOCK_DGRAM)
        await sock.bind((asker, 0))
        to = (asked, port_of(server.addrs[0]))
        for data in (other_version, forgotten, first_packet(to)):
            await sock.sendto(data, to)
            with trio.fail_after(5):
                _, source = await sock.recvfrom(2_048)
            assert to == source[:2]
        sock.close()


async def test_a_whole_connection_stays_at_the_address_that_was_asked() -> None:
    async with (
        made_host(Multiaddr("/ip4/0.0.0.0/udp/0/quic-v1")) as server,
        made_host(QUIC) as client,
    ):
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        asked = Multiaddr(f"/ip4/127.0.0.3/udp/{port_of(server.addrs[0])}/quic-v1")
        await client.connect(server.peer_id, [asked], soon())
        assert b"hello" == await echo_of(client, server)
        many = b"x" * 40_000  # more than one datagram, which leave in one call
        assert many == await echo_of(client, server, many)


# --- restarts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("survivor_dialled", [True, False])
async def test_a_peer_that_restarted_is_noticed_with_the_next_packet(
    survivor_dialled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes after kill -9: the same identity at the same port, which remembers nothing."""
    key = PrivateKey.generate_ed25519()
    async with made_host(QUIC) as survivor:
        async with made_host(QUIC, key=key) as before:
            before.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
            survivor.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
            dialler, other = (survivor, before) if survivor_dialled else (before, survivor)
            await connect(dialler, other)
            assert b"hello" == await echo_of(dialler, other)
            (link,) = survivor._connections
            assert isinstance(link, QuicLink)
            await until(lambda: link.promised_token is not None)
            (endpoint,) = transport_of(before)._listening
            monkeypatch.setattr(endpoint, "send", lambda datagrams: None)  # as if it were killed
            port = port_of(before.addrs[0])
        same_port = Multiaddr(f"/ip4/127.0.0.1/udp/{port}/quic-v1")
        async with made_host(same_port, key=key) as after:
            assert survivor.is_connected(key.peer_id())
            with pytest.raises(StreamError, match="ended"):
                await survivor.ping(key.peer_id(), soon())
            await until(lambda: not survivor.is_connected(key.peer_id()))
            assert 1 == after.stats()["quic_resets_sent"]
            assert 1 == survivor.stats()["quic_resets_received"]
            await survivor.connect(key.peer_id(), after.addrs, soon())


async def test_an_ordinary_end_makes_no_resets_go_to_and_fro() -> None:
    async with made_host(QUIC) as server, made_host(QUIC) as client:
        for _ in range(3):
            await connect(client, server)
            await identified(server, client.peer_id)
            await client.disconnect(server.peer_id)
            await until(lambda: not server.connections())
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert "quic_resets_sent" not in server.stats()
        assert "quic_resets_sent" not in client.stats()


async def test_a_token_that_nobody_promised_ends_nothing() -> None:
    async with made_host(QUIC) as server, made_host(QUIC) as client:
        await connect(client, server)
        async with Dialler(server, "127.0.0.1") as stranger:
            for _ in range(3):
                await stranger.sock.sendto(b"\x40" + os.urandom(60), stranger.server)
        await client.ping(server.peer_id, soon())
        assert client.is_connected(server.peer_id)


async def test_another_socket_of_the_node_does_not_betray_a_connections_reset_token() -> None:
    elsewhere = Multiaddr("/ip4/127.0.0.2/udp/0/quic-v1")
    async with made_host(QUIC, elsewhere) as server, made_host(QUIC) as client:
        asked, other = sorted(server.addrs, key=str)
        await client.connect(server.peer_id, [asked], soon())
        (link,) = client._connections
        assert isinstance(link, QuicLink)
        await until(lambda: link.promised_token is not None)
        async with Dialler(server, "127.0.0.1") as stranger:
            stranger.server = ("127.0.0.2", port_of(other))
            (ours,) = server._connections
            assert isinstance(ours, QuicLink)
            for each in ours.ids:
                answer = await stranger.send(b"\x40" + each + bytes(60))
                assert answer[-16:] != link.promised_token


# --- floods ---------------------------------------------------------------------------------------


def forged_initial() -> bytes:
    head = b"\xc3\0\0\0\1\x08" + os.urandom(8) + b"\x08" + os.urandom(8) + b"\0\x44\xa0"
    return head + os.urandom(0x4A0)


async def test_a_flood_of_forged_first_packets_delays_no_connection_and_is_bounded() -> None:
    async with made_host(QUIC) as server, made_host(QUIC) as client:
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        await connect(client, server)
        (endpoint,) = transport_of(server)._listening
        flood = iter([(forged_initial(), (("127.0.0.1", 9), None)) for _ in range(600)])
        receive = endpoint._receiver.receive

        class Flooded:
            """Strangers' datagrams before every one that is there."""

            @staticmethod
            def receive() -> Datagram:
                return next(flood, None) or receive()

        endpoint._receiver = Flooded()  # type: ignore[assignment]
        assert b"hello" == await echo_of(client, server)
        assert STRANGERS_PER_TURN <= server.stats()["quic_forged_initials"]
        await until(lambda: not endpoint._waiting)
        stats = server.stats()
        assert 600 == stats["quic_forged_initials"] + stats["quic_strangers_dropped"]
        async with made_host(QUIC) as honest:  # which has to prove its address now
            await connect(honest, server)
        assert 1 <= server.stats()["quic_retries"]


# --- which socket a dial leaves from --------------------------------------------------------------

NEW_NAMESPACE = ["unshare", "--user", "--map-root-user", "--net", "sh", "-ec"]
TWO_NETWORKS = """
ip link set lo up
ip addr add 10.8.0.2/32 dev lo; ip route add 10.8.0.0/24 dev lo src 10.8.0.2
ip addr add 192.168.50.1/32 dev lo; ip route add 192.168.50.0/24 dev lo src 192.168.50.1
exec "$0" -c "$@"
"""
DIAL_FROM = """
import sys, trio
from multiaddr import Multiaddr
from codio_dht.crypto.keys import PrivateKey
from codio_dht.net.quic import transport
from codio_dht.net.stack_host import make_stack_host
from codio_dht.net.targets import parse

async def main():
    key = PrivateKey.generate_ed25519()
    for case in sys.argv[1:]:
        *listen, to = case.split(",")
        addrs = [Multiaddr(f"/ip4/{host}/udp/0/quic-v1") for host in listen]
        target = parse(Multiaddr(f"/ip4/{to}/udp/4001/quic-v1").to_bytes())
        async with make_stack_host(key, addrs) as host:
            [quic] = [each for each in host.transports if isinstance(each, transport.QuicTransport)]
            source = transport._route(target.family, target.socket_name())
            print(quic._endpoint_for(target, source).own_ip)

trio.run(main)
"""
LEAVES_FROM = {
    "10.8.0.2,192.168.50.1,192.168.50.2": "192.168.50.1",
    "10.8.0.2,192.168.50.1,10.8.0.9": "10.8.0.2",
    "10.8.0.2,192.168.50.2": "0.0.0.0",
    "0.0.0.0,10.8.0.2,192.168.50.2": "0.0.0.0",
    "0.0.0.0,10.8.0.2,10.8.0.9": "10.8.0.2",
    "127.0.0.1,192.168.50.2": "0.0.0.0",
}
"""By the addresses listened on and the one dialled: the one that the dial leaves from."""


def test_a_dial_leaves_from_the_socket_at_which_the_route_begins(
    require_tool: Callable[[str], None],
) -> None:
    require_tool("unshare")
    require_tool("ip")
    command = [*NEW_NAMESPACE, TWO_NETWORKS, sys.executable, DIAL_FROM, *LEAVES_FROM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (list(LEAVES_FROM.values()), "") == (done.stdout.split(), done.stderr)
