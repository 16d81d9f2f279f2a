"""A node whose calls are cancelled at every step, whose store fails, whose clock jumps, and whose
peers come and go: nothing leaks, nothing is forgotten, every container returns to its bound."""

from __future__ import annotations

import random
from collections import Counter, OrderedDict, deque
from pathlib import Path

import pytest
import trio
import trio.testing

from codio_dht import DHTConfig, DHTManager, params
from codio_dht.core.admission import MAX_ADMISSION_MEMORY, MAX_ADMISSION_PROBES, MAX_ADMISSION_QUEUE
from codio_dht.core.diversity import MAX_SEEN_PEERS
from codio_dht.core.messages import AddProvider, FindNode, GetProviders, PeerEntry
from codio_dht.core.multihash import multihash_of
from codio_dht.core.origins import MAX_ACCOUNTS
from codio_dht.core.own_keys import MAX_OWN_KEY_ANSWERS, MAX_OWN_KEY_LOADS
from codio_dht.core.peer_book import MAX_HEARD_PEERS, MAX_TOLD_PEERS
from codio_dht.core.peer_health import MAX_HEALTH_PEERS
from codio_dht.core.records import MAX_CACHED_PROVIDER_BYTES, MAX_TRACKED_LOADS
from codio_dht.core.refresh import MAX_LIVENESS_PROBES
from codio_dht.core.unsaved import FLUSH_BATCH_ROWS, MAX_UNSAVED_RECORDS
from codio_dht.errors import CodioError, NoPeersError, StorageError
from codio_dht.node.clock import Clock
from codio_dht.node.stream_pool import MAX_KEPT_STREAMS
from codio_dht.params import KAD_PROTOCOL
from codio_dht.store.sqlite import SqliteStore
from codio_dht.wire.codec import decode_reply, encode_request
from codio_dht.wire.framing import FrameReader
from hostile_host import (
    LabHost,
    answering,
    closer,
    entry_of,
    hostile,
    lab_addr,
    lab_node,
    nothing_open,
    numbered_id,
    plant,
)
from killing import kill_after, start
from nodes import EPOCH, full_addr, host_of, memory_net, open_nodes, settle, soon

CID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
KEY = multihash_of(CID)
ROOT = Path(__file__).parents[2]


def sqlite_store(node: DHTManager) -> SqliteStore:
    store = node._node.shared.storage.store
    assert isinstance(store, SqliteStore)
    return store


async def run_inline(function, *args, limiter=None, **_):
    await trio.lowlevel.checkpoint()
    if limiter is None:
        return function(*args)
    async with limiter:
        return function(*args)


@pytest.fixture(autouse=True)
def no_threads(monkeypatch):
    """What goes to a thread is done in the loop's own: so a call has the same steps in every run,
    and can be cancelled at each."""
    monkeypatch.setattr(trio.to_thread, "run_sync", run_inline)


def key_number(number: int) -> bytes:
    return b"\x12\x20" + number.to_bytes(32, "big")


# --- cancellation ---------------------------------------------------------------------------------


class CancelAtStep(trio.abc.Instrument):
    """Cancels ``scope`` before the given step of any task."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self.scope = scope
        self.left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


async def cancelled_at(step: int, call) -> bool:
    """Run ``call`` with a cancellation at ``step``; whether that came before its end."""
    with trio.CancelScope() as scope:
        instrument = CancelAtStep(scope, step)
        trio.lowlevel.add_instrument(instrument)
        try:
            await call()
        except CodioError:
            pass
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return scope.cancelled_caught


CANCELLED = {
    "find_closest_peers": lambda node: node.find_closest_peers(KEY),
    "find_providers": lambda node: node.find_providers(CID),
    "find_peer": lambda node: node.find_peer(numbered_id(77_777)),
    "provide": lambda node: node.provide(CID),
    "provide_once": lambda node: node.provide_once(CID),
    "stop_providing": lambda node: node.stop_providing(CID),
    "own_keys": lambda node: node.own_keys(),
    "provider_records": lambda node: node.provider_records(CID),
    "refresh": lambda node: node.refresh(),
    "ping": lambda node: node.ping(numbered_id(100)),
    "connect": lambda node: node.connect(f"{lab_addr(100)}/p2p/{numbered_id(100)}"),
    "bootstrap": lambda node: node.bootstrap([f"{lab_addr(100)}/p2p/{numbered_id(100)}"]),
}


@pytest.mark.parametrize("name", CANCELLED)
async def test_a_call_may_be_cancelled_at_any_step_and_leaves_nothing(autojump_clock, name):
    call = CANCELLED[name]

    async def slow(stream):
        await trio.sleep_forever()

    async with memory_net(0.01) as net, open_nodes(net, 3) as honest:
        await settle(honest, 2)
        for each in honest:
            await each.provide(CID)
        async with lab_node(net, through=honest) as node:
            await settle([node], 3)
            peer = hostile(net, 100, slow)
            client = net.host(900)
            entry = PeerEntry(client.peer_id, (client.addrs[0].to_bytes(),))
            await ask(client, node, AddProvider(KEY, (entry,)))
            await trio.sleep(5)
            step, rounds, under_way = 1, 0, True
            while under_way:
                await plant(node, [peer])
                node._node.shared.records._cache.clear()
                under_way = await cancelled_at(step, lambda: call(node))
                step += 1
                rounds += 1
                await nothing_open(node)
                kept = {own.key for own in await node.own_keys()}
                assert kept == {
                    key for key in [KEY] if await node._node.shared.storage.provides(key)
                }
                if kept:
                    await trio.sleep(200)
                    assert (await node.own_keys())[0].last_provided is not None
                    await node.stop_providing(CID)
            assert rounds > 1 or name == "stop_providing"  # which is not cut short once it began
            assert node.stats().failures == {}


# --- the store ------------------------------------------------------------------------------------

STORE_METHODS = {
    "records": ("changes", "load_providers", "flush", "provider_keys", "delete_expired"),
    "keys": (
        "add",
        "remove",
        "find",
        "page",
        "turn_page",
        "next_waiting",
        "mark_provided",
        "mark_waiting",
        "note_swept",
    ),
    "snapshot": ("save", "load"),
}


@pytest.mark.parametrize("seed", range(2))
async def test_a_store_that_fails_at_random_costs_calls_and_not_the_node(autojump_clock, seed):
    rng = random.Random(seed)
    broken = True

    def at_times(function):
        def call(*args, **options):
            if broken and rng.random() < 0.4:
                raise StorageError("at random")
            return function(*args, **options)

        return call

    config = DHTConfig(provider_timeout=3_600, republish_interval=1_800)
    async with (
        memory_net(0.01) as net,
        open_nodes(net, 3) as honest,
        lab_node(net, through=honest, config=config) as node,
    ):
        await settle([node], 3)
        for part_name, names in STORE_METHODS.items():
            part = getattr(node._node.shared.storage.store, part_name)
            for name in names:
                setattr(part, name, at_times(getattr(part, name)))
        client = net.host(900)
        kept: set[bytes] = set()
        for number in range(150):
            key = key_number(number)
            entry = PeerEntry(client.peer_id, (client.addrs[0].to_bytes(),))
            await ask(client, node, AddProvider(key, (entry,)))
            node._node.shared.records._cache.clear()
            assert len(await ask(client, node, GetProviders(key))) == 1
            for call, noted in ((node.provide, kept.add), (node.stop_providing, kept.discard)):
                if rng.random() < 0.5:
                    continue
                try:
                    await call(key)
                except StorageError:
                    pass
                else:
                    noted(key)
            await node.find_providers(key)
            await trio.sleep(rng.randrange(300))
        broken = False
        await trio.sleep(7_200)
        own = {each.key: each.last_provided for each in await node.own_keys()}
        assert kept == set(own)
        assert all(own.values())
        assert node.stats().failures == {}
        assert node.stats().unsaved_records == 0
        assert node.stats().num_providers == 0
        await nothing_open(node)


async def test_rows_that_are_damaged_on_disk_are_left_out_of_answers(autojump_clock, tmp_path):
    rng = random.Random(3)
    good = entry_of(1)
    values = [None, "text", 7, 1.5, b"", b"\x00" * 5, good.peer_id.to_bytes(), rng.randbytes(60)]
    async with memory_net() as net, lab_node(net, data_dir=tmp_path) as node:
        respond, clock = node._node.main.server.responder.respond, node._node.shared.clock
        respond(good.peer_id, AddProvider(KEY, (good,)), clock.now())
        await node._node.shared.storage.flush()
        database = sqlite_store(node).records.database.connection
        database.execute("PRAGMA ignore_check_constraints = ON")
        for number in range(300):
            row = [rng.choice(values) for _ in range(3)]
            if None not in row:
                database.execute(
                    "INSERT OR IGNORE INTO providers (id, key, provider, record, expires)"
                    " VALUES (?,?,?,?,?)",
                    (1_000 + number, KEY, *row),
                )
            if None not in row[:2]:
                database.execute(
                    "INSERT OR IGNORE INTO snapshot VALUES (?,?,?)", (number, *row[:2])
                )
        node._node.shared.records._cache.clear()
        [reply] = await ask(net.host(1), node, GetProviders(KEY))
        assert good.peer_id in [entry.peer_id for entry in reply.provider_peers]
    async with memory_net() as net, lab_node(net, data_dir=tmp_path) as node:
        assert (tmp_path / "records.db.corrupt-1").exists()  # read once, at the start
        [reply] = await ask(net.host(1), node, GetProviders(KEY))
        assert [] == list(reply.provider_peers)
        await trio.sleep(25 * 3_600)
        assert node.stats().failures == {}


PROVIDE = """
import sys
sys.path[:0] = ["tests/component", "."]
import trio
from pathlib import Path
from codio_dht import DHTManager
from codio_dht.errors import StorageError
from memory_host import MemoryNet
from nodes import full_addr

directory, first, limit = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

async def main():
    async with trio.open_nursery() as nursery:
        net = MemoryNet(nursery)
        async with DHTManager(net.host(1)) as other:
            host = net.host(2)
            seed = full_addr(net.hosts["/ip4/127.0.0.1/tcp/10001"])
            async with DHTManager(host, data_dir=directory, bootstrap=[seed]) as node:
                if limit:
                    await full_disk(node)
                else:
                    await provide_for_ever(node)
        nursery.cancel_scope.cancel()

async def provide_for_ever(node):
    number = first
    while True:
        await node.provide(b"\\x12\\x20" + number.to_bytes(32, "big"))
        print(number, flush=True)
        number += 1

async def full_disk(node):
    import resource
    none, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    refused, number = 0, first
    while not refused:
        try:
            await node.provide(b"\\x12\\x20" + number.to_bytes(32, "big"))
        except StorageError:
            refused += 1
        else:
            number += 1
    kept = {own.key for own in await node.own_keys()}
    assert len(kept) == number - first == node.stats().own_keys
    assert len(await node.find_closest_peers(b"x")) == 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (none, hard))
    await node.provide(b"\\x12\\x20" + number.to_bytes(32, "big"))
    assert node.stats().failures == {}
    print(number, flush=True)

trio.run(main)
"""


def own_keys(directory: Path) -> set[int]:
    store = SqliteStore(directory)
    keys = {int.from_bytes(own.key[2:], "big") for own in store.keys.page(b"", 100_000)}
    store.close()
    return keys


@pytest.mark.conformance("c56")
def test_after_sigkill_no_key_is_forgotten_whose_provide_had_returned(tmp_path):
    rng, told = random.Random(9), set()
    for turn in range(4):
        lines = kill_after(rng.randrange(1, 40), PROVIDE, tmp_path, turn * 10_000, 0)
        told |= set(map(int, lines))
        found = own_keys(tmp_path)
        assert found >= told
        assert len(found - told) <= turn + 1


def test_a_full_disk_refuses_provides_and_forgets_none(tmp_path):
    child = start(PROVIDE, tmp_path, 0, 200_000)
    said, _ = child.communicate(timeout=90)
    assert child.returncode == 0
    assert own_keys(tmp_path) == set(range(int(said) + 1))


# --- clocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
async def test_a_clock_that_jumps_by_days_stops_nothing(autojump_clock, seed):
    rng = random.Random(seed)
    offset = 0.0
    config = DHTConfig(provider_timeout=7_200, republish_interval=3_600)
    async with memory_net(0.01) as net, open_nodes(net, 3, config=config) as honest:
        host = LabHost(net, numbered_id(5_000), lab_addr(5_000))
        clock = Clock(lambda: EPOCH + trio.current_time() + offset)
        seeds = [full_addr(host_of(each)) for each in honest]
        async with DHTManager(host, config, bootstrap=seeds, clock=clock) as node:
            await settle([node], 3)
            await node.provide(CID)
            await honest[0].provide(CID)
            announced = trio.current_time()
            rpc = node._node.main.rpc

            def noting(give):
                async def noted(*args):
                    nonlocal announced
                    announced = trio.current_time()
                    return await give(*args)

                return noted

            rpc.give, rpc.give_all = noting(rpc.give), noting(rpc.give_all)
            for _ in range(60):
                offset += rng.choice((-1, 1)) * rng.choice((1, 60, 3_600, 86_400, 10 * 86_400))
                add = key_number(rng.randrange(1_000))
                await node.provide(add)
                await node.find_providers(CID)
                await node.provider_records(CID)
                await trio.sleep(rng.randrange(1_200))
                await node.stop_providing(add)
                assert trio.current_time() - announced <= 3_600 + 120
            offset = 0.0
            await trio.sleep(7_300)
            assert len(await honest[1].find_providers(CID)) == 2
            assert node.stats().failures == {}


async def test_a_monotonic_clock_of_centuries_stops_nothing(mock_clock):
    mock_clock.jump(1e10)
    mock_clock.autojump_threshold = 0
    async with memory_net(0.01) as net, open_nodes(net, 3) as nodes:
        await settle(nodes, 2)
        await nodes[0].provide(CID)
        assert len(await nodes[1].find_providers(CID)) == 1
        await trio.sleep(3_600)
        assert nodes[1].stats().failures == {}


# --- what grows -----------------------------------------------------------------------------------

CONNECTIONS = 2_000
"""What the host would allow; the peers in the table are in it."""

BOUNDS = {
    "PeerBook._slots": MAX_HEARD_PEERS + MAX_TOLD_PEERS + CONNECTIONS,
    "PeerBook._told": MAX_TOLD_PEERS,
    "PeerBook._heard": MAX_HEARD_PEERS,
    "Turns._items": MAX_ADMISSION_QUEUE,
    "_Owner.parts": MAX_ADMISSION_QUEUE,
    "_Owner.keys": MAX_ADMISSION_QUEUE,
    "GroupLimits._seen": MAX_SEEN_PEERS,
    "OriginLedger._accounts": MAX_ACCOUNTS + 3 * CONNECTIONS,
    "OriginLedger._unused": MAX_ACCOUNTS,
    "Admission._probing": MAX_ADMISSION_PROBES,
    "BackoffMemory._failed": MAX_ADMISSION_MEMORY,  # the door's; no other is as large
    "GroupLimits._members": params.KEY_BITS * params.K,
    "RoutingTable._entries": params.KEY_BITS * params.K,
    "RoutingTable._per_cpl": params.KEY_BITS,
    "RoutingTable._buckets": params.KEY_BITS,
    "RefreshSchedule._to_probe": params.KEY_BITS * params.K,
    "RefreshSchedule._probing": MAX_LIVENESS_PROBES,
    "ProviderRecords._loading": MAX_TRACKED_LOADS,
    "Outage._suspects": params.KEY_BITS * params.K,
    "Outage._due": params.KEY_BITS * params.K,
    "PeerHealth._met": MAX_HEALTH_PEERS,
    "PeerHealth._strangers": MAX_HEALTH_PEERS,
    "StreamPool._idle": MAX_KEPT_STREAMS,
    "TableProtection._peers": params.KEY_BITS * params.K,
    "StreamPool._reuse_failures": MAX_KEPT_STREAMS,
    "_Slot.queue": max(MAX_TOLD_PEERS, MAX_HEARD_PEERS),  # one of the book's two
    "_Slot.told": params.MAX_ADDRS_PER_PEER,
    "_Slot.heard": params.MAX_ADDRS_PER_PEER,
    "_Slot.live": params.MAX_ADDRS_PER_PEER,
    "PeerEntry.addrs": params.MAX_ADDRS_PER_PEER,
    "ProviderRow.addrs": params.MAX_ADDRS_PER_PEER,
    "_Waiting.by_key": MAX_UNSAVED_RECORDS,
    "Unsaved._batch_by_key": FLUSH_BATCH_ROWS,
    "ProviderRecords._cache": MAX_CACHED_PROVIDER_BYTES // 500,
    "_Cached.rows": params.MAX_PROVIDERS_PER_KEY,
    "_Cached.view": params.MAX_PROVIDERS_PER_KEY,
    "OwnKeys._answers": MAX_OWN_KEY_ANSWERS,
    "OwnKeys._loading": MAX_OWN_KEY_LOADS,
}
"""The named bound of every container of a node that peers can grow. Any other one may not pass
``SMALL``: whoever adds one names its bound here."""

SMALL = 64


def containers(root: object) -> dict[str, int]:
    """The largest size of each container of the node's own objects, by class and attribute."""
    sizes: dict[str, int] = {}
    seen, todo = set(), [root]
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, (dict, OrderedDict)):
            todo += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set, frozenset, deque)):
            todo += item
        elif type(item).__module__.startswith("codio_dht."):
            for name in attributes(item):
                value = getattr(item, name, None)
                if isinstance(value, (dict, list, tuple, set, frozenset, deque, bytearray)):
                    where = f"{type(item).__name__}.{name}"
                    sizes[where] = max(sizes.get(where, 0), len(value))
                todo.append(value)
    return sizes


def attributes(item: object) -> list[str]:
    slots = [name for each in type(item).__mro__ for name in getattr(each, "__slots__", ())]
    return [*slots, *getattr(item, "__dict__", {})]


def over(sizes: dict[str, int]) -> dict[str, int]:
    return {
        where: size
        for where, size in sizes.items()
        if size > BOUNDS.get(where, SMALL) and not where.startswith("PeerId.")
    }


@pytest.mark.deadline_s(600)
async def test_ten_thousand_peers_that_come_and_go_leave_every_container_within_its_bound(
    autojump_clock,
):
    config = DHTConfig(max_provider_records=3_000)
    async with memory_net() as net, lab_node(net, config=config) as node:
        host, rng = host_of(node), random.Random(1)
        await trio.sleep(1)
        before = containers(node._node)
        most: Counter[str] = Counter()
        tasks = trio.lowlevel.current_statistics().tasks_living
        for number in range(10_000, 20_000):
            kind = number % 4
            script = answering(
                lambda request: closer(
                    request, [entry_of(rng.randrange(100_000)) for _ in range(20)]
                )
            )
            peer = hostile(net, number, _silent if kind == 1 else script)
            if kind == 0:
                peer.factories.clear()
            await peer.connect(node.peer_id, host.addrs, soon())
            stream = await peer.open_stream(node.peer_id, KAD_PROTOCOL, soon())
            entry = PeerEntry(peer.peer_id, (peer.addrs[0].to_bytes(),))
            await stream.write(
                encode_request(FindNode(number.to_bytes(4, "big")))
                + encode_request(AddProvider(key_number(number), (entry,)))
                + encode_request(GetProviders(key_number(number - rng.randrange(100))))
            )
            await trio.testing.wait_all_tasks_blocked()
            await stream.reset()
            if number % 7:
                await host.disconnect(peer.peer_id)
            if number % 100 == 0:
                await trio.sleep(rng.randrange(100))
            if number % 1_000 == 999:
                most |= Counter(containers(node._node))
                assert over(most) == {}
            if number % 500 == 0:
                try:
                    await node.find_closest_peers(key_number(number))
                except NoPeersError:
                    pass
            del net.hosts[str(peer.addrs[0])]
        for peer in list(host.peers):
            await host.disconnect(peer)
        assert node.stats().failures == {}
        assert most["PeerBook._slots"] > 5_000
        assert over(most) == {}
        await trio.sleep(50 * 3_600)
        await nothing_open(node)
        assert trio.lowlevel.current_statistics().tasks_living <= tasks + len(host.inbound)
        after = containers(node._node)
        assert node.stats().num_providers == 0
        forgotten = {
            "_Slot.queue",
            "PeerBook._slots",
            "PeerBook._told",
            "PeerBook._heard",
            "BackoffMemory._failed",
            "PeerHealth._met",
            "PeerHealth._strangers",
            "_RecentTimes._times",
            # All peers being gone, it looks like an outage: the table is kept.
            "Outage._suspects",
            "Outage._due",
            "RoutingTable._entries",
            "TableProtection._peers",
            "GroupLimits._members",
        }
        grown = {
            where: (before.get(where, 0), size)
            for where, size in after.items()
            if size > before.get(where, 0) + SMALL and where not in forgotten
        }
        assert grown == {}
        assert over(after) == {}


async def _silent(stream):
    await trio.sleep_forever()


async def ask(host, node, *requests):
    """All requests on one stream, written at once; the replies."""
    await host.connect(node.peer_id, node.addrs, soon())
    stream = await host.open_stream(node.peer_id, KAD_PROTOCOL, soon())
    await stream.write(b"".join(encode_request(request) for request in requests))
    await stream.close_write()
    reader, replies = FrameReader(), []
    while data := await stream.read(1 << 16):
        reader.feed(data)
        while (payload := reader.next_frame()) is not None:
            replies.append(decode_reply(payload))
    return replies
