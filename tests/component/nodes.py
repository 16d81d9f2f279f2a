"""Nodes on a ``MemoryNet``, for component tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast

import trio
from multiaddr import Multiaddr

from codio_dht import DHTConfig, DHTManager
from codio_dht.core.clock import Monotonic
from codio_dht.core.messages import Reply, Request
from codio_dht.core.peer import PeerId
from codio_dht.node.clock import Clock
from codio_dht.node.runtime import NetworkRuntime
from memory_host import MemoryHost, MemoryNet

EPOCH = 1_700_000_000.0
"""Unix time at the start of the virtual clock, on which it then runs."""


def host_of(node: DHTManager) -> MemoryHost:
    return cast(MemoryHost, node._node.shared.host)


def soon() -> Monotonic:
    """A deadline that no memory host needs."""
    return Monotonic(trio.current_time() + 5)


def full_addr(host: MemoryHost) -> Multiaddr:
    return Multiaddr(f"{host.addrs[0]}/p2p/{host.peer_id}")


async def ask(network: NetworkRuntime, peer: PeerId, request: Request) -> Reply:
    """What ``peer`` answers to one request on ``network``."""
    return await network.rpc.request(peer, request, Monotonic(trio.current_time() + 25))


@asynccontextmanager
async def memory_net(latency_s: float = 0.0) -> AsyncIterator[MemoryNet]:
    async with trio.open_nursery() as nursery:
        yield MemoryNet(nursery, latency_s)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_nodes(
    net: MemoryNet, count: int, *, first: int = 0, config: DHTConfig | None = None
) -> AsyncIterator[list[DHTManager]]:
    """``count`` servers, all bootstrapping from the first of the net."""
    async with AsyncExitStack() as stack:
        nodes = []
        for number in range(first, first + count):
            bootstrap = [full_addr(next(iter(net.hosts.values())))] if net.hosts else []
            host = net.host(number)
            nodes.append(
                await stack.enter_async_context(
                    DHTManager(
                        host,
                        config or DHTConfig(),
                        bootstrap=bootstrap,
                        clock=Clock(lambda: EPOCH + trio.current_time()),
                    )
                )
            )
        yield nodes


async def until(holds: Callable[[], bool]) -> None:
    """Until ``holds``, for at most 2,000 s of the test's clock."""
    for _ in range(20_000):
        if holds():
            return
        await trio.sleep(0.1)
    raise AssertionError("it never came to hold")


async def settle(nodes: list[DHTManager], peers: int) -> None:
    """Until each node has at least ``peers`` in its table."""
    with trio.fail_after(600):
        while any(len(node.routing_table_peers()) < peers for node in nodes):
            await trio.sleep(0.1)
