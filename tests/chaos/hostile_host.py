"""Peers on a ``MemoryNet`` that keep no contract: what they do with a stream, a script says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache

import trio
import trio.testing
from multiaddr import Multiaddr

from codio_dht import DHTConfig, DHTManager
from codio_dht.core.clock import Monotonic
from codio_dht.core.messages import PeerEntry, Reply, Request
from codio_dht.core.peer import PeerId
from codio_dht.net.host import PeerIdentified
from codio_dht.node.clock import Clock
from codio_dht.params import KAD_PROTOCOL
from codio_dht.wire.codec import decode_request, encode_reply, expected_reply
from codio_dht.wire.framing import FrameReader
from memory_host import MemoryHost, MemoryNet, MemoryStream
from nodes import EPOCH, full_addr, host_of, soon

Script = Callable[[MemoryStream], Awaitable[None]]
"""What a hostile peer does with one stream that was opened to it."""


class HostileHost(MemoryHost):
    """Serves every stream with ``script``. ``never_reads``: what is written to it blocks."""

    def __init__(
        self,
        net: MemoryNet,
        peer_id: PeerId,
        addr: Multiaddr,
        script: Script,
        *,
        never_reads: bool = False,
    ) -> None:
        super().__init__(net, peer_id, addr)
        self.script = script
        self.never_reads = never_reads
        self.streams_served = 0
        self.serve(KAD_PROTOCOL, lambda peer: _Nothing(), idle_timeout_s=60.0)

    async def _serve_one(self, stream, handler) -> None:
        self.streams_served += 1
        self.inbound.add(stream)
        try:
            with trio.CancelScope() as scope:
                stream.on_abort = scope.cancel
                await self.script(stream)
        finally:
            self.inbound.discard(stream)


class LabHost(MemoryHost):
    """The host of a node under attack: its writes to a peer that never reads block."""

    async def open_stream(self, peer_id, protocol: str, deadline: Monotonic):
        stream = await super().open_stream(peer_id, protocol, deadline)
        if getattr(self.peers.get(peer_id), "never_reads", False):
            stream.write = _blocked
        return stream


class _Nothing:
    """A handler that is never fed."""

    def feed(self, data: bytes, now: Monotonic) -> bytes:
        return b""

    def eof(self, now: Monotonic) -> bytes:
        return b""

    def closed(self) -> None:
        pass


async def _blocked(data: bytes) -> None:
    await trio.sleep_forever()


def lab_addr(number: int) -> Multiaddr:
    return Multiaddr(f"/ip4/10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}/tcp/4001")


def numbered_id(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + number.to_bytes(32, "big"))


@cache
def entry_of(number: int) -> PeerEntry:
    """A peer that exists nowhere, at an address of its own."""
    return PeerEntry(numbered_id(number), (lab_addr(number).to_bytes(),))


def hostile(net: MemoryNet, number: int, script: Script, *, never_reads: bool = False):
    return HostileHost(net, numbered_id(number), lab_addr(number), script, never_reads=never_reads)


async def request_of(stream: MemoryStream) -> Request | None:
    """The next request on a stream; None when the opener has finished or reset it."""
    reader = FrameReader()
    while True:
        data = await stream.take_request()
        if not data or stream.broken:
            return None
        reader.feed(data)
        payload = reader.next_frame()
        if payload is not None:
            return decode_request(payload)


def answering(reply: Callable[[Request], bytes]) -> Script:
    """A script that answers every request with ``reply``'s bytes."""

    async def script(stream: MemoryStream) -> None:
        while (request := await request_of(stream)) is not None:
            stream.answer(reply(request))
        stream.finish()

    return script


def closer(request: Request, peers: Sequence[PeerEntry]) -> bytes:
    """A well-formed answer to ``request`` with these closer peers, of any size."""
    return encode_reply(
        Reply(expected_reply(request), request.key, closer_peers=tuple(peers)), budget=1 << 22
    )


@asynccontextmanager
async def lab_node(
    net: MemoryNet,
    number: int = 5_000,
    *,
    through: Sequence[DHTManager] = (),
    config: DHTConfig | None = None,
    **settings,
) -> AsyncIterator[DHTManager]:
    """A server node on a ``LabHost``."""
    host = LabHost(net, numbered_id(number), Multiaddr(f"/ip4/127.0.0.1/tcp/{number}"))
    async with DHTManager(
        host,
        config,
        bootstrap=[full_addr(host_of(node)) for node in through],
        clock=Clock(lambda: EPOCH + trio.current_time()),
        **settings,
    ) as node:
        yield node


async def plant(node: DHTManager, peers: Sequence[MemoryHost]) -> None:
    """Connect ``peers`` and put them into the node's routing table."""
    network = node._node.main.network
    for peer in peers:
        await host_of(node).connect(peer.peer_id, peer.addrs, soon())
        addrs = tuple(addr.to_bytes() for addr in peer.addrs)
        network.book.identified(peer.peer_id, addrs, soon())
        network.table.add(peer.peer_id, Monotonic(trio.current_time()))
    await trio.testing.wait_all_tasks_blocked()


def identify(host: MemoryHost, node: DHTManager, protocols: Sequence[str]) -> None:
    """``host`` tells ``node`` that it speaks ``protocols`` now (identify push)."""
    host_of(node)._tell(PeerIdentified(host.peer_id, frozenset(protocols), host.addrs, "hostile"))


def left_open(node: DHTManager) -> dict[str, int]:
    """What a node must not keep of a request that is over, by name; all zero when nothing leaks."""
    parts = node._node
    return {
        "pending requests": parts.main.rpc.pending,
        "streams beside the kept ones": host_of(node).open_streams - len(parts.main.rpc._pool),
        "lookup slots": parts.main.lookups.turns.borrowed_tokens,
        "joining": parts.main.upkeep._machine.joiner.rounds,
        "probes": parts.main.network.admission.probing,
        "deliveries": parts.main.deliveries.running,
        "keys under way": len(parts.providing.sweeping._alone)
        + len(parts.providing.sweeping._pages),
        "store calls": parts.shared.storage._one_at_a_time.borrowed_tokens,
        "wanted loads": len(parts.shared.storage._wanted),
    }


NOTHING_OPEN = dict.fromkeys(
    (
        "pending requests",
        "streams beside the kept ones",
        "lookup slots",
        "joining",
        "probes",
        "deliveries",
        "keys under way",
        "store calls",
        "wanted loads",
    ),
    0,
)


async def nothing_open(node: DHTManager) -> None:
    """Until nothing of a call is left (background work of its own may be under way for a while)."""
    with trio.move_on_after(200):
        while left_open(node) != NOTHING_OPEN:
            await trio.sleep(0.5)
    assert NOTHING_OPEN == left_open(node)
