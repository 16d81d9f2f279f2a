from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codio_dht.core.clock import Monotonic
from codio_dht.crypto.keys import PrivateKey
from codio_dht.errors import DeadlineError, ProtocolError, StreamError
from codio_dht.net.handlers import Parked, Reset
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
from codio_dht.net.stack.connection import Connection, ConnectionEnded, Established, Stage
from codio_dht.net.stack.limits import (
    HANDSHAKE_STAGE_TIMEOUT_S,
    MAX_FEED_BYTES,
    MAX_FEEDS_PER_TURN,
    MAX_INBOUND_STREAMS,
    MESSAGE_TIMEOUT_S,
    NEGOTIATION_TIMEOUT_S,
)
from codio_dht.net.stack.multistream import HEADER, encode_message
from codio_dht.net.stack.muxer import GoAway
from codio_dht.net.stack.noise import NOISE, Noise, NoiseIdentity
from codio_dht.net.stack.security import Security
from fuzz_inputs import stream_traffic

ALICE = PrivateKey.from_ed25519_seed(b"a" * 32)
BOB = PrivateKey.from_ed25519_seed(b"b" * 32)
ALICE_NOISE = NoiseIdentity(ALICE).security()
BOB_NOISE = NoiseIdentity(BOB).security()
NOW = Monotonic(0.0)
ECHO = "/echo/1"
RAW = "/raw/1"
YAMUX = "/yamux/1.0.0"
FRAME = Struct(">BBHII")
WINDOW_BYTES = 256 * 1024


def without_early_muxer(security: Security) -> Security:
    return Security(security.protocol, lambda a, b, c: security.factory(a, b, ()), True)


def answering_later(security: Security, protocol: str) -> Security:
    """The same layer under another name, whose initiator waits for the answer."""
    return Security(protocol, security.factory, False)


class Handler:
    """Answers in upper case; remembers; does as it is told."""

    def __init__(self) -> None:
        self.fed: list[bytes] = []
        self.ends = 0
        self.closings = 0
        self.answers: list[object] = []

    def feed(self, data, now):
        self.fed.append(data)
        answer = self.answers.pop(0) if self.answers else data.upper()
        return answer() if callable(answer) else answer

    def eof(self, now):
        self.ends += 1
        answer = self.answers.pop(0) if self.answers else b""
        return answer() if callable(answer) else answer

    def closed(self):
        self.closings += 1


class Pair:
    """Two connections joined back to back."""

    def __init__(self, **options) -> None:
        self.handlers: list[Handler] = []
        self.next_handler: Callable[[], Handler] = Handler
        self.served = ServedProtocols([Served(ECHO, self.make, 60.0), Served(RAW)])
        self.woken = 0
        early = options.pop("early", True)
        ours, theirs = options.pop("securities", ([ALICE_NOISE], [BOB_NOISE]))
        if not early:
            ours, theirs = map(without_early_muxer, ours), map(without_early_muxer, theirs)
        options.setdefault("expected", BOB.peer_id())
        self.client: Any = Connection(
            initiator=True, securities=list(ours), served=ServedProtocols(), now=NOW, **options
        )
        self.server: Any = Connection(
            initiator=False, securities=list(theirs), served=self.served, now=NOW, wake=self.wake
        )
        self.flights = 0
        self.seen: list[Any] = []  # by the client
        self.seen_by_server: list[Any] = []

    def make(self, peer_id) -> Handler:
        assert ALICE.peer_id() == peer_id
        handler = self.next_handler()
        self.handlers.append(handler)
        return handler

    def wake(self) -> None:
        self.woken += 1

    def to_server(self, now=NOW) -> bool:
        data = self.client.data_to_send()
        if data:
            self.flights += 1
            self.seen_by_server += self.server.receive(data, now)
        return bool(data)

    def to_client(self, now=NOW) -> bool:
        data = self.server.data_to_send()
        if data:
            self.seen += self.client.receive(data, now)
        return bool(data)

    def run(self, now=NOW) -> None:
        """Until nothing moves."""
        for _ in range(100):
            moved = self.to_server(now)
            self.work(now)
            if not self.to_client(now) and not moved:
                return
        raise AssertionError("never quiet")

    def work(self, now=NOW) -> None:
        while self.server.work_left:
            self.seen_by_server += self.server.work(now)

    def take(self) -> list[Any]:
        seen, self.seen = self.seen, []
        return seen

    def take_server(self) -> list[Any]:
        seen, self.seen_by_server = self.seen_by_server, []
        return seen

    def assert_nothing_held(self) -> None:
        for side in (self.client, self.server):
            mux = side._yamux
            assert (0, 0, []) == (mux.unread_bytes, mux.unsent_bytes, list(mux.streams()))


def connected(**options) -> Pair:
    pair = Pair(**options)
    pair.run()
    assert Stage.OPEN is pair.client.stage is pair.server.stage
    pair.take()
    pair.take_server()
    return pair


def replies(events, channel) -> bytes:
    return b"".join(
        event.data
        for event in events
        if isinstance(event, ChannelData) and event.channel is channel
    )


def consume(pair: Pair, channel, events) -> bytes:
    data = replies(events, channel)
    pair.client.streams.consume(channel, len(data))
    return data


# --- the upgrade ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pipeline", "early", "flights"),
    [(True, True, 2), (True, False, 2), (False, True, 3), (False, False, 4)],
)
def test_a_dialler_gets_its_first_reply_after_as_few_flights_as_its_mode_allows(
    pipeline, early, flights
):
    pair = Pair(pipeline=pipeline, early=early)
    channel = None
    for _ in range(9):
        pair.to_server()
        pair.to_client()
        if channel is not None and replies(pair.seen, channel):
            break
        if any(isinstance(event, Established) for event in pair.seen) and channel is None:
            channel = pair.client.streams.open([ECHO], NOW, b"hello")
    assert b"HELLO" == replies(pair.seen, channel)
    assert flights == pair.flights
    assert BOB.peer_id() == next(e for e in pair.seen if isinstance(e, Established)).peer_id
    assert [Established(ALICE.peer_id(), ALICE.public_key(), NOISE)] == pair.seen_by_server


def test_a_listener_without_the_pipelined_security_asks_for_an_ordinary_dial():
    theirs = [answering_later(BOB_NOISE, "/tls/1.0.0")]
    pair = Pair(securities=([ALICE_NOISE, answering_later(ALICE_NOISE, "/tls/1.0.0")], theirs))
    pair.to_server()
    pair.to_client()
    (ended,) = pair.seen
    assert isinstance(ended, ConnectionEnded)
    assert ended.pipelining_refused
    again = Pair(
        securities=([ALICE_NOISE, answering_later(ALICE_NOISE, "/tls/1.0.0")], theirs),
        pipeline=False,
    )
    again.run()
    assert "/tls/1.0.0" == again.seen[0].security


def test_without_a_common_security_the_connection_ends_and_asks_for_nothing():
    theirs = [answering_later(BOB_NOISE, "/tls/1.0.0")]
    pair = Pair(securities=([ALICE_NOISE], theirs), pipeline=False)
    pair.run()
    (ended,) = pair.seen
    assert (False, ProtocolError) == (ended.pipelining_refused, type(ended.error))


@pytest.mark.parametrize("pipeline", [True, False])
def test_a_listener_that_refuses_the_muxer_ends_the_connection(pipeline):
    dialler: Any = Connection(
        initiator=True,
        securities=[without_early_muxer(ALICE_NOISE)],
        served=ServedProtocols(),
        now=NOW,
        pipeline=pipeline,
    )
    layer = Noise(NoiseIdentity(BOB), initiator=False)
    first = dialler.data_to_send()
    if pipeline:
        layer.receive(first[len(HEADER + encode_message(NOISE.encode())) :])
    else:
        dialler.receive(HEADER + encode_message(NOISE.encode()), NOW)
        layer.receive(dialler.data_to_send())
    greeting = HEADER + encode_message(NOISE.encode()) if pipeline else b""
    dialler.receive(greeting + layer.data_to_send(), NOW)
    layer.receive(dialler.data_to_send())
    (ended,) = dialler.receive(layer.seal(HEADER + encode_message(b"na")), NOW)
    assert (pipeline, "no muxer in common") == (ended.pipelining_refused, ended.error.reason)


def test_the_wrong_peer_ends_the_dial():
    pair = Pair(expected=ALICE.peer_id())
    pair.run()
    (ended,) = pair.seen
    assert "another peer than expected" == ended.error.reason


@pytest.mark.parametrize("flights", [0, 1])
def test_every_stage_of_the_upgrade_has_a_deadline(flights):
    pair = Pair(early=False)
    for _ in range(flights):
        pair.to_server(Monotonic(1.0))
    deadline = HANDSHAKE_STAGE_TIMEOUT_S + flights
    assert deadline == pair.server.next_timeout()
    assert [] == pair.server.on_timeout(Monotonic(deadline - 0.01))
    (ended,) = pair.server.on_timeout(Monotonic(deadline))
    assert isinstance(ended.error, DeadlineError)
    assert pair.server.next_timeout() is None


def test_the_muxer_stage_has_a_deadline_too():
    pair = Pair(early=False)
    pair.to_server()
    pair.to_client()
    flight = pair.client.data_to_send()
    third_message = 2 + int.from_bytes(flight[:2], "big")
    pair.server.receive(flight[:third_message], Monotonic(2.0))
    assert 2.0 + HANDSHAKE_STAGE_TIMEOUT_S == pair.server.next_timeout()
    assert "muxer" in str(pair.server.on_timeout(Monotonic(99.0))[0].error)


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\xff" * 100, HEADER + b"\x01\n", HEADER * 2],
)
def test_garbage_before_authentication_ends_the_connection(data):
    pair = Pair()
    events = pair.server.receive(data * 20, NOW)
    assert isinstance(events[-1].error, ProtocolError)
    assert [] == pair.server.receive(b"more", NOW)


# --- serving --------------------------------------------------------------------------------------


def test_requests_are_answered_in_the_same_receive():
    pair = connected()
    channel = pair.client.streams.open([ECHO], NOW, b"one")
    pair.run()
    assert [ChannelReady(channel), ChannelData(channel, b"ONE")] == pair.take()
    pair.client.streams.send(channel, b"two")
    pair.client.streams.close_write(channel)
    pair.run()
    seen = pair.take()
    assert b"TWO" == replies(seen, channel)
    assert ChannelEof(channel) == seen[-1]
    (handler,) = pair.handlers
    assert ([b"one", b"two"], 1, 1) == (handler.fed, handler.ends, handler.closings)
    pair.client.streams.consume(channel, 6)
    pair.assert_nothing_held()


def test_answer_and_reply_leave_in_one_frame():
    pair = connected()
    pair.client.streams.open([ECHO], NOW, b"x")
    pair.to_server()
    plain = pair.server._yamux.data_to_send()
    assert HEADER + encode_message(ECHO.encode()) + b"X" == plain[12:]


def test_many_streams_in_one_piece_are_answered_in_one_sealed_message():
    pair = connected()
    channels = [pair.client.streams.open([ECHO], NOW, b"%d" % i) for i in range(20)]
    pair.to_server()
    sealed = pair.server.data_to_send()
    assert len(sealed) == 2 + int.from_bytes(sealed[:2], "big")
    events = pair.client.receive(sealed, NOW)
    assert [b"%d" % i for i in range(20)] == [replies(events, channel) for channel in channels]


def test_a_refused_protocol_leaves_the_connection_usable():
    pair = connected()
    refused = pair.client.streams.open(["/nobody/1"], NOW, b"lost")
    pair.run()
    assert [ChannelRefused(refused)] == pair.take()
    channel = pair.client.streams.open(["/nobody/1", ECHO], NOW)
    pair.run()
    assert (ECHO, [ChannelReady(channel)]) == (channel.protocol, pair.take())


def test_data_sent_behind_a_refused_proposal_is_not_taken_for_the_next_protocol():
    pair = connected()
    channel = pair.client.streams.open(["/nobody/1", ECHO], NOW)
    pair.client.streams.send(channel, b"for nobody")
    pair.run()
    assert [ChannelRefused(channel)] == pair.take()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 20,
        HEADER + b"\x04\xff\xfe\xfd\n",
        HEADER + b"\x01\n",
        b"\x00",
        HEADER + b"\xff" * 9,
    ],
)
def test_garbage_in_a_streams_negotiation_resets_that_stream_only(garbage):
    pair = connected()
    spoilt = pair.client.streams.open([ECHO], NOW)
    out = pair.client._yamux._out
    out[1:] = [FRAME.pack(0, 0, 0, spoilt.stream.id, len(garbage)), garbage]
    fine = pair.client.streams.open([ECHO], NOW, b"ok")
    pair.run()
    (fault,) = (event for event in pair.take_server() if isinstance(event, StreamFault))
    assert (None, None) == (fault.protocol, fault.error)
    assert ChannelReset(spoilt, "reset by peer") in pair.seen
    assert b"OK" == replies(pair.seen, fine)


def test_a_stream_that_ends_before_its_protocol_is_reset():
    pair = connected()
    channel = pair.client.streams.open([RAW], NOW)
    del pair.client._yamux._out[1:]  # the proposal is lost
    pair.client.streams.close_write(channel)
    pair.run()
    assert [StreamFault(None, "ended before a protocol was agreed on")] == pair.take_server()
    assert [ChannelReset(channel, "reset by peer")] == pair.take()


class Broken(Handler):
    def feed(self, data, now):
        raise RuntimeError("bug")


class BrokenAtEof(Handler):
    def eof(self, now):
        raise RuntimeError("bug")


class BrokenAtClosed(Handler):
    def closed(self):
        super().closed()
        raise RuntimeError("bug")


@pytest.mark.parametrize("kind", [Broken, BrokenAtEof, BrokenAtClosed])
def test_a_handler_that_raises_loses_its_stream_and_nothing_else(kind):
    pair = connected()
    pair.next_handler = kind
    channel = pair.client.streams.open([ECHO], NOW, b"x")
    pair.client.streams.close_write(channel)
    pair.run()
    (fault,) = (event for event in pair.take_server() if isinstance(event, StreamFault))
    assert (ECHO, "handler raised", "bug") == (fault.protocol, fault.reason, str(fault.error))
    assert 1 == pair.handlers[0].closings
    pair.next_handler = Handler
    again = pair.client.streams.open([ECHO], NOW, b"y")
    pair.run()
    assert b"Y" == replies(pair.take(), again)


def test_a_factory_that_raises_loses_its_stream_and_nothing_else():
    pair = connected()

    def bug(peer_id):
        raise RuntimeError("bug")

    pair.served.add(Served("/bug/1", bug))
    channel = pair.client.streams.open(["/bug/1"], NOW, b"x")
    pair.run()
    assert "handler raised" == pair.take_server()[0].reason
    assert ChannelReset(channel, "reset by peer") == pair.take()[-1]


def test_a_reset_by_the_handler_resets_the_stream():
    pair = connected()
    pair.next_handler = lambda: told(Reset("no thanks"))
    channel = pair.client.streams.open([ECHO], NOW, b"x")
    pair.run()
    assert [StreamFault(ECHO, "no thanks")] == pair.take_server()
    assert ChannelReset(channel, "reset by peer") == pair.take()[-1]
    assert 1 == pair.handlers[0].closings


def told(*answers) -> Handler:
    handler = Handler()
    handler.answers = list(answers)
    return handler


def test_a_parked_stream_waits_alone_and_goes_on_where_it_stopped():
    pair = connected()
    ready: list[Any] = []
    pair.next_handler = lambda: told(Parked(b"so far;", ready.append), b"loaded;")
    parked = pair.client.streams.open([ECHO], NOW, b"one")
    pair.run()
    pair.client.streams.send(parked, b"two")
    pair.next_handler = Handler
    other = pair.client.streams.open([ECHO], NOW, b"x")
    pair.run()
    seen = pair.take()
    assert (b"so far;", b"X") == (replies(seen, parked), replies(seen, other))
    assert [b"one"] == pair.handlers[0].fed
    ready[0]()
    ready[0]()
    assert 1 == pair.woken
    pair.run()
    assert b"loaded;TWO" == replies(pair.take(), parked)
    assert [b"one", b"", b"two"] == pair.handlers[0].fed


def test_a_handler_that_parks_for_no_time_gives_others_a_turn():
    pair = connected()
    pair.next_handler = lambda: told(Parked(b"a", lambda ready: ready()), b"b")
    channel = pair.client.streams.open([ECHO], NOW, b"x")
    pair.client.streams.close_write(channel)
    pair.run()
    seen = pair.take()
    assert b"ab" == replies(seen, channel)
    assert ChannelEof(channel) in seen
    assert 1 == pair.handlers[0].closings


def test_a_handler_may_park_at_the_end():
    pair = connected()
    ready: list[Any] = []
    pair.next_handler = lambda: told(b"1", Parked(b"2", ready.append), b"3")
    channel = pair.client.streams.open([ECHO], NOW, b"x")
    pair.client.streams.close_write(channel)
    pair.run()
    assert ChannelEof(channel) not in pair.seen
    ready[0]()
    pair.run()
    seen = pair.take()
    assert b"123" == replies(seen, channel)
    assert ChannelEof(channel) == seen[-1]
    assert 1 == pair.handlers[0].closings


def test_a_load_that_comes_after_the_streams_end_is_harmless():
    pair = connected()
    ready: list[Any] = []
    pair.next_handler = lambda: told(Parked(b"", ready.append))
    channel = pair.client.streams.open([ECHO], NOW, b"x")
    pair.run()
    pair.client.streams.reset(channel)
    pair.run()
    ready[0]()
    assert (0, False, 1) == (pair.woken, pair.server.work_left, pair.handlers[0].closings)


def test_the_same_load_reported_twice_does_not_end_the_next_wait():
    pair = connected()
    ready: list[Any] = []
    pair.next_handler = lambda: told(Parked(b"", ready.append), Parked(b"", ready.append), b"x")
    pair.client.streams.open([ECHO], NOW, b"x")
    pair.run()
    ready[0]()
    pair.run()
    ready[0]()
    assert (2, 2, False) == (len(ready), len(pair.handlers[0].fed), pair.server.work_left)
    ready[1]()
    assert pair.server.work_left


def test_data_behind_a_park_for_no_time_waits_for_its_turn():
    pair = connected()
    channel = pair.client.streams.open([ECHO], NOW, b"open")
    pair.run()
    pair.handlers[0].answers = [Parked(b"a", lambda ready: ready()), b"b", b"c"]
    pair.client.streams.send(channel, b"one")
    pair.client.streams.send(channel, b"two")
    pair.run()
    assert [b"open", b"one", b"", b"two"] == pair.handlers[0].fed


def test_a_closed_or_reset_channel_holds_nothing_that_was_not_taken():
    for end in (
        lambda streams, channel: streams.close(channel, NOW),
        lambda streams, channel: streams.reset(channel),
    ):
        pair = connected()
        channel = pair.client.streams.open([ECHO], NOW, b"x")
        pair.client.streams.close_write(channel)
        pair.run()
        assert 1 == pair.client._yamux.unread_bytes
        end(pair.client.streams, channel)
        pair.assert_nothing_held()


def test_a_protocol_without_a_handler_comes_as_events():
    pair = connected()
    ours = pair.client.streams.open([RAW], NOW, b"hello")
    pair.run()
    accepted, data = pair.take_server()
    theirs = accepted.channel
    assert [ChannelAccepted(theirs), ChannelData(theirs, b"hello")] == [accepted, data]
    pair.server.streams.consume(theirs, 5)
    pair.server.streams.send(theirs, b"answer")
    pair.server.streams.close(theirs, NOW)
    pair.run()
    seen = pair.take()
    assert [ChannelReady(ours), ChannelData(ours, b"answer"), ChannelEof(ours)] == seen
    pair.client.streams.consume(ours, 6)
    pair.client.streams.close(ours, NOW)
    pair.run()
    pair.assert_nothing_held()


def test_a_reset_channel_says_reset_and_never_end():
    pair = connected()
    channel = pair.client.streams.open([RAW], NOW, b"x")
    pair.run()
    pair.server.streams.send(pair.take_server()[0].channel, b"half")
    pair.server.streams.reset(next(iter(pair.server._yamux.streams())).context)
    pair.run()
    assert ChannelReset(channel, "reset by peer") == pair.take()[-1]


def test_a_protocol_no_longer_served_loses_its_streams():
    pair = connected()
    pair.client.streams.open([ECHO], NOW, b"x")
    raw = pair.client.streams.open([RAW], NOW, b"x")
    pair.run()
    pair.served.remove(ECHO)
    pair.server.streams.reset_protocol(ECHO)
    assert 1 == pair.handlers[0].closings
    refused = pair.client.streams.open([ECHO], NOW)
    pair.run()
    assert ChannelRefused(refused) in pair.seen
    assert [raw.stream.id] == [stream.id for stream in pair.server._yamux.streams()]


# --- limits ---------------------------------------------------------------------------------------


def test_one_turn_answers_a_bounded_number_of_requests_and_the_rest_is_work_left():
    pair = connected()
    for _ in range(MAX_FEEDS_PER_TURN + 10):
        pair.client.streams.open([ECHO], NOW, b"x")
    pair.to_server()
    assert MAX_FEEDS_PER_TURN == sum(len(handler.fed) for handler in pair.handlers)
    assert pair.server.work_left
    pair.server.work(NOW)
    assert MAX_FEEDS_PER_TURN + 10 == sum(len(handler.fed) for handler in pair.handlers)
    assert not pair.server.work_left


def test_a_large_piece_is_fed_in_small_ones_fairly_with_other_streams():
    pair = connected()
    large = pair.client.streams.open([ECHO], NOW, b"l" * 40_000)
    small = pair.client.streams.open([ECHO], NOW, b"small")
    pair.client.streams.close_write(large)
    pair.to_server()
    assert max(len(data) for data in pair.handlers[0].fed) == MAX_FEED_BYTES
    assert sum(len(data) for data in pair.handlers[0].fed) < 40_000
    assert [b"small"] == pair.handlers[1].fed
    pair.run()
    seen = pair.take()
    assert (40_000, b"SMALL") == (len(replies(seen, large)), replies(seen, small))
    assert ChannelEof(large) in seen


def test_a_held_connection_answers_nothing_until_it_is_released():
    pair = connected()
    pair.server.hold()
    channel = pair.client.streams.open([ECHO], NOW, b"x")
    pair.client.streams.close_write(channel)
    pair.run()
    assert not pair.server.work_left
    assert [] == pair.handlers[0].fed
    pair.server.release()
    assert pair.server.work_left
    pair.run()
    seen = pair.take()
    assert b"X" == replies(seen, channel)
    assert ChannelEof(channel) == seen[-1]


def test_a_peer_that_takes_no_replies_is_fed_no_requests():
    pair = connected()
    pair.next_handler = lambda: told(bytes(WINDOW_BYTES + 1))
    channel = pair.client.streams.open([ECHO], NOW, b"x")
    pair.run()
    for _ in range(3):
        pair.client.streams.send(channel, b"more")
        pair.run()
    assert [b"x"] == pair.handlers[0].fed
    assert 12 == pair.server._yamux.unread_bytes
    first = consume(pair, channel, pair.take())
    pair.run()
    second = replies(pair.take(), channel)
    assert bytes(WINDOW_BYTES + 1) + b"MOREMOREMORE" == first + second
    assert [b"x", b"moremoremore"] == pair.handlers[0].fed


def test_a_reply_larger_than_may_wait_resets_the_stream():
    pair = connected()
    pair.next_handler = lambda: told(bytes(5 * 2**20))
    channel = pair.client.streams.open([ECHO], NOW, b"x")
    pair.run()
    assert [StreamFault(ECHO, "too much unsent")] == pair.take_server()
    assert [ChannelReset(channel, "reset by peer")] == pair.take()


def test_a_sender_without_a_handler_hears_when_it_may_go_on():
    pair = connected()
    channel = pair.client.streams.open([RAW], NOW)
    pair.run()
    pair.client.streams.send(channel, bytes(WINDOW_BYTES + 10))
    pair.run()
    assert ChannelWritable(channel) not in pair.take()
    theirs = pair.take_server()
    pair.server.streams.consume(theirs[0].channel, WINDOW_BYTES)
    pair.run()
    assert [ChannelWritable(channel)] == pair.take()


def test_ten_thousand_streams_of_one_peer_are_bounded():
    pair = connected()
    mux = pair.client._yamux
    opening = b"".join(FRAME.pack(0, 1, 1, 2 * i + 1, 0) for i in range(10_000))
    mux._out.append(opening)
    pair.to_server()
    assert len(list(pair.server._yamux.streams())) <= MAX_INBOUND_STREAMS
    assert Stage.ENDED is pair.server.stage  # 120 kB of refusals at once is an attack
    assert 0 == len(list(pair.server._yamux.streams()))


def test_streams_past_the_bound_are_refused_and_the_rest_is_served():
    pair = connected()
    mux = pair.client._yamux
    for i in range(0, 600, 50):
        proposal = HEADER + encode_message(ECHO.encode())
        for j in range(i, i + 50):
            mux._out.append(FRAME.pack(0, 1, 1, 2 * j + 1, 0))
            mux._out.append(FRAME.pack(0, 0, 0, 2 * j + 1, len(proposal)) + proposal)
        pair.to_server()
        pair.server.data_to_send()
    assert MAX_INBOUND_STREAMS == len(list(pair.server._yamux.streams())) == len(pair.handlers)
    assert 600 - MAX_INBOUND_STREAMS == pair.server._yamux.refused_streams


def test_idle_and_silent_streams_are_swept():
    pair = connected()
    served = pair.client.streams.open([ECHO], NOW, b"x")
    silent = pair.client._yamux.open_stream()
    silent.context = served
    pair.run()
    pair.take()
    at = Monotonic(NEGOTIATION_TIMEOUT_S)
    pair.client._yamux.ping(at)
    assert [StreamFault(None, "no protocol agreed in time")] == pair.server.on_timeout(at)
    assert [] == pair.server.on_timeout(Monotonic(59.0))
    pair.run(Monotonic(59.0))
    faults = pair.server.on_timeout(Monotonic(64.0))
    assert [StreamFault(ECHO, "idle")] == faults
    assert 1 == pair.handlers[0].closings


class Collector(Handler):
    """Keeps what comes until it ends with a full stop."""

    def __init__(self) -> None:
        super().__init__()
        self.held_bytes = 0

    def feed(self, data, now):
        self.held_bytes = 0 if data.endswith(b".") else self.held_bytes + len(data)
        return b""


def collecting() -> tuple[Pair, Any]:
    pair = connected()
    pair.next_handler = Collector
    return pair, pair.client.streams.open([ECHO], NOW, b"x" * 5_000)


def test_a_message_that_is_not_whole_counts_as_unread_until_it_is():
    pair, channel = collecting()
    pair.run()
    assert 5_000 == pair.server.held_bytes
    pair.client.streams.send(channel, b"end.")
    pair.run()
    assert 0 == pair.server.held_bytes


@pytest.mark.parametrize("end", ["reset", "end of sending", "end of the connection"])
def test_what_a_handler_held_is_given_back_with_its_stream(end):
    pair, channel = collecting()
    pair.run()
    match end:
        case "reset":
            pair.client.streams.reset(channel)
        case "end of sending":
            pair.client.streams.close(channel, NOW)
        case _:
            pair.client.close()
            pair.server.peer_closed()
    pair.run()
    assert 0 == pair.server.held_bytes


def test_a_byte_now_and_then_does_not_keep_a_message_for_ever():
    pair, channel = collecting()
    for second in range(0, 35, 5):
        at = Monotonic(float(second))
        pair.client.streams.send(channel, b"x")
        pair.run(at)
        faults = pair.server.on_timeout(at)
        expected = [StreamFault(ECHO, "message not whole in time")]
        assert (expected if second == MESSAGE_TIMEOUT_S else []) == faults
        if faults:
            break
    assert 0 == pair.server.held_bytes


def test_a_stream_whose_messages_come_whole_may_live_on():
    pair, channel = collecting()
    for second in range(0, 65, 5):
        at = Monotonic(float(second))
        pair.client.streams.send(channel, b"end." + b"x" * (second % 2))
        pair.run(at)
        pair.client.streams.send(channel, b"begin")
        pair.run(at)
        pair.client._yamux.ping(at)
        pair.run(at)
        assert [] == pair.server.on_timeout(at)


def test_a_closed_channel_that_the_peer_leaves_half_open_is_swept():
    pair = connected()
    channel = pair.client.streams.open([RAW], NOW, b"x")
    pair.client.streams.close(channel, NOW)
    pair.run()
    theirs = pair.take_server()[0].channel
    pair.server.streams.send(theirs, b"nobody reads this")
    pair.run()
    assert [] == [event for event in pair.take() if isinstance(event, ChannelData)]
    assert 0 == pair.client._yamux.unread_bytes
    pair.client.streams.sweep(Monotonic(NEGOTIATION_TIMEOUT_S))
    assert [] == list(pair.client._yamux.streams())


# --- the end --------------------------------------------------------------------------------------


def test_a_silent_peer_ends_the_connection_and_an_answering_one_does_not():
    pair = connected()
    assert [] == pair.client.on_timeout(Monotonic(30.0))
    pair.run(Monotonic(30.2))
    assert pytest.approx(0.2) == pair.client.rtt
    pair.client.on_timeout(Monotonic(61.0))
    (ended,) = pair.client.on_timeout(Monotonic(71.0))
    assert isinstance(ended.error, DeadlineError)


def end_by_close(pair: Pair) -> Any:
    return pair.server.close()


def end_by_peer(pair: Pair) -> Any:
    return pair.server.peer_closed()


def end_by_bad_frame(pair: Pair) -> Any:
    pair.client._plain.append(b"\x07" * 12)
    return pair.server.receive(pair.client.data_to_send(), NOW)


def end_by_bad_seal(pair: Pair) -> Any:
    return pair.server.receive(b"\x00\x20" + bytes(32), NOW)


@pytest.mark.parametrize("end", [end_by_close, end_by_peer, end_by_bad_frame, end_by_bad_seal])
def test_every_end_closes_every_stream_once(end):
    pair = connected()
    pair.client.streams.open([ECHO], NOW, b"x")
    pair.client.streams.open([RAW], NOW, b"x")
    pair.run()
    raw = next(e.channel for e in pair.take_server() if isinstance(e, ChannelAccepted))
    events = end(pair)
    assert ChannelReset(raw, "the connection ended") == events[0]
    assert isinstance(events[1], ConnectionEnded)
    assert 2 == len(events)
    assert 1 == pair.handlers[0].closings
    assert [] == pair.server.close() == pair.server.peer_closed()
    assert [] == pair.server.receive(b"x", NOW) == pair.server.work(NOW)
    assert [] == pair.server.on_timeout(Monotonic(999.0))
    mux = pair.server._yamux
    assert (0, 0, []) == (mux.unread_bytes, mux.unsent_bytes, list(mux.streams()))
    with pytest.raises(StreamError):
        pair.server.streams  # noqa: B018 - the property raises


@pytest.mark.parametrize(("end", "code"), [(end_by_close, 0), (end_by_bad_frame, 1)])
def test_the_peer_is_told_why_the_connection_ends(end, code):
    pair = connected()
    end(pair)
    pair.to_client()
    assert [GoAway(code)] == pair.take()


def test_streams_cannot_be_used_before_the_peer_is_authenticated():
    with pytest.raises(StreamError):
        Pair().client.streams  # noqa: B018 - the property raises


# --- laws -----------------------------------------------------------------------------------------


@given(st.binary(max_size=400), st.integers(1, 50), st.booleans(), st.integers(0, 3))
@settings(max_examples=150)
def test_any_bytes_at_any_stage_end_in_events_and_never_raise(data, size, at_server, flights):
    pair = Pair(early=False)
    for index in range(flights):
        (pair.to_client if index % 2 else pair.to_server)()
    side = pair.server if at_server else pair.client
    events = []
    for at in range(0, len(data), size):
        events += side.receive(data[at : at + size], NOW)
        side.data_to_send()
    ended = [event for event in events if isinstance(event, ConnectionEnded)]
    assert len(ended) <= 1
    if ended:
        assert events[-1] is ended[0]
        assert isinstance(ended[0].error, ProtocolError)


@given(stream_traffic)
@settings(max_examples=150)
def test_any_plaintext_of_an_authenticated_peer_ends_in_events_and_never_raises(plain):
    pair = connected()
    pair.client._plain.append(plain)
    pair.to_server()
    pair.work()
    pair.server.data_to_send()
    pair.server.close()
    mux = pair.server._yamux
    assert (0, 0, []) == (mux.unread_bytes, mux.unsent_bytes, list(mux.streams()))
    assert all(handler.closings == 1 for handler in pair.handlers)


@given(
    st.lists(st.lists(st.binary(min_size=1, max_size=3000), max_size=5), min_size=1, max_size=5),
    st.lists(st.sampled_from([1, 2, 30, 700, 5000, 10**6]), min_size=1, max_size=20),
    st.booleans(),
)
@settings(max_examples=60)
def test_random_traffic_in_random_chunks_is_answered_exactly(requests, sizes, early):
    pair = connected(early=early)
    received: dict[object, bytes] = {}
    channels = []
    for parts in requests:
        channel = pair.client.streams.open([ECHO], NOW)
        channels.append(channel)
        for part in parts:
            pair.client.streams.send(channel, part)
        pair.client.streams.close_write(channel)
    ends = set()
    pipes = {pair.server: b"", pair.client: b""}
    for turn in range(100_000):
        for here, there in ((pair.client, pair.server), (pair.server, pair.client)):
            pipes[there] += here.data_to_send()
            size = sizes[turn % len(sizes)]
            piece, pipes[there] = pipes[there][:size], pipes[there][size:]
            events = there.receive(piece, NOW) if piece else []
            if there.work_left:
                events += there.work(NOW)
            for event in events:
                match event:
                    case ChannelData(channel, data):
                        received[channel] = received.get(channel, b"") + data
                        pair.client.streams.consume(channel, len(data))
                    case ChannelEof(channel):
                        ends.add(channel)
                    case ChannelReady():
                        pass
                    case _:
                        raise AssertionError(f"unexpected {event}")
        if len(ends) == len(channels):
            break
    pair.run()
    expected = [b"".join(parts).upper() for parts in requests]
    assert expected == [received.get(channel, b"") for channel in channels]
    pair.assert_nothing_held()
    assert all(handler.closings == 1 for handler in pair.handlers)
