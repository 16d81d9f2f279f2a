from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio
import trio.testing

from codio_dht.core.clock import UnixTime
from codio_dht.core.own_keys import NewKey, OwnKeys
from codio_dht.core.records import ProviderRecords
from codio_dht.node.clock import Clock
from codio_dht.node.key_writes import KeyWrites
from codio_dht.node.storage import Storage
from codio_dht.store.sqlite import SqliteStore

KEY, OTHER = b"\x12\x20" + bytes(32), b"\x12\x20" + bytes([1]) * 32
T = TypeVar("T")


class SlowStorage(Storage):
    """A store whose calls wait for ``go``."""

    def __init__(self, store: SqliteStore) -> None:
        super().__init__(store, ProviderRecords(), OwnKeys(), Clock())
        self.go = trio.Event()

    async def call(self, function: Callable[[], T]) -> T:
        await self.go.wait()
        return await super().call(function)


async def test_who_adds_a_key_after_another_removes_it_has_it_though_both_wait_for_one_write():
    store = SqliteStore()
    storage = SlowStorage(store)
    writes = KeyWrites(storage, Clock())
    store.keys.add([NewKey(KEY)], UnixTime(1.0))
    storage.own_keys.added(KEY, is_new=True)
    done: list[object] = []

    async def do(change: Callable[[], object]) -> None:
        done.append(await change())  # type: ignore[misc]

    async with trio.open_nursery() as nursery:
        for change in (
            lambda: writes.add([NewKey(OTHER)]),  # under way while the others are asked for
            lambda: writes.remove([KEY]),
            lambda: writes.add([NewKey(KEY)]),
        ):
            nursery.start_soon(do, change)
            await trio.testing.wait_all_tasks_blocked()
        storage.go.set()
    assert done == [[True], [True], [True]]
    assert store.keys.find(KEY) is not None
    assert len(storage.own_keys) == store.keys.count() == 2
    store.close()


async def test_changes_of_different_keys_share_a_write_whatever_their_order():
    store = SqliteStore()
    storage = SlowStorage(store)
    writes = KeyWrites(storage, Clock())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writes.add, [NewKey(OTHER)])
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(writes.remove, [OTHER])
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(writes.add, [NewKey(KEY)])
        await trio.testing.wait_all_tasks_blocked()
        storage.go.set()
    assert writes.commits == 2
    assert [KEY] == [each.key for each in store.keys.page(b"", 10)]
    store.close()
