"""The upkeep machine: how it joins, whom it probes, what it looks up, and what it never loses."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from codio_dht.core.addresses import KEEP_ALL
from codio_dht.core.admission import OfferOutcome
from codio_dht.core.clock import Monotonic
from codio_dht.core.join_round import (
    BOOTSTRAP_DIAL_TIMEOUT_S,
    BOOTSTRAP_STAGGER_S,
    MAX_BOOTSTRAP_DIALS,
    Dial,
    JoinProbe,
    JoinRound,
)
from codio_dht.core.joining import (
    JOIN_BACKOFF,
    LOW_PEERS_CHECK_S,
    MAX_REMEMBERED_PEERS,
    MAX_RETURN_ROUNDS,
    AskNames,
    Joining,
    Unreachable,
)
from codio_dht.core.keyspace import cpl, key_of
from codio_dht.core.messages import FailureReason, MessageType, PeerEntry, Reply
from codio_dht.core.network import Network, NetworkPolicy
from codio_dht.core.outage import OUTAGE_FAILURES
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_health import Condition
from codio_dht.core.refresh import LIVENESS_GRACE_S, LOW_PEERS, CplLookup, SelfLookup
from codio_dht.core.steps import Wait
from codio_dht.core.upkeep import (
    CandidateProbe,
    CheckAlive,
    Upkeep,
    UpkeepStep,
)
from codio_dht.errors import NoPeersError
from codio_dht.params import PROBE_TIMEOUT_S, K
from searching import FakeContacts

TIMEOUT = FailureReason.TIMEOUT
UNREACHABLE = FailureReason.UNREACHABLE
DNSADDR = b"\x38\x0bexample.org"


def now(seconds: float) -> Monotonic:
    return Monotonic(seconds)


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + number.to_bytes(32, "big"))


def addr(number: int) -> bytes:
    return b"\x04" + (0x0A000000 + number).to_bytes(4, "big") + b"\x06\x0f\xa1"


def entry(number: int) -> PeerEntry:
    return PeerEntry(peer(number), (addr(number),))


def entries(count: int) -> list[PeerEntry]:
    return [entry(number) for number in range(1, count + 1)]


def reply(*closer: PeerEntry) -> Reply:
    return Reply(MessageType.FIND_NODE, closer_peers=closer)


class Node:
    """A machine with a network of its own, and what a test asks of it at one moment."""

    def __init__(
        self, bootstrap: Sequence[PeerEntry] = (), seed: int = 1, *, has_names: bool = False
    ) -> None:
        self.network = Network(peer(0), protocol="/kad", policy=NetworkPolicy(KEEP_ALL))
        self.upkeep = Upkeep(
            self.network, FakeContacts(), bootstrap, Random(seed), has_names=has_names
        )
        self.out: list[UpkeepStep] = []
        """Steps that are to be reported."""

    def steps(self, at: float) -> list[UpkeepStep]:
        """All there is to do at ``at``, the wait at the end included."""
        steps: list[UpkeepStep] = []
        while not steps or not isinstance(steps[-1], Wait):
            assert len(steps) < 1_000
            steps.append(self.upkeep.next(now(at)))
        self.out += [each for each in steps if not isinstance(each, Wait | Unreachable)]
        return steps

    def dials(self, at: float) -> list[Dial]:
        return [each for each in self.steps(at) if isinstance(each, Dial)]

    def enter(self, *numbers: int, at: float = 0.0) -> None:
        """These peers are known and have answered."""
        for number in numbers:
            self.network.book.heard(peer(number), (addr(number),), now(at))
            self.network.answered(peer(number), now(at))

    def settle(self, at: float) -> None:
        """Every lookup that is out or wanted ends now; it met nobody new."""
        self.steps(at)
        while lookups := [each for each in self.out if isinstance(each, SelfLookup | CplLookup)]:
            self.out = [each for each in self.out if each not in lookups]
            for lookup in lookups:
                self.upkeep.lookup_ended(lookup, now(at))
            self.steps(at)

    def fail_all(self, dials: Sequence[Dial], why: FailureReason = UNREACHABLE) -> None:
        for dial in dials:
            self.upkeep.dial_failed(dial, why)


def condition(node: Node, number: int, at: float) -> Condition:
    """What lookups think of a peer."""
    return node.network.health.outlook(peer(number), now(at), connected=False).condition


def until(steps: Sequence[UpkeepStep]) -> float | None:
    wait = steps[-1]
    assert isinstance(wait, Wait)
    return wait.until


# --- a round --------------------------------------------------------------------------------------


def test_a_node_that_was_given_nobody_waits_and_says_so() -> None:
    node = Node()
    assert node.upkeep.joiner.state is Joining.ALONE
    assert node.steps(0) == [Wait(now(LOW_PEERS_CHECK_S))]
    assert not node.upkeep.joiner.awaits_peers


def test_itself_is_nobody_to_join_through() -> None:
    node = Node([entry(0)])
    assert node.upkeep.joiner.state is Joining.ALONE
    assert node.dials(0) == []
    assert node.upkeep.joiner.join([entry(0)]).over


def test_a_bootstrap_peer_is_dialled_then_probed_then_in_the_table() -> None:
    node = Node([entry(1)])
    assert node.upkeep.joiner.state is Joining.JOINING
    (dial,) = node.dials(0)
    assert (dial.peer, dial.addrs) == (peer(1), (addr(1),))
    assert dial.deadline == BOOTSTRAP_DIAL_TIMEOUT_S
    assert node.upkeep.joiner.awaits_peers
    node.upkeep.dialled(dial)
    probe = node.upkeep.next(now(2))
    assert isinstance(probe, JoinProbe)
    assert (probe.ask.peer, probe.ask.deadline) == (peer(1), 2 + PROBE_TIMEOUT_S)
    node.upkeep.answered(probe, reply(entry(2)), now(3))
    assert node.network.table.peers() == [peer(1)]
    assert node.network.book.addrs(peer(2), now(3)) == (addr(2),)
    assert node.upkeep.joiner.state is Joining.JOINED
    assert not node.upkeep.joiner.awaits_peers


def test_a_probe_tells_of_its_peers_health_whatever_its_kind() -> None:
    node = Node(entries(2))
    first, second = node.dials(0)
    node.upkeep.dialled(first)
    node.upkeep.dialled(second)
    answering, failing = (step for step in node.steps(2) if isinstance(step, JoinProbe))
    node.upkeep.answered(answering, reply(), now(2.25))
    node.upkeep.failed(failing, FailureReason.TIMEOUT, now(2.5))
    node.upkeep.dropped(answering, now(3))
    health = node.network.health
    alive, dead = (
        health.outlook(each.ask.peer, now(3), connected=True) for each in (answering, failing)
    )
    assert (alive.condition, dead.condition) == (Condition.ALIVE, Condition.DEAD)
    assert alive.alive_at == now(2.25)


def test_few_peers_are_dialled_at_a_time_and_a_slow_one_lets_the_next_begin() -> None:
    node = Node(entries(10))
    first = node.steps(0)
    assert len(first) == MAX_BOOTSTRAP_DIALS + 1
    assert until(first) == BOOTSTRAP_STAGGER_S
    assert node.dials(BOOTSTRAP_STAGGER_S / 2) == []
    node.fail_all([each for each in first if isinstance(each, Dial)][:1])
    assert len(node.dials(BOOTSTRAP_STAGGER_S / 2)) == 1
    assert len(node.dials(BOOTSTRAP_STAGGER_S)) == MAX_BOOTSTRAP_DIALS - 1
    assert len(node.dials(2 * BOOTSTRAP_STAGGER_S)) == 2
    dialled = {each.peer for each in node.out if isinstance(each, Dial)}
    assert dialled == {each.peer_id for each in entries(10)}


def test_the_order_of_a_round_is_left_to_chance() -> None:
    orders = {tuple(each.peer for each in Node(entries(4), seed).dials(0)) for seed in range(20)}
    assert len(orders) > 5


def test_a_round_counts_who_answered_and_is_over_when_all_have_ended() -> None:
    node = Node()
    begun = node.upkeep.joiner.join(entries(3))
    one, two, three = node.dials(0)
    node.upkeep.dial_failed(one, UNREACHABLE)
    node.upkeep.dialled(two)
    node.upkeep.dialled(three)
    *probes, _ = node.steps(1)
    answering, failing = (each for each in probes if isinstance(each, JoinProbe))
    node.upkeep.answered(answering, reply(), now(2))
    assert not begun.over
    node.upkeep.failed(failing, UNREACHABLE, now(2))
    assert (begun.over, begun.answered, node.upkeep.joiner.rounds) == (True, 1, 0)
    assert node.network.table.peers() == [answering.ask.peer]


def test_two_rounds_through_one_peer_each_wait_for_their_own_dial() -> None:
    node = Node()
    a, b = node.upkeep.joiner.join([entry(1)]), node.upkeep.joiner.join([entry(1)])
    first, second = node.dials(0)
    node.upkeep.dial_failed(first, UNREACHABLE)
    assert (a.over, b.over) == (True, False)
    node.upkeep.dialled(second)
    probe = next(each for each in node.steps(1) if isinstance(each, JoinProbe))
    node.upkeep.answered(probe, reply(), now(1))
    assert (a.answered, b.over, b.answered) == (0, True, 1)


def test_a_round_that_nobody_wants_any_more_dials_nobody_else() -> None:
    node = Node()
    begun = node.upkeep.joiner.join(entries(10))
    (dial, *_) = node.dials(0)
    node.upkeep.joiner.abandon(begun)
    assert (begun.over, node.upkeep.joiner.rounds) == (True, 0)
    node.upkeep.dialled(dial)
    assert node.steps(5) == [Wait(now(LOW_PEERS_CHECK_S))]


def test_late_and_repeated_reports_change_nothing() -> None:
    node = Node()
    begun = node.upkeep.joiner.join(entries(2))
    one, two = node.dials(0)
    for _ in range(2):
        node.upkeep.dial_failed(one, UNREACHABLE)
        node.upkeep.dropped(one, now(1))
    node.upkeep.dialled(one)
    for _ in range(2):
        node.upkeep.dialled(two)
        node.upkeep.dropped(two, now(1))
    probes = [each for each in node.steps(1) if isinstance(each, JoinProbe)]
    assert [each.ask.peer for each in probes] == [two.peer]
    for _ in range(2):
        node.upkeep.answered(probes[0], reply(), now(2))
        node.upkeep.dropped(probes[0], now(2))
    assert (begun.answered, begun.over) == (1, True)
    assert node.network.table.peers() == [two.peer]


def test_a_step_that_was_dropped_holds_nothing_up_and_says_nothing_of_the_peer() -> None:
    node = Node()
    begun = node.upkeep.joiner.join(entries(2))
    one, two = node.dials(0)
    node.upkeep.dialled(one)
    (probe,) = (each for each in node.steps(1) if isinstance(each, JoinProbe))
    node.upkeep.dropped(two, now(1))
    node.upkeep.dropped(probe, now(1))
    assert (begun.over, begun.answered) == (True, 0)
    assert node.network.offer(one.peer, now(1)) is not None
    (candidate,) = (each for each in node.steps(1) if isinstance(each, CandidateProbe))
    node.upkeep.dropped(candidate, now(2))
    assert (node.network.admission.probing, node.network.admission.remembered) == (0, 0)


def test_nobody_is_told_of_a_dnsaddr_but_it_is_dialled() -> None:
    node = Node([PeerEntry(peer(1), (DNSADDR, addr(1)))])
    (dial,) = node.dials(0)
    assert dial.addrs == (DNSADDR, addr(1))
    assert node.network.book.addrs(peer(1), now(0)) == (addr(1),)


def test_addresses_of_bootstrap_peers_pass_the_networks_filter() -> None:
    node = Node([entry(1)])
    node.network.set_policy(NetworkPolicy(lambda _addrs: ()), now(0))
    node.dials(0)
    assert node.network.book.addrs(peer(1), now(0)) == ()


# --- joining again --------------------------------------------------------------------------------


def test_where_nobody_answers_rounds_follow_ever_less_often() -> None:
    node = Node(entries(2))
    at, delays = 0.0, []
    for failures in range(1, 10):
        node.fail_all(node.dials(at))
        assert node.upkeep.joiner.state is Joining.UNREACHABLE
        unreachable, wait = node.steps(at)
        assert isinstance(unreachable, Unreachable)
        delay_s = unreachable.retry_in_s
        assert delay_s == pytest.approx(JOIN_BACKOFF.delay_s(failures), rel=0.25)
        assert wait == Wait(now(at + delay_s))
        assert node.dials(at + delay_s - 0.01) == []
        delays.append(delay_s)
        at += delay_s
    exact = [JOIN_BACKOFF.delay_s(failures) for failures in range(1, 10)]
    assert not set(delays) & set(exact)  # or nodes that failed together would come back together


def test_a_round_that_reached_somebody_starts_the_back_off_over() -> None:
    node = Node([entry(1)])
    at = 0.0
    for _ in range(5):
        node.fail_all(node.dials(at))
        at = until(node.steps(at)) or 0.0
    (dial,) = node.dials(at)
    node.upkeep.dialled(dial)
    (probe,) = (each for each in node.steps(at) if isinstance(each, JoinProbe))
    node.upkeep.answered(probe, reply(), now(at))
    node.settle(at)
    node.network.admission.withdraw(peer(1), now(at))
    node.fail_all(node.dials(at))
    (unreachable, _) = node.steps(at)
    assert isinstance(unreachable, Unreachable)
    assert unreachable.retry_in_s == pytest.approx(JOIN_BACKOFF.initial_s, rel=0.25)


def unreachable_after(node: Node, why: FailureReason, at: float) -> float:
    """Every dial of a round fails at ``at`` because of ``why``; the delay until the next one."""
    dials = node.dials(at)
    assert dials
    for dial in dials:
        node.upkeep.dial_failed(dial, why)
    node.steps(at)
    wait = node.upkeep.joiner.next(now(at))
    assert isinstance(wait, Wait)
    assert wait.until is not None
    return wait.until - at + 1e-6  # or rounding makes it a moment too early


def test_failures_of_our_own_network_double_nothing() -> None:
    node = Node(entries(2))
    at = 0.0
    for _ in range(20):
        delay_s = unreachable_after(node, FailureReason.CAPACITY, at)
        assert delay_s == pytest.approx(JOIN_BACKOFF.initial_s, rel=0.25)
        at += delay_s


def test_one_failure_that_is_not_our_own_makes_a_round_count() -> None:
    node = Node(entries(2))
    at = 0.0
    for _ in range(4):
        for dial, why in zip(node.dials(at), (UNREACHABLE, FailureReason.CAPACITY), strict=True):
            node.upkeep.dial_failed(dial, why)
        at = until(node.steps(at)) or at
    assert at > 0.75 * (5 + 10 + 20 + 40)


def test_a_delay_that_does_not_grow_is_told_ever_less_often() -> None:
    node = Node(entries(1))
    at, told = 0.0, []
    for _ in range(20):
        node.fail_all(node.dials(at), FailureReason.CAPACITY)
        steps = node.steps(at)
        told += [each.rounds for each in steps if isinstance(each, Unreachable)]
        at = until(steps) or at
    assert told == [1, 2, 4, 8, 16]


def test_a_node_that_lost_all_its_peers_tries_again_every_few_seconds_for_an_hour() -> None:
    """Most likely it is its own way to the network that is broken."""
    node = Node(entries(2))
    node.enter(1, 2)
    node.fail_all(node.dials(0))
    node.settle(0)
    for number in (1, 2):
        node.network.admission.withdraw(peer(number), now(1))
    at, delays = 1.0, []
    for _ in range(MAX_RETURN_ROUNDS + 3):
        delays.append(unreachable_after(node, UNREACHABLE, at))
        at += delays[-1]
    assert max(delays[:MAX_RETURN_ROUNDS]) <= 12.5
    assert min(delays[MAX_RETURN_ROUNDS:]) >= 225
    assert 1_800 < sum(delays[:MAX_RETURN_ROUNDS]) < 5_400


def test_a_change_of_our_own_network_begins_the_next_round_at_once() -> None:
    node = Node(entries(2))
    at = 0.0
    for _ in range(8):
        at += unreachable_after(node, UNREACHABLE, at)
    delay_s = unreachable_after(node, UNREACHABLE, at)
    assert delay_s > 200
    assert node.dials(at + 1) == []
    node.upkeep.joiner.network_changed(now(at + 1))
    assert unreachable_after(node, UNREACHABLE, at + 1) < 10  # and the back-off starts over


def test_remembered_peers_are_tried_at_once_when_our_network_changed() -> None:
    node = Node()
    node.upkeep.joiner.remember([entry(1)], now(0))
    (probe,) = (each for each in node.steps(0) if isinstance(each, CandidateProbe))
    node.upkeep.failed(probe, UNREACHABLE, now(0))
    assert not [each for each in node.steps(1) if isinstance(each, CandidateProbe)]
    assert condition(node, 1, 1) is Condition.DEAD
    node.upkeep.joiner.network_changed(now(1))
    assert condition(node, 1, 1) is Condition.UNKNOWN
    assert [each for each in node.steps(1) if isinstance(each, CandidateProbe)]


def test_a_change_of_our_own_network_is_nothing_while_peers_answer() -> None:
    node = Node([entry(99)])
    node.enter(*range(1, LOW_PEERS + 1))
    node.settle(0)
    node.network.health.failed(peer(50), TIMEOUT, now(1))
    node.upkeep.joiner.network_changed(now(1))
    assert node.dials(1) == []
    assert condition(node, 50, 1) is Condition.DEAD


def test_a_table_that_is_suddenly_empty_begins_a_round_at_once() -> None:
    node = Node([entry(99)])
    node.enter(*range(1, LOW_PEERS + 1))
    node.settle(0)
    assert node.dials(1) == []
    for number in range(1, LOW_PEERS + 1):
        node.network.admission.withdraw(peer(number), now(2))
    assert [dial.peer for dial in node.dials(2)] == [peer(99)]


def test_low_peers_are_noticed_at_a_check_and_a_few_of_the_given_are_dialled() -> None:
    node = Node([entry(number) for number in range(100, 120)])
    node.enter(*range(1, LOW_PEERS))
    first = node.dials(0)
    assert len(first) == MAX_BOOTSTRAP_DIALS
    node.fail_all(first)
    node.settle(0)
    assert node.dials(LOW_PEERS_CHECK_S - 1) == []
    assert len(node.dials(LOW_PEERS_CHECK_S)) == MAX_BOOTSTRAP_DIALS


def test_a_table_with_enough_peers_needs_nobody_else() -> None:
    node = Node([entry(99)])
    node.enter(*range(1, LOW_PEERS + 1))
    for at in (0, LOW_PEERS_CHECK_S, 2 * LOW_PEERS_CHECK_S):
        assert node.dials(at) == []


def test_an_outage_of_our_own_network_begins_rounds_through_everybody() -> None:
    node = Node(entries(6))
    node.enter(*range(101, 131))
    node.settle(0)
    for number in range(101, 101 + OUTAGE_FAILURES):
        node.network.failed(peer(number), TIMEOUT, now(1), began=now(1))
    assert node.network.outage.suspected
    dials = [*node.dials(1), *node.dials(1 + BOOTSTRAP_STAGGER_S)]
    assert len(dials) == MAX_BOOTSTRAP_DIALS  # some are in the table still
    node.fail_all(dials)
    assert any(isinstance(each, Unreachable) for each in node.steps(3))


def test_it_waits_for_candidates_before_it_says_that_nobody_was_reached() -> None:
    node = Node([entry(1)])
    node.network.book.heard(peer(5), (addr(5),), now(0))
    node.network.offer(peer(5), now(0))
    steps = node.steps(0)
    (candidate,) = (each for each in steps if isinstance(each, CandidateProbe))
    node.fail_all([each for each in steps if isinstance(each, Dial)])
    assert node.upkeep.joiner.awaits_peers
    assert until(node.steps(1)) == PROBE_TIMEOUT_S
    node.upkeep.failed(candidate, UNREACHABLE, now(2))
    assert isinstance(node.upkeep.next(now(2)), Unreachable)
    assert not node.upkeep.joiner.awaits_peers


# --- peers given by name --------------------------------------------------------------------------


def test_the_names_are_asked_at_once_and_whom_they_list_is_dialled() -> None:
    node = Node(has_names=True)
    assert node.upkeep.joiner.state is Joining.JOINING
    assert node.upkeep.joiner.awaits_peers
    assert node.steps(0)[0] == AskNames()
    assert node.dials(0) == []
    node.upkeep.named([entry(0), entry(1)])
    assert [dial.peer for dial in node.dials(1)] == [peer(1)]
    assert node.upkeep.joiner.given_peers == 1


def test_names_that_cannot_be_read_are_asked_again_ever_less_often() -> None:
    node = Node(has_names=True)
    at = 0.0
    for failures in range(1, 6):
        assert AskNames() in node.steps(at)
        assert AskNames() not in node.steps(at)
        delay_s = node.upkeep.names_failed(UNREACHABLE, now(at))
        assert delay_s == pytest.approx(JOIN_BACKOFF.delay_s(failures), rel=0.25)
        assert node.upkeep.joiner.state is Joining.UNREACHABLE
        assert not node.upkeep.joiner.awaits_peers
        assert AskNames() not in node.steps(at + delay_s - 0.1)
        at += delay_s
    node.upkeep.joiner.network_changed(now(at - 1))
    assert AskNames() in node.steps(at - 1)


def test_while_it_is_our_network_that_fails_names_are_asked_every_few_seconds() -> None:
    node = Node(has_names=True)
    at = 0.0
    for _ in range(10):
        assert AskNames() in node.steps(at)
        at += node.upkeep.names_failed(FailureReason.CAPACITY, now(at))
    assert at < 10 * 1.25 * JOIN_BACKOFF.initial_s


def test_a_question_for_the_names_that_was_dropped_is_asked_again() -> None:
    node = Node(has_names=True)
    assert AskNames() in node.steps(0)
    for _ in range(2):
        node.upkeep.dropped(AskNames(), now(0))
    again = [at for at in range(20) if AskNames() in node.steps(at)]
    assert len(again) == 1
    node.upkeep.named([entry(1)])
    node.upkeep.dropped(AskNames(), now(20))
    assert AskNames() not in node.steps(40)


def test_names_are_asked_anew_when_a_round_reached_nobody() -> None:
    node = Node([entry(1)], has_names=True)
    steps = node.steps(0)
    assert AskNames() in steps
    node.upkeep.named([entry(2)])
    node.fail_all([each for each in steps if isinstance(each, Dial)])
    asking = node.steps(1)
    assert asking.count(AskNames()) == 1
    node.upkeep.named([entry(3)])
    at = until(asking)
    assert at is not None
    dials = node.dials(at)
    assert {dial.peer for dial in dials} == {peer(1), peer(3)}
    node.fail_all(dials)
    assert node.steps(at).count(AskNames()) == 1
    node.fail_all(node.dials(at + 30))
    assert AskNames() not in node.steps(at + 30)  # they are being asked still


def test_names_that_could_be_read_again_start_their_back_off_over() -> None:
    node = Node([entry(1)], has_names=True)
    steps = node.steps(0)
    for _ in range(5):
        node.upkeep.names_failed(UNREACHABLE, now(0))
    node.upkeep.named([])
    node.fail_all([each for each in steps if isinstance(each, Dial)])
    delay_s = node.upkeep.names_failed(UNREACHABLE, now(1))
    assert delay_s == pytest.approx(JOIN_BACKOFF.initial_s, rel=0.25)


# --- remembered peers -----------------------------------------------------------------------------


def test_remembered_peers_are_probed_before_they_enter() -> None:
    node = Node()
    node.upkeep.joiner.remember(entries(3), now(0))
    probes = [each for each in node.steps(0) if isinstance(each, CandidateProbe)]
    assert [each.ask.peer for each in probes] == [peer(1), peer(2), peer(3)]
    assert len(node.network.table) == 0
    node.upkeep.answered(probes[1], reply(), now(1))
    assert node.network.table.peers() == [peer(2)]


def test_only_so_many_are_remembered() -> None:
    node = Node()
    node.upkeep.joiner.remember(entries(MAX_REMEMBERED_PEERS + 5), now(0))
    assert node.upkeep.joiner.remembered_peers == MAX_REMEMBERED_PEERS
    assert node.network.admission.waiting == MAX_REMEMBERED_PEERS


def test_remembered_peers_are_candidates_again_when_the_table_is_empty() -> None:
    node = Node()
    node.upkeep.joiner.remember([entry(1)], now(0))
    at, probed = 0.0, 0
    for _ in range(60):
        steps = node.steps(at)
        for each in steps:
            if isinstance(each, CandidateProbe):
                probed += 1
                node.upkeep.failed(each, UNREACHABLE, now(at))
        at = until(node.steps(at)) or at + 1
    assert probed >= 4


def test_remembered_peers_are_left_in_peace_while_the_table_has_peers() -> None:
    node = Node([entry(9)])
    node.enter(1, 2)
    node.upkeep.joiner.remember([entry(3)], now(0))
    dial, *_ = steps = node.steps(0)
    assert isinstance(dial, Dial)
    node.upkeep.dial_failed(dial, UNREACHABLE)
    (probe,) = (each for each in steps if isinstance(each, CandidateProbe))
    node.upkeep.failed(probe, UNREACHABLE, now(0))
    for at in range(0, 1_000, 10):
        steps = node.steps(at)
        node.fail_all([each for each in steps if isinstance(each, Dial)])
        assert not [each for each in steps if isinstance(each, CandidateProbe)]
    assert len([each for each in node.out if isinstance(each, Dial)]) > 5


# --- looking around, refresh, liveness ------------------------------------------------------------


def test_after_a_round_the_node_looks_up_its_own_key_and_then_every_cpl() -> None:
    node = Node([entry(1)])
    (dial,) = node.dials(0)
    node.upkeep.dialled(dial)
    (probe,) = (each for each in node.steps(0) if isinstance(each, JoinProbe))
    node.upkeep.answered(probe, reply(), now(1))
    lookups = [each for each in node.steps(1) if isinstance(each, SelfLookup | CplLookup)]
    assert lookups[0] == SelfLookup()
    node.settle(1)
    assert node.network.refresh.runs == 1
    assert not node.upkeep.refreshing


@pytest.mark.parametrize(("answering", "runs"), [(1, 1), (2, 2)])
def test_what_the_refresh_of_the_first_answer_missed_is_looked_up_once_more(
    answering: int, runs: int
) -> None:
    """The second refresh repeats only the own key: the other lookups have just been."""
    node = Node(entries(2))
    dials = node.dials(0)
    for dial in dials:
        node.upkeep.dialled(dial)
    *probes, _ = node.steps(0)
    lookups: list[UpkeepStep] = []
    for number, probe in enumerate(probes):
        assert isinstance(probe, JoinProbe)
        if number < answering:
            node.upkeep.answered(probe, reply(), now(1))
        else:
            node.upkeep.failed(probe, UNREACHABLE, now(1))
        lookups += node.steps(1)
    while again := [each for each in lookups if isinstance(each, SelfLookup | CplLookup)]:
        for lookup in again:
            node.upkeep.lookup_ended(lookup, now(1))
        lookups = node.steps(1)
    wanted = [each for each in node.out if isinstance(each, SelfLookup | CplLookup)]
    assert node.network.refresh.runs == runs
    assert wanted.count(SelfLookup()) == runs
    assert len(wanted) == len(set(wanted)) + runs - 1


def test_a_second_round_while_the_table_is_small_looks_around_again() -> None:
    node = Node()
    node.enter(1)
    node.settle(0)
    runs = node.network.refresh.runs
    node.upkeep.joiner.join([entry(2)])
    (dial,) = node.dials(5)
    node.upkeep.dialled(dial)
    (probe,) = (each for each in node.steps(5) if isinstance(each, JoinProbe))
    node.upkeep.answered(probe, reply(), now(5))
    node.settle(5)
    assert node.network.refresh.runs == runs + 1


def test_a_round_that_reached_nobody_looks_around_for_nothing() -> None:
    node = Node()
    node.enter(1)
    node.settle(0)
    runs = node.network.refresh.runs
    node.upkeep.joiner.join([entry(2)])
    node.fail_all(node.dials(5))
    node.settle(5)
    assert node.network.refresh.runs == runs


@pytest.mark.parametrize("prefix", [0, 3, 9])
def test_the_preimage_of_a_cpl_lies_there_and_its_search_is_sliced(prefix: int) -> None:
    node = Node()
    *nothing, preimage = node.upkeep.preimages(CplLookup(prefix))
    assert preimage is not None
    assert cpl(node.network.table.local, key_of(preimage)) == prefix
    assert nothing == [None] * len(nothing)
    assert list(node.upkeep.preimages(SelfLookup())) == [peer(0).to_bytes()]


def test_a_refresh_is_refused_while_there_is_nobody_to_ask() -> None:
    node = Node()
    with pytest.raises(NoPeersError):
        node.upkeep.request_refresh()
    node.enter(1)
    node.settle(0)
    node.upkeep.request_refresh()
    assert node.upkeep.refreshing
    node.settle(1)
    assert not node.upkeep.refreshing


def silent(node: Node) -> list[CheckAlive]:
    """The liveness probes of peers 1 and 2, which have been silent for too long."""
    node.enter(1, 2)
    node.settle(0)
    steps = node.steps(LIVENESS_GRACE_S + 1)
    return [each for each in steps if isinstance(each, CheckAlive)]


def test_a_silent_entry_is_checked_and_leaves_when_it_does_not_answer() -> None:
    node = Node()
    one, two = silent(node)
    assert one.ask.deadline == LIVENESS_GRACE_S + 1 + PROBE_TIMEOUT_S
    node.upkeep.answered(one, reply(), now(LIVENESS_GRACE_S + 2))
    node.upkeep.failed(two, TIMEOUT, now(LIVENESS_GRACE_S + 2))
    assert node.network.table.peers() == [one.ask.peer]
    node.settle(LIVENESS_GRACE_S + 2)
    again = [each for each in node.steps(3 * LIVENESS_GRACE_S) if isinstance(each, CheckAlive)]
    assert [each.ask.peer for each in again] == [one.ask.peer]


def test_a_check_that_was_dropped_costs_no_place() -> None:
    node = Node()
    one, two = silent(node)
    node.upkeep.dropped(one, now(LIVENESS_GRACE_S + 2))
    assert node.network.table.peers() == [one.ask.peer, two.ask.peer]


def test_the_end_of_a_refresh_is_told_to_admission_and_planned_for() -> None:
    node = Node()
    node.enter(*range(1, K + 1))
    node.settle(0)
    node.upkeep.request_refresh()
    node.settle(1)
    assert until(node.steps(1)) == 61.0  # the table settles a minute after the second refresh


# --- bounds and ends ------------------------------------------------------------------------------


def test_a_round_of_nobody_is_over_at_once() -> None:
    node = Node()
    begun = node.upkeep.joiner.join([])
    assert isinstance(begun, JoinRound)
    assert begun.over
    assert node.upkeep.joiner.rounds == 0


# --- peers that come back -------------------------------------------------------------------------


def introduce(node: Node, number: int, at: float) -> None:
    """Peer ``number`` opens a connection and says that it speaks the protocol."""
    node.network.identified(peer(number), ["/kad"], (addr(number),), now(at))


def candidates(node: Node, at: float) -> list[CandidateProbe]:
    return [each for each in node.steps(at) if isinstance(each, CandidateProbe)]


def test_a_peer_that_died_and_came_back_is_probed_at_once() -> None:
    node = Node()
    node.enter(*range(1, 4))
    node.network.health.answered(peer(1), 0.1, now(0), dialled=False)
    node.network.health.failed(peer(1), TIMEOUT, now(200))
    node.network.failed(peer(1), TIMEOUT, now(200), began=now(190))
    assert peer(1) not in node.network.table
    assert node.network.admission.offer(peer(1), now(200)) is OfferOutcome.DEFERRED
    assert candidates(node, 200) == []
    introduce(node, 1, 201)
    (probe,) = candidates(node, 201)
    assert probe.ask.peer == peer(1)
    node.upkeep.answered(probe, reply(entry(2)), now(202))
    assert peer(1) in node.network.table
    assert node.network.health.nearest_alive(peer(1).key, 1, now(202)) == [peer(1)]


def test_late_failures_over_the_dead_connection_cost_the_living_peer_nothing() -> None:
    node = Node()
    node.enter(*range(1, 4))
    node.settle(0)
    introduce(node, 1, 100)
    node.network.failed(peer(1), TIMEOUT, now(105), began=now(95))
    assert peer(1) in node.network.table
    (check,) = (each for each in node.steps(105) if isinstance(each, CheckAlive))
    assert check.ask.peer == peer(1)  # it is asked again, over the connection of now
    node.upkeep.failed(check, TIMEOUT, now(115))
    assert peer(1) not in node.network.table


def test_a_liveness_check_over_the_dead_connection_is_repeated_over_the_new_one() -> None:
    node = Node()
    node.enter(1, 2)
    node.settle(0)
    node.network.refresh.suspect(peer(1))
    (first,) = (each for each in node.steps(1) if isinstance(each, CheckAlive))
    introduce(node, 1, 5)
    node.upkeep.failed(first, TIMEOUT, now(11))
    assert peer(1) in node.network.table
    assert condition(node, 1, 11) is Condition.ALIVE
    (second,) = (each for each in node.steps(11) if isinstance(each, CheckAlive))
    assert second.ask.peer == peer(1)


def test_one_that_answered_but_names_nobody_is_not_probed_at_every_new_connection() -> None:
    node = Node()
    node.enter(*range(1, K + 1))
    introduce(node, 77, 0)
    (probe,) = candidates(node, 0)
    node.upkeep.answered(probe, reply(), now(1))
    introduce(node, 77, 2)
    assert candidates(node, 2) == []


def test_probes_tell_of_the_health_of_peers() -> None:
    node = Node()
    node.enter(1, 2)
    node.settle(0)
    for number in (1, 2):
        node.network.refresh.suspect(peer(number))
    one, two = (each for each in node.steps(1) if isinstance(each, CheckAlive))
    node.upkeep.answered(one, reply(), now(2))
    node.upkeep.failed(two, TIMEOUT, now(2))
    assert [condition(node, n, 2) for n in (1, 2)] == [Condition.ALIVE, Condition.DEAD]


def test_a_probe_over_the_dead_connection_is_repeated_over_the_new_one() -> None:
    node = Node()
    node.enter(*range(1, 3))
    introduce(node, 7, 0)
    (first,) = candidates(node, 0)
    introduce(node, 7, 5)
    node.upkeep.failed(first, TIMEOUT, now(10))
    (second,) = candidates(node, 10)
    assert second.ask.peer == peer(7)
    node.upkeep.answered(second, reply(entry(1)), now(11))
    assert peer(7) in node.network.table


def test_one_that_only_connects_again_and_again_is_probed_ever_less_often() -> None:
    node = Node()
    node.enter(*range(1, K + 1))
    probes = []
    for at in range(600):
        introduce(node, 77, at)
        for each in candidates(node, at):
            probes.append(at)
            node.upkeep.failed(each, UNREACHABLE, now(at + 0.5))
    assert len(probes) <= 8
    assert probes[-1] - probes[-2] > 100


def test_one_that_reconnects_all_the_time_and_answers_nothing_loses_its_place() -> None:
    node = Node()
    node.enter(*range(1, 4))
    node.settle(0)
    for at in range(100, 130, 10):
        introduce(node, 1, at + 5)
        node.network.failed(peer(1), TIMEOUT, now(at + 10), began=now(at))
    assert peer(1) not in node.network.table


def test_an_answer_of_a_peer_without_a_known_address_ends_an_outage_too() -> None:
    node = Node()
    node.enter(*range(1, 31))
    for number in range(1, 1 + OUTAGE_FAILURES):
        node.network.health.failed(peer(number), TIMEOUT, now(1))
        node.network.failed(peer(number), TIMEOUT, now(1), began=now(1))
    assert node.network.outage.suspected
    node.network.answered(peer(5_000), now(2))
    assert not node.network.outage.suspected
    assert condition(node, 1, 2) is Condition.UNKNOWN


@pytest.mark.parametrize("query", ["candidate", "check"])
def test_an_answer_to_any_probe_forgives_what_failed_during_an_outage(query: str) -> None:
    node = Node()
    node.enter(*range(1, 31))
    node.settle(0)
    node.network.book.heard(peer(99), (addr(99),), now(0))
    node.network.offer(peer(99), now(0))
    (candidate,) = candidates(node, 0)
    node.network.refresh.suspect(peer(30))
    (check,) = (each for each in node.steps(0) if isinstance(each, CheckAlive))
    for number in range(1, 1 + OUTAGE_FAILURES):
        node.network.health.failed(peer(number), TIMEOUT, now(1))
        node.network.failed(peer(number), TIMEOUT, now(1), began=now(1))
    node.upkeep.answered(candidate if query == "candidate" else check, reply(entry(1)), now(2))
    assert condition(node, 1, 2) is Condition.UNKNOWN
