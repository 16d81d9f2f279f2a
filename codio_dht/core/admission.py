r"""Admission: how a peer gets into the routing table, and how it loses its place.

Decides which candidates are probed, when, and what their answers mean. A candidate is a peer that
speaks the DHT protocol as a server, seen through identify or an inbound request; it is never put
straight into the table. Its probe is a FIND_NODE for its own id (GO ``lookupCheck``)::

    offer --> queued --next--> probing --on_probe_answered--> in the table, or refused
      |                            \--on_probe_failed / PROBE_TIMEOUT_S--> backing off
      \--while backing off--> deferred --back-off over--> offered again

An answer admits, except that it has to name at least one peer once the table holds a bucket's worth
(a peer that knows nobody is no use then). Nobody enters without an answer: else one stranger fills
a new node's table with peers that never existed.

Candidates take turns by their origin (:mod:`codio_dht.core.turns`), and when too many wait, the
newest of the largest origin makes room. One subnet, and one IP group, has no more probes out than
are free. So whoever comes with a thousand identities delays those of others by a turn.

A peer that answered a lookup's request needs no probe: ``on_reply``. One that failed a dial or a
request loses its place: ``on_failure``, unless it is our own network that seems to be down
(:mod:`codio_dht.core.outage`).

Who finds its bucket full is remembered (:mod:`codio_dht.core.replacements`). When a place comes
free, the best of them takes it: at once if it answered us within ``REPLACEMENT_TRUST_S``, else it
is probed like any candidate, and if that fails the next one is.

While the node joins (from an empty table until the second refresh and a minute more, GO), peers
enter as replaceable: who happens to come first does not keep its place for that.

Bounds: ``MAX_ADMISSION_QUEUE`` candidates, and as many deferred ones,
``MAX_ADMISSION_PROBES`` at once,
``MAX_ADMISSION_MEMORY`` failed ones remembered (the oldest is forgotten),
``MAX_REPLACEMENTS_PER_CPL`` candidates for each full bucket.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from codio_dht import params
from codio_dht.core.backoff import Backoff, BackoffMemory
from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key, cpl
from codio_dht.core.messages import FailureReason
from codio_dht.core.outage import Outage
from codio_dht.core.peer import PeerId
from codio_dht.core.replacements import Replacements
from codio_dht.core.routing_table import AddOutcome, RoutingTable
from codio_dht.core.steps import Wait
from codio_dht.core.turns import Path, Turns

MAX_ADMISSION_PROBES: Final = 64
"""Admission probes in flight at once (GO 256, NIM 50, ZK 3); further candidates wait."""

MAX_ADMISSION_QUEUE: Final = 512
"""Candidates waiting for a probe; when it is full, the newest of the largest origin makes room."""

ADMISSION_BACKOFF_S: Final = 10.0
"""A candidate that failed is not probed again for this long, in seconds. Each further failure
doubles that, up to ``MAX_ADMISSION_BACKOFF_S``."""

MAX_ADMISSION_BACKOFF_S: Final = 300.0
"""The longest time for which a candidate that failed is not probed again, in seconds (NIM 5
min)."""

MAX_ADMISSION_MEMORY: Final = 2_048
"""Failed candidates remembered; the one that failed longest ago is forgotten when it is full."""

SETTLE_REFRESHES: Final = 2
"""Peers that enter while the node joins can be replaced until this many refreshes are over, and
``SETTLE_DELAY_S`` more (GO)."""

SETTLE_DELAY_S: Final = 60.0
"""How long peers can still be replaced after the last of ``SETTLE_REFRESHES``, in seconds (GO)."""

REPLACEMENT_TRUST_S: Final = 60.0
"""A candidate that answered within this time enters without another probe, seconds."""


class OfferOutcome(Enum):
    """What became of a candidate."""

    QUEUED = "queued"
    PENDING = "pending"
    """It is queued or being probed already."""
    KNOWN = "known"
    """It is in the table."""
    NO_ROOM = "no_room"
    """Its bucket is full: nothing to probe for now; it is remembered."""
    DEFERRED = "deferred"
    """It failed not long ago, and is probed when its back-off is over."""
    FULL = "full"
    """Too many candidates are waiting, and its own origin has most of them."""
    REFUSED_SELF = "refused_self"


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask ``peer``, a candidate, for its own id, and report what came of it by ``deadline``: then
    it has failed by itself."""

    peer: PeerId
    deadline: Monotonic


_BACKOFF: Final = Backoff(ADMISSION_BACKOFF_S, MAX_ADMISSION_BACKOFF_S)
"""How long a candidate that failed is not probed again."""


@dataclass(slots=True)
class _Probing:
    """A probe that is out.

    A ``moot`` one has no consequences any more. It still takes its place, or a peer that changes
    its mind all the time would get as many probes as it likes.
    """

    peer: PeerId
    deadline: Monotonic
    owner: Path
    moot: bool = False


class Admission:
    """The door of one routing table."""

    def __init__(
        self,
        table: RoutingTable,
        outage: Outage | None = None,
        *,
        owner_of: Callable[[PeerId], Path] = lambda peer: ("", b"", peer.to_bytes()),
        max_probes: int = MAX_ADMISSION_PROBES,
        max_queue: int = MAX_ADMISSION_QUEUE,
        max_memory: int = MAX_ADMISSION_MEMORY,
        probe_timeout_s: float = params.PROBE_TIMEOUT_S,
    ) -> None:
        """``owner_of`` says by which owner a candidate takes turns: IP group, subnet, peer."""
        self._table = table
        self._owner_of = owner_of
        self._max_probes = max_probes
        self._probe_timeout_s = probe_timeout_s
        self._queue: Turns[Key, PeerId] = Turns(max_queue)
        self._probing: dict[Key, _Probing] = {}
        self._failed: BackoffMemory[Key] = BackoffMemory(max_memory)
        self._deferred: Turns[Key, PeerId] = Turns(max_queue)
        """Candidates that are to be offered again when their back-off is over."""
        self._replacements = Replacements()
        self._outage = outage or Outage()
        self._refreshes_to_settle = SETTLE_REFRESHES
        self._settle_at: Monotonic | None = None

    # --- candidates -------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Candidates in the queue."""
        return len(self._queue)

    @property
    def probing(self) -> int:
        """Probes that are out."""
        return len(self._probing)

    @property
    def replacements(self) -> int:
        """Candidates remembered for full buckets."""
        return len(self._replacements)

    @property
    def deferred(self) -> int:
        """Candidates that wait for the end of their back-off."""
        return len(self._deferred)

    @property
    def remembered(self) -> int:
        """Failed candidates remembered."""
        return len(self._failed)

    def offer(self, peer: PeerId, now: Monotonic) -> OfferOutcome:
        """Consider ``peer``, which speaks the protocol as a server, for the table."""
        key = peer.key
        if key == self._table.local:
            return OfferOutcome.REFUSED_SELF
        if peer in self._table:
            return OfferOutcome.KNOWN
        if key in self._queue:
            return OfferOutcome.PENDING
        if (probing := self._probing.get(key)) is not None:
            probing.moot = False
            return OfferOutcome.PENDING
        if self._failed.is_blocked(key, now):
            return self._defer(peer)
        if not self._table.has_room(peer):
            self._remember(peer, now, answered=False)
            return OfferOutcome.NO_ROOM
        dropped = self._queue.put(key, peer, self._owner_of(peer))
        return OfferOutcome.FULL if dropped == (key, peer) else OfferOutcome.QUEUED

    def readmit(self, peer: PeerId) -> None:
        """End the back-off of ``peer``, which is known to be there again."""
        self._failed.succeeded(peer.key)

    def forgive(self) -> None:
        """End every back-off."""
        self._failed.clear()

    def withdraw(self, peer: PeerId, now: Monotonic) -> None:
        """``peer`` is no server any more: no candidate, and out of the table. No back-off."""
        self._forget(peer.key)
        self._outage.left(peer)
        if peer.key != self._table.local:
            self._replacements.forget(peer, self._cpl(peer))
        if self._table.remove(peer):
            self._refill(self._cpl(peer), now)

    def next(self, now: Monotonic) -> Probe | Wait:
        """What to do now. To be called until it is a ``Wait``."""
        self._settle(now)
        self._offer_deferred(now)
        for probing in [each for each in self._probing.values() if each.deadline <= now]:
            self.on_probe_failed(probing.peer, FailureReason.TIMEOUT, now)
        while (peer := self._next_candidate()) is not None:
            if self._table.has_room(peer):
                deadline = Monotonic(now + self._probe_timeout_s)
                self._probing[peer.key] = _Probing(peer, deadline, self._owner_of(peer))
                return Probe(peer, deadline)
            self._remember(peer, now, answered=False)
        return Wait(self._wake())

    def on_probe_answered(self, peer: PeerId, closer_count: int, now: Monotonic) -> AddOutcome:
        """``peer`` answered its probe with ``closer_count`` peers. A late answer counts too, but
        not one of a peer that was withdrawn meanwhile."""
        self.online(now)
        probing = self._probing.pop(peer.key, None)
        if probing is not None and probing.moot:
            return AddOutcome.REFUSED_UNVERIFIED
        if closer_count == 0 and not self._table_is_small():
            self._back_off(peer, now)
            self._refill(self._cpl(peer), now)
            return AddOutcome.REFUSED_UNVERIFIED
        outcome = self.on_reply(peer, now)
        if outcome is AddOutcome.REFUSED_DIVERSITY:  # or every sighting would cost a probe
            self._back_off(peer, now)
        return outcome

    def on_probe_failed(self, peer: PeerId, why: FailureReason, now: Monotonic) -> AddOutcome:
        """``peer`` did not answer its probe. Without effect if no probe of it is out."""
        probing = self._probing.pop(peer.key, None)
        if probing is None or probing.moot:
            return AddOutcome.REFUSED_UNVERIFIED
        if why is FailureReason.CAPACITY:
            return AddOutcome.REFUSED_UNVERIFIED
        self._back_off(peer, now)
        self._refill(self._cpl(peer), now)
        return AddOutcome.REFUSED_UNVERIFIED

    # --- what requests tell -----------------------------------------------------------------------

    def on_reply(self, peer: PeerId, now: Monotonic) -> AddOutcome:
        """``peer`` answered a request of ours: it is alive and a server, so it may enter."""
        self.online(now)
        self._forget(peer.key)
        self._failed.succeeded(peer.key)
        outcome = self._table.add(peer, now, replaceable=self._joining())
        if outcome is AddOutcome.FULL:
            self._replacements.add(peer, self._cpl(peer), now, answered=True)
        elif outcome is AddOutcome.ADDED or outcome is AddOutcome.REPLACED:
            self._replacements.forget(peer, self._cpl(peer))
        return outcome

    def on_failure(self, peer: PeerId, why: FailureReason, now: Monotonic) -> bool:
        """A dial or request to ``peer`` failed: it loses its place; whether it lost one. During an
        outage of our own network it keeps it, until it can be judged."""
        if why is FailureReason.CAPACITY or peer.key == self._table.local:
            return False
        self._replacements.forget(peer, self._cpl(peer))
        if peer in self._table:
            # A peer with which a protocol could be negotiated says that we are online.
            told_by_peer = why is FailureReason.UNSUPPORTED
            if not told_by_peer and not self._outage.failed(peer, now):
                return False
            self._table.remove(peer)
            self._back_off(peer, now)
            self._refill(self._cpl(peer), now)
            return True
        if self._queue.pop(peer.key) is not None:
            self._back_off(peer, now)
        return False

    def online(self, now: Monotonic) -> None:
        """Somebody answered, so our own network is up.

        Whoever lost its place at the beginning of an outage is a candidate again.
        """
        for peer in self._outage.answered():
            self._failed.succeeded(peer.key)
            self.offer(peer, now)

    def on_refreshed(self, now: Monotonic) -> None:
        """A refresh of the table is over."""
        if self._refreshes_to_settle > 0:
            self._refreshes_to_settle -= 1
            if self._refreshes_to_settle == 0:
                self._settle_at = Monotonic(now + SETTLE_DELAY_S)

    # --- inside -----------------------------------------------------------------------------------

    def _cpl(self, peer: PeerId) -> int:
        return cpl(self._table.local, peer.key)

    def _remember(self, peer: PeerId, now: Monotonic, *, answered: bool) -> None:
        if peer not in self._table:
            self._replacements.add(peer, self._cpl(peer), now, answered=answered)

    def _refill(self, prefix: int, now: Monotonic) -> None:
        """Give the free places at CPL ``prefix`` to the best candidates, or have these probed."""
        coming = sum(self._cpl(peer) == prefix for peer in self._queue.values())
        coming += sum(
            self._cpl(each.peer) == prefix for each in self._probing.values() if not each.moot
        )
        while self._table.room(prefix) > coming:
            found = self._replacements.take(prefix, now)
            if found is None:
                return
            if found.answered is not None and now < found.answered + REPLACEMENT_TRUST_S:
                self._forget(found.peer.key)
                self._table.add(found.peer, found.answered, replaceable=self._joining())
            else:
                coming += self.offer(found.peer, now) is OfferOutcome.QUEUED

    def _table_is_small(self) -> bool:
        return len(self._table) < self._table.bucket_size

    def _joining(self) -> bool:
        """Whether the table is being filled; it is again once it was empty."""
        if len(self._table) == 0:
            self._refreshes_to_settle = SETTLE_REFRESHES
            self._settle_at = None
        return self._refreshes_to_settle > 0 or self._settle_at is not None

    def _forget(self, key: Key) -> None:
        """No candidate any more; a probe that is out goes on without consequences."""
        self._queue.pop(key)
        self._deferred.pop(key)
        if (probing := self._probing.get(key)) is not None:
            probing.moot = True

    def _defer(self, peer: PeerId) -> OfferOutcome:
        dropped = self._deferred.put(peer.key, peer, self._owner_of(peer))
        return OfferOutcome.FULL if dropped == (peer.key, peer) else OfferOutcome.DEFERRED

    def _offer_deferred(self, now: Monotonic) -> None:
        blocked = self._failed.is_blocked
        for peer in [each for each in self._deferred.values() if not blocked(each.key, now)]:
            self._deferred.pop(peer.key)
            self.offer(peer, now)

    def _next_candidate(self) -> PeerId | None:
        """The candidate whose turn it is, of a subnet and a group that have no more probes out than
        are free. Those without an origin (exempt, or gone) only take turns with the others."""
        free = self._max_probes - len(self._probing)
        out: Counter[Path] = Counter()
        for each in self._probing.values():
            out[each.owner[:1]] += 1
            out[each.owner[:2]] += 1
        if not free:
            return None
        found = self._queue.take(
            lambda owner: owner[0] == "" or (out[owner[:1]] < free and out[owner[:2]] < free)
        )
        return None if found is None else found[1]

    def _back_off(self, peer: PeerId, now: Monotonic) -> None:
        """Do not probe ``peer`` for a while, longer each time."""
        self._failed.failed(peer.key, _BACKOFF, now)

    def _wake(self) -> Monotonic | None:
        """When time alone changes something: a probe is out of time, or the table settles."""
        times = [each.deadline for each in self._probing.values()]
        times += [self._failed.blocked_until(key) for key in self._deferred]
        if self._settle_at is not None:
            times.append(self._settle_at)
        return min(times, default=None)

    def _settle(self, now: Monotonic) -> None:
        if self._settle_at is not None and self._settle_at <= now:
            self._settle_at = None
            self._table.settle()
