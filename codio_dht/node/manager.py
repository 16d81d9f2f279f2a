"""``DHTManager``: the DHT as a program sees it.

Checks what callers pass, hands each call to the part that does it (a call goes to the node's main
network), and makes the answer fit for callers. Decides nothing else: when parts start and end is
decided by :mod:`codio_dht.node.life`, what they do by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import trio
from multiaddr import Multiaddr

from codio_dht.config import DHTConfig
from codio_dht.core.clock import Monotonic
from codio_dht.core.join_round import BOOTSTRAP_DIAL_TIMEOUT_S
from codio_dht.core.keyspace import distance, key_of
from codio_dht.core.lookup_states import ClosestPeer, Standing
from codio_dht.core.messages import PeerEntry
from codio_dht.core.mode import Mode
from codio_dht.core.multihash import CidLike
from codio_dht.core.peer import PeerId, PeerInfo, PeerLike
from codio_dht.errors import DialError, StorageError, UsageError
from codio_dht.logger import get_logger
from codio_dht.net.host import ConnectionInfo, Host
from codio_dht.node import arguments
from codio_dht.node.assembly import NetworkPlan, Node
from codio_dht.node.calls import ended_with_the_node
from codio_dht.node.clock import Clock
from codio_dht.node.deny_calls import DenyCalls, DenySource, deny_argument
from codio_dht.node.hosting import Stack, check_stack, host_of, open_host
from codio_dht.node.life import MakeHost, NodeLife
from codio_dht.node.lookups import Watch, ignore
from codio_dht.node.provide_calls import ProvideCalls
from codio_dht.node.result_stream import ResultStream
from codio_dht.node.results import DHTStats, FoundPeer, ProviderRecord
from codio_dht.node.runtime import NetworkRuntime
from codio_dht.node.value_calls import ValueCalls

if TYPE_CHECKING:
    from libp2p.abc import IHost

log = get_logger(__name__)

Addresses = arguments.Addresses
Found = TypeVar("Found")


class DHTManager(ProvideCalls, ValueCalls, DenyCalls):
    """A DHT node of the libp2p network. Use it with ``async with``; outside of that block its calls
    raise ``NotRunningError``.

    ``DHTManager(host, ...)`` runs the DHT on a py-libp2p host that the program already has (or on
    any :class:`codio_dht.net.host.Host`); :meth:`open` makes a host of its own.

    Args:
        host: a running ``libp2p.abc.IHost``, or a ``Host``.
        config: settings; the defaults if None.
        data_dir: where keys, records and the routing table are kept over a restart; None keeps
            everything in memory and leaves nothing on disk.
        bootstrap: addresses that end in ``/p2p/<id>``; ``"default"`` stands for the public list.
        mode: ``"auto"``, ``"server"`` or ``"client"``.
        clock: where Unix time is read; the system's if None.
        deny: what this node has no part in: ``pathlib.Path`` objects of deny lists, which are read
            again when they change, and rules (:mod:`codio_dht.core.denials`).

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
        deny: Iterable[DenySource] = (),
    ) -> None:
        self._configure(lambda: host_of(host), config, data_dir, bootstrap, mode, clock, deny)

    @classmethod
    def open(
        cls,
        config: DHTConfig | None = None,
        *,
        data_dir: str | Path | None = None,
        listen: Addresses = ("/ip4/0.0.0.0/tcp/4001",),
        announce: Addresses = (),
        append_announce: Addresses = (),
        bootstrap: Addresses = (),
        mode: str = "auto",
        stack: Stack = "own",
        deny: Iterable[DenySource] = (),
    ) -> Self:
        """Make a node with a host of its own, for ``async with``.

        Its identity is the file ``identity.key`` in ``data_dir``, made at the first start; without
        ``data_dir`` it is a new one each time.

        Args:
            config: as for the class.
            data_dir: as for the class.
            listen: the addresses to listen on.
            announce: the addresses to tell others, instead of those listened on.
            append_announce: addresses to tell others beside those.
            bootstrap: as for the class.
            mode: as for the class.
            stack: the libp2p stack of the host: ``"own"`` for this project's, ``"py-libp2p"`` for
                py-libp2p (the extra ``codio-dht[libp2p]``).
            deny: as for the class.

        Raises:
            UsageError: an argument is wrong, or py-libp2p is not installed; the message says which.
        """
        listen_on = arguments.multiaddr_list_argument(listen, "listen")
        announced = arguments.announce_argument(announce, "announce")
        appended = arguments.announce_argument(append_announce, "append_announce")
        check_stack(stack)
        directory = arguments.data_dir_argument(data_dir)
        self = cls.__new__(cls)
        self._configure(
            lambda: open_host(directory, listen_on, announced, stack, append_announce=appended),
            config,
            directory,
            bootstrap,
            mode,
            deny=deny,
        )
        return self

    def _configure(
        self,
        make_host: MakeHost,
        config: DHTConfig | None,
        data_dir: str | Path | None,
        bootstrap: Addresses,
        mode: str,
        clock: Clock | None = None,
        deny: Iterable[DenySource] = (),
    ) -> None:
        if config is not None and not isinstance(config, DHTConfig):
            raise UsageError(f"config must be a DHTConfig, not {config!r}")
        mode = arguments.mode_argument(mode)
        self._config = config or DHTConfig()
        through = arguments.bootstrap_argument(bootstrap)
        self._life = NodeLife(
            make_host,
            arguments.data_dir_argument(data_dir),
            [NetworkPlan(self._config, through.peers, mode, names=through.names)],
            joins_public_list=through.joins_public_list,
            clock=Clock() if clock is None else clock,
            deny=deny_argument(deny),
        )

    def __repr__(self) -> str:
        if not self._life.is_open:
            return "<DHTManager, not open>"
        table = len(self._main.network.table)
        return f"<DHTManager {self.peer_id}, {self.mode.value}, {table} peers in its table>"

    # --- life -------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open the node.

        Raises:
            UsageError: it is open already, or this is asyncio, not trio.
            StorageError, IdentityError: the data directory cannot be used.
        """
        await self._life.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Not told of the block's own error: a nursery would wrap it in a group.
        try:
            await self._life.close()
        except StorageError as failure:
            if error is None:
                raise
            log.warning("close_failed", error=str(failure))

    @property
    def _node(self) -> Node:
        return self._life.node

    @property
    def _main(self) -> NetworkRuntime:
        return self._node.main

    @property
    def _host(self) -> Host:
        return self._node.shared.host

    # --- what the node is -------------------------------------------------------------------------

    @property
    def peer_id(self) -> PeerId:
        """The node's identity: its peer id."""
        return self._host.peer_id

    @property
    def addrs(self) -> list[Multiaddr]:
        """The addresses of this node that others are told, without ``/p2p``."""
        return list(self._host.addrs)

    @property
    def mode(self) -> Mode:
        """SERVER: the node answers the DHT protocol, and others keep it in their tables. CLIENT: it
        only asks (kad-dht specification, "Client and server mode")."""
        return self._main.mode if self._life.is_open else Mode.CLIENT

    @property
    def bootstrap_state(self) -> str:
        """How joining the network goes: ``DHTStats.bootstrap``, without counting the rest."""
        return self._main.upkeep.joining.value

    @ended_with_the_node
    async def joined(self) -> None:
        """Return when the node has joined the network: its routing table has a peer. It may take
        for ever, so give it a time limit."""
        await self._main.upkeep.joined()

    def connections(self) -> list[ConnectionInfo]:
        """Every open connection of the host."""
        return self._host.connections()

    def stats(self) -> DHTStats:
        """Count what the node holds and has done. Reads nothing from the disk."""
        return self._main.stats()

    # --- the routing table ------------------------------------------------------------------------

    def routing_table_peers(self) -> list[PeerId]:
        """The peers in the routing table; who has been there longest comes first."""
        return self._main.network.table.peers()

    def get_closest_peers(self, key: bytes | PeerId) -> list[PeerId]:
        """The peers of this node's routing table that are closest to ``key``, nearest first: up to
        ``DHTConfig.replication_factor`` of them, without asking anyone."""
        target = key_of(arguments.key_argument(key))
        return self._main.network.table.nearest(target, self._config.replication_factor)

    @ended_with_the_node
    async def bootstrap(self, addrs: Addresses) -> int:
        """Join the network through peers at ``addrs``, then refresh the routing table (kad-dht
        specification, "Bootstrap process").

        Args:
            addrs: addresses that end in ``/p2p/<id>``, or ``/dnsaddr/HOST``, which stands for all
                peers that its TXT records list, or ``default``.

        Returns:
            How many of the peers answered as DHT servers.

        Raises:
            UsageError: ``addrs`` is empty, or one of them is none of these.
            DialError: no peer answered.
            NetworkError: nobody was given but names, and none of them lists a peer.
        """
        upkeep = self._main.upkeep
        through = arguments.bootstrap_argument(addrs, "addrs")
        if not through.peers and not through.names:
            raise UsageError("addrs must name at least one peer")
        peers = await upkeep.with_named(through.peers, through.names)
        answered = await upkeep.join(peers)
        if not answered:
            raise DialError(f"none of the {len(peers)} bootstrap peers answered as a DHT server")
        with trio.move_on_after(self._config.query_timeout):
            await upkeep.refresh_now()
        return answered

    @ended_with_the_node
    async def refresh(self) -> None:
        """Refresh the routing table now: look up this node's own key and a key in every part of the
        keyspace, as go's ``RefreshRoutingTable`` does. Returns when all of that is done.

        Raises:
            NoPeersError: the routing table is empty.
        """
        await self._main.upkeep.refresh_now()

    # --- peers ------------------------------------------------------------------------------------

    @ended_with_the_node
    async def connect(self, addr: Multiaddr | str | bytes) -> PeerId:
        """Connect to the peer at ``addr``, an address that ends in ``/p2p/<id>``. If it is not
        there, ask the network where it is now and connect to it there. Of the peers that a
        ``/dnsaddr/HOST`` without an id lists, connect to the first that can be reached.

        Returns:
            The peer that is connected now.

        Raises:
            UsageError: ``addr`` is no such address, or this node's own.
            DialError: the peer could not be reached.
            DeadlineError: it did not answer within 15 s.
        """
        host = self._host
        found = arguments.peer_or_name_argument(addr, "addr")
        timeout_s = BOOTSTRAP_DIAL_TIMEOUT_S
        if not isinstance(found, PeerInfo):
            deadline = Monotonic(trio.current_time() + timeout_s)
            listed = arguments.peers_at(await host.peers_named_by(found, deadline))
            others = [info for info in listed if info.peer_id != host.peer_id]
            return await self._main.reach_any(others, timeout_s)
        if found.peer_id == host.peer_id:
            raise UsageError("addr is this node's own")
        await self._main.reach(found.peer_id, timeout_s, found.addrs)
        return found.peer_id

    @ended_with_the_node
    async def ping(self, peer_id: PeerLike) -> float:
        """Measure one round trip to a peer with ``/ipfs/ping/1.0.0``. A peer that is not connected
        is dialled first, and looked for if it is not where it was known to be.

        Returns:
            The time of the round trip, in seconds.

        Raises:
            UsageError: ``peer_id`` is no peer id, or this node's own.
            NetworkError: the peer could not be found or reached, or did not answer.
        """
        host = self._host
        peer = arguments.peer_argument(peer_id)
        if peer == host.peer_id:
            raise UsageError("peer_id is this node's own")
        await self._main.reach(peer, self._config.dial_timeout)
        return await host.ping(peer, Monotonic(trio.current_time() + self._config.request_timeout))

    @ended_with_the_node
    async def find_peer(self, peer_id: PeerLike) -> list[Multiaddr]:
        """Find the addresses of a peer (go's ``FindPeer``). Asks the network unless the peer is
        connected.

        Returns:
            Its addresses, without ``/p2p``; none if nobody knows the peer.

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
        """Find the peers of the network that are closest to ``key``, nearest first (go's
        ``GetClosestPeers``).

        Each answered this lookup, or says when it was last known to be alive
        (:class:`~codio_dht.FoundPeer`). Peers that the lookup has only heard of are not returned.

        Args:
            key: a peer id, or the preimage of a key: the bytes that are hashed.
            watch: called with each event of the lookup as it happens.

        Raises:
            NoPeersError: there is nobody to ask.
        """
        main = self._main
        done = await main.lookups.closest(arguments.key_argument(key), watch or ignore)
        found = [each for each in done.closest if each.standing is not Standing.HEARD]
        return [main.found_peer(each) for each in found]

    def iter_closest_peers(self, key: bytes | PeerId) -> ResultStream[ClosestPeer, FoundPeer]:
        """Find the peers closest to ``key`` as :meth:`find_closest_peers` does, and give each as
        soon as it is certain to be one of them.

        They come nearest first as a rule, the last ones when the lookup is over. If a nearer peer
        is found late, a peer that it displaces has been given already and is not taken back. With
        ``disjoint_paths`` no peer is certain before the end. The lookup ends when the iterator is
        closed or dropped, as with :meth:`iter_providers`.

        Raises:
            NoPeersError: there is nobody to ask.
        """
        main, preimage = self._main, arguments.key_argument(key)
        stream = ResultStream(main.found_peer)
        self._search_into(stream, partial(main.find_closest, preimage))
        return stream

    # --- providers --------------------------------------------------------------------------------

    @ended_with_the_node
    async def provider_records(self, cid: CidLike) -> list[ProviderRecord]:
        """The provider records of other peers that this node holds for ``cid``."""
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
    async def find_providers(self, cid: CidLike, count: int | None = None) -> list[PeerInfo]:
        """Find up to ``count`` providers of ``cid``, in the order they are found; None looks until
        the lookup is complete (kad-dht specification, "Content provider discovery").

        Raises:
            NoPeersError: none is known here, and there is nobody to ask.
        """
        found: dict[PeerId, PeerEntry] = {}

        def take(entry: PeerEntry) -> None:
            found[entry.peer_id] = entry

        main, key = self._main, arguments.multihash_of(cid)
        await main.find_providers(key, arguments.count_argument(count), take)
        return [main.provider(entry) for entry in found.values()]

    def iter_providers(
        self, cid: CidLike, count: int | None = None
    ) -> ResultStream[PeerEntry, PeerInfo]:
        """Find providers of ``cid`` and give each as it is found (go's ``FindProvidersAsync``).

        A provider that was found without an address may come again with one. The lookup ends when
        the iterator is closed with ``aclose()``, or is no longer held by anybody.

        Raises:
            NoPeersError: none is known here, and there is nobody to ask.
        """
        main, key = self._main, arguments.multihash_of(cid)
        wanted = arguments.count_argument(count)
        stream = ResultStream(main.provider)
        self._search_into(stream, partial(main.find_providers, key, wanted))
        return stream
