"""Bounds and times of identify on both hosts, each with its unit and its reason.

GO is go-libp2p, JS js-libp2p.
"""

from __future__ import annotations

from typing import Final

# --- reading --------------------------------------------------------------------------------------

IDENTIFY_TIMEOUT_S: Final = 10.0
"""Reading the peer's identify message, from opening the stream, seconds."""

MAX_IDENTIFY_BYTES: Final = 64 * 1024
"""Largest identify message, all of its parts together (GO: 8 KiB a part, signed record up to 64
KiB in all)."""

MAX_IDENTIFY_PROTOCOLS: Final = 256
"""Protocols kept from one identify message; later ones are dropped (GO 128, later 1,800 seen in an
attack)."""

MAX_IDENTIFY_TEXT_BYTES: Final = 256
"""Agent, protocol version and protocol ids longer than this are dropped."""

MAX_KNOWN_PROTOCOL_BYTES: Final = 8 * 1024
"""Protocol ids kept of one peer, all together; the rest is dropped."""

# --- telling --------------------------------------------------------------------------------------

PUSH_BATCH: Final = 16
"""Peers told of a change before others run."""
