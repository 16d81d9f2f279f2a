"""R5: one writer for the socket of a connection, so that nobody's cancellation tears a frame.

Upstream: ``Yamux._write_frame`` (libp2p/stream_muxer/yamux/yamux.py, 0.8.1) writes in the task of
whoever has something to say. ``BaseNoiseMsgReadWriter.write_msg``
(libp2p/security/noise/io.py:64) counts its nonce up before it sends, so a caller cancelled in
between leaves the two ends one message apart: the connection is dead, with every other stream on
it.

Here frames are queued whole, in order, without a wait in between, and one task sends them, several
in one call. What is queued is sent whatever happens to its author. States::

    OPEN --(a write fails, or the socket takes nothing for CONNECTION_WRITE_TIMEOUT_S)--> DEAD
    OPEN --(the connection ends)--> DEAD

In DEAD every call raises ``ConnectionClosedError``. Never holds more than ``MAX_OUTBOX_BYTES`` and
one frame per waiting author.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

import trio
from libp2p.io.exceptions import ConnectionClosedError

from codio_dht.logger import get_logger
from codio_dht.net.libp2p_host.guards.counters import Counters
from codio_dht.net.libp2p_host.limits import (
    CONNECTION_WRITE_TIMEOUT_S,
    MAX_OUTBOX_BYTES,
    WRITE_BATCH_BYTES,
)

_log = get_logger(__name__)


class FrameWriter:
    """The outbox of one connection."""

    def __init__(
        self,
        send: Callable[[bytes], Awaitable[None]],
        abandon: Callable[[], Awaitable[None]],
        counters: Counters,
    ) -> None:
        self._send = send
        self._abandon = abandon
        self._counters = counters
        self._frames: deque[bytes] = deque()
        self._queued_bytes = 0
        self._sending = False
        self._dead = False
        self._work = trio.Event()
        self._progress = trio.Event()

    @property
    def is_dead(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._dead

    def put(self, frame: bytes) -> None:
        """Queue ``frame`` at once, bound or not; for the few small frames that cannot wait.

        Raises:
            ConnectionClosedError: the connection is over.
        """
        if self._dead:
            raise ConnectionClosedError("the connection is closed")
        self._frames.append(frame)
        self._queued_bytes += len(frame)
        self._work.set()

    async def write(self, frame: bytes) -> None:
        """Queue ``frame`` when there is room. Cancelled while it waits, it queues nothing.

        Raises:
            ConnectionClosedError: the connection is over.
        """
        while self._queued_bytes >= MAX_OUTBOX_BYTES and not self._dead:
            await self._progress.wait()
        self.put(frame)

    async def flush(self) -> None:
        """Wait until everything queued so far has been sent, or the connection is over."""
        while (self._frames or self._sending) and not self._dead:
            await self._progress.wait()

    def kill(self) -> None:
        """Nothing more is sent; everyone who waits is told."""
        self._dead = True
        self._frames.clear()
        self._queued_bytes = 0
        self._work.set()
        self._moved()

    async def run(self) -> None:
        """Send until the connection is over."""
        try:
            while not self._dead:
                await self._work.wait()
                self._work = trio.Event()
                while self._frames and not self._dead:
                    await self._send_batch()
        finally:
            self.kill()

    async def _send_batch(self) -> None:
        batch = self._take_batch()
        self._sending = True
        try:
            with trio.fail_after(CONNECTION_WRITE_TIMEOUT_S):
                await self._send(batch)
        except Exception as error:  # noqa: BLE001 - any failed write ends the connection
            self._counters.add("connection_write_errors")
            _log.debug("connection write failed", error=repr(error))
            self.kill()
            await self._abandon()
        finally:
            self._sending = False
            self._moved()

    def _take_batch(self) -> bytes:
        parts = [self._frames.popleft()]
        size = len(parts[0])
        while self._frames and size + len(self._frames[0]) <= WRITE_BATCH_BYTES:
            size += len(self._frames[0])
            parts.append(self._frames.popleft())
        self._queued_bytes -= size
        return b"".join(parts)

    def _moved(self) -> None:
        moved, self._progress = self._progress, trio.Event()
        moved.set()
