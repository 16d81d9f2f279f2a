from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from aioquic import tls
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from hypothesis import given, settings
from hypothesis import strategies as st

from codio_dht.core.clock import Monotonic, UnixTime
from codio_dht.crypto.certificate import OwnCertificate
from codio_dht.crypto.keys import PrivateKey
from codio_dht.errors import CapacityError, DeadlineError, ProtocolError, StreamError
from codio_dht.net.handlers import Parked, Reset
from codio_dht.net.quic.connection import QUIC_V1, Quic, QuicIdentity, QuicState
from codio_dht.net.quic.limits import (
    MAX_QUIC_GAPS,
    MAX_QUIC_STREAMS,
    QUIC_ACK_DELAY_S,
    QUIC_CONNECTION_WINDOW_BYTES,
    QUIC_IDLE_TIMEOUT_S,
    QUIC_KEEP_ALIVE_INTERVAL_S,
    QUIC_STREAM_BYTES,
    QUIC_STREAM_WINDOW_BYTES,
)
from codio_dht.net.quic.machine import ids as quic_ids
from codio_dht.net.quic.machine import machine as quic_machine
from codio_dht.net.quic.machine import recovery as quic_recovery
from codio_dht.net.quic.machine.frames import PacketLevel
from codio_dht.net.quic.machine.handshake import TlsMismatchError, check_context, check_tls
from codio_dht.net.quic.machine.spaces import MAX_ACK_RANGES
from codio_dht.net.quic.machine.state import Setup
from codio_dht.net.quic.varints import varint
from codio_dht.net.stack.channel import (
    ChannelAccepted,
    ChannelData,
    ChannelEof,
    ChannelReady,
    ChannelRefused,
    ChannelReset,
    ChannelWritable,
    Served,
    ServedProtocols,
    StreamFault,
)
from codio_dht.net.stack.connection import ConnectionEnded, Established
from codio_dht.net.stack.limits import (
    HANDSHAKE_STAGE_TIMEOUT_S,
    MAX_OUTBOUND_STREAMS,
    MAX_STREAM_UNSENT_BYTES,
    MAX_TLS_HANDSHAKE_BYTES,
    NEGOTIATION_TIMEOUT_S,
)
from codio_dht.net.stack.multistream import HEADER, encode_message
from forged_certificates import NOW as UNIX_NOW
from forged_certificates import Forged

ALICE = PrivateKey.from_ed25519_seed(b"a" * 32)
BOB = PrivateKey.from_ed25519_seed(b"b" * 32)
MALLORY = PrivateKey.from_ed25519_seed(b"m" * 32)


def unix_now() -> UnixTime:
    return UNIX_NOW


ALICE_QUIC = QuicIdentity(ALICE, unix_now)
BOB_QUIC = QuicIdentity(BOB, unix_now)
HERE = ("127.0.0.1", 1)
THERE = ("127.0.0.1", 2)
ECHO = "/echo/1"
RAW = "/raw/1"
GREETING = HEADER + encode_message(ECHO.encode())
NOW = Monotonic(100.0)


class Handler:
    """Answers in upper case; remembers; does as it is told."""

    def __init__(self) -> None:
        self.fed: list[bytes] = []
        self.ends = 0
        self.closings = 0
        self.answers: list[object] = []

    def feed(self, data, now):
        self.fed.append(data)
        return self.answers.pop(0) if self.answers else data.upper()

    def eof(self, now):
        self.ends += 1
        return b""

    def closed(self):
        self.closings += 1


def first_id(datagram: bytes) -> bytes:
    return datagram[6 : 6 + datagram[5]]


class Pair:
    """A dialler and a listener joined by a wire that a test may cut."""

    def __init__(self, **options: Any) -> None:
        self.now = NOW
        self.handlers: list[Handler] = []
        self.next_handler: Callable[[], Handler] = Handler
        self.served = ServedProtocols([Served(ECHO, self.make, 60.0), Served(RAW)])
        self.seen: list[Any] = []
        self.seen_by_server: list[Any] = []
        self.flights = 0
        self.lose: Callable[[int], bool] = lambda number: False
        self.carried = 0
        options.setdefault("expected", BOB.peer_id())
        self.client: Any = Quic(
            options.pop("identity", ALICE_QUIC),
            initiator=True,
            served=ServedProtocols([Served(RAW)]),
            now=NOW,
            **options,
        )
        self.client.dial(THERE, NOW)
        self.server: Any = None
        self.first = self.client.datagrams_to_send(NOW)
        self.server = Quic(
            BOB_QUIC,
            initiator=False,
            served=self.served,
            now=NOW,
            original_id=first_id(self.first[0][0]),
        )

    def make(self, peer_id) -> Handler:
        assert ALICE.peer_id() == peer_id
        handler = self.next_handler()
        self.handlers.append(handler)
        return handler

    def arrives(self) -> bool:
        self.carried += 1
        return not self.lose(self.carried)

    def to_server(self) -> bool:
        datagrams = self.first + self.client.datagrams_to_send(self.now)
        self.first = []
        self.flights += bool(datagrams)
        for data, _ in datagrams:
            if self.arrives():
                self.seen_by_server += self.server.receive(data, HERE, self.now)
        return bool(datagrams)

    def to_client(self) -> bool:
        datagrams = self.server.datagrams_to_send(self.now)
        for data, _ in datagrams:
            if self.arrives():
                self.seen += self.client.receive(data, THERE, self.now)
        return bool(datagrams)

    def exchange(self) -> None:
        """Until nothing moves, within this moment (what is paced stays behind)."""
        for _ in range(2_000):
            moved = self.to_server()
            while self.server.work_left:
                self.seen_by_server += self.server.work(self.now)
            if not self.to_client() and not moved:
                self.seen += self.client.take_events()
                self.seen_by_server += self.server.take_events()
                return
        raise AssertionError("never quiet")

    def run(self, seconds: float = 0.2) -> None:
        """Let time pass, timers firing when they are due."""
        end = self.now + seconds
        for _ in range(10_000):
            self.exchange()
            dues = [side.next_timeout() for side in (self.client, self.server)]
            due = min((due for due in dues if due is not None), default=end)
            if due >= end:
                self.now = Monotonic(end)
                return
            self.now = Monotonic(max(due, self.now + 0.001))
            self.seen += self.client.on_timeout(self.now)
            self.seen_by_server += self.server.on_timeout(self.now)
        raise AssertionError(f"timers never rest: {dues} at {self.now}")

    def take(self) -> list[Any]:
        seen, self.seen = self.seen, []
        return seen

    def consume(self, channel) -> bytes:
        """What the client has received on a channel, taken."""
        data = replies(self.take(), channel)
        self.client.streams.consume(channel, len(data))
        return data

    def assert_nothing_held(self) -> None:
        for side in (self.client, self.server):
            assert (0, 0) == (side.held_bytes, side.stream_count)
            assert {} == side._mux._lingering
            assert side._mux._outbound == 0


def replies(events, channel) -> bytes:
    return b"".join(
        event.data
        for event in events
        if isinstance(event, ChannelData) and event.channel is channel
    )


def connected(**options: Any) -> Pair:
    pair = Pair(**options)
    pair.run()
    assert QuicState.OPEN is pair.client.state is pair.server.state
    pair.take()
    pair.seen_by_server.clear()
    return pair


def ended(events: list[Any]) -> Any:
    """The last event, which must be the end."""
    assert isinstance(events[-1], ConnectionEnded)
    return events[-1]


# --- the handshake --------------------------------------------------------------------------------


def test_both_sides_learn_whom_they_talk_to_and_the_first_reply_comes_with_the_second_flight():
    pair = Pair()
    pair.to_server()
    pair.to_client()
    assert [Established(BOB.peer_id(), BOB.public_key(), QUIC_V1)] == pair.take()
    channel = pair.client.streams.open([ECHO], NOW, b"hello")
    pair.to_server()
    assert [Established(ALICE.peer_id(), ALICE.public_key(), QUIC_V1)] == pair.seen_by_server
    pair.to_client()
    assert (2, b"HELLO") == (pair.flights, replies(pair.seen, channel))


def test_the_wrong_peer_is_refused_and_not_told_who_we_are():
    pair = Pair(expected=MALLORY.peer_id())
    pair.to_server()
    pair.to_client()
    assert "another peer than expected" == ended(pair.seen).error.reason
    pair.to_server()
    assert pair.server.authenticated is None
    assert "handshake failed" == ended(pair.seen_by_server).error.reason


def test_who_is_not_admitted_gets_no_streams():
    pair = Pair()
    pair.server._admit = lambda authenticated: False
    pair.run()
    assert isinstance(ended(pair.seen_by_server).error, CapacityError)
    assert isinstance(ended(pair.seen).error, StreamError)


class Stranger(QuicIdentity):
    """Proves what it is told to prove."""

    def __init__(self, forged: Forged | None) -> None:
        super().__init__(MALLORY, unix_now)
        certificate: Any = None if forged is None else forged.certificate()
        key: Any = None if forged is None else forged.key
        self.setup = Setup(OwnCertificate(certificate, key), self.setup.resets)


@pytest.mark.parametrize(
    ("stranger", "reason"),
    [
        (Stranger(Forged(end=-1.0)), "expired"),
        (Stranger(Forged(identity=None)), "no identity extension"),
        (Stranger(Forged(content=b"junk")), "malformed identity extension"),
        (Stranger(None), "no certificate"),
    ],
)
def test_a_dialler_that_proves_nothing_is_refused(stranger, reason):
    pair = Pair(identity=stranger)
    pair.run()
    assert reason == ended(pair.seen_by_server).error.reason
    assert pair.server.authenticated is None
    assert ConnectionEnded in {type(event) for event in pair.seen}


def test_a_dialler_with_two_certificates_is_refused():
    pair = Pair(identity=Stranger(Forged()))
    context = pair.client._engine._s.handshake._context
    context.certificate_chain = [context.certificate]
    pair.run()
    assert "not exactly one certificate" == ended(pair.seen_by_server).error.reason


def test_a_listener_that_proves_nothing_is_refused():
    pair = Pair(expected=None)
    pair.server = Quic(
        Stranger(Forged(end=-1.0)),
        initiator=False,
        served=pair.served,
        now=NOW,
        original_id=first_id(pair.first[0][0]),
    )
    pair.run()
    assert "expired" == ended(pair.seen).error.reason


@pytest.mark.parametrize("alpn", [None, ["h3"], ["h3", "libp2p2"]])
def test_a_dialler_of_another_protocol_is_refused(alpn):
    config = QuicConfiguration(alpn_protocols=alpn, is_client=True, verify_mode=0)
    other = QuicConnection(configuration=config)
    other.connect(THERE, NOW)
    datagrams = other.datagrams_to_send(NOW)
    server = Quic(
        BOB_QUIC,
        initiator=False,
        served=ServedProtocols(),
        now=NOW,
        original_id=first_id(datagrams[0][0]),
    )
    events: list[Any] = []
    for data, _ in datagrams:
        events += server.receive(data, HERE, NOW)
    assert isinstance(ended(events).error, ProtocolError)


@pytest.mark.parametrize("position", [30, 100, 200])
def test_a_first_packet_that_is_not_genuine_leaves_nothing_and_gets_no_answer(position):
    pair = Pair()
    spoilt = bytearray(pair.first[0][0])
    spoilt[position] ^= 1
    assert "no first packet" in str(ended(pair.server.receive(bytes(spoilt), HERE, NOW)).error)
    assert ([], None) == (pair.server.datagrams_to_send(NOW), pair.server.next_timeout())


def test_a_handshake_has_a_deadline():
    pair = Pair()
    pair.lose = lambda number: number > 1
    pair.to_server()
    pair.now = Monotonic(NOW + HANDSHAKE_STAGE_TIMEOUT_S)
    for side in (pair.client, pair.server):
        assert side.next_timeout() <= pair.now
        assert isinstance(ended(side.on_timeout(pair.now)).error, DeadlineError)
        assert side.next_timeout() is None


@pytest.mark.parametrize("period", [3, 4, 5])
def test_loss_delays_and_changes_nothing(period):
    pair = Pair()
    pair.lose = lambda number: number % period == 0
    pair.run(4.0)
    channel = pair.client.streams.open([ECHO], pair.now, b"x" * 5_000)
    pair.client.streams.close_write(channel)
    pair.run(20.0)
    assert b"X" * 5_000 == pair.consume(channel)
    pair.lose = lambda number: False
    pair.run(10.0)
    pair.assert_nothing_held()


# --- streams --------------------------------------------------------------------------------------


def test_requests_are_answered_and_nothing_is_left_of_them():
    pair = connected()
    channel = pair.client.streams.open([ECHO], NOW, b"one")
    pair.run()
    assert [ChannelReady(channel), ChannelData(channel, b"ONE")] == pair.take()
    pair.client.streams.send(channel, b"two")
    pair.client.streams.close_write(channel)
    pair.run()
    seen = pair.take()
    assert (b"TWO", ChannelEof(channel)) == (replies(seen, channel), seen[-1])
    (handler,) = pair.handlers
    assert ([b"one", b"two"], 1, 1) == (handler.fed, handler.ends, handler.closings)
    pair.client.streams.consume(channel, 6)
    pair.run(1.0)
    pair.assert_nothing_held()
    assert 0 == pair.client._engine.streams_kept == pair.server._engine.streams_kept
    assert (
        [] == pair.client._engine._s.flow.ledger.ended == pair.server._engine._s.flow.ledger.ended
    )


def test_an_answer_and_its_acknowledgement_share_a_datagram():
    pair = connected()
    channel = pair.client.streams.open([ECHO], NOW, b"one")
    pair.run(1.0)
    pair.client.streams.send(channel, b"two")
    before = pair.carried
    pair.run()
    assert 3 == pair.carried - before  # the last acknowledges the answer, and may wait


def test_the_listener_opens_streams_too():
    pair = connected()
    channel = pair.server.streams.open([RAW], NOW, b"from the other side")
    pair.run()
    accepted, data = pair.take()
    assert isinstance(accepted, ChannelAccepted)
    assert b"from the other side" == data.data
    assert ChannelReady(channel) in pair.seen_by_server


def test_a_refused_protocol_leaves_the_connection_usable():
    pair = connected()
    refused = pair.client.streams.open(["/nobody/1"], NOW, b"lost")
    pair.run()
    assert [ChannelRefused(refused)] == pair.take()
    channel = pair.client.streams.open([ECHO], NOW, b"ok")
    pair.run()
    assert b"OK" == replies(pair.take(), channel)


def test_a_large_answer_waits_for_the_window_and_arrives_whole():
    pair = connected()
    pair.next_handler = lambda: told(b"z" * 1_000_000)
    channel = pair.client.streams.open([ECHO], NOW, b"x")
    received = b""
    for _ in range(200):
        pair.run(0.05)
        received += pair.consume(channel)
        if len(received) == 1_000_000:
            break
    assert b"z" * 1_000_000 == received


def told(*answers: object) -> Handler:
    handler = Handler()
    handler.answers = list(answers)
    return handler


def test_what_nobody_takes_stops_the_peer_at_the_window():
    pair = connected()
    pair.next_handler = lambda: told(b"z" * 1_000_000)
    channel = pair.client.streams.open([ECHO], NOW, b"x")
    pair.run(5.0)
    received = len(GREETING) + len(replies(pair.seen, channel))
    assert QUIC_STREAM_WINDOW_BYTES == received
    assert received - len(GREETING) == pair.client._mux.unread_bytes
    assert pair.server.held_bytes >= 1_000_000 - QUIC_STREAM_WINDOW_BYTES


def test_all_streams_together_stop_at_the_connections_window():
    pair = connected()
    pair.next_handler = lambda: told(b"z" * 300_000)
    for _ in range(12):
        pair.client.streams.open([ECHO], NOW, b"x")
    pair.run(5.0)
    assert QUIC_CONNECTION_WINDOW_BYTES == pair.client._mux.unread_bytes + 12 * len(GREETING)


def test_windows_are_given_back_also_for_what_was_lost_with_a_reset_stream():
    """Many times the connection's window, none of which anybody reads."""
    pair = connected()
    pair.next_handler = lambda: told(b"z" * 300_000)
    for turn in range(30):
        channel = pair.client.streams.open([ECHO], pair.now, b"x")
        pair.lose = lambda number: number % 7 == 0
        pair.run(0.3)
        pair.lose = lambda number: False
        if turn % 2:
            pair.client.streams.reset(channel)
        else:
            pair.server.streams.reset_protocol(ECHO)
        pair.take()
        pair.run(0.3)
    pair.run(2.0)
    flow = pair.client._engine._s.flow
    left = flow.data.value + flow._ungranted - flow.data.used
    assert QUIC_CONNECTION_WINDOW_BYTES == left
    pair.assert_nothing_held()


def test_windows_are_given_back_for_what_comes_after_a_reset():
    pair = connected()
    pair.next_handler = lambda: told(b"z" * 9_000)
    channel = pair.client.streams.open([ECHO], pair.now, b"x")
    pair.to_server()
    on_the_way = pair.server.datagrams_to_send(pair.now)
    pair.client.streams.reset(channel)
    for data, _ in on_the_way:
        assert [] == pair.client.receive(data, THERE, pair.now)
    pair.run(1.0)
    flow = pair.client._engine._s.flow
    assert flow.data.used > 1_000
    left = flow.data.value + flow._ungranted - flow.data.used
    assert QUIC_CONNECTION_WINDOW_BYTES == left
    pair.assert_nothing_held()


def test_a_peer_that_wants_no_more_of_ours_is_still_read():
    """GO says so when it has read enough of an answer."""
    pair = connected()
    channel = pair.client.streams.open([RAW], NOW, b"first")
    pair.run()
    (accepted,) = (event for event in pair.seen_by_server if isinstance(event, ChannelAccepted))
    pair.client._engine.stop(channel.stream.id)
    pair.client.streams.send(channel, b" second")
    pair.run()
    assert b"first second" == replies(pair.seen_by_server, accepted.channel)
    with pytest.raises(StreamError):
        pair.server.streams.send(accepted.channel, b"nobody reads this")


@pytest.mark.parametrize("answer", [b"z" * (QUIC_STREAM_WINDOW_BYTES + 1), b"Z"])
def test_windows_are_given_back_for_requests_that_nobody_wants_answered_any_more(answer):
    """GO closes a stream so: an end, and no interest in what still comes. Requests wait unread
    then, for room in the peer's window or for their turn, and must not wait for ever."""
    pair = connected()
    pair.next_handler = lambda: told(answer)
    if len(answer) == 1:
        pair.server.streams.hold()
    channel = pair.client.streams.open([ECHO], pair.now, b"x")
    pair.run()
    pair.client.streams.send(channel, b"y" * 20_000)
    pair.run()
    assert pair.server.held_bytes >= 20_000
    pair.client.streams.close_write(channel)
    pair.run()
    pair.client._engine.stop(channel.stream.id)
    pair.run()
    pair.server.streams.release()
    pair.run(1.0)
    assert (0, 0) == (pair.server.held_bytes, pair.server.stream_count)
    assert [1] == [handler.closings for handler in pair.handlers]


def test_a_reset_by_either_side_ends_both_directions():
    pair = connected()
    pair.next_handler = lambda: told(Reset("no thanks"))
    channel = pair.client.streams.open([ECHO], NOW, b"x")
    pair.run()
    assert StreamFault(ECHO, "no thanks") in pair.seen_by_server
    assert ChannelReset(channel, "reset by peer") == pair.take()[-1]
    pair.next_handler = Handler
    channel = pair.client.streams.open([ECHO], NOW, b"x")
    pair.run()
    pair.client.streams.reset(channel)
    pair.run()
    assert 1 == pair.handlers[-1].closings
    pair.run(1.0)
    pair.assert_nothing_held()
    assert 0 == pair.client._engine.streams_kept == pair.server._engine.streams_kept


def test_parked_work_goes_on_when_its_load_is_there():
    pair = connected()
    ready: list[Callable[[], None]] = []
    pair.next_handler = lambda: told(Parked(b"", ready.append), b"loaded")
    woken: list[bool] = []
    pair.server._streams._wake = lambda: woken.append(True)
    channel = pair.client.streams.open([ECHO], NOW, b"x")
    pair.run()
    assert b"" == replies(pair.seen, channel)
    ready[0]()
    assert [True] == woken
    pair.run()
    assert b"loaded" == replies(pair.seen, channel)


def test_the_peers_streams_are_bounded():
    pair = connected()
    channels = [pair.client.streams.open([RAW], NOW, b"x") for _ in range(MAX_QUIC_STREAMS)]
    with pytest.raises(CapacityError, match="allows no more"):
        pair.client.streams.open([RAW], NOW)
    pair.run()
    assert MAX_QUIC_STREAMS == pair.server.stream_count
    for event in list(pair.seen_by_server):
        if isinstance(event, ChannelAccepted):
            pair.server.streams.close(event.channel, NOW)
    for channel in channels:
        pair.client.streams.close(channel, NOW)
    pair.run(1.0)
    pair.client.streams.open([RAW], NOW, b"again")
    pair.run()
    assert 1 == pair.server.stream_count


def test_own_streams_that_the_peer_never_finishes_are_bounded():
    pair = connected()
    pair.client._engine._s.flow.peer_streams = 1 << 40
    for _ in range(MAX_OUTBOUND_STREAMS + MAX_QUIC_STREAMS):
        pair.client.streams.reset(pair.client.streams.open([RAW], NOW))
    with pytest.raises(CapacityError, match="does not finish"):
        pair.client.streams.open([RAW], NOW)


def test_what_waits_for_the_peer_is_bounded():
    pair = connected()
    channel = pair.client.streams.open([RAW], NOW)
    with pytest.raises(CapacityError):
        pair.client.streams.send(channel, bytes(MAX_STREAM_UNSENT_BYTES))


def test_a_writer_is_told_when_all_has_left():
    pair = connected()
    channel = pair.client.streams.open([RAW], NOW)
    pair.client.streams.send(channel, bytes(200_000))
    pair.to_server()
    assert channel.stream.unsent > 0
    pair.run(1.0)
    assert ChannelWritable(channel) in pair.seen
    assert 0 == channel.stream.unsent


def test_no_requests_are_answered_for_a_peer_that_does_not_take_the_answers():
    pair = connected()
    pair.next_handler = lambda: told(*[b"z" * 100_000] * 40)
    channel = pair.client.streams.open([ECHO], NOW, b"x")
    pair.run()
    for _ in range(30):
        pair.client.streams.send(channel, b"x")
        pair.run(0.1)
    assert pair.server._mux.kept_bytes < 600_000
    assert len(pair.handlers[0].fed) < 10


def test_a_stream_without_a_protocol_is_reset_in_time():
    pair = connected()
    channel = pair.client.streams.open([RAW], NOW)
    sender = pair.client._engine._s.flow.streams[channel.stream.id].sender
    sender._buffer[:] = b"\x13"
    sender._stop = 1
    pair.run(NEGOTIATION_TIMEOUT_S + 6.0)
    assert ChannelReset(channel, "reset by peer") in pair.seen


def test_what_was_lost_is_sent_again_behind_a_stream_that_waits_for_the_connections_window():
    pair = connected()
    channels = [pair.client.streams.open([RAW], NOW) for _ in range(45)]
    pair.run()
    for channel in channels:  # too little of each for its own window to matter
        pair.client.streams.send(channel, bytes(60_000))
    pair.lose = lambda number: number % 10 == 0
    pair.run(10.0)
    assert {} != pair.client._engine._s.flow.starved
    greetings = 45 * (len(HEADER) + len(encode_message(RAW.encode())))
    assert QUIC_CONNECTION_WINDOW_BYTES == pair.server._mux.unread_bytes + greetings
    pair.lose = lambda number: False
    for _ in range(40):
        for event in pair.seen_by_server:
            if isinstance(event, ChannelData):
                pair.server.streams.consume(event.channel, len(event.data))
        pair.seen_by_server.clear()
        pair.run(0.2)
    assert (0, {}) == (pair.client.held_bytes, pair.client._engine._s.flow.starved)


def test_requests_of_many_datagrams_are_answered_together():
    pair = connected()
    channels = [pair.client.streams.open([ECHO], NOW, b"x") for _ in range(8)]
    pair.run(1.0)
    pair.take()
    arrived = []
    for channel in channels:
        pair.client.streams.send(channel, b"y")
        arrived += pair.client.datagrams_to_send(pair.now)
    for data, _ in arrived:
        pair.server.feed(data, HERE, pair.now)
    assert [] == pair.server.take_events()
    assert [] == pair.server.digest(pair.now)
    answers = pair.server.datagrams_to_send(pair.now)
    assert (8, 1) == (len(arrived), len(answers))


def test_answers_that_a_packet_does_not_hold_are_not_cut_to_fill_it():
    pair = connected()
    pair.next_handler = lambda: told(b"", b"z" * 1_000)
    channels = [pair.client.streams.open([ECHO], NOW, b"x") for _ in range(4)]
    pair.run(1.0)
    for channel in channels:
        pair.client.streams.send(channel, b"y")
    pair.to_server()
    pair.seen = []
    pair.to_client()
    assert [1_000] * 4 == [len(event.data) for event in pair.seen]


@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.02, 0.1]))
@settings(max_examples=15)
def test_whatever_is_lost_answers_arrive_whole_and_nothing_is_left(seed, share):
    dice = Random(seed)
    pair = connected()
    pair.lose = lambda number: dice.random() < share
    size = dice.choice([1, 1_150, 20_000])
    pair.next_handler = lambda: told(b"z" * size)
    channels = [pair.client.streams.open([ECHO], pair.now, b"q") for _ in range(dice.randrange(20))]
    for channel in channels:
        pair.client.streams.close_write(channel)
    received = dict.fromkeys(channels, 0)
    for _ in range(100):
        pair.run(0.3)
        for event in pair.take():
            if isinstance(event, ChannelData):
                received[event.channel] += len(event.data)
                pair.client.streams.consume(event.channel, len(event.data))
        if all(count == size for count in received.values()):
            break
    pair.lose = lambda number: False
    pair.run(12.0)
    assert set(received.values()) <= {size}
    pair.assert_nothing_held()
    assert 0 == pair.client._engine.streams_kept == pair.server._engine.streams_kept


@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.05]))
@settings(max_examples=15)
def test_whatever_is_given_up_at_whatever_moment_nothing_is_left(seed, share):
    dice = Random(seed)
    pair = connected()
    pair.lose = lambda number: dice.random() < share
    pair.next_handler = lambda: told(*[b"z" * dice.choice([1, 1_150, 300_000])] * 5)
    channels: list[Any] = []
    for _ in range(40):
        streams, act = pair.client.streams, dice.randrange(5)
        if act == 0 or not channels:
            channels.append(streams.open([ECHO], pair.now, b"q"))
        elif act == 1 and not channels[-1].stream.write_closed:
            streams.send(channels[-1], bytes(dice.choice([1, 20_000])))
        elif act == 2:
            streams.close_write(channels[0])
        elif act == 3:
            streams.close(channels.pop(0), pair.now)
        else:
            streams.reset(channels.pop())
        pair.run(dice.choice([0.0, 0.02]))
    pair.lose = lambda number: False
    for channel in channels:
        pair.client.streams.reset(channel)
    pair.run(NEGOTIATION_TIMEOUT_S + 5.0)
    pair.assert_nothing_held()
    assert 0 == pair.client._engine.streams_kept == pair.server._engine.streams_kept


def test_a_packet_out_of_order_is_acknowledged_at_once():
    pair = connected()
    pair.run(1.0)
    channel = pair.client.streams.open([RAW], pair.now)
    pair.run(1.0)
    pair.client.streams.send(channel, b"a")
    pair.client.datagrams_to_send(pair.now)  # lost
    pair.client.streams.send(channel, b"b")
    ((data, _),) = pair.client.datagrams_to_send(pair.now)
    pair.server.receive(data, HERE, pair.now)
    assert 1 == len(pair.server.datagrams_to_send(pair.now))


def test_a_clock_that_stands_still_or_steps_back_a_little_harms_nobody():
    pair = connected()
    channel = pair.client.streams.open([ECHO], pair.now, b"x")
    for _ in range(20):
        pair.run(0.1)
        pair.client.streams.send(channel, b"y")
        pair.to_server()
        pair.now = Monotonic(pair.now - 0.001)
        pair.to_client()
    pair.run(1.0)
    assert b"X" + b"Y" * 20 == replies(pair.seen, channel)


# --- life -----------------------------------------------------------------------------------------


def test_a_quiet_connection_is_kept_alive():
    pair = connected()
    pair.run(5 * QUIC_IDLE_TIMEOUT_S)
    assert QuicState.OPEN is pair.client.state is pair.server.state
    assert pair.carried < 60
    assert pair.client.rtt is not None


def test_a_peer_that_vanished_is_noticed():
    pair = connected()
    pair.lose = lambda number: True
    pair.run(QUIC_IDLE_TIMEOUT_S + QUIC_KEEP_ALIVE_INTERVAL_S + 5.0)
    assert isinstance(ended(pair.seen).error, DeadlineError)
    assert isinstance(ended(pair.seen_by_server).error, DeadlineError)


def test_an_end_is_told_to_the_peer_and_to_every_channel():
    pair = connected()
    channel = pair.client.streams.open([ECHO], NOW, b"x")
    pair.run()
    pair.take()
    events = pair.client.close()
    assert ChannelReset(channel, "the connection ended") in events
    assert ended(events).error is None
    pair.to_server()
    assert isinstance(ended(pair.seen_by_server).error, StreamError)
    assert 1 == pair.handlers[0].closings
    assert set() == pair.client.ids == pair.server.ids
    with pytest.raises(StreamError):
        pair.client.streams.open([ECHO], NOW)
    assert [] == pair.client.close()
    assert [] == pair.client.receive(b"\x40" * 50, THERE, NOW)
    assert [] == pair.client.on_timeout(Monotonic(9e9))


def test_a_peer_may_move_to_another_address():
    pair = connected()
    pair.run()
    elsewhere = ("127.0.0.9", 9)
    channel = pair.client.streams.open([ECHO], NOW, b"moved")
    for data, _ in pair.client.datagrams_to_send(NOW):
        pair.server.receive(data, elsewhere, NOW)
    datagrams = pair.server.datagrams_to_send(NOW)
    # The old address is asked, too: somebody may only pretend that it moved (RFC 9000, 9.3.3).
    assert {elsewhere, HERE} == {addr for _, addr in datagrams}
    for data, addr in datagrams:
        if addr == elsewhere:
            pair.seen += pair.client.receive(data, THERE, NOW)
    assert b"MOVED" == replies(pair.seen, channel)


def test_both_sides_may_change_the_keys():
    pair = connected()
    pair.run(1.0)
    for side in (pair.client, pair.server):
        phases = [each._engine._s.phases.phase for each in (pair.client, pair.server)]
        side._engine.update_keys()
        channel = pair.client.streams.open([ECHO], pair.now, b"new keys")
        pair.run(1.0)
        assert b"NEW KEYS" == replies(pair.take(), channel)
        for each, phase in zip((pair.client, pair.server), phases, strict=True):
            assert phase != each._engine._s.phases.phase


def test_what_was_sealed_with_the_keys_before_is_read_and_news_of_new_keys_is_sent_until_heard():
    pair = connected()
    pair.run(1.0)
    channel = pair.client.streams.open([ECHO], pair.now, b"1")
    pair.run(1.0)
    pair.take()
    pair.server._engine.update_keys()
    assert pair.server.datagrams_to_send(pair.now)  # lost: the client goes on with the old ones
    pair.client.streams.send(channel, b"2")
    pair.to_server()
    assert b"2" == pair.handlers[0].fed[-1]
    pair.run(5.0)
    assert b"2" == replies(pair.take(), channel)
    phases = {side._engine._s.phases.phase for side in (pair.client, pair.server)}
    assert {1} == phases


@pytest.mark.parametrize("seed", range(6))
def test_a_change_of_keys_survives_loss_and_disorder(seed):
    dice = Random(seed)
    pair = connected()
    pair.run(1.0)
    channel = pair.client.streams.open([ECHO], pair.now, b"x")
    pair.lose = lambda number: dice.random() < 0.3
    for number in range(4):
        (pair.client, pair.server)[number % 2]._engine.update_keys()
        pair.client.streams.send(channel, b"y" * 3_000)
        pair.run(10.0)
    pair.lose = lambda number: False
    pair.run(10.0)
    assert b"X" + b"Y" * 12_000 == replies(pair.seen, channel)


def test_junk_is_no_sign_of_life():
    """Nobody can keep us from asking whether the peer is still there."""
    pair = connected()
    pair.run(1.0)
    channel_id = next(iter(pair.server.ids))
    for _ in range(int(QUIC_KEEP_ALIVE_INTERVAL_S)):
        pair.now = Monotonic(pair.now + 1.0)
        assert [] == pair.server.receive(b"\x40" + channel_id + bytes(40), HERE, pair.now)
    assert pair.server.next_timeout() <= pair.now
    pair.server.on_timeout(pair.now)
    assert 1 == len(pair.server.datagrams_to_send(pair.now))


def test_keys_are_changed_before_they_have_served_too_long(monkeypatch):
    monkeypatch.setattr(quic_machine, "PACKETS_PER_KEY", 50)
    pair = connected()
    channel = pair.client.streams.open([ECHO], pair.now, b"0")
    phases = set()
    for number in range(300):
        pair.client.streams.send(channel, b"%d" % (number % 10))
        pair.run(0.01)
        phases.add(pair.server._engine._s.phases.phase)
    assert 301 == len(replies(pair.take(), channel))
    assert {0, 1} == phases


def test_a_timer_that_is_soon_enough_may_wait():
    pair = connected()
    pair.run(1.0)
    due = pair.server.next_timeout()
    assert due > pair.now + QUIC_ACK_DELAY_S
    assert not pair.server.may_wait(due, pair.now)
    assert pair.server.may_wait(pair.now + QUIC_ACK_DELAY_S, pair.now)
    pair.server._engine._s.pacing_at = pair.now
    assert not pair.server.may_wait(pair.now + QUIC_ACK_DELAY_S, pair.now)


def test_every_id_that_the_peer_was_given_finds_the_connection():
    pair = connected()
    pair.run(1.0)
    given = {each.id for each in pair.client._engine._s.ids.spare}
    assert given
    assert given <= pair.server.ids


# --- hostile peers --------------------------------------------------------------------------------


class Crafted:
    """A connected pair, whose client writes frames by hand."""

    def __init__(self) -> None:
        self.pair = connected()
        self.pair.run(1.0)

    def send(self, payload: bytes, times: int = 1) -> list[Any]:
        """Packets with these frames; what the server makes of them."""
        events: list[Any] = []
        for _ in range(times):
            data = self.seal(b"\x01" + payload)
            events += self.pair.server.receive(data, HERE, self.pair.now)
        return events

    def seal(self, payload: bytes, *, first: int = 0x43) -> bytes:
        """A short packet of the client with these frames."""
        state = self.pair.client._engine._s
        space = state.spaces[PacketLevel.ONE_RTT]
        number = space.next_number
        space.next_number += 1
        header = bytes([first | state.phases.phase << 2]) + state.ids.peer.id
        sealed: bytes = state.phases.send.seal(header + number.to_bytes(4, "big"), number, payload)
        return sealed

    @property
    def space(self) -> Any:
        return self.pair.server._engine._s.spaces[PacketLevel.ONE_RTT]


def stream_frame(stream_id: int, offset: int, data: bytes, *, fin: bool = False) -> bytes:
    return bytes([0x0E | fin]) + varint(stream_id) + varint(offset) + varint(len(data)) + data


@pytest.mark.parametrize(
    "payload",
    [
        b"\x21",  # no known frame
        stream_frame(2, 0, b"one way"),
        stream_frame(4 * MAX_QUIC_STREAMS, 0, b"one too many"),
        stream_frame(1, 0, b"the server's own"),
        stream_frame(0, QUIC_STREAM_WINDOW_BYTES, b"past the window"),
        b"\x06" + varint(64 * 1024) + varint(10) + bytes(10),  # late handshake data
        b"\x04" + varint(0) + varint(0) + varint(1 << 40),  # a reset past the window
        b"\x1e",  # handshake done, which only a server says
        b"\x07\x04toke",
        b"\x19" + varint(99),  # an id that was never issued
        b"\x30datagram",
        b"\x0e\xff",
        b"\x02" + varint(10) + varint(0) + varint(0) + varint(11),  # before packet 0
        b"\x02" + varint(1 << 20) + varint(0) + varint(0) + varint(0),  # a packet never sent
    ],
)
def test_a_broken_frame_ends_the_connection_and_the_peer_is_told(payload):
    crafted = Crafted()
    error = ended(crafted.send(payload)).error
    assert ("quic", ProtocolError) == (error.layer, type(error))
    datagrams = crafted.pair.server.datagrams_to_send(crafted.pair.now)
    assert 1 == len(datagrams)


def test_a_datagram_that_comes_twice_is_taken_once():
    pair = connected()
    pair.run(1.0)
    channel = pair.client.streams.open([ECHO], pair.now, b"x")
    ((data, _),) = pair.client.datagrams_to_send(pair.now)
    pair.server.receive(data, HERE, pair.now)
    state = pair.server._engine._s
    space = state.spaces[PacketLevel.ONE_RTT]
    before = (space._unacknowledged, list(space.received), state.idle_since)
    assert [] == pair.server.receive(data, HERE, Monotonic(pair.now + 0.1))
    assert before == (space._unacknowledged, list(space.received), state.idle_since)
    pair.run()
    assert b"X" == replies(pair.seen, channel)


@pytest.mark.parametrize("window", ["stream", "connection"])
def test_data_in_order_past_a_window_ends_the_connection(window):
    for size, over in ((50, False), (51, True)):
        crafted = Crafted()
        flow = crafted.pair.server._engine._s.flow
        if window == "stream":
            flow.find(0, 8).limit = 50
        else:
            flow.data.value = flow.data.used + 50
        greeting = GREETING.ljust(size, b"x")
        events = crafted.send(stream_frame(0, 0, greeting))
        assert over == any(isinstance(event, ConnectionEnded) for event in events)


def test_a_packet_without_frames_ends_the_connection():
    crafted = Crafted()
    pair = crafted.pair
    data = crafted.seal(b"")
    assert isinstance(ended(pair.server.receive(data, HERE, pair.now)).error, ProtocolError)


def test_what_is_remembered_of_packets_with_gaps_between_them_is_bounded():
    crafted = Crafted()
    for _ in range(3 * MAX_ACK_RANGES):
        crafted.pair.client._engine._s.spaces[PacketLevel.ONE_RTT].next_number += 1
        assert [] == crafted.send(b"\x01")
    assert MAX_ACK_RANGES == len(crafted.space.received)
    assert len(crafted.pair.server.datagrams_to_send(crafted.pair.now)) == 1


@pytest.mark.parametrize("step", [1, 2])
def test_what_is_remembered_for_a_peer_that_never_acknowledges_is_bounded(step):
    """It only asks, with or without gaps, and we answer with acknowledgements alone."""
    crafted = Crafted()
    server = crafted.pair.server
    for _ in range(2_000):
        crafted.pair.now = Monotonic(crafted.pair.now + 0.001)
        crafted.pair.client._engine._s.spaces[PacketLevel.ONE_RTT].next_number += step - 1
        assert [] == crafted.send(b"\x01", times=2)
        server.datagrams_to_send(crafted.pair.now)
    sent = crafted.space.sent
    unheard = sum(not each.in_flight for each in sent.values())
    assert quic_recovery._MAX_BARE_PACKETS == unheard
    assert len(sent) - unheard <= server._engine._s.recovery.window // 30


def test_what_waits_behind_gaps_and_streams_without_data_count_as_held():
    """Else nobody would see how much many connections hold together."""
    crafted = Crafted()
    server = crafted.pair.server
    crafted.send(stream_frame(0, QUIC_STREAM_WINDOW_BYTES - 1, b"x"))
    kept = QUIC_STREAM_WINDOW_BYTES + QUIC_STREAM_BYTES
    assert (kept, 0) == (server.held_bytes, server.stream_count)
    crafted.send(b"\x11" + varint(4 * 99) + varint(1 << 20))
    assert kept + 99 * QUIC_STREAM_BYTES == server.held_bytes
    crafted.send(b"\x04" + varint(0) + varint(0) + varint(QUIC_STREAM_WINDOW_BYTES))
    assert 100 * QUIC_STREAM_BYTES == server.held_bytes


def test_reserved_bits_end_the_connection():
    crafted = Crafted()
    pair = crafted.pair
    data = crafted.seal(b"\x01\0\0", first=0x43 | 0x18)
    assert isinstance(ended(pair.server.receive(data, HERE, pair.now)).error, ProtocolError)


def test_gaps_are_bounded():
    crafted = Crafted()
    frames = [stream_frame(0, 2 * index + 1, b"x") for index in range(MAX_QUIC_GAPS + 1)]
    assert [] == crafted.send(b"".join(frames[:MAX_QUIC_GAPS]))
    assert isinstance(ended(crafted.send(frames[-1])).error, ProtocolError)


def test_gaps_in_late_handshake_data_are_bounded():
    crafted = Crafted()
    frames = [b"\x06" + varint(2 * index + 1) + b"\x01x" for index in range(MAX_QUIC_GAPS + 1)]
    assert [] == crafted.send(b"".join(frames[:MAX_QUIC_GAPS]))
    assert isinstance(ended(crafted.send(frames[-1])).error, ProtocolError)


def test_connection_ids_without_end_end_the_connection(monkeypatch):
    """A peer that gives up the ids it issued makes us change the one we use, again and again."""
    monkeypatch.setattr(quic_ids, "MAX_QUIC_CONNECTION_IDS", 50)
    crafted = Crafted()
    pair = crafted.pair
    for number in range(8, 200):
        pair.now = Monotonic(pair.now + 0.01)
        frame = b"\x18" + varint(number) + varint(number) + b"\x08" + number.to_bytes(8, "big")
        events = crafted.send(frame + bytes(16))
        pair.server.datagrams_to_send(pair.now)
        if events:
            break
    assert isinstance(ended(events).error, ProtocolError)
    assert 51 == len(pair.server._engine._s.ids._issued)


def test_streams_opened_and_reset_without_end_leave_nothing_behind():
    crafted = Crafted()
    pair = crafted.pair
    for index in range(600):
        pair.now = Monotonic(pair.now + 0.01)
        reset = b"\x04" + varint(4 * index) + varint(0) + varint(0)
        assert [] == [e for e in crafted.send(reset) if isinstance(e, ConnectionEnded)]
        streams = list(pair.server._engine._s.flow.streams.values())
        pair.server.datagrams_to_send(pair.now)
        for stream in streams:  # as if the peer had acknowledged
            stream.sender.on_reset_fate(True)
        pair.server.datagrams_to_send(pair.now)
    assert 0 == pair.server.stream_count
    assert pair.server._engine.streams_kept <= MAX_QUIC_STREAMS


def test_a_handshake_message_without_end_ends_at_its_bound():
    """Before anybody is authenticated: a hello that promises megabytes, and gaps in it."""
    for offset, accepted in (
        (MAX_TLS_HANDSHAKE_BYTES - 100, True),
        (MAX_TLS_HANDSHAKE_BYTES, False),
    ):
        client = QuicConnection(
            configuration=QuicConfiguration(alpn_protocols=["libp2p"], verify_mode=0)
        )
        client.connect(THERE, NOW)
        client._crypto_streams[tls.Epoch.INITIAL].sender._pending.shift()
        sender = client._crypto_streams[tls.Epoch.INITIAL].sender
        sender._buffer[:] = b"\x01\xff\xff\xff" + bytes(20)
        sender._buffer_start, sender._buffer_stop = offset, offset + 24
        sender._pending.add(offset, offset + 24)
        (datagram, *_), *_ = client.datagrams_to_send(NOW)
        server = Quic(
            BOB_QUIC,
            initiator=False,
            served=ServedProtocols(),
            now=NOW,
            original_id=first_id(datagram),
        )
        events = server.receive(datagram, HERE, NOW)
        assert accepted == (not events)


@given(st.lists(st.binary(max_size=1_400), max_size=6), st.integers(1, 3))
@settings(max_examples=60)
def test_any_datagrams_at_any_point_are_survived(datagrams, good):
    pair = Pair()
    for _ in range(good):
        pair.to_server()
        pair.to_client()
    for data in datagrams:
        for side, addr in ((pair.server, HERE), (pair.client, THERE)):
            side.receive(data, addr, NOW)
            side.datagrams_to_send(NOW)
    pair.run()
    assert QuicState.OPEN is pair.client.state is pair.server.state


@given(st.integers(0, 4), st.lists(st.tuples(st.integers(0), st.integers(1, 255)), min_size=1))
@settings(max_examples=60)
def test_a_datagram_changed_on_the_way_is_survived(turn, changes):
    pair = Pair()
    count = 0
    for _ in range(3):
        for side, other, addr in (
            (pair.client, pair.server, HERE),
            (pair.server, pair.client, THERE),
        ):
            datagrams = (pair.first if side is pair.client else []) + side.datagrams_to_send(NOW)
            if side is pair.client:
                pair.first = []
            for data, _ in datagrams:
                spoilt = bytearray(data)
                if count == turn:
                    for position, flip in changes:
                        spoilt[position % len(spoilt)] ^= flip
                count += 1
                other.receive(bytes(spoilt), addr, NOW)


@given(st.binary(max_size=1_200))
@settings(max_examples=150)
def test_any_authentic_payload_gives_only_the_documented_error(payload):
    crafted = Crafted()
    for event in crafted.send(payload):
        if isinstance(event, ConnectionEnded):
            assert isinstance(event.error, ProtocolError | StreamError | None)
    crafted.pair.server.datagrams_to_send(NOW)


# --- the library ----------------------------------------------------------------------------------


def test_the_installed_tls_is_as_expected():
    check_tls.cache_clear()
    check_tls()


def test_a_changed_method_of_the_tls_is_refused(monkeypatch):
    monkeypatch.setattr(tls.Context, "_set_peer_certificate", lambda self: None)
    check_tls.cache_clear()
    with pytest.raises(TlsMismatchError, match="_set_peer_certificate"):
        check_tls()
    monkeypatch.undo()
    check_tls()


@pytest.mark.parametrize("name", ["_request_client_certificate", "_supported_groups"])
def test_a_tls_without_what_is_set_on_it_is_refused(name):
    context = tls.Context(is_client=False)
    check_context(context)
    delattr(context, name)
    with pytest.raises(TlsMismatchError, match=r"request_client|groups"):
        check_context(context)
