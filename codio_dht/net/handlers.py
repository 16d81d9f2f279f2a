"""What serves an inbound request-response protocol: a synchronous object for each stream.

The host makes one :class:`StreamHandler` per stream and feeds it what arrives, in order, so that
kad, identify and ping are the same code on every host. ``feed`` returns what to do::

    bytes            send these (may be empty) and go on reading
    Parked(data, on_ready)
                     send ``data``; the answer to the next request waits for a load from the store.
                     The host feeds nothing until the callback it gave to ``on_ready`` has been
                     called, then calls ``feed(b"", now)``. Only this stream waits, never its
                     connection.
    Reset(reason)    reset the stream; the handler is finished

At the peer's end of sending the host calls ``eof(now)``: it returns bytes still to send, and the
stream is then closed normally. However a stream ends, ``closed()`` is called exactly once. None of
these methods raises on a peer's bytes; if one raises all the same, the host resets that stream,
counts and logs it, and lives on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId


@dataclass(frozen=True, slots=True)
class Parked:
    """Send ``data``, and feed the handler nothing until its load from the store is complete.

    The host calls ``on_ready`` once with a callback, which is called when the load is there; the
    host then feeds the handler ``b""``.
    """

    data: bytes
    on_ready: Callable[[Callable[[], None]], None]


@dataclass(frozen=True, slots=True)
class Reset:
    """Reset the stream. ``reason`` is for counters and logs, a short fixed phrase."""

    reason: str


class StreamHandler(Protocol):
    """One inbound stream of a request-response protocol, sans I/O.

    A handler that keeps bytes of an unfinished message has an attribute ``held_bytes``, which says
    how many. The host counts them for the peer's origin, and bounds how long the message may take.
    """

    def feed(self, data: bytes, now: Monotonic) -> bytes | Parked | Reset:
        """Take ``data`` that arrived, and say what to do next."""
        ...

    def eof(self, now: Monotonic) -> bytes | Parked | Reset:
        """Note that the peer has finished sending. Return the bytes that are still to send."""
        ...

    def closed(self) -> None:
        """Note that the stream is over, for any reason. Called exactly once."""
        ...


StreamHandlerFactory = Callable[[PeerId], StreamHandler]
