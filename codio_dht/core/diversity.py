"""IP diversity: how many peers of one part of the internet are believed.

Identities cost nothing, addresses in many networks do. Decides which *group* an address is of, that
a routing table holds few peers of one group, and that a reply full of one group is not followed.

A group is a network of the internet (:func:`codio_dht.formats.ip.group_of_ip`). Only public
addresses count: private ones and loopback are exempt, so that LANs and tests are as they were. A
peer of the public network that gives nothing but names is of one group with all others that do, for
where a name leads its owner decides.

It counts where a peer was seen, that is where its last connection led, and not where it says that
it is: else one machine could claim an address in every group, for its own identities or to shut out
others. Of a peer that was never seen, what it claims counts. It may have addresses in several
groups: each of them must have room (GO). One that claims more than ``MAX_CLAIMED_GROUPS`` counts
for none of these, but with all others that do so for a group of their own. What counts is what a
peer had when it entered; it frees the same when it leaves.

Must never: resolve a name, iterate a set.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
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
"""Of the peers of one IP group that a reply names, this many are read, those named first. (GO reads
none of a larger group, so whoever names peers with the addresses of honest ones erases these.)"""

MAX_CLAIMED_GROUPS: Final = 3
"""Groups that a peer may claim to be in and be counted for each: IPv4, IPv6, and one more."""

MAX_SEEN_PEERS: Final = 4_096
"""Peers of which it is remembered where they were seen; the one seen longest ago is forgotten."""

_T = TypeVar("_T")

NAMES: Final = "names"
"""The group of peers with nothing but names."""

MANY: Final = "many"
"""The group of peers that claim to be in more than ``MAX_CLAIMED_GROUPS``."""


def groups_of(addrs: Iterable[bytes]) -> tuple[str, ...]:
    """The groups that count for a peer that claims to be at ``addrs``, each once: those of its
    public IP addresses, ``MANY`` for too many of them, or ``NAMES`` if it has only names of the
    public DNS. None of them: it is exempt."""
    groups: dict[str, None] = {}
    named = False
    for addr in addrs:
        if is_public(addr):
            if (group := ip_group(addr)) is not None:
                groups[group] = None
            else:
                named = named or is_dns(addr)
    if len(groups) > MAX_CLAIMED_GROUPS:
        return (MANY,)
    return tuple(groups) if groups or not named else (NAMES,)


def seen_groups(addrs: Iterable[bytes]) -> tuple[str, ...]:
    """The groups of a peer whose connections lead to ``addrs``, private ones as well."""
    return tuple(dict.fromkeys(group for addr in addrs if (group := ip_group(addr)) is not None))


def over_represented(
    entries: Sequence[PeerEntry], most: int = MAX_GROUP_PEERS_PER_REPLY
) -> frozenset[PeerId]:
    """The peers of one reply that are one too many of a group: after the first ``most`` of it, in
    the order of the reply. A peer named twice counts once."""
    sizes: Counter[str] = Counter()
    seen: set[PeerId] = set()
    crowd: list[PeerId] = []
    for entry in entries:
        if entry.peer_id in seen:
            continue
        seen.add(entry.peer_id)
        groups = groups_of(entry.addrs)
        if any(sizes[group] >= most for group in groups):
            crowd.append(entry.peer_id)
        else:
            sizes.update(groups)
    return frozenset(crowd)


class GroupLimits:
    """An ``AdmissionPolicy``: at most ``per_cpl`` peers of one group at one CPL, and ``per_table``
    in all. ``addrs_of`` says where a peer says it is; one without any address is refused.
    ``seen_at`` says where its connections lead, if it has any that count. While ``enforced`` is
    False everybody is admitted, and counted.

    Holds what the table holds, and where ``MAX_SEEN_PEERS`` were seen.
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

        self._seen: OrderedDict[PeerId, tuple[str, ...]] = OrderedDict()
        self._at_cpl: dict[tuple[int, str], int] = {}
        self._in_table: dict[str, int] = {}

    def note(self, peer: PeerId) -> None:
        """Remember where ``peer`` is seen now, if it is connected."""
        groups = seen_groups(self._seen_at(peer))
        if groups:
            self._seen[peer] = groups
            self._seen.move_to_end(peer)
            if len(self._seen) > MAX_SEEN_PEERS:
                self._seen.popitem(last=False)

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
        self.note(peer)
        return self._seen.get(peer) or groups_of(said)


def _take_one(counts: dict[_T, int], key: _T) -> None:
    """One less of ``key``; what is at none is not held."""
    if counts[key] == 1:
        del counts[key]
    else:
        counts[key] -= 1
