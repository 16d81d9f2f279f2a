from __future__ import annotations

from itertools import pairwise
from struct import Struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.core.clock import Monotonic
from codio_dht.errors import CapacityError, DeadlineError, ProtocolError, StreamError
from codio_dht.net.stack.muxer import (
    Data,
    Eof,
    GoAway,
    StreamOpened,
    StreamReset,
    StreamWritable,
    Violation,
)
from codio_dht.net.stack.yamux import Yamux
from codio_dht.net.stack.yamux_stream import YamuxLimits
from fuzz_inputs import yamux_traffic

HEADER = Struct(">BBHII")
DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
WINDOW_BYTES = 256 * 1024
NOW = Monotonic(100.0)


def frame(
    kind: int, flags: int = 0, stream: int = 0, length: int | None = None, body: bytes = b""
) -> bytes:
    size = len(body) if length is None else length
    return HEADER.pack(0, kind, flags, stream, size) + body


def data(stream: int, body: bytes, flags: int = 0) -> bytes:
    return frame(DATA, flags, stream, body=body)


def frames_of(sent: bytes) -> list[tuple[int, int, int, int, bytes]]:
    """Type, flags, stream, length, body."""
    frames, at = [], 0
    while at < len(sent):
        version, kind, flags, stream, length = HEADER.unpack_from(sent, at)
        assert version == 0
        at += 12
        body = sent[at : at + length] if kind == DATA else b""
        at += len(body)
        frames.append((kind, flags, stream, length, body))
    return frames


def server(**limits) -> Any:
    return Yamux(client=False, now=NOW, limits=YamuxLimits(**limits))


def client(**limits) -> Any:
    return Yamux(client=True, now=NOW, limits=YamuxLimits(**limits))


def accepted(mux: Any, stream_id: int = 1):
    """A stream of the peer, opened."""
    (opened,) = mux.receive(frame(WINDOW, SYN, stream_id), NOW)
    assert isinstance(opened, StreamOpened)
    return opened.stream


def assert_ended(mux: Any, events, reason: str) -> None:
    """The last event is a violation, and the peer is told so."""
    violation = events[-1]
    assert isinstance(violation, Violation)
    assert (reason, "yamux") == (violation.error.reason, violation.error.layer)
    assert (GO_AWAY, 0, 0, 1, b"") in frames_of(mux.data_to_send())
    assert [] == mux.receive(frame(PING, SYN, 0, 1), NOW)


# --- opening --------------------------------------------------------------------------------------


def test_a_stream_is_opened_by_a_window_update_of_its_own():
    mux = client()
    first, second = mux.open_stream(), mux.open_stream()
    mux.send(first, b"hello")
    assert (1, 3) == (first.id, second.id)
    assert [
        (WINDOW, SYN, 1, 0, b""),
        (WINDOW, SYN, 3, 0, b""),
        (DATA, 0, 1, 5, b"hello"),
    ] == frames_of(mux.data_to_send())


def test_a_listener_opens_even_streams():
    assert 2 == server().open_stream().id


@pytest.mark.parametrize("extra", [0, 1000])
def test_a_stream_opened_by_a_window_update_has_its_credit_added(extra):
    mux = server()
    (opened,) = mux.receive(frame(WINDOW, SYN, 1, extra), NOW)
    assert WINDOW_BYTES + extra == opened.stream.send_window


def test_a_stream_opened_with_data_and_fin_tells_all_three():
    mux = server()
    opened, arrived, eof = mux.receive(data(1, b"request", SYN | FIN), NOW)
    assert opened == StreamOpened(opened.stream)
    assert [Data(opened.stream, b"request"), Eof(opened.stream)] == [arrived, eof]


def test_the_first_frame_of_an_accepted_stream_acknowledges_it_and_only_that():
    mux = server()
    stream = accepted(mux)
    assert b"" == mux.data_to_send()
    mux.send(stream, b"a")
    mux.send(stream, b"b")
    assert [(DATA, ACK, 1, 1, b"a"), (DATA, 0, 1, 1, b"b")] == frames_of(mux.data_to_send())


@pytest.mark.parametrize(
    ("bytes_in", "reason"),
    [
        (frame(WINDOW, SYN, 1) * 2, "stream opened twice"),
        (frame(WINDOW, SYN, 2), "stream id of the wrong side"),
        (data(0, b"x", SYN), "stream id zero"),
        (HEADER.pack(1, DATA, 0, 1, 0), "unknown version"),
        (HEADER.pack(0, 4, 0, 1, 0), "unknown frame type"),
    ],
)
def test_a_frame_that_no_peer_sends_ends_the_connection(bytes_in, reason):
    mux = server()
    assert_ended(mux, mux.receive(bytes_in, NOW), reason)


def test_what_came_before_a_violation_is_still_told():
    mux = server()
    events = mux.receive(data(1, b"x", SYN) + b"\x01" * 12, NOW)
    assert [StreamOpened, Data, Violation] == [type(event) for event in events]


def test_a_stream_opened_and_reset_in_one_frame_never_was():
    mux = server()
    assert [] == mux.receive(frame(WINDOW, SYN | RST, 1), NOW)
    assert [] == list(mux.streams())


def test_unknown_flags_and_frames_of_unknown_streams_are_ignored():
    mux = server()
    events = mux.receive(
        data(7, b"late data") + frame(WINDOW, FIN, 9, 5) + frame(WINDOW, RST, 11) + frame(PING),
        NOW,
    )
    assert [] == events
    (opened, arrived) = mux.receive(data(1, b"x", SYN | 0xFFF0), NOW)
    assert Data(opened.stream, b"x") == arrived
    assert b"" == mux.data_to_send()


def test_streams_past_the_bound_are_refused_until_one_ends():
    mux = server(inbound_streams=2)
    first = accepted(mux, 1)
    accepted(mux, 3)
    assert [] == mux.receive(data(5, b"refused", SYN), NOW)
    assert [(WINDOW, RST, 5, 0, b"")] == frames_of(mux.data_to_send())
    assert 1 == mux.refused_streams
    mux.reset(first)
    accepted(mux, 7)


def test_streams_that_nobody_answered_yet_are_bounded_on_their_own():
    mux = server(inbound_backlog=2)
    first = accepted(mux, 1)
    accepted(mux, 3)
    assert [] == mux.receive(frame(WINDOW, SYN, 5), NOW)
    mux.send(first, b"answer")
    accepted(mux, 7)


def test_unacknowledged_streams_of_ours_are_bounded():
    mux = client(ack_backlog=2)
    first, second = mux.open_stream(), mux.open_stream()
    with pytest.raises(CapacityError, match="unacknowledged"):
        mux.open_stream()
    assert [] == mux.receive(frame(WINDOW, ACK, first.id) * 2, NOW)
    mux.open_stream()
    mux.reset(second)
    mux.open_stream()
    with pytest.raises(CapacityError):
        mux.open_stream()


def test_a_refused_stream_gives_its_places_back():
    mux = client(ack_backlog=1, outbound_streams=1)
    for _ in range(3):
        stream = mux.open_stream()
        assert [StreamReset(stream, "reset by peer")] == mux.receive(
            frame(WINDOW, RST, stream.id), NOW
        )


def test_streams_of_ours_are_bounded():
    mux = client(outbound_streams=1)
    mux.open_stream()
    with pytest.raises(CapacityError, match="outbound"):
        mux.open_stream()


def test_stream_ids_run_out():
    mux = client()
    mux._next_id = 2**32 - 1
    assert 2**32 - 1 == mux.open_stream().id
    with pytest.raises(StreamError, match="used up"):
        mux.open_stream()


# --- closing --------------------------------------------------------------------------------------


def test_fin_is_a_frame_of_its_own_and_idempotent():
    mux = client()
    stream = mux.open_stream()
    mux.send(stream, b"x")
    mux.close_write(stream)
    mux.close_write(stream)
    assert [(DATA, 0, 1, 1, b"x"), (WINDOW, FIN, 1, 0, b"")] == frames_of(mux.data_to_send())[1:]
    with pytest.raises(StreamError):
        mux.send(stream, b"y")


def test_fin_is_never_combined_with_ack():
    mux = server()
    mux.close_write(accepted(mux))
    assert [(WINDOW, ACK, 1, 0, b""), (WINDOW, FIN, 1, 0, b"")] == frames_of(mux.data_to_send())


def test_half_closed_streams_still_carry_the_other_direction():
    mux = client()
    stream = mux.open_stream()
    mux.close_write(stream)
    assert [Data(stream, b"reply")] == mux.receive(data(1, b"reply", ACK), NOW)
    mux.consume(stream, 5)
    assert [Eof(stream)] == mux.receive(frame(WINDOW, FIN, 1), NOW)
    assert [] == list(mux.streams())


@pytest.mark.parametrize("kind", [DATA, WINDOW])
@pytest.mark.parametrize("ack", [0, ACK])
@pytest.mark.parametrize(
    ("flag", "event"), [(FIN, Eof), (RST, lambda stream: StreamReset(stream, "reset by peer"))]
)
def test_fin_and_rst_are_understood_on_any_frame_with_and_without_ack(kind, ack, flag, event):
    mux = client()
    stream = mux.open_stream()
    assert [event(stream)] == mux.receive(frame(kind, flag | ack, stream.id), NOW)


def test_data_with_ack_and_fin_ends_behind_the_data():
    mux = client()
    stream = mux.open_stream()
    events = mux.receive(data(1, b"all of it", ACK | FIN), NOW)
    assert [Data(stream, b"all of it"), Eof(stream)] == events


def test_a_fin_waits_for_the_rest_of_its_body():
    mux = client()
    stream = mux.open_stream()
    reply = data(1, b"all of it", ACK | FIN)
    assert [Data(stream, b"all")] == mux.receive(reply[:15], NOW)
    assert [Data(stream, b" of it"), Eof(stream)] == mux.receive(reply[15:], NOW)


def test_a_reset_is_a_reset_and_never_an_end():
    mux = client()
    stream = mux.open_stream()
    events = mux.receive(data(1, b"half a rep") + frame(WINDOW, RST, 1, 7), NOW)
    assert [
        Data(stream, b"half a rep"),
        StreamReset(stream, "reset by peer with an error code"),
    ] == events
    assert (0, 0) == (mux.unread_bytes, stream.unread)
    with pytest.raises(StreamError):
        mux.send(stream, b"x")


def test_an_error_code_in_a_reset_is_no_credit():
    mux = client()
    stream = mux.open_stream()
    events = mux.receive(frame(WINDOW, RST, 1, 2**32 - 1), NOW)
    assert [StreamReset(stream, "reset by peer with an error code")] == events


def test_after_our_reset_the_peers_frames_in_flight_are_dropped():
    mux = server()
    stream = accepted(mux)
    mux.reset(stream)
    mux.reset(stream)
    mux.close_write(stream)
    mux.consume(stream, 5)
    assert [(WINDOW, RST, 1, 0, b"")] == frames_of(mux.data_to_send())
    assert [] == mux.receive(data(1, b"late") + frame(WINDOW, FIN, 1), NOW)


def test_a_reset_in_the_middle_of_a_body_drops_the_rest_of_it():
    mux = server()
    stream = accepted(mux)
    body = data(1, b"abcdef")
    mux.receive(body[:14], NOW)
    mux.reset(stream)
    (opened,) = mux.receive(body[14:] + frame(WINDOW, SYN, 3), NOW)
    assert 3 == opened.stream.id
    assert 0 == mux.unread_bytes


def test_data_after_the_end_resets_that_stream_only():
    mux = server()
    stream = accepted(mux)
    events = mux.receive(frame(WINDOW, FIN, 1) + data(1, b"more") + frame(WINDOW, SYN, 3), NOW)
    assert [Eof(stream), StreamReset(stream, "data after the end")] == events[:2]
    assert 3 == events[2].stream.id
    assert [(WINDOW, RST, 1, 0, b"")] == frames_of(mux.data_to_send())


def test_a_second_fin_is_ignored():
    mux = server()
    stream = accepted(mux)
    assert [Eof(stream)] == mux.receive(frame(WINDOW, FIN, 1) * 2, NOW)


def test_empty_data_is_no_event():
    mux = server()
    accepted(mux)
    assert [] == mux.receive(data(1, b"") * 3, NOW)


# --- receiving: windows and bounds ----------------------------------------------------------------


def test_a_peer_may_fill_the_window_and_not_one_byte_more():
    mux = server()
    accepted(mux)
    full = data(1, bytes(WINDOW_BYTES - 1)) + data(1, b"x")
    assert all(isinstance(event, Data) for event in mux.receive(full, NOW))
    assert_ended(mux, mux.receive(data(1, b"x"), NOW), "receive window exceeded")


@pytest.mark.parametrize("flags", [0, SYN])
def test_a_frame_larger_than_the_window_is_refused_by_its_header(flags):
    mux = server()
    if not flags:
        accepted(mux)
    events = mux.receive(frame(DATA, flags, 1, WINDOW_BYTES + 1), NOW)
    assert_ended(mux, events, "receive window exceeded")
    assert 0 == mux.unread_bytes


def test_the_window_comes_back_with_consumption_and_not_before():
    mux = server()
    stream = accepted(mux)
    half = WINDOW_BYTES // 2
    mux.receive(data(1, bytes(WINDOW_BYTES)), NOW)
    assert WINDOW_BYTES == mux.unread_bytes
    mux.consume(stream, half - 1)
    assert b"" == mux.data_to_send()
    mux.consume(stream, 1)
    assert [(WINDOW, ACK, 1, half, b"")] == frames_of(mux.data_to_send())
    mux.receive(data(1, bytes(half)), NOW)
    assert_ended(mux, mux.receive(data(1, b"x"), NOW), "receive window exceeded")


def test_consuming_more_than_arrived_gives_no_credit():
    mux = server()
    stream = accepted(mux)
    mux.receive(data(1, b"abc"), NOW)
    mux.consume(stream, WINDOW_BYTES)
    assert (0, 0, b"") == (mux.unread_bytes, stream.unread, mux.data_to_send())
    assert 3 == stream.credit


def test_too_much_unread_on_all_streams_resets_the_stream_that_goes_past():
    mux = server(unread_bytes=100)
    first, second = accepted(mux, 1), accepted(mux, 3)
    mux.receive(data(1, bytes(60)), NOW)
    events = mux.receive(data(3, bytes(41)) + data(1, bytes(40)), NOW)
    assert StreamReset(second, "too much unread on the connection") == events[0]
    assert Data(first, bytes(40)) == events[1]
    assert [(WINDOW, RST, 3, 0, b"")] == frames_of(mux.data_to_send())
    mux.consume(first, 100)
    assert 0 == mux.unread_bytes


def test_unread_bytes_of_a_finished_stream_count_until_they_are_consumed():
    mux = server()
    stream = accepted(mux)
    mux.close_write(stream)
    mux.receive(data(1, b"abc", FIN), NOW)
    assert ([], 3) == (list(mux.streams()), mux.unread_bytes)
    mux.consume(stream, 3)
    assert 0 == mux.unread_bytes


def test_unread_bytes_of_a_finished_stream_are_given_back_when_it_is_given_up():
    mux = server()
    stream = accepted(mux)
    mux.close_write(stream)
    mux.receive(data(1, b"abc", FIN), NOW)
    mux.data_to_send()
    mux.reset(stream)
    assert (0, 0, b"") == (mux.unread_bytes, stream.unread, mux.data_to_send())


# --- sending: windows and bounds ------------------------------------------------------------------


def test_what_the_window_does_not_take_waits_and_then_leaves():
    mux = client()
    stream = mux.open_stream()
    mux.send(stream, bytes(WINDOW_BYTES + 10))
    mux.send(stream, b"tail")
    mux.close_write(stream)
    sent = frames_of(mux.data_to_send())[1:]
    assert WINDOW_BYTES == sum(length for _, _, _, length, _ in sent)
    assert max(length for _, _, _, length, _ in sent) + 12 <= 65_519
    assert 14 == stream.unsent == mux.unsent_bytes
    assert [] == mux.receive(frame(WINDOW, 0, 1, 10), NOW)
    assert [(DATA, 0, 1, 10, bytes(10))] == frames_of(mux.data_to_send())
    assert [] == mux.receive(frame(WINDOW, 0, 1, 100), NOW)
    assert [(DATA, 0, 1, 4, b"tail"), (WINDOW, FIN, 1, 0, b"")] == frames_of(mux.data_to_send())
    assert 0 == mux.unsent_bytes


def test_the_sender_hears_when_everything_has_left():
    mux = client()
    stream = mux.open_stream()
    mux.send(stream, bytes(WINDOW_BYTES + 1))
    assert [StreamWritable(stream)] == mux.receive(frame(WINDOW, ACK, 1, 1), NOW)
    assert [] == mux.receive(frame(WINDOW, 0, 1, 1), NOW)


@pytest.mark.parametrize("delta", [2**32 - WINDOW_BYTES, 2**32 - 1])
@pytest.mark.parametrize("flags", [0, SYN])
def test_credit_past_32_bits_ends_the_connection(delta, flags):
    mux = server()
    if not flags:
        accepted(mux)
    assert_ended(mux, mux.receive(frame(WINDOW, flags, 1, delta), NOW), "send window overflow")


def test_the_largest_credit_is_fine():
    mux = server()
    accepted(mux)
    assert [] == mux.receive(frame(WINDOW, 0, 1, 2**32 - 1 - WINDOW_BYTES), NOW)


def test_unsent_bytes_are_bounded_for_each_stream_and_for_all():
    mux = client(stream_unsent_bytes=100, unsent_bytes=150)
    first, second = mux.open_stream(), mux.open_stream()
    for stream in (first, second):
        for at in range(0, WINDOW_BYTES, 50_000):
            mux.send(stream, bytes(min(50_000, WINDOW_BYTES - at)))
    mux.send(first, bytes(100))
    with pytest.raises(CapacityError, match="one stream"):
        mux.send(first, b"x")
    with pytest.raises(CapacityError, match="one connection"):
        mux.send(second, bytes(51))
    assert (100, 0, 100) == (first.unsent, second.unsent, mux.unsent_bytes)
    mux.reset(first)
    assert 0 == mux.unsent_bytes
    mux.send(second, bytes(51))


def test_answers_that_pile_up_unread_end_the_connection():
    mux = server(inbound_streams=0, control_bytes=120)
    assert [] == mux.receive(b"".join(frame(WINDOW, SYN, 2 * i + 1) for i in range(10)), NOW)
    mux.data_to_send()
    flood = b"".join(frame(WINDOW, SYN, 2 * i + 1) for i in range(10, 21))
    assert_ended(mux, mux.receive(flood, NOW), "answers pile up unread")


# --- pings and the end ----------------------------------------------------------------------------


def test_pings_are_answered_up_to_a_bound():
    mux = server()
    assert [] == mux.receive(b"".join(frame(PING, SYN, 0, i) for i in range(1000)), NOW)
    sent = frames_of(mux.data_to_send())
    assert [(PING, ACK, 0, i, b"") for i in range(32)] == sent
    mux.receive(frame(PING, SYN, 0, 5), NOW)
    assert [(PING, ACK, 0, 5, b"")] == frames_of(mux.data_to_send())


def test_a_ping_measures_the_round_trip():
    mux = client()
    mux.ping(NOW)
    mux.ping(NOW)
    ((kind, flags, _, value, _),) = frames_of(mux.data_to_send())
    assert (PING, SYN) == (kind, flags)
    mux.receive(frame(PING, ACK, 0, value + 1), Monotonic(NOW + 0.1))
    assert mux.rtt is None
    mux.receive(frame(PING, ACK, 0, value) * 2, Monotonic(NOW + 0.25))
    assert 0.25 == mux.rtt


def test_a_quiet_connection_is_pinged_and_a_silent_one_ends():
    mux = client(keep_alive_interval_s=30, keep_alive_timeout_s=10)
    assert NOW + 30 == mux.next_timeout()
    mux.on_timeout(Monotonic(NOW + 29))
    assert b"" == mux.data_to_send()
    mux.on_timeout(Monotonic(NOW + 30))
    assert [(PING, SYN, 0, 1, b"")] == frames_of(mux.data_to_send())
    assert NOW + 40 == mux.next_timeout()
    mux.receive(frame(PING, SYN, 0, 9), Monotonic(NOW + 35))  # busy, so alive
    mux.on_timeout(Monotonic(NOW + 44))
    with pytest.raises(DeadlineError):
        mux.on_timeout(Monotonic(NOW + 45))


def test_after_the_peers_goaway_nothing_is_opened_and_streams_live_on():
    mux = client()
    stream = mux.open_stream()
    assert [GoAway(0)] == mux.receive(frame(GO_AWAY), NOW)
    with pytest.raises(StreamError):
        mux.open_stream()
    assert [Data(stream, b"x")] == mux.receive(data(1, b"x"), NOW)


def test_after_our_goaway_new_streams_are_refused():
    mux = server()
    mux.go_away(0)
    mux.go_away(2)
    assert [] == mux.receive(frame(WINDOW, SYN, 1), NOW)
    assert [(GO_AWAY, 0, 0, 0, b""), (WINDOW, RST, 1, 0, b"")] == frames_of(mux.data_to_send())
    with pytest.raises(StreamError):
        mux.open_stream()


# --- laws -----------------------------------------------------------------------------------------


def joined(events):
    """Events with neighbouring data of one stream joined, streams by number."""
    told: list[Any] = []
    for event in events:
        match event:
            case Data(stream, chunk):
                if told and told[-1][:2] == ("data", stream.id):
                    told[-1] = ("data", stream.id, told[-1][2] + chunk)
                else:
                    told.append(("data", stream.id, chunk))
            case Violation(error):
                told.append(("violation", error.reason))
            case GoAway(code):
                told.append(("goaway", code))
            case StreamReset(stream, reason):
                told.append(("reset", stream.id, reason))
            case _:
                told.append((type(event).__name__, event.stream.id))
    return told


@given(yamux_traffic, st.lists(st.integers(min_value=0), max_size=10))
def test_any_bytes_in_any_chunks_mean_the_same_and_never_raise(bytes_in, cuts):
    edges = [0, *sorted(cut % (len(bytes_in) + 1) for cut in cuts), len(bytes_in)]
    whole, pieces = server(), server()
    at_once = whole.receive(bytes_in, NOW)
    piecemeal = []
    for start, stop in pairwise(edges):
        piecemeal += pieces.receive(bytes_in[start:stop], NOW)
    assert joined(at_once) == joined(piecemeal)
    assert whole.data_to_send() == pieces.data_to_send()
    assert whole.unread_bytes == sum(stream.unread for stream in whole.streams())
    for stream in list(whole.streams()):
        assert stream.receive_window + stream.unread + stream.credit <= WINDOW_BYTES
        whole.reset(stream)
    assert (0, 0, 0, 0) == (
        whole.unread_bytes,
        whole.unsent_bytes,
        whole._inbound,
        whole._unacknowledged_inbound,
    )


def test_every_error_names_its_layer_and_a_fixed_phrase():
    assert "yamux: reason" == str(ProtocolError("yamux", "reason"))


# --- what is counted ------------------------------------------------------------------------------


def test_streams_that_we_reset_count_among_the_answers_that_pile_up_unread():
    mux = server(control_bytes=100)
    for stream_id in range(1, 17, 2):
        mux.reset(accepted(mux, stream_id))  # 8 times 12 bytes
    assert_ended(mux, mux.receive(frame(PING, SYN, 0, 7), NOW), "answers pile up unread")


def test_an_acknowledgement_of_a_stream_of_its_own_gives_a_peer_no_credit():
    mux = server(ack_backlog=2)
    first = accepted(mux, 1)
    for _ in range(5):
        mux.receive(frame(WINDOW, ACK, 1), NOW)
    assert first is not None
    assert {2, 4} == {mux.open_stream().id, mux.open_stream().id}
    with pytest.raises(CapacityError):
        mux.open_stream()
