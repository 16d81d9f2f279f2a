"""Work that may outlive the call that began it: the late answers of a lookup that is over, the rest
of a provide that has returned.

Decides that a bug in an errand is logged and counted, and ends nothing else. Whoever starts errands
decides how many there may be, by :attr:`Errands.running`. All end with the node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

import trio

from codio_dht.logger import get_logger

log = get_logger(__name__)


class Errands:
    """Tasks that may outlive the call that began them, and end with the node. ``failures`` counts
    bugs by name of the errand."""

    def __init__(self, failures: Counter[str]) -> None:
        self._failures = failures
        self._nursery: trio.Nursery | None = None
        self.running = 0
        """Errands under way."""

    def open(self, nursery: trio.Nursery) -> None:
        """Errands live in ``nursery`` from now on; to be called before the first :meth:`start`."""
        self._nursery = nursery

    def start(
        self, name: str, work: Callable[[], Awaitable[None]], scope: trio.CancelScope | None = None
    ) -> trio.CancelScope:
        """Begin ``work``; cancelling the scope (a new one, if none is given) ends it."""
        assert self._nursery is not None, "not open"
        scope = trio.CancelScope() if scope is None else scope
        self.running += 1
        self._nursery.start_soon(self._run, name, work, scope)
        return scope

    async def _run(
        self, name: str, work: Callable[[], Awaitable[None]], scope: trio.CancelScope
    ) -> None:
        try:
            with scope:
                await work()
        except Exception:
            self._failures[name] += 1
            log.exception("errand_failed", errand=name)
        finally:
            self.running -= 1
