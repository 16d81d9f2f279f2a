"""The lookups of a node: closest peers, one peer, providers.

Decides how the answers of peers reach the machines of ``core.lookup`` and the network's state; the
walk itself is the machine's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import trio

from codio_dht import params
from codio_dht.core.clock import Monotonic
from codio_dht.core.disjoint import DisjointLookup
from codio_dht.core.keyspace import Key, cpl, key_of
from codio_dht.core.lookup import ClosestPeersLookup
from codio_dht.core.lookup_states import (
    Asked,
    ClosestPeer,
    Done,
    Ended,
    GivenUp,
    LookBeyond,
    LookupEvent,
    LookupRules,
    PeerState,
    Query,
    Standing,
    StopReason,
)
from codio_dht.core.messages import FindNode, GetProviders, PeerEntry, Reply, Request
from codio_dht.core.network import Network
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_health import Outlook
from codio_dht.core.preimages import search_preimage
from codio_dht.core.rng import Rng
from codio_dht.core.targeted_lookups import PeerLookup, ProvidersLookup
from codio_dht.errors import NetworkError, NoPeersError, RemoteError
from codio_dht.net.host import Host
from codio_dht.node.errands import Errands
from codio_dht.node.lookup_driver import Ask, Watch, drive
from codio_dht.node.rpc import RpcClient, failure_reason

WaitForPeers = Callable[[Monotonic], Awaitable[None]]
"""Returns when the table has a peer, or nobody is being tried, or at the deadline."""

Early = Callable[[Sequence[PeerId]], None]
"""Told of the nearest peers known so far, nearest first."""

Certain = Callable[[Sequence[ClosestPeer]], None]
"""Told of the peers that are certain to be among the closest, nearest first."""


def ignore(_event: LookupEvent) -> None:
    """Watches nothing."""


class Lookups:
    """Runs lookups on one network, at most :data:`~codio_dht.params.MAX_LOOKUPS` at once.

    Every lookup ends within ``timeout_s``, waiting for its turn included.
    """

    def __init__(
        self,
        network: Network,
        rpc: RpcClient,
        host: Host,
        errands: Errands,
        rng: Rng,
        wait_for_peers: WaitForPeers,
        stir: Callable[[], None],
        *,
        alpha: int,
        beta: int,
        timeout_s: float,
        disjoint_paths: int = 1,
    ) -> None:
        self._network = network
        self._rpc = rpc
        self._host = host
        self._errands = errands
        self._rng = rng
        self._wait_for_peers = wait_for_peers
        self._stir = stir
        self._alpha = alpha
        self._beta = beta
        self._disjoint_paths = disjoint_paths
        self._timeout_s = timeout_s
        self._slots = trio.CapacityLimiter(params.MAX_LOOKUPS)
        self.ended: Counter[str] = Counter()

    async def closest(
        self,
        preimage: bytes,
        watch: Watch = ignore,
        early: Early | None = None,
        certain: Certain | None = None,
    ) -> Done:
        """The peers closest to ``preimage``. ``watch`` is told what happens on the way, ``early``
        who is nearest so far, and ``certain`` who surely remains so, each time that may have
        changed.

        Raises:
            NoPeersError: the routing table is empty.
        """
        deadline = await self._begin()
        key = key_of(preimage)
        lookup = self._closest_machine(key)

        async def ask(step: Query | LookBeyond) -> None:
            if isinstance(step, LookBeyond):
                request = FindNode(await self._preimage_near(step.point, step.cpl))
            else:
                request = FindNode(preimage)
            reply = await self.ask(step.peer, request)
            now = _now()
            closer = self._network.learn(reply.closer_peers, None, now)
            if isinstance(step, LookBeyond):
                lookup.on_beyond(step.peer, step.point, closer, now)
            else:
                lookup.on_reply(step.peer, closer, now)

        def tell(event: LookupEvent) -> None:
            watch(event)
            if early is not None and not isinstance(event, Ended):
                early(lookup.nearest())
            if certain is not None:
                certain(lookup.certain())

        done = await self._run(lookup, ask, key, deadline, tell)
        if done.reason is StopReason.COMPLETED:
            self._measure(key, done)
        return done

    async def each_closest(self, preimage: bytes, found: Callable[[ClosestPeer], None]) -> None:
        """As :meth:`closest`, calling ``found`` for each peer of the result that has answered or is
        known to be alive: once, as soon as it is certain to be one, or else at the end.

        Raises:
            NoPeersError: the routing table is empty.
        """
        told: dict[PeerId, None] = {}

        def tell(peers: Sequence[ClosestPeer]) -> None:
            for each in peers:
                if each.standing is not Standing.HEARD and each.peer not in told:
                    told[each.peer] = None
                    found(each)

        done = await self.closest(preimage, certain=tell)
        tell(done.closest)

    def _measure(self, key: Key, done: Done) -> None:
        """What the lookup tells of the network's size."""
        table = self._network.table
        target_cpl = cpl(table.local, key)
        known = dict.fromkeys(done.alive)
        known |= dict.fromkeys(table.nearest(key, table.bucket_size))
        in_bucket = sum(1 for peer in known if cpl(table.local, peer.key) == target_cpl)
        self._network.size.track(key, done.alive, in_bucket, _now())

    async def peer(self, target: PeerId) -> bool:
        """Look for one peer; whether it was met: asked on the way, reachable or not (GO). Its
        addresses are in the network's book then.

        Raises:
            NoPeersError: the routing table is empty.
        """
        deadline = await self._begin()
        request = FindNode(target.to_bytes())
        lookup = PeerLookup(target, self._seeds(target.key), self._rules())

        async def ask(step: Query | LookBeyond) -> None:
            peer = step.peer
            reply = await self.ask(peer, request)
            now = _now()
            lookup.on_reply(peer, self._network.learn(reply.closer_peers, target, now), now)

        await self._run(lookup, ask, target.key, deadline)
        return lookup.state_of(target) not in (None, PeerState.HEARD)

    async def providers(
        self,
        key: bytes,
        count: int | None,
        local: Sequence[PeerEntry],
        found: Callable[[PeerEntry], None],
    ) -> None:
        """Look for ``count`` providers of ``key`` (None: all), calling ``found`` for each as it
        comes, and again for one that had no address at first. ``local`` are those known here; if
        they are enough, or there is nobody to ask, they are all.

        Raises:
            NoPeersError: the routing table is empty, and none is known here.
        """
        local = local[:count]
        for entry in local:
            found(entry)
        if len(local) == count or (local and not len(self._network.table)):
            return
        deadline = await self._begin()
        target, request = key_of(key), GetProviders(key)
        lookup = ProvidersLookup(target, self._seeds(target), self._rules(), count=count)
        lookup.on_providers(None, local)

        async def ask(step: Query | LookBeyond) -> None:
            peer = step.peer
            reply = await self.ask(peer, request)
            now = _now()
            for entry in lookup.on_providers(peer, self._usable(reply)):
                found(entry)
            lookup.on_reply(peer, self._network.learn(reply.closer_peers, None, now), now)

        await self._run(lookup, ask, target, deadline)

    async def ask(self, peer: PeerId, request: Request) -> Reply:
        """One request to one peer; what it tells of the peer is noted.

        Raises:
            NetworkError, RemoteError: as :meth:`RpcClient.request`.
        """
        deadline = Monotonic(_now() + params.PEER_TIMEOUT_S)
        try:
            reply = await self._rpc.request(peer, request, deadline)
        except (NetworkError, RemoteError) as error:
            self._network.failed(peer, failure_reason(error), _now())
            raise
        self._network.answered(peer, _now())
        return reply

    async def _begin(self) -> Monotonic:
        """The lookup's deadline, once there is somebody to ask or no hope for it."""
        deadline = Monotonic(_now() + self._timeout_s)
        if not len(self._network.table):
            await self._wait_for_peers(deadline)
        return deadline

    async def _run(
        self,
        lookup: ClosestPeersLookup | DisjointLookup,
        ask: Ask,
        key: Key,
        deadline: Monotonic,
        watch: Watch = ignore,
    ) -> Done:
        dialled: set[PeerId] = set()

        def note(event: LookupEvent) -> None:
            if isinstance(event, Asked) and not self._host.is_connected(event.peer):
                dialled.add(event.peer)
            elif isinstance(event, GivenUp):
                self._network.health.given_up(
                    event.peer,
                    event.waited_s,
                    event.at,
                    reached=event.alive_at == event.at,
                    dialled=event.peer in dialled,
                )
            watch(event)

        async with self._slots:
            done = await drive(lookup, ask, deadline, self._errands, note)
        self.ended[done.reason.value] += 1
        now = _now()
        watch(Ended(now, done.reason, lookup.requests))
        for peer in lookup.useful_seeds():
            self._network.table.useful(peer, now)
        self._stir()
        if done.reason is StopReason.NO_PEERS:
            raise NoPeersError("the routing table is empty: there is no peer to ask")
        if done.reason is StopReason.COMPLETED:
            self._network.refresh.looked_up(key, now)
        return done

    def _usable(self, reply: Reply) -> list[PeerEntry]:
        """The providers of a reply, with the addresses that the policy keeps."""
        keep = self._network.address_filter
        return [PeerEntry(entry.peer_id, keep(entry.addrs)) for entry in reply.provider_peers]

    def _seeds(self, key: Key) -> list[PeerId]:
        """The nearest of the table, and those met lately that the table has no room for."""
        network = self._network
        met = network.health.nearest_alive(key, network.k, _now())
        return list(dict.fromkeys((*network.table.nearest(key, network.k), *met)))

    def _outlook(self, peer: PeerId, now: Monotonic) -> Outlook:
        return self._network.health.outlook(peer, now, connected=self._host.is_connected(peer))

    async def _preimage_near(self, point: Key, cpl: int) -> bytes:
        """Bytes whose key shares ``cpl`` leading bits with ``point``."""
        for preimage in search_preimage(point, cpl, self._rng):
            if preimage is not None:
                return preimage
            await trio.lowlevel.checkpoint()
        raise NoPeersError("no key was found beyond the horizon")

    def _closest_machine(self, key: Key) -> ClosestPeersLookup | DisjointLookup:
        seeds, rules = self._seeds(key), self._rules(looks_beyond=True)
        if self._disjoint_paths == 1:
            return ClosestPeersLookup(key, seeds, rules)
        return DisjointLookup(key, seeds, rules, self._disjoint_paths)

    def _rules(self, *, looks_beyond: bool = False) -> LookupRules:
        return LookupRules(
            local=self._network.local,
            outlook=self._outlook,
            shows_life=self._host.is_reached,
            looks_beyond=looks_beyond,
            k=self._network.k,
            alpha=self._alpha,
            beta=self._beta,
        )


def _now() -> Monotonic:
    return Monotonic(trio.current_time())
