"""Whose connections the node keeps when its host has too many."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from libp2p.network.config import ConnectionConfig

from codio_dht import DHTManager
from codio_dht.core.addresses import KEEP_ALL
from codio_dht.core.messages import AddProvider, FailureReason, FindNode
from codio_dht.errors import NetworkError
from codio_dht.net.libp2p_host import Libp2pHost
from codio_dht.net.limits import Limits
from codio_dht.node.rpc import RpcClient
from codio_dht.params import KAD_PROTOCOL
from host_steps import Echo, connect, soon
from host_steps import until as really_until
from libp2p_hosts import swarm_of, upstream_host
from memory_host import MemoryHost
from nodes import host_of, memory_net, open_nodes, settle
from stack_hosts import made_host, quicken

TABLE = f"{KAD_PROTOCOL}:table"
REQUEST = f"{KAD_PROTOCOL}:request"


def protected(host: MemoryHost, tag: str) -> set[object]:
    return {peer for peer, tags in host.tags.items() if tag in tags}


# --- what the node asks its host ------------------------------------------------------------------


async def test_exactly_the_peers_of_the_routing_table_are_protected(autojump_clock):
    async with memory_net(0.05) as net, open_nodes(net, 4) as nodes:
        await settle(nodes, 3)
        for node in nodes:
            assert set(node.routing_table_peers()) == protected(host_of(node), TABLE)


async def test_a_peer_that_leaves_the_table_loses_its_protection(autojump_clock):
    async with memory_net(0.05) as net, open_nodes(net, 3) as [node, gone, stays]:
        await settle([node], 2)
        network = node._node.main.network
        now = node._node.shared.clock.monotonic()
        network.failed(gone.peer_id, FailureReason.BROKEN, now, began=now)
        assert {stays.peer_id} == protected(host_of(node), TABLE)


async def test_a_node_that_ends_protects_nobody_on_a_host_that_lives_on(autojump_clock):
    async with memory_net(0.05) as net, open_nodes(net, 3) as nodes:
        host = net.host(99)
        seed = f"{nodes[0].addrs[0]}/p2p/{nodes[0].peer_id}"
        async with DHTManager(host, bootstrap=[seed]) as node:
            await settle([node], 3)
            assert 3 == len(protected(host, TABLE))
        assert set() == protected(host, TABLE) | protected(host, REQUEST)


@asynccontextmanager
async def asking() -> AsyncGenerator[tuple[MemoryHost, RpcClient, MemoryHost]]:
    """A client, and a peer that takes requests and never answers."""
    async with memory_net(0.05) as net:
        host, mute = net.host(1), net.host(2)
        mute.serve(KAD_PROTOCOL, lambda _: Echo(), idle_timeout_s=60.0)
        net.mute.add(mute.peer_id)
        rpc = RpcClient(
            host,
            KAD_PROTOCOL,
            lambda _: mute.addrs,
            lambda: KEEP_ALL,
            dial_timeout_s=5,
            request_timeout_s=60,
        )
        yield host, rpc, mute


async def test_a_peer_is_protected_as_long_as_one_request_to_it_is_under_way(autojump_clock):
    async with asking() as (host, rpc, mute):
        ended = 0

        async def ask(seconds: float) -> None:
            nonlocal ended
            with pytest.raises(NetworkError):
                await rpc.request(mute.peer_id, FindNode(b"key"), soon(seconds))
            ended += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, 2)
            nursery.start_soon(ask, 4)
            await trio.sleep(1)
            assert {mute.peer_id} == protected(host, REQUEST)
            await trio.sleep(2)
            assert (1, {mute.peer_id}) == (ended, protected(host, REQUEST))
        assert (2, set()) == (ended, protected(host, REQUEST))


async def test_a_request_that_is_cancelled_protects_no_longer(autojump_clock):
    async with asking() as (host, rpc, mute):
        with trio.move_on_after(1):
            await rpc.request(mute.peer_id, FindNode(b"key"), soon())
        assert set() == protected(host, REQUEST)


async def test_a_peer_that_is_handed_a_record_is_protected_meanwhile(autojump_clock):
    async with asking() as (host, rpc, mute):
        async with trio.open_nursery() as nursery:
            record = AddProvider(b"\x12\x20" + bytes(32), ())
            nursery.start_soon(rpc.give, mute.peer_id, record, soon(4))
            await trio.sleep(1)
            assert {mute.peer_id} == protected(host, REQUEST)
        assert set() == protected(host, REQUEST)


# --- what the hosts make of it --------------------------------------------------------------------


@asynccontextmanager
async def servers(count: int) -> AsyncGenerator[list[DHTManager]]:
    """DHT servers on loopback."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(DHTManager.open(listen=["/ip4/127.0.0.1/tcp/0"]))
            for _ in range(count)
        ]


async def test_over_the_high_water_mark_the_tables_peers_stay_and_others_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quicken(monkeypatch)
    limits = Limits(high_water=6, low_water=2, grace_s=0.0)
    async with AsyncExitStack() as stack:
        known = await stack.enter_async_context(servers(3))
        host = await stack.enter_async_context(made_host(limits=limits))
        node = await stack.enter_async_context(
            DHTManager(host, bootstrap=[f"{each.addrs[0]}/p2p/{each.peer_id}" for each in known])
        )
        table = {each.peer_id for each in known}
        await really_until(lambda: set(node.routing_table_peers()) == table)
        strangers = [await stack.enter_async_context(made_host()) for _ in range(4)]
        for stranger in strangers:
            await connect(stranger, host)
        await really_until(lambda: len(host.connections()) < 7)
        await really_until(lambda: host.stats().get("connections_trimmed") == 4)
        assert table == {info.peer_id for info in host.connections()}


async def test_on_py_libp2p_too_a_protected_peer_stays_and_another_goes() -> None:
    config = ConnectionConfig(
        min_connections=0, low_watermark=0, high_watermark=1, max_connections=10, grace_period=0.0
    )
    async with AsyncExitStack() as stack:
        ihost = await stack.enter_async_context(upstream_host(guarded=True, config=config))
        host = await stack.enter_async_context(Libp2pHost(ihost))
        stays = await stack.enter_async_context(made_host())
        goes = await stack.enter_async_context(made_host())
        host.protect(stays.peer_id, "table")
        host.protect(goes.peer_id, "table")
        host.protect(stays.peer_id, "request")
        assert host.unprotect(stays.peer_id, "table")
        assert not host.unprotect(goes.peer_id, "table")
        pruner = swarm_of(ihost).connection_pruner
        for peer in (stays, goes):
            await host.connect(peer.peer_id, peer.addrs, soon())
        await really_until(lambda: len(host._running.identifier.known) == 2)  # type: ignore[union-attr]
        with trio.fail_after(10):
            while host.is_connected(goes.peer_id):
                await pruner.maybe_prune_connections()
                await trio.sleep(0.05)
        assert host.is_connected(stays.peer_id)
