r"""One lookup: the iterative walk towards a key, as a state machine without I/O.

Decides whom to ask next and when the walk is over; nothing else. The caller asks, over whatever
network it has, and reports every ``Query`` back exactly once, by ``on_reply`` or ``on_failure``::

    next(now) -> Query(peer, follow_up) | Wait(until) | Done(reason, closest)

States of one peer::

    heard --next--> waiting --on_reply--> queried
                       |  \--on_failure--> failed
                       \--soft deadline--> unresponsive --on_reply--> queried
                                                 \--on_failure--> failed

*Live* is a peer that is heard, waiting or queried. The walk asks the nearest heard peers among the
``k`` nearest live ones. When the ``beta`` nearest live peers have answered, the follow-up begins:
all of the ``k`` nearest live peers are asked that were not yet (GO), and whoever takes the place of
one that fails. When all of them have answered, the lookup is complete.

In flight are at most ``alpha`` requests; up to ``k`` in the follow-up, and while the walk is
stalled: after ``STALL_AFTER_REPLIES`` replies in a row that named nobody nearer than the ``k``-th
live peer (RS). A peer past its soft deadline no longer counts as in flight nor as live; its late
answer makes it live again.

No-ops, by contract: a reply or failure of a peer that was not asked, was reported already, or comes
after the end; a closer peer that is known, or is this node.

Must never: ask one peer twice, iterate a set, read a clock, wait for a peer past its soft deadline,
unless nobody at all has answered yet.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from codio_dht import params
from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key
from codio_dht.core.messages import PeerEntry
from codio_dht.core.peer import PeerId
from codio_dht.errors import UsageError

DeadlineFor = Callable[[PeerId, Monotonic], Monotonic]
"""The soft deadline of a request to this peer that starts now."""


class PeerState(Enum):
    """A peer within one lookup."""

    HEARD = "heard"
    WAITING = "waiting"
    QUERIED = "queried"
    UNRESPONSIVE = "unresponsive"
    FAILED = "failed"


class FailureReason(Enum):
    """Why a request got no answer."""

    UNREACHABLE = "unreachable"
    """No connection."""
    TIMEOUT = "timeout"
    """No answer in time, connected or not."""
    UNSUPPORTED = "unsupported"
    """Connected, but it does not speak the protocol."""
    BROKEN = "broken"
    """Connected, but the stream ended or the answer was not one."""
    CAPACITY = "capacity"
    """Not asked at all: this node had no room for the request."""

    @property
    def reached(self) -> bool:
        """Whether the peer was there all the same."""
        return self in (FailureReason.UNSUPPORTED, FailureReason.BROKEN)


class StopReason(Enum):
    """Why a lookup is over."""

    COMPLETED = "completed"
    """The k closest live peers have answered."""
    NO_PEERS = "no_peers"
    """There was nobody to start from."""
    NOBODY_ANSWERED = "nobody_answered"
    """Every peer failed."""
    FOUND = "found"
    """What was looked for is found: the peer, or enough providers."""
    TIMEOUT = "timeout"
    """The caller's deadline passed."""
    CANCELLED = "cancelled"
    """The caller wants no more."""


@dataclass(frozen=True, slots=True)
class Query:
    """Ask ``peer``. ``follow_up``: beyond the walk itself, as one of the k closest."""

    peer: PeerId
    follow_up: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until a report comes, or until ``until`` if that is earlier."""

    until: Monotonic | None


@dataclass(frozen=True, slots=True)
class ClosestPeer:
    """One of the closest peers: QUERIED has answered, HEARD and WAITING are only hearsay."""

    peer: PeerId
    state: PeerState


@dataclass(frozen=True, slots=True)
class Done:
    """The lookup is over. ``closest`` has up to k live peers, nearest first; ``next_closest`` up to
    k more live ones, to take the place of any of them."""

    reason: StopReason
    closest: tuple[ClosestPeer, ...] = ()
    next_closest: tuple[ClosestPeer, ...] = ()

    @property
    def answered(self) -> list[PeerId]:
        """Those of the closest that have answered, nearest first."""
        return [each.peer for each in self.closest if each.state is PeerState.QUERIED]


Step = Query | Wait | Done


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupRules:
    """How a node looks things up.

    Raises:
        UsageError: ``k``, ``alpha`` or ``beta`` is below 1.
    """

    local: PeerId
    deadline_for: DeadlineFor
    k: int = params.K
    alpha: int = params.ALPHA
    beta: int = params.BETA

    def __post_init__(self) -> None:
        if min(self.k, self.alpha, self.beta) < 1:
            raise UsageError(
                f"k, alpha and beta must be at least 1, not {self.k}, {self.alpha}, {self.beta}"
            )


class _Candidate:
    """A peer of this lookup."""

    __slots__ = ("asked", "is_seed", "peer", "state", "took_s")

    def __init__(self, peer: PeerId, *, is_seed: bool) -> None:
        self.peer = peer
        self.is_seed = is_seed
        self.state = PeerState.HEARD
        self.asked = Monotonic(0.0)
        self.took_s: float | None = None


class ClosestPeersLookup:
    """Finds the ``k`` peers closest to ``target``, beginning with ``seeds``."""

    def __init__(self, target: Key, seeds: Sequence[PeerId], rules: LookupRules) -> None:
        self._target = target
        self._local_key = rules.local.key
        self._deadline_for = rules.deadline_for
        self._k = rules.k
        self._alpha = rules.alpha
        self._beta = min(rules.beta, rules.k)
        self._candidates: dict[int, _Candidate] = {}
        self._live: list[int] = []
        self._in_flight: dict[int, Monotonic] = {}
        self._overdue = 0
        self._following_up = False
        self._fruitless = 0
        self._done: Done | None = None
        self.requests = 0
        """Peers asked so far."""
        self.failures: Counter[FailureReason] = Counter()
        """Requests that failed, by reason."""
        for peer in seeds:
            self._hear(peer, is_seed=True)
        if not self._live:
            self._finish(StopReason.NO_PEERS)

    # --- the machine ------------------------------------------------------------------------------

    def next(self, now: Monotonic) -> Step:
        """What to do now. To be called until it is not a ``Query``, and again after each report."""
        if self._done is not None:
            return self._done
        self._expire(now)
        if not self._live:
            return Wait(None) if self._overdue else self._finish(StopReason.NOBODY_ANSWERED)
        if not self._following_up and self._nearest_answered(self._beta):
            self._following_up = True
        if self._following_up and self._nearest_answered(self._k):
            return self._finish(StopReason.COMPLETED)
        away = self._next_to_ask()
        if away is None:
            return Wait(min(self._in_flight.values(), default=None))
        candidate = self._candidates[away]
        candidate.state = PeerState.WAITING
        candidate.asked = now
        self._in_flight[away] = self._deadline_for(candidate.peer, now)
        self.requests += 1
        return Query(candidate.peer, self._following_up)

    def on_reply(self, peer: PeerId, closer: Sequence[PeerId], now: Monotonic) -> None:
        """``peer`` answered, with ``closer`` peers; those past the accepted number are not read."""
        away = self._open_request(peer)
        if away is None:
            return
        candidate = self._close_request(away)
        candidate.took_s = now - candidate.asked
        if candidate.state is PeerState.UNRESPONSIVE:
            insort(self._live, away)
        candidate.state = PeerState.QUERIED
        progress = False
        for each in closer[: params.MAX_CLOSER_PEERS_ACCEPTED]:
            progress = self._hear(each) or progress
        self._fruitless = 0 if progress else self._fruitless + 1

    def on_failure(self, peer: PeerId, why: FailureReason, now: Monotonic) -> None:
        """The request to ``peer`` ended without an answer."""
        away = self._open_request(peer)
        if away is None:
            return
        candidate = self._close_request(away)
        if candidate.state is PeerState.WAITING:
            self._leave_live(away)
        candidate.state = PeerState.FAILED
        self.failures[why] += 1

    def stop(self, reason: StopReason) -> None:
        """End the lookup now, with what it has; nothing if it is over already."""
        if self._done is None:
            self._finish(reason)

    def state_of(self, peer: PeerId) -> PeerState | None:
        """Where ``peer`` stands in this lookup, or None if it was not heard of."""
        candidate = self._candidates.get(peer.key ^ self._target)
        return None if candidate is None else candidate.state

    def useful_seeds(self) -> list[PeerId]:
        """The seeds that answered within twice the time of the fastest one (GO), nearest first."""
        seeds = [self._candidates[away] for away in self._live if self._candidates[away].is_seed]
        times = [each.took_s for each in seeds if each.took_s is not None]
        limit_s = 2 * min(times, default=0.0)
        return [each.peer for each in seeds if each.took_s is not None and each.took_s <= limit_s]

    def unresponsive(self) -> list[PeerId]:
        """The peers past their soft deadline, nearest first: dead, or too slow for this lookup."""
        late = sorted(
            away for away, each in self._candidates.items() if each.state is PeerState.UNRESPONSIVE
        )
        return [self._candidates[away].peer for away in late]

    # --- inside -----------------------------------------------------------------------------------

    def _hear(self, peer: PeerId, *, is_seed: bool = False) -> bool:
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
        self._candidates[away] = _Candidate(peer, is_seed=is_seed)
        insort(live, away)
        return len(live) <= self._k or away < live[self._k]

    def _expire(self, now: Monotonic) -> None:
        """Give up waiting for the peers whose soft deadline has passed."""
        passed = [away for away, deadline in self._in_flight.items() if deadline <= now]
        for away in passed:
            del self._in_flight[away]
            self._overdue += 1
            self._leave_live(away)
            self._candidates[away].state = PeerState.UNRESPONSIVE

    def _nearest_answered(self, n: int) -> bool:
        """Whether the ``n`` nearest live peers, or all if there are fewer, have answered."""
        candidates = self._candidates
        return all(candidates[away].state is PeerState.QUERIED for away in self._live[:n])

    def _next_to_ask(self) -> int | None:
        """The nearest heard peer among the k nearest live ones, if there is room in flight."""
        widened = self._following_up or self._fruitless >= params.STALL_AFTER_REPLIES
        room = max(self._k, self._alpha) if widened else self._alpha
        in_flight = len(self._in_flight)
        if in_flight >= room or in_flight + self._overdue >= params.MAX_LOOKUP_TASKS:
            return None
        for away in self._live[: self._k]:
            if self._candidates[away].state is PeerState.HEARD:
                return away
        return None

    def _open_request(self, peer: PeerId) -> int | None:
        """The distance of ``peer`` if a report of it is expected."""
        away = peer.key ^ self._target
        candidate = self._candidates.get(away)
        if self._done is not None or candidate is None:
            return None
        return away if candidate.state in (PeerState.WAITING, PeerState.UNRESPONSIVE) else None

    def _close_request(self, away: int) -> _Candidate:
        """The request is reported: it is neither in flight nor overdue any more."""
        if self._in_flight.pop(away, None) is None:
            self._overdue -= 1
        return self._candidates[away]

    def _leave_live(self, away: int) -> None:
        del self._live[bisect_left(self._live, away)]

    def _finish(self, reason: StopReason) -> Done:
        nearest = [self._candidates[away] for away in self._live[: 2 * self._k]]
        peers = tuple(ClosestPeer(each.peer, each.state) for each in nearest)
        self._done = Done(reason, peers[: self._k], peers[self._k :])
        return self._done


class PeerLookup(ClosestPeersLookup):
    """Finds one peer: over as soon as the peer itself was reached (FOUND)."""

    def __init__(self, peer: PeerId, seeds: Sequence[PeerId], rules: LookupRules) -> None:
        super().__init__(peer.key, seeds, rules)
        self._peer = peer

    def on_connected(self, peer: PeerId) -> None:
        """There is a connection to ``peer``: that is enough if it is the one looked for."""
        if peer == self._peer:
            self.stop(StopReason.FOUND)

    def on_reply(self, peer: PeerId, closer: Sequence[PeerId], now: Monotonic) -> None:
        super().on_reply(peer, closer, now)
        if peer == self._peer and self.state_of(peer) is PeerState.QUERIED:
            self.stop(StopReason.FOUND)

    def on_failure(self, peer: PeerId, why: FailureReason, now: Monotonic) -> None:
        expected = self._open_request(peer) is not None
        super().on_failure(peer, why, now)
        if expected and why.reached:
            self.on_connected(peer)


class ProvidersLookup(ClosestPeersLookup):
    """Finds providers of a key: over when ``count`` are found, or complete if it is None.

    At most ``MAX_PROVIDERS_PER_LOOKUP`` are collected, whatever ``count`` says.

    Raises:
        UsageError: ``count`` is below 1.
    """

    def __init__(
        self, target: Key, seeds: Sequence[PeerId], rules: LookupRules, *, count: int | None = None
    ) -> None:
        if count is not None and count < 1:
            raise UsageError(f"count must be at least 1, or None for all, not {count}")
        most = params.MAX_PROVIDERS_PER_LOOKUP
        self._wanted = most if count is None else min(count, most)
        self._providers: dict[PeerId, PeerEntry] = {}
        super().__init__(target, seeds, rules)

    @property
    def providers(self) -> list[PeerEntry]:
        """Those found, in the order they were found, each with the first addresses it had."""
        return list(self._providers.values())

    def on_providers(self, peer: PeerId | None, providers: Sequence[PeerEntry]) -> list[PeerEntry]:
        """Take the providers of ``peer``'s reply, before ``on_reply``; those worth passing on.

        Worth it is one not seen before, and one that had no addresses before and now has. ``None``
        stands for this node's own records.
        """
        if peer is not None and self._open_request(peer) is None:
            return []
        fresh: list[PeerEntry] = []
        for entry in providers:
            if len(self._providers) >= self._wanted:
                break
            known = self._providers.get(entry.peer_id)
            if known is None or (entry.addrs and not known.addrs):
                self._providers[entry.peer_id] = entry
                fresh.append(entry)
        if len(self._providers) >= self._wanted:
            self.stop(StopReason.FOUND)
        return fresh
