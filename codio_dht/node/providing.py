"""Keeps this node's own keys provided.

Decides in what order the durable note, the delivery and the schedule happen; when a key is due only
``core.reprovide`` decides, and who holds its record the lookup.

A key is durable on disk before its record is handed out, so a ``provide`` that returned is never
forgotten, not even when the process is killed in between. It counts as provided when the delivery
is over, which may be after ``provide`` returned: killed before that, it is provided again at the
next start.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import trio
from multiaddr import Multiaddr

from codio_dht.core.clock import UnixTime
from codio_dht.core.network import Network
from codio_dht.core.reprovide import FUTURE_BATCH, REPROVIDE_CHECK_S, ReprovideSchedule
from codio_dht.errors import NetworkError, NoPeersError, StorageError
from codio_dht.logger import get_logger
from codio_dht.node.arguments import binary
from codio_dht.node.clock import Clock
from codio_dht.node.deliveries import AtEnd, Deliveries
from codio_dht.node.results import ProvideResult
from codio_dht.node.storage import Storage

THIN_KEYS_CHECK_S: Final = 5.0
"""How often the routing table is looked at for more peers, in seconds, while there are keys that
were provided to too few."""

log = get_logger(__name__)


class Providing:
    """Provides keys and keeps them provided."""

    def __init__(
        self,
        network: Network,
        deliveries: Deliveries,
        storage: Storage,
        schedule: ReprovideSchedule,
        clock: Clock,
        own_addrs: Callable[[], tuple[Multiaddr, ...]],
        *,
        quorum: int,
    ) -> None:
        self._network = network
        self._deliveries = deliveries
        self._storage = storage
        self._schedule = schedule
        self._clock = clock
        self._own_addrs = own_addrs
        self._quorum = quorum
        self._changed = trio.Event()

    async def provide(self, key: bytes, quorum: int | None = None) -> ProvideResult:
        """Keep ``key`` provided, and provide it now; returns as :meth:`provide_once`.

        Raises:
            StorageError: it could not be noted; nothing was promised.
            NoPeersError: nobody answered, or this node has no address to tell; the key is kept,
                and provided when that changes.
        """
        keys, now = self._storage.store.keys, self._clock.unix()
        known = await self._storage.call(lambda: keys.add(key, now))
        self._storage.own_keys.added(key, is_new=known is None)
        self._schedule.begun_by_user(
            key, provided_before=known is not None and known.last_provided is not None
        )
        try:
            return await self.provide_once(key, quorum, partial(self._note, key))
        except BaseException:
            self._schedule.failed(key, self._clock.unix())
            self._changed.set()
            raise

    async def stop(self, key: bytes) -> bool:
        """Stop keeping ``key`` provided, and end its delivery if one is under way; False if it was
        not kept. Records that are out expire by themselves.

        Raises:
            StorageError: it could not be forgotten; it is still kept.
        """
        keys = self._storage.store.keys
        removed = await self._storage.call(lambda: keys.remove(key))
        if removed:
            self._storage.own_keys.removed(key)
            self._schedule.removed(key)
            self._deliveries.cancel(key)
        return removed

    async def provide_once(
        self, key: bytes, quorum: int | None = None, at_end: AtEnd | None = None
    ) -> ProvideResult:
        """Hand the record of ``key`` to the k closest peers, once; returns when ``quorum`` of them
        hold it (None: as configured), and calls ``at_end`` when it is over.

        Raises:
            NoPeersError: nobody answered the lookup, or this node has no address to tell.
        """
        return await self._deliveries.provide(
            key, self._told_addrs(), quorum or self._quorum, at_end or _ignore
        )

    def _told_addrs(self) -> tuple[bytes, ...]:
        """The addresses of this node that the network's policy lets others be told (GO filters them
        too).

        Raises:
            NoPeersError: there are none.
        """
        addrs = self._own_addrs()
        told = self._network.address_filter(binary(addrs))
        if told:
            return told
        if not addrs:
            raise NoPeersError("this node listens nowhere: there is no address to tell others")
        raise NoPeersError(
            "this node has no public address to tell others, only "
            + ", ".join(map(str, addrs))
            + ": forward a port to it, or give its public address (announce)"
        )

    async def run(self) -> None:
        """Provide what is due, for ever: a bounded number of keys at a time."""
        async with trio.open_nursery() as nursery:
            while True:
                self._changed = trio.Event()
                self._schedule.grown(len(self._network.table), self._clock.unix())
                try:
                    due, until = await self._due()
                except StorageError as error:
                    log.warning("own_keys_not_read", error=str(error))
                    due, until = [], None
                for key in due:
                    self._schedule.begun(key)
                    nursery.start_soon(self._reprovide, key)
                if not due:
                    wait_s = REPROVIDE_CHECK_S
                    if self._schedule.thin:
                        wait_s = THIN_KEYS_CHECK_S
                    if until is not None:
                        wait_s = min(wait_s, max(0.0, until - self._clock.unix()))
                    with trio.move_on_after(wait_s):
                        await self._changed.wait()

    async def _due(self) -> tuple[list[bytes], UnixTime | None]:
        """What the schedule says, of the keys in the store."""
        schedule, keys, now = self._schedule, self._storage.store.keys, self._clock.unix()
        if not len(self._storage.own_keys):
            return [], None
        if schedule.clock_went_back(now):
            while await self._storage.call(lambda: keys.correct_future(now, FUTURE_BATCH)):
                pass
            schedule.corrected(now)
        limit = schedule.begin_read()
        stored = await self._storage.call(lambda: keys.next_to_provide(limit)) if limit else []
        return schedule.due(self._clock.unix(), stored)

    async def _reprovide(self, key: bytes) -> None:
        try:
            await self.provide_once(key, self._network.k, partial(self._note, key))
        except BaseException as error:  # a key left as running would never be provided again
            self._schedule.failed(key, self._clock.unix())
            if not isinstance(error, NetworkError):
                raise
            log.info("reprovide_failed", key=key.hex(), error=str(error))
        finally:
            self._changed.set()

    async def _note(self, key: bytes, result: ProvideResult) -> None:
        """The delivery is over, and with it the key's turn."""
        try:
            await self._note_end(key, result)
        finally:
            self._changed.set()

    async def _note_end(self, key: bytes, result: ProvideResult) -> None:
        now = self._clock.unix()
        if not result.holders:
            self._schedule.failed(key, now)
            return
        self._schedule.provided(key, now, known=len(self._network.table))
        keys = self._storage.store.keys
        try:
            with trio.CancelScope(shield=True):  # the network has it: a cancelled caller or not
                await self._storage.call(lambda: keys.mark_provided([key], now))
        except StorageError as error:  # after a restart the key is provided again too early
            log.warning("mark_provided_failed", key=key.hex(), error=str(error))
        else:
            self._schedule.noted(key)


async def _ignore(_result: ProvideResult) -> None:
    """Is told of the end and does nothing."""
