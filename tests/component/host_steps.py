"""What a test does with any ``Host``, whatever stack carries it; and handlers and ports for it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import trio
from multiaddr import Multiaddr

from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.net.handlers import Parked, Reset
from codio_dht.net.host import Host, HostEvent, PeerIdentified, Stream

TCP = Multiaddr("/ip4/127.0.0.1/tcp/0")
TCP6 = Multiaddr("/ip6/::1/tcp/0")
QUIC = Multiaddr("/ip4/127.0.0.1/udp/0/quic-v1")
QUIC6 = Multiaddr("/ip6/::1/udp/0/quic-v1")
ECHO = "/echo/1.0.0"
IDLE_S = 30.0

UNDIALLABLE = pytest.mark.parametrize(
    "addrs",
    [
        [],
        ["/ip4/0.0.0.0/tcp/4001"],
        ["/ip6/::/tcp/4001"],
        ["/ip4/224.0.0.1/tcp/4001"],
        ["/ip4/127.0.0.1/tcp/0"],
        ["/ip4/127.0.0.1/tcp/4001/ws"],
        ["/ip4/127.0.0.1/udp/4001/quic"],
        ["/ip4/127.0.0.1/tcp/1/p2p/QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN"],
        ["/p2p/QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN/p2p-circuit"],
        ["/dns4/localhost/tcp/4001/wss"],
    ],
    ids=[
        "none",
        "unspecified",
        "unspecified6",
        "multicast",
        "port 0",
        "websocket",
        "old quic",
        "another peer's",
        "relay",
        "name",
    ],
)
"""Addresses that no dial is tried to."""


# --- waiting --------------------------------------------------------------------------------------


def soon(seconds: float = 30.0) -> Monotonic:
    """A deadline that is not meant to pass."""
    return Monotonic(trio.current_time() + seconds)


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for what another task is about to do."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.005)


async def next_event(host: Host, wanted: Callable[[HostEvent], bool]) -> HostEvent:
    async with host.events() as events:
        async for event in events:
            if wanted(event):
                return event
    raise AssertionError("the host ended")


async def identified(host: Host, peer_id: PeerId) -> PeerIdentified:
    """What the peer says of itself, once it has."""
    event = await next_event(host, lambda e: isinstance(e, PeerIdentified) and e.peer_id == peer_id)
    assert isinstance(event, PeerIdentified)
    return event


# --- using ----------------------------------------------------------------------------------------


async def connect(client: Host, server: Host) -> None:
    await client.connect(server.peer_id, server.addrs, soon())


async def ask(stream: Stream, data: bytes) -> bytes:
    """What comes back for ``data``, as long as that is."""
    await stream.write(data)
    answer = b""
    while len(answer) < len(data):
        more = await stream.read(64 * 1024)
        assert more, "the stream ended early"
        answer += more
    return answer


async def echo_of(client: Host, server: Host, data: bytes = b"hello") -> bytes:
    """What the server echoes on a new stream."""
    stream = await client.open_stream(server.peer_id, ECHO, soon())
    try:
        return await ask(stream, data)
    finally:
        await stream.close()


# --- serving --------------------------------------------------------------------------------------


class Echo:
    """Answers with what it is fed; says goodbye at the end."""

    def __init__(self, farewell: bytes = b"") -> None:
        self.farewell = farewell
        self.times_closed = 0
        self.got_eof = False

    def feed(self, data: bytes, now: Monotonic) -> bytes | Parked | Reset:
        return data

    def eof(self, now: Monotonic) -> bytes | Parked | Reset:
        self.got_eof = True
        return self.farewell

    def closed(self) -> None:
        self.times_closed += 1


class Echoes:
    """A factory that remembers its handlers."""

    def __init__(self, make: Callable[[], Echo] = Echo) -> None:
        self.made: list[Echo] = []
        self.peers: list[PeerId] = []
        self._make = make

    def __call__(self, peer_id: PeerId) -> Echo:
        self.peers.append(peer_id)
        self.made.append(self._make())
        return self.made[-1]

    @property
    def times_closed(self) -> list[int]:
        return [echo.times_closed for echo in self.made]


# --- ports ----------------------------------------------------------------------------------------


@contextmanager
def silent_listener() -> Iterator[Multiaddr]:
    """A TCP port that accepts connections and never says anything."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        yield Multiaddr(f"/ip4/127.0.0.1/tcp/{listener.getsockname()[1]}")


def dead_address() -> Multiaddr:
    """A TCP port on which nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return Multiaddr(f"/ip4/127.0.0.1/tcp/{unused.getsockname()[1]}")
