from __future__ import annotations

from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicDeliveryState, QuicSentPacket
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.tls import Epoch
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.net.quic.recovery import Pacer, Recovery

SIZE = 1_200


def recovery() -> Recovery:
    made = Recovery(
        congestion_control_algorithm="reno",
        initial_rtt=0.1,
        max_datagram_size=SIZE,
        peer_completed_address_validation=True,
        send_probe=lambda: None,
    )
    made.handshake_confirmed = True
    return made


class Path:
    """What was sent in one space, and what became of it."""

    def __init__(self) -> None:
        self.loss = recovery()
        self.space = QuicPacketSpace(is_application_data=True)
        self.loss.spaces = [self.space]
        self.fate: dict[int, QuicDeliveryState] = {}

    def send(self, number: int, now: float, eliciting: bool = True) -> None:
        packet = QuicSentPacket(
            epoch=Epoch.ONE_RTT,
            in_flight=eliciting,
            is_ack_eliciting=eliciting,
            is_crypto_packet=False,
            packet_number=number,
            packet_type=QuicPacketType.ONE_RTT,
            sent_time=now,
            sent_bytes=SIZE,
        )
        packet.delivery_handlers.append((self.on_fate, (number,)))
        self.loss.on_packet_sent(packet=packet, space=self.space)

    def on_fate(self, how: QuicDeliveryState, number: int) -> None:
        assert number not in self.fate  # once only
        self.fate[number] = how

    def acked(self, *ranges: tuple[int, int], now: float, delay: float = 0.0) -> None:
        self.loss.on_ranges_acked(ranges, delay, now, self.space)

    def having(self, how: QuicDeliveryState) -> set[int]:
        return {number for number, fate in self.fate.items() if fate is how}


@given(st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40), min_size=1))
def test_exactly_the_packets_named_are_settled_and_those_long_before_them_lost(sent, named):
    path = Path()
    for number in sorted(sent):
        path.send(number, 1.0)
    ranges: list[tuple[int, int]] = []
    for number in sorted(named, reverse=True):
        if ranges and ranges[-1][0] == number + 1:
            ranges[-1] = (number, ranges[-1][1])
        else:
            ranges.append((number, number))
    path.acked(*ranges, now=1.01)
    settled = sent & named
    lost = {each for each in sent - named if settled and each <= max(named) - 3}
    assert settled == path.having(QuicDeliveryState.ACKED)
    assert lost == path.having(QuicDeliveryState.LOST)
    left = len(sent - settled - lost)
    assert (left, SIZE * left) == (path.space.ack_eliciting_in_flight, path.loss.bytes_in_flight)


def test_a_packet_a_little_before_the_acknowledged_is_lost_in_time():
    path = Path()
    path.send(0, 1.0)
    path.send(1, 1.0)
    path.acked((1, 1), now=1.1)
    assert path.space.loss_time is not None
    assert 1.1 < path.space.loss_time < 1.2
    path.loss.on_loss_detection_timeout(now=path.space.loss_time)
    assert {0} == path.having(QuicDeliveryState.LOST)


def test_round_trips_are_measured_without_the_peers_delay():
    path = Path()
    path.send(0, 1.0)
    path.acked((0, 0), now=1.05)
    path.send(1, 2.0)
    path.acked((1, 1), now=2.071, delay=0.02)
    assert 0.050125 == round(path.loss._rtt_smoothed, 6)
    path.send(2, 3.0, eliciting=False)  # says nothing of the time
    path.acked((2, 2), now=9.0)
    assert 0.050125 == round(path.loss._rtt_smoothed, 6)


def test_a_peer_that_claims_to_have_waited_longer_than_it_may_is_not_believed():
    path = Path()
    path.send(0, 1.0)
    path.acked((0, 0), now=1.05)
    path.send(1, 2.0)
    path.acked((1, 1), now=2.55, delay=10.0)
    believed = 0.55 - path.loss.max_ack_delay
    assert round(0.05 + (believed - 0.05) / 8, 6) == round(path.loss._rtt_smoothed, 6)


def test_slow_start_ends_with_the_first_loss_and_not_before():
    path = Path()
    for number in range(200):
        path.send(number, 1.0 + number)
        path.acked((number, number), now=1.0 + number + 0.001 * number)  # slower and slower
    assert (200 + 10) * SIZE == path.loss.congestion_window
    for number in range(200, 205):
        path.send(number, 300.0)
    path.acked((204, 204), now=300.1)
    assert (200 + 11) * SIZE // 2 == path.loss.congestion_window


def test_a_burst_of_the_first_window_is_not_held_back_and_what_follows_is():
    pacer = Pacer(max_datagram_size=SIZE)
    pacer.update_rate(congestion_window=10 * SIZE, smoothed_rtt=0.1)
    sent = 0
    while (due := pacer.next_send_time(now=50.0)) is None:
        pacer.update_after_send(now=50.0)
        sent += 1
    assert 10 == sent
    assert 0.008 == round(due - 50.0, 6)  # ten in a round trip, a quarter faster
    assert pacer.next_send_time(now=due) is None


@given(st.floats(0, 1e7), st.integers(2, 5_000), st.floats(0.001, 1.0))
def test_at_the_time_told_the_next_datagram_may_leave(now, packets, rtt):
    """However times round: else a timer would fire for nothing, again and again."""
    pacer = Pacer(max_datagram_size=SIZE)
    pacer.update_rate(congestion_window=packets * SIZE, smoothed_rtt=rtt)
    while (due := pacer.next_send_time(now=now)) is None:
        pacer.update_after_send(now=now)
    assert due >= now
    assert pacer.next_send_time(now=due + 1e-7 * (due > 1e6)) is None


def test_on_a_short_path_what_two_milliseconds_would_let_leave_leaves_at_once():
    pacer = Pacer(max_datagram_size=SIZE)
    pacer.update_rate(congestion_window=40 * SIZE, smoothed_rtt=0.001)
    pacer.update_after_send(now=50.0)
    sent = 1
    while pacer.next_send_time(now=50.0) is None:
        pacer.update_after_send(now=50.0)
        sent += 1
    assert 100 == sent


def test_nothing_is_held_back_before_the_first_round_trip_was_measured():
    pacer = Pacer(max_datagram_size=SIZE)
    for _ in range(100):
        assert pacer.next_send_time(now=1.0) is None
        pacer.update_after_send(now=1.0)
