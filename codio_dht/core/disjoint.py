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

The whole is overrun as one lookup is, ``LOOKUP_LIMIT_S`` after it began or a little after the first
answer on any path, also where other paths have no answer yet.

Open at once are at most ``MAX_LOOKUP_TASKS`` requests in all: at the bound nobody is asked until a
report comes. A path remembers at most ``MAX_LOOKUP_PEERS``, the whole so many times the paths.

Must never: ask one peer for the target twice, tell a path whom another path's peer named, iterate a
set, read a clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final

from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key, distance
from codio_dht.core.lookup import MAX_LOOKUP_TASKS, ClosestPeersLookup
from codio_dht.core.lookup_states import (
    ClosestPeer,
    Done,
    Ended,
    FollowUpBegan,
    LookBeyond,
    LookupEvent,
    LookupRules,
    LookupStep,
    PeerState,
    Query,
    Standing,
    StopReason,
)
from codio_dht.core.messages import FailureReason
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_health import Condition
from codio_dht.core.steps import Wait
from codio_dht.errors import UsageError

_NOT_NEAREST: Final = (PeerState.UNRESPONSIVE, PeerState.GIVEN_UP, PeerState.FAILED)
_BY_PROMISE: Final = (Standing.HEARD, Standing.ALIVE, Standing.ANSWERED)


@dataclass(slots=True)
class _Request:
    """The one request to a peer. Without ``took_s`` and ``why`` it has no report yet."""

    path: int
    """The path that asked, which alone hears whom the peer named."""
    asked: Monotonic
    took_s: float | None = None
    """After how long the peer answered."""
    why: FailureReason | None = None
    """Why the peer did not answer."""

    @property
    def is_open(self) -> bool:
        return self.took_s is None and self.why is None


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
        self._target = target
        self._rules = rules
        self._most = paths
        self._seeds = self._ranked(others)
        self._dead: list[PeerId] = []
        """Seeds kept back, for they are thought to be dead."""
        self._paths: list[ClosestPeersLookup] = []
        self._told: list[int] = []
        """Events of each path that were looked at."""
        self._turn = 0
        """The path to go on first."""
        self._requests: dict[PeerId, _Request] = {}
        """The request to everybody who was asked for the target."""
        self._looks: dict[tuple[PeerId, Key], int] = {}
        """Looks beyond without a report yet, and the path that wants them."""
        self._following_up = False
        self._done: Done | None = None
        self.requests = 0
        """Requests so far, looks beyond the horizon included."""
        self.events: list[LookupEvent] = []
        """What happened, in order: of a peer, what its own path saw."""

    # --- the machine ------------------------------------------------------------------------------

    def next(self, now: Monotonic) -> LookupStep:
        """What to do now. Call it until it returns ``Wait`` or ``Done``, and again after each
        report."""
        if self._done is not None:
            return self._done
        if not self._paths:
            self._begin(now)
        ends_at = min((each.ends_at for each in self._paths if each.ends_at), default=None)
        if ends_at is not None and ends_at <= now:
            return self._overrun()
        may_ask = self._open_requests() < MAX_LOOKUP_TASKS
        waits: list[Monotonic] = [] if ends_at is None else [ends_at]
        over = 0
        for offset in range(len(self._paths)):
            index = (self._turn + offset) % len(self._paths)
            match self._advance(index, now, may_ask=may_ask):
                case Query() | LookBeyond() as step:
                    self._turn = index + 1
                    self.requests += 1
                    return step
                case Wait(until):
                    waits += [] if until is None else [until]
                case Done():
                    over += 1
        if over < len(self._paths):
            return Wait(min(waits, default=None))
        done = self._merged()
        if done.reason is StopReason.NOBODY_ANSWERED and self._dead:
            self._deal(self._dead)
            self._dead = []
            return self.next(now)
        self._done = done
        return done

    def on_reply(self, peer: PeerId, closer: Sequence[PeerId], now: Monotonic) -> None:
        """``peer`` answered, with ``closer`` peers, of which its own path alone hears."""
        request = self._open_request(peer)
        if request is None:
            return
        request.took_s = now - request.asked
        for index, path in enumerate(self._paths):
            path.resume()
            if index == request.path:
                path.on_reply(peer, closer, now)
            else:
                path.on_answered_elsewhere(peer, now)
            self._collect(index)

    def on_failure(self, peer: PeerId, why: FailureReason, now: Monotonic) -> None:
        """The request to ``peer`` ended without an answer."""
        request = self._open_request(peer)
        if request is None:
            return
        request.why = why
        for index, path in enumerate(self._paths):
            path.resume()
            path.on_failure(peer, why, now)
            self._collect(index)

    def on_beyond(self, peer: PeerId, point: Key, closer: Sequence[PeerId], now: Monotonic) -> None:
        """The answer to a ``LookBeyond``; without ``closer`` peers if it failed."""
        index = self._looks.pop((peer, point), None)
        if index is not None:
            self._paths[index].on_beyond(peer, point, closer, now)

    def stop(self, reason: StopReason) -> None:
        """End the lookup now, with what it has; without effect if it is over already."""
        if self._done is None:
            for path in self._paths:
                path.stop(reason)
            self._done = self._merged(reason)

    # --- questions --------------------------------------------------------------------------------

    def state_of(self, peer: PeerId) -> PeerState | None:
        """Where ``peer`` stands in this lookup, or None if it was not heard of."""
        request = self._requests.get(peer)
        if request is not None:
            if request.took_s is not None:
                return PeerState.QUERIED
            if request.why is not None:
                return PeerState.FAILED
            return self._paths[request.path].state_of(peer)
        states = (path.state_of(peer) for path in self._paths)
        return next((state for state in states if state is not None), None)

    def nearest(self) -> list[PeerId]:
        """The k nearest live peers that are not unresponsive, nearest first, asked or not."""
        known = dict.fromkeys(peer for path in self._paths for peer in path.nearest())
        live = [peer for peer in known if self.state_of(peer) not in _NOT_NEAREST]
        return self._ranked(live)[: self._rules.k]

    def certain(self) -> list[ClosestPeer]:
        """The peers of the result, once the lookup is over: before that nobody is certain, for what
        the paths have in common is not known."""
        return [] if self._done is None else list(self._done.closest)

    def useful_seeds(self) -> list[PeerId]:
        """The seeds that answered within twice the time of the fastest one (GO), nearest first."""
        asked = {peer: self._requests[peer] for peer in self._seeds if peer in self._requests}
        took_s = {peer: each.took_s for peer, each in asked.items() if each.took_s is not None}
        limit_s = 2 * min(took_s.values(), default=0.0)
        return [peer for peer, each in took_s.items() if each <= limit_s]

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

    def _open_requests(self) -> int:
        """Requests without a report yet, looks beyond the horizon included."""
        return len(self._looks) + sum(each.is_open for each in self._requests.values())

    def _open_request(self, peer: PeerId) -> _Request | None:
        """The request to ``peer`` if a report of it is expected."""
        request = self._requests.get(peer)
        if self._done is not None or request is None or not request.is_open:
            return None
        return request

    def _advance(self, index: int, now: Monotonic, *, may_ask: bool) -> LookupStep:
        """The path's next step that is for the network: what others asked already it is told."""
        path = self._paths[index]
        while True:
            step = path.next(now, may_ask=may_ask)
            match step:
                case Query(peer):
                    request = self._requests.get(peer)
                    if request is None:
                        self._requests[peer] = _Request(index, now)
                    elif request.took_s is not None:
                        path.on_answered_elsewhere(peer, now)
                    elif request.why is not None:
                        path.on_failure(peer, request.why, now)
                    self._collect(index)
                    if request is None:
                        return step
                case LookBeyond(peer, point):
                    self._collect(index)
                    self._looks[peer, point] = index
                    return step
                case Wait() | Done():
                    self._collect(index)
                    return step

    def _overrun(self) -> Done:
        """End every path: somebody has answered, and that was long enough ago for all of them."""
        for path in self._paths:
            answered = path.ends_at is not None
            path.stop(StopReason.OVERRUN if answered else StopReason.NOBODY_ANSWERED)
        self._done = self._merged()
        return self._done

    def _collect(self, index: int) -> None:
        """Take over what happened in a path, of the peers that are its own."""
        events = self._paths[index].events
        for event in events[self._told[index] :]:
            if isinstance(event, FollowUpBegan):
                if not self._following_up:
                    self.events.append(event)
                self._following_up = True
            elif not isinstance(event, Ended) and self._requests[event.peer].path == index:
                self.events.append(event)
        self._told[index] = len(events)

    def _merged(self, stopped: StopReason | None = None) -> Done:
        """The results of all paths as one. Unless it was ``stopped``, those of a path in which
        nobody answered only count if nobody did in any."""
        ends = [end for path in self._paths if isinstance(end := path.next(_OVER), Done)]
        reached = [end for end in ends if end.reason in (StopReason.COMPLETED, StopReason.OVERRUN)]
        reason = stopped or ends[0].reason
        if reached and stopped is None:
            completed = any(end.reason is StopReason.COMPLETED for end in reached)
            reason = StopReason.COMPLETED if completed else StopReason.OVERRUN
            ends = reached
        best, k = self._best(ends), self._rules.k
        ranked = self._ranked(best)
        # A path with fewer than k was cut short: nothing that it found can have been pushed out.
        full = [end.closest for end in ends if len(end.closest) == k]
        wanted = dict.fromkeys((*ranked[:k], *(each.peer for end in full for each in end)))
        first = [best[peer] for peer in ranked if peer in wanted]
        further = [best[peer] for peer in ranked if peer not in wanted]
        return Done(reason, tuple(first), tuple(further[:k]))

    def _best(self, ends: Sequence[Done]) -> dict[PeerId, ClosestPeer]:
        """Each peer once, with the best that is promised of it."""
        best: dict[PeerId, ClosestPeer] = {}
        for each in chain.from_iterable((*end.closest, *end.next_closest) for end in ends):
            known = best.get(each.peer)
            if known is None or _promise(each) > _promise(known):
                best[each.peer] = each
        return best

    def _ranked(self, peers: Iterable[PeerId]) -> list[PeerId]:
        """The ``peers``, nearest to the target first."""
        return sorted(peers, key=lambda peer: distance(peer.key, self._target))


_OVER: Final = Monotonic(float("inf"))
"""The time for a path that is over: its result does not depend on it."""


def _promise(found: ClosestPeer) -> int:
    return _BY_PROMISE.index(found.standing)
