"""QUIC's own streams as a :class:`~codio_dht.net.stack.muxer.Muxer`.

Decides what the machine's events mean to the streams above, when a peer may send more, and how much
may wait. Each side of a stream ends on its own::

    open --FIN, reset or "stop"--> closed          both sides closed: the stream is over

A peer that wants no more of ours ("stop", which GO sends when it has read enough) closes our side
only: what it sends is still read. A reset closes its side and, because the protocols above know one
reset for both, ours with it. What arrives for a stream that is over is dropped, and its window
given back.

Bounds: streams of the peer by QUIC itself; ours, those unfinished below included; bytes kept until
the peer has them, of a stream and of the connection. Bytes received and not taken are bounded by
the windows, which nobody can overrun.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from codio_dht.errors import CapacityError, StreamError
from codio_dht.net.quic.limits import MAX_QUIC_STREAMS, QUIC_STREAM_WINDOW_BYTES
from codio_dht.net.quic.machine import state as quic
from codio_dht.net.quic.machine.machine import Machine
from codio_dht.net.stack.limits import (
    MAX_CONNECTION_UNSENT_BYTES,
    MAX_OUTBOUND_STREAMS,
    MAX_STREAM_UNSENT_BYTES,
)
from codio_dht.net.stack.muxer import (
    Data,
    Eof,
    MuxerEvent,
    MuxStream,
    StreamOpened,
    StreamReset,
    StreamWritable,
)

_RESET_BY_PEER: Final = "reset by peer"
_RESET_WITH_CODE: Final = "reset by peer with an error code"


class QuicStream(MuxStream):
    """A stream and its unsettled state. Only :class:`QuicStreams` writes it."""

    __slots__ = ("credit", "granted", "over", "remote_closed", "write_closed")

    def __init__(self, stream_id: int, *, inbound: bool) -> None:
        super().__init__(stream_id, inbound=inbound)
        self.credit = 0  # taken, not yet given back to the stream's window
        self.granted = 0  # given back to the connection's window so far
        self.remote_closed = False
        self.write_closed = False
        self.over = False


class QuicStreams:
    """All streams of one connection; a :class:`~codio_dht.net.stack.muxer.Muxer`."""

    __slots__ = ("_blocked", "_engine", "_lingering", "_outbound", "_streams", "_wrote",
                 "unread_bytes")  # fmt: skip

    def __init__(self, engine: Machine) -> None:
        self._engine = engine
        self._streams: dict[int, QuicStream] = {}
        self._lingering: dict[int, QuicStream] = {}  # over, and the peer still sends
        self._wrote: dict[QuicStream, None] = {}  # since something was sent last
        self._blocked: dict[QuicStream, None] = {}  # wrote what could not be sent yet
        self._outbound = 0
        self.unread_bytes = 0

    @property
    def kept_bytes(self) -> int:
        """Bytes that the peer does not have for certain."""
        return self._engine.kept_bytes

    @property
    def stream_count(self) -> int:
        """Streams that are not over."""
        return len(self._streams)

    # --- what the machine tells -------------------------------------------------------------------

    def on_data(self, event: quic.StreamData, told: list[MuxerEvent]) -> None:
        """Bytes of a stream, its end, or both."""
        stream_id, size = event.stream_id, len(event.data)
        stream = self._streams.get(stream_id)
        if stream is None:
            if stream_id in self._lingering:
                self._drop_late(stream_id, size, ended=event.fin)
                return
            stream = self._accept(stream_id, told)
        if size:
            stream.unread += size
            self.unread_bytes += size
            told.append(Data(stream, event.data))
        if event.fin:
            stream.remote_closed = True
            told.append(Eof(stream))
            self._drop_if_closed(stream)

    def on_reset(self, event: quic.PeerReset, told: list[MuxerEvent]) -> None:
        """The peer aborted what it sends."""
        stream = self._streams.get(event.stream_id)
        if stream is None:
            stream = self._lingering.pop(event.stream_id, None)
            if stream is None:  # never heard of before, and over already
                stream = QuicStream(event.stream_id, inbound=True)
            self._grant_rest(stream)
            self._engine.abort(event.stream_id)
            return
        self._grant_rest(stream)
        self._engine.abort(stream.id)
        self._drop(stream)
        told.append(StreamReset(stream, _RESET_WITH_CODE if event.code else _RESET_BY_PEER))

    def on_stop(self, event: quic.StreamStopped) -> None:
        """The peer wants no more of what we send."""
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            stream.write_closed = True
            self._drop_if_closed(stream)

    def _accept(self, stream_id: int, told: list[MuxerEvent]) -> QuicStream:
        """The peer's new stream: it has no other way to make one that is unknown here."""
        stream = QuicStream(stream_id, inbound=True)
        stream.write_closed = not self._engine.can_write(stream_id)
        self._streams[stream_id] = stream
        told.append(StreamOpened(stream))
        return stream

    def _drop_late(self, stream_id: int, size: int, *, ended: bool) -> None:
        """What the peer sent before it learned that the stream is over."""
        self._lingering[stream_id].granted += size
        self._engine.grant(size)
        if ended:
            del self._lingering[stream_id]

    def _grant_rest(self, stream: QuicStream) -> None:
        """Give back all of the connection's window that the stream took, also what was lost."""
        received = self._engine.received(stream.id)
        self._engine.grant(received - stream.granted)
        stream.granted = received
        self.unread_bytes -= stream.unread
        stream.unread = 0

    # --- Muxer ------------------------------------------------------------------------------------

    def open_stream(self) -> QuicStream:
        """See :class:`~codio_dht.net.stack.muxer.Muxer`."""
        engine = self._engine
        if engine.ended is not None:
            raise StreamError("the connection takes no more streams")
        if self._outbound >= MAX_OUTBOUND_STREAMS:
            raise CapacityError(f"{self._outbound} outbound streams on one connection")
        if engine.streams_kept >= MAX_OUTBOUND_STREAMS + MAX_QUIC_STREAMS:
            raise CapacityError(f"{engine.streams_kept} streams that the peer does not finish")
        if engine.streams_allowed <= 0:
            raise CapacityError("the peer allows no more streams")
        stream = QuicStream(engine.open_stream(), inbound=False)
        self._streams[stream.id] = stream
        self._outbound += 1
        return stream

    def send(self, stream: MuxStream, data: bytes) -> None:
        """See :class:`~codio_dht.net.stack.muxer.Muxer`. What leaves is settled by ``settle``."""
        assert isinstance(stream, QuicStream)
        if stream.over or stream.write_closed:
            raise StreamError("the stream is closed for writing")
        size, kept = len(data), self._engine.kept_bytes
        if kept + size > MAX_STREAM_UNSENT_BYTES:  # the smaller bound
            of_stream = self._engine.kept(stream.id)
            if of_stream + size > MAX_STREAM_UNSENT_BYTES:
                raise CapacityError(f"{of_stream} bytes unsent on one stream")
            if kept + size > MAX_CONNECTION_UNSENT_BYTES:
                raise CapacityError(f"{kept} bytes unsent on one connection")
        self._engine.write(stream.id, data)
        self._wrote[stream] = None

    def consume(self, stream: MuxStream, count: int) -> None:
        """See :class:`~codio_dht.net.stack.muxer.Muxer`."""
        assert isinstance(stream, QuicStream)
        count = min(count, stream.unread)
        if not count:
            return
        stream.unread -= count
        self.unread_bytes -= count
        stream.granted += count
        self._engine.grant(count)
        if stream.remote_closed or stream.over:
            return
        stream.credit += count
        if 2 * stream.credit >= QUIC_STREAM_WINDOW_BYTES:
            self._engine.grant_stream(stream.id, stream.credit)
            stream.credit = 0

    def close_write(self, stream: MuxStream) -> None:
        """See :class:`~codio_dht.net.stack.muxer.Muxer`."""
        assert isinstance(stream, QuicStream)
        if stream.write_closed or stream.over:
            return
        stream.write_closed = True
        self._engine.write(stream.id, b"", fin=True)
        self._drop_if_closed(stream)

    def reset(self, stream: MuxStream) -> None:
        """See :class:`~codio_dht.net.stack.muxer.Muxer`."""
        assert isinstance(stream, QuicStream)
        self._engine.grant(stream.unread)  # of one that is over, too: nobody takes the rest now
        stream.granted += stream.unread
        self.unread_bytes -= stream.unread
        stream.unread = 0
        if stream.over:
            return
        self._engine.abort(stream.id)
        if not stream.remote_closed:
            self._lingering[stream.id] = stream
        self._drop(stream)

    def streams(self) -> Iterable[QuicStream]:
        """See :class:`~codio_dht.net.stack.muxer.Muxer`."""
        return self._streams.values()

    # --- bookkeeping ------------------------------------------------------------------------------

    def on_sent(self, told: list[MuxerEvent]) -> None:
        """Datagrams were built: learn what has left with them and what waits for the peer."""
        for stream in (*self._wrote, *self._blocked):
            unsent = 0 if stream.over else self._engine.unsent(stream.id)
            if unsent:
                self._blocked[stream] = None
            elif self._blocked.pop(stream, True) is None:  # of one that is over, too: what waits
                told.append(StreamWritable(stream))  # to be answered learns it now, or never
            stream.unsent = unsent
        self._wrote.clear()

    def _drop_if_closed(self, stream: QuicStream) -> None:
        if stream.remote_closed and stream.write_closed:
            self._drop(stream)

    def _drop(self, stream: QuicStream) -> None:
        """The stream is over here; the machine keeps it until the peer agrees."""
        if not stream.over:
            stream.over = True
            stream.unsent = 0
            del self._streams[stream.id]
            self._outbound -= not stream.inbound
