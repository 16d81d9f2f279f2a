"""Keeps this node's own keys provided.

Decides in what order the durable note, the announcement and the schedule happen; when a key is due
only ``core.reprovide`` decides, and who holds it the lookup.

A key is durable on disk before it is announced, so a ``provide`` that returned is never forgotten,
not even when the process is killed in between. A record goes to the k closest peers that answered;
where one cannot be reached, the next closest takes its place, so that k hold it wherever k can.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import structlog
import trio
from multiaddr import Multiaddr

from codio_dht import params
from codio_dht.core.clock import Monotonic
from codio_dht.core.messages import AddProvider, GetProviders, PeerEntry
from codio_dht.core.network import Network
from codio_dht.core.peer import PeerId
from codio_dht.core.reprovide import ReprovideSchedule
from codio_dht.errors import NetworkError, NoPeersError, RemoteError, StorageError, StreamError
from codio_dht.node.arguments import binary
from codio_dht.node.clock import Clock
from codio_dht.node.lookups import Lookups
from codio_dht.node.results import ProvideResult
from codio_dht.node.rpc import Delivery, RpcClient
from codio_dht.node.storage import Storage

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Round:
    """One announcement under way: candidates nearest first, and how it stands."""

    candidates: list[PeerId]
    wanted: int
    holders: int = 0
    confirmed: int = 0
    attempted: int = 0
    in_flight: int = 0

    def next_peer(self) -> PeerId | None:
        """The nearest candidate not tried, while fewer than wanted hold or may still hold it."""
        if self.holders + self.in_flight >= self.wanted or self.attempted >= len(self.candidates):
            return None
        peer = self.candidates[self.attempted]
        self.attempted += 1
        self.in_flight += 1
        return peer


class Providing:
    """Announces keys and keeps them announced."""

    def __init__(
        self,
        network: Network,
        lookups: Lookups,
        rpc: RpcClient,
        storage: Storage,
        schedule: ReprovideSchedule,
        clock: Clock,
        own_addrs: Callable[[], tuple[Multiaddr, ...]],
    ) -> None:
        self._network = network
        self._lookups = lookups
        self._rpc = rpc
        self._storage = storage
        self._schedule = schedule
        self._clock = clock
        self._own_addrs = own_addrs
        self._changed = trio.Event()
        self.counters: Counter[str] = Counter()

    async def open(self) -> None:
        """Learn the own keys from the store; call once."""
        for own in await self._storage.call(self._storage.store.own_keys):
            self._schedule.add(own.key, own.last_provided)

    def __len__(self) -> int:
        return len(self._schedule)

    def provides(self, key: bytes) -> bool:
        """Whether this node keeps ``key`` provided."""
        return key in self._schedule

    async def provide(self, key: bytes) -> ProvideResult:
        """Keep ``key`` provided, and announce it now.

        Raises:
            StorageError: it could not be noted; nothing was promised.
            NoPeersError: nobody to announce it to; it is kept, and announced when there is.
        """
        store, now = self._storage.store, self._clock.unix()
        await self._storage.call(lambda: store.add_own_key(key, now))
        self._schedule.add(key, None)
        self._schedule.begun(key)
        try:
            result = await self.announce(key)
        except BaseException:
            self._schedule.failed(key, self._clock.unix())
            self._changed.set()
            raise
        await self._note(key, result)
        return result

    async def stop(self, key: bytes) -> bool:
        """Stop keeping ``key`` provided; False if it was not. Records already out expire."""
        store = self._storage.store
        removed = await self._storage.call(lambda: store.remove_own_key(key))
        self._schedule.remove(key)
        return removed

    async def announce(self, key: bytes) -> ProvideResult:
        """Hand the record of ``key`` to the k closest peers, once.

        Raises:
            NoPeersError: nobody answered the lookup.
        """
        begun = self._clock.monotonic()
        addrs = binary(self._own_addrs())
        if not addrs:
            raise NoPeersError("this node has no address that others could be told")
        done = await self._lookups.closest(key)
        answered = done.answered
        if not answered:
            raise NoPeersError("no peer answered the lookup for the closest peers")
        record = AddProvider(key, (PeerEntry(self._network.local, addrs),))
        spares = [each.peer for each in done.next_closest]
        state = _Round(answered + spares, wanted=self._network.k)
        async with trio.open_nursery() as nursery:
            for _ in range(state.wanted):
                nursery.start_soon(self._deliver, state, record)
        self.counters["announced" if state.holders else "announce_failed"] += 1
        return ProvideResult(
            key=key,
            holders=state.holders,
            confirmed=state.confirmed,
            attempted=state.attempted,
            seconds=self._clock.monotonic() - begun,
        )

    async def run(self) -> None:
        """Announce what is due, for ever: a bounded number of keys at a time."""
        async with trio.open_nursery() as nursery:
            while True:
                self._changed = trio.Event()
                due, until = self._schedule.due(self._clock.unix())
                for key in due:
                    self._schedule.begun(key)
                    nursery.start_soon(self._reprovide, key)
                if not due:
                    wait_s = params.REPROVIDE_CHECK_S
                    if until is not None:
                        wait_s = min(wait_s, max(0.0, until - self._clock.unix()))
                    with trio.move_on_after(wait_s):
                        await self._changed.wait()

    async def _reprovide(self, key: bytes) -> None:
        try:
            result = await self.announce(key)
        except BaseException as error:  # a key left as running would never be announced again
            self._schedule.failed(key, self._clock.unix())
            if not isinstance(error, NetworkError):
                raise
            log.info("reprovide_failed", key=key.hex(), error=str(error))
        else:
            await self._note(key, result)
        finally:
            self._changed.set()

    async def _note(self, key: bytes, result: ProvideResult) -> None:
        now = self._clock.unix()
        if not result.holders:
            self._schedule.failed(key, now)
            return
        self._schedule.provided(key, now)
        store = self._storage.store
        try:
            with trio.CancelScope(shield=True):  # the network has it: a cancelled caller or not
                await self._storage.call(lambda: store.mark_provided([key], now))
        except StorageError as error:  # announced all the same; it is announced again too early
            log.warning("mark_provided_failed", key=key.hex(), error=str(error))

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

    async def _deliver(self, state: _Round, record: AddProvider) -> None:
        """Deliver to one candidate after another until nobody more is wanted."""
        while (peer := state.next_peer()) is not None:
            now = self._clock.monotonic()
            deadline = Monotonic(now + params.PROVIDE_RPC_TIMEOUT_S)
            try:
                delivery = await self._hand_over(peer, record, deadline)
            except (NetworkError, RemoteError):
                self.counters["record_failed"] += 1
            else:
                state.holders += 1
                state.confirmed += delivery is Delivery.CONFIRMED
                self.counters["record_delivered"] += 1
            finally:
                state.in_flight -= 1
