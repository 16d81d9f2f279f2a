"""Which addresses a host tells others: no wildcards, no ``/p2p`` at the end.

What was asked to be announced is told, and nothing else; without that, what is listened on, and
where a dial-back has reached this node (:mod:`codio_dht.net.observed_addrs`). Nothing is told
because others say so. What was asked to be announced beside that is told in both cases. What nobody
could dial is refused.

``0.0.0.0`` and ``::`` stand for every address of the machine's interfaces and are replaced by
those, the loopback included (go does the same; who may see which address is for the DHT's filter
to say). Link-local IPv6 addresses are left out: without their zone nobody can dial them.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Hashable, Iterable, Sequence
from ipaddress import ip_address
from typing import Final

from multiaddr import Multiaddr
from multiaddr.utils import get_network_addrs

from codio_dht.errors import AddressError
from codio_dht.formats.multiaddr import (
    P_CIRCUIT,
    P_DCCP,
    P_DNSADDR,
    P_GARLIC32,
    P_GARLIC64,
    P_IP4,
    P_IP6,
    P_IP6ZONE,
    P_ONION,
    P_ONION3,
    P_P2P,
    P_SCTP,
    P_TCP,
    P_UDP,
    is_name,
    most_useful_first,
    split,
    split_peer_id,
)
from codio_dht.net.limits import MAX_TOLD_ADDRS

_WITH_PORT: Final = frozenset({P_TCP, P_UDP, P_SCTP, P_DCCP})
_SELF_CONTAINED: Final = frozenset({P_ONION, P_ONION3, P_GARLIC64, P_GARLIC32})
"""Hosts whose address says how to reach them."""

_FAR_AWAY: Final = {
    4: (socket.AF_INET, "192.0.2.1"),
    6: (socket.AF_INET6, "2001:db8::1"),
}
"""Addresses that belong to nobody (RFC 5737, RFC 3849): the way there is the default route."""
_DISCARD_PORT: Final = 9
_LOOPBACK: Final = {4: "127.0.0.1", 6: "::1"}
_WILDCARDS: Final = (("ip4", 4, "0.0.0.0"), ("ip6", 6, "::"))  # noqa: S104 - compared, not bound


def interface_addresses(ip_version: int) -> list[str]:
    """The IP addresses of this machine, the loopback last."""
    found = [ip for ip in get_network_addrs(ip_version) if not ip.lower().startswith("fe80")]
    return [ip for ip in found if ip != _LOOPBACK[ip_version]] + [_LOOPBACK[ip_version]]


def network_state() -> Hashable:
    """What there is of a network on this machine: its addresses, and whether it has a way out over
    IPv4 and over IPv6. A change of it says that what could not be reached may be reached now."""
    return (
        *(frozenset(interface_addresses(version)) for version in _FAR_AWAY),
        *(_has_route(version) for version in _FAR_AWAY),
    )


def _has_route(ip_version: int) -> bool:
    family, address = _FAR_AWAY[ip_version]
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((address, _DISCARD_PORT))  # of UDP, this sends nothing
    except OSError:
        return False
    return True


def told_addresses(
    listening: Iterable[Multiaddr],
    announce: Sequence[Multiaddr],
    observed: Iterable[Multiaddr] = (),
    interfaces: Callable[[int], list[str]] = interface_addresses,
    append_announce: Sequence[Multiaddr] = (),
) -> tuple[Multiaddr, ...]:
    """What to tell others, given what is listened on, what was asked to be announced instead, where
    a dial-back has reached us, and what was asked to be announced beside (``append_announce``).

    Of more than ``MAX_TOLD_ADDRS`` those that reach farthest are told."""
    addrs = announce or [
        *(real for addr in listening for real in _expanded(addr, interfaces)),
        *observed,
    ]
    told = tuple(dict.fromkeys(without_p2p(addr) for addr in (*addrs, *append_announce)))
    if len(told) <= MAX_TOLD_ADDRS:
        return told
    best = most_useful_first([addr.to_bytes() for addr in told])[:MAX_TOLD_ADDRS]
    return tuple(map(Multiaddr, best))


def without_p2p(addr: Multiaddr) -> Multiaddr:
    """The address without a ``/p2p/<id>`` at its end; that of a relay in its midst stays."""
    head, peer_id = split_peer_id(addr.to_bytes())
    return Multiaddr(head) if peer_id is not None and head else addr


def announce_fault(addr: Multiaddr, own: bytes | None = None) -> str | None:
    """Why nobody could dial this node at ``addr``, as a clause that follows the address; None if
    somebody could.

    ``own`` are the bytes of this node's peer id, where they are known by now. An address that goes
    through a relay is judged by the way to the relay.
    """
    data = addr.to_bytes()
    head, peer_id = split_peer_id(data)
    if peer_id is not None and own is not None and peer_id != own:
        return "ends in the id of another peer"
    try:
        parts = split(head)
    except AddressError as error:
        return f"cannot be read by others: {error}" if head else "is a peer id, and no address"
    codes = [code for code, _ in parts]
    if P_CIRCUIT in codes:
        place = codes.index(P_CIRCUIT)
        if place == 0 or codes[place - 1] != P_P2P:
            return "goes through a relay without saying which: /p2p/<relay's id>/p2p-circuit"
        parts = parts[: place - 1]
        if not parts:
            return None  # a relay that others find by its id
    return _way_fault([part for part in parts if part[0] != P_IP6ZONE])


def _way_fault(parts: Sequence[tuple[int, bytes]]) -> str | None:
    """What is wrong with the way to a machine: host, transport, and what is spoken over it."""
    (code, value), *transport = parts or [(P_P2P, b"")]
    if code in (P_IP4, P_IP6):
        ip = ip_address(value)
        if ip.is_unspecified:
            return "is no address that others can dial, but every address of this machine"
        if ip.is_multicast:
            return "begins with a multicast address, which nobody can dial"
    elif not is_name(code):
        return None if code in _SELF_CONTAINED else "begins with neither an IP address nor a name"
    if code == P_DNSADDR and not transport:
        return None
    if not transport or transport[0][0] not in _WITH_PORT:
        return "has no transport: add /tcp/<port>, or /udp/<port>/quic-v1"
    if not any(transport[0][1]):
        return "has port 0, which nobody can dial"
    if transport[0][0] == P_UDP and len(transport) == 1:
        return "has nothing that is spoken over UDP: add /quic-v1"
    if any(code == P_P2P for code, _ in transport):
        return "has a peer id in its midst"
    return None


def _expanded(addr: Multiaddr, interfaces: Callable[[int], list[str]]) -> list[Multiaddr]:
    text = str(addr)
    for protocol, ip_version, wildcard in _WILDCARDS:
        prefix = f"/{protocol}/{wildcard}/"
        if text.startswith(prefix):
            rest = text.removeprefix(prefix)
            return [Multiaddr(f"/{protocol}/{ip}/{rest}") for ip in interfaces(ip_version)]
    return [addr]
