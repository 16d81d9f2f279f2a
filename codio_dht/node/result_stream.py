"""What a lookup finds as an async iterator, while the lookup goes on.

Decides how a search and its reader find each other's end: the search ends when the reader closes
the stream or drops it, the reader when the search is over. The two share a ``_Findings``; the
search never holds the stream itself, or nobody could tell that its reader dropped it.
"""

from __future__ import annotations

import weakref
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Generic, Self, TypeVar

import trio

from codio_dht.errors import CodioError, NotRunningError
from codio_dht.logger import get_logger

log = get_logger(__name__)

Found = TypeVar("Found")
"""What the lookup finds."""

Result = TypeVar("Result")
"""What the reader gets for it."""


class _Findings(Generic[Found]):
    """What a search has found and the reader not yet taken. The lookup's own bounds bound it
    (:data:`~codio_dht.core.search.MAX_PROVIDERS_PER_LOOKUP`, each at most twice;
    :data:`~codio_dht.core.lookup.MAX_LOOKUP_PEERS`)."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.found: deque[Found] = deque()
        self.over = False
        self.failure: Exception | None = None
        self.moved = trio.Event()

    def wake_reader(self) -> None:
        self.moved.set()
        self.moved = trio.Event()


class ResultStream(Generic[Found, Result]):
    """An async iterator over results. Also an async context manager that closes it."""

    def __init__(self, result: Callable[[Found], Result]) -> None:
        self._result = result
        self.findings: _Findings[Found] = _Findings()
        findings = self.findings
        # May run in any thread, wherever the garbage collector does: so by way of the loop.
        soon = trio.lowlevel.current_trio_token().run_sync_soon
        self._dropped = weakref.finalize(self, _cancel_soon, soon, findings.scope)
        self._dropped.atexit = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Result:
        findings = self.findings
        while not findings.found:
            if findings.failure is not None:
                failure, findings.failure = findings.failure, None
                raise failure
            if findings.over:
                raise StopAsyncIteration
            await findings.moved.wait()
        await trio.lowlevel.checkpoint()
        return self._result(findings.found.popleft())

    async def aclose(self) -> None:
        """End the search. Idempotent."""
        self.findings.scope.cancel()
        self.findings.over = True
        self.findings.found.clear()
        await trio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


async def run_search(
    findings: _Findings[Found],
    find: Callable[[Callable[[Found], None]], Awaitable[object]],
    failures: Counter[str],
) -> None:
    """Run ``find`` into ``findings`` until it is over or cancelled; its error is the reader's."""

    def found(each: Found) -> None:
        findings.found.append(each)
        findings.wake_reader()

    complete = False
    try:
        with findings.scope:
            await find(found)
        complete = True  # or ended by its reader, which the scope keeps to itself
    except Exception as error:
        findings.failure = error
        if not isinstance(error, CodioError):
            failures["search"] += 1
            log.exception("search_failed")
    finally:
        if not complete and not findings.over and findings.failure is None:
            findings.failure = NotRunningError("the DHT was closed while the search went on")
        findings.over = True
        findings.wake_reader()


def _cancel_soon(soon: Callable[[Callable[[], None]], None], scope: trio.CancelScope) -> None:
    try:
        soon(scope.cancel)
    except trio.RunFinishedError:
        pass
