"""A virtual disk: does what ``core`` asks of a store, at once or after a delay.

Decides nothing. It holds the records and own keys of a node that outlive the node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from codio_dht.core.clock import UnixTime
from codio_dht.core.keyspace import key_of
from codio_dht.core.own_keys import OwnKeys
from codio_dht.core.records import EXPIRY_BATCH, FLUSH_INTERVAL_S, ProviderRecords
from codio_dht.core.reprovide import OwnKey, ReprovideSchedule
from codio_dht.core.steps import Load, LoadKind
from codio_dht.core.unsaved import Flush, ProviderRow
from codio_dht.params import REPROVIDE_INTERVAL_S
from codio_dht.sim.events import EventQueue

READ_S: Final = 0.002
"""Reading one key's rows, seconds."""


class VirtualDisk:
    """Provider rows of one node, by key and provider."""

    def __init__(self) -> None:
        self.rows: dict[bytes, dict[bytes, ProviderRow]] = {}

    def write(self, batch: Flush) -> int:
        """Write ``batch``. Return how many of its rows had no older version."""
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
        """Delete up to ``limit`` expired rows. Return the key of each."""
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


class KeyKeeper:
    """The own keys of one running node, in the order in which they are to be provided."""

    def __init__(self, queue: EventQueue, *, interval_s: float = REPROVIDE_INTERVAL_S) -> None:
        self._queue = queue
        self._keys: dict[bytes, UnixTime | None] = {}
        self._schedule = ReprovideSchedule(interval_s=interval_s)
        self.known = OwnKeys()

    def add(self, key: bytes, last_provided: UnixTime | None) -> None:
        """Keep ``key`` provided."""
        self.known.added(key, is_new=key not in self._keys)
        self._keys[key] = last_provided

    def read(self, key: bytes) -> None:
        """Tell :attr:`known` whether ``key`` is kept provided."""
        self.known.loaded(key, own=key in self._keys)

    def due(self, now: UnixTime) -> tuple[list[bytes], UnixTime | None]:
        """The keys to provide now, and if there is none, the time when the next one is due."""
        limit = self._schedule.begin_read()
        in_order = sorted(self._keys.items(), key=lambda each: each[1] or -1.0) if limit else []
        stored = [OwnKey(key, now, last) for key, last in in_order[:limit]]
        return self._schedule.due(now, stored)

    def begun(self, key: bytes) -> None:
        """``key`` is being provided."""
        self._schedule.begun(key)

    def provided(self, key: bytes, now: UnixTime) -> None:
        """``key`` was provided."""
        self._schedule.provided(key, now)
        self._keys[key] = now
        self._schedule.noted(key)

    def failed(self, key: bytes, now: UnixTime) -> None:
        """``key`` could not be provided."""
        self._schedule.failed(key, now)


class RecordKeeper:
    """The records and own keys of one running node, and its disk."""

    def __init__(
        self, queue: EventQueue, disk: VirtualDisk, ttl_s: float, keys: KeyKeeper | None = None
    ) -> None:
        self._queue = queue
        self._disk = disk
        self._keys = KeyKeeper(queue) if keys is None else keys
        self.records = ProviderRecords(ttl_s=ttl_s)
        self._build_filter()
        self._flush_planned = False
        self._stopped = False

    def stored(self) -> None:
        """Note that a record may have arrived. It is written within the flush interval."""
        if not self._flush_planned and self.records.stats().unsaved:
            self._flush_planned = True
            self._queue.after(FLUSH_INTERVAL_S, self._flush)

    def load(self, load: Load, done: Callable[[], None]) -> None:
        """Bring what ``load`` names into memory, then call ``done``."""

        def read() -> None:
            if self._stopped:
                return
            match load.kind:
                case LoadKind.PROVIDERS:
                    self.records.loaded(load.key, self._disk.read(load.key), self._queue.unix)
                case LoadKind.OWN_KEY:
                    self._keys.read(load.key)
                case LoadKind.VALUE:
                    raise AssertionError("simulated nodes keep no values")
            done()

        self._queue.after(READ_S, read)

    def expire(self) -> int:
        """Delete expired rows. Return their number."""
        keys = self._disk.delete_expired(self._queue.unix, EXPIRY_BATCH)
        self.records.expired(keys)
        if self.records.rebuild_due(self._queue.unix):
            self._build_filter()
        return len(keys)

    def stop(self, *, graceful: bool) -> None:
        """Stop the node. If it is ``graceful``, everything is written first."""
        if graceful:
            self._flush()
        self._stopped = True

    def _build_filter(self) -> None:
        rebuilt = self.records.begin_rebuild()
        for key, count in self._disk.counts():
            rebuilt.add(key_of(key), count)
        self.records.finish_rebuild(rebuilt)

    def _flush(self) -> None:
        self._flush_planned = False
        while not self._stopped and (batch := self.records.take_flush()) is not None:
            self.records.flushed(batch, self._disk.write(batch))
