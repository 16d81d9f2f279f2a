"""One DHT: a routing table, an address book and a door to the table, under one address policy.

Decides what a sighting of a peer means: who may enter the table, which of the peers in a reply are
taken, whose addresses are remembered and for how long. Does no I/O: the node says what happened.

A node holds one ``Network`` per protocol id (public, LAN, own prefixes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from codio_dht import params
from codio_dht.core.addresses import KEEP_ALL, PUBLIC_ONLY, AddressFilter
from codio_dht.core.admission import Admission, OfferOutcome
from codio_dht.core.clock import Monotonic
from codio_dht.core.diversity import GroupLimits, over_represented
from codio_dht.core.messages import FailureReason, PeerEntry
from codio_dht.core.netsize import NetworkSize
from codio_dht.core.origins import origin_of
from codio_dht.core.outage import Outage
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_book import PeerBook
from codio_dht.core.peer_health import PeerHealth
from codio_dht.core.refresh import RefreshSchedule
from codio_dht.core.routing_table import AddOutcome, AdmissionPolicy, AllOf, RoutingTable
from codio_dht.core.turns import Path
from codio_dht.formats.multiaddr import ip_of


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """What a network takes and tells."""

    address_filter: AddressFilter
    """Which addresses of its peers are kept, dialled and told."""

    diverse: bool = False
    """Whether the table and each reply are limited to a few peers of one IP group (GO: on the
    public network only; a private swarm may well live in one data centre)."""

    @classmethod
    def of(cls, addresses: str, protocol: str, *, public: bool) -> NetworkPolicy:
        """The policy of the network ``protocol``. ``public`` says whether it is a public one;
        ``addresses`` is ``DHTConfig.address_policy``."""
        only_public = addresses == "public" or (addresses == "auto" and public)
        return cls(
            PUBLIC_ONLY if only_public else KEEP_ALL,
            diverse=public and protocol == params.KAD_PROTOCOL,
        )


class TableObserver(Protocol):
    """Who is told of every peer that enters or leaves the table; must not raise."""

    def entered(self, peer: PeerId) -> None:
        """``peer`` is in the table now."""
        ...

    def left(self, peer: PeerId) -> None:
        """``peer`` is no longer in the table."""
        ...


class Network:
    """The state of one DHT and the rules that tie its parts together.

    ``seen_at`` says where the connections to a peer lead. A diverse network limits peers by these,
    because a peer cannot choose them, and candidates take turns by them. ``is_counted`` says
    whether they count, which those of exempt peers do not.
    """

    def __init__(
        self,
        local: PeerId,
        *,
        protocol: str,
        policy: NetworkPolicy,
        k: int = params.K,
        refresh_interval_s: float = params.REFRESH_INTERVAL_S,
        observer: TableObserver | None = None,
        seen_at: Callable[[PeerId], Sequence[bytes]] = lambda _peer: (),
        is_counted: Callable[[PeerId], bool] = lambda _peer: True,
        denies: Callable[[PeerId], bool] = lambda _peer: False,
    ) -> None:
        self.local = local
        self.protocol = protocol
        self.k = k
        self.policy = policy
        self._seen_at = seen_at
        self.denies = denies
        """Whether the operator denies a peer: it is no candidate, and no lookup asks it."""
        self.book = PeerBook(local)
        self.health = PeerHealth()
        self.size = NetworkSize(k)
        self.outage = Outage()
        self._is_counted = is_counted
        self._limits = GroupLimits(self.book.addrs, self._counted_at, enforced=policy.diverse)
        policies: list[AdmissionPolicy] = [self._limits, _Residents(self.book, observer)]
        self.table = RoutingTable(local.key, bucket_size=k, policy=AllOf(policies))
        self.admission = Admission(self.table, self.outage, owner_of=self._owner)
        self.refresh = RefreshSchedule(self.table, self.outage, interval_s=refresh_interval_s)

    @property
    def address_filter(self) -> AddressFilter:
        """Which addresses are kept, dialled and told now."""
        return self.policy.address_filter

    def set_policy(self, policy: NetworkPolicy, now: Monotonic) -> None:
        """Follow ``policy`` from now on. Addresses that it does not keep are forgotten. A peer of
        the table that has no address left, or that its IP group has no room for, leaves: of a
        group, who entered last leaves first."""
        self.policy = policy
        self.book.keep_only(policy.address_filter)
        self._limits.enforced = policy.diverse
        for peer in reversed(self.table.peers()):
            if not self.book.addrs(peer, now) or self._limits.crowds(peer):
                self.admission.withdraw(peer, now)

    def _counted_at(self, peer: PeerId) -> Sequence[bytes]:
        return self._seen_at(peer) if self._is_counted(peer) else ()

    def _owner(self, peer: PeerId) -> Path:
        """By whom a candidate takes turns. Those that are gone, or exempt, are one group."""
        for addr in self._counted_at(peer):
            ip = ip_of(addr)
            if ip is not None:
                return origin_of(ip, peer.to_bytes())
        return "", b"", peer.to_bytes()

    # --- sightings --------------------------------------------------------------------------------

    def identified(
        self, peer: PeerId, protocols: Iterable[str], addrs: Sequence[bytes], now: Monotonic
    ) -> OfferOutcome | None:
        """A connected peer told what it speaks. A kad server becomes a candidate; one that no
        longer is a server leaves the table (GO ``HandleRemotePeerProtocolChanges``)."""
        self.book.identified(peer, self.address_filter(addrs), now, seen_at=self._seen_at(peer))
        self._limits.note(peer)
        if self.protocol in protocols:
            if self.health.introduced(peer, now):
                self.admission.readmit(peer)
            return self.offer(peer, now)
        self.admission.withdraw(peer, now)
        return None

    def offer(self, peer: PeerId, now: Monotonic) -> OfferOutcome | None:
        """Consider a kad server for the table: it is probed first. None if it has no address that
        the policy keeps, for nobody could be told of it, and if it is denied."""
        return self.admission.offer(peer, now) if self._may_enter(peer, now) else None

    def gone(self, peer: PeerId, now: Monotonic) -> None:
        """The last connection to the peer ended; it may stay in the table."""
        self.book.gone(peer, now)

    def answered(self, peer: PeerId, now: Monotonic) -> AddOutcome | None:
        """The peer answered one of our requests: it is alive and a server, so it may enter. None
        as for :meth:`offer`."""
        self._online(now)
        return self.admission.on_reply(peer, now) if self._may_enter(peer, now) else None

    def _may_enter(self, peer: PeerId, now: Monotonic) -> bool:
        return bool(self.book.addrs(peer, now)) and not self.denies(peer)

    def failed(self, peer: PeerId, why: FailureReason, now: Monotonic, *, began: Monotonic) -> None:
        """A request to the peer that began at ``began`` failed: it leaves the table (GO), unless
        the failure says nothing (:meth:`PeerHealth.excuses`). Then it is asked again soon."""
        if self._is_excused(peer, why, began):
            self.refresh.suspect(peer)
        else:
            self.admission.on_failure(peer, why, now)

    def probe_answered(
        self, peer: PeerId, closer: Sequence[PeerEntry], now: Monotonic
    ) -> AddOutcome:
        """A candidate answered its probe, and named ``closer``."""
        self._online(now)
        self.learn(closer, peer, now)
        return self.admission.on_probe_answered(peer, len(closer), now)

    def probe_failed(
        self, peer: PeerId, why: FailureReason, now: Monotonic, *, began: Monotonic
    ) -> None:
        """A probe of a candidate that began at ``began`` failed. If that says nothing, as for
        :meth:`failed`, it is a candidate still."""
        if self._is_excused(peer, why, began):
            self.admission.on_probe_failed(peer, FailureReason.CAPACITY, now)
            self.offer(peer, now)
        else:
            self.admission.on_probe_failed(peer, why, now)

    def _is_excused(self, peer: PeerId, why: FailureReason, began: Monotonic) -> bool:
        return why is not FailureReason.CAPACITY and self.health.excuses(peer, began)

    def _online(self, now: Monotonic) -> None:
        """Somebody answered, so our own network is up: what failed while it seemed to be down is
        held against nobody."""
        if self.outage.suspected:
            self.health.forgive()
        self.admission.online(now)

    def forgive(self) -> None:
        """Our own network was down: no failure so far is held against anybody."""
        self.health.forgive()
        self.admission.forgive()

    # --- replies ----------------------------------------------------------------------------------

    def learn(
        self, closer: Sequence[PeerEntry], target: PeerId | None, now: Monotonic
    ) -> list[PeerId]:
        """The peers of a reply that a lookup may ask, their addresses remembered for a while.

        At most ``2k`` are read (GO); this node itself is left out, and so is a peer without an
        address that the policy keeps, unless it is the lookup's ``target`` or its address is known.
        On a diverse network the first few of an IP group are taken, and the others are left out.
        """
        read = closer[: params.MAX_CLOSER_PEERS_ACCEPTED]
        crowd = over_represented(read) if self.policy.diverse else frozenset()
        taken: list[PeerId] = []
        for entry in read:
            peer = entry.peer_id
            if (peer in crowd and peer != target) or self.denies(peer):
                continue
            addrs = self.address_filter(entry.addrs)
            if addrs:
                self.book.heard(peer, addrs, now)
            elif peer != target and not self.book.addrs(peer, now):
                continue
            if peer != self.local:
                taken.append(peer)
        return taken


class _Residents:
    """Keeps the addresses of whoever is in the table, and tells the observer (an
    ``AdmissionPolicy`` that admits all)."""

    def __init__(self, book: PeerBook, observer: TableObserver | None) -> None:
        self._book = book
        self._observer = observer

    def admits(self, peer: PeerId, cpl: int, now: Monotonic) -> bool:
        return True

    def entered(self, peer: PeerId, cpl: int, now: Monotonic) -> None:
        self._book.pin(peer)
        if self._observer is not None:
            self._observer.entered(peer)

    def left(self, peer: PeerId, cpl: int) -> None:
        self._book.unpin(peer)
        if self._observer is not None:
            self._observer.left(peer)
