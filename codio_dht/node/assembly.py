"""Puts one node together: which part is made with what. Runs nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from multiaddr import Multiaddr

from codio_dht import params
from codio_dht.config import DHTConfig
from codio_dht.core.addresses import KEEP_ALL, PUBLIC_ONLY, AddressFilter
from codio_dht.core.clock import Monotonic
from codio_dht.core.lookup_states import ClosestPeer
from codio_dht.core.messages import PeerEntry
from codio_dht.core.mode import Mode
from codio_dht.core.network import Network
from codio_dht.core.peer import PeerId, PeerInfo
from codio_dht.core.records import ProviderRecords
from codio_dht.core.reprovide import ReprovideSchedule
from codio_dht.core.responder import Responder
from codio_dht.net.host import Host
from codio_dht.node.announcing import Announcer
from codio_dht.node.arguments import binary, multiaddrs
from codio_dht.node.clock import Clock
from codio_dht.node.errands import Errands
from codio_dht.node.lookups import Lookups
from codio_dht.node.protection import TableProtection
from codio_dht.node.providing import Providing
from codio_dht.node.results import DHTStats, FoundPeer
from codio_dht.node.rpc import RpcClient
from codio_dht.node.server import KadServer
from codio_dht.node.storage import Storage
from codio_dht.node.upkeep import Upkeep
from codio_dht.store.interface import SnapshotPeer, Store


@dataclass(slots=True)
class Node:
    """The parts of a running node."""

    host: Host
    network: Network
    records: ProviderRecords
    rpc: RpcClient
    lookups: Lookups
    upkeep: Upkeep
    storage: Storage
    providing: Providing
    announcer: Announcer
    server: KadServer
    protection: TableProtection
    clock: Clock
    errands: Errands
    failures: Counter[str]
    """Bugs in background work, by task."""

    def serve(self) -> None:
        """Answer the DHT protocol, and say so."""
        self.host.serve(
            self.network.protocol, self.server, idle_timeout_s=params.STREAM_IDLE_TIMEOUT_S
        )

    def unserve(self) -> None:
        """Answer no more."""
        self.host.unserve(self.network.protocol)

    def addrs_of(self, peer: PeerId) -> list[Multiaddr]:
        """Where ``peer`` can be reached, as far as is known."""
        return multiaddrs(self.network.book.addrs(peer, self.clock.monotonic()))

    def info(self, entry: PeerEntry) -> PeerInfo:
        """A provider as callers see it: where it said it is, else where it is known to be."""
        return PeerInfo(
            entry.peer_id, multiaddrs(entry.addrs) if entry.addrs else self.addrs_of(entry.peer_id)
        )

    def found(self, found: ClosestPeer) -> FoundPeer:
        """One of the closest peers as callers see it."""
        alive_at = None
        if found.alive_at is not None:
            alive_at = self.clock.unix() - (self.clock.monotonic() - found.alive_at)
        return FoundPeer(found.peer, self.addrs_of(found.peer), found.standing, alive_at)

    async def find_providers(
        self, key: bytes, count: int | None, found: Callable[[PeerEntry], None]
    ) -> None:
        """The providers of ``key``, this node's own knowledge first."""
        await self.lookups.providers(key, count, await self._local_providers(key), found)

    def snapshot(self, now: Monotonic) -> list[SnapshotPeer]:
        """The routing table, nearest first, to be remembered over a restart."""
        table, book = self.network.table, self.network.book
        peers = table.nearest(table.local, len(table))
        return [SnapshotPeer(peer, book.addrs(peer, now)) for peer in peers]

    def stats(self, mode: Mode) -> DHTStats:
        """Counts at this moment."""
        records = self.records.stats()
        return DHTStats(
            num_peers=len({info.peer_id for info in self.host.connections()}),
            num_providers=records.records,
            routing_table_size=len(self.network.table),
            pending_queries=self.rpc.pending,
            mode=mode.value,
            own_keys=len(self.providing),
            provider_keys=records.keys,
            unsaved_records=records.unsaved,
            provider_ttl_s=self.records.ttl_s,
            bootstrap=self.upkeep.joining.value,
            lookups=dict(self.lookups.ended),
            served=dict(self.server.counters),
            rpc={**self.rpc.counters, **self.announcer.counters},
            storage={**self.storage.counters, **records.outcomes},
            host=self.host.stats(),
            failures=dict(self.failures),
        )

    async def _local_providers(self, key: bytes) -> list[PeerEntry]:
        rows = await self.storage.rows(key)
        now = self.clock.unix()
        entries = [
            PeerEntry(row.provider, row.addrs if row.addrs_expire > now else ()) for row in rows
        ]
        if self.providing.provides(key):
            entries.insert(0, PeerEntry(self.network.local, binary(self.host.addrs)))
        return entries


def assemble(
    host: Host,
    store: Store,
    config: DHTConfig,
    clock: Clock,
    rng: Random,
    *,
    bootstrap: Sequence[PeerInfo],
    public: bool,
    provider_ttl_s: float,
) -> Node:
    """A node on ``host`` and ``store``; nothing of it runs yet."""
    protection = TableProtection(host, config.protocol)
    network = Network(
        host.peer_id,
        protocol=config.protocol,
        address_filter=_address_filter(config, public=public),
        k=config.replication_factor,
        refresh_interval_s=config.refresh_interval,
        observer=protection,
        diverse=public and config.protocol == params.KAD_PROTOCOL,
        seen_at=lambda peer: binary(host.remote_addrs(peer)),
    )
    records = ProviderRecords(
        ttl_s=provider_ttl_s,
        max_per_key=config.max_providers_per_key,
        max_records=config.max_provider_records,
    )
    storage = Storage(store, records, clock)
    schedule = ReprovideSchedule(interval_s=config.republish_interval, k=config.replication_factor)
    rpc = RpcClient(
        host,
        config.protocol,
        lambda peer: multiaddrs(network.book.addrs(peer, clock.monotonic())),
        network.health,
        dial_timeout_s=config.dial_timeout,
        request_timeout_s=config.request_timeout,
    )
    upkeep = Upkeep(network, host, rpc, rng, bootstrap)
    failures: Counter[str] = Counter()
    errands = Errands(failures)
    lookups = Lookups(
        network,
        rpc,
        host,
        errands,
        rng,
        upkeep.wait_for_peers,
        upkeep.stir,
        alpha=config.alpha,
        beta=config.beta,
        disjoint_paths=config.disjoint_paths,
        timeout_s=config.query_timeout,
    )
    announcer = Announcer(network, lookups, rpc, errands)
    responder = Responder(
        host.peer_id,
        table=network.table,
        book=network.book,
        records=records,
        rng=rng,
        address_filter=network.address_filter,
        own_keys=schedule,
        k=config.replication_factor,
    )
    responder.set_own_addrs(binary(host.addrs))
    return Node(
        host=host,
        network=network,
        records=records,
        rpc=rpc,
        lookups=lookups,
        upkeep=upkeep,
        storage=storage,
        providing=Providing(
            network,
            announcer,
            storage,
            schedule,
            clock,
            lambda: host.addrs,
            quorum=config.provide_quorum,
        ),
        announcer=announcer,
        server=KadServer(responder, storage, clock),
        protection=protection,
        clock=clock,
        errands=errands,
        failures=failures,
    )


def _address_filter(config: DHTConfig, *, public: bool) -> AddressFilter:
    match config.address_policy:
        case "all":
            return KEEP_ALL
        case "public":
            return PUBLIC_ONLY
        case "auto":
            return PUBLIC_ONLY if public else KEEP_ALL
