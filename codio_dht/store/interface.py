"""What every store does. Methods block: the node calls them from one writer thread, never from
the event loop. Raises ``StorageError`` and nothing else.

Two kinds of durability (design): *other peers'* provider records may lose the last second at a
power cut; *own* provided keys are on disk, synced, when ``add_own_key`` has returned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from codio_dht.core.clock import UnixTime
from codio_dht.core.peer import PeerId
from codio_dht.core.records import Flush, ProviderRow


@dataclass(frozen=True, slots=True)
class OwnKey:
    """A key this node provides. ``last_provided`` is None until an announcement succeeded."""

    key: bytes
    added: UnixTime
    last_provided: UnixTime | None


@dataclass(frozen=True, slots=True)
class SnapshotPeer:
    """A routing-table peer as remembered over a restart: binary multiaddrs."""

    peer_id: PeerId
    addrs: tuple[bytes, ...]


class Store(Protocol):
    """See the module."""

    # provider records of others
    def load_providers(self, key: bytes) -> list[ProviderRow]:
        """Every stored row of ``key``, expired ones too (``core.records`` decides)."""
        ...

    def flush(self, batch: Flush) -> int:
        """Apply a batch in one transaction; how many of its rows had no older version."""
        ...

    def provider_keys(self) -> Iterator[tuple[bytes, int]]:
        """Every key with rows and how many it has, streamed; for the filter at start."""
        ...

    def delete_expired(self, now: UnixTime, limit: int) -> list[bytes]:
        """Delete up to ``limit`` rows with ``expires <= now``; the key of each deleted row."""
        ...

    # own provided keys
    def add_own_key(self, key: bytes, now: UnixTime) -> bool:
        """Remember ``key`` durably; False if it was there."""
        ...

    def remove_own_key(self, key: bytes) -> bool:
        """Forget ``key`` durably; False if it was not there."""
        ...

    def own_keys(self) -> list[OwnKey]:
        """All own keys, the longest not announced first."""
        ...

    def mark_provided(self, keys: Sequence[bytes], now: UnixTime) -> None:
        """Note a successful announcement."""
        ...

    # routing-table snapshot
    def save_snapshot(self, peers: Sequence[SnapshotPeer]) -> None:
        """Replace the snapshot."""
        ...

    def load_snapshot(self) -> list[SnapshotPeer]:
        """The last snapshot, nearest first; empty if none."""
        ...

    def close(self) -> None:
        """Write what is open and close. Idempotent."""
        ...
