"""The virtual clock: what happens next, in the order of (time, sequence).

Two actions at one moment happen in the order in which they were planned, so a run is the same
every time. Must never: go back in time, or read a real clock.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final

from codio_dht.core.clock import Monotonic, Now, UnixTime
from codio_dht.errors import UsageError

START_UNIX_S: Final = 1_750_000_000.0
"""Unix time at the virtual clock's 0: any fixed moment does."""

Action = Callable[[], None]


class EventQueue:
    """See the module."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Action]] = []
        self._sequence = 0
        self._now = 0.0
        self.processed = 0
        """Actions that have happened."""

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def now(self) -> Monotonic:
        """Virtual seconds since the start."""
        return Monotonic(self._now)

    @property
    def unix(self) -> UnixTime:
        """The same moment as Unix time."""
        return UnixTime(START_UNIX_S + self._now)

    @property
    def both(self) -> Now:
        """The moment on both clocks."""
        return Now(self.now, self.unix)

    def at(self, moment: float, action: Action) -> None:
        """Let ``action`` happen at ``moment``.

        Raises:
            UsageError: that is over already.
        """
        if moment < self._now:
            raise UsageError(f"moment: {moment} is over, it is {self._now}")
        heappush(self._heap, (moment, self._sequence, action))
        self._sequence += 1

    def after(self, delay_s: float, action: Action) -> None:
        """Let ``action`` happen in ``delay_s`` seconds."""
        self.at(self._now + delay_s, action)

    def step(self, until: float) -> bool:
        """Let the next action happen if it is due by ``until``; whether there was one."""
        heap = self._heap
        if not heap or heap[0][0] > until:
            return False
        moment, _, action = heappop(heap)
        self._now = moment
        self.processed += 1
        action()
        return True

    def run(self, until: float) -> None:
        """Let everything happen that is due by ``until``; the clock stands there afterwards."""
        while self.step(until):
            pass
        self._now = max(self._now, until)
