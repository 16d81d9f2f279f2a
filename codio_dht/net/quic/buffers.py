"""The send and receive buffers of one QUIC stream. They replace aioquic's.

Decides what of a stream is sent next, what is kept until the peer has it, and when a side is over.
aioquic goes through every stream for every packet, and through sets of ranges for every frame; here
a stream reports itself to its connection's :class:`Ledger` when it has something to write or a side
of it has ended, and ranges are looked at only where something was lost or came out of order::

    write -> ready -> take -> in flight --acknowledged--> forgotten
                        ^---- lost --------+

The classes are aioquic's by name and contract, as its handlers of rare frames use them, too. Never
raises on what a peer sends, but ``FinalSizeError``, which aioquic makes the connection's end.

Bounds: :mod:`~codio_dht.net.quic.streams` enforces what may wait, by ``Ledger.kept``; the windows
and ``MAX_QUIC_GAPS`` bound what arrives out of order.
"""

from __future__ import annotations

from aioquic.quic.events import StreamDataReceived, StreamReset
from aioquic.quic.packet import QuicErrorCode, QuicStreamFrame
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.stream import QuicStream, QuicStreamReceiver, QuicStreamSender


class Ledger:
    """What the streams of one connection have to report. The streams write it themselves."""

    __slots__ = ("ended", "kept", "ready")

    def __init__(self) -> None:
        self.ready: dict[int, None] = {}
        """Ids of streams with something to write, in the order of service."""
        self.ended: list[int] = []
        """Ids of streams of which a side ended; the connection takes them off."""
        self.kept = 0
        """Bytes of all streams that the peer does not have for certain."""


class SendBuffer(QuicStreamSender):
    """The data that this side sends, kept until the peer has it."""

    def __init__(self, stream_id: int, ledger: Ledger) -> None:
        self._ledger = ledger
        self._id = self._stream_id = stream_id
        self.buffer_is_empty = True
        self.highest_offset = 0
        self.is_finished = False
        self.reset_pending = False
        self._acked_ahead: RangeSet | None = None  # behind a gap
        self._acked_fin = False
        self._buffer = bytearray()
        self._buffer_fin: int | None = None
        self._buffer_start = 0
        self._buffer_stop = 0
        self._lost: RangeSet | None = None
        self._pending_eof = False
        self._reset_error_code: int | None = None

    @property
    def next_offset(self) -> int:
        """Where the next frame begins."""
        return self._lost[0].start if self._lost is not None else self.highest_offset

    @property
    def has_more(self) -> bool:
        """Whether there is something to send, if the windows allow it."""
        return not self.buffer_is_empty

    @property
    def next_bytes(self) -> int:
        """Size of what ``take`` would give, if room and windows allowed it."""
        if self._lost is not None:
            return len(self._lost[0])
        return self._buffer_stop - self.highest_offset

    def write(self, data: bytes, end_stream: bool = False) -> None:
        """See ``QuicStreamSender``."""
        if self._buffer_fin is not None or self._reset_error_code is not None:
            raise RuntimeError("the stream takes no more data")
        if data:
            self._buffer += data
            size = len(data)
            self._buffer_stop += size
            self._ledger.kept += size
        elif not end_stream:
            return
        if end_stream:
            self._buffer_fin = self._buffer_stop
            self._pending_eof = True
        self.buffer_is_empty = False
        self._ledger.ready[self._id] = None

    def take(self, room: int, limit: int) -> tuple[int, bytes, bool] | None:
        """The next frame's offset, data (at most ``room`` bytes, none at ``limit`` or past it) and
        whether it ends the stream; None if there is none to be had."""
        lost = self._lost
        if lost is not None:
            start, stop = lost[0].start, lost[0].stop
        else:
            start, stop = self.highest_offset, self._buffer_stop
        if start == stop:
            if not self._pending_eof:
                self.buffer_is_empty = True
                return None
            data = b""
        else:
            stop = min(stop, start + room, limit)
            if stop <= start:
                return None
            base = self._buffer_start
            data = bytes(self._buffer[start - base : stop - base])
            if lost is not None:
                lost.subtract(start, stop)
                if not len(lost):
                    self._lost = None
            self.highest_offset = max(self.highest_offset, stop)
        fin = stop == self._buffer_fin
        if fin:
            self._pending_eof = False
        if self._lost is None and self.highest_offset == self._buffer_stop:
            self.buffer_is_empty = not self._pending_eof
        return start, data, fin

    def on_data_delivery(
        self, delivery: QuicDeliveryState, start: int, stop: int, fin: bool
    ) -> None:
        """See ``QuicStreamSender``."""
        if self._reset_error_code is not None:
            return
        if delivery is not QuicDeliveryState.ACKED:
            self._on_lost(start, stop, fin)
            return
        if start == self._buffer_start and self._acked_ahead is None:
            self._forget(stop)
        elif stop > start:
            self._on_acked_behind_a_gap(start, stop)
        if fin:
            self._acked_fin = True
        if self._acked_fin and self._buffer_start == self._buffer_fin:
            self._finish()

    def _on_lost(self, start: int, stop: int, fin: bool) -> None:
        if stop > start:
            if self._lost is None:
                self._lost = RangeSet()
            self._lost.add(start, stop)
        if fin:
            self._pending_eof = True
        self.buffer_is_empty = False
        self._ledger.ready[self._id] = None

    def _on_acked_behind_a_gap(self, start: int, stop: int) -> None:
        ahead = self._acked_ahead
        if ahead is None:
            ahead = self._acked_ahead = RangeSet()
        ahead.add(start, stop)
        if ahead[0].start == self._buffer_start:
            self._forget(ahead.shift().stop)
            if not len(ahead):
                self._acked_ahead = None

    def _forget(self, stop: int) -> None:
        """The peer has everything before ``stop``."""
        size = stop - self._buffer_start
        del self._buffer[:size]
        self._buffer_start = stop
        self._ledger.kept -= size

    def reset(self, error_code: int) -> None:
        """See ``QuicStreamSender``."""
        if self._reset_error_code is None and not self.is_finished:
            self._reset_error_code = error_code
            self.reset_pending = True
            self.buffer_is_empty = True
            self._lost = None
            self._ledger.kept -= len(self._buffer)
            self._buffer.clear()
            self._ledger.ready[self._id] = None

    def on_reset_delivery(self, delivery: QuicDeliveryState) -> None:
        """See ``QuicStreamSender``."""
        if delivery is QuicDeliveryState.ACKED:
            self._finish()
        else:
            self.reset_pending = True
            self._ledger.ready[self._id] = None

    def _finish(self) -> None:
        self.is_finished = True
        self._ledger.ended.append(self._id)


class ReceiveBuffer(QuicStreamReceiver):
    """The data that the peer sends, put in order."""

    def __init__(self, stream_id: int, ledger: Ledger) -> None:
        super().__init__(stream_id, readable=True)
        self._ledger = ledger
        self._id = stream_id

    def take_next(self, offset: int, data: bytes, fin: bool) -> bool:
        """Take data that begins where the last ended; False if it is not as simple as that, and
        ``handle_frame`` has to see to it."""
        if offset != self.highest_offset or self._buffer or self._final_size is not None:
            return False
        self.highest_offset = self._buffer_start = offset + len(data)
        if fin:
            self._final_size = self._buffer_start
            self._finish()
        return True

    def handle_frame(self, frame: QuicStreamFrame) -> StreamDataReceived | None:
        """See ``QuicStreamReceiver``."""
        before = self.is_finished
        event = super().handle_frame(frame)
        if self.is_finished and not before:
            self._finish()
        return event

    def handle_reset(
        self, *, final_size: int, error_code: int = QuicErrorCode.NO_ERROR
    ) -> StreamReset | None:
        """See ``QuicStreamReceiver``."""
        before = self.is_finished
        event = super().handle_reset(final_size=final_size, error_code=error_code)
        if self.is_finished and not before:
            self._finish()
        return event

    def stop(self, error_code: int = QuicErrorCode.NO_ERROR) -> None:
        """See ``QuicStreamReceiver``."""
        super().stop(error_code)
        self._ledger.ready[self._id] = None

    def on_stop_sending_delivery(self, delivery: QuicDeliveryState) -> None:
        """See ``QuicStreamReceiver``."""
        if delivery is not QuicDeliveryState.ACKED:
            self.stop_pending = True
            self._ledger.ready[self._id] = None

    def _finish(self) -> None:
        self.is_finished = True
        self._ledger.ended.append(self._id)


class BufferedStream(QuicStream):
    """Both sides of one stream. ``is_blocked``: it is ours, and past what the peer allows."""

    stream_id: int
    sender: SendBuffer
    receiver: ReceiveBuffer

    def __init__(self, stream_id: int, ledger: Ledger, local: int, remote: int) -> None:
        """A stream; ``local`` and ``remote`` are the offsets that each side's window ends at."""
        self.stream_id = stream_id
        self.is_blocked = False
        self.max_stream_data_local = local
        self.max_stream_data_local_sent = local
        self.max_stream_data_remote = remote
        self.receiver = ReceiveBuffer(stream_id, ledger)
        self.sender = SendBuffer(stream_id, ledger)
