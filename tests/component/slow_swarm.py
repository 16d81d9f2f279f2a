"""Hundreds of static DHT servers on a ``MemoryNet``, each with its own round trip; some are dead.

The servers answer FIND_NODE from a table of their own, as a go server that has run for long would:
in each bucket up to 20 random peers, the dead among them. They learn nothing and dial nobody, so a
test can count what joining costs.
"""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from math import exp, log
from random import Random

import trio
from multiaddr import Multiaddr

from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key, cpl, key_of
from codio_dht.core.messages import FindNode, MessageType, PeerEntry, Reply
from codio_dht.core.peer import PeerId
from codio_dht.core.routing_table import RoutingTable
from codio_dht.errors import DialError
from codio_dht.net.handlers import Parked, Reset
from codio_dht.params import KAD_PROTOCOL, KEY_BITS, K
from codio_dht.wire.codec import decode_request, encode_reply
from codio_dht.wire.framing import FrameReader
from memory_host import MemoryHost, MemoryNet, MemoryStream, peer_id_of

MEDIAN_RTT_S = 0.09
SIGMA = 0.5
SLOW_RTT_S = 3.0
HANDSHAKE_RTTS = 2


@dataclass
class SlowNet(MemoryNet):
    """``rtt_s`` of each peer; ``refusing`` ones answer a dial at once, with a refusal."""

    rtt_s: dict[PeerId, float] = field(default_factory=dict)
    refusing: set[PeerId] = field(default_factory=set)
    requests: Counter[PeerId] = field(default_factory=Counter)
    bytes_out: int = 0
    bytes_in: int = 0
    cut: bool = False
    """Nobody reaches anybody: every dial and request fails at once."""

    def host(self, number: int, addr: str | None = None) -> SlowHost:
        where = f"/ip4/10.{number >> 8}.{number & 255}.1/tcp/4001"
        return SlowHost(self, peer_id_of(number), Multiaddr(addr or where))


class SlowHost(MemoryHost):
    net: SlowNet

    async def connect(self, peer_id, addrs, deadline: Monotonic, **_how: object) -> None:
        if peer_id not in self.peers and peer_id not in self.net.dead:
            with trio.move_on_at(deadline):
                await trio.sleep(HANDSHAKE_RTTS * self.net.rtt_s.get(peer_id, 0.0))
        if self.net.cut or peer_id in self.net.refusing:
            self.dials[peer_id] += 1
            raise DialError("refused")
        await super().connect(peer_id, addrs, deadline)

    async def open_stream(self, peer_id: PeerId, protocol: str, deadline: Monotonic):
        stream = await super().open_stream(peer_id, protocol, deadline)
        return _Counted(stream, self.net)


class _Counted:
    """A stream that takes its peer's round trip and is counted."""

    def __init__(self, stream: MemoryStream, net: SlowNet) -> None:
        self._stream = stream
        self._net = net
        stream._latency_s = net.rtt_s.get(stream.peer_id, 0.0) / 2

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    async def write(self, data: bytes) -> None:
        self._net.requests[self._stream.peer_id] += 1
        self._net.bytes_out += len(data)
        await self._stream.write(data)

    async def read(self, max_bytes: int) -> bytes:
        data = await self._stream.read(max_bytes)
        self._net.bytes_in += len(data)
        return data


class StaticServer:
    """The kad handler of one stream of one static server."""

    def __init__(self, table: RoutingTable, entries: dict[PeerId, PeerEntry], asker: PeerId):
        self._table = table
        self._entries = entries
        self._asker = asker
        self._reader = FrameReader()

    def feed(self, data: bytes, now: Monotonic) -> bytes | Parked | Reset:
        self._reader.feed(data)
        answers = b""
        while (payload := self._reader.next_frame()) is not None:
            request = decode_request(payload)
            assert isinstance(request, FindNode)
            key = key_of(request.key)
            closer = self._table.nearest(key, K, [self._asker])
            reply = Reply(
                MessageType.FIND_NODE, closer_peers=tuple(self._entries[peer] for peer in closer)
            )
            answers += encode_reply(reply)
        return answers

    def eof(self, now: Monotonic) -> bytes | Parked | Reset:
        return b""

    def closed(self) -> None:
        pass


@dataclass
class Swarm:
    net: SlowNet
    peers: list[PeerId]
    addr_of: dict[PeerId, Multiaddr]

    @property
    def living(self) -> list[PeerId]:
        return [peer for peer in self.peers if not self.is_dead(peer)]

    def is_dead(self, peer: PeerId) -> bool:
        return peer in self.net.dead or peer in self.net.refusing

    def closest(self, key: Key, n: int = K) -> list[PeerId]:
        """The true closest that are alive."""
        return sorted(self.living, key=lambda peer: peer.key ^ key)[:n]

    def full_addr(self, peer: PeerId) -> Multiaddr:
        return Multiaddr(f"{self.addr_of[peer]}/p2p/{peer}")


@asynccontextmanager
async def swarm_of(count: int, rng: Random, *, dead: float = 0.2, slow: float = 0.03):
    """``count`` servers, numbers 1 to ``count``; half of the dead are black holes."""
    async with trio.open_nursery() as nursery:
        net = SlowNet(nursery)
        hosts = {host.peer_id: host for host in (net.host(n) for n in range(1, count + 1))}
        peers = list(hosts)
        shuffled = rng.sample(peers, len(peers))
        dying = round(count * dead)
        net.dead |= set(shuffled[: dying // 2])
        net.refusing |= set(shuffled[dying // 2 : dying])
        lame = set(shuffled[dying : dying + round(count * slow)])
        for peer in peers:
            rtt_s = exp(rng.gauss(log(MEDIAN_RTT_S), SIGMA))
            net.rtt_s[peer] = SLOW_RTT_S if peer in lame else rtt_s
        entries = {
            peer: PeerEntry(peer, (host.addrs[0].to_bytes(),)) for peer, host in hosts.items()
        }
        for peer, host in hosts.items():
            table = _full_table(peer, peers, rng)
            host.serve(KAD_PROTOCOL, partial(StaticServer, table, entries), idle_timeout_s=60.0)
        yield Swarm(net, peers, {peer: host.addrs[0] for peer, host in hosts.items()})
        nursery.cancel_scope.cancel()


def _full_table(local: PeerId, peers: list[PeerId], rng: Random) -> RoutingTable:
    buckets: list[list[PeerId]] = [[] for _ in range(KEY_BITS)]
    for peer in peers:
        if peer != local:
            buckets[cpl(local.key, peer.key)].append(peer)
    table = RoutingTable(local.key)
    for bucket in buckets:
        for peer in rng.sample(bucket, min(K, len(bucket))):
            table.add(peer, Monotonic(0.0))
    return table
