"""When invariants are checked: for the nodes an event touched, and for the network at intervals.

Decides only the time of the checks. :mod:`codio_dht.sim.invariants` has the checks themselves. Uses
a random generator of its own, so a run is the same whether it is checked or not.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from random import Random
from typing import Final

from codio_dht.core.peer import PeerId
from codio_dht.sim import invariants
from codio_dht.sim.disk import VirtualDisk
from codio_dht.sim.node import SimNode
from codio_dht.sim.serving import StaticServers
from codio_dht.sim.world import World

MAX_STATIC_CHECKS: Final = 200
"""Tables of static servers looked at in one check of the network: they never change."""


class Checker:
    """Checks invariants during a run. The keys of ``nodes`` and ``disks`` are indexes of members;
    ``provided`` says who provided what."""

    def __init__(
        self,
        world: World,
        nodes: Mapping[int, SimNode],
        static: StaticServers,
        disks: Mapping[int, VirtualDisk],
        provided: Container[tuple[bytes, PeerId]],
    ) -> None:
        self._world = world
        self._nodes = nodes
        self._static = static
        self._disks = disks
        self._provided = provided
        self._run = world.scenario.run
        self._rng = Random(f"{world.scenario.seed}/checks")
        self._steps = 0
        self.checks = 0
        """Times that the invariants of a node or of the network were checked."""

    def begin(self) -> None:
        """Schedule the checks of the whole network."""
        if self._run.check_interval_s:
            self._world.queue.after(self._run.check_interval_s, self._at_intervals)

    def after_step(self) -> None:
        """Check the nodes that an event touched, if this event is one of those to check."""
        touched = self._world.touched
        if not touched:
            return
        self._steps += 1
        if self._run.check_touched and self._steps % self._run.check_one_in == 0:
            for member in dict.fromkeys(touched):
                node = self._nodes.get(member.index)
                if node is not None:
                    self._node(node)
        touched.clear()

    def everything(self) -> None:
        """Check the whole network."""
        world = self._world
        self.checks += 1
        for node in self._nodes.values():
            self._node(node)
        for server in self._static.existing()[:MAX_STATIC_CHECKS]:
            invariants.check_table(server.table, self._rng)
        for index, disk in self._disks.items():
            invariants.check_disk(disk, world.population.members[index].peer, self._provided)
        invariants.check_connections(world.connections, world.scenario.links.max_connections)

    def _at_intervals(self) -> None:
        self.everything()
        self.begin()

    def _node(self, node: SimNode) -> None:
        self.checks += 1
        now, population = self._world.queue.now, self._world.population
        invariants.check_node(node.network, node.keeper.records, self._rng, now)
        invariants.check_entries(node.network, population, node.caller.met, node.given)
