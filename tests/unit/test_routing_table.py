"""The routing table: buckets, seniority, and the nearest peers against brute force."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key, cpl, distance
from codio_dht.core.peer import PeerId
from codio_dht.core.routing_table import AddOutcome, BucketInfo, RoutingTable
from codio_dht.errors import UsageError
from codio_dht.params import KEY_BITS, K

LOCAL = Key(0)
BIT_0, BIT_1, BIT_2 = (1 << (KEY_BITS - 1 - bit) for bit in range(3))


def peer_at(key: int) -> PeerId:
    """A peer whose place in the keyspace is chosen, not hashed."""
    peer = PeerId(b"\x12\x20" + key.to_bytes(32, "big"))
    peer._key = Key(key)
    return peer


def peers_at_cpl(prefix: int, count: int) -> list[PeerId]:
    """Distinct peers of exactly this CPL with ``LOCAL``."""
    return [peer_at((1 << (KEY_BITS - 1 - prefix)) + i) for i in range(count)]


def filled(table: RoutingTable, peers: list[PeerId]) -> RoutingTable:
    for at, peer in enumerate(peers):
        table.add(peer, Monotonic(float(at)))
    return table


def now(seconds: float) -> Monotonic:
    return Monotonic(seconds)


KEYS = st.one_of(
    st.integers(0, 2**KEY_BITS - 1),
    # Close to the local key and to each other, where the deep buckets are.
    st.integers(0, 255),
    st.builds(lambda shift, low: (1 << shift) | low, st.integers(0, KEY_BITS - 1), st.just(0)),
).map(Key)


# --- buckets --------------------------------------------------------------------------------------


@pytest.mark.conformance("c45")
@given(st.lists(KEYS, max_size=80), st.integers(1, 5), KEYS)
def test_buckets_do_not_overlap_and_leave_no_peer_out(
    keys: list[Key], bucket_size: int, local: Key
) -> None:
    table = RoutingTable(local, bucket_size=bucket_size)
    filled(table, [peer_at(key) for key in keys])
    buckets = table.buckets()
    expected = [0] * len(buckets)
    for peer in table.peers():
        expected[min(cpl(local, peer.key), len(buckets) - 1)] += 1
    assert [bucket.peers for bucket in buckets] == expected
    assert sum(expected) == len(table) == len(table.peers())
    assert [bucket.cpl for bucket in buckets] == list(range(len(buckets)))
    assert [bucket.mixed for bucket in buckets] == [False] * (len(buckets) - 1) + [True]
    assert all(bucket.peers <= bucket_size for bucket in buckets)


@pytest.mark.conformance("c45")
def test_the_last_bucket_mixes_cpls_until_it_is_full_and_then_splits() -> None:
    table = RoutingTable(LOCAL, bucket_size=3)
    filled(table, [*peers_at_cpl(0, 1), *peers_at_cpl(1, 1), *peers_at_cpl(7, 1)])
    assert table.buckets() == [BucketInfo(cpl=0, peers=3, mixed=True)]
    assert table.add(peers_at_cpl(9, 1)[0], now(9)) is AddOutcome.ADDED
    assert table.buckets() == [
        BucketInfo(cpl=0, peers=1, mixed=False),
        BucketInfo(cpl=1, peers=3, mixed=True),
    ]


@pytest.mark.conformance("c45")
def test_a_split_that_makes_no_room_is_followed_by_another() -> None:
    table = filled(RoutingTable(LOCAL, bucket_size=2), peers_at_cpl(5, 2))
    assert table.add(peers_at_cpl(6, 1)[0], now(9)) is AddOutcome.ADDED
    assert [bucket.peers for bucket in table.buckets()] == [0, 0, 0, 0, 0, 2, 1]
    assert table.cpl_counts() == [0, 0, 0, 0, 0, 2, 1]


@pytest.mark.conformance("c45")
def test_empty_trailing_buckets_collapse() -> None:
    table = filled(RoutingTable(LOCAL, bucket_size=1), [peers_at_cpl(c, 1)[0] for c in range(4)])
    assert [bucket.peers for bucket in table.buckets()] == [1, 1, 1, 1]
    table.remove(peers_at_cpl(2, 1)[0])
    assert [bucket.peers for bucket in table.buckets()] == [1, 1, 1]
    table.remove(peers_at_cpl(3, 1)[0])
    assert [bucket.peers for bucket in table.buckets()] == [1, 1]
    table.remove(peers_at_cpl(0, 1)[0])
    assert table.buckets() == [BucketInfo(cpl=0, peers=1, mixed=True)]
    table.remove(peers_at_cpl(1, 1)[0])
    assert table.buckets() == [BucketInfo(cpl=0, peers=0, mixed=True)]
    assert table.cpl_counts() == []


@pytest.mark.conformance("c45")
def test_the_deepest_buckets_hold_the_single_peer_there_is() -> None:
    table = RoutingTable(LOCAL, bucket_size=1)
    filled(table, [peer_at(1 << bit) for bit in range(KEY_BITS)])
    assert len(table) == KEY_BITS
    assert table.cpl_counts() == [1] * KEY_BITS


@given(st.lists(KEYS, max_size=60), st.integers(1, 4))
def test_a_peer_gets_in_exactly_if_its_cpl_has_room(keys: list[Key], bucket_size: int) -> None:
    table = RoutingTable(LOCAL, bucket_size=bucket_size)
    held = [0] * KEY_BITS
    for key in keys:
        peer = peer_at(key)
        if key == LOCAL:
            expected = AddOutcome.REFUSED_SELF
        elif peer in table:
            expected = AddOutcome.KNOWN
        elif held[cpl(LOCAL, key)] < bucket_size:
            expected = AddOutcome.ADDED
            held[cpl(LOCAL, key)] += 1
        else:
            expected = AddOutcome.FULL
        assert table.has_room(peer) == (expected is AddOutcome.ADDED)
        assert table.add(peer, now(1)) is expected


# --- seniority ------------------------------------------------------------------------------------


@pytest.mark.conformance("c48")
@given(st.lists(KEYS, max_size=60), st.integers(1, 3))
def test_a_live_peer_keeps_its_place_whoever_comes(keys: list[Key], bucket_size: int) -> None:
    table = RoutingTable(LOCAL, bucket_size=bucket_size)
    for at, key in enumerate(keys):
        before = table.peers()
        table.add(peer_at(key), now(at))
        assert table.peers()[: len(before)] == before


@pytest.mark.conformance("c48")
def test_a_full_bucket_refuses_the_newcomer_until_a_peer_of_it_fails() -> None:
    *old, newcomer = peers_at_cpl(0, K + 1)
    table = filled(RoutingTable(LOCAL), old)
    assert table.add(newcomer, now(100)) is AddOutcome.FULL
    assert newcomer not in table
    assert table.remove(old[3]) is True
    assert table.add(newcomer, now(101)) is AddOutcome.ADDED
    assert table.peers() == [*old[:3], *old[4:], newcomer]


@pytest.mark.conformance("c48")
def test_only_a_replaceable_peer_makes_way_the_longest_silent_first() -> None:
    a, b, c, d, e = peers_at_cpl(0, 5)
    table = RoutingTable(LOCAL, bucket_size=3)
    table.add(a, now(1))
    table.add(b, now(2), replaceable=True)
    table.add(c, now(3), replaceable=True)
    table.answered(b, now(9))
    assert table.has_room(d)
    assert table.add(d, now(10)) is AddOutcome.REPLACED
    assert table.peers() == [a, b, d]
    assert table.add(e, now(11)) is AddOutcome.REPLACED
    assert table.peers() == [a, d, e]
    assert table.has_room(c) is False
    assert table.add(c, now(12)) is AddOutcome.FULL


def test_a_replaceable_peer_of_another_cpl_does_not_make_way() -> None:
    table = RoutingTable(LOCAL, bucket_size=2)
    deep = peers_at_cpl(3, 1)[0]
    table.add(deep, now(1), replaceable=True)
    *old, newcomer = peers_at_cpl(0, 3)
    filled(table, old)
    assert table.add(newcomer, now(9)) is AddOutcome.FULL
    assert deep in table


def test_settled_peers_are_no_longer_replaceable() -> None:
    a, b = peers_at_cpl(0, 2)
    table = RoutingTable(LOCAL, bucket_size=1)
    table.add(a, now(1), replaceable=True)
    table.settle()
    assert table.add(b, now(2)) is AddOutcome.FULL


# --- nearest --------------------------------------------------------------------------------------


@pytest.mark.conformance("c47")
@given(
    st.lists(KEYS, max_size=80, unique=True),
    st.integers(1, 6),
    KEYS,
    KEYS,
    st.integers(0, 30),
    st.lists(st.integers(0, 100), max_size=3),
)
def test_the_nearest_are_those_of_a_sorted_brute_force(
    keys: list[Key], bucket_size: int, local: Key, target: Key, n: int, excluded: list[int]
) -> None:
    table = filled(RoutingTable(local, bucket_size=bucket_size), [peer_at(key) for key in keys])
    peers = [peer_at(key) for key in keys]
    exclude = [peers[i % len(peers)] for i in excluded] if peers else [peer_at(7)]
    expected = sorted(
        (peer for peer in table.peers() if peer not in exclude),
        key=lambda peer: distance(peer.key, target),
    )[:n]
    assert table.nearest(target, n, exclude) == expected


@pytest.mark.conformance("c47")
@pytest.mark.parametrize("count", [5, 95, 1_000])
def test_the_nearest_are_exact_in_tables_of_real_size(count: int) -> None:
    rng = random.Random(count)
    table = RoutingTable(Key(rng.getrandbits(KEY_BITS)))
    filled(table, [peer_at(rng.getrandbits(KEY_BITS)) for _ in range(count)])
    targets = [Key(rng.getrandbits(KEY_BITS)) for _ in range(200)]
    targets += [Key(table.local ^ rng.getrandbits(250)) for _ in range(50)]
    targets += [table.local, *(peer.key for peer in table.peers()[:50])]
    for target in targets:
        requester = table.peers()[0]
        expected = sorted(table.peers(), key=lambda peer: distance(peer.key, target))
        assert table.nearest(target, K) == expected[:K]
        expected.remove(requester)
        assert table.nearest(target, K, [requester]) == expected[:K]


def test_an_excluded_peer_given_twice_costs_no_other_its_place() -> None:
    a, b, c = peers_at_cpl(0, 3)
    table = filled(RoutingTable(LOCAL), [a, b, c])
    assert table.nearest(a.key, 2, [a, a, peer_at(12)]) == [b, c]


def test_the_nearest_of_an_empty_table_and_none_of_any_are_nobody() -> None:
    assert RoutingTable(LOCAL).nearest(Key(1), K) == []
    assert filled(RoutingTable(LOCAL), peers_at_cpl(0, 3)).nearest(Key(1), 0) == []


# --- entries --------------------------------------------------------------------------------------


def test_the_local_peer_never_enters() -> None:
    table = RoutingTable(Key(5))
    assert table.add(peer_at(5), now(1)) is AddOutcome.REFUSED_SELF
    assert len(table) == 0


def test_an_entry_remembers_when_it_came_answered_and_was_useful() -> None:
    table = RoutingTable(LOCAL)
    peer, stranger = peers_at_cpl(2, 2)
    table.add(peer, now(10))
    entry = table.entry(peer)
    assert entry is not None
    assert (entry.peer, entry.cpl, entry.added, entry.last_answered) == (peer, 2, 10.0, 10.0)
    assert entry.last_useful is None
    assert table.add(peer, now(20)) is AddOutcome.KNOWN
    assert table.answered(peer, now(30)) is True
    assert table.answered(peer, now(25)) is True
    assert table.useful(peer, now(40)) is True
    entry = table.entry(peer)
    assert entry is not None
    assert (entry.added, entry.last_answered, entry.last_useful) == (10.0, 30.0, 40.0)
    assert table.answered(stranger, now(1)) is False
    assert table.useful(stranger, now(1)) is False
    assert table.remove(stranger) is False
    assert table.entry(stranger) is None


def test_the_silent_are_those_not_heard_since_the_longest_silent_first() -> None:
    a, b, c = peers_at_cpl(0, 3)
    table = filled(RoutingTable(LOCAL), [a, b, c])
    table.answered(a, now(5))
    assert table.silent_since(now(0)) == []
    assert table.silent_since(now(5)) == [b, c]
    assert table.silent_since(now(5.5)) == [b, c, a]


def test_cpl_counts_look_into_the_mixed_bucket() -> None:
    table = filled(RoutingTable(LOCAL), [*peers_at_cpl(0, 2), *peers_at_cpl(3, 1)])
    assert table.cpl_counts() == [2, 0, 0, 1]
    assert len(table.buckets()) == 1


def test_a_bucket_size_below_one_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="bucket_size"):
        RoutingTable(LOCAL, bucket_size=0)


# --- the policy hook ------------------------------------------------------------------------------


class OnePerCpl:
    """A policy: a single peer of each CPL."""

    def __init__(self) -> None:
        self.inside: list[tuple[PeerId, int]] = []

    def admits(self, peer: PeerId, cpl: int, now: Monotonic) -> bool:
        return all(at != cpl for _, at in self.inside)

    def entered(self, peer: PeerId, cpl: int, now: Monotonic) -> None:
        self.inside.append((peer, cpl))

    def left(self, peer: PeerId, cpl: int) -> None:
        self.inside.remove((peer, cpl))


def test_the_policy_may_refuse_and_learns_who_comes_and_goes() -> None:
    policy = OnePerCpl()
    table = RoutingTable(LOCAL, policy=policy)
    a, b = peers_at_cpl(4, 2)
    assert table.add(a, now(1)) is AddOutcome.ADDED
    assert policy.inside == [(a, 4)]
    assert table.add(b, now(1)) is AddOutcome.REFUSED_DIVERSITY
    assert table.add(a, now(2)) is AddOutcome.KNOWN
    table.remove(a)
    assert policy.inside == []
    assert table.add(b, now(3)) is AddOutcome.ADDED


def test_a_refused_newcomer_displaces_nobody() -> None:
    table = RoutingTable(LOCAL, bucket_size=1, policy=OnePerCpl())
    a, b = peers_at_cpl(4, 2)
    table.add(a, now(1), replaceable=True)
    assert table.add(b, now(2)) is AddOutcome.REFUSED_DIVERSITY
    assert table.peers() == [a]


def test_nearer_buckets_really_are_nearer() -> None:
    local = Key(BIT_1)
    table = RoutingTable(local, bucket_size=2)
    rng = random.Random(3)
    filled(table, [peer_at(rng.getrandbits(KEY_BITS)) for _ in range(200)])
    for target in (Key(0), Key(BIT_0), Key(BIT_0 | BIT_2), Key(BIT_1 | BIT_2 | 7)):
        away = [distance(peer.key, target) for peer in table.nearest(target, len(table))]
        assert len(away) == len(table)
        assert all(left < right for left, right in pairwise(away))
