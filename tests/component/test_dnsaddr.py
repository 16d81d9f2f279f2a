"""Names in multiaddrs, asked of a name server of the test's own on loopback."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import dns.asyncresolver
import dns.flags
import dns.message
import dns.nameserver
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
import trio
from multiaddr import Multiaddr

from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.errors import DeadlineError, NetworkError
from codio_dht.net import dnsaddr
from codio_dht.net.dnsaddr import SystemNameServers, resolve
from codio_dht.net.libp2p_host import make_libp2p_host
from host_steps import TCP, dead_address, soon
from libp2p_hosts import made_host, new_key

ONE = "QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN"
TWO = "QmQCU2EcMqAqQPR2i9bChDtGNJchTbq5TbXJJ16u19uLTa"


class Zone:
    """A name server with a few records: ``{(name, type): [texts]}``."""

    def __init__(self, records: dict[tuple[str, str], list[str]]) -> None:
        self.records = records
        self.questions: list[str] = []
        self.over_tcp = 0
        self.silent = False

    def add_dnsaddr(self, host: str, *addrs: str) -> None:
        self.records[f"_dnsaddr.{host}", "TXT"] = [f'"dnsaddr={addr}"' for addr in addrs]

    def answer(self, wire: bytes, limit: int) -> bytes:
        query = dns.message.from_wire(wire)
        [question] = query.question
        name = question.name.to_text(omit_final_dot=True)
        kind = dns.rdatatype.to_text(question.rdtype)
        self.questions.append(f"{name} {kind}")
        response = dns.message.make_response(query)
        texts = self.records.get((name, kind))
        if texts:
            response.answer.append(dns.rrset.from_text(question.name, 1, "IN", kind, *texts))
        elif not any(known == name for known, _ in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        full = response.to_wire()
        if len(full) > limit:
            response.answer.clear()
            response.flags |= dns.flags.TC
            full = response.to_wire()
        return full

    @asynccontextmanager
    async def served(self, hosts: Path = Path("/dev/null")) -> AsyncGenerator[SystemNameServers]:
        """Name servers that ask this zone, over UDP and TCP."""
        udp, listeners = await _one_port_for_both()
        port = udp.getsockname()[1]

        async def serve_udp() -> None:
            while True:
                wire, sender = await udp.recvfrom(4096)
                if not self.silent:
                    await udp.sendto(self.answer(wire, 1_200), sender)

        async def serve_tcp(stream: trio.SocketStream) -> None:
            (length,) = struct.unpack("!H", await stream.receive_some(2))
            wire = await stream.receive_some(length)
            self.over_tcp += 1
            full = self.answer(wire, 65_535)
            await stream.send_all(struct.pack("!H", len(full)) + full)

        with udp:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve_udp)
                nursery.start_soon(trio.serve_listeners, serve_tcp, listeners)
                resolver = dns.asyncresolver.Resolver(configure=False)
                resolver.nameservers = [dns.nameserver.Do53Nameserver("127.0.0.1", port)]
                yield SystemNameServers(resolver, hosts)
                nursery.cancel_scope.cancel()


async def _one_port_for_both() -> tuple[trio.socket.SocketType, Sequence[trio.SocketListener]]:
    """A port for UDP and TCP: one that is free for UDP may be anybody's for TCP."""
    while True:
        udp = trio.socket.socket(type=socket.SOCK_DGRAM)
        await udp.bind(("127.0.0.1", 0))
        try:
            return udp, await trio.open_tcp_listeners(udp.getsockname()[1], host="127.0.0.1")
        except OSError:
            udp.close()


async def resolved(
    zone: Zone, *texts: str, peer: str | None = None, deadline: Monotonic | None = None
) -> list[str]:
    peer_id = PeerId.from_string(peer) if peer else None
    addrs = [Multiaddr(text) for text in texts]
    failure: NetworkError | None = None
    found: list[Multiaddr] = []
    async with zone.served() as servers:
        try:
            found = await resolve(addrs, deadline or soon(), peer_id=peer_id, servers=servers)
        except NetworkError as error:
            failure = error
    if failure is not None:
        raise failure
    return sorted(str(addr) for addr in found)  # a name server answers in any order


async def test_a_dnsaddr_becomes_the_entries_that_end_as_it_does() -> None:
    zone = Zone({})
    zone.add_dnsaddr(
        "boot.example", f"/dnsaddr/one.example/p2p/{ONE}", f"/dnsaddr/two.example/p2p/{TWO}"
    )
    zone.add_dnsaddr(
        "one.example",
        f"/ip4/192.0.2.1/tcp/4001/p2p/{ONE}",
        f"/ip4/192.0.2.1/udp/4001/quic-v1/p2p/{ONE}",
        f"/ip4/192.0.2.9/tcp/4001/p2p/{TWO}",
    )
    zone.add_dnsaddr("two.example", f"/ip4/192.0.2.2/tcp/4001/p2p/{TWO}")

    assert await resolved(zone, f"/dnsaddr/boot.example/p2p/{ONE}") == [
        f"/ip4/192.0.2.1/tcp/4001/p2p/{ONE}",
        f"/ip4/192.0.2.1/udp/4001/quic-v1/p2p/{ONE}",
    ]
    assert zone.questions == ["_dnsaddr.boot.example TXT", "_dnsaddr.one.example TXT"]


async def test_without_a_peer_a_dnsaddr_is_the_whole_list() -> None:
    zone = Zone({})
    entries = [f"/ip4/192.0.2.1/tcp/1/p2p/{peer}" for peer in (ONE, TWO)]
    zone.add_dnsaddr("boot.example", *entries)

    assert await resolved(zone, "/dnsaddr/boot.example") == entries
    assert await resolved(zone, "/dnsaddr/boot.example", peer=TWO) == entries[1:]


async def test_an_answer_too_long_for_udp_is_asked_for_over_tcp() -> None:
    zone = Zone({})
    entries = [f"/ip4/192.0.2.1/tcp/{port}/p2p/{ONE}" for port in range(1, 40)]
    zone.add_dnsaddr("long.example", *entries)

    assert await resolved(zone, "/dnsaddr/long.example") == sorted(entries)
    assert zone.over_tcp == 1


@pytest.mark.parametrize(
    ("addr", "expected"),
    [
        ("/dns4/host.example/tcp/1", ["/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.2/tcp/1"]),
        ("/dns6/host.example/udp/1/quic-v1", ["/ip6/2001:db8::1/udp/1/quic-v1"]),
        (
            "/dns/host.example/tcp/1",
            ["/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.2/tcp/1", "/ip6/2001:db8::1/tcp/1"],
        ),
        ("/ip4/192.0.2.7/tcp/1", ["/ip4/192.0.2.7/tcp/1"]),
        ("/dns4/localhost/tcp/1", ["/ip4/127.0.0.1/tcp/1"]),
    ],
)
async def test_host_names_become_ip_addresses(addr: str, expected: list[str]) -> None:
    zone = Zone(
        {
            ("host.example", "A"): ["192.0.2.1", "192.0.2.2"],
            ("host.example", "AAAA"): ["2001:db8::1"],
        }
    )
    assert await resolved(zone, addr) == expected


async def test_the_hosts_file_comes_before_the_name_servers(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("# comment\n192.0.2.5 Host.example alias # end\nnonsense line\n::1 six\n")
    zone = Zone({})
    async with zone.served(hosts) as servers:
        found = await resolve(
            [Multiaddr("/dns4/HOST.example/tcp/1"), Multiaddr("/dns6/six/tcp/2")],
            soon(),
            servers=servers,
        )

    assert [str(addr) for addr in found] == ["/ip4/192.0.2.5/tcp/1", "/ip6/::1/tcp/2"]
    assert zone.questions == []


async def test_a_name_that_does_not_exist_is_named_in_the_error() -> None:
    with pytest.raises(NetworkError, match=r"cannot resolve nowhere\.example"):
        await resolved(Zone({}), "/dns4/nowhere.example/tcp/1")
    with pytest.raises(NetworkError, match=r"cannot resolve _dnsaddr\.nowhere\.example"):
        await resolved(Zone({}), "/dnsaddr/nowhere.example")


async def test_a_list_without_the_peer_is_an_error_that_says_so() -> None:
    zone = Zone({})
    zone.add_dnsaddr("boot.example", f"/ip4/192.0.2.1/tcp/1/p2p/{TWO}")
    with pytest.raises(NetworkError, match=rf"boot\.example has no dnsaddr for /p2p/{ONE}"):
        await resolved(zone, f"/dnsaddr/boot.example/p2p/{ONE}")


async def test_one_name_that_fails_does_not_spoil_the_others() -> None:
    zone = Zone({("good.example", "A"): ["192.0.2.1"]})

    assert await resolved(zone, "/dns4/bad.example/tcp/1", "/dns4/good.example/tcp/1") == [
        "/ip4/192.0.2.1/tcp/1"
    ]


async def test_names_that_lead_in_a_circle_are_asked_once() -> None:
    zone = Zone({})
    zone.add_dnsaddr("a.example", "/dnsaddr/b.example", "/ip4/192.0.2.1/tcp/1")
    zone.add_dnsaddr("b.example", "/dnsaddr/a.example")

    assert await resolved(zone, "/dnsaddr/a.example") == ["/ip4/192.0.2.1/tcp/1"]
    assert len(zone.questions) == 2


async def test_a_chain_of_names_has_a_bounded_length() -> None:
    zone = Zone({})
    for number in range(10):
        zone.add_dnsaddr(f"n{number}.example", f"/dnsaddr/n{number + 1}.example")
    with pytest.raises(NetworkError, match="through more than 4 names"):
        await resolved(zone, "/dnsaddr/n0.example")

    assert len(zone.questions) == dnsaddr.MAX_DEPTH


async def test_the_questions_for_one_list_are_bounded() -> None:
    zone = Zone({})
    zone.add_dnsaddr("wide.example", *[f"/dnsaddr/n{n}.example" for n in range(20)])
    for number in range(20):
        zone.add_dnsaddr(f"n{number}.example", f"/ip4/192.0.2.1/tcp/{number + 1}")
    found = await resolved(zone, "/dnsaddr/wide.example")

    assert len(zone.questions) == dnsaddr.MAX_LOOKUPS
    assert len(found) == dnsaddr.MAX_LOOKUPS - 1


async def test_the_addresses_that_come_of_one_list_are_bounded() -> None:
    zone = Zone({("many.example", "A"): [f"192.0.2.{number}" for number in range(1, 100)]})
    found = await resolved(zone, "/dns4/many.example/tcp/1", "/dns4/many.example/tcp/2")

    assert len(found) == dnsaddr.MAX_RESOLVED


async def test_silent_servers_end_at_the_deadline_and_what_was_found_counts() -> None:
    zone = Zone({})
    zone.silent = True
    with pytest.raises(DeadlineError):
        await resolved(zone, "/dns4/host.example/tcp/1", deadline=soon(0.2))
    found = await resolved(
        zone, "/ip4/192.0.2.1/tcp/1", "/dns4/host.example/tcp/1", deadline=soon(0.2)
    )

    assert found == ["/ip4/192.0.2.1/tcp/1"]


async def test_a_host_connects_through_a_dnsaddr_and_beside_a_dead_address() -> None:
    zone = Zone({})
    async with made_host() as server, zone.served() as servers:
        zone.add_dnsaddr("boot.example", f"/dnsaddr/one.example/p2p/{server.peer_id}")
        zone.add_dnsaddr("one.example", f"{server.addrs[0]}/p2p/{server.peer_id}")
        for extra in ([], [dead_address()]):
            async with make_libp2p_host(new_key(), [TCP], name_servers=servers) as client:
                name = Multiaddr(f"/dnsaddr/boot.example/p2p/{server.peer_id}")
                await client.connect(server.peer_id, [*extra, name], soon())
                assert client.is_connected(server.peer_id)


async def test_a_name_that_leads_to_no_transport_of_ours_is_not_asked_for() -> None:
    zone = Zone({})
    async with (
        made_host() as server,
        zone.served() as servers,
        make_libp2p_host(new_key(), [TCP], name_servers=servers) as client,
    ):
        secure_web = Multiaddr("/dns4/host.example/tcp/443/wss")
        await client.connect(server.peer_id, [secure_web, *server.addrs], soon())

    assert zone.questions == []
