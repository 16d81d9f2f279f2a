"""What a whole node keeps to, by whichever part: policies, lives of what it tells, a tidy end."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from multiaddr import Multiaddr

from codio_dht import DHTConfig, DHTManager
from codio_dht.core.messages import AddProvider, FindNode, GetProviders, PeerEntry, Reply, Request
from codio_dht.core.peer import PeerId
from codio_dht.net.host import PeerIdentified
from codio_dht.node.arguments import multihash_of
from codio_dht.node.clock import Clock
from codio_dht.params import (
    KAD_PROTOCOL,
    PROVIDER_ADDR_TTL_S,
    PROVIDER_TTL_PUBLIC_S,
    STREAM_IDLE_TIMEOUT_S,
)
from memory_host import MemoryHost, MemoryNet, peer_id_of
from nodes import EPOCH, ask, full_addr, host_of, memory_net, open_nodes, settle, soon, until

CID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
KEY = multihash_of(CID)
PUBLIC_HOST = "/ip4/8.8.8.8/tcp/4001"
LAN, WAN = Multiaddr("/ip4/192.168.1.2/tcp/1"), Multiaddr("/ip4/9.9.9.9/tcp/1")
BOTH = (LAN.to_bytes(), WAN.to_bytes())


def opened(net: MemoryNet, number: int, addr: str | None = None, **settings) -> DHTManager:
    clock = Clock(lambda: EPOCH + trio.current_time())
    return DHTManager(net.host(number, addr), clock=clock, **settings)


def answer(node: DHTManager, asker: PeerId, request: Request) -> Reply:
    parts = node._node
    reply = parts.main.server.responder.respond(asker, request, parts.shared.clock.now())
    assert isinstance(reply, Reply)
    return reply


def provide_from(node: DHTManager, provider: PeerId, addrs: tuple[bytes, ...]) -> None:
    parts = node._node
    request = AddProvider(KEY, (PeerEntry(provider, addrs),))
    parts.main.server.responder.respond(provider, request, parts.shared.clock.now())


# --- addresses ------------------------------------------------------------------------------------


async def test_a_public_node_tells_nobody_a_private_address(autojump_clock):
    asker, provider, server = peer_id_of(1), peer_id_of(2), peer_id_of(3)
    async with memory_net() as net, opened(net, 9, PUBLIC_HOST) as node:
        host_of(node)._tell(PeerIdentified(server, frozenset({KAD_PROTOCOL}), (LAN, WAN), "x"))
        await trio.testing.wait_all_tasks_blocked()
        provide_from(node, provider, BOTH)
        node._node.main.server.responder.set_own_addrs(BOTH)

        [told] = answer(node, asker, GetProviders(KEY)).provider_peers
        assert (provider, (WAN.to_bytes(),)) == (told.peer_id, told.addrs)
        for peer in (server, node.peer_id):
            [told] = answer(node, asker, FindNode(peer.to_bytes())).closer_peers
            assert (peer, (WAN.to_bytes(),)) == (told.peer_id, told.addrs)


async def test_a_public_node_keeps_few_peers_of_one_network_whatever_addresses_they_claim(
    autojump_clock,
):
    async with memory_net() as net, opened(net, 9, PUBLIC_HOST) as node:
        host, network = host_of(node), node._node.main.network
        for number in range(10, 20):
            await net.host(number, str(_near(number))).connect(host.peer_id, host.addrs, soon())
        await trio.testing.wait_all_tasks_blocked()
        for number in range(10, 20):
            network.book.identified(peer_id_of(number), [_claimed(number).to_bytes()], soon())
            network.answered(peer_id_of(number), soon())
        assert 3 == len(node.routing_table_peers())


async def test_a_node_of_a_private_network_keeps_peers_of_one_network_all(autojump_clock):
    async with memory_net() as net, opened(net, 9) as node:
        network = node._node.main.network
        for number in range(10, 20):
            network.book.identified(peer_id_of(number), [_near(number).to_bytes()], soon())
            network.answered(peer_id_of(number), soon())
        assert 10 == len(node.routing_table_peers())


def _claimed(number: int) -> Multiaddr:
    """An address that is alone in its IP group."""
    return Multiaddr(f"/ip4/{100 + number}.1.1.1/tcp/1")


def _near(number: int) -> Multiaddr:
    return Multiaddr(f"/ip4/77.88.{number}.1/tcp/1")


# --- lives ----------------------------------------------------------------------------------------


async def test_a_providers_address_is_not_told_after_its_life_although_its_record_is(
    autojump_clock,
):
    provider = peer_id_of(2)
    config = DHTConfig(provider_timeout=PROVIDER_TTL_PUBLIC_S)
    async with memory_net() as net, opened(net, 9, config=config) as node:
        provide_from(node, provider, BOTH)
        [found] = await node.find_providers(CID)
        assert (provider, [LAN, WAN]) == (found.peer_id, found.addrs)
        await trio.sleep(PROVIDER_ADDR_TTL_S + 1)
        [found] = await node.find_providers(CID)
        assert (provider, []) == (found.peer_id, found.addrs)


@pytest.mark.parametrize(
    ("bootstrap", "configured_h", "kept_h"),
    [([], 24, 24), (["default"], 24, 48), (["default"], 72, 72)],
)
async def test_records_are_kept_for_48_hours_at_least_on_the_public_network(
    autojump_clock, bootstrap, configured_h, kept_h
):
    config = DHTConfig(provider_timeout=configured_h * 3600)
    async with memory_net() as net, opened(net, 9, bootstrap=bootstrap, config=config) as node:
        assert kept_h * 3600 == node.stats().provider_ttl_s


# --- a peer that leaves ---------------------------------------------------------------------------


async def test_streams_to_a_peer_that_left_are_not_kept(autojump_clock):
    async with memory_net(0.01) as net, open_nodes(net, 2) as [first, second]:
        await settle([first, second], 1)
        rpc, host = second._node.main.rpc, host_of(second)
        await ask(second._node.main, first.peer_id, FindNode(b"x"))
        assert 1 == len(rpc._pool)
        await host.disconnect(first.peer_id)
        await trio.sleep(1)
        assert 0 == len(rpc._pool)


async def test_streams_to_a_peer_whose_end_was_not_told_are_closed_when_it_is_missed(
    autojump_clock,
):
    async with memory_net(0.01) as net, open_nodes(net, 2) as [first, second]:
        await settle([first, second], 1)
        rpc, host = second._node.main.rpc, host_of(second)
        await ask(second._node.main, first.peer_id, FindNode(b"x"))
        del host.peers[first.peer_id]  # the event was lost
        net.dead.add(first.peer_id)
        await trio.sleep(STREAM_IDLE_TIMEOUT_S * 10)
        assert 0 == len(rpc._pool)
        assert not second._node.main.network.book.is_connected(first.peer_id)


# --- the end --------------------------------------------------------------------------------------


async def test_the_routing_table_is_saved_also_when_the_program_is_cancelled(
    autojump_clock, tmp_path
):
    async with memory_net(0.01) as net, open_nodes(net, 3) as nodes:
        await settle(nodes, 2)
        seed = full_addr(host_of(nodes[0]))
        with trio.CancelScope() as program:
            async with opened(net, 40, data_dir=tmp_path, bootstrap=[seed]) as node:
                await settle([node], 3)
                program.cancel()
                await trio.sleep_forever()
        assert program.cancelled_caught
        async with opened(net, 40, data_dir=tmp_path) as node:
            await until(lambda: 3 == len(node.routing_table_peers()))


async def test_a_node_that_ends_lives_on_nowhere_in_its_host(autojump_clock):
    async with memory_net(0.01) as net, open_nodes(net, 2) as [first, _]:
        host = net.host(9)
        async with opened_on(host, first) as node:
            await settle([node], 1)
            assert KAD_PROTOCOL in host.factories
            assert any(host.tags.values())
        assert KAD_PROTOCOL not in host.factories
        assert not any(host.tags.values())
        assert [] == host._subscribers
        assert 0 == host.open_streams


def opened_on(host: MemoryHost, seed: DHTManager) -> DHTManager:
    return DHTManager(host, bootstrap=[full_addr(host_of(seed))])
