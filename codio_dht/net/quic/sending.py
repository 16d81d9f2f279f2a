"""How a QUIC connection sends once it has keys. It replaces aioquic's ``_write_application``.

Decides which frames go into the next packets, and which streams are served first. aioquic visits
all streams for every packet it builds, and builds every packet as if it were a handshake's. Here
only streams in the :class:`~codio_dht.net.quic.buffers.Ledger` are visited, one after the
other as each has filled a packet; and an established connection on a proven path has a builder of
its own. The handshake and paths that are not proven are aioquic's to send, as before.
"""

# ruff: noqa: SLF001 - with its three siblings, what touches aioquic's private parts

from __future__ import annotations

from typing import Any, Final

from aioquic import tls
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    ACK_FRAME_CAPACITY,
    QuicConnectionId,
    QuicConnectionState,
    QuicNetworkPath,
)
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicFrameType, QuicPacketType, push_ack_frame
from aioquic.quic.packet_builder import (
    QuicDeliveryState,
    QuicPacketBuilder,
    QuicPacketBuilderStop,
)
from aioquic.quic.recovery import QuicPacketSpace

from codio_dht.net.quic.buffers import BufferedStream
from codio_dht.net.quic.packets import PacketBuilder
from codio_dht.net.quic.recovery import Recovery
from codio_dht.net.quic.windows import Windows

_ONE_RTT: Final = tls.Epoch.ONE_RTT
_SHORT: Final = QuicPacketType.ONE_RTT
_ACK: Final = int(QuicFrameType.ACK)
_STREAM: Final = int(QuicFrameType.STREAM_BASE)
_MIN_STREAM_ROOM_BYTES: Final = 64
"""In less of a packet no stream is looked at."""
_MIN_PIECE_BYTES: Final = 256
"""Data is not cut to fill less than this of a packet: a frame more costs both sides more."""
_WITH_LENGTH: Final = 2
_WITH_OFFSET: Final = 4
_FIN: Final = 1
_STREAM_HEADER_BYTES: Final = 1 + 8 + 8 + 2
"""A stream frame's type, id, offset and length at their longest."""
_TWO_BYTES: Final = 0x4000
"""Marks a length that is written in two bytes."""
_MICROSECONDS: Final = 1_000_000
_PING_PERIOD: Final = 8
"""Of so many packets with gaps to tell of, one asks to be acknowledged itself."""
_PACKETS_PER_KEY: Final = 1 << 22
"""Keys are changed after so many, half of what AES-GCM allows (RFC 9001, section 6.6)."""
_PATH_TIMEOUT_FACTOR: Final = 3
"""A path is given up after so many probe timeouts (RFC 9000, section 8.2.4)."""


class Sending(Windows):
    """The sending half of a QUIC connection that has keys."""

    _loss: Recovery

    def __init__(self, configuration: QuicConfiguration, **options: Any) -> None:
        """See ``QuicConnection``."""
        super().__init__(configuration=configuration, **options)
        self._loss = Recovery(
            congestion_control_algorithm=configuration.congestion_control_algorithm,
            initial_rtt=configuration.initial_rtt,
            max_datagram_size=self._max_datagram_size,
            peer_completed_address_validation=not self._is_client,
            send_probe=self._send_probe,
        )
        self._ids_untold = True
        self._unacknowledged = 0
        self._keys_end_at = _PACKETS_PER_KEY
        self._idle_since: float | None = None
        self._app_space = QuicPacketSpace(is_application_data=True)  # until there are keys
        self._app_keys = CryptoPair()

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self._app_space = self._spaces[_ONE_RTT]
        self._app_keys = self._cryptos[_ONE_RTT]

    # --- datagrams --------------------------------------------------------------------------------

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        """See ``QuicConnection``."""
        if self._ledger.ended:
            self._take_off_ended()
        if not self._is_settled():
            return super().datagrams_to_send(now)
        self._pacing_at = None
        if not self._has_more(now):
            return []
        loss, size = self._loss, self._max_datagram_size
        flight = loss._cc.congestion_window - loss._cc.bytes_in_flight
        if self._probe_pending and flight < size:
            flight = size
        builder = PacketBuilder(
            keys=self._app_keys,
            peer_id=self._peer_cid.cid,
            number=self._packet_number,
            room=size,
            flight=flight,
            spin=self._spin_bit,
        )
        path = self._network_paths[0]
        try:
            self._write_application(builder, path, now)
        except QuicPacketBuilderStop:
            pass
        return self._register(builder, path, now)

    def _register(
        self, builder: PacketBuilder, path: QuicNetworkPath, now: float
    ) -> list[tuple[bytes, Any]]:
        """Remember packets until they are acknowledged; their datagrams."""
        datagrams, packets = builder.flush()
        if not datagrams:
            return []
        self._packet_number = builder.packet_number
        if self._packet_number >= self._keys_end_at:
            self._keys_end_at = self._packet_number + _PACKETS_PER_KEY
            self.request_key_update()
        for packet in packets:
            packet.sent_time = now
            self._loss.on_packet_sent(packet=packet, space=self._app_space)
            if packet.is_ack_eliciting and not self._ack_eliciting_sent_since_receipt:
                self._ack_eliciting_sent_since_receipt = True
                self._idle_since = now
        return [(datagram, path.addr) for datagram in datagrams]

    def request_key_update(self) -> None:
        """See ``QuicConnection``. A ping goes along until it is acknowledged: what else leaves may
        be lost for good, and the peer has to hear of the new keys."""
        super().request_key_update()
        self.send_ping(0)

    # --- timers -----------------------------------------------------------------------------------

    def get_timer(self) -> float | None:
        """See ``QuicConnection``, which fails before anything was sent or received."""
        self._settle_idle()
        return None if self._close_at is None else super().get_timer()

    def handle_timer(self, now: float) -> None:
        """See ``QuicConnection``."""
        self._settle_idle()
        super().handle_timer(now)

    def _settle_idle(self) -> None:
        """Update the idle time-out, once for all packets of a turn."""
        if self._idle_since is not None and self._state is QuicConnectionState.CONNECTED:
            self._close_at = self._idle_since + self._idle_timeout()
        self._idle_since = None

    @property
    def is_urgent(self) -> bool:
        """Whether the next timer may be due sooner than an acknowledgement or a probe would."""
        return self._pacing_at is not None or self._app_space.loss_time is not None

    def _is_settled(self) -> bool:
        """Whether there is nothing to send but packets of an established connection on one path."""
        paths = self._network_paths
        return (
            self._handshake_confirmed
            and not self._close_pending
            and self._state is QuicConnectionState.CONNECTED
            and self._remote_preferred_address is None
            and paths[0].is_validated
            and not paths[0].remote_challenges
            and (len(paths) == 1 or not any(map(_wants_probe, paths[1:])))
        )

    def _has_more(self, now: float) -> bool:
        """Whether there may be something to send."""
        ack_at = self._app_space.ack_at
        return bool(
            self._ledger.ready
            or (ack_at is not None and ack_at <= now)
            or self._has_control()
            or self._has_limits_to_tell()
        )

    def _has_control(self) -> bool:
        return bool(
            self._ping_pending
            or self._probe_pending
            or self._ids_untold
            or self._retire_connection_ids
            or self._handshake_done_pending
            or self._streams_blocked_pending
            or not self._crypto_streams[_ONE_RTT].sender.buffer_is_empty
        )

    # --- packets ----------------------------------------------------------------------------------

    def _write_application(
        self, builder: QuicPacketBuilder, network_path: QuicNetworkPath, now: float
    ) -> None:
        keys, space, pacer = self._app_keys, self._app_space, self._loss._pacer
        if not keys.send.is_valid():
            return
        first = True
        while True:
            ack_due = space.ack_at is not None and space.ack_at <= now
            if not ack_due:
                self._pacing_at = pacer.next_send_time(now=now)
                if self._pacing_at is not None:
                    return
            builder.start_packet(_SHORT, keys)
            try:
                if ack_due:
                    self._write_ack_frame(builder, space, now)
                if first or not self._ledger.ready:
                    self._fill(builder, network_path, now)
                else:
                    self._write_streams(builder)
            except QuicPacketBuilderStop:
                pass  # the packet is full, or congestion control allows no more
            if builder.packet_is_empty:
                return
            first = False
            pacer.update_after_send(now=now)
            if not self._has_more(now):
                return

    def _fill(self, builder: QuicPacketBuilder, path: QuicNetworkPath, now: float) -> None:
        """Frames for one packet.

        Raises:
            QuicPacketBuilderStop: there is more than fits.
        """
        if self._handshake_complete:
            if path.remote_challenges or not path.is_validated:
                self._write_path_frames(builder, path, now)
            self._write_connection_limits(builder, self._app_space)
        if self._has_control():
            self._write_control(builder)
        if self._ledger.ready:
            self._write_streams(builder)

    def _write_ack_frame(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, now: float
    ) -> None:
        if space is self._app_space:
            self._unacknowledged = 0
        assert space.largest_received_time is not None
        delay = max(0, int((now - space.largest_received_time) * _MICROSECONDS))
        buf = builder.start_frame(
            _ACK,
            capacity=ACK_FRAME_CAPACITY,
            handler=self._on_ack_delivery,
            handler_args=(space, space.largest_received_packet),
        )
        ranges = push_ack_frame(
            buf,
            space.ack_queue,
            delay >> self._local_ack_delay_exponent,
            builder.remaining_buffer_space,
        )
        space.ack_at = None
        if ranges > 1 and builder.packet_number % _PING_PERIOD == 0:
            self._write_ping_frame(builder, comment="so that old ranges can be forgotten")

    def _write_path_frames(
        self, builder: QuicPacketBuilder, path: QuicNetworkPath, now: float
    ) -> None:
        if _wants_challenge(path):
            self._write_path_challenge_frame(builder, path)
            if path.validation_deadline is None:
                path.validation_deadline = now + _PATH_TIMEOUT_FACTOR * max(
                    self._loss.get_probe_timeout(), 2 * self._configuration.initial_rtt
                )
        while path.remote_challenges:
            self._write_path_response_frame(builder, path.remote_challenges[0])
            path.remote_challenges.popleft()

    def _write_control(self, builder: QuicPacketBuilder) -> None:
        """Write the control frames, which are rare."""
        if self._handshake_complete:
            if self._handshake_done_pending:
                self._write_handshake_done_frame(builder)
                self._handshake_done_pending = False
            for connection_id in self._host_cids:
                if not connection_id.was_sent:
                    self._write_new_connection_id_frame(builder, connection_id)
            self._ids_untold = False
            while self._retire_connection_ids:
                self._write_retire_connection_id_frame(builder, self._retire_connection_ids[0])
                self._retire_connection_ids.pop(0)
            if self._streams_blocked_pending:
                self._write_streams_blocked_frame(
                    builder, QuicFrameType.STREAMS_BLOCKED_BIDI, self._remote_max_streams_bidi
                )
                self._streams_blocked_pending = False
        if self._ping_pending:
            self._write_ping_frame(builder, self._ping_pending)
            self._ping_pending.clear()
        if self._probe_pending:
            self._write_ping_frame(builder, comment="probe")
            self._probe_pending = False
        crypto = self._crypto_streams[_ONE_RTT]
        if not crypto.sender.buffer_is_empty:
            self._write_crypto_frame(builder, self._app_space, crypto)

    # --- streams ----------------------------------------------------------------------------------

    def _write_streams(self, builder: QuicPacketBuilder) -> None:
        """Fill the packet, from each stream in turn."""
        ready = self._ledger.ready
        while ready and builder.remaining_flight_space >= _MIN_STREAM_ROOM_BYTES:
            stream_id = next(iter(ready))
            stream = self._streams.get(stream_id)
            more = isinstance(stream, BufferedStream) and self._write_stream(builder, stream)
            del ready[stream_id]
            if more:
                ready[stream_id] = None  # behind all others

    def _write_stream(self, builder: QuicPacketBuilder, stream: BufferedStream) -> bool:
        """Write the frames of one stream, as far as they fit. Return whether more may be sent.

        Raises:
            QuicPacketBuilderStop: something does not fit.
        """
        sender = stream.sender
        if stream.receiver.stop_pending:
            self._write_stop_sending_frame(builder, stream)
        if stream.max_stream_data_local != stream.max_stream_data_local_sent:
            self._write_stream_limits(builder, self._app_space, stream)
        if sender.reset_pending:
            self._write_reset_stream_frame(builder, stream)
            return False
        if sender.buffer_is_empty or stream.is_blocked:
            return False
        room = builder.remaining_flight_space - _STREAM_HEADER_BYTES
        if room < 0 or room < min(_MIN_PIECE_BYTES, sender.next_bytes):
            raise QuicPacketBuilderStop
        before = sender.highest_offset
        credit = self._remote_max_data - self._remote_max_data_used
        frame = sender.take(room, min(before + credit, stream.max_stream_data_remote))
        if frame is None:
            if sender.has_more and before < stream.max_stream_data_remote:
                self._starved[stream.stream_id] = None
            return False
        offset, data, fin = frame
        size = len(data)
        self._remote_max_data_used += sender.highest_offset - before
        buf = builder.start_frame(
            _STREAM | _WITH_LENGTH | (_WITH_OFFSET if offset else 0) | fin,
            handler=sender.on_data_delivery,
            handler_args=(offset, offset + size, fin),
        )
        buf.push_uint_var(stream.stream_id)
        if offset:
            buf.push_uint_var(offset)
        buf.push_uint16(size | _TWO_BYTES)
        buf.push_bytes(data)
        return sender.has_more

    # --- what is told again -----------------------------------------------------------------------

    def _replenish_connection_ids(self) -> None:
        super()._replenish_connection_ids()
        self._ids_untold = True

    def _on_new_connection_id_delivery(
        self, delivery: QuicDeliveryState, connection_id: QuicConnectionId
    ) -> None:
        super()._on_new_connection_id_delivery(delivery, connection_id)
        self._ids_untold = self._ids_untold or not connection_id.was_sent


def _wants_challenge(path: QuicNetworkPath) -> bool:
    return not (path.is_validated or path.local_challenge_sent)


def _wants_probe(path: QuicNetworkPath) -> bool:
    return bool(path.remote_challenges) or _wants_challenge(path)
