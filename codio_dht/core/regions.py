"""What is known of the peers in one part of the keyspace, and where none of them can be missing.

Decides for which keys the k closest peers are known for certain, which lookup tells of others, and
who gets which key. :mod:`codio_dht.core.region_sweep` asks; nothing here awaits or reads a clock.

A *place* is the beginning of a key: its first 62 bits, so that places fit into 64 bits on disk. A
*zone* is all places with one prefix.

A completed lookup of a target that ends with ``k`` peers knows every peer that is nearer to the
target than the last of these. So no peer is missing in the zone of the places that share one bit
more with the target than that last peer does: the zone is *covered*. A lookup that ends with fewer
than ``k`` peers has found everybody there is.

The ``k`` closest peers of a key are known if some zone around the key is covered and has ``k``
peers: whoever is in the zone is nearer to the key than whoever is not. They are also known if the
key itself was the target of a lookup. Then the key is *settled*.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NewType

from codio_dht import params
from codio_dht.core.keyspace import Key, cpl
from codio_dht.core.peer import PeerId

PLACE_BITS: Final = 62
"""Bits of a place: more than any network needs to tell its peers apart."""

PLACES: Final = 1 << PLACE_BITS
"""How many places there are; the end of the last one."""

_BELOW: Final = params.KEY_BITS - PLACE_BITS
"""Bits of a key that its place leaves out."""

Place = NewType("Place", int)
"""The first ``PLACE_BITS`` bits of a key."""


def place_of(key: Key) -> Place:
    """The place of ``key``."""
    return Place(key >> _BELOW)


def key_at(place: int) -> Key:
    """The first key whose place is ``place`` or, after the last place, the end of all keys."""
    return Key(place << _BELOW)


@dataclass(frozen=True, slots=True)
class Zone:
    """All places that share their first ``bits`` bits with ``start``, the first of them."""

    start: Place
    bits: int

    @classmethod
    def around(cls, place: int, bits: int) -> Zone:
        """The zone of ``bits`` bits that ``place`` lies in."""
        bits = min(bits, PLACE_BITS)
        below = PLACE_BITS - bits
        return cls(Place(place >> below << below), bits)

    @property
    def end(self) -> Place:
        """The place after the last one."""
        return Place(self.start + (1 << (PLACE_BITS - self.bits)))

    @property
    def middle(self) -> Place:
        """The first place of the upper half."""
        return Place(self.start + (1 << (PLACE_BITS - self.bits) >> 1))

    def halves(self) -> tuple[Zone, Zone]:
        """The two zones of one bit more."""
        return Zone(self.start, self.bits + 1), Zone(self.middle, self.bits + 1)


EVERYWHERE: Final = Zone(Place(0), 0)
"""The whole keyspace."""


class Intervals:
    """A set of integers, held as disjoint ranges in order."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> None:
        """Add all from ``start`` up to ``end``, which is left out."""
        if start >= end:
            return
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def end_around(self, value: int) -> int | None:
        """The end of the range that ``value`` is in; None if it is in none."""
        found = bisect_right(self._starts, value) - 1
        return self._ends[found] if found >= 0 and value < self._ends[found] else None

    def gaps(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The ranges between ``start`` and ``end`` that are not in the set, in order."""
        at = start
        for index in range(bisect_right(self._ends, start), len(self._starts)):
            if self._starts[index] >= end:
                break
            if at < self._starts[index]:
                yield at, self._starts[index]
            at = self._ends[index]
        if at < end:
            yield at, end

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._starts, self._ends, strict=True)))


@dataclass(frozen=True, slots=True)
class Group:
    """Keys whose closest peers lie in the same ``zone``: the least one around them that has ``k``
    known peers. They are those from index ``low`` up to ``high``."""

    zone: Zone
    low: int
    high: int


Ranges = list[tuple[int, int]]
"""Indexes of keys, as ranges in order."""


class RegionMap:
    """The peers that lookups found, and the zones that they cover. See the module.

    Bound: the ``k`` peers of each lookup that it was told of.
    """

    def __init__(self, k: int = params.K) -> None:
        self._k = k
        self._peers: list[PeerId] = []
        self._points: list[Key] = []
        """The keys of ``_peers``, which are in their order."""
        self._failed: dict[PeerId, None] = {}
        self.covered = Intervals()
        """Places in whose zone no peer is missing."""
        self.zone_bits = 0
        """The size of the zone that was covered last: what to expect of the next lookup."""

    def __len__(self) -> int:
        return len(self._peers)

    @property
    def peers(self) -> Sequence[PeerId]:
        """The living peers that are known, in the order of their keys."""
        return self._peers

    def found(self, target: Key, closest: Sequence[PeerId]) -> None:
        """A completed lookup of ``target`` found ``closest``, nearest first."""
        for peer in closest:
            at = bisect_left(self._points, peer.key)
            is_known = at < len(self._points) and self._points[at] == peer.key
            if not is_known and peer not in self._failed:
                self._points.insert(at, peer.key)
                self._peers.insert(at, peer)
        bits = 0
        if len(closest) >= self._k:
            bits = min(PLACE_BITS, cpl(target, closest[-1].key) + 1)
        zone = Zone.around(place_of(target), bits)
        self.zone_bits = bits
        self.covered.add(zone.start, zone.end)

    def failed(self, peer: PeerId) -> None:
        """``peer`` is dead: it counts as one of nobody's closest from now on."""
        self._failed[peer] = None
        at = bisect_left(self._points, peer.key)
        if at < len(self._points) and self._points[at] == peer.key:
            del self._points[at], self._peers[at]

    def nearest(self, point: Key, count: int) -> list[PeerId]:
        """The ``count`` known peers nearest to ``point``, nearest first."""
        return sorted(self._peers, key=lambda peer: peer.key ^ point)[:count]

    # --- which keys are settled -------------------------------------------------------------------

    def groups(self, points: Sequence[Key]) -> Iterator[Group]:
        """``points``, which are in order, by the zone that their closest peers lie in."""
        if points:
            yield from self._groups(points, EVERYWHERE, 0, len(points), 0, len(self._peers))

    def _groups(
        self, points: Sequence[Key], zone: Zone, low: int, high: int, first: int, last: int
    ) -> Iterator[Group]:
        if zone.bits == PLACE_BITS:
            yield Group(zone, low, high)
            return
        border = key_at(zone.middle)
        middle = bisect_left(points, border, low, high)
        between = bisect_left(self._points, border, first, last)
        left, right = zone.halves()
        descends_left, descends_right = between - first >= self._k, last - between >= self._k
        if not (descends_left or descends_right):
            yield Group(zone, low, high)
            return
        for half, descends, (begin, end), (here, there) in (
            (left, descends_left, (low, middle), (first, between)),
            (right, descends_right, (middle, high), (between, last)),
        ):
            if begin < end:
                if descends:
                    yield from self._groups(points, half, begin, end, here, there)
                else:
                    yield Group(zone, begin, end)

    def is_covered(self, zone: Zone) -> bool:
        """Whether no peer of ``zone`` can be missing."""
        end = self.covered.end_around(zone.start)
        return end is not None and end >= zone.end

    # --- who gets what ----------------------------------------------------------------------------

    def allocate(self, points: Sequence[Key]) -> dict[PeerId, Ranges]:
        """For each peer the keys among ``points``, which are in order, that have it among their
        ``k`` closest: the ranges of their indexes. Whole subtrees are shared out at once, so the
        cost goes with the number of peers rather than with that of keys."""
        shares: dict[PeerId, Ranges] = {}
        if points:
            self._allocate(points, (0, len(points)), (0, len(self._peers)), 0, self._k, shares)
        return shares

    def _allocate(
        self,
        points: Sequence[Key],
        keys: tuple[int, int],
        peers: tuple[int, int],
        bit: int,
        wanted: int,
        shares: dict[PeerId, Ranges],
    ) -> None:
        """Share out ``keys`` among the ``wanted`` nearest of ``peers``. All of the keys agree in
        their first ``bit`` bits, and so do all of the peers."""
        low, high = keys
        first, last = peers
        if last - first <= wanted:
            self._give(keys, peers, shares)
            return
        middle = _border(points, low, high, bit)
        between = _border(self._points, first, last, bit)
        below, above = (first, between), (between, last)
        for part, near, far in (((low, middle), below, above), ((middle, high), above, below)):
            if part[0] == part[1]:
                continue
            count = near[1] - near[0]
            if count >= wanted:
                self._allocate(points, part, near, bit + 1, wanted, shares)
            else:
                self._give(part, near, shares)
                self._allocate(points, part, far, bit + 1, wanted - count, shares)

    def _give(
        self, keys: tuple[int, int], peers: tuple[int, int], shares: dict[PeerId, Ranges]
    ) -> None:
        for peer in self._peers[peers[0] : peers[1]]:
            ranges = shares.setdefault(peer, [])
            if ranges and ranges[-1][1] == keys[0]:
                ranges[-1] = (ranges[-1][0], keys[1])
            else:
                ranges.append(keys)


def _border(points: Sequence[Key], low: int, high: int, bit: int) -> int:
    """The index of the first of ``points`` with the given ``bit`` set, between ``low`` and
    ``high``, where all agree in the bits before it."""
    below = params.KEY_BITS - 1 - bit
    if low == high:
        return low
    return bisect_left(points, ((points[low] >> below) | 1) << below, low, high)
