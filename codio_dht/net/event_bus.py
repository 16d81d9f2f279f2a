"""Host events for any number of subscribers. No subscriber can delay the host.

What waits for a subscriber is the latest state of each peer, not every change: a peer that says
something new takes the place of what it said before. So one peer has one place, however often it
speaks, and it cannot push out what others said. A subscriber that is behind learns what is true
now, and that is all that it needs.

Bound: a place for each connected peer, and for each peer of which the subscriber was told and that
is gone; their ends are never dropped. Ends of peers of which it was never told (they did not say
who they are) take up to ``MAX_UNTOLD_ENDS`` places. Past that the oldest of them is dropped and
counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import trio

from codio_dht.core.peer import PeerId
from codio_dht.net.host import AddrsChanged, HostEvent, PeerGone, PeerIdentified

MAX_UNTOLD_ENDS: Final = 4_096
"""Ends of connections that wait for one subscriber, of peers that it was never told of. Past it the
oldest is dropped and counted: all that it says is that streams to the peer are over."""


class _Subscriber:
    """What waits for one subscriber, read as an async iterator that ends with the host."""

    def __init__(self, first: Iterable[HostEvent], counters: Counter[str]) -> None:
        self._waiting: dict[PeerId | None, HostEvent] = {}
        """The latest of each peer, and of the host itself (None), in the order in which they began
        to wait."""
        self._told: set[PeerId] = set()
        """Peers of which the subscriber was told, and whose end it was not told yet."""
        self._untold_ends: dict[PeerId, None] = {}
        self._counters = counters
        self._ready = trio.Event()
        self._ended = False
        for event in first:
            self.put(event)

    def put(self, event: HostEvent) -> None:
        match event:
            case PeerIdentified(peer_id):
                before = self._waiting.get(peer_id)
                self._untold_ends.pop(peer_id, None)
                ended = isinstance(before, PeerGone)  # so this is on a new connection
                if ended or (isinstance(before, PeerIdentified) and before.new_connection):
                    event = replace(event, new_connection=True)
                self._waiting[peer_id] = event
            case PeerGone(peer_id):
                self._waiting[peer_id] = event
                if peer_id not in self._told:
                    self._bound_untold(peer_id)
            case AddrsChanged():
                self._waiting[None] = event
        self._ready.set()

    def _bound_untold(self, peer_id: PeerId) -> None:
        self._untold_ends[peer_id] = None
        if len(self._untold_ends) > MAX_UNTOLD_ENDS:
            oldest = next(iter(self._untold_ends))
            del self._untold_ends[oldest]
            del self._waiting[oldest]
            self._counters["events_dropped"] += 1

    def end(self) -> None:
        self._ended = True
        self._ready.set()

    def __aiter__(self) -> AsyncIterator[HostEvent]:
        return self

    async def __anext__(self) -> HostEvent:
        if self._waiting:
            await trio.lowlevel.checkpoint()
        while not self._waiting:  # waiting is a checkpoint itself
            if self._ended:
                raise StopAsyncIteration
            self._ready = trio.Event()
            await self._ready.wait()
        event = self._waiting.pop(next(iter(self._waiting)))
        match event:
            case PeerIdentified(peer_id):
                self._told.add(peer_id)
            case PeerGone(peer_id):
                self._told.discard(peer_id)
                self._untold_ends.pop(peer_id, None)
            case AddrsChanged():
                pass
        return event


class EventBus:
    """Hands every event to every subscriber. See the module for what a late one gets."""

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters
        self._subscribers: set[_Subscriber] = set()
        self._ended = False

    def emit(self, event: HostEvent) -> None:
        """Give the event to every subscriber, without waiting."""
        for subscriber in self._subscribers:
            subscriber.put(event)

    @contextmanager
    def subscribed(self, first: Iterable[HostEvent]) -> Iterator[AsyncIterator[HostEvent]]:
        """The events from now on, after ``first``."""
        subscriber = _Subscriber(first, self._counters)
        if self._ended:
            subscriber.end()
        self._subscribers.add(subscriber)
        try:
            yield subscriber
        finally:
            self._subscribers.discard(subscriber)

    def end(self) -> None:
        """End the events. Every iterator gives what it still has, and then ends."""
        self._ended = True
        for subscriber in self._subscribers:
            subscriber.end()
