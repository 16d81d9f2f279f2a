r"""One request of one member to another: dial, send, answer, as our RPC client does it. Without a
request it is the dial alone, and ends with ``NoReply`` once the connection is there.

Decides when each part happens and how it can fail; the figures are those of ``params`` and of the
scenario's links::

    begin --connected already--> sent --arrived--> answering --answer under way--> done
        \--dial--> dialling --through--> sent         \--(mute, gone, parted)--> nothing
                       \--refused, swallowed, too slow--> failed
    sent --no answer in time--> sent once more --no answer in time--> failed

``done`` is called exactly once, never from within ``begin``, and not at all after ``cancel``.
A late answer of a try that was given up is lost, as its stream is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final, Protocol

from codio_dht import params
from codio_dht.core.backoff import Backoff, BackoffMemory
from codio_dht.core.clock import Monotonic
from codio_dht.core.messages import FailureReason, Reply, Request
from codio_dht.core.peer import PeerId
from codio_dht.core.steps import NoReply, Refuse
from codio_dht.errors import RemoteError
from codio_dht.sim.population import Character, Member
from codio_dht.sim.world import World
from codio_dht.wire.codec import expected_reply

MAX_REDIAL_S: Final = 300.0
"""Longest back-off of an address (our dialler's)."""

MAX_REMEMBERED_DIALS: Final = 4_096
"""Addresses whose failure is remembered (our dialler's)."""

_TRIES: Final = 2
"""A request whose stream fails or stays silent is tried once more (go)."""

Answer = Reply | NoReply | FailureReason
Done = Callable[[Answer], None]


class _Meeting(Enum):
    """What a dial leads to."""

    THROUGH = "through"
    REFUSED = "refused"
    SWALLOWED = "swallowed"
    STRANGER = "stranger"


class DialMemory:
    """What one member's dialler remembers of addresses that failed: they are left alone."""

    def __init__(self, refused_s: float, silent_s: float) -> None:
        self._refused = Backoff(refused_s, MAX_REDIAL_S)
        self._silent = Backoff(silent_s, MAX_REDIAL_S)
        self._failed: BackoffMemory[bytes] = BackoffMemory(MAX_REMEMBERED_DIALS)

    def is_blocked(self, addr: bytes, now: Monotonic) -> bool:
        """Whether ``addr`` is not to be dialled now."""
        return self._failed.is_blocked(addr, now)

    def failed(self, addr: bytes, now: Monotonic, *, refused: bool) -> None:
        """Record that a dial of ``addr`` failed."""
        self._failed.failed(addr, self._refused if refused else self._silent, now)

    def succeeded(self, addr: bytes) -> None:
        """Record that a dial of ``addr`` led to its peer."""
        self._failed.succeeded(addr)


class Asker(Protocol):
    """What an exchange needs of the member that asks."""

    member: Member
    dials: DialMemory
    reached: dict[PeerId, int]
    """Dials under way at whose address somebody took the connection."""

    def addrs_of(self, peer: PeerId) -> Sequence[bytes]:
        """Where to dial ``peer``."""
        ...


class Exchange:
    """See the module."""

    __slots__ = (
        "_asker",
        "_deadline",
        "_done",
        "_over",
        "_peer",
        "_request",
        "_target",
        "_tries",
        "_world",
    )

    def __init__(
        self,
        world: World,
        asker: Asker,
        peer: PeerId,
        request: Request | None,
        deadline: Monotonic,
        done: Done,
    ) -> None:
        self._world = world
        self._asker = asker
        self._peer = peer
        self._target = world.population.by_id(peer)
        self._request = request
        self._deadline = deadline
        self._done = done
        self._tries = 0
        self._over = False

    def begin(self) -> None:
        """Start it."""
        target, member = self._target, self._asker.member
        if target is not None and self._world.connections.are_open(member, target):
            self._send(target)
        else:
            self._dial()

    def cancel(self) -> bool:
        """Nobody waits for it any more; whether it was still under way."""
        was_under_way, self._over = not self._over, True
        return was_under_way

    # --- dialling ---------------------------------------------------------------------------------

    def _dial(self) -> None:
        """All addresses at once: the one that is the peer's decides, else the slowest failure."""
        world, now = self._world, self._world.queue.now
        dials = self._asker.dials
        limit_s = max(0.0, min(params.DIAL_TIMEOUT_S, self._deadline - now))
        taken_s = 0.0
        for addr in self._asker.addrs_of(self._peer):
            if dials.is_blocked(addr, now):
                continue
            world.counters["dials"] += 1
            meeting, time_s = self._meet(world.population.by_addr(addr))
            if self._target and meeting is _Meeting.THROUGH and time_s < limit_s:
                dials.succeeded(addr)
                reached_s = min(time_s, world.links.reached_s(self._asker.member, self._target))
                world.queue.after(reached_s, self._reached)
                world.queue.after(time_s, self._through)
                return
            refused = meeting is _Meeting.REFUSED
            world.queue.after(min(time_s, limit_s), self._remember_failure(addr, refused=refused))
            taken_s = max(taken_s, time_s)
        world.queue.after(min(taken_s, limit_s), self._unreachable)

    def _meet(self, owner: Member | None) -> tuple[_Meeting, float]:
        """What becomes of a dial to an address of ``owner``, and after how long."""
        world, member = self._world, self._asker.member
        swallowed = _Meeting.SWALLOWED, params.DIAL_TIMEOUT_S
        if owner is None or world.links.are_parted(member, owner, world.queue.now):
            return swallowed
        if not owner.online and owner.refuses_when_away:
            return _Meeting.REFUSED, world.links.refusal_s(member, owner)
        if not owner.online or owner.nat:
            return swallowed
        taken_s = world.links.handshake_s(member, owner)
        return (_Meeting.THROUGH if owner is self._target else _Meeting.STRANGER), taken_s

    def _remember_failure(self, addr: bytes, *, refused: bool) -> Callable[[], None]:
        def remember() -> None:
            self._asker.dials.failed(addr, self._world.queue.now, refused=refused)

        return remember

    def _unreachable(self) -> None:
        self._finish(FailureReason.UNREACHABLE)

    def _reached(self) -> None:
        reached = self._asker.reached
        reached[self._peer] = reached.get(self._peer, 0) + 1

    def _through(self) -> None:
        target, member, world = self._target, self._asker.member, self._world
        assert target is not None
        reached = self._asker.reached
        reached[self._peer] -= 1
        if not reached[self._peer]:
            del reached[self._peer]
        if self._over or not member.online:
            return
        if not target.online:
            self._finish(FailureReason.UNREACHABLE)
            return
        if not world.connections.are_open(member, target):
            world.connect(member, target)
        self._send(target)

    # --- the request ------------------------------------------------------------------------------

    def _send(self, target: Member) -> None:
        if self._request is None:
            self._world.queue.after(0.0, lambda: self._finish(NoReply()))
            return
        world, member = self._world, self._asker.member
        self._tries += 1
        this_try = self._tries
        world.counters["requests"] += 1
        world.trace.note(
            world.queue.now, "asks", member.index, target.index, expected_reply(self._request)
        )
        if world.connections.are_open(member, target):
            world.connections.used(member, target)
        request = world.wire.request(self._request)
        now = world.queue.now
        limit = min(self._deadline, now + params.REQUEST_TIMEOUT_S)

        def arrived() -> None:
            if self._over or this_try != self._tries or not self._can_talk(target):
                return
            if target.character is Character.MUTE:
                return
            world.touched.append(target)
            lie = world.liars.reply(target, request) if target.character.lies else None
            if lie is not None:
                respond(lie)
                return
            host = world.host_of(target)
            if host is not None:
                host.answer(member, request, respond)

        def respond(answer: Reply | NoReply | Refuse) -> None:
            flight_s = world.links.flight_s(target, member)
            world.queue.after(flight_s, lambda: self._answered(target, this_try, answer))

        def timed_out() -> None:
            if self._over or this_try != self._tries:
                return
            if self._tries >= _TRIES or world.queue.now >= self._deadline:
                self._finish(FailureReason.TIMEOUT)
            else:
                self._again(target)

        world.queue.after(world.links.flight_s(member, target), arrived)
        world.queue.at(max(limit, now), timed_out)

    def _again(self, target: Member) -> None:
        if self._world.connections.are_open(self._asker.member, target):
            self._send(target)
        else:
            self._dial()

    def _can_talk(self, target: Member) -> bool:
        member = self._asker.member
        parted = self._world.links.are_parted(member, target, self._world.queue.now)
        return member.online and target.online and not parted

    def _answered(self, target: Member, this_try: int, answer: Reply | NoReply | Refuse) -> None:
        if self._over or this_try != self._tries or not self._can_talk(target):
            return
        if isinstance(answer, Refuse):
            if self._tries >= _TRIES:
                self._finish(FailureReason.BROKEN)
            else:
                self._again(target)
            return
        if isinstance(answer, Reply):
            try:
                answer = self._world.wire.reply(answer)
            except RemoteError:
                self._finish(FailureReason.BROKEN)
                return
            if self._request is None or answer.type is not expected_reply(self._request):
                self._finish(FailureReason.BROKEN)
                return
        self._finish(answer)

    def _finish(self, answer: Answer) -> None:
        if self._over:
            return
        self._over = True
        world, member = self._world, self._asker.member
        if not member.online:
            return
        index = -1 if self._target is None else self._target.index
        failed = isinstance(answer, FailureReason)
        closer = len(answer.closer_peers) if isinstance(answer, Reply) else 0
        world.trace.note(
            world.queue.now, "fails" if failed else "answers", member.index, index, closer
        )
        world.touched.append(member)
        self._done(answer)
