"""Which addresses a host tells others: no wildcards, no ``/p2p`` at the end.

What was asked to be announced is told, and nothing else; without that, what is listened on and what
enough peers see (:mod:`codio_dht.net.observed_addrs`).

``0.0.0.0`` and ``::`` stand for every address of the machine's interfaces and are replaced by
those, the loopback included (go does the same; who may see which address is for the DHT's filter
to say). Link-local IPv6 addresses are left out: without their zone nobody can dial them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from multiaddr import Multiaddr
from multiaddr.protocols import P_P2P
from multiaddr.utils import get_network_addrs

_LOOPBACK: Final = {4: "127.0.0.1", 6: "::1"}
_WILDCARDS: Final = (("ip4", 4, "0.0.0.0"), ("ip6", 6, "::"))  # noqa: S104 - compared, not bound


def interface_addresses(ip_version: int) -> list[str]:
    """The IP addresses of this machine, the loopback last."""
    found = [ip for ip in get_network_addrs(ip_version) if not ip.lower().startswith("fe80")]
    return [ip for ip in found if ip != _LOOPBACK[ip_version]] + [_LOOPBACK[ip_version]]


def told_addresses(
    listening: Iterable[Multiaddr],
    announce: Sequence[Multiaddr],
    observed: Iterable[Multiaddr] = (),
    interfaces: Callable[[int], list[str]] = interface_addresses,
) -> tuple[Multiaddr, ...]:
    """What to tell others, given what is listened on, what was asked to be announced, and where
    enough peers see us."""
    addrs = announce or [
        *(real for addr in listening for real in _expanded(addr, interfaces)),
        *observed,
    ]
    return tuple(dict.fromkeys(without_p2p(addr) for addr in addrs))


def without_p2p(addr: Multiaddr) -> Multiaddr:
    """The address without a trailing ``/p2p/<id>``."""
    return addr.decapsulate_code(P_P2P) if "/p2p/" in str(addr) else addr


def _expanded(addr: Multiaddr, interfaces: Callable[[int], list[str]]) -> list[Multiaddr]:
    text = str(addr)
    for protocol, ip_version, wildcard in _WILDCARDS:
        prefix = f"/{protocol}/{wildcard}/"
        if text.startswith(prefix):
            rest = text.removeprefix(prefix)
            return [Multiaddr(f"/{protocol}/{ip}/{rest}") for ip in interfaces(ip_version)]
    return [addr]
