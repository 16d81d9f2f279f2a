"""Which TXT entries a ``/dnsaddr`` means."""

from __future__ import annotations

from multiaddr import Multiaddr

from codio_dht.core.peer import PeerId
from codio_dht.net.dnsaddr import MAX_TXT_ENTRIES, entries_of, is_name, matching

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
