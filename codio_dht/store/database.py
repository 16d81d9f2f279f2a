"""One SQLite database: how it is opened, how durable it is, what happens when it is damaged.

It keeps a write-ahead log and syncs it at every commit. Whoever opens it says whether its file may
be begun anew when it is damaged: then the file is set aside, at the start or when a call meets the
damage (that call fails with ``BegunAnewError``, and works when it is made again). Else damage is an
error at the start, where the file is read whole, and the file is never touched.

A file is damaged if SQLite says so, if its header says what its tables contradict, or if a caller
reads in it what was never written there (``DamagedContentError``).

Calls come from one thread at a time, not always the same. Nothing but ``StorageError`` is raised.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from codio_dht.errors import BegunAnewError, StorageError
from codio_dht.logger import get_logger
from codio_dht.store.directory import OwnedDirectory
from codio_dht.store.schema import Schema, contradicts_header, migrate

log = get_logger(__name__)

BUSY_TIMEOUT_S: Final = 5.0
"""How long a write waits for another process that uses the same file, seconds."""

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

_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
"""Errors that say that the file is damaged, whenever they come."""

_DAMAGE_AT_START: Final = _DAMAGE | {
    sqlite3.SQLITE_ERROR,  # a file format that no SQLite has; tables that are not what they were
    sqlite3.SQLITE_READONLY,  # though the file was opened for writing: its header says so
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_RANGE,
    sqlite3.SQLITE_SCHEMA,
    sqlite3.SQLITE_TOOBIG,
}
"""Errors of opening a file that say that it is damaged: all that this machine has no part in."""

_WRITE_VERSION_AT: Final = 18
_WRITE_VERSIONS: Final = (1, 2)
"""Rollback journal, and write-ahead log."""

_PRIMARY_CODE: Final = 0xFF
"""The part of an SQLite error code that tells the kind."""


class DamagedContentError(Exception):
    """What was read was never written so: the file is damaged, though SQLite can read it."""


class Database:
    """An open database, in ``directory`` or, without one, in memory.

    Args:
        schema: the tables it has; an older file is brought up to date.
        directory: where the file is.
        precious: the file is read whole at the start and never replaced, however damaged; ``what``
            is what messages call its content.

    Raises:
        StorageError: it cannot be opened, is another program's or newer than this program, or is
            damaged and ``precious``.
    """

    def __init__(
        self, schema: Schema, directory: OwnedDirectory | None, *, what: str, precious: bool
    ) -> None:
        self._schema = schema
        self._directory = directory
        self._what = what
        self._precious = precious
        self._open = True
        self.connection = self._open_precious() if precious else self._open_or_begin_anew()

    @property
    def is_shareable(self) -> bool:
        """Whether another process could open the same database."""
        return self._directory is not None

    @contextmanager
    def reading(self, doing: str) -> Iterator[sqlite3.Connection]:
        """The connection, for statements that change nothing.

        The block raises ``DamagedContentError`` where it reads what was never written.

        Raises:
            BegunAnewError: the file was damaged and may be begun anew.
            StorageError: what a statement of the block raised; "cannot ``doing``: why".
        """
        if not self._open:
            raise StorageError(f"cannot {doing}: the store is closed")
        try:
            yield self.connection
        except (sqlite3.Error, DamagedContentError) as error:
            if _is_damage(error) and self.is_shareable and not self._precious:
                self.connection.close()
                self.connection = self._begin_anew(error)
                raise BegunAnewError(f"cannot {doing}: {self._what} were damaged") from error
            raise StorageError(f"cannot {doing}: {error}") from error

    @contextmanager
    def writing(self, doing: str) -> Iterator[sqlite3.Connection]:
        """The connection inside a transaction: all of the block is done, and synced, or nothing.

        Raises:
            BegunAnewError: as for :meth:`reading`.
            StorageError: what a statement of the block raised; "cannot ``doing``: why".
        """
        with self.reading(doing) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # a full disk may have undone it already
                    connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Write what is open and close. Idempotent.

        Raises:
            StorageError: it could not be written.
        """
        self._open = False
        try:
            self.connection.close()
        except sqlite3.Error as error:
            raise StorageError(f"cannot close {self._what}: {error}") from error

    def _open_precious(self) -> sqlite3.Connection:
        """Read whole: damage found late would be damage kept."""
        try:
            connection = _connect(self._schema, self._directory)
            try:
                found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
                verdict = " ".join(found.split())
            except sqlite3.Error as error:
                verdict = str(error)
            if verdict != "ok":
                connection.close()
                where = "" if self._directory is None else f"{self._directory.path}/"
                raise _DamagedError(f"{where}{self._schema.file_name}: {verdict}")
        except _DamagedError as error:
            raise StorageError(
                f"{self._what} are damaged ({error}): restore the file from a backup, or move it"
                " away to start with none"
            ) from error
        return connection

    def _open_or_begin_anew(self) -> sqlite3.Connection:
        try:
            return _connect(self._schema, self._directory)
        except _DamagedError as error:
            return self._begin_anew(error)

    def _begin_anew(self, error: Exception) -> sqlite3.Connection:
        """Set the damaged file aside and open an empty one."""
        assert self._directory is not None
        kept = self._directory.set_aside(self._schema.file_name)
        log.error("records_set_aside", error=str(error), kept=str(kept))
        return _connect(self._schema, self._directory)


class _DamagedError(StorageError):
    """The file is not readable as a database."""


def _is_damage(error: Exception, kinds: frozenset[int] = _DAMAGE) -> bool:
    if isinstance(error, DamagedContentError):
        return True
    code: int = getattr(error, "sqlite_errorcode", 0)
    primary = code & _PRIMARY_CODE
    # The finer codes of "read only" are about the directory, the log, or another process.
    return primary in kinds and (primary != sqlite3.SQLITE_READONLY or code == primary)


def _check_write_version(file: Path) -> None:
    """Make sure that SQLite would write to the file: one with another version in its header it
    reads, and says only at the first write that it is read-only (file format, section 1.3.3).

    Raises:
        DamagedContentError: it has one.
    """
    with suppress(OSError), file.open("rb") as opened:
        header = opened.read(_WRITE_VERSION_AT + 1)
        if len(header) > _WRITE_VERSION_AT and header[_WRITE_VERSION_AT] not in _WRITE_VERSIONS:
            raise DamagedContentError("its header has an unknown version")


def _text(data: bytes) -> str:
    """Text of a column. Where there should be none, whoever reads it notices."""
    return data.decode(errors="replace")


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
        if file is not None:
            _check_write_version(file)
        connection = sqlite3.connect(
            file or ":memory:",
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.text_factory = _text
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}").fetchall()
        if contradicts_header(connection, schema):
            raise DamagedContentError("its header is not that of its tables")
        migrate(connection, schema, name)
    except (sqlite3.Error, DamagedContentError, StorageError) as error:
        if connection is not None:
            connection.close()
        if isinstance(error, StorageError):
            raise
        kind = _DamagedError if _is_damage(error, _DAMAGE_AT_START) else StorageError
        raise kind(f"cannot open {name}: {error}") from error
    return connection
