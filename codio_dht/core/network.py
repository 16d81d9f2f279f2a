"""One DHT: a routing table, an address book and a door to the table, under one address policy.

Decides what a sighting of a peer means: who may enter the table, which of the peers in a reply are
taken, whose addresses are remembered and for how long. Does no I/O: the node says what happened.

A node holds one ``Network`` per protocol id (public, LAN, own prefixes).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from codio_dht import params
from codio_dht.core.addresses import AddressFilter
from codio_dht.core.admission import Admission, OfferOutcome
from codio_dht.core.clock import Monotonic
from codio_dht.core.lookup import FailureReason
from codio_dht.core.messages import PeerEntry
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_book import PeerBook
from codio_dht.core.refresh import RefreshSchedule
from codio_dht.core.routing_table import AddOutcome, RoutingTable


class Network:
    """The state of one DHT and the rules that tie its parts together."""

    def __init__(
        self,
        local: PeerId,
        *,
        protocol: str,
        address_filter: AddressFilter,
        k: int = params.K,
        refresh_interval_s: float = params.REFRESH_INTERVAL_S,
    ) -> None:
        self.local = local
        self.protocol = protocol
        self.k = k
        self.address_filter = address_filter
        self.book = PeerBook(local)
        self.table = RoutingTable(local.key, bucket_size=k, policy=_KeepAddresses(self.book))
        self.admission = Admission(self.table)
        self.refresh = RefreshSchedule(self.table, interval_s=refresh_interval_s)

    # --- sightings --------------------------------------------------------------------------------

    def identified(
        self, peer: PeerId, protocols: Iterable[str], addrs: Sequence[bytes], now: Monotonic
    ) -> OfferOutcome | None:
        """A connected peer told what it speaks. A kad server becomes a candidate; one that no
        longer is a server leaves the table (GO ``HandleRemotePeerProtocolChanges``)."""
        self.book.identified(peer, self.address_filter(addrs), now)
        if self.protocol in protocols:
            return self.offer(peer, now)
        self.admission.withdraw(peer)
        return None

    def offer(self, peer: PeerId, now: Monotonic) -> OfferOutcome | None:
        """Consider a kad server for the table: it is probed first. None if it has no address that
        the policy keeps, for nobody could be told of it."""
        return self.admission.offer(peer, now) if self.book.addrs(peer, now) else None

    def gone(self, peer: PeerId, now: Monotonic) -> None:
        """The last connection to the peer ended; it may stay in the table."""
        self.book.gone(peer, now)

    def answered(self, peer: PeerId, now: Monotonic) -> AddOutcome | None:
        """The peer answered one of our requests: it is alive and a server, so it may enter. None
        as for :meth:`offer`."""
        return self.admission.on_reply(peer, now) if self.book.addrs(peer, now) else None

    def failed(self, peer: PeerId, why: FailureReason, now: Monotonic) -> None:
        """The peer could not be reached or broke a request: it leaves the table (GO)."""
        self.admission.on_failure(peer, why, now)

    # --- replies ----------------------------------------------------------------------------------

    def learn(
        self, closer: Sequence[PeerEntry], target: PeerId | None, now: Monotonic
    ) -> list[PeerId]:
        """The peers of a reply that a lookup may ask, their addresses remembered for a while.

        At most ``2k`` are read (GO); this node itself is left out, and so is a peer without an
        address that the policy keeps, unless it is the lookup's ``target`` or its address is known.
        """
        taken: list[PeerId] = []
        for entry in closer[: params.MAX_CLOSER_PEERS_ACCEPTED]:
            peer = entry.peer_id
            addrs = self.address_filter(entry.addrs)
            if addrs:
                self.book.heard(peer, addrs, now)
            elif peer != target and not self.book.addrs(peer, now):
                continue
            if peer != self.local:
                taken.append(peer)
        return taken


class _KeepAddresses:
    """Keeps the addresses of whoever is in the table (an ``AdmissionPolicy`` that admits all)."""

    def __init__(self, book: PeerBook) -> None:
        self._book = book

    def admits(self, peer: PeerId, cpl: int) -> bool:
        return True

    def entered(self, peer: PeerId, cpl: int) -> None:
        self._book.pin(peer)

    def left(self, peer: PeerId, cpl: int) -> None:
        self._book.unpin(peer)
