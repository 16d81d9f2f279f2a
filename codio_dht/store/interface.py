"""What a store does, in parts that do not know each other.

    RecordStore    who provides what, as others told this node: can be lost without harm, may be
                   shared by processes
    ValueStore     values that others put here: can be lost without harm, belong to one process
    KeyStore       what this node was asked to provide: must not be lost, belongs to one process
    OwnValueStore  values that this node keeps published, sequence numbers among them: as KeyStore
    Snapshot       the peers of the routing table, remembered over a restart

Methods block: the node calls them from one thread at a time, never from the event loop. They raise
``StorageError`` and nothing else. One that lost what could be lost raises ``BegunAnewError``: the
same call works when it is made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Final, NamedTuple, Protocol

from codio_dht.core.clock import UnixTime
from codio_dht.core.own_keys import NewKey, OwnKey, SweptPage
from codio_dht.core.peer import PeerId
from codio_dht.core.records import Flush, ProviderRow
from codio_dht.core.regions import Place
from codio_dht.core.republish import OwnValue
from codio_dht.core.value_records import ValueFlush, ValueRow


@dataclass(frozen=True, slots=True)
class SnapshotPeer:
    """A peer of the routing table as it is remembered over a restart: binary multiaddrs."""

    peer_id: PeerId
    addrs: tuple[bytes, ...]


class CheckedTo(NamedTuple):
    """How far the rows of a store were checked: all up to this one."""

    expires: float
    number: int


CHECKED_NONE: Final = CheckedTo(-inf, 0)
"""No row was checked yet."""


class RecordStore(Protocol):
    """Provider records of others.

    A power cut may take what was written within the last second. Other processes may read and write
    the same records at any time.
    """

    def changes(self) -> int | None:
        """A number that is a different one after another process has written. None if no other
        process can."""
        ...

    def load_providers(self, key: bytes) -> list[ProviderRow]:
        """Every stored row of ``key``, expired ones too (``core.records`` decides)."""
        ...

    def flush(self, batch: Flush) -> int:
        """Apply a batch in one transaction; how many rows there are more than before."""
        ...

    def disk_bytes(self) -> int:
        """What the records take on the disk, in bytes; 0 where there is no bound to hold to."""
        ...

    def count(self) -> int:
        """How many rows there are."""
        ...

    def provider_keys(self, after: bytes, limit: int) -> list[tuple[bytes, int]]:
        """The first ``limit`` keys with rows that are greater than ``after``, in order, each with
        the number of its rows. Short work: the filter is built from many such calls."""
        ...

    def check(self, after: CheckedTo, limit: int) -> CheckedTo | None:
        """Read the next ``limit`` rows after ``after`` and make sure that they are as they were
        written; how far that came, None at the end. Short work: the whole store is checked by many
        such calls.

        Raises:
            BegunAnewError: they are not. The store is empty now.
        """
        ...

    def delete_expired(self, now: UnixTime, latest: UnixTime, limit: int) -> list[bytes]:
        """Delete up to ``limit`` rows with ``expires <= now`` or ``expires > latest``; the key of
        each deleted row."""
        ...


class KeyStore(Protocol):
    """The keys that this node provides. A change is on disk, synced, when its method has returned.
    Nobody else writes to them, and no method reads more keys than it is asked for."""

    def add(self, keys: Sequence[NewKey], now: UnixTime) -> list[bool]:
        """Remember ``keys``, all or none; which of them are new. The others stay as they are."""
        ...

    def remove(self, keys: Sequence[bytes]) -> list[bool]:
        """Forget ``keys``, all or none; which of them were there."""
        ...

    def find(self, key: bytes) -> OwnKey | None:
        """What is known of ``key``; None if it is not there."""
        ...

    def count(self) -> int:
        """How many keys there are."""
        ...

    def count_waiting(self) -> int:
        """How many keys wait to be provided."""
        ...

    def page(self, after: bytes, limit: int) -> list[OwnKey]:
        """The first ``limit`` keys after the key ``after``, in the order of their places; of all,
        if it is empty."""
        ...

    def turn_page(
        self, start: Place, end: Place, after: bytes, limit: int, *, waiting_only: bool
    ) -> list[tuple[bytes, bool]]:
        """The first ``limit`` keys whose places lie from ``start`` up to ``end``, after the key
        ``after`` if it is not empty; each with whether it waits."""
        ...

    def next_waiting(self, place: int) -> Place | None:
        """The first place, from ``place`` on, of a key that waits to be provided."""
        ...

    def mark_provided(self, keys: Sequence[bytes], now: UnixTime) -> None:
        """Note that ``keys`` were provided, each by itself; those that are not there stay so."""
        ...

    def mark_waiting(self, keys: Sequence[bytes]) -> None:
        """Note that ``keys`` wait to be provided; those that are not there stay so."""
        ...

    def note_swept(self, page: SweptPage) -> None:
        """Note the end of one page of a sweep, all of it or nothing."""
        ...

    def spans(self) -> list[tuple[Place, UnixTime]]:
        """When each part of the keyspace was swept last: from a place up to that of the next
        entry. Empty if that was never noted."""
        ...

    def begin_spans(self, at: UnixTime) -> None:
        """Note that the whole keyspace was swept at ``at``, and forget what was noted before."""
        ...

    def holders_of(self, place: Place, at: UnixTime) -> tuple[PeerId, ...] | None:
        """The peers that took every record they were given when the keys at ``place`` were swept
        at ``at``; None if that is not known any more."""
        ...


class ValueStore(Protocol):
    """Values of others. A power cut may take what was written within the last second."""

    def load(self, key: bytes) -> ValueRow | None:
        """The stored row of ``key``, however old (``core.value_records`` decides)."""
        ...

    def flush(self, batch: ValueFlush) -> None:
        """Apply a batch in one transaction."""
        ...

    def page(self, after: bytes, limit: int) -> list[tuple[bytes, int, UnixTime]]:
        """The first ``limit`` keys that are greater than ``after``, in order, each with the size of
        its value and when that was received."""
        ...


class OwnValueStore(Protocol):
    """The values that this node keeps published. A change is on disk, synced, when its method has
    returned. Nobody else writes to them."""

    def put(self, own: OwnValue) -> None:
        """Remember ``own`` in place of what was there for its key."""
        ...

    def get(self, key: bytes) -> OwnValue | None:
        """What is remembered for ``key``; None if nothing is."""
        ...

    def all(self) -> list[OwnValue]:
        """Every own value, the one added first before the others."""
        ...

    def remove(self, key: bytes) -> bool:
        """Forget the value of ``key``; False if there was none."""
        ...

    def renew(self, key: bytes, last: bytes, value: bytes) -> bool:
        """Remember ``value`` for ``key`` if it is ``last`` that is remembered; False, and nothing
        changes, if another value or none is."""
        ...

    def mark_published(self, key: bytes, now: UnixTime) -> None:
        """Note that peers took the value of ``key``; one that is not there stays so."""
        ...


class Snapshot(Protocol):
    """The peers of the routing table as they were when it was last saved."""

    def save(self, peers: Sequence[SnapshotPeer]) -> None:
        """Replace what was saved, whole or not at all."""
        ...

    def load(self) -> list[SnapshotPeer]:
        """What was saved last, in its order; empty if nothing was."""
        ...


class Store(Protocol):
    """The parts of one node's store."""

    @property
    def records(self) -> RecordStore:
        """Provider records of others."""
        ...

    @property
    def keys(self) -> KeyStore:
        """The keys that this node provides."""
        ...

    @property
    def values(self) -> ValueStore:
        """Values of others."""
        ...

    @property
    def own_values(self) -> OwnValueStore:
        """The values that this node keeps published."""
        ...

    @property
    def snapshot(self) -> Snapshot:
        """The peers of the routing table."""
        ...

    def close(self) -> None:
        """Write what is open and close. Idempotent."""
        ...
