"""Keeps this node's own keys provided.

Decides in what order the durable note, the delivery and the sweep happen. When a key is due again
only ``core.sweep`` decides, and who holds its record ``core.delivery`` and ``core.region_sweep``.

A key is durable on disk before its record is handed out, so a ``provide`` that returned is never
forgotten, not even when the process is killed in between. It counts as provided when the delivery
is over, which may be after ``provide`` returned: killed before that, it is provided again at the
next start.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Sequence,
)
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Final

import trio
from multiaddr import Multiaddr

from codio_dht.core.clock import UnixTime
from codio_dht.core.keyspace import key_of
from codio_dht.core.multihash import CidLike, new_key_of
from codio_dht.core.network import Network
from codio_dht.core.own_keys import NewKey, OwnKey
from codio_dht.core.peer import PeerId
from codio_dht.core.regions import place_of
from codio_dht.errors import NetworkError, NoPeersError, StorageError
from codio_dht.logger import get_logger
from codio_dht.node.arguments import binary
from codio_dht.node.clock import Clock
from codio_dht.node.deliveries import AtEnd, Deliveries
from codio_dht.node.key_writes import KeyWrites
from codio_dht.node.results import KeyStatus, ManyResult, ProvideResult, ProvideStatus
from codio_dht.node.storage import Storage
from codio_dht.node.sweeping import Sweeping

MANY_KEYS: Final = 1_024
"""Keys that are written at once when many are added or removed: one sync of the disk for all."""

KEYS_BETWEEN_CHECKPOINTS: Final = 64
"""Keys that are read from an iterable before others may run."""

LIST_PAGE_KEYS: Final = 1_024
"""Keys that are read at once when they are listed."""

MAX_REMEMBERED_HOLDERS: Final = 4_096
"""Keys provided by themselves of which it is remembered who holds them. Of others the sweep says
it."""

Cids = Iterable[CidLike] | AsyncIterable[CidLike]

Progress = Callable[[int], None]
"""Told how many keys are done, as it goes on."""

log = get_logger(__name__)


class Providing:
    """Provides keys and keeps them provided.

    Args:
        told_addrs: the addresses that records name; raises ``NoPeersError`` if there are none.
    """

    def __init__(
        self,
        network: Network,
        deliveries: Deliveries,
        storage: Storage,
        sweeping: Sweeping,
        clock: Clock,
        told_addrs: Callable[[], tuple[bytes, ...]],
        *,
        quorum: int,
    ) -> None:
        self.sweeping = sweeping
        self._network = network
        self._deliveries = deliveries
        self._storage = storage
        self._writes = KeyWrites(storage, clock)
        self._clock = clock
        self._told_addrs = told_addrs
        self._quorum = quorum
        self._holders: OrderedDict[bytes, tuple[UnixTime, tuple[PeerId, ...]]] = OrderedDict()
        """Who held the keys that were provided by themselves lately, and since when."""

    # --- one key ----------------------------------------------------------------------------------

    async def provide(self, new: NewKey, quorum: int | None = None) -> ProvideResult:
        """Keep a key provided, and provide it now; returns as :meth:`provide_once`.

        Raises:
            StorageError: it could not be noted; nothing was promised.
            NoPeersError: nobody answered, or this node has no address to tell; the key is kept,
                and provided when that changes.
        """
        key = new.key
        self.sweeping.begin_alone(key)
        try:
            await self._writes.add([new])
            return await self.provide_once(key, quorum, partial(self._note, key))
        except BaseException as error:
            self.sweeping.end_alone(key)
            if isinstance(error, NetworkError):
                await self._wait_again(key)
            raise

    async def stop(self, key: bytes) -> bool:
        """Stop keeping ``key`` provided, and end its delivery if one is under way; False if it was
        not kept. Records that are out expire by themselves.

        Raises:
            StorageError: it could not be forgotten; it is still kept.
        """
        return bool(await self._stop([key]))

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

    async def _note(self, key: bytes, result: ProvideResult) -> None:
        """The delivery is over."""
        try:
            if result.holders:
                await self._note_provided(key, result)
            else:
                await self._wait_again(key)
        finally:
            self.sweeping.end_alone(key)

    async def _note_provided(self, key: bytes, result: ProvideResult) -> None:
        now, keys = self._clock.unix(), self._storage.store.keys
        self.sweeping.sweep.known_at(place_of(key_of(key)), len(self._network.table))
        self._holders[key] = now, result.held_by
        self._holders.move_to_end(key)
        if len(self._holders) > MAX_REMEMBERED_HOLDERS:
            self._holders.popitem(last=False)
        try:
            with trio.CancelScope(shield=True):  # the network has it: a cancelled caller or not
                await self._storage.call(lambda: keys.mark_provided([key], now))
        except StorageError as error:  # the sweep provides it once more
            log.warning("mark_provided_failed", key=key.hex(), error=str(error))

    async def _wait_again(self, key: bytes) -> None:
        """Nobody took the record of ``key``: the sweep tries it ahead of others."""
        try:
            with trio.CancelScope(shield=True):
                await self._storage.call(partial(self._storage.store.keys.mark_waiting, [key]))
        except StorageError as error:  # it is provided at its time
            log.warning("mark_waiting_failed", key=key.hex(), error=str(error))

    # --- many keys --------------------------------------------------------------------------------

    async def provide_many(self, cids: Cids, progress: Progress) -> ManyResult:
        """Keep ``cids`` provided. They are on disk when this returns, and the sweep provides them.
        No more are read than can be written.

        Raises:
            UsageError: one is no CID; the message says how many came before it.
            StorageError: some could not be written; those that ``progress`` was told of are.
        """
        read = new = 0

        async def take(chunk: list[NewKey]) -> None:
            nonlocal read, new
            new += sum(await self._writes.add(chunk))
            read += len(chunk)
            self.sweeping.notify_changed()
            progress(read)

        await _in_chunks(cids, take)
        return ManyResult(read, new)

    async def stop_many(self, cids: Cids, progress: Progress) -> ManyResult:
        """Stop keeping ``cids`` provided.

        Raises:
            UsageError: one is no CID; the message says how many came before it.
            StorageError: some could not be removed; those that ``progress`` was told of are.
        """
        read = removed = 0

        async def take(chunk: list[NewKey]) -> None:
            nonlocal read, removed
            removed += await self._stop([each.key for each in chunk])
            read += len(chunk)
            progress(read)

        await _in_chunks(cids, take)
        return ManyResult(read, removed)

    async def _stop(self, keys: Sequence[bytes]) -> int:
        were_there = await self._writes.remove(keys)
        for key, was_there in zip(keys, were_there, strict=True):
            if was_there:
                self.sweeping.withdraw(key)
                self._deliveries.cancel(key)  # whose end nobody is told of
                self._holders.pop(key, None)
        return sum(were_there)

    # --- what is kept -----------------------------------------------------------------------------

    async def own_keys(self) -> AsyncGenerator[OwnKey, None]:
        """The own keys in the order of the keyspace, read a page at a time. Those that are added or
        removed meanwhile may be missing or not.

        Raises:
            StorageError: as the store says.
        """
        after, keys = b"", self._storage.store.keys
        while True:
            page = await self._storage.call(partial(keys.page, after, LIST_PAGE_KEYS))
            for own in page:
                yield self._with_sweep(own)
            if len(page) < LIST_PAGE_KEYS:
                return
            after = page[-1].key

    def _with_sweep(self, own: OwnKey) -> OwnKey:
        """``own`` with the time of the last sweep, if that provided it last."""
        swept = self.sweeping.sweep.swept_at(place_of(key_of(own.key)))
        if own.waits or own.last_provided is None or own.last_provided >= swept:
            return own
        return replace(own, last_provided=swept)

    async def status(self, key: bytes) -> KeyStatus | None:
        """How ``key`` stands; None if it is not kept provided.

        Raises:
            StorageError: as the store says.
        """
        keys, point = self._storage.store.keys, key_of(key)
        found = await self._storage.call(partial(keys.find, key))
        if found is None:
            return None
        own, place, now = self._with_sweep(found), place_of(point), self._clock.unix()
        held_by, provided_at = None, own.last_provided
        alone = self._holders.get(key)
        if alone is not None and alone[0] == provided_at:
            held_by = alone[1]
        elif provided_at is not None:
            swept_by = await self._storage.call(partial(keys.holders_of, place, provided_at))
            if swept_by is not None:
                near = sorted(swept_by, key=lambda peer: peer.key ^ point)
                held_by = tuple(near[: self._network.k])
        return KeyStatus(
            key=key,
            cid=own.written,
            added=own.added,
            last_provided=own.last_provided,
            due=now if own.waits else self.sweeping.sweep.due_at(place, now),
            held_by=held_by,
            wanted=self._network.k,
        )

    async def totals(self) -> ProvideStatus:
        """How all of the own keys stand.

        Raises:
            StorageError: as the store says.
        """
        waiting = await self._storage.call(self._storage.store.keys.count_waiting)
        figures = self.sweeping.sweep.figures(self._clock.unix())
        return ProvideStatus(
            keys=len(self._storage.own_keys),
            waiting=waiting,
            connectivity=figures.connectivity.value,
            regions=figures.regions,
            regions_due=figures.due,
            regions_running=figures.running,
            next_due=figures.next_due,
            lag_s=figures.lag_s,
            keys_per_s=figures.keys_per_s,
            holders_per_key=figures.copies_per_key,
            wanted=self._network.k,
        )


def told_addrs(
    network: Network,
    own_addrs: Callable[[], tuple[Multiaddr, ...]],
    provider_addrs: Sequence[bytes],
) -> tuple[bytes, ...]:
    """The addresses that a provider record of this node names: ``provider_addrs`` if there are any,
    or else those of this node that the network's policy lets others be told (GO filters them too).

    Raises:
        NoPeersError: there are none.
    """
    if provider_addrs:
        return tuple(provider_addrs)
    addrs = own_addrs()
    told = network.address_filter(binary(addrs))
    if told:
        return told
    if not addrs:
        raise NoPeersError("this node listens nowhere: there is no address to tell others")
    raise NoPeersError(
        "this node has no public address to tell others, only "
        + ", ".join(map(str, addrs))
        + ": forward a port to it, or give its public address (announce)"
    )


async def _in_chunks(cids: Cids, take: Callable[[list[NewKey]], Awaitable[None]]) -> None:
    """Call ``take`` with the keys of ``cids``, ``MANY_KEYS`` at a time, letting others run now and
    then.

    Raises:
        UsageError: one is no CID; the message says how many came before it.
    """
    chunk: list[NewKey] = []
    count = 0

    async def add(cid: CidLike) -> None:
        nonlocal chunk, count
        chunk.append(new_key_of(cid, f"cids, after {count} of them"))
        count += 1
        if count % KEYS_BETWEEN_CHECKPOINTS == 0:
            await trio.lowlevel.checkpoint()
        if len(chunk) == MANY_KEYS:
            full, chunk = chunk, []
            await take(full)

    if isinstance(cids, AsyncGenerator):
        async with aclosing(cids):
            async for cid in cids:
                await add(cid)
    elif isinstance(cids, AsyncIterable):
        async for cid in cids:
            await add(cid)
    else:
        for cid in cids:
            await add(cid)
    if chunk:
        await take(chunk)


async def _ignore(_result: ProvideResult) -> None:
    """Is told of the end and does nothing."""
