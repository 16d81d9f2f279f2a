"""Values in the default store: what comes back, and what outlives the process."""

from __future__ import annotations

import sqlite3

import pytest

from codio_dht.core.clock import UnixTime
from codio_dht.core.republish import Naming, OwnValue
from codio_dht.core.value_records import ValueFlush, ValueRow
from codio_dht.errors import BegunAnewError, StorageError
from codio_dht.store.schema import KEYS, RECORDS
from codio_dht.store.sqlite import SqliteStore

NOW = UnixTime(1_700_000_000.25)
KEY = b"/v/\xff\x00key"
ROW = ValueRow(KEY, b"\x00value\xff", NOW)
OWN = OwnValue(KEY, b"value", NOW, None)
NAMED = OwnValue(b"/ipns/x", b"record", UnixTime(NOW - 1), NOW, Naming("blog", 3600.0, 300.0))


@pytest.fixture(params=["disk", "memory"])
def store(request, tmp_path):
    opened = SqliteStore(tmp_path if request.param == "disk" else None)
    yield opened
    opened.close()


def test_a_batch_of_values_is_written_replaced_and_deleted(store) -> None:
    other = ValueRow(b"/v/other", b"", NOW)
    store.values.flush(ValueFlush((ROW, other), ()))
    assert store.values.load(KEY) == ROW
    assert store.values.load(b"/v/absent") is None
    newer = ValueRow(KEY, b"newer", UnixTime(NOW + 1))
    store.values.flush(ValueFlush((newer,), (b"/v/other", b"/v/absent")))
    assert store.values.load(KEY) == newer
    assert store.values.load(b"/v/other") is None


def test_the_keys_of_values_are_read_page_by_page_with_size_and_age(store) -> None:
    rows = [ValueRow(b"/v/%d" % n, bytes(n), UnixTime(NOW + n)) for n in range(5)]
    store.values.flush(ValueFlush(tuple(reversed(rows)), ()))
    first = store.values.page(b"", 3)
    assert first == [(row.key, len(row.value), row.received) for row in rows[:3]]
    assert [key for key, _, _ in store.values.page(first[-1][0], 3)] == [b"/v/3", b"/v/4"]


def test_values_outlive_the_process(tmp_path) -> None:
    store = SqliteStore(tmp_path)
    store.values.flush(ValueFlush((ROW,), ()))
    store.own_values.put(NAMED)
    store.close()
    again = SqliteStore(tmp_path)
    assert again.values.load(KEY) == ROW
    assert again.own_values.all() == [NAMED]
    again.close()


def test_a_value_that_is_damaged_is_as_good_as_none_and_all_are_set_aside_at_the_next_start(
    tmp_path,
) -> None:
    store = SqliteStore(tmp_path)
    store.values.flush(ValueFlush((ROW,), ()))
    connection = sqlite3.connect(tmp_path / "records.db")
    connection.execute("UPDATE value_records SET received = 'then'")
    connection.commit()
    connection.close()
    assert store.values.load(KEY) is None
    with pytest.raises(BegunAnewError):  # as the start reads them
        store.values.page(b"", 9)
    assert store.values.page(b"", 9) == []
    store.close()


def test_own_values_are_kept_replaced_marked_and_removed(store) -> None:
    own = store.own_values
    assert (own.get(KEY), own.all()) == (None, [])
    own.put(OWN)
    own.put(NAMED)
    assert own.get(KEY) == OWN
    assert own.all() == [NAMED, OWN]
    own.put(OwnValue(KEY, b"newer", NOW, None))
    own.mark_published(KEY, UnixTime(NOW + 5))
    own.mark_published(b"/v/absent", NOW)
    assert own.get(KEY) == OwnValue(KEY, b"newer", NOW, UnixTime(NOW + 5))
    assert own.remove(KEY)
    assert not own.remove(KEY)
    assert own.all() == [NAMED]


def test_an_own_value_is_renewed_only_if_it_is_the_one_remembered(store) -> None:
    own = store.own_values
    own.put(NAMED)
    own.mark_published(NAMED.key, UnixTime(NOW + 5))
    assert not own.renew(NAMED.key, b"another", b"renewed")
    assert not own.renew(b"/v/absent", NAMED.value, b"renewed")
    assert [each.value for each in own.all()] == [NAMED.value]
    assert own.renew(NAMED.key, NAMED.value, b"renewed")
    renewed = OwnValue(NAMED.key, b"renewed", NAMED.added, UnixTime(NOW + 5), NAMED.naming)
    assert own.get(NAMED.key) == renewed


def test_databases_of_the_formats_before_get_the_new_tables(tmp_path) -> None:
    for schema, version in ((RECORDS, 1), (KEYS, 2)):
        connection = sqlite3.connect(tmp_path / schema.file_name)
        for statement in [each for step in schema.migrations[:version] for each in step]:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {schema.application_id}")
        connection.execute(f"PRAGMA user_version = {version}")
        connection.commit()
        connection.close()
        (tmp_path / schema.file_name).chmod(0o600)
    again = SqliteStore(tmp_path)
    again.values.flush(ValueFlush((ROW,), ()))
    again.own_values.put(OWN)
    assert (again.values.load(KEY), again.own_values.get(KEY)) == (ROW, OWN)
    again.close()


def test_a_closed_store_says_so(tmp_path) -> None:
    store = SqliteStore(tmp_path)
    store.close()
    with pytest.raises(StorageError, match="closed"):
        store.values.load(KEY)
    with pytest.raises(StorageError, match="closed"):
        store.own_values.put(OWN)
