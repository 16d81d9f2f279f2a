"""The keys that this node provides, in ``keys.db``.

Executes; decides nothing. A change is on disk, synced, when its method has returned. Rows are in
the order of their keys' places in the keyspace (:mod:`codio_dht.core.regions`), so that the keys of
one region are read, and noted as provided, without touching the others. No method reads more rows
than it is asked for. Nothing but ``StorageError`` is raised.

When a key was provided last is not written for each key at each sweep: the table ``sweeps`` says it
for whole parts of the keyspace. A row says whether its key still waits to be provided, and when it
was provided by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from codio_dht.core.clock import UnixTime
from codio_dht.core.keyspace import key_of
from codio_dht.core.own_keys import NewKey, OwnKey, SweptPage
from codio_dht.core.peer import PeerId
from codio_dht.core.regions import PLACES, Place, place_of
from codio_dht.errors import FormatError, PeerIdError
from codio_dht.formats.varint import length_prefixed, split_length_prefixed
from codio_dht.store.database import Database

MAX_WAITING_SWEEPS: Final = 256
"""Pages of waiting keys of which it is remembered who took them; past it the oldest is forgotten.
Who adds a key each second makes as many pages, and each names up to some hundred peers."""

_COLUMNS: Final = "SELECT key, added, provided, written, waits FROM provided_keys"


class SqliteKeys:
    """A :class:`~codio_dht.store.interface.KeyStore` in ``keys.db``."""

    def __init__(self, database: Database) -> None:
        self.database = database

    # --- keys -------------------------------------------------------------------------------------

    def add(self, keys: Sequence[NewKey], now: UnixTime) -> list[bool]:
        """Remember ``keys``, all or none; which of them are new. The others stay as they are."""
        rows = sorted(
            ((_place(new.key), new.key, number, new.written) for number, new in enumerate(keys)),
            key=lambda row: row[:3],
        )
        is_new = [False] * len(rows)
        with self.database.writing("remember own keys") as connection:
            for place, key, number, written in rows:
                is_new[number] = (
                    connection.execute(
                        "INSERT OR IGNORE INTO provided_keys VALUES (?, ?, ?, ?, NULL, 1)",
                        (place, key, written, now),
                    ).rowcount
                    > 0
                )
        return is_new

    def remove(self, keys: Sequence[bytes]) -> list[bool]:
        """Forget ``keys`` durably; which of them were there."""
        with self.database.writing("forget own keys") as connection:
            return [
                connection.execute(
                    "DELETE FROM provided_keys WHERE place = ? AND key = ?", (_place(key), key)
                ).rowcount
                > 0
                for key in keys
            ]

    def find(self, key: bytes) -> OwnKey | None:
        """What is known of ``key``; None if it is not there."""
        with self.database.reading("read an own key") as connection:
            row = connection.execute(
                f"{_COLUMNS} WHERE place = ? AND key = ?", (_place(key), key)
            ).fetchone()
        return None if row is None else _own_key(*row)

    def count(self) -> int:
        """How many keys there are."""
        with self.database.reading("count the own keys") as connection:
            count: int = connection.execute("SELECT count(*) FROM provided_keys").fetchone()[0]
        return count

    def count_waiting(self) -> int:
        """How many keys wait to be provided."""
        with self.database.reading("count the own keys") as connection:
            count: int = connection.execute(
                "SELECT count(*) FROM provided_keys INDEXED BY waiting_keys WHERE waits = 1"
            ).fetchone()[0]
        return count

    def page(self, after: bytes, limit: int) -> list[OwnKey]:
        """The first ``limit`` keys after the key ``after``, in the order of their places; of all,
        if it is empty."""
        with self.database.reading("read the own keys") as connection:
            rows = connection.execute(
                f"{_COLUMNS} WHERE (place, key) > (?, ?) ORDER BY place, key LIMIT ?",
                (_place(after) if after else -1, after, limit),
            ).fetchall()
        return [_own_key(*row) for row in rows]

    # --- the sweep --------------------------------------------------------------------------------

    def turn_page(
        self, start: Place, end: Place, after: bytes, limit: int, *, waiting_only: bool
    ) -> list[tuple[bytes, bool]]:
        """The first ``limit`` keys whose places lie from ``start`` up to ``end``, after the key
        ``after`` if it is not empty; each with whether it waits."""
        begin = max(start, _place(after)) if after else start
        every = not waiting_only
        with self.database.reading("read the own keys") as connection:
            rows = connection.execute(
                "SELECT key, waits FROM provided_keys WHERE place >= ? AND place < ?"
                " AND (place, key) > (?, ?) AND (waits = 1 OR ?) ORDER BY place, key LIMIT ?",
                (begin, end, begin if after else -1, after, every, limit),
            ).fetchall()
        return [(key, bool(waiting)) for key, waiting in rows]

    def next_waiting(self, place: int) -> Place | None:
        """The first place, from ``place`` on, of a key that waits to be provided."""
        with self.database.reading("read the own keys") as connection:
            row = connection.execute(
                "SELECT place FROM provided_keys WHERE waits = 1 AND place >= ?"
                " ORDER BY place LIMIT 1",
                (place,),
            ).fetchone()
        return None if row is None else Place(row[0])

    def mark_provided(self, keys: Sequence[bytes], now: UnixTime) -> None:
        """Note that ``keys`` were provided, each by itself; those that are not there stay so."""
        with self.database.writing("note a provide") as connection:
            connection.executemany(
                "UPDATE provided_keys SET waits = 0, provided = ? WHERE place = ? AND key = ?",
                [(now, _place(key), key) for key in keys],
            )

    def mark_waiting(self, keys: Sequence[bytes]) -> None:
        """Note that ``keys`` wait to be provided; those that are not there stay so."""
        with self.database.writing("note that keys wait") as connection:
            connection.executemany(
                "UPDATE provided_keys SET waits = 1 WHERE place = ? AND key = ?",
                [(_place(key), key) for key in keys],
            )

    def note_swept(self, page: SweptPage) -> None:
        """Note the end of one page of a sweep, all of it or nothing."""
        with self.database.writing("note a sweep") as connection:
            connection.executemany(
                "UPDATE provided_keys SET waits = 0, provided = ? WHERE place = ? AND key = ?",
                [(page.at, _place(key), key) for key in page.provided],
            )
            connection.executemany(
                "UPDATE provided_keys SET waits = 1 WHERE place = ? AND key = ?",
                [(_place(key), key) for key in page.unheld],
            )
            holders = b"".join(length_prefixed(peer.to_bytes()) for peer in page.holders)
            if page.waiting_only:
                connection.execute(
                    "INSERT OR REPLACE INTO waiting_sweeps VALUES (?, ?, ?, ?)",
                    (page.start, page.at, page.end, holders),
                )
                connection.execute(
                    "DELETE FROM waiting_sweeps WHERE swept <= (SELECT swept FROM waiting_sweeps"
                    " ORDER BY swept DESC LIMIT 1 OFFSET ?)",
                    (MAX_WAITING_SWEEPS,),
                )
                return
            before = connection.execute(
                "SELECT start, swept, holders FROM sweeps WHERE start <= ?"
                " ORDER BY start DESC LIMIT 1",
                (page.end,),
            ).fetchone()
            connection.execute(
                "DELETE FROM sweeps WHERE start >= ? AND start < ?", (page.start, page.end)
            )
            connection.execute(
                "DELETE FROM waiting_sweeps WHERE start >= ? AND start < ?", (page.start, page.end)
            )
            rows = [(page.start, page.at, holders)]
            if before is not None and before[0] < page.end < PLACES:
                rows.append((page.end, *before[1:]))
            connection.executemany("INSERT INTO sweeps VALUES (?, ?, ?)", rows)

    def spans(self) -> list[tuple[Place, UnixTime]]:
        """When each part of the keyspace was swept last: from a place up to that of the next
        entry. Empty if that was never noted."""
        with self.database.reading("read the sweeps") as connection:
            rows = connection.execute("SELECT start, swept FROM sweeps ORDER BY start").fetchall()
        return [(Place(start), UnixTime(swept)) for start, swept in rows]

    def begin_spans(self, at: UnixTime) -> None:
        """Note that the whole keyspace was swept at ``at``, and forget what was noted before."""
        with self.database.writing("note a sweep") as connection:
            connection.execute("DELETE FROM sweeps")
            connection.execute("INSERT INTO sweeps VALUES (0, ?, x'')", (at,))

    def holders_of(self, place: Place, at: UnixTime) -> tuple[PeerId, ...] | None:
        """The peers that took every record they were given when the keys at ``place`` were swept
        at ``at``; None if that is not known any more."""
        with self.database.reading("read a sweep") as connection:
            rows = connection.execute(
                "SELECT swept, holders FROM sweeps WHERE start <= ? ORDER BY start DESC LIMIT 1",
                (place,),
            ).fetchall()
            rows += connection.execute(
                "SELECT swept, holders FROM waiting_sweeps"
                " WHERE start <= ? AND end > ? AND swept = ? LIMIT 1",
                (place, place, at),
            ).fetchall()
        for swept, holders in rows:
            if swept == at:
                try:
                    return tuple(map(PeerId, split_length_prefixed(holders, 0)))
                except (FormatError, PeerIdError, TypeError):  # a damaged row tells of nobody
                    return None
        return None


def _place(key: bytes) -> Place:
    return place_of(key_of(key))


def _own_key(
    key: bytes, added: float, provided: float | None, written: str | None, waits: int
) -> OwnKey:
    return OwnKey(
        key,
        UnixTime(added),
        None if provided is None else UnixTime(provided),
        written,
        waits=bool(waits),
    )
