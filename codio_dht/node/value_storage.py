"""Brings the values of others to disk and back, for ``core.value_records``.

Decides when they are read, written and expired, in the store's own thread; what they are only
``core`` decides. A failure is counted and logged; what was not written stays in memory for the next
flush.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, Protocol

import trio

from codio_dht.core.clock import UnixTime
from codio_dht.core.messages import Record
from codio_dht.core.steps import Load, Refuse
from codio_dht.core.validation import Check
from codio_dht.core.value_records import ValueRecords
from codio_dht.errors import StorageError
from codio_dht.logger import get_logger
from codio_dht.node.clock import Clock
from codio_dht.node.validating import ValidatorRunner
from codio_dht.store.interface import Store

INDEX_PAGE: Final = 1_000
"""Keys read in one call while the index is built at the start, so that the event loop and the
store's thread have other turns in between."""

log = get_logger(__name__)


_Ask = Callable[[bytes, Record, UnixTime], Record | Load | Check | Refuse | None]


class StoreThread(Protocol):
    """Runs a function on the store's thread."""

    def __call__(self, function: Callable[[], Any]) -> Awaitable[Any]:
        """What ``function`` returns."""
        ...


class ValueStorage:
    """The values of others and where they are kept. ``call`` runs a function on the store's
    thread."""

    def __init__(
        self,
        store: Store,
        records: ValueRecords,
        runner: ValidatorRunner,
        call: StoreThread,
        clock: Clock,
        counters: Counter[str],
    ) -> None:
        self.records = records
        self._store = store
        self._runner = runner
        self._call = call
        self._clock = clock
        self._counters = counters

    async def open(self) -> None:
        """Learn which values are on disk; call once, before serving.

        Raises:
            StorageError: as the store says.
        """
        after = b""
        while True:
            page = await self._call(partial(self._store.values.page, after, INDEX_PAGE))
            self.records.remember_rows(page)
            if len(page) < INDEX_PAGE:
                return
            after = page[-1][0]
            await trio.lowlevel.checkpoint()

    async def load(self, key: bytes) -> None:
        """Bring the row of ``key`` into memory, if it can be read."""
        try:
            row = await self._call(partial(self._store.values.load, key))
        except StorageError as error:
            self.records.load_failed(key, self._clock.unix())
            self._failed("load", error)
        else:
            self.records.loaded(key, row, self._clock.unix())

    async def get(self, key: bytes) -> Record | None:
        """The record held under ``key``, read from the store if need be."""
        while isinstance(held := self.records.get(key, self._clock.unix()), Load):
            await self.load(key)
        return held

    async def put(self, record: Record) -> Record | Refuse:
        """Hold ``record`` if it is valid and not worse than the one held; the record as it is held
        now."""
        answer = await self._settled(self.records.put, record)
        assert answer is not None, "a put ends with the record or a refusal"
        return answer

    async def check(self, record: Record) -> Refuse | None:
        """Why :meth:`put` would not hold ``record`` now; None if it would."""
        answer = await self._settled(self.records.check, record)
        return answer if isinstance(answer, Refuse) else None

    async def _settled(self, ask: _Ask, record: Record) -> Record | Refuse | None:
        """What ``ask`` answers when rows are loaded and validators heard."""
        while True:
            answer = ask(record.key, record, self._clock.unix())
            match answer:
                case Load(_, key):
                    await self.load(key)
                case Check():
                    self.records.judged(answer, await self._runner.perform(answer))
                case Record() | Refuse() | None:
                    return answer

    async def flush(self) -> bool:
        """Write everything unsaved; False if the store could not."""
        while (batch := self.records.take_flush()) is not None:
            try:
                await self._call(partial(self._store.values.flush, batch))
            except BaseException as error:
                # Cancelled before the thread had it, for one: the flush at the end takes it again.
                self.records.flush_failed(batch)
                if not isinstance(error, StorageError):
                    raise
                self._failed("flush", error)
                return False
            self.records.flushed(batch)
            self._counters["values_written"] += len(batch.rows)
        return True

    def expire(self) -> None:
        """Let the values go that are too old."""
        self._counters["values_expired"] += self.records.expire(self._clock.unix())

    def _failed(self, what: str, error: StorageError) -> None:
        self._counters[f"values_{what}_failed"] += 1
        log.error("storage_failed", doing=f"{what} values", error=str(error))
