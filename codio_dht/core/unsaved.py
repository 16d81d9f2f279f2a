"""Provider rows that the store does not have yet, and the one batch that is being written.

Decides what is written next, and that nothing is lost when a write fails. Two kinds of rows wait:

    sure     to be written as they are
    perhaps  taken while the node was full, because they may refresh a record on disk: written only
             where the store has that record already (``Flush.max_per_key`` of 0)

    waiting --take--> in flight --written--> gone
                      in flight --failed--> held back --take--> in flight (the same batch again)

A batch that failed is tried again as it was, before anything younger, so the order of writes is the
order of arrival. What waits and what is in flight share one bound: no retry ever grows memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from codio_dht.core.addresses import AddressFilter
from codio_dht.core.clock import UnixTime
from codio_dht.core.messages import PeerEntry
from codio_dht.core.peer import PeerId
from codio_dht.core.places import UNKNOWN

MAX_UNSAVED_RECORDS: Final = 65_536
"""Provider records that are not yet written to the store. Past it new ones are refused until a
write succeeds: they could not be kept anyway."""

MAX_UNSAVED_BYTES: Final = 32 * 1024 * 1024
"""Memory of the provider records that are not yet written to the store, in bytes (estimated). Past
it new ones are refused until a write succeeds."""

FLUSH_BATCH_ROWS: Final = 512
"""Provider records written in one transaction, so that its bookkeeping stays near 2 ms."""

_ROW_OVERHEAD_BYTES: Final = 660
"""A row with its id, its times and its places in dicts, estimated."""

_ADDR_OVERHEAD_BYTES: Final = 41
"""A ``bytes`` object and its place in a tuple."""


@dataclass(frozen=True, slots=True)
class ProviderRow:
    """One provider of one key as it is kept: all times Unix seconds, addresses binary."""

    key: bytes
    provider: PeerId
    addrs: tuple[bytes, ...]
    received: UnixTime
    addrs_expire: UnixTime
    expires: UnixTime
    subnet: bytes = UNKNOWN
    """Where the provider was seen (:func:`codio_dht.core.origins.subnet_of`), for the places of its
    key."""
    entry: tuple[AddressFilter, PeerEntry] | None = field(
        default=None, init=False, compare=False, repr=False
    )
    """The responders' cache: this row's entry, and the filter its addresses have passed. Networks
    with other filters share the row. Nobody else reads or writes it."""
    memory_bytes: int = field(default=0, init=False, compare=False, repr=False)
    """What the row takes in memory, estimated."""

    def __post_init__(self) -> None:
        addrs = self.addrs
        size = _ROW_OVERHEAD_BYTES + sum(map(len, addrs)) + _ADDR_OVERHEAD_BYTES * len(addrs)
        object.__setattr__(self, "memory_bytes", size)


@dataclass(frozen=True, slots=True)
class Flush:
    """Rows to write in one transaction. A row that exists is replaced. A new row of a key with
    ``max_per_key`` places is added, left out, or takes the place of another, as
    :func:`codio_dht.core.places.find_place` says."""

    rows: tuple[ProviderRow, ...]
    max_per_key: int


Rows = dict[bytes, ProviderRow]
"""Rows of one key by the provider's bytes."""

_NO_ROWS: Rows = {}


class _Waiting:
    """Rows of one kind, by key, oldest first."""

    __slots__ = ("by_key", "count", "size")

    def __init__(self) -> None:
        self.by_key: dict[bytes, Rows] = {}
        self.count = 0
        self.size = 0

    def get(self, key: bytes, provider: bytes) -> ProviderRow | None:
        return self.by_key.get(key, _NO_ROWS).get(provider)

    def put(self, row: ProviderRow) -> None:
        rows = self.by_key.setdefault(row.key, {})
        old = rows.get(row.provider.to_bytes())
        rows[row.provider.to_bytes()] = row
        self.size += row.memory_bytes
        if old is None:
            self.count += 1
        else:
            self.size -= old.memory_bytes

    def pop(self, key: bytes, provider: bytes) -> ProviderRow | None:
        rows = self.by_key.get(key, _NO_ROWS)
        if provider not in rows:
            return None
        row = rows.pop(provider)
        if not rows:
            del self.by_key[key]
        self.count -= 1
        self.size -= row.memory_bytes
        return row

    def take(self, limit: int) -> list[ProviderRow]:
        """Take out up to ``limit`` rows, the key that has waited for longest first."""
        taken: list[ProviderRow] = []
        finished = []
        for key, rows in self.by_key.items():
            room = limit - len(taken)
            if len(rows) <= room:
                taken += rows.values()
                finished.append(key)
                continue
            for provider in list(rows)[:room]:
                taken.append(rows.pop(provider))
            break
        for key in finished:
            del self.by_key[key]
        self.count -= len(taken)
        self.size -= sum([row.memory_bytes for row in taken])
        return taken


class Unsaved:
    """Provider rows that the store does not have yet, and the one batch that is being written."""

    def __init__(
        self,
        *,
        max_rows: int = MAX_UNSAVED_RECORDS,
        max_bytes: int = MAX_UNSAVED_BYTES,
        batch_rows: int = FLUSH_BATCH_ROWS,
    ) -> None:
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._batch_rows = batch_rows
        self._sure = _Waiting()
        self._perhaps = _Waiting()
        self._batch: Flush | None = None
        self._batch_by_key: dict[bytes, Rows] = {}
        self._batch_size = 0
        self._in_flight = False

    def __len__(self) -> int:
        """Rows that wait or are in flight."""
        return self._sure.count + self._perhaps.count + self._batch_len()

    @property
    def new_rows(self) -> int:
        """At most so many rows more will be on disk once all is written."""
        adds = self._batch is not None and self._batch.max_per_key > 0
        return self._sure.count + (self._batch_len() if adds else 0)

    def has_room(self, row: ProviderRow) -> bool:
        """Whether ``row`` fits the bounds; one that replaces a waiting row needs no new place."""
        key, provider = row.key, row.provider.to_bytes()
        old = self._sure.get(key, provider) or self._perhaps.get(key, provider)
        size = self._sure.size + self._perhaps.size + self._batch_size
        if old is None:
            return len(self) < self._max_rows and size + row.memory_bytes <= self._max_bytes
        growth = row.memory_bytes - old.memory_bytes
        return growth <= 0 or size + growth <= self._max_bytes

    def is_sure(self, key: bytes, provider: bytes) -> bool:
        """Whether a row of ``provider`` waits to be written whatever the store has."""
        return self._sure.get(key, provider) is not None

    def writes(self, key: bytes, provider: bytes) -> bool:
        """Whether a row of ``provider`` is in flight and will be on disk."""
        adds = self._batch is not None and self._batch.max_per_key > 0
        return adds and provider in self._batch_by_key.get(key, _NO_ROWS)

    def has_providers(self, key: bytes, count: int) -> bool:
        """Whether ``count`` providers of ``key`` wait or are in flight."""
        sure = self._sure.by_key.get(key, _NO_ROWS)
        flying = self._batch_by_key.get(key, _NO_ROWS)
        total = len(sure) + len(flying) + len(self._perhaps.by_key.get(key, _NO_ROWS))
        if total < count:
            return False
        fewer, more = sorted((sure, flying), key=len)
        return total - sum([provider in more for provider in fewer]) >= count

    def rows_of(self, key: bytes) -> Iterator[tuple[ProviderRow, bool]]:
        """The rows of ``key`` in the order in which they will be written, and whether each is sure
        to be (as far as the limit per key allows)."""
        if self._batch is not None:
            adds = self._batch.max_per_key > 0
            for row in self._batch_by_key.get(key, _NO_ROWS).values():
                yield row, adds
        for row in self._sure.by_key.get(key, _NO_ROWS).values():
            yield row, True
        for row in self._perhaps.by_key.get(key, _NO_ROWS).values():
            yield row, False

    def put(self, row: ProviderRow, *, sure: bool) -> None:
        """Let ``row`` wait, in place of an older one of the same provider."""
        if sure:
            self._perhaps.pop(row.key, row.provider.to_bytes())
            self._sure.put(row)
        else:
            self._perhaps.put(row)

    def take(self, max_per_key: int) -> Flush | None:
        """The next batch to write; None while one is in flight, or if there is nothing."""
        if self._in_flight:
            return None
        if self._batch is None:
            if self._sure.count:
                self._batch = Flush(tuple(self._sure.take(self._batch_rows)), max_per_key)
            elif self._perhaps.count:
                self._batch = Flush(tuple(self._perhaps.take(self._batch_rows)), 0)
            else:
                return None
            self._batch_size = sum([row.memory_bytes for row in self._batch.rows])
            for row in self._batch.rows:
                self._batch_by_key.setdefault(row.key, {})[row.provider.to_bytes()] = row
        self._in_flight = True
        return self._batch

    def written(self, batch: Flush) -> bool:
        """``batch`` is on disk. False, and a no-op, if it is not the one in flight."""
        if not self._in_flight or batch is not self._batch:
            return False
        self._in_flight = False
        self._batch = None
        self._batch_by_key = {}
        self._batch_size = 0
        return True

    def failed(self, batch: Flush) -> bool:
        """``batch`` could not be written and will be taken again. False, and a no-op, if it is not
        the one in flight."""
        if not self._in_flight or batch is not self._batch:
            return False
        self._in_flight = False
        return True

    def _batch_len(self) -> int:
        return 0 if self._batch is None else len(self._batch.rows)
