"""Yamux: many streams over one ordered connection, with every window and every number enforced.

Decides what a frame means and which frames to send. Never trusts a length, a credit or a stream id
of the peer, and never holds received data: it hands it on at once, and a frame's body is delivered
in the pieces in which it arrives. A stream's states, for each side of it::

    open --FIN--> closed          both sides closed: the stream is over
      |
      +---RST (either side, any time)--> over

What happens to a peer that misbehaves:

==============================================  ================================================
past a stream's window, past 2**32-1 of credit  the connection ends (``Violation``, GOAWAY 1)
unknown version or frame type, SYN of a         the connection ends
stream that is open, not its own, or 0
SYN past the limits or after our GOAWAY         that stream is refused (RST)
data after FIN, too much unread on all streams  that stream is reset
frames of unknown streams, unknown flags,       ignored (a stream that just ended looks like this)
unexpected pongs, a second FIN
more than 32 pings in one go                    the excess is not answered
answers pile up because it does not read        the connection ends
==============================================  ================================================

FIN leaves as a frame of its own (go handles a FIN before the data that shares its frame), never
combined with ACK (py-libp2p overlooks it then); both are understood combined with anything. The
first frame of an accepted stream carries the ACK, so a stream without an answer stays in the
peer's backlog. Window updates wait until half of the window was consumed.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import Final

from codio_dht.core.clock import Monotonic
from codio_dht.errors import CapacityError, DeadlineError, ProtocolError, StreamError
from codio_dht.net.stack.muxer import (
    Data,
    Eof,
    GoAway,
    MuxerEvent,
    MuxStream,
    StreamOpened,
    StreamReset,
    StreamWritable,
    Violation,
)
from codio_dht.net.stack.yamux_stream import YamuxLimits, YamuxStream
from codio_dht.params import YAMUX_WINDOW_BYTES

YAMUX: Final = "/yamux/1.0.0"

_LAYER: Final = "yamux"
_HEADER: Final = Struct(">BBHII")
"""Version, type, flags, stream id, length."""
_HEADER_BYTES: Final = 12
_VERSION: Final = 0

_DATA: Final = 0
_WINDOW_UPDATE: Final = 1
_PING: Final = 2
_GO_AWAY: Final = 3

_SYN: Final = 1
_ACK: Final = 2
_FIN: Final = 4
_RST: Final = 8

_MAX_UINT32: Final = (1 << 32) - 1
_RESET_BY_PEER: Final = "reset by peer"
_RESET_WITH_CODE: Final = "reset by peer with an error code"
_PROTOCOL_ERROR: Final = 1
"""GOAWAY code."""
_MAX_FRAME_BYTES: Final = 65_519 - _HEADER_BYTES
"""Largest body sent: a whole frame then fits one Noise message."""
_MAX_PONGS: Final = 32
"""Pings answered between two calls of ``data_to_send`` (go's backlog)."""


_DEFAULT_LIMITS: Final = YamuxLimits()


class Yamux:
    """One side of one connection; a :class:`~codio_dht.net.stack.muxer.Muxer`."""

    __slots__ = (
        "_body_fin",
        "_body_left",
        "_body_stream",
        "_client",
        "_control_bytes",
        "_going_away",
        "_inbound",
        "_last_receive",
        "_limits",
        "_next_id",
        "_out",
        "_outbound",
        "_ping_id",
        "_ping_sent",
        "_pongs",
        "_remote_going_away",
        "_streams",
        "_tail",
        "_unacknowledged_inbound",
        "_unacknowledged_outbound",
        "_violated",
        "refused_streams",
        "rtt",
        "unread_bytes",
        "unsent_bytes",
    )

    def __init__(
        self, *, client: bool, now: Monotonic, limits: YamuxLimits = _DEFAULT_LIMITS
    ) -> None:
        self._client = client
        self._limits = limits
        self._streams: dict[int, YamuxStream] = {}
        self._next_id = 1 if client else 2
        self._inbound = 0
        self._outbound = 0
        self._unacknowledged_inbound = 0
        self._unacknowledged_outbound = 0
        self._violated = False
        self._going_away = False
        self._remote_going_away = False
        self._out: list[bytes] = []
        self._control_bytes = 0
        self._pongs = 0
        self._tail = b""  # an unfinished header
        self._body_left = 0
        self._body_stream: YamuxStream | None = None  # None: discard the body
        self._body_fin = False
        self._last_receive = now
        self._ping_id = 0
        self._ping_sent: Monotonic | None = None
        self.rtt: float | None = None
        """The last ping's round trip, seconds."""
        self.unread_bytes = 0
        """Delivered in ``Data`` and not consumed, all streams."""
        self.unsent_bytes = 0
        """Waiting for the peer's windows, all streams."""
        self.refused_streams = 0
        """Inbound streams reset because of a limit."""

    # --- receiving --------------------------------------------------------------------------------

    def receive(self, data: bytes, now: Monotonic) -> list[MuxerEvent]:
        """Take what arrived; what it meant, in order. Never raises; no events after one."""
        events: list[MuxerEvent] = []
        if self._violated:
            return events
        self._last_receive = now
        if self._tail:
            data = self._tail + data
            self._tail = b""
        try:
            self._receive(data, now, events)
        except ProtocolError as error:
            self._violated = True
            self.go_away(_PROTOCOL_ERROR)
            events.append(Violation(error))
        return events

    def _receive(self, data: bytes, now: Monotonic, events: list[MuxerEvent]) -> None:
        at, end = 0, len(data)
        unpack = _HEADER.unpack_from
        while True:
            if self._body_left:
                if at == end:
                    return
                at = self._on_body(data, at, end, events)
                continue
            if end - at < _HEADER_BYTES:
                self._tail = data[at:]
                return
            version, kind, flags, stream_id, length = unpack(data, at)
            at += _HEADER_BYTES
            if version != _VERSION:
                raise ProtocolError(_LAYER, "unknown version")
            if kind <= _WINDOW_UPDATE:
                stream = self._streams.get(stream_id)
                if flags & (_SYN | _ACK | _RST):
                    stream = self._on_flags(stream, stream_id, kind, flags, length, events)
                if kind == _DATA:
                    self._on_data(stream, flags, length, events)
                else:
                    self._on_window_update(stream, flags, length, events)
            elif kind == _PING:
                self._on_ping(flags, length, now)
            elif kind == _GO_AWAY:
                self._remote_going_away = True
                events.append(GoAway(length))
            else:
                raise ProtocolError(_LAYER, "unknown frame type")

    def _on_flags(
        self,
        stream: YamuxStream | None,
        stream_id: int,
        kind: int,
        flags: int,
        length: int,
        events: list[MuxerEvent],
    ) -> YamuxStream | None:
        """SYN, ACK and RST; the stream that the rest of the frame is for, if any."""
        if flags & _SYN:
            if stream_id == 0:
                raise ProtocolError(_LAYER, "stream id zero")
            if stream is not None:
                raise ProtocolError(_LAYER, "stream opened twice")
            if (stream_id % 2 == 1) == self._client:
                raise ProtocolError(_LAYER, "stream id of the wrong side")
            if flags & _RST:
                return None
            return self._accept(stream_id, events)
        if stream is None:
            return None
        if flags & _ACK and not stream.inbound and not stream.acknowledged:
            stream.acknowledged = True
            self._unacknowledged_outbound -= 1
        if flags & _RST:
            self._drop(stream)
            code = length if kind == _WINDOW_UPDATE else 0  # go's error code
            events.append(StreamReset(stream, _RESET_BY_PEER if code == 0 else _RESET_WITH_CODE))
            return None
        return stream

    def _accept(self, stream_id: int, events: list[MuxerEvent]) -> YamuxStream | None:
        limits = self._limits
        if (
            self._going_away
            or self._inbound >= limits.inbound_streams
            or self._unacknowledged_inbound >= limits.inbound_backlog
        ):
            self.refused_streams += 1
            self._send_control(_WINDOW_UPDATE, _RST, stream_id, 0)
            return None
        stream = YamuxStream(stream_id, inbound=True)
        self._streams[stream_id] = stream
        self._inbound += 1
        self._unacknowledged_inbound += 1
        events.append(StreamOpened(stream))
        return stream

    def _on_data(
        self, stream: YamuxStream | None, flags: int, length: int, events: list[MuxerEvent]
    ) -> None:
        if stream is not None and length:
            if length > stream.receive_window:
                raise ProtocolError(_LAYER, "receive window exceeded")
            stream.receive_window -= length
            if stream.remote_closed:
                stream = self._abort(stream, "data after the end", events)
            elif self.unread_bytes + length > self._limits.unread_bytes:
                stream = self._abort(stream, "too much unread on the connection", events)
        self._body_left = length
        self._body_stream = stream
        self._body_fin = flags & _FIN != 0
        if not length and self._body_fin and stream is not None:
            self._on_fin(stream, events)

    def _on_body(self, data: bytes, at: int, end: int, events: list[MuxerEvent]) -> int:
        """Deliver what has arrived of the current frame's body; where it ends."""
        left = self._body_left
        stop = at + left
        if stop > end:  # noqa: PLR1730 - on the request path; a call costs more
            stop = end
        self._body_left = left = left - (stop - at)
        stream = self._body_stream
        if stream is not None and not stream.over:
            size = stop - at
            stream.unread += size
            self.unread_bytes += size
            events.append(Data(stream, data[at:stop]))
            if not left and self._body_fin:
                self._on_fin(stream, events)
        if not left:
            self._body_stream = None
        return stop

    def _on_fin(self, stream: YamuxStream, events: list[MuxerEvent]) -> None:
        if stream.remote_closed:
            return
        stream.remote_closed = True
        events.append(Eof(stream))
        self._drop_if_closed(stream)

    def _on_window_update(
        self, stream: YamuxStream | None, flags: int, delta: int, events: list[MuxerEvent]
    ) -> None:
        if stream is None:
            return
        if delta:
            if stream.send_window + delta > _MAX_UINT32:
                raise ProtocolError(_LAYER, "send window overflow")
            stream.send_window += delta
            if stream.unsent:
                self._flush(stream)
                if not stream.unsent and not stream.write_closed:
                    events.append(StreamWritable(stream))
        if flags & _FIN:
            self._on_fin(stream, events)

    def _on_ping(self, flags: int, value: int, now: Monotonic) -> None:
        if flags & _ACK:
            if self._ping_sent is not None and value == self._ping_id:
                self.rtt = now - self._ping_sent
                self._ping_sent = None
        elif flags & _SYN and self._pongs < _MAX_PONGS:
            self._pongs += 1
            self._send_control(_PING, _ACK, 0, value)

    def _abort(
        self, stream: YamuxStream, reason: str, events: list[MuxerEvent]
    ) -> YamuxStream | None:
        self.reset(stream)
        events.append(StreamReset(stream, reason))
        return None

    # --- sending ----------------------------------------------------------------------------------

    def open_stream(self) -> YamuxStream:
        """See :class:`~codio_dht.net.stack.muxer.Muxer`."""
        if self._going_away or self._remote_going_away:
            raise StreamError("the connection takes no more streams")
        if self._outbound >= self._limits.outbound_streams:
            raise CapacityError(f"{self._outbound} outbound streams on one connection")
        if self._unacknowledged_outbound >= self._limits.ack_backlog:
            raise CapacityError(f"{self._unacknowledged_outbound} unacknowledged streams")
        stream_id = self._next_id
        if stream_id > _MAX_UINT32:
            raise StreamError("the connection's stream ids are used up")
        self._next_id = stream_id + 2
        stream = YamuxStream(stream_id, inbound=False)
        self._streams[stream_id] = stream
        self._outbound += 1
        self._unacknowledged_outbound += 1
        self._out.append(_HEADER.pack(_VERSION, _WINDOW_UPDATE, _SYN, stream_id, 0))
        return stream

    def send(self, stream: MuxStream, data: bytes) -> None:
        """See :class:`~codio_dht.net.stack.muxer.Muxer`."""
        assert isinstance(stream, YamuxStream)
        if stream.write_closed or stream.over:
            raise StreamError("the stream is closed for writing")
        size = len(data)
        if stream.pending is None and size <= stream.send_window and size <= _MAX_FRAME_BYTES:
            if size:
                stream.send_window -= size
                flags = self._first_flags(stream)
                self._out.append(_HEADER.pack(_VERSION, _DATA, flags, stream.id, size))
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
            size = min(len(pending), stream.send_window, _MAX_FRAME_BYTES)
            stream.send_window -= size
            stream.unsent -= size
            self.unsent_bytes -= size
            flags = self._first_flags(stream)
            self._out.append(_HEADER.pack(_VERSION, _DATA, flags, stream.id, size))
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
        return _ACK

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
            self._out.append(_HEADER.pack(_VERSION, _WINDOW_UPDATE, flags, stream.id, credit))
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
            self._out.append(_HEADER.pack(_VERSION, _WINDOW_UPDATE, flags, stream.id, 0))
        self._out.append(_HEADER.pack(_VERSION, _WINDOW_UPDATE, _FIN, stream.id, 0))
        self._drop_if_closed(stream)

    def reset(self, stream: MuxStream) -> None:
        """See :class:`~codio_dht.net.stack.muxer.Muxer`."""
        assert isinstance(stream, YamuxStream)
        if not stream.over:
            self._control_bytes += _HEADER_BYTES
            self._out.append(_HEADER.pack(_VERSION, _WINDOW_UPDATE, _RST, stream.id, 0))
            self._drop(stream)

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
            self._out.append(_HEADER.pack(_VERSION, _GO_AWAY, 0, 0, code))

    def data_to_send(self) -> bytes:
        """See :class:`~codio_dht.net.stack.muxer.Muxer`."""
        out = b"".join(self._out)
        self._out.clear()
        self._control_bytes = self._pongs = 0
        return out

    # --- keep-alive -------------------------------------------------------------------------------

    def ping(self, now: Monotonic) -> None:
        """Measure the round trip, unless that is under way; the result will be in ``rtt``."""
        if self._ping_sent is None:
            self._ping_id = (self._ping_id + 1) & _MAX_UINT32
            self._ping_sent = now
            self._out.append(_HEADER.pack(_VERSION, _PING, _SYN, 0, self._ping_id))

    def next_timeout(self) -> Monotonic:
        """See :class:`~codio_dht.net.stack.muxer.Muxer`."""
        if self._ping_sent is None:
            return Monotonic(self._last_receive + self._limits.keep_alive_interval_s)
        latest = max(self._ping_sent, self._last_receive)
        return Monotonic(latest + self._limits.keep_alive_timeout_s)

    def on_timeout(self, now: Monotonic) -> None:
        """See :class:`~codio_dht.net.stack.muxer.Muxer`."""
        if now < self.next_timeout():
            return
        if self._ping_sent is not None:
            raise DeadlineError("the peer does not answer keep-alives")
        self.ping(now)

    # --- bookkeeping ------------------------------------------------------------------------------

    def _send_control(self, kind: int, flags: int, stream_id: int, value: int) -> None:
        """A frame that the peer's behaviour, not ours, called for: counted while it waits."""
        self._control_bytes += _HEADER_BYTES
        if self._control_bytes > self._limits.control_bytes:
            raise ProtocolError(_LAYER, "answers pile up unread")
        self._out.append(_HEADER.pack(_VERSION, kind, flags, stream_id, value))

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
