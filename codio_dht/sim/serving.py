"""Members that answer with the real responder.

A ``StaticServer`` is made when it is first asked. Its table is a perfect table and never changes.
So a network of 100,000 nodes is affordable, because only the servers that a lookup meets exist. All
static servers share one address book, because in a static network every address is known and right.
A server that holds records is kept. Of the others, the least recently asked one is dropped. If it
is asked again, it is made again, and is the same.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from codio_dht.core.addresses import PUBLIC_ONLY
from codio_dht.core.messages import Request
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_book import PeerBook
from codio_dht.core.responder import MAX_LOADS_PER_REQUEST, Responder
from codio_dht.core.routing_table import RoutingTable
from codio_dht.core.steps import Load, NoReply, Refuse
from codio_dht.core.validation import Check
from codio_dht.sim.disk import RecordKeeper, VirtualDisk
from codio_dht.sim.population import Member
from codio_dht.sim.world import Respond, World

MAX_KEPT_SERVERS: Final = 3_000
"""Static servers without records that exist at a time: some 60 KiB each."""

_NOBODY: Final = PeerId(bytes((0x00, 0x04)) + b"book")
"""Whose book the shared one is: nobody's."""


class Answering:
    """Asks a responder, and reads the disk if the responder needs it."""

    def __init__(self, world: World, responder: Responder, keeper: RecordKeeper) -> None:
        self._world = world
        self._responder = responder
        self.keeper = keeper

    def answer(self, asker: Member, request: Request, respond: Respond) -> None:
        """Answer a request (:class:`~codio_dht.sim.world.Contact`)."""
        self._try(asker, request, respond, MAX_LOADS_PER_REQUEST)

    def _try(self, asker: Member, request: Request, respond: Respond, loads: int) -> None:
        answer = self._responder.respond(asker.peer, request, self._world.queue.both)
        assert not isinstance(answer, Check), "simulated nodes have no applications"
        if not isinstance(answer, Load):
            if isinstance(answer, NoReply):
                self.keeper.stored()
            respond(answer)
        elif loads:
            self.keeper.load(answer, lambda: self._try(asker, request, respond, loads - 1))
        else:
            respond(Refuse("too many loads"))


class StaticServer(Answering):
    """A member with a perfect table that never changes. The real responder answers for it."""

    def __init__(self, world: World, member: Member, book: PeerBook) -> None:
        k = world.scenario.network.k
        self.member = member
        self.table = RoutingTable(member.peer.key, bucket_size=k)
        now = world.queue.now
        for other in world.population.table_of(member, k):
            self.table.add(other.peer, now)
            if not book.is_connected(other.peer):
                book.identified(other.peer, (other.addr,), now)
        keeper = RecordKeeper(world.queue, VirtualDisk(), world.scenario.records.ttl_s)
        responder = Responder(
            member.peer,
            table=self.table,
            book=book,
            records=keeper.records,
            rng=world.rng,
            address_filter=PUBLIC_ONLY,
            k=k,
        )
        responder.set_own_addrs((member.addr,))
        super().__init__(world, responder, keeper)

    def connected(self, other: Member) -> None:
        """Do nothing, because the table is static."""

    def disconnected(self, other: Member) -> None:
        """Do nothing, because the table is static."""


class StaticServers:
    """Makes static servers when they are needed, and drops the least recently asked ones."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._book = PeerBook(_NOBODY)
        self._servers: OrderedDict[int, StaticServer] = OrderedDict()

    def get(self, member: Member) -> StaticServer:
        """The server of ``member``."""
        server = self._servers.get(member.index)
        if server is None:
            server = self._servers[member.index] = StaticServer(self._world, member, self._book)
            if len(self._servers) > MAX_KEPT_SERVERS:
                self._forget_one()
        self._servers.move_to_end(member.index)
        return server

    def existing(self) -> list[StaticServer]:
        """Those that exist now."""
        return list(self._servers.values())

    def _forget_one(self) -> None:
        for index, server in self._servers.items():
            if not len(server.keeper.records):
                del self._servers[index]
                return
