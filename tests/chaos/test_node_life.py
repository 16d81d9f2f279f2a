"""A node that is opened, cancelled, crashed and closed at bad moments: nothing hangs, leaks or is
forgotten, and what comes out is what the caller can understand."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from codio_dht import DHTConfig, DHTManager, params
from codio_dht.core.clock import UnixTime
from codio_dht.core.joining import LOW_PEERS_CHECK_S
from codio_dht.core.messages import AddProvider
from codio_dht.core.multihash import multihash_of
from codio_dht.core.records import MAX_OVERTAKING_ROWS, ProviderRecords
from codio_dht.errors import NoPeersError, NotRunningError, StorageError, UsageError
from codio_dht.node.runtime import SNAPSHOT_INTERVAL_S
from hostile_host import (
    LabHost,
    entry_of,
    hostile,
    lab_addr,
    lab_node,
    left_open,
    numbered_id,
    plant,
)
from nodes import EPOCH, host_of, memory_net, open_nodes, settle, soon

CID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
KEY = multihash_of(CID)
OTHER = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"


def add_record(node: DHTManager, number: int, key: bytes = KEY) -> None:
    entry = entry_of(number)
    node._node.main.server.responder.respond(
        entry.peer_id, AddProvider(key, (entry,)), node._node.shared.clock.now()
    )


def stored(node: DHTManager, key: bytes = KEY) -> int:
    return len(node._node.shared.storage.store.records.load_providers(key))


async def _silent(stream):
    await trio.sleep_forever()


# --- closing --------------------------------------------------------------------------------------


CALLS = {
    "find_closest_peers": lambda node: node.find_closest_peers(KEY),
    "find_providers": lambda node: node.find_providers(CID),
    "find_peer": lambda node: node.find_peer(numbered_id(77_777)),
    "provide": lambda node: node.provide(CID),
    "provide_once": lambda node: node.provide_once(CID),
    "refresh": lambda node: node.refresh(),
    "ping": lambda node: node.ping(numbered_id(77_777)),
    "connect": lambda node: node.connect(f"{lab_addr(1)}/p2p/{numbered_id(1)}"),
    "bootstrap": lambda node: node.bootstrap([f"{lab_addr(1)}/p2p/{numbered_id(1)}"]),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_a_call_under_way_when_the_node_closes_says_so_at_once(autojump_clock, call):
    async with memory_net(0.01) as net:
        net.dead.add(numbered_id(1))
        outcome: list[object] = []

        async def run(node):
            try:
                outcome.append(await call(node))
            except Exception as error:  # noqa: BLE001 - whatever it is is the outcome
                outcome.append(error)

        async with trio.open_nursery() as nursery:
            async with lab_node(net) as node:
                await plant(node, [hostile(net, number, _silent) for number in range(100, 130)])
                nursery.start_soon(run, node)
                await trio.sleep(1)
                assert outcome == []
                began = trio.current_time()
            assert trio.current_time() - began < 5
        assert trio.current_time() - began < 5
        assert [NotRunningError] == [type(each) for each in outcome]


async def test_a_stream_of_providers_does_not_end_as_if_complete_when_the_node_closes(
    autojump_clock,
):
    async with memory_net(0.01) as net:
        async with lab_node(net) as node:
            await plant(node, [hostile(net, number, _silent) for number in range(100, 130)])
            stream = node.iter_providers(CID)
            await trio.sleep(1)
        with pytest.raises(NotRunningError):
            await anext(stream)


async def test_leaving_the_block_while_everything_is_under_way_takes_no_time_and_raises_nothing(
    autojump_clock,
):
    async with memory_net(0.01) as net, open_nodes(net, 3) as honest:
        net.dead.add(numbered_id(1))
        async with trio.open_nursery() as nursery:
            async with lab_node(net, through=honest) as node:
                store = node._node.shared.storage.store
                await plant(node, [hostile(net, number, _silent) for number in range(100, 130)])
                written: list[int] = []
                flush = store.records.flush

                def counted_flush(batch, written=written, flush=flush):
                    written.append(len(batch.rows))
                    return flush(batch)

                store.records.flush = counted_flush
                for number in range(1_000):
                    add_record(node, number)
                for call in CALLS.values():
                    nursery.start_soon(_ignoring_closing, call, node)
                for _ in range(10):
                    node.iter_providers(CID)
                await trio.sleep(0.5)
                began = trio.current_time()
            assert trio.current_time() - began < 5
        assert sum(written) == 1_000
        assert host_of_closed(net, 5_000).open_streams == 0


async def _ignoring_closing(call, node):
    try:
        await call(node)
    except (NotRunningError, NoPeersError):
        pass


def host_of_closed(net, number):
    return net.hosts[f"/ip4/127.0.0.1/tcp/{number}"]


@pytest.mark.parametrize("error", [ValueError("mine"), StorageError("mine"), KeyboardInterrupt()])
async def test_an_error_in_the_block_comes_out_as_itself(autojump_clock, error):
    async with memory_net(0.01) as net:
        node = DHTManager(LabHost(net, numbered_id(1), lab_addr(1)))
        with pytest.raises(type(error)) as caught:  # noqa: PT012 - the block is what is tested
            async with node:
                await plant(node, [hostile(net, number, _silent) for number in range(100, 130)])
                node.iter_providers(CID)
                await trio.sleep(0.5)
                raise error
        assert caught.value is error


async def test_a_store_that_cannot_be_closed_does_not_hide_the_error_in_the_block(autojump_clock):
    def failing():
        raise StorageError("cannot close")

    async with memory_net(0.01) as net:
        node = DHTManager(LabHost(net, numbered_id(1), lab_addr(1)))
        mine = ValueError("mine")
        with pytest.raises(ValueError, match="mine") as caught:  # noqa: PT012 - see above
            async with node:
                store = node._node.shared.storage.store
                close, store.close = store.close, failing
                raise mine
        assert caught.value is mine
        close()


async def test_a_node_that_is_cancelled_from_outside_writes_what_it_has(autojump_clock, tmp_path):
    async with memory_net(0.01) as net:
        with trio.CancelScope() as scope:
            async with lab_node(net, data_dir=tmp_path) as node:
                for number in range(700):
                    add_record(node, number)
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        async with lab_node(net, data_dir=tmp_path) as node:
            assert stored(node) == 700


async def test_records_whose_flush_was_cancelled_before_it_began_are_written_at_the_end(
    autojump_clock, tmp_path
):
    async with memory_net(0.01) as net:
        async with lab_node(net, data_dir=tmp_path) as node:
            storage = node._node.shared.storage
            add_record(node, 1)
            async with storage._one_at_a_time:  # the disk is busy
                await trio.sleep(2)
                assert storage.records.stats().unsaved == 1
                node._life.nursery.cancel_scope.cancel()
                await trio.testing.wait_all_tasks_blocked()
        async with lab_node(net, data_dir=tmp_path) as node:
            assert stored(node) == 1


async def test_a_node_cannot_be_entered_twice_at_a_time_but_again_afterwards(autojump_clock):
    async with memory_net(0.01) as net:
        node = DHTManager(LabHost(net, numbered_id(1), lab_addr(1)))
        async with node:
            with pytest.raises(UsageError, match="open"):
                async with node:
                    pass
            node.stats()
            await trio.sleep(1)
        with pytest.raises(NotRunningError):
            node.stats()
        async with node:
            node.stats()
        with pytest.raises(NotRunningError):
            await node.find_providers(CID)
        with pytest.raises(NotRunningError):
            node.iter_providers(CID)


async def test_of_two_tasks_that_enter_one_node_one_is_refused(autojump_clock):
    async with memory_net(0.01) as net:
        node = DHTManager(LabHost(net, numbered_id(1), lab_addr(1)))
        outcomes = []

        async def enter():
            try:
                async with node:
                    await trio.sleep(1)
                outcomes.append("closed")
            except UsageError:
                outcomes.append("refused")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(enter)
            nursery.start_soon(enter)
        assert sorted(outcomes) == ["closed", "refused"]


async def test_a_data_directory_in_use_is_refused_and_its_owner_goes_on(autojump_clock, tmp_path):
    async with memory_net(0.01) as net, lab_node(net, data_dir=tmp_path) as node:
        second = DHTManager(LabHost(net, numbered_id(2), lab_addr(2)), data_dir=tmp_path)
        with pytest.raises(StorageError):
            async with second:
                pass
        with pytest.raises(NotRunningError):
            second.stats()
        with pytest.raises(NoPeersError):
            await node.provide(CID)
        assert len(await node.own_keys()) == 1


async def test_a_node_that_could_not_be_opened_can_be_opened_later(autojump_clock, tmp_path):
    async with memory_net(0.01) as net:
        second = DHTManager(LabHost(net, numbered_id(2), lab_addr(2)), data_dir=tmp_path)
        async with lab_node(net, data_dir=tmp_path):
            with pytest.raises(StorageError):
                async with second:
                    pass
        async with second:
            second.stats()


# --- bugs in background work ----------------------------------------------------------------------


def once(function, error):
    """``function``, but its first call raises ``error``."""
    errors = [error]

    def call(*args):
        if errors:
            raise errors.pop()
        return function(*args)

    return call


async def test_keys_under_way_when_the_reprovider_breaks_are_announced_all_the_same(autojump_clock):
    config = DHTConfig(provider_timeout=3600, republish_interval=1800)
    async with (
        memory_net(0.01) as net,
        open_nodes(net, 2) as honest,
        lab_node(net, through=honest, config=config) as node,
    ):
        await settle([node], 2)
        await node.provide(CID)
        await trio.sleep(10)
        [own] = await node.own_keys()
        rpc, before = node._node.main.rpc, own.last_provided
        rpc.give_all = once(rpc.give_all, ZeroDivisionError())
        await trio.sleep(2_000)
        assert node.stats().failures == {"reprovide": 1}
        await trio.sleep(200)
        [own] = await node.own_keys()
        assert (own.last_provided or 0) > (before or 0)
        assert left_open(node)["deliveries"] == 0


async def test_a_load_that_breaks_leaves_nobody_waiting(autojump_clock):
    async with memory_net() as net, lab_node(net) as node:
        storage = node._node.shared.storage
        add_record(node, 1)
        await storage.flush()
        node._node.shared.records._cache.clear()
        records = storage.store.records
        records.load_providers = once(records.load_providers, ZeroDivisionError())
        with trio.fail_after(30):
            assert len(await node.provider_records(KEY)) == 1
        assert node.stats().failures == {"loads": 1}


async def test_a_flush_that_breaks_is_made_again(autojump_clock):
    async with memory_net() as net, lab_node(net) as node:
        storage = node._node.shared.storage
        storage.store.records.flush = once(storage.store.records.flush, ZeroDivisionError())
        add_record(node, 1)
        await trio.sleep(10)
        assert node.stats().failures == {"flushes": 1}
        assert node.stats().unsaved_records == 0
        assert stored(node) == 1


async def test_peers_whose_going_was_not_heard_of_are_forgotten_all_the_same(autojump_clock):
    """A subscriber that falls behind loses the oldest events, and this node is one."""
    async with memory_net() as net, lab_node(net) as node:
        for number in range(100, 400):
            peer = hostile(net, number, _silent)
            peer.factories.clear()
            await host_of(node).connect(peer.peer_id, peer.addrs, soon())
        await trio.testing.wait_all_tasks_blocked()
        book = node._node.main.network.book
        assert book.stats().kept == 300
        host_of(node).peers.clear()
        await trio.sleep(2 * SNAPSHOT_INTERVAL_S)
        assert book.stats().kept == 0
        assert book.stats().told == 300
        await trio.sleep(params.CONNECTED_ADDR_TTL_S)
        assert book.addrs(numbered_id(100), soon()) == ()


async def test_a_node_that_lost_all_its_peers_joins_again_at_once(autojump_clock):
    async with (
        memory_net(0.01) as net,
        open_nodes(net, 1) as [honest],
        lab_node(net, through=[honest]) as node,
    ):
        await settle([node], 1)
        await trio.sleep(LOW_PEERS_CHECK_S * 2 + 30)
        await host_of(node).disconnect(honest.peer_id)
        net.dead.add(honest.peer_id)
        assert await node.find_closest_peers(KEY) == []
        assert node.routing_table_peers() == []
        net.dead.clear()
        began = trio.current_time()
        assert len(await node.find_closest_peers(KEY)) == 1
        assert trio.current_time() - began < 30


def test_writes_that_overtake_a_load_that_never_ends_are_bounded():
    records = ProviderRecords()
    records.opened(1)
    now = UnixTime(EPOCH)
    records.get(KEY, now)
    for number in range(20_000):
        records.add(KEY, numbered_id(number % 50), (), now)
        batch = records.take_flush()
        assert batch is not None
        records.flushed(batch, 0)
    assert batch is not None
    assert len(records._loading[KEY] or ()) <= MAX_OVERTAKING_ROWS
    records.loaded(KEY, [], now)
    records.get(KEY, now)
    records.loaded(KEY, [batch.rows[0]], now)
    assert records.get(KEY, now) == batch.rows
