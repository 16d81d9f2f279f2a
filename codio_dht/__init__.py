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
    from codio_dht.core.lookup_states import Standing as Standing
    from codio_dht.core.mode import Mode as Mode
    from codio_dht.core.multihash import CidLike as CidLike
    from codio_dht.core.multihash import multihash_of as multihash_of
    from codio_dht.core.own_keys import OwnKey as OwnKey
    from codio_dht.core.peer import PeerId as PeerId
    from codio_dht.core.peer import PeerInfo as PeerInfo
    from codio_dht.core.peer import PeerLike as PeerLike
    from codio_dht.core.validation import Validator as Validator
    from codio_dht.crypto.ipns import IpnsRecord as IpnsRecord
    from codio_dht.errors import CapacityError as CapacityError
    from codio_dht.errors import CodioError as CodioError
    from codio_dht.errors import ConfigError as ConfigError
    from codio_dht.errors import DeadlineError as DeadlineError
    from codio_dht.errors import DialError as DialError
    from codio_dht.errors import IdentityError as IdentityError
    from codio_dht.errors import InvalidValueError as InvalidValueError
    from codio_dht.errors import NetworkError as NetworkError
    from codio_dht.errors import NoPeersError as NoPeersError
    from codio_dht.errors import NotRunningError as NotRunningError
    from codio_dht.errors import RemoteError as RemoteError
    from codio_dht.errors import StorageError as StorageError
    from codio_dht.errors import StreamError as StreamError
    from codio_dht.errors import UsageError as UsageError
    from codio_dht.net.host import ConnectionInfo as ConnectionInfo
    from codio_dht.node.libp2p_routing import Libp2pRouting as Libp2pRouting
    from codio_dht.node.manager import DHTManager as DHTManager
    from codio_dht.node.names import PublishedName as PublishedName
    from codio_dht.node.names import ResolvedName as ResolvedName
    from codio_dht.node.result_stream import ResultStream as ResultStream
    from codio_dht.node.results import DHTStats as DHTStats
    from codio_dht.node.results import FoundPeer as FoundPeer
    from codio_dht.node.results import KeyStatus as KeyStatus
    from codio_dht.node.results import ManyResult as ManyResult
    from codio_dht.node.results import ProvideResult as ProvideResult
    from codio_dht.node.results import ProviderRecord as ProviderRecord
    from codio_dht.node.results import ProvideStatus as ProvideStatus

__version__ = "0.1.0"

_HOMES = {
    "CapacityError": "codio_dht.errors",
    "CidLike": "codio_dht.core.multihash",
    "CodioError": "codio_dht.errors",
    "ConfigError": "codio_dht.errors",
    "ConnectionInfo": "codio_dht.net.host",
    "DHTConfig": "codio_dht.config",
    "DHTManager": "codio_dht.node.manager",
    "DHTStats": "codio_dht.node.results",
    "DeadlineError": "codio_dht.errors",
    "DialError": "codio_dht.errors",
    "FoundPeer": "codio_dht.node.results",
    "IdentityError": "codio_dht.errors",
    "InvalidValueError": "codio_dht.errors",
    "IpnsRecord": "codio_dht.crypto.ipns",
    "Libp2pRouting": "codio_dht.node.libp2p_routing",
    "Mode": "codio_dht.core.mode",
    "NetworkError": "codio_dht.errors",
    "NoPeersError": "codio_dht.errors",
    "NotRunningError": "codio_dht.errors",
    "OwnKey": "codio_dht.core.own_keys",
    "PeerId": "codio_dht.core.peer",
    "PeerInfo": "codio_dht.core.peer",
    "PeerLike": "codio_dht.core.peer",
    "KeyStatus": "codio_dht.node.results",
    "ManyResult": "codio_dht.node.results",
    "ProvideResult": "codio_dht.node.results",
    "ProvideStatus": "codio_dht.node.results",
    "ProviderRecord": "codio_dht.node.results",
    "PublishedName": "codio_dht.node.names",
    "RemoteError": "codio_dht.errors",
    "ResolvedName": "codio_dht.node.names",
    "ResultStream": "codio_dht.node.result_stream",
    "Standing": "codio_dht.core.lookup_states",
    "StorageError": "codio_dht.errors",
    "StreamError": "codio_dht.errors",
    "UsageError": "codio_dht.errors",
    "Validator": "codio_dht.core.validation",
    "multihash_of": "codio_dht.core.multihash",
}

__all__ = [
    "CapacityError",
    "CidLike",
    "CodioError",
    "ConfigError",
    "ConnectionInfo",
    "DHTConfig",
    "DHTManager",
    "DHTStats",
    "DeadlineError",
    "DialError",
    "FoundPeer",
    "IdentityError",
    "InvalidValueError",
    "IpnsRecord",
    "KeyStatus",
    "Libp2pRouting",
    "ManyResult",
    "Mode",
    "NetworkError",
    "NoPeersError",
    "NotRunningError",
    "OwnKey",
    "PeerId",
    "PeerInfo",
    "PeerLike",
    "ProvideResult",
    "ProvideStatus",
    "ProviderRecord",
    "PublishedName",
    "RemoteError",
    "ResolvedName",
    "ResultStream",
    "Standing",
    "StorageError",
    "StreamError",
    "UsageError",
    "Validator",
    "multihash_of",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
