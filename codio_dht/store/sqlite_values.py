"""Values in the default store: those of others in ``records.db``, this node's own in ``keys.db``.

Executes; decides nothing. How durable what is, :mod:`codio_dht.store.database` says: a batch of
others' values is one transaction about once a second, an own value is on disk, synced, when its
method has returned. Nothing but ``StorageError`` is raised; a row that is damaged is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from codio_dht.core.clock import UnixTime
from codio_dht.core.republish import Naming, OwnValue
from codio_dht.core.value_records import ValueFlush, ValueRow
from codio_dht.store.database import DamagedContentError, Database

_OWN: Final = "SELECT key, value, added, published, signer, lifetime, ttl FROM own_values"


def check_keys(after: bytes, keys: Iterable[object]) -> None:
    """Make sure that ``keys`` are bytes, each greater than the one before, the first than
    ``after``: who reads page after page would never come to an end otherwise.

    Raises:
        DamagedContentError: they are not.
    """
    for key in keys:
        if not isinstance(key, bytes) or key <= after:
            raise DamagedContentError("its keys are in no order")
        after = key


class SqliteValues:
    """A :class:`~codio_dht.store.interface.ValueStore` in ``records.db``."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def load(self, key: bytes) -> ValueRow | None:
        """The stored row of ``key``, however old; None if there is none that can be read."""
        with self.database.reading("read a value") as connection:
            row = connection.execute(
                "SELECT value, received FROM value_records WHERE key = ?", (key,)
            ).fetchone()
        if row is None or not isinstance(row[0], bytes) or not isinstance(row[1], float):
            return None
        return ValueRow(key, row[0], UnixTime(row[1]))

    def flush(self, batch: ValueFlush) -> None:
        """Apply a batch in one transaction."""
        rows = [(row.key, row.value, float(row.received)) for row in batch.rows]
        with self.database.writing("write values") as connection:
            connection.executemany("INSERT OR REPLACE INTO value_records VALUES (?, ?, ?)", rows)
            connection.executemany(
                "DELETE FROM value_records WHERE key = ?", [(key,) for key in batch.deleted]
            )

    def page(self, after: bytes, limit: int) -> list[tuple[bytes, int, UnixTime]]:
        """The first ``limit`` keys that are greater than ``after``, in order, each with the size of
        its value and when that was received."""
        with self.database.reading("read the keys of values") as connection:
            rows = connection.execute(
                "SELECT key, length(value), received, typeof(value) FROM value_records"
                " WHERE key > ? ORDER BY key LIMIT ?",
                (after, limit),
            ).fetchall()
            check_keys(after, (row[0] for row in rows))
            for _, _, received, kind in rows:
                if not isinstance(received, float) or kind != "blob":
                    raise DamagedContentError("a value is not as it was written")
        return [(key, size, UnixTime(received)) for key, size, received, _ in rows]


class SqliteOwnValues:
    """A :class:`~codio_dht.store.interface.OwnValueStore` in ``keys.db``."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def put(self, own: OwnValue) -> None:
        """Remember ``own`` in place of what was there for its key, on disk when this returns."""
        naming = own.naming
        how = (
            (None, None, None)
            if naming is None
            else (naming.signer, naming.lifetime_s, naming.ttl_s)
        )
        with self.database.writing("remember an own value") as connection:
            connection.execute(
                "INSERT OR REPLACE INTO own_values VALUES (?, ?, ?, ?, ?, ?, ?)",
                (own.key, own.value, own.added, own.published, *how),
            )

    def get(self, key: bytes) -> OwnValue | None:
        """What is remembered for ``key``; None if nothing is."""
        with self.database.reading("read an own value") as connection:
            return _first(connection.execute(f"{_OWN} WHERE key = ?", (key,)))

    def all(self) -> list[OwnValue]:
        """Every own value, the one added first before the others."""
        with self.database.reading("read the own values") as connection:
            rows = connection.execute(f"{_OWN} ORDER BY added, key").fetchall()
        found = []
        for row in rows:
            with suppress(ValueError, TypeError):
                found.append(_own_value(row))
        return found

    def remove(self, key: bytes) -> bool:
        """Forget the value of ``key`` durably; False if there was none."""
        with self.database.writing("forget an own value") as connection:
            return connection.execute("DELETE FROM own_values WHERE key = ?", (key,)).rowcount > 0

    def renew(self, key: bytes, last: bytes, value: bytes) -> bool:
        """Replace the value ``last`` of ``key`` durably; False if it is not the one there."""
        with self.database.writing("renew an own value") as connection:
            changed = connection.execute(
                "UPDATE own_values SET value = ? WHERE key = ? AND value = ?", (value, key, last)
            )
            return changed.rowcount > 0

    def mark_published(self, key: bytes, now: UnixTime) -> None:
        """Note that peers took the value of ``key``; one that was removed meanwhile stays so."""
        with self.database.writing("note a publication") as connection:
            connection.execute("UPDATE own_values SET published = ? WHERE key = ?", (now, key))


def _first(rows: Iterable[tuple[object, ...]]) -> OwnValue | None:
    row = next(iter(rows), None)
    return None if row is None else _own_value(row)


def _own_value(row: tuple[object, ...]) -> OwnValue:
    key, value, added, published, signer, lifetime, ttl = row
    if not isinstance(key, bytes) or not isinstance(value, bytes):
        raise TypeError(row)
    naming = None
    if signer is not None:
        naming = Naming(str(signer), float(str(lifetime)), float(str(ttl)))
    last = None if published is None else UnixTime(float(str(published)))
    return OwnValue(key, value, UnixTime(float(str(added))), last, naming)
