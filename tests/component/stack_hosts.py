"""What the tests of the host on our own stack share."""

from __future__ import annotations

import gc
import socket
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import trio
from multiaddr import Multiaddr

from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.crypto.keys import PrivateKey
from codio_dht.net.host import HostEvent, PeerIdentified, Stream
from codio_dht.net.stack.channel import ServedProtocols
from codio_dht.net.stack.connection import Connection, ConnectionEnded, Established
from codio_dht.net.stack.noise import NoiseIdentity
from codio_dht.net.stack_host import StackHost, make_stack_host

TCP = Multiaddr("/ip4/127.0.0.1/tcp/0")
TCP6 = Multiaddr("/ip6/::1/tcp/0")
ECHO = "/echo/1.0.0"
IDLE_S = 30.0


def now() -> Monotonic:
    return Monotonic(trio.current_time())


def soon(seconds: float = 10.0) -> Monotonic:
    """A deadline that is not meant to pass."""
    return Monotonic(trio.current_time() + seconds)


@asynccontextmanager
async def made_host(
    *listen: Multiaddr,
    announce: Sequence[Multiaddr] = (),
    key: PrivateKey | None = None,
    **options: Any,
) -> AsyncGenerator[StackHost]:
    """A host on loopback."""
    key = key or PrivateKey.generate_ed25519()
    async with make_stack_host(key, listen or (TCP,), announce, **options) as host:
        yield host


async def connect(client: StackHost, server: StackHost) -> None:
    await client.connect(server.peer_id, server.addrs, soon())


async def ask(stream: Stream, data: bytes) -> bytes:
    await stream.write(data)
    answer = b""
    while len(answer) < len(data):
        answer += await stream.read(64 * 1024)
    return answer


async def echo_of(client: StackHost, server: StackHost, data: bytes = b"hello") -> bytes:
    """What the server echoes on a new stream."""
    stream = await client.open_stream(server.peer_id, ECHO, soon())
    try:
        return await ask(stream, data)
    finally:
        await stream.close()


async def identified(host: StackHost, peer_id: PeerId) -> PeerIdentified:
    """What the peer says of itself, once it has."""
    event = await next_event(host, lambda e: isinstance(e, PeerIdentified) and e.peer_id == peer_id)
    assert isinstance(event, PeerIdentified)
    return event


async def next_event(host: StackHost, wanted: Callable[[HostEvent], bool]) -> HostEvent:
    async with host.events() as events:
        async for event in events:
            if wanted(event):
                return event
    raise AssertionError("the host ended")


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for what another task is about to do."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.005)


def port_of(host: StackHost) -> int:
    return int(str(host.addrs[0]).split("/")[4])


class RawPeer:
    """A peer that does as the test says: the sans-I/O layers over a blocking-free socket."""

    def __init__(self, sock: trio.SocketStream, *, expected: PeerId | None = None) -> None:
        self.sock = sock
        self.key = PrivateKey.generate_ed25519()
        self.connection = Connection(
            initiator=True,
            securities=[NoiseIdentity(self.key).security()],
            served=ServedProtocols(),
            now=now(),
            expected=expected,
        )
        self.events: list[Any] = []

    @property
    def yamux(self) -> Any:
        return self.connection._yamux

    async def handshake(self) -> None:
        while not any(isinstance(event, Established) for event in self.events):
            await self.flush()
            assert await self.receive()
        await self.flush()

    async def flush(self) -> None:
        await self.sock.send_all(self.connection.data_to_send())

    async def receive(self) -> bool:
        """Take what is there; False at the end."""
        try:
            data = await self.sock.receive_some(65_536)
        except trio.BrokenResourceError:
            data = b""
        events = self.connection.receive(data, now()) if data else self.connection.peer_closed()
        self.events += events
        return not any(isinstance(event, ConnectionEnded) for event in events)

    async def send_plain(self, plain: bytes) -> None:
        """Bytes that the muxer at the other end sees as they are."""
        await self.flush()
        layer = self.connection._layer
        assert layer is not None
        await self.sock.send_all(layer.seal(plain))

    async def receive_all(self) -> None:
        """Take what comes until the end."""
        while await self.receive():
            pass


@asynccontextmanager
async def raw_peer(host: StackHost, source: str = "127.0.0.1") -> AsyncGenerator[RawPeer]:
    """A raw peer, authenticated to ``host``."""
    async with raw_socket(host, source) as sock:
        peer = RawPeer(sock)
        await peer.handshake()
        yield peer


@asynccontextmanager
async def raw_socket(
    host: StackHost, source: str = "127.0.0.1"
) -> AsyncGenerator[trio.SocketStream]:
    """A TCP connection to ``host``, from ``source``."""
    sock = trio.socket.socket()
    await sock.bind((source, 0))
    await sock.connect(("127.0.0.1", port_of(host)))
    async with trio.SocketStream(sock) as stream:
        yield stream


@contextmanager
def silent_listener() -> Iterator[Multiaddr]:
    """A TCP port that accepts connections and never says anything."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        yield Multiaddr(f"/ip4/127.0.0.1/tcp/{listener.getsockname()[1]}")


@contextmanager
def black_hole(ip: str = "127.0.0.1") -> Iterator[Multiaddr]:
    """A TCP port that does not even answer a connect: its queue is full."""
    with socket.socket() as listener:
        listener.bind((ip, 0))
        listener.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        try:
            yield Multiaddr(f"/ip4/{ip}/tcp/{listener.getsockname()[1]}")
        finally:
            for filler in fillers:
                filler.close()


def dead_address() -> Multiaddr:
    """A TCP port on which nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return Multiaddr(f"/ip4/127.0.0.1/tcp/{unused.getsockname()[1]}")


async def quiet() -> tuple[int, int]:
    """Sockets and tasks, once they change no more."""
    before, same = (-1, -1), 0
    with trio.fail_after(10):
        while same < 3:
            await trio.sleep(0.02)
            current = (open_sockets(), tasks())
            same = same + 1 if current == before else 0
            before = current
    return before


def open_sockets() -> int:
    """Sockets of this process."""
    gc.collect()
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            count += "socket:" in str(entry.readlink())
        except OSError:
            continue
    return count


def tasks() -> int:
    """Tasks of this run."""
    return int(trio.lowlevel.current_statistics().tasks_living)
