"""What all members share: the clock, the ways, who is connected, who answers for whom.

Decides nothing of its own; :mod:`codio_dht.sim.exchange` moves requests through it, and
:mod:`codio_dht.sim.simulation` puts it together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Protocol

from codio_dht.core.keyspace import key_of
from codio_dht.core.messages import Reply, Request
from codio_dht.core.steps import NoReply, Refuse
from codio_dht.sim.behaviours import Liars
from codio_dht.sim.events import EventQueue
from codio_dht.sim.links import Connections, Links
from codio_dht.sim.population import Member, Population
from codio_dht.sim.scenario import Scenario
from codio_dht.sim.trace import Trace
from codio_dht.sim.wire_path import WirePath

Respond = Callable[[Reply | NoReply | Refuse], None]


class Listener(Protocol):
    """The part of a member that others meet."""

    def answer(self, asker: Member, request: Request, respond: Respond) -> None:
        """Call ``respond`` with the answer, now or later, or never."""
        ...

    def connected(self, other: Member) -> None:
        """A connection to ``other`` is open, and it said what it is."""
        ...

    def disconnected(self, other: Member) -> None:
        """The connection to ``other`` is over."""
        ...


class World:
    """See the module. ``listener_of`` is set by the simulation, which makes the nodes."""

    def __init__(self, scenario: Scenario, trace: Trace) -> None:
        self.scenario = scenario
        self.trace = trace
        self.queue = EventQueue()
        self.rng = Random(f"{scenario.seed}/world")
        """The one generator that events draw from, in the order in which they happen."""
        self.population = Population(scenario)
        self.links = Links(scenario, self.population, self.rng)
        self.connections = Connections(
            self.population, scenario.links.max_connections, self._disconnected
        )
        self.liars = Liars(
            self.population,
            key_of(scenario.attack.preimage.encode()),
            scenario.network.k,
            scenario.seed,
        )
        self.wire = WirePath(scenario.run.encode_one_in)
        self.counters: Counter[str] = Counter()
        self.touched: list[Member] = []
        """Whose state the event that just happened may have changed."""
        self.listener_of: Callable[[Member], Listener | None] = lambda _: None

    def connect(self, a: Member, b: Member) -> None:
        """``a`` dialled ``b`` and got through: both are told."""
        self.connections.open(a, b)
        self.trace.note(self.queue.now, "connected", a.index, b.index)
        for one, other in ((a, b), (b, a)):
            listener = self.listener_of(one)
            if listener is not None and self.connections.are_open(a, b):
                self.touched.append(one)
                listener.connected(other)

    def ask(self, member: Member, asker: Member, request: Request, respond: Respond) -> None:
        """``request`` has arrived: let ``member`` answer it, by a lie or as it should."""
        self.touched.append(member)
        lie = self.liars.reply(member, request) if member.character.lies else None
        if lie is not None:
            respond(lie)
        elif (listener := self.listener_of(member)) is not None:
            listener.answer(asker, request, respond)

    def _disconnected(self, gone: Member, left: Member) -> None:
        listener = self.listener_of(left)
        if listener is not None:
            self.touched.append(left)
            listener.disconnected(gone)
