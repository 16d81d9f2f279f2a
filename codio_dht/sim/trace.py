"""What happened, line by line, as one digest: two runs are the same if their digests are.

A line has the moment, what happened, and numbers of nodes; never an object's address, a hash or
anything else that differs between processes. The lines themselves are kept only on request.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

Sink = Callable[[str], object]


class Trace:
    """See the module. ``sink`` is given every line."""

    def __init__(self, sink: Sink | None = None) -> None:
        self._hash = sha256()
        self._sink = sink
        self.lines = 0
        """Lines so far."""

    def note(self, moment: float, what: str, *numbers: float) -> None:
        """``what`` happened at ``moment``."""
        line = f"{moment!r} {what} {' '.join(map(repr, numbers))}\n"
        self._hash.update(line.encode("ascii"))
        self.lines += 1
        if self._sink is not None:
            self._sink(line)

    def digest(self) -> str:
        """SHA-256 of all lines, as hex."""
        return self._hash.hexdigest()
