"""IP diversity: how many peers of one part of the internet are believed.

Identities cost nothing, addresses in many networks do. Decides which *group* an address is of, that
a routing table holds few peers of one group, and that a reply full of one group is not followed.

The group of an IPv4 address is its /16 (/8 in the networks of ``IPV4_LEGACY_NETWORKS``), of an IPv6
address its /32; an IPv6 address that embeds an IPv4 one (NAT64, 6to4) is of that one's group. Only
public addresses count: private ones and loopback are exempt, so that LANs and tests are as they
were. A peer of the public network that gives nothing but names is of one group with all others that
do, for where a name leads its owner decides.

Of a connected peer it counts where the connection leads, not where it says that it is (GO): else
one machine could claim an address in every group, for its own identities or to shut out others.
A peer may have addresses in several groups: each of them must have room (GO). What counts is what
it had when it entered; it frees the same when it leaves.

Must never: resolve a name, iterate a set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Final, TypeVar

from codio_dht import params
from codio_dht.core.addresses import P_IP4, P_IP6, P_IP6ZONE, is_dns, is_public, split
from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key
from codio_dht.core.messages import PeerEntry
from codio_dht.core.peer import PeerId
from codio_dht.errors import AddressError

_T = TypeVar("_T")

NAMES: Final = "names"
"""The group of peers with nothing but names."""

_IPV4_BITS: Final = 32
_IPV6_BITS: Final = 128
_NAT64: Final = bytes.fromhex("0064ff9b0000000000000000")
"""64:ff9b::/96 (RFC 6052): the last four bytes are the IPv4 address."""
_6TO4: Final = bytes.fromhex("2002")
"""2002::/16 (RFC 3056): the next four bytes are the IPv4 address."""


@lru_cache(maxsize=params.ADDRESS_CACHE_ENTRIES)
def ip_group(addr: bytes) -> str | None:
    """The group of the IP address with which ``addr`` begins, public or not, as a prefix in CIDR
    form; None if it begins with none, or is not readable. (A bounded cache of a pure function: the
    same few thousand addresses come by all the time.)"""
    try:
        parts = split(addr)
    except AddressError:
        return None
    code, value = next((part for part in parts if part[0] != P_IP6ZONE), parts[0])
    if code == P_IP4:
        return _ipv4_group(value)
    if code != P_IP6:
        return None
    if value.startswith(_NAT64):
        return _ipv4_group(value[len(_NAT64) :])
    if value.startswith(_6TO4):
        return _ipv4_group(value[2:6])
    kept = int.from_bytes(value, "big") >> (_IPV6_BITS - params.IPV6_GROUP_BITS)
    return f"{kept >> 16:x}:{kept & 0xFFFF:x}::/{params.IPV6_GROUP_BITS}"


def groups_of(addrs: Iterable[bytes]) -> tuple[str, ...]:
    """The groups that count for a peer at ``addrs``, each once: those of its public IP addresses,
    or ``NAMES`` if it has only names of the public DNS. None of them: it is exempt."""
    groups: dict[str, None] = {}
    named = False
    for addr in addrs:
        if is_public(addr):
            if (group := ip_group(addr)) is not None:
                groups[group] = None
            else:
                named = named or is_dns(addr)
    return tuple(groups) if groups or not named else (NAMES,)


def over_represented(
    entries: Sequence[PeerEntry], most: int = params.MAX_GROUP_PEERS_PER_REPLY
) -> frozenset[PeerId]:
    """The peers of one reply that are of a group with more than ``most`` peers in it: who answers
    so is itself deceived, or deceives (GO). A peer named twice counts once."""
    groups = {entry.peer_id: groups_of(entry.addrs) for entry in entries}
    sizes = Counter(group for each in groups.values() for group in each)
    if max(sizes.values(), default=0) <= most:
        return frozenset()
    return frozenset(
        peer for peer, each in groups.items() if any(sizes[group] > most for group in each)
    )


class GroupLimits:
    """An ``AdmissionPolicy``: at most ``per_cpl`` peers of one group at one CPL, and ``per_table``
    in all. ``addrs_of`` says where a peer says it is; one without any address is refused.
    ``seen_at`` says where its connections lead, if it has any.

    Holds what the table holds: the table is its bound.
    """

    def __init__(
        self,
        addrs_of: Callable[[PeerId, Monotonic], Sequence[bytes]],
        seen_at: Callable[[PeerId], Sequence[bytes]] = lambda _peer: (),
        *,
        per_cpl: int = params.MAX_GROUP_PEERS_PER_CPL,
        per_table: int = params.MAX_GROUP_PEERS_PER_TABLE,
    ) -> None:
        self._addrs_of = addrs_of
        self._seen_at = seen_at
        self._per_cpl = per_cpl
        self._per_table = per_table
        self._members: dict[Key, tuple[str, ...]] = {}
        self._at_cpl: dict[tuple[int, str], int] = {}
        self._in_table: dict[str, int] = {}

    def sizes(self) -> dict[str, int]:
        """How many peers of each group are in the table (for statistics)."""
        return dict(self._in_table)

    def admits(self, peer: PeerId, cpl: int, now: Monotonic) -> bool:
        """Whether each group of ``peer`` has room."""
        addrs = self._addrs_of(peer, now)
        return bool(addrs) and all(
            self._in_table.get(group, 0) < self._per_table
            and self._at_cpl.get((cpl, group), 0) < self._per_cpl
            for group in self._groups(peer, addrs)
        )

    def entered(self, peer: PeerId, cpl: int, now: Monotonic) -> None:
        """``peer`` takes up room in each of its groups."""
        self._members[peer.key] = groups = self._groups(peer, self._addrs_of(peer, now))
        for group in groups:
            self._in_table[group] = self._in_table.get(group, 0) + 1
            self._at_cpl[cpl, group] = self._at_cpl.get((cpl, group), 0) + 1

    def left(self, peer: PeerId, cpl: int) -> None:
        """``peer`` frees what it took up, wherever it is now."""
        for group in self._members.pop(peer.key, ()):
            _take_one(self._in_table, group)
            _take_one(self._at_cpl, (cpl, group))

    def _groups(self, peer: PeerId, said: Sequence[bytes]) -> tuple[str, ...]:
        return groups_of(self._seen_at(peer)) or groups_of(said)


def _ipv4_group(value: bytes) -> str:
    legacy = value[0] in params.IPV4_LEGACY_NETWORKS
    bits = params.IPV4_LEGACY_GROUP_BITS if legacy else params.IPV4_GROUP_BITS
    kept = int.from_bytes(value, "big") >> (_IPV4_BITS - bits) << (_IPV4_BITS - bits)
    return f"{kept >> 24}.{kept >> 16 & 0xFF}.0.0/{bits}"


def _take_one(counts: dict[_T, int], key: _T) -> None:
    """One less of ``key``; what is at none is not held."""
    if counts[key] == 1:
        del counts[key]
    else:
        counts[key] -= 1
