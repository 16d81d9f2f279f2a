"""Admission: probes before the table, eviction after a failure, and every bound."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.core.admission import (
    ADMISSION_BACKOFF_S,
    MAX_ADMISSION_BACKOFF_S,
    MAX_ADMISSION_PROBES,
    MAX_ADMISSION_QUEUE,
    REPLACEMENT_TRUST_S,
    SETTLE_DELAY_S,
    SETTLE_REFRESHES,
    Admission,
    OfferOutcome,
    Probe,
)
from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key
from codio_dht.core.messages import FailureReason
from codio_dht.core.peer import PeerId
from codio_dht.core.routing_table import AddOutcome, RoutingTable
from codio_dht.core.steps import Wait
from codio_dht.core.turns import Path
from codio_dht.params import KEY_BITS, PROBE_TIMEOUT_S, K

LOCAL = Key(0)
TIMEOUT = FailureReason.TIMEOUT


def peer_at(key: int) -> PeerId:
    peer = PeerId(b"\x12\x20" + key.to_bytes(32, "big"))
    peer._key = Key(key)
    return peer


def peers_at_cpl(prefix: int, count: int) -> list[PeerId]:
    return [peer_at((1 << (KEY_BITS - 1 - prefix)) + i) for i in range(count)]


def now(seconds: float) -> Monotonic:
    return Monotonic(seconds)


def table_of(count: int, bucket_size: int = K) -> RoutingTable:
    """A table of ``count`` settled peers, of CPL 1 and 2."""
    table = RoutingTable(LOCAL, bucket_size=bucket_size)
    for peer in [*peers_at_cpl(1, bucket_size), *peers_at_cpl(2, bucket_size)][:count]:
        table.add(peer, now(0))
    return table


def probe(admission: Admission, peer: PeerId, at: float = 0.0) -> None:
    """Bring ``peer`` to the point where its probe is out."""
    assert admission.offer(peer, now(at)) is OfferOutcome.QUEUED
    assert admission.next(now(at)) == Probe(peer, now(at + PROBE_TIMEOUT_S))


# --- offers ---------------------------------------------------------------------------------------


def test_a_candidate_is_probed_before_it_enters() -> None:
    table = RoutingTable(LOCAL)
    admission = Admission(table)
    (peer,) = peers_at_cpl(0, 1)
    probe(admission, peer)
    assert len(table) == 0
    assert admission.next(now(0)) == Wait(now(PROBE_TIMEOUT_S))
    assert admission.on_probe_answered(peer, 3, now(1)) is AddOutcome.ADDED
    assert table.peers() == [peer]
    entry = table.entry(peer)
    assert entry is not None
    assert entry.last_answered == 1.0


def test_offers_that_need_no_probe_say_why() -> None:
    table = table_of(K + 1)
    admission = Admission(table)
    queued = peers_at_cpl(0, 1)[0]
    known, bucket_full = peers_at_cpl(1, K + 1)[K - 1 :]
    assert admission.offer(peer_at(LOCAL), now(0)) is OfferOutcome.REFUSED_SELF
    assert admission.offer(known, now(0)) is OfferOutcome.KNOWN
    assert admission.offer(bucket_full, now(0)) is OfferOutcome.NO_ROOM
    assert admission.offer(queued, now(0)) is OfferOutcome.QUEUED
    assert admission.offer(queued, now(0)) is OfferOutcome.PENDING
    admission.next(now(0))
    assert admission.offer(queued, now(0)) is OfferOutcome.PENDING


def test_a_full_queue_refuses_newcomers() -> None:
    admission = Admission(RoutingTable(LOCAL), max_queue=2)
    a, b, c = peers_at_cpl(0, 3)
    assert admission.offer(a, now(0)) is OfferOutcome.QUEUED
    assert admission.offer(b, now(0)) is OfferOutcome.QUEUED
    assert admission.offer(c, now(0)) is OfferOutcome.FULL
    assert admission.next(now(0)) == Probe(a, now(PROBE_TIMEOUT_S))
    assert admission.offer(c, now(0)) is OfferOutcome.QUEUED


def test_few_probes_are_out_at_once() -> None:
    admission = Admission(RoutingTable(LOCAL), max_probes=2)
    a, b, c = peers_at_cpl(0, 3)
    for peer in (a, b, c):
        admission.offer(peer, now(0))
    assert admission.next(now(0)) == Probe(a, now(PROBE_TIMEOUT_S))
    assert admission.next(now(1)) == Probe(b, now(1 + PROBE_TIMEOUT_S))
    assert admission.next(now(2)) == Wait(now(PROBE_TIMEOUT_S))
    admission.on_probe_answered(b, 1, now(3))
    assert admission.next(now(3)) == Probe(c, now(3 + PROBE_TIMEOUT_S))
    assert admission.next(now(3)) == Wait(now(PROBE_TIMEOUT_S))


def test_a_candidate_whose_bucket_filled_up_meanwhile_is_skipped() -> None:
    table = RoutingTable(LOCAL, bucket_size=1)
    admission = Admission(table)
    a, b = peers_at_cpl(0, 2)
    admission.offer(a, now(0))
    table.add(b, now(0))
    assert admission.next(now(0)) == Wait(None)
    assert admission.waiting == 0


# --- turns ----------------------------------------------------------------------------------------


def crowd_of(names: str) -> tuple[list[PeerId], Callable[[PeerId], Path]]:
    """Peers that were seen in the groups with these one-letter names, and who their owner is."""
    peers = peers_at_cpl(0, len(names))
    groups = dict(zip(peers, names, strict=True))
    return peers, lambda peer: (groups[peer], groups[peer].encode(), peer.to_bytes())


def probed(admission: Admission, at: float = 0) -> list[PeerId]:
    found = []
    while isinstance(step := admission.next(now(at)), Probe):
        found.append(step.peer)
    return found


def test_candidates_of_different_origins_take_turns() -> None:
    peers, owner_of = crowd_of("aaaab")
    admission = Admission(RoutingTable(LOCAL), max_probes=5, owner_of=owner_of)
    for peer in peers:
        admission.offer(peer, now(0))
    assert peers[4] in probed(admission)[:2]


def test_a_full_queue_keeps_the_candidates_of_small_origins() -> None:
    peers, owner_of = crowd_of("aaaaaab")
    admission = Admission(RoutingTable(LOCAL), max_probes=1, max_queue=3, owner_of=owner_of)
    outcomes = [admission.offer(peer, now(0)) for peer in peers]
    assert [OfferOutcome.QUEUED] * 3 + [OfferOutcome.FULL] * 3 + [OfferOutcome.QUEUED] == outcomes
    assert peers[6] in admission._queue.values()


def test_one_origin_has_no_more_probes_out_than_are_free() -> None:
    peers, owner_of = crowd_of("a" * 15 + "bc")
    admission = Admission(RoutingTable(LOCAL), max_probes=8, owner_of=owner_of)
    for peer in peers[:15]:
        admission.offer(peer, now(0))
    assert 4 == len(probed(admission))
    for peer in peers[15:]:
        admission.offer(peer, now(1))
    assert peers[15:] == probed(admission, 1)


# --- probes ---------------------------------------------------------------------------------------


@pytest.mark.conformance("c49")
@pytest.mark.parametrize("size", [0, K - 1, K])
def test_a_peer_that_hangs_is_not_inserted_however_small_the_table(size: int) -> None:
    table = table_of(size)
    admission = Admission(table)
    (peer,) = peers_at_cpl(0, 1)
    probe(admission, peer)
    assert admission.on_probe_failed(peer, TIMEOUT, now(10)) is AddOutcome.REFUSED_UNVERIFIED
    assert peer not in table


@pytest.mark.conformance("c49")
def test_a_peer_whose_probe_is_given_up_is_not_inserted() -> None:
    table = table_of(1)
    admission = Admission(table)
    (peer,) = peers_at_cpl(0, 1)
    probe(admission, peer)
    admission.next(now(PROBE_TIMEOUT_S))
    assert peer not in table


@pytest.mark.conformance("c49")
@pytest.mark.parametrize(
    "why", [FailureReason.UNREACHABLE, FailureReason.UNSUPPORTED, FailureReason.BROKEN]
)
def test_a_peer_that_fails_outright_is_not_inserted_however_small_the_table(
    why: FailureReason,
) -> None:
    table = RoutingTable(LOCAL)
    admission = Admission(table)
    (peer,) = peers_at_cpl(0, 1)
    probe(admission, peer)
    assert admission.on_probe_failed(peer, why, now(1)) is AddOutcome.REFUSED_UNVERIFIED
    assert len(table) == 0


@pytest.mark.conformance("c49")
@pytest.mark.parametrize(
    ("held", "closer_count", "expected"),
    [
        (K, 0, AddOutcome.REFUSED_UNVERIFIED),
        (K, 1, AddOutcome.ADDED),
        (K - 1, 0, AddOutcome.ADDED),
        (0, 0, AddOutcome.ADDED),
    ],
)
def test_an_answer_has_to_name_a_peer_once_the_table_holds_k(
    held: int, closer_count: int, expected: AddOutcome
) -> None:
    table = table_of(held)
    admission = Admission(table)
    (peer,) = peers_at_cpl(0, 1)
    probe(admission, peer)
    assert admission.on_probe_answered(peer, closer_count, now(1)) is expected
    assert (peer in table) == (expected is AddOutcome.ADDED)


@pytest.mark.conformance("c49")
def test_a_probe_without_a_report_fails_at_its_deadline() -> None:
    table = table_of(K)
    admission = Admission(table)
    (peer,) = peers_at_cpl(0, 1)
    probe(admission, peer)
    assert admission.next(now(PROBE_TIMEOUT_S)) == Wait(None)
    assert admission.probing == 0
    assert admission.offer(peer, now(PROBE_TIMEOUT_S)) is OfferOutcome.DEFERRED
    assert admission.on_probe_failed(peer, TIMEOUT, now(11)) is AddOutcome.REFUSED_UNVERIFIED
    assert admission.on_probe_answered(peer, 2, now(12)) is AddOutcome.ADDED


def test_a_failed_candidate_is_left_alone_for_longer_each_time() -> None:
    admission = Admission(table_of(K))
    (peer,) = peers_at_cpl(0, 1)
    at, delays = 0.0, []
    for _ in range(7):
        probe(admission, peer, at)
        admission.on_probe_failed(peer, FailureReason.UNREACHABLE, now(at))
        delay = next(
            seconds
            for seconds in range(1, 1_000)
            if admission._failed.blocked_until(peer.key) <= at + seconds
        )
        assert admission.offer(peer, now(at + delay - 0.1)) is OfferOutcome.DEFERRED
        delays.append(delay)
        at += delay
    assert delays == [10, 20, 40, 80, 160, 300, 300]
    assert delays[0] == ADMISSION_BACKOFF_S
    assert delays[-1] == MAX_ADMISSION_BACKOFF_S


def test_no_room_for_a_probe_is_not_held_against_the_candidate() -> None:
    admission = Admission(RoutingTable(LOCAL))
    (peer,) = peers_at_cpl(0, 1)
    probe(admission, peer)
    admission.on_probe_failed(peer, FailureReason.CAPACITY, now(1))
    assert admission.offer(peer, now(1)) is OfferOutcome.QUEUED


def test_the_memory_of_failures_is_bounded_and_forgets_the_oldest() -> None:
    admission = Admission(table_of(K), max_memory=2)
    a, b, c = peers_at_cpl(0, 3)
    for peer in (a, b, c):
        probe(admission, peer)
        admission.on_probe_failed(peer, TIMEOUT, now(0))
    assert admission.remembered == 2
    assert admission.offer(a, now(0)) is OfferOutcome.QUEUED
    assert admission.offer(b, now(0)) is OfferOutcome.DEFERRED


# --- replies and failures -------------------------------------------------------------------------


@pytest.mark.conformance("c36")
def test_a_successful_reply_inserts_without_a_probe() -> None:
    table = RoutingTable(LOCAL)
    admission = Admission(table)
    queued, peer = peers_at_cpl(0, 2)
    admission.offer(queued, now(0))
    assert admission.on_reply(peer, now(1)) is AddOutcome.ADDED
    assert admission.on_reply(queued, now(1)) is AddOutcome.ADDED
    assert admission.on_reply(queued, now(2)) is AddOutcome.KNOWN
    assert table.peers() == [peer, queued]
    assert admission.next(now(2)) == Wait(None)


@pytest.mark.conformance("c36")
@pytest.mark.parametrize(
    "why",
    [
        FailureReason.UNREACHABLE,
        FailureReason.TIMEOUT,
        FailureReason.UNSUPPORTED,
        FailureReason.BROKEN,
    ],
)
def test_a_failed_dial_or_request_evicts_the_peer(why: FailureReason) -> None:
    table = table_of(K)
    admission = Admission(table)
    peer = table.peers()[7]
    assert admission.on_failure(peer, why, now(1)) is True
    assert peer not in table
    assert len(table) == K - 1
    assert admission.offer(peer, now(1)) is OfferOutcome.DEFERRED
    assert admission.on_reply(peer, now(2)) is AddOutcome.ADDED
    assert admission.on_failure(peer_at(1), why, now(3)) is False


@pytest.mark.conformance("c36")
def test_a_request_that_was_never_made_evicts_nobody() -> None:
    table = table_of(3)
    assert Admission(table).on_failure(table.peers()[0], FailureReason.CAPACITY, now(1)) is False
    assert len(table) == 3


@pytest.mark.conformance("c36")
def test_two_peers_learn_each_other_through_a_third() -> None:
    """d1 - d2 - d3 in a line; d1 looks up its own id through d2, hears of d3 and asks it."""
    d1, d2, d3 = peers_at_cpl(0, 3)
    tables = {peer: RoutingTable(peer.key) for peer in (d1, d2, d3)}
    admissions = {peer: Admission(table) for peer, table in tables.items()}
    for left, right in ((d1, d2), (d2, d1), (d2, d3), (d3, d2)):
        admissions[left].on_reply(right, now(0))
    (heard,) = tables[d2].nearest(d1.key, K, [d1])
    assert heard == d3
    assert admissions[d1].on_reply(d3, now(1)) is AddOutcome.ADDED
    assert admissions[d3].offer(d1, now(1)) is OfferOutcome.QUEUED
    admissions[d3].next(now(1))
    assert admissions[d3].on_probe_answered(d1, 2, now(2)) is AddOutcome.ADDED
    assert d3 in tables[d1]
    assert d1 in tables[d3]


def test_a_peer_that_is_no_server_any_more_is_withdrawn_without_a_grudge() -> None:
    table = table_of(2)
    admission = Admission(table)
    queued, probed = peers_at_cpl(0, 2)
    member = table.peers()[0]
    probe(admission, probed)
    admission.offer(queued, now(0))
    for peer in (queued, probed, member):
        admission.withdraw(peer, now(0))
    assert admission.waiting == 0
    assert member not in table
    assert admission.offer(queued, now(0)) is OfferOutcome.QUEUED
    assert admission.on_probe_answered(probed, 2, now(1)) is AddOutcome.REFUSED_UNVERIFIED
    assert probed not in table
    assert admission.offer(probed, now(2)) is OfferOutcome.QUEUED


def test_a_probe_of_a_withdrawn_peer_keeps_its_place_until_it_ends() -> None:
    table = table_of(2)
    admission = Admission(table)
    (peer,) = peers_at_cpl(0, 1)
    probe(admission, peer)
    for _ in range(3):
        admission.withdraw(peer, now(1))
        assert admission.offer(peer, now(1)) is OfferOutcome.PENDING
        assert admission.next(now(1)) == Wait(now(PROBE_TIMEOUT_S))
    assert admission.probing == 1
    assert admission.on_probe_answered(peer, 2, now(2)) is AddOutcome.ADDED
    assert admission.probing == 0


# --- joining --------------------------------------------------------------------------------------


@pytest.mark.conformance("c48")
def test_peers_that_came_while_joining_are_settled_a_minute_after_the_second_refresh() -> None:
    table = RoutingTable(LOCAL, bucket_size=1)
    admission = Admission(table)
    a, b, c = peers_at_cpl(0, 3)
    admission.on_reply(a, now(0))
    admission.on_refreshed(now(10))
    admission.on_refreshed(now(20))
    assert admission.on_reply(b, now(21)) is AddOutcome.REPLACED
    admission.next(now(20 + SETTLE_DELAY_S - 1))
    assert admission.on_reply(a, now(79)) is AddOutcome.REPLACED
    admission.next(now(20 + SETTLE_DELAY_S))
    assert admission.on_reply(c, now(81)) is AddOutcome.FULL
    assert table.peers() == [a]
    admission.on_refreshed(now(90))
    table.remove(a)
    table.add(b, now(91))
    assert admission.on_reply(c, now(92)) is AddOutcome.FULL


def test_a_table_that_was_empty_again_is_joining_again() -> None:
    table = RoutingTable(LOCAL, bucket_size=1)
    admission = Admission(table)
    a, b = peers_at_cpl(0, 2)
    admission.on_reply(a, now(0))
    admission.on_refreshed(now(1))
    admission.on_refreshed(now(2))
    admission.next(now(2 + SETTLE_DELAY_S))
    admission.on_failure(a, TIMEOUT, now(100))
    assert admission.on_reply(a, now(101)) is AddOutcome.ADDED
    assert admission.on_reply(b, now(102)) is AddOutcome.REPLACED


# --- replacements ---------------------------------------------------------------------------------


def full_bucket(count: int = 2) -> tuple[Admission, RoutingTable, list[PeerId], list[PeerId]]:
    """A settled bucket of ``count`` peers, and some more of its CPL."""
    table = RoutingTable(LOCAL, bucket_size=count)
    inside, outside = (peers := peers_at_cpl(0, count + 6))[:count], peers[count:]
    for peer in inside:
        table.add(peer, now(0))
    admission = Admission(table)
    for _ in range(SETTLE_REFRESHES):
        admission.on_refreshed(now(0))
    admission.next(now(SETTLE_DELAY_S))
    return admission, table, inside, outside


@pytest.mark.conformance("c48")
def test_whoever_answered_lately_takes_the_place_that_comes_free() -> None:
    admission, table, inside, (a, b, *_) = full_bucket()
    assert admission.on_reply(a, now(100)) is AddOutcome.FULL
    assert admission.on_reply(b, now(101)) is AddOutcome.FULL
    assert admission.replacements == 2
    admission.on_failure(inside[0], TIMEOUT, now(110))
    assert table.peers() == [inside[1], b]
    entry = table.entry(b)
    assert entry is not None
    assert entry.last_answered == 101
    assert admission.replacements == 1


@pytest.mark.parametrize("how", ["seen", "answered long ago"])
def test_a_candidate_of_whom_little_is_known_is_probed_first(how: str) -> None:
    admission, table, inside, (a, *_) = full_bucket()
    if how == "seen":
        assert admission.offer(a, now(100)) is OfferOutcome.NO_ROOM
    else:
        admission.on_reply(a, now(100))
    at = 100 + REPLACEMENT_TRUST_S
    admission.on_failure(inside[0], TIMEOUT, now(at))
    assert a not in table
    assert admission.next(now(at)) == Probe(a, now(at + PROBE_TIMEOUT_S))
    admission.on_probe_answered(a, 3, now(at + 1))
    assert table.peers() == [inside[1], a]


def test_where_the_best_candidate_fails_the_next_one_is_tried() -> None:
    admission, table, inside, (a, b, c, *_) = full_bucket()
    others = peers_at_cpl(1, 2)
    for peer in others:
        table.add(peer, now(0))
    for at, peer in enumerate((a, b, c)):
        admission.offer(peer, now(100 + at))
    admission.withdraw(inside[0], now(110))
    assert admission.next(now(110)) == Probe(c, now(110 + PROBE_TIMEOUT_S))
    assert admission.next(now(110)) == Wait(now(110 + PROBE_TIMEOUT_S))
    admission.on_probe_failed(c, FailureReason.UNREACHABLE, now(111))
    assert admission.next(now(111)) == Probe(b, now(111 + PROBE_TIMEOUT_S))
    admission.on_probe_answered(b, 0, now(112))  # knows nobody
    assert admission.next(now(112)) == Probe(a, now(112 + PROBE_TIMEOUT_S))
    admission.on_probe_answered(a, 5, now(113))
    assert table.peers() == [inside[1], *others, a]


def test_a_candidate_that_failed_or_is_no_server_any_more_is_forgotten() -> None:
    admission, table, inside, (a, b, *_) = full_bucket()
    admission.on_reply(a, now(100))
    admission.on_reply(b, now(100))
    admission.on_failure(b, TIMEOUT, now(101))
    admission.withdraw(a, now(101))
    assert admission.replacements == 0
    admission.on_failure(inside[0], TIMEOUT, now(102))
    assert table.peers() == [inside[1]]
    assert admission.next(now(102)) == Wait(None)


def test_a_candidate_whose_bucket_filled_up_before_its_probe_is_remembered() -> None:
    table = RoutingTable(LOCAL, bucket_size=1)
    admission = Admission(table)
    a, b = peers_at_cpl(0, 2)
    admission.offer(a, now(0))
    table.add(b, now(0))
    assert admission.next(now(0)) == Wait(None)
    assert admission.replacements == 1


# --- bounds ---------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["offer", "next", "answer", "fail", "reply", "evict", "withdraw"]),
            st.integers(1, 40),
        ),
        max_size=120,
    )
)
def test_nothing_grows_past_its_bound_whatever_peers_do(events: list[tuple[str, int]]) -> None:
    table = RoutingTable(LOCAL, bucket_size=2)
    admission = Admission(table, max_probes=3, max_queue=4, max_memory=5)
    for at, (event, number) in enumerate(events):
        peer = peer_at(number << (KEY_BITS - 8))
        match event:
            case "offer":
                admission.offer(peer, now(at))
            case "next":
                admission.next(now(at))
            case "answer":
                admission.on_probe_answered(peer, number % 2, now(at))
            case "fail":
                admission.on_probe_failed(peer, TIMEOUT, now(at))
            case "reply":
                admission.on_reply(peer, now(at))
            case "evict":
                admission.on_failure(peer, FailureReason.BROKEN, now(at))
            case _:
                admission.withdraw(peer, now(at))
        assert admission.waiting <= 4
        assert admission.probing <= 3
        assert admission.remembered <= 5
        assert all(count <= 2 for count in table.cpl_counts())
        assert not [each for each in admission._queue if each in admission._probing]


def test_the_bounds_are_those_of_params() -> None:
    admission = Admission(RoutingTable(LOCAL, bucket_size=10_000))
    peers = peers_at_cpl(0, MAX_ADMISSION_QUEUE + 1)
    outcomes = [admission.offer(peer, now(0)) for peer in peers]
    assert outcomes[-1] is OfferOutcome.FULL
    assert outcomes[:-1] == [OfferOutcome.QUEUED] * MAX_ADMISSION_QUEUE
    while isinstance(admission.next(now(0)), Probe):
        pass
    assert admission.probing == MAX_ADMISSION_PROBES


def test_it_wants_to_be_asked_again_when_the_table_settles() -> None:
    admission = Admission(RoutingTable(LOCAL))
    admission.on_reply(peers_at_cpl(0, 1)[0], now(0))
    for at in (1, 2):
        assert admission.next(now(at)) == Wait(None)
        admission.on_refreshed(now(at))
    assert admission.next(now(2)) == Wait(now(2 + SETTLE_DELAY_S))
    assert admission.next(now(2 + SETTLE_DELAY_S)) == Wait(None)


# --- candidates in back-off -----------------------------------------------------------------------


def backing_off(max_queue: int = 8) -> tuple[Admission, list[PeerId]]:
    """A door at which three peers of one bucket have just failed their probe."""
    admission = Admission(table_of(K), max_queue=max_queue)
    peers = peers_at_cpl(0, 3)
    for peer in peers:
        probe(admission, peer)
        admission.on_probe_failed(peer, TIMEOUT, now(0))
    return admission, peers


def test_a_candidate_in_back_off_is_probed_when_that_is_over() -> None:
    admission, (seen, unseen, _) = backing_off()
    assert admission.offer(seen, now(1)) is OfferOutcome.DEFERRED
    assert admission.offer(seen, now(2)) is OfferOutcome.DEFERRED
    assert admission.next(now(2)) == Wait(now(ADMISSION_BACKOFF_S))
    probed = admission.next(now(ADMISSION_BACKOFF_S))
    assert probed == Probe(seen, now(ADMISSION_BACKOFF_S + PROBE_TIMEOUT_S))
    assert admission.deferred == 0
    admission.on_probe_failed(seen, TIMEOUT, now(ADMISSION_BACKOFF_S))
    assert admission.next(now(1_000)) == Wait(None)  # it was not seen again, nor was the other
    assert unseen not in admission._table


def test_a_candidate_that_is_known_to_be_there_again_needs_not_wait() -> None:
    admission, (peer, *_) = backing_off()
    admission.offer(peer, now(1))
    admission.readmit(peer)
    assert admission.next(now(1)) == Probe(peer, now(1 + PROBE_TIMEOUT_S))


def test_a_deferred_candidate_that_enters_or_is_no_server_any_more_is_not_probed() -> None:
    admission, (enters, leaves, _) = backing_off()
    for peer in (enters, leaves):
        admission.offer(peer, now(1))
    admission.on_reply(enters, now(2))
    admission.withdraw(leaves, now(2))
    assert admission.deferred == 0
    assert admission.next(now(20)) == Wait(None)


def test_deferred_candidates_are_as_many_as_those_that_wait() -> None:
    admission, (a, b, c) = backing_off(max_queue=2)
    outcomes = [admission.offer(peer, now(1)) for peer in (a, b, c, a)]
    deferred, full = OfferOutcome.DEFERRED, OfferOutcome.FULL
    assert outcomes == [deferred, deferred, full, deferred]
    assert admission.deferred == 2


def test_after_an_outage_of_our_own_nobody_is_in_back_off() -> None:
    admission, (a, *_) = backing_off()
    admission.forgive()
    assert admission.offer(a, now(1)) is OfferOutcome.QUEUED


def test_an_answer_starts_the_back_off_over() -> None:
    table = table_of(K)
    admission = Admission(table)
    (peer,) = peers_at_cpl(0, 1)
    for at in (0, 100):
        probe(admission, peer, at)
        admission.on_probe_failed(peer, TIMEOUT, now(at))
    admission.on_reply(peer, now(200))
    admission.on_failure(peer, TIMEOUT, now(300))
    admission.offer(peer, now(300))
    assert admission.next(now(300)) == Wait(now(300 + ADMISSION_BACKOFF_S))


def test_a_candidate_that_fails_a_request_before_its_probe_is_not_probed_for_now() -> None:
    admission = Admission(table_of(K))
    (peer,) = peers_at_cpl(0, 1)
    admission.offer(peer, now(0))
    assert admission.on_failure(peer, TIMEOUT, now(1)) is False
    assert admission.waiting == 0
    assert admission.offer(peer, now(2)) is OfferOutcome.DEFERRED
