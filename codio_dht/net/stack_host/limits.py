"""Bounds and times of what drives our own stack, each with its unit and its reason."""

from __future__ import annotations

from typing import Final

# --- the pump -------------------------------------------------------------------------------------

READ_BYTES: Final = 16 * 1024
"""Most bytes taken from a socket in one read: a turn's work stays under 2 ms."""

KEEP_ALIVE_BYTES: Final = 34
"""A piece no longer than this says nothing of use: a sealed keep-alive (30 under Noise, 34 under
TLS), a window update or a reset."""

HOLD_BYTES: Final = 256 * 1024
"""Bytes that the socket did not take; past it the peer gets no more answers until they left."""

MAX_BACKLOG_BYTES: Final = 4 * 1024 * 1024
"""Bytes that the socket did not take; past it the connection ends."""

WRITE_TIMEOUT_S: Final = 30.0
"""What waits for the socket must have left after this long, seconds; else the connection ends."""

WRITE_PIECE_BYTES: Final = 64 * 1024
"""A writer hands over at most this much before it waits for the socket and the peer's window."""

# --- connections ----------------------------------------------------------------------------------

MAX_CONNECTIONS_PER_PEER: Final = 8
"""Connections with one peer; a further inbound one is refused (GO 8)."""

DUPLICATE_IDLE_S: Final = 15.0
"""A surplus connection to a peer is closed when nothing happened on it for this long, seconds."""

IDLE_CONNECTION_S: Final = 600.0
"""A connection without streams and without protection is closed when nothing happened on it for
this long, seconds."""

MAX_CLOSED_AT_ONCE: Final = 32
"""Connections closed to make room before others run."""

REAP_INTERVAL_S: Final = 1.0
"""How often deadlines are looked at, seconds."""

REAP_ROUNDS: Final = 5
"""An open connection is looked at in one of so many rounds."""

REAP_BATCH: Final = 64
"""Connections looked at before others run."""

ACCEPT_BATCH: Final = 16
"""Sockets accepted before others run."""

ACCEPT_PAUSE_S: Final = 0.2
"""How long no sockets are accepted after the system refused to give one, seconds."""

LISTEN_BACKLOG: Final = 1_024
"""Connections that the system keeps for us to accept."""

OWN_ADDRESSES_INTERVAL_S: Final = 30.0
"""How often the addresses that peers see are looked at, seconds: no peer can make us tell everybody
of changes all the time."""

NETWORK_INTERVAL_S: Final = 5.0
"""How often the machine's own addresses and routes are looked at, seconds: after an outage, what
failed is tried again this soon."""

# --- streams --------------------------------------------------------------------------------------

MAX_STREAM_TASKS: Final = 1_024
"""Inbound streams that live with a task; one more is reset."""

MAX_STREAM_TASKS_PER_PEER: Final = 64
"""Inbound streams of one peer that live with a task; one more is reset."""

STREAM_TASK_IDLE_S: Final = 600.0
"""An inbound stream with a task on which nothing arrives is reset after this, seconds."""

PING_IDLE_S: Final = 60.0
"""An inbound ping stream without a ping is reset after this, seconds."""
