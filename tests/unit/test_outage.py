"""Is the peer dead, or are we offline?"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.core.admission import Admission
from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key
from codio_dht.core.messages import FailureReason
from codio_dht.core.outage import OUTAGE_FAILURES, OUTAGE_PROBE_INTERVAL_S, OUTAGE_WITNESSES, Outage
from codio_dht.core.peer import PeerId
from codio_dht.core.refresh import LivenessProbe, RefreshSchedule
from codio_dht.core.routing_table import RoutingTable
from codio_dht.core.steps import Wait
from codio_dht.params import KEY_BITS

UNREACHABLE = FailureReason.UNREACHABLE


def peer(number: int) -> PeerId:
    made = PeerId(b"\x12\x20" + number.to_bytes(32, "big"))
    made._key = Key((number << (KEY_BITS - 16)) | 1)
    return made


def now(seconds: float) -> Monotonic:
    return Monotonic(seconds)


class Node:
    """A table of settled peers with its door and its refresh."""

    def __init__(self, size: int) -> None:
        self.outage = Outage()
        self.table = RoutingTable(Key(0), bucket_size=1_000)
        self.admission = Admission(self.table, self.outage)
        self.refresh = RefreshSchedule(self.table, self.outage, join_follow_ups=0)
        self.peers = [peer(number) for number in range(1, size + 1)]
        for each in self.peers:
            self.table.add(each, now(0))

    def fail(self, peers: list[PeerId], at: float) -> int:
        """All of them fail; how many lose their place."""
        return sum(self.admission.on_failure(each, UNREACHABLE, now(at)) for each in peers)

    def probes(self, at: float) -> list[PeerId]:
        """The liveness probes that are due."""
        found = []
        while True:
            match self.refresh.next(now(at)):
                case LivenessProbe(each):
                    found.append(each)
                case Wait():
                    return found
                case lookup:
                    self.refresh.lookup_ended(now(at), lookup)

    def idle(self, at: float) -> None:
        for each in self.probes(at):
            self.refresh.probe_ended(each)


def test_an_outage_takes_few_peers_and_those_come_back() -> None:
    node = Node(100)
    node.idle(0)
    evicted = node.fail(node.peers, 10)
    assert evicted == OUTAGE_FAILURES - 1
    assert node.outage.suspected
    assert len(node.table) == 100 - evicted
    assert node.fail(node.peers, 12) == 0

    node.admission.on_reply(node.peers[50], now(15))
    assert not node.outage.suspected
    assert node.admission.waiting == evicted  # offered again, in spite of their back-off
    assert node.probes(15) == node.peers[evicted : evicted + 16]


def test_after_an_outage_suspects_are_judged_as_usual() -> None:
    node = Node(40)
    node.idle(0)
    node.fail(node.peers, 10)
    node.admission.on_reply(node.peers[-1], now(20))
    first, second, *_ = node.probes(20)
    assert node.fail([first], 21) == 1
    assert first not in node.table
    node.admission.on_reply(second, now(21))
    assert second in node.table


def test_any_answer_of_whomever_ends_the_row() -> None:
    node = Node(100)
    for begin in range(0, 98, OUTAGE_FAILURES - 1):
        batch = node.peers[begin : begin + OUTAGE_FAILURES - 1]
        assert node.fail(batch, begin) == len(batch)
        node.admission.on_probe_answered(peer(5_000), 3, now(begin))
    assert not node.outage.suspected
    assert node.outage.count == 0


def test_a_peer_that_fails_again_and_again_counts_once() -> None:
    outage = Outage(failures=3)
    assert [outage.failed(peer(1), now(at)) for at in range(5)] == [True] * 5
    assert outage.failed(peer(2), now(6)) is True
    assert outage.failed(peer(3), now(7)) is False


def test_failed_candidates_and_hearsay_say_nothing_of_our_network() -> None:
    node = Node(10)
    strangers = [peer(number) for number in range(1_000, 1_100)]
    assert node.fail(strangers, 1) == 0
    for stranger in strangers[:50]:
        node.admission.offer(stranger, now(2))
        node.admission.next(now(2))
        node.admission.on_probe_failed(stranger, UNREACHABLE, now(3))
    assert not node.outage.suspected
    assert node.fail(node.peers[:1], 4) == 1


def test_a_peer_with_which_a_protocol_could_be_negotiated_is_no_sign_of_an_outage() -> None:
    node = Node(30)
    for each in node.peers:
        assert node.admission.on_failure(each, FailureReason.UNSUPPORTED, now(1)) is True
    assert not node.outage.suspected


def test_during_an_outage_one_suspect_after_the_other_is_probed_now_and_then() -> None:
    node = Node(20)
    node.idle(0)
    node.fail(node.peers, 10)
    due = 10 + OUTAGE_PROBE_INTERVAL_S
    assert node.refresh.next(now(10)) == Wait(now(due))
    probed = []
    for at in (due, due + OUTAGE_PROBE_INTERVAL_S, due + 2 * OUTAGE_PROBE_INTERVAL_S):
        (each,) = node.probes(at)
        assert node.fail([each], at) == 0
        node.refresh.probe_ended(each)
        probed.append(each)
    assert probed == node.peers[OUTAGE_FAILURES - 1 : OUTAGE_FAILURES + 2]


def test_peers_that_fall_silent_together_are_found_out_by_those_that_did_not() -> None:
    node = Node(60)
    node.idle(0)
    liars, honest = node.peers[:40], node.peers[40:]
    for each in honest:
        node.admission.on_reply(each, now(5))
        node.table.answered(each, now(5))
    node.fail(liars, 10)
    assert node.outage.suspected
    probed = node.probes(10 + OUTAGE_PROBE_INTERVAL_S)
    assert [each in honest for each in probed] == [False] + [True] * OUTAGE_WITNESSES
    at = 10 + OUTAGE_PROBE_INTERVAL_S
    while probed:
        for each in probed:
            node.refresh.probe_ended(each)
            if each in honest:
                node.admission.on_reply(each, now(at))
            else:
                node.fail([each], at)
        if node.outage.suspected:
            at += OUTAGE_PROBE_INTERVAL_S
        probed = node.probes(at)
    assert set(node.table.peers()) == set(honest)


def test_suspects_that_leave_for_another_reason_are_not_waited_for() -> None:
    node = Node(OUTAGE_FAILURES)
    node.idle(0)
    node.fail(node.peers, 1)
    (suspect,) = node.table.peers()
    node.admission.withdraw(suspect, now(2))
    assert node.outage.next_probe is None
    assert node.probes(100) == []


@pytest.mark.parametrize("dead_share", [0.2, 0.4])
def test_in_the_ordinary_case_every_dead_peer_goes(dead_share: float) -> None:
    """As in a lookup with ten requests at a time: outcomes come in any order."""
    rng = Random(7)
    node = Node(200)
    node.idle(0)
    dead = set(rng.sample(node.peers, round(200 * dead_share)))
    at = 0.0
    waiting = list(node.peers)
    for _ in range(3):
        rng.shuffle(waiting)
        for each in waiting:
            at += 0.05
            if each in dead:
                node.fail([each], at)
            else:
                node.admission.on_reply(each, now(at))
        waiting = node.probes(at)
    assert set(node.table.peers()) == set(node.peers) - dead


@given(st.lists(st.tuples(st.sampled_from(["fail", "answer", "leave", "due"]), st.integers(0, 9))))
def test_nothing_grows_past_its_bound_and_no_suspect_is_lost(moves: list[tuple[str, int]]) -> None:
    outage = Outage(failures=4)
    suspects: list[PeerId] = []
    for at, (move, number) in enumerate(moves):
        who = peer(number)
        match move:
            case "fail":
                if not outage.failed(who, now(at)) and who not in suspects:
                    suspects.append(who)
            case "answer":
                assert len(outage.answered()) < 4
                assert [
                    each for each in outage.take_due(now(at), list) if each in suspects
                ] == suspects
                suspects = []
            case "leave":
                outage.left(who)
                suspects = [each for each in suspects if each != who]
            case _:
                assert all(each in suspects for each in outage.take_due(now(at), list))
                suspects.sort(key=outage.suspects.index)
        assert set(outage.suspects) == set(suspects)
        assert outage.suspected or not suspects
