r"""Whether the peer of a Yamux connection is alive: when to ping it, and when to give it up.

Decides by the time of the last bytes received. One ping is under way at most; its answer gives the
round trip. An answer to no question of ours is ignored. States::

    QUIET --nothing heard for an interval, or asked for--> ASKED --its pong--> QUIET
                                                             \--silent past the timeout--> given up
"""

from __future__ import annotations

from codio_dht.core.clock import Monotonic
from codio_dht.errors import DeadlineError
from codio_dht.net.stack.yamux_frame import MAX_UINT32


class KeepAlive:
    """Decides when the peer is pinged. The receiving side sets ``heard``; the sending side sends
    pings."""

    __slots__ = ("_asked", "_id", "_interval_s", "_timeout_s", "heard", "rtt")

    def __init__(self, now: Monotonic, *, interval_s: float, timeout_s: float) -> None:
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._id = 0
        self._asked: Monotonic | None = None
        self.heard = now
        """When bytes of the peer came last."""
        self.rtt: float | None = None
        """The last ping's round trip, seconds."""

    def ping(self, now: Monotonic) -> int | None:
        """The value of a ping to send; None while one is under way."""
        if self._asked is not None:
            return None
        self._id = (self._id + 1) & MAX_UINT32
        self._asked = now
        return self._id

    def pong(self, value: int, now: Monotonic) -> None:
        """An answer of ``value`` came."""
        if self._asked is not None and value == self._id:
            self.rtt = now - self._asked
            self._asked = None

    def next_timeout(self) -> Monotonic:
        """When ``on_timeout`` wants to be called."""
        if self._asked is None:
            return Monotonic(self.heard + self._interval_s)
        return Monotonic(max(self._asked, self.heard) + self._timeout_s)

    def on_timeout(self, now: Monotonic) -> int | None:
        """The value of a ping to send now, if any. Harmless when early.

        Raises:
            DeadlineError: the peer is silent for too long.
        """
        if now < self.next_timeout():
            return None
        if self._asked is not None:
            raise DeadlineError("the peer does not answer keep-alives")
        return self.ping(now)
