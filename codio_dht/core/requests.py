"""The accounts of requests: what each one of ours tells of its peer's health.

Decides how a request begins (its deadline, and whether a dial is part of it) and what its end means
for the memory that all machines share (:mod:`codio_dht.core.peer_health`). What it means for the
routing table, the machine that asked decides.

Must never: hold a failure against a peer for which no address was known, for it was never tried.
"""

from __future__ import annotations

from typing import Protocol

from codio_dht import params
from codio_dht.core.clock import Monotonic
from codio_dht.core.messages import FailureReason, FindNode, Request
from codio_dht.core.network import Network
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_health import Outlook
from codio_dht.core.steps import Ask


class Contacts(Protocol):
    """What the host can say at any moment of the connections to a peer."""

    def is_connected(self, peer: PeerId) -> bool:
        """Whether a connection to ``peer`` is open."""
        ...

    def is_reached(self, peer: PeerId) -> bool:
        """Whether ``peer`` gave a sign of life: it is connected, or took the connection of a dial
        that is still under way."""
        ...


class Requests:
    """Begins the requests of one network and notes how they end."""

    def __init__(self, network: Network, contacts: Contacts) -> None:
        self._network = network
        self._contacts = contacts

    def begin(
        self,
        peer: PeerId,
        request: Request,
        now: Monotonic,
        *,
        timeout_s: float = params.PEER_TIMEOUT_S,
    ) -> Ask:
        """A request to ``peer`` that starts now and has ``timeout_s`` seconds, dialling included.

        Its end is to be noted by :meth:`answered` or :meth:`failed`.
        """
        dials = not self._contacts.is_connected(peer)
        return Ask(peer, request, now, Monotonic(now + timeout_s), dials)

    def probe(self, peer: PeerId, now: Monotonic) -> Ask:
        """A request to ``peer`` for its own id that starts now: is it alive, and a server? (GO
        ``lookupCheck``)"""
        request = FindNode(peer.to_bytes())
        return self.begin(peer, request, now, timeout_s=params.PROBE_TIMEOUT_S)

    def answered(self, ask: Ask, now: Monotonic) -> None:
        """The peer answered ``ask``: it is alive, and took so long."""
        self._network.health.answered(ask.peer, now - ask.began, now, dialled=ask.dials)

    def failed(self, peer: PeerId, why: FailureReason, now: Monotonic, *, began: Monotonic) -> None:
        """A request to ``peer`` that began at ``began`` failed. That counts against it only if it
        could be tried at all, and has not introduced itself since (:meth:`PeerHealth.excuses`)."""
        if why is FailureReason.CAPACITY or self._network.health.excuses(peer, began):
            return
        if self._contacts.is_connected(peer) or self._network.book.addrs(peer, now):
            self._network.health.failed(peer, why, now)

    def outlook(self, peer: PeerId, now: Monotonic) -> Outlook:
        """What to expect of a request to ``peer`` that would start now."""
        connected = self._contacts.is_connected(peer)
        return self._network.health.outlook(peer, now, connected=connected)

    def is_reached(self, peer: PeerId) -> bool:
        """Whether ``peer`` gave a sign of life (:class:`Contacts`)."""
        return self._contacts.is_reached(peer)
