"""One network of a node: all that belongs to one protocol id.

Decides how the parts of a network act together: what a host's event means for table, records and
mode, what is remembered over a restart, how a result looks to a caller. Each part decides its own
matters; Kademlia's rules are in ``core``.

A node runs one or several networks on one host. They share host, store and clock
(:mod:`codio_dht.node.shared`) and nothing else: a peer of one network is unknown to the others
until they meet it too. Each bound of the parts holds for one network.

Life::

    made --opened()--> listens to the host's events, serves nothing
         --start()---> background work runs, the mode is followed
         --stop()----> its protocol is answered no more
         --leaving opened()--> streams closed, table saved, no peer protected
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import trio
from multiaddr import Multiaddr

from codio_dht.config import DHTConfig
from codio_dht.core.clock import Monotonic
from codio_dht.core.join_round import MAX_BOOTSTRAP_DIALS
from codio_dht.core.lookup_states import ClosestPeer
from codio_dht.core.messages import PeerEntry
from codio_dht.core.mode import Mode
from codio_dht.core.network import Network, NetworkPolicy
from codio_dht.core.peer import PeerId, PeerInfo
from codio_dht.errors import DeadlineError, DialError, NetworkError, NoPeersError, StorageError
from codio_dht.logger import get_logger
from codio_dht.net.host import AddrsChanged, HostEvent, PeerGone, PeerIdentified
from codio_dht.node import background
from codio_dht.node.arguments import binary, multiaddrs
from codio_dht.node.deliveries import Deliveries
from codio_dht.node.lookups import Lookups
from codio_dht.node.protection import TableProtection
from codio_dht.node.results import DHTStats, FoundPeer
from codio_dht.node.rpc import RpcClient
from codio_dht.node.server import KadServer
from codio_dht.node.serving import Serving
from codio_dht.node.shared import Shared
from codio_dht.node.upkeep import UpkeepDriver
from codio_dht.store.interface import SnapshotPeer

RECONCILE_INTERVAL_S: Final = 300.0
"""How often the peers believed to be connected are compared with the host's connections, seconds.
The host drops events if too many come at once."""

SNAPSHOT_INTERVAL_S: Final = 300.0
"""How often the routing table is saved to the disk, seconds."""

log = get_logger(__name__)


@dataclass(slots=True)
class NetworkRuntime:
    """All that belongs to one protocol id of a node. :mod:`codio_dht.node.assembly` makes the
    parts."""

    shared: Shared
    config: DHTConfig
    network: Network
    server: KadServer
    serving: Serving
    rpc: RpcClient
    lookups: Lookups
    upkeep: UpkeepDriver
    deliveries: Deliveries
    protection: TableProtection
    keeps_snapshot: bool
    """Whether the store's snapshot is of this network's table: it holds one table."""
    provided_at: tuple[bytes, ...] = ()
    """The addresses that the provider records of this node name, if not its own."""

    _events: AsyncIterator[HostEvent] | None = field(default=None, init=False)
    _remembered: list[PeerInfo] = field(default_factory=list, init=False)

    # --- life -------------------------------------------------------------------------------------

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """The network may be started inside the block. At its end the background work must be over.

        Raises:
            StorageError: the snapshot of the routing table could not be read.
        """
        async with AsyncExitStack() as stack:
            await self._load_snapshot()
            self._events = await stack.enter_async_context(self.shared.host.events())
            stack.callback(self.protection.release)
            stack.push_async_callback(self._save_snapshot)
            stack.push_async_callback(self.rpc.aclose)
            yield

    def start(self, nursery: trio.Nursery) -> None:
        """Start the background work in ``nursery``, and answer the protocol if that is the mode."""
        background.start_all(nursery, self._background_work(), self.shared.failures)
        self.serving.start()
        self.upkeep.remember(self._remembered)

    def stop(self) -> None:
        """Answer the protocol no more."""
        self.serving.stop()

    def _background_work(self) -> dict[str, background.Work]:
        work: dict[str, background.Work] = {
            "events": self._follow_events,
            "upkeep": lambda: self.upkeep.run(self.lookups),
            "reconcile": self._run_reconciling,
        }
        if self.keeps_snapshot:
            work["snapshot"] = self._run_snapshots
        return work

    # --- public or not ----------------------------------------------------------------------------

    @property
    def public(self) -> bool:
        """Whether this is a public network: one that joins, or listens on, the internet."""
        return self.serving.public

    def set_public(self, *, public: bool) -> None:
        """Make this a public network, or a private one, while it runs.

        Address filter, limits per IP group and automatic mode follow at once. Peers that the new
        policy does not admit leave the table; what is told of this node itself is filtered anew.
        """
        config, host = self.config, self.shared.host
        policy = NetworkPolicy.of(config.address_policy, config.protocol, public=public)
        self.network.set_policy(policy, self._now())
        self.server.responder.set_address_filter(policy.address_filter)
        self.server.responder.set_own_addrs(binary(host.addrs))
        self.serving.set_public(public=public)
        self.upkeep.notify_changed()

    # --- events of the host -----------------------------------------------------------------------

    async def _follow_events(self) -> None:
        """Take what the host tells, for ever."""
        assert self._events is not None, "not opened"
        async for event in self._events:
            match event:
                case PeerIdentified(peer_id, protocols, addrs):
                    if event.new_connection:  # kept streams are on an older one
                        await self.rpc.forget(peer_id)
                    self._identified(peer_id, protocols, addrs)
                case PeerGone(peer_id):
                    await self._gone(peer_id)
                case AddrsChanged(addrs):
                    self.server.responder.set_own_addrs(binary(addrs))
                    self.serving.addrs_changed(addrs)
                    self.upkeep.network_changed()
                    log.info(
                        "addresses_changed",
                        network=self.network.protocol,
                        addrs=[str(addr) for addr in addrs],
                    )

    def _identified(
        self, peer: PeerId, protocols: frozenset[str], addrs: tuple[Multiaddr, ...]
    ) -> None:
        was_in = peer in self.network.table
        offered = self.network.identified(peer, protocols, binary(addrs), self._now())
        if offered is not None or was_in:  # most are clients, which nobody waits for
            self.upkeep.notify_changed()

    async def _gone(self, peer: PeerId) -> None:
        self.network.gone(peer, self._now())
        await self.rpc.forget(peer)

    async def _run_reconciling(self) -> None:
        """Find the peers whose end the host did not tell (it drops events under load), for ever."""
        while True:
            await trio.sleep(RECONCILE_INTERVAL_S)
            for peer in self.network.book.connected():
                if not self.shared.host.is_connected(peer):
                    await self._gone(peer)

    # --- over a restart ---------------------------------------------------------------------------

    async def _load_snapshot(self) -> None:
        """Read the peers of an earlier run: each is probed before it enters the table."""
        if not self.keeps_snapshot:
            return
        storage = self.shared.storage
        peers = await storage.call(storage.store.snapshot.load)
        self._remembered = [PeerInfo(each.peer_id, multiaddrs(each.addrs)) for each in peers]

    async def _run_snapshots(self) -> None:
        while True:
            await trio.sleep(SNAPSHOT_INTERVAL_S)
            await self._save_snapshot()

    async def _save_snapshot(self) -> None:
        """Save the routing table, nearest first; an empty one does not replace the last."""
        table, book, now = self.network.table, self.network.book, self._now()
        nearest = table.nearest(table.local, len(table))
        peers = [SnapshotPeer(peer, book.addrs(peer, now)) for peer in nearest]
        if not peers or not self.keeps_snapshot:
            return
        storage = self.shared.storage
        with trio.CancelScope(shield=True):
            try:
                await storage.call(lambda: storage.store.snapshot.save(peers))
            except StorageError as error:
                log.warning("snapshot_failed", error=str(error))

    # --- what callers ask for ---------------------------------------------------------------------

    @property
    def mode(self) -> Mode:
        """Whether the protocol is answered (server) or not (client)."""
        return self.serving.mode

    def addrs_of(self, peer: PeerId) -> list[Multiaddr]:
        """Where ``peer`` can be reached, as far as this network knows."""
        return multiaddrs(self.network.book.addrs(peer, self._now()))

    async def reach(
        self,
        peer: PeerId,
        timeout_s: float,
        given: Sequence[Multiaddr] = (),
    ) -> None:
        """Make sure that there is a connection to ``peer``, because a person asks for it. Dial the
        addresses that the person has ``given``, or those known; if none of them leads to it, ask
        the network where it is and dial what is new. What failed a moment ago is dialled all the
        same. Names that a person has given may lead anywhere, others only where the network's
        peers may be. Each dial has ``timeout_s`` seconds. A connection that the host doubts is
        dialled anew; if that fails, nobody is asked, and the doubted one has to do.

        Raises:
            DialError: no address leads to the peer, or none is known.
            DeadlineError: the peer did not answer in time.
            NoPeersError: no address was given, and there is nobody to ask.
        """
        host, failure = self.shared.host, None
        addrs = given or self.addrs_of(peer)
        if addrs or host.is_connected(peer):
            try:
                await host.connect(
                    peer,
                    addrs,
                    self._after(timeout_s),
                    retry_failed=True,
                    stranger_filter=None if given else self.network.address_filter,
                )
            except (DialError, DeadlineError) as error:
                failure = error
            if host.is_connected(peer):
                return
        try:
            await self.lookups.peer(peer)
        except NoPeersError:
            if failure is None:
                raise
        new = [addr for addr in self.addrs_of(peer) if addr not in addrs]
        if host.is_connected(peer):
            return
        if new:
            await host.connect(
                peer,
                new,
                self._after(timeout_s),
                retry_failed=True,
                stranger_filter=self.network.address_filter,
            )
        else:
            raise failure or DialError(f"no address of {peer} is known")

    async def reach_any(self, peers: Sequence[PeerInfo], timeout_s: float) -> PeerId:
        """Connect to the first of ``peers`` that can be reached, as :meth:`reach` does; the first
        ``MAX_BOOTSTRAP_DIALS`` of them are tried at once.

        Raises:
            NetworkError: none can be reached, or none was given.
        """
        reached: list[PeerId] = []
        failures: list[NetworkError] = []

        async def attempt(info: PeerInfo) -> None:
            try:
                await self.reach(info.peer_id, timeout_s, info.addrs)
            except NetworkError as error:
                failures.append(error)
            else:
                reached.append(info.peer_id)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for info in peers[:MAX_BOOTSTRAP_DIALS]:
                nursery.start_soon(attempt, info)
        if reached:
            return reached[0]
        raise failures[0] if failures else DialError("nobody else is listed there")

    def provider(self, entry: PeerEntry) -> PeerInfo:
        """A provider with the addresses it gave or, if it gave none, those that are known."""
        return PeerInfo(
            entry.peer_id, multiaddrs(entry.addrs) if entry.addrs else self.addrs_of(entry.peer_id)
        )

    def found_peer(self, found: ClosestPeer) -> FoundPeer:
        """One of the closest peers, with its addresses and its last sign of life in Unix time."""
        alive_at = None
        if found.alive_at is not None:
            alive_at = self.shared.clock.unix() - (self._now() - found.alive_at)
        return FoundPeer(found.peer, self.addrs_of(found.peer), found.standing, alive_at)

    async def find_providers(
        self, key: bytes, count: int | None, found: Callable[[PeerEntry], None]
    ) -> None:
        """Find providers of ``key``, those that this node knows of first.

        Raises:
            NoPeersError: none is known here, and there is nobody to ask.
        """
        await self.lookups.providers(key, count, await self._local_providers(key), found)

    async def find_closest(self, preimage: bytes, found: Callable[[ClosestPeer], None]) -> None:
        """Find the peers closest to ``preimage``, each as soon as it is certain to be one.

        Raises:
            NoPeersError: there is nobody to ask.
        """
        await self.lookups.closest(preimage, found=found)

    async def _local_providers(self, key: bytes) -> list[PeerEntry]:
        shared = self.shared
        rows = await shared.storage.rows(key)
        now = shared.clock.unix()
        entries = [
            PeerEntry(row.provider, row.addrs if row.addrs_expire > now else ()) for row in rows
        ]
        if await shared.storage.provides(key):
            at = self.provided_at or binary(shared.host.addrs)
            entries.insert(0, PeerEntry(self.network.local, at))
        return entries

    def stats(self) -> DHTStats:
        """Count what there is at this moment: of this network, of the store, of the host."""
        shared = self.shared
        records = shared.records.stats()
        return DHTStats(
            num_peers=len({info.peer_id for info in shared.host.connections()}),
            num_providers=records.records,
            routing_table_size=len(self.network.table),
            pending_queries=self.rpc.pending,
            mode=self.mode.value,
            own_keys=len(shared.own_keys),
            provider_keys=records.keys,
            unsaved_records=records.unsaved,
            provider_ttl_s=shared.records.ttl_s,
            bootstrap=self.upkeep.joining.value,
            lookups=dict(self.lookups.ended),
            served=dict(self.server.counters),
            rpc={**self.rpc.counters, **self.deliveries.counters},
            storage={**shared.storage.counters, **records.outcomes},
            host=shared.host.stats(),
            failures=dict(shared.failures),
        )

    def _now(self) -> Monotonic:
        return self.shared.clock.monotonic()

    def _after(self, seconds: float) -> Monotonic:
        return Monotonic(self._now() + seconds)
