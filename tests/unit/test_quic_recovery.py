from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.net.quic.machine.frames import PacketLevel
from codio_dht.net.quic.machine.recovery import Pacer, Recovery
from codio_dht.net.quic.machine.spaces import MAX_ACK_RANGES, SentPacket, Space

SIZE = 1_200


class Path:
    """What was sent in one space, and what became of it."""

    def __init__(self) -> None:
        self.spaces = [Space(level) for level in PacketLevel]
        self.loss = Recovery(self.spaces, dialled=False, size=SIZE)
        self.loss.handshake_confirmed = True
        self.space = self.spaces[PacketLevel.ONE_RTT]
        self.fate: dict[int, bool] = {}

    def send(self, number: int, now: float, eliciting: bool = True) -> None:
        packet = SentPacket(number)
        packet.size = SIZE
        packet.eliciting = packet.in_flight = eliciting
        packet.fates.append((self.on_fate, (number,)))
        self.loss.on_sent(packet, self.space, now)

    def on_fate(self, acknowledged: bool, number: int) -> None:
        assert number not in self.fate  # once only
        self.fate[number] = acknowledged

    def acked(self, *ranges: tuple[int, int], now: float, delay: float = 0.0) -> None:
        self.loss.on_acked(self.space, ranges, delay, now)

    def having(self, acknowledged: bool) -> set[int]:
        return {number for number, fate in self.fate.items() if fate is acknowledged}


def ranges_of(numbers: set[int]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for number in sorted(numbers, reverse=True):
        if ranges and ranges[-1][0] == number + 1:
            ranges[-1] = (number, ranges[-1][1])
        else:
            ranges.append((number, number))
    return ranges


@given(st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40), min_size=1))
def test_rfc_9002_section_6_1_1_what_is_named_is_settled_and_what_is_long_before_it_lost(
    sent, named
):
    path = Path()
    for number in sorted(sent):
        path.send(number, 1.0)
    path.acked(*ranges_of(named), now=1.01)
    settled = sent & named
    lost = {each for each in sent - named if settled and each <= max(named) - 3}
    assert settled == path.having(True)
    assert lost == path.having(False)
    left = len(sent - settled - lost)
    assert (left, SIZE * left) == (path.space.eliciting_in_flight, path.loss.bytes_in_flight)


def test_rfc_9002_section_6_1_2_a_packet_a_little_before_the_acknowledged_is_lost_in_time():
    path = Path()
    path.send(0, 1.0)
    path.send(1, 1.0)
    path.acked((1, 1), now=1.1)
    due = path.loss.next_timeout(1.1)
    assert due is not None
    assert 1.1 < due < 1.2
    path.loss.on_timeout(due)
    assert {0} == path.having(False)


def test_rfc_9002_section_5_3_round_trips_are_measured_without_the_peers_delay():
    path = Path()
    path.send(0, 1.0)
    path.acked((0, 0), now=1.05)
    assert (0.05, 0.025) == (round(path.loss.smoothed_rtt, 6), round(path.loss.rtt_variance, 6))
    path.send(1, 2.0)
    path.acked((1, 1), now=2.071, delay=0.02)
    assert 0.050125 == round(path.loss.smoothed_rtt, 6)
    path.send(2, 3.0, eliciting=False)  # says nothing of the time
    path.acked((2, 2), now=9.0)
    assert 0.050125 == round(path.loss.smoothed_rtt, 6)


def test_rfc_9002_section_5_3_a_peer_that_claims_too_long_a_delay_is_not_believed():
    path = Path()
    path.send(0, 1.0)
    path.acked((0, 0), now=1.05)
    path.send(1, 2.0)
    path.acked((1, 1), now=2.55, delay=10.0)
    believed = 0.55 - path.loss.max_ack_delay_s
    assert round(0.05 + (believed - 0.05) / 8, 6) == round(path.loss.smoothed_rtt, 6)


def test_rfc_9002_section_6_2_1_a_silent_peer_is_probed_after_each_doubled_time_out():
    path = Path()
    path.send(0, 1.0)
    path.acked((0, 0), now=1.1)
    path.send(1, 2.0)
    pto = 0.1 + 4 * 0.05 + 0.025
    for doubling in range(4):
        due = path.loss.next_timeout(2.0)
        assert due is not None
        assert round(2.0 + pto * 2**doubling, 6) == round(due, 6)
        path.loss.on_timeout(due - 0.001)  # too early
        path.space.probes = 0
        path.loss.on_timeout(due)
        assert 2 == path.space.probes
    assert {1} == path.having(False)  # its content is sent again, once
    path.acked((1, 1), now=9.0)
    assert 0 == path.loss.pto_count


def test_rfc_9002_section_6_2_2_1_a_dialler_probes_although_nothing_is_in_flight():
    """Else both wait for ever: the listener for the address to be proven, the dialler for it."""
    spaces = [Space(level) for level in PacketLevel]
    loss = Recovery(spaces, dialled=True, size=SIZE)
    assert loss.next_timeout(0.0) is not None
    loss.peer_is_validated = True
    assert loss.next_timeout(0.0) is None


def test_rfc_9002_section_7_3_slow_start_ends_with_the_first_loss_and_recovery_counts_once():
    path = Path()
    for number in range(10):
        path.send(number, 1.0)
    path.acked((0, 9), now=1.1)
    assert 20 * SIZE == path.loss.window
    for number in range(10, 26):
        path.send(number, 2.0)
    path.acked((15, 15), now=2.1)  # 10 to 12 are lost
    once = 21 * SIZE // 2
    assert once == path.loss.window
    path.acked((19, 19), now=2.2)  # 16 is lost, sent before the window shrank
    assert once == path.loss.window


def test_rfc_9002_section_7_8_a_window_that_is_not_used_does_not_grow():
    path = Path()
    for number in range(200):
        path.send(number, 1.0 + number)
        path.acked((number, number), now=1.1 + number)
    assert 10 * SIZE == path.loss.window


def test_rfc_9002_section_7_6_persistent_congestion_leaves_the_smallest_window():
    path = Path()
    path.send(0, 1.0)
    path.acked((0, 0), now=1.1)
    for number in range(1, 10):
        path.send(number, 1.0 + number)
    path.send(20, 30.0)
    path.acked((20, 20), now=30.1)
    assert 2 * SIZE == path.loss.window


def test_rfc_9002_section_7_6_what_was_sent_before_a_round_trip_was_known_shows_nothing():
    path = Path()
    for number in range(10):
        path.send(number, 1.0 + number)
    path.send(20, 30.0)
    path.acked((20, 20), now=30.1)
    assert 11 * SIZE // 2 == path.loss.window


def test_rfc_9002_section_6_4_a_space_that_is_given_up_has_nothing_in_flight():
    path = Path()
    path.send(0, 1.0)
    path.loss.discard(path.space)
    assert (0, None) == (path.loss.bytes_in_flight, path.loss.next_timeout(1.0))


# --- what was received ----------------------------------------------------------------------------


def test_rfc_9000_section_13_2_3_of_packets_with_gaps_the_newest_are_remembered():
    space = Space(PacketLevel.ONE_RTT)
    for number in range(0, 6 * MAX_ACK_RANGES, 2):
        assert space.is_new(number)
        space.on_received(number, True, 1.0)
    assert MAX_ACK_RANGES == len(space.received)
    assert not space.is_new(0)
    assert not space.is_new(1)  # too old to say
    assert space.is_new(6 * MAX_ACK_RANGES - 3)


def test_rfc_9000_section_13_2_4_what_the_peer_knows_to_be_acknowledged_is_not_named_again():
    space = Space(PacketLevel.ONE_RTT)
    for number in range(10):
        space.on_received(number, True, 1.0)
    space.on_ack_of_ack(6)
    assert [(7, 10)] == list(space.received)
    assert not any(space.is_new(number) for number in range(10))


@pytest.mark.parametrize("level", [PacketLevel.INITIAL, PacketLevel.HANDSHAKE])
def test_rfc_9000_section_13_2_1_packets_of_the_handshake_are_acknowledged_at_once(level):
    space = Space(level)
    space.on_received(0, True, 1.0)
    assert space.is_worth_sending(1.0)


# --- the pace -------------------------------------------------------------------------------------


def test_rfc_9002_section_7_7_a_first_burst_is_not_held_back_and_what_follows_is():
    pacer = Pacer(SIZE)
    pacer.set_pace(10 * SIZE, 0.1)
    sent = 0
    while (due := pacer.next_send_time(50.0)) is None:
        pacer.on_sent(50.0)
        sent += 1
    assert 10 == sent
    assert 0.008 == round(due - 50.0, 6)  # ten in a round trip, a quarter faster
    assert pacer.next_send_time(due) is None


@given(st.floats(0, 1e7), st.integers(2, 5_000), st.floats(0.001, 1.0))
def test_at_the_time_told_the_next_datagram_may_leave(now, packets, rtt):
    """However times round: else a timer would fire for nothing, again and again."""
    pacer = Pacer(SIZE)
    pacer.set_pace(packets * SIZE, rtt)
    while (due := pacer.next_send_time(now)) is None:
        pacer.on_sent(now)
    assert due >= now
    assert pacer.next_send_time(due + 1e-7 * (due > 1e6)) is None


def test_on_a_short_path_what_two_milliseconds_would_let_leave_leaves_at_once():
    pacer = Pacer(SIZE)
    pacer.set_pace(40 * SIZE, 0.001)
    sent = 0
    pacer.on_sent(50.0)
    while pacer.next_send_time(50.0) is None:
        pacer.on_sent(50.0)
        sent += 1
    assert 99 == sent


def test_nothing_is_held_back_before_the_first_round_trip_was_measured():
    pacer = Pacer(SIZE)
    for _ in range(100):
        assert pacer.next_send_time(1.0) is None
        pacer.on_sent(1.0)
    assert math.isinf(pacer._rate)
