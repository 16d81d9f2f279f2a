"""Which peers' connections the host must keep when it has too many.

Decides that there are two reasons. The peer is in the routing table: keeping its connection saves
a dial at every lookup, and a crowd of visitors cannot choose whom we are connected to. Or a request
to the peer is under way: its answer must arrive. A stream that the peer opened is no reason,
because visitors could then stay for as long as they like. A stream of ours that is only kept for
reuse is no reason either.

Bounded by the table and by the requests under way. Nothing here waits or raises.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from codio_dht.core.peer import PeerId
from codio_dht.net.host import Host


class TableProtection:
    """Protects the peers of the routing table of the DHT ``name``; a ``TableObserver``."""

    def __init__(self, host: Host, name: str) -> None:
        self._host = host
        self._tag = f"{name}:table"
        self._peers: dict[PeerId, None] = {}

    def entered(self, peer: PeerId) -> None:
        """Protect ``peer``, which is in the table now."""
        self._peers[peer] = None
        self._host.protect(peer, self._tag)

    def left(self, peer: PeerId) -> None:
        """Stop protecting ``peer``, which has left the table."""
        self._peers.pop(peer, None)
        self._host.unprotect(peer, self._tag)

    def release(self) -> None:
        """Stop protecting every peer: the DHT is over, and its host may live on."""
        for peer in list(self._peers):
            self.left(peer)


class RequestProtection:
    """Protects the peers that the DHT ``name`` is asking something."""

    def __init__(self, host: Host, name: str) -> None:
        self._host = host
        self._tag = f"{name}:request"
        self._running: Counter[PeerId] = Counter()

    @contextmanager
    def of(self, peer: PeerId) -> Iterator[None]:
        """The block is a request to ``peer``."""
        self._running[peer] += 1
        if self._running[peer] == 1:
            self._host.protect(peer, self._tag)
        try:
            yield
        finally:
            self._running[peer] -= 1
            if not self._running[peer]:
                del self._running[peer]
                self._host.unprotect(peer, self._tag)
