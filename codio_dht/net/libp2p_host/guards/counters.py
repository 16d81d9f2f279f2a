"""Counters that the guards of one host share: what was caught, dropped or refused, by name."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Counts by a short fixed name; the names are the guards' own, never a peer's."""

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, number: int = 1) -> None:
        """Count ``number`` more of ``name``."""
        self.counts[name] += number

    def as_dict(self) -> dict[str, int]:
        """A copy, sorted by name."""
        return dict(sorted(self.counts.items()))
