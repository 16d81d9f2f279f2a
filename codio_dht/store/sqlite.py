"""The default store: two SQLite databases in a data directory, or in memory without one.

    records.db   others' provider records, and the snapshot. A flush is one transaction: the disk is
                 synced once a batch (about once a second), and a power cut takes no more than what
                 was not flushed yet. Damaged, it is set aside and a fresh one begun: others provide
                 again.
    keys.db      own keys. Each change is a transaction of its own, on disk when its method has
                 returned. Damaged, it is an error at the start: only a person may give it up.
    disk full    the call fails with StorageError and is undone; the store stays usable

Executes; decides nothing but how durable what is (:mod:`codio_dht.store.database`). Calls come from
one thread at a time, not always the same. Nothing but ``StorageError`` is raised.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from codio_dht.core.clock import UnixTime
from codio_dht.core.peer import PeerId
from codio_dht.core.places import MAX_PLACES_PER_SUBNET, find_place, is_open
from codio_dht.core.records import Flush, ProviderRow
from codio_dht.errors import PeerIdError
from codio_dht.store.database import DamagedContentError, Database
from codio_dht.store.directory import OwnedDirectory
from codio_dht.store.interface import CheckedTo, SnapshotPeer
from codio_dht.store.schema import (
    KEYS,
    RECORDS,
    pack_addrs,
    pack_record,
    unpack_addrs,
    unpack_row,
)
from codio_dht.store.sqlite_keys import SqliteKeys
from codio_dht.store.sqlite_values import SqliteOwnValues, SqliteValues, check_keys

# Plain placeholders: Python 3.12.0 to 3.12.3 warn of numbered ones.
_REPLACE_ROW: Final = """
    UPDATE providers SET record = ?, expires = ?, subnet = ? WHERE key = ? AND provider = ?
"""
_ADD_ROW: Final = """
    INSERT INTO providers (record, expires, subnet, key, provider) VALUES (?, ?, ?, ?, ?)
"""
_DELETE_ROW: Final = "DELETE FROM providers WHERE key = ? AND provider = ?"
_PLACES: Final = "SELECT provider, subnet FROM providers WHERE key = ? ORDER BY id"
_COUNT_ROWS: Final = "SELECT count(*) FROM (SELECT 1 FROM providers WHERE key = ? LIMIT ?)"


class SqliteRecords:
    """A :class:`~codio_dht.store.interface.RecordStore` in ``records.db``. Several processes may
    use one file, each with an object of its own."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def changes(self) -> int | None:
        """SQLite's ``data_version``: another one after another connection has written. None in
        memory, where there is no other."""
        if not self.database.is_shareable:
            return None
        with self.database.reading("look for changes by others") as connection:
            version: int = connection.execute("PRAGMA data_version").fetchone()[0]
        return version

    def load_providers(self, key: bytes) -> list[ProviderRow]:
        """Every stored row of ``key``, expired ones too, the one that was added first first; a
        damaged row is left out."""
        with self.database.reading("read provider records") as connection:
            rows = connection.execute(
                "SELECT provider, record, expires, subnet FROM providers WHERE key = ? ORDER BY id",
                (key,),
            ).fetchall()
        found = (unpack_row(key, *row) for row in rows)
        return [row for row in found if row is not None]

    def flush(self, batch: Flush) -> int:
        """Apply a batch in one transaction; how many rows there are more than before."""
        last = {(row.key, row.provider.to_bytes()): row for row in batch.rows}
        added = 0
        crowded: dict[bytes, dict[bytes, bytes]] = {}
        with self.database.writing("write provider records") as connection:
            for (key, provider), row in last.items():
                values = (pack_record(row), row.expires, row.subnet, key, provider)
                if connection.execute(_REPLACE_ROW, values).rowcount or batch.max_per_key <= 0:
                    continue
                most = batch.max_per_key
                if key not in crowded and not _is_open(connection, key, most):
                    crowded[key] = dict(connection.execute(_PLACES, (key,)))
                subnets = crowded.get(key)
                place = True if subnets is None else find_place(subnets, row.subnet, most)
                if place is False:
                    continue
                if subnets is not None:
                    subnets[provider] = row.subnet
                    if isinstance(place, bytes):
                        del subnets[place]
                        connection.execute(_DELETE_ROW, (key, place))
                        added -= 1
                connection.execute(_ADD_ROW, values)
                added += 1
        return added

    def disk_bytes(self) -> int:
        """What the database takes on the disk, without what it has free inside."""
        with self.database.reading("measure the records") as connection:
            pages, free, size = (
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            )
        used: int = (pages - free) * size
        return used

    def count(self) -> int:
        """How many rows there are."""
        with self.database.reading("count provider records") as connection:
            count: int = connection.execute("SELECT count(*) FROM providers").fetchone()[0]
        return count

    def provider_keys(self, after: bytes, limit: int) -> list[tuple[bytes, int]]:
        """The first ``limit`` keys that are greater than ``after``, each with the number of its
        rows."""
        with self.database.reading("read provider keys") as connection:
            rows: list[tuple[bytes, int]] = connection.execute(
                "SELECT key, count(*) FROM providers WHERE key > ? GROUP BY key ORDER BY key"
                " LIMIT ?",
                (after, limit),
            ).fetchall()
            check_keys(after, (row[0] for row in rows))
            return rows

    def check(self, after: CheckedTo, limit: int) -> CheckedTo | None:
        """Read the next ``limit`` rows in the order in which they expire."""
        with self.database.reading("check provider records") as connection:
            rows = connection.execute(
                "SELECT expires, id, key, provider, record FROM providers"
                " WHERE (expires, id) > (?, ?) ORDER BY expires, id LIMIT ?",
                (*after, limit),
            ).fetchall()
            for expires, number, key, provider, record in rows:
                place = CheckedTo(expires, number)
                if not isinstance(expires, float) or place <= after:
                    raise DamagedContentError("its rows are in no order")
                if not isinstance(key, bytes) or unpack_row(key, provider, record, expires) is None:
                    raise DamagedContentError("a row is not as it was written")
                after = place
        return after if len(rows) == limit else None

    def delete_expired(self, now: UnixTime, latest: UnixTime, limit: int) -> list[bytes]:
        """Delete up to ``limit`` rows with ``expires <= now``, the oldest first, or ``expires >
        latest``; the key of each deleted row."""
        with self.database.writing("expire provider records") as connection:
            rows = connection.execute(
                "SELECT key, id FROM providers WHERE expires <= ? ORDER BY expires LIMIT ?",
                (now, limit),
            ).fetchall()
            rows += connection.execute(
                "SELECT key, id FROM providers WHERE expires > ? ORDER BY expires DESC LIMIT ?",
                (latest, limit - len(rows)),
            ).fetchall()
            connection.executemany("DELETE FROM providers WHERE id = ?", [row[1:] for row in rows])
        return [row[0] for row in rows]


def _is_open(connection: sqlite3.Connection, key: bytes, most: int) -> bool:
    """Whether the key takes any provider, without a look at those that it has."""
    limit = min(most, MAX_PLACES_PER_SUBNET)
    return is_open(connection.execute(_COUNT_ROWS, (key, limit)).fetchone()[0], most)


class SqliteSnapshot:
    """A :class:`~codio_dht.store.interface.Snapshot` in ``records.db``."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def save(self, peers: Sequence[SnapshotPeer]) -> None:
        """Replace the snapshot, whole or not at all."""
        rows = [
            (place, peer.peer_id.to_bytes(), pack_addrs(peer.addrs))
            for place, peer in enumerate(peers)
        ]
        with self.database.writing("save the snapshot") as connection:
            connection.execute("DELETE FROM snapshot")
            connection.executemany("INSERT INTO snapshot VALUES (?, ?, ?)", rows)

    def load(self) -> list[SnapshotPeer]:
        """The last snapshot in its order; empty if none. A damaged row is left out."""
        with self.database.reading("read the snapshot") as connection:
            rows = connection.execute(
                "SELECT peer_id, addrs FROM snapshot ORDER BY place"
            ).fetchall()
        peers = []
        for peer_id, addrs in rows:
            with suppress(PeerIdError, ValueError, TypeError):
                peers.append(SnapshotPeer(PeerId(peer_id), unpack_addrs(addrs)))
        return peers


class SqliteStore:
    """A :class:`~codio_dht.store.interface.Store`. See the module.

    Raises:
        StorageError: the directory cannot be used or is used by another node, or a database in it
            is not ours, newer than this program, or (own keys) damaged.
    """

    def __init__(self, data_dir: Path | None = None) -> None:
        with ExitStack() as opening:
            directory = None if data_dir is None else OwnedDirectory(Path(data_dir))
            if directory is not None:
                opening.callback(directory.release)
            own = Database(KEYS, directory, what="the own keys", precious=True)
            opening.callback(own.close)
            others = Database(RECORDS, directory, what="the records", precious=False)
            opening.callback(others.close)
            self._closing = opening.pop_all()
        self.records = SqliteRecords(others)
        self.keys = SqliteKeys(own)
        self.snapshot = SqliteSnapshot(others)
        self.values = SqliteValues(others)
        self.own_values = SqliteOwnValues(own)

    def close(self) -> None:
        """Write what is open and close. Idempotent."""
        self._closing.close()
