"""The routing table's upkeep on a network of hundreds of peers with real round trips, some dead."""

from __future__ import annotations

import itertools
from contextlib import asynccontextmanager
from random import Random

import pytest
import trio
from structlog.testing import capture_logs

from codio_dht import DHTConfig, DHTManager
from codio_dht.core.joining import LOW_PEERS_CHECK_S
from codio_dht.core.keyspace import key_of
from codio_dht.core.outage import OUTAGE_FAILURES
from codio_dht.core.peer import PeerId
from codio_dht.core.refresh import LIVENESS_GRACE_S
from codio_dht.errors import DialError, NetworkError
from codio_dht.net.host import AddrsChanged
from codio_dht.node.clock import Clock
from codio_dht.params import REFRESH_INTERVAL_S, K
from memory_host import peer_id_of
from nodes import EPOCH, full_addr, host_of, memory_net, open_nodes, settle, soon, until
from slow_swarm import SLOW_RTT_S, Swarm, swarm_of


@asynccontextmanager
async def node_in(swarm: Swarm, through: list[PeerId], **options):
    """A client of ``swarm`` with a host of its own."""
    node = DHTManager(
        swarm.net.host(0),
        DHTConfig(address_policy="all"),
        bootstrap=[swarm.full_addr(peer) for peer in through],
        clock=Clock(lambda: EPOCH + trio.current_time()),
        **options,
    )
    node._life.rng.seed(1)
    async with node:
        yield node


def ordinary(swarm: Swarm) -> list[PeerId]:
    """The peers that are neither dead nor slow."""
    return [peer for peer in swarm.living if swarm.net.rtt_s[peer] < SLOW_RTT_S]


def table_of(node: DHTManager) -> list[PeerId]:
    return node.routing_table_peers()


async def share_of_true_closest(node: DHTManager, swarm: Swarm, lookups: int) -> float:
    """What ``lookups`` lookups find of the closest, the very slow left aside."""
    found = wanted = 0
    slow = {peer for peer in swarm.living if swarm.net.rtt_s[peer] >= SLOW_RTT_S}
    for number in range(lookups):
        key = b"key %d" % number
        true = set(swarm.closest(key_of(key))) - slow
        found += len(true & {info.peer_id for info in await node.find_closest_peers(key)})
        wanted += len(true)
    return found / wanted


# --- joining --------------------------------------------------------------------------------------


async def test_within_ten_seconds_of_a_cold_start_lookups_are_right(autojump_clock):
    """From one address, with 20 % dead peers and 3 % slow ones."""
    async with swarm_of(300, Random(1)) as swarm:
        began = trio.current_time()
        async with node_in(swarm, ordinary(swarm)[:1]) as node:
            with trio.fail_after(10):
                while not node._node.main.network.refresh.runs:
                    await trio.sleep(0.1)
            assert trio.current_time() - began < 10
            requests = sum(swarm.net.requests.values())
            assert requests < 300
            assert len(swarm.net.requests) < 150  # half of them were not even asked
            assert len(table_of(node)) > 80
            assert not [peer for peer in table_of(node) if swarm.is_dead(peer)]
            assert await share_of_true_closest(node, swarm, 8) > 0.995


async def test_dead_bootstrap_peers_do_not_hold_up_the_good_one(autojump_clock):
    async with swarm_of(60, Random(2), dead=0.3) as swarm:
        holes = sorted(swarm.net.dead, key=lambda peer: peer.key)[:8]
        async with node_in(swarm, [*holes, ordinary(swarm)[0]]) as node:
            with trio.fail_after(10):
                while len(table_of(node)) < 20:
                    await trio.sleep(0.1)


async def test_a_second_join_repeats_no_whole_refresh(autojump_clock):
    async with (
        swarm_of(300, Random(3), dead=0.0, slow=0.0) as swarm,
        node_in(swarm, swarm.peers[:6]) as node,
    ):
        await trio.sleep(30)
        lookups = node.stats().lookups["completed"]
        cpls = len(node._node.main.network.table.cpl_counts())
        assert lookups <= cpls


@pytest.mark.conformance("c51")
async def test_a_star_of_three_becomes_a_mesh_by_refreshing(autojump_clock):
    async with memory_net(0.01) as net, open_nodes(net, 3) as nodes:
        await settle(nodes, 2)
        peers = {node.peer_id for node in nodes}
        assert [{node.peer_id, *table_of(node)} for node in nodes] == [peers] * 3


@pytest.mark.conformance("c51")
async def test_a_node_with_few_peers_learns_more_of_them_through_a_newcomer(autojump_clock):
    """Two know each other only, and have looked around; then one of them meets one of a crowd."""
    async with memory_net(0.01) as net, open_nodes(net, 2, first=50) as pair:
        await settle(pair, 1)
        pair_hosts, net.hosts = net.hosts, {}
        async with open_nodes(net, 8) as others:
            net.hosts |= pair_hosts
            await settle(others, 7)
            await trio.sleep(REFRESH_INTERVAL_S / 2)
            await pair[0].connect(full_addr(host_of(others[3])))
            with trio.fail_after(REFRESH_INTERVAL_S / 3):
                while len(table_of(pair[0])) < 9:
                    await trio.sleep(1)


@pytest.mark.parametrize("count", [2, 8])
async def test_nodes_that_join_at_the_same_moment_know_each_other_within_seconds(
    autojump_clock, count
):
    """The node through which they join learns who they are only after they have looked around."""
    async with memory_net(0.01) as net, open_nodes(net, 1) as [known]:
        host = host_of(known)
        tell = host._tell

        async def tell_later(event):
            await trio.sleep(1)
            tell(event)

        host._tell = lambda event: net.nursery.start_soon(tell_later, event)
        async with open_nodes(net, count, first=1) as joining:
            with trio.fail_after(15):
                await settle(joining, count)


# --- peers that die -------------------------------------------------------------------------------


@pytest.mark.parametrize("down_s", [1, 5, 100])
async def test_nodes_that_died_and_came_back_are_taken_back_by_all_within_seconds(
    autojump_clock, down_s
):
    """Half of them die without a word and return with the same keys and addresses: while requests
    to them are still open, or after all others have given them up."""
    async with memory_net(0.01) as net, open_nodes(net, 4) as survivors:
        async with open_nodes(net, 4, first=4) as victims, trio.open_nursery() as nursery:
            await settle([*survivors, *victims], 7)
            died = {node.peer_id for node in victims}
            net.dead |= died
            net.mute |= died

            async def ask_on(node: DHTManager) -> None:
                for number in itertools.count():
                    await node.find_closest_peers(b"%d" % number)
                    await trio.sleep(1)

            for node in survivors:
                nursery.start_soon(ask_on, node)
            await trio.sleep(down_s)
            nursery.cancel_scope.cancel()
        assert down_s < 10 or [3] * 4 == [len(table_of(node)) for node in survivors]
        net.dead.clear()
        net.mute.clear()
        async with open_nodes(net, 4, first=4) as returned:
            everybody = [*survivors, *returned]
            with trio.fail_after(15):
                await settle(everybody, 7)
            for number, provider in enumerate(everybody):
                key = b"\x12\x20" + bytes([number] * 32)
                with trio.fail_after(5):
                    assert 7 == (await provider.provide(key, quorum=7)).holders
                held = [node for node in everybody if await node.provider_records(key)]
                assert 7 == len(held)
            await trio.sleep(60)  # failures of requests from before say nothing now
            assert [7] * 8 == [len(table_of(node)) for node in everybody]


@pytest.mark.conformance("c52")
async def test_peers_silent_for_too_long_are_asked_and_leave_if_they_do_not_answer(autojump_clock):
    async with (
        swarm_of(40, Random(4), dead=0.0, slow=0.0) as swarm,
        node_in(swarm, swarm.peers[:1]) as node,
    ):
        with trio.fail_after(30):
            while len(table_of(node)) < 30:
                await trio.sleep(1)
        (victim, other, *_) = table_of(node)
        for peer in (victim, other):
            await host_of(node).disconnect(peer)
        swarm.net.dead.add(victim)
        await trio.sleep(LIVENESS_GRACE_S + 2 * REFRESH_INTERVAL_S)
        entry = node._node.main.network.table.entry(other)
        assert victim not in table_of(node)
        assert entry is not None
        assert entry.last_answered > trio.current_time() - LIVENESS_GRACE_S


@pytest.mark.conformance("c52")
async def test_a_suspect_that_does_not_answer_its_probe_leaves_at_once(autojump_clock):
    async with (
        swarm_of(40, Random(4), dead=0.0, slow=0.0) as swarm,
        node_in(swarm, swarm.peers[:1]) as node,
    ):
        await trio.sleep(60)
        victim, innocent, *_ = table_of(node)
        for peer in (victim, innocent):
            await host_of(node).disconnect(peer)
            node._node.main.network.refresh.suspect(peer)
        swarm.net.refusing.add(victim)
        node._node.main.upkeep.notify_changed()
        await trio.sleep(3)
        assert victim not in table_of(node)
        assert innocent in table_of(node)


async def test_a_peer_that_died_makes_way_for_one_that_found_its_bucket_full(autojump_clock):
    async with (
        swarm_of(300, Random(5), dead=0.0, slow=0.0) as swarm,
        node_in(swarm, swarm.peers[:1]) as node,
    ):
        await trio.sleep(2 * REFRESH_INTERVAL_S)
        table = node._node.main.network.table
        assert table.cpl_counts()[0] == K
        for number in range(20):
            await node.find_closest_peers(b"%d" % number)
        assert node._node.main.network.admission.replacements > 20
        victims = [peer for peer in table_of(node) if table.entry(peer).cpl == 0][:5]
        for peer in victims:
            await host_of(node).disconnect(peer)
            swarm.net.refusing.add(peer)
            node._node.main.network.refresh.suspect(peer)
        node._node.main.upkeep.notify_changed()
        await trio.sleep(5)
        assert not set(victims) & set(table_of(node))
        assert table.cpl_counts()[0] == K


async def test_an_outage_of_the_own_network_does_not_cost_the_table(autojump_clock):
    async with swarm_of(300, Random(6)) as swarm, node_in(swarm, ordinary(swarm)[:1]) as node:
        await trio.sleep(60)
        before = table_of(node)
        swarm.net.cut = True
        for peer in list(host_of(node).peers):
            await host_of(node).disconnect(peer)
        for number in range(30):
            await node.find_closest_peers(b"%d" % number)
            await trio.sleep(10)
        assert node._node.main.network.outage.suspected
        assert len(table_of(node)) > len(before) - OUTAGE_FAILURES
        swarm.net.cut = False
        with trio.fail_after(30):
            while node._node.main.network.outage.suspected:
                await trio.sleep(0.5)
        await trio.sleep(30)  # all suspects are judged
        assert len(set(table_of(node)) & set(before)) > 0.95 * len(before)
        assert await share_of_true_closest(node, swarm, 8) > 0.995


@pytest.mark.parametrize(
    ("is_told", "within_s"), [(True, 2), (False, 6)], ids=["own link", "further away"]
)
async def test_after_an_outage_of_the_own_network_a_small_table_is_whole_within_seconds(
    autojump_clock, is_told, within_s
):
    """The system tells of the own link. Of an outage further away only answers tell."""
    async with (
        swarm_of(8, Random(6), dead=0.0, slow=0.0) as swarm,
        node_in(swarm, swarm.peers[:2]) as node,
    ):
        await trio.sleep(60)
        swarm.net.cut = True
        host = host_of(node)
        for peer in list(host.peers):
            await host.disconnect(peer)
        for number in range(60):  # ten minutes, in which people go on asking
            await node.find_closest_peers(b"%d" % number)
            await trio.sleep(10)
        swarm.net.cut = False
        if is_told:
            host._tell(AddrsChanged(host.addrs))
        began = trio.current_time()
        while len(table_of(node)) < 8:
            await trio.sleep(0.1)
        while await share_of_true_closest(node, swarm, 1) < 1:
            await trio.sleep(0.2)
        assert trio.current_time() - began < within_s


# --- joining again --------------------------------------------------------------------------------


@pytest.mark.conformance("c53")
async def test_a_node_whose_table_is_empty_joins_again(autojump_clock):
    async with (
        swarm_of(5, Random(7), dead=0.0, slow=0.0) as swarm,
        node_in(swarm, swarm.peers[:1]) as node,
    ):
        with trio.fail_after(30):
            while len(table_of(node)) < 5:
                await trio.sleep(1)
        for peer in table_of(node):
            node._node.main.network.admission.withdraw(peer, soon())
        node._node.main.upkeep.notify_changed()
        assert table_of(node) == []
        with trio.fail_after(LOW_PEERS_CHECK_S):
            while len(table_of(node)) < 5:
                await trio.sleep(1)


@pytest.mark.conformance("c53")
async def test_where_all_bootstrap_peers_are_dead_they_are_tried_again_ever_less_often(
    autojump_clock,
):
    async with swarm_of(8, Random(8), dead=0.0, slow=0.0) as swarm:
        swarm.net.dead |= set(swarm.peers)
        async with node_in(swarm, swarm.peers[:2]) as node:
            dials = host_of(node).dials
            await trio.sleep(200)
            early = sum(dials.values())
            await trio.sleep(1_800)
            late = sum(dials.values()) - early
            assert early >= 2 * 4
            assert 2 * 3 <= late < 9 * early / 2
            swarm.net.dead.clear()
            with trio.fail_after(400):
                while len(table_of(node)) < 8:
                    await trio.sleep(1)


async def test_a_change_of_the_own_addresses_begins_joining_anew(autojump_clock):
    async with swarm_of(8, Random(8), dead=0.0, slow=0.0) as swarm:
        swarm.net.dead |= set(swarm.peers)
        async with node_in(swarm, swarm.peers[:2]) as node:
            await trio.sleep(1_000)  # rounds are minutes apart by now
            swarm.net.dead.clear()
            host = host_of(node)
            host._tell(AddrsChanged(host.addrs))
            with trio.fail_after(20):
                while len(table_of(node)) < 8:
                    await trio.sleep(1)


@pytest.mark.parametrize("attempt", range(6))
async def test_who_gives_up_on_joining_ends_the_dials(autojump_clock, attempt):
    """Also those whose turn comes at that very moment: trio orders the tasks by chance."""
    async with swarm_of(30, Random(8), dead=0.0, slow=0.0) as swarm:
        swarm.net.dead |= set(swarm.peers)
        async with node_in(swarm, []) as node:
            host, dialling = host_of(node), 0
            connect = host.connect

            async def counted(*args, **options):
                nonlocal dialling
                dialling += 1
                try:
                    await connect(*args, **options)
                finally:
                    dialling -= 1

            host.connect = counted
            with trio.move_on_after(3):
                await node.bootstrap([swarm.full_addr(peer) for peer in swarm.peers])
            await trio.sleep(0.1)
            assert dialling == 0
            dialled = sum(host.dials.values())
            assert 0 < dialled < 30
            await trio.sleep(10)
            assert sum(host.dials.values()) == dialled  # and nobody else's turn comes


async def test_a_bug_in_one_step_of_the_upkeep_holds_nothing_up(autojump_clock):
    async with (
        swarm_of(5, Random(7), dead=0.0, slow=0.0) as swarm,
        node_in(swarm, swarm.peers[:2]) as node,
    ):
        host, connect = host_of(node), host_of(node).connect

        async def fails_once(*_args, **_options):
            host.connect = connect
            raise ValueError("a bug")

        host.connect = fails_once
        with trio.fail_after(60):
            while len(table_of(node)) < 5:
                await trio.sleep(1)
        assert node.stats().failures == {"upkeep": 1}


# --- restarts -------------------------------------------------------------------------------------


@pytest.mark.conformance("c54")
async def test_after_a_restart_remembered_peers_are_verified_before_they_are_handed_out(
    autojump_clock, tmp_path
):
    async with swarm_of(200, Random(9), dead=0.0, slow=0.03) as swarm:
        async with node_in(swarm, swarm.peers[:1], data_dir=tmp_path) as node:
            await until(lambda: len(table_of(node)) > 60)
            remembered = table_of(node)
        rng = Random(1)
        died = rng.sample(remembered, len(remembered) // 3)
        swarm.net.dead |= set(died[::2])
        swarm.net.refusing |= set(died[1::2])
        swarm.net.requests.clear()
        async with node_in(swarm, [], data_dir=tmp_path) as node:  # nobody to join through
            assert table_of(node) == []
            assert node.get_closest_peers(b"key") == []
            began = trio.current_time()
            alive = set(remembered) - set(died)
            while trio.current_time() < began + 10:
                await trio.sleep(0.05)
                assert not set(died) & set(table_of(node))
            assert alive <= set(swarm.net.requests)
            assert len(table_of(node)) > len(remembered) / 2
            assert sum(swarm.net.requests.values()) < 2 * len(swarm.peers)
            assert await share_of_true_closest(node, swarm, 5) > 0.995


async def test_remembered_peers_are_tried_again_until_one_is_there(autojump_clock, tmp_path):
    async with swarm_of(30, Random(10), dead=0.0, slow=0.0) as swarm:
        async with node_in(swarm, swarm.peers[:1], data_dir=tmp_path) as node:
            await until(lambda: len(table_of(node)) == 30)
        swarm.net.cut = True
        async with node_in(swarm, [], data_dir=tmp_path) as node:
            await trio.sleep(600)
            assert table_of(node) == []
            swarm.net.cut = False
            with trio.fail_after(400):
                while len(table_of(node)) < 30:
                    await trio.sleep(1)


async def test_a_round_that_reaches_nobody_is_one_line_with_each_reason_once(
    autojump_clock, monkeypatch
):
    peers = [peer_id_of(number) for number in (7, 8, 9)]
    unknown = NetworkError("cannot resolve _dnsaddr.example.org")

    async def connect(peer_id, addrs, deadline, **_how):
        raise unknown if peer_id != peers[2] else DialError("refused")

    async with memory_net() as net:
        host = net.host(1)
        monkeypatch.setattr(host, "connect", connect)
        addrs = [f"/ip4/127.0.0.1/tcp/1/p2p/{peer}" for peer in peers]
        with capture_logs() as lines:
            async with DHTManager(host, bootstrap=addrs) as node:
                await until(lambda: node.bootstrap_state == "unreachable")
    said = [line for line in lines if line["log_level"] != "debug"]
    [line, *others] = [(line["log_level"], line["peers"], line["reasons"]) for line in said]
    assert ("warning", 3, [f"{unknown} (2 peers)", "refused"]) == line
    assert [line] * len(others) == others  # of further rounds
    assert 3 * len(said) <= len(lines) - len(said)
