"""What the tests of the host on our own stack share."""

from __future__ import annotations

import gc
import socket
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from multiaddr import Multiaddr

from codio_dht.core.backoff import Backoff
from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.crypto.keys import PrivateKey
from codio_dht.net.dial import memory
from codio_dht.net.dial.failures import DialFailure
from codio_dht.net.dial.limits import MAX_BACKOFF_S
from codio_dht.net.quic import connection as quic
from codio_dht.net.stack import connection
from codio_dht.net.stack.channel import ServedProtocols
from codio_dht.net.stack.connection import Connection, ConnectionEnded, Established
from codio_dht.net.stack.noise import NoiseIdentity
from codio_dht.net.stack_host import StackHost, make_stack_host, reaper
from host_steps import TCP


def now() -> Monotonic:
    return Monotonic(trio.current_time())


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


def quicken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at deadlines all the time."""
    monkeypatch.setattr(reaper, "REAP_INTERVAL_S", 0.02)
    monkeypatch.setattr(reaper, "REAP_ROUNDS", 1)
    for carrier in (connection, quic):
        monkeypatch.setattr(carrier, "STREAM_SWEEP_INTERVAL_S", 0.02)


def port_of(host: StackHost) -> int:
    return int(str(host.addrs[0]).split("/")[4])


class RawPeer:
    """A peer that does as the test says: the sans-I/O layers over a blocking-free socket."""

    def __init__(
        self,
        sock: trio.SocketStream,
        *,
        expected: PeerId | None = None,
        key: PrivateKey | None = None,
    ) -> None:
        self.sock = sock
        self.key = key or PrivateKey.generate_ed25519()
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


async def quiet() -> tuple[int, int]:
    """Sockets and tasks, once they change no more."""
    before, same = (-1, -1), 0
    with trio.fail_after(30):
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


def lengthen_refused_backoff(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Leave an address that refused a dial alone for longer than a slow machine needs."""
    longer = Backoff(seconds, MAX_BACKOFF_S)
    monkeypatch.setitem(memory._BACKOFFS, DialFailure.REFUSED, longer)
