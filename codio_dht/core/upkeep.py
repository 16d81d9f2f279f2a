"""Upkeep: how a node joins a network, and how its routing table is kept alive.

Decides through whom the node joins and when it joins again, which candidates and entries are
probed, and which keys are looked up to fill the table. It does what follows from the answers
itself. Its driver performs the steps that :meth:`Upkeep.next` returns, and reports how each ended.

Joining, as the machine goes through it::

    resting --------few peers at a check, or cut off----> dialling
    dialling -------every dial and probe has ended------> settling
    settling -------has peers, and is not cut off-------> resting
    settling -------still cut off-----------------------> backing off
    backing off ----the delay is over-------------------> resting

*Settling* lasts while the table is empty and somebody is being probed who may enter it, for
``PROBE_TIMEOUT_S`` at most.

*Cut off* means that the table is empty, or that our own network seems to be down
(:mod:`codio_dht.core.outage`). A check every ``LOW_PEERS_CHECK_S`` also begins a round when the
table holds fewer than ``LOW_PEERS``. Nothing begins while there is nobody to join through.

While the table has peers a round (:mod:`codio_dht.core.join_round`) takes ``MAX_BOOTSTRAP_DIALS``
of the given ones, by chance. While the node is cut off it takes all, and the peers of an earlier
run become candidates again. When a round is over the node looks around, unless the refresh that its
first answer set off covers the others too.

Candidates are :mod:`codio_dht.core.admission`'s, lookups and liveness probes
:mod:`codio_dht.core.refresh`'s; this machine composes the two.

Must never: read a clock, dial anybody by itself, or lose a step: one that its driver gave up is
reported by :meth:`Upkeep.dropped`. A report that comes late or twice changes nothing.

Bounds: ``MAX_REMEMBERED_PEERS`` of an earlier run; rounds are as many as the user asks for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from codio_dht import params
from codio_dht.core.admission import MAX_ADMISSION_QUEUE
from codio_dht.core.backoff import Backoff
from codio_dht.core.clock import Monotonic
from codio_dht.core.join_round import MAX_BOOTSTRAP_DIALS, Dial, JoinProbe, JoinRound
from codio_dht.core.messages import FailureReason, FindNode, PeerEntry, Reply
from codio_dht.core.network import Network
from codio_dht.core.peer import PeerId
from codio_dht.core.preimages import search_preimage
from codio_dht.core.refresh import LOW_PEERS, CplLookup, LivenessProbe, SelfLookup
from codio_dht.core.requests import Contacts, Requests
from codio_dht.core.rng import Rng
from codio_dht.core.steps import Ask, Wait
from codio_dht.errors import NoPeersError
from codio_dht.formats.multiaddr import is_dnsaddr

LOW_PEERS_CHECK_S: Final = 120.0
"""How often it is looked whether the table has fewer than ``LOW_PEERS``, in seconds (GO)."""

MAX_REMEMBERED_PEERS: Final = MAX_ADMISSION_QUEUE
"""Peers taken from the snapshot of an earlier run, nearest first; the rest is ignored."""

JOIN_BACKOFF: Final = Backoff(initial_s=5.0, ceiling_s=300.0, jitter=0.25)
"""How long a node waits after a round of joining that reached nobody."""


class Joining(Enum):
    """Where joining stands, for people to look at."""

    ALONE = "alone"
    """Nobody to join through was given."""
    JOINING = "joining"
    """A round of dials is under way."""
    JOINED = "joined"
    """The table has peers."""
    UNREACHABLE = "unreachable"
    """The last round reached nobody; another one follows after a back-off."""


@dataclass(frozen=True, slots=True)
class CandidateProbe:
    """Ask a candidate for the table for its own id."""

    ask: Ask


@dataclass(frozen=True, slots=True)
class CheckAlive:
    """Ask an entry of the table that may have gone for its own id."""

    ask: Ask


@dataclass(frozen=True, slots=True)
class Unreachable:
    """A round reached nobody, and the next one follows in ``retry_in_s`` seconds. Nothing is to be
    done; it is a fact to log."""

    retry_in_s: float


OwnIdQuery = CandidateProbe | JoinProbe | CheckAlive
"""Send the request (GO ``lookupCheck``); report ``answered`` or ``failed`` by its deadline."""

RefreshLookup = SelfLookup | CplLookup
"""Look up the key that :meth:`Upkeep.preimages` finds for it; report ``lookup_ended``."""

UpkeepStep = Dial | OwnIdQuery | RefreshLookup | Unreachable | Wait


class _Phase(Enum):
    """A state of the module's diagram."""

    RESTING = "resting"
    DIALLING = "dialling"
    SETTLING = "settling"
    BACKING_OFF = "backing off"


class Upkeep:
    """The upkeep of one network's routing table; see the module.

    ``bootstrap`` are the peers to join through. ``rng`` chooses among them and spreads the delays.
    """

    def __init__(
        self, network: Network, contacts: Contacts, bootstrap: Sequence[PeerEntry], rng: Rng
    ) -> None:
        self._network = network
        self._requests = Requests(network, contacts)
        self._rng = rng
        self._bootstrap = [each for each in bootstrap if each.peer_id != network.local]
        self._out: dict[OwnIdQuery, None] = {}
        """The queries whose end was not reported yet."""
        self._named: list[PeerEntry] = []
        """Those that names stand for now."""
        self._remembered: list[PeerEntry] = []
        self._rounds: list[JoinRound] = []
        """Those under way."""
        self._own_round: JoinRound | None = None
        """The one that the machine itself began last."""
        self._phase = _Phase.RESTING
        self._until = Monotonic(0.0)
        """When the phase ends by itself: the next check, the end of a wait, of a back-off."""
        self._failures = 0
        """Rounds in a row that reached nobody."""
        self._reached_nobody = False
        self._failed_remotely = True
        """What the last round of the machine's own reached, and whose fault it was."""

    # --- state ------------------------------------------------------------------------------------

    @property
    def joining(self) -> Joining:
        """Where joining stands."""
        if len(self._network.table):
            return Joining.JOINED
        if self._rounds:
            return Joining.JOINING
        if not self._bootstrap and not self._named:
            return Joining.ALONE
        return Joining.UNREACHABLE if self._reached_nobody else Joining.JOINING

    @property
    def bootstrap_peers(self) -> int:
        """How many peers there are to join through."""
        return len(self._bootstrap) + len(self._named)

    @property
    def remembered_peers(self) -> int:
        """How many peers of an earlier run are remembered."""
        return len(self._remembered)

    @property
    def rounds(self) -> int:
        """How many rounds of joining are under way."""
        return len(self._rounds)

    @property
    def awaits_peers(self) -> bool:
        """Whether the table is empty and somebody who may enter it is being dialled or probed."""
        door = self._network.admission
        return not len(self._network.table) and bool(
            self.joining is Joining.JOINING or door.waiting or door.probing
        )

    @property
    def refreshing(self) -> bool:
        """Whether a refresh is going on or asked for, and the table has somebody to ask."""
        return self._network.refresh.running and len(self._network.table) > 0

    # --- what the user asks for -------------------------------------------------------------------

    def join(self, peers: Sequence[PeerEntry]) -> JoinRound:
        """Begin a round through ``peers``, beside those that the machine begins itself."""
        begun = JoinRound([each for each in peers if each.peer_id != self._network.local])
        self._rounds.append(begun)
        self._end_if_over(begun)
        return begun

    def abandon(self, begun: JoinRound) -> None:
        """The user wants no more of a round. The driver ends its dials. A no-op if it is over."""
        begun.abandon()
        self._end_if_over(begun)

    def remember(self, peers: Sequence[PeerEntry], now: Monotonic) -> None:
        """Take peers of an earlier run as candidates, now and again whenever the node is cut off.
        Each is probed before it enters the table. Only the first ``MAX_REMEMBERED_PEERS`` count."""
        self._remembered = list(peers[:MAX_REMEMBERED_PEERS])
        self._offer_remembered(now)

    def network_changed(self, now: Monotonic) -> None:
        """This node's own addresses or routes changed: what failed before may work now.

        If the node is cut off, nothing that failed is held against anybody, and the next round of
        joining begins at once.
        """
        if not self._cut_off:
            return
        self._network.forgive()
        self._failures = 0
        if self._phase is _Phase.BACKING_OFF:
            self._until = now

    def join_through_named(self, peers: Sequence[PeerEntry]) -> None:
        """Join through ``peers`` beside those that were given, in place of the last such peers: a
        name stands for others than before."""
        self._named = [each for each in peers if each.peer_id != self._network.local]

    def request_refresh(self) -> None:
        """Begin a refresh of the whole table now.

        Raises:
            NoPeersError: the routing table is empty.
        """
        if not len(self._network.table):
            raise NoPeersError("the routing table is empty: there is nobody to refresh from")
        self._network.refresh.request()

    # --- steps ------------------------------------------------------------------------------------

    def next(self, now: Monotonic) -> UpkeepStep:
        """What to do now. To be called until it is a ``Wait``, and again when that is over or
        something was reported."""
        waits: list[Monotonic] = []
        for part in (self._keep_joined, self._dial, self._refresh, self._admit):
            step = part(now)
            if isinstance(step, OwnIdQuery):
                self._out[step] = None
            if not isinstance(step, Wait):
                return step
            if step.until is not None:
                waits.append(step.until)
        return Wait(min(waits, default=None))

    def preimages(self, lookup: RefreshLookup) -> Iterator[bytes | None]:
        """What to look up for ``lookup``: None after each slice of a search that found nothing yet,
        so that others may run, and then the preimage. It ends without one if there is none."""
        match lookup:
            case SelfLookup():
                return iter((self._network.local.to_bytes(),))
            case CplLookup(cpl):
                return search_preimage(self._network.table.local, cpl, self._rng)

    # --- reports ----------------------------------------------------------------------------------

    def dialled(self, dial: Dial) -> None:
        """``dial`` led to its peer."""
        dial.round.dialled(dial)

    def dial_failed(self, dial: Dial, why: FailureReason) -> None:
        """``dial`` did not lead to its peer."""
        self._ended(dial, why)

    def answered(self, query: OwnIdQuery, reply: Reply, now: Monotonic) -> None:
        """``query`` was answered with ``reply``. A no-op if its end was reported."""
        if query not in self._out:
            return
        del self._out[query]
        network, ask = self._network, query.ask
        self._requests.answered(ask, now)
        match query:
            case CheckAlive():
                network.answered(ask.peer, now)
                network.refresh.probe_ended(ask.peer)
            case CandidateProbe():
                network.probe_answered(ask.peer, reply.closer_peers, now)
            case JoinProbe():
                network.probe_answered(ask.peer, reply.closer_peers, now)
                self._ended(query, None)

    def failed(self, query: OwnIdQuery, why: FailureReason, now: Monotonic) -> None:
        """``query`` got no answer, or none that is one. A no-op if its end was reported."""
        if query not in self._out:
            return
        del self._out[query]
        network, ask = self._network, query.ask
        self._requests.failed(ask.peer, why, now, began=ask.began)
        match query:
            case CheckAlive():
                network.failed(ask.peer, why, now, began=ask.began)
                network.refresh.probe_ended(ask.peer)
            case CandidateProbe():
                network.probe_failed(ask.peer, why, now, began=ask.began)
            case JoinProbe():
                network.probe_failed(ask.peer, why, now, began=ask.began)
                self._ended(query, why)

    def lookup_ended(self, lookup: RefreshLookup, now: Monotonic) -> None:
        """``lookup`` is over, whatever it found; it reports to the network itself."""
        self._network.refresh.lookup_ended(now, lookup)

    def dropped(self, step: Dial | OwnIdQuery, now: Monotonic) -> None:
        """The driver gave ``step`` up, by its own fault or because the user wants no more of it:
        this says nothing about the peer. A no-op if its end was reported."""
        match step:
            case Dial():
                self._ended(step, FailureReason.CAPACITY)
            case CandidateProbe() | JoinProbe() | CheckAlive():
                self.failed(step, FailureReason.CAPACITY, now)

    # --- joining ----------------------------------------------------------------------------------

    @property
    def _cut_off(self) -> bool:
        return not len(self._network.table) or self._network.outage.suspected

    def _keep_joined(self, now: Monotonic) -> Unreachable | Wait:
        """Go through the module's diagram as far as it leads now."""
        while True:
            match self._phase:
                case _Phase.RESTING:
                    if not self._wants_round(now):
                        return Wait(self._until)
                    self._begin_round(now)
                case _Phase.DIALLING:
                    if self._own_round is not None:
                        return Wait(None)
                    self._enter(_Phase.SETTLING, now, params.PROBE_TIMEOUT_S)
                case _Phase.SETTLING:
                    if self.awaits_peers and now < self._until:
                        return Wait(self._until)
                    if self._cut_off:
                        delay_s = self._next_delay_s()
                        self._enter(_Phase.BACKING_OFF, now, delay_s)
                        return Unreachable(delay_s)
                    self._failures = 0
                    self._enter(_Phase.RESTING, now, LOW_PEERS_CHECK_S)
                case _Phase.BACKING_OFF:
                    if now < self._until:
                        return Wait(self._until)
                    self._enter(_Phase.RESTING, now, 0.0)

    def _next_delay_s(self) -> float:
        """The delay after a round that reached nobody. It does not grow while this node's own
        network is what fails: then the round says nothing of the peers, and costs nothing."""
        self._failures = self._failures + 1 if self._failed_remotely else 1
        return JOIN_BACKOFF.delay_s(self._failures, self._rng)

    def _wants_round(self, now: Monotonic) -> bool:
        """Whether a round has to begin; else the time of the next check is planned."""
        has_somebody = bool(self._bootstrap or self._named or self._remembered)
        if has_somebody and self._cut_off:
            return True
        if now < self._until:
            return False
        self._until = Monotonic(now + LOW_PEERS_CHECK_S)
        return has_somebody and len(self._network.table) < LOW_PEERS

    def _begin_round(self, now: Monotonic) -> None:
        if self._cut_off:
            self._offer_remembered(now)
        peers = [*self._bootstrap, *self._named]
        self._rng.shuffle(peers)
        if len(self._network.table):
            peers = peers[:MAX_BOOTSTRAP_DIALS]
        self._phase = _Phase.DIALLING
        self._own_round = JoinRound(peers)
        self._rounds.append(self._own_round)
        self._end_if_over(self._own_round)

    def _enter(self, phase: _Phase, now: Monotonic, length_s: float) -> None:
        self._phase = phase
        self._until = Monotonic(now + length_s)

    def _offer_remembered(self, now: Monotonic) -> None:
        for entry in self._remembered:
            self._hear(entry.peer_id, entry.addrs, now)
            self._network.offer(entry.peer_id, now)

    def _hear(self, peer: PeerId, addrs: Sequence[bytes], now: Monotonic) -> None:
        """Note where a peer is. A dnsaddr names a list of peers, so nobody is told of it."""
        own = [addr for addr in addrs if not is_dnsaddr(addr)]
        self._network.book.heard(peer, self._network.address_filter(own), now)

    def _dial(self, now: Monotonic) -> Dial | JoinProbe | Wait:
        waits: list[Monotonic] = []
        for each in self._rounds:
            reached = each.next_probe()
            if reached is not None:
                return each.probed(reached, self._query(reached.peer, now))
            step = each.next_dial(now)
            if isinstance(step, Dial):
                self._hear(step.peer, step.addrs, now)
                return step
            if step.until is not None:
                waits.append(step.until)
        return Wait(min(waits, default=None))

    def _ended(self, step: Dial | JoinProbe, why: FailureReason | None) -> None:
        step.round.ended(step, why)
        self._end_if_over(step.round)

    def _end_if_over(self, begun: JoinRound) -> None:
        """Close a round of which nothing is out any more. A no-op if it was closed already."""
        if not begun.over or begun not in self._rounds:
            return
        self._rounds.remove(begun)
        if begun is self._own_round:
            self._own_round = None
            self._reached_nobody = not begun.answered
            self._failed_remotely = begun.failed_remotely
        self._look_around(begun.answered)

    def _look_around(self, answered: int) -> None:
        """Ask for a refresh if the one that the first answer set off does not cover the others."""
        schedule = self._network.refresh
        if not schedule.running:
            if answered and len(self._network.table) < self._network.k:
                schedule.request()
        elif answered > 1:
            schedule.request(all_cpls=False)

    # --- candidates and refresh -------------------------------------------------------------------

    def _admit(self, now: Monotonic) -> CandidateProbe | Wait:
        step = self._network.admission.next(now)
        return step if isinstance(step, Wait) else CandidateProbe(self._query(step.peer, now))

    def _refresh(self, now: Monotonic) -> CheckAlive | RefreshLookup | Wait:
        network = self._network
        if not len(network.table):
            return Wait(None)
        runs = network.refresh.runs
        step = network.refresh.next(now)
        if network.refresh.runs != runs:
            network.admission.on_refreshed(now)
        return CheckAlive(self._query(step.peer, now)) if isinstance(step, LivenessProbe) else step

    def _query(self, peer: PeerId, now: Monotonic) -> Ask:
        """The request for the peer's own id."""
        request = FindNode(peer.to_bytes())
        return self._requests.begin(peer, request, now, timeout_s=params.PROBE_TIMEOUT_S)
