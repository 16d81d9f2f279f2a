"""Runs searches and deliveries on the virtual clock: the counterpart of ``node.lookups``.

Decides nothing of Kademlia. It performs the steps of a machine, reports how each ended, and checks
the invariants at every step. It counts what the report needs.
"""

from __future__ import annotations

from typing import Any

from codio_dht.core.delivery import Delivered, Delivery, Give, Receipt, Searched
from codio_dht.core.lookup_states import Done, RequestFailed
from codio_dht.core.messages import FailureReason, Reply, Request
from codio_dht.core.peer import PeerId
from codio_dht.core.search import Begin, ProviderSearch, Search, stragglers_may_go_on
from codio_dht.core.steps import Ask, Wait, Working
from codio_dht.core.validation import Judge
from codio_dht.core.value_search import ValueSearch
from codio_dht.sim.events import Alarm, Process, Resume
from codio_dht.sim.exchange import Caller
from codio_dht.sim.invariants import check_ask, check_done, check_wait
from codio_dht.sim.report import SearchReport
from codio_dht.sim.values import judge


class Drive:
    """One running machine. ``resume`` is told its last step, when it has ended."""

    def __init__(self, caller: Caller, machine: Search[Any] | Delivery, resume: Resume) -> None:
        self._caller = caller
        self._queue = caller.world.queue
        self._machine = machine
        self._resume = resume
        self._began = caller.world.queue.now
        self._asked: dict[tuple[PeerId, Request], None] = {}
        self._open: dict[Ask | Give | Judge, Process] = {}
        """The steps under way."""
        self._answered: dict[PeerId, None] = {}
        self._depth: dict[PeerId, int] = {}
        """Length of the chain of referrals to whom replies named."""
        self._found: list[tuple[float, Any]] = []
        self._alarm = Alarm(self._queue, self._step)
        self._alarm.set(self._began)

    def report(self, search: Search[Any], done: Done) -> SearchReport:
        """The outcome of ``search``, which has ended."""
        nearest = next(iter(done.answered), None)
        return SearchReport(
            target=search.target,
            done=done,
            began_s=self._began,
            took_s=self._queue.now - self._began,
            requests=search.requests,
            failures=sum(isinstance(each, RequestFailed) for each in search.events),
            hops=0 if nearest is None else self._depth.get(nearest, 1),
            found=self._found,
        )

    # --- steps ------------------------------------------------------------------------------------

    def _step(self) -> None:
        while self._resume.awaited:
            match step := self._machine.next(self._queue.now):
                case Ask() | Give():
                    check_ask((step.peer, step.request), self._caller.member.peer, self._asked)
                    self._asked[step.peer, step.request] = None
                    self._open[step] = self._caller.start(self._send(step))
                case Judge():
                    self._open[step] = self._caller.start(self._judge(step))
                case Begin() | Working():
                    pass  # everybody has a turn at once, and computing takes no virtual time
                case Wait(until):
                    check_wait(until, self._queue.now, len(self._open))
                    self._alarm.set(until)
                    return
                case Searched(done):
                    self._search_over(done)
                case Done():
                    self._search_over(step)
                    self._resume(step)
                case Delivered():
                    self._resume(step)

    def _search_over(self, done: Done) -> None:
        machine, caller = self._machine, self._caller
        self._take_found()
        check_done(done, machine.target, caller.member.peer, self._answered)
        if not stragglers_may_go_on(done, caller.running):
            for ask in machine.open_requests():
                if ask in self._open:
                    self._open[ask].cancel()
        caller.world.touched.append(caller.member)

    async def _send(self, step: Ask | Give) -> None:
        """Send a request and report how it ended. An answer after the end of the search still
        helps later searches."""
        self._caller.running += 1
        try:
            outcome = await self._caller.request(step.peer, step.request, step.deadline)
        finally:
            self._caller.running -= 1
            del self._open[step]
        now, machine = self._queue.now, self._machine
        match step, outcome:
            case Ask(), Reply():
                self._note(step, outcome)
                machine.on_reply(step, outcome, now)
            case Ask(), FailureReason():
                machine.on_failure(step, outcome, now)
            case Give(), Receipt() | Reply() if isinstance(machine, Delivery):
                machine.on_given(step, outcome)
            case Give(), FailureReason() if isinstance(machine, Delivery):
                machine.on_not_given(step, outcome, now)
            case _:
                raise AssertionError(f"no end of {step} is {outcome}")
        self._take_found()
        self._step()

    async def _judge(self, step: Judge) -> None:
        """Let the application's validator judge, and report its verdict."""
        assert isinstance(self._machine, ValueSearch), "only a search for a value judges"
        await self._queue.sleep(0.0)
        verdict = await judge(self._queue, self._caller.world.values.validators, step.check)
        del self._open[step]
        self._machine.on_verdict(step, verdict)
        self._take_found()
        self._step()

    def _take_found(self) -> None:
        """Collect what a search for providers or for a value has found by now."""
        if isinstance(self._machine, ProviderSearch | ValueSearch):
            took_s = self._queue.now - self._began
            self._found += [(took_s, each) for each in self._machine.take_found()]

    def _note(self, ask: Ask, reply: Reply) -> None:
        if self._resume.awaited:
            self._answered[ask.peer] = None
        if isinstance(self._machine, Search) and not self._depth:
            self._depth = dict.fromkeys(self._machine.seeds, 1)
        depth = self._depth.setdefault(ask.peer, 1) + 1
        for entry in reply.closer_peers:
            self._depth.setdefault(entry.peer_id, depth)
