"""Peers that try to hold up lookups, to fill the table from one machine, or to be taken for alive:
what a lookup promises holds whatever they do."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from multiaddr import Multiaddr

from codio_dht import DHTManager
from codio_dht.core.clock import Monotonic
from codio_dht.core.diversity import MAX_GROUP_PEERS_PER_TABLE
from codio_dht.core.horizon import MAX_LOOKS_BEYOND
from codio_dht.core.keyspace import Key, key_of
from codio_dht.core.lookup import (
    LOOKUP_HURRY_S,
    LOOKUP_LIMIT_S,
    MAX_LOOKUP_PEERS,
    ClosestPeersLookup,
)
from codio_dht.core.lookup_states import (
    Done,
    GivenUp,
    LookBeyond,
    LookupRules,
    Query,
    Standing,
    StopReason,
)
from codio_dht.core.messages import FailureReason
from codio_dht.core.multihash import multihash_of
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_health import ALIVE_MEMORY_S, PeerHealth
from codio_dht.core.steps import Wait
from codio_dht.node.clock import Clock
from hostile_host import (
    NOTHING_OPEN,
    HostileHost,
    LabHost,
    answering,
    closer,
    entry_of,
    hostile,
    lab_node,
    left_open,
    numbered_id,
    plant,
    request_of,
)
from nodes import EPOCH, memory_net, open_nodes, settle, soon

CID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
KEY = multihash_of(CID)


# --- names that lead nowhere ----------------------------------------------------------------------


class AllButThese(set[PeerId]):
    """Everybody is dead but these."""

    def __contains__(self, peer: object) -> bool:
        return not super().__contains__(peer)


async def test_liars_that_name_the_dead_for_ever_do_not_hold_a_lookup_past_its_limit(
    autojump_clock,
):
    """Each names the next one and 39 peers whose addresses swallow every dial."""
    target = key_of(KEY)
    numbers = sorted(
        range(100_000, 104_000), key=lambda number: -(numbered_id(number).key ^ target)
    )
    async with memory_net(0.02) as net, open_nodes(net, 4) as honest:
        await settle(honest, 3)
        async with lab_node(net, through=honest) as node:
            await settle([node], 4)

            def script_of(place: int):
                async def script(stream):
                    while (request := await request_of(stream)) is not None:
                        named = numbers[place + 40 : place + 80] if request.key == KEY else [1]
                        stream.answer(closer(request, [entry_of(number) for number in named]))

                return script

            liars = [
                hostile(net, numbers[place], script_of(place))
                for place in range(0, len(numbers), 40)
            ]
            net.dead = AllButThese(host.peer_id for host in net.hosts.values())
            await plant(node, liars[:1])
            began = trio.current_time()
            found = await node.find_closest_peers(KEY)
            assert trio.current_time() - began <= LOOKUP_LIMIT_S
            assert node.stats().lookups["overrun"] == 1
            assert {each.standing for each in found} == {Standing.ANSWERED}
            assert {each.peer_id for each in found} & {each.peer_id for each in honest}
            await trio.sleep(200)
            assert NOTHING_OPEN == left_open(node)


# --- one machine, many identities -----------------------------------------------------------------


class Claimant(HostileHost):
    """Says that it is at ``addrs``; its connections come from elsewhere."""

    seen_at = Multiaddr("/ip4/8.8.8.8/tcp/50000")


class PublicHost(LabHost):
    def remote_addrs(self, peer_id: PeerId) -> list[Multiaddr]:
        other = self.peers.get(peer_id)
        return [other.seen_at] if isinstance(other, Claimant) else super().remote_addrs(peer_id)


@pytest.mark.conformance("c50")
async def test_one_machine_gets_few_places_whatever_addresses_its_identities_claim(autojump_clock):
    async with memory_net() as net:
        host = PublicHost(net, numbered_id(5_000), Multiaddr("/ip4/1.1.1.1/tcp/4001"))
        async with DHTManager(host, clock=Clock(lambda: EPOCH + trio.current_time())) as node:
            script = answering(lambda request: closer(request, [entry_of(1)]))
            for number in range(40):
                claimed = Multiaddr(f"/ip4/{50 + number}.7.7.7/tcp/4001")
                sybil = Claimant(net, numbered_id(7_000 + number), claimed, script)
                await sybil.connect(host.peer_id, host.addrs, soon())
                await trio.sleep(1)
            assert node._node.main.network.policy.diverse
            assert len(node.routing_table_peers()) == MAX_GROUP_PEERS_PER_TABLE


# --- many at once ---------------------------------------------------------------------------------


async def test_lookups_and_provides_of_one_key_at_once_leave_nothing_and_keep_the_key(
    autojump_clock,
):
    async with memory_net(0.05) as net, open_nodes(net, 8) as nodes:
        await settle(nodes, 7)
        node = nodes[0]
        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(node.find_closest_peers, KEY)
            for _ in range(10):
                nursery.start_soon(node.provide, CID)
            with trio.move_on_after(0.07):
                await node.provide(CID)
        assert await node._node.shared.storage.provides(KEY)
        await trio.sleep(200)
        assert (await node.own_keys())[0].last_provided is not None
        assert node._node.shared.errands.running == 0
        assert NOTHING_OPEN == left_open(node)
        assert node.stats().failures == {}


# --- what a result promises -----------------------------------------------------------------------


@dataclass
class World:
    """Peers that answer, lie, fail, fall silent or come late, as ``rng`` has it, on a virtual
    clock that may jump; lookups share a memory of them, as those of a node do."""

    rng: random.Random
    k: int
    clock: float = 0.0
    health: PeerHealth = field(default_factory=lambda: PeerHealth(capacity=30))
    reached: set[PeerId] = field(default_factory=set)
    """Whose transport shows life."""
    last_sign: dict[PeerId, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.peers = [self.peer_at(self.rng.getrandbits(256)) for _ in range(60)]
        self.local = self.peer_at(self.rng.getrandbits(256))
        self.target = Key(self.rng.getrandbits(256))

    @staticmethod
    def peer_at(key: int) -> PeerId:
        peer = PeerId(b"\x12\x20" + key.to_bytes(32, "big"))
        peer._key = Key(key)
        return peer

    def shows_life(self, peer: PeerId) -> bool:
        if peer in self.reached:
            self.last_sign[peer] = self.clock
        return peer in self.reached

    def named(self) -> list[PeerId]:
        """A reply: true, empty, of this node, of one peer only, or of new names near the target."""
        rng = self.rng
        made_up = [self.peer_at(self.target ^ rng.getrandbits(rng.randrange(8, 250))) for _ in "ab"]
        one = rng.choice(self.peers)
        kinds: list[Callable[[], list[PeerId]]] = [
            lambda: sorted(self.peers, key=lambda peer: peer.key ^ self.target)[:20],
            lambda: rng.sample(self.peers, 10),
            list,
            lambda: [self.local] * 5,
            lambda: [one] * 50,
            lambda: made_up,
            lambda: [self.peer_at(self.target ^ rng.getrandbits(100)) for _ in range(60)],
        ]
        return rng.choice(kinds)()

    def look_up(self) -> None:
        """One lookup, its promises checked."""
        rng, began = self.rng, self.clock
        lookup = ClosestPeersLookup(
            self.target,
            rng.sample(self.peers, 5),
            LookupRules(
                local=self.local,
                outlook=lambda peer, now: self.health.outlook(
                    peer, now, connected=peer in self.reached
                ),
                shows_life=self.shows_life,
                looks_beyond=rng.random() < 0.5,
                k=self.k,
                alpha=rng.randrange(1, 12),
            ),
        )
        out: list[tuple[float, int, Query | LookBeyond]] = []
        answered: set[PeerId] = set()
        first_answer, told, count = None, 0, 0
        while True:
            now = Monotonic(self.clock)
            step = lookup.next(now)
            for event in lookup.events[told:]:
                if isinstance(event, GivenUp):
                    reached = event.alive_at == event.at
                    self.health.given_up(
                        event.peer, event.waited_s, now, reached=reached, dialled=True
                    )
            told = len(lookup.events)
            match step:
                case Done():
                    break
                case Query() | LookBeyond():
                    count += 1
                    # exactly at a deadline now and then
                    delay_s = rng.choice([0.0, 0.05, 0.25, 0.3, 0.8, 2.0, 3.0, 9.0, 25.0])
                    heapq.heappush(out, (self.clock + delay_s, count, step))
                    if rng.random() < 0.1:
                        self.reached ^= {step.peer}
                    continue
                case Wait(until):
                    assert out or until is not None, "the lookup hangs"
                    if until is not None and (not out or until < out[0][0]):
                        self.clock = until
                        continue
            at, _, query = heapq.heappop(out)
            self.clock = max(self.clock, at) + (3_600.0 if rng.random() < 0.002 else 0.0)
            if self.report(lookup, query, at):
                answered.add(query.peer)
                first_answer = first_answer or self.clock
        self.check(step, answered, began)
        assert lookup.requests <= MAX_LOOKUP_PEERS + MAX_LOOKS_BEYOND
        if step.reason in (StopReason.COMPLETED, StopReason.OVERRUN):
            assert first_answer is not None
            limit = max(began, first_answer - LOOKUP_HURRY_S) + LOOKUP_LIMIT_S
            assert self.clock <= limit or self.clock - began > 3_000, "longer than its limit"

    def report(self, lookup: ClosestPeersLookup, query: Query | LookBeyond, due: float) -> bool:
        """What comes of a request; whether its peer counts as one that answered."""
        rng, now = self.rng, Monotonic(self.clock)
        if isinstance(query, LookBeyond):
            lookup.on_beyond(query.peer, query.point, self.named(), now)
            return False
        if rng.random() < 0.4:
            why = rng.choice(list(FailureReason))
            self.health.failed(query.peer, why, now)
            lookup.on_failure(query.peer, why, now)
            return False
        self.health.answered(query.peer, now - due, now, dialled=False)
        self.last_sign[query.peer] = self.clock
        lookup.on_reply(query.peer, self.named(), now)
        if rng.random() < 0.2:  # twice, and of one that was not asked
            lookup.on_reply(query.peer, self.named(), now)
            lookup.on_reply(self.peer_at(rng.getrandbits(256)), self.named(), now)
        return True

    def check(self, done: Done, answered: set[PeerId], began: float) -> None:
        peers = [each.peer for each in (*done.closest, *done.next_closest)]
        assert len(done.closest) <= self.k
        assert len(peers) == len(set(peers))
        assert self.local not in peers
        assert peers == sorted(peers, key=lambda peer: peer.key ^ self.target)
        for each in done.closest:
            match each.standing:
                case Standing.ANSWERED:
                    assert each.peer in answered
                case Standing.ALIVE:
                    assert each.alive_at is not None
                    assert each.alive_at <= self.last_sign[each.peer]
                    assert each.alive_at >= began - ALIVE_MEMORY_S
                case Standing.HEARD:
                    assert done.reason not in (StopReason.COMPLETED, StopReason.OVERRUN)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1, 3, 20]))
def test_whatever_peers_do_a_result_promises_nothing_that_is_not_so(seed: int, k: int) -> None:
    world = World(random.Random(seed), k)
    for _ in range(6):
        world.look_up()
        world.clock += world.rng.choice([0.0, 5.0, 31.0, 700.0])
