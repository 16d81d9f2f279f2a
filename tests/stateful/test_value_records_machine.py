"""Values of others against the plainest model: one dict, with a disk that may fail at any step."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from codio_dht.core.clock import UnixTime
from codio_dht.core.keyspace import Key, distance, key_of
from codio_dht.core.messages import Record
from codio_dht.core.steps import Load, Refuse
from codio_dht.core.value_records import ValueFlush, ValueRecords, ValueRow
from value_fakes import make_validators, version_of

LOCAL = Key(7)
KEYS = [b"/v/%d" % n for n in range(9)]
VALUES = [b"1:a", b"1:b", b"2:" + bytes(20), b"3:x", b"bad", b"4:until=1050"]
MAX_RECORDS = 6
MAX_BYTES = 110
MAX_AGE_S = 100.0


class ValueRecordsMachine(RuleBasedStateMachine):
    """Drives ``ValueRecords`` as the node does, beside a dict that holds what ought to be told."""

    def __init__(self) -> None:
        super().__init__()
        self.now = UnixTime(1_000.0)
        self.model: dict[bytes, ValueRow] = {}
        self.disk: dict[bytes, ValueRow] = {}
        self.batch: ValueFlush | None = None
        self.records = self.make()

    def make(self) -> ValueRecords:
        return ValueRecords(
            LOCAL,
            make_validators(),
            max_age_s=MAX_AGE_S,
            max_records=MAX_RECORDS,
            max_bytes=MAX_BYTES,
            max_cached_bytes=40,
        )

    def held(self, key: bytes) -> ValueRow | None:
        row = self.model.get(key)
        return row if row is not None and self.now < row.received + MAX_AGE_S else None

    def is_valid(self, value: bytes) -> bool:
        return value[:1].isdigit() and (b"until" not in value or self.now < 1050)

    def room(self, row: ValueRow) -> list[bytes] | None:
        """The keys that must leave for ``row``, by the stated rule; None if it has no room."""
        others = {key: held for key, held in self.model.items() if key != row.key}
        order = sorted(others, key=lambda key: distance(LOCAL, key_of(key)))
        leaving = []
        while (
            len(order) + 1 > MAX_RECORDS
            or sum(others[key].size for key in order) + row.size > MAX_BYTES
        ):
            if not order or distance(LOCAL, key_of(order[-1])) < distance(LOCAL, key_of(row.key)):
                return None
            leaving.append(order.pop())
        return leaving

    @rule(key=st.sampled_from(KEYS), value=st.sampled_from(VALUES))
    def put(self, key: bytes, value: bytes) -> None:
        answer = self.records.put(key, Record(key, value), self.now)
        if isinstance(answer, Load):
            self.records.loaded(key, self.disk.get(key), self.now)
            answer = self.records.put(key, Record(key, value), self.now)
        row = ValueRow(key, value, self.now)
        held = self.held(key)
        if not self.is_valid(value):
            assert answer == Refuse("invalid value")
        elif (
            held is not None
            and self.is_valid(held.value)
            and held.value != value
            and version_of(held.value) > version_of(value)
        ):
            assert answer == Refuse("older than the value held")
        elif (leaving := self.room(row)) is None:
            assert answer == Refuse("values are full")
        else:
            assert answer == row.record()
            for gone in leaving:
                del self.model[gone]
            self.model[key] = row

    @rule(key=st.sampled_from(KEYS))
    def get(self, key: bytes) -> None:
        answer = self.records.get(key, self.now)
        if isinstance(answer, Load):
            self.records.loaded(key, self.disk.get(key), self.now)
            answer = self.records.get(key, self.now)
        held = self.held(key)
        assert answer == (None if held is None else held.record())

    @precondition(lambda self: self.batch is None)
    @rule()
    def begin_flush(self) -> None:
        self.batch = self.records.take_flush()

    @precondition(lambda self: self.batch is not None)
    @rule(fails=st.booleans())
    def end_flush(self, fails: bool) -> None:
        assert self.batch is not None
        if fails:
            self.records.flush_failed(self.batch)
        else:
            self.write(self.batch)
            self.records.flushed(self.batch)
        self.batch = None

    def write(self, batch: ValueFlush) -> None:
        for row in batch.rows:
            self.disk[row.key] = row
        for key in batch.deleted:
            self.disk.pop(key, None)

    @rule(seconds=st.sampled_from([0.0, 1.0, 30.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.now = UnixTime(self.now + seconds)

    @rule()
    def expire(self) -> None:
        self.records.expire(self.now)
        for key in [key for key in self.model if self.held(key) is None]:
            del self.model[key]

    @rule()
    def restart(self) -> None:
        """Everything is written, and the node begins anew with what is on disk."""
        if self.batch is not None:
            self.records.flush_failed(self.batch)
            self.batch = None
        while batch := self.records.take_flush():
            self.write(batch)
            self.records.flushed(batch)
        self.records = self.make()
        self.records.remember_rows(
            [(row.key, len(row.value), row.received) for row in self.disk.values()]
        )

    @invariant()
    def the_bounds_hold_and_the_counts_are_right(self) -> None:
        stats = self.records.stats()
        assert stats.records == len(self.model) <= MAX_RECORDS
        assert stats.bytes == sum(row.size for row in self.model.values()) <= MAX_BYTES


TestValueRecordsMachine = ValueRecordsMachine.TestCase
TestValueRecordsMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
