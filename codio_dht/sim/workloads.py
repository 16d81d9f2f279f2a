"""What the nodes of a run are made to do: look up keys, provide and find them, put and get values.

Decides who does what when. A lookup is compared with the truth at the moment of its result, and its
time with that of an oracle. The oracle is a client with the same connections. It knows the closest
peers when the lookup begins. It only connects to them and asks them, all at once. A search has
found its key if it was told a peer that has provided it, or the right value.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from random import Random

from codio_dht.core.clock import Monotonic
from codio_dht.core.delivery import PROVIDE_RPC_TIMEOUT_S
from codio_dht.core.keyspace import Key, key_of
from codio_dht.core.messages import PutValue, Record
from codio_dht.formats.multihash import SHA2_256_HEAD
from codio_dht.sim.exchange import Caller
from codio_dht.sim.hosts import Hosts
from codio_dht.sim.node import SimNode
from codio_dht.sim.population import Character, Member
from codio_dht.sim.report import FindResult, LookupResult
from codio_dht.sim.sweeping import SimulatedProviding
from codio_dht.sim.world import World

_PREIMAGE_BYTES = 34
"""A random key's preimage is as long as a multihash of SHA2-256."""


class LookupWorkload:
    """Closest-peers lookups of random keys, or of the key under attack, from clients or members."""

    def __init__(self, world: World, hosts: Hosts) -> None:
        self._world = world
        self._hosts = hosts
        self._part = world.scenario.lookups
        self._rng = Random(f"{world.scenario.seed}/lookups")
        self._begun = 0
        self.results: list[LookupResult] = []

    @property
    def over(self) -> bool:
        """Whether all lookups have ended."""
        return len(self.results) >= self._part.count

    def begin(self) -> None:
        """Schedule the lookups. Without an interval each begins when the one before is over."""
        part = self._part
        for number in range(part.count if part.interval_s else min(part.count, 1)):
            self._world.queue.after(part.start_s + number * part.interval_s, self._one)

    def _one(self) -> None:
        node = self._choose()
        preimage = self._rng.randbytes(_PREIMAGE_BYTES)
        if self._part.target == "attacked":
            preimage = self._world.scenario.attack.preimage.encode()
        self._begun += 1
        node.caller.start(self._look_up(node, preimage))

    def _choose(self) -> SimNode:
        if self._part.source == "members":
            return self._hosts.any_server(self._rng)
        clients = [each for each in self._hosts.nodes.values() if not each.member.is_server]
        return clients[self._begun % len(clients)]

    async def _look_up(self, node: SimNode, preimage: bytes) -> None:
        world, index = self._world, node.member.index
        world.note("looks", index)
        oracle_s = self._oracle(node, key_of(preimage))
        report = await node.closest(preimage)
        true = [each.peer for each in self._true(node, report.target)]
        named = [world.population.by_id(each.peer) for each in report.done.closest]
        lying = sum(each is not None and each.character.lies for each in named)
        result = LookupResult(report, true, lying, oracle_s)
        self.results.append(result)
        world.note("found", index, report.requests, result.true_found, report.hops)
        if not self._part.interval_s and self._begun < self._part.count:
            world.queue.after(0.0, self._one)

    def _true(self, node: SimNode, target: Key) -> list[Member]:
        """The closest peers that ``node`` can find now, sorted by XOR distance. One behind NAT
        counts if the node is connected to it."""

        def is_within_reach(member: Member) -> bool:
            nat = member.nat and not node.caller.is_connected(member.peer)
            return member.answers and member is not node.member and not nat

        k = self._world.scenario.network.k
        return self._world.population.nearest(target, k, is_within_reach)

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


class RecordWorkload:
    """Provides keys and searches for them, over hours of churn."""

    def __init__(self, world: World, hosts: Hosts) -> None:
        self._world = world
        self._hosts = hosts
        self._part = world.scenario.records
        self._rng = Random(f"{world.scenario.seed}/records")
        self.publisher_of: dict[bytes, Member] = {}
        """Who provides each key, and nobody else."""
        self._provided: dict[bytes, None] = {}
        """The keys that were provided, in order."""
        self.holders: list[int] = []
        """Of each delivery, when it was over."""
        self.results: list[FindResult] = []

    def assign(self, servers: Sequence[Member]) -> None:
        """Give the keys to publishers among ``servers``."""
        publishers = servers[-self._part.publishers :]
        for number in range(self._part.keys):
            key = SHA2_256_HEAD + self._rng.randbytes(32)
            member = publishers[number % len(publishers)]
            self.publisher_of[key] = member
            self._hosts.disks[member.index].own_keys[key] = None

    def start(self, node: SimNode) -> None:
        """Let ``node`` provide its keys, if it has any, whenever they are due."""
        if node.storage.disk.own_keys:
            SimulatedProviding(node, self._note)

    async def search(self) -> None:
        """Search for keys at intervals, for ever."""
        while True:
            await self._world.queue.sleep(self._part.find_interval_s)
            nodes, keys = self._searchers(), list(self._provided)
            for _ in range(self._part.finds if keys and nodes else 0):
                key = keys[int(self._rng.random() * len(keys))]
                node = nodes[int(self._rng.random() * len(nodes))]
                if self.publisher_of[key] is not node.member:
                    node.caller.start(self._search(node, key))

    def _searchers(self) -> list[SimNode]:
        """Honest nodes that can search now; in a static network some are made for it."""
        hosts = self._hosts
        if not self._world.scenario.all_active:
            return [hosts.activate(each, filled=True) for each in hosts.bootstrap]
        return [
            node
            for node in hosts.nodes.values()
            if not node.member.character.lies and len(node.network.table)
        ]

    async def _search(self, node: SimNode, key: bytes) -> None:
        """Count a search when it has ended. One that the end of the run interrupts does not
        count."""
        report = await node.providers(key, 1)
        publisher = self.publisher_of[key].peer
        found = any(each.peer_id == publisher for _, each in report.found)
        self._world.note("searched", node.member.index, report.requests, found)
        self.results.append(FindResult(report, found))

    def _note(self, key: bytes, holders: int) -> None:
        self.holders.append(holders)
        if holders:
            self._provided[key] = None


class ValueWorkload:
    """Puts values, and searches for them while liars hand out hostile ones and put them to
    others."""

    def __init__(self, world: World, hosts: Hosts) -> None:
        self._world = world
        self._hosts = hosts
        self._part = world.scenario.values
        self._values = world.values
        self._rng = Random(f"{world.scenario.seed}/finds")
        self._forging = world.population.all_of(Character.FORGING)
        self.holders: list[int] = []
        """Of each delivery, when it was over."""
        self.results: list[FindResult] = []

    @property
    def over(self) -> bool:
        """Whether all searches have ended."""
        return len(self.results) >= self._part.finds

    def begin(self) -> None:
        """Put every value, first the older one, then the right one; then search."""
        self._world.queue.after(0.0, partial(self._put_next, 0))

    def _put_next(self, number: int) -> None:
        """Let a random server put the key of ``number``, then go on with the next one."""
        if number < len(self._values.keys):
            node = self._hosts.any_server(self._rng)
            node.caller.start(self._put(node, number))
        elif self._part.finds:
            self._find_next()

    async def _put(self, node: SimNode, number: int) -> None:
        key = self._values.keys[number]
        for value in self._values.genuine[key]:
            end = await node.put(Record(key, value))
            self.holders.append(end.holders)
        self._world.queue.after(0.0, partial(self._put_next, number + 1))

    def _find_next(self) -> None:
        key = self._rng.choice(self._values.keys)
        node = self._hosts.any_server(self._rng)
        if self._forging:
            self._spread(self._rng.choice(self._forging), key)
        node.caller.start(self._find(node, key))

    def _spread(self, liar: Member, key: bytes) -> None:
        """Let ``liar`` put a hostile value to the servers closest to ``key``."""
        world = self._world
        closest = world.population.nearest(key_of(key), world.scenario.network.k, _is_honest)
        addrs = {member.peer: (member.addr,) for member in closest}
        caller = Caller(world, liar, addrs.__getitem__)
        value = self._rng.choice(self._values.hostile[key])
        put = PutValue(key, Record(key, value))
        deadline = Monotonic(world.queue.now + PROVIDE_RPC_TIMEOUT_S)
        for peer in addrs:
            caller.start(caller.request(peer, put, deadline))

    async def _find(self, node: SimNode, key: bytes) -> None:
        report = await node.value(key)
        genuine = self._values.genuine[key]
        values = [value for _, value in report.found]
        found = values[-1:] == [genuine[-1]]
        wrong = any(value not in genuine for value in values)
        self._world.note("got", node.member.index, report.requests, found, wrong)
        self.results.append(FindResult(report, found, wrong))
        if not self.over:
            self._world.queue.after(0.0, self._find_next)


def _is_honest(member: Member) -> bool:
    return member.answers and not member.character.lies
