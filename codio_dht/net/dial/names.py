"""Which names in addresses are worth asking a name server for. Used by both hosts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from multiaddr import Multiaddr

_EXAMPLE_IP: Final = "/ip4/192.0.2.1"
"""Stands for a name's address while it is not known (RFC 5737: belongs to nobody)."""


def is_worth_resolving(name: Multiaddr, can_dial: Callable[[Multiaddr], bool]) -> bool:
    """Whether ``can_dial`` could dial what ``name`` stands for. A dnsaddr may be anything."""
    _, protocol, _, *rest = str(name).split("/", 3)
    if protocol == "dnsaddr":
        return True
    return bool(rest) and can_dial(Multiaddr(f"{_EXAMPLE_IP}/{rest[0]}"))
