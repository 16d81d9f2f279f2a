"""A stream of the node: the port's ``Stream`` over a channel of a link.

Lazy: the proposal of the protocol waits for the first write (or read) and leaves with it; a peer
that does not speak it is told of by the first read. What arrives waits here and counts against the
stream's window until it is read. A cancelled write resets the stream; nothing else is harmed.
"""

from __future__ import annotations

from typing import Final

import trio
from trio.lowlevel import checkpoint

from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.errors import CapacityError, DeadlineError, StreamError, UnsupportedProtocolError
from codio_dht.net.link import Link, now
from codio_dht.net.stack.channel import Channel
from codio_dht.net.stack_host.limits import WRITE_PIECE_BYTES

_ENDED: Final = "the stream is ended"


class StackStream:
    """See ``codio_dht.net.host.Stream``; a :class:`~codio_dht.net.link.ChannelUser`."""

    __slots__ = (
        "_agreed",
        "_channel",
        "_ended",
        "_eof",
        "_error",
        "_inbox",
        "_link",
        "_moved",
        "_peer_id",
        "_protocol",
        "_streams",
        "_write_ended",
        "_written_at",
    )

    def __init__(self, link: Link, channel: Channel, protocol: str, *, agreed: bool) -> None:
        assert link.peer_id is not None
        self._link = link
        self._streams = link.streams
        self._channel = channel
        self._peer_id = link.peer_id
        self._protocol = protocol
        self._agreed = agreed
        self._inbox = bytearray()
        self._eof = False
        self._error: StreamError | None = None
        self._ended = False
        self._write_ended = False
        self._written_at: Monotonic | None = None
        self._moved: trio.Event | None = None
        channel.user = self

    @property
    def peer_id(self) -> PeerId:
        """Who is at the other end."""
        return self._peer_id

    @property
    def protocol(self) -> str:
        """What is spoken on it."""
        return self._protocol

    async def agree(self) -> None:
        """Wait until the peer has agreed to the protocol."""
        self._link.flush()
        while not self._agreed:
            self._check()
            await self._wait()

    async def read(self, max_bytes: int) -> bytes:
        """At least one byte, at most ``max_bytes``; ``b""`` when the peer has finished sending."""
        await checkpoint()
        if not self._inbox:
            self._link.flush()
        while not self._inbox:
            self._check()
            if self._eof:
                return b""
            await self._wait()
        if self._ended:
            raise StreamError(_ENDED)
        taken = bytes(self._inbox[:max_bytes])
        del self._inbox[:max_bytes]
        self._streams.consume(self._channel, len(taken))
        self._link.flush()
        return taken

    async def write(self, data: bytes) -> None:
        """Send all of ``data``. Cancelled, it resets the stream."""
        self._check()
        if self._write_ended:
            raise StreamError(_ENDED)
        try:
            if len(data) <= WRITE_PIECE_BYTES:
                await self._send(data)
                return
            view = memoryview(data)
            for at in range(0, len(data), WRITE_PIECE_BYTES):
                await self._send(bytes(view[at : at + WRITE_PIECE_BYTES]))
        except BaseException:
            self._reset()
            raise

    async def close_write(self) -> None:
        """Finish sending; reading goes on."""
        if self._write_ended or self._ended:
            return
        self._check()
        self._write_ended = True
        self._streams.close_write(self._channel)
        self._link.flush()
        await checkpoint()

    async def close(self) -> None:
        """End the stream normally. Idempotent, never raises."""
        if not self._ended:
            self._ended = True
            self._note_silence()
            self._streams.close(self._channel, now())
            self._link.flush()
            self._wake()

    async def reset(self) -> None:
        """Abort the stream. Idempotent, never raises, safe under cancellation."""
        self._reset()

    def abort(self) -> None:
        """``reset``, from where nothing can be awaited."""
        self._reset()

    # --- inside -----------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._ended:
            raise StreamError(_ENDED)

    async def _send(self, data: bytes) -> None:
        self._check()
        self._written_at = now()
        try:
            self._streams.send(self._channel, data)
        except CapacityError as error:
            raise StreamError("too much waits to be sent on this connection") from error
        self._link.flush()
        await checkpoint()
        while self._link.congested:
            await self._link.drained()
        while self._channel.stream.unsent:
            self._check()
            await self._wait()

    async def _wait(self) -> None:
        """Until something happened."""
        if self._moved is None:
            self._moved = trio.Event()
        await self._moved.wait()

    def _wake(self) -> None:
        moved, self._moved = self._moved, None
        if moved is not None:
            moved.set()

    def _note_silence(self) -> None:
        """Tell the link if what was written last was never answered by anything."""
        if self._written_at is not None:
            self._link.unanswered(self._written_at)

    def _reset(self) -> None:
        if not self._ended:
            self._ended = True
            self._inbox.clear()
            self._note_silence()
            self._streams.reset(self._channel)
            self._link.flush()
            self._wake()

    # --- what happens -----------------------------------------------------------------------------

    def on_ready(self) -> None:
        """See ``ChannelUser``."""
        self._agreed = True
        self._wake()

    def on_refused(self) -> None:
        """See ``ChannelUser``."""
        self._error = UnsupportedProtocolError(f"{self._peer_id} does not speak {self._protocol}")
        self._wake()

    def on_data(self, data: bytes) -> None:
        """See ``ChannelUser``."""
        if not self._ended:
            self._inbox += data
            self._wake()

    def on_eof(self) -> None:
        """See ``ChannelUser``."""
        self._eof = True
        self._wake()

    def on_reset(self, reason: str) -> None:
        """See ``ChannelUser``."""
        if self._error is None:
            self._error = StreamError(f"the stream was reset: {reason}")
        self._wake()

    def on_writable(self) -> None:
        """See ``ChannelUser``."""
        self._wake()


async def open_stream(
    link: Link, protocol: str, deadline: Monotonic, *, eager: bool
) -> StackStream:
    """A new stream on ``link``, waiting for room if there are too many.

    ``eager`` waits until the peer has agreed to the protocol.

    Raises:
        UnsupportedProtocolError: the peer does not speak it (``eager`` only).
        StreamError: the link ended.
        DeadlineError: the deadline passed first; ``local`` if the link never had room for one more
            stream of ours.
    """
    await checkpoint()
    stream: StackStream | None = None
    try:
        with trio.fail_at(deadline):
            stream = await _open(link, protocol)
            if eager:
                try:
                    await stream.agree()
                except BaseException:
                    stream.abort()
                    raise
            return stream
    except trio.TooSlowError as error:
        reason = f"no stream to {link.peer_id} before the deadline"
        raise DeadlineError(reason, local=stream is None) from error


async def _open(link: Link, protocol: str) -> StackStream:
    while True:
        try:
            channel = link.streams.open([protocol], now())
        except CapacityError:
            await link.capacity()
        else:
            return StackStream(link, channel, protocol, agreed=False)
