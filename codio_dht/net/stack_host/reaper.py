"""The one task that looks at every deadline of a host: handshakes, keep-alives, idle streams and
connections, identify, bounds over all connections together, and the machine's own addresses.

Nothing on the path of a request sets a timer; it leaves a time-stamp, and this task reads it. An
inbound handshake is looked at every ``REAP_INTERVAL_S``, an open connection in one of
``REAP_ROUNDS`` rounds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import trio
from trio.lowlevel import checkpoint

from codio_dht.errors import CapacityError
from codio_dht.logger import get_logger
from codio_dht.net.inbound_links import InboundLinks
from codio_dht.net.limits import Limits
from codio_dht.net.link import Link, now
from codio_dht.net.stack_host.connections import Connections
from codio_dht.net.stack_host.limits import (
    NETWORK_INTERVAL_S,
    OWN_ADDRESSES_INTERVAL_S,
    REAP_BATCH,
    REAP_INTERVAL_S,
    REAP_ROUNDS,
)

_log = get_logger(__name__)


class Reaper:
    """The task that looks at every deadline of a host."""

    def __init__(
        self,
        *,
        admission: InboundLinks,
        connections: Connections,
        limits: Limits,
        counters: Counter[str],
        look_at_own_addresses: Callable[[], object],
        look_at_network: Callable[[], None],
    ) -> None:
        self._admission = admission
        self._connections = connections
        self._limits = limits
        self._counters = counters
        self._look_at_own_addresses = look_at_own_addresses
        self._look_at_network = look_at_network

    async def run(self) -> None:
        """For ever. A bug is logged and counted, and the next round comes all the same."""
        rounds = 0
        while True:
            await trio.sleep(REAP_INTERVAL_S)
            try:
                await self._round(rounds)
            except Exception as error:  # noqa: BLE001 - a task's outermost edge
                self._counters["reaper_bugs"] += 1
                _log.error("reaper failed", exc_info=error)
            rounds += 1

    async def _round(self, rounds: int) -> None:
        for link in self._admission.pending:
            link.on_timeout(now())
        links = list(self._connections)
        for count, link in enumerate(links[rounds % REAP_ROUNDS :: REAP_ROUNDS], start=1):
            self._look_at(link)
            if count % REAP_BATCH == 0:
                await checkpoint()
        while self._connections.trim(now()):
            await checkpoint()
        self._shed(links, lambda link: link.held_bytes, self._limits.max_buffered_bytes, "bytes")
        self._shed(links, lambda link: link.stream_count, self._limits.max_streams, "streams")
        if rounds % int(OWN_ADDRESSES_INTERVAL_S / REAP_INTERVAL_S) == 0:
            self._look_at_own_addresses()
        if rounds % int(NETWORK_INTERVAL_S / REAP_INTERVAL_S) == 0:
            self._look_at_network()

    def _look_at(self, link: Link) -> None:
        moment = now()
        if link.question is not None and moment >= link.question.deadline:
            link.question.expire()
            link.flush()
        link.on_timeout(moment)
        if self._connections.is_idle(link, moment):
            self._counters["connections_idle"] += 1
            link.end()

    def _shed(self, links: list[Link], weight: Callable[[Link], int], most: int, what: str) -> None:
        """Close the connections that weigh most while all together weigh too much."""
        total = sum(map(weight, links))
        if total <= most:
            return
        for link in sorted(links, key=weight, reverse=True):
            if total <= most:
                return
            total -= weight(link)
            self._counters[f"connections_shed:{what}"] += 1
            link.end(CapacityError(f"too many {what} on all connections"))
