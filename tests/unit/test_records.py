"""Provider records one by one; tests/stateful/test_records_machine.py has what they do together."""

from __future__ import annotations

import pytest

from codio_dht.core.clock import UnixTime
from codio_dht.core.peer import PeerId
from codio_dht.core.records import AddOutcome, Flush, ProviderRecords, ProviderRow
from codio_dht.core.steps import Load
from codio_dht.core.unsaved import Unsaved
from codio_dht.params import (
    LOAD_RETRY_S,
    MAX_ADDRS_PER_PEER,
    MAX_RECORD_ADDR_BYTES,
    MAX_TRACKED_LOADS,
    PROVIDER_ADDR_TTL_S,
    PROVIDER_TTL_PUBLIC_S,
)

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


# --- taking and telling ---------------------------------------------------------------------------


def test_a_record_is_told_at_once_without_the_disk() -> None:
    records = ProviderRecords()

    assert records.add(KEY, peer(1), ADDRS, NOW) is AddOutcome.ADDED
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

    assert {AddOutcome.ADDED} == set(outcomes)
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

    assert records.add(KEY, peer(1), (), later(60)) is AddOutcome.REFRESHED
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


# --- loads ----------------------------------------------------------------------------------------


def on_disk(*rows: ProviderRow) -> ProviderRecords:
    records = ProviderRecords(ttl_s=1000.0)
    records.remember_keys([(row.key, 1) for row in rows])
    return records


def row(of: bytes, provider: PeerId, expires: UnixTime) -> ProviderRow:
    return ProviderRow(of, provider, ADDRS, NOW, expires, expires)


def test_a_key_on_disk_is_loaded_once_and_then_told_from_memory() -> None:
    stored = row(KEY, peer(1), later(100))
    records = on_disk(stored)

    assert Load(KEY) == records.get(KEY, NOW)
    records.loaded(KEY, [stored], NOW)
    assert (stored,) == records.get(KEY, NOW)
    assert records.get(KEY, later(100)) == ()


def test_records_taken_during_a_load_are_told_with_what_it_brings() -> None:
    stored = row(KEY, peer(1), later(100))
    records = on_disk(stored)
    records.get(KEY, NOW)
    records.add(KEY, peer(2), ADDRS, NOW)
    write_all(records)
    records.add(KEY, peer(3), ADDRS, NOW)
    records.loaded(KEY, [stored], NOW)

    assert [peer(1), peer(2), peer(3)] == providers(records, KEY)


def test_an_unreadable_key_is_told_from_memory_for_a_while_and_then_tried_again() -> None:
    records = on_disk(row(KEY, peer(1), later(100)))
    records.get(KEY, NOW)
    records.load_failed(KEY, NOW)
    records.add(KEY, peer(2), ADDRS, NOW)

    assert [peer(2)] == providers(records, KEY, later(LOAD_RETRY_S - 1))
    assert Load(KEY) == records.get(KEY, later(LOAD_RETRY_S))


def test_unasked_for_and_repeated_loads_are_harmless() -> None:
    stored = row(KEY, peer(1), later(100))
    records = on_disk(stored)
    records.loaded(KEY, [stored], NOW)
    records.add(KEY, peer(2), ADDRS, NOW)
    write_all(records)
    records.loaded(KEY, [stored], NOW)  # from before the write
    records.load_failed(KEY, NOW)

    assert [peer(1), peer(2)] == providers(records, KEY)


def test_keys_asked_for_long_ago_leave_the_cache_and_are_loaded_again() -> None:
    records = ProviderRecords(max_cached_bytes=20_000)
    records.remember_keys([(key(number), 1) for number in range(100)])
    for number in range(100):
        records.loaded(key(number), [row(key(number), peer(1), later(9))], NOW)
        records.get(key(0), NOW)  # asked for all the time

    stats = records.stats()
    assert stats.cached_bytes <= 20_000
    assert 1 < stats.cached_keys < 20
    assert [peer(1)] == providers(records, key(0))
    assert Load(key(1)) == records.get(key(1), NOW)


def test_loads_under_way_are_bounded() -> None:
    records = ProviderRecords()
    records.remember_keys([(key(number), 1) for number in range(2 * MAX_TRACKED_LOADS)])
    for number in range(2 * MAX_TRACKED_LOADS):
        assert Load(key(number)) == records.get(key(number), NOW)

    assert records.stats().loading == MAX_TRACKED_LOADS


# --- bounds ---------------------------------------------------------------------------------------


def test_a_full_key_takes_no_new_provider_but_every_refresh() -> None:
    records = ProviderRecords(max_per_key=3)
    for number in range(3):
        records.add(KEY, peer(number), ADDRS, NOW)

    assert records.add(KEY, peer(9), ADDRS, NOW) is AddOutcome.REFUSED_KEY_FULL
    records.get(KEY, NOW)  # now it is in the cache
    assert records.add(KEY, peer(9), ADDRS, NOW) is AddOutcome.REFUSED_KEY_FULL
    assert records.add(KEY, peer(0), ADDRS, NOW) is AddOutcome.REFRESHED
    assert {3} == {batch.max_per_key for batch in [records.take_flush()] if batch}


def test_a_provider_refreshed_while_it_is_being_written_counts_once() -> None:
    records = ProviderRecords(max_per_key=3)
    for number in range(2):
        records.add(KEY, peer(number), ADDRS, NOW)
    records.take_flush()

    assert records.add(KEY, peer(0), ADDRS, NOW) is AddOutcome.REFRESHED
    assert records.add(KEY, peer(2), ADDRS, NOW) is AddOutcome.ADDED
    assert records.add(KEY, peer(3), ADDRS, NOW) is AddOutcome.REFUSED_KEY_FULL


def test_full_records_take_no_new_record_but_every_refresh() -> None:
    records = ProviderRecords(max_records=2)
    records.add(key(0), peer(0), ADDRS, NOW)
    records.add(key(1), peer(0), ADDRS, NOW)

    assert records.add(key(2), peer(0), ADDRS, NOW) is AddOutcome.REFUSED_FULL
    assert records.add(key(1), peer(0), (), NOW) is AddOutcome.REFRESHED
    write_all(records)
    assert records.add(key(2), peer(0), ADDRS, NOW) is AddOutcome.REFUSED_FULL
    assert records.get(key(2), NOW) == ()


def test_when_full_what_may_be_a_refresh_is_written_only_where_it_is_one() -> None:
    records = ProviderRecords(max_records=1)
    records.remember_keys([(KEY, 1)])

    assert records.add(KEY, peer(1), ADDRS, NOW) is AddOutcome.REFRESHED
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
    assert records.add(key(2), peer(0), ADDRS, NOW) is AddOutcome.ADDED


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

    assert [AddOutcome.ADDED] * 10 + [AddOutcome.REFUSED_FULL] * 20 == outcomes
    assert records.stats().unsaved == 10
    assert [peer(0)] == providers(records, key(3))
    assert [key(number) for number in range(10)] == [each.key for each in write_all(records)]
    assert records.add(key(29), peer(0), ADDRS, NOW) is AddOutcome.ADDED


def test_unsaved_records_are_bounded_in_bytes_also_when_they_are_replaced() -> None:
    records = ProviderRecords(unsaved=Unsaved(max_bytes=8_000))
    small = [records.add(key(n), peer(0), (), NOW) for n in range(20)]
    taken = small.count(AddOutcome.ADDED)
    big = tuple(bytes([n]) * 1000 for n in range(3))

    assert 8 < taken < 14
    assert records.add(key(0), peer(0), big, NOW) is AddOutcome.REFUSED_FULL
    assert records.add(key(0), peer(0), (), NOW) is AddOutcome.REFRESHED


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


def test_without_the_stores_count_a_record_of_a_known_key_is_taken_for_a_refresh() -> None:
    records = ProviderRecords()
    for _ in range(3):
        records.add(KEY, peer(0), ADDRS, NOW)
        batch = records.take_flush()
        assert batch is not None
        records.flushed(batch)

    assert len(records) == 1


def test_a_record_too_many_in_one_key_on_disk_is_not_told_once_that_is_known() -> None:
    records = ProviderRecords(max_per_key=2)
    stored = [row(KEY, peer(number), later(100)) for number in range(2)]
    records.remember_keys([(KEY, 2)])
    assert records.add(KEY, peer(9), ADDRS, NOW) is AddOutcome.ADDED  # only the store could tell
    records.loaded(KEY, stored, NOW)

    assert [peer(0), peer(1)] == providers(records, KEY)


# --- the filter -----------------------------------------------------------------------------------


def test_a_rebuilt_filter_forgets_what_is_gone_and_knows_what_came_meanwhile() -> None:
    records = ProviderRecords(ttl_s=10.0)
    records.remember_keys([(key(number), 1) for number in range(3_000)])
    assert not records.rebuild_due()
    records.expired([key(number) for number in range(2_900)])
    assert records.rebuild_due()

    rebuilt = records.begin_rebuild()
    for number in range(2_900, 3_000):
        rebuilt.add(key(number), 1)
    records.add(KEY, peer(0), ADDRS, NOW)
    write_all(records)
    assert records.finish_rebuild(rebuilt)

    assert not records.rebuild_due()
    assert len(records) == 101
    assert sum(records.get(key(number), NOW) == () for number in range(2_900)) > 2_850
    assert Load(KEY) == records.get(KEY, NOW)
    assert not records.finish_rebuild(rebuilt)


def test_a_rebuild_that_is_overtaken_by_too_much_is_given_up() -> None:
    records = ProviderRecords(unsaved=Unsaved(max_rows=10**9, max_bytes=10**9, batch_rows=10**9))
    rebuilt = records.begin_rebuild()
    for number in range(66_000):
        records.add(key(number), peer(0), (), NOW)
    write_all(records)

    assert not records.finish_rebuild(rebuilt)
    assert Load(key(0)) == records.get(key(0), NOW)


def test_outcomes_are_counted() -> None:
    records = ProviderRecords(max_per_key=1)
    for number in (1, 1, 2):
        records.add(KEY, peer(number), ADDRS, NOW)

    assert {"added": 1, "refreshed": 1, "refused_key_full": 1} == records.stats().outcomes
