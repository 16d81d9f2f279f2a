"""One lookup along disjoint paths (S/Kademlia): several walks that learn nothing of each other.

Decides which path asks a peer, what the other paths are told of it, and when the whole is over; the
walk of a path is that of ``ClosestPeersLookup``, and the machine has the same interface.

The seeds are dealt round-robin, nearest first, so that each path begins with other peers. A peer
belongs to the path that wanted it first: it alone hears whom the peer named. A path that wants it
later is told that it answered, or failed, and not more. So a peer that lies leads one path astray,
and the result, merged from all of them, still has what the honest paths found. The lookup is over
when every path is. ``alpha`` is shared out among the paths, at least 1 to each.

Open at once are at most ``MAX_LOOKUP_TASKS`` requests in all: at the bound nobody is asked until a
report comes. A path remembers at most ``MAX_LOOKUP_PEERS``, the whole so many times the paths.

Must never: ask one peer for the target twice, tell a path whom another path's peer named, iterate a
set, read a clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from codio_dht import params
from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key
from codio_dht.core.lookup import ClosestPeersLookup, LookupRules
from codio_dht.core.lookup_states import (
    ClosestPeer,
    Done,
    Ended,
    FailureReason,
    FollowUpBegan,
    LookBeyond,
    LookupEvent,
    PeerState,
    Query,
    Standing,
    Step,
    StopReason,
    Wait,
)
from codio_dht.core.peer import PeerId
from codio_dht.errors import UsageError

_LATE = (PeerState.UNRESPONSIVE, PeerState.FAILED)
_BY_PROMISE = (Standing.HEARD, Standing.ALIVE, Standing.ANSWERED)


class DisjointLookup:
    """Finds the ``k`` peers closest to ``target`` along up to ``paths`` disjoint paths.

    There are no more paths than seeds.

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
        count = max(1, min(paths, len(self._seeds)))
        rules = replace(rules, alpha=max(1, rules.alpha // count))
        self._target = target
        self._k = rules.k
        self._paths = [
            ClosestPeersLookup(target, self._seeds[first::count], rules) for first in range(count)
        ]
        self._told = [0] * count
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
            self._done = self._merged()
            return self._done
        return Wait(min(waits, default=None))

    def on_reply(self, peer: PeerId, closer: Sequence[PeerId], now: Monotonic) -> None:
        """``peer`` answered, with ``closer`` peers, of which its own path alone hears."""
        asked = self._asked.pop(peer, None)
        if asked is None:
            return
        self._took_s[peer] = now - asked
        owner = self._owner[peer]
        for index, path in enumerate(self._paths):
            path.on_reply(peer, closer if index == owner else (), now)
            self._collect(index)

    def on_failure(self, peer: PeerId, why: FailureReason, now: Monotonic) -> None:
        """The request to ``peer`` ended without an answer."""
        if self._asked.pop(peer, None) is None:
            return
        self._failed[peer] = why
        self.failures[why] += 1
        for index, path in enumerate(self._paths):
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

    def useful_seeds(self) -> list[PeerId]:
        """The seeds that answered within twice the time of the fastest one (GO), nearest first."""
        took_s = {peer: self._took_s[peer] for peer in self._seeds if peer in self._took_s}
        limit_s = 2 * min(took_s.values(), default=0.0)
        return [peer for peer in took_s if took_s[peer] <= limit_s]

    # --- inside -----------------------------------------------------------------------------------

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
                        path.on_reply(peer, (), now)
                    elif peer in self._failed:
                        path.on_failure(peer, self._failed[peer], now)
                    self._collect(index)
                    if first:
                        return step
                case LookBeyond(peer, point):
                    self._collect(index)
                    if self._owner[peer] == index:
                        self._beyond[peer, point] = index
                        return step
                    path.on_beyond(peer, point, (), now)
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
        no path was completed."""
        ends = [end for path in self._paths if isinstance(end := path.next(_OVER), Done)]
        completed = [end for end in ends if end.reason is StopReason.COMPLETED]
        reason = ends[0].reason
        if self._stopped is not None:
            reason = self._stopped
        elif completed:
            reason, ends = StopReason.COMPLETED, completed
        closest = self._sorted(each for end in ends for each in end.closest)
        further = self._sorted(each for end in ends for each in end.next_closest)
        first = closest[: self._k]
        taken = {each.peer for each in first}
        rest = [each for each in (*closest, *further) if each.peer not in taken]
        return Done(reason, tuple(first), tuple(self._sorted(rest)[: self._k]))

    def _sorted(self, found: Iterable[ClosestPeer]) -> list[ClosestPeer]:
        """Nearest first, each peer once with the best that is promised of it; none that failed."""
        best: dict[PeerId, ClosestPeer] = {}
        for each in found:
            known = best.get(each.peer)
            if each.peer in self._failed:
                continue
            if known is None or _promise(each) > _promise(known):
                best[each.peer] = each
        return sorted(best.values(), key=lambda each: each.peer.key ^ self._target)


_OVER = Monotonic(float("inf"))
"""For a path that is over: its result does not depend on the time."""


def _promise(found: ClosestPeer) -> int:
    return _BY_PROMISE.index(found.standing)
