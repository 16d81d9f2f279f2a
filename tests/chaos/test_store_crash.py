"""The store and the key file after SIGKILL and on a disk that refuses writes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from codio_dht.core.clock import UnixTime
from codio_dht.core.peer import PeerId
from codio_dht.core.records import Flush, ProviderRow
from codio_dht.store.identity import load_or_create_identity
from codio_dht.store.sqlite import SqliteStore
from killing import kill_after, start

ROOT = Path(__file__).parents[2]
BATCH = 50
ROUNDS = 6

COMMON = """
import sys
from itertools import count
from pathlib import Path
from codio_dht.core.own_keys import NewKey
from codio_dht.core.peer import PeerId
from codio_dht.core.records import Flush, ProviderRow
from codio_dht.errors import StorageError
from codio_dht.store.identity import load_or_create_identity
from codio_dht.store.sqlite import SqliteStore

directory, start = Path(sys.argv[1]), int(sys.argv[2])

def rows(batch, size):
    key = batch.to_bytes(34, "big")
    return tuple(
        ProviderRow(key, PeerId(b"\\x12\\x20" + n.to_bytes(32, "big")), (b"a" * 60,), 1.0, 2.0, 3.0)
        for n in range(size)
    )
"""

ADD_AND_FLUSH = (
    COMMON
    + """
store = SqliteStore(directory)
for number in count(start):
    store.keys.add([NewKey(number.to_bytes(34, "big"))], float(number))
    print("key", number, flush=True)
    store.records.flush(Flush(rows(number, {BATCH}), 1000))
    print("batch", number, flush=True)
""".replace("{BATCH}", str(BATCH))
)

MAKE_IDENTITIES = (
    COMMON
    + """
for number in count(start):
    key = load_or_create_identity(directory / str(number) / "identity.key")
    print(number, key.peer_id(), flush=True)
"""
)

FILL_THE_DISK = (
    COMMON
    + """
import resource

store = SqliteStore(directory)
store.records.flush(Flush(rows(0, 20), 1000))
store.keys.add([NewKey(b"first")], 1.0)
none, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
refused = 0
for number in range(1, 200):
    try:
        store.records.flush(Flush(rows(number, 20), 1000))
    except StorageError as error:
        refused += 1
assert refused, "nothing was refused"
assert len(store.records.load_providers(rows(0, 1)[0].key)) == 20
assert [own.key for own in store.keys.page(b"", 100_000)] == [b"first"]
resource.setrlimit(resource.RLIMIT_FSIZE, (none, hard))
assert store.records.flush(Flush(rows(999, 20), 1000)) == 20
assert store.keys.add([NewKey(b"second")], 2.0) == [True]
store.close()
print("refused", refused)
"""
)


def batch_rows(number: int) -> set[PeerId]:
    assert number >= 0
    return {PeerId(b"\x12\x20" + n.to_bytes(32, "big")) for n in range(BATCH)}


@pytest.mark.conformance("c56")
def test_after_sigkill_every_own_key_and_every_flushed_batch_is_there_and_whole(
    tmp_path: Path,
) -> None:
    rng = random.Random(56)
    keys: set[int] = set()
    batches: set[int] = set()
    first = 0
    for _ in range(ROUNDS):
        for line in kill_after(rng.randrange(2, 60), ADD_AND_FLUSH, tmp_path, first):
            kind, number = line.split()
            (keys if kind == "key" else batches).add(int(number))
        first = max(keys) + 10

        store = SqliteStore(tmp_path)
        found = {int.from_bytes(own.key, "big") for own in store.keys.page(b"", 100_000)}
        stored = dict(store.records.provider_keys(b"", 100_000))
        store.close()
        assert found >= keys
        assert len(found - keys) <= ROUNDS  # added, killed before it could say so
        assert {int.from_bytes(key, "big") for key in stored} >= batches
        assert set(stored.values()) <= {BATCH}, "a batch was written in part"
    assert not list(tmp_path.glob("*.corrupt-*"))


def test_after_sigkill_a_key_file_is_whole_or_not_there(tmp_path: Path) -> None:
    rng = random.Random(7)
    for turn in range(ROUNDS):
        number = turn * 10_000
        told = kill_after(rng.randrange(1, 30), MAKE_IDENTITIES, tmp_path, number)
        for line in told:
            made, peer_id = line.split()
            key = load_or_create_identity(tmp_path / made / "identity.key")
            assert str(key.peer_id()) == peer_id
        cut_short = tmp_path / str(number + len(told)) / "identity.key"
        if cut_short.exists():
            load_or_create_identity(cut_short)


def test_a_disk_that_refuses_writes_costs_only_those_and_not_the_store(tmp_path: Path) -> None:
    child = start(FILL_THE_DISK, tmp_path, 0)
    said, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    assert said.startswith("refused ")
    store = SqliteStore(tmp_path)
    assert {own.key for own in store.keys.page(b"", 100_000)} == {b"first", b"second"}
    last = ProviderRow(
        (999).to_bytes(34, "big"),
        PeerId(b"\x12\x20" + bytes(32)),
        (b"a" * 60,),
        UnixTime(1.0),
        UnixTime(2.0),
        UnixTime(3.0),
    )
    assert last in store.records.load_providers(last.key)
    assert store.records.flush(Flush((last,), 1000)) == 0
    store.close()
