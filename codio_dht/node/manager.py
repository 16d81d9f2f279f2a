"""``DHTManager``: the DHT as a program sees it.

Decides in which order host, store, networks and background work start and stop, and checks what
callers pass. What a call does is decided by the parts that :mod:`codio_dht.node.assembly` makes; a
call goes to the node's main network.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import trio
from multiaddr import Multiaddr

from codio_dht import params
from codio_dht.config import DHTConfig
from codio_dht.core.addresses import node_is_public
from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import distance, key_of
from codio_dht.core.lookup_states import ClosestPeer, Standing
from codio_dht.core.messages import PeerEntry
from codio_dht.core.mode import Mode
from codio_dht.core.peer import PeerId, PeerInfo
from codio_dht.errors import DialError, NotRunningError, StorageError, UsageError
from codio_dht.logger import get_logger
from codio_dht.net.host import ConnectionInfo, Host
from codio_dht.node import arguments, background
from codio_dht.node.assembly import NetworkPlan, Node, make_node
from codio_dht.node.calls import Calls, ended_with_the_node
from codio_dht.node.clock import Clock
from codio_dht.node.hosting import Stack, check_stack, host_of, open_host, open_store
from codio_dht.node.lookup_driver import Watch
from codio_dht.node.lookups import ignore
from codio_dht.node.result_stream import ResultStream, run_search
from codio_dht.node.results import DHTStats, FoundPeer, ProvideResult, ProviderRecord
from codio_dht.node.runtime import NetworkRuntime
from codio_dht.store.interface import OwnKey

if TYPE_CHECKING:
    from libp2p.abc import IHost
    from libp2p.peer.id import ID

log = get_logger(__name__)

MakeHost = Callable[[], AbstractAsyncContextManager[Host]]
Addresses = arguments.Addresses
Found = TypeVar("Found")


class DHTManager:
    """A DHT node. Use it as ``async with``; outside of the block every call raises
    ``NotRunningError``.

    ``DHTManager(host, ...)`` mounts the DHT on a py-libp2p host that the program already runs (or
    on any :class:`codio_dht.net.host.Host`); :meth:`open` makes a host of its own.

    Args:
        host: a running ``libp2p.abc.IHost``, or a ``Host``.
        config: settings; the defaults if None.
        data_dir: where keys, records and the routing table are kept over a restart; None keeps
            everything in memory and leaves nothing on disk.
        bootstrap: addresses that end in ``/p2p/<id>``; ``"default"`` stands for the public list.
        mode: ``"auto"``, ``"server"`` or ``"client"``.
        clock: where Unix time is read; the system's if None.

    Raises:
        UsageError: an argument is wrong; the message names it.
    """

    def __init__(
        self,
        host: IHost | Host,
        config: DHTConfig | None = None,
        *,
        data_dir: str | Path | None = None,
        bootstrap: Addresses = (),
        mode: str = "auto",
        clock: Clock | None = None,
    ) -> None:
        self._configure(lambda: host_of(host), config, data_dir, bootstrap, mode)
        if clock is not None:
            self._clock = clock

    @classmethod
    def open(
        cls,
        config: DHTConfig | None = None,
        *,
        data_dir: str | Path | None = None,
        listen: Addresses = ("/ip4/0.0.0.0/tcp/4001",),
        announce: Addresses = (),
        bootstrap: Addresses = (),
        mode: str = "auto",
        stack: Stack = "own",
    ) -> Self:
        """A node with a host of its own, for ``async with``.

        Its identity is ``identity.key`` in ``data_dir``, made at the first start; without
        ``data_dir`` it is a new one each time. ``announce``, where given, is told to others in
        place of the addresses listened on. ``stack`` is what carries the host: ``"own"``,
        the stack of this project, or ``"py-libp2p"`` (the extra ``codio-dht[libp2p]``). The rest is
        as for the class.
        """
        listen_on = arguments.multiaddr_list_argument(listen, "listen")
        announced = arguments.multiaddr_list_argument(announce, "announce")
        check_stack(stack)
        directory = arguments.data_dir_argument(data_dir)
        self = cls.__new__(cls)
        self._configure(
            lambda: open_host(directory, listen_on, announced, stack),
            config,
            directory,
            bootstrap,
            mode,
        )
        return self

    def _configure(
        self,
        make_host: MakeHost,
        config: DHTConfig | None,
        data_dir: str | Path | None,
        bootstrap: Addresses,
        mode: str,
    ) -> None:
        if config is not None and not isinstance(config, DHTConfig):
            raise UsageError(f"config must be a DHTConfig, not {config!r}")
        mode = arguments.mode_argument(mode)
        self._make_host = make_host
        self._config = config or DHTConfig()
        self._data_dir = arguments.data_dir_argument(data_dir)
        peers, self._joins_public_list = arguments.bootstrap_argument(bootstrap)
        self._plans = [NetworkPlan(self._config, peers, mode)]
        self._clock = Clock()
        self._rng = random.Random()
        self._stack = AsyncExitStack()
        self._calls = Calls()
        self._entered = False
        self._running: Node | None = None
        self._nursery: trio.Nursery

    def _add_network(self, plan: NetworkPlan) -> None:
        """Run one more network on the same host; to be called before the node is opened."""
        assert not self._entered, "open already"
        self._plans.append(plan)

    # --- life -------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open the node.

        Raises:
            UsageError: it is open already.
            StorageError, IdentityError: the data directory cannot be used.
        """
        if self._entered:
            raise UsageError("this DHTManager is open already: make another one, or wait")
        self._entered = True
        try:
            await self._enter()
        except BaseException:
            self._entered = False
            raise
        return self

    async def _enter(self) -> None:
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(open_store(self._data_dir))
            host = await stack.enter_async_context(self._make_host())
            node = make_node(
                host,
                store,
                self._plans,
                self._clock,
                self._rng,
                public=self._is_public(host),
                provider_ttl_s=self._provider_ttl_s(),
            )
            shared = node.shared
            await shared.storage.open()
            await node.providing.open()
            for network in node.networks:
                await stack.enter_async_context(network.opened())
            self._nursery = await stack.enter_async_context(trio.open_nursery())
            stack.callback(self._nursery.cancel_scope.cancel)
            self._running = node
            stack.push_async_callback(self._calls.end)
            stack.callback(self._stopped)
            shared.errands.open(self._nursery)
            work = {**shared.background_work(), "reprovide": node.providing.run}
            background.start_all(self._nursery, work, shared.failures)
            for network in node.networks:
                network.start(self._nursery)
            self._stack = stack.pop_all()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Not told of the block's own error: a nursery would wrap it in a group.
        try:
            await self._stack.aclose()
        except StorageError as failure:
            if error is None:
                raise
            log.warning("close_failed", error=str(failure))
        finally:
            self._entered = False

    def _stopped(self) -> None:
        if self._running is not None:
            for network in self._running.networks:
                network.stop()
        self._running = None

    def _is_public(self, host: Host) -> bool:
        bootstrap = [addr for info in self._plans[0].bootstrap for addr in info.addrs]
        return node_is_public((), arguments.binary(host.addrs), arguments.binary(bootstrap))

    def _provider_ttl_s(self) -> float:
        if self._joins_public_list:
            return max(self._config.provider_timeout, params.PROVIDER_TTL_PUBLIC_S)
        return self._config.provider_timeout

    def _running_call(self) -> AbstractContextManager[None]:
        """The block is a call of the program's."""
        self._node  # noqa: B018 - raises if there is none
        return self._calls.running()

    @property
    def _node(self) -> Node:
        if self._running is None:
            raise NotRunningError("the DHT is not open: use it inside `async with`")
        return self._running

    @property
    def _main(self) -> NetworkRuntime:
        return self._node.main

    @property
    def _host(self) -> Host:
        return self._node.shared.host

    # --- what the node is -------------------------------------------------------------------------

    @property
    def peer_id(self) -> PeerId:
        """Own identity."""
        return self._host.peer_id

    @property
    def addrs(self) -> list[Multiaddr]:
        """Own addresses as told to others, without ``/p2p``."""
        return list(self._host.addrs)

    @property
    def mode(self) -> Mode:
        """Server (answers and is found in others' tables) or client."""
        return Mode.CLIENT if self._running is None else self._running.main.mode

    @property
    def bootstrap_state(self) -> str:
        """How joining the network goes: ``DHTStats.bootstrap``, without counting all the rest."""
        return self._main.upkeep.joining.value

    def connections(self) -> list[ConnectionInfo]:
        """Every open connection."""
        return self._host.connections()

    def stats(self) -> DHTStats:
        """Counts and counters, at once and without touching the disk."""
        return self._main.stats()

    # --- the routing table ------------------------------------------------------------------------

    def routing_table_peers(self) -> list[PeerId]:
        """The peers in the routing table, longest in it first."""
        return self._main.network.table.peers()

    def get_closest_peers(self, key: bytes | PeerId) -> list[PeerId]:
        """Up to 20 peers of the own routing table closest to ``key``, nearest first."""
        target = key_of(arguments.key_argument(key))
        return self._main.network.table.nearest(target, self._config.replication_factor)

    @ended_with_the_node
    async def bootstrap(self, addrs: Addresses) -> int:
        """Join through these peers, and look around; how many of them answered.

        Raises:
            DialError: none of them did.
        """
        upkeep = self._main.upkeep
        peers, _ = arguments.bootstrap_argument(addrs, "addrs")
        if not peers:
            raise UsageError("addrs must name at least one peer")
        answered = await upkeep.join(peers)
        if not answered:
            raise DialError(f"none of the {len(peers)} bootstrap peers answered as a DHT server")
        with trio.move_on_after(self._config.query_timeout):
            await upkeep.refresh_now()
        return answered

    @ended_with_the_node
    async def refresh(self) -> None:
        """Refresh the routing table now: look up the own key and every part of the keyspace.

        Raises:
            NoPeersError: the table is empty.
        """
        await self._main.upkeep.refresh_now()

    # --- peers ------------------------------------------------------------------------------------

    @ended_with_the_node
    async def connect(self, addr: Multiaddr | str | bytes) -> PeerId:
        """Connect to the peer at an address that ends in ``/p2p/<id>``.

        Raises:
            DialError, DeadlineError: it could not be reached there.
        """
        host = self._host
        info = arguments.peer_address_argument(addr, "addr")
        if info.peer_id == host.peer_id:
            raise UsageError("addr is this node's own")
        deadline = Monotonic(trio.current_time() + params.BOOTSTRAP_DIAL_TIMEOUT_S)
        await host.connect(info.peer_id, info.addrs, deadline)
        return info.peer_id

    @ended_with_the_node
    async def ping(self, peer_id: PeerId | ID | str | bytes) -> float:
        """One round trip of ``/ipfs/ping/1.0.0``, seconds; connects, and finds the peer, if need
        be.

        Raises:
            NetworkError: it could not be found, reached, or did not answer.
        """
        host = self._host
        peer = arguments.peer_argument(peer_id)
        if peer == host.peer_id:
            raise UsageError("peer_id is this node's own")
        if not host.is_connected(peer):
            addrs = self._main.addrs_of(peer) or await self.find_peer(peer)
            if not addrs:
                raise DialError(f"no address of {peer} is known")
            by = Monotonic(trio.current_time() + self._config.dial_timeout)
            await host.connect(peer, addrs, by)
        return await host.ping(peer, Monotonic(trio.current_time() + self._config.request_timeout))

    @ended_with_the_node
    async def find_peer(self, peer_id: PeerId | ID | str | bytes) -> list[Multiaddr]:
        """The addresses of a peer; empty if nobody knows it.

        Raises:
            NoPeersError: there is nobody to ask.
        """
        host, main = self._host, self._main
        peer = arguments.peer_argument(peer_id)
        if peer == host.peer_id:
            return list(host.addrs)
        if host.is_connected(peer) and (addrs := main.addrs_of(peer)):
            return addrs
        return main.addrs_of(peer) if await main.lookups.peer(peer) else []

    @ended_with_the_node
    async def find_closest_peers(
        self, key: bytes | PeerId, watch: Watch | None = None
    ) -> list[FoundPeer]:
        """The peers of the network closest to ``key``, nearest first.

        Each has answered this lookup or, where it was too slow for that, is known to be alive and
        says since when (:class:`FoundPeer`). Peers that are only heard of are not returned.
        ``watch`` is called with each :data:`~codio_dht.core.lookup_states.LookupEvent` as it
        happens.

        Raises:
            NoPeersError: there is nobody to ask.
        """
        main = self._main
        done = await main.lookups.closest(arguments.key_argument(key), watch or ignore)
        found = [each for each in done.closest if each.standing is not Standing.HEARD]
        return [main.found_peer(each) for each in found]

    def iter_closest_peers(self, key: bytes | PeerId) -> ResultStream[ClosestPeer, FoundPeer]:
        """As :meth:`find_closest_peers`, each peer as soon as it is certain to be among the
        closest: nearest first as a rule, the last ones when the lookup is over. One that a nearer
        peer pushed out after all, found late, is not taken back. With ``disjoint_paths`` nobody is
        certain before the end. Leaving the loop ends the lookup, as with :meth:`iter_providers`.

        Raises:
            NoPeersError: there is nobody to ask.
        """
        main, preimage = self._main, arguments.key_argument(key)
        stream = ResultStream(main.found_peer)
        self._search_into(stream, partial(main.lookups.each_closest, preimage))
        return stream

    # --- providers --------------------------------------------------------------------------------

    @ended_with_the_node
    async def provide(self, cid: object, quorum: int | None = None) -> ProvideResult:
        """Announce a CID now, and keep it announced until :meth:`stop_providing`, over restarts
        too if there is a data directory.

        Returns when ``quorum`` peers hold the record (None: ``DHTConfig.provide_quorum``); it goes
        on in the background until ``replication_factor`` peers do.

        Raises:
            StorageError: it could not be noted; it is not kept.
            NoPeersError: nobody to tell; it is kept, and announced as soon as there is somebody.
        """
        wanted = arguments.quorum_argument(quorum, self._config.replication_factor)
        return await self._node.providing.provide(arguments.multihash_of(cid), wanted)

    @ended_with_the_node
    async def provide_once(self, cid: object, quorum: int | None = None) -> ProvideResult:
        """Announce a CID now, without keeping it announced. Returns as :meth:`provide`.

        Raises:
            NoPeersError: nobody to tell.
        """
        wanted = arguments.quorum_argument(quorum, self._config.replication_factor)
        return await self._node.providing.announce(arguments.multihash_of(cid), wanted)

    @ended_with_the_node
    async def stop_providing(self, cid: object) -> bool:
        """Announce a CID no more; False if it was not kept. Records already out expire by
        themselves: the network has no message to take one back."""
        return await self._node.providing.stop(arguments.multihash_of(cid))

    @ended_with_the_node
    async def own_keys(self) -> list[OwnKey]:
        """What this node keeps announced (multihashes)."""
        storage = self._node.shared.storage
        return await storage.call(storage.store.own_keys)

    @ended_with_the_node
    async def provider_records(self, cid: object) -> list[ProviderRecord]:
        """The provider records of others that this node holds for a CID."""
        key = arguments.multihash_of(cid)
        rows = await self._node.shared.storage.rows(key)
        return [
            ProviderRecord(
                cid=key,
                provider=PeerInfo(row.provider, arguments.multiaddrs(row.addrs)),
                timestamp=row.received,
                distance=distance(key_of(key), row.provider.key),
            )
            for row in rows
        ]

    @ended_with_the_node
    async def find_providers(self, cid: object, count: int | None = None) -> list[PeerInfo]:
        """Up to ``count`` providers of a CID, in the order they were found; None asks until the
        lookup is complete.

        Raises:
            NoPeersError: there is nobody to ask.
        """
        found: dict[PeerId, PeerEntry] = {}

        def take(entry: PeerEntry) -> None:
            found[entry.peer_id] = entry

        main, key = self._main, arguments.multihash_of(cid)
        await main.find_providers(key, arguments.count_argument(count), take)
        return [main.provider(entry) for entry in found.values()]

    def iter_providers(
        self, cid: object, count: int | None = None
    ) -> ResultStream[PeerEntry, PeerInfo]:
        """The providers of a CID as they are found, while the lookup goes on. One that was found
        without an address may come again with one. Leaving the loop ends the lookup (at once with
        ``aclose()``, else as soon as the iterator is no longer held).

        Raises:
            NoPeersError: there is nobody to ask.
        """
        main, key = self._main, arguments.multihash_of(cid)
        wanted = arguments.count_argument(count)
        stream = ResultStream(main.provider)
        self._search_into(stream, partial(main.find_providers, key, wanted))
        return stream

    def _search_into(
        self,
        stream: ResultStream[Found, Any],
        find: Callable[[Callable[[Found], None]], Awaitable[None]],
    ) -> None:
        """Run the search ``find`` in the background; ``stream`` takes what it finds."""
        self._nursery.start_soon(run_search, stream.search, find, self._node.shared.failures)
