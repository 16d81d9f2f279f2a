"""The send and receive buffers of one QUIC stream, and of the handshake at one level.

Decides what of a stream is sent next, what is kept until the peer has it, and when a side is over.
A stream reports itself to its connection's :class:`Ledger` when it has something to write or a side
of it has ended; ranges are looked at only where something was lost or came out of order::

    write -> ready -> take -> in flight --acknowledged--> forgotten
                        ^---- lost --------+

The states of each side (RFC 9000, sections 3.1 and 3.2)::

    send     writing --FIN--> all handed over --acknowledged--> finished
                +------------------+--reset--> reset told --acknowledged--> finished
    receive  reading --FIN--> size known --all there, or reset--> finished

Raises ``QuicError`` where a peer changes a stream's end, or leaves too many gaps.

Bounds: :mod:`~codio_dht.net.quic.streams` enforces what may wait, by ``Ledger.kept``; the windows
and ``MAX_QUIC_GAPS`` bound what arrives out of order.
"""

from __future__ import annotations

from codio_dht.net.quic.limits import MAX_QUIC_GAPS
from codio_dht.net.quic.machine.errors import Code, QuicError
from codio_dht.net.quic.machine.ranges import Ranges


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


class SendBuffer:
    """The data that this side sends, kept until the peer has it."""

    __slots__ = (
        "_acked_ahead",
        "_acked_fin",
        "_buffer",
        "_end",
        "_fin_pending",
        "_id",
        "_ledger",
        "_lost",
        "_start",
        "_stop",
        "highest_offset",
        "is_finished",
        "reset_code",
        "reset_pending",
    )

    def __init__(self, stream_id: int, ledger: Ledger) -> None:
        self._ledger = ledger
        self._id = stream_id
        self.highest_offset = 0
        """How far data was sent, once at least."""
        self.is_finished = False
        """The peer has all, or knows of the reset."""
        self.reset_code: int | None = None
        self.reset_pending = False
        self._acked_ahead: Ranges | None = None  # behind a gap
        self._acked_fin = False
        self._buffer = bytearray()
        self._end: int | None = None  # of the stream, once it is known
        self._start = 0
        self._stop = 0
        self._lost: Ranges | None = None
        self._fin_pending = False

    @property
    def can_write(self) -> bool:
        """Whether the stream takes data: neither finished nor reset."""
        return self._end is None and self.reset_code is None

    @property
    def has_more(self) -> bool:
        """Whether there is something to send, if the windows allow it. After a reset there is not
        (RFC 9000, section 3.1), however much had not left."""
        if self.reset_code is not None:
            return False
        return self._lost is not None or self.highest_offset != self._stop or self._fin_pending

    @property
    def next_bytes(self) -> int:
        """Size of what ``take`` would give, if room and windows allowed it."""
        if self._lost is not None:
            start, stop = self._lost.first
            return stop - start
        return self._stop - self.highest_offset

    @property
    def unsent(self) -> int:
        """Bytes that have not left yet."""
        return 0 if self.reset_code is not None else self._stop - self.highest_offset

    @property
    def kept(self) -> int:
        """Bytes that are kept until the peer has them."""
        return len(self._buffer)

    def write(self, data: bytes, *, fin: bool = False) -> None:
        """Send ``data``, and after it nothing more if ``fin``."""
        if not self.can_write:
            raise RuntimeError("the stream takes no more data")
        if data:
            self._buffer += data
            self._stop += len(data)
            self._ledger.kept += len(data)
        elif not fin:
            return
        if fin:
            self._end = self._stop
            self._fin_pending = True
        self._ledger.ready[self._id] = None

    def take(self, room: int, limit: int) -> tuple[int, bytes, bool] | None:
        """The next frame's offset, data (at most ``room`` bytes, none at ``limit`` or past it) and
        whether it ends the stream; None if there is none to be had."""
        lost = self._lost
        if lost is not None:
            start, stop = lost.first
        else:
            start, stop = self.highest_offset, self._stop
        if start == stop:
            if not self._fin_pending:
                return None
            data = b""
        else:
            stop = min(stop, start + room, limit)
            if stop <= start:
                return None
            base = self._start
            data = bytes(self._buffer[start - base : stop - base])
            if lost is not None:
                lost.remove(start, stop)
                if not len(lost):
                    self._lost = None
            self.highest_offset = max(self.highest_offset, stop)
        fin = stop == self._end
        if fin:
            self._fin_pending = False
        return start, data, fin

    def on_fate(self, acknowledged: bool, start: int, stop: int, fin: bool) -> None:
        """What was sent is with the peer, or lost."""
        if self.reset_code is not None:
            return
        start = max(start, self._start)  # sent twice, it may be there from the other packet
        if not acknowledged:
            self._on_lost(start, stop, fin)
            return
        if stop > start:
            if start == self._start and self._acked_ahead is None:
                self._forget(stop)
            else:
                self._on_acked_behind_a_gap(start, stop)
        if fin:
            self._acked_fin = True
        if self._acked_fin and self._start == self._end:
            self._finish()

    def _on_lost(self, start: int, stop: int, fin: bool) -> None:
        if stop > start:
            if self._lost is None:
                self._lost = Ranges()
            self._lost.add(start, stop)
        if fin:
            self._fin_pending = True
        self._ledger.ready[self._id] = None

    def _on_acked_behind_a_gap(self, start: int, stop: int) -> None:
        ahead = self._acked_ahead
        if ahead is None:
            ahead = self._acked_ahead = Ranges()
        ahead.add(start, stop)
        if ahead.first[0] == self._start:
            self._forget(ahead.pop_first()[1])
            if not len(ahead):
                self._acked_ahead = None

    def _forget(self, stop: int) -> None:
        """The peer has everything before ``stop``."""
        size = stop - self._start
        del self._buffer[:size]
        self._start = stop
        self._ledger.kept -= size
        if self._lost is not None:  # it was only late
            self._lost.drop_below(stop)
            if not len(self._lost):
                self._lost = None

    def reset(self, code: int) -> None:
        """Give up what was not sent. Idempotent."""
        if self.reset_code is None and not self.is_finished:
            self.reset_code = code
            self.reset_pending = True
            self._lost = None
            self._ledger.kept -= len(self._buffer)
            self._buffer.clear()
            self._ledger.ready[self._id] = None

    def on_reset_fate(self, acknowledged: bool) -> None:
        """The peer knows of the reset, or has to be told again."""
        if acknowledged:
            self._finish()
        else:
            self.reset_pending = True
            self._ledger.ready[self._id] = None

    def send_again(self) -> None:
        """Everything that was sent and not acknowledged is lost."""
        if self.highest_offset > self._start:
            self._on_lost(self._start, self.highest_offset, False)

    def _finish(self) -> None:
        self.is_finished = True
        self._ledger.ended.append(self._id)


class ReceiveBuffer:
    """The data that the peer sends, put in order."""

    __slots__ = (
        "_gaps_of",
        "_id",
        "_ledger",
        "_waiting",
        "final_size",
        "highest_offset",
        "is_finished",
        "next_offset",
        "stop_code",
        "stop_pending",
    )

    def __init__(self, stream_id: int, ledger: Ledger) -> None:
        self._ledger = ledger
        self._id = stream_id
        self.next_offset = 0
        """Up to here everything was handed on."""
        self.highest_offset = 0
        """What counts against the windows."""
        self.final_size: int | None = None
        self.is_finished = False
        """All was handed on, or the peer gave up."""
        self.stop_code: int | None = None
        self.stop_pending = False
        self._waiting: bytearray | None = None  # from next_offset on
        self._gaps_of: Ranges | None = None  # what of it is there

    def take(self, offset: int, data: bytes, fin: bool) -> bytes | None:
        """What can be handed on now that these bytes arrived; None if nothing changed. Look at
        ``is_finished`` afterwards.

        Raises:
            QuicError: the peer changed the stream's end, or left too many gaps.
        """
        stop = offset + len(data)
        if (
            offset == self.next_offset == self.highest_offset and self.final_size is None
        ):  # in order, as nearly always
            self.next_offset = self.highest_offset = stop
            if fin:
                self.final_size = stop
                self._finish()
            return data if data or fin else None
        self._check_end(stop, fin)
        if self.is_finished:
            return None
        self.highest_offset = max(self.highest_offset, stop)
        ready = self._reassemble(offset, data)
        if self.next_offset == self.final_size:
            self._finish()
            return ready
        return ready or None

    def _check_end(self, stop: int, fin: bool) -> None:
        size = self.final_size
        if size is not None and (stop > size or (fin and stop != size)):
            raise QuicError(Code.FINAL_SIZE_ERROR, "data past the end")
        if fin and size is None:
            if stop < self.highest_offset:
                raise QuicError(Code.FINAL_SIZE_ERROR, "an end before data")
            self.final_size = stop

    def _reassemble(self, offset: int, data: bytes) -> bytes:
        if offset < self.next_offset:
            data = data[self.next_offset - offset :]
            offset = self.next_offset
        if data:
            self._keep(offset, data)
        there = self._gaps_of
        if there is None or there.first[0] > self.next_offset:
            return b""
        assert self._waiting is not None
        _, stop = there.pop_first()
        size = stop - self.next_offset
        ready = bytes(self._waiting[:size])
        del self._waiting[:size]
        self.next_offset = stop
        if not len(there):
            self._gaps_of = self._waiting = None
        return ready

    def _keep(self, offset: int, data: bytes) -> None:
        if self._waiting is None or self._gaps_of is None:
            self._waiting, self._gaps_of = bytearray(), Ranges()
        at = offset - self.next_offset
        end = at + len(data)
        if end > len(self._waiting):
            self._waiting.extend(bytes(end - len(self._waiting)))
        self._waiting[at:end] = data
        self._gaps_of.add(offset, offset + len(data))
        if len(self._gaps_of) > MAX_QUIC_GAPS:
            raise QuicError(Code.INTERNAL_ERROR, "too many gaps")

    def on_reset(self, final_size: int) -> bool:
        """The peer gave up; False if the stream was over already.

        Raises:
            QuicError: the size is another than the one known, or less than was sent.
        """
        known = self.final_size
        if final_size < self.highest_offset or (known is not None and final_size != known):
            raise QuicError(Code.FINAL_SIZE_ERROR, "a reset changes the end")
        self.final_size = self.highest_offset = final_size
        if self.is_finished:
            return False
        self._waiting = self._gaps_of = None
        self._finish()
        return True

    def stop(self, code: int) -> None:
        """Ask the peer to send no more. Idempotent."""
        if self.stop_code is None and not self.is_finished:
            self.stop_code = code
            self.stop_pending = True
            self._ledger.ready[self._id] = None

    def on_stop_fate(self, acknowledged: bool) -> None:
        """The peer knows, or has to be told again."""
        if not acknowledged and not self.is_finished:
            self.stop_pending = True
            self._ledger.ready[self._id] = None

    def _finish(self) -> None:
        self.is_finished = True
        self.stop_pending = False
        self._ledger.ended.append(self._id)


class StreamState:
    """Both sides of one stream."""

    __slots__ = (
        "id",
        "is_blocked",
        "limit",
        "limit_told",
        "peer_limit",
        "receiver",
        "sender",
    )

    def __init__(self, stream_id: int, ledger: Ledger, limit: int, peer_limit: int) -> None:
        self.id = stream_id
        self.limit = self.limit_told = limit
        """Where the window that the peer has ends, and what it was told of that."""
        self.peer_limit = peer_limit
        """Where our window ends."""
        self.is_blocked = False
        """It is ours, and past the number of streams that the peer allows."""
        self.receiver = ReceiveBuffer(stream_id, ledger)
        self.sender = SendBuffer(stream_id, ledger)

    @property
    def is_over(self) -> bool:
        """Whether both sides are."""
        return self.sender.is_finished and self.receiver.is_finished

    def on_limit_fate(self, acknowledged: bool, ledger: Ledger) -> None:
        """The peer knows its window, or has to be told again."""
        if not acknowledged:
            self.limit_told = 0
            ledger.ready[self.id] = None
