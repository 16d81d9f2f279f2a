"""The virtual clock and the trace. Two runs are equal if the digests of their traces are equal.

Actions run in the order of (time, sequence). Actions of the same moment run in the order in which
they were scheduled. A line of the trace has the moment, the event, and numbers of nodes. It never
has an object's address, a hash or anything else that differs between processes. Lines are kept only
on request.

Must never: go back in time, or read a real clock.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from heapq import heappop, heappush
from typing import Final

from codio_dht.core.clock import Monotonic, Now, UnixTime
from codio_dht.errors import UsageError

START_UNIX_S: Final = 1_750_000_000.0
"""Unix time at the virtual clock's 0: any fixed moment does."""

Action = Callable[[], None]
Sink = Callable[[str], object]


class EventQueue:
    """The virtual clock: a queue of actions, each with its moment."""

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
        """Schedule ``action`` for ``moment``.

        Raises:
            UsageError: ``moment`` is in the past.
        """
        if moment < self._now:
            raise UsageError(f"moment: {moment} is over, it is {self._now}")
        heappush(self._heap, (moment, self._sequence, action))
        self._sequence += 1

    def after(self, delay_s: float, action: Action) -> None:
        """Schedule ``action`` in ``delay_s`` seconds."""
        self.at(self._now + delay_s, action)

    def step(self, until: float) -> bool:
        """Run the next action if it is due by ``until``. Return whether there was one."""
        heap = self._heap
        if not heap or heap[0][0] > until:
            return False
        moment, _, action = heappop(heap)
        self._now = moment
        self.processed += 1
        action()
        return True

    def run(self, until: float) -> None:
        """Run all actions that are due by ``until``, and set the clock to ``until``."""
        while self.step(until):
            pass
        self._now = max(self._now, until)


class Alarm:
    """Runs one ``action`` at the earliest moment that was set."""

    def __init__(self, queue: EventQueue, action: Action) -> None:
        self._queue = queue
        self._action = action
        self._at: float | None = None

    def set(self, moment: float | None) -> None:
        """Schedule the action for ``moment``, or at once if that is past. None schedules
        nothing."""
        if moment is None or (self._at is not None and self._at <= moment):
            return
        self._at = moment = max(moment, self._queue.now)
        self._queue.at(moment, lambda: self._ring(moment))

    def _ring(self, moment: float) -> None:
        if self._at == moment:
            self._at = None
            self._action()


class Trace:
    """A digest of all events of a run. ``sink`` receives every line."""

    def __init__(self, sink: Sink | None = None) -> None:
        self._hash = sha256()
        self._sink = sink
        self.lines = 0
        """Lines so far."""

    def note(self, moment: float, what: str, *numbers: float) -> None:
        """Note that ``what`` happened at ``moment``."""
        line = f"{moment!r} {what} {' '.join(map(repr, numbers))}\n"
        self._hash.update(line.encode("ascii"))
        self.lines += 1
        if self._sink is not None:
            self._sink(line)

    def digest(self) -> str:
        """SHA-256 of all lines, as hex."""
        return self._hash.hexdigest()
