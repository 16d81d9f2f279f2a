"""A py-libp2p stream as the port's ``Stream``.

Translates every foreign exception to ``StreamError`` (R15: a reset, which py-libp2p may report as
a clean end, is told apart), keeps the negotiation lazy where the opener asked for it, and makes
sure that an ended stream does not stay in its connection: ``Lingering`` resets those whose peer
never finishes. A cancelled write resets the stream; the guards' writer keeps the connection
whole.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import trio
from libp2p.abc import INetStream

from codio_dht.core.peer import PeerId
from codio_dht.errors import CodioError, StreamError
from codio_dht.logger import get_logger
from codio_dht.net.libp2p_host.limits import (
    CLOSE_LINGER_S,
    MAX_LINGERING_STREAMS,
    READ_CHUNK_BYTES,
    STREAM_END_TIMEOUT_S,
)
from codio_dht.net.libp2p_host.negotiation import Answer
from codio_dht.net.libp2p_host.shielding import shielded

_log = get_logger(__name__)

_SWEEP_INTERVAL_S: Final = 1.0
_MAX_REASON_CHARS: Final = 200


@contextmanager
def foreign_errors(what: str) -> Iterator[None]:
    """Translate whatever py-libp2p raises; it uses some twenty classes without a common base, and
    ``ValueError``, ``KeyError``, ``RuntimeError`` and ``AssertionError`` too."""
    try:
        yield
    except CodioError:
        raise
    except Exception as error:
        raise StreamError(f"{what}: {error!r}"[:_MAX_REASON_CHARS]) from error


class Lingering:
    """Streams that we have ended and the peer has not: they get ``CLOSE_LINGER_S``."""

    def __init__(self) -> None:
        self._streams: OrderedDict[INetStream, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._streams)

    async def add(self, net_stream: INetStream) -> None:
        """Leave the stream to the sweep; the oldest makes room when there are too many."""
        while len(self._streams) >= MAX_LINGERING_STREAMS:
            await reset_quietly(self._streams.popitem(last=False)[0])
        self._streams[net_stream] = trio.current_time() + CLOSE_LINGER_S

    async def run(self) -> None:
        """Sweep for as long as the host lives."""
        while True:
            await trio.sleep(_SWEEP_INTERVAL_S)
            while self._streams:
                net_stream, deadline = next(iter(self._streams.items()))
                if deadline > trio.current_time():
                    break
                self._streams.pop(net_stream, None)
                if not _is_over(net_stream):
                    await reset_quietly(net_stream)


def _is_over(net_stream: INetStream) -> bool:
    muxed_stream: Any = getattr(net_stream, "muxed_stream", None)
    closed = getattr(muxed_stream, "closed", None)  # a YamuxStream; a QUIC stream has no half end
    return bool(closed) if isinstance(closed, bool) else True


async def reset_quietly(net_stream: INetStream) -> None:
    """Reset whatever state the stream is in; bounded, and safe under cancellation."""
    with shielded(STREAM_END_TIMEOUT_S):
        try:
            await net_stream.reset()
        except Exception as error:  # noqa: BLE001 - the stream is over in any case
            _log.debug("reset failed", error=repr(error))


class Libp2pStream:
    """One stream. See ``codio_dht.net.host.Stream``."""

    def __init__(
        self,
        net_stream: INetStream,
        peer_id: PeerId,
        protocol: str,
        lingering: Lingering,
        *,
        question: bytes = b"",
    ) -> None:
        self._net_stream = net_stream
        self._peer_id = peer_id
        self._protocol = protocol
        self._lingering = lingering
        self._unsent = question
        self._answer: Answer | None = Answer(protocol) if question else None
        self._buffer = b""
        self._read_ended = False
        self._write_ended = False
        self._ended = False

    @property
    def peer_id(self) -> PeerId:
        """Who is at the other end."""
        return self._peer_id

    @property
    def protocol(self) -> str:
        """What is spoken on it."""
        return self._protocol

    async def negotiate(self) -> None:
        """Wait until the peer has agreed to the protocol."""
        await self._send(b"")
        while self._answer is not None and not self._read_ended:
            self._take(await self._receive())
        if self._answer is not None:
            raise StreamError("the peer ended the stream during the negotiation")

    async def read(self, max_bytes: int) -> bytes:
        """At least one byte, at most ``max_bytes``; ``b""`` when the peer has finished sending."""
        while not self._buffer and not self._read_ended:
            if self._unsent:
                await self._send(b"")
            self._take(await self._receive())
        if self._answer is not None:
            raise StreamError("the peer ended the stream during the negotiation")
        taken, self._buffer = self._buffer[:max_bytes], self._buffer[max_bytes:]
        return taken

    async def write(self, data: bytes) -> None:
        """Send all of ``data``. Cancelled, it resets the stream."""
        await self._send(data)

    async def close_write(self) -> None:
        """Finish sending; reading goes on."""
        if self._write_ended or self._ended:
            return
        await self._send(b"")
        self._write_ended = True
        with foreign_errors("cannot end the stream"):
            await self._net_stream.close_write()  # type: ignore[attr-defined]

    async def close(self) -> None:
        """End the stream normally. Idempotent, never raises."""
        if self._ended:
            return
        self._ended = True
        with shielded(STREAM_END_TIMEOUT_S) as scope:
            try:
                if self._unsent:
                    await self._net_stream.write(self._unsent)
                await self._net_stream.close()
            except Exception as error:  # noqa: BLE001 - ended in any case
                _log.debug("close failed", error=repr(error))
                await reset_quietly(self._net_stream)
            else:
                if not self._read_ended:
                    await self._lingering.add(self._net_stream)
        if scope.cancelled_caught:
            await reset_quietly(self._net_stream)

    async def reset(self) -> None:
        """Abort the stream. Idempotent, never raises, safe under cancellation."""
        if self._ended:
            return
        self._ended = True
        await reset_quietly(self._net_stream)

    # --- inside -----------------------------------------------------------------------------------

    async def _send(self, data: bytes) -> None:
        if self._ended or self._write_ended:
            raise StreamError("the stream is ended")
        data, self._unsent = self._unsent + data, b""
        if not data:
            return
        try:
            with foreign_errors("cannot write"):
                await self._net_stream.write(data)
        except trio.Cancelled:
            await self.reset()
            raise

    async def _receive(self) -> bytes:
        """What arrived; ``b""`` at the peer's end, which is then noted."""
        if self._ended:
            raise StreamError("the stream is ended")
        try:
            with foreign_errors("cannot read"):
                data = await self._net_stream.read(READ_CHUNK_BYTES)
        except StreamError as error:
            if not isinstance(error.__cause__, EOFError):
                raise
            data = b""
        if not data:
            self._note_end()
        return data

    def _note_end(self) -> None:
        muxed_stream: Any = getattr(self._net_stream, "muxed_stream", None)
        if getattr(muxed_stream, "reset_received", False):
            raise StreamError("the peer reset the stream")
        muxed_conn: Any = self._net_stream.muxed_conn
        shutting_down = getattr(muxed_conn, "event_shutting_down", None)
        if muxed_conn.is_closed or (shutting_down is not None and shutting_down.is_set()):
            raise StreamError("the connection ended")
        self._read_ended = True

    def _take(self, data: bytes) -> None:
        if self._answer is not None and data:
            data = self._answer.feed(data)
            if self._answer.is_done:
                self._answer = None
        self._buffer += data
