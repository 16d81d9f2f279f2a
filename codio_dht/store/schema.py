"""The two databases on disk: their tables, their versions, the compact form of their values.

Decides what a file must be to be used. A database says by its application id that it is ours and by
its user version how many of the migrations it has had; one that is newer than this program is left
alone, one that is older is brought up to date, each step in one transaction. Every migration
changes a table or an index: so an older version that the tables contradict is damage, and not
another format.

``records.db`` can be lost without harm: what others provide (they provide it again) and the
routing-table snapshot. ``keys.db`` cannot: what this node was asked to provide.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from struct import Struct
from struct import error as struct_error
from typing import Final
from zlib import crc32

from codio_dht.core.clock import UnixTime
from codio_dht.core.keyspace import key_of
from codio_dht.core.peer import PeerId
from codio_dht.core.places import UNKNOWN
from codio_dht.core.records import ProviderRow
from codio_dht.core.regions import place_of
from codio_dht.errors import PeerIdError, StorageError
from codio_dht.formats.varint import length_prefixed, split_length_prefixed

# --- tables ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Schema:
    """One database: ``migrations[n]`` are the statements that lead from version n to n + 1."""

    file_name: str
    application_id: int
    migrations: tuple[tuple[str, ...], ...]


RECORDS: Final = Schema(
    "records.db",
    0x6B616472,  # "kadr"
    (
        (
            # One row per key and provider. ``record`` is pack_record's. Rows are appended and found
            # by two narrow indexes: with the wide row itself in key order, random keys would touch
            # twice as many pages a batch.
            """
            CREATE TABLE providers (
                id INTEGER PRIMARY KEY,
                key BLOB NOT NULL,
                provider BLOB NOT NULL,
                record BLOB NOT NULL,
                expires REAL NOT NULL
            )
            """,
            "CREATE UNIQUE INDEX providers_by_key ON providers (key, provider)",
            "CREATE INDEX providers_by_expiry ON providers (expires)",
            """
            CREATE TABLE snapshot (
                place INTEGER PRIMARY KEY,
                peer_id BLOB NOT NULL,
                addrs BLOB NOT NULL
            )
            """,
        ),
        (
            """
            CREATE TABLE value_records (
                key BLOB PRIMARY KEY,
                value BLOB NOT NULL,
                received REAL NOT NULL
            )
            """,
        ),
        # Where the provider was seen; empty where that is not known.
        ("ALTER TABLE providers ADD COLUMN subnet BLOB NOT NULL DEFAULT x''",),
    ),
)

KEYS: Final = Schema(
    "keys.db",
    0x6B61646B,  # "kadk"
    (
        (
            """
            CREATE TABLE own_keys (
                key BLOB PRIMARY KEY,
                added REAL NOT NULL,
                last_provided REAL
            ) WITHOUT ROWID
            """,
        ),
        # In the order in which the keys are provided, so that the next ones are found without
        # reading all. NULL, never provided, comes first.
        ("CREATE INDEX own_keys_by_turn ON own_keys (last_provided, added)",),
        # The last three say how a record of an IPNS name is renewed; NULL for other values.
        (
            """
            CREATE TABLE own_values (
                key BLOB PRIMARY KEY,
                value BLOB NOT NULL,
                added REAL NOT NULL,
                published REAL,
                signer TEXT,
                lifetime REAL,
                ttl REAL
            )
            """,
        ),
        # In the order of the keyspace, so that the keys of a region are neighbours. ``place`` is
        # place_of's; ``written`` the CID as it was given; ``waits`` 1 until the key was provided.
        # Who added a key before this version may have written its CID in another way.
        (
            """
            CREATE TABLE provided_keys (
                place INTEGER NOT NULL,
                key BLOB NOT NULL,
                written TEXT,
                added REAL NOT NULL,
                provided REAL,
                waits INTEGER NOT NULL,
                PRIMARY KEY (place, key)
            ) WITHOUT ROWID
            """,
            """
            INSERT INTO provided_keys
            SELECT place_of(key), key, NULL, added, last_provided, last_provided IS NULL
            FROM own_keys
            """,
            "DROP TABLE own_keys",
            "CREATE INDEX waiting_keys ON provided_keys (place) WHERE waits = 1",
            # Each row is a part of the keyspace, up to the next row's start.
            """
            CREATE TABLE sweeps (
                start INTEGER PRIMARY KEY,
                swept REAL NOT NULL,
                holders BLOB NOT NULL
            )
            """,
            # What was handed out since then, to the keys that waited from one place to another.
            """
            CREATE TABLE waiting_sweeps (
                start INTEGER NOT NULL,
                swept REAL NOT NULL,
                end INTEGER NOT NULL,
                holders BLOB NOT NULL,
                PRIMARY KEY (start, swept)
            ) WITHOUT ROWID
            """,
        ),
    ),
)


def migrate(connection: sqlite3.Connection, schema: Schema, name: str) -> None:
    """Bring a database up to date; an empty one gets its tables.

    ``connection`` is in autocommit mode; ``name`` is what messages call the file.

    Raises:
        StorageError: it is not this schema's, or newer than this program.
        sqlite3.Error: it cannot be read or written.
    """
    _add_functions(connection)
    version = _pragma(connection, "user_version")
    if version == 0 and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        pass
    elif _pragma(connection, "application_id") != schema.application_id:
        raise StorageError(
            f"{name} is a database of another program: move it away, or use another data directory"
        )
    if version > len(schema.migrations):
        raise StorageError(
            f"{name} has format {version}, this program knows {len(schema.migrations)}: it was used"
            " with a newer version; update this program, or use another data directory"
        )
    for number, statements in enumerate(schema.migrations[version:], start=version + 1):
        connection.execute("BEGIN IMMEDIATE")
        for statement in statements:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {schema.application_id}")
        connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")


def contradicts_header(connection: sqlite3.Connection, schema: Schema) -> bool:
    """Whether the tables say that the file is of this schema and its header says otherwise, or the
    other way round. False for an empty file, and for what may be another program's or newer.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    ours = _pragma(connection, "application_id") == schema.application_id
    version = _pragma(connection, "user_version")
    tables = _tables(connection)
    have = max(
        (
            number
            for number in range(len(schema.migrations) + 1)
            if _tables_of(schema, number) <= tables
        ),
    )
    if have == 0:
        return ours and 0 < version <= len(schema.migrations)
    if ours and version > len(schema.migrations):
        one_bit_flipped = (version ^ have).bit_count() == 1
        return one_bit_flipped and version != have + 1 and tables == _tables_of(schema, have)
    return not ours or version != have


def _tables(connection: sqlite3.Connection) -> frozenset[str]:
    """The statements that make the tables and indexes, but for those of SQLite itself."""
    rows = connection.execute(
        "SELECT sql FROM sqlite_master"
        " WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite!_%' ESCAPE '!'"
    )
    return frozenset(str(sql) for (sql,) in rows)


@cache
def _tables_of(schema: Schema, version: int) -> frozenset[str]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        _add_functions(connection)
        for statements in schema.migrations[:version]:
            for statement in statements:
                connection.execute(statement)
        return _tables(connection)


def _add_functions(connection: sqlite3.Connection) -> None:
    """Add what the migrations call: ``place_of``, the place of a key in the keyspace."""
    connection.create_function("place_of", 1, _place_of, deterministic=True)


def _place_of(key: bytes) -> int:
    return place_of(key_of(key))


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value


# --- values ---------------------------------------------------------------------------------------

_CHECKED: Final = Struct(">BL")
"""The mark of a record with a checksum, and the CRC-32 of the row."""

_CHECKED_MARK: Final = 0xB7
"""Records that were written without a checksum begin with a time, and so with 0x41: no single
flipped bit makes one of the other."""

_UNCHECKED_MARK: Final = 0x41

_TIMES: Final = Struct(">dd")
"""Received, addresses expire: Unix seconds, kept exactly."""

_TIME: Final = Struct(">d")


def pack_record(row: ProviderRow) -> bytes:
    """What is kept of a row beside key, provider and expiry, behind a checksum of them all."""
    kept = _TIMES.pack(row.received, row.addrs_expire) + pack_addrs(row.addrs)
    check = _checksum(row.key, row.provider.to_bytes(), float(row.expires), kept)
    return _CHECKED.pack(_CHECKED_MARK, check) + kept


def unpack_row(
    key: bytes, provider: bytes, record: bytes, expires: float, subnet: bytes = UNKNOWN
) -> ProviderRow | None:
    """The row again, or None if what is on disk is damaged."""
    try:
        kept = record
        if record[0] != _UNCHECKED_MARK:
            mark, check = _CHECKED.unpack_from(record)
            kept = record[_CHECKED.size :]
            if mark != _CHECKED_MARK or check != _checksum(key, provider, float(expires), kept):
                return None
        received, addrs_expire = _TIMES.unpack_from(kept)
        return ProviderRow(
            key,
            PeerId(provider),
            unpack_addrs(kept, _TIMES.size),
            UnixTime(received),
            UnixTime(addrs_expire),
            UnixTime(float(expires)),
            bytes(memoryview(subnet)),
        )
    except (ValueError, TypeError, IndexError, PeerIdError, struct_error):
        return None  # a damaged type is damage too


def _checksum(key: bytes, provider: bytes, expires: float, kept: bytes) -> int:
    return crc32(kept, crc32(provider, crc32(_TIME.pack(expires), crc32(key))))


def pack_addrs(addrs: tuple[bytes, ...]) -> bytes:
    """Each address behind its length."""
    return b"".join(map(length_prefixed, addrs))


def unpack_addrs(data: bytes, offset: int = 0) -> tuple[bytes, ...]:
    """The addresses again.

    Raises:
        FormatError: the data is damaged.
    """
    return tuple(split_length_prefixed(data, offset))
