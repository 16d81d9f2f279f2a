"""What all members share: clock, links, wire format, connections, and contacts.

Decides nothing. :mod:`codio_dht.sim.exchange` moves requests through it, and
:mod:`codio_dht.sim.simulation` makes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Final, Protocol

from codio_dht.core.keyspace import key_of
from codio_dht.core.messages import Reply, Request
from codio_dht.core.steps import NoReply, Refuse
from codio_dht.sim.behaviours import Liars
from codio_dht.sim.events import EventQueue, Trace
from codio_dht.sim.links import ConnectionTable, Links
from codio_dht.sim.population import Member, Population
from codio_dht.sim.scenario import Scenario
from codio_dht.wire.codec import decode_reply, decode_request, encode_reply, encode_request
from codio_dht.wire.framing import FrameReader

Respond = Callable[[Reply | NoReply | Refuse], None]

IDENTIFY_S: Final = 0.001
"""What identify takes beyond its round trip, seconds: the answer to a request that left with the
dial's last flight is there first."""


class Contact(Protocol):
    """The part of a member that other members can reach."""

    def answer(self, asker: Member, request: Request, respond: Respond) -> None:
        """Call ``respond`` with the answer now, later or never."""
        ...

    def connected(self, other: Member) -> None:
        """Note that a connection to ``other`` is open and identified."""
        ...

    def disconnected(self, other: Member) -> None:
        """Note that the connection to ``other`` has ended."""
        ...


class WirePath:
    """Messages between members pass the real encoder, framing and decoder of ``wire``; where a
    scenario asks for it (very large networks) only one in ``one_in``, the others as values."""

    def __init__(self, one_in: int) -> None:
        self._one_in = one_in
        self.messages = 0
        """Messages sent so far."""
        self.encoded = 0
        """Those that were encoded."""
        self.encoded_bytes = 0
        """What they took, length prefixes included."""

    @property
    def estimated_bytes(self) -> int:
        """The size of all messages, if those that were not encoded had the average size."""
        return self.encoded_bytes * self.messages // self.encoded if self.encoded else 0

    def request(self, request: Request) -> Request:
        """``request`` as the other end reads it."""
        if not self._is_due():
            return request
        return decode_request(self._carry(encode_request(request)))

    def reply(self, reply: Reply) -> Reply:
        """``reply`` as the asker reads it.

        Raises:
            RemoteError: it is too large to be sent.
        """
        if not self._is_due():
            return reply
        return decode_reply(self._carry(encode_reply(reply)))

    def _is_due(self) -> bool:
        self.messages += 1
        return self.messages % self._one_in == 0

    def _carry(self, frame: bytes) -> bytes:
        self.encoded += 1
        self.encoded_bytes += len(frame)
        reader = FrameReader()
        reader.feed(frame)
        payload = reader.next_frame()
        assert payload is not None, "a frame that was written whole is read whole"
        return payload


class World:
    """What all members share. The simulation, which makes the nodes, sets ``contact_of``."""

    def __init__(self, scenario: Scenario, trace: Trace) -> None:
        self.scenario = scenario
        self.trace = trace
        self.queue = EventQueue()
        self.rng = Random(f"{scenario.seed}/world")
        """The one generator that events draw from, in the order in which they happen."""
        self.population = Population(scenario)
        self.links = Links(scenario, self.population, self.rng)
        self.connections = ConnectionTable(
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
        self.contact_of: Callable[[Member], Contact | None] = lambda _: None

    def connect(self, a: Member, b: Member) -> None:
        """Connect ``a``, which dialled, to ``b``. Both learn of it after identify, one round trip
        later."""
        self.connections.open(a, b)
        self.trace.note(self.queue.now, "connected", a.index, b.index)
        told_after_s = 2 * self.links.one_way_s(a, b) + IDENTIFY_S
        self.queue.after(told_after_s, lambda: self._identified(a, b))

    def _identified(self, a: Member, b: Member) -> None:
        for one, other in ((a, b), (b, a)):
            contact = self.contact_of(one)
            if contact is not None and self.connections.are_open(a, b):
                self.touched.append(one)
                contact.connected(other)

    def ask(self, member: Member, asker: Member, request: Request, respond: Respond) -> None:
        """Let ``member`` answer the arrived ``request``, honestly or with a lie."""
        self.touched.append(member)
        lie = self.liars.reply(member, request) if member.character.lies else None
        if lie is not None:
            respond(lie)
        elif (contact := self.contact_of(member)) is not None:
            contact.answer(asker, request, respond)

    def _disconnected(self, gone: Member, left: Member) -> None:
        contact = self.contact_of(left)
        if contact is not None:
            self.touched.append(left)
            contact.disconnected(gone)
