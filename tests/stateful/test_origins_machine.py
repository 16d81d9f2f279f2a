"""Any sequence of charges on the ledger of origins, and of puts and takes on a queue in turns, each
against a plain model that keeps everything and computes every answer anew."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from codio_dht.core.clock import Monotonic
from codio_dht.core.origins import (
    DEFAULT_FLOWS,
    DEFAULT_STOCKS,
    Flow,
    Held,
    OriginLedger,
    Rate,
    Stock,
)
from codio_dht.core.turns import Turns

HELD = Held(4, 6, 9, 16)
RATE = Rate(1.0, 2.0, 4.0, 8.0)
IPS = st.tuples(st.integers(5, 7), st.integers(0, 1), st.integers(0, 1)).map(
    lambda parts: bytes([parts[0], parts[1], parts[2], 1])
)
PEERS = st.sampled_from([b"x", b"y"])


def owners(ip: bytes, peer: bytes) -> list[tuple[int, object]]:
    """The owners of a cost, each with its level."""
    return [(0, (ip[:3], peer)), (1, ip[:3]), (2, ip[:2])]


class LedgerMachine(RuleBasedStateMachine):
    """The model: what each owner holds, and every payment with its time."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = OriginLedger(
            stocks={**DEFAULT_STOCKS, Stock.STREAMS: HELD},
            flows={**DEFAULT_FLOWS, Flow.EVENTS: RATE},
        )
        self.held: dict[tuple[bytes, bytes], int] = defaultdict(int)
        self.spent: list[tuple[float, bytes, bytes, int]] = []
        self.now = 100.0

    def held_by(self, owner: object) -> int:
        return sum(
            amount
            for (ip, peer), amount in self.held.items()
            if owner in [each for _, each in owners(ip, peer)]
        )

    def owed(self, level: int, owner: object) -> float:
        """The level of a bucket that leaks with time, over all payments."""
        rate, level_now, at = RATE[level], 0.0, 0.0
        for when, ip, peer, amount in self.spent:
            if owner in [each for _, each in owners(ip, peer)]:
                level_now = max(0.0, level_now - (when - at) * rate) + amount
                at = when
        return max(0.0, level_now - (self.now - at) * rate) / rate - RATE.burst_s

    @rule(seconds=st.integers(0, 10))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(ip=IPS, peer=PEERS, amount=st.integers(1, 5))
    def hold(self, ip: bytes, peer: bytes, amount: int) -> None:
        free = HELD.total - sum(self.held.values())
        allowed = all(
            self.held_by(owner) + amount <= min(HELD[level], free)
            for level, owner in owners(ip, peer)
        )
        account = self.ledger.peer(ip, peer)
        assert allowed == self.ledger.hold(account, Stock.STREAMS, amount)
        if allowed:
            self.held[ip, peer] += amount

    @rule(ip=IPS, peer=PEERS, amount=st.integers(1, 5))
    def release(self, ip: bytes, peer: bytes, amount: int) -> None:
        back = min(amount, self.held[ip, peer])
        self.held[ip, peer] -= back
        self.ledger.release(self.ledger.peer(ip, peer), Stock.STREAMS, back)

    @rule(ip=IPS, peer=PEERS, amount=st.integers(1, 9))
    def spend(self, ip: bytes, peer: bytes, amount: int) -> None:
        self.spent.append((self.now, ip, peer, amount))
        expected = max(0.0, *[self.owed(*owner) for owner in owners(ip, peer)])
        account = self.ledger.peer(ip, peer)
        assert expected == self.ledger.spend(account, Flow.EVENTS, amount, Monotonic(self.now))

    @rule(ip=IPS, peer=PEERS, amount=st.integers(1, 9))
    def afford(self, ip: bytes, peer: bytes, amount: int) -> None:
        after = [
            self.owed(level, owner) + amount / RATE[level] for level, owner in owners(ip, peer)
        ]
        account = self.ledger.peer(ip, peer)
        affordable = self.ledger.afford(account, Flow.EVENTS, Monotonic(self.now), amount)
        assert (max(after) <= 0) == affordable
        if affordable:
            self.spent.append((self.now, ip, peer, amount))

    @invariant()
    def everybody_together_holds_what_each_holds(self) -> None:
        assert sum(self.held.values()) == self.ledger.held(Stock.STREAMS) <= HELD.total


MAX_ITEMS = 6
OWNERS = st.tuples(st.sampled_from("ab"), st.sampled_from("12"), st.sampled_from("xy"))


class TurnsMachine(RuleBasedStateMachine):
    """The model: the items in the order in which they came, and when each owner had its last turn
    since it began to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: Turns[int, int] = Turns(MAX_ITEMS)
        self.items: dict[int, tuple[str, ...]] = {}
        self.last_turn: dict[tuple[str, ...], int] = {}
        self.number = 0

    def of(self, owner: tuple[str, ...]) -> list[int]:
        return [key for key, path in self.items.items() if path[: len(owner)] == owner]

    def forget_absent(self) -> None:
        for owner in [owner for owner in self.last_turn if not self.of(owner)]:
            del self.last_turn[owner]

    @rule(owner=OWNERS)
    def put(self, owner: tuple[str, ...]) -> None:
        self.number += 1
        for size in (1, 2, 3):
            self.last_turn.setdefault(owner[:size], self.number)
        self.items[self.number] = owner
        dropped = self.queue.put(self.number, self.number, owner)
        if len(self.items) <= MAX_ITEMS:
            assert dropped is None
            return
        assert dropped is not None
        assert dropped[0] == dropped[1]
        path = self.items[dropped[0]]
        for size in (1, 2, 3):  # at each level it is of a largest owner
            rivals = {
                each[:size] for each in self.items.values() if each[: size - 1] == path[: size - 1]
            }
            assert len(self.of(path[:size])) == max(len(self.of(rival)) for rival in rivals)
        assert dropped[0] == max(self.of(path))
        del self.items[dropped[0]]
        self.forget_absent()

    @rule(blocked=st.sampled_from(["", "a", "b"]))
    def take(self, blocked: str) -> None:
        self.number += 1
        found = self.queue.take(lambda owner: owner[0] != blocked)
        taken = None if found is None else found[0]
        waiting = {key: path for key, path in self.items.items() if path[0] != blocked}
        if not waiting:
            assert taken is None
            return
        assert taken is not None
        path = waiting[taken]
        for size in (1, 2, 3):  # at each level it is of the owner that waits for its turn longest
            rivals = {
                each[:size] for each in waiting.values() if each[: size - 1] == path[: size - 1]
            }
            assert self.last_turn[path[:size]] == min(self.last_turn[rival] for rival in rivals)
            self.last_turn[path[:size]] = self.number
        assert taken == min(self.of(path))
        del self.items[taken]
        self.forget_absent()

    @rule(place=st.integers(0, MAX_ITEMS))
    def pop(self, place: int) -> None:
        for key in list(self.items)[place : place + 1]:
            assert key == self.queue.pop(key)
            del self.items[key]
        self.forget_absent()

    @invariant()
    def the_same_items_wait(self) -> None:
        assert list(self.items) == list(self.queue)
        assert all(len(self.of(path)) == self.queue.size(path) for path in self.items.values())


TestLedger = LedgerMachine.TestCase
TestTurns = TurnsMachine.TestCase
TestLedger.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
TestTurns.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
