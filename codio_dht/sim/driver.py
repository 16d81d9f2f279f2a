"""Runs searches and deliveries on the virtual clock: the counterpart of ``node.lookups``.

Decides nothing of Kademlia. It performs the steps of a machine, reports how each ended, and checks
the invariants at every step. It counts what the report needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from codio_dht.core.delivery import Delivered, Delivery, Give, Receipt, Searched
from codio_dht.core.keyspace import Key
from codio_dht.core.lookup_states import Done, RequestFailed
from codio_dht.core.messages import FailureReason, PeerEntry, Reply, Request
from codio_dht.core.peer import PeerId
from codio_dht.core.search import Begin, Found, ProviderSearch, Search, stragglers_may_go_on
from codio_dht.core.steps import Ask, Wait, Working
from codio_dht.core.validation import Judge
from codio_dht.sim.events import Alarm
from codio_dht.sim.exchange import Caller, Exchange, Outcome
from codio_dht.sim.invariants import check_ask, check_done, check_wait


@dataclass(slots=True)
class SearchReport:
    """The outcome of one search. Times are virtual seconds."""

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


class Drive:
    """One running machine. ``over`` is called once, when the machine has ended."""

    def __init__(
        self,
        caller: Caller,
        machine: Search[Found] | Delivery,
        over: Callable[[Done | Delivered], None],
    ) -> None:
        self._caller = caller
        self._queue = caller.world.queue
        self._machine = machine
        self._over_to = over
        self._began = caller.world.queue.now
        self._asked: dict[tuple[PeerId, Request], None] = {}
        self._exchanges: dict[Ask | Give, Exchange] = {}
        """Those under way."""
        self._answered: dict[PeerId, None] = {}
        self._depth: dict[PeerId, int] = {}
        """Length of the chain of referrals to whom replies named."""
        self._first_provider_s: float | None = None
        self._is_over = False
        self._alarm = Alarm(self._queue, self._step)
        self._alarm.set(self._began)

    def cancel(self) -> None:
        """Stop the machine, because its node has stopped."""
        self._is_over = True
        self._drop(list(self._exchanges))

    def report(self, search: Search[Found], done: Done) -> SearchReport:
        """The outcome of ``search``, which has ended."""
        nearest = next(iter(done.answered), None)
        return SearchReport(
            target=search.target,
            done=done,
            began=self._began,
            ended=self._queue.now,
            requests=search.requests,
            failures=sum(isinstance(each, RequestFailed) for each in search.events),
            hops=0 if nearest is None else self._depth.get(nearest, 1),
            first_provider_s=self._first_provider_s,
            providers=search.providers if isinstance(search, ProviderSearch) else [],
        )

    # --- steps ------------------------------------------------------------------------------------

    def _step(self) -> None:
        while not self._is_over:
            match step := self._machine.next(self._queue.now):
                case Ask() | Give():
                    self._send(step)
                case Judge():
                    raise AssertionError("simulated nodes have no applications")
                case Begin() | Working():
                    pass  # everybody has a turn at once, and computing takes no virtual time
                case Wait(until):
                    check_wait(until, self._queue.now, len(self._exchanges))
                    self._alarm.set(until)
                    return
                case Searched(done):
                    self._search_over(done)
                case Done():
                    self._search_over(step)
                    self._is_over = True
                    self._over_to(step)
                case Delivered():
                    self._is_over = True
                    self._over_to(step)

    def _search_over(self, done: Done) -> None:
        machine, caller = self._machine, self._caller
        target = machine.target
        check_done(done, target, caller.member.peer, self._answered)
        if not stragglers_may_go_on(done, caller.running):
            self._drop(machine.open_requests())
        caller.world.touched.append(caller.member)

    # --- requests ---------------------------------------------------------------------------------

    def _send(self, step: Ask | Give) -> None:
        check_ask((step.peer, step.request), self._caller.member.peer, self._asked)
        self._asked[step.peer, step.request] = None
        self._caller.running += 1
        self._exchanges[step] = self._caller.send(
            step.peer, step.request, step.deadline, lambda outcome: self._ended(step, outcome)
        )

    def _drop(self, steps: Sequence[Ask | Give]) -> None:
        for step in steps:
            exchange = self._exchanges.pop(step, None)
            if exchange is not None and exchange.cancel():
                self._caller.running -= 1

    def _ended(self, step: Ask | Give, outcome: Outcome) -> None:
        """Report how a request ended. An answer after the end of the search still helps later
        searches."""
        del self._exchanges[step]
        self._caller.running -= 1
        now, machine = self._queue.now, self._machine
        match step, outcome:
            case Ask(), Reply():
                self._note(step, outcome)
                machine.on_reply(step, outcome, now)
            case Ask(), FailureReason():
                machine.on_failure(step, outcome, now)
            case Give(), Receipt():
                assert isinstance(machine, Delivery), "a search gives nothing"
                machine.on_given(step, outcome)
            case Give(), FailureReason():
                assert isinstance(machine, Delivery), "a search gives nothing"
                machine.on_not_given(step, outcome, now)
            case _:
                raise AssertionError(f"no end of {step} is {outcome}")
        has_found = isinstance(machine, ProviderSearch) and bool(machine.providers)
        if has_found and self._first_provider_s is None:
            self._first_provider_s = now - self._began
        self._step()

    def _note(self, ask: Ask, reply: Reply) -> None:
        if not self._is_over:
            self._answered[ask.peer] = None
        if isinstance(self._machine, Search) and not self._depth:
            self._depth = dict.fromkeys(self._machine.seeds, 1)
        depth = self._depth.setdefault(ask.peer, 1) + 1
        for entry in reply.closer_peers:
            self._depth.setdefault(entry.peer_id, depth)
