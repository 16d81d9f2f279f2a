r"""How peers have answered so far: the memory that all lookups of a network share.

Decides how long a lookup waits for a peer, which peers it need not ask, and what it may say of one
that does not answer in time. Per peer it keeps the last sign of life, a smoothed answer time (TCP's
estimator, RFC 6298) and the failures in a row; over all peers the recent answer times, on open
connections and with a dial apart, for those it knows nothing of. In these each peer has one voice,
its latest: how often one is asked may be its own doing.

What is known of a peer::

    UNKNOWN --answered / reached--> ALIVE --failed--> DEAD --back-off over--> SUSPECT
       \--failed--> DEAD            ^------ answered / introduced itself -----/

A DEAD peer is left alone. A SUSPECT is asked again, without anybody waiting for it. So is a peer
that is known to be alive and slower than a lookup's patience. Every other one has until its soft
deadline before others are asked in its place, and until the patience ends before the lookup does
without it.

Must never: read a clock, forget that a peer is alive because another one is dead.
Bound: ``MAX_HEALTH_PEERS`` that were met (they answered, or are connected and speak the protocol),
and as many that were not; of each kind whoever was seen least recently is forgotten. Names cost
nothing, so those that lead nowhere push out each other only.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from heapq import nsmallest
from itertools import chain
from typing import Final

from codio_dht import params
from codio_dht.core.backoff import Backoff
from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key
from codio_dht.core.messages import FailureReason
from codio_dht.core.peer import PeerId

SOFT_DEADLINE_S: Final = 3.0
"""The longest soft deadline, in seconds: no lookup waits for a peer for longer before it asks
others in its place. A later answer still counts (RS: 10 s)."""

MIN_SOFT_DEADLINE_S: Final = 0.25
"""The shortest soft deadline, in seconds, of a peer that is not known to be dead or slow."""

SOFT_DEADLINE_FACTOR: Final = 3.2
"""The soft deadline of a peer of which nothing is known: so many times the median of the latest
answer times. With lognormal round trips (sigma 0.6, as measured) one living peer in 40 is
slower."""

PATIENCE_FACTOR: Final = 4.0
"""How long a lookup that is over otherwise still waits for one of the k closest: so many times
the median of the latest answer times. (One living peer in 100 is slower. It is returned all the
same, as alive.)"""

MIN_PATIENCE_S: Final = 0.8
"""The shortest time, in seconds, that such a lookup (``PATIENCE_FACTOR``) waits."""

REACH_FACTOR: Final = 2.5
"""A peer that has to be dialled takes the connection within so many times the median of whole
requests with a dial, or the lookup does without it. That is 7.5 times the median of one of the
three round trips (one living peer in 2,500 is slower)."""

MIN_REACH_S: Final = 0.8
"""The shortest time, in seconds, that a dialled peer (``REACH_FACTOR``) has to take the
connection."""

DEFAULT_ANSWER_S: Final = 0.5
"""Answer time assumed while fewer than ``MIN_ANSWER_TIMES`` were seen, seconds."""

MIN_ANSWER_TIMES: Final = 8
"""Answer times that have to be known before they count."""

ANSWER_TIMES_KEPT: Final = 64
"""Latest answer times that are kept, of requests with and without a dial each."""

DIAL_ROUND_TRIPS: Final = 3
"""Round trips of a request to a peer without a connection: TCP, security, muxer and request."""

ALIVE_MEMORY_S: Final = 600.0
"""A peer that gave a sign of life this long ago, and did not fail since, still counts as alive
where it is too slow to be waited for, seconds (the interval of refreshes)."""

DEAD_BACKOFF_S: Final = 30.0
"""A peer that failed is left alone by all lookups for this long, seconds; each further failure in a
row doubles that, up to ``MAX_DEAD_BACKOFF_S``."""

MAX_DEAD_BACKOFF_S: Final = 960.0
"""Longest time for which lookups leave a peer that failed alone, seconds (16 min)."""

SILENT_PEER_BACKOFF_S: Final = 10.0
"""A peer that a lookup gave up on without a sign of life is left alone for this long, seconds: by
then its request has failed or was answered."""

MAX_HEALTH_PEERS: Final = 8_192
"""Peers whose answers and failures are remembered, and as many more of whom none was ever met; of
each kind the one seen least recently is forgotten."""

_DEAD_BACKOFF: Final = Backoff(DEAD_BACKOFF_S, MAX_DEAD_BACKOFF_S)
"""How long no lookup asks a peer that failed."""


class Condition(Enum):
    """What is known of a peer's life."""

    UNKNOWN = "unknown"
    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Outlook:
    """What to expect of a request to a peer that would start now."""

    condition: Condition
    expected_s: float
    """Its likely answer time."""
    soft_s: float
    """After this others are asked in its place."""
    reach_s: float
    """After this it is not waited for any more, unless it showed signs of life."""
    patience_s: float
    """After this it is not waited for any more."""
    alive_at: Monotonic | None = None
    """Its last sign of life, if that still counts."""


class _Health:
    """What is known of one peer."""

    __slots__ = (
        "alive_at",
        "at_least_s",
        "excused_before",
        "failures",
        "introduced_at",
        "jitter_s",
        "left_alone_until",
        "round_trip_s",
        "silent_until",
        "trusted",
    )

    def __init__(self) -> None:
        self.alive_at: Monotonic | None = None
        self.round_trip_s: float | None = None
        self.jitter_s = 0.0
        self.at_least_s = 0.0
        """It was given up after so long, and has not answered since."""
        self.failures = 0
        self.left_alone_until = Monotonic(0.0)
        self.silent_until = Monotonic(0.0)
        self.introduced_at: Monotonic | None = None
        """When it last said that it speaks the protocol, and was believed."""
        self.excused_before = Monotonic(0.0)
        """Requests that began before this do not count when they fail."""
        self.trusted = True
        """Whether it has answered since an introduction excused a failure of it."""

    def took(self, round_trip_s: float) -> None:
        """An answer time, by RFC 6298."""
        if self.round_trip_s is None:
            self.round_trip_s, self.jitter_s = round_trip_s, round_trip_s / 2
        else:
            off = abs(self.round_trip_s - round_trip_s)
            self.jitter_s = 0.75 * self.jitter_s + 0.25 * off
            self.round_trip_s = 0.875 * self.round_trip_s + 0.125 * round_trip_s


class _RecentTimes:
    """The last answer times of those who answered last, one of each peer, seconds."""

    __slots__ = ("_answers", "_median_s", "_times")

    def __init__(self) -> None:
        self._times: OrderedDict[PeerId, float] = OrderedDict()
        self._answers = 0
        self._median_s: float | None = DEFAULT_ANSWER_S

    def add(self, peer: PeerId, took_s: float) -> None:
        self._answers += 1
        self._times[peer] = took_s
        self._times.move_to_end(peer)
        if len(self._times) > ANSWER_TIMES_KEPT:
            self._times.popitem(last=False)
        if self._answers >= MIN_ANSWER_TIMES:
            self._median_s = None

    @property
    def median_s(self) -> float:
        """The median: slow peers, whose answers come in bursts, do not move it."""
        if self._median_s is None:
            self._median_s = sorted(self._times.values())[len(self._times) // 2]
        return self._median_s


class PeerHealth:
    """What all lookups of a network share about the answers of peers. ``dialled`` and ``connected``
    tell whether a request has to dial first."""

    def __init__(self, capacity: int = MAX_HEALTH_PEERS) -> None:
        self._capacity = capacity
        self._met: OrderedDict[PeerId, _Health] = OrderedDict()
        self._strangers: OrderedDict[PeerId, _Health] = OrderedDict()
        self._on_connections = _RecentTimes()
        self._with_dials = _RecentTimes()

    def __len__(self) -> int:
        return len(self._met) + len(self._strangers)

    # --- what happened ----------------------------------------------------------------------------

    def answered(self, peer: PeerId, took_s: float, now: Monotonic, *, dialled: bool) -> None:
        """``peer`` answered a request. A time past the deadline of requests is not the peer's: this
        machine was suspended meanwhile."""
        health = self._of(peer, met=True)
        health.alive_at = now
        health.failures = 0
        health.silent_until = now
        health.at_least_s = 0.0
        health.trusted = True
        if took_s <= params.PEER_TIMEOUT_S:
            health.took(took_s / DIAL_ROUND_TRIPS if dialled else took_s)
            (self._with_dials if dialled else self._on_connections).add(peer, took_s)

    def introduced(self, peer: PeerId, now: Monotonic) -> bool:
        """``peer`` said over a connection that it speaks the protocol; whether that cleared it of
        failures.

        A peer that died and came back is cleared once, and again when it has answered a request
        since. One that only connects, again and again, stays suspect.
        """
        health = self._of(peer, met=True)
        had_failed = health.failures > 0
        if had_failed:
            if not health.trusted:
                return False
            health.trusted = False
            health.excused_before = now
        health.alive_at = health.introduced_at = now
        health.failures = 0
        health.silent_until = now
        return had_failed

    def excuses(self, peer: PeerId, began: Monotonic) -> bool:
        """Whether the failure of a request to ``peer`` that began at ``began`` says nothing.

        That is so if the peer has introduced itself since, for then the request went to a
        connection of before. It is granted for one introduction, and again for another one when the
        peer has answered a request in between.
        """
        health = self._met.get(peer)
        if health is None or health.introduced_at is None or began >= health.introduced_at:
            return False
        if began >= health.excused_before:
            if not health.trusted:
                return False
            health.trusted = False
            health.excused_before = health.introduced_at
        return True

    def forgive(self) -> None:
        """Our own network was down: no failure so far is held against anybody."""
        for health in chain(self._met.values(), self._strangers.values()):
            health.failures = 0
            health.silent_until = Monotonic(0.0)

    def failed(self, peer: PeerId, why: FailureReason, now: Monotonic) -> None:
        """A request to ``peer`` failed: it is left alone for a while, longer each time."""
        if why is FailureReason.CAPACITY:
            return
        health = self._of(peer)
        if health.failures and now < health.left_alone_until:
            return  # the same failure, seen by another lookup
        health.failures += 1
        health.left_alone_until = Monotonic(now + _DEAD_BACKOFF.delay_s(health.failures))

    def given_up(
        self, peer: PeerId, waited_s: float, now: Monotonic, *, reached: bool, dialled: bool
    ) -> None:
        """A lookup did not wait for ``peer`` any longer; its request goes on. ``reached``: it gave
        a sign of life without answering, such as a transport connection."""
        health = self._of(peer)
        if reached and not health.failures:
            health.alive_at = now
        health.at_least_s = 2 * waited_s / (DIAL_ROUND_TRIPS if dialled else 1)
        if health.alive_at is None:
            health.silent_until = Monotonic(now + SILENT_PEER_BACKOFF_S)

    # --- what to expect ---------------------------------------------------------------------------

    def outlook(self, peer: PeerId, now: Monotonic, *, connected: bool) -> Outlook:
        """What to expect of a request to ``peer`` now."""
        recent = self._on_connections if connected else self._with_dials
        trips = 1 if connected else DIAL_ROUND_TRIPS
        typical_s = recent.median_s
        patience_s = _within(PATIENCE_FACTOR * typical_s, MIN_PATIENCE_S, SOFT_DEADLINE_S)
        health = self._met.get(peer) or self._strangers.get(peer)
        condition = Condition.UNKNOWN if health is None else self._condition(health, now)
        if health is None or health.round_trip_s is None:
            expected_s = typical_s
            soft_s = SOFT_DEADLINE_FACTOR * typical_s
        else:
            expected_s = trips * health.round_trip_s
            soft_s = trips * (health.round_trip_s + 4 * health.jitter_s)
        if health is not None:
            expected_s = max(expected_s, trips * health.at_least_s)
        soft_s = _within(soft_s, MIN_SOFT_DEADLINE_S, patience_s)
        alive_at = health.alive_at if health and condition is Condition.ALIVE else None
        reach_s = patience_s
        if not connected:  # somebody takes the connection within the first of the round trips
            reach_s = min(patience_s, max(MIN_REACH_S, REACH_FACTOR * typical_s))
        if condition is Condition.SUSPECT or (alive_at is not None and expected_s > patience_s):
            soft_s = reach_s = patience_s = 0.0
        return Outlook(condition, expected_s, soft_s, reach_s, patience_s, alive_at)

    def nearest_alive(self, key: Key, n: int, now: Monotonic) -> list[PeerId]:
        """The ``n`` peers nearest to ``key`` of those met and known to be alive, nearest first."""
        alive = (
            peer
            for peer, health in self._met.items()
            if self._condition(health, now) is Condition.ALIVE
        )
        return nsmallest(n, alive, lambda peer: peer.key ^ key)

    # --- inside -----------------------------------------------------------------------------------

    def _condition(self, health: _Health, now: Monotonic) -> Condition:
        if now < health.silent_until or (health.failures and now < health.left_alone_until):
            return Condition.DEAD
        if health.failures:
            return Condition.SUSPECT
        if health.alive_at is not None and now - health.alive_at <= ALIVE_MEMORY_S:
            return Condition.ALIVE
        return Condition.UNKNOWN

    def _of(self, peer: PeerId, *, met: bool = False) -> _Health:
        kept = self._met if met or peer in self._met else self._strangers
        health = kept.pop(peer, None) or self._strangers.pop(peer, None) or _Health()
        kept[peer] = health
        if len(kept) > self._capacity:
            kept.popitem(last=False)
        return health


def _within(value: float, least: float, most: float) -> float:
    return max(least, min(value, most))
