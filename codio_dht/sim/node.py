"""One active node: the real state of ``core``, driven by the virtual clock.

Puts a ``Network``, records and a responder together as ``node.assembly`` does, and runs lookups,
announcements and upkeep on them. Decides no rule of Kademlia. The lookup engine's settings are in
:meth:`SimNode.rules` and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from codio_dht import params
from codio_dht.core.addresses import PUBLIC_ONLY
from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key, key_of
from codio_dht.core.lookup import ClosestPeersLookup
from codio_dht.core.lookup_states import LookupRules, StopReason
from codio_dht.core.messages import FailureReason, FindNode, GetProviders, Request
from codio_dht.core.network import Network, NetworkPolicy
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_health import Outlook
from codio_dht.core.preimages import search_preimage
from codio_dht.core.responder import Responder
from codio_dht.core.targeted_lookups import ProvidersLookup
from codio_dht.sim.disk import KeyKeeper, RecordKeeper, VirtualDisk
from codio_dht.sim.exchange import Answer, DialMemory, Done, Exchange
from codio_dht.sim.population import Member
from codio_dht.sim.serving import Answering
from codio_dht.sim.walk import Walk, WalkReport
from codio_dht.sim.world import Respond, World


class SimNode:
    """See the module. Lives from its making until :meth:`stop`; ``disk`` outlives it."""

    def __init__(self, world: World, member: Member, disk: VirtualDisk) -> None:
        scenario = world.scenario
        links = scenario.links
        self.world = world
        self.member = member
        self.disk = disk
        self.dials = DialMemory(links.redial_refused_s, links.redial_silent_s)
        self.network = Network(
            member.peer,
            protocol=params.KAD_PROTOCOL,
            policy=NetworkPolicy(PUBLIC_ONLY, diverse=scenario.network.diverse),
            k=scenario.network.k,
            refresh_interval_s=scenario.run.refresh_interval_s,
        )
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
        self._walks: dict[Walk, None] = {}
        self.reached: dict[PeerId, int] = {}
        self.given: dict[PeerId, None] = {}
        """Peers that the scenario put into the table."""
        self.met: dict[PeerId, None] = {}
        """Peers that ever answered this node."""
        self.errands = 0
        """Requests of lookups, under way; those of lookups that are over included."""
        self.stopped = False
        self.stir: Callable[[], None] = _nothing
        """Called when something happened that upkeep may wait for."""

    # --- being a host -----------------------------------------------------------------------------

    def answer(self, asker: Member, request: Request, respond: Respond) -> None:
        """See :class:`~codio_dht.sim.world.Host`. Clients serve nothing."""
        if self.member.is_server and not self.stopped:
            self._answering.answer(asker, request, respond)

    def connected(self, other: Member) -> None:
        """A connection to ``other`` is open, and identify has told what it speaks."""
        protocols = (params.KAD_PROTOCOL,) if other.is_server else ()
        self.network.identified(other.peer, protocols, (other.addr,), self.now)
        self.stir()

    def disconnected(self, other: Member) -> None:
        """The connection to ``other`` is over."""
        self.network.gone(other.peer, self.now)

    # --- asking -----------------------------------------------------------------------------------

    @property
    def now(self) -> Monotonic:
        """The virtual clock."""
        return self.world.queue.now

    def addrs_of(self, peer: PeerId) -> Sequence[bytes]:
        """Where to dial ``peer``."""
        return self.network.book.addrs(peer, self.now)

    def ask(self, peer: PeerId, request: Request, deadline: Monotonic, done: Done) -> Exchange:
        """One request, begun; what it tells of the peer is remembered (``node.rpc``)."""
        began, dialled = self.now, not self.is_connected(peer)

        def report(answer: Answer) -> None:
            if self.stopped:
                return
            now, health = self.now, self.network.health
            if not isinstance(answer, FailureReason):
                self.met[peer] = None
                health.answered(peer, now - began, now, dialled=dialled)
            elif self.is_connected(peer) or self.addrs_of(peer):
                health.failed(peer, answer, now)
            done(answer)

        exchange = Exchange(self.world, self, peer, request, deadline, report)
        exchange.begin()
        return exchange

    def is_connected(self, peer: PeerId) -> bool:
        """Whether a connection to ``peer`` is open."""
        member = self.world.population.by_id(peer)
        return member is not None and self.world.connections.are_open(self.member, member)

    def is_reached(self, peer: PeerId) -> bool:
        """Whether ``peer`` gave a sign of life: a connection, or one coming up."""
        return peer in self.reached or self.is_connected(peer)

    # --- lookups ----------------------------------------------------------------------------------

    def rules(self, *, looks_beyond: bool = False) -> LookupRules:
        """How this node looks things up (``node.lookups`` has the same)."""
        return LookupRules(
            local=self.member.peer,
            outlook=self._outlook,
            shows_life=self.is_reached,
            looks_beyond=looks_beyond,
            k=self.network.k,
            alpha=params.ALPHA,
            beta=params.BETA,
        )

    def _outlook(self, peer: PeerId, now: Monotonic) -> Outlook:
        return self.network.health.outlook(peer, now, connected=self.is_connected(peer))

    def closest(self, preimage: bytes, done: Callable[[WalkReport], None]) -> None:
        """Look for the peers closest to ``preimage``."""
        target = key_of(preimage)
        seeds = self._seeds(target)
        machine = ClosestPeersLookup(target, seeds, self.rules(looks_beyond=True))
        self._walk(machine, target, seeds, FindNode(preimage), done)

    def providers(self, key: bytes, count: int, done: Callable[[WalkReport], None]) -> None:
        """Look for ``count`` providers of ``key`` on other nodes."""
        target = key_of(key)
        seeds = self._seeds(target)
        machine = ProvidersLookup(target, seeds, self.rules(), count=count)
        self._walk(machine, target, seeds, GetProviders(key), done)

    def _walk(
        self,
        machine: ClosestPeersLookup,
        target: Key,
        seeds: Sequence[PeerId],
        request: Request,
        done: Callable[[WalkReport], None],
    ) -> None:
        def finished(report: WalkReport) -> None:
            del self._walks[walk]
            self._conclude(machine, target, report)
            done(report)

        walk = Walk(
            self,
            machine,
            target=target,
            seeds=seeds,
            request=request,
            finished=finished,
        )
        self._walks[walk] = None
        walk.begin()

    def _conclude(self, machine: ClosestPeersLookup, target: Key, report: WalkReport) -> None:
        """What a lookup leaves behind in the table (``node.lookups``)."""
        now = self.now
        for peer in machine.useful_seeds():
            self.network.table.useful(peer, now)
        if report.done.reason is StopReason.COMPLETED:
            self.network.refresh.looked_up(target, now)
        self.world.touched.append(self.member)
        self.stir()

    def _seeds(self, key: Key) -> list[PeerId]:
        """The nearest of the table, and those met lately that the table has no room for."""
        network = self.network
        met = network.health.nearest_alive(key, network.k, self.now)
        return list(dict.fromkeys((*network.table.nearest(key, network.k), *met)))

    def preimage_near(self, point: Key, prefix: int) -> bytes | None:
        """Bytes whose key shares ``prefix`` leading bits with ``point``."""
        slices = search_preimage(point, prefix, self.world.rng)
        return next((each for each in slices if each is not None), None)

    # --- beginning and end ------------------------------------------------------------------------

    def fill(self, members: Sequence[Member]) -> None:
        """Put ``members`` into the table, as if they had just answered."""
        now = self.now
        for member in members:
            self.network.book.heard(member.peer, (member.addr,), now)
            self.network.table.add(member.peer, now)
            self.given[member.peer] = None

    def stop(self, *, graceful: bool) -> None:
        """The node ends. What is under way is dropped; if told to, records are saved first."""
        self.stopped = True
        self.stir = _nothing
        for walk in self._walks:
            walk.cancel()
        self._walks.clear()
        self.keeper.stop(graceful=graceful)


def _nothing() -> None:
    pass
