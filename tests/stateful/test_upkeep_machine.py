"""The upkeep machine under any sequence of reports: late, twice, dropped, in any order.

What must hold whatever happens: the machine comes to rest at every moment, plans no wait for the
past, never has more dials and probes out than its bounds allow, and every round that was begun is
over once all its steps have been reported.
"""

from __future__ import annotations

from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from codio_dht.core.addresses import KEEP_ALL
from codio_dht.core.admission import MAX_ADMISSION_PROBES
from codio_dht.core.clock import Monotonic
from codio_dht.core.join_round import (
    BOOTSTRAP_DIAL_TIMEOUT_S,
    MAX_BOOTSTRAP_DIALS,
    Dial,
    JoinProbe,
    JoinRound,
)
from codio_dht.core.joining import AskNames, Unreachable
from codio_dht.core.messages import FailureReason, MessageType, PeerEntry, Reply
from codio_dht.core.network import Network, NetworkPolicy
from codio_dht.core.peer import PeerId
from codio_dht.core.refresh import MAX_JOIN_LOOKUPS, MAX_LIVENESS_PROBES, CplLookup, SelfLookup
from codio_dht.core.steps import Wait
from codio_dht.core.upkeep import (
    CandidateProbe,
    CheckAlive,
    OwnIdQuery,
    RefreshLookup,
    Upkeep,
)
from codio_dht.params import PROBE_TIMEOUT_S

PEERS = st.integers(1, 30)
REASONS = st.sampled_from(list(FailureReason))
MAX_STEPS = 1_000


def entry(number: int) -> PeerEntry:
    address = b"\x04" + (0x0A000000 + number).to_bytes(4, "big") + b"\x06\x0f\xa1"
    return PeerEntry(PeerId(b"\x12\x20" + number.to_bytes(32, "big")), (address,))


class UpkeepMachine(RuleBasedStateMachine):
    """A driver that does everything wrong that a driver may."""

    @initialize(
        bootstrap=st.lists(PEERS, unique=True, max_size=12),
        seed=st.integers(0, 9),
        has_names=st.booleans(),
    )
    def begun(self, bootstrap: list[int], seed: int, has_names: bool) -> None:
        self.clock = 0.0
        self.network = Network(entry(0).peer_id, protocol="/kad", policy=NetworkPolicy(KEEP_ALL))
        peers = [entry(each) for each in bootstrap]
        self.upkeep = Upkeep(self.network, self, peers, Random(seed), has_names=has_names)
        self.asks_names = False
        self.rounds: dict[JoinRound, None] = {}
        self.dials: list[Dial] = []
        self.queries: list[OwnIdQuery] = []
        self.lookups: list[RefreshLookup] = []
        self.reported: list[Dial | OwnIdQuery] = []
        self.perform()

    def is_connected(self, _peer: PeerId) -> bool:
        """The host has no connections."""
        return False

    is_reached = is_connected

    @property
    def now(self) -> Monotonic:
        return Monotonic(self.clock)

    def perform(self) -> None:
        """Take every step there is now."""
        for _ in range(MAX_STEPS):
            match step := self.upkeep.next(self.now):
                case Wait(until):
                    assert until is None or until > self.clock
                    return
                case Dial():
                    assert step.deadline == self.clock + BOOTSTRAP_DIAL_TIMEOUT_S
                    self.rounds[step.round] = None
                    self.dials.append(step)
                case CandidateProbe(ask) | JoinProbe(ask) | CheckAlive(ask):
                    assert ask.deadline == self.clock + PROBE_TIMEOUT_S
                    self.queries.append(step)
                case SelfLookup() | CplLookup():
                    assert step not in self.lookups
                    self.lookups.append(step)
                case AskNames():
                    assert not self.asks_names
                    self.asks_names = True
                case Unreachable(retry_in_s):
                    assert retry_in_s > 0
        raise AssertionError("the machine does not come to rest")

    # --- the user and the network -----------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0, 150.0, 3_000.0]))
    def wait(self, seconds: float) -> None:
        self.clock += seconds
        self.perform()

    @rule(numbers=st.lists(PEERS, unique=True, max_size=12))
    def join(self, numbers: list[int]) -> None:
        self.rounds[self.upkeep.joiner.join([entry(each) for each in numbers])] = None
        self.perform()

    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        if self.rounds:
            begun = data.draw(st.sampled_from(list(self.rounds)))
            self.upkeep.joiner.abandon(begun)
            assert begun.over
            self.perform()

    @rule(numbers=st.lists(PEERS, unique=True, max_size=30))
    def remember(self, numbers: list[int]) -> None:
        self.upkeep.joiner.remember([entry(each) for each in numbers], self.now)
        self.perform()

    @rule(number=PEERS)
    def answer_elsewhere(self, number: int) -> None:
        """A lookup of the user's met the peer."""
        self.network.learn([entry(number)], None, self.now)
        self.network.answered(entry(number).peer_id, self.now)
        self.perform()

    @rule(number=PEERS, why=REASONS)
    def fail_elsewhere(self, number: int, why: FailureReason) -> None:
        self.network.failed(entry(number).peer_id, why, self.now, began=self.now)
        self.perform()

    # --- reports ----------------------------------------------------------------------------------

    @rule(data=st.data(), ends=st.sampled_from(["dialled", "failed", "dropped"]))
    def end_dial(self, data: st.DataObject, ends: str) -> None:
        if not self.dials:
            return
        dial = self.dials.pop(data.draw(st.integers(0, len(self.dials) - 1)))
        self.report_dial(dial, ends)
        self.reported.append(dial)
        self.perform()

    def report_dial(self, dial: Dial, ends: str) -> None:
        if ends == "dialled":
            self.upkeep.dialled(dial)
        elif ends == "failed":
            self.upkeep.dial_failed(dial, FailureReason.UNREACHABLE)
        self.upkeep.dropped(dial, self.now)

    @rule(data=st.data(), closer=st.lists(PEERS, max_size=4), why=st.none() | REASONS)
    def end_query(self, data: st.DataObject, closer: list[int], why: FailureReason | None) -> None:
        if not self.queries:
            return
        query = self.queries.pop(data.draw(st.integers(0, len(self.queries) - 1)))
        if why is None:
            reply = Reply(MessageType.FIND_NODE, closer_peers=tuple(map(entry, closer)))
            self.upkeep.answered(query, reply, self.now)
        else:
            self.upkeep.failed(query, why, self.now)
        self.upkeep.dropped(query, self.now)
        self.reported.append(query)
        self.perform()

    @rule(numbers=st.lists(PEERS, max_size=4), ends=st.sampled_from(["named", "failed", "dropped"]))
    def end_names(self, numbers: list[int], ends: str) -> None:
        if not self.asks_names:
            return
        self.asks_names = False
        if ends == "named":
            self.upkeep.named([entry(each) for each in numbers])
        elif ends == "failed":
            assert self.upkeep.names_failed(FailureReason.UNREACHABLE, self.now) > 0
        self.upkeep.dropped(AskNames(), self.now)
        self.perform()

    @rule(data=st.data())
    def end_lookup(self, data: st.DataObject) -> None:
        if self.lookups:
            lookup = self.lookups.pop(data.draw(st.integers(0, len(self.lookups) - 1)))
            self.upkeep.lookup_ended(lookup, self.now)
            self.perform()

    @rule(data=st.data())
    def report_twice(self, data: st.DataObject) -> None:
        """A round counts nobody twice."""
        if not self.reported:
            return
        step = data.draw(st.sampled_from(self.reported))
        before = [(each.answered, each.over) for each in self.rounds]
        match step:
            case Dial():
                self.report_dial(step, "dialled")
            case CandidateProbe() | JoinProbe() | CheckAlive():
                self.upkeep.failed(step, FailureReason.CAPACITY, self.now)
        assert before == [(each.answered, each.over) for each in self.rounds]
        self.perform()

    # --- what holds -------------------------------------------------------------------------------

    @invariant()
    def bounds(self) -> None:
        checks = [each for each in self.queries if isinstance(each, CheckAlive)]
        assert len(checks) <= MAX_LIVENESS_PROBES
        assert self.network.admission.probing <= MAX_ADMISSION_PROBES
        assert len(self.lookups) <= MAX_JOIN_LOOKUPS
        for begun in self.rounds:
            assert len(begun._turns) <= MAX_BOOTSTRAP_DIALS

    def teardown(self) -> None:
        """Every step fails in the end: every round is over, and nothing is waited for."""
        if not hasattr(self, "upkeep"):
            return
        begun = list(self.rounds)
        for _ in range(20):
            self.fail_everything()
        assert [each for each in begun if not each.over] == []

    def fail_everything(self) -> None:
        for dial in self.dials:
            self.report_dial(dial, "failed")
        for query in self.queries:
            self.upkeep.failed(query, FailureReason.UNREACHABLE, self.now)
        for lookup in self.lookups:
            self.upkeep.lookup_ended(lookup, self.now)
        for each in (self.dials, self.queries, self.lookups):
            each.clear()
        self.clock += 1
        self.perform()


TestUpkeepMachine = UpkeepMachine.TestCase
TestUpkeepMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
