"""A bounded shield, for short work that must be finished also when it is cancelled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio


@contextmanager
def shielded(seconds: float) -> Iterator[trio.CancelScope]:
    """The block is not cancelled from outside, and gives up after ``seconds``."""
    with trio.move_on_after(seconds) as scope:
        scope.shield = True
        yield scope
