r"""Hands the records of many keys to their closest peers, all that are for one peer at once.

Decides which lookups are needed until the ``k`` closest peers of every key are known, who gets
which keys, what follows when a peer fails, and when this is over. One lookup serves all keys near
its target (:mod:`codio_dht.core.regions`), and one peer gets all of its keys on one connection.

The caller performs the steps and reports each once: a ``Look`` by ``on_looked``, a ``GiveAll`` by
``on_given`` or ``on_not_given``, an ``Ask`` by ``on_reply`` or ``on_failure``::

    next(now) -> Look(preimage) | GiveAll(peer, keys, ...) | Ask(peer, ...) | Working | Wait(None)
               | RegionSwept(...)

States of the whole::

    exploring --every key is settled--> handing out --nobody failed--> over
        ^---------- somebody failed, so others are closest ----------'

States of one batch, which is what one peer gets at once::

    due --GiveAll--> given --on_given--> held
                       |--it cannot be reached, or is too slow--> its peer counts as dead
                       \--the stream broke--> Ask --it has the last record--> held
                                               \--it has not--> both halves are due

A peer whose stream broke may have taken everything (js resets a stream whose sender has finished)
or may have refused one record (go). So it is asked for the last record of the batch. If it does not
have that, the batch is cut in two, until the records that it refuses are found: these go to the
next closest peer instead. A batch may be cut ``MAX_CUTS`` times.

Must never: read a clock, give a key to a peer that another key of the same peer showed to be dead,
count a key as held by a peer that did not take it.
Bounds: the keys it is made with, ``k`` peers for each lookup, ``MAX_LOOKUPS`` lookups.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from codio_dht.core.clock import Monotonic
from codio_dht.core.delivery import PROVIDE_RPC_TIMEOUT_S, Parcel
from codio_dht.core.keyspace import Key, key_of
from codio_dht.core.messages import FailureReason, Reply, Request
from codio_dht.core.network import Network
from codio_dht.core.peer import PeerId
from codio_dht.core.preimages import MAX_PREIMAGE_BITS, search_preimage_in
from codio_dht.core.regions import (
    PLACE_BITS,
    Group,
    Intervals,
    Place,
    RegionMap,
    Zone,
    key_at,
    place_of,
)
from codio_dht.core.requests import Requests
from codio_dht.core.rng import Rng
from codio_dht.core.steps import Ask, Wait, Working

LOOKUPS_AT_ONCE: Final = 8
"""Lookups of one region that run at the same time."""

PEERS_AT_ONCE: Final = 32
"""Peers of one region that are handed their records at the same time (GO 20)."""

MAX_LOOKUPS: Final = 256
"""Lookups for one page of keys. After them the nearest peers that are known get the records: only
peers that lie make a part of the keyspace look denser than so many lookups can cover."""

MAX_FAILED_LOOKUPS: Final = 3
"""Lookups that may fail in a row before the region is given up for now."""

FEW_KEYS: Final = 2
"""Up to so many keys of a zone are looked up themselves, instead of the rest of the zone (GO)."""

RECORD_TIME_S: Final = 0.01
"""Additional time for each record that a peer gets at once, seconds."""

MAX_CUTS: Final = 64
"""How often the batches of one peer are cut in two because it refuses something. After that it
counts as refusing the rest."""


# --- steps ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Look:
    """Look up the k peers closest to the key of ``preimage``."""

    preimage: bytes


@dataclass(frozen=True, slots=True)
class GiveAll:
    """Hand ``peer`` the record of each of ``keys``, in this order, on one connection."""

    peer: PeerId
    keys: tuple[bytes, ...]
    began: Monotonic
    deadline: Monotonic


@dataclass(frozen=True, slots=True)
class RegionSwept:
    """The page is over."""

    held: tuple[bytes, ...]
    """Keys that at least one peer took."""
    unheld: tuple[bytes, ...]
    """Keys that nobody took. Withdrawn keys are in neither."""
    copies: int
    """Records that peers hold now, of all keys together."""
    holders: tuple[PeerId, ...]
    """Peers that took everything that they were to get."""
    failed: int
    """Peers that counted as dead in the end."""
    lookups: int
    is_exact: bool
    """Whether the k closest peers of every key were known for certain."""


RegionStep = Look | GiveAll | Ask | Working | Wait | RegionSwept


@dataclass(slots=True)
class _Batch:
    """What one peer gets at once: indexes of keys, in order."""

    peer: PeerId
    indexes: list[int]


class RegionSweep:
    """One page of keys, all in one part of the keyspace. See the module.

    Args:
        network: whose peers get the records.
        requests: where the outcome of each request is noted.
        region: what is known of that part of the keyspace; pages of one region share it.
        keys: the multihashes.
        parcel_of: what is handed out for a key.
    """

    def __init__(
        self,
        network: Network,
        requests: Requests,
        rng: Rng,
        region: RegionMap,
        keys: Sequence[bytes],
        parcel_of: Callable[[bytes], Parcel],
    ) -> None:
        pairs = sorted((key_of(key), key) for key in keys)
        self._keys = [key for _, key in pairs]
        self._points: list[Key] = [point for point, _ in pairs]
        self._index = {key: index for index, key in enumerate(self._keys)}
        self._network = network
        self._requests = requests
        self._rng = rng
        self._region = region
        self._parcel_of = parcel_of
        self._withdrawn: dict[bytes, None] = {}
        self._looks: dict[Look, Zone] = {}
        """Lookups under way, each with the zone that it is expected to cover."""
        self._lookups = 0
        self._failed_lookups = 0
        self._looked_up: dict[int, None] = {}
        """Keys that were the target of a lookup themselves."""
        self._preimage: tuple[Zone, Iterator[bytes | None]] | None = None
        """The search for a preimage in a zone."""
        self._due: deque[_Batch] = deque()
        self._given: dict[GiveAll, _Batch] = {}
        self._doubted: deque[_Batch] = deque()
        self._questions: dict[Ask, _Batch] = {}
        self._assigned: dict[PeerId, Intervals] = {}
        """The keys that each living peer got, or will get."""
        self._refused: dict[int, dict[PeerId, None]] = {}
        """Who refused a key."""
        self._cuts: dict[PeerId, int] = {}
        self._failed: dict[PeerId, None] = {}
        self._is_exact = True
        self._is_explored = False

    # --- the machine ------------------------------------------------------------------------------

    def next(self, now: Monotonic) -> RegionStep:
        """What to do now. Call it until it returns ``Wait`` or ``RegionSwept``, and again after
        each report."""
        while True:
            if self._doubted:
                return self._question(self._doubted.popleft(), now)
            while self._due and len(self._given) < PEERS_AT_ONCE:
                if (give := self._give(self._due.popleft(), now)) is not None:
                    return give
            if not self._is_explored:
                step = self._explore()
                if step is not None:
                    return step
            if self._given or self._questions or self._looks:
                return Wait(None)
            if not self._is_explored:
                self._is_explored = True
            if self._share_out():
                continue
            if self._is_explored:
                return self._result()

    def on_looked(self, look: Look, closest: Sequence[PeerId] | None) -> None:
        """A lookup is over; ``closest`` are the living peers that it found, nearest first, or None
        if it was not completed. Nobody at all is no answer either."""
        if self._looks.pop(look, None) is None:
            return
        if not closest:
            self._failed_lookups += 1
            return
        self._failed_lookups = 0
        self._region.found(key_of(look.preimage), closest)
        index = self._index.get(look.preimage)
        if index is not None:
            self._looked_up[index] = None

    def on_given(self, give: GiveAll) -> None:
        """The peer took all of it."""
        self._given.pop(give, None)

    def on_not_given(self, give: GiveAll, why: FailureReason, now: Monotonic) -> None:
        """The peer could not be handed all of it."""
        batch = self._given.pop(give, None)
        if batch is None:
            return
        if why is FailureReason.BROKEN:
            self._doubted.append(batch)
            return
        if why in (FailureReason.UNREACHABLE, FailureReason.TIMEOUT):
            self._requests.failed(give.peer, why, now, began=give.began)
        self._is_dead(give.peer)

    def on_reply(self, ask: Ask, reply: Reply, now: Monotonic) -> None:
        """The peer answered whether it has the last record of a batch."""
        batch = self._questions.pop(ask, None)
        if batch is None:
            return
        self._requests.answered(ask, now)
        if not self._parcel_of(self._keys[batch.indexes[-1]]).is_kept(reply):
            self._refuses(batch)

    def on_failure(self, ask: Ask, why: FailureReason, now: Monotonic) -> None:
        """The peer did not answer."""
        batch = self._questions.pop(ask, None)
        if batch is not None:
            self._requests.failed(ask.peer, why, now, began=ask.began)
            self._is_dead(batch.peer)

    def withdraw(self, key: bytes) -> None:
        """Give ``key`` to nobody else. A no-op if it is not among the keys."""
        if key in self._index:
            self._withdrawn[key] = None

    def is_withdrawn(self, key: bytes) -> bool:
        """Whether :meth:`withdraw` was called for ``key``: a batch that is being sent leaves it
        out."""
        return key in self._withdrawn

    def holders_of(self, key: bytes) -> int:
        """How many peers got ``key`` so far. Looks at every peer."""
        index = self._index[key]
        had = sum(each.end_around(index) is not None for each in self._assigned.values())
        return had - len(self._refused.get(index, ()))

    @property
    def is_hopeless(self) -> bool:
        """Whether so many lookups failed in a row that nobody can be asked."""
        return self._failed_lookups >= MAX_FAILED_LOOKUPS

    # --- exploring --------------------------------------------------------------------------------

    def _explore(self) -> RegionStep | None:
        """The next lookup; None if there is none to begin now. Without any under way that means
        that all are settled, or that no more can be done."""
        if self.is_hopeless or len(self._looks) >= LOOKUPS_AT_ONCE:
            return None
        if self._preimage is not None:
            return self._go_on_with_preimage()
        if self._lookups >= MAX_LOOKUPS:
            self._is_exact = self._is_exact and not any(self._unsettled())
            return None
        expected = Intervals()
        for start, end in self._region.covered:
            expected.add(start, end)
        for zone in self._looks.values():
            expected.add(zone.start, zone.end)
        for group in self._unsettled():
            index = self._uncovered_key(group, expected)
            if index is not None:
                return self._look(self._keys[index])
        if self._looks:
            return None  # they may show that the rest is not needed
        for group in self._unsettled():
            if (step := self._look_beside(group)) is not None:
                return step
        return None

    def _unsettled(self) -> Iterator[Group]:
        for group in self._region.groups(self._points):
            if not self._region.is_covered(group.zone) and not all(
                index in self._looked_up for index in range(group.low, group.high)
            ):
                yield group

    def _uncovered_key(self, group: Group, expected: Intervals) -> int | None:
        """The first key of ``group`` in whose place peers may be missing, once the lookups under
        way are over."""
        index = group.low
        while index < group.high:
            end = expected.end_around(place_of(self._points[index]))
            if end is None:
                return index
            index = bisect_left(self._points, key_at(end), index, group.high)
        return None

    def _look_beside(self, group: Group) -> RegionStep | None:
        """All keys of ``group`` lie in covered places, but their closest peers may lie beside
        these: look there, or look up the keys themselves if they are few."""
        zone = group.zone
        gap = next(self._region.covered.gaps(zone.start, zone.end), None)
        few = group.high - group.low <= FEW_KEYS
        if gap is not None and not few:
            hole = _zone_at(*gap)
            if 0 < hole.bits <= MAX_PREIMAGE_BITS:
                slices = search_preimage_in(key_at(hole.start), hole.bits, self._rng)
                self._preimage = hole, slices
                return self._go_on_with_preimage()
        for index in range(group.low, group.high):
            if index not in self._looked_up:
                return self._look(self._keys[index])
        return None

    def _go_on_with_preimage(self) -> RegionStep:
        assert self._preimage is not None
        zone, slices = self._preimage
        preimage = next(slices, b"")
        if preimage is None:
            return Working()
        self._preimage = None
        if not preimage:  # none was found within the effort, which hardly ever happens
            self._failed_lookups += 1
            return Working()
        self._lookups += 1
        look = Look(preimage)
        self._looks[look] = zone
        return look

    def _look(self, key: bytes) -> Look:
        self._lookups += 1
        look = Look(key)
        self._looks[look] = Zone.around(
            place_of(self._points[self._index[key]]), self._region.zone_bits
        )
        return look

    # --- handing out ------------------------------------------------------------------------------

    def _share_out(self) -> bool:
        """Let every key go to its closest peers that did not get it yet; whether there are any.
        If somebody has failed meanwhile, others may be needed that are not known yet."""
        if self.is_hopeless and not len(self._region):
            return False
        for peer, ranges in self._region.allocate(self._points).items():
            had = self._assigned.setdefault(peer, Intervals())
            new = [index for low, high in ranges for index in _new(had, low, high)]
            for low, high in ranges:
                had.add(low, high)
            if new:
                self._due.append(_Batch(peer, new))
        for index, refusers in self._refused.items():
            closest = self._region.nearest(self._points[index], self._network.k + len(refusers))
            for peer in closest:
                had = self._assigned.setdefault(peer, Intervals())
                if had.end_around(index) is None:
                    had.add(index, index + 1)
                    self._due.append(_Batch(peer, [index]))
        return bool(self._due)

    def _give(self, batch: _Batch, now: Monotonic) -> GiveAll | None:
        """The step that hands out ``batch``; None if nothing of it is left to give."""
        if batch.peer in self._failed:
            return None
        batch.indexes = [i for i in batch.indexes if self._keys[i] not in self._withdrawn]
        if not batch.indexes:
            return None
        keys = tuple(self._keys[index] for index in batch.indexes)
        time_s = PROVIDE_RPC_TIMEOUT_S + RECORD_TIME_S * len(keys)
        give = GiveAll(batch.peer, keys, now, Monotonic(now + time_s))
        self._given[give] = batch
        return give

    def _question(self, batch: _Batch, now: Monotonic) -> Ask:
        question: Request = self._parcel_of(self._keys[batch.indexes[-1]]).question
        ask = self._requests.begin(batch.peer, question, now, timeout_s=PROVIDE_RPC_TIMEOUT_S)
        self._questions[ask] = batch
        return ask

    def _refuses(self, batch: _Batch) -> None:
        """The peer did not take the last record, at least: find out which ones it refuses."""
        peer, indexes = batch.peer, batch.indexes
        cuts = self._cuts.get(peer, 0)
        if len(indexes) > 1 and cuts < MAX_CUTS:
            self._cuts[peer] = cuts + 1
            middle = len(indexes) // 2
            self._due.appendleft(_Batch(peer, indexes[middle:]))
            self._due.appendleft(_Batch(peer, indexes[:middle]))
            return
        for index in indexes:
            self._refused.setdefault(index, {})[peer] = None

    def _is_dead(self, peer: PeerId) -> None:
        """Others take the place of ``peer`` with all of its keys."""
        if peer in self._failed:
            return
        self._failed[peer] = None
        had = self._assigned.pop(peer, Intervals())
        self._looked_up = {i: None for i in self._looked_up if had.end_around(i) is None}
        self._region.failed(peer)
        self._is_explored = False

    # --- the end ----------------------------------------------------------------------------------

    def _result(self) -> RegionSwept:
        steps = [0] * (len(self._keys) + 1)
        for had in self._assigned.values():
            for low, high in had:
                steps[low] += 1
                steps[high] -= 1
        counts = list(accumulate(steps[:-1]))
        refusing: dict[PeerId, None] = {}
        for index, refusers in self._refused.items():
            counts[index] -= len(refusers)
            refusing |= refusers
        kept = [i for i, key in enumerate(self._keys) if key not in self._withdrawn]
        return RegionSwept(
            held=tuple(self._keys[i] for i in kept if counts[i] > 0),
            unheld=tuple(self._keys[i] for i in kept if counts[i] <= 0),
            copies=sum(max(0, counts[i]) for i in kept),
            holders=tuple(peer for peer in self._assigned if peer not in refusing),
            failed=len(self._failed),
            lookups=self._lookups,
            is_exact=self._is_exact and not self.is_hopeless,
        )


def _new(had: Intervals, low: int, high: int) -> Iterator[int]:
    for begin, end in had.gaps(low, high):
        yield from range(begin, end)


def _zone_at(start: int, end: int) -> Zone:
    """The largest zone that begins at ``start`` and does not reach beyond ``end``."""
    bits = 0 if start == 0 else PLACE_BITS - ((start & -start).bit_length() - 1)
    while Zone(Place(start), bits).end > end:
        bits += 1
    return Zone(Place(start), bits)
