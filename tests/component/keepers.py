"""Peers that answer lookups and keep records, for a client's side of announcements."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from codio_dht import DHTManager
from codio_dht.core.messages import AddProvider
from codio_dht.core.peer import PeerId
from codio_dht.params import K
from codio_dht.wire.codec import decode_request, encode_request
from codio_dht.wire.framing import FrameReader
from hostile_host import closer, entry_of, hostile, lab_node, plant
from memory_host import MemoryHost, MemoryNet, MemoryStream
from nodes import memory_net, until

KEEPERS = K + 8
"""Enough of them that some are not among the k closest."""


@dataclass
class Keepers:
    """Peers that answer lookups, and note who of them was handed the record: a node of its own
    each would cost most of a test's time."""

    net: MemoryNet
    hosts: list[MemoryHost] = field(default_factory=list)
    holding: list[PeerId] = field(default_factory=list)
    """In the order in which they got it."""
    refusing: set[PeerId] = field(default_factory=set)
    """Reset the stream that hands them a record."""
    lingering: set[PeerId] = field(default_factory=set)
    """Take the record and never end the stream."""
    echoing: set[PeerId] = field(default_factory=set)
    """Take one record, answer it, and end the stream, as py-libp2p's servers do."""
    dawdling: set[PeerId] = field(default_factory=set)
    """As ``echoing``, but they end each stream only after 2.9 s."""
    held: dict[bytes, list[PeerId]] = field(default_factory=dict)
    """Who was handed the record of a key, and how often."""
    record_streams: int = 0
    """Streams on which records came."""
    told_addrs: set[tuple[bytes, ...]] = field(default_factory=set)
    """The addresses that records named."""

    @property
    def living(self) -> list[MemoryHost]:
        """Those that take connections."""
        return [each for each in self.hosts if each.peer_id not in self.net.dead]

    async def serve(self, stream: MemoryStream) -> None:
        reader, count = FrameReader(), 0
        while data := await stream.take_request():
            if stream.broken:
                break
            reader.feed(data)
            while (payload := reader.next_frame()) is not None:
                request = decode_request(payload)
                if not isinstance(request, AddProvider):
                    known = [entry_of(each) for each in range(1, KEEPERS + 1)]
                    stream.answer(closer(request, known))
                    continue
                if stream.peer_id in self.refusing:
                    stream.abort()
                    return
                count += 1
                self.record_streams += count == 1
                self.holding.append(stream.peer_id)
                self.held.setdefault(request.key, []).append(stream.peer_id)
                self.told_addrs |= {entry.addrs for entry in request.providers}
                if stream.peer_id in self.echoing:
                    stream.answer(encode_request(request))
                    stream.finish()
                    return
                if stream.peer_id in self.dawdling:
                    stream.answer(encode_request(request))
                    await trio.sleep(2.9)
                    stream.finish()
                    return
                if stream.peer_id in self.lingering:
                    await trio.sleep_forever()
        stream.finish()


@asynccontextmanager
async def keepers(latency_s: float) -> AsyncIterator[Keepers]:
    async with memory_net(latency_s) as net:
        peers = Keepers(net)
        peers.hosts += [hostile(net, each, peers.serve) for each in range(1, KEEPERS + 1)]
        yield peers


@asynccontextmanager
async def client_of(peers: Keepers, **settings) -> AsyncIterator[DHTManager]:
    """A node that knows all the living."""
    async with lab_node(peers.net, **settings) as client:
        await plant(client, peers.living)
        await until(lambda: client._node.shared.errands.running == 0)
        yield client
