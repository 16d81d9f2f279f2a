"""The headers of QUIC packets that can be read without keys (RFC 9000, section 17; RFC 8999).

Decides what a datagram of a stranger claims to be, and writes the packets that need no connection:
version negotiation and Retry. ``read_long_header`` never raises on what anybody sent.
"""

from __future__ import annotations

import os
from enum import IntEnum
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from codio_dht.net.quic.varints import read_varint, varint

LONG_HEADER: Final = 0x80
"""Set in the first byte of a long header."""
FIXED_BIT: Final = 0x40
"""Set in the first byte of every packet of version 1."""
VERSION_1: Final = 0x0000_0001
MAX_ID_BYTES: Final = 20
"""Longest connection id of version 1."""
MIN_FIRST_ID_BYTES: Final = 8
"""Shortest id that a dialler may choose for the listener (RFC 9000, section 7.2)."""
MIN_FIRST_DATAGRAM_BYTES: Final = 1_200
"""A datagram with a dialler's Initial is at least this long (RFC 9000, section 14.1)."""

_FIRST_LONG_BYTES: Final = 7
"""Shortest long header: first byte, version and two empty ids."""
_RETRY_KEY: Final = AESGCM(bytes.fromhex("be0c690b9f66575a1d766b54e368c84e"))
_RETRY_NONCE: Final = bytes.fromhex("461599d35d632bf2239825bb")
"""Of version 1 (RFC 9001, section 5.8)."""


class LongKind(IntEnum):
    """What a packet with a long header is, by the bits of its first byte."""

    INITIAL = 0
    ZERO_RTT = 1
    HANDSHAKE = 2
    RETRY = 3


class LongHeader(NamedTuple):
    """A long header, as far as it can be read without keys."""

    kind: LongKind
    """Meaningful for version 1 only."""
    version: int
    """0 is version negotiation."""
    destination: bytes
    source: bytes
    token: bytes
    """An Initial's. A Retry's follows the header."""
    number_at: int
    """Where the packet number is, or a Retry's token; of version 1 only."""
    end: int
    """Where the packet ends in its datagram."""


def destination_of_long(data: bytes) -> bytes:
    """The destination id of a datagram that begins with a long header, of any version (RFC 8999,
    section 5.1); empty if there is none."""
    return data[6 : 6 + data[5]] if len(data) >= _FIRST_LONG_BYTES else b""


def read_long_header(data: bytes, at: int = 0) -> LongHeader | None:
    """The long header at ``at``; None if it is none, or is cut off."""
    try:
        return _read_long(data, at)
    except IndexError:
        return None


def _read_long(data: bytes, at: int) -> LongHeader | None:
    first = data[at]
    version = int.from_bytes(data[at + 1 : at + 5], "big")
    destination, after = _read_id(data, at + 5)
    source, after = _read_id(data, after)
    kind = LongKind(first >> 4 & 3)
    if version != VERSION_1:
        return LongHeader(kind, version, destination, source, b"", after, len(data))
    if not first & FIXED_BIT or len(destination) > MAX_ID_BYTES or len(source) > MAX_ID_BYTES:
        return None
    if kind is LongKind.RETRY:
        return LongHeader(kind, version, destination, source, b"", after, len(data))
    token = b""
    if kind is LongKind.INITIAL:
        size, after = read_varint(data, after)
        token, after = data[after : after + size], after + size
    size, after = read_varint(data, after)
    if after + size > len(data):
        return None
    return LongHeader(kind, version, destination, source, token, after, after + size)


def _read_id(data: bytes, at: int) -> tuple[bytes, int]:
    """A connection id with its length in front, and where it ends.

    Raises:
        IndexError: it is cut off.
    """
    end = at + 1 + data[at]
    if end > len(data):
        raise IndexError("the id is cut off")
    return data[at + 1 : end], end


def versions_packet(*, source: bytes, destination: bytes) -> bytes:
    """What a dialler of another version is told: that version 1 is spoken here (RFC 9000, section
    17.2.1). The ids are those of the dialler's packet, exchanged."""
    return b"".join(
        (
            bytes([LONG_HEADER | os.urandom(1)[0]]),
            bytes(4),
            bytes([len(destination)]), destination,
            bytes([len(source)]), source,
            VERSION_1.to_bytes(4, "big"),
        )
    )  # fmt: skip


def retry_packet(*, original: bytes, source: bytes, destination: bytes, token: bytes) -> bytes:
    """A Retry (RFC 9000, section 17.2.5): the dialler has to come again with ``token``, to the id
    ``source``. ``original`` is the id that its first packet was for."""
    head = _retry_head(source, destination, token)
    return head + retry_tag(original, head)


def retry_tag(original: bytes, packet: bytes) -> bytes:
    """The integrity tag of a Retry (RFC 9001, section 5.8); ``packet`` is the Retry without it."""
    return _RETRY_KEY.encrypt(_RETRY_NONCE, b"", bytes([len(original)]) + original + packet)


def _retry_head(source: bytes, destination: bytes, token: bytes) -> bytes:
    return b"".join(
        (
            bytes([LONG_HEADER | FIXED_BIT | LongKind.RETRY << 4 | os.urandom(1)[0] & 0x0F]),
            VERSION_1.to_bytes(4, "big"),
            bytes([len(destination)]), destination,
            bytes([len(source)]), source,
            token,
        )
    )  # fmt: skip


def initial_header(
    *, source: bytes, destination: bytes, number: int, number_bytes: int, length: int
) -> bytes:
    """The header of an Initial without a token; ``length`` counts everything behind the header's
    length field: number, payload and tag."""
    return b"".join(
        (
            bytes([LONG_HEADER | FIXED_BIT | LongKind.INITIAL << 4 | number_bytes - 1]),
            VERSION_1.to_bytes(4, "big"),
            bytes([len(destination)]), destination,
            bytes([len(source)]), source,
            b"\0",
            varint(length),
            number.to_bytes(number_bytes, "big"),
        )
    )  # fmt: skip
