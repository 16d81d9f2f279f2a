"""Watches how late the event loop is, and tells the ledger of origins how hard to press.

:mod:`codio_dht.core.shedding` decides. This task only measures, and logs who was at a limit: one
line an origin and ``REPORT_INTERVAL_S``, in a form that fail2ban can read (docs/hostile-peers.md).
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from time import thread_time
from typing import Final

import trio

from codio_dht.core.origins import Level, OriginLedger
from codio_dht.core.shedding import SAMPLE_INTERVAL_S, Shedding
from codio_dht.logger import get_logger

REPORT_INTERVAL_S: Final = 10.0
"""How often the origins that were at a limit are logged, in seconds."""

MAX_REPORTED: Final = 16
"""Origins logged at once: those that were at a limit most often."""

MIN_REPORTED_TIMES: Final = 10
"""An origin that was at a limit less often than this within ``REPORT_INTERVAL_S`` is not logged: an
honest one may be at one now and then."""

_log = get_logger(__name__)


class LoadWatch:
    """Measures how late the event loop is, and tells the ledger of origins. ``clock`` is the event
    loop's, ``worked`` the processor time of its thread so far, in seconds."""

    def __init__(
        self,
        origins: OriginLedger,
        clock: Callable[[], float],
        worked: Callable[[], float] = thread_time,
    ) -> None:
        self.shedding = Shedding()
        self._origins = origins
        self._clock = clock
        self._worked = worked
        self._report_at = 0.0

    async def run(self) -> None:
        """Measure, for ever."""
        self._report_at = self._clock() + REPORT_INTERVAL_S
        while True:
            due, worked = self._clock() + SAMPLE_INTERVAL_S, self._worked()
            await trio.sleep(SAMPLE_INTERVAL_S)
            moment = self._clock()
            self._origins.pressure = self.shedding.sample(moment - due, self._worked() - worked)
            if moment >= self._report_at:
                self._report_at = moment + REPORT_INTERVAL_S
                self.report()

    def report(self) -> None:
        """Log the origins that were at a limit since this was called last."""
        for refusals in self._origins.take_refused()[:MAX_REPORTED]:
            if refusals.times >= MIN_REPORTED_TIMES and refusals.level is not Level.GROUP:
                _log.warning(
                    "origin_at_limit",
                    ip=str(ip_address(refusals.ip)),
                    network=refusals.network,
                    level=refusals.level.name.lower(),
                    times=refusals.times,
                )
