"""The peer book: where each peer can be reached, and for how long that is believed.

Decides which addresses of a peer count at a moment, and who is forgotten first. Addresses come from
three sources, and a peer's own word is worth more than hearsay:

    live    given by the peer itself (identify): hold while it is connected or in the routing table
    told    given by the peer itself: 15 min after it left, 24 h after an ADD_PROVIDER (go)
    heard   read in some other peer's reply: 2 min

Peers that are connected or pinned (in the routing table) stay: the connection limits and the table
bound them. Of the others, those known by their own word and those only heard of are bounded apart,
so that no flood of hearsay displaces the former. One peer has at most ``MAX_ADDRS_PER_PEER``
addresses and ``MAX_PEER_ENTRY_BYTES`` of them.

The local peer is never in it. Which addresses a network wants is decided before they come in
(:mod:`codio_dht.core.addresses`); a book belongs to one network. The same ``PeerEntry`` object is
returned until it changes, so that the codec's cached bytes serve many replies.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from math import inf
from typing import Final

from codio_dht.core.addresses import AddressFilter
from codio_dht.core.clock import Monotonic
from codio_dht.core.messages import ConnectionType, PeerEntry
from codio_dht.core.peer import PeerId
from codio_dht.formats.multiaddr import ip_of
from codio_dht.params import (
    CONNECTED_ADDR_TTL_S,
    HEARD_ADDR_TTL_S,
    MAX_ADDRS_PER_PEER,
    MAX_PEER_ENTRY_BYTES,
    PROVIDER_ADDR_TTL_S,
)

MAX_HEARD_PEERS: Final = 8_192
"""Peers in the book that are only hearsay; the one heard of least recently is forgotten."""

MAX_TOLD_PEERS: Final = 8_192
"""Peers in the book that gave an address themselves and are neither connected nor in the table;
the one that did so least recently is forgotten."""

_RENEWAL_SLACK_S = 60.0
"""The same addresses provided again within this time are not stamped again: a sweep hands over
thousands of records in a row."""


@dataclass(frozen=True, slots=True)
class PeerBookStats:
    """How many peers the book knows, by why they are kept."""

    kept: int
    told: int
    heard: int


class _Slot:
    """What is known of one peer."""

    __slots__ = (
        "connected",
        "entry",
        "fresh_until",
        "heard",
        "live",
        "peer",
        "pinned",
        "provided",
        "provided_until",
        "queue",
        "replies",
        "seen",
        "told",
    )

    def __init__(self, peer: PeerId) -> None:
        self.peer = peer
        self.live: tuple[bytes, ...] = ()
        self.told: dict[bytes, float] = {}
        self.heard: dict[bytes, float] = {}
        self.replies: dict[bytes, int] = {}
        """How many replies named each address that was heard."""
        self.seen: frozenset[bytes] = frozenset()
        """The IP addresses of its connections when it said last who it is."""
        self.connected = False
        self.pinned = False
        self.provided: tuple[bytes, ...] = ()
        self.provided_until = -inf
        self.entry = PeerEntry(peer)
        self.fresh_until = -inf
        self.queue: OrderedDict[bytes, None] | None = None

    def hear(self, addrs: Sequence[bytes], until: float) -> None:
        """Take what one more reply names, half of all that is kept at most.

        In turns come the addresses that most replies named, and those named last: what one says
        again and again does not shut out what others say, neither before nor after.
        """
        for addr in addrs:
            self.replies[addr] = self.replies.get(addr, 0) + 1
        is_new = any(addr not in self.heard for addr in addrs)
        self.heard.update(dict.fromkeys(addrs, until))
        if is_new:
            often = sorted(self.heard, key=lambda addr: -self.replies.get(addr, 0))
            lately = dict.fromkeys([*addrs, *self.heard])
            order = dict.fromkeys(chain.from_iterable(zip(often, lately, strict=True)))
            self.heard = {addr: self.heard[addr] for addr in order}
            self.replies = {addr: self.replies.get(addr, 0) for addr in order}

    def expire(self, now: Monotonic) -> None:
        """Drop what is no longer believed."""
        for source in (self.told, self.heard):
            for addr in [addr for addr, until in source.items() if until <= now]:
                del source[addr]

    def bound(self) -> None:
        """Keep the first addresses that fit the bounds, the most trusted source first."""
        seen: set[bytes] = set()
        size = 0

        def fits(addr: bytes) -> bool:
            nonlocal size
            if addr in seen:
                return False
            if len(seen) >= MAX_ADDRS_PER_PEER or size + len(addr) > MAX_PEER_ENTRY_BYTES:
                return False
            seen.add(addr)
            size += len(addr)
            return True

        self.live = tuple([addr for addr in self.live if fits(addr)])
        # An address may be live and told: it is counted once and kept in both.
        self.told = {a: until for a, until in self.told.items() if a in seen or fits(a)}
        self.heard = {a: until for a, until in self.heard.items() if fits(a)}

    def keep_only(self, address_filter: AddressFilter) -> None:
        """Drop the addresses that ``address_filter`` does not keep, whatever their source."""
        self.live = address_filter(self.live)
        self.told = {addr: self.told[addr] for addr in address_filter(self.told)}
        self.heard = {addr: self.heard[addr] for addr in address_filter(self.heard)}
        self.provided, self.provided_until = (), -inf
        self.fresh_until = -inf

    def renew(self, now: Monotonic) -> None:
        """Work out the entry again; the object changes only if its content does."""
        self.expire(now)
        kept = self.connected or self.pinned
        addrs = tuple(dict.fromkeys((*(self.live if kept else ()), *self.told, *self.heard)))
        connection = ConnectionType.CONNECTED if self.connected else ConnectionType.NOT_CONNECTED
        entry = PeerEntry(self.peer, addrs, connection)
        if entry != self.entry:
            self.entry = entry
        self.fresh_until = min(
            min(self.told.values(), default=inf), min(self.heard.values(), default=inf)
        )


class PeerBook:
    """Where each peer can be reached, and for how long that is believed. ``now`` is the monotonic
    clock; addresses are binary multiaddrs without a trailing ``/p2p``."""

    def __init__(
        self,
        local: PeerId,
        *,
        max_heard: int = MAX_HEARD_PEERS,
        max_told: int = MAX_TOLD_PEERS,
    ) -> None:
        self._local = local.to_bytes()
        self._slots: dict[bytes, _Slot] = {}
        self._told: OrderedDict[bytes, None] = OrderedDict()
        self._heard: OrderedDict[bytes, None] = OrderedDict()
        self._max_told = max_told
        self._max_heard = max_heard

    # --- questions --------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._slots)

    def stats(self) -> PeerBookStats:
        """How many peers are known."""
        told, heard = len(self._told), len(self._heard)
        return PeerBookStats(kept=len(self._slots) - told - heard, told=told, heard=heard)

    def connected(self) -> list[PeerId]:
        """The peers to which a connection is believed to be open."""
        return [slot.peer for slot in self._slots.values() if slot.connected]

    def is_connected(self, peer: PeerId) -> bool:
        """Whether a connection to ``peer`` is open."""
        slot = self._slots.get(peer.to_bytes())
        return slot is not None and slot.connected

    def entry(self, peer: PeerId, now: Monotonic) -> PeerEntry | None:
        """``peer`` as others may be told of it; None without an address."""
        return self.entry_of(peer.to_bytes(), now)

    def entry_of(self, peer_id: bytes, now: Monotonic) -> PeerEntry | None:
        """As :meth:`entry`, for what may be a peer id's bytes."""
        slot = self._slots.get(peer_id)
        if slot is None:
            return None
        if now >= slot.fresh_until:
            slot.renew(now)
        return slot.entry if slot.entry.addrs else None

    def told_entry(self, peer: PeerId, now: Monotonic) -> PeerEntry | None:
        """As :meth:`entry`, but None if all that is known of ``peer`` is hearsay."""
        entry = self.entry_of(peer.to_bytes(), now)
        if entry is None:
            return None
        slot = self._slots[peer.to_bytes()]
        return entry if slot.told or (slot.live and (slot.connected or slot.pinned)) else None

    def entries(self, peers: Iterable[PeerId], now: Monotonic) -> list[PeerEntry]:
        """The entries of those of ``peers`` that have an address, in order."""
        slot_of = self._slots.get
        found = []
        for peer in peers:
            slot = slot_of(peer.to_bytes())
            if slot is not None:
                if now >= slot.fresh_until:
                    slot.renew(now)
                entry = slot.entry
                if entry.addrs:
                    found.append(entry)
        return found

    def all_entries(self, peers: Iterable[PeerId], now: Monotonic) -> list[PeerEntry]:
        """An entry for each of ``peers``, in order; one without addresses where none is known."""
        slots = self._slots
        found = []
        for peer in peers:
            slot = slots.get(peer.to_bytes())
            if slot is None:
                found.append(PeerEntry(peer))
                continue
            if now >= slot.fresh_until:
                slot.renew(now)
            found.append(slot.entry)
        return found

    def addrs(self, peer: PeerId, now: Monotonic) -> tuple[bytes, ...]:
        """The addresses of ``peer``, the most trusted first."""
        entry = self.entry_of(peer.to_bytes(), now)
        return () if entry is None else entry.addrs

    # --- what is learnt ---------------------------------------------------------------------------

    def heard(self, peer: PeerId, addrs: Collection[bytes], now: Monotonic) -> None:
        """A reply of another peer names ``addrs``. Nothing is taken for a connected peer: what it
        said itself is better (go)."""
        slot = self._slot(peer) if addrs else None
        if slot is None or slot.connected:
            return
        slot.hear(list(islice(addrs, MAX_ADDRS_PER_PEER // 2)), now + HEARD_ADDR_TTL_S)
        self._changed(slot, now)

    def seen_addrs(self, peer: PeerId, now: Monotonic) -> tuple[bytes, ...]:
        """Those of the addresses of ``peer`` that are of a machine from which it was seen; all of
        them if it never was."""
        addrs = self.addrs(peer, now)
        slot = self._slots.get(peer.to_bytes())
        if slot is None or not slot.seen:
            return addrs
        return tuple([addr for addr in addrs if ip_of(addr) in slot.seen])

    def identified(
        self,
        peer: PeerId,
        addrs: Iterable[bytes],
        now: Monotonic,
        *,
        seen_at: Iterable[bytes] = (),
    ) -> None:
        """``peer`` is connected and says it listens on ``addrs``; what it said before is void,
        except where it asked to be found (ADD_PROVIDER). ``seen_at`` says where its connections
        lead."""
        slot = self._slot(peer)
        if slot is None:
            return
        slot.connected = True
        slot.live = tuple(addrs)
        slot.seen = frozenset(ip for addr in seen_at if (ip := ip_of(addr)) is not None)
        self._changed(slot, now)

    def provided(self, peer: PeerId, addrs: tuple[bytes, ...], now: Monotonic) -> None:
        """``peer`` announced itself as a provider, to be found at ``addrs``."""
        slot = self._slot(peer)
        if slot is None:
            return
        until = now + PROVIDER_ADDR_TTL_S
        if until - slot.provided_until < _RENEWAL_SLACK_S and addrs == slot.provided:
            return
        slot.provided, slot.provided_until = addrs, until
        slot.told = dict.fromkeys(addrs, until) | {
            addr: known for addr, known in slot.told.items() if addr not in addrs
        }
        self._changed(slot, now)

    def gone(self, peer: PeerId, now: Monotonic) -> None:
        """The last connection to ``peer`` ended. A no-op for an unknown peer."""
        slot = self._slots.get(peer.to_bytes())
        if slot is None or not slot.connected:
            return
        slot.connected = False
        until = now + CONNECTED_ADDR_TTL_S
        for addr in slot.live:
            slot.told[addr] = max(until, slot.told.get(addr, -inf))
        if not slot.pinned:
            slot.live = ()
        self._changed(slot, now)

    def pin(self, peer: PeerId) -> None:
        """``peer`` entered the routing table: it stays in the book, and so do its addresses. If it
        has not given any itself yet, those by which it was found stand in."""
        slot = self._slot(peer)
        if slot is None:
            return
        slot.pinned = True
        if not slot.live:
            slot.live = (*slot.told, *slot.heard)
        slot.fresh_until = -inf
        self._queue(slot)

    def unpin(self, peer: PeerId) -> None:
        """``peer`` left the routing table. A no-op for an unknown peer."""
        slot = self._slots.get(peer.to_bytes())
        if slot is None or not slot.pinned:
            return
        slot.pinned = False
        if not slot.connected:
            slot.live = ()
        slot.fresh_until = -inf
        self._queue(slot)

    def keep_only(self, address_filter: AddressFilter) -> None:
        """Forget every address that ``address_filter`` does not keep."""
        for slot in list(self._slots.values()):
            slot.keep_only(address_filter)
            self._queue(slot)

    # --- inside -----------------------------------------------------------------------------------

    def _slot(self, peer: PeerId) -> _Slot | None:
        """The slot of ``peer``, made if need be; None for the local peer."""
        peer_id = peer.to_bytes()
        slot = self._slots.get(peer_id)
        if slot is None and peer_id != self._local:
            slot = self._slots[peer_id] = _Slot(peer)
        return slot

    def _changed(self, slot: _Slot, now: Monotonic) -> None:
        slot.expire(now)
        slot.bound()
        slot.fresh_until = -inf
        self._queue(slot)

    def _queue(self, slot: _Slot) -> None:
        """Put ``slot`` at the young end of the queue it belongs to; forget the oldest past it."""
        peer_id = slot.peer.to_bytes()
        if slot.queue is not None:
            del slot.queue[peer_id]
            slot.queue = None
        if slot.connected or slot.pinned:
            return
        queue, limit = (self._told, self._max_told) if slot.told else (self._heard, self._max_heard)
        queue[peer_id] = None
        slot.queue = queue
        if len(queue) > limit:
            oldest, _ = queue.popitem(last=False)
            del self._slots[oldest]
