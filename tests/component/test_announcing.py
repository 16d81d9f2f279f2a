"""Announcements over the memory network: when a caller goes on, and what goes on without it."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from codio_dht import DHTManager
from codio_dht.core.multihash import multihash_of
from codio_dht.node.clock import Clock
from codio_dht.params import PROVIDE_QUORUM, K
from nodes import EPOCH, full_addr, host_of, memory_net, open_nodes, settle, until

CID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
NODES = K + 8


async def holding(nodes: list[DHTManager]) -> int:
    """How many of ``nodes`` hold a record of the CID."""
    return sum([bool(await node.provider_records(CID)) for node in nodes])


async def die_among_the_closest(client: DHTManager, count: int) -> None:
    """``count`` of the closest to the CID, alive until now, take no connection any more."""
    host = host_of(client)
    closest = [info.peer_id for info in await client.find_closest_peers(multihash_of(CID))]
    for peer in closest[:count]:
        host.net.dead.add(peer)
        await host.disconnect(peer)


@pytest.mark.conformance("c67")
async def test_a_caller_goes_on_at_the_quorum_and_in_the_end_the_closest_living_hold_it(
    autojump_clock,
):
    async with memory_net(0.02) as net, open_nodes(net, NODES) as nodes:
        await settle(nodes, NODES - 1)
        client = nodes[0]
        await die_among_the_closest(client, 2)
        result = await client.provide(CID)
        assert result.holders >= PROVIDE_QUORUM
        assert result.pending > 0
        await until(lambda: client._node.errands.running == 0)
        living = [node for node in nodes if node.peer_id not in net.dead]
        assert await holding(living) >= K


@pytest.mark.conformance("c43")
@pytest.mark.parametrize("after_s", [0.1, 1.0])
async def test_a_caller_cancelled_during_the_walk_leaves_nothing_running(autojump_clock, after_s):
    async with memory_net(0.2) as net, open_nodes(net, NODES) as nodes:
        await settle(nodes, NODES - 1)
        client = nodes[0]
        await die_among_the_closest(client, 8)  # so the quorum is not reached soon
        await until(lambda: client._node.errands.running == 0)
        with trio.move_on_after(after_s) as scope:
            await client.provide_once(CID, quorum=K)
        assert scope.cancelled_caught
        await trio.testing.wait_all_tasks_blocked()
        assert client._node.announcer._running == 0
        assert client._node.errands.running == 0
        assert client.stats().pending_queries == 0
        assert host_of(client).open_streams == len(client._node.rpc._pool)


async def test_a_key_whose_announcement_was_not_over_is_announced_again_after_a_restart(
    autojump_clock, tmp_path
):
    clock = Clock(lambda: EPOCH + trio.current_time())
    async with memory_net(0.02) as net, open_nodes(net, NODES, first=1) as nodes:
        await settle(nodes, NODES - 1)
        seed = full_addr(host_of(nodes[0]))
        host = net.host(0)
        async with DHTManager(host, data_dir=tmp_path, clock=clock, bootstrap=[seed]) as node:
            await settle([node], K)
            await die_among_the_closest(node, 2)
            result = await node.provide(CID)
            assert result.pending > 0
        async with DHTManager(net.host(0), data_dir=tmp_path, clock=clock) as node:
            [own] = await node.own_keys()
            assert own.last_provided is None
            await settle([node], 1)
            with trio.fail_after(3_600):
                while (await node.own_keys())[0].last_provided is None:
                    await trio.sleep(10)
