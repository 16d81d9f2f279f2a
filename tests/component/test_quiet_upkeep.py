"""What does not concern the routing table wakes nobody who looks after it."""

from __future__ import annotations

from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from codio_dht.core.admission import OfferOutcome
from codio_dht.core.peer import PeerId
from nodes import host_of, memory_net, open_nodes, soon


async def test_a_client_that_comes_wakes_nobody_and_a_server_does(autojump_clock) -> None:
    async with memory_net() as net, open_nodes(net, 1) as [node]:
        upkeep = node._node.main.upkeep
        identified: list[PeerId] = []
        network = node._node.main.network
        tell = network.identified

        def noted(peer: PeerId, *about: Any) -> OfferOutcome | None:
            identified.append(peer)
            return tell(peer, *about)

        network.identified = noted  # type: ignore[assignment]

        client = net.host(7)
        waited_for = upkeep._changed
        await client.connect(node.peer_id, host_of(node).addrs, soon())
        await wait_all_tasks_blocked()
        assert [client.peer_id] == identified
        assert not waited_for.is_set()

        async with open_nodes(net, 1, first=8) as [server]:
            await trio.sleep(1)
            assert server.peer_id in identified
            assert waited_for.is_set()


async def test_a_server_that_became_a_client_wakes_whoever_fills_its_place(autojump_clock) -> None:
    async with memory_net() as net, open_nodes(net, 2) as [node, other]:
        await trio.sleep(5)
        assert [other.peer_id] == node.routing_table_peers()
        waited_for = node._node.main.upkeep._changed
        host_of(other).unserve("/ipfs/kad/1.0.0")
        host_of(other).identify_again()
        await trio.sleep(1)
        assert [] == node.routing_table_peers()
        assert waited_for.is_set()
