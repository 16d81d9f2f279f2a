"""Who gets a request that is delivered to the k closest, before and after the search is over."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.core.clock import Monotonic
from codio_dht.core.delivery import (
    EARLY_DOUBT,
    PROVIDE_RPC_TIMEOUT_S,
    Delivered,
    Delivery,
    Give,
    Receipt,
    Searched,
    provider_parcel,
)
from codio_dht.core.keyspace import Key, distance
from codio_dht.core.lookup_states import ClosestPeer, Done, Standing, StopReason
from codio_dht.core.messages import (
    AddProvider,
    FailureReason,
    FindNode,
    GetProviders,
    MessageType,
    PeerEntry,
    Reply,
)
from codio_dht.core.netsize import NetworkSize, expected_within
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_health import Condition
from codio_dht.core.search import Begin, ClosestSearch, Searches
from codio_dht.core.steps import Ask, Wait
from codio_dht.params import KEY_BITS, K
from searching import ADDR, PREIMAGE, TARGET, found_node, now, peer_at, peers_of, searches_of

ME = PeerEntry(peer_at((1 << KEY_BITS) - 1), (ADDR,))
PARCEL = provider_parcel(PREIMAGE, ME)
AT = now(1)


class Course(ClosestSearch):
    """A search of which a test says what it sees and how it ends."""

    def __init__(self, searches: Searches) -> None:
        super().__init__(searches, PREIMAGE, now(0))
        self.view: list[PeerId] = []
        self.reported: list[tuple[Ask, object]] = []

    def nearest(self) -> list[PeerId]:
        return self.view

    def next(self, _now: Monotonic):
        return self._result or Wait(None)

    def on_reply(self, ask: Ask, reply: Reply, _now: Monotonic) -> None:
        self.reported.append((ask, reply))

    def on_failure(self, ask: Ask, why: FailureReason, _now: Monotonic) -> None:
        self.reported.append((ask, why))

    def end(self, closest: Sequence[PeerId], spares: Sequence[PeerId] = ()) -> None:
        found = [ClosestPeer(peer, Standing.ANSWERED, AT) for peer in (*closest, *spares)]
        ended = StopReason.COMPLETED if closest else StopReason.NOBODY_ANSWERED
        self._result = Done(ended, tuple(found[: len(closest)]), tuple(found[len(closest) :]))


@dataclass
class Fixture:
    """A delivery, its search, and what is to be done for it."""

    searches: Searches
    search: Course
    delivery: Delivery

    def steps(self, at: float = 1.0) -> list[Give | Ask]:
        """The peers to be given or asked something now."""
        due: list[Give | Ask] = []
        while not isinstance(step := self.delivery.next(now(at)), Wait | Delivered):
            if not isinstance(step, Searched):
                assert isinstance(step, Give | Ask), step
                due.append(step)
        return due

    def given(self, *view: PeerId) -> list[Give]:
        """Who is handed the parcel when ``view`` is what the search sees."""
        self.search.view = list(view)
        return [step for step in self.steps() if isinstance(step, Give)]

    def settled(self, closest: Sequence[PeerId], spares: Sequence[PeerId] = ()) -> list[Give]:
        """Who is handed the parcel when the search ends with ``closest``."""
        self.search.end(closest, spares)
        return [step for step in self.steps() if isinstance(step, Give)]

    def fail(self, give: Give, why: FailureReason = FailureReason.TIMEOUT) -> list[Give]:
        """``give`` fails; who is handed the parcel for that."""
        self.delivery.on_not_given(give, why, AT)
        return [step for step in self.steps() if isinstance(step, Give)]

    def counts(self) -> tuple[int, int, int]:
        """Peers that hold the parcel, that are pending, and in all."""
        return self.delivery.holders, self.delivery.pending, self.delivery.attempted


def delivery(*, k: int = 3, quorum: int = 2, guess_within: int | None = None) -> Fixture:
    searches = searches_of()
    searches.network.k = k
    course = Course(searches)
    searches.closest = lambda preimage, now: course
    made = Delivery(searches, PARCEL, AT, quorum=quorum)
    made._guess_within = guess_within
    return Fixture(searches, course, made)


def to(gives: Sequence[Give | Ask]) -> list[PeerId]:
    return [each.peer for each in gives]


# --- before the search is over --------------------------------------------------------------------


def test_without_a_known_size_nobody_gets_it_before_the_search_is_over() -> None:
    peers = peers_of(1, 2, 3)
    plan = delivery()
    assert plan.given(*peers) == []
    assert to(plan.settled(peers)) == peers


def test_each_is_handed_the_record_and_has_its_time_for_it() -> None:
    plan = delivery()
    [give] = plan.settled(peers_of(1))
    assert give.request == AddProvider(PREIMAGE, (ME,))
    assert give.deadline == now(1 + PROVIDE_RPC_TIMEOUT_S)


def test_the_closest_of_every_disjoint_path_get_it() -> None:
    peers = peers_of(1, 2, 3, 4, 5)
    assert to(delivery(k=3).settled(peers)) == peers


@pytest.mark.conformance("c67")
def test_who_is_probably_among_the_closest_gets_it_while_the_search_goes_on() -> None:
    a, b, c, d = peers_of(1, 2, 3, 90)
    plan = delivery(guess_within=50)
    assert to(plan.given(a, d)) == [a]
    assert to(plan.given(a, b, d)) == [b]
    assert plan.counts() == (0, 2, 2)
    assert to(plan.settled([a, b, c], [d])) == [c]


@pytest.mark.conformance("c67")
def test_when_the_search_ends_most_of_the_closest_have_it_already() -> None:
    rng = random.Random(1)
    peers = [PeerId(b"\x12\x20" + rng.randbytes(32)) for _ in range(1_000)]
    size = NetworkSize()

    def nearest_to(target: Key) -> list[PeerId]:
        return sorted(peers, key=lambda peer: distance(peer.key, target))

    for _ in range(30):
        target = Key(rng.getrandbits(KEY_BITS))
        size.track(target, nearest_to(target)[:K], K, AT)
    within = size.distance_of(expected_within(K, EARLY_DOUBT), AT)
    shares = []
    for _ in range(30):
        target = Key(rng.getrandbits(KEY_BITS))
        ordered = nearest_to(target)
        plan = delivery(k=K, quorum=15, guess_within=within)
        plan.search.target = target
        for step in (40, 10, 4, 2, 1):  # the search hears of ever more of the network
            for give in plan.given(*ordered[step - 1 :: step][:K]):
                plan.delivery.on_given(give, Receipt.CONFIRMED)
        begun = plan.settled(ordered[:K], ordered[K : 2 * K])
        shares.append(1 - len(begun) / K)
    assert sum(shares) / len(shares) > 0.5


@pytest.mark.conformance("c67")
def test_the_guess_is_made_by_the_size_of_the_network() -> None:
    searches = searches_of()
    unknown = Delivery(searches, PARCEL, AT)
    assert unknown._guess_within is None
    closest = [peer_at(place << 240) for place in range(1, K + 1)]
    for _ in range(9):
        searches.network.size.track(TARGET, closest, K, AT)
    within = Delivery(searches, PARCEL, AT)._guess_within
    assert within is not None
    assert within / (1 << 240) == pytest.approx(expected_within(K, EARLY_DOUBT), rel=0.01)


def test_no_more_than_k_get_it_early_but_those_that_failed() -> None:
    peers = peers_of(*range(10, 20))
    plan = delivery(guess_within=100)
    early = plan.given(*peers)
    assert to(early) == peers[:3]
    assert plan.given(*peers_of(1, 2, 3)) == []
    plan.search.view = peers
    assert to(plan.fail(early[0])) == [peers[3]]


def test_after_the_search_nobody_gets_it_early() -> None:
    a, b = peers_of(1, 2)
    plan = delivery(guess_within=100)
    plan.settled([a])
    assert plan.given(b) == []


def test_a_peer_exactly_at_the_sure_distance_is_sure_and_one_past_it_is_not() -> None:
    at, past = peers_of(50, 51)
    assert to(delivery(guess_within=50).given(at, past)) == [at]


# --- failures and replacements --------------------------------------------------------------------


@pytest.mark.conformance("c67")
def test_a_failed_peer_is_replaced_by_the_next_closest() -> None:
    a, b, c, d, e = peers_of(1, 2, 3, 4, 5)
    plan = delivery()
    gives = plan.settled([a, b, c], [d, e])
    assert to(gives) == [a, b, c]
    [fourth] = plan.fail(gives[1])
    assert fourth.peer == d
    [fifth] = plan.fail(fourth)
    assert fifth.peer == e
    assert plan.fail(fifth) == []


@pytest.mark.conformance("c67")
def test_one_that_failed_early_is_replaced_when_the_search_is_over() -> None:
    a, b, c, d = peers_of(1, 2, 3, 4)
    plan = delivery(guess_within=10)
    [early] = plan.given(a)
    assert plan.fail(early) == []
    assert to(plan.settled([a, b, c], [d])) == [b, c, d]


def test_one_that_is_not_among_the_closest_after_all_is_not_replaced() -> None:
    a, b, c, d, guessed = peers_of(1, 2, 3, 4, 5)
    plan = delivery(guess_within=10)
    [early] = plan.given(guessed)
    plan.settled([a, b, c], [d])
    assert plan.fail(early) == []


def test_a_spare_that_has_it_already_takes_the_place_without_getting_it_again() -> None:
    a, b, c, d, e = peers_of(1, 2, 3, 4, 5)
    plan = delivery(guess_within=10)
    [early] = plan.given(d)
    plan.delivery.on_given(early, Receipt.CONFIRMED)
    first, *others = plan.settled([a, b, c], [d, e])
    assert to([first, *others]) == [a, b, c]
    assert plan.fail(first) == []
    for give in others:
        plan.delivery.on_given(give, Receipt.SENT)
    assert plan.counts() == (3, 0, 4)


def test_a_spare_that_failed_already_is_passed_over() -> None:
    a, b, c, d, e = peers_of(1, 2, 3, 4, 5)
    plan = delivery(guess_within=10)
    [early] = plan.given(d)
    plan.fail(early)
    first, *_ = plan.settled([a, b, c], [d, e])
    assert to(plan.fail(first)) == [e]


def test_whoever_this_node_knows_is_a_spare_too() -> None:
    a, far, met = peers_of(1, 9, 5)
    plan = delivery()
    network = plan.searches.network
    for peer in (far, met):
        network.book.heard(peer, (ADDR,), AT)
    network.table.add(far, AT)
    network.health.introduced(met, AT)
    [give] = plan.settled([a])
    [second] = plan.fail(give)
    [third] = plan.fail(second)
    assert to([second, third]) == [met, far]


def test_a_peer_that_was_not_reached_is_left_alone_and_one_that_refuses_is_not() -> None:
    dead, client = peers_of(1, 2)
    plan = delivery()
    network = plan.searches.network
    for peer in (dead, client):
        network.book.heard(peer, (ADDR,), AT)
    first, second = plan.settled([dead, client])
    plan.fail(first, FailureReason.UNREACHABLE)
    plan.fail(second, FailureReason.UNSUPPORTED)
    conditions = [
        network.health.outlook(peer, AT, connected=False).condition for peer in (dead, client)
    ]
    assert conditions == [Condition.DEAD, Condition.UNKNOWN]


def test_reports_that_are_not_expected_change_nothing() -> None:
    a, b, c, d = peers_of(1, 2, 3, 4)
    plan = delivery()
    first, *_ = plan.settled([a, b, c], [d])
    stranger = Give(d, first.request, first.began, first.deadline)
    plan.delivery.on_given(stranger, Receipt.CONFIRMED)
    assert plan.fail(stranger) == []
    plan.delivery.on_given(first, Receipt.CONFIRMED)
    assert plan.fail(first) == []
    assert plan.counts() == (1, 2, 3)


def test_the_caller_may_go_on_when_the_quorum_holds_it_failures_do_not_count() -> None:
    a, b, c = peers_of(1, 2, 3)
    plan = delivery(quorum=2)
    first, second, third = plan.settled([a, b, c])
    plan.delivery.on_given(first, Receipt.CONFIRMED)
    plan.fail(second)
    assert not plan.delivery.has_quorum
    plan.delivery.on_given(third, Receipt.SENT)
    assert plan.delivery.has_quorum


# --- a stream that broke --------------------------------------------------------------------------


def doubted(*, at: float = 2.0) -> tuple[Fixture, Ask]:
    """A delivery to one peer whose stream broke, and what that peer is asked."""
    plan = delivery()
    [give] = plan.settled(peers_of(1), peers_of(2))
    plan.delivery.on_not_given(give, FailureReason.BROKEN, now(at))
    [question] = plan.steps(at)
    assert isinstance(question, Ask)
    return plan, question


def test_a_peer_whose_stream_broke_is_asked_whether_it_has_the_record() -> None:
    plan, question = doubted(at=2.0)
    assert question.peer == peer_at(1)
    assert question.request == GetProviders(PREIMAGE)
    assert question.deadline == now(1 + PROVIDE_RPC_TIMEOUT_S)
    assert plan.counts() == (0, 1, 1)


def test_one_that_has_it_holds_it_and_has_confirmed_it() -> None:
    plan, question = doubted()
    named = (PeerEntry(peer_at(7)), PeerEntry(ME.peer_id))
    plan.delivery.on_reply(question, Reply(MessageType.GET_PROVIDERS, provider_peers=named), now(3))
    assert plan.steps() == []
    assert (plan.delivery.holders, plan.delivery.confirmed) == (1, 1)
    health = plan.searches.network.health
    assert health.outlook(question.peer, now(3), connected=True).condition is Condition.ALIVE


def test_one_that_has_it_not_is_replaced() -> None:
    plan, question = doubted()
    other = (PeerEntry(peer_at(7)),)
    reply = Reply(MessageType.GET_PROVIDERS, provider_peers=other)
    plan.delivery.on_reply(question, reply, now(3))
    assert to(plan.steps()) == peers_of(2)


def test_one_that_does_not_answer_the_question_is_replaced() -> None:
    plan, question = doubted()
    plan.delivery.on_failure(question, FailureReason.TIMEOUT, now(3))
    plan.delivery.on_failure(question, FailureReason.TIMEOUT, now(3))
    assert to(plan.steps()) == peers_of(2)
    assert plan.search.reported == [(question, FailureReason.TIMEOUT)]  # the second time


# --- the search in it -----------------------------------------------------------------------------


def test_the_steps_of_the_search_are_the_deliverys_until_it_is_over() -> None:
    [seed] = peers_of(1)
    made = Delivery(searches_of(seed), PARCEL, now(0))
    assert made.next(now(0)) == Begin(now(60))
    ask = made.next(now(0))
    assert isinstance(ask, Ask)
    assert (ask.peer, ask.request) == (seed, FindNode(PREIMAGE))
    assert made.open_requests() == [ask]
    made.on_reply(ask, found_node(), now(0.1))
    searched = made.next(now(0.1))
    assert isinstance(searched, Searched)
    assert searched.done.answered == [seed]
    give = made.next(now(0.1))
    assert isinstance(give, Give)
    assert isinstance(made.next(now(0.1)), Wait)
    made.on_given(give, Receipt.SENT)
    assert made.next(now(0.2)) == Delivered(holders=1, confirmed=0, attempted=1, unanswered=None)


def test_a_search_that_found_nobody_alive_says_why_nobody_holds_it() -> None:
    [seed] = peers_of(1)
    made = Delivery(searches_of(seed), PARCEL, now(0))
    made.next(now(0))
    ask = made.next(now(0))
    assert isinstance(ask, Ask)
    made.on_failure(ask, FailureReason.TIMEOUT, now(1))
    assert isinstance(made.next(now(1)), Searched)
    assert made.next(now(1)) == Delivered(0, 0, 0, StopReason.NOBODY_ANSWERED)


def test_it_is_no_failure_if_those_that_got_it_early_hold_it() -> None:
    plan = delivery(guess_within=10)
    [early] = plan.given(peer_at(1))
    plan.delivery.on_given(early, Receipt.CONFIRMED)
    plan.settled([])
    assert plan.delivery.next(AT) == Delivered(1, 1, 1, unanswered=None)


def test_it_is_not_over_while_a_peer_is_pending() -> None:
    plan = delivery()
    [give] = plan.settled(peers_of(1))
    assert plan.delivery.next(AT) == Wait(None)
    plan.fail(give)
    assert plan.delivery.next(AT) == Delivered(0, 0, 1, unanswered=None)


# --- the law --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """How a delivery goes: who is there, who fails, what the search sees on its way."""

    peers: list[PeerId]
    failing: set[PeerId]
    views: list[list[PeerId]]
    guess_within: int | None


@st.composite
def cases(draw: st.DrawFn) -> Case:
    peers = peers_of(*sorted(draw(st.sets(st.integers(1, 1_000), min_size=1, max_size=10))))
    failing = draw(st.sets(st.sampled_from(peers)))
    views = draw(st.lists(st.sets(st.sampled_from(peers)), max_size=4))
    in_order = [[peer for peer in peers if peer in view] for view in views]
    return Case(peers, failing, in_order, draw(st.none() | st.integers(0, 1_000)))


@pytest.mark.conformance("c67")
@given(case=cases(), rng=st.randoms(use_true_random=False))
def test_each_gets_it_at_most_once_and_in_the_end_the_closest_living_hold_it(
    case: Case, rng: random.Random
) -> None:
    k = 3
    plan = delivery(k=k, guess_within=case.guess_within)
    begun: list[PeerId] = []
    open_ones: list[Give | Ask] = []

    def take(steps: Sequence[Give | Ask]) -> None:
        begun.extend(step.peer for step in steps if isinstance(step, Give))
        open_ones.extend(steps)

    def report_one() -> None:
        step = open_ones.pop(rng.randrange(len(open_ones)))
        fails = step.peer in case.failing
        if isinstance(step, Ask):
            kept = () if fails else (PeerEntry(ME.peer_id),)
            reply = Reply(MessageType.GET_PROVIDERS, provider_peers=kept)
            plan.delivery.on_reply(step, reply, AT)
        elif fails or rng.random() < 0.2:
            broken = not fails or rng.random() < 0.5
            why = FailureReason.BROKEN if broken else FailureReason.TIMEOUT
            plan.delivery.on_not_given(step, why, AT)
        else:
            plan.delivery.on_given(step, Receipt.CONFIRMED)
        take(plan.steps())

    for view in case.views:
        take(plan.given(*view))
        while open_ones and rng.random() < 0.5:
            report_one()
    take(plan.settled(case.peers[:k], case.peers[k:]))
    while open_ones:
        report_one()
    living = [peer for peer in case.peers if peer not in case.failing]
    assert len(begun) == len(set(begun))
    holders = [peer for peer in begun if peer not in case.failing]
    assert set(living[:k]) <= set(holders)
    assert plan.counts() == (len(holders), 0, len(begun))
    assert isinstance(plan.delivery.next(AT), Delivered)
