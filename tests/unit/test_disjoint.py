"""Disjoint paths: who asks whom, who hears of whom, and what liars can do to the result."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.core import disjoint as disjoint_module
from codio_dht.core import lookup as lookup_module
from codio_dht.core.clock import Monotonic
from codio_dht.core.disjoint import DisjointLookup
from codio_dht.core.keyspace import Key
from codio_dht.core.lookup import LOOKUP_LIMIT_S, ClosestPeersLookup
from codio_dht.core.lookup_states import (
    Answered,
    Asked,
    Done,
    LookBeyond,
    LookupRules,
    PeerState,
    Query,
    RequestFailed,
    StopReason,
)
from codio_dht.core.messages import FailureReason
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_health import Condition, Outlook
from codio_dht.core.steps import Wait
from codio_dht.errors import UsageError
from codio_dht.params import KEY_BITS, K
from test_lookup import LOCAL, RULES, Node, drive, nearest, networks, peer_at, peers_of

pytestmark = pytest.mark.conformance("c39")

TARGET = Key(0)
AT = Monotonic(1.0)


def run(lookup: DisjointLookup, nodes: dict[PeerId, Node]):
    return drive(cast(ClosestPeersLookup, lookup), nodes)


def asked(lookup: DisjointLookup | ClosestPeersLookup) -> list[PeerId]:
    due = []
    while isinstance(step := lookup.next(AT), Query):
        due.append(step.peer)
    return due


def test_one_path_is_refused():
    with pytest.raises(UsageError):
        DisjointLookup(TARGET, peers_of(1, 2), RULES, 1)


def test_without_a_seed_it_is_over_at_once():
    assert DisjointLookup(TARGET, [LOCAL], RULES, 3).next(AT) == Done(StopReason.NO_PEERS)


def test_each_path_begins_with_other_peers():
    seeds = peers_of(4, 3, 2, 1)
    lookup = DisjointLookup(TARGET, seeds, RULES, 2)
    assert peers_of(1, 2, 3, 4) == asked(lookup)


def test_a_peer_that_two_paths_want_is_asked_by_the_first():
    a, b, shared, named = peers_of(8, 9, 4, 2)
    lookup = DisjointLookup(TARGET, [a, b], RULES, 2)
    assert [a, b] == asked(lookup)
    lookup.on_reply(a, [shared], AT)
    assert [shared] == asked(lookup)
    lookup.on_reply(b, [shared], AT)
    assert [] == asked(lookup)
    lookup.on_reply(shared, [named], AT)
    told = [path.state_of(named) is not None for path in lookup._paths]
    assert [True, False] == told
    assert [named] == asked(lookup)
    events = [each.peer for each in lookup.events if isinstance(each, Asked | Answered)]
    assert [a, b, a, shared, b, shared, named] == events


def test_a_path_that_wants_a_peer_later_is_told_how_it_went():
    a, b, dead, good = peers_of(8, 9, 4, 2)
    lookup = DisjointLookup(TARGET, [a, b], RULES, 2)
    asked(lookup)
    lookup.on_reply(a, [dead, good], AT)
    asked(lookup)
    lookup.on_failure(dead, FailureReason.UNREACHABLE, AT)
    lookup.on_reply(good, [], AT)
    lookup.on_reply(b, [dead, good], AT)
    done = lookup.next(AT)
    assert isinstance(done, Done)
    assert [good, a, b] == done.answered
    assert [(dead, FailureReason.UNREACHABLE)] == [
        (each.peer, each.why) for each in lookup.events if isinstance(each, RequestFailed)
    ]


def test_it_is_not_over_before_every_path_is():
    a, b = peers_of(8, 9)
    lookup = DisjointLookup(TARGET, [a, b], RULES, 2)
    asked(lookup)
    lookup.on_reply(a, [], AT)
    assert not isinstance(lookup.next(AT), Done)
    lookup.on_reply(b, [], AT)
    done = lookup.next(AT)
    assert isinstance(done, Done)
    assert [a, b] == done.answered


def test_the_nearest_of_all_paths_are_in_the_order_of_their_distance():
    a, b, far, near = peers_of(8, 9, 4, 2)
    lookup = DisjointLookup(TARGET, [a, b], RULES, 2)
    asked(lookup)
    lookup.on_reply(a, [far], AT)
    lookup.on_reply(b, [near], AT)
    assert [near, far, a, b] == lookup.nearest()


@pytest.mark.parametrize("both", [False, True])
def test_a_path_that_was_overrun_has_its_say_as_a_complete_one(both):
    a, b = peers_of(8, 9)
    lookup = DisjointLookup(TARGET, [a, b], RULES, 2)
    asked(lookup)
    lookup.on_reply(a, [], AT)
    lookup.on_reply(b, [], AT)
    for path in lookup._paths[: 1 + both]:
        path.stop(StopReason.OVERRUN)
    done = lookup.next(AT)
    assert isinstance(done, Done)
    assert [a, b] == done.answered
    assert (StopReason.OVERRUN if both else StopReason.COMPLETED) is done.reason


def test_stopped_it_returns_what_it_has():
    a, b = peers_of(8, 9)
    lookup = DisjointLookup(TARGET, [a, b], RULES, 2)
    asked(lookup)
    lookup.on_reply(a, [], AT)
    lookup.stop(StopReason.TIMEOUT)
    done = lookup.next(AT)
    assert isinstance(done, Done)
    assert StopReason.TIMEOUT is done.reason
    assert [a] == done.answered


@given(networks(), st.integers(2, 10))
def test_it_always_ends_and_asks_nobody_twice(network, paths):
    target, seeds, nodes = network
    trace = run(DisjointLookup(target, seeds, RULES, paths), nodes)
    queried = [query.peer for query in trace.asked]
    assert len(set(queried)) == len(queried)
    closest = [each.peer for each in trace.done.closest]
    assert nearest(closest, target, paths * K) == closest


@given(st.integers(10, 200), st.integers(0, 2**32), st.integers(2, 10))
def test_in_an_honest_fully_known_network_the_result_is_that_of_one_path(count, seed, paths):
    rng = random.Random(seed)
    peers = [peer_at(rng.getrandbits(KEY_BITS)) for _ in range(count)]
    target = Key(rng.getrandbits(KEY_BITS))
    nodes = {peer: Node(delay_s=rng.uniform(0.01, 0.9)) for peer in peers}
    for peer, node in nodes.items():
        node.knows = [each for each in nearest(peers, target, K + 1) if each != peer][:K]
    seeds = rng.sample(peers, min(count, K))
    alone = drive(ClosestPeersLookup(target, seeds, RULES), nodes)
    assert (
        alone.done.answered == run(DisjointLookup(target, seeds, RULES, paths), nodes).done.answered
    )


COLLUDERS = ("mute", "near", "far")
"""Peers that never answer; that answer and are nearer than anybody honest; or farther."""


def poisoned(
    seed: int, paths: int, colluders: str
) -> tuple[list[PeerId], list[PeerId], dict[PeerId, Node]]:
    """The true k closest, the seeds (all but the last of them lie), and the network."""
    rng = random.Random(seed)
    honest = [peer_at(rng.getrandbits(KEY_BITS)) for _ in range(60)]
    seeds = nearest(honest, TARGET, 60)[-paths:]
    liars = seeds[: paths - 1]
    place = KEY_BITS if colluders == "far" else 64
    false = [peer_at(1 + rng.getrandbits(place) | (1 << place - 1)) for _ in range(2 * K)]
    true = [each for each in honest if each not in liars]
    nodes = {peer: Node(knows=nearest(true, TARGET, K), delay_s=0.5) for peer in honest}
    nodes |= {each: Node(false, 0.01, fails=colluders == "mute") for each in false}
    nodes |= {liar: Node(knows=false, delay_s=0.01) for liar in liars}
    return nearest(true, TARGET, K), seeds, nodes


@pytest.mark.parametrize("colluders", COLLUDERS)
@given(st.integers(0, 2**32), st.integers(2, 6))
def test_fewer_poisoned_paths_than_paths_take_nobody_from_the_result(colluders, seed, paths):
    true, seeds, nodes = poisoned(seed, paths, colluders)
    trace = run(DisjointLookup(TARGET, seeds, RULES, paths), nodes)
    assert set(true) <= set(trace.done.answered)
    if colluders == "mute":
        assert true == trace.done.answered


def test_one_path_alone_is_led_astray():
    """What the disjoint ones are there for: the test above shows something."""
    true, seeds, nodes = poisoned(1, 2, "near")
    trace = drive(ClosestPeersLookup(TARGET, seeds, RULES), nodes)
    assert [] == [peer for peer in true if peer in trace.done.answered]


# --- what others told -----------------------------------------------------------------------------


def test_a_path_is_told_of_an_answer_elsewhere_without_what_it_reached_or_a_stall():
    """Else a reply that named nobody would pass for one that covers everything."""
    rules = replace(RULES, k=4, alpha=4, beta=2, looks_beyond=True)
    own, other, third, far = peers_of(3, 4, 5, 64)
    lookup = ClosestPeersLookup(TARGET, [own, other, third, far], rules)
    assert [own, other, third, far] == asked(lookup)
    lookup.on_reply(own, peers_of(3, 4, 5), AT)
    for peer in (other, third, far):
        lookup.on_answered_elsewhere(peer, AT)
    assert 1 == lookup._fruitless
    look = lookup.next(AT)
    assert isinstance(look, LookBeyond)
    assert own == look.peer
    assert all(lookup.state_of(peer) is PeerState.QUERIED for peer in (other, third, far))


@pytest.mark.parametrize("later", [False, True])
def test_a_path_looks_beyond_although_others_asked_whom_it_wanted(later):
    rules = replace(RULES, k=4, alpha=8, beta=2, looks_beyond=True)
    first, second = peers_of(64, 65)
    near = peers_of(3, 4, 5)
    lookup = DisjointLookup(TARGET, [first, second], rules, 2)
    asked(lookup)
    lookup.on_reply(first, near, AT)
    assert near == asked(lookup)
    if not later:
        lookup.on_reply(second, near, AT)
    looks = []
    for peer in near:
        lookup.on_reply(peer, [*near], AT)
    if later:
        lookup.on_reply(second, near, AT)
    while isinstance(step := lookup.next(AT), LookBeyond):
        looks.append(step)
    assert second in [look.peer for look in looks]
    assert {look.peer for look in looks} <= {first, second, *near}


def test_a_path_whose_peers_all_answered_elsewhere_is_complete():
    a, b = peers_of(1, 2)
    lookup = ClosestPeersLookup(TARGET, [a, b], RULES)
    assert [a, b] == asked(lookup)
    lookup.on_answered_elsewhere(a, AT)
    lookup.on_answered_elsewhere(b, AT)
    done = lookup.next(AT)
    assert isinstance(done, Done)
    assert (StopReason.COMPLETED, [a, b]) == (done.reason, done.answered)


def test_an_answer_elsewhere_of_a_peer_that_was_given_up_makes_it_live_again():
    late, other = peers_of(1, 2)
    lookup = ClosestPeersLookup(TARGET, [late, other], RULES)
    assert [late, other] == asked(lookup)
    assert isinstance(lookup.next(Monotonic(3.0)), Wait)
    lookup.on_answered_elsewhere(late, Monotonic(3.0))
    lookup.on_answered_elsewhere(late, Monotonic(3.0))
    lookup.on_reply(other, [], Monotonic(3.0))
    done = lookup.next(Monotonic(3.0))
    assert isinstance(done, Done)
    assert [late, other] == done.answered


# --- the dead -------------------------------------------------------------------------------------


def but_dead(*dead: PeerId) -> LookupRules:
    """The rules of a node that knows these to be dead."""

    def outlook(peer: PeerId, now: Monotonic) -> Outlook:
        known = RULES.outlook(peer, now)
        return replace(known, condition=Condition.DEAD) if peer in dead else known

    return replace(RULES, outlook=outlook)


def test_no_path_begins_with_a_seed_that_is_known_to_be_dead():
    a, b, c, d = peers_of(1, 2, 3, 4)
    lookup = DisjointLookup(TARGET, [a, b, c, d], but_dead(b, d), 2)
    assert [a, c] == asked(lookup)
    assert 2 == len(lookup._paths)


def test_the_dead_are_asked_if_nobody_else_answers():
    a, b, c = peers_of(1, 2, 3)
    lookup = DisjointLookup(TARGET, [a, b, c], but_dead(b, c), 2)
    assert [a] == asked(lookup)
    lookup.on_failure(a, FailureReason.UNREACHABLE, AT)
    assert [b, c] == asked(lookup)
    lookup.on_failure(b, FailureReason.UNREACHABLE, AT)
    lookup.on_reply(c, [], AT)
    done = lookup.next(AT)
    assert isinstance(done, Done)
    assert (StopReason.COMPLETED, [c]) == (done.reason, done.answered)


def test_seeds_that_are_all_known_to_be_dead_are_asked_once():
    a, b = peers_of(1, 2)
    lookup = DisjointLookup(TARGET, [a, b], but_dead(a, b), 2)
    assert [a, b] == asked(lookup)
    for peer in (a, b):
        lookup.on_failure(peer, FailureReason.UNREACHABLE, AT)
    assert Done(StopReason.NOBODY_ANSWERED) == lookup.next(AT)


def test_stopped_before_it_began_it_has_nothing():
    lookup = DisjointLookup(TARGET, peers_of(1, 2), RULES, 2)
    lookup.stop(StopReason.TIMEOUT)
    assert Done(StopReason.TIMEOUT) == lookup.next(AT)


# --- the late -------------------------------------------------------------------------------------


def with_a_late_one() -> tuple[DisjointLookup, PeerId, PeerId]:
    """At 3 s the first path is over without its late peer, and the second waits for its last."""
    a, b, late, slow = peers_of(8, 9, 4, 5)
    lookup = DisjointLookup(TARGET, [a, b], RULES, 2)
    assert [a, b] == asked(lookup)
    lookup.on_reply(a, [late], AT)
    assert [late] == asked(lookup)
    assert isinstance(lookup.next(Monotonic(2.5)), Wait)
    lookup.on_reply(b, [slow], Monotonic(2.5))
    assert Query(slow, follow_up=False) == replace(
        cast(Query, lookup.next(Monotonic(2.5))), follow_up=False
    )
    assert isinstance(lookup.next(Monotonic(3.0)), Wait)
    assert isinstance(lookup._paths[0].next(Monotonic(3.0)), Done)
    return lookup, late, slow


def test_a_late_answer_to_a_path_that_is_over_counts_and_the_path_goes_on():
    lookup, late, slow = with_a_late_one()
    [named] = peers_of(2)
    at = Monotonic(3.0)
    lookup.on_reply(late, [named], at)
    step = lookup.next(at)
    assert isinstance(step, Query)
    assert named == step.peer
    lookup.on_reply(named, [], at)
    lookup.on_reply(slow, [], at)
    done = lookup.next(at)
    assert isinstance(done, Done)
    assert peers_of(2, 4, 5, 8, 9) == done.answered


@pytest.mark.parametrize("shared", [False, True])
def test_one_that_was_waited_for_in_vain_and_fails_after_all_is_replaced(shared):
    """Also in the result of a path that another one asked it for."""
    a, b, late, slow, spare, other = peers_of(8, 9, 4, 5, 20, 21)
    rules = replace(RULES, k=2, beta=1, shows_life=lambda peer: peer is late)
    lookup = DisjointLookup(TARGET, [a, b], rules, 2)
    asked(lookup)
    lookup.on_reply(a, [late, spare], AT)
    if shared:
        lookup.on_reply(b, [late, other], AT)
    assert [late] == asked(lookup)
    if not shared:
        assert isinstance(lookup.next(Monotonic(2.5)), Wait)
        lookup.on_reply(b, [slow], Monotonic(2.5))
    at = Monotonic(2.5)
    first = lookup._paths[0].next(at)
    assert isinstance(first, Done)
    assert late == first.closest[0].peer
    lookup.on_failure(late, FailureReason.TIMEOUT, at)
    due = []
    while isinstance(step := lookup.next(at), Query):
        due.append(step.peer)
    assert {spare, other if shared else slow} == set(due)
    for peer in due:
        lookup.on_reply(peer, [], at)
    done = lookup.next(at)
    assert isinstance(done, Done)
    assert late not in [each.peer for each in (*done.closest, *done.next_closest)]


def test_alpha_is_shared_out_among_the_paths():
    seeds = peers_of(*range(1, K + 1))
    for paths in (2, 3, 5):
        due = asked(DisjointLookup(TARGET, seeds, RULES, paths))
        assert paths * (RULES.alpha // paths) == len(due)


def test_a_late_answer_after_the_end_is_without_effect():
    lookup, late, slow = with_a_late_one()
    at = Monotonic(3.0)
    lookup.on_reply(slow, [], at)
    done = lookup.next(at)
    assert isinstance(done, Done)
    lookup.on_reply(late, peers_of(1), at)
    assert done == lookup.next(at)
    assert [] == [path for path in lookup._paths if not isinstance(path.next(at), Done)]


# --- the limit on the whole -----------------------------------------------------------------------

OPEN_AT_MOST = 6


@pytest.fixture
def few_tasks(monkeypatch):
    """Both paths together may have so many requests open."""
    monkeypatch.setattr(lookup_module, "MAX_LOOKUP_TASKS", OPEN_AT_MOST)
    monkeypatch.setattr(disjoint_module, "MAX_LOOKUP_TASKS", OPEN_AT_MOST)


def test_at_the_bound_on_open_requests_nobody_is_asked_until_a_report_comes(few_tasks):
    seeds = peers_of(*range(1, 20))
    lookup = DisjointLookup(TARGET, seeds, RULES, 2)
    first = asked(lookup)
    assert OPEN_AT_MOST == len(first)
    lookup.on_reply(first[0], [], AT)
    assert 1 == len(asked(lookup))


def test_at_the_bound_on_open_requests_it_still_ends_in_time(few_tasks):
    """Somebody answered, and everybody else whom the paths asked never does."""
    seeds = peers_of(*range(1, 20))
    lookup = DisjointLookup(TARGET, seeds, RULES, 2)
    first = asked(lookup)
    lookup.on_reply(first[0], [], AT)
    asked(lookup)
    step = lookup.next(AT)
    assert isinstance(step, Wait)
    assert step.until is not None
    done = lookup.next(Monotonic(AT + LOOKUP_LIMIT_S))
    assert isinstance(done, Done)
    assert StopReason.OVERRUN is done.reason
    assert [first[0]] == done.answered


def test_a_path_in_which_nobody_answers_does_not_hold_up_the_others():
    """Its peers take no connection, and their requests fail long after the limit."""
    a, silent = peers_of(8, 9)
    lookup = DisjointLookup(TARGET, [a, silent], RULES, 2)
    asked(lookup)
    lookup.on_reply(a, [], AT)
    step = lookup.next(Monotonic(AT + LOOKUP_LIMIT_S - 0.1))
    assert isinstance(step, Wait)
    done = lookup.next(Monotonic(AT + LOOKUP_LIMIT_S))
    assert isinstance(done, Done)
    assert [a] == [each.peer for each in done.closest]
    assert [] == [each.peer for each in done.next_closest]


def test_while_nobody_at_all_has_answered_it_waits():
    lookup = DisjointLookup(TARGET, peers_of(8, 9), RULES, 2)
    asked(lookup)
    assert isinstance(lookup.next(Monotonic(AT + 2 * LOOKUP_LIMIT_S)), Wait)
