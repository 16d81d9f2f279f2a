"""Provider records of others: who provides what, as far as this node was told.

Decides which records are taken, which are told, and what must be read from or written to the store,
which the node does for it:

    add    at once, never waits for the store: into memory, and into the unsaved writes
    get    rows, or ``Load``: then the node reads the key's rows, calls ``loaded`` (or
           ``load_failed``), and asks again
    take_flush / flushed / flush_failed    the node writes one batch at a time
    expired                                the node deleted rows that had expired

Memory holds three things, each bounded: the rows of keys that were asked for (a cache; the key not
asked for for longest leaves), the unsaved writes (:mod:`codio_dht.core.unsaved`), and a filter of
the keys on disk (:mod:`codio_dht.core.key_filter`): where it is complete, a key without records
costs no read.

Other processes may write to the same store. Every load brings the store's count of changes by
others. If it moved, nothing in memory is believed any more: rows are read again when they are asked
for next, and the filter denies no key until it has been built anew, which waits until the others
have been quiet for ``REBUILD_REST_S``. So that this is noticed, a question that memory could answer
becomes a ``Load`` once in ``CHANGES_CHECK_S``: what others write is told at most that much (and one
load) later. A store that nobody else can write to has no such count, and costs none of this.

What happens at the bounds:
- Of a key with many providers, :mod:`codio_dht.core.places` decides who is among them. Where the
  key is not in memory the store holds to this (``Flush.max_per_key``).
- An origin pays for each record that is not known to be a refresh. What it cannot pay for is
  refused. When more than half of all that can be kept is used, the price rises.
- At ``max_records`` in all, or ``max_disk_bytes``, no new record is taken.
- A refresh is taken at both bounds. Where only the store can tell whether it is one, it is written
  only if it is.
- While the unsaved writes are full (the store fails or is too slow), nothing is taken but newer
  versions of what is waiting there.

All times are Unix time. A record that has expired is never told; its addresses expire before it.
Neither is one told that claims to live for longer than any record does: it was taken while the
clock was ahead, nobody knows how old it is, and its provider will provide again.
Reports may come late: what is written while a load is under way is merged into what it brings. One
load of a key is under way at a time.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Final

from codio_dht.core.clock import CLOCK_TOLERANCE_S, UnixTime
from codio_dht.core.key_filter import KeyFilter, StoredKeys
from codio_dht.core.keyspace import Key
from codio_dht.core.origins import RecordOrigin
from codio_dht.core.peer import PeerId
from codio_dht.core.places import UNKNOWN, find_place
from codio_dht.core.steps import Load, LoadKind
from codio_dht.core.unsaved import Flush, ProviderRow, Rows, Unsaved
from codio_dht.params import (
    MAX_ADDRS_PER_PEER,
    MAX_PROVIDER_RECORDS,
    MAX_PROVIDERS_PER_KEY,
    PROVIDER_ADDR_TTL_S,
    PROVIDER_TTL_S,
)

__all__ = ["Flush", "ProviderRecords", "ProviderRow", "RecordOutcome", "RecordStats"]

MAX_RECORD_ADDR_BYTES: Final = 4 * 1024
"""Addresses of one provider record together, in bytes; later ones are dropped."""

MAX_CACHED_PROVIDER_BYTES: Final = 32 * 1024 * 1024
"""Memory of provider rows read from the store, in bytes (estimated). Past it the rows of the key
that was not asked for for longest leave memory."""

MAX_OVERTAKING_ROWS: Final = 4_096
"""Rows of one key that are written while the key is being read and are merged into what is read;
past it the load counts for nothing and the key is read again."""

MAX_TRACKED_LOADS: Final = 1_024
"""Keys being read that are watched for writes that overtake the load; past it the oldest is no
longer watched, and its rows may be missing those writes until they leave the cache."""

LOAD_RETRY_S: Final = 10.0
"""A key whose rows could not be read is answered from memory for this long, seconds."""

CHANGES_CHECK_S: Final = 10.0
"""How often the store is asked whether another process has written to it, in seconds, while this
node is being asked for providers: for this long at most it tells what another process has
replaced."""

REBUILD_REST_S: Final = 600.0
"""How long no other process may have written, in seconds, before the filter of stored keys is built
anew: where a fleet writes all the time, that would cost more than it saves."""

FLUSH_INTERVAL_S: Final = 1.0
"""Unsaved provider records are written this often, seconds: a crash loses no more than that."""

EXPIRY_INTERVAL_S: Final = 600.0
"""Expired provider rows are deleted this often, seconds (GO: hourly)."""

EXPIRY_BATCH: Final = 5_000
"""Expired rows deleted in one transaction, so that loads and flushes have their turn."""

MAX_DISK_BYTES: Final = 1024 * 1024 * 1024
"""Disk that the store of records may take, in bytes; past it no new record is taken. Two million
records of the usual size fit into it."""

_ROW_DISK_BYTES: Final = 160
"""What a row takes on the disk beside its record and, twice, its key and provider, estimated."""

_DEAR_FROM: Final = 0.5
"""The part that may be free before records cost more."""

_KEY_OVERHEAD_BYTES: Final = 500
"""A cached key without its rows, estimated."""


class RecordOutcome(Enum):
    """What became of a record."""

    ADDED = "added"
    """Taken; also where only the store knows that it had an older one."""
    REFRESHED = "refreshed"
    """Taken in place of an older one (or, when full, if the store has an older one)."""
    REFUSED_KEY_FULL = "refused_key_full"
    """The key has no place for this provider (:mod:`codio_dht.core.places`)."""
    REFUSED_ORIGIN = "refused_origin"
    """The provider's origin has as many records here as it may have."""
    REFUSED_FULL = "refused_full"
    """The records, or the unsaved writes, are as many as are kept."""


@dataclass(frozen=True, slots=True)
class RecordStats:
    """Counts, for people and metrics."""

    records: int
    """Records held, unsaved ones and expired ones not yet deleted included."""
    keys: int
    """Keys with records on disk, those whose records are gone since the last rebuild included; 0
    until the filter was built after a start."""
    unsaved: int
    cached_keys: int
    cached_bytes: int
    loading: int
    outcomes: dict[str, int]
    """How often ``add`` came to each outcome."""


class _Cached:
    """The rows of one key: all of them, or (``partial``) what is known without the store."""

    __slots__ = ("epoch", "partial_since", "rows", "size", "view", "view_from", "view_until")

    def __init__(self, rows: Rows, epoch: int, partial_since: UnixTime | None = None) -> None:
        self.rows = rows
        self.epoch = epoch
        self.partial_since = partial_since
        self.size = _KEY_OVERHEAD_BYTES + sum([row.memory_bytes for row in rows.values()])
        self.view: tuple[ProviderRow, ...] = ()
        self.view_from = inf
        self.view_until = -inf

    def put(self, row: ProviderRow) -> int:
        """Take in ``row``; by how much that grew."""
        provider = row.provider.to_bytes()
        old = self.rows.get(provider)
        self.rows[provider] = row
        self.view_until = -inf
        growth = row.memory_bytes - (0 if old is None else old.memory_bytes)
        self.size += growth
        return growth

    def drop(self, provider: bytes) -> int:
        """Let the row of ``provider`` go; by how much that shrank."""
        size = self.rows.pop(provider).memory_bytes
        self.view_until = -inf
        self.size -= size
        return size

    def unexpired(self, now: UnixTime, longest_s: float) -> tuple[ProviderRow, ...]:
        """What may be told: rows that expire in the next ``longest_s`` seconds. The same object
        until that changes, whichever way the clock goes."""
        if not self.view_from <= now < self.view_until:
            told = []
            self.view_from, self.view_until = -inf, inf
            for row in self.rows.values():
                ends = row.expires
                begins = ends - longest_s
                if ends <= now:
                    self.view_from = max(self.view_from, ends)
                elif begins <= now:
                    told.append(row)
                    self.view_from = max(self.view_from, begins)
                    self.view_until = min(self.view_until, ends)
                else:
                    self.view_until = min(self.view_until, begins)
            self.view = tuple(told)
        return self.view


class ProviderRecords:
    """Provider records of others: takes, tells and expires them, and says what the store does."""

    def __init__(
        self,
        *,
        ttl_s: float = PROVIDER_TTL_S,
        addr_ttl_s: float = PROVIDER_ADDR_TTL_S,
        max_per_key: int = MAX_PROVIDERS_PER_KEY,
        max_records: int = MAX_PROVIDER_RECORDS,
        max_disk_bytes: int = MAX_DISK_BYTES,
        max_cached_bytes: int = MAX_CACHED_PROVIDER_BYTES,
        unsaved: Unsaved | None = None,
    ) -> None:
        self.ttl_s = ttl_s
        self._longest_s = ttl_s + CLOCK_TOLERANCE_S
        self._addr_ttl_s = min(addr_ttl_s, ttl_s)
        self._max_per_key = max_per_key
        self._max_records = max_records
        self._max_disk_bytes = max_disk_bytes
        self.disk_bytes = 0
        """What the store takes on the disk, in bytes, as the node measured it last."""
        self._max_cached_bytes = max_cached_bytes
        self._unsaved = Unsaved() if unsaved is None else unsaved
        self._cache: OrderedDict[bytes, _Cached] = OrderedDict()
        self._cached_bytes = 0
        self._loading: OrderedDict[bytes, list[tuple[ProviderRow, bool]] | None] = OrderedDict()
        """Keys being read, and what was written meanwhile; None if rows of it were deleted, or more
        written than ``MAX_OVERTAKING_ROWS``: what is read then counts for nothing."""
        self._stored = StoredKeys(max_records)
        self._on_disk = 0
        self._added_since_rebuild = 0
        self._changes: int | None = None
        """The store's count of changes by others, as of the last load; None if there are none."""
        self._checked_at = UnixTime(0.0)
        self._others_wrote_at = -inf
        self._epoch = 0
        """How often others were seen to have written: cached rows of an earlier epoch are not
        believed."""
        self._outcomes: Counter[str] = Counter()

    # --- records ----------------------------------------------------------------------------------

    def add(
        self,
        key: bytes,
        provider: PeerId,
        addrs: tuple[bytes, ...],
        now: UnixTime,
        origin: RecordOrigin | None = None,
    ) -> RecordOutcome:
        """``provider`` said that it provides ``key`` and is found at ``addrs``. Without an
        ``origin`` nobody pays."""
        outcome = self._add(key, provider, addrs, now, origin)
        self._outcomes[outcome.value] += 1
        return outcome

    def _add(
        self,
        key: bytes,
        provider: PeerId,
        addrs: tuple[bytes, ...],
        now: UnixTime,
        origin: RecordOrigin | None,
    ) -> RecordOutcome:
        unsaved = self._unsaved
        provider_id = provider.to_bytes()
        row = ProviderRow(
            key,
            provider,
            _bounded(addrs),
            now,
            UnixTime(now + self._addr_ttl_s),
            UnixTime(now + self.ttl_s),
            UNKNOWN if origin is None else origin.subnet,
        )
        if not unsaved.has_room(row):
            return RecordOutcome.REFUSED_FULL
        cached = self._cache.get(key)
        free = self._free()
        full = free <= 0
        sure = True
        place: bytes | bool = True
        if cached is not None and self._is_whole(cached):
            known = provider_id in cached.rows
            if not known:
                place = self._place(cached.rows, row)
                if place is False:
                    return RecordOutcome.REFUSED_KEY_FULL
                if full:
                    return RecordOutcome.REFUSED_FULL
        else:
            known = unsaved.is_sure(key, provider_id) or unsaved.writes(key, provider_id)
            key_full = not known and unsaved.has_providers(key, self._max_per_key)
            if key_full or (full and not known):
                if not self._stored.may_hold(key):
                    return (
                        RecordOutcome.REFUSED_KEY_FULL if key_full else RecordOutcome.REFUSED_FULL
                    )
                sure = False
        if not known and sure and origin is not None:
            price = _disk_bytes(row) * max(_DEAR_FROM / free, 1.0)
            if not origin.affords(price):
                return RecordOutcome.REFUSED_ORIGIN
            origin.pay(price)
        unsaved.put(row, sure=sure)
        if cached is not None:
            if isinstance(place, bytes):
                self._cached_bytes -= cached.drop(place)
            self._cached_bytes += cached.put(row)
            self._evict()
        return RecordOutcome.REFRESHED if known or not sure else RecordOutcome.ADDED

    def _free(self) -> float:
        """The part of what can be kept that is free."""
        rows = (self._on_disk + self._unsaved.new_rows) / self._max_records
        return 1.0 - max(rows, self.disk_bytes / self._max_disk_bytes)

    def _place(self, rows: Rows, row: ProviderRow) -> bytes | bool:
        subnets = {provider: each.subnet for provider, each in rows.items()}
        return find_place(subnets, row.subnet, self._max_per_key)

    def get(
        self, key: bytes, now: UnixTime, point: Key | None = None
    ) -> tuple[ProviderRow, ...] | Load:
        """The unexpired rows of ``key``; the same tuple until they change. ``point`` is
        ``key_of(key)``, where the caller knows it."""
        if self._changes is not None and self._is_check_due(now):
            self._checked_at = now  # the others are answered from memory meanwhile
            return self._load(key)
        cached = self._cache.get(key)
        if cached is not None:
            if cached.epoch == self._epoch and not self._is_due_again(cached, now):
                self._cache.move_to_end(key)
                return cached.unexpired(now, self._longest_s)
            self._forget(key)
        if self._stored.may_hold(key, point):
            return self._load(key)
        rows: Rows = {}
        self._merge(rows, self._unsaved.rows_of(key))
        if not rows:
            return ()
        return self._remember(key, _Cached(rows, self._epoch)).unexpired(now, self._longest_s)

    # --- loads ------------------------------------------------------------------------------------

    def loaded(
        self,
        key: bytes,
        rows: Iterable[ProviderRow],
        now: UnixTime,
        changes: int | None = None,
    ) -> None:
        """The store has ``rows`` for ``key``, and ``changes`` was its count of changes by others
        before that was read (None: nobody else can write to it).

        The rows count for nothing if they are in memory already, or if some were deleted meanwhile
        or very many written: :meth:`get` then asks for another load.
        """
        self._note_changes(changes, now)
        overtaking = self._loading.pop(key, [])
        cached = self._cache.get(key)
        if overtaking is None or (cached is not None and self._is_whole(cached)):
            return
        self._forget(key)
        merged = {row.provider.to_bytes(): row for row in rows}
        self._merge(merged, overtaking)
        self._merge(merged, self._unsaved.rows_of(key))
        self._remember(key, _Cached(merged, self._epoch))

    def load_failed(self, key: bytes, now: UnixTime) -> None:
        """The store could not read ``key``: for a while it is answered from memory alone."""
        self._checked_at = now
        self._loading.pop(key, None)
        cached = self._cache.get(key)
        if cached is None or cached.epoch != self._epoch:
            rows: Rows = {} if cached is None else cached.rows
            self._forget(key)
            self._merge(rows, self._unsaved.rows_of(key))
            self._remember(key, _Cached(rows, self._epoch, partial_since=now))

    def _load(self, key: bytes) -> Load:
        if key not in self._loading:
            if len(self._loading) >= MAX_TRACKED_LOADS:
                self._loading.popitem(last=False)
            self._loading[key] = []
        return Load(LoadKind.PROVIDERS, key)

    def _is_check_due(self, now: UnixTime) -> bool:
        """Whether the store has not said for long whether others wrote (or the clock was set)."""
        return not self._checked_at <= now < self._checked_at + CHANGES_CHECK_S

    def _note_changes(self, changes: int | None, now: UnixTime) -> None:
        self._checked_at = now
        if changes == self._changes:
            return
        self._changes = changes
        self._others_wrote_at = now
        self._epoch += 1
        self._stored.distrust()

    def _merge(self, rows: Rows, younger: Iterable[tuple[ProviderRow, bool]]) -> None:
        """Do to ``rows`` what the store does when it writes ``younger``."""
        for row, sure in younger:
            provider = row.provider.to_bytes()
            place = provider in rows or (sure and self._place(rows, row))
            if isinstance(place, bytes):
                del rows[place]
            if place:
                rows[provider] = row

    # --- writes -----------------------------------------------------------------------------------

    def take_flush(self) -> Flush | None:
        """The next batch to write; None while one is being written, or if all is. Report it with
        :meth:`flushed` or :meth:`flush_failed`."""
        return self._unsaved.take(self._max_per_key)

    def flushed(self, batch: Flush, added: int) -> None:
        """``batch`` is on disk, with ``added`` rows that had no older version there. A no-op for
        any other batch than the one taken last."""
        if not self._unsaved.written(batch):
            return
        adds = batch.max_per_key > 0
        for row in batch.rows:
            key = row.key
            overtaken = self._loading.get(key)
            if overtaken is not None:
                if len(overtaken) < MAX_OVERTAKING_ROWS:
                    overtaken.append((row, adds))
                else:
                    self._loading[key] = None
            if adds:
                self._stored.add(key)
        self._added_since_rebuild += added
        self._on_disk += added

    def flush_failed(self, batch: Flush) -> None:
        """``batch`` could not be written: nothing of it is lost, :meth:`take_flush` returns it
        again before anything younger. A no-op for any other batch than the one taken last."""
        self._unsaved.failed(batch)

    def expired(self, keys: Iterable[bytes]) -> None:
        """The store deleted a row of each of ``keys`` (one may come several times): it had expired,
        or expired too late."""
        for key in keys:
            self._forget(key)
            if key in self._loading:
                self._loading[key] = None
            self._stored.removed()
            self._on_disk = max(0, self._on_disk - 1)

    def latest_expiry(self, now: UnixTime) -> UnixTime:
        """What expires after this was taken while the clock was ahead, and is to be deleted."""
        return UnixTime(now + self._longest_s)

    # --- the filter of stored keys ----------------------------------------------------------------

    def opened(self, count: int, changes: int | None = None) -> None:
        """The store holds ``count`` rows, and ``changes`` is its count of changes by others. For
        the start, before anything is asked; until the filter was built every key may be in the
        store."""
        self._on_disk = count
        self._changes = changes
        if count:
            self._stored.distrust()

    def rebuild_due(self, now: UnixTime) -> bool:
        """Whether the filter should be built anew: it is incomplete and the others are quiet, or
        many of its keys are gone."""
        return self._stored.rebuild_due() and (
            not self._others_wrote_at <= now < self._others_wrote_at + REBUILD_REST_S
        )

    def begin_rebuild(self) -> KeyFilter:
        """An empty filter, to be filled (on any thread) with every key in the store and its count,
        and then handed to :meth:`finish_rebuild`."""
        self._added_since_rebuild = 0
        return self._stored.begin_rebuild()

    def take_written(self) -> Iterable[Key]:
        """Keys written since the rebuild began or this was called last: to be added to the new
        filter, so that few are left for :meth:`finish_rebuild`."""
        return self._stored.take_written()

    def finish_rebuild(self, rebuilt: KeyFilter) -> bool:
        """Use ``rebuilt`` from now on. False, and a no-op, without a :meth:`begin_rebuild`, or if
        others wrote to the store since."""
        if not self._stored.finish_rebuild(rebuilt):
            return False
        self._on_disk = rebuilt.rows + self._added_since_rebuild
        return True

    # --- counts -----------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Records held, expired ones not yet deleted included."""
        return self._on_disk + self._unsaved.new_rows

    def stats(self) -> RecordStats:
        """Counts at this moment."""
        return RecordStats(
            records=len(self),
            keys=len(self._stored),
            unsaved=len(self._unsaved),
            cached_keys=len(self._cache),
            cached_bytes=self._cached_bytes,
            loading=len(self._loading),
            outcomes=dict(self._outcomes),
        )

    # --- the cache --------------------------------------------------------------------------------

    def _is_whole(self, cached: _Cached) -> bool:
        """Whether these are all rows that the store has, as far as is known."""
        return cached.partial_since is None and cached.epoch == self._epoch

    def _is_due_again(self, cached: _Cached, now: UnixTime) -> bool:
        """Whether rows that miss the store's part are due for another try."""
        since = cached.partial_since
        return since is not None and not since <= now < since + LOAD_RETRY_S

    def _remember(self, key: bytes, cached: _Cached) -> _Cached:
        self._cache[key] = cached
        self._cached_bytes += cached.size
        self._evict()
        return cached

    def _forget(self, key: bytes) -> None:
        cached = self._cache.pop(key, None)
        if cached is not None:
            self._cached_bytes -= cached.size

    def _evict(self) -> None:
        """Forget keys until the bound holds; one key is always kept, and is bounded itself."""
        while self._cached_bytes > self._max_cached_bytes and len(self._cache) > 1:
            _, cached = self._cache.popitem(last=False)
            self._cached_bytes -= cached.size


def _disk_bytes(row: ProviderRow) -> int:
    """What ``row`` takes on the disk, estimated: its key and provider are in an index, too."""
    names = len(row.key) + len(row.provider.to_bytes())
    return _ROW_DISK_BYTES + 2 * names + sum(map(len, row.addrs))


def _bounded(addrs: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The first addresses that fit into a record."""
    if len(addrs) <= MAX_ADDRS_PER_PEER and sum(map(len, addrs)) <= MAX_RECORD_ADDR_BYTES:
        return addrs
    kept: list[bytes] = []
    size = 0
    for addr in addrs[:MAX_ADDRS_PER_PEER]:
        size += len(addr)
        if size > MAX_RECORD_ADDR_BYTES:
            break
        kept.append(addr)
    return tuple(kept)
