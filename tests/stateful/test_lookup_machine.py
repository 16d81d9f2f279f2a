"""Any sequence of reports, times and signs of life on a lookup, against a plain restatement of its
rules; and its indices against the states that they are made from."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key
from codio_dht.core.lookup import (
    LOOKUP_HURRY_S,
    LOOKUP_LIMIT_S,
    STALL_AFTER_REPLIES,
    ClosestPeersLookup,
)
from codio_dht.core.lookup_states import Done, LookupRules, PeerState, Query, StopReason
from codio_dht.core.messages import FailureReason
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_health import MIN_SOFT_DEADLINE_S, Condition, Outlook
from codio_dht.core.steps import Wait

TARGET = Key(0)


def peer_at(key: int) -> PeerId:
    peer = PeerId(b"\x12\x20" + key.to_bytes(32, "big"))
    peer._key = Key(key)
    return peer


LOCAL = peer_at(77)
NUMBERS = st.integers(1, 100)
CLOSER = st.lists(NUMBERS, max_size=8)
OPEN = (PeerState.WAITING, PeerState.UNRESPONSIVE, PeerState.GIVEN_UP)
MOVES = {
    None: (PeerState.HEARD, PeerState.AVOIDED),
    PeerState.AVOIDED: (PeerState.HEARD,),
    PeerState.HEARD: (PeerState.WAITING,),
    PeerState.WAITING: (
        PeerState.UNRESPONSIVE,
        PeerState.GIVEN_UP,
        PeerState.QUERIED,
        PeerState.FAILED,
    ),
    PeerState.UNRESPONSIVE: (PeerState.GIVEN_UP, PeerState.QUERIED, PeerState.FAILED),
    PeerState.GIVEN_UP: (PeerState.QUERIED, PeerState.FAILED),
    PeerState.QUERIED: (),
    PeerState.FAILED: (),
}
"""The diagram of the module, and that a peer may be given up as soon as it is unresponsive."""


@dataclass
class Known:
    """What the oracle knows of a peer; its number is its distance."""

    state: PeerState
    alive: bool = False
    soft: float = 0.0
    reach: float = 0.0
    patient: float = 0.0
    until: float = 0.0

    @property
    def live(self) -> bool:
        if self.state is PeerState.GIVEN_UP:
            return self.alive
        return self.state not in (PeerState.FAILED, PeerState.AVOIDED)

    @property
    def settled(self) -> bool:
        return self.state is PeerState.QUERIED or (self.state is PeerState.GIVEN_UP and self.alive)


class LookupMachine(RuleBasedStateMachine):
    """The oracle keeps every peer in one dictionary, and sorts and counts whenever it wants to
    know something."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = 0.0
        self.began: float | None = None
        self.ends_at: float | None = None
        self.peers: dict[int, Known] = {}
        self.seen: dict[int, PeerState] = {}
        self.reached: list[int] = []
        self.asked: list[int] = []
        self.following_up = False
        self.fruitless = 0
        self.done: Done | None = None

    @initialize(
        seeds=st.lists(NUMBERS, min_size=1, max_size=20),
        dead=st.lists(NUMBERS, max_size=40),
        times=st.tuples(st.floats(0, 3), st.floats(0, 3), st.floats(0, 3)),
        k=st.integers(1, 8),
        alpha=st.integers(1, 5),
        beta=st.integers(1, 9),
    )
    def begin(self, seeds, dead, times, k: int, alpha: int, beta: int) -> None:
        self.k, self.alpha, self.beta = k, alpha, min(beta, k)
        self.dead, self.seeds = dead, seeds
        soft_s, reach_s, more_s = times
        self.times = soft_s, min(reach_s, soft_s + more_s), soft_s + more_s
        self.lookup = ClosestPeersLookup(
            TARGET,
            [peer_at(seed) for seed in seeds],
            LookupRules(
                local=LOCAL,
                outlook=lambda peer, _: Outlook(
                    Condition.DEAD if peer.key in dead else Condition.UNKNOWN, 0.1, *self.times
                ),
                shows_life=lambda peer: peer.key in self.reached,
                k=k,
                alpha=alpha,
                beta=beta,
            ),
        )
        if all(seed == LOCAL.key for seed in seeds):
            self.done = Done(StopReason.NO_PEERS)

    # --- the oracle -------------------------------------------------------------------------------

    def in_state(self, *states: PeerState) -> list[int]:
        return sorted(each for each, known in self.peers.items() if known.state in states)

    def live(self) -> list[int]:
        return sorted(each for each, known in self.peers.items() if known.live)

    def responsive(self) -> list[int]:
        return [each for each in self.live() if each not in self.in_state(PeerState.UNRESPONSIVE)]

    def hear(self, each: int) -> bool:
        """Whether it is new and among the k nearest."""
        if each == LOCAL.key or each in self.peers:
            return False
        dead = each in self.dead
        self.peers[each] = Known(PeerState.AVOIDED if dead else PeerState.HEARD)
        return each in self.live()[: self.k]

    def expected_query(self) -> int | None:
        stalled = self.fruitless >= STALL_AFTER_REPLIES
        width = max(self.k, self.alpha) if stalled or self.following_up else self.alpha
        if len(self.in_state(PeerState.WAITING)) >= width:
            return None
        nearest = self.responsive()[: self.k]
        return next((each for each in nearest if each in self.in_state(PeerState.HEARD)), None)

    def expire(self) -> None:
        for each in self.in_state(PeerState.WAITING):
            known = self.peers[each]
            if known.until > self.clock:
                continue
            if self.clock < known.soft and each in self.reached:
                known.until = known.soft
            else:
                known.state, known.until = PeerState.UNRESPONSIVE, self.clock
        for each in self.in_state(PeerState.UNRESPONSIVE):
            known = self.peers[each]
            if known.until > self.clock:
                continue
            reached = each in self.reached
            known.until = known.patient if reached else min(known.patient, known.reach)
            if known.until <= self.clock:
                known.state, known.alive = PeerState.GIVEN_UP, reached

    def spare_the_dead(self) -> None:
        """Nobody else is left: the k nearest of the avoided are asked after all."""
        if not self.live() and not self.in_state(*OPEN):
            for each in self.in_state(PeerState.AVOIDED)[: self.k]:
                self.peers[each].state = PeerState.HEARD

    # --- what happens -----------------------------------------------------------------------------

    @rule()
    def step(self) -> None:
        if self.began is None:
            self.began = self.clock
            for seed in self.seeds:
                self.hear(seed)
        step = self.lookup.next(Monotonic(self.clock))
        if self.done is not None:
            assert step == self.done
            return
        if self.ends_at is not None and self.ends_at <= self.clock:
            assert isinstance(step, Done)
            assert step.reason is StopReason.OVERRUN
            alive = [each for each in self.live() if self.peers[each].alive]
            assert [each.peer.key for each in step.closest] == alive[: self.k]
            self.done = step
            return
        self.expire()
        self.spare_the_dead()
        nearest = [self.peers[each] for each in self.responsive()[: self.beta]]
        if self.live() and self.ends_at is not None and all(each.settled for each in nearest):
            self.following_up = True
        match step:
            case Query(peer, follow_up):
                self.query(peer.key, follow_up)
            case Wait(until):
                assert self.expected_query() is None
                asked = self.in_state(PeerState.WAITING, PeerState.UNRESPONSIVE)
                waits = [self.peers[each].until for each in asked]
                waits += [] if self.ends_at is None else [self.ends_at]
                assert until == min(waits, default=None)
                assert self.in_state(*OPEN) != []
            case Done(reason, closest):
                self.done = step
                assert self.expected_query() is None
                live = self.live()
                assert [each.peer.key for each in closest] == live[: self.k]
                if live:
                    assert reason is StopReason.COMPLETED
                    assert all(self.peers[each].settled for each in live[: self.k])
                else:
                    assert reason is StopReason.NOBODY_ANSWERED
                    assert self.in_state(*OPEN, PeerState.AVOIDED) == []

    def query(self, number: int, follow_up: bool) -> None:
        assert number == self.expected_query()
        assert follow_up == self.following_up
        assert self.began is not None
        left = max(self.began + LOOKUP_HURRY_S - self.clock, MIN_SOFT_DEADLINE_S)
        known = self.peers[number]
        known.state = PeerState.WAITING
        known.soft, known.reach, known.patient = (
            self.clock + min(seconds, left) for seconds in self.times
        )
        known.until = min(known.soft, known.reach)
        self.asked.append(number)

    @rule(closer=CLOSER, choice=st.integers(0, 1_000))
    @precondition(lambda self: self.in_state(*OPEN))
    def reply(self, closer: list[int], choice: int) -> None:
        is_open = self.in_state(*OPEN)
        self.report(is_open[choice % len(is_open)], closer)

    @rule(peer=NUMBERS, closer=CLOSER)
    def reply_of_anyone(self, peer: int, closer: list[int]) -> None:
        self.report(peer, closer)

    def report(self, peer: int, closer: list[int]) -> None:
        self.lookup.on_reply(peer_at(peer), [peer_at(each) for each in closer], self.now())
        if self.done is not None or peer not in self.in_state(*OPEN):
            return
        self.peers[peer].state, self.peers[peer].alive = PeerState.QUERIED, True
        if self.ends_at is None:
            assert self.began is not None
            began = max(self.began, self.clock - LOOKUP_HURRY_S)
            self.ends_at = began + LOOKUP_LIMIT_S
        progress = [self.hear(each) for each in closer]
        self.fruitless = 0 if any(progress) else self.fruitless + 1

    @rule(choice=st.integers(0, 1_000), why=st.sampled_from(FailureReason))
    @precondition(lambda self: self.in_state(*OPEN))
    def fail(self, choice: int, why: FailureReason) -> None:
        is_open = self.in_state(*OPEN)
        self.failure(is_open[choice % len(is_open)], why)

    @rule(peer=NUMBERS, why=st.sampled_from(FailureReason))
    def fail_anyone(self, peer: int, why: FailureReason) -> None:
        self.failure(peer, why)

    def failure(self, peer: int, why: FailureReason) -> None:
        self.lookup.on_failure(peer_at(peer), why, self.now())
        if self.done is None and peer in self.in_state(*OPEN):
            self.peers[peer].state = PeerState.FAILED

    @rule(choice=st.integers(0, 1_000))
    @precondition(lambda self: self.in_state(*OPEN))
    def show_life(self, choice: int) -> None:
        is_open = self.in_state(*OPEN)
        self.reached.append(is_open[choice % len(is_open)])

    @rule(seconds=st.floats(0, 4))
    def time_passes(self, seconds: float) -> None:
        self.clock += seconds

    def now(self) -> Monotonic:
        return Monotonic(self.clock)

    # --- always -----------------------------------------------------------------------------------

    @invariant()
    def nobody_was_asked_twice(self) -> None:
        assert len(self.asked) == len(set(self.asked))

    @invariant()
    def states_agree_and_move_as_the_diagram_says(self) -> None:
        for each, known in self.peers.items():
            assert self.lookup.state_of(peer_at(each)) is known.state
            before = self.seen.get(each)
            if before is not known.state:
                self.seen[each] = known.state
                assert known.state in self.reachable(before)

    @staticmethod
    def reachable(state: PeerState | None) -> list[PeerState]:
        """What a peer may have become when ``state`` was seen last: one call may move it twice."""
        once = MOVES[state]
        return [*once, *(twice for each in once for twice in MOVES[each])]

    @invariant()
    def the_indices_are_what_the_states_say(self) -> None:
        if self.began is None:
            return
        lookup = self.lookup
        everybody = lookup._candidates
        assert all(away == each.distance == each.peer.key for away, each in everybody.items())
        live = sorted(away for away, each in everybody.items() if each.is_live)
        assert [each.distance for each in lookup._live] == live
        is_open = sorted(away for away, each in everybody.items() if each.state.is_open)
        assert sorted(lookup._open) == is_open
        assert all(everybody[away] is each for away, each in lookup._open.items())
        timed = [PeerState.WAITING, PeerState.UNRESPONSIVE]
        for each in everybody.values():
            assert (each.until is not None) == (each.state in timed)


TestLookupMachine = pytest.mark.conformance("c31", "c32", "c33", "c34")(LookupMachine.TestCase)
TestLookupMachine.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
