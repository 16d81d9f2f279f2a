"""A ``Host`` without libp2p: peers in one process, joined by a ``MemoryNet``.

Keeps the port's contract (codio_dht/net/host.py) and lets a test say who is dead, slow or mute.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import trio
from multiaddr import Multiaddr

from codio_dht.core.clock import Monotonic
from codio_dht.core.origins import Account, OriginLedger
from codio_dht.core.peer import PeerId
from codio_dht.errors import (
    DeadlineError,
    DialError,
    NetworkError,
    StreamError,
    UnsupportedProtocolError,
)
from codio_dht.net.handlers import Parked, Reset, StreamHandlerFactory
from codio_dht.net.host import ConnectionInfo, HostEvent, PeerGone, PeerIdentified
from codio_dht.net.targets import parse


def peer_id_of(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + hashlib.sha256(b"peer %d" % number).digest())


@dataclass
class MemoryNet:
    """Who is where. ``latency_s`` is one way; ``dead`` swallow dials until the deadline."""

    nursery: trio.Nursery
    latency_s: float = 0.0
    hosts: dict[str, MemoryHost] = field(default_factory=dict)
    dead: set[PeerId] = field(default_factory=set)
    mute: set[PeerId] = field(default_factory=set)
    """Take requests and never answer."""
    reset_on_end: set[PeerId] = field(default_factory=set)
    """Reset a stream whose opener has finished sending."""
    names: dict[str, list[str]] = field(default_factory=dict)
    """What each ``/dnsaddr/HOST`` lists."""
    asked: list[str] = field(default_factory=list)
    """The names that were asked for, in order."""

    def host(self, number: int, addr: str | None = None) -> MemoryHost:
        return MemoryHost(
            self, peer_id_of(number), Multiaddr(addr or f"/ip4/127.0.0.1/tcp/{10_000 + number}")
        )


class MemoryHost:
    private_key = None

    def __init__(self, net: MemoryNet, peer_id: PeerId, addr: Multiaddr) -> None:
        self.net = net
        self.peer_id = peer_id
        self.addrs: tuple[Multiaddr, ...] = (addr,)
        self.factories: dict[str, StreamHandlerFactory] = {}
        self.peers: dict[PeerId, MemoryHost] = {}
        self.inbound: set[MemoryStream] = set()
        self.dials: Counter[PeerId] = Counter()
        self.opened: Counter[PeerId] = Counter()
        self.open_streams = 0
        self.tags: defaultdict[PeerId, set[str]] = defaultdict(set)
        self.origins = OriginLedger()
        self._subscribers: list[trio.MemorySendChannel[HostEvent]] = []
        self._idle_timeout_s = float("inf")
        net.hosts[str(addr)] = self

    # --- connections ------------------------------------------------------------------------------

    async def connect(self, peer_id, addrs, deadline: Monotonic, **_how: object) -> None:
        await trio.lowlevel.checkpoint()
        if peer_id in self.peers:
            return
        self.dials[peer_id] += 1
        if peer_id in self.net.dead or self.peer_id in self.net.dead:
            await trio.sleep_until(deadline)
            raise DeadlineError(f"{peer_id} does not answer")
        with trio.move_on_at(deadline) as scope:
            await trio.sleep(2 * self.net.latency_s)
        if scope.cancelled_caught:
            raise DeadlineError("out of time")
        for addr in addrs:
            other = self.net.hosts.get(str(addr))
            if other is not None and other.peer_id == peer_id:
                self._join(other)
                return
        raise DialError(f"nobody at {[str(addr) for addr in addrs]} is {peer_id}")

    async def peers_named_by(self, addr, deadline: Monotonic) -> list[Multiaddr]:
        await trio.lowlevel.checkpoint()
        self.net.asked.append(str(addr))
        if not (listed := self.net.names.get(str(addr))):
            raise NetworkError(f"{addr} lists nobody")
        return list(map(Multiaddr, listed))

    def _join(self, other: MemoryHost) -> None:
        if other.peer_id in self.peers:
            return
        self.peers[other.peer_id] = other
        other.peers[self.peer_id] = self
        self._tell(replace(other._identity(), new_connection=True))
        other._tell(replace(self._identity(), new_connection=True))

    async def disconnect(self, peer_id: PeerId) -> None:
        other = self.peers.pop(peer_id, None)
        if other is not None:
            other.peers.pop(self.peer_id, None)
            self._tell(PeerGone(peer_id))
            other._tell(PeerGone(self.peer_id))
        await trio.lowlevel.checkpoint()

    def protect(self, peer_id: PeerId, tag: str) -> None:
        self.tags[peer_id].add(tag)

    def unprotect(self, peer_id: PeerId, tag: str) -> bool:
        self.tags[peer_id].discard(tag)
        return bool(self.tags[peer_id])

    def set_denied(self, entries) -> None:
        self.denied = list(entries)

    def is_reached(self, peer_id: PeerId) -> bool:
        return self.is_connected(peer_id)

    def is_connected(self, peer_id: PeerId) -> bool:
        return peer_id in self.peers

    def account(self, peer_id: PeerId) -> Account | None:
        for addr in self.remote_addrs(peer_id):
            target = parse(addr.to_bytes())
            if target is not None and not target.ip.local:
                return self.origins.peer(target.ip.packed, peer_id.to_bytes())
        return None

    def remote_addrs(self, peer_id: PeerId) -> list[Multiaddr]:
        other = self.peers.get(peer_id)
        return [] if other is None else [other.addrs[0]]

    def connections(self) -> list[ConnectionInfo]:
        return [
            ConnectionInfo(peer, host.addrs[0], False, "memory", frozenset(host.factories))
            for peer, host in self.peers.items()
        ]

    async def ping(self, peer_id: PeerId, deadline: Monotonic) -> float:
        if peer_id not in self.peers:
            raise StreamError("not connected")
        await trio.sleep(2 * self.net.latency_s)
        return 2 * self.net.latency_s

    # --- streams ----------------------------------------------------------------------------------

    async def open_stream(self, peer_id: PeerId, protocol: str, deadline: Monotonic):
        await trio.lowlevel.checkpoint()
        other = self.peers.get(peer_id)
        if other is None:
            raise StreamError("not connected")
        factory = other.factories.get(protocol)
        if factory is None:
            raise UnsupportedProtocolError(f"{peer_id} does not speak {protocol}")
        self.opened[peer_id] += 1
        stream = MemoryStream(self, other, protocol)
        self.net.nursery.start_soon(other._serve_one, stream, factory(self.peer_id))
        return stream

    async def _serve_one(self, stream: MemoryStream, handler) -> None:
        self.inbound.add(stream)
        try:
            while not stream.broken:
                data = None
                with trio.move_on_after(self._idle_timeout_s):
                    data = await stream.take_request()
                if data is None:
                    stream.abort()
                    return
                if stream.broken or self.peer_id in self.net.mute:
                    continue
                now = Monotonic(trio.current_time())
                answer = handler.feed(data, now) if data else handler.eof(now)
                while isinstance(answer, Parked):
                    stream.answer(answer.data)
                    ready = trio.Event()
                    answer.on_ready(ready.set)
                    stream.on_abort = ready.set
                    await ready.wait()
                    if stream.broken:
                        return
                    answer = handler.feed(b"", Monotonic(trio.current_time()))
                if isinstance(answer, Reset):
                    stream.abort()
                    return
                stream.answer(answer)
                if not data:
                    if self.peer_id in self.net.reset_on_end:
                        stream.abort()
                    stream.finish()
                    return
        finally:
            self.inbound.discard(stream)
            handler.closed()

    def serve(self, protocol: str, factory: StreamHandlerFactory, *, idle_timeout_s: float) -> None:
        self.factories[protocol] = factory
        self._idle_timeout_s = idle_timeout_s

    def serve_stream(self, protocol: str, handler) -> None:
        raise NotImplementedError

    def unserve(self, protocol: str) -> None:
        self.factories.pop(protocol, None)
        for stream in list(self.inbound):
            if stream.protocol == protocol:
                stream.abort()

    # --- events -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[HostEvent]]:
        send, receive = trio.open_memory_channel[HostEvent](10_000)
        for other in self.peers.values():
            send.send_nowait(other._identity())
        self._subscribers.append(send)
        try:
            yield receive
        finally:
            self._subscribers.remove(send)

    def identify_again(self) -> None:
        """Identify push: everybody connected hears what this host speaks now."""
        for other in self.peers.values():
            other._tell(self._identity())

    def _identity(self) -> PeerIdentified:
        return PeerIdentified(self.peer_id, frozenset(self.factories), self.addrs, "memory")

    def _tell(self, event: HostEvent) -> None:
        for send in self._subscribers:
            send.send_nowait(event)

    def stats(self) -> dict[str, int]:
        return {}


class MemoryStream:
    """The opener's end; the server works on ``take_request`` and ``answer``."""

    def __init__(self, opener: MemoryHost, server: MemoryHost, protocol: str) -> None:
        self.peer_id = server.peer_id
        self.protocol = protocol
        self.broken = False
        self.on_abort: Callable[[], None] | None = None
        self._opener = opener
        self._latency_s = opener.net.latency_s
        self._requests: deque[bytes] = deque()
        self._replies: deque[bytes] = deque()
        self._ended = False
        self._moved = trio.Event()
        self._counted = True
        opener.open_streams += 1

    async def read(self, max_bytes: int) -> bytes:
        await trio.sleep(self._latency_s)
        while not self._replies:
            if self.broken:
                raise StreamError("reset")
            if self._ended:
                return b""
            await self._moved.wait()
        data = self._replies.popleft()
        if len(data) > max_bytes:
            self._replies.appendleft(data[max_bytes:])
        return data[:max_bytes]

    async def write(self, data: bytes) -> None:
        await trio.sleep(self._latency_s)
        if self.broken or self._ended:
            raise StreamError("the stream is over")
        self._requests.append(data)
        self._stir()

    async def close_write(self) -> None:
        await trio.lowlevel.checkpoint()
        self._requests.append(b"")
        self._stir()

    async def close(self) -> None:
        self._release()
        if not self._ended and not self.broken:
            self._requests.append(b"")
            self._stir()

    async def reset(self) -> None:
        self._release()
        self.abort()

    def abort(self) -> None:
        self.broken = True
        if self.on_abort is not None:
            self.on_abort()
        self._requests.append(b"")
        self._stir()

    async def take_request(self) -> bytes:
        while not self._requests:
            await self._moved.wait()
        await trio.lowlevel.checkpoint()
        return self._requests.popleft()

    def answer(self, data: bytes) -> None:
        if data:
            self._replies.append(data)
            self._stir()

    def finish(self) -> None:
        self._ended = True
        self._stir()

    def _release(self) -> None:
        if self._counted:
            self._counted = False
            self._opener.open_streams -= 1

    def _stir(self) -> None:
        self._moved.set()
        self._moved = trio.Event()
