r"""When which part of the keyspace is swept: in what order this node's own keys are provided again.

Decides what is done next, of the whole keyspace: which keys are due, how the work is spread over
the reprovide interval, what goes ahead of what, and what follows when nobody can be reached.
:mod:`codio_dht.core.region_sweep` hands out the records of one part. What is durable, the store
knows.

    next(now, ...) -> Turn(zone, part)       sweep that part; begun, and reported by swept, ended
                    | Measure(preimage)      look it up, to learn the size of the network
                    | Rest(until)

Every place has a *slot*: a moment in each interval, which follows from the place and from this
node's id (XOR), so that two nodes do not do the same at the same time. A part of the keyspace that
was swept is due again at its next slot, at least ``EARLIEST`` of an interval later, and a whole
interval later at the latest. So however fast many keys were added, from the second interval on the
work is spread evenly.

Order: parts with *waiting* keys (new ones, and those that nobody took) come first, but never in the
last place of ``TURNS_AT_ONCE`` while anything is due; then the part that was swept longest ago.
After a time offline that is the oldest first. What was swept before a restart is known from the
store, down to the page, and is not repeated.

States::

    online --nobody can be reached--> disconnected --OFFLINE_AFTER_S--> offline
      ^------------------- somebody answers ------------------------------'

Nothing is begun unless online. New keys are only written down until then.

A part that was swept while fewer than ``k`` peers were known is *thin*: too few hold its keys. It
is due as soon as at least twice as many peers are known as then, or ``k`` (``grown``). In a network
that stays small it waits its interval like any other. As the bar doubles, that makes at most
``log2(k) + 1`` sweeps more.

All times are Unix time, for they outlive the process. A time in the future (the clock was set back)
counts as now, so it delays no key by more than one interval.

Must never: read a clock, hold anything for each key.
Bound: ``MAX_SPANS`` parts of the keyspace.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import ceil, floor, inf, log2
from typing import Final

from codio_dht.core.backoff import Backoff
from codio_dht.core.clock import UnixTime
from codio_dht.core.keyspace import Key
from codio_dht.core.regions import EVERYWHERE, PLACES, Intervals, Place, Zone, place_of
from codio_dht.core.rng import Rng
from codio_dht.params import REPROVIDE_INTERVAL_S, K

TURNS_AT_ONCE: Final = 4
"""Parts of the keyspace that are swept at the same time (GO 4 workers)."""

REGION_PEERS: Final = 128
"""Peers that a part of the keyspace is expected to have. More of them make fewer lookups at its
borders, fewer make the work more even."""

MAX_REGION_BITS: Final = 16
"""The smallest part of the keyspace that is swept by itself (GO 24 bits)."""

EARLIEST: Final = 0.1
"""The part of an interval for which a sweep counts, however soon its next slot is."""

MEASURING_LOOKUPS: Final = 6
"""Lookups of random keys that are made to learn the size of the network, at most (GO 4)."""

OFFLINE_AFTER_S: Final = 2 * 3_600.0
"""So long after the last answer this node is offline, no longer just disconnected, seconds (GO)."""

REPROVIDE_CHECK_S: Final = 60.0
"""The schedule is looked at at least this often, seconds: the Unix clock may jump."""

RECONNECT_CHECK_S: Final = 5.0
"""How often it is looked at while nobody can be reached or more peers would help, seconds."""

PROVIDE_RETRY_S: Final = 60.0
"""A part in which something failed is tried again after this many seconds. The time doubles with
each failure."""

PROVIDE_RETRY_MAX_S: Final = 3_600.0
"""The longest time until such a part is tried again, seconds."""

MAX_LEFT_KEYS: Final = 256
"""Keys that a turn could not provide and that are tried again later each by itself. If there are
more, the whole part is."""

MAX_SPANS: Final = 65_536
"""Parts of the keyspace of which the time of the last sweep is remembered. Past it the two
neighbours that were swept at nearly the same time become one."""

RATE_WINDOW_S: Final = 600.0
"""Time over which the rate of keys is measured, seconds."""

LAG_WARNING_S: Final = 900.0
"""A lag behind the interval that is longer, seconds, is warned of (Kubo looks every 15 min)."""

_MAX_MEASUREMENTS: Final = 1_024


# --- steps ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Turn:
    """Sweep the keys whose places lie from ``start`` up to ``end``; only those that wait, if
    ``waiting_only``."""

    start: Place
    end: Place
    waiting_only: bool


@dataclass(frozen=True, slots=True)
class Measure:
    """Look up the k peers closest to the key of ``preimage``, to learn the size of the network."""

    preimage: bytes


@dataclass(frozen=True, slots=True)
class Rest:
    """There is nothing to do before ``until``, unless something changes."""

    until: UnixTime


SweepStep = Turn | Measure | Rest


class Connectivity(Enum):
    """Whether anybody can be reached. See the module."""

    ONLINE = "online"
    DISCONNECTED = "disconnected"
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True)
class SweepFigures:
    """Where the sweep of the whole keyspace stands."""

    connectivity: Connectivity
    regions: int
    """Parts of the keyspace, each swept by itself."""
    due: int
    """Those that are due now."""
    running: int
    next_due: UnixTime | None
    """When the next part is due; None if none ever is."""
    lag_s: float
    """How long the part has been due that is due for longest."""
    keys_per_s: float
    """Keys provided, over the last ``RATE_WINDOW_S``."""
    copies_per_key: float | None
    """Holders of a key, on average over the same time; None if no key was provided."""


@dataclass(slots=True)
class _Failures:
    """Something failed from a place up to ``end``."""

    end: Place
    count: int
    until: float


class Sweep:
    """The schedule of one node. See the module.

    Args:
        local: the key of this node.
        interval_s: how often everything is swept, seconds; 0 means once, and never again.
    """

    def __init__(
        self,
        local: Key,
        rng: Rng,
        *,
        interval_s: float = REPROVIDE_INTERVAL_S,
        k: int = K,
        max_spans: int = MAX_SPANS,
    ) -> None:
        self._own = place_of(local)
        self._rng = rng
        self._interval_s = interval_s
        self._k = k
        self._max_spans = max_spans
        self._starts: list[Place] = [Place(0)]
        self._swept: list[float] = [0.0]
        """When each span was swept: from its start up to the next one's."""
        self._running: dict[Turn, None] = {}
        self._failures: dict[Place, _Failures] = {}
        """Parts in which something failed, and places of keys that were left over, by their start.
        No more than ``max_spans``; past that the one that failed first is forgotten."""
        self._backoff = Backoff(PROVIDE_RETRY_S, PROVIDE_RETRY_MAX_S)
        self._thin: dict[Place, int] = {}
        """How many peers have to be known for a part to be swept again, by the part's start."""
        self._measured = 0
        self._connectivity_since: float | None = None
        """Since when nobody can be reached; None while online."""
        self._latest = inf
        """The latest time seen; infinite before the first one, for the store's times may lie in the
        future."""
        self._done: deque[tuple[float, int, int]] = deque(maxlen=_MAX_MEASUREMENTS)

    # --- from the store ---------------------------------------------------------------------------

    def opened(self, spans: Sequence[tuple[Place, UnixTime]]) -> None:
        """The store says when each part was swept, from its first place up to the next part's. The
        first part begins at place 0."""
        self._starts = [start for start, _ in spans]
        self._swept = [at for _, at in spans]

    def nothing_to_do(self, now: UnixTime) -> Rest:
        """There are no keys: all of them, none, were swept just now."""
        if not self._running:
            self.opened([(Place(0), now)])
            self._thin.clear()
            self._failures.clear()
        return Rest(UnixTime(now + REPROVIDE_CHECK_S))

    @property
    def spans(self) -> list[tuple[Place, UnixTime]]:
        """When each part was swept: what the store should say too."""
        return [(start, UnixTime(at)) for start, at in zip(self._starts, self._swept, strict=True)]

    # --- what is next -----------------------------------------------------------------------------

    def busy(self, now: UnixTime) -> list[tuple[int, int]]:
        """Where no turn can begin now, as ranges in order: it is being swept, or was tried a moment
        ago. A waiting key that lies there need not be named to :meth:`next`."""
        busy = Intervals()
        for turn in self._running:
            busy.add(turn.start, turn.end)
        for start, failures in self._failures.items():
            if self._is_resting(failures, now):
                busy.add(start, failures.end)
        return list(busy)

    def next(
        self, now: UnixTime, waiting: Place | None, known: int, size: float | None
    ) -> SweepStep:
        """What to do now. ``waiting`` is the place of a key that waits outside of what is
        :meth:`busy`; ``known`` and ``size`` are how many peers are known, and how many there
        probably are (None: not known)."""
        self._correct_future(now)
        if self._connectivity_since is not None:
            return Rest(UnixTime(now + RECONNECT_CHECK_S))
        due = self._most_overdue(now)
        if waiting is None and due is None:
            return Rest(self._rest_until(now))
        if size is None and known >= self._k and self._measured < MEASURING_LOOKUPS:
            self._measured += 1
            return Measure(self._rng.getrandbits(256).to_bytes(32, "big"))
        if len(self._running) >= TURNS_AT_ONCE:
            return Rest(UnixTime(now + REPROVIDE_CHECK_S))
        bits = region_bits(size)
        of_waiting = sum(turn.waiting_only for turn in self._running)
        if waiting is not None and (due is None or of_waiting < TURNS_AT_ONCE - 1):
            return self._turn_at(waiting, bits, now)
        assert due is not None
        return self._turn_at(self._starts[due], bits, now)

    def begun(self, turn: Turn) -> None:
        """``turn`` is under way."""
        self._running[turn] = None
        if not turn.waiting_only:
            self._split(turn.end)  # what lies behind it is swept by other turns

    def swept(
        self, turn: Turn, start: Place, end: Place, at: UnixTime, *, keys: int, copies: int
    ) -> None:
        """The part of ``turn`` from ``start`` up to ``end`` was swept at ``at``: ``keys`` have
        ``copies`` holders in all. The store is to be told first."""
        self._done.append((at, keys, copies))
        if not turn.waiting_only:
            self._note(start, end, at)

    def ended(
        self, turn: Turn, now: UnixTime, *, failed: bool, known: int, left: Sequence[Place] = ()
    ) -> None:
        """``turn`` is over. If it ``failed``, all of it is tried again later; or else the keys at
        the places ``left`` are, which wait still, and which hold up no others. ``known`` peers were
        known."""
        self._running.pop(turn, None)
        failed = failed or len(left) > MAX_LEFT_KEYS
        ends = {turn.start: turn.end} if failed else {place: Place(place + 1) for place in left}
        counts = {start: failures.count for start, failures in self._failures.items()}
        if not failed:
            for start in [start for start in self._failures if turn.start <= start < turn.end]:
                del self._failures[start]
            self.known_at(turn.start, known)
        for start, end in ends.items():
            count = counts.get(start, 0) + 1
            self._failures.pop(start, None)
            self._failures[start] = _Failures(end, count, now + self._backoff.delay_s(count))
            if len(self._failures) > self._max_spans:
                del self._failures[next(iter(self._failures))]

    def known_at(self, place: Place, known: int) -> None:
        """What lies at ``place`` was provided while ``known`` peers were known."""
        start = self._starts[self._index_of(place)]
        if known >= self._k:
            return
        self._thin[start] = min(self._k, max(2 * known, known + 1))

    def grown(self, known: int) -> bool:
        """``known`` peers are known now: what is thin and for which that is enough is due at once;
        whether there is any. Cheap while there is nothing to do."""
        ready = [start for start, bar in self._thin.items() if bar <= known]
        for start in ready:
            del self._thin[start]
            index = self._index_of(start)
            if self._interval_s:
                self._swept[index] = 0.0
            self._failures.pop(start, None)
        return bool(ready)

    @property
    def is_thin(self) -> bool:
        """Whether more peers would make anything due."""
        return bool(self._thin)

    # --- reaching somebody ------------------------------------------------------------------------

    def nobody(self, now: UnixTime) -> None:
        """Nobody can be reached, or nobody could be told where this node is."""
        if self._connectivity_since is None:
            self._connectivity_since = now

    def somebody(self) -> None:
        """Somebody can be reached again: nothing that failed before is held against any part."""
        if self._connectivity_since is not None:
            self._connectivity_since = None
            self._failures.clear()

    def connectivity(self, now: UnixTime) -> Connectivity:
        """Whether anybody can be reached."""
        if self._connectivity_since is None:
            return Connectivity.ONLINE
        if now - self._connectivity_since < OFFLINE_AFTER_S:
            return Connectivity.DISCONNECTED
        return Connectivity.OFFLINE

    # --- questions --------------------------------------------------------------------------------

    def due_at(self, place: Place, now: UnixTime) -> UnixTime | None:
        """When what lies at ``place`` is swept next; None if never."""
        due = self._due(self._index_of(place), now)
        return None if due == inf else UnixTime(due)

    def swept_at(self, place: Place) -> UnixTime:
        """When what lies at ``place`` was swept last; 0 if never."""
        return UnixTime(self._swept[self._index_of(place)])

    def lag_s(self, now: UnixTime) -> float:
        """How long the part has been due that is due for longest, in seconds; 0 if none is due."""
        first = min(self._due(index, now) for index in range(len(self._starts)))
        return max(0.0, now - max(first, self._earliest_due(now)))

    def figures(self, now: UnixTime) -> SweepFigures:
        """Where the sweep stands. Looks at every part."""
        dues = [self._due(index, now) for index in range(len(self._starts))]
        first = min(dues)
        recent = [each for each in self._done if now - RATE_WINDOW_S <= each[0] <= now]
        keys = sum(count for _, count, _ in recent)
        copies = sum(count for _, _, count in recent)
        return SweepFigures(
            connectivity=self.connectivity(now),
            regions=len(dues),
            due=sum(due <= now for due in dues),
            running=len(self._running),
            next_due=None if first == inf else UnixTime(first),
            lag_s=self.lag_s(now),
            keys_per_s=keys / RATE_WINDOW_S,
            copies_per_key=copies / keys if keys else None,
        )

    # --- inside -----------------------------------------------------------------------------------

    def _correct_future(self, now: UnixTime) -> None:
        """If the clock was set back, what was swept later than now was swept now."""
        if now < self._latest:
            self._swept = [min(swept, now) for swept in self._swept]
            if self._connectivity_since is not None:
                self._connectivity_since = min(self._connectivity_since, now)
        self._latest = now

    def _earliest_due(self, now: UnixTime) -> float:
        """Nothing counts as late for longer than an interval."""
        return now - self._interval_s

    def _index_of(self, place: int) -> int:
        return bisect_right(self._starts, place) - 1

    def _end(self, index: int) -> Place:
        return self._starts[index + 1] if index + 1 < len(self._starts) else Place(PLACES)

    def _due(self, index: int, now: UnixTime) -> float:
        """When the span is due: at its next slot. See the module."""
        interval_s = self._interval_s
        if not interval_s:
            return inf if self._swept[index] else -inf
        swept = min(self._swept[index], now)  # see _correct_future
        slot = interval_s * ((self._starts[index] ^ self._own) / PLACES)
        counts_until = swept + EARLIEST * interval_s
        next_slot = slot + interval_s * ceil((counts_until - slot) / interval_s)
        return min(next_slot, swept + interval_s)

    def _most_overdue(self, now: UnixTime) -> int | None:
        """The span that is due and was swept longest ago; None if none is due."""
        found, oldest = None, inf
        for index, swept in enumerate(self._swept):
            if swept < oldest and self._due(index, now) <= now and self._may_begin(index, now):
                found, oldest = index, swept
        return found

    def _may_begin(self, index: int, now: UnixTime) -> bool:
        start, end = self._starts[index], self._end(index)
        if any(turn.start < end and start < turn.end for turn in self._running):
            return False
        return not any(
            failed <= start < failures.end and self._is_resting(failures, now)
            for failed, failures in self._failures.items()
        )

    def _is_resting(self, failures: _Failures, now: UnixTime) -> bool:
        """A time further ahead than any back-off is one of a clock that was wrong."""
        return now < failures.until <= now + PROVIDE_RETRY_MAX_S

    def _turn_at(self, place: Place, bits: int, now: UnixTime) -> Turn:
        """The turn that begins where ``place`` lies: everything there if it is due, or else what
        waits. It stays within one region, and within one span if that is due."""
        region = Zone.around(place, bits)
        index = self._index_of(place)
        start, end = self._starts[index], self._end(index)
        if self._due(index, now) <= now and self._may_begin(index, now):
            return Turn(max(region.start, start), min(region.end, end), waiting_only=False)
        begin, until = region.start, region.end
        for turn in self._running:
            if turn.end <= place:
                begin = max(begin, turn.end)
            if turn.start > place:
                until = min(until, turn.start)
        return Turn(begin, until, waiting_only=True)

    def _rest_until(self, now: UnixTime) -> UnixTime:
        until = now + (RECONNECT_CHECK_S if self._thin else REPROVIDE_CHECK_S)
        for index in range(len(self._starts)):
            due = self._due(index, now)
            if due > now:
                until = min(until, due)
        for failures in self._failures.values():
            if self._is_resting(failures, now):
                until = min(until, failures.until)
        return UnixTime(until)

    def _note(self, start: Place, end: Place, at: float) -> None:
        """From ``start`` up to ``end`` everything was swept at ``at``."""
        self._split(end)
        first, last = bisect_left(self._starts, start), bisect_left(self._starts, end)
        for gone in self._starts[first:last]:
            self._thin.pop(gone, None)
        self._starts[first:last] = [start]
        self._swept[first:last] = [at]
        while len(self._starts) > self._max_spans:
            self._join_two()

    def _split(self, at: Place) -> None:
        """Let a span begin at ``at``, swept when the one was that it is a part of."""
        index = bisect_left(self._starts, at)
        if at < PLACES and (index == len(self._starts) or self._starts[index] != at):
            self._swept.insert(index, self._swept[index - 1])
            self._starts.insert(index, at)

    def _join_two(self) -> None:
        """Make one of the two neighbours that were swept at nearly the same time, as old as the
        older one."""
        gaps = [abs(a - b) for a, b in zip(self._swept, self._swept[1:], strict=False)]
        index = gaps.index(min(gaps))
        self._swept[index] = min(self._swept[index], self._swept[index + 1])
        self._thin.pop(self._starts[index + 1], None)
        del self._starts[index + 1], self._swept[index + 1]


def region_bits(size: float | None) -> int:
    """How many bits the regions of a network of ``size`` servers have, so that each has about
    ``REGION_PEERS`` of them, or up to twice as many. One region if the size is not known."""
    if size is None or size < 2 * REGION_PEERS:
        return EVERYWHERE.bits
    return min(MAX_REGION_BITS, floor(log2(size / REGION_PEERS)))
