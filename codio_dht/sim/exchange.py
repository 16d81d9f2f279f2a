"""One request of one member to another: dial, send, answer, as our dialler and RPC client do it.

Decides when each part happens and how it can fail; the figures are those of ``params`` and of the
scenario's links. A request whose stream fails or stays silent is sent once more. A provider record
is sent once; a peer that does not say in time that it took it has been sent it all the same. A late
answer of a try that was given up is lost, as its stream is.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from enum import Enum
from functools import partial
from typing import Any, Final

from codio_dht import params
from codio_dht.core.backoff import Backoff, BackoffMemory
from codio_dht.core.clock import Monotonic
from codio_dht.core.delivery import PROVIDE_CONFIRM_TIMEOUT_S, Receipt
from codio_dht.core.messages import AddProvider, FailureReason, Reply, Request
from codio_dht.core.peer import PeerId
from codio_dht.core.steps import NoReply, Refuse
from codio_dht.errors import RemoteError
from codio_dht.sim.behaviours import Answered
from codio_dht.sim.events import Process, Resume, suspend
from codio_dht.sim.population import Character, Member
from codio_dht.sim.world import World
from codio_dht.wire.codec import expected_reply

REFUSED_BACKOFF: Final = Backoff(initial_s=0.5, ceiling_s=300.0)
"""How long an address that refused a dial is left alone (our dialler's)."""

SILENT_BACKOFF: Final = Backoff(initial_s=5.0, ceiling_s=300.0)
"""The same for one that did not answer."""

MAX_REMEMBERED_DIALS: Final = 4_096
"""Addresses whose failure is remembered (our dialler's)."""

_TRIES: Final = 2
"""How often a request is sent (go)."""

Outcome = Reply | Receipt | FailureReason | None
"""How an exchange ended: with the answer to a request, with what is known of a provider record that
was sent, without a connection or an answer, or, for a dial alone, with the connection (None)."""


class _Meeting(Enum):
    """The outcome of a dial."""

    THROUGH = "through"
    REFUSED = "refused"
    IN_VAIN = "in vain"
    """Nobody answered, or somebody else."""


class Caller:
    """Sends the requests of one member to others, and answers questions about its connections.
    ``addrs_of`` says where to dial a peer."""

    def __init__(
        self, world: World, member: Member, addrs_of: Callable[[PeerId], Sequence[bytes]]
    ) -> None:
        self.world = world
        self.member = member
        self.met: dict[PeerId, None] = {}
        """Peers that ever answered."""
        self.running = 0
        """Requests of searches and deliveries under way, those that are over included."""
        self._addrs_of = addrs_of
        self._failed: BackoffMemory[bytes] = BackoffMemory(MAX_REMEMBERED_DIALS)
        """The addresses that are left alone after a failed dial."""
        self._reached: dict[PeerId, tuple[float, float]] = {}
        """From when on, and until when, the last dial of a peer has shown that somebody is there,
        but not yet who."""
        self._processes: dict[Process, None] = {}

    # --- processes --------------------------------------------------------------------------------

    def start(self, work: Coroutine[Any, Any, object]) -> Process:
        """Run ``work`` until it ends or the member stops."""
        return Process(work, self._processes)

    def stop(self) -> None:
        """End everything that the member has begun."""
        for process in list(self._processes):
            process.cancel()

    # --- connections ------------------------------------------------------------------------------

    def is_connected(self, peer: PeerId) -> bool:
        """Whether a connection to ``peer`` is open."""
        member = self.world.population.by_id(peer)
        return member is not None and self.world.connections.are_open(self.member, member)

    def is_reached(self, peer: PeerId) -> bool:
        """Whether ``peer`` gave a sign of life: a connection is open or is being set up."""
        begin_s, end_s = self._reached.get(peer, (0.0, 0.0))
        return begin_s <= self.world.queue.now < end_s or self.is_connected(peer)

    # --- requests ---------------------------------------------------------------------------------

    async def request(self, peer: PeerId, request: Request | None, deadline: Monotonic) -> Outcome:
        """Send ``request`` to ``peer``, or without one only dial it. Return how that ended."""
        world = self.world
        target = world.population.by_id(peer)
        outcome = await self._exchange(peer, target, request, deadline)
        failed = isinstance(outcome, FailureReason)
        closer = len(outcome.closer_peers) if isinstance(outcome, Reply) else 0
        index = -1 if target is None else target.index
        world.note("fails" if failed else "answers", self.member.index, index, closer)
        world.touched.append(self.member)
        if isinstance(outcome, Reply | Receipt):
            self.met[peer] = None
        return outcome

    async def _exchange(
        self, peer: PeerId, target: Member | None, request: Request | None, deadline: Monotonic
    ) -> Outcome:
        why = FailureReason.TIMEOUT
        is_gift = isinstance(request, AddProvider)
        for _ in range(1 if is_gift else _TRIES):
            if not (self.is_connected(peer) or await self._dial(peer, target, deadline)):
                return FailureReason.UNREACHABLE
            assert target is not None, "nobody can connect to a ghost"
            if request is None:
                await self.world.queue.sleep(0.0)
                return None
            limit_s = PROVIDE_CONFIRM_TIMEOUT_S if is_gift else params.REQUEST_TIMEOUT_S
            match await self._ask(target, request, deadline, limit_s):
                case Reply() as answer:
                    return self._read(request, answer)
                case NoReply():
                    return Receipt.CONFIRMED
                case Refuse():
                    why = FailureReason.BROKEN
                case None if is_gift:
                    return Receipt.SENT
                case None:
                    why = FailureReason.TIMEOUT
            if self.world.queue.now >= deadline:
                break
        return why

    async def _ask(
        self, target: Member, request: Request, deadline: Monotonic, limit_s: float
    ) -> Answered | None:
        """What ``target`` answers; None if nothing comes in time."""
        world, queue, links, member = self.world, self.world.queue, self.world.links, self.member
        world.counters["requests"] += 1
        world.note("asks", member.index, target.index, expected_reply(request))
        if world.connections.are_open(member, target):
            world.connections.used(member, target)
        sent = self._sent(request)

        def begin(resume: Resume) -> None:
            def goes_on() -> bool:
                """Whether the two can still talk, and somebody waits for the answer."""
                there = resume.awaited and member.online and target.online
                return there and not links.are_parted(member, target, queue.now)

            def arrived() -> None:
                if not goes_on() or target.character is Character.MUTE:
                    return
                if isinstance(sent, Refuse):
                    respond(sent)
                else:
                    world.ask(target, member, sent, respond)

            def respond(answer: Answered) -> None:
                flight_s = links.flight_s(target, member)
                queue.after(flight_s, lambda: resume(answer) if goes_on() else None)

            queue.after(links.flight_s(member, target), arrived)
            queue.at(max(queue.now, min(deadline, queue.now + limit_s)), resume)

        answer: Answered | None = await suspend(begin)
        return answer

    def _sent(self, request: Request) -> Request | Refuse:
        """``request`` as it arrives. One that no frame can hold, which only a hostile peer sends,
        has its stream reset."""
        try:
            return self.world.wire.request(request)
        except RemoteError as error:
            return Refuse(str(error))

    def _read(self, request: Request, answer: Reply) -> Outcome:
        try:
            reply = self.world.wire.reply(answer)
        except RemoteError:
            return FailureReason.BROKEN
        return reply if reply.type is expected_reply(request) else FailureReason.BROKEN

    # --- dialling ---------------------------------------------------------------------------------

    async def _dial(self, peer: PeerId, target: Member | None, deadline: Monotonic) -> bool:
        """Dial all addresses at once. The peer's own address decides, or else the slowest
        failure. Return whether there is a connection."""
        world, now = self.world, self.world.queue.now
        limit_s = max(0.0, min(params.DIAL_TIMEOUT_S, deadline - now))
        taken_s = 0.0
        for addr in self._addrs_of(peer):
            if self._failed.is_blocked(addr, now):
                continue
            world.counters["dials"] += 1
            meeting, time_s = self._meet(target, world.population.by_addr(addr))
            if target and meeting is _Meeting.THROUGH and time_s < limit_s:
                self._failed.succeeded(addr)
                return await self._connect(target, time_s)
            backoff = REFUSED_BACKOFF if meeting is _Meeting.REFUSED else SILENT_BACKOFF
            world.queue.after(min(time_s, limit_s), partial(self._note_failure, addr, backoff))
            taken_s = max(taken_s, time_s)
        await world.queue.sleep(min(taken_s, limit_s))
        return False

    def _meet(self, target: Member | None, owner: Member | None) -> tuple[_Meeting, float]:
        """The outcome of a dial to an address of ``owner``, and how long it takes."""
        world, member = self.world, self.member
        if owner is not None and not world.links.are_parted(member, owner, world.queue.now):
            if not owner.online and owner.refuses_when_away:
                trips = world.scenario.links.refusal_round_trips
                return _Meeting.REFUSED, world.links.round_trips_s(member, owner, trips)
            if owner.online and not owner.nat:
                meeting = _Meeting.THROUGH if owner is target else _Meeting.IN_VAIN
                return meeting, world.links.handshake_s(member, owner)
        return _Meeting.IN_VAIN, params.DIAL_TIMEOUT_S

    async def _connect(self, target: Member, time_s: float) -> bool:
        """Complete a dial that leads to ``target``. Return whether it is still there then."""
        world, member = self.world, self.member
        trips = world.scenario.links.reached_round_trips
        reached_s = min(time_s, world.links.round_trips_s(member, target, trips))
        now = world.queue.now
        begin_s, end_s = self._reached.get(target.peer, (now, now))
        begin_s = begin_s if now < end_s else now + reached_s
        self._reached[target.peer] = begin_s, now + time_s
        await world.queue.sleep(time_s)
        if target.online and not world.connections.are_open(member, target):
            world.connect(member, target)
        return target.online

    def _note_failure(self, addr: bytes, backoff: Backoff) -> None:
        self._failed.failed(addr, backoff, self.world.queue.now)
