"""R10, R11, R13: what a peer may send on a Yamux connection, checked before upstream reads it.

Upstream: ``Yamux.handle_incoming`` (libp2p/stream_muxer/yamux/yamux.py, 0.8.1) only logs when a
peer exceeds its window (1315, 1433, 1546), opens streams without a bound (1275), ignores FIN and
RST on a frame that also carries ACK (1392), and waits for the whole of a frame of up to 16 MiB.

The gate stands between the decrypted bytes and upstream's reader, and does no I/O. Frames are
passed on in the pieces in which they arrive; flags that end a stream follow in a frame of their
own::

    HEADER --12 bytes--> (no body) HEADER | (body) BODY --last byte--> HEADER

A frame that breaks the protocol raises ``FrameViolationError``; the connection is then closed. It
also keeps the credit that is given to the peer, so that no stream holds more than
``MAX_RECEIVE_WINDOW_BYTES``, and gives credit back in steps instead of after every read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from codio_dht.errors import RemoteError
from codio_dht.net.libp2p_host.limits import MAX_RECEIVE_WINDOW_BYTES, WINDOW_UPDATE_BYTES

HEADER_BYTES: Final = 12
INITIAL_WINDOW_BYTES: Final = 256 * 1024

DATA: Final = 0
WINDOW_UPDATE: Final = 1
PING: Final = 2
GO_AWAY: Final = 3

SYN: Final = 1
ACK: Final = 2
FIN: Final = 4
RST: Final = 8

_OPENING: Final = SYN | ACK
_ENDING: Final = FIN | RST
_HEADER = struct.Struct("!BBHII")

_SPARE_ENTRIES: Final = 64
"""Entries of ended streams that are kept before they are swept."""


class FrameViolationError(RemoteError):
    """A frame that no conforming Yamux peer sends."""


def header(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    """The twelve bytes of a Yamux header."""
    return _HEADER.pack(0, kind, flags, stream_id, length)


@dataclass(slots=True)
class _Body:
    """A data frame whose body is still arriving."""

    stream_id: int
    left: int
    opening: int
    ending: int
    dropped: bool


@dataclass(slots=True)
class FrameGate:
    """Checks and reshapes what arrives on one connection."""

    peer_ids_are_odd: bool
    may_open: Callable[[], bool]
    """Whether the peer may have one more stream."""

    is_open: Callable[[int], bool]
    """Whether upstream still knows a stream."""

    refused: list[int] = field(default_factory=list)
    """Streams refused since the caller last looked; it answers each with RST."""

    _allowed: dict[int, int] = field(default_factory=dict)
    _partial: bytearray = field(default_factory=bytearray)
    _body: _Body | None = None

    def receive(self, data: bytes) -> None:
        """Take what arrived; nothing is looked at yet."""
        self._partial += data

    def next_frame(self) -> bytes | None:
        """What upstream may read next: one frame or the part of it that is there, ``b""`` if it
        was dropped, None if more has to arrive first. Ask again only when upstream has dealt with
        the last one, since what a peer may do depends on that.

        Raises:
            FrameViolationError: the peer broke the protocol.
        """
        out = bytearray()
        if self._body is not None:
            if not self._partial:
                return None
            self._take_body(self._body, out)
        elif len(self._partial) >= HEADER_BYTES:
            fields = _HEADER.unpack_from(self._partial)
            del self._partial[:HEADER_BYTES]
            self._take_header(fields, out)
        else:
            return None
        return bytes(out)

    # --- credit -----------------------------------------------------------------------------------

    def opened(self, stream_id: int) -> None:
        """We opened a stream; the peer may send its first window on it."""
        self._sweep()
        self._allowed[stream_id] = INITIAL_WINDOW_BYTES

    def grant(self, stream_id: int, target: int, unread: int) -> int:
        """Credit to give now, if upstream wants ``target`` bytes under way and has ``unread``
        bytes waiting to be read; 0 if a step is not reached yet."""
        allowed = self._allowed.get(stream_id)
        if allowed is None:
            return 0
        credit = min(target, MAX_RECEIVE_WINDOW_BYTES) - allowed - unread
        if credit < WINDOW_UPDATE_BYTES:
            return 0
        self._allowed[stream_id] = allowed + credit
        return credit

    def _sweep(self) -> None:
        if self._allowed and len(self._allowed) % _SPARE_ENTRIES == 0:
            for stream_id in [sid for sid in self._allowed if not self.is_open(sid)]:
                del self._allowed[stream_id]

    # --- frames -----------------------------------------------------------------------------------

    def _take_header(self, fields: tuple[int, ...], out: bytearray) -> None:
        version, kind, flags, stream_id, length = fields
        if version != 0 or kind > GO_AWAY:
            raise FrameViolationError(f"frame of version {version} and type {kind}")
        if kind in (PING, GO_AWAY):
            out += header(kind, flags, stream_id, length)
            return
        refused = bool(flags & SYN) and self._refuse(stream_id)
        if kind == WINDOW_UPDATE:
            if not refused:
                self._window_update(flags, stream_id, length, out)
            return
        self._spend(stream_id, length, known=not refused)
        body = _Body(stream_id, length, flags & _OPENING, flags & _ENDING, dropped=refused)
        if length:
            self._body = body
        elif not refused:
            out += header(DATA, body.opening, stream_id, 0)
            self._end(body, out)

    def _window_update(self, flags: int, stream_id: int, length: int, out: bytearray) -> None:
        ending = flags & _ENDING
        if ending and flags & _OPENING:
            out += header(WINDOW_UPDATE, flags & _OPENING, stream_id, length)
            out += header(WINDOW_UPDATE, ending, stream_id, 0)
        else:
            out += header(WINDOW_UPDATE, flags, stream_id, length)

    def _take_body(self, body: _Body, out: bytearray) -> None:
        piece = bytes(self._partial[: body.left])
        del self._partial[: len(piece)]
        body.left -= len(piece)
        if not body.dropped:
            out += header(DATA, body.opening, body.stream_id, len(piece)) + piece
        body.opening = 0
        if not body.left:
            self._body = None
            if not body.dropped:
                self._end(body, out)

    @staticmethod
    def _end(body: _Body, out: bytearray) -> None:
        if body.ending:
            out += header(WINDOW_UPDATE, body.ending, body.stream_id, 0)

    def _refuse(self, stream_id: int) -> bool:
        """Whether a stream that the peer opens is refused; notes it if not."""
        if stream_id == 0 or bool(stream_id % 2) != self.peer_ids_are_odd:
            raise FrameViolationError(f"the peer opened a stream with our number {stream_id}")
        if self.is_open(stream_id):
            raise FrameViolationError(f"the peer opened stream {stream_id} twice")
        if not self.may_open():
            self.refused.append(stream_id)
            return True
        self._sweep()
        self._allowed[stream_id] = INITIAL_WINDOW_BYTES
        return False

    def _spend(self, stream_id: int, length: int, *, known: bool) -> None:
        allowed = self._allowed.get(stream_id) if known else None
        if allowed is None:  # ended already: what is under way is passed on and dropped there
            if length > MAX_RECEIVE_WINDOW_BYTES:
                raise FrameViolationError(f"{length} bytes on a stream that is not open")
            return
        if length > allowed:
            raise FrameViolationError(f"{length} bytes on a stream with a window of {allowed}")
        self._allowed[stream_id] = allowed - length
