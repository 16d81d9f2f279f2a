"""What a node tells of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from codio_dht.core.lookup_states import Standing
from codio_dht.core.peer import PeerInfo

if TYPE_CHECKING:
    from collections.abc import Iterable

    from multiaddr import Multiaddr

    from codio_dht.core.peer import PeerId


class FoundPeer(PeerInfo):
    """One of the closest peers that a lookup found, and what is promised of it."""

    __slots__ = ("alive_at", "standing")

    def __init__(
        self,
        peer_id: PeerId,
        addrs: Iterable[Multiaddr],
        standing: Standing,
        alive_at: float | None,
    ) -> None:
        super().__init__(peer_id, addrs)
        self.standing = standing
        """ANSWERED: it answered this lookup. ALIVE: too slow for it, but it answered a request or
        took a connection at ``alive_at``. HEARD: only heard of (the lookup was cut short)."""
        self.alive_at = alive_at
        """Its last sign of life, Unix seconds; None if there was none."""


@dataclass(frozen=True, slots=True)
class ProvideResult:
    """How one provide went."""

    key: bytes
    """The multihash provided."""

    holders: int
    """Peers that have the record."""

    confirmed: int
    """Holders that ended the stream of the record normally, and so said that they took it."""

    attempted: int
    """Peers that were tried; more than the replication factor if some failed and were replaced."""

    pending: int
    """Peers that are still being tried in the background. 0: the provide is over."""

    seconds: float
    """Time from the call to this result, in seconds."""


@dataclass(frozen=True, slots=True)
class DHTStats:
    """A snapshot of the node's state; every field is a count unless it says otherwise."""

    num_peers: int
    """Connected peers."""

    num_providers: int
    """Provider records of others held, expired ones not yet deleted included."""

    routing_table_size: int
    pending_queries: int
    """Requests to peers that are waiting for an answer."""

    mode: str
    own_keys: int
    """Keys this node keeps provided."""

    provider_keys: int
    """Keys for which provider records of others are held."""

    unsaved_records: int
    provider_ttl_s: float
    bootstrap: str
    """``joined``, ``joining``, ``unreachable`` or ``alone`` (no bootstrap peers given)."""

    lookups: dict[str, int] = field(default_factory=dict)
    """Ended lookups, by why they ended."""

    served: dict[str, int] = field(default_factory=dict)
    """Inbound requests by type, and resets by reason."""

    rpc: dict[str, int] = field(default_factory=dict)
    """Outbound requests by outcome."""

    storage: dict[str, int] = field(default_factory=dict)
    host: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    """Unexpected errors in background work, by task; anything here is a bug."""


@dataclass(frozen=True, slots=True)
class ProviderRecord:
    """A provider record of another peer, as held here."""

    cid: bytes
    """The multihash provided (the network keeps no more of a CID)."""

    provider: PeerInfo
    timestamp: float
    """When it was received, Unix seconds."""

    distance: int
    """XOR of the SHA-256 of the multihash and of the provider's id."""
