"""What all members share: clock, links, wire format, connections, and contacts.

Decides nothing. :mod:`codio_dht.sim.exchange` moves requests through it, and
:mod:`codio_dht.sim.hosts` makes those that answer them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Final, Protocol

from codio_dht.core.messages import PutValue, Record, Reply, Request
from codio_dht.formats.varint import encode_varint
from codio_dht.params import MAX_FRAME_BYTES
from codio_dht.sim.behaviours import Answered, Liars
from codio_dht.sim.events import EventQueue, Trace
from codio_dht.sim.links import ConnectionTable, Links
from codio_dht.sim.population import Character, Member, Population
from codio_dht.sim.scenario import Scenario
from codio_dht.sim.values import SimulatedValues
from codio_dht.wire.codec import decode_reply, decode_request, encode_reply, encode_request
from codio_dht.wire.framing import FrameReader

Respond = Callable[[Answered], None]

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
        """``request`` as the other end reads it.

        Raises:
            RemoteError: it is larger than a frame may be.
        """
        record = request.record if isinstance(request, PutValue) else None
        is_due = self._is_due(record)
        return decode_request(self._carry(encode_request(request))) if is_due else request

    def reply(self, reply: Reply) -> Reply:
        """``reply`` as the asker reads it.

        Raises:
            RemoteError: it is larger than a frame may be.
        """
        is_due = self._is_due(reply.record)
        return decode_reply(self._carry(encode_reply(reply))) if is_due else reply

    def _is_due(self, record: Record | None) -> bool:
        """Count a message; whether it is to be encoded. If no frame can hold its ``record``, which
        only a hostile peer sends, the reader refuses its length."""
        self.messages += 1
        if record is not None and len(record.value) > MAX_FRAME_BYTES:
            self._carry(encode_varint(len(record.value)))
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
    """What all members share. The hosts, which make the nodes, set ``contact_of``."""

    def __init__(self, scenario: Scenario, trace: Trace) -> None:
        self.scenario = scenario
        self.trace = trace
        self.queue = EventQueue()
        self.rng = Random(f"{scenario.seed}/world")
        """The one generator that events draw from, in the order in which they happen."""
        self.population = Population(scenario)
        self.links = Links(scenario, self.population, self.rng)
        self.connections = ConnectionTable(scenario.links.max_connections, self._disconnected)
        self.values = SimulatedValues(scenario.values.keys, scenario.seed)
        self._liars = Liars(self.population, self.values, scenario.network.k, scenario.seed)
        self.wire = WirePath(scenario.run.encode_one_in)
        self.counters: Counter[str] = Counter()
        self.touched: list[Member] = []
        """Whose state the event that just happened may have changed."""
        self.contact_of: Callable[[Member], Contact | None] = lambda _: None

    def note(self, what: str, *numbers: float) -> None:
        """Note in the trace that ``what`` happens now."""
        self.trace.note(self.queue.now, what, *numbers)

    def connect(self, a: Member, b: Member) -> None:
        """Connect ``a``, which dialled, to ``b``. Both learn of it after identify, one round trip
        later."""
        self.connections.open(a, b)
        self.note("connected", a.index, b.index)
        told_after_s = 2 * self.links.one_way_s(a, b) + IDENTIFY_S
        self.queue.after(told_after_s, lambda: self._identified(a, b))

    def ask(self, member: Member, asker: Member, request: Request, respond: Respond) -> None:
        """Let ``member`` answer the arrived ``request``, honestly or with a lie."""
        self.touched.append(member)
        lie = self._liars.reply(member, request) if member.character.lies else None
        contact = self.contact_of(member)
        if lie is not None:
            respond(lie)
        elif contact is not None:
            forge = partial(self._liars.forge, request)
            is_forging = member.character is Character.FORGING
            contact.answer(asker, request, (lambda a: respond(forge(a))) if is_forging else respond)

    def _identified(self, a: Member, b: Member) -> None:
        for one, other in ((a, b), (b, a)):
            if self.connections.are_open(a, b) and (contact := self.contact_of(one)):
                self.touched.append(one)
                contact.connected(other)

    def _disconnected(self, gone: Member, left: Member) -> None:
        contact = self.contact_of(left)
        if contact is not None:
            self.touched.append(left)
            contact.disconnected(gone)
