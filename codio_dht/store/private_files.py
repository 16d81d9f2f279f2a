"""Files that belong to one user alone: how they are opened, and which are refused.

Whoever may write to the data directory could put another key, or a link to a file of somebody else,
where the node looks for its own. Therefore the directory must belong to the user that runs the
node, and nobody else may write to it; a file in it must be a plain file of that user that nobody
else may read or write. A symbolic link in the place of a file is never followed, not even to a file
of the same user. The path that leads to the directory may have links in it: who runs the node chose
that path.

Nothing is repaired: what others could have read or changed only a person can judge.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

OWNER_ONLY: Final = 0o600
"""Mode of every file in a data directory."""

DIRECTORY_MODE: Final = 0o700
"""Mode of a data directory that the node makes."""

_IS_LINK: Final = "is a symbolic link, and links are not followed here"
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH
_OPEN_TO_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class NotPrivateError(Exception):
    """A file or directory is not this user's alone; the message is a clause that follows its
    path."""


def make_private_directory(path: Path) -> None:
    """Make ``path``, with the directories above it, or make sure that what is there is private.

    Raises:
        NotPrivateError: it belongs to another user, or others may write to it.
        OSError: it cannot be made, or is no directory.
    """
    path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    check_private_directory(path)


def check_private_directory(path: Path, *, follow_link: bool = True) -> None:
    """Make sure that the directory ``path`` is this user's, and that nobody else may write to it.
    Unless ``follow_link``, it must not be a symbolic link either.

    Raises:
        NotPrivateError: it is not private.
        OSError: it is not there, or is no directory.
    """
    if not follow_link and path.is_symlink():
        raise NotPrivateError(_IS_LINK)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    _check_owner(found)
    if found.st_mode & _WRITABLE_BY_OTHERS:
        raise NotPrivateError(
            f"may be written to by others (mode {stat.S_IMODE(found.st_mode):04o}): run chmod 700"
            " on it, or use a directory inside it that nobody else can write to"
        )


def open_private(path: Path, flags: int) -> int:
    """Open the file ``path``, made for its owner only if ``flags`` have ``O_CREAT`` and it is new;
    its descriptor.

    Raises:
        NotPrivateError: it is a link or no plain file, belongs to another user, or is open to
            others.
        OSError: it cannot be opened.
    """
    # Not blocking: a pipe in its place must be refused, and not waited for.
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, OWNER_ONLY)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK) or path.is_symlink():
            raise NotPrivateError(_IS_LINK) from error
        raise
    try:
        _check_file(os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_private_file(path: Path) -> None:
    """Make sure of the file ``path`` what :func:`open_private` makes sure of, without opening it.
    A file that is not there is as good.

    Raises:
        NotPrivateError: as for :func:`open_private`.
        OSError: it cannot be looked at.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(found.st_mode):
        raise NotPrivateError(_IS_LINK)
    _check_file(found)


def _check_file(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise NotPrivateError("is not a plain file")
    _check_owner(found)
    if found.st_mode & _OPEN_TO_OTHERS:
        raise NotPrivateError(
            f"is open to others (mode {stat.S_IMODE(found.st_mode):04o}): run chmod 600 on it, if"
            " nobody can have read or changed it"
        )


def _check_owner(found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise NotPrivateError(
            f"belongs to another user (uid {found.st_uid}, this program runs as {os.geteuid()}):"
            " give it to this user with chown, or use another data directory (--data-dir)"
        )
