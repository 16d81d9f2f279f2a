"""The protobuf wire format, as far as the small messages of libp2p need it.

Decides how fields are read and written; what they mean, the callers decide. Reading is bounded by
the number of fields, skips what it does not know, and copies nothing but the fields themselves.
Nothing is raised but :class:`~codio_dht.errors.ProtocolError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from codio_dht.errors import FormatError, ProtocolError
from codio_dht.formats.varint import ONE_BYTE_END, encode_varint, read_varint

_VARINT: Final = 0
_BYTES: Final = 2
_FIXED_BYTES: Final = {1: 8, 5: 4}
"""The fixed-width wire types, and how many bytes each has."""
_MAX_VARINT_BYTES: Final = 10
"""64 bits in groups of seven."""
_MAX_UINT64: Final = (1 << 64) - 1


def bytes_tag(number: int) -> bytes:
    """The tag of a length-delimited field, which its length follows."""
    return encode_varint(number << 3 | _BYTES)


def bytes_field(number: int, value: bytes) -> bytes:
    """One length-delimited field."""
    return encode_varint(number << 3 | _BYTES) + encode_varint(len(value)) + value


def uint_field(number: int, value: int) -> bytes:
    """One varint field."""
    return encode_varint(number << 3 | _VARINT) + encode_varint(value)


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
        if tag < ONE_BYTE_END:
            at += 1
        else:
            tag, at = _varint(data, at, layer)
        wire = tag & 7
        if wire == _VARINT:
            value, at = _varint(data, at, layer)
        else:
            if wire == _BYTES:
                if at < end and (length := data[at]) < ONE_BYTE_END:
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
    try:
        found = read_varint(data, at, _MAX_VARINT_BYTES, shortest=False)
    except FormatError:
        found = None
    if found is None:
        raise ProtocolError(layer, "truncated or overlong protobuf varint")
    if found[0] > _MAX_UINT64:
        raise ProtocolError(layer, "protobuf varint past 64 bits")
    return found
