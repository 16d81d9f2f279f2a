"""A node among peers that keep no contract, as servers that it asks and as clients that ask it.

Every attack ends the same way: calls end in time, honest peers are found and served, nothing is
left open, nothing has grown past its bound, and no background work has failed.
"""

from __future__ import annotations

import random
from typing import Any, cast

import pytest
import trio
import trio.testing

from codio_dht import DHTConfig, params
from codio_dht.core.keyspace import key_of
from codio_dht.core.lookup import MAX_LOOKUP_PEERS
from codio_dht.core.lookup_states import Standing
from codio_dht.core.messages import (
    AddProvider,
    FindNode,
    GetProviders,
    MessageType,
    PeerEntry,
    Reply,
)
from codio_dht.core.multihash import multihash_of
from codio_dht.core.outage import OUTAGE_PROBE_INTERVAL_S
from codio_dht.core.peer_book import MAX_HEARD_PEERS, MAX_TOLD_PEERS
from codio_dht.core.search import MAX_PROVIDERS_PER_LOOKUP
from codio_dht.errors import StreamError, UsageError
from codio_dht.formats.protobuf import bytes_field
from codio_dht.formats.varint import encode_varint, length_prefixed
from codio_dht.node.server import MAX_REQUEST_BYTES
from codio_dht.params import KAD_PROTOCOL
from codio_dht.wire.codec import decode_reply, encode_reply, encode_request
from codio_dht.wire.framing import MAX_LARGE_FRAMES_BYTES, FrameReader, LargeFrames
from hostile_host import (
    answering,
    closer,
    entry_of,
    hostile,
    identify,
    lab_addr,
    lab_node,
    left_open,
    nothing_open,
    numbered_id,
    plant,
    request_of,
)
from memory_host import MemoryStream
from nodes import EPOCH, host_of, memory_net, open_nodes, settle, soon

CID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
KEY = multihash_of(CID)


# --- servers that answer our lookups --------------------------------------------------------------


async def _drip(stream):
    """One byte of a well-formed answer every nine seconds."""
    request = await request_of(stream)
    for byte in b"" if request is None else closer(request, [entry_of(1)]):
        await trio.sleep(9)
        stream.answer(bytes((byte,)))


async def _end_at_once(stream):
    stream.finish()


async def _reset_at_once(stream):
    stream.abort()


async def _reset_after_request(stream):
    await request_of(stream)
    stream.abort()


async def _end_after_request(stream):
    await request_of(stream)
    stream.finish()


async def _cut(stream, end):
    request = await request_of(stream)
    if request is not None:
        stream.answer(closer(request, [entry_of(1)])[:-3])
    end()


async def _reset_in_answer(stream):
    await _cut(stream, stream.abort)


async def _end_in_answer(stream):
    await _cut(stream, stream.finish)


async def _answer_before_request(stream):
    stream.answer(encode_reply(Reply(MessageType.FIND_NODE, closer_peers=(entry_of(1),))))
    await trio.sleep_forever()


async def _answer_late(stream):
    request = await request_of(stream)
    await trio.sleep(12)
    if request is not None:
        stream.answer(closer(request, [entry_of(1)]))
    await trio.sleep_forever()


async def _silent(stream):
    await trio.sleep_forever()


def _wrong_type(request):
    wrong = MessageType.PING if isinstance(request, FindNode) else MessageType.FIND_NODE
    return encode_reply(Reply(wrong, request.key))


def _echo(request):
    return encode_reply(Reply(MessageType.ADD_PROVIDER, request.key))


def _padded(request):
    """A well-formed answer of 4 MiB, nearly all of it in a field that nobody knows."""
    head = bytes((8, MessageType.FIND_NODE if isinstance(request, FindNode) else 3))
    padding = params.MAX_FRAME_BYTES - len(head) - 6
    return length_prefixed(head + bytes_field(999, bytes(padding)))


def _many_addresses(request):
    """4 MiB of readable addresses, each of hundreds of components."""
    address = b"\x04\x0a\x00\x00\x01" + encode_varint(301) * 500
    entry = bytes_field(1, entry_of(1).peer_id.to_bytes()) + bytes_field(2, address) * 120
    kind = MessageType.FIND_NODE if isinstance(request, FindNode) else MessageType.GET_PROVIDERS
    return length_prefixed(bytes((8, kind)) + bytes_field(8, entry) * 30)


def _garbage(request):
    return length_prefixed(random.Random(1).randbytes(300))


SCRIPTS = {
    "garbage": answering(_garbage),
    "a length without end": answering(lambda _: b"\xff" * 64),
    "a length of 5 MiB": answering(lambda _: encode_varint(5 << 20) + bytes(1000)),
    "an empty frame": answering(lambda _: b"\x00"),
    "4 MiB of padding": answering(_padded),
    "4 MiB of addresses": answering(_many_addresses),
    "another type": answering(_wrong_type),
    "an echo of ADD_PROVIDER": answering(_echo),
    "two answers": answering(lambda request: 2 * closer(request, [entry_of(1)])),
    "junk behind the answer": answering(lambda request: closer(request, []) + b"\x05ab"),
    "thousands of closer peers": answering(
        lambda request: closer(request, [entry_of(number) for number in range(10_000)])
    ),
    "a drip": _drip,
    "an end at once": _end_at_once,
    "a reset at once": _reset_at_once,
    "a reset after the request": _reset_after_request,
    "an end after the request": _end_after_request,
    "a reset in the answer": _reset_in_answer,
    "an end in the answer": _end_in_answer,
    "an answer before the request": _answer_before_request,
    "an answer after the deadline": _answer_late,
    "silence": _silent,
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
async def test_peers_that_break_the_protocol_do_not_keep_a_lookup_from_the_honest(
    autojump_clock, script
):
    async with memory_net(0.01) as net, open_nodes(net, 4) as honest:
        await settle(honest, 3)
        await honest[0].provide(CID)
        async with lab_node(net, through=honest) as node:
            await settle([node], 4)
            peers = [hostile(net, number, script) for number in range(100, 112)]
            await plant(node, peers)
            began = trio.current_time()
            found = await node.find_closest_peers(KEY)
            assert {each.peer_id for each in honest} <= {info.peer_id for info in found}
            assert honest[0].peer_id in [info.peer_id for info in await node.find_providers(CID)]
            assert (await node.provide(CID)).holders >= 4
            assert trio.current_time() - began < 60
            await nothing_open(node)
            assert node.stats().failures == {}


async def test_a_peer_that_accepts_streams_and_never_reads_costs_its_deadline_only(autojump_clock):
    async with memory_net(0.01) as net, open_nodes(net, 4) as honest:
        await settle(honest, 3)
        async with lab_node(net, through=honest) as node:
            await settle([node], 4)
            await plant(
                node,
                [hostile(net, number, _silent, never_reads=True) for number in range(100, 112)],
            )
            began = trio.current_time()
            found = await node.find_closest_peers(KEY)
            assert len([peer for peer in found if peer.standing is Standing.ANSWERED]) == 4
            assert (await node.provide(CID)).holders == 4
            assert trio.current_time() - began < 60
            await nothing_open(node)


async def test_a_stream_that_brought_the_wrong_type_is_not_used_again(autojump_clock):
    async with memory_net(0.01) as net, lab_node(net) as node:
        liar = hostile(net, 100, answering(_wrong_type))
        await plant(node, [liar])
        for _ in range(2):
            with pytest.raises(Exception, match="was told"):
                await node._node.main.rpc.request(liar.peer_id, FindNode(b"x"), soon())
        assert len(node._node.main.rpc._pool) == 0
        assert host_of(node).open_streams == 0


async def test_a_request_is_tried_again_on_a_new_connection_if_the_old_one_ended(autojump_clock):
    async with memory_net(0.01) as net, open_nodes(net, 2) as [node, server]:
        await settle([node], 1)
        await node.find_closest_peers(b"x")
        host = host_of(node)
        [kept] = node._node.main.rpc._pool._idle.values()
        host.peers.pop(server.peer_id)  # the peer is gone, and neither side has noticed
        connected = [True]  # what the host says once, before the stream breaks

        def is_connected(peer):
            return connected.pop() if connected else peer in host.peers

        host.is_connected = is_connected
        cast(MemoryStream, kept.stream).abort()
        reply = await node._node.main.rpc.request(server.peer_id, FindNode(b"y"), soon())
        assert reply.type is MessageType.FIND_NODE


class EndlessNet(dict[str, Any]):
    """Addresses of a net in which any number of hostile peers are at home, made when dialled."""

    def __init__(self, net, script):
        super().__init__(net.hosts)
        self.net = net
        self.script = script
        self.numbers = {}

    def get(self, addr, default=None):
        if addr in self.numbers and addr not in self:
            return hostile(self.net, self.numbers[addr], self.script)
        return super().get(addr, default)


@pytest.mark.parametrize("pause_s", [0.0, 2.9])
async def test_an_endless_walk_ends_within_its_bounds(autojump_clock, pause_s):
    """Every answer names forty peers nobody has heard of, nearer than all before."""
    async with memory_net() as net, lab_node(net) as node:
        target = key_of(KEY)
        numbers = sorted(range(20_000), key=lambda number: -(entry_of(number).peer_id.key ^ target))
        asked = 0

        def nearer(request):
            nonlocal asked
            asked += 1
            at = 40 * asked
            return closer(request, [entry_of(number) for number in numbers[at : at + 40]])

        async def script(stream):
            while (request := await request_of(stream)) is not None:
                await trio.sleep(pause_s)
                own = request.key != KEY  # a probe
                stream.answer(closer(request, [entry_of(1)]) if own else nearer(request))

        net.hosts = EndlessNet(net, script)
        net.hosts.numbers = {str(lab_addr(number)): number for number in numbers}
        await plant(node, [hostile(net, 30_000, script)])
        began = trio.current_time()
        await node.find_closest_peers(KEY)
        assert trio.current_time() - began <= params.QUERY_TIMEOUT_S
        assert asked <= MAX_LOOKUP_PEERS
        await nothing_open(node)
        stats = node._node.main.network.book.stats()
        assert stats.heard <= MAX_HEARD_PEERS
        assert stats.told <= MAX_TOLD_PEERS


async def test_closer_peers_that_are_us_themselves_or_dead_cost_little(autojump_clock):
    async with memory_net(0.01) as net, open_nodes(net, 4) as honest:
        await settle(honest, 3)
        async with lab_node(net, through=honest) as node:
            await settle([node], 4)
            gone = [entry_of(number) for number in range(50_000, 50_012)]
            net.dead.update(entry.peer_id for entry in gone[:6])

            def names(request):
                own = PeerEntry(node.peer_id, (node.addrs[0].to_bytes(),))
                liars = [entry_of(number) for number in range(100, 112)]
                return closer(request, [own, own, *liars, *gone])

            await plant(node, [hostile(net, n, answering(names)) for n in range(100, 112)])
            began = trio.current_time()
            found = [info.peer_id for info in await node.find_closest_peers(KEY)]
            assert trio.current_time() - began < 10
            assert {each.peer_id for each in honest} < set(found)
            assert node.peer_id not in found
            assert not {entry.peer_id for entry in gone} & set(found)
            assert node.peer_id not in node.routing_table_peers()


@pytest.mark.parametrize("count", [None, 15])
async def test_providers_by_the_million_with_hostile_addresses_are_cut_at_the_bound(
    autojump_clock, count
):
    told = 0
    addrs = (
        b"\x35\x05a/b.c",  # a name with a slash
        b"\x35\x02\xff\xfe",  # a name that is no text
        b"\x90\x03\x01/",  # a path
        random.Random(5).randbytes(900),
        b"\x04\x01\x02\x03",
        lab_addr(1).to_bytes(),
    )

    def swamp(request):
        nonlocal told
        if isinstance(request, FindNode):
            return closer(request, [entry_of(1)])
        told += 3_000
        peers = [PeerEntry(numbered_id(number), addrs) for number in range(told - 3_000, told)]
        reply = Reply(MessageType.GET_PROVIDERS, request.key, provider_peers=tuple(peers))
        return encode_reply(reply, budget=params.MAX_FRAME_BYTES - 100)

    async with memory_net() as net, lab_node(net) as node:
        await plant(node, [hostile(net, 90_000 + n, answering(swamp)) for n in range(20)])
        found = await node.find_providers(CID, count=count)
        streamed = [info async for info in node.iter_providers(CID, count=count)]
        for infos in (found, streamed):
            assert (count or 5_000) <= len(infos) <= (count or MAX_PROVIDERS_PER_LOOKUP)
            assert max(len(info.addrs) for info in infos) <= 3
        assert node.stats().failures == {}


# --- the caller's own mistakes --------------------------------------------------------------------


async def test_a_key_that_no_peer_would_read_is_refused_and_costs_no_peer_its_place(autojump_clock):
    async with memory_net(0.01) as net, open_nodes(net, 4) as nodes:
        await settle(nodes, 3)
        for size in (5 << 20, 4 << 20, 64 << 10):
            with pytest.raises(UsageError, match="key"):
                await nodes[0].find_closest_peers(bytes(size))
        assert len(nodes[0].routing_table_peers()) == 3


# --- peers that tell who they are -----------------------------------------------------------------


async def test_peers_that_flap_between_server_and_client_get_no_more_probes_than_others(
    autojump_clock,
):
    async with memory_net() as net, lab_node(net) as node:
        peers = [hostile(net, number, _silent) for number in range(100, 110)]
        for peer in peers:
            await host_of(node).connect(peer.peer_id, peer.addrs, soon())
        for _ in range(200):
            for peer in peers:
                identify(peer, node, [])
                identify(peer, node, [KAD_PROTOCOL])
            await trio.sleep(0.01)
        assert host_of(node).open_streams <= len(peers)
        assert node.stats().pending_queries <= len(peers)
        await trio.sleep(60)
        # All of the table being silent, it looks like an outage: one is probed at a time.
        at_once = params.PROBE_TIMEOUT_S / OUTAGE_PROBE_INTERVAL_S + 1
        # The own key is looked up now and then beside that, for the table is small.
        stats = node.stats()
        looked_up = left_open(node)["lookup slots"] * stats.routing_table_size
        assert stats.pending_queries - looked_up <= at_once


# --- clients that ask us --------------------------------------------------------------------------


async def _open(host, node):
    await host.connect(node.peer_id, node.addrs, soon())
    return await host.open_stream(node.peer_id, KAD_PROTOCOL, soon())


async def _drain():
    """Until nothing more happens at this moment."""
    await trio.testing.wait_all_tasks_blocked()


async def test_a_request_longer_than_any_honest_one_resets_its_stream(autojump_clock):
    async with memory_net() as net, lab_node(net) as node:
        stream = await _open(net.host(1), node)
        await stream.write(encode_varint(MAX_REQUEST_BYTES + 1) + bytes(100))
        await _drain()
        assert stream.broken
        [reply] = await ask(net.host(2), node, FindNode(b"x"))
        assert reply.type is MessageType.FIND_NODE


async def test_unfinished_large_answers_hold_no_more_than_their_bound(autojump_clock):
    async def begin_a_large_answer(stream):
        await request_of(stream)
        stream.answer(encode_varint(params.MAX_FRAME_BYTES) + bytes(3 << 20))
        await trio.sleep_forever()

    async with memory_net() as net, open_nodes(net, 3) as honest, lab_node(net) as node:
        large = node._node.main.rpc._large_replies = MostHeld()
        await plant(node, [hostile(net, number, begin_a_large_answer) for number in range(100)])
        await plant(node, [host_of(each) for each in honest])
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(node.find_closest_peers, b"key %d" % number)
        with trio.fail_after(600):
            while large.held:
                await trio.sleep(1)
        assert 40 << 20 < large.most <= MAX_LARGE_FRAMES_BYTES


class MostHeld(LargeFrames):
    """Remembers the most that was held at a time."""

    most = 0

    def count(self, counted, buffered):
        counts = super().count(counted, buffered)
        self.most = max(self.most, self.held)
        return counts


async def test_streams_that_are_opened_and_reset_leave_nothing_in_the_queue_of_loads(
    autojump_clock,
):
    async with memory_net() as net, lab_node(net) as node:
        storage = node._node.shared.storage
        client = net.host(1)
        await ask(client, node, *[_provided(client, b"key %d" % n) for n in range(300)])
        await storage.flush()
        node._node.shared.records._cache.clear()
        disk = trio.Event()
        call = storage.call

        async def hung_disk(function):
            await disk.wait()
            return await call(function)

        storage.call = hung_disk
        for number in range(300):
            stream = await _open(client, node)
            await stream.write(encode_request(GetProviders(b"key %d" % number)))
            await _drain()
            await stream.reset()
        await _drain()
        assert len(storage._wanted) <= 1  # the one that is under way
        disk.set()
        [reply] = await ask(client, node, GetProviders(b"key 7"))
        assert len(reply.provider_peers) == 1


async def test_streams_that_want_one_key_on_disk_share_one_load_and_nobody_else_waits(
    autojump_clock,
):
    async with memory_net() as net, lab_node(net) as node:
        storage, client = node._node.shared.storage, net.host(1)
        await ask(client, node, _provided(client, KEY))
        await storage.flush()
        node._node.shared.records._cache.clear()
        disk, call, loads = trio.Event(), storage.call, 0

        async def slow_disk(function):
            nonlocal loads
            loads += 1
            await disk.wait()
            return await call(function)

        storage.call = slow_disk
        streams = [await _open(client, node) for _ in range(1_000)]
        for stream in streams:
            await stream.write(encode_request(GetProviders(KEY)))
        await _drain()
        [reply] = await ask(net.host(2), node, FindNode(b"x"))
        assert reply.type is MessageType.FIND_NODE
        [reply] = await ask(net.host(2), node, GetProviders(b"not on disk"))
        assert reply.provider_peers == ()
        disk.set()
        for stream in streams:
            assert await stream.read(1 << 16)
        assert loads == 1


async def test_a_flood_of_records_is_bounded_and_refreshes_of_others_are_still_taken(
    autojump_clock,
):
    config = DHTConfig(max_provider_records=500)
    async with memory_net() as net, lab_node(net, config=config) as node:
        honest, attacker = net.host(1), net.host(2)
        await ask(honest, node, _provided(honest, KEY))
        await node._node.shared.storage.flush()
        began = trio.current_time()
        flood = [_provided(attacker, b"key %d" % number) for number in range(5_000)]
        with pytest.raises(StreamError):  # a refusal resets the stream, so the sender sees it
            await ask(attacker, node, *flood)
        assert node.stats().num_providers == 500
        await trio.sleep(3_600)
        assert node.stats().num_providers == 500
        await ask(honest, node, _provided(honest, KEY))
        await trio.sleep(5)
        [record] = await node.provider_records(KEY)
        assert record.timestamp >= EPOCH + began + 3_600
        assert node.stats().storage["refused_full"] == 1
        await trio.sleep(25 * 3_600)
        assert node.stats().num_providers == 0


async def test_a_key_with_100_000_providers_keeps_its_first_thousand_and_refreshes_them(
    autojump_clock,
):
    async with memory_net() as net, lab_node(net) as node:
        parts = node._node
        for number in range(100_000):
            entry = entry_of(number)
            parts.main.server.responder.respond(
                entry.peer_id, AddProvider(KEY, (entry,)), parts.shared.clock.now()
            )
            if number % 10_000 == 0:
                await parts.shared.storage.flush()
        await parts.shared.storage.flush()
        assert len(await node.provider_records(KEY)) == params.MAX_PROVIDERS_PER_KEY
        assert node.stats().num_providers == params.MAX_PROVIDERS_PER_KEY
        [first] = [entry_of(5)]
        await trio.sleep(60)
        parts.main.server.responder.respond(
            first.peer_id, AddProvider(KEY, (first,)), parts.shared.clock.now()
        )
        await parts.shared.storage.flush()
        parts.shared.records._cache.clear()
        times = {each.provider.peer_id: each.timestamp for each in await node.provider_records(KEY)}
        assert len(times) == params.MAX_PROVIDERS_PER_KEY
        assert times[first.peer_id] == max(times.values()) == min(times.values()) + 60


async def test_keys_of_up_to_80_bytes_and_few_addresses_are_kept(autojump_clock):
    async with memory_net() as net, lab_node(net) as node:
        client = net.host(1)
        addrs = tuple(lab_addr(number).to_bytes() for number in range(50_000))
        longest = b"\x12\x4e" + bytes(78)
        many = AddProvider(longest, tuple(PeerEntry(client.peer_id, addrs) for _ in range(4)))
        await ask(client, node, many, _provided(client, longest))
        [record] = await node.provider_records(longest)
        assert 0 < len(record.provider.addrs) <= params.MAX_ADDRS_PER_PEER
        with pytest.raises(StreamError):
            await ask(client, node, _provided(client, longest + b"k"))


async def test_requests_byte_by_byte_and_by_the_thousand_are_all_answered_in_order(autojump_clock):
    async with memory_net() as net, lab_node(net) as node:
        client = net.host(1)
        keys = [b"key %d" % number for number in range(5_000)]
        replies = await ask(client, node, *[GetProviders(key) for key in keys])
        assert keys == [reply.key for reply in replies]
        stream = await _open(client, node)
        for byte in encode_request(GetProviders(KEY)) * 3:
            await stream.write(bytes((byte,)))
        await stream.close_write()
        assert [KEY] * 3 == [reply.key for reply in await replies_on(stream)]


async def test_a_thousand_half_open_streams_of_one_peer_do_not_keep_others_waiting(autojump_clock):
    async with memory_net() as net, lab_node(net) as node:
        attacker = net.host(1)
        streams = [await _open(attacker, node) for _ in range(1_000)]
        for stream in streams:
            await stream.write(encode_request(FindNode(b"x"))[:-1])
        endless = await _open(attacker, node)
        await endless.write(encode_request(GetProviders(KEY)) * 20_000)
        began = trio.current_time()
        turns = node._node.main.server.counters["GetProviders"]
        [reply] = await ask(net.host(2), node, FindNode(b"y"))
        assert reply.type is MessageType.FIND_NODE
        assert trio.current_time() == began
        assert node._node.main.server.counters["GetProviders"] - turns < 20_000
        await trio.sleep(61)
        assert all(stream.broken for stream in streams)


@pytest.mark.parametrize(
    ("payload", "taken"),
    [
        (b"\x08\x00\x12\x01k", False),  # PUT_VALUE without a record
        (b"\x12\x01k\x1a\x06\x0a\x01k\x12\x01v", False),  # PUT_VALUE of a record nobody validates
        (b"\x08\x01\x12\x01k", True),  # GET_VALUE
        (b"\x08\x05", True),  # PING
        (b"\x08\x10\x12\x01k", False),  # REGISTER of nim
        (b"\x08\x07", False),
        (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", False),  # type -1
    ],
)
async def test_any_other_request_is_answered_or_resets_its_stream_only(
    autojump_clock, payload, taken
):
    async with memory_net() as net, lab_node(net) as node:
        client = net.host(1)
        stream = await _open(client, node)
        await stream.write(length_prefixed(payload))
        await stream.close_write()
        if taken:
            assert len(await replies_on(stream)) == 1
        else:
            with pytest.raises(StreamError):
                await replies_on(stream)
        assert host_of(node).is_connected(client.peer_id)
        assert node.stats().failures == {}


async def test_an_address_of_hundreds_of_components_is_not_taken(autojump_clock):
    """Each would cost 17 ms when its peer is dialled, eight of them in every entry."""
    address = b"\x04\x0a\x00\x00\x01" + encode_varint(301) * 500
    async with memory_net() as net, lab_node(net) as node:
        client = net.host(1)
        with pytest.raises(StreamError):
            await ask(client, node, AddProvider(KEY, (PeerEntry(client.peer_id, (address,)),)))
        node._node.main.network.learn([PeerEntry(entry_of(1).peer_id, (address,))], None, soon())
        assert node._node.main.network.book.addrs(entry_of(1).peer_id, soon()) == ()


def _provided(host, key):
    return AddProvider(key, (PeerEntry(host.peer_id, (host.addrs[0].to_bytes(),)),))


async def ask(host, node, *requests):
    """All requests on one stream, written at once; the replies."""
    stream = await _open(host, node)
    await stream.write(b"".join(encode_request(request) for request in requests))
    await stream.close_write()
    return await replies_on(stream)


async def replies_on(stream):
    reader, replies = FrameReader(), []
    while data := await stream.read(1 << 16):
        reader.feed(data)
        while (payload := reader.next_frame()) is not None:
            replies.append(decode_reply(payload))
    return replies
