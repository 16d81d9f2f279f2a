"""Provides over the memory network: when a caller goes on, and what goes on without it."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from codio_dht import DHTManager
from codio_dht.core.multihash import multihash_of
from codio_dht.core.netsize import MIN_SIZE_MEASUREMENTS
from codio_dht.errors import NoPeersError
from codio_dht.params import PROVIDE_QUORUM, K
from hostile_host import lab_node, plant
from keepers import client_of, keepers
from nodes import host_of, memory_net, open_nodes, settle, until

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
        await until(lambda: client._node.shared.errands.running == 0)
        living = [node for node in nodes if node.peer_id not in net.dead]
        assert await holding(living) >= K


async def test_a_caller_whose_early_deliveries_all_failed_is_told_that_nobody_answered(
    autojump_clock,
):
    """Cut off from the network, a node that knows its size sends records before anybody answers."""
    async with memory_net(0.02) as net, open_nodes(net, NODES) as nodes:
        await settle(nodes, NODES - 1)
        client = nodes[0]
        for number in range(MIN_SIZE_MEASUREMENTS):
            await client.find_closest_peers(b"any key %d" % number)
        for other in nodes[1:]:
            net.dead.add(other.peer_id)
            await host_of(client).disconnect(other.peer_id)
        with pytest.raises(NoPeersError):
            await client.provide(CID)
        assert client._node.main.deliveries.counters["record_failed"] > 0
        assert client.stats().own_keys == 1


@pytest.mark.conformance("c43")
@pytest.mark.parametrize("after_s", [0.1, 1.0])
async def test_a_caller_cancelled_during_the_walk_leaves_nothing_running(autojump_clock, after_s):
    async with keepers(0.2) as peers, client_of(peers) as client:
        await die_among_the_closest(client, 8)  # so the quorum is not reached soon
        await until(lambda: client._node.shared.errands.running == 0)
        with trio.move_on_after(after_s) as scope:
            await client.provide_once(CID, quorum=K)
        assert scope.cancelled_caught
        await trio.testing.wait_all_tasks_blocked()
        assert client._node.main.deliveries.running == 0
        assert client._node.shared.errands.running == 0
        assert client.stats().pending_queries == 0
        assert host_of(client).open_streams == len(client._node.main.rpc._pool)


async def test_a_key_whose_delivery_was_not_over_is_provided_again_after_a_restart(
    autojump_clock, tmp_path
):
    async with keepers(0.02) as peers:
        async with client_of(peers, data_dir=tmp_path) as client:
            await die_among_the_closest(client, 2)
            result = await client.provide(CID)
            assert result.pending > 0
        async with lab_node(peers.net, data_dir=tmp_path) as client:
            [own] = await client.own_keys()
            assert own.last_provided is None
            await plant(client, peers.living)
            with trio.fail_after(3_600):
                while (await client.own_keys())[0].last_provided is None:
                    await trio.sleep(10)
