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
from dataclasses import dataclass
from math import inf
from typing import Final

import trio
from multiaddr import Multiaddr

from codio_dht.core.addresses import AddressFilter
from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.errors import DeadlineError, DialError, NetworkError
from codio_dht.formats.multiaddr import is_dns
from codio_dht.net.dial.budget import DialBudget, Place
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


@dataclass(frozen=True, slots=True)
class _Names:
    """Names that one caller gave, and what holds for the addresses that they stand for."""

    addrs: tuple[Multiaddr, ...]
    retry_failed: bool
    resolved_filter: AddressFilter | None


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why one address did not lead to the peer, in words, and whether that is our own trouble."""

    reason: str
    local: bool


class _Dial:
    """A dial to one peer, shared by everybody who wants to be connected to it."""

    __slots__ = (
        "begun_at",
        "connected",
        "deadline",
        "ended",
        "failures",
        "known",
        "moved",
        "names",
        "next_at",
        "peer_id",
        "reached",
        "resolving",
        "running",
        "scope",
        "started_at",
        "waiters",
        "waiting",
    )

    def __init__(self, peer_id: PeerId) -> None:
        self.peer_id = peer_id
        self.known: set[tuple[bytes, bool]] = set()
        """Addresses that were given, with whether their names may lead anywhere."""
        self.waiting: list[Target] = []
        self.names: list[_Names] = []
        self.running = 0
        self.resolving = 0
        self.waiters = 0
        self.connected = False
        self.reached = False
        self.failures: list[_Failure] = []
        self.deadline = Monotonic(0.0)
        self.started_at = now()
        self.begun_at: Monotonic | None = None
        """When the first address had its turn."""
        self.next_at = 0.0
        self.moved = trio.Event()
        self.ended = trio.Event()
        self.scope = trio.CancelScope()

    def wake(self) -> None:
        """Let the race look at what has changed."""
        self.moved.set()
        self.moved = trio.Event()

    def was_reached(self) -> None:
        """Note that somebody took a connection."""
        self.reached = True

    def failed(self, reason: str, *, local: bool = False) -> None:
        """Note why an address did not lead to the peer."""
        self.failures.append(_Failure(reason, local))

    @property
    def over(self) -> bool:
        """Whether nothing is left to be tried."""
        return not (self.waiting or self.names or self.running or self.resolving)

    def error(self) -> DialError:
        """Why it failed. It is our own trouble if no address failed for a reason of its own."""
        reasons = "; ".join(failure.reason for failure in self.failures)
        local = bool(self.failures) and all(failure.local for failure in self.failures)
        return DialError(reasons or f"no address of {self.peer_id} can be dialled", local=local)

    def out_of_time(self) -> DeadlineError:
        """Why there is no connection yet. It is our own trouble if the dial waited longer for its
        turn than it had for trying, and no address failed for a reason of its own."""
        begun_at = now() if self.begun_at is None else self.begun_at
        waited_s, tried_s = begun_at - self.started_at, now() - begun_at
        local = waited_s > tried_s and all(failure.local for failure in self.failures)
        return DeadlineError(f"no connection to {self.peer_id} before the deadline", local=local)


class Dialler:
    """Connects to peers: one dial for each peer, whose addresses race.

    Must never hold a failure of this node's own against an address or a peer.
    """

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
        self._failed = FailedAddresses()
        self._dials: dict[PeerId, _Dial] = {}

    @property
    def running(self) -> int:
        """How many peers are being dialled."""
        return len(self._dials)

    async def connect(
        self,
        peer_id: PeerId,
        addrs: Sequence[Multiaddr],
        deadline: Monotonic,
        *,
        retry_failed: bool = False,
        resolved_filter: AddressFilter | None = None,
    ) -> None:
        """Dial ``addrs`` until there is a connection to ``peer_id``.

        ``retry_failed`` dials also what failed a moment ago. ``resolved_filter`` says which of the
        addresses that names stand for may be dialled; without it, all may.

        Raises:
            DialError: no address led to this peer; ``local`` if for reasons of this node's own.
            DeadlineError: the deadline passed first; ``local`` if the dial hardly had a turn.
        """
        dial = self._dials.get(peer_id)
        if dial is None:
            dial = self._dials[peer_id] = _Dial(peer_id)
            self._nursery.start_soon(self._run, dial)
        dial.deadline = max(dial.deadline, deadline)
        self._add(dial, addrs, retry_failed, resolved_filter)
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
        raise dial.out_of_time() if scope.cancelled_caught else dial.error()

    def forget_failures(self) -> None:
        """Forget what failed: this machine's network has changed."""
        self._failed.clear()

    def is_reached(self, peer_id: PeerId) -> bool:
        """Whether somebody took a connection at an address where the peer is being dialled."""
        dial = self._dials.get(peer_id)
        return dial is not None and dial.reached

    def on_connected(self, link: Link) -> None:
        """End the dial to the peer of ``link``: there is a connection, whoever made it."""
        assert link.peer_id is not None
        if not link.inbound:
            self._failed.forget(link.target.addr, link.peer_id)
        dial = self._dials.get(link.peer_id)
        if dial is not None:
            dial.connected = True
            self._give_up(dial)

    # --- one dial ---------------------------------------------------------------------------------

    def _give_up(self, dial: _Dial) -> None:
        """End a dial. A later caller begins another."""
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
            while dial.names:
                dial.resolving += 1
                nursery.start_soon(self._resolve, dial, dial.names.pop())
            if dial.waiting and dial.running < MAX_DIALS_PER_PEER:
                if now() >= dial.next_at:
                    dial.running += 1
                    dial.next_at = now() + DIAL_STAGGER_S
                    nursery.start_soon(self._try, dial, dial.waiting.pop(0))
                wake_at = dial.next_at
            with trio.move_on_at(wake_at):
                await moved.wait()

    async def _try(self, dial: _Dial, target: Target) -> None:
        """Dial one address. The connection, if it comes, ends the dial by ``on_connected``."""
        try:
            async with self._budget.place(target.ip) as place:
                if self._failed.is_blocked(target.addr, dial.peer_id, now()):
                    raise DialFailedError(DialFailure.LOCAL, _BLOCKED)
                await self._dial(dial, target, place)
        except DialFailedError as error:
            self._counters["dials_failed"] += 1
            self._failed.add(target.addr, dial.peer_id, error.kind, now())
            dial.failed(f"{target}: {error}", local=error.kind is DialFailure.LOCAL)
        finally:
            dial.running -= 1
            dial.next_at = 0.0  # the next one need not wait
            dial.wake()

    async def _dial(self, dial: _Dial, target: Target, place: Place) -> None:
        transport = next(each for each in self._transports if each.can_dial(target))
        started = now()
        if dial.begun_at is None:
            dial.begun_at = started
        self._counters["dials"] += 1
        try:
            await transport.dial(target, dial.peer_id, dial.was_reached)
        except trio.Cancelled:
            if now() - started >= SILENT_AFTER_S and not place.gave_way:
                self._failed.add(target.addr, dial.peer_id, DialFailure.SILENT, now())
            raise

    async def _resolve(self, dial: _Dial, names: _Names) -> None:
        """Ask what ``names`` stand for, and let those addresses join the race."""
        deadline = Monotonic(min(dial.deadline, now() + DNS_TIMEOUT_S))
        try:
            found = await resolve(
                names.addrs, deadline, peer_id=dial.peer_id, servers=self._name_servers
            )
        except NetworkError as error:
            dial.failed(str(error), local=error.local)
        else:
            self._enqueue(dial, self._allowed(dial, found, names), names.retry_failed)
        finally:
            dial.resolving -= 1
            dial.wake()

    # --- addresses --------------------------------------------------------------------------------

    def _add(
        self,
        dial: _Dial,
        addrs: Sequence[Multiaddr],
        retry_failed: bool,
        resolved_filter: AddressFilter | None,
    ) -> None:
        """Let addresses that may lead to the peer join the dial."""
        new = []
        for addr in addrs:
            key = addr.to_bytes(), resolved_filter is None
            if key not in dial.known and len(dial.known) < MAX_ADDRS_PER_DIAL:
                dial.known.add(key)
                new.append(addr)
        names = [addr for addr in new if is_dns(addr.to_bytes())]
        worth_it = tuple(
            name
            for name in names
            if is_worth_resolving(name, lambda addr: self._may_dial(addr, dial.peer_id))
        )
        if worth_it:
            dial.names.append(_Names(worth_it, retry_failed, resolved_filter))
        self._enqueue(dial, (addr for addr in new if addr not in names), retry_failed)
        dial.wake()

    def _allowed(
        self, dial: _Dial, found: Sequence[Multiaddr], names: _Names
    ) -> Sequence[Multiaddr]:
        """Those of the addresses ``found`` that the names may stand for."""
        if names.resolved_filter is None:
            return found
        kept = set(names.resolved_filter(addr.to_bytes() for addr in found))
        for addr in found:
            if addr.to_bytes() not in kept:
                dial.failed(f"{addr}: a name leads there, where this network's peers cannot be")
        return [addr for addr in found if addr.to_bytes() in kept]

    def _enqueue(self, dial: _Dial, addrs: Iterable[Multiaddr], retry_failed: bool) -> None:
        for addr in addrs:
            target = dial_target(addr, dial.peer_id)
            if target is None or not self._can_dial(target) or target in dial.waiting:
                continue
            if retry_failed:
                self._failed.forget(target.addr, dial.peer_id)
            if not self._gate.admits(target.ip, dial.peer_id):
                dial.failed(f"{target}: denied")
            elif self._failed.is_blocked(target.addr, dial.peer_id, now()):
                dial.failed(f"{target}: {_BLOCKED}", local=True)
                dial.known -= {(addr.to_bytes(), True), (addr.to_bytes(), False)}
            else:
                dial.waiting.append(target)
        dial.waiting = ranked(dial.waiting)

    def _may_dial(self, addr: Multiaddr, peer_id: PeerId) -> bool:
        target = dial_target(addr, peer_id)
        return target is not None and self._can_dial(target)

    def _can_dial(self, target: Target) -> bool:
        return any(transport.can_dial(target) for transport in self._transports)
