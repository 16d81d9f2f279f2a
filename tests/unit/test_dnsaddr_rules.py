"""Which TXT entries a ``/dnsaddr`` means."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from multiaddr import Multiaddr

from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.errors import DeadlineError, NetworkError
from codio_dht.net.dnsaddr import (
    MAX_DEPTH,
    MAX_TXT_ENTRIES,
    dnsaddr_name,
    entries_of,
    is_name,
    matching,
    peers_named_by,
)

ONE = "QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN"
TWO = "QmQCU2EcMqAqQPR2i9bChDtGNJchTbq5TbXJJ16u19uLTa"


def test_only_dnsaddr_entries_that_are_multiaddrs_are_read() -> None:
    texts = [
        "dnsaddr=/ip4/192.0.2.1/tcp/1",
        "v=spf1 -all",
        "dnsaddr=nonsense",
        "dnsaddr=/ip4/300.0.2.1/tcp/1",
        "dnsaddr=",
        "dnsaddr=/dnsaddr/example.org",
        "dnsaddr=/ip4/192.0.2.1/tcp/1",
        "dnsaddr=/ip4/192.0.2.1/tcp/1" + "/ws" * 1_000,
    ]

    assert entries_of(texts) == [
        Multiaddr("/ip4/192.0.2.1/tcp/1"),
        Multiaddr("/dnsaddr/example.org"),
    ]


def test_no_more_than_the_bound_of_entries_is_read() -> None:
    texts = [f"dnsaddr=/ip4/192.0.2.1/tcp/{port}" for port in range(1, 1_000)]

    assert len(entries_of(texts)) == MAX_TXT_ENTRIES


def test_what_follows_the_name_must_end_the_entry() -> None:
    entries = [Multiaddr(f"/ip4/192.0.2.1/tcp/1/p2p/{peer}") for peer in (ONE, TWO)]

    assert matching(entries, f"/p2p/{ONE}", None) == entries[:1]
    assert matching(entries, "/tcp/1", None) == []
    assert matching(entries, "", None) == entries


def test_an_entry_of_another_peer_is_left_out_and_one_that_names_nobody_is_not() -> None:
    nobody = Multiaddr("/ip4/192.0.2.1/tcp/1")
    mine, other = [nobody.encapsulate(Multiaddr(f"/p2p/{peer}")) for peer in (ONE, TWO)]

    assert matching([nobody, mine, other], "", PeerId.from_string(ONE)) == [nobody, mine]


def test_names_are_told_from_addresses() -> None:
    names = ["/dnsaddr/a.example", "/dns/a.example/tcp/1", "/dns4/a/tcp/1", "/dns6/a/tcp/1"]
    others = ["/ip4/192.0.2.1/tcp/1", "/ip6/::1/tcp/1", f"/p2p/{ONE}/p2p-circuit"]

    assert [is_name(Multiaddr(text)) for text in names + others] == [True] * 4 + [False] * 3


def test_an_entry_may_name_its_peer_as_peers_were_named_before() -> None:
    entries = entries_of([f"dnsaddr=/ip4/1.2.3.4/tcp/1/ipfs/{ONE}"])
    assert [f"/ip4/1.2.3.4/tcp/1/p2p/{ONE}"] == [str(entry) for entry in entries]
    assert matching(entries, f"/p2p/{ONE}", PeerId.from_string(ONE)) == entries


def test_the_relay_of_an_entry_is_not_the_peer_that_it_leads_to() -> None:
    entries = entries_of([f"dnsaddr=/ip4/1.2.3.4/tcp/1/p2p/{TWO}/p2p-circuit"])
    assert matching(entries, "", PeerId.from_string(ONE)) == entries


# --- a name without a peer id ---------------------------------------------------------------------


class Servers:
    """Name servers that know ``entries``; a name that is not there does not exist."""

    def __init__(self, **entries: list[str]) -> None:
        self._entries = {f"_dnsaddr.{name}.example": texts for name, texts in entries.items()}
        self.asked: list[str] = []

    async def texts(self, name: str) -> list[str]:
        await trio.lowlevel.checkpoint()
        self.asked.append(name)
        if name not in self._entries:
            raise NetworkError(f"cannot resolve {name}")
        return [f"dnsaddr={entry}" for entry in self._entries[name]]

    async def ips(self, name: str, ip_version: int) -> list[str]:
        raise AssertionError("an address of a peer is kept as it is")


async def named(servers: Servers, name: str = "a") -> list[str]:
    deadline = Monotonic(trio.current_time() + 5)
    addr = Multiaddr(f"/dnsaddr/{name}.example")
    return [str(found) for found in await peers_named_by(addr, deadline, servers=servers)]


async def test_a_name_without_a_peer_id_stands_for_every_peer_that_it_lists() -> None:
    listed = [
        f"/ip4/192.0.2.1/tcp/1/p2p/{ONE}",
        f"/dnsaddr/b.example/p2p/{TWO}",
        f"/dns4/c.example/tcp/1/p2p/{TWO}",
    ]
    assert listed == await named(Servers(a=[*listed, "/ip4/192.0.2.9/tcp/1", listed[0]]))


async def test_names_that_a_name_lists_are_followed_and_not_in_circles() -> None:
    servers = Servers(
        a=["/dnsaddr/b.example", "/dnsaddr/gone.example", "/dnsaddr/a.example"],
        b=["/dnsaddr/a.example", f"/ip4/192.0.2.1/tcp/1/p2p/{ONE}"],
    )
    assert [f"/ip4/192.0.2.1/tcp/1/p2p/{ONE}"] == await named(servers)
    assert 3 == len(servers.asked)


async def test_a_chain_of_names_is_followed_so_far_and_no_farther() -> None:
    def chain(length: int) -> Servers:
        links = {f"n{at}": [f"/dnsaddr/n{at + 1}.example"] for at in range(1, length)}
        return Servers(**links, **{f"n{length}": [f"/ip4/192.0.2.1/tcp/1/p2p/{ONE}"]})

    assert 1 == len(await named(chain(MAX_DEPTH), "n1"))
    with pytest.raises(NetworkError, match=r"n1\.example lists no peer"):
        await named(chain(MAX_DEPTH + 1), "n1")


@pytest.mark.parametrize(
    ("servers", "why"),
    [
        (Servers(), "cannot resolve _dnsaddr.a.example"),
        (Servers(a=[]), "a.example lists no peer"),
        (Servers(a=["/ip4/192.0.2.1/tcp/1"]), "a.example lists no peer"),
    ],
)
async def test_a_name_that_lists_nobody_is_an_error_that_says_why(
    servers: Servers, why: str
) -> None:
    with pytest.raises(NetworkError, match=why):
        await named(servers)


async def test_name_servers_that_do_not_answer_are_given_up_at_the_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Silent(Servers):
        async def texts(self, name: str) -> list[str]:
            await trio.sleep_forever()
            raise AssertionError

    with trio.fail_after(6), pytest.raises(DeadlineError):
        await named(Silent())


def test_only_a_name_alone_stands_for_whoever_it_lists() -> None:
    texts = ["/dnsaddr/a.example", f"/dnsaddr/a.example/p2p/{ONE}", "/dns4/a.example"]
    assert ["a.example", None, None] == [dnsaddr_name(Multiaddr(text)) for text in texts]
