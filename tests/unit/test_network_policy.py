"""What a network takes and tells, and what happens when that changes while it runs."""

from __future__ import annotations

import pytest

from codio_dht.core.addresses import KEEP_ALL, PUBLIC_ONLY
from codio_dht.core.clock import Monotonic
from codio_dht.core.diversity import MAX_GROUP_PEERS_PER_TABLE
from codio_dht.core.keyspace import cpl
from codio_dht.core.messages import PeerEntry
from codio_dht.core.network import Network, NetworkPolicy
from codio_dht.core.peer import PeerId
from codio_dht.params import KAD_PROTOCOL, K

NOW = Monotonic(1_000.0)
PRIVATE = NetworkPolicy.of("auto", KAD_PROTOCOL, public=False)
PUBLIC = NetworkPolicy.of("auto", KAD_PROTOCOL, public=True)


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + bytes([number]) * 32)


def peers_of_cpl(wanted: int, count: int) -> list[PeerId]:
    """Peers whose keys share ``wanted`` leading bits with that of ``peer(0)``."""
    found = [peer(n) for n in range(1, 256) if cpl(peer(0).key, peer(n).key) == wanted]
    return found[:count]


def ip(text: str) -> bytes:
    return b"\x04" + bytes(map(int, text.split("."))) + b"\x06\x0f\xa1"


LAN, WAN, OTHER_WAN = ip("192.168.1.1"), ip("8.8.8.8"), ip("9.9.9.9")


def network_with(policy: NetworkPolicy, **addrs_of: list[bytes]) -> Network:
    """A network whose table holds peers ``p1``, ``p2`` ... with these addresses."""
    network = Network(peer(0), protocol=KAD_PROTOCOL, policy=policy)
    for name, addrs in addrs_of.items():
        add(network, peer(int(name[1:])), addrs)
    return network


def add(network: Network, who: PeerId, addrs: list[bytes]) -> None:
    network.book.identified(who, addrs, NOW)
    network.answered(who, NOW)


@pytest.mark.parametrize(
    ("addresses", "protocol", "public", "expected"),
    [
        ("auto", KAD_PROTOCOL, True, NetworkPolicy(PUBLIC_ONLY, diverse=True)),
        ("auto", KAD_PROTOCOL, False, NetworkPolicy(KEEP_ALL, diverse=False)),
        ("auto", "/x/kad/1.0.0", True, NetworkPolicy(PUBLIC_ONLY, diverse=False)),
        ("all", KAD_PROTOCOL, True, NetworkPolicy(KEEP_ALL, diverse=True)),
        ("public", KAD_PROTOCOL, False, NetworkPolicy(PUBLIC_ONLY, diverse=False)),
    ],
)
def test_the_policy_of_a_network(
    addresses: str, protocol: str, public: bool, expected: NetworkPolicy
) -> None:
    assert expected == NetworkPolicy.of(addresses, protocol, public=public)


def test_a_network_that_becomes_public_forgets_private_addresses_and_who_has_no_other() -> None:
    network = network_with(PRIVATE, p1=[LAN], p2=[LAN, WAN], p3=[OTHER_WAN])
    network.book.heard(peer(4), [LAN, WAN], NOW)
    network.book.heard(peer(5), [LAN], NOW)
    network.book.provided(peer(6), (LAN, WAN), NOW)
    network.book.gone(peer(2), NOW)

    network.set_policy(PUBLIC, NOW)

    assert [peer(2), peer(3)] == network.table.peers()
    known = {number: network.book.addrs(peer(number), NOW) for number in range(1, 7)}
    assert {1: (), 2: (WAN,), 3: (OTHER_WAN,), 4: (WAN,), 5: (), 6: (WAN,)} == known


def test_a_network_that_becomes_public_takes_public_peers_only() -> None:
    network = network_with(PRIVATE)
    network.set_policy(PUBLIC, NOW)
    entries = [PeerEntry(peer(1), (LAN,)), PeerEntry(peer(2), (LAN, WAN))]
    assert [peer(2)] == network.learn(entries, None, NOW)
    assert (WAN,) == network.book.addrs(peer(2), NOW)
    assert network.identified(peer(3), [KAD_PROTOCOL], [LAN], NOW) is None


def test_a_network_that_becomes_public_keeps_the_oldest_few_of_each_ip_group() -> None:
    network = network_with(PRIVATE)
    other, *crowd = [each for wanted in range(4) for each in peers_of_cpl(wanted, 2)]
    add(network, other, [OTHER_WAN])
    for number, each in enumerate(crowd):
        add(network, each, [ip(f"8.8.{number}.1")])
    assert 8 == len(network.table)

    network.set_policy(PUBLIC, NOW)

    assert [other, *crowd[:MAX_GROUP_PEERS_PER_TABLE]] == network.table.peers()
    [late] = peers_of_cpl(4, 1)
    add(network, late, [ip("8.8.99.1")])
    assert late not in network.table


def test_a_network_that_becomes_public_keeps_two_of_a_group_at_each_cpl() -> None:
    network, crowd = network_with(PRIVATE), peers_of_cpl(1, 3)
    for number, each in enumerate(crowd):
        add(network, each, [ip(f"8.8.{number}.1")])
    assert 3 == len(network.table)
    network.set_policy(PUBLIC, NOW)
    assert crowd[:2] == network.table.peers()


def test_of_a_reply_full_of_one_ip_group_three_are_kept_while_the_network_is_public() -> None:
    crowd = [PeerEntry(peer(number), (ip(f"8.8.{number}.1"),)) for number in range(1, 21)]
    network = network_with(PRIVATE)
    assert 20 == len(network.learn(crowd, None, NOW))
    network.set_policy(PUBLIC, NOW)
    assert [entry.peer_id for entry in crowd[:3]] == network.learn(crowd, None, NOW)
    network.set_policy(PRIVATE, NOW)
    assert 20 == len(network.learn(crowd, None, NOW))


def test_a_network_that_becomes_private_takes_everybody_again() -> None:
    network = network_with(PUBLIC)
    crowd = [each for wanted in range(4) for each in peers_of_cpl(wanted, 1)]
    for number, each in enumerate(crowd):
        add(network, each, [ip(f"8.8.{number}.1")])
    assert 3 == len(network.table)
    network.set_policy(PRIVATE, NOW)
    add(network, crowd[3], [ip("8.8.4.1")])
    add(network, peers_of_cpl(4, 1)[0], [LAN])
    assert 5 == len(network.table)


def test_of_a_peer_that_identifies_itself_only_addresses_that_the_policy_keeps_are_kept() -> None:
    network = network_with(PUBLIC)
    network.identified(peer(1), [KAD_PROTOCOL], [LAN, WAN], NOW)
    assert (WAN,) == network.book.addrs(peer(1), NOW)


def test_of_an_endless_reply_only_the_first_twice_k_peers_are_taken() -> None:
    network = network_with(PRIVATE)
    closer = [PeerEntry(peer(number), (LAN,)) for number in range(1, 200)]
    assert [entry.peer_id for entry in closer[: 2 * K]] == network.learn(closer, None, NOW)
    assert () == network.book.addrs(peer(2 * K + 1), NOW)
