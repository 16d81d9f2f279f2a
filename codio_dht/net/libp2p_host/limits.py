"""Bounds and times of the adapter, each with its unit and its reason.

Those that it shares with our own stack are in the ``limits`` of ``dial`` and ``identify``. Where
another implementation has the same bound, its value is named.
"""

from __future__ import annotations

from typing import Final

# --- streams --------------------------------------------------------------------------------------

MAX_INBOUND_STREAMS_PER_PEER: Final = 256
"""Inbound streams of one peer that are served at once; one more is reset (go's resource manager:
256 per protocol and peer)."""

MAX_INBOUND_STREAMS: Final = 8_192
"""Inbound streams served at once in all; one more is reset."""

READ_CHUNK_BYTES: Final = 64 * 1024
"""Most bytes taken from a stream in one read."""

STREAM_WRITE_TIMEOUT_S: Final = 20.0
"""A reply that cannot be written for this long resets its stream, seconds."""

PARKED_TIMEOUT_S: Final = 60.0
"""A parked stream whose load does not come back is reset, seconds."""

STREAM_END_TIMEOUT_S: Final = 2.0
"""Telling the peer that a stream is finished or reset, seconds; past it the stream is forgotten."""

CLOSE_LINGER_S: Final = 10.0
"""After our end of a stream the peer has this long to end its own before the stream is reset,
seconds: a finished stream must not hold memory for the life of its connection."""

MAX_LINGERING_STREAMS: Final = 1_024
"""Streams that wait for the peer's end; one more is reset at once."""

MAX_MULTISTREAM_MESSAGE_BYTES: Final = 1_024
"""Longest multistream-select message (go: 1,024)."""

# --- dialling -------------------------------------------------------------------------------------

MAX_DIALS: Final = 256
"""Addresses being dialled at once; further ones wait in order of arrival."""

DIAL_ATTEMPT_TIMEOUT_S: Final = 10.0
"""One address: connect, security and muxer together, seconds (py-libp2p ``dial_timeout``)."""

# --- identify -------------------------------------------------------------------------------------

RECONCILE_INTERVAL_S: Final = 15.0
"""How often connections and own addresses are compared with what was told of them, seconds."""

MAX_CONCURRENT_IDENTIFIES: Final = 64
"""Peers being identified at once; further ones wait."""

MAX_PUSHES: Final = 16
"""Identify pushes being sent at once when our protocols or addresses change."""

# --- connections ----------------------------------------------------------------------------------

MAX_CONNECTIONS: Final = 1_000
"""Connections of a host made by ``make_libp2p_host``; an inbound one past it is refused."""

HIGH_WATER_CONNECTIONS: Final = 900
"""Above this, idle connections are closed."""

LOW_WATER_CONNECTIONS: Final = 600
"""Down to this (go: 160 low, 192 high in Kubo; a DHT server has many short visits)."""

MAX_PENDING_INBOUND: Final = 512
"""Inbound connections in their handshake; when one more comes, the oldest is dropped."""

INBOUND_UPGRADE_TIMEOUT_S: Final = 10.0
"""Security and muxer of an inbound connection together, seconds (py-libp2p's own value)."""

CLOSE_TIMEOUT_S: Final = 3.0
"""Closing a connection or the host, seconds; past it the sockets are dropped."""

# --- Yamux ----------------------------------------------------------------------------------------

MAX_STREAMS_PER_CONNECTION: Final = 1_024
"""Streams of one Yamux connection, both directions; one more from the peer is reset."""

MAX_RECEIVE_WINDOW_BYTES: Final = 1024 * 1024
"""Most bytes a peer may have under way on one Yamux stream."""

WINDOW_UPDATE_BYTES: Final = 64 * 1024
"""Credit is given back in steps of at least this size, a quarter of the first window."""

MAX_OUTBOX_BYTES: Final = 256 * 1024
"""Frames waiting for the socket of one connection; past it writers wait."""

WRITE_BATCH_BYTES: Final = 64 * 1024
"""Frames handed to the security layer in one call."""

CONNECTION_WRITE_TIMEOUT_S: Final = 20.0
"""A socket that takes no byte for this long is dead, seconds."""

KEEPALIVE_INTERVAL_S: Final = 30.0
"""Between two keep-alive pings, seconds (go-yamux: 30)."""

KEEPALIVE_TIMEOUT_S: Final = 20.0
"""A connection that neither answers a ping nor sends anything for this long is dead, seconds
(go-yamux: 10)."""
