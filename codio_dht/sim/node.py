"""The members that answer, and those that act: real state and machines of ``core``.

A :class:`StaticServer` only answers. It is made when it is first asked. Its table is a perfect
table and never changes. So a network of 100,000 nodes is affordable, because only the servers that
a lookup meets exist. All static servers share one address book, because in a static network every
address is known and right. A :class:`SimNode` runs all of ``core``: it connects a ``Network``,
storage, a responder and the makers of searches as ``node.assembly`` does, and runs searches and
deliveries on them. Decides no rule of Kademlia.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from codio_dht import params
from codio_dht.core.addresses import PUBLIC_ONLY
from codio_dht.core.clock import Monotonic
from codio_dht.core.delivery import (
    PROVIDE_RPC_TIMEOUT_S,
    Delivered,
    Delivery,
    Parcel,
    provider_parcel,
    value_parcel,
)
from codio_dht.core.messages import AddProvider, PeerEntry, PutValue, Record, Request
from codio_dht.core.network import Network, NetworkPolicy
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_book import PeerBook
from codio_dht.core.responder import MAX_LOADS_PER_REQUEST, Responder
from codio_dht.core.routing_table import RoutingTable
from codio_dht.core.search import Search, Searches
from codio_dht.core.steps import Load, Refuse
from codio_dht.core.validation import Check
from codio_dht.core.value_search import VALUE_QUORUM, ValueSearch
from codio_dht.sim.disk import SimulatedStorage, VirtualDisk
from codio_dht.sim.driver import Drive
from codio_dht.sim.events import Process, suspend
from codio_dht.sim.exchange import Caller
from codio_dht.sim.population import Member
from codio_dht.sim.report import SearchReport
from codio_dht.sim.world import Respond, World


class Server:
    """Asks a responder, and reads the disk or lets a validator judge if the responder needs it."""

    def __init__(
        self,
        world: World,
        member: Member,
        disk: VirtualDisk,
        table: RoutingTable,
        book: PeerBook,
    ) -> None:
        scenario = world.scenario
        self.world = world
        self.member = member
        self.table = table
        self.storage = SimulatedStorage(
            world.queue, member.peer, world.values.validators, disk, scenario.records.ttl_s
        )
        self._responder = Responder(
            member.peer,
            table=table,
            book=book,
            records=self.storage.records,
            rng=world.rng,
            address_filter=PUBLIC_ONLY,
            own_keys=self.storage.own_keys,
            values=self.storage.values,
            k=scenario.network.k,
        )
        self._responder.set_own_addrs((member.addr,))

    async def respond(self, asker: Member, request: Request, respond: Respond) -> None:
        """Call ``respond`` with the answer to ``request``."""
        for _ in range(MAX_LOADS_PER_REQUEST + 1):
            answer = self._responder.respond(asker.peer, request, self.world.queue.both)
            if not isinstance(answer, Load | Check):
                if isinstance(request, AddProvider | PutValue):
                    self.storage.changed()
                respond(answer)
                return
            await self.storage.prepare(answer)
        respond(Refuse("too many loads"))


class StaticServer(Server):
    """A member with a perfect table that never changes."""

    def __init__(self, world: World, member: Member, book: PeerBook) -> None:
        k, now = world.scenario.network.k, world.queue.now
        table = RoutingTable(member.peer.key, bucket_size=k)
        for other in world.population.table_of(member, k):
            table.add(other.peer, now)
            if not book.is_connected(other.peer):
                book.identified(other.peer, (other.addr,), now)
        super().__init__(world, member, VirtualDisk(), table, book)

    def answer(self, asker: Member, request: Request, respond: Respond) -> None:
        """Answer a request (:class:`~codio_dht.sim.world.Contact`)."""
        Process(self.respond(asker, request, respond))

    def connected(self, other: Member) -> None:
        """Do nothing, because the table is static."""

    def disconnected(self, other: Member) -> None:
        """Do nothing, because the table is static."""


class SimNode(Server):
    """One active node. It runs from its creation until :meth:`stop`. ``disk`` outlives it."""

    def __init__(self, world: World, member: Member, disk: VirtualDisk) -> None:
        self.network = Network(
            member.peer,
            protocol=params.KAD_PROTOCOL,
            policy=NetworkPolicy(PUBLIC_ONLY, diverse=world.scenario.network.diverse),
            k=world.scenario.network.k,
            refresh_interval_s=world.scenario.run.refresh_interval_s,
        )
        super().__init__(world, member, disk, self.network.table, self.network.book)
        self.caller = Caller(world, member, lambda peer: self.network.book.addrs(peer, self.now))
        self.searches = Searches(self.network, self.caller, world.rng)
        self.given: dict[PeerId, None] = {}
        """Peers that the scenario put into the table."""
        self.stopped = False
        self.notify_changed: Callable[[], None] = lambda: None
        """Called when something happened that upkeep may wait for."""

    @property
    def now(self) -> Monotonic:
        """The time of the virtual clock."""
        return self.world.queue.now

    # --- being met by others ----------------------------------------------------------------------

    def answer(self, asker: Member, request: Request, respond: Respond) -> None:
        """Answer a request (:class:`~codio_dht.sim.world.Contact`). Clients answer nothing."""
        if self.member.is_server:
            self.caller.start(self.respond(asker, request, respond))

    def connected(self, other: Member) -> None:
        """Note that a connection to ``other`` is open and that identify has told its protocols."""
        protocols = (params.KAD_PROTOCOL,) if other.is_server else ()
        self.network.identified(other.peer, protocols, (other.addr,), self.now)
        self.notify_changed()

    def disconnected(self, other: Member) -> None:
        """Note that the connection to ``other`` has ended."""
        self.network.gone(other.peer, self.now)

    # --- searches and deliveries, each in a process of the ``caller`` -----------------------------

    async def closest(self, preimage: bytes) -> SearchReport:
        """Search for the peers closest to ``preimage``."""
        return await self._search(self.searches.closest(preimage, self.now))

    async def providers(self, key: bytes, count: int) -> SearchReport:
        """Search for ``count`` providers of ``key``. The node first reads its own rows."""
        rows = await self.storage.provider_rows(key)
        local = [PeerEntry(row.provider, row.addrs) for row in rows]
        return await self._search(self.searches.providers(key, count, local, self.now))

    async def value(self, key: bytes) -> SearchReport:
        """Search for the best value of ``key``, hold it, and give it to the closest peers that do
        not have it. It is the last one that was found."""
        search = ValueSearch(
            self.searches,
            key,
            self.world.values.validators,
            quorum=VALUE_QUORUM,
            local=await self.storage.value(key),
            now=self.world.queue.both,
        )
        report = await self._search(search)
        if search.best.best is not None:
            record = Record(key, search.best.best)
            await self.storage.hold(record)
            deadline = Monotonic(self.now + PROVIDE_RPC_TIMEOUT_S)
            put = value_parcel(record).request
            for peer in search.outdated():
                self.caller.start(self.caller.request(peer, put, deadline))
        return report

    async def provide(self, key: bytes) -> Delivered:
        """Hand the record that this node provides ``key`` to the closest peers."""
        return await self._deliver(provider_parcel(key, self.member.entry))

    async def put(self, record: Record) -> Delivered:
        """Hold ``record``, and hand it to the closest peers."""
        await self.storage.hold(record)
        return await self._deliver(value_parcel(record))

    async def _deliver(self, parcel: Parcel) -> Delivered:
        delivery = Delivery(self.searches, parcel, self.now)
        end: Delivered = await suspend(lambda resume: Drive(self.caller, delivery, resume))
        return end

    async def _search(self, search: Search[Any]) -> SearchReport:
        drives: list[Drive] = []
        done = await suspend(lambda resume: drives.append(Drive(self.caller, search, resume)))
        self.notify_changed()
        return drives[0].report(search, done)

    # --- beginning and end ------------------------------------------------------------------------

    def fill(self, members: Sequence[Member]) -> None:
        """Put ``members`` into the table, as if they had just answered."""
        now = self.now
        for member in members:
            self.network.book.heard(member.peer, (member.addr,), now)
            self.network.table.add(member.peer, now)
            self.given[member.peer] = None

    def stop(self, *, graceful: bool) -> None:
        """Stop the node and drop its running work. If it is ``graceful``, records are saved
        first."""
        self.stopped = True
        self.notify_changed = lambda: None
        self.caller.stop()
        self.storage.stop(graceful=graceful)
