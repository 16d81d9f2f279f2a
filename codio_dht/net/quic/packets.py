"""Short-header packets (RFC 9000, section 17.3): opened, and built, with aioquic's keys.

``open_packet`` decides whether a packet is genuine, and changes nothing. :class:`PacketBuilder` is
aioquic's by contract, for the packets of an established connection: no padding to a size, no
coalescing, one packet a datagram. It decides what fits; what goes in is the connection's.

The fast way of what ``CryptoPair`` and ``QuicPacketBuilder`` do for every kind of packet.
"""

# ruff: noqa: SLF001 - the ciphers are fields of aioquic's key objects

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from aioquic import tls
from aioquic._buffer import Buffer  # where it is typed
from aioquic._crypto import AEAD, AEAD_NONCE_LENGTH, PACKET_NUMBER_LENGTH_MAX, SAMPLE_LENGTH
from aioquic.quic.crypto import CryptoContext, CryptoPair
from aioquic.quic.packet import (
    NON_ACK_ELICITING_FRAME_TYPES,
    NON_IN_FLIGHT_FRAME_TYPES,
    PACKET_FIXED_BIT,
    PACKET_NUMBER_MAX_SIZE,
    QuicPacketType,
)
from aioquic.quic.packet_builder import (
    PACKET_NUMBER_SEND_SIZE,
    QuicDeliveryHandler,
    QuicPacketBuilder,
    QuicPacketBuilderStop,
    QuicSentPacket,
)
from cryptography.exceptions import InvalidTag

from codio_dht.net.quic.protection import TAG_BYTES, Opened, whole_number

_KEY_PHASE: Final = 0x04
_PROTECTED: Final = 0x1F
_NUMBER_BITS: Final = 0x03
_NUMBER_MASK: Final = (1 << 8 * PACKET_NUMBER_SEND_SIZE) - 1
_MIN_PAYLOAD_BYTES: Final = PACKET_NUMBER_MAX_SIZE - PACKET_NUMBER_SEND_SIZE
"""Header protection samples past the longest packet number (RFC 9001, section 5.4.2)."""
_UNCOUNTED: Final = frozenset(map(int, NON_IN_FLIGHT_FRAME_TYPES))
_UNANSWERED: Final = frozenset(map(int, NON_ACK_ELICITING_FRAME_TYPES))
"""Plain numbers: an enum's member takes long to find in a set."""
_BYTE: Final = tuple(bytes([value]) for value in range(256))


def open_packet(
    data: bytes, id_bytes: int, keys: CryptoContext, expected: int, before: AEAD | None = None
) -> Opened | None:
    """The packet; None if it is not genuine, or of another key phase than the present one and the
    one ``before`` it."""
    start = 1 + id_bytes
    sample = data[
        start + PACKET_NUMBER_LENGTH_MAX : start + PACKET_NUMBER_LENGTH_MAX + SAMPLE_LENGTH
    ]
    if keys.aead is None or keys.hp is None or len(sample) < SAMPLE_LENGTH:
        return None
    mask = keys.hp._mask(sample)
    first = data[0] ^ (mask[0] & _PROTECTED)
    aead = keys.aead if bool(first & _KEY_PHASE) == bool(keys.key_phase) else before
    if aead is None:
        return None
    size = (first & _NUMBER_BITS) + 1
    end = start + size
    truncated = int.from_bytes(data[start:end], "big") ^ int.from_bytes(mask[1 : 1 + size], "big")
    header = _BYTE[first] + data[1:start] + truncated.to_bytes(size, "big")
    number = whole_number(truncated, 8 * size, expected)
    nonce = (aead._iv ^ number).to_bytes(AEAD_NONCE_LENGTH, "big")
    try:
        return Opened(first, number, aead._aead.decrypt(nonce, data[end:], header))
    except InvalidTag:
        return None


class PacketBuilder(QuicPacketBuilder):
    """Packets of one connection's turn, each a datagram, as large as ``room`` but the last."""

    def __init__(
        self, *, keys: CryptoPair, peer_id: bytes, number: int, room: int, flight: int, spin: bool
    ) -> None:
        """No packets yet.

        Args:
            keys: the connection's.
            peer_id: the connection id that the peer knows it by.
            number: the first packet's.
            room: size of a datagram, bytes.
            flight: what congestion control lets leave, bytes; acknowledgements do not count.
            spin: the latency bit.
        """
        self.quic_logger_frames = None
        if keys._update_key_requested:
            keys._update_key("local_update")
        self._keys = keys
        self._peer_id = peer_id
        self._packet_number = number
        self._room = room - 1 - len(peer_id) - PACKET_NUMBER_SEND_SIZE - TAG_BYTES  # for frames
        self._overhead = room - self._room
        self._flight = flight
        self._first = (
            PACKET_FIXED_BIT | spin << 5 | keys.key_phase << 2 | (PACKET_NUMBER_SEND_SIZE - 1)
        )
        self._buffer = Buffer(capacity=self._room)
        self._packet: QuicSentPacket | None = None
        self._may_fly = 0
        self._built: list[bytes] = []
        self._packets: list[QuicSentPacket] = []

    @property
    def packet_is_empty(self) -> bool:
        """See ``QuicPacketBuilder``."""
        return not self._buffer.tell()

    @property
    def remaining_buffer_space(self) -> int:
        """See ``QuicPacketBuilder``."""
        return self._room - self._buffer.tell()

    @property
    def remaining_flight_space(self) -> int:
        """See ``QuicPacketBuilder``."""
        return self._may_fly - self._buffer.tell()

    def start_packet(self, packet_type: QuicPacketType, crypto: CryptoPair) -> None:
        """See ``QuicPacketBuilder``."""
        if self._packet is not None:
            self._end_packet()
        self._buffer.seek(0)
        self._may_fly = min(self._room, self._flight - self._overhead)
        self._packet = QuicSentPacket(
            epoch=tls.Epoch.ONE_RTT,
            in_flight=False,
            is_ack_eliciting=False,
            is_crypto_packet=False,
            packet_number=self._packet_number,
            packet_type=packet_type,
        )

    def start_frame(
        self,
        frame_type: int,
        capacity: int = 1,
        handler: QuicDeliveryHandler | None = None,
        handler_args: Sequence[Any] = (),
    ) -> Buffer:
        """See ``QuicPacketBuilder``."""
        packet, buffer = self._packet, self._buffer
        assert packet is not None
        flies = frame_type not in _UNCOUNTED
        if (self._may_fly if flies else self._room) - buffer.tell() < capacity:
            raise QuicPacketBuilderStop
        buffer.push_uint_var(frame_type)
        if flies:
            packet.in_flight = True
            if frame_type not in _UNANSWERED:
                packet.is_ack_eliciting = True
        if handler is not None:
            packet.delivery_handlers.append((handler, handler_args))
        return buffer

    def flush(self) -> tuple[list[bytes], list[QuicSentPacket]]:
        """See ``QuicPacketBuilder``."""
        if self._packet is not None:
            self._end_packet()
        return self._built, self._packets

    def _end_packet(self) -> None:
        packet, buffer = self._packet, self._buffer
        assert packet is not None
        self._packet = None
        size = buffer.tell()
        if not size:
            return
        if size < _MIN_PAYLOAD_BYTES:
            buffer.push_bytes(bytes(_MIN_PAYLOAD_BYTES - size))
            size = _MIN_PAYLOAD_BYTES
            packet.in_flight = True
        datagram = self._protect(buffer.data_slice(0, size), packet.packet_number)
        packet.sent_bytes = len(datagram)
        if packet.in_flight:
            self._flight -= packet.sent_bytes
        self._built.append(datagram)
        self._packets.append(packet)
        self._packet_number += 1

    def _protect(self, payload: bytes, number: int) -> bytes:
        keys = self._keys.send
        assert keys.aead is not None
        assert keys.hp is not None
        truncated = number & _NUMBER_MASK
        header = (
            _BYTE[self._first] + self._peer_id + truncated.to_bytes(PACKET_NUMBER_SEND_SIZE, "big")
        )
        nonce = (keys.aead._iv ^ number).to_bytes(AEAD_NONCE_LENGTH, "big")
        sealed = keys.aead._aead.encrypt(nonce, payload, header)
        at = PACKET_NUMBER_LENGTH_MAX - PACKET_NUMBER_SEND_SIZE
        mask = keys.hp._mask(sealed[at : at + SAMPLE_LENGTH])
        truncated ^= int.from_bytes(mask[1 : 1 + PACKET_NUMBER_SEND_SIZE], "big")
        return (
            _BYTE[self._first ^ (mask[0] & _PROTECTED)]
            + self._peer_id
            + truncated.to_bytes(PACKET_NUMBER_SEND_SIZE, "big")
            + sealed
        )
