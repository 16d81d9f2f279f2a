"""Connects to peers: one dial per peer, shared by everybody who wants it.

Decides which addresses are tried, in which order and when: ``ranked``, each next one
``DIAL_STAGGER_S`` after the last or as soon as one fails; the first authenticated connection wins,
and the others are given up. Names are resolved meanwhile and join the race. How many addresses are
dialled at once, ``DialBudget`` decides; which are left alone after a failure,
``FailedAddresses``.

A dial lives as long as somebody waits for it. A connection that the peer makes meanwhile ends it
too: of two peers that dial each other at once, the one whose connection is up first has it up at
both ends, so that at least one remains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import inf
from typing import Final

import trio
from multiaddr import Multiaddr

from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.errors import DeadlineError, DialError, NetworkError
from codio_dht.formats.multiaddr import is_dns
from codio_dht.net.dial.budget import DialBudget
from codio_dht.net.dial.failures import DialFailedError, DialFailure
from codio_dht.net.dial.limits import (
    DIAL_STAGGER_S,
    DNS_TIMEOUT_S,
    MAX_ADDRS_PER_DIAL,
    MAX_DIALS_PER_PEER,
    SILENT_AFTER_S,
)
from codio_dht.net.dial.memory import FailedAddresses
from codio_dht.net.dial.names import is_worth_resolving
from codio_dht.net.dnsaddr import NameServers, resolve
from codio_dht.net.gate import Gate
from codio_dht.net.link import Link, Transport, now
from codio_dht.net.targets import Target, dial_target, ranked

_BLOCKED: Final = "failed a moment ago"


class _Dial:
    """A dial under way."""

    __slots__ = (
        "connected",
        "deadline",
        "ended",
        "errors",
        "known",
        "moved",
        "names",
        "next_at",
        "peer_id",
        "reached",
        "resolving",
        "running",
        "scope",
        "waiters",
        "waiting",
    )

    def __init__(self, peer_id: PeerId) -> None:
        self.peer_id = peer_id
        self.known: set[bytes] = set()
        self.waiting: list[Target] = []
        self.names: list[Multiaddr] = []
        self.running = 0
        self.resolving = 0
        self.waiters = 0
        self.connected = False
        self.reached = False
        self.errors: list[str] = []
        self.deadline = Monotonic(0.0)
        self.next_at = 0.0
        self.moved = trio.Event()
        self.ended = trio.Event()
        self.scope = trio.CancelScope()

    def wake(self) -> None:
        """Something changed."""
        self.moved.set()
        self.moved = trio.Event()

    def was_reached(self) -> None:
        """Somebody is there."""
        self.reached = True

    @property
    def over(self) -> bool:
        """Nothing is left to be tried."""
        return not (self.waiting or self.names or self.running or self.resolving)


class Dialler:
    """See the module."""

    def __init__(
        self,
        *,
        nursery: trio.Nursery,
        transports: Sequence[Transport],
        budget: DialBudget,
        gate: Gate,
        name_servers: NameServers,
        counters: Counter[str],
    ) -> None:
        self._nursery = nursery
        self._transports = transports
        self._budget = budget
        self._gate = gate
        self._name_servers = name_servers
        self._counters = counters
        self._failures = FailedAddresses()
        self._dials: dict[PeerId, _Dial] = {}

    @property
    def running(self) -> int:
        """Peers being dialled."""
        return len(self._dials)

    async def connect(
        self, peer_id: PeerId, addrs: Sequence[Multiaddr], deadline: Monotonic
    ) -> None:
        """A connection to a peer that has none.

        Raises:
            DialError: no address led to this peer.
            DeadlineError: the deadline passed first.
        """
        dial = self._dials.get(peer_id)
        if dial is None:
            dial = self._dials[peer_id] = _Dial(peer_id)
            self._nursery.start_soon(self._run, dial)
        dial.deadline = max(dial.deadline, deadline)
        self._add(dial, addrs)
        dial.waiters += 1
        try:
            with trio.move_on_at(deadline) as scope:
                await dial.ended.wait()
        finally:
            dial.waiters -= 1
            if not dial.waiters and not dial.ended.is_set():
                self._give_up(dial)
        if dial.connected:
            return
        if scope.cancelled_caught:
            raise DeadlineError(f"no connection to {peer_id} before the deadline")
        raise DialError(_reasons(dial))

    def is_reached(self, peer_id: PeerId) -> bool:
        """Whether somebody took a connection at an address where the peer is being dialled."""
        dial = self._dials.get(peer_id)
        return dial is not None and dial.reached

    def on_connected(self, link: Link) -> None:
        """There is a connection to a peer, whoever made it."""
        assert link.peer_id is not None
        if not link.inbound:
            self._failures.succeeded(link.target.addr, link.peer_id)
        dial = self._dials.get(link.peer_id)
        if dial is not None:
            dial.connected = True
            self._give_up(dial)

    # --- one dial ---------------------------------------------------------------------------------

    def _give_up(self, dial: _Dial) -> None:
        """End a dial; a later caller begins another."""
        if self._dials.get(dial.peer_id) is dial:
            del self._dials[dial.peer_id]
        dial.ended.set()
        dial.scope.cancel()

    async def _run(self, dial: _Dial) -> None:
        try:
            with dial.scope:
                async with trio.open_nursery() as nursery:
                    await self._race(dial, nursery)
        finally:
            self._give_up(dial)

    async def _race(self, dial: _Dial, nursery: trio.Nursery) -> None:
        while not dial.over:
            moved, wake_at = dial.moved, inf
            if dial.names:
                names, dial.names = dial.names, []
                dial.resolving += 1
                nursery.start_soon(self._resolve, dial, names)
            if dial.waiting and dial.running < MAX_DIALS_PER_PEER:
                if now() >= dial.next_at:
                    dial.running += 1
                    dial.next_at = now() + DIAL_STAGGER_S
                    nursery.start_soon(self._try, dial, dial.waiting.pop(0))
                wake_at = dial.next_at
            with trio.move_on_at(wake_at):
                await moved.wait()

    async def _try(self, dial: _Dial, target: Target) -> None:
        """Dial one address; the connection, if it comes, ends the dial by ``on_connected``."""
        try:
            async with self._budget.place(target.ip):
                if self._failures.is_blocked(target.addr, dial.peer_id, now()):
                    raise DialFailedError(DialFailure.LOCAL, _BLOCKED)
                await self._dial(dial, target)
        except DialFailedError as error:
            self._counters["dials_failed"] += 1
            self._failures.add(target.addr, dial.peer_id, error.kind, now())
            dial.errors.append(f"{target}: {error}")
        finally:
            dial.running -= 1
            dial.next_at = 0.0  # the next one need not wait
            dial.wake()

    async def _dial(self, dial: _Dial, target: Target) -> None:
        transport = next(each for each in self._transports if each.can_dial(target))
        started = now()
        self._counters["dials"] += 1
        try:
            await transport.dial(target, dial.peer_id, dial.was_reached)
        except trio.Cancelled:
            if now() - started >= SILENT_AFTER_S:
                self._failures.add(target.addr, dial.peer_id, DialFailure.SILENT, now())
            raise

    async def _resolve(self, dial: _Dial, names: Sequence[Multiaddr]) -> None:
        deadline = Monotonic(min(dial.deadline, now() + DNS_TIMEOUT_S))
        try:
            found = await resolve(names, deadline, peer_id=dial.peer_id, servers=self._name_servers)
        except NetworkError as error:
            dial.errors.append(str(error))
        else:
            self._enqueue(dial, found)
        finally:
            dial.resolving -= 1
            dial.wake()

    # --- addresses --------------------------------------------------------------------------------

    def _add(self, dial: _Dial, addrs: Sequence[Multiaddr]) -> None:
        """Addresses that may lead to the peer join the dial."""
        new = []
        for addr in addrs:
            if addr.to_bytes() not in dial.known and len(dial.known) < MAX_ADDRS_PER_DIAL:
                dial.known.add(addr.to_bytes())
                new.append(addr)
        names = [addr for addr in new if is_dns(addr.to_bytes())]
        dial.names += [
            name
            for name in names
            if is_worth_resolving(name, lambda addr: self._may_dial(addr, dial.peer_id))
        ]
        self._enqueue(dial, (addr for addr in new if addr not in names))
        dial.wake()

    def _enqueue(self, dial: _Dial, addrs: Iterable[Multiaddr]) -> None:
        for addr in addrs:
            target = dial_target(addr, dial.peer_id)
            if target is None or not self._can_dial(target):
                continue
            if not self._gate.admits(target.ip, dial.peer_id):
                dial.errors.append(f"{target}: denied")
            elif self._failures.is_blocked(target.addr, dial.peer_id, now()):
                dial.errors.append(f"{target}: {_BLOCKED}")
            else:
                dial.waiting.append(target)
        dial.waiting = ranked(dial.waiting)

    def _may_dial(self, addr: Multiaddr, peer_id: PeerId) -> bool:
        target = dial_target(addr, peer_id)
        return target is not None and self._can_dial(target)

    def _can_dial(self, target: Target) -> bool:
        return any(transport.can_dial(target) for transport in self._transports)


def _reasons(dial: _Dial) -> str:
    return "; ".join(dial.errors) or f"no address of {dial.peer_id} can be dialled"
