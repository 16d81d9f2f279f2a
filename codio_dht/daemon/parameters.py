"""Parameters of a control request, checked one by one as they are read.

Decides what a valid parameter is. Each error is a ``UsageError`` that names the parameter, and the
client gets it as a ``usage`` error. Texts are ASCII, as peer ids, CIDs and multiaddrs are.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from typing import Any, Final

from codio_dht.checks import Checks, cleaned, shown
from codio_dht.core.multihash import multihash_of
from codio_dht.core.peer import PeerId
from codio_dht.daemon.protocol import MAX_TEXT_CHARS
from codio_dht.errors import FormatError, PeerIdError, UsageError
from codio_dht.formats.text import read_cid, read_peer_id

MAX_LIST_ITEMS: Final = 100
"""Longest list parameter."""

MAX_PREIMAGE_BYTES: Final = 1024
"""Longest ``0x`` key, bytes; kad keys in use are below 100 bytes."""

_CHECKS: Final = Checks()


class Params:
    """Reads parameters by name. :meth:`done` refuses parameters that were not read.

    Every reader raises ``UsageError`` for a parameter that is missing or not what it must be.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._unread = dict(values)

    def done(self) -> None:
        """Refuse parameters that were not read."""
        if self._unread:
            raise UsageError(f"unknown parameter {shown(min(self._unread))}")

    def text(self, name: str) -> str:
        """A required text."""
        value = self.optional_text(name)
        if value is None:
            raise UsageError(f"{name} is missing")
        return value

    def optional_text(self, name: str) -> str | None:
        """A text, or None if it is not given."""
        value = self._unread.pop(name, None)
        return None if value is None else _CHECKS.text(_cleaned(value), name, MAX_TEXT_CHARS)

    def texts(self, name: str, most_items: int = MAX_LIST_ITEMS) -> list[str]:
        """A list of at most ``most_items`` texts, empty if it is not given."""
        values = self._unread.pop(name, None)
        if values is None:
            return []
        if isinstance(values, list):
            values = [_cleaned(value) for value in values]
        return _CHECKS.texts(values, name, MAX_TEXT_CHARS, most_items)

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """A whole number within bounds."""
        return _CHECKS.whole_number(self._unread.pop(name, default), name, low, high)

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A number within bounds."""
        return _CHECKS.number(self._unread.pop(name, default), name, low, high)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """True or false; ``default`` if it is not given."""
        return _CHECKS.flag(self._unread.pop(name, default), name)

    def base64(self, name: str) -> bytes:
        """Required bytes in base64. They may be empty."""
        value = self.optional_base64(name)
        if value is None:
            raise UsageError(f"{name} is missing")
        return value

    def optional_base64(self, name: str) -> bytes | None:
        """Bytes, as base64, or None if they are not given."""
        value = self._unread.pop(name, None)
        if value is None:
            return None
        try:
            return b64decode(_CHECKS.text(value, name), validate=True)
        except ValueError as error:
            raise UsageError(f"{name} must be base64") from error

    def cid(self, name: str) -> str:
        """The text of a CID, without what people paste around one."""
        return parse_cid(self.text(name), name)[0]

    def peer(self, name: str) -> PeerId:
        """A required peer id."""
        return parse_peer(self.text(name), name)


def _cleaned(value: object) -> object:
    """Text without the characters that people paste around it. Other values and long texts stay
    unchanged."""
    return cleaned(value) if isinstance(value, str) and len(value) <= MAX_TEXT_CHARS else value


def parse_peer(text: str, name: str) -> PeerId:
    """The peer id that ``text`` is, in any form that :mod:`codio_dht.formats.text` reads.

    Raises:
        UsageError: it is none.
    """
    try:
        return PeerId.from_string(text)
    except PeerIdError as error:
        raise UsageError(f"{name}: {error}") from error


def parse_cid(text: str, name: str) -> tuple[str, bytes]:
    """The text of the CID that ``text`` names, and its multihash.

    Raises:
        UsageError: it is no CID, or one that no server accepts.
    """
    multihash = multihash_of(text, name)
    return read_cid(text).text, multihash


def parse_key(text: str, name: str) -> bytes:
    """The preimage that ``text`` names: a peer id, a CID, or ``0x`` and the preimage in hex.

    Raises:
        UsageError: it is none of them.
    """
    if text.startswith(("0x", "0X")):
        try:
            preimage = bytes.fromhex(text[2:])
        except ValueError:
            preimage = b""
        if not 0 < len(preimage) <= MAX_PREIMAGE_BYTES:
            raise UsageError(
                f"{name}: 0x must be followed by 1 to {MAX_PREIMAGE_BYTES} bytes in hex"
            )
        return preimage
    for read in (read_peer_id, lambda given: read_cid(given).cid.multihash):
        try:
            return read(text)
        except FormatError:
            continue
    raise UsageError(f"{name}: {shown(text)} is neither a peer id nor a CID nor 0x and hex digits")
