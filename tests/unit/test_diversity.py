"""IP groups, and how many peers of one group are believed."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiaddr import Multiaddr

from codio_dht.core.addresses import KEEP_ALL, PUBLIC_ONLY
from codio_dht.core.admission import OfferOutcome
from codio_dht.core.clock import Monotonic
from codio_dht.core.diversity import NAMES, GroupLimits, groups_of, over_represented
from codio_dht.core.keyspace import Key, cpl
from codio_dht.core.messages import FailureReason, PeerEntry
from codio_dht.core.network import Network, NetworkPolicy
from codio_dht.core.peer import PeerId
from codio_dht.core.routing_table import AddOutcome, RoutingTable
from codio_dht.formats.multiaddr import ip_group
from codio_dht.params import KAD_PROTOCOL, KEY_BITS

LOCAL = Key(0)
NOW = Monotonic(0.0)


def addr(text: str) -> bytes:
    return bytes(Multiaddr(text).to_bytes())


def ip(text: str, port: int = 4001) -> bytes:
    return addr(f"/{'ip6' if ':' in text else 'ip4'}/{text}/tcp/{port}")


def peer_at_cpl(prefix: int, nth: int = 0) -> PeerId:
    key = (1 << (KEY_BITS - 1 - prefix)) + nth
    peer = PeerId(b"\x12\x20" + key.to_bytes(32, "big"))
    peer._key = Key(key)
    return peer


def entry(nth: int, *addrs: bytes) -> PeerEntry:
    return PeerEntry(peer_at_cpl(0, nth), addrs)


# --- groups ---------------------------------------------------------------------------------------


@pytest.mark.conformance("c50")
@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.168.1.1", "192.168.0.0/16"),
        ("1.2.3.4", "1.2.0.0/16"),
        ("255.255.255.255", "255.255.0.0/16"),
        ("17.5.6.7", "17.0.0.0/8"),
        *((f"{head}.9.8.7", f"{head}.0.0.0/8") for head in (12, 19, 38, 48, 53, 56, 73)),
        ("18.5.6.7", "18.5.0.0/16"),
        ("2a02:26f7:1:2::3", "2a02:26f7::/32"),
        ("2a02:26f7:ffff::1", "2a02:26f7::/32"),
        ("2a02:26f8::1", "2a02:26f8::/32"),
        ("64:ff9b::1.2.3.4", "1.2.0.0/16"),
        ("2002:0102:0304::1", "1.2.0.0/16"),
    ],
)
def test_the_group_of_an_address(address: str, group: str) -> None:
    assert ip_group(ip(address)) == group


@pytest.mark.parametrize(
    "address",
    [addr("/dns4/example.com/tcp/4001"), addr("/unix/tmp"), b"", b"\xff\xff", b"\x04\x01"],
)
def test_what_begins_with_no_ip_address_has_no_ip_group(address: bytes) -> None:
    assert ip_group(address) is None


def test_a_zone_and_what_follows_the_address_do_not_change_its_group() -> None:
    assert ip_group(addr("/ip6zone/x/ip6/2a02:26f7::1/udp/1/quic-v1")) == "2a02:26f7::/32"


def test_only_public_addresses_count_and_each_group_once() -> None:
    addrs = [ip("127.0.0.1"), ip("10.0.0.1"), ip("8.8.1.1"), ip("8.8.2.2", 9), ip("9.9.9.9")]
    assert groups_of(addrs) == ("8.8.0.0/16", "9.9.0.0/16")
    assert groups_of([ip("127.0.0.1"), ip("192.168.1.1"), ip("fe80::1")]) == ()


def test_peers_with_nothing_but_names_are_one_group() -> None:
    name, other = addr("/dns4/a.example.com/tcp/1"), addr("/dns6/b.example.org/tcp/1")
    assert groups_of([name]) == groups_of([other, name]) == (NAMES,)
    assert groups_of([name, ip("8.8.8.8")]) == ("8.8.0.0/16",)
    assert groups_of([addr("/dns4/printer.local/tcp/1")]) == ()


# --- one table ------------------------------------------------------------------------------------


def table_with(addrs: Mapping[PeerId, tuple[bytes, ...]]) -> tuple[RoutingTable, GroupLimits]:
    limits = GroupLimits(lambda peer, now: addrs.get(peer, ()))
    return RoutingTable(LOCAL, policy=limits), limits


@pytest.mark.conformance("c50")
def test_two_peers_of_a_group_at_one_cpl_and_three_in_the_table() -> None:
    peers = [peer_at_cpl(prefix, nth) for prefix in (0, 1, 2) for nth in range(3)]
    table, limits = table_with({peer: (ip("8.8.1.1"),) for peer in peers})
    outcomes = [table.add(peer, NOW) for peer in peers]
    added, refused = AddOutcome.ADDED, AddOutcome.REFUSED_DIVERSITY
    assert outcomes == [added, added, refused, added, *[refused] * 5]
    assert limits.sizes() == {"8.8.0.0/16": 3}


@pytest.mark.conformance("c50")
def test_a_peer_that_leaves_frees_its_place_in_the_group() -> None:
    peers = [peer_at_cpl(0, nth) for nth in range(4)]
    addrs = {peer: (ip("8.8.1.1"),) for peer in peers}
    table, limits = table_with(addrs)
    table.add(peers[0], NOW)
    table.add(peers[1], NOW)
    assert table.add(peers[2], NOW) is AddOutcome.REFUSED_DIVERSITY
    addrs[peers[0]] = (ip("9.9.9.9"),)  # wherever it is by now
    table.remove(peers[0])
    assert table.add(peers[2], NOW) is AddOutcome.ADDED
    assert table.add(peers[3], NOW) is AddOutcome.REFUSED_DIVERSITY
    for peer in peers:
        table.remove(peer)
    assert limits.sizes() == {}


@pytest.mark.conformance("c50")
def test_a_connected_peer_is_where_its_connection_leads_and_not_where_it_says() -> None:
    """One machine with many identities, each of which claims an address of its own."""
    sybils = [peer_at_cpl(prefix, nth) for prefix in range(10) for nth in range(2)]
    claims = {peer: (ip(f"{nth + 20}.1.1.1"),) for nth, peer in enumerate(sybils)}
    limits = GroupLimits(
        lambda peer, now: claims.get(peer, ()),
        lambda peer: (ip("8.8.1.1", 50_000),) if peer in sybils else (),
    )
    table = RoutingTable(LOCAL, policy=limits)
    for peer in sybils:
        table.add(peer, NOW)
    assert limits.sizes() == {"8.8.0.0/16": 3}
    for peer in sybils:
        table.remove(peer)
    assert limits.sizes() == {}


@pytest.mark.conformance("c50")
def test_claims_of_a_connected_peer_keep_nobody_out_of_the_groups_claimed() -> None:
    sybils = [peer_at_cpl(prefix) for prefix in range(3)]
    seen = {peer: (ip(f"{nth + 8}.8.1.1"),) for nth, peer in enumerate(sybils)}
    honest = peer_at_cpl(0, 1)
    everywhere = tuple(ip(f"{first}.1.1.1") for first in range(80, 100))
    limits = GroupLimits(lambda peer, now: everywhere, lambda peer: seen.get(peer, ()))
    table = RoutingTable(LOCAL, policy=limits)
    for peer in sybils:
        assert table.add(peer, NOW) is AddOutcome.ADDED
    assert table.add(honest, NOW) is AddOutcome.ADDED


@pytest.mark.conformance("c50")
def test_of_a_connection_that_leads_to_no_public_address_the_claims_count() -> None:
    peers = [peer_at_cpl(0, nth) for nth in range(3)]
    limits = GroupLimits(lambda peer, now: (ip("8.8.1.1"),), lambda peer: (ip("172.17.0.1"),))
    table = RoutingTable(LOCAL, policy=limits)
    added, refused = AddOutcome.ADDED, AddOutcome.REFUSED_DIVERSITY
    assert [table.add(peer, NOW) for peer in peers] == [added, added, refused]


@pytest.mark.conformance("c50")
def test_a_peer_without_an_address_is_refused() -> None:
    table, _ = table_with({})
    assert table.add(peer_at_cpl(0), NOW) is AddOutcome.REFUSED_DIVERSITY


@pytest.mark.conformance("c50")
def test_private_and_loopback_peers_are_exempt() -> None:
    peers = [peer_at_cpl(0, nth) for nth in range(10)]
    table, _ = table_with({peer: (ip("127.0.0.1"), ip("192.168.1.1")) for peer in peers})
    assert {table.add(peer, NOW) for peer in peers} == {AddOutcome.ADDED}


def test_each_group_of_a_peer_must_have_room() -> None:
    crowd = [peer_at_cpl(0, nth) for nth in range(2)]
    both, alone = peer_at_cpl(0, 8), peer_at_cpl(0, 9)
    addrs: dict[PeerId, tuple[bytes, ...]] = {peer: (ip("8.8.1.1"),) for peer in crowd}
    addrs |= {both: (ip("7.7.7.7"), ip("8.8.9.9")), alone: (ip("7.7.7.7"),)}
    table, limits = table_with(addrs)
    for peer in crowd:
        table.add(peer, NOW)
    assert table.add(both, NOW) is AddOutcome.REFUSED_DIVERSITY
    assert table.add(alone, NOW) is AddOutcome.ADDED
    assert limits.sizes() == {"8.8.0.0/16": 2, "7.7.0.0/16": 1}


OCTETS = st.integers(1, 3)
MOVES = st.lists(
    st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 5), st.lists(OCTETS, max_size=2)),
    max_size=60,
)


@given(MOVES)
def test_the_limits_hold_whoever_comes_and_goes(
    moves: list[tuple[bool, int, int, list[int]]],
) -> None:
    addrs: dict[PeerId, tuple[bytes, ...]] = {}
    table, limits = table_with(addrs)
    inside: dict[PeerId, tuple[str, ...]] = {}
    for comes, prefix, nth, octets in moves:
        peer = peer_at_cpl(prefix, nth)
        if not comes:
            table.remove(peer)
            inside.pop(peer, None)
            continue
        addrs[peer] = tuple(ip(f"8.{octet}.1.1") for octet in octets)
        groups = tuple(dict.fromkeys(f"8.{octet}.0.0/16" for octet in octets))
        full = any(
            sum(group in each for each in inside.values()) >= 3
            or sum(group in each and cpl(LOCAL, p.key) == prefix for p, each in inside.items()) >= 2
            for group in groups
        )
        outcome = table.add(peer, NOW)
        if peer in inside:
            assert outcome is AddOutcome.KNOWN
        elif full or not octets:
            assert outcome is AddOutcome.REFUSED_DIVERSITY
        else:
            assert outcome is AddOutcome.ADDED
            inside[peer] = groups
    sizes: dict[str, int] = {}
    for groups in inside.values():
        for group in groups:
            sizes[group] = sizes.get(group, 0) + 1
    assert limits.sizes() == sizes


# --- one reply ------------------------------------------------------------------------------------


@pytest.mark.conformance("c44")
def test_of_a_group_with_more_than_three_in_a_reply_the_first_three_are_taken() -> None:
    few = [entry(nth, ip(f"9.9.{nth}.1")) for nth in range(3)]
    many = [entry(nth, ip(f"8.8.{nth}.1")) for nth in range(10, 14)]
    others = [entry(nth, ip(f"7.{nth}.0.1")) for nth in range(20, 30)]
    lost = over_represented([*few, *many, *others])
    assert lost == {many[3].peer_id}


@pytest.mark.conformance("c44")
def test_four_liars_that_claim_the_groups_of_sixteen_erase_none_of_them() -> None:
    honest = [entry(nth, ip(f"7.{nth}.0.1")) for nth in range(16)]
    claims = [ip(f"7.{nth}.9.9") for nth in range(16)]
    liars = [entry(nth, *claims) for nth in range(100, 104)]
    lost = over_represented([*liars, *honest])
    assert lost == {liars[3].peer_id}


def test_a_peer_of_ipv4_ipv6_and_one_group_more_counts_for_each_of_them() -> None:
    many = [entry(nth, ip(f"8.8.{nth}.1"), ip(f"7.{nth}.0.1")) for nth in range(4)]
    assert over_represented(many) == {many[3].peer_id}


def test_one_peer_named_often_and_peers_without_public_addresses_are_no_crowd() -> None:
    again = [entry(1, ip("8.8.1.1"))] * 10
    lan = [entry(nth, ip("192.168.1.1"), ip("127.0.0.1")) for nth in range(20)]
    silent = [entry(nth) for nth in range(40, 60)]
    assert over_represented([*again, *lan, *silent]) == frozenset()


# --- a network ------------------------------------------------------------------------------------


def network(*, diverse: bool, keep=PUBLIC_ONLY) -> Network:
    local = PeerId(b"\x12\x20" + bytes(32))
    return Network(local, protocol=KAD_PROTOCOL, policy=NetworkPolicy(keep, diverse=diverse))


@pytest.mark.conformance("c44")
def test_of_twenty_closer_peers_in_one_group_at_most_three_are_taken() -> None:
    closer = [entry(nth, ip(f"8.8.{nth}.1")) for nth in range(1, 21)]
    assert len(network(diverse=True).learn(closer, None, NOW)) <= 3
    assert len(network(diverse=True).learn(closer[:3], None, NOW)) == 3
    assert len(network(diverse=False).learn(closer, None, NOW)) == 20


def test_the_peer_that_is_looked_for_is_taken_in_whatever_company() -> None:
    closer = [entry(nth, ip(f"8.8.{nth}.1")) for nth in range(1, 21)]
    taken = [closer[nth].peer_id for nth in (0, 1, 2, 7)]
    assert network(diverse=True).learn(closer, closer[7].peer_id, NOW) == taken


@pytest.mark.conformance("c50")
def test_a_diverse_network_keeps_few_peers_of_a_group_in_its_table() -> None:
    def filled(net: Network) -> int:
        for nth in range(30):
            peer = PeerId(b"\x12\x20" + bytes([nth]) * 32)
            net.book.heard(peer, [ip(f"8.8.{nth}.1")], NOW)
            net.answered(peer, NOW)
        return len(net.table)

    assert filled(network(diverse=True)) == 3
    assert filled(network(diverse=False)) > 20
    assert filled(network(diverse=False, keep=KEEP_ALL)) > 20


def test_in_a_diverse_network_a_place_that_came_free_is_filled_again() -> None:
    net = network(diverse=True)
    peers = [PeerId(b"\x12\x20" + bytes([nth]) * 32) for nth in range(1, 6)]
    for nth, peer in enumerate(peers):
        net.book.heard(peer, [ip(f"8.8.{nth}.1")], NOW)
        net.answered(peer, NOW)
    (first, *_) = net.table.peers()
    net.failed(first, FailureReason.UNREACHABLE, NOW, began=NOW)
    assert len(net.table) == 2
    for peer in peers:
        if peer != first:
            net.answered(peer, NOW)
    assert len(net.table) == 3


def test_a_peer_of_a_crowded_group_is_not_probed_at_every_sighting() -> None:
    net = network(diverse=True)
    peers = [PeerId(b"\x12\x20" + bytes([nth]) * 32) for nth in range(1, 5)]
    for nth, peer in enumerate(peers):
        net.book.heard(peer, [ip(f"8.8.{nth}.1")], NOW)
        net.answered(peer, NOW)
    (crowded,) = [peer for peer in peers if peer not in net.table]
    assert net.offer(crowded, NOW) is OfferOutcome.QUEUED
    net.admission.next(NOW)
    assert net.admission.on_probe_answered(crowded, 3, NOW) is AddOutcome.REFUSED_DIVERSITY
    assert net.offer(crowded, NOW) is OfferOutcome.DEFERRED
