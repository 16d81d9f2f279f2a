"""Disjoint paths: who asks whom, who hears of whom, and what liars can do to the result."""

from __future__ import annotations

import random
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.core.clock import Monotonic
from codio_dht.core.disjoint import DisjointLookup
from codio_dht.core.keyspace import Key
from codio_dht.core.lookup import ClosestPeersLookup
from codio_dht.core.lookup_states import Answered, Asked, Done, FailureReason, Query, StopReason
from codio_dht.core.peer import PeerId
from codio_dht.errors import UsageError
from codio_dht.params import KEY_BITS, K
from test_lookup import LOCAL, RULES, Node, drive, nearest, networks, peer_at, peers_of

pytestmark = pytest.mark.conformance("c39")

TARGET = Key(0)
AT = Monotonic(1.0)


def run(lookup: DisjointLookup, nodes: dict[PeerId, Node]):
    return drive(cast(ClosestPeersLookup, lookup), nodes)


def asked(lookup: DisjointLookup) -> list[PeerId]:
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
    assert {FailureReason.UNREACHABLE: 1} == lookup.failures


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
    assert nearest(closest, target, K) == closest


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


@given(st.integers(0, 2**32), st.integers(2, 6), st.booleans())
def test_fewer_poisoned_paths_than_paths_do_not_change_the_result(seed, paths, mute):
    rng = random.Random(seed)
    honest = [peer_at(rng.getrandbits(KEY_BITS)) for _ in range(60)]
    seeds = nearest(honest, TARGET, 60)[-paths:]
    liars = seeds[: paths - 1]
    colluders = [peer_at(1 + rng.getrandbits(64)) for _ in range(30)]
    true = [each for each in honest if each not in liars]
    nodes = {peer: Node(knows=nearest(true, TARGET, K), delay_s=0.5) for peer in honest}
    for liar in liars:
        nodes[liar] = Node(knows=colluders, delay_s=0.01)
    if mute:
        nodes |= {each: Node(fails=True, delay_s=0.01) for each in colluders}
    trace = run(DisjointLookup(TARGET, seeds, RULES, paths), nodes)
    assert nearest(true, TARGET, K) == trace.done.answered
