"""The calls of ``DHTManager`` that are about this node's own keys: what it provides.

Checks what callers pass, and hands each call to the part that does it. Decides nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from codio_dht.core.multihash import CidLike, multihash_of, new_key_of
from codio_dht.core.own_keys import OwnKey
from codio_dht.node import arguments
from codio_dht.node.calls import ended_with_the_node
from codio_dht.node.lookups import ignore
from codio_dht.node.providing import Cids, Progress, Providing
from codio_dht.node.results import KeyStatus, ManyResult, ProvideResult, ProvideStatus

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from codio_dht.config import DHTConfig
    from codio_dht.node.life import NodeLife


class ProvideCalls:
    """What :class:`~codio_dht.DHTManager` offers for its own keys."""

    _life: NodeLife
    _config: DHTConfig

    def _running_call(self) -> AbstractContextManager[None]:
        """The block is one call of the program."""
        return self._life.call()

    @property
    def _providing(self) -> Providing:
        return self._life.node.providing

    # --- one key ----------------------------------------------------------------------------------

    @ended_with_the_node
    async def provide(self, cid: CidLike, quorum: int | None = None) -> ProvideResult:
        """Tell the network that this node has the content of ``cid``, and provide it again before
        the records expire, until :meth:`stop_providing` (kad-dht specification, "Content provider
        advertisement"). With a data directory this outlives restarts.

        Returns when ``quorum`` peers hold the record (None: ``DHTConfig.provide_quorum``). The rest
        of the ``replication_factor`` closest peers get it in the background.

        Raises:
            UsageError: ``cid`` is no CID, or ``quorum`` is out of range.
            DeniedError: the key is denied; it is not saved.
            StorageError: the key could not be saved; it will not be provided.
            NoPeersError: no peer could be reached, or this node has no address that the network's
                policy lets others be told. The key is saved and will be provided once that changes.
        """
        wanted = arguments.quorum_argument(quorum, self._config.replication_factor)
        new = new_key_of(cid)
        self._life.node.shared.denials.check_key(new.key)
        return await self._providing.provide(new, wanted)

    @ended_with_the_node
    async def provide_once(self, cid: CidLike, quorum: int | None = None) -> ProvideResult:
        """Tell the network once that this node has the content of ``cid``; it is not provided
        again. Returns when :meth:`provide` would.

        Raises:
            UsageError: ``cid`` is no CID, or ``quorum`` is out of range.
            DeniedError: the key is denied.
            NoPeersError: no peer could be reached, or this node has no address that the network's
                policy lets others be told.
        """
        wanted = arguments.quorum_argument(quorum, self._config.replication_factor)
        key = multihash_of(cid)
        self._life.node.shared.denials.check_key(key)
        return await self._providing.provide_once(key, wanted)

    @ended_with_the_node
    async def stop_providing(self, cid: CidLike) -> bool:
        """Provide ``cid`` no more, and hand its record to nobody else from now on. Records that
        peers hold already expire by themselves: the protocol has no message that takes one back.

        Returns:
            Whether it was being provided.

        Raises:
            StorageError: the key could not be removed; it is still being provided.
        """
        return await self._providing.stop(multihash_of(cid))

    # --- many keys --------------------------------------------------------------------------------

    @ended_with_the_node
    async def provide_many(
        self,
        cids: Cids,
        *,
        progress: Progress = ignore,
    ) -> ManyResult:
        """Provide many CIDs, and provide them again before their records expire. It returns when
        all of them are saved: from then on none is forgotten. The network is told in the
        background, region by region; :meth:`provide_status` says how far that is.

        What the deny lists name is saved and not provided, for as long as they name it. No more
        CIDs are read from ``cids`` than can be saved at that moment, so it may be of any
        length, or a generator. ``progress`` is told how many are saved, as it goes on.

        Raises:
            UsageError: one of ``cids`` is no CID. Those before it may be saved; it says how many
                CIDs came before it.
            StorageError: they could not be saved from the last number that ``progress`` was told.
        """
        return await self._providing.provide_many(cids, progress)

    @ended_with_the_node
    async def stop_providing_many(
        self,
        cids: Cids,
        *,
        progress: Progress = ignore,
    ) -> ManyResult:
        """Provide many CIDs no more, as :meth:`stop_providing` does. ``progress`` is told how many
        were removed, or found not to be provided, as it goes on.

        Raises:
            UsageError: one of ``cids`` is no CID. Those before it may be removed; it says how many
                CIDs came before it.
            StorageError: they could not be removed from the last number that ``progress`` was told.
        """
        return await self._providing.stop_many(cids, progress)

    # --- what is provided -------------------------------------------------------------------------

    @ended_with_the_node
    async def own_keys(self) -> list[OwnKey]:
        """The keys that this node keeps provided, as multihashes, all at once.
        :meth:`iter_own_keys` gives them one after another and does not hold them all."""
        async with aclosing(self._providing.own_keys()) as own_keys:
            return [own async for own in own_keys]

    async def iter_own_keys(self) -> AsyncGenerator[OwnKey, None]:
        """The keys that this node keeps provided, one after another, in the order of the keyspace.
        Those that are added or removed meanwhile may be missing or not.

        Raises:
            StorageError: they could not be read.
        """
        async with aclosing(self._providing.own_keys()) as own_keys:
            async for own in own_keys:
                yield own

    @ended_with_the_node
    async def provide_status(self, cid: CidLike | None = None) -> KeyStatus | ProvideStatus | None:
        """How a key stands that this node keeps provided: when it was provided, who holds it, when
        it is due; None if it is not kept. Without a ``cid``, how all of them stand together.

        Raises:
            UsageError: ``cid`` is no CID.
            StorageError: the store could not be read.
        """
        if cid is None:
            return await self._providing.totals()
        return await self._providing.status(multihash_of(cid))
