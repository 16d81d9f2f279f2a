"""Ends the program's calls with the node.

Decides that no call outlives the node. A call of another task that is under way while the node is
closed would wait for background work that has ended; it raises ``NotRunningError`` instead. The
program's own tasks bound how many calls there are; no peer can add one.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import trio

from codio_dht.errors import NotRunningError

P = ParamSpec("P")
T = TypeVar("T")


class Calls:
    """The calls that are under way."""

    def __init__(self) -> None:
        self._scopes: set[trio.CancelScope] = set()
        self._ended = trio.Event()

    def __len__(self) -> int:
        return len(self._scopes)

    @contextmanager
    def running(self) -> Iterator[None]:
        """The block is one call.

        Raises:
            NotRunningError: the node was closed meanwhile.
        """
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)
                self._ended.set()
        if scope.cancelled_caught:
            raise NotRunningError("the DHT was closed while the call was under way")

    async def end(self) -> None:
        """Cancel every call and wait until all have cleaned up. What a call has asked of the store
        already is finished first."""
        for scope in self._scopes:
            scope.cancel()
        with trio.CancelScope(shield=True):
            while self._scopes:
                self._ended = trio.Event()
                await self._ended.wait()


class MakesCalls(Protocol):
    """A class whose methods are calls of the program."""

    def _running_call(self) -> AbstractContextManager[None]:
        """The block is one call (:meth:`Calls.running`), if the node is open."""
        ...


S = TypeVar("S", bound=MakesCalls)


def ended_with_the_node(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Let ``method`` raise ``NotRunningError`` when the node is closed during a call of it."""

    @wraps(method)
    async def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self._running_call():
            return await method(self, *args, **kwargs)

    return call
