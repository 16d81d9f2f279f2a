"""One active node: the real state and machines of ``core``, driven by the virtual clock.

Connects a ``Network``, records, a responder and the makers of searches as ``node.assembly`` does.
Runs searches and deliveries on them. Decides no rule of Kademlia.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from codio_dht import params
from codio_dht.core.addresses import PUBLIC_ONLY
from codio_dht.core.clock import Monotonic
from codio_dht.core.delivery import Delivered, Delivery, provider_parcel
from codio_dht.core.lookup_states import Done
from codio_dht.core.messages import PeerEntry, Request
from codio_dht.core.network import Network, NetworkPolicy
from codio_dht.core.peer import PeerId
from codio_dht.core.responder import Responder
from codio_dht.core.search import Found, Search, Searches
from codio_dht.sim.disk import KeyKeeper, RecordKeeper, VirtualDisk
from codio_dht.sim.driver import Drive, SearchReport
from codio_dht.sim.exchange import Caller
from codio_dht.sim.population import Member
from codio_dht.sim.serving import Answering
from codio_dht.sim.world import Respond, World


class SimNode:
    """One active node. It runs from its creation until :meth:`stop`. ``disk`` outlives it."""

    def __init__(self, world: World, member: Member, disk: VirtualDisk) -> None:
        scenario = world.scenario
        self.world = world
        self.member = member
        self.disk = disk
        self.network = Network(
            member.peer,
            protocol=params.KAD_PROTOCOL,
            policy=NetworkPolicy(PUBLIC_ONLY, diverse=scenario.network.diverse),
            k=scenario.network.k,
            refresh_interval_s=scenario.run.refresh_interval_s,
        )
        self.caller = Caller(world, member, lambda peer: self.network.book.addrs(peer, self.now))
        self.searches = Searches(self.network, self.caller, world.rng)
        self.own_keys = KeyKeeper(world.queue, interval_s=scenario.records.republish_interval_s)
        self.keeper = RecordKeeper(world.queue, disk, scenario.records.ttl_s, self.own_keys)
        responder = Responder(
            member.peer,
            table=self.network.table,
            book=self.network.book,
            records=self.keeper.records,
            rng=world.rng,
            address_filter=PUBLIC_ONLY,
            own_keys=self.own_keys.known,
            k=scenario.network.k,
        )
        responder.set_own_addrs((member.addr,))
        self._answering = Answering(world, responder, self.keeper)
        self._drives: dict[Drive, None] = {}
        self.given: dict[PeerId, None] = {}
        """Peers that the scenario put into the table."""
        self.stopped = False
        self.notify_changed: Callable[[], None] = _nothing
        """Called when something happened that upkeep may wait for."""

    @property
    def now(self) -> Monotonic:
        """The time of the virtual clock."""
        return self.world.queue.now

    # --- being met by others ----------------------------------------------------------------------

    def answer(self, asker: Member, request: Request, respond: Respond) -> None:
        """Answer a request (:class:`~codio_dht.sim.world.Contact`). Clients answer nothing."""
        if self.member.is_server and not self.stopped:
            self._answering.answer(asker, request, respond)

    def connected(self, other: Member) -> None:
        """Note that a connection to ``other`` is open and that identify has told its protocols."""
        protocols = (params.KAD_PROTOCOL,) if other.is_server else ()
        self.network.identified(other.peer, protocols, (other.addr,), self.now)
        self.notify_changed()

    def disconnected(self, other: Member) -> None:
        """Note that the connection to ``other`` has ended."""
        self.network.gone(other.peer, self.now)

    # --- searches and deliveries ------------------------------------------------------------------

    def closest(self, preimage: bytes, over: Callable[[SearchReport], None]) -> None:
        """Search for the peers closest to ``preimage``."""
        self._search(self.searches.closest(preimage, self.now), over)

    def providers(
        self,
        key: bytes,
        count: int,
        local: Sequence[PeerEntry],
        over: Callable[[SearchReport], None],
    ) -> None:
        """Search for ``count`` providers of ``key``. This node already knows ``local``."""
        self._search(self.searches.providers(key, count, local, self.now), over)

    def provide(self, key: bytes, over: Callable[[Delivered], None]) -> None:
        """Hand the record that this node provides ``key`` to the closest peers."""
        parcel = provider_parcel(key, PeerEntry(self.member.peer, (self.member.addr,)))

        def ended(end: Done | Delivered) -> None:
            assert isinstance(end, Delivered)
            del self._drives[drive]
            over(end)

        drive = Drive(self.caller, Delivery(self.searches, parcel, self.now), ended)
        self._drives[drive] = None

    def _search(self, search: Search[Found], over: Callable[[SearchReport], None]) -> None:
        def ended(end: Done | Delivered) -> None:
            assert isinstance(end, Done)
            del self._drives[drive]
            self.notify_changed()
            over(drive.report(search, end))

        drive = Drive(self.caller, search, ended)
        self._drives[drive] = None

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
        self.stopped = self.caller.stopped = True
        self.notify_changed = _nothing
        for drive in self._drives:
            drive.cancel()
        self._drives.clear()
        self.keeper.stop(graceful=graceful)


def _nothing() -> None:
    pass
