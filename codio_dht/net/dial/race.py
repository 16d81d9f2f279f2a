"""Connects to peers: one dial per peer, shared by everybody who wants it.

Decides which addresses are tried, in which order and when: ``ranked``, each next one
``DIAL_STAGGER_S`` after the last or as soon as one fails; the first authenticated connection wins,
and the others are given up. Names are resolved meanwhile and join the race, and so do addresses
that become known later. How many addresses are dialled at once, ``DialBudget`` decides; which are
left alone after a failure, ``FailedAddresses``; how often a machine is dialled on the word of
strangers, ``Hearsay``.

A dial lives as long as somebody waits for it. A connection that the peer makes meanwhile ends it
too: of two peers that dial each other at once, the one whose connection is up first has it up at
both ends, so that at least one remains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
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
from codio_dht.net.dial.hearsay import MIN_HEARD_PORT, Hearsay
from codio_dht.net.dial.limits import (
    DIAL_STAGGER_S,
    DNS_TIMEOUT_S,
    GIVE_WAY_AFTER_S,
    LATE_ADDRS_INTERVAL_S,
    MAX_ADDRS_PER_DIAL,
    MAX_DIALS_PER_PEER,
    MAX_HEARD_ADDRS_PER_DIAL,
    MAX_UNANSWERED_DIALS,
    SILENT_AFTER_S,
)
from codio_dht.net.dial.memory import FailedAddresses
from codio_dht.net.dial.names import is_worth_resolving
from codio_dht.net.dnsaddr import resolve
from codio_dht.net.gate import Gate
from codio_dht.net.link import Link, Transport, now
from codio_dht.net.name_servers import NameServers, for_strangers
from codio_dht.net.targets import Target, dial_target, ranked

_BLOCKED: Final = "failed a moment ago"
_TOO_OFTEN: Final = "dialled too often on the word of others"

LateAddrs = Callable[[], Sequence[Multiaddr]]
"""The addresses of a peer that are known now."""


@dataclass(frozen=True, slots=True)
class _Names:
    """Names that one caller gave, and what holds for the addresses that they stand for."""

    addrs: tuple[Multiaddr, ...]
    retry_failed: bool
    stranger_filter: AddressFilter | None


@dataclass(frozen=True, slots=True)
class _LateSource:
    """Where one caller of a dial finds addresses that have become known since."""

    addrs: LateAddrs
    stranger_filter: AddressFilter | None


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
        "given",
        "known",
        "later",
        "moved",
        "names",
        "next_at",
        "offered",
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
        self.given: set[bytes] = set()
        """Addresses that a person gave, or that a name stands for which a person gave."""
        self.later: list[_LateSource] = []
        self.offered: set[bytes] = set()
        """Addresses that callers named so far, whatever became of them."""
        self.waiting: list[Target] = []
        self.names: list[_Names] = []
        self.running: dict[Target, Monotonic] = {}
        """When each dial under way began, the oldest first."""
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

    def next_turn(self, now: Monotonic) -> float:
        """When one more address may be dialled, as far as those under way let it."""
        young = [begun for begun in self.running.values() if now - begun < GIVE_WAY_AFTER_S]
        if len(self.running) >= MAX_UNANSWERED_DIALS:
            return inf
        if len(young) >= MAX_DIALS_PER_PEER:
            return max(self.next_at, young[0] + GIVE_WAY_AFTER_S)
        return self.next_at

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
        exempt_local: bool,
    ) -> None:
        self._nursery = nursery
        self._transports = transports
        self._budget = budget
        self._gate = gate
        self._name_servers = name_servers
        self._counters = counters
        self._failed = FailedAddresses()
        self._hearsay = Hearsay()
        self._exempt_local = exempt_local
        self._strangers_servers = for_strangers(name_servers)
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
        stranger_filter: AddressFilter | None = None,
        later: LateAddrs | None = None,
    ) -> None:
        """Dial ``addrs`` until there is a connection to ``peer_id``.

        ``retry_failed`` dials also what failed a moment ago. With ``stranger_filter`` the addresses
        are the words of strangers: only those that it keeps are dialled, also of what names stand
        for, and within the bounds of ``Hearsay``. ``later`` is asked now and then for addresses
        that have become known since.

        Raises:
            DialError: no address led to this peer; ``local`` if for reasons of this node's own.
            DeadlineError: the deadline passed first; ``local`` if the dial hardly had a turn.
        """
        dial = self._dials.get(peer_id)
        if dial is None:
            dial = self._dials[peer_id] = _Dial(peer_id)
            self._nursery.start_soon(self._run, dial)
        dial.deadline = max(dial.deadline, deadline)
        self._add(dial, addrs, retry_failed, stranger_filter)
        if later is not None:
            dial.later.append(_LateSource(later, stranger_filter))
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
            self._hearsay.proven(link.target.addr, link.peer_id)
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
        while not dial.over or self._add_late(dial):
            moved, wake_at = dial.moved, inf
            while dial.names:
                dial.resolving += 1
                nursery.start_soon(self._resolve, dial, dial.names.pop())
            if dial.waiting:
                if now() >= dial.next_turn(now()):
                    target = dial.waiting.pop(0)
                    dial.running[target] = now()
                    dial.next_at = now() + DIAL_STAGGER_S
                    nursery.start_soon(self._try, dial, target)
                wake_at = dial.next_turn(now())
            elif dial.later and not self._add_late(dial):
                wake_at = now() + LATE_ADDRS_INTERVAL_S
            with trio.move_on_at(wake_at):
                await moved.wait()

    def _add_late(self, dial: _Dial) -> bool:
        """Let addresses join that have become known since; whether there are any."""
        known = len(dial.known)
        for source in dial.later:
            new = [addr for addr in source.addrs() if addr.to_bytes() not in dial.offered]
            self._add(dial, new, retry_failed=False, stranger_filter=source.stranger_filter)
        return len(dial.known) > known and not dial.over

    async def _try(self, dial: _Dial, target: Target) -> None:
        """Dial one address. The connection, if it comes, ends the dial by ``on_connected``."""
        try:
            await self._wait_turn(dial, target)
            async with self._budget.place(target.ip) as place:
                if self._failed.is_blocked(target.addr, dial.peer_id, now()):
                    raise DialFailedError(DialFailure.LOCAL, _BLOCKED)
                await self._dial(dial, target, place)
        except DialFailedError as error:
            self._counters["dials_failed"] += 1
            self._failed.add(target.addr, dial.peer_id, error.kind, now())
            dial.failed(f"{target}: {error}", local=error.kind is DialFailure.LOCAL)
        finally:
            del dial.running[target]
            dial.next_at = 0.0  # the next one need not wait
            dial.wake()

    async def _wait_turn(self, dial: _Dial, target: Target) -> None:
        """Wait until ``target`` may be dialled, if it is only hearsay."""
        if self._is_trusted(dial, target):
            return
        wait_s = self._hearsay.turn(target, now())
        if wait_s is None:
            self._counters["dials_refused_hearsay"] += 1
            raise DialFailedError(DialFailure.LOCAL, _TOO_OFTEN)
        if wait_s:
            await trio.sleep(wait_s)

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
            given = names.stranger_filter is None
            servers = self._name_servers if given else self._strangers_servers
            found = await resolve(names.addrs, deadline, peer_id=dial.peer_id, servers=servers)
        except NetworkError as error:
            dial.failed(str(error), local=error.local)
        else:
            if given:
                dial.given.update(each.to_bytes() for each in found)
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
        stranger_filter: AddressFilter | None,
    ) -> None:
        """Let addresses that may lead to the peer join the dial."""
        dial.offered.update(addr.to_bytes() for addr in addrs)
        given = stranger_filter is None
        most = MAX_ADDRS_PER_DIAL if given else MAX_HEARD_ADDRS_PER_DIAL
        if stranger_filter is not None:
            kept = set(stranger_filter(addr.to_bytes() for addr in addrs))
            addrs = [addr for addr in addrs if addr.to_bytes() in kept]
        new = []
        for addr in addrs:
            key = addr.to_bytes(), given
            if key not in dial.known and len(dial.known) < most:
                dial.known.add(key)
                new.append(addr)
                if given:
                    dial.given.add(key[0])
        names = [addr for addr in new if is_dns(addr.to_bytes())]
        worth_it = tuple(
            name
            for name in names
            if is_worth_resolving(name, lambda addr: self._may_dial(addr, dial.peer_id))
        )
        if worth_it:
            dial.names.append(_Names(worth_it, retry_failed, stranger_filter))
        self._enqueue(dial, (addr for addr in new if addr not in names), retry_failed)
        dial.wake()

    def _allowed(
        self, dial: _Dial, found: Sequence[Multiaddr], names: _Names
    ) -> Sequence[Multiaddr]:
        """Those of the addresses ``found`` that the names may stand for."""
        if names.stranger_filter is None:
            return found
        kept = set(names.stranger_filter(addr.to_bytes() for addr in found))
        for addr in found:
            if addr.to_bytes() not in kept:
                dial.failed(f"{addr}: a name leads there, where this network's peers cannot be")
        return [addr for addr in found if addr.to_bytes() in kept]

    def _enqueue(self, dial: _Dial, addrs: Iterable[Multiaddr], retry_failed: bool) -> None:
        for addr in addrs:
            target = dial_target(addr, dial.peer_id)
            if target is None or not self._can_dial(target):
                continue
            if target in dial.waiting or target in dial.running:
                continue
            if retry_failed:
                self._failed.forget(target.addr, dial.peer_id)
            if not self._gate.admits(target.ip, dial.peer_id):
                dial.failed(f"{target}: denied")
            elif target.port < MIN_HEARD_PORT and not self._is_trusted(dial, target):
                dial.failed(f"{target}: no port for peers, unless a person gives it")
            elif self._failed.is_blocked(target.addr, dial.peer_id, now()):
                dial.failed(f"{target}: {_BLOCKED}", local=True)
                dial.known -= {(addr.to_bytes(), True), (addr.to_bytes(), False)}
            else:
                dial.waiting.append(target)
        dial.waiting = ranked(dial.waiting)

    def _is_trusted(self, dial: _Dial, target: Target) -> bool:
        """Whether the address is more than the word of strangers, or is of a machine of one's
        own."""
        return (
            target.addr in dial.given
            or (target.ip.local and self._exempt_local)
            or self._hearsay.is_proven(target.addr, dial.peer_id)
        )

    def _may_dial(self, addr: Multiaddr, peer_id: PeerId) -> bool:
        target = dial_target(addr, peer_id)
        return target is not None and self._can_dial(target)

    def _can_dial(self, target: Target) -> bool:
        return any(transport.can_dial(target) for transport in self._transports)
