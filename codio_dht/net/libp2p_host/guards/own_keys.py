"""R1: the host's own entry must survive the peer store's clean-up.

Upstream: ``libp2p.peer.peerstore.PeerStore._enforce_peer_limit`` and ``_cleanup_expired_records``
(0.8.1) evict entries without addresses first, once 1,000 peers are known. The host's own entry,
which holds its keys, never has an address, so it goes first; from then on the host cannot sign,
and the next inbound identify stops it.

Guard: the own entry is lifted out while upstream evicts, and put back. Applies to a live host. A
peer store that does not evict (another ``IPeerStore``) needs no guard and gets none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore

from codio_dht.net.libp2p_host.guards.counters import Counters
from codio_dht.net.libp2p_host.guards.upstream import Symbol, check, replace

SYMBOLS = (
    Symbol("libp2p.peer.peerstore", "PeerStore._enforce_peer_limit", ("self",)),
    Symbol("libp2p.peer.peerstore", "PeerStore._cleanup_expired_records", ("self",)),
)


def protect_own_entry(peerstore: Any, own_id: ID, counters: Counters) -> None:
    """Keep ``own_id`` in ``peerstore`` whatever it evicts."""
    check(SYMBOLS)
    if not isinstance(peerstore, PeerStore):
        return
    for name in ("_enforce_peer_limit", "_cleanup_expired_records"):
        spare = _sparing(peerstore, own_id, getattr(peerstore, name), counters)
        replace(peerstore, name, spare)


def _sparing(
    peerstore: PeerStore, own_id: ID, evict: Callable[[], None], counters: Counters
) -> Callable[[], None]:
    def evict_others() -> None:
        before = len(peerstore.peer_data_map)
        own = peerstore.peer_data_map.pop(own_id, None)
        try:
            evict()
        finally:
            if own is not None:
                peerstore.peer_data_map[own_id] = own
        counters.add("peerstore_evicted", before - len(peerstore.peer_data_map))

    return evict_others
