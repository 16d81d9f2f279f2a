"""The refresh schedule: what is due, when, and the gap rule."""

from __future__ import annotations

import pytest

from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key
from codio_dht.core.peer import PeerId
from codio_dht.core.refresh import (
    CLOSE_LOOKUP_DELAY_S,
    CLOSE_LOOKUP_INTERVAL_S,
    JOIN_FOLLOW_UP_S,
    LIVENESS_GRACE_S,
    MAX_JOIN_LOOKUPS,
    MAX_REFRESH_CPL,
    CplLookup,
    LivenessProbe,
    RefreshSchedule,
    SelfLookup,
)
from codio_dht.core.routing_table import RoutingTable
from codio_dht.core.steps import Wait
from codio_dht.params import KEY_BITS, REFRESH_INTERVAL_S, K

LOCAL = Key(0)


def peer_at_cpl(prefix: int, nth: int = 0) -> PeerId:
    key = (1 << (KEY_BITS - 1 - prefix)) + nth
    peer = PeerId(b"\x12\x20" + key.to_bytes(32, "big"))
    peer._key = Key(key)
    return peer


def now(seconds: float) -> Monotonic:
    return Monotonic(seconds)


def table_with(*cpls: int, at: float = 0.0) -> RoutingTable:
    table = RoutingTable(LOCAL)
    for prefix in cpls:
        table.add(peer_at_cpl(prefix), now(at))
    return table


def run_of(schedule: RefreshSchedule, at: float) -> list[SelfLookup | CplLookup]:
    """The lookups of the run that is due at ``at``, each of which ends at once."""
    lookups = []
    while True:
        match schedule.next(now(at)):
            case SelfLookup() | CplLookup() as lookup:
                lookups.append(lookup)
                schedule.lookup_ended(now(at))
            case LivenessProbe(peer):
                schedule.probe_ended(peer)
            case Wait():
                return lookups


def cpls(*prefixes: int) -> list[SelfLookup | CplLookup]:
    return [SelfLookup(), *(CplLookup(prefix) for prefix in prefixes)]


def test_the_first_run_is_due_at_once_and_the_next_an_interval_later() -> None:
    schedule = RefreshSchedule(table_with(0, 1, 2), join_follow_ups=0)
    running = [schedule.running]
    assert schedule.next(now(50)) == SelfLookup()
    running.append(schedule.running)
    schedule.lookup_ended(now(51))
    assert run_of(schedule, 51) == [CplLookup(0), CplLookup(1), CplLookup(2)]
    running.append(schedule.running)
    assert running == [False, True, False]
    assert schedule.runs == 1
    assert schedule.next(now(60)) == Wait(now(50 + REFRESH_INTERVAL_S))
    assert schedule.next(now(50 + REFRESH_INTERVAL_S)) == SelfLookup()


def test_one_lookup_is_out_at_a_time() -> None:
    schedule = RefreshSchedule(table_with(0), join_lookups=1)
    assert schedule.next(now(0)) == SelfLookup()
    assert schedule.next(now(1)) == Wait(None)
    schedule.lookup_ended(now(2))
    assert schedule.next(now(2)) == CplLookup(0)
    assert schedule.next(now(3)) == Wait(None)


def test_an_end_that_nobody_expects_changes_nothing() -> None:
    schedule = RefreshSchedule(table_with(0))
    schedule.lookup_ended(now(0))
    schedule.probe_ended(peer_at_cpl(0))
    assert run_of(schedule, 0) == cpls(0)
    schedule.lookup_ended(now(1))
    assert schedule.runs == 1


def test_an_empty_table_needs_only_the_lookup_of_the_local_key() -> None:
    assert run_of(RefreshSchedule(RoutingTable(LOCAL)), 0) == cpls()


def test_cpls_are_refreshed_up_to_the_longest_with_a_peer_but_no_further_than_15() -> None:
    assert run_of(RefreshSchedule(table_with(*range(5))), 0) == cpls(*range(5))
    deep = RefreshSchedule(table_with(*range(40)))
    assert run_of(deep, 0) == cpls(*range(MAX_REFRESH_CPL + 1))


def test_the_lookup_of_the_local_key_may_bring_the_cpls_of_the_same_run() -> None:
    table = RoutingTable(LOCAL)
    schedule = RefreshSchedule(table)
    assert schedule.next(now(0)) == SelfLookup()
    table.add(peer_at_cpl(0), now(0))
    table.add(peer_at_cpl(1), now(0))
    schedule.lookup_ended(now(0))
    assert run_of(schedule, 0) == [CplLookup(0), CplLookup(1)]


@pytest.mark.conformance("c51")
@pytest.mark.parametrize(
    ("filled", "expected"),
    [
        ((0, 9), (0, 1, 2, 3, 4)),
        ((9,), (0, 1, 2)),
        ((0, 1, 2, 12), (*range(9),)),
        ((0, 2, 3, 12), (0, 1, 2, 3, 4)),
        ((0, 1, 2, 3, 5), (*range(6),)),
    ],
)
def test_beyond_a_gap_at_c_the_run_goes_on_to_twice_c_plus_one_only(
    filled: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert run_of(RefreshSchedule(table_with(*filled)), 0) == cpls(*expected)


@pytest.mark.conformance("c51")
def test_a_gap_that_its_refresh_filled_is_none() -> None:
    table = table_with(0, 9)
    schedule = RefreshSchedule(table)
    schedule.next(now(0))
    schedule.lookup_ended(now(0))
    assert schedule.next(now(0)) == CplLookup(0)
    schedule.lookup_ended(now(0))
    for prefix in range(1, 9):
        assert schedule.next(now(0)) == CplLookup(prefix)
        table.add(peer_at_cpl(prefix), now(0))
        schedule.lookup_ended(now(0))
    assert schedule.next(now(0)) == CplLookup(9)


@pytest.mark.conformance("c51")
def test_a_gap_that_is_fresh_cuts_the_run_short_too() -> None:
    schedule = RefreshSchedule(table_with(9))
    schedule.looked_up(peer_at_cpl(0).key, now(0))
    assert run_of(schedule, 1) == cpls(1, 2)


def test_a_cpl_that_was_looked_up_within_the_interval_is_spared() -> None:
    schedule = RefreshSchedule(table_with(0, 1, 2, 3))
    schedule.looked_up(peer_at_cpl(1, nth=77).key, now(100))
    schedule.looked_up(peer_at_cpl(40).key, now(100))
    assert run_of(schedule, 100) == cpls(0, 2, 3)
    schedule.looked_up(peer_at_cpl(3).key, now(200))
    assert run_of(schedule, 100 + REFRESH_INTERVAL_S) == cpls(0, 1, 2)
    assert run_of(schedule, 100 + 2 * REFRESH_INTERVAL_S) == cpls(0, 1, 2, 3)


def test_a_requested_run_begins_now_and_spares_no_cpl() -> None:
    schedule = RefreshSchedule(table_with(0, 1), join_follow_ups=0)
    assert run_of(schedule, 0) == cpls(0, 1)
    assert run_of(schedule, 1) == []
    schedule.request()
    assert schedule.running is True
    assert run_of(schedule, 1) == cpls(0, 1)
    assert schedule.next(now(2)) == Wait(now(1 + REFRESH_INTERVAL_S))


def test_a_run_requested_during_a_run_follows_it() -> None:
    schedule = RefreshSchedule(table_with(0))
    assert schedule.next(now(0)) == SelfLookup()
    schedule.request()
    schedule.lookup_ended(now(0))
    assert run_of(schedule, 0) == [CplLookup(0), SelfLookup(), CplLookup(0)]
    assert schedule.runs == 2


@pytest.mark.conformance("c52")
def test_entries_silent_for_the_grace_time_are_probed_the_longest_silent_first() -> None:
    table = table_with(0, 1, at=0)
    table.add(peer_at_cpl(2), now(100))
    table.answered(peer_at_cpl(0), now(50))
    at = LIVENESS_GRACE_S + 51
    schedule = RefreshSchedule(table)
    assert schedule.next(now(at)) == LivenessProbe(peer_at_cpl(1))
    assert schedule.next(now(at)) == LivenessProbe(peer_at_cpl(0))
    assert schedule.next(now(at)) == SelfLookup()


@pytest.mark.conformance("c52")
def test_few_probes_are_out_at_once_and_none_twice() -> None:
    table = table_with(*range(5))
    schedule = RefreshSchedule(table, max_probes=2, join_lookups=1)
    at = LIVENESS_GRACE_S + 1
    assert schedule.next(now(at)) == LivenessProbe(peer_at_cpl(0))
    assert schedule.next(now(at)) == LivenessProbe(peer_at_cpl(1))
    assert schedule.next(now(at)) == SelfLookup()
    assert schedule.next(now(at)) == Wait(None)
    table.remove(peer_at_cpl(0))
    schedule.probe_ended(peer_at_cpl(0))
    assert schedule.next(now(at)) == LivenessProbe(peer_at_cpl(2))
    schedule.probe_ended(peer_at_cpl(2))
    table.remove(peer_at_cpl(3))
    assert schedule.next(now(at)) == LivenessProbe(peer_at_cpl(4))
    assert schedule.next(now(at)) == Wait(None)


def test_a_probe_still_out_in_the_next_run_is_not_repeated() -> None:
    table = table_with(0)
    schedule = RefreshSchedule(table)
    at = LIVENESS_GRACE_S + 1
    assert schedule.next(now(at)) == LivenessProbe(peer_at_cpl(0))
    schedule.request()
    schedule.next(now(at))
    schedule.lookup_ended(now(at))
    schedule.next(now(at))
    schedule.lookup_ended(now(at))
    assert schedule.next(now(at)) == SelfLookup()


def test_a_suspect_is_probed_before_the_next_run_once_and_only_if_it_is_in_the_table() -> None:
    schedule = RefreshSchedule(table_with(0), join_follow_ups=0)
    run_of(schedule, 0)
    schedule.suspect(peer_at_cpl(0))
    schedule.suspect(peer_at_cpl(0))
    schedule.suspect(peer_at_cpl(5))
    assert schedule.next(now(1)) == LivenessProbe(peer_at_cpl(0))
    assert schedule.next(now(1)) == Wait(now(REFRESH_INTERVAL_S))


# --- joining --------------------------------------------------------------------------------------


def lookups_out(schedule: RefreshSchedule, at: float) -> list[SelfLookup | CplLookup]:
    """The lookups that may begin at ``at``, none of which ends."""
    begun = []
    while not isinstance(step := schedule.next(now(at)), Wait):
        assert not isinstance(step, LivenessProbe)
        begun.append(step)
    return begun


def test_while_the_node_joins_a_few_lookups_are_out_at_once() -> None:
    schedule = RefreshSchedule(table_with(*range(9)))
    assert lookups_out(schedule, 0) == cpls(0, 1, 2)
    assert len(cpls(0, 1, 2)) == MAX_JOIN_LOOKUPS
    schedule.lookup_ended(now(1), CplLookup(1))
    assert lookups_out(schedule, 1) == [CplLookup(3)]
    schedule.lookup_ended(now(2), SelfLookup())
    assert lookups_out(schedule, 2) == [CplLookup(4)]


def test_the_depth_is_that_of_the_table_after_the_lookup_of_the_local_key() -> None:
    table = table_with(0)
    schedule = RefreshSchedule(table)
    assert lookups_out(schedule, 0) == cpls(0)
    for prefix in range(1, 4):
        table.add(peer_at_cpl(prefix), now(1))
    assert lookups_out(schedule, 1) == [CplLookup(1), CplLookup(2)]
    table.add(peer_at_cpl(4), now(2))
    schedule.lookup_ended(now(2), SelfLookup())
    schedule.lookup_ended(now(2), CplLookup(0))
    assert lookups_out(schedule, 2) == [CplLookup(3), CplLookup(4)]
    for prefix in range(1, 5):
        schedule.lookup_ended(now(3), CplLookup(prefix))
    assert lookups_out(schedule, 3) == []
    assert schedule.runs == 1


def test_a_join_looks_up_no_cpl_that_has_all_the_peers_it_can_have() -> None:
    table = RoutingTable(LOCAL, bucket_size=2)
    for prefix, nth in ((0, 0), (0, 1), (1, 0), (2, 0), (2, 1)):
        table.add(peer_at_cpl(prefix, nth), now(0))
    schedule = RefreshSchedule(table, join_lookups=4)
    assert lookups_out(schedule, 0) == cpls(1)


def test_a_node_that_has_joined_looks_up_one_after_the_other_and_full_cpls_too() -> None:
    table = RoutingTable(LOCAL, bucket_size=2)
    for prefix, nth in ((0, 0), (0, 1), (1, 0), (1, 1)):
        table.add(peer_at_cpl(prefix, nth), now(0))
    schedule = RefreshSchedule(table)
    run_of(schedule, 0)
    at = REFRESH_INTERVAL_S
    assert lookups_out(schedule, at) == [SelfLookup()]
    assert run_of(schedule, at) == []  # run_of ends it
    schedule.lookup_ended(now(at), SelfLookup())
    assert run_of(schedule, at) == [CplLookup(0), CplLookup(1)]


def test_cpls_beyond_the_kth_closest_are_spared_for_the_own_lookup_has_found_whoever_is_there() -> (
    None
):
    table = RoutingTable(LOCAL, bucket_size=2)
    for prefix in range(6):
        table.add(peer_at_cpl(prefix), now(0))
    schedule = RefreshSchedule(table, join_lookups=1)
    assert schedule.next(now(10)) == SelfLookup()
    for prefix in (3, 5):
        table.answered(peer_at_cpl(prefix), now(11))
    schedule.looked_up(LOCAL, now(11))
    schedule.lookup_ended(now(11))
    assert run_of(schedule, 11) == [CplLookup(prefix) for prefix in range(4)]


@pytest.mark.parametrize("why", ["it found fewer than k", "it failed"])
def test_an_own_lookup_that_found_too_few_spares_no_cpl(why: str) -> None:
    table = RoutingTable(LOCAL, bucket_size=2)
    for prefix in range(6):
        table.add(peer_at_cpl(prefix), now(0))
    schedule = RefreshSchedule(table, join_lookups=1)
    assert schedule.next(now(10)) == SelfLookup()
    table.answered(peer_at_cpl(5), now(11))
    if why == "it failed":
        table.answered(peer_at_cpl(3), now(11))
    else:
        schedule.looked_up(LOCAL, now(11))
    schedule.lookup_ended(now(11))
    assert run_of(schedule, 11) == [CplLookup(prefix) for prefix in range(6)]


def test_a_run_that_was_asked_for_lightly_spares_the_fresh_cpls() -> None:
    schedule = RefreshSchedule(table_with(0, 1))
    assert run_of(schedule, 0) == cpls(0, 1)
    schedule.request(all_cpls=False)
    assert schedule.running is True
    assert run_of(schedule, 1) == cpls()
    schedule.request()
    schedule.request(all_cpls=False)
    assert run_of(schedule, 2) == cpls(0, 1)


# --- the neighbourhood ----------------------------------------------------------------------------


def test_of_the_k_nearest_whoever_was_silent_during_a_run_is_probed_at_its_end() -> None:
    table = RoutingTable(LOCAL, bucket_size=2)
    for prefix in range(4):
        table.add(peer_at_cpl(prefix), now(0))
    schedule = RefreshSchedule(table, join_lookups=1)
    assert schedule.next(now(10)) == SelfLookup()
    table.answered(peer_at_cpl(3), now(11))
    table.answered(peer_at_cpl(0), now(11))
    schedule.lookup_ended(now(11))
    for prefix in range(4):
        assert schedule.next(now(12)) == CplLookup(prefix)
        schedule.lookup_ended(now(12))
    assert schedule.next(now(13)) == LivenessProbe(peer_at_cpl(2))
    assert schedule.next(now(13)) == Wait(now(10 + REFRESH_INTERVAL_S))


def joined() -> tuple[RefreshSchedule, RoutingTable]:
    """A node that has joined: a run is over. CPL 14 and 13 are the k nearest."""
    table = RoutingTable(LOCAL, bucket_size=2)
    for prefix in range(15):
        table.add(peer_at_cpl(prefix), now(0))
    schedule = RefreshSchedule(table)
    run_of(schedule, 0)
    run_of(schedule, 1)
    return schedule, table


def test_when_one_of_the_k_nearest_has_left_the_local_key_is_looked_up_again() -> None:
    schedule, table = joined()
    table.remove(peer_at_cpl(14))
    due = CLOSE_LOOKUP_INTERVAL_S
    assert schedule.next(now(10)) == Wait(now(due))
    assert run_of(schedule, due) == cpls()
    assert schedule.runs == 1
    assert schedule.next(now(due)) == Wait(now(REFRESH_INTERVAL_S))

    table.remove(peer_at_cpl(13))
    table.remove(peer_at_cpl(12))
    assert schedule.next(now(400)) == Wait(now(400 + CLOSE_LOOKUP_DELAY_S))
    assert run_of(schedule, 400 + CLOSE_LOOKUP_DELAY_S) == cpls()


def test_peers_farther_than_the_k_nearest_come_and_go_without_that() -> None:
    schedule, table = joined()
    table.remove(peer_at_cpl(0))
    table.remove(peer_at_cpl(1))
    table.add(peer_at_cpl(20), now(5))
    assert schedule.next(now(10)) == Wait(now(REFRESH_INTERVAL_S))


def test_who_leaves_while_the_local_key_is_looked_up_asks_for_no_other_lookup() -> None:
    schedule, table = joined()
    at = REFRESH_INTERVAL_S
    assert schedule.next(now(at)) == SelfLookup()
    table.remove(peer_at_cpl(14))
    assert schedule.next(now(at)) == Wait(None)
    schedule.lookup_ended(now(at))
    run_of(schedule, at)
    assert schedule.next(now(at)) == Wait(now(2 * at))


@pytest.mark.conformance("c51")
def test_who_enters_an_almost_empty_table_may_know_others_so_the_local_key_is_looked_up() -> None:
    table = table_with(0)
    schedule = RefreshSchedule(table, join_follow_ups=0)
    run_of(schedule, 0)
    assert schedule.next(now(1)) == Wait(now(REFRESH_INTERVAL_S))
    table.add(peer_at_cpl(1), now(300))
    assert schedule.next(now(300)) == Wait(now(300 + CLOSE_LOOKUP_DELAY_S))
    assert run_of(schedule, 310) == cpls()
    table.add(peer_at_cpl(2), now(320))
    assert schedule.next(now(320)) == Wait(now(310 + CLOSE_LOOKUP_INTERVAL_S))


def test_who_enters_a_table_of_enough_peers_asks_for_no_lookup() -> None:
    schedule, table = joined()
    table.add(peer_at_cpl(5, 1), now(300))
    assert schedule.next(now(300)) == Wait(now(REFRESH_INTERVAL_S))


# --- whoever joins at the same moment -------------------------------------------------------------


def own_key_lookups(schedule: RefreshSchedule, seconds: int) -> list[int]:
    """When the local key is looked up alone, until ``seconds``; each lookup ends at once."""
    times = []
    for at in range(seconds):
        lookups = run_of(schedule, at)
        if lookups == [SelfLookup()]:
            times.append(at)
    return times


def test_while_the_table_is_small_the_local_key_is_looked_up_again_ever_less_often() -> None:
    schedule = RefreshSchedule(table_with(0, 1))
    assert own_key_lookups(schedule, 500) == [3, 9, 21, 45, 93]
    assert schedule.runs == 1


def test_a_table_with_a_buckets_worth_needs_no_such_lookups() -> None:
    assert own_key_lookups(RefreshSchedule(table_with(*range(K))), 500) == []


def test_they_end_when_the_table_has_a_buckets_worth() -> None:
    table = table_with(*range(K - 1))
    schedule = RefreshSchedule(table)
    assert own_key_lookups(schedule, 12) == [3, 9]
    table.add(peer_at_cpl(K), now(12))
    assert [run_of(schedule, at) for at in (21, 45)] == [[SelfLookup()], []]


def test_an_ordinary_run_begins_none_of_them_and_one_that_was_asked_for_does() -> None:
    schedule = RefreshSchedule(table_with(0))
    own_key_lookups(schedule, 500)
    assert run_of(schedule, REFRESH_INTERVAL_S)[0] == SelfLookup()
    assert run_of(schedule, REFRESH_INTERVAL_S + 50) == []
    schedule.request()
    run_of(schedule, REFRESH_INTERVAL_S + 50)
    again = REFRESH_INTERVAL_S + 50 + JOIN_FOLLOW_UP_S
    assert [run_of(schedule, again - 1), run_of(schedule, again)] == [[], [SelfLookup()]]


def test_a_lookup_of_the_local_key_alone_is_no_run() -> None:
    schedule = RefreshSchedule(table_with(0))
    run_of(schedule, 0)
    assert schedule.next(now(JOIN_FOLLOW_UP_S)) == SelfLookup()
    assert schedule.running is False
    schedule.request()
    assert schedule.running is True
    schedule.lookup_ended(now(JOIN_FOLLOW_UP_S + 1))
    assert run_of(schedule, JOIN_FOLLOW_UP_S + 1) == cpls(0)
    assert schedule.runs == 2
