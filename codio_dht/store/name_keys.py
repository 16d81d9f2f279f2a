"""The private keys of this node's IPNS names: one file each, beside the identity.

Decides which labels keys may have, and where their files are: ``names/<label>.key`` in the data
directory, written as the identity is (:mod:`codio_dht.store.identity`): durably, for the owner
only, never over another. ``self`` is the identity itself and has no file here. Without a directory
the keys live in memory and end with the node.

Methods block: the node calls them from its store's thread.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from codio_dht.crypto.keys import PrivateKey
from codio_dht.errors import IdentityError, UsageError
from codio_dht.store.identity import create_identity, load_identity, remove_identity
from codio_dht.store.private_files import NotPrivateError, check_private_directory

SELF: Final = "self"
"""The label of the node's own identity (Kubo)."""

DIRECTORY_NAME: Final = "names"

MAX_NAME_KEYS: Final = 10_000
"""Keys that one node keeps; past it none is made. Each is a file that is read when they are
listed."""

_SUFFIX: Final = ".key"
_LABEL: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", re.ASCII)


def check_label(label: str) -> str:
    """``label``, if a key may have it.

    Raises:
        UsageError: it may not.
    """
    if not _LABEL.fullmatch(label):
        raise UsageError(
            f"key: {label[:80]!r} is no name for a key; give 1 to 64 letters, digits, dots, dashes "
            "or underscores, beginning with a letter, a digit or an underscore"
        )
    return label


class NameKeys:
    """The keys of one data directory, or of memory if ``data_dir`` is None. See the module."""

    def __init__(self, data_dir: Path | None, identity: PrivateKey | None = None) -> None:
        self._directory = None if data_dir is None else data_dir / DIRECTORY_NAME
        self._identity = identity
        self._in_memory: dict[str, PrivateKey] = {}

    def get(self, label: str) -> PrivateKey | None:
        """The key called ``label``; None if there is none.

        Raises:
            UsageError: no key may be called so.
            IdentityError: its file cannot be used.
        """
        if check_label(label) == SELF:
            return self._identity
        if self._directory is None:
            return self._in_memory.get(label)
        return load_identity(self._checked(self._directory) / (label + _SUFFIX))

    def generate(self, label: str) -> PrivateKey:
        """A new Ed25519 key called ``label``, on disk when this returns.

        Raises:
            UsageError: there is one, no key may be called so, or there are too many.
            IdentityError: it cannot be written.
        """
        if check_label(label) == SELF or label in self._labels():
            raise UsageError(f"key: there is a key called {label} already; remove it first")
        if len(self._labels()) >= MAX_NAME_KEYS:
            raise UsageError(f"key: there are {MAX_NAME_KEYS} keys already; remove some first")
        key = PrivateKey.generate_ed25519()
        if self._directory is None:
            self._in_memory[label] = key
        else:
            create_identity(self._checked(self._directory) / (label + _SUFFIX), key)
        return key

    def remove(self, label: str) -> bool:
        """Forget the key called ``label`` for good; False if there is none.

        Raises:
            UsageError: it is the node's own identity, or no key may be called so.
            IdentityError: its file cannot be removed.
        """
        if check_label(label) == SELF:
            raise UsageError("key: self is this node's own identity and stays")
        if self._directory is None:
            return self._in_memory.pop(label, None) is not None
        return remove_identity(self._checked(self._directory) / (label + _SUFFIX))

    def all(self) -> Mapping[str, PrivateKey]:
        """Every key by its label: ``self`` first if it is at hand, then in the order of the labels.

        Raises:
            IdentityError: a file cannot be used.
        """
        found = {} if self._identity is None else {SELF: self._identity}
        for label in self._labels():
            key = self.get(label)
            if key is not None:
                found[label] = key
        return found

    def _labels(self) -> list[str]:
        if self._directory is None:
            return sorted(self._in_memory)
        try:
            names = [path.name for path in self._checked(self._directory).glob(f"*{_SUFFIX}")]
        except OSError as error:
            raise IdentityError(f"cannot read {self._directory}: {error.strerror}") from error
        labels = [name.removesuffix(_SUFFIX) for name in names]
        return sorted(label for label in labels if _LABEL.fullmatch(label) and label != SELF)

    def _checked(self, directory: Path) -> Path:
        """``directory``, if it is this user's alone or not there yet."""
        try:
            check_private_directory(directory, follow_link=False)
        except NotPrivateError as error:
            raise IdentityError(f"the directory {directory} {error}") from error
        except FileNotFoundError:
            pass
        except OSError as error:
            raise IdentityError(f"cannot read {directory}: {error.strerror}") from error
        return directory
