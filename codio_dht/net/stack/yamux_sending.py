"""What leaves on a Yamux connection, and the streams on it with their windows.

Decides which frames to send: never more than a peer's window takes, and never more waiting than the
bounds allow. What frames of the peer mean :mod:`yamux` decides, on top of this.

FIN leaves as a frame of its own (go handles a FIN before the data that shares its frame), never
combined with ACK (py-libp2p overlooks it then). The first frame of an accepted stream carries the
ACK, so a stream without an answer stays in the peer's backlog. Window updates wait until half of
the window was consumed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from codio_dht.errors import CapacityError, ProtocolError, StreamError
from codio_dht.net.stack.limits import YAMUX_WINDOW_BYTES
from codio_dht.net.stack.muxer import MuxStream
from codio_dht.net.stack.yamux_frame import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    HEADER,
    HEADER_BYTES,
    MAX_BODY_BYTES,
    MAX_UINT32,
    RST,
    SYN,
    VERSION,
    WINDOW_UPDATE,
)
from codio_dht.net.stack.yamux_stream import YamuxLimits, YamuxStream

LAYER: Final = "yamux"
"""Its name in errors."""


class YamuxSending:
    """The sending half, and the streams that both halves work on. See the module."""

    __slots__ = (
        "_control_bytes",
        "_going_away",
        "_inbound",
        "_limits",
        "_next_id",
        "_out",
        "_outbound",
        "_pongs",
        "_remote_going_away",
        "_streams",
        "_unacknowledged_inbound",
        "_unacknowledged_outbound",
        "unread_bytes",
        "unsent_bytes",
    )

    def __init__(self, *, client: bool, limits: YamuxLimits) -> None:
        self._limits = limits
        self._streams: dict[int, YamuxStream] = {}
        self._next_id = 1 if client else 2
        self._inbound = 0
        self._outbound = 0
        self._unacknowledged_inbound = 0
        self._unacknowledged_outbound = 0
        self._going_away = False
        self._remote_going_away = False
        self._out: list[bytes] = []
        self._control_bytes = 0
        self._pongs = 0
        self.unread_bytes = 0
        """Delivered in ``Data`` and not consumed, all streams."""
        self.unsent_bytes = 0
        """Waiting for the peer's windows, all streams."""

    def open_stream(self) -> YamuxStream:
        """See :class:`~codio_dht.net.stack.muxer.Muxer`."""
        if self._going_away or self._remote_going_away:
            raise StreamError("the connection takes no more streams")
        if self._outbound >= self._limits.outbound_streams:
            raise CapacityError(f"{self._outbound} outbound streams on one connection")
        if self._unacknowledged_outbound >= self._limits.ack_backlog:
            raise CapacityError(f"{self._unacknowledged_outbound} unacknowledged streams")
        stream_id = self._next_id
        if stream_id > MAX_UINT32:
            raise StreamError("the connection's stream ids are used up")
        self._next_id = stream_id + 2
        stream = YamuxStream(stream_id, inbound=False)
        self._streams[stream_id] = stream
        self._outbound += 1
        self._unacknowledged_outbound += 1
        self._out.append(HEADER.pack(VERSION, WINDOW_UPDATE, SYN, stream_id, 0))
        return stream

    def send(self, stream: MuxStream, data: bytes) -> None:
        """See :class:`~codio_dht.net.stack.muxer.Muxer`."""
        assert isinstance(stream, YamuxStream)
        if stream.write_closed or stream.over:
            raise StreamError("the stream is closed for writing")
        size = len(data)
        if stream.pending is None and size <= stream.send_window and size <= MAX_BODY_BYTES:
            if size:
                stream.send_window -= size
                flags = 0 if stream.acknowledged else self._first_flags(stream)
                self._out.append(HEADER.pack(VERSION, DATA, flags, stream.id, size))
                self._out.append(data)
            return
        limits = self._limits
        if stream.unsent + size > limits.stream_unsent_bytes:
            raise CapacityError(f"{stream.unsent} bytes unsent on one stream")
        if self.unsent_bytes + size > limits.unsent_bytes:
            raise CapacityError(f"{self.unsent_bytes} bytes unsent on one connection")
        if stream.pending is None:
            stream.pending = bytearray()
        stream.pending += data
        stream.unsent += size
        self.unsent_bytes += size
        self._flush(stream)

    def _flush(self, stream: YamuxStream) -> None:
        """Send what the window takes of what waits; then the FIN, if that waits too."""
        pending = stream.pending
        if pending is None:
            return
        while pending and stream.send_window:
            size = min(len(pending), stream.send_window, MAX_BODY_BYTES)
            stream.send_window -= size
            stream.unsent -= size
            self.unsent_bytes -= size
            flags = self._first_flags(stream)
            self._out.append(HEADER.pack(VERSION, DATA, flags, stream.id, size))
            self._out.append(bytes(pending[:size]))
            del pending[:size]
        if not pending:
            stream.pending = None
            if stream.fin_queued:
                self._send_fin(stream)

    def _first_flags(self, stream: YamuxStream) -> int:
        """ACK on the first frame of an inbound stream."""
        if stream.acknowledged or not stream.inbound:
            return 0
        stream.acknowledged = True
        self._unacknowledged_inbound -= 1
        return ACK

    def consume(self, stream: MuxStream, count: int) -> None:
        """See :class:`~codio_dht.net.stack.muxer.Muxer`."""
        assert isinstance(stream, YamuxStream)
        if count > stream.unread:  # noqa: PLR1730 - as in _on_body
            count = stream.unread
        stream.unread -= count
        self.unread_bytes -= count
        if stream.remote_closed or stream.over:
            return
        credit = stream.credit + count
        if 2 * credit >= YAMUX_WINDOW_BYTES:
            flags = self._first_flags(stream)
            self._out.append(HEADER.pack(VERSION, WINDOW_UPDATE, flags, stream.id, credit))
            stream.receive_window += credit
            credit = 0
        stream.credit = credit

    def close_write(self, stream: MuxStream) -> None:
        """See :class:`~codio_dht.net.stack.muxer.Muxer`."""
        assert isinstance(stream, YamuxStream)
        if stream.write_closed or stream.over:
            return
        stream.write_closed = True
        if stream.pending is None:
            self._send_fin(stream)
        else:
            stream.fin_queued = True

    def _send_fin(self, stream: YamuxStream) -> None:
        stream.fin_queued = False
        if flags := self._first_flags(stream):
            self._out.append(HEADER.pack(VERSION, WINDOW_UPDATE, flags, stream.id, 0))
        self._out.append(HEADER.pack(VERSION, WINDOW_UPDATE, FIN, stream.id, 0))
        self._drop_if_closed(stream)

    def reset(self, stream: MuxStream) -> None:
        """See :class:`~codio_dht.net.stack.muxer.Muxer`."""
        assert isinstance(stream, YamuxStream)
        if not stream.over:
            self._control_bytes += HEADER_BYTES
            self._out.append(HEADER.pack(VERSION, WINDOW_UPDATE, RST, stream.id, 0))
            self._drop(stream)
        self.unread_bytes -= stream.unread  # of one that was over: nobody takes the rest now
        stream.unread = 0

    def streams(self) -> Iterable[YamuxStream]:
        """See :class:`~codio_dht.net.stack.muxer.Muxer`."""
        return self._streams.values()

    @property
    def stream_count(self) -> int:
        """Streams that are not over, of both sides."""
        return len(self._streams)

    def go_away(self, code: int) -> None:
        """See :class:`~codio_dht.net.stack.muxer.Muxer`. Only the first call sends."""
        if not self._going_away:
            self._going_away = True
            self._out.append(HEADER.pack(VERSION, GO_AWAY, 0, 0, code))

    def data_to_send(self) -> bytes:
        """See :class:`~codio_dht.net.stack.muxer.Muxer`."""
        out = b"".join(self._out)
        self._out.clear()
        self._control_bytes = self._pongs = 0
        return out

    # --- bookkeeping ------------------------------------------------------------------------------

    def _send_control(self, kind: int, flags: int, stream_id: int, value: int) -> None:
        """A frame that the peer's behaviour, not ours, called for: counted while it waits."""
        self._control_bytes += HEADER_BYTES
        if self._control_bytes > self._limits.control_bytes:
            raise ProtocolError(LAYER, "answers pile up unread")
        self._out.append(HEADER.pack(VERSION, kind, flags, stream_id, value))

    def _drop_if_closed(self, stream: YamuxStream) -> None:
        if stream.remote_closed and stream.write_closed and stream.pending is None:
            self._drop(stream, keep_unread=True)

    def _drop(self, stream: YamuxStream, *, keep_unread: bool = False) -> None:
        """The stream is over; what it held is given back."""
        stream.over = True
        del self._streams[stream.id]
        if stream.inbound:
            self._inbound -= 1
            self._unacknowledged_inbound -= not stream.acknowledged
        else:
            self._outbound -= 1
            self._unacknowledged_outbound -= not stream.acknowledged
        stream.acknowledged = True
        self.unsent_bytes -= stream.unsent
        stream.unsent = 0
        stream.pending = None
        if not keep_unread:
            self.unread_bytes -= stream.unread
            stream.unread = 0
