"""Runs one lookup machine of ``core.lookup`` in the simulated network.

Decides nothing about whom to ask: this is the counterpart of ``node.lookup_driver`` and of the
``ask`` of ``node.lookups``, and the only place of the simulator that knows the machine's interface
(with :meth:`~codio_dht.sim.node.SimNode.rules`). It keeps count of what the report needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from codio_dht import params
from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key
from codio_dht.core.lookup import ClosestPeersLookup
from codio_dht.core.lookup_states import Asked, Done, GivenUp, LookBeyond, Query, StopReason
from codio_dht.core.messages import FailureReason, FindNode, PeerEntry, Reply, Request
from codio_dht.core.peer import PeerId
from codio_dht.core.steps import Wait
from codio_dht.core.targeted_lookups import ProvidersLookup
from codio_dht.sim.exchange import Answer, Exchange
from codio_dht.sim.invariants import check_done, check_query, check_wait

if TYPE_CHECKING:
    from codio_dht.sim.node import SimNode


@dataclass(slots=True)
class WalkReport:
    """How one lookup went. Times are virtual seconds."""

    target: Key
    done: Done
    began: float
    ended: float
    requests: int
    failures: int
    hops: int
    """Length of the chain of referrals to the nearest peer that answered; a seed is 1."""
    first_provider_s: float | None = None
    providers: list[PeerEntry] = field(default_factory=list)

    @property
    def took_s(self) -> float:
        """Duration."""
        return self.ended - self.began


Finished = Callable[[WalkReport], None]


class Walk:
    """See the module."""

    def __init__(
        self,
        node: SimNode,
        machine: ClosestPeersLookup,
        *,
        target: Key,
        seeds: Sequence[PeerId],
        request: Request,
        finished: Finished,
    ) -> None:
        self._node = node
        self._world = node.world
        self._network = node.network
        self._machine = machine
        self._told = 0
        self._dialled: dict[PeerId, None] = {}
        self._target = target
        self._request = request
        self._finished = finished
        self._began = node.now
        self._depth: dict[PeerId, int] = dict.fromkeys(seeds, 1)
        self._asked: dict[PeerId, Exchange] = {}
        self._answered: dict[PeerId, None] = {}
        self._beyond: list[Exchange] = []
        self._open = 0
        """Requests under way."""
        self._failures = 0
        self._first_provider_s: float | None = None
        self._wake_at: float | None = None
        self._over = False

    def begin(self) -> None:
        """Start; it ends within the query time-out."""
        queue = self._world.queue
        queue.after(params.QUERY_TIMEOUT_S, self._out_of_time)
        queue.after(0.0, self._pump)

    def cancel(self) -> None:
        """The node is gone."""
        self._over = True
        self._cancel_requests()

    # --- the machine ------------------------------------------------------------------------------

    def _cancel_requests(self) -> None:
        for exchange in (*self._asked.values(), *self._beyond):
            self._node.errands -= exchange.cancel()

    def _pump(self) -> None:
        while not self._over:
            now = self._world.queue.now
            step = self._machine.next(now)
            self._note_events()
            match step:
                case Query(peer):
                    check_query(peer, self._node.member.peer, self._asked)
                    self._ask(peer, now)
                case LookBeyond():
                    self._look_beyond(step, now)
                case Wait(until):
                    check_wait(until, now, self._open)
                    self._wake(until)
                    return
                case Done() as done:
                    self._finish(done)

    def _wake(self, until: Monotonic | None) -> None:
        if until is None or (self._wake_at is not None and self._wake_at <= until):
            return
        self._wake_at = until
        self._world.queue.at(until, self._woken)

    def _woken(self) -> None:
        self._wake_at = None
        self._pump()

    def _out_of_time(self) -> None:
        if not self._over:
            self._machine.stop(StopReason.TIMEOUT)
            self._pump()

    def _note_events(self) -> None:
        """What the memory that lookups share has to know (``node.lookups``)."""
        events = self._machine.events
        for event in events[self._told :]:
            if isinstance(event, Asked) and not self._node.is_connected(event.peer):
                self._dialled[event.peer] = None
            elif isinstance(event, GivenUp):
                self._network.health.given_up(
                    event.peer,
                    event.waited_s,
                    event.at,
                    reached=event.alive_at == event.at,
                    dialled=event.peer in self._dialled,
                )
        self._told = len(events)

    # --- requests ---------------------------------------------------------------------------------

    def _ask(self, peer: PeerId, now: Monotonic) -> None:
        deadline = Monotonic(now + params.PEER_TIMEOUT_S)
        self._node.errands += 1
        self._open += 1
        self._asked[peer] = self._node.ask(
            peer, self._request, deadline, lambda answer: self._report(peer, answer)
        )

    def _look_beyond(self, step: LookBeyond, now: Monotonic) -> None:
        """Ask for a key beside the target, as ``node.lookups`` does."""
        preimage = self._node.preimage_near(step.point, step.cpl)
        if preimage is None:
            self._machine.on_beyond(step.peer, step.point, (), now)
            return
        deadline = Monotonic(now + params.PEER_TIMEOUT_S)
        self._node.errands += 1
        self._open += 1
        self._beyond.append(
            self._node.ask(
                step.peer, FindNode(preimage), deadline, lambda answer: self._seen(step, answer)
            )
        )

    def _seen(self, step: LookBeyond, answer: Answer) -> None:
        self._node.errands -= 1
        self._open -= 1
        now = self._node.now
        closer: list[PeerId] = []
        if isinstance(answer, Reply):
            self._network.answered(step.peer, now)
            closer = self._learn(step.peer, answer, now)
        else:
            why = answer if isinstance(answer, FailureReason) else FailureReason.BROKEN
            self._network.failed(step.peer, why, now)
        self._machine.on_beyond(step.peer, step.point, closer, now)
        self._pump()

    def _report(self, peer: PeerId, answer: Answer) -> None:
        """An answer that comes when the lookup is over serves the next ones."""
        self._node.errands -= 1
        self._open -= 1
        now = self._world.queue.now
        if isinstance(answer, Reply):
            if not self._over:
                self._answered[peer] = None
            self._network.answered(peer, now)
            self._take(peer, answer, now)
        else:
            why = answer if isinstance(answer, FailureReason) else FailureReason.BROKEN
            self._failures += 1
            self._network.failed(peer, why, now)
            self._machine.on_failure(peer, why, now)
        self._pump()

    def _take(self, peer: PeerId, reply: Reply, now: Monotonic) -> None:
        machine = self._machine
        if isinstance(machine, ProvidersLookup):
            keep = self._network.address_filter
            entries = [PeerEntry(each.peer_id, keep(each.addrs)) for each in reply.provider_peers]
            if machine.on_providers(peer, entries) and self._first_provider_s is None:
                self._first_provider_s = now - self._began
        machine.on_reply(peer, self._learn(peer, reply, now), now)

    def _learn(self, peer: PeerId, reply: Reply, now: Monotonic) -> list[PeerId]:
        closer = self._network.learn(reply.closer_peers, None, now)
        depth = self._depth[peer] + 1
        for each in closer:
            self._depth.setdefault(each, depth)
        return closer

    def _finish(self, done: Done) -> None:
        self._over = True
        if done.reason is StopReason.TIMEOUT or self._node.errands > params.MAX_STRAGGLERS:
            self._cancel_requests()
        check_done(done, self._target, self._node.member.peer, self._answered)
        nearest = next((each for each in done.answered), None)
        machine = self._machine
        report = WalkReport(
            target=self._target,
            done=done,
            began=self._began,
            ended=self._world.queue.now,
            requests=len(self._asked) + len(self._beyond),
            failures=self._failures,
            hops=0 if nearest is None else self._depth[nearest],
            first_provider_s=self._first_provider_s,
            providers=machine.providers if isinstance(machine, ProvidersLookup) else [],
        )
        self._finished(report)
