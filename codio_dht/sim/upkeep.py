"""Performs the upkeep of an active node's routing table on the virtual clock.

Decides nothing: :mod:`codio_dht.core.upkeep` says what to do and what follows from it, as in a real
node (``node.upkeep`` is the counterpart).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from codio_dht.core.join_round import Dial, JoinProbe
from codio_dht.core.joining import AskNames, Unreachable
from codio_dht.core.messages import FailureReason, PeerEntry, Reply
from codio_dht.core.records import EXPIRY_INTERVAL_S
from codio_dht.core.refresh import CplLookup, SelfLookup
from codio_dht.core.steps import Wait
from codio_dht.core.upkeep import (
    CandidateProbe,
    CheckAlive,
    OwnIdQuery,
    RefreshLookup,
    Upkeep,
    UpkeepStep,
)
from codio_dht.sim.driver import SearchReport
from codio_dht.sim.events import Alarm
from codio_dht.sim.exchange import Outcome
from codio_dht.sim.node import SimNode
from codio_dht.sim.population import Member


class SimulatedUpkeep:
    """The upkeep of one node."""

    def __init__(self, node: SimNode, bootstrap: Sequence[Member]) -> None:
        self._node = node
        self._queue = node.world.queue
        self._machine = Upkeep(node.network, node.caller, _entries(bootstrap), node.world.rng)
        self._joined: Callable[[], None] | None = None
        self._alarm = Alarm(self._queue, self.notify_changed)
        self._running = False
        self._run_again = False

    def begin(self, joined: Callable[[], None] | None = None) -> None:
        """Run the upkeep while the node runs. ``joined`` is called when the first refresh ends."""
        self._joined = joined
        self._node.notify_changed = self.notify_changed
        self._queue.after(0.0, self.notify_changed)
        self._queue.after(EXPIRY_INTERVAL_S, self._expire)

    def remember(self, peers: Sequence[Member]) -> None:
        """Take the peers of an earlier session as candidates."""
        self._machine.joiner.remember(_entries(peers), self._node.now)
        self.notify_changed()

    def notify_changed(self) -> None:
        """Perform the steps that are due. Call it whenever something may have changed."""
        self._run_again = True
        if self._running:
            return
        self._running = True
        while self._run_again and not self._node.stopped:
            self._run_again = False
            while not isinstance(step := self._machine.next(self._node.now), Wait):
                self._perform(step)
            self._alarm.set(step.until)
        self._running = False
        if self._joined is not None and self._node.network.refresh.runs:
            joined, self._joined = self._joined, None
            self._queue.after(0.0, joined)

    def _perform(self, step: UpkeepStep) -> None:
        node = self._node
        match step:
            case Dial(peer, _, deadline):
                done = partial(self._dial_ended, step)
                node.caller.send(peer, None, deadline, done)
            case CandidateProbe(ask) | JoinProbe(ask) | CheckAlive(ask):
                done = partial(self._query_ended, step)
                node.caller.send(ask.peer, ask.request, ask.deadline, done)
            case SelfLookup() | CplLookup():
                self._look_up(step)
            case AskNames() | Unreachable() | Wait():
                pass

    def _dial_ended(self, dial: Dial, outcome: Outcome) -> None:
        if isinstance(outcome, FailureReason):
            self._machine.dial_failed(dial, outcome)
        else:
            self._machine.dialled(dial)
        self.notify_changed()

    def _query_ended(self, query: OwnIdQuery, outcome: Outcome) -> None:
        if isinstance(outcome, Reply):
            self._machine.answered(query, outcome, self._node.now)
        else:
            why = outcome if isinstance(outcome, FailureReason) else FailureReason.BROKEN
            self._machine.failed(query, why, self._node.now)
        self.notify_changed()

    def _look_up(self, lookup: RefreshLookup) -> None:
        def ended(_report: SearchReport | None = None) -> None:
            self._machine.lookup_ended(lookup, self._node.now)
            self.notify_changed()

        preimage = next((each for each in self._machine.preimages(lookup) if each), None)
        if preimage is None:
            self._queue.after(0.0, ended)
        else:
            self._node.closest(preimage, ended)

    def _expire(self) -> None:
        if not self._node.stopped:
            if self._node.disk.rows:
                self._node.keeper.expire()
            self._queue.after(EXPIRY_INTERVAL_S, self._expire)


def _entries(members: Sequence[Member]) -> list[PeerEntry]:
    return [PeerEntry(member.peer, (member.addr,)) for member in members]
