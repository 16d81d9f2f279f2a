"""What a lookup does where replies full of dead peers do not reach as far as its k closest."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from codio_dht import params
from codio_dht.core.clock import Monotonic
from codio_dht.core.horizon import BEYOND_PRECISION_BITS, LOOKS_BEYOND, MAX_LOOKS_BEYOND
from codio_dht.core.keyspace import Key
from codio_dht.core.lookup import ClosestPeersLookup
from codio_dht.core.lookup_states import (
    Done,
    LookBeyond,
    LookedBeyond,
    LookupRules,
    PeerState,
    Query,
    StopReason,
)
from codio_dht.core.messages import FailureReason
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_health import Condition, Outlook
from codio_dht.core.steps import Wait

TARGET = Key(0)
SOFT_S = 0.5
UNKNOWN = Outlook(Condition.UNKNOWN, expected_s=0.1, soft_s=SOFT_S, reach_s=2.0, patience_s=2.0)
DEAD = Outlook(Condition.DEAD, expected_s=0.1, soft_s=SOFT_S, reach_s=2.0, patience_s=2.0)


def now(seconds: float) -> Monotonic:
    return Monotonic(seconds)


def peers_of(*keys: int) -> list[PeerId]:
    """Peers by their distance to the target."""
    peers = []
    for key in keys:
        peer = PeerId(b"\x12\x20" + key.to_bytes(32, "big"))
        peer._key = Key(key)
        peers.append(peer)
    return peers


LOCAL = peers_of(1 << 255)[0]
CORPSES = peers_of(1, 2)
A, B, C, D = LIVING = peers_of(3, 4, 5, 64)
NAMED = [*CORPSES, A, B, C]
"""What everybody answers: so it is known who there is up to C, and not between C and D."""


def lookup_of(seeds: Sequence[PeerId], *, looks_beyond: bool = True) -> ClosestPeersLookup:
    rules = LookupRules(
        local=LOCAL,
        outlook=lambda peer, _: DEAD if peer in CORPSES else UNKNOWN,
        looks_beyond=looks_beyond,
        k=4,
        alpha=4,
        beta=2,
    )
    return ClosestPeersLookup(TARGET, seeds, rules)


def steps(lookup: ClosestPeersLookup, at: float) -> tuple[list[PeerId], list[LookBeyond]]:
    """Who is asked for the target now, and who for what lies behind the horizon."""
    asked, looks = [], []
    while not isinstance(step := lookup.next(now(at)), Wait | Done):
        if isinstance(step, Query):
            asked.append(step.peer)
        else:
            looks.append(step)
    return asked, looks


def answered(
    named: Sequence[PeerId] = NAMED, *, looks_beyond: bool = True
) -> tuple[ClosestPeersLookup, list[LookBeyond]]:
    """A lookup whose k closest have all answered, at 0.1 s."""
    lookup = lookup_of(LIVING, looks_beyond=looks_beyond)
    assert steps(lookup, 0.0) == (LIVING, [])
    for peer in LIVING:
        lookup.on_reply(peer, named, now(0.1))
    asked, looks = steps(lookup, 0.1)
    assert asked == []
    return lookup, looks


def done(lookup: ClosestPeersLookup, at: float) -> Done:
    step = lookup.next(now(at))
    assert isinstance(step, Done), step
    return step


@pytest.mark.conformance("c37")
def test_who_answered_is_asked_for_points_from_the_horizon_to_the_kth_peer() -> None:
    _, looks = answered()
    each = LOOKS_BEYOND
    assert [look.point for look in looks] == [
        Key(place) for place in (5, 8, 16, 32, 64) for _ in range(each)
    ]
    assert all(look.peer in LIVING for look in looks)
    pairs = [(look.peer, look.point) for look in looks]
    assert len(pairs) == len(set(pairs))
    assert [look.peer for look in looks[:2]] == [C, B]  # the nearest to the point
    assert [look.peer for look in looks[-2:-1]] == [D]


@pytest.mark.conformance("c37")
def test_who_is_heard_of_behind_the_horizon_is_asked_and_among_the_closest() -> None:
    lookup, looks = answered()
    [hidden] = peers_of(20)
    lookup.on_beyond(looks[0].peer, looks[0].point, [hidden], now(0.2))
    assert steps(lookup, 0.2)[0] == [hidden]
    for look in looks[1:]:
        lookup.on_beyond(look.peer, look.point, [], now(0.2))
    lookup.on_reply(hidden, NAMED, now(0.3))
    result = done(lookup, 0.3)
    assert (result.answered, result.reason) == ([A, B, C, hidden], StopReason.COMPLETED)


def test_nobody_beyond_the_horizon_is_certain_before_the_looks_are_over() -> None:
    lookup, _ = answered()
    assert [each.peer for each in lookup.certain()] == [A, B, C]
    without, _ = answered(looks_beyond=False)
    assert [each.peer for each in without.certain()] == LIVING


def test_whoever_names_nobody_else_covers_everything() -> None:
    lookup, looks = answered([A])
    assert looks == []
    assert done(lookup, 0.1).answered == LIVING


def test_nothing_is_asked_where_the_horizon_covers_the_kth_peer() -> None:
    lookup, looks = answered([*NAMED, D])
    assert looks == []
    assert done(lookup, 0.1).answered == LIVING


def test_one_reply_that_reaches_farther_is_not_enough() -> None:
    lookup = lookup_of(LIVING)
    steps(lookup, 0.0)
    lookup.on_reply(A, [*NAMED, D], now(0.1))
    for peer in (B, C, D):
        lookup.on_reply(peer, NAMED, now(0.1))
    assert steps(lookup, 0.1)[1] != []


def test_the_horizon_is_how_far_the_beta_farthest_of_the_replies_reached() -> None:
    lookup = lookup_of(LIVING)
    steps(lookup, 0.0)
    for peer, farthest in zip(LIVING, (2, 3, 4, 5), strict=True):
        lookup.on_reply(peer, peers_of(1, 2, farthest), now(0.1))
    looks = steps(lookup, 0.1)[1]
    assert looks[0].point == Key(4)  # of 2, 3, 4 and 5, two reach as far


@pytest.mark.parametrize(("named", "covers"), [(2, True), (3, False)])
def test_a_reply_of_three_quarters_of_k_is_not_all_that_its_peer_knows(named, covers) -> None:
    """Fewer are: somebody who knew more would have named them."""
    _, looks = answered(peers_of(1, 2, 3)[:named])
    assert (looks == []) is covers


def test_the_key_asked_for_shares_so_many_bits_that_it_lies_close_behind_the_horizon() -> None:
    place = 1 << 250
    near, last = peers_of(place, place << 2)
    lookup = lookup_of([*LIVING[:2], near, last])
    steps(lookup, 0.0)
    for peer in (*LIVING[:2], near, last):
        lookup.on_reply(peer, [*CORPSES, near], now(0.1))
    looks = steps(lookup, 0.1)[1]
    bits_shared_with_the_target = 256 - place.bit_length()
    assert looks[0].point == Key(place)
    assert looks[0].cpl == bits_shared_with_the_target + 1 + BEYOND_PRECISION_BITS


def test_nobody_looks_beyond_by_peers_that_answered_another_lookup() -> None:
    lookup = lookup_of(LIVING)
    steps(lookup, 0.0)
    lookup.on_reply(A, NAMED, now(0.1))
    for peer in (B, C, D):
        lookup.on_answered_elsewhere(peer, now(0.1))
    looks = steps(lookup, 0.1)[1]
    assert [(look.peer, look.point) for look in looks] == [
        (A, Key(place)) for place in (5, 8, 16, 32, 64)
    ]


def test_nobody_looks_beyond_who_cannot_ask_for_other_keys() -> None:
    lookup, looks = answered(looks_beyond=False)
    assert looks == []
    assert done(lookup, 0.1).answered == LIVING


def test_nobody_looks_beyond_before_the_follow_up() -> None:
    lookup = lookup_of(LIVING)
    steps(lookup, 0.0)
    lookup.on_reply(D, NAMED, now(0.1))
    assert steps(lookup, 0.1) == ([], [])


def test_a_look_that_does_not_come_back_is_waited_for_until_its_soft_deadline_only() -> None:
    lookup, looks = answered()
    for look in looks[1:]:
        lookup.on_beyond(look.peer, look.point, [], now(0.2))
    assert lookup.next(now(0.2)) == Wait(now(0.1 + SOFT_S))
    result = done(lookup, 0.1 + SOFT_S)
    assert result.answered == LIVING
    [hidden] = peers_of(20)
    lookup.on_beyond(looks[0].peer, looks[0].point, [hidden], now(0.7))
    assert lookup.state_of(hidden) is None


def test_a_horizon_made_up_next_to_the_target_costs_a_bounded_number_of_looks() -> None:
    far = peers_of(*(1 << bit for bit in range(250, 254)))
    lookup = lookup_of(far)
    assert steps(lookup, 0.0) == (far, [])
    for peer in far:
        lookup.on_reply(peer, NAMED, now(0.1))
    looks: list[LookBeyond] = []
    for at in (0.2, 0.7, 2.2, 4.0):
        asked, more = steps(lookup, at)
        looks += more
        for peer in asked:
            lookup.on_failure(peer, FailureReason.TIMEOUT, now(at))
    assert len(looks) == MAX_LOOKS_BEYOND


def test_looks_that_fail_count_and_are_not_made_again() -> None:
    lookup, looks = answered()
    for look in looks:
        lookup.on_beyond(look.peer, look.point, [], now(0.2))
    assert steps(lookup, 0.2) == ([], [])
    assert done(lookup, 0.2).answered == LIVING
    assert lookup.requests == len(LIVING) + len(looks)


def test_an_answer_to_a_look_that_was_not_made_changes_nothing() -> None:
    lookup, looks = answered()
    [hidden] = peers_of(20)
    lookup.on_beyond(A, Key(77), [hidden], now(0.2))
    assert lookup.state_of(hidden) is None
    lookup.on_beyond(looks[0].peer, looks[0].point, [], now(0.2))
    lookup.on_beyond(looks[0].peer, looks[0].point, [hidden], now(0.2))
    assert lookup.state_of(hidden) is None


def test_an_answer_to_a_look_is_cut_at_the_accepted_number() -> None:
    lookup, looks = answered()
    crowd = peers_of(*range(1_000, 1_000 + params.MAX_CLOSER_PEERS_ACCEPTED + 1))
    lookup.on_beyond(looks[0].peer, looks[0].point, crowd, now(0.2))
    assert [lookup.state_of(crowd[-2]), lookup.state_of(crowd[-1])] == [PeerState.HEARD, None]


def test_where_the_kth_peer_fails_the_next_one_is_looked_up_to() -> None:
    lookup = lookup_of([*LIVING, *peers_of(300)])
    steps(lookup, 0.0)
    for peer in (A, B, C):
        lookup.on_reply(peer, NAMED, now(0.1))
    lookup.on_failure(D, FailureReason.TIMEOUT, now(0.1))
    asked, looks = steps(lookup, 0.1)
    assert asked == peers_of(300)
    assert looks[-1].point == Key(256)


def test_the_events_tell_of_the_looks() -> None:
    lookup, looks = answered()
    told = [event for event in lookup.events if isinstance(event, LookedBeyond)]
    assert [event.peer for event in told] == [look.peer for look in looks]
