"""What the upkeep makes of peers that die and come back: whole nodes on the virtual clock."""

from __future__ import annotations

import pytest

from codio_dht.sim.population import Member
from codio_dht.sim.scenario import make_scenario
from codio_dht.sim.simulation import Simulation

WHOLE_WITHIN_S = 15.0
"""So long after a change every table has to be right."""


def begun(nodes: int, seed: int, *, join_spread_s: float = 20.0, jitter: float = 1.0) -> Simulation:
    """A network of ``nodes`` that join through one of them."""
    simulation = Simulation(
        make_scenario(
            {
                "name": "test",
                "seed": seed,
                "network": {"nodes": nodes, "bootstrap": "join", "join_spread_s": join_spread_s},
                "links": {"jitter": jitter},
                "lookups": {"count": 0},
                "run": {"duration_s": 3_600},
            }
        )
    )
    del simulation.hosts.bootstrap[1:]
    simulation.begin()
    return simulation


def pass_time(simulation: Simulation, seconds: float) -> None:
    simulation.world.queue.run(simulation.world.queue.now + seconds)


def missing(simulation: Simulation) -> list[tuple[int, int]]:
    """Who is not in whose table."""
    nodes = simulation.hosts.nodes.values()
    return [
        (node.member.index, other.member.index)
        for node in nodes
        for other in nodes
        if other is not node and other.member.peer not in node.network.table
    ]


def look_around(simulation: Simulation, gone: list[Member]) -> None:
    """Every node looks for everyone who is gone."""
    for node in list(simulation.hosts.nodes.values()):
        for member in gone:
            node.caller.start(node.closest(member.peer.to_bytes()))


def still_known(simulation: Simulation, gone: list[Member]) -> bool:
    """Whether any of those who are gone has a place in a table."""
    tables = [node.network.table for node in simulation.hosts.nodes.values()]
    return any(member.peer in table for member in gone for table in tables)


@pytest.mark.parametrize("seed", range(4))
def test_half_of_a_network_that_dies_without_a_word_and_comes_back_is_taken_back(seed: int) -> None:
    simulation = begun(8, seed)
    pass_time(simulation, 120)
    assert missing(simulation) == []
    dying = [node.member for node in list(simulation.hosts.nodes.values())[4:]]
    for member in dying:
        simulation.leave(member, graceful=False)
    look_around(simulation, dying)
    for _ in range(60):  # the others try to reach them, and give up on them
        if not still_known(simulation, dying):
            break
        pass_time(simulation, 1)
    assert not still_known(simulation, dying)
    for member in dying:
        simulation.come(member)
    pass_time(simulation, WHOLE_WITHIN_S)
    assert missing(simulation) == []


@pytest.mark.parametrize("seed", range(4))
def test_one_that_is_back_before_it_was_missed_stays_in_every_table(seed: int) -> None:
    """Requests to it are under way while it is gone; they fail when it is back."""
    simulation = begun(8, seed)
    pass_time(simulation, 120)
    (*_, dying) = (node.member for node in simulation.hosts.nodes.values())
    simulation.leave(dying, graceful=False)
    look_around(simulation, [dying])
    pass_time(simulation, 5)
    simulation.come(dying)
    pass_time(simulation, 2 * WHOLE_WITHIN_S)
    assert missing(simulation) == []


@pytest.mark.parametrize("together", [2, 8])
@pytest.mark.parametrize("seed", range(1, 4))
def test_those_whose_first_packets_reach_the_bootstrap_together_find_each_other_in_seconds(
    together: int, seed: int
) -> None:
    """None of them is in the bootstrap's table yet when the others ask it. Without a second look-up
    of the own key soon after joining, they miss each other for two minutes."""
    simulation = begun(1 + together, seed, join_spread_s=0.0, jitter=0.0)
    (bootstrap,) = simulation.hosts.bootstrap
    for member in simulation.world.population.members:
        member.one_way_s = 0.05
    bootstrap.one_way_s = 0.0
    pass_time(simulation, 10)
    assert missing(simulation) == []
