"""Who answers and who acts for each member: active nodes, and servers that only answer.

Decides which members get a node, and when one is made. A static server that holds records is kept.
Of the others, the least recently asked one is dropped. If it is asked again, it is made again, and
is the same.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from random import Random
from typing import Final

from codio_dht.core.peer import PeerId
from codio_dht.core.peer_book import PeerBook
from codio_dht.errors import UsageError
from codio_dht.sim.disk import VirtualDisk
from codio_dht.sim.node import SimNode, StaticServer
from codio_dht.sim.population import Member
from codio_dht.sim.world import Contact, World

BOOTSTRAP_MEMBERS: Final = 5
"""Servers through which nodes join: honest, reachable, quick and never away."""

MAX_KEPT_SERVERS: Final = 3_000
"""Static servers without records that exist at a time: some 60 KiB each."""

_NOBODY: Final = PeerId(bytes((0x00, 0x04)) + b"book")
"""Whose book the static servers share: nobody's."""


class Hosts:
    """The nodes and static servers of a world.

    Raises:
        UsageError: the scenario leaves nobody to join through.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        world.contact_of = self._contact_of
        self.nodes: dict[int, SimNode] = {}
        """The active nodes that live, by their member's index."""
        self.static: OrderedDict[int, StaticServer] = OrderedDict()
        """The static servers that exist, the one asked last at the end."""
        self.disks: defaultdict[int, VirtualDisk] = defaultdict(VirtualDisk)
        """What the active nodes wrote, also those that are away."""
        self._book = PeerBook(_NOBODY)
        slow_s = world.scenario.network.slow_one_way_s
        self.bootstrap = [
            each for each in self.living() if not each.character.lies and each.one_way_s < slow_s
        ][:BOOTSTRAP_MEMBERS]
        """The members through which nodes join."""
        if not self.bootstrap:
            raise UsageError("scenario: there is no honest living server to join through")

    def living(self) -> list[Member]:
        """The servers that can be reached and answer now."""
        return [each for each in self._world.population.members if each.serves]

    def activate(self, member: Member, *, filled: bool = False) -> SimNode:
        """The active node of ``member``, made if there is none; if it is to be ``filled``, with a
        perfect table."""
        node = self.nodes.get(member.index)
        if node is None:
            node = SimNode(self._world, member, self.disks[member.index])
            self.nodes[member.index] = node
            if filled:
                scenario, population = self._world.scenario, self._world.population
                churns = scenario.churn.share > 0
                node.fill(population.table_of(member, scenario.network.k, online_only=churns))
        return node

    def any_server(self, rng: Random) -> SimNode:
        """The active node of a random honest server that is online."""
        population = self._world.population
        while True:
            member = population.members[int(rng.random() * population.servers)]
            if member.online and not member.character.lies:
                return self.activate(member, filled=True)

    def _contact_of(self, member: Member) -> Contact | None:
        node = self.nodes.get(member.index)
        if node is not None or not member.is_server or self._world.scenario.all_active:
            return node
        server = self.static.get(member.index)
        if server is None:
            server = self.static[member.index] = StaticServer(self._world, member, self._book)
            if len(self.static) > MAX_KEPT_SERVERS:
                self._forget_one()
        self.static.move_to_end(member.index)
        return server

    def _forget_one(self) -> None:
        for index, server in self.static.items():
            if not len(server.storage):
                del self.static[index]
                return
