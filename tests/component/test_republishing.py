"""Own values: what is on disk and what others are told, whatever happens at the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio

from codio_dht.core.clock import UnixTime
from codio_dht.core.messages import Record
from codio_dht.core.republish import Naming, OwnValue, RepublishSchedule
from codio_dht.crypto.ipns import create_ipns_record, ipns_key, parse_ipns_record
from codio_dht.errors import StorageError, UsageError
from codio_dht.node.clock import Clock
from codio_dht.node.republishing import Republishing
from codio_dht.node.results import ProvideResult
from codio_dht.store.name_keys import NameKeys
from codio_dht.store.sqlite import SqliteStore

EPOCH = 1_700_000_000.0
NAMING = Naming("blog", 600.0, 60.0)
PATHS = ("/ipfs/bafkqaddwgevxmmraojswg33smq", "/ipfs/bafkqaaa")


def now() -> UnixTime:
    return UnixTime(EPOCH + trio.current_time())


class StoreThread:
    """Runs everything at once, but waits with what ``waits_for`` names until ``go`` is set."""

    def __init__(self) -> None:
        self.waits_for: object = None
        self.waiting = trio.Event()
        self.go = trio.Event()

    async def __call__(self, function: Callable[[], Any]) -> Any:
        await trio.lowlevel.checkpoint()
        if getattr(function, "func", None) == self.waits_for:
            self.waiting.set()
            await self.go.wait()
        return function()


class TakesAll:
    """Instead of ``Values``: what was held here and put, in order."""

    def __init__(self) -> None:
        self.refusal: str | None = None
        self.refuses_puts = False
        self.held: list[bytes] = []

    async def check(self, record: Record) -> None:
        await trio.lowlevel.checkpoint()
        if self.refusal is not None:
            raise UsageError(self.refusal)

    async def put(
        self, record: Record, quorum: int, at_end: Callable[[ProvideResult], Awaitable[None]]
    ) -> ProvideResult:
        await trio.lowlevel.checkpoint()
        if self.refuses_puts:
            raise UsageError("older than the value held")
        self.held.append(record.value)
        result = ProvideResult(record.key, 1, 1, 1, 0, 0.0)
        await at_end(result)
        return result

    def cancel(self, key: bytes) -> None:
        pass


class Parts:
    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.keys = NameKeys(None)
        self.signer = self.keys.generate("blog")
        self.key = ipns_key(self.signer.peer_id())
        self.thread = StoreThread()
        self.values = TakesAll()
        self.republishing = Republishing(
            self.values,  # type: ignore[arg-type]
            store,
            self.keys,
            self.thread,
            Clock(now),
            RepublishSchedule(),
            lambda: 5,
            k=20,
        )

    def own(self, sequence: int) -> OwnValue:
        path = PATHS[sequence % 2]
        record = create_ipns_record(
            self.signer, path, sequence=sequence, now=now(), lifetime_s=600.0, ttl_s=60
        )
        return OwnValue(self.key, record.encoded, now(), None, NAMING)

    def on_disk(self) -> int | None:
        own = self.store.own_values.get(self.key)
        return None if own is None else parse_ipns_record(own.value).sequence


@pytest.fixture
def store(tmp_path) -> Iterator[SqliteStore]:
    with_disk = SqliteStore(tmp_path)
    yield with_disk
    with_disk.close()


async def begin_renewal(parts: Parts, nursery: trio.Nursery) -> None:
    """Until a record of sequence 5 is being renewed, and waits for its key."""
    await parts.republishing.publish(parts.own(5), 1)
    parts.thread.waits_for = parts.keys.get
    nursery.start_soon(parts.republishing.run)
    await parts.thread.waiting.wait()
    parts.thread.waits_for = None


async def test_a_name_published_while_its_last_record_is_renewed_keeps_its_sequence(
    autojump_clock, store
) -> None:
    parts = Parts(store)
    async with trio.open_nursery() as nursery:
        await begin_renewal(parts, nursery)
        await parts.republishing.publish(parts.own(6), 1)
        parts.thread.go.set()
        await trio.sleep(10_000)
        nursery.cancel_scope.cancel()
    sequences = [parse_ipns_record(value).sequence for value in parts.values.held]
    assert parts.on_disk() == 6
    assert sequences == sorted(sequences), "nobody was told an older record after a newer one"
    assert len(sequences) > 3, "the new record is renewed"


async def test_a_name_unpublished_while_it_is_renewed_stays_unpublished(
    autojump_clock, store
) -> None:
    parts = Parts(store)
    async with trio.open_nursery() as nursery:
        await begin_renewal(parts, nursery)
        assert await parts.republishing.stop(parts.key)
        parts.thread.go.set()
        await trio.sleep(10_000)
        nursery.cancel_scope.cancel()
    assert parts.on_disk() is None
    assert len(parts.values.held) == 1
    assert len(parts.republishing) == 0


async def test_what_cannot_be_noted_is_told_nobody(autojump_clock, store, monkeypatch) -> None:
    parts = Parts(store)

    def fail(own: OwnValue) -> None:
        raise StorageError("full")

    monkeypatch.setattr(store.own_values, "put", fail)
    with pytest.raises(StorageError):
        await parts.republishing.publish(parts.own(5), 1)
    assert parts.values.held == []
    assert len(parts.republishing) == 0


async def test_what_is_not_valid_is_neither_noted_nor_told(autojump_clock, store) -> None:
    parts = Parts(store)
    parts.values.refusal = "invalid"
    with pytest.raises(UsageError):
        await parts.republishing.publish(parts.own(5), 1)
    assert (parts.on_disk(), parts.values.held, len(parts.republishing)) == (None, [], 0)


async def test_what_is_refused_after_all_is_not_kept(autojump_clock, store) -> None:
    parts = Parts(store)
    parts.values.refuses_puts = True
    with pytest.raises(UsageError):
        await parts.republishing.publish(parts.own(5), 1)
    assert (parts.on_disk(), len(parts.republishing)) == (None, 0)
