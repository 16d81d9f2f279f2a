r"""What happens on a connection's streams: protocols agreed on, handlers run, work rationed.

Decides which protocol a stream speaks and when its handler is fed; works over any
:class:`~codio_dht.net.stack.muxer.Muxer`. A channel is a stream with its protocol::

    inbound:   NEGOTIATING -> SERVED (a handler answers, here and now) -> over
                   |      \-> OPEN   (events, for what is not request-response) -> over
    outbound:  NEGOTIATING -> OPEN -> over

Requests are answered inside ``handle``: no task, lock or channel per stream. A handler gets its
input in pieces of at most ``MAX_FEED_BYTES``; after ``MAX_FEEDS_PER_TURN`` pieces or
``MAX_FEED_BYTES_PER_TURN`` bytes the rest waits (``work_left``) for the next turn (``work``), so
that other connections run. A stream also waits while its handler is parked, while its own replies
wait for the peer's window, and all of them while the connection is held because the peer does not
read. What waits stays unread in the muxer's sense: its window is not given back, which is the
bound.

A fault on a stream (a peer's bad negotiation, a handler's bug) resets that stream and nothing
else. ``closed()`` of every handler is called exactly once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.errors import CapacityError, ProtocolError, StreamError
from codio_dht.net.handlers import Parked, Reset
from codio_dht.net.stack.channel import (
    Channel,
    ChannelAccepted,
    ChannelData,
    ChannelEof,
    ChannelReady,
    ChannelRefused,
    ChannelReset,
    ChannelWritable,
    ServedProtocols,
    StreamFault,
    StreamsEvent,
)
from codio_dht.net.stack.limits import (
    MAX_FEED_BYTES,
    MAX_FEED_BYTES_PER_TURN,
    MAX_FEEDS_PER_TURN,
    MESSAGE_TIMEOUT_S,
    NEGOTIATION_TIMEOUT_S,
)
from codio_dht.net.stack.multistream import (
    Listener,
    Proposer,
    Refused,
    Selected,
    accept_at_once,
)
from codio_dht.net.stack.muxer import (
    Data,
    Eof,
    GoAway,
    Muxer,
    MuxerEvent,
    MuxStream,
    StreamOpened,
    StreamReset,
    StreamWritable,
    Violation,
)

_ENDED_EARLY: Final = "ended before a protocol was agreed on"


class Streams:
    """All channels of one connection. ``wake`` is called when parked work became ready, possibly
    from inside ``handle``.
    """

    __slots__ = ("_bytes_left", "_events", "_feeds_left", "_held", "_muxer", "_peer_id", "_ready",
                 "_served", "_wake")  # fmt: skip

    def __init__(
        self,
        muxer: Muxer,
        *,
        peer_id: PeerId,
        served: ServedProtocols,
        wake: Callable[[], None],
    ) -> None:
        self._muxer = muxer
        self._peer_id = peer_id
        self._served = served
        self._wake = wake
        self._ready: deque[Channel] = deque()
        self._events: list[StreamsEvent] = []
        self._held = False
        self._feeds_left = MAX_FEEDS_PER_TURN
        self._bytes_left = MAX_FEED_BYTES_PER_TURN

    # --- a turn -----------------------------------------------------------------------------------

    def handle(self, events: list[MuxerEvent], now: Monotonic) -> None:
        """One turn: what the muxer told, and then what waited from earlier turns."""
        self._feeds_left = MAX_FEEDS_PER_TURN
        self._bytes_left = MAX_FEED_BYTES_PER_TURN
        for event in events:
            match event:
                case Data():
                    self._on_data(event.stream, event.data, now)
                case StreamOpened():
                    event.stream.context = Channel(event.stream, now)
                case Eof():
                    self._on_eof(event.stream.context, now)
                case StreamReset():
                    self._on_reset(event.stream.context, event.reason)
                case StreamWritable():
                    self._on_writable(event.stream.context)
                case GoAway() | Violation():
                    self._events.append(event)
        if self._ready:
            self._run_ready(now)

    def work(self, now: Monotonic) -> None:
        """One turn of work left over."""
        self.handle([], now)

    @property
    def work_left(self) -> bool:
        """Whether ``work`` has something to do now."""
        return bool(self._ready) and not self._held

    def take_events(self) -> list[StreamsEvent]:
        """What happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def hold(self) -> None:
        """Feed no handler until ``release``: the peer does not read what is sent."""
        self._held = True

    def release(self) -> None:
        """Undo ``hold``; see ``work_left``."""
        self._held = False

    # --- channels of our own, and those without a handler -----------------------------------------

    def open(self, protocols: Sequence[str], now: Monotonic, data: bytes = b"") -> Channel:
        """A new stream, proposing ``protocols`` in order; ``data`` rides behind the proposal.

        ``data`` may be given with a single protocol only: it would be lost on a second proposal.

        Raises:
            CapacityError, StreamError: see :meth:`Muxer.open_stream`.
        """
        assert len(protocols) == 1 or not data, "data with more than one proposal"
        stream = self._muxer.open_stream()
        channel = stream.context = Channel(stream, now)
        channel.negotiation = Proposer(protocols)
        channel.protocol = protocols[0]
        channel.pipelined = bool(data)
        self._muxer.send(stream, channel.negotiation.data_to_send() + data)
        return channel

    def send(self, channel: Channel, data: bytes) -> None:
        """Send on a channel without a handler. Raises as :meth:`Muxer.send`."""
        channel.pipelined = True
        self._muxer.send(channel.stream, data)

    def consume(self, channel: Channel, count: int) -> None:
        """``count`` bytes of the channel's ``ChannelData`` were taken."""
        self._muxer.consume(channel.stream, count)

    def close_write(self, channel: Channel) -> None:
        """Finish sending. Idempotent."""
        channel.pipelined = True
        self._muxer.close_write(channel.stream)

    def close(self, channel: Channel, now: Monotonic) -> None:
        """Finish sending and take no more; no event follows. A peer that does not finish either is
        reset by ``sweep``. Idempotent."""
        self._muxer.consume(channel.stream, channel.stream.unread)
        if not channel.closing:
            self._muxer.close_write(channel.stream)
            channel.last_active = now
            channel.idle_timeout_s = NEGOTIATION_TIMEOUT_S
            self._finish(channel)

    def reset(self, channel: Channel) -> None:
        """Abort the channel; no event follows. Idempotent."""
        self._muxer.consume(channel.stream, channel.stream.unread)
        self._muxer.reset(channel.stream)
        self._finish(channel)

    # --- ends -------------------------------------------------------------------------------------

    def sweep(self, now: Monotonic) -> None:
        """Reset inbound streams past their idle or negotiation time, those whose message is not
        whole in time, however often a byte of it comes, and closed ones that the peer leaves half
        open."""
        for stream in list(self._muxer.streams()):
            channel: Channel = stream.context
            if now - channel.last_active >= channel.idle_timeout_s and (
                stream.inbound or channel.closing
            ):
                self._fault(channel, "idle" if channel.protocol else "no protocol agreed in time")
            elif channel.held and self._is_late(channel, now):
                self._fault(channel, "message not whole in time")

    def _is_late(self, channel: Channel, now: Monotonic) -> bool:
        """Whether the peer has had its time for the message that the handler holds a part of. What
        waits for this node itself (a load, a turn) is not late."""
        waits_for_us = channel.parked or channel.resume or channel.inbox
        return not waits_for_us and now - channel.message_since >= MESSAGE_TIMEOUT_S

    def reset_protocol(self, protocol: str) -> None:
        """Reset the inbound channels of ``protocol``."""
        for stream in list(self._muxer.streams()):
            if stream.inbound and stream.context.protocol == protocol:
                self._fault(stream.context, "no longer served")

    def end(self, reason: str) -> None:
        """The connection is over: every handler is closed, every other channel told."""
        for stream in list(self._muxer.streams()):
            self._muxer.reset(stream)
            self._on_reset(stream.context, reason)
        self._ready.clear()

    # --- the muxer's events -----------------------------------------------------------------------

    def _on_data(self, stream: MuxStream, data: bytes, now: Monotonic) -> None:
        channel: Channel = stream.context
        if channel.closing:
            self._muxer.consume(stream, len(data))
            return
        channel.last_active = now
        if channel.handler is not None:
            self._deliver(channel, data, now)
        elif channel.protocol is None:
            self._negotiate_inbound(channel, data, now)
        elif channel.negotiation is not None:
            self._negotiate_outbound(channel, data)
        else:
            self._events.append(ChannelData(channel, data))

    def _on_eof(self, channel: Channel, now: Monotonic) -> None:
        if channel.closing:
            return
        if channel.handler is not None:
            channel.eof = True
            if self._may_feed(channel):
                self._feed_eof(channel, now)
            else:
                self._enqueue(channel)
        elif channel.negotiation is not None or channel.protocol is None:
            self._fault(channel, _ENDED_EARLY)
        else:
            self._events.append(ChannelEof(channel))

    def _on_reset(self, channel: Channel, reason: str) -> None:
        if channel.handler is None and channel.protocol is not None and not channel.closing:
            self._events.append(ChannelReset(channel, reason))
        self._finish(channel)

    def _on_writable(self, channel: Channel) -> None:
        if channel.handler is not None:
            self._enqueue(channel)
        elif not channel.closing:
            self._events.append(ChannelWritable(channel))

    # --- negotiation ------------------------------------------------------------------------------

    def _negotiate_inbound(self, channel: Channel, data: bytes, now: Monotonic) -> None:
        stream = channel.stream
        table = self._served.table
        if channel.negotiation is None:
            accepted = accept_at_once(table, data)
            if accepted is not None:
                answer, protocol, rest_at = accepted
                self._muxer.consume(stream, rest_at)
                self._start(channel, protocol, answer, data[rest_at:], now)
                return
            channel.negotiation = Listener(table)
        listener = channel.negotiation
        assert isinstance(listener, Listener)
        try:
            outcome = listener.receive(data)
        except ProtocolError as error:
            self._fault(channel, error.reason)
            return
        rest = b"" if outcome is None else outcome.rest
        self._muxer.consume(stream, len(data) - len(rest))
        answer = listener.data_to_send()
        if outcome is None:
            self._send(channel, answer)
        else:
            channel.negotiation = None
            self._start(channel, outcome.protocol, answer, rest, now)

    def _start(
        self, channel: Channel, protocol: str, answer: bytes, rest: bytes, now: Monotonic
    ) -> None:
        """The peer's stream has its protocol."""
        served = self._served[protocol]
        channel.protocol = protocol
        channel.idle_timeout_s = served.idle_timeout_s
        if served.factory is None:
            if self._send(channel, answer):
                self._events.append(ChannelAccepted(channel))
                if rest:
                    self._events.append(ChannelData(channel, rest))
            return
        try:
            channel.handler = served.factory(self._peer_id)
        except Exception as error:  # noqa: BLE001 - a bug of a protocol must not end the connection
            self._fault(channel, "handler raised", error)
            return
        channel.greeting = answer
        if rest:
            self._deliver(channel, rest, now)
        if channel.greeting and not channel.closing:
            self._send(channel, b"")

    def _negotiate_outbound(self, channel: Channel, data: bytes) -> None:
        proposer = channel.negotiation
        assert isinstance(proposer, Proposer)
        try:
            outcome = proposer.receive(data)
        except ProtocolError as error:
            self._muxer.reset(channel.stream)
            self._on_reset(channel, error.reason)
            return
        match outcome:
            case Selected(protocol, rest):
                self._muxer.consume(channel.stream, len(data) - len(rest))
                channel.negotiation = None
                channel.protocol = protocol
                self._events.append(ChannelReady(channel))
                if rest:
                    self._events.append(ChannelData(channel, rest))
            case Refused():
                self._refuse(channel)
            case None:
                self._muxer.consume(channel.stream, len(data))
                proposal = proposer.data_to_send()
                if proposal and channel.pipelined:  # sent for a protocol that was refused
                    self._refuse(channel)
                elif proposal:
                    self._send(channel, proposal)

    def _refuse(self, channel: Channel) -> None:
        self._muxer.reset(channel.stream)
        self._finish(channel)
        self._events.append(ChannelRefused(channel))

    # --- handlers ---------------------------------------------------------------------------------

    def _may_feed(self, channel: Channel) -> bool:
        return not (
            channel.parked
            or channel.resume
            or channel.inbox
            or channel.stream.unsent
            or self._held
            or self._feeds_left <= 0
            or self._bytes_left <= 0
        )

    def _deliver(self, channel: Channel, data: bytes, now: Monotonic) -> None:
        """Feed the handler now if that may be, else keep the data for its turn."""
        if len(data) <= MAX_FEED_BYTES and self._may_feed(channel):
            self._feed(channel, data, now)
            return
        if channel.inbox is None:
            channel.inbox = bytearray()
        channel.inbox += data
        self._enqueue(channel)

    def _enqueue(self, channel: Channel) -> None:
        if not channel.queued and not channel.parked:
            channel.queued = True
            self._ready.append(channel)

    def _run_ready(self, now: Monotonic) -> None:
        """Give every channel with waiting input its piece, in turn, while the ration lasts."""
        ready = self._ready
        while ready and not self._held and self._feeds_left > 0 and self._bytes_left > 0:
            channel = ready.popleft()
            channel.queued = False
            if channel.handler is None or channel.parked:
                continue
            if channel.resume:
                channel.resume = False
                self._feed(channel, b"", now)
                if channel.eof_told:
                    self._close_served(channel)
            elif channel.stream.unsent:
                continue  # StreamWritable will bring it back
            elif channel.inbox:
                piece = bytes(channel.inbox[:MAX_FEED_BYTES])
                del channel.inbox[:MAX_FEED_BYTES]
                self._feed(channel, piece, now)
            elif channel.eof:
                self._feed_eof(channel, now)
            if not channel.closing and (channel.inbox or channel.eof):
                self._enqueue(channel)

    def _feed(self, channel: Channel, data: bytes, now: Monotonic) -> None:
        self._feeds_left -= 1
        self._bytes_left -= len(data)
        handler = channel.handler
        assert handler is not None
        try:
            result = handler.feed(data, now)
        except Exception as error:  # noqa: BLE001 - a bug of a protocol must not end the connection
            self._fault(channel, "handler raised", error)
            return
        self._take(channel, len(data), now)
        if result.__class__ is not bytes:
            self._on_result(channel, result)
        elif result:
            self._send(channel, result)

    def _take(self, channel: Channel, size: int, now: Monotonic) -> None:
        """The handler was fed ``size`` bytes. What it holds of an unfinished message stays unread
        in the muxer's sense: so it counts, and its window is not given back."""
        held: int = getattr(channel.handler, "held_bytes", 0)
        self._muxer.consume(channel.stream, size + channel.held - held)
        channel.held = held
        if held <= size:  # else a message that began before is not whole yet
            channel.message_since = now

    def _feed_eof(self, channel: Channel, now: Monotonic) -> None:
        """Tell the handler that the peer has finished, and finish with it."""
        handler = channel.handler
        assert handler is not None
        channel.eof = False
        try:
            result = handler.eof(now)
        except Exception as error:  # noqa: BLE001 - a bug of a protocol must not end the connection
            self._fault(channel, "handler raised", error)
            return
        channel.eof_told = True
        self._take(channel, 0, now)
        self._on_result(channel, result)
        self._close_served(channel)

    def _close_served(self, channel: Channel) -> None:
        """Finish, unless the handler parked; what it said may still wait for the peer's window."""
        if channel.handler is not None and not (channel.parked or channel.resume):
            self._muxer.close_write(channel.stream)
            self._finish(channel)

    def _on_result(self, channel: Channel, result: bytes | Parked | Reset) -> None:
        match result:
            case Parked(data, on_ready):
                channel.parked = ticket = object()
                if self._send(channel, data):
                    on_ready(lambda: self._unpark(channel, ticket))
            case Reset(reason):
                self._fault(channel, reason)
            case _:
                self._send(channel, result)

    def _unpark(self, channel: Channel, ticket: object) -> None:
        """The load that a handler waited for is there. Harmless when late or repeated."""
        if channel.parked is ticket and channel.handler is not None:
            channel.parked = None
            channel.resume = True
            self._enqueue(channel)
            self._wake()

    def _send(self, channel: Channel, data: bytes) -> bool:
        """Send for a handler or a negotiation; False if the stream did not take it and is over."""
        if channel.greeting:
            data, channel.greeting = channel.greeting + data, b""
        if data:
            try:
                self._muxer.send(channel.stream, data)
            except CapacityError:
                self._fault(channel, "too much unsent")
                return False
            except StreamError:
                self._fault(channel, "closed for writing")
                return False
        return True

    def _fault(self, channel: Channel, reason: str, error: Exception | None = None) -> None:
        """Reset a stream for ``reason``, and say so."""
        self._muxer.reset(channel.stream)
        self._events.append(StreamFault(channel.protocol, reason, error))
        if channel.handler is None and channel.protocol is not None and not channel.closing:
            self._events.append(ChannelReset(channel, reason))
        self._finish(channel)

    def _finish(self, channel: Channel) -> None:
        """The channel takes no more part; its handler, if any, hears of it once."""
        channel.closing = True
        if channel.held:
            self._muxer.consume(channel.stream, channel.held)
            channel.held = 0
        channel.inbox = None
        channel.negotiation = None
        handler, channel.handler = channel.handler, None
        if handler is not None:
            try:
                handler.closed()
            except Exception as error:  # noqa: BLE001 - as above
                self._events.append(StreamFault(channel.protocol, "handler raised", error))
