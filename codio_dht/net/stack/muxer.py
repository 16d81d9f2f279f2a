"""What the stack asks of a stream multiplexer: Yamux now, QUIC's own streams beside it.

A contract only. ``receive`` methods differ by muxer and are not part of it; what they tell is: a
list of the events below, in order. :class:`Muxer` is what streams need of any; a
:class:`FrameMuxer` works on an ordered connection of bytes and keeps it alive itself, which QUIC's
does not. A stream's events end with its ``StreamReset``, or with its
``Eof``, after which it lives until this side has closed it too.

Flow control is the caller's to keep honest: bytes of a ``Data`` event count as unread, against the
stream's window and the connection's bound, until ``consume`` says that they were taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from codio_dht.core.clock import Monotonic
from codio_dht.errors import ProtocolError


class MuxStream:
    """One stream, as both sides of the contract hold it.

    ``unread`` and ``unsent`` are written by the muxer only: bytes delivered and not consumed, and
    bytes accepted by ``send`` that wait for the peer's window. ``context`` belongs to the muxer's
    caller; the muxer never looks at it.
    """

    __slots__ = ("context", "id", "inbound", "unread", "unsent")

    def __init__(self, stream_id: int, *, inbound: bool) -> None:
        self.id = stream_id
        self.inbound = inbound
        self.unread = 0
        self.unsent = 0
        self.context: Any = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {'in' if self.inbound else 'out'}>"


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The peer opened a stream."""

    stream: MuxStream


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a stream, never empty."""

    stream: MuxStream
    data: bytes


@dataclass(frozen=True, slots=True)
class Eof:
    """The peer finished sending on a stream."""

    stream: MuxStream


@dataclass(frozen=True, slots=True)
class StreamReset:
    """A stream ended abnormally: reset by the peer, or by us for the fixed phrase ``reason``."""

    stream: MuxStream
    reason: str


@dataclass(frozen=True, slots=True)
class StreamWritable:
    """Everything handed to ``send`` has left; the stream takes more."""

    stream: MuxStream


@dataclass(frozen=True, slots=True)
class GoAway:
    """The peer ends the connection: nothing new may be opened. 0 is a normal end."""

    code: int


@dataclass(frozen=True, slots=True)
class Violation:
    """The peer broke the muxer's protocol; always the last event. The connection must end."""

    error: ProtocolError


MuxerEvent = StreamOpened | Data | Eof | StreamReset | StreamWritable | GoAway | Violation


class Muxer(Protocol):
    """What the layer above calls. All of it is synchronous; what is to be sent waits inside."""

    def open_stream(self) -> MuxStream:
        """A new stream of ours.

        Raises:
            CapacityError: too many are open or not yet acknowledged.
            StreamError: the connection takes no more.
        """
        ...

    def send(self, stream: MuxStream, data: bytes) -> None:
        """Send ``data``; what the window does not take waits inside and counts as ``unsent``.

        Raises:
            StreamError: the stream is closed for writing, or over.
            CapacityError: too much would wait; nothing of ``data`` was taken.
        """
        ...

    def consume(self, stream: MuxStream, count: int) -> None:
        """``count`` bytes of the stream's ``Data`` were taken. Harmless after the stream's end."""
        ...

    def close_write(self, stream: MuxStream) -> None:
        """Finish sending, behind what is unsent. Idempotent; harmless after the stream's end."""
        ...

    def reset(self, stream: MuxStream) -> None:
        """Abort the stream; no event follows. Idempotent; harmless after the stream's end."""
        ...

    def streams(self) -> Iterable[MuxStream]:
        """Every stream that is not over; do not open or end streams while iterating."""
        ...


class FrameMuxer(Muxer, Protocol):
    """A muxer whose frames are bytes of an ordered connection; they wait in ``data_to_send``."""

    def go_away(self, code: int) -> None:
        """Tell the peer that the connection ends; its new streams are refused from now on."""
        ...

    def data_to_send(self) -> bytes:
        """Everything to send since the last call, frames joined."""
        ...

    def next_timeout(self) -> Monotonic:
        """When ``on_timeout`` wants to be called."""
        ...

    def on_timeout(self, now: Monotonic) -> None:
        """Keep-alive.

        Raises:
            DeadlineError: the peer is silent for too long; the connection must end.
        """
        ...
