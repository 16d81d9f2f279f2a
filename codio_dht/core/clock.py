"""The two clocks, as types, so that one is never taken for the other."""

from __future__ import annotations

from typing import NamedTuple, NewType

Monotonic = NewType("Monotonic", float)
"""Seconds of a clock that never jumps: timeouts, deadlines, ages within this process."""

UnixTime = NewType("UnixTime", float)
"""Seconds since 1970-01-01 UTC: everything stored on disk or sent to a peer."""


class Now(NamedTuple):
    """One moment on both clocks, for what needs both (the responder)."""

    monotonic: Monotonic
    unix: UnixTime
