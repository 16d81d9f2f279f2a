"""Multihashes and CIDs, as far as the DHT needs them: is this one, and which multihash is meant."""

from __future__ import annotations

from typing import Final

_MAX_VARINT_BYTES: Final = 9
"""Longest unsigned varint of the multiformats specification."""


def read_uvarint(data: bytes, offset: int = 0) -> tuple[int, int] | None:
    """The unsigned varint at ``offset`` and the offset after it, or None if there is no whole one."""
    value = shift = 0
    for index in range(offset, min(len(data), offset + _MAX_VARINT_BYTES)):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, index + 1
        shift += 7
    return None


def is_multihash(data: bytes) -> bool:
    """Whether ``data`` is exactly one multihash: code, length, and that many bytes of digest."""
    code = read_uvarint(data)
    if code is None:
        return False
    length = read_uvarint(data, code[1])
    return length is not None and length[1] + length[0] == len(data)
