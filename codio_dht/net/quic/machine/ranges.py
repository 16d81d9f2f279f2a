"""Sets of whole numbers as sorted ranges: received packets, lost data.

Decides nothing. Most sets here have one range or none; all operations cost a walk over the ranges,
whose number the owner bounds.
"""

from __future__ import annotations

from collections.abc import Iterator


class Ranges:
    """Disjoint ranges, each from its first number to behind its last, lowest first."""

    __slots__ = ("_starts", "_stops")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._stops, strict=True)

    def __contains__(self, number: int) -> bool:
        return any(start <= number < stop for start, stop in self)

    @property
    def first(self) -> tuple[int, int]:
        """The lowest range; there must be one."""
        return self._starts[0], self._stops[0]

    def descending(self) -> Iterator[tuple[int, int]]:
        """The ranges, highest first."""
        return zip(reversed(self._starts), reversed(self._stops), strict=True)

    def add(self, start: int, stop: int) -> None:
        """Add a range; those that it touches become one with it."""
        starts, stops = self._starts, self._stops
        if stops and start == stops[-1]:  # the next, as nearly always
            stops[-1] = stop
            return
        at = 0
        while at < len(stops) and stops[at] < start:
            at += 1
        end = at
        while end < len(starts) and starts[end] <= stop:
            start, stop = min(start, starts[end]), max(stop, stops[end])
            end += 1
        starts[at:end] = [start]
        stops[at:end] = [stop]

    def remove(self, start: int, stop: int) -> None:
        """Take a range out."""
        left = Ranges()
        for first, last in self:
            if first < start:
                left.add(first, min(last, start))
            if last > stop:
                left.add(max(first, stop), last)
        self._starts, self._stops = left._starts, left._stops

    def pop_first(self) -> tuple[int, int]:
        """Take the lowest range out; there must be one."""
        return self._starts.pop(0), self._stops.pop(0)

    def drop_below(self, number: int) -> None:
        """Forget everything below ``number``."""
        if self._stops and self._starts[0] < number:
            self.remove(0, number)
