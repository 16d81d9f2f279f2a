"""What a host tells others of where it is."""

from __future__ import annotations

import pytest
from multiaddr import Multiaddr

from codio_dht.core.peer import PeerId
from codio_dht.net.limits import MAX_TOLD_ADDRS
from codio_dht.net.own_addresses import announce_fault, told_addresses

LISTENING = [Multiaddr("/ip4/0.0.0.0/tcp/4001"), Multiaddr("/ip4/10.0.0.1/udp/4001/quic-v1")]
SEEN = Multiaddr("/ip4/5.6.7.8/tcp/4001")


def interfaces(ip_version: int) -> list[str]:
    return ["10.0.0.1", "127.0.0.1"]


def told(**changes: object) -> list[str]:
    arguments: dict[str, object] = {"announce": (), "observed": (), **changes}
    return [str(a) for a in told_addresses(LISTENING, interfaces=interfaces, **arguments)]  # type: ignore[arg-type]


def test_a_wildcard_stands_for_every_address_of_the_machine() -> None:
    expected = [
        "/ip4/10.0.0.1/tcp/4001",
        "/ip4/127.0.0.1/tcp/4001",
        "/ip4/10.0.0.1/udp/4001/quic-v1",
    ]
    assert expected == told()


def test_where_peers_see_us_is_told_beside_what_is_listened_on_and_once() -> None:
    assert [*told(), str(SEEN)] == told(observed=[SEEN])
    assert told() == told(observed=[Multiaddr("/ip4/10.0.0.1/tcp/4001")])


def test_announced_addresses_are_told_and_nothing_else() -> None:
    announced = Multiaddr("/dns4/example.com/tcp/4001")
    assert [str(announced)] == told(announce=[announced], observed=[SEEN])


def test_no_address_is_told_with_our_id() -> None:
    name = "12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8"
    assert [str(SEEN)] == told(announce=[Multiaddr(f"{SEEN}/p2p/{name}")])


def test_what_is_announced_beside_is_told_whether_or_not_something_is_announced_instead() -> None:
    beside, instead = Multiaddr("/dns4/b.example/tcp/4001"), Multiaddr("/dns4/a.example/tcp/4001")
    assert [*told(), str(beside)] == told(append_announce=[beside])
    assert [str(instead), str(beside)] == told(announce=[instead], append_announce=[beside])


def test_of_too_many_addresses_those_that_reach_farthest_are_told() -> None:
    bridges = [Multiaddr(f"/ip4/172.17.{n // 250}.{n % 250}/tcp/4001") for n in range(300)]
    told = told_addresses([*bridges, SEEN], (), interfaces=interfaces)

    assert (SEEN, *bridges[: MAX_TOLD_ADDRS - 1]) == told


RELAY = "QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN"
SELF = "12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8"


@pytest.mark.parametrize(
    "way", [f"/ip4/5.6.7.8/tcp/4001/p2p/{RELAY}/p2p-circuit", f"/p2p/{RELAY}/p2p-circuit"]
)
def test_an_address_through_a_relay_is_told_whole_and_without_our_id(way: str) -> None:
    assert [way] == told(announce=[Multiaddr(way)])
    assert [way] == told(announce=[Multiaddr(f"{way}/p2p/{SELF}")])


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/5.6.7.8/tcp/4001",
        "/ip4/127.0.0.1/udp/4001/quic-v1",
        "/ip6/2606:4700::1/udp/4001/quic-v1/webtransport",
        "/ip6zone/eth0/ip6/fe80::1/tcp/4001",
        "/dns4/node.example.com/tcp/443/wss",
        "/dnsaddr/node.example.com",
        f"/ip4/5.6.7.8/tcp/4001/p2p/{SELF}",
        f"/ip4/5.6.7.8/tcp/4001/p2p/{RELAY}/p2p-circuit",
        f"/ip4/5.6.7.8/tcp/4001/p2p/{RELAY}/p2p-circuit/p2p/{SELF}",
        f"/p2p/{RELAY}/p2p-circuit",
        "/onion3/vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd:1234",
    ],
)
def test_what_others_can_dial_may_be_announced(text: str) -> None:
    assert announce_fault(Multiaddr(text), PeerId.from_string(SELF).to_bytes()) is None
    assert announce_fault(Multiaddr(text)) is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("/ip4/5.6.7.8", "has no transport"),
        ("/dns4/node.example.com", "has no transport"),
        ("/ip4/5.6.7.8/ws", "has no transport"),
        ("/ip4/5.6.7.8/udp/4001", "has nothing that is spoken over UDP"),
        ("/ip4/5.6.7.8/tcp/0", "has port 0"),
        ("/ip6/2606:4700::1/udp/0/quic-v1", "has port 0"),
        ("/ip4/0.0.0.0/tcp/4001", "every address of this machine"),
        ("/ip6/::/tcp/4001", "every address of this machine"),
        ("/ip4/224.0.0.1/tcp/4001", "multicast"),
        ("/unix/tmp/p2p.sock", "neither an IP address nor a name"),
        ("/memory/7", "neither an IP address nor a name"),
        ("/tcp/4001", "neither an IP address nor a name"),
        (f"/p2p/{SELF}", "is a peer id, and no address"),
        (f"/ip4/5.6.7.8/tcp/4001/p2p/{RELAY}", "ends in the id of another peer"),
        (
            f"/ip4/5.6.7.8/tcp/4001/p2p/{RELAY}/p2p-circuit/p2p/{RELAY}",
            "ends in the id of another peer",
        ),
        ("/ip4/5.6.7.8/tcp/4001/p2p-circuit", "without saying which"),
        ("/p2p-circuit", "without saying which"),
        (f"/ip4/5.6.7.8/p2p/{RELAY}/p2p-circuit", "has no transport"),
        (f"/ip4/0.0.0.0/tcp/4001/p2p/{RELAY}/p2p-circuit", "every address of this machine"),
        (f"/ip4/5.6.7.8/tcp/4001/p2p/{RELAY}/ws", "a peer id in its midst"),
    ],
)
def test_what_nobody_can_dial_is_refused_with_its_reason(text: str, fault: str) -> None:
    found = announce_fault(Multiaddr(text), PeerId.from_string(SELF).to_bytes())
    assert found is not None
    assert fault in found
