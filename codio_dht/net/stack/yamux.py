"""Yamux: many streams over one ordered connection, with every window and every number enforced.

Decides what a frame means. Never trusts a length, a credit or a stream id
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

What leaves, and in which form, :mod:`yamux_sending` decides; FIN and ACK are understood combined
with anything.
"""

from __future__ import annotations

from typing import Final

from codio_dht.core.clock import Monotonic
from codio_dht.errors import ProtocolError
from codio_dht.net.stack.muxer import (
    Data,
    Eof,
    GoAway,
    MuxerEvent,
    StreamOpened,
    StreamReset,
    StreamWritable,
    Violation,
)
from codio_dht.net.stack.yamux_frame import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    HEADER,
    HEADER_BYTES,
    MAX_UINT32,
    PING,
    PROTOCOL_ERROR,
    RST,
    SYN,
    VERSION,
    WINDOW_UPDATE,
)
from codio_dht.net.stack.yamux_keep_alive import KeepAlive
from codio_dht.net.stack.yamux_sending import LAYER, YamuxSending
from codio_dht.net.stack.yamux_stream import YamuxLimits, YamuxStream

YAMUX: Final = "/yamux/1.0.0"

_RESET_BY_PEER: Final = "reset by peer"
_RESET_WITH_CODE: Final = "reset by peer with an error code"
_MAX_PONGS: Final = 32
"""Pings answered between two calls of ``data_to_send`` (go's backlog)."""

_DEFAULT_LIMITS: Final = YamuxLimits()


class Yamux(YamuxSending):
    """One side of one connection; a :class:`~codio_dht.net.stack.muxer.FrameMuxer`."""

    __slots__ = (
        "_body_fin",
        "_body_left",
        "_body_stream",
        "_client",
        "_keep_alive",
        "_tail",
        "_violated",
        "refused_streams",
    )

    def __init__(
        self, *, client: bool, now: Monotonic, limits: YamuxLimits = _DEFAULT_LIMITS
    ) -> None:
        super().__init__(client=client, limits=limits)
        self._client = client
        self._violated = False
        self._tail = b""  # an unfinished header
        self._body_left = 0
        self._body_stream: YamuxStream | None = None  # None: discard the body
        self._body_fin = False
        self._keep_alive = KeepAlive(
            now, interval_s=limits.keep_alive_interval_s, timeout_s=limits.keep_alive_timeout_s
        )
        self.refused_streams = 0
        """Inbound streams reset because of a limit."""

    # --- receiving --------------------------------------------------------------------------------

    def receive(self, data: bytes, now: Monotonic) -> list[MuxerEvent]:
        """Take what arrived; what it meant, in order. Never raises; no events after one."""
        events: list[MuxerEvent] = []
        if self._violated:
            return events
        self._keep_alive.heard = now
        if self._tail:
            data = self._tail + data
            self._tail = b""
        try:
            self._receive(data, now, events)
        except ProtocolError as error:
            self._violated = True
            self.go_away(PROTOCOL_ERROR)
            events.append(Violation(error))
        return events

    def _receive(self, data: bytes, now: Monotonic, events: list[MuxerEvent]) -> None:
        at, end = 0, len(data)
        unpack = HEADER.unpack_from
        while True:
            if self._body_left:
                if at == end:
                    return
                at = self._on_body(data, at, end, events)
                continue
            if end - at < HEADER_BYTES:
                self._tail = data[at:]
                return
            version, kind, flags, stream_id, length = unpack(data, at)
            at += HEADER_BYTES
            if version != VERSION:
                raise ProtocolError(LAYER, "unknown version")
            if kind <= WINDOW_UPDATE:
                stream = self._streams.get(stream_id)
                if (
                    kind == DATA
                    and not flags
                    and stream is not None
                    and 0 < length <= end - at
                    and length <= stream.receive_window
                    and length <= self._limits.unread_bytes - self.unread_bytes
                    and not stream.remote_closed
                ):  # a whole frame of plain data with nothing to say against it: nearly all are
                    stream.receive_window -= length
                    stream.unread += length
                    self.unread_bytes += length
                    events.append(Data(stream, data[at : at + length]))
                    at += length
                    continue
                if flags & (SYN | ACK | RST):
                    stream = self._on_flags(stream, stream_id, kind, flags, length, events)
                if kind == DATA:
                    self._on_data(stream, flags, length, events)
                else:
                    self._on_window_update(stream, flags, length, events)
            elif kind == PING:
                self._on_ping(flags, length, now)
            elif kind == GO_AWAY:
                self._remote_going_away = True
                events.append(GoAway(length))
            else:
                raise ProtocolError(LAYER, "unknown frame type")

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
        if flags & SYN:
            if stream_id == 0:
                raise ProtocolError(LAYER, "stream id zero")
            if stream is not None:
                raise ProtocolError(LAYER, "stream opened twice")
            if (stream_id % 2 == 1) == self._client:
                raise ProtocolError(LAYER, "stream id of the wrong side")
            if flags & RST:
                return None
            return self._accept(stream_id, events)
        if stream is None:
            return None
        if flags & ACK and not stream.inbound and not stream.acknowledged:
            stream.acknowledged = True
            self._unacknowledged_outbound -= 1
        if flags & RST:
            self._drop(stream)
            code = length if kind == WINDOW_UPDATE else 0  # go's error code
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
            self._send_control(WINDOW_UPDATE, RST, stream_id, 0)
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
                raise ProtocolError(LAYER, "receive window exceeded")
            stream.receive_window -= length
            if stream.remote_closed:
                stream = self._abort(stream, "data after the end", events)
            elif self.unread_bytes + length > self._limits.unread_bytes:
                stream = self._abort(stream, "too much unread on the connection", events)
        self._body_left = length
        self._body_stream = stream
        self._body_fin = flags & FIN != 0
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
            if stream.send_window + delta > MAX_UINT32:
                raise ProtocolError(LAYER, "send window overflow")
            stream.send_window += delta
            if stream.unsent:
                self._flush(stream)
                if not stream.unsent and not stream.write_closed:
                    events.append(StreamWritable(stream))
        if flags & FIN:
            self._on_fin(stream, events)

    def _on_ping(self, flags: int, value: int, now: Monotonic) -> None:
        if flags & ACK:
            self._keep_alive.pong(value, now)
        elif flags & SYN and self._pongs < _MAX_PONGS:
            self._pongs += 1
            self._send_control(PING, ACK, 0, value)

    def _abort(
        self, stream: YamuxStream, reason: str, events: list[MuxerEvent]
    ) -> YamuxStream | None:
        self.reset(stream)
        events.append(StreamReset(stream, reason))
        return None

    # --- keep-alive -------------------------------------------------------------------------------

    @property
    def rtt(self) -> float | None:
        """The last ping's round trip, seconds."""
        return self._keep_alive.rtt

    def ping(self, now: Monotonic) -> None:
        """Measure the round trip, unless that is under way; the result will be in ``rtt``."""
        self._send_ping(self._keep_alive.ping(now))

    def next_timeout(self) -> Monotonic:
        """See :class:`~codio_dht.net.stack.muxer.Muxer`."""
        return self._keep_alive.next_timeout()

    def on_timeout(self, now: Monotonic) -> None:
        """See :class:`~codio_dht.net.stack.muxer.Muxer`."""
        self._send_ping(self._keep_alive.on_timeout(now))

    def _send_ping(self, value: int | None) -> None:
        if value is not None:
            self._out.append(HEADER.pack(VERSION, PING, SYN, 0, value))
