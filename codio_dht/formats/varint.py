"""Unsigned varints (LEB128), and byte strings that stand behind their length.

Seven bits a byte, the lowest first; the high bit says that another byte follows. How long a varint
may be, and whether it must be in its shortest form, differs between protocols: the caller says it.
"""

from __future__ import annotations

from typing import Final

from codio_dht.errors import FormatError

ONE_BYTE_END: Final = 0x80
"""The first value that takes more than one byte: what is below it is its own varint."""

MULTIFORMATS_MAX_BYTES: Final = 9
"""Longest varint of multihashes, CIDs and their like (multiformats/unsigned-varint)."""

_TWO_BYTES_END: Final = 1 << 14
"""The first value that takes more than two bytes."""


def encode_varint(value: int) -> bytes:
    """``value``, which must not be negative, as an unsigned varint in its shortest form."""
    if value < ONE_BYTE_END:
        return bytes((value,))
    out = bytearray()
    while value >= ONE_BYTE_END:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(
    data: bytes | bytearray,
    at: int = 0,
    max_bytes: int = MULTIFORMATS_MAX_BYTES,
    *,
    shortest: bool = True,
) -> tuple[int, int] | None:
    """The unsigned varint at ``at`` and the offset after it; None if ``data`` ends inside of it.

    Raises:
        FormatError: more than ``max_bytes`` bytes, or, with ``shortest``, longer than it has to be.
    """
    end = len(data)
    if at < end:  # nearly all take one byte, and nearly all others two
        first = data[at]
        if first < ONE_BYTE_END:
            return first, at + 1
        if at + 1 < end and max_bytes > 1 and 0 < (second := data[at + 1]) < ONE_BYTE_END:
            return first & 0x7F | second << 7, at + 2
    value = shift = 0
    for index in range(at, min(end, at + max_bytes)):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < ONE_BYTE_END:
            if shortest and byte == 0:
                raise FormatError("not in its shortest form")
            return value, index + 1
        shift += 7
    if end - at >= max_bytes:
        raise FormatError(f"of more than {max_bytes} bytes")
    return None


# --- behind their length --------------------------------------------------------------------------


def length_prefixed(data: bytes) -> bytes:
    """``data`` behind its length."""
    size = len(data)
    if size < ONE_BYTE_END:
        return b"%c%b" % (size, data)
    if size < _TWO_BYTES_END:  # nearly every frame
        return b"%c%c%b" % (size & 0x7F | 0x80, size >> 7, data)
    return encode_varint(size) + data


def split_length_prefixed(
    data: bytes | bytearray,
    at: int = 0,
    max_bytes: int = MULTIFORMATS_MAX_BYTES,
    *,
    shortest: bool = True,
) -> list[bytes]:
    """All byte strings of ``data`` from ``at`` on, each of which stands behind its length.

    ``max_bytes`` and ``shortest`` bound the lengths, as in :func:`read_varint`.

    Raises:
        FormatError: a length breaks those bounds, or the data is cut off.
    """
    data = bytes(data)
    parts = []
    end = len(data)
    while at < end:
        if (length := data[at]) < ONE_BYTE_END:  # nearly all
            at += 1
        else:
            found = read_varint(data, at, max_bytes, shortest=shortest)
            if found is None:
                raise FormatError("cut off in a length")
            length, at = found
        parts.append(data[at : at + length])
        at += length
    if at != end:
        raise FormatError("cut off")
    return parts
