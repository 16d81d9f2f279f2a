"""What a lookup does about peers that are slow, silent or dead, and what it says of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key
from codio_dht.core.lookup import LOOKUP_HURRY_S, LOOKUP_LIMIT_S, ClosestPeersLookup
from codio_dht.core.lookup_states import (
    Answered,
    Asked,
    ClosestPeer,
    Done,
    FollowUpBegan,
    GivenUp,
    LookupRules,
    PeerState,
    Query,
    RequestFailed,
    Standing,
    StopReason,
    Unresponsive,
)
from codio_dht.core.messages import FailureReason
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_health import MIN_SOFT_DEADLINE_S, Condition, Outlook
from codio_dht.core.steps import Wait

TARGET = Key(0)
UNKNOWN = Outlook(Condition.UNKNOWN, expected_s=0.1, soft_s=0.5, reach_s=2.0, patience_s=2.0)
DEAD = Outlook(Condition.DEAD, expected_s=0.1, soft_s=0.5, reach_s=2.0, patience_s=2.0)
SUSPECT = Outlook(Condition.SUSPECT, expected_s=0.1, soft_s=0.0, reach_s=0.0, patience_s=0.0)


def now(seconds: float) -> Monotonic:
    return Monotonic(seconds)


def alive(at: float, expected_s: float = 0.1) -> Outlook:
    return Outlook(
        Condition.ALIVE, expected_s, soft_s=0.5, reach_s=2.0, patience_s=2.0, alive_at=now(at)
    )


def peers_of(*keys: int) -> list[PeerId]:
    """Peers by their distance to the target."""
    peers = []
    for key in keys:
        peer = PeerId(b"\x12\x20" + key.to_bytes(32, "big"))
        peer._key = Key(key)
        peers.append(peer)
    return peers


LOCAL = peers_of(1 << 255)[0]


def lookup_of(
    seeds: Sequence[PeerId],
    outlooks: dict[PeerId, Outlook] | None = None,
    *,
    reached: Sequence[PeerId] = (),
    k: int = 3,
    alpha: int = 3,
    beta: int = 1,
) -> ClosestPeersLookup:
    known = outlooks or {}
    rules = LookupRules(
        local=LOCAL,
        outlook=lambda peer, _: known.get(peer, UNKNOWN),
        shows_life=lambda peer: peer in reached,
        k=k,
        alpha=alpha,
        beta=beta,
    )
    return ClosestPeersLookup(TARGET, seeds, rules)


def asked(lookup: ClosestPeersLookup, at: float) -> list[PeerId]:
    due = []
    while isinstance(step := lookup.next(now(at)), Query):
        due.append(step.peer)
    return due


def done(lookup: ClosestPeersLookup, at: float) -> Done:
    step = lookup.next(now(at))
    assert isinstance(step, Done), step
    return step


# --- patience -------------------------------------------------------------------------------------


@pytest.mark.conformance("c34")
def test_a_late_peer_frees_its_slot_at_once_and_is_waited_for_until_patience_ends() -> None:
    late, a, b, c = peers_of(1, 2, 3, 4)
    lookup = lookup_of([late, a, b, c])
    assert asked(lookup, 0.0) == [late, a, b]
    lookup.on_reply(a, [], now(0.1))
    lookup.on_reply(b, [], now(0.1))
    assert asked(lookup, 0.5) == [c]
    lookup.on_reply(c, [], now(0.6))
    assert lookup.next(now(0.6)) == Wait(now(2.0))
    assert done(lookup, 2.0).answered == [a, b, c]


@pytest.mark.conformance("c34")
def test_an_answer_before_patience_ends_makes_the_late_peer_one_of_the_closest() -> None:
    late, a, b, c = peers_of(1, 2, 3, 4)
    lookup = lookup_of([late, a, b, c])
    asked(lookup, 0.0)
    lookup.on_reply(a, [], now(0.1))
    lookup.on_reply(b, [], now(0.1))
    asked(lookup, 0.5)
    lookup.on_reply(late, [], now(1.9))
    assert done(lookup, 1.9).answered == [late, a, b]


def test_a_late_peer_that_is_not_among_the_closest_is_not_waited_for() -> None:
    far, a, b, c = peers_of(900, 1, 2, 3)
    lookup = lookup_of([far], k=3)
    assert asked(lookup, 0.0) == [far]
    lookup.on_reply(far, [a, b, c], now(0.1))
    assert asked(lookup, 0.1) == [a, b, c]
    for peer in (a, b, c):
        lookup.on_reply(peer, [], now(0.2))
    assert done(lookup, 0.2).answered == [a, b, c]


def test_a_peer_known_to_be_alive_is_returned_with_that_moment_though_it_did_not_answer() -> None:
    late, a, b, c = peers_of(1, 2, 3, 4)
    lookup = lookup_of([late, a, b, c], {late: alive(-60.0)})
    asked(lookup, 0.0)
    for peer in (a, b):
        lookup.on_reply(peer, [], now(0.1))
    asked(lookup, 0.5)
    lookup.on_reply(c, [], now(0.6))
    result = done(lookup, 2.0)
    assert result.closest == (
        ClosestPeer(late, Standing.ALIVE, now(-60.0)),
        ClosestPeer(a, Standing.ANSWERED, now(0.1)),
        ClosestPeer(b, Standing.ANSWERED, now(0.1)),
    )
    assert (result.answered, result.alive) == ([a, b], [late, a, b])
    assert result.reason is StopReason.COMPLETED


def test_a_peer_that_shows_life_when_patience_ends_is_returned_as_alive_at_that_moment() -> None:
    late, a = peers_of(1, 2)
    lookup = lookup_of([late, a], reached=[late], k=2)
    asked(lookup, 0.0)
    lookup.on_reply(a, [], now(0.1))
    asked(lookup, 0.5)
    assert done(lookup, 2.0).closest[0] == ClosestPeer(late, Standing.ALIVE, now(2.0))


def test_a_peer_known_to_be_alive_that_fails_is_not_returned() -> None:
    late, a = peers_of(1, 2)
    lookup = lookup_of([late, a], {late: alive(-1.0)}, k=2, alpha=1, beta=2)
    assert asked(lookup, 0.0) == [late]
    assert asked(lookup, 2.0) == [a]
    lookup.on_failure(late, FailureReason.TIMEOUT, now(2.1))
    lookup.on_reply(a, [], now(2.2))
    assert [each.peer for each in done(lookup, 2.2).closest] == [a]


def test_a_known_slow_peer_is_asked_and_returned_without_waiting_for_it() -> None:
    slow, a, b = peers_of(1, 2, 3)
    patient = Outlook(
        Condition.ALIVE, 3.0, soft_s=0.0, reach_s=0.0, patience_s=0.0, alive_at=now(-5.0)
    )
    lookup = lookup_of([slow, a, b], {slow: patient})
    assert asked(lookup, 0.0) == [slow, a, b]
    for peer in (a, b):
        lookup.on_reply(peer, [], now(0.1))
    assert [each.peer for each in done(lookup, 0.1).closest] == [slow, a, b]


def test_an_old_lookup_hurries() -> None:
    """Each peer names a nearer one and takes its time; still the lookup ends within 5 s."""
    chain = peers_of(*range(100, 50, -1))
    lookup = lookup_of(chain[:1], k=20)
    clock, due = 0.0, asked(lookup, 0.0)
    for number in range(1, 50):
        clock += 0.45
        step = lookup.next(now(clock))
        if isinstance(step, Done):
            break
        if due:
            lookup.on_reply(due.pop(0), chain[number : number + 1], now(clock))
        due += asked(lookup, clock)
    mute = peers_of(1, 2)
    lookup = lookup_of([mute[0]], k=2)
    assert asked(lookup, 0.0) == [mute[0]]
    lookup.on_reply(mute[0], [mute[1]], now(LOOKUP_HURRY_S))
    assert asked(lookup, LOOKUP_HURRY_S) == [mute[1]]
    ends = LOOKUP_HURRY_S + MIN_SOFT_DEADLINE_S
    assert lookup.next(now(LOOKUP_HURRY_S)) == Wait(now(ends))
    assert done(lookup, ends).answered == [mute[0]]


def nowhere(lookup: ClosestPeersLookup, *, answers_from: int, pause_s: float) -> tuple[Done, float]:
    """The end of a lookup, and when, where every answer names 39 silent peers and one that answers,
    all nearer than those before."""
    nearest, liars, replies = answers_from, {answers_from}, []
    clock = 0.0
    while True:
        step = lookup.next(now(clock))
        match step:
            case Done():
                return step, clock
            case Query(peer):
                if peer.key in liars or peer.key >= answers_from:
                    replies.append((clock + pause_s, peer))
            case Wait(until):
                assert until is not None or replies
                due = min((at for at, _ in replies), default=None)
                if due is None or (until is not None and until < due):
                    assert until is not None
                    clock = until
                    continue
                clock, peer = replies.pop(0)
                nearest -= 40
                liars.add(nearest)
                lookup.on_reply(peer, peers_of(*range(nearest, nearest + 40)), now(clock))


@pytest.mark.parametrize("pause_s", [0.0, 0.1, 0.3])
def test_names_that_lead_nowhere_do_not_hold_a_lookup_past_its_limit(pause_s: float) -> None:
    """A server can make up nearer peers for ever; each costs the time to find out."""
    honest = peers_of(*range(1_000_000, 1_000_020))
    end, at = nowhere(
        lookup_of(honest, k=20, alpha=10, beta=3), answers_from=500_000, pause_s=pause_s
    )
    assert end.reason is StopReason.OVERRUN
    assert at == LOOKUP_LIMIT_S
    assert {each.standing for each in end.closest} == {Standing.ANSWERED}
    assert [each.peer.key for each in end.closest] == sorted(each.peer.key for each in end.closest)


def test_a_lookup_that_was_answered_late_has_the_time_of_the_hurry_all_the_same() -> None:
    [late, mute] = peers_of(2, 1)
    lookup = lookup_of([late], k=2)
    assert asked(lookup, 0.0) == [late]
    assert asked(lookup, 20.0) == []
    lookup.on_reply(late, [mute], now(20.0))
    assert asked(lookup, 20.0) == [mute]
    ends = 20.0 + LOOKUP_LIMIT_S - LOOKUP_HURRY_S
    assert lookup._ends_at == now(ends)
    assert lookup.next(now(20.0 + MIN_SOFT_DEADLINE_S)) == Done(
        StopReason.COMPLETED, (ClosestPeer(late, Standing.ANSWERED, now(20.0)),)
    )


def test_while_nobody_has_answered_no_lookup_is_overrun() -> None:
    [mute] = peers_of(1)
    lookup = lookup_of([mute])
    assert asked(lookup, 0.0) == [mute]
    assert lookup.next(now(2 * LOOKUP_LIMIT_S)) == Wait(None)


# --- the dead -------------------------------------------------------------------------------------


def test_a_peer_known_to_be_dead_is_not_asked_and_delays_nobody() -> None:
    dead, a, b, c = peers_of(1, 2, 3, 4)
    lookup = lookup_of([dead, a, b, c], {dead: DEAD})
    assert asked(lookup, 0.0) == [a, b, c]
    assert lookup.state_of(dead) is PeerState.AVOIDED
    for peer in (a, b, c):
        lookup.on_reply(peer, [dead], now(0.1))
    assert done(lookup, 0.1).answered == [a, b, c]


def test_when_nobody_else_is_left_the_dead_are_asked_after_all() -> None:
    dead, also_dead, a = peers_of(1, 2, 3)
    lookup = lookup_of([dead, also_dead, a], {dead: DEAD, also_dead: DEAD})
    assert asked(lookup, 0.0) == [a]
    lookup.on_failure(a, FailureReason.UNREACHABLE, now(0.1))
    assert asked(lookup, 0.1) == [dead, also_dead]
    lookup.on_reply(also_dead, [], now(0.2))
    lookup.on_failure(dead, FailureReason.TIMEOUT, now(0.2))
    assert done(lookup, 0.2).answered == [also_dead]


def test_a_suspect_is_asked_without_taking_a_slot_and_without_being_waited_for() -> None:
    suspect, a, b, c = peers_of(1, 2, 3, 4)
    lookup = lookup_of([suspect, a, b, c], {suspect: SUSPECT}, alpha=1, beta=3)
    assert asked(lookup, 0.0) == [suspect, a]
    for peer in (a, b, c):
        lookup.on_reply(peer, [], now(0.1))
        asked(lookup, 0.1)
    assert done(lookup, 0.1).answered == [a, b, c]


def test_a_suspect_that_answers_in_time_is_one_of_the_closest() -> None:
    suspect, a, b, c = peers_of(1, 2, 3, 4)
    lookup = lookup_of([suspect, a, b, c], {suspect: SUSPECT})
    asked(lookup, 0.0)
    lookup.on_reply(suspect, [], now(0.05))
    for peer in (a, b):
        lookup.on_reply(peer, [], now(0.1))
    assert done(lookup, 0.1).answered == [suspect, a, b]


# --- cut off --------------------------------------------------------------------------------------


def test_while_nobody_answers_nothing_is_promised_of_those_that_were_alive_before() -> None:
    """Perhaps it is this node that is cut off: what it knew says nothing now."""
    a, b = peers_of(1, 2)
    lookup = lookup_of([a, b], {a: alive(0.0)})
    asked(lookup, 0.0)
    lookup.stop(StopReason.TIMEOUT)
    assert [each.standing for each in done(lookup, 1.0).closest] == [Standing.HEARD] * 2


def test_once_somebody_answers_those_that_were_alive_before_are_in_the_result_as_such() -> None:
    a, b = peers_of(1, 2)
    lookup = lookup_of([a, b], {a: alive(0.0)})
    asked(lookup, 0.0)
    lookup.on_reply(b, [], now(0.5))
    lookup.stop(StopReason.TIMEOUT)
    standing = [each.standing for each in done(lookup, 1.0).closest]
    assert standing == [Standing.ALIVE, Standing.ANSWERED]


# --- choice ---------------------------------------------------------------------------------------


def test_of_equally_near_peers_the_one_that_answers_soonest_is_asked_first() -> None:
    slow, quick, nearer = peers_of(1 << 20, (1 << 20) + 5, 3)
    outlooks = {slow: alive(0.0, 0.4), quick: alive(0.0, 0.01), nearer: alive(0.0, 0.9)}
    lookup = lookup_of([slow, quick, nearer], outlooks, alpha=1)
    first = asked(lookup, 0.0)
    lookup.on_reply(nearer, [], now(0.1))
    assert (first, asked(lookup, 0.1)) == ([nearer], [quick, slow])


# --- what is told ---------------------------------------------------------------------------------


def test_the_events_tell_the_walk_in_order() -> None:
    a, late, b = peers_of(1, 2, 3)
    lookup = lookup_of([a, late], reached=[late], k=2, beta=1)
    asked(lookup, 0.0)
    lookup.on_reply(a, [b, late], now(0.1))
    asked(lookup, 0.1)
    asked(lookup, 0.5)
    lookup.on_failure(b, FailureReason.BROKEN, now(0.625))
    done(lookup, 2.0)
    assert lookup.events == [
        Asked(now(0.0), a, 1, follow_up=False),
        Asked(now(0.0), late, 2, follow_up=False),
        Answered(now(0.1), a, 1, 0.1, named=2, new=1, late=False),
        FollowUpBegan(now(0.1)),
        Unresponsive(now(0.5), late, 2),
        Asked(now(0.5), b, 3, follow_up=True),
        RequestFailed(now(0.625), b, 3, 0.125, FailureReason.BROKEN),
        GivenUp(now(2.0), late, 2, 2.0, now(2.0)),
    ]


def test_certain_are_the_nearest_up_to_the_first_that_may_still_change() -> None:
    a, b, c = peers_of(1, 2, 3)
    lookup = lookup_of([a, b, c], beta=1)
    asked(lookup, 0.0)
    lookup.on_reply(b, [], now(0.1))
    asked(lookup, 0.1)
    assert lookup.certain() == []
    lookup.on_reply(a, [], now(0.2))
    asked(lookup, 0.2)
    assert [each.peer for each in lookup.certain()] == [a, b]
    lookup.on_reply(c, [], now(0.3))
    assert [each.peer for each in lookup.certain()] == [a, b, c]


# --- signs of life --------------------------------------------------------------------------------

DIALLED = Outlook(Condition.UNKNOWN, expected_s=0.1, soft_s=0.5, reach_s=0.3, patience_s=2.0)


def test_a_peer_that_took_no_connection_in_time_is_given_up_at_once() -> None:
    black_hole, a = peers_of(1, 2)
    lookup = lookup_of([black_hole, a], {black_hole: DIALLED}, k=2)
    asked(lookup, 0.0)
    lookup.on_reply(a, [], now(0.1))
    assert lookup.next(now(0.1)) == Wait(now(0.3))
    assert done(lookup, 0.3).answered == [a]


def test_a_peer_that_took_the_connection_keeps_its_time() -> None:
    slow, a = peers_of(1, 2)
    lookup = lookup_of([slow, a], {slow: DIALLED}, reached=[slow], k=2)
    asked(lookup, 0.0)
    lookup.on_reply(a, [], now(0.1))
    assert lookup.next(now(0.3)) == Wait(now(0.5))
    assert lookup.state_of(slow) is PeerState.WAITING
    assert lookup.next(now(0.5)) == Wait(now(2.0))
    assert lookup.state_of(slow) is PeerState.UNRESPONSIVE
    lookup.on_reply(slow, [], now(1.9))
    assert done(lookup, 1.9).answered == [slow, a]
