"""Providers as an async iterator, while the lookup behind it goes on.

Decides how a search and its reader find each other's end: the search ends when the reader closes
the stream or drops it, the reader when the search is over. The two share a ``_Search``; the search
never holds the stream itself, or nobody could tell that its reader dropped it.
"""

from __future__ import annotations

import weakref
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Self

import structlog
import trio

from codio_dht.core.messages import PeerEntry
from codio_dht.core.peer import PeerInfo
from codio_dht.errors import CodioError, NotRunningError

log = structlog.get_logger(__name__)


class _Search:
    """What a search has found and the reader not yet taken. A lookup's own bound on providers
    (:data:`~codio_dht.params.MAX_PROVIDERS_PER_LOOKUP`, each at most twice) bounds it."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.found: deque[PeerEntry] = deque()
        self.over = False
        self.failure: Exception | None = None
        self.moved = trio.Event()

    def stir(self) -> None:
        self.moved.set()
        self.moved = trio.Event()


class ProviderStream:
    """An async iterator over providers. Also an async context manager that closes it."""

    def __init__(self, info: Callable[[PeerEntry], PeerInfo]) -> None:
        self._info = info
        self.search = search = _Search()
        # May run in any thread, wherever the garbage collector does: so by way of the loop.
        soon = trio.lowlevel.current_trio_token().run_sync_soon
        self._dropped = weakref.finalize(self, _cancel_soon, soon, search.scope)
        self._dropped.atexit = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> PeerInfo:
        search = self.search
        while not search.found:
            if search.failure is not None:
                failure, search.failure = search.failure, None
                raise failure
            if search.over:
                raise StopAsyncIteration
            await search.moved.wait()
        await trio.lowlevel.checkpoint()
        return self._info(search.found.popleft())

    async def aclose(self) -> None:
        """End the search. Idempotent."""
        self.search.scope.cancel()
        self.search.over = True
        self.search.found.clear()
        await trio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


async def run_search(
    search: _Search,
    find: Callable[[Callable[[PeerEntry], None]], Awaitable[None]],
    failures: Counter[str],
) -> None:
    """Run ``find`` into ``search`` until it is over or cancelled; its error is the reader's."""

    def found(entry: PeerEntry) -> None:
        search.found.append(entry)
        search.stir()

    complete = False
    try:
        with search.scope:
            await find(found)
        complete = True  # or ended by its reader, which the scope keeps to itself
    except Exception as error:
        search.failure = error
        if not isinstance(error, CodioError):
            failures["iter_providers"] += 1
            log.exception("search_failed")
    finally:
        if not complete and not search.over and search.failure is None:
            search.failure = NotRunningError("the DHT was closed while the search went on")
        search.over = True
        search.stir()


def _cancel_soon(soon: Callable[[Callable[[], None]], None], scope: trio.CancelScope) -> None:
    try:
        soon(scope.cancel)
    except trio.RunFinishedError:
        pass
