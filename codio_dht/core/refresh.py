r"""The table's upkeep: which lookups and which liveness probes are due.

Decides by GO's refresh. A run begins every ``interval_s``, or on request, and consists of

- a liveness probe of every entry that has not answered for ``grace_s``, a few at a time;
- a lookup of the local key, then a lookup at every CPL from 0 to the longest one with a peer (at
  most ``max_cpl``) that had no lookup within ``interval_s``. Where a CPL ``c`` is still empty after
  that, the run goes on to ``2 * (c + 1)`` at most: beyond a gap there is rarely anybody.

States::

    idle --due / request--> own key --lookup_ended--> CPL 0 --lookup_ended--> ... --> idle

One lookup is out at a time. A lookup counts whether or not it found anything (GO).

Must never: probe one entry twice at a time, or wait for a lookup whose end was reported.
"""

from __future__ import annotations

from dataclasses import dataclass

from codio_dht import params
from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key, cpl
from codio_dht.core.lookup import Wait
from codio_dht.core.peer import PeerId
from codio_dht.core.routing_table import RoutingTable


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
        *,
        interval_s: float = params.REFRESH_INTERVAL_S,
        grace_s: float = params.LIVENESS_GRACE_S,
        max_cpl: int = params.MAX_REFRESH_CPL,
        max_probes: int = params.MAX_LIVENESS_PROBES,
    ) -> None:
        self._table = table
        self._interval_s = interval_s
        self._grace_s = grace_s
        self._max_cpl = max_cpl
        self._max_probes = max_probes
        self._refreshed: list[Monotonic | None] = [None] * (max_cpl + 1)
        self._due: Monotonic | None = None
        self._run: _Run | None = None
        self._requested = False
        self._to_probe: dict[Key, PeerId] = {}
        self._probing: dict[Key, PeerId] = {}
        self.runs = 0
        """Runs that are over."""

    @property
    def running(self) -> bool:
        """Whether a run is going on or asked for."""
        return self._run is not None or self._requested

    def request(self) -> None:
        """Begin a run now that spares no CPL; if one is going on, another one after it."""
        self._requested = True

    def next(self, now: Monotonic) -> RefreshStep:
        """What to do now. To be called until it is a ``Wait``."""
        if self._run is None and (self._requested or self._due is None or self._due <= now):
            self._begin(now)
        probe = self._next_probe()
        if probe is not None:
            return probe
        if self._run is None:
            return Wait(self._due)
        if self._run.lookup_is_out:
            return Wait(None)
        return self._next_lookup(self._run, now)

    def lookup_ended(self, now: Monotonic) -> None:
        """The lookup that was due is over. Without effect if none is out."""
        run = self._run
        if run is None or not run.lookup_is_out:
            return
        run.lookup_is_out = False
        if run.cpl is None:
            return
        self._refreshed[run.cpl] = now
        self._mind_the_gap(run, run.cpl)

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
        prefix = cpl(self._table.local, key)
        if prefix <= self._max_cpl:
            self._refreshed[prefix] = now

    # --- inside -----------------------------------------------------------------------------------

    def _begin(self, now: Monotonic) -> None:
        self._run = _Run(forced=self._requested)
        self._requested = False
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

    def _next_lookup(self, run: _Run, now: Monotonic) -> RefreshStep:
        if not run.begun:
            run.begun = run.lookup_is_out = True
            return SelfLookup()
        if run.cpl is None:
            # The lookup of the local key may just have filled the table.
            run.last_cpl = min(len(self._table.cpl_counts()) - 1, self._max_cpl)
        following = 0 if run.cpl is None else run.cpl + 1
        while following <= run.last_cpl:
            run.cpl = following
            refreshed = self._refreshed[following]
            if run.forced or refreshed is None or refreshed + self._interval_s <= now:
                run.lookup_is_out = True
                return CplLookup(following)
            self._mind_the_gap(run, following)
            following += 1
        self._run = None
        self.runs += 1
        return self.next(now)

    def _mind_the_gap(self, run: _Run, prefix: int) -> None:
        """Cut the run short if nobody is at CPL ``prefix``, which is fresh."""
        counts = self._table.cpl_counts()
        if prefix >= len(counts) or not counts[prefix]:
            run.last_cpl = min(run.last_cpl, 2 * (prefix + 1))


class _Run:
    """One run: where it stands."""

    __slots__ = ("begun", "cpl", "forced", "last_cpl", "lookup_is_out")

    def __init__(self, *, forced: bool) -> None:
        self.forced = forced
        self.last_cpl = -1
        self.cpl: int | None = None
        self.begun = False
        self.lookup_is_out = False
