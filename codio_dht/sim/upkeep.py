"""Performs the upkeep of an active node on the virtual clock.

Decides nothing: :mod:`codio_dht.core.upkeep` says what to do and what follows from it, as in a real
node (``node.upkeep``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from codio_dht.core.join_round import Dial, JoinProbe
from codio_dht.core.joining import AskNames, Unreachable
from codio_dht.core.messages import FailureReason, Reply
from codio_dht.core.records import EXPIRY_INTERVAL_S
from codio_dht.core.refresh import CplLookup, SelfLookup
from codio_dht.core.steps import Wait
from codio_dht.core.upkeep import CandidateProbe, CheckAlive, Upkeep, UpkeepStep
from codio_dht.sim.events import Alarm
from codio_dht.sim.node import SimNode
from codio_dht.sim.population import Member


class SimulatedUpkeep:
    """The upkeep of one node."""

    def __init__(self, node: SimNode, bootstrap: Sequence[Member]) -> None:
        self._node = node
        entries = [member.entry for member in bootstrap]
        self._machine = Upkeep(node.network, node.caller, entries, node.world.rng)
        self._joined: Callable[[], None] | None = None
        self._alarm = Alarm(node.world.queue, self.notify_changed)

    def begin(self, joined: Callable[[], None] | None = None) -> None:
        """Run the upkeep while the node runs. ``joined`` is called when the first refresh ends."""
        self._joined = joined
        self._node.notify_changed = self.notify_changed
        self._node.world.queue.after(0.0, self.notify_changed)
        self._node.caller.start(self._expire())

    def remember(self, peers: Sequence[Member]) -> None:
        """Take the peers of an earlier session as candidates."""
        self._machine.joiner.remember([member.entry for member in peers], self._node.now)
        self.notify_changed()

    def notify_changed(self) -> None:
        """Perform the steps that are due. Call it whenever something may have changed."""
        if self._node.stopped:
            return
        while not isinstance(step := self._machine.next(self._node.now), Wait):
            self._node.caller.start(self._perform(step))
        self._alarm.set(step.until)
        if self._joined is not None and self._node.network.refresh.runs:
            joined, self._joined = self._joined, None
            self._node.world.queue.after(0.0, joined)

    async def _perform(self, step: UpkeepStep) -> None:
        """Perform ``step``, and report how it ended."""
        machine, node = self._machine, self._node
        match step:
            case Dial():
                outcome = await node.caller.request(step.peer, None, step.deadline)
                if isinstance(outcome, FailureReason):
                    machine.dial_failed(step, outcome)
                else:
                    machine.dialled(step)
            case CandidateProbe(ask) | JoinProbe(ask) | CheckAlive(ask):
                outcome = await node.caller.request(ask.peer, ask.request, ask.deadline)
                if isinstance(outcome, Reply):
                    machine.answered(step, outcome, node.now)
                else:
                    assert isinstance(outcome, FailureReason), "a question has no other end"
                    machine.failed(step, outcome, node.now)
            case SelfLookup() | CplLookup():
                preimage = next((each for each in machine.preimages(step) if each), None)
                if preimage is None:
                    await node.world.queue.sleep(0.0)
                else:
                    await node.closest(preimage)
                machine.lookup_ended(step, node.now)
            case AskNames() | Unreachable() | Wait():
                return
        self.notify_changed()

    async def _expire(self) -> None:
        while True:
            await self._node.world.queue.sleep(EXPIRY_INTERVAL_S)
            self._node.storage.expire()
