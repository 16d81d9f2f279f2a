"""One lookup along disjoint paths (S/Kademlia): several walks that learn nothing of each other.

Decides which path asks a peer, what the other paths are told of it, and when the whole is over; the
walk of a path is that of ``ClosestPeersLookup``, and the machine has the same interface.

The seeds are dealt round-robin, nearest first, so that each path begins with other peers. Those
known to be dead are kept back, and dealt to paths of their own if nobody else answers. A peer
belongs to the path that wanted it first: it alone hears whom the peer named. A path that wants it
later is told that it answered, or failed, and not more. ``alpha`` is shared out among the paths, at
least 1 to each. The lookup is over when every path is; until then one that is over goes on if a
late report comes to it.

A liar leads one path astray, perhaps to peers that answer and are nearer than anybody honest. So
the result has the k closest of every path, and with them those of the honest ones (RS): more than k
peers where paths disagree, k where they do not.

Open at once are at most ``MAX_LOOKUP_TASKS`` requests in all: at the bound nobody is asked until a
report comes. A path remembers at most ``MAX_LOOKUP_PEERS``, the whole so many times the paths.

Must never: ask one peer for the target twice, tell a path whom another path's peer named, iterate a
set, read a clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from codio_dht import params
from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key
from codio_dht.core.lookup import ClosestPeersLookup
from codio_dht.core.lookup_rules import LookupRules
from codio_dht.core.lookup_states import (
    ClosestPeer,
    Done,
    Ended,
    FollowUpBegan,
    LookBeyond,
    LookupEvent,
    PeerState,
    Query,
    Standing,
    Step,
    StopReason,
)
from codio_dht.core.messages import FailureReason
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_health import Condition
from codio_dht.core.steps import Wait
from codio_dht.errors import UsageError

_LATE = (PeerState.UNRESPONSIVE, PeerState.FAILED)
_BY_PROMISE = (Standing.HEARD, Standing.ALIVE, Standing.ANSWERED)


class DisjointLookup:
    """Finds the ``k`` peers closest to ``target`` along up to ``paths`` disjoint paths.

    There are no more paths than living seeds.

    Raises:
        UsageError: ``paths`` is below 2; one path is a ``ClosestPeersLookup``.
    """

    def __init__(
        self, target: Key, seeds: Sequence[PeerId], rules: LookupRules, paths: int
    ) -> None:
        if paths < 2:
            raise UsageError(f"disjoint paths are at least 2, not {paths}")
        others = [peer for peer in dict.fromkeys(seeds) if peer.key != rules.local.key]
        self._seeds = sorted(others, key=lambda peer: peer.key ^ target)
        self._dead: list[PeerId] = []
        """Seeds kept back."""
        self._target = target
        self._rules = rules
        self._k = rules.k
        self._most = paths
        self._paths: list[ClosestPeersLookup] = []
        self._told: list[int] = []
        """Events of each path that were looked at."""
        self._turn = 0
        """The path to go on first."""
        self._owner: dict[PeerId, int] = {}
        """Everybody asked, and the path that asked."""
        self._asked: dict[PeerId, Monotonic] = {}
        """Requests without a report yet, since when."""
        self._took_s: dict[PeerId, float] = {}
        """Who answered, after how long."""
        self._failed: dict[PeerId, FailureReason] = {}
        self._beyond: dict[tuple[PeerId, Key], int] = {}
        """Looks beyond without a report yet, and the path that wants them."""
        self._following_up = False
        self._stopped: StopReason | None = None
        self._done: Done | None = None
        self.requests = 0
        """Requests so far."""
        self.failures: Counter[FailureReason] = Counter()
        """Requests that failed, by reason."""
        self.events: list[LookupEvent] = []
        """What happened, in order: of a peer, what its own path saw."""

    # --- the machine ------------------------------------------------------------------------------

    def next(self, now: Monotonic) -> Step:
        """What to do now. To be called until it is not a ``Query``, and again after each report."""
        if self._done is not None:
            return self._done
        if not self._paths:
            self._begin(now)
        if len(self._asked) + len(self._beyond) >= params.MAX_LOOKUP_TASKS:
            return Wait(None)
        waits: list[Monotonic] = []
        over = 0
        for offset in range(len(self._paths)):
            index = (self._turn + offset) % len(self._paths)
            match self._advance(index, now):
                case Query() | LookBeyond() as step:
                    self._turn = index + 1
                    self.requests += 1
                    return step
                case Wait(until):
                    waits += [] if until is None else [until]
                case Done():
                    over += 1
        if over == len(self._paths):
            done = self._merged()
            if done.reason is StopReason.NOBODY_ANSWERED and self._dead:
                self._deal(self._dead)
                self._dead = []
                return self.next(now)
            self._done = done
            return done
        return Wait(min(waits, default=None))

    def on_reply(self, peer: PeerId, closer: Sequence[PeerId], now: Monotonic) -> None:
        """``peer`` answered, with ``closer`` peers, of which its own path alone hears."""
        asked = self._asked.pop(peer, None)
        if asked is None or self._done is not None:
            return
        self._took_s[peer] = now - asked
        owner = self._owner[peer]
        for index, path in enumerate(self._paths):
            path.resume()
            if index == owner:
                path.on_reply(peer, closer, now)
            else:
                path.on_answered_elsewhere(peer, now)
            self._collect(index)

    def on_failure(self, peer: PeerId, why: FailureReason, now: Monotonic) -> None:
        """The request to ``peer`` ended without an answer."""
        if self._asked.pop(peer, None) is None or self._done is not None:
            return
        self._failed[peer] = why
        self.failures[why] += 1
        for index, path in enumerate(self._paths):
            path.resume()
            path.on_failure(peer, why, now)
            self._collect(index)

    def on_beyond(self, peer: PeerId, point: Key, closer: Sequence[PeerId], now: Monotonic) -> None:
        """The answer to a ``LookBeyond``; without ``closer`` peers if it failed."""
        index = self._beyond.pop((peer, point), None)
        if index is not None:
            self._paths[index].on_beyond(peer, point, closer, now)

    def stop(self, reason: StopReason) -> None:
        """End the lookup now, with what it has; nothing if it is over already."""
        if self._done is None and self._stopped is None:
            self._stopped = reason
            for path in self._paths:
                path.stop(reason)
            self._done = self._merged()

    # --- questions --------------------------------------------------------------------------------

    def state_of(self, peer: PeerId) -> PeerState | None:
        """Where ``peer`` stands in this lookup, or None if it was not heard of."""
        if peer in self._took_s:
            return PeerState.QUERIED
        if peer in self._failed:
            return PeerState.FAILED
        if peer in self._owner:
            return self._paths[self._owner[peer]].state_of(peer)
        states = (path.state_of(peer) for path in self._paths)
        return next((state for state in states if state is not None), None)

    def nearest(self) -> list[PeerId]:
        """The k nearest live peers that are not late, nearest first, asked or not."""
        known = dict.fromkeys(peer for path in self._paths for peer in path.nearest())
        live = [peer for peer in known if self.state_of(peer) not in _LATE]
        return sorted(live, key=lambda peer: peer.key ^ self._target)[: self._k]

    def certain(self) -> list[ClosestPeer]:
        """Nobody before the end: what they have in common is known then only."""
        return [] if self._done is None else list(self._done.closest)

    def useful_seeds(self) -> list[PeerId]:
        """The seeds that answered within twice the time of the fastest one (GO), nearest first."""
        took_s = {peer: self._took_s[peer] for peer in self._seeds if peer in self._took_s}
        limit_s = 2 * min(took_s.values(), default=0.0)
        return [peer for peer in took_s if took_s[peer] <= limit_s]

    # --- inside -----------------------------------------------------------------------------------

    def _begin(self, now: Monotonic) -> None:
        """Deal the seeds; the dead only if there are no others."""
        dead = [
            peer
            for peer in self._seeds
            if self._rules.outlook(peer, now).condition is Condition.DEAD
        ]
        living = [peer for peer in self._seeds if peer not in dead]
        self._deal(living or dead)
        self._dead = dead if living else []

    def _deal(self, seeds: Sequence[PeerId]) -> None:
        """Begin a path for every ``count``-th of the seeds."""
        count = max(1, min(self._most, len(seeds)))
        rules = replace(self._rules, alpha=max(1, self._rules.alpha // count))
        for first in range(count):
            self._paths.append(ClosestPeersLookup(self._target, seeds[first::count], rules))
            self._told.append(0)

    def _advance(self, index: int, now: Monotonic) -> Step:
        """The path's next step that is for the network: what others asked already it is told."""
        path = self._paths[index]
        while True:
            step = path.next(now)
            match step:
                case Query(peer):
                    first = self._owner.setdefault(peer, index) == index
                    if first:
                        self._asked[peer] = now
                    elif peer in self._took_s:
                        path.on_answered_elsewhere(peer, now)
                    elif peer in self._failed:
                        path.on_failure(peer, self._failed[peer], now)
                    self._collect(index)
                    if first:
                        return step
                case LookBeyond(peer, point):
                    self._collect(index)
                    self._beyond[peer, point] = index
                    return step
                case Wait() | Done():
                    self._collect(index)
                    return step

    def _collect(self, index: int) -> None:
        """Take over what happened in a path, of the peers that are its own."""
        events = self._paths[index].events
        for event in events[self._told[index] :]:
            if isinstance(event, FollowUpBegan):
                if not self._following_up:
                    self.events.append(event)
                self._following_up = True
            elif not isinstance(event, Ended) and self._owner[event.peer] == index:
                self.events.append(event)
        self._told[index] = len(events)

    def _merged(self) -> Done:
        """The results of all paths as one. Those of a path in which nobody answered only count if
        nobody did in any."""
        ends = [end for path in self._paths if isinstance(end := path.next(_OVER), Done)]
        reached = [end for end in ends if end.reason in (StopReason.COMPLETED, StopReason.OVERRUN)]
        if self._stopped is not None:
            reason = self._stopped
        elif reached:
            completed = any(end.reason is StopReason.COMPLETED for end in reached)
            reason = StopReason.COMPLETED if completed else StopReason.OVERRUN
            ends = reached
        else:
            reason = ends[0].reason
        best = self._best(ends)
        ranked = sorted(best, key=lambda peer: peer.key ^ self._target)
        # A path with fewer than k was cut short: nothing that it found can have been pushed out.
        full = [end.closest for end in ends if len(end.closest) == self._k]
        wanted = dict.fromkeys((*ranked[: self._k], *(each.peer for end in full for each in end)))
        first = [best[peer] for peer in ranked if peer in wanted]
        further = [best[peer] for peer in ranked if peer not in wanted]
        return Done(reason, tuple(first), tuple(further[: self._k]))

    def _best(self, ends: Sequence[Done]) -> dict[PeerId, ClosestPeer]:
        """Each peer once, with the best that is promised of it."""
        best: dict[PeerId, ClosestPeer] = {}
        for each in chain.from_iterable((*end.closest, *end.next_closest) for end in ends):
            known = best.get(each.peer)
            if known is None or _promise(each) > _promise(known):
                best[each.peer] = each
        return best


_OVER = Monotonic(float("inf"))
"""For a path that is over: its result does not depend on the time."""


def _promise(found: ClosestPeer) -> int:
    return _BY_PROMISE.index(found.standing)
