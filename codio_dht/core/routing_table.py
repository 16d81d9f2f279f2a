"""The routing table: who is kept, and who is nearest to a key.

Buckets are numbered by common prefix length (CPL) with the local key. All but the last hold the
peers of exactly their number; the last mixes every CPL from its number on, and is split, again if
need be, when it is full and a peer of it has to get in. Trailing buckets that became empty go away
(GO-KB). A CPL therefore holds up to ``bucket_size`` peers, and the table as a whole is bounded by
``KEY_BITS * bucket_size``.

Decides by seniority (IPFS: a peer MUST NOT be removed while online): a full bucket refuses the
newcomer, unless one of its own was added as *replaceable* (while the node was still joining) and is
not settled since. Only ``remove`` takes a peer out otherwise, when it failed.

Must never: hold the local peer, displace a settled peer, iterate a set, read a clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key, cpl
from codio_dht.core.peer import PeerId
from codio_dht.errors import UsageError
from codio_dht.params import KEY_BITS, K


class AddOutcome(Enum):
    """What became of a peer offered to the table."""

    ADDED = "added"
    KNOWN = "known"
    """It was in already; its last answer is noted."""
    REPLACED = "replaced"
    """It took the place of a replaceable peer."""
    FULL = "full"
    """Its bucket is full of settled peers."""
    REFUSED_DIVERSITY = "refused_diversity"
    """The admission policy refused it."""
    REFUSED_SELF = "refused_self"
    """It is the local peer."""
    REFUSED_UNVERIFIED = "refused_unverified"
    """It did not pass its admission probe (see :mod:`codio_dht.core.admission`)."""


class AdmissionPolicy(Protocol):
    """Who may enter beside those that are in, such as a limit per IP group."""

    def admits(self, peer: PeerId, cpl: int, now: Monotonic) -> bool:
        """Whether ``peer`` may enter at ``cpl`` now; must not change anything."""
        ...

    def entered(self, peer: PeerId, cpl: int, now: Monotonic) -> None:
        """``peer`` is in the table now."""
        ...

    def left(self, peer: PeerId, cpl: int) -> None:
        """``peer`` is no longer in the table: its share is free."""
        ...


class AllOf:
    """Several policies as one: who enters is admitted by each, and each is told."""

    def __init__(self, policies: Sequence[AdmissionPolicy]) -> None:
        self._policies = tuple(policies)

    def admits(self, peer: PeerId, cpl: int, now: Monotonic) -> bool:
        """Whether all of them admit ``peer``."""
        return all(policy.admits(peer, cpl, now) for policy in self._policies)

    def entered(self, peer: PeerId, cpl: int, now: Monotonic) -> None:
        """Tell them in order."""
        for policy in self._policies:
            policy.entered(peer, cpl, now)

    def left(self, peer: PeerId, cpl: int) -> None:
        """Tell them in order."""
        for policy in self._policies:
            policy.left(peer, cpl)


@dataclass(frozen=True, slots=True)
class Entry:
    """What the table knows of one peer."""

    peer: PeerId
    cpl: int
    added: Monotonic
    last_answered: Monotonic
    """Its last answer to a request of ours."""
    last_useful: Monotonic | None
    replaceable: bool


@dataclass(frozen=True, slots=True)
class BucketInfo:
    """One bucket, for statistics. ``mixed``: it holds every CPL from ``cpl`` on."""

    cpl: int
    peers: int
    mixed: bool


class _Entry:
    """The table's own, mutable entry."""

    __slots__ = ("added", "cpl", "last_answered", "last_useful", "peer", "replaceable")

    def __init__(self, peer: PeerId, cpl: int, added: Monotonic, *, replaceable: bool) -> None:
        self.peer = peer
        self.cpl = cpl
        self.added = added
        self.last_answered = added
        self.last_useful: Monotonic | None = None
        self.replaceable = replaceable


class RoutingTable:
    """The peers this node hands out and starts its lookups from.

    Raises:
        UsageError: ``bucket_size`` is below 1.
    """

    def __init__(
        self, local: Key, *, bucket_size: int = K, policy: AdmissionPolicy | None = None
    ) -> None:
        if bucket_size < 1:
            raise UsageError(f"bucket_size must be at least 1, not {bucket_size}")
        self._local = local
        self._bucket_size = bucket_size
        self._policy = policy
        self._entries: dict[Key, _Entry] = {}
        self._buckets: list[list[Key]] = [[]]
        self._per_cpl = [0] * KEY_BITS
        self.departures = 0
        """Peers that have left so far."""

    # --- questions --------------------------------------------------------------------------------

    @property
    def local(self) -> Key:
        """The key around which the buckets are built."""
        return self._local

    @property
    def bucket_size(self) -> int:
        """How many peers of one CPL are kept."""
        return self._bucket_size

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, peer: PeerId) -> bool:
        return peer.key in self._entries

    def peers(self) -> list[PeerId]:
        """Every peer, longest in the table first."""
        return [entry.peer for entry in self._entries.values()]

    def entry(self, peer: PeerId) -> Entry | None:
        """What is known of ``peer``, or None if it is not in the table."""
        found = self._entries.get(peer.key)
        if found is None:
            return None
        return Entry(
            found.peer,
            found.cpl,
            found.added,
            found.last_answered,
            found.last_useful,
            found.replaceable,
        )

    def nearest(self, key: Key, n: int, exclude: Iterable[PeerId] = ()) -> list[PeerId]:
        """The ``n`` peers nearest to ``key`` by XOR, nearest first, without those of ``exclude``.

        Exact. Buckets are sorted one by one, nearest bucket first, only until ``n`` peers are
        there: this is on the path of every served request.
        """
        entries = self._entries
        skipped = [peer.key for peer in exclude if peer.key in entries]
        distance_to = key.__xor__
        found: list[Key] = []
        for bucket in self._towards(key):
            found += sorted(bucket, key=distance_to)
            for each in skipped:
                if each in found:
                    found.remove(each)
            if len(found) >= n:
                break
        return [entries[each].peer for each in found[:n]]

    def has_room(self, peer: PeerId) -> bool:
        """Whether ``add`` could take ``peer`` in, the policy aside. False for one that is in."""
        key = peer.key
        if key == self._local or key in self._entries:
            return False
        prefix = cpl(self._local, key)
        return self._per_cpl[prefix] < self._bucket_size or self._replaceable(prefix) is not None

    def room(self, cpl: int) -> int:
        """How many peers of CPL ``cpl`` could come in beside those that are, the policy aside."""
        return self._bucket_size - self._per_cpl[cpl]

    def silent_since(self, before: Monotonic) -> list[PeerId]:
        """The peers whose last answer is older than ``before``, the longest silent first."""
        silent = [entry for entry in self._entries.values() if entry.last_answered < before]
        return [entry.peer for entry in sorted(silent, key=lambda entry: entry.last_answered)]

    def latest(self) -> list[PeerId]:
        """Everybody, whoever answered last first."""
        return self.silent_since(Monotonic(math.inf))[::-1]

    def cpl_counts(self) -> list[int]:
        """How many peers there are of each CPL, up to the longest that has any."""
        counts = self._per_cpl[:]
        while counts and not counts[-1]:
            counts.pop()
        return counts

    def buckets(self) -> list[BucketInfo]:
        """The buckets, farthest first."""
        last = len(self._buckets) - 1
        return [
            BucketInfo(cpl=index, peers=len(bucket), mixed=index == last)
            for index, bucket in enumerate(self._buckets)
        ]

    # --- changes ----------------------------------------------------------------------------------

    def add(self, peer: PeerId, now: Monotonic, *, replaceable: bool = False) -> AddOutcome:
        """Take in ``peer``, which answered a request of ours at ``now``.

        ``replaceable`` lets a later peer displace it until :meth:`settle`. A peer that is in stays
        as it is, but for its last answer.
        """
        key = peer.key
        if key == self._local:
            return AddOutcome.REFUSED_SELF
        if key in self._entries:
            self.answered(peer, now)
            return AddOutcome.KNOWN
        prefix = cpl(self._local, key)
        displaced = None
        if self._per_cpl[prefix] >= self._bucket_size:
            displaced = self._replaceable(prefix)
            if displaced is None:
                return AddOutcome.FULL
        if self._policy is not None and not self._policy.admits(peer, prefix, now):
            return AddOutcome.REFUSED_DIVERSITY
        if displaced is not None:
            self.remove(displaced)
        self._place(key, prefix)
        self._entries[key] = _Entry(peer, prefix, now, replaceable=replaceable)
        if self._policy is not None:
            self._policy.entered(peer, prefix, now)
        return AddOutcome.ADDED if displaced is None else AddOutcome.REPLACED

    def remove(self, peer: PeerId) -> bool:
        """Take out ``peer``; whether it was in."""
        key = peer.key
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        self.departures += 1
        self._per_cpl[entry.cpl] -= 1
        self._buckets[min(entry.cpl, len(self._buckets) - 1)].remove(key)
        self._collapse()
        if self._policy is not None:
            self._policy.left(peer, entry.cpl)
        return True

    def answered(self, peer: PeerId, now: Monotonic) -> bool:
        """Note that ``peer`` answered a request of ours at ``now``; whether it is in."""
        entry = self._entries.get(peer.key)
        if entry is None:
            return False
        entry.last_answered = max(entry.last_answered, now)
        return True

    def useful(self, peer: PeerId, now: Monotonic) -> bool:
        """Note that ``peer`` helped a lookup on at ``now``; whether it is in."""
        entry = self._entries.get(peer.key)
        if entry is None:
            return False
        entry.last_useful = now
        return True

    def settle(self) -> None:
        """Make every peer permanent (GO, once the node has joined)."""
        for entry in self._entries.values():
            entry.replaceable = False

    # --- inside -----------------------------------------------------------------------------------

    def _towards(self, key: Key) -> Iterator[list[Key]]:
        """The buckets, nearest to ``key`` first: every peer of one is nearer than all of the next.

        A bucket's peers are the ones that leave the local key's path at its bit. Where ``key``
        leaves it too (the two differ in that bit), the bucket is nearer than all deeper ones; where
        ``key`` stays on it, farther. The last bucket is what is left at the end of the path.
        """
        buckets = self._buckets
        differing = self._local ^ key
        last = len(buckets) - 1
        for index in range(KEY_BITS - differing.bit_length(), last):
            if differing >> (KEY_BITS - 1 - index) & 1:
                yield buckets[index]
        yield buckets[last]
        for index in range(last - 1, -1, -1):
            if not differing >> (KEY_BITS - 1 - index) & 1:
                yield buckets[index]

    def _replaceable(self, prefix: int) -> PeerId | None:
        """The replaceable peer of CPL ``prefix`` that has been silent for longest."""
        chosen: _Entry | None = None
        for key in self._buckets[min(prefix, len(self._buckets) - 1)]:
            entry = self._entries[key]
            if not entry.replaceable or entry.cpl != prefix:
                continue
            if chosen is None or entry.last_answered < chosen.last_answered:
                chosen = entry
        return None if chosen is None else chosen.peer

    def _place(self, key: Key, prefix: int) -> None:
        """Put ``key`` in its bucket, splitting the last one as often as that needs."""
        buckets = self._buckets
        while prefix >= len(buckets) - 1 and len(buckets[-1]) >= self._bucket_size:
            mixed, last = buckets[-1], len(buckets) - 1
            buckets[-1] = [each for each in mixed if cpl(self._local, each) == last]
            buckets.append([each for each in mixed if cpl(self._local, each) > last])
        buckets[min(prefix, len(buckets) - 1)].append(key)
        self._per_cpl[prefix] += 1

    def _collapse(self) -> None:
        """Drop an empty last bucket, or an empty one just before it, while there is one."""
        buckets = self._buckets
        while len(buckets) > 1:
            if not buckets[-1]:
                buckets.pop()
            elif not buckets[-2]:
                del buckets[-2]
            else:
                return
