"""A virtual disk: does what ``core.records`` asks of a store, at once or after a delay.

Decides nothing. It is what of a node's records outlives the node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from codio_dht.core.clock import UnixTime
from codio_dht.core.records import ProviderRecords
from codio_dht.core.unsaved import Flush, ProviderRow
from codio_dht.params import EXPIRY_BATCH, FLUSH_INTERVAL_S
from codio_dht.sim.events import EventQueue

READ_S: Final = 0.002
"""Reading one key's rows, seconds."""


class VirtualDisk:
    """Provider rows of one node, by key and provider."""

    def __init__(self) -> None:
        self.rows: dict[bytes, dict[bytes, ProviderRow]] = {}

    def write(self, batch: Flush) -> int:
        """Write ``batch``; how many of its rows had no older version."""
        added = 0
        for row in batch.rows:
            rows = self.rows.setdefault(row.key, {})
            provider = row.provider.to_bytes()
            if provider in rows:
                rows[provider] = row
            elif len(rows) < batch.max_per_key:
                rows[provider] = row
                added += 1
            if not rows:
                del self.rows[row.key]
        return added

    def read(self, key: bytes) -> list[ProviderRow]:
        """The rows of ``key``."""
        return list(self.rows.get(key, {}).values())

    def counts(self) -> Iterator[tuple[bytes, int]]:
        """Every key with its number of rows."""
        return ((key, len(rows)) for key, rows in self.rows.items())

    def delete_expired(self, now: UnixTime, limit: int) -> list[bytes]:
        """Delete up to ``limit`` expired rows; the key of each."""
        deleted: list[bytes] = []
        for key in list(self.rows):
            rows = self.rows[key]
            expired = [each for each, row in rows.items() if row.expires <= now]
            for provider in expired[: limit - len(deleted)]:
                del rows[provider]
                deleted.append(key)
            if not rows:
                del self.rows[key]
        return deleted


class RecordKeeper:
    """The records of one running node and its disk."""

    def __init__(self, queue: EventQueue, disk: VirtualDisk, ttl_s: float) -> None:
        self._queue = queue
        self._disk = disk
        self.records = ProviderRecords(ttl_s=ttl_s)
        self.records.remember_keys(disk.counts())
        self._flush_planned = False
        self._stopped = False

    def stored(self) -> None:
        """A record may have come in: it is written within the flush interval."""
        if not self._flush_planned and self.records.stats().unsaved:
            self._flush_planned = True
            self._queue.after(FLUSH_INTERVAL_S, self._flush)

    def load(self, key: bytes, done: Callable[[], None]) -> None:
        """Bring the rows of ``key`` into memory, then call ``done``."""

        def read() -> None:
            if not self._stopped:
                self.records.loaded(key, self._disk.read(key), self._queue.unix)
                done()

        self._queue.after(READ_S, read)

    def expire(self) -> int:
        """Delete what has expired; how many rows."""
        keys = self._disk.delete_expired(self._queue.unix, EXPIRY_BATCH)
        self.records.expired(keys)
        if self.records.rebuild_due():
            rebuilt = self.records.begin_rebuild()
            for key, count in self._disk.counts():
                rebuilt.add(key, count)
            self.records.finish_rebuild(rebuilt)
        return len(keys)

    def stop(self, *, graceful: bool) -> None:
        """The node ends; if it was told to, everything is written first."""
        if graceful:
            self._flush()
        self._stopped = True

    def _flush(self) -> None:
        self._flush_planned = False
        while not self._stopped and (batch := self.records.take_flush()) is not None:
            self.records.flushed(batch, self._disk.write(batch))
