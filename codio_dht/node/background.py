"""What goes on for as long as a node runs, beside what its user asks for.

Decides that it goes on: a bug in one task is logged and counted, and that task begins again; the
others, and the node, live on. What each task does, its part decides.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import structlog
import trio

from codio_dht import params
from codio_dht.core.peer import PeerInfo
from codio_dht.errors import StorageError
from codio_dht.net.host import AddrsChanged, HostEvent, PeerGone, PeerIdentified
from codio_dht.node import arguments
from codio_dht.node.assembly import Node
from codio_dht.node.serving import Serving
from codio_dht.store.interface import SnapshotPeer

log = structlog.get_logger(__name__)


class Background:
    """The background work of one node."""

    def __init__(self, node: Node, serving: Serving) -> None:
        self._node = node
        self._serving = serving

    def start(self, nursery: trio.Nursery, events: AsyncIterator[HostEvent]) -> None:
        """Start every task in ``nursery``; they end when it is cancelled."""
        node = self._node
        for name, work in (
            ("events", lambda: self._follow(events)),
            ("loads", node.storage.run_loads),
            ("flushes", node.storage.run_flushes),
            ("expiry", node.storage.run_expiry),
            ("admission", node.upkeep.run_admission),
            ("bootstrap", node.upkeep.run_bootstrap),
            ("refresh", lambda: node.upkeep.run_refresh(node.lookups)),
            ("reprovide", node.providing.run),
            ("reconcile", self._run_reconciling),
            ("snapshot", self._run_snapshots),
        ):
            nursery.start_soon(self._supervise, name, work)

    def remember(self, peers: Sequence[SnapshotPeer]) -> None:
        """Candidates from before the restart: each is probed before it enters the table."""
        self._node.upkeep.remember(
            [PeerInfo(peer.peer_id, arguments.multiaddrs(peer.addrs)) for peer in peers]
        )

    async def save_snapshot(self) -> None:
        """Remember the routing table over a restart; an empty one does not replace the last."""
        node = self._node
        peers = node.snapshot(node.clock.monotonic())
        if not peers:
            return
        with trio.CancelScope(shield=True):
            try:
                await node.storage.call(lambda: node.storage.store.save_snapshot(peers))
            except StorageError as error:
                log.warning("snapshot_failed", error=str(error))

    async def _supervise(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
                return
            except Exception:
                self._node.failures[name] += 1
                log.exception("background_work_failed", work=name)
            await trio.sleep(params.RESTART_DELAY_S)

    async def _follow(self, events: AsyncIterator[HostEvent]) -> None:
        """What the host tells of peers, for ever."""
        node = self._node
        async for event in events:
            now = node.clock.monotonic()
            match event:
                case PeerIdentified(peer_id, protocols, addrs):
                    was_in = peer_id in node.network.table
                    known_as = arguments.binary(addrs)
                    offered = node.network.identified(peer_id, protocols, known_as, now)
                    if offered is not None or was_in:  # most are clients, which nobody waits for
                        node.upkeep.stir()
                case PeerGone(peer_id):
                    node.network.gone(peer_id, now)
                    await node.rpc.forget(peer_id)
                case AddrsChanged(addrs, unproven):
                    node.server.responder.set_own_addrs(arguments.binary(addrs))
                    self._serving.addrs_changed(addrs, unproven)
                    log.info("addresses_changed", addrs=[str(addr) for addr in addrs])

    async def _run_reconciling(self) -> None:
        """Find the peers that have gone without our hearing of it, for ever."""
        node = self._node
        while True:
            await trio.sleep(params.RECONCILE_INTERVAL_S)
            for peer in node.network.book.connected():
                if not node.host.is_connected(peer):
                    node.network.gone(peer, node.clock.monotonic())
                    await node.rpc.forget(peer)

    async def _run_snapshots(self) -> None:
        while True:
            await trio.sleep(params.SNAPSHOT_INTERVAL_S)
            await self.save_snapshot()
