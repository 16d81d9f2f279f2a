"""A proxy on loopback that holds every byte back for a while: a long line for any two programs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import trio

_CHUNK_BYTES = 1 << 16
_QUEUE = 10_000


@dataclass
class Proxy:
    """Where it listens, and when each of its clients first came (``trio.current_time()``)."""

    port: int
    arrivals: list[float] = field(default_factory=list)


@asynccontextmanager
async def tcp_proxy(to_port: int, delay_s: float) -> AsyncIterator[Proxy]:
    """A client finds its connection open at once: what is delayed starts with its first byte."""
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, port=0, host="127.0.0.1")

        async def carry(client: trio.SocketStream) -> None:
            proxy.arrivals.append(trio.current_time())
            server = await trio.open_tcp_stream("127.0.0.1", to_port)
            async with client, server, trio.open_nursery() as both:
                both.start_soon(_carry_one_way, client, server, delay_s)
                both.start_soon(_carry_one_way, server, client, delay_s)

        listeners = await nursery.start(serve, partial(_until_broken, carry))
        proxy = Proxy(listeners[0].socket.getsockname()[1])
        yield proxy
        nursery.cancel_scope.cancel()


async def _until_broken(
    carry: Callable[[trio.SocketStream], Awaitable[None]], client: trio.SocketStream
) -> None:
    try:
        await carry(client)
    except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
        pass  # one side went, so the other goes


async def _carry_one_way(
    source: trio.SocketStream, sink: trio.SocketStream, delay_s: float
) -> None:
    send, receive = trio.open_memory_channel[tuple[float, bytes]](_QUEUE)

    async def deliver() -> None:
        async for due, data in receive:
            await trio.sleep_until(due)
            if data:
                await sink.send_all(data)
            else:
                await sink.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(deliver)
        async with send:
            data = b"?"
            while data:
                data = await source.receive_some(_CHUNK_BYTES)
                await send.send((trio.current_time() + delay_s, data))


@asynccontextmanager
async def udp_proxy(to_port: int, delay_s: float) -> AsyncIterator[Proxy]:
    """The same for datagrams; a client is an address that they come from."""
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as front:
        await front.bind(("127.0.0.1", 0))
        proxy = Proxy(front.getsockname()[1])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_carry_datagrams, nursery, front, proxy, to_port, delay_s)
            yield proxy
            nursery.cancel_scope.cancel()


async def _carry_datagrams(
    nursery: trio.Nursery,
    front: trio.socket.SocketType,
    proxy: Proxy,
    to_port: int,
    delay_s: float,
) -> None:
    backs: dict[tuple[str, int], trio.socket.SocketType] = {}
    later = _Later(nursery)

    async def answers(client: tuple[str, int], back: trio.socket.SocketType) -> None:
        while True:
            data = await back.recv(_CHUNK_BYTES)
            later.at(trio.current_time() + delay_s, partial(front.sendto, data, client))

    try:
        while True:
            data, client = await front.recvfrom(_CHUNK_BYTES)
            if client not in backs:
                proxy.arrivals.append(trio.current_time())
                back = backs[client] = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
                await back.connect(("127.0.0.1", to_port))
                nursery.start_soon(answers, client, back)
            later.at(trio.current_time() + delay_s, partial(backs[client].send, data))
    finally:
        for back in backs.values():
            back.close()


class _Later:
    """Does things in the order given, each at its time; all have the same delay."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._send, self._receive = trio.open_memory_channel[
            tuple[float, Callable[[], Awaitable[object]]]
        ](_QUEUE)
        nursery.start_soon(self._run)

    def at(self, due: float, what: Callable[[], Awaitable[object]]) -> None:
        try:
            self._send.send_nowait((due, what))
        except trio.WouldBlock:
            pass  # as a full line does

    async def _run(self) -> None:
        async for due, what in self._receive:
            await trio.sleep_until(due)
            try:
                await what()
            except OSError:
                pass  # nobody there any more
