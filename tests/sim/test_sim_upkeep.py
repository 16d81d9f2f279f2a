"""What the upkeep makes of peers that die and come back: whole nodes on the virtual clock."""

from __future__ import annotations

import pytest

from codio_dht.sim.population import Member
from codio_dht.sim.scenario import make_scenario
from codio_dht.sim.simulation import Simulation

WHOLE_WITHIN_S = 15.0
"""So long after a change every table has to be right."""


def begun(nodes: int, seed: int) -> Simulation:
    """A network of ``nodes`` that join through one of them."""
    simulation = Simulation(
        make_scenario(
            {
                "name": "test",
                "seed": seed,
                "network": {"nodes": nodes, "bootstrap": "join", "join_spread_s": 20},
                "links": {"jitter": 1.0},
                "lookups": {"count": 0},
                "run": {"duration_s": 3_600},
            }
        )
    )
    del simulation.bootstrap[1:]
    simulation._begin()
    return simulation


def pass_time(simulation: Simulation, seconds: float) -> None:
    simulation.world.queue.run(simulation.world.queue.now + seconds)


def missing(simulation: Simulation) -> list[tuple[int, int]]:
    """Who is not in whose table."""
    nodes = simulation.nodes.values()
    return [
        (node.member.index, other.member.index)
        for node in nodes
        for other in nodes
        if other is not node and other.member.peer not in node.network.table
    ]


def look_around(simulation: Simulation, gone: list[Member]) -> None:
    """Every node looks for everyone who is gone."""
    for node in list(simulation.nodes.values()):
        for member in gone:
            node.closest(member.peer.to_bytes(), lambda _report: None)


def still_known(simulation: Simulation, gone: list[Member]) -> bool:
    """Whether any of those who are gone has a place in a table."""
    tables = [node.network.table for node in simulation.nodes.values()]
    return any(member.peer in table for member in gone for table in tables)


@pytest.mark.parametrize("seed", range(4))
def test_half_of_a_network_that_dies_without_a_word_and_comes_back_is_taken_back(seed: int) -> None:
    simulation = begun(8, seed)
    pass_time(simulation, 120)
    assert missing(simulation) == []
    dying = [node.member for node in list(simulation.nodes.values())[4:]]
    for member in dying:
        simulation._leave(member, graceful=False)
    look_around(simulation, dying)
    for _ in range(60):  # the others try to reach them, and give up on them
        if not still_known(simulation, dying):
            break
        pass_time(simulation, 1)
    assert not still_known(simulation, dying)
    for member in dying:
        simulation._come(member)
    pass_time(simulation, WHOLE_WITHIN_S)
    assert missing(simulation) == []


@pytest.mark.parametrize("seed", range(4))
def test_one_that_is_back_before_it_was_missed_stays_in_every_table(seed: int) -> None:
    """Requests to it are under way while it is gone; they fail when it is back."""
    simulation = begun(8, seed)
    pass_time(simulation, 120)
    (*_, dying) = (node.member for node in simulation.nodes.values())
    simulation._leave(dying, graceful=False)
    look_around(simulation, [dying])
    pass_time(simulation, 5)
    simulation._come(dying)
    pass_time(simulation, 2 * WHOLE_WITHIN_S)
    assert missing(simulation) == []
