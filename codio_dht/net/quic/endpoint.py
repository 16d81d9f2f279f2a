"""One UDP socket and the QUIC connections on it, inbound and outbound.

Decides to which connection a datagram belongs (by its connection id, whatever its address), which
datagrams begin a connection, and when timers fire. It answers a stranger with at most what the
stranger sent, and keeps nothing for one that was not admitted:

- a first packet of another version: the versions spoken;
- while many handshakes, or some of that address, are unproven (their source may be forged): a
  Retry, so that the dialler proves its address before anything is kept of it;
- a dialler that is not admitted: refused, so that it need not wait;
- anything else: nothing.

Two tasks: one receives, takes a batch of datagrams, and then lets every connection that was touched
send once; the other waits for the earliest timer.
"""

from __future__ import annotations

import heapq
import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count
from typing import Final

import trio
from aioquic.quic.packet import (
    QuicHeader,
    QuicPacketType,
    QuicProtocolVersion,
    encode_quic_retry,
    encode_quic_version_negotiation,
)
from aioquic.quic.retry import QuicRetryTokenHandler
from trio.lowlevel import checkpoint, notify_closing, wait_readable

from codio_dht.core.clock import Monotonic
from codio_dht.logger import get_logger
from codio_dht.net.link import LinkContext, LinkState, now
from codio_dht.net.quic.connection import Address, Datagram
from codio_dht.net.quic.engine import CONNECTION_ID_BYTES, read_header, refusal_packet
from codio_dht.net.quic.limits import (
    MAX_UNPROVEN_HANDSHAKES,
    MAX_UNPROVEN_PER_IP,
    MIN_TIMER_S,
    UDP_BATCH,
    UDP_BUFFER_BYTES,
)
from codio_dht.net.quic.link import QuicLink
from codio_dht.net.quic.udp_socket import Sender, ask_for_buffer
from codio_dht.net.targets import Ip, Target, of_udp_socket

_log = get_logger(__name__)

_LONG_HEADER: Final = 0x80
_MIN_FIRST_BYTES: Final = 1_200
"""A datagram with a dialler's first packet is at least this long (RFC 9000, section 14.1)."""
_READ_BYTES: Final = 2_048
"""Longest datagram read; QUIC's stay under 1,500 here."""
_VERSION: Final = int(QuicProtocolVersion.VERSION_1)
_MAX_ID_BYTES: Final = 20
_MIN_FIRST_ID_BYTES: Final = 8
_MIN_TIMERS_TIDIED: Final = 64
"""With fewer timers waiting than this, old ones are left to fire."""

Accept = Callable[["Endpoint", Target, bytes, bytes | None], QuicLink | None]
"""Makes the link of a new dialler (the socket, where it is, the connection id of its first packet,
and the one that a Retry gave it), or refuses it."""


class Endpoint:
    """See the module."""

    def __init__(self, context: LinkContext, sock: socket.socket, accept: Accept | None) -> None:
        """The connections of ``sock``; without ``accept`` nobody may begin one."""
        self.sock = sock
        self._fd = sock.fileno()
        self._context = context
        self._accept = accept
        self._links: dict[bytes, QuicLink] = {}
        self._unproven: Counter[bytes] = Counter()
        self._unproven_total = 0
        self._retry = QuicRetryTokenHandler()
        self._timers: list[tuple[float, int, QuicLink]] = []
        self._serial = count()
        self._tidy_at = _MIN_TIMERS_TIDIED
        self._alarm: float = float("inf")
        self._earlier = trio.Event()
        self._closed = False
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
        for gone in link.registered:
            self._links.pop(gone, None)
        link.registered = set()

    def settled(self, link: QuicLink) -> None:
        """The link is no longer unproven. Idempotent."""
        ip = link.target.ip.one
        if link.unproven:
            link.unproven = False
            self._unproven_total -= 1
            self._unproven[ip] -= 1
            if self._unproven[ip] <= 0:
                del self._unproven[ip]

    # --- receiving --------------------------------------------------------------------------------

    async def _receive_all(self) -> None:
        while not self._closed:
            try:
                await wait_readable(self._fd)
                self._receive_some()
            except trio.ClosedResourceError:
                return
            except Exception as error:  # noqa: BLE001 - a task's outermost edge
                self._context.counters["connection_bugs"] += 1
                _log.error("UDP socket failed", exc_info=error)
                await checkpoint()

    def _receive_some(self) -> None:
        """Take a batch of datagrams, and let each connection answer once."""
        touched: dict[QuicLink, None] = {}
        moment = now()
        for _ in range(UDP_BATCH):
            try:
                data, addr = self.sock.recvfrom(_READ_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:  # an ICMP error of something sent earlier
                continue
            link = self._find(data, addr)
            if link is not None:
                link.receive(data, addr, moment)
                touched[link] = None
        for link in touched:
            link.respond(moment)

    def _find(self, data: bytes, addr: Address) -> QuicLink | None:
        """The connection that a datagram belongs to, made now if it begins one."""
        if not data:
            return None
        if not data[0] & _LONG_HEADER:
            return self._links.get(data[1 : 1 + CONNECTION_ID_BYTES])
        header = read_header(data)
        if header is None:
            return None
        link = self._links.get(header.destination_cid)
        if link is None and self._accept is not None and len(data) >= _MIN_FIRST_BYTES:
            link = self._begin(header, addr)
        return link

    # --- strangers --------------------------------------------------------------------------------

    def _begin(self, header: QuicHeader, addr: Address) -> QuicLink | None:
        """Answer a stranger's datagram; the connection, if there is to be one."""
        if header.packet_type is QuicPacketType.VERSION_NEGOTIATION:
            return None
        if header.version != _VERSION:
            self._say_versions(header, addr)
            return None
        if (
            header.packet_type is not QuicPacketType.INITIAL
            or not _MIN_FIRST_ID_BYTES <= len(header.destination_cid) <= _MAX_ID_BYTES
        ):
            return None
        target = of_udp_socket(addr)
        original_id = self._proven(header, addr)
        if original_id is None and self._must_prove(target.ip):
            self._ask_for_proof(header, addr)
            return None
        assert self._accept is not None
        retry_id = None if original_id is None else header.destination_cid
        link = self._accept(self, target, original_id or header.destination_cid, retry_id)
        if link is None:
            self._refuse(header, addr)
            return None
        if retry_id is None:
            link.unproven = True
            self._unproven_total += 1
            self._unproven[target.ip.one] += 1
        self.keep(link)
        return link

    def _must_prove(self, ip: Ip) -> bool:
        if self._unproven_total >= MAX_UNPROVEN_HANDSHAKES:
            return True
        exempt = ip.local and self._context.limits.exempt_local
        return not exempt and self._unproven[ip.one] >= MAX_UNPROVEN_PER_IP

    def _proven(self, header: QuicHeader, addr: Address) -> bytes | None:
        """The id of the first packet of a dialler that proved its address; None if it did not.
        A token that is not ours (or no longer good) proves nothing."""
        if not header.token:
            return None
        try:
            return self._retry.validate_token(
                address=addr,
                destination_cid=header.destination_cid,
                token=header.token,
                now=now(),
            )
        except Exception:  # noqa: BLE001 - aioquic's parser meets a stranger's bytes
            return None

    def _ask_for_proof(self, header: QuicHeader, addr: Address) -> None:
        self._context.counters["quic_retries"] += 1
        source_id = os.urandom(CONNECTION_ID_BYTES)
        token = self._retry.create_token(
            address=addr,
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=source_id,
            now=now(),
        )
        packet = encode_quic_retry(
            version=_VERSION,
            source_cid=source_id,
            destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid,
            retry_token=token,
        )
        self.send([(packet, addr)])

    def _refuse(self, header: QuicHeader, addr: Address) -> None:
        packet = refusal_packet(
            version=_VERSION, source_id=header.destination_cid, destination_id=header.source_cid
        )
        self.send([(packet, addr)])

    def _say_versions(self, header: QuicHeader, addr: Address) -> None:
        packet = encode_quic_version_negotiation(
            source_cid=header.destination_cid,
            destination_cid=header.source_cid,
            supported_versions=[_VERSION],
        )
        self.send([(packet, addr)])

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
                self._context.counters["connection_bugs"] += 1
                _log.error("QUIC timer failed", exc_info=error)
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
