"""What a host tells others of where it is."""

from __future__ import annotations

from multiaddr import Multiaddr

from codio_dht.net.own_addresses import told_addresses

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
