"""The protobuf wire format, as far as the small messages of libp2p need it.

Decides how fields are read and written; what they mean, the callers decide. Reading is bounded by
the number of fields, skips what it does not know, and copies nothing but the fields themselves.
Never raises anything but :class:`~codio_dht.errors.ProtocolError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from codio_dht.errors import ProtocolError

_VARINT: Final = 0
_BYTES: Final = 2
_FIXED_BYTES: Final = {1: 8, 5: 4}
"""The fixed-width wire types, and how many bytes each has."""
_MAX_VARINT_BYTES: Final = 10
"""64 bits in groups of seven."""
_MAX_UINT64: Final = (1 << 64) - 1
_ONE_BYTE_END: Final = 0x80
"""Varints below this are one byte: nearly every tag and length of a small message."""


def uvarint(value: int) -> bytes:
    """``value`` as an unsigned varint."""
    if value < _ONE_BYTE_END:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def bytes_field(number: int, value: bytes) -> bytes:
    """One length-delimited field."""
    return uvarint(number << 3 | _BYTES) + uvarint(len(value)) + value


def uint_field(number: int, value: int) -> bytes:
    """One varint field."""
    return uvarint(number << 3 | _VARINT) + uvarint(value)


def read_fields(data: bytes, *, max_fields: int, layer: str) -> Iterator[tuple[int, int | bytes]]:
    """The fields of ``data`` in order: number, and an ``int`` or the ``bytes`` of it.

    Fixed-width fields come as the ``bytes`` they are; none of libp2p's messages has one.

    Raises:
        ProtocolError: not a protobuf message, or one of more than ``max_fields`` fields. The
            fields before the fault have been yielded.
    """
    at, end = 0, len(data)
    value: int | bytes
    for _ in range(max_fields):
        if at == end:
            return
        tag = data[at]
        if tag < _ONE_BYTE_END:
            at += 1
        else:
            tag, at = _varint(data, at, layer)
        wire = tag & 7
        if wire == _VARINT:
            value, at = _varint(data, at, layer)
        else:
            if wire == _BYTES:
                if at < end and (length := data[at]) < _ONE_BYTE_END:
                    at += 1
                else:
                    length, at = _varint(data, at, layer)
            elif wire in _FIXED_BYTES:
                length = _FIXED_BYTES[wire]
            else:
                raise ProtocolError(layer, "unknown protobuf wire type")
            if length > end - at:
                raise ProtocolError(layer, "truncated protobuf")
            value = data[at : at + length]
            at += length
        if tag >> 3 == 0:
            raise ProtocolError(layer, "protobuf field number zero")
        yield tag >> 3, value
    if at != end:
        raise ProtocolError(layer, "too many protobuf fields")


def _varint(data: bytes, at: int, layer: str) -> tuple[int, int]:
    value = shift = 0
    for index in range(at, min(len(data), at + _MAX_VARINT_BYTES)):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value > _MAX_UINT64:
                raise ProtocolError(layer, "protobuf varint past 64 bits")
            return value, index + 1
        shift += 7
    raise ProtocolError(layer, "truncated or overlong protobuf varint")
