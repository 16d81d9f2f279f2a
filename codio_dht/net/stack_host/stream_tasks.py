"""Inbound streams that live with a task: what ``serve_stream`` serves.

One task per stream, bounded in all and per peer; a stream past a bound is reset. A handler that
returns leaves its stream closed, one that raises leaves it reset, and harms nobody else.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable

import trio

from codio_dht.core.peer import PeerId
from codio_dht.errors import StreamError
from codio_dht.logger import get_logger
from codio_dht.net.host import Stream
from codio_dht.net.stack_host.limits import MAX_STREAM_TASKS, MAX_STREAM_TASKS_PER_PEER
from codio_dht.net.stack_host.stream import StackStream

_log = get_logger(__name__)

StreamTask = Callable[[Stream], Awaitable[None]]


class StreamTasks:
    """Runs the handlers, each under a scope of its own."""

    def __init__(self, nursery: trio.Nursery, counters: Counter[str]) -> None:
        self._nursery = nursery
        self._counters = counters
        self._of_peer: Counter[PeerId] = Counter()
        self._scopes: defaultdict[str, set[trio.CancelScope]] = defaultdict(set)
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def start(self, stream: StackStream, handler: StreamTask) -> None:
        """Run ``handler`` on ``stream``, if that is within the bounds."""
        if (
            self._total >= MAX_STREAM_TASKS
            or self._of_peer[stream.peer_id] >= MAX_STREAM_TASKS_PER_PEER
        ):
            self._counters["stream_tasks_refused"] += 1
            stream.abort()
            return
        self._total += 1
        self._of_peer[stream.peer_id] += 1
        scope = trio.CancelScope()
        self._scopes[stream.protocol].add(scope)
        self._nursery.start_soon(self._run, stream, handler, scope)

    def end(self, protocol: str) -> None:
        """End the tasks of a protocol."""
        for scope in self._scopes.pop(protocol, set()):
            scope.cancel()

    async def _run(self, stream: StackStream, handler: StreamTask, scope: trio.CancelScope) -> None:
        with scope:
            try:
                await handler(stream)
                await stream.close()
            except StreamError as error:
                _log.debug("stream ended", protocol=stream.protocol, error=str(error))
            except Exception as error:  # noqa: BLE001 - the outermost edge of a stream's task
                self._counters["stream_handler_errors"] += 1
                _log.warning("stream handler raised", protocol=stream.protocol, exc_info=error)
            finally:
                stream.abort()  # nothing, once closed
                self._scopes[stream.protocol].discard(scope)
                self._total -= 1
                self._of_peer[stream.peer_id] -= 1
                if not self._of_peer[stream.peer_id]:
                    del self._of_peer[stream.peer_id]
