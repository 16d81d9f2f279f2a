"""Nodes over the memory network: the whole of core, wire, store and node, without libp2p."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio
import trio.testing
from multiaddr import Multiaddr

from codio_dht import DHTConfig, DHTManager, PeerId, PeerInfo
from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import distance, key_of
from codio_dht.core.lookup_states import Ended, LookupEvent, Standing, StopReason
from codio_dht.core.messages import AddProvider, FindNode, GetProviders, PeerEntry, Ping, Reply
from codio_dht.core.multihash import multihash_of
from codio_dht.errors import DialError, NoPeersError, NotRunningError, UsageError
from codio_dht.params import KAD_PROTOCOL
from codio_dht.wire.codec import decode_reply, encode_request
from codio_dht.wire.framing import FrameReader
from memory_host import peer_id_of
from nodes import full_addr, host_of, memory_net, open_nodes, settle, soon, until

CID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
OTHER_CID = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"


async def ask(host, peer_id, *requests) -> list[Reply]:
    """Raw requests on one stream, all written at once; the replies as they come, decoded."""
    stream = await host.open_stream(peer_id, KAD_PROTOCOL, soon())
    await stream.write(b"".join(encode_request(request) for request in requests))
    await stream.close_write()
    reader, replies = FrameReader(), []
    while data := await stream.read(1 << 16):
        reader.feed(data)
        while (payload := reader.next_frame()) is not None:
            replies.append(decode_reply(payload))
    return replies


async def holders(nodes: list[DHTManager], cid: str) -> int:
    """How many nodes name a provider, asked over the wire by a stranger."""
    net = host_of(nodes[0]).net
    stranger = net.host(9_999)
    named = 0
    for node in nodes:
        await stranger.connect(node.peer_id, node.addrs, soon())
        [reply] = await ask(stranger, node.peer_id, GetProviders(multihash_of(cid)))
        named += bool(reply.provider_peers)
    return named


# --- the four scenarios ---------------------------------------------------------------------------


async def test_of_three_nodes_one_provides_and_another_finds_it(autojump_clock):
    async with memory_net(0.05) as net, open_nodes(net, 3) as nodes:
        await settle(nodes, 2)
        await nodes[1].provide(CID)
        [found] = await nodes[2].find_providers(CID)
        assert found == PeerInfo(nodes[1].peer_id, nodes[1].addrs)


async def test_after_one_provide_at_least_twenty_of_twenty_five_nodes_hold_the_record(
    autojump_clock,
):
    async with memory_net(0.05) as net, open_nodes(net, 25) as nodes:
        await settle(nodes, 20)
        result = await nodes[7].provide(CID, quorum=20)
        assert result.holders == 20
        assert result.confirmed == 20
        assert await holders(nodes, CID) >= 20


async def test_a_bootstrap_node_and_five_others_all_discover_each_other(autojump_clock):
    async with memory_net(0.05) as net, open_nodes(net, 6) as nodes:
        await settle(nodes, 5)
        for node in nodes:
            others = {other.peer_id for other in nodes} - {node.peer_id}
            assert others == set(node.routing_table_peers())


async def test_ten_nodes_find_the_closest_to_a_random_key_in_xor_order(autojump_clock):
    async with memory_net(0.05) as net, open_nodes(net, 10) as nodes:
        await settle(nodes, 9)
        key = random.Random(4).randbytes(32)
        for node in nodes:
            expected = sorted(
                (other.peer_id for other in nodes if other is not node),
                key=lambda peer: distance(peer.key, key_of(key)),
            )
            assert expected == [info.peer_id for info in await node.find_closest_peers(key)]
            assert expected == node.get_closest_peers(key)


# --- the server -----------------------------------------------------------------------------------


@pytest.mark.conformance("c04")
async def test_many_requests_on_one_stream_are_answered_in_order(autojump_clock):
    async with memory_net() as net, open_nodes(net, 2) as [server, client]:
        await settle([server, client], 1)
        keys = [b"key %d" % number for number in range(200)]
        replies = await ask(host_of(client), server.peer_id, *[GetProviders(key) for key in keys])
        assert keys == [reply.key for reply in replies]


@pytest.mark.conformance("c04")
async def test_a_stream_without_a_request_for_a_minute_is_reset(autojump_clock):
    async with memory_net() as net, open_nodes(net, 2) as [server, client]:
        await settle([server, client], 1)
        host = host_of(client)
        stream = await host.open_stream(server.peer_id, KAD_PROTOCOL, soon())
        await stream.write(encode_request(Ping()))
        assert await stream.read(1 << 16)
        await trio.sleep(59)
        assert not stream.broken
        await trio.sleep(2)
        assert stream.broken


@pytest.mark.conformance("c05")
async def test_an_end_right_after_opening_is_a_normal_end(autojump_clock):
    async with memory_net() as net, open_nodes(net, 2) as [server, client]:
        await settle([server, client], 1)
        assert await ask(host_of(client), server.peer_id) == []
        resets = [name for name in server.stats().served if name.startswith("reset")]
        assert resets == []


@pytest.mark.conformance("c02")
@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00",
        b"\xff\xff\xff\xff\x0f",
        b"\x80" * 11,
        b"\x05abc",
        b"\x03\xff\xff\xff",
        b"\x02\x08\x63",
        bytes(range(256)),
    ],
    ids=["empty", "too long", "varint", "truncated", "protobuf", "unknown type", "random"],
)
async def test_a_bad_frame_resets_the_stream_and_nothing_else(autojump_clock, garbage):
    async with memory_net() as net, open_nodes(net, 2) as [server, client]:
        await settle([server, client], 1)
        host, table = host_of(client), server.routing_table_peers()
        stream = await host.open_stream(server.peer_id, KAD_PROTOCOL, soon())
        await stream.write(garbage)
        await stream.close_write()
        with trio.fail_after(5), pytest.raises(Exception, match="reset"):
            await stream.read(1 << 16)
        assert host.is_connected(server.peer_id)
        assert table == server.routing_table_peers()
        [reply] = await ask(host, server.peer_id, FindNode(b"x"))
        assert reply.closer_peers == ()
        assert server.stats().failures == {}


@pytest.mark.conformance("c08")
async def test_add_provider_is_not_answered_and_the_next_request_is_at_once(autojump_clock):
    async with memory_net() as net, open_nodes(net, 2) as [server, client]:
        await settle([server, client], 1)
        host = host_of(client)
        entry = PeerEntry(host.peer_id, (host.addrs[0].to_bytes(),))
        key = multihash_of(CID)
        replies = await ask(host, server.peer_id, AddProvider(key, (entry,)), GetProviders(key))
        assert len(replies) == 1
        assert [key] == [reply.key for reply in replies]
        assert [host.peer_id] == [peer.peer_id for peer in replies[0].provider_peers]


async def test_a_record_that_is_only_on_disk_is_answered_from_there(autojump_clock):
    async with memory_net() as net, open_nodes(net, 2) as [server, client]:
        await settle([server, client], 1)
        await client.provide(CID)
        await trio.sleep(5)
        node = server._node
        node.shared.records._cache.clear()
        replies = await ask(
            host_of(client),
            server.peer_id,
            *[GetProviders(multihash_of(cid)) for cid in (CID, OTHER_CID, CID)],
        )
        assert [1, 0, 1] == [len(reply.provider_peers) for reply in replies]


# --- the client -----------------------------------------------------------------------------------


@pytest.mark.conformance("c14")
async def test_a_hung_server_is_tried_twice_and_the_lookup_goes_on(autojump_clock):
    async with memory_net(0.01) as net, open_nodes(net, 6) as nodes:
        await settle(nodes, 5)
        client, hung = host_of(nodes[0]), nodes[3].peer_id
        net.mute.add(hung)
        await nodes[0]._node.main.rpc.aclose()
        client.opened.clear()
        began = trio.current_time()
        closest = await nodes[0].find_closest_peers(b"some key")
        assert trio.current_time() - began < 25
        standing = {info.peer_id: info.standing for info in closest}
        assert standing.pop(hung) is Standing.ALIVE  # it answered a moment ago
        assert [*standing.values()] == [Standing.ANSWERED] * 4

        await until(lambda: hung not in nodes[0].routing_table_peers())  # its request goes on
        assert trio.current_time() - began <= 25.2
        assert client.opened[hung] >= 2


async def test_the_watcher_of_a_lookup_is_told_last_why_it_ended(autojump_clock):
    async with memory_net(0.05) as net, open_nodes(net, 3) as nodes:
        await settle(nodes, 2)
        told: list[LookupEvent] = []
        await nodes[0].find_closest_peers(b"key", told.append)
        assert told[-1] == Ended(Monotonic(trio.current_time()), StopReason.COMPLETED, 2)
        assert [event for event in told if isinstance(event, Ended)] == told[-1:]
    async with memory_net() as net, open_nodes(net, 1) as [alone]:
        told = []
        with pytest.raises(NoPeersError):
            await alone.find_closest_peers(b"key", told.append)
        assert told == [Ended(Monotonic(trio.current_time()), StopReason.NO_PEERS, 0)]


async def test_a_stream_is_reused_for_request_after_request(autojump_clock):
    async with memory_net() as net, open_nodes(net, 2) as [server, client]:
        await settle([server, client], 1)
        host = host_of(client)
        await client._node.main.rpc.aclose()
        before = host.opened[server.peer_id]
        for _ in range(20):
            await client.find_closest_peers(b"key")
        assert host.opened[server.peer_id] == before + 1


@pytest.mark.conformance("c35")
async def test_a_lookup_with_an_empty_table_fails_at_once(autojump_clock):
    async with memory_net() as net, open_nodes(net, 1) as [alone]:
        began = trio.current_time()
        for call in (
            alone.find_closest_peers(b"key"),
            alone.find_providers(CID),
            alone.find_peer(peer_id_of(77)),
            alone.provide_once(CID),
        ):
            with pytest.raises(NoPeersError, match="empty"):
                await call
        assert trio.current_time() == began


@pytest.mark.conformance("c36")
async def test_a_failed_dial_evicts_and_an_answer_admits(autojump_clock):
    async with memory_net(0.01) as net, open_nodes(net, 4) as nodes:
        await settle(nodes, 3)
        first, victim = nodes[0], nodes[2].peer_id
        await host_of(first).disconnect(victim)
        net.dead.add(victim)
        await first.find_closest_peers(victim.to_bytes())
        await trio.sleep(15)
        assert victim not in first.routing_table_peers()
        net.dead.discard(victim)
        await nodes[2].connect(full_addr(host_of(first)))
        await first.find_closest_peers(victim.to_bytes())
        await trio.sleep(1)  # it failed not long ago: the lookup need not wait for its answer
        assert victim in first.routing_table_peers()


@pytest.mark.conformance("c38")
async def test_an_unreachable_peer_is_given_up_long_before_the_deadline(autojump_clock):
    async with memory_net(0.01) as net, open_nodes(net, 8) as nodes:
        await settle(nodes, 7)
        began = trio.current_time()
        assert await nodes[0].find_peer(peer_id_of(77)) == []
        assert trio.current_time() - began < 10


@pytest.mark.conformance("c38")
async def test_a_dead_peer_that_all_know_does_not_hang_the_search_for_it(autojump_clock):
    config = DHTConfig(dial_timeout=50.0)
    async with memory_net(0.01) as net, open_nodes(net, 8, config=config) as nodes:
        await settle(nodes, 7)
        client, target = nodes[0], nodes[5].peer_id
        net.dead.add(target)
        await host_of(client).disconnect(target)
        bad = PeerEntry(target, (b"\x04bad", b"", b"\xff" * 9))
        client._node.main.network.learn([bad], target, soon())
        began = trio.current_time()
        assert await client.find_peer(target) == nodes[5].addrs  # it was dialled, so it is told
        assert trio.current_time() - began < 10


async def test_a_lookup_ends_at_its_timeout_whatever_the_peers_do(autojump_clock):
    config = DHTConfig(query_timeout=2.0)
    async with memory_net(0.01) as net, open_nodes(net, 8, config=config) as nodes:
        await settle(nodes, 7)
        net.mute.update(node.peer_id for node in nodes[1:])
        began = trio.current_time()
        assert await nodes[0].find_closest_peers(b"key") == []
        assert trio.current_time() - began == pytest.approx(2.0)


@pytest.mark.conformance("c43")
async def test_a_cancelled_lookup_leaves_no_stream_open(autojump_clock):
    async with memory_net(0.5) as net, open_nodes(net, 8) as nodes:
        await settle(nodes, 7)
        await trio.sleep(30)
        host = host_of(nodes[0])
        await nodes[0]._node.main.rpc.aclose()
        with trio.move_on_after(0.7) as scope:
            await nodes[0].find_closest_peers(b"key")
        assert scope.cancelled_caught
        await trio.testing.wait_all_tasks_blocked()
        assert nodes[0].stats().pending_queries == 0
        assert host.open_streams == len(nodes[0]._node.main.rpc._pool)


# --- providing ------------------------------------------------------------------------------------


async def test_a_record_that_a_peer_took_before_it_reset_the_stream_counts(autojump_clock):
    async with memory_net() as net, open_nodes(net, 2) as nodes:
        await settle(nodes, 1)
        net.reset_on_end.add(nodes[1].peer_id)  # as js does
        result = await nodes[0].provide(CID)
        assert (result.holders, result.attempted) == (1, 1)
        [found] = await nodes[1].find_providers(CID)
        assert found.peer_id == nodes[0].peer_id


async def test_a_holder_that_cannot_be_reached_is_replaced_by_the_next_closest(autojump_clock):
    async with memory_net(0.01) as net, open_nodes(net, 25) as nodes:
        await settle(nodes, 24)
        client = nodes[0]
        closest = [info.peer_id for info in await client.find_closest_peers(multihash_of(CID))]
        refusing = closest[3]
        victim = next(node for node in nodes if node.peer_id == refusing)
        victim._node.main.server.responder._records = (
            None  # refuses provider records, answers lookups
        )
        result = await client.provide(CID, quorum=20)
        assert (result.holders, result.attempted) == (20, 21)


async def test_a_key_is_provided_again_before_its_records_expire(autojump_clock):
    config = DHTConfig(provider_timeout=3600, republish_interval=1800)
    async with memory_net(0.01) as net, open_nodes(net, 3, config=config) as nodes:
        await settle(nodes, 2)
        await nodes[0].provide(CID)
        for _ in range(5):
            await trio.sleep(1700)
            assert len(await nodes[2].find_providers(CID)) == 1
        assert await nodes[0].stop_providing(CID) is True
        assert await nodes[0].stop_providing(CID) is False
        await trio.sleep(3700)
        assert await nodes[2].find_providers(CID) == []


async def test_providers_are_streamed_and_leaving_the_loop_ends_the_search(autojump_clock):
    async with memory_net(0.2) as net, open_nodes(net, 8) as nodes:
        await settle(nodes, 7)
        for node in nodes[1:4]:
            await node.provide(CID)
        seen = []
        stream = nodes[6].iter_providers(CID)
        async for info in stream:
            seen.append(info.peer_id)
            if len(seen) == 2:
                break
        assert len(set(seen)) == 2
        search = stream.findings
        del stream
        await until(lambda: search.over)
        assert search.scope.cancelled_caught
        assert nodes[6].stats().failures == {}


async def test_a_provider_knows_of_itself(autojump_clock):
    async with memory_net() as net, open_nodes(net, 2) as nodes:
        await settle(nodes, 1)
        await nodes[0].provide(CID)
        assert [nodes[0].peer_id] == [info.peer_id for info in await nodes[0].find_providers(CID)]
        [reply] = await ask(host_of(nodes[1]), nodes[0].peer_id, GetProviders(multihash_of(CID)))
        assert [nodes[0].peer_id] == [entry.peer_id for entry in reply.provider_peers]


async def test_what_is_provided_before_anybody_is_there_is_announced_later(autojump_clock):
    async with memory_net(0.01) as net, open_nodes(net, 1) as [early]:
        with pytest.raises(NoPeersError):
            await early.provide(CID)
        assert len(await early.own_keys()) == 1
        async with open_nodes(net, 2, first=1) as later:
            await settle([early, *later], 2)
            with trio.fail_after(24 * 3600):  # the back-off may have grown meanwhile
                while not any([await node.provider_records(CID) for node in later]):
                    await trio.sleep(60)


# --- life and modes -------------------------------------------------------------------------------


async def test_a_client_is_not_in_anybodys_table_and_still_finds(autojump_clock):
    async with memory_net() as net, open_nodes(net, 3) as servers:
        await settle(servers, 2)
        seed = full_addr(host_of(servers[0]))
        host = net.host(50)
        async with DHTManager(host, bootstrap=[seed], mode="client") as client:
            await settle([client], 3)
            await servers[1].provide(CID)
            assert len(await client.find_providers(CID)) == 1
            assert all(client.peer_id not in node.routing_table_peers() for node in servers)


async def test_a_node_outside_of_its_block_says_so(autojump_clock):
    async with memory_net() as net:
        node = DHTManager(net.host(1))
        with pytest.raises(NotRunningError, match="async with"):
            node.stats()
        async with node:
            node.stats()
        with pytest.raises(NotRunningError, match="async with"):
            node.routing_table_peers()


async def test_bootstrapping_through_nobody_says_so(autojump_clock):
    async with memory_net() as net, open_nodes(net, 1) as [node]:
        with pytest.raises(DialError, match="none of the 1 bootstrap peers"):
            await node.bootstrap([f"/ip4/127.0.0.1/tcp/1/p2p/{peer_id_of(5)}"])


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda dht: dht.provide("no cid"), "cid"),
        (lambda dht: dht.find_providers(CID, count=0), "count"),
        (lambda dht: dht.find_peer("no peer"), "peer_id"),
        (lambda dht: dht.find_closest_peers("text"), "key"),
        (lambda dht: dht.find_closest_peers(b""), "key"),
        (lambda dht: dht.bootstrap("/ip4/127.0.0.1/tcp/1"), "addrs"),
        (lambda dht: dht.bootstrap(["/ip4/127.0.0.1/tcp/1"]), "addrs"),
        (lambda dht: dht.connect("/ip4/127.0.0.1"), "addr"),
        (lambda dht: dht.ping(17), "peer_id"),
    ],
)
async def test_a_wrong_argument_raises_at_once_and_names_it(autojump_clock, call, named):
    async with memory_net() as net, open_nodes(net, 1) as [node]:
        with pytest.raises(UsageError, match=named):
            await call(node)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"mode": "both"}, "mode"),
        ({"bootstrap": "default"}, "bootstrap"),
        ({"bootstrap": ["default", "nonsense"]}, "bootstrap"),
        ({"data_dir": 5}, "data_dir"),
        ({"listen": "/ip4/127.0.0.1/tcp/0"}, "listen"),
        ({"listen": ["nonsense"]}, "listen"),
        ({"announce": [17]}, "announce"),
        ({"announce": ["/ip4/192.0.2.1/tcp/0"]}, "announce: .* has port 0"),
        ({"append_announce": ["/ip4/192.0.2.1"]}, "append_announce: .* has no transport"),
        ({"config": {"alpha": 3}}, "config"),
    ],
)
def test_open_refuses_a_wrong_argument_by_name(arguments, named):
    with pytest.raises(UsageError, match=named):
        DHTManager.open(**arguments)


async def test_peers_may_be_given_as_text_bytes_or_either_type(autojump_clock):
    async with memory_net() as net, open_nodes(net, 3) as nodes:
        await settle(nodes, 2)
        target = nodes[1].peer_id
        for form in (target, str(target), target.to_bytes(), target.to_libp2p()):
            assert nodes[1].addrs == await nodes[0].find_peer(form)
        assert isinstance(nodes[0].peer_id, PeerId)
        assert isinstance(nodes[0].addrs[0], Multiaddr)


@pytest.mark.parametrize("name", ["announce", "append_announce"])
async def test_an_address_of_another_peer_is_not_announced(name):
    addrs: dict[str, Any] = {name: [f"/ip4/192.0.2.1/tcp/4001/p2p/{peer_id_of(5)}"]}
    with pytest.raises(UsageError, match=f"{name}: .* ends in the id of another peer"):
        async with DHTManager.open(listen=["/ip4/127.0.0.1/tcp/0"], **addrs):
            pass


async def test_what_is_announced_beside_is_told_with_what_is_listened_on():
    beside = "/dns4/node.example.com/tcp/4001"
    async with DHTManager.open(listen=["/ip4/127.0.0.1/tcp/0"], append_announce=[beside]) as node:
        first, *rest = map(str, node.addrs)
        assert first.startswith("/ip4/127.0.0.1/tcp/")
        assert [beside] == rest
