"""A data directory owned by one node: the lock, private files, damaged files set aside.

Decides that two nodes never share a directory, and what happens to a database that cannot be read.
The lock covers everything in the directory: identity, databases and control socket. Which
directories and files are private enough, :mod:`codio_dht.store.private_files` says.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from codio_dht.errors import StorageError
from codio_dht.store.private_files import (
    NotPrivateError,
    check_private_file,
    make_private_directory,
    open_private,
)

LOCK_NAME: Final = "store.lock"
"""The file that a node's process holds a lock on; it keeps the process id for messages."""

MAX_SET_ASIDE: Final = 3
"""Damaged copies of one file that are kept; past it the latest one is replaced."""

_MAX_PID_BYTES: Final = 20
_FORBIDDEN: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_SIDE_FILES: Final = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a database."""


class OwnedDirectory:
    """A directory and the lock on it. The lock is the kernel's: it goes with the process, however
    that ends.

    Raises:
        StorageError: it cannot be made or used, is not this user's alone, or another node owns it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            make_private_directory(path)
        except NotPrivateError as error:
            raise StorageError(f"the data directory {path} {error}") from error
        except OSError as error:
            raise StorageError(f"cannot use the data directory {path}: {_told(error)}") from error
        try:
            self._lock = open_private(path / LOCK_NAME, os.O_RDWR | os.O_CREAT)
        except NotPrivateError as error:
            raise StorageError(f"{path / LOCK_NAME} {error}") from error
        except OSError as error:
            raise StorageError(f"cannot use the data directory {path}: {_told(error)}") from error
        try:
            self._take()
        except BaseException:
            os.close(self._lock)
            raise

    def private_file(self, name: str) -> Path:
        """The path of a database's file, which is there now and its owner's alone; SQLite gives the
        files beside it the same mode.

        Raises:
            StorageError: it cannot be made, or it or a file beside it is not private.
        """
        path = self.path / name
        try:
            os.close(open_private(path, os.O_RDWR | os.O_CREAT))
            self._sync()
        except NotPrivateError as error:
            raise StorageError(f"{path} {error}") from error
        except OSError as error:
            raise StorageError(f"cannot use {path}: {_told(error)}") from error
        for suffix in _SIDE_FILES:
            self._check_side_file(self.path / (name + suffix))
        return path

    def set_aside(self, name: str) -> Path:
        """Rename a damaged database and what belongs to it; its new path.

        Raises:
            StorageError: it cannot be renamed.
        """
        places = [self.path / f"{name}.corrupt-{n}" for n in range(1, MAX_SET_ASIDE + 1)]
        target = next((place for place in places if not os.path.lexists(place)), places[-1])
        try:
            (self.path / name).replace(target)
            for suffix in _SIDE_FILES:
                with suppress(FileNotFoundError):
                    (self.path / (name + suffix)).replace(Path(f"{target}{suffix}"))
            self._sync()
        except OSError as error:
            raise StorageError(
                f"{self.path / name} is damaged and cannot be set aside: {error.strerror}"
            ) from error
        return target

    def release(self) -> None:
        """Give the directory up. The lock file stays: removing it would let two owners in."""
        os.close(self._lock)

    def _take(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise StorageError(
                    f"cannot lock the data directory {self.path}: {error.strerror}"
                ) from error
            owner = os.pread(self._lock, _MAX_PID_BYTES, 0).decode("ascii", "replace").strip()
            pid = f" (process {owner})" if owner.isdigit() else ""
            raise StorageError(
                f"another node{pid} already uses the data directory {self.path}"
            ) from error
        with suppress(OSError):  # only for that message; a full disk must not stop the start
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode("ascii"), 0)

    def _check_side_file(self, path: Path) -> None:
        try:
            check_private_file(path)
        except NotPrivateError as error:
            raise StorageError(f"{path} {error}") from error
        except OSError as error:
            raise StorageError(f"cannot use {path}: {_told(error)}") from error

    def _sync(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _told(error: OSError) -> str:
    """What is wrong, and what to do about it."""
    remedy = "use another data directory (--data-dir)"
    if error.errno in _FORBIDDEN:
        remedy = f"make it writable for this user, or {remedy}"
    return f"{error.strerror}; {remedy}"
