"""Two Yamux sides joined by pipes that cut bytes anywhere, against a model of what must arrive."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from codio_dht.core.clock import Monotonic
from codio_dht.errors import CapacityError, StreamError
from codio_dht.net.stack.muxer import (
    Data,
    Eof,
    StreamOpened,
    StreamReset,
    StreamWritable,
    Violation,
)
from codio_dht.net.stack.yamux import Yamux
from codio_dht.net.stack.yamux_stream import YamuxLimits

NOW = Monotonic(0.0)
WINDOW_BYTES = 256 * 1024
LIMITS = YamuxLimits(
    inbound_streams=6, inbound_backlog=4, outbound_streams=5, ack_backlog=5, unread_bytes=2**20
)
SIZES = st.sampled_from([0, 1, 11, 1000, 70_000, WINDOW_BYTES - 1, WINDOW_BYTES, 300_000])
PATTERN = bytes(range(251)) * 8_000


class End:
    """One end of one stream, as the model has it."""

    def __init__(self, side: int, stream) -> None:
        self.side = side
        self.stream = stream
        self.sent = 0  # bytes accepted by send
        self.received = 0
        self.consumed = 0
        self.closed = False
        self.reset = False  # by either side, as known here
        self.eof = False
        self.peer: End | None = None


class YamuxMachine(RuleBasedStateMachine):
    ends = Bundle("ends")

    @initialize()
    def start(self) -> None:
        self.sides = (
            Yamux(client=True, now=NOW, limits=LIMITS),
            Yamux(client=False, now=NOW, limits=LIMITS),
        )
        self.pipes = [b"", b""]  # towards side 0, towards side 1
        self.by_id: tuple[dict[int, End], dict[int, End]] = ({}, {})

    # --- rules ------------------------------------------------------------------------------------

    @rule(target=ends, side=st.sampled_from([0, 1]))
    def open(self, side: int):
        try:
            stream = self.sides[side].open_stream()
        except CapacityError:
            return multiple()
        end = self.by_id[side][stream.id] = End(side, stream)
        return end

    @rule(end=ends, size=SIZES, use_peer=st.booleans())
    def send(self, end: End, size: int, use_peer: bool) -> None:
        end = end.peer if use_peer and end.peer is not None else end
        data = PATTERN[end.sent % 251 :][:size]
        try:
            self.sides[end.side].send(end.stream, data)
        except StreamError:
            assert end.closed or end.reset
        except CapacityError:
            assert end.stream.unsent
        else:
            assert not end.closed
            end.sent += size

    @rule(end=ends, count=SIZES, use_peer=st.booleans())
    def consume(self, end: End, count: int, use_peer: bool) -> None:
        end = end.peer if use_peer and end.peer is not None else end
        count = min(count, end.received - end.consumed)
        end.consumed += count
        self.sides[end.side].consume(end.stream, count)

    @rule(end=ends, use_peer=st.booleans())
    def close_write(self, end: End, use_peer: bool) -> None:
        end = end.peer if use_peer and end.peer is not None else end
        end.closed = True
        self.sides[end.side].close_write(end.stream)

    @rule(end=consumes(ends), use_peer=st.booleans())
    def reset(self, end: End, use_peer: bool) -> None:
        end = end.peer if use_peer and end.peer is not None else end
        end.reset = True
        self.sides[end.side].reset(end.stream)

    @rule(side=st.sampled_from([0, 1]))
    def ping(self, side: int) -> None:
        self.sides[side].ping(NOW)

    @rule(to=st.sampled_from([0, 1]), size=st.sampled_from([1, 5, 12, 100, 65_536, 10**7]))
    def deliver(self, to: int, size: int) -> None:
        self.pipes[to] += self.sides[1 - to].data_to_send()
        piece, self.pipes[to] = self.pipes[to][:size], self.pipes[to][size:]
        for event in self.sides[to].receive(piece, NOW):
            self.on_event(to, event)

    # --- what must hold ---------------------------------------------------------------------------

    def on_event(self, side: int, event) -> None:
        ends = self.by_id[side]
        match event:
            case StreamOpened(stream):
                end = ends[stream.id] = End(side, stream)
                end.peer = self.by_id[1 - side][stream.id]
                end.peer.peer = end
            case Data(stream, data):
                end = ends[stream.id]
                assert not end.eof
                assert not end.reset
                assert end.peer is not None
                assert PATTERN[end.received % 251 :][: len(data)] == data
                end.received += len(data)
                assert end.received <= end.peer.sent
            case Eof(stream):
                end = ends[stream.id]
                assert end.peer is not None
                assert not end.eof
                assert end.peer.closed
                assert end.received == end.peer.sent
                end.eof = True
            case StreamReset(stream):
                end = ends[stream.id]
                assert end.peer is None or end.peer.reset or event.reason != "reset by peer"
                end.reset = True
            case StreamWritable(stream):
                assert 0 == stream.unsent
            case Violation(error):
                raise AssertionError(f"a conforming peer was accused: {error}")

    @invariant()
    def counters_add_up(self) -> None:
        for side, mux in enumerate(self.sides):
            streams = list(mux.streams())
            assert mux.unsent_bytes == sum(stream.unsent for stream in streams)
            assert mux.unread_bytes <= LIMITS.unread_bytes
            assert mux._inbound == sum(stream.inbound for stream in streams)
            assert mux._inbound <= LIMITS.inbound_streams
            assert mux._outbound == sum(not stream.inbound for stream in streams)
            for stream in streams:
                assert 0 <= stream.receive_window <= WINDOW_BYTES
                end = self.by_id[side][stream.id]
                unread = end.received - end.consumed
                assert unread == stream.unread <= WINDOW_BYTES

    def teardown(self) -> None:
        if not hasattr(self, "sides"):
            return
        for side, mux in enumerate(self.sides):
            for stream in list(mux.streams()):
                self.by_id[side][stream.id].closed = True
                mux.close_write(stream)
        for _ in range(40):
            for side in (0, 1):
                self.deliver(side, 10**9)
                for end in self.by_id[side].values():
                    if not end.closed:
                        end.closed = True
                        self.sides[side].close_write(end.stream)
                    self.sides[side].consume(end.stream, end.received - end.consumed)
                    end.consumed = end.received
        for mux in self.sides:
            assert [] == list(mux.streams())
            assert (0, 0, 0, 0, 0, 0) == (
                mux.unread_bytes,
                mux.unsent_bytes,
                mux._inbound,
                mux._outbound,
                mux._unacknowledged_inbound,
                mux._unacknowledged_outbound,
            )
        for end in self.by_id[0].values():
            peer = end.peer
            if peer is not None and not end.reset and not peer.reset:
                assert (end.sent, peer.sent) == (peer.received, end.received)
                assert end.eof
                assert peer.eof


TestYamux = YamuxMachine.TestCase
TestYamux.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
