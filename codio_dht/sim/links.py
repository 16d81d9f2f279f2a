"""The links between members: delay, loss, partitions, and the open connections.

Decides how long a flight takes and whether it arrives; never what is said. Streams are reliable, so
a lost flight is one that is sent again, later. Connections are known to both ends at once; where
an end vanishes, the other believes in the connection until it would have noticed.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable
from math import exp
from random import Random
from typing import Final

from codio_dht.sim.population import Member, Population
from codio_dht.sim.scenario import LinksPart, Scenario

FIRST_RETRANSMISSION_S: Final = 0.2
"""A flight is sent again after this long or two round trips, doubled each time (RFC 6298: TCP's
floor in Linux)."""

MAX_RETRANSMISSIONS: Final = 8
"""Then it goes through: the time-outs above have long ended what waits for it."""

NOTICE_S: Final = 40.0
"""When a vanished peer's connection ends at the other side: the keep-alive ping and its time-out
(``KEEP_ALIVE_INTERVAL_S`` + ``KEEP_ALIVE_TIMEOUT_S`` of params)."""


class Links:
    """The links between members: how long each message takes, and whether it arrives."""

    def __init__(self, scenario: Scenario, population: Population, rng: Random) -> None:
        self._part: LinksPart = scenario.links
        self._seed = scenario.seed
        self._rng = rng
        self._partitions = [
            (part, _apart(scenario.seed, number, len(population.members), part.share))
            for number, part in enumerate(scenario.partition)
        ]

    # --- time -------------------------------------------------------------------------------------

    def one_way_s(self, a: Member, b: Member) -> float:
        """The bare delay between two members."""
        if self._part.model == "node" or not (a.is_server and b.is_server):
            return max(a.one_way_s, b.one_way_s)
        return max(self._of_pair(a.index, b.index), self._extra(a), self._extra(b))

    def flight_s(self, a: Member, b: Member) -> float:
        """How long the next message from ``a`` takes to ``b``."""
        delay_s = self.one_way_s(a, b)
        if self._part.jitter:
            delay_s *= 1.0 + self._part.jitter * self._rng.random()
        if self._part.loss:
            timeout_s = max(FIRST_RETRANSMISSION_S, 4 * delay_s)
            for _ in range(MAX_RETRANSMISSIONS):
                if self._rng.random() >= self._part.loss:
                    break
                delay_s += timeout_s
                timeout_s *= 2
        return delay_s

    def handshake_s(self, a: Member, b: Member) -> float:
        """From the start of a dial until a request may be sent."""
        trips = self._part.dial_round_trips
        whole = int(trips)
        taken_s = 2 * (trips - whole) * self.one_way_s(a, b)
        for _ in range(2 * whole):
            taken_s += self.flight_s(a, b)
        return taken_s

    def round_trips_s(self, a: Member, b: Member, trips: float) -> float:
        """The time of ``trips`` round trips without jitter and loss. Draws no random number."""
        return 2 * trips * self.one_way_s(a, b)

    def are_parted(self, a: Member, b: Member, now: float) -> bool:
        """Whether a partition separates ``a`` and ``b`` now. Clients belong to no side."""
        return any(
            part.start_s <= now < part.end_s and (a.index in apart) != (b.index in apart)
            for part, apart in self._partitions
        )

    def _extra(self, member: Member) -> float:
        """The additional delay of a slow member, also in the pair model."""
        return member.one_way_s if member.one_way_s > self._part.rtt_max_s / 2 else 0.0

    def _of_pair(self, a: int, b: int) -> float:
        """The one-way delay of a pair: half of its round trip, the same in both directions."""
        normal = Random(f"{self._seed}/pair/{min(a, b)}/{max(a, b)}").gauss()
        rtt_s = self._part.rtt_median_s * exp(self._part.rtt_sigma * normal)
        return min(rtt_s, self._part.rtt_max_s) / 2


def _apart(seed: int, number: int, members: int, share: float) -> frozenset[int]:
    """The members on one side of a partition. The set is only queried, never iterated."""
    rng = Random(f"{seed}/partition/{number}")
    return frozenset(index for index in range(members) if rng.random() < share)


Closed = Callable[[Member, Member], None]
"""The second member learns that its connection to the first one is over."""


class ConnectionTable:
    """Who is connected to whom. A pair has one connection, whoever dialled it."""

    def __init__(self, max_each: int, closed: Closed) -> None:
        self._max_each = max_each
        self._closed = closed
        self._of: defaultdict[Member, OrderedDict[Member, None]] = defaultdict(OrderedDict)

    def are_open(self, a: Member, b: Member) -> bool:
        """Whether the two members are connected."""
        return b in self._of[a]

    def open(self, a: Member, b: Member) -> None:
        """Connect two members. If one of them is full, its least recently used connection is
        closed."""
        for one, other in ((a, b), (b, a)):
            self._of[one][other] = None
            if len(self._of[one]) > self._max_each:
                self.close(one, next(iter(self._of[one])))

    def used(self, a: Member, b: Member) -> None:
        """Note that a message passed between two members."""
        self._of[a].move_to_end(b)
        self._of[b].move_to_end(a)

    def close(self, a: Member, b: Member) -> None:
        """End the connection, at both ends. A no-op if there is none."""
        if not self.are_open(a, b):
            return
        del self._of[a][b], self._of[b][a]
        self._closed(a, b)
        self._closed(b, a)

    def of(self, member: Member) -> list[Member]:
        """Who is connected to ``member``, the one used least recently first."""
        return list(self._of[member])
