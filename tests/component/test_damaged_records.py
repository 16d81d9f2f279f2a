"""A damaged records.db: whatever happened to the file, the first start runs, and nothing is told
that nobody provided."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from codio_dht.core.clock import UnixTime
from codio_dht.core.own_keys import OwnKeys
from codio_dht.core.peer import PeerId
from codio_dht.core.records import Flush, ProviderRecords, ProviderRow
from codio_dht.core.validation import Validators
from codio_dht.core.value_records import ValueFlush, ValueRecords, ValueRow
from codio_dht.node.clock import Clock
from codio_dht.node.storage import Storage
from codio_dht.node.validating import ValidatorRunner
from codio_dht.store.interface import SnapshotPeer
from codio_dht.store.sqlite import SqliteStore

NOW = UnixTime(1_800_000_000.0)
ADDRS = (b"\x04\x01\x02\x03\x04\x06\x0f\xa1", b"\x04\x05\x06\x07\x08\x06\x0f\xa1")
PAGE_BYTES = 4_096
PAGES = 40
"""At least as many are in the file, so that a damage of one place is one of many."""


def peer(number: int) -> PeerId:
    return PeerId(b"\x00\x24\x08\x01\x12\x20" + random.Random(number).randbytes(32))


def row(number: int) -> ProviderRow:
    key = b"\x12\x20" + random.Random(-number).randbytes(32)
    return ProviderRow(key, peer(number), ADDRS, NOW, NOW, UnixTime(NOW + 3_600 + number))


ROWS = tuple(row(number) for number in range(600))


def filled(data_dir: Path) -> None:
    store = SqliteStore(data_dir)
    store.records.flush(Flush(ROWS, 10))
    values = [ValueRow(b"/v/%d" % n, bytes(200), NOW) for n in range(20)]
    store.values.flush(ValueFlush(tuple(values), ()))
    store.snapshot.save([SnapshotPeer(peer(number), ADDRS) for number in range(20)])
    store.close()
    assert (data_dir / "records.db").stat().st_size >= PAGES * PAGE_BYTES


async def start_and_stop(data_dir: Path) -> tuple[Storage, list[ProviderRow]]:
    """As a node starts; the storage, and every row that it would have told."""
    store = SqliteStore(data_dir)
    try:
        clock = Clock(lambda: NOW)
        records = ProviderRecords()
        storage = Storage(store, records, OwnKeys(), clock)
        async with trio.open_nursery() as nursery:
            validators = Validators({})
            values = ValueRecords(peer(0).key, validators)
            storage.keep_values(
                values, ValidatorRunner(validators, values.judged, storage.counters)
            )
            await storage.open()
            await storage.call(store.snapshot.load)
            nursery.start_soon(storage.run_loads)
            await storage.build_filters()
            load = store.records.load_providers
            told = await storage.call(lambda: [row for each in ROWS for row in load(each.key)])
            for each in told[:3]:
                assert await storage.rows(each.key) == (each,)
            records.add(ROWS[0].key, peer(9_999), ADDRS, NOW)
            assert await storage.flush()
            await storage.expire()
            nursery.cancel_scope.cancel()
        return storage, told
    finally:
        store.close()


def assert_started(data_dir: Path, *, set_aside: bool | None = None) -> None:
    with capture_logs() as logs:
        storage, told = trio.run(start_and_stop, data_dir)
    assert set(told) <= set(ROWS)
    aside = (data_dir / "records.db.corrupt-1").exists()
    assert set_aside in (None, aside), logs
    if set_aside is False:
        assert len(told) == len(ROWS)
    assert {name for name in storage.counters if name.endswith("_failed")} == set(), logs
    # What was begun anew takes new records.
    assert storage.counters["rows_written"] == 1


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("good") / "data"
    filled(data_dir)
    return data_dir


@pytest.fixture
def data_dir(good: Path, tmp_path: Path) -> Path:
    shutil.copytree(good, tmp_path / "data")
    return tmp_path / "data"


def test_what_is_whole_is_kept(data_dir: Path) -> None:
    assert_started(data_dir, set_aside=False)


def damage(content: bytearray, how: str, rng: random.Random) -> None:
    match how:
        case "lost, aligned":
            at = rng.randrange(len(content) // PAGE_BYTES) * PAGE_BYTES
            content[at : at + 8_192] = bytes(len(content[at : at + 8_192]))
        case "lost, unaligned":
            at = rng.randrange(len(content))
            content[at : at + 8_192] = bytes(len(content[at : at + 8_192]))
        case "a sector lost":
            at = rng.randrange(len(content) // 512) * 512
            content[at : at + 512] = bytes(512)
        case "another page in its place":
            pages = len(content) // PAGE_BYTES
            there, here = (rng.randrange(1, pages) * PAGE_BYTES for _ in range(2))
            content[here : here + PAGE_BYTES] = content[there : there + PAGE_BYTES]
        case "noise":
            at = rng.randrange(len(content))
            content[at : at + 64] = rng.randbytes(len(content[at : at + 64]))
        case "cut":
            del content[rng.randrange(len(content)) :]
        case "flipped bits":
            for _ in range(20):
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        case _:
            raise ValueError(how)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "how",
    [
        "lost, aligned",
        "lost, unaligned",
        "a sector lost",
        "another page in its place",
        "noise",
        "cut",
        "flipped bits",
    ],
)
def test_a_damaged_file_never_stops_the_start_nor_makes_a_lie(
    data_dir: Path, how: str, seed: int
) -> None:
    file = data_dir / "records.db"
    content = bytearray(file.read_bytes())
    damage(content, how, random.Random(f"{how} {seed}"))
    file.write_bytes(content)
    assert_started(data_dir)


HEADER = [16, 18, 19, 43, 47, 59, 63, 71, 100, 103]
"""Page size, versions of the format, schema, encoding, user version, and the first page."""


@pytest.mark.parametrize("offset", HEADER)
def test_a_flipped_bit_in_the_header_never_stops_the_start(data_dir: Path, offset: int) -> None:
    file = data_dir / "records.db"
    content = bytearray(file.read_bytes())
    content[offset] ^= 1 << offset % 8
    file.write_bytes(content)
    assert_started(data_dir)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE providers SET record = x'00' WHERE id = 300",
        "UPDATE providers SET record = 'text' WHERE id = 300",
        "UPDATE providers SET key = 'text' WHERE id = 300",
        "UPDATE providers SET key = 5 WHERE id = 300",
        "UPDATE providers SET provider = x'0024' WHERE id = 300",
        "UPDATE providers SET provider = 1.5 WHERE id = 300",
        "UPDATE providers SET expires = 'text' WHERE id = 300",
        "UPDATE providers SET expires = expires + 1 WHERE id = 300",
        "UPDATE value_records SET value = 'text'",
        "DROP INDEX providers_by_key",
        "DROP TABLE snapshot",
        "PRAGMA application_id = 7",
        "PRAGMA user_version = 1",
        "PRAGMA user_version = 0",
    ],
)
def test_what_was_never_written_so_is_set_aside_at_the_first_start(
    data_dir: Path, statement: str
) -> None:
    with closing(sqlite3.connect(data_dir / "records.db")) as connection:
        connection.execute(statement)
        connection.commit()
    assert_started(data_dir, set_aside=True)
    with capture_logs() as logs:
        trio.run(start_and_stop, data_dir)
    assert logs == []


def test_a_provider_that_was_changed_by_one_bit_is_not_told_before_it_is_found(
    data_dir: Path,
) -> None:
    store = SqliteStore(data_dir)
    connection = store.records.database.connection
    changed = bytearray(ROWS[7].provider.to_bytes())
    changed[-1] ^= 1
    connection.execute(
        "UPDATE providers SET provider = ? WHERE key = ?", (bytes(changed), ROWS[7].key)
    )
    assert store.records.load_providers(ROWS[7].key) == []
    store.close()


def test_rows_written_before_there_was_a_checksum_are_read(data_dir: Path) -> None:
    with closing(sqlite3.connect(data_dir / "records.db")) as connection:
        connection.execute("UPDATE providers SET record = substr(record, 6)")
        connection.commit()
    assert_started(data_dir, set_aside=False)
