"""The default store: two SQLite databases in a data directory, or in memory without one.

Executes; decides nothing but how durable what is. Both databases keep a write-ahead log and sync it
at every commit. A flush is one transaction: the disk is synced once a batch (about once a second),
and a power cut takes no more than what was not flushed yet. An own key is a transaction of its own:
it is on disk when ``add_own_key`` has returned.

    records.db damaged   set aside, a fresh one begun, an error logged: others announce again.
                         At the start, or when a call meets the damage (that call fails).
    keys.db damaged      StorageError at the start; never touched: only a person may give it up
    disk full            the call fails with StorageError and is undone; the store stays usable

Calls come from one thread at a time, not always the same. Nothing but ``StorageError`` is raised.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from codio_dht.core.clock import UnixTime
from codio_dht.core.peer import PeerId
from codio_dht.core.records import Flush, ProviderRow
from codio_dht.errors import PeerIdError, StorageError
from codio_dht.logger import get_logger
from codio_dht.store.directory import OwnedDirectory
from codio_dht.store.interface import OwnKey, SnapshotPeer
from codio_dht.store.schema import (
    KEYS,
    RECORDS,
    Schema,
    migrate,
    pack_addrs,
    pack_record,
    unpack_addrs,
    unpack_row,
)

log = get_logger(__name__)

_PRAGMAS: Final = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "fullfsync = ON",  # macOS: fsync alone does not reach the disk there
    "checkpoint_fullfsync = ON",
    "journal_size_limit = 16777216",  # bytes a log keeps after a burst
    "cache_size = -16384",  # KiB
    "temp_store = MEMORY",
    "trusted_schema = OFF",
    "cell_size_check = ON",  # notice damage when a page is read
)
_BUSY_TIMEOUT_S: Final = 5.0
"""How long a write waits for somebody who reads the files from outside."""

_KEYS_PER_PAGE: Final = 4_096
"""Keys read at a time by ``provider_keys``."""

_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PRIMARY_CODE: Final = 0xFF
"""The part of an SQLite error code that tells the kind."""

# A row is replaced if it exists; else added, unless its key is full. Plain placeholders: Python
# 3.12.0 to 3.12.3 warn of numbered ones.
_REPLACE_ROW: Final = """
    UPDATE providers SET record = ?, expires = ? WHERE key = ? AND provider = ?
"""
_ADD_ROW: Final = """
    INSERT OR IGNORE INTO providers (key, provider, record, expires)
    SELECT ?, ?, ?, ?
    WHERE (SELECT count(*) FROM (SELECT 1 FROM providers WHERE key = ? LIMIT {limit})) < {limit}
"""


class SqliteStore:
    """A :class:`~codio_dht.store.interface.Store`. See the module.

    Raises:
        StorageError: the directory cannot be used or is used by another node, or a database in it
            is not ours, newer than this program, or (own keys) damaged.
    """

    def __init__(self, data_dir: Path | None = None) -> None:
        self._directory = None if data_dir is None else OwnedDirectory(Path(data_dir))
        self._closing = ExitStack()
        if self._directory is not None:
            self._closing.callback(self._directory.release)
        try:
            self._keys = self._open_keys()
            self._closing.callback(self._keys.close)
            self._records = self._open_records()
            self._closing.callback(self._close_records)
        except BaseException:
            self._closing.close()
            raise
        self._open = True

    # --- provider records of others -------------------------------------------------------------

    def load_providers(self, key: bytes) -> list[ProviderRow]:
        """Every stored row of ``key``, expired ones too; a damaged row is left out."""
        with self._using_records("read provider records"):
            rows = self._records.execute(
                "SELECT provider, record, expires FROM providers WHERE key = ?", (key,)
            ).fetchall()
        found = (unpack_row(key, *row) for row in rows)
        return [row for row in found if row is not None]

    def flush(self, batch: Flush) -> int:
        """Apply a batch in one transaction; how many rows had no older version."""
        last = {(row.key, row.provider.to_bytes()): row for row in batch.rows}
        values = [(pack_record(row), row.expires, *place) for place, row in last.items()]
        with self._using_records("write provider records"), _transaction(self._records) as records:
            records.executemany(_REPLACE_ROW, values)
            if batch.max_per_key <= 0:
                return 0
            return records.executemany(
                _ADD_ROW.format(limit=batch.max_per_key),
                [(key, provider, *kept, key) for *kept, key, provider in values],
            ).rowcount

    def provider_keys(self) -> Iterator[tuple[bytes, int]]:
        """Every key with rows and how many it has, a page at a time: writes may come between."""
        after = b""
        while True:
            with self._using_records("read provider keys"):
                page = self._records.execute(
                    "SELECT key, count(*) FROM providers WHERE key > ? GROUP BY key ORDER BY key"
                    " LIMIT ?",
                    (after, _KEYS_PER_PAGE),
                ).fetchall()
            yield from page
            if len(page) < _KEYS_PER_PAGE:
                return
            after = page[-1][0]

    def delete_expired(self, now: UnixTime, limit: int) -> list[bytes]:
        """Delete up to ``limit`` rows with ``expires <= now``; the key of each deleted row."""
        with self._using_records("expire provider records"), _transaction(self._records) as records:
            rows = records.execute(
                "SELECT key, id FROM providers WHERE expires <= ? ORDER BY expires LIMIT ?",
                (now, limit),
            ).fetchall()
            records.executemany("DELETE FROM providers WHERE id = ?", [row[1:] for row in rows])
        return [row[0] for row in rows]

    # --- own provided keys ----------------------------------------------------------------------

    def add_own_key(self, key: bytes, now: UnixTime) -> bool:
        """Remember ``key``, on disk when this returns; False if it was there."""
        with self._translating("remember an own key"), _transaction(self._keys) as keys:
            added = keys.execute("INSERT OR IGNORE INTO own_keys VALUES (?, ?, NULL)", (key, now))
            return added.rowcount > 0

    def remove_own_key(self, key: bytes) -> bool:
        """Forget ``key`` durably; False if it was not there."""
        with self._translating("forget an own key"), _transaction(self._keys) as keys:
            return keys.execute("DELETE FROM own_keys WHERE key = ?", (key,)).rowcount > 0

    def own_keys(self) -> list[OwnKey]:
        """All own keys, those never announced first, then the longest not announced."""
        with self._translating("read the own keys"):
            rows = self._keys.execute(
                "SELECT key, added, last_provided FROM own_keys"
                " ORDER BY last_provided IS NOT NULL, last_provided, added, key"
            ).fetchall()
        return [OwnKey(*row) for row in rows]

    def mark_provided(self, keys: Sequence[bytes], now: UnixTime) -> None:
        """Note a successful announcement; keys that were removed meanwhile stay so."""
        with self._translating("note an announcement"), _transaction(self._keys) as database:
            database.executemany(
                "UPDATE own_keys SET last_provided = ? WHERE key = ?", [(now, key) for key in keys]
            )

    # --- routing-table snapshot -----------------------------------------------------------------

    def save_snapshot(self, peers: Sequence[SnapshotPeer]) -> None:
        """Replace the snapshot, whole or not at all."""
        rows = [
            (place, peer.peer_id.to_bytes(), pack_addrs(peer.addrs))
            for place, peer in enumerate(peers)
        ]
        with self._using_records("save the snapshot"), _transaction(self._records) as records:
            records.execute("DELETE FROM snapshot")
            records.executemany("INSERT INTO snapshot VALUES (?, ?, ?)", rows)

    def load_snapshot(self) -> list[SnapshotPeer]:
        """The last snapshot in its order; empty if none. A damaged row is left out."""
        with self._using_records("read the snapshot"):
            rows = self._records.execute(
                "SELECT peer_id, addrs FROM snapshot ORDER BY place"
            ).fetchall()
        peers = []
        for peer_id, addrs in rows:
            with suppress(PeerIdError, ValueError, TypeError):
                peers.append(SnapshotPeer(PeerId(peer_id), unpack_addrs(addrs)))
        return peers

    # --- opening, closing, failing --------------------------------------------------------------

    def close(self) -> None:
        """Write what is open and close. Idempotent."""
        self._open = False
        try:
            self._closing.close()
        except sqlite3.Error as error:
            raise StorageError(f"cannot close the store: {error}") from error

    def _close_records(self) -> None:
        self._records.close()

    def _open_keys(self) -> sqlite3.Connection:
        """``keys.db``, read whole: damage found late would be damage kept."""
        try:
            connection = _connect(KEYS, self._directory)
            try:
                found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
                verdict = " ".join(found.split())
            except sqlite3.Error as error:
                verdict = str(error)
            if verdict != "ok":
                connection.close()
                where = "" if self._directory is None else f"{self._directory.path}/"
                raise _DamagedError(f"{where}{KEYS.file_name}: {verdict}")
        except _DamagedError as error:
            raise StorageError(
                f"the list of keys that this node provides is damaged ({error}): restore the file"
                " from a backup, or move it away to start with none"
            ) from error
        return connection

    def _open_records(self) -> sqlite3.Connection:
        """``records.db``, or an empty one in its place."""
        try:
            return _connect(RECORDS, self._directory)
        except _DamagedError as error:
            return self._begin_afresh(error)

    def _begin_afresh(self, error: Exception) -> sqlite3.Connection:
        """Set a damaged ``records.db`` aside and open an empty one."""
        assert self._directory is not None
        kept = self._directory.set_aside(RECORDS.file_name)
        log.error("records_set_aside", error=str(error), kept=str(kept))
        return _connect(RECORDS, self._directory)

    @contextmanager
    def _using_records(self, doing: str) -> Iterator[None]:
        with self._translating(doing):
            try:
                yield
            except sqlite3.DatabaseError as error:
                if not _is_damage(error) or self._directory is None:
                    raise
                self._records.close()
                self._records = self._begin_afresh(error)
                raise StorageError(f"cannot {doing}: the records were damaged") from error

    @contextmanager
    def _translating(self, doing: str) -> Iterator[None]:
        if not self._open:
            raise StorageError(f"cannot {doing}: the store is closed")
        try:
            yield
        except sqlite3.Error as error:
            raise StorageError(f"cannot {doing}: {error}") from error


class _DamagedError(StorageError):
    """The file is not readable as a database."""


def _is_damage(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE in _DAMAGE


def _connect(schema: Schema, directory: OwnedDirectory | None) -> sqlite3.Connection:
    """A connection to an up-to-date database.

    Raises:
        _DamagedError: the file is not readable as a database.
        StorageError: anything else.
    """
    file = None if directory is None else directory.private_file(schema.file_name)
    name = str(file or schema.file_name)
    connection = None
    try:
        connection = sqlite3.connect(
            file or ":memory:",
            timeout=_BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}").fetchall()
        migrate(connection, schema, name)
    except (sqlite3.Error, StorageError) as error:
        if connection is not None:
            connection.close()
        if isinstance(error, StorageError):
            raise
        kind = _DamagedError if _is_damage(error) else StorageError
        raise kind(f"cannot open {name}: {error}") from error
    return connection


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All of it or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # a full disk may have undone it already
            connection.execute("ROLLBACK")
        raise
