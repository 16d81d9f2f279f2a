"""DAG-CBOR (IPLD specification "DAG-CBOR"): one deterministic encoding, and its strict reader.

Decides which bytes are a DAG-CBOR document; what a document means, its callers decide. Written
here, because nothing well kept reads it strictly: cbor2 takes indefinite lengths, duplicate keys
and numbers in longer forms than needed, and runs code for tags that a stranger names. Writing a
document again to compare the bytes would not mend that, since CBOR's own canonical form shortens
floats and DAG-CBOR forbids it.

The reader refuses what go-ipld-prime refuses, because a record that GO resolves must resolve here:
indefinite lengths, numbers and lengths in longer forms than needed, NaN and infinities, keys that
are not text or stand twice, tags other than 42 (a link), and bytes after the end. It takes, as GO
and JS do, map keys in any order. It raises nothing but ``ProtocolError``.

    CBOR            Python
    unsigned        int
    negative        int
    byte string     bytes
    text            str
    array           list
    map             dict with str keys, in the order of the bytes
    tag 42          CidLink
    null, undefined None
    true, false     bool
    float           float
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import isfinite
from typing import Final

from codio_dht.errors import ProtocolError

_LAYER: Final = "dag-cbor"

_UNSIGNED: Final = 0
_NEGATIVE: Final = 1
_BYTES: Final = 2
_TEXT: Final = 3
_ARRAY: Final = 4
_MAP: Final = 5
_TAG: Final = 6

_LINK_TAG: Final = 42
_LINK_PREFIX: Final = b"\x00"
"""Multibase's prefix for bytes that are not text: every link begins with it."""

_DIRECT: Final = 24
"""Arguments below this stand in the first byte itself."""
_ARGUMENT_BYTES: Final = {24: 1, 25: 2, 26: 4, 27: 8}
_LEAST: Final = {24: 24, 25: 1 << 8, 26: 1 << 16, 27: 1 << 32}
"""The smallest argument that needs so long a form."""

_SIMPLE: Final = {20: False, 21: True, 22: None, 23: None}
_FLOATS: Final = {25: ">e", 26: ">f", 27: ">d"}

MAX_DEPTH: Final = 64
"""Arrays and maps within each other. GO reads 1,024; nobody nests metadata so deeply, and Python's
own stack ends at 1,000 calls."""


@dataclass(frozen=True, slots=True)
class CidLink:
    """A CID inside a document, as its bytes."""

    cid: bytes


CborValue = (
    int | float | bool | bytes | str | CidLink | list["CborValue"] | dict[str, "CborValue"] | None
)


def decode_dag_cbor(data: bytes) -> CborValue:
    """The document in ``data``, which it must fill.

    Raises:
        ProtocolError: it is not DAG-CBOR, or nested more deeply than ``MAX_DEPTH``.
    """
    reader = _Reader(data)
    value = reader.read(MAX_DEPTH)
    if reader.at != len(data):
        raise ProtocolError(_LAYER, "bytes after the document")
    return value


class _Reader:
    """A place in the bytes of a document."""

    __slots__ = ("_data", "at")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def read(self, depth: int) -> CborValue:
        """The value that begins here; ``depth`` more levels may be inside it."""
        first = self._take(1)[0]
        major, info = first >> 5, first & 0x1F
        if major > _TAG:
            return self._simple(info)
        argument = self._argument(info)
        if major == _UNSIGNED:
            return argument
        if major == _NEGATIVE:
            return -1 - argument
        if major == _BYTES:
            return self._take(argument)
        if major == _TEXT:
            return self._text(argument)
        if major == _TAG:
            return self._link(argument)
        if depth == 0:
            raise ProtocolError(_LAYER, "nested too deeply")
        if major == _ARRAY:
            self._check_count(argument)
            return [self.read(depth - 1) for _ in range(argument)]
        self._check_count(2 * argument)
        return self._map(argument, depth - 1)

    def _map(self, size: int, depth: int) -> dict[str, CborValue]:
        entries: dict[str, CborValue] = {}
        for _ in range(size):
            first = self._take(1)[0]
            if first >> 5 != _TEXT:
                raise ProtocolError(_LAYER, "a map key that is not text")
            key = self._text(self._argument(first & 0x1F))
            if key in entries:
                raise ProtocolError(_LAYER, "a map key that stands twice")
            entries[key] = self.read(depth)
        return entries

    def _link(self, tag: int) -> CidLink:
        if tag != _LINK_TAG:
            raise ProtocolError(_LAYER, "a tag that is not a link")
        first = self._take(1)[0]
        if first >> 5 != _BYTES:
            raise ProtocolError(_LAYER, "a link that is not bytes")
        content = self._take(self._argument(first & 0x1F))
        if not content.startswith(_LINK_PREFIX) or len(content) == 1:
            raise ProtocolError(_LAYER, "a link without a CID")
        return CidLink(content[1:])

    def _simple(self, info: int) -> CborValue:
        if info in _SIMPLE:
            return _SIMPLE[info]
        form = _FLOATS.get(info)
        if form is None:
            raise ProtocolError(_LAYER, "an unknown simple value")
        (number,) = struct.unpack(form, self._take(struct.calcsize(form)))
        if not isfinite(number):
            raise ProtocolError(_LAYER, "a number that is not finite")
        return float(number)

    def _text(self, size: int) -> str:
        try:
            return self._take(size).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ProtocolError(_LAYER, "text that is not UTF-8") from error

    def _argument(self, info: int) -> int:
        if info < _DIRECT:
            return info
        size = _ARGUMENT_BYTES.get(info)
        if size is None:
            raise ProtocolError(_LAYER, "an indefinite or reserved length")
        value = int.from_bytes(self._take(size), "big")
        if value < _LEAST[info]:
            raise ProtocolError(_LAYER, "a number longer than needed")
        return value

    def _check_count(self, count: int) -> None:
        """Refuse more elements than there are bytes left, before any is made room for."""
        if count > len(self._data) - self.at:
            raise ProtocolError(_LAYER, "truncated")

    def _take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self._data):
            raise ProtocolError(_LAYER, "truncated")
        taken = self._data[self.at : end]
        self.at = end
        return taken


def encode_dag_cbor(value: CborValue) -> bytes:
    """The one encoding of ``value``: numbers as short as they are, floats of 64 bits, map keys by
    length and then by bytes.

    Raises:
        ValueError: an integer past 64 bits, or a float that is not finite.
    """
    match value:
        case bool():
            return b"\xf5" if value else b"\xf4"
        case None:
            return b"\xf6"
        case int():
            return _head(_UNSIGNED, value) if value >= 0 else _head(_NEGATIVE, -1 - value)
        case bytes():
            return _head(_BYTES, len(value)) + value
        case str():
            data = value.encode("utf-8")
            return _head(_TEXT, len(data)) + data
        case float():
            if not isfinite(value):
                raise ValueError("DAG-CBOR has no NaN and no infinities")
            return b"\xfb" + struct.pack(">d", value)
        case list():
            return _head(_ARRAY, len(value)) + b"".join([encode_dag_cbor(each) for each in value])
        case dict():
            entries = sorted(
                [(key.encode("utf-8"), each) for key, each in value.items()], key=_rank
            )
            parts = [_head(_TEXT, len(key)) + key + encode_dag_cbor(each) for key, each in entries]
            return _head(_MAP, len(entries)) + b"".join(parts)
        case CidLink():
            content = _LINK_PREFIX + value.cid
            return _head(_TAG, _LINK_TAG) + _head(_BYTES, len(content)) + content


def _rank(entry: tuple[bytes, CborValue]) -> tuple[int, bytes]:
    return len(entry[0]), entry[0]


def _head(major: int, argument: int) -> bytes:
    if argument < _DIRECT:
        return bytes((major << 5 | argument,))
    for info, size in _ARGUMENT_BYTES.items():
        if argument < 1 << 8 * size:
            return bytes((major << 5 | info,)) + argument.to_bytes(size, "big")
    raise ValueError("DAG-CBOR has no integers past 64 bits")
