"""Parameters of a control request, checked one by one as they are read.

Decides what a well-formed parameter is; every complaint is a ``usage`` error that names it. Texts
are ASCII: peer ids, CIDs and multiaddrs are, and nothing else is ever asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from codio_dht.core.peer import PeerId
from codio_dht.daemon.protocol import MAX_TEXT_CHARS, ControlError, ErrorCode
from codio_dht.errors import PeerIdError
from codio_dht.formats.multihash import is_multihash

MAX_LIST_ITEMS: Final = 100
"""Longest list parameter."""

MAX_PREIMAGE_BYTES: Final = 1024
"""Longest ``0x`` key; kad keys in use are below 100 bytes."""

_IPFS_PREFIXES: Final = ("ipfs://", "/ipfs/")


class Params:
    """Reads parameters by name; :meth:`done` refuses what nobody read."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._unread = dict(values)

    def done(self) -> None:
        """Every parameter has been read: refuse the rest."""
        if self._unread:
            raise usage(f"unknown parameter {_shown(min(self._unread))}")

    def text(self, name: str) -> str:
        """A required text."""
        value = self.optional_text(name)
        if value is None:
            raise usage(f"{name} is missing")
        return value

    def optional_text(self, name: str) -> str | None:
        """A text, or None if it is not given."""
        value = self._unread.pop(name, None)
        return None if value is None else _text(name, value)

    def texts(self, name: str) -> list[str]:
        """A list of texts, empty if it is not given."""
        values = self._unread.pop(name, None)
        if values is None:
            return []
        if not isinstance(values, list) or len(values) > MAX_LIST_ITEMS:
            raise usage(f"{name} must be a list of at most {MAX_LIST_ITEMS} texts")
        return [_text(name, value) for value in values]

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """A whole number within bounds."""
        value = self._unread.pop(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise usage(f"{name} must be a whole number from {low} to {high}")
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A number within bounds."""
        value = self._unread.pop(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise usage(f"{name} must be a number from {low:g} to {high:g}")
        if not low <= value <= high:
            raise usage(f"{name} must be a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, name: str) -> bool:
        """True or false; false if it is not given."""
        value = self._unread.pop(name, False)
        if not isinstance(value, bool):
            raise usage(f"{name} must be true or false")
        return value

    def cid(self, name: str) -> str:
        """A CID, also as ``ipfs://CID``: its text without that prefix."""
        return parse_cid(self.text(name), name)[0]

    def peer(self, name: str) -> PeerId:
        """A required peer id."""
        return parse_peer(self.text(name), name)


def parse_peer(text: str, name: str) -> PeerId:
    """The peer id that ``text`` is, in base58 or as a CID of codec libp2p-key."""
    try:
        return PeerId.from_string(text.removeprefix("/p2p/"))
    except PeerIdError as error:
        raise usage(f"{name}: {_shown(text)} is not a peer id") from error


def parse_cid(text: str, name: str) -> tuple[str, bytes]:
    """The CID that ``text`` is, without ``ipfs://``, and its multihash."""
    bare = text
    for prefix in _IPFS_PREFIXES:
        if bare.startswith(prefix):
            bare = bare.removeprefix(prefix).removesuffix("/")
            break
    if "/" in bare:
        raise usage(
            f"{name}: {_shown(text)} has a path; the DHT knows only the CID itself"
            f" ({_shown(bare.split('/')[0])} is the root's)"
        )
    return bare, _multihash_of(bare, text, name)


def parse_key(text: str, name: str) -> bytes:
    """The preimage that ``text`` names: a peer id, a CID, or ``0x`` and the preimage in hex."""
    if text.startswith(("0x", "0X")):
        try:
            preimage = bytes.fromhex(text[2:])
        except ValueError:
            preimage = b""
        if not 0 < len(preimage) <= MAX_PREIMAGE_BYTES:
            raise usage(f"{name}: 0x must be followed by 1 to {MAX_PREIMAGE_BYTES} bytes in hex")
        return preimage
    with suppress(ControlError):
        return parse_peer(text, name).to_bytes()
    with suppress(ControlError):
        return parse_cid(text, name)[1]
    raise usage(f"{name}: {_shown(text)} is neither a peer id nor a CID nor 0x and hex digits")


def usage(message: str) -> ControlError:
    """The error of a wrong parameter."""
    return ControlError(ErrorCode.USAGE, message)


def _multihash_of(bare: str, text: str, name: str) -> bytes:
    from cid import make_cid  # noqa: PLC0415 - slow to import, and its mypy stubs are partial

    try:
        multihash = bytes(make_cid(bare).multihash)
        if not is_multihash(multihash):
            raise ValueError(bare)
    except Exception as error:  # py-cid lets its multibase decoder's errors through
        raise usage(f"{name}: {_shown(text)} is not a CID") from error
    return multihash


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.isascii() or not 0 < len(value) <= MAX_TEXT_CHARS:
        raise usage(f"{name} must be ASCII text of 1 to {MAX_TEXT_CHARS} characters")
    return value


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
