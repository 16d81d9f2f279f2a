r"""The table's upkeep: which lookups and which liveness probes are due.

Decides by GO's refresh, and looks after the own neighbourhood more often. A run begins every
``interval_s``, or on request, and consists of

- a liveness probe of every entry that has not answered for ``grace_s``, a few at a time;
- a lookup of the local key, then a lookup at every CPL from 0 to the longest one with a peer (at
  most ``max_cpl``) that had no lookup within ``interval_s``. Where a CPL ``c`` is still empty after
  that, the run goes on to ``2 * (c + 1)`` at most: beyond a gap there is rarely anybody. CPLs
  longer than that of the k-th closest peer are spared: whoever is there is nearer than that one,
  and the lookup of the local key has found it;
- a liveness probe of those of the k nearest entries that did not answer during the run. They are in
  every answer about keys near this node, so none of them goes unverified for longer than a run.

States::

    idle --due / request--> own key --lookup_ended--> CPL 0 --lookup_ended--> ... --> idle
    idle --a neighbour left, or a newcomer while peers are few--> own key --lookup_ended--> idle

One lookup is out at a time, except while the node joins (no run is over yet, or the table holds
less than a bucket): then up to ``join_lookups`` are, so that slow peers hold up only one of them,
and a CPL that has meanwhile all the peers it can have is not looked up. A lookup counts whether or
not it found anything (GO).

When one of the k nearest entries leaves, somebody whom this node does not know has taken its place
among the k closest: the local key is looked up again, ``CLOSE_LOOKUP_DELAY_S`` later and at most
every ``CLOSE_LOOKUP_INTERVAL_S``. Likewise when somebody enters a table of fewer than
``LOW_PEERS``, for it may know others (GO).

A node that joins at the same moment as this one is known to nobody yet whom the joining run asks.
So while the table holds less than a bucket, the local key is looked up again after that run:
``MAX_JOIN_FOLLOW_UPS`` times, ``JOIN_FOLLOW_UP_S`` later and then at ever longer distances.

Must never: probe one entry twice at a time, or wait for a lookup whose end was reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from codio_dht import params
from codio_dht.core.backoff import Backoff
from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key, cpl
from codio_dht.core.outage import Outage
from codio_dht.core.peer import PeerId
from codio_dht.core.routing_table import RoutingTable
from codio_dht.core.steps import Wait
from codio_dht.params import KEY_BITS

MAX_REFRESH_CPL: Final = 15
"""Deepest CPL refreshed on its own (GO; deeper ones are covered by the self lookup)."""

LOW_PEERS: Final = 10
"""Below this many peers the node bootstraps again (GO ``minRTRefreshThreshold``)."""

LIVENESS_GRACE_S: Final = 43.2 * 60.0
"""A table entry that has not answered us for this long is probed, seconds (GO:
``ln(1/k) / ln(1 - alpha/k) * refresh``)."""

MAX_LIVENESS_PROBES: Final = 16
"""Liveness probes of table entries in flight at once; the others wait."""

CLOSE_LOOKUP_DELAY_S: Final = 10.0
"""How long after one of the k nearest entries has left the local key is looked up again, in
seconds: once for all that leave meanwhile."""

CLOSE_LOOKUP_INTERVAL_S: Final = 120.0
"""The shortest time between two such lookups (``CLOSE_LOOKUP_DELAY_S``), in seconds."""

MAX_JOIN_LOOKUPS: Final = 4
"""Lookups at once of the refresh by which a node joins: one at a time would wait for the slow peers
of each in turn. Later refreshes have time."""

JOIN_FOLLOW_UP_S: Final = 3.0
"""While the table holds less than a bucket after joining, the local key is looked up again this
many seconds later, then after twice as long each time: whoever joined at the same moment is known
to others then."""

MAX_JOIN_FOLLOW_UP_S: Final = 48.0
"""Longest time between two lookups of the local key after joining (``JOIN_FOLLOW_UP_S``),
seconds."""

MAX_JOIN_FOLLOW_UPS: Final = 5
"""How many lookups of the local key (``JOIN_FOLLOW_UP_S``) follow one joining run: they end a
minute and a half after it."""

_FOLLOW_UP: Final = Backoff(JOIN_FOLLOW_UP_S, MAX_JOIN_FOLLOW_UP_S)
"""How long after the joining run, and after each lookup that follows it, the next one follows."""


@dataclass(frozen=True, slots=True)
class SelfLookup:
    """Look up the local key; then call ``lookup_ended``."""


@dataclass(frozen=True, slots=True)
class CplLookup:
    """Look up a key at ``cpl`` (see ``core.preimages``); then call ``lookup_ended``."""

    cpl: int


@dataclass(frozen=True, slots=True)
class LivenessProbe:
    """Ask ``peer`` for its own id; then call ``probe_ended``, the table being told already."""

    peer: PeerId


RefreshStep = SelfLookup | CplLookup | LivenessProbe | Wait


class RefreshSchedule:
    """What one routing table needs, and when. The first run is due at once."""

    def __init__(
        self,
        table: RoutingTable,
        outage: Outage | None = None,
        *,
        interval_s: float = params.REFRESH_INTERVAL_S,
        grace_s: float = LIVENESS_GRACE_S,
        max_cpl: int = MAX_REFRESH_CPL,
        max_probes: int = MAX_LIVENESS_PROBES,
        join_lookups: int = MAX_JOIN_LOOKUPS,
        join_follow_ups: int = MAX_JOIN_FOLLOW_UPS,
    ) -> None:
        self._table = table
        self._outage = outage or Outage()
        self._interval_s = interval_s
        self._grace_s = grace_s
        self._max_cpl = max_cpl
        self._max_probes = max_probes
        self._join_lookups = join_lookups
        self._join_follow_ups = join_follow_ups
        self._refreshed: list[Monotonic | None] = [None] * (max_cpl + 1)
        self._due: Monotonic | None = None
        self._run: _Run | None = None
        self._requested: bool | None = None
        """A run is asked for; True if it shall spare no CPL."""
        self._to_probe: dict[Key, PeerId] = {}
        self._probing: dict[Key, PeerId] = {}
        self._neighbours: list[PeerId] = []
        self._version = (0, 0)
        """Changes with every change of the table."""
        self._own_key_looked_up: Monotonic | None = None
        self._own_key_found: Monotonic | None = None
        """When a lookup of it succeeded last."""
        self._close_due: Monotonic | None = None
        """When the local key is to be looked up again."""
        self._follow_ups = 0
        """Lookups of the local key that followed the last joining run."""
        self.runs = 0
        """Runs that are over; lookups of the local key alone are not counted."""

    @property
    def running(self) -> bool:
        """Whether a run is going on or asked for. A lookup of the local key alone is none."""
        runs = self._run is not None and not self._run.own_key_only
        return runs or self._requested is not None

    def request(self, *, all_cpls: bool = True) -> None:
        """Begin a run now; if one is going on, another one after it. It spares no CPL, unless
        ``all_cpls`` is False: then those that had a lookup within the interval."""
        self._requested = all_cpls or self._requested is True

    def next(self, now: Monotonic) -> RefreshStep:
        """What to do now. To be called until it is a ``Wait``."""
        self._watch_neighbours(now)
        if self._run is None:
            if self._requested is not None or self._due is None or self._due <= now:
                self._begin(now)
            elif self._close_due is not None and self._close_due <= now:
                self._run = _Run(began=now, forced=False, own_key_only=True)
        for peer in self._outage.take_due(now, self._table.latest):
            self.suspect(peer)
        probe = self._next_probe()
        if probe is not None:
            return probe
        if self._run is not None:
            lookup = self._next_lookup(self._run, now)
            if lookup is not None:
                return lookup
            if self._run.out:
                return Wait(self._outage.next_probe)
            self._end(self._run, now)
            return self.next(now)
        return Wait(self._wake())

    def lookup_ended(self, now: Monotonic, lookup: SelfLookup | CplLookup | None = None) -> None:
        """``lookup``, or if it is not said which the one that has been out for longest, is over.
        Without effect if it is not out."""
        run = self._run
        if run is None or not run.out:
            return
        ended = run.out[0] if lookup is None else lookup
        if ended not in run.out:
            return
        run.out.remove(ended)
        match ended:
            case SelfLookup():
                self._own_key_looked_up = now
                self._note_neighbours()
            case CplLookup(prefix):
                self._refreshed[prefix] = now
                self._cut_short_at_gap(run, prefix)

    def probe_ended(self, peer: PeerId) -> None:
        """The liveness probe of ``peer`` is over. Without effect if none is out."""
        self._probing.pop(peer.key, None)

    def suspect(self, peer: PeerId) -> None:
        """``peer`` did not answer a lookup in time: probe it soon. A no-op if it has no entry."""
        if peer not in self._table:
            return
        self._to_probe[peer.key] = peer
        if len(self._to_probe) > len(self._table):  # some have left it meanwhile
            self._to_probe = {
                key: each for key, each in self._to_probe.items() if each in self._table
            }

    def looked_up(self, key: Key, now: Monotonic) -> None:
        """A lookup of ``key``, for whatever purpose, succeeded: its CPL is fresh."""
        if key == self._table.local:
            self._own_key_looked_up = self._own_key_found = now
            return
        prefix = cpl(self._table.local, key)
        if prefix <= self._max_cpl:
            self._refreshed[prefix] = now

    # --- inside -----------------------------------------------------------------------------------

    def _begin(self, now: Monotonic) -> None:
        self._run = _Run(began=now, forced=self._requested is True, own_key_only=False)
        self._requested = None
        self._due = Monotonic(now + self._interval_s)
        silent = self._table.silent_since(Monotonic(now - self._grace_s))
        self._to_probe |= {peer.key: peer for peer in silent}

    def _next_probe(self) -> LivenessProbe | None:
        while self._to_probe and len(self._probing) < self._max_probes:
            key = next(iter(self._to_probe))
            peer = self._to_probe.pop(key)
            if peer in self._table and key not in self._probing:
                self._probing[key] = peer
                return LivenessProbe(peer)
        return None

    @property
    def _joining(self) -> bool:
        return self.runs == 0 or len(self._table) < self._table.bucket_size

    def _next_lookup(self, run: _Run, now: Monotonic) -> SelfLookup | CplLookup | None:
        """The next lookup of ``run``, if another one may be out now and is due."""
        joining = self._joining
        if len(run.out) >= (self._join_lookups if joining else 1):
            return None
        if not run.begun:
            run.begun = True
            self._close_due = None
            run.out.append(SelfLookup())
            return SelfLookup()
        if run.own_key_only:
            return None
        if not run.knows_depth:
            # The lookup of the local key fills the table; until it is over, the depth is a guess.
            run.last_cpl = min(len(self._table.cpl_counts()) - 1, self._max_cpl)
            run.knows_depth = SelfLookup() not in run.out
            if run.knows_depth:
                for prefix in range(run.next_cpl):
                    if CplLookup(prefix) not in run.out:
                        self._cut_short_at_gap(run, prefix)
        while run.next_cpl <= run.last_cpl:
            prefix = run.next_cpl
            run.next_cpl += 1
            if not self._is_spared(run, prefix, now, joining=joining):
                run.out.append(CplLookup(prefix))
                return CplLookup(prefix)
            self._cut_short_at_gap(run, prefix)
        return None

    def _is_spared(self, run: _Run, prefix: int, now: Monotonic, *, joining: bool) -> bool:
        if (joining and not self._table.room(prefix)) or prefix > self._found_beyond(run):
            self._refreshed[prefix] = now
            return True
        refreshed = self._refreshed[prefix]
        return not run.forced and refreshed is not None and refreshed + self._interval_s > now

    def _found_beyond(self, run: _Run) -> int:
        """Everybody at a longer CPL than this was found by the lookup of the local key in ``run``:
        they are nearer than the k-th of those that it reached."""
        if self._own_key_found is None or self._own_key_found < run.began:
            return KEY_BITS
        reached = 0
        k = self._table.bucket_size
        for peer in self._table.nearest(self._table.local, 2 * k):
            entry = self._table.entry(peer)
            if entry and entry.last_answered >= run.began:
                reached += 1
                if reached == k:
                    return entry.cpl
        return KEY_BITS

    def _cut_short_at_gap(self, run: _Run, prefix: int) -> None:
        """Cut the run short if nobody is at CPL ``prefix``, which is fresh."""
        counts = self._table.cpl_counts()
        if prefix >= len(counts) or not counts[prefix]:
            run.last_cpl = min(run.last_cpl, 2 * (prefix + 1))

    def _end(self, run: _Run, now: Monotonic) -> None:
        """``run`` is over: who is near and was silent all the while?"""
        for peer in self._nearest():
            entry = self._table.entry(peer)
            if entry is None or entry.last_answered < run.began:
                self._to_probe[peer.key] = peer
        self._run = None
        if not run.own_key_only:
            if run.forced or self.runs == 0:
                self._follow_ups = 0
            self.runs += 1
        self._follow_up(now)

    def _follow_up(self, now: Monotonic) -> None:
        """Plan the next lookup for those who joined at the same moment, if it is time for one."""
        is_small = len(self._table) < self._table.bucket_size
        if is_small and self._follow_ups < self._join_follow_ups:
            self._follow_ups += 1
            due = Monotonic(now + _FOLLOW_UP.delay_s(self._follow_ups))
            self._close_due = due if self._close_due is None else min(due, self._close_due)

    def _nearest(self) -> list[PeerId]:
        return self._table.nearest(self._table.local, self._table.bucket_size)

    def _watch_neighbours(self, now: Monotonic) -> None:
        """Have the own key looked up soon if one of the k nearest entries has left, other than
        while the own key is being looked up, or if somebody has entered an almost empty table,
        other than by a run."""
        version = (self._table.departures, len(self._table))
        if version == self._version:
            return
        entered = sum(version) > sum(self._version) and len(self._table) < LOW_PEERS
        gone = any(peer not in self._table for peer in self._neighbours)
        self._note_neighbours()
        run = self._run
        if run is not None:
            entered = False
            gone = gone and run.begun and SelfLookup() not in run.out
        if self._close_due is None and (gone or entered):
            last = self._own_key_looked_up
            soon = now + CLOSE_LOOKUP_DELAY_S
            earliest = soon if last is None else last + CLOSE_LOOKUP_INTERVAL_S
            self._close_due = Monotonic(max(soon, earliest))

    def _note_neighbours(self) -> None:
        self._version = (self._table.departures, len(self._table))
        self._neighbours = self._nearest()

    def _wake(self) -> Monotonic | None:
        times = (self._due, self._close_due, self._outage.next_probe)
        return min((each for each in times if each is not None), default=None)


class _Run:
    """One run: where it stands."""

    __slots__ = (
        "began",
        "begun",
        "forced",
        "knows_depth",
        "last_cpl",
        "next_cpl",
        "out",
        "own_key_only",
    )

    def __init__(self, *, began: Monotonic, forced: bool, own_key_only: bool) -> None:
        self.began = began
        self.forced = forced
        self.own_key_only = own_key_only
        self.begun = False
        self.knows_depth = False
        self.next_cpl = 0
        self.last_cpl = -1
        self.out: list[SelfLookup | CplLookup] = []
