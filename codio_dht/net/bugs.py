"""Faults of this program that show while peers are served: all are counted, few are logged.

Decides which of them get a log line. A stranger may be able to cause a fault again and again, and a
log with a traceback for each would fill a disk. So a minute has ``BUG_LINES_PER_MINUTE`` lines; the
first of the next minute says how many were left out.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from codio_dht.core.clock import Monotonic
from codio_dht.logger import get_logger

BUG_LINES_PER_MINUTE: Final = 6
"""Faults logged in a minute, of all kinds together; more are only counted."""

_MINUTE_S: Final = 60.0

_log = get_logger(__name__)


class BugLog:
    """The faults of one host. ``connection_bugs`` of its counters is their number."""

    __slots__ = ("_counters", "_left", "_omitted", "_until")

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters
        self._until = float("-inf")
        self._left = 0
        self._omitted = 0

    def report(self, event: str, error: Exception, moment: Monotonic) -> None:
        """Count a fault, and log it with its traceback if the minute has a line left."""
        self._counters["connection_bugs"] += 1
        if moment >= self._until:
            self._until = moment + _MINUTE_S
            self._left = BUG_LINES_PER_MINUTE
        if not self._left:
            self._omitted += 1
            return
        self._left -= 1
        omitted, self._omitted = self._omitted, 0
        if omitted:
            _log.error(event, exc_info=error, omitted=omitted)
        else:
            _log.error(event, exc_info=error)
