"""codio_dht: a libp2p Kademlia DHT node.

    from codio_dht import DHTConfig, DHTManager

    async with DHTManager.open(DHTConfig(), bootstrap=[...]) as dht:
        await dht.provide(cid)
        peers = await dht.find_providers(cid)

Importing this package imports neither trio nor libp2p; they come with the first use of a name that
needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codio_dht.config import DHTConfig as DHTConfig
    from codio_dht.core.mode import Mode as Mode
    from codio_dht.core.peer import PeerId as PeerId
    from codio_dht.core.peer import PeerInfo as PeerInfo
    from codio_dht.errors import CodioError as CodioError
    from codio_dht.node.libp2p_routing import Libp2pRouting as Libp2pRouting
    from codio_dht.node.manager import DHTManager as DHTManager
    from codio_dht.node.results import DHTStats as DHTStats
    from codio_dht.node.results import FoundPeer as FoundPeer
    from codio_dht.node.results import ProvideResult as ProvideResult
    from codio_dht.node.results import ProviderRecord as ProviderRecord

__version__ = "0.1.0"

_HOMES = {
    "CodioError": "codio_dht.errors",
    "DHTConfig": "codio_dht.config",
    "DHTManager": "codio_dht.node.manager",
    "DHTStats": "codio_dht.node.results",
    "FoundPeer": "codio_dht.node.results",
    "Libp2pRouting": "codio_dht.node.libp2p_routing",
    "Mode": "codio_dht.core.mode",
    "PeerId": "codio_dht.core.peer",
    "PeerInfo": "codio_dht.core.peer",
    "ProvideResult": "codio_dht.node.results",
    "ProviderRecord": "codio_dht.node.results",
}

__all__ = [
    "CodioError",
    "DHTConfig",
    "DHTManager",
    "DHTStats",
    "FoundPeer",
    "Libp2pRouting",
    "Mode",
    "PeerId",
    "PeerInfo",
    "ProvideResult",
    "ProviderRecord",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
