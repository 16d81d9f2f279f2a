"""Reads the two clocks of a node. Tests bring clocks of their own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import trio

from codio_dht.core.clock import Monotonic, Now, UnixTime


@dataclass(frozen=True, slots=True)
class Clock:
    """The monotonic clock is trio's own, so that deadlines and autojump agree with it."""

    read_unix: Callable[[], float] = time.time

    def monotonic(self) -> Monotonic:
        return Monotonic(trio.current_time())

    def unix(self) -> UnixTime:
        return UnixTime(self.read_unix())

    def now(self) -> Now:
        return Now(self.monotonic(), self.unix())
