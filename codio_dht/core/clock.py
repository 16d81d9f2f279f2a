"""The two clocks, as types, so that one is never taken for the other."""

from __future__ import annotations

from typing import Final, NamedTuple, NewType

Monotonic = NewType("Monotonic", float)
"""Seconds of a clock that never jumps: timeouts, deadlines, ages within this process."""

UnixTime = NewType("UnixTime", float)
"""Seconds since 1970-01-01 UTC: everything stored on disk or sent to a peer."""


CLOCK_TOLERANCE_S: Final = 3_600.0
"""A record that claims to be from further in the future than this, in seconds, was taken while the
clock was ahead: its age is unknown, so that it is neither told nor kept. A clock that is set back
by less takes no record away; a record may then live for that much longer."""


class Now(NamedTuple):
    """One moment on both clocks, for what needs both (the responder)."""

    monotonic: Monotonic
    unix: UnixTime
