"""Runs identify and identify push over links, without a task per peer.

Every connection is identified as soon as it is open; our question leaves with the handshake's last
flight. A peer that does not say who it is, is asked ``IDENTIFY_ATTEMPTS`` times in all: it could
not enter the routing table. When what we say of ourselves changes, everybody connected who takes
pushes is told, once for all changes that come together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import trio
from multiaddr import Multiaddr
from trio.lowlevel import checkpoint

from codio_dht.core.clock import Monotonic
from codio_dht.core.origins import Flow
from codio_dht.core.peer import PeerId
from codio_dht.crypto.keys import PrivateKey
from codio_dht.errors import CapacityError, ProtocolError, StreamError
from codio_dht.net.event_bus import EventBus
from codio_dht.net.handlers import Parked, Reset
from codio_dht.net.identify.introduction import Introduction
from codio_dht.net.identify.known import KnownPeers
from codio_dht.net.identify.limits import IDENTIFY_ATTEMPTS, IDENTIFY_TIMEOUT_S, PUSH_BATCH
from codio_dht.net.identify.message import IDENTIFY, IDENTIFY_PUSH, MessageParts
from codio_dht.net.link import Link, now
from codio_dht.net.stack.channel import Channel, Served, ServedProtocols
from codio_dht.net.stack_host.connections import Connections


class LinkIdentifier:
    """Identify, both ways, on the links of one host."""

    def __init__(
        self,
        key: PrivateKey,
        *,
        agent: str,
        addrs: Callable[[], tuple[Multiaddr, ...]],
        served: ServedProtocols,
        connections: Connections,
        bus: EventBus,
        counters: Counter[str],
        nursery: trio.Nursery,
        observed: Callable[[Link, bytes], None],
        affords: Callable[[PeerId, Flow], bool],
    ) -> None:
        """``observed`` is told at which address (a binary multiaddr) a peer says it sees us.
        ``affords`` charges a peer for one more of a flow, and says whether it may have it."""
        self.affords = affords
        self._observed = observed
        self._key = key
        self._agent = agent
        self._addrs = addrs
        self._served = served
        self._connections = connections
        self.counters = counters
        self._nursery = nursery
        self._introduction: Introduction | None = None
        self._push_due = False
        self._pushes: dict[PeerId, _PushHandler] = {}
        """The push of each peer that is under way: at most one of each connected peer."""
        self.known = KnownPeers(bus, connections.has)
        served.add(Served(IDENTIFY))
        served.add(Served(IDENTIFY_PUSH, lambda peer: _PushHandler(self, peer), IDENTIFY_TIMEOUT_S))

    # --- asking -----------------------------------------------------------------------------------

    def ask(self, link: Link, attempt: int = 1) -> None:
        """Ask who is at the other end."""
        try:
            channel = link.streams.open([IDENTIFY], now())
        except (StreamError, CapacityError):
            return
        channel.user = link.question = _Question(self, link, channel, attempt)

    def learn(self, peer_id: PeerId, parts: MessageParts, link: Link | None = None) -> bool:
        """A peer's message is whole, on ``link`` if that is known; False if it is none."""
        try:
            message = parts.message()
        except ProtocolError:
            return False
        self.known.learn(peer_id, message, new_connection=link is not None)
        if link is not None and message.observed_addr is not None:
            self._observed(link, message.observed_addr)
        return True

    # --- being told -------------------------------------------------------------------------------

    def begin_push(self, peer_id: PeerId, push: _PushHandler) -> None:
        """The peer began to tell what has changed."""
        before = self._pushes.get(peer_id)
        if before is not None:
            before.supersede()
        self._pushes[peer_id] = push

    def end_push(self, peer_id: PeerId, push: _PushHandler) -> None:
        """The stream of ``push`` is over."""
        if self._pushes.get(peer_id) is push:
            del self._pushes[peer_id]

    # --- answering --------------------------------------------------------------------------------

    def answer(self, link: Link, channel: Channel) -> None:
        """Send our identify message at once."""
        streams = link.streams
        channel.user = _Finished()
        try:
            streams.send(channel, self._message(link))
        except (StreamError, CapacityError):
            streams.reset(channel)
        else:
            streams.close(channel, now())

    def _message(self, link: Link) -> bytes:
        if self._introduction is None:
            self._introduction = Introduction.of(
                self._key,
                addrs=self._addrs(),
                protocols=self._served.protocols(),
                agent=self._agent,
            )
        return self._introduction.to(link.target.addr)

    # --- pushing ----------------------------------------------------------------------------------

    def self_changed(self) -> None:
        """Our protocols or addresses changed."""
        self._introduction = None
        if not self._push_due:
            self._push_due = True
            self._nursery.start_soon(self._push_to_all)

    async def _push_to_all(self) -> None:
        await checkpoint()
        self._push_due = False
        for count, link in enumerate(self._connections, start=1):
            self._push(link)
            if count % PUSH_BATCH == 0:
                await checkpoint()

    def _push(self, link: Link) -> None:
        if not link.usable or link.peer_id is None:
            return
        known = self.known.get(link.peer_id)
        if known is None or IDENTIFY_PUSH not in known.protocols:
            return
        try:
            channel = link.streams.open([IDENTIFY_PUSH], now(), self._message(link))
        except (StreamError, CapacityError):
            self.counters["identify_push_failed"] += 1
            return
        channel.user = _Finished()
        link.streams.close(channel, now())
        link.flush()


class _Finished:
    """The user of a channel on which everything has been said."""

    __slots__ = ()

    def on_ready(self) -> None: ...
    def on_refused(self) -> None: ...
    def on_data(self, data: bytes) -> None: ...
    def on_eof(self) -> None: ...
    def on_reset(self, reason: str) -> None: ...
    def on_writable(self) -> None: ...


class _Question:
    """Reads a peer's answer to identify; a ``ChannelUser``."""

    __slots__ = ("_attempt", "_channel", "_identifier", "_link", "_parts", "_streams", "deadline")

    def __init__(
        self, identifier: LinkIdentifier, link: Link, channel: Channel, attempt: int
    ) -> None:
        self.deadline = Monotonic(now() + IDENTIFY_TIMEOUT_S)
        self._identifier = identifier
        self._link = link
        self._streams = link.streams
        self._channel = channel
        self._attempt = attempt
        self._parts = MessageParts()

    def on_ready(self) -> None:
        """Note that the peer agreed to identify itself."""

    def on_refused(self) -> None:
        """Note that the peer does not speak identify. It stays connected."""
        self._fail(again=False)

    def on_data(self, data: bytes) -> None:
        """A piece of its message; it counts as unread until the message is whole."""
        if self._link.question is not self:
            return  # said too much already
        try:
            self._parts.feed(data)
        except ProtocolError:
            self.expire()

    def on_eof(self) -> None:
        """Read the message, which is complete."""
        if self._link.question is not self:
            return
        self._link.question = None
        self._streams.close(self._channel, now())
        assert self._link.peer_id is not None
        if not self._identifier.learn(self._link.peer_id, self._parts, self._link):
            self._fail()

    def on_reset(self, reason: str) -> None:
        """Note that the peer reset the stream without a message."""
        self._fail()

    def on_writable(self) -> None:
        """Do nothing, because nothing more is sent."""

    def expire(self) -> None:
        """End the exchange, because it takes too long or is too large."""
        self._streams.reset(self._channel)
        self._fail()

    def _fail(self, *, again: bool = True) -> None:
        if self._link.question is self:
            self._link.question = None
        self._identifier.counters["identify_failed"] += 1
        if again and self._attempt < IDENTIFY_ATTEMPTS and self._link.usable:
            self._identifier.ask(self._link, self._attempt + 1)


class _PushHandler:
    """One inbound push; a ``StreamHandler``. A peer has one at a time: a new one takes the place of
    one that is not whole."""

    __slots__ = ("_identifier", "_parts", "_peer_id", "held_bytes")

    def __init__(self, identifier: LinkIdentifier, peer_id: PeerId) -> None:
        self._identifier = identifier
        self._peer_id = peer_id
        self._parts: MessageParts | None = MessageParts()
        self.held_bytes = 0
        """Bytes of a message that is not whole; see ``StreamHandler``."""
        identifier.begin_push(peer_id, self)

    def supersede(self) -> None:
        """A later push of the peer has begun: this one is read no more."""
        self._parts = None

    def feed(self, data: bytes, now: Monotonic) -> bytes | Parked | Reset:
        """A piece of its message."""
        parts = self._parts
        if parts is None:
            return self._fail("a later push has begun")
        try:
            parts.feed(data)
        except ProtocolError as error:
            return self._fail(error.reason)
        self.held_bytes += len(data)
        return b""

    def eof(self, now: Monotonic) -> bytes | Parked | Reset:
        """Read the message, which is complete."""
        parts = self._parts
        if parts is None:
            return self._fail("a later push has begun")
        if not self._identifier.affords(self._peer_id, Flow.EVENTS):
            return self._fail("too many pushes")
        self.held_bytes = 0
        if not self._identifier.learn(self._peer_id, parts):
            return self._fail("not an identify message")
        return b""

    def closed(self) -> None:
        """The place is free."""
        self._identifier.end_push(self._peer_id, self)

    def _fail(self, reason: str) -> Reset:
        self.held_bytes = 0
        self._identifier.counters["identify_push_failed"] += 1
        return Reset(reason)
