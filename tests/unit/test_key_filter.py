"""The filter of keys: never a wrong "no", few wrong "perhaps", bounded memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from codio_dht.core.key_filter import KeyFilter, StoredKeys
from codio_dht.core.keyspace import Key, key_of


def key(number: int) -> Key:
    return key_of(number.to_bytes(8, "big"))


@given(st.sets(st.binary(max_size=80), max_size=300), st.integers(1, 400))
def test_a_key_that_was_added_is_never_denied(keys: set[bytes], max_keys: int) -> None:
    some = KeyFilter(max_keys)
    for each in sorted(keys):
        some.add(key_of(each), 2)

    assert all(key_of(each) in some for each in keys)
    assert 2 * len(keys) == some.rows
    assert some.keys <= len(keys)


def test_an_empty_filter_denies_every_key_and_takes_no_memory() -> None:
    empty = KeyFilter(2_000_000)

    assert key(1) not in empty
    assert empty.memory_bytes == 0


def test_it_grows_with_its_keys_and_rarely_says_perhaps_for_nothing() -> None:
    some = KeyFilter(100_000)
    for number in range(30_000):
        some.add(key(number))

    wrong = sum(key(number) in some for number in range(1_000_000, 1_030_000))
    assert wrong < 30_000 * 0.02
    assert 29_000 < some.keys <= 30_000
    assert some.memory_bytes < 30_000 * 16


def test_past_the_keys_it_is_made_for_memory_no_longer_grows() -> None:
    some = KeyFilter(5_000)
    for number in range(5_000):
        some.add(key(number))
    full = some.memory_bytes
    for number in range(5_000, 30_000):
        some.add(key(number))

    assert full == some.memory_bytes
    assert all(key(number) in some for number in range(30_000))


# --- over the life of a store ---------------------------------------------------------------------


def test_an_incomplete_filter_denies_nothing_until_it_was_built() -> None:
    known = StoredKeys(100)
    known.add(b"here")
    assert (known.may_hold(b"here"), known.may_hold(b"there")) == (True, False)

    known.distrust()
    assert known.rebuild_due()
    assert known.may_hold(b"there")
    rebuilt = known.begin_rebuild()
    rebuilt.add(key_of(b"elsewhere"))
    known.add(b"meanwhile")
    assert known.finish_rebuild(rebuilt)
    held = [each for each in (b"elsewhere", b"meanwhile", b"there") if known.may_hold(each)]
    assert held == [b"elsewhere", b"meanwhile"]


def test_a_rebuild_that_was_distrusted_or_never_begun_counts_for_nothing() -> None:
    known = StoredKeys(100)
    assert not known.finish_rebuild(KeyFilter(100))
    rebuilt = known.begin_rebuild()
    known.distrust()
    assert not known.finish_rebuild(rebuilt)
    assert not known.complete


def test_the_point_that_a_caller_knows_is_used() -> None:
    known = StoredKeys(100)
    known.add(b"here")
    assert known.may_hold(b"anything", key_of(b"here"))
