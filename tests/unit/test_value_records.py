"""Values of others: what is taken, how long it is told, what leaves when there is no more room."""

from __future__ import annotations

import pytest

from codio_dht.core.clock import CLOCK_TOLERANCE_S, UnixTime
from codio_dht.core.keyspace import Key, distance, key_of
from codio_dht.core.messages import Record
from codio_dht.core.records import LOAD_RETRY_S
from codio_dht.core.steps import Load, LoadKind, Refuse
from codio_dht.core.validation import Check, Verdict
from codio_dht.core.value_records import (
    MAX_VALUE_AGE_S,
    MAX_VALUE_BYTES,
    MAX_VALUE_KEY_BYTES,
    ValueFlush,
    ValueRecords,
    ValueRow,
)
from value_fakes import make_validators

NOW = UnixTime(1_700_000_000.0)
KEY = b"/v/\xffkey"
LOCAL = Key(0)


def at(seconds: float) -> UnixTime:
    return UnixTime(NOW + seconds)


def machine(**more) -> ValueRecords:
    return ValueRecords(LOCAL, make_validators(), **more)


def put(records: ValueRecords, value: bytes, now: UnixTime = NOW, key: bytes = KEY):
    return records.put(key, Record(key, value, "1999-01-01T00:00:00Z"), now)


def flush(records: ValueRecords) -> ValueFlush:
    batch = records.take_flush()
    assert batch is not None
    records.flushed(batch)
    return batch


@pytest.mark.conformance("c26")
def test_what_was_put_is_told_with_the_moment_at_which_it_arrived_here() -> None:
    records = machine()
    taken = put(records, b"1:a")
    assert taken == Record(KEY, b"1:a", "2023-11-14T22:13:20.000000000Z")
    assert records.get(KEY, at(5)) == taken


@pytest.mark.conformance("c23")
@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (b"/other/x", b"1:", "unknown namespace"),
        (b"v", b"1:", "unknown namespace"),
        (KEY, b"x", "invalid value"),
        (b"/v/" + bytes(MAX_VALUE_KEY_BYTES), b"1:", "value key too long"),
        (KEY, b"1:" + bytes(MAX_VALUE_BYTES), "value too long"),
    ],
)
def test_what_is_not_valid_is_refused_and_nothing_is_held(key, value, reason) -> None:
    records = machine()
    assert put(records, value, key=key) == Refuse(reason)
    assert records.get(key, NOW) is None
    assert (len(records), records.take_flush()) == (0, None)
    assert records.stats().outcomes == {reason: 1}


@pytest.mark.conformance("c24")
def test_a_worse_value_is_refused_an_equal_and_a_better_one_are_taken() -> None:
    records = machine()
    put(records, b"2:a")
    assert put(records, b"1:a") == Refuse("older than the value held")
    assert isinstance(put(records, b"2:a", at(9)), Record)
    assert isinstance(put(records, b"2:b", at(9)), Record)
    assert isinstance(put(records, b"3:a", at(9)), Record)
    held = records.get(KEY, at(9))
    assert isinstance(held, Record)
    assert held.value == b"3:a"


@pytest.mark.conformance("c24")
def test_a_check_says_what_a_put_would_and_holds_nothing() -> None:
    records = machine()
    assert records.check(KEY, Record(KEY, b"2:"), NOW) is None
    assert (len(records), records.take_flush(), records.get(KEY, NOW)) == (0, None, None)
    put(records, b"2:")
    for value in (b"1:", b"bad"):
        refusal = records.check(KEY, Record(KEY, value), NOW)
        assert isinstance(refusal, Refuse)
        assert refusal == put(records, value)
    assert records.check(KEY, Record(KEY, b"2:"), NOW) is None
    assert records.stats().outcomes["taken"] == 1


def test_a_held_value_that_is_not_valid_any_more_gives_way_to_a_worse_one() -> None:
    records = machine()
    put(records, b"9:until=%d" % (NOW + 10))
    assert put(records, b"1:", at(9)) == Refuse("older than the value held")
    assert isinstance(put(records, b"1:", at(11)), Record)
    records.remember_rows([(b"/v/c", 7, NOW)])
    records.loaded(b"/v/c", ValueRow(b"/v/c", b"corrupt", NOW), NOW)
    assert isinstance(put(records, b"1:", key=b"/v/c"), Record)


@pytest.mark.conformance("c26")
def test_a_value_is_told_until_its_age_and_for_as_long_again_if_it_is_put_again() -> None:
    records = machine()
    put(records, b"2:")
    assert records.get(KEY, at(MAX_VALUE_AGE_S - 1)) is not None
    assert records.get(KEY, at(MAX_VALUE_AGE_S)) is None
    assert isinstance(put(records, b"2:", at(MAX_VALUE_AGE_S - 1)), Record)
    assert records.get(KEY, at(2 * MAX_VALUE_AGE_S - 2)) is not None
    assert records.get(KEY, at(2 * MAX_VALUE_AGE_S - 1)) is None
    assert isinstance(put(records, b"1:", at(2 * MAX_VALUE_AGE_S - 1)), Record)


@pytest.mark.conformance("c26")
def test_old_values_leave_memory_and_disk() -> None:
    records = machine()
    put(records, b"1:")
    put(records, b"1:", at(10), key=b"/v/younger")
    flush(records)
    assert records.expire(at(MAX_VALUE_AGE_S - 1)) == 0
    assert records.expire(at(MAX_VALUE_AGE_S)) == 1
    assert flush(records) == ValueFlush((), (KEY,))
    assert (len(records), records.stats().bytes) == (1, len(b"/v/younger") + 2)
    assert records.expire(at(MAX_VALUE_AGE_S)) == 0


def test_writes_come_in_batches_and_a_failed_one_comes_again() -> None:
    records = machine()
    put(records, b"1:")
    first = records.take_flush()
    assert first == ValueFlush((ValueRow(KEY, b"1:", NOW),), ())
    assert first is not None
    assert records.take_flush() is None
    put(records, b"2:", at(1))
    records.flush_failed(first)
    assert records.take_flush() is first
    records.flushed(first)
    assert flush(records) == ValueFlush((ValueRow(KEY, b"2:", at(1)),), ())
    assert records.take_flush() is None
    records.flushed(first)
    assert records.stats().unsaved == 0


def test_a_value_on_disk_is_loaded_before_it_is_told_or_compared() -> None:
    records = machine()
    records.remember_rows([(KEY, 2, NOW)])
    assert records.get(KEY, NOW) == Load(LoadKind.VALUE, KEY)
    assert put(records, b"1:") == Load(LoadKind.VALUE, KEY)
    records.loaded(KEY, ValueRow(KEY, b"2:", NOW), NOW)
    assert records.get(KEY, NOW) == ValueRow(KEY, b"2:", NOW).record()
    assert put(records, b"1:") == Refuse("older than the value held")
    assert records.get(b"/v/absent", NOW) is None


def test_what_the_store_brings_late_does_not_replace_what_is_younger() -> None:
    records = machine()
    records.remember_rows([(KEY, 2, NOW)])
    records.get(KEY, NOW)
    records.loaded(KEY, ValueRow(KEY, b"1:", NOW), NOW)
    put(records, b"2:")
    records.loaded(KEY, ValueRow(KEY, b"1:", NOW), NOW)
    held = records.get(KEY, NOW)
    assert isinstance(held, Record)
    assert held.value == b"2:"
    records.loaded(b"/v/unknown", ValueRow(b"/v/unknown", b"1:", NOW), NOW)
    assert records.get(b"/v/unknown", NOW) is None


def test_a_key_whose_row_is_gone_from_the_disk_is_free_again() -> None:
    records = machine()
    records.remember_rows([(KEY, 2, NOW)])
    records.loaded(KEY, None, NOW)
    assert (records.get(KEY, NOW), len(records)) == (None, 0)


def test_a_row_that_cannot_be_read_is_neither_told_nor_replaced_for_a_while() -> None:
    records = machine()
    records.remember_rows([(KEY, 2, NOW)])
    records.load_failed(KEY, NOW)
    assert records.get(KEY, at(1)) is None
    assert put(records, b"9:", at(1)) == Refuse("values cannot be read")
    assert records.get(KEY, at(LOAD_RETRY_S)) == Load(LoadKind.VALUE, KEY)
    records.load_failed(KEY, at(LOAD_RETRY_S))
    assert isinstance(put(records, b"1:", at(MAX_VALUE_AGE_S)), Record)


def test_the_farthest_key_leaves_when_there_are_too_many() -> None:
    keys = sorted([b"/v/%d" % n for n in range(20)], key=lambda key: distance(LOCAL, key_of(key)))
    records = machine(max_records=10)
    for key in keys[5:15]:
        assert isinstance(put(records, b"1:", key=key), Record)
    assert put(records, b"1:", key=keys[19]) == Refuse("values are full")
    assert isinstance(put(records, b"2:", key=keys[14]), Record)
    assert isinstance(put(records, b"1:", key=keys[0]), Record)
    assert records.get(keys[14], NOW) is None
    assert [key for key in keys if records.get(key, NOW)] == [keys[0], *keys[5:14]]
    assert flush(records).deleted == (keys[14],)


def test_the_bytes_of_all_values_are_bounded_too() -> None:
    near, far = sorted([b"/v/1", b"/v/2"], key=lambda key: distance(LOCAL, key_of(key)))
    records = machine(max_bytes=100)
    put(records, b"1:" + bytes(50), key=far)
    assert isinstance(put(records, b"1:" + bytes(30), key=near), Record)
    assert put(records, b"2:" + bytes(70), key=far) == Refuse("values are full")
    assert records.get(far, NOW) is not None
    assert isinstance(put(records, b"2:" + bytes(60), key=near), Record)
    assert records.get(far, NOW) is None
    assert records.stats().bytes == len(near) + 62


def test_nothing_is_taken_while_too_much_waits_to_be_written() -> None:
    records = machine(max_unsaved_bytes=100)
    put(records, b"1:" + bytes(80))
    assert put(records, b"1:" + bytes(80), key=b"/v/b") == Refuse("values cannot be written")
    batch = records.take_flush()
    assert batch is not None
    assert put(records, b"1:" + bytes(80), key=b"/v/b") == Refuse("values cannot be written")
    records.flushed(batch)
    assert isinstance(put(records, b"1:" + bytes(80), key=b"/v/b"), Record)


def test_values_not_asked_for_leave_memory_but_not_the_index() -> None:
    records = machine(max_cached_bytes=100)
    put(records, b"1:" + bytes(80), key=b"/v/a")
    put(records, b"1:" + bytes(80), key=b"/v/b")
    assert isinstance(records.get(b"/v/a", NOW), Record)  # it waits to be written
    flush(records)
    assert records.get(b"/v/a", NOW) == Load(LoadKind.VALUE, b"/v/a")
    assert isinstance(records.get(b"/v/b", NOW), Record)


def test_a_value_taken_while_the_clock_was_ahead_is_not_told_once_it_is_right() -> None:
    records = machine()
    ahead = at(10 * 365 * 24 * 3600)
    records.put(b"/v/a", Record(b"/v/a", b"1:x"), ahead)
    assert isinstance(records.get(b"/v/a", ahead), Record)
    assert records.get(b"/v/a", NOW) is None
    assert records.expire(NOW) == 1

    records.put(b"/v/a", Record(b"/v/a", b"1:x"), NOW)
    assert isinstance(records.get(b"/v/a", at(-CLOCK_TOLERANCE_S)), Record)


def test_at_the_start_a_value_of_the_future_is_deleted() -> None:
    records = machine()
    records.remember_rows([(b"/v/a", 2, at(9e9)), (b"/v/b", 2, NOW)])
    assert records.get(b"/v/a", NOW) is None
    assert records.expire(NOW) == 1
    assert flush(records).deleted == (b"/v/a",)


def test_at_the_start_what_does_not_fit_any_more_is_deleted() -> None:
    records = machine(max_records=2)
    rows = [(b"/v/%d" % n, 2, NOW) for n in range(3)]
    records.remember_rows(rows)
    assert len(records) == 2
    farthest = max((key for key, _, _ in rows), key=lambda key: distance(LOCAL, key_of(key)))
    assert flush(records).deleted == (farthest,)
    assert records.expire(at(MAX_VALUE_AGE_S)) == 2


def test_an_applications_value_waits_for_its_verdict() -> None:
    records = machine()
    key = b"/app/x"
    check = put(records, b"1:", key=key)
    assert check == Check(key, b"1:", None)
    assert isinstance(check, Check)
    records.judged(check, Verdict.BETTER)
    assert isinstance(put(records, b"1:", key=key), Record)
    worse = put(records, b"0:", key=key)
    assert worse == Check(key, b"0:", b"1:")
    assert isinstance(worse, Check)
    records.judged(worse, Verdict.WORSE)
    assert put(records, b"0:", key=key) == Refuse("older than the value held")
    assert put(records, b"0:", key=key) == worse  # a verdict serves one request


def test_a_verdict_on_a_value_that_was_overtaken_does_not_count() -> None:
    records = machine()
    key = b"/app/x"
    slow = put(records, b"1:", key=key)
    quick = put(records, b"2:", key=key)
    assert isinstance(slow, Check)
    assert isinstance(quick, Check)
    records.judged(quick, Verdict.BETTER)
    put(records, b"2:", key=key)
    records.judged(slow, Verdict.BETTER)
    assert put(records, b"1:", key=key) == Check(key, b"1:", b"2:")
