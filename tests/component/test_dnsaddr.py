"""Names in multiaddrs, asked of a name server of the test's own on loopback."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import dns.asyncresolver
import dns.flags
import dns.message
import dns.name
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
from codio_dht.net import dnsaddr, name_servers
from codio_dht.net.dnsaddr import resolve
from codio_dht.net.libp2p_host import make_libp2p_host
from codio_dht.net.name_servers import (
    STRANGERS_QUESTIONS,
    STRANGERS_QUESTIONS_OF_DOMAIN,
    STRANGERS_QUESTIONS_WINDOW_S,
    SystemNameServers,
    for_strangers,
)
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
        self.failing: dict[tuple[str, str], dns.rcode.Rcode | None] = {}
        """Questions answered with an error, or (None) with nothing at all."""
        self.knows_edns = True
        self.search: list[str] = []

    def add_dnsaddr(self, host: str, *addrs: str) -> None:
        self.records[f"_dnsaddr.{host}", "TXT"] = [f'"dnsaddr={addr}"' for addr in addrs]

    def answer(self, wire: bytes, limit: int | None = None) -> bytes:
        query = dns.message.from_wire(wire)
        [question] = query.question
        name = question.name.to_text(omit_final_dot=True)
        kind = dns.rdatatype.to_text(question.rdtype)
        self.questions.append(f"{name} {kind}")
        response = dns.message.make_response(query)
        if not self.knows_edns and query.edns >= 0:
            response.use_edns(False)
            response.set_rcode(dns.rcode.FORMERR)
            return response.to_wire()
        if (name, kind) in self.failing:
            rcode = self.failing[name, kind]
            if rcode is None:
                return b""
            response.set_rcode(rcode)
            return response.to_wire()
        texts = self.records.get((name, kind))
        if texts:
            response.answer.append(dns.rrset.from_text(question.name, 1, "IN", kind, *texts))
        elif not any(known == name for known, _ in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        full = response.to_wire(max_size=65_535)
        if limit is None:  # UDP: what the client says it takes (RFC 6891)
            limit = query.payload if query.edns >= 0 else 512
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
                answer = b"" if self.silent else self.answer(wire)
                if answer:
                    await udp.sendto(answer, sender)

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
                resolver.search = [dns.name.from_text(domain) for domain in self.search]
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


async def test_what_is_the_operators_own_serves_no_name_of_a_stranger(tmp_path: Path) -> None:
    """Neither the hosts file nor the search domains."""
    hosts = tmp_path / "hosts"
    hosts.write_text("192.168.77.7 nas.lan\n")
    zone = Zone({("redis.corp.example", "A"): ["192.0.2.1"], ("pub.example", "A"): ["192.0.2.2"]})
    zone.search = ["corp.example"]
    async with zone.served(hosts) as servers:
        public = for_strangers(servers)
        assert ["192.168.77.7"] == await servers.ips("nas.lan", 4)
        assert ["192.0.2.1"] == await servers.ips("redis", 4)
        for name in ("nas.lan", "redis"):
            with pytest.raises(NetworkError):
                await public.ips(name, 4)
        assert ["192.0.2.2"] == await public.ips("pub.example", 4)
    assert "redis A" in zone.questions  # as it is, and no more


async def test_strangers_names_cost_a_bounded_number_of_questions(autojump_clock) -> None:
    asked: list[str] = []

    class Counting:
        async def texts(self, name: str) -> list[str]:
            asked.append(name)
            return []

        async def ips(self, name: str, ip_version: int) -> list[str]:
            return await self.texts(name)

    public = for_strangers(Counting())
    for number in range(100):
        with suppress(NetworkError):
            await public.ips(f"{number}.victim.example", 4)
    assert STRANGERS_QUESTIONS_OF_DOMAIN == len(asked)
    for number in range(1_000):
        with suppress(NetworkError):
            await public.texts(f"_dnsaddr.{number}.example")
    assert STRANGERS_QUESTIONS == len(asked)
    with pytest.raises(NetworkError) as caught:
        await public.ips("another.example", 4)
    assert caught.value.local  # nothing is said of the peer
    await trio.sleep(STRANGERS_QUESTIONS_WINDOW_S)
    await public.ips("another.example", 4)
    assert STRANGERS_QUESTIONS + 1 == len(asked)


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


@pytest.mark.parametrize(
    "failure",
    [dns.rcode.SERVFAIL, dns.rcode.NXDOMAIN, dns.rcode.REFUSED, dns.rcode.NOERROR, None],
    ids=["SERVFAIL", "NXDOMAIN", "REFUSED", "empty", "silence"],
)
@pytest.mark.parametrize("kind", ["A", "AAAA"])
async def test_what_becomes_of_one_ip_version_says_nothing_of_the_other(
    failure: dns.rcode.Rcode | None, kind: str
) -> None:
    zone = Zone({("host.example", "A"): ["192.0.2.7"], ("host.example", "AAAA"): ["2001:db8::7"]})
    zone.failing["host.example", kind] = failure
    left = "/ip6/2001:db8::7/tcp/1" if kind == "A" else "/ip4/192.0.2.7/tcp/1"

    assert await resolved(zone, "/dns/host.example/tcp/1", deadline=soon(1)) == [left]


async def test_a_name_that_is_slow_holds_up_no_other() -> None:
    zone = Zone({("good.example", "A"): ["192.0.2.1"]})
    zone.failing["slow.example", "A"] = None
    addrs = "/dns4/slow.example/tcp/1", "/dns4/good.example/tcp/1"

    assert await resolved(zone, *addrs, deadline=soon(1)) == ["/ip4/192.0.2.1/tcp/1"]


@pytest.mark.parametrize(
    ("name", "answered"),
    [
        ("bootnode", "bootnode.lan"),
        ("seed-0.seed", "seed-0.seed.prod.svc.cluster.local"),
        ("app_node_1", "app_node_1"),
        ("whole.example.", "whole.example"),
    ],
)
async def test_names_are_what_they_are_to_the_system(name: str, answered: str) -> None:
    zone = Zone({(answered, "A"): ["10.0.0.7"]})
    zone.search = ["prod.svc.cluster.local", "lan"]

    assert await resolved(zone, f"/dns4/{name}/tcp/1") == ["/ip4/10.0.0.7/tcp/1"]


async def test_a_dnsaddr_is_asked_for_as_it_is_written() -> None:
    zone = Zone({})
    zone.search = ["lan"]
    zone.add_dnsaddr("boot.lan", "/ip4/192.0.2.1/tcp/1")
    with pytest.raises(NetworkError):
        await resolved(zone, "/dnsaddr/boot")

    assert zone.questions == ["_dnsaddr.boot TXT"]


@pytest.mark.parametrize(
    ("addr", "expected"),
    [
        ("/dns4/127.0.0.1/tcp/1", ["/ip4/127.0.0.1/tcp/1"]),
        ("/dns/192.0.2.7/udp/1/quic-v1", ["/ip4/192.0.2.7/udp/1/quic-v1"]),
        ("/dns6/127.0.0.1/tcp/1", None),
    ],
)
async def test_an_ip_address_in_the_place_of_a_name_is_itself(
    addr: str, expected: list[str] | None
) -> None:
    zone = Zone({})
    if expected is None:
        with pytest.raises(NetworkError):
            await resolved(zone, addr)
    else:
        assert await resolved(zone, addr) == expected
    assert zone.questions == []


async def test_an_answer_over_512_bytes_comes_over_udp() -> None:
    zone = Zone({})
    entries = [f"/ip4/192.0.2.1/tcp/{port}/p2p/{ONE}" for port in range(10_001, 10_011)]
    zone.add_dnsaddr("list.example", *entries)

    assert await resolved(zone, "/dnsaddr/list.example") == entries
    assert zone.over_tcp == 0


async def test_a_server_that_does_not_know_edns_is_asked_without_it() -> None:
    zone = Zone({("host.example", "A"): ["192.0.2.1"]})
    zone.knows_edns = False
    zone.search = ["lan"]

    assert await resolved(zone, "/dns4/host.example/tcp/1") == ["/ip4/192.0.2.1/tcp/1"]


async def test_in_a_long_list_the_peer_that_is_wanted_is_found() -> None:
    zone = Zone({})
    others = [f"/ip4/192.0.2.{n % 250}/tcp/{n + 1}/p2p/{TWO}" for n in range(600)]
    mine = f"/ip4/192.0.2.1/tcp/1/p2p/{ONE}"
    junk = ["v=spf1 -all"] * 60
    zone.records["_dnsaddr.list.example", "TXT"] = [
        *(f'"{text}"' for text in junk),
        *(f'"dnsaddr={entry}"' for entry in [*others, mine]),
    ]

    assert await resolved(zone, f"/dnsaddr/list.example/p2p/{ONE}") == [mine]


async def test_the_systems_files_are_read_again_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf, hosts = tmp_path / "resolv.conf", tmp_path / "hosts"
    monkeypatch.setattr(name_servers, "_RESOLV_CONF", conf)
    zones = [Zone({("host.example", "A"): [f"192.0.2.{n}"]}) for n in (1, 2)]
    async with zones[0].served() as first, zones[1].served() as second:
        resolvers = {"first": first._resolver, "second": second._resolver}
        read: list[str] = []

        def system_resolver(path: Path) -> dns.asyncresolver.Resolver:
            read.append(path.read_text())
            resolver = resolvers[read[-1]]
            assert resolver is not None
            return resolver

        monkeypatch.setattr(name_servers, "_system_resolver", system_resolver)
        hosts.write_text("192.0.2.50 nas\n")
        conf.write_text("first")
        servers = SystemNameServers(hosts=hosts)

        async def ask() -> list[str]:
            addrs = [Multiaddr(f"/dns4/{name}/tcp/1") for name in ("host.example", "nas")]
            return [str(addr) for addr in await resolve(addrs, soon(), servers=servers)]

        assert await ask() == ["/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.50/tcp/1"]
        assert await ask() == ["/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.50/tcp/1"]
        assert read == ["first"]
        conf.write_text("second")
        hosts.write_text("192.0.2.51 nas # moved\n")
        assert await ask() == ["/ip4/192.0.2.2/tcp/1", "/ip4/192.0.2.51/tcp/1"]
        hosts.unlink()
        with pytest.raises(NetworkError, match="nas"):
            await resolve([Multiaddr("/dns4/nas/tcp/1")], soon(), servers=servers)


async def test_a_resolv_conf_that_appears_later_is_read_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "resolv.conf"
    monkeypatch.setattr(name_servers, "_RESOLV_CONF", conf)
    servers = SystemNameServers(hosts=tmp_path / "none")
    with pytest.raises(NetworkError) as caught:
        await servers.ips("host.example", 4)
    assert caught.value.local
    conf.write_text("nameserver 192.0.2.53\nsearch lan\n")

    assert servers._configured.content().nameservers == ["192.0.2.53"]


async def test_silence_of_the_name_servers_is_our_own_trouble_and_a_missing_name_is_not() -> None:
    zone = Zone({})
    with pytest.raises(NetworkError) as caught:
        await resolved(zone, "/dns4/nowhere.example/tcp/1")
    assert not caught.value.local
    zone.silent = True
    with pytest.raises(NetworkError) as caught:
        await resolved(zone, "/dns4/nowhere.example/tcp/1", deadline=soon(0.2))
    assert caught.value.local


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
