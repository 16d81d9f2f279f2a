"""Runs the store: one worker thread, in order, for the event loop that must never wait for a disk.

Decides when records are flushed, expired and loaded; what they are only ``core.records`` decides.
Every store call goes through one :class:`trio.CapacityLimiter` of one token, so calls never overlap
and keep their order. A failure is counted and logged, and what was not written stays in memory for
the next flush.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import trio

from codio_dht import params
from codio_dht.core.records import ProviderRecords, ProviderRow
from codio_dht.core.steps import Load
from codio_dht.errors import StorageError
from codio_dht.logger import get_logger
from codio_dht.node.clock import Clock
from codio_dht.store.interface import Store

T = TypeVar("T")
log = get_logger(__name__)


class Storage:
    """The store and the provider records that live on it."""

    def __init__(self, store: Store, records: ProviderRecords, clock: Clock) -> None:
        self.store = store
        self.records = records
        self.counters: Counter[str] = Counter()
        self._clock = clock
        self._one_at_a_time = trio.CapacityLimiter(1)
        self._wanted: dict[bytes, list[Callable[[], None]]] = {}
        self._loading: bytes | None = None
        self._wake = trio.Event()

    async def call(self, function: Callable[[], T]) -> T:
        """``function()`` on the worker thread.

        A cancelled caller does not stop it: what was begun is finished.

        Raises:
            StorageError: as the store says.
        """
        return await trio.to_thread.run_sync(function, limiter=self._one_at_a_time)

    async def open(self) -> None:
        """Learn which keys are on disk; call once, before serving."""
        keys = await self.call(lambda: list(self.store.provider_keys()))
        self.records.remember_keys(keys)

    def load(self, key: bytes, done: Callable[[], None]) -> None:
        """Bring the rows of ``key`` into memory, then call ``done``, whether that worked or not.

        Streams that want the same key share one load. Each waits for one at a time, and says so
        when it ends (:meth:`stop_waiting`): so the host's limit on streams bounds the queue.
        """
        waiting = self._wanted.setdefault(key, [])
        waiting.append(done)
        self._wake.set()

    def stop_waiting(self, key: bytes, done: Callable[[], None]) -> None:
        """Nobody waits for ``done`` any more: it is not called, and a load that is for nobody not
        begun. A no-op if it was called."""
        waiting = self._wanted.get(key, [])
        if done in waiting:
            waiting.remove(done)
            if not waiting and key != self._loading:
                del self._wanted[key]

    async def run_loads(self) -> None:
        """Serve :meth:`load` for ever, one key after another."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._wanted:
                await self._load(next(iter(self._wanted)))

    async def _load(self, key: bytes) -> None:
        """Who wants ``key`` while it is being read shares this load."""
        self._loading = key
        try:
            rows = await self.call(partial(self.store.load_providers, key))
            self.records.loaded(key, rows, self._clock.unix())
        except StorageError as error:
            self.records.load_failed(key, self._clock.unix())
            self._failed("load", error)
        finally:
            self._loading = None
            for done in self._wanted.pop(key, ()):
                done()

    async def run_flushes(self) -> None:
        """Write unsaved records for ever, and once more on the way out."""
        try:
            while True:
                await trio.sleep(params.FLUSH_INTERVAL_S)
                await self.flush()
        finally:
            with trio.CancelScope(shield=True):
                await self.flush()

    async def flush(self) -> bool:
        """Write everything unsaved; False if the store could not."""
        while (batch := self.records.take_flush()) is not None:
            try:
                added = await self.call(partial(self.store.flush, batch))
            except BaseException as error:
                # Cancelled before the thread had it, for one: the flush at the end takes it again.
                self.records.flush_failed(batch)
                if not isinstance(error, StorageError):
                    raise
                self._failed("flush", error)
                return False
            self.records.flushed(batch, added)
            self.counters["rows_written"] += len(batch.rows)
        return True

    async def run_expiry(self) -> None:
        """Delete expired rows for ever, a bounded batch at a time."""
        while True:
            await trio.sleep(params.EXPIRY_INTERVAL_S)
            await self.expire()

    async def expire(self) -> None:
        """Delete every row that has expired by now."""
        now = self._clock.unix()
        while True:
            try:
                keys = await self.call(lambda: self.store.delete_expired(now, params.EXPIRY_BATCH))
            except StorageError as error:
                self._failed("expiry", error)
                return
            self.records.expired(keys)
            self.counters["rows_expired"] += len(keys)
            if len(keys) < params.EXPIRY_BATCH:
                break
        if self.records.rebuild_due():
            await self._rebuild_filter()

    async def rows(self, key: bytes) -> tuple[ProviderRow, ...]:
        """The unexpired rows of ``key``, read from the store if need be."""
        while True:
            rows = self.records.get(key, self._clock.unix())
            if not isinstance(rows, Load):
                return rows
            loaded = trio.Event()
            self.load(key, loaded.set)
            try:
                await loaded.wait()
            finally:
                self.stop_waiting(key, loaded.set)

    async def _rebuild_filter(self) -> None:
        rebuilt = self.records.begin_rebuild()

        def fill() -> None:
            for key, count in self.store.provider_keys():
                rebuilt.add(key, count)

        try:
            await self.call(fill)
        except StorageError as error:
            self._failed("rebuild", error)
        else:
            self.records.finish_rebuild(rebuilt)

    def _failed(self, what: str, error: StorageError) -> None:
        self.counters[f"{what}_failed"] += 1
        log.error("storage_failed", doing=what, error=str(error))
