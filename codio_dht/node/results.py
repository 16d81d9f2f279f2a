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

    held_by: tuple[PeerId, ...] = ()
    """The peers that have the record, nearest to the key first."""


@dataclass(frozen=True, slots=True)
class ManyResult:
    """How adding or removing many keys went."""

    keys: int
    """Keys that were given."""

    changed: int
    """Those that were not provided before or, where keys were removed, that were."""


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """How one of this node's own keys stands. Times are Unix seconds."""

    key: bytes
    """The multihash."""

    cid: str | None
    """The CID as it was given; None if it was given as bytes."""

    added: float
    """Since when it is kept provided."""

    last_provided: float | None
    """When it was provided last; None if it was not yet."""

    due: float | None
    """When it is provided next; None if never (``republish_interval`` of 0)."""

    held_by: tuple[PeerId, ...] | None
    """The peers that took its record then, nearest first; None if it is not known any more. A
    record that a peer took may have left it since: the protocol does not tell."""

    wanted: int
    """Peers that should hold it: the replication factor."""

    @property
    def holders(self) -> int | None:
        """How many peers took its record; None if it is not known any more."""
        return None if self.held_by is None else len(self.held_by)


@dataclass(frozen=True, slots=True)
class ProvideStatus:
    """How all of this node's own keys stand. Times are Unix seconds."""

    keys: int
    waiting: int
    """Keys that wait to be provided ahead of the others: new ones, and those that nobody took."""

    connectivity: str
    """``online``, ``disconnected`` (nobody can be reached) or ``offline`` (for two hours now)."""

    regions: int
    """Parts of the keyspace, each swept by itself."""

    regions_due: int
    regions_running: int
    next_due: float | None
    """When the next part is due; None if never."""

    lag_s: float
    """How long the part has been due that is due for longest, seconds. If it grows, make
    ``republish_interval`` longer."""

    keys_per_s: float
    """Keys provided each second, over the last 10 minutes."""

    holders_per_key: float | None
    """Holders of a key, on average over the same time; None if none was provided."""

    wanted: int
    """Peers that should hold each: the replication factor."""


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
