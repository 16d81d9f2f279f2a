"""The virtual clock, the processes that run on it, and the trace of what happened.

Actions run in the order of (time, sequence). Actions of the same moment run in the order in which
they were scheduled. A process is a coroutine that waits for actions, so that what one member does
step by step reads step by step. Two runs are equal if the digests of their traces are equal. A line
of the trace has the moment, the event, and numbers of nodes. It never has an object's address, a
hash or anything else that differs between processes. Lines are kept only on request.

Must never: go back in time, or read a real clock.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from hashlib import sha256
from heapq import heappop, heappush
from types import coroutine
from typing import Any, Final

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
        self.now = Monotonic(0.0)
        """Virtual seconds since the start."""
        self.processed = 0
        """Actions that have happened."""

    @property
    def unix(self) -> UnixTime:
        """The same moment as Unix time."""
        return UnixTime(START_UNIX_S + self.now)

    @property
    def both(self) -> Now:
        """The moment on both clocks."""
        return Now(self.now, self.unix)

    def at(self, moment: float, action: Action) -> None:
        """Schedule ``action`` for ``moment``.

        Raises:
            UsageError: ``moment`` is in the past.
        """
        if moment < self.now:
            raise UsageError(f"moment: {moment} is over, it is {self.now}")
        heappush(self._heap, (moment, self._sequence, action))
        self._sequence += 1

    def after(self, delay_s: float, action: Action) -> None:
        """Schedule ``action`` in ``delay_s`` seconds."""
        self.at(self.now + delay_s, action)

    async def sleep(self, delay_s: float) -> None:
        """Let the process wait for ``delay_s`` seconds."""
        await suspend(lambda resume: self.after(delay_s, resume))

    def step(self, until: float) -> bool:
        """Run the next action if it is due by ``until``. Return whether there was one."""
        if not self._heap or self._heap[0][0] > until:
            return False
        moment, _, action = heappop(self._heap)
        self.now = Monotonic(moment)
        self.processed += 1
        action()
        return True

    def run(self, until: float) -> None:
        """Run all actions that are due by ``until``, and set the clock to ``until``."""
        while self.step(until):
            pass
        self.now = Monotonic(max(self.now, until))


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


# --- processes ------------------------------------------------------------------------------------


class Resume:
    """Called once, it lets the process that waits go on with ``value``. Later calls, and those
    after the end of the process, do nothing."""

    def __init__(self, go_on: Callable[[Any], None]) -> None:
        self._go_on = go_on
        self.awaited = True
        """Whether the process still waits for the call."""

    def __call__(self, value: Any = None) -> None:
        if self.awaited:
            self.awaited = False
            self._go_on(value)


@coroutine
def suspend(begin: Callable[[Resume], object]) -> Generator[Callable[[Resume], object], Any, Any]:
    """Call ``begin`` and wait until what it is given is called; return the value of that call."""
    return (yield begin)


class Process:
    """A coroutine that runs at once up to where it waits, and on from there when it is resumed.
    While it runs, it is in ``group``: those that are ended together."""

    def __init__(
        self, work: Coroutine[Any, Any, object], group: dict[Process, None] | None = None
    ) -> None:
        self._work = work
        self._group = {} if group is None else group
        self._group[self] = None
        self._resume = Resume(self._run)
        self._resume()

    def cancel(self) -> None:
        """End the process where it waits. A no-op if it is over."""
        self._resume.awaited = False
        self._work.close()
        self._group.pop(self, None)

    def _run(self, value: object) -> None:
        try:
            begin = self._work.send(value)
        except StopIteration:
            self._group.pop(self, None)
        else:
            self._resume = Resume(self._run)
            begin(self._resume)


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
