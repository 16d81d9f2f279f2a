"""R20 to R24: a QUIC stream's two directions end each on its own, and nothing is lost between.

Upstream, in libp2p/transport/quic/stream.py (0.8.1), all found here:

- ``QUICStream.reset`` resets what we send and does not stop what the peer sends, and does nothing
  once the peer has reset its direction; the stream then never ends in the QUIC layer, and after 128
  of them every open waits for ever (R20).
- ``QUICStream.handle_stop_sending`` closes reading too, so what follows a STOP_SENDING is lost; go
  sends one when it has answered identify (R21).
- ``QUICStream.read`` looks for an end after it has waited for a lock, but not again for data, so an
  answer that comes together with its end may be lost (one identify of ten with go and rust); it
  reports an end as an error once we have ended our direction, and resets a stream on which nothing
  arrives for 30 s (R22).
- ``QUICConnection.open_stream`` only counts up a number; aioquic learns of a stream with its first
  data, and takes a lower number for a finished stream. Of two streams, the one opened first must
  be written to first, or it fails (R23).
- ``QUICConnection.close`` finishes every stream before it says that the connection is over, so an
  answer that was cut short looks whole to the peer (R24).

Guard: the streams of a guarded connection reset both directions whatever state they are in, read
on after a STOP_SENDING, read what is there before they look for an end, and have no read timeout
of their own: who reads sets one. Closing the connection resets those that are not finished. Applies
to a live host, for streams opened from then on.
"""

# ruff: noqa: SLF001 - a guard works on what it guards

from __future__ import annotations

from collections.abc import Callable

import trio
from aioquic.quic.events import ConnectionTerminated
from libp2p.abc import IMuxedConn
from libp2p.stream_muxer.exceptions import MuxedStreamEOF
from libp2p.transport.quic.connection import QUICConnection
from libp2p.transport.quic.exceptions import QUICStreamResetError
from libp2p.transport.quic.stream import QUICStream, StreamState

from codio_dht.logger import get_logger
from codio_dht.net.libp2p_host.guards.upstream import Symbol, check

_log = get_logger(__name__)

_STREAM = "libp2p.transport.quic.stream"

SYMBOLS = (
    Symbol(_STREAM, "QUICStream.read", ("self", "n")),
    Symbol(_STREAM, "QUICStream.reset", ("self", "error_code")),
    Symbol(_STREAM, "QUICStream.handle_stop_sending", ("self", "error_code")),
    Symbol("libp2p.transport.quic.connection", "QUICConnection.open_stream", ("self", "timeout")),
    Symbol("libp2p.transport.quic.connection", "QUICConnection.close", ("self",)),
    Symbol(
        "libp2p.transport.quic.connection",
        "QUICConnection._handle_connection_terminated",
        ("self", "event"),
    ),
    Symbol(
        "libp2p.transport.quic.connection",
        "QUICConnection._create_inbound_stream",
        ("self", "stream_id"),
    ),
)


class GuardedQUICStream(QUICStream):
    """``QUICStream`` whose reset is complete."""

    async def reset(self, error_code: int = 0) -> None:
        """End both directions."""
        await super().reset(error_code)
        self._receive_event.set()
        quic = self._connection._quic
        for end in (quic.reset_stream, quic.stop_stream):
            self._try(end, error_code)
        await self._connection._transmit()

    async def read(self, n: int | None = None) -> bytes:
        """What arrived, before anything else; then the end, or why there is none."""
        while not self._receive_buffer:
            if self._state is StreamState.RESET:
                raise QUICStreamResetError(f"stream {self._stream_id} was reset")
            if self._read_closed:
                raise MuxedStreamEOF("the peer has finished sending")
            await self._receive_event.wait()
            self._receive_event = trio.Event()
        await trio.lowlevel.checkpoint_if_cancelled()
        return self._extract_data_from_buffer(-1 if n is None else n)

    async def handle_stop_sending(self, error_code: int) -> None:
        """The peer wants no more of ours; what it sends is still read."""
        self._write_closed = True
        self._state = StreamState.CLOSED if self._read_closed else StreamState.WRITE_CLOSED
        self._backpressure_event.set()
        self._try(self._connection._quic.reset_stream, error_code)
        await self._connection._transmit()

    def _try(self, end: Callable[[int, int], None], error_code: int) -> None:
        try:
            end(self._stream_id, error_code)
        except (ValueError, AssertionError) as error:  # that direction has ended already
            _log.debug("QUIC stream already ended", error=str(error))


class GuardedQUICConnection(QUICConnection):
    """``QUICConnection`` whose streams are guarded."""

    async def open_stream(self, timeout: float | None = None) -> QUICStream:  # noqa: ASYNC109
        """A guarded stream, which the QUIC layer knows at once."""
        stream = await super().open_stream(timeout)
        self._quic.send_stream_data(stream._stream_id, b"")
        return _guard_stream(stream)

    async def close(self) -> None:
        """Close the connection; to the peer no stream is finished that we had not finished."""
        if not self._closed:
            with trio.move_on_after(self.CONNECTION_CLOSE_TIMEOUT):
                for stream in list(self._streams.values()):
                    if stream.can_write():
                        await stream.reset()
        await super().close()

    async def _handle_connection_terminated(self, event: ConnectionTerminated) -> None:
        self._closed = True  # first, so that readers do not take the end of all for their own
        await super()._handle_connection_terminated(event)

    async def _create_inbound_stream(self, stream_id: int) -> QUICStream:
        return _guard_stream(await super()._create_inbound_stream(stream_id))


def _guard_stream(stream: QUICStream) -> QUICStream:
    if type(stream) is QUICStream:
        stream.__class__ = GuardedQUICStream
    return stream


def guard_quic_connection(muxed_conn: IMuxedConn) -> None:
    """Turn a plain ``QUICConnection`` into a ``GuardedQUICConnection``. Idempotent."""
    if type(muxed_conn) is QUICConnection:
        check(SYMBOLS)
        muxed_conn.__class__ = GuardedQUICConnection
