"""Which frames go into the next datagrams of a QUIC connection.

Decides what is sent, in which order, and what may not leave yet: by congestion control, by the
pace, by the peer's windows, and by what an address that is not proven may get. Streams are served
one after the other, each as it has filled a packet. Two ways lead out::

    handshake, an address to prove, or a close -> packets of all levels, joined in datagrams
    else                                       -> short packets, a datagram each

What a frame says is remembered with its packet, and told its fate: what was lost is said again if
it still holds (RFC 9000, section 13.3).
"""

from __future__ import annotations

from typing import Any, Final

from codio_dht.net.quic.headers import FIXED_BIT, LONG_HEADER, VERSION_1, LongKind
from codio_dht.net.quic.machine import frames
from codio_dht.net.quic.machine.buffers import StreamState
from codio_dht.net.quic.machine.drafts import FullError, PacketDraft
from codio_dht.net.quic.machine.errors import Code
from codio_dht.net.quic.machine.frames import PacketLevel
from codio_dht.net.quic.machine.paths import Path
from codio_dht.net.quic.machine.spaces import Space
from codio_dht.net.quic.machine.state import Progress, State
from codio_dht.net.quic.protection import TAG_BYTES
from codio_dht.net.quic.varints import varint

MIN_INITIAL_DATAGRAM_BYTES: Final = 1_200
"""A datagram with an Initial that asks for an acknowledgement is at least this long (RFC 9000,
section 14.1), and so is one that challenges an address (section 8.2.1)."""
_LONG_KINDS: Final = (LongKind.INITIAL, LongKind.HANDSHAKE)
_LONG_NUMBER_BYTES: Final = 4
_SHORT_NUMBERS: Final = 1 << 14
"""Up to so many packets under way, two bytes of a number will do (RFC 9000, section 17.1)."""
_KEY_PHASE_BIT: Final = 2
_MIN_PAYLOAD_BYTES: Final = 4
"""Header protection samples past the longest packet number (RFC 9001, section 5.4.2)."""
_MIN_CRYPTO_BYTES: Final = 32
_MIN_ROOM_BYTES: Final = 32
"""In less of a datagram no packet is begun."""
_MIN_STREAM_ROOM_BYTES: Final = 64
"""In less of a packet no stream is looked at."""
_MIN_PIECE_BYTES: Final = 256
"""Data is not cut to fill less than this of a packet: a frame more costs both sides more."""
_STREAM_HEADER_BYTES: Final = 1 + 8 + 8 + 2
_CRYPTO_HEADER_BYTES: Final = 1 + 8 + 2
_TWO_BYTES: Final = 0x4000


class Builder:
    """Builds the datagrams of one connection."""

    __slots__ = ("_s",)

    def __init__(self, state: State) -> None:
        self._s = state

    def datagrams(self, now: float) -> list[tuple[bytes, Any]]:
        """Everything to send now, and where to."""
        s = self._s
        if s.stage is Progress.ENDED:
            return self._close(now)
        if s.flow.ledger.ended:
            s.flow.drop_ended()
        built: list[tuple[bytes, Any]] = []
        for path in s.paths.all:
            if path is not s.paths.current and (path.wants_challenge or path.to_answer):
                self._probe_path(path, now, built)
        if s.stage is Progress.CONFIRMED and s.paths.current.is_proven:
            self._short_packets(now, built)
        else:
            self._long_packets(now, built)
        return built

    @property
    def may_send(self) -> bool:
        """Whether the peer's address may get another short packet (RFC 9000, section 8.1). If not,
        something has to come from there first, and no timer changes that."""
        room = self._s.paths.current.room
        return room is None or room >= self._overhead(PacketLevel.ONE_RTT) + _MIN_ROOM_BYTES

    # --- an established connection ----------------------------------------------------------------

    def _short_packets(self, now: float, built: list[tuple[bytes, Any]]) -> None:
        s = self._s
        space, recovery = s.spaces[PacketLevel.ONE_RTT], s.recovery
        address = s.paths.current.address
        s.pacing_at = None
        while True:
            ack_due = space.ack_at is not None and space.ack_at <= now
            wants = bool(s.flow.ledger.ready) or self._has_control()
            if wants and not space.probes:
                s.pacing_at = recovery.pacer.next_send_time(now)
                wants = s.pacing_at is None
            if not (wants or ack_due or space.probes):
                return
            room = recovery.room
            if space.probes:
                room = max(room, s.datagram_bytes)
            header = self._short_header(space)
            overhead = len(header) + TAG_BYTES
            packet = PacketDraft(
                PacketLevel.ONE_RTT,
                space.next_number,
                s.datagram_bytes - overhead,
                room - overhead,
            )
            packet.may_fly = min(packet.may_fly, packet.room)
            self._fill(packet, space, now, data=wants or bool(space.probes))
            if not packet.frames:
                return
            self._pad(packet, overhead)
            built.append((self._seal_short(packet, space, header, now), address))

    @staticmethod
    def _pad(packet: PacketDraft, overhead: int) -> None:
        """Make the packet as long as it has to be. A datagram shows that its path takes full ones,
        too, where so much may be sent (RFC 9000, section 8.2.1)."""
        packet.pad(_MIN_PAYLOAD_BYTES)
        if packet.asks_path and packet.room + overhead >= MIN_INITIAL_DATAGRAM_BYTES:
            packet.pad(MIN_INITIAL_DATAGRAM_BYTES - overhead)

    def _short_header(self, space: Space) -> bytes:
        s = self._s
        number = space.next_number
        size = 2 if number - space.largest_acked < _SHORT_NUMBERS else 4
        first = FIXED_BIT | s.phases.phase << _KEY_PHASE_BIT | size - 1
        truncated = number & ((1 << 8 * size) - 1)
        return bytes((first,)) + s.ids.peer.id + truncated.to_bytes(size, "big")

    def _seal_short(self, packet: PacketDraft, space: Space, header: bytes, now: float) -> bytes:
        keys = self._s.phases.send
        assert keys is not None
        datagram = keys.seal(header, packet.record.number, bytes(packet.frames))
        self._register(packet, space, len(datagram), now)
        return datagram

    def _register(self, packet: PacketDraft, space: Space, size: int, now: float) -> None:
        s, record = self._s, packet.record
        record.size = size
        space.next_number += 1
        s.recovery.on_sent(record, space, now)
        if record.in_flight:
            s.recovery.pacer.on_sent(now)
        if record.eliciting:
            if space.probes:
                space.probes -= 1
            if not s.sent_since_heard:
                s.sent_since_heard = True
                s.idle_since = now

    # --- the handshake, and addresses to prove ----------------------------------------------------

    def _long_packets(self, now: float, built: list[tuple[bytes, Any]]) -> None:
        """Datagrams of all levels that there are keys for, and no more than the address may get."""
        s = self._s
        path = s.paths.current
        s.pacing_at = None
        while True:
            allowed = path.room
            room = s.datagram_bytes if allowed is None else min(s.datagram_bytes, allowed)
            packets = self._coalesced(room, now)
            if not packets:
                return
            if any(each.level is PacketLevel.INITIAL for each in packets) and (
                s.dialled or any(each.record.eliciting for each in packets)
            ):
                packets[-1].pad(len(packets[-1].frames) + MIN_INITIAL_DATAGRAM_BYTES
                     - sum(map(self._size, packets)))  # fmt: skip
            datagram = b"".join(self._seal(each, now) for each in packets)
            path.sent += len(datagram)
            built.append((datagram, path.address))
            if s.dialled and any(each.level is PacketLevel.HANDSHAKE for each in packets):
                s.discard(PacketLevel.INITIAL)  # RFC 9001, section 4.9.1

    def _coalesced(self, room: int, now: float) -> list[PacketDraft]:
        s = self._s
        packets = []
        if room < MIN_INITIAL_DATAGRAM_BYTES and s.send_keys[PacketLevel.INITIAL] is not None:
            return []  # what has to be padded may not leave yet
        for level in PacketLevel:
            if not s.has_keys_to_send(level):
                continue
            space = s.spaces[level]
            overhead = self._overhead(level)
            if room < overhead + _MIN_ROOM_BYTES:
                break
            is_probe = space.probes or s.paths.current.wants_challenge
            flight = room if is_probe else min(room, s.recovery.room)
            packet = PacketDraft(level, space.next_number, room - overhead, flight - overhead)
            data = level is not PacketLevel.ONE_RTT or s.stage is not Progress.HANDSHAKE
            self._fill(packet, space, now, data=data)
            if packet.frames:
                self._pad(packet, overhead)
                packets.append(packet)
                room -= self._size(packet)
        return packets

    def _overhead(self, level: PacketLevel) -> int:
        """Bytes of a packet that are no frames; a long packet's length is written in two bytes."""
        s = self._s
        if level is PacketLevel.ONE_RTT:
            return len(self._short_header(s.spaces[level])) + TAG_BYTES
        size = 1 + 4 + 1 + len(s.ids.peer.id) + 1 + len(s.ids.own[0].id) + 2
        if level is PacketLevel.INITIAL:
            size += len(varint(len(s.token))) + len(s.token)
        return size + _LONG_NUMBER_BYTES + TAG_BYTES

    def _size(self, packet: PacketDraft) -> int:
        return self._overhead(packet.level) + len(packet.frames)

    def _seal(self, packet: PacketDraft, now: float) -> bytes:
        s, level = self._s, packet.level
        space = s.spaces[level]
        if level is PacketLevel.ONE_RTT:
            return self._seal_short(packet, space, self._short_header(space), now)
        keys = s.send_keys[level]
        assert keys is not None
        number = packet.record.number
        length = _LONG_NUMBER_BYTES + len(packet.frames) + TAG_BYTES
        first = LONG_HEADER | FIXED_BIT | _LONG_KINDS[level] << 4 | _LONG_NUMBER_BYTES - 1
        own = s.ids.own[0].id
        parts = [
            bytes((first,)), VERSION_1.to_bytes(4, "big"),
            bytes((len(s.ids.peer.id),)), s.ids.peer.id, bytes((len(own),)), own,
        ]  # fmt: skip
        if level is PacketLevel.INITIAL:
            parts += [varint(len(s.token)), s.token]
        parts += [
            (length | _TWO_BYTES).to_bytes(2, "big"),
            (number & 0xFFFF_FFFF).to_bytes(_LONG_NUMBER_BYTES, "big"),
        ]
        sealed = keys.seal(b"".join(parts), number, bytes(packet.frames))
        self._register(packet, space, len(sealed), now)
        return sealed

    def _probe_path(self, path: Path, now: float, built: list[tuple[bytes, Any]]) -> None:
        """Answers and a challenge for an address that is not the one in use."""
        s = self._s
        space = s.spaces[PacketLevel.ONE_RTT]
        header = self._short_header(space)
        overhead = len(header) + TAG_BYTES
        allowed = s.datagram_bytes if path.room is None else path.room
        room = min(s.datagram_bytes, allowed) - overhead
        packet = PacketDraft(PacketLevel.ONE_RTT, space.next_number, room, room)
        try:
            self._write_path_frames(packet, path)
        except FullError:
            pass  # the rest waits until more came from there
        if not packet.frames:
            return
        self._pad(packet, overhead)
        datagram = self._seal_short(packet, space, header, now)
        path.sent += len(datagram)
        built.append((datagram, path.address))

    # --- a close ----------------------------------------------------------------------------------

    def _close(self, now: float) -> list[tuple[bytes, Any]]:
        s = self._s
        if not s.close_untold or s.ended is None or not s.has_begun:
            return []
        s.close_untold = False
        levels = [level for level in PacketLevel if s.has_keys_to_send(level)]
        if s.recovery.handshake_confirmed:
            levels = [PacketLevel.ONE_RTT]
        elif not s.dialled and len(levels) > 1:
            levels = [level for level in levels if level is not PacketLevel.ONE_RTT]
        packets = []
        for level in levels:
            room = s.datagram_bytes - self._overhead(level)
            packet = PacketDraft(level, s.spaces[level].next_number, room, room)
            packet.frames += self._close_frame(level)
            packet.pad(_MIN_PAYLOAD_BYTES)
            packets.append(packet)
        if not packets:
            return []
        if s.dialled and packets[0].level is PacketLevel.INITIAL:
            missing = MIN_INITIAL_DATAGRAM_BYTES - sum(map(self._size, packets))
            packets[-1].pad(len(packets[-1].frames) + missing)
        allowed = s.paths.current.room
        if allowed is not None and sum(map(self._size, packets)) > allowed:
            return []  # RFC 9000, section 8.1: the peer learns it by its time-out
        datagram = b"".join(self._seal(each, now) for each in packets)
        return [(datagram, s.paths.current.address)]

    def _close_frame(self, level: PacketLevel) -> bytes:
        """What the peer is told; before the handshake is over, not why an application closes it
        (RFC 9000, section 10.2.3)."""
        ended = self._s.ended
        assert ended is not None
        if not ended.by_application:
            kind = bytes((frames.TRANSPORT_CLOSE,))
            return kind + varint(ended.code) + varint(ended.frame_type) + b"\0"
        if level is PacketLevel.ONE_RTT:
            return bytes((frames.APPLICATION_CLOSE,)) + varint(ended.code) + b"\0"
        return bytes((frames.TRANSPORT_CLOSE, Code.APPLICATION_ERROR, 0, 0))

    # --- frames -----------------------------------------------------------------------------------

    def _fill(self, packet: PacketDraft, space: Space, now: float, *, data: bool) -> None:
        """Frames for one packet; with ``data``, also what is not an acknowledgement."""
        try:
            if space.is_worth_sending(now) or (data and (space.owes_ack or space.probes)):
                packet.add_ack(space, now)  # with a probe again: the last may be lost
            if not data:
                return
            if packet.level is PacketLevel.ONE_RTT:
                self._write_control(packet)
                self._write_crypto(packet)
                self._write_streams(packet)
            else:
                self._write_crypto(packet)
            if space.probes and not packet.record.eliciting:
                packet.add(bytes((frames.PING,)))
        except FullError:
            pass

    def _write_crypto(self, packet: PacketDraft) -> None:
        buffer = self._s.crypto_out[packet.level]
        while buffer.has_more:
            room = packet.left - _CRYPTO_HEADER_BYTES
            if room < _MIN_CRYPTO_BYTES:
                raise FullError
            taken = buffer.take(room, 1 << 62)
            if taken is None:
                return
            offset, data, _ = taken
            head = bytes((frames.CRYPTO,)) + varint(offset)
            length = (len(data) | _TWO_BYTES).to_bytes(2, "big")
            stop = offset + len(data)
            packet.add(head + length + data, buffer.on_fate, offset, stop, False)

    def _has_control(self) -> bool:
        s = self._s
        path = s.paths.current
        return bool(
            s.ping_wanted
            or s.handshake_done_untold
            or s.ids.to_retire
            or path.to_answer
            or path.wants_challenge
            or s.flow.has_limits_to_tell
            or s.crypto_out[PacketLevel.ONE_RTT].has_more
            or s.ids.has_untold()
        )

    def _write_control(self, packet: PacketDraft) -> None:
        """Frames that are rare."""
        s = self._s
        path = s.paths.current
        if path.to_answer or path.wants_challenge:
            self._write_path_frames(packet, path)
        if s.stage is Progress.HANDSHAKE:
            return
        if s.handshake_done_untold:
            packet.add(bytes((frames.HANDSHAKE_DONE,)), self._on_done_fate)
            s.handshake_done_untold = False
        if s.flow.has_limits_to_tell:
            self._write_limits(packet)
        if s.ids.has_untold():
            self._write_new_ids(packet)
        while s.ids.to_retire:
            number = s.ids.to_retire[0]
            frame = bytes((frames.RETIRE_CONNECTION_ID,)) + varint(number)
            packet.add(frame, s.ids.on_retire_fate, number)
            del s.ids.to_retire[0]
        if s.ping_wanted:
            packet.add(bytes((frames.PING,)))
            s.ping_wanted = False

    def _on_done_fate(self, acknowledged: bool) -> None:
        if not acknowledged:
            self._s.handshake_done_untold = True

    def _write_limits(self, packet: PacketDraft) -> None:
        flow = self._s.flow
        for kind, limit in (
            (frames.MAX_DATA, flow.data),
            (frames.MAX_STREAMS_BIDI, flow.streams_limit),
        ):
            if limit.value != limit.told:
                packet.add(bytes((kind,)) + varint(limit.value), limit.on_fate)
                limit.told = limit.value

    def _write_new_ids(self, packet: PacketDraft) -> None:
        ids = self._s.ids
        for own in ids.own:
            if own.is_told:
                continue
            head = bytes((frames.NEW_CONNECTION_ID,)) + varint(own.number) + b"\0"
            frame = head + bytes((len(own.id),)) + own.id + ids.reset_token(own)
            packet.add(frame, own.on_fate)
            own.is_told = own.was_told = True

    def _write_path_frames(self, packet: PacketDraft, path: Path) -> None:
        while path.to_answer:
            packet.asks_path = True
            packet.add(bytes((frames.PATH_RESPONSE,)) + path.to_answer[0])
            path.to_answer.popleft()
        if path.wants_challenge:
            challenge = path.make_challenge()
            path.wants_challenge = True  # until it is in a packet
            packet.asks_path = True
            packet.add(bytes((frames.PATH_CHALLENGE,)) + challenge, path.on_challenge_fate)
            path.wants_challenge = False

    # --- streams ----------------------------------------------------------------------------------

    def _write_streams(self, packet: PacketDraft) -> None:
        """Fill the packet, from each stream in turn."""
        flow = self._s.flow
        ready = flow.ledger.ready
        while ready and packet.left >= _MIN_STREAM_ROOM_BYTES:
            stream_id = next(iter(ready))
            stream = flow.streams.get(stream_id)
            more = stream is not None and self._write_stream(packet, stream)
            del ready[stream_id]
            if more:
                ready[stream_id] = None  # behind all others

    def _write_stream(self, packet: PacketDraft, stream: StreamState) -> bool:
        """Write the frames of one stream, as far as they fit. Return whether more may be sent.

        Raises:
            FullError: something does not fit.
        """
        sender, receiver = stream.sender, stream.receiver
        if receiver.stop_pending:
            frame = bytes((frames.STOP_SENDING,)) + varint(stream.id)
            packet.add(frame + varint(receiver.stop_code or 0), receiver.on_stop_fate)
            receiver.stop_pending = False
        if stream.limit != stream.limit_told and receiver.final_size is None:
            frame = bytes((frames.MAX_STREAM_DATA,)) + varint(stream.id) + varint(stream.limit)
            packet.add(frame, stream.on_limit_fate, self._s.flow.ledger)
            stream.limit_told = stream.limit
        if sender.reset_pending:
            frame = bytes((frames.RESET_STREAM,)) + varint(stream.id)
            frame += varint(sender.reset_code or 0) + varint(sender.highest_offset)
            packet.add(frame, sender.on_reset_fate)
            sender.reset_pending = False
            return False
        if stream.is_blocked or not sender.has_more:
            return False
        return self._write_data(packet, stream)

    def _write_data(self, packet: PacketDraft, stream: StreamState) -> bool:
        flow, sender = self._s.flow, stream.sender
        room = packet.left - _STREAM_HEADER_BYTES
        if room < 0 or room < min(_MIN_PIECE_BYTES, sender.next_bytes):
            raise FullError
        before = sender.highest_offset
        credit = flow.peer.max_data - flow.peer_data_used
        taken = sender.take(room, min(before + credit, stream.peer_limit))
        if taken is None:
            if sender.has_more and before < stream.peer_limit:
                flow.starved[stream.id] = None
            return False
        offset, data, fin = taken
        size = len(data)
        flow.peer_data_used += sender.highest_offset - before
        buffer = packet.frames  # there is room: ``take`` was told how much
        if offset:
            buffer.append(frames.STREAM | frames.WITH_LENGTH | frames.WITH_OFFSET | fin)
            buffer += varint(stream.id)
            buffer += varint(offset)
        else:
            buffer.append(frames.STREAM | frames.WITH_LENGTH | fin)
            buffer += varint(stream.id)
        buffer += (size | _TWO_BYTES).to_bytes(2, "big")
        buffer += data
        record = packet.record
        record.eliciting = record.in_flight = True
        record.fates.append((sender.on_fate, (offset, offset + size, fin)))
        return sender.has_more
