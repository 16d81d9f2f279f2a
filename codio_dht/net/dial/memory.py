"""What dials remember of addresses: which failed lately, so that all lookups leave a dead one alone
for a while, and which listeners refuse to be sent ahead of their answers.

Both are bounded; the oldest entry is forgotten. A back-off doubles with each failure in a row and
ends with the first success. An address that answered as somebody else is left alone for the peer
that was not there only. A failure of this machine's own is not remembered at all.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from codio_dht.core.backoff import Backoff, BackoffMemory
from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.net.dial.failures import DialFailure
from codio_dht.net.dial.limits import (
    MAX_BACKOFF_S,
    MAX_REFUSED_BACKOFF_S,
    MAX_REMEMBERED_FAILURES,
    MAX_REMEMBERED_REFUSALS,
    REFUSED_BACKOFF_S,
    SILENT_BACKOFF_S,
    STRANGER_BACKOFF_S,
)

_BACKOFFS: Final = {
    DialFailure.REFUSED: Backoff(REFUSED_BACKOFF_S, MAX_REFUSED_BACKOFF_S),
    DialFailure.SILENT: Backoff(SILENT_BACKOFF_S, MAX_BACKOFF_S),
    DialFailure.STRANGER: Backoff(STRANGER_BACKOFF_S, MAX_BACKOFF_S),
}


class FailedAddresses:
    """Addresses (binary multiaddrs) that failed lately."""

    def __init__(self, capacity: int = MAX_REMEMBERED_FAILURES) -> None:
        self._failed = BackoffMemory[bytes](capacity)

    def __len__(self) -> int:
        return len(self._failed)

    def is_blocked(self, addr: bytes, peer_id: PeerId, moment: Monotonic) -> bool:
        """Whether the address should be left alone now."""
        return self._failed.is_blocked(addr, moment) or self._failed.is_blocked(
            _of_peer(addr, peer_id), moment
        )

    def add(self, addr: bytes, peer_id: PeerId, kind: DialFailure, moment: Monotonic) -> None:
        """A dial failed."""
        if kind is not DialFailure.LOCAL:
            key = _of_peer(addr, peer_id) if kind is DialFailure.STRANGER else addr
            self._failed.failed(key, _BACKOFFS[kind], moment)

    def clear(self) -> None:
        """This machine's network has changed: whatever failed before says nothing any more."""
        self._failed.clear()

    def forget(self, addr: bytes, peer_id: PeerId) -> None:
        """A dial succeeded, or a person asks for one: whatever failed before counts no more."""
        self._failed.succeeded(addr)
        self._failed.succeeded(_of_peer(addr, peer_id))


def _of_peer(addr: bytes, peer_id: PeerId) -> bytes:
    return addr + peer_id.to_bytes()


class RefusedPipelining:
    """Addresses of listeners that refuse pipelining."""

    def __init__(self, capacity: int = MAX_REMEMBERED_REFUSALS) -> None:
        self._capacity = capacity
        self._addrs: OrderedDict[bytes, None] = OrderedDict()

    def __contains__(self, addr: bytes) -> bool:
        return addr in self._addrs

    def __len__(self) -> int:
        return len(self._addrs)

    def add(self, addr: bytes) -> None:
        """Remember one; the oldest makes room."""
        self._addrs[addr] = None
        if len(self._addrs) > self._capacity:
            self._addrs.popitem(last=False)
