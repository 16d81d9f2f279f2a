"""Keeps this node's own values published, over restarts.

Decides in what order the durable note, the delivery and the schedule happen; when a value is due
only ``core.republish`` decides, and what a record of a name says, ``crypto.ipns``.

A value is on disk before anybody is told it, and renewing a record never replaces a newer one. So
the sequence number of a name never goes back, not even when the process is killed in between. It
counts as published when its delivery is over; killed before that, it is put again at the next
start.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from codio_dht.core.clock import UnixTime
from codio_dht.core.messages import Record
from codio_dht.core.republish import OwnValue, RepublishSchedule
from codio_dht.crypto.ipns import create_ipns_record, parse_ipns_record
from codio_dht.errors import CodioError, IdentityError, StorageError, UsageError
from codio_dht.logger import get_logger
from codio_dht.node.clock import Clock
from codio_dht.node.results import ProvideResult
from codio_dht.node.value_storage import StoreThread
from codio_dht.node.values import Values
from codio_dht.store.interface import Store
from codio_dht.store.name_keys import NameKeys

CHECK_S: Final = 60.0
"""The schedule is looked at at least this often, seconds: the Unix clock may jump."""

ALONE_CHECK_S: Final = 5.0
"""While there is no peer, the routing table is looked at this often, seconds."""

log = get_logger(__name__)


class Republishing:
    """Keeps this node's own values published. ``k`` is how many peers are to hold a value,
    ``peers`` counts those in the routing table."""

    def __init__(
        self,
        values: Values,
        store: Store,
        keys: NameKeys,
        call: StoreThread,
        clock: Clock,
        schedule: RepublishSchedule,
        peers: Callable[[], int],
        *,
        k: int,
    ) -> None:
        self._values = values
        self._store = store
        self._keys = keys
        self._call = call
        self._clock = clock
        self._schedule = schedule
        self._peers = peers
        self._k = k
        self._alone = True
        self._changed = trio.Event()

    async def open(self) -> None:
        """Learn the own values from the store; call once.

        Raises:
            StorageError: as the store says.
        """
        for own in await self._call(self._store.own_values.all):
            self._schedule.add(own.key, own.published, _eol_of(own))

    def __len__(self) -> int:
        return len(self._schedule)

    async def own(self, key: bytes) -> OwnValue | None:
        """What is kept published under ``key``, as it stands on disk."""
        found: OwnValue | None = await self._call(partial(self._store.own_values.get, key))
        return found

    async def publish(self, own: OwnValue, quorum: int) -> ProvideResult:
        """Keep ``own`` published, and put it now; returns when ``quorum`` peers hold it.

        Raises:
            UsageError: it is not valid, or worse than what is held here; it is not kept, nor is
                what was kept under its key before, if a better one came in the meantime.
            StorageError: it could not be noted; nothing was promised.
            NoPeersError: nobody to give it to; it is kept, and put as soon as there is.
        """
        await self._values.check(Record(own.key, own.value))
        await self._call(partial(self._store.own_values.put, own))
        self._schedule.add(own.key, None, None)
        self._schedule.begun(own.key)
        try:
            return await self._put(own, quorum)
        except UsageError:  # a better one came since it was checked
            await self.stop(own.key)
            raise

    async def stop(self, key: bytes) -> bool:
        """Keep the value of ``key`` published no more, and end its delivery if one is under way;
        False if it was not kept."""
        self._schedule.remove(key)
        self._values.cancel(key)
        removed: bool = await self._call(partial(self._store.own_values.remove, key))
        return removed

    async def run(self) -> None:
        """Put what is due, for ever: a bounded number of values at a time."""
        async with trio.open_nursery() as nursery:
            while True:
                self._changed = trio.Event()
                now = self._clock.unix()
                self._note_peers(now)
                due, until = self._schedule.due(now)
                for key in due:
                    self._schedule.begun(key)
                    nursery.start_soon(self._republish, key)
                if not due:
                    wait_s = ALONE_CHECK_S if self._alone else CHECK_S
                    if until is not None:
                        wait_s = min(wait_s, max(0.0, until - now))
                    with trio.move_on_after(wait_s):
                        await self._changed.wait()

    def _note_peers(self, now: UnixTime) -> None:
        alone = self._peers() == 0
        if self._alone and not alone:
            self._schedule.retry_failed(now)
        self._alone = alone

    async def _republish(self, key: bytes) -> None:
        try:
            own = await self.own(key)
            if own is None:
                self._schedule.remove(key)
                return
            renewed = await self._renewed(own)
            if renewed is not None:
                await self._put(renewed, self._k)
        except BaseException as error:  # a value left as running would never be put again
            self._schedule.failed(key, self._clock.unix())
            if not isinstance(error, CodioError):
                raise
            log.info("republish_failed", key=key.hex(), error=str(error))
        finally:
            self._changed.set()

    async def _renewed(self, own: OwnValue) -> OwnValue | None:
        """``own`` as it is put now: a record of a name gets a new end of life, and nothing else
        changes in it. None if the name was published anew or no more in the meantime: then whoever
        did so sees to the rest."""
        naming = own.naming
        if naming is None:
            return own
        key = await self._call(partial(self._keys.get, naming.signer))
        if key is None:
            raise IdentityError(f"there is no key called {naming.signer} any more")
        last = parse_ipns_record(own.value)
        record = create_ipns_record(
            key,
            last.value,
            sequence=last.sequence,
            now=self._clock.unix(),
            lifetime_s=naming.lifetime_s,
            ttl_s=naming.ttl_s,
            metadata=last.metadata,
        )
        renew = partial(self._store.own_values.renew, own.key, own.value, record.encoded)
        if not await self._call(renew):
            return None
        return OwnValue(own.key, record.encoded, own.added, own.published, naming)

    async def _put(self, own: OwnValue, quorum: int) -> ProvideResult:
        try:
            return await self._values.put(
                Record(own.key, own.value), quorum, partial(self._note, own)
            )
        except BaseException:
            self._schedule.failed(own.key, self._clock.unix())
            self._changed.set()
            raise

    async def _note(self, own: OwnValue, result: ProvideResult) -> None:
        """The delivery is over, and with it the value's turn."""
        self._changed.set()
        now = self._clock.unix()
        if not result.holders:
            self._schedule.failed(own.key, now)
            return
        self._schedule.published(own.key, now, _eol_of(own))
        try:
            with trio.CancelScope(shield=True):  # the network has it: a cancelled caller or not
                await self._call(partial(self._store.own_values.mark_published, own.key, now))
        except StorageError as error:  # put all the same; it is put again too early
            log.warning("mark_published_failed", key=own.key.hex(), error=str(error))


def _eol_of(own: OwnValue) -> UnixTime | None:
    return None if own.naming is None else parse_ipns_record(own.value).eol
