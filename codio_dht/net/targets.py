"""Addresses as sockets see them: what can be dialled, in which order, and which network it is in.

Decides what a binary multiaddr means to a transport. Never resolves a name and never opens a
socket.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from itertools import chain, zip_longest
from typing import Any, Final

from multiaddr import Multiaddr

from codio_dht.core.peer import PeerId
from codio_dht.errors import AddressError
from codio_dht.formats.ip import IPV4_BYTES, Reach, ip_prefix, reach_of_ip, unmapped
from codio_dht.formats.multiaddr import (
    P_IP4,
    P_IP6,
    P_IP6ZONE,
    P_QUIC_V1,
    P_TCP,
    P_UDP,
    ip_code,
    join,
    reach,
    split,
    strip_peer_id,
)

_TCP: Final = (P_TCP,)
_QUIC: Final = (P_UDP, P_QUIC_V1)
_LOCAL: Final = frozenset({Reach.LOOPBACK, Reach.PRIVATE, Reach.LINK_LOCAL})
_REACH_ORDER: Final = (Reach.PUBLIC, Reach.PRIVATE, Reach.LOOPBACK)
"""Dialled in this order; what is left comes last."""
QUIC_FIRST: Final = 4
"""QUIC addresses of a peer that are dialled before its TCP addresses: as many as an honest peer
has."""

_MAX_ZONE_CHARS: Final = 15
"""Longest name of a network interface (``IFNAMSIZ`` less its NUL)."""

SocketName = tuple[str, int] | tuple[str, int, int, int]
"""An IPv4 or IPv6 address as sockets have it."""

_IP6_IP_BYTES: Final = 7
_IP6_SUBNET_BYTES: Final = 6
_IP4_SUBNET_BYTES: Final = 3


class Carrier(Enum):
    """What carries a connection, best first: QUIC needs a round trip less."""

    QUIC = "quic"
    TCP = "tcp"


@dataclass(frozen=True, slots=True)
class Ip:
    """A machine's address, and the networks that limits are counted by."""

    packed: bytes
    local: bool
    """Loopback, private or link-local."""

    @property
    def one(self) -> bytes:
        """What counts as one user: an IPv4 address or an IPv6 /56."""
        return ip_prefix(self.packed, IPV4_BYTES, _IP6_IP_BYTES)

    @property
    def subnet(self) -> bytes:
        """The IPv4 /24 or IPv6 /48."""
        return ip_prefix(self.packed, _IP4_SUBNET_BYTES, _IP6_SUBNET_BYTES)


@dataclass(frozen=True, slots=True)
class Target:
    """Where to dial, or where somebody dialled from."""

    addr: bytes
    """As a binary multiaddr, without ``/p2p``."""
    carrier: Carrier
    ip: Ip
    host: str
    port: int
    zone: str = ""
    """The network interface of a link-local IPv6 address (``/ip6zone``), by name or number."""

    @property
    def family(self) -> socket.AddressFamily:
        """For the socket."""
        return socket.AF_INET if len(self.ip.packed) == 4 else socket.AF_INET6

    def socket_name(self) -> SocketName:
        """The address as ``connect``, ``bind`` and ``sendto`` take it. No name is resolved.

        Raises:
            OSError: the machine has no such network interface.
        """
        if self.family == socket.AF_INET:
            return self.host, self.port
        scope = int(self.zone) if self.zone.isdecimal() else 0
        if self.zone and not scope:
            scope = socket.if_nametoindex(self.zone)
        return self.host, self.port, 0, scope

    def __str__(self) -> str:
        return str(Multiaddr(self.addr))


def parse(addr: bytes) -> Target | None:
    """What ``addr`` (without ``/p2p``) means to TCP or QUIC; None if it means nothing to them."""
    try:
        (family, packed), *rest = split(addr)
    except AddressError:
        return None
    zone = ""
    if family == P_IP6ZONE and rest and rest[0][0] == P_IP6:
        zone = packed.decode("ascii", "replace")
        if len(zone) > _MAX_ZONE_CHARS or not zone.isascii() or not zone.isprintable():
            return None
        (family, packed), *rest = rest
    if family not in (P_IP4, P_IP6) or not rest:
        return None
    match tuple(code for code, _ in rest):
        case codes if codes == _TCP:
            carrier = Carrier.TCP
        case codes if codes == _QUIC:
            carrier = Carrier.QUIC
        case _:
            return None
    ip = ip_address(packed)
    return Target(
        addr=addr,
        carrier=carrier,
        ip=Ip(packed, reach(addr) in _LOCAL),
        host=str(ip),
        port=int.from_bytes(rest[0][1], "big"),
        zone=zone,
    )


def dial_target(addr: Multiaddr, peer_id: PeerId) -> Target | None:
    """Where ``addr`` leads to, if it may lead to ``peer_id`` and can be dialled at all."""
    data = strip_peer_id(addr.to_bytes(), peer_id.to_bytes())
    target = None if data is None else parse(data)
    if target is None or not target.port:
        return None
    ip = ip_address(target.ip.packed)
    return None if ip.is_unspecified or ip.is_multicast else target


def of_socket(name: tuple[Any, ...]) -> Target:
    """The TCP address in the form that ``getpeername`` and ``accept`` give it."""
    text, port = str(name[0]).partition("%")[0], int(name[1])
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    packed = unmapped(socket.inet_pton(family, text))
    if len(packed) == IPV4_BYTES:
        text = socket.inet_ntop(socket.AF_INET, packed)
    addr = join(((ip_code(packed), packed), (P_TCP, port.to_bytes(2, "big"))))
    local = reach_of_ip(packed) in _LOCAL
    return Target(addr, Carrier.TCP, Ip(packed, local), text, port)


def of_udp_socket(name: tuple[Any, ...]) -> Target:
    """The QUIC address in the form that ``recvfrom`` gives it."""
    tcp = of_socket(name)
    packed = tcp.ip.packed
    udp = (P_UDP, tcp.port.to_bytes(2, "big"))
    addr = join(((ip_code(packed), packed), udp, (P_QUIC_V1, b"")))
    return Target(addr, Carrier.QUIC, tcp.ip, tcp.host, tcp.port)


def ranked(targets: Iterable[Target]) -> list[Target]:
    """In the order of dialling: public addresses first, QUIC before TCP, and IPv6 and IPv4 in turn
    (RFC 8305, section 4).

    After ``QUIC_FIRST`` QUIC addresses it is the turn of as many TCP addresses: no number of
    addresses of one kind, whoever named them, keeps those of the other waiting."""
    shelves: dict[tuple[int, int], tuple[list[Target], list[Target]]] = {}
    for target in targets:
        shelf = shelves.setdefault(_shelf(target), ([], []))
        shelf[target.family == socket.AF_INET].append(target)
    found: list[Target] = []
    for near in sorted({near for near, _ in shelves}):
        of_carriers = [
            [each for each in chain.from_iterable(zip_longest(*shelves[near, place])) if each]
            for place in sorted({place for distance, place in shelves if distance == near})
        ]
        for begin in range(0, max(map(len, of_carriers)), QUIC_FIRST):
            for of_carrier in of_carriers:
                found += of_carrier[begin : begin + QUIC_FIRST]
    return found


def _shelf(target: Target) -> tuple[int, int]:
    how_far = reach(target.addr)
    near = _REACH_ORDER.index(how_far) if how_far in _REACH_ORDER else len(_REACH_ORDER)
    return near, 0 if target.carrier is Carrier.QUIC else 1
