"""To whom a provider record goes, before and after the walk is over."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.core.announcement import Announcement
from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key
from codio_dht.core.netsize import NetworkSize, expected_within
from codio_dht.core.peer import PeerId
from codio_dht.params import EARLY_DOUBT, KEY_BITS, K

TARGET = Key(0)


def peers_of(*keys: int) -> list[PeerId]:
    """Peers by their distance to the target."""
    peers = []
    for key in keys:
        peer = PeerId(b"\x12\x20" + key.to_bytes(32, "big"))
        peer._key = Key(key)
        peers.append(peer)
    return peers


def announcement(*, k: int = 3, quorum: int = 2, early_within: int | None = None) -> Announcement:
    return Announcement(TARGET, k=k, quorum=quorum, early_within=early_within)


# --- before the walk is over ----------------------------------------------------------------------


def test_without_a_known_size_nobody_gets_it_before_the_walk_is_over() -> None:
    peers = peers_of(1, 2, 3)
    plan = announcement()
    assert plan.early(peers) == []
    assert plan.settle(peers, []) == peers


def test_the_closest_of_every_disjoint_path_get_it() -> None:
    peers = peers_of(1, 2, 3, 4, 5)
    assert announcement(k=3).settle(peers, []) == peers


@pytest.mark.conformance("c67")
def test_who_is_probably_among_the_closest_gets_it_while_the_walk_goes_on() -> None:
    a, b, c, d = peers_of(1, 2, 3, 90)
    plan = announcement(early_within=50)
    assert plan.early([a, d]) == [a]
    assert plan.early([a, b, d]) == [b]
    assert (plan.attempted, plan.pending, plan.holders) == (2, 2, 0)
    assert plan.settle([a, b, c], [d]) == [c]


@pytest.mark.conformance("c67")
def test_when_the_walk_ends_most_of_the_closest_have_it_already() -> None:
    rng = random.Random(1)
    peers = [PeerId(b"\x12\x20" + rng.randbytes(32)) for _ in range(1_000)]
    size, now = NetworkSize(), Monotonic(0.0)

    def target_and_peers() -> tuple[Key, list[PeerId]]:
        target = Key(rng.getrandbits(KEY_BITS))
        return target, sorted(peers, key=lambda peer: peer.key ^ target)

    for _ in range(30):
        target, ordered = target_and_peers()
        size.track(target, ordered[:K], K, now)
    early_within = size.distance_of(expected_within(K, EARLY_DOUBT), now)
    shares = []
    for _ in range(30):
        target, ordered = target_and_peers()
        plan = Announcement(target, k=K, quorum=15, early_within=early_within)
        for step in (40, 10, 4, 2, 1):  # the walk hears of ever more of the network
            for peer in plan.early(ordered[step - 1 :: step][:K]):
                plan.on_delivered(peer)
        begun = plan.settle(ordered[:K], ordered[K : 2 * K])
        shares.append(1 - len(begun) / K)
    assert sum(shares) / len(shares) > 0.5


def test_no_more_than_k_get_it_early_but_those_that_failed() -> None:
    peers = peers_of(*range(10, 20))
    plan = announcement(early_within=100)
    assert plan.early(peers) == peers[:3]
    assert plan.early(peers_of(1, 2, 3)) == []
    assert plan.on_failed(peers[0]) == []
    assert plan.early(peers) == [peers[3]]


def test_after_the_walk_nobody_gets_it_early() -> None:
    a, b = peers_of(1, 2)
    plan = announcement(early_within=100)
    plan.settle([a], [])
    assert plan.early([b]) == []


# --- failures and replacements --------------------------------------------------------------------


@pytest.mark.conformance("c67")
def test_a_failed_peer_is_replaced_by_the_next_closest() -> None:
    a, b, c, d, e = peers_of(1, 2, 3, 4, 5)
    plan = announcement()
    assert plan.settle([a, b, c], [d, e]) == [a, b, c]
    assert plan.on_failed(b) == [d]
    assert plan.on_failed(d) == [e]
    assert plan.on_failed(e) == []


@pytest.mark.conformance("c67")
def test_one_that_failed_early_is_replaced_when_the_walk_is_over() -> None:
    a, b, c, d = peers_of(1, 2, 3, 4)
    plan = announcement(early_within=10)
    assert plan.early([a]) == [a]
    assert plan.on_failed(a) == []
    assert plan.settle([a, b, c], [d]) == [b, c, d]


def test_one_that_is_not_among_the_closest_after_all_is_not_replaced() -> None:
    a, b, c, d, guessed = peers_of(1, 2, 3, 4, 5)
    plan = announcement(early_within=10)
    plan.early([guessed])
    plan.settle([a, b, c], [d])
    assert plan.on_failed(guessed) == []


def test_a_spare_that_has_it_already_takes_the_place_without_getting_it_again() -> None:
    a, b, c, d = peers_of(1, 2, 3, 4)
    plan = announcement(early_within=10)
    plan.early([d])
    plan.on_delivered(d)
    assert plan.settle([a, b, c], [d]) == [a, b, c]
    assert plan.on_failed(a) == []
    for peer in (b, c):
        plan.on_delivered(peer)
    assert (plan.holders, plan.pending, plan.attempted) == (3, 0, 4)


def test_a_spare_that_has_it_already_keeps_the_others_from_getting_it() -> None:
    a, b, c, d, e = peers_of(1, 2, 3, 4, 5)
    plan = announcement(early_within=10)
    plan.early([d])
    assert plan.settle([a, b, c], [d, e]) == [a, b, c]
    assert plan.on_failed(a) == []


def test_a_spare_that_failed_already_is_passed_over() -> None:
    a, b, c, d, e = peers_of(1, 2, 3, 4, 5)
    plan = announcement(early_within=10)
    plan.early([d])
    plan.on_failed(d)
    assert plan.settle([a, b, c], [d, e]) == [a, b, c]
    assert plan.on_failed(a) == [e]


def test_a_peer_exactly_at_the_sure_distance_is_sure_and_one_past_it_is_not() -> None:
    at, past = peers_of(50, 51)
    assert announcement(early_within=50).early([at, past]) == [at]


def test_reports_of_peers_that_were_not_asked_or_have_reported_change_nothing() -> None:
    a, b, c, d = peers_of(1, 2, 3, 4)
    plan = announcement()
    plan.settle([a, b, c], [d])
    plan.on_delivered(d)
    assert plan.on_failed(d) == []
    plan.on_delivered(a)
    assert plan.on_failed(a) == []
    assert (plan.holders, plan.pending, plan.attempted) == (1, 2, 3)


def test_the_caller_may_go_on_when_the_quorum_holds_it_failures_do_not_count() -> None:
    a, b, c = peers_of(1, 2, 3)
    plan = announcement(quorum=2)
    plan.settle([a, b, c], [])
    plan.on_delivered(a)
    plan.on_failed(b)
    assert not plan.has_quorum
    plan.on_delivered(c)
    assert plan.has_quorum


# --- the law --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Course:
    """How an announcement goes: who is there, who fails, what the walk sees on its way."""

    peers: list[PeerId]
    failing: set[PeerId]
    views: list[list[PeerId]]
    early_within: int | None


@st.composite
def courses(draw: st.DrawFn) -> Course:
    keys = sorted(draw(st.sets(st.integers(1, 1_000), min_size=1, max_size=10)))
    peers = peers_of(*keys)
    failing = draw(st.sets(st.sampled_from(peers)))
    views = draw(st.lists(st.sets(st.sampled_from(peers)), max_size=4))
    in_order = [sorted(view, key=lambda peer: peer.key) for view in views]
    return Course(peers, failing, in_order, draw(st.none() | st.integers(0, 1_000)))


@pytest.mark.conformance("c67")
@given(course=courses(), rng=st.randoms(use_true_random=False))
def test_each_gets_it_at_most_once_and_in_the_end_the_closest_living_hold_it(
    course: Course, rng: random.Random
) -> None:
    k = 3
    plan = announcement(k=k, early_within=course.early_within)
    begun: list[PeerId] = []
    open_ones: list[PeerId] = []
    holders: list[PeerId] = []

    def begin(peers: list[PeerId]) -> None:
        begun.extend(peers)
        open_ones.extend(peers)

    def report_one() -> None:
        peer = open_ones.pop(rng.randrange(len(open_ones)))
        if peer in course.failing:
            begin(plan.on_failed(peer))
        else:
            plan.on_delivered(peer)
            holders.append(peer)

    for view in course.views:
        begin(plan.early(view))
        while open_ones and rng.random() < 0.5:
            report_one()
    begin(plan.settle(course.peers[:k], course.peers[k:]))
    while open_ones:
        report_one()
    living = [peer for peer in course.peers if peer not in course.failing]
    assert len(begun) == len(set(begun))
    assert set(living[:k]) <= set(holders)
    assert (plan.holders, plan.attempted, plan.pending) == (len(holders), len(begun), 0)
