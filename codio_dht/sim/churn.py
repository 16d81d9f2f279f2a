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

from collections.abc import Callable, Sequence
from math import exp, log
from random import Random
from typing import Final

from codio_dht.sim.events import Process
from codio_dht.sim.population import Member
from codio_dht.sim.scenario import ChurnPart
from codio_dht.sim.world import World

WARM_UP_CYCLES: Final = 100
"""So many median sessions and absences before the start the first ones begin: with IPFS's figures
two weeks, several of the longest sessions."""

MIN_STAY_S: Final = 1.0
"""No session or absence is shorter."""


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
        """Whether the member is online at the start, and until when."""
        part = self._part
        moment = -WARM_UP_CYCLES * (part.session_median_s + part.downtime_median_s)
        online = self.happens(0.5)
        while True:
            moment += self.draw(online=online)
            if moment > 0:
                return online, moment
            online = not online

    def happens(self, chance: float) -> bool:
        """Whether something of this ``chance`` happens."""
        return self._rng.random() < chance


def begin_churn(
    world: World,
    staying: Sequence[Member],
    *,
    leave: Callable[[Member, bool], None],
    come: Callable[[Member], None],
) -> None:
    """Set which members are online at the start, and schedule when each leaves and comes back.
    Members in ``staying`` never leave. ``leave`` is told whether a member leaves gracefully."""
    scenario, part, population = world.scenario, world.scenario.churn, world.population
    rng = Random(f"{scenario.seed}/churn")

    async def come_and_go(member: Member, sessions: Sessions, until: float) -> None:
        await world.queue.sleep(until)
        while True:
            if member.online:
                leave(member, sessions.happens(part.graceful))
                member.refuses_when_away = sessions.happens(part.refusing)
            else:
                come(member)
            await world.queue.sleep(sessions.draw(online=member.online))

    for member in population.members[: population.servers]:
        churns = rng.random() < part.share
        if not churns or member.character.is_dead or member in staying:
            continue
        sessions = Sessions(part, Random(f"{scenario.seed}/churn/{member.index}"))
        member.refuses_when_away = sessions.happens(part.refusing)
        member.online, until = sessions.steady()
        Process(come_and_go(member, sessions, until))
