"""One run: makes the hosts of a scenario, runs all events, and makes the report.

Decides who is active (runs all of ``core``) and who only answers, and when invariants are checked.
A broken invariant ends the run. The error names the moment and the command that replays it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Final

from codio_dht.sim import invariants
from codio_dht.sim.churn import begin_churn
from codio_dht.sim.events import Process, Sink, Trace
from codio_dht.sim.hosts import Hosts
from codio_dht.sim.invariants import InvariantError
from codio_dht.sim.links import NOTICE_S
from codio_dht.sim.node import SimNode
from codio_dht.sim.population import Member
from codio_dht.sim.report import Figures, find_figures, lookup_figures, mean, ratio, timeline
from codio_dht.sim.scenario import Scenario
from codio_dht.sim.upkeep import SimulatedUpkeep
from codio_dht.sim.workloads import LookupWorkload, RecordWorkload, ValueWorkload
from codio_dht.sim.world import World

MAX_VIRTUAL_S: Final = 30 * 24 * 3600.0
"""No run is longer than this in virtual time."""

MAX_STATIC_CHECKS: Final = 200
"""Tables of static servers looked at in one check of the network: they never change."""


class Simulation:
    """One run of a scenario.

    Raises:
        UsageError: the scenario leaves nobody to join through.
    """

    def __init__(self, scenario: Scenario, sink: Sink | None = None) -> None:
        self.scenario = scenario
        self.world = World(scenario, Trace(sink))
        self.hosts = Hosts(self.world)
        self.lookups = LookupWorkload(self.world, self.hosts)
        self.records = RecordWorkload(self.world, self.hosts)
        self.values = ValueWorkload(self.world, self.hosts)
        self._check_rng = Random(f"{scenario.seed}/checks")
        """The checks draw from it, so that a run is the same whether it is checked or not."""
        self._touches = 0
        self._checks = 0
        self._remembered: dict[int, list[Member]] = {}
        """The routing tables of the members that are away."""
        self._unjoined = 0
        self._join_s = 0.0
        self._join_requests = 0

    # --- the run ----------------------------------------------------------------------------------

    def run(self) -> Figures:
        """Run the scenario to its end.

        Raises:
            InvariantError: an invariant was broken.
        """
        queue, duration_s = self.world.queue, self.scenario.run.duration_s
        try:
            self.begin()
            while (duration_s or not self._is_over()) and queue.step(duration_s or MAX_VIRTUAL_S):
                self._check_touched()
            for host in (*self.hosts.nodes.values(), *self.hosts.static.values()):
                host.storage.stop(graceful=True)  # so that all that is held is checked
            self._check_everything()
        except InvariantError as error:
            raise InvariantError(
                f"{error} [at {queue.now:.6f} s, step {queue.processed}; replay: scripts/simulate "
                f"{self.scenario.name} --seed {self.scenario.seed}]"
            ) from error
        return self._report()

    def begin(self) -> None:
        """Schedule the first events."""
        Process(self._check_at_intervals())
        if self.scenario.records.keys:
            self._begin_records()
        if self.scenario.all_active:
            self._begin_all()
        part, clients = self.scenario.lookups, []
        if part.source == "clients" and part.count:
            clients = [self.world.population.add_client() for _ in range(part.clients)]
        self._unjoined += len(clients)
        for client in clients:
            SimulatedUpkeep(self.hosts.activate(client), self.hosts.bootstrap).begin(self._joined)
        if not self._unjoined:
            self._begin_work()

    def _begin_records(self) -> None:
        honest = [each for each in self.hosts.living() if not each.character.lies]
        self.records.assign(honest)
        Process(self.records.search())
        if not self.scenario.all_active:
            for member in dict.fromkeys(self.records.publisher_of.values()):
                self.records.start(self.hosts.activate(member, filled=True))

    def _begin_all(self) -> None:
        """Start all of ``core`` on every member that is online."""
        if self.scenario.churn.share:
            staying = [*self.hosts.bootstrap, *self.records.publisher_of.values()]
            begin_churn(self.world, staying, leave=self.leave, come=self.come)
        here = [each for each in self.world.population.members if each.online]
        if self.scenario.network.bootstrap == "oracle":
            for member in here:
                self._start(self.hosts.activate(member, filled=True))
            return
        self._unjoined += len(here)
        for place, member in enumerate(here):
            moment_s = self.scenario.network.join_spread_s * place / len(here)
            self.world.queue.at(moment_s, partial(self._join, member))

    def _join(self, member: Member) -> None:
        if member.online:
            self._start(self.hosts.activate(member), self._joined)
        else:
            self._joined()

    def _start(self, node: SimNode, joined: Callable[[], None] | None = None) -> None:
        upkeep = SimulatedUpkeep(node, self.hosts.bootstrap)
        upkeep.begin(joined)
        upkeep.remember(self._remembered.get(node.member.index, []))
        self.records.start(node)

    def _joined(self) -> None:
        self._unjoined -= 1
        if self._unjoined == 0:
            self._join_s = self.world.queue.now
            self._join_requests = self.world.counters["requests"]
            self._begin_work()

    def _begin_work(self) -> None:
        self.lookups.begin()
        self.values.begin()

    def _is_over(self) -> bool:
        return self.lookups.over and self.values.over

    # --- coming and going -------------------------------------------------------------------------

    def leave(self, member: Member, graceful: bool) -> None:
        """Stop the node of ``member``. If it does not stop cleanly, the others notice it later."""
        world = self.world
        world.counters["leavings"] += 1
        world.note("leaves", member.index, graceful)
        node = self.hosts.nodes.pop(member.index)
        peers = [world.population.by_id(peer) for peer in node.network.table.peers()]
        self._remembered[member.index] = [each for each in peers if each is not None]
        node.stop(graceful=graceful)
        member.online = False
        others = world.connections.of(member)
        if graceful:
            self._close(member, others)
        else:
            world.queue.after(NOTICE_S, partial(self._noticed, member, others))

    def come(self, member: Member) -> None:
        """Start the node of ``member`` again."""
        self.world.note("comes", member.index)
        self._close(member, self.world.connections.of(member))
        member.online = True
        self._start(self.hosts.activate(member))

    def _noticed(self, member: Member, others: list[Member]) -> None:
        """Let the others notice that ``member`` has vanished, unless it is back."""
        if not member.online:
            self._close(member, others)

    def _close(self, member: Member, others: list[Member]) -> None:
        for other in others:
            self.world.connections.close(member, other)

    # --- invariants -------------------------------------------------------------------------------

    def _check_touched(self) -> None:
        """Check the nodes that an event touched, if this event is one of those to check."""
        touched, nodes = self.world.touched, self.hosts.nodes
        if not touched:
            return
        self._touches += 1
        if self._touches % self.scenario.run.check_one_in == 0:
            for member in dict.fromkeys(touched):
                if member.index in nodes:
                    self._check_node(nodes[member.index])
        touched.clear()

    async def _check_at_intervals(self) -> None:
        while interval_s := self.scenario.run.check_interval_s:
            await self.world.queue.sleep(interval_s)
            self._check_everything()

    def _check_everything(self) -> None:
        world, hosts = self.world, self.hosts
        self._checks += 1
        for node in hosts.nodes.values():
            self._check_node(node)
        for server in list(hosts.static.values())[:MAX_STATIC_CHECKS]:
            invariants.check_table(server.table, self._check_rng)
        disks = {each.member.index: each.storage.disk for each in hosts.static.values()}
        for index, disk in (hosts.disks | disks).items():
            holder = world.population.members[index].peer
            invariants.check_disk(disk, holder, self.records.publisher_of, world.values.genuine)
        invariants.check_connections(
            world.population.members, world.connections, self.scenario.links.max_connections
        )

    def _check_node(self, node: SimNode) -> None:
        self._checks += 1
        now = self.world.queue.now
        invariants.check_node(node.network, node.storage.records, self._check_rng, now)
        invariants.check_entries(node.network, self.world.population, node.caller.met, node.given)

    # --- the end ----------------------------------------------------------------------------------

    def _report(self) -> Figures:
        world = self.world
        return {
            "scenario": self.scenario.name,
            "seed": self.scenario.seed,
            "nodes": world.population.servers,
            "living": len(self.hosts.living()),
            "virtual_s": world.queue.now,
            "events": world.queue.processed,
            "digest": world.trace.digest(),
            "trace_lines": world.trace.lines,
            "lookups": lookup_figures(self.lookups.results),
            "join_s": self._join_s,
            "join_requests": self._join_requests,
            "records": find_figures(self.records.holders, self.records.results),
            "values": find_figures(self.values.holders, self.values.results),
            "timeline": timeline(
                self.lookups.results, self.records.results, self.scenario.run.duration_s
            ),
            "tables": self._table_figures(),
            "counters": dict(sorted(world.counters.items())),
            "messages": world.wire.messages,
            "encoded": world.wire.encoded,
            "bytes": world.wire.estimated_bytes,
            "checks": self._checks,
        }

    def _table_figures(self) -> Figures:
        """Of the active nodes: entries on average, and which share of them are living servers."""
        tables = [node.network.table.peers() for node in self.hosts.nodes.values()]
        members = [self.world.population.by_id(peer) for table in tables for peer in table]
        living = sum(each is not None and each.serves for each in members)
        entries = mean([len(each) for each in tables])
        return {"entries": entries, "living": ratio(living, len(members))}


def run_scenario(scenario: Scenario, sink: Sink | None = None) -> Figures:
    """Run ``scenario``; every line of its trace goes to ``sink``.

    Raises:
        InvariantError, UsageError: as :class:`Simulation`.
    """
    return Simulation(scenario, sink).run()
