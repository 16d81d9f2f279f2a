"""Runs the deliveries of provider records, for callers who need not wait for the end.

Decides when the caller of a delivery goes on: as soon as a quorum holds the record. The rest goes
on as an errand, up to ``MAX_BACKGROUND_DELIVERIES`` at once; past that callers wait for the end. A
caller that is cancelled takes its delivery with it. Who gets the record, only ``core.delivery``
decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import trio

from codio_dht.core.clock import Monotonic
from codio_dht.core.delivery import Delivery, Parcel, provider_parcel
from codio_dht.core.messages import PeerEntry
from codio_dht.errors import NoPeersError
from codio_dht.node.errands import Errands
from codio_dht.node.lookups import Lookups, raise_for_nobody
from codio_dht.node.results import ProvideResult

MAX_BACKGROUND_DELIVERIES: Final = 60
"""Deliveries that may go on after their callers returned (GO: 60). Past the bound a caller waits
for the end of its delivery."""

AtEnd = Callable[[ProvideResult], Awaitable[None]]
"""Told how a delivery ended, which may be after its caller went on."""


class _Job:
    """One delivery under way."""

    def __init__(self, key: bytes, delivery: Delivery) -> None:
        self.key = key
        self.delivery = delivery
        self.began = trio.current_time()
        self.error: Exception | None = None
        self.over = False
        self.awaited = True
        """Whether its caller is still there to be told."""
        self.moved = trio.Event()

    def move(self) -> None:
        """Let the caller look whether it may go on."""
        self.moved.set()
        self.moved = trio.Event()

    def result(self) -> ProvideResult:
        """How the delivery stands."""
        return ProvideResult(
            key=self.key,
            holders=self.delivery.holders,
            held_by=self.delivery.held_by,
            confirmed=self.delivery.confirmed,
            attempted=self.delivery.attempted,
            pending=0 if self.over else max(1, self.delivery.pending),
            seconds=trio.current_time() - self.began,
        )


class Deliveries:
    """The deliveries of one network."""

    def __init__(self, lookups: Lookups, errands: Errands) -> None:
        self._lookups = lookups
        self._errands = errands
        self.running = 0
        """Deliveries under way."""
        self._scopes: dict[bytes, dict[trio.CancelScope, None]] = {}
        """What ends the deliveries under way, by key."""
        self.counters: Counter[str] = Counter()

    async def provide(
        self, key: bytes, addrs: Sequence[bytes], quorum: int, at_end: AtEnd
    ) -> ProvideResult:
        """Hand the record that this node provides ``key`` at ``addrs`` to the k closest peers;
        returns when ``quorum`` of them hold it, or when it is over. ``at_end`` is called when it is
        over.

        Raises:
            NoPeersError: nobody answered the lookup.
        """
        local = self._lookups.searches.network.local
        parcel = provider_parcel(key, PeerEntry(local, tuple(addrs)))
        return await self.hand_out(parcel, quorum, at_end)

    async def hand_out(self, parcel: Parcel, quorum: int, at_end: AtEnd) -> ProvideResult:
        """Hand ``parcel`` to the k peers closest to its key; returns when ``quorum`` of them hold
        it, or when it is over. ``at_end`` is called when it is over.

        Raises:
            NoPeersError: nobody answered the lookup.
        """
        searches = self._lookups.searches
        job = _Job(parcel.key, Delivery(searches, parcel, _now(), quorum=quorum))
        to_the_end = self.running >= MAX_BACKGROUND_DELIVERIES
        self.running += 1
        scope = trio.CancelScope()
        self._scopes.setdefault(parcel.key, {})[scope] = None
        self._errands.start("delivery", partial(self._run, job, at_end, scope), scope)
        try:
            while not (job.over or (job.delivery.has_quorum and not to_the_end)):
                await job.moved.wait()
        except BaseException:
            scope.cancel()
            raise
        job.awaited = False
        if job.error is not None:
            raise job.error
        return job.result()

    def cancel(self, key: bytes) -> None:
        """End every delivery of ``key`` that is under way: nobody else gets the record. A caller
        who still waits goes on, with the holders that there are by then."""
        for scope in self._scopes.get(key, ()):
            scope.cancel()

    async def _run(self, job: _Job, at_end: AtEnd, scope: trio.CancelScope) -> None:
        try:
            await self._deliver(job)
        except Exception as error:  # noqa: BLE001 - the caller's, or raised below
            job.error = error
        finally:
            self._forget(job.key, scope)
            job.over = True
            job.move()
            self.running -= 1
            self.counters["provided" if job.delivery.holders else "provide_failed"] += 1
        if job.awaited and job.error is not None:
            return
        await at_end(job.result())
        if job.error is not None:
            raise job.error

    def _forget(self, key: bytes, scope: trio.CancelScope) -> None:
        scopes = self._scopes[key]
        del scopes[scope]
        if not scopes:
            del self._scopes[key]

    async def _deliver(self, job: _Job) -> None:
        end = await self._lookups.deliver(job.delivery, job.move)
        if end.holders:
            self.counters["record_delivered"] += end.holders
        if end.attempted > end.holders:
            self.counters["record_failed"] += end.attempted - end.holders
        raise_for_nobody(end.unanswered)
        if end.unanswered is not None:
            raise NoPeersError("no peer answered the lookup for the closest peers")


def _now() -> Monotonic:
    return Monotonic(trio.current_time())
