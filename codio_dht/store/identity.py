"""The node's private key on disk: made once, never overwritten, never lost, never shown.

Decides what a usable key file is. It holds the raw libp2p protobuf private key (as GO's key files
do) with mode 0600. A new one is written beside its place, synced, and put there in one step that
fails if something is there already; so a crash leaves either no key file or a whole one, and two
starts at once end up with the same key.

A file that others may read, that belongs to another user, or that is a link, is refused, not
repaired (:mod:`codio_dht.store.private_files`): the key in it may be known by now, and only a
person can say whether that matters. Nor is a key written where others could replace it. A file that
is not a key is refused and left alone: a new key would be a new peer, and the old one may still be
recovered.
"""

from __future__ import annotations

import errno
import json
import os
from base64 import b64decode
from pathlib import Path
from secrets import token_hex
from typing import Final

from codio_dht.core.peer import PeerId
from codio_dht.crypto.keys import MAX_PRIVATE_KEY_BYTES, PrivateKey
from codio_dht.errors import IdentityError, PeerIdError
from codio_dht.store.private_files import (
    OWNER_ONLY,
    NotPrivateError,
    make_private_directory,
    open_private,
)

_NO_HARD_LINKS: Final = frozenset(
    {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK}
)
"""What file systems without hard links answer: there a rename has to do."""

_RESTORE: Final = "restore it from a backup, or move it away to start as a new peer"


def load_or_create_identity(path: Path) -> PrivateKey:
    """The key in the file ``path``; a new Ed25519 key, written there, if there is no such file.

    Raises:
        IdentityError: the file is not a key, is not this user's alone, or cannot be read or
            written. The message names it and says what to do.
    """
    while True:
        key = load_identity(path)
        if key is not None:
            return key
        key = PrivateKey.generate_ed25519()
        if _write(path, key):
            return key
        # Another process was faster; its key counts.


def create_identity(path: Path, key: PrivateKey) -> None:
    """Write ``key`` to ``path``, durably; never over a file that is there.

    Raises:
        IdentityError: there is a file already, or it cannot be written.
    """
    if not _write(path, key):
        raise IdentityError(f"{path} exists already; it is not overwritten")


def remove_identity(path: Path) -> bool:
    """Remove the key file ``path`` for good; False if there is none.

    Raises:
        IdentityError: it cannot be removed.
    """
    try:
        path.unlink()
        _sync_directory(path.parent)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise IdentityError(f"cannot remove the key file {path}: {error.strerror}") from error
    return True


def import_kubo_identity(config_json: str) -> PrivateKey:
    """The identity in the text of a Kubo ``config`` file.

    Raises:
        IdentityError: not such a text, or its ``Identity.PeerID`` is not that of its
            ``Identity.PrivKey``.
    """
    try:
        identity = json.loads(config_json)["Identity"]
        encoded, told = identity["PrivKey"], identity["PeerID"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise IdentityError(
            "not a Kubo config: Identity.PrivKey and Identity.PeerID are needed"
        ) from None
    try:
        key = PrivateKey.from_protobuf(b64decode(encoded, validate=True))
    except (ValueError, TypeError):
        raise IdentityError("Identity.PrivKey is not base64") from None
    except IdentityError as error:
        raise IdentityError(f"Identity.PrivKey: {error}") from None
    try:
        matches = isinstance(told, str) and PeerId.from_string(told) == key.peer_id()
    except PeerIdError:
        matches = False
    if not matches:
        raise IdentityError(
            f"Identity.PrivKey belongs to {key.peer_id()}, not to Identity.PeerID"
            f" {str(told)[:80]!r}"
        )
    return key


def load_identity(path: Path) -> PrivateKey | None:
    """The key in the file ``path``, or None if there is no file.

    Raises:
        IdentityError: the file is not a key, is not this user's alone, or cannot be read.
    """
    try:
        with os.fdopen(open_private(path, os.O_RDONLY), "rb") as file:
            data = file.read(MAX_PRIVATE_KEY_BYTES + 1)
    except FileNotFoundError:
        return None
    except NotPrivateError as error:
        raise IdentityError(
            f"the key file {path} {error}; or, if somebody may know the key, move it away to start"
            " as a new peer"
        ) from error
    except OSError as error:
        raise IdentityError(f"cannot read the key file {path}: {error.strerror}") from error
    if not data:
        raise IdentityError(f"the key file {path} is empty: {_RESTORE}")
    try:
        return PrivateKey.from_protobuf(data)
    except IdentityError as error:
        raise IdentityError(f"the key file {path} holds no key ({error}): {_RESTORE}") from None


def _write(path: Path, key: PrivateKey) -> bool:
    """Put ``key`` at ``path``; False if there is a file already."""
    made = path.with_name(f"{path.name}.{token_hex(8)}.new")
    try:
        make_private_directory(path.parent)
        try:
            _write_synced(made, key.to_protobuf())
            _move_new(made, path)
        except FileExistsError:
            return False
        finally:
            made.unlink(missing_ok=True)
        _sync_directory(path.parent)
    except NotPrivateError as error:
        raise IdentityError(
            f"cannot write the key file {path}: the directory {path.parent} {error}"
        ) from error
    except OSError as error:
        raise IdentityError(f"cannot write the key file {path}: {error.strerror}") from error
    return True


def _move_new(made: Path, path: Path) -> None:
    """Give ``made`` its final name in one step; ``FileExistsError`` if that is taken."""
    try:
        os.link(made, path)  # unlike a rename, this never replaces
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if path.exists():
            raise FileExistsError from error
        made.rename(path)


def _write_synced(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, OWNER_ONLY)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, OWNER_ONLY)  # whatever the umask
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
