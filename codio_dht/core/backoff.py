"""How long something that failed is left alone: the one back-off of this package.

Decides the delay after the n-th failure in a row. It begins at ``initial_s``, grows by ``factor``
with each further failure, and never passes ``ceiling_s``. A success starts over. :class:`Backoff`
only computes the delay; :class:`BackoffMemory` also remembers, for many keys and within a bound,
how often each failed and until when it is left alone.

Must never: read a clock or draw randomness of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from codio_dht.core.clock import Monotonic
from codio_dht.core.rng import Rng

_MAX_EXPONENT: Final = 64
"""Failures past this many change nothing more: every ceiling is reached long before."""

_T = TypeVar("_T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Backoff:
    """The delays of one kind of failure."""

    initial_s: float
    """The delay after the first failure, seconds."""
    ceiling_s: float
    """The longest delay, seconds, before ``jitter`` is applied."""
    factor: float = 2.0
    """What each further failure in a row multiplies the delay by."""
    jitter: float = 0.0
    """The share of the delay by which ``rng`` may lengthen or shorten it."""

    def delay_s(self, failures: int, rng: Rng | None = None) -> float:
        """The delay after ``failures`` failures in a row (1 or more), in seconds.

        With an ``rng`` it is spread by ``jitter``, so that nodes that failed together do not all
        come back together. Without one it is exact.
        """
        exponent = min(failures - 1, _MAX_EXPONENT)
        delay_s = min(self.initial_s * self.factor**exponent, self.ceiling_s)
        if rng is not None:
            delay_s *= 1 + self.jitter * (2 * rng.random() - 1)
        return delay_s


@dataclass(frozen=True, slots=True)
class _Failed:
    """A key that failed: how often in a row, and until when it is left alone."""

    times: int
    until: Monotonic


class BackoffMemory(Generic[_T]):
    """Which keys failed lately, and until when each is left alone.

    Bound: ``capacity`` keys; the one that failed longest ago is forgotten when it is full, and may
    then be tried as if it had never failed.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._failed: OrderedDict[_T, _Failed] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failed)

    def is_blocked(self, key: _T, now: Monotonic) -> bool:
        """Whether ``key`` is to be left alone now."""
        return now < self.blocked_until(key)

    def blocked_until(self, key: _T) -> Monotonic:
        """When ``key`` may be tried again; a moment in the past if it may be tried now."""
        failed = self._failed.get(key)
        return Monotonic(0.0) if failed is None else failed.until

    def failed(self, key: _T, backoff: Backoff, now: Monotonic) -> None:
        """Record a failure of ``key``: leave it alone for as long as ``backoff`` says."""
        before = self._failed.pop(key, None)
        times = 1 if before is None else before.times + 1
        self._failed[key] = _Failed(times, Monotonic(now + backoff.delay_s(times)))
        if len(self._failed) > self._capacity:
            self._failed.popitem(last=False)

    def succeeded(self, key: _T) -> None:
        """Forget every failure of ``key``; the next one counts as its first."""
        self._failed.pop(key, None)

    def clear(self) -> None:
        """Forget every failure of every key."""
        self._failed.clear()
