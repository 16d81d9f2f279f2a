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

A round dials each peer, at most ``MAX_BOOTSTRAP_DIALS`` at a time, and probes those that it
reached. A dial that takes longer than ``BOOTSTRAP_STAGGER_S`` goes on, but no longer counts: the
next one begins. While the table has peers a round takes ``MAX_BOOTSTRAP_DIALS`` of the given ones,
by chance; while the node is cut off it takes all, and the peers of an earlier run become candidates
again. When a round is over the node looks around, unless the refresh that its first answer set off
covers the others too.

Candidates are :mod:`codio_dht.core.admission`'s, lookups and liveness probes
:mod:`codio_dht.core.refresh`'s; this machine composes the two.

Must never: read a clock, dial anybody by itself, or lose a step: one that its driver gave up is
reported by :meth:`Upkeep.dropped`. A report that comes late or twice changes nothing.

Bounds: ``MAX_REMEMBERED_PEERS`` of an earlier run; rounds are as many as the user asks for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from codio_dht import params
from codio_dht.core.admission import Probe
from codio_dht.core.backoff import Backoff
from codio_dht.core.clock import Monotonic
from codio_dht.core.messages import FailureReason, FindNode, PeerEntry, Reply
from codio_dht.core.network import Network
from codio_dht.core.peer import PeerId
from codio_dht.core.preimages import search_preimage
from codio_dht.core.refresh import CplLookup, LivenessProbe, SelfLookup
from codio_dht.core.requests import Contacts, Requests
from codio_dht.core.rng import Rng
from codio_dht.core.steps import Ask, Wait
from codio_dht.errors import NoPeersError
from codio_dht.formats.multiaddr import is_dnsaddr

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
class Dial:
    """Connect to ``peer`` at ``addrs`` by ``deadline``; report ``dialled`` or ``dial_failed``."""

    peer: PeerId
    addrs: tuple[bytes, ...]
    deadline: Monotonic
    round: Round


@dataclass(frozen=True, slots=True)
class JoinProbe:
    """Ask ``peer``, which was dialled to join through it, for its own id by ``deadline``."""

    peer: PeerId
    deadline: Monotonic
    round: Round


@dataclass(frozen=True, slots=True)
class CheckAlive:
    """Ask ``peer``, an entry of the table that may have gone, for its own id by ``deadline``."""

    peer: PeerId
    deadline: Monotonic


@dataclass(frozen=True, slots=True)
class Unreachable:
    """A round reached nobody, and the next one follows in ``retry_in_s`` seconds. Nothing is to be
    done; it is a fact to log."""

    retry_in_s: float


OwnIdQuery = Probe | JoinProbe | CheckAlive
"""Send ``peer`` a FIND_NODE for its own id (GO ``lookupCheck``); report ``answered`` or ``failed``
by the deadline."""

RefreshLookup = SelfLookup | CplLookup
"""Look up the key that :meth:`Upkeep.preimages` finds for it; report ``lookup_ended``."""

UpkeepStep = Dial | OwnIdQuery | RefreshLookup | Unreachable | Wait


class Round:
    """One round of joining: who has still to be reached, and how many answered."""

    __slots__ = ("_out", "_probes", "_turns", "_waiting", "answered")

    def __init__(self, peers: Sequence[PeerEntry]) -> None:
        self._waiting = deque(peers)
        self._probes: deque[JoinProbe] = deque()
        """Those that are due now."""
        self._out: dict[PeerId, Dial | JoinProbe] = {}
        """What the end of each peer's part depends on."""
        self._turns: dict[PeerId, Monotonic] = {}
        """Until when each of them may hold up the next one."""
        self.answered = 0
        """Peers that answered their probe."""

    @property
    def over(self) -> bool:
        """Whether every dial and probe of it has ended."""
        return not self._waiting and not self._out

    def next(self, now: Monotonic) -> Dial | JoinProbe | Wait:
        """What to do for it now."""
        if self._probes:
            return self._probes.popleft()
        self._turns = {peer: until for peer, until in self._turns.items() if now < until}
        if not self._waiting:
            return Wait(None)
        if len(self._turns) >= params.MAX_BOOTSTRAP_DIALS:
            return Wait(min(self._turns.values()))
        entry = self._waiting.popleft()
        deadline = Monotonic(now + params.BOOTSTRAP_DIAL_TIMEOUT_S)
        dial = self._out[entry.peer_id] = Dial(entry.peer_id, entry.addrs, deadline, self)
        self._turns[entry.peer_id] = Monotonic(now + params.BOOTSTRAP_STAGGER_S)
        return dial

    def dialled(self, dial: Dial, now: Monotonic) -> None:
        """``dial`` led to its peer: probe it."""
        if self._out.get(dial.peer) is dial:
            deadline = Monotonic(now + params.PROBE_TIMEOUT_S)
            probe = self._out[dial.peer] = JoinProbe(dial.peer, deadline, self)
            self._probes.append(probe)

    def ended(self, step: Dial | JoinProbe, *, answered: bool) -> None:
        """``step`` was the last one for its peer. A no-op if it is not out."""
        if self._out.get(step.peer) is step:
            del self._out[step.peer]
            self._turns.pop(step.peer, None)
            self.answered += answered

    def abandon(self) -> None:
        """Dial nobody else, and wait for nobody."""
        for each in (self._waiting, self._probes, self._out, self._turns):
            each.clear()


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
        self._asks: dict[OwnIdQuery, Ask] = {}
        """The queries that are out, as the accounts of requests know them."""
        self._rng = rng
        self._bootstrap = [each for each in bootstrap if each.peer_id != network.local]
        self._remembered: list[PeerEntry] = []
        self._rounds: list[Round] = []
        """Those under way."""
        self._own_round: Round | None = None
        """The one that the machine itself began last."""
        self._phase = _Phase.RESTING
        self._until = Monotonic(0.0)
        """When the phase ends by itself: the next check, the end of a wait, of a back-off."""
        self._failures = 0
        """Rounds in a row that reached nobody."""
        self._reached_nobody = False

    # --- state ------------------------------------------------------------------------------------

    @property
    def joining(self) -> Joining:
        """Where joining stands."""
        if len(self._network.table):
            return Joining.JOINED
        if self._rounds:
            return Joining.JOINING
        if not self._bootstrap:
            return Joining.ALONE
        return Joining.UNREACHABLE if self._reached_nobody else Joining.JOINING

    @property
    def bootstrap_peers(self) -> int:
        """How many peers were given to join through."""
        return len(self._bootstrap)

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

    def join(self, peers: Sequence[PeerEntry]) -> Round:
        """Begin a round through ``peers``, beside those that the machine begins itself."""
        begun = Round([each for each in peers if each.peer_id != self._network.local])
        self._rounds.append(begun)
        self._end_if_over(begun)
        return begun

    def abandon(self, begun: Round) -> None:
        """The user wants no more of a round. The driver ends its dials. A no-op if it is over."""
        begun.abandon()
        self._end_if_over(begun)

    def remember(self, peers: Sequence[PeerEntry], now: Monotonic) -> None:
        """Take peers of an earlier run as candidates, now and again whenever the node is cut off.
        Each is probed before it enters the table. Only the first ``MAX_REMEMBERED_PEERS`` count."""
        self._remembered = list(peers[: params.MAX_REMEMBERED_PEERS])
        self._offer_remembered(now)

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
                self._begin(step, now)
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

    def dialled(self, dial: Dial, now: Monotonic) -> None:
        """``dial`` led to its peer."""
        dial.round.dialled(dial, now)

    def dial_failed(self, dial: Dial) -> None:
        """``dial`` did not lead to its peer."""
        self._ended(dial, answered=False)

    def answered(self, query: OwnIdQuery, reply: Reply, now: Monotonic) -> None:
        """``query`` was answered with ``reply``."""
        network, peer = self._network, query.peer
        ask = self._asks.pop(query, None)
        if ask is not None:
            self._requests.answered(ask, now)
        match query:
            case CheckAlive():
                network.answered(peer, now)
                network.refresh.probe_ended(peer)
            case Probe() | JoinProbe():
                network.learn(reply.closer_peers, peer, now)
                network.admission.on_probe_answered(peer, len(reply.closer_peers), now)
        if isinstance(query, JoinProbe):
            self._ended(query, answered=True)

    def failed(self, query: OwnIdQuery, why: FailureReason, now: Monotonic) -> None:
        """``query`` got no answer, or none that is one."""
        network, peer = self._network, query.peer
        if self._asks.pop(query, None) is not None:
            self._requests.failed(peer, why, now)
        match query:
            case CheckAlive():
                network.failed(peer, why, now)
                network.refresh.probe_ended(peer)
            case Probe() | JoinProbe():
                network.admission.on_probe_failed(peer, why, now)
        if isinstance(query, JoinProbe):
            self._ended(query, answered=False)

    def lookup_ended(self, lookup: RefreshLookup, now: Monotonic) -> None:
        """``lookup`` is over, whatever it found; it reports to the network itself."""
        self._network.refresh.lookup_ended(now, lookup)

    def dropped(self, step: Dial | OwnIdQuery, now: Monotonic) -> None:
        """The driver gave ``step`` up, by its own fault or because the user wants no more of it:
        this says nothing about the peer. A no-op if its end was reported."""
        match step:
            case Dial():
                self.dial_failed(step)
            case Probe() | JoinProbe() | CheckAlive():
                self.failed(step, FailureReason.CAPACITY, now)

    def _begin(self, query: OwnIdQuery, now: Monotonic) -> None:
        request, timeout_s = FindNode(query.peer.to_bytes()), query.deadline - now
        self._asks[query] = self._requests.begin(query.peer, request, now, timeout_s=timeout_s)

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
                        self._failures += 1
                        delay_s = JOIN_BACKOFF.delay_s(self._failures, self._rng)
                        self._enter(_Phase.BACKING_OFF, now, delay_s)
                        return Unreachable(delay_s)
                    self._failures = 0
                    self._enter(_Phase.RESTING, now, params.LOW_PEERS_CHECK_S)
                case _Phase.BACKING_OFF:
                    if now < self._until:
                        return Wait(self._until)
                    self._enter(_Phase.RESTING, now, 0.0)

    def _wants_round(self, now: Monotonic) -> bool:
        """Whether a round has to begin; else the time of the next check is planned."""
        has_somebody = bool(self._bootstrap or self._remembered)
        if has_somebody and self._cut_off:
            return True
        if now < self._until:
            return False
        self._until = Monotonic(now + params.LOW_PEERS_CHECK_S)
        return has_somebody and len(self._network.table) < params.LOW_PEERS

    def _begin_round(self, now: Monotonic) -> None:
        if self._cut_off:
            self._offer_remembered(now)
        peers = list(self._bootstrap)
        self._rng.shuffle(peers)
        if len(self._network.table):
            peers = peers[: params.MAX_BOOTSTRAP_DIALS]
        self._phase = _Phase.DIALLING
        self._own_round = Round(peers)
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
            step = each.next(now)
            if isinstance(step, Dial):
                self._hear(step.peer, step.addrs, now)
            if not isinstance(step, Wait):
                return step
            if step.until is not None:
                waits.append(step.until)
        return Wait(min(waits, default=None))

    def _ended(self, step: Dial | JoinProbe, *, answered: bool) -> None:
        step.round.ended(step, answered=answered)
        self._end_if_over(step.round)

    def _end_if_over(self, begun: Round) -> None:
        """Close a round of which nothing is out any more. A no-op if it was closed already."""
        if not begun.over or begun not in self._rounds:
            return
        self._rounds.remove(begun)
        if begun is self._own_round:
            self._own_round = None
            self._reached_nobody = not begun.answered
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

    def _admit(self, now: Monotonic) -> Probe | Wait:
        return self._network.admission.next(now)

    def _refresh(self, now: Monotonic) -> CheckAlive | RefreshLookup | Wait:
        network = self._network
        if not len(network.table):
            return Wait(None)
        runs = network.refresh.runs
        step = network.refresh.next(now)
        if network.refresh.runs != runs:
            network.admission.on_refreshed(now)
        if isinstance(step, LivenessProbe):
            return CheckAlive(step.peer, Monotonic(now + params.PROBE_TIMEOUT_S))
        return step
