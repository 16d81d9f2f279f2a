"""What a node keeps over a restart, what its event loop waits for, and a store that fails."""

from __future__ import annotations

import threading
import time
from contextlib import asynccontextmanager

import pytest
import trio

from codio_dht import DHTManager
from codio_dht.core.keyspace import key_of
from codio_dht.core.messages import AddProvider, PeerEntry
from codio_dht.core.multihash import multihash_of
from codio_dht.core.records import EXPIRY_INTERVAL_S
from codio_dht.errors import StorageError
from codio_dht.node.clock import Clock
from codio_dht.params import KAD_PROTOCOL
from codio_dht.wire.codec import encode_request
from memory_host import MemoryNet
from nodes import EPOCH, full_addr, host_of, memory_net, open_nodes, settle, soon, until

CID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
RECORDS = 20_000


def opened(net: MemoryNet, number: int, data_dir, **settings) -> DHTManager:
    clock = Clock(lambda: EPOCH + trio.current_time())
    return DHTManager(net.host(number), data_dir=data_dir, clock=clock, **settings)


@asynccontextmanager
async def real_time_net():
    async with trio.open_nursery() as nursery:
        yield MemoryNet(nursery)
        nursery.cancel_scope.cancel()


def add_providers(host, count: int) -> list[bytes]:
    entry = PeerEntry(host.peer_id, (host.addrs[0].to_bytes(),))
    return [
        encode_request(AddProvider(b"\x12\x20" + number.to_bytes(32, "big"), (entry,)))
        for number in range(count)
    ]


async def test_records_own_keys_and_known_peers_survive_a_restart(autojump_clock, tmp_path):
    async with memory_net(0.01) as net, open_nodes(net, 3) as nodes:
        await settle(nodes, 2)
        seed = full_addr(host_of(nodes[0]))
        async with opened(net, 40, tmp_path, bootstrap=[seed]) as node:
            await settle([node, *nodes], 3)
            await node.provide(CID)
            await nodes[1].provide(CID)
        async with opened(net, 40, tmp_path) as node:
            assert [multihash_of(CID)] == [own.key for own in await node.own_keys()]
            [record] = await node.provider_records(CID)
            assert nodes[1].peer_id == record.provider.peer_id
            assert record.distance == record.provider.peer_id.key ^ _key(CID)
            await settle([node], 3)  # without a bootstrap peer: from the snapshot, once verified


def _key(cid):
    return key_of(multihash_of(cid))


async def test_remembered_peers_that_are_gone_do_not_enter_the_table(autojump_clock, tmp_path):
    async with memory_net(0.01) as net:
        async with open_nodes(net, 3) as nodes:
            seed = full_addr(host_of(nodes[0]))
            async with opened(net, 40, tmp_path, bootstrap=[seed]) as node:
                await settle([node, *nodes], 3)
            gone = [node.peer_id for node in nodes]
        net.dead.update(gone)
        net.hosts.clear()
        async with opened(net, 40, tmp_path) as node:
            for _ in range(3_000):  # at every moment, however the joins and probes are spread
                await trio.sleep(0.1)
                assert node.routing_table_peers() == []
                assert node.bootstrap_state != "joined"


async def test_nothing_is_left_on_disk_without_a_data_directory(
    autojump_clock, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    async with memory_net() as net, open_nodes(net, 2) as nodes:
        await settle(nodes, 1)
        await nodes[0].provide(CID)
        await trio.sleep(400)
    assert list(tmp_path.iterdir()) == []


async def test_the_event_loop_is_never_blocked_while_20_000_records_are_stored(tmp_path):
    """Lag is counted in CPU time of the loop's own thread, which a busy machine does not change;
    and no call to the store may come from that thread, so its waiting for the disk cannot hide."""
    async with real_time_net() as net, opened(net, 1, tmp_path) as server:
        storage, loop_thread = server._node.shared.storage, threading.get_ident()
        threads = set()
        flush = storage.store.records.flush

        def watched_flush(batch):
            threads.add(threading.get_ident())
            return flush(batch)

        storage.store.records.flush = watched_flush
        client = net.host(2)
        await client.connect(server.peer_id, server.addrs, soon())
        requests = add_providers(client, RECORDS)
        longest = 0.0

        async def watch() -> None:
            nonlocal longest
            while True:
                before = time.thread_time()
                await trio.lowlevel.checkpoint()
                longest = max(longest, time.thread_time() - before)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            stream = await client.open_stream(server.peer_id, KAD_PROTOCOL, soon())
            for begin in range(0, RECORDS, 500):  # as large as a read of a socket
                await stream.write(b"".join(requests[begin : begin + 500]))
            with trio.fail_after(60):
                while server.stats().storage.get("rows_written", 0) < RECORDS:
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        assert server.stats().num_providers == RECORDS
        assert longest < 0.2  # seconds; a full garbage collection in a large test process is 0.05
        assert threads
        assert loop_thread not in threads


async def test_a_store_that_cannot_write_loses_nothing_and_stops_nothing(autojump_clock, tmp_path):
    async with memory_net() as net, opened(net, 1, tmp_path) as server:
        storage = server._node.shared.storage
        flush, broken = storage.store.records.flush, True

        def failing_flush(batch):
            if broken:
                raise StorageError("the disk is full")
            return flush(batch)

        storage.store.records.flush = failing_flush
        client = net.host(2)
        await client.connect(server.peer_id, server.addrs, soon())
        stream = await client.open_stream(server.peer_id, KAD_PROTOCOL, soon())
        await stream.write(b"".join(add_providers(client, 100)))
        await until(lambda: server.stats().storage.get("flush_failed", 0) >= 2)
        assert server.stats().num_providers == 100
        assert server.stats().unsaved_records == 100
        broken = False
        await until(lambda: server.stats().unsaved_records == 0)
        assert server.stats().storage["rows_written"] == 100
        assert server.stats().failures == {}


async def test_expired_records_leave_the_disk(autojump_clock, tmp_path):
    async with memory_net() as net, opened(net, 1, tmp_path) as server:
        client = net.host(2)
        await client.connect(server.peer_id, server.addrs, soon())
        stream = await client.open_stream(server.peer_id, KAD_PROTOCOL, soon())
        await stream.write(b"".join(add_providers(client, 50)))
        await until(lambda: server.stats().storage.get("rows_written", 0) == 50)
        assert server.stats().num_providers == 50
        await trio.sleep(24 * 3600)
        await until(lambda: server.stats().num_providers == 0)
        assert server.stats().storage["rows_expired"] == 50


async def test_records_of_a_clock_that_was_ahead_leave_the_disk(autojump_clock, tmp_path):
    wrong_by_s = 0.0
    clock = Clock(lambda: EPOCH + trio.current_time() + wrong_by_s)
    async with memory_net() as net, DHTManager(net.host(1), data_dir=tmp_path, clock=clock) as node:
        client = net.host(2)
        await client.connect(node.peer_id, node.addrs, soon())
        stream = await client.open_stream(node.peer_id, KAD_PROTOCOL, soon())
        wrong_by_s = 10 * 365 * 24 * 3600.0
        await stream.write(b"".join(add_providers(client, 50)))
        await until(lambda: node.stats().storage.get("rows_written", 0) == 50)
        wrong_by_s = 0.0
        stream = await client.open_stream(node.peer_id, KAD_PROTOCOL, soon())
        await stream.write(b"".join(add_providers(client, 60)[50:]))
        await until(lambda: node.stats().storage.get("rows_written", 0) == 60)
        await trio.sleep(EXPIRY_INTERVAL_S)
        await until(lambda: node.stats().num_providers == 10)


async def test_a_provide_that_cannot_be_noted_is_refused_and_not_kept(autojump_clock):
    async with memory_net() as net, open_nodes(net, 2) as nodes:
        await settle(nodes, 1)

        def failing(*_):
            raise StorageError("the disk is full")

        nodes[0]._node.shared.storage.store.keys.add = failing
        with pytest.raises(StorageError, match="disk is full"):
            await nodes[0].provide(CID)
        assert nodes[0].stats().own_keys == 0
