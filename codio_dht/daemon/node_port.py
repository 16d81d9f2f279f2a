"""The part of a node that the control API needs. ``DHTManager`` and the fake of the tests have it.

Decides nothing. Meanings are documented on :class:`codio_dht.DHTManager`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from multiaddr import Multiaddr

from codio_dht.core.lookup_states import LookupEvent
from codio_dht.core.peer import PeerId, PeerInfo
from codio_dht.net.host import ConnectionInfo
from codio_dht.node.names import PublishedName, ResolvedName
from codio_dht.node.results import FoundPeer


class ProvideOutcome(Protocol):
    """``ProvideResult``: how a provide went."""

    @property
    def holders(self) -> int: ...

    @property
    def confirmed(self) -> int: ...

    @property
    def attempted(self) -> int: ...

    @property
    def pending(self) -> int: ...

    @property
    def seconds(self) -> float: ...


class KeptKey(Protocol):
    """``OwnKey``: a key that is kept provided; times are Unix seconds."""

    @property
    def key(self) -> bytes: ...

    @property
    def added(self) -> float: ...

    @property
    def last_provided(self) -> float | None: ...


class Providers(Protocol):
    """Providers as they are found; closing ends the search."""

    def __aiter__(self) -> AsyncIterator[PeerInfo]: ...

    async def __anext__(self) -> PeerInfo: ...

    async def aclose(self) -> None: ...


class FoundValues(Protocol):
    """Values as they are found, each better than all before; closing ends the search."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def __anext__(self) -> bytes: ...

    async def aclose(self) -> None: ...


class Dht(Protocol):
    """The part of ``DHTManager`` that the daemon uses."""

    @property
    def peer_id(self) -> PeerId: ...

    @property
    def addrs(self) -> Sequence[Multiaddr]: ...

    @property
    def mode(self) -> Any: ...

    async def bootstrap(self, addrs: Iterable[Multiaddr | str]) -> int: ...

    async def connect(self, addr: Multiaddr | str) -> PeerId: ...

    async def ping(self, peer_id: PeerId) -> float: ...

    async def provide(self, cid: str | bytes) -> ProvideOutcome: ...

    async def provide_once(self, cid: str | bytes) -> ProvideOutcome: ...

    async def stop_providing(self, cid: str | bytes) -> bool: ...

    async def own_keys(self) -> Iterable[KeptKey]: ...

    def iter_providers(self, cid: str | bytes, count: int | None) -> Providers: ...

    async def put_value(
        self, key: bytes | str, value: bytes, quorum: int | None = None, *, keep: bool = False
    ) -> ProvideOutcome: ...

    def search_value(self, key: bytes | str, quorum: int) -> FoundValues: ...

    async def publish_name(
        self, path: str, *, key: str, lifetime: float, ttl: float
    ) -> PublishedName: ...

    async def unpublish_name(self, key: str) -> bool: ...

    async def resolve_name(
        self, name: PeerId | str, quorum: int, *, recursive: bool
    ) -> ResolvedName | None: ...

    async def name_keys(self) -> Mapping[str, PeerId]: ...

    async def generate_name_key(self, label: str) -> PeerId: ...

    async def remove_name_key(self, label: str) -> bool: ...

    async def find_peer(self, peer_id: PeerId) -> Sequence[Multiaddr]: ...

    async def find_closest_peers(
        self, key: bytes, watch: Callable[[LookupEvent], None] | None = None
    ) -> Sequence[FoundPeer]: ...

    def get_closest_peers(self, key: bytes) -> Sequence[PeerId]: ...

    def connections(self) -> Sequence[ConnectionInfo]: ...

    @property
    def bootstrap_state(self) -> str: ...

    def stats(self) -> Any: ...
