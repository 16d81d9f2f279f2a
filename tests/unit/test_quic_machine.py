from __future__ import annotations

import pytest

from codio_dht.net.quic.headers import (
    LongKind,
    read_long_header,
    retry_packet,
    versions_packet,
)
from codio_dht.net.quic.limits import (
    MAX_QUIC_STREAMS,
    QUIC_CONNECTION_WINDOW_BYTES,
    QUIC_IDLE_TIMEOUT_S,
    QUIC_STREAM_WINDOW_BYTES,
)
from codio_dht.net.quic.machine.errors import Code, QuicError
from codio_dht.net.quic.machine.frames import PacketLevel
from codio_dht.net.quic.machine.ids import PEER_IDS
from codio_dht.net.quic.machine.machine import Machine
from codio_dht.net.quic.machine.parameters import Parameters, decode_parameters
from codio_dht.net.quic.machine.ranges import Ranges
from codio_dht.net.quic.machine.state import HandshakeComplete, Progress, StreamData
from codio_dht.net.quic.varints import varint
from quic_ends import DIALLER, HERE, LISTENER, START, THERE, Ends, accept, connected

TOO_FAR = (1 << 62) - 1


def stream(number: int, offset: int, data: bytes, *, fin: bool = False) -> bytes:
    return bytes([0x0E | fin]) + varint(number) + varint(offset) + varint(len(data)) + data


def new_id(number: int, retire_before: int = 0, size: int = 8) -> bytes:
    head = b"\x18" + varint(number) + varint(retire_before) + bytes([size])
    return head + bytes([number]) * size + bytes(16)


# --- RFC 9000: what a peer may not send -----------------------------------------------------------

VIOLATIONS = {
    "4.1 past the stream's window": (
        [stream(0, QUIC_STREAM_WINDOW_BYTES, b"x")],
        Code.FLOW_CONTROL_ERROR,
    ),
    "4.1 past the connection's window": (
        [
            stream(4 * number, QUIC_STREAM_WINDOW_BYTES - 1, b"x")
            for number in range(QUIC_CONNECTION_WINDOW_BYTES // QUIC_STREAM_WINDOW_BYTES + 1)
        ],
        Code.FLOW_CONTROL_ERROR,
    ),
    "4.5 another end": (
        [stream(0, 0, b"abc", fin=True), stream(0, 3, b"d", fin=True)],
        Code.FINAL_SIZE_ERROR,
    ),
    "4.5 data past the end": (
        [stream(0, 2, b"c", fin=True), stream(0, 3, b"d")],
        Code.FINAL_SIZE_ERROR,
    ),
    "4.5 an end before data": (
        [stream(0, 5, b"f"), stream(0, 2, b"c", fin=True)],
        Code.FINAL_SIZE_ERROR,
    ),
    "4.5 a reset that changes the end": (
        [stream(0, 0, b"abc"), b"\x04\x00\x00" + varint(2)],
        Code.FINAL_SIZE_ERROR,
    ),
    "4.5 a reset past the window": (
        [b"\x04\x00\x00" + varint(QUIC_STREAM_WINDOW_BYTES + 1)],
        Code.FLOW_CONTROL_ERROR,
    ),
    "4.6 too many streams": (
        [stream(4 * MAX_QUIC_STREAMS, 0, b"x")],
        Code.STREAM_LIMIT_ERROR,
    ),
    "4.6 a unidirectional stream": ([stream(2, 0, b"x")], Code.STREAM_LIMIT_ERROR),
    "4.6 more streams than can be named": (
        [b"\x12" + varint((1 << 60) + 1)],
        Code.FRAME_ENCODING_ERROR,
    ),
    "4.6 more unidirectional streams than can be named": (
        [b"\x13" + varint((1 << 60) + 1)],
        Code.FRAME_ENCODING_ERROR,
    ),
    "5.1.1 more ids than are held": (
        [b"".join(new_id(number) for number in range(50, 50 + PEER_IDS))],
        Code.CONNECTION_ID_LIMIT_ERROR,
    ),
    "7.5 handshake data without end": (
        [b"\x06" + varint(64 * 1024) + b"\x01x"],
        Code.CRYPTO_BUFFER_EXCEEDED,
    ),
    "12.4 no frames": ([b""], Code.PROTOCOL_VIOLATION),
    "12.4 an unknown frame": ([b"\x21"], Code.FRAME_ENCODING_ERROR),
    "12.4 a frame that is cut off": ([b"\x10"], Code.FRAME_ENCODING_ERROR),
    "13.1 a packet acknowledged that was never sent": (
        [b"\x02" + varint(1 << 20) + b"\0\0\0"],
        Code.PROTOCOL_VIOLATION,
    ),
    "19.3.1 an acknowledgement before packet 0": (
        [b"\x02\x00\x00\x00\x01"],
        Code.FRAME_ENCODING_ERROR,
    ),
    "19.4 a reset of a stream that is not there": ([b"\x04\x01\0\0"], Code.STREAM_STATE_ERROR),
    "19.5 a stop of a stream that is not there": ([b"\x05\x01\0"], Code.STREAM_STATE_ERROR),
    "19.6 handshake data past 2^62": (
        [b"\x06" + varint(TOO_FAR) + b"\x01x"],
        Code.FRAME_ENCODING_ERROR,
    ),
    "19.7 a token of a dialler": ([b"\x07\x01x"], Code.PROTOCOL_VIOLATION),
    "19.8 data of a stream that is not there": ([stream(1, 0, b"x")], Code.STREAM_STATE_ERROR),
    "19.8 data past 2^62": ([stream(0, TOO_FAR, b"x")], Code.FRAME_ENCODING_ERROR),
    "19.10 room on a stream that is not there": ([b"\x11\x01\x05"], Code.STREAM_STATE_ERROR),
    "19.13 a blocked stream that is not there": ([b"\x15\x01\x05"], Code.STREAM_STATE_ERROR),
    "19.14 blocked at more streams than can be named": (
        [b"\x16" + varint((1 << 60) + 1)],
        Code.FRAME_ENCODING_ERROR,
    ),
    "19.15 an empty id": ([new_id(50, size=0)], Code.FRAME_ENCODING_ERROR),
    "19.15 an id that is too long": ([new_id(50, size=21)], Code.FRAME_ENCODING_ERROR),
    "19.15 giving up ids to come": ([new_id(50, 51)], Code.FRAME_ENCODING_ERROR),
    "19.15 one id under two numbers": (
        [new_id(50, 50), new_id(51).replace(b"\x33" * 8, b"\x32" * 8)],
        Code.PROTOCOL_VIOLATION,
    ),
    "19.16 an id given up that was never told": ([b"\x19" + varint(99)], Code.PROTOCOL_VIOLATION),
    "19.20 a dialler that confirms": ([b"\x1e"], Code.PROTOCOL_VIOLATION),
}


@pytest.mark.parametrize(("payloads", "code"), VIOLATIONS.values(), ids=VIOLATIONS)
def test_rfc_9000_section(payloads, code):
    ends = connected()
    assert ends.craft(*payloads) == code
    ((datagram, _),) = ends.listener.datagrams_to_send(ends.now)
    ends.dialler.receive(datagram, THERE, ends.now)
    ended = ends.dialler.ended
    assert ended is not None
    assert (code, True, False) == (ended.code, ended.by_peer, ended.by_application)
    assert [] == ends.listener.datagrams_to_send(ends.now)


def test_rfc_9000_section_17_3_1_reserved_bits_are_zero():
    ends = connected()
    ends.listener.receive(ends.seal(b"\x01\0\0", first=0x5B), HERE, ends.now)
    assert ends.listener.ended is not None
    assert Code.PROTOCOL_VIOLATION == ends.listener.ended.code


def test_rfc_9000_section_19_16_the_id_in_use_is_not_given_up_under_itself():
    ends = connected()
    used = ends.state(ends.dialler).ids.peer
    assert Code.PROTOCOL_VIOLATION == ends.craft(b"\x19" + varint(used.number))


def test_rfc_9000_section_3_2_frames_of_a_stream_that_is_over_change_nothing():
    ends = connected()
    ends.dialler.write(ends.dialler.open_stream(), b"abc", fin=True)
    ends.run()
    ends.listener.abort(0)
    ends.run(1.0)
    assert 0 == ends.listener.streams_kept
    assert ends.craft(stream(0, 0, b"abc", fin=True), b"\x04\0\0\x03", b"\x05\0\0") is None


def test_rfc_9000_section_5_1_2_ids_given_up_by_the_peer_are_replaced():
    ends = connected()
    state = ends.state(ends.listener)
    before = {own.number for own in state.ids.own}
    victim = max(before)
    assert ends.craft(b"\x19" + varint(victim)) is None
    after = {own.number for own in state.ids.own}
    assert (len(before), {victim}) == (len(after), before - after)


def test_rfc_9000_section_5_1_2_ids_given_up_for_the_peer_are_said_to_be():
    ends = connected()
    assert ends.craft(new_id(77, 77)) is None
    state = ends.state(ends.listener)
    assert (77, []) == (state.ids.peer.number, state.ids.spare)
    assert state.ids.to_retire
    ends.listener.datagrams_to_send(ends.now)
    assert [] == state.ids.to_retire


# --- RFC 9000: versions, Retry, addresses ---------------------------------------------------------


def dialling() -> tuple[Machine, bytes, bytes]:
    """A dialler that has said hello, its own id, and the one that its first packet is for."""
    dialler = Machine(DIALLER, accept, dialled=True)
    dialler.dial(THERE, START)
    ((first, _),) = dialler.datagrams_to_send(START)
    header = read_long_header(first)
    assert header is not None
    return dialler, header.source, header.destination


def test_rfc_9000_section_6_2_a_dialler_ends_when_none_of_the_versions_is_its_own():
    dialler, own, first_id = dialling()
    packet = versions_packet(source=first_id, destination=own)
    dialler.receive(packet, THERE, START)
    assert dialler.ended is None  # version 1 is among them: somebody else sent this
    dialler.receive(packet[:-4] + b"\xff\0\0\x1d", THERE, START)
    assert dialler.ended is not None
    assert [] == dialler.datagrams_to_send(START)


def test_rfc_9000_section_6_2_versions_that_answer_something_else_are_ignored():
    dialler, own, first_id = dialling()
    for ids in ((own, own), (first_id, first_id)):
        packet = versions_packet(source=ids[0], destination=ids[1])
        dialler.receive(packet[:-4] + b"\xff\0\0\x1d", THERE, START)
    assert dialler.ended is None


def test_rfc_9000_section_17_2_5_a_dialler_follows_one_retry():
    dialler, own, first_id = dialling()

    def retry(original: bytes, source: bytes) -> bytes:
        return retry_packet(original=original, source=source, destination=own, token=b"token")

    dialler.receive(retry(b"another id", b"retry-01"), THERE, START)
    dialler.receive(retry(first_id, first_id), THERE, START)  # gives no other id
    assert [] == dialler.datagrams_to_send(START)
    dialler.receive(retry(first_id, b"retry-01"), THERE, START)
    ((again, _),) = dialler.datagrams_to_send(START)
    header = read_long_header(again)
    assert header is not None
    assert (b"retry-01", b"token", 1_200) == (header.destination, header.token, len(again))
    dialler.receive(retry(b"retry-01", b"retry-02"), THERE, START)
    assert [] == dialler.datagrams_to_send(START)
    listener = Machine(LISTENER, accept, dialled=False, original_id=first_id, retry_id=b"retry-01")
    listener.receive(again, HERE, START)
    for data, _ in listener.datagrams_to_send(START):
        dialler.receive(data, THERE, START)
    assert isinstance(list(iter(dialler.next_event, None))[-1], HandshakeComplete)


@pytest.mark.parametrize("retry_id", [None, b"retry-09"])
def test_rfc_9000_section_7_3_a_listener_that_authenticates_other_ids_is_refused(retry_id):
    ends = Ends()
    ends.listener = Machine(
        LISTENER,
        accept,
        dialled=False,
        original_id=ends.state(ends.dialler).first_id if retry_id else b"other id",
        retry_id=retry_id,
    )
    seen = ends.state(ends.listener)
    keys = Machine(
        LISTENER, accept, dialled=False, original_id=ends.state(ends.dialler).first_id
    )._s
    seen.receive_keys[0], seen.send_keys[0] = keys.receive_keys[0], keys.send_keys[0]
    ends.sent[ends.listener], ends.events[ends.listener] = 0, []
    ends.carry(ends.dialler)
    ends.carry(ends.listener)
    assert ends.dialler.ended is not None
    assert Code.TRANSPORT_PARAMETER_ERROR == ends.dialler.ended.code


def test_rfc_9000_section_8_1_at_most_three_times_the_bytes_received_go_to_an_unproven_address():
    ends = Ends()
    heard = len(ends.first[0][0])
    ends.lose = lambda to, data: to is ends.dialler or ends.now > START
    ends.run(9.0)
    assert heard < ends.sent[ends.listener] <= 3 * heard


def test_rfc_9000_section_8_1_a_retry_proves_the_address():
    proven = Machine(LISTENER, accept, dialled=False, original_id=b"original", retry_id=b"retry-01")
    proven.receive(bytes(1_200), HERE, START)
    assert proven._s.paths.current.is_proven


def test_rfc_9000_section_9_3_1_a_moved_peer_gets_little_until_its_new_address_is_proven():
    ends = connected()
    number = ends.dialler.open_stream()
    ends.dialler.write(number, b"ask")
    ends.run()
    ends.listener.write(number, bytes(200_000))
    ends.listener.datagrams_to_send(ends.now)
    ends.now += 1.0
    ends.dialler.write(number, b"moved")
    ((data, _),) = ends.dialler.datagrams_to_send(ends.now)
    ends.listener.receive(data, "elsewhere", ends.now)
    to_new = [each for each, to in ends.listener.datagrams_to_send(ends.now) if to == "elsewhere"]
    assert "elsewhere" == ends.listener.peer_address
    assert sum(map(len, to_new)) <= 3 * len(data)


def test_rfc_9000_section_9_3_2_an_address_that_does_not_answer_is_given_up():
    ends = connected()
    ends.listener.receive(ends.seal(b"\x01\0\0\0"), "forged", ends.now)
    assert "forged" == ends.listener.peer_address
    ends.lose = lambda to, data: False
    for _ in range(40):
        ends.now += 0.1
        ends.listener.on_timeout(ends.now)
        ends.listener.datagrams_to_send(ends.now)
    assert HERE == ends.listener.peer_address


def test_rfc_9000_section_9_3_3_an_address_that_answers_is_proven():
    ends = connected()
    ends.address = "elsewhere"
    ends.dialler.ping()
    ends.run()
    current = ends.state(ends.listener).paths.current
    assert ("elsewhere", True) == (current.address, current.is_proven)


def test_rfc_9000_section_9_a_dialler_ignores_other_addresses():
    ends = connected()
    ends.listener.ping()
    ((data, _),) = ends.listener.datagrams_to_send(ends.now)
    before = ends.dialler.heard_at
    ends.dialler.receive(data, "elsewhere", ends.now + 1)
    assert (THERE, before) == (ends.dialler.peer_address, ends.dialler.heard_at)


def test_rfc_9000_section_9_3_an_older_packet_moves_nobody():
    ends = connected()
    older, newer = ends.seal(b"\x01\0\0\0"), ends.seal(b"\x01\0\0\0")
    ends.listener.receive(newer, HERE, ends.now)
    ends.listener.receive(older, "elsewhere", ends.now)
    assert HERE == ends.listener.peer_address


def test_rfc_9000_section_9_1_a_packet_that_only_probes_moves_nobody_and_is_answered_there():
    ends = connected()
    ends.listener.receive(ends.seal(b"\x1a" + b"12345678"), "elsewhere", ends.now)
    assert HERE == ends.listener.peer_address
    assert "elsewhere" in {to for _, to in ends.listener.datagrams_to_send(ends.now)}


def test_rfc_9000_section_13_2_1_the_second_packet_is_acknowledged_at_once_and_one_in_time():
    ends = connected()
    ends.run(1.0)
    ends.craft(b"\x01\0\0\0")
    assert [] == ends.listener.datagrams_to_send(ends.now)
    due = ends.listener.next_timeout()
    assert due is not None
    assert ends.now < due <= ends.now + 0.025
    ends.craft(b"\x01\0\0\0")
    assert 1 == len(ends.listener.datagrams_to_send(ends.now))


def test_rfc_9000_section_14_1_datagrams_with_initials_are_full():
    ends = Ends()
    assert [1_200] == [len(data) for data, _ in ends.first]
    ends.listener.receive(ends.first[0][0], HERE, START)
    answers = ends.listener.datagrams_to_send(START)
    for data, _ in answers:
        header = read_long_header(data)
        assert header is not None
        assert header.kind is not LongKind.INITIAL or len(data) >= 1_200


def test_rfc_9000_section_14_1_an_initial_in_a_short_datagram_is_ignored():
    ends = Ends()
    header = read_long_header(ends.first[0][0])
    assert header is not None
    ends.listener.receive(ends.first[0][0][:1_199], HERE, START)
    assert not ends.listener.has_begun


def test_rfc_9000_section_10_1_silence_ends_a_connection_and_nothing_is_sent():
    ends = connected()
    ends.lose = lambda to, data: True
    ends.run(QUIC_IDLE_TIMEOUT_S + 1.0)
    for side in (ends.dialler, ends.listener):
        assert side.ended is not None
        assert side.ended.is_silence
        assert [] == side.datagrams_to_send(ends.now)
        assert side.next_timeout() is None


def test_rfc_9000_section_10_2_3_an_early_close_does_not_say_why():
    ends = Ends()
    ends.listener.receive(ends.first[0][0], HERE, START)
    ends.listener.close(0x1234)
    for data, _ in ends.listener.datagrams_to_send(START):
        ends.dialler.receive(data, THERE, START)
    assert ends.dialler.ended is not None
    assert (Code.APPLICATION_ERROR, False) == (
        ends.dialler.ended.code,
        ends.dialler.ended.by_application,
    )


# --- RFC 9000, section 18: transport parameters ---------------------------------------------------


def parameter(number: int, content: bytes) -> bytes:
    return varint(number) + varint(len(content)) + content


def test_rfc_9000_section_18_parameters_are_read_as_they_were_written():
    said = Parameters(
        original_id=b"original", initial_id=b"initial", reset_token=bytes(16), max_data=1 << 40,
        idle_timeout_ms=30_000, max_streams_bidi=256, id_limit=4,
    )  # fmt: skip
    assert said == decode_parameters(said.encode(), of_listener=True)


def test_rfc_9000_section_7_4_2_unknown_parameters_are_ignored():
    data = parameter(0x7FFF, b"whatever") + parameter(0x04, varint(9))
    assert 9 == decode_parameters(data, of_listener=False).max_data


@pytest.mark.parametrize(
    "data",
    [
        parameter(0x04, varint(9)) * 2,  # 7.4
        parameter(0x03, varint(1_199)),  # 18.2 from here on
        parameter(0x0A, varint(21)),
        parameter(0x0B, varint(1 << 14)),
        parameter(0x0E, varint(1)),
        parameter(0x08, varint((1 << 60) + 1)),
        parameter(0x09, varint((1 << 60) + 1)),
        parameter(0x02, bytes(16)),  # only a listener's
        parameter(0x00, b"original"),
        parameter(0x0D, bytes(60)),
        parameter(0x10, b"retry"),
        parameter(0x0C, b"\0"),
        parameter(0x04, varint(9) + b"\0"),
        parameter(0x04, b"\x80"),
        parameter(0x04, b"123")[:-1],
        b"\x04",
    ],
)
def test_rfc_9000_section_18_2_parameters_that_break_a_rule_are_refused(data):
    with pytest.raises(QuicError) as caught:
        decode_parameters(data, of_listener=False)
    assert Code.TRANSPORT_PARAMETER_ERROR == caught.value.code


def test_rfc_9000_section_18_2_no_datagram_is_longer_than_the_peer_takes():
    ends = connected()
    ends.state(ends.listener).datagram_bytes = 1_210  # as if the dialler had said so
    number = ends.dialler.open_stream()
    ends.dialler.write(number, b"ask")
    ends.run()
    ends.listener.write(number, bytes(9_000))
    sizes = [len(data) for data, _ in ends.listener.datagrams_to_send(ends.now)]
    assert 1_180 < max(sizes) <= 1_210


# --- RFC 9001 -------------------------------------------------------------------------------------


def test_rfc_9001_section_4_9_keys_of_the_handshake_are_given_up():
    ends = connected()
    for side in (ends.dialler, ends.listener):
        state = ends.state(side)
        assert [None, None] == state.send_keys == state.receive_keys
        assert state.handshake is None
        assert Progress.CONFIRMED is state.stage


def test_rfc_9001_section_6_1_keys_are_not_changed_again_before_they_were_used():
    ends = connected()
    assert ends.dialler.update_keys()
    assert not ends.dialler.update_keys()
    ends.run()
    assert ends.dialler.update_keys()
    ends.run()
    assert 0 == ends.state(ends.listener).phases.phase
    assert ends.dialler.ended is ends.listener.ended is None


def test_rfc_9001_section_6_4_old_keys_are_not_used_after_new_ones():
    ends = connected()
    old = ends.state(ends.dialler).phases.send
    assert old is not None
    ends.dialler.update_keys()
    ends.run()
    state = ends.state(ends.dialler)
    number = state.spaces[PacketLevel.ONE_RTT].next_number
    header = b"\x43" + state.ids.peer.id + number.to_bytes(4, "big")
    ends.listener.receive(old.seal(header, number, b"\x01\0\0\0"), HERE, ends.now)
    assert ends.listener.ended is not None
    assert Code.KEY_UPDATE_ERROR == ends.listener.ended.code


@pytest.mark.parametrize(("sender", "message"), [("listener", b"\x18"), ("dialler", b"\x04")])
def test_rfc_9001_sections_4_4_and_6_messages_after_the_handshake_are_tickets_of_listeners(
    sender, message
):
    """A key update by TLS is none, and a dialler has no tickets to give."""
    ends = connected()
    side, other = ends.dialler, ends.listener
    if sender == "listener":
        side, other = other, side
    ends.state(side).crypto_out[PacketLevel.ONE_RTT].write(message + b"\0\0\x01\0")
    ends.run()
    assert other.ended is not None
    assert 0x10A == other.ended.code


def test_rfc_9001_section_4_6_1_tickets_are_passed_over():
    ends = connected()
    out = ends.state(ends.listener).crypto_out[PacketLevel.ONE_RTT]
    out.write(b"\x04\0\0\x03abc\x04\0")
    ends.run()
    out.write(b"\0\x01z")
    ends.run()
    assert ends.dialler.ended is None


# --- streams --------------------------------------------------------------------------------------


def test_data_arrives_in_order_whatever_the_order_of_packets():
    ends = connected()
    pieces = [stream(0, at, b"%03d" % at) for at in range(0, 30, 3)]
    ends.craft(*pieces[::-1])
    got = list(iter(ends.listener.next_event, None))
    assert [StreamData(0, b"".join(b"%03d" % at for at in range(0, 30, 3)), False)] == got


def test_ranges_are_one_where_they_touch():
    ranges = Ranges()
    for start, stop in ((10, 12), (0, 2), (5, 6), (2, 5), (11, 15), (20, 21)):
        ranges.add(start, stop)
    assert [(0, 6), (10, 15), (20, 21)] == list(ranges)
    assert [20 in ranges, 19 in ranges, 5 in ranges, 6 in ranges] == [True, False, True, False]
    ranges.remove(3, 11)
    assert [(0, 3), (11, 15), (20, 21)] == list(ranges)
    ranges.drop_below(12)
    assert [(12, 15), (20, 21)] == list(ranges)
