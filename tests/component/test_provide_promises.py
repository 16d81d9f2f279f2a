"""What a node hands out when it provides, that stopping ends it, and what it knows by itself."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from multiaddr import Multiaddr

from codio_dht import DHTConfig, DHTManager
from codio_dht.core.clock import Monotonic
from codio_dht.core.messages import AddProvider, FailureReason
from codio_dht.core.sweep import RECONNECT_CHECK_S
from codio_dht.errors import NoPeersError
from codio_dht.node.arguments import multihash_of
from codio_dht.params import K
from codio_dht.wire.codec import decode_request
from codio_dht.wire.framing import FrameReader
from hostile_host import lab_node, plant
from keepers import client_of, keepers
from memory_host import MemoryNet, peer_id_of
from nodes import full_addr, host_of, memory_net, open_nodes, settle, until
from test_node_wiring import opened, provide_from
from test_provided_to import OTHER_CID, die

CID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
KEY = multihash_of(CID)
LAN, LOOPBACK = Multiaddr("/ip4/192.168.1.2/tcp/1"), Multiaddr("/ip4/127.0.0.1/tcp/1")
WAN, WAN_2 = Multiaddr("/ip4/9.9.9.9/tcp/1"), Multiaddr("/ip4/9.9.9.10/tcp/1")


def watch_records(node: DHTManager) -> list[AddProvider]:
    """The provider records that ``node`` hands out from now on."""
    rpc = node._node.main.rpc
    give, give_all, records = rpc.give, rpc.give_all, []

    async def watched(peer, request, deadline):
        records.append(request)
        return await give(peer, request, deadline)

    async def all_watched(peer, frames, deadline):
        for frame in frames():
            reader = FrameReader()
            reader.feed(frame)
            payload = reader.next_frame()
            assert payload is not None
            records.append(decode_request(payload))
        return await give_all(peer, frames, deadline)

    rpc.give, rpc.give_all = watched, all_watched
    return records


@asynccontextmanager
async def public_pair(net: MemoryNet):
    """A node of the public network, and a server that it knows."""
    async with opened(net, 1, "/ip4/8.8.8.8/tcp/4001", mode="server") as server:
        seed = full_addr(host_of(server))
        async with opened(net, 2, str(WAN), bootstrap=[seed]) as node:
            await settle([node], 1)
            yield node


# --- addresses ------------------------------------------------------------------------------------


async def test_a_provider_record_on_the_public_network_names_public_addresses_only(autojump_clock):
    async with memory_net() as net, public_pair(net) as node:
        host_of(node).addrs = (LOOPBACK, LAN, WAN, WAN_2)
        records = watch_records(node)
        await node.provide(CID)
        [entry] = [entry for record in records for entry in record.providers]
        assert (node.peer_id, (WAN.to_bytes(), WAN_2.to_bytes())) == (entry.peer_id, entry.addrs)


async def test_a_node_without_an_address_to_tell_says_so_and_provides_once_it_has_one(
    autojump_clock,
):
    async with memory_net() as net, public_pair(net) as node:
        host_of(node).addrs = (LOOPBACK, LAN)
        records = watch_records(node)
        with pytest.raises(
            NoPeersError, match=r"no public address to tell others, only .*192\.168\.1\.2"
        ):
            await node.provide(CID)
        assert (1, []) == (node.stats().own_keys, records)
        host_of(node).addrs = (LAN, WAN)
        await until(lambda: bool(records))
        assert {entry.addrs for record in records for entry in record.providers} == {
            (WAN.to_bytes(),)
        }


async def test_a_provider_record_on_a_private_network_names_all_addresses(autojump_clock):
    async with memory_net() as net, open_nodes(net, 2) as [_, node]:
        await settle([node], 1)
        host_of(node).addrs = (LOOPBACK, LAN)
        records = watch_records(node)
        await node.provide(CID)
        [entry] = [entry for record in records for entry in record.providers]
        assert (LOOPBACK.to_bytes(), LAN.to_bytes()) == entry.addrs


# --- stopping -------------------------------------------------------------------------------------


async def test_stopping_ends_the_delivery_that_goes_on_after_the_quorum(autojump_clock):
    async with keepers(0.02) as peers, client_of(peers) as client:
        deliveries = client._node.main.deliveries
        await die(client, 2)  # so that others get it in their place, later
        result = await client.provide(CID)
        assert result.pending > 0
        assert await client.stop_providing(CID)
        told = len(peers.holding)
        await trio.sleep(3_600)
        assert told == len(peers.holding) < K
        assert (deliveries.running, client.stats().own_keys, client.stats().failures) == (0, 0, {})


async def test_stopping_ends_a_provide_that_somebody_still_waits_for(autojump_clock):
    async with keepers(0.2) as peers, client_of(peers) as client:
        results = []

        async def provide() -> None:
            results.append(await client.provide(CID))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(provide)
            await trio.sleep(0.3)
            assert await client.stop_providing(CID)
            with trio.fail_after(1):
                while not results:
                    await trio.sleep(0.01)
        [result] = results
        assert (result.pending, result.holders < K) == (0, True)
        told = len(peers.holding)
        await trio.sleep(3_600)
        assert told == len(peers.holding)
        assert client.stats().own_keys == 0


@pytest.mark.conformance("c60")
async def test_stopping_withdraws_a_key_from_the_sweep_and_no_other_key(autojump_clock):
    config = DHTConfig(republish_interval=3_600)
    async with keepers(0.2) as peers, client_of(peers, config=config) as client:
        deliveries, sweeping = client._node.main.deliveries, client._node.providing.sweeping
        for cid in (CID, OTHER_CID):
            await client.provide(cid)
        while deliveries.running:
            await trio.sleep(0.1)
        before = {own.key: own.last_provided for own in await client.own_keys()}
        records = watch_records(client)
        with trio.fail_after(2 * 3_600):
            while not sweeping._pages:
                await trio.sleep(0.05)
        assert await client.stop_providing(CID)
        assert records == []
        with trio.fail_after(60):
            while sweeping._pages:
                await trio.sleep(0.1)
        assert {record.key for record in records} == {multihash_of(OTHER_CID)}
        assert len(records) == K
        [own] = await client.own_keys()
        assert (own.key, own.last_provided) > (multihash_of(OTHER_CID), before[own.key])
        assert client.stats().failures == {}


async def test_stopping_a_key_that_is_not_kept_ends_nothing(autojump_clock):
    async with keepers(0.02) as peers, client_of(peers) as client:
        await client.provide_once(CID, quorum=1)
        assert not await client.stop_providing(CID)
        await until(lambda: len(peers.holding) == K)


# --- thin keys ------------------------------------------------------------------------------------


async def test_a_key_provided_to_few_is_provided_again_within_seconds_of_meeting_more(
    autojump_clock,
):
    async with keepers(0.02) as peers, lab_node(peers.net) as node:
        for host in peers.hosts[3:]:
            peers.net.dead.add(host.peer_id)  # named by the others, and not there yet
        await plant(node, peers.hosts[:3])
        await node.provide(CID)
        while node._node.main.deliveries.running:
            await trio.sleep(0.1)
        assert len(set(peers.holding)) == 3
        await trio.sleep(100)
        assert len(peers.holding) == 3

        peers.net.dead.clear()
        await plant(node, peers.hosts)
        await trio.sleep(RECONNECT_CHECK_S + 5)
        assert len(set(peers.holding)) >= K


# --- what is known here ---------------------------------------------------------------------------


async def test_providers_known_here_are_found_though_there_is_nobody_to_ask(autojump_clock):
    provider = peer_id_of(2)
    async with memory_net() as net, opened(net, 9) as alone:
        with pytest.raises(NoPeersError):
            await alone.find_providers(CID)
        provide_from(alone, provider, (WAN.to_bytes(),))

        [found] = await alone.find_providers(CID)
        assert (provider, [WAN]) == (found.peer_id, found.addrs)
        assert [provider] == [each.peer_id async for each in alone.iter_providers(CID)]


async def test_a_key_that_this_node_provides_is_found_though_there_is_nobody_to_ask(
    autojump_clock,
):
    async with memory_net() as net, opened(net, 9) as alone:
        with pytest.raises(NoPeersError):
            await alone.provide(CID)
        assert [alone.peer_id] == [each.peer_id for each in await alone.find_providers(CID)]


async def test_providers_known_here_are_found_though_the_last_peer_leaves_before_it_is_asked(
    autojump_clock,
):
    async with memory_net() as net, open_nodes(net, 2) as [other, node]:
        await settle([node], 1)
        provide_from(node, peer_id_of(2), (WAN.to_bytes(),))
        main = node._node.main

        async def left(_deadline) -> None:
            main.network.table.remove(other.peer_id)
            unreachable, now = FailureReason.UNREACHABLE, Monotonic(trio.current_time())
            main.network.health.failed(other.peer_id, unreachable, now)

        main.lookups.wait_for_peers = left
        assert [peer_id_of(2)] == [each.peer_id for each in await node.find_providers(CID)]
