"""IP addresses as bytes: how far they reach, and which network they are in.

An address is its 4 or 16 bytes. Reach is decided as go does (``manet.IsPublicAddr``); groups are
those of go-libp2p-kbucket's diversity filter, except that IPv6 needs no table of ASNs.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from typing import Final

IPV4_GROUP_BITS: Final = 16
"""IPv4 addresses with the same first so many bits are one group (GO)."""

IPV4_LEGACY_GROUP_BITS: Final = 8
"""In ``IPV4_LEGACY_NETWORKS`` addresses with the same first so many bits are one group (GO)."""

IPV4_LEGACY_NETWORKS: Final = (12, 17, 19, 38, 48, 53, 56, 73)
"""First bytes of IPv4 networks that belong to one owner as a whole (GO)."""

IPV6_GROUP_BITS: Final = 32
"""IPv6 addresses with the same first so many bits are one group: a registry allots them together.
(GO groups by AS number, from a table of 3 MB that ages.)"""

ADDRESS_CACHE_ENTRIES: Final = 8_192
"""Addresses whose classification is remembered; the least recently met is forgotten."""

IPV4_BYTES: Final = 4

NAT64: Final = bytes.fromhex("0064ff9b0000000000000000")
"""64:ff9b::/96 (RFC 6052): the last four bytes are an IPv4 address."""

_IPV4_MAPPED: Final = bytes(10) + b"\xff\xff"
"""::ffff:0:0/96 (RFC 4291): the last four bytes are an IPv4 address."""
_6TO4: Final = bytes.fromhex("2002")
"""2002::/16 (RFC 3056): the next four bytes are an IPv4 address."""

_IPV4_BITS: Final = 32
_IPV6_BITS: Final = 128


# --- reach ----------------------------------------------------------------------------------------


class Reach(Enum):
    """How far an address reaches."""

    PUBLIC = "public"
    """A public IP or a name of the public DNS."""
    PRIVATE = "private"
    """RFC 1918, carrier NAT (RFC 6598), or IPv6 unique local."""
    LINK_LOCAL = "link_local"
    LOOPBACK = "loopback"
    """127/8, ::1, or a localhost name."""
    UNROUTABLE = "unroutable"
    """Unspecified, documentation, benchmark, multicast, reserved, or a name that never resolves."""
    NONE = "none"
    """It begins with neither an IP nor a name: for example a relay by peer id, or an onion."""


_V4: Final = tuple(
    (int(network.network_address), int(network.netmask), reach)
    for reach, texts in (
        (Reach.LOOPBACK, ("127.0.0.0/8",)),
        (Reach.PRIVATE, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")),
        (Reach.LINK_LOCAL, ("169.254.0.0/16",)),
        (
            Reach.UNROUTABLE,
            (
                "0.0.0.0/8",
                "192.0.0.0/26",
                "192.0.2.0/24",
                "192.88.99.0/24",
                "198.18.0.0/15",
                "198.51.100.0/24",
                "203.0.113.0/24",
                "224.0.0.0/4",
                "240.0.0.0/4",
            ),
        ),
    )
    for text in texts
    for network in (IPv4Network(text),)
)
"""Special IPv4 networks (IANA registry, as far as go filters them); all others are public."""

_V6: Final = tuple(
    (int(network.network_address), int(network.netmask), reach)
    for text, reach in (
        ("::1/128", Reach.LOOPBACK),
        ("fc00::/7", Reach.PRIVATE),
        ("fe80::/10", Reach.LINK_LOCAL),
        ("2001:db8::/32", Reach.UNROUTABLE),
        ("2000::/3", Reach.PUBLIC),
        ("64:ff9b::/96", Reach.PUBLIC),  # NAT64 of public IPv4 addresses (RFC 6052)
        ("64:ff9b:1::/48", Reach.PUBLIC),  # NAT64, local use (RFC 8215): counted public by go
    )
    for network in (IPv6Network(text),)
)
"""IPv6 networks, of which the first match decides; all other addresses are unroutable."""


@lru_cache(maxsize=ADDRESS_CACHE_ENTRIES)
def reach_of_ip(packed: bytes) -> Reach:
    """How far the IP address ``packed`` reaches. One that maps an IPv4 address reaches nowhere."""
    number = int.from_bytes(packed, "big")
    if len(packed) == IPV4_BYTES:
        return next((reach for net, mask, reach in _V4 if number & mask == net), Reach.PUBLIC)
    return next((reach for net, mask, reach in _V6 if number & mask == net), Reach.UNROUTABLE)


# --- networks -------------------------------------------------------------------------------------


def unmapped(packed: bytes) -> bytes:
    """The IPv4 address that an IPv4-mapped IPv6 address (RFC 4291) means; any other unchanged."""
    return packed.removeprefix(_IPV4_MAPPED)


def ip_prefix(packed: bytes, ipv4_bytes: int, ipv6_bytes: int) -> bytes:
    """The first bytes of an IP address, as many as its version's network has."""
    return packed[: ipv4_bytes if len(packed) == IPV4_BYTES else ipv6_bytes]


def group_of_ip(packed: bytes) -> str:
    """The group of an IP address for the diversity filter, as a prefix in CIDR form.

    The group of an IPv4 address is its /16 (/8 in the networks of ``IPV4_LEGACY_NETWORKS``), of an
    IPv6 address its /32; an IPv6 address that embeds an IPv4 one (NAT64, 6to4) is of that one's
    group.
    """
    if len(packed) == IPV4_BYTES:
        return _ipv4_group(packed)
    if packed.startswith(NAT64):
        return _ipv4_group(packed[len(NAT64) :])
    if packed.startswith(_6TO4):
        return _ipv4_group(packed[2:6])
    kept = int.from_bytes(packed, "big") >> (_IPV6_BITS - IPV6_GROUP_BITS)
    return f"{kept >> 16:x}:{kept & 0xFFFF:x}::/{IPV6_GROUP_BITS}"


def _ipv4_group(packed: bytes) -> str:
    legacy = packed[0] in IPV4_LEGACY_NETWORKS
    bits = IPV4_LEGACY_GROUP_BITS if legacy else IPV4_GROUP_BITS
    kept = int.from_bytes(packed, "big") >> (_IPV4_BITS - bits) << (_IPV4_BITS - bits)
    return f"{kept >> 24}.{kept >> 16 & 0xFF}.0.0/{bits}"
