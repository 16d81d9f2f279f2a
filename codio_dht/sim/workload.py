"""The lookups of a run: random keys, from clients or from members.

Decides who looks up which key and when. Compares each result with the truth at the moment of the
result, and its time with that of an oracle. The oracle is a client with the same connections. It
knows the closest peers when the lookup begins. It only connects to them and asks them, all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random

from codio_dht.core.keyspace import Key, key_of
from codio_dht.core.lookup_states import Standing
from codio_dht.sim.driver import SearchReport
from codio_dht.sim.node import SimNode
from codio_dht.sim.population import Member
from codio_dht.sim.report import LookupResult
from codio_dht.sim.world import World

_PREIMAGE_BYTES = 34
"""A random key's preimage is as long as a multihash of SHA2-256."""


class LookupWorkload:
    """The closest-peers lookups of a scenario. ``nodes`` are the active ones, by the index of their
    member; ``activate`` gives a member's, made with a full table if there is none."""

    def __init__(
        self, world: World, nodes: Mapping[int, SimNode], activate: Callable[[Member], SimNode]
    ) -> None:
        self._world = world
        self._nodes = nodes
        self._activate = activate
        self._part = world.scenario.lookups
        self._rng = Random(f"{world.scenario.seed}/lookups")
        self._begun = 0
        self.results: list[LookupResult] = []

    @property
    def over(self) -> bool:
        """Whether all lookups have ended."""
        return len(self.results) >= self._part.count

    def begin(self) -> None:
        """Schedule the lookups."""
        queue, part = self._world.queue, self._part
        if not part.count:
            return
        if part.interval_s:
            for number in range(part.count):
                queue.after(part.start_s + number * part.interval_s, self._one)
        else:
            queue.after(part.start_s, self._one)

    def _one(self) -> None:
        node = self._choose()
        preimage = self._rng.randbytes(_PREIMAGE_BYTES)
        if self._part.target == "attacked":
            preimage = self._world.scenario.attack.preimage.encode()
        self._begun += 1
        world = self._world
        world.trace.note(world.queue.now, "looks", node.member.index)
        oracle_s = self._oracle(node, key_of(preimage))
        node.closest(preimage, lambda report: self._ended(node, report, oracle_s))

    def _choose(self) -> SimNode:
        if self._part.source == "clients":
            clients = [each for each in self._nodes.values() if not each.member.is_server]
            return clients[self._begun % len(clients)]
        population = self._world.population
        while True:
            member = population.members[int(self._rng.random() * population.servers)]
            if member.online and not member.character.lies:
                return self._activate(member)

    def _true(self, node: SimNode, target: Key) -> list[Member]:
        """The closest peers that ``node`` can find now, sorted by XOR distance."""
        k = self._world.scenario.network.k
        return self._world.population.nearest(target, k, partial(_is_within_reach, node))

    def _oracle(self, node: SimNode, target: Key) -> list[float]:
        """The times of the oracle's answers, sorted."""
        world, member = self._world, node.member
        dial = world.scenario.links.dial_round_trips
        return sorted(
            world.links.round_trips_s(
                member, each, 1.0 if world.connections.are_open(member, each) else 1.0 + dial
            )
            for each in self._true(node, target)
        )

    def _ended(self, node: SimNode, report: SearchReport, oracle_s: Sequence[float]) -> None:
        world = self._world
        true = self._true(node, report.target)
        by_id = world.population.by_id
        named = [by_id(each.peer) for each in report.done.closest]
        lying = sum(each is not None and each.character.lies for each in named)
        result = _measure(report, true, lying, oracle_s)
        self.results.append(result)
        world.trace.note(
            world.queue.now,
            "found",
            node.member.index,
            result.requests,
            result.true_found,
            result.hops,
        )
        if not self._part.interval_s and self._begun < self._part.count:
            world.queue.after(0.0, self._one)


def _is_within_reach(node: SimNode, member: Member) -> bool:
    """Such members are the truth that a lookup of ``node`` is measured by: one behind NAT counts
    for whom it is connected to."""
    if member is node.member or not member.answers:
        return False
    return not member.nat or node.caller.is_connected(member.peer)


def _measure(
    report: SearchReport, true: Sequence[Member], lying: int, oracle_s: Sequence[float]
) -> LookupResult:
    closest = report.done.closest
    returned = dict.fromkeys(each.peer for each in closest)
    answered = dict.fromkeys(each.peer for each in closest if each.standing is Standing.ANSWERED)
    as_many = min(sum(each.peer in answered for each in true), len(oracle_s))
    return LookupResult(
        began_s=report.began,
        took_s=report.took_s,
        requests=report.requests,
        failures=report.failures,
        hops=report.hops,
        true_found=sum(each.peer in returned for each in true),
        true_all=len(true),
        answered=len(answered),
        lying=lying,
        returned=len(closest),
        reason=report.done.reason.value,
        oracle_s=oracle_s[-1] if oracle_s else 0.0,
        oracle_as_many_s=oracle_s[as_many - 1] if as_many else 0.0,
    )
