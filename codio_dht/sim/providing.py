"""Reprovides an active node's own keys by the real schedule, as ``node.providing`` does in a node.

Decides nothing: ``core.reprovide`` says which keys are due, ``core.delivery`` says who gets the
record."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from codio_dht.core.delivery import Delivered
from codio_dht.core.reprovide import REPROVIDE_CHECK_S
from codio_dht.sim.events import Alarm
from codio_dht.sim.node import SimNode

Provided = Callable[[bytes, int], None]
"""A key was provided: to so many holders."""


class SimulatedProviding:
    """The own keys of one node."""

    def __init__(self, node: SimNode, provided: Provided) -> None:
        self._node = node
        self._queue = node.world.queue
        self._provided = provided
        self._alarm = Alarm(self._queue, self.provide_due)

    def provide_due(self) -> None:
        """Provide the keys that are due, and schedule the next check."""
        node = self._node
        if node.stopped:
            return
        due, until = node.own_keys.due(self._queue.unix)
        for key in due:
            node.own_keys.begun(key)
            node.provide(key, partial(self._over, key))
        if due:
            return  # the end of each looks again
        wait_s = REPROVIDE_CHECK_S
        if until is not None:
            wait_s = max(0.0, until - self._queue.unix)
        self._alarm.set(self._queue.now + wait_s)

    def _over(self, key: bytes, end: Delivered) -> None:
        if end.holders:
            self._node.own_keys.provided(key, self._queue.unix)
        else:
            self._node.own_keys.failed(key, self._queue.unix)
        self._provided(key, end.holders)
        self.provide_due()
