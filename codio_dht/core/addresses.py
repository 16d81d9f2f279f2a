"""Which addresses of others a network keeps and tells, and whether a node is a public one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from codio_dht.formats.multiaddr import is_dns, is_dnsaddr, is_public, is_readable


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
            if is_public(addr) and (is_dnsaddr(addr) or not is_dns(addr)):
                return True
    return False
