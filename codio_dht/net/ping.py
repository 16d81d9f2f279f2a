"""Ping (``/ipfs/ping/1.0.0``): 32 bytes and back.

The server echoes inside the pump; the client measures one round trip.
"""

from __future__ import annotations

import os
from typing import Final

import trio

from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.errors import DeadlineError, StreamError
from codio_dht.net.handlers import Parked, Reset
from codio_dht.net.host import Stream

PING: Final = "/ipfs/ping/1.0.0"

_PING_BYTES: Final = 32


class PingHandler:
    """One inbound ping stream; a ``StreamHandler``."""

    __slots__ = ()

    def __init__(self, peer_id: PeerId) -> None:
        pass

    def feed(self, data: bytes, now: Monotonic) -> bytes | Parked | Reset:
        """What comes goes back."""
        return data

    def eof(self, now: Monotonic) -> bytes | Parked | Reset:
        """No more pings."""
        return b""

    def closed(self) -> None:
        """Nothing is held."""


async def round_trip(stream: Stream, deadline: Monotonic) -> float:
    """The time of one ping on ``stream``, seconds; the stream is closed.

    Raises:
        StreamError: the stream ended, or the peer answered with other bytes.
        DeadlineError: the deadline passed first.
    """
    payload = os.urandom(_PING_BYTES)
    answer = b""
    try:
        with trio.fail_at(deadline):
            started = trio.current_time()
            await stream.write(payload)
            while len(answer) < _PING_BYTES:
                data = await stream.read(_PING_BYTES - len(answer))
                if not data:
                    raise StreamError("the peer ended the ping")
                answer += data
            elapsed = trio.current_time() - started
    except trio.TooSlowError as error:
        raise DeadlineError(f"no ping from {stream.peer_id} before the deadline") from error
    finally:
        await stream.close()
    if answer != payload:
        raise StreamError("the peer answered the ping with other bytes")
    return elapsed
