"""Whether a key is this node's own: yes, no, or ask the store."""

from __future__ import annotations

from codio_dht.core.clock import UnixTime
from codio_dht.core.keyspace import key_of
from codio_dht.core.own_keys import MAX_OWN_KEY_LOADS, OWN_KEY_RETRY_S, OwnKeys
from codio_dht.core.steps import Load, LoadKind

NOW = UnixTime(1e9)
LATER = UnixTime(NOW + OWN_KEY_RETRY_S)
A, B, C = b"a", b"b", b"c"


def load_of(key: bytes) -> Load:
    return Load(LoadKind.OWN_KEY, key)


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def after_a_start(count: int) -> OwnKeys:
    keys = OwnKeys()
    keys.opened(count)
    return keys


def test_a_node_without_own_keys_asks_nobody() -> None:
    assert after_a_start(0).provides(A, NOW) is False


def test_a_key_added_and_removed_is_known_at_once() -> None:
    keys = OwnKeys()
    keys.added(A, is_new=True)
    keys.added(A, is_new=False)
    assert (keys.provides(A, NOW), keys.provides(B, NOW), len(keys)) == (True, False, 1)

    keys.added(B, is_new=True)
    keys.added(C, is_new=True)
    keys.removed(A)
    assert (keys.provides(A, NOW), keys.provides(B, NOW), len(keys)) == (False, True, 2)


def test_after_a_start_the_store_is_asked_once_for_each_key() -> None:
    keys = after_a_start(2)
    assert [keys.provides(key, NOW) for key in (A, B)] == [load_of(A), load_of(B)]
    keys.loaded(A, own=True)
    keys.loaded(B, own=False)
    assert [keys.provides(key, NOW) for key in (A, B, C)] == [True, False, load_of(C)]


def test_once_the_filter_was_built_only_keys_that_it_does_not_deny_are_asked_for() -> None:
    keys = after_a_start(1)
    rebuilt = keys.stored.begin_rebuild()
    rebuilt.add(key_of(A))
    keys.added(B, is_new=True)
    keys.stored.finish_rebuild(rebuilt)

    assert [keys.provides(key, NOW) for key in (A, B, C)] == [load_of(A), True, False]
    assert keys.provides(C, NOW, key_of(A)) == load_of(C)  # the point counts, if it is given


def test_what_is_read_while_the_key_is_added_or_removed_counts_for_nothing() -> None:
    keys = after_a_start(1)
    keys.provides(A, NOW)
    keys.provides(B, NOW)
    keys.added(A, is_new=True)
    keys.removed(B)
    keys.loaded(A, own=False)
    keys.load_failed(A, NOW)
    keys.loaded(B, own=True)
    assert (keys.provides(A, NOW), keys.provides(B, NOW)) == (True, False)


def test_an_unreadable_key_counts_as_not_provided_for_a_while() -> None:
    keys = after_a_start(1)
    keys.provides(A, NOW)
    keys.load_failed(A, NOW)

    assert keys.provides(A, UnixTime(LATER - 1)) is False
    assert keys.provides(A, LATER) == load_of(A)
    keys.loaded(A, own=True)
    assert keys.provides(A, LATER) is True


def test_a_clock_that_is_set_back_holds_up_no_second_try() -> None:
    keys = after_a_start(1)
    keys.provides(A, LATER)
    keys.load_failed(A, LATER)
    assert keys.provides(A, NOW) == load_of(A)


def test_answers_and_loads_are_bounded_and_what_is_forgotten_is_asked_for_again() -> None:
    keys = OwnKeys(max_answers=3)
    for value in range(5):
        keys.added(number(value), is_new=True)
    answers = [keys.provides(number(value), NOW) for value in range(5)]
    assert answers == [load_of(number(0)), load_of(number(1)), True, True, True]
    for value in range(2 * MAX_OWN_KEY_LOADS):
        keys.added(number(value), is_new=True)
        keys.provides(number(max(0, value - 5)), NOW)
    assert len(keys._loading) <= MAX_OWN_KEY_LOADS
    assert len(keys._answers) == 3
