"""Runs searches and deliveries on the network: the driver of ``core.search`` and ``core.delivery``.

Decides nothing of Kademlia: it performs the steps of a machine, reports how each ended, and passes
on what the machine found. Decides how many searches run at once, and how a caller that goes away,
or a bug, ends what is under way.

Each request is a task, an errand, so that it may outlive its search: a late answer serves the next
one. A machine that is cancelled takes its requests with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import trio

from codio_dht.core.clock import Monotonic
from codio_dht.core.delivery import Delivered, Delivery, DeliveryStep, Give, Searched
from codio_dht.core.denials import Denials
from codio_dht.core.lookup_states import ClosestPeer, Done, LookupEvent, StopReason
from codio_dht.core.messages import PeerEntry
from codio_dht.core.peer import PeerId
from codio_dht.core.search import (
    Begin,
    Found,
    Search,
    Searches,
    SearchStep,
    stragglers_may_go_on,
)
from codio_dht.core.steps import Ask, Wait, Working
from codio_dht.core.validation import Judge
from codio_dht.core.value_search import ValueSearch
from codio_dht.errors import NetworkError, NoPeersError, RemoteError
from codio_dht.node.errands import Errands
from codio_dht.node.rpc import RpcClient, failure_reason
from codio_dht.node.validating import ValidatorRunner

MAX_LOOKUPS: Final = 256
"""Lookups that run at once; further ones wait, within their own deadline."""

WaitForPeers = Callable[[Monotonic], Awaitable[None]]
"""Returns when the table has a peer, or nobody is being tried, or at the deadline."""

Watch = Callable[[LookupEvent], None]
"""Told of everything that happens in a lookup, in order."""


def ignore(_told: object) -> None:
    """Is told of something and does nothing."""


class Lookups:
    """Runs the searches and deliveries of one network; at most
    :data:`~codio_dht.MAX_LOOKUPS` search at once, and the others wait for their turn."""

    def __init__(
        self,
        searches: Searches,
        rpc: RpcClient,
        errands: Errands,
        wait_for_peers: WaitForPeers,
        search_over: Callable[[], None],
        runner: ValidatorRunner,
        denials: Denials,
    ) -> None:
        self.searches = searches
        self.rpc = rpc
        self.errands = errands
        self.wait_for_peers = wait_for_peers
        self.search_over = search_over
        """Called when a search is over: it may have changed the routing table."""
        self.runner = runner
        """Where applications' validators judge."""
        self.denials = denials
        """No key that it denies is looked up or provided."""
        self.turns = trio.CapacityLimiter(MAX_LOOKUPS)
        self.ended: Counter[str] = Counter()
        """Searches that are over, by reason."""

    async def closest(
        self,
        preimage: bytes,
        watch: Watch = ignore,
        found: Callable[[ClosestPeer], None] | None = None,
    ) -> Done:
        """Search the peers closest to ``preimage``.

        ``watch`` is told what happens on the way. ``found`` is told of each peer of the result that
        has answered or is known to be alive: once, as soon as it is certain to be one, or else at
        the end.

        Raises:
            NoPeersError: the routing table is empty.
        """
        done = await self._search(self.searches.closest(preimage, _now()), watch, found)
        raise_for_nobody(done.reason)
        return done

    async def peer(self, target: PeerId) -> bool:
        """Search one peer; whether it was met: asked on the way, reachable or not (GO). Its
        addresses are in the network's book then.

        Raises:
            NoPeersError: the routing table is empty.
        """
        search = self.searches.peer(target, _now())
        done = await self._search(search, ignore, None)
        raise_for_nobody(done.reason)
        return search.met

    async def providers(
        self,
        key: bytes,
        count: int | None,
        local: Sequence[PeerEntry],
        found: Callable[[PeerEntry], None],
    ) -> None:
        """Search ``count`` providers of ``key`` (None: all), calling ``found`` for each as it
        comes, and again for one that had no address at first. ``local`` are those known here; if
        they are enough, or there is nobody to ask, they are all.

        Raises:
            DeniedError: the key is denied.
            NoPeersError: the routing table is empty, and none is known here.
        """
        self.denials.check_key(key)
        search = self.searches.providers(key, count, local, _now())
        done = await self._search(search, ignore, found)
        if not search.providers:
            raise_for_nobody(done.reason)

    async def value(self, search: ValueSearch, found: Callable[[bytes], None]) -> None:
        """Run ``search``, calling ``found`` for each value that is better than all before.

        Raises:
            NoPeersError: the routing table is empty, and no value is known here.
        """
        done = await self._search(search, ignore, found)
        if search.best.best is None:
            raise_for_nobody(done.reason)

    async def deliver(self, delivery: Delivery, moved: Callable[[], None]) -> Delivered:
        """Run ``delivery`` to its end; ``moved`` is called whenever it may have got further."""
        end = await _MachineRun(self, delivery, moved).to_end()
        assert isinstance(end, Delivered)
        return end

    async def _search(
        self, search: Search[Found], watch: Watch, found: Callable[[Found], None] | None
    ) -> Done:
        told = 0

        def tell() -> None:
            nonlocal told
            for event in search.events[told:]:
                watch(event)
            told = len(search.events)
            if found is not None:
                for each in search.take_found():
                    found(each)

        end = await _MachineRun(self, search, tell).to_end()
        assert isinstance(end, Done)
        return end


def raise_for_nobody(reason: StopReason | None) -> None:
    """Tell the caller why nobody could be asked, or answered.

    Raises:
        NoPeersError: ``reason`` is NO_PEERS.
    """
    if reason is StopReason.NO_PEERS:
        raise NoPeersError("the routing table is empty: there is no peer to ask")


class _MachineRun:
    """One machine under way. ``moved`` is called after its every step."""

    def __init__(
        self, lookups: Lookups, machine: Search[Found] | Delivery, moved: Callable[[], None]
    ) -> None:
        self._lookups = lookups
        self._machine = machine
        self._moved = moved
        self._reported = trio.Event()
        self._out: dict[Ask | Give | Judge, trio.CancelScope] = {}
        self._bugs: list[Exception] = []
        """Raised by requests, and to be raised by the run."""
        self._is_over = False
        self._has_turn = False

    async def to_end(self) -> Done | Delivered:
        """Perform what the machine says until it is over."""
        try:
            while True:
                if self._bugs:
                    raise self._bugs[0]
                step = self._machine.next(_now())
                self._moved()
                await self._perform(step)
                if isinstance(step, Done | Delivered):
                    return step
        except BaseException:
            for scope in self._out.values():
                scope.cancel()
            raise
        finally:
            self._is_over = True
            self._release_turn()

    # --- steps ------------------------------------------------------------------------------------

    async def _perform(self, step: SearchStep | DeliveryStep) -> None:
        match step:
            case Ask():
                self._start(step, partial(self._ask, step))
            case Give():
                self._start(step, partial(self._give, step))
            case Judge():
                self._start(step, partial(self._judge, step))
            case Begin(deadline):
                await self._begin(deadline)
            case Working():
                await trio.lowlevel.checkpoint()
            case Wait(until):
                await self._wait(until)
            case Searched(done):
                self._search_over(done)
            case Done():
                self._search_over(step)
            case Delivered():
                pass

    async def _begin(self, deadline: Monotonic) -> None:
        await self._lookups.wait_for_peers(deadline)
        with trio.move_on_at(deadline):
            await self._lookups.turns.acquire_on_behalf_of(self)
            self._has_turn = True

    async def _wait(self, until: Monotonic | None) -> None:
        with trio.move_on_at(float("inf") if until is None else until):
            await self._reported.wait()
        self._reported = trio.Event()

    def _search_over(self, done: Done) -> None:
        lookups = self._lookups
        self._release_turn()
        lookups.ended[done.reason.value] += 1
        if not stragglers_may_go_on(done, lookups.errands.running):
            for ask in self._machine.open_requests():
                if ask in self._out:
                    self._out[ask].cancel()
        lookups.search_over()

    def _release_turn(self) -> None:
        if self._has_turn:
            self._has_turn = False
            self._lookups.turns.release_on_behalf_of(self)

    # --- requests ---------------------------------------------------------------------------------

    def _start(self, step: Ask | Give | Judge, work: Callable[[], Awaitable[None]]) -> None:
        self._out[step] = self._lookups.errands.start("request", partial(self._request, step, work))

    async def _request(self, step: Ask | Give | Judge, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:
            if self._is_over:
                raise  # nobody else is left to be told
            self._bugs.append(error)
        finally:
            del self._out[step]
            self._reported.set()

    async def _ask(self, ask: Ask) -> None:
        try:
            reply = await self._lookups.rpc.request(ask.peer, ask.request, ask.deadline)
        except (NetworkError, RemoteError) as error:
            self._machine.on_failure(ask, failure_reason(error), _now())
        else:
            self._machine.on_reply(ask, reply, _now())

    async def _give(self, give: Give) -> None:
        assert isinstance(self._machine, Delivery), "a search gives nothing"
        try:
            told = await self._lookups.rpc.give(give.peer, give.request, give.deadline)
        except (NetworkError, RemoteError) as error:
            self._machine.on_not_given(give, failure_reason(error), _now())
        else:
            self._machine.on_given(give, told)

    async def _judge(self, judge: Judge) -> None:
        assert isinstance(self._machine, ValueSearch), "only a value search judges"
        self._machine.on_verdict(judge, await self._lookups.runner.perform(judge.check))


def _now() -> Monotonic:
    return Monotonic(trio.current_time())
