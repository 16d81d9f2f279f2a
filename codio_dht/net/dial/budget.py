"""The limit on addresses that are dialled at once: in all, and in one network.

Decides which dial is next. Within a network the first that waits is the first to go, and networks
take turns. So many dead addresses of one network do not delay the others. When no place is left, a
dial without an answer for ``GIVE_WAY_AFTER_S`` loses its place to one that waits. Local addresses
are not counted by network.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.lowlevel import checkpoint

from codio_dht.core.clock import Monotonic
from codio_dht.net.dial.failures import DialFailedError, DialFailure
from codio_dht.net.dial.limits import GIVE_WAY_AFTER_S, GIVE_WAY_CHECK_S, MAX_DIALS_PER_GROUP
from codio_dht.net.limits import Limits
from codio_dht.net.link import now
from codio_dht.net.targets import Ip


class Place:
    """One dial that is running, or one that waits for its turn."""

    __slots__ = ("begun_at", "gave_way", "granted", "group", "scope")

    def __init__(self, group: bytes | None) -> None:
        self.group = group
        self.granted = False
        self.begun_at: Monotonic | None = None
        self.gave_way = False
        self.scope = trio.CancelScope()


class DialBudget:
    """Limits the number of addresses that are dialled at once, in all and per network."""

    def __init__(self, limits: Limits, counters: Counter[str]) -> None:
        self._limits = limits
        self._counters = counters
        self._running: dict[Place, None] = {}  # oldest first
        self._of_group: Counter[bytes] = Counter()
        self._waiting: OrderedDict[bytes | None, deque[tuple[Place, trio.Event]]] = OrderedDict()

    @property
    def running(self) -> int:
        """Dials under way."""
        return len(self._running)

    @asynccontextmanager
    async def place(self, ip: Ip) -> AsyncIterator[Place]:
        """Wait for a place, and hold it during the block, which is one dial to ``ip``.

        Raises:
            DialFailedError: it lost its place to others.
        """
        counted = not (ip.local and self._limits.exempt_local)
        place = Place(ip.subnet if counted else None)
        try:
            await self._acquire(place)
            place.begun_at = now()
            with place.scope:
                yield place
            if place.gave_way:
                raise DialFailedError(DialFailure.LOCAL, "no answer, and others waited")
        finally:
            self._give_back(place)

    async def _acquire(self, place: Place) -> None:
        if not self._waiting and self._fits(place):
            self._take(place)
            await checkpoint()
            return
        granted = trio.Event()
        queue = self._waiting.setdefault(place.group, deque())
        queue.append((place, granted))
        try:
            self._grant()
            while not place.granted:
                self._make_way(place)
                with trio.move_on_after(GIVE_WAY_CHECK_S):
                    await granted.wait()
        finally:
            if not place.granted:
                queue.remove((place, granted))
                if not queue and self._waiting.get(place.group) is queue:
                    del self._waiting[place.group]

    def _fits(self, place: Place) -> bool:
        return len(self._running) < self._limits.max_dials and self._group_has_room(place)

    def _group_has_room(self, place: Place) -> bool:
        return place.group is None or self._of_group[place.group] < MAX_DIALS_PER_GROUP

    def _take(self, place: Place) -> None:
        place.granted = True
        self._running[place] = None
        if place.group is not None:
            self._of_group[place.group] += 1

    def _give_back(self, place: Place) -> None:
        if place in self._running:
            del self._running[place]
            if place.group is not None:
                self._of_group[place.group] -= 1
                if not self._of_group[place.group]:
                    del self._of_group[place.group]
        self._grant()

    def _grant(self) -> None:
        """Give the free places to waiting dials, one network after the other."""
        for group in list(self._waiting):
            queue = self._waiting[group]
            place, granted = queue[0]
            if not self._fits(place):
                continue
            queue.popleft()
            self._take(place)
            granted.set()
            if queue:
                self._waiting.move_to_end(group)
            else:
                del self._waiting[group]

    def _make_way(self, place: Place) -> None:
        """For ``place``, end the dial that is without an answer for longest, if it has had its
        time."""
        if len(self._running) < self._limits.max_dials or not self._group_has_room(place):
            return
        for oldest in self._running:
            if oldest.gave_way or oldest.begun_at is None:
                continue  # on its way out, or its task has not had the time to begin
            if now() - oldest.begun_at >= GIVE_WAY_AFTER_S:
                oldest.gave_way = True
                self._counters["dials_gave_way"] += 1
                oldest.scope.cancel()
            return
