"""One UDP socket and the QUIC connections on it, inbound and outbound.

Decides to which connection a datagram belongs (by its connection id, whatever its address), and
when timers fire. A datagram that ends with the stateless reset token of a connection's peer ends
that connection. What becomes of all others, :mod:`~codio_dht.net.quic.strangers` decides. Answers
leave from the address that was asked.

Two tasks: one receives, takes a batch of datagrams, and then lets every connection that was touched
send once; the other waits for the earliest timer.
"""

from __future__ import annotations

import heapq
import socket
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Final

import trio
from trio.lowlevel import checkpoint, notify_closing, wait_readable

from codio_dht.core.clock import Monotonic
from codio_dht.net.link import LinkContext, LinkState, now
from codio_dht.net.quic.connection import QuicIdentity
from codio_dht.net.quic.headers import LONG_HEADER, destination_of_long
from codio_dht.net.quic.limits import (
    CONNECTION_ID_BYTES,
    DRAIN_S,
    MAX_DRAINED_IDS,
    MAX_WAITING_STRANGERS,
    MIN_TIMER_S,
    STRANGERS_PER_TURN,
    UDP_BATCH,
    UDP_BUFFER_BYTES,
)
from codio_dht.net.quic.link import QuicLink
from codio_dht.net.quic.strangers import MIN_RESET_BYTES, Opening, Strangers
from codio_dht.net.quic.tokens import RESET_TOKEN_BYTES
from codio_dht.net.quic.udp_socket import (
    Datagram,
    Path,
    Receiver,
    Sender,
    ask_for_buffer,
    ip_of,
    learn_own_addresses,
)
from codio_dht.net.targets import Target, of_udp_socket

_MIN_TIMERS_TIDIED: Final = 64
"""With fewer timers waiting than this, old ones are left to fire."""

Accept = Callable[["Endpoint", Target, bytes, bytes | None], QuicLink | None]
"""Makes the link of a new dialler (the socket, where it is, the connection id of its first packet,
and the one that a Retry gave it), or refuses it."""


class Endpoint:
    """One UDP socket and the QUIC connections on it, inbound and outbound."""

    def __init__(
        self,
        context: LinkContext,
        sock: socket.socket,
        accept: Accept | None,
        identity: QuicIdentity,
    ) -> None:
        """The connections of ``sock``; without ``accept`` nobody may begin one."""
        self.sock = sock
        self.identity = identity.at(sock.getsockname())
        """The node's, with the stateless reset tokens of this socket."""
        self._fd = sock.fileno()
        self._context = context
        self._accept = accept
        self._links: dict[bytes, QuicLink] = {}
        self._by_token: dict[bytes, QuicLink] = {}
        self._waiting: deque[Datagram] = deque()
        self._drained: dict[bytes, float] = {}
        """Ids of connections that are over, and until when packets for them get no answer."""
        self._strangers = Strangers(
            self.identity.setup.resets,
            context.counters,
            listens=accept is not None,
            exempt_local=context.limits.exempt_local,
        )
        self._timers: list[tuple[float, int, QuicLink]] = []
        self._serial = count()
        self._tidy_at = _MIN_TIMERS_TIDIED
        self._alarm: float = float("inf")
        self._earlier = trio.Event()
        self._closed = False
        self.own_ip = ip_of(sock)
        """The own address that it is bound to."""
        pins = accept is not None and self.own_ip.is_unspecified
        self.answers_from_asked = not pins or learn_own_addresses(sock)
        """Whether answers leave from the address that was asked."""
        self._receiver = Receiver(sock, learns=pins and self.answers_from_asked)
        self._sender = Sender(sock)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            ask_for_buffer(sock, option, UDP_BUFFER_BYTES)

    @property
    def listens(self) -> bool:
        """Whether it takes connections."""
        return self._accept is not None

    @property
    def links(self) -> set[QuicLink]:
        """Its connections."""
        return set(self._links.values())

    def start(self) -> None:
        """Serve, in tasks of the host's nursery."""
        self._context.nursery.start_soon(self._receive_all)
        self._context.nursery.start_soon(self._watch_timers)

    def close(self) -> None:
        """End every connection, and give the socket back. Idempotent."""
        if self._closed:
            return
        for link in self.links:
            link.end()
        self._closed = True
        self._earlier.set()
        notify_closing(self._fd)
        self.sock.close()

    # --- for its links ----------------------------------------------------------------------------

    def send(self, datagrams: Sequence[Datagram]) -> None:
        """Send datagrams; those that the system does not take are lost, as datagrams are."""
        if self._closed:
            return
        lost = self._sender.send(datagrams)
        if lost:
            self._context.counters["datagrams_not_sent"] += lost

    def keep(self, link: QuicLink) -> None:
        """Find the link by its present ids, and look at its timer in time."""
        if link.registered != link.ids:
            for gone in link.registered - link.ids:
                self._links.pop(gone, None)
            for new in link.ids - link.registered:
                self._links[new] = link
            link.registered = set(link.ids)
        if link.reset_token is not link.promised_token:
            self._find_by_token(link, link.promised_token)
        moment = now()
        if link.may_wait(moment):
            return
        due: float | None = link.next_timeout()
        if due is not None and due < link.due:
            # Never at once: a timer that stays due would keep everybody else from running.
            link.due = due = max(due, moment + MIN_TIMER_S)
            if len(self._timers) >= self._tidy_at:
                self._drop_old_timers()
            heapq.heappush(self._timers, (due, next(self._serial), link))
            if due < self._alarm:
                self._earlier.set()

    def forget(self, link: QuicLink) -> None:
        """The link is over. Its timer is dropped when it fires, or when there are many such."""
        until = now() + DRAIN_S
        for gone in link.registered:
            self._links.pop(gone, None)
            self._drained[gone] = until
        while len(self._drained) > MAX_DRAINED_IDS:
            del self._drained[next(iter(self._drained))]
        link.registered = set()
        self._find_by_token(link, None)

    def _find_by_token(self, link: QuicLink, token: bytes | None) -> None:
        if link.reset_token is not None and self._by_token.get(link.reset_token) is link:
            del self._by_token[link.reset_token]
        link.reset_token = token
        if token is not None:
            self._by_token[token] = link

    def settled(self, link: QuicLink) -> None:
        """The link is no longer unproven. Idempotent."""
        if link.unproven:
            link.unproven = False
            self._strangers.settled(link.target.ip)

    # --- receiving --------------------------------------------------------------------------------

    async def _receive_all(self) -> None:
        while not self._closed:
            try:
                if self._waiting:
                    await checkpoint()
                else:
                    await wait_readable(self._fd)
                self._receive_some()
            except trio.ClosedResourceError:
                return
            except Exception as error:  # noqa: BLE001 - a task's outermost edge
                self._context.bugs.report("UDP socket failed", error, now())
                await checkpoint()

    def _receive_some(self) -> None:
        """Take a batch of datagrams, let each connection answer once, then see to strangers. Their
        datagrams are read faster than they are judged, so that a flood delays no connection."""
        touched: dict[QuicLink, None] = {}
        moment = now()
        for _ in range(UDP_BATCH):
            try:
                data, path = self._receiver.receive()
            except (BlockingIOError, InterruptedError):
                break
            except OSError:  # an ICMP error of something sent earlier
                continue
            link = self._find(data)
            if link is None:
                self._let_wait(data, path)
            else:
                _feed(link, data, path, moment)
                touched[link] = None
        for link in touched:
            link.respond(moment)
        for _ in range(min(len(self._waiting), STRANGERS_PER_TURN)):
            self._meet(*self._waiting.popleft(), moment)

    def _let_wait(self, data: bytes, path: Path) -> None:
        """Put a stranger's datagram behind the others."""
        if len(self._waiting) >= MAX_WAITING_STRANGERS:
            self._context.counters["quic_strangers_dropped"] += 1
        elif data:
            self._waiting.append((data, path))

    def _find(self, data: bytes) -> QuicLink | None:
        """The connection that a datagram belongs to."""
        if data and data[0] & LONG_HEADER:
            return self._links.get(destination_of_long(data))
        return self._links.get(data[1 : 1 + CONNECTION_ID_BYTES])

    # --- strangers --------------------------------------------------------------------------------

    def _meet(self, data: bytes, path: Path, moment: Monotonic) -> None:
        """Answer a stranger's datagram, or begin a connection with it."""
        link = self._find(data)
        if link is not None:  # one before it began the connection
            _feed(link, data, path, moment)
            link.respond(moment)
            return
        link = self._by_token.get(data[-RESET_TOKEN_BYTES:])
        if link is not None and len(data) >= MIN_RESET_BYTES and not data[0] & LONG_HEADER:
            self._context.counters["quic_resets_received"] += 1
            link.forgotten()
            return
        if self._drained.get(data[1 : 1 + CONNECTION_ID_BYTES], 0.0) > moment:
            return  # sent before the peer knew that the connection is over
        target = of_udp_socket(path[0])
        verdict = self._strangers.judge(data, path[0], target.ip, moment)
        if not isinstance(verdict, Opening):
            if verdict is not None:
                self.send([(verdict, path)])
            return
        assert self._accept is not None
        link = self._accept(self, target, verdict.original_id, verdict.retry_id)
        if link is None:
            self.send([(verdict.refusal(), path)])
            return
        if verdict.retry_id is None:
            link.unproven = True
            self._strangers.begun(target.ip)
        _feed(link, data, path, moment)
        link.respond(moment)

    # --- timers -----------------------------------------------------------------------------------

    async def _watch_timers(self) -> None:
        while not self._closed:
            self._earlier = trio.Event()
            self._alarm = self._timers[0][0] if self._timers else float("inf")
            with trio.move_on_at(self._alarm):
                await self._earlier.wait()
            try:
                self._fire(now())
            except Exception as error:  # noqa: BLE001 - a task's outermost edge
                self._context.bugs.report("QUIC timer failed", error, now())
            await checkpoint()

    def _drop_old_timers(self) -> None:
        """Forget what no link waits for any more: a link that came and went would be kept for its
        time-out of half a minute. No more often than their number doubles."""
        self._timers = [
            timer
            for timer in self._timers
            if timer[0] == timer[2].due and timer[2].state is not LinkState.ENDED
        ]
        heapq.heapify(self._timers)
        self._tidy_at = max(_MIN_TIMERS_TIDIED, 2 * len(self._timers))

    def _fire(self, moment: Monotonic) -> None:
        """Look at every link whose time has come; it may have moved on meanwhile."""
        while self._timers and self._timers[0][0] <= moment:
            due, _, link = heapq.heappop(self._timers)
            if link.state is LinkState.ENDED or due != link.due:
                continue
            link.due = float("inf")
            link.on_timeout(moment)
            self.keep(link)  # harmless after its end


def _feed(link: QuicLink, data: bytes, path: Path, moment: Monotonic) -> None:
    """Hand a datagram to its connection. What this node dialled leaves by the route, also after its
    own address changed; what was dialled to it leaves from the address that was asked."""
    link.receive(data, path if link.inbound else (path[0], None), moment)
