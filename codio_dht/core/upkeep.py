"""Upkeep: all that keeps a routing table alive.

Composes three machines: :mod:`codio_dht.core.joining` gets the node into the network,
:mod:`codio_dht.core.admission` has candidates probed, :mod:`codio_dht.core.refresh` has keys looked
up and silent entries probed. Does what follows from the answers itself. Its driver performs the
steps that :meth:`Upkeep.next` returns, and reports how each ended::

    next --> Dial            dialled, or dial_failed
         --> OwnIdQuery      answered, or failed
         --> RefreshLookup   lookup_ended
         --> AskNames        named, or names_failed
         --> Unreachable     nothing: a fact to log
         --> Wait            call again then, or when something was reported

Must never: read a clock, or lose a step: one that its driver gave up is reported by
:meth:`Upkeep.dropped`. A report that comes late or twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from codio_dht.core.clock import Monotonic
from codio_dht.core.join_round import Dial, JoinProbe
from codio_dht.core.joining import AskNames, Joiner, Unreachable
from codio_dht.core.messages import FailureReason, PeerEntry, Reply
from codio_dht.core.network import Network
from codio_dht.core.preimages import search_preimage
from codio_dht.core.refresh import CplLookup, LivenessProbe, SelfLookup
from codio_dht.core.requests import Contacts, Requests
from codio_dht.core.rng import Rng
from codio_dht.core.steps import Ask, Wait
from codio_dht.errors import NoPeersError


@dataclass(frozen=True, slots=True)
class CandidateProbe:
    """Ask a candidate for the table for its own id."""

    ask: Ask
    at: tuple[bytes, ...]
    """Where it may be dialled if there is no connection to it: at the addresses of a machine from
    which it was seen. It can name any others, of machines that are not its own."""


@dataclass(frozen=True, slots=True)
class CheckAlive:
    """Ask an entry of the table that may have gone for its own id."""

    ask: Ask


OwnIdQuery = CandidateProbe | JoinProbe | CheckAlive
"""Send the request (GO ``lookupCheck``); report ``answered`` or ``failed`` by its deadline."""

RefreshLookup = SelfLookup | CplLookup
"""Look up the key that :meth:`Upkeep.preimages` finds for it; report ``lookup_ended``."""

UpkeepStep = Dial | OwnIdQuery | RefreshLookup | AskNames | Unreachable | Wait


class Upkeep:
    """The upkeep of one network's routing table; see the module.

    ``bootstrap`` are the peers to join through, beside those that are given by name if the network
    ``has_names``. ``rng`` makes the choices.
    """

    def __init__(
        self,
        network: Network,
        contacts: Contacts,
        bootstrap: Sequence[PeerEntry],
        rng: Rng,
        *,
        has_names: bool = False,
    ) -> None:
        self._network = network
        self._requests = Requests(network, contacts)
        self._rng = rng
        self._out: dict[OwnIdQuery, None] = {}
        """The queries whose end was not reported yet."""
        self.joiner = Joiner(network, self._requests, bootstrap, rng, has_names=has_names)
        """What is asked of joining is asked here."""

    # --- refresh ----------------------------------------------------------------------------------

    @property
    def refreshing(self) -> bool:
        """Whether a refresh is going on or asked for, and the table has somebody to ask."""
        return self._network.refresh.running and len(self._network.table) > 0

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
        for part in (self.joiner.next, self._refresh, self._admit):
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
        self.joiner.dialled(dial)

    def dial_failed(self, dial: Dial, why: FailureReason) -> None:
        """``dial`` did not lead to its peer."""
        self.joiner.ended(dial, why)

    def named(self, peers: Sequence[PeerEntry]) -> None:
        """The names that were given to join through list ``peers``."""
        self.joiner.named(peers)

    def names_failed(self, why: FailureReason, now: Monotonic) -> float:
        """The names could not be read; after how many seconds they are asked again."""
        return self.joiner.names_failed(why, now)

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
                self.joiner.ended(query, None)

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
                self.joiner.ended(query, why)

    def lookup_ended(self, lookup: RefreshLookup, now: Monotonic) -> None:
        """``lookup`` is over, whatever it found; it reports to the network itself."""
        self._network.refresh.lookup_ended(now, lookup)

    def dropped(self, step: Dial | OwnIdQuery | AskNames, now: Monotonic) -> None:
        """The driver gave ``step`` up, by its own fault or because the user wants no more of it:
        this says nothing about the peer. A no-op if its end was reported."""
        match step:
            case Dial():
                self.joiner.ended(step, FailureReason.CAPACITY)
            case CandidateProbe() | JoinProbe() | CheckAlive():
                self.failed(step, FailureReason.CAPACITY, now)
            case AskNames():
                self.joiner.names_dropped(now)

    # --- inside -----------------------------------------------------------------------------------

    def _admit(self, now: Monotonic) -> CandidateProbe | Wait:
        step = self._network.admission.next(now)
        if isinstance(step, Wait):
            return step
        at = self._network.book.seen_addrs(step.peer, now)
        return CandidateProbe(self._requests.probe(step.peer, now), at)

    def _refresh(self, now: Monotonic) -> CheckAlive | RefreshLookup | Wait:
        network = self._network
        if not len(network.table):
            return Wait(None)
        runs = network.refresh.runs
        step = network.refresh.next(now)
        if network.refresh.runs != runs:
            network.admission.on_refreshed(now)
        if not isinstance(step, LivenessProbe):
            return step
        return CheckAlive(self._requests.probe(step.peer, now))
