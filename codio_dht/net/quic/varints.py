"""QUIC's integers of variable length (RFC 9000, section 16).

Decides nothing. Reading raises ``IndexError`` where the bytes end too early; each caller turns that
into what it means there.
"""

from __future__ import annotations

from typing import Final

MAX_VARINT: Final = (1 << 62) - 1
"""The largest number that can be written."""

_ONE_BYTE: Final = 1 << 6
_TWO_BYTES: Final = 1 << 14
_FOUR_BYTES: Final = 1 << 30
_SHORT: Final = tuple(bytes([value]) for value in range(_ONE_BYTE))


def varint(value: int) -> bytes:
    """``value`` in as few bytes as possible."""
    if value < _ONE_BYTE:
        return _SHORT[value]
    if value < _TWO_BYTES:
        return (value | 0x4000).to_bytes(2, "big")
    if value < _FOUR_BYTES:
        return (value | 0x8000_0000).to_bytes(4, "big")
    return (value | 0xC000_0000_0000_0000).to_bytes(8, "big")


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at ``at``, and where it ends.

    Raises:
        IndexError: the bytes end before the number does.
    """
    first = data[at]
    if first < _ONE_BYTE:
        return first, at + 1
    if first < 0x80:  # two bytes, as most others
        return (first & 0x3F) << 8 | data[at + 1], at + 2
    size = 1 << (first >> 6)
    end = at + size
    if end > len(data):
        raise IndexError("the number is cut off")
    return int.from_bytes(data[at:end], "big") & ((1 << (8 * size - 2)) - 1), end
