"""Runs the store: one worker thread, in order, for the event loop that must never wait for a disk.

Decides when records are flushed, expired and loaded, and when the filters of stored keys are built;
what is kept only ``core.records`` and ``core.own_keys`` decide. Every store call goes through one
:class:`trio.CapacityLimiter` of one token, so calls never overlap and keep their order. Long work
is cut into short calls, so that the others have their turn. A failure is counted and logged, and
what was not written stays in memory for the next flush.

After the start all records of others are read once, to see whether they are as they were written:
the first ``ROWS_CHECKED_AT_START`` before the node serves, the others while it does. A store that
was damaged and begun anew in a call is asked once more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, TypeVar

import trio

from codio_dht.core.key_filter import FILTER_PAGE_KEYS, KeyFilter
from codio_dht.core.keyspace import Key, key_of
from codio_dht.core.own_keys import OwnKeys
from codio_dht.core.records import (
    EXPIRY_BATCH,
    EXPIRY_INTERVAL_S,
    FLUSH_INTERVAL_S,
    Flush,
    ProviderRecords,
    ProviderRow,
)
from codio_dht.core.steps import Load, LoadKind
from codio_dht.core.turns import Path, Turns
from codio_dht.core.value_records import ValueRecords
from codio_dht.errors import BegunAnewError, StorageError
from codio_dht.logger import get_logger
from codio_dht.node.clock import Clock
from codio_dht.node.validating import ValidatorRunner
from codio_dht.node.value_storage import ValueStorage
from codio_dht.store.interface import CHECKED_NONE, CheckedTo, Store

CHECK_PAGE_ROWS: Final = 1_024
"""Rows that are checked in one call, which takes some 5 ms of the store's thread."""

ROWS_CHECKED_AT_START: Final = 16 * CHECK_PAGE_ROWS
"""Rows that are checked before the node serves: as many as take about 0.1 s. The others are checked
while it serves; what is damaged among them is told to nobody meanwhile."""

MAX_WAITING_LOADS: Final = 65_536
"""Loads that wait for their turn, of all origins together; past it the newest of the heaviest
origin is given up. Each stream waits for one, so the limit on streams is reached first."""

OURSELVES: Final[Path] = ("", b"", b"")
"""The origin of loads that this node itself asks for."""

T = TypeVar("T")
Page = list[tuple[bytes, int]]
"""Keys in the store, in order, each with the number of its rows."""

log = get_logger(__name__)


class Storage:
    """The store, and what memory knows of it: the provider records of others and the own keys."""

    def __init__(
        self, store: Store, records: ProviderRecords, own_keys: OwnKeys, clock: Clock
    ) -> None:
        self.store = store
        self.records = records
        self.own_keys = own_keys
        self.counters: Counter[str] = Counter()
        self._clock = clock
        self._one_at_a_time = trio.CapacityLimiter(1)
        self._wanted: Turns[Load, list[Callable[[], None]]] = Turns(MAX_WAITING_LOADS)
        self._being_read: dict[Load, list[Callable[[], None]]] = {}
        """The load that is under way, if any."""
        self._wake = trio.Event()
        self._checked_to: CheckedTo | None = CHECKED_NONE
        self.values: ValueStorage | None = None
        """Values of others, if they are kept."""

    def keep_values(self, records: ValueRecords, runner: ValidatorRunner) -> None:
        """Keep the values of others too, as ``records`` decides."""
        self.values = ValueStorage(
            self.store, records, runner, self.call, self._clock, self.counters
        )

    async def call(self, function: Callable[[], T]) -> T:
        """``function()`` on the worker thread.

        A cancelled caller does not stop it: what was begun is finished. If a damaged database was
        begun anew in it, it is made once more.

        Raises:
            StorageError: as the store says.
        """
        try:
            return await trio.to_thread.run_sync(function, limiter=self._one_at_a_time)
        except BegunAnewError:
            self.counters["begun_anew"] += 1
            self._checked_to = None
            self.records.opened(0, None)
        return await trio.to_thread.run_sync(function, limiter=self._one_at_a_time)

    async def open(self) -> None:
        """Learn how much is on disk; call once, before serving. Which keys that are is learnt in
        :meth:`run_upkeep`; until then every key may be in the store.

        Raises:
            StorageError: as the store says.
        """
        store = self.store
        changes, rows, own = await self.call(
            lambda: (store.records.changes(), store.records.count(), store.keys.count())
        )
        self.records.opened(rows, changes)
        self.own_keys.opened(own)
        if self.values is not None:
            await self.values.open()
        for _ in range(ROWS_CHECKED_AT_START // CHECK_PAGE_ROWS):
            await self._check_page()

    # --- loads ------------------------------------------------------------------------------------

    def load(self, load: Load, done: Callable[[], None], owner: Path = OURSELVES) -> None:
        """Bring what ``load`` names into memory, then call ``done``, whether that worked or not.

        Streams that want the same share one load. Owners take turns: the ``owner`` of a load is the
        origin that wanted it first. Who wants it no more says so (:meth:`stop_waiting`).
        """
        waiting = self._being_read.get(load) or self._wanted.get(load)
        if waiting is not None:
            waiting.append(done)
            return
        dropped = self._wanted.put(load, [done], owner)
        self._wake.set()
        for tell in [] if dropped is None else dropped[1]:
            tell()

    def stop_waiting(self, load: Load, done: Callable[[], None]) -> None:
        """Nobody waits for ``done`` any more: it is not called, and a load that is for nobody not
        begun. A no-op if it was called."""
        waiting = self._being_read.get(load) or self._wanted.get(load) or []
        if done in waiting:
            waiting.remove(done)
            if not waiting:
                self._wanted.pop(load)

    async def run_loads(self) -> None:
        """Serve :meth:`load` for ever, one after another."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while (found := self._wanted.take()) is not None:
                await self._load(*found)

    async def _load(self, load: Load, waiting: list[Callable[[], None]]) -> None:
        """Who wants the same while it is being read shares this load."""
        self._being_read[load] = waiting
        try:
            match load.kind:
                case LoadKind.PROVIDERS:
                    await self._load_providers(load.key)
                case LoadKind.OWN_KEY:
                    await self._load_own_key(load.key)
                case LoadKind.VALUE:
                    assert self.values is not None
                    await self.values.load(load.key)
        finally:
            del self._being_read[load]
            for done in waiting:
                done()

    async def _load_providers(self, key: bytes) -> None:
        records = self.store.records
        try:
            changes, rows = await self.call(
                lambda: (records.changes(), records.load_providers(key))
            )
        except StorageError as error:
            self.records.load_failed(key, self._clock.unix())
            self._failed("load", error)
        else:
            self.records.loaded(key, rows, self._clock.unix(), changes)

    async def _load_own_key(self, key: bytes) -> None:
        try:
            own = await self.call(partial(self.store.keys.find, key)) is not None
        except StorageError as error:
            self.own_keys.load_failed(key, self._clock.unix())
            self._failed("load", error)
        else:
            self.own_keys.loaded(key, own=own)

    async def _loaded(self, load: Load) -> None:
        """Wait until ``load`` is done."""
        loaded = trio.Event()
        self.load(load, loaded.set)
        try:
            await loaded.wait()
        finally:
            self.stop_waiting(load, loaded.set)

    async def rows(self, key: bytes) -> tuple[ProviderRow, ...]:
        """The unexpired rows of ``key``, read from the store if need be."""
        while isinstance(rows := self.records.get(key, self._clock.unix()), Load):
            await self._loaded(rows)
        return rows

    async def provides(self, key: bytes) -> bool:
        """Whether this node provides ``key`` itself, read from the store if need be."""
        while isinstance(own := self.own_keys.provides(key, self._clock.unix()), Load):
            await self._loaded(own)
        return own

    # --- writes -----------------------------------------------------------------------------------

    async def run_flushes(self) -> None:
        """Write unsaved records for ever, and once more on the way out."""
        try:
            while True:
                await trio.sleep(FLUSH_INTERVAL_S)
                await self.flush()
        finally:
            with trio.CancelScope(shield=True):
                await self.flush()

    async def flush(self) -> bool:
        """Write everything unsaved; False if the store could not."""
        while (batch := self.records.take_flush()) is not None:
            try:
                added, disk_bytes = await self.call(partial(self._write, batch))
            except BaseException as error:
                # Cancelled before the thread had it, for one: the flush at the end takes it again.
                self.records.flush_failed(batch)
                if not isinstance(error, StorageError):
                    raise
                self._failed("flush", error)
                return False
            self.records.flushed(batch, added)
            self.records.disk_bytes = disk_bytes
            self.counters["rows_written"] += len(batch.rows)
        return self.values is None or await self.values.flush()

    def _write(self, batch: Flush) -> tuple[int, int]:
        """On the store's thread: write ``batch``, and measure what the records take."""
        records = self.store.records
        return records.flush(batch), records.disk_bytes()

    # --- upkeep -----------------------------------------------------------------------------------

    async def run_upkeep(self) -> None:
        """Check all rows once; build the filters of stored keys where that is due, and delete
        expired rows, for ever, in short calls."""
        while self._checked_to is not None:
            try:
                await self._check_page()
            except StorageError as error:
                self._failed("check", error)
                break
        while True:
            await self.build_filters()
            await trio.sleep(EXPIRY_INTERVAL_S)
            await self.expire()

    async def _check_page(self) -> None:
        """Check some rows, if not all were."""
        after = self._checked_to
        if after is not None:
            self._checked_to = await self.call(
                partial(self.store.records.check, after, CHECK_PAGE_ROWS)
            )

    async def expire(self) -> None:
        """Delete every row that has expired by now, or claims to expire too late."""
        now = self._clock.unix()
        latest = self.records.latest_expiry(now)
        if self.values is not None:
            self.values.expire()
        while True:
            try:
                keys = await self.call(
                    lambda: self.store.records.delete_expired(now, latest, EXPIRY_BATCH)
                )
            except StorageError as error:
                self._failed("expiry", error)
                return
            self.records.expired(keys)
            self.counters["rows_expired"] += len(keys)
            if len(keys) < EXPIRY_BATCH:
                return

    async def build_filters(self) -> None:
        """Build the filters of stored keys anew, those that are due."""
        records, own_keys = self.records, self.own_keys.stored
        try:
            if own_keys.rebuild_due():
                rebuilt = own_keys.begin_rebuild()
                await self._fill(rebuilt, self._own_page, own_keys.take_written)
                own_keys.finish_rebuild(rebuilt)
            if records.rebuild_due(self._clock.unix()):
                rebuilt = records.begin_rebuild()
                await self._fill(rebuilt, self.store.records.provider_keys, records.take_written)
                records.finish_rebuild(rebuilt)
        except StorageError as error:
            self._failed("rebuild", error)

    async def _fill(
        self,
        rebuilt: KeyFilter,
        page_after: Callable[[bytes, int], Page],
        take_written: Callable[[], Iterable[Key]],
    ) -> None:
        """Add all keys of the store to ``rebuilt``, and those written meanwhile, on the thread."""

        def add_page(after: bytes, written: Iterable[Key]) -> Page:
            page = page_after(after, FILTER_PAGE_KEYS)
            for preimage, count in page:
                rebuilt.add(key_of(preimage), count)
            for key in written:
                rebuilt.add(key)
            return page

        after = b""
        while True:
            page = await self.call(partial(add_page, after, take_written()))
            if len(page) < FILTER_PAGE_KEYS:
                return
            after = page[-1][0]

    def _own_page(self, after: bytes, limit: int) -> Page:
        return [(own.key, 1) for own in self.store.keys.page(after, limit)]

    def _failed(self, what: str, error: StorageError) -> None:
        self.counters[f"{what}_failed"] += 1
        log.error("storage_failed", doing=what, error=str(error))
