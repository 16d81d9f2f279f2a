"""Values of others under their keys: what a server holds, takes and tells (GET_VALUE, PUT_VALUE).

Decides which values are taken, how long they are told, and which leave when there are too many.
The caller does what must be done elsewhere, and asks again:

    get    a record, nothing, or ``Load``: read the key's row, then ``loaded`` (or ``load_failed``)
    put    the record as it is held now, ``Refuse``, ``Load``, or ``Check``: let the application's
           validator judge (core.validation), then ``judged``
    check  the same without holding it: None, or why it would not be taken
    take_flush / flushed / flush_failed    one batch at a time is written
    expire                                 rows that are too old leave, here and then on disk

Rules, all of them GO's (kad.md A.6): a value is taken only if its validator finds it valid and not
worse than the one held; the one held counts only while it is valid and young enough; the moment at
which it arrived is this node's own; the same value put again is held for longer.

Memory holds an index of the keys on disk with the age and size of their values, the values that
wait to be written, and a cache of values. All are bounded: one value a key, its size, the
keys and the bytes in all. When these are used up, the key that is farthest from this node's own id
leaves; if that is the newcomer's, it is refused.

Times are Unix time. Late and unexpected reports are no-ops.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from codio_dht.core.clock import CLOCK_TOLERANCE_S, UnixTime
from codio_dht.core.keyspace import Key, distance, key_of
from codio_dht.core.messages import Record
from codio_dht.core.records import LOAD_RETRY_S, MAX_TRACKED_LOADS
from codio_dht.core.steps import Load, LoadKind, Refuse
from codio_dht.core.validation import Check, Validators, Verdict
from codio_dht.formats.rfc3339 import NS_PER_S, format_rfc3339

MAX_VALUE_AGE_S: Final = 48 * 3600.0
"""A value of others is told and kept for so long after it was put here last, seconds (GO
``DefaultMaxRecordAge``, IPFS)."""

MAX_VALUE_BYTES: Final = 64 * 1024
"""Longest value taken or returned, bytes (RS ``max_value_bytes``: 65 KiB); IPNS has a limit of its
own. A longer one is refused."""

MAX_VALUE_KEY_BYTES: Final = 1_024
"""Longest key of a value, bytes: a namespace and a peer id take about 60. A longer one is
refused."""

MAX_VALUE_RECORDS: Final = 100_000
"""Values of others kept in all. When there are so many, the key farthest from this node's own id
leaves, or the newcomer is refused if it is the farthest: lookups end at the nodes nearest to a key,
so the nearest are the ones that this node is asked for, and keys close to it are costly to make."""

MAX_VALUE_RECORDS_BYTES: Final = 512 * 1024 * 1024
"""Keys and values of others kept in all, bytes; as above when they are so many."""

MAX_CACHED_VALUE_BYTES: Final = 16 * 1024 * 1024
"""Values in memory so that they need no read, bytes; the one not asked for for longest leaves."""

MAX_UNSAVED_VALUE_BYTES: Final = 16 * 1024 * 1024
"""Values that wait to be written, bytes; further ones are refused, as the store fails or is too
slow."""

VALUE_BATCH_ROWS: Final = 256
"""Values written in one transaction."""

MAX_KEPT_VERDICTS: Final = 256
"""Verdicts of applications' validators that wait for their request to be asked again; the oldest is
forgotten, and its value judged once more."""

_UNKNOWN_NAMESPACE = Refuse("unknown namespace")
_LONG_KEY = Refuse("value key too long")
_LONG_VALUE = Refuse("value too long")
_INVALID = Refuse("invalid value")
_WORSE = Refuse("older than the value held")
_FULL = Refuse("values are full")
_BUSY = Refuse("values cannot be written")
_UNREADABLE = Refuse("values cannot be read")


@dataclass(frozen=True, slots=True)
class ValueRow:
    """A value as it is kept."""

    key: bytes
    value: bytes
    received: UnixTime
    """When it was put here last."""

    @property
    def size(self) -> int:
        """What it counts for in the bounds, bytes."""
        return len(self.key) + len(self.value)

    def record(self) -> Record:
        """The row as it goes to others."""
        return Record(self.key, self.value, format_rfc3339(int(self.received * NS_PER_S)))


@dataclass(frozen=True, slots=True)
class ValueFlush:
    """What to write in one transaction: rows that replace those of their keys, and keys whose rows
    go."""

    rows: tuple[ValueRow, ...]
    deleted: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ValueStats:
    """Counts, for people and metrics."""

    records: int
    bytes: int
    unsaved: int
    cached_bytes: int
    outcomes: dict[str, int]
    """How often a put was taken, or refused and why."""


@dataclass(slots=True)
class _Entry:
    """What the index knows of a key: the row's size and age, and how far away the key is."""

    size: int
    received: UnixTime
    distance: int


class ValueRecords:
    """Takes, tells and expires values of others. ``local`` is this node's point in the keyspace."""

    def __init__(
        self,
        local: Key,
        validators: Validators,
        *,
        max_age_s: float = MAX_VALUE_AGE_S,
        max_value_bytes: int = MAX_VALUE_BYTES,
        max_records: int = MAX_VALUE_RECORDS,
        max_bytes: int = MAX_VALUE_RECORDS_BYTES,
        max_cached_bytes: int = MAX_CACHED_VALUE_BYTES,
        max_unsaved_bytes: int = MAX_UNSAVED_VALUE_BYTES,
    ) -> None:
        self._local = local
        self._validators = validators
        self._max_age_s = max_age_s
        self._max_value_bytes = max_value_bytes
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._max_cached_bytes = max_cached_bytes
        self._max_unsaved_bytes = max_unsaved_bytes
        self._index: dict[bytes, _Entry] = {}
        self._by_distance: list[tuple[int, bytes]] = []
        self._bytes = 0
        self._cache: OrderedDict[bytes, ValueRow] = OrderedDict()
        self._cached_bytes = 0
        self._unsaved: OrderedDict[bytes, ValueRow | None] = OrderedDict()
        """What waits to be written, oldest first; None deletes the key's row."""
        self._unsaved_bytes = 0
        self._batch: ValueFlush | None = None
        self._batch_rows: dict[bytes, ValueRow | None] = {}
        self._in_flight = False
        self._unreadable: OrderedDict[bytes, UnixTime] = OrderedDict()
        self._verdicts: OrderedDict[Check, Verdict] = OrderedDict()
        self._outcomes: Counter[str] = Counter()

    # --- what others ask --------------------------------------------------------------------------

    def get(self, key: bytes, now: UnixTime) -> Record | Load | None:
        """The record under ``key`` that may be told. It is not judged again: who asks judges it."""
        held = self._held(key, now)
        return held.record() if isinstance(held, ValueRow) else held

    def put(self, key: bytes, record: Record, now: UnixTime) -> Record | Load | Check | Refuse:
        """Judge the value in ``record`` and hold it; the record as it is held from now on."""
        answer = self._put(key, record.value, now)
        match answer:
            case Record():
                self._outcomes["taken"] += 1
            case Refuse():
                self._outcomes[answer.reason] += 1
            case Load() | Check():
                pass
        return answer

    def check(self, key: bytes, record: Record, now: UnixTime) -> Load | Check | Refuse | None:
        """Why :meth:`put` would not take the value in ``record`` as valid and not worse; None if it
        would. Nothing is held. ``Load`` and ``Check`` are as in :meth:`put`."""
        return self._refusal(key, record.value, now)

    def judged(self, check: Check, verdict: Verdict) -> None:
        """An application's validator has judged; the request that waits for it is asked again."""
        self._verdicts[check] = verdict
        while len(self._verdicts) > MAX_KEPT_VERDICTS:
            self._verdicts.popitem(last=False)

    def _put(self, key: bytes, value: bytes, now: UnixTime) -> Record | Load | Check | Refuse:
        refusal = self._refusal(key, value, now)
        return self._take(ValueRow(key, value, now)) if refusal is None else refusal

    def _refusal(self, key: bytes, value: bytes, now: UnixTime) -> Load | Check | Refuse | None:
        if not self._validators.knows(key):
            return _UNKNOWN_NAMESPACE
        if len(key) > MAX_VALUE_KEY_BYTES:
            return _LONG_KEY
        if len(value) > self._max_value_bytes:
            return _LONG_VALUE
        held = self._held(key, now)
        if isinstance(held, Load):
            return held
        if held is None and key in self._unreadable:
            return _UNREADABLE  # it might be better than the newcomer
        verdict = self._validators.judge(key, value, held.value if held else None, now)
        if isinstance(verdict, Check):
            known = self._verdicts.pop(verdict, None)
            if known is None:
                return verdict
            verdict = known
        match verdict:
            case Verdict.INVALID:
                return _INVALID
            case Verdict.WORSE:
                return _WORSE
            case Verdict.SAME | Verdict.BETTER:
                return None

    def _take(self, row: ValueRow) -> Record | Refuse:
        if self._unsaved_bytes + row.size > self._max_unsaved_bytes:
            return _BUSY
        if not self._make_room(row):
            return _FULL
        self._enter(row.key, row.size, row.received)
        self._remember(row)
        self._write(row.key, row)
        return row.record()

    # --- loads ------------------------------------------------------------------------------------

    def loaded(self, key: bytes, row: ValueRow | None, now: UnixTime) -> None:
        """The store has ``row`` under ``key``, or nothing. A no-op if a younger one is in memory,
        or the key has left since."""
        if key not in self._index or self._in_memory(key) is not None:
            return
        if row is None:
            self._leave(key)
        else:
            self._remember(row)

    def load_failed(self, key: bytes, now: UnixTime) -> None:
        """The store could not read ``key``: for a while nothing is told of it or taken for it."""
        if key in self._index:
            self._unreadable[key] = now
            while len(self._unreadable) > MAX_TRACKED_LOADS:
                self._unreadable.popitem(last=False)

    # --- writes -----------------------------------------------------------------------------------

    def take_flush(self) -> ValueFlush | None:
        """The next batch to write; None while one is being written, or if all is. Report it with
        :meth:`flushed` or :meth:`flush_failed`."""
        if self._in_flight:
            return None
        if self._batch is None:
            if not self._unsaved:
                return None
            keys = list(self._unsaved)[:VALUE_BATCH_ROWS]
            self._batch_rows = {key: self._unsaved.pop(key) for key in keys}
            rows = tuple([row for row in self._batch_rows.values() if row is not None])
            deleted = tuple([key for key, row in self._batch_rows.items() if row is None])
            self._batch = ValueFlush(rows, deleted)
        self._in_flight = True
        return self._batch

    def flushed(self, batch: ValueFlush) -> None:
        """``batch`` is on disk. A no-op for any other than the one taken last."""
        if self._in_flight and batch is self._batch:
            self._in_flight = False
            self._batch = None
            self._unsaved_bytes -= sum([row.size for row in batch.rows])
            self._batch_rows = {}

    def flush_failed(self, batch: ValueFlush) -> None:
        """``batch`` could not be written: :meth:`take_flush` returns it again before anything
        younger. A no-op for any other than the one taken last."""
        if batch is self._batch:
            self._in_flight = False

    def remember_rows(self, rows: Iterable[tuple[bytes, int, UnixTime]]) -> None:
        """The store holds these keys, each with the size of its value and when it was received. For
        the start; may be called with a part at a time. What does not fit the bounds any more is
        deleted."""
        for key, value_size, received in rows:
            if key in self._index:
                continue
            size = len(key) + value_size
            self._enter(key, size, received)
            self._shrink()

    def expire(self, now: UnixTime) -> int:
        """Let the values go that are too old; how many went. Call it now and then."""
        old = [key for key, entry in self._index.items() if self._is_old(entry.received, now)]
        for key in old:
            self._delete(key)
        return len(old)

    # --- counts -----------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Values held, those that are too old and not yet deleted included."""
        return len(self._index)

    def stats(self) -> ValueStats:
        """Counts at this moment."""
        return ValueStats(
            records=len(self._index),
            bytes=self._bytes,
            unsaved=len(self._unsaved) + len(self._batch_rows),
            cached_bytes=self._cached_bytes,
            outcomes=dict(self._outcomes),
        )

    # --- what is held -----------------------------------------------------------------------------

    def _held(self, key: bytes, now: UnixTime) -> ValueRow | Load | None:
        entry = self._index.get(key)
        if entry is None:
            return None
        if self._is_old(entry.received, now):
            self._unreadable.pop(key, None)  # whatever it was, it counts for nothing
            return None
        row = self._in_memory(key)
        if row is not None:
            return row
        failed = self._unreadable.get(key)
        if failed is not None:
            if failed <= now < failed + LOAD_RETRY_S:
                return None
            del self._unreadable[key]
        return Load(LoadKind.VALUE, key)

    def _in_memory(self, key: bytes) -> ValueRow | None:
        row = self._cache.get(key)
        if row is not None:
            self._cache.move_to_end(key)
            return row
        return self._unsaved.get(key) or self._batch_rows.get(key)

    def _is_old(self, received: UnixTime, now: UnixTime) -> bool:
        """Whether a value's time is over. One that was received in the future, while the clock was
        ahead, is of unknown age, and its publisher will put it again."""
        return not received - CLOCK_TOLERANCE_S <= now < received + self._max_age_s

    # --- the index and its bounds -----------------------------------------------------------------

    def _enter(self, key: bytes, size: int, received: UnixTime) -> None:
        entry = self._index.get(key)
        if entry is None:
            away = distance(self._local, key_of(key))
            self._index[key] = _Entry(size, received, away)
            insort(self._by_distance, (away, key))
            self._bytes += size
        else:
            self._bytes += size - entry.size
            entry.size, entry.received = size, received

    def _leave(self, key: bytes) -> None:
        entry = self._index.pop(key)
        del self._by_distance[bisect_left(self._by_distance, (entry.distance, key))]
        self._bytes -= entry.size
        self._unreadable.pop(key, None)
        row = self._cache.pop(key, None)
        if row is not None:
            self._cached_bytes -= row.size

    def _delete(self, key: bytes) -> None:
        self._leave(key)
        self._write(key, None)

    def _make_room(self, row: ValueRow) -> bool:
        """Let the farthest keys leave until ``row`` fits; False, and nothing left, if it is itself
        farther than one that would have to."""
        entry = self._index.get(row.key)
        count = len(self._index) + (entry is None)
        size = self._bytes + row.size - (entry.size if entry else 0)
        away = entry.distance if entry else distance(self._local, key_of(row.key))
        leaving = []
        at = len(self._by_distance)
        while count > self._max_records or size > self._max_bytes:
            at -= 1
            if at < 0 or self._by_distance[at][0] <= away:
                return False
            key = self._by_distance[at][1]
            leaving.append(key)
            count -= 1
            size -= self._index[key].size
        for key in leaving:
            self._delete(key)
        return True

    def _shrink(self) -> None:
        while len(self._index) > self._max_records or self._bytes > self._max_bytes:
            self._delete(self._by_distance[-1][1])

    # --- memory -----------------------------------------------------------------------------------

    def _remember(self, row: ValueRow) -> None:
        old = self._cache.pop(row.key, None)
        self._cache[row.key] = row
        self._cached_bytes += row.size - (old.size if old else 0)
        self._unreadable.pop(row.key, None)
        while self._cached_bytes > self._max_cached_bytes and len(self._cache) > 1:
            _, gone = self._cache.popitem(last=False)
            self._cached_bytes -= gone.size

    def _write(self, key: bytes, row: ValueRow | None) -> None:
        old = self._unsaved.pop(key, None)
        self._unsaved[key] = row
        self._unsaved_bytes += (row.size if row else 0) - (old.size if old else 0)
