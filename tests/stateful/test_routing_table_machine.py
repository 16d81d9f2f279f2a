"""Any sequence of operations on the routing table, against a plain dict as the oracle."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key, cpl, distance
from codio_dht.core.peer import PeerId
from codio_dht.core.routing_table import AddOutcome, RoutingTable
from codio_dht.params import KEY_BITS

LOCAL = Key(0b1010_0101 << (KEY_BITS - 8))
BUCKET_SIZE = 2


def peer_at(key: int) -> PeerId:
    peer = PeerId(b"\x12\x20" + key.to_bytes(32, "big"))
    peer._key = Key(key)
    return peer


KEYS = st.one_of(
    st.integers(0, 15).map(lambda head: LOCAL ^ head << (KEY_BITS - 4)),
    st.integers(0, 255).map(lambda head: head << (KEY_BITS - 8)),
    st.integers(0, 255).map(lambda tail: LOCAL ^ tail),
    st.integers(0, 2**KEY_BITS - 1),
)


class RoutingTableMachine(RuleBasedStateMachine):
    """The oracle: ``peer -> [last answer, replaceable]``, in the order they entered."""

    peers = Bundle("peers")

    def __init__(self) -> None:
        super().__init__()
        self.table = RoutingTable(LOCAL, bucket_size=BUCKET_SIZE)
        self.oracle: dict[PeerId, list[float | bool]] = {}
        self.clock = 0.0

    def tick(self) -> Monotonic:
        self.clock += 1
        return Monotonic(self.clock)

    def of_cpl(self, prefix: int) -> list[PeerId]:
        return [peer for peer in self.oracle if cpl(LOCAL, peer.key) == prefix]

    @rule(target=peers, key=KEYS)
    def meet(self, key: int) -> PeerId:
        return peer_at(key)

    @rule(peer=peers, replaceable=st.booleans())
    def add(self, peer: PeerId, replaceable: bool) -> None:
        now = self.tick()
        rivals = self.of_cpl(cpl(LOCAL, peer.key)) if peer.key != LOCAL else []
        weak = [each for each in rivals if self.oracle[each][1]]
        outcome = self.table.add(peer, now, replaceable=replaceable)
        if peer.key == LOCAL:
            assert outcome is AddOutcome.REFUSED_SELF
        elif peer in self.oracle:
            assert outcome is AddOutcome.KNOWN
            self.oracle[peer][0] = now
        elif len(rivals) < BUCKET_SIZE:
            assert outcome is AddOutcome.ADDED
            self.oracle[peer] = [now, replaceable]
        elif weak:
            assert outcome is AddOutcome.REPLACED
            del self.oracle[min(weak, key=lambda each: self.oracle[each][0])]
            self.oracle[peer] = [now, replaceable]
        else:
            assert outcome is AddOutcome.FULL

    @rule(peer=peers)
    def remove(self, peer: PeerId) -> None:
        assert self.table.remove(peer) == (self.oracle.pop(peer, None) is not None)

    @rule(peer=peers)
    def answer(self, peer: PeerId) -> None:
        now = self.tick()
        assert self.table.answered(peer, now) == (peer in self.oracle)
        if peer in self.oracle:
            self.oracle[peer][0] = now

    @rule()
    def settle(self) -> None:
        self.table.settle()
        for entry in self.oracle.values():
            entry[1] = False

    @rule(key=KEYS.map(Key), n=st.integers(0, 12))
    def nearest(self, key: Key, n: int) -> None:
        expected = sorted(self.oracle, key=lambda peer: distance(peer.key, key))[:n]
        assert self.table.nearest(key, n) == expected

    @rule(age=st.integers(0, 30))
    def silent(self, age: int) -> None:
        before = Monotonic(self.clock - age)
        silent = [peer for peer in self.oracle if self.oracle[peer][0] < before]
        expected = sorted(silent, key=lambda peer: self.oracle[peer][0])
        assert self.table.silent_since(before) == expected

    @invariant()
    def the_table_holds_what_the_oracle_holds(self) -> None:
        assert self.table.peers() == list(self.oracle)
        assert len(self.table) == len(self.oracle)
        assert all(peer in self.table for peer in self.oracle)

    @invariant()
    def buckets_are_whole_and_end_in_no_empty_one(self) -> None:
        buckets = self.table.buckets()
        last = len(buckets) - 1
        sizes = [0] * len(buckets)
        for peer in self.oracle:
            sizes[min(cpl(LOCAL, peer.key), last)] += 1
        assert [bucket.peers for bucket in buckets] == sizes
        assert max(sizes) <= BUCKET_SIZE
        if last > 0:
            assert sizes[last] > 0
            assert sizes[last - 1] > 0
        counts = [len(self.of_cpl(prefix)) for prefix in range(KEY_BITS)]
        while counts and not counts[-1]:
            counts.pop()
        assert self.table.cpl_counts() == counts


TestRoutingTableMachine = RoutingTableMachine.TestCase
TestRoutingTableMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
