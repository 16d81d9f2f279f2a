"""Serves an inbound stream with a ``StreamHandler``: reads, feeds, writes, and ends it well.

One task for each stream (the connection's), no others. A stream's life::

    READING --bytes--> feed --bytes--> WRITING --> READING
    READING --end----> eof  --bytes--> WRITING --> CLOSED
    feed or eof --Parked--> PARKED --ready--> feed(b"")
    anything --Reset, an exception, idle time, a write that takes too long, unserve--> RESET

However it ends, ``closed()`` is called exactly once. ``Budget`` bounds how many streams one peer
and all peers together may have.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.errors import CodioError, StreamError
from codio_dht.logger import get_logger
from codio_dht.net.handlers import Parked, Reset, StreamHandler, StreamHandlerFactory
from codio_dht.net.libp2p_host.guards.counters import Counters
from codio_dht.net.libp2p_host.limits import (
    MAX_INBOUND_STREAMS,
    MAX_INBOUND_STREAMS_PER_PEER,
    PARKED_TIMEOUT_S,
    READ_CHUNK_BYTES,
    STREAM_WRITE_TIMEOUT_S,
)
from codio_dht.net.libp2p_host.stream import Libp2pStream

_log = get_logger(__name__)


def now() -> Monotonic:
    """The time of the host's clock."""
    return Monotonic(trio.current_time())


class Budget:
    """How many inbound streams are being served, of each peer and in all."""

    def __init__(self) -> None:
        self._of_peer: Counter[PeerId] = Counter()
        self._total = 0

    @property
    def total(self) -> int:
        """Streams being served."""
        return self._total

    def take(self, peer_id: PeerId) -> bool:
        """Whether there is room for one more stream of the peer; takes it if so."""
        if (
            self._total >= MAX_INBOUND_STREAMS
            or self._of_peer[peer_id] >= MAX_INBOUND_STREAMS_PER_PEER
        ):
            return False
        self._total += 1
        self._of_peer[peer_id] += 1
        return True

    def give_back(self, peer_id: PeerId) -> None:
        """One stream of the peer has ended."""
        self._total -= 1
        self._of_peer[peer_id] -= 1
        if not self._of_peer[peer_id]:
            del self._of_peer[peer_id]


class ActiveStreams:
    """The inbound streams of each protocol, so that ``unserve`` can end them."""

    def __init__(self) -> None:
        self._scopes: defaultdict[str, set[trio.CancelScope]] = defaultdict(set)

    @contextmanager
    def entered(self, protocol: str) -> Iterator[trio.CancelScope]:
        """The block is one stream of ``protocol``; ``end`` leaves it."""
        with trio.CancelScope() as scope:
            self._scopes[protocol].add(scope)
            try:
                yield scope
            finally:
                self._scopes[protocol].discard(scope)

    def end(self, protocol: str) -> None:
        """End every stream of ``protocol``."""
        for scope in self._scopes.pop(protocol, set()):
            scope.cancel()


async def serve(
    stream: Libp2pStream,
    factory: StreamHandlerFactory,
    idle_timeout_s: float,
    counters: Counters,
) -> None:
    """Serve ``stream`` to its end. Raises nothing but ``trio.Cancelled``."""
    handler: StreamHandler | None = None
    clean = False
    try:
        handler = factory(stream.peer_id)
        await _serve(stream, handler, idle_timeout_s, counters)
        clean = True
    except (StreamError, trio.TooSlowError) as error:
        counters.add("inbound_streams_broken")
        _log.debug("inbound stream broken", protocol=stream.protocol, error=str(error))
    except CodioError as error:
        counters.add("inbound_streams_reset")
        _log.debug("inbound stream reset", protocol=stream.protocol, reason=str(error))
    except Exception as error:  # noqa: BLE001 - the outermost edge of a stream's task
        counters.add("stream_handler_errors")
        _log.warning("stream handler raised", protocol=stream.protocol, exc_info=error)
    finally:
        if not clean:
            await stream.reset()
        if handler is not None:
            _tell_closed(handler, stream, counters)


class _ResetError(CodioError):
    """The handler asked for a reset."""


async def _serve(
    stream: Libp2pStream, handler: StreamHandler, idle_timeout_s: float, counters: Counters
) -> None:
    while True:
        with trio.move_on_after(idle_timeout_s) as scope:
            data = await stream.read(READ_CHUNK_BYTES)
        if scope.cancelled_caught:
            counters.add("inbound_streams_idle")
            raise _ResetError("idle")
        answer = handler.feed(data, now()) if data else handler.eof(now())
        while isinstance(answer, Parked):
            await _park(stream, answer)
            answer = handler.feed(b"", now())
        if isinstance(answer, Reset):
            raise _ResetError(answer.reason)
        await _write(stream, answer)
        if not data:
            await stream.close()
            return


async def _park(stream: Libp2pStream, parked: Parked) -> None:
    ready = trio.Event()
    parked.on_ready(ready.set)
    await _write(stream, parked.data)
    with trio.fail_after(PARKED_TIMEOUT_S):
        await ready.wait()


async def _write(stream: Libp2pStream, data: bytes) -> None:
    if data:
        with trio.fail_after(STREAM_WRITE_TIMEOUT_S):
            await stream.write(data)


def _tell_closed(handler: StreamHandler, stream: Libp2pStream, counters: Counters) -> None:
    try:
        handler.closed()
    except Exception as error:  # noqa: BLE001 - as above: a handler's defect ends its stream only
        counters.add("stream_handler_errors")
        _log.warning("stream handler raised", protocol=stream.protocol, exc_info=error)
