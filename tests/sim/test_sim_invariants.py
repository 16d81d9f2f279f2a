"""The invariants can fail: each is broken on purpose and must say so."""

from __future__ import annotations

import random
from typing import Any

import pytest

from codio_dht.core.clock import Monotonic, UnixTime
from codio_dht.core.keyspace import Key
from codio_dht.core.lookup_states import ClosestPeer, Done, Standing, StopReason
from codio_dht.core.messages import FindNode
from codio_dht.core.peer import PeerId
from codio_dht.core.routing_table import RoutingTable
from codio_dht.core.unsaved import Flush, ProviderRow
from codio_dht.core.value_records import ValueFlush, ValueRow
from codio_dht.sim import invariants
from codio_dht.sim.disk import VirtualDisk
from codio_dht.sim.invariants import InvariantError
from codio_dht.sim.links import ConnectionTable
from codio_dht.sim.node import SimNode
from codio_dht.sim.population import Population
from codio_dht.sim.scenario import make_scenario
from codio_dht.sim.simulation import Simulation

NOW = Monotonic(1.0)
RNG = random.Random(1)


def simulation_of(**parts: Any) -> Simulation:
    network = {"nodes": 60, "diverse": False} | parts.pop("network", {})
    return Simulation(make_scenario({"name": "faulty", "network": network} | parts))


def a_node(simulation: Simulation) -> SimNode:
    return simulation.hosts.activate(simulation.world.population.members[7], filled=True)


def peers(count: int) -> list[PeerId]:
    return [PeerId(bytes((0x12, 0x20)) + number.to_bytes(32, "big")) for number in range(count)]


def result_of(*found: PeerId, standing: Standing = Standing.ANSWERED) -> Done:
    return Done(StopReason.COMPLETED, tuple(ClosestPeer(each, standing) for each in found))


# --- lookups --------------------------------------------------------------------------------------


def test_asking_twice_and_asking_oneself_is_seen() -> None:
    local, other = peers(2)
    request = FindNode(b"key")
    invariants.check_ask((other, request), local, {(other, FindNode(b"another")): None})
    with pytest.raises(InvariantError, match="twice"):
        invariants.check_ask((other, request), local, {(other, request): None})
    with pytest.raises(InvariantError, match="its own node"):
        invariants.check_ask((local, request), local, {})


def test_waiting_for_the_past_and_waiting_for_nothing_is_seen() -> None:
    invariants.check_wait(Monotonic(2.0), NOW, 0)
    with pytest.raises(InvariantError, match="is over"):
        invariants.check_wait(NOW, NOW, 5)
    with pytest.raises(InvariantError, match="for ever"):
        invariants.check_wait(None, NOW, 0)


def test_a_result_out_of_order_or_untrue_is_seen() -> None:
    local, *others = peers(4)
    target = Key(0)
    near, middle, far = sorted(others, key=lambda peer: peer.key)
    answered = dict.fromkeys(others)
    invariants.check_done(result_of(near, middle, far), target, local, answered)
    with pytest.raises(InvariantError, match="nearest first"):
        invariants.check_done(result_of(middle, near), target, local, answered)
    with pytest.raises(InvariantError, match="twice"):
        invariants.check_done(result_of(near, near), target, local, answered)
    with pytest.raises(InvariantError, match="its own node"):
        invariants.check_done(result_of(local), target, local, answered)
    with pytest.raises(InvariantError, match="never answered"):
        invariants.check_done(result_of(near), target, local, {})
    invariants.check_done(result_of(near, standing=Standing.ALIVE), target, local, {})


# --- nodes ----------------------------------------------------------------------------------------


def test_a_table_with_too_many_of_one_cpl_or_a_lost_peer_is_seen() -> None:
    table = RoutingTable(Key(0), bucket_size=3)
    for peer in peers(40):
        table.add(peer, NOW)
    invariants.check_table(table, RNG)
    crowd = [peer for peer in peers(200) if peer.key >> 255 and peer not in table]
    table._bucket_size = 100
    table.add(crowd[0], NOW)
    table._bucket_size = 3
    with pytest.raises(InvariantError, match="too many of CPL"):
        invariants.check_table(table, RNG)
    table.remove(crowd[0])
    table._buckets[0].pop()
    with pytest.raises(InvariantError, match="buckets lose peers"):
        invariants.check_table(table, RNG)


def test_a_peer_in_the_table_without_an_address_is_seen() -> None:
    node = a_node(simulation_of())
    invariants.check_node(node.network, node.storage.records, RNG, NOW)
    node.network.table.add(peers(1)[0], NOW)
    with pytest.raises(InvariantError, match="without an address"):
        invariants.check_node(node.network, node.storage.records, RNG, NOW)


def test_a_ghost_a_client_and_a_peer_that_never_answered_are_seen_in_a_table() -> None:
    simulation = simulation_of()
    population = simulation.world.population
    node = simulation.hosts.activate(population.members[7])
    node.fill(population.members[10:15])

    def check() -> None:
        invariants.check_entries(node.network, population, node.caller.met, node.given)

    check()
    node.given.clear()
    with pytest.raises(InvariantError, match="never answered"):
        check()
    node.caller.met.update(dict.fromkeys(node.network.table.peers()))
    client = population.add_client()
    node.network.table.add(client.peer, NOW)
    with pytest.raises(InvariantError, match="client"):
        check()
    node.network.table.remove(client.peer)
    node.network.table.add(peers(1)[0], NOW)
    with pytest.raises(InvariantError, match="does not exist"):
        check()


def test_a_record_that_nobody_announced_is_seen_on_a_disk() -> None:
    population = Population(make_scenario({"network": {"nodes": 2}}))
    holder, publisher = population.members
    provider = publisher.peer
    disk, key = VirtualDisk(), b"\x12\x20" + bytes(32)
    end = UnixTime(9e9)
    disk.write(Flush((ProviderRow(key, provider, (), UnixTime(0.0), end, end),), 10))
    invariants.check_disk(disk, holder.peer, {key: publisher}, {})
    with pytest.raises(InvariantError, match="nobody provided"):
        invariants.check_disk(disk, holder.peer, {}, {})
    with pytest.raises(InvariantError, match="of itself"):
        invariants.check_disk(disk, provider, {key: publisher}, {})


def test_a_value_that_is_not_genuine_is_seen_on_a_disk() -> None:
    disk, key = VirtualDisk(), b"/app/key"
    disk.write_values(ValueFlush((ValueRow(key, b"right", UnixTime(0.0)),), ()))
    invariants.check_disk(disk, peers(1)[0], {}, {key: (b"older", b"right")})
    with pytest.raises(InvariantError, match="not valid"):
        invariants.check_disk(disk, peers(1)[0], {}, {key: (b"older",)})


# --- the network ----------------------------------------------------------------------------------


def test_a_connection_with_one_end_and_one_too_many_are_seen() -> None:
    population = Population(make_scenario({"network": {"nodes": 6}}))
    connections = ConnectionTable(100, lambda gone, left: None)
    a, *others = population.members
    for each in others:
        connections.open(a, each)
    invariants.check_connections(population.members, connections, 5)
    with pytest.raises(InvariantError, match="too many connections"):
        invariants.check_connections(population.members, connections, 4)
    del connections._of[a][others[0]]
    with pytest.raises(InvariantError, match="one end"):
        invariants.check_connections(population.members, connections, 5)


def test_a_fault_planted_in_the_middle_of_a_run_ends_it() -> None:
    simulation = simulation_of(lookups={"count": 5}, run={"check_one_in": 1})

    def plant() -> None:
        node = next(iter(simulation.hosts.nodes.values()))
        node.network.table.remove(node.network.table.peers()[0])
        for peer in peers(20):
            node.network.table.add(peer, NOW)

    simulation.world.queue.at(0.2, plant)
    with pytest.raises(InvariantError, match="replay: scripts/simulate faulty --seed 1"):
        simulation.run()


def test_a_lookup_engine_that_lies_about_an_answer_ends_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from codio_dht.core.lookup_states import Candidate

    monkeypatch.setattr(Candidate, "result", lambda each: ClosestPeer(each.peer, Standing.ANSWERED))
    simulation = simulation_of(network={"mute": 0.4}, lookups={"count": 5})
    for member in simulation.world.population.members:
        member.one_way_s = 0.01
    with pytest.raises(InvariantError, match="never answered, but reported so"):
        simulation.run()
