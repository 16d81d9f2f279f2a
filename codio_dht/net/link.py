"""The host's view of one connection over any transport, and the interface for transports.

A :class:`Link` has the streams of one peer and says when they have something to send. The TCP link
is :class:`~codio_dht.net.stack_host.pump.Pump`, the QUIC link is
:class:`~codio_dht.net.quic.link.QuicLink`. The host uses nothing below them. ``state`` has these
states::

    PENDING --authenticated--> OPEN --> ENDED
       +-------------------------------> ENDED

A :class:`ChannelUser` stands at the local end of each channel that has no handler: a stream of the
node, or identify.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from time import thread_time
from typing import Protocol

import trio
from multiaddr import Multiaddr

from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.errors import CapacityError, CodioError
from codio_dht.logger import get_logger
from codio_dht.net.bugs import BugLog
from codio_dht.net.charging import Charges, Charging
from codio_dht.net.limits import DOUBT_AFTER_S, Limits
from codio_dht.net.stack.channel import (
    Channel,
    ChannelAccepted,
    ChannelData,
    ChannelEof,
    ChannelReady,
    ChannelRefused,
    ChannelReset,
    ChannelWritable,
    ServedProtocols,
    StreamFault,
)
from codio_dht.net.stack.connection import ConnectionEnded, ConnectionEvent, Established
from codio_dht.net.stack.muxer import GoAway, Violation
from codio_dht.net.stack.security import Authenticated, Security
from codio_dht.net.stack.streams import Streams
from codio_dht.net.targets import Target

_log = get_logger(__name__)


def now() -> Monotonic:
    """This moment on the host's clock."""
    return Monotonic(trio.current_time())


class LinkState(Enum):
    """The state of a link: pending, open or ended."""

    PENDING = auto()
    OPEN = auto()
    ENDED = auto()


class ChannelUser(Protocol):
    """The local end of a channel. Called from inside the link; must not raise or wait."""

    def on_ready(self) -> None:
        """Note that the peer agreed to the protocol."""
        ...

    def on_refused(self) -> None:
        """Note that the peer does not speak the protocol. The channel is over."""
        ...

    def on_data(self, data: bytes) -> None:
        """Note that bytes arrived. The user that takes them must consume them."""
        ...

    def on_eof(self) -> None:
        """The peer finished sending."""
        ...

    def on_reset(self, reason: str) -> None:
        """The channel is over."""
        ...

    def on_writable(self) -> None:
        """Note that everything that waited for the peer's window has been sent."""
        ...


class Question(Protocol):
    """An exchange that the host itself makes on a link, with a deadline. Identify is one."""

    deadline: Monotonic

    def expire(self) -> None:
        """The deadline has passed."""
        ...


class LinkOwner(Protocol):
    """Receives the events of a link. Called from inside the link; must not raise or wait."""

    def admit(self, link: Link, authenticated: Authenticated) -> bool:
        """Whether to go on with the connection to this peer."""
        ...

    def on_established(self, link: Link) -> None:
        """The link is open. Streams opened now leave in its next flight."""
        ...

    def on_accepted(self, link: Link, channel: Channel) -> None:
        """The peer opened a stream of a protocol without a handler; give the channel a user."""
        ...

    def on_ended(self, link: Link) -> None:
        """The link is over, whether or not it was open; told once."""
        ...


@dataclass(frozen=True, slots=True)
class LinkContext:
    """What all links of a host share."""

    owner: LinkOwner
    nursery: trio.Nursery
    securities: Sequence[Security]
    served: ServedProtocols
    limits: Limits
    counters: Counter[str]
    bugs: BugLog
    charging: Charging


class Transport(Protocol):
    """A way to make links: TCP here, QUIC beside it. ``listen`` and ``close`` belong together."""

    def can_dial(self, target: Target) -> bool:
        """Whether this transport carries connections to ``target``."""
        ...

    async def dial(self, target: Target, peer_id: PeerId, reached: Callable[[], None]) -> Link:
        """An open link to ``peer_id``; bounded in time. A cancelled dial leaves nothing behind.
        ``reached`` is called when there is somebody at the target, where that shows before the link
        is open.

        Raises:
            DialFailedError: there is none to be had.
        """
        ...

    def can_listen(self, target: Target) -> bool:
        """Whether this transport can listen on ``target``."""
        ...

    def listen(self, target: Target) -> Multiaddr:
        """Bind and listen; the address with its real port.

        Raises:
            OSError: the system refused.
        """
        ...

    def start(self) -> None:
        """Serve what is listened on, in tasks of the host's nursery."""
        ...

    def close(self) -> None:
        """Listen no more."""
        ...


class Link(ABC):
    """One connection. Subclasses carry its bytes."""

    __slots__ = (
        "__weakref__",
        "_capacity_freed",
        "charges",
        "context",
        "doubted_at",
        "error",
        "going_away",
        "heard_at",
        "inbound",
        "last_active",
        "opened_at",
        "peer_id",
        "pipelining_refused",
        "question",
        "security",
        "settled",
        "state",
        "target",
    )

    def __init__(self, context: LinkContext, target: Target, *, inbound: bool) -> None:
        self.context = context
        self.target = target
        self.inbound = inbound
        charging = context.charging
        self.charges = Charges(charging.origins, charging.subnet(target.ip))
        self.state = LinkState.PENDING
        self.peer_id: PeerId | None = None
        self.security = ""
        self.opened_at = self.last_active = self.heard_at = now()
        self.doubted_at: Monotonic | None = None
        self.going_away = False
        self.error: CodioError | None = None
        self.pipelining_refused = False
        self.settled: trio.Event | None = None
        """Set when no longer pending; made by a dialler that waits for that."""
        self.question: Question | None = None
        self._capacity_freed: trio.Event | None = None

    # --- what carries it --------------------------------------------------------------------------

    @property
    @abstractmethod
    def streams(self) -> Streams:
        """Its streams.

        Raises:
            StreamError: the link is not open.
        """

    @property
    @abstractmethod
    def stream_count(self) -> int:
        """Streams that are not over."""

    @property
    @abstractmethod
    def held_bytes(self) -> int:
        """Bytes held for it on this side, whatever they wait for."""

    @property
    @abstractmethod
    def congested(self) -> bool:
        """Whether a writer should wait (``drained``) before it hands over more."""

    @abstractmethod
    async def drained(self) -> None:
        """Until it is no longer congested, or over."""

    @abstractmethod
    def flush(self) -> None:
        """Send what is ready. Never waits, never raises."""

    @abstractmethod
    def on_timeout(self, moment: Monotonic) -> None:
        """Look at deadlines; harmless when early."""

    @abstractmethod
    def reset_protocol(self, protocol: str) -> None:
        """Reset the peer's streams of ``protocol``."""

    @abstractmethod
    def end(self, reason: CodioError | None = None) -> None:
        """End it from this side, telling the peer as far as that can be done at once. Idempotent.
        ``reason`` is what ``error`` then says."""

    # --- for the host -----------------------------------------------------------------------------

    @property
    def on_listener(self) -> bool:
        """Whether its packets leave from an address that is listened on."""
        return self.inbound

    @property
    def usable(self) -> bool:
        """Whether new streams may be opened."""
        return self.state is LinkState.OPEN and not self.going_away

    @property
    def doubtful(self) -> bool:
        """Whether the peer owes an answer for long, and nothing at all was heard of it since: the
        other end of the connection may be no more."""
        return self.doubted_at is not None and self.heard_at <= self.doubted_at

    def unanswered(self, since: Monotonic) -> None:
        """Somebody gives up waiting for an answer to what was sent at the moment ``since``."""
        moment = now()
        if self.heard_at <= since and moment - since >= DOUBT_AFTER_S:
            self.doubted_at = moment

    async def capacity(self) -> None:
        """Until a stream of this link has moved on, so that opening may be tried again."""
        if self._capacity_freed is None:
            self._capacity_freed = trio.Event()
        await self._capacity_freed.wait()

    def meter(self) -> float:
        """What :meth:`settle` takes, read where a turn of this link begins: the processor time of
        this thread, in seconds; 0 where nobody pays, since reading it is a system call."""
        return 0.0 if self.charges.account is None else thread_time()

    def settle(self, meter: float) -> float:
        """A turn of this link is over: its origin is charged with the processor time since
        ``meter``, and with what the link holds now. For how many seconds it must not be read.

        Processor time and not time that passed: where the machine is busy with something else, that
        is no fault of the peer.
        """
        charges = self.charges
        if charges.account is None:
            return 0.0
        excess = charges.within(self.held_bytes, self.stream_count)
        if excess is not None and self.state is not LinkState.ENDED:
            self.context.counters[f"connections_shed:{excess} of one origin"] += 1
            self.end(CapacityError(f"too many {excess} of one origin"))
        return charges.pause_s(thread_time() - meter if meter else 0.0, now())

    # --- events -----------------------------------------------------------------------------------

    def handle(self, events: Sequence[ConnectionEvent]) -> None:
        """Hand what happened to whom it concerns."""
        for event in events:
            match event:
                case ChannelAccepted(channel):
                    self.context.owner.on_accepted(self, channel)
                case StreamFault():
                    self._count_fault(event)
                case GoAway():
                    self.going_away = True
                case Established(peer_id, _, security):
                    self._on_established(peer_id, security)
                case ConnectionEnded(error, pipelining_refused):
                    self.pipelining_refused = pipelining_refused
                    self._on_ended(error)
                case Violation():  # the connection turns it into its end
                    pass
                case _:
                    if event.channel.user is not None:
                        _tell(event.channel.user, event)
        freed = self._capacity_freed
        if freed is not None:
            self._capacity_freed = None
            freed.set()

    def _count_fault(self, fault: StreamFault) -> None:
        counters = self.context.counters
        counters[f"stream_reset:{fault.reason}"] += 1
        if fault.error is not None:
            counters["stream_handler_errors"] += 1
            _log.warning("stream handler raised", protocol=fault.protocol, exc_info=fault.error)

    def _on_established(self, peer_id: PeerId, security: str) -> None:
        self.state = LinkState.OPEN
        self.peer_id = peer_id
        self.security = security
        self.opened_at = self.last_active = self.heard_at = now()
        self.context.owner.on_established(self)
        self._settle()

    def _on_ended(self, error: CodioError | None) -> None:
        if self.state is LinkState.ENDED:
            return
        self.state = LinkState.ENDED
        if self.error is None:
            self.error = error
        self.charges.close()
        self._closed()
        self.context.owner.on_ended(self)
        self._settle()

    def _settle(self) -> None:
        if self.settled is not None:
            self.settled.set()

    @abstractmethod
    def _closed(self) -> None:
        """The link is over: send the last bytes, and give back what carries it."""


_ChannelEvent = (
    ChannelReady | ChannelRefused | ChannelData | ChannelEof | ChannelReset | ChannelWritable
)


def _tell(user: ChannelUser, event: _ChannelEvent) -> None:
    match event:
        case ChannelData(_, data):
            user.on_data(data)
        case ChannelEof():
            user.on_eof()
        case ChannelReady():
            user.on_ready()
        case ChannelWritable():
            user.on_writable()
        case ChannelReset(_, reason):
            user.on_reset(reason)
        case ChannelRefused():
            user.on_refused()
