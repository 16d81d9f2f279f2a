"""The addresses that a connection's peer sends from (RFC 9000, sections 8 and 9).

Decides where datagrams go, how much may go to an address before it is proven, and when a peer has
moved. A path's states::

    NEW --its answer to our challenge, or a handshake packet--> PROVEN
     +----no answer in time----> given up, and the last proven one is used again

Only a listener's peer moves. At most three times the bytes received are sent to an address that is
not proven (section 8.1).

Bounds: ``_MAX_PATHS``; the one that was heard of longest ago makes room, but for the one in use and
the last proven one.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Any, Final

_AMPLIFICATION: Final = 3
_MAX_PATHS: Final = 4
_MAX_CHALLENGES: Final = 4
"""Challenges of the peer that wait to be answered on a path; older ones are dropped, as a peer that
sends more has given them up."""


class Path:
    """One address of the peer, and what went to and fro."""

    __slots__ = ("address", "challenge", "deadline", "is_proven", "received", "sent", "to_answer",
                 "wants_challenge")  # fmt: skip

    def __init__(self, address: Any, *, is_proven: bool) -> None:
        self.address = address
        self.is_proven = is_proven
        self.received = 0
        self.sent = 0
        self.challenge: bytes | None = None
        """What we asked it to send back."""
        self.wants_challenge = False
        self.deadline: float | None = None
        """When it is given up."""
        self.to_answer: deque[bytes] = deque(maxlen=_MAX_CHALLENGES)

    @property
    def room(self) -> int | None:
        """Bytes that may be sent to it; None for any number."""
        if self.is_proven:
            return None
        return max(0, _AMPLIFICATION * self.received - self.sent)

    def make_challenge(self) -> bytes:
        """A challenge to send now."""
        self.wants_challenge = False
        if self.challenge is None:
            self.challenge = os.urandom(8)
        return self.challenge

    def on_challenge_fate(self, acknowledged: bool) -> None:
        """The challenge arrived, or has to be sent again, if it is not given up yet."""
        if not acknowledged and self.deadline is not None:
            self.wants_challenge = True


class Paths:
    """The paths of one connection."""

    __slots__ = ("all", "current", "fallback")

    def __init__(self, address: Any, *, is_proven: bool) -> None:
        self.current = Path(address, is_proven=is_proven)
        """Where everything goes but answers to challenges."""
        self.fallback: Path | None = None
        """The last proven one, while the present one is not."""
        self.all = [self.current]

    def find(self, address: Any) -> Path | None:
        """The path of this address."""
        for path in self.all:
            if path.address == address:
                return path
        return None

    def add(self, address: Any) -> Path:
        """A new path."""
        if len(self.all) >= _MAX_PATHS:
            spare = (each for each in self.all if each not in (self.current, self.fallback))
            self.all.remove(next(spare))
        path = Path(address, is_proven=False)
        self.all.append(path)
        return path

    def move_to(self, path: Path, deadline: float) -> None:
        """The peer is there now."""
        if self.current.is_proven:
            self.fallback = self.current
        self.current.deadline = None
        self.current.wants_challenge = False
        self.current = path
        if not path.is_proven:
            path.wants_challenge = True
            path.challenge = None
            path.deadline = deadline
            if self.fallback is not None:  # somebody may only pretend that the peer moved
                self.fallback.wants_challenge = True
                self.fallback.challenge = None

    def on_response(self, data: bytes) -> None:
        """A challenge came back: the address that was asked is the peer's."""
        for path in self.all:
            if path.challenge == data:
                path.is_proven = True
                path.challenge = path.deadline = None
                path.wants_challenge = False
                if path is self.current:
                    self.fallback = None

    def next_timeout(self) -> float | None:
        """When ``on_timeout`` wants to be called."""
        return self.current.deadline

    def on_timeout(self, now: float) -> None:
        """Give up an address that does not answer."""
        path = self.current
        if path.deadline is not None and now >= path.deadline:
            path.deadline = None
            if self.fallback is not None:
                self.current, self.fallback = self.fallback, None
                self.all.remove(path)
