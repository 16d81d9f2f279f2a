"""Keeps an active node's own keys provided by the real sweep, as ``node.sweeping`` does in a node.

Decides nothing: ``core.sweep`` says which part of the keyspace is due, ``core.region_sweep`` says
who gets which record.
"""

from __future__ import annotations

from collections.abc import Callable

from codio_dht.core.clock import UnixTime
from codio_dht.core.delivery import Parcel, provider_parcel
from codio_dht.core.keyspace import key_of
from codio_dht.core.lookup_states import StopReason
from codio_dht.core.messages import FailureReason, Reply
from codio_dht.core.netsize import UnknownNetworkSizeError
from codio_dht.core.region_sweep import GiveAll, Look, RegionSweep, RegionSwept
from codio_dht.core.regions import Place, RegionMap, place_of
from codio_dht.core.steps import Ask, Wait, Working
from codio_dht.core.sweep import Measure, Rest, Sweep, SweepStep, Turn
from codio_dht.sim.events import Alarm, Resume, suspend
from codio_dht.sim.node import SimNode

Provided = Callable[[bytes, int], None]
"""A key was provided: to so many holders."""


class SimulatedProviding:
    """Provides the own keys of one node, which are on its disk, whenever they are due.
    ``provided`` is told of each."""

    def __init__(self, node: SimNode, provided: Provided) -> None:
        scenario = node.world.scenario
        self._node = node
        self._queue = node.world.queue
        self._keys = node.storage.disk.own_keys
        self._provided = provided
        self._sweep = Sweep(
            node.member.peer.key,
            node.world.rng,
            interval_s=scenario.records.republish_interval_s,
            k=scenario.network.k,
        )
        oldest = min((at for at in self._keys.values() if at is not None), default=UnixTime(0.0))
        self._sweep.opened([(Place(0), oldest)])
        self._alarm = Alarm(self._queue, self._provide_due)
        self._alarm.set(self._queue.now)

    def _provide_due(self) -> None:
        """Begin the turns that are due, and schedule the next look at the schedule."""
        while not self._node.stopped:
            match step := self._next():
                case Turn():
                    self._sweep.begun(step)
                    self._node.caller.start(self._take_turn(step))
                case Measure(preimage):
                    self._node.caller.start(self._measure(preimage))
                    return
                case Rest(until):
                    self._alarm.set(self._queue.now + max(0.0, until - self._queue.unix))
                    return

    def _next(self) -> SweepStep:
        network, now = self._node.network, self._queue.unix
        known = len(network.table)
        if known and not network.outage.suspected:
            self._sweep.somebody()
        else:
            self._sweep.nobody(now)
        self._sweep.grown(known)
        try:
            size = network.size.estimate(self._queue.now)
        except UnknownNetworkSizeError:
            size = None
        return self._sweep.next(now, self._waiting(now), known, size)

    def _waiting(self, now: UnixTime) -> Place | None:
        """The first place of a key that was never provided, outside of what is busy."""
        busy = self._sweep.busy(now)
        waiting = sorted(place_of(key_of(key)) for key, at in self._keys.items() if at is None)
        for place in waiting:
            if not any(start <= place < end for start, end in busy):
                return place
        return None

    async def _measure(self, preimage: bytes) -> None:
        await self._node.closest(preimage)
        self._provide_due()

    async def _take_turn(self, turn: Turn) -> None:
        sweep, network, began = self._sweep, self._node.network, self._queue.unix
        keys = [
            key
            for key, at in self._keys.items()
            if turn.start <= place_of(key_of(key)) < turn.end
            and not (turn.waiting_only and at is not None)
        ]
        machine = RegionSweep(
            network,
            self._node.searches.requests,
            self._node.world.rng,
            RegionMap(network.k),
            keys,
            self._parcel,
        )
        swept = await suspend(lambda resume: _Region(self._node, machine, self._parcel, resume))
        for key in keys:
            self._provided(key, machine.holders_of(key))
        self._keys |= dict.fromkeys(swept.held, began)
        self._keys |= dict.fromkeys(swept.unheld)
        if swept.held or not keys:
            sweep.swept(
                turn, turn.start, turn.end, began, keys=len(swept.held), copies=swept.copies
            )
        failed = bool(swept.unheld) and not swept.held
        left = [place_of(key_of(key)) for key in swept.unheld]
        known = len(network.table)
        sweep.ended(turn, self._queue.unix, failed=failed, known=known, left=left)
        self._alarm.set(self._queue.now)

    def _parcel(self, key: bytes) -> Parcel:
        return provider_parcel(key, self._node.member.entry)


class _Region:
    """One region under way. ``resume`` is told the result."""

    def __init__(
        self,
        node: SimNode,
        machine: RegionSweep,
        parcel_of: Callable[[bytes], Parcel],
        resume: Resume,
    ) -> None:
        self._node = node
        self._queue = node.world.queue
        self._machine = machine
        self._parcel_of = parcel_of
        self._resume = resume
        self._alarm = Alarm(self._queue, self._step)
        self._alarm.set(self._queue.now)

    def _step(self) -> None:
        start = self._node.caller.start
        while self._resume.awaited:
            match step := self._machine.next(self._queue.now):
                case RegionSwept():
                    self._resume(step)
                case Wait():
                    return
                case Working():
                    pass  # computing takes no virtual time
                case Look():
                    start(self._look(step))
                case GiveAll():
                    start(self._give(step))
                case Ask():
                    start(self._ask(step))

    async def _look(self, look: Look) -> None:
        done = (await self._node.closest(look.preimage)).done
        completed = done.reason is StopReason.COMPLETED
        self._machine.on_looked(look, done.alive if completed else None)
        self._step()

    async def _give(self, give: GiveAll) -> None:
        """Send one record after the other, until one is not taken."""
        self._node.caller.running += 1
        failure = None
        for key in give.keys:
            request = self._parcel_of(key).request
            outcome = await self._node.caller.request(give.peer, request, give.deadline)
            if isinstance(outcome, FailureReason):
                failure = outcome
                break
        self._node.caller.running -= 1
        if failure is None:
            self._machine.on_given(give)
        else:
            self._machine.on_not_given(give, failure, self._queue.now)
        self._step()

    async def _ask(self, ask: Ask) -> None:
        self._node.caller.running += 1
        outcome = await self._node.caller.request(ask.peer, ask.request, ask.deadline)
        self._node.caller.running -= 1
        if isinstance(outcome, Reply):
            self._machine.on_reply(ask, outcome, self._queue.now)
        else:
            assert isinstance(outcome, FailureReason)
            self._machine.on_failure(ask, outcome, self._queue.now)
        self._step()
