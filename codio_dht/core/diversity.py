"""IP diversity: how many peers of one part of the internet are believed.

Identities cost nothing, addresses in many networks do. Decides which *group* an address is of, that
a routing table holds few peers of one group, and that a reply full of one group is not followed.

A group is a network of the internet (:func:`codio_dht.formats.ip.group_of_ip`). Only public
addresses count: private ones and loopback are exempt, so that LANs and tests are as they were. A
peer of the public network that gives nothing but names is of one group with all others that do, for
where a name leads its owner decides.

Of a connected peer it counts where the connection leads, not where it says that it is (GO): else
one machine could claim an address in every group, for its own identities or to shut out others.
A peer may have addresses in several groups: each of them must have room (GO). What counts is what
it had when it entered; it frees the same when it leaves.

Must never: resolve a name, iterate a set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key
from codio_dht.core.messages import PeerEntry
from codio_dht.core.peer import PeerId
from codio_dht.formats.multiaddr import ip_group, is_dns, is_public

MAX_GROUP_PEERS_PER_CPL: Final = 2
"""Peers of one IP group among those of one CPL (GO)."""

MAX_GROUP_PEERS_PER_TABLE: Final = 3
"""Peers of one IP group in the table (GO)."""

MAX_GROUP_PEERS_PER_REPLY: Final = 3
"""A reply that names more peers of one IP group than this loses all of that group (GO)."""

_T = TypeVar("_T")

NAMES: Final = "names"
"""The group of peers with nothing but names."""


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
    entries: Sequence[PeerEntry], most: int = MAX_GROUP_PEERS_PER_REPLY
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
    ``seen_at`` says where its connections lead, if it has any. While ``enforced`` is False
    everybody is admitted, and counted.

    Holds what the table holds: the table is its bound.
    """

    def __init__(
        self,
        addrs_of: Callable[[PeerId, Monotonic], Sequence[bytes]],
        seen_at: Callable[[PeerId], Sequence[bytes]] = lambda _peer: (),
        *,
        per_cpl: int = MAX_GROUP_PEERS_PER_CPL,
        per_table: int = MAX_GROUP_PEERS_PER_TABLE,
        enforced: bool = True,
    ) -> None:
        self._addrs_of = addrs_of
        self._seen_at = seen_at
        self._per_cpl = per_cpl
        self._per_table = per_table
        self.enforced = enforced
        self._members: dict[Key, tuple[int, tuple[str, ...]]] = {}
        """CPL and groups of each peer in the table."""

        self._at_cpl: dict[tuple[int, str], int] = {}
        self._in_table: dict[str, int] = {}

    def sizes(self) -> dict[str, int]:
        """How many peers of each group are in the table (for statistics)."""
        return dict(self._in_table)

    def admits(self, peer: PeerId, cpl: int, now: Monotonic) -> bool:
        """Whether each group of ``peer`` has room."""
        if not self.enforced:
            return True
        addrs = self._addrs_of(peer, now)
        return bool(addrs) and all(
            self._in_table.get(group, 0) < self._per_table
            and self._at_cpl.get((cpl, group), 0) < self._per_cpl
            for group in self._groups(peer, addrs)
        )

    def entered(self, peer: PeerId, cpl: int, now: Monotonic) -> None:
        """``peer`` takes up room in each of its groups."""
        groups = self._groups(peer, self._addrs_of(peer, now))
        self._members[peer.key] = cpl, groups
        for group in groups:
            self._in_table[group] = self._in_table.get(group, 0) + 1
            self._at_cpl[cpl, group] = self._at_cpl.get((cpl, group), 0) + 1

    def left(self, peer: PeerId, cpl: int) -> None:
        """``peer`` frees what it took up, wherever it is now."""
        cpl, groups = self._members.pop(peer.key, (cpl, ()))
        for group in groups:
            _take_one(self._in_table, group)
            _take_one(self._at_cpl, (cpl, group))

    def crowds(self, peer: PeerId) -> bool:
        """Whether a group of ``peer``, which is in the table, has more members than its limits
        allow. (That can be when they were not enforced from the beginning.)"""
        if not self.enforced:
            return False
        cpl, groups = self._members.get(peer.key, (0, ()))
        return any(
            self._in_table[group] > self._per_table or self._at_cpl[cpl, group] > self._per_cpl
            for group in groups
        )

    def _groups(self, peer: PeerId, said: Sequence[bytes]) -> tuple[str, ...]:
        return groups_of(self._seen_at(peer)) or groups_of(said)


def _take_one(counts: dict[_T, int], key: _T) -> None:
    """One less of ``key``; what is at none is not held."""
    if counts[key] == 1:
        del counts[key]
    else:
        counts[key] -= 1
