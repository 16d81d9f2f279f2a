"""How a Yamux frame looks: its header, types and flags (specification). Values only."""

from __future__ import annotations

from struct import Struct
from typing import Final

HEADER: Final = Struct(">BBHII")
"""Version, type, flags, stream id, length."""
HEADER_BYTES: Final = 12
VERSION: Final = 0

DATA: Final = 0
WINDOW_UPDATE: Final = 1
PING: Final = 2
GO_AWAY: Final = 3

SYN: Final = 1
ACK: Final = 2
FIN: Final = 4
RST: Final = 8

MAX_UINT32: Final = (1 << 32) - 1
"""Largest stream id, window and ping value."""
PROTOCOL_ERROR: Final = 1
"""GOAWAY code."""
MAX_BODY_BYTES: Final = 65_519 - HEADER_BYTES
"""Largest body sent: a whole frame then fits one Noise message."""
