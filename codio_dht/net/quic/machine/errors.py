"""The error codes of QUIC (RFC 9000, section 20.1), and how a peer's fault is raised."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

CRYPTO_ERRORS: Final = range(0x100, 0x200)
"""A TLS alert, added to 0x100 (RFC 9001, section 4.8)."""


class Code(IntEnum):
    """Why a connection is closed."""

    NO_ERROR = 0x00
    INTERNAL_ERROR = 0x01
    CONNECTION_REFUSED = 0x02
    FLOW_CONTROL_ERROR = 0x03
    STREAM_LIMIT_ERROR = 0x04
    STREAM_STATE_ERROR = 0x05
    FINAL_SIZE_ERROR = 0x06
    FRAME_ENCODING_ERROR = 0x07
    TRANSPORT_PARAMETER_ERROR = 0x08
    CONNECTION_ID_LIMIT_ERROR = 0x09
    PROTOCOL_VIOLATION = 0x0A
    APPLICATION_ERROR = 0x0C
    CRYPTO_BUFFER_EXCEEDED = 0x0D
    KEY_UPDATE_ERROR = 0x0E


class QuicError(Exception):
    """The peer broke the protocol; the connection ends with this code. The reason is ours, and
    never holds anything that the peer wrote."""

    def __init__(self, code: int, reason: str, frame_type: int = 0) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.frame_type = frame_type
