"""Host events for any number of subscribers. No subscriber can delay the host.

Each subscriber has a queue of ``MAX_EVENTS_PER_SUBSCRIBER``; when it is full the oldest event is
dropped and counted.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

from codio_dht.net.host import HostEvent

MAX_EVENTS_PER_SUBSCRIBER: Final = 4_096
"""Events a subscriber may be behind; past it the oldest are dropped and counted."""


class _Subscriber:
    """One queue, read as an async iterator that ends with the host."""

    def __init__(self, first: Iterable[HostEvent], counters: Counter[str]) -> None:
        self._events: deque[HostEvent] = deque(first)
        self._counters = counters
        self._ready = trio.Event()
        self._ended = False

    def put(self, event: HostEvent) -> None:
        if len(self._events) >= MAX_EVENTS_PER_SUBSCRIBER:
            self._events.popleft()
            self._counters["events_dropped"] += 1
        self._events.append(event)
        self._ready.set()

    def end(self) -> None:
        self._ended = True
        self._ready.set()

    def __aiter__(self) -> AsyncIterator[HostEvent]:
        return self

    async def __anext__(self) -> HostEvent:
        if self._events:
            await trio.lowlevel.checkpoint()
        while not self._events:  # waiting is a checkpoint itself
            if self._ended:
                raise StopAsyncIteration
            self._ready = trio.Event()
            await self._ready.wait()
        return self._events.popleft()


class EventBus:
    """Hands every event to every subscriber."""

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
