"""Hands one provider record to the peers it belongs to.

Decides when the caller of an announcement goes on: as soon as a quorum holds the record. The rest
goes on as an errand, up to ``MAX_BACKGROUND_ANNOUNCEMENTS`` at once; past that callers wait for the
end. A caller that is cancelled takes its announcement with it. To whom the record goes, only
``core.announcement`` decides, and the lookup.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import trio

from codio_dht import params
from codio_dht.core.announcement import Announcement
from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import key_of
from codio_dht.core.lookup_states import Done
from codio_dht.core.messages import AddProvider, GetProviders, PeerEntry
from codio_dht.core.netsize import UnknownNetworkSizeError, expected_within
from codio_dht.core.network import Network
from codio_dht.core.peer import PeerId
from codio_dht.errors import NetworkError, NoPeersError, RemoteError, StreamError
from codio_dht.node.errands import Errands
from codio_dht.node.lookups import Lookups
from codio_dht.node.results import ProvideResult
from codio_dht.node.rpc import Delivery, RpcClient

AtEnd = Callable[[ProvideResult], Awaitable[None]]
"""Told how an announcement ended, which may be after its caller went on."""


class _Job:
    """One announcement under way."""

    def __init__(self, record: AddProvider, plan: Announcement) -> None:
        self.record = record
        self.plan = plan
        self.began = trio.current_time()
        self.confirmed = 0
        self.error: Exception | None = None
        self.over = False
        self.awaited = True
        """Whether its caller is still there to be told."""
        self.moved = trio.Event()

    def stir(self) -> None:
        """Somebody holds the record now, or it is over."""
        self.moved.set()
        self.moved = trio.Event()

    @property
    def failed(self) -> bool:
        """Whether its caller has to be told of the error: nobody holds the record, or a bug."""
        return self.error is not None and (
            not self.plan.holders or not isinstance(self.error, NoPeersError)
        )

    def result(self) -> ProvideResult:
        """How it stands."""
        return ProvideResult(
            key=self.record.key,
            holders=self.plan.holders,
            confirmed=self.confirmed,
            attempted=self.plan.attempted,
            pending=0 if self.over else max(1, self.plan.pending),
            seconds=trio.current_time() - self.began,
        )


class Announcer:
    """See the module."""

    def __init__(
        self, network: Network, lookups: Lookups, rpc: RpcClient, errands: Errands
    ) -> None:
        self._network = network
        self._lookups = lookups
        self._rpc = rpc
        self._errands = errands
        self._running = 0
        self.counters: Counter[str] = Counter()

    async def announce(
        self, key: bytes, addrs: Sequence[bytes], quorum: int, at_end: AtEnd
    ) -> ProvideResult:
        """Hand the record of ``key`` to the k closest peers; returns when ``quorum`` of them hold
        it, or when it is over.

        Raises:
            NoPeersError: nobody answered the lookup.
        """
        if not addrs:
            raise NoPeersError("this node has no address that others could be told")
        record = AddProvider(key, (PeerEntry(self._network.local, tuple(addrs)),))
        to_the_end = self._running >= params.MAX_BACKGROUND_ANNOUNCEMENTS
        job = _Job(record, self._plan(key, quorum))
        self._running += 1
        scope = self._errands.start("announcement", partial(self._run, job, at_end))
        try:
            while not (job.over or (job.plan.has_quorum and not to_the_end)):
                await job.moved.wait()
        except BaseException:
            scope.cancel()
            raise
        job.awaited = False
        if job.error is not None and job.failed:
            raise job.error
        return job.result()

    def _plan(self, key: bytes, quorum: int) -> Announcement:
        network = self._network
        expected = expected_within(network.k, params.EARLY_DOUBT)
        try:
            early_within = network.size.distance_of(expected, Monotonic(trio.current_time()))
        except UnknownNetworkSizeError:
            early_within = None
        return Announcement(key_of(key), k=network.k, quorum=quorum, early_within=early_within)

    async def _run(self, job: _Job, at_end: AtEnd) -> None:
        try:
            await self._walk_and_deliver(job)
        except Exception as error:  # noqa: BLE001 - the caller's, or raised below
            job.error = error
        finally:
            job.over = True
            job.stir()
            self._running -= 1
            self.counters["announced" if job.plan.holders else "announce_failed"] += 1
        if job.awaited and job.failed:
            return
        await at_end(job.result())
        if job.error is not None and job.failed:
            raise job.error

    async def _walk_and_deliver(self, job: _Job) -> None:
        async with trio.open_nursery() as nursery:

            def deliver(peers: Sequence[PeerId]) -> None:
                for peer in peers:
                    nursery.start_soon(self._deliver, job, peer, deliver)

            try:
                done = await self._lookups.closest(
                    job.record.key, early=lambda nearest: deliver(job.plan.early(nearest))
                )
            except NoPeersError as error:
                job.error = error
                return
            if not done.alive:  # those that got it early may hold it: then it is no error
                job.error = NoPeersError("no peer answered the lookup for the closest peers")
            deliver(job.plan.settle(done.alive, self._spares(job.record.key, done)))

    def _spares(self, key: bytes, done: Done) -> list[PeerId]:
        """Who takes the places of those that fail, nearest first: the walk need not have heard of
        more than the k closest."""
        network, target = self._network, key_of(key)
        heard = [each.peer for each in done.next_closest]
        met = network.health.nearest_alive(target, 2 * network.k, Monotonic(trio.current_time()))
        known = network.table.nearest(target, 2 * network.k)
        taken = dict.fromkeys(done.alive)
        spares = dict.fromkeys(each for each in (*heard, *met, *known) if each not in taken)
        return sorted(spares, key=lambda peer: peer.key ^ target)

    async def _deliver(
        self, job: _Job, peer: PeerId, deliver: Callable[[Sequence[PeerId]], None]
    ) -> None:
        deadline = Monotonic(trio.current_time() + params.PROVIDE_RPC_TIMEOUT_S)
        try:
            delivery = await self._hand_over(peer, job.record, deadline)
        except (NetworkError, RemoteError):
            self.counters["record_failed"] += 1
            deliver(job.plan.on_failed(peer))
        else:
            self.counters["record_delivered"] += 1
            job.confirmed += delivery is Delivery.CONFIRMED
            job.plan.on_delivered(peer)
            job.stir()

    async def _hand_over(self, peer: PeerId, record: AddProvider, deadline: Monotonic) -> Delivery:
        """A reset is go's refusal, but js resets a stream whose sender has finished although it
        took the record: so the peer is asked.

        Raises:
            NetworkError, RemoteError: it does not have the record.
        """
        try:
            return await self._rpc.add_provider(peer, record, deadline)
        except StreamError:
            reply = await self._rpc.request(peer, GetProviders(record.key), deadline)
            if self._network.local not in [entry.peer_id for entry in reply.provider_peers]:
                raise
            return Delivery.CONFIRMED
