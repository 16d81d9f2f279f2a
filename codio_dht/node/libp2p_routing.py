"""The DHT as the routing interfaces of py-libp2p 0.8.1.

Decides only how calls of those interfaces become calls of ``DHTManager``. Imports libp2p, so
nothing else of the package imports this module; programs get ``codio_dht.Libp2pRouting``.

``IContentRouting`` has plain methods, which cannot wait for the network on trio's thread. So
``provide`` begins the work and returns, and what ``find_provider_iter`` returns is read with
``async for`` there, and with ``for`` on any other thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import trio
from libp2p.abc import IContentRouting, IPeerRouting
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo as Libp2pPeerInfo

from codio_dht.errors import CapacityError, CodioError, NoPeersError, NotRunningError, UsageError
from codio_dht.logger import get_logger
from codio_dht.node import arguments

if TYPE_CHECKING:
    from codio_dht.core.messages import PeerEntry
    from codio_dht.core.peer import PeerInfo
    from codio_dht.node.manager import DHTManager
    from codio_dht.node.result_stream import ResultStream

log = get_logger(__name__)

MAX_BEGUN_PROVIDES: Final = 1_000
"""Provides that were begun with the plain ``provide`` and are not over. One more raises
``CapacityError``: nobody waits for them, so nothing else slows the caller down."""

T = TypeVar("T")


class Libp2pRouting(IPeerRouting, IContentRouting):
    """A DHT as py-libp2p's ``IPeerRouting`` and ``IContentRouting``, with the value calls of its
    ``KadDHT``.

    A host that finds the addresses of peers through the DHT needs its router before there is a DHT.
    So the router may be made first and attached later::

        routing = Libp2pRouting()
        host = new_host(disc_opt=routing)
        async with host.run(listen_addrs=[...]), DHTManager(host) as dht:
            routing.attach(dht)

    Until a DHT is attached, and after it is closed, calls raise ``NotRunningError``.

    Args:
        dht: an open DHT to attach at once.

    Raises:
        UsageError: this is not trio's thread, so nothing can be attached.
    """

    def __init__(self, dht: DHTManager | None = None) -> None:
        self._dht: DHTManager | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._begun = 0
        if dht is not None:
            self.attach(dht)

    def __repr__(self) -> str:
        return f"Libp2pRouting({self._dht!r})"

    def attach(self, dht: DHTManager) -> None:
        """Route through ``dht`` from now on, instead of any other.

        Raises:
            UsageError: this is not trio's thread.
        """
        if not _on_trio_thread():
            raise UsageError("attach must be called on the thread of the trio program of the DHT")
        self._dht, self._token = dht, trio.lowlevel.current_trio_token()

    # --- IPeerRouting -----------------------------------------------------------------------------

    async def find_peer(self, peer_id: ID) -> Libp2pPeerInfo | None:
        """Find the addresses of a peer; None if nobody knows one, or nobody can be asked.

        Raises:
            UsageError: it is no peer id.
            NotRunningError: there is no open DHT.
        """
        dht = self._attached()
        try:
            addrs = await dht.find_peer(peer_id)
        except NoPeersError:
            return None
        return Libp2pPeerInfo(peer_id, addrs) if addrs else None

    # --- IContentRouting --------------------------------------------------------------------------

    def provide(self, cid: bytes, announce: bool = True) -> None:
        """Begin to provide ``cid``, and return. May be called on any thread.

        This is ``DHTManager.provide`` in the background: the key is kept provided until
        ``stop_providing``. What fails is logged. ``await dht.provide(cid)`` tells more, and is the
        only way to know that the key is on disk.

        Raises:
            UsageError: ``cid`` is no CID, or the network is not to be told of it: the DHT keeps
                no key that it does not provide.
            CapacityError: 1,000 provides that were begun like this are not over.
            NotRunningError: there is no open DHT.
        """
        if not announce:
            raise UsageError("announce must be True: the DHT keeps no key that it does not provide")
        key = arguments.multihash_of(cid)
        self._on_trio(partial(self._begin_provide, key))

    def find_provider_iter(self, cid: bytes, count: int) -> FoundProviders:
        """Find up to ``count`` providers of ``cid``, each as soon as it is found.

        Read the result with ``async for`` on trio's thread, and with ``for`` on another one (for
        example in ``trio.to_thread.run_sync``). Each loop is a search of its own.

        Raises:
            UsageError: ``cid`` is no CID, or ``count`` is not positive.
        """
        key, most = arguments.multihash_of(cid), arguments.count_argument(count)
        return FoundProviders(self, lambda: self._attached().iter_providers(key, most))

    # --- values, as KadDHT has them ---------------------------------------------------------------

    async def put_value(self, key: str, value: bytes) -> None:
        """Put a value, as ``DHTManager.put_value`` does.

        Raises:
            UsageError: it is not valid, or worse than the one that this node holds.
            NoPeersError: there is nobody to give it to.
        """
        await self._attached().put_value(key, value)

    async def get_value(self, key: str, quorum: int = 0) -> bytes | None:
        """Get the best value of a key, as ``DHTManager.get_value`` does; None if there is none.

        Raises:
            UsageError: the key's namespace has no validator here.
            NoPeersError: there is nobody to ask, and this node holds none.
        """
        return await self._attached().get_value(key, quorum)

    # --- which thread, which DHT ------------------------------------------------------------------

    def _attached(self) -> DHTManager:
        if self._dht is None:
            raise NotRunningError("no DHT is attached: call attach(dht) inside its `async with`")
        return self._dht

    def _on_trio(self, call: Callable[[], T]) -> T:
        """The result of ``call``, made on trio's thread, whichever this one is."""
        self._attached()
        if _on_trio_thread():
            return call()
        try:
            return trio.from_thread.run_sync(call, trio_token=self._token)
        except trio.RunFinishedError as error:
            raise NotRunningError("the trio program of the DHT has ended") from error

    def _begin_provide(self, key: bytes) -> None:
        if self._begun >= MAX_BEGUN_PROVIDES:
            raise CapacityError(f"{self._begun} provides were begun and are not over")
        dht = self._attached()
        life = dht._life  # noqa: SLF001 - one package
        life.nursery.start_soon(self._provide, dht, key, life.node.shared.failures)
        self._begun += 1

    async def _provide(self, dht: DHTManager, key: bytes, failures: Counter[str]) -> None:
        try:
            await dht.provide(key)
        except CodioError as error:
            log.warning("provide_failed", key=key.hex(), error=str(error))
        except Exception:  # the edge of a task that lives in the node's nursery
            failures["provide"] += 1
            log.exception("provide_failed", key=key.hex())
        finally:
            self._begun -= 1


def _on_trio_thread() -> bool:
    try:
        trio.lowlevel.current_trio_token()
    except RuntimeError:
        return False
    return True


class FoundProviders:
    """The providers that a search finds: an iterable for threads, and an async one for trio."""

    def __init__(
        self, routing: Libp2pRouting, search: Callable[[], ResultStream[PeerEntry, PeerInfo]]
    ) -> None:
        self._routing = routing
        self._search = search

    def __iter__(self) -> Iterator[Libp2pPeerInfo]:
        """Search, and wait for each provider on this thread, which must not be trio's."""
        if _on_trio_thread():
            raise UsageError("a plain loop would stop the DHT itself: read it with `async for`")
        return self._of_thread()

    def _of_thread(self) -> Iterator[Libp2pPeerInfo]:
        routing = self._routing
        found = routing._on_trio(self._search)  # noqa: SLF001 - one module
        while (info := self._next(found)) is not None:
            yield info.to_libp2p()

    def _next(self, found: ResultStream[PeerEntry, PeerInfo]) -> PeerInfo | None:
        async def one() -> PeerInfo | None:
            return await anext(found, None)

        try:
            return trio.from_thread.run(one, trio_token=self._routing._token)  # noqa: SLF001
        except trio.RunFinishedError as error:
            raise NotRunningError("the trio program of the DHT has ended") from error

    async def __aiter__(self) -> AsyncIterator[Libp2pPeerInfo]:
        """Search, and give each provider as it is found. The search ends with the loop."""
        async with self._search() as found:
            async for info in found:
                yield info.to_libp2p()
