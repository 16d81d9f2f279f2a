"""Joining and connecting through ``/dnsaddr/HOST``: the peers are whoever the name lists."""

from __future__ import annotations

import pytest
import trio
from structlog.testing import capture_logs

from codio_dht import DHTManager
from codio_dht.errors import DialError, NetworkError
from memory_host import MemoryNet, peer_id_of
from nodes import full_addr, memory_net, open_nodes, until

NAME = "/dnsaddr/seeds.test"
"""A special name: the node keeps loopback addresses."""


def addr_at(net: MemoryNet, number: int) -> str:
    """The address of a host of ``net``, with its peer id."""
    [host] = [host for host in net.hosts.values() if host.peer_id == peer_id_of(number)]
    return str(full_addr(host))


async def test_a_node_joins_through_whoever_a_name_lists(autojump_clock):
    async with memory_net() as net, open_nodes(net, 3) as nodes:
        net.names[NAME] = [addr_at(net, 1), addr_at(net, 2)]
        async with DHTManager(net.host(50), bootstrap=[NAME]) as node:
            await until(lambda: len(node.routing_table_peers()) == 3)
            assert node.bootstrap_state == "joined"
            assert await nodes[0].find_peer(node.peer_id)


async def test_a_name_that_lists_nobody_yet_is_asked_again(autojump_clock):
    async with memory_net() as net, open_nodes(net, 1):
        with capture_logs() as lines:
            async with DHTManager(net.host(50), bootstrap=[NAME]) as node:
                await until(lambda: node.bootstrap_state == "unreachable")
                net.names[NAME] = [addr_at(net, 0)]
                await until(lambda: node.bootstrap_state == "joined")
    said = [line for line in lines if line["event"] == "bootstrap_names_unresolved"]
    assert {f"{NAME} lists nobody"} == {line["reason"] for line in said}
    assert len(net.asked) == len(said) + 1


async def test_a_name_is_asked_again_when_nobody_is_left_whom_it_listed(autojump_clock):
    async with memory_net() as net, open_nodes(net, 1):
        net.names[NAME] = [f"/ip4/127.0.0.1/tcp/1/p2p/{peer_id_of(99)}"]
        async with DHTManager(net.host(50), bootstrap=[NAME]) as node:
            await until(lambda: node.bootstrap_state == "unreachable")
            net.names[NAME] = [addr_at(net, 0)]
            await until(lambda: node.bootstrap_state == "joined")


async def test_the_first_lookup_waits_for_a_name_to_be_resolved(autojump_clock):
    async with memory_net(0.05) as net, open_nodes(net, 2):
        net.names[NAME] = [addr_at(net, 0)]
        async with DHTManager(net.host(50), bootstrap=[NAME]) as node:
            assert await node.find_peer(peer_id_of(1))


async def test_joining_and_connecting_by_name_take_whoever_is_there(autojump_clock):
    async with memory_net() as net, open_nodes(net, 2):
        net.names[NAME] = [f"/ip4/127.0.0.1/tcp/1/p2p/{peer_id_of(99)}", addr_at(net, 1)]
        net.dead.add(peer_id_of(99))
        async with DHTManager(net.host(50)) as node:
            with trio.fail_after(1):  # nobody waits for the one that is silent
                assert peer_id_of(1) == await node.connect(NAME)
            assert await node.bootstrap([NAME]) == 1
            for call in (node.connect, lambda name: node.bootstrap([name])):
                with pytest.raises(NetworkError, match=r"gone\.test lists nobody"):
                    await call("/dnsaddr/gone.test")
            net.names[NAME] = [addr_at(net, 50)]
            with pytest.raises(DialError, match="nobody else is listed there"):
                await node.connect(NAME)


async def test_a_node_that_joins_by_a_name_of_the_public_dns_is_a_public_one(autojump_clock):
    async with memory_net() as net:
        names = [("/dnsaddr/seeds.example", True), (NAME, False)]
        for number, (name, public) in enumerate(names):
            async with DHTManager(net.host(60 + number), bootstrap=[name]) as node:
                assert public == node._main.public
