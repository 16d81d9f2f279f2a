"""A search for a value: which records end it, what it passes on, when it waits for a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import pytest

from codio_dht import params
from codio_dht.core.addresses import KEEP_ALL
from codio_dht.core.clock import Monotonic, Now, UnixTime
from codio_dht.core.lookup_states import Done, StopReason
from codio_dht.core.messages import FailureReason, GetValue, MessageType, Record, Reply
from codio_dht.core.network import Network, NetworkPolicy
from codio_dht.core.peer import PeerId
from codio_dht.core.search import Begin, Searches
from codio_dht.core.steps import Ask, Wait, Working
from codio_dht.core.validation import Judge, Verdict
from codio_dht.core.value_search import ValueSearch
from value_fakes import make_validators

KEY = b"/v/\xffkey"
APP_KEY = b"/app/key"
START = Now(Monotonic(10.0), UnixTime(1_000.0))
ADDR = bytes((0x04, 8, 8, 8, 8, 0x06, 0x0F, 0xA1))
VALIDATORS = make_validators()


def peer_at(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + number.to_bytes(32, "big"))


class NotConnected:
    def is_connected(self, peer: PeerId) -> bool:
        return False

    is_reached = is_connected


def make_search(
    peers: int = 8, key: bytes = KEY, quorum: int = 0, local: bytes | None = None
) -> ValueSearch:
    network = Network(peer_at(0), protocol=params.KAD_PROTOCOL, policy=NetworkPolicy(KEEP_ALL))
    for number in range(1, peers + 1):
        network.book.heard(peer_at(number), (ADDR,), START.monotonic)
        network.answered(peer_at(number), START.monotonic)
    assert len(network.table) == peers
    searches = Searches(network, NotConnected(), Random(1))
    held = None if local is None else Record(key, local)
    return ValueSearch(searches, key, VALIDATORS, quorum=quorum, local=held, now=START)


class Walk:
    """Drives a search whose peers answer at once with what ``values`` says, in the order asked."""

    def __init__(
        self, search: ValueSearch, values: Mapping[int, bytes | None] | None = None
    ) -> None:
        self.search = search
        self.values = {peer_at(number): value for number, value in (values or {}).items()}
        self.passed_on: list[bytes] = []
        self.asked: list[PeerId] = []
        self.judges: list[Judge] = []
        self.now = START.monotonic

    def step(self) -> Done | Wait:
        """Go on until there is nothing to do but to wait."""
        while True:
            step = self.search.next(self.now)
            self.passed_on += self.search.take_found()
            match step:
                case Ask(peer, request):
                    assert isinstance(request, GetValue)
                    self.asked.append(peer)
                    self.answer(step)
                case Judge():
                    self.judges.append(step)
                case Begin() | Working():
                    pass
                case Done() | Wait():
                    return step

    def answer(self, ask: Ask) -> None:
        key = self.search.best.key
        value = self.values.get(ask.peer)
        record = None if value is None else Record(key, value)
        self.search.on_reply(ask, Reply(MessageType.GET_VALUE, key, record), self.now)


def test_all_are_asked_and_the_best_value_of_all_is_found() -> None:
    walk = Walk(make_search(), {2: b"1:", 4: b"3:", 6: b"2:", 7: b"bad"})
    done = walk.step()
    assert isinstance(done, Done)
    assert done.reason is StopReason.COMPLETED
    assert sorted(walk.asked) == [peer_at(n) for n in range(1, 9)]
    assert walk.search.best.best == b"3:"
    assert walk.passed_on[-1] == b"3:"
    assert peer_at(4) not in walk.search.outdated()
    assert len(walk.search.outdated()) == 7


@pytest.mark.conformance("c41")
def test_a_quorum_that_is_passed_ends_the_search_and_corrects_nobody() -> None:
    walk = Walk(make_search(quorum=2), dict.fromkeys(range(1, 9), b"1:"))
    done = walk.step()
    assert isinstance(done, Done)
    assert done.reason is StopReason.FOUND
    assert len(walk.asked) == 3
    assert walk.search.outdated() == ()


def test_a_quorum_that_cannot_be_met_does_not_hold_the_search_up() -> None:
    walk = Walk(make_search(quorum=16), {3: b"1:"})
    done = walk.step()
    assert isinstance(done, Done)
    assert done.reason is StopReason.COMPLETED
    assert walk.search.best.best == b"1:"


def test_the_first_valid_value_ends_a_search_whose_values_do_not_change() -> None:
    walk = Walk(make_search(key=b"/fixed/x"), dict.fromkeys(range(1, 9), b"1:"))
    done = walk.step()
    assert isinstance(done, Done)
    assert (done.reason, len(walk.asked)) == (StopReason.FOUND, 1)


def test_a_value_that_many_peers_bring_is_judged_once() -> None:
    values = {1: b"1:", 2: b"1:", 3: b"2:", 4: b"1:", 5: b"bad", 6: b"bad"}
    walk = Walk(make_search(key=APP_KEY), values)
    assert isinstance(walk.step(), Wait)
    assert sorted(judge.check.value for judge in walk.judges) == [b"1:", b"2:", b"bad"]
    for judge in list(walk.judges):
        verdict = Verdict.INVALID if judge.check.value == b"bad" else Verdict.BETTER
        walk.search.on_verdict(judge, verdict)
    while isinstance(walk.step(), Wait):
        judge = walk.judges[-1]  # the second value, against the first
        assert judge.check.best is not None
        is_better = judge.check.value == b"2:"
        walk.search.on_verdict(judge, Verdict.BETTER if is_better else Verdict.WORSE)
    stats = walk.search.best.stats()
    assert (walk.search.best.best, stats.valid, stats.invalid) == (b"2:", 4, 2)
    assert peer_at(3) not in walk.search.outdated()
    assert len(walk.search.outdated()) == 7


def test_what_this_node_holds_counts_and_is_passed_on_first() -> None:
    walk = Walk(make_search(local=b"2:"), {1: b"1:", 2: b"3:"})
    walk.step()
    assert walk.passed_on == [b"2:", b"3:"]
    alone = Walk(make_search(peers=0, local=b"2:"))
    done = alone.step()
    assert isinstance(done, Done)
    assert (done.reason, alone.passed_on, alone.asked) == (StopReason.FOUND, [b"2:"], [])
    fixed = Walk(make_search(key=b"/fixed/x", local=b"2:"))
    assert isinstance(fixed.step(), Done)
    assert fixed.asked == []


def test_an_own_value_that_is_not_valid_is_not_passed_on() -> None:
    walk = Walk(make_search(local=b"bad"), {1: b"1:"})
    walk.step()
    assert walk.passed_on == [b"1:"]


def test_a_value_that_expired_at_the_time_of_its_reply_is_invalid() -> None:
    search = make_search()
    walk = Walk(search, {1: b"9:until=1005", 2: b"1:"})
    walk.now = Monotonic(START.monotonic + 6)
    walk.step()
    assert search.best.best == b"1:"


def test_the_end_waits_for_the_verdicts_that_are_out() -> None:
    walk = Walk(make_search(key=APP_KEY), {1: b"1:", 2: b"2:", 3: b"bad"})
    assert walk.step() == Wait(None)
    assert len(walk.judges) == 3
    first, *others = walk.judges
    for judge in others:
        walk.search.on_verdict(judge, VALIDATORS.perform(judge.check))
    assert walk.step() == Wait(None)
    walk.search.on_verdict(first, VALIDATORS.perform(first.check))
    walk.search.on_verdict(first, Verdict.BETTER)  # reported already: a no-op
    while isinstance(walk.step(), Wait):
        judge = walk.judges[-1]
        walk.search.on_verdict(judge, VALIDATORS.perform(judge.check))
    assert walk.search.best.best == b"2:"
    assert walk.search.best.stats().invalid == 1


def test_a_verdict_may_pass_the_quorum() -> None:
    walk = Walk(make_search(key=APP_KEY, quorum=1), dict.fromkeys(range(1, 9), b"1:"))
    walk.step()
    for judge in list(walk.judges):
        walk.search.on_verdict(judge, Verdict.BETTER)
    done = walk.step()
    assert isinstance(done, Done)
    assert walk.search.best.best == b"1:"


def test_peers_that_fail_are_no_answers() -> None:
    class Failing(Walk):
        def answer(self, ask: Ask) -> None:
            if ask.peer == peer_at(5):
                super().answer(ask)
            else:
                self.search.on_failure(ask, FailureReason.BROKEN, self.now)

    walk = Failing(make_search(), {5: b"1:"})
    done = walk.step()
    assert isinstance(done, Done)
    assert walk.search.best.best == b"1:"
    assert walk.search.outdated() == ()


def test_a_search_that_ran_out_of_time_corrects_nobody() -> None:
    class Silent(Walk):
        def answer(self, ask: Ask) -> None:
            if ask.peer == peer_at(1):
                super().answer(ask)

    walk = Silent(make_search(), {1: b"1:"})
    walk.step()
    walk.now = Monotonic(START.monotonic + params.QUERY_TIMEOUT_S)
    done = walk.step()
    assert isinstance(done, Done)
    assert done.reason is StopReason.TIMEOUT
    assert walk.search.best.best == b"1:"
    assert walk.search.outdated() == ()
