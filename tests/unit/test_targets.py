"""Addresses as sockets name them."""

from __future__ import annotations

import pytest

from codio_dht.formats import multiaddr
from codio_dht.net.targets import of_socket, of_udp_socket, parse


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
