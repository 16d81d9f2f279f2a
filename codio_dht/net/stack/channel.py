"""Channels (a stream with its protocol), the served protocols, and the events of channels.

Values only; :mod:`streams` decides everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from codio_dht.core.clock import Monotonic
from codio_dht.net.handlers import StreamHandler, StreamHandlerFactory
from codio_dht.net.stack.limits import NEGOTIATION_TIMEOUT_S
from codio_dht.net.stack.multistream import Listener, Proposer, ProtocolTable
from codio_dht.net.stack.muxer import GoAway, MuxStream, Violation
from codio_dht.params import STREAM_IDLE_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Served:
    """How a protocol is served. Without a factory its streams come as ``ChannelAccepted``: for
    streams that live with a task, and for identify, which speaks first and of one connection.
    """

    protocol: str
    factory: StreamHandlerFactory | None = None
    idle_timeout_s: float = STREAM_IDLE_TIMEOUT_S


class ServedProtocols:
    """What a host answers; one object for all of its connections, changed at any time."""

    __slots__ = ("_by_protocol", "table")

    def __init__(self, served: Sequence[Served] = ()) -> None:
        self.table = ProtocolTable()
        self._by_protocol: dict[str, Served] = {}
        for entry in served:
            self.add(entry)

    def add(self, served: Served) -> None:
        """Serve a protocol from now on; replaces an earlier entry of the same protocol."""
        self._by_protocol[served.protocol] = served
        self.table.add(served.protocol)

    def remove(self, protocol: str) -> None:
        """Stop serving it. Streams already accepted live on until ``Streams.reset_protocol``."""
        self._by_protocol.pop(protocol, None)
        self.table.remove(protocol)

    def protocols(self) -> tuple[str, ...]:
        """Every protocol served, for identify."""
        return tuple(self._by_protocol)

    def __getitem__(self, protocol: str) -> Served:
        return self._by_protocol[protocol]


class Channel:
    """One stream and its protocol. Written by :class:`Streams`; ``user`` is its caller's."""

    __slots__ = (
        "closing",
        "eof",
        "eof_told",
        "greeting",
        "handler",
        "held",
        "idle_timeout_s",
        "inbox",
        "last_active",
        "message_since",
        "negotiation",
        "parked",
        "pipelined",
        "protocol",
        "queued",
        "resume",
        "stream",
        "user",
    )

    def __init__(self, stream: MuxStream, now: Monotonic) -> None:
        self.stream = stream
        self.protocol: str | None = None
        self.negotiation: Listener | Proposer | None = None
        self.greeting = b""  # the negotiation's answer, until something leaves with it
        self.handler: StreamHandler | None = None
        self.held = 0  # bytes of an unfinished message that the handler holds
        self.message_since = now  # when the oldest of these came
        self.inbox: bytearray | None = None  # for the handler, still unread
        self.eof = False  # the peer has finished; the handler has not been told
        self.eof_told = False  # it has been told, and parked
        self.parked: object | None = None  # what it waits for
        self.resume = False  # unparked: feed b"" first
        self.queued = False  # in the ready queue
        self.closing = False  # the handler is finished; only unsent bytes are left
        self.pipelined = False  # data went out behind the proposal
        self.last_active = now
        self.idle_timeout_s = NEGOTIATION_TIMEOUT_S
        self.user: Any = None


@dataclass(frozen=True, slots=True)
class ChannelAccepted:
    """The peer opened a stream of a protocol that is served without a handler."""

    channel: Channel


@dataclass(frozen=True, slots=True)
class ChannelReady:
    """The peer agreed to the protocol of a stream of ours."""

    channel: Channel


@dataclass(frozen=True, slots=True)
class ChannelRefused:
    """The peer speaks none of the protocols proposed; the stream is over."""

    channel: Channel


@dataclass(frozen=True, slots=True)
class ChannelData:
    """Bytes of a channel without a handler; ``Streams.consume`` them once taken."""

    channel: Channel
    data: bytes


@dataclass(frozen=True, slots=True)
class ChannelEof:
    """The peer finished sending."""

    channel: Channel


@dataclass(frozen=True, slots=True)
class ChannelReset:
    """The channel ended abnormally. ``reason`` is a fixed phrase."""

    channel: Channel
    reason: str


@dataclass(frozen=True, slots=True)
class ChannelWritable:
    """Everything handed to ``Streams.send`` has left."""

    channel: Channel


@dataclass(frozen=True, slots=True)
class StreamFault:
    """A stream was reset because of ``reason``, a fixed phrase; ``error`` if a handler raised it.

    For counters and logs; the peer or the handler is at fault, the connection lives on.
    """

    protocol: str | None
    reason: str
    error: Exception | None = None


StreamsEvent = (
    ChannelAccepted
    | ChannelReady
    | ChannelRefused
    | ChannelData
    | ChannelEof
    | ChannelReset
    | ChannelWritable
    | StreamFault
    | GoAway
    | Violation
)
