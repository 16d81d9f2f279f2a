"""When invariants are looked at: of the nodes an event touched, and of the network at intervals.

Decides when only; what must hold is in :mod:`codio_dht.sim.invariants`. Draws from a generator of
its own, so that a run is the same whether it is watched or not.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

from codio_dht.sim import invariants
from codio_dht.sim.node import SimNode

if TYPE_CHECKING:
    from codio_dht.sim.simulation import Simulation

MAX_STATIC_CHECKS: Final = 200
"""Tables of static servers looked at in one check of the network: they never change."""


class Checker:
    """See the module."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._run = simulation.scenario.run
        self._rng = Random(f"{simulation.scenario.seed}/checks")
        self._steps = 0
        self.checks = 0
        """Times that the invariants of a node or of the network were checked."""

    def begin(self) -> None:
        """Plan the checks of the whole network."""
        if self._run.check_interval_s:
            self._simulation.world.queue.after(self._run.check_interval_s, self._at_intervals)

    def after_step(self) -> None:
        """An event has happened: check whom it touched, if it is the turn of that."""
        touched = self._simulation.world.touched
        if not touched:
            return
        self._steps += 1
        if self._run.check_touched and self._steps % self._run.check_one_in == 0:
            for member in dict.fromkeys(touched):
                node = self._simulation.nodes.get(member.index)
                if node is not None:
                    self._node(node)
        touched.clear()

    def everything(self) -> None:
        """Check the whole network."""
        simulation = self._simulation
        self.checks += 1
        for node in simulation.nodes.values():
            self._node(node)
        for server in simulation.static.existing()[:MAX_STATIC_CHECKS]:
            invariants.check_table(server.table, self._rng)
        for member, disk in simulation.disks():
            invariants.check_disk(disk, member.peer, simulation.records.announcers)
        invariants.check_connections(
            simulation.world.connections, simulation.scenario.links.max_connections
        )

    def _at_intervals(self) -> None:
        self.everything()
        self.begin()

    def _node(self, node: SimNode) -> None:
        self.checks += 1
        now = self._simulation.world.queue.now
        invariants.check_node(node.network, node.keeper.records, self._rng, now)
        population = self._simulation.world.population
        invariants.check_entries(node.network, population, node.met, node.given)
