"""One page of a sweep: every key goes to exactly its k closest peers, whatever fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codio_dht.core.delivery import Parcel, provider_parcel
from codio_dht.core.keyspace import Key, key_of
from codio_dht.core.messages import FailureReason, MessageType, PeerEntry, Reply
from codio_dht.core.peer import PeerId
from codio_dht.core.region_sweep import (
    LOOKUPS_AT_ONCE,
    PEERS_AT_ONCE,
    GiveAll,
    Look,
    RegionStep,
    RegionSweep,
    RegionSwept,
)
from codio_dht.core.regions import RegionMap
from codio_dht.core.requests import Requests
from codio_dht.core.steps import Ask, Wait, Working
from codio_dht.formats.multihash import SHA2_256_HEAD
from codio_dht.params import K
from searching import ADDR, FakeContacts, network_of, now

LOCAL = PeerId(SHA2_256_HEAD + bytes(32))


def parcel_of(key: bytes) -> Parcel:
    return provider_parcel(key, PeerEntry(LOCAL, (ADDR,)))


def some_peers(rng: Random, count: int) -> list[PeerId]:
    return [PeerId(SHA2_256_HEAD + rng.randbytes(32)) for _ in range(count)]


def clustered_peers(rng: Random, count: int, bits: int) -> list[PeerId]:
    """Peers of which all but a few share their first ``bits`` bits."""
    peers = some_peers(rng, count)
    for peer in peers[count // 8 :]:
        peer._key = Key(peer.key >> bits)
    return peers


def some_keys(rng: Random, count: int) -> list[bytes]:
    return [SHA2_256_HEAD + rng.randbytes(32) for _ in range(count)]


@dataclass
class Swarm:
    """A network that does not change: its lookups find exactly the closest living peers."""

    peers: list[PeerId]
    k: int = K
    dead: set[PeerId] = field(default_factory=set)
    """Found by lookups, and not there when they are handed something."""
    refuses: Callable[[PeerId, bytes], bool] = lambda _peer, _key: False
    resets: set[PeerId] = field(default_factory=set)
    """Reset the stream though they took everything."""
    held: dict[bytes, list[PeerId]] = field(default_factory=dict)
    lookups: int = 0
    gifts: Counter[PeerId] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    withdraw_at: tuple[int, bytes] | None = None

    def closest(self, point: Key, count: int | None = None) -> list[PeerId]:
        return sorted(self.peers, key=lambda peer: peer.key ^ point)[: count or self.k]

    def expected(self, key: bytes) -> list[PeerId]:
        able = [p for p in self.peers if p not in self.dead and not self.refuses(p, key)]
        return sorted(able, key=lambda peer: peer.key ^ key_of(key))[: self.k]

    def sweep(self, keys: Sequence[bytes], region: RegionMap | None = None) -> RegionSwept:
        network = network_of()
        network.k = self.k
        requests = Requests(network, FakeContacts(connected=True))
        region = RegionMap(self.k) if region is None else region
        machine = RegionSweep(network, requests, Random(1), region, keys, parcel_of)
        return self.run(machine)

    def run(self, machine: RegionSweep) -> RegionSwept:
        out: list[RegionStep] = []
        for turn in range(1_000_000):
            if self.withdraw_at is not None and turn == self.withdraw_at[0]:
                machine.withdraw(self.withdraw_at[1])
            step = machine.next(now(turn))
            match step:
                case RegionSwept():
                    return step
                case Working():
                    pass
                case Wait():
                    assert out, "it waits for nothing"
                    self.report(machine, out.pop(turn % len(out)), turn)
                case _:
                    out.append(step)
                    kinds = Counter(type(each).__name__ for each in out)
                    for kind, count in kinds.items():
                        self.most[kind] = max(self.most[kind], count)
        raise AssertionError("it does not end")

    def report(self, machine: RegionSweep, step: RegionStep, turn: int) -> None:
        match step:
            case Look(preimage):
                self.lookups += 1
                machine.on_looked(step, self.closest(key_of(preimage)))
            case GiveAll(peer, keys):
                self.gifts[peer] += 1
                if peer in self.dead:
                    machine.on_not_given(step, FailureReason.UNREACHABLE, now(turn))
                    return
                for key in keys:
                    if machine.is_withdrawn(key):
                        continue
                    if self.refuses(peer, key):
                        machine.on_not_given(step, FailureReason.BROKEN, now(turn))
                        return
                    holders = self.held.setdefault(key, [])
                    if peer not in holders:
                        holders.append(peer)
                if peer in self.resets:
                    machine.on_not_given(step, FailureReason.BROKEN, now(turn))
                else:
                    machine.on_given(step)
            case Ask(peer, request):
                assert request == parcel_of(request.key).question
                has = peer in self.held.get(request.key, ())
                entries = (PeerEntry(LOCAL, (ADDR,)),) if has else ()
                machine.on_reply(
                    step, Reply(MessageType.GET_PROVIDERS, provider_peers=entries), now(turn)
                )
            case _:
                raise AssertionError(step)


def assert_exact(swarm: Swarm, keys: Iterable[bytes]) -> None:
    for key in keys:
        assert sorted(swarm.held.get(key, [])) == sorted(swarm.expected(key)), key.hex()


@pytest.mark.conformance("c58")
@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    peers=st.integers(0, 70),
    keys=st.integers(1, 30),
    k=st.integers(1, 20),
    bits=st.sampled_from((0, 3, 9, 40)),
)
def test_every_key_goes_to_exactly_its_closest_peers(
    seed: int, peers: int, keys: int, k: int, bits: int
) -> None:
    rng = Random(seed)
    swarm = Swarm(clustered_peers(rng, peers, bits), k)
    wanted = some_keys(rng, keys)
    swept = swarm.sweep(wanted)
    assert_exact(swarm, wanted)
    assert sorted(swept.held + swept.unheld) == sorted(wanted)
    assert (swept.copies, swept.failed, swept.is_exact) == (
        sum(map(len, swarm.held.values())),
        0,
        peers > 0,
    )
    assert all(count == 1 for count in swarm.gifts.values())


@pytest.mark.conformance("c59")
@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    peers=st.integers(1, 50),
    keys=st.integers(1, 25),
    dead=st.floats(0.0, 0.6),
)
def test_others_take_the_places_of_dead_peers_exactly(
    seed: int, peers: int, keys: int, dead: float
) -> None:
    rng = Random(seed)
    swarm = Swarm(some_peers(rng, peers), 8)
    swarm.dead = set(rng.sample(swarm.peers, int(dead * peers)))
    # A lookup names the dead at first, as they have answered it, and no longer once they failed.
    real = swarm.closest

    def closest(point: Key, count: int | None = None) -> list[PeerId]:
        near = [
            p for p in real(point, len(swarm.peers)) if not swarm.gifts[p] or p not in swarm.dead
        ]
        return near[: swarm.k]

    swarm.closest = closest
    wanted = some_keys(rng, keys)
    swept = swarm.sweep(wanted)
    assert_exact(swarm, wanted)
    assert swept.failed == sum(1 for p in swarm.gifts if p in swarm.dead)
    assert all(swarm.gifts[p] == 1 for p in swarm.gifts if p in swarm.dead)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), share=st.floats(0.0, 0.3))
def test_a_record_that_a_peer_refuses_goes_to_the_next_closest_and_the_others_stay(
    seed: int, share: float
) -> None:
    rng = Random(seed)
    swarm = Swarm(some_peers(rng, 40), 5)
    picky = set(rng.sample(swarm.peers, 4))
    wanted = some_keys(rng, 30)
    unwanted = set(rng.sample(wanted, int(share * len(wanted))))
    swarm.refuses = lambda peer, key: peer in picky and key in unwanted
    swept = swarm.sweep(wanted)
    for key in set(wanted) - unwanted:
        assert sorted(swarm.held[key]) == sorted(swarm.expected(key))
    for key in unwanted:
        assert set(swarm.held[key]) >= set(swarm.closest(key_of(key))) - picky
        assert len(swarm.held[key]) >= 5
    assert sorted(swept.held) == sorted(wanted)
    assert swept.copies == sum(map(len, swarm.held.values()))


def test_a_peer_that_resets_its_stream_and_has_everything_holds_it() -> None:
    rng = Random(5)
    swarm = Swarm(some_peers(rng, 30))
    swarm.resets = set(swarm.peers)
    wanted = some_keys(rng, 50)
    swept = swarm.sweep(wanted)
    assert_exact(swarm, wanted)
    assert (swept.copies, swept.failed) == (50 * K, 0)
    assert set(swarm.gifts.values()) == {1}


def test_a_peer_that_refuses_everything_is_given_up_after_a_bounded_number_of_tries() -> None:
    rng = Random(6)
    swarm = Swarm(some_peers(rng, 25), 3)
    wanted = some_keys(rng, 2_000)
    bad = swarm.peers[0]
    swarm.refuses = lambda peer, _key: peer == bad
    swept = swarm.sweep(wanted)
    assert_exact(swarm, wanted)
    assert swarm.gifts[bad] <= 130
    assert bad not in swept.holders


@pytest.mark.conformance("c58")
def test_many_keys_need_about_one_lookup_for_each_group_of_k_peers() -> None:
    rng = Random(7)
    swarm = Swarm(some_peers(rng, 2_000))
    wanted = some_keys(rng, 4_000)
    swept = swarm.sweep(wanted)
    assert swept.is_exact
    assert swept.lookups == swarm.lookups < 2_000 / 8
    assert swarm.most["Look"] <= LOOKUPS_AT_ONCE
    assert swarm.most["GiveAll"] == PEERS_AT_ONCE
    assert set(swarm.gifts.values()) == {1}


def test_keys_of_the_next_page_need_no_lookup_again() -> None:
    rng = Random(8)
    swarm = Swarm(some_peers(rng, 100))
    region = RegionMap()
    first, second = some_keys(rng, 500), some_keys(rng, 500)
    assert swarm.sweep(first, region).lookups > 0
    assert swarm.sweep(second, region).lookups == 0
    assert_exact(swarm, first + second)


@pytest.mark.conformance("c64")
def test_in_a_swarm_smaller_than_k_everybody_gets_everything_after_one_lookup() -> None:
    rng = Random(9)
    swarm = Swarm(some_peers(rng, 5))
    wanted = some_keys(rng, 100)
    swept = swarm.sweep(wanted)
    assert (swept.lookups, swept.copies, len(swept.holders)) == (1, 500, 5)


def test_without_anybody_all_keys_are_unheld_and_nothing_is_claimed() -> None:
    swarm = Swarm([])
    wanted = some_keys(Random(1), 10)
    swept = swarm.sweep(wanted)
    assert (swept.held, sorted(swept.unheld), swept.copies) == ((), sorted(wanted), 0)


def test_lookups_that_fail_are_repeated_a_few_times_and_then_the_region_is_given_up() -> None:
    network = network_of()
    requests = Requests(network, FakeContacts())
    machine = RegionSweep(
        network, requests, Random(1), RegionMap(), some_keys(Random(2), 3), parcel_of
    )
    lookups = 0
    while not isinstance(step := machine.next(now(0)), RegionSwept):
        if isinstance(step, Look):
            lookups += 1
            machine.on_looked(step, None)
    assert (lookups, machine.is_hopeless, step.held, step.is_exact) == (3, True, (), False)


@pytest.mark.conformance("c60")
def test_a_key_that_is_withdrawn_is_given_to_nobody_from_then_on() -> None:
    rng = Random(10)
    wanted = some_keys(rng, 20)
    gone = wanted[3]
    for turn in range(0, 120, 7):
        swarm = Swarm(some_peers(rng, 60))
        swarm.withdraw_at = (turn, gone)
        swept = swarm.sweep(wanted)
        assert gone not in swept.held + swept.unheld
        assert_exact(swarm, [key for key in wanted if key != gone])
    swarm = Swarm(some_peers(rng, 60))
    swarm.withdraw_at = (0, gone)
    swarm.sweep(wanted)
    assert gone not in swarm.held


def test_a_late_or_repeated_report_changes_nothing() -> None:
    rng = Random(11)
    swarm = Swarm(some_peers(rng, 30))
    network = network_of()
    machine = RegionSweep(
        network, Requests(network, FakeContacts()), rng, RegionMap(), some_keys(rng, 5), parcel_of
    )
    seen: list[RegionStep] = []
    real = swarm.report

    def report(machine: RegionSweep, step: RegionStep, turn: int) -> None:
        real(machine, step, turn)
        seen.append(step)
        for old in seen:
            match old:
                case Look():
                    machine.on_looked(old, None)
                case GiveAll():
                    machine.on_given(old)
                    machine.on_not_given(old, FailureReason.UNREACHABLE, now(turn))

    swarm.report = report
    swept = swarm.run(machine)
    assert (swept.copies, swept.failed) == (5 * K, 0)
