"""Several networks on one host: what they share, and what each has for itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from codio_dht import DHTConfig, DHTManager
from codio_dht.core.messages import FindNode, GetProviders, Reply
from codio_dht.core.mode import Mode
from codio_dht.core.peer import PeerInfo
from codio_dht.errors import NotRunningError
from codio_dht.node.arguments import multihash_of
from codio_dht.node.assembly import NetworkPlan
from codio_dht.node.clock import Clock
from codio_dht.node.runtime import NetworkRuntime
from codio_dht.params import KAD_PROTOCOL
from memory_host import MemoryHost, MemoryNet
from nodes import EPOCH, ask, full_addr, host_of, memory_net, settle, soon, until

ONE, OTHER = "/one/kad/1.0.0", "/other/kad/1.0.0"
CID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"


@asynccontextmanager
async def node_of(
    net: MemoryNet,
    number: int,
    *protocols: str,
    through: DHTManager | None = None,
    other_mode: str = "auto",
) -> AsyncIterator[DHTManager]:
    """A node with a network for each of ``protocols``, each joined through the same peer."""
    bootstrap = [] if through is None else [full_addr(host_of(through))]
    node = DHTManager(
        net.host(number),
        DHTConfig(protocol=protocols[0]),
        bootstrap=bootstrap,
        clock=Clock(lambda: EPOCH + trio.current_time()),
    )
    for protocol in protocols[1:]:
        peers = [PeerInfo(host_of(through).peer_id, host_of(through).addrs)] if through else []
        node._life.add_network(NetworkPlan(DHTConfig(protocol=protocol), peers, other_mode))
    async with node:
        yield node


def networks(node: DHTManager) -> list[NetworkRuntime]:
    return list(node._node.networks)


async def test_each_network_has_its_own_table_and_its_own_peers(autojump_clock):
    async with (
        memory_net(0.01) as net,
        node_of(net, 0, ONE, OTHER) as first,
        node_of(net, 1, ONE, OTHER, through=first) as both,
        node_of(net, 2, ONE, through=first) as only_one,
        node_of(net, 3, OTHER, through=first) as only_other,
    ):
        await settle([only_one, only_other], 2)
        one, other = networks(both)
        await until(lambda: len(one.network.table) == 2 and len(other.network.table) == 2)
        assert {first.peer_id, only_one.peer_id} == set(one.network.table.peers())
        assert {first.peer_id, only_other.peer_id} == set(other.network.table.peers())

        closest = await one.lookups.closest(b"key")
        assert {first.peer_id, only_one.peer_id} == {each.peer for each in closest.closest}
        closest = await other.lookups.closest(b"key")
        assert {first.peer_id, only_other.peer_id} == {each.peer for each in closest.closest}

        # What a peer of one network asks is answered from that network's table.
        reply = await ask(networks(only_one)[0], both.peer_id, FindNode(b"key"))
        assert {first.peer_id} == {entry.peer_id for entry in reply.closer_peers}
        reply = await ask(networks(only_other)[0], both.peer_id, FindNode(b"key"))
        assert {first.peer_id} == {entry.peer_id for entry in reply.closer_peers}


async def test_each_network_has_its_own_mode(autojump_clock):
    async with (
        memory_net(0.01) as net,
        node_of(net, 0, ONE, OTHER) as first,
        node_of(net, 1, ONE, OTHER, through=first, other_mode="client") as node,
    ):
        one, other = networks(node)
        await until(lambda: len(one.network.table) == 1 and len(other.network.table) == 1)
        assert (Mode.SERVER, Mode.CLIENT) == (one.mode, other.mode)
        assert [ONE] == list(host_of(node).factories)
        await trio.sleep(30)
        seen = networks(first)
        assert ([node.peer_id], []) == (
            seen[0].network.table.peers(),
            seen[1].network.table.peers(),
        )


async def test_the_networks_share_the_store_and_the_program_asks_the_first(autojump_clock):
    async with (
        memory_net(0.01) as net,
        node_of(net, 0, ONE, OTHER) as first,
        node_of(net, 1, ONE, OTHER, through=first) as node,
        node_of(net, 2, OTHER, through=first) as stranger,
    ):
        await until(lambda: all(len(each.network.table) for each in networks(node)))
        await settle([stranger], 2)
        assert 1 == (await node.provide(CID)).holders
        counters = [dict(each.server.counters) for each in networks(first)]
        assert (1, 0) == tuple(each.get("AddProvider", 0) for each in counters)
        assert [node.peer_id] == [each.peer_id for each in await first.find_providers(CID)]
        request = GetProviders(multihash_of(CID))
        reply = await ask(networks(stranger)[0], first.peer_id, request)
        assert [node.peer_id] == [entry.peer_id for entry in reply.provider_peers]


async def test_a_peer_stays_protected_while_it_is_in_the_table_of_either(autojump_clock):
    async with (
        memory_net(0.01) as net,
        node_of(net, 0, ONE, OTHER) as first,
        node_of(net, 1, ONE, OTHER, through=first) as node,
    ):
        host, peer = host_of(node), first.peer_id
        one, other = networks(node)
        await until(lambda: len(one.network.table) == 1 and len(other.network.table) == 1)
        one.network.table.remove(peer)
        assert peer in other.network.table
        assert any(tag.startswith(OTHER) for tag in host.tags[peer])
        assert not any(tag.startswith(ONE) for tag in host.tags[peer])


async def test_all_networks_end_with_the_node(autojump_clock):
    async with memory_net(0.01) as net, node_of(net, 0, ONE, OTHER) as first:
        async with node_of(net, 1, ONE, OTHER, through=first) as node:
            host = host_of(node)
            parts = networks(node)
            await until(lambda: all(len(each.network.table) for each in parts))
            assert {ONE, OTHER} == set(host.factories)
        assert_nothing_is_left_of_the_node(host)
        with pytest.raises(NotRunningError):
            node.stats()
        assert {ONE, OTHER} == set(host_of(first).factories)


def assert_nothing_is_left_of_the_node(host: MemoryHost) -> None:
    assert {} == host.factories
    assert [] == host._subscribers
    assert {} == {peer: tags for peer, tags in host.tags.items() if tags}
    assert 0 == host.open_streams


async def test_a_network_that_is_a_client_resets_no_stream_of_another(autojump_clock):
    async with (
        memory_net(0.01) as net,
        node_of(net, 0, ONE, OTHER) as first,
        node_of(net, 1, ONE, OTHER, through=first) as node,
    ):
        one, other = networks(node)
        await until(lambda: len(one.network.table) == 1 and len(other.network.table) == 1)
        stream = await host_of(node).open_stream(first.peer_id, ONE, soon())
        networks(first)[1].stop()
        await trio.sleep(1)
        assert not stream.broken
        await stream.reset()


async def test_a_network_becomes_public_while_it_runs(autojump_clock):
    async with (
        memory_net(0.01) as net,
        node_of(net, 0, KAD_PROTOCOL, OTHER) as first,
        node_of(net, 1, KAD_PROTOCOL, OTHER, through=first) as node,
    ):
        one, other = networks(node)
        await until(lambda: len(one.network.table) == 1 and len(other.network.table) == 1)
        assert (False, Mode.SERVER) == (one.public, one.mode)
        find_self = FindNode(node.peer_id.to_bytes())
        reply = await ask(networks(first)[0], node.peer_id, find_self)
        assert [node.peer_id] == [entry.peer_id for entry in reply.closer_peers]

        one.set_public(public=True)
        # Its only peer is on loopback, and so is this node: a client with an empty table.
        assert (True, Mode.CLIENT, []) == (one.public, one.mode, one.network.table.peers())
        assert (False, Mode.SERVER) == (other.public, other.mode)
        assert [OTHER] == list(host_of(node).factories)
        assert [first.peer_id] == other.network.table.peers()
        now = node._node.shared.clock.now()
        answer = one.server.responder.respond(first.peer_id, find_self, now)
        assert isinstance(answer, Reply)
        assert () == answer.closer_peers

        one.set_public(public=False)
        assert {KAD_PROTOCOL, OTHER} == set(host_of(node).factories)
        await until(lambda: [first.peer_id] == one.network.table.peers())
