"""Addresses as sockets name them."""

from __future__ import annotations

import pytest
from multiaddr import Multiaddr

from codio_dht.formats import multiaddr
from codio_dht.formats.multiaddr import P_IP4, P_IP6, P_IP6ZONE, P_TCP, join
from codio_dht.net.targets import Carrier, of_socket, of_udp_socket, parse


@pytest.mark.parametrize(
    ("name", "text", "host", "local"),
    [
        (("1.2.3.4", 5), "/ip4/1.2.3.4/tcp/5", "1.2.3.4", False),
        (("10.0.0.1", 5), "/ip4/10.0.0.1/tcp/5", "10.0.0.1", True),
        (("::ffff:1.2.3.4", 5, 0, 0), "/ip4/1.2.3.4/tcp/5", "1.2.3.4", False),
        (("::1", 65535, 0, 0), "/ip6/::1/tcp/65535", "::1", True),
        (("fe80::1%eth0", 5, 0, 3), "/ip6/fe80::1/tcp/5", "fe80::1", True),
        (("2606:4700::1111", 5, 0, 0), "/ip6/2606:4700::1111/tcp/5", "2606:4700::1111", False),
    ],
)
def test_the_name_of_a_socket_is_the_address_of_its_peer(
    name: tuple[str, int], text: str, host: str, local: bool
) -> None:
    target = of_socket(name)
    assert (text, host, local) == (str(target), target.host, target.ip.local)
    assert target == parse(target.addr)
    udp = of_udp_socket(name)
    assert udp == parse(udp.addr)


def test_the_port_that_somebody_comes_from_pushes_no_address_out_of_the_cache() -> None:
    of_socket(("198.51.100.7", 1))
    before = multiaddr._facts.cache_info().currsize
    for port in range(2, 50):
        of_socket(("198.51.100.7", port))
    assert before == multiaddr._facts.cache_info().currsize


ZONED = "/ip6zone/lo/ip6/fe80::1/tcp/4001"


def test_a_link_local_address_with_its_interface_can_be_dialled() -> None:
    for text, carrier in (
        (ZONED, Carrier.TCP),
        ("/ip6zone/lo/ip6/fe80::1/udp/4001/quic-v1", Carrier.QUIC),
        ("/ip6zone/1/ip6/fe80::1/tcp/4001", Carrier.TCP),
    ):
        target = parse(Multiaddr(text).to_bytes())
        assert target is not None
        assert (carrier, text, True) == (target.carrier, str(target), target.ip.local)
        assert (
            "fe80::1",
            4001,
            0,
            1,
        ) == target.socket_name()


def test_an_interface_that_the_machine_does_not_have_is_no_name_to_resolve() -> None:
    target = parse(Multiaddr("/ip6zone/nosuch0/ip6/fe80::1/tcp/4001").to_bytes())
    assert target is not None
    with pytest.raises(OSError, match="no interface"):
        target.socket_name()


@pytest.mark.parametrize("zone", [b"a" * 16, b"lo\x00", b"l\xc3\xb6", b"l o\n"])
def test_what_is_no_name_of_an_interface_is_no_address_to_dial(zone: bytes) -> None:
    addr = join(((P_IP6ZONE, zone), (P_IP6, bytes(16)), (P_TCP, b"\x0f\xa1")))
    assert parse(addr) is None


def test_a_zone_belongs_to_an_ipv6_address_only() -> None:
    addr = join(((P_IP6ZONE, b"lo"), (P_IP4, bytes(4)), (P_TCP, b"\x0f\xa1")))
    assert parse(addr) is None


def test_other_addresses_are_names_of_sockets_without_a_zone() -> None:
    for text, name in (
        ("/ip4/192.0.2.1/tcp/1", ("192.0.2.1", 1)),
        ("/ip6/2001:db8::1/tcp/1", ("2001:db8::1", 1, 0, 0)),
    ):
        target = parse(Multiaddr(text).to_bytes())
        assert target is not None
        assert name == target.socket_name()
