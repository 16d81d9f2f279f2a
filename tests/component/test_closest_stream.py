"""The closest peers as they become certain: what streams, when, and what leaving early leaves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from codio_dht import DHTConfig, DHTManager
from codio_dht.core.keyspace import key_of
from codio_dht.errors import NoPeersError, NotRunningError
from codio_dht.params import K
from hostile_host import answering, closer, entry_of, hostile, lab_node, numbered_id, plant
from memory_host import MemoryNet, MemoryStream
from nodes import host_of, memory_net, until

KEY = b"some key"
PEERS = K + 10
CLOSEST = sorted(range(1, PEERS + 1), key=lambda each: numbered_id(each).key ^ key_of(KEY))[:K]
"""Numbers of the true k closest, nearest first."""


@asynccontextmanager
async def client_of_peers(
    config: DHTConfig | None = None,
) -> AsyncIterator[tuple[MemoryNet, DHTManager]]:
    """A node that knows the farther half of the peers, each of which names the k closest."""
    script = answering(lambda request: closer(request, [entry_of(each) for each in CLOSEST]))

    async def unless_silent(stream: MemoryStream) -> None:
        if stream.peer_id in net.mute:
            await trio.sleep_forever()
        await script(stream)

    async with memory_net(0.02) as net:
        hosts = {number: hostile(net, number, unless_silent) for number in range(1, PEERS + 1)}
        known = [host for number, host in hosts.items() if number not in CLOSEST[:-5]]
        async with lab_node(net, config=config) as node:
            await plant(node, known)
            await until(lambda: node._node.shared.errands.running == 0)
            await node._node.main.rpc.aclose()  # whoever falls silent now has no open stream
            yield net, node


async def test_they_stream_in_order_each_once_and_are_those_of_the_list(autojump_clock):
    async with client_of_peers() as (_, client):
        streamed = [each async for each in client.iter_closest_peers(KEY)]
        listed = await client.find_closest_peers(KEY)
        assert [each.peer_id for each in streamed] == [numbered_id(each) for each in CLOSEST]
        assert [each.addrs for each in streamed] == [each.addrs for each in listed]
        assert [each.standing for each in streamed] == [each.standing for each in listed]


async def test_who_is_certain_comes_before_the_lookup_is_over(autojump_clock):
    async with client_of_peers() as (net, client):
        net.mute.add(numbered_id(CLOSEST[-1]))
        ended = client.stats().lookups.get("completed", 0)
        async with client.iter_closest_peers(KEY) as stream:
            early = [(await anext(stream)).peer_id for _ in range(K - 1)]
            assert client.stats().lookups.get("completed", 0) == ended
            before = trio.current_time()
            rest = [each.peer_id async for each in stream]
        assert early + rest == [numbered_id(each) for each in CLOSEST]
        assert trio.current_time() > before
        assert client.stats().lookups["completed"] == ended + 1


@pytest.mark.conformance("c43")
@pytest.mark.parametrize("taken", [0, 2])
async def test_leaving_it_early_ends_the_lookup_and_leaves_nothing_behind(autojump_clock, taken):
    async with client_of_peers() as (net, client):
        net.mute.add(numbered_id(CLOSEST[-1]))
        tasks = len(client._life.nursery.child_tasks)
        async with client.iter_closest_peers(KEY) as stream:
            for _ in range(taken):
                await anext(stream)
            await trio.sleep(0.05)
            assert client.stats().pending_queries > 0
        await trio.testing.wait_all_tasks_blocked()
        assert client._node.shared.errands.running == 0
        assert len(client._life.nursery.child_tasks) == tasks
        assert client.stats().pending_queries == 0
        assert host_of(client).open_streams == len(client._node.main.rpc._pool)
        assert [each async for each in stream] == []


async def test_a_lookup_that_ran_out_of_time_gives_whoever_answered(autojump_clock):
    """Although nobody is certain: the nearest of all was waited for to the end."""
    async with client_of_peers(DHTConfig(query_timeout=0.5)) as (net, client):
        net.mute.add(numbered_id(CLOSEST[0]))
        streamed = [each.peer_id async for each in client.iter_closest_peers(KEY)]
        assert client.stats().lookups["timeout"] == 1
        assert set(streamed) >= {numbered_id(each) for each in CLOSEST[1:]}


async def test_with_nobody_to_ask_the_reader_is_told(autojump_clock):
    async with memory_net() as net:
        async with lab_node(net) as alone:
            with pytest.raises(NoPeersError):
                await anext(alone.iter_closest_peers(KEY))
        with pytest.raises(NotRunningError):
            alone.iter_closest_peers(KEY)
