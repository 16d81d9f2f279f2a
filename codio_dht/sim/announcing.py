"""Keeps an active node's own keys provided. Counterpart of ``node.providing``.

Decides in what order records are handed out; when a key is due only ``core.reprovide`` decides, and
who holds it the lookup. A record goes to the k closest peers that answered; where one fails, the
next closest takes its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from codio_dht import params
from codio_dht.core.clock import Monotonic
from codio_dht.core.messages import AddProvider, FailureReason, PeerEntry
from codio_dht.core.peer import PeerId
from codio_dht.core.reprovide import REPROVIDE_CHECK_S
from codio_dht.sim.exchange import Answer
from codio_dht.sim.node import SimNode
from codio_dht.sim.walk import WalkReport

Announced = Callable[[bytes, int], None]
"""A key was announced: to so many holders."""


@dataclass(slots=True)
class _Round:
    """One announcement under way: candidates nearest first, and how it stands."""

    key: bytes
    candidates: list[PeerId]
    wanted: int
    holders: int = 0
    attempted: int = 0
    in_flight: int = 0

    def next_peer(self) -> PeerId | None:
        """The nearest candidate not tried, while fewer than wanted hold or may still hold it."""
        if self.holders + self.in_flight >= self.wanted or self.attempted >= len(self.candidates):
            return None
        self.attempted += 1
        self.in_flight += 1
        return self.candidates[self.attempted - 1]


class Announcer:
    """The own keys of one node."""

    def __init__(self, node: SimNode, announced: Announced) -> None:
        self._node = node
        self._queue = node.world.queue
        self._announced = announced
        self._wake_at: float | None = None

    def pump(self) -> None:
        """Announce what is due, and plan to look again."""
        node = self._node
        if node.stopped:
            return
        due, until = node.own_keys.due(self._queue.unix)
        for key in due:
            node.own_keys.begun(key)
            node.closest(key, partial(self._located, key))
        wait_s = REPROVIDE_CHECK_S if not due else 0.0
        if until is not None:
            wait_s = max(0.0, until - self._queue.unix)
        self._wake(self._queue.now + wait_s)

    def _wake(self, moment: float) -> None:
        """One look is planned at a time; an announcement that ends looks at once."""
        if self._wake_at is not None and self._queue.now < self._wake_at <= moment:
            return
        self._wake_at = moment

        def look() -> None:
            if self._wake_at == moment:
                self._wake_at = None
                self.pump()

        if moment > self._queue.now:
            self._queue.at(moment, look)
        else:
            self._wake_at = None

    def _located(self, key: bytes, report: WalkReport) -> None:
        answered = report.done.answered
        if not answered:
            self._over(_Round(key, [], wanted=0))
            return
        spares = [each.peer for each in report.done.next_closest]
        state = _Round(key, answered + spares, wanted=self._node.network.k)
        member = self._node.member
        record = AddProvider(key, (PeerEntry(member.peer, (member.addr,)),))
        self._deliver(state, record)

    def _deliver(self, state: _Round, record: AddProvider) -> None:
        """Hand out as many records as are still wanted."""
        while (peer := state.next_peer()) is not None:
            deadline = Monotonic(self._queue.now + params.PROVIDE_RPC_TIMEOUT_S)
            self._node.ask(
                peer, record, deadline, lambda answer: self._handed(state, record, answer)
            )
        if not state.in_flight:
            self._over(state)

    def _handed(self, state: _Round, record: AddProvider, answer: Answer) -> None:
        state.in_flight -= 1
        state.holders += not isinstance(answer, FailureReason)
        self._deliver(state, record)

    def _over(self, state: _Round) -> None:
        keys = self._node.own_keys
        if state.holders:
            keys.provided(state.key, self._queue.unix)
        else:
            keys.failed(state.key, self._queue.unix)
        self._announced(state.key, state.holders)
        self.pump()
