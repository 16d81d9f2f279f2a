"""One QUIC connection as the host sees it: a link over a UDP socket that it shares with others.

The endpoint (:mod:`~codio_dht.net.quic.endpoint`) hands it the datagrams that carry one of its
connection ids, sends what it has, and calls it when its timer is due. No task of its own, but for
work that became ready by itself or that a turn's ration did not cover.

All methods are safe after its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import thread_time
from typing import Protocol

import trio
from trio.lowlevel import checkpoint

from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.errors import CodioError
from codio_dht.net.link import Link, LinkContext, LinkState, now
from codio_dht.net.quic.connection import Address, Datagram, Quic, QuicIdentity
from codio_dht.net.quic.limits import QUIC_KEEP_ALIVE_BYTES
from codio_dht.net.stack.security import Authenticated
from codio_dht.net.stack.streams import Streams
from codio_dht.net.targets import Target


class LinkEndpoint(Protocol):
    """The socket under a link."""

    @property
    def listens(self) -> bool:
        """Whether peers can be met there, and it is no socket for dials alone."""
        ...

    def send(self, datagrams: Sequence[Datagram]) -> None:
        """Send datagrams, or lose them."""
        ...

    def keep(self, link: QuicLink) -> None:
        """The link's connection ids or its timer may have changed."""
        ...

    def forget(self, link: QuicLink) -> None:
        """The link is over."""
        ...

    def settled(self, link: QuicLink) -> None:
        """The link's handshake is over, one way or the other."""
        ...


class QuicLink(Link):
    """One QUIC connection as a link of the host."""

    __slots__ = ("_drained", "_endpoint", "_paused_until", "_quic", "_spent_s", "_working", "due",
                 "registered", "reset_token", "unproven")  # fmt: skip

    def __init__(
        self,
        context: LinkContext,
        endpoint: LinkEndpoint,
        identity: QuicIdentity,
        target: Target,
        *,
        inbound: bool,
        expected: PeerId | None = None,
        original_id: bytes | None = None,
        retry_id: bytes | None = None,
    ) -> None:
        super().__init__(context, target, inbound=inbound)
        self._endpoint = endpoint
        self._quic = Quic(
            identity,
            initiator=not inbound,
            served=context.served,
            now=self.opened_at,
            expected=expected,
            wake=self._wake,
            admit=self._admit,
            original_id=original_id,
            retry_id=retry_id,
        )
        self._working = False
        self._spent_s = 0.0
        self._paused_until = 0.0
        self._drained: trio.Event | None = None
        self.unproven = False
        """The peer may not be where it says; the endpoint's."""
        self.due: float = float("inf")
        """When the endpoint will look at the timer; the endpoint's."""
        self.registered: set[bytes] = set()
        """Connection ids under which the endpoint finds it; the endpoint's."""
        self.reset_token: bytes | None = None
        """The peer's, under which the endpoint finds it; the endpoint's."""

    @property
    def on_listener(self) -> bool:
        """See ``Link``: dials leave from there too."""
        return self._endpoint.listens

    # --- the endpoint's side ----------------------------------------------------------------------

    def dial(self, addr: Address) -> None:
        """Send the first datagram."""
        self._quic.dial(addr, now())
        self.flush()

    def receive(self, data: bytes, addr: Address, moment: Monotonic) -> None:
        """Take a datagram; ``respond`` follows when a turn's datagrams are all taken. It is dropped
        while the origin of this link has not paid yet: the peer then sends less."""
        self.heard_at = moment
        if moment < self._paused_until:
            self.context.counters["turns_delayed"] += 1
            return
        if len(data) > QUIC_KEEP_ALIVE_BYTES:
            self.last_active = moment
        meter = self.meter()
        self._quic.feed(data, addr, moment)
        if meter:
            self._spent_s += thread_time() - meter

    def respond(self, moment: Monotonic) -> None:
        """Do what the datagrams taken ask for, and send what there is to send."""
        meter = self.meter()
        if meter:
            meter -= self._spent_s
            self._spent_s = 0.0
        events = self._quic.digest(moment)
        if events or self._capacity_freed is not None:
            self.handle(events)
        if self.state is not LinkState.ENDED:
            self.flush()
        self._paused_until = moment + self.settle(meter)

    @property
    def ids(self) -> set[bytes]:
        """Connection ids by which its datagrams are found."""
        return self._quic.ids

    @property
    def promised_token(self) -> bytes | None:
        """The token that the peer's stateless reset would end with."""
        return self._quic.reset_token

    def forgotten(self) -> None:
        """The peer forgot the connection."""
        self.handle(self._quic.forgotten())

    def next_timeout(self) -> Monotonic | None:
        """When ``on_timeout`` wants to be called."""
        return self._quic.next_timeout()

    def may_wait(self, moment: Monotonic) -> bool:
        """Whether the timer that is set will do."""
        return self._quic.may_wait(self.due, moment)

    # --- Link -------------------------------------------------------------------------------------

    def flush(self) -> None:
        """See :class:`Link`."""
        quic = self._quic
        datagrams = quic.datagrams_to_send(now())
        if datagrams:
            self._endpoint.send(datagrams)
        events = quic.take_events()
        if events:
            self.handle(events)
        if self.state is LinkState.ENDED:
            return
        if self._drained is not None and not quic.congested:
            self._drained.set()
            self._drained = None
        self._endpoint.keep(self)
        if quic.work_left:
            self._wake()

    def on_timeout(self, moment: Monotonic) -> None:
        """See :class:`Link`."""
        due = self._quic.next_timeout()
        if due is not None and moment >= due:
            self.handle(self._quic.on_timeout(moment))
            self.flush()

    @property
    def streams(self) -> Streams:
        """See :class:`Link`."""
        return self._quic.streams

    @property
    def stream_count(self) -> int:
        """See :class:`Link`."""
        return self._quic.stream_count

    @property
    def held_bytes(self) -> int:
        """See :class:`Link`."""
        return self._quic.held_bytes

    @property
    def congested(self) -> bool:
        """See :class:`Link`."""
        return self._quic.congested and self.state is LinkState.OPEN

    async def drained(self) -> None:
        """See :class:`Link`."""
        while self.congested:
            if self._drained is None:
                self._drained = trio.Event()
            await self._drained.wait()

    def reset_protocol(self, protocol: str) -> None:
        """See :class:`Link`."""
        if self.state is LinkState.OPEN:
            self._quic.streams.reset_protocol(protocol)
            self.handle(self._quic.take_events())
            self.flush()

    def end(self, reason: CodioError | None = None) -> None:
        """See :class:`Link`."""
        if self.state is not LinkState.ENDED:
            self.error = self.error or reason
            self.handle(self._quic.close())

    # --- inside -----------------------------------------------------------------------------------

    def _admit(self, authenticated: Authenticated) -> bool:
        return self.context.owner.admit(self, authenticated)

    def _on_established(self, peer_id: PeerId, security: str) -> None:
        self._endpoint.settled(self)
        super()._on_established(peer_id, security)

    def _closed(self) -> None:
        """Tell the peer that the connection is closed, and remove the link from its endpoint."""
        self._endpoint.send(self._quic.datagrams_to_send(now()))
        self._endpoint.settled(self)
        self._endpoint.forget(self)
        if self._drained is not None:
            self._drained.set()
            self._drained = None

    def _wake(self) -> None:
        """Work is left, or parked work became ready: do it after others had their turn."""
        if not self._working and self.state is LinkState.OPEN:
            self._working = True
            self.context.nursery.start_soon(self._work)

    async def _work(self) -> None:
        try:
            while self._quic.work_left:
                await checkpoint()
                meter = self.meter()
                self.handle(self._quic.work(now()))
                self.flush()
                pause_s = self.settle(meter)
                if pause_s > 0:
                    await trio.sleep(pause_s)
        except Exception as error:  # noqa: BLE001 - a connection's outermost edge
            self.context.bugs.report("connection failed", error, now())
            self.end()
        finally:
            self._working = False
