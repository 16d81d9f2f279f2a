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
from codio_dht.core.keyspace import Key, key_of
from codio_dht.core.lookup import (
    ClosestPeersLookup,
    Done,
    LookupRules,
    PeerLookup,
    PeerState,
    ProvidersLookup,
    StopReason,
)
from codio_dht.core.messages import FindNode, GetProviders, PeerEntry, Reply, Request
from codio_dht.core.network import Network
from codio_dht.core.peer import PeerId
from codio_dht.errors import NetworkError, NoPeersError, RemoteError
from codio_dht.node.lookup_driver import Ask, drive, failure_reason
from codio_dht.node.rpc import RpcClient

WaitForPeers = Callable[[Monotonic], Awaitable[None]]
"""Returns when the table has a peer, or nobody is being tried, or at the deadline."""


class Lookups:
    """Runs lookups on one network, at most :data:`~codio_dht.params.MAX_LOOKUPS` at once.

    Every lookup ends within ``timeout_s``, waiting for its turn included.
    """

    def __init__(
        self,
        network: Network,
        rpc: RpcClient,
        wait_for_peers: WaitForPeers,
        stir: Callable[[], None],
        *,
        alpha: int,
        beta: int,
        timeout_s: float,
    ) -> None:
        self._network = network
        self._rpc = rpc
        self._wait_for_peers = wait_for_peers
        self._stir = stir
        self._alpha = alpha
        self._beta = beta
        self._timeout_s = timeout_s
        self._slots = trio.CapacityLimiter(params.MAX_LOOKUPS)
        self.ended: Counter[str] = Counter()

    async def closest(self, preimage: bytes) -> Done:
        """The peers closest to ``preimage``.

        Raises:
            NoPeersError: the routing table is empty.
        """
        deadline = await self._begin()
        key, request = key_of(preimage), FindNode(preimage)
        lookup = ClosestPeersLookup(key, self._seeds(key), self._rules())

        async def ask(peer: PeerId) -> None:
            reply = await self.ask(peer, request)
            now = _now()
            lookup.on_reply(peer, self._network.learn(reply.closer_peers, None, now), now)

        return await self._run(lookup, ask, key, deadline)

    async def peer(self, target: PeerId) -> bool:
        """Look for one peer; whether it was met: asked on the way, reachable or not (GO). Its
        addresses are in the network's book then.

        Raises:
            NoPeersError: the routing table is empty.
        """
        deadline = await self._begin()
        request = FindNode(target.to_bytes())
        lookup = PeerLookup(target, self._seeds(target.key), self._rules())

        async def ask(peer: PeerId) -> None:
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
        they are enough, nobody is asked.

        Raises:
            NoPeersError: the routing table is empty.
        """
        local = local[:count]
        for entry in local:
            found(entry)
        if len(local) == count:
            return
        deadline = await self._begin()
        target, request = key_of(key), GetProviders(key)
        lookup = ProvidersLookup(target, self._seeds(target), self._rules(), count=count)
        lookup.on_providers(None, local)

        async def ask(peer: PeerId) -> None:
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
        self, lookup: ClosestPeersLookup, ask: Ask, key: Key, deadline: Monotonic
    ) -> Done:
        async with self._slots:
            done = await drive(lookup, ask, deadline)
        self.ended[done.reason.value] += 1
        now = _now()
        for peer in lookup.useful_seeds():
            self._network.table.useful(peer, now)
        for peer in lookup.unresponsive():
            self._network.refresh.suspect(peer)
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
        return self._network.table.nearest(key, self._network.k)

    def _rules(self) -> LookupRules:
        return LookupRules(
            local=self._network.local,
            deadline_for=_soft_deadline,
            k=self._network.k,
            alpha=self._alpha,
            beta=self._beta,
        )


def _soft_deadline(_peer: PeerId, now: Monotonic) -> Monotonic:
    return Monotonic(now + params.SOFT_DEADLINE_S)


def _now() -> Monotonic:
    return Monotonic(trio.current_time())
