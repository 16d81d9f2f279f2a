"""Our client in the simulator's network of the same size, delays and dead, as one more client.

It runs the same searches and the same delivery of ``core`` as ``our_client.py``, through the same
phases, on a virtual clock (``codio_dht/sim``). So where its row differs from ours, the simulator
differs from the real thing. Servers and keys are drawn anew: the network is of the same kind, not
the same. It uses no processor time that says anything, and searches for no providers.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.wan.cells import USABLE_PEERS, Cell, preimage
from codio_dht.core.clock import Monotonic
from codio_dht.core.delivery import Delivery, provider_parcel
from codio_dht.core.keyspace import key_of
from codio_dht.core.lookup_states import Standing
from codio_dht.core.messages import FailureReason, GetProviders, Reply, Request
from codio_dht.core.peer import PeerId
from codio_dht.sim.driver import Drive
from codio_dht.sim.events import Process, suspend
from codio_dht.sim.exchange import Outcome
from codio_dht.sim.node import SimNode, StaticServer
from codio_dht.sim.population import Member
from codio_dht.sim.report import SearchReport
from codio_dht.sim.scenario import Scenario, make_scenario
from codio_dht.sim.simulation import Simulation
from codio_dht.sim.upkeep import SimulatedUpkeep

Facts = dict[str, Any]

SCENARIO = Path(__file__).resolve().parents[2] / "scenarios" / "wan.toml"

SLOW_OF_LIVING = 0.03

LONGEST_S = 60.0
"""No operation takes longer, seconds."""


def scenario_of(cell: Cell) -> Scenario:
    """The preset that is made after the swarm, with the cell's size and dead."""
    scenario = make_scenario(tomllib.loads(SCENARIO.read_text(encoding="utf-8")))
    network = replace(
        scenario.network,
        nodes=cell.servers,
        dead=cell.dead,
        slow=SLOW_OF_LIVING * (1 - cell.dead),
    )
    return replace(scenario, seed=cell.seed, network=network)


def measure(
    cell: Cell, *, operations: int, cold: int, quiet_s: float, settle_s: float, later_s: float
) -> Facts:
    """What ``client.measure`` finds out, as far as there is something to find out."""
    run = _Run(cell)
    first = []
    for index in range(cold):
        node = run.join()
        first.append(run.look_up(node, preimage(cell, "cold", index)))
        node.stop(graceful=False)
    node = run.join()
    run.until_quiet(quiet_s)
    facts: Facts = {"cold": first, "cost": {}}
    for kind, operation in (("closest", run.look_up), ("provide", partial(run.provide, later_s))):
        before = run.counts()
        facts[kind] = [operation(node, preimage(cell, kind, i)) for i in range(operations)]
        run.pass_s(settle_s + (later_s if kind == "provide" else 0.0))
        spent = run.counts() - before
        facts["cost"][kind] = {"cpu_s": None, "bytes_sent": 0, "bytes_received": 0} | spent
    return facts


class _Run:
    """One network and the clients in it."""

    def __init__(self, cell: Cell) -> None:
        self._simulation = Simulation(scenario_of(cell))
        self._world = self._simulation.world
        self._queue = self._world.queue
        self._requests: dict[bytes, Counter[str]] = {}

    def counts(self) -> Counter[str]:
        requests = self._world.counters["requests"]
        return Counter(requests=requests, bytes_received=self._world.wire.estimated_bytes)

    def pass_s(self, seconds: float) -> None:
        self._queue.run(self._queue.now + seconds)

    def until_quiet(self, quiet_s: float) -> None:
        """Until nothing was sent for so long."""
        before = -1
        while (now := self._world.counters["requests"]) != before:
            before = now
            self.pass_s(quiet_s)

    def join(self) -> SimNode:
        """A new client whose table is usable."""
        node = self._simulation.hosts.activate(self._world.population.add_client())
        self._count_requests_of(node)
        SimulatedUpkeep(node, self._simulation.hosts.bootstrap).begin()
        self._until(lambda: len(node.network.table) >= USABLE_PEERS)
        return node

    def look_up(self, node: SimNode, key: bytes) -> Facts:
        began = self._queue.now
        ended: list[SearchReport] = []

        async def look_up() -> None:
            ended.append(await node.closest(key))

        node.caller.start(look_up())
        self._until(lambda: bool(ended))
        (report,) = ended
        closest = report.done.closest
        true = self._true(node, key)
        named = {each.peer: each for each in closest}
        ages = [
            self._queue.now - each.alive_at
            for each in closest
            if each.standing is not Standing.ANSWERED and each.alive_at is not None
        ]
        answered = [each.peer for each in closest if each.standing is Standing.ANSWERED]
        found = sum(each.peer in named for each in true)
        return {
            "s": round(self._queue.now - began, 4),
            "returned": len(closest),
            "true_found": found,
            "true_known": found,
            "true_answered": sum(each.peer in answered for each in true),
            "true_in_all": len(true),
            "marks": {"answered": len(answered), "alive": len(closest) - len(answered)},
            "oldest_sign_s": max(ages, default=None),
            "dead_returned": sum(self._is_dead(each.peer) for each in closest),
            "requests": self._requests.get(key, Counter()),
        }

    def provide(self, later_s: float, node: SimNode, key: bytes) -> Facts:
        """As ``node.deliveries``: it returns when enough peers hold the record."""
        began = self._queue.now
        delivery = Delivery(node.searches, provider_parcel(key, node.member.entry), began)

        async def deliver() -> None:
            await suspend(lambda resume: Drive(node.caller, delivery, resume))

        over: dict[Process, None] = {}
        process = Process(deliver(), over)
        self._until(lambda: process not in over or delivery.has_quorum)
        facts: Facts = {
            "s": round(self._queue.now - began, 4),
            "at_return": self._count_holders(node, key),
            "requests": self._requests.setdefault(key, Counter()),
        }
        self._queue.after(later_s, lambda: facts.update(later=self._count_holders(node, key)))
        return facts

    # --- inside -----------------------------------------------------------------------------------

    def _until(self, condition: Callable[[], bool]) -> None:
        until = self._queue.now + LONGEST_S
        while not condition():
            if not self._queue.step(until):
                raise RuntimeError(f"not after {LONGEST_S:g} virtual seconds")

    def _true(self, node: SimNode, key: bytes) -> list[Member]:
        k = self._simulation.scenario.network.k
        return self._world.population.nearest(key_of(key), k, lambda each: each.answers)

    def _is_dead(self, peer: PeerId) -> bool:
        member = self._world.population.by_id(peer)
        return member is None or not member.answers

    def _count_holders(self, node: SimNode, key: bytes) -> Counter[str]:
        """Who names the client as a provider; the counts are complete a few milliseconds later,
        when those who have to look on their disks have done so."""
        counts = Counter(holders=0, among_closest=0)
        true = self._true(node, key)

        def answered(server: StaticServer, answer: object) -> None:
            providers = answer.provider_peers if isinstance(answer, Reply) else ()
            holds = node.member.peer in [entry.peer_id for entry in providers]
            counts.update(holders=holds, among_closest=holds and server.member in true)

        for server in self._simulation.hosts.static.values():
            server.answer(node.member, GetProviders(key), partial(answered, server))
        return counts

    def _count_requests_of(self, node: SimNode) -> None:
        """Those that reached somebody, by key."""
        send = node.caller.request

        async def counted(peer: PeerId, request: Request | None, deadline: Monotonic) -> Outcome:
            outcome = await send(peer, request, deadline)
            if request is not None and outcome is not FailureReason.UNREACHABLE:
                kinds = self._requests.setdefault(request.key, Counter())
                kinds[type(request).__name__] += 1
            return outcome

        node.caller.request = counted  # type: ignore[method-assign]
