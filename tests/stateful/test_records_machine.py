"""Provider records against a dict, over a disk that reads late, fails, and crashes at any time.

The disk here keeps the store's contract (``store.interface``) and nothing more: a load is a
snapshot taken at one moment and reported at a later one, a flush is one transaction, and either may
fail. The same world is walked twice: by hypothesis, which shortens what it finds, and by long
random walks, which get further.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from codio_dht.core.clock import UnixTime
from codio_dht.core.key_filter import KeyFilter
from codio_dht.core.keyspace import key_of
from codio_dht.core.peer import PeerId
from codio_dht.core.records import (
    CHANGES_CHECK_S,
    LOAD_RETRY_S,
    Flush,
    ProviderRecords,
    ProviderRow,
    RecordOutcome,
)
from codio_dht.core.steps import Load, LoadKind
from codio_dht.core.unsaved import Unsaved

KEYS = [b"\x12\x03key" + bytes([i]) for i in range(3)]
PEERS = [PeerId(b"\x00\x01" + bytes([i])) for i in range(5)]
TOLD_TO_OTHERS = [PeerId(b"\x00\x02\xff" + bytes([i])) for i in range(3)]
"""Providers that speak to another process on the same store only."""
TTL_S = 100.0

Slot = tuple[bytes, PeerId]


class FakeDisk:
    """The store's contract, as a dict."""

    def __init__(self, *, shared: bool) -> None:
        self.rows: dict[Slot, ProviderRow] = {}
        self.changes = 0 if shared else None

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

    def counts(self) -> list[tuple[bytes, int]]:
        return [(key, len(self.of(key))) for key in KEYS if self.of(key)]


class World:
    """Records, a disk, and ``oracle``: the last record taken for each key and provider. Every step
    is possible at any time; one that has nothing to do does nothing."""

    max_per_key = 1_000
    max_records = 1_000
    max_unsaved = 1_000
    shared = False

    def __init__(self) -> None:
        self.now = UnixTime(1_000.0)
        self.disk = FakeDisk(shared=self.shared)
        self.start()

    def start(self) -> None:
        """A new process on the old disk."""
        self.records = ProviderRecords(
            ttl_s=TTL_S,
            addr_ttl_s=TTL_S / 2,
            max_per_key=self.max_per_key,
            max_records=self.max_records,
            max_cached_bytes=1_500,
            unsaved=Unsaved(max_rows=self.max_unsaved, batch_rows=2),
        )
        self.records.opened(len(self.disk.rows), self.disk.changes)
        self.oracle = {
            slot: row for slot, row in self.disk.rows.items() if slot[1] not in TOLD_TO_OTHERS
        }
        self.unreadable: dict[bytes, UnixTime] = {}
        self.wanted: list[bytes] = []
        self.snapshots: list[tuple[bytes, list[ProviderRow], int | None]] = []
        self.batch: Flush | None = None
        self.added: int | None = None
        self.rebuilt: KeyFilter | None = None

    # --- time and records

    def wait(self, seconds: int) -> None:
        self.now = UnixTime(self.now + seconds)

    def add(self, key: bytes, peer: PeerId, version: int) -> None:
        slot = (key, peer)
        addrs = (bytes([version]),)
        on_disk = self.disk.rows.get(slot)
        crowded = self.records.stats().unsaved >= self.max_unsaved
        outcome = self.records.add(key, peer, addrs, self.now)
        taken = outcome in (RecordOutcome.ADDED, RecordOutcome.REFRESHED)
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

    def get(self, key: bytes) -> None:
        answer = self.records.get(key, self.now)
        if isinstance(answer, Load):
            assert answer == Load(LoadKind.PROVIDERS, key)
            if key not in [*self.wanted, *(of for of, _, _ in self.snapshots)]:
                self.wanted.append(key)
        else:
            self.check(key, answer)

    def check(self, key: bytes, rows: tuple[ProviderRow, ...]) -> None:
        """``rows`` is a right answer."""
        told = {row.provider: row for row in rows}
        assert len(told) == len(rows)
        for row in rows:
            assert row.expires > self.now
            if row.provider not in TOLD_TO_OTHERS:
                assert self.oracle[key, row.provider] == row
        if self.now < self.unreadable.get(key, -LOAD_RETRY_S) + LOAD_RETRY_S:
            return
        for row in self.must_tell(key):
            assert self.oracle[key, row.provider] == told.get(row.provider)

    def must_tell(self, key: bytes) -> list[ProviderRow]:
        """Records of ``key`` that no bound can be the reason to leave out."""
        raise NotImplementedError

    # --- the disk reads

    def read(self) -> None:
        if self.wanted:
            key = self.wanted.pop(0)
            self.snapshots.append((key, self.disk.of(key), self.disk.changes))

    def report_read(self, index: int) -> None:
        if self.snapshots:
            key, rows, changes = self.snapshots.pop(index % len(self.snapshots))
            self.records.loaded(key, rows, self.now, changes)
            self.get(key)

    def read_fails(self) -> None:
        if self.wanted:
            key = self.wanted.pop(0)
            self.records.load_failed(key, self.now)
            self.unreadable[key] = self.now
            answer = self.records.get(key, self.now)
            assert not isinstance(answer, Load)
            self.check(key, answer)

    # --- the disk writes

    def take(self) -> None:
        if self.batch is None:
            self.batch = self.records.take_flush()
            self.added = None
        assert self.batch is None or self.records.take_flush() is None, "two batches in flight"

    def write(self) -> None:
        if self.batch is not None and self.added is None:
            self.added = self.disk.flush(self.batch)

    def report_write(self) -> None:
        if self.batch is not None and self.added is not None:
            self.records.flushed(self.batch, self.added)
            self.batch = None

    def write_fails(self) -> None:
        if self.batch is not None and self.added is None:
            self.records.flush_failed(self.batch)
            self.batch = None

    def flush(self) -> None:
        self.take()
        self.write()
        self.report_write()

    def expire(self, limit: int) -> None:
        self.records.expired(self.disk.delete_expired(self.now, limit))

    # --- the processes

    def other_writes(self, key: bytes, peer: PeerId, version: int) -> None:
        """Another process on the same store was told of ``peer``."""
        if self.disk.changes is not None:
            self.disk.changes += 1
            expires = UnixTime(self.now + TTL_S)
            self.disk.rows[key, peer] = ProviderRow(
                key, peer, (bytes([version]),), self.now, expires, expires
            )

    def crash(self) -> None:
        self.start()

    def begin_rebuild(self) -> None:
        self.rebuilt = self.records.begin_rebuild()
        for key, count in self.disk.counts():
            self.rebuilt.add(key_of(key), count)

    def finish_rebuild(self) -> None:
        if self.rebuilt is not None:
            assert self.records.finish_rebuild(self.rebuilt) or self.shared
            self.rebuilt = None

    # --- what holds always, and in the end

    def check_bounds(self) -> None:
        assert self.records.stats().unsaved <= self.max_unsaved
        assert len(self.disk.rows) <= self.max_records
        for key in KEYS:
            assert len(self.disk.of(key)) <= self.max_per_key

    def settle(self) -> None:
        """Once all is written, memory and disk say the same, and nothing taken is lost."""
        while self.wanted or self.snapshots:
            self.read()
            self.report_read(0)
        self.write()
        self.report_write()
        while (batch := self.records.take_flush()) is not None:
            self.records.flushed(batch, self.disk.flush(batch))
        self.check_bounds()
        self.wait(int(max(LOAD_RETRY_S, CHANGES_CHECK_S)))
        for key in KEYS:
            answer = self.records.get(key, self.now)
            if isinstance(answer, Load):
                self.records.loaded(key, self.disk.of(key), self.now, self.disk.changes)
                answer = self.records.get(key, self.now)
            assert not isinstance(answer, Load)
            unexpired = [row for row in self.disk.of(key) if row.expires > self.now]
            assert in_order(unexpired) == in_order(answer)
            self.check(key, answer)
        assert self.shared or len(self.disk.rows) <= len(self.records)


class RoomyWorld(World):
    """Nothing is ever full: everything taken is told until it expires."""

    def must_tell(self, key: bytes) -> list[ProviderRow]:
        rows = self.oracle.items()
        return [row for (of, _), row in rows if of == key and row.expires > self.now]


class TightWorld(World):
    """Everything is full all the time: whatever the disk has, in its latest version, is told."""

    max_per_key = 3
    max_records = 6
    max_unsaved = 5

    def must_tell(self, key: bytes) -> list[ProviderRow]:
        return [row for row in self.disk.of(key) if row.expires > self.now]


class SharedWorld(RoomyWorld):
    """Another process writes to the same store: what it wrote is told an interval later."""

    shared = True


def in_order(rows: list[ProviderRow] | tuple[ProviderRow, ...]) -> list[ProviderRow]:
    return sorted(rows, key=lambda row: row.provider.to_bytes())


# --- hypothesis -----------------------------------------------------------------------------------


class RecordsMachine(RuleBasedStateMachine):
    world: World

    @rule(seconds=st.integers(1, 60))
    def wait(self, seconds: int) -> None:
        self.world.wait(seconds)

    @rule(key=st.sampled_from(KEYS), peer=st.sampled_from(PEERS), version=st.integers(0, 255))
    def add(self, key: bytes, peer: PeerId, version: int) -> None:
        self.world.add(key, peer, version)

    @rule(key=st.sampled_from(KEYS))
    def get(self, key: bytes) -> None:
        self.world.get(key)

    @rule(
        key=st.sampled_from(KEYS),
        peer=st.sampled_from(TOLD_TO_OTHERS),
        version=st.integers(0, 255),
    )
    def other_writes(self, key: bytes, peer: PeerId, version: int) -> None:
        self.world.other_writes(key, peer, version)

    @rule(index=st.integers(0, 3))
    def report_read(self, index: int) -> None:
        self.world.report_read(index)

    @rule(limit=st.integers(1, 4))
    def expire(self, limit: int) -> None:
        self.world.expire(limit)

    @rule(
        step=st.sampled_from(
            [
                World.read,
                World.read_fails,
                World.take,
                World.write,
                World.report_write,
                World.write_fails,
                World.flush,
                World.begin_rebuild,
                World.finish_rebuild,
                World.crash,
            ]
        )
    )
    def work(self, step: object) -> None:
        assert callable(step)
        step(self.world)

    @invariant()
    def bounds_hold(self) -> None:
        self.world.check_bounds()

    def teardown(self) -> None:
        self.world.settle()


class RoomyRecords(RecordsMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = RoomyWorld()


class SharedRecords(RecordsMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = SharedWorld()


class TightRecords(RecordsMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = TightWorld()


RoomyRecords.TestCase.settings = settings(max_examples=60, stateful_step_count=50)
SharedRecords.TestCase.settings = settings(max_examples=60, stateful_step_count=50)
TightRecords.TestCase.settings = settings(max_examples=60, stateful_step_count=50)

TestRoomyRecords = RoomyRecords.TestCase
TestSharedRecords = SharedRecords.TestCase
TestTightRecords = TightRecords.TestCase


# --- long walks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("kind", [RoomyWorld, SharedWorld, TightWorld])
def test_nothing_taken_is_lost_on_a_long_walk(kind: type[World], seed: int) -> None:
    rng = random.Random(seed)
    world = kind()

    def key() -> bytes:
        return rng.choice(KEYS)

    steps = {
        lambda: world.add(key(), rng.choice(PEERS), rng.randrange(256)): 30,
        lambda: world.get(key()): 30,
        lambda: world.other_writes(key(), rng.choice(TOLD_TO_OTHERS), rng.randrange(256)): 5,
        lambda: world.report_read(rng.randrange(4)): 15,
        world.read: 15,
        world.read_fails: 1,
        world.take: 6,
        world.write: 6,
        world.report_write: 6,
        world.write_fails: 2,
        world.flush: 4,
        lambda: world.wait(rng.randrange(1, 15)): 8,
        lambda: world.expire(rng.randrange(1, 5)): 3,
        world.begin_rebuild: 1,
        world.finish_rebuild: 1,
        world.crash: 0.3,
        world.settle: 0.3,
    }
    for step in rng.choices(list(steps), weights=list(steps.values()), k=3_000):
        step()
        world.check_bounds()
    world.settle()
