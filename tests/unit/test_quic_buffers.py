from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from aioquic.quic.events import StreamDataReceived
from aioquic.quic.packet import QuicStreamFrame
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.stream import FinalSizeError
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.net.quic.buffers import BufferedStream, Ledger

ACKED, LOST = QuicDeliveryState.ACKED, QuicDeliveryState.LOST
FAR = 1 << 40


def stream_of(ledger: Ledger) -> BufferedStream:
    return BufferedStream(4, ledger, FAR, FAR)


def ends(frame: Any) -> tuple[int, int, bool]:
    offset, data, fin = frame
    return offset, offset + len(data), fin


# --- sending --------------------------------------------------------------------------------------


class Wire:
    """A sender, and what became of its frames."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.sender = stream_of(self.ledger).sender
        self.written = bytearray()
        self.flying: list[Any] = []
        self.arrived: dict[int, int] = {}
        self.ended = False

    def write(self, data: bytes) -> None:
        self.sender.write(data)
        self.written += data

    def take(self, room: int) -> None:
        frame = self.sender.take(room, FAR)
        if frame is not None:
            self.flying.append(frame)

    def settle(self, index: int, how: QuicDeliveryState) -> None:
        if self.flying:
            frame = self.flying.pop(index % len(self.flying))
            if how is ACKED:
                self.arrived.update(enumerate(frame[1], frame[0]))
                self.ended = self.ended or frame[2]
            self.sender.on_data_delivery(how, *ends(frame))

    def finish(self) -> None:
        for _ in range(5_000):
            if not self.sender.has_more and not self.flying:
                return
            self.take(7)
            self.settle(0, ACKED)
        raise AssertionError("never done")


STEPS = st.one_of(
    st.binary(max_size=50).map(lambda data: lambda wire: wire.write(data)),
    st.integers(1, 40).map(lambda room: lambda wire: wire.take(room)),
    st.integers(0, 10).map(lambda index: lambda wire: wire.settle(index, ACKED)),
    st.integers(0, 10).map(lambda index: lambda wire: wire.settle(index, LOST)),
)


@given(st.lists(STEPS, max_size=60), st.booleans())
def test_all_that_was_written_arrives_whatever_is_lost(steps, fin):
    """And no more is kept than the peer may still need."""
    wire = Wire()
    for step in steps:
        step(wire)
        assert wire.ledger.kept == len(wire.sender._buffer) <= len(wire.written)
        assert 4 in wire.ledger.ready or not wire.sender.has_more
    wire.sender.write(b"", end_stream=fin)
    wire.finish()
    assert bytes(wire.written) == bytes(wire.arrived[at] for at in range(len(wire.written)))
    assert (0, fin, fin) == (wire.ledger.kept, wire.ended, wire.sender.is_finished)
    assert ([4] if fin else []) == wire.ledger.ended


def test_nothing_is_taken_past_the_window_but_what_was_lost_is_sent_again():
    sender = stream_of(Ledger()).sender
    sender.write(b"0123456789")
    first = sender.take(100, 4)
    assert (0, b"0123", False) == first
    assert sender.take(100, 4) is None
    assert sender.has_more
    sender.on_data_delivery(LOST, *ends(first))
    assert (0, b"0123", False) == sender.take(100, 4)
    assert (4, b"456789", False) == sender.take(100, 50)
    assert not sender.has_more


def test_the_end_of_a_stream_that_was_lost_is_sent_again():
    sender = stream_of(Ledger()).sender
    sender.write(b"last", end_stream=True)
    first = sender.take(100, 100)
    assert (0, b"last", True) == first
    sender.on_data_delivery(LOST, *ends(first))
    assert (0, b"last", True) == sender.take(100, 100)
    sender.on_data_delivery(ACKED, 0, 4, True)
    assert sender.is_finished


def test_an_end_that_was_lost_by_itself_is_sent_again():
    sender = stream_of(Ledger()).sender
    sender.write(b"data")
    sender.take(100, 100)
    sender.write(b"", end_stream=True)
    assert (4, b"", True) == sender.take(100, 100)
    assert not sender.has_more
    sender.on_data_delivery(LOST, 4, 4, True)
    assert (4, b"", True) == sender.take(100, 100)
    sender.on_data_delivery(ACKED, 4, 4, True)
    assert not sender.is_finished
    sender.on_data_delivery(ACKED, 0, 4, False)
    assert sender.is_finished


def test_a_reset_drops_what_waits_and_is_repeated_until_the_peer_has_it():
    ledger = Ledger()
    stream = stream_of(ledger)
    stream.sender.write(b"nobody reads this")
    flying = stream.sender.take(7, FAR)
    stream.sender.reset(0)
    stream.sender.on_data_delivery(LOST, *ends(flying))
    assert (0, False, True) == (ledger.kept, stream.sender.has_more, stream.sender.reset_pending)
    assert 7 == stream.sender.get_reset_frame().final_size
    ledger.ready.clear()
    stream.sender.on_reset_delivery(LOST)
    assert (True, {4: None}) == (stream.sender.reset_pending, ledger.ready)
    stream.sender.on_reset_delivery(ACKED)
    assert ([4], True) == (ledger.ended, stream.sender.is_finished)


def test_a_finished_or_reset_stream_takes_no_more_data():
    for end in (lambda sender: sender.write(b"", end_stream=True), lambda sender: sender.reset(0)):
        sender = stream_of(Ledger()).sender
        end(sender)
        with pytest.raises(RuntimeError):
            sender.write(b"more")


# --- receiving ------------------------------------------------------------------------------------


def receive(stream: BufferedStream, offset: int, data: bytes, fin: bool) -> bytes:
    """As the connection does: the short way, and the long one where that will not do."""
    if stream.receiver.take_next(offset, data, fin):
        return data
    event = stream.receiver.handle_frame(QuicStreamFrame(data=data, fin=fin, offset=offset))
    assert event is None or isinstance(event, StreamDataReceived)
    return b"" if event is None else event.data


@given(st.binary(max_size=80), st.data())
def test_pieces_in_any_order_and_number_are_put_together(content, data):
    ledger = Ledger()
    stream = stream_of(ledger)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=8)))
    edges = [0, *cuts, len(content)]
    pieces = list(pairwise(edges))
    pieces += data.draw(st.lists(st.sampled_from(pieces), max_size=4))  # some come again
    received = b""
    for begin, end in data.draw(st.permutations(pieces)):
        received += receive(stream, begin, content[begin:end], fin=end == len(content))
    assert content == received
    assert ([4], True) == (ledger.ended, stream.receiver.is_finished)
    assert len(content) == stream.receiver.highest_offset


def test_data_past_the_end_is_refused_whichever_way_it_comes():
    for late in ((4, b"more", False), (0, b"longer", True), (0, b"s", True)):
        stream = stream_of(Ledger())
        receive(stream, 0, b"done", fin=True)
        with pytest.raises(FinalSizeError):
            receive(stream, *late)


def test_a_reset_ends_what_is_received_and_what_comes_late_is_dropped():
    ledger = Ledger()
    stream = stream_of(ledger)
    receive(stream, 0, b"some", fin=False)
    assert stream.receiver.handle_reset(final_size=10) is not None
    assert b"" == receive(stream, 4, b"late", fin=False)
    assert ([4], 10) == (ledger.ended, stream.receiver.highest_offset)


def test_a_wish_for_no_more_is_repeated_until_the_peer_has_it():
    ledger = Ledger()
    stream = stream_of(ledger)
    stream.receiver.stop(0)
    stream.receiver.get_stop_frame()
    ledger.ready.clear()
    stream.receiver.on_stop_sending_delivery(LOST)
    assert (True, {4: None}) == (stream.receiver.stop_pending, ledger.ready)
