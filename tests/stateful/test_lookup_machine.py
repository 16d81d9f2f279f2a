"""Any sequence of reports and times on a lookup, against a plain restatement of its rules."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from codio_dht import params
from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key
from codio_dht.core.lookup import ClosestPeersLookup
from codio_dht.core.lookup_rules import LookupRules
from codio_dht.core.lookup_states import Done, PeerState, Query, StopReason
from codio_dht.core.messages import FailureReason
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_health import Condition, Outlook
from codio_dht.core.steps import Wait

TARGET = Key(0)
SOFT_S = 3.0


def peer_at(key: int) -> PeerId:
    peer = PeerId(b"\x12\x20" + key.to_bytes(32, "big"))
    peer._key = Key(key)
    return peer


LOCAL = peer_at(77)
NUMBERS = st.integers(1, 100)
CLOSER = st.lists(NUMBERS, max_size=8)
LIVE = (PeerState.HEARD, PeerState.WAITING, PeerState.QUERIED)
OPEN = (PeerState.WAITING, PeerState.UNRESPONSIVE)


class LookupMachine(RuleBasedStateMachine):
    """The oracle knows each peer (its number is its distance) by state and deadline."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = 0.0
        self.began: float | None = None
        self.ends_at: float | None = None
        self.state: dict[int, PeerState] = {}
        self.deadline: dict[int, float] = {}
        self.asked: list[int] = []
        self.following_up = False
        self.fruitless = 0
        self.done: Done | None = None

    @initialize(
        seeds=st.lists(NUMBERS, min_size=1, max_size=20),
        k=st.integers(1, 8),
        alpha=st.integers(1, 5),
        beta=st.integers(1, 9),
    )
    def begin(self, seeds: list[int], k: int, alpha: int, beta: int) -> None:
        self.k, self.alpha, self.beta = k, alpha, min(beta, k)
        self.lookup = ClosestPeersLookup(
            TARGET,
            [peer_at(seed) for seed in seeds],
            LookupRules(
                local=LOCAL,
                outlook=lambda *_: Outlook(Condition.UNKNOWN, 0.1, SOFT_S, SOFT_S, SOFT_S),
                k=k,
                alpha=alpha,
                beta=beta,
            ),
        )
        self.state = {seed: PeerState.HEARD for seed in seeds if seed != LOCAL.key}
        if not self.state:
            self.done = Done(StopReason.NO_PEERS)

    # --- the oracle -------------------------------------------------------------------------------

    def in_state(self, *states: PeerState) -> list[int]:
        return sorted(each for each, state in self.state.items() if state in states)

    def nearest_answered(self, n: int) -> bool:
        return all(self.state[each] is PeerState.QUERIED for each in self.in_state(*LIVE)[:n])

    def expected_query(self) -> int | None:
        stalled = self.fruitless >= params.STALL_AFTER_REPLIES
        width = max(self.k, self.alpha) if stalled or self.following_up else self.alpha
        if len(self.in_state(PeerState.WAITING)) >= width:
            return None
        nearest = self.in_state(*LIVE)[: self.k]
        return next((each for each in nearest if self.state[each] is PeerState.HEARD), None)

    # --- what happens -----------------------------------------------------------------------------

    @rule()
    def step(self) -> None:
        if self.began is None:
            self.began = self.clock
        step = self.lookup.next(Monotonic(self.clock))
        if self.done is not None:
            assert step == self.done
            return
        if self.ends_at is not None and self.ends_at <= self.clock:
            assert isinstance(step, Done)
            assert step.reason is StopReason.OVERRUN
            answered = self.in_state(PeerState.QUERIED)
            assert [each.peer.key for each in step.closest] == answered[: self.k]
            self.done = step
            return
        for each in self.in_state(PeerState.WAITING):
            if self.deadline[each] <= self.clock:
                self.state[each] = PeerState.UNRESPONSIVE
        live = self.in_state(*LIVE)
        self.following_up |= bool(live) and self.nearest_answered(self.beta)
        match step:
            case Query(peer, follow_up):
                assert peer.key == self.expected_query()
                assert follow_up == self.following_up
                self.state[peer.key] = PeerState.WAITING
                left = max(
                    self.began + params.LOOKUP_HURRY_S - self.clock, params.MIN_SOFT_DEADLINE_S
                )
                self.deadline[peer.key] = self.clock + min(SOFT_S, left)
                self.asked.append(peer.key)
            case Wait(until):
                assert self.expected_query() is None
                waiting = self.in_state(PeerState.WAITING)
                waits = [self.deadline[each] for each in waiting]
                waits += [] if self.ends_at is None else [self.ends_at]
                assert until == min(waits, default=None)
                assert self.in_state(*OPEN) != []
            case Done(reason, closest):
                self.done = step
                assert self.expected_query() is None
                assert [each.peer.key for each in closest] == live[: self.k]
                if live:
                    assert reason is StopReason.COMPLETED
                    assert self.nearest_answered(self.k)
                else:
                    assert reason is StopReason.NOBODY_ANSWERED
                    assert self.in_state(*OPEN) == []

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
        if self.done is not None or self.state.get(peer) not in OPEN:
            return
        self.state[peer] = PeerState.QUERIED
        if self.ends_at is None:
            assert self.began is not None
            began = max(self.began, self.clock - params.LOOKUP_HURRY_S)
            self.ends_at = began + params.LOOKUP_LIMIT_S
        progress = False
        for each in closer:
            if each != LOCAL.key and each not in self.state:
                self.state[each] = PeerState.HEARD
                progress |= each in self.in_state(*LIVE)[: self.k]
        self.fruitless = 0 if progress else self.fruitless + 1

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
        if self.done is None and self.state.get(peer) in OPEN:
            self.state[peer] = PeerState.FAILED

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
    def states_agree(self) -> None:
        for each, state in self.state.items():
            if self.began is not None:
                assert self.lookup.state_of(peer_at(each)) is state


TestLookupMachine = pytest.mark.conformance("c31", "c32", "c33", "c34")(LookupMachine.TestCase)
TestLookupMachine.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
