"""One Yamux stream's windows and state, and the bounds of a connection. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from codio_dht.net.stack.limits import (
    KEEP_ALIVE_INTERVAL_S,
    KEEP_ALIVE_TIMEOUT_S,
    MAX_ACK_BACKLOG,
    MAX_CONNECTION_UNREAD_BYTES,
    MAX_CONNECTION_UNSENT_BYTES,
    MAX_INBOUND_BACKLOG,
    MAX_INBOUND_STREAMS,
    MAX_OUTBOUND_STREAMS,
    MAX_STREAM_UNSENT_BYTES,
    MAX_UNFLUSHED_CONTROL_BYTES,
    YAMUX_WINDOW_BYTES,
)
from codio_dht.net.stack.muxer import MuxStream

INITIAL_WINDOW: Final = 256 * 1024
"""Both directions of every stream start with this much credit (specification)."""


@dataclass(frozen=True, slots=True)
class YamuxLimits:
    """Bounds of one connection; what happens at each is in the module's table and methods."""

    inbound_streams: int = MAX_INBOUND_STREAMS
    inbound_backlog: int = MAX_INBOUND_BACKLOG
    outbound_streams: int = MAX_OUTBOUND_STREAMS
    ack_backlog: int = MAX_ACK_BACKLOG
    unread_bytes: int = MAX_CONNECTION_UNREAD_BYTES
    stream_unsent_bytes: int = MAX_STREAM_UNSENT_BYTES
    unsent_bytes: int = MAX_CONNECTION_UNSENT_BYTES
    control_bytes: int = MAX_UNFLUSHED_CONTROL_BYTES
    keep_alive_interval_s: float = KEEP_ALIVE_INTERVAL_S
    keep_alive_timeout_s: float = KEEP_ALIVE_TIMEOUT_S


class YamuxStream(MuxStream):
    """A stream with its windows. Written by :class:`Yamux` only."""

    __slots__ = (
        "acknowledged",
        "credit",
        "fin_queued",
        "over",
        "pending",
        "receive_window",
        "remote_closed",
        "send_window",
        "write_closed",
    )

    def __init__(self, stream_id: int, *, inbound: bool) -> None:
        super().__init__(stream_id, inbound=inbound)
        self.send_window = INITIAL_WINDOW
        self.receive_window = YAMUX_WINDOW_BYTES
        self.credit = 0  # consumed, not yet given back to the peer
        self.pending: bytearray | None = None  # what waits for the peer's window
        self.acknowledged = False  # by us if inbound, by the peer otherwise
        self.write_closed = False
        self.fin_queued = False
        self.remote_closed = False
        self.over = False
