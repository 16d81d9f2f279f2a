"""Load shedding: how hard the node presses the heavy origins when it is late.

Decides one number, the pressure, from how late the event loop is by its own work. While it is
later than ``TARGET_LAG_S`` the pressure doubles with each sample, and when it is in time again the
pressure falls slowly. Where the machine is busy with something else the loop is late too, but the
origins are not the cause: so the loop is never taken to be later than the time that it worked. The
ledger of origins divides the rate of CPU time by the pressure
(:attr:`codio_dht.core.origins.OriginLedger.pressure`). So the origins that use most are slowed down
or refused first, and those that use little are served at once.

Never reads a clock: a driver measures how late it is woken, and reports it.
"""

from __future__ import annotations

from typing import Final

TARGET_LAG_S: Final = 0.005
"""How late the event loop may be, in seconds: a few turns of connections (2 ms each)."""

SAMPLE_INTERVAL_S: Final = 0.1
"""How often the lag is measured, in seconds."""

MAX_PRESSURE: Final = 16.0
"""The most that the rates of CPU time are divided by: a /24 may still ask some 60 times a second,
which is more than an honest one does."""

_RISE: Final = 2.0
_FALL: Final = 0.9
_SMOOTHING: Final = 0.3
"""The weight of the newest sample in the lag that counts: one late wake-up is no overload."""


class Shedding:
    """How hard the node presses the origins that use most, given how late it is."""

    def __init__(self) -> None:
        self.lag_s = 0.0
        """How late the event loop is, in seconds, smoothed."""
        self.worst_lag_s = 0.0
        """The latest it was, in seconds, since the start."""
        self.pressure = 1.0
        self._own_lag_s = 0.0
        """As ``lag_s``, of its own work."""

    def sample(self, late_s: float, worked_s: float) -> float:
        """The event loop was woken ``late_s`` after it should have been, and used ``worked_s`` of
        processor time since the sample before; the pressure now."""
        late_s = max(late_s, 0.0)
        self.worst_lag_s = max(self.worst_lag_s, late_s)
        self.lag_s += _SMOOTHING * (late_s - self.lag_s)
        self._own_lag_s += _SMOOTHING * (min(late_s, worked_s) - self._own_lag_s)
        change = _RISE if self._own_lag_s > TARGET_LAG_S else _FALL
        self.pressure = min(max(self.pressure * change, 1.0), MAX_PRESSURE)
        return self.pressure
