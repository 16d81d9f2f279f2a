"""Churn: when members leave and come back.

Decides, from the scenario's distributions alone, each member's sessions and absences; the
simulation starts and stops the nodes. Sessions begin long before the simulation does, so that it
starts in the steady state: whoever is there at the beginning is more likely to be in a long session
than in a short one, as in a real network (Stutzbach and Rejaie, IMC 2006).

Published session lengths: IPFS 87.6 % under 8 h and 2.5 % over 24 h (Trautwein et al., SIGCOMM
2022), which a log-normal distribution with median 1.65 h and sigma 1.365 meets (the same paper's
medians by country are shorter, from 24 min: no log-normal meets all three); BitTorrent Weibull with
shape 0.34 to 0.59 (Stutzbach and Rejaie), KAD Weibull too (Steiner et al., ToN 2009).
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log
from random import Random
from typing import Final

from codio_dht.sim.events import EventQueue
from codio_dht.sim.population import Member, Population
from codio_dht.sim.scenario import ChurnPart, Scenario

WARM_UP_CYCLES: Final = 100
"""So many median sessions and absences before the start the first ones begin: with IPFS's figures
two weeks, several of the longest sessions."""

MIN_STAY_S: Final = 1.0
"""No session or absence is shorter."""

Leave = Callable[[Member, bool], None]
"""A member leaves now, gracefully or not."""


class Sessions:
    """The alternating sessions and absences of one member."""

    def __init__(self, part: ChurnPart, rng: Random) -> None:
        self._part = part
        self._rng = rng

    def draw(self, *, online: bool) -> float:
        """The length of the next session, or absence, seconds."""
        part, rng = self._part, self._rng
        if not online:
            length_s = part.downtime_median_s * exp(part.downtime_sigma * rng.gauss())
        elif part.session == "lognormal":
            length_s = part.session_median_s * exp(part.session_shape * rng.gauss())
        else:
            scale_s = part.session_median_s / log(2.0) ** (1.0 / part.session_shape)
            length_s = rng.weibullvariate(scale_s, part.session_shape)
        return max(MIN_STAY_S, length_s)

    def steady(self) -> tuple[bool, float]:
        """Whether the member is there at the start, and until when."""
        part = self._part
        moment = -WARM_UP_CYCLES * (part.session_median_s + part.downtime_median_s)
        online = self._rng.random() < 0.5
        while True:
            moment += self.draw(online=online)
            if moment > 0:
                return online, moment
            online = not online

    def leaves_gracefully(self) -> bool:
        """How the session ends."""
        return self._rng.random() < self._part.graceful

    def refuses_when_away(self) -> bool:
        """Whether the member's machine refuses dials in its absence."""
        return self._rng.random() < self._part.refusing


class Churn:
    """Plans everybody's comings and goings. ``staying`` never leave."""

    def __init__(
        self,
        scenario: Scenario,
        queue: EventQueue,
        population: Population,
        *,
        staying: list[Member],
        leave: Leave,
        come: Callable[[Member], None],
    ) -> None:
        self._scenario = scenario
        self._queue = queue
        self._population = population
        self._staying = {member.index: None for member in staying}
        self._leave = leave
        self._come = come
        self._sessions: dict[int, Sessions] = {}
        self.leavings = 0
        """Sessions that ended."""

    def begin(self) -> None:
        """Set who is there at the start, and plan what follows."""
        rng = Random(f"{self._scenario.seed}/churn")
        for member in self._population.members[: self._population.servers]:
            churns = rng.random() < self._scenario.churn.share
            if not churns or member.character.is_dead or member.index in self._staying:
                continue
            own = Random(f"{self._scenario.seed}/churn/{member.index}")
            sessions = self._sessions[member.index] = Sessions(self._scenario.churn, own)
            member.refuses_when_away = sessions.refuses_when_away()
            member.online, until = sessions.steady()
            self._plan(member, until)

    def churns(self, member: Member) -> bool:
        """Whether ``member`` is one of those that come and go."""
        return member.index in self._sessions

    def _plan(self, member: Member, moment: float) -> None:
        def change() -> None:
            sessions = self._sessions[member.index]
            if member.online:
                self.leavings += 1
                self._leave(member, sessions.leaves_gracefully())
                member.refuses_when_away = sessions.refuses_when_away()
            else:
                self._come(member)
            self._plan(member, self._queue.now + sessions.draw(online=member.online))

        self._queue.at(moment, change)
