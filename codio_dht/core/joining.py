"""Joining: how a node gets into a network, and back into it.

Decides through whom the node joins, and when it joins again. As the machine goes through it::

    resting --------few peers at a check, or cut off----> dialling
    dialling -------every dial and probe has ended------> settling
    settling -------has peers, and is not cut off-------> resting
    settling -------still cut off-----------------------> backing off
    backing off ----the delay is over, or our network changed----> resting

*Settling* lasts while the table is empty and somebody is being probed who may enter it, for
``PROBE_TIMEOUT_S`` at most.

*Cut off* means that the table is empty, or that our own network seems to be down
(:mod:`codio_dht.core.outage`). A check every ``LOW_PEERS_CHECK_S`` also begins a round when the
table holds fewer than ``LOW_PEERS``. Nothing begins while there is nobody to join through.

While the table has peers a round (:mod:`codio_dht.core.join_round`) takes ``MAX_BOOTSTRAP_DIALS``
of the given ones, by chance. While the node is cut off it takes all, and the peers of an earlier
run become candidates again. When a round is over the node looks around, unless the refresh that its
first answer set off covers the others too.

Peers may also be given by name: then it is asked whom the names list, at first, whenever a round
has reached nobody, and again after a back-off if the names could not be read.

Must never: dial anybody by itself, or let failures of this node's own network lengthen a delay.

Bounds: ``MAX_REMEMBERED_PEERS`` of an earlier run; rounds are as many as the user asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from codio_dht import params
from codio_dht.core.admission import MAX_ADMISSION_QUEUE
from codio_dht.core.backoff import Backoff
from codio_dht.core.clock import Monotonic
from codio_dht.core.join_round import MAX_BOOTSTRAP_DIALS, Dial, JoinProbe, JoinRound
from codio_dht.core.messages import FailureReason, PeerEntry
from codio_dht.core.network import Network
from codio_dht.core.peer import PeerId
from codio_dht.core.refresh import LOW_PEERS
from codio_dht.core.requests import Requests
from codio_dht.core.rng import Rng
from codio_dht.core.steps import Wait
from codio_dht.formats.multiaddr import is_dnsaddr

LOW_PEERS_CHECK_S: Final = 120.0
"""How often it is looked whether the table has fewer than ``LOW_PEERS``, in seconds (GO)."""

MAX_REMEMBERED_PEERS: Final = MAX_ADMISSION_QUEUE
"""Peers taken from the snapshot of an earlier run, nearest first; the rest is ignored."""

JOIN_BACKOFF: Final = Backoff(initial_s=5.0, ceiling_s=300.0, jitter=0.25)
"""How long a node that never had a peer waits after a round of joining that reached nobody."""

RETURN_BACKOFF: Final = Backoff(initial_s=5.0, ceiling_s=10.0, jitter=0.25)
"""The same of a node that had peers and lost them all. It is most likely its own way to the network
that is broken, without a sign of that on this machine; when it is mended, seconds count."""

MAX_RETURN_ROUNDS: Final = 360
"""So many rounds in a row follow at that pace, for about an hour; then ``JOIN_BACKOFF`` holds."""


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
class AskNames:
    """Find out whom the names that were given to join through list; report ``named`` or
    ``names_failed``."""


@dataclass(frozen=True, slots=True)
class Unreachable:
    """The last ``rounds`` rounds in a row reached nobody; the next one follows in ``retry_in_s``
    seconds. Nothing is to be done: it is a fact to log.

    Where the delay does not grow, it is said after 1, 2, 4, 8, ... rounds.
    """

    retry_in_s: float
    rounds: int


JoiningStep = Dial | JoinProbe | AskNames | Unreachable | Wait


class _Phase(Enum):
    """A state of the module's diagram."""

    RESTING = "resting"
    DIALLING = "dialling"
    SETTLING = "settling"
    BACKING_OFF = "backing off"


class Joiner:
    """How one network is joined; see the module.

    ``bootstrap`` are the peers to join through, beside those that are given by name if the network
    ``has_names``. ``rng`` chooses among them and spreads the delays.
    """

    def __init__(
        self,
        network: Network,
        requests: Requests,
        bootstrap: Sequence[PeerEntry],
        rng: Rng,
        *,
        has_names: bool = False,
    ) -> None:
        self._network = network
        self._requests = requests
        self._rng = rng
        self._bootstrap = self._others(bootstrap)
        self._named: list[PeerEntry] = []
        """Those whom the names listed when they were asked last."""
        self._has_names = has_names
        self._asks_names_first = has_names
        """Whether it is still open whom the names list."""
        self._names_due: Monotonic | None = Monotonic(0.0) if has_names else None
        """When the names are to be asked; None if they need not be, or are being asked."""
        self._is_asking_names = False
        self._name_failures = 0
        """How often in a row they could not be read."""
        self._remembered: list[PeerEntry] = []
        self._rounds: list[JoinRound] = []
        """Those under way."""
        self._own_round: JoinRound | None = None
        """The one that the machine itself began last."""
        self._phase = _Phase.RESTING
        self._until = Monotonic(0.0)
        """When the phase ends by itself: the next check, the end of a wait, of a back-off."""
        self._fruitless = 0
        """Rounds in a row that reached nobody."""
        self._failures = 0
        """Of these, the last ones in a row that failed by another fault than this node's own."""
        self._had_peers = False
        self._reached_nobody = False
        self._failed_remotely = True
        """What the last round of the machine's own reached, and whose fault it was."""

    # --- state ------------------------------------------------------------------------------------

    @property
    def state(self) -> Joining:
        """Where joining stands."""
        if len(self._network.table):
            return Joining.JOINED
        if self._rounds or self._asks_names_first:
            return Joining.JOINING
        if self.given_peers:
            return Joining.UNREACHABLE if self._reached_nobody else Joining.JOINING
        return Joining.UNREACHABLE if self._has_names else Joining.ALONE

    @property
    def given_peers(self) -> int:
        """How many peers there are to join through, those that names list included."""
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
            self.state is Joining.JOINING or door.waiting or door.probing
        )

    # --- what the user asks for -------------------------------------------------------------------

    def join(self, peers: Sequence[PeerEntry]) -> JoinRound:
        """Begin a round through ``peers``, beside those that the machine begins itself."""
        begun = JoinRound(self._others(peers))
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
        self._failures = self._fruitless = self._name_failures = 0
        if self._names_due is not None:
            self._names_due = now
        if self._phase is _Phase.BACKING_OFF:
            self._until = now

    def join_through_named(self, peers: Sequence[PeerEntry]) -> None:
        """Join through ``peers`` beside those that were given, in place of the last such peers: a
        name stands for others than before."""
        self._named = [each for each in peers if each.peer_id != self._network.local]

    # --- steps and reports ------------------------------------------------------------------------

    def next(self, now: Monotonic) -> JoiningStep:
        """What to do now. To be called until it is a ``Wait``."""
        waits: list[Monotonic] = []
        for part in (self._keep_joined, self._dial, self._ask_names):
            step = part(now)
            if not isinstance(step, Wait):
                return step
            if step.until is not None:
                waits.append(step.until)
        return Wait(min(waits, default=None))

    def dialled(self, dial: Dial) -> None:
        """``dial`` led to its peer."""
        dial.round.dialled(dial)

    def ended(self, step: Dial | JoinProbe, why: FailureReason | None) -> None:
        """``step`` was the last one for its peer, which answered or failed (``why``). A no-op if it
        is not out."""
        step.round.ended(step, why)
        self._end_if_over(step.round)

    def named(self, peers: Sequence[PeerEntry]) -> None:
        """The names list ``peers``: join through these, in place of those that they listed
        before."""
        self._asks_names_first = self._is_asking_names = False
        self._name_failures = 0
        self._named = self._others(peers)

    def names_failed(self, why: FailureReason, now: Monotonic) -> float:
        """The names could not be read; after how many seconds they are asked again."""
        self._asks_names_first = self._is_asking_names = False
        self._name_failures = 1 if why is FailureReason.CAPACITY else self._name_failures + 1
        delay_s = JOIN_BACKOFF.delay_s(self._name_failures, self._rng)
        self._names_due = Monotonic(now + delay_s)
        return delay_s

    def names_dropped(self, now: Monotonic) -> None:
        """The driver gave up reading the names. A no-op if it reported how that ended."""
        if self._is_asking_names:
            self.names_failed(FailureReason.CAPACITY, now)

    # --- inside -----------------------------------------------------------------------------------

    @property
    def _cut_off(self) -> bool:
        return not len(self._network.table) or self._network.outage.suspected

    def _keep_joined(self, now: Monotonic) -> Unreachable | Wait:
        """Go through the module's diagram as far as it leads now."""
        self._had_peers = self._had_peers or len(self._network.table) > 0
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
                    if not self._cut_off:
                        self._failures = self._fruitless = 0
                        self._enter(_Phase.RESTING, now, LOW_PEERS_CHECK_S)
                    elif (fact := self._back_off(now)) is not None:
                        return fact
                case _Phase.BACKING_OFF:
                    if now < self._until:
                        return Wait(self._until)
                    self._enter(_Phase.RESTING, now, 0.0)

    def _back_off(self, now: Monotonic) -> Unreachable | None:
        """Wait after a round that reached nobody; the fact if it is to be told.

        The delay does not grow while this node's own network is what fails: then a round says
        nothing of the peers, and costs nothing.
        """
        self._fruitless += 1
        self._failures = self._failures + 1 if self._failed_remotely else 0
        returns = self._had_peers and self._failures <= MAX_RETURN_ROUNDS
        backoff = RETURN_BACKOFF if returns else JOIN_BACKOFF
        delay_s = backoff.delay_s(max(1, self._failures), self._rng)
        self._enter(_Phase.BACKING_OFF, now, delay_s)
        if self._has_names and not self._is_asking_names and self._names_due is None:
            self._names_due = now
        grows = self._failures > 0 and not returns
        is_power_of_two = self._fruitless & (self._fruitless - 1) == 0
        return Unreachable(delay_s, self._fruitless) if grows or is_power_of_two else None

    def _wants_round(self, now: Monotonic) -> bool:
        """Whether a round has to begin; else the time of the next check is planned."""
        has_somebody = bool(self.given_peers or self._remembered)
        if has_somebody and self._cut_off:
            return True
        if now < self._until:
            return False
        self._until = Monotonic(now + LOW_PEERS_CHECK_S)
        return has_somebody and len(self._network.table) < LOW_PEERS

    def _ask_names(self, now: Monotonic) -> AskNames | Wait:
        if self._names_due is None or now < self._names_due:
            return Wait(self._names_due)
        self._names_due = None
        self._is_asking_names = True
        return AskNames()

    def _others(self, peers: Sequence[PeerEntry]) -> list[PeerEntry]:
        """``peers`` without this node itself."""
        return [each for each in peers if each.peer_id != self._network.local]

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
                return each.probed(reached, self._requests.probe(reached.peer, now))
            step = each.next_dial(now)
            if isinstance(step, Dial):
                self._hear(step.peer, step.addrs, now)
                return step
            if step.until is not None:
                waits.append(step.until)
        return Wait(min(waits, default=None))

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
