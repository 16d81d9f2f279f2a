"""A start on a store that holds much: nothing is built on the event loop, and nobody waits."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import trio

from codio_dht.core.clock import UnixTime
from codio_dht.core.key_filter import FILTER_PAGE_KEYS
from codio_dht.core.own_keys import NewKey, OwnKeys
from codio_dht.core.peer import PeerId
from codio_dht.core.records import Flush, ProviderRecords, ProviderRow
from codio_dht.core.steps import Load, LoadKind
from codio_dht.node.clock import Clock
from codio_dht.node.storage import Storage
from codio_dht.store.schema import pack_record
from codio_dht.store.sqlite import SqliteStore

NOW = UnixTime(1e9)
EXPIRES = UnixTime(NOW + 1_000)
PROVIDER = PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes(32))
PAGES = 4
KEYS = [b"\x12\x20" + number.to_bytes(32, "big") for number in range(PAGES * FILTER_PAGE_KEYS + 7)]


def full_store(directory: Path | None) -> SqliteStore:
    store = SqliteStore(directory)
    rows = tuple(ProviderRow(key, PROVIDER, (), NOW, EXPIRES, EXPIRES) for key in KEYS)
    store.records.flush(Flush(rows, 10))
    for key in KEYS[:50]:
        store.keys.add([NewKey(key)], NOW)
    return store


def storage_over(store: SqliteStore) -> Storage:
    return Storage(store, ProviderRecords(), OwnKeys(), Clock(lambda: NOW))


async def test_the_filters_are_built_in_short_steps_between_which_others_have_their_turn(tmp_path):
    store = full_store(tmp_path)
    storage = storage_over(store)
    threads: list[int] = []
    sizes: list[int] = []
    page_of, loaded_after = store.records.provider_keys, []

    def watched_page(after: bytes, limit: int) -> list[tuple[bytes, int]]:
        threads.append(threading.get_ident())
        page = page_of(after, limit)
        sizes.append(len(page))
        return page

    store.records.provider_keys = watched_page
    await storage.open()
    assert (len(storage.records), len(storage.own_keys), sizes) == (len(KEYS), 50, [])
    asked = storage.records.get(b"unknown", NOW)
    assert asked == Load(LoadKind.PROVIDERS, b"unknown")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(storage.run_loads)
        storage.load(asked, lambda: loaded_after.append(len(sizes)))
        await storage.build_filters()
        assert await storage.provides(KEYS[0]) is True
        assert await storage.provides(KEYS[50]) is False
        nursery.cancel_scope.cancel()
    assert sizes == [FILTER_PAGE_KEYS] * PAGES + [7]
    assert threading.get_ident() not in threads
    assert loaded_after[0] < PAGES
    assert storage.records.get(b"another", NOW) == ()
    assert storage.own_keys.provides(b"another", NOW) is False
    assert storage.records.stats().keys >= len(KEYS) * 0.99
    store.close()


async def test_what_is_written_while_the_filter_is_built_is_in_it():
    store = full_store(None)
    storage = storage_over(store)
    await storage.open()
    written: list[bytes] = []
    page_of = store.records.provider_keys

    def page_and_write(after: bytes, limit: int) -> list[tuple[bytes, int]]:
        trio.from_thread.run_sync(write_one)
        return page_of(after, limit)

    def write_one() -> None:
        key = b"\x00%d" % len(written)  # before every page that is still to come
        storage.records.add(key, PROVIDER, (), NOW)
        batch = storage.records.take_flush()
        assert batch is not None
        storage.records.flushed(batch, store.records.flush(batch))
        written.append(key)

    store.records.provider_keys = page_and_write
    await storage.build_filters()
    storage.records._cache.clear()
    assert len(written) == PAGES + 1
    assert all(isinstance(storage.records.get(key, NOW), Load) for key in written)
    assert storage.records.get(b"another", NOW) == ()
    store.close()


async def test_a_process_that_shares_the_records_is_noticed_within_the_interval(tmp_path):
    """Two storages on one file, as two nodes of a fleet would have."""
    now = [NOW]
    store = full_store(tmp_path)
    storage = Storage(store, ProviderRecords(), OwnKeys(), Clock(lambda: now[0]))
    await storage.open()
    await storage.build_filters()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(storage.run_loads)
        assert await storage.rows(b"new") == ()
        write_from_another_process(tmp_path, b"new")
        assert await storage.rows(b"new") == ()
        now[0] = UnixTime(NOW + 10)
        assert [row.provider for row in await storage.rows(b"new")] == [PROVIDER]
        nursery.cancel_scope.cancel()
    store.close()


def write_from_another_process(directory: Path, key: bytes) -> None:
    row = ProviderRow(key, PROVIDER, (), NOW, EXPIRES, EXPIRES)
    with closing(sqlite3.connect(directory / "records.db")) as connection, connection:
        connection.execute(
            "INSERT INTO providers (key, provider, record, expires) VALUES (?, ?, ?, ?)",
            (key, PROVIDER.to_bytes(), pack_record(row), EXPIRES),
        )
