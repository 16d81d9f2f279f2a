"""Bounds and times of identify on both hosts, each with its unit and its reason.

GO is go-libp2p, JS js-libp2p.
"""

from __future__ import annotations

from typing import Final

# --- reading --------------------------------------------------------------------------------------

IDENTIFY_TIMEOUT_S: Final = 10.0
"""Reading the peer's identify message, from opening the stream, seconds."""

IDENTIFY_ATTEMPTS: Final = 2
"""Times that a peer is asked who it is: one that is not identified does not enter the routing
table."""

MAX_IDENTIFY_BYTES: Final = 64 * 1024
"""Largest identify message, all of its parts together (GO: 8 KiB a part, signed record up to 64
KiB in all)."""

MAX_IDENTIFY_PROTOCOLS: Final = 256
"""Protocols kept from one identify message; later ones are dropped (GO 128; 1,800 once filled
memory). ``MAX_KNOWN_PROTOCOL_BYTES`` bounds them, too."""

MAX_IDENTIFY_TEXT_BYTES: Final = 256
"""Longest agent, protocol version and protocol id kept, bytes. The first two are cut there; a
longer protocol id is dropped, for a part of it is another one."""

MAX_KNOWN_PROTOCOL_BYTES: Final = 8 * 1024
"""Protocol ids kept of one peer, all together, bytes; the rest is dropped (JS: 8 KiB for the whole
message)."""

# --- telling --------------------------------------------------------------------------------------

MAX_TOLD_PART_BYTES: Final = 4 * 1024
"""Longest part of our own message, bytes: rust-libp2p reads no longer one, GO writes none."""

MAX_TOLD_PROTOCOL_BYTES: Final = 2 * 1024
"""Protocol ids of our own that are told, all together, with their tags: half of the first part, so
that there is room for addresses. In the order of the alphabet; later ones are not told."""

MAX_OBSERVED_ADDR_BYTES: Final = 128
"""Room for the address at which we see the peer; a longer one is not told (those of our transports
take 26 at most)."""

PUSH_BATCH: Final = 16
"""Peers told of a change before others run."""
