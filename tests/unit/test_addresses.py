"""Binary addresses: taken apart as the multiaddr library does, judged as go does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiaddr import Multiaddr
from multiaddr.protocols import PROTOCOLS

from codio_dht.core.addresses import KEEP_ALL, PUBLIC_ONLY, node_is_public
from codio_dht.core.peer import PeerId
from codio_dht.errors import AddressError
from codio_dht.formats import multiaddr
from codio_dht.formats.ip import Reach
from codio_dht.formats.multiaddr import (
    MAX_ADDR_BYTES,
    MAX_ADDR_COMPONENTS,
    is_dns,
    is_loopback,
    is_private,
    is_public,
    is_readable,
    is_relay,
    join,
    reach,
    split,
    split_peer_id,
    strip_peer_id,
)
from codio_dht.formats.varint import encode_varint, length_prefixed

PEER = PeerId.from_base58("12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA")
OTHER = PeerId.from_base58("QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N")
CERTHASH = "uEiDDq4_xNyDorZBH3TlGazyJdOWSwvo4PUo5YHFMrvDE8g"
ONION = "vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd"


def binary(text: str) -> bytes:
    return bytes(Multiaddr(text).to_bytes())


READABLE = [
    "/ip4/1.2.3.4/tcp/4001",
    "/ip4/1.2.3.4/udp/4001/quic",
    "/ip4/1.2.3.4/udp/4001/quic-v1",
    f"/ip4/1.2.3.4/udp/4001/quic-v1/webtransport/certhash/{CERTHASH}/certhash/{CERTHASH}",
    f"/ip4/1.2.3.4/udp/4001/webrtc-direct/certhash/{CERTHASH}",
    "/ip6/2606:4700::1111/tcp/4001",
    "/dns/example.org/tcp/443/wss",
    "/dns4/example.org/tcp/443/tls/sni/example.org/ws",
    "/dns6/example.org/tcp/443/tls/http",
    "/dnsaddr/bootstrap.libp2p.io",
    f"/ip4/1.2.3.4/tcp/4001/p2p/{OTHER}/p2p-circuit",
    f"/p2p/{OTHER}/p2p-circuit",
    f"/onion3/{ONION}:1234",
    "/unix/tmp/p2p.sock",
    "/memory/1234",
    "/ip4/1.2.3.4/tcp/4001/noise",
    "/ip4/10.1.0.0/ipcidr/16",
    "/ip4/1.2.3.4/sctp/1234",
    f"/ip4/1.2.3.4/tcp/1/ws/p2p/{PEER}",
]


@pytest.mark.parametrize("text", READABLE)
def test_an_address_is_taken_apart_as_the_multiaddr_library_does(text: str) -> None:
    addr = binary(text)

    parts = split(addr)

    expected = [protocol.name for protocol in Multiaddr(text).protocols()]
    names = {protocol.code: protocol.name for protocol in PROTOCOLS}
    assert expected == [names[code] for code, _ in parts]
    assert is_readable(addr)


def test_the_values_of_an_address_come_without_their_lengths() -> None:
    addr = binary(f"/ip4/1.2.3.4/tcp/4001/p2p/{PEER}")

    assert ((4, b"\x01\x02\x03\x04"), (6, b"\x0f\xa1"), (421, PEER.to_bytes())) == split(addr)


def test_every_protocol_that_the_multiaddr_library_knows_is_known_with_its_length() -> None:
    known = multiaddr._VALUE_BYTES
    for protocol in PROTOCOLS:
        if protocol.name == "ip6zone":
            continue  # the library forgets that its value has a length
        bits = 0 if protocol.codec is None else protocol.size
        expected = -1 if bits < 0 else bits // 8
        assert (protocol.name, expected) == (protocol.name, known.get(protocol.code))


@pytest.mark.parametrize(
    ("why", "addr"),
    [
        ("empty", b""),
        ("too long", binary("/dns/a.b") * (MAX_ADDR_BYTES // 4)),
        ("unknown protocol", b"\xff\x7f"),
        ("cut off in a fixed value", binary("/ip4/1.2.3.4")[:-1]),
        ("cut off in a length", b"\x35"),
        ("cut off in a prefixed value", binary("/dns/example.org")[:-1]),
        ("cut off in a code", b"\x84"),
        ("empty name", b"\x35\x00"),
        ("name with a slash", b"\x35\x03a/b"),
        ("code longer than needed", b"\x84\x00\x01\x02\x03\x04"),
        ("code of too many bytes", b"\xff" * 9 + b"\x01"),
        ("peer id that is no multihash", b"\xa5\x03\x02\x12\x20"),
        ("peer id of another hash", b"\xa5\x03\x03\x13\x01a"),
        ("short sha-256 peer id", b"\xa5\x03\x03\x12\x01a"),
        ("certhash that is no multihash", b"\xd2\x03\x02\x12\x20"),
        ("something behind a path", b"\x90\x03\x02/a\x06\x00\x01"),
    ],
)
def test_an_unreadable_address_is_an_address_error(why: str, addr: bytes) -> None:
    with pytest.raises(AddressError):
        split(addr)
    assert not is_readable(addr)
    assert reach(addr) is None
    assert strip_peer_id(addr, PEER.to_bytes()) is None


@given(st.binary(max_size=80))
def test_any_bytes_are_an_address_or_an_address_error(data: bytes) -> None:
    try:
        parts = split(data)
    except AddressError:
        assert not is_readable(data)
    else:
        assert is_readable(data)
        assert sum(len(value) for _, value in parts) < len(data)


# --- the peer id at the end -----------------------------------------------------------------------


@pytest.mark.conformance("c11")
@pytest.mark.parametrize(
    "base", ["/ip4/1.2.3.4/tcp/4001", f"/ip4/1.2.3.4/tcp/4001/p2p/{OTHER}/p2p-circuit"]
)
def test_a_peers_own_id_at_the_end_is_stripped_and_another_is_refused(base: str) -> None:
    assert binary(base) == strip_peer_id(binary(f"{base}/p2p/{PEER}"), PEER.to_bytes())
    assert binary(base) == strip_peer_id(binary(base), PEER.to_bytes())
    assert strip_peer_id(binary(f"{base}/p2p/{OTHER}"), PEER.to_bytes()) is None


def test_nothing_but_a_peer_id_is_no_address() -> None:
    assert strip_peer_id(binary(f"/p2p/{PEER}"), PEER.to_bytes()) is None


def test_bytes_that_look_like_a_peer_id_inside_a_value_are_left_alone() -> None:
    suffix = binary(f"/p2p/{PEER}")
    addr = b"\xbf\x03" + bytes([len(suffix) + 1]) + b"x" + suffix  # garlic32

    assert addr == strip_peer_id(addr, PEER.to_bytes())


# --- reach ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (Reach.PUBLIC, "/ip4/1.2.3.4/tcp/1"),
        (Reach.PUBLIC, "/ip4/172.32.0.1/tcp/1"),
        (Reach.PUBLIC, "/ip4/192.0.0.64/tcp/1"),
        (Reach.PUBLIC, "/ip6/2606:4700::1111/tcp/1"),
        (Reach.PUBLIC, "/ip6/64:ff9b::102:304/tcp/1"),
        (Reach.PUBLIC, "/ip6/64:ff9b:1::1/tcp/1"),
        (Reach.PUBLIC, "/dns4/example.org/tcp/1"),
        (Reach.PUBLIC, "/dnsaddr/bootstrap.libp2p.io"),
        (Reach.PUBLIC, f"/ip4/1.2.3.4/tcp/1/p2p/{OTHER}/p2p-circuit"),
        (Reach.PRIVATE, "/ip4/10.0.0.1/tcp/1"),
        (Reach.PRIVATE, "/ip4/172.31.255.255/tcp/1"),
        (Reach.PRIVATE, "/ip4/192.168.1.1/tcp/1"),
        (Reach.PRIVATE, "/ip4/100.64.0.1/tcp/1"),
        (Reach.PRIVATE, "/ip6/fd00::1/tcp/1"),
        (Reach.PRIVATE, "/dns/printer.local/tcp/1"),
        (Reach.PRIVATE, "/dns/seed.test/tcp/1"),
        (Reach.LOOPBACK, "/ip4/127.8.8.8/tcp/1"),
        (Reach.LOOPBACK, "/ip6/::1/tcp/1"),
        (Reach.LOOPBACK, "/dns/localhost/tcp/1"),
        (Reach.LOOPBACK, "/dns/a.LOCALHOST./tcp/1"),
        (Reach.LINK_LOCAL, "/ip4/169.254.1.1/tcp/1"),
        (Reach.LINK_LOCAL, "/ip6/fe80::1/tcp/1"),
        (Reach.UNROUTABLE, "/ip4/0.0.0.0/tcp/1"),
        (Reach.UNROUTABLE, "/ip4/192.0.2.1/tcp/1"),
        (Reach.UNROUTABLE, "/ip4/198.51.100.7/tcp/1"),
        (Reach.UNROUTABLE, "/ip4/203.0.113.9/tcp/1"),
        (Reach.UNROUTABLE, "/ip4/198.19.0.1/tcp/1"),
        (Reach.UNROUTABLE, "/ip4/224.0.0.1/tcp/1"),
        (Reach.UNROUTABLE, "/ip4/255.255.255.255/tcp/1"),
        (Reach.UNROUTABLE, "/ip6/::/tcp/1"),
        (Reach.UNROUTABLE, "/ip6/ff02::1/tcp/1"),
        (Reach.UNROUTABLE, "/ip6/2001:db8::1/tcp/1"),
        (Reach.UNROUTABLE, "/ip6/::ffff:102:304/tcp/1"),
        (Reach.UNROUTABLE, "/dns/nobody.invalid/tcp/1"),
        (Reach.NONE, f"/p2p/{OTHER}/p2p-circuit"),
        (Reach.NONE, "/unix/tmp/p2p.sock"),
        (Reach.NONE, f"/onion3/{ONION}:1234"),
    ],
)
def test_an_address_reaches_as_far_as_its_first_component(expected: Reach, text: str) -> None:
    addr = binary(text)

    assert expected is reach(addr)
    assert is_public(addr) is (expected is Reach.PUBLIC)
    assert is_private(addr) is (expected in (Reach.PRIVATE, Reach.LINK_LOCAL, Reach.LOOPBACK))
    assert is_loopback(addr) is (expected is Reach.LOOPBACK)
    assert is_relay(addr) is ("p2p-circuit" in text)
    assert is_dns(addr) is text.startswith("/dns")


def test_the_zone_of_an_ipv6_address_is_looked_past() -> None:
    zoned = b"\x2a\x04eth0" + binary("/ip6/fe80::1/tcp/1")

    assert ((42, b"eth0"), (41, bytes.fromhex("fe80" + 13 * "00" + "01")), (6, b"\0\1")) == split(
        zoned
    )
    assert reach(zoned) is Reach.LINK_LOCAL


@pytest.mark.conformance("c17")
def test_the_public_network_keeps_public_addresses_and_names_in_their_order() -> None:
    addrs = [
        binary(text)
        for text in (
            "/ip4/1.2.3.4/tcp/1",
            "/ip4/192.168.1.1/tcp/1",
            "/dns4/example.org/tcp/1",
            "/ip4/127.0.0.1/tcp/1",
            "/ip6/2606:4700::1111/udp/1/quic-v1",
            "/ip6/fe80::1/tcp/1",
            f"/p2p/{OTHER}/p2p-circuit",
        )
    ]

    assert (addrs[0], addrs[2], addrs[4]) == PUBLIC_ONLY([*addrs, b"garbage"])
    assert tuple(addrs) == KEEP_ALL([*addrs, b"garbage"])


# --- what is readable can be shown ----------------------------------------------------------------

_ODD_VALUES = st.sampled_from(
    [b"a_b", b"\xff", b"a..b", b"-", b" ", b"\x1b[31m", b"x" * 70, b"*.a"]
)


@given(
    st.sampled_from(PROTOCOLS),
    st.one_of(_ODD_VALUES, st.binary(min_size=1, max_size=40), st.text(max_size=9).map(str.encode)),
)
def test_whatever_is_readable_can_be_printed_and_read_again(protocol: Any, value: bytes) -> None:
    size = protocol.size
    if size == 0:
        value = b""
    elif size > 0:
        value = (value * size)[: size // 8] if value else bytes(size // 8)
    else:
        value = length_prefixed(value)
    addr = encode_varint(protocol.code) + value
    if is_readable(addr):
        text = str(Multiaddr(addr))
        if protocol.name != "unix":  # whose path is normalised
            assert Multiaddr(text).to_bytes() == addr


@pytest.mark.parametrize(("code", "host_bytes"), [(444, 10), (445, 35)])
def test_an_onion_address_has_a_port(code: int, host_bytes: int) -> None:
    onion = encode_varint(code) + bytes(host_bytes)
    assert is_readable(onion + b"\0\1")
    assert not is_readable(onion + b"\0\0")


@pytest.mark.parametrize(
    "name",
    [
        "app_node_1",
        "_dnsaddr.example.com",
        "*.libp2p.direct",
        "example.com.",
        "b\u00fccher.example",
    ],
)
def test_names_that_systems_resolve_are_names(name: str) -> None:
    addr = Multiaddr(f"/dns4/{name}/tcp/1")
    assert is_readable(addr.to_bytes())
    assert str(addr) == f"/dns4/{name}/tcp/1"


@pytest.mark.parametrize(
    "name", [b"\xff\xfe", b"a b", b"a..b", b"\x1b[31mred", b".", b"\x00", b"a/b"]
)
def test_names_that_nobody_can_resolve_or_show_make_an_address_unreadable(name: bytes) -> None:
    assert not is_readable(b"\x36" + length_prefixed(name) + b"\x06\x00\x01")


# --- is this node public? -------------------------------------------------------------------------

LOOPBACK = [binary("/ip4/127.0.0.1/tcp/4001"), binary("/ip4/192.168.1.7/tcp/4001")]


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (True, "/ip4/1.2.3.4/tcp/4001"),
        (True, "/ip6/2606:4700::1111/udp/4001/quic-v1"),
        (True, f"/dnsaddr/bootstrap.libp2p.io/p2p/{PEER}"),
        (False, "/dns4/seed/tcp/4001"),
        (False, "/dnsaddr/seed.test"),
        (False, "/ip4/100.64.0.1/tcp/4001"),
        (False, f"/ip4/10.0.0.1/tcp/4001/p2p/{PEER}"),
    ],
)
def test_a_node_is_public_by_one_public_address_or_dnsaddr_anywhere(
    place: int, expected: bool, text: str
) -> None:
    lists = [list(LOOPBACK), [], []]
    lists[place].append(binary(text))

    assert expected is node_is_public(*lists)


def test_a_node_with_nothing_but_loopback_and_lan_addresses_is_not_public() -> None:
    assert not node_is_public(LOOPBACK, [], LOOPBACK)


def test_an_address_has_only_so_many_components() -> None:
    ws = binary("/ws")
    assert is_readable(ws * MAX_ADDR_COMPONENTS)
    assert not is_readable(ws * (MAX_ADDR_COMPONENTS + 1))


@given(st.sampled_from(READABLE))
def test_an_address_is_put_together_again_as_it_was(text: str) -> None:
    addr = binary(text)
    assert addr == join(split(addr))


def test_the_peer_id_at_the_end_of_an_address_is_told_from_a_relays() -> None:
    relay = binary(f"/ip4/1.2.3.4/tcp/1/p2p/{OTHER}/p2p-circuit")
    own = binary(f"/p2p/{PEER}")
    assert (relay, None) == split_peer_id(relay)
    assert (relay, PEER.to_bytes()) == split_peer_id(relay + own)
    assert (b"", PEER.to_bytes()) == split_peer_id(own)
    assert (b"\xff", None) == split_peer_id(b"\xff")
