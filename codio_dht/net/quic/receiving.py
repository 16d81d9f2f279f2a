"""How a QUIC connection reads datagrams once it has keys.

Decides which datagrams are plain: a short-header packet to the id and from the address in use, of
the present key phase or the one before (a peer uses old keys until it has heard of new ones, and
packets overtake each other). Those are read here, and of their frames the frequent ones (stream
data in order, acknowledgements, padding). All else is aioquic's to read as ever: the handshake, a
peer that moves, changes its keys or its connection id, and every other frame.

What a peer breaks is raised as ``QuicConnectionError`` inside, and ends in a closed connection.
"""

from __future__ import annotations

from typing import Any, Final

from aioquic import tls
from aioquic._buffer import Buffer, BufferReadError  # where they are typed
from aioquic._crypto import AEAD
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    QuicConnectionError,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.events import StreamDataReceived
from aioquic.quic.packet import (
    NON_ACK_ELICITING_FRAME_TYPES,
    PROBING_FRAME_TYPES,
    QuicErrorCode,
    QuicFrameType,
)
from aioquic.quic.recovery import MAX_ACK_RANGES
from aioquic.quic.stream import StreamFinishedError

from codio_dht.net.quic.buffers import BufferedStream
from codio_dht.net.quic.packets import open_packet
from codio_dht.net.quic.sending import Sending

_LONG_HEADER: Final = 0x80
_RESERVED: Final = 0x18
_SPIN: Final = 0x20
_FIN: Final = 0x1
_WITH_LENGTH: Final = 0x2
_WITH_OFFSET: Final = 0x4
_STREAMS: Final = range(0x08, 0x10)
_ACK: Final = int(QuicFrameType.ACK)
_ACK_ECN: Final = int(QuicFrameType.ACK_ECN)
_UNANSWERED: Final = frozenset(map(int, NON_ACK_ELICITING_FRAME_TYPES))
_PROBING: Final = frozenset(map(int, PROBING_FRAME_TYPES))
_ONE_RTT: Final = tls.Epoch.ONE_RTT
_MICROSECOND: Final = 1e-6


class Receiving(Sending):
    """The receiving half of a QUIC connection that has keys."""

    def __init__(self, configuration: QuicConfiguration, **options: Any) -> None:
        """See ``QuicConnection``."""
        super().__init__(configuration=configuration, **options)
        self._id_bytes = configuration.connection_id_length
        self._frame_handlers = vars(self)["_QuicConnection__frame_handlers"]
        self._aead: AEAD | None = None
        self._aead_before: AEAD | None = None
        self.heard_at = 0.0
        """When the last genuine packet came. What anybody may write is no sign of the peer."""

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        """See ``QuicConnection``."""
        if not self._is_plain(data, addr) or not self._receive_plain(data, now):
            self._unacknowledged += 1
            self._settle_idle()
            super().receive_datagram(data, addr, now)

    # --- packets ----------------------------------------------------------------------------------

    def _is_plain(self, data: bytes, addr: Any) -> bool:
        """Whether a datagram comes to the id and from the place that are in use."""
        if not data or data[0] & _LONG_HEADER or not self._handshake_complete:
            return False
        path = self._network_paths[0]
        return (
            path.addr == addr
            and path.is_validated
            and self._state is QuicConnectionState.CONNECTED
            and not self._close_pending
            and data[1 : 1 + self._id_bytes] == self.host_cid
        )

    def _receive_plain(self, data: bytes, now: float) -> bool:
        """Take a packet; False if aioquic has to look at it, and nothing was done."""
        space = self._app_space
        keys = self._app_keys.recv
        if keys.aead is not self._aead:
            self._aead_before, self._aead = self._aead, keys.aead
        opened = open_packet(
            data, self._id_bytes, keys, space.expected_packet_number, self._aead_before
        )
        if opened is None or opened.first & _RESERVED:
            return False
        number, largest = opened.number, space.largest_received_packet
        if number <= largest and number in space.received_packets:
            return True
        if number > self._spin_highest_pn:
            self._spin_highest_pn = number
            self._spin_bit = bool(opened.first & _SPIN) != self._is_client
        context = QuicReceiveContext(
            epoch=_ONE_RTT,
            host_cid=self.host_cid,
            network_path=self._network_paths[0],
            quic_logger_frames=None,
            time=now,
            version=None,
        )
        eliciting = False
        try:
            eliciting, _ = self._payload_received(context, opened.payload)
        except QuicConnectionError as error:
            self.close(error.error_code, error.frame_type, error.reason_phrase)
        if self._close_pending or self._state is not QuicConnectionState.CONNECTED:
            return True
        self._idle_since = now
        self._ack_eliciting_sent_since_receipt = False
        self._note_received(number, eliciting, now)
        return True

    def _note_received(self, number: int, eliciting: bool, now: float) -> None:
        """Remember to acknowledge a packet. One out of order is news that the peer waits for
        (RFC 9000, section 13.2.1)."""
        space = self._app_space
        in_order = number == space.largest_received_packet + 1
        if number > space.largest_received_packet:
            space.largest_received_packet = number
            space.largest_received_time = now
            space.expected_packet_number = number + 1
        space.ack_queue.add(number)
        space.received_packets.add(number)
        if len(space.ack_queue) > MAX_ACK_RANGES:
            space.ack_queue.shift()
        if eliciting:
            self._unacknowledged += 1
            if not in_order:
                space.ack_at = now
            elif space.ack_at is None:
                space.ack_at = now + self._ack_delay

    # --- frames -----------------------------------------------------------------------------------

    def _payload_received(
        self, context: QuicReceiveContext, plain: bytes, crypto_frame_required: bool = False
    ) -> tuple[bool, bool]:
        self.heard_at = context.time
        if context.epoch is not _ONE_RTT:
            return super()._payload_received(context, plain, crypto_frame_required)
        if not plain:
            raise _refusal(QuicErrorCode.PROTOCOL_VIOLATION, 0, "no frames")
        buf = Buffer(data=plain)
        pull, tell, end = buf.pull_uint_var, buf.tell, len(plain)
        eliciting, probing = False, True
        frame_type = 0
        try:
            while tell() < end:
                frame_type = pull()
                if frame_type in _STREAMS:
                    eliciting, probing = True, False
                    self._take_stream_frame(context, frame_type, buf, end)
                    continue
                if frame_type == _ACK:
                    self._handle_ack_frame(context, frame_type, buf)
                    probing = False
                    continue
                self._take_frame(context, frame_type, buf)
                eliciting = eliciting or frame_type not in _UNANSWERED
                probing = probing and frame_type in _PROBING
        except BufferReadError as error:
            raise _refusal(QuicErrorCode.FRAME_ENCODING_ERROR, frame_type, "malformed") from error
        return eliciting, probing

    def _take_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        handler, epochs = self._frame_handlers.get(frame_type, (None, ()))
        if handler is None:
            raise _refusal(QuicErrorCode.FRAME_ENCODING_ERROR, frame_type, "unknown frame")
        if context.epoch not in epochs:
            raise _refusal(QuicErrorCode.PROTOCOL_VIOLATION, frame_type, "unexpected frame")
        try:
            handler(context, frame_type, buf)
        except StreamFinishedError:
            pass  # of a stream that is over

    def _take_stream_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer, end: int
    ) -> None:
        begin = buf.tell()
        pull = buf.pull_uint_var
        stream_id = pull()
        offset = pull() if frame_type & _WITH_OFFSET else 0
        size = pull() if frame_type & _WITH_LENGTH else end - buf.tell()
        data = buf.pull_bytes(size)
        try:
            stream = self._streams.get(stream_id) or self._get_or_create_stream(
                frame_type, stream_id
            )
        except StreamFinishedError:
            return
        limit = self._local_max_data
        fin = bool(frame_type & _FIN)
        if (
            isinstance(stream, BufferedStream)
            and offset + size <= stream.max_stream_data_local
            and limit.used + size <= limit.value
            and stream.receiver.take_next(offset, data, fin)
        ):
            limit.used += size
            if size or fin:
                self._events.append(StreamDataReceived(data, fin, stream_id))
        else:
            buf.seek(begin)
            self._handle_stream_frame(context, frame_type, buf)

    def _handle_ack_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        pull = buf.pull_uint_var
        largest, delay, more, size = pull(), pull(), pull(), pull()
        first = largest - size
        ranges = [(first, largest)]
        for _ in range(more):  # ends with the packet at the latest
            last = first - pull() - 2
            first = last - pull()
            ranges.append((first, last))
        if frame_type == _ACK_ECN:
            pull(), pull(), pull()
        if first < 0:
            raise _refusal(QuicErrorCode.FRAME_ENCODING_ERROR, frame_type, "before packet 0")
        if largest >= self._packet_number:
            raise _refusal(QuicErrorCode.PROTOCOL_VIOLATION, frame_type, "was never sent")
        if context.epoch is not tls.Epoch.INITIAL:
            self._loss.peer_completed_address_validation = True
        self._loss.on_ranges_acked(
            ranges,
            (delay << self._remote_ack_delay_exponent) * _MICROSECOND,
            context.time,
            self._app_space if context.epoch is _ONE_RTT else self._spaces[context.epoch],
        )

    def _handle_padding_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        begin = buf.tell()
        rest = buf.data_slice(begin, buf.capacity)
        buf.seek(begin + len(rest) - len(rest.lstrip(b"\0")))


def _refusal(code: QuicErrorCode, frame_type: int, reason: str) -> QuicConnectionError:
    return QuicConnectionError(error_code=code, frame_type=frame_type, reason_phrase=reason)
