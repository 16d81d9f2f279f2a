"""The four scenarios, over real loopback sockets, on both stacks."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast, get_args

import pytest
import trio

from codio_dht import DHTConfig, DHTManager
from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import distance, key_of
from codio_dht.core.messages import GetProviders
from codio_dht.core.multihash import multihash_of
from codio_dht.node.hosting import Stack

CID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"

pytestmark = pytest.mark.deadline_s(150)


@pytest.fixture(params=get_args(Stack))
def stack(request) -> Stack:
    return cast("Stack", request.param)


@asynccontextmanager
async def network(count: int, stack: Stack) -> AsyncIterator[list[DHTManager]]:
    """``count`` nodes that each know the first; joined when each knows enough others."""
    async with AsyncExitStack() as opened:
        nodes: list[DHTManager] = []
        for _ in range(count):
            seeds = [f"{nodes[0].addrs[0]}/p2p/{nodes[0].peer_id}"] if nodes else []
            manager = DHTManager.open(
                DHTConfig(), listen=["/ip4/127.0.0.1/tcp/0"], bootstrap=seeds, stack=stack
            )
            nodes.append(await opened.enter_async_context(manager))
            with trio.fail_after(60):
                while len(nodes) > 1 and not nodes[-1].routing_table_peers():
                    await trio.sleep(0.01)
        with trio.fail_after(90):
            while any(len(node.routing_table_peers()) < min(count - 1, 20) for node in nodes):
                await trio.sleep(0.05)
        yield nodes


async def test_of_three_nodes_one_provides_and_another_finds_it(stack):
    async with network(3, stack) as nodes:
        await nodes[1].provide(CID)
        [found] = await nodes[2].find_providers(CID)
        assert (found.peer_id, found.addrs) == (nodes[1].peer_id, nodes[1].addrs)


async def test_after_one_provide_at_least_twenty_of_twenty_five_hold_the_record(stack):
    async with network(25, stack) as nodes:
        result = await nodes[3].provide(CID, quorum=20)
        assert result.holders == 20
        request, holders = GetProviders(multihash_of(CID)), 0
        for asked in nodes:
            asking = nodes[0] if asked is not nodes[0] else nodes[1]
            rpc = asking._node.main.rpc
            reply = await rpc.request(asked.peer_id, request, Monotonic(trio.current_time() + 20))
            holders += nodes[3].peer_id in [entry.peer_id for entry in reply.provider_peers]
        assert holders >= 20


async def test_a_bootstrap_node_and_five_others_all_discover_each_other(stack):
    async with network(6, stack) as nodes:
        everybody = {node.peer_id for node in nodes}
        for node in nodes:
            assert everybody - {node.peer_id} == set(node.routing_table_peers())


async def test_ten_nodes_find_the_closest_to_a_random_key_in_xor_order(stack):
    async with network(10, stack) as nodes:
        key = random.Random(10).randbytes(32)
        for node in nodes:
            expected = sorted(
                (other.peer_id for other in nodes if other is not node),
                key=lambda peer: distance(peer.key, key_of(key)),
            )
            assert expected == [info.peer_id for info in await node.find_closest_peers(key)]
