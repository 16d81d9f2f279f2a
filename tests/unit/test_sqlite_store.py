"""The SQLite store: what it keeps, what it does when the disk is full, damaged or taken."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from codio_dht.core.clock import Monotonic, UnixTime
from codio_dht.core.keyspace import key_of
from codio_dht.core.origins import OriginLedger, RecordOrigin
from codio_dht.core.own_keys import NewKey, OwnKey, SweptPage
from codio_dht.core.peer import PeerId
from codio_dht.core.records import Flush, ProviderRecords, ProviderRow
from codio_dht.core.regions import PLACES, Place, place_of
from codio_dht.core.steps import Load
from codio_dht.errors import FormatError, StorageError
from codio_dht.store.database import Database
from codio_dht.store.interface import SnapshotPeer, Store
from codio_dht.store.schema import KEYS, RECORDS, pack_addrs, unpack_addrs
from codio_dht.store.sqlite import SqliteRecords, SqliteStore
from codio_dht.store.sqlite_keys import MAX_WAITING_SWEEPS

KEY = b"\x12\x20" + b"k" * 32
OTHER_KEY = b"\x12\x20" + b"o" * 32
ADDRS = (b"\x04\x01\x02\x03\x04\x06\x0f\xa1", b"\x36\x80\x01" + b"a" * 128 + b"\x06\x01\xbb")
NOW = UnixTime(1_800_000_000.123456)
NEVER = UnixTime(1e12)


def peer(number: int) -> PeerId:
    return PeerId(b"\x00\x24\x08\x01\x12\x20" + number.to_bytes(32, "big"))


def row(
    number: int,
    key: bytes = KEY,
    *,
    addrs: tuple[bytes, ...] = ADDRS,
    received: float = NOW,
    expires: float = NOW + 3600,
    subnet: bytes = b"",
) -> ProviderRow:
    return ProviderRow(
        key,
        peer(number),
        addrs,
        UnixTime(received),
        UnixTime(received + 60.5),
        UnixTime(expires),
        subnet,
    )


def own_keys(store: SqliteStore) -> list[OwnKey]:
    return store.keys.page(b"", 10_000)


def in_order(*keys: bytes) -> list[bytes]:
    """``keys`` in the order of the keyspace."""
    return sorted(keys, key=key_of)


def by_provider(rows: list[ProviderRow]) -> dict[PeerId, ProviderRow]:
    return {one.provider: one for one in rows}


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "data" if request.param == "disk" else None)
    yield opened
    opened.close()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


# --- provider records -----------------------------------------------------------------------------


def test_rows_come_back_as_they_were(store: SqliteStore) -> None:
    port: Store = store
    rows = [row(1), row(2, addrs=()), row(3, key=OTHER_KEY, received=0.1)]
    assert port.records.flush(Flush(tuple(rows), 10)) == 3
    assert by_provider(port.records.load_providers(KEY)) == by_provider(rows[:2])
    assert port.records.load_providers(OTHER_KEY) == rows[2:]
    assert port.records.load_providers(b"nothing") == []


times = st.floats(0, 2**40).map(UnixTime)


@settings(max_examples=30)
@given(
    st.lists(
        st.builds(
            ProviderRow,
            st.binary(min_size=1, max_size=80),
            st.integers(0, 5).map(peer),
            st.lists(st.binary(min_size=1, max_size=400), max_size=4).map(tuple),
            times,
            times,
            times,
        ),
        max_size=20,
    )
)
def test_any_row_comes_back_exactly_and_the_last_of_a_batch_counts(rows: list[ProviderRow]) -> None:
    store = SqliteStore()
    last = {(one.key, one.provider): one for one in rows}
    assert store.records.flush(Flush(tuple(rows), 1_000)) == len(last)
    for key in {one.key for one in rows}:
        assert by_provider(store.records.load_providers(key)) == {
            provider: one for (of, provider), one in last.items() if of == key
        }
    store.close()


def test_a_row_that_exists_is_replaced_and_not_counted_as_new(store: SqliteStore) -> None:
    store.records.flush(Flush((row(1), row(2)), 10))
    newer = row(1, addrs=(), received=NOW + 5, expires=NOW + 9_000)
    assert store.records.flush(Flush((newer, row(3)), 10)) == 1
    assert by_provider(store.records.load_providers(KEY)) == by_provider([newer, row(2), row(3)])


def test_a_full_key_takes_no_new_row_but_still_replaces(store: SqliteStore) -> None:
    assert store.records.flush(Flush(tuple(row(number) for number in range(5)), 3)) == 3
    newer = [row(number, received=NOW + 7) for number in range(5)]
    assert store.records.flush(Flush((*newer, row(9, key=OTHER_KEY)), 3)) == 1
    assert by_provider(store.records.load_providers(KEY)) == by_provider(newer[:3])
    assert store.records.load_providers(OTHER_KEY) == [row(9, key=OTHER_KEY)]


def test_a_limit_of_none_only_refreshes(store: SqliteStore) -> None:
    store.records.flush(Flush((row(1),), 10))
    newer = row(1, received=NOW + 7)
    assert store.records.flush(Flush((newer, row(2)), 0)) == 0
    assert store.records.load_providers(KEY) == [newer]


@pytest.mark.conformance("c56")
def test_ten_thousand_providers_of_one_key_are_bounded_to_the_limit(store: SqliteStore) -> None:
    added = [
        store.records.flush(Flush(tuple(row(n) for n in range(start, start + 1_000)), 1_000))
        for start in range(0, 10_000, 1_000)
    ]
    assert added == [1_000] + [0] * 9
    assert {one.provider for one in store.records.load_providers(KEY)} == {
        peer(n) for n in range(1_000)
    }


def test_where_a_provider_was_seen_comes_back_with_its_row(store: SqliteStore) -> None:
    rows = [row(1, subnet=b"\x05\x06\x07"), row(2, subnet=b"\x2a" + bytes(6)), row(3)]
    store.records.flush(Flush(tuple(rows), 10))
    assert rows == store.records.load_providers(KEY)


SUBNETS = st.sampled_from([b"", *(bytes([20 + n % 4, 0, n % 3]) for n in range(12))])


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 150), SUBNETS), max_size=60),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 80),
)
def test_memory_and_disk_give_the_places_of_a_key_to_the_same_providers(
    batches: list[list[tuple[int, bytes]]], most: int
) -> None:
    store = SqliteStore()
    records = ProviderRecords(max_per_key=most)
    records.loaded(KEY, [], NOW)
    try:
        for batch in batches:
            for number, subnet in batch:
                origin = None
                if subnet:
                    ledger = OriginLedger()
                    account = ledger.peer(subnet + b"\x01", b"x")
                    origin = RecordOrigin(ledger, account, Monotonic(0.0))
                records.add(KEY, peer(number), ADDRS, NOW, origin)
            while (flush := records.take_flush()) is not None:
                records.flushed(flush, store.records.flush(flush))
        held = records.get(KEY, NOW)
        assert not isinstance(held, Load)
        assert set(held) == set(store.records.load_providers(KEY))
        assert len(held) == len(records) == store.records.count()
    finally:
        store.close()


def test_the_disk_that_records_take_is_measured(store: SqliteStore) -> None:
    before = store.records.disk_bytes()
    rows = [row(number, key=b"key %d" % number) for number in range(2_000)]
    store.records.flush(Flush(tuple(rows), 10))
    grown = store.records.disk_bytes() - before
    assert 2_000 * 300 < grown < 2_000 * 900
    store.records.delete_expired(NEVER, NEVER, 2_000)
    assert store.records.disk_bytes() - before < grown / 4


def provider_keys(store: SqliteStore) -> list[tuple[bytes, int]]:
    return store.records.provider_keys(b"", 10_000)


def test_keys_are_listed_with_their_counts_a_page_at_a_time_while_writes_go_on(
    store: SqliteStore,
) -> None:
    rows = [row(n, key=bytes((key,))) for key in range(1, 9) for n in range(key)]
    store.records.flush(Flush(tuple(rows), 100))
    listed: list[tuple[bytes, int]] = []
    while page := store.records.provider_keys(listed[-1][0] if listed else b"", 3):
        listed += page
        store.records.flush(Flush((row(len(listed), key=b"\xff"),), 100))
    assert listed == [*((bytes((key,)), key) for key in range(1, 9)), (b"\xff", 2)]


def test_an_empty_store_has_no_keys_and_no_rows(store: SqliteStore) -> None:
    assert provider_keys(store) == []
    assert (store.records.count(), store.keys.count()) == (0, 0)


def test_rows_are_counted(store: SqliteStore) -> None:
    store.records.flush(Flush(tuple(row(n) for n in range(7)), 5))
    assert store.records.count() == 5


def test_a_second_process_sees_what_the_first_writes_and_that_it_wrote(data_dir: Path) -> None:
    """As in a fleet that shares ``records.db``; the lock is on the directory, not on the file."""
    store = SqliteStore(data_dir)
    shared = store.records.database._directory
    other = SqliteRecords(Database(RECORDS, shared, what="the records", precious=False))
    before = other.changes()
    assert before == other.changes()
    store.records.flush(Flush((row(1),), 10))
    assert other.changes() != before
    assert other.load_providers(KEY) == [row(1)]
    before = other.changes()
    other.flush(Flush((row(2),), 10))
    assert other.changes() == before  # its own writes do not count
    assert by_provider(store.records.load_providers(KEY)) == by_provider([row(1), row(2)])
    other.database.close()
    store.close()


def test_in_memory_there_is_nobody_else_who_could_write() -> None:
    store = SqliteStore()
    assert store.records.changes() is None
    store.close()


@pytest.mark.conformance("c56")
def test_expired_rows_are_deleted_oldest_first_and_a_bounded_number_at_a_time(
    store: SqliteStore,
) -> None:
    rows = [row(n, key=bytes((n % 3,)), expires=NOW + n) for n in range(10)]
    store.records.flush(Flush(tuple(reversed(rows)), 100))
    assert store.records.delete_expired(UnixTime(NOW + 5), NEVER, 4) == [
        bytes((n % 3,)) for n in range(4)
    ]
    assert store.records.delete_expired(UnixTime(NOW + 5), NEVER, 4) == [
        bytes((n % 3,)) for n in (4, 5)
    ]
    assert store.records.delete_expired(UnixTime(NOW + 5), NEVER, 4) == []
    left = [one for key in range(3) for one in store.records.load_providers(bytes((key,)))]
    assert by_provider(left) == by_provider(rows[6:])


def test_rows_that_claim_a_longer_life_than_any_can_have_are_deleted_too(
    store: SqliteStore,
) -> None:
    """They were received by a clock that was ahead."""
    latest = UnixTime(NOW + 100)
    rows = [row(n, key=bytes((n,)), expires=NOW + 98 + n) for n in range(6)]
    store.records.flush(Flush(tuple(rows), 100))
    assert store.records.delete_expired(NOW, latest, 2) == [b"\x05", b"\x04"]
    assert store.records.delete_expired(NOW, latest, 2) == [b"\x03"]
    assert store.records.delete_expired(NOW, latest, 2) == []
    assert store.records.delete_expired(UnixTime(NOW + 98), latest, 2) == [b"\x00"]
    assert [key for key, _ in provider_keys(store)] == [b"\x01", b"\x02"]


# --- own keys and snapshot ------------------------------------------------------------------------


def test_own_keys_are_added_once_and_removed_once(store: SqliteStore) -> None:
    assert store.keys.add([NewKey(KEY, "as written")], NOW) == [True]
    again = [NewKey(KEY), NewKey(OTHER_KEY), NewKey(OTHER_KEY, "twice")]
    assert store.keys.add(again, UnixTime(NOW + 1)) == [False, True, False]
    assert store.keys.find(KEY) == OwnKey(KEY, NOW, None, "as written")
    assert store.keys.find(OTHER_KEY) == OwnKey(OTHER_KEY, UnixTime(NOW + 1), None)
    assert (store.keys.count(), store.keys.count_waiting()) == (2, 2)
    assert store.keys.remove([b"unknown", KEY, OTHER_KEY]) == [False, True, True]
    assert store.keys.remove([KEY]) == [False]
    assert (own_keys(store), store.keys.find(KEY), store.keys.count()) == ([], None, 0)


@pytest.mark.conformance("c65")
def test_own_keys_come_in_pages_in_the_order_of_the_keyspace(store: SqliteStore) -> None:
    keys = in_order(*(bytes((number,)) for number in range(7)))
    store.keys.add([NewKey(key) for key in reversed(keys)], NOW)
    found: list[bytes] = []
    while page := store.keys.page(found[-1] if found else b"", 3):
        assert len(page) <= 3
        found += [own.key for own in page]
    assert found == keys


@pytest.mark.conformance("c65")
@given(st.data())
def test_a_turn_finds_exactly_the_keys_of_its_part_of_the_keyspace(data: st.DataObject) -> None:
    keys = in_order(*(bytes((number,)) for number in range(30)))
    provided = data.draw(st.sets(st.sampled_from(keys)))
    places = [place_of(key_of(key)) for key in keys]
    border = st.sampled_from([0, PLACES, *places, *(place + 1 for place in places)])
    start, end = sorted([Place(data.draw(border)), Place(data.draw(border))])
    waiting_only = data.draw(st.booleans())
    found: list[tuple[bytes, bool]] = []
    with closing(SqliteStore(None)) as store:
        store.keys.add([NewKey(key) for key in keys], NOW)
        store.keys.mark_provided(sorted(provided), NOW)
        while True:
            after = found[-1][0] if found else b""
            page = store.keys.turn_page(start, end, after, 4, waiting_only=waiting_only)
            found += page
            if len(page) < 4:
                break
        next_waiting, waiting_keys = store.keys.next_waiting(start), store.keys.count_waiting()
    assert found == [
        (key, key not in provided)
        for key, place in zip(keys, places, strict=True)
        if start <= place < end and not (waiting_only and key in provided)
    ]
    waiting = [p for k, p in zip(keys, places, strict=True) if p >= start and k not in provided]
    assert next_waiting == next(iter(waiting), None)
    assert waiting_keys == len(keys) - len(provided)


def test_no_question_about_own_keys_reads_or_sorts_all(store: SqliteStore) -> None:
    asked: list[str] = []
    store.keys.database.connection.set_trace_callback(asked.append)
    store.keys.find(KEY)
    store.keys.page(KEY, 5)
    store.keys.turn_page(Place(5), Place(9), KEY, 5, waiting_only=False)
    store.keys.next_waiting(7)
    store.keys.count_waiting()
    store.keys.mark_provided([KEY], NOW)
    store.keys.remove([KEY])
    store.keys.holders_of(Place(3), NOW)
    store.keys.database.connection.set_trace_callback(None)
    statements = [each for each in asked if not each.startswith(("BEGIN", "COMMIT"))]
    assert len(statements) == 9
    for statement in statements:
        plan = store.keys.database.connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
        assert all("SEARCH" in step[-1] or "count(*)" in statement for step in plan), (
            statement,
            plan,
        )


def test_keys_that_were_provided_wait_no_longer_until_they_are_said_to(store: SqliteStore) -> None:
    store.keys.add([NewKey(KEY), NewKey(OTHER_KEY)], NOW)
    store.keys.mark_provided([KEY, b"unknown"], UnixTime(NOW + 5))
    assert store.keys.find(KEY) == OwnKey(KEY, NOW, UnixTime(NOW + 5), waits=False)
    assert store.keys.find(OTHER_KEY) == OwnKey(OTHER_KEY, NOW, None, waits=True)
    store.keys.mark_waiting([KEY, b"unknown"])
    assert store.keys.find(KEY) == OwnKey(KEY, NOW, UnixTime(NOW + 5), waits=True)
    assert store.keys.count() == 2


def page_of(
    start: int,
    end: int,
    at: float,
    *,
    holders: tuple[PeerId, ...] = (),
    provided: tuple[bytes, ...] = (),
    unheld: tuple[bytes, ...] = (),
    waiting_only: bool = False,
) -> SweptPage:
    return SweptPage(
        Place(start), Place(end), UnixTime(at), waiting_only, provided, unheld, holders
    )


def test_a_swept_page_is_noted_with_its_keys_and_holders(store: SqliteStore) -> None:
    store.keys.add([NewKey(KEY), NewKey(OTHER_KEY)], NOW)
    store.keys.begin_spans(NOW)
    swept = page_of(
        100, PLACES, NOW + 9, holders=(peer(1), peer(2)), provided=(KEY,), unheld=(OTHER_KEY,)
    )
    store.keys.note_swept(swept)
    assert store.keys.spans() == [(0, NOW), (100, NOW + 9)]
    assert store.keys.holders_of(Place(100), UnixTime(NOW + 9)) == (peer(1), peer(2))
    assert store.keys.holders_of(Place(100), NOW) is None
    assert store.keys.holders_of(Place(99), NOW) == ()
    kept = {own.key: (own.waits, own.last_provided) for own in own_keys(store)}
    assert kept == {KEY: (False, NOW + 9), OTHER_KEY: (True, None)}
    waited = page_of(
        0, PLACES, NOW + 20, waiting_only=True, provided=(OTHER_KEY,), holders=(peer(3),)
    )
    store.keys.note_swept(waited)
    assert store.keys.holders_of(Place(7), UnixTime(NOW + 20)) == (peer(3),)
    assert store.keys.spans() == [(0, NOW), (100, NOW + 9)]
    assert store.keys.count_waiting() == 0


def test_of_how_many_waiting_sweeps_the_holders_are_remembered_is_bounded() -> None:
    store, extra = SqliteStore(None), 20
    for number in range(MAX_WAITING_SWEEPS + extra):
        holders = (peer(number % 100),)
        page = page_of(number % 7, PLACES, number, waiting_only=True, holders=holders)
        store.keys.note_swept(page)
    counted = store.keys.database.connection.execute("SELECT count(*) FROM waiting_sweeps")
    assert counted.fetchone()[0] == MAX_WAITING_SWEEPS
    assert store.keys.holders_of(Place(10), UnixTime(extra - 1)) is None
    assert store.keys.holders_of(Place(10), UnixTime(extra)) == (peer(extra),)
    store.close()


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(1, 20)).map(lambda p: (p[0], p[0] + p[1])),
        max_size=12,
    )
)
def test_spans_say_of_each_place_when_it_was_swept_last(parts: list[tuple[int, int]]) -> None:
    store, unit = SqliteStore(None), PLACES // 40
    store.keys.begin_spans(UnixTime(0.0))
    expected = [0.0] * 40
    for number, (start, end) in enumerate(parts, start=1):
        expected[start:end] = [float(number)] * (end - start)
        store.keys.note_swept(page_of(start * unit, end * unit, number, holders=(peer(number),)))
    spans = store.keys.spans()
    found = [max(span for span in spans if span[0] <= place * unit)[1] for place in range(40)]
    assert found == expected
    for place, at in enumerate(found):
        holders = (peer(int(at)),) if at else ()
        assert store.keys.holders_of(Place(place * unit), UnixTime(at)) == holders
    store.close()


def test_a_snapshot_replaces_the_last_and_keeps_its_order(store: SqliteStore) -> None:
    assert store.snapshot.load() == []
    store.snapshot.save([SnapshotPeer(peer(1), ADDRS)])
    latest = [SnapshotPeer(peer(number), ADDRS[: number % 3]) for number in (5, 2, 9, 1)]
    store.snapshot.save(latest)
    assert store.snapshot.load() == latest
    store.snapshot.save([])
    assert store.snapshot.load() == []


@given(st.lists(st.binary(max_size=20_000), max_size=5).map(tuple))
def test_addresses_survive_packing(addrs: tuple[bytes, ...]) -> None:
    assert unpack_addrs(pack_addrs(addrs)) == addrs


@pytest.mark.parametrize("data", [b"\x05abc", b"\x80", b"\x03abc\x01", b"\xff" * 12])
def test_packed_addresses_that_are_cut_off_are_told(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"cut off|of more than 9 bytes"):
        unpack_addrs(data)


# --- life on disk ---------------------------------------------------------------------------------


@pytest.mark.conformance("c56")
def test_everything_is_there_after_a_restart(data_dir: Path) -> None:
    with_data(data_dir)
    store = SqliteStore(data_dir)
    assert store.records.load_providers(KEY) == [row(1)]
    assert own_keys(store) == [OwnKey(KEY, NOW, UnixTime(NOW + 1), "written", waits=False)]
    assert store.snapshot.load() == [SnapshotPeer(peer(7), ADDRS)]
    store.close()


def with_data(data_dir: Path) -> None:
    store = SqliteStore(data_dir)
    store.records.flush(Flush((row(1),), 10))
    store.keys.add([NewKey(KEY, "written")], NOW)
    store.keys.mark_provided([KEY], UnixTime(NOW + 1))
    store.snapshot.save([SnapshotPeer(peer(7), ADDRS)])
    store.close()


def test_in_memory_nothing_is_left_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = SqliteStore(None)
    store.records.flush(Flush(tuple(row(n) for n in range(2_000)), 5_000))
    store.close()
    assert list(tmp_path.iterdir()) == []


def test_files_and_directory_are_for_the_owner_only(data_dir: Path) -> None:
    before = os.umask(0)
    try:
        store = SqliteStore(data_dir)
        store.records.flush(Flush((row(1),), 10))
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in data_dir.iterdir()}
        store.close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    assert {"records.db", "records.db-wal", "keys.db", "store.lock"} <= set(modes)
    assert set(modes.values()) == {0o600}


def test_a_second_store_on_the_directory_is_told_who_has_it(data_dir: Path) -> None:
    first = SqliteStore(data_dir)
    with pytest.raises(StorageError, match=rf"process {os.getpid()}\) already uses.*{data_dir}"):
        SqliteStore(data_dir)
    first.close()
    SqliteStore(data_dir).close()


def test_a_closed_store_says_so_and_closing_twice_is_fine(store: SqliteStore) -> None:
    store.close()
    store.close()
    for call in (
        lambda: store.records.flush(Flush((row(1),), 10)),
        lambda: store.keys.add([NewKey(KEY)], NOW),
        lambda: store.keys.page(b"", 1),
        store.records.count,
        lambda: provider_keys(store),
        store.snapshot.load,
    ):
        with pytest.raises(StorageError, match="closed"):
            call()


def test_calls_may_come_from_one_thread_after_another(store: SqliteStore) -> None:
    for number in range(4):
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(store.records.flush, Flush((row(number),), 10)).result() == 1
    assert len(store.records.load_providers(KEY)) == 4


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=f"{tmp_path / 'file'}.*--data-dir"):
        SqliteStore(tmp_path / "file")
    (tmp_path / "data" / "records.db").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"records\.db"):
        SqliteStore(tmp_path / "data")
    (tmp_path / "data" / "records.db").rmdir()
    SqliteStore(tmp_path / "data").close()


def test_what_is_on_disk_is_synced_at_every_commit(data_dir: Path) -> None:
    store = SqliteStore(data_dir)
    for connection in (store.keys.database.connection, store.records.database.connection):
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    store.close()


# --- formats --------------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", [RECORDS, KEYS])
def test_a_database_of_a_newer_version_is_refused_and_left_alone(
    data_dir: Path, schema: object
) -> None:
    assert schema in (RECORDS, KEYS)
    name = RECORDS.file_name if schema is RECORDS else KEYS.file_name
    with_data(data_dir)
    with sqlite3.connect(data_dir / name) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    before = (data_dir / name).read_bytes()
    with pytest.raises(StorageError, match=rf"{name} has format 999.*newer version"):
        SqliteStore(data_dir)
    assert (data_dir / name).read_bytes() == before


def test_a_database_of_another_program_is_refused_and_left_alone(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "records.db").touch(mode=0o600)
    with sqlite3.connect(data_dir / "records.db") as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(StorageError, match="another program"):
        SqliteStore(data_dir)
    with sqlite3.connect(data_dir / "records.db") as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]
    connection.close()


def test_a_start_that_ended_between_file_and_tables_is_finished_by_the_next(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "records.db").touch(mode=0o600)
    (data_dir / "keys.db").touch(mode=0o600)
    store = SqliteStore(data_dir)
    assert own_keys(store) == []
    store.close()


@pytest.mark.parametrize("version", range(1, len(KEYS.migrations)))
def test_own_keys_of_every_older_format_are_kept(data_dir: Path, version: int) -> None:
    data_dir.mkdir(mode=0o700)
    with closing(sqlite3.connect(data_dir / "keys.db")) as connection:
        for statement in [each for step in KEYS.migrations[:version] for each in step]:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {KEYS.application_id}")
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("INSERT INTO own_keys VALUES (?, ?, NULL)", (OTHER_KEY, NOW))
        connection.execute("INSERT INTO own_keys VALUES (?, ?, ?)", (KEY, NOW, NOW + 1))
        connection.commit()
    (data_dir / "keys.db").chmod(0o600)
    store = SqliteStore(data_dir)
    assert {own.key: own for own in own_keys(store)} == {
        OTHER_KEY: OwnKey(OTHER_KEY, NOW, None),
        KEY: OwnKey(KEY, NOW, UnixTime(NOW + 1), waits=False),
    }
    assert store.keys.find(KEY) is not None
    assert store.keys.spans() == []
    database = store.keys.database.connection
    assert database.execute("PRAGMA user_version").fetchone() == (len(KEYS.migrations),)
    store.close()


def test_a_directory_that_may_not_be_written_says_what_to_do(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o500)
    user = os.geteuid()
    if user == 0:  # to whom nothing is forbidden
        os.seteuid(65_534)
    try:
        with pytest.raises(StorageError, match=rf"{data_dir}: Permission denied; make it writ"):
            SqliteStore(data_dir)
    finally:
        os.seteuid(user)


def test_a_database_that_cannot_be_written_says_so_at_the_start(data_dir: Path) -> None:
    (data_dir / "keys.db").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"keys\.db: Is a directory; use another data dir"):
        SqliteStore(data_dir)


# --- damage ---------------------------------------------------------------------------------------


def test_damaged_records_are_set_aside_and_the_own_keys_stay(data_dir: Path) -> None:
    with_data(data_dir)
    (data_dir / "records.db").write_bytes(b"not a database at all, " * 1_000)
    with capture_logs() as logs:
        store = SqliteStore(data_dir)
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("records_set_aside", "error")
    ]
    assert logs[0]["kept"] == str(data_dir / "records.db.corrupt-1")
    assert (data_dir / "records.db.corrupt-1").read_bytes().startswith(b"not a database")
    assert store.records.load_providers(KEY) == []
    assert [own.key for own in own_keys(store)] == [KEY]
    assert store.records.flush(Flush((row(1),), 10)) == 1
    store.close()


def test_the_log_of_a_damaged_file_goes_with_it_and_not_into_the_fresh_one(
    data_dir: Path,
) -> None:
    """It is left behind where another process has the file open too."""
    damage_all_pages_but_the_first(data_dir)
    with closing(sqlite3.connect(data_dir / "records.db")) as other:
        other.execute("CREATE TABLE something_in_the_log (x)")
        store = SqliteStore(data_dir)
        with capture_logs(), pytest.raises(StorageError, match="damaged"):
            provider_keys(store)
        assert (data_dir / "records.db.corrupt-1-wal").exists()
        assert store.records.count() == 0
        store.close()


def damage_all_pages_but_the_first(data_dir: Path) -> None:
    store = SqliteStore(data_dir)
    store.records.flush(Flush(tuple(row(n, key=n.to_bytes(4, "big")) for n in range(5_000)), 10))
    store.close()
    damaged = bytearray((data_dir / "records.db").read_bytes())
    for page in range(2, len(damaged) // 4096):
        damaged[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    (data_dir / "records.db").write_bytes(damaged)


def test_the_databases_are_opened_so_that_power_cuts_and_damage_are_survived(
    data_dir: Path,
) -> None:
    store = SqliteStore(data_dir)
    expected: dict[str, object] = {
        "journal_mode": "wal",
        "synchronous": 2,  # FULL: a commit is on the disk when it returns
        "fullfsync": 1,
        "checkpoint_fullfsync": 1,
        "cell_size_check": 1,  # damage is noticed when a page is read
        "trusted_schema": 0,
        "journal_size_limit": 16 * 1024 * 1024,
        "cache_size": -16 * 1024,  # KiB
        "temp_store": 2,  # MEMORY: nothing is left in a directory of temporary files
    }
    for database in (store.records.database, store.keys.database):
        found = {
            name: database.connection.execute(f"PRAGMA {name}").fetchone()[0] for name in expected
        }
        assert found == expected
    store.close()


def test_only_so_many_damaged_copies_are_kept(data_dir: Path) -> None:
    for number in range(6):
        SqliteStore(data_dir).close()
        (data_dir / "records.db").write_bytes(b"%d" % number * 5_000)
    SqliteStore(data_dir).close()
    copies = {path.name: path.read_bytes()[:1] for path in data_dir.glob("*.corrupt-*")}
    assert copies == {
        "records.db.corrupt-1": b"0",
        "records.db.corrupt-2": b"1",
        "records.db.corrupt-3": b"5",
    }


def test_damage_met_while_running_fails_that_call_and_begins_afresh(data_dir: Path) -> None:
    damage_all_pages_but_the_first(data_dir)
    store = SqliteStore(data_dir)
    with capture_logs() as logs, pytest.raises(StorageError, match="damaged"):
        provider_keys(store)
    assert [entry["event"] for entry in logs] == ["records_set_aside"]
    assert provider_keys(store) == []
    assert store.records.flush(Flush((row(1),), 10)) == 1
    assert store.records.load_providers(KEY) == [row(1)]
    store.close()


def test_damaged_own_keys_are_never_thrown_away(data_dir: Path) -> None:
    with_data(data_dir)
    (data_dir / "keys.db").write_bytes(b"not a database at all, " * 1_000)
    with pytest.raises(StorageError, match=r"keys\.db.*restore the file from a backup"):
        SqliteStore(data_dir)
    assert (data_dir / "keys.db").read_bytes() == b"not a database at all, " * 1_000


def test_own_keys_with_one_damaged_page_are_noticed_at_the_start(data_dir: Path) -> None:
    store = SqliteStore(data_dir)
    for number in range(400):
        store.keys.add([NewKey(KEY + number.to_bytes(2, "big"))], NOW)
    store.close()
    damaged = bytearray((data_dir / "keys.db").read_bytes())
    damaged[-4096:] = b"\xff" * 4096
    (data_dir / "keys.db").write_bytes(damaged)
    with pytest.raises(StorageError, match=r"keys\.db.*restore the file from a backup"):
        SqliteStore(data_dir)
    assert (data_dir / "keys.db").read_bytes() == bytes(damaged)


def test_a_row_that_was_tampered_with_costs_that_row(store: SqliteStore) -> None:
    store.records.flush(Flush((row(1), row(2), row(3)), 10))
    store.snapshot.save([SnapshotPeer(peer(1), ADDRS), SnapshotPeer(peer(2), ADDRS)])
    store.records.database.connection.execute(
        "UPDATE providers SET record = x'00' WHERE provider = ?", (peer(1).to_bytes(),)
    )
    store.records.database.connection.execute(
        "UPDATE providers SET provider = x'ff' WHERE provider = ?", (peer(2).to_bytes(),)
    )
    store.records.database.connection.execute("UPDATE snapshot SET addrs = x'05' WHERE place = 0")
    assert store.records.load_providers(KEY) == [row(3)]
    assert store.snapshot.load() == [SnapshotPeer(peer(2), ADDRS)]


# --- a full disk ----------------------------------------------------------------------------------


def test_a_full_disk_fails_the_call_undoes_it_and_leaves_the_store_usable(
    store: SqliteStore,
) -> None:
    store.records.flush(Flush((row(1),), 10))
    store.snapshot.save([SnapshotPeer(peer(1), ADDRS)])
    pages = store.records.database.connection.execute("PRAGMA page_count").fetchone()[0]
    store.records.database.connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    many = tuple(row(n, key=n.to_bytes(4, "big")) for n in range(2_000))
    with pytest.raises(StorageError, match="full"):
        store.records.flush(Flush(many, 10))
    with pytest.raises(StorageError, match="full"):
        store.snapshot.save([SnapshotPeer(peer(n), ADDRS) for n in range(2_000)])
    assert provider_keys(store) == [(KEY, 1)]
    assert store.snapshot.load() == [SnapshotPeer(peer(1), ADDRS)]
    assert store.records.delete_expired(UnixTime(NOW + 9_999), NEVER, 10) == [KEY]
    store.records.database.connection.execute("PRAGMA max_page_count = 100000")
    assert store.records.flush(Flush(many, 10)) == 2_000


def test_a_full_disk_never_half_adds_an_own_key(store: SqliteStore) -> None:
    store.keys.add([NewKey(KEY)], NOW)
    pages = store.keys.database.connection.execute("PRAGMA page_count").fetchone()[0]
    store.keys.database.connection.execute(f"PRAGMA max_page_count = {pages}")
    kept = [KEY]

    def add_until_full() -> None:
        for number in range(1_000):
            key = KEY + number.to_bytes(2, "big")
            store.keys.add([NewKey(key)], NOW)
            kept.append(key)

    with pytest.raises(StorageError, match="full"):
        add_until_full()
    assert sorted(own.key for own in own_keys(store)) == sorted(kept)
    assert store.keys.remove([KEY]) == [True]
