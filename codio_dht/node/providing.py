"""Keeps this node's own keys provided.

Decides in what order the durable note, the announcement and the schedule happen; when a key is due
only ``core.reprovide`` decides, and who holds it the lookup.

A key is durable on disk before it is announced, so a ``provide`` that returned is never forgotten,
not even when the process is killed in between. It counts as provided when its announcement is
over, which may be after ``provide`` returned: killed before that, it is announced again at the next
start.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import trio
from multiaddr import Multiaddr

from codio_dht import params
from codio_dht.core.network import Network
from codio_dht.core.reprovide import ReprovideSchedule
from codio_dht.errors import NetworkError, StorageError
from codio_dht.logger import get_logger
from codio_dht.node.announcing import Announcer, AtEnd
from codio_dht.node.arguments import binary
from codio_dht.node.clock import Clock
from codio_dht.node.results import ProvideResult
from codio_dht.node.storage import Storage

log = get_logger(__name__)


class Providing:
    """Announces keys and keeps them announced."""

    def __init__(
        self,
        network: Network,
        announcer: Announcer,
        storage: Storage,
        schedule: ReprovideSchedule,
        clock: Clock,
        own_addrs: Callable[[], tuple[Multiaddr, ...]],
        *,
        quorum: int,
    ) -> None:
        self._network = network
        self._announcer = announcer
        self._storage = storage
        self._schedule = schedule
        self._clock = clock
        self._own_addrs = own_addrs
        self._quorum = quorum
        self._changed = trio.Event()

    async def open(self) -> None:
        """Learn the own keys from the store; call once."""
        for own in await self._storage.call(self._storage.store.own_keys):
            self._schedule.add(own.key, own.last_provided)

    def __len__(self) -> int:
        return len(self._schedule)

    def provides(self, key: bytes) -> bool:
        """Whether this node keeps ``key`` provided."""
        return key in self._schedule

    async def provide(self, key: bytes, quorum: int | None = None) -> ProvideResult:
        """Keep ``key`` provided, and announce it now; returns as :meth:`announce`.

        Raises:
            StorageError: it could not be noted; nothing was promised.
            NoPeersError: nobody to announce it to; it is kept, and announced when there is.
        """
        store, now = self._storage.store, self._clock.unix()
        await self._storage.call(lambda: store.add_own_key(key, now))
        self._schedule.add(key, None)
        self._schedule.begun(key, by_user=True)
        try:
            return await self.announce(key, quorum, partial(self._note, key))
        except BaseException:
            self._schedule.failed(key, self._clock.unix())
            self._changed.set()
            raise

    async def stop(self, key: bytes) -> bool:
        """Stop keeping ``key`` provided; False if it was not. Records already out expire."""
        store = self._storage.store
        removed = await self._storage.call(lambda: store.remove_own_key(key))
        self._schedule.remove(key)
        return removed

    async def announce(
        self, key: bytes, quorum: int | None = None, at_end: AtEnd | None = None
    ) -> ProvideResult:
        """Hand the record of ``key`` to the k closest peers, once; returns when ``quorum`` of them
        hold it (None: as configured), and calls ``at_end`` when it is over.

        Raises:
            NoPeersError: nobody answered the lookup.
        """
        return await self._announcer.announce(
            key, binary(self._own_addrs()), quorum or self._quorum, at_end or _no_matter
        )

    async def run(self) -> None:
        """Announce what is due, for ever: a bounded number of keys at a time."""
        async with trio.open_nursery() as nursery:
            while True:
                self._changed = trio.Event()
                self._schedule.grown(len(self._network.table), self._clock.unix())
                due, until = self._schedule.due(self._clock.unix())
                for key in due:
                    self._schedule.begun(key)
                    nursery.start_soon(self._reprovide, key)
                if not due:
                    wait_s = params.REPROVIDE_CHECK_S
                    if self._schedule.thin:
                        wait_s = params.THIN_KEYS_CHECK_S
                    if until is not None:
                        wait_s = min(wait_s, max(0.0, until - self._clock.unix()))
                    with trio.move_on_after(wait_s):
                        await self._changed.wait()

    async def _reprovide(self, key: bytes) -> None:
        try:
            await self.announce(key, self._network.k, partial(self._note, key))
        except BaseException as error:  # a key left as running would never be announced again
            self._schedule.failed(key, self._clock.unix())
            if not isinstance(error, NetworkError):
                raise
            log.info("reprovide_failed", key=key.hex(), error=str(error))
        finally:
            self._changed.set()

    async def _note(self, key: bytes, result: ProvideResult) -> None:
        """The announcement is over, and with it the key's turn."""
        self._changed.set()
        now = self._clock.unix()
        if not result.holders:
            self._schedule.failed(key, now)
            return
        self._schedule.provided(key, now, known=len(self._network.table))
        store = self._storage.store
        try:
            with trio.CancelScope(shield=True):  # the network has it: a cancelled caller or not
                await self._storage.call(lambda: store.mark_provided([key], now))
        except StorageError as error:  # announced all the same; it is announced again too early
            log.warning("mark_provided_failed", key=key.hex(), error=str(error))


async def _no_matter(_result: ProvideResult) -> None:
    """Nobody wants to know."""
