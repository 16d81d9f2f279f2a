"""Provider records one by one; tests/stateful/test_records_machine.py has what they do together."""

from __future__ import annotations

import pytest

from codio_dht.core.clock import CLOCK_TOLERANCE_S, UnixTime
from codio_dht.core.keyspace import key_of
from codio_dht.core.peer import PeerId
from codio_dht.core.records import (
    CHANGES_CHECK_S,
    LOAD_RETRY_S,
    MAX_RECORD_ADDR_BYTES,
    MAX_TRACKED_LOADS,
    REBUILD_REST_S,
    Flush,
    ProviderRecords,
    ProviderRow,
    RecordOutcome,
)
from codio_dht.core.steps import Load, LoadKind
from codio_dht.core.unsaved import Unsaved
from codio_dht.params import MAX_ADDRS_PER_PEER, PROVIDER_ADDR_TTL_S, PROVIDER_TTL_PUBLIC_S

KEY = b"\x12\x03key"
ADDRS = (b"\x04\x01\x02\x03\x04",)
NOW = UnixTime(1e9)


def peer(number: int) -> PeerId:
    return PeerId(b"\x00\x02" + number.to_bytes(2, "big"))


def key(number: int) -> bytes:
    return b"\x12\x04" + number.to_bytes(4, "big")


def later(seconds: float) -> UnixTime:
    return UnixTime(NOW + seconds)


def rows_of(
    records: ProviderRecords, of: bytes = KEY, now: UnixTime = NOW
) -> tuple[ProviderRow, ...]:
    rows = records.get(of, now)
    assert not isinstance(rows, Load)
    return rows


def providers(records: ProviderRecords, of: bytes, now: UnixTime = NOW) -> list[PeerId]:
    return [row.provider for row in rows_of(records, of, now)]


def write_all(records: ProviderRecords) -> list[ProviderRow]:
    """Everything unsaved, as a disk that had none of it would report it."""
    written: list[ProviderRow] = []
    while (batch := records.take_flush()) is not None:
        written += batch.rows
        records.flushed(batch, len(batch.rows))
    return written


def load_of(of: bytes) -> Load:
    return Load(LoadKind.PROVIDERS, of)


# --- taking and telling ---------------------------------------------------------------------------


def test_a_record_is_told_at_once_without_the_disk() -> None:
    records = ProviderRecords()

    assert records.add(KEY, peer(1), ADDRS, NOW) is RecordOutcome.ADDED
    assert [peer(1)] == providers(records, KEY)
    assert len(records) == 1


def test_a_key_without_records_never_costs_a_read() -> None:
    records = ProviderRecords()
    records.add(KEY, peer(1), ADDRS, NOW)
    write_all(records)

    assert all(records.get(key(number), NOW) == () for number in range(100))


def test_thousands_of_records_back_to_back_are_all_taken_and_all_written() -> None:
    records = ProviderRecords()
    outcomes = [records.add(key(number), peer(1), ADDRS, NOW) for number in range(20_000)]

    assert {RecordOutcome.ADDED} == set(outcomes)
    assert {key(number) for number in range(20_000)} == {row.key for row in write_all(records)}
    assert len(records) == 20_000
    assert records.stats().unsaved == 0


@pytest.mark.conformance("c22")
def test_the_addresses_of_a_record_expire_before_it_does() -> None:
    records = ProviderRecords(ttl_s=PROVIDER_TTL_PUBLIC_S)
    records.add(KEY, peer(1), ADDRS, NOW)

    (row,) = rows_of(records, now=later(PROVIDER_TTL_PUBLIC_S - 1))
    assert later(PROVIDER_ADDR_TTL_S) == row.addrs_expire
    assert later(PROVIDER_TTL_PUBLIC_S) == row.expires
    assert records.get(KEY, later(PROVIDER_TTL_PUBLIC_S)) == ()


def test_addresses_never_outlive_their_record() -> None:
    records = ProviderRecords(ttl_s=10.0)
    records.add(KEY, peer(1), ADDRS, NOW)

    (row,) = rows_of(records)
    assert row.expires == row.addrs_expire


def test_a_refresh_replaces_addresses_and_times() -> None:
    records = ProviderRecords(ttl_s=100.0)
    records.add(KEY, peer(1), ADDRS, NOW)
    (first,) = rows_of(records)

    assert records.add(KEY, peer(1), (), later(60)) is RecordOutcome.REFRESHED
    (second,) = rows_of(records, now=later(120))
    assert (ADDRS, later(100)) == (first.addrs, first.expires)  # nobody changes what was told
    assert ((), later(160)) == (second.addrs, second.expires)


def test_the_same_tuple_is_told_until_something_changes() -> None:
    records = ProviderRecords(ttl_s=100.0)
    records.add(KEY, peer(1), ADDRS, NOW)
    first = records.get(KEY, NOW)

    assert first is records.get(KEY, later(99))
    records.add(KEY, peer(2), ADDRS, NOW)
    assert [peer(1), peer(2)] == providers(records, KEY)


def test_a_records_addresses_are_bounded_in_number_and_bytes() -> None:
    records = ProviderRecords()
    records.add(KEY, peer(1), tuple(bytes([n]) for n in range(200)), NOW)
    records.add(KEY, peer(2), tuple(bytes([n]) * 1000 for n in range(20)), NOW)

    many, big = rows_of(records)
    assert len(many.addrs) == MAX_ADDRS_PER_PEER
    assert sum(map(len, big.addrs)) <= MAX_RECORD_ADDR_BYTES < sum(map(len, big.addrs)) + 1000


# --- a clock that was wrong -----------------------------------------------------------------------

DAY_S = 24 * 3600.0
TEN_YEARS_S = 3_652 * DAY_S


def test_a_record_taken_while_the_clock_was_ahead_is_not_told_once_it_is_right() -> None:
    records = ProviderRecords(ttl_s=2 * DAY_S)
    records.add(KEY, peer(1), ADDRS, later(TEN_YEARS_S))
    records.add(KEY, peer(2), ADDRS, NOW)

    assert [peer(1)] == providers(records, KEY, later(TEN_YEARS_S))
    for day in (0, 1, 3_000, 3_640):
        assert peer(1) not in providers(records, KEY, later(day * DAY_S))
    assert [peer(2)] == providers(records, KEY)


def test_it_is_not_told_either_when_it_comes_from_the_store() -> None:
    ahead = row(KEY, peer(1), later(TEN_YEARS_S))
    records = on_disk(ahead)
    records.get(KEY, NOW)
    records.loaded(KEY, [ahead], NOW)

    assert providers(records, KEY) == []
    assert providers(records, KEY, later(3_000 * DAY_S)) == []


def test_its_provider_is_told_again_when_it_provides_again() -> None:
    records = ProviderRecords(ttl_s=2 * DAY_S)
    records.add(KEY, peer(1), ADDRS, later(TEN_YEARS_S))
    assert providers(records, KEY) == []

    assert records.add(KEY, peer(1), ADDRS, NOW) is RecordOutcome.REFRESHED
    assert [peer(1)] == providers(records, KEY)
    assert providers(records, KEY, later(2 * DAY_S)) == []


def test_a_clock_that_is_set_back_a_little_loses_no_record() -> None:
    records = ProviderRecords(ttl_s=2 * DAY_S)
    records.add(KEY, peer(1), ADDRS, NOW)

    assert [peer(1)] == providers(records, KEY, later(-CLOCK_TOLERANCE_S))
    assert providers(records, KEY, later(-CLOCK_TOLERANCE_S - 1)) == []
    assert [peer(1)] == providers(records, KEY)  # the clock was right before


def test_the_store_is_told_how_late_a_record_can_expire() -> None:
    records = ProviderRecords(ttl_s=2 * DAY_S)
    assert later(2 * DAY_S + CLOCK_TOLERANCE_S) == records.latest_expiry(NOW)


def test_a_clock_that_is_set_back_holds_up_no_second_try_of_an_unreadable_key() -> None:
    records = on_disk(row(KEY, peer(1), later(100)))
    records.get(KEY, later(TEN_YEARS_S))
    records.load_failed(KEY, later(TEN_YEARS_S))

    assert load_of(KEY) == records.get(KEY, NOW)


def test_a_clock_that_is_set_back_holds_up_no_look_for_changes() -> None:
    records = ProviderRecords()
    stored(records, [KEY], changes=7)
    records.get(KEY, later(TEN_YEARS_S))
    records.loaded(KEY, [], later(TEN_YEARS_S), 7)

    assert load_of(KEY) == records.get(KEY, NOW)


# --- loads ----------------------------------------------------------------------------------------


def on_disk(*rows: ProviderRow) -> ProviderRecords:
    records = ProviderRecords(ttl_s=1000.0)
    stored(records, [row.key for row in rows])
    return records


def stored(records: ProviderRecords, keys: list[bytes], changes: int | None = None) -> None:
    """The store has these keys, with a row each, and the filter of them has been built."""
    records.opened(len(keys), changes)
    rebuilt = records.begin_rebuild()
    for each in keys:
        rebuilt.add(key_of(each), 1)
    assert records.finish_rebuild(rebuilt)


def row(of: bytes, provider: PeerId, expires: UnixTime) -> ProviderRow:
    return ProviderRow(of, provider, ADDRS, NOW, expires, expires)


def test_a_key_on_disk_is_loaded_once_and_then_told_from_memory() -> None:
    kept = row(KEY, peer(1), later(100))
    records = on_disk(kept)

    assert load_of(KEY) == records.get(KEY, NOW)
    records.loaded(KEY, [kept], NOW)
    assert (kept,) == records.get(KEY, NOW)
    assert records.get(KEY, later(100)) == ()


def test_records_taken_during_a_load_are_told_with_what_it_brings() -> None:
    kept = row(KEY, peer(1), later(100))
    records = on_disk(kept)
    records.get(KEY, NOW)
    records.add(KEY, peer(2), ADDRS, NOW)
    write_all(records)
    records.add(KEY, peer(3), ADDRS, NOW)
    records.loaded(KEY, [kept], NOW)

    assert [peer(1), peer(2), peer(3)] == providers(records, KEY)


def test_an_unreadable_key_is_told_from_memory_for_a_while_and_then_tried_again() -> None:
    records = on_disk(row(KEY, peer(1), later(100)))
    records.get(KEY, NOW)
    records.load_failed(KEY, NOW)
    records.add(KEY, peer(2), ADDRS, NOW)

    assert [peer(2)] == providers(records, KEY, later(LOAD_RETRY_S - 1))
    assert load_of(KEY) == records.get(KEY, later(LOAD_RETRY_S))


def test_unasked_for_and_repeated_loads_are_harmless() -> None:
    kept = row(KEY, peer(1), later(100))
    records = on_disk(kept)
    records.loaded(KEY, [kept], NOW)
    records.add(KEY, peer(2), ADDRS, NOW)
    write_all(records)
    records.loaded(KEY, [kept], NOW)  # from before the write
    records.load_failed(KEY, NOW)

    assert [peer(1), peer(2)] == providers(records, KEY)


def test_keys_asked_for_long_ago_leave_the_cache_and_are_loaded_again() -> None:
    records = ProviderRecords(max_cached_bytes=20_000)
    stored(records, [key(number) for number in range(100)])
    for number in range(100):
        records.loaded(key(number), [row(key(number), peer(1), later(9))], NOW)
        records.get(key(0), NOW)  # asked for all the time

    stats = records.stats()
    assert stats.cached_bytes <= 20_000
    assert 1 < stats.cached_keys < 20
    assert [peer(1)] == providers(records, key(0))
    assert load_of(key(1)) == records.get(key(1), NOW)


def test_a_key_in_the_cache_that_gets_many_providers_pushes_others_out() -> None:
    records = ProviderRecords(max_cached_bytes=20_000, max_per_key=1_000)
    stored(records, [key(number) for number in range(10)])
    for number in range(10):
        records.loaded(key(number), [row(key(number), peer(1), later(9))], NOW)
    kept = records.stats().cached_keys
    for number in range(2, 200):
        records.add(key(9), peer(number), ADDRS, NOW)

    stats = records.stats()
    assert kept == 10
    assert stats.cached_keys < kept
    assert stats.cached_bytes <= 20_000 or stats.cached_keys == 1


def test_loads_under_way_are_bounded() -> None:
    records = ProviderRecords()
    stored(records, [key(number) for number in range(2 * MAX_TRACKED_LOADS)])
    for number in range(2 * MAX_TRACKED_LOADS):
        assert load_of(key(number)) == records.get(key(number), NOW)

    assert records.stats().loading == MAX_TRACKED_LOADS


# --- bounds ---------------------------------------------------------------------------------------


def test_a_full_key_takes_no_new_provider_but_every_refresh() -> None:
    records = ProviderRecords(max_per_key=3)
    for number in range(3):
        records.add(KEY, peer(number), ADDRS, NOW)

    assert records.add(KEY, peer(9), ADDRS, NOW) is RecordOutcome.REFUSED_KEY_FULL
    records.get(KEY, NOW)  # now it is in the cache
    assert records.add(KEY, peer(9), ADDRS, NOW) is RecordOutcome.REFUSED_KEY_FULL
    assert records.add(KEY, peer(0), ADDRS, NOW) is RecordOutcome.REFRESHED
    assert {3} == {batch.max_per_key for batch in [records.take_flush()] if batch}


def test_a_provider_refreshed_while_it_is_being_written_counts_once() -> None:
    records = ProviderRecords(max_per_key=3)
    for number in range(2):
        records.add(KEY, peer(number), ADDRS, NOW)
    records.take_flush()

    assert records.add(KEY, peer(0), ADDRS, NOW) is RecordOutcome.REFRESHED
    assert records.add(KEY, peer(2), ADDRS, NOW) is RecordOutcome.ADDED
    assert records.add(KEY, peer(3), ADDRS, NOW) is RecordOutcome.REFUSED_KEY_FULL


def test_full_records_take_no_new_record_but_every_refresh() -> None:
    records = ProviderRecords(max_records=2)
    records.add(key(0), peer(0), ADDRS, NOW)
    records.add(key(1), peer(0), ADDRS, NOW)

    assert records.add(key(2), peer(0), ADDRS, NOW) is RecordOutcome.REFUSED_FULL
    assert records.add(key(1), peer(0), (), NOW) is RecordOutcome.REFRESHED
    write_all(records)
    assert records.add(key(2), peer(0), ADDRS, NOW) is RecordOutcome.REFUSED_FULL
    assert records.get(key(2), NOW) == ()


def test_when_full_what_may_be_a_refresh_is_written_only_where_it_is_one() -> None:
    records = ProviderRecords(max_records=1)
    stored(records, [KEY])

    assert records.add(KEY, peer(1), ADDRS, NOW) is RecordOutcome.REFRESHED
    batch = records.take_flush()
    assert batch is not None
    assert ([peer(1)], 0) == ([each.provider for each in batch.rows], batch.max_per_key)


def test_deleted_records_make_room_again() -> None:
    records = ProviderRecords(max_records=2)
    for number in range(2):
        records.add(key(number), peer(0), ADDRS, NOW)
    write_all(records)
    records.expired([key(0)])

    assert len(records) == 1
    assert records.add(key(2), peer(0), ADDRS, NOW) is RecordOutcome.ADDED


def test_while_nothing_can_be_written_unsaved_records_stop_at_their_bound_and_none_is_lost() -> (
    None
):
    records = ProviderRecords(unsaved=Unsaved(max_rows=10, batch_rows=4))
    outcomes = []
    for number in range(30):
        outcomes.append(records.add(key(number), peer(0), ADDRS, NOW))
        batch = records.take_flush()
        if batch is not None:
            records.flush_failed(batch)

    assert [RecordOutcome.ADDED] * 10 + [RecordOutcome.REFUSED_FULL] * 20 == outcomes
    assert records.stats().unsaved == 10
    assert [peer(0)] == providers(records, key(3))
    assert [key(number) for number in range(10)] == [each.key for each in write_all(records)]
    assert records.add(key(29), peer(0), ADDRS, NOW) is RecordOutcome.ADDED


def test_unsaved_records_are_bounded_in_bytes_also_when_they_are_replaced() -> None:
    records = ProviderRecords(unsaved=Unsaved(max_bytes=8_000))
    small = [records.add(key(n), peer(0), (), NOW) for n in range(20)]
    taken = small.count(RecordOutcome.ADDED)
    big = tuple(bytes([n]) * 1000 for n in range(3))

    assert 8 < taken < 14
    assert records.add(key(0), peer(0), big, NOW) is RecordOutcome.REFUSED_FULL
    assert records.add(key(0), peer(0), (), NOW) is RecordOutcome.REFRESHED


# --- writes ---------------------------------------------------------------------------------------


def test_a_batch_that_failed_is_taken_again_before_anything_younger() -> None:
    records = ProviderRecords(unsaved=Unsaved(batch_rows=2))
    for number in range(3):
        records.add(key(number), peer(0), ADDRS, NOW)
    first = records.take_flush()
    assert first is not None
    assert records.take_flush() is None
    records.add(key(0), peer(0), (), NOW)  # refreshed while it was being written
    records.flush_failed(first)

    assert first is records.take_flush()
    records.flushed(first, 2)
    rest = write_all(records)
    assert [(key(2), ADDRS), (key(0), ())] == [(each.key, each.addrs) for each in rest]


def test_reports_of_other_batches_are_no_ops() -> None:
    records = ProviderRecords()
    records.add(KEY, peer(0), ADDRS, NOW)
    stranger = Flush((), 1)
    records.flushed(stranger, 0)
    records.flush_failed(stranger)
    batch = records.take_flush()
    assert batch is not None
    records.flushed(stranger, 0)
    records.flushed(batch, 1)
    records.flushed(batch, 1)

    assert len(records) == 1
    assert records.take_flush() is None


def test_a_record_too_many_in_one_key_on_disk_is_not_told_once_that_is_known() -> None:
    records = ProviderRecords(max_per_key=2)
    rows = [row(KEY, peer(number), later(100)) for number in range(2)]
    stored(records, [KEY])
    assert records.add(KEY, peer(9), ADDRS, NOW) is RecordOutcome.ADDED  # only the store could tell
    records.loaded(KEY, rows, NOW)

    assert [peer(0), peer(1)] == providers(records, KEY)


# --- the filter -----------------------------------------------------------------------------------


def test_a_rebuilt_filter_forgets_what_is_gone_and_knows_what_came_meanwhile() -> None:
    records = ProviderRecords(ttl_s=10.0)
    stored(records, [key(number) for number in range(3_000)])
    assert not records.rebuild_due(NOW)
    records.expired([key(number) for number in range(2_900)])
    assert records.rebuild_due(NOW)

    rebuilt = records.begin_rebuild()
    for number in range(2_900, 3_000):
        rebuilt.add(key_of(key(number)), 1)
    records.add(KEY, peer(0), ADDRS, NOW)
    write_all(records)
    assert records.finish_rebuild(rebuilt)

    assert not records.rebuild_due(NOW)
    assert len(records) == 101
    assert sum(records.get(key(number), NOW) == () for number in range(2_900)) > 2_850
    assert load_of(KEY) == records.get(KEY, NOW)
    assert not records.finish_rebuild(rebuilt)


def test_keys_written_during_a_rebuild_can_be_handed_over_piece_by_piece() -> None:
    records = ProviderRecords()
    rebuilt = records.begin_rebuild()
    assert list(records.take_written()) == []
    for number in range(3):
        records.add(key(number), peer(0), (), NOW)
        write_all(records)
        assert list(records.take_written()) == [key_of(key(number))]
        rebuilt.add(key_of(key(number)))
    records.add(key(3), peer(0), (), NOW)
    write_all(records)
    assert records.finish_rebuild(rebuilt)

    assert all(isinstance(records.get(key(number), NOW), Load) for number in range(4))
    assert records.get(key(4), NOW) == ()
    assert list(records.take_written()) == []


def test_after_a_start_any_key_may_be_on_disk_until_the_filter_is_built() -> None:
    records = ProviderRecords(max_records=2)
    records.opened(2)

    assert records.rebuild_due(NOW)
    assert load_of(KEY) == records.get(KEY, NOW)
    assert len(records) == 2
    assert records.add(KEY, peer(1), ADDRS, NOW) is RecordOutcome.REFRESHED  # if it is one
    records.loaded(KEY, [], NOW)
    assert records.get(KEY, NOW) == ()  # the store had none, so it will not be written


def test_an_empty_store_needs_no_filter() -> None:
    records = ProviderRecords()
    records.opened(0)

    assert not records.rebuild_due(NOW)
    assert records.get(KEY, NOW) == ()


# --- other processes on the same store ------------------------------------------------------------


def test_what_another_process_writes_is_told_once_the_store_was_asked_for_changes() -> None:
    mine, theirs = row(KEY, peer(1), later(1000)), row(KEY, peer(2), later(1000))
    records = ProviderRecords()
    stored(records, [KEY], changes=7)
    records.get(KEY, NOW)
    records.loaded(KEY, [mine], NOW, 7)

    assert (mine,) == records.get(KEY, later(CHANGES_CHECK_S - 1))
    assert load_of(KEY) == records.get(KEY, later(CHANGES_CHECK_S))
    assert (mine,) == records.get(KEY, later(CHANGES_CHECK_S))  # one asks, the others are answered
    records.loaded(KEY, [mine, theirs], later(CHANGES_CHECK_S), 8)
    assert (mine, theirs) == records.get(KEY, later(CHANGES_CHECK_S))


def test_a_key_that_another_process_added_is_denied_no_longer_than_the_interval() -> None:
    theirs = row(key(2), peer(2), later(1000))
    records = ProviderRecords()
    stored(records, [KEY], changes=7)
    records.get(KEY, NOW)
    records.loaded(KEY, [], NOW, 7)

    assert records.get(key(2), NOW) == ()
    assert load_of(key(1)) == records.get(key(1), later(CHANGES_CHECK_S))
    records.loaded(key(1), [], later(CHANGES_CHECK_S), 8)
    assert load_of(key(2)) == records.get(key(2), later(CHANGES_CHECK_S))
    records.loaded(key(2), [theirs], later(CHANGES_CHECK_S), 8)
    assert (theirs,) == records.get(key(2), later(CHANGES_CHECK_S))
    assert records.get(key(1), later(CHANGES_CHECK_S)) == ()  # read since, and remembered


def test_as_long_as_nobody_else_writes_the_cache_and_the_filter_are_believed() -> None:
    records = ProviderRecords()
    stored(records, [KEY], changes=7)
    records.get(KEY, NOW)
    records.loaded(KEY, [row(KEY, peer(1), later(1000))], NOW, 7)
    asked = 0
    for second in range(100):
        for each in (KEY, key(1), key(2)):
            if isinstance(records.get(each, later(second)), Load):
                records.loaded(each, [], later(second), 7)
                asked += 1
    assert asked == 100 / CHANGES_CHECK_S - 1
    assert [peer(1)] == providers(records, KEY, later(99))


def test_nothing_is_asked_of_a_store_that_nobody_else_can_write_to() -> None:
    records = ProviderRecords()
    stored(records, [KEY])
    records.get(KEY, NOW)
    records.loaded(KEY, [row(KEY, peer(1), later(1000))], NOW)

    assert [peer(1)] == providers(records, KEY, later(900))
    assert records.get(key(1), later(900)) == ()


def test_the_filter_is_built_anew_once_the_others_are_quiet() -> None:
    records = ProviderRecords()
    stored(records, [KEY], changes=7)
    rebuilt = records.begin_rebuild()
    records.get(KEY, NOW)
    records.loaded(KEY, [], NOW, 8)

    assert not records.finish_rebuild(rebuilt)
    assert not records.rebuild_due(later(REBUILD_REST_S - 1))
    assert records.rebuild_due(later(REBUILD_REST_S))
    assert records.rebuild_due(later(-1))  # the clock was set back


def test_a_full_key_of_a_stale_cache_refuses_nobody() -> None:
    records = ProviderRecords(max_per_key=1)
    stored(records, [KEY], changes=7)
    records.get(KEY, NOW)
    records.loaded(KEY, [row(KEY, peer(1), later(1000))], NOW, 7)
    assert records.add(KEY, peer(2), ADDRS, NOW) is RecordOutcome.REFUSED_KEY_FULL
    records.get(key(1), later(CHANGES_CHECK_S))
    records.loaded(key(1), [], later(CHANGES_CHECK_S), 8)

    assert records.add(KEY, peer(2), ADDRS, later(CHANGES_CHECK_S)) is RecordOutcome.ADDED


def test_outcomes_are_counted() -> None:
    records = ProviderRecords(max_per_key=1)
    for number in (1, 1, 2):
        records.add(KEY, peer(number), ADDRS, NOW)

    assert {"added": 1, "refreshed": 1, "refused_key_full": 1} == records.stats().outcomes
