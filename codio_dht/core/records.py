"""Provider records of others (being written)."""

from __future__ import annotations

from dataclasses import dataclass

from codio_dht.core.clock import UnixTime
from codio_dht.core.peer import PeerId


@dataclass(frozen=True, slots=True)
class ProviderRow:
    """One provider of one key as it is kept: all times Unix seconds, addresses binary."""

    key: bytes
    provider: PeerId
    addrs: tuple[bytes, ...]
    received: UnixTime
    addrs_expire: UnixTime
    expires: UnixTime


@dataclass(frozen=True, slots=True)
class Flush:
    """Rows to write in one transaction. A new row of a key that already holds ``max_per_key``
    rows is left out; a row that exists is replaced."""

    rows: tuple[ProviderRow, ...]
    max_per_key: int
