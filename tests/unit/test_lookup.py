"""Lookups, driven by a small pure driver: peers answer, fail, dawdle or stay mute on a list."""

from __future__ import annotations

import heapq
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key, distance
from codio_dht.core.lookup import STALL_AFTER_REPLIES, ClosestPeersLookup
from codio_dht.core.lookup_states import (
    Answered,
    ClosestPeer,
    Done,
    LookupRules,
    PeerState,
    Query,
    Standing,
    StopReason,
)
from codio_dht.core.messages import FailureReason
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_health import Condition, Outlook
from codio_dht.core.steps import Wait
from codio_dht.errors import UsageError
from codio_dht.params import KEY_BITS, MAX_CLOSER_PEERS_ACCEPTED, K

TARGET = Key(0)
SOFT_S = 1.0


@pytest.fixture(autouse=True, scope="module")
def no_hurry() -> Iterator[None]:
    """However long a lookup takes here, it waits for a peer as long as for the first one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("codio_dht.core.lookup.LOOKUP_HURRY_S", 1e9)
        patch.setattr("codio_dht.core.lookup.LOOKUP_LIMIT_S", 1e9)
        yield


def peer_at(key: int) -> PeerId:
    """A peer whose place in the keyspace is chosen: with ``TARGET`` 0, also its distance."""
    peer = PeerId(b"\x12\x20" + key.to_bytes(32, "big"))
    peer._key = Key(key)
    return peer


def peers_of(*keys: int) -> list[PeerId]:
    return [peer_at(key) for key in keys]


LOCAL = peer_at(1 << 255)


def now(seconds: float) -> Monotonic:
    return Monotonic(seconds)


def outlook(peer: PeerId, at: Monotonic) -> Outlook:
    """Nothing is known of anybody, and there is no patience past the soft deadline."""
    return Outlook(
        Condition.UNKNOWN, expected_s=0.1, soft_s=SOFT_S, reach_s=SOFT_S, patience_s=SOFT_S
    )


def lookup_of(
    seeds: Sequence[PeerId], *, target: Key = TARGET, k: int = K, alpha: int = 10, beta: int = 3
) -> ClosestPeersLookup:
    rules = LookupRules(local=LOCAL, outlook=outlook, k=k, alpha=alpha, beta=beta)
    return ClosestPeersLookup(target, seeds, rules)


RULES = LookupRules(local=LOCAL, outlook=outlook)


def queries(lookup: ClosestPeersLookup, at: float = 0.0) -> list[Query]:
    """All queries that are due now."""
    due: list[Query] = []
    while isinstance(step := lookup.next(now(at)), Query):
        due.append(step)
    return due


def asked(lookup: ClosestPeersLookup, at: float = 0.0) -> list[PeerId]:
    return [query.peer for query in queries(lookup, at)]


def done(lookup: ClosestPeersLookup, at: float = 0.0) -> Done:
    step = lookup.next(now(at))
    assert isinstance(step, Done), step
    return step


# --- the driver -----------------------------------------------------------------------------------


@dataclass
class Node:
    """How a peer of the model network behaves."""

    knows: list[PeerId] = field(default_factory=list)
    delay_s: float = 0.1
    """Until it answers, or fails."""
    fails: bool = False


@dataclass
class Trace:
    """What the driver saw."""

    done: Done
    asked: list[Query]
    most_in_flight: int
    """Requests out and within their soft deadline, before the follow-up."""
    ended_at: float


def drive(lookup: ClosestPeersLookup, nodes: dict[PeerId, Node]) -> Trace:
    """Run ``lookup`` on a virtual clock; a peer that is not in ``nodes`` fails at once."""
    clock, most = 0.0, 0
    asked: list[Query] = []
    reports: list[tuple[float, int, PeerId]] = []
    deadlines: dict[PeerId, float] = {}
    while True:
        match lookup.next(now(clock)):
            case Done() as result:
                return Trace(result, asked, most, clock)
            case Query(peer, follow_up) as query:
                asked.append(query)
                deadlines[peer] = clock + SOFT_S
                node = nodes.get(peer, Node(fails=True, delay_s=0.0))
                heapq.heappush(reports, (clock + node.delay_s, len(asked), peer))
                in_flight = sum(1 for at in deadlines.values() if at > clock)
                if not follow_up:
                    most = max(most, in_flight)
            case Wait(until):
                assert reports, "the lookup hangs"
                clock = reports[0][0] if until is None else min(reports[0][0], until)
                while reports and reports[0][0] <= clock:
                    _, _, peer = heapq.heappop(reports)
                    deadlines.pop(peer)
                    node = nodes.get(peer, Node(fails=True))
                    if node.fails:
                        lookup.on_failure(peer, FailureReason.UNREACHABLE, now(clock))
                    else:
                        lookup.on_reply(peer, node.knows, now(clock))


def nearest(peers: Sequence[PeerId], target: Key, n: int) -> list[PeerId]:
    return sorted(peers, key=lambda peer: distance(peer.key, target))[:n]


@st.composite
def networks(draw: st.DrawFn) -> tuple[Key, list[PeerId], dict[PeerId, Node]]:
    """A random graph with dead, slow and mute peers: target, seeds, nodes."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, 60))
    peers = [peer_at(rng.getrandbits(KEY_BITS)) for _ in range(count)]
    dead_share = draw(st.sampled_from([0.0, 0.2, 0.8, 1.0]))
    slow_share = draw(st.sampled_from([0.0, 0.3, 1.0]))
    known_to_each = draw(st.integers(0, 30))
    nodes = {
        peer: Node(
            knows=rng.sample([*peers, LOCAL], min(known_to_each, count)),
            delay_s=rng.uniform(1, 5) if rng.random() < slow_share else rng.uniform(0, 0.9),
            fails=rng.random() < dead_share,
        )
        for peer in peers
    }
    seeds = rng.sample(peers, draw(st.integers(1, count)))
    return Key(rng.getrandbits(KEY_BITS)), seeds, nodes


# --- laws -----------------------------------------------------------------------------------------


@pytest.mark.conformance("c32", "c33")
@given(networks(), st.integers(1, 12), st.integers(1, 12), st.integers(1, 12))
def test_every_lookup_ends_asks_nobody_twice_and_stays_within_its_width(
    network: tuple[Key, list[PeerId], dict[PeerId, Node]], k: int, alpha: int, beta: int
) -> None:
    target, seeds, nodes = network
    trace = drive(lookup_of(seeds, target=target, k=k, alpha=alpha, beta=beta), nodes)
    asked = [query.peer for query in trace.asked]
    assert len(asked) == len(set(asked))
    assert LOCAL not in asked
    assert trace.most_in_flight <= max(k, alpha)
    closest = [each.peer for each in trace.done.closest]
    assert closest == nearest(closest, target, k)
    assert trace.done.reason in (StopReason.COMPLETED, StopReason.NOBODY_ANSWERED)
    assert trace.done.answered == closest
    assert all(not nodes[peer].fails and peer in asked for peer in closest)
    if trace.done.reason is StopReason.NOBODY_ANSWERED:
        assert closest == []
        assert all(nodes[peer].fails for peer in seeds)


@pytest.mark.conformance("c32")
@given(networks(), st.integers(1, 12), st.integers(1, 12))
def test_a_walk_that_never_stalls_has_at_most_alpha_in_flight(
    network: tuple[Key, list[PeerId], dict[PeerId, Node]], k: int, alpha: int
) -> None:
    target, seeds, nodes = network
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("codio_dht.core.lookup.STALL_AFTER_REPLIES", 1_000)
        trace = drive(lookup_of(seeds, target=target, k=k, alpha=alpha), nodes)
    assert trace.most_in_flight <= alpha


@pytest.mark.conformance("c31", "c37")
@given(networks())
def test_whoever_a_lookup_heard_of_and_did_not_return_failed_or_is_farther(
    network: tuple[Key, list[PeerId], dict[PeerId, Node]],
) -> None:
    target, seeds, nodes = network
    for node in nodes.values():
        node.delay_s = min(node.delay_s, 0.9)
    lookup = lookup_of(seeds, target=target, k=5)
    trace = drive(lookup, nodes)
    heard = dict.fromkeys(seeds)
    for event in lookup.events:
        if isinstance(event, Answered):  # a farther one may still have been out at the end
            heard |= dict.fromkeys(nodes[event.peer].knows)
    heard.pop(LOCAL, None)
    alive = [peer for peer in heard if not nodes[peer].fails]
    assert trace.done.answered == nearest(alive, target, 5)


@pytest.mark.conformance("c37")
@given(st.integers(10, 500), st.integers(0, 2**32), st.sampled_from([3, 8, K]))
def test_in_a_fully_known_network_the_result_is_the_true_k_closest(
    count: int, seed: int, k: int
) -> None:
    rng = random.Random(seed)
    peers = [peer_at(rng.getrandbits(KEY_BITS)) for _ in range(count)]
    target = Key(rng.getrandbits(KEY_BITS))
    nodes = {peer: Node(delay_s=rng.uniform(0.01, 0.9)) for peer in peers}
    for peer, node in nodes.items():
        node.knows = [each for each in nearest(peers, target, k + 1) if each != peer][:k]
    trace = drive(lookup_of(rng.sample(peers, min(count, k)), target=target, k=k), nodes)
    assert trace.done.reason is StopReason.COMPLETED
    assert trace.done.answered == nearest(peers, target, k)


@given(networks())
def test_the_same_input_gives_the_same_trace(
    network: tuple[Key, list[PeerId], dict[PeerId, Node]],
) -> None:
    target, seeds, nodes = network
    assert drive(lookup_of(seeds, target=target), nodes) == drive(
        lookup_of(seeds, target=target), nodes
    )


def test_the_trace_does_not_depend_on_the_hash_seed() -> None:
    code = f"""
import random, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_lookup import *
rng = random.Random(11)
peers = [PeerId(bytes([18, 32]) + rng.randbytes(32)) for _ in range(150)]
nodes = {{
    peer: Node(rng.sample(peers, 20), rng.uniform(0, 2), rng.random() < 0.3) for peer in peers
}}
for seed in range(5):
    trace = drive(lookup_of(rng.sample(peers, 20), target=Key(rng.getrandbits(256))), nodes)
    print([str(query) for query in trace.asked], trace.done, trace.ended_at)
"""
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0].count("COMPLETED") == 5
    assert outputs[0] == outputs[1]


# --- termination and follow-up --------------------------------------------------------------------


@pytest.mark.conformance("c31")
def test_when_the_beta_closest_have_answered_the_rest_of_the_k_closest_are_asked() -> None:
    seeds = peers_of(1, 2, 3, 4, 5, 6, 7, 8)
    lookup = lookup_of(seeds, k=6, alpha=3, beta=3)
    assert queries(lookup) == [Query(peer, follow_up=False) for peer in seeds[:3]]
    lookup.on_reply(seeds[0], [], now(0.2))
    lookup.on_reply(seeds[1], [], now(0.2))
    assert [query.follow_up for query in queries(lookup, 0.2)] == [False, False]
    lookup.on_reply(seeds[2], [], now(0.3))
    assert queries(lookup, 0.3) == [Query(seeds[5], follow_up=True)]
    for peer in seeds[3:6]:
        assert isinstance(lookup.next(now(0.3)), Wait)
        lookup.on_reply(peer, [], now(0.3))
    answered_at = [0.2, 0.2, 0.3, 0.3, 0.3, 0.3]
    assert done(lookup, 0.3) == Done(
        StopReason.COMPLETED,
        closest=tuple(
            ClosestPeer(peer, Standing.ANSWERED, now(at))
            for peer, at in zip(seeds[:6], answered_at, strict=True)
        ),
        next_closest=tuple(ClosestPeer(peer, Standing.HEARD) for peer in seeds[6:]),
    )
    assert lookup.state_of(seeds[6]) is PeerState.HEARD


def test_of_those_beyond_the_k_closest_the_next_k_are_told() -> None:
    seeds = peers_of(1, 2, 3, 4, 5, 6, 7, 8)
    lookup = lookup_of(seeds, k=2, alpha=2, beta=1)
    for query in queries(lookup):
        lookup.on_reply(query.peer, [], now(0.1))
    assert [each.peer for each in done(lookup, 0.1).next_closest] == list(seeds[2:4])


@pytest.mark.conformance("c31")
def test_beta_answers_from_farther_peers_do_not_end_the_walk() -> None:
    near, *far = peers_of(1, 10, 11, 12, 13)
    lookup = lookup_of(far, k=4, alpha=1, beta=2)
    assert asked(lookup) == [far[0]]
    lookup.on_reply(far[0], [near], now(0.1))
    assert queries(lookup, 0.1) == [Query(near, follow_up=False)]
    lookup.on_reply(near, [], now(0.2))
    assert [query.follow_up for query in queries(lookup, 0.2)] == [True, True]


@pytest.mark.conformance("c31")
def test_a_failed_peer_does_not_count_among_the_beta_closest() -> None:
    seeds = peers_of(1, 2, 3, 4, 5)
    lookup = lookup_of(seeds, k=5, alpha=3, beta=3)
    assert asked(lookup) == seeds[:3]
    lookup.on_failure(seeds[1], FailureReason.UNREACHABLE, now(0.1))
    lookup.on_reply(seeds[0], [], now(0.1))
    lookup.on_reply(seeds[2], [], now(0.1))
    assert queries(lookup, 0.1) == [Query(seeds[3]), Query(seeds[4])]
    lookup.on_reply(seeds[3], [], now(0.2))
    lookup.on_reply(seeds[4], [], now(0.2))
    assert done(lookup, 0.2).answered == [seeds[0], *seeds[2:]]


@pytest.mark.conformance("c31")
def test_who_is_heard_of_in_the_follow_up_is_asked_too() -> None:
    seeds = peers_of(10, 20, 30)
    lookup = lookup_of(seeds, k=3, beta=1, alpha=1)
    assert asked(lookup) == [seeds[0]]
    lookup.on_reply(seeds[0], [], now(0))
    assert asked(lookup) == seeds[1:]
    late = peer_at(15)
    lookup.on_reply(seeds[1], [late], now(0))
    assert queries(lookup) == [Query(late, follow_up=True)]
    lookup.on_reply(late, [], now(0))
    assert done(lookup).answered == [seeds[0], late, seeds[1]]


@pytest.mark.conformance("c31")
def test_nobody_beyond_the_k_closest_is_asked() -> None:
    seeds = peers_of(*range(1, 31))
    nodes = {peer: Node() for peer in seeds}
    trace = drive(lookup_of(seeds, k=12), nodes)
    assert [query.peer for query in trace.asked] == seeds[:12]


def test_a_beta_above_k_is_no_way_to_hang() -> None:
    seeds = peers_of(1, 2, 3, 4, 5)
    trace = drive(lookup_of(seeds, k=2, beta=4), {peer: Node() for peer in seeds})
    assert trace.done.answered == seeds[:2]


# --- width ----------------------------------------------------------------------------------------


@pytest.mark.conformance("c32")
def test_never_more_than_alpha_are_in_flight_while_the_walk_makes_progress() -> None:
    rng = random.Random(5)
    peers = [peer_at(rng.getrandbits(KEY_BITS)) for _ in range(40)]
    lookup = lookup_of(peers[:20], alpha=4, beta=20, k=20)
    in_flight = asked(lookup)
    assert len(in_flight) == 4
    for nearer in range(100, 120):
        lookup.on_reply(in_flight.pop(0), [peer_at(nearer)], now(0.1))
        in_flight += asked(lookup, 0.1)
        assert len(in_flight) == 4


@pytest.mark.conformance("c32")
def test_a_peer_named_again_after_it_answered_or_failed_is_not_asked_again() -> None:
    a, b, c = peers_of(1, 2, 3)
    lookup = lookup_of([a, b], alpha=3)
    assert asked(lookup) == [a, b]
    lookup.on_failure(a, FailureReason.TIMEOUT, now(0.1))
    lookup.on_reply(b, [a, b, c], now(0.1))
    assert asked(lookup, 0.1) == [c]
    lookup.on_reply(c, [a, b, c], now(0.2))
    assert done(lookup, 0.2).answered == [b, c]


@pytest.mark.conformance("c33")
def test_a_stalled_walk_has_up_to_k_in_flight_and_progress_narrows_it_again() -> None:
    seeds = peers_of(*range(100, 130))
    lookup = lookup_of(seeds, k=20, alpha=3, beta=20)
    in_flight = asked(lookup)
    assert len(in_flight) == 3
    for _ in range(STALL_AFTER_REPLIES - 1):
        lookup.on_reply(in_flight.pop(0), [peer_at(500)], now(0.1))
        in_flight += asked(lookup, 0.1)
        assert len(in_flight) == 3
    lookup.on_reply(in_flight.pop(0), [], now(0.1))
    in_flight += asked(lookup, 0.1)
    assert len(in_flight) == 20 - STALL_AFTER_REPLIES
    lookup.on_reply(in_flight.pop(0), [peer_at(7)], now(0.2))
    assert asked(lookup, 0.2) == []
    for peer in in_flight[2:]:
        lookup.on_reply(peer, [], now(0.2))
    assert asked(lookup, 0.2) == [peer_at(7)]


@pytest.mark.conformance("c33")
@pytest.mark.parametrize("are_dead", [False, True])
def test_naming_the_next_after_the_k_nearest_or_dead_peers_is_no_progress(are_dead: bool) -> None:
    named = peers_of(3, 2, 1) if are_dead else peers_of(122, 121, 120)
    dead = Outlook(Condition.DEAD, expected_s=0.1, soft_s=SOFT_S, reach_s=SOFT_S, patience_s=SOFT_S)

    def known(peer: PeerId, at: Monotonic) -> Outlook:
        return dead if are_dead and peer in named else outlook(peer, at)

    rules = LookupRules(local=LOCAL, outlook=known, k=20, alpha=3, beta=20)
    lookup = ClosestPeersLookup(TARGET, peers_of(*range(100, 120)), rules)
    in_flight = asked(lookup)
    for each in named:
        lookup.on_reply(in_flight.pop(0), [each], now(0.1))
        in_flight += asked(lookup, 0.1)
    assert 20 - STALL_AFTER_REPLIES == len(in_flight)


def test_requests_past_their_soft_deadline_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codio_dht.core.lookup.MAX_LOOKUP_TASKS", 5)
    seeds = peers_of(*range(1, 31))
    lookup = lookup_of(seeds, alpha=3)
    assert len(asked(lookup, 0)) == 3
    assert len(asked(lookup, SOFT_S)) == 2
    assert lookup.next(now(2 * SOFT_S)) == Wait(None)
    lookup.on_failure(seeds[0], FailureReason.TIMEOUT, now(2.5))
    assert asked(lookup, 2.5) == [seeds[5]]


# --- failures and deadlines -----------------------------------------------------------------------


@pytest.mark.conformance("c33")
def test_when_all_fail_the_result_is_empty() -> None:
    seeds = peers_of(*range(1, 31))
    trace = drive(lookup_of(seeds), {})
    assert trace.done == Done(StopReason.NOBODY_ANSWERED, ())
    assert [query.peer for query in trace.asked] == seeds


@pytest.mark.conformance("c34")
def test_a_peer_past_its_soft_deadline_frees_its_slot_and_is_not_returned() -> None:
    a, b, c = peers_of(1, 2, 3)
    lookup = lookup_of([a, b, c], alpha=1, beta=3)
    assert asked(lookup, 0) == [a]
    assert lookup.next(now(0.5)) == Wait(now(SOFT_S))
    assert asked(lookup, SOFT_S) == [b]
    assert lookup.state_of(a) is PeerState.GIVEN_UP
    lookup.on_reply(b, [], now(1.1))
    assert asked(lookup, 1.1) == [c]
    lookup.on_reply(c, [], now(1.2))
    result = done(lookup, 1.2)
    assert result.reason is StopReason.COMPLETED
    assert [each.peer for each in result.closest] == result.answered == [b, c]


@pytest.mark.conformance("c34")
def test_a_late_answer_still_counts() -> None:
    a, b, near = peers_of(10, 20, 1)
    lookup = lookup_of([a, b], alpha=1)
    assert asked(lookup, 0) == [a]
    assert asked(lookup, SOFT_S) == [b]
    lookup.on_reply(a, [near], now(1.5))
    assert lookup.state_of(a) is PeerState.QUERIED
    lookup.on_reply(b, [], now(1.6))
    assert asked(lookup, 1.6) == [near]
    lookup.on_reply(near, [], now(1.7))
    assert done(lookup, 1.7).answered == [near, a, b]


@pytest.mark.conformance("c34")
def test_a_late_failure_is_a_failure() -> None:
    a, b = peers_of(1, 2)
    lookup = lookup_of([a, b], alpha=1)
    asked(lookup, 0)
    asked(lookup, SOFT_S)
    lookup.on_failure(a, FailureReason.TIMEOUT, now(1.5))
    assert lookup.state_of(a) is PeerState.FAILED


@pytest.mark.conformance("c34")
def test_while_nobody_has_answered_the_slow_are_waited_for() -> None:
    a, near = peers_of(10, 1)
    lookup = lookup_of([a])
    assert asked(lookup, 0) == [a]
    assert lookup.next(now(5)) == Wait(None)
    lookup.on_reply(a, [near], now(6))
    assert asked(lookup, 6) == [near]
    lookup.on_failure(near, FailureReason.UNREACHABLE, now(7))
    assert done(lookup, 7).answered == [a]


@pytest.mark.conformance("c34")
def test_mute_peers_leave_a_lookup_that_ends_with_the_last_failure() -> None:
    seeds = peers_of(1, 2, 3)
    trace = drive(lookup_of(seeds), {peer: Node(delay_s=9.0, fails=True) for peer in seeds})
    assert trace.done == Done(StopReason.NOBODY_ANSWERED, ())
    assert trace.ended_at == 9.0


def test_each_peer_has_the_deadline_it_was_given() -> None:
    a, b = peers_of(1, 2)
    outlooks = {
        a: Outlook(Condition.UNKNOWN, 0.1, soft_s=3.0, reach_s=3.0, patience_s=3.0),
        b: Outlook(Condition.UNKNOWN, 0.1, soft_s=0.5, reach_s=0.5, patience_s=0.5),
    }
    rules = LookupRules(local=LOCAL, outlook=lambda peer, _: outlooks[peer])
    lookup = ClosestPeersLookup(TARGET, [a, b], rules)
    assert asked(lookup, 10) == [a, b]
    assert lookup.next(now(10)) == Wait(now(10.5))
    assert lookup.next(now(10.5)) == Wait(now(13))


@pytest.mark.conformance("c35")
def test_without_a_seed_the_lookup_is_over_at_once() -> None:
    assert done(lookup_of([])) == Done(StopReason.NO_PEERS, ())


@pytest.mark.conformance("c35")
def test_this_node_alone_is_no_seed() -> None:
    assert done(lookup_of([LOCAL])) == Done(StopReason.NO_PEERS, ())


# --- input ----------------------------------------------------------------------------------------


def test_unexpected_duplicate_and_late_reports_change_nothing() -> None:
    a, b, c, stranger = peers_of(1, 2, 3, 99)
    lookup = lookup_of([a, b, c], alpha=2, k=3)
    assert asked(lookup) == [a, b]
    lookup.on_reply(c, [stranger], now(0.1))
    lookup.on_failure(c, FailureReason.BROKEN, now(0.1))
    lookup.on_reply(stranger, [peer_at(4)], now(0.1))
    assert lookup.state_of(c) is PeerState.HEARD
    assert lookup.state_of(stranger) is None
    lookup.on_reply(a, [], now(0.1))
    lookup.on_reply(a, [stranger], now(0.1))
    lookup.on_failure(a, FailureReason.BROKEN, now(0.1))
    assert lookup.state_of(a) is PeerState.QUERIED
    assert lookup.state_of(stranger) is None
    lookup.on_failure(b, FailureReason.BROKEN, now(0.1))
    lookup.on_reply(b, [stranger], now(0.1))
    assert lookup.state_of(b) is PeerState.FAILED
    assert asked(lookup) == [c]
    lookup.on_reply(c, [], now(0.2))
    result = done(lookup)
    lookup.on_reply(c, [stranger], now(0.3))
    lookup.on_failure(c, FailureReason.BROKEN, now(0.3))
    lookup.stop(StopReason.CANCELLED)
    assert done(lookup, 100) is result
    assert result.answered == [a, c]


@pytest.mark.conformance("c40")
def test_no_more_closer_peers_are_read_than_accepted() -> None:
    seed = peer_at(1 << 200)
    crowd = peers_of(*range(1_000, 1_000 + MAX_CLOSER_PEERS_ACCEPTED + 5))
    lookup = lookup_of([seed])
    asked(lookup)
    lookup.on_reply(seed, crowd[::-1], now(0.1))
    states = [lookup.state_of(peer) for peer in crowd[::-1]]
    heard = [PeerState.HEARD] * MAX_CLOSER_PEERS_ACCEPTED
    assert states == [*heard, *[None] * 5]


@pytest.mark.conformance("c40")
def test_this_node_is_never_asked_nor_returned() -> None:
    a = peer_at(1)
    lookup = lookup_of([LOCAL, a], target=LOCAL.key)
    assert asked(lookup) == [a]
    lookup.on_reply(a, [LOCAL, a], now(0.1))
    assert done(lookup).answered == [a]


def test_the_target_itself_is_a_peer_like_any_other() -> None:
    target, seed = peers_of(5, 9)
    lookup = lookup_of([seed], target=target.key)
    asked(lookup)
    lookup.on_reply(seed, [target], now(0.1))
    assert asked(lookup) == [target]
    lookup.on_reply(target, [], now(0.2))
    assert done(lookup).answered == [target, seed]


def test_a_full_lookup_keeps_the_nearest_and_everyone_it_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("codio_dht.core.lookup.MAX_LOOKUP_PEERS", 5)
    seeds = peers_of(100, 200, 300, 400)
    lookup = lookup_of(seeds, alpha=1, k=5)
    assert asked(lookup) == [seeds[0]]
    lookup.on_reply(seeds[0], peers_of(350, 50, 500), now(0.1))
    assert lookup.state_of(peer_at(350)) is PeerState.HEARD
    assert lookup.state_of(peer_at(50)) is PeerState.HEARD
    assert lookup.state_of(peer_at(400)) is None
    assert lookup.state_of(peer_at(500)) is None
    assert asked(lookup) == [peer_at(50)]
    lookup.on_failure(peer_at(50), FailureReason.TIMEOUT, now(0.2))
    assert asked(lookup) == [seeds[1]]
    lookup.on_reply(seeds[1], peers_of(50, 60), now(0.3))
    assert asked(lookup) == [peer_at(60)]


def test_a_hostile_reply_chain_ends_at_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer names forty peers nearer than all before."""
    monkeypatch.setattr("codio_dht.core.lookup.MAX_LOOKUP_PEERS", 300)
    lookup = lookup_of([peer_at(1 << 240)])
    nearer, requests = 1 << 239, 0
    while isinstance(step := lookup.next(now(0)), Query):
        requests += 1
        closer = peers_of(*range(nearer, nearer - 40, -1))
        nearer -= 40
        lookup.on_reply(step.peer, closer, now(0))
    assert isinstance(step, Done)
    assert step.reason is StopReason.COMPLETED
    assert requests <= 300


@pytest.mark.parametrize(("k", "alpha", "beta"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_impossible_widths_are_refused(k: int, alpha: int, beta: int) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        lookup_of(peers_of(1), k=k, alpha=alpha, beta=beta)


# --- stopping early -------------------------------------------------------------------------------


def test_a_stopped_lookup_returns_what_it_has_and_says_who_is_only_hearsay() -> None:
    a, b, c, d = peers_of(1, 2, 3, 4)
    lookup = lookup_of([a, b, c, d], alpha=3, k=3)
    asked(lookup)
    lookup.on_reply(b, [], now(0.1))
    lookup.on_failure(c, FailureReason.TIMEOUT, now(0.1))
    lookup.stop(StopReason.TIMEOUT)
    result = done(lookup)
    assert result == Done(
        StopReason.TIMEOUT,
        (
            ClosestPeer(a, Standing.HEARD),
            ClosestPeer(b, Standing.ANSWERED, now(0.1)),
            ClosestPeer(d, Standing.HEARD),
        ),
    )
    assert result.answered == [b]


def test_useful_seeds_answered_within_twice_the_time_of_the_fastest() -> None:
    a, b, c, d = peers_of(1, 2, 3, 4)
    lookup = lookup_of([a, b, c])
    assert lookup.useful_seeds() == []
    asked(lookup, 10)
    lookup.on_reply(c, [d], now(10.2))
    asked(lookup, 10.2)
    lookup.on_reply(d, [], now(10.21))
    lookup.on_reply(a, [], now(10.39))
    lookup.on_reply(b, [], now(10.41))
    assert lookup.useful_seeds() == [a, c]
