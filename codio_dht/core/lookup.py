r"""One lookup: the iterative walk towards a key, as a state machine without I/O.

Decides whom to ask next and when the walk is over; nothing else. The caller asks, over whatever
network it has, and reports every ``Query`` back exactly once, by ``on_reply`` or ``on_failure``::

    next(now) -> Query(peer, follow_up) | Wait(until) | Done(reason, closest)

States of one peer::

    heard --next--> waiting --on_reply--> queried
                       |  \--on_failure--> failed
                       \--soft deadline--> unresponsive --on_reply--> queried
                                                 \--on_failure--> failed
    avoided: known to be dead, so not asked unless nobody else is left

*Live* is a peer that may be in the result: heard, waiting, queried, or unresponsive and not given
up. The walk asks among the ``k`` nearest live peers that are not unresponsive, those of equal CPL
with the key in order of their expected answer time (an open connection, a short round trip). When
the ``beta`` nearest of them have answered, the follow-up begins: all of the ``k`` nearest are asked
that were not yet (GO), and whoever takes the place of one that fails.

In flight are at most ``alpha`` requests; up to ``k`` in the follow-up, and while the walk is
stalled: after ``STALL_AFTER_REPLIES`` replies in a row that named nobody nearer than the ``k``-th
live peer (RS). A peer past its soft deadline no longer counts as in flight: another one is asked in
its place. The lookup is complete when the ``k`` nearest live peers are settled: they have answered,
or were given up (past the lookup's patience with them) and are known to be alive. One that is given
up and gave no sign of life is no longer live. Its late answer makes it live again.

Where the k-th live peer lies beyond the horizon of the replies (:mod:`codio_dht.core.horizon`),
peers that have answered are asked once more, for keys behind it.

However much it still hears of, a lookup is *overrun* ``LOOKUP_LIMIT_S`` after it began, and ends
with those that have answered: the names of nearer peers cost nothing, and need lead nowhere.

What a result promises: nobody nearer that was heard of is alive, as far as could be known within
the patience, unless the lookup was overrun; every peer in it has answered, or is marked with the
moment of its last sign of life.

No-ops, by contract: a reply or failure of a peer that was not asked, was reported already, or comes
after the end; a closer peer that is known, or is this node.

Must never: ask one peer twice, iterate a set, read a clock, wait for a peer past its patience,
unless nobody at all has answered yet.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from codio_dht import params
from codio_dht.core.clock import Monotonic
from codio_dht.core.horizon import EVERYWHERE, Horizon
from codio_dht.core.keyspace import Key
from codio_dht.core.lookup_candidate import Candidate
from codio_dht.core.lookup_rules import LookupRules
from codio_dht.core.lookup_states import (
    Answered,
    Asked,
    ClosestPeer,
    Done,
    FollowUpBegan,
    GivenUp,
    LookBeyond,
    LookedBeyond,
    LookupEvent,
    Overdue,
    PeerState,
    Query,
    RequestFailed,
    Standing,
    Step,
    StopReason,
)
from codio_dht.core.messages import FailureReason
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_health import Condition
from codio_dht.core.steps import Wait

_BY_ITSELF: Final = (StopReason.COMPLETED, StopReason.OVERRUN)
"""Ends of a lookup that more reports may put off."""


class ClosestPeersLookup:
    """Finds the ``k`` peers closest to ``target``, beginning with ``seeds``.

    A subclass ends it sooner by :meth:`stop`.
    """

    def __init__(self, target: Key, seeds: Sequence[PeerId], rules: LookupRules) -> None:
        self._target = target
        self._rules = rules
        self._local_key = rules.local.key
        self._k = rules.k
        self._beta = min(rules.beta, rules.k)
        self._candidates: dict[int, Candidate] = {}
        self._live: list[int] = []
        self._avoided: list[int] = []
        self._in_flight: dict[int, Monotonic] = {}
        self._late: dict[int, Monotonic] = {}
        """Unresponsive and not given up: until when they are hoped for."""
        self._horizon = Horizon(target, rules)
        self._lost = 0
        """Given up, their requests still open."""
        self._began: Monotonic | None = None
        self._ends_at: Monotonic | None = None
        """When it is overrun; None until somebody has answered."""
        self._following_up = False
        self._fruitless = 0
        self._answers = 0
        self._done: Done | None = None
        self._unheard = list(seeds)
        self.requests = 0
        """Peers asked so far."""
        self.failures: Counter[FailureReason] = Counter()
        """Requests that failed, by reason."""
        self.events: list[LookupEvent] = []
        """What happened, in order; at most a few per request."""
        if all(peer.key == self._local_key for peer in seeds):
            self._finish(StopReason.NO_PEERS)

    # --- the machine ------------------------------------------------------------------------------

    def next(self, now: Monotonic) -> Step:
        """What to do now. To be called until it is not a ``Query``, and again after each report."""
        if self._began is None:
            self._begin(now)
        if self._done is not None:
            return self._done
        if self._ends_at is not None and self._ends_at <= now:
            return self._finish(StopReason.OVERRUN)
        self._expire(now)
        if not self._live:
            if self._late or self._lost:
                return self._wait()
            if not self._spare_the_avoided(now):
                return self._finish(StopReason.NOBODY_ANSWERED)
        if not self._following_up and self._nearest_answered(self._beta):
            self._following_up = True
            self.events.append(FollowUpBegan(now))
        away = self._next_to_ask()
        if away is not None:
            return self._ask(away, now)
        if self._following_up and self._rules.looks_beyond:
            beyond = self._look_beyond(now)
            if beyond is not None:
                return beyond
        if self._following_up and not self._horizon.waits and self._nearest_settled():
            return self._finish(StopReason.COMPLETED)
        return self._wait()

    def on_reply(self, peer: PeerId, closer: Sequence[PeerId], now: Monotonic) -> None:
        """``peer`` answered, with ``closer`` peers; those past the accepted number are not read."""
        away = self._open_request(peer)
        if away is None:
            return
        late = self._candidates[away].state is PeerState.UNRESPONSIVE
        candidate = self._answered(away, now)
        candidate.took_s = now - candidate.asked
        candidate.reach = self._horizon.reach(closer)
        known, progress = len(self._candidates), False
        for each in closer[: params.MAX_CLOSER_PEERS_ACCEPTED]:
            progress = self._hear(each, now) or progress
        self._fruitless = 0 if progress else self._fruitless + 1
        new = len(self._candidates) - known
        self.events.append(Answered(now, peer, away, candidate.took_s, len(closer), new, late))

    def on_answered_elsewhere(self, peer: PeerId, now: Monotonic) -> None:
        """``peer`` answered another lookup of the target. It counts as answered; whom it named is
        that lookup's, so this tells neither how far replies reach nor of a stall."""
        away = self._open_request(peer)
        if away is not None:
            self._answered(away, now)

    def on_failure(self, peer: PeerId, why: FailureReason, now: Monotonic) -> None:
        """The request to ``peer`` ended without an answer."""
        away = self._open_request(peer)
        if away is None:
            return
        candidate = self._close_request(away)
        if not candidate.given_up or candidate.alive_at is not None:
            self._leave_live(away)
        candidate.state = PeerState.FAILED
        candidate.given_up = False
        self.failures[why] += 1
        self.events.append(RequestFailed(now, peer, away, now - candidate.asked, why))

    def on_beyond(self, peer: PeerId, point: Key, closer: Sequence[PeerId], now: Monotonic) -> None:
        """The answer to a ``LookBeyond``; without ``closer`` peers if it failed."""
        if self._done is not None or not self._horizon.ended(peer, point):
            return
        for each in closer[: params.MAX_CLOSER_PEERS_ACCEPTED]:
            self._hear(each, now)

    def resume(self) -> None:
        """Take reports again after the end, unless it was stopped: for whoever runs several
        lookups of one target, and is not over with the first."""
        if self._done is not None and self._done.reason in _BY_ITSELF:
            self._done = None

    def stop(self, reason: StopReason) -> None:
        """End the lookup now, with what it has; nothing if it is over already."""
        if self._done is None:
            self._finish(reason)

    # --- questions --------------------------------------------------------------------------------

    def state_of(self, peer: PeerId) -> PeerState | None:
        """Where ``peer`` stands in this lookup, or None if it was not heard of."""
        candidate = self._candidates.get(peer.key ^ self._target)
        return None if candidate is None else candidate.state

    def nearest(self) -> list[PeerId]:
        """The k nearest live peers that are not late, nearest first, asked or not."""
        nearest = zip(range(self._k), self._prompt(), strict=False)
        return [self._candidates[away].peer for _, away in nearest]

    def certain(self) -> list[ClosestPeer]:
        """The nearest peers up to the first one that may still change: not settled yet, beyond the
        horizon, or, before the follow-up, everybody. Nearest first; a late surprise may still go
        before them."""
        if not self._following_up:
            return []
        nearest = self._nearest()
        horizon = self._horizon.of(nearest) if self._rules.looks_beyond else EVERYWHERE
        found: list[ClosestPeer] = []
        for candidate in nearest:
            if not candidate.settled or candidate.peer.key ^ self._target > horizon:
                break
            found.append(candidate.result())
        return found

    def useful_seeds(self) -> list[PeerId]:
        """The seeds that answered within twice the time of the fastest one (GO), nearest first."""
        seeds = [self._candidates[away] for away in self._live if self._candidates[away].is_seed]
        times = [each.took_s for each in seeds if each.took_s is not None]
        limit_s = 2 * min(times, default=0.0)
        return [each.peer for each in seeds if each.took_s is not None and each.took_s <= limit_s]

    # --- inside -----------------------------------------------------------------------------------

    def _begin(self, now: Monotonic) -> None:
        """Take in the seeds. One that is known to be dead is avoided like any other."""
        self._began = now
        for peer in self._unheard:
            self._hear(peer, now, is_seed=True)
        self._unheard.clear()

    def _hear(self, peer: PeerId, now: Monotonic, *, is_seed: bool = False) -> bool:
        """Take in a peer's existence; whether it is new and among the k nearest live ones.

        A lookup knows at most ``MAX_LOOKUP_PEERS``: a nearer newcomer then takes the place of the
        farthest peer that was not asked, any other is ignored.
        """
        away = peer.key ^ self._target
        if away in self._candidates or peer.key == self._local_key:
            return False
        live = self._live
        if len(self._candidates) >= params.MAX_LOOKUP_PEERS:
            if not live or live[-1] < away:
                return False
            if self._candidates[live[-1]].state is not PeerState.HEARD:
                return False
            del self._candidates[live.pop()]
        outlook = self._rules.outlook(peer, now)
        candidate = self._candidates[away] = Candidate(peer, outlook, is_seed=is_seed)
        if outlook.condition is Condition.DEAD:
            candidate.state = PeerState.AVOIDED
            insort(self._avoided, away)
            return False
        insort(live, away)
        return len(live) <= self._k or away < live[self._k]

    def _spare_the_avoided(self, now: Monotonic) -> bool:
        """Nobody else is left: ask the peers that are thought to be dead. False if there are none.

        Else a network outage of this node's own would outlast itself by their back-off.
        """
        nearest, self._avoided = self._avoided[: self._k], self._avoided[self._k :]
        for away in nearest:
            self._candidates[away].state = PeerState.HEARD
            insort(self._live, away)
        return bool(nearest)

    def _ask(self, away: int, now: Monotonic) -> Query:
        candidate = self._candidates[away]
        outlook = self._rules.outlook(candidate.peer, now)
        assert self._began is not None
        left_s = max(self._began + params.LOOKUP_HURRY_S - now, params.MIN_SOFT_DEADLINE_S)
        candidate.state = PeerState.WAITING
        candidate.asked = now
        candidate.soft_until = Monotonic(now + min(outlook.soft_s, left_s))
        candidate.reach_until = Monotonic(now + min(outlook.reach_s, left_s))
        candidate.patient_until = Monotonic(now + min(outlook.patience_s, left_s))
        self._in_flight[away] = min(candidate.soft_until, candidate.reach_until)
        self.requests += 1
        self.events.append(Asked(now, candidate.peer, away, self._following_up))
        return Query(candidate.peer, self._following_up)

    def _limit(self, now: Monotonic) -> Monotonic:
        """When the lookup is overrun, its first answer having come ``now``."""
        assert self._began is not None
        began = max(self._began, now - params.LOOKUP_HURRY_S)
        return Monotonic(began + params.LOOKUP_LIMIT_S)

    def _wait(self) -> Wait:
        """Until something expires, if no report comes before."""
        waits = [*self._in_flight.values(), *self._late.values(), *self._horizon.waits]
        if self._ends_at is not None:
            waits.append(self._ends_at)
        return Wait(min(waits, default=None))

    def _look_beyond(self, now: Monotonic) -> LookBeyond | None:
        """A look at what lies between the horizon and the k-th peer, where nobody looked enough."""
        look = self._horizon.next_look(self._nearest(), now)
        if look is not None:
            self.requests += 1
            self.events.append(LookedBeyond(now, look.peer, look.point ^ self._target))
        return look

    def _expire(self, now: Monotonic) -> None:
        """Ask others in place of those past their soft deadline; give up those past patience."""
        for away in [each for each, deadline in self._in_flight.items() if deadline <= now]:
            candidate = self._candidates[away]
            if now < candidate.soft_until and self._rules.shows_life(candidate.peer):
                self._in_flight[away] = candidate.soft_until
                continue
            del self._in_flight[away]
            candidate.state = PeerState.UNRESPONSIVE
            self._late[away] = now
            self.events.append(Overdue(now, candidate.peer, away))
        for away in [each for each, deadline in self._late.items() if deadline <= now]:
            candidate = self._candidates[away]
            reached = self._rules.shows_life(candidate.peer)
            self._late[away] = candidate.patient_until
            if not reached:
                self._late[away] = min(candidate.reach_until, candidate.patient_until)
            if self._late[away] <= now:
                self._give_up(away, now, reached=reached)
        self._horizon.expire(now)

    def _give_up(self, away: int, now: Monotonic, *, reached: bool) -> None:
        candidate = self._candidates[away]
        del self._late[away]
        self._lost += 1
        candidate.given_up = True
        if reached:
            candidate.alive_at = now
        if candidate.alive_at is None:
            self._leave_live(away)
        waited_s = now - candidate.asked
        self.events.append(GivenUp(now, candidate.peer, away, waited_s, candidate.alive_at))

    def _prompt(self) -> Iterator[int]:
        """The live peers that are not late, nearest first."""
        return (away for away in self._live if not self._candidates[away].hoped_for)

    def _nearest_answered(self, n: int) -> bool:
        """Whether the ``n`` nearest prompt peers, or all if there are fewer, are settled, and
        anybody at all has answered."""
        candidates = self._candidates
        nearest = zip(range(n), self._prompt(), strict=False)
        return self._answers > 0 and all(candidates[away].settled for _, away in nearest)

    def _nearest_settled(self) -> bool:
        """Whether nothing more is expected of the k nearest live peers."""
        return all(each.settled for each in self._nearest())

    def _nearest(self) -> list[Candidate]:
        """The k nearest live peers, nearest first."""
        return [self._candidates[away] for away in self._live[: self._k]]

    def _next_to_ask(self) -> int | None:
        """The peer to ask now, if there is room in flight and one of the k nearest to be asked."""
        widened = self._following_up or self._fruitless >= params.STALL_AFTER_REPLIES
        room = max(self._k, self._rules.alpha) if widened else self._rules.alpha
        in_flight = len(self._in_flight)
        if in_flight >= room:
            return None
        if in_flight + len(self._late) + self._lost >= params.MAX_LOOKUP_TASKS:
            return None
        best: tuple[int, float, int] | None = None
        for _, away in zip(range(self._k), self._prompt(), strict=False):
            candidate = self._candidates[away]
            if candidate.state is not PeerState.HEARD:
                continue
            rank = away.bit_length(), candidate.expected_s, away
            if best is None or rank < best:
                best = rank
            elif rank[0] > best[0]:
                break
        return None if best is None else best[2]

    def _open_request(self, peer: PeerId) -> int | None:
        """The distance of ``peer`` if a report of it is expected."""
        away = peer.key ^ self._target
        candidate = self._candidates.get(away)
        if self._done is not None or candidate is None:
            return None
        return away if candidate.state in (PeerState.WAITING, PeerState.UNRESPONSIVE) else None

    def _close_request(self, away: int) -> Candidate:
        """The request is reported: it is neither in flight nor late any more."""
        if self._in_flight.pop(away, None) is None and self._late.pop(away, None) is None:
            self._lost -= 1
        return self._candidates[away]

    def _answered(self, away: int, now: Monotonic) -> Candidate:
        """The peer is alive, and live again if it was given up."""
        candidate = self._close_request(away)
        if candidate.given_up and candidate.alive_at is None:
            insort(self._live, away)
        candidate.state = PeerState.QUERIED
        candidate.given_up = False
        candidate.alive_at = now
        self._answers += 1
        if self._ends_at is None:
            self._ends_at = self._limit(now)
        return candidate

    def _leave_live(self, away: int) -> None:
        del self._live[bisect_left(self._live, away)]

    def _finish(self, reason: StopReason) -> Done:
        nearest = [self._candidates[away] for away in self._live]
        if reason is StopReason.OVERRUN:
            nearest = [each for each in nearest if each.alive_at is not None]
        nearest = nearest[: 2 * self._k]
        peers = tuple(each.result() for each in nearest)
        if not self._answers:  # perhaps it is us who are cut off: what was known says nothing now
            peers = tuple(ClosestPeer(each.peer, Standing.HEARD) for each in nearest)
        self._done = Done(reason, peers[: self._k], peers[self._k :])
        return self._done
