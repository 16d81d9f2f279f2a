"""Provider records against a dict, over a disk that reads late, fails, and crashes at any time.

The disk here keeps the store's contract (``store.interface``) and nothing more: a load is a snapshot
taken at some moment and reported at a later one, a flush is one transaction, and either may fail.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from codio_dht.core.clock import UnixTime
from codio_dht.core.key_filter import KeyFilter
from codio_dht.core.peer import PeerId
from codio_dht.core.records import AddOutcome, Flush, ProviderRecords, ProviderRow
from codio_dht.core.steps import Load
from codio_dht.core.unsaved import Unsaved
from codio_dht.params import LOAD_RETRY_S

KEYS = [b"\x12\x03key" + bytes([i]) for i in range(4)]
PEERS = [PeerId(b"\x00\x01" + bytes([i])) for i in range(6)]
TTL_S = 100.0

Slot = tuple[bytes, PeerId]


class FakeDisk:
    """The store's contract, as a dict."""

    def __init__(self) -> None:
        self.rows: dict[Slot, ProviderRow] = {}

    def of(self, key: bytes) -> list[ProviderRow]:
        return [row for row in self.rows.values() if row.key == key]

    def flush(self, batch: Flush) -> int:
        added = 0
        for row in batch.rows:
            slot = (row.key, row.provider)
            if slot not in self.rows:
                if len(self.of(row.key)) >= batch.max_per_key:
                    continue
                added += 1
            self.rows[slot] = row
        return added

    def delete_expired(self, now: UnixTime, limit: int) -> list[bytes]:
        gone = [slot for slot, row in self.rows.items() if row.expires <= now][:limit]
        for slot in gone:
            del self.rows[slot]
        return [key for key, _ in gone]

    def keys(self) -> list[tuple[bytes, int]]:
        return [(key, len(self.of(key))) for key in KEYS if self.of(key)]


class RecordsMachine(RuleBasedStateMachine):
    """Rules common to both machines; ``records`` is what is tested, ``oracle`` the last record
    taken for each key and provider."""

    max_per_key = 1_000
    max_records = 1_000
    max_unsaved = 1_000

    loads = Bundle("loads")
    snapshots = Bundle("snapshots")

    def __init__(self) -> None:
        super().__init__()
        self.now = UnixTime(1_000.0)
        self.disk = FakeDisk()
        self.batch: Flush | None = None
        self.batch_added: int | None = None
        self.rebuilt: KeyFilter | None = None
        self.epoch = 0
        self.start()

    def start(self) -> None:
        self.records = ProviderRecords(
            ttl_s=TTL_S,
            addr_ttl_s=TTL_S / 2,
            max_per_key=self.max_per_key,
            max_records=self.max_records,
            max_cached_bytes=3_000,
            unsaved=Unsaved(max_rows=self.max_unsaved, batch_rows=2),
        )
        self.records.remember_keys(self.disk.keys())
        self.oracle = dict(self.disk.rows)
        self.unreadable: dict[bytes, UnixTime] = {}
        self.batch = self.batch_added = self.rebuilt = None
        self.epoch += 1

    # --- time and records

    @initialize(seconds=st.integers(0, 50))
    def some_time_later(self, seconds: int) -> None:
        self.now = UnixTime(self.now + seconds)

    @rule(seconds=st.integers(1, 60))
    def wait(self, seconds: int) -> None:
        self.now = UnixTime(self.now + seconds)

    @rule(key=st.sampled_from(KEYS), peer=st.sampled_from(PEERS), version=st.integers(0, 255))
    def add(self, key: bytes, peer: PeerId, version: int) -> None:
        slot = (key, peer)
        addrs = (bytes([version]),)
        on_disk = self.disk.rows.get(slot)
        crowded = self.records.stats().unsaved >= self.max_unsaved
        outcome = self.records.add(key, peer, addrs, self.now)
        taken = outcome in (AddOutcome.ADDED, AddOutcome.REFRESHED)
        if on_disk is not None and on_disk.expires > self.now and not crowded:
            assert taken, "a refresh of a stored record was refused"
        if taken:
            self.oracle[slot] = ProviderRow(
                key,
                peer,
                addrs,
                self.now,
                UnixTime(self.now + TTL_S / 2),
                UnixTime(self.now + TTL_S),
            )

    @rule(key=st.sampled_from(KEYS), target=loads)
    def get(self, key: bytes) -> tuple[int, bytes] | None:
        answer = self.records.get(key, self.now)
        if isinstance(answer, Load):
            assert answer.key == key
            return (self.epoch, key)
        self.check(key, answer)
        return None

    def check(self, key: bytes, rows: tuple[ProviderRow, ...]) -> None:
        raise NotImplementedError

    # --- the disk reads

    @rule(load=consumes(loads), target=snapshots)
    def read(self, load: tuple[int, bytes] | None) -> tuple[int, bytes, list[ProviderRow]] | None:
        if load is None or load[0] != self.epoch:
            return None
        return (*load, self.disk.of(load[1]))

    @rule(snapshot=consumes(snapshots))
    def report_read(self, snapshot: tuple[int, bytes, list[ProviderRow]] | None) -> None:
        if snapshot is None or snapshot[0] != self.epoch:
            return
        _, key, rows = snapshot
        self.records.loaded(key, rows, self.now)
        self.unreadable.pop(key, None)
        answer = self.records.get(key, self.now)
        assert not isinstance(answer, Load)
        self.check(key, answer)

    @rule(load=consumes(loads))
    def read_fails(self, load: tuple[int, bytes] | None) -> None:
        if load is None or load[0] != self.epoch:
            return
        _, key = load
        self.records.load_failed(key, self.now)
        self.unreadable[key] = self.now
        assert not isinstance(self.records.get(key, self.now), Load)

    # --- the disk writes

    @precondition(lambda self: self.batch is None)
    @rule()
    def take(self) -> None:
        self.batch = self.records.take_flush()
        self.batch_added = None
        if self.batch is not None:
            assert self.records.take_flush() is None, "two batches in flight"

    @precondition(lambda self: self.batch is not None and self.batch_added is None)
    @rule()
    def write(self) -> None:
        assert self.batch is not None
        self.batch_added = self.disk.flush(self.batch)

    @precondition(lambda self: self.batch_added is not None)
    @rule()
    def report_write(self) -> None:
        assert self.batch is not None
        self.records.flushed(self.batch, self.batch_added)
        self.batch = self.batch_added = None

    @precondition(lambda self: self.batch is not None and self.batch_added is None)
    @rule()
    def write_fails(self) -> None:
        assert self.batch is not None
        self.records.flush_failed(self.batch)
        self.batch = None

    @rule(limit=st.integers(1, 4))
    def expire(self, limit: int) -> None:
        self.records.expired(self.disk.delete_expired(self.now, limit))

    # --- the process

    @rule()
    def crash(self) -> None:
        self.start()

    @rule()
    def begin_rebuild(self) -> None:
        self.rebuilt = self.records.begin_rebuild()
        for key, count in self.disk.keys():
            self.rebuilt.add(key, count)

    @precondition(lambda self: self.rebuilt is not None)
    @rule()
    def finish_rebuild(self) -> None:
        assert self.rebuilt is not None
        assert self.records.finish_rebuild(self.rebuilt)
        self.rebuilt = None

    # --- what always holds

    @invariant()
    def bounds_hold(self) -> None:
        assert self.records.stats().unsaved <= self.max_unsaved
        assert len(self.disk.rows) <= self.max_records
        for key in KEYS:
            assert len(self.disk.of(key)) <= self.max_per_key

    def teardown(self) -> None:
        """Once all is written, memory and disk say the same."""
        if self.batch is not None:
            self.records.flushed(self.batch, self.batch_added or self.disk.flush(self.batch))
        while (batch := self.records.take_flush()) is not None:
            self.records.flushed(batch, self.disk.flush(batch))
        self.now = UnixTime(self.now + LOAD_RETRY_S)
        self.unreadable.clear()
        for key in KEYS:
            answer: Any = self.records.get(key, self.now)
            if isinstance(answer, Load):
                self.records.loaded(key, self.disk.of(key), self.now)
                answer = self.records.get(key, self.now)
            unexpired = [row for row in self.disk.of(key) if row.expires > self.now]
            assert in_order(unexpired) == in_order(answer)
            self.check(key, answer)


def in_order(rows: Any) -> list[ProviderRow]:
    return sorted(rows, key=lambda row: row.provider.to_bytes())


class RoomyRecords(RecordsMachine):
    """Nothing is ever full: what is told is exactly what the dict has."""

    def check(self, key: bytes, rows: tuple[ProviderRow, ...]) -> None:
        expected = [
            row
            for (row_key, _), row in self.oracle.items()
            if row_key == key and row.expires > self.now
        ]
        if self.now < self.unreadable.get(key, -LOAD_RETRY_S) + LOAD_RETRY_S:
            assert all(row in expected for row in rows)
        else:
            assert in_order(expected) == in_order(rows)


class TightRecords(RecordsMachine):
    """Everything is full all the time: nothing wrong is told, no bound is passed, no refresh of a
    stored record is refused, and memory ends up as the disk."""

    max_per_key = 3
    max_records = 7
    max_unsaved = 5

    def check(self, key: bytes, rows: tuple[ProviderRow, ...]) -> None:
        assert len({row.provider for row in rows}) == len(rows)
        for row in rows:
            assert row.expires > self.now
            assert self.oracle[key, row.provider] == row


RoomyRecords.TestCase.settings = settings(max_examples=150, stateful_step_count=60)
TightRecords.TestCase.settings = settings(max_examples=150, stateful_step_count=60)

TestRoomyRecords = RoomyRecords.TestCase
TestTightRecords = TightRecords.TestCase
