"""How a QUIC connection reads datagrams.

Decides which packets are genuine and new, and what each frame in them changes. A packet that cannot
be opened changes nothing; what a genuine one breaks is raised as ``QuicError``, and ends the
connection (RFC 9000, section 11).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from codio_dht.net.quic.headers import (
    LONG_HEADER,
    MIN_FIRST_DATAGRAM_BYTES,
    VERSION_1,
    LongHeader,
    LongKind,
    read_long_header,
    retry_tag,
)
from codio_dht.net.quic.limits import (
    CONNECTION_ID_BYTES,
    MAX_QUIC_LATE_CRYPTO_BYTES,
)
from codio_dht.net.quic.machine import frames
from codio_dht.net.quic.machine.errors import Code, QuicError
from codio_dht.net.quic.machine.frames import PacketLevel
from codio_dht.net.quic.machine.handshake import LateMessages
from codio_dht.net.quic.machine.parameters import decode_parameters
from codio_dht.net.quic.machine.paths import Path
from codio_dht.net.quic.machine.recovery import INITIAL_RTT_S
from codio_dht.net.quic.machine.state import (
    Closure,
    HandshakeComplete,
    IdIssued,
    IdRetired,
    PeerReset,
    Progress,
    State,
    StreamData,
    StreamStopped,
)
from codio_dht.net.quic.protection import (
    Keys,
    Opened,
    dialler_initial_keys,
    listener_initial_keys,
)
from codio_dht.net.quic.varints import read_varint
from codio_dht.net.stack.limits import MAX_TLS_HANDSHAKE_BYTES

_LEVELS: Final = {LongKind.INITIAL: PacketLevel.INITIAL, LongKind.HANDSHAKE: PacketLevel.HANDSHAKE}
_SHORT_RESERVED: Final = 0x18
_LONG_RESERVED: Final = 0x0C
_TAG_BYTES: Final = 16
_MICROSECOND: Final = 1e-6
_PATH_TIMEOUT_FACTOR: Final = 3
"""An address is given up after so many probe time-outs (RFC 9000, section 8.2.4)."""

_FrameReader = Callable[["Reader", bytes, int, int], int]
"""Reads a frame's fields: payload, where they begin, the frame's type; where they end."""


class Reader:
    """Reads the datagrams of one connection."""

    __slots__ = ("_id", "_now", "_path", "_s")

    def __init__(self, state: State) -> None:
        self._s = state
        self._id = b""  # the own id of the packet being read
        self._now = 0.0
        self._path = state.paths.current  # where it came from

    def receive(self, data: bytes, address: Any, now: float) -> None:
        """Take a datagram.

        Raises:
            QuicError: the peer broke the protocol.
        """
        s = self._s
        self._now = now
        path = s.paths.current
        if path.address != address:
            known = s.paths.find(address)
            if known is None:
                if s.dialled or s.stage is not Progress.CONFIRMED:
                    return  # only a listener's peer moves, and not in the handshake
                known = Path(address, is_proven=False)
            path = known
        path.received += len(data)
        self._path = path
        if data and not data[0] & LONG_HEADER:
            self._read_short(data)
            return
        at = 0
        while at < len(data) and s.stage is not Progress.ENDED:
            if not data[at] & LONG_HEADER:
                self._read_short(data[at:] if at else data)
                return
            header = read_long_header(data, at)
            if header is None:
                return
            self._read_long(data[at:] if at else data, header, at, len(data))
            at = header.end

    # --- packets ----------------------------------------------------------------------------------

    def _read_short(self, packet: bytes) -> None:
        s = self._s
        space = s.spaces[PacketLevel.ONE_RTT]
        if s.stage is Progress.HANDSHAKE:
            return
        phases = s.phases
        phase = phases.phase
        opened = phases.open(packet, 1 + CONNECTION_ID_BYTES, space.expected)
        if opened is None:
            return
        if phases.phase != phase:
            s.keys_acked_from = space.next_number
        if opened.first & _SHORT_RESERVED:
            raise QuicError(Code.PROTOCOL_VIOLATION, "reserved bits")
        number = opened.number
        if not space.is_new(number):
            return
        self._id = packet[1 : 1 + CONNECTION_ID_BYTES]
        newest = number >= space.expected
        eliciting, probing = self._read_frames(opened.payload, PacketLevel.ONE_RTT)
        self._note(space.level, number, eliciting)
        path = self._path
        if path is not s.paths.current and s.stage is Progress.CONFIRMED:
            self._on_other_path(path, moves=newest and not probing)

    def _note(self, level: PacketLevel, number: int, eliciting: bool) -> None:
        """A genuine packet was read."""
        s, now = self._s, self._now
        s.spaces[level].on_received(number, eliciting, now)
        s.heard_at = s.idle_since = now
        s.sent_since_heard = False

    def _on_other_path(self, path: Path, *, moves: bool) -> None:
        s = self._s
        if path not in s.paths.all:
            kept = s.paths.add(path.address)
            kept.received, kept.to_answer = path.received, path.to_answer
            path = kept
        if moves:
            pto = s.recovery.pto_s(PacketLevel.ONE_RTT)
            s.paths.move_to(path, self._now + _PATH_TIMEOUT_FACTOR * max(pto, 2 * INITIAL_RTT_S))
            s.recovery.restart()
            s.ids.use_another()

    def _read_long(self, packet: bytes, header: LongHeader, at: int, size: int) -> None:
        s = self._s
        if header.version != VERSION_1:
            if not header.version:
                self._on_versions(packet, header)
            return
        if header.kind is LongKind.RETRY:
            self._on_retry(packet, header)
            return
        level = _LEVELS.get(header.kind)
        if level is None:  # early data, which nobody is offered
            return
        if level is PacketLevel.INITIAL and not s.dialled and size < MIN_FIRST_DATAGRAM_BYTES:
            return
        keys = s.receive_keys[level]
        if keys is None:
            return
        packet = packet[: header.end - at]
        space = s.spaces[level]
        opened = keys.open(packet, header.number_at - at, space.expected)
        if opened is None or not space.is_new(opened.number):
            return
        self._read_opened_long(opened, header, level)

    def _read_opened_long(self, opened: Opened, header: LongHeader, level: PacketLevel) -> None:
        s = self._s
        if opened.first & _LONG_RESERVED:
            raise QuicError(Code.PROTOCOL_VIOLATION, "reserved bits")
        if not s.ids.peer.id or (s.dialled and not s.has_begun_reading):
            s.ids.peer.id = header.source
            s.has_begun_reading = True
        elif header.source != s.ids.peer.id:
            return  # RFC 9000, section 7.2
        s.has_begun = True
        self._id = header.destination
        if level is PacketLevel.HANDSHAKE and not s.dialled:
            self._path.is_proven = True  # RFC 9000, section 8.1
            s.discard(PacketLevel.INITIAL)
        eliciting, _ = self._read_frames(opened.payload, level)
        self._note(level, opened.number, eliciting)

    def _on_versions(self, packet: bytes, header: LongHeader) -> None:
        """RFC 9000, section 6.2: none of the peer's versions is ours."""
        s = self._s
        if not s.dialled or s.has_begun_reading or header.source != s.first_id:
            return
        if header.destination != s.ids.own[0].id:
            return
        offered = packet[header.number_at :]
        versions = {offered[at : at + 4] for at in range(0, len(offered) - 3, 4)}
        if versions and VERSION_1.to_bytes(4, "big") not in versions:
            s.end(Closure(Code.CONNECTION_REFUSED, by_peer=True), tell=False)

    def _on_retry(self, packet: bytes, header: LongHeader) -> None:
        """RFC 9000, section 17.2.5: come again, with the token, to the id that the Retry gives."""
        s = self._s
        body, tag = packet[:-_TAG_BYTES], packet[-_TAG_BYTES:]
        token = packet[header.number_at : -_TAG_BYTES]
        if (
            not s.dialled
            or s.has_begun_reading
            or s.retry_id is not None
            or header.destination != s.ids.own[0].id
            or header.source == s.first_id
            or not token
            or len(body) < header.number_at
            or retry_tag(s.first_id, body) != tag
        ):
            return
        s.token = token
        s.retry_id = s.ids.peer.id = header.source
        s.send_keys[PacketLevel.INITIAL] = dialler_initial_keys(header.source)
        s.receive_keys[PacketLevel.INITIAL] = listener_initial_keys(header.source)
        space = s.spaces[PacketLevel.INITIAL]
        s.recovery.discard(space)
        s.crypto_out[PacketLevel.INITIAL].send_again()

    # --- frames -----------------------------------------------------------------------------------

    def _read_frames(self, payload: bytes, level: PacketLevel) -> tuple[bool, bool]:
        """Whether they ask for an acknowledgement, and whether they only probe the path.

        Raises:
            QuicError: there is one that may not be.
        """
        if not payload:
            raise QuicError(Code.PROTOCOL_VIOLATION, "no frames")
        allowed_all = level is PacketLevel.ONE_RTT
        eliciting, probing = False, True
        at, end = 0, len(payload)
        kind = 0
        try:
            while at < end:
                kind = payload[at]
                at += 1
                if frames.STREAM <= kind <= frames.STREAM_LAST and allowed_all:
                    eliciting, probing = True, False
                    at = self._on_stream(payload, at, kind)
                    continue
                if kind == frames.PADDING:
                    at = end - len(payload[at:].lstrip(b"\0"))
                    continue
                if not allowed_all and kind not in frames.HANDSHAKE_FRAMES:
                    raise QuicError(Code.PROTOCOL_VIOLATION, "not at this level", kind)
                if kind not in frames.NOT_ELICITING:
                    eliciting = True
                if kind not in frames.PROBING:
                    probing = False
                if kind in _BY_LEVEL:
                    at = self._on_leveled(payload, at, kind, level)
                elif (reader := _READERS.get(kind)) is not None:
                    at = reader(self, payload, at, kind)
                else:
                    raise QuicError(Code.FRAME_ENCODING_ERROR, "an unknown frame", kind)
                if self._s.stage is Progress.ENDED:
                    break
        except IndexError as error:
            raise QuicError(Code.FRAME_ENCODING_ERROR, "cut off", kind) from error
        return eliciting, probing

    def _on_leveled(self, payload: bytes, at: int, kind: int, level: PacketLevel) -> int:
        """A frame whose meaning depends on the level of its packet."""
        if kind == frames.CRYPTO:
            offset, data, at = frames.read_crypto(payload, at)
            self._on_crypto(level, offset, data)
            return at
        ack, at = frames.read_ack(payload, at, kind)
        s = self._s
        space = s.spaces[level]
        largest = ack.ranges[0][1]
        if largest >= space.next_number:
            raise QuicError(Code.PROTOCOL_VIOLATION, "a packet that was never sent", kind)
        if level is not PacketLevel.INITIAL:
            s.recovery.peer_is_validated = True
        exponent = 3 if s.peer is None else s.peer.ack_delay_exponent
        s.recovery.on_acked(space, ack.ranges, (ack.delay << exponent) * _MICROSECOND, self._now)
        return at

    def _on_stream(self, payload: bytes, at: int, kind: int) -> int:
        stream_id, offset, data, at = frames.read_stream(payload, at, kind)
        s = self._s
        flow = s.flow
        stream = flow.streams.get(stream_id) or flow.find(stream_id, kind)
        if stream is None:
            return at
        flow.check_room(stream, offset + len(data), kind)
        receiver = stream.receiver
        ready = receiver.take(offset, data, bool(kind & frames.FIN))
        if ready is not None:
            s.events.append(StreamData(stream_id, ready, receiver.is_finished))
        return at

    def _on_crypto(self, level: PacketLevel, offset: int, data: bytes) -> None:
        s = self._s
        bound = (
            MAX_QUIC_LATE_CRYPTO_BYTES if level is PacketLevel.ONE_RTT else MAX_TLS_HANDSHAKE_BYTES
        )
        if offset + len(data) > bound:
            raise QuicError(Code.CRYPTO_BUFFER_EXCEEDED, "handshake too long", frames.CRYPTO)
        ready = s.crypto_in[level].take(offset, data, False)
        if ready is None:
            if level is PacketLevel.INITIAL and not s.dialled and s.handshake is not None:
                self._send_flight_again()
            return
        if s.handshake is None:
            if s.late is None:
                s.late = LateMessages()
            s.late.feed(ready, dialled=s.dialled)
        else:
            self._shake(level, ready)

    def _send_flight_again(self) -> None:
        """A dialler that says hello again has not our answer (RFC 9002, section 6.2.3)."""
        for level in (PacketLevel.INITIAL, PacketLevel.HANDSHAKE):
            self._s.crypto_out[level].send_again()

    # --- the handshake ----------------------------------------------------------------------------

    def _shake(self, level: PacketLevel, data: bytes) -> None:
        s = self._s
        handshake = s.handshake
        assert handshake is not None
        handshake.feed(level, data)
        if s.peer is None and handshake.peer_parameters is not None:
            self._on_parameters(handshake.peer_parameters)
        self.take_output()
        if handshake.is_complete:
            s.handshake = None
            s.stage = Progress.COMPLETE
            if not s.dialled:
                s.handshake_done_untold = True
                s.confirm()
            assert s.peer is not None
            s.events.extend(map(IdIssued, s.ids.allow(s.peer.id_limit)))
            s.events.append(HandshakeComplete())

    def take_output(self) -> None:
        """Take what the handshake made: bytes to send, and keys."""
        s = self._s
        handshake = s.handshake
        assert handshake is not None
        for level, data in handshake.output:
            s.crypto_out[level].write(data)
        handshake.output.clear()
        for level, sends, suite, secret in handshake.secrets:
            keys = Keys(suite, secret)
            if level is not PacketLevel.ONE_RTT:
                (s.send_keys if sends else s.receive_keys)[level] = keys
            elif sends:
                s.phases.send = keys
            else:
                s.phases.receive = keys
        handshake.secrets.clear()

    def _on_parameters(self, data: bytes) -> None:
        """RFC 9000, section 7.3: the packets' ids have to be those that are authenticated here."""
        s = self._s
        peer = decode_parameters(data, of_listener=s.dialled)
        expected = (s.first_id, s.retry_id) if s.dialled else (None, None)
        if peer.initial_id != s.ids.peer.id or (peer.original_id, peer.retry_id) != expected:
            raise QuicError(Code.TRANSPORT_PARAMETER_ERROR, "other ids than in the packets")
        s.peer = peer
        s.datagram_bytes = min(s.datagram_bytes, peer.max_udp_bytes)
        s.ids.peer.stateless_reset_token = peer.reset_token
        s.flow.on_parameters(peer)
        s.recovery.max_ack_delay_s = peer.max_ack_delay_ms / 1_000

    # --- frames that are rare ---------------------------------------------------------------------

    def _on_ping(self, payload: bytes, at: int, kind: int) -> int:
        return at

    def _on_reset_stream(self, payload: bytes, at: int, kind: int) -> int:
        (stream_id, code, final_size), at = frames.read_varints(payload, at, 3)
        s = self._s
        stream = s.flow.find(stream_id, kind)
        if stream is not None:
            s.flow.check_room(stream, final_size, kind)
            if stream.receiver.on_reset(final_size):
                s.events.append(PeerReset(stream_id, code))
        return at

    def _on_stop_sending(self, payload: bytes, at: int, kind: int) -> int:
        (stream_id, code), at = frames.read_varints(payload, at, 2)
        stream = self._s.flow.find(stream_id, kind)
        if stream is not None:
            stream.sender.reset(code)
            self._s.events.append(StreamStopped(stream_id))
        return at

    def _on_new_token(self, payload: bytes, at: int, kind: int) -> int:
        if not self._s.dialled:
            raise QuicError(Code.PROTOCOL_VIOLATION, "a token of a dialler", kind)
        return frames.read_token(payload, at)[1]  # not kept: a Retry is rare

    def _on_max_data(self, payload: bytes, at: int, kind: int) -> int:
        value, at = read_varint(payload, at)
        self._s.flow.on_max_data(value)
        return at

    def _on_max_stream_data(self, payload: bytes, at: int, kind: int) -> int:
        (stream_id, value), at = frames.read_varints(payload, at, 2)
        stream = self._s.flow.find(stream_id, kind)
        if stream is not None:
            self._s.flow.on_max_stream_data(stream, value)
        return at

    def _on_max_streams(self, payload: bytes, at: int, kind: int) -> int:
        value, at = read_varint(payload, at)
        if kind == frames.MAX_STREAMS_BIDI:
            self._s.flow.on_max_streams(value, kind)
        elif value > frames.MAX_STREAMS_EVER:
            raise QuicError(Code.FRAME_ENCODING_ERROR, "too many streams to name", kind)
        return at

    def _on_blocked(self, payload: bytes, at: int, kind: int) -> int:
        value, at = read_varint(payload, at)
        if kind != frames.DATA_BLOCKED and value > frames.MAX_STREAMS_EVER:
            raise QuicError(Code.FRAME_ENCODING_ERROR, "too many streams to name", kind)
        return at

    def _on_stream_blocked(self, payload: bytes, at: int, kind: int) -> int:
        (stream_id, _), at = frames.read_varints(payload, at, 2)
        self._s.flow.find(stream_id, kind)
        return at

    def _on_new_id(self, payload: bytes, at: int, kind: int) -> int:
        new, at = frames.read_new_id(payload, at)
        s = self._s
        s.ids.on_new(new, moves=not s.dialled)
        return at

    def _on_retire_id(self, payload: bytes, at: int, kind: int) -> int:
        number, at = read_varint(payload, at)
        s = self._s
        gone, made = s.ids.on_retired(number, self._id)
        if gone is not None:
            s.events.append(IdRetired(gone))
        s.events.extend(map(IdIssued, made))
        return at

    def _on_path_challenge(self, payload: bytes, at: int, kind: int) -> int:
        data, at = frames.read_challenge(payload, at)
        self._path.to_answer.append(data)
        return at

    def _on_path_response(self, payload: bytes, at: int, kind: int) -> int:
        data, at = frames.read_challenge(payload, at)
        self._s.paths.on_response(data)
        return at

    def _on_close(self, payload: bytes, at: int, kind: int) -> int:
        close, at = frames.read_close(payload, at, kind)
        self._s.end(
            Closure(close.code, by_peer=True, by_application=close.by_application), tell=False
        )
        return at

    def _on_handshake_done(self, payload: bytes, at: int, kind: int) -> int:
        s = self._s
        if not s.dialled:
            raise QuicError(Code.PROTOCOL_VIOLATION, "only a listener says so", kind)
        if s.stage is Progress.COMPLETE:
            s.confirm()
        return at


_BY_LEVEL: Final = frozenset({frames.ACK, frames.ACK_ECN, frames.CRYPTO})
_READERS: Final[dict[int, _FrameReader]] = {
    frames.PING: Reader._on_ping,  # noqa: SLF001 - the class's own table
    frames.RESET_STREAM: Reader._on_reset_stream,  # noqa: SLF001
    frames.STOP_SENDING: Reader._on_stop_sending,  # noqa: SLF001
    frames.NEW_TOKEN: Reader._on_new_token,  # noqa: SLF001
    frames.MAX_DATA: Reader._on_max_data,  # noqa: SLF001
    frames.MAX_STREAM_DATA: Reader._on_max_stream_data,  # noqa: SLF001
    frames.MAX_STREAMS_BIDI: Reader._on_max_streams,  # noqa: SLF001
    frames.MAX_STREAMS_UNI: Reader._on_max_streams,  # noqa: SLF001
    frames.DATA_BLOCKED: Reader._on_blocked,  # noqa: SLF001
    frames.STREAM_DATA_BLOCKED: Reader._on_stream_blocked,  # noqa: SLF001
    frames.STREAMS_BLOCKED_BIDI: Reader._on_blocked,  # noqa: SLF001
    frames.STREAMS_BLOCKED_UNI: Reader._on_blocked,  # noqa: SLF001
    frames.NEW_CONNECTION_ID: Reader._on_new_id,  # noqa: SLF001
    frames.RETIRE_CONNECTION_ID: Reader._on_retire_id,  # noqa: SLF001
    frames.PATH_CHALLENGE: Reader._on_path_challenge,  # noqa: SLF001
    frames.PATH_RESPONSE: Reader._on_path_response,  # noqa: SLF001
    frames.TRANSPORT_CLOSE: Reader._on_close,  # noqa: SLF001
    frames.APPLICATION_CLOSE: Reader._on_close,  # noqa: SLF001
    frames.HANDSHAKE_DONE: Reader._on_handshake_done,  # noqa: SLF001
}
