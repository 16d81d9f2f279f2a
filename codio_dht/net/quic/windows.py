"""How much either side of a QUIC connection may send, and on how many streams.

Decides when the peer is told of more room, which streams there are, and which of ours wait for the
peer's windows. What it changes of aioquic, and why:

- Windows grow by what was taken (``grant``). aioquic doubles them as data arrives, so that a peer
  may send without end what nobody reads.
- No unidirectional streams, which libp2p has none of.
- A stream that has something to write is in the :class:`Ledger`; aioquic looks at all of them. One
  that the peer's window stops leaves it until the peer opens the window::

    ready --its own window--> (MAX_STREAM_DATA) --> ready
      +----the connection's--> starved (MAX_DATA) --> ready

Bounds: ``MAX_QUIC_STREAMS`` for the peer's streams, :mod:`~codio_dht.net.quic.streams` for ours,
and the windows, which nobody can overrun, for bytes received and not taken.
"""

from __future__ import annotations

from typing import Any, Final

from aioquic._buffer import Buffer  # where it is typed
from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    Limit,
    QuicConnection,
    QuicConnectionError,
    QuicReceiveContext,
)
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from aioquic.quic.packet_builder import QuicDeliveryState, QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream, StreamFinishedError

from codio_dht.net.quic.buffers import BufferedStream, Ledger
from codio_dht.net.quic.limits import MAX_QUIC_STREAMS, QUIC_CONNECTION_WINDOW_BYTES

_BY_SERVER: Final = 0x1
_UNIDIRECTIONAL: Final = 0x2
_STEP: Final = 4
"""From one stream's id to the next of its kind (RFC 9000, section 2.1)."""


class Windows(QuicConnection):
    """The flow-control windows and the stream limits of a QUIC connection."""

    def __init__(self, **options: Any) -> None:
        """See ``QuicConnection``."""
        super().__init__(**options)
        for limit, value in (
            (self._local_max_streams_bidi, MAX_QUIC_STREAMS),
            (self._local_max_streams_uni, 0),
        ):
            limit.value = limit.sent = value
        self._ledger = Ledger()
        self._starved: dict[int, None] = {}
        self._ungranted = 0

    # --- streams ----------------------------------------------------------------------------------

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> QuicStream:
        stream = self._streams.get(stream_id)
        if stream is not None:
            return stream
        ours = bool(stream_id & _BY_SERVER) != self._is_client
        limit = self._local_max_streams_bidi
        if ours and (stream_id & _UNIDIRECTIONAL or stream_id >= self._local_next_stream_id_bidi):
            raise QuicConnectionError(
                QuicErrorCode.STREAM_STATE_ERROR, frame_type, "Wrong stream initiator"
            )
        if not ours and (stream_id & _UNIDIRECTIONAL or stream_id // _STEP >= limit.value):
            raise QuicConnectionError(
                QuicErrorCode.STREAM_LIMIT_ERROR, frame_type, "Too many streams open"
            )
        if ours or stream_id // _STEP < limit.used:
            raise StreamFinishedError
        first = limit.used * _STEP + stream_id % _STEP
        for each in range(first, stream_id + 1, _STEP):  # those below are open, too
            stream = self._streams[each] = BufferedStream(
                each,
                self._ledger,
                self._local_max_stream_data_bidi_remote,
                self._remote_max_stream_data_bidi_local,
            )
        limit.used = stream_id // _STEP + 1
        assert stream is not None
        return stream

    def _get_or_create_stream_for_send(self, stream_id: int) -> QuicStream:
        stream = self._streams.get(stream_id)
        if stream is not None:
            return stream
        if stream_id != self._local_next_stream_id_bidi:
            raise ValueError("the stream is over, or was never opened")
        self._local_next_stream_id_bidi += _STEP
        stream = self._streams[stream_id] = BufferedStream(
            stream_id,
            self._ledger,
            self._local_max_stream_data_bidi_local,
            self._remote_max_stream_data_bidi_remote,
        )
        if stream_id // _STEP >= self._remote_max_streams_bidi:
            stream.is_blocked = True
            self._streams_blocked_bidi.append(stream)
            self._streams_blocked_pending = True
        return stream

    def _take_off_ended(self) -> None:
        """Forget streams that are over on both sides; the peer may open others for its own."""
        for stream_id in self._ledger.ended:
            stream = self._streams.get(stream_id)
            if stream is not None and stream.is_finished:
                del self._streams[stream_id]
                if bool(stream_id & _BY_SERVER) == self._is_client:
                    self._local_max_streams_bidi.value += 1
        self._ledger.ended.clear()

    # --- the peer's room --------------------------------------------------------------------------

    def grant(self, count: int) -> None:
        """The peer may send ``count`` more bytes on the connection."""
        self._ungranted += count
        if 2 * self._ungranted >= QUIC_CONNECTION_WINDOW_BYTES:
            self._local_max_data.value += self._ungranted
            self._ungranted = 0

    @property
    def received_bytes(self) -> int:
        """Bytes of the connection's window in use: what nobody took yet, and what waits behind
        gaps."""
        limit = self._local_max_data
        return limit.used - (limit.value + self._ungranted - QUIC_CONNECTION_WINDOW_BYTES)

    def grant_stream(self, stream_id: int, count: int) -> None:
        """The peer may send ``count`` more bytes on a stream."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.max_stream_data_local += count
            self._ledger.ready[stream_id] = None

    def _has_limits_to_tell(self) -> bool:
        data, streams = self._local_max_data, self._local_max_streams_bidi
        return data.value != data.sent or (
            streams.value != streams.sent
            and streams.value - streams.sent > streams.sent - streams.used
        )  # streams one by one are not worth telling, while the peer has many left

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        if self._has_limits_to_tell():
            for limit in (self._local_max_data, self._local_max_streams_bidi):
                if limit.value != limit.sent:
                    self._write_limit(builder, limit)

    def _write_limit(self, builder: QuicPacketBuilder, limit: Limit) -> None:
        buf = builder.start_frame(
            limit.frame_type,
            capacity=CONNECTION_LIMIT_FRAME_CAPACITY,
            handler=self._on_connection_limit_delivery,
            handler_args=(limit,),
        )
        buf.push_uint_var(limit.value)
        limit.sent = limit.value

    def _write_stream_limits(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream
    ) -> None:
        if stream.max_stream_data_local_sent == stream.max_stream_data_local:
            return
        buf = builder.start_frame(
            QuicFrameType.MAX_STREAM_DATA,
            capacity=MAX_STREAM_DATA_FRAME_CAPACITY,
            handler=self._on_max_stream_data_delivery,
            handler_args=(stream,),
        )
        assert stream.stream_id is not None
        buf.push_uint_var(stream.stream_id)
        buf.push_uint_var(stream.max_stream_data_local)
        stream.max_stream_data_local_sent = stream.max_stream_data_local

    def _on_max_stream_data_delivery(self, delivery: QuicDeliveryState, stream: QuicStream) -> None:
        super()._on_max_stream_data_delivery(delivery, stream)
        if delivery is not QuicDeliveryState.ACKED and stream.stream_id is not None:
            self._ledger.ready[stream.stream_id] = None

    # --- our room ---------------------------------------------------------------------------------

    def _handle_max_data_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        super()._handle_max_data_frame(context, frame_type, buf)
        self._ledger.ready.update(self._starved)
        self._starved.clear()

    def _handle_max_stream_data_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        start = buf.tell()
        stream_id = buf.pull_uint_var()
        buf.seek(start)
        super()._handle_max_stream_data_frame(context, frame_type, buf)
        self._ledger.ready[stream_id] = None

    def _unblock_streams(self, is_unidirectional: bool) -> None:
        waited = list(self._streams_blocked_bidi)
        super()._unblock_streams(is_unidirectional)
        for stream in waited:
            if not stream.is_blocked and stream.stream_id is not None:
                self._ledger.ready[stream.stream_id] = None
