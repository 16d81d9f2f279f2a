"""What dials remember of addresses: failures, so that all lookups leave a dead one alone for a
while; and listeners that refuse to be sent ahead of their answers.

Both are bounded; the oldest entry is forgotten. A back-off doubles with each failure in a row and
ends with the first success. An address that answered as somebody else is left alone for the peer
that was not there only.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.net.dial.failures import DialFailure
from codio_dht.net.dial.limits import (
    MAX_BACKOFF_S,
    MAX_REMEMBERED_FAILURES,
    MAX_REMEMBERED_REFUSALS,
    REFUSED_BACKOFF_S,
    SILENT_BACKOFF_S,
    STRANGER_BACKOFF_S,
)

_FIRST_S = {
    DialFailure.REFUSED: REFUSED_BACKOFF_S,
    DialFailure.SILENT: SILENT_BACKOFF_S,
    DialFailure.STRANGER: STRANGER_BACKOFF_S,
}


@dataclass(slots=True)
class _Failed:
    times: int
    until: Monotonic


class Failures:
    """Addresses that failed lately."""

    def __init__(self, capacity: int = MAX_REMEMBERED_FAILURES) -> None:
        self._capacity = capacity
        self._failed: OrderedDict[bytes, _Failed] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failed)

    def is_blocked(self, addr: bytes, peer_id: PeerId, moment: Monotonic) -> bool:
        """Whether the address should be left alone now."""
        return any(
            failed is not None and moment < failed.until
            for failed in (self._failed.get(addr), self._failed.get(_of_peer(addr, peer_id)))
        )

    def add(self, addr: bytes, peer_id: PeerId, kind: DialFailure, moment: Monotonic) -> None:
        """A dial failed."""
        if kind is DialFailure.LOCAL:
            return
        key = _of_peer(addr, peer_id) if kind is DialFailure.STRANGER else addr
        before = self._failed.pop(key, None)
        times = 1 if before is None else before.times + 1
        delay_s = min(_FIRST_S[kind] * 2.0 ** min(times - 1, 16), MAX_BACKOFF_S)
        self._failed[key] = _Failed(times, Monotonic(moment + delay_s))
        if len(self._failed) > self._capacity:
            self._failed.popitem(last=False)

    def succeeded(self, addr: bytes, peer_id: PeerId) -> None:
        """A dial succeeded."""
        self._failed.pop(addr, None)
        self._failed.pop(_of_peer(addr, peer_id), None)


def _of_peer(addr: bytes, peer_id: PeerId) -> bytes:
    return addr + peer_id.to_bytes()


class Refusers:
    """Addresses of listeners that refuse pipelining."""

    def __init__(self, capacity: int = MAX_REMEMBERED_REFUSALS) -> None:
        self._capacity = capacity
        self._addrs: OrderedDict[bytes, None] = OrderedDict()

    def __contains__(self, addr: bytes) -> bool:
        return addr in self._addrs

    def __len__(self) -> int:
        return len(self._addrs)

    def add(self, addr: bytes) -> None:
        """Remember."""
        self._addrs[addr] = None
        if len(self._addrs) > self._capacity:
            self._addrs.popitem(last=False)
