"""Transport parameters (RFC 9000, section 18): what each side of a connection allows the other.

Decides which parameters are taken. A peer's that break a rule raise ``QuicError`` with
``TRANSPORT_PARAMETER_ERROR``; unknown ones are passed over (section 7.4.2). A preferred address is
not followed: libp2p dials the addresses that it knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from codio_dht.net.quic.machine.errors import Code, QuicError
from codio_dht.net.quic.varints import read_varint, varint

_ORIGINAL_ID: Final = 0x00
_IDLE_TIMEOUT: Final = 0x01
_RESET_TOKEN: Final = 0x02
_MAX_UDP: Final = 0x03
_MAX_DATA: Final = 0x04
_MAX_STREAM_DATA_BIDI_LOCAL: Final = 0x05
_MAX_STREAM_DATA_BIDI_REMOTE: Final = 0x06
_MAX_STREAMS_BIDI: Final = 0x08
_MAX_STREAMS_UNI: Final = 0x09
_ACK_DELAY_EXPONENT: Final = 0x0A
_MAX_ACK_DELAY: Final = 0x0B
_DISABLE_MIGRATION: Final = 0x0C
_PREFERRED_ADDRESS: Final = 0x0D
_ID_LIMIT: Final = 0x0E
_INITIAL_ID: Final = 0x0F
_RETRY_ID: Final = 0x10

_LISTENERS: Final = {
    _ORIGINAL_ID: "original_id",
    _RESET_TOKEN: "reset_token",
    _RETRY_ID: "retry_id",
}
"""Those that only a listener sends, and that are bytes."""
_BYTES: Final = {**_LISTENERS, _INITIAL_ID: "initial_id"}
_NUMBERS: Final = {
    _IDLE_TIMEOUT: "idle_timeout_ms",
    _MAX_UDP: "max_udp_bytes",
    _MAX_DATA: "max_data",
    _MAX_STREAM_DATA_BIDI_LOCAL: "max_stream_data_bidi_local",
    _MAX_STREAM_DATA_BIDI_REMOTE: "max_stream_data_bidi_remote",
    _MAX_STREAMS_BIDI: "max_streams_bidi",
    _MAX_STREAMS_UNI: "max_streams_uni",
    _ACK_DELAY_EXPONENT: "ack_delay_exponent",
    _MAX_ACK_DELAY: "max_ack_delay_ms",
    _ID_LIMIT: "id_limit",
}
_RESET_TOKEN_BYTES: Final = 16
_MIN_UDP_BYTES: Final = 1_200
_MAX_EXPONENT: Final = 20
_MAX_ACK_DELAY_MS: Final = 1 << 14
_MIN_ID_LIMIT: Final = 2
_MAX_STREAMS: Final = 1 << 60


@dataclass(slots=True)
class Parameters:
    """One side's, with the values that hold where it says nothing."""

    original_id: bytes | None = None
    initial_id: bytes | None = None
    retry_id: bytes | None = None
    reset_token: bytes | None = None
    idle_timeout_ms: int = 0
    """0: no time-out."""
    max_udp_bytes: int = 65_527
    max_data: int = 0
    max_stream_data_bidi_local: int = 0
    """For streams that the sender of the parameters opens."""
    max_stream_data_bidi_remote: int = 0
    max_streams_bidi: int = 0
    max_streams_uni: int = 0
    ack_delay_exponent: int = 3
    max_ack_delay_ms: int = 25
    id_limit: int = 2

    def encode(self) -> bytes:
        """The parameters that differ from the values that hold without them."""
        default = Parameters()
        parts = []
        for number, name in _BYTES.items():
            content = getattr(self, name)
            if content is not None:
                parts += [varint(number), varint(len(content)), content]
        for number, name in _NUMBERS.items():
            value = getattr(self, name)
            if value != getattr(default, name):
                content = varint(value)
                parts += [varint(number), varint(len(content)), content]
        return b"".join(parts)


def decode_parameters(data: bytes, *, of_listener: bool) -> Parameters:
    """The peer's parameters.

    Raises:
        QuicError: they break a rule.
    """
    found = Parameters()
    seen: set[int] = set()
    at = 0
    try:
        while at < len(data):
            number, at = read_varint(data, at)
            size, at = read_varint(data, at)
            content, at = data[at : at + size], at + size
            if at > len(data) or number in seen:
                raise _refusal("cut off or twice")
            seen.add(number)
            _take(found, number, content, of_listener=of_listener)
    except IndexError as error:
        raise _refusal("cut off") from error
    _check(found)
    return found


def _take(found: Parameters, number: int, content: bytes, *, of_listener: bool) -> None:
    if not of_listener and (number in _LISTENERS or number == _PREFERRED_ADDRESS):
        raise _refusal("only for listeners")
    if number in _BYTES:
        setattr(found, _BYTES[number], content)
    elif number in _NUMBERS:
        value, end = read_varint(content, 0)
        if end != len(content):
            raise _refusal("not one number")
        setattr(found, _NUMBERS[number], value)
    elif number == _DISABLE_MIGRATION and content:
        raise _refusal("not empty")


def _check(found: Parameters) -> None:
    if (
        found.max_udp_bytes < _MIN_UDP_BYTES
        or found.ack_delay_exponent > _MAX_EXPONENT
        or found.max_ack_delay_ms >= _MAX_ACK_DELAY_MS
        or found.id_limit < _MIN_ID_LIMIT
        or max(found.max_streams_bidi, found.max_streams_uni) > _MAX_STREAMS
        or (found.reset_token is not None and len(found.reset_token) != _RESET_TOKEN_BYTES)
    ):
        raise _refusal("a value out of bounds")


def _refusal(reason: str) -> QuicError:
    return QuicError(Code.TRANSPORT_PARAMETER_ERROR, f"transport parameters: {reason}")
