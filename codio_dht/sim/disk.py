"""What a member stores: a virtual disk, and the memory of ``core`` in front of it.

Decides nothing. A disk outlives the node that writes to it. A :class:`SimulatedStorage` does what
``core`` asks of a store, at once or after a delay, as ``node.storage`` does in a node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from codio_dht.core.clock import UnixTime
from codio_dht.core.keyspace import key_of
from codio_dht.core.messages import Record
from codio_dht.core.own_keys import OwnKeys
from codio_dht.core.peer import PeerId
from codio_dht.core.records import EXPIRY_BATCH, FLUSH_INTERVAL_S, ProviderRecords
from codio_dht.core.steps import Load, LoadKind
from codio_dht.core.unsaved import Flush, ProviderRow
from codio_dht.core.validation import Check, Validators
from codio_dht.core.value_records import ValueFlush, ValueRecords, ValueRow
from codio_dht.sim.events import EventQueue
from codio_dht.sim.values import judge

T = TypeVar("T")

READ_S: Final = 0.002
"""Reading one key's rows, seconds."""


@dataclass(slots=True)
class VirtualDisk:
    """What of one node survives a restart."""

    rows: dict[bytes, dict[PeerId, ProviderRow]] = field(default_factory=dict)
    """Provider records of others, by key and provider."""
    values: dict[bytes, ValueRow] = field(default_factory=dict)
    """Values of others."""
    own_keys: dict[bytes, UnixTime | None] = field(default_factory=dict)
    """The keys that the node keeps provided, each with the time when it last was."""

    def write(self, batch: Flush) -> int:
        """Write ``batch``. Return how many of its rows had no older version."""
        added = 0
        for row in batch.rows:
            rows = self.rows.setdefault(row.key, {})
            is_new = row.provider not in rows
            if not is_new or len(rows) < batch.max_per_key:
                rows[row.provider] = row
                added += is_new
        return added

    def write_values(self, batch: ValueFlush) -> None:
        """Write ``batch``."""
        self.values |= {row.key: row for row in batch.rows}
        for key in batch.deleted:
            self.values.pop(key, None)

    def delete_expired(self, now: UnixTime, limit: int) -> list[bytes]:
        """Delete up to ``limit`` expired rows. Return the key of each."""
        expired = [
            row for rows in self.rows.values() for row in rows.values() if row.expires <= now
        ]
        for row in expired[:limit]:
            rows = self.rows[row.key]
            del rows[row.provider]
            if not rows:
                del self.rows[row.key]
        return [row.key for row in expired]


class SimulatedStorage:
    """The records, own keys and values of one running node."""

    def __init__(
        self,
        queue: EventQueue,
        local: PeerId,
        validators: Validators,
        disk: VirtualDisk,
        ttl_s: float,
    ) -> None:
        self._queue = queue
        self._validators = validators
        self.disk = disk
        self.records = ProviderRecords(ttl_s=ttl_s)
        self._build_filter()
        self.own_keys = OwnKeys()
        for key in disk.own_keys:
            self.own_keys.added(key, is_new=True)
        self.values = ValueRecords(local.key, validators)
        self.values.remember_rows(
            (row.key, len(row.value), row.received) for row in disk.values.values()
        )
        self._flush_planned = False
        self._stopped = False

    def __len__(self) -> int:
        """How many records and values are held."""
        return len(self.records) + len(self.values)

    def changed(self) -> None:
        """Note that something may have arrived. It is written within the flush interval."""
        unsaved = self.records.stats().unsaved or self.values.stats().unsaved
        if unsaved and not self._flush_planned:
            self._flush_planned = True
            self._queue.after(FLUSH_INTERVAL_S, self._flush)

    async def prepare(self, need: Load | Check) -> None:
        """Do what ``core`` needs before it can answer: read the disk, or let a validator judge."""
        if isinstance(need, Check):
            self.values.judged(need, await judge(self._queue, self._validators, need))
            return
        await self._queue.sleep(READ_S)
        key = need.key
        match need.kind:
            case LoadKind.PROVIDERS:
                rows = list(self.disk.rows.get(key, {}).values())
                self.records.loaded(key, rows, self._queue.unix)
            case LoadKind.OWN_KEY:
                self.own_keys.loaded(key, own=key in self.disk.own_keys)
            case LoadKind.VALUE:
                self.values.loaded(key, self.disk.values.get(key), self._queue.unix)

    async def settle(self, ask: Callable[[], T | Load | Check]) -> T:
        """What ``ask`` answers in the end, once everything that it needs was done."""
        while isinstance(answer := ask(), Load | Check):
            await self.prepare(answer)
        return answer

    async def provider_rows(self, key: bytes) -> tuple[ProviderRow, ...]:
        """The unexpired rows of ``key``."""
        return await self.settle(lambda: self.records.get(key, self._queue.unix))

    async def value(self, key: bytes) -> Record | None:
        """The value held under ``key``."""
        return await self.settle(lambda: self.values.get(key, self._queue.unix))

    async def hold(self, record: Record) -> None:
        """Hold ``record`` if it is valid and not worse than the one held."""
        await self.settle(lambda: self.values.put(record.key, record, self._queue.unix))
        self.changed()

    def expire(self) -> None:
        """Delete what has expired."""
        self.records.expired(self.disk.delete_expired(self._queue.unix, EXPIRY_BATCH))
        if self.records.rebuild_due(self._queue.unix):
            self._build_filter()
        self.values.expire(self._queue.unix)
        self.changed()

    def stop(self, *, graceful: bool) -> None:
        """Stop the node. If it is ``graceful``, everything is written first."""
        if graceful:
            self._flush()
        self._stopped = True

    def _build_filter(self) -> None:
        rebuilt = self.records.begin_rebuild()
        for key, rows in self.disk.rows.items():
            rebuilt.add(key_of(key), len(rows))
        self.records.finish_rebuild(rebuilt)

    def _flush(self) -> None:
        self._flush_planned = False
        while not self._stopped and (batch := self.records.take_flush()) is not None:
            self.records.flushed(batch, self.disk.write(batch))
        while not self._stopped and (values := self.values.take_flush()) is not None:
            self.disk.write_values(values)
            self.values.flushed(values)
