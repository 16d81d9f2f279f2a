r"""One request of one member to another: dial, send, answer, as our dialler and RPC client do it.

Decides when each part happens and how it can fail; the figures are those of ``params`` and of the
scenario's links::

    begin --connected already--> sent --arrived--> answering --answer under way--> done
        \--dial--> dialling --through--> sent         \--(mute, gone, parted)--> nothing
                       \--refused, swallowed, too slow--> failed
    sent --no answer in time--> sent once more --no answer in time--> failed

A provider record is sent once; a peer that does not say in time that it took it has been sent it
all the same. A late answer of a try that was given up is lost, as its stream is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from codio_dht import params
from codio_dht.core.backoff import Backoff, BackoffMemory
from codio_dht.core.clock import Monotonic
from codio_dht.core.delivery import PROVIDE_CONFIRM_TIMEOUT_S, Receipt
from codio_dht.core.messages import AddProvider, FailureReason, Reply, Request
from codio_dht.core.peer import PeerId
from codio_dht.core.steps import NoReply, Refuse
from codio_dht.errors import RemoteError
from codio_dht.sim.population import Character, Member
from codio_dht.sim.world import World
from codio_dht.wire.codec import expected_reply

MAX_REDIAL_S: Final = 300.0
"""Longest back-off of an address, seconds (our dialler's)."""

MAX_REMEMBERED_DIALS: Final = 4_096
"""Addresses whose failure is remembered (our dialler's)."""

_TRIES: Final = 2
"""A request whose stream fails or stays silent is tried once more (go)."""

Outcome = Reply | Receipt | FailureReason | None
"""How an exchange ended: with the answer to a request, with what is known of a provider record that
was sent, without a connection or an answer, or, for a dial alone, with the connection (None)."""

Done = Callable[[Outcome], None]


class Caller:
    """Sends the requests of one member to others, and answers questions about its connections."""

    def __init__(
        self, world: World, member: Member, addrs_of: Callable[[PeerId], Sequence[bytes]]
    ) -> None:
        links = world.scenario.links
        self.world = world
        self.member = member
        self.addrs_of = addrs_of
        """Where to dial a peer."""
        self.refused = Backoff(links.redial_refused_s, MAX_REDIAL_S)
        self.silent = Backoff(links.redial_silent_s, MAX_REDIAL_S)
        self.dials: BackoffMemory[bytes] = BackoffMemory(MAX_REMEMBERED_DIALS)
        """The addresses that are left alone after a failed dial."""
        self.reached: Counter[PeerId] = Counter()
        """Dials under way at whose address somebody took the connection."""
        self.met: dict[PeerId, None] = {}
        """Peers that ever answered."""
        self.running = 0
        """Requests of searches and deliveries under way, those that are over included."""
        self.stopped = False
        """Nobody is told any more how an exchange ended."""

    def is_connected(self, peer: PeerId) -> bool:
        """Whether a connection to ``peer`` is open."""
        member = self.world.population.by_id(peer)
        return member is not None and self.world.connections.are_open(self.member, member)

    def is_reached(self, peer: PeerId) -> bool:
        """Whether ``peer`` gave a sign of life: a connection is open or is being set up."""
        return self.reached[peer] > 0 or self.is_connected(peer)

    def send(
        self, peer: PeerId, request: Request | None, deadline: Monotonic, done: Done
    ) -> Exchange:
        """Begin an exchange. Without a ``request`` it only dials. ``done`` is called once, but not
        from within this call, and not after a ``cancel``."""

        def report(outcome: Outcome) -> None:
            if isinstance(outcome, Reply | Receipt):
                self.met[peer] = None
            if not self.stopped:
                done(outcome)

        exchange = Exchange(self, peer, request, deadline, report)
        exchange.begin()
        return exchange


class _Meeting(Enum):
    """The outcome of a dial."""

    THROUGH = "through"
    REFUSED = "refused"
    SWALLOWED = "swallowed"
    STRANGER = "stranger"


@dataclass(slots=True, eq=False)
class Exchange:
    """One request of one member to another, from dial to answer."""

    caller: Caller
    peer: PeerId
    request: Request | None
    deadline: Monotonic
    done: Done
    _world: World = field(init=False)
    _target: Member | None = field(init=False)
    _tries: int = 0
    _over: bool = False

    def begin(self) -> None:
        """Start the exchange."""
        self._world = self.caller.world
        self._target = self._world.population.by_id(self.peer)
        self._connect()

    def cancel(self) -> bool:
        """Stop the exchange. Return whether it was still running."""
        was_under_way, self._over = not self._over, True
        return was_under_way

    # --- dialling ---------------------------------------------------------------------------------

    def _connect(self) -> None:
        target = self._target
        if target is not None and self._world.connections.are_open(self.caller.member, target):
            self._send(target)
        else:
            self._dial()

    def _dial(self) -> None:
        """Dial all addresses at once. The peer's own address decides, or else the slowest
        failure."""
        world, caller = self._world, self.caller
        now = world.queue.now
        limit_s = max(0.0, min(params.DIAL_TIMEOUT_S, self.deadline - now))
        taken_s = 0.0
        for addr in caller.addrs_of(self.peer):
            if caller.dials.is_blocked(addr, now):
                continue
            world.counters["dials"] += 1
            meeting, time_s = self._meet(world.population.by_addr(addr))
            if self._target and meeting is _Meeting.THROUGH and time_s < limit_s:
                caller.dials.succeeded(addr)
                reached_s = min(
                    time_s,
                    world.links.round_trips_s(
                        caller.member, self._target, world.scenario.links.reached_round_trips
                    ),
                )
                world.queue.after(reached_s, self._reached)
                world.queue.after(time_s, self._through)
                return
            backoff = caller.refused if meeting is _Meeting.REFUSED else caller.silent
            world.queue.after(min(time_s, limit_s), self._remember_failure(addr, backoff))
            taken_s = max(taken_s, time_s)
        world.queue.after(min(taken_s, limit_s), lambda: self._finish(FailureReason.UNREACHABLE))

    def _meet(self, owner: Member | None) -> tuple[_Meeting, float]:
        """The outcome of a dial to an address of ``owner``, and how long it takes."""
        world, member = self._world, self.caller.member
        swallowed = _Meeting.SWALLOWED, params.DIAL_TIMEOUT_S
        if owner is None or world.links.are_parted(member, owner, world.queue.now):
            return swallowed
        if not owner.online and owner.refuses_when_away:
            trips = world.scenario.links.refusal_round_trips
            return _Meeting.REFUSED, world.links.round_trips_s(member, owner, trips)
        if not owner.online or owner.nat:
            return swallowed
        taken_s = world.links.handshake_s(member, owner)
        return (_Meeting.THROUGH if owner is self._target else _Meeting.STRANGER), taken_s

    def _remember_failure(self, addr: bytes, backoff: Backoff) -> Callable[[], None]:
        return lambda: self.caller.dials.failed(addr, backoff, self._world.queue.now)

    def _reached(self) -> None:
        self.caller.reached[self.peer] += 1

    def _through(self) -> None:
        target, member = self._target, self.caller.member
        assert target is not None
        self.caller.reached[self.peer] -= 1
        if self._over or not member.online:
            return
        if not target.online:
            self._finish(FailureReason.UNREACHABLE)
            return
        if not self._world.connections.are_open(member, target):
            self._world.connect(member, target)
        self._send(target)

    # --- the request ------------------------------------------------------------------------------

    def _send(self, target: Member) -> None:
        world, member, queue = self._world, self.caller.member, self._world.queue
        if self.request is None:
            queue.after(0.0, lambda: self._finish(None))
            return
        self._tries += 1
        this_try, kind = self._tries, expected_reply(self.request)
        world.counters["requests"] += 1
        world.trace.note(queue.now, "asks", member.index, target.index, kind)
        if world.connections.are_open(member, target):
            world.connections.used(member, target)
        request = world.wire.request(self.request)
        is_gift = isinstance(self.request, AddProvider)
        limit_s = PROVIDE_CONFIRM_TIMEOUT_S if is_gift else params.REQUEST_TIMEOUT_S

        def arrived() -> None:
            if self._is_current(this_try, target) and target.character is not Character.MUTE:
                world.ask(target, member, request, respond)

        def respond(answer: Reply | NoReply | Refuse) -> None:
            flight_s = world.links.flight_s(target, member)
            queue.after(flight_s, lambda: self._answered(target, this_try, answer))

        def timed_out() -> None:
            if self._over or this_try != self._tries:
                return
            if is_gift:
                self._finish(Receipt.SENT)
            else:
                self._try_again(FailureReason.TIMEOUT)

        queue.after(world.links.flight_s(member, target), arrived)
        queue.at(max(queue.now, min(self.deadline, queue.now + limit_s)), timed_out)

    def _try_again(self, why: FailureReason) -> None:
        """Send the request once more. If this was done already, end with ``why``."""
        gift = isinstance(self.request, AddProvider)
        if gift or self._tries >= _TRIES or self._world.queue.now >= self.deadline:
            self._finish(why)
        else:
            self._connect()

    def _is_current(self, this_try: int, target: Member) -> bool:
        """Whether both members can still talk, and this try is the latest one."""
        member, now = self.caller.member, self._world.queue.now
        if self._over or this_try != self._tries or not (member.online and target.online):
            return False
        return not self._world.links.are_parted(member, target, now)

    def _answered(self, target: Member, this_try: int, answer: Reply | NoReply | Refuse) -> None:
        if not self._is_current(this_try, target):
            return
        match answer:
            case NoReply():
                self._finish(Receipt.CONFIRMED)
            case Refuse():
                self._try_again(FailureReason.BROKEN)
            case Reply():
                self._finish(self._read(answer))

    def _read(self, answer: Reply) -> Outcome:
        assert self.request is not None
        try:
            reply = self._world.wire.reply(answer)
        except RemoteError:
            return FailureReason.BROKEN
        return reply if reply.type is expected_reply(self.request) else FailureReason.BROKEN

    def _finish(self, outcome: Outcome) -> None:
        if self._over:
            return
        self._over = True
        world, member = self._world, self.caller.member
        if not member.online:
            return
        index = -1 if self._target is None else self._target.index
        failed = isinstance(outcome, FailureReason)
        closer = len(outcome.closer_peers) if isinstance(outcome, Reply) else 0
        world.trace.note(
            world.queue.now, "fails" if failed else "answers", member.index, index, closer
        )
        world.touched.append(member)
        self.done(outcome)
