"""One run: makes the hosts of a scenario, runs all events, and makes the report.

Decides who is active (runs all of ``core``) and who only answers, and when invariants are checked.
A broken invariant ends the run. The error names the moment and the command that replays it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from codio_dht.errors import UsageError
from codio_dht.sim.checker import Checker
from codio_dht.sim.churn import Churn
from codio_dht.sim.disk import VirtualDisk
from codio_dht.sim.events import Sink, Trace
from codio_dht.sim.invariants import InvariantError
from codio_dht.sim.links import NOTICE_S
from codio_dht.sim.node import SimNode
from codio_dht.sim.population import Member
from codio_dht.sim.record_workload import RecordWorkload
from codio_dht.sim.report import LookupFigures, Report, timeline
from codio_dht.sim.scenario import Scenario
from codio_dht.sim.serving import StaticServers
from codio_dht.sim.upkeep import SimulatedUpkeep
from codio_dht.sim.workload import LookupWorkload
from codio_dht.sim.world import Contact, World

BOOTSTRAP_MEMBERS = 5
"""Servers through which nodes join: honest, reachable, quick and never away."""

MAX_VIRTUAL_S = 30 * 24 * 3600.0
"""No run is longer than this in virtual time."""


class Simulation:
    """One run of a scenario.

    Raises:
        UsageError: the scenario leaves nobody to join through.
    """

    def __init__(self, scenario: Scenario, sink: Sink | None = None) -> None:
        self.scenario = scenario
        self.world = World(scenario, Trace(sink))
        self.world.contact_of = self._contact_of
        self.nodes: dict[int, SimNode] = {}
        """The active nodes that live, by their member's index."""
        self.static = StaticServers(self.world)
        self._disks: dict[int, VirtualDisk] = {}
        self._remembered: dict[int, list[Member]] = {}
        self.bootstrap = self._choose_bootstrap()
        self.lookups = LookupWorkload(self.world, self.nodes, self.activate_filled)
        self.records = RecordWorkload(scenario, self.world.queue)
        self.checker = Checker(
            self.world, self.nodes, self.static, self._disks, self.records.providers
        )
        self._join_s = 0.0
        self._join_requests = 0
        self._unjoined = 0

    # --- the run ----------------------------------------------------------------------------------

    def run(self) -> Report:
        """Run the scenario to its end.

        Raises:
            InvariantError: an invariant was broken.
        """
        queue = self.world.queue
        until = self.scenario.run.duration_s or MAX_VIRTUAL_S
        try:
            self._begin()
            while not self._is_over() and queue.step(until):
                self.checker.after_step()
            self.checker.everything()
        except InvariantError as error:
            raise InvariantError(
                f"{error} [at {queue.now:.6f} s, step {queue.processed}; replay: scripts/simulate "
                f"{self.scenario.name} --seed {self.scenario.seed}]"
            ) from error
        return self._report()

    def _begin(self) -> None:
        self.checker.begin()
        self._begin_records()
        if self.scenario.all_active:
            self._begin_all()
        clients = self._make_clients()
        self._unjoined += len(clients)
        for client in clients:
            SimulatedUpkeep(client, self.bootstrap).begin(joined=self._one_joined)
        if not self._unjoined:
            self.lookups.begin()

    def _begin_all(self) -> None:
        """Start all of ``core`` on every member that is online."""
        if self.scenario.churn.share:
            stable = self.scenario.records.stable_publishers
            staying = [
                each
                for each in self.world.population.members
                if each in self.bootstrap or (stable and self.records.publishes(each))
            ]
            Churn(self.world, leave=self._leave, come=self._come).begin(staying)
        here = [each for each in self.world.population.members if each.online and each.is_server]
        if self.scenario.network.bootstrap == "oracle":
            for member in here:
                self._start(member, self.activate_filled(member))
            return
        self._unjoined += len(here)
        spread_s = self.scenario.network.join_spread_s
        for place, member in enumerate(here):
            moment_s = spread_s * place / len(here)
            self.world.queue.at(moment_s, partial(self._join, member))

    def _join(self, member: Member) -> None:
        if member.online:
            self._start(member, self.activate(member), self._one_joined)
        else:
            self._one_joined()

    def _start(
        self, member: Member, node: SimNode, joined: Callable[[], None] | None = None
    ) -> None:
        upkeep = SimulatedUpkeep(node, self.bootstrap)
        upkeep.begin(joined)
        upkeep.remember(self._remembered.get(member.index, []))
        self.records.start(node)

    def _begin_records(self) -> None:
        part, queue = self.scenario.records, self.world.queue
        if not part.keys:
            return
        candidates = [each for each in self.living() if not each.character.lies and each.is_server]
        self.records.assign(candidates[-part.publishers :])

        def search() -> None:
            self.records.search(self._searchers())
            queue.after(part.find_interval_s, search)

        queue.after(part.find_interval_s, search)
        if not self.scenario.all_active:
            for member in candidates[-part.publishers :]:
                self.records.start(self.activate_filled(member))

    def _searchers(self) -> list[SimNode]:
        """Honest nodes that can search now; in a static network some are made for it."""
        if not self.scenario.all_active:
            return [self.activate_filled(each) for each in self.bootstrap]
        return [
            node
            for node in self.nodes.values()
            if not node.member.character.lies and len(node.network.table)
        ]

    def _make_clients(self) -> list[SimNode]:
        part = self.scenario.lookups
        if part.source != "clients" or not part.count:
            return []
        return [self.activate(self.world.population.add_client()) for _ in range(part.clients)]

    def _one_joined(self) -> None:
        self._unjoined -= 1
        if self._unjoined == 0:
            self._join_s = self.world.queue.now
            self._join_requests = self.world.counters["requests"]
            self.lookups.begin()

    def _is_over(self) -> bool:
        return not self.scenario.run.duration_s and self.lookups.over

    # --- coming and going -------------------------------------------------------------------------

    def _leave(self, member: Member, graceful: bool) -> None:
        world = self.world
        world.counters["leavings"] += 1
        world.trace.note(world.queue.now, "leaves", member.index, graceful)
        node = self.nodes.pop(member.index)
        by_id = world.population.by_id
        peers = [by_id(peer) for peer in node.network.table.peers()]
        self._remembered[member.index] = [each for each in peers if each is not None]
        node.stop(graceful=graceful)
        member.online = False
        if graceful:
            self._close_all(member)
        else:
            world.queue.after(
                NOTICE_S, partial(self._noticed, member, world.connections.of(member))
            )

    def _noticed(self, member: Member, others: list[Member]) -> None:
        """Let the others notice that ``member`` has vanished, unless it is back."""
        if not member.online:
            for other in others:
                self.world.connections.close(member, other)

    def _close_all(self, member: Member) -> None:
        for other in self.world.connections.of(member):
            self.world.connections.close(member, other)

    def _come(self, member: Member) -> None:
        self.world.trace.note(self.world.queue.now, "comes", member.index)
        self._close_all(member)
        member.online = True
        self._start(member, self.activate(member))

    # --- hosts ------------------------------------------------------------------------------------

    def activate(self, member: Member) -> SimNode:
        """The active node of ``member``, made if there is none."""
        node = self.nodes.get(member.index)
        if node is None:
            disk = self._disks.setdefault(member.index, VirtualDisk())
            node = self.nodes[member.index] = SimNode(self.world, member, disk)
        return node

    def activate_filled(self, member: Member) -> SimNode:
        """The active node of ``member``. A node that is made now gets a perfect table."""
        is_new = member.index not in self.nodes
        node = self.activate(member)
        if is_new:
            churning = self.scenario.churn.share > 0
            k = self.scenario.network.k
            node.fill(self.world.population.table_of(member, k, online_only=churning))
        return node

    def _contact_of(self, member: Member) -> Contact | None:
        node = self.nodes.get(member.index)
        if node is not None:
            return node
        if not member.is_server or self.scenario.all_active:
            return None
        return self.static.get(member)

    def _choose_bootstrap(self) -> list[Member]:
        slow_s = self.scenario.network.slow_one_way_s
        good = [
            each
            for each in self.world.population.members
            if each.serves and not each.character.lies and each.one_way_s < slow_s
        ]
        if not good:
            raise UsageError("scenario: there is no honest living server to join through")
        return good[:BOOTSTRAP_MEMBERS]

    def living(self) -> list[Member]:
        """The servers that can be reached and answer now."""
        members = self.world.population.members
        return [each for each in members if each.serves]

    # --- the end ----------------------------------------------------------------------------------

    def _report(self) -> Report:
        world = self.world
        return Report(
            scenario=self.scenario.name,
            seed=self.scenario.seed,
            nodes=world.population.servers,
            living=len(self.living()),
            virtual_s=world.queue.now,
            events=world.queue.processed,
            digest=world.trace.digest(),
            trace_lines=world.trace.lines,
            lookups=LookupFigures.of(self.lookups.results),
            join_s=self._join_s,
            join_requests=self._join_requests,
            records=self.records.figures(),
            timeline=timeline(
                self.lookups.results, self.records.searches, self.scenario.run.duration_s
            ),
            tables=self._table_figures(),
            counters=dict(sorted(world.counters.items())),
            messages=world.wire.messages,
            encoded=world.wire.encoded,
            bytes=world.wire.estimated_bytes,
            checks=self.checker.checks,
        )

    def _table_figures(self) -> dict[str, float]:
        by_id = self.world.population.by_id
        entries = [
            by_id(each) for node in self.nodes.values() for each in node.network.table.peers()
        ]
        if not entries:
            return {}
        living = sum(each is not None and each.serves for each in entries)
        return {"entries": len(entries) / len(self.nodes), "living": living / len(entries)}


def run_scenario(scenario: Scenario, sink: Sink | None = None) -> Report:
    """Run ``scenario``; every line of its trace goes to ``sink``.

    Raises:
        InvariantError, UsageError: as :class:`Simulation`.
    """
    return Simulation(scenario, sink).run()
