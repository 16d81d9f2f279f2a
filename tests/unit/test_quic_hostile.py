"""Packets lost, late or sent in bad faith, below libp2p."""

from __future__ import annotations

import pytest

from codio_dht.net.quic.machine.buffers import Ledger, SendBuffer, StreamState
from codio_dht.net.quic.machine.errors import Code
from codio_dht.net.quic.varints import varint
from quic_ends import HERE, START, THERE, Ends, connected


def feed(ends: Ends, *datagrams: bytes) -> None:
    """Have the listener read datagrams of the dialler."""
    for data in datagrams:
        ends.listener.receive(data, HERE, ends.now)


def sent_by_dialler(ends: Ends) -> list[bytes]:
    return [data for data, _ in ends.dialler.datagrams_to_send(ends.now)]


# --- a stream that was reset ----------------------------------------------------------------------


def test_rfc_9000_section_3_1_after_a_reset_nothing_is_sent_on_the_stream_whatever_room_it_gets():
    ends = connected()
    number = ends.dialler.open_stream()
    ends.dialler.write(number, bytes(1_000_000))
    ends.run(1.0)  # all that the window allows has arrived
    ends.dialler.abort(number)
    told = sent_by_dialler(ends)
    used = ends.state(ends.dialler).flow.peer_data_used
    ends.listener.grant_stream(number, 300_000)  # before it heard of the reset
    for data, _ in ends.listener.datagrams_to_send(ends.now):
        ends.dialler.receive(data, THERE, ends.now)
    feed(ends, *told, *sent_by_dialler(ends))
    assert ends.listener.ended is None
    assert used == ends.state(ends.dialler).flow.peer_data_used


def test_streams_that_are_over_do_not_wait_for_the_connections_window():
    ends = connected()
    flow = ends.state(ends.dialler).flow
    flow.peer.max_data = 0  # as told by a peer that wants answers and takes none
    for _ in range(20):
        number = ends.dialler.open_stream()
        ends.dialler.write(number, b"what the window does not let leave")
        ends.run()
        ends.dialler.abort(number)
        ends.listener.abort(number)
        ends.run()
    assert [] == list(flow.streams) == list(flow.starved)


# --- addresses ------------------------------------------------------------------------------------


def move(ends: Ends, address: str) -> None:
    """Have the listener believe that the dialler is at another address."""
    ends.listener.receive(ends.seal(b"\x01\0\0\0"), address, ends.now)
    assert address == ends.listener.peer_address


def test_rfc_9000_section_9_3_who_moves_twice_is_not_asked_at_the_address_between():
    ends = connected()
    number = ends.dialler.open_stream()
    ends.dialler.write(number, b"ask")
    ends.run()
    ends.listener.write(number, bytes(100_000))
    move(ends, "between")
    between = ends.listener.datagrams_to_send(ends.now)  # all that this address may get
    assert {"between", HERE} == {to for _, to in between}
    path = ends.state(ends.listener).paths.current
    path.received += 10_000  # it had sent more, and is no longer there
    sent = path.sent
    ends.address = "elsewhere"
    ends.dialler.ping()
    ends.run(2.0)
    assert ("elsewhere", sent) == (ends.listener.peer_address, path.sent)
    assert 100_000 == len(ends.received(ends.dialler, number))


def test_rfc_9000_section_8_1_an_answer_that_may_not_leave_yet_waits():
    ends = connected()
    path = ends.state(ends.listener).paths.add("elsewhere")
    path.to_answer.append(b"12345678")
    assert "elsewhere" not in {to for _, to in ends.listener.datagrams_to_send(ends.now)}
    path.received = 1_200
    assert "elsewhere" in {to for _, to in ends.listener.datagrams_to_send(ends.now)}


def test_an_address_that_may_get_nothing_yet_keeps_no_timer_busy():
    ends = connected()
    ends.run(1.0)
    move(ends, "elsewhere")
    ends.listener.datagrams_to_send(ends.now)
    for _ in range(3):
        ends.listener.receive(ends.seal(b"\x01\0\0\0"), "elsewhere", ends.now)
    path = ends.state(ends.listener).paths.current
    path.sent = 3 * path.received
    assert [] == ends.listener.datagrams_to_send(ends.now)
    due = ends.listener.next_timeout()
    assert due is not None
    assert due > ends.now


@pytest.mark.parametrize("size", [36, 600])
def test_rfc_9000_section_8_2_1_a_challenge_fills_its_datagram_if_so_much_may_be_sent(size):
    ends = connected()
    ends.listener.receive(ends.seal(b"\x01" + bytes(size)), "elsewhere", ends.now)
    sizes = [
        len(data) for data, to in ends.listener.datagrams_to_send(ends.now) if to == "elsewhere"
    ]
    assert ends.state(ends.listener).paths.current.challenge is not None
    assert (sizes[0] >= 1_200) == (size == 600)


def test_rfc_9000_section_8_2_2_an_answer_to_a_challenge_fills_its_datagram():
    ends = connected()
    assert ends.craft(b"\x1a" + b"12345678") is None
    ((data, _),) = ends.listener.datagrams_to_send(ends.now)
    assert len(data) >= 1_200


def test_who_moves_while_much_is_lost_at_its_old_address_is_found_at_the_new_one():
    ends = connected()
    number = ends.dialler.open_stream()
    ends.dialler.write(number, b"ask")
    ends.run()
    ends.listener.write(number, bytes(200_000))
    ends.run()  # the congestion window has grown
    ends.dialler.grant_stream(number, 200_000)
    ends.run()
    ends.listener.write(number, bytes(200_000))
    for _ in range(40):  # nothing arrives at an address that is no longer the peer's
        ends.listener.datagrams_to_send(ends.now)
        ends.now += 0.1
        ends.listener.on_timeout(ends.now)
    recovery = ends.state(ends.listener).recovery
    assert recovery.room < 0
    move(ends, "elsewhere")
    assert recovery.room < 0
    ends.listener.datagrams_to_send(ends.now)
    path = ends.state(ends.listener).paths.current
    assert path.challenge is not None
    assert not path.wants_challenge  # it has left


# --- the handshake --------------------------------------------------------------------------------


def test_handshake_data_sent_twice_is_sent_right_when_it_is_lost_once_more():
    ledger = Ledger()
    buffer = SendBuffer(0, ledger)
    content = bytes(range(200))
    buffer.write(content)
    there: set[int] = set()

    def take(room: int) -> tuple[int, int, bool]:
        taken = buffer.take(room, 1 << 62)
        assert taken is not None
        offset, data, fin = taken
        assert data == content[offset : offset + len(data)]
        return offset, offset + len(data), fin

    first, second = take(110), take(90)
    buffer.send_again()
    buffer.on_fate(True, *first)  # it was only late
    again = []
    while buffer.has_more:
        again.append(take(50))
    for each in again:
        there |= set(range(*each[:2]))
    assert set(range(110, 200)) <= there
    buffer.send_again()
    twice = [take(90)]
    buffer.on_fate(True, *again[0])
    buffer.on_fate(True, *second)
    assert 0 == buffer.kept == ledger.kept
    for each in (*again[1:], *twice):
        buffer.on_fate(False, *each)
    assert not buffer.has_more


def test_rfc_9000_section_8_1_a_close_counts_against_what_an_unproven_address_may_get():
    ends = Ends()
    heard = len(ends.first[0][0])
    ends.lose = lambda to, data: to is ends.dialler or ends.now > START
    ends.run(9.0)
    while ends.state(ends.listener).paths.current.room:
        ends.state(ends.listener).paths.current.sent += 1
    ends.sent[ends.listener] = 3 * heard
    ends.listener.close(0)
    ends.carry(ends.listener)
    assert 3 * heard == ends.sent[ends.listener]


# --- ids ------------------------------------------------------------------------------------------


def test_rfc_9000_section_19_16_an_id_that_was_made_but_never_told_is_not_given_up():
    ends = connected()
    made = ends.state(ends.listener).ids.own[-1].number + 1
    frames = [b"\x19" + varint(number) for number in range(1, made + 2)]
    assert Code.PROTOCOL_VIOLATION == ends.craft(b"".join(frames))


# --- what costs the peer little -------------------------------------------------------------------


def test_limits_told_over_and_over_look_at_no_stream():
    ends = connected()
    flow = ends.state(ends.listener).flow

    class Untouched(dict[int, StreamState]):
        def values(self):
            raise AssertionError("every stream is looked at")

    flow.streams = Untouched(flow.streams)
    told = flow.peer_streams
    assert ends.craft(b"".join(b"\x12" + varint(told + more) for more in range(100))) is None
    assert told + 99 == flow.peer_streams


def test_streams_past_the_peers_limit_wait_for_it():
    ends = connected()
    flow = ends.state(ends.dialler).flow
    flow.peer_streams = 1
    first, second, third = (ends.dialler.open_stream() for _ in range(3))
    for number in (first, second, third):
        ends.dialler.write(number, b"data")
    ends.run()
    sizes = [len(ends.received(ends.listener, number)) for number in (first, second, third)]
    assert [4, 0, 0] == sizes
    flow.on_max_streams(2, 0x12)
    ends.run()
    sizes = [len(ends.received(ends.listener, number)) for number in (first, second, third)]
    assert [4, 4, 0] == sizes
