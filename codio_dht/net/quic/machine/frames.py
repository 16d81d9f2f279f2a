"""The frames of QUIC (RFC 9000, section 19): their types, where they may be, and how they are read.

Decides what is a well-formed frame. A reader takes the payload and where the frame's fields begin,
and gives the fields and where they end. It raises ``IndexError`` where the payload ends too early,
and ``QuicError`` for values that no frame may have. Nothing here knows a connection.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from codio_dht.net.quic.machine.errors import Code, QuicError
from codio_dht.net.quic.varints import MAX_VARINT, read_varint

MAX_STREAMS_EVER: Final = 1 << 60
"""No stream's id could be written past it (RFC 9000, section 19.11)."""
_RESET_TOKEN_BYTES: Final = 16
_CHALLENGE_BYTES: Final = 8
_MAX_ID_BYTES: Final = 20


class PacketLevel(IntEnum):
    """An encryption level, and the packet number space of the same name."""

    INITIAL = 0
    HANDSHAKE = 1
    ONE_RTT = 2


PADDING: Final = 0x00
PING: Final = 0x01
ACK: Final = 0x02
ACK_ECN: Final = 0x03
RESET_STREAM: Final = 0x04
STOP_SENDING: Final = 0x05
CRYPTO: Final = 0x06
NEW_TOKEN: Final = 0x07
STREAM: Final = 0x08
STREAM_LAST: Final = 0x0F
MAX_DATA: Final = 0x10
MAX_STREAM_DATA: Final = 0x11
MAX_STREAMS_BIDI: Final = 0x12
MAX_STREAMS_UNI: Final = 0x13
DATA_BLOCKED: Final = 0x14
STREAM_DATA_BLOCKED: Final = 0x15
STREAMS_BLOCKED_BIDI: Final = 0x16
STREAMS_BLOCKED_UNI: Final = 0x17
NEW_CONNECTION_ID: Final = 0x18
RETIRE_CONNECTION_ID: Final = 0x19
PATH_CHALLENGE: Final = 0x1A
PATH_RESPONSE: Final = 0x1B
TRANSPORT_CLOSE: Final = 0x1C
APPLICATION_CLOSE: Final = 0x1D
HANDSHAKE_DONE: Final = 0x1E

FIN: Final = 0x01
WITH_LENGTH: Final = 0x02
WITH_OFFSET: Final = 0x04
"""Bits of a STREAM frame's type."""

HANDSHAKE_FRAMES: Final = frozenset({PADDING, PING, ACK, ACK_ECN, CRYPTO, TRANSPORT_CLOSE})
"""What Initial and Handshake packets may hold (RFC 9000, section 12.4, table 3)."""
NOT_ELICITING: Final = frozenset({PADDING, ACK, ACK_ECN, TRANSPORT_CLOSE, APPLICATION_CLOSE})
"""Frames that need not be acknowledged (RFC 9000, section 13.2)."""
PROBING: Final = frozenset({PADDING, NEW_CONNECTION_ID, PATH_CHALLENGE, PATH_RESPONSE})
"""Frames that do not move a connection to the address that they come from (section 9.1)."""


class Ack(NamedTuple):
    """What the peer has: ranges of numbers, first and last, from the highest down."""

    ranges: list[tuple[int, int]]
    delay: int


class NewId(NamedTuple):
    """An id that the peer may be called."""

    number: int
    retire_before: int
    id: bytes
    reset_token: bytes


class Close(NamedTuple):
    """The peer closed the connection."""

    code: int
    by_application: bool


def read_ack(data: bytes, at: int, frame_type: int) -> tuple[Ack, int]:
    """ACK (section 19.3)."""
    largest, at = read_varint(data, at)
    delay, at = read_varint(data, at)
    more, at = read_varint(data, at)
    size, at = read_varint(data, at)
    first = largest - size
    ranges = [(first, largest)]
    for _ in range(more):  # ends with the payload at the latest
        gap, at = read_varint(data, at)
        size, at = read_varint(data, at)
        last = first - gap - 2
        first = last - size
        ranges.append((first, last))
    if frame_type == ACK_ECN:
        for _ in range(3):
            _, at = read_varint(data, at)
    if first < 0:
        raise QuicError(Code.FRAME_ENCODING_ERROR, "an acknowledgement before packet 0", frame_type)
    return Ack(ranges, delay), at


def read_crypto(data: bytes, at: int) -> tuple[int, bytes, int]:
    """CRYPTO (section 19.6): offset, data, end."""
    offset, at = read_varint(data, at)
    size, at = read_varint(data, at)
    if offset + size > MAX_VARINT:
        raise QuicError(Code.FRAME_ENCODING_ERROR, "data past 2^62", CRYPTO)
    return offset, *_take(data, at, size)


def read_stream(data: bytes, at: int, frame_type: int) -> tuple[int, int, bytes, int]:
    """STREAM (section 19.8): stream, offset, data, end. The frame that there is most of."""
    stream_id, at = read_varint(data, at)
    offset = 0
    if frame_type & WITH_OFFSET:
        offset, at = read_varint(data, at)
    size = len(data) - at
    if frame_type & WITH_LENGTH:
        size, at = read_varint(data, at)
    end = at + size
    if end > len(data):
        raise IndexError("the frame is cut off")
    if offset + size > MAX_VARINT:
        raise QuicError(Code.FRAME_ENCODING_ERROR, "data past 2^62", frame_type)
    return stream_id, offset, data[at:end], end


def read_varints(data: bytes, at: int, count: int) -> tuple[list[int], int]:
    """``count`` numbers, as most frames are."""
    values = []
    for _ in range(count):
        value, at = read_varint(data, at)
        values.append(value)
    return values, at


def read_new_id(data: bytes, at: int) -> tuple[NewId, int]:
    """NEW_CONNECTION_ID (section 19.15)."""
    (number, retire_before), at = read_varints(data, at, 2)
    size = data[at]
    if not 1 <= size <= _MAX_ID_BYTES or retire_before > number:
        raise QuicError(Code.FRAME_ENCODING_ERROR, "no connection id", NEW_CONNECTION_ID)
    connection_id, at = _take(data, at + 1, size)
    token, at = _take(data, at, _RESET_TOKEN_BYTES)
    return NewId(number, retire_before, connection_id, token), at


def read_challenge(data: bytes, at: int) -> tuple[bytes, int]:
    """PATH_CHALLENGE and PATH_RESPONSE (sections 19.17 and 19.18)."""
    return _take(data, at, _CHALLENGE_BYTES)


def read_token(data: bytes, at: int) -> tuple[bytes, int]:
    """NEW_TOKEN (section 19.7)."""
    size, at = read_varint(data, at)
    if not size:
        raise QuicError(Code.FRAME_ENCODING_ERROR, "an empty token", NEW_TOKEN)
    return _take(data, at, size)


def read_close(data: bytes, at: int, frame_type: int) -> tuple[Close, int]:
    """CONNECTION_CLOSE (section 19.19). What the peer wrote as a reason is passed over."""
    code, at = read_varint(data, at)
    if frame_type == TRANSPORT_CLOSE:
        _, at = read_varint(data, at)
    size, at = read_varint(data, at)
    _, at = _take(data, at, size)
    return Close(code, frame_type == APPLICATION_CLOSE), at


def _take(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    end = at + size
    if end > len(data):
        raise IndexError("the frame is cut off")
    return data[at:end], end
