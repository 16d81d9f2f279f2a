r"""One lookup: the iterative walk towards a key, as a state machine without I/O.

Decides whom to ask next and when the walk is over, and nothing else. The caller asks over whatever
network it has, and reports every ``Query`` back exactly once, by ``on_reply`` or ``on_failure``::

    next(now) -> Query(peer, follow_up) | LookBeyond(peer, point, cpl) | Wait(until)
               | Done(reason, closest)

The states of one peer::

    heard --next--> waiting --soft deadline--> unresponsive --patience ends--> given up
    avoided --nobody else is left--> heard

    waiting, unresponsive or given up --on_reply--> queried
    waiting, unresponsive or given up --on_failure--> failed

A peer is *live* if it may be in the result: heard, waiting, queried or unresponsive, or given up
and known to be alive. It is *settled* if nothing more is expected of it: queried, or given up and
known to be alive.

The walk asks among the ``k`` nearest live peers that are not unresponsive. Those of equal CPL with
the key are asked in the order of their expected answer time (an open connection, a short round
trip). When the ``beta`` nearest of them are settled, the follow-up begins: all of the ``k`` nearest
are asked that were not yet (GO), and whoever takes the place of one that fails.

At most ``alpha`` peers are waiting at a time; up to ``k`` in the follow-up, and while the walk is
stalled: after ``STALL_AFTER_REPLIES`` replies in a row that named nobody nearer than the ``k``-th
live peer (RS). The lookup is complete when the ``k`` nearest live peers are settled.

Where the k-th live peer lies beyond the horizon of the replies (:mod:`codio_dht.core.horizon`),
peers that have answered are asked once more, for keys behind it.

A lookup is *overrun* ``LOOKUP_LIMIT_S`` after it began, whatever it still hears of, and ends with
those that have answered: the names of nearer peers cost nothing, and need lead nowhere.

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
from collections.abc import Iterator, Sequence
from itertools import islice
from operator import attrgetter
from typing import Final

from codio_dht import params
from codio_dht.core.clock import Monotonic
from codio_dht.core.horizon import EVERYWHERE, Horizon
from codio_dht.core.keyspace import Key, distance
from codio_dht.core.lookup_states import (
    Answered,
    Asked,
    Candidate,
    ClosestPeer,
    Done,
    FollowUpBegan,
    GivenUp,
    LookBeyond,
    LookedBeyond,
    LookupEvent,
    LookupRules,
    LookupStep,
    PeerState,
    Query,
    RequestFailed,
    Standing,
    StopReason,
    Unresponsive,
)
from codio_dht.core.messages import FailureReason
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_health import MIN_SOFT_DEADLINE_S, Condition
from codio_dht.core.steps import Wait

MAX_LOOKUP_TASKS: Final = 256
"""Requests of one lookup that may be open at once, those past their soft deadline included. A peer
that would be one more counts as failed."""

STALL_AFTER_REPLIES: Final = 3
"""Replies in a row that bring nobody among the k nearest: the lookup is stalled, and asks up to k
at once (RS)."""

MAX_LOOKUP_PEERS: Final = 2_000
"""Peers that one lookup remembers. When it is full, a nearer peer replaces the farthest one that
was not asked, and others are ignored. (A lookup in an honest network hears of 200 to 400.)"""

LOOKUP_HURRY_S: Final = 3.5
"""A lookup that has run for this long, in seconds, waits for no peer longer than
``MIN_SOFT_DEADLINE_S`` any more, so that it ends within 5 s."""

LOOKUP_LIMIT_S: Final = 4.8
"""A lookup that has run for this long, in seconds, ends with the peers that have answered, whatever
it still hears of: a server can make up names of peers for ever, and it costs it nothing. If the
first answer came late, the lookup has the time from ``LOOKUP_HURRY_S`` on all the same."""

_RESUMABLE: Final = (StopReason.COMPLETED, StopReason.OVERRUN)
"""Ends of a lookup that a late report may put off."""

_by_distance: Final = attrgetter("distance")


class ClosestPeersLookup:
    """Finds the ``k`` peers closest to ``target``, beginning with ``seeds``."""

    def __init__(self, target: Key, seeds: Sequence[PeerId], rules: LookupRules) -> None:
        self._target = target
        self._rules = rules
        self._beta = min(rules.beta, rules.k)
        self._seeds = list(seeds)
        """Not taken in before the first step, which brings the time."""
        self._candidates: dict[int, Candidate] = {}
        """Everybody heard of, by distance to the target."""
        self._live: list[Candidate] = []
        """Index of the candidates that are live, nearest first."""
        self._open: dict[int, Candidate] = {}
        """Index of the candidates whose requests are open, by distance, in the order asked."""
        self._horizon = Horizon(target, rules)
        self._began: Monotonic | None = None
        self._ends_at: Monotonic | None = None
        self._following_up = False
        self._fruitless = 0
        """Replies in a row that named nobody among the k nearest."""
        self._done: Done | None = None
        self.requests = 0
        """Requests so far, looks beyond the horizon included."""
        self.events: list[LookupEvent] = []
        """What happened, in order; at most a few for each request."""
        if all(peer.key == rules.local.key for peer in seeds):
            self._finish(StopReason.NO_PEERS)

    # --- the machine ------------------------------------------------------------------------------

    def next(self, now: Monotonic, *, may_ask: bool = True) -> LookupStep:
        """What to do now. Call it until it returns ``Wait`` or ``Done``, and again after each
        report. Unless it ``may_ask``, time passes and nobody is asked: for a caller that has too
        many requests open."""
        if self._began is None:
            self._begin(now)
        if self._done is not None:
            return self._done
        if self._ends_at is not None and self._ends_at <= now:
            return self._finish(StopReason.OVERRUN)
        self._expire(now)
        if not self._live:
            if self._open:
                return self._wait()
            if not self._ask_the_avoided():
                return self._finish(StopReason.NOBODY_ANSWERED)
        if not self._following_up and self._nearest_answered():
            self._following_up = True
            self.events.append(FollowUpBegan(now))
        candidate = self._next_to_ask() if may_ask else None
        if candidate is not None:
            return self._ask(candidate, now)
        return self._conclude(now) if may_ask and self._following_up else self._wait()

    def on_reply(self, peer: PeerId, closer: Sequence[PeerId], now: Monotonic) -> None:
        """``peer`` answered, with ``closer`` peers; those past the accepted number are not read."""
        candidate = self._asked_candidate(peer)
        if candidate is None:
            return
        late = candidate.state is not PeerState.WAITING
        self._answered(candidate, now)
        candidate.took_s = now - candidate.asked
        candidate.reach = self._horizon.reach(closer)
        known, progress = len(self._candidates), False
        for each in closer[: params.MAX_CLOSER_PEERS_ACCEPTED]:
            progress = self._hear(each, now) or progress
        self._fruitless = 0 if progress else self._fruitless + 1
        new = len(self._candidates) - known
        took_s, away = candidate.took_s, candidate.distance
        self.events.append(Answered(now, peer, away, took_s, len(closer), new, late))

    def on_answered_elsewhere(self, peer: PeerId, now: Monotonic) -> None:
        """``peer`` answered another lookup of the same target, and counts as queried.

        Whom it named is that lookup's: this one learns neither how far the reply reached nor of a
        stall.
        """
        candidate = self._asked_candidate(peer)
        if candidate is not None:
            self._answered(candidate, now)

    def on_failure(self, peer: PeerId, why: FailureReason, now: Monotonic) -> None:
        """The request to ``peer`` ended without an answer."""
        candidate = self._asked_candidate(peer)
        if candidate is None:
            return
        self._move(candidate, PeerState.FAILED)
        took_s = now - candidate.asked
        self.events.append(RequestFailed(now, peer, candidate.distance, took_s, why))

    def on_beyond(self, peer: PeerId, point: Key, closer: Sequence[PeerId], now: Monotonic) -> None:
        """The answer to a ``LookBeyond``; without ``closer`` peers if it failed."""
        if self._done is not None or not self._horizon.ended(peer, point):
            return
        for each in closer[: params.MAX_CLOSER_PEERS_ACCEPTED]:
            self._hear(each, now)

    def resume(self) -> None:
        """Take reports again after the end, unless the lookup was stopped: for a caller that runs
        several lookups of one target and is not over with the first."""
        if self._done is not None and self._done.reason in _RESUMABLE:
            self._done = None

    def stop(self, reason: StopReason) -> None:
        """End the lookup now, with what it has; without effect if it is over already."""
        if self._done is None:
            self._finish(reason)

    # --- questions --------------------------------------------------------------------------------

    @property
    def ends_at(self) -> Monotonic | None:
        """When the lookup is overrun; None until somebody has answered."""
        return self._ends_at

    def state_of(self, peer: PeerId) -> PeerState | None:
        """Where ``peer`` stands in this lookup, or None if it was not heard of."""
        candidate = self._candidates.get(distance(peer.key, self._target))
        return None if candidate is None else candidate.state

    def nearest(self) -> list[PeerId]:
        """The k nearest live peers that are not unresponsive, nearest first, asked or not."""
        return [each.peer for each in islice(self._responsive(), self._rules.k)]

    def certain(self) -> list[ClosestPeer]:
        """The nearest peers up to the first one that may still change, nearest first.

        One may change that is not settled, or lies beyond the horizon; before the follow-up, all
        may. A peer that is found late may still go before those returned.
        """
        if not self._following_up:
            return []
        nearest = self._nearest()
        horizon = self._horizon.of(nearest) if self._rules.looks_beyond else EVERYWHERE
        found: list[ClosestPeer] = []
        for candidate in nearest:
            if not candidate.is_settled or candidate.distance > horizon:
                break
            found.append(candidate.result())
        return found

    def useful_seeds(self) -> list[PeerId]:
        """The seeds that answered within twice the time of the fastest one (GO), nearest first."""
        took_s = {each.peer: each.took_s for each in self._live if each.is_seed}
        limit_s = 2 * min((each for each in took_s.values() if each is not None), default=0.0)
        return [peer for peer, each in took_s.items() if each is not None and each <= limit_s]

    # --- whom to ask ------------------------------------------------------------------------------

    def _next_to_ask(self) -> Candidate | None:
        """The peer to ask now, if one more may be waiting and one of the k nearest is to be asked.

        Of equally near ones it is the one that is expected to answer soonest.
        """
        if len(self._open) >= MAX_LOOKUP_TASKS:
            return None
        rules = self._rules
        widened = self._following_up or self._fruitless >= STALL_AFTER_REPLIES
        most = max(rules.k, rules.alpha) if widened else rules.alpha
        waiting = sum(each.state is PeerState.WAITING for each in self._open.values())
        if waiting >= most:
            return None
        best, best_rank = None, (0, 0.0)
        for candidate in islice(self._responsive(), rules.k):
            if candidate.state is not PeerState.HEARD:
                continue
            rank = candidate.distance.bit_length(), candidate.expected_s
            if best is None or rank < best_rank:
                best, best_rank = candidate, rank
            elif rank[0] > best_rank[0]:
                break
        return best

    def _ask(self, candidate: Candidate, now: Monotonic) -> Query:
        outlook = self._rules.outlook(candidate.peer, now)
        assert self._began is not None
        left_s = max(self._began + LOOKUP_HURRY_S - now, MIN_SOFT_DEADLINE_S)
        candidate.asked = now
        candidate.soft_until = Monotonic(now + min(outlook.soft_s, left_s))
        candidate.reach_until = Monotonic(now + min(outlook.reach_s, left_s))
        candidate.patient_until = Monotonic(now + min(outlook.patience_s, left_s))
        self._move(candidate, PeerState.WAITING, min(candidate.soft_until, candidate.reach_until))
        self.requests += 1
        self.events.append(Asked(now, candidate.peer, candidate.distance, self._following_up))
        return Query(candidate.peer, self._following_up)

    def _ask_the_avoided(self) -> bool:
        """Let the nearest peers that are thought to be dead be asked, for nobody else is left;
        whether there are any. Else an outage of this node's own network would outlast itself by
        their back-off."""
        avoided = [each for each in self._candidates.values() if each.state is PeerState.AVOIDED]
        for candidate in sorted(avoided, key=_by_distance)[: self._rules.k]:
            self._move(candidate, PeerState.HEARD)
        return bool(avoided)

    def _look_beyond(self, now: Monotonic) -> LookBeyond | None:
        """A look at what lies between the horizon and the k-th peer, where nobody looked enough."""
        look = self._horizon.next_look(self._nearest(), now)
        if look is not None:
            self.requests += 1
            away = distance(look.point, self._target)
            self.events.append(LookedBeyond(now, look.peer, away))
        return look

    def _conclude(self, now: Monotonic) -> LookupStep:
        """The follow-up has nobody to ask: look beyond the horizon, wait, or end."""
        if self._rules.looks_beyond and (look := self._look_beyond(now)) is not None:
            return look
        if self._horizon.waits or not all(each.is_settled for each in self._nearest()):
            return self._wait()
        return self._finish(StopReason.COMPLETED)

    # --- time -------------------------------------------------------------------------------------

    def _begin(self, now: Monotonic) -> None:
        """Take in the seeds. One that is known to be dead is avoided like any other."""
        self._began = now
        for peer in self._seeds:
            self._hear(peer, now, is_seed=True)
        self._seeds.clear()

    def _wait(self) -> Wait:
        """Until the first deadline, if no report comes before."""
        waits = [each.until for each in self._open.values() if each.until is not None]
        waits += self._horizon.waits
        if self._ends_at is not None:
            waits.append(self._ends_at)
        return Wait(min(waits, default=None))

    def _expire(self, now: Monotonic) -> None:
        """Stop waiting for those past their deadlines."""
        opened = self._open.values()
        due = [each for each in opened if each.until is not None and each.until <= now]
        for candidate in due:
            if candidate.state is PeerState.WAITING:
                self._pass_soft_deadline(candidate, now)
        for candidate in due:
            if candidate.state is PeerState.UNRESPONSIVE:
                self._pass_patience(candidate, now)
        self._horizon.expire(now)

    def _pass_soft_deadline(self, candidate: Candidate, now: Monotonic) -> None:
        """Ask another one in its place, unless only the time for a sign of life has passed and it
        gave one."""
        if now < candidate.soft_until and self._rules.shows_life(candidate.peer):
            candidate.until = candidate.soft_until
            return
        self._move(candidate, PeerState.UNRESPONSIVE, now)
        self.events.append(Unresponsive(now, candidate.peer, candidate.distance))

    def _pass_patience(self, candidate: Candidate, now: Monotonic) -> None:
        """Give the peer up if its patience is over; one that gave no sign of life has less."""
        reached = self._rules.shows_life(candidate.peer)
        until = candidate.patient_until
        if not reached:
            until = min(until, candidate.reach_until)
        if until > now:
            candidate.until = until
            return
        self._move(candidate, PeerState.GIVEN_UP, alive_at=now if reached else None)
        waited_s, alive_at = now - candidate.asked, candidate.alive_at
        self.events.append(GivenUp(now, candidate.peer, candidate.distance, waited_s, alive_at))

    # --- who there is -----------------------------------------------------------------------------

    def _hear(self, peer: PeerId, now: Monotonic, *, is_seed: bool = False) -> bool:
        """Take in a peer's existence; whether it is new and among the k nearest live ones.

        A lookup knows at most ``MAX_LOOKUP_PEERS``: a nearer newcomer then takes the place of the
        farthest peer that was not asked, any other is ignored.
        """
        away = distance(peer.key, self._target)
        if away in self._candidates or peer.key == self._rules.local.key:
            return False
        live, k = self._live, self._rules.k
        if len(self._candidates) >= MAX_LOOKUP_PEERS:
            if not live or live[-1].distance < away or live[-1].state is not PeerState.HEARD:
                return False
            del self._candidates[live.pop().distance]
        outlook = self._rules.outlook(peer, now)
        candidate = self._candidates[away] = Candidate(peer, away, outlook, is_seed=is_seed)
        if outlook.condition is Condition.DEAD:
            candidate.state = PeerState.AVOIDED
            return False
        insort(live, candidate, key=_by_distance)
        return len(live) <= k or away < live[k].distance

    def _nearest(self) -> list[Candidate]:
        """The k nearest live peers, nearest first."""
        return self._live[: self._rules.k]

    def _responsive(self) -> Iterator[Candidate]:
        """The live peers that are not unresponsive, nearest first."""
        return (each for each in self._live if each.state is not PeerState.UNRESPONSIVE)

    def _nearest_answered(self) -> bool:
        """Whether somebody has answered, and the ``beta`` nearest responsive peers are settled, or
        all of them if there are fewer."""
        if self._ends_at is None:
            return False
        return all(each.is_settled for each in islice(self._responsive(), self._beta))

    def _asked_candidate(self, peer: PeerId) -> Candidate | None:
        """The candidate of ``peer`` if a report of it is expected."""
        return None if self._done is not None else self._open.get(distance(peer.key, self._target))

    # --- moving -----------------------------------------------------------------------------------

    def _answered(self, candidate: Candidate, now: Monotonic) -> None:
        """The peer is alive, and live again if it was given up without a sign of life."""
        self._move(candidate, PeerState.QUERIED, alive_at=now)
        if self._ends_at is None:
            assert self._began is not None
            began = max(self._began, now - LOOKUP_HURRY_S)
            self._ends_at = Monotonic(began + LOOKUP_LIMIT_S)

    def _move(
        self,
        candidate: Candidate,
        state: PeerState,
        until: Monotonic | None = None,
        *,
        alive_at: Monotonic | None = None,
    ) -> None:
        """Bring ``candidate`` into ``state``, in which it is looked at again at ``until``, and the
        indices up to date. ``alive_at`` is a new sign of life, if there was one."""
        was_live, was_open = candidate.is_live, candidate.state.is_open
        candidate.state, candidate.until = state, until
        if alive_at is not None:
            candidate.alive_at = alive_at
        if candidate.is_live and not was_live:
            insort(self._live, candidate, key=_by_distance)
        elif was_live and not candidate.is_live:
            del self._live[bisect_left(self._live, candidate.distance, key=_by_distance)]
        if state.is_open and not was_open:
            self._open[candidate.distance] = candidate
        elif was_open and not state.is_open:
            del self._open[candidate.distance]

    def _finish(self, reason: StopReason) -> Done:
        nearest = self._live
        if reason is StopReason.OVERRUN:
            nearest = [each for each in nearest if each.alive_at is not None]
        k = self._rules.k
        peers = tuple(each.result() for each in nearest[: 2 * k])
        if self._ends_at is None:  # perhaps it is us who are cut off: what was known says nothing
            peers = tuple(ClosestPeer(each.peer, Standing.HEARD) for each in peers)
        self._done = Done(reason, peers[:k], peers[k:])
        return self._done
