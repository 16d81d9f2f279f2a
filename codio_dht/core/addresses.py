"""Binary multiaddrs: taken apart, judged, filtered. Everything here is about ``bytes``.

Decides what a readable address is, how far it reaches, and which addresses a network keeps. Never
resolves a name and never builds a ``Multiaddr``: this is on the path of every request.

Reach is decided as go does (``manet.IsPublicAddr``): by the first component alone. A relay address
therefore reaches as far as its relay, and one that names its relay only by peer id is not public.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from typing import Final, NamedTuple, Protocol

from codio_dht.core.multihash import is_multihash
from codio_dht.core.peer import PeerId
from codio_dht.errors import AddressError
from codio_dht.params import ADDRESS_CACHE_ENTRIES, MAX_ADDR_BYTES, MAX_ADDR_COMPONENTS

# --- the protocol table (multiformats/multicodec table.csv, tag "multiaddr") ----------------------

P_IP4: Final = 4
P_TCP: Final = 6
P_IP6: Final = 41
P_IP6ZONE: Final = 42
P_DNS: Final = 53
P_DNS4: Final = 54
P_DNS6: Final = 55
P_DNSADDR: Final = 56
P_UDP: Final = 273
P_CIRCUIT: Final = 290
P_UNIX: Final = 400
P_P2P: Final = 421
P_SNI: Final = 449
P_QUIC_V1: Final = 461
P_CERTHASH: Final = 466

_PREFIXED: Final = -1
"""The value is preceded by its length."""

_VALUE_BYTES: Final[dict[int, int]] = {
    P_IP4: 4,
    P_TCP: 2,
    33: 2,  # dccp
    P_IP6: 16,
    P_IP6ZONE: _PREFIXED,
    43: 1,  # ipcidr
    P_DNS: _PREFIXED,
    P_DNS4: _PREFIXED,
    P_DNS6: _PREFIXED,
    P_DNSADDR: _PREFIXED,
    132: 2,  # sctp
    P_UDP: 2,
    275: 0,  # p2p-webrtc-star
    276: 0,  # p2p-webrtc-direct
    280: 0,  # webrtc-direct
    281: 0,  # webrtc
    P_CIRCUIT: 0,
    301: 0,  # udt
    302: 0,  # utp
    P_UNIX: _PREFIXED,
    P_P2P: _PREFIXED,
    443: 0,  # https
    444: 12,  # onion
    445: 37,  # onion3
    446: _PREFIXED,  # garlic64
    447: _PREFIXED,  # garlic32
    448: 0,  # tls
    P_SNI: _PREFIXED,
    454: 0,  # noise
    460: 0,  # quic
    P_QUIC_V1: 0,
    465: 0,  # webtransport
    P_CERTHASH: _PREFIXED,
    477: 0,  # ws
    478: 0,  # wss
    479: 0,  # p2p-websocket-star
    480: 0,  # http
    481: _PREFIXED,  # http-path
    777: 8,  # memory
    7367777: 0,  # plaintextv2
}

_NAMES: Final = frozenset({P_DNS, P_DNS4, P_DNS6, P_DNSADDR})
_NO_SLASH: Final = _NAMES | {P_SNI, P_IP6ZONE}
_SHA2_256: Final = b"\x12\x20"
_SHA2_256_BYTES: Final = 34
_IDENTITY: Final = 0


def split(addr: bytes) -> tuple[tuple[int, bytes], ...]:
    """The components of ``addr``: protocol code and value (empty where it has none).

    Raises:
        AddressError: empty, longer than ``MAX_ADDR_BYTES``, of more than ``MAX_ADDR_COMPONENTS``, a
            protocol not in the table, a value that is cut off or not one of its protocol, or
            something behind a path.
    """
    return tuple((code, addr[start:end]) for code, _, start, end in _components(addr))


def _components(addr: bytes) -> list[tuple[int, int, int, int]]:
    """Per component: code, where it begins, where its value begins and ends."""
    size = len(addr)
    if not 0 < size <= MAX_ADDR_BYTES:
        raise AddressError(f"an address of {size} bytes")
    found: list[tuple[int, int, int, int]] = []
    offset = 0
    while offset < size:
        if len(found) >= MAX_ADDR_COMPONENTS:
            raise AddressError(f"an address of more than {MAX_ADDR_COMPONENTS} components")
        begin = offset
        code, offset = _varint(addr, offset)
        length = _VALUE_BYTES.get(code)
        if length is None:
            raise AddressError(f"unknown address protocol {code}")
        if length == _PREFIXED:
            length, offset = _varint(addr, offset)
            if length == 0:
                raise AddressError(f"empty value of address protocol {code}")
        end = offset + length
        if end > size:
            raise AddressError(f"address cut off in protocol {code}")
        if length:
            _check_value(code, addr[offset:end])
        found.append((code, begin, offset, end))
        offset = end
        if code == P_UNIX and offset < size:
            raise AddressError("something behind a path")
    return found


def _varint(addr: bytes, offset: int) -> tuple[int, int]:
    """The minimal unsigned varint of at most 32 bits at ``offset``, and the offset behind it."""
    value = shift = 0
    for index in range(offset, min(len(addr), offset + 5)):
        byte = addr[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and shift:
                break
            return value, index + 1
        shift += 7
    raise AddressError("not a varint")


def _check_value(code: int, value: bytes) -> None:
    """As strict as go, which drops an address whose value is not one of its protocol."""
    if code in _NO_SLASH:
        good = b"/" not in value
    elif code == P_P2P:
        good = (value[0] == _IDENTITY and is_multihash(value)) or (
            value.startswith(_SHA2_256) and len(value) == _SHA2_256_BYTES
        )
    elif code == P_CERTHASH:
        good = is_multihash(value)
    else:
        good = True
    if not good:
        raise AddressError(f"not a value of address protocol {code}: {value[:64]!r}")


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
    """It begins with neither an IP nor a name: a relay by peer id, a path, an onion, ..."""


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
"""First match decides; all other IPv6 addresses are unroutable."""

_LOCALHOST_NAMES: Final = (".localhost",)
_PRIVATE_NAMES: Final = (".home.arpa", ".local", ".test")
_DEAD_NAMES: Final = (".in-addr.arpa", ".ip6.arpa", ".invalid")
"""Special-use domain names (IANA registry; RFC 6761, RFC 8375)."""


class _Facts(NamedTuple):
    reach: Reach
    relay: bool
    dns: bool
    dnsaddr: bool
    tail: int
    """Where a trailing ``/p2p`` begins; the address's length if there is none."""
    tail_value: int


@lru_cache(maxsize=ADDRESS_CACHE_ENTRIES)
def _facts(addr: bytes) -> _Facts | None:
    """What there is to know of ``addr``; None if it is not readable. The same few thousand
    addresses come by all the time, hence the bounded cache (of a pure function)."""
    try:
        parts = _components(addr)
    except AddressError:
        return None
    head = next((part for part in parts if part[0] != P_IP6ZONE), parts[0])
    code, begin, start, end = parts[-1]
    tail, tail_value = (begin, start) if code == P_P2P else (end, end)
    return _Facts(
        reach=_reach(head[0], addr[head[2] : head[3]]),
        relay=any(part[0] == P_CIRCUIT for part in parts),
        dns=head[0] in _NAMES,
        dnsaddr=head[0] == P_DNSADDR,
        tail=tail,
        tail_value=tail_value,
    )


def _reach(code: int, value: bytes) -> Reach:
    if code == P_IP4:
        number = int.from_bytes(value, "big")
        return next((reach for net, mask, reach in _V4 if number & mask == net), Reach.PUBLIC)
    if code == P_IP6:
        number = int.from_bytes(value, "big")
        return next((reach for net, mask, reach in _V6 if number & mask == net), Reach.UNROUTABLE)
    if code in _NAMES:
        name = "." + value.decode("latin-1").lower().rstrip(".")
        if name.endswith(_LOCALHOST_NAMES):
            return Reach.LOOPBACK
        if name.endswith(_PRIVATE_NAMES):
            return Reach.PRIVATE
        return Reach.UNROUTABLE if name.endswith(_DEAD_NAMES) else Reach.PUBLIC
    return Reach.NONE


def reach(addr: bytes) -> Reach | None:
    """How far ``addr`` reaches; None if it is not readable."""
    facts = _facts(addr)
    return None if facts is None else facts.reach


def is_readable(addr: bytes) -> bool:
    """Whether ``addr`` is a multiaddr of known protocols (what ``split`` accepts)."""
    return _facts(addr) is not None


def is_public(addr: bytes) -> bool:
    """Whether ``addr`` begins with a public IP or a name of the public DNS."""
    facts = _facts(addr)
    return facts is not None and facts.reach is Reach.PUBLIC


def is_private(addr: bytes) -> bool:
    """Whether ``addr`` reaches only nearby machines: private, carrier NAT, link-local, loopback."""
    return reach(addr) in (Reach.PRIVATE, Reach.LINK_LOCAL, Reach.LOOPBACK)


def is_loopback(addr: bytes) -> bool:
    """Whether ``addr`` reaches only this machine."""
    return reach(addr) is Reach.LOOPBACK


def is_relay(addr: bytes) -> bool:
    """Whether ``addr`` goes through a relay (``/p2p-circuit``)."""
    facts = _facts(addr)
    return facts is not None and facts.relay


def is_dns(addr: bytes) -> bool:
    """Whether ``addr`` begins with a name that has to be resolved."""
    facts = _facts(addr)
    return facts is not None and facts.dns


def strip_peer_id(addr: bytes, peer_id: PeerId) -> bytes | None:
    """``addr`` as an address of ``peer_id``, without a trailing ``/p2p/<peer_id>``.

    None if there is none to use: it ends in another peer's id, is nothing but the id, or is not
    readable.
    """
    facts = _facts(addr)
    if facts is None:
        return None
    if facts.tail == len(addr):
        return addr
    if facts.tail == 0 or addr[facts.tail_value :] != peer_id.to_bytes():
        return None
    return addr[: facts.tail]


# --- policy ---------------------------------------------------------------------------------------


class AddressFilter(Protocol):
    """Which of a peer's addresses a network keeps and tells, in their order."""

    def __call__(self, addrs: Iterable[bytes], /) -> tuple[bytes, ...]: ...


def _readable(addrs: Iterable[bytes], /) -> tuple[bytes, ...]:
    return tuple([addr for addr in addrs if is_readable(addr)])


def _public(addrs: Iterable[bytes], /) -> tuple[bytes, ...]:
    return tuple([addr for addr in addrs if is_public(addr)])


KEEP_ALL: Final[AddressFilter] = _readable
"""Every readable address: loopback and LAN networks."""

PUBLIC_ONLY: Final[AddressFilter] = _public
"""Public addresses and names only: the public network."""


def node_is_public(
    listen: Iterable[bytes], announce: Iterable[bytes], bootstrap: Iterable[bytes]
) -> bool:
    """Whether a node is part of the public network: it listens on, announces or bootstraps from a
    public IP address or a dnsaddr.

    ``listen`` has its wildcards expanded by the caller. A plain host name (``/dns4/seed/...``) says
    nothing about where it leads, and a special-use name (``.test``, ``.local``) is not public.
    """
    for addrs in (listen, announce, bootstrap):
        for addr in addrs:
            facts = _facts(addr)
            if facts and facts.reach is Reach.PUBLIC and (facts.dnsaddr or not facts.dns):
                return True
    return False
