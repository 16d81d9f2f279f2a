"""Kept outbound kad streams: at most one idle stream per peer, as go does.

Decides which stream a request may reuse; never reads or writes one. A stream is *taken* (nobody
else has it), then *given back* when it is clean (a whole reply read, nothing after it) or dropped.
Peers that end streams after one message (py-libp2p) are found out by failures of reused streams
and are then given a new stream each time.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.net.host import Stream

KEPT_STREAM_MAX_AGE_S: Final = 50.0
"""A kept outbound stream idle for longer is not reused: GO's servers reset it after 60 s."""

MAX_KEPT_STREAMS: Final = 1_000
"""Idle outbound kad streams kept in all; the least recently used one is closed past it."""

MAX_REUSE_FAILURES: Final = 3
"""After this many dead reused streams a peer gets one stream per request (GO
``streamReuseTries``)."""


@dataclass(slots=True)
class _Kept:
    stream: Stream
    since: Monotonic


class StreamPool:
    """Idle streams by peer; the least recently used goes when there are too many."""

    def __init__(self, capacity: int = MAX_KEPT_STREAMS) -> None:
        self._capacity = capacity
        self._idle: OrderedDict[PeerId, _Kept] = OrderedDict()
        self._reuse_failures: OrderedDict[PeerId, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._idle)

    def take(self, peer: PeerId, now: Monotonic) -> tuple[Stream | None, Stream | None]:
        """A stream to reuse, if there is one, and a stale one that the caller must close."""
        kept = self._idle.pop(peer, None)
        if kept is None:
            return None, None
        if now - kept.since > KEPT_STREAM_MAX_AGE_S:
            return None, kept.stream
        return kept.stream, None

    def give_back(self, peer: PeerId, stream: Stream, now: Monotonic) -> Stream | None:
        """Keep a clean stream; returns one that the caller must close instead, if any."""
        if peer in self._idle or self._reuse_failures.get(peer, 0) >= MAX_REUSE_FAILURES:
            return stream
        self._idle[peer] = _Kept(stream, now)
        if len(self._idle) > self._capacity:
            return self._idle.popitem(last=False)[1].stream
        return None

    def reuse_failed(self, peer: PeerId) -> None:
        """A reused stream turned out dead; after a few of these the peer gets new ones only."""
        self._reuse_failures[peer] = self._reuse_failures.pop(peer, 0) + 1
        if len(self._reuse_failures) > self._capacity:
            self._reuse_failures.popitem(last=False)

    def forget(self, peer: PeerId) -> Stream | None:
        """The peer is gone; returns its idle stream, which the caller must close."""
        self._reuse_failures.pop(peer, None)
        kept = self._idle.pop(peer, None)
        return None if kept is None else kept.stream

    def drain(self) -> list[Stream]:
        """Empty the pool; the caller closes what was in it."""
        streams = [kept.stream for kept in self._idle.values()]
        self._idle.clear()
        self._reuse_failures.clear()
        return streams
